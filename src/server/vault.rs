//! Tokens: mint, verify, list, revoke. What is stored of a token is a keyed hash of its secret; with
//! the database alone nobody can make or use one (RFC 8959 gives the text form, see `wire::token`).
//!
//! A token that is over stays as its own tombstone: whoever presents its secret is told why it no
//! longer opens anything; whoever does not is told nothing.

use std::sync::{Arc, atomic::Ordering};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wire::{Jid, Secret, Token, TokenId};

use crate::{
    Server,
    account::{Account, Role},
    clock::Millis,
    end::{Actor, End, Level, Reason},
    id::AccountId,
    random,
    registry::Few,
    store::{Batch, Range, SERVER, StoreError, Table},
};

/// Tokens by account and id.
pub static TOKENS: Table = Table { name: "token", about: "tokens: keyed hashes, bounds, last use" };
/// Whose a token is, by id.
pub static TOKEN_OWNERS: Table = Table { name: "token_owner", about: "token id to account" };

/// The purpose of tokens that log in to the chat server.
pub const LOGIN: &str = "login";

/// A token as stored: everything but what opens it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its id.
    #[serde(with = "token_id")]
    pub id: TokenId,
    /// Whose.
    pub account: AccountId,
    /// The account's address.
    pub jid: String,
    /// Which server key the hash was made with.
    key: u32,
    /// HMAC of the secret, base64.
    mac: String,
    /// The account's generation when it was minted; void when the account has moved on.
    generation: u64,
    /// When it was minted.
    pub created: Millis,
    /// By whom.
    pub created_by: String,
    /// When it dies; at this very instant it is dead.
    pub expires: Option<Millis>,
    /// It dies when it has not been used for so many seconds.
    pub inactive: Option<u64>,
    /// When it was last used, to within `tokens.last_use`.
    pub last_used: Option<Millis>,
    /// What a session that it opens may do at most.
    pub role: Role,
    /// What it is for; only `login` opens a session.
    pub purpose: String,
    /// The owner's name for it.
    pub label: Option<String>,
    /// The one resource it may bind.
    pub resource: Option<String>,
    /// When, by whom and why it was revoked.
    pub revoked: Option<Revoked>,
}

/// The end of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// When.
    pub at: Millis,
    /// By whom.
    pub by: String,
    /// In whose words, if in any.
    pub reason: Option<String>,
}

mod token_id {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use wire::TokenId;

    pub(super) fn serialize<S: Serializer>(id: &TokenId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<TokenId, D::Error> {
        String::deserialize(d)?.parse().map_err(|_| de::Error::custom("not a token id"))
    }
}

/// What is asked for when a token is minted.
#[derive(Clone, Debug)]
pub struct Mint {
    /// Seconds until it dies; none: never.
    pub ttl: Option<u64>,
    /// Seconds without use until it dies; none: never.
    pub inactive: Option<u64>,
    /// What its sessions may do at most.
    pub role: Role,
    /// What it is for.
    pub purpose: String,
    /// A name for people.
    pub label: Option<String>,
    /// The one resource it may bind.
    pub resource: Option<String>,
    /// Who mints it.
    pub by: String,
}

/// Why a token that was good is no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Its time has passed.
    Expired,
    /// It was not used for too long.
    Inactive,
    /// The account's password was changed after it was minted.
    PasswordChanged,
    /// It was revoked.
    Revoked,
}

impl Over {
    /// The name on every face.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Inactive => "inactive",
            Self::PasswordChanged => "password-changed",
            Self::Revoked => "revoked",
        }
    }

    /// What its bearer is told.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Expired => "This token has expired",
            Self::Inactive => "This token was not used for too long",
            Self::PasswordChanged => "This token is void since the password was changed",
            Self::Revoked => "This token was revoked",
        }
    }
}

/// Why a token does not open anything. Only [`Unknown`](Self::Unknown) is told to those who have not
/// shown the right secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenDenied {
    /// Its account may not log in.
    Disabled,
    /// It was right once and is over, for this reason.
    Over(Over, &'static str),
    /// It is for something else.
    Purpose,
    /// Storage failed: nobody is let in.
    Store(StoreError),
    /// There is no such token, or the secret is wrong.
    Unknown,
}

impl TokenRecord {
    /// Why it is over, if it is.
    #[must_use]
    pub fn over(&self, account: &Account, now: Millis) -> Option<Over> {
        let idle = |seconds| self.last_used.unwrap_or(self.created).plus_seconds(seconds) <= now;
        if self.revoked.is_some() {
            Some(Over::Revoked)
        } else if self.generation != account.generation {
            Some(Over::PasswordChanged)
        } else if self.expires.is_some_and(|expires| expires <= now) {
            Some(Over::Expired)
        } else if self.inactive.is_some_and(idle) {
            Some(Over::Inactive)
        } else {
            None
        }
    }

    fn decode(row: &Bytes) -> Result<Self, StoreError> {
        serde_json::from_slice(row)
            .map_err(|why| StoreError::Corrupt { table: TOKENS.name, why: why.to_string() })
    }

    fn encode(&self) -> Bytes {
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }

    fn row_key(&self) -> Bytes {
        key_of(self.id)
    }
}

fn key_of(id: TokenId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

impl Server {
    /// Mints a token. Its text is given out here and never again.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn mint(
        &self,
        account: &Account,
        mint: Mint,
    ) -> Result<(TokenRecord, Token), StoreError> {
        let corrupt = |why: String| StoreError::Corrupt { table: "account", why };
        let owner = Jid::parse(&account.jid).map_err(|why| corrupt(why.to_string()))?;
        let now = self.clock.now();
        loop {
            let id = TokenId(u64::from_be_bytes(random::bytes()));
            let secret = Secret::new(random::bytes::<24>().to_vec());
            let (key, server_key) = self.keys.current();
            let record = TokenRecord {
                id,
                account: account.id,
                jid: account.jid.clone(),
                key,
                mac: STANDARD.encode(wire::token::mac(server_key, id, &secret)),
                generation: account.generation,
                created: now,
                created_by: mint.by.clone(),
                expires: mint.ttl.map(|ttl| now.plus_seconds(ttl)),
                inactive: mint.inactive,
                last_used: None,
                role: mint.role,
                purpose: mint.purpose.clone(),
                label: mint.label.clone(),
                resource: mint.resource.clone(),
                revoked: None,
            };
            let owner_row = account.id.0.to_be_bytes().to_vec();
            let batch = Batch::new()
                .expect(&TOKEN_OWNERS, SERVER, key_of(id), None)
                .put(&TOKEN_OWNERS, SERVER, key_of(id), owner_row)
                .put(&TOKENS, account.id.0, key_of(id), record.encode());
            match self.store.commit(batch).await {
                Ok(()) => return Ok((record, Token { id, secret, owner })),
                // The id is taken already; once in 2^64.
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Checks a token that somebody presents to log in, and notes its use.
    ///
    /// # Errors
    /// [`TokenDenied`].
    pub async fn verify_token(&self, token: &Token) -> Result<(TokenRecord, Account), TokenDenied> {
        let store = TokenDenied::Store;
        let account = self.account(token.owner.as_str()).await.map_err(store)?;
        // Looked for in any case: how long it takes does not tell whether the account is there.
        let owner = account.as_ref().map_or(SERVER, |account| account.id.0);
        let row = self.store.get(&TOKENS, owner, &token.id.0.to_be_bytes()).await.map_err(store)?;
        let (account, row) = account.zip(row).ok_or(TokenDenied::Unknown)?;
        let record = TokenRecord::decode(&row).map_err(store)?;

        let key = self.keys.get(record.key).ok_or(TokenDenied::Unknown)?;
        let mac = STANDARD.decode(&record.mac).map_err(|_| TokenDenied::Unknown)?;
        if !wire::token::verify(key, token.id, &token.secret, &mac) {
            return Err(TokenDenied::Unknown);
        }
        let now = self.clock.now();
        if let Some(why) = record.over(&account, now) {
            let by = if record.revoked.is_some() { "admin" } else { "server" };
            return Err(TokenDenied::Over(why, by));
        }
        if account.disabled {
            return Err(TokenDenied::Disabled);
        }
        if record.purpose != LOGIN {
            return Err(TokenDenied::Purpose);
        }
        self.note_use(&record, row, now);
        Ok((record, account))
    }

    /// Notes that a session which a token opened is still there.
    pub(crate) async fn note_token(&self, id: TokenId) {
        match self.token_row(id).await {
            Ok(Some((record, row))) => self.note_use(&record, row, self.clock.now()),
            Ok(None) => {}
            Err(error) => tracing::warn!(event = "last-use-not-written", %error),
        }
    }

    /// Writes the last use, if the stored one is old enough, without making the login wait. Only if
    /// the row is still as it was read: a revocation that came in between stays.
    fn note_use(&self, record: &TokenRecord, row: Bytes, now: Millis) {
        let granule = self.config.tokens.last_use.get().unwrap_or(0);
        // What is not written does not keep it alive: the sooner it dies unused, the more often.
        let granule = record.inactive.map_or(granule, |inactive| granule.min(inactive / 10));
        if record.last_used.is_some_and(|last| now.seconds_since(last) < granule) {
            return;
        }
        let used = TokenRecord { last_used: Some(now), ..record.clone() };
        let batch = Batch::new()
            .expect(&TOKENS, record.account.0, record.row_key(), Some(row))
            .put(&TOKENS, record.account.0, record.row_key(), used.encode());
        let commit = self.store.commit(batch);
        self.spawn(async move {
            if let Err(error) = commit.await
                && error != StoreError::Conflict
            {
                tracing::warn!(event = "last-use-not-written", %error);
            }
        });
    }

    /// The record of a token by its id.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn token(&self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.token_row(id).await?.map(|(record, _)| record))
    }

    async fn token_row(&self, id: TokenId) -> Result<Option<(TokenRecord, Bytes)>, StoreError> {
        let Some(owner) = self.store.get(&TOKEN_OWNERS, SERVER, &key_of(id)).await? else {
            return Ok(None);
        };
        let bad = |_| StoreError::Corrupt { table: TOKEN_OWNERS.name, why: "not an id".into() };
        let owner = u64::from_be_bytes(owner.as_ref().try_into().map_err(bad)?);
        let row = self.store.get(&TOKENS, owner, &key_of(id)).await?;
        row.map(|row| Ok((TokenRecord::decode(&row)?, row))).transpose()
    }

    /// All tokens of an account, dead ones included.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn tokens_of(&self, account: &Account) -> Result<Vec<TokenRecord>, StoreError> {
        let rows = self.store.rows(&TOKENS, account.id.0, Range::all()).await?;
        rows.iter().map(|row| TokenRecord::decode(&row.value)).collect()
    }

    /// Revokes a token for good, durably, and only then ends the sessions that it opened; they are
    /// returned, marked dead, for the caller to wait for. `None`: there is no such token.
    ///
    /// # Errors
    /// When storage fails: nothing has changed then.
    pub async fn revoke_token(
        self: &Arc<Self>,
        id: TokenId,
        actor: &Actor,
        by: &str,
        reason: Option<String>,
    ) -> Result<Option<(TokenRecord, Few)>, StoreError> {
        let record = loop {
            let Some((mut record, row)) = self.token_row(id).await? else { return Ok(None) };
            if record.revoked.is_some() {
                break record;
            }
            let at = self.clock.now();
            record.revoked = Some(Revoked { at, by: by.into(), reason: reason.clone() });
            let batch = Batch::new()
                .expect(&TOKENS, record.account.0, record.row_key(), Some(row))
                .put(&TOKENS, record.account.0, record.row_key(), record.encode());
            match self.store.commit(batch).await {
                Ok(()) => break record,
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        };
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        let sessions = self.registry.with_token(id);
        let end = End {
            level: Level::Revoke,
            actor: actor.clone(),
            text: reason,
            ..End::new(Reason::Revoked)
        };
        for session in &sessions {
            self.end(session, end.clone());
        }
        Ok(Some((record, sessions)))
    }
}
