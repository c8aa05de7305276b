//! Ids of sessions that come twice. With 128 random bits that does not happen; if it does, randomness
//! is broken, and whoever runs the server has to know. An id names one stream, so two never share one:
//! another is drawn, or the newcomer is refused, as `sessions.duplicate_ids` says.

use std::sync::Arc;

use crate::{Server, Session, command::row, config::DuplicateIds};

/// Ids that are drawn for one connection before it is refused.
const DRAWS: u32 = 8;

impl Server {
    /// The id of a session that was to be is another one's. Whether another id is to be drawn, now that
    /// so many were in vain before this one. Raises the alarm, once for a connection.
    pub(crate) fn draws_again(self: &Arc<Self>, session: &Session, before: u32) -> bool {
        let retry = self.config.sessions.duplicate_ids == DuplicateIds::Retry;
        if before == 0 {
            tracing::error!(
                event = "duplicate-session-id",
                session = %session.id,
                address = %session.address(),
                retry,
            );
            let outcome = match retry {
                true => "another one is drawn; randomness may be broken",
                false => "the connection was refused; randomness may be broken",
            };
            let args = row! { "session": session.id.to_string() };
            self.alarm("duplicate session id", args, outcome);
        }
        retry && before + 1 < DRAWS
    }
}
