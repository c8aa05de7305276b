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

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use wire::{Frame, Jid, Kind, Stamp};

use crate::{clock::Millis, journal::Flight, lock::Mutex};

/// One stanza on its way to one receiver. A broadcast shares `head` and `tail` among all receivers;
/// only `to` differs.
#[derive(Clone, Debug)]
pub struct Parcel {
    head: Bytes,
    to: Option<Jid>,
    tail: Bytes,
    kind: Kind,
    /// Shared by the copies of one message, for several sessions or on disk.
    fork: Option<Arc<Fork>>,
    /// When it came, if nobody was there to take it; 0: somebody was.
    waits_since: Millis,
    /// It is stored elsewhere until a client has it.
    kept: bool,
}

/// What the copies of one message share.
#[derive(Debug, Default)]
struct Fork {
    /// Whether a client has one.
    reached: AtomicBool,
    /// The copy on disk.
    flight: Option<Arc<Flight>>,
}

impl Parcel {
    /// A client's stanza, stamped with its true sender.
    #[must_use]
    pub fn stamped(frame: &Frame, from: &Jid, to: Option<&Jid>, lang: Option<&str>) -> Self {
        let stamp = Stamp { from: Some(from.as_str()), to: to.map(Jid::as_str), lang };
        let (head, tail) = frame.restamp(stamp);
        Self {
            head,
            to: None,
            tail,
            kind: frame.kind(),
            fork: None,
            waits_since: Millis(0),
            kept: false,
        }
    }

    /// A stanza that the server made, whole.
    #[must_use]
    pub fn whole(kind: Kind, xml: Bytes) -> Self {
        let tail = Bytes::new();
        Self { head: xml, to: None, tail, kind, fork: None, waits_since: Millis(0), kept: false }
    }

    /// One copy of a broadcast: `head` ends just after `to='`, `tail` starts with the closing quote.
    #[must_use]
    pub fn addressed(kind: Kind, head: Bytes, to: Jid, tail: Bytes) -> Self {
        Self { head, to: Some(to), tail, kind, fork: None, waits_since: Millis(0), kept: false }
    }

    /// The same as one of several copies: clones of it are for other sessions.
    #[must_use]
    pub fn forked(self) -> Self {
        match self.fork {
            Some(_) => self,
            None => Self { fork: Some(Arc::default()), ..self },
        }
    }

    /// The same, which is stored elsewhere until a client has it: it need not be written down.
    #[must_use]
    pub fn kept(self) -> Self {
        Self { kept: true, ..self }
    }

    /// Whether it is stored elsewhere until a client has it.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// The same, noted when it came: nobody is there to take it now.
    #[must_use]
    pub fn waiting_since(self, at: Millis) -> Self {
        Self { waits_since: self.waits_since().unwrap_or(at), ..self }
    }

    /// When it came, if nobody was there to take it.
    #[must_use]
    pub fn waits_since(&self) -> Option<Millis> {
        Some(self.waits_since).filter(|since| since.0 > 0)
    }

    /// The same, with a copy on disk that goes once a client has one.
    #[must_use]
    pub(crate) fn on_disk(self, flight: Option<Arc<Flight>>) -> Self {
        match flight {
            None => self,
            flight => Self { fork: Some(Arc::new(Fork { flight, ..Fork::default() })), ..self },
        }
    }

    /// Notes that there is a copy on disk.
    pub(crate) fn carry(&mut self, flight: Arc<Flight>) {
        let flight = Some(flight);
        self.fork = Some(Arc::new(Fork { flight, ..Fork::default() }));
    }

    /// The copy on disk.
    pub(crate) fn flight(&self) -> Option<Arc<Flight>> {
        self.fork.as_ref()?.flight.clone()
    }

    /// The same as one more copy of `other`, in another form: whoever gets this has that.
    #[must_use]
    pub fn alongside(self, other: &Self) -> Self {
        Self { fork: other.fork.clone(), ..self }
    }

    /// Notes that a connection has a copy, or that it does not matter whether one has.
    pub fn reached(&self) {
        if let Some(fork) = &self.fork {
            fork.reached.store(true, Ordering::Release);
            if let Some(flight) = &fork.flight {
                flight.landed();
            }
        }
    }

    /// Gives a copy up: whether another one has reached its client, or is still on its way. Of
    /// copies that are all given up, the last one hears that there is none. Never true for a parcel
    /// that was not forked.
    pub(crate) fn has_another_copy(&mut self) -> bool {
        match self.fork.take().map(Arc::into_inner) {
            None => false,
            Some(None) => true,
            Some(Some(fork)) => fork.reached.into_inner(),
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

/// So many presences alone are worth asking about.
const PRESENCES: usize = 20;

impl Managed {
    /// How many of the parcels that were sent `h` acknowledges.
    fn covered(&self, h: u32) -> Result<usize, TooHigh> {
        let count = usize::try_from(h.wrapping_sub(self.acked)).unwrap_or(usize::MAX);
        if count <= self.sent.len() {
            return Ok(count);
        }
        let sent = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        Err(TooHigh { h, sent: self.acked.wrapping_add(sent) })
    }

    /// Whether what is unacknowledged is worth a question.
    fn is_worth_asking(&self) -> bool {
        self.sent.len() >= PRESENCES || self.sent.iter().any(|p| p.kind != Kind::Presence)
    }

    /// Forgets what `h` acknowledges, and gives the bytes that it took.
    fn ack(&mut self, h: u32) -> Result<u32, TooHigh> {
        let count = self.covered(h)?;
        self.acked = h;
        Ok(self.sent.drain(..count).map(|parcel| parcel.arrived()).sum())
    }
}

impl Parcel {
    /// A client has it: no copy has to find another way. Gives its length.
    fn arrived(&self) -> u32 {
        self.reached();
        self.size()
    }

    fn size(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
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
            let waiting = u32::try_from(inner.queue.len()).unwrap_or(u32::MAX);
            let count = inner.managed.as_ref().map_or(0, |managed| {
                let sent = u32::try_from(managed.sent.len()).unwrap_or(u32::MAX);
                managed.acked.wrapping_add(sent).wrapping_add(waiting)
            });
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
                    worth |= parcel.kind != Kind::Presence;
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
        inner.taken = u32::try_from(sent.len()).unwrap_or(0);
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
        let managed = inner.managed.as_ref()?;
        Some(Counts { acked: managed.acked, handled: managed.handled })
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
        let open = u32::try_from(managed.sent.len()).unwrap_or(u32::MAX);
        let behind = inner.taken.wrapping_sub(open);
        // Less than half the range behind: see `passed`.
        let covered = |asked: u32| behind.wrapping_sub(asked) < u32::MAX / 2;
        let again = managed.asked.take().is_some_and(covered) && managed.is_worth_asking();
        if again {
            managed.asked = Some(inner.taken);
        }
        if managed.sent.is_empty() {
            managed.sent = VecDeque::new();
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
            inner.taken = inner.taken.wrapping_sub(u32::try_from(again.len()).unwrap_or(0));
            managed.asked = None;
            let counts = Counts { acked: managed.acked, handled: managed.handled };
            let waiting = std::mem::replace(&mut inner.queue, again);
            inner.queue.extend(waiting);
            inner.holder = Holder(inner.holder.0.wrapping_add(1));
            (inner.waker.take(), (inner.holder, counts))
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
            inner.holder = Holder(inner.holder.0.wrapping_add(1));
            (inner.waker.take(), inner.holder)
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
            counts: Counts { acked: managed.acked, handled: managed.handled },
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
        Mark(inner.taken.wrapping_add(u32::try_from(inner.queue.len()).unwrap_or(u32::MAX)))
    }

    /// Whether the connection has taken everything that waited when `mark` was made.
    #[must_use]
    pub fn passed(&self, mark: Mark) -> bool {
        // Less than half the range behind: the difference is never as large as that.
        self.inner.lock().taken.wrapping_sub(mark.0) < u32::MAX / 2
    }

    /// Whether all that waited when `mark` was made is the client's: acknowledged, if the stream is
    /// managed, else taken.
    #[must_use]
    pub fn handed_over(&self, mark: Mark) -> bool {
        let inner = self.inner.lock();
        let open = inner.managed.as_ref().map_or(0, |managed| managed.sent.len());
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        inner.taken.wrapping_sub(open).wrapping_sub(mark.0) < u32::MAX / 2
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
        mailbox.take(Holder::default(), 4, Waker::noop(), |p| p.pieces(|b| seen.push(b)));
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
        mailbox.take(Holder::default(), 1, Waker::noop(), |_| {});
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
        mailbox.take(Holder::default(), 9, Waker::noop(), drop);
        assert!(given_up.has_another_copy(), "a connection has it");
    }

    #[test]
    fn wakes_once_per_wait_and_nothing_enters_after_close() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mailbox = Mailbox::default();
        mailbox.take(Holder::default(), 1, &waker, |_| {});
        mailbox.push(parcel("a"), 9).expect("open");
        mailbox.push(parcel("b"), 9).expect("open");
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "one wake-up per wait");
        mailbox.close();
        assert!(matches!(mailbox.push(parcel("c"), 9), Err(Refused::Closed(_))));
        assert_eq!(mailbox.leftover().len(), 2);
        assert_eq!(mailbox.bytes(), 0);
    }

    /// Takes everything, and gives the texts.
    fn all(mailbox: &Mailbox, holder: Holder) -> (Take, Vec<Bytes>) {
        let mut seen = Vec::new();
        let take = mailbox.take(holder, 99, Waker::noop(), |p| p.pieces(|b| seen.push(b)));
        (take, seen)
    }

    #[test]
    fn what_is_not_acknowledged_stays_and_counts_against_the_limit() {
        let mailbox = Mailbox::default();
        let first = Holder::default();
        mailbox.push(parcel("before"), 99).expect("open");
        assert_eq!(all(&mailbox, first), (Take::Some { ask: false }, vec!["before".into()]));
        assert!(mailbox.manage() && !mailbox.manage());
        for text in ["a", "bb", "ccc"] {
            mailbox.push(parcel(text), 6).expect("there is room");
        }
        assert_eq!(all(&mailbox, first).0, Take::Some { ask: true });
        assert_eq!((mailbox.bytes(), mailbox.untaken(), mailbox.unacknowledged()), (6, 0, 3));
        assert!(matches!(mailbox.push(parcel("d"), 6), Err(Refused::Full(_))));
        assert_eq!(mailbox.ack(first, 4), Err(TooHigh { h: 4, sent: 3 }));
        assert_eq!(mailbox.ack(first, 2), Ok(Acked::Noted), "an answer, if not about all of them");
        mailbox.push(parcel("d"), 6).expect("there is room again");
        assert_eq!(mailbox.ack(first, 3), Ok(Acked::Noted));
        assert_eq!(all(&mailbox, first).0, Take::Some { ask: true });
        mailbox.push(parcel("e"), 6).expect("there is room");
        assert_eq!(all(&mailbox, first).0, Take::Some { ask: false }, "asked already");
        assert_eq!(mailbox.ack(first, 4), Ok(Acked::AskAgain), "about what was sent behind it");
        assert_eq!(mailbox.ack(first, 2), Err(TooHigh { h: 2, sent: 5 }), "it does not go back");
        assert_eq!(mailbox.leftover().len(), 1);
    }

    #[test]
    fn a_client_that_counts_less_than_it_gets_has_answered_and_is_asked_again() {
        let mailbox = Mailbox::default();
        mailbox.manage();
        for text in ["a", "b", "c"] {
            mailbox.push(parcel(text), 99).expect("open");
            assert_eq!(all(&mailbox, Holder::default()).0, Take::Some { ask: true }, "{text}");
            assert_eq!(mailbox.ack(Holder::default(), 0), Ok(Acked::Noted));
        }
        assert_eq!(mailbox.unacknowledged(), 3);
    }

    #[test]
    fn who_claims_the_stream_gets_what_was_not_handled_and_whoever_had_it_nothing() {
        let mailbox = Mailbox::default();
        let old = Holder::default();
        mailbox.manage();
        for text in ["a", "b", "c"] {
            mailbox.push(parcel(text), 99).expect("open");
        }
        assert_eq!(all(&mailbox, old).1, ["a", "b", "c"]);
        mailbox.push(parcel("d"), 99).expect("open");
        assert!(mailbox.receive(old));
        let too_high = Unclaimed::TooHigh(TooHigh { h: 4, sent: 3 });
        assert_eq!(mailbox.claim(4), Err(too_high));
        assert!(mailbox.receive(old), "a claim that fails changes nothing");
        let (new, counts) = mailbox.claim(1).expect("it may");
        assert_eq!(counts, Counts { acked: 1, handled: 2 });
        assert!(!mailbox.receive(old));
        assert_eq!(all(&mailbox, old), (Take::Displaced, vec![]));
        assert_eq!(all(&mailbox, new).1, ["b", "c", "d"]);
        assert_eq!((mailbox.ack(new, 4), mailbox.bytes()), (Ok(Acked::Noted), 0));
    }

    #[test]
    fn who_comes_back_after_a_restart_may_have_more_than_it_has_acknowledged() {
        let mailbox = Mailbox::default();
        let counts = Counts { acked: 5, handled: 0 };
        mailbox.restore(counts, ["a", "b"].map(parcel), ["c"].map(parcel));
        assert_eq!((mailbox.unacknowledged(), mailbox.bytes()), (2, 3));
        assert_eq!(mailbox.claim(8), Err(Unclaimed::TooHigh(TooHigh { h: 8, sent: 7 })));
        let (holder, _) = mailbox.claim(6).expect("it was sent that much");
        let mark = mailbox.mark();
        assert_eq!(all(&mailbox, holder).1, ["b", "c"]);
        assert!(mailbox.passed(mark) && !mailbox.handed_over(mark));
        assert_eq!((mailbox.ack(holder, 8), mailbox.bytes()), (Ok(Acked::Noted), 0));
        assert!(mailbox.handed_over(mark));
    }

    #[test]
    fn an_acknowledgement_that_a_claim_overtook_neither_counts_nor_is_too_high() {
        for (late, claimed) in [(2, 3), (3, 2)] {
            let mailbox = Mailbox::default();
            let old = Holder::default();
            mailbox.manage();
            for text in ["a", "b", "c"] {
                mailbox.push(parcel(text), 99).expect("open");
            }
            all(&mailbox, old);
            let (new, _) = mailbox.claim(claimed).expect("it may");
            assert_eq!(mailbox.ack(old, late), Ok(Acked::Displaced), "{late} behind {claimed}");
            assert_eq!(all(&mailbox, new).1.len(), 3 - usize::try_from(claimed).expect("few"));
        }
    }

    #[test]
    fn a_count_is_not_too_high_because_the_session_has_just_ended() {
        let mailbox = Mailbox::default();
        mailbox.manage();
        mailbox.push(parcel("a"), 99).expect("open");
        all(&mailbox, Holder::default());
        mailbox.close();
        assert_eq!(mailbox.leftover().len(), 1);
        assert_eq!(mailbox.claim(1), Err(Unclaimed::Closed));
    }

    #[test]
    fn t22_counts_wrap_at_two_to_the_32() {
        let mailbox = Mailbox::default();
        let counts = Counts { acked: u32::MAX, handled: u32::MAX };
        mailbox.restore(counts, [], ["a", "b"].map(parcel));
        let holder = mailbox.holder();
        assert!(mailbox.receive(holder));
        assert_eq!(mailbox.counts(), Some(Counts { acked: u32::MAX, handled: 0 }));
        assert_eq!(all(&mailbox, holder).1.len(), 2);
        assert_eq!(mailbox.ack(holder, 2), Err(TooHigh { h: 2, sent: 1 }));
        assert_eq!(mailbox.ack(holder, 1), Ok(Acked::Noted));
        assert_eq!(mailbox.bytes(), 0);
    }

    #[test]
    fn a_copy_that_was_sent_and_not_acknowledged_has_not_reached_its_client() {
        let mailbox = Mailbox::default();
        mailbox.manage();
        mailbox.push(parcel("a").forked(), 9).expect("open");
        mailbox.take(Holder::default(), 9, Waker::noop(), drop);
        mailbox.close();
        let mut left = mailbox.leftover();
        assert!(!left.pop().expect("it is kept").has_another_copy());
    }

    proptest::proptest! {
        /// Against the simplest model there is: a list of all that was pushed, and how far the client
        /// has come in it.
        #[test]
        fn m1_m3_a_client_that_resumes_gets_each_parcel_once_and_in_order(
            acts in proptest::collection::vec((0u8..6, 0u8..8), 0..80),
            start in proptest::prelude::any::<u32>(),
        ) {
            let mut mailbox = Mailbox::default();
            mailbox.restore(Counts { acked: start, handled: start }, [], []);
            let (mut holder, mut next) = (mailbox.holder(), 0u32);
            // What the client has on its side: handled ones for good, and those still on the way.
            let (mut handled, mut way): (Vec<u32>, VecDeque<u32>) = Default::default();
            for (act, count) in acts {
                match act {
                    0 | 1 => for _ in 0..count {
                        let xml = Bytes::from(next.to_string());
                        mailbox.push(Parcel::whole(Kind::Message, xml), usize::MAX).expect("open");
                        next += 1;
                    },
                    2 => {
                        let sent = |parcel: Parcel| parcel.pieces(|piece| {
                            let text = std::str::from_utf8(&piece).expect("a number");
                            way.push_back(text.parse().expect("a number"));
                        });
                        mailbox.take(holder, usize::from(count) + 1, Waker::noop(), sent);
                    }
                    3 => {
                        for _ in 0..count.min(u8::try_from(way.len()).unwrap_or(u8::MAX)) {
                            handled.extend(way.pop_front());
                        }
                        // One that has not come before the connection breaks.
                        if count == 7 {
                            continue;
                        }
                        let h = start.wrapping_add(u32::try_from(handled.len()).expect("few"));
                        mailbox.ack(holder, h).expect("was sent");
                    }
                    act => {
                        way.clear();
                        if act == 5 {
                            // The server stops, and another one goes on.
                            let now = mailbox.snapshot().expect("managed");
                            mailbox = Mailbox::default();
                            mailbox.restore(now.counts, now.sent, now.waiting);
                        }
                        let h = start.wrapping_add(u32::try_from(handled.len()).expect("few"));
                        holder = mailbox.claim(h).expect("was sent").0;
                    }
                }
                let bytes: usize = mailbox.snapshot().iter().flat_map(|now| now.sent.iter().chain(&now.waiting)).map(Parcel::len).sum();
                proptest::prop_assert_eq!(mailbox.bytes(), bytes);
            }
            let expected: Vec<u32> = (0..next).collect();
            let h = start.wrapping_add(u32::try_from(handled.len()).expect("few"));
            mailbox.ack(holder, h).expect("was sent");
            let left: Vec<u32> = mailbox.leftover().into_iter().map(|parcel| {
                let mut number = 0;
                parcel.pieces(|piece| {
                    number = std::str::from_utf8(&piece).expect("a number").parse().expect("one");
                });
                number
            }).collect();
            let seen: Vec<u32> = handled.into_iter().chain(left).collect();
            proptest::prop_assert_eq!(seen, expected);
        }
    }
}
