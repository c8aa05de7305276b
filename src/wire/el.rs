//! A read-only view of an element inside a frame.
//!
//! It slices the frame's bytes instead of running a general parser over them: they were validated
//! on entry, so finding a tag's end is a search for `>` outside quotes. Nothing is built; each call
//! walks what it needs. It does not validate, and it does not change anything.

use std::borrow::Cow;

use bytes::Bytes;

use crate::frame::Frame;
use crate::scanner::span::Span;
use crate::{chars, ns};

/// An element, borrowed from its [`Frame`].
#[derive(Clone, Copy)]
pub struct El<'a> {
    frame: &'a Frame,
    /// Offset of its `<`.
    start: usize,
    /// Offset of the first byte behind its start tag.
    content: usize,
    /// Where the qualified name ends.
    name_end: usize,
    /// Whether the start tag is all of it.
    empty: bool,
    /// The default namespace in scope, as it is written.
    default: &'a str,
}

impl<'a> El<'a> {
    /// The local name.
    pub fn local(&self) -> &'a str {
        let name = self.name();
        name.split_once(':').map_or(name, |(_, local)| local)
    }

    /// The namespace; empty for none.
    pub fn ns(&self) -> Cow<'a, str> {
        chars::attribute_value(self.ns_raw())
    }

    /// Whether this is the element `local` in the namespace `ns`.
    pub fn is(&self, local: &str, ns: &str) -> bool {
        self.local() == local && self.ns() == ns
    }

    /// The value of the attribute that is written `name`, a prefix included.
    pub fn attr(&self, name: &str) -> Option<Cow<'a, str>> {
        let (_, value) = self.raw_attrs().find(|(known, _)| *known == name)?;
        Some(chars::attribute_value(value))
    }

    /// All attributes in order, declarations of namespaces included: name as written, and value.
    pub fn attrs(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + use<'a> {
        self.raw_attrs().map(|(name, value)| (name, chars::attribute_value(value)))
    }

    /// The child elements in order.
    pub fn children(&self) -> impl Iterator<Item = El<'a>> + use<'a> {
        let parent = *self;
        let mut pos = self.content;
        std::iter::from_fn(move || {
            if parent.empty {
                return None;
            }
            loop {
                let less = find(parent.bytes(), pos, b'<')?;
                match parent.bytes().get(less + 1)? {
                    b'/' => return None,
                    b'!' => pos = cdata_end(parent.bytes(), less),
                    _ => {
                        let child = Self::child_at(&parent, less);
                        pos = child.end();
                        return Some(child);
                    }
                }
            }
        })
    }

    /// The first child element of this name and namespace.
    pub fn child(&self, local: &str, ns: &str) -> Option<El<'a>> {
        self.children().find(|child| child.is(local, ns))
    }

    /// The text directly inside, CDATA sections included, without that of child elements.
    pub fn text(&self) -> Cow<'a, str> {
        let mut text = Cow::Borrowed("");
        let mut pos = self.content;
        while let Some(less) = find(self.bytes(), pos, b'<').filter(|_| !self.empty) {
            append(&mut text, chars::text_value(self.slice(pos, less)));
            match self.bytes().get(less + 1) {
                Some(b'!') => {
                    pos = cdata_end(self.bytes(), less);
                    let inner = self.slice(less + CDATA.len(), pos.saturating_sub(3));
                    append(&mut text, chars::cdata_value(inner));
                }
                None | Some(b'/') => break,
                Some(_) => pos = Self::child_at(self, less).end(),
            }
        }
        text
    }

    /// The bytes of the element as they stand.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes().get(self.start..self.end()).unwrap_or_default()
    }

    /// A copy that means the same anywhere: declarations in force here are added to its start tag,
    /// the default one always, those of prefixes where the element seems to use them.
    pub fn to_owned_xml(&self) -> Bytes {
        let raw = self.raw();
        let mut out = Vec::with_capacity(raw.len() + self.default.len() + 10);
        let split = self.name_end - self.start;
        out.extend_from_slice(raw.get(..split).unwrap_or_default());
        if self.raw_attrs().all(|(name, _)| name != "xmlns") {
            declare(&mut out, "", self.default);
        }
        // Innermost first, and of each prefix only that one.
        let mut done: Vec<&str> =
            self.raw_attrs().filter_map(|(name, _)| name.strip_prefix("xmlns:")).collect();
        let known = self.frame.prefixes().iter().rev().filter(|p| self.within(p.scope));
        let text = |span: Span| span.text(self.bytes());
        for (prefix, uri) in
            known.map(|p| (text(p.name), text(p.uri))).chain([("stream", ns::STREAMS)])
        {
            let used = memchr::memmem::find_iter(raw, prefix)
                .any(|at| raw.get(at + prefix.len()) == Some(&b':'));
            if used && !done.contains(&prefix) {
                declare(&mut out, prefix, uri);
            }
            done.push(prefix);
        }
        out.extend_from_slice(raw.get(split..).unwrap_or_default());
        out.into()
    }

    pub(crate) fn root(frame: &'a Frame) -> Self {
        Self::at(frame, 0, ns::CLIENT)
    }

    /// The child of `parent` whose `<` is at `start`.
    pub(crate) fn child_at(parent: &Self, start: usize) -> Self {
        Self::at(parent.frame, start, parent.default)
    }

    pub(crate) fn frame(&self) -> &'a Frame {
        self.frame
    }

    /// Offset of its `<` in the frame.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Offset of the first byte behind the element in the frame.
    pub(crate) fn end(&self) -> usize {
        if self.empty {
            return self.content;
        }
        let bytes = self.bytes();
        if self.start == 0 {
            return bytes.len();
        }
        let mut pos = self.content;
        let mut depth = 1_u32;
        while let Some(less) = find(bytes, pos, b'<') {
            match bytes.get(less + 1) {
                Some(b'!') => {
                    pos = cdata_end(bytes, less);
                    continue;
                }
                Some(b'/') => {
                    depth -= 1;
                    pos = find(bytes, less, b'>').map_or(bytes.len(), |at| at + 1);
                }
                _ => {
                    pos = tag_end(bytes, less);
                    let empty = pos.checked_sub(2).and_then(|at| bytes.get(at)) == Some(&b'/');
                    depth += u32::from(!empty);
                }
            }
            if depth == 0 {
                return pos;
            }
        }
        bytes.len()
    }

    /// Attributes as they are written, in order.
    pub(crate) fn raw_attrs(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let bytes = self.bytes();
        let mut pos = self.name_end;
        std::iter::from_fn(move || {
            let (name, value) = attribute(bytes, pos)?;
            pos = value.end as usize + 1;
            Some((name.text(bytes), value.text(bytes)))
        })
    }

    /// The namespace as its declaration is written.
    pub(crate) fn ns_raw(&self) -> &'a str {
        match self.name().split_once(':') {
            None => self.default,
            Some(("xml", _)) => ns::XML,
            Some((prefix, _)) => {
                let bytes = self.bytes();
                let mut known = self.frame.prefixes().iter().rev();
                match known.find(|p| self.within(p.scope) && p.name.of(bytes) == prefix.as_bytes())
                {
                    Some(found) => found.uri.text(bytes),
                    None => ns::STREAMS,
                }
            }
        }
    }

    fn at(frame: &'a Frame, start: usize, default: &'a str) -> Self {
        let bytes: &'a [u8] = frame.bytes();
        let name_end = name_end(bytes, start);
        let mut default = default;
        let mut pos = name_end;
        while let Some((name, value)) = attribute(bytes, pos) {
            if name.of(bytes) == b"xmlns" {
                default = value.text(bytes);
            }
            pos = value.end as usize + 1;
        }
        let close = find(bytes, pos, b'>').unwrap_or(bytes.len());
        let empty = close > pos && bytes.get(close - 1) == Some(&b'/');
        Self { frame, start, content: close + 1, name_end, empty, default }
    }

    fn name(&self) -> &'a str {
        self.slice(self.start + 1, self.name_end)
    }

    fn within(&self, scope: Span) -> bool {
        (scope.start as usize) <= self.start && self.start < scope.end as usize
    }

    fn bytes(&self) -> &'a [u8] {
        self.frame.bytes()
    }

    fn slice(&self, start: usize, end: usize) -> &'a str {
        std::str::from_utf8(self.bytes().get(start..end).unwrap_or_default()).unwrap_or_default()
    }
}

const CDATA: &[u8] = b"<![CDATA[";

fn find(bytes: &[u8], from: usize, byte: u8) -> Option<usize> {
    memchr::memchr(byte, bytes.get(from..)?).map(|at| from + at)
}

/// Where the qualified name of the start tag whose `<` is at `start` ends.
fn name_end(bytes: &[u8], start: usize) -> usize {
    let stop = |&b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b'/' | b'>');
    let tag = bytes.get(start..).unwrap_or_default();
    start + tag.iter().position(stop).unwrap_or(tag.len())
}

/// Name and value of the attribute that comes next in a tag at `pos`, which is behind the element's
/// name or behind a value; `None` where the tag ends.
fn attribute(bytes: &[u8], pos: usize) -> Option<(Span, Span)> {
    let start = chars::skip(bytes, pos, chars::SPACE);
    if matches!(bytes.get(start)?, b'/' | b'>') {
        return None;
    }
    let stop = |&b: &u8| matches!(b, b'=' | b' ' | b'\t' | b'\r' | b'\n');
    let end = start + bytes.get(start..)?.iter().position(stop)?;
    let open = find(bytes, end, b'=').map(|at| chars::skip(bytes, at + 1, chars::SPACE))?;
    let close = find(bytes, open + 1, *bytes.get(open)?)?;
    Some((Span::new(start, end), Span::new(open + 1, close)))
}

/// The position behind the start tag whose `<` is at `start`.
fn tag_end(bytes: &[u8], start: usize) -> usize {
    let mut pos = start;
    while let Some(at) =
        bytes.get(pos..).and_then(|rest| memchr::memchr3(b'>', b'\'', b'"', rest)).map(|n| pos + n)
    {
        pos = match bytes.get(at) {
            Some(&quote @ (b'\'' | b'"')) => match find(bytes, at + 1, quote) {
                Some(close) => close + 1,
                None => break,
            },
            _ => return at + 1,
        };
    }
    bytes.len()
}

/// The position behind the CDATA section whose `<` is at `start`.
fn cdata_end(bytes: &[u8], start: usize) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    memchr::memmem::find(rest, b"]]>").map_or(bytes.len(), |at| start + at + 3)
}

fn append<'a>(text: &mut Cow<'a, str>, more: Cow<'a, str>) {
    if text.is_empty() {
        *text = more;
    } else if !more.is_empty() {
        text.to_mut().push_str(&more);
    }
}

/// Writes a declaration whose value is already escaped, for quotes that do not occur in it.
fn declare(out: &mut Vec<u8>, prefix: &str, raw: &str) {
    let quote = if raw.contains('\'') { b'"' } else { b'\'' };
    out.extend_from_slice(b" xmlns");
    out.extend_from_slice(if prefix.is_empty() { b"" } else { b":" });
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(&[b'=', quote]);
    out.extend_from_slice(raw.as_bytes());
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_text_and_attributes_are_found() {
        let xml = "<iq a='1>' b=\"&lt;'\">x&amp;<q xmlns='urn:q'><i n='/>'/>y<i/></q>z<![CDATA[<i>&]]>\
                   <p:q xmlns:p='urn:q' xml:lang='de'/>\r\n<q/></iq>";
        let frame = Frame::parse(xml).unwrap();
        let root = frame.root();
        assert_eq!(root.text(), "x&z<i>&\n");
        assert_eq!(root.attr("a").unwrap(), "1>");
        assert_eq!(root.attr("b").unwrap(), "<'");
        assert_eq!(root.attr("c"), None);
        let names: Vec<_> = root.children().map(|el| (el.local(), el.ns().into_owned())).collect();
        let expected = [("q", "urn:q"), ("q", "urn:q"), ("q", "jabber:client")];
        assert!(names.iter().map(|(a, b)| (*a, &**b)).eq(expected));
        let query = root.child("q", "urn:q").unwrap();
        assert_eq!(query.raw(), b"<q xmlns='urn:q'><i n='/>'/>y<i/></q>");
        assert_eq!(query.children().count(), 2);
        assert_eq!(query.text(), "y");
        assert_eq!(root.children().nth(1).unwrap().attr("xml:lang").unwrap(), "de");
        assert!(root.child("i", "urn:q").is_none());
    }

    #[test]
    fn text_in_one_run_is_borrowed() {
        let frame = Frame::parse("<a>text<b/></a>").unwrap();
        assert!(matches!(frame.root().text(), Cow::Borrowed("text")));
    }

    #[test]
    fn a_copy_carries_the_declarations_it_needs() {
        let xml = "<a xmlns:p='urn:p' xmlns:q='urn:q' xmlns='urn:a'><b p:x=''><stream:c/></b></a>";
        let frame = Frame::parse(xml).unwrap();
        let copy = frame.root().children().next().unwrap().to_owned_xml();
        assert_eq!(
            copy,
            "<b xmlns='urn:a' xmlns:p='urn:p' xmlns:stream='http://etherx.jabber.org/streams' \
             p:x=''><stream:c/></b>"
        );
    }

    #[test]
    fn a_copy_takes_only_the_innermost_of_two_declarations() {
        let xml = "<a xmlns:p='urn:1'><b xmlns:p='urn:2'><p:c/></b></a>";
        let frame = Frame::parse(xml).unwrap();
        let inner = frame.payload().unwrap().el.children().next().unwrap();
        assert_eq!(inner.to_owned_xml(), "<p:c xmlns='jabber:client' xmlns:p='urn:2'/>");
    }
}
