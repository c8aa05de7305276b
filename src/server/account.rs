//! Accounts: a bare JID with SCRAM keys and a role. No password is stored, only what RFC 5802 needs
//! to check one.

pub(crate) mod cache;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, thread};
use tokio::sync::Semaphore;
use wire::{Hash, Jid, ScramKeys, Secret};

use crate::{
    Server,
    clock::Millis,
    deletion::Deletion,
    epoch::Epoch,
    id::AccountId,
    policy::Policy,
    random,
    rename::FORMER_NAMES,
    store::{Batch, Range, SERVER, StoreError, Table},
};

/// Accounts by bare JID.
pub static ACCOUNTS: Table =
    Table { name: "account", about: "accounts: bare JID to SCRAM keys, role and standing" };

/// What an account may do: a fixed ladder, least powerful first. What each step may do to others is
/// in [`rights`](crate::rights); nobody acts on accounts of the own step or above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Chats only, and may not so much as see the own sessions: for bots, and for tokens.
    Restricted,
    /// Sees and ends what is the own account's.
    User,
    /// Sees sessions of others, addresses masked.
    Viewer,
    /// Sees addresses too, and ends sessions.
    Support,
    /// Also revokes, blocks and sets bounds.
    Operator,
    /// May do everything.
    Admin,
}

impl Role {
    /// All roles, least powerful first.
    pub const ALL: &'static [Self] =
        &[Self::Restricted, Self::User, Self::Viewer, Self::Support, Self::Operator, Self::Admin];
    /// The names, least powerful first.
    pub const NAMES: &'static [&'static str] =
        &["restricted", "user", "viewer", "support", "operator", "admin"];

    /// The name on every face.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::User => "user",
            Self::Viewer => "viewer",
            Self::Support => "support",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == name)
    }
}

/// An account as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Account {
    /// Internal id, on which everything else hangs.
    pub id: AccountId,
    /// Its bare JID.
    pub jid: String,
    /// What it may do.
    pub role: Role,
    /// May not log in.
    #[serde(default)]
    pub disabled: bool,
    /// When it was made.
    pub created: Millis,
    /// Grows with each change of the password; credentials of an earlier generation are void.
    pub generation: u64,
    /// How often its password was changed, whoever had to go because of that: tells which clients know
    /// the one it has now.
    #[serde(default)]
    pub passwords: u64,
    /// Raised to end everything from before; see [`crate::epoch`].
    #[serde(default, skip_serializing_if = "Epoch::is_first")]
    pub epoch: Epoch,
    /// What its sessions and clients may, where it differs from its groups and its host.
    #[serde(default, skip_serializing_if = "Policy::is_empty")]
    pub policy: Policy,
    /// Groups in the configuration whose policies count for it, the most important one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Nobody gets in before then: its sessions were ended with `--hold-off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Millis>,
    /// It is to be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// Keys for SCRAM-SHA-1.
    sha1: StoredKeys,
    /// Keys for SCRAM-SHA-256.
    sha256: StoredKeys,
}

/// SCRAM keys as stored, in base64.
#[derive(Clone, Serialize, Deserialize)]
struct StoredKeys {
    salt: String,
    iterations: u32,
    stored: String,
    server: String,
}

/// Whoever has them can pose as the server: they are in no log.
impl fmt::Debug for StoredKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredKeys(..)")
    }
}

impl From<&ScramKeys> for StoredKeys {
    fn from(keys: &ScramKeys) -> Self {
        Self {
            salt: STANDARD.encode(&keys.salt),
            iterations: keys.iterations,
            stored: STANDARD.encode(&keys.stored_key),
            server: STANDARD.encode(&keys.server_key),
        }
    }
}

impl StoredKeys {
    fn load(&self) -> Option<ScramKeys> {
        let decode = |text: &str| STANDARD.decode(text).ok();
        Some(ScramKeys {
            salt: decode(&self.salt)?,
            iterations: self.iterations,
            stored_key: decode(&self.stored)?,
            server_key: decode(&self.server)?,
        })
    }
}

/// Both sets of keys of one password.
#[derive(Clone)]
pub struct Keys {
    sha1: StoredKeys,
    sha256: StoredKeys,
}

/// Why an account could not be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// There is one of this name.
    #[error("account `{0}` exists already")]
    Exists(String),
    /// It was another account's name before.
    #[error("`{0}` was the name of another account and is kept back")]
    Former(String),
    /// The password cannot be used.
    #[error("the password cannot be used: {0}")]
    Password(String),
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is none of this name.
    #[error("there is no account `{0}`")]
    Unknown(String),
    /// The address cannot be that of an account here.
    #[error("`{0}` cannot be an account here: {1}")]
    Unsuitable(String, &'static str),
}

impl Account {
    /// Until when nobody may come in, if that is so now.
    #[must_use]
    pub fn held(&self, now: Millis) -> Option<Millis> {
        self.hold.filter(|until| now < *until)
    }

    /// Its keys for one hash; none if the row is damaged.
    #[must_use]
    pub fn keys(&self, hash: Hash) -> Option<ScramKeys> {
        match hash {
            Hash::Sha1 => self.sha1.load(),
            Hash::Sha256 => self.sha256.load(),
        }
    }

    pub(crate) fn decode(row: &Bytes) -> Result<Self, StoreError> {
        serde_json::from_slice(row)
            .map_err(|why| StoreError::Corrupt { table: ACCOUNTS.name, why: why.to_string() })
    }

    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }

    /// Takes on other keys of the same password.
    pub(crate) fn set_sha256(&mut self, keys: &ScramKeys) {
        self.sha256 = keys.into();
    }

    /// Takes on the keys of another password.
    pub(crate) fn set_keys(&mut self, keys: &Keys) {
        self.sha1 = keys.sha1.clone();
        self.sha256 = keys.sha256.clone();
        self.passwords += 1;
    }
}

/// Limits how many passwords are hashed at a time, so that logins and imports leave the processors
/// some air; waits for its turn without blocking a task.
pub(crate) struct Hashing(Arc<Semaphore>);

impl Default for Hashing {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(thread::available_parallelism().map_or(1, Into::into))))
    }
}

impl Hashing {
    /// Runs slow work off the reactor.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = self.0.clone().acquire_owned().await.ok()?;
        // The turn lasts as long as the work does, even if nobody waits for it any more.
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.ok()
    }
}

impl Server {
    /// The account of this bare JID.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn account(&self, bare: &str) -> Result<Option<Account>, StoreError> {
        let row = self.store.get(&ACCOUNTS, SERVER, bare.as_bytes()).await?;
        row.as_ref().map(Account::decode).transpose()
    }

    /// The same for a login, which looks again if anything has changed meanwhile: as it was a moment
    /// ago, if it was looked for lately.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub(crate) async fn account_at_login(
        &self,
        bare: &str,
    ) -> Result<Option<Arc<Account>>, StoreError> {
        let version = match self.known_accounts.find(bare) {
            Ok(known) => return Ok(known),
            Err(version) => version,
        };
        let account = self.account(bare).await?.map(Arc::new);
        self.known_accounts.keep(version, bare, account.clone());
        Ok(account)
    }

    /// Up to `limit` accounts behind `after` in order of their names (0: all).
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn accounts(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Account>, StoreError> {
        let after = after.map(|after| Bytes::copy_from_slice(after.as_bytes()));
        let rows = self.store.rows(&ACCOUNTS, SERVER, Range::page(after, limit)).await?;
        rows.iter().map(|row| Account::decode(&row.value)).collect()
    }

    /// Makes SCRAM keys of a password, off the reactor.
    ///
    /// # Errors
    /// [`AccountError::Password`] if it is empty or has characters that no client can send.
    pub async fn keys_of(&self, password: Secret) -> Result<Keys, AccountError> {
        let iterations = self.config.auth.scram_iterations;
        let (salt1, salt2) = (random::bytes::<16>(), random::bytes::<16>());
        let made = self.hashing.run(move || {
            let text = std::str::from_utf8(password.expose())
                .map_err(|_| String::from("it is not UTF-8"))?;
            if text.is_empty() {
                return Err("it is empty".into());
            }
            let derive = |hash, salt: &[u8]| {
                wire::derive(hash, text, salt, iterations).map_err(|why| why.to_string())
            };
            let (sha1, sha256) = (derive(Hash::Sha1, &salt1)?, derive(Hash::Sha256, &salt2)?);
            Ok(Keys { sha1: (&sha1).into(), sha256: (&sha256).into() })
        });
        let stopped = || StoreError::Unavailable("the server is stopping".into());
        made.await.ok_or_else(stopped)?.map_err(AccountError::Password)
    }

    /// Checks that an address can be that of an account here.
    ///
    /// # Errors
    /// [`AccountError::Unsuitable`].
    pub fn account_address(&self, jid: &Jid) -> Result<(), AccountError> {
        let unsuitable = |why| Err(AccountError::Unsuitable(jid.as_str().into(), why));
        match (jid.local(), jid.resource()) {
            (None, _) => unsuitable("it has no part before an `@`"),
            (_, Some(_)) => unsuitable("it has a resource; leave the part from the `/` on away"),
            _ if !self.is_local(jid.domain()) => unsuitable("its domain is not served here"),
            _ => Ok(()),
        }
    }

    /// Adds an account.
    ///
    /// # Errors
    /// [`AccountError`].
    pub async fn add_account(
        &self,
        jid: &Jid,
        keys: Keys,
        role: Role,
    ) -> Result<Account, AccountError> {
        self.account_address(jid)?;
        let now = self.clock.now();
        let account = Account {
            id: self.account_ids.next(now),
            jid: jid.as_str().into(),
            role,
            disabled: false,
            created: now,
            generation: 1,
            passwords: 0,
            epoch: Epoch::default(),
            policy: Policy::default(),
            groups: Vec::new(),
            hold: None,
            deletion: None,
            sha1: keys.sha1,
            sha256: keys.sha256,
        };
        let key = Bytes::copy_from_slice(jid.as_str().as_bytes());
        let batch = Batch::new()
            .expect(&ACCOUNTS, SERVER, key.clone(), None)
            .expect(&FORMER_NAMES, SERVER, key.clone(), None)
            .put(&ACCOUNTS, SERVER, key, account.encode());
        let outcome = self.store.commit(batch).await;
        self.known_accounts.forget(jid.as_str());
        match outcome {
            Ok(()) => Ok(account),
            Err(StoreError::Conflict) if self.former_name(jid).await?.is_some() => {
                Err(AccountError::Former(jid.as_str().into()))
            }
            Err(StoreError::Conflict) => Err(AccountError::Exists(jid.as_str().into())),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn roles_are_in_the_order_of_their_names() {
        let names: Vec<_> = Role::ALL.iter().map(|role| role.as_str()).collect();
        assert_eq!(names, Role::NAMES);
        assert!(Role::ALL.is_sorted());
    }

    #[test]
    fn the_keys_of_an_account_are_not_shown() {
        let keys = StoredKeys {
            salt: "salt0".into(),
            iterations: 4096,
            stored: "stored0".into(),
            server: "server0".into(),
        };
        let account = Account {
            id: AccountId(1),
            jid: "alice@localhost".into(),
            role: Role::User,
            disabled: false,
            created: Millis(0),
            generation: 1,
            passwords: 0,
            epoch: Epoch::default(),
            policy: Policy::default(),
            groups: Vec::new(),
            hold: None,
            deletion: None,
            sha1: keys.clone(),
            sha256: keys,
        };
        let shown = format!("{account:?}");
        assert!(shown.contains("alice@localhost"), "{shown}");
        for secret in ["salt0", "stored0", "server0"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[tokio::test]
    async fn who_goes_away_while_a_password_is_hashed_does_not_make_room_for_another() {
        let hashing = Hashing(Arc::new(Semaphore::new(1)));
        let (started, starts) = tokio::sync::oneshot::channel();
        let (go_on, waits) = mpsc::channel::<()>();
        let work = hashing.run(move || {
            let _ = started.send(());
            waits.recv()
        });
        tokio::select! {
            _ = work => panic!("nobody has let it go on"),
            _ = starts => {}
        }
        assert_eq!(hashing.0.available_permits(), 0, "it is still at work");
        drop(go_on);
        assert_eq!(hashing.run(|| 7).await, Some(7));
    }
}
