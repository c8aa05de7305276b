//! What the scanner accepts and refuses, case by case. Each case is also fed byte by byte.

use super::oracle::{LIMITS, Seen, same, scan};
use super::subject::{Event, Kind, Limits, ScanError, Scanner, StreamCondition};
use ScanError::{BadNamespacePrefix, NotWellFormed, Restricted, TooLarge, UnsupportedEncoding};

const OPEN: &str = "<stream:stream xmlns='jabber:client' \
                    xmlns:stream='http://etherx.jabber.org/streams'>";

/// The verdict on `input`, the same in one piece and byte by byte.
fn verdict(input: &[u8], limits: Limits) -> Seen {
    let whole = scan(input, &[], limits);
    same(&whole, &scan(input, &[1], limits));
    whole
}

fn refusal(stanza: impl AsRef<[u8]>) -> Option<ScanError> {
    let input = [OPEN.as_bytes(), stanza.as_ref()].concat();
    verdict(&input, LIMITS).error
}

fn stanza(xml: &str) -> super::subject::Frame {
    let mut seen = verdict(format!("{OPEN}{xml}").as_bytes(), LIMITS);
    assert_eq!(seen.error, None, "{xml}");
    assert_eq!(seen.frames.len(), 1, "{xml}");
    seen.frames.remove(0)
}

#[test]
fn an_idle_scanner_is_32_bytes() {
    assert_eq!(size_of::<Scanner>(), 32);
}

#[test]
fn a_stream_is_opened_used_and_closed() {
    let input = "<?xml version='1.0'?>\n<stream:stream xmlns='jabber:client' \
                 xmlns:stream='http://etherx.jabber.org/streams' to='a&amp;b' version=\"1.0\" \
                 from='me@x' xml:lang='en' id='7'> <presence/>\r\n<iq id='1'/> </stream:stream > x<";
    let seen = verdict(input.as_bytes(), LIMITS);
    let header = seen.header.unwrap();
    assert_eq!(header.to.as_deref(), Some("a&b"));
    assert_eq!(header.from.as_deref(), Some("me@x"));
    assert_eq!(header.version.as_deref(), Some("1.0"));
    assert_eq!(header.lang.as_deref(), Some("en"));
    assert_eq!(header.id.as_deref(), Some("7"));
    assert_eq!(header.content_ns.as_deref(), Some("jabber:client"));
    assert_eq!(header.name_ns, "http://etherx.jabber.org/streams");
    assert_eq!(header.local, "stream");
    assert_eq!(seen.frames.len(), 2);
    assert_eq!(seen.frames[1].kind(), Kind::Iq);
    assert!(seen.closed);
    assert_eq!(seen.error, None);
}

#[test]
fn a_header_does_not_make_large_stanzas_of_small_ones() {
    let header = |uri: &str| {
        format!(
            "<stream:stream xmlns='jabber:client' xmlns:p=\"{uri}\" \
             xmlns:stream='http://etherx.jabber.org/streams'><message><p:x/></message>"
        )
    };
    let seen = verdict(header(&"u".repeat(900)).as_bytes(), LIMITS);
    assert_eq!((seen.error, seen.frames.len()), (None, 1));
    // What is one byte in the header would be six in each stanza.
    for uri in ["u".repeat(1024), "'".repeat(200)] {
        let seen = verdict(header(&uri).as_bytes(), LIMITS);
        assert!(matches!(seen.error, Some(TooLarge { limit: 1024, .. })), "{:?}", seen.error);
    }
}

#[test]
fn a_header_in_the_wrong_namespace_is_still_a_header() {
    let seen = verdict(b"<x:stream xmlns:x='urn:x'>", LIMITS);
    let header = seen.header.unwrap();
    assert_eq!((&*header.name_ns, &*header.local), ("urn:x", "stream"));
    assert_eq!(header.content_ns, None);
    let header = verdict(b"<stream>", LIMITS).header.unwrap();
    assert_eq!((&*header.name_ns, &*header.local), ("", "stream"));
}

#[test]
fn an_empty_root_opens_and_closes() {
    let seen = verdict(format!("{}/>", OPEN.trim_end_matches('>')).as_bytes(), LIMITS);
    assert!(seen.header.is_some() && seen.closed);
    let seen = verdict(format!("{}/<", OPEN.trim_end_matches('>')).as_bytes(), LIMITS);
    assert_eq!(seen.error, Some(NotWellFormed("`>` expected")));
}

#[test]
fn declarations_are_judged() {
    let verdict = |prolog: &str| verdict(format!("{prolog}{OPEN}").as_bytes(), LIMITS);
    for good in [
        "<?xml version='1.0'?>",
        "\u{feff}<?xml version='1.0'?>",
        "\u{feff}",
        " \n",
        "<?xml version=\"1.0\" encoding='utf-8' standalone=\"yes\" ?>\r\n",
        "<?xml\tversion = '1.0'\nencoding='UTF-8'?>",
    ] {
        assert_eq!(verdict(good).error, None, "{good}");
    }
    for (bad, error) in [
        ("<?xml version='1.0' encoding='ISO-8859-1'?>", UnsupportedEncoding),
        ("<?xml version='1.0' encoding='UTF-16'?>", UnsupportedEncoding),
        ("<?xml version='1.1'?>", NotWellFormed("XML version other than 1.0")),
        ("<?xml encoding='UTF-8'?>", NotWellFormed("malformed XML declaration")),
        ("<?xml version='1.0'encoding='UTF-8'?>", NotWellFormed("malformed XML declaration")),
        ("<?xml version='1.0' standalone='maybe'?>", NotWellFormed("malformed XML declaration")),
        ("<?xml version='1.0' x='y'?>", NotWellFormed("malformed XML declaration")),
        (" <?xml version='1.0'?>", Restricted("processing instruction")),
        ("<?xml version='1.0'?><?xml version='1.0'?>", Restricted("processing instruction")),
        ("<?xml-stylesheet x?>", Restricted("processing instruction")),
        ("<!DOCTYPE a>", Restricted("document type declaration")),
        ("<!-- -->", Restricted("comment")),
        ("x", NotWellFormed("text outside the root element")),
        ("</a>", NotWellFormed("end tag before a start")),
    ] {
        assert_eq!(verdict(bad).error, Some(error), "{bad}");
    }
    let utf16 = scan(b"\xFF\xFE<\0", &[], LIMITS);
    assert_eq!(utf16.error, Some(UnsupportedEncoding));
}

#[test]
fn restricted_xml_is_told_apart() {
    for (xml, what) in [
        ("<!-- x -->", "comment"),
        ("<a><!-- x --></a>", "comment"),
        ("<?php ?>", "processing instruction"),
        ("<a><?x?></a>", "processing instruction"),
        ("<!DOCTYPE x>", "document type declaration"),
        ("<a><!DOCTYPE x [<!ENTITY y 'z'>]></a>", "document type declaration"),
        ("<a>&nbsp;</a>", "entity other than the predefined five"),
        ("<a b='&lol1;'/>", "entity other than the predefined five"),
    ] {
        assert_eq!(refusal(xml), Some(Restricted(what)), "{xml}");
    }
    assert_eq!(Restricted("comment").condition(), StreamCondition::RestrictedXml);
}

#[test]
fn what_is_not_well_formed_is_refused() {
    for xml in [
        "<a></b>",
        "<a></a b>",
        "<a><b></a></b>",
        "< a/>",
        "<a /b>",
        "<a b/>",
        "<a b=c/>",
        "<a b='1'c='2'/>",
        "<a b='1' b='2'/>",
        "<a b='<'/>",
        "<a>&</a>",
        "<a>&;</a>",
        "<a>& lt;</a>",
        "<a>&#;</a>",
        "<a>&#x;</a>",
        "<a>&#xg;</a>",
        "<a>&#0;</a>",
        "<a>&#xD800;</a>",
        "<a>&#xFFFE;</a>",
        "<a>&#x110000;</a>",
        "<a>&#99999999999;</a>",
        "<a>&#X41;</a>",
        "<a>&#0000000000000065;</a>",
        "<a>]]></a>",
        "<a>]]]></a>",
        "<1/>",
        "<-a/>",
        "<a.:b/>",
        "<:a/>",
        "<a:/>",
        "<a:b:c/>",
        "<a xmlns:b='urn:b'><b:1/></a>",
        "<a\u{d7}/>",
        "<\u{b7}/>",
        "<a \u{301}b=''/>",
        "<![CDATA[x]]>",
        "<a><![CDAT[x]]></a>",
        "<a><!x></a>",
        "text",
        "&#32;<a/>",
        "<a>\u{1}</a>",
        "<a>\u{ffff}</a>",
        "<a b='\u{8}'/>",
        "<a><![CDATA[\u{0}]]></a>",
        "</stream>",
        "</stream:strea>",
        "</stream:stream x>",
        "<a b='1' b=\"1\"/>",
        "<a xmlns='urn:x' xmlns='urn:x'/>",
        "<a/ >",
    ] {
        let error = refusal(xml);
        let closing = matches!(error, Some(NotWellFormed(_) | BadNamespacePrefix));
        assert!(closing || xml == "{xml}: {error:?}");
    }
}

#[test]
fn namespaces_are_kept_in_order() {
    for xml in [
        "<a xmlns:p=''/>",
        "<a xmlns:xml='urn:x'/>",
        "<a xmlns:xmlns='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns:p='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns:p='http://www.w3.org/XML/1998/namespac&#101;'/>",
        "<a xmlns='http://www.w3.org/XML/1998/namespace'/>",
        "<xmlns:a/>",
        "<a xmlns:p='urn:x' xmlns:q='urn:x' p:a='' q:a=''/>",
        "<a xmlns:p='urn:x' xmlns:q='urn:&#120;'><b p:a='' q:a=''/></a>",
        "<a xmlns:q='http://etherx.jabber.org/streams' stream:a='' q:a=''/>",
    ] {
        assert!(matches!(refusal(xml), Some(NotWellFormed(_))), "{xml}: {:?}", refusal(xml));
    }
    for xml in ["<p:a/>", "<a p:b=''/>", "<a><b xmlns:p='urn:p'/><p:c/></a>", "<a p:b='' q:b=''/>"]
    {
        assert_eq!(refusal(xml), Some(BadNamespacePrefix), "{xml}");
    }
    for xml in [
        "<a xmlns:xml='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns:p='urn:x' xmlns:q='urn:y' p:a='' q:a='' a=''/>",
        "<a xmlns:p='urn:x'><b xmlns:p='urn:y'><p:c/></b><p:d/></a>",
        "<a xmlns=''><b xml:lang='de'/></a>",
        "<stream:features/>",
        "<xml:a/>",
    ] {
        assert_eq!(refusal(xml), None, "{xml}");
    }
}

#[test]
fn duplicate_names_are_found_among_many() {
    let many: String = (0..60).map(|i| format!(" a{i}=''")).collect();
    assert_eq!(refusal(format!("<a{many}/>")), None);
    let error = refusal(format!("<a{many} a7=''/>"));
    assert_eq!(error, Some(NotWellFormed("duplicate attribute")));
}

#[test]
fn utf_8_is_strict() {
    for bad in [
        &b"\x80"[..],
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xfe",
        b"\xff",
        b"\xe2\x82",
        b"\xe2\x28\xa1",
        b"\xc3",
        b"\xf0\x9f\x98",
        b"\xe1\x80\xc0",
    ] {
        for (before, behind) in [("<a>", "</a>"), ("<a b='", "'/>"), ("<a><![CDATA[", "]]></a>")] {
            let xml = [before.as_bytes(), bad, behind.as_bytes()].concat();
            assert_eq!(refusal(&xml), Some(NotWellFormed("not UTF-8")), "{}", xml.escape_ascii());
        }
        let name = [b"<a", bad, b"/>"].concat();
        assert_eq!(refusal(&name), Some(NotWellFormed("not UTF-8")), "{}", name.escape_ascii());
    }
    let good = "\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{fffd}\u{10000}\u{10ffff}\u{7f}\t\r\n";
    for xml in [format!("<a>{good}</a>"), format!("<a b='{good}'/>"), format!("<a b=\"{good}\"/>")]
    {
        assert_eq!(refusal(&xml), None);
    }
}

#[test]
fn every_ascii_byte_is_judged_in_every_position_of_a_run() {
    // Sixteen positions: both halves of two words that are looked at at once.
    for byte in 0..=0x7F_u8 {
        for at in 0..16 {
            let mut run = *b"0123456789abcdef";
            run[at] = byte;
            let allowed = byte >= 0x20 || matches!(byte, b'\t' | b'\n' | b'\r');
            for (open, close, special) in
                [("<a>", "</a>", "<&"), ("<a b='", "'/>", "<&'"), ("<a b=\"", "\"/>", "<&\"")]
            {
                let xml = [open.as_bytes(), &run, close.as_bytes()].concat();
                let accepted = refusal(&xml).is_none();
                let expected = allowed && !special.as_bytes().contains(&byte);
                assert_eq!(accepted, expected, "{}", xml.escape_ascii());
            }
        }
    }
}

#[test]
fn limits_hold_to_the_byte() {
    let limits = Limits { bytes: 120, elements: 3, depth: 2, attributes: 2, namespaces: 1 };
    let check = |xml: &str| {
        let mut scanner = Scanner::new(LIMITS);
        assert!(matches!(scanner.feed(OPEN.as_bytes()), Ok((_, Some(Event::Open(_))))));
        scanner.set_limits(limits);
        let mut error = None;
        for byte in xml.as_bytes() {
            if let Err(refused) = scanner.feed(&[*byte]) {
                error = Some(refused);
                break;
            }
        }
        let mut at_once = Scanner::new(LIMITS);
        at_once.feed(OPEN.as_bytes()).unwrap();
        at_once.set_limits(limits);
        assert_eq!(at_once.feed(xml.as_bytes()).err(), error, "{xml}");
        error
    };
    let too_large = |what, limit| Some(TooLarge { what, limit });
    let body = |len: usize| format!("<a>{}</a>", "x".repeat(len - 7));
    assert_eq!(check(&body(120)), None);
    assert_eq!(check(&body(121)), too_large("bytes", 120));
    assert_eq!(check(&format!("{}{}", " ".repeat(500), body(120))), None);
    assert_eq!(check("<a><b/><c/></a>"), None);
    assert_eq!(check("<a><b/><c/><"), None);
    assert_eq!(check("<a><b/><c/><d"), too_large("elements", 3));
    assert_eq!(check("<a><b><c"), too_large("levels of nesting", 2));
    assert_eq!(check("<a b='' c=''/>"), None);
    assert_eq!(check("<a b='' c='' d"), too_large("attributes", 2));
    assert_eq!(check("<a xmlns='x'><b xmlns='y'/></a>"), too_large("namespaces", 1));
    assert_eq!(TooLarge { what: "bytes", limit: 1 }.condition(), StreamCondition::PolicyViolation);
}

#[test]
fn the_limit_on_bytes_covers_the_header_with_its_prolog() {
    let limits = Limits { bytes: 150, ..LIMITS };
    let prolog = format!("<?xml version='1.0'?>{}{OPEN}", " ".repeat(150 - 21 - OPEN.len()));
    assert_eq!(verdict(prolog.as_bytes(), limits).error, None);
    let error = Some(TooLarge { what: "bytes", limit: 150 });
    let longer = prolog.replace("?>", "?> ");
    assert_eq!(verdict(longer.as_bytes(), limits).error, error);
    let endless = format!("<?xml version='1.0' {}", "x".repeat(200));
    assert_eq!(verdict(endless.as_bytes(), limits).error, error);
}

#[test]
fn white_space_between_stanzas_is_not_kept() {
    let mut scanner = Scanner::new(Limits { bytes: 200, ..LIMITS });
    scanner.feed(OPEN.as_bytes()).unwrap();
    for _ in 0..1000 {
        assert!(matches!(scanner.feed(b" \r\n\t"), Ok((4, None))));
        assert_eq!(scanner.buffered(), 0);
    }
    assert!(matches!(scanner.feed(b" <a"), Ok((3, None))));
    assert_eq!(scanner.buffered(), 2);
}

#[test]
fn a_restart_forgets_what_was_kept() {
    let mut scanner = Scanner::new(LIMITS);
    scanner.feed(b"<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns:p='urn:p'>").unwrap();
    scanner.feed(b"<iq type='set'><inject").unwrap();
    scanner.restart();
    assert_eq!(scanner.buffered(), 0);
    let next = format!("\n<?xml version='1.0'?>{OPEN}");
    let Ok((taken, Some(Event::Open(_)))) = scanner.feed(next.as_bytes()) else {
        panic!("no header after a restart");
    };
    assert_eq!(taken, next.len());
    assert!(matches!(scanner.feed(b"<p:a/>"), Err(BadNamespacePrefix)));
}

#[test]
fn nothing_is_processed_after_an_error_or_the_end() {
    let mut scanner = Scanner::new(LIMITS);
    scanner.feed(OPEN.as_bytes()).unwrap();
    assert!(scanner.feed(b"<a></b>").is_err());
    assert!(matches!(scanner.feed(b"<presence/>"), Ok((11, None))));
    let mut scanner = Scanner::new(LIMITS);
    scanner.feed(OPEN.as_bytes()).unwrap();
    assert!(matches!(scanner.feed(b"</stream:stream>"), Ok((16, Some(Event::Close)))));
    assert!(matches!(scanner.feed(b"<presence/>"), Ok((11, None))));
}

#[test]
fn declarations_of_the_header_follow_the_stanza() {
    let header = "<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams' \
                  xmlns:p='urn:p&amp;'>";
    let input = format!("{header}<message><p:a p:b=''/></message><iq/><s:error/><p:iq/>");
    let seen = verdict(input.as_bytes(), LIMITS);
    let texts: Vec<_> = seen.frames.iter().map(|f| str::from_utf8(f.bytes()).unwrap()).collect();
    assert_eq!(
        texts,
        [
            "<message xmlns:p='urn:p&amp;'><p:a p:b=''/></message>",
            "<iq/>",
            "<s:error xmlns:s='http://etherx.jabber.org/streams'/>",
            "<p:iq xmlns:p='urn:p&amp;'/>",
        ]
    );
    assert_eq!(seen.frames[3].kind(), Kind::Other);
    assert_eq!(seen.frames[3].ns(), "urn:p&");

    let server = "<stream:stream xmlns='jabber:server' \
                  xmlns:stream='http://etherx.jabber.org/streams'>";
    let seen = verdict(format!("{server}<iq/><iq xmlns='urn:x'/>").as_bytes(), LIMITS);
    assert_eq!(seen.frames[0].bytes(), "<iq xmlns='jabber:server'/>");
    assert_eq!(seen.frames[1].bytes(), "<iq xmlns='urn:x'/>");
    let seen = verdict(b"<s><a b='1'>x</a>", LIMITS);
    assert_eq!(seen.frames[0].bytes(), "<a b='1' xmlns=''>x</a>");
}

#[test]
fn the_head_is_noted_in_passing() {
    let frame = stanza(
        "<message from='a@b/&apos;' xml:lang='de' id=\"1\ttwo\" to='c@d' type='chat' other=''>\
         text<x xmlns='urn:x'/><y/></message>",
    );
    assert_eq!(frame.kind(), Kind::Message);
    assert_eq!((frame.local(), frame.ns()), ("message", "jabber:client"));
    assert_eq!(frame.from().as_deref(), Some("a@b/'"));
    assert_eq!(frame.to().as_deref(), Some("c@d"));
    assert_eq!(frame.id().as_deref(), Some("1 two"));
    assert_eq!(frame.typ().as_deref(), Some("chat"));
    assert_eq!(frame.lang().as_deref(), Some("de"));
    let payload = frame.payload().unwrap();
    assert_eq!((payload.local, payload.ns, payload.children()), ("x", "urn:x", 2));
    let prefixed = stanza("<c:iq xmlns:c='jabber:client' c:id='no'/>");
    assert_eq!((prefixed.kind(), prefixed.id()), (Kind::Iq, None));
    assert_eq!(stanza("<iq xmlns='urn:x'/>").kind(), Kind::Other);
    assert_eq!(stanza("<iq xmlns='jabber&#58;client'/>").kind(), Kind::Iq);
}

#[test]
fn an_attribute_with_an_empty_value_is_there() {
    let frame = stanza("<message to='' id=\"\"/>");
    assert_eq!(frame.to().as_deref(), Some(""));
    assert_eq!(frame.id().as_deref(), Some(""));
    assert_eq!(frame.from(), None);
}
