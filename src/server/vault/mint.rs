//! New tokens: minted, alone or for what is there, and rotated.

use base64::{Engine, engine::general_purpose::STANDARD};
use wire::{Jid, Secret, Token, TokenId};

use super::{Found, Grant, LJ_APP, LOGIN, TokenRecord};
use crate::{
    Server,
    account::{Account, Role},
    client::{Check, Class, Client, Key, Over, book::Handle},
    clock::Millis,
    epoch::Epoch,
    id::{ClientId, GrantId},
    random,
    rights::Rights,
    store::StoreError,
};

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
    /// The commands that it is good for; none: it knows no such bounds.
    pub scopes: Option<Rights>,
    /// A name for people, for the client that is made for it.
    pub label: Option<String>,
    /// The one resource it may bind.
    pub resource: Option<String>,
    /// Who mints it.
    pub by: String,
    /// How long the client that is made for it may stay.
    pub class: Class,
    /// The network that this client may come from.
    pub bound_to: Option<ipnet::IpNet>,
    /// Whose token it becomes.
    pub parent: Parent,
    /// The token that let in whoever asks for it, and that takes it along when it ends.
    pub comes_of: Option<TokenId>,
    /// When whoever asks for it has shown the password.
    pub proved: Option<Millis>,
}

/// Whose token one becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parent {
    /// That of a client and a grant of its own, made for it.
    #[default]
    New,
    /// That of a new grant of a client that is there.
    Client(ClientId),
    /// That of a grant that is there.
    Grant(GrantId),
}

impl Parent {
    /// What it is found by, if it is there already.
    pub(crate) fn handle(self) -> Option<Handle> {
        match self {
            Self::New => None,
            Self::Client(id) => Some(Handle::Client(id)),
            Self::Grant(id) => Some(Handle::Grant(id)),
        }
    }
}

impl Mint {
    /// A token that logs in, without bounds, for a client of its own.
    #[must_use]
    pub fn login(role: Role, by: impl Into<String>) -> Self {
        Self {
            ttl: None,
            inactive: None,
            role,
            purpose: LOGIN.into(),
            scopes: None,
            label: None,
            resource: None,
            by: by.into(),
            class: Class::Policy,
            bound_to: None,
            parent: Parent::New,
            comes_of: None,
            proved: None,
        }
    }
}

/// Why a token was not minted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The client or grant is not there, or is another account's.
    #[error("this account has no such client or grant")]
    NoParent,
    /// The client or grant is over.
    #[error("the client or grant is over: {}", .0.as_str())]
    Over(Over),
    /// The grant has as many tokens as it may.
    #[error("the client has {MAX_TOKENS} tokens; revoke one first")]
    TooMany,
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Most tokens of one client, dead ones included: the row has to stay small.
const MAX_TOKENS: usize = 64;

impl Server {
    /// Mints a token. Its text is given out here and never again. Durable when this returns.
    ///
    /// # Errors
    /// [`MintError`]: there is none then.
    pub async fn mint(&self, account: &Account, mint: Mint) -> Result<(Found, Token), MintError> {
        let corrupt = |why: String| StoreError::Corrupt { table: "account", why };
        let owner = Jid::parse(&account.jid).map_err(|why| corrupt(why.to_string()))?;
        let epochs = self.epochs_of(account).await?;
        let policy = self.policy_of(account);
        let now = self.clock.now();
        let id = TokenId(u64::from_be_bytes(random::bytes()));
        let (key, server_key) = self.keys.current();
        let secret = match mint.purpose == LJ_APP {
            true => app_secret(&server_key, id),
            false => Secret::new(random::bytes::<24>().to_vec()),
        };
        let record = |epoch: u64| TokenRecord {
            id,
            key,
            mac: STANDARD.encode(wire::token::mac(&server_key, id, &secret)),
            created: now,
            created_by: mint.by.clone(),
            expires: mint.ttl.map(|ttl| now.plus_seconds(ttl)),
            inactive: mint.inactive,
            used: None,
            role: mint.role,
            purpose: mint.purpose.clone(),
            scopes: mint.scopes,
            resource: mint.resource.clone(),
            epoch,
            parent: mint.comes_of,
            proved: mint.proved,
            next: None,
            over: None,
            fast: None,
        };
        let grant = || Grant {
            id: GrantId::random(),
            created: now,
            created_by: mint.by.clone(),
            expires: None,
            used: None,
            role: mint.role,
            generation: account.generation,
            stamp: epochs.stamp(),
            epoch: Epoch::default(),
            over: None,
            tokens: vec![record(0)],
        };
        let Some(handle) = mint.parent.handle() else {
            let whose = crate::client::Owner {
                account: account.id,
                jid: &account.jid,
                generation: account.generation,
                stamp: epochs.stamp(),
            };
            let make = |sid| {
                let grant = grant();
                Client {
                    key: Key::Grant(grant.id),
                    class: mint.class,
                    label: mint.label.clone(),
                    expires: mint
                        .class
                        .length(&self.config.clients)
                        .map(|length| now.plus_seconds(length)),
                    bound_to: mint.bound_to,
                    grants: vec![grant],
                    ..Client::new(&whose, sid, Key::Resource(String::new()), now, &mint.by)
                }
            };
            let client = self.add_client(account.id, make).await?;
            self.metrics.token("minted");
            return found(client, secret, owner, None).ok_or(MintError::NoParent);
        };
        let there = self.client_with(handle).await?.filter(|client| client.account == account.id);
        let there = there.ok_or(MintError::NoParent)?;
        let (mut minted, mut refused) = (None, None);
        let changed = self.change_client(account.id, there.sid, |client| {
            let check = Check { policy: &policy, epochs: &epochs, now };
            refused = client.over(account, &policy, now).map(MintError::Over);
            if client.grants.iter().map(|grant| grant.tokens.len()).sum::<usize>() >= MAX_TOKENS {
                refused = Some(MintError::TooMany);
            }
            let over = client.grants.iter().find(|grant| handle == Handle::Grant(grant.id));
            let over = over.and_then(|grant| client.grant_over(grant, account, &check));
            refused = refused.take().or(over.map(MintError::Over));
            if refused.is_some() {
                return false;
            }
            let of = |grant: &&mut Grant| handle == Handle::Grant(grant.id);
            let token = match client.grants.iter_mut().find(of) {
                Some(grant) => {
                    // No token gives more, or lasts longer, than its grant.
                    let mut token = record(grant.epoch.current);
                    token.role = token.role.min(grant.role);
                    token.expires = [token.expires, grant.expires].into_iter().flatten().min();
                    grant.tokens.push(token.clone());
                    token
                }
                None => {
                    let grant = grant();
                    let token = grant.tokens[0].clone();
                    client.grants.push(grant);
                    token
                }
            };
            minted = Some(token.id);
            true
        });
        let client = changed.await?.ok_or(MintError::NoParent)?;
        match refused {
            Some(refused) => Err(refused),
            None => {
                self.metrics.token("minted");
                found(client, secret, owner, minted).ok_or(MintError::NoParent)
            }
        }
    }

    /// Makes a token that takes another one's place: the same client, grant, role and resource, and
    /// the same length of life, counted anew. The older one is good until the newer one is used. The
    /// text of the newer one is given out here and never again.
    ///
    /// # Errors
    /// [`MintError`]; [`MintError::NoParent`] if there is no such token.
    pub async fn rotate_token(
        &self,
        account: &Account,
        id: TokenId,
        by: &str,
    ) -> Result<(Found, Token), MintError> {
        let old = self.find_token(id).await?.filter(|old| old.client.account == account.id);
        let old = old.ok_or(MintError::NoParent)?;
        let (epochs, policy) = (self.epochs_of(account).await?, self.policy_of(account));
        let check = Check { policy: &policy, epochs: &epochs, now: self.clock.now() };
        if let Some(over) = old.client.token_over(&old.grant, &old.token, account, &check) {
            return Err(MintError::Over(over));
        }
        let length = |expires: Millis| expires.seconds_since(old.token.created);
        let mint = Mint {
            ttl: old.token.expires.map(length),
            inactive: old.token.inactive,
            purpose: old.token.purpose.clone(),
            scopes: old.token.scopes,
            resource: old.token.resource.clone(),
            parent: Parent::Grant(old.grant.id),
            ..Mint::login(old.token.role, by)
        };
        let (new, text) = self.mint(account, mint).await?;
        self.change_client(account.id, old.client.sid, |client| {
            let Some((_, token)) = client.token_mut(id) else { return false };
            // One that never was used gives way at once: nobody has it, or nobody keeps it.
            let before = token.next.replace(new.token.id);
            if let Some((_, skipped)) = before.and_then(|before| client.token_mut(before)) {
                skipped.next = Some(new.token.id);
            }
            true
        })
        .await?;
        Ok((new, text))
    }
}

/// The secret of an application password, 26 characters `[a-z2-7]` (128 bits): made from a server key
/// and the token's id, so that it can be compared by any hash of it and is stored nowhere.
pub(crate) fn app_secret(server_key: &Secret, id: TokenId) -> Secret {
    let label = Secret::new(b"application password".to_vec());
    let made = wire::token::mac(server_key, id, &label);
    let mut text = data_encoding::BASE32_NOPAD.encode(made.get(..16).unwrap_or_default());
    text.make_ascii_lowercase();
    Secret::new(text)
}

/// What was minted last, in the client as it is now.
fn found(
    client: Client,
    secret: Secret,
    owner: Jid,
    id: Option<TokenId>,
) -> Option<(Found, Token)> {
    let id = id.or_else(|| Some(client.grants.last()?.tokens.last()?.id))?;
    let (grant, token) = client.token(id).map(|(grant, token)| (grant.clone(), token.clone()))?;
    Some((Found { client, grant, token }, Token { id, secret, owner }))
}
