//! The writer of the history: waits a moment, takes whatever has been noted meanwhile, makes one batch
//! of it, and writes it. It runs only while there is something to write; whoever reads hurries it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use wire::{Jid, Mechanism};

use super::{
    LOGIN, LoginRecord, PRUNE, Refusal, Seen, age, capped, decode, first_stamp, key_of, put,
};
use crate::{
    Server,
    clock::Millis,
    id::{AccountId, SessionId},
    registry::peer_network,
    store::{Batch, Range, StoreError},
};

/// Notes that wait at most; beyond it the oldest are lost, which the log tells.
const BACKLOG: usize = 10_000;
/// Notes that are written at once.
const BATCH: usize = 256;
/// How long the first note waits for others: the more are written at once, the less each costs.
const LINGER: Duration = Duration::from_millis(50);
/// Before the disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often one batch is tried.
const TRIES: usize = 30;
/// Refused logins that are alike are one row for so long, in seconds.
const WINDOW: u64 = 3600;
/// Rows of refused logins of one account in that time; the rest is one row more.
const REFUSED: usize = 20;
/// Rows that are looked at for those.
const LOOK: usize = 200;
/// An account's past logins are looked for once in so long, in milliseconds, unless there are many.
const HOUR: u64 = 3_600_000;
/// Accounts of which that, or when they were last used, is remembered at most.
const REMEMBERED: usize = 4_096;

/// What is to be written.
#[derive(Clone, Debug)]
pub(super) enum Note {
    /// A login was refused.
    Refused(Refused),
    /// A session has logged in, or ended.
    Session {
        account: AccountId,
        /// The row's; 0 if it has none.
        stamp: u64,
        record: Option<Box<LoginRecord>>,
        seen: Seen,
        over: bool,
    },
}

/// A refused login, or several alike.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) at: Millis,
    pub(super) last: Millis,
    pub(super) stamp: u64,
    pub(super) jid: Jid,
    pub(super) session: SessionId,
    pub(super) address: IpAddr,
    pub(super) mechanism: Option<Mechanism>,
    pub(super) reason: &'static str,
    pub(super) count: u64,
}

/// What waits to be written.
pub(crate) struct Notes {
    waiting: Mutex<Waiting>,
    /// The hour, and the accounts whose past logins were removed in it.
    pruned: Mutex<(u64, HashSet<u64>)>,
    /// What [`LAST_SEEN`](super::LAST_SEEN) has of accounts, as far as is known: whoever writes by it
    /// expects to find it there.
    pub(super) seen: Mutex<HashMap<u64, Option<Bytes>>>,
    /// How many notes have been dealt with.
    dealt: watch::Sender<u64>,
    /// Somebody waits for what is noted, or there is enough of it.
    hurry: Notify,
}

#[derive(Default)]
struct Waiting {
    notes: VecDeque<Note>,
    /// How many were ever taken.
    taken: u64,
    /// How many had to make way since the writer looked last.
    lost: usize,
    /// The writer is at work.
    writing: bool,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            pruned: Mutex::default(),
            seen: Mutex::default(),
            dealt: watch::Sender::new(0),
            hurry: Notify::new(),
        }
    }
}

impl Notes {
    /// Whether it is time to look for past logins of an account.
    fn to_prune(&self, account: AccountId, now: Millis) -> bool {
        let mut pruned = self.pruned.lock();
        let hour = now.0 / HOUR;
        if pruned.0 != hour || pruned.1.len() >= REMEMBERED {
            *pruned = (hour, HashSet::new());
        }
        pruned.1.insert(account.0)
    }

    /// There is more to remove than was removed.
    fn prune_again(&self, account: AccountId) {
        self.pruned.lock().1.remove(&account.0);
    }

    /// Notes what is stored of an account's last use, or will be soon.
    pub(super) fn saw(&self, owner: u64, row: Option<Bytes>) {
        let mut seen = self.seen.lock();
        if seen.len() >= REMEMBERED {
            *seen = HashMap::new();
        }
        seen.insert(owner, row);
    }

    /// Somebody else has written: nothing is known any more.
    pub(super) fn forget_seen(&self) {
        *self.seen.lock() = HashMap::new();
    }

    fn deal(&self, count: usize) {
        self.dealt.send_modify(|dealt| *dealt += count as u64);
    }
}

/// Lets another writer start if this one panics.
struct AtWork<'a>(&'a Notes);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().writing = false;
    }
}

impl Server {
    /// Takes a note and sees that somebody writes it.
    pub(super) fn take_note(self: &Arc<Self>, note: Note) {
        let mut waiting = self.notes.waiting.lock();
        if waiting.notes.len() >= BACKLOG {
            waiting.notes.pop_front();
            waiting.lost += 1;
        }
        waiting.notes.push_back(note);
        waiting.taken += 1;
        if waiting.notes.len() == BATCH {
            self.notes.hurry.notify_one();
        }
        if !std::mem::replace(&mut waiting.writing, true) {
            drop(waiting);
            let server = self.clone();
            self.spawn(async move { server.write_notes().await });
        }
    }

    /// Waits until all that has been noted by now is written, or given up; false: it took longer.
    pub async fn history_written(&self, patience: Duration) -> bool {
        let taken = {
            let waiting = self.notes.waiting.lock();
            if waiting.writing {
                self.notes.hurry.notify_one();
            }
            waiting.taken
        };
        let mut dealt = self.notes.dealt.subscribe();
        let written = async { dealt.wait_for(|dealt| *dealt >= taken).await.is_ok() };
        tokio::time::timeout(patience, written).await.unwrap_or(false)
    }

    async fn write_notes(self: &Arc<Self>) {
        let at_work = AtWork(&self.notes);
        loop {
            let _ = tokio::time::timeout(LINGER, self.notes.hurry.notified()).await;
            let (notes, lost): (Vec<Note>, usize) = {
                let mut waiting = self.notes.waiting.lock();
                let count = waiting.notes.len().min(BATCH);
                if count == 0 {
                    // Under the lock: the next note starts another writer, and this one is none.
                    waiting.writing = false;
                    std::mem::forget(at_work);
                    return;
                }
                (waiting.notes.drain(..count).collect(), std::mem::take(&mut waiting.lost))
            };
            if lost > 0 {
                tracing::error!(event = "history-not-written", notes = lost, error = "too many");
            }
            let count = notes.len();
            self.write_all(merged(notes)).await;
            self.notes.deal(count + lost);
        }
    }

    /// Writes these notes, whatever it takes; those that cannot be written are in the log.
    async fn write_all(&self, notes: Vec<Note>) {
        match self.try_writing(&notes).await {
            Ok(()) => {}
            // One of them is about a row that makes no sense: the others are written all the same.
            Err(StoreError::Corrupt { .. }) if notes.len() > 1 => {
                for note in notes {
                    Box::pin(self.write_all(vec![note])).await;
                }
            }
            Err(error) => {
                tracing::error!(event = "history-not-written", notes = notes.len(), %error);
            }
        }
    }

    async fn try_writing(&self, notes: &[Note]) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            let outcome = match self.history_batch(notes).await {
                Ok(batch) => self.store.commit(batch).await,
                Err(error) => Err(error),
            };
            tries += 1;
            if outcome.is_err() {
                self.notes.forget_seen();
            }
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if tries >= TRIES => return Err(error),
                // Somebody else has changed one of the rows: on top of that.
                Err(StoreError::Conflict) => {}
                Err(error @ StoreError::Corrupt { .. }) => return Err(error),
                Err(error) if self.stopping() => return Err(error),
                Err(error) => {
                    if tries == 1 {
                        tracing::warn!(event = "history-waits", %error);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Everything that has to be written for these notes.
    async fn history_batch(&self, notes: &[Note]) -> Result<Batch, StoreError> {
        let now = self.clock.now();
        let mut batch = Batch::new();
        let mut seen: BTreeMap<u64, Seen> = BTreeMap::new();
        let mut refused: HashMap<&Jid, Vec<&Refused>> = HashMap::new();
        // Of a login that is over already, its end says all.
        let over: HashSet<u64> = notes
            .iter()
            .filter_map(|note| match note {
                Note::Session { stamp, over: true, .. } => Some(*stamp),
                _ => None,
            })
            .collect();
        for note in notes {
            match note {
                Note::Refused(one) => refused.entry(&one.jid).or_default().push(one),
                Note::Session { account, stamp, record, seen: new, over: ended } => {
                    let entry = seen.entry(account.0).or_default();
                    *entry = entry.max(*new);
                    let told = !ended && over.contains(stamp);
                    if let Some(record) = record.as_ref().filter(|_| !told) {
                        // A session may be older than its details are kept.
                        let record = record.as_ref().clone().aged(now, &self.config.privacy);
                        batch = put(batch, *account, &key_of(*stamp), &record);
                    }
                    if !ended && self.notes.to_prune(*account, now) {
                        batch = self.prune(*account, now, batch).await?;
                    }
                }
            }
        }
        for (jid, refused) in refused {
            if let Some(account) = self.account(jid.as_str()).await? {
                batch = self.refused_batch(account.id, &refused, batch).await?;
            }
        }
        Ok(batch.and(self.seen_batch(&seen).await?))
    }

    /// Removes some logins of an account that are past.
    async fn prune(
        &self,
        account: AccountId,
        now: Millis,
        mut batch: Batch,
    ) -> Result<Batch, StoreError> {
        let before = self.history_cutoff(now);
        let range = Range { before, limit: PRUNE, ..Range::default() };
        let rows = self.store.rows(&LOGIN, account.0, range).await?;
        if rows.len() == PRUNE {
            self.notes.prune_again(account);
        }
        for row in rows {
            if let Some(change) = age(self, account.0, &row, now) {
                batch = batch.and(change);
            }
        }
        Ok(batch)
    }

    /// Refused logins that are alike become one row, and those from very many addresses become one
    /// row without an address, so that whoever tries passwords does not fill the disk.
    async fn refused_batch(
        &self,
        account: AccountId,
        refused: &[&Refused],
        mut batch: Batch,
    ) -> Result<Batch, StoreError> {
        let now = self.clock.now();
        let since = Millis(now.0.saturating_sub(WINDOW * 1000));
        let range = Range {
            after: Some(key_of(first_stamp(since))),
            reverse: true,
            limit: LOOK,
            ..Range::default()
        };
        // By row: what was there, and what is to be.
        let mut there = Vec::new();
        for row in self.store.rows(&LOGIN, account.0, range).await? {
            let record: Option<LoginRecord> = decode(&LOGIN, &row.value).ok();
            if let Some(record) = record.filter(|record| record.refused.is_some()) {
                there.push((row.key, Some(row.value), record, false));
            }
        }
        for one in refused {
            let shown = one.address.to_string();
            let like = |record: &LoginRecord, address: Option<&str>| {
                let reason = record.refused.as_ref().map(|refused| refused.reason.as_str());
                let addresses = match (record.address.as_deref(), address) {
                    (Some(one), Some(other)) => same_peer(one, other),
                    (one, other) => one == other,
                };
                addresses && reason == Some(one.reason)
            };
            let full = there.len() >= REFUSED;
            let place = there.iter().position(|(_, _, record, _)| like(record, Some(&shown)));
            let place = place.or_else(|| {
                full.then(|| there.iter().position(|(_, _, record, _)| like(record, None)))
                    .flatten()
            });
            match place.and_then(|place| there.get_mut(place)) {
                Some((_, _, record, changed)) => {
                    *changed = true;
                    record.session = one.session.to_string();
                    if let Some(refused) = &mut record.refused {
                        refused.count += one.count;
                        refused.last = refused.last.max(one.last);
                    }
                }
                None => {
                    let record = LoginRecord {
                        at: one.at,
                        jid: capped(one.jid.as_str()),
                        session: one.session.to_string(),
                        address: (!full).then_some(shown),
                        mechanism: one.mechanism.map(|mechanism| mechanism.as_str().into()),
                        token: None,
                        software: None,
                        refused: Some(Refusal {
                            reason: one.reason.into(),
                            count: one.count,
                            last: one.last,
                        }),
                        end: None,
                    };
                    there.push((key_of(one.stamp), None, record, true));
                }
            }
        }
        for (key, before, record, _) in there.into_iter().filter(|(.., changed)| *changed) {
            let expected = batch.expect(&LOGIN, account.0, key.clone(), before);
            batch = put(expected, account, &key, &record);
        }
        Ok(batch)
    }
}

/// Whether two addresses, as stored, are those of one peer.
fn same_peer(one: &str, other: &str) -> bool {
    let network = |text: &str| text.parse::<IpAddr>().ok().map(peer_network);
    one == other || network(one).is_some_and(|one| Some(one) == network(other))
}

/// Several refusals that are alike become one with a count.
fn merged(notes: Vec<Note>) -> Vec<Note> {
    let mut merged: Vec<Note> = Vec::new();
    let mut places: HashMap<(Jid, IpAddr, &'static str), usize> = HashMap::new();
    for note in notes {
        if let Note::Refused(new) = &note {
            let key = (new.jid.clone(), peer_network(new.address), new.reason);
            if let Some(Note::Refused(old)) =
                places.get(&key).and_then(|place| merged.get_mut(*place))
            {
                old.count += new.count;
                (old.last, old.session) = (new.last, new.session);
                continue;
            }
            places.insert(key, merged.len());
        }
        merged.push(note);
    }
    merged
}
