//! Tokens that requests bear (RFC 6750), in place of a session: each request shows one, and is done by
//! its owner within what the token is good for. The same checks as at a login come first: throttle,
//! account, client, network. Deliberately absent: HTTP itself.

use std::{net::SocketAddr, sync::Arc};

use wire::{Mechanism, SaslFailure, Secret, Token, TokenId};

use crate::{
    Server,
    account::Account,
    audit::{Entry, Subject},
    client::{Check, Client},
    command::{Caller, row},
    end::Actor,
    store::StoreError,
    vault::{API, Found, TokenDenied, WEB},
};

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// From where.
    pub address: SocketAddr,
    /// Whether nobody on the way can read it.
    pub encrypted: bool,
}

impl Peer {
    /// Whether nobody else can read what is exchanged: secrets may be.
    #[must_use]
    pub fn is_private(self) -> bool {
        self.encrypted || self.address.ip().to_canonical().is_loopback()
    }
}

/// Why a bearer is turned away. Only those who have shown the right secret are told more than
/// [`Unknown`](Self::Unknown).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBorne {
    /// No token, none that is there, or the wrong secret.
    #[error("this is no token of this server that is valid")]
    Unknown,
    /// It was right once.
    #[error("the token is over: {0}")]
    Over(String),
    /// It is right, and for something else.
    #[error("the token is for `{0}`, not for requests")]
    Purpose(String),
    /// It is right, and its owner or client may not come.
    #[error("{0}")]
    Refused(String),
    /// Too many have failed from this address.
    #[error("too many failed logins from your address")]
    Throttled,
    /// The server cannot tell now.
    #[error("the server cannot check this now")]
    Unavailable,
}

impl Server {
    /// The caller that a token of the purpose `api` stands for; its use is noted.
    ///
    /// # Errors
    /// [`NotBorne`]; a wrong secret counts as a failed login.
    pub async fn bearer(
        self: &Arc<Self>,
        peer: SocketAddr,
        text: &str,
    ) -> Result<Caller, NotBorne> {
        let token = Token::parse(text).map_err(|_| NotBorne::Unknown)?;
        self.bearer_for(peer, &token, API).await.map(|(caller, _)| caller)
    }

    /// The same for a token of another purpose, with what the token hangs on.
    ///
    /// # Errors
    /// [`NotBorne`]; a wrong secret counts as a failed login.
    pub async fn bearer_for(
        self: &Arc<Self>,
        peer: SocketAddr,
        token: &Token,
        purpose: &str,
    ) -> Result<(Caller, Found), NotBorne> {
        let owner = &token.owner;
        let address = peer.ip().to_canonical();
        if self.throttle.refuses(owner, address, self.clock.now()) {
            return Err(NotBorne::Throttled);
        }
        let (found, account) = match self.borne(token, purpose).await {
            Ok(found) => found,
            Err(refused) => {
                self.note_refused_bearer(peer, token, &refused);
                return Err(refused);
            }
        };
        if self.is_elsewhere(address, &found.client) {
            return Err(NotBorne::Unknown);
        }
        self.throttle.succeeded(owner, address);
        // What a browser keeps is no way of its own to log in.
        let mechanism = match found.token.purpose.as_str() {
            WEB => Mechanism::Plain,
            _ => Mechanism::OauthBearer,
        };
        self.note_use(&found, Some((address, mechanism)));
        Ok((self.caller_by(&account, token.owner.clone(), &found), found))
    }

    async fn borne(
        self: &Arc<Self>,
        token: &Token,
        wanted: &str,
    ) -> Result<(Found, Arc<Account>), NotBorne> {
        if !self.is_local(token.owner.domain()) {
            return Err(NotBorne::Unknown);
        }
        let (found, account, _) = self.verify_token(token, None).await.map_err(not_borne)?;
        let purpose = &found.token.purpose;
        if purpose != wanted {
            return Err(NotBorne::Purpose(purpose.clone()));
        }
        if account.held(self.clock.now()).is_some() {
            return Err(NotBorne::Refused("the account may not come yet".into()));
        }
        if found.client.frozen.is_some() {
            return Err(NotBorne::Refused("the token's client is frozen".into()));
        }
        Ok((found, account))
    }

    /// In the history of the account, and, if the secret was wrong, against whoever tries on.
    fn note_refused_bearer(self: &Arc<Self>, peer: SocketAddr, token: &Token, refused: &NotBorne) {
        let failure = match refused {
            NotBorne::Over(_) => SaslFailure::CredentialsExpired,
            NotBorne::Unknown => SaslFailure::NotAuthorized,
            _ => return,
        };
        let session = self.attempt(peer, Some(Mechanism::OauthBearer));
        self.login_refused(&session, Some(&token.owner), failure);
    }

    /// What a token is, whatever it is for; none if it opens nothing, for whichever reason. Nothing comes
    /// of asking.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn inspect_token(
        &self,
        secret: &Secret,
    ) -> Result<Option<(Found, Arc<Account>)>, StoreError> {
        let Some((found, account)) = self.token_of(secret).await? else { return Ok(None) };
        let opens = !account.disabled
            && account.held(self.clock.now()).is_none()
            && self.is_good(&account, &found.client, found.token.id).await?;
        Ok(opens.then_some((found, account)))
    }

    /// Whether a token of a client is good, and the client may come; its account is another question.
    pub(crate) async fn is_good(
        &self,
        account: &Account,
        client: &Client,
        token: TokenId,
    ) -> Result<bool, StoreError> {
        let (policy, epochs) = (self.policy_of(account), self.epochs_of(account).await?);
        let check = Check { policy: &policy, epochs: &epochs, now: self.clock.now() };
        Ok(client.refused(check.now).is_none()
            && client.frozen.is_none()
            && client.token(token).is_some_and(|(grant, token)| {
                client.token_over(grant, token, account, &check).is_none()
            }))
    }

    /// Makes a token void in the name of its owner, whoever has it, and whatever its owner may do now;
    /// nothing if it is none.
    ///
    /// # Errors
    /// When storage fails: then it may be valid still.
    pub async fn void_token(self: &Arc<Self>, secret: &Secret) -> Result<(), StoreError> {
        let Some((found, account)) = self.token_of(secret).await? else { return Ok(()) };
        if found.token.over.is_some() {
            return Ok(());
        }
        let (id, jid) = (found.token.id, account.jid.clone());
        let actor = Actor::Owner(jid.as_str().into());
        let revoked = self.revoke_token(id, &actor, None).await?;
        let ended = revoked.map_or(0, |(_, sessions)| sessions.len());
        self.audit(&Entry {
            at: self.clock.now(),
            who: jid.clone(),
            what: "token revoke".into(),
            args: row! { "token": id.to_string(), "by": "the token itself" },
            ok: true,
            outcome: format!("revoked {id} of `{jid}`, {ended} sessions ended"),
            accounts: vec![Subject { id: account.id, jid }],
        })
        .await
    }

    async fn token_of(&self, secret: &Secret) -> Result<Option<(Found, Arc<Account>)>, StoreError> {
        let text = std::str::from_utf8(secret.expose()).ok();
        let token = text.and_then(|text| Token::parse(text).ok());
        match token.filter(|token| self.is_local(token.owner.domain())) {
            Some(token) => self.token_with_secret(&token).await,
            None => Ok(None),
        }
    }
}

fn not_borne(denied: TokenDenied) -> NotBorne {
    match denied {
        TokenDenied::Blocked(_) => NotBorne::Refused("the token's client is blocked".into()),
        TokenDenied::Disabled => NotBorne::Refused("the account is disabled".into()),
        TokenDenied::Over(tombstone) => {
            let why = tombstone.text.unwrap_or_else(|| tombstone.why.text().into());
            NotBorne::Over(why)
        }
        TokenDenied::Purpose | TokenDenied::Unknown => NotBorne::Unknown,
        TokenDenied::Store(error) => {
            tracing::error!(event = "bearer-storage-failed", %error);
            NotBorne::Unavailable
        }
    }
}
