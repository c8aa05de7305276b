//! The automaton under the scanner: one pass over one element, resumable at any byte.
//!
//! It reads either a stream header (prolog and root start tag) or one first-level element. The
//! caller keeps the bytes from the first one on and passes all of them each time; the machine
//! remembers how far it came and never looks at a byte twice, but for the few of a character,
//! reference or `]]>` that is not complete. Whether it refuses depends only on the bytes seen so
//! far, so any chunking gives the same verdict. It copies nothing and decides nothing about XMPP.

use smallvec::SmallVec;

use super::declaration::{self, Prolog};
use super::span::{Attr, Head, Name, Prefix, Span, usual_attribute, usual_name};
use super::{Limits, ScanError, names};
use crate::chars::{self, APOS, CDATA, QUOT, SPACE, TEXT};

use ScanError::{NotWellFormed, Restricted};

/// An open element.
#[derive(Clone, Copy, Debug)]
struct Open {
    name: Span,
    /// The default namespace in scope; none if no element of the stanza declares one.
    default: Span,
    /// Number of entries of `prefixes` when the element began.
    outer: u32,
}

/// What the stream header left for the elements under it.
pub(crate) trait Context {
    /// Whether the header binds this prefix.
    fn binds(&self, prefix: &[u8]) -> bool;
    /// Whether an element that uses this prefix must carry the declaration itself when forwarded.
    fn foreign(&self, prefix: &[u8]) -> bool;
    /// The name that closes the stream.
    fn root(&self) -> &[u8];
}

/// What the machine found; offsets are behind its last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done {
    /// The root start tag; `empty`: its `/` was read and its `>` must follow.
    Header {
        end: usize,
        empty: bool,
    },
    Stanza {
        end: usize,
    },
    Close {
        end: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    Prolog,
    Declaration,
    Misc,
    Text,
    Less,
    Bang,
    Cdata,
    TagName,
    /// Behind a name or value; `true`: behind white space.
    InTag(bool),
    AttrName,
    Equals,
    Quote,
    Value(u8),
    EmptyTag,
    EndName,
    EndTag,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    header: bool,
    /// The next byte to look at.
    pos: usize,
    /// Where the name, value or markup in progress began.
    mark: usize,
    /// The `<` of the tag in progress.
    less: usize,
    tag: Name,
    attr: Name,
    pub attrs: SmallVec<[Attr; 8]>,
    open: SmallVec<[Open; 8]>,
    pub prefixes: SmallVec<[Prefix; 2]>,
    /// Prefixes that the stanza takes from the stream header and must declare itself.
    pub inherited: SmallVec<[Span; 2]>,
    /// The stanza uses the stream's default namespace.
    pub uses_default: bool,
    elements: u32,
    namespaces: u16,
    /// Element children of the stanza, and the `<` of the first.
    pub children: u32,
    pub first: u32,
    pub head: Head,
}

impl Machine {
    /// A machine for a stream header; `prolog`: an XML declaration may still come.
    pub fn header(prolog: bool) -> Self {
        let state = if prolog { State::Prolog } else { State::Misc };
        Self { header: true, ..Self::new(state) }
    }

    /// A machine for a first-level element, or the end of the stream: the first byte is a `<`.
    pub fn stanza() -> Self {
        Self::new(State::Misc)
    }

    #[inline]
    fn new(state: State) -> Self {
        Self {
            state,
            header: false,
            pos: 0,
            mark: 0,
            less: 0,
            tag: Name::default(),
            attr: Name::default(),
            attrs: SmallVec::new(),
            open: SmallVec::new(),
            prefixes: SmallVec::new(),
            inherited: SmallVec::new(),
            uses_default: false,
            elements: 0,
            namespaces: 0,
            children: 0,
            first: 0,
            head: Head::default(),
        }
    }

    /// Goes on over `buf`, which begins with all bytes passed before. `None`: more is needed.
    pub fn run(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        context: &impl Context,
    ) -> Result<Option<Done>, ScanError> {
        let mut pos = self.pos;
        let done = self.step(buf, &mut pos, limits, context);
        self.pos = pos;
        done
    }

    fn step(
        &mut self,
        buf: &[u8],
        at: &mut usize,
        limits: &Limits,
        context: &impl Context,
    ) -> Result<Option<Done>, ScanError> {
        loop {
            let pos = *at;
            match self.state {
                State::Prolog => {
                    (*at, self.state) = match declaration::prolog(buf)? {
                        Prolog::Declaration(next) => (next, State::Declaration),
                        Prolog::Root(next) => (next, State::Misc),
                        Prolog::Unclear => return Ok(None),
                    };
                    self.mark = *at;
                }
                State::Declaration => {
                    let rest = buf.get(pos..).unwrap_or_default();
                    let Some(len) = memchr::memmem::find(rest, b"?>") else {
                        *at = pos.max(buf.len().saturating_sub(1));
                        return Ok(None);
                    };
                    declaration::check(buf.get(self.mark..pos + len).unwrap_or_default())?;
                    (*at, self.state) = (pos + len + 2, State::Misc);
                }
                State::Misc => {
                    *at = chars::skip(buf, pos, SPACE);
                    match buf.get(*at) {
                        None => return Ok(None),
                        Some(b'<') => {
                            self.less = *at;
                            (*at, self.state) = (*at + 1, State::Less);
                        }
                        Some(_) => return Err(NotWellFormed("text outside the root element")),
                    }
                }
                State::Text => {
                    *at = chars::run(buf, pos, TEXT)?;
                    match buf.get(*at) {
                        Some(b'<') => {
                            self.less = *at;
                            (*at, self.state) = (*at + 1, State::Less);
                        }
                        Some(b'&') => match chars::reference(buf, *at)? {
                            Some(next) => *at = next,
                            None => return Ok(None),
                        },
                        Some(b']') => match buf.get(*at..).unwrap_or_default() {
                            [_] | [_, b']'] => return Ok(None),
                            [_, b']', b'>', ..] => return Err(NotWellFormed("`]]>` in text")),
                            _ => *at += 1,
                        },
                        Some(..0x80) => return Err(FORBIDDEN),
                        _ => return Ok(None),
                    }
                }
                State::Less => {
                    let Some(&b) = buf.get(pos) else {
                        return Ok(None);
                    };
                    self.mark = pos;
                    match b {
                        b'/' if self.header => return Err(NotWellFormed("end tag before a start")),
                        b'/' => {
                            *at += 1;
                            self.mark = *at;
                            self.state = State::EndName;
                            if let Some(end) = self.usual_end(buf, *at) {
                                *at = end;
                                if self.end(end) {
                                    return Ok(Some(Done::Stanza { end }));
                                }
                            }
                        }
                        b'!' => self.state = State::Bang,
                        b'?' => return Err(Restricted("processing instruction")),
                        _ => {
                            self.begin(limits)?;
                            self.state = State::TagName;
                            if let Some(name) = usual_name(buf, pos) {
                                self.tag = name;
                                self.attrs.clear();
                                *at = name.whole.end as usize;
                                self.state = State::InTag(false);
                            }
                        }
                    }
                }
                State::Bang => {
                    let have = buf.get(self.mark..).unwrap_or_default();
                    if have.starts_with(b"!--") {
                        return Err(Restricted("comment"));
                    } else if have.starts_with(b"!DOCTYPE") {
                        return Err(Restricted("document type declaration"));
                    } else if have.starts_with(b"![CDATA[") {
                        if self.open.is_empty() {
                            return Err(NotWellFormed("text directly under the stream root"));
                        }
                        (*at, self.state) = (self.mark + 8, State::Cdata);
                    } else if [&b"!--"[..], b"!DOCTYPE", b"![CDATA["]
                        .iter()
                        .any(|all| all.starts_with(have))
                    {
                        return Ok(None);
                    } else {
                        return Err(NotWellFormed("malformed markup declaration"));
                    }
                }
                State::Cdata => {
                    *at = chars::run(buf, pos, CDATA)?;
                    match buf.get(*at..).unwrap_or_default() {
                        [] | [b']'] | [b']', b']'] => return Ok(None),
                        [b']', b']', b'>', ..] => (*at, self.state) = (*at + 3, State::Text),
                        [b']', ..] => *at += 1,
                        [..0x80, ..] => return Err(FORBIDDEN),
                        _ => return Ok(None),
                    }
                }
                State::TagName => {
                    let (next, complete) = chars::name(buf, self.mark, pos)?;
                    *at = next;
                    if !complete {
                        return Ok(None);
                    }
                    self.tag = Name::split(buf, self.mark, next)?;
                    self.attrs.clear();
                    self.state = State::InTag(false);
                }
                State::InTag(spaced) => {
                    *at = chars::skip(buf, pos, SPACE);
                    let spaced = spaced || *at > pos;
                    match buf.get(*at) {
                        None => {
                            self.state = State::InTag(spaced);
                            return Ok(None);
                        }
                        Some(b'>') => {
                            self.tag(buf, *at, limits, context)?;
                            *at += 1;
                            self.state = State::Text;
                            if self.header {
                                return Ok(Some(Done::Header { end: *at, empty: false }));
                            }
                        }
                        Some(b'/') => {
                            self.tag(buf, *at, limits, context)?;
                            *at += 1;
                            self.state = State::EmptyTag;
                            if self.header {
                                return Ok(Some(Done::Header { end: *at, empty: true }));
                            }
                        }
                        Some(_) if !spaced => {
                            return Err(NotWellFormed("white space expected in a tag"));
                        }
                        Some(_) => {
                            if self.attrs.len() >= usize::from(limits.attributes) {
                                let limit = limits.attributes.into();
                                return Err(ScanError::TooLarge { what: "attributes", limit });
                            }
                            self.mark = *at;
                            self.state = State::AttrName;
                            if let Some(attr) = usual_attribute(buf, *at) {
                                self.attrs.push(attr);
                                *at = attr.value.end as usize + 1;
                                self.state = State::InTag(false);
                            }
                        }
                    }
                }
                State::AttrName => {
                    let (next, complete) = chars::name(buf, self.mark, pos)?;
                    *at = next;
                    if !complete {
                        return Ok(None);
                    }
                    self.attr = Name::split(buf, self.mark, next)?;
                    self.state = State::Equals;
                }
                State::Equals => {
                    *at = chars::skip(buf, pos, SPACE);
                    match buf.get(*at) {
                        None => return Ok(None),
                        Some(b'=') => (*at, self.state) = (*at + 1, State::Quote),
                        Some(_) => return Err(NotWellFormed("`=` expected")),
                    }
                }
                State::Quote => {
                    *at = chars::skip(buf, pos, SPACE);
                    match buf.get(*at) {
                        None => return Ok(None),
                        Some(&b @ (b'\'' | b'"')) => {
                            *at += 1;
                            self.mark = *at;
                            self.state = State::Value(b);
                        }
                        Some(_) => return Err(NotWellFormed("quote expected")),
                    }
                }
                State::Value(quote) => {
                    let class = if quote == b'\'' { APOS } else { QUOT };
                    *at = chars::run(buf, pos, class)?;
                    match buf.get(*at) {
                        Some(&b) if b == quote => {
                            let value = Span::new(self.mark, *at);
                            self.attrs.push(Attr { name: self.attr, value });
                            (*at, self.state) = (*at + 1, State::InTag(false));
                        }
                        Some(b'&') => match chars::reference(buf, *at)? {
                            Some(next) => *at = next,
                            None => return Ok(None),
                        },
                        Some(b'<') => return Err(NotWellFormed("`<` in an attribute value")),
                        Some(..0x80) => return Err(FORBIDDEN),
                        _ => return Ok(None),
                    }
                }
                State::EmptyTag => match buf.get(pos) {
                    None => return Ok(None),
                    Some(b'>') => {
                        *at += 1;
                        if self.end(*at) {
                            return Ok(Some(Done::Stanza { end: *at }));
                        }
                    }
                    Some(_) => return Err(NotWellFormed("`>` expected")),
                },
                State::EndName => {
                    let name = match self.open.last() {
                        Some(open) => open.name.of(buf),
                        None => context.root(),
                    };
                    let left = name.get(pos - self.mark..).unwrap_or_default();
                    let have = buf.get(pos..).unwrap_or_default();
                    let common = left.len().min(have.len());
                    if left.get(..common) != have.get(..common) {
                        return Err(NotWellFormed("end tag does not match its start tag"));
                    }
                    *at += common;
                    if common < left.len() {
                        return Ok(None);
                    }
                    self.state = State::EndTag;
                }
                State::EndTag => {
                    *at = chars::skip(buf, pos, SPACE);
                    match buf.get(*at) {
                        None => return Ok(None),
                        Some(b'>') if self.open.is_empty() => {
                            return Ok(Some(Done::Close { end: *at + 1 }));
                        }
                        Some(b'>') => {
                            *at += 1;
                            if self.end(*at) {
                                return Ok(Some(Done::Stanza { end: *at }));
                            }
                        }
                        Some(_) => {
                            return Err(NotWellFormed("end tag does not match its start tag"));
                        }
                    }
                }
            }
        }
    }

    /// The end of an end tag that is complete and without white space, whose name is at `pos`.
    #[inline]
    fn usual_end(&self, buf: &[u8], pos: usize) -> Option<usize> {
        let name = self.open.last()?.name.of(buf);
        let rest = buf.get(pos..)?.strip_prefix(name)?;
        (rest.first() == Some(&b'>')).then(|| pos + name.len() + 1)
    }

    /// Counts an element whose `<` was read.
    fn begin(&mut self, limits: &Limits) -> Result<(), ScanError> {
        if self.header {
            return Ok(());
        }
        self.elements += 1;
        if self.elements > limits.elements {
            let limit = limits.elements as usize;
            return Err(ScanError::TooLarge { what: "elements", limit });
        }
        if self.open.len() >= usize::from(limits.depth) {
            return Err(ScanError::TooLarge {
                what: "levels of nesting",
                limit: limits.depth.into(),
            });
        }
        if self.open.len() == 1 {
            self.children = self.children.saturating_add(1);
            if self.first == 0 {
                self.first = self.less as u32;
            }
        }
        Ok(())
    }

    /// Closes the innermost element, whose end is at `end`. Whether it was the stanza itself.
    #[inline]
    fn end(&mut self, end: usize) -> bool {
        if let Some(open) = self.open.pop()
            && self.prefixes.len() > open.outer as usize
        {
            for prefix in self.prefixes.iter_mut().skip(open.outer as usize) {
                if prefix.scope.end == u32::MAX {
                    prefix.scope.end = end as u32;
                }
            }
        }
        self.state = State::Text;
        self.open.is_empty()
    }

    /// Checks the start tag that ends at `insert` as a whole, and opens its element.
    #[inline]
    fn tag(
        &mut self,
        buf: &[u8],
        insert: usize,
        limits: &Limits,
        context: &impl Context,
    ) -> Result<(), ScanError> {
        names::distinct(buf, &self.attrs)?;
        let outer = self.prefixes.len() as u32;
        let mut default = self.open.last().map(|open| open.default).unwrap_or_default();
        let mut prefixed = self.tag.has_prefix();
        for &Attr { name, value } in &self.attrs {
            let declared = if !name.has_prefix() {
                if name.whole.of(buf) != b"xmlns" {
                    continue;
                }
                names::check_default(value.of(buf))?;
                default = value;
                None
            } else if name.prefix().of(buf) == b"xmlns" {
                names::check_prefix(name.local().of(buf), value.of(buf))?;
                Some(name.local())
            } else {
                prefixed = true;
                continue;
            };
            self.namespaces = self.namespaces.saturating_add(1);
            if self.namespaces > limits.namespaces {
                let limit = limits.namespaces.into();
                return Err(ScanError::TooLarge { what: "namespaces", limit });
            }
            if let Some(local) = declared {
                let scope = Span { start: self.less as u32, end: u32::MAX };
                self.prefixes.push(Prefix { name: local, uri: value, scope });
            }
        }
        if prefixed {
            self.resolve(buf, context)?;
        }
        if !self.tag.has_prefix() && default.is_none() {
            self.uses_default = true;
        }
        if self.open.is_empty() {
            self.note(buf, insert, default);
        }
        self.open.push(Open { name: self.tag.whole, default, outer });
        Ok(())
    }

    /// Checks that the prefixes of a start tag are declared, and its attributes distinct by
    /// namespace.
    fn resolve(&mut self, buf: &[u8], context: &impl Context) -> Result<(), ScanError> {
        if self.tag.prefix().of(buf) == b"xmlns" {
            return Err(NotWellFormed("element with the prefix `xmlns`"));
        }
        let mut used: SmallVec<[Name; 4]> = SmallVec::new();
        for attr in &self.attrs {
            if attr.name.has_prefix() && attr.name.prefix().of(buf) != b"xmlns" {
                used.push(attr.name);
            }
        }
        if used.len() > 1 {
            names::distinct_expanded(buf, &used, &self.prefixes)?;
        }
        used.push(self.tag);
        for name in used {
            let prefix = name.prefix().of(buf);
            if prefix.is_empty()
                || prefix == b"xml"
                || names::binding(buf, &self.prefixes, prefix).is_some()
            {
                continue;
            }
            // A stream header has nothing around it to take a prefix from.
            if self.header || !context.binds(prefix) {
                return Err(ScanError::BadNamespacePrefix);
            }
            if context.foreign(prefix)
                && !self.inherited.iter().any(|known| known.of(buf) == prefix)
            {
                self.inherited.push(name.prefix());
            }
        }
        Ok(())
    }

    /// Notes the first start tag.
    fn note(&mut self, buf: &[u8], insert: usize, default: Span) {
        let mut head = Head { name: self.tag, default, insert: insert as u32, ..Head::default() };
        for attr in &self.attrs {
            match attr.name.whole.of(buf) {
                b"to" => head.to = attr.value,
                b"from" => head.from = attr.value,
                b"id" => head.id = attr.value,
                b"type" => head.typ = attr.value,
                b"xml:lang" => head.lang = attr.value,
                _ => {}
            }
        }
        self.head = head;
    }
}

const FORBIDDEN: ScanError = NotWellFormed("character not allowed in XML");
