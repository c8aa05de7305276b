//! Policies: what an account's sessions and clients may, said once for all and again, where it
//! differs, for a host, a group or a single account. The nearest one that says something wins:
//! account, then the first of its groups that says it, then host, then `[sessions]` and `[clients]`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Server, account::Account, config::Span};

/// What differs from what is further away. Whatever is not set is as it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// A session that has sent no stanza for this long is ended. `off`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inactivity: Option<Span>,
    /// A session this old is ended, however active. `off`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Span>,
    /// A client that was not seen for this long is over, with its tokens. `off`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_inactivity: Option<Span>,
    /// A client this old is over, with its tokens, however often it was seen. `off`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_lifetime: Option<Span>,
    /// Bound sessions that an account may have at once; one that replaces another does not count. 0:
    /// no bound but `limits.per_account`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// What happens when an account has `max_sessions` and another one comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_limit: Option<AtLimit>,
    /// Whether a client that was never seen before may do everything at once, or has to be confirmed
    /// by another one of the account first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_clients: Option<NewClients>,
}

/// What happens when an account has as many sessions as it may and another one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AtLimit {
    /// The newer one chooses who makes way, if it logs in with SASL 2 (XEP-0388); else it is refused.
    Ask,
    /// The one that has sent no stanza for the longest time makes way.
    DisplaceIdlest,
    /// The oldest one makes way.
    DisplaceOldest,
    /// The newer one is refused.
    Refuse,
}

impl AtLimit {
    /// The names, for those who choose.
    pub const NAMES: &'static [&'static str] =
        &["ask", "displace-idlest", "displace-oldest", "refuse"];
}

/// What a client that was never seen before may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NewClients {
    /// Only chat, until another client of the account confirms it or `clients.confirm_after` has
    /// passed. The first client of an account needs nobody.
    Confirm,
    /// What its account may.
    Free,
}

impl NewClients {
    /// The names, for those who choose.
    pub const NAMES: &'static [&'static str] = &["confirm", "free"];
}

/// The policy in force for one account. Lengths are in seconds; none: no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// How long a session may send nothing.
    pub inactivity: Option<u64>,
    /// How old a session may get.
    pub lifetime: Option<u64>,
    /// How long a client may stay away.
    pub client_inactivity: Option<u64>,
    /// How old a client may get.
    pub client_lifetime: Option<u64>,
    /// How many bound sessions there may be; 0: no bound.
    pub max_sessions: u32,
    /// What happens beyond.
    pub at_limit: AtLimit,
    /// What a new client may do.
    pub new_clients: NewClients,
}

impl Policy {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Server {
    /// The policies that count for an account, nearest first, each with where it is from.
    fn policies<'a>(&'a self, account: &'a Account) -> impl Iterator<Item = (String, &'a Policy)> {
        let host = account.jid.rsplit_once('@').map_or("", |(_, host)| host);
        let groups = account.groups.iter().filter_map(move |name| {
            let group = self.config.group.iter().find(|group| group.name == *name)?;
            Some((format!("group {name}"), &group.policy))
        });
        let hosts = self.hosts.iter().zip(&self.config.host);
        let host = hosts.filter(move |(jid, _)| jid.as_str() == host);
        let host = host.map(|(jid, host)| (format!("host {jid}"), &host.policy));
        std::iter::once(("account".to_owned(), &account.policy)).chain(groups).chain(host)
    }

    fn nearest<'a, T: Copy>(
        &'a self,
        account: &'a Account,
        of: impl Fn(&Policy) -> Option<T>,
        global: T,
    ) -> T {
        // Accounts with a policy of their own are few; hosts mostly say nothing.
        self.policies(account).find_map(|(_, policy)| of(policy)).unwrap_or(global)
    }

    /// The policy in force for an account.
    #[must_use]
    pub fn policy_of(&self, account: &Account) -> Effective {
        let (sessions, clients) = (&self.config.sessions, &self.config.clients);
        Effective {
            inactivity: self.nearest(account, |p| p.inactivity, sessions.inactivity).get(),
            lifetime: self.nearest(account, |p| p.lifetime, sessions.lifetime).get(),
            client_inactivity: self
                .nearest(account, |p| p.client_inactivity, clients.inactivity)
                .get(),
            client_lifetime: self.nearest(account, |p| p.client_lifetime, clients.lifetime).get(),
            max_sessions: self.nearest(account, |p| p.max_sessions, sessions.max_sessions),
            at_limit: self.nearest(account, |p| p.at_limit, sessions.at_limit),
            new_clients: self.nearest(account, |p| p.new_clients, clients.new_clients),
        }
    }

    /// The same, shared by all sessions for which it is the same.
    pub(crate) fn shared_policy(&self, account: &Account) -> Arc<Effective> {
        let policy = self.policy_of(account);
        let mut shared = self.shared_policies.lock();
        if let Some(found) = shared.iter().find(|other| ***other == policy) {
            return found.clone();
        }
        // Few accounts differ; what no session has any more is dropped on the way.
        shared.retain(|other| Arc::strong_count(other) > 1);
        let policy = Arc::new(policy);
        shared.push(policy.clone());
        policy
    }

    /// The policy in force for an account, key by key: its name, its value, and where that is said.
    #[must_use]
    pub fn explain_policy(&self, account: &Account) -> Vec<(String, serde_json::Value, String)> {
        let (sessions, clients) = (&self.config.sessions, &self.config.clients);
        let global = Policy {
            inactivity: Some(sessions.inactivity),
            lifetime: Some(sessions.lifetime),
            client_inactivity: Some(clients.inactivity),
            client_lifetime: Some(clients.lifetime),
            max_sessions: Some(sessions.max_sessions),
            at_limit: Some(sessions.at_limit),
            new_clients: Some(clients.new_clients),
        };
        let fields = |policy: &Policy| match serde_json::to_value(policy) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let nearer: Vec<_> =
            self.policies(account).map(|(from, policy)| (from, fields(policy))).collect();
        let explain = |(key, global): (String, serde_json::Value)| {
            let found = nearer.iter().find_map(|(from, fields)| Some((fields.get(&key)?, from)));
            match found {
                Some((value, from)) => (key, value.clone(), from.clone()),
                None => (key, global, "configuration".into()),
            }
        };
        fields(&global).into_iter().map(explain).collect()
    }
}
