//! The stream header (RFC 6120 4.7), and what it leaves to the elements under it.
//!
//! A header may declare prefixes for the whole stream. A stanza that uses one is not complete by
//! itself; the scanner then writes the declaration into it, so that no one behind has to know.

use super::machine::{Context, Machine};
use super::span::{Head, Span};
use crate::{chars, ns};

/// A stream header as it was sent: values unescaped, nothing judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamHeader {
    /// The domain asked for.
    pub to: Option<String>,
    /// The address the peer gives itself.
    pub from: Option<String>,
    /// The stream's id, in the header of a responding server.
    pub id: Option<String>,
    /// The version of XMPP.
    pub version: Option<String>,
    /// The language of the stream.
    pub lang: Option<String>,
    /// The default namespace, if one is declared: that of the content.
    pub content_ns: Option<String>,
    /// The namespace of the root element; empty for none.
    pub name_ns: String,
    /// The local name of the root element.
    pub local: String,
}

/// What a header out of the ordinary declared. The ordinary one is `<stream:stream/>` in its
/// namespace, with content in `jabber:client` and no other prefix.
#[derive(Debug)]
pub(crate) struct Inherited {
    root: Box<[u8]>,
    default: String,
    prefixes: Vec<(Box<[u8]>, String)>,
}

impl Inherited {
    /// How much of it may be kept for the life of a stream, and be written into each stanza that uses
    /// it: enough for a dozen namespaces, too little to make large stanzas out of small ones.
    pub const MAX: usize = 1024;

    /// Its bytes as they would be written into a stanza.
    pub fn bytes(&self) -> usize {
        let escaped = |text: &str| chars::escape(text).len();
        let prefixes = self.prefixes.iter().map(|(name, uri)| name.len() + escaped(uri));
        self.root.len() + escaped(&self.default) + prefixes.sum::<usize>()
    }
}

/// What is in force directly under the stream root; `None`: the ordinary.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a>(Option<&'a Inherited>);

impl<'a> Scope<'a> {
    /// The ordinary scope: the one that every [`Frame`](crate::Frame) is complete in.
    pub const ORDINARY: Self = Self(None);

    pub fn new(inherited: Option<&'a Inherited>) -> Self {
        Self(inherited)
    }

    fn uri(self, prefix: &[u8]) -> Option<&'a str> {
        match self.0 {
            None => (prefix == b"stream").then_some(ns::STREAMS),
            Some(header) => {
                let found = header.prefixes.iter().find(|(name, _)| **name == *prefix);
                found.map(|(_, uri)| &**uri)
            }
        }
    }

    /// The stanza with the declarations it took from an unusual header; `None` if it took none.
    pub fn complete(self, machine: &Machine, buf: &[u8], end: usize) -> Option<Vec<u8>> {
        let header = self.0?;
        let default = machine.uses_default && header.default != ns::CLIENT;
        if machine.inherited.is_empty() && !default {
            return None;
        }
        let insert = machine.head.insert as usize;
        let mut out = Vec::with_capacity(end + 64 * (machine.inherited.len() + 1));
        out.extend_from_slice(buf.get(..insert).unwrap_or_default());
        let mut declare = |name: &[u8], uri: &str| {
            out.extend_from_slice(b" xmlns");
            out.extend_from_slice(if name.is_empty() { b"" } else { b":" });
            out.extend_from_slice(name);
            out.extend_from_slice(b"='");
            out.extend_from_slice(chars::escape(uri).as_bytes());
            out.push(b'\'');
        };
        if default {
            declare(b"", &header.default);
        }
        for prefix in &machine.inherited {
            let prefix = prefix.of(buf);
            declare(prefix, self.uri(prefix).unwrap_or_default());
        }
        out.extend_from_slice(buf.get(insert..end).unwrap_or_default());
        Some(out)
    }
}

impl Context for Scope<'_> {
    fn binds(&self, prefix: &[u8]) -> bool {
        self.uri(prefix).is_some()
    }

    fn foreign(&self, prefix: &[u8]) -> bool {
        self.0.is_some() && !(prefix == b"stream" && self.uri(prefix) == Some(ns::STREAMS))
    }

    fn root(&self) -> &[u8] {
        match self.0 {
            None => b"stream:stream",
            Some(header) => &header.root,
        }
    }
}

/// Reads the header that `machine` has just completed.
pub(crate) fn read(machine: &Machine, buf: &[u8]) -> (StreamHeader, Option<Box<Inherited>>) {
    let Head { name, to, from, id, lang, default, .. } = machine.head;
    let value = |span: Span| chars::attribute_value(span.text(buf)).into_owned();
    let optional = |span: Span| (!span.is_none()).then(|| value(span));
    let version = machine.attrs.iter().find(|attr| attr.name.whole.of(buf) == b"version");
    let prefixes: Vec<(Box<[u8]>, String)> =
        machine.prefixes.iter().map(|p| (p.name.of(buf).into(), value(p.uri))).collect();
    let content_ns = optional(default);
    let name_ns = match name.prefix().of(buf) {
        b"" => content_ns.clone().unwrap_or_default(),
        b"xml" => ns::XML.to_owned(),
        prefix => {
            let found = prefixes.iter().find(|(name, _)| **name == *prefix);
            found.map(|(_, uri)| uri.clone()).unwrap_or_default()
        }
    };
    let ordinary = name.whole.of(buf) == b"stream:stream"
        && content_ns.as_deref() == Some(ns::CLIENT)
        && matches!(&*prefixes, [(_, uri)] if uri == ns::STREAMS);
    let inherited = (!ordinary).then(|| {
        let default = content_ns.clone().unwrap_or_default();
        Box::new(Inherited { root: name.whole.of(buf).into(), default, prefixes })
    });
    let header = StreamHeader {
        to: optional(to),
        from: optional(from),
        id: optional(id),
        version: version.map(|attr| value(attr.value)),
        lang: optional(lang),
        content_ns,
        name_ns,
        local: name.local().text(buf).to_owned(),
    };
    (header, inherited)
}
