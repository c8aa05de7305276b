//! Addresses: the tables of RFC 7622, and properties against the `jid` crate.
//!
//! Known differences from `jid`: it refuses resourceparts with characters younger than Unicode 3.2,
//! U+1680 in a resourcepart (we make it a space), domain labels over 63 bytes and hyphens at a
//! label's end; it keeps the spelling of IPv6 literals, A-labels and some ASCII punctuation in a
//! domain. It prepares a localpart once, so a young character may come out in upper case there; we
//! refuse it.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn jid(s: &str) -> Jid {
    Jid::parse(s).unwrap_or_else(|error| panic!("{s:?}: {error}"))
}

fn refused(s: &str) -> JidError {
    match Jid::parse(s) {
        Ok(jid) => panic!("{s:?} became {jid:?}"),
        Err(error) => error,
    }
}

#[test]
fn splits_at_the_first_slash_then_the_first_at() {
    for (text, local, domain, resource) in [
        ("example.org", None, "example.org", None),
        ("romeo@example.org", Some("romeo"), "example.org", None),
        ("example.org/orchard", None, "example.org", Some("orchard")),
        ("a@b/c", Some("a"), "b", Some("c")),
        ("a@b/c/d@e", Some("a"), "b", Some("c/d@e")),
        ("b/a@c", None, "b", Some("a@c")),
        ("[::1]/x", None, "[::1]", Some("x")),
        ("a@b/ c ", Some("a"), "b", Some(" c ")),
    ] {
        let jid = jid(text);
        assert_eq!((jid.local(), jid.domain(), jid.resource()), (local, domain, resource));
        assert_eq!(jid.to_string(), text);
        assert_eq!(jid.is_bare(), resource.is_none());
    }
}

#[test]
fn prepares_each_part() {
    for (text, prepared) in [
        ("USER@EXAMPLE.ORG/Res", "user@example.org/Res"),
        ("ｕｓｅｒ@example.org", "user@example.org"),
        ("us\u{ad}er@example.org", "user@example.org"),
        ("Straße@example.org", "strasse@example.org"),
        ("ΣΊΣΥΦΟΣ@example.org", "σίσυφοσ@example.org"),
        ("cafe\u{301}@example.org", "café@example.org"),
        ("user@example.org.", "user@example.org"),
        ("user@example.org\u{3002}", "user@example.org"),
        ("user@XN--MNCHEN-3YA.de", "user@münchen.de"),
        ("user@MÜNCHEN.de", "user@münchen.de"),
        ("user@my_host", "user@my_host"),
        ("user@[0:0:0::0001]", "user@[::1]"),
        ("user@b/x²\u{a0}y", "user@b/x2 y"),
        ("user@b/Phone 📱", "user@b/Phone 📱"),
        ("user@b/❤\u{fe0f}", "user@b/❤"),
        ("user@b/\u{fb01}", "user@b/fi"),
        ("user@b/🄰", "user@b/A"),
    ] {
        assert_eq!(jid(text).as_str(), prepared, "{text:?}");
    }
}

#[test]
fn says_what_is_wrong() {
    use JidError::*;
    for (text, error, words) in [
        ("", Empty(Part::Domain), "domainpart is empty"),
        ("@b", Empty(Part::Local), "localpart is empty"),
        ("a@", Empty(Part::Domain), "domainpart is empty"),
        ("a@b/", Empty(Part::Resource), "resourcepart is empty"),
        ("/", Empty(Part::Domain), "domainpart is empty"),
        ("a@.", Empty(Part::Domain), "domainpart is empty"),
        ("\u{ad}@b", Empty(Part::Local), "localpart is empty"),
        ("a'b@c", Forbidden(Part::Local, '\''), "`\\'` is not allowed in a localpart"),
        ("a b@c", Forbidden(Part::Local, ' '), "` ` is not allowed in a localpart"),
        ("a@b@c", Forbidden(Part::Domain, '@'), "`@` is not allowed in a domainpart"),
        ("a@b c", Forbidden(Part::Domain, ' '), "` ` is not allowed in a domainpart"),
        (
            "a@b/\u{7}",
            Forbidden(Part::Resource, '\u{7}'),
            "`\\u{7}` is not allowed in a resourcepart",
        ),
        ("a@b/é\u{0}", Forbidden(Part::Resource, '\0'), "`\\0` is not allowed in a resourcepart"),
        (
            "a@b/x\u{202e}y",
            Forbidden(Part::Resource, '\u{202e}'),
            "`\\u{202e}` is not allowed in a resourcepart",
        ),
        ("a@b..c", Label, "domainpart is not a valid host name"),
        ("a@xn--a", Label, "domainpart is not a valid host name"),
        ("a@[::1", Ipv6, "domainpart is not an IPv6 address in brackets"),
        ("a@[1.2.3.4]", Ipv6, "domainpart is not an IPv6 address in brackets"),
        ("a@b/אa", MixedDirections(Part::Resource), "resourcepart mixes writing directions"),
    ] {
        let found = refused(text);
        assert_eq!(found, error, "{text:?}");
        assert_eq!(found.to_string(), words);
    }
}

#[test]
fn forbids_each_character_of_the_list_in_a_localpart() {
    for c in "\"&':<> \u{7f}\t".chars() {
        assert_eq!(refused(&format!("a{c}b@c")), JidError::Forbidden(Part::Local, c));
        assert_eq!(refused(&format!("é{c}b@c")), JidError::Forbidden(Part::Local, c));
    }
    // Its full-width form maps to a separator.
    assert_eq!(refused("a＠b@c"), JidError::Forbidden(Part::Local, '@'));
    assert_eq!(refused("a／b@c"), JidError::Forbidden(Part::Local, '/'));
}

#[test]
fn a_host_that_maps_to_a_separator_is_refused() {
    for text in ["a@b／c", "a@b＠c", "b\u{2100}c", "a@b？c", "a@b：5222"] {
        assert!(matches!(refused(text), JidError::Forbidden(Part::Domain, _) | JidError::Label));
    }
}

#[test]
fn young_letters_that_fold_to_ascii_are_not_a_second_account() {
    // Modifier and squared capitals: nodeprep run once leaves upper case, run twice lower case.
    for name in ["ᴮᴵᴳ", "🄰dmin", "ⱥ"] {
        assert!(matches!(
            Jid::from_parts(Some(name), "example.org", None),
            Err(JidError::Forbidden(Part::Local, _))
        ));
    }
}

#[test]
fn invisible_characters_do_not_make_a_second_nickname() {
    for c in ['\u{2066}', '\u{2069}', '\u{61c}', '\u{e0101}', '\u{e0041}', '\u{378}'] {
        assert_eq!(refused(&format!("a@b/x{c}")), JidError::Forbidden(Part::Resource, c));
    }
}

#[test]
fn length_is_measured_in_prepared_bytes() {
    let long = "x".repeat(1023);
    assert_eq!(jid(&format!("{long}@{long}/{long}")).as_str().len(), 3 * 1023 + 2);
    let longer = "x".repeat(1024);
    assert_eq!(refused(&format!("{longer}@b")), JidError::TooLong(Part::Local));
    assert_eq!(refused(&longer), JidError::TooLong(Part::Domain));
    assert_eq!(refused(&format!("b/{longer}")), JidError::TooLong(Part::Resource));
    // 3 bytes each as sent, 1 each as prepared; 2 bytes each that stay.
    assert_eq!(jid(&format!("{}@b", "ｘ".repeat(1023))).local().map(str::len), Some(1023));
    assert_eq!(refused(&format!("{}@b", "é".repeat(512))), JidError::TooLong(Part::Local));
    assert_eq!(
        refused(&format!("b/{}", "\u{ad}".repeat(100_000))),
        JidError::TooLong(Part::Resource)
    );
}

#[test]
fn prepared_ascii_takes_the_fast_path() {
    for text in
        ["example.org", "a_b-c.d@e-f.g_h", "juliet@example.org/Balcony @ 7/8", "a@127.0.0.1"]
    {
        assert_eq!(plain(text), Jid::parse_any(text).ok(), "{text}");
    }
    for c in (0x20..0x7f).map(char::from).filter(|c| !"@/".contains(*c)) {
        let text = format!("a{c}a@b");
        let prepared = prepare_local(&text[..3]).is_ok() && !c.is_ascii_uppercase();
        assert_eq!(plain(&text).is_some(), prepared, "{c}");
    }
    let long = "x".repeat(1023);
    assert!(plain(&format!("{long}@{long}/{long}")).is_some());
    for text in ["", "a@", "@a", "a/", "a..b", ".a", "a.", "xn--a", "A@b", "é", "a@b/\u{7f}"] {
        assert_eq!(plain(text), None, "{text}");
    }
    for text in [format!("{long}x@b"), format!("{long}x"), format!("b/{long}x")] {
        assert_eq!(plain(&text), None);
    }
}

#[test]
fn derives_other_addresses() {
    let full = jid("a@b/c");
    assert_eq!(full.bare(), jid("a@b"));
    assert_eq!(full.bare_str(), "a@b");
    let bare = full.bare();
    assert!(Arc::ptr_eq(&bare.text, &bare.bare().text));
    assert_eq!(full.with_resource("d/e").unwrap(), jid("a@b/d/e"));
    assert_eq!(bare.with_resource("d").unwrap().bare(), bare);
    assert_eq!(full.with_resource(""), Err(JidError::Empty(Part::Resource)));
    assert_eq!(jid("b").with_resource("c").unwrap(), jid("b/c"));
    assert_eq!(Jid::from_parts(Some("a/b"), "c", None), Err(JidError::Forbidden(Part::Local, '/')));
    assert_eq!(Jid::from_parts(None, "b/c", None), Err(JidError::Forbidden(Part::Domain, '/')));
}

#[test]
fn is_small_and_found_by_text() {
    assert!(size_of::<Jid>() <= 24);
    assert!(size_of::<Option<Jid>>() <= 24);
    let map = HashMap::from([(jid("A@b"), 1)]);
    assert_eq!(map.get("a@b"), Some(&1));
    assert_eq!(format!("{:?} {:>5}", jid("a@b"), jid("a@b")), r#"Jid("a@b")   a@b"#);
}

/// Every character of the planes in use, between letters: stable in each part, and as the `jid`
/// crate has it where the two mean to agree.
#[test]
fn no_character_is_unstable() {
    for c in ('\0'..='\u{33fff}').chain('\u{e0000}'..='\u{e0fff}') {
        let s = format!("a{c}a");
        let local = prepare_local(&s).ok();
        if let Some(once) = &local {
            assert_eq!(prepare_local(once).as_ref(), Ok(once), "{c:?}");
        }
        let resource = prepare_resource(&s).ok();
        if let Some(once) = &resource {
            assert_eq!(prepare_resource(once).as_ref(), Ok(once), "{c:?}");
        }
        if let Ok(once) = prepare_domain(&s) {
            assert_eq!(prepare_domain(&once).as_ref(), Ok(&once), "{c:?}");
        }
        if !tables::unassigned_code_point(c) {
            let theirs = jid::NodePart::new(&s).ok();
            assert_eq!(local.as_deref(), theirs.as_ref().map(|p| p.as_str()), "{c:?}");
            let theirs = jid::ResourcePart::new(&s).ok();
            let theirs = theirs.as_ref().map(|p| p.as_str());
            assert!(c == '\u{1680}' || resource.as_deref() == theirs, "{c:?}");
        }
    }
}

/// Text with the characters that matter: separators, cases, widths, marks, directions, emoji.
fn any_text() -> impl Strategy<Value = String> {
    let spicy = proptest::sample::select(
        "aAzZ09-_.@/ '&<>\"ßςΣéＡ＠／。İıǅﬁ①²ᴮ🄰📱❤אב٣ＸxnN[]:\u{2100}㏇\u{fe0f}\u{ad}\u{200d}\
         \u{301}\u{345}\u{a0}\u{3000}\u{1680}"
            .chars()
            .collect::<Vec<_>>(),
    );
    proptest::collection::vec(prop_oneof![3 => spicy, 1 => any::<char>()], 0..12)
        .prop_map(|chars| chars.into_iter().collect())
}

proptest! {
    #[test]
    fn never_panics_and_is_idempotent(s in any_text()) {
        if let Ok(jid) = Jid::parse(&s) {
            let again = Jid::parse(jid.as_str());
            prop_assert_eq!(again.as_ref(), Ok(&jid));
            let parts = Jid::from_parts(jid.local(), jid.domain(), jid.resource());
            prop_assert_eq!(parts.as_ref(), Ok(&jid));
            let bare = jid.bare();
            prop_assert_eq!(bare.as_str(), jid.bare_str());
        }
    }

    /// The fast path never says anything the long way would not.
    #[test]
    fn fast_path_agrees_with_the_long_way(
        s in "([a-zA-Z0-9!-~]{0,4}@)?([a-z0-9xn._-]{0,5}|xn--[a-z-]{0,5})(/[ -~\u{7f}]{0,3})?",
    ) {
        if let Some(jid) = plain(&s) {
            let long = Jid::parse_any(&s);
            prop_assert_eq!(long.as_ref(), Ok(&jid));
            let long = long.ok();
            prop_assert_eq!(long.as_ref().and_then(Jid::local), jid.local());
            prop_assert_eq!(long.as_ref().map(Jid::domain), Some(jid.domain()));
        }
    }

    #[test]
    fn each_part_is_stable(local in any_text(), domain in any_text(), resource in any_text()) {
        if let Ok(once) = prepare_local(&local) {
            let twice = prepare_local(&once);
            prop_assert_eq!(twice.as_deref(), Ok(&*once));
        }
        if let Ok(once) = prepare_domain(&domain) {
            let twice = prepare_domain(&once);
            prop_assert_eq!(twice.as_deref(), Ok(&*once));
        }
        if let Ok(once) = prepare_resource(&resource) {
            let twice = prepare_resource(&once);
            prop_assert_eq!(twice.as_deref(), Ok(&*once));
        }
    }

    #[test]
    fn case_does_not_make_an_account(name in "[a-zA-Z0-9._~-]{1,20}") {
        let lower = Jid::from_parts(Some(&name.to_lowercase()), "example.org", None);
        let upper = Jid::from_parts(Some(&name.to_uppercase()), "EXAMPLE.ORG", None);
        prop_assert!(lower.is_ok());
        prop_assert_eq!(lower, upper);
    }

    /// A localpart we take is the one that the `jid` crate takes; it takes no others that nodeprep
    /// leaves alone the second time.
    #[test]
    fn agrees_with_the_jid_crate_on_localparts(s in any_text()) {
        let ours = prepare_local(&s).ok();
        let once = jid::NodePart::new(&s).ok().map(|node| node.to_string());
        let theirs = once.filter(|once| {
            !s.contains(tables::unassigned_code_point)
                && jid::NodePart::new(once).is_ok_and(|twice| twice.as_str() == once)
        });
        prop_assert_eq!(ours.as_deref(), theirs.as_deref());
    }

    #[test]
    fn agrees_with_the_jid_crate_on_old_resourceparts(s in any_text()) {
        let young = |c| tables::unassigned_code_point(c) || c == '\u{1680}';
        let s = s.replace(young, "");
        let ours = prepare_resource(&s).ok();
        let theirs = jid::ResourcePart::new(&s).ok().map(|part| part.to_string());
        prop_assert_eq!(ours.as_deref(), theirs.as_deref());
    }

    #[test]
    fn agrees_with_the_jid_crate_on_plain_addresses(
        s in "([a-zA-Z0-9.]{1,8}@)?[a-zA-Z][a-zA-Z0-9]{0,8}(\\.[a-z]{2,5}){0,2}(/[ -~]{1,8})?"
    ) {
        let ours = Jid::parse(&s).map(|jid| jid.to_string()).ok();
        let theirs = jid::Jid::new(&s).map(|jid| jid.to_string()).ok();
        prop_assert_eq!(ours, theirs);
    }
}
