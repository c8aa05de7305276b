//! Sessions that were inactive for too long and wait for their owner to prove the password, instead of
//! being ended.

use server::config::{Config, Span};

use crate::{
    managed::{AGENT, WANT_TOKEN, attribute, request_to_resume, verdict},
    world::{PASSWORD, World, assert_eventually},
};

fn patient(config: &mut Config) {
    config.sessions.inactivity = Span::seconds(100);
    config.sessions.reauth = Span::seconds(1_000);
}

const HELLO: &str =
    "<message to='alice@localhost/r' type='chat' id='m'><body>hello</body></message>";

#[tokio::test]
async fn iv_11_who_was_inactive_is_asked_for_the_password_and_finds_what_came_meanwhile() {
    let world = World::start(patient).await;
    let account = world.account("alice").await;
    world.account("bob").await;
    let (_, token) = world.token(&account, None).await;
    let (mut alice, id) = world.managed_available("alice", "r").await;
    let session = world.session("alice@localhost/r");

    world.clock.advance(99_999);
    assert_eq!(world.server.sweep(), 0);
    assert!(session.connected(), "not yet");
    let mut bob = world.client("bob").await;
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 0, "it does not end");
    assert!(session.alive() && !session.connected());
    let error = alice.quiet_element().await;
    assert!(error.contains("<reset") && error.contains("by='server' reason='idle'"), "{error}");
    alice.expect_close().await.expect("it is told, and closed");

    bob.send(HELLO).await;
    bob.settle().await;
    // A token is no proof of who is there.
    let mut device = world.secure().await;
    assert_eq!(verdict(&device.login_with(&token).await), "in");
    device.open().await;
    let refused = device.resume(&id, 0).await;
    assert!(refused.contains("<not-authorized") && refused.contains("reason='idle'"), "{refused}");
    drop(device);
    assert!(session.alive());

    let (mut alice, resumed) = world.try_to_resume("alice", &id, 0).await;
    assert!(resumed.starts_with("<resumed"), "{resumed}");
    let came = alice.until_now().await;
    assert!(came.iter().any(|stanza| stanza.contains("<body>hello</body>")), "{came:?}");
    // And from here on it is as any other.
    world.clock.advance(99_999);
    assert_eq!(world.server.sweep(), 0);
    assert!(session.alive() && session.connected());
}

#[tokio::test]
async fn iv_11_a_token_for_the_next_login_is_not_enough_while_the_password_is_wanted() {
    let world = World::start(patient).await;
    world.account("alice").await;
    let mut alice = world.secure().await;
    let bind = "<bind xmlns='urn:xmpp:bind:0'><enable xmlns='urn:xmpp:sm:3' resume='true'/></bind>";
    let answer = alice.sasl2("alice", PASSWORD, &format!("{AGENT}{bind}{WANT_TOKEN}")).await;
    let token = attribute(&answer, "token").expect("a token").to_owned();
    let enabled = answer.split("<enabled").nth(1).expect("it can be resumed");
    let id = attribute(enabled, "id").expect("an id").to_owned();
    let session = world.only();

    world.clock.advance(100_000);
    world.server.sweep();
    assert!(session.alive() && !session.connected());
    let resume = request_to_resume(&id, 0);
    let mut back = world.secure().await;
    let answer = back.by_fast("alice", &token, &resume).await;
    assert_eq!(verdict(&answer), "credentials-expired idle");
    // The password, on the same stream.
    let answer = back.sasl2("alice", PASSWORD, &format!("{AGENT}{resume}")).await;
    assert!(answer.contains("<resumed"), "{answer}");
    // The token is as good as before.
    drop(back);
    assert_eventually("it hibernates", || !session.connected()).await;
    let mut back = world.secure().await;
    let answer = back.by_fast("alice", &token, &resume).await;
    assert!(answer.contains("<resumed"), "{answer}");
}

#[tokio::test]
async fn iv_12_it_waits_so_long_and_a_little_longer_for_who_is_just_proving() {
    let world = World::start(|config| {
        patient(config);
        config.sessions.reauth_grace = Span::seconds(20);
    })
    .await;
    for name in ["alice", "bob"] {
        world.account(name).await;
    }
    let (_alice, id) = world.managed("alice", "r").await;
    let (_bob, _) = world.managed("bob", "r").await;
    let sessions = ["alice", "bob"].map(|name| world.session(&format!("{name}@localhost/r")));
    world.clock.advance(100_000);
    assert_eq!(world.server.sweep(), 0);
    world.clock.advance(990_000);
    assert_eq!(world.server.sweep(), 0);
    // Alice begins to log in ten seconds before her session is over.
    let mut alice = world.authed("alice").await;
    world.clock.advance(15_000);
    assert_eq!(world.server.sweep(), 1, "bob's is over");
    assert!(sessions[0].alive() && !sessions[1].alive());
    assert!(alice.resume(&id, 0).await.starts_with("<resumed"));

    // The grace is given once: whoever only begins does not keep it waiting.
    world.clock.advance(100_000);
    world.server.sweep();
    world.clock.advance(995_000);
    for _ in 0..3 {
        drop(world.authed("alice").await);
        world.clock.advance(10_000);
        world.server.sweep();
    }
    assert!(!sessions[0].alive());
}

#[tokio::test]
async fn iv_12_the_proof_renews_the_greatest_age_if_it_is_to() {
    for renews in [false, true] {
        let world = World::start(|config| {
            patient(config);
            config.sessions.lifetime = Span::seconds(500);
            config.sessions.reauth_renews = renews;
        })
        .await;
        world.account("alice").await;
        let (_alice, id) = world.managed("alice", "r").await;
        let session = world.session("alice@localhost/r");
        world.clock.advance(100_000);
        world.server.sweep();
        world.clock.advance(350_000);
        world.server.sweep();
        let (mut alice, resumed) = world.try_to_resume("alice", &id, 0).await;
        assert!(resumed.starts_with("<resumed"), "{resumed}");
        world.clock.advance(50_000);
        alice.act().await;
        world.server.sweep();
        assert_eq!(session.alive(), renews, "500 s after its first login");
    }
}

#[tokio::test]
async fn iv_12_too_many_wrong_passwords_from_where_it_was_end_it_unless_they_are_not_to() {
    for lockout in [true, false] {
        let world = World::start(|config| {
            patient(config);
            config.auth.pair_failures = 2;
            config.sessions.reauth_lockout = lockout;
        })
        .await;
        world.account("alice").await;
        let (_alice, _) = world.managed("alice", "r").await;
        let session = world.session("alice@localhost/r");
        world.clock.advance(100_000);
        world.server.sweep();
        for _ in 0..2 {
            assert!(session.alive());
            let mut thief = world.connect().await;
            assert!(thief.try_login("alice", "wrong").await.is_err());
        }
        assert_eq!(session.alive(), !lockout);
    }
}
