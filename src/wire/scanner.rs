//! Resumable validation and framing of an XML stream (RFC 6120 4, 11; XML 1.0; Namespaces in XML).
//!
//! Bytes go in as they come from the network, complete events come out. Everything that XML or
//! RFC 6120 11.1 forbids is refused here, once, so that a [`Frame`] can be forwarded as it stands.
//! The verdict depends on the bytes alone, never on how they were cut. What an element means, and
//! whether a namespace is the right one, is not decided here.
//!
//! An idle scanner is 32 bytes: limits are copied in, packed; the state of an incomplete element,
//! and a stream header out of the ordinary, are boxed and exist only while needed.

mod declaration;
mod error;
pub(crate) mod header;
pub(crate) mod machine;
mod names;
pub(crate) mod span;

pub use error::ScanError;
pub use header::StreamHeader;

use bytes::Bytes;

use crate::frame::Frame;
use header::{Inherited, Scope};
use machine::{Done, Machine};

/// What a peer may send, checked while it is read. One record for each phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a stream header with its prolog, or of a first-level element. At most `u32::MAX`.
    pub bytes: usize,
    /// Elements in a first-level element, itself included.
    pub elements: u32,
    /// Elements open at once, the first-level element included.
    pub depth: u16,
    /// Attributes of one element, namespace declarations included.
    pub attributes: u16,
    /// Namespace declarations in a first-level element, or in a stream header.
    pub namespaces: u16,
}

impl Limits {
    /// No limit but those of the representation: for what this server wrote itself.
    pub const MAX: Self = Self {
        bytes: u32::MAX as usize,
        elements: u32::MAX,
        depth: u16::MAX,
        attributes: u16::MAX,
        namespaces: u16::MAX,
    };
}

/// What a [`Scanner`] found.
#[derive(Clone, Debug)]
pub enum Event {
    /// The stream header.
    Open(StreamHeader),
    /// A first-level element.
    Stanza(Frame),
    /// The end tag of the stream. What follows it is ignored.
    Close,
}

/// The scanner of one stream, and of those that follow it on the same connection.
#[derive(Debug)]
pub struct Scanner {
    partial: Option<Box<Partial>>,
    /// What the stream header declared, if it was not the usual one.
    inherited: Option<Box<Inherited>>,
    bytes: u32,
    elements: u32,
    depth: u16,
    attributes: u16,
    namespaces: u16,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing of the stream was seen.
    Start,
    /// The same after a restart: white space behind the last element of the old stream is skipped.
    Restarted,
    /// White space was seen, so that an XML declaration can no longer come.
    Prolog,
    /// Inside the stream.
    Body,
    /// The header was an empty-element tag, of which only the `>` is missing.
    EmptyRoot,
    /// Closed, or refused: everything is ignored.
    Over,
}

/// An incomplete element: its bytes so far and where the machine stands.
#[derive(Debug)]
struct Partial {
    buf: Vec<u8>,
    machine: Machine,
}

impl Scanner {
    /// A scanner that expects a stream header.
    pub fn new(limits: Limits) -> Self {
        let mut scanner = Self {
            partial: None,
            inherited: None,
            bytes: 0,
            elements: 0,
            depth: 0,
            attributes: 0,
            namespaces: 0,
            phase: Phase::Start,
        };
        scanner.set_limits(limits);
        scanner
    }

    /// Replaces all limits, from the next byte on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.bytes = limits.bytes.try_into().unwrap_or(u32::MAX);
        self.elements = limits.elements;
        self.depth = limits.depth;
        self.attributes = limits.attributes;
        self.namespaces = limits.namespaces;
    }

    /// Expects a new stream header, as after STARTTLS and SASL, and forgets bytes kept so far.
    pub fn restart(&mut self) {
        self.partial = None;
        self.inherited = None;
        self.phase = Phase::Restarted;
    }

    /// Scans `input` up to the end of the first event: how many bytes were taken, and the event.
    /// To be called again with the rest; without an event, all of `input` was taken.
    ///
    /// White space between stanzas is skipped. After the end of the stream, or after an error, all
    /// input is skipped until [`restart`](Self::restart).
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), ScanError> {
        let found = match self.partial.take() {
            Some(partial) => self.resume(partial, input),
            None => self.begin(input),
        };
        if found.is_err() {
            self.phase = Phase::Over;
        }
        found
    }

    /// Bytes of an incomplete element or header that are kept inside.
    pub fn buffered(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.buf.len())
    }

    /// The usual case: nothing is kept, and what is complete in `input` is copied once.
    fn begin(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), ScanError> {
        let mut start = 0;
        if self.phase != Phase::EmptyRoot && self.phase != Phase::Over {
            start = crate::chars::skip(input, 0, crate::chars::SPACE);
            if start > 0 && self.phase == Phase::Start {
                self.phase = Phase::Prolog;
            }
        }
        let rest = input.get(start..).unwrap_or_default();
        let Some(&first) = rest.first() else {
            return Ok((input.len(), None));
        };
        let mut machine = match self.phase {
            Phase::Over => return Ok((input.len(), None)),
            Phase::EmptyRoot if first == b'>' => {
                self.phase = Phase::Over;
                return Ok((1, Some(Event::Close)));
            }
            Phase::EmptyRoot => return Err(ScanError::NotWellFormed("`>` expected")),
            Phase::Body if first != b'<' => {
                return Err(ScanError::NotWellFormed("text directly under the stream root"));
            }
            Phase::Body => Machine::stanza(),
            Phase::Start | Phase::Restarted => Machine::header(true),
            Phase::Prolog => Machine::header(false),
        };
        let limits = self.limits();
        let capped = rest.get(..limits.bytes).unwrap_or(rest);
        let Some(done) = machine.run(capped, &limits, &self.scope())? else {
            if capped.len() < rest.len() {
                return Err(ScanError::TooLarge { what: "bytes", limit: limits.bytes });
            }
            self.partial = Some(Box::new(Partial { buf: capped.to_vec(), machine }));
            return Ok((input.len(), None));
        };
        let (end, event) = self.event(done, &machine, capped, || {
            Bytes::copy_from_slice(capped.get(..end_of(done)).unwrap_or_default())
        })?;
        Ok((start + end, Some(event)))
    }

    /// Goes on with what is kept.
    fn resume(
        &mut self,
        mut partial: Box<Partial>,
        input: &[u8],
    ) -> Result<(usize, Option<Event>), ScanError> {
        let limits = self.limits();
        let before = partial.buf.len();
        let taken = input.get(..limits.bytes.saturating_sub(before)).unwrap_or(input);
        partial.buf.extend_from_slice(taken);
        let Partial { buf, machine } = &mut *partial;
        let Some(done) = machine.run(buf, &limits, &self.scope())? else {
            if taken.len() < input.len() {
                return Err(ScanError::TooLarge { what: "bytes", limit: limits.bytes });
            }
            self.partial = Some(partial);
            return Ok((input.len(), None));
        };
        let (end, event) = self.event(done, machine, buf, || {
            Bytes::copy_from_slice(buf.get(..end_of(done)).unwrap_or_default())
        })?;
        Ok((end.saturating_sub(before), Some(event)))
    }

    fn event(
        &mut self,
        done: Done,
        machine: &Machine,
        buf: &[u8],
        bytes: impl FnOnce() -> Bytes,
    ) -> Result<(usize, Event), ScanError> {
        match done {
            Done::Header { end, empty } => {
                let (header, inherited) = header::read(machine, buf);
                if inherited.as_ref().is_some_and(|kept| kept.bytes() > Inherited::MAX) {
                    let what = "bytes of declarations in the stream header";
                    return Err(ScanError::TooLarge { what, limit: Inherited::MAX });
                }
                self.inherited = inherited;
                self.phase = if empty { Phase::EmptyRoot } else { Phase::Body };
                Ok((end, Event::Open(header)))
            }
            Done::Stanza { end } => match self.scope().complete(machine, buf, end) {
                Some(completed) => Ok((end, Event::Stanza(Frame::parse(completed)?))),
                None => Ok((end, Event::Stanza(Frame::assemble(bytes(), machine)))),
            },
            Done::Close { end } => {
                self.phase = Phase::Over;
                Ok((end, Event::Close))
            }
        }
    }

    fn scope(&self) -> Scope<'_> {
        Scope::new(self.inherited.as_deref())
    }

    fn limits(&self) -> Limits {
        Limits {
            bytes: self.bytes as usize,
            elements: self.elements,
            depth: self.depth,
            attributes: self.attributes,
            namespaces: self.namespaces,
        }
    }
}

fn end_of(done: Done) -> usize {
    match done {
        Done::Header { end, .. } | Done::Stanza { end } | Done::Close { end } => end,
    }
}

#[cfg(test)]
use crate as subject;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;
