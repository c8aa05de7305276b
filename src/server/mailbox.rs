//! The way into a session: a queue of stanzas, many to one, bounded in bytes. `push` never waits.
//!
//! A mailbox belongs to the session, not to its connection: it exists before one is ready to read
//! and may outlive it. It is a mutex over a ring rather than a channel because an empty one must cost
//! next to nothing: no block is allocated until the first stanza, and it is freed when drained.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use parking_lot::Mutex;
use wire::{Frame, Jid, Kind, Stamp};

/// One stanza on its way to one receiver. A broadcast shares `head` and `tail` among all receivers;
/// only `to` differs.
#[derive(Clone, Debug)]
pub struct Parcel {
    head: Bytes,
    to: Option<Jid>,
    tail: Bytes,
    kind: Kind,
    /// Shared by the copies of one message for several sessions: whether a connection has one.
    fork: Option<Arc<AtomicBool>>,
}

impl Parcel {
    /// A client's stanza, stamped with its true sender.
    #[must_use]
    pub fn stamped(frame: &Frame, from: &Jid, to: Option<&Jid>, lang: Option<&str>) -> Self {
        let stamp = Stamp { from: Some(from.as_str()), to: to.map(Jid::as_str), lang };
        let (head, tail) = frame.restamp(stamp);
        Self { head, to: None, tail, kind: frame.kind(), fork: None }
    }

    /// A stanza that the server made, whole.
    #[must_use]
    pub fn whole(kind: Kind, xml: Bytes) -> Self {
        Self { head: xml, to: None, tail: Bytes::new(), kind, fork: None }
    }

    /// One copy of a broadcast: `head` ends just after `to='`, `tail` starts with the closing quote.
    #[must_use]
    pub fn addressed(kind: Kind, head: Bytes, to: Jid, tail: Bytes) -> Self {
        Self { head, to: Some(to), tail, kind, fork: None }
    }

    /// The same as one of several copies: clones of it are for other sessions.
    #[must_use]
    pub fn forked(self) -> Self {
        Self { fork: Some(Arc::default()), ..self }
    }

    /// The same as one more copy of `other`, in another form: whoever gets this has that.
    #[must_use]
    pub fn alongside(self, other: &Self) -> Self {
        Self { fork: other.fork.clone(), ..self }
    }

    /// Notes that a connection has a copy, or that it does not matter whether one has.
    pub fn reached(&self) {
        if let Some(reached) = &self.fork {
            reached.store(true, Ordering::Release);
        }
    }

    /// Gives a copy up: whether another one has reached its connection, or is still on its way. Of
    /// copies that are all given up, the last one hears that there is none. Never true for a parcel
    /// that was not forked.
    pub(crate) fn has_another_copy(&mut self) -> bool {
        match self.fork.take().map(Arc::into_inner) {
            None => false,
            Some(None) => true,
            Some(Some(reached)) => reached.into_inner(),
        }
    }

    /// Message, presence, iq.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes on the wire; addresses are counted before escaping.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.to.as_ref().map_or(0, |to| to.as_str().len()) + self.tail.len()
    }

    /// Never true for a stanza; here for completeness beside [`len`](Self::len).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the pieces to a writer, in order.
    pub fn pieces(self, mut write: impl FnMut(Bytes)) {
        write(self.head);
        if let Some(to) = self.to {
            write(Bytes::from(wire::escape(to.as_str()).into_owned()));
        }
        if !self.tail.is_empty() {
            write(self.tail);
        }
    }

    /// The stanza as one validated frame again, for re-routing what was never delivered.
    #[must_use]
    pub fn into_frame(self) -> Option<Frame> {
        let mut whole = Vec::with_capacity(self.len());
        self.pieces(|piece| whole.extend_from_slice(&piece));
        Frame::parse(whole).ok()
    }
}

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
    /// Sum of the lengths in `queue`.
    bytes: usize,
    /// The connection's task, if it waits for something to happen.
    waker: Option<Waker>,
    closed: bool,
    /// How many parcels were taken so far; wraps.
    taken: u32,
}

/// A place in a mailbox's queue; see [`Mailbox::mark`].
#[derive(Clone, Copy, Debug)]
pub struct Mark(u32);

impl Mailbox {
    /// Appends a parcel and wakes the connection. `limit` bytes may wait; one parcel always may.
    ///
    /// # Errors
    /// [`Refused`], with the parcel, when the session has ended or the queue is full.
    pub fn push(&self, parcel: Parcel, limit: usize) -> Result<(), Refused> {
        let waker = {
            let mut inner = self.inner.lock();
            if inner.closed {
                return Err(Refused::Closed(parcel));
            }
            if inner.bytes + parcel.len() > limit && !inner.queue.is_empty() {
                return Err(Refused::Full(parcel));
            }
            inner.bytes += parcel.len();
            inner.queue.push_back(parcel);
            inner.waker.take()
        };
        // Woken outside the lock: the woken task takes the lock first thing.
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Takes up to `budget` bytes of parcels (at least one if there is any), and remembers whom to
    /// wake for the next. Frees the ring when it is empty.
    pub fn take(&self, budget: usize, waker: &Waker, mut each: impl FnMut(Parcel)) -> bool {
        let mut inner = self.inner.lock();
        let mut taken = 0;
        while taken < budget {
            let Some(parcel) = inner.queue.pop_front() else { break };
            taken += parcel.len();
            inner.bytes -= parcel.len();
            inner.taken = inner.taken.wrapping_add(1);
            parcel.reached();
            each(parcel);
        }
        if inner.queue.is_empty() {
            inner.queue = VecDeque::new();
        }
        if !inner.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        taken > 0
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

    /// What was never handed to the connection. Only useful after [`close`](Self::close).
    #[must_use]
    pub fn leftover(&self) -> Vec<Parcel> {
        let mut inner = self.inner.lock();
        inner.bytes = 0;
        std::mem::take(&mut inner.queue).into()
    }

    /// The place behind everything that waits now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let inner = self.inner.lock();
        Mark(inner.taken.wrapping_add(u32::try_from(inner.queue.len()).unwrap_or(u32::MAX)))
    }

    /// Whether the connection has taken everything that waited when `mark` was made.
    #[must_use]
    pub fn passed(&self, mark: Mark) -> bool {
        // Less than half the range behind: the difference is never as large as that.
        self.inner.lock().taken.wrapping_sub(mark.0) < u32::MAX / 2
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    fn parcel(text: &'static str) -> Parcel {
        Parcel::whole(Kind::Message, Bytes::from_static(text.as_bytes()))
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn keeps_order_and_counts_bytes() {
        let mailbox = Mailbox::default();
        for text in ["one", "three", "five"] {
            mailbox.push(parcel(text), 100).expect("there is room");
        }
        assert_eq!(mailbox.bytes(), 12);
        let mut seen = Vec::new();
        mailbox.take(4, Waker::noop(), |p| p.pieces(|b| seen.push(b)));
        assert_eq!(seen, ["one", "three"], "stops once the budget is spent");
        assert_eq!(mailbox.bytes(), 4);
    }

    #[test]
    fn a_full_mailbox_refuses_but_an_empty_one_takes_any_size() {
        let mailbox = Mailbox::default();
        mailbox.push(parcel("larger than the limit"), 4).expect("the first always fits");
        assert!(matches!(mailbox.push(parcel("x"), 4), Err(Refused::Full(_))));
    }

    #[test]
    fn a_mark_is_passed_whatever_comes_behind_it() {
        let mailbox = Mailbox::default();
        assert!(mailbox.passed(mailbox.mark()));
        mailbox.push(parcel("a"), 9).expect("there is room");
        let mark = mailbox.mark();
        mailbox.push(parcel("b"), 9).expect("there is room");
        assert!(!mailbox.passed(mark));
        mailbox.take(1, Waker::noop(), |_| {});
        assert!(mailbox.passed(mark), "though `b` still waits");
    }

    #[test]
    fn of_forked_copies_that_nobody_gets_exactly_one_goes_elsewhere() {
        let first = parcel("a").forked();
        let (second, third) = (first.clone(), first.clone());
        let elsewhere = [first, second, third].map(|mut copy| !copy.has_another_copy());
        assert_eq!(elsewhere, [false, false, true]);
        assert!(!parcel("not forked").has_another_copy());

        let (mailbox, copy) = (Mailbox::default(), parcel("a").forked());
        let mut given_up = copy.clone();
        mailbox.push(copy, 9).expect("open");
        mailbox.take(9, Waker::noop(), drop);
        assert!(given_up.has_another_copy(), "a connection has it");
    }

    #[test]
    fn wakes_once_per_wait_and_nothing_enters_after_close() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mailbox = Mailbox::default();
        mailbox.take(1, &waker, |_| {});
        mailbox.push(parcel("a"), 9).expect("open");
        mailbox.push(parcel("b"), 9).expect("open");
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "one wake-up per wait");
        mailbox.close();
        assert!(matches!(mailbox.push(parcel("c"), 9), Err(Refused::Closed(_))));
        assert_eq!(mailbox.leftover().len(), 2);
        assert_eq!(mailbox.bytes(), 0);
    }
}
