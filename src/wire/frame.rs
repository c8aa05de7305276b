//! One validated first-level element: its bytes, and where its parts are.
//!
//! A frame is what is routed, queued and stored. It is complete by itself under
//! `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`, so it
//! can be written to any client stream as it stands. It is never changed; what looks like a change
//! makes a new one, sharing the bytes where it can. Rules of RFC 6120 8 are not applied here.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::el::El;
use crate::scanner::header::Scope;
use crate::scanner::machine::{Done, Machine};
use crate::scanner::span::{Head, Prefix, Span};
use crate::scanner::{Limits, ScanError};
use crate::{chars, ns};

/// A validated first-level element. Cloning counts a reference.
#[derive(Clone)]
pub struct Frame {
    bytes: Bytes,
    pub(crate) head: Head,
    ns: Namespace,
    kind: Kind,
    children: u32,
    /// The `<` of the first child element; 0 if there is none.
    first: u32,
    /// Declarations of prefixes, if there are any at all, in document order.
    prefixes: Option<Arc<[Prefix]>>,
}

/// Which of the three stanzas of RFC 6120 8 a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `<iq/>`
    Iq,
    /// `<message/>`
    Message,
    /// Not a stanza in `jabber:client`.
    Other,
    /// `<presence/>`
    Presence,
}

/// The first child element of a stanza.
#[derive(Clone, Copy)]
pub struct Payload<'a> {
    /// Its local name.
    pub local: &'a str,
    /// Its namespace.
    pub ns: &'a str,
    /// The element itself.
    pub el: El<'a>,
}

#[derive(Clone)]
enum Namespace {
    Known(&'static str),
    Raw(Span),
    /// A declaration with references in it, resolved.
    Resolved(Arc<str>),
}

impl Frame {
    /// Reads one complete element, in `jabber:client` unless it says otherwise. White space around
    /// it is dropped. For storage, for what this server wrote, and for transports that frame by
    /// themselves; no limits but the representation's apply.
    pub fn parse(bytes: impl Into<Bytes>) -> Result<Self, ScanError> {
        Self::parse_within(bytes, &Limits::MAX)
    }

    /// Like [`parse`](Self::parse), with limits: for input that was not scanned before.
    pub fn parse_within(bytes: impl Into<Bytes>, limits: &Limits) -> Result<Self, ScanError> {
        let bytes = bytes.into();
        let start = chars::skip(&bytes, 0, chars::SPACE);
        let space = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
        let end = bytes.iter().rposition(|b| !space(b)).map_or(start, |last| last + 1);
        let bytes = bytes.slice(start..end);
        if bytes.len() > limits.bytes.min(u32::MAX as usize) {
            return Err(ScanError::TooLarge { what: "bytes", limit: limits.bytes });
        }
        if bytes.first() != Some(&b'<') {
            return Err(ScanError::NotWellFormed("element expected"));
        }
        let mut machine = Machine::stanza();
        match machine.run(&bytes, limits, &Scope::ORDINARY)? {
            Some(Done::Stanza { end }) if end == bytes.len() => Ok(Self::assemble(bytes, &machine)),
            Some(Done::Stanza { .. }) => Err(ScanError::NotWellFormed("more than one element")),
            Some(_) => Err(ScanError::NotWellFormed("end tag before a start")),
            None => Err(ScanError::NotWellFormed("incomplete element")),
        }
    }

    /// A frame of `bytes`, which `machine` has just read to the end, in a scope where they are
    /// complete.
    pub(crate) fn assemble(bytes: Bytes, machine: &Machine) -> Self {
        let head = machine.head;
        let ns = match head.name.prefix().of(&bytes) {
            b"" if head.default.is_none() => Namespace::Known(ns::CLIENT),
            b"" => Namespace::of(&bytes, head.default),
            prefix => {
                let own = |p: &&Prefix| p.scope.start == 0 && p.name.of(&bytes) == prefix;
                match machine.prefixes.iter().find(own) {
                    Some(declared) => Namespace::of(&bytes, declared.uri),
                    None if prefix == b"xml" => Namespace::Known(ns::XML),
                    None => Namespace::Known(ns::STREAMS),
                }
            }
        };
        let kind = match (head.name.local().of(&bytes), ns.text(&bytes)) {
            (b"message", ns::CLIENT) => Kind::Message,
            (b"presence", ns::CLIENT) => Kind::Presence,
            (b"iq", ns::CLIENT) => Kind::Iq,
            _ => Kind::Other,
        };
        let prefixes = (!machine.prefixes.is_empty()).then(|| machine.prefixes.as_slice().into());
        let (children, first) = (machine.children, machine.first);
        Self { bytes, head, ns, kind, children, first, prefixes }
    }

    /// The element as it stands.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Which stanza this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The local name of the element.
    pub fn local(&self) -> &str {
        self.head.name.local().text(&self.bytes)
    }

    /// The namespace of the element; empty for none.
    pub fn ns(&self) -> &str {
        self.ns.text(&self.bytes)
    }

    /// The attribute `to`.
    pub fn to(&self) -> Option<Cow<'_, str>> {
        self.value(self.head.to)
    }

    /// The attribute `from`.
    pub fn from(&self) -> Option<Cow<'_, str>> {
        self.value(self.head.from)
    }

    /// The attribute `id`.
    pub fn id(&self) -> Option<Cow<'_, str>> {
        self.value(self.head.id)
    }

    /// The attribute `type`.
    pub fn typ(&self) -> Option<Cow<'_, str>> {
        self.value(self.head.typ)
    }

    /// The attribute `xml:lang`, of the element itself.
    pub fn lang(&self) -> Option<Cow<'_, str>> {
        self.value(self.head.lang)
    }

    /// The first child element.
    pub fn payload(&self) -> Option<Payload<'_>> {
        if self.first == 0 {
            return None;
        }
        let el = El::child_at(&self.root(), self.first as usize);
        Some(Payload { local: el.local(), ns: el.ns_raw(), el })
    }

    /// How many child elements there are.
    pub fn children(&self) -> usize {
        self.children as usize
    }

    /// The element as a tree to look into.
    pub fn root(&self) -> El<'_> {
        El::root(self)
    }

    /// Whether the bytes contain `needle`: a cheap check before a careful one.
    pub fn contains(&self, needle: &[u8]) -> bool {
        memchr::memmem::find(&self.bytes, needle).is_some()
    }

    /// This stanza with other children and so other bytes, but the same start tag.
    pub(crate) fn recut(
        &self,
        bytes: Bytes,
        children: u32,
        first: u32,
        prefixes: Vec<Prefix>,
    ) -> Self {
        let prefixes = (!prefixes.is_empty()).then(|| prefixes.into());
        Self { bytes, children, first, prefixes, ..self.clone() }
    }

    pub(crate) fn prefixes(&self) -> &[Prefix] {
        self.prefixes.as_deref().unwrap_or_default()
    }

    fn value(&self, span: Span) -> Option<Cow<'_, str>> {
        (!span.is_none()).then(|| chars::attribute_value(span.text(&self.bytes)))
    }
}

/// Shows what kind of element it is and its size, never its content.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (local, ns, len) = (self.local(), self.ns(), self.bytes.len());
        f.debug_struct("Frame").field("local", &local).field("ns", &ns).field("len", &len).finish()
    }
}

impl Payload<'_> {
    /// How many child elements the stanza has, this one included.
    pub fn children(&self) -> usize {
        self.el.frame().children()
    }
}

impl Namespace {
    fn of(bytes: &[u8], span: Span) -> Self {
        if span.of(bytes) == ns::CLIENT.as_bytes() {
            return Self::Known(ns::CLIENT);
        }
        match chars::attribute_value(span.text(bytes)) {
            Cow::Borrowed(_) => Self::Raw(span),
            Cow::Owned(value) => Self::Resolved(value.into()),
        }
    }

    fn text<'a>(&'a self, bytes: &'a [u8]) -> &'a str {
        match self {
            Self::Known(ns) => ns,
            Self::Raw(span) => span.text(bytes),
            Self::Resolved(ns) => ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_element_is_a_frame() {
        for bad in [
            "",
            "x",
            "<a>",
            "<a/><b/>",
            "<a/>x",
            "</a>",
            "</stream:stream>",
            "<!-- -->",
            "\x0c<a/>",
            "<a/>\x0c",
        ] {
            assert!(Frame::parse(bad).is_err(), "{bad}");
        }
        assert!(Frame::parse(" \n").is_err());
        assert_eq!(Frame::parse(" <a/>\n").unwrap().bytes(), "<a/>");
    }

    #[test]
    fn limits_apply_where_they_are_given() {
        let limits = Limits { bytes: 8, elements: 1, ..Limits::MAX };
        assert!(Frame::parse_within("<a>x</a>", &limits).is_ok());
        assert!(matches!(
            Frame::parse_within("<a>xy</a>", &limits),
            Err(ScanError::TooLarge { what: "bytes", .. })
        ));
        assert!(matches!(
            Frame::parse_within("<a><b/>", &limits),
            Err(ScanError::TooLarge { what: "elements", .. })
        ));
    }

    #[test]
    fn debug_output_shows_no_content() {
        let frame = Frame::parse("<auth xmlns='urn:x' a='secret'>secret</auth>").unwrap();
        assert_eq!(format!("{frame:?}"), r#"Frame { local: "auth", ns: "urn:x", len: 44 }"#);
    }

    #[test]
    fn an_unescaped_value_is_borrowed() {
        let frame = Frame::parse("<a to='x&amp;y' from='z'/>").unwrap();
        assert!(matches!(frame.from(), Some(Cow::Borrowed("z"))));
        assert!(matches!(frame.to(), Some(Cow::Owned(value)) if value == "x&y"));
    }
}
