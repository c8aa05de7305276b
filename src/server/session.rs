//! A session: the state of one stream, from its first byte to its end.
//!
//! A session may outlive its connection: if its stream is resumable (XEP-0198) it hibernates when the
//! connection breaks, and another one goes on with it. What changes then is who it is by which proof,
//! and from where; its handle, its full JID and all that it has stay.
//!
//! The stage grows `unauthed` → `c2s` → `bound`; a bound session is besides `available` and / or
//! `interested`. Only the [`Registry`](crate::registry::Registry) moves a session from stage to
//! stage, because its indexes and counters have to move with it; this file holds what a session is.

use std::{
    any::Any,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use wire::{Agent, Frame, Jid, Mechanism, StreamError, TokenId};

use crate::{
    account::Role,
    client::ClientRef,
    clock::Millis,
    deadlines::Armed,
    end::EndRecord,
    epoch::Stamp,
    hearing,
    id::{AccountId, GrantId, SessionId},
    mailbox::Mailbox,
    policy::Effective,
    resumption::Resumable,
};

/// The five names of a session's stage. A session has passed through all that are below the shown
/// one, except that `available` and `interested` come in either order: see [`Flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Connected; may have negotiated TLS.
    Unauthed,
    /// Authenticated, no resource yet.
    C2s,
    /// Has a full JID.
    Bound,
    /// Has sent undirected presence.
    Available,
    /// Has fetched its roster.
    Interested,
}

impl Stage {
    /// All stages, lowest first.
    pub const ALL: [Self; 5] =
        [Self::Unauthed, Self::C2s, Self::Bound, Self::Available, Self::Interested];

    /// The name used on every face.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthed => "unauthed",
            Self::C2s => "c2s",
            Self::Bound => "bound",
            Self::Available => "available",
            Self::Interested => "interested",
        }
    }
}

/// What a session has reached, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub(crate) u8);

impl Flags {
    /// Logged in.
    pub const AUTHED: Self = Self(1);
    /// Has a full JID.
    pub const BOUND: Self = Self(2);
    /// Has sent undirected presence.
    pub const AVAILABLE: Self = Self(4);
    /// Has fetched its roster.
    pub const INTERESTED: Self = Self(8);
    /// Is being ended: nothing is routed to or from it any more.
    pub const ENDING: Self = Self(16);
    /// Is locked: it is not read from, and what it is sent waits.
    pub const FROZEN: Self = Self(32);
    /// Has no connection, and waits for another one to go on with its stream.
    pub const HIBERNATING: Self = Self(64);
    /// Its client owes an answer for too long: its connection is to be given up.
    pub const UNRESPONSIVE: Self = Self(128);

    /// Whether all of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The highest name that applies.
    #[must_use]
    pub fn stage(self) -> Stage {
        match self {
            f if f.has(Self::INTERESTED) => Stage::Interested,
            f if f.has(Self::AVAILABLE) => Stage::Available,
            f if f.has(Self::BOUND) => Stage::Bound,
            f if f.has(Self::AUTHED) => Stage::C2s,
            _ => Stage::Unauthed,
        }
    }
}

/// What a client has turned on for its session, and others look for as they send to it. Costs
/// nothing while nobody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// It gets copies of what its account's other sessions send and receive.
    Carbons = 1,
    /// The `outbound` hooks are asked about what it is sent.
    Outbound = 2,
    /// It is told when its account's sessions come, change and go.
    Sessions = 4,
}

/// Who a session is, once it has logged in. Changes only when another connection goes on with its
/// stream, which has proved anew whose it is.
#[derive(Debug)]
pub struct Identity {
    /// The account's internal id.
    pub account: AccountId,
    /// The account's address.
    pub jid: Jid,
    /// How it logged in.
    pub mechanism: Mechanism,
    /// Channel-binding type in use, as in `tls-exporter`.
    pub binding: Option<&'static str>,
    /// The client that it is a visit of; known once it is bound, or from its token.
    pub(crate) client: OnceLock<ClientRef>,
    /// The grant that let it in.
    pub grant: Option<GrantId>,
    /// The token it logged in with.
    pub token: Option<TokenId>,
    /// The account's password when it logged in.
    pub generation: u64,
    /// The number of the account's password as it logged in.
    pub(crate) passwords: u64,
    /// The epochs that it, or its token, is from.
    pub stamp: Stamp,
    /// What may change while it lasts.
    pub(crate) live: Mutex<Live>,
    /// The token dies when it is not used for so many seconds; a session that it opened uses it.
    pub inactive: Option<u64>,
    /// When it was noted last that its client is there and its token in use.
    pub(crate) use_noted: AtomicU64,
    /// A resource that the token pins the session to.
    pub resource: Option<String>,
    /// When the session logged in first.
    pub since: Millis,
    /// When whose it is was proved last: the same, unless another connection has gone on with it.
    pub proved: Millis,
    /// What the client says it is, if it does before it logs in.
    pub agent: Option<Arc<Agent>>,
    /// The stamp of its row in the history, once there is one; 0: it has none.
    pub(crate) noted: OnceLock<u64>,
}

/// What may change of a session while it lasts.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// The policy of its account.
    pub(crate) policy: Arc<Effective>,
    /// What its credential allows at most.
    pub(crate) most: Role,
    /// What it may do: the account's role, or less if its credential says so.
    pub(crate) role: Role,
    /// When its credential dies, and the session with it.
    pub(crate) expires: Option<Millis>,
}

/// What is known of a connection's encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// Cipher suite, by its IANA name.
    pub cipher: &'static str,
}

/// The last undirected presence of an available session.
#[derive(Debug)]
pub struct Presence {
    /// -128 to 127; negative ones get no messages to the bare JID (RFC 6121 section 8).
    pub priority: i8,
    /// The stanza as sent.
    pub frame: Frame,
    /// When it was sent.
    pub since: Millis,
}

/// Counters of one direction or kind; plain sums since the connection was made.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes read from the peer, after decryption.
    pub rx_bytes: AtomicU64,
    /// Bytes written to the peer, before encryption.
    pub tx_bytes: AtomicU64,
    /// Stanzas read.
    pub rx_stanzas: AtomicU64,
    /// Stanzas written.
    pub tx_stanzas: AtomicU64,
}

/// One session. Shared by its connection, the registry and whoever routes to it.
pub struct Session {
    /// Its public handle.
    pub id: SessionId,
    /// When the first connection was made.
    pub created: Millis,
    /// The way in.
    pub mailbox: Mailbox,
    /// Sums.
    pub traffic: Traffic,
    flags: AtomicU8,
    /// Of each [`Feature`] whether it is on.
    features: AtomicU8,
    /// Where it stands in the queue of deadlines.
    pub(crate) armed: Armed,
    /// The login that is under way; see [`Session::attempt`].
    attempt: AtomicU8,
    /// Held while the flags change; taken by the registry alone.
    pub(crate) order: Mutex<()>,
    /// When the peer last sent a stanza (keepalives do not count); `created` before the first.
    last_activity: AtomicU64,
    /// The peer's address.
    peer: Mutex<(IpAddr, u16)>,
    identity: ArcSwapOption<Identity>,
    full: OnceLock<Jid>,
    /// Stream management, once it is on.
    resumable: ArcSwapOption<Resumable>,
    pub(crate) cold: Mutex<Cold>,
}

/// In a session's attempt: its failure has been noted.
const NOTED: u8 = 0x80;

/// The parts of a session that are seldom looked at, under one lock; boxed, so that a session that
/// never needs them does not pay for them.
#[derive(Default)]
pub(crate) struct Cold {
    presence: Option<Arc<Presence>>,
    about: Option<Box<About>>,
    pub(crate) ending: Option<Box<Ending>>,
}

/// What is known about the peer, and what plugins keep about it.
#[derive(Default)]
struct About {
    tls: Option<TlsInfo>,
    software: Option<Arc<str>>,
    /// Plugins' own state about this session, one per type.
    slots: Vec<Arc<dyn Any + Send + Sync>>,
}

/// The end of a session, from the moment that somebody wants it.
#[derive(Default)]
pub(crate) struct Ending {
    /// How and why; set once.
    pub(crate) record: Option<Arc<EndRecord>>,
    /// What its connection still has to send before it closes; taken by the connection.
    pub(crate) farewell: Option<StreamError>,
    /// Closes when the messages that the connection has not taken are elsewhere.
    pub(crate) rerouting: Option<tokio::sync::watch::Receiver<()>>,
    /// Whoever waits until the connection is gone.
    pub(crate) waiters: Vec<tokio::sync::oneshot::Sender<()>>,
    /// The connection is gone and everything about this session has been settled.
    pub(crate) settled: bool,
}

impl Cold {
    fn about(&mut self) -> &mut About {
        self.about.get_or_insert_default()
    }

    pub(crate) fn ending(&mut self) -> &mut Ending {
        self.ending.get_or_insert_default()
    }
}

impl Session {
    pub(crate) fn new(id: SessionId, peer: SocketAddr, now: Millis) -> Self {
        Self {
            id,
            created: now,
            mailbox: Mailbox::default(),
            traffic: Traffic::default(),
            flags: AtomicU8::new(0),
            features: AtomicU8::new(0),
            armed: Armed::default(),
            attempt: AtomicU8::new(0),
            order: Mutex::default(),
            last_activity: AtomicU64::new(now.0),
            peer: Mutex::new((peer.ip(), peer.port())),
            identity: ArcSwapOption::empty(),
            full: OnceLock::new(),
            resumable: ArcSwapOption::empty(),
            cold: Mutex::default(),
        }
    }

    /// What it has reached.
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags(self.flags.load(Ordering::Acquire))
    }

    pub(crate) fn set_flags(&self, flags: Flags) {
        self.flags.store(flags.0, Ordering::Release);
    }

    /// Whether something is turned on.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.load(Ordering::Acquire) & feature as u8 != 0
    }

    /// Turns something on or off.
    pub fn turn(&self, feature: Feature, on: bool) {
        if on {
            self.features.fetch_or(feature as u8, Ordering::AcqRel);
        } else {
            self.features.fetch_and(!(feature as u8), Ordering::AcqRel);
        }
    }

    /// The highest stage name that applies.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.flags().stage()
    }

    /// Whether it may still send and receive.
    #[must_use]
    pub fn alive(&self) -> bool {
        !self.flags().has(Flags::ENDING)
    }

    /// Whether it has a connection, or is about to lose the one it has.
    #[must_use]
    pub fn connected(&self) -> bool {
        !self.flags().has(Flags::HIBERNATING)
    }

    /// Who it is, once logged in.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// Says who it is; false: that was said before. Only under the lock of its flags.
    pub(crate) fn set_identity(&self, identity: Identity) -> bool {
        let first = self.identity.load().is_none();
        if first {
            self.identity.store(Some(Arc::new(identity)));
        }
        first
    }

    /// Another connection has proved whose it is, and goes on with it from there. Only under the lock
    /// of its account.
    pub(crate) fn go_on(&self, identity: Identity, peer: SocketAddr, tls: Option<TlsInfo>) {
        self.identity.store(Some(Arc::new(identity)));
        *self.peer.lock() = (peer.ip(), peer.port());
        self.cold.lock().about().tls = tls;
    }

    /// Its stream management, once it is on.
    #[must_use]
    pub fn resumable(&self) -> Option<Arc<Resumable>> {
        self.resumable.load_full()
    }

    pub(crate) fn set_resumable(&self, resumable: Resumable) {
        self.resumable.store(Some(Arc::new(resumable)));
    }

    /// How somebody tries to log in, as far as the server was asked, and whether the failure of that
    /// has been noted already.
    pub(crate) fn attempt(&self) -> (Option<Mechanism>, bool) {
        let attempt = self.attempt.load(Ordering::Relaxed);
        let mechanism = usize::from(attempt & !NOTED).checked_sub(1);
        (mechanism.and_then(|index| Mechanism::all().get(index).copied()), attempt & NOTED != 0)
    }

    pub(crate) fn set_attempt(&self, mechanism: Option<Mechanism>, noted: bool) {
        let index = Mechanism::all().iter().position(|one| Some(*one) == mechanism);
        let index = index.and_then(|index| u8::try_from(index + 1).ok()).unwrap_or(0);
        self.attempt.store(index | if noted { NOTED } else { 0 }, Ordering::Relaxed);
    }

    /// Its full JID, once bound.
    #[must_use]
    pub fn full(&self) -> Option<&Jid> {
        self.full.get()
    }

    pub(crate) fn set_full(&self, jid: Jid) {
        // Bound at most once: the registry checks the flag under the account's lock.
        let _ = self.full.set(jid);
    }

    /// The best address there is: full, else bare, else none.
    #[must_use]
    pub fn jid(&self) -> Option<Jid> {
        self.full().cloned().or_else(|| Some(self.identity()?.jid.clone()))
    }

    /// The connection's encryption.
    #[must_use]
    pub fn tls(&self) -> Option<TlsInfo> {
        self.cold.lock().about.as_ref()?.tls.clone()
    }

    /// Notes that the connection is encrypted now.
    pub fn set_tls(&self, info: TlsInfo) {
        self.cold.lock().about().tls = Some(info);
    }

    /// The peer's IP address, an IPv4-mapped one shown as IPv4.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.peer().ip().to_canonical()
    }

    /// The peer's address and port.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        (*self.peer.lock()).into()
    }

    /// Whether messages to the bare JID are for it: available, and not with a negative priority.
    #[must_use]
    pub fn takes_messages(&self) -> bool {
        self.flags().has(Flags::AVAILABLE)
            && self.presence().is_some_and(|presence| presence.priority >= 0)
    }

    /// The last undirected presence, while available.
    #[must_use]
    pub fn presence(&self) -> Option<Arc<Presence>> {
        self.cold.lock().presence.clone()
    }

    pub(crate) fn replace_presence(&self, presence: Option<Presence>) -> Option<Arc<Presence>> {
        std::mem::replace(&mut self.cold.lock().presence, presence.map(Arc::new))
    }

    /// The client's software, as far as it has said.
    #[must_use]
    pub fn software(&self) -> Option<Arc<str>> {
        self.cold.lock().about.as_ref()?.software.clone()
    }

    /// Notes what the client says it is, at most 100 characters of it.
    pub fn set_software(&self, software: &str) {
        let mut cold = self.cold.lock();
        let about = cold.about();
        if about.software.as_deref() != Some(software) {
            about.software = Some(software.chars().take(100).collect::<String>().into());
        }
    }

    /// When the peer last sent a stanza.
    #[must_use]
    pub fn last_activity(&self) -> Millis {
        Millis(self.last_activity.load(Ordering::Relaxed))
    }

    pub(crate) fn touch(&self, now: Millis) {
        self.last_activity.store(now.0, Ordering::Relaxed);
    }

    /// A plugin's own state about this session, made at the first call. One per type `T`.
    pub fn slot<T: Any + Send + Sync + Default>(&self) -> Arc<T> {
        let mut cold = self.cold.lock();
        let slots = &mut cold.about().slots;
        let found = slots.iter().find_map(|slot| Arc::clone(slot).downcast::<T>().ok());
        found.unwrap_or_else(|| {
            let made = Arc::new(T::default());
            slots.push(made.clone());
            made
        })
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn end_record(&self) -> Option<Arc<EndRecord>> {
        let record = self.cold.lock().ending.as_ref().and_then(|ending| ending.record.clone());
        record.or_else(|| hearing::record(self))
    }

    /// Whether it has ended, its connection is gone and everything about it has been seen to. To a
    /// command that ends the session that it was asked through, this is so before.
    #[must_use]
    pub fn settled(&self) -> bool {
        let settled = self.cold.lock().ending.as_ref().is_some_and(|ending| ending.settled);
        settled || hearing::record(self).is_some()
    }

    /// The last words for the peer, for its connection to send before it closes. Given out once.
    pub fn take_farewell(&self) -> Option<StreamError> {
        self.cold.lock().ending.as_mut()?.farewell.take()
    }
}

impl Identity {
    /// Who a session is from now on that was `old`, and whose stream this one goes on with: proved as
    /// here, for as long as there, and with no more power than either.
    pub(crate) fn continuing(&self, old: &Self) -> Self {
        let client = self.client.get().or(old.client.get());
        let live = self.live.lock().clone();
        let most = live.most.min(old.live.lock().most);
        Self {
            account: self.account,
            jid: self.jid.clone(),
            mechanism: self.mechanism,
            binding: self.binding,
            client: client.map_or_else(OnceLock::new, |client| OnceLock::from(*client)),
            grant: self.grant,
            token: self.token,
            generation: self.generation,
            passwords: self.passwords,
            stamp: self.stamp,
            live: Mutex::new(Live { most, role: live.role.min(most), ..live }),
            inactive: self.inactive,
            use_noted: AtomicU64::new(self.use_noted.load(Ordering::Relaxed)),
            resource: self.resource.clone(),
            since: old.since,
            proved: self.proved,
            agent: self.agent.clone().or_else(|| old.agent.clone()),
            noted: self.noted.get().map_or_else(OnceLock::new, |noted| OnceLock::from(*noted)),
        }
    }

    /// The client that it is a visit of, once that is known.
    #[must_use]
    pub fn client(&self) -> Option<ClientRef> {
        self.client.get().copied()
    }

    /// The policy of its account.
    #[must_use]
    pub fn policy(&self) -> Arc<Effective> {
        self.live.lock().policy.clone()
    }

    /// What it may do: the account's role, or less if its credential says so.
    #[must_use]
    pub fn role(&self) -> Role {
        self.live.lock().role
    }

    /// When its credential dies, and the session with it.
    #[must_use]
    pub fn expires(&self) -> Option<Millis> {
        self.live.lock().expires
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Session({} {} {:?})",
            self.id,
            self.stage().as_str(),
            self.jid().as_ref().map(Jid::as_str)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_is_small() {
        let size = size_of::<Session>();
        assert!(size <= 256, "a session takes {size} bytes");
    }

    #[test]
    fn pr_01_the_shown_stage_is_the_highest() {
        let bound = Flags(Flags::AUTHED.0 | Flags::BOUND.0);
        assert_eq!(bound.stage(), Stage::Bound);
        assert_eq!(Flags(bound.0 | Flags::INTERESTED.0).stage(), Stage::Interested);
        assert_eq!(Flags(bound.0 | Flags::AVAILABLE.0).stage(), Stage::Available);
        assert_eq!(Flags::default().stage(), Stage::Unauthed);
    }
}
