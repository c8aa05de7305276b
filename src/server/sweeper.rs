//! Deadlines: which ones a session has, and what happens when one has come. When to look at whom is
//! in [`deadlines`](crate::deadlines); no session has a timer of its own, and none is looked at
//! before one of its deadlines may have come.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    Server, Session,
    clock::Millis,
    end::Reason,
    id::SessionId,
    policy::Effective,
    session::{Flags, Identity},
};

/// How late a deadline may be noticed.
const PERIOD: Duration = Duration::from_secs(1);

/// Sessions that are looked at before others get their turn: ending one takes ten microseconds.
const BATCH: usize = 64;

/// How long others have after each of these steps, if more sessions are due: a step takes about as
/// long. With a million that expire at the same instant the last one is half a minute late.
const PAUSE: Duration = Duration::from_millis(1);

/// Seconds after which it is noted again, at the latest, that a client is there which dies unless it
/// is seen; unless `clients.last_use` is longer.
const SEEN: u64 = 3_600;

impl Server {
    /// Ends overdue sessions until the server stops.
    pub async fn sweep_forever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stopping() {
            ticks.tick().await;
            self.sweep_journal().await;
            let server = self.clone();
            // A task of its own: should a plugin panic over one session, the next round comes, and
            // those that were not looked at have kept their place.
            if let Err(panic) = tokio::spawn(async move { server.sweep_gently().await }).await {
                tracing::error!(event = "sweep-failed", %panic);
            }
        }
    }

    /// The same as [`sweep`](Self::sweep), in small steps with room for others in between: ten
    /// thousand sessions that are overdue at once stop nobody.
    pub async fn sweep_gently(self: &Arc<Self>) -> usize {
        let now = self.clock.now();
        let mut due = self.deadlines.due(now);
        let mut ended = 0;
        for step in 1.. {
            let Some((bucket, id)) = due.next() else { break };
            ended += usize::from(self.look(bucket, id, now));
            if step % BATCH == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
        ended
    }

    /// Ends all sessions that are overdue by the server's clock, and notes of the others which clients
    /// are there and which tokens are in use. Gives the number of those that it ended. Takes no longer than there are sessions with
    /// a deadline in the time since the last call.
    pub fn sweep(self: &Arc<Self>) -> usize {
        let now = self.clock.now();
        self.deadlines.due(now).filter(|(bucket, id)| self.look(*bucket, *id, now)).count()
    }

    /// Ends the sessions of one account that are overdue, without waiting for the next sweep. Gives
    /// their number.
    pub fn sweep_account(self: &Arc<Self>, bare: &str) -> usize {
        let now = self.clock.now();
        let over = |session: &Arc<Session>| {
            self.overdue(session, now).is_some_and(|reason| self.expire(session, reason))
        };
        self.registry.of(bare).iter().filter(|session| over(session)).count()
    }

    /// To be called whenever a deadline of a session may have come nearer: it has reached another
    /// stage, or other rules apply to it. Costs an atomic operation if nothing has to be done.
    pub fn rearm(&self, session: &Session) {
        if !session.alive() {
            return;
        }
        let next = self.deadlines_of(session).into_iter().map(|(at, _)| at);
        let note = session.identity().and_then(|me| self.use_to_note_at(&me));
        if let Some(next) = next.chain(note).chain(self.answer_due(session)).min() {
            self.deadlines.arm(&session.armed, session.id, next, self.clock.now());
        }
    }

    /// Lets a session go by this policy from now on. `false`: it has not logged in, and has only the
    /// deadlines of the configuration.
    pub fn apply_policy(&self, session: &Session, policy: Arc<Effective>) -> bool {
        let Some(identity) = session.identity() else { return false };
        identity.live.lock().policy = policy;
        self.rearm(session);
        true
    }

    /// Why a session should be over by now, if the sweeper has not come by yet: lists do not show it.
    #[must_use]
    pub fn is_overdue(&self, session: &Session) -> Option<Reason> {
        let reason = self.overdue(session, self.clock.now())?;
        (!self.waits_instead(session, reason)).then_some(reason)
    }

    /// The same, and why a session has to wait for its owner by now.
    pub(crate) fn due_for(&self, session: &Session) -> Option<Reason> {
        self.overdue(session, self.clock.now())
    }

    /// Looks at a session whose bucket is due. Whether this ended it.
    fn look(self: &Arc<Self>, bucket: u32, id: SessionId, now: Millis) -> bool {
        let Some(session) = self.registry.get(id) else { return false };
        if !session.armed.take(bucket) || !session.alive() {
            return false;
        }
        if let Some(reason) = self.overdue(&session, now) {
            return self.expire(&session, reason);
        }
        if self.answer_due(&session).is_some_and(|due| due <= now) {
            self.drop_connection(&session);
            return false;
        }
        if let Some(me) = session.identity()
            && self.use_to_note_at(&me).is_some_and(|at| at <= now)
        {
            me.use_noted.store(now.0, Relaxed);
            self.note_presence(&me, now);
        }
        self.rearm(&session);
        false
    }

    /// When a client has to have acknowledged what it was asked about.
    fn answer_due(&self, session: &Session) -> Option<Millis> {
        let asked = session.resumable()?.asked()?;
        Some(asked.plus_seconds(self.config.sessions.dead_after.get()?))
    }

    /// When it is time to note again that a session's client is there and its token in use: ten times
    /// in the span after which they die unused, at least. Never, if neither does.
    fn use_to_note_at(&self, me: &Identity) -> Option<Millis> {
        let tenth = |span: u64| (span / 10).max(1);
        let client = me.client().and_then(|_| me.policy().client_inactivity);
        let granule = self.config.clients.last_use.get().unwrap_or(0);
        let client = client.map(|span| tenth(span).min(granule.max(SEEN)));
        let interval = client.into_iter().chain(me.inactive.map(tenth)).min()?;
        Some(Millis(me.use_noted.load(Relaxed)).plus_seconds(interval))
    }

    /// Why a session has to end by now; at the very instant of a deadline it is over.
    fn overdue(&self, session: &Session, now: Millis) -> Option<Reason> {
        self.deadlines_of(session)
            .into_iter()
            .find_map(|(at, reason)| (at <= now).then_some(reason))
    }

    /// When a session has to end, and why; what counts more comes first.
    fn deadlines_of(&self, session: &Session) -> SmallVec<[(Millis, Reason); 4]> {
        let flags = session.flags();
        let mut all = SmallVec::new();
        let mut add = |since: Millis, seconds: Option<u64>, reason: Reason| {
            if let Some(seconds) = seconds {
                all.push((since.plus_seconds(seconds), reason));
            }
        };
        let limits = &self.config.limits;
        if flags.has(Flags::ENDING) {
            return all;
        }
        let Some(identity) = session.identity() else {
            add(session.created, limits.unauthed.time.get(), Reason::AuthTimeout);
            return all;
        };
        if flags.has(Flags::BOUND) {
            let policy = identity.policy();
            add(identity.since, policy.lifetime, Reason::Lifetime);
            add(identity.since, limits.bound.time.get(), Reason::Lifetime);
            // Once it waits for its owner, it is over when it has waited for long enough.
            match session.resumable().and_then(|resumable| resumable.proof_until()) {
                None => add(session.last_activity(), policy.inactivity, Reason::Idle),
                Some(until) => add(until, Some(0), Reason::Idle),
            }
        } else {
            add(identity.since, limits.unbound.time.get(), Reason::BindTimeout);
        }
        if let Some(until) = session.resumable().and_then(|resumable| resumable.until()) {
            all.push((until, Reason::NotResumed));
        }
        if let Some(expires) = identity.expires() {
            all.insert(0, (expires, Reason::TokenExpired));
        }
        all
    }
}
