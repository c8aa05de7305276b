//! How sessions end, whatever the cause: one end, one event, one record, and what had waited for
//! the session finds another way.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use server::{
    Session,
    config::Span,
    end::{End, Outcome, Reason},
    events::{Change, Event},
    hooks::Flow,
    id::SessionId,
    mailbox::Parcel,
    plugin::{Plugin, Setup},
};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};
use wire::Kind;

use crate::{
    dialogue::Link,
    world::{ParseJid, Remote, START, World, admin, assert_eventually},
    xml::Item,
};

/// The ends that were reported so far: reasons by session.
fn ends(events: &mut Receiver<Event>) -> HashMap<SessionId, Vec<Option<Reason>>> {
    let mut ends: HashMap<SessionId, Vec<Option<Reason>>> = HashMap::new();
    loop {
        match events.try_recv() {
            Ok(event) => {
                if let Change::Ended(record) = event.change {
                    let reason = record.map(|record| record.reason);
                    ends.entry(event.session.id).or_default().push(reason);
                }
            }
            Err(TryRecvError::Empty | TryRecvError::Closed) => return ends,
            Err(TryRecvError::Lagged(missed)) => panic!("{missed} events were missed"),
        }
    }
}

#[tokio::test]
async fn lj_34_pr_05_an_end_for_any_reason_is_one_event_and_one_record() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut events = world.server.events.watch();
    for &reason in Reason::ALL {
        let mut client = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        assert!(world.server.end(&session, End::new(reason)), "{reason:?}");
        for late in [Reason::Kicked, Reason::Lost, reason] {
            assert!(!world.server.end(&session, End::new(late)), "{reason:?} again");
        }
        match reason {
            Reason::Lost => client.expect_cut().await.expect("nothing more"),
            Reason::Closed => client.expect_close().await.expect("closes"),
            _ => client.expect_error(reason.condition().as_str()).await,
        }
        drop(client);
        world.empty().await;
        let seen = ends(&mut events);
        assert_eq!(seen, HashMap::from([(session.id, vec![Some(reason)])]));
        let past = world.server.recent.get(session.id).expect("is remembered");
        assert_eq!((past.record.reason, past.record.at), (reason, START));
        let records = world.server.recent.all();
        assert_eq!(records.iter().filter(|past| past.id == session.id).count(), 1);
    }
}

#[tokio::test]
async fn lj_34_what_happens_on_the_wire_ends_a_session_for_the_right_reason() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut events = world.server.events.watch();
    let causes: [(&str, Reason); 5] = [
        ("</stream:stream>", Reason::Closed),
        ("cut", Reason::Lost),
        ("<oops>", Reason::Protocol),
        ("<message from='bob@localhost'/>", Reason::Protocol),
        ("bind", Reason::Replaced),
    ];
    for (cause, reason) in causes {
        let mut client = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        let mut other = None;
        match cause {
            "cut" => client.link.cut(),
            "<oops>" => client.send("<oops><!-- -->").await,
            "bind" => other = Some(world.client("alice").await),
            text => client.send(text).await,
        }
        drop(client);
        assert_eventually("it is settled", || world.server.recent.get(session.id).is_some()).await;
        drop(other);
        world.empty().await;
        let mut seen = ends(&mut events);
        assert_eq!(seen.remove(&session.id), Some(vec![Some(reason)]), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn iv_04_pr_05_of_many_who_end_a_session_one_wins_and_all_wait_for_it() {
    let world = World::start(|config| config.limits.per_address = 0).await;
    world.account("alice").await;
    let mut events = world.server.events.watch();
    for round in 0..40 {
        let mut client = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        let won = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for task in 0..8 {
            let (server, session, won) = (world.server.clone(), session.clone(), won.clone());
            tasks.push(tokio::spawn(async move {
                let reason = if task % 2 == 0 { Reason::Kicked } else { Reason::Ended };
                let ours = server.end(&session, End::new(reason));
                let outcome = Outcome::of(server.settled(&session).await, ours);
                match outcome {
                    Outcome::Ended => won.fetch_add(1, Ordering::SeqCst),
                    Outcome::AlreadyEnded => 0,
                    Outcome::Lingering => panic!("it did not go"),
                };
                assert!(server.registry.get(session.id).is_none(), "it is really gone");
            }));
        }
        // The client leaves at the same moment, one way or the other.
        if round % 2 == 0 {
            client.send("</stream:stream>").await;
        }
        drop(client);
        for task in tasks {
            task.await.expect("does not panic");
        }
        assert!(won.load(Ordering::SeqCst) <= 1);
        let seen = ends(&mut events);
        assert_eq!(seen.get(&session.id).map(Vec::len), Some(1), "round {round}: {seen:?}");
    }
}

/// The number of the next message.
async fn number(client: &mut Remote) -> usize {
    loop {
        match client.next().await {
            Ok(Some(Item::Element(tree))) if tree.local == "message" => {
                let id = &tree.attrs[&(String::new(), "id".to_owned())];
                return id.parse().expect("a number");
            }
            Ok(Some(Item::Element(_))) => {}
            other => panic!("{other:?} instead of a message"),
        }
    }
}

/// Sends numbered messages to `to` until the session `slow` has ended; the number of the last one.
async fn flood(alice: &mut Remote, to: &str, slow: &Session) -> usize {
    let body = "x".repeat(30_000);
    for id in 1..2_000 {
        let text =
            format!("<message to='{to}' type='chat' id='{id}'><body>{body}</body></message>");
        alice.send(text).await;
        if id % 8 == 0 {
            alice.settle().await;
        }
        if !slow.alive() {
            return id;
        }
    }
    panic!("it never ended");
}

/// A server that can be flooded, and that waits for nobody for long.
async fn impatient() -> World {
    World::start(|config| {
        config.limits.mailbox_bytes = 1 << 20;
        config.limits.bound.bytes_per_second = 0;
        config.sessions.close_wait = Span::seconds(1);
    })
    .await
}

#[tokio::test]
async fn b_24_who_does_not_read_is_ended_and_what_waited_is_kept() {
    let world = impatient().await;
    world.account("alice").await;
    world.account("bob").await;
    let mut alice = world.client("alice").await;
    let slow = world.available("bob", "slow").await;
    let session = world.session("bob@localhost/slow");
    let last = flood(&mut alice, "bob@localhost/slow", &session).await;
    assert_eventually("it is settled", || world.server.recent.get(session.id).is_some()).await;
    let record = session.end_record().expect("has ended");
    assert_eq!(record.reason, Reason::SlowReader);
    alice.settle().await;

    let mut again = world.bound("bob", "again").await;
    again.send("<presence/>").await;
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        seen.push(number(&mut again).await);
    }
    assert!(seen.len() > 20, "{seen:?}");
    assert!(seen.is_sorted_by(|a, b| a + 1 == *b), "in order, none missing or twice: {seen:?}");
    again.settle().await;
    drop(slow);
}

#[tokio::test]
async fn b_24_what_waited_for_who_does_not_read_goes_to_another_session() {
    let world = impatient().await;
    world.account("alice").await;
    world.account("bob").await;
    let mut alice = world.client("alice").await;
    let slow = world.available("bob", "slow").await;
    let mut other = world.available("bob", "other").await;
    let session = world.session("bob@localhost/slow");
    let last = flood(&mut alice, "bob@localhost/slow", &session).await;
    let mut seen = Vec::new();
    while seen.len() < 20 {
        seen.push(number(&mut other).await);
    }
    let distinct: HashSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "none twice: {seen:?}");
    assert!(seen.iter().all(|id| *id <= last));
    drop(slow);
}

#[tokio::test]
async fn b_24_a_message_to_two_sessions_comes_to_each_once_however_the_other_ends() {
    let world = impatient().await;
    world.account("alice").await;
    world.account("bob").await;
    let mut alice = world.client("alice").await;
    let slow = world.available("bob", "slow").await;
    let mut other = world.available("bob", "other").await;
    let session = world.session("bob@localhost/slow");
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            match number(&mut other).await {
                0 => return seen,
                id => seen.push(id),
            }
        }
    });
    let last = flood(&mut alice, "bob@localhost", &session).await;
    assert_eventually("it is settled", || world.server.recent.get(session.id).is_some()).await;
    alice.send("<message to='bob@localhost' id='0'><body>over</body></message>").await;
    let seen = reader.await.expect("does not panic");
    assert_eq!(seen, (1..=last).collect::<Vec<_>>(), "all, in order, once");
    drop(slow);
}

/// What the plugins below have seen.
#[derive(Default)]
struct Seen {
    ends: AtomicUsize,
    deletions: AtomicUsize,
    late: AtomicUsize,
}

/// Has its own idea of what is over.
const CURT: Plugin = Plugin { name: "curt", about: "Decides", specs: &[], setup: curt };
/// Looks on, and tries to reach a session that has ended.
const WITNESS: Plugin = Plugin { name: "witness", about: "Looks on", specs: &[], setup: witness };
static BOTH: [Plugin; 2] = [CURT, WITNESS];

fn curt(setup: &mut Setup<'_>) {
    setup.ended(|_| Flow::Done);
    setup.account_deleted(|_| Flow::later(async { Flow::Done }));
}

fn witness(setup: &mut Setup<'_>) {
    setup.ended(|cx| {
        let seen = cx.server.slot::<Seen>();
        seen.ends.fetch_add(1, Ordering::SeqCst);
        let parcel = Parcel::whole(Kind::Message, "<message/>".into());
        if cx.server.push(&cx.session, parcel) {
            seen.late.fetch_add(1, Ordering::SeqCst);
        }
        Flow::Next
    });
    setup.account_deleted(|cx| {
        cx.server.slot::<Seen>().deletions.fetch_add(1, Ordering::SeqCst);
        Flow::Next
    });
}

#[tokio::test]
async fn a_plugin_that_decides_does_not_hide_an_end_from_the_others() {
    let world = World::start_with(&BOTH, |_| {}).await;
    world.account("alice").await;
    drop(world.client("alice").await);
    world.empty().await;
    let seen = world.server.slot::<Seen>();
    assert_eq!(seen.ends.load(Ordering::SeqCst), 1);
    world.server.delete_account(&"alice@localhost".parse_jid(), admin()).await.expect("is there");
    assert_eq!(seen.deletions.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn ro_02_pr_05_b_03_nothing_enters_the_mailbox_of_a_session_once_it_is_ending() {
    let world = World::start_with(&BOTH[1..], |_| {}).await;
    world.account("alice").await;
    let _client = world.client("alice").await;
    let session = world.session("alice@localhost/r");
    assert!(world.server.end(&session, End::new(Reason::Kicked)));
    let seen = world.server.slot::<Seen>();
    assert_eq!(seen.ends.load(Ordering::SeqCst), 1);
    assert_eq!(seen.late.load(Ordering::SeqCst), 0, "what is pushed now would be lost");
}

/// Takes its time over every message, and remembers when it was done.
static SLOW: [Plugin; 1] = [Plugin { name: "slow", about: "Waits", specs: &[], setup: slow }];

/// What [`SLOW`] has begun and finished.
#[derive(Default)]
struct Work {
    begun: AtomicUsize,
    finished: AtomicUsize,
}

fn slow(setup: &mut Setup<'_>) {
    setup.inbound(|cx| {
        let work = cx.server.slot::<Work>();
        work.begun.fetch_add(1, Ordering::SeqCst);
        Flow::later(async move {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            work.finished.fetch_add(1, Ordering::SeqCst);
            Flow::Done
        })
    });
}

#[tokio::test]
async fn a_stanza_that_was_taken_in_is_seen_through_though_its_session_ends() {
    let world = World::start_with(&SLOW, |_| {}).await;
    world.account("alice").await;
    let work = world.server.slot::<Work>();
    for (round, goes) in [(1, false), (2, true)] {
        let mut client = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        client.send("<message/>").await;
        assert_eventually("it is at work", || work.begun.load(Ordering::SeqCst) == round).await;
        if goes {
            drop(client);
            assert!(world.server.end(&session, End::new(Reason::Shutdown)));
            assert!(world.server.settled(&session).await);
        } else {
            assert!(world.server.end(&session, End::new(Reason::Kicked)));
            client.expect_error("policy-violation").await;
            drop(client);
            assert!(world.server.settled(&session).await);
        }
        assert_eq!(work.finished.load(Ordering::SeqCst), round, "it was dropped half-way");
    }
}

#[tokio::test]
async fn what_waits_when_the_server_stops_is_kept_once() {
    let world = World::start(|config| {
        config.limits.bound.bytes_per_second = 0;
        config.sessions.close_wait = Span::seconds(1);
    })
    .await;
    world.account("alice").await;
    let bob = world.account("bob").await;
    let mut alice = world.client("alice").await;
    let _deaf = [world.available("bob", "one").await, world.available("bob", "two").await];
    let sessions = ["one", "two"].map(|name| world.session(&format!("bob@localhost/{name}")));
    let body = "x".repeat(30_000);
    let mut sent = 0;
    while sessions.iter().any(|session| session.mailbox.bytes() < 500_000) {
        sent += 1;
        alice.send(format!("<message to='bob@localhost'><body>{body}</body></message>")).await;
        alice.settle().await;
        assert!(sent < 2_000, "they read");
    }
    let waiting = sessions.each_ref().map(|session| session.mailbox.bytes() / 30_000);
    drop(alice);
    world.server.shutdown().await;
    let kept = world.server.store.count(&plugins::offline::OFFLINE, bob.id.0).await;
    let kept = usize::try_from(kept.expect("can be read")).expect("is small");
    // A message that one of the two has taken over has been delivered.
    let least = waiting.into_iter().min().unwrap_or(0);
    assert!(least > 10 && (least - 2..=least).contains(&kept), "{kept} of {waiting:?}");
}

/// Falls over at a message that says so.
static CLUMSY: [Plugin; 1] =
    [Plugin { name: "clumsy", about: "Falls over", specs: &[], setup: clumsy }];

fn clumsy(setup: &mut Setup<'_>) {
    setup.inbound(|cx| match cx.frame.id().as_deref() {
        Some("now") => panic!("as the test wants it"),
        Some("later") => Flow::later(async { panic!("as the test wants it") }),
        _ => Flow::Next,
    });
}

#[tokio::test]
async fn a_panic_in_one_connection_ends_that_session_and_no_other() {
    let world = World::start_with(&CLUMSY, |_| {}).await;
    world.account("alice").await;
    world.account("bob").await;
    let mut bob = world.client("bob").await;
    let mut events = world.server.events.watch();
    for id in ["now", "later"] {
        let mut alice = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        alice.send(format!("<message to='bob@localhost/r' id='{id}'/>")).await;
        alice.expect_cut().await.expect("no more than that");
        assert_eventually("it is settled", || world.server.recent.get(session.id).is_some()).await;
        let seen = ends(&mut events);
        assert_eq!(seen.get(&session.id), Some(&vec![Some(Reason::Internal)]), "{id}");
        let mut again = world.client("alice").await;
        again.send("<message to='bob@localhost/r' id='fine'/>").await;
        bob.expect("<message from='alice@localhost/r' to='bob@localhost/r' id='fine'/>").await;
        drop(again);
        assert_eventually("only bob is left", || world.server.registry.counts().total == 1).await;
    }
}
