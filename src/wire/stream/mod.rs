//! The server's side of a client stream (RFC 6120 sections 4 to 7) as a state machine without I/O.
//!
//! ```text
//!            Header            starttls           auth … success          bind
//!  Start ──────────► Features ─────────► Start ─────────► … ─────► Start ──────► Bound
//!    ▲                   │                 (encrypted)                (authed)
//!    └── restart ────────┘
//! ```
//!
//! Inputs go in ([`Input`]), effects come out ([`Effect`]) for the connection to carry out in order.
//! Questions that only the server can answer (keys of an account, a verdict on a password, admission,
//! a resource) are effects too; their answers come back as inputs, and until then the connection
//! reads nothing. Time is the server's business: it ends sessions that take too long. Randomness
//! arrives as an argument.

mod features;
mod negotiation;

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{
    ChannelBinding, Frame, Hash, Jid, Kind, Mechanism, SaslFailure, ScanError, ScramKeys, Secret,
    StanzaError, StreamCondition, StreamError, StreamHeader, escape, ns,
};
use negotiation::Negotiation;

/// Longest `xml:lang` of a stream that is kept for its stanzas, in bytes; RFC 5646 section 4.4.1 has
/// 35 for the longest that makes sense.
const LANG: usize = 64;

/// What all streams of a listener share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The served domains; the first is for clients that name none. Never empty.
    pub hosts: Vec<Jid>,
    /// Whether STARTTLS can be had.
    pub starttls: bool,
    /// Whether nobody may log in without TLS.
    pub tls_required: bool,
    /// Failed logins on one stream before it ends.
    pub attempts: u32,
    /// Whole elements announced to clients that have logged in, besides `bind`.
    pub features: Vec<Arc<str>>,
}

/// What happens to a stream.
pub enum Input {
    /// The peer opened the stream.
    Header(StreamHeader),
    /// The peer sent a first-level element.
    Frame(Frame),
    /// The peer closed the stream.
    Close,
    /// The peer sent what no stream may contain.
    Fault(ScanError),
    /// The connection is encrypted now.
    Encrypted(TlsUp),
    /// Answers [`Effect::FindKeys`].
    Keys(Result<ScramKeys, Denied>),
    /// Answers [`Effect::CheckPassword`] and [`Effect::CheckToken`]: whose it is.
    Checked(Result<Jid, Denied>),
    /// Answers [`Effect::Enter`].
    Entered(Result<(), Denied>),
    /// Answers [`Effect::Bind`].
    Bound(Result<Jid, StanzaError>),
}

/// What is known of a fresh TLS connection.
#[derive(Clone, Default)]
pub struct TlsUp {
    /// What authentication can be bound to.
    pub binding: ChannelBinding,
    /// The negotiated version, `0x0304` for 1.3.
    pub version: Option<u16>,
}

/// What the connection has to do, in order.
pub enum Effect {
    /// Write these bytes.
    Send(Bytes),
    /// Flush, forget every byte that came in the clear, and do the TLS handshake.
    StartTls,
    /// Expect a new stream header; forget what the scanner has.
    Restart,
    /// Look up SCRAM keys; a decoy for an account that is not there.
    FindKeys {
        /// The account.
        user: Jid,
        /// Which keys.
        hash: Hash,
    },
    /// Check a password.
    CheckPassword {
        /// The account.
        user: Jid,
        /// As the peer sent it.
        password: Secret,
    },
    /// Check a token.
    CheckToken {
        /// Whose the peer says that it is.
        user: Option<Jid>,
        /// As the peer sent it.
        token: Secret,
    },
    /// The peer has proved who it is; may it come in?
    Enter {
        /// The account.
        user: Jid,
        /// How.
        mechanism: Mechanism,
        /// Type of channel binding in use.
        binding: Option<&'static str>,
    },
    /// Give the session a resource, this one or one of the server's making.
    Bind {
        /// As asked for, not prepared.
        resource: Option<String>,
    },
    /// A stanza of a bound session.
    Stanza(Frame),
    /// A login was refused and the peer is told. Nothing to do; something to note.
    Refused {
        /// The account that it was about, as far as the exchange got.
        user: Option<Jid>,
        /// Why, as the peer is told.
        failure: SaslFailure,
    },
    /// End the session with this error.
    Fail(StreamError),
    /// The peer has closed its stream: end the session, close ours.
    Closed,
}

/// Effects of one step.
pub type Effects = SmallVec<[Effect; 2]>;

/// A refused login, as the peer is told.
#[derive(Clone, Debug)]
pub struct Denied {
    /// The SASL condition.
    pub failure: SaslFailure,
    /// In words; none where words would tell more than the condition.
    pub text: Option<String>,
    /// The language of these words (RFC 5646).
    pub lang: &'static str,
    /// An application-specific condition, one whole element.
    pub app: Option<Bytes>,
}

impl From<SaslFailure> for Denied {
    fn from(failure: SaslFailure) -> Self {
        Self { failure, text: None, lang: "en", app: None }
    }
}

/// One client stream, over all its restarts.
pub struct Stream {
    settings: Arc<Settings>,
    state: State,
    /// The stream has been opened from our side since the last restart.
    open: bool,
    /// `xml:lang` of the peer's header.
    lang: Option<Arc<str>>,
}

/// Where the stream is. Everything that is only needed until bind is in the box, and goes with it.
enum State {
    Negotiating(Box<Negotiation>),
    Bound,
    Over,
}

impl Stream {
    /// A stream that waits for the peer's header. `encrypted`: over direct TLS.
    #[must_use]
    pub fn new(settings: Arc<Settings>, encrypted: Option<TlsUp>) -> Self {
        let state = State::Negotiating(Box::new(Negotiation::new(encrypted)));
        Self { settings, state, open: false, lang: None }
    }

    /// Takes one input. `random` gives a fresh unpredictable text of at least 128 bits, made of
    /// letters and digits, at each call.
    pub fn step(&mut self, input: Input, random: &mut dyn FnMut() -> String) -> Effects {
        let mut out = Effects::new();
        match (&mut self.state, input) {
            (State::Over, _) => {}
            // The way that nearly everything takes.
            (State::Bound, Input::Frame(frame)) => bound(frame, &mut out),
            (_, Input::Close) => out.push(Effect::Closed),
            (_, Input::Fault(error)) => {
                let text = error.to_string();
                out.push(Effect::Fail(StreamError::new(error.condition()).with_text(text)));
            }
            (State::Bound, _) => {
                let error = StreamError::new(StreamCondition::PolicyViolation);
                out.push(Effect::Fail(error.with_text("The stream is open already")));
            }
            (State::Negotiating(negotiation), Input::Header(header)) => {
                let lang = header.lang.as_deref().filter(|lang| lang.len() <= LANG);
                self.lang = lang.map(Arc::from);
                let checked = negotiation.header(&self.settings, &header);
                let error = checked.err();
                let to = header.from.as_deref().and_then(|from| Jid::parse(from).ok());
                let host = negotiation.host(&self.settings).clone();
                out.push(Effect::Send(opening(&host, to.as_ref(), &random())));
                self.open = true;
                match error {
                    Some(error) => out.push(Effect::Fail(error)),
                    None => out.push(Effect::Send(negotiation.features(&self.settings))),
                }
            }
            (State::Negotiating(negotiation), input) => {
                if let Some(ready) = negotiation.step(&self.settings, input, random, &mut out) {
                    match ready {
                        negotiation::Ready::Bound => self.state = State::Bound,
                        negotiation::Ready::Restart => self.open = false,
                    }
                }
            }
        }
        out
    }

    /// The last bytes of the stream: our header if the peer has not seen one, the error if there is
    /// one, and the closing tag. Nothing that the peer sends counts after this.
    pub fn farewell(
        &mut self,
        error: Option<&StreamError>,
        random: &mut dyn FnMut() -> String,
    ) -> Bytes {
        let mut last = Vec::new();
        if !self.open {
            let host = match &self.state {
                State::Negotiating(negotiation) => negotiation.host(&self.settings),
                State::Bound | State::Over => &self.settings.hosts[0],
            };
            last.extend_from_slice(&opening(host, None, &random()));
        }
        if let Some(error) = error {
            last.extend_from_slice(&error.to_xml());
        }
        last.extend_from_slice(b"</stream:stream>");
        self.state = State::Over;
        last.into()
    }

    /// `xml:lang` of the peer's stream.
    #[must_use]
    pub fn lang(&self) -> Option<&Arc<str>> {
        self.lang.as_ref()
    }
}

/// Our stream header; the declaration is part of it at every (re)start.
fn opening(host: &Jid, to: Option<&Jid>, id: &str) -> Bytes {
    let mut text = format!(
        "<?xml version='1.0'?><stream:stream xmlns='{}' xmlns:stream='{}' id='{id}' from='{}'",
        ns::CLIENT,
        ns::STREAMS,
        escape(host.as_str()),
    );
    if let Some(to) = to {
        text.push_str(&format!(" to='{}'", escape(to.bare_str())));
    }
    text.push_str(" version='1.0' xml:lang='en'>");
    text.into()
}

/// A first-level element of a bound session: a stanza, or out of place.
fn bound(frame: Frame, out: &mut Effects) {
    match frame.kind() {
        Kind::Iq | Kind::Message | Kind::Presence => out.push(Effect::Stanza(frame)),
        Kind::Other => {
            let text = format!("<{}/> is no stanza", frame.local());
            let error = StreamError::new(StreamCondition::UnsupportedStanzaType);
            out.push(Effect::Fail(error.with_text(text)));
        }
    }
}

#[cfg(test)]
mod tests;
