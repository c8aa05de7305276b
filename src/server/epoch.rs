//! Epochs: numbers that outlaw everything from before them, at once and without looking at it. There
//! is one for the server, one for each host, one for each account and one for each grant. Whatever is
//! made notes the numbers in force; when one is raised, what notes an older one is void, unless that
//! older one is on the list of those that are still accepted.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::{
    Server,
    account::Account,
    store::{Batch, SERVER, StoreError, Table},
};

/// Epochs of the server and its hosts.
pub static EPOCHS: Table = Table { name: "epoch", about: "epochs of the server and its hosts" };

/// One counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// What is made now notes this.
    pub current: u64,
    /// Older ones that still count.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub accepted: BTreeSet<u64>,
}

impl Epoch {
    /// Whether what notes `noted` is still good.
    #[must_use]
    pub fn accepts(&self, noted: u64) -> bool {
        noted == self.current || self.accepted.contains(&noted)
    }

    /// Raises it. With `grace`, what was good until now stays so; without, all of it is void.
    pub fn raise(&mut self, grace: bool) {
        if grace {
            self.accepted.insert(self.current);
        } else {
            self.accepted.clear();
        }
        self.current += 1;
    }

    /// Whether it was never raised: such ones need not be stored.
    #[must_use]
    pub fn is_first(&self) -> bool {
        *self == Self::default()
    }
}

/// The epochs that something was made in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The server's.
    #[serde(default)]
    pub server: u64,
    /// The host's.
    #[serde(default)]
    pub host: u64,
    /// The account's.
    #[serde(default)]
    pub account: u64,
}

/// The epochs in force for one account.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    /// The server's.
    pub server: Epoch,
    /// The host's.
    pub host: Epoch,
    /// The account's.
    pub account: Epoch,
}

impl InForce {
    /// What is made now notes this.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let (server, host) = (self.server.current, self.host.current);
        Stamp { server, host, account: self.account.current }
    }

    /// Whether what was stamped so is still good.
    #[must_use]
    pub fn accepts(&self, stamp: Stamp) -> bool {
        self.server.accepts(stamp.server)
            && self.host.accepts(stamp.host)
            && self.account.accepts(stamp.account)
    }
}

/// Whose epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Everybody's.
    Server,
    /// That of all accounts of a domain.
    Host(&'a str),
}

impl Scope<'_> {
    fn key(self) -> String {
        match self {
            Self::Server => "server".into(),
            Self::Host(name) => format!("host:{name}"),
        }
    }
}

/// The epochs of the server and its hosts, as stored; read once.
#[derive(Default)]
pub(crate) struct Epochs(tokio::sync::OnceCell<RwLock<BTreeMap<String, Epoch>>>);

fn decode(row: &[u8]) -> Result<Epoch, StoreError> {
    serde_json::from_slice(row)
        .map_err(|why| StoreError::Corrupt { table: EPOCHS.name, why: why.to_string() })
}

impl Server {
    async fn epochs(&self) -> Result<&RwLock<BTreeMap<String, Epoch>>, StoreError> {
        let read = || async {
            let mut epochs = BTreeMap::new();
            for row in self.store.rows(&EPOCHS, SERVER, crate::store::Range::all()).await? {
                let name = String::from_utf8_lossy(&row.key).into_owned();
                epochs.insert(name, decode(&row.value)?);
            }
            Ok(RwLock::new(epochs))
        };
        self.epochs.0.get_or_try_init(read).await
    }

    /// The epochs in force for an account.
    ///
    /// # Errors
    /// When storage fails: whatever they were to outlaw must not be let in then.
    pub async fn epochs_of(&self, account: &Account) -> Result<InForce, StoreError> {
        let epochs = self.epochs().await?.read();
        let of = |scope: Scope<'_>| {
            // Most servers never raise one: nothing is allocated for them.
            if epochs.is_empty() { None } else { epochs.get(&scope.key()).cloned() }
        };
        let host = account.jid.rsplit_once('@').map_or("", |(_, host)| host);
        Ok(InForce {
            server: of(Scope::Server).unwrap_or_default(),
            host: of(Scope::Host(host)).unwrap_or_default(),
            account: account.epoch.clone(),
        })
    }

    /// The epoch of the server or a host.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn epoch(&self, scope: Scope<'_>) -> Result<Epoch, StoreError> {
        Ok(self.epochs().await?.read().get(&scope.key()).cloned().unwrap_or_default())
    }

    /// Raises the epoch of the server or a host, durably. The caller ends the sessions that it
    /// outlaws. Gives the new one.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub(crate) async fn store_epoch(
        &self,
        scope: Scope<'_>,
        grace: bool,
    ) -> Result<Epoch, StoreError> {
        let key = scope.key();
        let epochs = self.epochs().await?;
        loop {
            let row = self.store.get(&EPOCHS, SERVER, key.as_bytes()).await?;
            let mut epoch = row.as_deref().map(decode).transpose()?.unwrap_or_default();
            epoch.raise(grace);
            let value = serde_json::to_vec(&epoch).unwrap_or_default();
            let batch = Batch::new().expect(&EPOCHS, SERVER, key.clone().into_bytes(), row).put(
                &EPOCHS,
                SERVER,
                key.clone().into_bytes(),
                value,
            );
            match self.store.commit(batch).await {
                Ok(()) => {
                    epochs.write().insert(key, epoch.clone());
                    return Ok(epoch);
                }
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lj_23_what_is_older_is_void_unless_it_was_given_grace() {
        let mut epoch = Epoch::default();
        epoch.raise(false);
        assert!(!epoch.accepts(0) && epoch.accepts(1) && !epoch.accepts(2));
        epoch.raise(true);
        assert!(!epoch.accepts(0) && epoch.accepts(1) && epoch.accepts(2));
        epoch.raise(true);
        assert!(epoch.accepts(1) && epoch.accepts(2) && epoch.accepts(3));
        epoch.raise(false);
        assert!((0..4).all(|old| !epoch.accepts(old)) && epoch.accepts(4));
    }
}
