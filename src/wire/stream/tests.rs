//! Transcripts are the main test of this state machine (`tests/scripts`); here is what they cannot
//! say.

use super::*;
use crate::{Event, Limits, Scanner};

fn settings() -> Arc<Settings> {
    let hosts = vec![Jid::parse("localhost").expect("a domain")];
    Arc::new(Settings { tls_required: true, attempts: 3, ..Settings::new(hosts) })
}

#[test]
fn a_bound_stream_is_small() {
    assert!(size_of::<Stream>() <= 64, "{}", size_of::<Stream>());
}

#[test]
fn a_farewell_before_the_header_opens_the_stream_first() {
    let mut stream = Stream::new(settings(), None);
    let error = StreamError::new(StreamCondition::ConnectionTimeout);
    let last = stream.farewell(Some(&error), &mut || "fresh".into());
    let last = String::from_utf8_lossy(&last);
    assert!(last.starts_with("<?xml version='1.0'?><stream:stream "), "{last}");
    assert!(last.contains("id='fresh'") && last.ends_with("</stream:stream>"), "{last}");
}

#[test]
fn nothing_happens_after_the_farewell() {
    let mut stream = Stream::new(settings(), None);
    stream.farewell(None, &mut || "fresh".into());
    let frame = Frame::parse("<message/>").expect("a stanza");
    assert!(stream.step(Input::Frame(frame), &mut || "fresh".into()).is_empty());
}

#[test]
fn a_language_that_is_none_is_not_stamped_on_every_stanza() {
    for (lang, kept) in [("de-CH-1996".to_owned(), true), ("x".repeat(9_000), false)] {
        let mut stream = Stream::new(settings(), None);
        let header = format!(
            "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' \
             to='localhost' version='1.0' xml:lang='{lang}'>"
        );
        let (_, event) = Scanner::new(Limits::MAX).feed(header.as_bytes()).expect("a header");
        let Some(Event::Open(header)) = event else { panic!("{event:?}") };
        stream.step(Input::Header(header), &mut || "fresh".into());
        assert_eq!(stream.lang().is_some(), kept);
    }
}

/// What a client is sent at the end of a login by SASL 2 that brings this along.
fn logged_in(inline: &str) -> String {
    let mut stream = Stream::new(settings(), Some(TlsUp::default()));
    let header = "<stream:stream xmlns='jabber:client' \
                  xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>";
    let (_, event) = Scanner::new(Limits::MAX).feed(header.as_bytes()).expect("a header");
    let Some(Event::Open(header)) = event else { panic!("{event:?}") };
    // "\0alice\0secret"
    let login = format!(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'>\
         <initial-response>AGFsaWNlAHNlY3JldA==</initial-response>{inline}</authenticate>"
    );
    let frame = Frame::parse(login).expect("is well-formed");
    let mut inputs = vec![Input::Frame(frame), Input::Header(header)];
    let mut last = Bytes::new();
    while let Some(input) = inputs.pop() {
        for effect in stream.step(input, &mut || "fresh".into()) {
            match effect {
                Effect::Send(bytes) => last = bytes,
                Effect::CheckPassword { user, .. } => inputs.push(Input::Checked(Ok(user))),
                Effect::Enter { .. } => inputs.push(Input::Entered(Ok(()))),
                Effect::Bind(_) => {
                    let jid = Jid::parse("alice@localhost/here").expect("an address");
                    inputs.push(Input::Bound(Ok(Bound { jid, features: Bytes::new() })));
                }
                Effect::Manage(_) => {
                    inputs.push(Input::Managed(Ok(Enabled { resumable: None })));
                }
                _ => panic!("asks for something else"),
            }
        }
    }
    String::from_utf8_lossy(&last).into_owned()
}

#[test]
fn stream_management_that_was_enabled_with_the_login_is_not_announced_again() {
    let sm = "<sm xmlns='urn:xmpp:sm:3'/>";
    let bind = |inner: &str| format!("<bind xmlns='urn:xmpp:bind:0'>{inner}</bind>");
    for (inline, announced) in
        [(String::new(), true), (bind(""), true), (bind("<enable xmlns='urn:xmpp:sm:3'/>"), false)]
    {
        let features = logged_in(&inline);
        assert!(features.starts_with("<stream:features>"), "{features}");
        assert_eq!(features.contains(sm), announced, "{inline}: {features}");
    }
}
