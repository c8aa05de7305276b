//! Who did what to whom, when, and how it went. Append-only, and chained: every entry carries a keyed
//! hash over itself and the hash of the one before it, and a row of its own tells the last hash and
//! the number of entries. Whoever changes, removes or inserts an entry in the database, without the
//! server's key, breaks the chain at that place; [`Server::verify_audit`] finds it. What it cannot
//! find is a whole database put back to an earlier state: for that, note the last hash elsewhere.
//!
//! A second table says which entries are about an account, so that its owner can read those. Its rows
//! are references and nothing else: they go with the account, and the chain stays.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Server,
    clock::Millis,
    id::AccountId,
    store::{Batch, Range, SERVER, StoreError, Table},
};

/// The audit by stamp.
pub static AUDIT: Table = Table { name: "audit", about: "acts of administration, in order" };
/// Where the audit ends.
pub static AUDIT_HEAD: Table =
    Table { name: "audit_head", about: "the audit's last hash and number of entries" };
/// Which entries of the audit are about an account: their stamps.
pub static AUDIT_OF: Table =
    Table { name: "audit_of", about: "which entries of the audit are about an account" };

/// The one row of [`AUDIT_HEAD`].
const HEAD: &[u8] = b"head";
/// What is between an entry and its hash in a row: the entry is a JSON object, of which the hash
/// becomes the last field.
const LINK: &str = ",\"link\":\"";
/// Rows that are read at a time.
const PAGE: usize = 500;
/// Accounts that an entry names at most. All have their reference.
const NAMED: usize = 100;
/// Accounts of one entry that are looked for again before it is written: one that has just been
/// deleted needs no reference.
const LOOKED_FOR: usize = 8;

/// One act.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When it was over.
    pub at: Millis,
    /// Who: `uid:1000`.
    pub who: String,
    /// Which command.
    pub what: String,
    /// Its arguments, secrets left out.
    pub args: Map<String, Value>,
    /// Whether it could be done.
    pub ok: bool,
    /// How it went, in words.
    pub outcome: String,
    /// The accounts that it is about. Entries of earlier versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<Subject>,
}

/// An account that an entry is about, as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its internal id.
    pub id: AccountId,
    /// Its address.
    pub jid: String,
}

/// The end of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How many entries there are.
    pub count: u64,
    /// The hash of the last one, base64; empty before the first.
    pub link: String,
    /// The key of the last one.
    stamp: u64,
}

/// Why the audit is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// An entry does not follow from the ones before it.
    #[error("entry {number} was changed, or entries before it were removed or inserted: {row}")]
    Broken {
        /// Its place, from 1.
        number: u64,
        /// The row as it stands, as far as it is text.
        row: String,
    },
    /// All entries follow from each other, and do not end where they should.
    #[error("{missing} entries are missing at the end")]
    CutOff {
        /// How many.
        missing: u64,
    },
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Server {
    /// Writes an entry; it is durable when this returns.
    ///
    /// # Errors
    /// When storage fails: the act is done then, but nobody will know, so tell somebody.
    pub async fn audit(&self, entry: &Entry) -> Result<(), StoreError> {
        let args = Value::Object(entry.args.clone());
        tracing::info!(
            event = "audit",
            who = entry.who,
            what = entry.what,
            %args,
            ok = entry.ok,
            outcome = entry.outcome,
        );
        let corrupt = |why: serde_json::Error| StoreError::Corrupt {
            table: AUDIT.name,
            why: why.to_string(),
        };
        let text = if entry.accounts.len() > NAMED {
            let accounts = entry.accounts.iter().take(NAMED).cloned().collect();
            serde_json::to_string(&Entry { accounts, ..entry.clone() })
        } else {
            serde_json::to_string(entry)
        };
        let text = text.map_err(corrupt)?;
        let owners = self.owners(&entry.accounts).await?;
        loop {
            let (head, row) = self.audit_head().await?;
            let link = self.link(&head.link, &text);
            // Clocks go back; the audit does not.
            let stamp = self.stamp().max(head.stamp + 1);
            let open = text.strip_suffix('}').unwrap_or(&text);
            let value = format!("{open}{LINK}{link}\"}}");
            let head = Head { count: head.count + 1, link, stamp };
            let key = Bytes::copy_from_slice(&stamp.to_be_bytes());
            let mut batch = Batch::new()
                .expect(&AUDIT_HEAD, SERVER, HEAD, row)
                .put(&AUDIT, SERVER, key.clone(), value)
                .put(&AUDIT_HEAD, SERVER, HEAD, serde_json::to_vec(&head).map_err(corrupt)?);
            for owner in &owners {
                batch = batch.put(&AUDIT_OF, owner.0, key.clone(), Bytes::new());
            }
            match self.store.commit(batch).await {
                // Another entry came first; this one goes behind it.
                Err(StoreError::Conflict) => {}
                other => return other,
            }
        }
    }

    /// Writes down something that the server itself has noticed and that somebody should look at,
    /// without making anybody wait.
    pub(crate) fn alarm(self: &Arc<Self>, what: &str, args: Map<String, Value>, outcome: &str) {
        let entry = Entry {
            at: self.clock.now(),
            who: "server".into(),
            what: what.into(),
            args,
            ok: false,
            outcome: outcome.into(),
            accounts: Vec::new(),
        };
        let server = self.clone();
        self.spawn(async move {
            if let Err(error) = server.audit(&entry).await {
                tracing::error!(event = "audit-not-written", what = entry.what, %error);
            }
        });
    }

    /// Who gets a reference to an entry about these accounts.
    async fn owners(&self, accounts: &[Subject]) -> Result<Vec<AccountId>, StoreError> {
        if accounts.len() > LOOKED_FOR {
            return Ok(accounts.iter().map(|subject| subject.id).collect());
        }
        let mut owners = Vec::new();
        for subject in accounts {
            let account = self.account(&subject.jid).await?;
            owners.extend(account.filter(|there| there.id == subject.id).map(|there| there.id));
        }
        Ok(owners)
    }

    async fn audit_head(&self) -> Result<(Head, Option<Bytes>), StoreError> {
        let row = self.store.get(&AUDIT_HEAD, SERVER, HEAD).await?;
        let head =
            row.as_ref().map(|row| serde_json::from_slice(row)).transpose().map_err(|why| {
                StoreError::Corrupt { table: AUDIT_HEAD.name, why: why.to_string() }
            })?;
        Ok((head.unwrap_or_default(), row))
    }

    /// The hash that ties an entry to the one before it.
    fn link(&self, before: &str, entry: &str) -> String {
        // A hash is of one length, or empty before the first, so the two cannot be taken apart
        // differently.
        let input = [before.as_bytes(), b"\n", entry.as_bytes()].concat();
        STANDARD.encode(self.keys.derive("audit", &input))
    }

    /// Reads the whole audit and checks that it is what was written. Gives its end.
    ///
    /// # Errors
    /// [`AuditError`] names the first place where it is not.
    pub async fn verify_audit(&self) -> Result<Head, AuditError> {
        let (end, _) = self.audit_head().await?;
        let (mut number, mut link, mut after) = (0, String::new(), None);
        'pages: loop {
            let rows = self.store.rows(&AUDIT, SERVER, Range::page(after.take(), PAGE)).await?;
            for row in &rows {
                // Entries that were written since the end was read are for the next time.
                if number == end.count {
                    break 'pages;
                }
                number += 1;
                let text = String::from_utf8_lossy(&row.value);
                let broken =
                    || AuditError::Broken { number, row: text.chars().take(200).collect() };
                let (entry, tail) = text.rsplit_once(LINK).ok_or_else(broken)?;
                let expected = self.link(&link, &format!("{entry}}}"));
                if tail.strip_suffix("\"}") != Some(expected.as_str()) {
                    return Err(broken());
                }
                link = expected;
            }
            match rows.last() {
                Some(last) => after = Some(last.key.clone()),
                None => break,
            }
        }
        if number < end.count || link != end.link {
            return Err(AuditError::CutOff { missing: end.count - number });
        }
        Ok(end)
    }

    /// The latest entries, newest first.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn audit_tail(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let page = self.audit_page(None, None, limit).await?;
        Ok(page.into_iter().map(|(_, entry)| entry).collect())
    }

    /// The latest entries about one account, newest first.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn audit_of(
        &self,
        account: AccountId,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let page = self.audit_page(Some(account), None, limit).await?;
        Ok(page.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Entries with their stamps, newest first: those about one account, or all; those from before a
    /// stamp, or the latest.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn audit_page(
        &self,
        about: Option<AccountId>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Entry)>, StoreError> {
        let before = before.map(|stamp| Bytes::copy_from_slice(&stamp.to_be_bytes()));
        let range = Range { before, reverse: true, limit, ..Range::default() };
        let (table, owner) = about.map_or((&AUDIT, SERVER), |account| (&AUDIT_OF, account.0));
        let mut entries = Vec::new();
        for row in self.store.rows(table, owner, range).await? {
            let stamp = u64::from_be_bytes(row.key.as_ref().try_into().unwrap_or_default());
            let value = match about {
                Some(_) => self.store.get(&AUDIT, SERVER, &row.key).await?,
                None => Some(row.value),
            };
            if let Some(value) = value {
                entries.push((stamp, decode(&value)?));
            }
        }
        Ok(entries)
    }
}

fn decode(row: &Bytes) -> Result<Entry, StoreError> {
    serde_json::from_slice(row)
        .map_err(|why| StoreError::Corrupt { table: AUDIT.name, why: why.to_string() })
}
