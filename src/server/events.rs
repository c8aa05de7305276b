//! Changes of sessions as they happen, for whoever watches; and the sessions that ended last.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use parking_lot::Mutex;
use tokio::sync::broadcast;
use wire::Mechanism;

use crate::{
    Session,
    client::ClientRef,
    clock::Millis,
    end::{Actor, EndRecord},
    id::{AccountId, SessionId},
    session::Traffic,
};

/// What changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// Sent undirected presence.
    Available,
    /// Bound a resource.
    Bound,
    /// Connected.
    Connected,
    /// Gone, and settled.
    Ended(Option<Arc<EndRecord>>),
    /// Lost its connection, and waits for another one.
    Hibernating,
    /// Fetched its roster.
    Interested,
    /// Logged in.
    LoggedIn,
    /// Goes on over another connection.
    Resumed,
    /// Withdrew its presence.
    Unavailable,
}

impl Change {
    /// The name on every face.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Bound => "bound",
            Self::Connected => "connected",
            Self::Ended(_) => "ended",
            Self::Hibernating => "hibernating",
            Self::Interested => "interested",
            Self::LoggedIn => "logged-in",
            Self::Resumed => "resumed",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One change of one session.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whose.
    pub session: Arc<Session>,
    /// What.
    pub change: Change,
}

/// The feed. Publishing costs one atomic read while nobody watches.
pub struct Events {
    sender: broadcast::Sender<Event>,
}

/// A watcher this far behind misses changes and is told how many.
const BACKLOG: usize = 1024;

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl Events {
    /// Tells everybody who watches.
    pub fn publish(&self, session: &Arc<Session>, change: Change) {
        if self.sender.receiver_count() > 0 {
            // Fails only when the last watcher has just left.
            let _ = self.sender.send(Event { session: session.clone(), change });
        }
    }

    /// How many watch.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Watches from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

/// A session that has ended, as it is remembered.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its handle.
    pub id: SessionId,
    /// Its address, if it had one.
    pub jid: Option<wire::Jid>,
    /// Whose it was, if anybody's.
    pub account: Option<AccountId>,
    /// The client that it was a visit of, if that was known.
    pub client: Option<ClientRef>,
    /// How it had logged in.
    pub mechanism: Option<Mechanism>,
    /// What it had said it is.
    pub software: Option<Arc<str>>,
    /// From where it came.
    pub address: IpAddr,
    /// What went over it.
    pub traffic: Sums,
    /// Stanzas that it had taken in, if they were counted for it to be resumed.
    pub handled: Option<u32>,
    /// When the connection was made.
    pub created: Millis,
    /// How it ended.
    pub record: Arc<EndRecord>,
}

/// What went over a session in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Bytes read from the peer, after decryption.
    pub rx_bytes: u64,
    /// Bytes written to the peer, before encryption.
    pub tx_bytes: u64,
    /// Stanzas read.
    pub rx_stanzas: u64,
    /// Stanzas written.
    pub tx_stanzas: u64,
}

impl From<&Traffic> for Sums {
    fn from(traffic: &Traffic) -> Self {
        Self {
            rx_bytes: traffic.rx_bytes.load(Relaxed),
            tx_bytes: traffic.tx_bytes.load(Relaxed),
            rx_stanzas: traffic.rx_stanzas.load(Relaxed),
            tx_stanzas: traffic.tx_stanzas.load(Relaxed),
        }
    }
}

/// The sessions that ended last, newest first; bounded, and lost when the server stops.
#[derive(Default)]
pub struct Recent {
    ring: Mutex<VecDeque<Past>>,
}

const REMEMBERED: usize = 1000;

impl Recent {
    pub(crate) fn push(&self, session: &Session, record: Arc<EndRecord>) {
        // Whoever never logged in must not push others out, and leaves nothing to ask about unless
        // an administrator ended it.
        if session.identity().is_none() && !matches!(record.by, Actor::Admin(_)) {
            return;
        }
        let identity = session.identity();
        let past = Past {
            id: session.id,
            jid: session.jid(),
            account: identity.as_ref().map(|me| me.account),
            client: identity.as_ref().and_then(|me| me.client()),
            mechanism: identity.as_ref().map(|me| me.mechanism),
            software: session.software(),
            address: session.address(),
            traffic: Sums::from(&session.traffic),
            handled: session.mailbox.counts().map(|counts| counts.handled),
            created: session.created,
            record,
        };
        let mut ring = self.ring.lock();
        ring.truncate(REMEMBERED - 1);
        ring.push_front(past);
    }

    /// The tombstone of a session, if it is still remembered.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<Past> {
        self.ring.lock().iter().find(|past| past.id == id).cloned()
    }

    /// All that are remembered, newest first.
    #[must_use]
    pub fn all(&self) -> Vec<Past> {
        self.ring.lock().iter().cloned().collect()
    }
}
