//! Commands that are under way: begun by a session, waiting for what it says next. In memory only, and
//! bounded in every way: by session, by account, in all, and in time. A step is its session's, and goes
//! with it.
//!
//! Ids of steps that are over are remembered for a while, so that whoever goes on with one is told that
//! it is over rather than that there never was one.

use std::collections::{HashMap, HashSet, VecDeque};

use parking_lot::Mutex;
use server::{
    clock::Millis,
    id::{AccountId, SessionId},
    random,
};

use super::form::Filled;

/// How long one waits, in seconds.
pub const WAIT: u64 = 600;
/// Of one account.
pub const PER_ACCOUNT: usize = 16;
/// Of all.
pub const IN_ALL: usize = 1_024;
/// Commands that are carried out at this moment.
pub const RUNNING: usize = 64;

/// One that waits.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who has begun it.
    pub session: SessionId,
    /// Whose that is.
    pub account: AccountId,
    /// Which command.
    pub node: String,
    /// What for.
    pub stage: Stage,
    touched: Millis,
    /// Of two, the one that has waited for longer has the lower number.
    order: u64,
}

impl Step {
    /// One that begins to wait now.
    pub fn new(whose: (SessionId, AccountId), node: &str, stage: Stage, now: Millis) -> Self {
        Self {
            session: whose.0,
            account: whose.1,
            node: node.into(),
            stage,
            touched: now,
            order: 0,
        }
    }
}

/// What it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The form, which was filled in like this before.
    Form(Filled),
    /// The word to do what was shown, and to whom it is to be done.
    Preview {
        /// As it was filled in.
        filled: Filled,
        /// What says that it is still the same.
        hash: Option<String>,
    },
}

/// Why a step cannot be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It is over.
    Over,
    /// The session has none of this id.
    Unknown,
}

/// All that are under way on a server.
#[derive(Default)]
pub struct Steps(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    waiting: HashMap<String, Step>,
    over: VecDeque<(SessionId, String)>,
    running: HashSet<SessionId>,
    last: u64,
}

impl Steps {
    /// Begins one. None: there are too many, and the session has no older one to make room.
    pub fn begin(
        &self,
        whose: (SessionId, AccountId),
        node: &str,
        stage: Stage,
        now: Millis,
    ) -> Option<String> {
        let (session, account) = whose;
        let inner = &mut *self.0.lock();
        inner.sweep(now);
        let theirs = inner.waiting.values().filter(|step| step.account == account).count();
        if theirs >= PER_ACCOUNT || inner.waiting.len() >= IN_ALL {
            let own = inner.waiting.iter().filter(|(_, step)| step.session == session);
            let oldest = own.min_by_key(|(_, step)| step.order).map(|(id, _)| id.clone())?;
            inner.finish(&oldest);
        }
        let id = random::text();
        inner.wait(id.clone(), Step::new(whose, node, stage, now));
        Some(id)
    }

    /// An id for a command that is over with its first answer.
    pub fn single(&self, session: SessionId) -> String {
        let id = random::text();
        self.0.lock().remember(session, id.clone());
        id
    }

    /// Takes a session's step of this command out, to go on with it; whoever does not finish puts it
    /// back.
    ///
    /// # Errors
    /// [`Lost`] if there is none.
    pub fn take(
        &self,
        session: SessionId,
        node: &str,
        id: &str,
        now: Millis,
    ) -> Result<Step, Lost> {
        let inner = &mut *self.0.lock();
        inner.sweep(now);
        let fits = |step: &Step| step.session == session && step.node == node;
        match inner.waiting.get(id) {
            Some(step) if fits(step) => {}
            Some(_) => return Err(Lost::Unknown),
            None => {
                let over = inner.over.iter().any(|(whose, over)| *whose == session && over == id);
                return Err(if over { Lost::Over } else { Lost::Unknown });
            }
        }
        inner.finish(id).ok_or(Lost::Unknown)
    }

    /// Puts a step back, which then waits anew.
    pub fn put_back(&self, id: &str, step: Step, now: Millis) {
        let inner = &mut *self.0.lock();
        inner.over.retain(|(_, over)| over != id);
        inner.wait(id.to_owned(), Step { touched: now, ..step });
    }

    /// The session is over.
    pub fn gone(&self, session: SessionId) {
        let inner = &mut *self.0.lock();
        if !inner.waiting.is_empty() {
            inner.waiting.retain(|_, step| step.session != session);
        }
        if !inner.over.is_empty() {
            inner.over.retain(|(whose, _)| *whose != session);
        }
    }

    /// Notes that a session has a command carried out. False: it has one already, or all together have
    /// too many.
    pub fn run(&self, session: SessionId) -> bool {
        let inner = &mut *self.0.lock();
        inner.running.len() < RUNNING && inner.running.insert(session)
    }

    /// It is done.
    pub fn ran(&self, session: SessionId) {
        self.0.lock().running.remove(&session);
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }
}

impl Inner {
    fn wait(&mut self, id: String, step: Step) {
        self.last += 1;
        self.waiting.insert(id, Step { order: self.last, ..step });
    }

    /// At the very instant that its time has passed, it is over.
    fn sweep(&mut self, now: Millis) {
        let late = |step: &Step| step.touched.plus_seconds(WAIT) <= now;
        let late: Vec<String> =
            self.waiting.iter().filter(|(_, step)| late(step)).map(|(id, _)| id.clone()).collect();
        for id in late {
            self.finish(&id);
        }
    }

    fn finish(&mut self, id: &str) -> Option<Step> {
        let step = self.waiting.remove(id)?;
        self.remember(step.session, id.to_owned());
        Some(step)
    }

    fn remember(&mut self, session: SessionId, id: String) {
        if self.over.len() >= IN_ALL {
            self.over.pop_front();
        }
        self.over.push_back((session, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(session: u64, account: u64) -> (SessionId, AccountId) {
        (SessionId(session.into()), AccountId(account))
    }

    fn form() -> Stage {
        Stage::Form(Filled::new())
    }

    #[test]
    fn a_step_is_its_sessions_and_commands_and_is_over_in_time() {
        let steps = Steps::default();
        let at = |second: u64| Millis(1_000_000 + second * 1_000);
        let (one, other) = (me(1, 1), me(2, 1));
        let id = steps.begin(one, "n", form(), at(0)).expect("there is room");
        assert_eq!(steps.take(other.0, "n", &id, at(1)).err(), Some(Lost::Unknown));
        assert_eq!(steps.take(one.0, "m", &id, at(1)).err(), Some(Lost::Unknown));
        let step = steps.take(one.0, "n", &id, at(1)).expect("is there");
        assert_eq!(steps.take(one.0, "n", &id, at(1)).err(), Some(Lost::Over), "taken once");
        steps.put_back(&id, step, at(100));
        let last = at(100 + WAIT - 1);
        let step = steps.take(one.0, "n", &id, last).expect("waits anew");
        steps.put_back(&id, step, last);
        let late = last.plus_seconds(WAIT);
        assert_eq!(steps.take(one.0, "n", &id, late).err(), Some(Lost::Over));
        assert_eq!(steps.take(other.0, "n", &id, late).err(), Some(Lost::Unknown));
        assert_eq!(steps.waiting(), 0);
    }

    #[test]
    fn there_are_no_more_than_so_many_and_the_own_oldest_makes_room() {
        let steps = Steps::default();
        let now = Millis(1);
        let first = steps.begin(me(1, 1), "n", form(), now).expect("there is room");
        for _ in 1..PER_ACCOUNT {
            steps.begin(me(1, 1), "n", form(), Millis(2)).expect("there is room");
        }
        assert_eq!(steps.begin(me(2, 1), "n", form(), now), None, "all are another session's");
        assert!(steps.begin(me(3, 2), "n", form(), now).is_some(), "another account's");
        assert!(steps.begin(me(1, 1), "n", form(), Millis(3)).is_some());
        assert_eq!(steps.take(me(1, 1).0, "n", &first, now).err(), Some(Lost::Over));
        for number in 0..2 * IN_ALL as u64 {
            let begun = steps.begin(me(10 + number, 10 + number), "n", form(), now);
            assert_eq!(begun.is_some(), number < (IN_ALL - PER_ACCOUNT - 1) as u64, "{number}");
        }
        assert_eq!(steps.waiting(), IN_ALL);
        steps.gone(me(1, 1).0);
        assert_eq!(steps.waiting(), IN_ALL - PER_ACCOUNT);
        for number in 0..2 * IN_ALL as u64 {
            steps.single(me(number, 1).0);
        }
        assert_eq!(steps.0.lock().over.len(), IN_ALL);
    }

    #[test]
    fn a_session_has_one_command_carried_out_at_a_time() {
        let steps = Steps::default();
        let id = |number: u64| me(number, 1).0;
        assert!(steps.run(id(0)) && !steps.run(id(0)));
        for number in 1..RUNNING as u64 {
            assert!(steps.run(id(number)));
        }
        assert!(!steps.run(id(1_000)));
        steps.ran(id(0));
        assert!(steps.run(id(1_000)));
    }
}
