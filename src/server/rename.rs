//! Another name for an account. All that it has hangs on its internal id and stays; what hangs on the
//! name is here. Nobody can be at a name that is not there, so all sessions of the old one end, and a
//! token names its owner, so that none from before opens anything; unless `on.rename` is `nobody`, its
//! grants are void as well.
//!
//! The old name is kept back: it stands in the rosters of others, who trust whoever has it.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wire::Jid;

use crate::{
    Server,
    account::{ACCOUNTS, Account, AccountError},
    clock::Millis,
    config::Who,
    end::{Actor, Reason},
    id::AccountId,
    store::{Batch, SERVER, StoreError, Table},
};

/// Names that accounts had before.
pub static FORMER_NAMES: Table =
    Table { name: "former_name", about: "names that accounts had before, kept back from others" };

/// Whose name it was.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Former {
    account: AccountId,
    /// Until when.
    at: Millis,
}

fn key(jid: &Jid) -> Bytes {
    Bytes::copy_from_slice(jid.as_str().as_bytes())
}

impl Server {
    /// Whose former name this is, with its row.
    pub(crate) async fn former_name(
        &self,
        jid: &Jid,
    ) -> Result<Option<(AccountId, Bytes)>, StoreError> {
        let Some(row) = self.store.get(&FORMER_NAMES, SERVER, &key(jid)).await? else {
            return Ok(None);
        };
        let former: Former = serde_json::from_slice(&row).map_err(|why| StoreError::Corrupt {
            table: FORMER_NAMES.name,
            why: why.to_string(),
        })?;
        Ok(Some((former.account, row)))
    }

    /// Gives an account another name, and ends the sessions of the old one. Gives their number.
    ///
    /// # Errors
    /// [`AccountError`]; nothing has changed then, unless storage failed after that.
    pub async fn rename_account(
        self: &Arc<Self>,
        old: &Jid,
        new: &Jid,
        actor: Actor,
    ) -> Result<usize, AccountError> {
        self.account_address(new)?;
        let void = self.config.on.rename != Who::Nobody;
        let account = loop {
            let row = self.store.get(&ACCOUNTS, SERVER, old.as_str().as_bytes()).await?;
            let row = row.ok_or_else(|| AccountError::Unknown(old.as_str().into()))?;
            let mut account = Account::decode(&row)?;
            if self.account(new.as_str()).await?.is_some() {
                return Err(AccountError::Exists(new.as_str().into()));
            }
            let former = self.former_name(new).await?;
            if former.as_ref().is_some_and(|(whose, _)| *whose != account.id) {
                return Err(AccountError::Former(new.as_str().into()));
            }
            account.jid = new.as_str().into();
            if void {
                account.epoch.raise(false);
            }
            let was = Former { account: account.id, at: self.clock.now() };
            let batch = Batch::new()
                .expect(&ACCOUNTS, SERVER, key(old), Some(row))
                .expect(&ACCOUNTS, SERVER, key(new), None)
                .expect(&FORMER_NAMES, SERVER, key(new), former.map(|(_, row)| row))
                .delete(&ACCOUNTS, SERVER, key(old))
                .delete(&FORMER_NAMES, SERVER, key(new))
                .put(&ACCOUNTS, SERVER, key(new), account.encode())
                .put(&FORMER_NAMES, SERVER, key(old), serde_json::to_vec(&was).unwrap_or_default())
                .and(self.renamed_clients(account.id, new).await?);
            let outcome = self.store.commit(batch).await;
            self.forget_known_clients(account.id);
            self.known_accounts.forget(old.as_str());
            self.known_accounts.forget(new.as_str());
            match outcome {
                Ok(()) => break account,
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        };
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        tracing::info!(event = "account-renamed", from = old.as_str(), to = new.as_str());
        let ended = self.end_account(old, Reason::Renamed, actor, Who::All, None).await;
        // A login that was under way may have made one more client by the old name.
        loop {
            let late = self.renamed_clients(account.id, new).await?;
            let outcome = self.store.commit(late).await;
            self.forget_known_clients(account.id);
            match outcome {
                Err(StoreError::Conflict) => {}
                other => break other?,
            }
        }
        Ok(ended)
    }
}
