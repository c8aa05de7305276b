//! Limits on failed logins, on new connections and on logins at once, and the cap on all connections.

use std::{net::SocketAddr, sync::Arc};

use serde_json::json;
use server::{Server, Session, config::Span, session::Flags};
use wire::{Denied, Hash, Jid, Mechanism, SaslFailure, Secret};

use crate::{
    dialogue::{Chunks, HEADER, encode},
    history::rows,
    world::{PASSWORD, ParseJid, World, assert_eventually, enter},
};

fn at(server: &Arc<Server>, address: &str) -> Arc<Session> {
    let peer = SocketAddr::new(address.parse().expect("an address"), 5222);
    server.connect(peer).expect("is let in")
}

async fn password(
    server: &Arc<Server>,
    address: &str,
    user: &Jid,
    text: &str,
) -> Result<(), Denied> {
    let session = at(server, address);
    let checked = server.check_password(&session, user, Secret::new(text)).await;
    let outcome = match checked {
        Ok(candidate) => {
            server.enter(&session, candidate, Mechanism::Plain, None).await.map(|_| ())
        }
        Err(denied) => Err(denied),
    };
    if let Err(denied) = &outcome {
        // As a connection does.
        server.login_refused(&session, Some(user), denied.failure);
    }
    server.settle(&session).await;
    outcome
}

const HOME: &str = "192.0.2.1";
const ELSEWHERE: &str = "198.51.100.1";

#[tokio::test]
async fn lj_30_three_bad_passwords_close_one_address_for_five_minutes_and_no_other() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    world.account("bob").await;
    let (server, alice) = (&world.server, "alice@localhost".parse_jid());
    for _ in 0..3 {
        let denied = password(server, HOME, &alice, "bad").await.expect_err("is wrong");
        assert_eq!(denied.failure, SaslFailure::NotAuthorized);
    }
    let denied = password(server, HOME, &alice, PASSWORD).await.expect_err("too late");
    assert_eq!(denied.failure, SaslFailure::TemporaryAuthFailure);
    assert!(denied.text.is_some_and(|text| text.contains("wait")), "it says what to do");
    let session = at(server, HOME);
    let denied = server.scram_keys(&session, &alice, Hash::Sha256).await.map(|_| ());
    assert_eq!(denied.expect_err("SCRAM too").failure, SaslFailure::TemporaryAuthFailure);

    // The owner is elsewhere; others share the address.
    password(server, ELSEWHERE, &alice, PASSWORD).await.expect("the owner gets in");
    password(server, HOME, &"bob@localhost".parse_jid(), PASSWORD).await.expect("so does bob");
    world.clock.advance(299_000);
    password(server, HOME, &alice, PASSWORD).await.expect_err("not yet");
    world.clock.advance(1_000);
    password(server, HOME, &alice, PASSWORD).await.expect("five minutes later");

    let failed = rows(server, "last", json!({ "failed": true })).await;
    let of = |reason: &str| failed.iter().find(|row| row["reason"] == reason).cloned();
    assert_eq!(of("not-authorized").expect("is noted")["count"], 3, "{failed:?}");
    assert_eq!(of("throttled").expect("is noted")["count"], 3, "{failed:?}");
}

#[tokio::test]
async fn lj_30_a_refusal_does_not_tell_whether_the_account_is_there() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut told = Vec::new();
    for name in ["alice", "nobody"] {
        let user = format!("{name}@localhost").as_str().parse_jid();
        let mut said = Vec::new();
        for _ in 0..5 {
            said.push(password(&world.server, HOME, &user, "bad").await.expect_err("is wrong"));
        }
        told.push(said.into_iter().map(|d| (d.failure, d.text, d.app)).collect::<Vec<_>>());
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn lj_30_scram_and_bearer_failures_count_over_the_wire() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    for _ in 0..3 {
        let mut client = world.connect().await;
        let refused = client.try_login("alice", "bad").await.expect_err("is wrong");
        assert!(refused.contains("not-authorized"), "{refused}");
    }
    let mut client = world.connect().await;
    let refused = client.try_login("alice", PASSWORD).await.expect_err("too late");
    assert!(refused.contains("temporary-auth-failure"), "{refused}");

    // A token of another account; the peer never asks for the failure.
    let bob = world.account("bob").await;
    let (_, good) = world.token(&bob, None).await;
    let jid = "bob@localhost".parse_jid();
    let server = &world.server;
    let made_up = wire::Token { id: wire::TokenId(7), secret: Secret::new([7; 24]), owner: jid };
    for _ in 0..3 {
        let session = at(server, HOME);
        let text = Secret::new(made_up.to_text().as_bytes());
        server.check_token(&session, None, text).await.expect_err("is made up");
        server.settle(&session).await;
    }
    let session = at(server, HOME);
    let denied = server.check_token(&session, None, Secret::new(good.as_bytes())).await;
    assert_eq!(denied.expect_err("too late").failure, SaslFailure::TemporaryAuthFailure);
}

#[tokio::test]
async fn lj_30_a_token_that_is_over_does_not_keep_its_owner_out() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let (_, token) = world.token(&account, Some(60)).await;
    world.clock.advance(60_000);
    let (server, alice) = (&world.server, "alice@localhost".parse_jid());
    for _ in 0..10 {
        let denied = password(server, HOME, &alice, &token).await.expect_err("has expired");
        assert_eq!(denied.failure, SaslFailure::CredentialsExpired);
    }
    password(server, HOME, &alice, PASSWORD).await.expect("the owner gets in");
}

#[tokio::test]
async fn lj_30_an_address_has_a_larger_budget_over_all_accounts() {
    let world = World::start(|config| config.auth.address_failures = 10).await;
    world.account("alice").await;
    let (server, alice) = (&world.server, "alice@localhost".parse_jid());
    for number in 0..10 {
        password(server, HOME, &alice, PASSWORD).await.expect("is right");
        let user = format!("user{number}@localhost").as_str().parse_jid();
        password(server, HOME, &user, "bad").await.expect_err("is wrong");
    }
    let denied = password(server, HOME, &alice, PASSWORD).await.expect_err("too many from here");
    assert_eq!(denied.failure, SaslFailure::TemporaryAuthFailure);
    password(server, ELSEWHERE, &alice, PASSWORD).await.expect("from elsewhere");
    world.clock.advance(300_000);
    password(server, HOME, &alice, PASSWORD).await.expect("five minutes later");
}

#[tokio::test]
async fn lj_30_of_many_tries_side_by_side_those_beyond_the_limit_learn_nothing() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let (server, alice) = (&world.server, "alice@localhost".parse_jid());
    // All have their challenges before the first has failed.
    let mut asked = Vec::new();
    for _ in 0..20 {
        let session = at(server, HOME);
        let keys = server.scram_keys(&session, &alice, Hash::Sha256).await;
        asked.push((session, keys.expect("is asked").1));
    }
    for (session, _) in asked.iter().take(3) {
        server.login_refused(session, Some(&alice), SaslFailure::NotAuthorized);
    }
    let (session, right) = asked.pop().expect("the last one guessed right");
    let denied = server.enter(&session, right, Mechanism::ScramSha256, None).await;
    assert_eq!(denied.expect_err("too late").failure, SaslFailure::NotAuthorized);
}

#[tokio::test]
async fn ro_29_failures_touch_no_session_and_no_other_way_in() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let mut there = world.client("alice").await;
    for _ in 0..200 {
        let alice = "alice@localhost".parse_jid();
        password(server, HOME, &alice, "bad").await.expect_err("is wrong");
    }
    there.settle().await;
    assert_eq!(server.registry.bound("alice@localhost").len(), 1);
    // No number of failures elsewhere locks the account.
    world.bound("alice", "other").await;
}

#[tokio::test]
async fn ro_29_a_success_clears_the_count() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let (server, alice) = (&world.server, "alice@localhost".parse_jid());
    for _ in 0..5 {
        for _ in 0..2 {
            password(server, HOME, &alice, "bad").await.expect_err("is wrong");
        }
        password(server, HOME, &alice, PASSWORD).await.expect("the third is right");
    }
}

#[tokio::test]
async fn iv_09_a_flood_of_strangers_costs_strangers_their_place_and_nobody_else() {
    let world = World::start(|config| config.limits.connections = 8).await;
    world.account("alice").await;
    let mut alice = Vec::new();
    for resource in ["a", "b", "c"] {
        alice.push(world.bound("alice", resource).await);
    }
    let mut first = world.connect().await;
    first.open().await;
    let mut flood = Vec::new();
    for _ in 0..50 {
        flood.push(world.connect().await);
    }
    first.expect_error("resource-constraint").await;
    for client in &mut alice {
        client.settle().await;
    }
    let total = || world.server.registry.counts().total;
    assert_eventually("as many as may be there are", || total() <= 8).await;
    // One who means it gets in all the same, by the oldest stranger's place.
    let mut late = world.bound("alice", "late").await;
    late.settle().await;
    assert_eq!(world.server.registry.bound("alice@localhost").len(), 4);
}

#[tokio::test]
async fn iv_09_a_full_house_of_authenticated_ones_takes_nobody_in() {
    let world = World::start(|config| config.limits.connections = 2).await;
    world.account("alice").await;
    let mut one = world.bound("alice", "one").await;
    let two = world.authed("alice").await;
    let mut third = world.connect().await;
    third.expect("<stream:stream from='localhost' …>").await;
    third.expect_error("resource-constraint").await;
    one.settle().await;
    drop(two);
    assert_eventually("there is room", || world.server.registry.counts().total == 1).await;
    world.bound("alice", "three").await;
}

#[tokio::test]
async fn iv_09_the_reason_is_known_and_the_cap_holds_however_many_come_at_once() {
    let world = World::start(|config| {
        config.limits.connections = 50;
        config.limits.per_address = 0;
    })
    .await;
    world.account("alice").await;
    let server = &world.server;
    let mut held = Vec::new();
    for number in 0..30u8 {
        let session = at(server, &format!("10.0.0.{number}"));
        if number % 2 == 0 {
            assert!(enter(server, &session, "alice@localhost").await);
        }
        held.push(session);
    }
    let mut tasks = Vec::new();
    for task in 0..8u8 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            let mut shed = Vec::new();
            for number in 0..100u8 {
                shed.push(at(&server, &format!("10.1.{task}.{number}")));
                tokio::task::yield_now().await;
            }
            shed
        }));
    }
    for task in tasks {
        held.extend(task.await.expect("does not panic"));
    }
    let alive = held.iter().filter(|session| session.alive()).count();
    assert_eq!(alive, 50);
    for session in &held {
        if session.flags().has(Flags::AUTHED) {
            assert!(session.alive(), "nobody who has logged in had to go");
        }
        if let Some(record) = session.end_record() {
            assert_eq!(record.reason.as_str(), "shed");
        }
        server.settle(session).await;
    }
    assert_eq!(server.registry.counts().total, 0);
    // Places that were given away are not counted twice.
    let again: Vec<_> = (0..50u8).map(|n| at(server, &format!("10.2.0.{n}"))).collect();
    assert!(again.iter().all(|session| session.alive()));
}

#[tokio::test]
async fn iv_09_strangers_have_limits_of_their_own() {
    let world = World::start(|config| {
        config.limits.unauthed.time = Span::seconds(10);
        config.sessions.inactivity = Span::seconds(3600);
    })
    .await;
    world.account("alice").await;
    let mut alice = world.client("alice").await;
    let mut stranger = world.connect().await;
    stranger.open().await;
    world.clock.advance(10_000);
    assert_eq!(world.server.sweep(), 1);
    stranger.expect_error("connection-timeout").await;
    alice.settle().await;
}

#[tokio::test]
async fn lj_30_plain_over_the_wire_is_refused_before_the_password_is_looked_at() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>";
    let attempt = async |password: &str| {
        let mut client = world.connect_in(true, Chunks::Whole).await;
        client.open().await;
        let message = format!("{auth}{{{{\\0alice\\0{password}}}}}</auth>");
        client.send(encode(&message).expect("is right")).await;
        client.element().await
    };
    for _ in 0..3 {
        let said = attempt("bad").await;
        assert!(said.contains("not-authorized"), "{said}");
    }
    for password in ["bad", PASSWORD] {
        let said = attempt(password).await;
        assert!(said.contains("temporary-auth-failure") && said.contains("<text"), "{said}");
    }
    world.clock.advance(300_000);
    let said = attempt(PASSWORD).await;
    assert!(said.starts_with("<success"), "{said}");
}

/// What a new connection of this address gets: an answer, or the door.
async fn greeted(world: &World, address: &str) -> bool {
    let header = format!("PROXY TCP6 {address} ::1 40000 5222\r\n");
    let mut client = world.connect_through(header.as_bytes(), false).await;
    client.send(HEADER).await;
    client.next().await.expect("whole elements").is_some()
}

#[tokio::test]
async fn who_connects_too_fast_is_closed_at_once_and_others_are_not() {
    let world = World::start(|config| {
        config.limits.connects_per_second = 1;
        config.listen.proxies = vec!["127.0.0.1".into()];
    })
    .await;
    for _ in 0..4 {
        assert!(greeted(&world, "2001:db8::1").await, "a burst");
    }
    assert!(!greeted(&world, "2001:db8::2").await, "the same network, too fast");
    assert!(greeted(&world, "2001:db8:0:1::1").await, "another one by the same balancer");
    world.clock.advance(1_000);
    assert!(greeted(&world, "2001:db8::1").await, "a second later");
    assert!(!greeted(&world, "2001:db8::1").await);
    // The balancer itself may look as often as it likes.
    for _ in 0..20 {
        let mut client = world.connect_through(b"PROXY UNKNOWN\r\n", false).await;
        client.open().await;
    }
}

#[tokio::test]
async fn without_a_balancer_the_budget_is_that_of_the_peer() {
    let world = World::start(|config| config.limits.connects_per_second = 1).await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut client = world.connect().await;
        client.open().await;
        kept.push(client);
    }
    let mut client = world.connect().await;
    client.send(HEADER).await;
    assert!(client.next().await.expect("nothing").is_none(), "closed without a word");
    assert_eq!(world.server.registry.counts().total, 4, "nothing was done for it");
}

#[tokio::test]
async fn logins_beyond_the_bound_wait_until_others_are_in() {
    let world = World::start(|config| config.limits.logins_at_once = 2).await;
    world.account("alice").await;
    let mut quick = world.connect().await;
    quick.open().await;
    let mut slow = world.connect().await;
    slow.open().await;
    let mut third = world.connect().await;
    third.send(HEADER).await;
    // Many round trips, in any of which the third one would be taken in.
    for _ in 0..3 {
        quick.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='X'/>").await;
        assert!(quick.element().await.contains("invalid-mechanism"));
    }
    assert_eq!(world.server.registry.counts().total, 2, "the third one waits");
    drop(quick);
    third.expect("<stream:stream …>").await;
    third.element().await;
    drop(slow);
    // Who is logged in does not count any more.
    let mut kept = Vec::new();
    for resource in ["a", "b", "c", "d"] {
        kept.push(world.bound("alice", resource).await);
    }
    assert_eq!(kept.len(), 4);
}
