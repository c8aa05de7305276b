//! Streams that outlive their connections (XEP-0198): stream management is turned on, the connection
//! breaks and the session hibernates, another connection goes on with it, or its time is over.
//!
//! ```text
//!            manage                 hibernate                      resume
//!  bound ───────────► managed ────────────────► hibernating ───────────────► managed
//!                        │     connection broke       │    claim, wait, enter
//!                        │                            └── deadline, cap, end ──► ended, settled
//!                        └── resume by another connection: the older one is told `conflict`
//! ```
//!
//! The id that resumes a stream is the session's and a secret, which is derived from the server's key
//! and so is stored nowhere. Whoever shows it has logged in as the same account besides. XEP-0198 has
//! no way to give out another id at a resumption, so it is good as long as the session lasts; a
//! session that ends takes it along.
//!
//! Which connection counts what comes in and takes what goes out is decided in the
//! [mailbox](crate::mailbox), in one instant. Only then does whoever resumes wait for the older
//! connection to finish the stanza that it is at, so that nothing is overtaken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::OwnedMutexGuard;
use wire::{
    Condition, Secret,
    stream::{Enable, Enabled, Failed, Resume, Resumed, sm},
};

use crate::{
    Server, Session,
    client::Client,
    clock::Millis,
    end::{self, End, Reason},
    events::Change,
    hooks::Moment,
    id::SessionId,
    mailbox::{Acked, Counts, Holder, TooHigh, Unclaimed},
    registry::Parted,
    session::Identity,
    store::StoreError,
};

/// Bytes of the secret in an id.
const SECRET: usize = 24;

/// How long whoever resumes a stream waits for the older connection to finish what it is at.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it looks meanwhile whether it waits in vain.
const GLANCE: Duration = Duration::from_millis(50);

/// Stream management of a session.
#[derive(Debug)]
pub struct Resumable {
    /// Seconds that it may hibernate; 0: it cannot be resumed.
    max: u32,
    /// Held by the connection that has it.
    lease: Arc<tokio::sync::Mutex<()>>,
    /// When its connection broke; 0: it has one.
    since: AtomicU64,
    /// When the client was asked for an acknowledgement that has not come; 0: it was not.
    asked: AtomicU64,
    /// How often another connection has gone on with it.
    resumptions: AtomicU32,
    /// It has a row in storage, from before the server stopped.
    stored: AtomicBool,
    /// Only who proves the password may go on with it, until then; 0: whoever it is.
    proof_until: AtomicU64,
    /// It was given a little longer to do so.
    graced: AtomicBool,
}

/// A connection's right to a session whose stream is managed; the next one waits until it is dropped.
pub struct Lease {
    /// Its number in the mailbox.
    pub holder: Holder,
    _held: OwnedMutexGuard<()>,
}

/// A stream that goes on.
pub struct Continued {
    /// The session that it belongs to.
    pub session: Arc<Session>,
    /// The connection's right to it.
    pub lease: Lease,
    /// What the client is told.
    pub resumed: Resumed,
}

impl Resumable {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            max,
            lease: Arc::default(),
            since: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            resumptions: AtomicU32::new(0),
            stored: AtomicBool::new(false),
            proof_until: AtomicU64::new(0),
            graced: AtomicBool::new(false),
        }
    }

    /// As it was before the server stopped.
    pub(crate) fn restored(max: u32, since: Millis, resumptions: u32) -> Self {
        let new = Self::new(max);
        new.since.store(since.0, Ordering::Relaxed);
        new.resumptions.store(resumptions, Ordering::Relaxed);
        new.stored.store(true, Ordering::Relaxed);
        new
    }

    /// Whether it has a row in storage; from now on it counts as having none.
    pub(crate) fn take_stored(&self) -> bool {
        self.stored.swap(false, Ordering::SeqCst)
    }

    /// It has a row in storage.
    pub(crate) fn put_stored(&self) {
        self.stored.store(true, Ordering::SeqCst);
    }

    /// Its connection has broken, or another one has claimed it. Only under the lock of its flags.
    pub(crate) fn broke(&self, now: Millis) {
        self.asked.store(0, Ordering::Relaxed);
        // A claim that comes to nothing does not prolong its time.
        let _ = self.since.compare_exchange(0, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Another connection goes on with it. Only under the lock of its flags.
    pub(crate) fn goes_on(&self) {
        self.since.store(0, Ordering::Relaxed);
        // The older connection may have asked until it was gone.
        self.asked.store(0, Ordering::Relaxed);
        self.resumptions.fetch_add(1, Ordering::Relaxed);
        self.wait_for_proof(None);
        self.graced.store(false, Ordering::Relaxed);
    }

    /// Seconds that it may hibernate; 0: it cannot be resumed.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max
    }

    /// When its connection broke, if it has none.
    #[must_use]
    pub fn since(&self) -> Option<Millis> {
        Some(Millis(self.since.load(Ordering::Relaxed))).filter(|since| since.0 > 0)
    }

    /// Until when it waits for its owner to prove the password, if it does.
    #[must_use]
    pub fn proof_until(&self) -> Option<Millis> {
        Some(Millis(self.proof_until.load(Ordering::Relaxed))).filter(|until| until.0 > 0)
    }

    /// Lets it wait for its owner to prove the password.
    pub(crate) fn wait_for_proof(&self, until: Option<Millis>) {
        self.proof_until.store(until.map_or(0, |until| until.0), Ordering::Relaxed);
    }

    /// Gives it a little longer, once.
    pub(crate) fn grace(&self, until: Millis) -> bool {
        let short = self.proof_until().is_some_and(|now| now < until);
        let given = short && !self.graced.swap(true, Ordering::Relaxed);
        if given {
            self.wait_for_proof(Some(until));
        }
        given
    }

    /// When its time is over, if it hibernates.
    #[must_use]
    pub fn until(&self) -> Option<Millis> {
        if let Some(until) = self.proof_until() {
            return Some(until);
        }
        Some(self.since()?.plus_seconds(self.max.into()))
    }

    /// Since when the client owes an acknowledgement.
    #[must_use]
    pub fn asked(&self) -> Option<Millis> {
        Some(Millis(self.asked.load(Ordering::Relaxed))).filter(|asked| asked.0 > 0)
    }

    /// How often another connection has gone on with it.
    #[must_use]
    pub fn resumptions(&self) -> u32 {
        self.resumptions.load(Ordering::Relaxed)
    }
}

impl Session {
    /// Whether another connection may go on with it when its own breaks.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.resumable().is_some_and(|resumable| resumable.max > 0)
    }
}

impl Server {
    /// Turns stream management on for a bound session; its connection gets the right to it.
    ///
    /// # Errors
    /// What the client is told.
    pub fn manage(
        &self,
        session: &Arc<Session>,
        enable: Enable,
    ) -> Result<(Enabled, Lease), Failed> {
        if session.full().is_none() || !session.alive() {
            return Err(Condition::UnexpectedRequest.into());
        }
        let most = u32::try_from(self.config.sessions.resume.get().unwrap_or(0));
        let most = most.unwrap_or(u32::MAX);
        let max = if enable.resume { enable.max.unwrap_or(most).min(most) } else { 0 };
        let resumable = Resumable::new(max);
        let lease = resumable.lease.clone();
        if !session.mailbox.manage() {
            return Err(Condition::UnexpectedRequest.into());
        }
        session.set_resumable(resumable);
        let Ok(held) = lease.try_lock_owned() else {
            return Err(Condition::InternalServerError.into());
        };
        let resumable = (max > 0).then(|| (self.resumption_id(session.id), max));
        let lease = Lease { holder: session.mailbox.holder(), _held: held };
        Ok((Enabled { resumable }, lease))
    }

    /// The text that resumes a session's stream; a secret.
    fn resumption_id(&self, id: SessionId) -> String {
        let id = id.0.to_be_bytes();
        let secret = self.keys.derive("resumption", &id);
        URL_SAFE_NO_PAD.encode([&id[..], secret.get(..SECRET).unwrap_or_default()].concat())
    }

    /// The session whose resumption id this is.
    fn read_resumption_id(&self, text: &str) -> Option<SessionId> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, secret) = bytes.split_at_checked(16)?;
        let right = self.keys.derive("resumption", id);
        let right = Secret::new(right.get(..SECRET)?).ct_eq(secret);
        let id = SessionId(u128::from_be_bytes(id.try_into().ok()?));
        right.then_some(id)
    }

    /// Notes that a client was asked for an acknowledgement: a connection whose client does not
    /// answer in time is dead.
    pub fn asked(&self, session: &Session) {
        let Some(resumable) = session.resumable() else { return };
        resumable.asked.store(self.clock.now().0, Ordering::Relaxed);
        self.rearm(session);
    }

    /// A client acknowledges `h` stanzas over one of its connections. One that acknowledges what it was
    /// never sent ends. Whether it is to be asked about what it was sent besides.
    pub fn acknowledged(self: &Arc<Self>, session: &Arc<Session>, holder: Holder, h: u32) -> bool {
        let acked = session.mailbox.ack(holder, h);
        match acked {
            Ok(Acked::AskAgain) => self.asked(session),
            Ok(Acked::Displaced) => {}
            Ok(Acked::Noted) => {
                if let Some(resumable) = session.resumable() {
                    resumable.asked.store(0, Ordering::Relaxed);
                }
            }
            Err(TooHigh { h, sent }) => {
                self.end(session, End::protocol(sm::too_high(h, sent)));
            }
        }
        acked == Ok(Acked::AskAgain)
    }

    /// A session's connection has broken: from now on it waits for another one. False: it cannot, and
    /// has to end.
    pub fn hibernate(self: &Arc<Self>, session: &Arc<Session>, holder: Holder) -> bool {
        if !session.is_resumable() {
            return false;
        }
        match self.registry.set_hibernating(session, holder, self.clock.now()) {
            Parted::Claimed => return true,
            Parted::Ended => return false,
            Parted::Hibernating => {}
        }
        session.mailbox.release(holder);
        self.rearm(session);
        self.events.publish(session, Change::Hibernating);
        tracing::info!(
            event = "hibernating",
            session = %session.id,
            jid = session.full().map(wire::Jid::as_str),
        );
        self.cap_hibernating(session);
        true
    }

    /// Ends the sessions of an account that have hibernated for the longest time, if there are more
    /// than there may be.
    fn cap_hibernating(self: &Arc<Self>, session: &Session) {
        let cap = usize::try_from(self.config.sessions.hibernating).unwrap_or(usize::MAX);
        let Some(me) = session.identity().filter(|_| cap > 0) else { return };
        let mut asleep = self.registry.of(me.jid.as_str());
        asleep.retain(|other| !other.connected());
        asleep.sort_by_key(|other| other.resumable().and_then(|resumable| resumable.since()));
        let too_many = asleep.len().saturating_sub(cap);
        for oldest in asleep.iter().take(too_many) {
            self.end(oldest, End::new(Reason::NotResumed));
        }
    }

    /// Goes on with an earlier stream in place of a session that has logged in and bound nothing, which
    /// ends with that.
    ///
    /// # Errors
    /// What the client is told; it may bind a resource then. Nothing has changed, unless it has
    /// acknowledged more than it was sent: then its new stream ends, and the earlier one is as before.
    pub async fn resume(
        self: &Arc<Self>,
        session: &Arc<Session>,
        resume: &Resume,
    ) -> Result<Continued, Failed> {
        let outcome = self.go_on(session, resume).await;
        self.metrics.resumed(match &outcome {
            Ok(_) => "resumed",
            Err(failed) => failed.condition.as_str(),
        });
        outcome
    }

    async fn go_on(
        self: &Arc<Self>,
        session: &Arc<Session>,
        resume: &Resume,
    ) -> Result<Continued, Failed> {
        let unknown = || Failed::from(Condition::ItemNotFound);
        let me = session.identity().filter(|_| session.full().is_none()).ok_or_else(unknown)?;
        let id = self.read_resumption_id(&resume.previd).ok_or_else(unknown)?;
        let old = self.registry.get(id).filter(|old| old.is_resumable());
        let Some(old) = old else { return Err(self.no_more(id, resume.h, &me).await) };
        let was = old.identity().ok_or_else(unknown)?;
        if was.account != me.account || was.jid != me.jid {
            return Err(unknown());
        }
        // It may be over and not swept yet.
        if let Some(reason) = self.due_for(&old) {
            self.expire(&old, reason);
        }
        if !old.alive() {
            return Err(self.no_more(id, resume.h, &me).await);
        }
        let proof = old.resumable().and_then(|resumable| resumable.proof_until()).is_some();
        if proof && me.token.is_some() {
            return Err(Failed {
                app: Some(end::element(Reason::Idle.as_str(), "server")),
                ..Condition::NotAuthorized.into()
            });
        }
        let client = self.may_go_on(session, &me, &was).await?;
        if self.stopping() {
            return Err(Condition::ResourceConstraint.into());
        }
        let (lease, counts) = self.take_stream(session, &old, id, resume.h, &me).await?;
        self.close_login(&old);
        let mut identity = me.continuing(&was);
        if proof && self.config.sessions.reauth_renews {
            identity.since = identity.proved;
        }
        if let Some(client) = &client {
            self.bound_by_client(&identity, client);
        }
        if !self.registry.resume(&old, lease.holder, session, identity) {
            if old.alive() {
                return Err(unknown());
            }
            return Err(self.no_more(id, resume.h, &me).await);
        }
        // Nothing is waited for from here on: a session that has a connection is always given to it.
        old.touch(self.clock.now());
        self.merged(session);
        self.rearm(&old);
        let moment = Moment { server: self.clone(), session: old.clone() };
        if let Some(told) = self.hooks.resumed.tell(&moment) {
            self.spawn(told);
        }
        self.events.publish(&old, Change::Resumed);
        tracing::info!(
            event = "resumed",
            session = %old.id,
            jid = old.full().map(wire::Jid::as_str),
            address = %old.address(),
        );
        let jid = old.full().cloned().ok_or_else(unknown)?;
        let resumed = Resumed { jid, h: counts.handled };
        Ok(Continued { session: old, lease, resumed })
    }

    /// Takes a stream away from whatever connection has it, once the stanza that this one is at is seen
    /// through. What has been done so far for whoever resumes it can still be called off: it hibernates.
    async fn take_stream(
        self: &Arc<Self>,
        session: &Arc<Session>,
        old: &Arc<Session>,
        id: SessionId,
        h: u32,
        me: &Identity,
    ) -> Result<(Lease, Counts), Failed> {
        let unknown = || Failed::from(Condition::ItemNotFound);
        let (holder, counts) = match old.mailbox.claim(h) {
            Ok(claimed) => claimed,
            Err(Unclaimed::Closed) => return Err(self.no_more(id, h, me).await),
            Err(Unclaimed::TooHigh(TooHigh { h, sent })) => {
                self.end(session, End::protocol(sm::too_high(h, sent)));
                return Err(unknown());
            }
        };
        // Until it is entered nobody has it: should this be called off, it hibernates.
        match self.registry.set_hibernating(old, holder, self.clock.now()) {
            Parted::Hibernating => self.rearm(old),
            // Somebody else has claimed it meanwhile, with the same id and account: the later one wins.
            Parted::Claimed => return Err(unknown()),
            Parted::Ended => {
                self.settle_claimed(old);
                return Err(self.no_more(id, h, me).await);
            }
        }
        let held = self.quiet_for(old, holder).await;
        if old.mailbox.holder() != holder {
            return Err(unknown());
        }
        let Some(held) = held else {
            tracing::error!(event = "resumption-stuck", session = %old.id);
            return Err(Condition::InternalServerError.into());
        };
        self.forget_hibernated(old).await.map_err(|error| {
            tracing::error!(event = "resumption-storage-failed", %error);
            Failed::from(Condition::InternalServerError)
        })?;
        if old.mailbox.holder() != holder {
            return Err(unknown());
        }
        Ok((Lease { holder, _held: held }, counts))
    }

    /// Waits until the stanza that a session's connection is at is seen through, a bounded time.
    pub(crate) async fn quiet(&self, session: &Session) -> Option<OwnedMutexGuard<()>> {
        let lease = session.resumable()?.lease.clone();
        tokio::time::timeout(PATIENCE, lease.lock_owned()).await.ok()
    }

    /// The same for the connection that has claimed it, as long as no other one does: one that came later
    /// may have been let in first, and would be waited for in vain.
    async fn quiet_for(&self, session: &Session, holder: Holder) -> Option<OwnedMutexGuard<()>> {
        let lease = session.resumable()?.lease.clone();
        for _ in 0..PATIENCE.as_millis() / GLANCE.as_millis() {
            match tokio::time::timeout(GLANCE, lease.clone().lock_owned()).await {
                Ok(held) => return Some(held),
                Err(_) if session.mailbox.holder() != holder => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// Whether the one who has logged in may go on with what the other one was: the same client, as far
    /// as both are known to be one, from where that client may come. Gives that client, unless its own
    /// token has let it in, which says for itself how far it goes.
    async fn may_go_on(
        &self,
        session: &Session,
        me: &Identity,
        was: &Identity,
    ) -> Result<Option<Client>, Failed> {
        let unknown = || Failed::from(Condition::ItemNotFound);
        let failed = |error: StoreError| {
            tracing::error!(event = "resumption-storage-failed", %error);
            Failed::from(Condition::InternalServerError)
        };
        match (me.client(), was.client()) {
            (Some(mine), Some(theirs)) if mine != theirs => Err(unknown()),
            (None, Some(theirs)) => {
                let client = self.client(was.account, theirs.sid).await.map_err(failed)?;
                let client = client.filter(|client| client.over.is_none()).ok_or_else(unknown)?;
                self.may_come(session, &client).map_err(|_| unknown())?;
                self.note_password(client, me).await.map(Some).map_err(failed)
            }
            _ => Ok(None),
        }
    }

    /// Why a stream cannot go on: its session is over. Told to its own account only, which has shown the
    /// secret.
    async fn no_more(&self, id: SessionId, h: u32, me: &Identity) -> Failed {
        let unknown = Failed::from(Condition::ItemNotFound);
        let past = self.recent.get(id).map(|past| (past.account, past.handled, past.record));
        // Its connection may not be gone yet.
        let past = past.or_else(|| {
            let session = self.registry.get(id)?;
            let handled = session.mailbox.counts().map(|counts| counts.handled);
            Some((session.identity().map(|was| was.account), handled, session.end_record()?))
        });
        match past.filter(|(account, ..)| *account == Some(me.account)) {
            None => match self.strike_off(me.account, id, h).await {
                Ok(None) => unknown,
                // The server that it was at has died.
                Ok(handled) => Failed {
                    h: handled,
                    app: Some(end::element(Reason::Internal.as_str(), "server")),
                    ..unknown
                },
                Err(error) => {
                    tracing::error!(event = "resumption-storage-failed", %error);
                    unknown
                }
            },
            Some((_, handled, record)) => Failed {
                h: handled,
                app: Some(end::element(record.reason.as_str(), record.by.kind())),
                ..unknown
            },
        }
    }

    /// A session has ended at the very moment at which it was claimed: whoever ended it counts on its
    /// connection to settle it, which leaves that to whoever has claimed it.
    pub(crate) fn settle_claimed(self: &Arc<Self>, session: &Arc<Session>) {
        let (server, session) = (self.clone(), session.clone());
        self.spawn(async move {
            let _held = server.quiet(&session).await;
            server.settle(&session).await;
        });
    }

    /// The login that a session is from is over: another one goes on with it.
    fn close_login(self: &Arc<Self>, session: &Arc<Session>) {
        self.note_end(session, &End::peer(Reason::Resumed).record(self.clock.now()));
    }

    /// A session that has become part of another one is gone, without a word to anybody.
    fn merged(self: &Arc<Self>, session: &Arc<Session>) {
        self.unauthed.left(session);
        self.registry.forget(session);
        session.mailbox.close();
        let record = Arc::new(End::peer(Reason::Resumed).record(self.clock.now()));
        let mut cold = session.cold.lock();
        let ending = cold.ending();
        ending.record = Some(record.clone());
        ending.settled = true;
        let waiters = std::mem::take(&mut ending.waiters);
        drop(cold);
        self.events.publish(session, Change::Ended(Some(record)));
        for waiter in waiters {
            let _ = waiter.send(());
        }
    }

    /// Ends a session's connection because its client owes an answer for too long: if it can be
    /// resumed, it hibernates.
    pub(crate) fn drop_connection(&self, session: &Session) {
        tracing::info!(event = "unresponsive", session = %session.id);
        self.registry.set_unresponsive(session);
        session.mailbox.wake();
    }
}
