//! Where things are in a buffer: names, attributes, declarations, the first tag. Offsets only.
//!
//! Also the shortcuts that read a name or an attribute in its usual form at once. What they find,
//! the machine would find in smaller steps; whatever is out of the ordinary, or not complete, they
//! leave to it.

use super::ScanError;
use crate::chars::{self, APOS, CLASS, QUOT, SIMPLE, START};

use ScanError::NotWellFormed;

/// A part of the buffer. Offset 0 is always a `<` or a prolog, so the default means "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    pub fn is_none(self) -> bool {
        self.start == 0
    }

    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The same as text. What the scanner accepted is UTF-8 and cut at ASCII, so this loses
    /// nothing.
    pub fn text(self, buf: &[u8]) -> &str {
        std::str::from_utf8(self.of(buf)).unwrap_or_default()
    }
}

/// A qualified name: where it stands and where its colon is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Name {
    pub whole: Span,
    /// Offset of the local part; equal to `whole.start` without a prefix.
    pub local: u32,
}

impl Name {
    pub fn local(self) -> Span {
        Span { start: self.local, end: self.whole.end }
    }

    /// The prefix without its colon; empty if there is none.
    pub fn prefix(self) -> Span {
        let end = self.local.saturating_sub(1).max(self.whole.start);
        Span { start: self.whole.start, end }
    }

    pub fn has_prefix(self) -> bool {
        self.local != self.whole.start
    }

    /// Checks the colons of the name at `start..end`.
    pub fn split(buf: &[u8], start: usize, end: usize) -> Result<Self, ScanError> {
        let whole = Span::new(start, end);
        let name = whole.of(buf);
        let Some(colon) = name.iter().position(|&b| b == b':') else {
            return Ok(Self { whole, local: whole.start });
        };
        let local = name.get(colon + 1..).unwrap_or_default();
        if !chars::starts_name(local) || local.contains(&b':') {
            return Err(NotWellFormed("malformed qualified name"));
        }
        Ok(Self { whole, local: whole.start + colon as u32 + 1 })
    }
}

/// An attribute of the start tag in progress; the value without its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    pub name: Name,
    pub value: Span,
}

/// A prefix declared inside the stanza and the bytes it is in force for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix {
    pub name: Span,
    pub uri: Span,
    /// From the `<` of the element that declares it to behind its end; `end` is `u32::MAX` until
    /// then.
    pub scope: Span,
}

/// What was noted of the first start tag: the stanza's, or the stream header's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    pub name: Name,
    pub to: Span,
    pub from: Span,
    pub id: Span,
    pub typ: Span,
    pub lang: Span,
    /// The default namespace declared by this very tag.
    pub default: Span,
    /// The `/` or `>` that ends the tag: where an attribute can be added.
    pub insert: u32,
}

/// An ASCII name without a prefix, if another byte ends it.
#[inline]
pub(crate) fn usual_name(buf: &[u8], pos: usize) -> Option<Name> {
    if CLASS[usize::from(*buf.get(pos)?)] & START == 0 {
        return None;
    }
    let end = chars::skip(buf, pos + 1, SIMPLE);
    match buf.get(end) {
        Some(&b) if b < 0x80 && b != b':' => {
            Some(Name { whole: Span::new(pos, end), local: pos as u32 })
        }
        _ => None,
    }
}

/// An attribute with such a name, no white space, and a value in ASCII without references.
#[inline]
pub(crate) fn usual_attribute(buf: &[u8], pos: usize) -> Option<Attr> {
    let name = usual_name(buf, pos)?;
    let end = name.whole.end as usize;
    let (quote, class) = match buf.get(end..)? {
        [b'=', b'\'', ..] => (b'\'', APOS),
        [b'=', b'"', ..] => (b'"', QUOT),
        _ => return None,
    };
    let close = chars::skip_plain(buf, end + 2, class, quote);
    (buf.get(close) == Some(&quote)).then(|| Attr { name, value: Span::new(end + 2, close) })
}
