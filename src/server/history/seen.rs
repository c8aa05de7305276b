//! When an account was used last: a small row of its own, which outlives the history. It answers
//! who is gone for good, and holds the rule for dormant accounts (`auth.dormant`).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wire::Jid;

use super::{decode, encode};
use crate::{
    Server,
    clock::Millis,
    id::AccountId,
    store::{Batch, SERVER, StoreError, Table},
};

/// When accounts were used last.
pub static LAST_SEEN: Table =
    Table { name: "last_seen", about: "when accounts logged in and did anything last" };

/// The one row of an account.
pub(super) const KEY: &[u8] = b"last";
/// The server's own row: since when there is this table.
const SINCE: &[u8] = b"since";
/// Sessions whose activity is written at a time.
const SESSIONS: usize = 200;

/// When an account was used last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its last login.
    pub login: Millis,
    /// The last stanza of one of its sessions; to within an hour while it is there.
    pub active: Millis,
    /// When an administrator enabled it last.
    #[serde(default)]
    pub enabled: Millis,
}

impl Seen {
    /// The later one of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            login: self.login.max(other.login),
            active: self.active.max(other.active),
            enabled: self.enabled.max(other.enabled),
        }
    }
}

impl Server {
    /// When an account was used last, if ever; of sessions that are there, to within an hour.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn last_seen(&self, account: AccountId) -> Result<Option<Seen>, StoreError> {
        let row = self.store.get(&LAST_SEEN, account.0, KEY).await?;
        row.map(|row| decode(&LAST_SEEN, &row)).transpose()
    }

    /// A batch that writes what is new, only as long as nobody else does.
    pub(super) async fn seen_batch(&self, new: &BTreeMap<u64, Seen>) -> Result<Batch, StoreError> {
        let mut batch = Batch::new();
        for (owner, new) in new {
            let known = self.notes.seen.lock().get(owner).cloned();
            let row = match known {
                Some(known) => known,
                None => self.store.get(&LAST_SEEN, *owner, KEY).await?,
            };
            // What cannot be read is written anew.
            let old: Option<Seen> = row.as_ref().and_then(|row| decode(&LAST_SEEN, row).ok());
            let merged = old.unwrap_or_default().max(*new);
            if Some(merged) == old {
                self.notes.saw(*owner, row);
            } else {
                let key = Bytes::from_static(KEY);
                let value = encode(&merged);
                self.notes.saw(*owner, Some(value.clone()));
                batch = batch
                    .expect(&LAST_SEEN, *owner, key.clone(), row)
                    .put(&LAST_SEEN, *owner, key, value);
            }
        }
        Ok(batch)
    }

    /// Writes what is new about one or more accounts.
    async fn write_seen(&self, new: &BTreeMap<u64, Seen>) -> Result<(), StoreError> {
        loop {
            let outcome = self.store.commit(self.seen_batch(new).await?).await;
            if outcome.is_err() {
                self.notes.forget_seen();
            }
            match outcome {
                Err(StoreError::Conflict) => {}
                other => return other,
            }
        }
    }

    /// An administrator has enabled an account: it counts as used.
    ///
    /// # Errors
    /// When storage fails.
    pub(crate) async fn note_enabled(&self, jid: &Jid) -> Result<(), StoreError> {
        let Some(account) = self.account(jid.as_str()).await? else { return Ok(()) };
        let enabled = Seen { enabled: self.clock.now(), ..Seen::default() };
        self.write_seen(&BTreeMap::from([(account.id.0, enabled)])).await
    }

    /// Notes when the sessions that are there have done anything last: a crash takes no more of it
    /// than the time between two rounds.
    pub(super) async fn note_all_active(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.registry.page(after, SESSIONS);
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            let mut new: BTreeMap<u64, Seen> = BTreeMap::new();
            for session in page.iter().filter(|session| session.alive()) {
                let Some(identity) = session.identity() else { continue };
                let active = session.last_activity().max(identity.proved);
                let seen = Seen { login: identity.proved, active, enabled: Millis(0) };
                let entry = new.entry(identity.account.0).or_default();
                *entry = entry.max(seen);
            }
            if !new.is_empty() {
                self.write_seen(&new).await?;
            }
        }
    }

    /// Whether an account was not used for as long as `auth.dormant` allows. One that was made or
    /// enabled lately was not, nor is one whose use was not noted yet because the server is new.
    ///
    /// # Errors
    /// When storage fails.
    pub(crate) async fn is_dormant(
        &self,
        account: AccountId,
        created: Millis,
        jid: &str,
    ) -> Result<bool, StoreError> {
        let Some(limit) = self.config.auth.dormant.get() else { return Ok(false) };
        let passed = |at: Millis| at.plus_seconds(limit) <= self.clock.now();
        if !passed(created) || !self.registry.of(jid).is_empty() {
            return Ok(false);
        }
        let used = match self.last_seen(account).await? {
            Some(seen) => seen.login.max(seen.active).max(seen.enabled),
            None => self.seen_since().await?,
        };
        Ok(passed(used))
    }

    /// Since when it is noted who was here: since it was asked for the first time.
    async fn seen_since(&self) -> Result<Millis, StoreError> {
        let key = Bytes::from_static(SINCE);
        loop {
            if let Some(row) = self.store.get(&LAST_SEEN, SERVER, SINCE).await? {
                return decode(&LAST_SEEN, &row);
            }
            let now = self.clock.now();
            let batch = Batch::new().expect(&LAST_SEEN, SERVER, key.clone(), None);
            match self.store.commit(batch.put(&LAST_SEEN, SERVER, key.clone(), encode(&now))).await
            {
                Ok(()) | Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
