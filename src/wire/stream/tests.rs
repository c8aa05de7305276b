//! Transcripts are the main test of this state machine (`tests/scripts`); here is what they cannot
//! say.

use super::*;

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        hosts: vec![Jid::parse("localhost").expect("a domain")],
        starttls: true,
        tls_required: true,
        attempts: 3,
        features: Vec::new(),
    })
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
