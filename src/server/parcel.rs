//! One stanza in a mailbox, and what its copies share: whether a client has one, and the copy on disk.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use wire::{Frame, Jid, Kind, Stamp};

use crate::{clock::Millis, journal::Flight};

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

    /// A client has it: no copy has to find another way. Gives its length.
    pub(crate) fn arrived(&self) -> u32 {
        self.reached();
        self.size()
    }

    /// Its length as it counts against a limit.
    pub(crate) fn size(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }
}
