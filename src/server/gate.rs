//! How many logins are under way at once. When everybody comes back in the same minute, a server that
//! begins with all of them finishes none in time, and all try again. Beyond the bound new connections
//! are not even accepted: they wait in the kernel, cost nothing here, and have their turn when others
//! are in.
//!
//! A login that takes longer than [`PATIENCE`] is not waited for: it goes on, but others may begin
//! beside it. So whoever only opens connections and says nothing slows others down, and locks nobody
//! out.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::id::SessionId;

/// How long a login counts: many times what one takes from the other end of the world.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is logging in.
pub struct Gate {
    /// 0: no bound.
    places: usize,
    inside: Mutex<Inside>,
    /// Somebody has left.
    left: Notify,
}

#[derive(Default)]
struct Inside {
    counted: HashSet<SessionId>,
    /// In the order of coming; those that have left since are taken out when they are the oldest.
    order: VecDeque<(SessionId, Instant)>,
}

impl Gate {
    /// For so many at once; 0: any number.
    pub(crate) fn new(places: u32) -> Self {
        let places = usize::try_from(places).unwrap_or(usize::MAX);
        Self { places, inside: Mutex::default(), left: Notify::new() }
    }

    /// Waits until another login may begin. Several may wait, and all look again when somebody leaves:
    /// the one that is told first may have nobody to take in.
    pub async fn room(&self) {
        if self.places == 0 {
            return;
        }
        loop {
            let left = self.left.notified();
            let full = self.inside.lock().full(self.places, Instant::now());
            match full {
                None => return,
                // Either way, another look.
                Some(until) => drop(timeout_at(until, left).await),
            }
        }
    }

    /// A connection begins to log in.
    pub(crate) fn enter(&self, id: SessionId) {
        if self.places > 0 {
            let (mut inside, now) = (self.inside.lock(), Instant::now());
            inside.forget(now);
            inside.counted.insert(id);
            inside.order.push_back((id, now));
        }
    }

    /// It has logged in, or is gone.
    pub(crate) fn leave(&self, id: SessionId) {
        if self.places > 0 && self.inside.lock().counted.remove(&id) {
            self.left.notify_waiters();
        }
    }
}

impl Inside {
    /// Until when to wait if all places are taken and nobody leaves.
    fn full(&mut self, places: usize, now: Instant) -> Option<Instant> {
        self.forget(now);
        let oldest = self.order.front().map(|(_, since)| *since + PATIENCE);
        oldest.filter(|_| self.counted.len() >= places)
    }

    /// Those who have left, and those who take too long, up to the oldest who counts.
    fn forget(&mut self, now: Instant) {
        while let Some((id, since)) = self.order.front() {
            if self.counted.contains(id) && now < *since + PATIENCE {
                break;
            }
            self.counted.remove(id);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> SessionId {
        SessionId(number)
    }

    /// How long until there is room.
    async fn waits(gate: &Gate) -> Duration {
        let begin = Instant::now();
        gate.room().await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_makes_room_at_once() {
        let gate = Gate::new(2);
        for number in 0..2 {
            assert_eq!(waits(&gate).await, Duration::ZERO);
            gate.enter(id(number));
        }
        let (mut third, mut other) = (by_hand(gate.room()), by_hand(gate.room()));
        assert!(!third.ready() && !other.ready(), "both places are taken");
        gate.leave(id(9));
        assert!(!third.ready(), "nobody who was inside");
        gate.leave(id(1));
        assert!(third.ready() && other.ready(), "whoever has somebody to take in may do so");
        gate.enter(id(2));
        gate.leave(id(0));
        gate.leave(id(0));
        gate.leave(id(2));
        assert_eq!(waits(&gate).await, Duration::ZERO);
        assert!(gate.inside.lock().counted.is_empty());
        assert!(gate.inside.lock().order.is_empty(), "nothing is left of those who left");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_locks_nobody_out() {
        let gate = Gate::new(2);
        gate.enter(id(0));
        tokio::time::advance(Duration::from_secs(1)).await;
        gate.enter(id(1));
        assert_eq!(waits(&gate).await, PATIENCE - Duration::from_secs(1), "the oldest");
        gate.enter(id(2));
        assert_eq!(waits(&gate).await, Duration::from_secs(1), "the next one");
        // It goes on all the same, and its end changes nothing.
        gate.leave(id(0));
        gate.enter(id(3));
        assert_eq!(waits(&gate).await, PATIENCE - Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_no_bound() {
        let gate = Gate::new(0);
        (0..10_000).for_each(|number| gate.enter(id(number)));
        assert_eq!(waits(&gate).await, Duration::ZERO);
        assert!(gate.inside.lock().counted.is_empty());
    }

    /// A future that is polled by hand.
    struct ByHand<F>(std::pin::Pin<Box<F>>);

    fn by_hand<F: Future>(future: F) -> ByHand<F> {
        ByHand(Box::pin(future))
    }

    impl<F: Future> ByHand<F> {
        fn ready(&mut self) -> bool {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            self.0.as_mut().poll(&mut cx).is_ready()
        }
    }
}
