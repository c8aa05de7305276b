//! A server that dies at each of its writes in turn while clients come back to it and are written
//! down; just before the write, and just behind it. The next one finds what it left: tokens that its
//! clients have are good, no login can be repeated, and of messages nothing that was acknowledged is
//! lost, and nothing comes twice to a client that says what it has.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use server::{
    clock::Clock,
    config::Span,
    pace::Pace,
    store::{Op, SharedStore},
};
use tokio::sync::{Notify, watch};
use wire::stream::Enable;

use crate::{
    crash::attr,
    cut_bytes::{Device, NEVER, Way, Wire, connect, element, log_in, message, number},
    stores::{Between, Disk, one_less},
    world::{Remote, START, World, assert_eventually, bind_request},
    xml::Item,
};

impl Disk {
    async fn world(&self, store: SharedStore) -> World {
        let clock = Clock::manual(START);
        let world = World::start_keyed(store, self.keys(), clock, plugins::ALL, |config| {
            // Whatever writes by itself would die in the place of what is looked at.
            config.history.retention = Span::OFF;
            config.sessions.close_wait = Span::OFF;
        });
        let world = world.await;
        world.server.wake_up().await.expect("is read");
        world
    }

    /// A server that takes so many commits. Nobody hears of the `last` one, which is written all the
    /// same if it is to die `behind` that, nor of any that follow.
    async fn mortal(&self, last: usize, behind: bool) -> (World, Arc<Notify>) {
        let dead = Arc::new(Notify::new());
        let (left, told) = (AtomicUsize::new(last), dead.clone());
        let mortal = Between::new(self.store.clone(), move |store, batch| {
            let left = one_less(&left);
            if left.is_some_and(|left| left > 1) {
                return store.commit(batch);
            }
            let written = (left.is_some() && behind).then(|| store.commit(batch));
            let dead = told.clone();
            Box::pin(async move {
                if let Some(written) = written {
                    written.await?;
                }
                dead.notify_one();
                std::future::pending().await
            })
        });
        (self.world(mortal).await, dead)
    }
}

/// Tries what comes with so few writes that the server dies at each of them, until it survives.
async fn at_each_write(test: impl AsyncFn(usize, bool) -> bool) {
    for behind in [false, true] {
        let mut last = 1;
        while test(last, behind).await {
            last += 1;
            assert!(last < 60, "it writes no end");
        }
        assert!(last > 3, "it has died at {last} writes only");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_as_it_replaces_a_token_locks_nobody_out_and_lets_nobody_repeat() {
    at_each_write(async |last, behind| {
        let disk = Disk::new();
        let first = disk.world(disk.store.clone()).await;
        first.account("alice").await;
        let mut device = Device::new(Way::Token);
        drop(device.arrive(&first).await);
        let mut wire = connect(&first, Way::Token, NEVER).await;
        device.come_back(&mut wire, 0, false).await.expect("is let in");
        drop((wire, first));

        let (second, dead) = disk.mortal(last, behind).await;
        let mut wire = connect(&second, Way::Token, NEVER).await;
        let died = tokio::select! {
            biased;
            () = dead.notified() => true,
            came = device.come_back(&mut wire, 0, false) => {
                came.expect("it lives");
                false
            }
        };
        drop((wire, second));

        let third = disk.world(disk.store.clone()).await;
        if device.tokens.len() == 2 {
            // It has heard that it was let in: whoever has overheard that cannot say the same.
            let mut thief = Device::new(Way::Token);
            (thief.tokens, thief.count) = (vec![device.tokens[0].clone()], device.count - 1);
            let mut wire = connect(&third, Way::Token, NEVER).await;
            let said = thief.come_back(&mut wire, 0, false).await.expect_err("is a repetition");
            assert!(said.contains("<failure"), "{said}");
        }
        let mut wire = connect(&third, Way::Token, NEVER).await;
        let old = last.is_multiple_of(2);
        let back = device.come_back(&mut wire, 0, old).await;
        back.unwrap_or_else(|why| panic!("write {last}, behind it: {behind}: {why}"));
        died
    })
    .await;
}

/// A sender whose stanzas are counted.
struct Bob {
    client: Remote,
    sent: u32,
}

impl Bob {
    async fn new(world: &World) -> Self {
        let mut client = world.bound("bob", "w").await;
        client.send("<enable xmlns='urn:xmpp:sm:3'/>").await;
        client.expect("<enabled xmlns='urn:xmpp:sm:3' …/>").await;
        Self { client, sent: 0 }
    }

    /// Says something, and hears that the server has it.
    async fn say(&mut self, acknowledged: &mut usize) {
        let xml = message("alice@localhost", *acknowledged + 1) + "<r xmlns='urn:xmpp:sm:3'/>";
        self.client.send(xml).await;
        self.sent += 1;
        loop {
            match self.client.next().await {
                Ok(Some(Item::Element(tree))) if tree.local == "a" => {
                    assert_eq!(number(&tree, "h"), self.sent);
                    *acknowledged += 1;
                    return;
                }
                Ok(Some(Item::Element(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Goes on with the stream, or begins a new one if that is over; what is there for it.
async fn return_to(world: &World, device: &mut Device, wanted: usize) -> Wire {
    let mut wire = connect(world, Way::Classic, NEVER).await;
    log_in(&mut wire).await.expect("is let in");
    let (h, id) = (device.h, &device.previd);
    wire.send(format!("<resume xmlns='urn:xmpp:sm:3' h='{h}' previd='{id}'/>")).await;
    if element(&mut wire).await.expect("an answer").local == "failed" {
        wire.send(bind_request("r")).await;
        wire.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
        for wanted in ["iq", "enabled"] {
            assert_eq!(element(&mut wire).await.expect("an answer").local, wanted);
        }
        device.h = 0;
        wire.send("<presence/>").await;
    }
    // Some of it comes from storage; what is lost never comes.
    for _ in 0..500 {
        device.have_all(world, &mut wire).await;
        if device.came.len() >= wanted {
            break;
        }
    }
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_as_it_wakes_a_session_or_puts_it_to_sleep_neither_loses_nor_doubles() {
    at_each_write(async |last, behind| {
        let disk = Disk::new();
        let first = disk.world(disk.store.clone()).await;
        first.account("alice").await;
        first.account("bob").await;
        let mut device = Device::new(Way::Classic);
        let mut wire = device.arrive(&first).await;
        let (mut bob, mut acknowledged) = (Bob::new(&first).await, 0);
        for _ in 0..2 {
            bob.say(&mut acknowledged).await;
        }
        device.take(&mut wire).await.expect("a message");
        drop(wire);
        bob.say(&mut acknowledged).await;
        first.server.shutdown().await;
        drop((bob, first));

        let (second, dead) = disk.mortal(last, behind).await;
        let mut wire = connect(&second, Way::Classic, NEVER).await;
        let script = async {
            let mut bob = Bob::new(&second).await;
            bob.say(&mut acknowledged).await;
            device.come_back(&mut wire, acknowledged, false).await.expect("it lives");
            bob.say(&mut acknowledged).await;
            while device.came.len() < acknowledged {
                device.take(&mut wire).await.expect("it lives");
            }
            bob.say(&mut acknowledged).await;
            second.server.shutdown().await;
        };
        let died = tokio::select! {
            biased;
            () = dead.notified() => true,
            () = script => false,
        };
        drop((wire, second));

        let third = disk.world(disk.store.clone()).await;
        drop(return_to(&third, &mut device, acknowledged).await);
        // Whoever else comes finds nothing that has been delivered.
        let mut other = third.bound("alice", "other").await;
        other.send("<presence><priority>5</priority></presence>").await;
        other.send("<iq type='get' id='end'><ping xmlns='urn:xmpp:ping'/></iq>").await;
        loop {
            match other.next().await {
                Ok(Some(Item::Element(tree))) if attr(&tree, "id") == Some("end") => break,
                Ok(Some(Item::Element(tree))) => {
                    assert_ne!(tree.local, "message", "write {last}, behind it: {behind}");
                }
                other => panic!("{other:?}"),
            }
        }
        let when = format!("write {last}, behind it: {behind}: {:?}", device.came);
        assert!(device.came.is_sorted_by(|a, b| a < b), "each once and in order; {when}");
        for one in 1..=acknowledged {
            assert!(device.came.contains(&one), "{one} was acknowledged; {when}");
        }
        died
    })
    .await;
}

#[tokio::test]
async fn what_came_before_a_session_counted_is_not_struck_off_by_its_count() {
    let disk = Disk::new();
    let first = disk.world(disk.store.clone()).await;
    first.account("alice").await;
    first.account("bob").await;
    let session = first.phantom("alice", "r").await;
    let mut bob = Bob::new(&first).await;
    bob.client.send(message("alice@localhost/r", 1) + "<r xmlns='urn:xmpp:sm:3'/>").await;
    bob.client.expect("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    // Its connection takes what came before only behind this, as one does that is busy.
    let enable = Enable { resume: true, max: None };
    let (enabled, _lease) = first.server.manage(&session, enable).expect("can be managed");
    let mut device = Device::new(Way::Classic);
    device.previd = enabled.resumable.expect("can be resumed").0;
    drop((bob, first));

    let second = disk.world(disk.store.clone()).await;
    drop(return_to(&second, &mut device, 1).await);
    assert_eq!(device.came, [1]);
}

#[tokio::test]
async fn a_session_that_is_ended_while_the_server_stops_does_not_come_back() {
    let disk = Disk::new();
    let first = disk.world(disk.store.clone()).await;
    first.account("alice").await;
    drop(Device::new(Way::Classic).arrive(&first).await);
    first.server.shutdown().await;
    drop(first);

    let second = disk.world(disk.store.clone()).await;
    let session = second.session("alice@localhost/r");
    let elsewhere = "b.example".parse().expect("a host");
    let pace = Pace::per_second(1_000).expect("is not 0");
    second.server.move_clients(&elsewhere, pace).await;
    assert!(second.server.settled(&session).await);
    second.server.shutdown().await;
    drop(second);

    let third = disk.world(disk.store.clone()).await;
    assert_eq!(third.server.registry.counts().total, 0, "it was told to go elsewhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stanza_that_was_counted_is_seen_through_though_its_connection_is_cut_meanwhile() {
    let disk = Disk::new();
    let (open, ready) = watch::channel(false);
    let waiting = Arc::new(AtomicUsize::new(0));
    let kept = waiting.clone();
    // Takes nothing for accounts that are not there until it may.
    let slow = Between::new(disk.store.clone(), move |store, batch| {
        let offline = |op: &Op| matches!(op, Op::Put { table, .. } if table.name == "offline");
        if !batch.ops.iter().any(offline) {
            return store.commit(batch);
        }
        kept.fetch_add(1, Ordering::SeqCst);
        let (store, mut ready) = (store.clone(), ready.clone());
        Box::pin(async move {
            let _ = ready.wait_for(|ready| *ready).await;
            store.commit(batch).await
        })
    });
    let world = disk.world(slow).await;
    world.account("alice").await;
    let bob = world.account("bob").await;
    let mut device = Device::new(Way::Classic);
    let mut wire = device.arrive(&world).await;
    wire.send(message("bob@localhost", 1)).await;
    assert_eventually("it is being kept", || waiting.load(Ordering::SeqCst) == 1).await;

    let mut again = connect(&world, Way::Classic, NEVER).await;
    log_in(&mut again).await.expect("is let in");
    let (h, id) = (device.h, &device.previd);
    again.send(format!("<resume xmlns='urn:xmpp:sm:3' h='{h}' previd='{id}'/>")).await;
    // Nothing is kept open for long: the older connection is gone before the disk is ready.
    while wire.next().await.is_ok_and(|item| item.is_some()) {}
    open.send_replace(true);
    let resumed = element(&mut again).await.expect("it goes on");
    assert_eq!((resumed.local.as_str(), number(&resumed, "h")), ("resumed", 2));
    let kept = world.server.store.count(&plugins::offline::OFFLINE, bob.id.0).await;
    assert_eq!(kept, Ok(1), "it was counted, and its sender will not send it again");
}
