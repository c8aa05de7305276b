//! The way into a session: a queue of stanzas, many to one, bounded in bytes. `push` never waits.
//!
//! A mailbox belongs to the session, not to its connection: it exists before one is ready to read
//! and may outlive it. It is a mutex over a ring rather than a channel because an empty one must cost
//! next to nothing: no block is allocated until the first stanza, and it is freed when drained.
//!
//! With stream management (XEP-0198) what a connection takes stays here until the client has
//! acknowledged it, and both count against the limit:
//!
//! ```text
//!   push ─► [ queue ] ─ take ─► [ unacknowledged ] ─ ack ─► gone
//!               ▲                       │
//!               └──────── claim ────────┘      another connection goes on with the stream
//! ```
//!
//! Which connection may take, and count what comes in, is a number that a claim raises: whoever holds
//! an older one gets nothing any more, from that very instant.

use std::{collections::VecDeque, task::Waker};

use wire::Kind;

use crate::lock::Mutex;
pub use crate::parcel::Parcel;

/// Why a parcel was not taken in; it comes back to the caller.
#[derive(Debug)]
pub enum Refused {
    /// The session has ended.
    Closed(Parcel),
    /// The queue holds its limit of bytes: the receiver does not read fast enough.
    Full(Parcel),
}

/// The queue itself.
#[derive(Default)]
pub struct Mailbox {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Parcel>,
    /// Sum of the lengths in `queue`, and of what is unacknowledged; four gigabytes are more than any
    /// limit.
    bytes: u32,
    /// The connection's task, if it waits for something to happen.
    waker: Option<Waker>,
    closed: bool,
    /// How many parcels were taken so far; wraps.
    taken: u32,
    /// Which connection may take and count.
    holder: Holder,
    /// Stream management, once it is on.
    managed: Option<Box<Managed>>,
}

/// Names one of the connections that a session has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder(u32);

/// What XEP-0198 counts, all of it modulo 2^32.
#[derive(Default)]
struct Managed {
    /// Taken and not acknowledged.
    sent: VecDeque<Parcel>,
    /// Stanzas that the client has acknowledged.
    acked: u32,
    /// Stanzas of the client that were taken in.
    handled: u32,
    /// Taken parcels, by the count of the mailbox, that the client was asked about and has not
    /// answered for.
    asked: Option<u32>,
}

/// A place in a mailbox's queue; see [`Mailbox::mark`].
#[derive(Clone, Copy, Debug)]
pub struct Mark(u32);

/// What became of a try to take parcels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Some were taken; whether the client should be asked to acknowledge them.
    Some {
        /// It has been asked about nothing else that is still open, and this is worth it.
        ask: bool,
    },
    /// There are none.
    Empty,
    /// Another connection has them now.
    Displaced,
}

/// The counts of a stream, for another connection to go on with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stanzas that the client has acknowledged.
    pub acked: u32,
    /// Stanzas of the client that were taken in.
    pub handled: u32,
}

/// What an acknowledgement leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// The client owes no answer.
    Noted,
    /// It is to be asked about what was sent behind what it was asked about, for nothing else may be
    /// sent for a long time.
    AskAgain,
    /// Another connection has the stream, and has taken back what this is about: it counts for nothing.
    Displaced,
}

/// A stream as it is at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where its counts are.
    pub counts: Counts,
    /// Copies of what the client has not acknowledged by them, in order.
    pub sent: Vec<Parcel>,
    /// Copies of what waits behind.
    pub waiting: Vec<Parcel>,
}

/// Why nobody goes on with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclaimed {
    /// The session has ended; what it was sent is elsewhere.
    Closed,
    /// The client says that it has more than it was sent.
    TooHigh(TooHigh),
}

/// More was acknowledged than was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooHigh {
    /// As acknowledged.
    pub h: u32,
    /// As sent.
    pub sent: u32,
}

/// Whether a count, all of which wrap, is at another one or ahead of it: by less than half the range,
/// which no difference between two of them ever comes near.
pub(crate) fn has_reached(count: u32, other: u32) -> bool {
    count.wrapping_sub(other) < u32::MAX / 2
}

/// So many as a count.
fn many(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// So many presences alone are worth asking about.
const PRESENCES: usize = 20;

impl Managed {
    /// How many of the parcels that were sent `h` acknowledges.
    fn covered(&self, h: u32) -> Result<usize, TooHigh> {
        let count = usize::try_from(h.wrapping_sub(self.acked)).unwrap_or(usize::MAX);
        if count <= self.sent.len() {
            return Ok(count);
        }
        Err(TooHigh { h, sent: self.sent() })
    }

    /// Stanzas that the client was sent.
    fn sent(&self) -> u32 {
        self.acked.wrapping_add(many(self.sent.len()))
    }

    fn counts(&self) -> Counts {
        Counts { acked: self.acked, handled: self.handled }
    }

    /// Whether what is unacknowledged is worth a question.
    fn is_worth_asking(&self) -> bool {
        self.sent.len() >= PRESENCES || self.sent.iter().any(|p| p.kind() != Kind::Presence)
    }

    /// Forgets what `h` acknowledges, and gives the bytes that it took.
    fn ack(&mut self, h: u32) -> Result<u32, TooHigh> {
        let count = self.covered(h)?;
        self.acked = h;
        Ok(self.sent.drain(..count).map(|parcel| parcel.arrived()).sum())
    }
}

impl Inner {
    /// How many parcels the client has, of those that were taken so far: it has acknowledged them, if
    /// the stream is managed.
    fn arrived(&self) -> u32 {
        let open = self.managed.as_ref().map_or(0, |managed| managed.sent.len());
        self.taken.wrapping_sub(many(open))
    }

    /// Takes the stream away from whatever connection has it; gives whom to wake, so that it sees that.
    fn displace(&mut self) -> Option<Waker> {
        self.holder = Holder(self.holder.0.wrapping_add(1));
        self.waker.take()
    }
}

impl Mailbox {
    /// Appends a parcel and wakes the connection. `limit` bytes may wait; one parcel always may. Gives
    /// the count that will acknowledge it; 0 if nothing is counted.
    ///
    /// # Errors
    /// [`Refused`], with the parcel, when the session has ended or the queue is full.
    pub fn push(&self, parcel: Parcel, limit: usize) -> Result<u32, Refused> {
        let (waker, count) = {
            let mut inner = self.inner.lock();
            if inner.closed {
                return Err(Refused::Closed(parcel));
            }
            let bytes = inner.bytes.saturating_add(parcel.size());
            if bytes as usize > limit && inner.bytes > 0 {
                return Err(Refused::Full(parcel));
            }
            inner.bytes = bytes;
            inner.queue.push_back(parcel);
            let waiting = many(inner.queue.len());
            let counted = inner.managed.as_ref();
            let count = counted.map_or(0, |managed| managed.sent().wrapping_add(waiting));
            (inner.waker.take(), count)
        };
        // Woken outside the lock: the woken task takes the lock first thing.
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(count)
    }

    /// Takes up to `budget` bytes of parcels (at least one if there is any), and remembers whom to
    /// wake for the next. Frees the ring when it is empty.
    pub fn take(
        &self,
        holder: Holder,
        budget: usize,
        waker: &Waker,
        mut each: impl FnMut(Parcel),
    ) -> Take {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if inner.holder != holder {
            return Take::Displaced;
        }
        let (mut taken, mut worth) = (0, false);
        while taken < budget {
            let Some(parcel) = inner.queue.pop_front() else { break };
            taken += parcel.len();
            inner.taken = inner.taken.wrapping_add(1);
            match &mut inner.managed {
                None => inner.bytes -= parcel.arrived(),
                Some(managed) => {
                    worth |= parcel.kind() != Kind::Presence;
                    managed.sent.push_back(parcel.clone());
                }
            }
            each(parcel);
        }
        if inner.queue.is_empty() {
            inner.queue = VecDeque::new();
        }
        if !inner.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        if taken == 0 {
            return Take::Empty;
        }
        let ask = inner.managed.as_mut().is_some_and(|managed| {
            let ask = managed.asked.is_none() && (worth || managed.sent.len() >= PRESENCES);
            if ask {
                managed.asked = Some(inner.taken);
            }
            ask
        });
        Take::Some { ask }
    }

    /// Begins to count, from zero; what was taken before does not count. False: it was on already.
    pub fn manage(&self) -> bool {
        let managed = &mut self.inner.lock().managed;
        let first = managed.is_none();
        managed.get_or_insert_default();
        first
    }

    /// Puts back what a stream that is to go on had: what it had `sent`, which its client may have,
    /// and what waited, in order.
    pub fn restore(
        &self,
        counts: Counts,
        sent: impl IntoIterator<Item = Parcel>,
        waiting: impl IntoIterator<Item = Parcel>,
    ) {
        let mut inner = self.inner.lock();
        let sent: VecDeque<Parcel> = sent.into_iter().collect();
        inner.queue.extend(waiting);
        inner.bytes = sent.iter().chain(&inner.queue).map(Parcel::size).sum();
        inner.taken = many(sent.len());
        let Counts { acked, handled } = counts;
        inner.managed = Some(Box::new(Managed { sent, acked, handled, asked: None }));
    }

    /// Counts a stanza that came in. False: another connection goes on with the stream, and the stanza
    /// is to be dropped, for the client sends it there once more. Stanzas of a stream that is not
    /// managed are not counted.
    pub fn receive(&self, holder: Holder) -> bool {
        let mut inner = self.inner.lock();
        let ours = inner.holder == holder;
        if let Some(managed) = inner.managed.as_mut().filter(|_| ours) {
            managed.handled = managed.handled.wrapping_add(1);
        }
        ours
    }

    /// Where the counts are; none: nothing is counted.
    #[must_use]
    pub fn counts(&self) -> Option<Counts> {
        let inner = self.inner.lock();
        inner.managed.as_ref().map(|managed| managed.counts())
    }

    /// The client has handled `h` stanzas, it says over this connection. Whatever it has been asked,
    /// that is an answer: there are clients that never count all that they get.
    ///
    /// # Errors
    /// [`TooHigh`]: nothing has changed then.
    pub fn ack(&self, holder: Holder, h: u32) -> Result<Acked, TooHigh> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if inner.holder != holder {
            return Ok(Acked::Displaced);
        }
        let Some(managed) = &mut inner.managed else { return Err(TooHigh { h, sent: 0 }) };
        inner.bytes -= managed.ack(h)?;
        if managed.sent.is_empty() {
            managed.sent = VecDeque::new();
        }
        let answered = managed.asked.take();
        let worth = managed.is_worth_asking();
        let again = worth && answered.is_some_and(|asked| has_reached(inner.arrived(), asked));
        if let Some(managed) = inner.managed.as_mut().filter(|_| again) {
            managed.asked = Some(inner.taken);
        }
        Ok(if again { Acked::AskAgain } else { Acked::Noted })
    }

    /// Takes the stream away from whatever connection has it: what the client has not handled, by its
    /// count `h`, is in the queue again. Gives the connection that may go on, and the counts.
    ///
    /// # Errors
    /// [`Unclaimed`]: nothing has changed then.
    pub fn claim(&self, h: u32) -> Result<(Holder, Counts), Unclaimed> {
        let (waker, claimed) = {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            if inner.closed {
                return Err(Unclaimed::Closed);
            }
            let Some(managed) = &mut inner.managed else {
                return Err(Unclaimed::TooHigh(TooHigh { h, sent: 0 }));
            };
            inner.bytes -= managed.ack(h).map_err(Unclaimed::TooHigh)?;
            let again = std::mem::take(&mut managed.sent);
            inner.taken = inner.taken.wrapping_sub(many(again.len()));
            managed.asked = None;
            let counts = managed.counts();
            let waiting = std::mem::replace(&mut inner.queue, again);
            inner.queue.extend(waiting);
            (inner.displace(), (inner.holder, counts))
        };
        // Whoever had it sees that it is displaced.
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(claimed)
    }

    /// Takes the stream away from whatever connection has it, for nobody to go on with. Gives the
    /// number that no connection has.
    pub fn suspend(&self) -> Holder {
        let (waker, holder) = {
            let mut inner = self.inner.lock();
            (inner.displace(), inner.holder)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        holder
    }

    /// The connection has gone; nobody is to be woken.
    pub fn release(&self, holder: Holder) {
        let mut inner = self.inner.lock();
        if inner.holder == holder {
            inner.waker = None;
            if let Some(managed) = &mut inner.managed {
                managed.asked = None;
            }
        }
    }

    /// The connection that may take now.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.inner.lock().holder
    }

    /// Wakes the connection without a parcel, because something else about the session changed.
    pub fn wake(&self) {
        let waker = self.inner.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Refuses everything from now on. Does not wake the connection.
    pub fn close(&self) {
        self.inner.lock().closed = true;
    }

    /// What the client has not acknowledged, or was never handed to its connection. Only useful after
    /// [`close`](Self::close).
    #[must_use]
    pub fn leftover(&self) -> Vec<Parcel> {
        let mut inner = self.inner.lock();
        inner.bytes = 0;
        let sent = inner.managed.as_mut().map(|managed| std::mem::take(&mut managed.sent));
        let queue = std::mem::take(&mut inner.queue);
        sent.into_iter().flatten().chain(queue).collect()
    }

    /// The stream as it is now; none: nothing is counted.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        let inner = self.inner.lock();
        let managed = inner.managed.as_ref()?;
        Some(Snapshot {
            counts: managed.counts(),
            sent: managed.sent.iter().cloned().collect(),
            waiting: inner.queue.iter().cloned().collect(),
        })
    }

    /// Shows what the client has not acknowledged, and what waits behind, in order, to be changed in
    /// place, each with the count that acknowledges it.
    pub(crate) fn each(&self, mut each: impl FnMut(u32, &mut Parcel)) {
        let mut inner = self.inner.lock();
        let Inner { managed, queue, .. } = &mut *inner;
        let mut count = managed.as_ref().map_or(0, |managed| managed.acked);
        for parcel in managed.iter_mut().flat_map(|managed| &mut managed.sent).chain(queue) {
            count = count.wrapping_add(1);
            each(count, parcel);
        }
    }

    /// The place behind everything that waits now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let inner = self.inner.lock();
        Mark(inner.taken.wrapping_add(many(inner.queue.len())))
    }

    /// Whether the connection has taken everything that waited when `mark` was made.
    #[must_use]
    pub fn passed(&self, mark: Mark) -> bool {
        has_reached(self.inner.lock().taken, mark.0)
    }

    /// Whether all that waited when `mark` was made is the client's: acknowledged, if the stream is
    /// managed, else taken.
    #[must_use]
    pub fn handed_over(&self, mark: Mark) -> bool {
        has_reached(self.inner.lock().arrived(), mark.0)
    }

    /// Bytes that wait or are not acknowledged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes as usize
    }

    /// Bytes that no connection has taken.
    #[must_use]
    pub fn untaken(&self) -> usize {
        let inner = self.inner.lock();
        let sent = inner.managed.iter().flat_map(|managed| &managed.sent);
        (inner.bytes - sent.map(Parcel::size).sum::<u32>()) as usize
    }

    /// Stanzas that wait or are not acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.inner.lock();
        inner.queue.len() + inner.managed.as_ref().map_or(0, |managed| managed.sent.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stanzas that the client was sent and has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.inner.lock().managed.as_ref().map_or(0, |managed| managed.sent.len())
    }
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;
