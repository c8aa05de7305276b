//! Deadlines: one look at all sessions now and then instead of a timer in each.

use std::{sync::Arc, time::Duration};

use crate::{
    Server, Session,
    clock::Millis,
    config::Span,
    end::{End, Reason},
    session::Flags,
};

/// How late a deadline may be noticed.
const PERIOD: Duration = Duration::from_secs(1);

impl Server {
    /// Ends overdue sessions until the server stops.
    pub async fn sweep_forever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stopping() {
            ticks.tick().await;
            let server = self.clone();
            // A task of its own: should a plugin panic over one session, the next round comes.
            if let Err(panic) = tokio::spawn(async move { server.sweep() }).await {
                tracing::error!(event = "sweep-failed", %panic);
            }
        }
    }

    /// Ends all sessions that are overdue by the server's clock, and notes the use of tokens by the
    /// others. Gives the number of those that it ended.
    pub fn sweep(self: &Arc<Self>) -> usize {
        let now = self.clock.now();
        let mut ended = 0;
        for session in self.registry.all() {
            if let Some(reason) = self.overdue(&session, now) {
                ended += usize::from(self.end(&session, End::new(reason)));
            } else if let Some(token) = session.identity().and_then(|me| me.use_to_note(now)) {
                let server = self.clone();
                self.spawn(async move { server.note_token(token).await });
            }
        }
        ended
    }

    /// Why a session has to end by now; at the very instant of a deadline it is over.
    fn overdue(&self, session: &Session, now: Millis) -> Option<Reason> {
        let flags = session.flags();
        if flags.has(Flags::ENDING) {
            return None;
        }
        let passed = |since: Millis, span: Span| over(since, span.get(), now);
        let limits = &self.config.limits;
        let Some(identity) = session.identity() else {
            return passed(session.created, limits.unauthed.time).then_some(Reason::AuthTimeout);
        };
        if identity.expires().is_some_and(|expires| expires <= now) {
            return Some(Reason::TokenExpired);
        }
        if !flags.has(Flags::BOUND) {
            return passed(identity.since, limits.unbound.time).then_some(Reason::BindTimeout);
        }
        let policy = identity.policy();
        if over(identity.since, policy.lifetime, now) || passed(identity.since, limits.bound.time) {
            Some(Reason::Lifetime)
        } else if over(session.last_activity(), policy.inactivity, now) {
            Some(Reason::Idle)
        } else {
            None
        }
    }
}

/// Whether so many seconds have passed.
fn over(since: Millis, seconds: Option<u64>, now: Millis) -> bool {
    seconds.is_some_and(|seconds| since.plus_seconds(seconds) <= now)
}
