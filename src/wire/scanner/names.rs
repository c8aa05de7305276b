//! The rules of Namespaces in XML 1.0 that concern a start tag as a whole.

use std::borrow::Cow;

use super::ScanError;
use super::span::{Attr, Name, Prefix};
use crate::{chars, ns};

use ScanError::NotWellFormed;

/// Up to this many names are compared each with each; more are sorted first.
const PAIRWISE: usize = 12;

const DUPLICATE: ScanError = NotWellFormed("duplicate attribute");

/// Refuses two attributes of one name.
#[inline]
pub(crate) fn distinct(buf: &[u8], attrs: &[Attr]) -> Result<(), ScanError> {
    if attrs.len() > PAIRWISE {
        let names = attrs.iter().map(|attr| attr.name.whole.of(buf)).collect();
        return sorted_distinct(names);
    }
    for (i, attr) in attrs.iter().enumerate() {
        let name = attr.name.whole.of(buf);
        if attrs.iter().take(i).any(|other| other.name.whole.of(buf) == name) {
            return Err(DUPLICATE);
        }
    }
    Ok(())
}

/// Refuses two prefixed attributes of one local name and one namespace.
pub(crate) fn distinct_expanded(
    buf: &[u8],
    names: &[Name],
    prefixes: &[Prefix],
) -> Result<(), ScanError> {
    // A prefix of an unusual stream header stands for itself here: the stanza will declare it,
    // and is looked at once more then.
    let expanded = |name: &Name| {
        let prefix = name.prefix().of(buf);
        let uri = match (binding(buf, prefixes, prefix), prefix) {
            (Some(bound), _) => Some(resolved(bound.uri.of(buf))),
            (None, b"stream") => Some(ns::STREAMS.into()),
            (None, b"xml") => Some(ns::XML.into()),
            (None, _) => None,
        };
        let own = if uri.is_some() { &b""[..] } else { prefix };
        (name.local().of(buf), uri, own)
    };
    sorted_distinct(names.iter().map(expanded).collect())
}

/// The innermost declaration of `prefix` in force.
pub(crate) fn binding<'a>(buf: &[u8], prefixes: &'a [Prefix], prefix: &[u8]) -> Option<&'a Prefix> {
    prefixes.iter().rev().find(|p| p.scope.end == u32::MAX && p.name.of(buf) == prefix)
}

/// Checks the value of `xmlns`.
#[inline]
pub(crate) fn check_default(raw: &[u8]) -> Result<(), ScanError> {
    if is(raw, ns::XML) || is(raw, ns::XMLNS) {
        return Err(NotWellFormed("reserved namespace as the default"));
    }
    Ok(())
}

/// Checks a declaration of `prefix`.
pub(crate) fn check_prefix(prefix: &[u8], raw: &[u8]) -> Result<(), ScanError> {
    match prefix {
        b"xmlns" => Err(NotWellFormed("declaration of the prefix `xmlns`")),
        b"xml" if is(raw, ns::XML) => Ok(()),
        b"xml" => Err(NotWellFormed("prefix `xml` bound to another namespace")),
        _ if raw.is_empty() => Err(NotWellFormed("prefix bound to no namespace")),
        _ if is(raw, ns::XML) || is(raw, ns::XMLNS) => {
            Err(NotWellFormed("reserved namespace bound to a prefix"))
        }
        _ => Ok(()),
    }
}

/// Whether an attribute value as it is written stands for `ns`.
#[inline]
fn is(raw: &[u8], ns: &str) -> bool {
    raw == ns.as_bytes() || (memchr::memchr(b'&', raw).is_some() && resolved(raw) == ns)
}

#[cold]
fn resolved(raw: &[u8]) -> Cow<'_, str> {
    chars::attribute_value(std::str::from_utf8(raw).unwrap_or_default())
}

fn sorted_distinct<T: Ord>(mut names: Vec<T>) -> Result<(), ScanError> {
    names.sort_unstable();
    let repeated = names.windows(2).any(|pair| matches!(pair, [a, b] if a == b));
    if repeated { Err(DUPLICATE) } else { Ok(()) }
}
