//! Who did what to whom, when, and how it went. Append-only: rows are written, never changed.

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
        let value = serde_json::to_vec(entry).unwrap_or_default();
        let key = Bytes::copy_from_slice(&self.stamp().to_be_bytes());
        self.store.commit(Batch::new().put(&AUDIT, SERVER, key, value)).await
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
