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
