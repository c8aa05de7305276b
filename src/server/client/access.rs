//! What of its account is open to a client: whether it knows the password, and what it may do
//! (XEP-0494). For those who look at the clients of an account; nothing is admitted or refused by this.

use serde::Serialize;
use wire::Mechanism;

use super::{Check, Client, Key};
use crate::{
    account::{Account, Role},
    browser::BROWSER,
    fast::FAST,
    vault::{LOGIN, TokenRecord},
};

/// How much of the account is open to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// All that the account may, only not what takes the password, or a role that it has not.
    Normal,
    /// Less than other clients of the account: it is frozen or unconfirmed, or its tokens say so.
    Restricted,
    /// All that the account may.
    Unrestricted,
}

/// What there is to know besides the client's own row.
pub struct Circumstances {
    /// The highest role among its sessions, if it has any.
    pub here: Option<Role>,
    /// It waits to be confirmed.
    pub waits: bool,
    /// Some commands take a recent password.
    pub step_up: bool,
}

impl Client {
    /// Whether it has come for more than requests over HTTP: if not, it is only access to the account.
    #[must_use]
    pub fn has_chatted(&self) -> bool {
        let requests = match &self.key {
            Key::Agent(id) => id.starts_with(BROWSER),
            Key::Grant(_) => {
                let mut tokens = self.grants.iter().flat_map(|grant| &grant.tokens);
                !tokens.any(|token| matches!(&*token.purpose, LOGIN | FAST))
            }
            Key::Resource(_) => false,
        };
        self.seen.is_some() && !requests
    }

    /// Whether it has shown the password that the account has now.
    #[must_use]
    pub fn knows_password(&self, account: &Account) -> bool {
        if self.password.is_some() {
            return self.password == Some(account.passwords);
        }
        // Rows from before this was noted: what came by a token came by nothing else.
        let shown = |name: &String| {
            let mechanism = name.parse::<Mechanism>();
            mechanism.is_ok_and(|m| m == Mechanism::Plain || m.hash().is_some())
        };
        account.passwords == 0
            && !matches!(self.key, Key::Grant(_))
            && self.mechanisms.keys().any(shown)
    }

    /// How much of the account is open to it.
    #[must_use]
    pub fn access(&self, account: &Account, check: &Check<'_>, now: &Circumstances) -> Access {
        let tokens = self.grants.iter().flat_map(|grant| {
            let good = |token: &&_| self.token_over(grant, token, account, check).is_none();
            // One for another purpose, or within scopes, does less than its role.
            let full = |token: &TokenRecord| token.purpose == LOGIN && token.scopes.is_none();
            grant.tokens.iter().filter(good).map(move |token| match full(token) {
                true => token.role.min(grant.role),
                false => Role::Restricted,
            })
        });
        let password = self.knows_password(account);
        let most = tokens.chain(now.here).chain(password.then_some(account.role)).max();
        let most = most.unwrap_or(Role::Restricted).min(account.role);
        if self.frozen.is_some() || now.waits {
            Access::Restricted
        } else if account.role == Role::Restricted {
            // It is the account that may do less.
            Access::Normal
        } else if most == Role::Restricted {
            Access::Restricted
        } else if most == account.role && (password || !now.step_up) {
            Access::Unrestricted
        } else {
            Access::Normal
        }
    }
}
