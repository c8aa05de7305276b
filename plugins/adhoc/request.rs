//! What a client says of a command, and how it is refused: the element `<command/>` and the conditions
//! of XEP-0050 section 4.4.

use server::{
    command::{CommandError, ErrorKind},
    iq::Answer,
    plugin::Iq,
};
use wire::{Condition, ErrorType, StanzaError, Xml};

/// XEP-0050; also the node under which commands are listed.
pub const COMMANDS: &str = "http://jabber.org/protocol/commands";

/// The longest language tag that is looked at (RFC 5646 section 4.4.1).
const TAG: usize = 35;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To end it.
    Cancel,
    /// To do it.
    Complete,
    /// Whatever the stage says; to begin.
    Execute,
    /// To go on to the next stage.
    Next,
    /// To go back.
    Prev,
}

/// A command as a client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which command.
    pub node: String,
    /// The one that is under way; none: a new one.
    pub id: Option<String>,
    /// What is to be done with it.
    pub action: Action,
}

/// The conditions of XEP-0050 itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The action is known, and cannot be done now.
    BadAction,
    /// The language is none.
    BadLocale,
    /// The form does not do.
    BadPayload,
    /// The session has no such command under way.
    BadSessionid,
    /// The action is not known.
    MalformedAction,
    /// It is over.
    SessionExpired,
}

impl Refusal {
    /// With words for people.
    pub fn because(self, text: impl Into<String>) -> StanzaError {
        let (name, condition) = match self {
            Self::BadAction => ("bad-action", Condition::BadRequest),
            Self::BadLocale => ("bad-locale", Condition::BadRequest),
            Self::BadPayload => ("bad-payload", Condition::BadRequest),
            Self::BadSessionid => ("bad-sessionid", Condition::BadRequest),
            Self::MalformedAction => ("malformed-action", Condition::BadRequest),
            Self::SessionExpired => ("session-expired", Condition::NotAllowed),
        };
        let mut app = Xml::new();
        app.open(name).ns(COMMANDS);
        StanzaError::new(condition).with_text(text.into()).with_app(app.finish())
    }
}

/// What a client is told of a command that was not let, or was called wrongly.
pub fn refused(error: &CommandError) -> StanzaError {
    let (condition, kind) = match error.kind() {
        ErrorKind::Usage => return Refusal::BadPayload.because(words(error)),
        ErrorKind::Throttled => (Condition::PolicyViolation, ErrorType::Wait),
        _ => (Condition::Forbidden, ErrorType::Cancel),
    };
    StanzaError::new(condition).with_text(words(error)).with_type(kind)
}

/// What went wrong and what to do about it, in a line.
pub fn words(error: &CommandError) -> String {
    match error.hint.is_empty() {
        true => error.message.clone(),
        false => format!("{}; hint: {}", error.message, error.hint),
    }
}

impl Request {
    /// Reads it.
    ///
    /// # Errors
    /// The answer to one that makes no sense.
    pub fn read(iq: &Iq) -> Result<Self, Answer> {
        let payload = iq.frame.payload().filter(|_| iq.set);
        let Some(el) = payload.map(|payload| payload.el) else {
            return Err(Answer::refuse(Condition::BadRequest));
        };
        let Some(node) = el.attr("node") else {
            let error = StanzaError::new(Condition::BadRequest);
            return Err(Answer::Error(error.with_text("`node` is missing")));
        };
        let is_tag = |tag: &str| {
            let sound =
                |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
            tag.len() <= TAG && tag.split('-').all(sound)
        };
        if el.attr("xml:lang").is_some_and(|tag| !tag.is_empty() && !is_tag(&tag)) {
            let error = Refusal::BadLocale.because("`xml:lang` is not a language tag");
            return Err(Answer::Error(error));
        }
        let action = match el.attr("action").as_deref() {
            None | Some("execute") => Action::Execute,
            Some("cancel") => Action::Cancel,
            Some("complete") => Action::Complete,
            Some("next") => Action::Next,
            Some("prev") => Action::Prev,
            Some(_) => {
                let known = "there are `cancel`, `complete`, `execute`, `next` and `prev`";
                return Err(Answer::Error(Refusal::MalformedAction.because(known)));
            }
        };
        let id = el.attr("sessionid").filter(|id| !id.is_empty());
        Ok(Self { node: node.into_owned(), id: id.map(std::borrow::Cow::into_owned), action })
    }
}
