//! The queue between tasks, which must not block, and engine threads, which do.
//!
//! The order is the order of the calls, whatever happens to the futures. The queue holds a bounded
//! amount; what comes on top waits in the porch, in the same order, and only as long as somebody
//! waits for it: the future of a request in the porch takes it back when it is dropped. So a caller
//! that awaits is slowed to the disk's pace, and one that gave up leaves no memory behind. A
//! request in the queue proper is carried out even if nobody waits any more.
//!
//! Requests in the porch move on without their future being polled: a task that holds one such
//! future and awaits something else stops nobody behind it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};

/// How much, in requests and in bytes. One request always fits, whatever its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

impl Limit {
    fn admits(self, requests: usize, bytes: usize, more: usize) -> bool {
        requests == 0 || (requests < self.requests && bytes.saturating_add(more) <= self.bytes)
    }
}

/// The queue takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// See the module.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    room: Limit,
}

impl<T> Queue<T> {
    pub(crate) fn new(room: Limit) -> Arc<Self> {
        let state = State {
            bytes: 0,
            closed: false,
            next: 0,
            porch: BTreeMap::new(),
            ready: VecDeque::new(),
        };
        Arc::new(Self { state: Mutex::new(state), filled: Condvar::new(), room })
    }

    /// Adds a request that holds `bytes` of memory. Keep the place for as long as the answer
    /// matters.
    pub(crate) fn push(self: &Arc<Self>, request: T, bytes: usize) -> Result<Place<T>, Closed> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed);
        }
        let fits =
            state.porch.is_empty() && self.room.admits(state.ready.len(), state.bytes, bytes);
        if fits {
            state.admit(request, bytes);
            self.filled.notify_one();
            return Ok(Place { porch: None });
        }
        let number = state.next;
        state.next += 1;
        state.porch.insert(number, (request, bytes));
        Ok(Place { porch: Some((Arc::clone(self), number)) })
    }

    /// Refuses further requests; those that are in, the porch included, are still handed out.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_all();
    }

    fn take(&self, most: Limit) -> Option<Vec<T>> {
        let mut state = self.state.lock();
        while state.ready.is_empty() {
            if state.closed {
                return None;
            }
            self.filled.wait(&mut state);
        }
        let (mut taken, mut sum) = (Vec::new(), 0);
        while let Some(&(_, bytes)) = state.ready.front() {
            if !most.admits(taken.len(), sum, bytes) {
                break;
            }
            sum += bytes;
            taken.extend(state.ready.pop_front().map(|(request, _)| request));
        }
        state.bytes -= sum;
        while let Some((_, &(_, bytes))) = state.porch.first_key_value() {
            if !self.room.admits(state.ready.len(), state.bytes, bytes) {
                break;
            }
            if let Some((_, (request, bytes))) = state.porch.pop_first() {
                state.admit(request, bytes);
                self.filled.notify_one();
            }
        }
        Some(taken)
    }

    fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.bytes = 0;
        let left = (std::mem::take(&mut state.ready), std::mem::take(&mut state.porch));
        drop(state);
        drop(left);
        self.filled.notify_all();
    }
}

/// The end where requests come out, shared by the threads that take them. When it is dropped, be it
/// because they panicked, nobody takes requests any more: those that are in are dropped, and no
/// more are let in, so nobody waits for an answer that never comes.
pub(crate) struct Taker<T>(Arc<Queue<T>>);

impl<T> Taker<T> {
    pub(crate) fn new(queue: &Arc<Queue<T>>) -> Self {
        Self(Arc::clone(queue))
    }

    /// Takes the oldest requests, at most `most` of them, and blocks the thread until there are
    /// any. `None` once the queue is closed and everything has been taken.
    pub(crate) fn take(&self, most: Limit) -> Option<Vec<T>> {
        self.0.take(most)
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A request's place; dropping it takes the request back if it still waits in the porch.
pub(crate) struct Place<T> {
    porch: Option<(Arc<Queue<T>>, u64)>,
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        if let Some((queue, number)) = &self.porch {
            let left = queue.state.lock().porch.remove(number);
            // Outside of the lock: dropping a request may run code that is not ours.
            drop(left);
        }
    }
}

/// Invariant: the porch is empty unless the first request in it does not fit into `ready`, so there
/// is nothing in the porch while `ready` is empty.
struct State<T> {
    /// Sum over `ready`.
    bytes: usize,
    closed: bool,
    /// Number of the next request in the porch.
    next: u64,
    porch: BTreeMap<u64, (T, usize)>,
    ready: VecDeque<(T, usize)>,
}

impl<T> State<T> {
    fn admit(&mut self, request: T, bytes: usize) {
        self.bytes += bytes;
        self.ready.push_back((request, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Limit = Limit { requests: usize::MAX, bytes: usize::MAX };

    #[test]
    fn a_group_is_bounded_by_requests_and_by_bytes() {
        let queue = Queue::new(ALL);
        let _places: Vec<_> = (0..6).map(|n| queue.push(n, 10)).collect();
        assert_eq!(queue.take(Limit { requests: 2, bytes: 100 }), Some(vec![0, 1]));
        assert_eq!(queue.take(Limit { requests: 9, bytes: 25 }), Some(vec![2, 3]));
        assert_eq!(queue.take(Limit { requests: 9, bytes: 1 }), Some(vec![4]), "one always fits");
        assert_eq!(queue.take(ALL), Some(vec![5]));
    }

    #[test]
    fn what_does_not_fit_waits_in_order_and_is_not_overtaken() {
        let queue = Queue::new(Limit { requests: 9, bytes: 10 });
        let places: Vec<_> = [4, 4, 4, 1].map(|n| queue.push(n, n)).into_iter().collect();
        // The last would fit, and yet goes behind the one that does not.
        assert_eq!(queue.take(ALL), Some(vec![4, 4]));
        assert_eq!(queue.take(ALL), Some(vec![4, 1]));
        drop(places);
    }

    #[test]
    fn a_request_nobody_waits_for_leaves_the_porch_but_not_the_queue() {
        let queue = Queue::new(Limit { requests: 1, bytes: 10 });
        let held = Arc::new(());
        drop(queue.push((1, Arc::clone(&held)), 1));
        for n in 2..100 {
            drop(queue.push((n, Arc::clone(&held)), 1));
        }
        let _kept = queue.push((100, Arc::clone(&held)), 1);
        assert_eq!(Arc::strong_count(&held), 3, "one in the queue, one in the porch, ours");
        let taken = |group: Option<Vec<(u32, Arc<()>)>>| group.map(|g| g[0].0);
        assert_eq!(taken(queue.take(ALL)), Some(1));
        assert_eq!(taken(queue.take(ALL)), Some(100));
    }

    #[test]
    fn closing_hands_out_the_rest_and_then_nothing() {
        let queue = Queue::new(Limit { requests: 1, bytes: 10 });
        let _places = [queue.push(1, 1), queue.push(2, 1)];
        queue.close();
        assert!(queue.push(3, 1).is_err());
        assert_eq!(queue.take(ALL), Some(vec![1]));
        assert_eq!(queue.take(ALL), Some(vec![2]));
        assert_eq!(queue.take(ALL), None);
    }

    #[test]
    fn nothing_waits_for_a_taker_that_is_gone() {
        let queue = Queue::new(Limit { requests: 1, bytes: 10 });
        let held = Arc::new(());
        let _places = [queue.push(Arc::clone(&held), 1), queue.push(Arc::clone(&held), 1)];
        drop(Taker::new(&queue));
        assert!(Arc::into_inner(held).is_some());
        assert!(queue.push(Arc::new(()), 1).is_err());
    }
}
