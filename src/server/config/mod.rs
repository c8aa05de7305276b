//! What an operator can set. One struct per section; the doc comment of a key is its documentation:
//! the example file and the reference are generated from it ([`example`]), and an unknown key is an
//! error that names the nearest known one ([`load`]).

mod doors;
mod example;
mod lj;
mod load;
mod schema;
mod span;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use doors::{Hidden, Http, Listen, Webhook};
pub use example::{example, reference};
pub use lj::Lj;
pub(crate) use load::nearest_word;
pub use load::{ConfigError, load, parse};
pub use span::Span;

use crate::{
    policy::{AtLimit, NewClients, Policy},
    rights::{Right, Rights},
};

/// Usher's configuration. Every key has a default; an empty file is a working server.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything durable lives: database, server key, generated certificate, admin socket.
    /// Created with mode 0700 if it is not there. A relative path counts from the working directory.
    pub data_dir: PathBuf,
    /// The storage engine: `sqlite` (durable) or `memory` (gone when the server stops; for tests).
    pub storage: Storage,
    /// The domains served. The first is the default for clients that name none.
    pub host: Vec<Host>,
    /// Addresses to listen on.
    pub listen: Listen,
    /// What is offered over HTTP.
    pub http: Http,
    /// LiveJournal's protocol, for old programs that end and make sessions by it.
    pub lj: Lj,
    /// Programs that are told when sessions end.
    pub webhook: Vec<Webhook>,
    /// Certificates and what is demanded of clients.
    pub tls: Tls,
    /// How accounts prove who they are.
    pub auth: Auth,
    /// What a peer may do before it is cut off, per phase of its session, and caps.
    pub limits: Limits,
    /// How long sessions last and what happens when two want the same name.
    pub sessions: Sessions,
    /// What is remembered of clients, and for how long.
    pub clients: Clients,
    /// Who has to go when something about an account changes.
    pub on: On,
    /// What owners may do with their accounts themselves, from a client that has logged in (XEP-0077).
    pub registration: Registration,
    /// How many commands an account may give.
    pub commands: Commands,
    /// Policies for groups of accounts; `usher user group` puts accounts in.
    pub group: Vec<Group>,
    /// Bounds for `secret-token:` credentials.
    pub tokens: Tokens,
    /// What each role may do to others. Two are not here: `restricted` never has any right, and `admin`
    /// always has all. Nobody may act on an account whose role is not below the own one, whatever the
    /// rights; the own account takes no right, only a role above `restricted`.
    pub roles: Roles,
    /// What is written to the audit, besides every command that changes something.
    pub audit: Audit,
    /// What is remembered of logins.
    pub history: History,
    /// How long personal details stay as they were noted.
    pub privacy: Privacy,
    /// Roster and offline storage.
    pub storage_limits: StorageLimits,
    /// What is logged, and how.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("usher-data"),
            storage: Storage::Sqlite,
            host: vec![Host::default()],
            listen: Listen::default(),
            http: Http::default(),
            lj: Lj::default(),
            webhook: Vec::new(),
            tls: Tls::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            sessions: Sessions::default(),
            clients: Clients::default(),
            on: On::default(),
            registration: Registration::default(),
            commands: Commands::default(),
            group: Vec::new(),
            tokens: Tokens::default(),
            roles: Roles::default(),
            audit: Audit::default(),
            history: History::default(),
            privacy: Privacy::default(),
            storage_limits: StorageLimits::default(),
            log: Log::default(),
        }
    }
}

/// Storage engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Everything is lost when the server stops.
    Memory,
    /// One file, `usher.db`, in the data directory.
    Sqlite,
}

/// One domain that the server serves.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// The domain, as in the part of a JID behind the `@`.
    pub name: String,
    /// What its accounts may, where it differs from `[sessions]` and `[clients]`.
    pub policy: Policy,
}

impl Default for Host {
    fn default() -> Self {
        Self { name: "localhost".into(), policy: Policy::default() }
    }
}

/// A policy for some accounts.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    /// What `usher user group` calls it.
    pub name: String,
    /// What its accounts may, where it differs from that of their host.
    pub policy: Policy,
}

/// Certificates and what is demanded of clients.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain. Without it, a self-signed certificate is made in
    /// the data directory. Read again on SIGHUP.
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    pub key: Option<PathBuf>,
    /// Whether clients must encrypt before they log in. `false` lets them log in without, by SCRAM
    /// only (passwords and tokens never travel in the clear): for tests and closed networks.
    pub required: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self { certificate: None, key: None, required: true }
    }
}

/// How accounts prove who they are.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Iterations for newly set passwords (RFC 5802). More makes a stolen database harder to guess
    /// from, and PLAIN logins, imports and the client's side of SCRAM slower. 4096 to 1000000.
    #[schemars(range(min = 4096, max = 1_000_000))]
    pub scram_iterations: u32,
    /// Failed attempts on one connection before it is closed.
    #[schemars(range(min = 2, max = 100))]
    pub attempts: u32,
    /// How long after a login with the password a session may set passwords, mint and revoke tokens,
    /// and change accounts; one that a token opened may not at all. `off`: every session may, at any
    /// time.
    pub step_up: Span,
    /// So many failed logins to one account from one address (IPv6: /64 network), within
    /// `failure_period`, and that address may not try that account for as long again. Other addresses
    /// may: nobody can lock the owner out. 0: no such limit.
    pub pair_failures: u32,
    /// So many failed logins from one address, over all accounts, within `failure_period`, and it may
    /// not log in for as long again. Whole companies and mobile networks share an address: keep it
    /// large. 0: no such limit.
    pub address_failures: u32,
    /// See `pair_failures` and `address_failures`. `off`: neither limit.
    pub failure_period: Span,
    /// An account that was not used for this long may not log in until an administrator enables it
    /// again. What happened before the server began to note it does not count. `off`: no such rule.
    pub dormant: Span,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            scram_iterations: 10_000,
            attempts: 4,
            step_up: Span::seconds(300),
            pair_failures: 3,
            address_failures: 100,
            failure_period: Span::seconds(300),
            dormant: Span::OFF,
        }
    }
}

/// What a peer may do before it is cut off. One record per phase, swapped whole when the phase
/// changes, so that no limit of an earlier phase is ever lost or kept by accident.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Before login.
    pub unauthed: Phase,
    /// After login, before a resource is bound.
    pub unbound: Phase,
    /// After that.
    pub bound: Phase,
    /// Connections that the server has at once, logged in or not. Beyond it, the oldest one that has not
    /// logged in makes way for a new one; if there is none, the new one is refused. 0: no cap.
    pub connections: u32,
    /// Connections that one IPv4 address or IPv6 /64 network may have at once, logged in or not. 0: no
    /// cap.
    pub per_address: u32,
    /// Connections that one IPv4 address or IPv6 /64 network may open per second, and four times as
    /// many at once if it opened none for a while. Beyond it a new one is closed before anything is
    /// done for it. Whole mobile networks share an address: keep it large. 0: no such limit.
    pub connects_per_second: u32,
    /// Logins under way at once, from the connection's first moment. Beyond it new connections wait
    /// in the kernel, so that those that have begun are finished in time. One that takes longer than 5
    /// seconds does not count any more. 0: no bound.
    pub logins_at_once: u32,
    /// Bound sessions that one account may have at once; as many again may have logged in and not bound
    /// a resource yet. One that replaces another does not count. 0: no cap.
    pub per_account: u32,
    /// Bytes of stanzas that may wait for a client that does not read. When more is to be sent, the
    /// session ends and what waited is delivered like any message to an absent client.
    #[schemars(range(min = 65_536))]
    pub mailbox_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // The least that RFC 6120 section 13.12 allows, and more than anybody needs to log in.
        let negotiating = Phase {
            stanza_bytes: 10_000,
            elements: 100,
            depth: 10,
            attributes: 20,
            bytes_per_second: 16_384,
            time: Span::seconds(60),
        };
        Self {
            unauthed: negotiating,
            unbound: negotiating,
            bound: Phase {
                stanza_bytes: 262_144,
                elements: 10_000,
                depth: 100,
                attributes: 100,
                bytes_per_second: 131_072,
                time: Span::OFF,
            },
            connections: 0,
            per_address: 200,
            connects_per_second: 100,
            logins_at_once: 1_000,
            per_account: 30,
            mailbox_bytes: 4 << 20,
        }
    }
}

/// The limits of one phase.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Largest stanza in bytes. RFC 6120 demands at least 10000.
    #[schemars(range(min = 10_000))]
    pub stanza_bytes: usize,
    /// Elements in one stanza.
    #[schemars(range(min = 1))]
    pub elements: u32,
    /// Nesting of elements in one stanza.
    #[schemars(range(min = 1))]
    pub depth: u16,
    /// Attributes of one element, namespace declarations included.
    #[schemars(range(min = 1))]
    pub attributes: u16,
    /// Bytes that are read per second, averaged over ten seconds. A faster peer is not cut off but
    /// read from more slowly. 0: no limit.
    pub bytes_per_second: u32,
    /// How long the phase may last. `off`: for ever.
    pub time: Span,
}

/// How long sessions last and what happens when two want the same name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// When a client asks for a resource that another session of its account has: `replace` ends the
    /// older one, `refuse` denies the newer one, `rename` gives the newer one a name of its own.
    pub conflict: Conflict,
    /// When the id that was drawn for a session is another one's, which cannot happen unless randomness
    /// is broken: `retry` draws another one, `refuse` turns the connection away. Either way there is an
    /// alarm in the log and the audit.
    pub duplicate_ids: DuplicateIds,
    /// A session that has sent no stanza for this long is ended. `off`: never.
    pub inactivity: Span,
    /// A session this old is ended, however active. `off`: never.
    pub lifetime: Span,
    /// A session that was inactive for too long, and can be resumed (XEP-0198), is not ended but waits
    /// for so long until its owner proves the password anew: its connection is closed, and what it is
    /// sent is kept for it. A token does not resume it, nor does one for its client's next login open
    /// anything meanwhile. `off`: it ends.
    pub reauth: Span,
    /// How much longer it waits if somebody begins to log in to its account in the last moment.
    pub reauth_grace: Span,
    /// Whether its greatest age is counted anew from that proof.
    pub reauth_renews: bool,
    /// Whether it ends when too many logins to its account have failed from its address
    /// (`auth.pair_failures`).
    pub reauth_lockout: bool,
    /// Whether pings (XEP-0199) and answers count as use, so that a session whose software only shows
    /// that it is there is never inactive. Whitespace never counts.
    pub pings_count: bool,
    /// Bound sessions that an account may have at once; one that replaces another does not count. 0:
    /// no bound but `limits.per_account`.
    pub max_sessions: u32,
    /// What happens when an account has `max_sessions` and another one comes.
    pub at_limit: AtLimit,
    /// How long a session whose connection broke waits to be resumed (XEP-0198); clients may ask for
    /// less. `off`: streams cannot be resumed.
    pub resume: Span,
    /// Sessions without a connection that an account may have; beyond it the one that has waited for
    /// the longest time ends. 0: no bound but those on sessions.
    pub hibernating: u32,
    /// Whether a message is on disk before its sender is told that the server has it (XEP-0198), so that
    /// it survives a crash of the server. `false`: it survives a stop and a start, and the loss of
    /// connections, and costs no write.
    pub durable: bool,
    /// How long a client may take to close its side once it has been told that its session is over,
    /// before the connection is cut.
    pub close_wait: Span,
    /// How long bytes may stay unacknowledged by the client's kernel, or an acknowledgement that the
    /// client was asked for (XEP-0198) may be missing, before the connection counts as lost: its
    /// session waits to be resumed, or else what waited is delivered like to an absent client. `off`:
    /// as long as the system likes, mostly a quarter of an hour.
    pub dead_after: Span,
    /// A connection that was idle for this long is asked by the kernel whether its client is there;
    /// one that is gone is noticed within this and `dead_after` together. The client's software is not
    /// troubled, only its network. `off`: it is not asked.
    pub keepalive: Span,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            conflict: Conflict::Replace,
            duplicate_ids: DuplicateIds::Retry,
            inactivity: Span::OFF,
            lifetime: Span::OFF,
            reauth: Span::OFF,
            reauth_grace: Span::seconds(20),
            reauth_renews: false,
            reauth_lockout: true,
            pings_count: false,
            max_sessions: 0,
            at_limit: AtLimit::Refuse,
            resume: Span::seconds(600),
            hibernating: 5,
            durable: true,
            close_wait: Span::seconds(5),
            dead_after: Span::seconds(60),
            keepalive: Span::seconds(120),
        }
    }
}

/// What happens when the id of a new session is another one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DuplicateIds {
    /// The connection is turned away.
    Refuse,
    /// Another id is drawn.
    Retry,
}

/// What happens when two sessions want the same resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Conflict {
    /// The newer one is denied.
    Refuse,
    /// The newer one gets a generated resource.
    Rename,
    /// The older one ends with `conflict`.
    Replace,
}

/// What is remembered of clients, and for how long. A client is one piece of software that an account
/// has let in; it outlives its sessions.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// A client that was not seen for this long is over, with its tokens. `off`: never.
    pub inactivity: Span,
    /// A client this old is over, with its tokens, however often it was seen. `off`: never.
    pub lifetime: Span,
    /// How long a client of class `short` may stay.
    pub short: Span,
    /// How long a client of class `long` may stay; counted anew when less than half of it is left.
    pub long: Span,
    /// How long a client of class `once` may stay.
    pub once: Span,
    /// How exactly the last use is recorded: at most one write per client in this time.
    pub last_use: Span,
    /// How long it is remembered that and why a client, grant or token is over, so that whoever
    /// presents it is told.
    pub tombstones: Span,
    /// Clients that are remembered of one account. Beyond it, the one without a token that was not
    /// seen for the longest time is forgotten.
    #[schemars(range(min = 1, max = 10_000))]
    pub per_account: u32,
    /// Whether a client that was never seen before may do everything at once, or has to be confirmed
    /// by another one of the account first.
    pub new_clients: NewClients,
    /// An unconfirmed client counts as confirmed after this long. `off`: never by itself.
    pub confirm_after: Span,
    /// A client younger than this may not end older ones of its account, nor block them or revoke
    /// their tokens, so that a thief cannot throw the owner out. Who has shown the password lately may
    /// change it all the same: a thief who knows it is not kept out by this, nor is an owner whose
    /// older devices are gone. `off`: at once.
    pub fresh: Span,
    /// What comes of it when an owner revokes a client that knows the password (XEP-0494), with which
    /// it would come back. Commands do as they are told.
    pub revoke_password: RevokePassword,
}

/// What comes of it when a client is revoked that knows the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RevokePassword {
    /// It is blocked for good: it is known again by the installation that it says it is, else by its
    /// resource. Software that lies about these is kept out by another password only.
    Block,
    /// Nothing is done, and the owner is told that the password has to be changed first.
    Reset,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            inactivity: Span::OFF,
            lifetime: Span::OFF,
            short: Span::seconds(36 * 3_600),
            long: Span::days(60),
            once: Span::seconds(2 * 3_600),
            last_use: Span::seconds(60),
            tombstones: Span::days(90),
            per_account: 100,
            new_clients: NewClients::Free,
            confirm_after: Span::OFF,
            fresh: Span::days(1),
            revoke_password: RevokePassword::Reset,
        }
    }
}

/// Who has to go when something about an account changes. When an account is disabled or deleted,
/// all have to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct On {
    /// Whether the owner of an account is told, by a message from its domain, that its password or role
    /// was changed, that a token was used again that had been replaced, and that an administrator has
    /// ended all its sessions.
    pub notify: bool,
    /// The owner changes the password. Tokens from before are void unless nobody has to go.
    pub password_change: Who,
    /// An administrator sets another password. Tokens from before are void unless nobody has to go.
    pub password_reset: Who,
    /// An administrator gives the account another name. All sessions of the old name end in any case;
    /// clients stay. Grants from before are void, unless it is `nobody`: then `usher token rotate` gives
    /// their tokens the new name, without which none opens anything.
    pub rename: Who,
    /// An administrator gives the account another role. Whoever stays has the new role at once.
    pub role_change: Who,
}

impl Default for On {
    fn default() -> Self {
        Self {
            notify: true,
            password_change: Who::Others,
            password_reset: Who::All,
            rename: Who::Others,
            role_change: Who::Nobody,
        }
    }
}

/// What owners may do with their accounts themselves, from a client that has logged in (XEP-0077), if it
/// has shown the password within `auth.step_up`. Nobody can make an account this way.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Registration {
    /// Whether they may set another password.
    pub change_password: bool,
    /// Whether they may delete the account.
    pub remove: bool,
    /// An account that is removed like this is disabled at once, and deleted when this has passed; until
    /// then `usher user restore` takes it back. `off`: it is deleted at once.
    pub grace: Span,
}

impl Default for Registration {
    fn default() -> Self {
        Self { change_password: true, remove: true, grace: Span::days(7) }
    }
}

/// How many commands an account may give, from whichever session or by `--as`. Whoever is at the admin
/// socket as nobody else is not bound.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Commands {
    /// So many commands that change something within `period`. 0: any number.
    pub changes: u32,
    /// So many commands that only look at something within `period`. 0: any number.
    pub views: u32,
    /// Whoever has used up `changes` may still end sessions of the own account, so many times within
    /// `period`: nobody is kept from throwing a thief out.
    pub own_ends: u32,
    /// See the others; counted from the first command. `off`: no such limits.
    pub period: Span,
}

impl Default for Commands {
    fn default() -> Self {
        Self { changes: 60, views: 300, own_ends: 5, period: Span::seconds(60) }
    }
}

/// Which sessions of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// All of them.
    All,
    /// None.
    Nobody,
    /// All but the one that made the change, if one did.
    Others,
}

/// Bounds for `secret-token:` credentials.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// How long a token is valid if nothing is said when it is minted.
    pub ttl: Span,
    /// The longest that may be asked for. `off`: no bound.
    pub max_ttl: Span,
    /// A token that has not been used for this long is dead, if nothing is said when it is minted.
    pub inactive: Span,
    /// How exactly the last use is recorded: at most one write per token in this time.
    pub last_use: Span,
    /// How long a token is valid that a client gets for its next login (FAST, XEP-0484). Each one that
    /// is used when it is older than `fast_rotate` is replaced, so this is how long a client may stay
    /// away. `off`: there are none.
    pub fast: Span,
    /// The age from which such a token is replaced when it is used.
    pub fast_rotate: Span,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            ttl: Span::days(90),
            max_ttl: Span::days(366),
            inactive: Span::OFF,
            last_use: Span::seconds(60),
            fast: Span::days(21),
            fast_rotate: Span::days(1),
        }
    }
}

/// What each role may do to others.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Roles {
    /// Accounts of which nothing else was said.
    pub user: RoleRights,
    /// Those who look after others without touching anything.
    pub viewer: RoleRights,
    /// Those who help others.
    pub support: RoleRights,
    /// Those who keep order.
    pub operator: RoleRights,
}

impl Default for Roles {
    fn default() -> Self {
        let see = Rights::of(&[Right::List, Right::Status]);
        let help = see.with(Right::ListIp).with(Right::End);
        let order = help.with(Right::Revoke).with(Right::Block).with(Right::Policy);
        Self {
            user: RoleRights { rights: Rights::NONE },
            viewer: RoleRights { rights: see },
            support: RoleRights { rights: help },
            operator: RoleRights { rights: order },
        }
    }
}

/// What is remembered of logins: `usher last` shows it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// How long a login is remembered once it is over. `off`: nothing is noted, and what was is
    /// removed.
    pub retention: Span,
    /// Accounts whose logins are not noted, as those of a program that looks every minute whether the
    /// server is there.
    pub nolog: Vec<String>,
}

impl Default for History {
    fn default() -> Self {
        Self { retention: Span::days(30), nolog: Vec::new() }
    }
}

/// How long personal details stay as they were noted, wherever they are stored. Counted from when
/// they were noted; what is overdue is never shown, and is soon removed from the database as well.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Privacy {
    /// Addresses are exact for this long; then only their network is kept, /24 for IPv4 and /48 for
    /// IPv6. `off`: they stay exact until `address_network` has passed.
    pub address_exact: Span,
    /// After this long nothing is kept of an address. `off`: what is left of it stays.
    pub address_network: Span,
    /// After this long the client's software is forgotten. `off`: it stays.
    pub software: Span,
}

impl Default for Privacy {
    fn default() -> Self {
        Self {
            address_exact: Span::days(30),
            address_network: Span::days(180),
            software: Span::days(366),
        }
    }
}

/// The rights of one role.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleRights {
    /// All of its rights, by name; what is not here it may not do.
    pub rights: Rights,
}

/// What is written to the audit.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Whether what the admin socket only looks at is written too, when it names one account. What
    /// accounts look at of others is written in any case.
    pub views: bool,
}

impl Default for Audit {
    fn default() -> Self {
        Self { views: true }
    }
}

/// Bounds on what one account may store.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StorageLimits {
    /// Contacts in a roster.
    #[schemars(range(min = 1))]
    pub roster_items: usize,
    /// Messages kept for an account that is not there. Beyond it the sender gets an error.
    pub offline_messages: u64,
    /// Bytes that these messages may take. Beyond it the sender gets an error.
    pub offline_bytes: u64,
}

impl Default for StorageLimits {
    fn default() -> Self {
        Self { roster_items: 2_000, offline_messages: 1_000, offline_bytes: 16 << 20 }
    }
}

/// What is logged, and how. Logs go to standard error.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`; parts of the server can be set apart, as in
    /// `info,net=debug`.
    pub level: String,
    /// `text` for people, `json` for machines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Shapes of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// One readable line per event.
    Text,
}
