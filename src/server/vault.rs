//! Grants and tokens: mint, verify, rotate, revoke. A client owns grants, a grant owns tokens, and no
//! token outlives its grant, no grant its client, nor does any of them give more than the one above.
//! What is stored of a token is a keyed hash of its secret; with the database alone nobody can make
//! or use one (RFC 8959 gives the text form, see `wire::token`).
//!
//! A token that is over stays as its own tombstone: whoever presents its secret is told why it no
//! longer opens anything; whoever does not is told nothing.

mod mint;
mod revoke;

pub(crate) use mint::app_secret;
pub use mint::{Mint, MintError, Parent};

use std::{net::IpAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use wire::{Jid, Mechanism, Token, TokenId};

use crate::{
    Server,
    account::{Account, Role},
    client::{Check, Client, Over, Refused, Tombstone, book::Handle},
    clock::Millis,
    end::Actor,
    epoch::{Epoch, InForce, Stamp},
    fast::Fast,
    id::GrantId,
    notice::Notice,
    policy::Effective,
    rights::{Right, Rights},
    session::Identity,
    store::StoreError,
};

/// The purpose of tokens that log in to the chat server.
pub const LOGIN: &str = "login";
/// The purpose of tokens that HTTP requests bear, within their scopes.
pub const API: &str = "api";
/// The purpose of sessions of LiveJournal's protocol.
pub const LJ: &str = "lj";
/// The purpose of application passwords: tokens that the server can make again from its key, for
/// protocols that prove a hash of the password and never show it.
pub const LJ_APP: &str = "lj-app";
/// All that LiveJournal's protocol can do, so that what was made for it does nothing else.
pub const LJ_SCOPES: Rights = Rights::of(&[Right::End, Right::List, Right::Revoke, Right::Token]);
/// The purpose of tokens that browsers keep for the pages of this server.
pub const WEB: &str = "web";

/// What lets a client back in without the password, and bounds all tokens that it owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// When it was made.
    pub created: Millis,
    /// By whom.
    pub created_by: String,
    /// When it dies with all its tokens; at this very instant it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    /// When one of its tokens was last used, to within `tokens.last_use`.
    pub used: Option<Millis>,
    /// What sessions that it opens may do at most.
    pub role: Role,
    /// The account's generation when it was made; void when the account has moved on.
    pub generation: u64,
    /// The epochs that it was made in.
    #[serde(default)]
    pub stamp: Stamp,
    /// Its own epoch: raised to void all its tokens and keep it.
    #[serde(default, skip_serializing_if = "Epoch::is_first")]
    pub epoch: Epoch,
    /// Its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Tombstone>,
    /// Its tokens, dead ones included.
    pub tokens: Vec<TokenRecord>,
}

/// A token as stored: everything but what opens it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its id.
    #[serde(with = "token_id")]
    pub id: TokenId,
    /// Which server key the hash was made with.
    pub(crate) key: u32,
    /// HMAC of the secret, base64.
    pub(crate) mac: String,
    /// When it was minted.
    pub created: Millis,
    /// By whom.
    pub created_by: String,
    /// When it dies; at this very instant it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    /// It dies when it has not been used for so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inactive: Option<u64>,
    /// When it was last used, to within `tokens.last_use`.
    pub used: Option<Millis>,
    /// What a session that it opens may do at most.
    pub role: Role,
    /// What it is for; only `login` opens a session.
    pub purpose: String,
    /// The commands that it is good for, by the right that they take, for what is its owner's own as
    /// well; what the owner may not do is not among them. None: it knows no such bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Rights>,
    /// The one resource it may bind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The epoch of its grant that it was minted in.
    #[serde(default)]
    pub epoch: u64,
    /// The token that let in whoever got this one: what ends that one ends this one.
    #[serde(default, with = "some_token_id", skip_serializing_if = "Option::is_none")]
    pub parent: Option<TokenId>,
    /// When whoever bears it has shown the password last; none: it was never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proved: Option<Millis>,
    /// The one that takes its place: once that is used, this is over.
    #[serde(default, with = "some_token_id", skip_serializing_if = "Option::is_none")]
    pub next: Option<TokenId>,
    /// Its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Tombstone>,
    /// It is one of FAST; `mac` is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast: Option<Fast>,
}

pub(crate) mod token_id {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use wire::TokenId;

    pub(crate) fn serialize<S: Serializer>(id: &TokenId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<TokenId, D::Error> {
        String::deserialize(d)?.parse().map_err(|_| de::Error::custom("not a token id"))
    }
}

pub(crate) mod some_token_id {
    use serde::{Deserializer, Serializer};
    use wire::TokenId;

    pub(crate) fn serialize<S: Serializer>(
        id: &Option<TokenId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => serializer.collect_str(id),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<TokenId>, D::Error> {
        super::token_id::deserialize(d).map(Some)
    }
}

/// Why a token does not open anything. Only [`Unknown`](Self::Unknown) is told to those who have not
/// shown the right secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenDenied {
    /// It was right, and its client is blocked: until then, or for ever.
    Blocked(Option<Millis>),
    /// Its account may not log in.
    Disabled,
    /// It was right once and is over.
    Over(Tombstone),
    /// It is for something else.
    Purpose,
    /// Storage failed: nobody is let in.
    Store(StoreError),
    /// There is no such token, or the secret is wrong.
    Unknown,
}

/// A token that was found, with all that it hangs on.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its client, with all its grants.
    pub client: Client,
    /// Which of them owns it.
    pub grant: Grant,
    /// The token.
    pub token: TokenRecord,
}

impl Grant {
    /// Marks it and its tokens as over; what was over already keeps its own tombstone.
    pub fn end(&mut self, tombstone: &Tombstone) {
        self.over.get_or_insert_with(|| tombstone.clone());
        for token in &mut self.tokens {
            token.over.get_or_insert_with(|| tombstone.clone());
        }
    }
}

impl Client {
    /// Notes the use of one of its tokens. At its `first` use the ones that it took the place of are
    /// over. False: there is no such token.
    pub(crate) fn token_was_used(&mut self, id: TokenId, now: Millis, first: bool) -> bool {
        let Some((used, token)) = self.token_mut(id) else { return false };
        *used = (*used).max(Some(now));
        token.used = token.used.max(Some(now));
        // What keeps a browser's token in use keeps the one that it came of.
        let parent = token.parent;
        if let Some((_, parent)) = parent.and_then(|id| self.token_mut(id)) {
            parent.used = parent.used.max(Some(now));
        }
        if first {
            let by = Tombstone::by_rule(now, Over::Superseded);
            for older in self.grants.iter_mut().flat_map(|grant| &mut grant.tokens) {
                if older.next == Some(id) {
                    older.over.get_or_insert_with(|| by.clone());
                }
            }
        }
        true
    }

    /// A token of this client, and its grant.
    #[must_use]
    pub fn token(&self, id: TokenId) -> Option<(&Grant, &TokenRecord)> {
        self.grants.iter().find_map(|grant| {
            grant.tokens.iter().find(|token| token.id == id).map(|token| (grant, token))
        })
    }

    pub(crate) fn token_mut(
        &mut self,
        id: TokenId,
    ) -> Option<(&mut Option<Millis>, &mut TokenRecord)> {
        self.grants.iter_mut().find_map(|grant| {
            let used = &mut grant.used;
            grant.tokens.iter_mut().find(|token| token.id == id).map(|token| (used, token))
        })
    }

    /// Why one of its grants is over, if it is; its own end and the account's count as well.
    #[must_use]
    pub fn grant_over(&self, grant: &Grant, account: &Account, check: &Check<'_>) -> Option<Over> {
        if let Some(over) = &grant.over {
            return Some(over.why);
        }
        if let Some(over) = self.over(account, check.policy, check.now) {
            return Some(over);
        }
        if grant.generation != account.generation {
            Some(Over::PasswordChanged)
        } else if !check.epochs.accepts(grant.stamp) {
            Some(Over::Epoch)
        } else if grant.expires.is_some_and(|expires| expires <= check.now) {
            Some(Over::Expired)
        } else {
            None
        }
    }

    /// Why one of its tokens is over, if it is; at the very instant of a deadline it is.
    #[must_use]
    pub fn token_over(
        &self,
        grant: &Grant,
        token: &TokenRecord,
        account: &Account,
        check: &Check<'_>,
    ) -> Option<Over> {
        if let Some(over) = &token.over {
            return Some(over.why);
        }
        if let Some(over) = self.grant_over(grant, account, check) {
            return Some(over);
        }
        let parent = token.parent.filter(|id| *id != token.id).and_then(|id| self.token(id));
        // It goes with the one that it came of.
        if let Some((grant, parent)) = parent
            && let Some(over) = self.token_over(grant, parent, account, check)
        {
            return Some(over);
        }
        let idle = |span| token.used.unwrap_or(token.created).plus_seconds(span) <= check.now;
        if !grant.epoch.accepts(token.epoch) {
            Some(Over::Epoch)
        } else if token.expires.is_some_and(|expires| expires <= check.now) {
            Some(Over::Expired)
        } else if token.inactive.is_some_and(idle) {
            Some(Over::Inactive)
        } else {
            None
        }
    }

    /// The tombstone of whichever has one, nearest first.
    #[must_use]
    pub fn tombstone<'a>(
        &'a self,
        grant: &'a Grant,
        token: &'a TokenRecord,
    ) -> Option<&'a Tombstone> {
        token.over.as_ref().or(grant.over.as_ref()).or(self.over.as_ref())
    }

    /// When a session that a token opens has to end at the latest.
    #[must_use]
    pub fn expiry(&self, token: TokenId, policy: &Effective) -> Option<Millis> {
        let (grant, token) = self.token(token)?;
        // A token of FAST is for coming back, and bounds no visit; the one that it came of does.
        let token = match &token.fast {
            None => Some(token),
            Some(fast) => fast.parent.and_then(|id| self.token(id)).map(|(_, token)| token),
        };
        let token_expires = token.and_then(|token| token.expires);
        let lifetime = policy.client_lifetime.map(|span| self.created.plus_seconds(span));
        [token_expires, grant.expires, self.expires, lifetime].into_iter().flatten().min()
    }
}

impl Server {
    /// A token of which somebody has the secret, and its account; none if nobody could know it. It may be
    /// over, and nothing comes of asking.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn token_with_secret(
        &self,
        token: &Token,
    ) -> Result<Option<(Found, Arc<Account>)>, StoreError> {
        let account = self.account_at_login(token.owner.as_str()).await?;
        let owner = account.as_ref().map_or(crate::store::SERVER, |account| account.id.0);
        let client = self.client_of_token(owner, token.id).await?;
        let Some((account, client)) = account.zip(client) else { return Ok(None) };
        let Some((grant, record)) = client.token(token.id) else { return Ok(None) };
        let Some(key) = self.keys.get(record.key) else { return Ok(None) };
        let Ok(mac) = STANDARD.decode(&record.mac) else { return Ok(None) };
        if !wire::token::verify(&key, token.id, &token.secret, &mac) {
            return Ok(None);
        }
        let (grant, token) = (grant.clone(), record.clone());
        Ok(Some((Found { client: Client::clone(&client), grant, token }, account)))
    }

    /// Checks a token that somebody presents for this purpose; none: for whatever it is.
    ///
    /// # Errors
    /// [`TokenDenied`].
    pub async fn verify_token(
        self: &Arc<Self>,
        token: &Token,
        purpose: Option<&str>,
    ) -> Result<(Found, Arc<Account>, InForce), TokenDenied> {
        let store = TokenDenied::Store;
        let found = self.token_with_secret(token).await.map_err(store)?;
        let (found, account) = found.ok_or(TokenDenied::Unknown)?;
        let Found { client, grant, token: record } = &found;
        if let Some(Refused::Blocked(until)) = client.refused(self.clock.now()) {
            return Err(TokenDenied::Blocked(until));
        }
        let epochs = self.epochs_of(&account).await.map_err(store)?;
        let policy = self.policy_of(&account);
        let check = Check { policy: &policy, epochs: &epochs, now: self.clock.now() };
        if let Some(why) = client.token_over(grant, record, &account, &check) {
            if why == Over::Superseded {
                self.used_again(&found).await.map_err(store)?;
            }
            let tombstone = client.tombstone(grant, record).cloned();
            let by_rule = || Tombstone::by_rule(check.now, why);
            return Err(TokenDenied::Over(tombstone.unwrap_or_else(by_rule)));
        }
        if account.disabled {
            return Err(TokenDenied::Disabled);
        }
        if purpose.is_some_and(|purpose| record.purpose != purpose) {
            return Err(TokenDenied::Purpose);
        }
        // An application password is made from the key that it hangs on.
        if record.key != self.keys.current().0 && record.purpose != LJ_APP {
            self.key_anew(&found, token);
        }
        Ok((found, account, epochs))
    }

    /// Hashes a token with the key in use, now that its secret is at hand: once no token is left on an
    /// older key, that key can go.
    fn key_anew(&self, found: &Found, token: &Token) {
        let (key, server_key) = self.keys.current();
        let mac = STANDARD.encode(wire::token::mac(&server_key, token.id, &token.secret));
        let id = token.id;
        self.note_client(found.client.account, found.client.sid, move |client| {
            let Some((_, token)) = client.token_mut(id) else { return false };
            token.key = key;
            token.mac.clone_from(&mac);
            true
        });
    }

    /// How many tokens that are not over hang on each server key.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn tokens_by_key(&self) -> Result<std::collections::BTreeMap<u32, u64>, StoreError> {
        let mut counts = std::collections::BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.accounts(after.as_deref(), 500).await?;
            let Some(last) = page.last() else { return Ok(counts) };
            after = Some(last.jid.clone());
            for account in &page {
                let (policy, epochs) = (self.policy_of(account), self.epochs_of(account).await?);
                let check = Check { policy: &policy, epochs: &epochs, now: self.clock.now() };
                for Found { client, grant, token } in self.tokens_of(account).await? {
                    if client.token_over(&grant, &token, account, &check).is_none() {
                        *counts.entry(token.key).or_default() += 1;
                    }
                }
            }
        }
    }

    /// Somebody has used a token that its owner has replaced: one of the two has stolen it, and nobody
    /// can tell which. All that came from its grant ends.
    pub(crate) async fn used_again(self: &Arc<Self>, found: &Found) -> Result<(), StoreError> {
        let grant = found.grant.id;
        tracing::warn!(
            event = "token-reused",
            jid = found.client.jid,
            token = %found.token.id,
            grant = %grant,
            client = %found.client.id,
        );
        let sessions = self.end_grant(grant, Over::Reused, &Actor::Server, None).await?;
        let ended = sessions.map_or(0, |(_, sessions)| sessions.len());
        let alarm = crate::audit::Entry {
            at: self.clock.now(),
            who: "server".into(),
            what: "token reused".into(),
            args: crate::command::row! {
                "jid": found.client.jid,
                "token": found.token.id.to_string(),
                "grant": grant.to_string(),
            },
            ok: true,
            outcome: format!("the grant is over, {ended} of its sessions ended"),
            accounts: vec![crate::audit::Subject {
                id: found.client.account,
                jid: found.client.jid.clone(),
            }],
        };
        let noted = self.audit(&alarm).await;
        if let Ok(owner) = Jid::parse(&found.client.jid) {
            self.notify_owner(&owner, Notice::TokenReused).await;
        }
        noted
    }

    /// Notes the use of a token and the client that has it, if what is stored is old enough, without
    /// making anybody wait. Once the one that took another's place is used, the other is over.
    pub(crate) fn note_use(&self, found: &Found, from: Option<(IpAddr, Mechanism)>) {
        let (now, id) = (self.clock.now(), found.token.id);
        let granule = self.config.tokens.last_use.get().unwrap_or(0);
        // What is not written does not keep it alive: the sooner it dies unused, the more often.
        let granule = found.token.inactive.map_or(granule, |inactive| granule.min(inactive / 10));
        let fresh = found.token.used.is_some_and(|last| now.seconds_since(last) < granule);
        let first = found.token.used.is_none();
        let moved = from.is_some_and(|from| !found.client.has_come(from));
        if fresh && !moved {
            return;
        }
        let clients = self.config.clients.clone();
        self.note_client(found.client.account, found.client.sid, move |client| {
            if !client.token_was_used(id, now, first) {
                return false;
            }
            client.was_seen(now, from, &clients);
            true
        });
    }

    /// Notes that a session is still there, and with it its client and its token.
    pub(crate) fn note_presence(&self, me: &Identity, now: Millis) {
        let (Some(client), id) = (me.client(), me.token) else { return };
        self.note_client(me.account, client.sid, move |client| {
            client.seen = client.seen.max(Some(now));
            if let Some((used, token)) = id.and_then(|id| client.token_mut(id)) {
                *used = (*used).max(Some(now));
                token.used = token.used.max(Some(now));
            }
            true
        });
    }

    /// A token by its id.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn find_token(&self, id: TokenId) -> Result<Option<Found>, StoreError> {
        let Some(client) = self.client_with(Handle::Token(id)).await? else { return Ok(None) };
        Ok(client
            .token(id)
            .map(|(grant, token)| (grant.clone(), token.clone()))
            .map(|(grant, token)| Found { client, grant, token }))
    }

    /// All tokens of an account, dead ones included.
    ///
    /// # Errors
    /// When storage fails or holds nonsense.
    pub async fn tokens_of(&self, account: &Account) -> Result<Vec<Found>, StoreError> {
        let mut tokens = Vec::new();
        for client in self.clients_of(account.id, None, 0).await? {
            for grant in &client.grants {
                for token in &grant.tokens {
                    let (grant, token) = (grant.clone(), token.clone());
                    tokens.push(Found { client: client.clone(), grant, token });
                }
            }
        }
        Ok(tokens)
    }
}
