//! Passwords that single requests show, in place of a session: that of the account, or one of its
//! application passwords. The same checks as at a login come first; a wrong one counts as a failed login.
//! Deliberately absent: the protocol that they come by, and hashes of it that are proved instead of a
//! password. Such a protocol says itself whether a secret is the one that was shown.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use wire::{Jid, Mechanism, SaslFailure, Secret, Token};

use super::Standing;
use crate::{
    Server, Session,
    account::Account,
    command::Caller,
    store::StoreError,
    vault::{LJ_APP, TokenDenied, app_secret},
};

/// Why a request is turned away. Only those who have shown the right secret are told more than
/// [`Wrong`](Self::Wrong).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotProved {
    /// It was right, and the account may not log in.
    Disabled,
    /// It was right, and the account, or the client that the secret is for, may not come now.
    Held,
    /// Too many have failed from this address.
    Throttled,
    /// The server cannot tell now.
    Unavailable,
    /// No such account, or not its secret.
    Wrong,
}

impl Server {
    /// The caller who shows a password of its account, or an application password.
    ///
    /// # Errors
    /// [`NotProved`].
    pub async fn caller_with_password(
        self: &Arc<Self>,
        peer: SocketAddr,
        user: &Jid,
        password: Secret,
    ) -> Result<Caller, NotProved> {
        let session = self.attempt(peer, Some(Mechanism::Plain));
        self.not_throttled(&session, user).map_err(|_| NotProved::Throttled)?;
        if looks_made(&password)
            && let Some(token) =
                self.app_token(user, |secret| password.ct_eq(secret.expose())).await?
        {
            return self.enter_with(&session, user, token).await;
        }
        if password.expose().starts_with(b"secret-token:") {
            // A token knows other bounds than a password, which would be lost here.
            return Err(self.not_proved(&session, user, SaslFailure::NotAuthorized));
        }
        let checked = self.check_password(&session, user, password).await;
        let candidate = match checked {
            Ok(candidate) => candidate,
            Err(denied) => return Err(self.not_proved(&session, user, denied.failure)),
        };
        let standing = candidate.standing.ok_or(NotProved::Wrong)?;
        self.may_call(&session, user, &standing.account).await?;
        let moved = self.accounts_epoch.load(Ordering::SeqCst) != candidate.epoch;
        if moved && !self.still_stands(user, &standing).await {
            return Err(NotProved::Unavailable);
        }
        self.throttle.succeeded(user, session.address());
        let Standing { account, .. } = standing;
        Ok(self.caller_in_person(&account, user.clone()))
    }

    /// The caller who shows one of the application passwords of its account, in whichever way `shown`
    /// can tell.
    ///
    /// # Errors
    /// [`NotProved`].
    pub async fn caller_with_app_password(
        self: &Arc<Self>,
        peer: SocketAddr,
        user: &Jid,
        shown: impl Fn(&Secret) -> bool + Send,
    ) -> Result<Caller, NotProved> {
        let session = self.attempt(peer, Some(Mechanism::Plain));
        self.not_throttled(&session, user).map_err(|_| NotProved::Throttled)?;
        let token = self.app_token(user, shown).await?;
        // Of many that were tried side by side, those beyond the limit learn nothing, right or wrong.
        self.not_throttled(&session, user).map_err(|_| NotProved::Throttled)?;
        match token {
            Some(token) => self.enter_with(&session, user, token).await,
            None => Err(self.not_proved(&session, user, SaslFailure::NotAuthorized)),
        }
    }

    /// What a login without a session is checked and noted by, as notes are taken of sessions: one that is
    /// in no list.
    pub(crate) fn attempt(&self, peer: SocketAddr, mechanism: Option<Mechanism>) -> Session {
        let session = Session::new(self.session_ids.draw(), peer, self.clock.now());
        session.set_attempt(mechanism, false);
        session
    }

    /// The application password that was shown, as the token that it is. It may be over.
    async fn app_token(
        &self,
        user: &Jid,
        shown: impl Fn(&Secret) -> bool + Send,
    ) -> Result<Option<Token>, NotProved> {
        let account = self.account_at_login(user.as_str()).await.map_err(unavailable)?;
        let Some(account) = account else { return Ok(None) };
        let tokens = self.tokens_of(&account).await.map_err(unavailable)?;
        let of_app = tokens.iter().filter(|found| found.token.purpose == LJ_APP);
        let secrets = of_app.filter_map(|found| {
            let key = self.keys.get(found.token.key)?;
            Some((found.token.id, app_secret(&key, found.token.id)))
        });
        let found = secrets.into_iter().find(|(_, secret)| shown(secret));
        Ok(found.map(|(id, secret)| Token { id, secret, owner: user.clone() }))
    }

    async fn enter_with(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
        token: Token,
    ) -> Result<Caller, NotProved> {
        let (found, account, _) = match self.verify_token(&token, Some(LJ_APP)).await {
            Ok(verified) => verified,
            Err(TokenDenied::Blocked(_)) => return Err(NotProved::Held),
            Err(TokenDenied::Disabled) => return Err(NotProved::Disabled),
            Err(TokenDenied::Over(_)) => {
                return Err(self.not_proved(session, user, SaslFailure::CredentialsExpired));
            }
            Err(TokenDenied::Purpose | TokenDenied::Unknown) => {
                return Err(self.not_proved(session, user, SaslFailure::NotAuthorized));
            }
            Err(TokenDenied::Store(error)) => return Err(unavailable(error)),
        };
        self.may_call(session, user, &account).await?;
        if self.is_elsewhere(session.address(), &found.client) {
            return Err(NotProved::Wrong);
        }
        if found.client.refused(self.clock.now()).is_some() || found.client.frozen.is_some() {
            return Err(NotProved::Held);
        }
        self.throttle.succeeded(user, session.address());
        self.note_use(&found, Some((session.address(), Mechanism::Plain)));
        Ok(self.caller_by(&account, user.clone(), &found))
    }

    /// Whether an account whose secret was shown may do anything now.
    async fn may_call(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
        account: &Account,
    ) -> Result<(), NotProved> {
        if account.disabled {
            return Err(NotProved::Disabled);
        }
        if account.held(self.clock.now()).is_some() {
            return Err(NotProved::Held);
        }
        let dormant = self.is_dormant(account.id, account.created, user.as_str()).await;
        if dormant.map_err(unavailable)? {
            self.refused(session, user, Some(Mechanism::Plain), "dormant");
            return Err(NotProved::Disabled);
        }
        match self.stopping() {
            true => Err(NotProved::Unavailable),
            false => Ok(()),
        }
    }

    /// Notes a failure, and says what the peer is told of it.
    fn not_proved(
        self: &Arc<Self>,
        session: &Session,
        user: &Jid,
        failure: SaslFailure,
    ) -> NotProved {
        self.login_refused(session, Some(user), failure);
        match failure {
            SaslFailure::AccountDisabled => NotProved::Disabled,
            SaslFailure::TemporaryAuthFailure => {
                match self.throttle.refuses(user, session.address(), self.clock.now()) {
                    true => NotProved::Throttled,
                    false => NotProved::Unavailable,
                }
            }
            _ => NotProved::Wrong,
        }
    }
}

/// Whether a password may be one that [`app_secret`] has made. A person's may look so, too.
fn looks_made(password: &Secret) -> bool {
    password.len() == 26
        && password.expose().iter().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
}

fn unavailable(error: StoreError) -> NotProved {
    tracing::error!(event = "proof-storage-failed", %error);
    NotProved::Unavailable
}
