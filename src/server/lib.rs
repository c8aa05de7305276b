//! The server behind the sockets. What is deliberately absent here: sockets (`net`), SQL (`store`),
//! features (`plugins`) and the ways to administer (`admin`).
//!
//! ```text
//!  net::Conn ──frames──► Server::inbound ─► hooks ─► router ─► registry ─► Session.mailbox ─► net::Conn
//!      │                                      │                    ▲
//!      ├── login: accounts, vault ── store    └── IQ handlers      │ marks dead, atomically
//!      └── Server::end ◄── commands, sweeper, vault, limits ───────┘
//! ```
//!
//! Read `session` (what a session is), `registry` (who is where), `router` (where a stanza goes) and
//! `end` (how it is over); the rest hangs on these.
#![forbid(unsafe_code)]

pub mod account;
pub mod audit;
pub mod bearer;
pub mod browser;
pub mod budget;
pub mod change;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
mod copies;
pub mod deadlines;
pub mod deletion;
mod duplicate;
pub mod end;
pub mod epoch;
pub mod events;
mod fast;
pub mod gate;
mod hearing;
pub mod hibernation;
pub mod history;
pub mod hooks;
pub mod id;
pub mod iq;
pub mod job;
pub mod journal;
pub mod keyring;
mod lock;
pub mod login;
pub mod mailbox;
#[cfg(all(test, feature = "shuttle"))]
mod mailbox_shuttle;
pub mod metrics;
pub mod notice;
pub mod pace;
mod parcel;
pub mod plugin;
pub mod policy;
pub mod privacy;
pub mod random;
mod reauth;
pub mod registry;
pub mod rename;
pub mod resumption;
pub mod rights;
mod router;
pub mod schedule;
pub mod session;
pub mod stop;
pub mod store;
mod sweeper;
pub mod task;
mod throttle;
pub mod trend;
mod unauthed;
mod upgrade;
pub mod vault;
mod visit;
pub mod webhook;
pub mod words;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use wire::Jid;

pub use crate::session::Session;
use crate::{
    clock::{Clock, Millis},
    config::Config,
    deadlines::Deadlines,
    events::{Events, Recent},
    hooks::Hooks,
    keyring::KeyRing,
    plugin::{Plugin, Registrations, Setup},
    registry::Registry,
    store::{SharedStore, Table},
};

/// Everything that sessions share. Put together once, by [`Server::new`].
pub struct Server {
    /// The configuration in force.
    pub config: Config,
    /// The served domains, prepared; the first is the default.
    pub hosts: Vec<Jid>,
    /// The time.
    pub clock: Clock,
    /// Where everything durable is.
    pub store: SharedStore,
    /// The keys that make a stolen database useless.
    pub keys: KeyRing,
    /// Who is where.
    pub registry: Registry,
    /// When to look at whom again.
    pub deadlines: Deadlines,
    /// Where features attach.
    pub hooks: Hooks,
    /// What else they have registered.
    pub registrations: Registrations,
    /// All plugins, in their order.
    pub plugins: &'static [Plugin],
    /// Changes of sessions as they happen.
    pub events: Events,
    /// The sessions that ended last.
    pub recent: Recent,
    /// Where the ids of sessions come from.
    pub session_ids: id::SessionIds,
    /// When the server was put together.
    pub started: Millis,
    /// Grows when an account that exists changes; see [`login`].
    pub(crate) accounts_epoch: AtomicU64,
    pub(crate) account_ids: id::AccountIds,
    pub(crate) last_stamp: AtomicU64,
    pub(crate) hashing: account::Hashing,
    pub(crate) epochs: epoch::Epochs,
    pub(crate) known_accounts: account::cache::Cache,
    pub(crate) known_clients: Arc<client::cache::Cache>,
    pub(crate) shared_policies: parking_lot::Mutex<Vec<Arc<policy::Effective>>>,
    pub(crate) stopping: AtomicBool,
    /// Messages on their way, on disk.
    pub journal: Arc<journal::Journal>,
    /// What is counted.
    pub metrics: metrics::Metrics,
    /// What the numbers were over the last day.
    pub trend: trend::Trend,
    /// Long work under way.
    pub jobs: job::Jobs,
    /// New connections, by address.
    pub connects: budget::Budget,
    /// Logins under way.
    pub logins: Arc<gate::Gate>,
    pub(crate) throttle: throttle::Throttle,
    pub(crate) rates: command::rate::Rates,
    pub(crate) unauthed: unauthed::Unauthed,
    pub(crate) notes: history::Notes,
    pub(crate) outbox: webhook::Outbox,
    /// Where the pass over all accounts is; see [`privacy`].
    pub(crate) walk: tokio::sync::Mutex<privacy::Walk>,
    /// Plugins' own state about this server.
    slots: parking_lot::Mutex<Vec<Arc<dyn std::any::Any + Send + Sync>>>,
    /// Tells the main program that somebody asked it to stop.
    pub stop: stop::Stop,
}

/// Why a server could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No domain to serve.
    #[error("no host is configured; hint: add `[[host]]` with `name = \"your.domain\"`")]
    NoHost,
    /// A host's name is not a domain.
    #[error("`{name}` is not a domain name: {why}; hint: correct `name` under `[[host]]`")]
    BadHost {
        /// As configured.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The core's own tables.
const TABLES: &[&Table] = &[
    &account::ACCOUNTS,
    &audit::AUDIT,
    &audit::AUDIT_HEAD,
    &audit::AUDIT_OF,
    &client::book::CLIENTS,
    &client::book::CLIENT_COUNTS,
    &client::book::CLIENT_KEYS,
    &client::book::HANDLES,
    &hibernation::HIBERNATING,
    &journal::IN_FLIGHT,
    &journal::POINTS,
    &epoch::EPOCHS,
    &rename::FORMER_NAMES,
    &schedule::SCHEDULE,
    &history::LAST_SEEN,
    &history::LOGIN,
    &history::LOGIN_REFUSED,
    &history::LOGIN_TIME,
    &webhook::EVENTS,
];

/// How long a stopping server waits for the ends of its sessions to be written.
const LAST_NOTES: std::time::Duration = std::time::Duration::from_secs(10);

impl Server {
    /// Puts a server together.
    ///
    /// # Errors
    /// [`SetupError`] when the configured hosts cannot be served.
    pub fn new(
        config: Config,
        clock: Clock,
        store: SharedStore,
        keys: KeyRing,
        plugins: &'static [Plugin],
    ) -> Result<Arc<Self>, SetupError> {
        let mut hosts = Vec::new();
        for host in &config.host {
            let bad = |why: String| SetupError::BadHost { name: host.name.clone(), why };
            let jid = Jid::parse(&host.name).map_err(|why| bad(why.to_string()))?;
            if jid.local().is_some() || jid.resource().is_some() {
                return Err(bad("it has more parts than a domain".into()));
            }
            hosts.push(jid);
        }
        if hosts.is_empty() {
            return Err(SetupError::NoHost);
        }
        let mut hooks = Hooks::default();
        let mut registrations = Registrations::default();
        registrations.tables.extend(TABLES);
        for plugin in plugins {
            (plugin.setup)(&mut Setup {
                plugin: plugin.name,
                hooks: &mut hooks,
                registrations: &mut registrations,
                config: &config,
            });
        }
        let metrics = metrics::Metrics::default();
        let store = metrics.timed(store);
        let started = clock.now();
        let throttle = throttle::Throttle::new(&config.auth);
        let logins = Arc::new(gate::Gate::new(config.limits.logins_at_once));
        let unauthed = unauthed::Unauthed::new(config.limits.connections, logins.clone());
        let connects = budget::Budget::new(config.limits.connects_per_second);
        Ok(Arc::new(Self {
            config,
            hosts,
            clock,
            store,
            keys,
            registry: Registry::default(),
            deadlines: Deadlines::default(),
            hooks,
            registrations,
            plugins,
            events: Events::default(),
            recent: Recent::default(),
            session_ids: id::SessionIds::default(),
            started,
            accounts_epoch: AtomicU64::new(0),
            account_ids: id::AccountIds::default(),
            last_stamp: AtomicU64::new(0),
            hashing: account::Hashing::default(),
            epochs: epoch::Epochs::default(),
            known_accounts: account::cache::Cache::default(),
            known_clients: Arc::default(),
            shared_policies: parking_lot::Mutex::default(),
            stopping: AtomicBool::new(false),
            journal: Arc::default(),
            metrics,
            trend: trend::Trend::default(),
            jobs: job::Jobs::default(),
            connects,
            logins,
            throttle,
            rates: command::rate::Rates::default(),
            unauthed,
            notes: history::Notes::default(),
            outbox: webhook::Outbox::default(),
            walk: tokio::sync::Mutex::default(),
            slots: parking_lot::Mutex::default(),
            stop: stop::Stop::default(),
        }))
    }

    /// A plugin's own state about this server, made at the first call. One per type `T`.
    pub fn slot<T: std::any::Any + Send + Sync + Default>(&self) -> Arc<T> {
        let mut slots = self.slots.lock();
        let found = slots.iter().find_map(|slot| Arc::clone(slot).downcast::<T>().ok());
        found.unwrap_or_else(|| {
            let made = Arc::new(T::default());
            slots.push(made.clone());
            made
        })
    }

    /// Runs something beside the sessions; must be called from within the runtime.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    /// A number that grows with time and is never given twice, for keys of logs: milliseconds since
    /// the epoch in the upper bits, a count in the lower 20.
    pub fn stamp(&self) -> u64 {
        let now = self.clock.now().0 << 20;
        let last = self
            .last_stamp
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(now.max(last + 1)));
        last.map_or(now, |last| now.max(last + 1))
    }

    /// Whether no new sessions are taken any more.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The domain for clients that name none.
    #[must_use]
    pub fn default_host(&self) -> &Jid {
        &self.hosts[0]
    }

    /// Takes no new session, writes down those that can be resumed, and ends every other one with
    /// `system-shutdown`, bounded by `close_wait`. Messages that were not handed over by then are kept
    /// like messages to an absent client.
    pub async fn shutdown(self: &Arc<Self>) {
        self.stopping.store(true, Ordering::Release);
        // Whoever has asked for this is told that it happens.
        self.all_heard().await;
        let sessions: Vec<_> = self.registry.all().collect();
        tracing::info!(event = "draining", sessions = sessions.len());
        let (stay, go): (Vec<_>, Vec<_>) =
            sessions.into_iter().partition(|session| session.is_resumable() && session.alive());
        for session in &go {
            self.end(session, end::End::new(end::Reason::Shutdown));
        }
        for session in self.all_settled(&go).await {
            tracing::warn!(event = "session-lingers", session = %session.id);
        }
        // Once all others are gone: what they leave behind may be for these.
        match self.put_to_sleep().await {
            Ok(count) => {
                if count > 0 {
                    tracing::info!(event = "hibernating", sessions = count);
                }
                if let Err(error) = self.close_journal().await {
                    tracing::error!(event = "journal-failed", %error);
                }
            }
            Err(error) => {
                tracing::error!(event = "sessions-not-written", %error);
                self.all_settled(&stay).await;
            }
        }
        if !self.history_written(LAST_NOTES).await {
            tracing::error!(event = "history-not-written", error = "the disk is too slow");
        }
        if tokio::time::timeout(LAST_NOTES, self.events_written()).await.is_err() {
            tracing::error!(event = "webhook-events-lost", error = "the disk is too slow");
        }
    }
}
