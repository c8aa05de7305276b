//! Commands of the table for who asks by IQ: as the account of the session, with no more rights than
//! that has. What the table refuses becomes a stanza error, and a session that a command ends itself
//! has the answer before it goes.
//!
//! Which stanza means which command is for the plugins to say.

use serde_json::{Map, Value};
use server::{
    command::{self, Collected, CommandError, ErrorKind},
    iq::Answer,
    plugin::Iq,
};
use wire::{Condition, ErrorType, StanzaError};

/// Runs a command for whoever has sent the IQ.
///
/// # Errors
/// When that is nobody any more. What the command says is in what was collected.
pub async fn run(
    iq: &Iq,
    name: &'static str,
    args: Map<String, Value>,
) -> Result<Collected, StanzaError> {
    let caller = iq.server.caller_of(&iq.session).await.map_err(|error| refusal(&error))?;
    Ok(command::collect(iq.server.clone(), caller, name, args, usize::MAX).await)
}

/// Answers now, and lets what has waited for that go on: it may be the end of the session.
pub async fn answered(iq: &Iq, answer: Answer, done: Collected) -> Answer {
    iq.reply(answer);
    done.heard().await;
    Answer::Sent
}

/// What the table refuses, as a stanza error: what was wrong, and what to do about it.
#[must_use]
pub fn refusal(error: &CommandError) -> StanzaError {
    let refused = StanzaError::new(match error.kind() {
        ErrorKind::Failed => Condition::NotAcceptable,
        ErrorKind::Forbidden => Condition::Forbidden,
        ErrorKind::Internal => Condition::InternalServerError,
        // There is no way to do so within a stream that has logged in.
        ErrorKind::Login => Condition::NotAuthorized,
        ErrorKind::Throttled => Condition::PolicyViolation,
        ErrorKind::Usage => Condition::BadRequest,
    });
    let refused = match error.kind() {
        ErrorKind::Throttled => refused.with_type(ErrorType::Wait),
        _ => refused,
    };
    let CommandError { message, hint, .. } = error;
    refused.with_text(match hint.as_str() {
        "" => message.clone(),
        hint => format!("{message}; {hint}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_condition_and_says_what_helps() {
        let failed = || CommandError::failed("no");
        for (error, condition, kind) in [
            (CommandError::forbidden("no"), Condition::Forbidden, ErrorType::Auth),
            (CommandError::login("no"), Condition::NotAuthorized, ErrorType::Auth),
            (
                CommandError { retry: Some(1), ..failed() },
                Condition::PolicyViolation,
                ErrorType::Wait,
            ),
            (CommandError::usage("no"), Condition::BadRequest, ErrorType::Modify),
            (
                CommandError { internal: true, ..failed() },
                Condition::InternalServerError,
                ErrorType::Cancel,
            ),
            (failed(), Condition::NotAcceptable, ErrorType::Modify),
        ] {
            let refused = refusal(&error.clone().hint("wait"));
            assert_eq!((refused.condition, refused.kind), (condition, kind), "{error:?}");
            assert_eq!(refused.text.as_deref(), Some("no; wait"));
            assert_eq!(refusal(&error).text.as_deref(), Some("no"));
        }
    }
}
