//! Streams that outlive the server: when it stops, every session that can be resumed is written down
//! with its counts, what its client has not acknowledged, and its presence; when it starts, they are
//! there again and wait for their clients. For their contacts nothing has happened.
//!
//! ```text
//!  stop:  others end ─► all are claimed at one point ─► stanzas under way are seen through ─► rows
//!  start: rows ─► registry, hibernating ─► plugins load what they need ─► whoever may not be there ends
//! ```
//!
//! A row stands until its session is resumed or ends, so that a server that dies before then finds it
//! again. It holds stanzas, and nothing that opens a session.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use wire::{Agent, Frame, Jid, Kind, Mechanism, TokenId};

use crate::{
    Server, Session,
    account::{Account, Role},
    client::{Check, ClientRef},
    clock::Millis,
    end::{End, Reason},
    epoch::Stamp,
    hooks::{Flow, Moment},
    id::{AccountId, ClientId, GrantId, SessionId},
    mailbox::{Counts, Parcel, Snapshot},
    registry::Parted,
    resumption::Resumable,
    session::{Flags, Identity, Live, Presence},
    store::{Batch, Range, SERVER, StoreError, Table},
};

/// Sessions that wait for their clients while the server does not run, by id.
pub static HIBERNATING: Table =
    Table { name: "hibernating", about: "sessions that wait to be resumed, with their stanzas" };

/// Rows that are written or read at a time.
const PAGE: usize = 500;

/// A session as stored.
#[derive(Serialize, Deserialize)]
struct Asleep {
    account: AccountId,
    full: String,
    peer: SocketAddr,
    created: Millis,
    last_activity: Millis,
    /// Seconds that it may hibernate, and since when it does.
    max: u32,
    since: Millis,
    /// Until when it waits for its owner to prove the password.
    #[serde(default)]
    proof_until: Option<Millis>,
    resumptions: u32,
    acked: u32,
    handled: u32,
    /// What the client has not acknowledged, in order.
    stanzas: Vec<Waiting>,
    /// How many of them were sent, so that the client may have them.
    #[serde(default)]
    sent: usize,
    presence: Option<Shown>,
    #[serde(default)]
    interested: bool,
    #[serde(default)]
    frozen: bool,
    #[serde(default)]
    software: Option<String>,
    identity: Whose,
    /// What plugins keep about it, by their names.
    #[serde(default)]
    kept: BTreeMap<String, String>,
}

/// A stanza that waits.
#[derive(Serialize, Deserialize)]
struct Waiting {
    xml: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Millis>,
    /// It is stored elsewhere until the client has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    kept: bool,
}

/// A presence as last sent.
#[derive(Serialize, Deserialize)]
struct Shown {
    xml: String,
    priority: i8,
    since: Millis,
}

/// An [`Identity`] as stored, as far as it is not read from the account anew.
#[derive(Serialize, Deserialize)]
struct Whose {
    mechanism: String,
    client: Option<(ClientId, u64)>,
    grant: Option<GrantId>,
    token: Option<String>,
    generation: u64,
    stamp: Stamp,
    most: Role,
    inactive: Option<u64>,
    resource: Option<String>,
    since: Millis,
    proved: Millis,
    agent: Option<(Option<String>, Option<String>, Option<String>)>,
    noted: Option<u64>,
}

impl Server {
    /// Writes down every session that can be resumed; nobody goes on with one any more, and whoever
    /// has one is cut off without an error, so that its client comes back to resume it. Only for a
    /// server that stops, once all others have ended. Gives their number.
    ///
    /// # Errors
    /// When storage fails: those that could not be written have ended.
    pub(crate) async fn put_to_sleep(self: &Arc<Self>) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let all: Vec<_> = self.registry.all().filter(|session| session.is_resumable()).collect();
        let mut claimed = Vec::with_capacity(all.len());
        for session in all {
            if session.alive() && session.full().is_some() {
                let holder = session.mailbox.suspend();
                match self.registry.set_hibernating(&session, holder, now) {
                    Parted::Ended => self.settle_claimed(&session),
                    Parted::Claimed | Parted::Hibernating => claimed.push(session),
                }
            }
        }
        let mut leases = Vec::with_capacity(claimed.len());
        for session in &claimed {
            leases.push(self.quiet(session).await);
        }
        let mut slept = Ok(0);
        for page in claimed.chunks(PAGE) {
            match self.write_asleep(page, now).await {
                Ok(count) => slept = slept.map(|before| before + count),
                Err(error) => {
                    for session in page {
                        self.end(session, End::new(Reason::Shutdown));
                    }
                    slept = Err(error);
                }
            }
        }
        slept
    }

    /// Writes down some sessions, all or none of them. Gives how many were there still.
    async fn write_asleep(
        self: &Arc<Self>,
        page: &[Arc<Session>],
        now: Millis,
    ) -> Result<usize, StoreError> {
        let (mut batch, mut count) = (Batch::new(), 0);
        for session in page {
            if let Some(row) = self.asleep(session, now).await? {
                batch = batch.put(&HIBERNATING, SERVER, session.id.key(), row);
                count += 1;
            }
        }
        self.store.commit(batch).await?;
        for session in page {
            if let Some(resumable) = session.resumable() {
                resumable.put_stored();
            }
            // Whoever has ended it meanwhile has found no row of it, or removes this one.
            fence(Ordering::SeqCst);
            if !session.alive() {
                self.forget_hibernated(session).await?;
            }
        }
        Ok(count)
    }

    /// A session's row, if it is there still.
    async fn asleep(
        self: &Arc<Self>,
        session: &Arc<Session>,
        now: Millis,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(me) = session.identity() else { return Ok(None) };
        let Some(account) = self.account(me.jid.as_str()).await? else { return Ok(None) };
        Ok(self.row(session, &me, account.generation, now))
    }

    /// `generation`: the account's password as it is. Whoever had to go because of that has gone.
    fn row(
        self: &Arc<Self>,
        session: &Arc<Session>,
        me: &Identity,
        generation: u64,
        now: Millis,
    ) -> Option<Vec<u8>> {
        let full = session.full()?;
        let resumable = session.resumable()?;
        let Snapshot { counts, sent, waiting } = session.mailbox.snapshot()?;
        let moment = Moment { server: self.clone(), session: session.clone() };
        let flags = session.flags();
        if !session.alive() {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let written = |parcel: Parcel| {
            let (since, kept) = (parcel.waits_since(), parcel.is_kept());
            Some(Waiting { xml: text(parcel.into_frame()?.bytes()), since, kept })
        };
        let most = me.live.lock().most;
        let mut stanzas: Vec<_> = sent.into_iter().filter_map(written).collect();
        let sent = stanzas.len();
        stanzas.extend(waiting.into_iter().filter_map(written));
        let row = Asleep {
            account: me.account,
            full: full.as_str().into(),
            peer: session.peer(),
            created: session.created,
            last_activity: session.last_activity(),
            max: resumable.max(),
            since: resumable.since().unwrap_or(now),
            proof_until: resumable.proof_until(),
            resumptions: resumable.resumptions(),
            acked: counts.acked,
            handled: counts.handled,
            stanzas,
            sent,
            presence: session.presence().map(|presence| Shown {
                xml: text(presence.frame.bytes()),
                priority: presence.priority,
                since: presence.since,
            }),
            interested: flags.has(Flags::INTERESTED),
            frozen: flags.has(Flags::FROZEN),
            software: session.software().as_deref().map(Into::into),
            identity: Whose {
                mechanism: me.mechanism.as_str().into(),
                client: me.client().map(|client| (client.id, client.sid)),
                grant: me.grant,
                token: me.token.map(|token| token.to_string()),
                generation,
                stamp: me.stamp,
                most,
                inactive: me.inactive,
                resource: me.resource.clone(),
                since: me.since,
                proved: me.proved,
                agent: me
                    .agent
                    .as_deref()
                    .map(|agent| (agent.id.clone(), agent.software.clone(), agent.device.clone())),
                noted: me.noted.get().copied(),
            },
            kept: self
                .registrations
                .kept
                .iter()
                .filter_map(|kept| Some((kept.name.to_owned(), (kept.save)(&moment)?)))
                .collect(),
        };
        serde_json::to_vec(&row).ok()
    }

    /// Has the sessions back that were written down when the server stopped; before anybody can
    /// connect. Whoever may not be there any more ends. Gives their number.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn wake_up(self: &Arc<Self>) -> Result<usize, StoreError> {
        let (mut after, mut count) = (None, 0);
        self.read_journal().await?;
        loop {
            let range = Range::page(after.take(), PAGE);
            let rows = self.store.rows(&HIBERNATING, SERVER, range).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.key.clone());
            let mut tasks = tokio::task::JoinSet::new();
            for row in rows {
                let server = self.clone();
                tasks.spawn(async move {
                    match server.revive(&row.key, &row.value).await {
                        Ok(true) => Ok(1),
                        // Nothing that could be had back, now or later.
                        Ok(false) => {
                            let batch = Batch::new().delete(&HIBERNATING, SERVER, row.key);
                            server.store.commit(batch).await.map(|()| 0)
                        }
                        Err(error) => Err(error),
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                count += done.unwrap_or(Ok(0))?;
            }
        }
        if count > 0 {
            tracing::info!(event = "woken", sessions = count);
        }
        Ok(count)
    }

    /// One session. False: the row makes no sense, or not any more.
    async fn revive(self: &Arc<Self>, key: &[u8], row: &[u8]) -> Result<bool, StoreError> {
        let read = || {
            let id = SessionId(u128::from_be_bytes(key.try_into().ok()?));
            let row: Asleep = serde_json::from_slice(row).ok()?;
            let full = Jid::parse(&row.full).ok()?;
            Some((id, row, full))
        };
        let Some((id, row, full)) = read() else {
            tracing::warn!(event = "hibernating-unreadable");
            return Ok(false);
        };
        let account = self.account(full.bare_str()).await?;
        let Some(account) = account.filter(|account| account.id == row.account) else {
            return Ok(false);
        };
        let Some(identity) = self.identity_again(&account, &row.identity, &full) else {
            return Ok(false);
        };
        let session = Arc::new(Session::new(id, row.peer, row.created));
        session.touch(row.last_activity);
        let resumable = Resumable::restored(row.max, row.since, row.resumptions);
        resumable.wait_for_proof(row.proof_until);
        session.set_resumable(resumable);
        let parcel = |stanza: &Waiting| {
            let frame = Frame::parse(stanza.xml.clone()).ok()?;
            let parcel = Parcel::whole(frame.kind(), frame.bytes().clone());
            let parcel = if stanza.kept { parcel.kept() } else { parcel };
            Some(match stanza.since {
                Some(since) if frame.kind() == Kind::Message => parcel.waiting_since(since),
                _ => parcel,
            })
        };
        let counts = Counts { acked: row.acked, handled: row.handled };
        let (sent, queued) = row.stanzas.split_at(row.sent.min(row.stanzas.len()));
        let parcels =
            |stanzas: &[Waiting]| -> Vec<Parcel> { stanzas.iter().filter_map(parcel).collect() };
        session.mailbox.restore(counts, parcels(sent), parcels(queued));
        let waiting = u32::try_from(row.stanzas.len()).unwrap_or(u32::MAX);
        self.has_back(row.account, id, row.acked.wrapping_add(waiting));
        if let Some(software) = &row.software {
            session.set_software(software);
        }
        let presence = row.presence.and_then(|shown| {
            let frame = Frame::parse(shown.xml).ok()?;
            Some(Presence { priority: shown.priority, frame, since: shown.since })
        });
        let flag = |set: bool, flag: Flags| if set { flag.0 } else { 0 };
        let flags =
            Flags(flag(row.interested, Flags::INTERESTED) | flag(row.frozen, Flags::FROZEN));
        if !self.registry.revive(&session, identity, full, flags, presence) {
            return Ok(false);
        }
        let moment = Moment { server: self.clone(), session: session.clone() };
        let refused = matches!(self.hooks.binding.run(&moment).decided().await, Flow::Reject(_));
        for kept in &self.registrations.kept {
            if let Some(text) = row.kept.get(kept.name) {
                (kept.restore)(&moment, text);
            }
        }
        match self.outlawed(&account, &session).await? {
            Some(reason) => {
                self.end(&session, End::new(reason));
            }
            None if refused => {
                self.end(&session, End::new(Reason::Internal));
            }
            None => self.rearm(&session),
        }
        Ok(true)
    }

    fn identity_again(&self, account: &Account, whose: &Whose, full: &Jid) -> Option<Identity> {
        let client = whose.client.map(|(id, sid)| ClientRef { id, sid });
        let token: Option<TokenId> = match &whose.token {
            None => None,
            Some(token) => Some(token.parse().ok()?),
        };
        let policy = self.shared_policy(account);
        let agent = whose.agent.clone();
        Some(Identity {
            account: account.id,
            jid: full.bare(),
            mechanism: whose.mechanism.parse::<Mechanism>().ok()?,
            binding: None,
            client: client.map_or_else(OnceLock::new, OnceLock::from),
            grant: whose.grant,
            token,
            generation: whose.generation,
            passwords: account.passwords,
            stamp: whose.stamp,
            live: Mutex::new(Live {
                policy,
                most: whose.most,
                role: account.role.min(whose.most),
                expires: None,
            }),
            inactive: whose.inactive,
            use_noted: AtomicU64::new(self.clock.now().0),
            resource: whose.resource.clone(),
            since: whose.since,
            proved: whose.proved,
            agent: agent.map(|(id, software, device)| Arc::new(Agent { id, software, device })),
            noted: whose.noted.map_or_else(OnceLock::new, OnceLock::from),
        })
    }

    /// Why a session may not be there any more, if it may not: something has changed that would have
    /// ended it, had it been there.
    async fn outlawed(
        &self,
        account: &Account,
        session: &Session,
    ) -> Result<Option<Reason>, StoreError> {
        let Some(me) = session.identity() else { return Ok(Some(Reason::Internal)) };
        if account.disabled {
            return Ok(Some(Reason::AccountDisabled));
        }
        if me.generation != account.generation {
            return Ok(Some(Reason::PasswordChanged));
        }
        let epochs = self.epochs_of(account).await?;
        if !epochs.accepts(me.stamp) {
            return Ok(Some(Reason::Epoch));
        }
        let Some(known) = me.client() else { return Ok(None) };
        let client = self.client(account.id, known.sid).await?;
        let Some(client) = client.filter(|client| client.over.is_none()) else {
            return Ok(Some(Reason::Revoked));
        };
        let policy = self.policy_of(account);
        let check = Check { policy: &policy, epochs: &epochs, now: self.clock.now() };
        if client.is_blocked(check.now) {
            return Ok(Some(Reason::Blocked));
        }
        if let Some(token) = me.token {
            let good = client.token(token).is_some_and(|(grant, token)| {
                client.token_over(grant, token, account, &check).is_none()
            });
            if !good {
                return Ok(Some(Reason::Revoked));
            }
        }
        let mut live = me.live.lock();
        live.expires = client.stays_until(me.token, &live.policy);
        Ok(None)
    }

    /// A session does not wait for its client in storage any more.
    ///
    /// # Errors
    /// When storage fails: it still does.
    pub(crate) async fn forget_hibernated(&self, session: &Session) -> Result<(), StoreError> {
        let Some(resumable) = session.resumable().filter(|resumable| resumable.take_stored())
        else {
            return Ok(());
        };
        if session.alive() && self.stopping.load(Ordering::Acquire) {
            // It is being written down, or has been.
            resumable.put_stored();
            return Ok(());
        }
        let batch = Batch::new().delete(&HIBERNATING, SERVER, session.id.key());
        // What it had waiting is to survive this server as it has survived the one before.
        let (batch, before) = match session.alive() {
            true => self.write_down_all(batch, session),
            false => (batch, Vec::new()),
        };
        let forgotten = self.store.commit(batch).await;
        if forgotten.is_err() {
            // Whoever tries again has to do all of this again.
            resumable.put_stored();
            before.iter().for_each(|flight| flight.stays());
        }
        forgotten
    }
}
