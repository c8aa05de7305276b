//! Sessions that outlive the server: it stops, it starts again on the same store, and whoever had a
//! session that can be resumed goes on with it. What has ended meanwhile stays ended.

use serde_json::json;
use server::{
    change::Standing,
    clock::Clock,
    end::{End, Reason},
    epoch::Scope,
    keyring::KeyRing,
    store::SharedStore,
};
use wire::Secret;

use crate::{
    deadlines::reason,
    history::rows,
    managed::{attribute, content},
    world::{ParseJid, Remote, START, World, admin, assert_eventually},
};

const ALICE: &str = "alice@localhost";

/// What stays over a restart.
pub struct Place {
    dir: tempfile::TempDir,
    memory: Option<SharedStore>,
    clock: Clock,
}

impl Place {
    pub fn new(memory: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, memory: memory.then(store::memory), clock: Clock::manual(START) }
    }

    /// A server that has not looked at what was left to it.
    pub async fn start(&self) -> World {
        let keys = KeyRing::open(&self.dir.path().join("server.key")).expect("keys");
        let store = match &self.memory {
            Some(store) => store.clone(),
            None => store::sqlite(self.dir.path()).expect("opens"),
        };
        World::start_keyed(store, keys, self.clock.clone(), plugins::ALL, |_| {}).await
    }

    pub async fn start_and_wake(&self) -> (World, usize) {
        let world = self.start().await;
        let woken = world.server.wake_up().await.expect("is read");
        (world, woken)
    }

    pub async fn stop(&self, world: World) {
        world.server.shutdown().await;
        if self.memory.is_none() {
            world.server.store.close().await.expect("closes");
        }
    }
}

fn message(to: &str, body: &str) -> String {
    format!("<message type='chat' to='{to}'><body>{body}</body></message>")
}

fn bodies(seen: &[String]) -> Vec<&str> {
    seen.iter().filter_map(|element| content(element, "body")).collect()
}

/// Sends a message, and sees it dealt with.
async fn write(from: &mut Remote, to: &str, body: &str) {
    from.send(message(to, body)).await;
    from.settle().await;
}

#[tokio::test]
async fn iv_21_m4_everything_of_a_session_is_there_after_a_restart() {
    for memory in [true, false] {
        let place = Place::new(memory);
        let world = place.start().await;
        for name in ["alice", "bob", "carol"] {
            world.account(name).await;
        }
        let mut bob = world.available("bob", "r").await;
        let (mut alice, id) = world.managed_available("alice", "r").await;
        let session = world.session("alice@localhost/r");
        let (handle, created) = (session.id, session.created);
        alice.send("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq>").await;
        assert!(alice.quiet_element().await.contains("id='c'"));
        alice.send("<presence to='bob@localhost/r'/>").await;
        bob.expect("<presence from='alice@localhost/r' to='bob@localhost/r'/>").await;
        // Three stanzas so far, of which `1` is acknowledged, `2` is not, and `3` finds nobody.
        write(&mut bob, "alice@localhost/r", "1").await;
        assert_eq!(bodies(&[alice.quiet_element().await]), ["1"]);
        alice.send("<a xmlns='urn:xmpp:sm:3' h='2'/>").await;
        write(&mut bob, "alice@localhost/r", "2").await;
        assert_eq!(bodies(&[alice.quiet_element().await]), ["2"]);
        place.clock.advance(5_000);
        world.lose(alice, "alice@localhost/r").await;
        write(&mut bob, "alice@localhost/r", "3").await;
        drop((bob, session));
        place.clock.advance(1_000);
        place.stop(world).await;

        place.clock.advance(60_000);
        let (world, woken) = place.start_and_wake().await;
        assert_eq!(woken, 1);
        let session = world.session("alice@localhost/r");
        assert_eq!((session.id, session.created), (handle, created), "the clocks go on");
        assert!(session.takes_messages() && !session.connected());
        let mut bob = world.available("bob", "r").await;
        write(&mut bob, ALICE, "4").await;

        let (mut alice, answer) = world.try_to_resume("alice", &id, 2).await;
        assert_eq!(attribute(&answer, "h"), Some("2"), "an iq and a presence: {answer}");
        let seen = alice.until_now().await;
        assert_eq!(bodies(&seen), ["2", "3", "4"]);
        let times: Vec<_> = seen.iter().map(|m| attribute(m, "stamp")).collect();
        let wanted = [None, Some("2026-01-01T00:00:05.000Z"), Some("2026-01-01T00:01:06.000Z")];
        assert_eq!(times, wanted, "each its own");
        alice.send("<a xmlns='urn:xmpp:sm:3' h='6'/><r xmlns='urn:xmpp:sm:3'/>").await;
        while !alice.quiet_element().await.contains("h='3'") {}

        // Copies are still wanted, and whoever was shown the presence hears that it goes.
        let mut carol = world.client("carol").await;
        write(&mut carol, "alice@localhost/r", "direct").await;
        let direct = alice.quiet_element().await;
        assert_eq!(bodies(std::slice::from_ref(&direct)), ["direct"], "{direct}");
        let mut sender = world.bound("alice", "sender").await;
        write(&mut sender, "carol@localhost/r", "sent").await;
        let copy = alice.quiet_element().await;
        assert!(
            copy.contains("<sent xmlns='urn:xmpp:carbons:2'") && copy.contains("sent"),
            "{copy}"
        );
        alice.send("</stream:stream>").await;
        bob.expect("<presence type='unavailable' from='alice@localhost/r' to='bob@localhost/r'/>")
            .await;
        drop((alice, bob, carol, sender, session));
        place.stop(world).await;

        let (world, woken) = place.start_and_wake().await;
        assert_eq!((woken, world.server.registry.counts().total), (0, 0), "what has ended");
        place.stop(world).await;
    }
}

#[tokio::test]
async fn a_live_client_is_cut_off_without_an_error_and_goes_on_after_the_restart() {
    let place = Place::new(true);
    let world = place.start().await;
    world.account("alice").await;
    let (mut alice, id) = world.managed("alice", "r").await;
    let mut plain = world.bound("alice", "plain").await;
    alice.send("<presence type='probe'/><r xmlns='urn:xmpp:sm:3'/>").await;
    alice.expect("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    let server = world.server.clone();
    let stopping = tokio::spawn(async move { server.shutdown().await });
    plain.expect_error("system-shutdown").await;
    alice.expect("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    alice.expect_cut().await.expect("the stream is not closed");
    stopping.await.expect("does not panic");
    drop(world);
    let (world, woken) = place.start_and_wake().await;
    assert_eq!(woken, 1);
    let (mut alice, answer) = world.try_to_resume("alice", &id, 0).await;
    assert_eq!(attribute(&answer, "h"), Some("1"), "{answer}");
    alice.until_now().await;
}

#[tokio::test]
async fn what_was_handled_and_not_acknowledged_before_a_restart_does_not_come_again() {
    let place = Place::new(false);
    let world = place.start().await;
    for name in ["alice", "bob"] {
        world.account(name).await;
    }
    let mut bob = world.client("bob").await;
    let (mut alice, id) = world.managed("alice", "r").await;
    for body in ["1", "2", "3"] {
        write(&mut bob, "alice@localhost/r", body).await;
        assert_eq!(bodies(&[alice.quiet_element().await]), [body]);
    }
    world.lose(alice, "alice@localhost/r").await;
    drop(bob);
    place.stop(world).await;
    let (world, _) = place.start_and_wake().await;
    let (_, answer) = world.try_to_resume("alice", &id, 4).await;
    assert!(answer.contains("send-count='3'"), "{answer}");
    let (mut alice, answer) = world.try_to_resume("alice", &id, 2).await;
    assert!(answer.starts_with("<resumed"), "{answer}");
    assert_eq!(bodies(&alice.until_now().await), ["3"]);
}

#[tokio::test]
async fn who_is_woken_and_resumed_by_nobody_is_woken_again() {
    let place = Place::new(false);
    let world = place.start().await;
    world.account("alice").await;
    let (_, id) = world.asleep("alice", "r").await;
    place.stop(world).await;
    for _ in 0..2 {
        place.clock.advance(200_000);
        let (world, woken) = place.start_and_wake().await;
        assert_eq!(woken, 1);
        place.stop(world).await;
    }
    let (world, _) = place.start_and_wake().await;
    let (_alice, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.starts_with("<resumed"), "{answer}");
    drop(_alice);
    world.server.store.close().await.expect("closes");
    drop(world);
    // As if it had crashed: the session was in memory alone by then.
    let (_, woken) = place.start_and_wake().await;
    assert_eq!(woken, 0, "it is not there twice");
}

#[tokio::test]
async fn whose_time_was_over_while_the_server_was_down_ends_and_its_messages_wait() {
    let place = Place::new(true);
    let world = place.start().await;
    for name in ["alice", "bob"] {
        world.account(name).await;
    }
    let mut bob = world.client("bob").await;
    let (alice, id) = world.managed_available("alice", "r").await;
    world.lose(alice, "alice@localhost/r").await;
    write(&mut bob, ALICE, "kept").await;
    drop(bob);
    place.stop(world).await;
    place.clock.advance(600_000);
    let (world, woken) = place.start_and_wake().await;
    assert_eq!(woken, 1);
    let session = world.session("alice@localhost/r");
    assert_eq!(world.server.sweep(), 1);
    world.is_over(&session).await;
    assert_eq!(reason(&session), Some(Reason::NotResumed));
    let (mut alice, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.contains("reason='not-resumed'"), "{answer}");
    alice.bind("again").await;
    alice.send("<presence/>").await;
    assert_eq!(bodies(&alice.until_now().await), ["kept"]);
}

/// The server has died between a change that outlaws a session and the end of that session.
#[tokio::test]
async fn b_04_iv_07_ro_03_what_was_outlawed_before_a_crash_does_not_wake_up() {
    for event in [
        "nothing",
        "disabled",
        "deleted",
        "deleted and made anew",
        "password",
        "epoch",
        "client",
        "blocked",
    ] {
        let place = Place::new(true);
        let world = place.start().await;
        world.account("alice").await;
        let (session, id) = world.asleep("alice", "r").await;
        let me = session.identity().expect("is in");
        let sid = me.client().expect("is known").sid;
        place.stop(world).await;

        // One that does not know of the session yet makes the change.
        let world = place.start().await;
        let (server, jid) = (&world.server, ALICE.parse_jid());
        match event {
            "nothing" => {}
            "disabled" => {
                let done = server.set_standing(&jid, Standing::Disabled, admin()).await;
                assert_eq!(done, Ok(0));
            }
            "deleted" | "deleted and made anew" => {
                server.delete_account(&jid, admin()).await.expect("is stored");
                if event.ends_with("anew") {
                    world.account("alice").await;
                }
            }
            "password" => {
                for password in ["other", crate::world::PASSWORD] {
                    let keys = server.keys_of(Secret::new(password)).await.expect("usable");
                    server.set_password(&jid, keys, admin(), None).await.expect("is stored");
                }
            }
            "epoch" => {
                server
                    .raise_epoch(Scope::Host("localhost"), false, &admin())
                    .await
                    .expect("stored");
            }
            other => {
                let client = server.client(me.account, sid).await.expect("read").expect("there");
                if other == "client" {
                    let why = server::client::Over::Revoked;
                    server.end_client(&client, why, &admin(), None).await.expect("is stored");
                } else {
                    server.block_client(&client, None, &admin(), None).await.expect("is stored");
                }
            }
        }
        drop(world);

        let (world, _) = place.start_and_wake().await;
        let there = world.server.registry.full(&"alice@localhost/r".parse_jid());
        assert_eq!(there.is_some(), event == "nothing", "{event}");
        let mut client = world.connect().await;
        if client.try_login("alice", crate::world::PASSWORD).await.is_ok() {
            let answer = client.resume(&id, 0).await;
            assert_eq!(answer.starts_with("<resumed"), event == "nothing", "{event}: {answer}");
        } else {
            assert!(matches!(event, "disabled" | "deleted"), "{event}");
        }
        drop(client);
        place.stop(world).await;
        let (_, woken) = place.start_and_wake().await;
        assert_eq!(woken, usize::from(event == "nothing"), "{event}: it stays gone");
    }
}

#[tokio::test]
async fn ro_18_who_stays_when_the_password_changes_stays_over_a_restart() {
    let place = Place::new(true);
    let world = place.start().await;
    world.account("alice").await;
    let (alice, id) = world.managed("alice", "r").await;
    let session = world.session("alice@localhost/r");
    let keys = world.server.keys_of(Secret::new(crate::world::PASSWORD)).await.expect("usable");
    let owner = server::end::Actor::Owner(ALICE.into());
    let ended = world.server.set_password(&ALICE.parse_jid(), keys, owner, Some(session.id)).await;
    assert_eq!(ended, Ok(0));
    drop((alice, session));
    place.stop(world).await;
    let (world, woken) = place.start_and_wake().await;
    assert_eq!(woken, 1);
    let (_, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.starts_with("<resumed"), "{answer}");
}

#[tokio::test]
async fn pr_20_b_04_an_end_of_a_woken_session_is_durable_before_it_is_told() {
    let place = Place::new(true);
    let world = place.start().await;
    world.account("alice").await;
    let (_, id) = world.asleep("alice", "r").await;
    place.stop(world).await;
    let (world, _) = place.start_and_wake().await;
    let session = world.session("alice@localhost/r");
    rows(&world.server, "session end", json!({ "id": session.id.to_string() })).await;
    assert!(session.settled());
    // Dies here.
    drop((world, session));
    let (world, woken) = place.start_and_wake().await;
    assert_eq!(woken, 0);
    let (_, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.contains("item-not-found"), "{answer}");
}

#[tokio::test]
async fn messages_that_waited_in_storage_come_once_when_the_server_stops_while_they_are_handed_out()
{
    for resumed in [true, false] {
        let place = Place::new(true);
        let world = place.start().await;
        for name in ["alice", "bob"] {
            world.account(name).await;
        }
        let mut bob = world.client("bob").await;
        write(&mut bob, ALICE, "stored").await;
        let (mut alice, id) = world.managed("alice", "r").await;
        alice.send("<presence/>").await;
        assert_eq!(bodies(&alice.until_now().await), ["stored"]);
        // Not acknowledged: it may not have come.
        world.lose(alice, "alice@localhost/r").await;
        drop(bob);
        place.stop(world).await;

        let (world, woken) = place.start_and_wake().await;
        assert_eq!(woken, 1);
        if resumed {
            let (mut alice, answer) = world.try_to_resume("alice", &id, 0).await;
            assert!(answer.starts_with("<resumed"), "{answer}");
            let seen = alice.until_now().await;
            assert_eq!(bodies(&seen), ["stored"], "{seen:?}");
            alice.send(format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", seen.len() + 1)).await;
            alice.until_now().await;
            let session = world.session("alice@localhost/r");
            alice.send("</stream:stream>").await;
            assert_eventually("it is over", || session.settled()).await;
        } else {
            let session = world.session("alice@localhost/r");
            world.server.end(&session, End::new(Reason::NotResumed));
            world.is_over(&session).await;
        }
        let mut seen = Vec::new();
        let mut again = world.client("alice").await;
        again.send("<presence/>").await;
        seen.extend(again.until_now().await);
        // Whoever hands it out may not have noticed yet that the other one is gone.
        while !resumed && bodies(&seen).is_empty() {
            seen.push(again.element().await);
        }
        drop(again);
        let mut later = world.client("alice").await;
        later.send("<presence/>").await;
        seen.extend(later.until_now().await);
        let wanted: &[&str] = if resumed { &[] } else { &["stored"] };
        assert_eq!(bodies(&seen), wanted, "resumed: {resumed}");
    }
}

#[tokio::test]
async fn presence_that_was_spared_an_inactive_client_comes_after_a_restart() {
    let place = Place::new(true);
    let world = place.start().await;
    world.account("alice").await;
    let (mut phone, id) = world.managed_available("alice", "phone").await;
    let mut desk = world.available("alice", "desk").await;
    desk.element().await;
    let seen = phone.until_now().await;
    assert_eq!(seen.len(), 1, "the other one is there: {seen:?}");
    phone.send("<a xmlns='urn:xmpp:sm:3' h='2'/><inactive xmlns='urn:xmpp:csi:0'/>").await;
    phone.until_now().await;
    world.lose(phone, "alice@localhost/phone").await;
    drop(desk);
    place.stop(world).await;
    let (world, woken) = place.start_and_wake().await;
    assert_eq!(woken, 1);
    let (mut phone, answer) = world.try_to_resume("alice", &id, 3).await;
    assert!(answer.starts_with("<resumed"), "{answer}");
    let seen = phone.until_now().await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].contains("type='unavailable'") && seen[0].contains("/desk'"), "{seen:?}");
}
