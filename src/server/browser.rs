//! Browsers that log in: the same checks as at any other door, and in the end a token instead of a
//! session. A browser is a client of its account like any other, known again by an id that it keeps; what
//! it gets at a login is a token of the purpose `web`, which it shows with each request
//! ([`Server::bearer`]).
//!
//! Who logs in with a token in the password's place gets one that hangs on the same grant and ends with
//! that token. Deliberately absent: cookies and pages (the crate `admin`).

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use wire::{Agent, Denied, Jid, Mechanism, SaslFailure, Secret, Token, TokenId};

use crate::{
    Server, Session,
    account::Role,
    client::{Client, Key, Over, Tombstone},
    clock::Millis,
    command::Acting,
    end::Actor,
    login::{Candidate, Standing, said, store_failed},
    random,
    session::Identity,
    store::StoreError,
    vault::{Found, Mint, MintError, Parent, TokenRecord, WEB},
};

/// What the ids of browsers begin with, where those of other clients are.
pub(crate) const BROWSER: &str = "web:";
/// Tokens of a client's browsers that are good at once, and that are kept once they are over.
const KEPT: usize = 8;

/// What a browser says that it is.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    /// The same at each of its logins; see [`Browser::new_id`].
    pub id: String,
    /// The software.
    pub software: Option<String>,
}

impl Browser {
    /// An id for a browser that has none.
    #[must_use]
    pub fn new_id() -> String {
        URL_SAFE_NO_PAD.encode(random::bytes::<18>())
    }

    /// Whether a text may be such an id.
    #[must_use]
    pub fn is_id(text: &str) -> bool {
        URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == 18)
    }
}

impl Server {
    /// Lets a browser in with a password, or with a token in its place. What it gets is shown here and
    /// never again.
    ///
    /// # Errors
    /// [`Denied`], as at a login of any client.
    pub async fn let_browser_in(
        self: &Arc<Self>,
        peer: SocketAddr,
        user: &Jid,
        secret: Secret,
        browser: &Browser,
    ) -> Result<Token, Denied> {
        let session = self.attempt(peer, None);
        let come = self.browser_comes(&session, user, secret, browser).await;
        if let Err(denied) = &come {
            self.login_refused(&session, Some(user), denied.failure);
        }
        come
    }

    async fn browser_comes(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
        secret: Secret,
        browser: &Browser,
    ) -> Result<Token, Denied> {
        let here = user.is_bare() && self.is_local(user.domain());
        if !here {
            return Err(SaslFailure::NotAuthorized.into());
        }
        let mechanism = Mechanism::Plain;
        let candidate = self.check_password(session, user, secret).await?;
        let Candidate { epoch, jid, standing, .. } = candidate;
        let standing = standing.ok_or(SaslFailure::NotAuthorized)?;
        self.admissible(session, &jid, &standing, mechanism).await?;
        let agent = Agent {
            id: Some(format!("{BROWSER}{}", browser.id)),
            software: browser.software.clone(),
            device: None,
        };
        let now = self.clock.now();
        let agent = Some(Arc::new(agent));
        let identity = self.identity(&jid, &standing, (mechanism, None), agent, now);
        let (client, mint) = match &standing.found {
            Some(found) => (found.client.clone(), self.mint_for_token(found, now)),
            None => {
                let client = self.browser_client(session, &identity).await?;
                let mint = Mint {
                    ttl: self.config.clients.short.get(),
                    parent: Parent::Client(client.id),
                    proved: Some(now),
                    ..Mint::login(Role::Admin, jid.as_str())
                };
                (client, mint)
            }
        };
        if client.frozen.is_some() {
            return Err(said(SaslFailure::TemporaryAuthFailure, "This client is frozen"));
        }
        let (found, token) = self.mint_web(&standing, &client, mint).await?;
        if self.accounts_epoch.load(Ordering::SeqCst) != epoch
            && !self.still_stands(&jid, &standing).await
        {
            let gone = self.revoke_token(found.token.id, &Actor::Server, None).await;
            gone.map_err(|error| store_failed(&error))?;
            return Err(SaslFailure::TemporaryAuthFailure.into());
        }
        self.throttle.succeeded(&jid, session.address());
        if let Some(shown) = &standing.found {
            self.note_use(shown, Some((session.address(), mechanism)));
        }
        self.metrics.logged_in(mechanism);
        self.note_visitor(&identity, session.address(), found.token.id);
        tracing::info!(
            event = "browser-logged-in",
            jid = jid.as_str(),
            client = %found.client.id,
            address = %session.address(),
        );
        Ok(token)
    }

    /// The client that a browser is which has shown the password.
    async fn browser_client(
        self: &Arc<Self>,
        session: &Session,
        identity: &Identity,
    ) -> Result<Client, Denied> {
        let id = identity.agent_id().unwrap_or_default().to_owned();
        let known = self.client_of_agent(identity.account.0, &id).await;
        let known = known.map_err(|error| store_failed(&error))?;
        if let Some(client) = &known {
            self.may_come(session, client)?;
        }
        let client = self.client_here(identity, Key::Agent(id), known, session.address()).await;
        client.map_err(|error| store_failed(&error))
    }

    /// What is minted for who has shown a token: no more than that gives, for no longer.
    fn mint_for_token(&self, found: &Found, now: Millis) -> Mint {
        let left = found.token.expires.map(|expires| expires.seconds_since(now));
        Mint {
            ttl: [self.config.clients.short.get(), left].into_iter().flatten().min(),
            parent: Parent::Grant(found.grant.id),
            comes_of: Some(found.token.id),
            ..Mint::login(found.token.role, found.client.jid.as_str())
        }
    }

    async fn mint_web(
        &self,
        standing: &Standing,
        client: &Client,
        mint: Mint,
    ) -> Result<(Found, Token), Denied> {
        // Whoever has shown the password in this browser needs no earlier token of it; others who
        // share a token to log in with do not end each other.
        let anew = mint.comes_of.is_none();
        self.tidy_browser(client, anew).await.map_err(|error| store_failed(&error))?;
        let mint = Mint { purpose: WEB.into(), ..mint };
        self.mint(&standing.account, mint).await.map_err(|error| match error {
            MintError::Store(error) => store_failed(&error),
            other => said(SaslFailure::TemporaryAuthFailure, &other.to_string()),
        })
    }

    /// Ends what the browser was given before, if it begins anew, and forgets the oldest of it.
    async fn tidy_browser(&self, client: &Client, anew: bool) -> Result<(), StoreError> {
        let now = self.clock.now();
        let owner = Actor::Owner(client.jid.as_str().into());
        let over = Tombstone::new(now, Over::Logout, &owner, None);
        let tidy = |client: &mut Client| {
            for grant in client.grants.iter_mut().filter(|grant| anew && is_web(&grant.tokens)) {
                grant.end(&over);
            }
            // Of many that came with one token, the oldest is logged out, and told so.
            let tokens = client.grants.iter_mut().flat_map(|grant| &mut grant.tokens);
            let mut here: Vec<_> =
                tokens.filter(|token| token.purpose == WEB && !is_past(token, now)).collect();
            here.sort_by_key(|token| token.created);
            let surplus = (here.len() + 1).saturating_sub(KEPT);
            for oldest in here.into_iter().take(surplus) {
                oldest.over = Some(over.clone());
            }
            let tokens = client.grants.iter().flat_map(|grant| &grant.tokens);
            let over = tokens.filter(|token| token.purpose == WEB && is_past(token, now));
            let mut past: Vec<_> = over.map(|token| (token.created, token.id)).collect();
            past.sort_unstable();
            past.truncate(past.len().saturating_sub(KEPT));
            for grant in &mut client.grants {
                grant.tokens.retain(|token| !past.iter().any(|(_, id)| *id == token.id));
            }
            client.grants.retain(|grant| !grant.tokens.is_empty());
            true
        };
        self.change_client(client.account, client.sid, tidy).await.map(|_| ())
    }

    /// Takes the password once more from whoever is logged in with a browser: what takes a recent one
    /// may be done again.
    ///
    /// # Errors
    /// [`Denied`]; a wrong one counts as a failed login.
    pub async fn prove_again(
        self: &Arc<Self>,
        peer: SocketAddr,
        who: &Acting,
        password: Secret,
    ) -> Result<(), Denied> {
        let session = self.attempt(peer, None);
        let proved = self.proves(&session, who, password).await;
        if let Err(denied) = &proved {
            self.login_refused(&session, Some(who.jid()), denied.failure);
        }
        proved
    }

    async fn proves(
        self: &Arc<Self>,
        session: &Session,
        who: &Acting,
        password: Secret,
    ) -> Result<(), Denied> {
        let candidate = self.check_password(session, who.jid(), password).await?;
        // A token is not the password.
        let right = candidate.standing.filter(|standing| standing.found.is_none());
        let right = right.filter(|standing| standing.account.id == who.id());
        let bearer = who.bearer().filter(|_| right.is_some());
        let bearer = bearer.ok_or(SaslFailure::NotAuthorized)?;
        self.throttle.succeeded(who.jid(), session.address());
        let now = self.clock.now();
        let changed = self.change_client(who.id(), bearer.sid, |client| {
            let token = client.token_mut(bearer.token);
            token.map(|(_, token)| token.proved = Some(now)).is_some()
        });
        changed.await.map_err(|error| store_failed(&error))?;
        Ok(())
    }

    /// What a form that changes something has to carry, so that no other page can send it: bound to who
    /// it is shown to, by the token or by whatever else tells them apart.
    #[must_use]
    pub fn form_key(&self, whose: &FormOf<'_>) -> Secret {
        let bytes = match whose {
            FormOf::Token(id) => self.keys.derive("form", &id.0.to_be_bytes()),
            FormOf::Browser(id) => self.keys.derive("login form", id.as_bytes()),
        };
        Secret::new(URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// Whom a form is shown to.
#[derive(Clone, Copy, Debug)]
pub enum FormOf<'a> {
    /// Who bears this token.
    Token(TokenId),
    /// A browser that is not logged in.
    Browser(&'a str),
}

fn is_past(token: &TokenRecord, now: Millis) -> bool {
    token.over.is_some() || token.expires.is_some_and(|expires| expires <= now)
}

fn is_web(tokens: &[TokenRecord]) -> bool {
    tokens.iter().all(|token| token.purpose == WEB)
}
