//! Sessions that hibernate when their connection breaks: how long, how many, what becomes of their
//! messages, what ends them, and who may go on with them (XEP-0198).

use serde_json::json;
use server::{
    change::Standing,
    client::Over,
    config::Span,
    end::{End, Level, Reason},
    epoch::Scope,
};
use wire::Secret;

use crate::{
    deadlines::reason,
    history::rows,
    managed::content,
    world::{PASSWORD, ParseJid, World, admin, assert_eventually},
};

const ALICE: &str = "alice@localhost";

fn message(to: &str, body: &str) -> String {
    format!("<message type='chat' to='{to}'><body>{body}</body></message>")
}

/// The bodies of messages and when they came, as far as they say so.
fn bodies(seen: &[String]) -> Vec<(&str, Option<&str>)> {
    let stamp = |message: &str| message.matches("<delay").count();
    seen.iter()
        .filter(|element| element.starts_with("<message"))
        .map(|message| {
            assert!(stamp(message) < 2, "marked once: {message}");
            let time = crate::managed::attribute(message, "stamp");
            (content(message, "body").expect("has one"), time)
        })
        .collect()
}

#[tokio::test]
async fn m4_whom_nobody_resumes_is_gone_once_and_its_messages_wait_once_with_their_own_time() {
    let world = World::start(|_| {}).await;
    for name in ["alice", "bob"] {
        world.account(name).await;
    }
    let mut bob = world.client("bob").await;
    let (mut phone, _) = world.managed_available("alice", "phone").await;
    let mut watch = world.bound("alice", "watch").await;
    watch.send("<presence><priority>-1</priority></presence>").await;
    for _ in 0..2 {
        watch.element().await;
    }
    bob.send(message(ALICE, "unacknowledged")).await;
    while !phone.quiet_element().await.contains("unacknowledged") {}
    let session = world.lose(phone, "alice@localhost/phone").await;
    world.clock.advance(10_000);
    bob.send(message(ALICE, "later")).await;
    bob.settle().await;
    assert_eq!(session.mailbox.len(), 3, "its contact's presence and both messages");

    world.clock.advance(589_999);
    assert_eq!(world.server.sweep(), 0);
    assert_eq!(watch.until_now().await, [""; 0], "for its contacts it is there");
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 1);
    assert_eq!(reason(&session), Some(Reason::NotResumed));
    watch
        .expect("<presence type='unavailable' from='alice@localhost/phone' to='alice@localhost/watch'/>")
        .await;
    world.is_over(&session).await;
    assert_eq!(watch.until_now().await, [""; 0], "it went once");

    let mut desk = world.bound("alice", "desk").await;
    desk.send("<presence/>").await;
    let seen = desk.until_now().await;
    let wanted = [
        ("unacknowledged", Some("2026-01-01T00:00:00.000Z")),
        ("later", Some("2026-01-01T00:00:10.000Z")),
    ];
    assert_eq!(bodies(&seen), wanted);
    drop(desk);
    let mut again = world.bound("alice", "desk").await;
    again.send("<presence/>").await;
    assert_eq!(bodies(&again.until_now().await), [], "each once");
}

#[tokio::test]
async fn of_too_many_hibernating_sessions_the_oldest_goes() {
    let world = World::start(|config| config.sessions.hibernating = 2).await;
    world.account("alice").await;
    world.account("bob").await;
    let (others, _) = world.asleep("bob", "r").await;
    let mut asleep = Vec::new();
    for resource in ["1", "2", "3", "4"] {
        world.clock.advance(1000);
        asleep.push(world.asleep("alice", resource).await.0);
    }
    world.is_over(&asleep[0]).await;
    world.is_over(&asleep[1]).await;
    assert_eq!(reason(&asleep[0]), Some(Reason::NotResumed));
    assert!(asleep[2].alive() && asleep[3].alive() && others.alive());
    assert_eq!(world.server.registry.counts().hibernating, 3);
}

#[tokio::test]
async fn t15_who_acknowledges_nothing_for_too_long_sees_an_error_and_loses_no_message() {
    let world = World::start(|config| config.limits.mailbox_bytes = 20_000).await;
    world.account("alice").await;
    world.account("bob").await;
    let mut bob = world.client("bob").await;
    let (mut alice, id) = world.managed_available("alice", "r").await;
    let long = "x".repeat(3000);
    let mut sent = 0;
    let session = world.session("alice@localhost/r");
    while session.alive() {
        bob.send(message(ALICE, &format!("{sent} {long}"))).await;
        bob.settle().await;
        sent += 1;
        assert!(sent < 20, "there is an end to it");
    }
    assert_eq!(reason(&session), Some(Reason::SlowReader));
    let mut read = 0;
    let error = loop {
        let element = alice.quiet_element().await;
        if element.starts_with("<error") {
            break element;
        }
        read += 1;
    };
    assert!(error.contains("resource-constraint") && error.contains("slow-reader"), "{error}");
    assert!(read > 3, "it has read all along");
    alice.expect_close().await.expect("is closed");

    let (mut again, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.contains("item-not-found") && answer.contains("slow-reader"), "{answer}");
    again.bind("again").await;
    again.send("<presence/>").await;
    let seen = again.until_now().await;
    assert_eq!(bodies(&seen).len(), sent, "none is lost, and none is there twice");
}

#[tokio::test]
async fn t15_what_comes_for_a_hibernating_session_is_bounded_too() {
    let world = World::start(|config| config.limits.mailbox_bytes = 20_000).await;
    world.account("alice").await;
    world.account("bob").await;
    let mut bob = world.client("bob").await;
    let (alice, id) = world.managed_available("alice", "r").await;
    let session = world.lose(alice, "alice@localhost/r").await;
    for n in 0..10 {
        bob.send(message(ALICE, &format!("{n} {}", "x".repeat(3000)))).await;
    }
    bob.settle().await;
    assert_eq!(reason(&session), Some(Reason::SlowReader));
    world.is_over(&session).await;
    let (mut again, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.contains("slow-reader"), "{answer}");
    again.bind("again").await;
    again.send("<presence/>").await;
    let seen = again.until_now().await;
    let numbers: Vec<_> = bodies(&seen).iter().map(|(body, _)| body.as_bytes()[0]).collect();
    assert_eq!(numbers, b"0123456789", "all, and in order");
}

/// Everything that ends a session ends one that hibernates, and leaves nothing to resume.
#[tokio::test]
async fn pr_20_iv_07_ro_02_whatever_ends_a_session_ends_one_that_hibernates_too() {
    for event in [
        "kick",
        "end",
        "client revoked",
        "client blocked",
        "session end at level revoke",
        "disabled",
        "deleted",
        "password",
        "epoch of the account",
        "epoch of the server",
    ] {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        world.account("bob").await;
        let (session, id) = world.asleep("alice", "r").await;
        let (server, jid) = (&world.server, ALICE.parse_jid());
        let me = session.identity().expect("has logged in");
        let client = async || {
            let sid = me.client().expect("is known").sid;
            server.client(me.account, sid).await.expect("is read").expect("is there")
        };
        let mut enabled = true;
        let why = match event {
            "kick" => {
                let kick = End { level: Level::Kick, actor: admin(), ..End::new(Reason::Kicked) };
                assert!(server.end(&session, kick));
                "kicked"
            }
            "end" => {
                rows(server, "session end", json!({ "id": session.id.to_string() })).await;
                "ended"
            }
            "session end at level revoke" => {
                let args = json!({ "id": session.id.to_string(), "level": "revoke" });
                rows(server, "session end", args).await;
                "revoked"
            }
            "client revoked" => {
                let ended = server.end_client(&client().await, Over::Revoked, &admin(), None).await;
                assert_eq!(ended.expect("is stored").1.len(), 1);
                "revoked"
            }
            "client blocked" => {
                let blocked = server.block_client(&client().await, None, &admin(), None).await;
                assert_eq!(blocked.expect("is stored").expect("is there").1.len(), 1);
                "blocked"
            }
            "disabled" => {
                let ended = server.set_standing(&jid, Standing::Disabled, admin()).await;
                assert_eq!(ended, Ok(1));
                let back = server.set_standing(&jid, Standing::Enabled, admin()).await;
                assert_eq!(back, Ok(0));
                "account-disabled"
            }
            "deleted" => {
                server.delete_account(&jid, admin()).await.expect("is stored");
                enabled = false;
                "account-deleted"
            }
            "password" => {
                let keys = server.keys_of(Secret::new("other")).await.expect("usable");
                assert_eq!(server.set_password(&jid, keys, admin(), None).await, Ok(1));
                let keys = server.keys_of(Secret::new(PASSWORD)).await.expect("usable");
                assert_eq!(server.set_password(&jid, keys, admin(), None).await, Ok(0));
                "password-changed"
            }
            "epoch of the account" => {
                server.raise_account_epoch(&jid, false, &admin()).await.expect("is stored");
                "epoch"
            }
            _ => {
                server.raise_epoch(Scope::Server, false, &admin()).await.expect("is stored");
                "epoch"
            }
        };
        world.is_over(&session).await;
        assert_eq!(server.registry.counts().hibernating, 0, "{event}");

        // Whoever is somebody else learns nothing, with the right id; nor does who has it wrong.
        let (_, answer) = world.try_to_resume("bob", &id, 0).await;
        assert!(!answer.contains("ended") && !answer.contains(" h="), "{event}: {answer}");
        if !enabled {
            // A later account of the same name is somebody else.
            world.account("alice").await;
            let (_, answer) = world.try_to_resume("alice", &id, 0).await;
            assert!(!answer.contains("ended") && answer.contains("item-not-found"), "{answer}");
            continue;
        }
        let (most, last) = id.split_at(id.len() - 2);
        let wrong = format!("{most}{}", if last == "AA" { "BA" } else { "AA" });
        let (_, answer) = world.try_to_resume("alice", &wrong, 0).await;
        assert!(!answer.contains("ended") && !answer.contains(" h="), "{event}: {answer}");
        let (mut alice, answer) = world.try_to_resume("alice", &id, 0).await;
        let reason = format!("reason='{why}'");
        assert!(answer.contains("item-not-found") && answer.contains(&reason), "{event}: {answer}");
        assert!(answer.contains(" h='0'"), "{event}: {answer}");
        if event != "client blocked" {
            alice.bind("another").await;
        }
    }
}

#[tokio::test]
async fn iv_07_who_resumes_what_is_ending_and_has_a_connection_left_is_told_why() {
    let world = World::start(|config| config.sessions.close_wait = Span::seconds(60)).await;
    world.account("alice").await;
    let (_silent, id) = world.managed("alice", "r").await;
    let session = world.session("alice@localhost/r");
    world.server.end(&session, End { actor: admin(), ..End::new(Reason::Kicked) });
    let (_, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(!session.settled(), "its connection waits for its client");
    assert!(answer.contains("by='admin' reason='kicked'"), "{answer}");
}

#[tokio::test]
async fn who_is_overdue_is_not_resumed_though_nobody_has_looked_yet() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let (session, id) = world.asleep("alice", "r").await;
    let mut late = world.authed("alice").await;
    world.clock.advance(600_000);
    let answer = late.resume(&id, 0).await;
    assert!(answer.contains("reason='not-resumed'") && answer.contains(" h='0'"), "{answer}");
    world.is_over(&session).await;
}

#[tokio::test]
async fn ro_09_iv_21_deadlines_go_on_over_a_resumption() {
    let world = World::start(|config| {
        config.sessions.lifetime = Span::seconds(3600);
        config.sessions.inactivity = Span::seconds(1800);
        config.sessions.dead_after = Span::OFF;
    })
    .await;
    world.account("alice").await;
    let (session, id) = world.asleep("alice", "r").await;
    let created = session.created;
    world.clock.advance(500_000);
    let (mut back, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.starts_with("<resumed"), "{answer}");
    for _ in 0..3 {
        world.clock.advance(1_000_000);
        back.send("<presence type='probe'/>").await;
        back.until_now().await;
        assert_eq!(world.server.sweep(), 0);
    }
    assert_eq!(session.created, created);
    world.clock.advance(99_999);
    assert_eq!(world.server.sweep(), 0);
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 1, "an hour after the login");
    assert_eq!(reason(&session), Some(Reason::Lifetime));
}

#[tokio::test]
async fn hibernating_is_not_use_and_idle_sessions_end() {
    let world = World::start(|config| config.sessions.inactivity = Span::seconds(300)).await;
    world.account("alice").await;
    let (session, _) = world.asleep("alice", "r").await;
    world.clock.advance(299_999);
    assert_eq!(world.server.sweep(), 0);
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 1);
    assert_eq!(reason(&session), Some(Reason::Idle));
}

#[tokio::test]
async fn lj_18_the_clock_of_a_client_goes_on_when_the_password_resumes_its_session() {
    let world = World::start(|config| config.clients.short = Span::seconds(900)).await;
    world.account("alice").await;
    let (first, id) = world.managed("alice", "r").await;
    let session = world.session("alice@localhost/r");
    let client = session.identity().and_then(|me| me.client()).expect("is known").id;
    let args = json!({ "client": client.to_string(), "class": "short" });
    rows(&world.server, "client set", args).await;
    let expires = session.identity().expect("is in").expires();
    assert!(expires.is_some());
    world.lose(first, "alice@localhost/r").await;
    let (_back, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.starts_with("<resumed"), "{answer}");
    assert_eq!(session.identity().expect("is in").expires(), expires);
    world.clock.advance(900_000);
    assert_eq!(world.server.sweep(), 1);
}

#[tokio::test]
async fn who_does_not_answer_in_time_hibernates_and_loses_nothing() {
    let world = World::start(|config| config.sessions.dead_after = Span::seconds(60)).await;
    world.account("alice").await;
    world.account("bob").await;
    let mut bob = world.client("bob").await;
    let (mut alice, id) = world.managed("alice", "r").await;
    let session = world.session("alice@localhost/r");
    for body in ["1", "2"] {
        bob.send(message("alice@localhost/r", body)).await;
        while !alice.element().await.contains("<body>") {}
        world.clock.advance(30_000);
        // The second is the last that it does not answer for.
        if body == "1" {
            alice.expect("<r xmlns='urn:xmpp:sm:3'/>").await;
            alice.send("<a xmlns='urn:xmpp:sm:3' h='1'/><r xmlns='urn:xmpp:sm:3'/>").await;
            alice.expect("<a xmlns='urn:xmpp:sm:3' h='0'/>").await;
        }
    }
    alice.expect("<r xmlns='urn:xmpp:sm:3'/>").await;
    world.clock.advance(29_999);
    world.server.sweep();
    alice.send("<r xmlns='urn:xmpp:sm:3'/>").await;
    alice.expect("<a xmlns='urn:xmpp:sm:3' h='0'/>").await;
    world.clock.advance(1);
    world.server.sweep();
    assert_eventually("it is given up", || !session.connected()).await;
    alice.expect_cut().await.expect("no word to somebody who is not there");
    let (mut back, answer) = world.try_to_resume("alice", &id, 1).await;
    assert!(answer.starts_with("<resumed"), "{answer}");
    assert_eq!(bodies(&back.until_now().await), [("2", None)]);
}

#[tokio::test]
async fn who_cannot_be_resumed_and_does_not_answer_in_time_ends() {
    let world = World::start(|config| {
        config.sessions.dead_after = Span::seconds(60);
        config.sessions.resume = Span::OFF;
    })
    .await;
    world.account("alice").await;
    let mut alice = world.bound("alice", "r").await;
    alice.send("<enable xmlns='urn:xmpp:sm:3'/>").await;
    alice.expect("<enabled xmlns='urn:xmpp:sm:3'/>").await;
    let session = world.session("alice@localhost/r");
    alice.until_now().await;
    alice.expect("<r xmlns='urn:xmpp:sm:3'/>").await;
    world.clock.advance(60_000);
    world.server.sweep();
    assert_eventually("it is over", || session.settled()).await;
    assert_eq!(reason(&session), Some(Reason::Lost));
}
