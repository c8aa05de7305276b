//! Messages that are on their way to sessions, on disk: what was acknowledged to its sender
//! (XEP-0198) is not lost when the server dies.
//!
//! A message goes to its receivers at once; its sender's next word is looked at only when it is
//! written down, together with how far the sender's stream has come, so that an acknowledgement never
//! says more than the disk holds. Once a receiver has it, or it is kept elsewhere, the row goes, with
//! the next rows that are written or within a second. Only messages of senders that count are written
//! down: nobody else is ever told that the server has them.
//!
//! ```text
//!  push to mailboxes ─► row: stanza, receivers with their counts; sender's count ─► <a/>
//!         │                    │
//!         └── acknowledged ────┴─► row goes
//!  crash ─► a receiver asks to resume with its count: what it has is struck off
//!        ─► somebody of the account binds: the rest is offline messages
//! ```

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{
    Server, Session,
    clock::Millis,
    hooks::Delivery,
    id::{AccountId, SessionId},
    mailbox,
    store::{Batch, Range, SERVER, StoreError, Table},
};

/// Messages on their way, by account and time.
pub static IN_FLIGHT: Table =
    Table { name: "in_flight", about: "messages that no receiver has acknowledged yet" };
/// How many stanzas of a session were handled when the last of its messages was written down.
pub static POINTS: Table =
    Table { name: "stream_point", about: "how far the streams of sessions have come, by session" };

/// Rows that are removed together at most.
const PAGE: usize = 1_000;

/// What is on its way, and what can be removed.
#[derive(Default)]
pub struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Rows that were written and are still needed.
    live: HashSet<Bytes>,
    /// Sessions with a row in [`POINTS`].
    points: HashSet<SessionId>,
    /// Rows that are not needed any more.
    done: Vec<Bytes>,
    done_points: Vec<SessionId>,
    /// What a server that died has left, by account.
    left: HashMap<AccountId, Vec<Left>>,
}

/// A message that a server that died has left.
#[derive(Clone, Debug)]
pub struct Left {
    /// Grows with the time at which it came.
    pub stamp: u64,
    /// When it came.
    pub at: Millis,
    /// The message, with its true sender.
    pub stanza: String,
    key: Bytes,
    to: Vec<(SessionId, u32)>,
}

/// A row of [`IN_FLIGHT`].
#[derive(Serialize, Deserialize)]
struct Row {
    at: Millis,
    stanza: String,
    /// The sessions that it went to, by the texts of their ids, and which count of theirs covers it.
    to: Vec<(String, u32)>,
}

/// A row of [`POINTS`].
#[derive(Serialize, Deserialize)]
struct Point {
    account: AccountId,
    handled: u32,
    at: Millis,
}

/// One message on its way: shared by all that still may have to deliver it. When the last of them is
/// gone, or a receiver has it, its row goes.
pub struct Flight {
    key: Bytes,
    journal: Arc<Journal>,
    state: AtomicU8,
    to: Mutex<SmallVec<[(SessionId, u32); 1]>>,
}

/// Its row is on disk.
const WRITTEN: u8 = 1;
/// Its row is not needed any more.
const LANDED: u8 = 2;

impl Flight {
    /// A session has it in its mailbox; its client has it once it has acknowledged so many.
    pub(crate) fn goes_to(&self, session: SessionId, count: u32) {
        self.to.lock().push((session, count));
    }

    /// Nobody has to deliver it any more.
    pub(crate) fn landed(&self) {
        if self.state.fetch_or(LANDED, Ordering::AcqRel) == WRITTEN {
            self.journal.strike(&self.key);
        }
    }

    /// Its row stays, whoever lets go of this: what was to take its place could not be written.
    pub(crate) fn stays(&self) {
        self.state.store(0, Ordering::Release);
    }

    fn written(&self) {
        if self.state.fetch_or(WRITTEN, Ordering::AcqRel) == LANDED {
            self.journal.strike(&self.key);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.landed();
    }
}

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flight({:?})", self.state)
    }
}

impl Inner {
    /// Takes what a session has, by its counts, from what is left for its account; gives the keys.
    fn strike_left(
        &mut self,
        account: AccountId,
        session: SessionId,
        has: impl Fn(u32) -> bool,
    ) -> Vec<Bytes> {
        let Some(left) = self.left.get_mut(&account) else { return Vec::new() };
        let here =
            |left: &mut Left| left.to.iter().any(|(id, count)| *id == session && has(*count));
        let struck = left.extract_if(.., here).map(|left| left.key).collect();
        if left.is_empty() {
            self.left.remove(&account);
        }
        struck
    }
}

impl Journal {
    fn strike(&self, key: &Bytes) {
        let mut inner = self.inner.lock();
        if inner.live.remove(key) {
            inner.done.push(key.clone());
        }
    }

    /// A session is over; how far its stream had come matters to nobody.
    pub(crate) fn forget_point(&self, session: SessionId) {
        let mut inner = self.inner.lock();
        if !inner.points.is_empty() && inner.points.remove(&session) {
            inner.done_points.push(session);
        }
    }

    /// The removal of what is not needed any more, added to a batch; at most so many rows.
    fn sweep(&self, mut batch: Batch) -> Batch {
        let mut inner = self.inner.lock();
        let keep = inner.done.len().saturating_sub(PAGE);
        for key in inner.done.split_off(keep) {
            batch = batch.delete(&IN_FLIGHT, SERVER, key);
        }
        let keep = inner.done_points.len().saturating_sub(PAGE);
        for session in inner.done_points.split_off(keep) {
            batch = batch.delete(&POINTS, SERVER, session.key());
        }
        batch
    }
}

fn key(account: AccountId, stamp: u64) -> Bytes {
    [account.0.to_be_bytes(), stamp.to_be_bytes()].concat().into()
}

impl Server {
    /// A message that is about to be delivered, if it has to be written down: its sender counts, and it
    /// is worth keeping.
    pub(crate) fn is_written_down(&self, delivery: &Delivery) -> bool {
        self.config.sessions.durable
            && delivery.origin.as_ref().is_some_and(|origin| origin.resumable().is_some())
            && worth_keeping(&delivery.frame)
    }

    /// A flight for a message to an account.
    pub(crate) fn takes_off(&self, account: AccountId) -> Arc<Flight> {
        Arc::new(Flight {
            key: key(account, self.stamp()),
            journal: self.journal.clone(),
            state: AtomicU8::new(0),
            to: Mutex::default(),
        })
    }

    /// Writes down a message that is on its way, unless a receiver has it already, and in any case how
    /// far its sender's stream has come.
    ///
    /// # Errors
    /// When storage fails: its sender must not be told that the server has it.
    pub(crate) async fn write_down(&self, delivery: &Delivery) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        let on_its_way = |flight: &&Arc<Flight>| {
            flight.state.load(Ordering::Acquire) & LANDED == 0 && !flight.to.lock().is_empty()
        };
        let flight = delivery.flight.as_ref().filter(on_its_way);
        if let Some(flight) = flight
            && let Some(frame) = delivery.stamped()
        {
            let to = flight.to.lock().iter().map(|(id, count)| (id.to_string(), *count)).collect();
            let stanza = String::from_utf8_lossy(frame.bytes()).into_owned();
            let row = Row { at: self.clock.now(), stanza, to };
            batch = batch.put(&IN_FLIGHT, SERVER, flight.key.clone(), encode(&row));
            self.journal.inner.lock().live.insert(flight.key.clone());
        }
        if let Some(origin) = &delivery.origin {
            batch = self.point(batch, origin);
        }
        self.store.commit(self.journal.sweep(batch)).await?;
        if let Some(flight) = flight {
            flight.written();
        }
        Ok(())
    }

    fn point(&self, batch: Batch, session: &Session) -> Batch {
        let (Some(me), Some(counts)) = (session.identity(), session.mailbox.counts()) else {
            return batch;
        };
        self.journal.inner.lock().points.insert(session.id);
        let point = Point { account: me.account, handled: counts.handled, at: self.clock.now() };
        batch.put(&POINTS, SERVER, session.id.key(), encode(&point))
    }

    /// Rows for what a session has not acknowledged that goes on after a restart: its own row goes with
    /// the same batch, as do those of what has come since, which are behind the others now. Those are
    /// to be kept until it is written; if it cannot be, see [`Flight::stays`].
    pub(crate) fn write_down_all(
        &self,
        mut batch: Batch,
        session: &Session,
    ) -> (Batch, Vec<Arc<Flight>>) {
        let mut before = Vec::new();
        let Some(me) = session.identity().filter(|_| self.config.sessions.durable) else {
            return (batch, before);
        };
        session.mailbox.each(|count, parcel| {
            if parcel.is_kept() {
                return;
            }
            let Some(frame) = parcel.clone().into_frame().filter(worth_keeping) else { return };
            let flight = self.takes_off(me.account);
            let row = Row {
                at: parcel.waits_since().unwrap_or_else(|| self.clock.now()),
                stanza: String::from_utf8_lossy(frame.bytes()).into_owned(),
                to: vec![(session.id.to_string(), count)],
            };
            let rest = mem::take(&mut batch);
            batch = rest.put(&IN_FLIGHT, SERVER, flight.key.clone(), encode(&row));
            self.journal.inner.lock().live.insert(flight.key.clone());
            flight.state.store(WRITTEN, Ordering::Release);
            if let Some(old) = parcel.flight() {
                batch = mem::take(&mut batch).delete(&IN_FLIGHT, SERVER, old.key.clone());
                before.push(old);
            }
            parcel.carry(flight);
        });
        (batch, before)
    }

    /// Removes what is not needed any more.
    pub(crate) async fn sweep_journal(&self) {
        let batch = self.journal.sweep(Batch::new());
        if !batch.ops.is_empty()
            && let Err(error) = self.store.commit(batch).await
        {
            // They are found to be left over at the next start, and delivered once more.
            tracing::warn!(event = "journal-not-swept", %error);
        }
    }

    /// Removes everything: all that was on its way is kept elsewhere. Only for a server that stops.
    ///
    /// # Errors
    /// When storage fails.
    pub(crate) async fn close_journal(&self) -> Result<(), StoreError> {
        {
            let mut inner = self.journal.inner.lock();
            let live = mem::take(&mut inner.live);
            inner.done.extend(live);
            let points = mem::take(&mut inner.points);
            inner.done_points.extend(points);
        }
        loop {
            let batch = self.journal.sweep(Batch::new());
            if batch.ops.is_empty() {
                return Ok(());
            }
            self.store.commit(batch).await?;
        }
    }

    /// Finds what a server that died has left; before anybody can connect.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn read_journal(&self) -> Result<usize, StoreError> {
        let (mut after, mut count) = (None, 0);
        loop {
            let range = Range::page(after.take(), PAGE);
            let rows = self.store.rows(&IN_FLIGHT, SERVER, range).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.key.clone());
            let mut inner = self.journal.inner.lock();
            for row in &rows {
                let Some((account, left)) = left(&row.key, &row.value) else {
                    tracing::warn!(event = "journal-unreadable");
                    inner.done.push(row.key.clone());
                    continue;
                };
                inner.left.entry(account).or_default().push(left);
                count += 1;
            }
        }
        if count > 0 {
            tracing::warn!(event = "left-behind", messages = count);
        }
        self.forget_old_points().await?;
        Ok(count)
    }

    /// Nobody comes back to a stream after `sessions.resume`.
    async fn forget_old_points(&self) -> Result<(), StoreError> {
        let resume = self.config.sessions.resume.get().unwrap_or(0);
        let mut after = None;
        loop {
            let range = Range::page(after.take(), PAGE);
            let rows = self.store.rows(&POINTS, SERVER, range).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(last.key.clone());
            let mut batch = Batch::new();
            for row in &rows {
                let point = serde_json::from_slice::<Point>(&row.value).ok();
                let old = |point: Point| point.at.plus_seconds(resume) <= self.clock.now();
                if point.is_none_or(old) {
                    batch = batch.delete(&POINTS, SERVER, row.key.clone());
                }
            }
            self.store.commit(batch).await?;
        }
    }

    /// A client comes back to a session that a server that died has left: what it has handled by its
    /// count is delivered. Gives how many of its stanzas are known to have been handled.
    ///
    /// # Errors
    /// When storage fails.
    pub(crate) async fn strike_off(
        &self,
        account: AccountId,
        session: SessionId,
        h: u32,
    ) -> Result<Option<u32>, StoreError> {
        // Without a count it came before the session counted, and is covered by none.
        let has = |count: u32| count != 0 && mailbox::has_reached(h, count);
        let struck = self.journal.inner.lock().strike_left(account, session, has);
        let batch = struck
            .into_iter()
            .fold(Batch::new(), |batch, key| batch.delete(&IN_FLIGHT, SERVER, key));
        if !batch.ops.is_empty() {
            self.store.commit(batch).await?;
        }
        let row = self.store.get(&POINTS, SERVER, &session.key()).await?;
        let point = row.and_then(|row| serde_json::from_slice::<Point>(&row).ok());
        Ok(point.filter(|point| point.account == account).map(|point| point.handled))
    }

    /// A session is there again with all that its client had not acknowledged, up to the count `last`:
    /// of what a server that died has left, that is on its way already.
    pub(crate) fn has_back(&self, account: AccountId, session: SessionId, last: u32) {
        let mut inner = self.journal.inner.lock();
        let has = |count| mailbox::has_reached(last, count);
        let struck = inner.strike_left(account, session, has);
        inner.done.extend(struck);
    }

    /// What a server that died has left for an account, oldest first; given out once. It is the
    /// caller's to keep, with [`Left::remove`] in the same batch.
    #[must_use]
    pub fn left_behind(&self, account: AccountId) -> Vec<Left> {
        let mut inner = self.journal.inner.lock();
        if inner.left.is_empty() {
            return Vec::new();
        }
        inner.left.remove(&account).unwrap_or_default()
    }

    /// Takes back what could not be kept.
    pub fn still_behind(&self, account: AccountId, left: Vec<Left>) {
        self.journal.inner.lock().left.entry(account).or_default().extend(left);
    }
}

impl Left {
    /// Adds the removal of its row to a batch.
    #[must_use]
    pub fn remove(&self, batch: Batch) -> Batch {
        batch.delete(&IN_FLIGHT, SERVER, self.key.clone())
    }
}

/// Something to read, or said to be worth it (XEP-0160 section 3, XEP-0334 section 4).
#[must_use]
pub fn worth_keeping(frame: &wire::Frame) -> bool {
    if !frame.contains(b"body") && !frame.contains(b"store") {
        return false;
    }
    let root = frame.root();
    let ordinary = !matches!(frame.typ().as_deref(), Some("error" | "groupchat" | "headline"));
    ordinary
        && frame.kind() == wire::Kind::Message
        && root.child("no-store", wire::ns::HINTS).is_none()
        && (root.child("body", wire::ns::CLIENT).is_some()
            || root.child("store", wire::ns::HINTS).is_some())
}

fn left(key: &Bytes, row: &[u8]) -> Option<(AccountId, Left)> {
    let (account, stamp) = key.split_at_checked(8)?;
    let account = AccountId(u64::from_be_bytes(account.try_into().ok()?));
    let stamp = u64::from_be_bytes(stamp.try_into().ok()?);
    let row: Row = serde_json::from_slice(row).ok()?;
    let id = |(id, count): &(String, u32)| Some((id.parse().ok()?, *count));
    let to = row.to.iter().filter_map(id).collect();
    Some((account, Left { stamp, at: row.at, stanza: row.stanza, key: key.clone(), to }))
}

fn encode<T: Serialize>(row: &T) -> Bytes {
    serde_json::to_vec(row).map(Bytes::from).unwrap_or_default()
}
