//! Properties of scanner, frame and element view on generated and mutated streams.
//!
//! `PROPTEST_CASES` sets how many inputs each property sees.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;

use super::oracle::{LIMITS, against_rxml, outline, same, scan, stands_alone};
use super::subject::{Frame, Limits, Scanner, Stamp};

const HEADERS: &[&str] = &[
    "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
     to='example.org' version='1.0' xml:lang='en'>",
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams' to='example.org'>",
    "<?xml version=\"1.0\" encoding='utf-8' ?>\n<s:stream xmlns:s='http://etherx.jabber.org/streams' \
     xmlns='jabber:client' xmlns:p='urn:p' >",
    "<stream xmlns='http://etherx.jabber.org/streams'>",
    "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
     xmlns:p='urn:p&amp;\"' xmlns:x='urn:x'>",
    "<stream:stream xmlns:p='urn:p' xmlns:stream='urn:other'>",
    "<a>",
];

const NAMES: &[&str] = &[
    "message",
    "iq",
    "presence",
    "a",
    "b",
    "body",
    "p:a",
    "x:b",
    "é",
    "_-.1",
    "stream:features",
    "xml:a",
    "message",
    "a",
];

const ATTRIBUTES: &[&str] = &[
    " to='romeo@example.net'",
    " from=\"a&amp;'b\"",
    " id='1'",
    " type = 'get'",
    "\n\txml:lang='de'",
    " xmlns='urn:a'",
    " xmlns='urn:a&amp;b'",
    " xmlns=''",
    " xmlns='jabber:client'",
    " xmlns:x='urn:x'",
    " xmlns:p='urn:x'",
    " xmlns:p='urn:p'",
    " x:a='1'",
    " p:a='2'",
    " a='&#10;&#x41;&gt;'",
    " b='\u{e9}\u{1f600}\u{fffd}\ta\r\nb'",
    " c=''",
];

const TEXTS: &[&str] = &[
    "plain",
    " ",
    "\r\n",
    "&lt;&amp;&#x1F600;",
    "]",
    "]]",
    ">",
    "<![CDATA[<&>\r]]]]>",
    "<![CDATA[]]>",
    "\u{e9}\u{20ac}\u{10348}",
    "a much longer run of plain text, so that whole chunks are skipped",
];

const NOISE: &[&[u8]] = &[
    b"<",
    b">",
    b"/",
    b"&",
    b";",
    b"'",
    b"\"",
    b"=",
    b" ",
    b":",
    b"]]>",
    b"]",
    b"<!--x-->",
    b"<?x?>",
    b"<!DOCTYPE a>",
    b"<![CDATA[",
    b"&x;",
    b"&#0;",
    b"&#xD800;",
    b"&#x10FFFF;",
    b"&#65;",
    b"&;",
    b"\0",
    b"\x08",
    b"\x7f",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xef\xbf\xbe",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\xff",
    b"\xef\xbb\xbf",
    b"</a>",
    b"<a/>",
    b"<b",
    b"</stream:stream>",
    b" xmlns:p=''",
    b" xmlns:xml='urn:a'",
    b" xmlns:xmlns='urn:a'",
    b" a='1'",
    b" p:a=''",
    b" xmlns='http://www.w3.org/2000/xmlns/'",
    b"x:",
    b":x",
    b"-",
    b"1",
    b"\xc3\x97",
    b"\xc2\xb7",
    b"<?xml version='1.0'?>",
    b"<?xml version='1.0' standalone='no'?>",
    b"xmlns",
    b"xmlns:",
    b" xmlns:p='http://www.w3.org/XML/1998/namespace'",
    b"\r",
    b"\n",
    b"<p:a xmlns:p='urn:q'>",
];

fn element() -> impl Strategy<Value = String> {
    let tag = || (select(NAMES), vec(select(ATTRIBUTES), 0..4), select(&["", " ", "\n"][..]));
    let leaf = prop_oneof![
        3 => select(TEXTS).prop_map(str::to_owned),
        1 => tag().prop_map(|(name, attrs, space)| format!("<{name}{}{space}/>", attrs.concat())),
    ];
    let nested =
        leaf.prop_recursive(4, 24, 4, move |inner| (tag(), vec(inner, 0..4)).prop_map(wrap));
    (tag(), vec(nested, 0..4)).prop_map(wrap)
}

/// An element that declares most of the prefixes it uses itself.
fn wrap(((name, attrs, space), content): ((&str, Vec<&str>, &str), Vec<String>)) -> String {
    let content = content.concat();
    let mut attrs = attrs.concat();
    for (used, declared) in [("p:", "xmlns:p="), ("x:", "xmlns:x=")] {
        let uses = name.starts_with(used) || attrs.contains(&format!(" {used}"));
        if uses && !attrs.contains(declared) && content.len() % 8 != 1 {
            attrs.push_str(&format!(" {declared}'urn:{content}'", content = content.len() % 3));
        }
    }
    format!("<{name}{attrs}{space}>{content}</{name}{space}>")
}

/// A stream that is likely, though not certain, to be right.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let between = select(&["", " ", "\r\n"][..]);
    (select(HEADERS), vec((element(), between), 0..4)).prop_map(|(header, stanzas)| {
        let mut out = header.to_owned();
        for (stanza, space) in stanzas {
            out.push_str(&stanza);
            out.push_str(space);
        }
        let root = header.rsplit('<').next().unwrap_or_default();
        let root = root.split([' ', '>']).next().unwrap_or_default();
        out.push_str(&format!("</{root}>"));
        out.into_bytes()
    })
}

#[derive(Clone, Debug)]
enum Mutation {
    Insert(prop::sample::Index, &'static [u8]),
    Remove(prop::sample::Index, usize),
    Set(prop::sample::Index, u8),
    Repeat(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (index(), select(NOISE)).prop_map(|(at, noise)| Mutation::Insert(at, noise)),
        1 => (index(), 1..6_usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        1 => (index(), 1..30_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
    ]
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    (stream(), vec(mutation(), 0..3)).prop_map(|(mut bytes, mutations)| {
        for mutation in mutations {
            let len = bytes.len().max(1);
            match mutation {
                Mutation::Insert(at, noise) => {
                    let at = at.index(len);
                    bytes.splice(at..at, noise.iter().copied());
                }
                Mutation::Remove(at, count) => {
                    let at = at.index(len);
                    bytes.drain(at..(at + count).min(bytes.len()));
                }
                Mutation::Set(at, byte) => bytes[at.index(len)] = byte,
                Mutation::Repeat(at, count) => {
                    let at = at.index(len);
                    let piece = bytes[at..(at + count).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    })
}

/// Fragments without any order: mostly wrong, early and late.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        select(NOISE).prop_map(<[u8]>::to_vec),
        select(ATTRIBUTES).prop_map(|s| s.as_bytes().to_vec()),
        select(TEXTS).prop_map(|s| s.as_bytes().to_vec()),
        select(NAMES).prop_map(|s| format!("<{s}").into_bytes()),
        select(NAMES).prop_map(|s| format!("</{s}>").into_bytes()),
    ];
    (select(HEADERS), vec(piece, 0..12))
        .prop_map(|(header, pieces)| [header.as_bytes(), &pieces.concat()].concat())
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// The properties would hold of nothing if the generators made nothing that is accepted.
#[test]
fn generated_streams_are_mostly_accepted() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let accepted = (0..200)
        .map(|_| stream().new_tree(&mut runner).unwrap().current())
        .filter(|input| scan(input, &[], LIMITS).closed)
        .count();
    assert!(accepted >= 100, "{accepted} of 200");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_chunking_gives_the_same(
        input in prop_oneof![mutated(), soup()],
        sizes in vec(1..40_usize, 1..6),
        tight in any::<bool>(),
    ) {
        let limits = match tight {
            false => LIMITS,
            true => Limits { bytes: 150, elements: 4, depth: 3, attributes: 3, namespaces: 2 },
        };
        let whole = scan(&input, &[], limits);
        same(&whole, &scan(&input, &[1], limits));
        same(&whole, &scan(&input, &sizes, limits));
    }

    #[test]
    fn rxml_agrees(input in prop_oneof![stream(), mutated(), soup()]) {
        against_rxml(&input, &scan(&input, &[], LIMITS));
    }

    #[test]
    fn frames_stand_alone(input in stream(), value in "[a-z<&'\"\u{e9}]{0,8}") {
        for frame in scan(&input, &[], LIMITS).frames {
            let expected = outline(frame.root());
            stands_alone(frame.bytes(), &expected);
            let again = Frame::parse(frame.bytes().clone()).unwrap();
            prop_assert_eq!(outline(again.root()), expected);

            let stamp = Stamp { from: Some(&value), to: Some(&value), lang: Some("en") };
            let (head, tail) = frame.restamp(stamp);
            let stamped = Frame::parse([head, tail].concat()).unwrap();
            prop_assert_eq!(stamped.from().unwrap(), &*value);
            prop_assert_eq!(stamped.to().unwrap(), &*value);
            let lang = frame.lang();
            prop_assert_eq!(stamped.lang().unwrap(), lang.as_deref().unwrap_or("en"));
            stands_alone(stamped.bytes(), &outline(stamped.root()));
            prop_assert_eq!(stamped.id(), frame.id());
            prop_assert_eq!(children(&stamped), children(&frame));

            let (before, behind) = frame.broadcast(&value, Some("en"));
            let sent = [&before[..], b"a@b", &behind].concat();
            let sent = Frame::parse(sent).unwrap();
            prop_assert_eq!(sent.from().unwrap(), &*value);
            prop_assert_eq!(sent.to().unwrap(), "a@b");
            stands_alone(sent.bytes(), &outline(sent.root()));
            prop_assert_eq!(children(&sent), children(&frame));
        }
    }

    #[test]
    fn children_are_added_and_dropped(input in stream(), keep in any::<u8>()) {
        for frame in scan(&input, &[], LIMITS).frames {
            let starts: Vec<_> = frame.root().children().map(|el| el.start()).collect();
            let drop = |start: usize| {
                let at = starts.iter().position(|known| *known == start).unwrap();
                keep >> (at % 8) & 1 == 0
            };
            let less = frame.without_children(|el| drop(el.start()));
            let expected: Vec<_> = frame
                .root()
                .children()
                .filter(|el| !drop(el.start()))
                .map(outline)
                .collect();
            prop_assert_eq!(children(&less), expected);
            stands_alone(less.bytes(), &outline(less.root()));
            prop_assert_eq!(less.root().text(), frame.root().text());
            prop_assert_eq!(less.children(), less.root().children().count());
            let first = less.root().children().next().map(outline);
            prop_assert_eq!(less.payload().map(|p| outline(p.el)), first);
            let fresh = Frame::parse(less.bytes().clone()).unwrap();
            prop_assert_eq!(outline(fresh.root()), outline(less.root()));

            let more = frame.with_children(b"<delay xmlns='urn:xmpp:delay'/>");
            prop_assert_eq!(more.children(), frame.children() + 1);
            prop_assert!(more.root().child("delay", "urn:xmpp:delay").is_some());
            stands_alone(more.bytes(), &outline(more.root()));
        }
    }

    #[test]
    fn owned_xml_means_the_same_anywhere(input in stream()) {
        for frame in scan(&input, &[], LIMITS).frames {
            let mut todo = vec![frame.root()];
            while let Some(el) = todo.pop() {
                stands_alone(&el.to_owned_xml(), &outline(el));
                let foreign = [b"<w xmlns='urn:w'>", &el.to_owned_xml()[..], b"</w>"].concat();
                let foreign = Frame::parse(foreign).unwrap();
                prop_assert_eq!(outline(foreign.payload().unwrap().el), outline(el));
                todo.extend(el.children());
            }
        }
    }

    #[test]
    fn nothing_panics(input in vec(any::<u8>(), 0..200), header in any::<bool>()) {
        let mut scanner = Scanner::new(LIMITS);
        if header {
            scanner.feed(HEADERS[0].as_bytes()).unwrap();
        }
        let _ = scanner.feed(&input);
        let _ = Frame::parse(input);
    }
}

fn children(frame: &Frame) -> Vec<String> {
    frame.root().children().map(outline).collect()
}
