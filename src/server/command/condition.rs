//! The stream errors that an administrator may choose for the end of a session.

use wire::StreamCondition;

/// Those that say something about the server or the account. The others say what the peer has done
/// wrong, or need words that only the server has.
const CHOICE: &[StreamCondition] = &[
    StreamCondition::Conflict,
    StreamCondition::ConnectionTimeout,
    StreamCondition::HostGone,
    StreamCondition::InternalServerError,
    StreamCondition::NotAuthorized,
    StreamCondition::PolicyViolation,
    StreamCondition::Reset,
    StreamCondition::ResourceConstraint,
    StreamCondition::SystemShutdown,
    StreamCondition::UndefinedCondition,
];
/// Their names, in the same order.
pub(super) const NAMES: &[&str] = &{
    let (mut names, mut index) = ([""; CHOICE.len()], 0);
    while index < CHOICE.len() {
        names[index] = CHOICE[index].as_str();
        index += 1;
    }
    names
};

/// The one of this name, if it may be chosen.
pub(super) fn parse(name: &str) -> Option<StreamCondition> {
    CHOICE.iter().copied().find(|condition| condition.as_str() == name)
}
