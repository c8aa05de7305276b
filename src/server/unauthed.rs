//! The cap on all connections (`limits.connections`): when it is reached, the oldest connection that
//! has not logged in makes way for a new one, so that a flood of strangers costs strangers their
//! place and nobody who has logged in. If there is none, the new one is turned away.
//!
//! One ordered list of those that have not logged in, kept only if there is a cap.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    gate::Gate,
    id::SessionId,
    registry::{Added, Registry},
    session::Session,
};

/// Who has not logged in, oldest first.
pub(crate) struct Unauthed {
    cap: usize,
    /// Told of everybody who comes and leaves, cap or none.
    gate: Arc<Gate>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By their number in the order of coming: times are not exact enough.
    oldest: BTreeMap<u64, SessionId>,
    numbers: HashMap<SessionId, u64>,
    next: u64,
    /// Made to go, and not gone yet: their places are given away.
    leaving: HashSet<SessionId>,
}

/// Whether a new connection is taken.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Its address has as many as it may.
    AddressFull,
    /// It is in the registry.
    Admitted {
        /// Who has to go for it, marked as ending already: for the caller to see off.
        shed: Option<Arc<Session>>,
    },
    /// The server has as many as it may, and all of them have logged in.
    Crowded,
    /// Another session has its id.
    Duplicate,
}

impl Unauthed {
    /// With this cap; 0: none.
    pub(crate) fn new(cap: u32, gate: Arc<Gate>) -> Self {
        let cap = usize::try_from(cap).unwrap_or(usize::MAX);
        Self { cap, gate, state: Mutex::default() }
    }

    /// Enters a new session in the registry if there is room, or somebody who makes room.
    /// `per_address`: the cap of its address; 0: none.
    pub(crate) fn admit(
        &self,
        session: &Arc<Session>,
        registry: &Registry,
        per_address: usize,
    ) -> Admission {
        let admission = self.take_in(session, registry, per_address);
        if matches!(admission, Admission::Admitted { .. }) {
            self.gate.enter(session.id);
        }
        admission
    }

    fn take_in(
        &self,
        session: &Arc<Session>,
        registry: &Registry,
        per_address: usize,
    ) -> Admission {
        if self.cap == 0 {
            return match registry.add(session.clone(), per_address) {
                Added::There => Admission::Admitted { shed: None },
                Added::AddressFull => Admission::AddressFull,
                Added::Duplicate => Admission::Duplicate,
            };
        }
        // Held until the new one is counted, and marked whoever goes for it.
        let mut state = self.state.lock();
        match registry.add(session.clone(), per_address) {
            Added::There => {}
            Added::AddressFull => return Admission::AddressFull,
            Added::Duplicate => return Admission::Duplicate,
        }
        let taken = registry.counts().total.saturating_sub(state.leaving.len());
        let mut shed = None;
        if taken > self.cap {
            shed = state.oldest_marked(registry);
            if shed.is_none() {
                registry.forget(session);
                return Admission::Crowded;
            }
        }
        let number = state.next;
        state.next += 1;
        state.oldest.insert(number, session.id);
        state.numbers.insert(session.id, number);
        Admission::Admitted { shed }
    }

    /// It has logged in, or is gone.
    pub(crate) fn left(&self, session: &Session) {
        self.gate.leave(session.id);
        if self.cap > 0 {
            let mut state = self.state.lock();
            if let Some(number) = state.numbers.remove(&session.id) {
                state.oldest.remove(&number);
            }
            if !session.alive() {
                state.leaving.remove(&session.id);
            }
        }
    }
}

impl State {
    /// The oldest one that can go, marked as ending: it cannot log in any more. Those that cannot go
    /// are taken out on the way.
    fn oldest_marked(&mut self, registry: &Registry) -> Option<Arc<Session>> {
        while let Some((_, id)) = self.oldest.pop_first() {
            self.numbers.remove(&id);
            if let Some(session) = registry.get(id)
                && registry.mark_stranger_ending(&session)
            {
                self.leaving.insert(id);
                return Some(session);
            }
        }
        None
    }
}
