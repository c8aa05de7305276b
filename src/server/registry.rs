//! Who is where: every session from its first byte until it is settled, with the indexes that
//! routing and administration need, and counters that cost nothing to read.
//!
//! Sharded, so that sessions of different accounts do not meet. All that concerns one account (its
//! sessions' stages, bind, replacement, removal) happens under the lock of that account's shard;
//! that is what makes a bind or an end atomic. Lock order: a user shard, then one session's cold
//! part; a shard of those that are leaving, then one of the ids; the other indexes are taken alone.

mod crowd;
mod page;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use wire::{Jid, TokenId};

use self::crowd::Crowd;
pub use self::page::{BUDGET, Page};
use crate::{
    client::ClientRef,
    clock::Millis,
    config::Conflict,
    end::Reason,
    id::SessionId,
    mailbox::Holder,
    policy::AtLimit,
    session::{Flags, Identity, Presence, Session, Stage},
};

const SHARDS: usize = 64;

/// A few sessions, without an allocation for the usual single one.
pub type Few = SmallVec<[Arc<Session>; 1]>;

/// The registry.
pub struct Registry {
    hasher: RandomState,
    /// By id, ordered, so that pages have a stable cursor.
    sessions: Vec<RwLock<BTreeMap<SessionId, Arc<Session>>>>,
    /// Logged-in sessions by bare JID, bound or not.
    users: Vec<RwLock<HashMap<Jid, Few>>>,
    /// Those that were logged in and are ending, by bare JID, until they are settled. Nothing is
    /// routed to them; lists of an account show them.
    leaving: Vec<Mutex<HashMap<Jid, Crowd>>>,
    /// By address; those of one IPv6 /64 network together, for that is what a single peer has.
    addresses: Vec<Mutex<HashMap<IpAddr, Crowd>>>,
    tokens: Vec<Mutex<HashMap<TokenId, Crowd>>>,
    /// How many sessions have exactly this set of flags; indexed by the four lowest bits.
    counts: [AtomicUsize; 16],
    /// How many have no connection.
    hibernating: AtomicUsize,
}

/// How a bind went.
#[derive(Debug)]
pub enum Bind {
    /// The session has this full JID now.
    Bound {
        /// The full JID.
        jid: Jid,
        /// The sessions that had to make way, and why. They are out of the indexes and marked as
        /// ending: the caller sees them off.
        evicted: SmallVec<[(Arc<Session>, Reason); 1]>,
    },
    /// The account has as many bound sessions as it may.
    TooMany,
    /// Another session has the resource and the policy is to refuse.
    Taken,
    /// The session has ended, or is not logged in, or is bound already.
    Impossible,
}

/// How many bound sessions an account may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// By the configuration's cap; 0: no bound. Beyond it, the newer one is refused.
    pub(crate) cap: usize,
    /// By the account's policy; 0: no bound.
    pub(crate) max: usize,
    /// What happens beyond that.
    pub(crate) at_limit: AtLimit,
}

/// Sums by stage, from counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// All sessions.
    pub total: usize,
    /// Shown as `unauthed`.
    pub unauthed: usize,
    /// Shown as `c2s`.
    pub c2s: usize,
    /// Shown as `bound`.
    pub bound: usize,
    /// Shown as `available`.
    pub available: usize,
    /// Shown as `interested`.
    pub interested: usize,
    /// Those of them that have no connection and can be resumed.
    pub hibernating: usize,
}

impl Default for Registry {
    fn default() -> Self {
        fn shards<T: Default>() -> Vec<T> {
            std::iter::repeat_with(T::default).take(SHARDS).collect()
        }
        Self {
            hasher: RandomState::new(),
            sessions: shards(),
            users: shards(),
            leaving: shards(),
            addresses: shards(),
            tokens: shards(),
            counts: Default::default(),
            hibernating: AtomicUsize::new(0),
        }
    }
}

impl Registry {
    fn shard<T: ?Sized + Hash>(&self, key: &T) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }

    /// Adds a new session, unless its address has `cap` already (0: no cap) or its id is another one's.
    pub(crate) fn add(&self, session: Arc<Session>, cap: usize) -> Added {
        let address = peer_network(session.address());
        {
            let mut shard = self.addresses[self.shard(&address)].lock();
            let crowd = shard.entry(address).or_default();
            if cap > 0 && crowd.len() >= cap {
                return Added::AddressFull;
            }
            crowd.push(session.clone());
        }
        let mut shard = self.sessions[Self::id_shard(session.id)].write();
        if shard.contains_key(&session.id) {
            drop(shard);
            crowd::remove(&mut self.addresses[self.shard(&address)].lock(), &address, &session);
            return Added::Duplicate;
        }
        self.counts[0].fetch_add(1, Ordering::Relaxed);
        shard.insert(session.id, session);
        Added::There
    }

    /// Shards of the id index are ranges of ids, so that shard after shard is in order of ids.
    fn id_shard(id: SessionId) -> usize {
        usize::try_from(id.0 >> (128 - SHARDS.ilog2())).unwrap_or(0)
    }

    /// Enters a session that has logged in, unless its account has `cap` others that have not bound a
    /// resource yet (0: no cap).
    pub(crate) fn login(&self, session: &Arc<Session>, identity: Identity, cap: usize) -> Login {
        let (jid, token) = (identity.jid.clone(), identity.token);
        {
            let mut shard = self.users[self.shard(jid.as_str())].write();
            let few = shard.entry(jid.clone()).or_default();
            let unbound = few.iter().filter(|other| other.full().is_none());
            if cap > 0 && unbound.count() >= cap {
                return Login::TooMany;
            }
            let mut entered = false;
            self.change(session, |flags| {
                if flags.has(Flags::ENDING) || !session.set_identity(identity) {
                    return flags;
                }
                entered = true;
                Flags(flags.0 | Flags::AUTHED.0)
            });
            if !entered {
                if few.is_empty() {
                    shard.remove(jid.as_str());
                }
                return Login::Ended;
            }
            few.push(session.clone());
        }
        self.enter_token(session, token);
        Login::Entered
    }

    /// Enters a session where those of its token are found.
    fn enter_token(&self, session: &Arc<Session>, token: Option<TokenId>) {
        let Some(token) = token else { return };
        let mut shard = self.tokens[self.shard(&token)].lock();
        // Ended in between: its removal has passed here already or is still to come, and finds what
        // it looks for only if this lock decides.
        if session.alive() {
            shard.entry(token).or_default().push(session.clone());
        }
    }

    /// Gives a session its full JID, atomically with whatever has to make way, unless its account has
    /// as many others that stay as it may. `same`: the client that it is a visit of, if its earlier
    /// visits have to make way in any case.
    pub(crate) fn bind(
        &self,
        session: &Arc<Session>,
        resource: Option<&str>,
        policy: Conflict,
        room: Room,
        same: Option<ClientRef>,
        generate: impl Fn() -> String,
    ) -> Bind {
        let Some(identity) = session.identity() else { return Bind::Impossible };
        let mut shard = self.users[self.shard(identity.jid.as_str())].write();
        let Some(few) = shard.get_mut(identity.jid.as_str()) else { return Bind::Impossible };
        let with = |resource: &str| identity.jid.with_resource(resource);
        // One that is ending has lost its name already.
        let taken =
            |few: &Few, jid: &Jid| few.iter().position(|s| s.full() == Some(jid) && s.alive());

        let mut jid = match resource.map(with) {
            Some(Ok(jid)) => jid,
            Some(Err(_)) => return Bind::Impossible,
            None => match with(&generate()) {
                Ok(jid) => jid,
                Err(_) => return Bind::Impossible,
            },
        };
        let mut leaving: SmallVec<[(Arc<Session>, Reason); 1]> = SmallVec::new();
        let earlier = |other: &Session| {
            let client = other.identity().and_then(|was| was.client());
            same.is_some() && client == same
        };
        if let Some(index) = taken(few, &jid) {
            match policy {
                // Nobody is there to be protected, or nobody but an earlier self.
                _ if !few[index].connected() || earlier(&few[index]) => {
                    leaving.push((few[index].clone(), Reason::Replaced));
                }
                Conflict::Refuse => return Bind::Taken,
                Conflict::Rename => match with(&generate()) {
                    Ok(renamed) => jid = renamed,
                    Err(_) => return Bind::Impossible,
                },
                Conflict::Replace => leaving.push((few[index].clone(), Reason::Replaced)),
            }
        }
        let mut staying: Few =
            few.iter().filter(|s| s.full().is_some() && s.alive()).cloned().collect();
        staying.retain(|other| !leaving.iter().any(|(old, _)| Arc::ptr_eq(old, other)));
        staying.retain(|other| {
            let goes = earlier(other);
            if goes {
                leaving.push((other.clone(), Reason::Replaced));
            }
            !goes
        });
        while room.max > 0 && staying.len() >= room.max {
            let next = match room.at_limit {
                AtLimit::Ask | AtLimit::Refuse => None,
                AtLimit::DisplaceOldest => staying.iter().min_by_key(|s| s.created).cloned(),
                AtLimit::DisplaceIdlest => {
                    staying.iter().min_by_key(|s| s.last_activity()).cloned()
                }
            };
            let Some(next) = next else { return Bind::TooMany };
            staying.retain(|other| !Arc::ptr_eq(other, &next));
            leaving.push((next, Reason::Displaced));
        }
        if room.cap > 0 && staying.len() >= room.cap {
            return Bind::TooMany;
        }
        let mut bound = false;
        self.change(session, |flags| {
            let ready = flags.has(Flags::AUTHED);
            if !ready || flags.has(Flags::BOUND) || flags.has(Flags::ENDING) {
                return flags;
            }
            bound = true;
            session.set_full(jid.clone());
            Flags(flags.0 | Flags::BOUND.0)
        });
        if !bound {
            return Bind::Impossible;
        }
        // If somebody else ends one at this moment, it is theirs to see off.
        let mut evicted = SmallVec::new();
        for (old, reason) in leaving {
            few.retain(|other| !Arc::ptr_eq(other, &old));
            if self.set_ending(&old) {
                evicted.push((old, reason));
            }
        }
        drop(shard);
        for (old, _) in &evicted {
            self.enter_leaving(old);
            self.forget_token(old);
        }
        Bind::Bound { jid, evicted }
    }

    /// Changes presence: `Some` makes the session available, `None` unavailable. Gives the presence
    /// before, unless the session is not bound or has ended.
    pub fn set_presence(
        &self,
        session: &Session,
        presence: Option<Presence>,
    ) -> Option<Option<Arc<Presence>>> {
        let mut before = None;
        self.change(session, |flags| {
            if !flags.has(Flags::BOUND) || flags.has(Flags::ENDING) {
                return flags;
            }
            let available = presence.is_some();
            before = Some(session.replace_presence(presence));
            Flags(if available {
                flags.0 | Flags::AVAILABLE.0
            } else {
                flags.0 & !Flags::AVAILABLE.0
            })
        });
        before
    }

    /// Marks a bound session as interested: it gets roster pushes from now on.
    pub fn set_interested(&self, session: &Session) {
        self.change(session, |flags| {
            let live = flags.has(Flags::BOUND) && !flags.has(Flags::ENDING);
            if live { Flags(flags.0 | Flags::INTERESTED.0) } else { flags }
        });
    }

    /// Locks a session, or unlocks it: nothing is read from it, and what it is sent waits. False: it
    /// is so already, or has ended.
    pub(crate) fn set_frozen(&self, session: &Session, frozen: bool) -> bool {
        let mut changed = false;
        self.change(session, |flags| {
            let wanted =
                if frozen { flags.0 | Flags::FROZEN.0 } else { flags.0 & !Flags::FROZEN.0 };
            changed = !flags.has(Flags::ENDING) && wanted != flags.0;
            if changed { Flags(wanted) } else { flags }
        });
        if changed {
            session.mailbox.wake();
        }
        changed
    }

    /// Notes that a bound session has lost its connection and waits for another one: that the one which
    /// held it is gone, if that is still the one to take from its mailbox.
    pub(crate) fn set_hibernating(&self, session: &Session, holder: Holder, now: Millis) -> Parted {
        let mut parted = Parted::Ended;
        self.change(session, |flags| {
            if !flags.has(Flags::BOUND) || flags.has(Flags::ENDING) {
                return flags;
            }
            // In one step with the flag, as whoever claims it sets it as well: it never looks as if it
            // had a connection when it has none.
            if session.mailbox.holder() != holder {
                parted = Parted::Claimed;
                return flags;
            }
            parted = Parted::Hibernating;
            if let Some(resumable) = session.resumable() {
                resumable.broke(now);
            }
            Flags((flags.0 | Flags::HIBERNATING.0) & !Flags::UNRESPONSIVE.0)
        });
        parted
    }

    /// Notes that a session's connection is to be given up.
    pub(crate) fn set_unresponsive(&self, session: &Session) {
        self.change(session, |flags| {
            let live = !flags.has(Flags::ENDING) && !flags.has(Flags::HIBERNATING);
            if live { Flags(flags.0 | Flags::UNRESPONSIVE.0) } else { flags }
        });
    }

    /// Lets a hibernating session go on in place of one that has just logged in to the same account:
    /// it is at that one's address from now on, and that one is out of all lists but those of ids and
    /// addresses, marked as ending. False: either has ended, or somebody else has claimed it.
    pub(crate) fn resume(
        &self,
        session: &Arc<Session>,
        holder: Holder,
        instead_of: &Arc<Session>,
        identity: Identity,
    ) -> bool {
        let (jid, token) = (identity.jid.clone(), identity.token);
        let before = session.address();
        {
            let mut shard = self.users[self.shard(jid.as_str())].write();
            let mut done = false;
            self.change(session, |flags| {
                let waits = flags.has(Flags::HIBERNATING) && !flags.has(Flags::ENDING);
                // Whoever has ended that one sees to it. It has bound nothing, so nobody takes the
                // locks of two sessions the other way round.
                done = waits && session.mailbox.holder() == holder && self.set_ending(instead_of);
                if !done {
                    return flags;
                }
                if let Some(resumable) = session.resumable() {
                    resumable.goes_on();
                }
                Flags(flags.0 & !Flags::HIBERNATING.0)
            });
            if !done {
                return false;
            }
            if let Some(few) = shard.get_mut(jid.as_str()) {
                few.retain(|other| !Arc::ptr_eq(other, instead_of));
            }
            self.forget_token(instead_of);
            self.forget_token(session);
            session.go_on(identity, instead_of.peer(), instead_of.tls());
        }
        self.enter_token(session, token);
        let (before, after) = (peer_network(before), peer_network(session.address()));
        if before != after {
            crowd::remove(&mut self.addresses[self.shard(&before)].lock(), &before, session);
            let mut shard = self.addresses[self.shard(&after)].lock();
            // Settled in between: its removal has passed here already, or is still to come and waits
            // for this lock.
            if self.get(session.id).is_some() {
                shard.entry(after).or_default().push(session.clone());
            }
        }
        true
    }

    /// Enters a session as it was before the server stopped: bound, and without a connection. False:
    /// its full JID is taken.
    pub(crate) fn revive(
        &self,
        session: &Arc<Session>,
        identity: Identity,
        full: Jid,
        flags: Flags,
        presence: Option<Presence>,
    ) -> bool {
        let token = identity.token;
        {
            let mut shard = self.users[self.shard(identity.jid.as_str())].write();
            let few = shard.entry(identity.jid.clone()).or_default();
            if few.iter().any(|other| other.full() == Some(&full)) {
                return false;
            }
            few.push(session.clone());
            self.add(session.clone(), 0);
            self.change(session, |_| {
                session.set_identity(identity);
                session.set_full(full);
                let available = if presence.is_some() { Flags::AVAILABLE.0 } else { 0 };
                session.replace_presence(presence);
                let always = Flags::AUTHED.0 | Flags::BOUND.0 | Flags::HIBERNATING.0;
                Flags(always | available | flags.0 & (Flags::INTERESTED.0 | Flags::FROZEN.0))
            });
        }
        self.enter_token(session, token);
        true
    }

    /// Marks a session as ending: true for exactly one caller, who sees it through. From now on it
    /// is not found by any address; it stays visible by its id until it is settled.
    pub(crate) fn mark_ending(&self, session: &Arc<Session>) -> bool {
        if !self.set_ending(session) {
            return false;
        }
        // A session that is just logging in is either in its lists by now, or sees the flag and
        // does not enter them.
        if let Some(identity) = session.identity() {
            let key = identity.jid.as_str();
            let mut shard = self.users[self.shard(key)].write();
            if let Some(few) = shard.get_mut(key) {
                few.retain(|other| !Arc::ptr_eq(other, session));
                if few.is_empty() {
                    shard.remove(key);
                }
            }
        }
        self.enter_leaving(session);
        self.forget_token(session);
        true
    }

    /// Keeps a session that is ending where lists of its account find it.
    fn enter_leaving(&self, session: &Arc<Session>) {
        let Some(identity) = session.identity() else { return };
        let mut shard = self.leaving[self.shard(identity.jid.as_str())].lock();
        // Settled in between: its removal has passed here already, or is still to come and waits for
        // this lock.
        if self.get(session.id).is_some() {
            shard.entry(identity.jid.clone()).or_default().push(session.clone());
        }
    }

    /// Sets the flag; true for exactly one caller.
    fn set_ending(&self, session: &Session) -> bool {
        let mut won = false;
        self.change(session, |flags| {
            won = !flags.has(Flags::ENDING);
            Flags(flags.0 | Flags::ENDING.0)
        });
        won
    }

    /// Marks a session as ending unless it has logged in; it is in no index but those of ids and
    /// addresses then. True: marked, and the caller's to see off.
    pub(crate) fn mark_stranger_ending(&self, session: &Session) -> bool {
        let mut won = false;
        self.change(session, |flags| {
            won = !flags.has(Flags::ENDING) && !flags.has(Flags::AUTHED);
            if won { Flags(flags.0 | Flags::ENDING.0) } else { flags }
        });
        won
    }

    fn forget_token(&self, session: &Arc<Session>) {
        if let Some(token) = session.identity().and_then(|identity| identity.token) {
            crowd::remove(&mut self.tokens[self.shard(&token)].lock(), &token, session);
        }
    }

    /// Forgets a session whose connection is gone.
    pub(crate) fn forget(&self, session: &Arc<Session>) {
        if self.sessions[Self::id_shard(session.id)].write().remove(&session.id).is_some() {
            let flags = session.flags();
            self.counts[usize::from(flags.0 & 15)].fetch_sub(1, Ordering::Relaxed);
            if flags.has(Flags::HIBERNATING) {
                self.hibernating.fetch_sub(1, Ordering::Relaxed);
            }
        }
        // Behind its removal by id, which is what decides whether it may still enter here.
        let address = peer_network(session.address());
        crowd::remove(&mut self.addresses[self.shard(&address)].lock(), &address, session);
        if let Some(identity) = session.identity() {
            let key = identity.jid.as_str();
            crowd::remove(&mut self.leaving[self.shard(key)].lock(), key, session);
        }
    }

    /// The one place where flags change: under the session's lock, with the counters.
    fn change(&self, session: &Session, decide: impl FnOnce(Flags) -> Flags) {
        let order = session.order.lock();
        let before = session.flags();
        let after = decide(before);
        if after != before {
            session.set_flags(after);
            let (from, to) = (usize::from(before.0 & 15), usize::from(after.0 & 15));
            if from != to {
                self.counts[to].fetch_add(1, Ordering::Relaxed);
                self.counts[from].fetch_sub(1, Ordering::Relaxed);
            }
            match (before.has(Flags::HIBERNATING), after.has(Flags::HIBERNATING)) {
                (false, true) => self.hibernating.fetch_add(1, Ordering::Relaxed),
                (true, false) => self.hibernating.fetch_sub(1, Ordering::Relaxed),
                _ => 0,
            };
        }
        drop(order);
    }

    /// The session with this id, ending ones included until they are settled.
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.sessions[Self::id_shard(id)].read().get(&id).cloned()
    }

    /// Logged-in sessions of an account that are not ending, bound or not.
    #[must_use]
    pub fn of(&self, bare: &str) -> Few {
        self.users[self.shard(bare)].read().get(bare).cloned().unwrap_or_default()
    }

    /// Shows the logged-in sessions of an account that are not ending, without a list of them. `look`
    /// is called under a lock of the registry, and must not come back to it.
    pub(crate) fn each_of(&self, bare: &str, look: impl FnMut(&Arc<Session>)) {
        self.users[self.shard(bare)].read().get(bare).into_iter().flatten().for_each(look);
    }

    /// Bound sessions of an account that are not ending.
    #[must_use]
    pub fn bound(&self, bare: &str) -> Few {
        let mut few = self.of(bare);
        few.retain(|session| session.full().is_some());
        few
    }

    /// The bound session with exactly this full JID.
    #[must_use]
    pub fn full(&self, jid: &Jid) -> Option<Arc<Session>> {
        let key = jid.bare_str();
        let shard = self.users[self.shard(key)].read();
        shard.get(key)?.iter().find(|session| session.full() == Some(jid)).cloned()
    }

    /// Sessions of an account that are ending and not settled yet.
    pub(crate) fn leaving(&self, bare: &str) -> Vec<Arc<Session>> {
        let shard = &self.leaving[self.shard(bare)];
        crowd::all(|see| shard.lock().get(bare).into_iter().for_each(see), page::CHUNK)
    }

    /// Sessions from one IP address, logged in or not.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Few {
        let network = peer_network(address);
        let shard = &self.addresses[self.shard(&network)];
        let all = |see: &mut dyn FnMut(&Crowd)| {
            shard.lock().get(&network).into_iter().for_each(see);
        };
        let mut found = Few::from_vec(crowd::all(all, page::CHUNK));
        found.retain(|session| session.address() == address);
        found
    }

    /// Sessions that logged in with a token.
    #[must_use]
    pub fn with_token(&self, token: TokenId) -> Few {
        let shard = &self.tokens[self.shard(&token)];
        let all = |see: &mut dyn FnMut(&Crowd)| {
            shard.lock().get(&token).into_iter().for_each(see);
        };
        Few::from_vec(crowd::all(all, page::CHUNK))
    }

    /// How many sessions there are, by stage. Reads sixteen counters.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (flags, count) in (0u8..).zip(&self.counts) {
            let count = count.load(Ordering::Relaxed);
            counts.total += count;
            *match Flags(flags).stage() {
                Stage::Unauthed => &mut counts.unauthed,
                Stage::C2s => &mut counts.c2s,
                Stage::Bound => &mut counts.bound,
                Stage::Available => &mut counts.available,
                Stage::Interested => &mut counts.interested,
            } += count;
        }
        counts.hibernating = self.hibernating.load(Ordering::Relaxed);
        counts
    }
}

/// What became of a session whose connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parted {
    /// Another connection has claimed it, and it is that one's to lose.
    Claimed,
    /// It has ended.
    Ended,
    /// It waits for another one.
    Hibernating,
}

/// How a new session was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is there.
    There,
    /// Its address has as many as it may.
    AddressFull,
    /// Another one has its id.
    Duplicate,
}

/// How a login was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// The session is in its account's list.
    Entered,
    /// The session has ended in the meantime.
    Ended,
    /// The account has as many sessions as it may.
    TooMany,
}

/// What counts as one peer's address: an IPv4 address, an IPv6 /64 network.
#[must_use]
pub fn peer_network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
