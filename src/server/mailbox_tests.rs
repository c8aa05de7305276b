//! Tests of the mailbox: its steps one by one, and against a client that keeps count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
};

use bytes::Bytes;

use super::*;

fn parcel(text: &'static str) -> Parcel {
    Parcel::whole(Kind::Message, Bytes::from_static(text.as_bytes()))
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn keeps_order_and_counts_bytes() {
    let mailbox = Mailbox::default();
    for text in ["one", "three", "five"] {
        mailbox.push(parcel(text), 100).expect("there is room");
    }
    assert_eq!(mailbox.bytes(), 12);
    let mut seen = Vec::new();
    mailbox.take(Holder::default(), 4, Waker::noop(), |p| p.pieces(|b| seen.push(b)));
    assert_eq!(seen, ["one", "three"], "stops once the budget is spent");
    assert_eq!(mailbox.bytes(), 4);
}

#[test]
fn a_full_mailbox_refuses_but_an_empty_one_takes_any_size() {
    let mailbox = Mailbox::default();
    mailbox.push(parcel("larger than the limit"), 4).expect("the first always fits");
    assert!(matches!(mailbox.push(parcel("x"), 4), Err(Refused::Full(_))));
}

#[test]
fn a_mark_is_passed_whatever_comes_behind_it() {
    let mailbox = Mailbox::default();
    assert!(mailbox.passed(mailbox.mark()));
    mailbox.push(parcel("a"), 9).expect("there is room");
    let mark = mailbox.mark();
    mailbox.push(parcel("b"), 9).expect("there is room");
    assert!(!mailbox.passed(mark));
    mailbox.take(Holder::default(), 1, Waker::noop(), |_| {});
    assert!(mailbox.passed(mark), "though `b` still waits");
}

#[test]
fn of_forked_copies_that_nobody_gets_exactly_one_goes_elsewhere() {
    let first = parcel("a").forked();
    let (second, third) = (first.clone(), first.clone());
    let elsewhere = [first, second, third].map(|mut copy| !copy.has_another_copy());
    assert_eq!(elsewhere, [false, false, true]);
    assert!(!parcel("not forked").has_another_copy());

    let (mailbox, copy) = (Mailbox::default(), parcel("a").forked());
    let mut given_up = copy.clone();
    mailbox.push(copy, 9).expect("open");
    mailbox.take(Holder::default(), 9, Waker::noop(), drop);
    assert!(given_up.has_another_copy(), "a connection has it");
}

#[test]
fn wakes_once_per_wait_and_nothing_enters_after_close() {
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let mailbox = Mailbox::default();
    mailbox.take(Holder::default(), 1, &waker, |_| {});
    mailbox.push(parcel("a"), 9).expect("open");
    mailbox.push(parcel("b"), 9).expect("open");
    assert_eq!(count.0.load(Ordering::SeqCst), 1, "one wake-up per wait");
    mailbox.close();
    assert!(matches!(mailbox.push(parcel("c"), 9), Err(Refused::Closed(_))));
    assert_eq!(mailbox.leftover().len(), 2);
    assert_eq!(mailbox.bytes(), 0);
}

/// Takes everything, and gives the texts.
fn all(mailbox: &Mailbox, holder: Holder) -> (Take, Vec<Bytes>) {
    let mut seen = Vec::new();
    let take = mailbox.take(holder, 99, Waker::noop(), |p| p.pieces(|b| seen.push(b)));
    (take, seen)
}

#[test]
fn what_is_not_acknowledged_stays_and_counts_against_the_limit() {
    let mailbox = Mailbox::default();
    let first = Holder::default();
    mailbox.push(parcel("before"), 99).expect("open");
    assert_eq!(all(&mailbox, first), (Take::Some { ask: false }, vec!["before".into()]));
    assert!(mailbox.manage() && !mailbox.manage());
    for text in ["a", "bb", "ccc"] {
        mailbox.push(parcel(text), 6).expect("there is room");
    }
    assert_eq!(all(&mailbox, first).0, Take::Some { ask: true });
    assert_eq!((mailbox.bytes(), mailbox.untaken(), mailbox.unacknowledged()), (6, 0, 3));
    assert!(matches!(mailbox.push(parcel("d"), 6), Err(Refused::Full(_))));
    assert_eq!(mailbox.ack(first, 4), Err(TooHigh { h: 4, sent: 3 }));
    assert_eq!(mailbox.ack(first, 2), Ok(Acked::Noted), "an answer, if not about all of them");
    mailbox.push(parcel("d"), 6).expect("there is room again");
    assert_eq!(mailbox.ack(first, 3), Ok(Acked::Noted));
    assert_eq!(all(&mailbox, first).0, Take::Some { ask: true });
    mailbox.push(parcel("e"), 6).expect("there is room");
    assert_eq!(all(&mailbox, first).0, Take::Some { ask: false }, "asked already");
    assert_eq!(mailbox.ack(first, 4), Ok(Acked::AskAgain), "about what was sent behind it");
    assert_eq!(mailbox.ack(first, 2), Err(TooHigh { h: 2, sent: 5 }), "it does not go back");
    assert_eq!(mailbox.leftover().len(), 1);
}

#[test]
fn a_client_that_counts_less_than_it_gets_has_answered_and_is_asked_again() {
    let mailbox = Mailbox::default();
    mailbox.manage();
    for text in ["a", "b", "c"] {
        mailbox.push(parcel(text), 99).expect("open");
        assert_eq!(all(&mailbox, Holder::default()).0, Take::Some { ask: true }, "{text}");
        assert_eq!(mailbox.ack(Holder::default(), 0), Ok(Acked::Noted));
    }
    assert_eq!(mailbox.unacknowledged(), 3);
}

#[test]
fn who_claims_the_stream_gets_what_was_not_handled_and_whoever_had_it_nothing() {
    let mailbox = Mailbox::default();
    let old = Holder::default();
    mailbox.manage();
    for text in ["a", "b", "c"] {
        mailbox.push(parcel(text), 99).expect("open");
    }
    assert_eq!(all(&mailbox, old).1, ["a", "b", "c"]);
    mailbox.push(parcel("d"), 99).expect("open");
    assert!(mailbox.receive(old));
    let too_high = Unclaimed::TooHigh(TooHigh { h: 4, sent: 3 });
    assert_eq!(mailbox.claim(4), Err(too_high));
    assert!(mailbox.receive(old), "a claim that fails changes nothing");
    let (new, counts) = mailbox.claim(1).expect("it may");
    assert_eq!(counts, Counts { acked: 1, handled: 2 });
    assert!(!mailbox.receive(old));
    assert_eq!(all(&mailbox, old), (Take::Displaced, vec![]));
    assert_eq!(all(&mailbox, new).1, ["b", "c", "d"]);
    assert_eq!((mailbox.ack(new, 4), mailbox.bytes()), (Ok(Acked::Noted), 0));
}

#[test]
fn who_comes_back_after_a_restart_may_have_more_than_it_has_acknowledged() {
    let mailbox = Mailbox::default();
    let counts = Counts { acked: 5, handled: 0 };
    mailbox.restore(counts, ["a", "b"].map(parcel), ["c"].map(parcel));
    assert_eq!((mailbox.unacknowledged(), mailbox.bytes()), (2, 3));
    assert_eq!(mailbox.claim(8), Err(Unclaimed::TooHigh(TooHigh { h: 8, sent: 7 })));
    let (holder, _) = mailbox.claim(6).expect("it was sent that much");
    let mark = mailbox.mark();
    assert_eq!(all(&mailbox, holder).1, ["b", "c"]);
    assert!(mailbox.passed(mark) && !mailbox.handed_over(mark));
    assert_eq!((mailbox.ack(holder, 8), mailbox.bytes()), (Ok(Acked::Noted), 0));
    assert!(mailbox.handed_over(mark));
}

#[test]
fn an_acknowledgement_that_a_claim_overtook_neither_counts_nor_is_too_high() {
    for (late, claimed) in [(2, 3), (3, 2)] {
        let mailbox = Mailbox::default();
        let old = Holder::default();
        mailbox.manage();
        for text in ["a", "b", "c"] {
            mailbox.push(parcel(text), 99).expect("open");
        }
        all(&mailbox, old);
        let (new, _) = mailbox.claim(claimed).expect("it may");
        assert_eq!(mailbox.ack(old, late), Ok(Acked::Displaced), "{late} behind {claimed}");
        assert_eq!(all(&mailbox, new).1.len(), 3 - usize::try_from(claimed).expect("few"));
    }
}

#[test]
fn a_count_is_not_too_high_because_the_session_has_just_ended() {
    let mailbox = Mailbox::default();
    mailbox.manage();
    mailbox.push(parcel("a"), 99).expect("open");
    all(&mailbox, Holder::default());
    mailbox.close();
    assert_eq!(mailbox.leftover().len(), 1);
    assert_eq!(mailbox.claim(1), Err(Unclaimed::Closed));
}

#[test]
fn t22_counts_wrap_at_two_to_the_32() {
    let mailbox = Mailbox::default();
    let counts = Counts { acked: u32::MAX, handled: u32::MAX };
    mailbox.restore(counts, [], ["a", "b"].map(parcel));
    let holder = mailbox.holder();
    assert!(mailbox.receive(holder));
    assert_eq!(mailbox.counts(), Some(Counts { acked: u32::MAX, handled: 0 }));
    assert_eq!(all(&mailbox, holder).1.len(), 2);
    assert_eq!(mailbox.ack(holder, 2), Err(TooHigh { h: 2, sent: 1 }));
    assert_eq!(mailbox.ack(holder, 1), Ok(Acked::Noted));
    assert_eq!(mailbox.bytes(), 0);
}

#[test]
fn a_copy_that_was_sent_and_not_acknowledged_has_not_reached_its_client() {
    let mailbox = Mailbox::default();
    mailbox.manage();
    mailbox.push(parcel("a").forked(), 9).expect("open");
    mailbox.take(Holder::default(), 9, Waker::noop(), drop);
    mailbox.close();
    let mut left = mailbox.leftover();
    assert!(!left.pop().expect("it is kept").has_another_copy());
}

proptest::proptest! {
    /// Against the simplest model there is: a list of all that was pushed, and how far the client
    /// has come in it.
    #[test]
    fn m1_m3_a_client_that_resumes_gets_each_parcel_once_and_in_order(
        acts in proptest::collection::vec((0u8..6, 0u8..8), 0..80),
        start in proptest::prelude::any::<u32>(),
    ) {
        let mut mailbox = Mailbox::default();
        mailbox.restore(Counts { acked: start, handled: start }, [], []);
        let (mut holder, mut next) = (mailbox.holder(), 0u32);
        // What the client has on its side: handled ones for good, and those still on the way.
        let (mut handled, mut way): (Vec<u32>, VecDeque<u32>) = Default::default();
        for (act, count) in acts {
            match act {
                0 | 1 => for _ in 0..count {
                    let xml = Bytes::from(next.to_string());
                    mailbox.push(Parcel::whole(Kind::Message, xml), usize::MAX).expect("open");
                    next += 1;
                },
                2 => {
                    let sent = |parcel: Parcel| parcel.pieces(|piece| {
                        let text = std::str::from_utf8(&piece).expect("a number");
                        way.push_back(text.parse().expect("a number"));
                    });
                    mailbox.take(holder, usize::from(count) + 1, Waker::noop(), sent);
                }
                3 => {
                    for _ in 0..count.min(u8::try_from(way.len()).unwrap_or(u8::MAX)) {
                        handled.extend(way.pop_front());
                    }
                    // One that has not come before the connection breaks.
                    if count == 7 {
                        continue;
                    }
                    let h = start.wrapping_add(u32::try_from(handled.len()).expect("few"));
                    mailbox.ack(holder, h).expect("was sent");
                }
                act => {
                    way.clear();
                    if act == 5 {
                        // The server stops, and another one goes on.
                        let now = mailbox.snapshot().expect("managed");
                        mailbox = Mailbox::default();
                        mailbox.restore(now.counts, now.sent, now.waiting);
                    }
                    let h = start.wrapping_add(u32::try_from(handled.len()).expect("few"));
                    holder = mailbox.claim(h).expect("was sent").0;
                }
            }
            let bytes: usize = mailbox.snapshot().iter().flat_map(|now| now.sent.iter().chain(&now.waiting)).map(Parcel::len).sum();
            proptest::prop_assert_eq!(mailbox.bytes(), bytes);
        }
        let expected: Vec<u32> = (0..next).collect();
        let h = start.wrapping_add(u32::try_from(handled.len()).expect("few"));
        mailbox.ack(holder, h).expect("was sent");
        let left: Vec<u32> = mailbox.leftover().into_iter().map(|parcel| {
            let mut number = 0;
            parcel.pieces(|piece| {
                number = std::str::from_utf8(&piece).expect("a number").parse().expect("one");
            });
            number
        }).collect();
        let seen: Vec<u32> = handled.into_iter().chain(left).collect();
        proptest::prop_assert_eq!(seen, expected);
    }
}
