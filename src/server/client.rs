//! A client: the durable record of one piece of software that an account has let in. It survives
//! disconnects, restarts and upgrades; a session is one visit of it.
//!
//! A client owns grants, and a grant owns tokens; all of it is one row, so whatever ends a client
//! ends its ways back in with the same write. What is over stays for a while as its own
//! [`Tombstone`]: whoever proves to have had it is told what became of it, nobody else is.
//!
//! Storage is in [`book`], what opens sessions is in [`crate::vault`].

pub mod access;
pub mod book;
pub(crate) mod cache;
mod change;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use wire::TokenId;

use crate::{
    account::{Account, Role},
    clock::Millis,
    end::Actor,
    epoch::Stamp,
    id::{AccountId, ClientId, GrantId},
    policy::Effective,
    privacy,
    vault::Grant,
    words,
};

/// Longest label and longest name of software that is kept, in characters.
pub const TEXT: usize = 100;
/// Most attributes of one client; a name or value of one is no longer than [`TEXT`].
pub const ATTRIBUTES: usize = 16;

/// A client as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Client {
    /// Its public handle.
    pub id: ClientId,
    /// Its number within the account, from 1; never given twice.
    pub sid: u64,
    /// Whose.
    pub account: AccountId,
    /// The account's address.
    pub jid: String,
    /// How it is recognised when it comes back.
    pub key: Key,
    /// How long it may stay.
    #[serde(default)]
    pub class: Class,
    /// When it was first seen, or made for a token.
    pub created: Millis,
    /// By whom it was made: `login`, or who minted its first token.
    pub created_by: String,
    /// When it was last seen, to within `clients.last_use`.
    pub seen: Option<Millis>,
    /// From where it was last seen: an address or, later, its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What it said it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<String>,
    /// How it logged in, and when it last did so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mechanisms: BTreeMap<String, Millis>,
    /// The device that it said it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The owner's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it is over; of class `long`, this moves with its use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    /// The network that it may come from; from elsewhere it is refused and keeps all it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<IpNet>,
    /// Notes of the owner or of other software.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Not yet confirmed by another client of the account.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
    /// It may not come back before then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Millis>,
    /// It is refused, whatever it proves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<Block>,
    /// Its sessions are locked: nothing goes in or out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Tombstone>,
    /// The account's password when it was first seen; what came before a change is void.
    pub generation: u64,
    /// The number of the account's password that it has shown last; none: it has shown none. What it
    /// showed before it was changed does not let it in again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<u64>,
    /// The epochs that it was first seen in.
    #[serde(default)]
    pub stamp: Stamp,
    /// Its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Tombstone>,
    /// What lets it back in without the password.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
}

/// How a client is recognised when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Key {
    /// It logs in with the password and asks for this resource.
    Resource(String),
    /// It was made for this grant.
    Grant(GrantId),
    /// It says which installation of its software it is (XEP-0388), in lower case.
    Agent(String),
}

/// How long a client may stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// As the policy of its account says.
    #[default]
    Policy,
    /// `clients.short` from when it was made, and no longer.
    Short,
    /// `clients.long`, counted anew when less than half of it is left.
    Long,
    /// `clients.once`, and no longer.
    Once,
}

impl Class {
    /// The names, for those who choose.
    pub const NAMES: &'static [&'static str] = &["policy", "short", "long", "once"];

    /// The name on every face.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Short => "short",
            Self::Long => "long",
            Self::Once => "once",
        }
    }

    /// The class of exactly this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Policy, Self::Short, Self::Long, Self::Once]
            .into_iter()
            .find(|class| class.as_str() == name)
    }

    /// Its length in seconds; none: as the policy says.
    #[must_use]
    pub fn length(self, clients: &crate::config::Clients) -> Option<u64> {
        match self {
            Self::Policy => None,
            Self::Short => clients.short.get(),
            Self::Long => clients.long.get(),
            Self::Once => clients.once.get(),
        }
    }
}

words::spoken! {
    /// Why a client, a grant or a token is no longer good. One table: the name on every face and what
    /// its bearer is told.
    Over:

    /// All of its class were ended at once.
    Epoch "epoch" "All sessions from before were ended; log in again";
    /// Its time has passed.
    Expired "expired" "This token has expired";
    /// It is locked, and not over.
    Frozen "frozen" "This client is locked";
    /// It was not used for too long.
    Inactive "inactive" "This token was not used for too long";
    /// Its owner logged it out.
    Logout "logout" "This client was logged out";
    /// The account's password was changed after it was made.
    PasswordChanged "password-changed" "This token is void since the password was changed";
    /// One that had been replaced was used: two parties have had it.
    Reused "reused" "This token had been replaced and was used again; all that came from it is void";
    /// It was revoked.
    Revoked "revoked" "This token was revoked";
    /// A newer one took its place.
    Superseded "superseded" "This token was replaced by a newer one";
}

impl Serialize for Over {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Over {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(d)?;
        let found = Self::ALL.iter().find(|over| over.as_str() == name);
        found.copied().ok_or_else(|| serde::de::Error::custom("not a reason for an end"))
    }
}

/// What remains of something that is over: when, by whom, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// When.
    pub at: Millis,
    /// Why.
    pub why: Over,
    /// By whom, as the audit knows them.
    pub by: String,
    /// What kind of actor that is; all that its bearer is told about them.
    pub kind: Kind,
    /// In whose words, if in any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What kind of actor ended something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An administrator.
    Admin,
    /// The owner of the account.
    Owner,
    /// The server, by its rules.
    Server,
}

impl Kind {
    /// The name on every face.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Owner => "owner",
            Self::Server => "server",
        }
    }
}

impl Over {
    /// What it is when this actor ends a client on purpose: its owner logs it out.
    #[must_use]
    pub fn by(actor: &Actor) -> Self {
        match actor {
            Actor::Owner(_) | Actor::Peer => Self::Logout,
            Actor::Admin(_) | Actor::Server => Self::Revoked,
        }
    }
}

impl Tombstone {
    /// One that an actor sets.
    #[must_use]
    pub fn new(at: Millis, why: Over, actor: &Actor, text: Option<String>) -> Self {
        let kind = match actor {
            Actor::Admin(_) => Kind::Admin,
            Actor::Owner(_) | Actor::Peer => Kind::Owner,
            Actor::Server => Kind::Server,
        };
        Self { at, why, by: actor.name().to_owned(), kind, text }
    }
}

/// Why a client is refused, whatever it proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Since when.
    pub at: Millis,
    /// Until when; none: for ever.
    pub until: Option<Millis>,
    /// By whom.
    pub by: String,
    /// In whose words, if in any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Block {
    /// Whether it still holds.
    #[must_use]
    pub fn holds(&self, now: Millis) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Names a client: what its sessions carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientRef {
    /// Its public handle.
    pub id: ClientId,
    /// Its number within the account.
    pub sid: u64,
}

/// A way in that a client still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WayBack {
    /// The account's password.
    Password,
    /// A token.
    Token,
    /// A token that it was given for its next login (FAST).
    Fast,
}

impl Client {
    /// Its reference.
    #[must_use]
    pub fn handle(&self) -> ClientRef {
        ClientRef { id: self.id, sid: self.sid }
    }

    /// Whether it is known to come from this address, in this way.
    pub(crate) fn has_come(&self, from: (IpAddr, wire::Mechanism)) -> bool {
        let (address, mechanism) = from;
        self.address.as_deref().and_then(|known| known.parse().ok()) == Some(address)
            && self.mechanisms.contains_key(mechanism.as_str())
    }

    /// The same with the details that may still be kept of it now.
    #[must_use]
    pub fn aged(mut self, now: Millis, privacy: &crate::config::Privacy) -> Self {
        let age = now.seconds_since(self.seen.unwrap_or(self.created));
        self.address = self.address.and_then(|known| privacy::address(&known, age, privacy));
        self.software = privacy::software(self.software, age, privacy);
        self.device = privacy::software(self.device, age, privacy);
        self
    }

    /// Why it is over, if it is; at the very instant of a deadline it is.
    #[must_use]
    pub fn over(&self, account: &Account, policy: &Effective, now: Millis) -> Option<Over> {
        if let Some(tombstone) = &self.over {
            return Some(tombstone.why);
        }
        if self.account != account.id {
            return Some(Over::Revoked);
        }
        self.lapsed(policy, now)
    }

    /// Which of its own clocks has run out, if one has.
    #[must_use]
    pub fn lapsed(&self, policy: &Effective, now: Millis) -> Option<Over> {
        let passed = |since: Millis, span: Option<u64>| {
            span.is_some_and(|seconds| since.plus_seconds(seconds) <= now)
        };
        if self.expires.is_some_and(|expires| expires <= now)
            || passed(self.created, policy.client_lifetime)
        {
            Some(Over::Expired)
        } else if passed(self.seen.unwrap_or(self.created), policy.client_inactivity) {
            Some(Over::Inactive)
        } else {
            None
        }
    }

    /// When its own clocks run out, if nothing keeps it alive.
    #[must_use]
    pub fn deadline(&self, policy: &Effective) -> Option<Millis> {
        let lifetime = policy.client_lifetime.map(|span| self.created.plus_seconds(span));
        let idle = policy.client_inactivity;
        let idle = idle.map(|span| self.seen.unwrap_or(self.created).plus_seconds(span));
        [self.expires, lifetime, idle].into_iter().flatten().min()
    }

    /// When a visit has to end at the latest: one that this token opened, or the password.
    #[must_use]
    pub fn stays_until(&self, token: Option<TokenId>, policy: &Effective) -> Option<Millis> {
        let lifetime = policy.client_lifetime.map(|span| self.created.plus_seconds(span));
        let own = [self.expires, lifetime].into_iter().flatten().min();
        match token {
            Some(token) => [self.expiry(token, policy), own].into_iter().flatten().min(),
            None => own,
        }
    }

    /// Whether it still waits for another client of the account to confirm it.
    #[must_use]
    pub fn waits(&self, clients: &crate::config::Clients, now: Millis) -> bool {
        let confirmed = |span| self.created.plus_seconds(span) <= now;
        self.unconfirmed && !clients.confirm_after.get().is_some_and(confirmed)
    }

    /// What a visit may do at most: one that this token opened, or the password.
    #[must_use]
    pub fn most(&self, token: Option<TokenId>, waits: bool) -> Role {
        let token = token.and_then(|id| self.token(id));
        let most = token.map_or(Role::Admin, |(grant, token)| token.role.min(grant.role));
        if waits { most.min(Role::Restricted) } else { most }
    }

    /// In one word whether it is good, and if not, why.
    #[must_use]
    pub fn state(&self, account: &Account, policy: &Effective, now: Millis) -> &'static str {
        let held = || match self.refused(now) {
            Some(Refused::Blocked(_)) => "blocked",
            Some(Refused::Held(_)) => "held",
            None if self.frozen.is_some() => "frozen",
            None => "good",
        };
        match self.over(account, policy, now) {
            Some(_) if self.is_blocked(now) => "blocked",
            Some(over) => over.as_str(),
            None => held(),
        }
    }

    /// Whether it is refused, whatever it proves.
    #[must_use]
    pub fn is_blocked(&self, now: Millis) -> bool {
        self.block.as_ref().is_some_and(|block| block.holds(now))
    }

    /// Whether it is refused for now, and until when (none: for ever).
    #[must_use]
    pub fn refused(&self, now: Millis) -> Option<Refused> {
        if let Some(block) = self.block.as_ref().filter(|block| block.holds(now)) {
            return Some(Refused::Blocked(block.until));
        }
        self.hold.filter(|until| now < *until).map(Refused::Held)
    }

    /// What still lets it in: the password unless it is blocked, and tokens that are good.
    #[must_use]
    pub fn ways_back(&self, account: &Account, check: &Check<'_>) -> Vec<WayBack> {
        let mut ways = Vec::new();
        if account.disabled || self.is_blocked(check.now) {
            return ways;
        }
        ways.push(WayBack::Password);
        let good = |fast: bool| {
            self.grants.iter().any(|grant| {
                grant.tokens.iter().any(|token| {
                    token.fast.is_some() == fast
                        && self.token_over(grant, token, account, check).is_none()
                })
            })
        };
        if good(false) {
            ways.push(WayBack::Token);
        }
        if good(true) {
            ways.push(WayBack::Fast);
        }
        ways
    }

    /// Whether nothing but the password, and what that gave it, lets it back in.
    pub(crate) fn has_no_token(&self) -> bool {
        self.grants.iter().flat_map(|grant| &grant.tokens).all(|token| token.fast.is_some())
    }

    /// How many of its tokens are good.
    #[must_use]
    pub fn good_tokens(&self, account: &Account, check: &Check<'_>) -> usize {
        let good = |grant: &Grant| {
            let tokens = grant.tokens.iter();
            tokens.filter(|token| self.token_over(grant, token, account, check).is_none()).count()
        };
        self.grants.iter().map(good).sum()
    }

    /// Marks it and all that it has as over; what was over already keeps its own tombstone.
    pub fn end(&mut self, tombstone: &Tombstone) {
        self.over.get_or_insert_with(|| tombstone.clone());
        for grant in &mut self.grants {
            grant.end(tombstone);
        }
    }
}

/// Whose a client is, as of when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The account.
    pub account: AccountId,
    /// Its address.
    pub jid: &'a str,
    /// Its generation.
    pub generation: u64,
    /// The epochs in force.
    pub stamp: Stamp,
}

/// What is needed to tell whether something is over.
pub struct Check<'a> {
    /// The account's policy.
    pub policy: &'a Effective,
    /// The epochs in force.
    pub epochs: &'a crate::epoch::InForce,
    /// Now.
    pub now: Millis,
}

/// Why a client is refused though it proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is blocked, until then or for ever.
    Blocked(Option<Millis>),
    /// It was ended a moment ago and may not come back before then.
    Held(Millis),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked(None) => f.write_str("This client is blocked"),
            Self::Blocked(Some(until)) => write!(f, "This client is blocked until {until}"),
            Self::Held(until) => write!(f, "This client may come back at {until}"),
        }
    }
}

impl Client {
    /// One that has just come, or is made for a token.
    #[must_use]
    pub fn new(owner: &Owner<'_>, sid: u64, key: Key, now: Millis, by: &str) -> Self {
        Self {
            id: ClientId::random(),
            sid,
            account: owner.account,
            jid: owner.jid.to_owned(),
            key,
            class: Class::Policy,
            created: now,
            created_by: by.into(),
            seen: None,
            address: None,
            software: None,
            device: None,
            mechanisms: BTreeMap::new(),
            label: None,
            expires: None,
            bound_to: None,
            attributes: BTreeMap::new(),
            unconfirmed: false,
            hold: None,
            block: None,
            frozen: None,
            generation: owner.generation,
            password: None,
            stamp: owner.stamp,
            over: None,
            grants: Vec::new(),
        }
    }

    /// Notes that it is there; `from`: that it has just logged in from this address in this way. A
    /// long-lived one of which less than half is left gets its full length again.
    pub fn was_seen(
        &mut self,
        now: Millis,
        from: Option<(IpAddr, wire::Mechanism)>,
        clients: &crate::config::Clients,
    ) {
        self.seen = self.seen.max(Some(now));
        if let Some((address, mechanism)) = from {
            self.address = Some(address.to_string());
            self.mechanisms.insert(mechanism.as_str().into(), now);
        }
        if self.class == Class::Long
            && let (Some(expires), Some(length)) = (self.expires, clients.long.get())
            && now.plus_seconds(length / 2) > expires
        {
            self.expires = Some(now.plus_seconds(length));
        }
    }
}
