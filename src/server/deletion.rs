//! Deletion with grace: an account is disabled at once and deleted later, unless somebody takes that
//! back. When and by which plan stands in its row, so that what is planned deletes this account and no
//! later one of its name, and nobody whose deletion was taken back.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wire::Jid;

use crate::{
    Server,
    account::{Account, AccountError},
    clock::Millis,
    config::Who,
    end::{Actor, Reason},
};

/// An account that is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// When.
    pub at: Millis,
    /// What is planned for that, by its number in the schedule.
    pub plan: u64,
    /// It is to stay disabled if it is not deleted.
    pub disabled: bool,
}

impl Deletion {
    /// Whether its time has come.
    #[must_use]
    pub fn is_due(&self, now: Millis) -> bool {
        self.at <= now
    }
}

impl Server {
    /// Disables an account that is to be deleted at a time for which that is planned, and ends its
    /// sessions but for `spared`. Gives the number of those that ended.
    ///
    /// # Errors
    /// [`AccountError`]; it is not to be deleted then.
    pub async fn delete_later(
        self: &Arc<Self>,
        jid: &Jid,
        (at, plan): (Millis, u64),
        actor: Actor,
    ) -> Result<usize, AccountError> {
        self.change_account(jid, |account| {
            let disabled = account.deletion.map_or(account.disabled, |before| before.disabled);
            account.deletion = Some(Deletion { at, plan, disabled });
            account.disabled = true;
        })
        .await?;
        Ok(self.end_account(jid, Reason::AccountDeleted, actor, Who::All, None).await)
    }

    /// Takes back that an account is to be deleted: it is what it was before. `None`: it was not to be
    /// deleted.
    ///
    /// # Errors
    /// [`AccountError`]; it is still to be deleted then.
    pub async fn restore_account(&self, jid: &Jid) -> Result<Option<Account>, AccountError> {
        let mut before = None;
        let account = self.change_account(jid, |account| {
            before = account.deletion.take();
            if let Some(before) = before {
                account.disabled = before.disabled;
            }
        });
        let account = account.await?;
        let Some(before) = before else { return Ok(None) };
        if !account.disabled {
            self.note_enabled(jid).await?;
        }
        // If this fails, what is planned finds that there is nothing to do.
        self.unplan(before.plan).await?;
        Ok(Some(account))
    }
}
