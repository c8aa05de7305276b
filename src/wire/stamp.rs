//! New start tags for old stanzas: stamping, broadcasting, adding and dropping children.
//!
//! The body of a stanza is never copied by a stamp: a new head is written, the tail is a slice of
//! the frame. Attributes that are not stamped keep their bytes and their order.

use std::borrow::Cow;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::chars::escape;
use crate::el::El;
use crate::frame::Frame;
use crate::scanner::span::{Prefix, Span};

/// What [`Frame::restamp`] writes into the start tag. `None` leaves things as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamp<'a> {
    /// The new `from`.
    pub from: Option<&'a str>,
    /// The new `to`.
    pub to: Option<&'a str>,
    /// The language of a stanza that does not name its own.
    pub lang: Option<&'a str>,
}

impl Frame {
    /// The stanza under a new start tag: the tag, and the rest as a slice of the same buffer, which
    /// is empty for an empty-element tag.
    pub fn restamp(&self, stamp: Stamp<'_>) -> (Bytes, Bytes) {
        let mut head = Head::new(self);
        head.set("from", self.head.from, stamp.from);
        head.set("to", self.head.to, stamp.to);
        if self.head.lang.is_none() {
            head.set("xml:lang", Span::default(), stamp.lang);
        }
        let mut out = head.write(2);
        let end = self.head.insert as usize..self.head_end();
        out.extend_from_slice(self.bytes().get(end).unwrap_or_default());
        (out.into(), self.bytes().slice(self.head_end()..))
    }

    /// The stanza split where the value of `to` goes: the first part ends in `to='`, the second
    /// begins with `'`. Each receiver gets the first, its address escaped, and the second.
    pub fn broadcast(&self, from: &str, lang: Option<&str>) -> (Bytes, Bytes) {
        let mut head = Head::new(self);
        head.set("from", self.head.from, Some(from));
        head.remove(self.head.to);
        if self.head.lang.is_none() {
            head.set("xml:lang", Span::default(), lang);
        }
        let mut first = head.write(5);
        first.extend_from_slice(b" to='");
        let rest = self.bytes().get(self.head.insert as usize..).unwrap_or_default();
        let mut second = Vec::with_capacity(rest.len() + 1);
        second.push(b'\'');
        second.extend_from_slice(rest);
        (first.into(), second.into())
    }

    /// The stanza without the first-level children that `drop` picks.
    pub fn without_children(&self, drop: impl Fn(&El<'_>) -> bool) -> Self {
        let (dropped, kept): (Vec<_>, Vec<_>) = self.root().children().partition(drop);
        if dropped.is_empty() {
            return self.clone();
        }
        let bytes = self.bytes();
        let mut cut = Cut { out: Vec::with_capacity(bytes.len()), pieces: Vec::new() };
        let mut pos = 0;
        for child in &dropped {
            cut.keep(bytes, pos, child.start());
            pos = child.end();
        }
        cut.keep(bytes, pos, bytes.len());
        let first = kept.first().map_or(0, |child| cut.moved(child.start() as u32));
        let gone = |p: &Prefix| {
            let at = p.scope.start as usize;
            dropped.iter().any(|child| child.start() <= at && at < child.end())
        };
        let moved = |p: &Prefix| Prefix {
            name: cut.moved_span(p.name),
            uri: cut.moved_span(p.uri),
            scope: cut.moved_span(p.scope),
        };
        let prefixes = self.prefixes().iter().filter(|p| !gone(p)).map(moved).collect();
        self.recut(cut.out.into(), kept.len() as u32, first, prefixes)
    }

    /// The stanza with `xml` added behind its other children: well-formed, self-contained elements.
    /// Anything else is a defect of the caller, and adds nothing.
    pub fn with_children(&self, xml: &[u8]) -> Self {
        if xml.is_empty() {
            return self.clone();
        }
        let bytes = self.bytes();
        let mut out = Vec::with_capacity(bytes.len() + xml.len() + 16);
        if bytes.get(self.head.insert as usize) == Some(&b'/') {
            out.extend_from_slice(bytes.get(..self.head.insert as usize).unwrap_or_default());
            out.push(b'>');
            out.extend_from_slice(xml);
            out.extend_from_slice(b"</");
            out.extend_from_slice(self.head.name.whole.of(bytes));
            out.push(b'>');
        } else {
            let end_tag = memchr::memrchr(b'<', bytes).unwrap_or(bytes.len());
            let (content, end_tag) = bytes.split_at(end_tag);
            out.extend_from_slice(content);
            out.extend_from_slice(xml);
            out.extend_from_slice(end_tag);
        }
        let read = Self::parse(out);
        debug_assert!(read.is_ok(), "children that are not well-formed: {read:?}");
        read.unwrap_or_else(|_| self.clone())
    }

    /// Offset of the first byte behind the start tag.
    fn head_end(&self) -> usize {
        let insert = self.head.insert as usize;
        insert + 1 + usize::from(self.bytes().get(insert) == Some(&b'/'))
    }
}

/// A start tag being rewritten: what to put in place of which bytes, in order.
struct Head<'a> {
    frame: &'a Frame,
    edits: SmallVec<[(Span, Cow<'a, str>); 3]>,
    added: SmallVec<[(&'static str, &'a str); 3]>,
}

impl<'a> Head<'a> {
    fn new(frame: &'a Frame) -> Self {
        Self { frame, edits: SmallVec::new(), added: SmallVec::new() }
    }

    /// Gives the attribute whose value is at `old`, or a new one, the value `new`.
    fn set(&mut self, name: &'static str, old: Span, new: Option<&'a str>) {
        match new {
            None => {}
            Some(new) if old.is_none() => self.added.push((name, new)),
            Some(new) => self.edits.push((old, escape(new))),
        }
    }

    /// Takes out the attribute whose value is at `value`, with the white space before it.
    fn remove(&mut self, value: Span) {
        if value.is_none() {
            return;
        }
        let before = self.frame.bytes().get(..value.start as usize).unwrap_or_default();
        // Back over the quote, the `=` and the name, and the white space around them.
        let before = before.get(..before.len().saturating_sub(1)).unwrap_or_default();
        let before = before.trim_ascii_end();
        let before = before.strip_suffix(b"=").unwrap_or(before).trim_ascii_end();
        let name = before.iter().rposition(u8::is_ascii_whitespace).unwrap_or(0);
        let start = before.get(..name).unwrap_or_default().trim_ascii_end().len();
        self.edits.push((Span::new(start, value.end as usize + 1), Cow::Borrowed("")));
    }

    /// The tag up to where it ends with `>` or `/>`.
    fn write(mut self, extra: usize) -> Vec<u8> {
        let bytes = self.frame.bytes();
        let insert = self.frame.head.insert as usize;
        let grown: usize = self.edits.iter().map(|(_, new)| new.len()).sum();
        let added: usize =
            self.added.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut out = Vec::with_capacity(insert + grown + added + extra);
        self.edits.sort_unstable_by_key(|(span, _)| span.start);
        let mut pos = 0;
        for (span, new) in &self.edits {
            out.extend_from_slice(bytes.get(pos..span.start as usize).unwrap_or_default());
            out.extend_from_slice(new.as_bytes());
            pos = span.end as usize;
        }
        out.extend_from_slice(bytes.get(pos..insert).unwrap_or_default());
        for (name, value) in &self.added {
            out.push(b' ');
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"='");
            out.extend_from_slice(escape(value).as_bytes());
            out.push(b'\'');
        }
        out
    }
}

/// A copy with pieces missing, and where the others went.
struct Cut {
    out: Vec<u8>,
    /// Old and new offset of each piece kept, in order.
    pieces: Vec<(u32, u32)>,
}

impl Cut {
    fn keep(&mut self, bytes: &[u8], start: usize, end: usize) {
        let piece = bytes.get(start..end).unwrap_or_default();
        // What stood between two runs of text is gone: together they must not read `]]>`.
        if self.out.ends_with(b"]") && matches!(piece.first(), Some(b']' | b'>')) {
            self.out.extend_from_slice(b"<![CDATA[]]>");
        }
        self.pieces.push((start as u32, self.out.len() as u32));
        self.out.extend_from_slice(piece);
    }

    fn moved(&self, offset: u32) -> u32 {
        let piece = self.pieces.iter().rev().find(|(old, _)| *old <= offset);
        piece.map_or(offset, |(old, new)| offset - old + new)
    }

    /// An end is moved with the last byte before it, which is in the same piece.
    fn moved_span(&self, span: Span) -> Span {
        let end = self.moved(span.end.saturating_sub(1)) + 1;
        Span { start: self.moved(span.start), end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restamped(xml: &str, stamp: Stamp<'_>) -> String {
        let (head, tail) = Frame::parse(xml.to_owned()).unwrap().restamp(stamp);
        String::from_utf8([head, tail].concat()).unwrap()
    }

    #[test]
    fn attributes_keep_their_order_and_bytes() {
        let stamp = Stamp { from: Some("a@b/<c>"), to: None, lang: Some("en") };
        assert_eq!(
            restamped("<message id = \"&#10;'\" from=\"x\"\n to='y' ><body/></message>", stamp),
            "<message id = \"&#10;'\" from=\"a@b/&lt;c&gt;\"\n to='y'  xml:lang='en'><body/></message>"
        );
        assert_eq!(
            restamped("<presence xml:lang='de'/>", stamp),
            "<presence xml:lang='de' from='a@b/&lt;c&gt;'/>"
        );
        let to = Stamp { to: Some("new"), ..Stamp::default() };
        assert_eq!(restamped("<iq to=''/>", to), "<iq to='new'/>");
        assert_eq!(restamped("<iq>x</iq>", to), "<iq to='new'>x</iq>");
        assert_eq!(restamped("<iq/>", Stamp::default()), "<iq/>");
    }

    #[test]
    fn the_tail_is_not_copied() {
        let frame = Frame::parse("<message to='a'><body>x</body></message>").unwrap();
        let (_, tail) = frame.restamp(Stamp { from: Some("b"), ..Stamp::default() });
        assert_eq!(tail, "<body>x</body></message>");
        assert_eq!(tail.as_ptr(), frame.bytes()[16..].as_ptr());
        let empty = Frame::parse("<presence/>").unwrap();
        assert!(empty.restamp(Stamp::default()).1.is_empty());
    }

    #[test]
    fn a_broadcast_is_split_at_to() {
        for (xml, first, second) in [
            ("<presence/>", "<presence from='f' to='", "'/>"),
            ("<presence to='x'/>", "<presence from='f' to='", "'/>"),
            (
                "<presence\n to = \"x\" from='y' id='z'>a</presence>",
                "<presence from='f' id='z' to='",
                "'>a</presence>",
            ),
        ] {
            let (before, behind) = Frame::parse(xml).unwrap().broadcast("f", None);
            assert_eq!((&before[..], &behind[..]), (first.as_bytes(), second.as_bytes()));
        }
    }

    #[test]
    fn dropping_a_child_does_not_join_text_to_an_end_of_cdata() {
        for (xml, less) in [
            ("<a>]]<b/>></a>", "<a>]]<![CDATA[]]>></a>"),
            ("<a>]<b/>]<b/>></a>", "<a>]<![CDATA[]]>]<![CDATA[]]>></a>"),
            ("<a>x<b/>y</a>", "<a>xy</a>"),
        ] {
            let frame = Frame::parse(xml).unwrap().without_children(|el| el.local() == "b");
            assert_eq!(frame.bytes(), less);
            assert_eq!(Frame::parse(less).unwrap().root().text(), frame.root().text());
        }
    }

    #[test]
    fn dropping_nothing_shares_the_buffer() {
        let frame = Frame::parse("<a><b/></a>").unwrap();
        let same = frame.without_children(|el| el.local() == "c");
        assert_eq!(same.bytes().as_ptr(), frame.bytes().as_ptr());
    }

    #[test]
    fn prefixes_still_resolve_behind_a_dropped_child() {
        let xml = "<a xmlns:p='urn:p'><b xmlns:p='urn:q'/><p:c/><d xmlns:r='urn:r'><r:e/></d></a>";
        let frame = Frame::parse(xml).unwrap().without_children(|el| el.local() == "b");
        let root = frame.root();
        assert!(root.child("c", "urn:p").is_some());
        assert!(root.child("d", "jabber:client").unwrap().child("e", "urn:r").is_some());
        assert_eq!(frame.payload().unwrap().local, "c");
        assert_eq!(frame.children(), 2);
    }

    #[test]
    fn children_are_added_to_empty_elements_too() {
        let frame = Frame::parse("<a id='1' />").unwrap().with_children(b"<b/><c/>");
        assert_eq!(frame.bytes(), "<a id='1' ><b/><c/></a>");
        let frame = Frame::parse("<a>x</a >").unwrap().with_children(b"<b/>");
        assert_eq!(frame.bytes(), "<a>x<b/></a >");
    }
}
