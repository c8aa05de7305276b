//! Who did what to whom, when, and how it went. Append-only, and chained: every entry carries a keyed
//! hash over itself and the hash of the one before it, and a row of its own tells the last hash and
//! the number of entries. Whoever changes, removes or inserts an entry in the database, without the
//! server's key, breaks the chain at that place; [`Server::verify_audit`] finds it. What it cannot
//! find is a whole database put back to an earlier state: for that, note the last hash elsewhere.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Server,
    clock::Millis,
    store::{Batch, Range, SERVER, StoreError, Table},
};

/// The audit by stamp.
pub static AUDIT: Table = Table { name: "audit", about: "acts of administration, in order" };
/// Where the audit ends.
pub static AUDIT_HEAD: Table =
    Table { name: "audit_head", about: "the audit's last hash and number of entries" };

/// The one row of [`AUDIT_HEAD`].
const HEAD: &[u8] = b"head";
/// What is between an entry and its hash in a row: the entry is a JSON object, of which the hash
/// becomes the last field.
const LINK: &str = ",\"link\":\"";
/// Rows that are read at a time.
const PAGE: usize = 500;

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
        let text = serde_json::to_string(entry).map_err(corrupt)?;
        loop {
            let (head, row) = self.audit_head().await?;
            let link = self.link(&head.link, &text);
            // Clocks go back; the audit does not.
            let stamp = self.stamp().max(head.stamp + 1);
            let open = text.strip_suffix('}').unwrap_or(&text);
            let value = format!("{open}{LINK}{link}\"}}");
            let head = Head { count: head.count + 1, link, stamp };
            let batch = Batch::new()
                .expect(&AUDIT_HEAD, SERVER, HEAD, row)
                .put(&AUDIT, SERVER, Bytes::copy_from_slice(&stamp.to_be_bytes()), value)
                .put(&AUDIT_HEAD, SERVER, HEAD, serde_json::to_vec(&head).map_err(corrupt)?);
            match self.store.commit(batch).await {
                // Another entry came first; this one goes behind it.
                Err(StoreError::Conflict) => {}
                other => return other,
            }
        }
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
        let range = Range { reverse: true, limit, ..Range::default() };
        let rows = self.store.rows(&AUDIT, SERVER, range).await?;
        rows.iter()
            .map(|row| {
                serde_json::from_slice(&row.value)
                    .map_err(|why| StoreError::Corrupt { table: AUDIT.name, why: why.to_string() })
            })
            .collect()
    }
}
