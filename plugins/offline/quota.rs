//! How much of an account's messages is stored, in a row of its own that changes together with them:
//! nobody counts messages to know whether one more may come.

use serde::{Deserialize, Serialize};
use server::{
    Server,
    id::AccountId,
    store::{Batch, StoreError, Table},
};
use tokio::sync::Mutex;

/// What is stored, by account.
pub static USAGE: Table =
    Table { name: "offline_usage", about: "number and bytes of messages in `offline`" };

/// The one row of an account.
const KEY: &[u8] = b"usage";

/// Changes of so many accounts may be under way at a time.
const LANES: u64 = 64;

/// Number and bytes of an account's stored messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Usage {
    /// With one more message, unless that is more than the configuration lets an account have.
    pub(super) fn plus(self, bytes: usize, server: &Server) -> Option<Self> {
        let limits = &server.config.storage_limits;
        let more = Self { messages: self.messages + 1, bytes: self.bytes + bytes as u64 };
        (more.messages <= limits.offline_messages && more.bytes <= limits.offline_bytes)
            .then_some(more)
    }

    /// With these messages, however many there are.
    pub(super) fn with(self, messages: usize, bytes: usize) -> Self {
        Self { messages: self.messages + messages as u64, bytes: self.bytes + bytes as u64 }
    }

    /// Without these messages.
    pub(super) fn minus(self, messages: usize, bytes: usize) -> Self {
        Self {
            messages: self.messages.saturating_sub(messages as u64),
            bytes: self.bytes.saturating_sub(bytes as u64),
        }
    }
}

/// Where changes of one account wait for each other, rather than trying again and again.
pub(super) struct Lanes([Mutex<()>; LANES as usize]);

impl Default for Lanes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Lanes {
    /// Commits a batch together with the usage that it leads to. False: `change` does not allow it,
    /// and nothing was written.
    ///
    /// # Errors
    /// When storage fails; nothing was written then.
    pub(super) async fn commit(
        &self,
        server: &Server,
        account: AccountId,
        batch: Batch,
        change: impl Fn(Usage) -> Option<Usage>,
    ) -> Result<bool, StoreError> {
        let lane = usize::try_from(account.0 % LANES).unwrap_or(0);
        let _turn = self.0[lane].lock().await;
        loop {
            let row = server.store.get(&USAGE, account.0, KEY).await?;
            let corrupt = |why: serde_json::Error| StoreError::Corrupt {
                table: USAGE.name,
                why: why.to_string(),
            };
            let usage = row.as_ref().map(|row| serde_json::from_slice(row)).transpose();
            let Some(usage) = change(usage.map_err(corrupt)?.unwrap_or_default()) else {
                return Ok(false);
            };
            let value = serde_json::to_vec(&usage).map_err(corrupt)?;
            let whole = Batch::new()
                .expect(&USAGE, account.0, KEY, row)
                .put(&USAGE, account.0, KEY, value)
                .and(batch.clone());
            match server.store.commit(whole).await {
                // Another server on the same data.
                Err(StoreError::Conflict) => {}
                other => return other.map(|()| true),
            }
        }
    }
}
