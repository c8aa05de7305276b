//! Tokens for the next login (FAST, XEP-0484): a client that has logged in gets one, and comes back
//! with it in one round trip.
//!
//! Such a token is one of its client's like any other: it hangs on a grant, is listed, revoked and void
//! with it, and whoever uses one that has been replaced ends the grant. What differs is how it is
//! shown: not itself, but by a hash that only who has it can make (SASL-HT). So the server has to have
//! it as well, and derives it, from its key and the token's id: nothing in the database opens anything.
//!
//! ```text
//!   password ─► token 1 ─ used, old ─► token 2 ─ used ─► token 1 is superseded
//!                  ▲                      │
//!                  └── good until then ───┘
//! ```

use std::sync::{Arc, atomic::Ordering};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wire::{
    Denied, Jid, Mechanism, SaslFailure, Secret, TokenId,
    sasl::HashedToken,
    stream::{Agent, FastUse, Granted},
};

use crate::{
    Server, Session,
    account::{Account, Role},
    client::{Check, Client, Kind, Over, Refused, Tombstone},
    clock::Millis,
    end::{Actor, End, Reason},
    epoch::Epoch,
    id::GrantId,
    login::{Candidate, said, store_failed},
    random,
    session::Identity,
    store::StoreError,
    vault::{Found, Grant, TokenRecord},
};

/// The purpose of tokens of FAST.
pub(crate) const FAST: &str = "fast";

/// Tokens that have been replaced are remembered, so that their use is noticed: so many of a client.
const REPLACED: usize = 4;

/// What a token of FAST has besides.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fast {
    /// The one mechanism that it is good for, by its name.
    pub mechanism: String,
    /// The highest count that came with it.
    #[serde(default)]
    pub count: u64,
    /// The token that let its client in when this one was handed out, unless it was one of these: what
    /// ends that one ends this one.
    #[serde(
        default,
        with = "crate::vault::some_token_id",
        skip_serializing_if = "Option::is_none"
    )]
    pub parent: Option<TokenId>,
}

impl Server {
    /// Finds the token whose possession is proved.
    ///
    /// # Errors
    /// [`Denied`]; why, only for those who have had a token that was good once.
    pub async fn check_hashed(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
        proof: &HashedToken,
        agent: &Agent,
        fast: FastUse,
    ) -> Result<(Secret, Candidate), Denied> {
        session.set_attempt(Some(proof.mechanism()), false);
        self.not_throttled(session, user)?;
        let checked = self.hashed(user, proof, agent, fast).await;
        if let Err(denied) = &checked {
            // Noted here: nobody can guess such a token, so a wrong one is no try at the password,
            // which its owner may need now.
            let condition = denied.failure.as_str();
            self.refused(session, user, Some(proof.mechanism()), condition);
            session.set_attempt(None, true);
        }
        checked
    }

    async fn hashed(
        self: &Arc<Self>,
        user: &Jid,
        proof: &HashedToken,
        agent: &Agent,
        fast: FastUse,
    ) -> Result<(Secret, Candidate), Denied> {
        let epoch = self.accounts_epoch.load(Ordering::SeqCst);
        let failed = |error: StoreError| store_failed(&error);
        let account = self.account_at_login(user.as_str()).await.map_err(failed)?;
        let owner = account.as_ref().map_or(crate::store::SERVER, |account| account.id.0);
        let id = agent.id.as_deref().unwrap_or_default();
        let client = self.client_of_agent(owner, id).await.map_err(failed)?;
        let unknown = || Denied::from(SaslFailure::NotAuthorized);
        let (account, client) = account.zip(client).ok_or_else(unknown)?;
        let (secret, found) = self.proved(client, proof).ok_or_else(unknown)?;
        let mechanism = found.token.fast.as_ref().map(|fast| fast.mechanism.as_str());
        if mechanism != Some(proof.mechanism().as_str()) {
            return Err(unknown());
        }
        if let Some(Refused::Blocked(until)) = found.client.refused(self.clock.now()) {
            return Err(crate::login::refused(Refused::Blocked(until)));
        }
        let epochs = self.epochs_of(&account).await.map_err(failed)?;
        let policy = self.policy_of(&account);
        let check = Check { policy: &policy, epochs: &epochs, now: self.clock.now() };
        let Found { client, grant, token } = &found;
        if let Some(why) = client.token_over(grant, token, &account, &check) {
            if why == Over::Superseded {
                self.used_again(&found).await.map_err(failed)?;
            }
            let tombstone = client.tombstone(grant, token).cloned();
            let tombstone = tombstone.unwrap_or_else(|| Tombstone::by_rule(check.now, why));
            return Err(crate::login::over(&tombstone));
        }
        if account.disabled {
            return Err(crate::login::disabled());
        }
        self.password_wanted(user, &found.client)?;
        if let Some(count) = fast.count {
            self.count_up(&found, count).await?;
        }
        Ok((secret, Candidate::with_token(epoch, user.clone(), account, found)))
    }

    /// The token of a client whose possession is proved, newest first. All of them are tried, so that
    /// how long it takes says nothing.
    fn proved(&self, client: Client, proof: &HashedToken) -> Option<(Secret, Found)> {
        let mut proved = None;
        for grant in client.grants.iter().rev() {
            for token in grant.tokens.iter().rev().filter(|token| token.fast.is_some()) {
                let Some(secret) = self.fast_secret(&client, token) else { continue };
                if proof.proves(&secret) && proved.is_none() {
                    proved = Some((secret, grant.clone(), token.clone()));
                }
            }
        }
        let (secret, grant, token) = proved?;
        Some((secret, Found { client, grant, token }))
    }

    /// The text of a token. None: its key was retired.
    fn fast_secret(&self, client: &Client, token: &TokenRecord) -> Option<Secret> {
        let key = self.keys.get(token.key)?;
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose()).ok()?;
        let ids = [client.account.0, client.id.0, token.id.0].map(u64::to_be_bytes);
        mac.update(b"usher fast v1");
        for id in ids {
            mac.update(&id);
        }
        let mut text = String::from(wire::token::SCHEME);
        text.push_str("fast-");
        URL_SAFE_NO_PAD.encode_string(mac.finalize().into_bytes(), &mut text);
        Some(Secret::new(text))
    }

    /// Notes the count that came with a token, which has to be higher than all before it; durably, so
    /// that nobody can repeat it.
    async fn count_up(&self, found: &Found, count: u64) -> Result<(), Denied> {
        let (id, mut higher) = (found.token.id, false);
        let noted = self.change_client(found.client.account, found.client.sid, |client| {
            let fast = client.token_mut(id).and_then(|(_, token)| token.fast.as_mut());
            higher = fast.as_ref().is_some_and(|fast| fast.count < count);
            if let Some(fast) = fast.filter(|_| higher) {
                fast.count = count;
            }
            higher
        });
        noted.await.map_err(|error| store_failed(&error))?;
        let text = "This login was tried before";
        if higher { Ok(()) } else { Err(said(SaslFailure::NotAuthorized, text)) }
    }

    /// Hands out a token for a session's next login if one is asked for, or if the one it came with is
    /// old; none: there are none, or it cannot be known again.
    pub async fn grant_fast(
        self: &Arc<Self>,
        session: &Arc<Session>,
        wanted: Option<Mechanism>,
        used: Option<FastUse>,
    ) -> Option<Granted> {
        let me = session.identity()?;
        let granted = async {
            let used = used.filter(|_| me.token.is_some());
            if used.is_some() {
                self.first_use(&me).await?;
            }
            if used.is_some_and(|used| used.invalidate) {
                self.invalidate(&me).await?;
            }
            let Some(ttl) = self.config.tokens.fast.get() else { return Ok(None) };
            let kept = used.is_some_and(|used| !used.invalidate);
            let Some(mechanism) = self.due(&me, wanted, kept).await? else { return Ok(None) };
            self.issue(session, &me, &mechanism, ttl).await
        };
        granted.await.unwrap_or_else(|error: StoreError| {
            tracing::error!(event = "token-not-granted", session = %session.id, %error);
            if used.is_some_and(|used| used.invalidate) {
                // Its client is not to believe that the token is void.
                self.end(session, End::new(Reason::Internal));
            }
            None
        })
    }

    /// Notes that the token that has let a session in was used, if it was not before: durably, for it
    /// is told apart by that from one that its client never got, and ends the ones before it.
    async fn first_use(&self, me: &Identity) -> Result<(), StoreError> {
        let (Some(id), Some(client)) = (me.token, me.client()) else { return Ok(()) };
        let is_news = |client: &Client| {
            client.grants.iter().flat_map(|grant| &grant.tokens).any(|token| {
                (token.id == id && token.used.is_none())
                    || (token.next == Some(id) && token.over.is_none())
            })
        };
        // What is no news never becomes news again, so that a client as it was will do.
        if self.known_clients.get(me.account.0, client.sid).is_some_and(|known| !is_news(&known)) {
            return Ok(());
        }
        let now = self.clock.now();
        let noted = self.change_client(me.account, client.sid, |client| {
            is_news(client) && client.token_was_used(id, now, true)
        });
        noted.await.map(drop)
    }

    /// For which mechanism a session gets a token, if it gets one.
    async fn due(
        &self,
        me: &Identity,
        wanted: Option<Mechanism>,
        kept: bool,
    ) -> Result<Option<String>, StoreError> {
        if let Some(wanted) = wanted {
            return Ok(Some(wanted.as_str().to_owned()));
        }
        let Some(id) = me.token.filter(|_| kept) else { return Ok(None) };
        let Some(me_as_client) = me.client() else { return Ok(None) };
        // As it was when the token was checked: nothing of what is looked at changes in a token.
        let client = match self.known_clients.get(me.account.0, me_as_client.sid) {
            Some(known) => Some(known),
            None => self.client(me.account, me_as_client.sid).await?.map(Arc::new),
        };
        let token = client.as_ref().and_then(|client| client.token(id));
        let Some((_, token)) = token else { return Ok(None) };
        let age = self.clock.now().seconds_since(token.created);
        let old = self.config.tokens.fast_rotate.get().is_some_and(|most| age >= most);
        let old = old || token.key != self.keys.current().0;
        Ok(token.fast.as_ref().filter(|_| old).map(|fast| fast.mechanism.clone()))
    }

    /// A client does not want its token any more. What came with it may stay.
    async fn invalidate(&self, me: &Identity) -> Result<(), StoreError> {
        let (Some(id), Some(client)) = (me.token, me.client()) else { return Ok(()) };
        let owner = Actor::Owner(me.jid.as_str().into());
        let tombstone = Tombstone::new(self.clock.now(), Over::Logout, &owner, None);
        self.change_client(me.account, client.sid, |client| {
            let Some((_, token)) = client.token_mut(id) else { return false };
            token.over.get_or_insert_with(|| tombstone.clone());
            true
        })
        .await?;
        self.accounts_epoch.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn issue(
        self: &Arc<Self>,
        session: &Arc<Session>,
        me: &Identity,
        mechanism: &str,
        ttl: u64,
    ) -> Result<Option<Granted>, StoreError> {
        // It could not be known again without.
        if me.agent.as_ref().is_none_or(|agent| agent.id.is_none()) {
            return Ok(None);
        }
        let Some(account) = self.account(me.jid.as_str()).await? else { return Ok(None) };
        let Some(client) = self.client_of_session(session, me).await? else { return Ok(None) };
        let (now, id) = (self.clock.now(), TokenId(u64::from_be_bytes(random::bytes())));
        let most = me.live.lock().most;
        let plan = Plan { me, now, ttl, id, mechanism, most, key: self.keys.current().0 };
        let (policy, epochs) = (self.policy_of(&account), self.epochs_of(&account).await?);
        let check = Check { policy: &policy, epochs: &epochs, now };
        let mut done = false;
        let changed = self.change_client(me.account, client.sid, |client| {
            done = plan.carry_out(client, &account, &check);
            done
        });
        let Some(client) = changed.await?.filter(|_| done) else { return Ok(None) };
        let Some((_, token)) = client.token(id) else { return Ok(None) };
        let granted = self.fast_secret(&client, token).and_then(|secret| {
            let expiry = token.expires?.to_string();
            Some(Granted { token: secret.expose_str()?.to_owned(), expiry })
        });
        Ok(granted)
    }
}

/// A token that is about to be made.
struct Plan<'a> {
    me: &'a Identity,
    now: Millis,
    ttl: u64,
    id: TokenId,
    mechanism: &'a str,
    /// What its sessions may do at most.
    most: Role,
    /// The server key that it is derived from.
    key: u32,
}

impl Plan<'_> {
    /// Enters the token in its client: in the grant that the session came with, or that it was given
    /// tokens from before. False: nothing more may come of that.
    fn carry_out(&self, client: &mut Client, account: &Account, check: &Check<'_>) -> bool {
        if client.over(account, check.policy, check.now).is_some() || client.is_blocked(self.now) {
            return false;
        }
        let all_fast = |grant: &Grant| grant.tokens.iter().all(|token| token.fast.is_some());
        let ours = |grant: &&Grant| match self.me.grant {
            Some(id) => grant.id == id,
            None => all_fast(grant),
        };
        let open = |grant: &&Grant| client.grant_over(grant, account, check).is_none();
        let found = client.grants.iter().filter(ours).find(open).map(|grant| grant.id);
        let id = match (found, self.me.grant) {
            (Some(id), _) => id,
            (None, Some(_)) => return false,
            (None, None) => {
                // The ones before are over; whoever still has one is told so for a while.
                let over = client.grants.iter().filter(|grant| all_fast(grant)).count();
                let mut surplus = over.saturating_sub(REPLACED);
                client.grants.retain(|grant| {
                    let goes = surplus > 0 && all_fast(grant);
                    surplus -= usize::from(goes);
                    !goes
                });
                let grant = self.grant();
                let id = grant.id;
                client.grants.push(grant);
                id
            }
        };
        let Some(grant) = client.grants.iter_mut().find(|grant| grant.id == id) else {
            return false;
        };
        let came_with = self.me.token.and_then(|id| grant.tokens.iter().find(|t| t.id == id));
        let (parent, bound) = match came_with {
            // What ends with another token ends with it still.
            Some(token) => match &token.fast {
                Some(fast) => (fast.parent, None),
                None => (Some(token.id), token.expires),
            },
            None => (None, None),
        };
        let parents = parent.and_then(|id| grant.tokens.iter().find(|token| token.id == id));
        let bound = [bound, parents.and_then(|token| token.expires), grant.expires];
        let expires = bound.into_iter().flatten().chain([self.now.plus_seconds(self.ttl)]).min();
        // One that was never used was never received, or is not wanted.
        grant.tokens.retain(|token| token.fast.is_none() || token.used.is_some());
        for token in grant.tokens.iter_mut().filter(|token| token.fast.is_some()) {
            token.next = Some(self.id);
        }
        let replaced = grant.tokens.iter().filter(|token| token.fast.is_some()).count();
        let mut surplus = replaced.saturating_sub(REPLACED);
        grant.tokens.retain(|token| {
            let goes = surplus > 0 && token.fast.is_some() && token.over.is_some();
            surplus -= usize::from(goes);
            !goes
        });
        grant.tokens.push(TokenRecord {
            id: self.id,
            key: self.key,
            mac: String::new(),
            created: self.now,
            created_by: FAST.into(),
            expires,
            inactive: None,
            used: None,
            role: self.most.min(grant.role),
            purpose: FAST.into(),
            scopes: None,
            resource: came_with_resource(grant, parent, self.me),
            epoch: grant.epoch.current,
            parent: None,
            proved: None,
            next: None,
            over: None,
            fast: Some(Fast { mechanism: self.mechanism.to_owned(), count: 0, parent }),
        });
        true
    }

    fn grant(&self) -> Grant {
        Grant {
            id: GrantId::random(),
            created: self.now,
            created_by: "login".into(),
            expires: None,
            used: None,
            role: self.most,
            generation: self.me.generation,
            stamp: self.me.stamp,
            epoch: Epoch::default(),
            over: None,
            tokens: Vec::new(),
        }
    }
}

/// A token that comes of one that pins a resource pins it too.
fn came_with_resource(grant: &Grant, parent: Option<TokenId>, me: &Identity) -> Option<String> {
    let parent = parent.and_then(|id| grant.tokens.iter().find(|token| token.id == id));
    parent.and_then(|token| token.resource.clone()).or_else(|| me.resource.clone())
}

impl TokenRecord {
    /// Whether it was handed out to whom this token had let in.
    pub(crate) fn comes_of(&self, id: TokenId) -> bool {
        self.parent == Some(id) || self.fast.as_ref().is_some_and(|fast| fast.parent == Some(id))
    }
}

impl Tombstone {
    /// By the server's rules.
    #[must_use]
    pub(crate) fn by_rule(at: Millis, why: Over) -> Self {
        Self { at, why, by: "server".into(), kind: Kind::Server, text: None }
    }
}
