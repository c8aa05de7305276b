//! Second opinions on the scanner: itself at other chunk sizes, and rxml on the same bytes.
//!
//! Only for tests; the fuzz targets under `tests/fuzz` include this file too, so that both judge
//! alike. The module that includes it calls the crate under test `subject`.
//!
//! Where the scanner and rxml differ on purpose:
//!
//! - Character data directly under the stream root is refused by the scanner, also when it is
//!   white space written as a reference or CDATA section; for XML it is content like any other.
//! - A byte order mark, and white space before a root without an XML declaration, are skipped by the
//!   scanner; rxml refuses them.
//! - Every carriage return is a line end (XML 2.11), alone or with a line feed. rxml refuses some
//!   and keeps others, so that it is shown line feeds instead.
//! - Two declarations of the default namespace in one tag are a duplicate attribute; rxml takes the
//!   last.
//! - U+FDF0 to U+FFFD may stand in names since the fifth edition; rxml's table ends before them.
//! - The namespaces of `xml` and `xmlns` cannot be the default namespace; rxml lets them.
//! - `standalone` is read as the grammar has it; rxml wants it behind `encoding`, and `yes`.
//! - A numeric reference of more than 16 bytes, which only leading zeros can make, is refused by
//!   the scanner, and so is what exceeds its limits.
//! - What follows the end of the stream is ignored by the scanner.

use std::fmt::Write as _;

use super::subject::{El, Event, Frame, Limits, ScanError, Scanner, StreamHeader};

/// Limits that generated input keeps, except where it nests absurdly.
pub const LIMITS: Limits =
    Limits { bytes: 1 << 20, elements: 10_000, depth: 100, attributes: 200, namespaces: 200 };

/// All that a scanner said about an input.
#[derive(Debug)]
pub struct Seen {
    /// The stream header.
    pub header: Option<StreamHeader>,
    /// The stanzas.
    pub frames: Vec<Frame>,
    /// Where each event ended.
    pub ends: Vec<usize>,
    /// The stream was closed; the last of `ends` says where.
    pub closed: bool,
    /// Why it was refused.
    pub error: Option<ScanError>,
}

/// Feeds `input` to a new scanner in pieces of the sizes given, over and over; none: in one piece.
pub fn scan(input: &[u8], sizes: &[usize], limits: Limits) -> Seen {
    let mut scanner = Scanner::new(limits);
    let mut seen =
        Seen { header: None, frames: Vec::new(), ends: Vec::new(), closed: false, error: None };
    let mut sizes = sizes.iter().copied().filter(|size| *size > 0).cycle();
    let mut pos = 0;
    while pos < input.len() && !seen.closed {
        let stop = input.len().min(pos + sizes.next().unwrap_or(input.len()));
        while pos < stop {
            let (taken, event) = match scanner.feed(&input[pos..stop]) {
                Ok(found) => found,
                Err(error) => {
                    seen.error = Some(error);
                    return seen;
                }
            };
            assert!(scanner.buffered() <= limits.bytes, "kept more than the limit");
            assert!(event.is_some() || taken == stop - pos, "no event, but input left");
            assert!(taken > 0, "no progress");
            pos += taken;
            if event.is_some() {
                assert_eq!(scanner.buffered(), 0, "bytes kept behind an event");
                seen.ends.push(pos);
            }
            match event {
                Some(Event::Open(header)) => seen.header = Some(header),
                Some(Event::Stanza(frame)) => seen.frames.push(frame),
                Some(Event::Close) => {
                    seen.closed = true;
                    break;
                }
                None => {}
            }
        }
    }
    seen
}

/// Fails unless both have seen the same.
pub fn same(one: &Seen, other: &Seen) {
    assert_eq!(one.error, other.error);
    assert_eq!(one.ends, other.ends);
    assert_eq!(one.closed, other.closed);
    assert_eq!(one.header, other.header);
    let parts = |frame: &Frame| {
        let payload = frame.payload().map(|p| (p.local.to_owned(), p.ns.to_owned()));
        let (id, to, from) = (frame.id(), frame.to(), frame.from());
        let own = |value: Option<std::borrow::Cow<'_, str>>| value.map(|v| v.into_owned());
        let start = (frame.local().to_owned(), frame.ns().to_owned(), frame.kind());
        (frame.bytes().clone(), start, payload, own(id), own(to), own(from), frame.children())
    };
    let (one, other): (Vec<_>, Vec<_>) =
        (one.frames.iter().map(parts).collect(), other.frames.iter().map(parts).collect());
    assert_eq!(one, other);
}

/// Fails unless rxml makes the same of `input` as the scanner did.
pub fn against_rxml(input: &[u8], seen: &Seen) {
    let whole = input.len();
    let input = input.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(input);
    let space = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let start = input.iter().position(|b| !space(b)).unwrap_or(input.len());
    let trimmed = &input[start..];
    let input = if trimmed.starts_with(b"<?xml") { input } else { trimmed };
    let skipped = whole - input.len();
    match seen.error {
        Some(ScanError::TooLarge { .. }) => return,
        Some(ScanError::NotWellFormed(
            "text directly under the stream root"
            | "character reference too long"
            | "reserved namespace as the default",
        )) => return,
        _ => {}
    }
    let end = seen.ends.last().copied().filter(|_| seen.closed);
    let document = end.map_or(input, |end| &input[..end - skipped]);
    let tree = rxml_tree(&line_ends(document));
    let tree = match (seen.closed, tree) {
        (false, Err(_)) => return,
        (true, Ok(tree)) => tree,
        (true, Err(_)) if standalone(document) => return,
        (true, Err(error)) if error.contains("Name") && late_names(document) => return,
        (true, Err(error)) => panic!("accepted, but rxml says {error}: {}", show(input)),
        (false, Ok(_)) if two_defaults(document) => return,
        (false, Ok(_)) => {
            panic!("rxml accepts, but {:?}: {}", seen.error, show(input))
        }
    };
    let children: Vec<_> = seen.frames.iter().map(|frame| outline(frame.root())).collect();
    assert_eq!(children, tree.children, "{}", show(input));
}

/// Fails unless `bytes`, under the ordinary stream header, are one element of this outline.
pub fn stands_alone(bytes: &[u8], expected: &str) {
    const OPEN: &[u8] =
        b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
    let whole = [OPEN, bytes, b"</stream:stream>"].concat();
    match rxml_tree(&line_ends(&whole)) {
        Ok(tree) => assert_eq!(tree.children, [expected], "{}", show(&whole)),
        Err(error) if error.contains("Name") && late_names(&whole) => {}
        Err(error) => panic!("rxml says {error}: {}", show(&whole)),
    }
    let again = scan(&whole, &[], LIMITS);
    assert!(again.closed, "{:?}: {}", again.error, show(&whole));
}

/// An element in one line: name, attributes without a prefix, how many with one, text, children.
pub fn outline(el: El<'_>) -> String {
    let mut plain = Vec::new();
    let mut prefixed = 0;
    for (name, value) in el.attrs() {
        match name.split_once(':') {
            None if name == "xmlns" => {}
            Some(("xmlns", _)) => {}
            Some(_) => prefixed += 1,
            None => plain.push((name.to_owned(), value.into_owned())),
        }
    }
    let children = el.children().map(outline).collect();
    Node { name: name(&el.ns(), el.local()), plain, prefixed, text: el.text().into(), children }
        .outline()
}

#[derive(Default, PartialEq)]
struct Node {
    name: String,
    plain: Vec<(String, String)>,
    prefixed: usize,
    text: String,
    children: Vec<String>,
}

impl Node {
    fn outline(mut self) -> String {
        self.plain.sort();
        let mut out = self.name;
        let _ = write!(out, "{:?}+{}{:?}{:?}", self.plain, self.prefixed, self.text, self.children);
        out
    }
}

fn name(ns: &str, local: &str) -> String {
    format!("{{{ns}}}{local}")
}

fn rxml_tree(mut input: &[u8]) -> Result<Node, String> {
    use rxml::{Event, Options, Parse, Parser, WithOptions};
    let options = Options { max_token_length: 1 << 20, ..Options::default() };
    let mut parser = Parser::with_options(options);
    let mut open = vec![Node::default()];
    loop {
        match parser.parse(&mut input, true) {
            Ok(None) => break,
            Ok(Some(Event::XmlDeclaration(..))) => {}
            Ok(Some(Event::StartElement(_, (ns, local), attrs))) => {
                let mut node = Node { name: name(ns.as_ref(), local.as_ref()), ..Node::default() };
                for ((ns, local), value) in attrs.iter() {
                    if ns.is_none() {
                        node.plain.push((local.to_string(), value.clone()));
                    } else {
                        node.prefixed += 1;
                    }
                }
                open.push(node);
            }
            Ok(Some(Event::Text(_, text))) => {
                if let Some(node) = open.last_mut() {
                    node.text.push_str(&text);
                }
            }
            Ok(Some(Event::EndElement(_))) => {
                let node = open.pop().unwrap_or_default();
                if open.len() == 1 {
                    open.push(node);
                    continue;
                }
                if let Some(parent) = open.last_mut() {
                    parent.children.push(node.outline());
                }
            }
            Err(error) => return Err(format!("{error:?}")),
        }
    }
    open.pop().ok_or_else(|| "no root".to_owned())
}

/// The input with its line ends normalised, as a parser should see it (XML 2.11).
fn line_ends(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(input.len());
    for (i, byte) in input.iter().enumerate() {
        match byte {
            b'\r' if input.get(i + 1) == Some(&b'\n') => {}
            b'\r' => out.push(b'\n'),
            byte => out.push(*byte),
        }
    }
    out
}

/// Whether the XML declaration says `standalone`.
fn standalone(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    text.split("?>").next().is_some_and(|head| head.contains("standalone"))
}

/// Whether there is a character that may begin a name, but that rxml does not know as such.
fn late_names(input: &[u8]) -> bool {
    String::from_utf8_lossy(input).contains(|c| ('\u{fdf0}'..='\u{fffd}').contains(&c))
}

/// Whether a tag seems to declare the default namespace twice.
fn two_defaults(input: &[u8]) -> bool {
    input.split(|b| *b == b'<').any(|tag| {
        let text = String::from_utf8_lossy(tag);
        text.split("xmlns").skip(1).filter(|rest| rest.trim_start().starts_with('=')).count() > 1
    })
}

fn show(input: &[u8]) -> String {
    input.escape_ascii().to_string()
}
