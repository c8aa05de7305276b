//! When to look at which session again: buckets of session ids, one bucket per second.
//!
//! ```text
//!  second 1767225660: [id, id, id]      taken whole when the clock gets there; each id is looked
//!  second 1767225661: [id]              at, and ended or entered where its next deadline is
//! ```
//!
//! A session is in one bucket at most, and that bucket is never later than its next deadline: later
//! ones (activity, another stage) do not touch the queue, an earlier one has to be told with
//! [`Server::rearm`](crate::Server::rearm). No bucket is further away than [`HORIZON`], which is why
//! nothing has to be removed when a session ends: its id is forgotten within that time. A session
//! without any deadline is not in here.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use parking_lot::Mutex;

use crate::{clock::Millis, id::SessionId};

/// Seconds after which a session is looked at again at the latest, however far its deadline. Half of
/// it at least, spread by id, so that sessions which came together are not looked at together.
pub const HORIZON: u64 = 1_800;

/// Where a session stands in the queue: a second, or nowhere.
#[derive(Debug)]
pub(crate) struct Armed(AtomicU32);

const NOWHERE: u32 = u32::MAX;

impl Default for Armed {
    fn default() -> Self {
        Self(AtomicU32::new(NOWHERE))
    }
}

impl Armed {
    /// Takes the session out of this bucket; false if it is in another one by now. Whoever changes a
    /// deadline afterwards finds the session nowhere and enters it again, so that no change between
    /// taking out and entering is lost.
    pub(crate) fn take(&self, second: u32) -> bool {
        self.0.compare_exchange(second, NOWHERE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct Deadlines {
    buckets: Mutex<BTreeMap<u32, Vec<SessionId>>>,
}

/// The size of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Ids in it, of ended sessions too until their bucket is due.
    pub entries: usize,
    /// Buckets in it.
    pub buckets: usize,
    /// Bytes that the ids take, with the spare room of their buckets.
    pub bytes: usize,
}

/// The second that an instant is in. The year 2106 and all that is later count as one.
fn second(at: Millis) -> u32 {
    u32::try_from(at.0 / 1000).unwrap_or(NOWHERE).min(NOWHERE - 1)
}

impl Deadlines {
    /// Sees to it that a session is looked at when `at` has come, unless it will be even before.
    pub(crate) fn arm(&self, armed: &Armed, id: SessionId, at: Millis, now: Millis) {
        let spread = u64::try_from(id.0 % u128::from(HORIZON / 2)).unwrap_or(0);
        let second = second(at.min(now.plus_seconds(HORIZON / 2 + spread)));
        if armed.0.fetch_min(second, Ordering::AcqRel) > second {
            self.buckets.lock().entry(second).or_default().push(id);
        }
    }

    /// Takes out all buckets that are due. What is not taken from the result goes back into the queue
    /// when it is dropped.
    pub(crate) fn due(&self, now: Millis) -> Due<'_> {
        let now = second(now);
        let mut buckets = self.buckets.lock();
        let later = buckets.split_off(&(now + 1));
        let due = std::mem::replace(&mut *buckets, later);
        drop(buckets);
        Due { queue: self, buckets: due }
    }

    /// How much is in it. Walks the buckets, not the sessions.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        let buckets = self.buckets.lock();
        let room: usize = buckets.values().map(Vec::capacity).sum();
        Waiting {
            entries: buckets.values().map(Vec::len).sum(),
            buckets: buckets.len(),
            bytes: room * size_of::<SessionId>(),
        }
    }
}

/// What is due, to be looked at one by one.
pub(crate) struct Due<'a> {
    queue: &'a Deadlines,
    buckets: BTreeMap<u32, Vec<SessionId>>,
}

impl Iterator for Due<'_> {
    /// The bucket and the session.
    type Item = (u32, SessionId);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut bucket = self.buckets.first_entry()?;
            if let Some(id) = bucket.get_mut().pop() {
                return Some((*bucket.key(), id));
            }
            bucket.remove();
        }
    }
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        let rest = std::mem::take(&mut self.buckets);
        if rest.is_empty() {
            return;
        }
        let mut buckets = self.queue.buckets.lock();
        for (second, ids) in rest {
            buckets.entry(second).or_default().extend(ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_800_000_000_500);

    fn due(queue: &Deadlines, at: Millis) -> Vec<SessionId> {
        queue.due(at).map(|(_, id)| id).collect()
    }

    #[test]
    fn a_session_is_in_one_bucket_and_only_an_earlier_deadline_moves_it() {
        let (queue, armed, id) = (Deadlines::default(), Armed::default(), SessionId(1));
        queue.arm(&armed, id, NOW.plus_seconds(20), NOW);
        queue.arm(&armed, id, NOW.plus_seconds(30), NOW);
        queue.arm(&armed, id, NOW.plus_seconds(20), NOW);
        assert_eq!(queue.waiting().entries, 1);
        queue.arm(&armed, id, NOW.plus_seconds(10), NOW);
        assert!(due(&queue, NOW.plus_seconds(9)).is_empty());
        let taken: Vec<_> = queue.due(NOW.plus_seconds(10)).collect();
        assert_eq!(taken.len(), 1);
        assert!(armed.take(taken[0].0));
        // The entry that was left behind is not the session's place any more.
        let stale: Vec<_> = queue.due(NOW.plus_seconds(20)).collect();
        assert_eq!(stale.len(), 1);
        assert!(!armed.take(stale[0].0));
        assert_eq!(queue.waiting().entries, 0);
    }

    #[test]
    fn a_bucket_is_due_in_the_second_of_its_deadline_not_after_it() {
        let (queue, armed) = (Deadlines::default(), Armed::default());
        queue.arm(&armed, SessionId(1), Millis(NOW.0 + 499), NOW);
        assert_eq!(due(&queue, NOW), [SessionId(1)], "looked at, and perhaps a moment too early");
    }

    #[test]
    fn however_far_the_deadline_no_id_stays_longer_than_the_horizon() {
        let queue = Deadlines::default();
        let armed: Vec<_> = (0..5_000).map(|_| Armed::default()).collect();
        for (id, armed) in (0..).zip(&armed) {
            queue.arm(armed, SessionId(id), NOW.plus_seconds(100 * 365 * 86_400), NOW);
        }
        assert!(due(&queue, NOW.plus_seconds(HORIZON / 2 - 1)).is_empty());
        assert!(queue.waiting().buckets >= 900, "and they are spread");
        assert_eq!(due(&queue, NOW.plus_seconds(HORIZON)).len(), 5_000);
        assert_eq!(queue.waiting(), Waiting::default());
    }

    #[test]
    fn what_was_not_looked_at_is_still_there() {
        let queue = Deadlines::default();
        let armed: Vec<_> = (0..10).map(|_| Armed::default()).collect();
        for (id, armed) in (0..).zip(&armed) {
            queue.arm(armed, SessionId(id), NOW, NOW);
        }
        let mut some = queue.due(NOW);
        let first: Vec<_> = some.by_ref().take(3).collect();
        drop(some);
        assert_eq!((first.len(), due(&queue, NOW).len()), (3, 7));
    }

    #[test]
    fn times_that_no_calendar_has_are_in_the_last_bucket() {
        assert_eq!(second(Millis(u64::MAX)), NOWHERE - 1);
        let (queue, armed) = (Deadlines::default(), Armed::default());
        queue.arm(&armed, SessionId(1), Millis(u64::MAX), Millis(u64::MAX - 1));
        assert_eq!(due(&queue, Millis(u64::MAX)).len(), 1);
    }
}
