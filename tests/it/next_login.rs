//! Tokens for the next login (FAST, XEP-0484) over time: how long they last, how they are replaced,
//! what ends them, and what whoever shows one is told then.

use serde_json::json;
use server::{
    change::Standing,
    client::Over,
    clock::Clock,
    config::Span,
    end::{Actor, Reason},
    epoch::Scope,
    keyring::KeyRing,
};
use wire::Secret;

use crate::{
    deadlines::reason,
    history::{DAY, rows},
    managed::{AGENT, WANT_TOKEN, attribute, request_to_resume, verdict},
    rights::{local, run},
    world::{PASSWORD, ParseJid, START, World, admin, assert_eventually},
};

const ALICE: &str = "alice@localhost";
const BIND: &str =
    "<bind xmlns='urn:xmpp:bind:0'><enable xmlns='urn:xmpp:sm:3' resume='1'/></bind>";

/// What somebody is told who shows a token, on a connection of its own.
async fn show(world: &World, token: &str) -> String {
    let mut client = world.secure().await;
    verdict(&client.by_fast("alice", token, "").await)
}

#[tokio::test]
async fn pr_23_ro_25_a_token_lasts_three_weeks_and_is_replaced_once_it_is_a_day_old() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let first = world.fast_token("alice").await;
    world.clock.advance(DAY - 1);
    let answer = world.secure().await.by_fast("alice", &first, "").await;
    assert!(answer.starts_with("<success") && !answer.contains("<token"), "{answer}");
    world.clock.advance(1);
    let answer = world.secure().await.by_fast("alice", &first, "").await;
    let second = attribute(&answer, "token").expect("it is a day old").to_owned();
    assert_ne!(first, second);
    assert_eq!(attribute(&answer, "expiry"), Some("2026-01-23T00:00:00.000Z"), "three weeks more");
    // The answer may have been lost: the first one is good still, and is replaced once more.
    let answer = world.secure().await.by_fast("alice", &first, "").await;
    let third = attribute(&answer, "token").expect("it is old still").to_owned();
    assert_eq!(show(&world, &second).await, "not-authorized", "it was never received");
    assert_eq!(show(&world, &third).await, "in");
    world.clock.advance(20 * DAY - 1);
    assert_eq!(show(&world, &third).await, "in");

    let world = World::start(|config| config.tokens.fast_rotate = Span::OFF).await;
    world.account("alice").await;
    let token = world.fast_token("alice").await;
    world.clock.advance(21 * DAY - 1);
    let answer = world.secure().await.by_fast("alice", &token, "").await;
    assert!(answer.starts_with("<success") && !answer.contains("<token"), "{answer}");
    world.clock.advance(1);
    let mut late = world.secure().await;
    let answer = late.by_fast("alice", &token, "").await;
    assert_eq!(verdict(&answer), "credentials-expired expired");
    let answer = late.sasl2("alice", PASSWORD, &format!("{AGENT}{WANT_TOKEN}")).await;
    let token = attribute(&answer, "token").unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(show(&world, token).await, "in");
}

#[tokio::test]
async fn pr_23_iv_07_whoever_has_a_token_that_is_over_is_told_why_and_the_password_works_there() {
    for (event, told, password) in [
        ("password", "credentials-expired password-changed", true),
        ("epoch", "credentials-expired epoch", true),
        ("token revoked", "credentials-expired revoked", true),
        ("client revoked", "credentials-expired revoked", true),
        ("logged out", "credentials-expired logout", true),
        ("blocked", "not-authorized blocked", true),
        ("disabled", "account-disabled", false),
        ("deleted", "not-authorized", false),
    ] {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        let token = world.fast_token("alice").await;
        let (server, jid) = (&world.server, ALICE.parse_jid());
        let account = server.account(ALICE).await.expect("is read").expect("is there");
        let found = server.tokens_of(&account).await.expect("are read").pop().expect("is one");
        match event {
            "password" => {
                for password in ["other", PASSWORD] {
                    let keys = server.keys_of(Secret::new(password)).await.expect("usable");
                    server.set_password(&jid, keys, admin(), None).await.expect("is stored");
                }
            }
            "epoch" => drop(server.raise_epoch(Scope::Server, false, &admin()).await),
            "token revoked" => drop(server.revoke_token(found.token.id, &admin(), None).await),
            "client revoked" => {
                drop(server.end_client(&found.client, Over::Revoked, &admin(), None).await);
            }
            "logged out" => {
                let owner = Actor::Owner(ALICE.into());
                drop(server.end_client(&found.client, Over::by(&owner), &owner, None).await);
            }
            "blocked" => drop(server.block_client(&found.client, None, &admin(), None).await),
            "disabled" => {
                server.set_standing(&jid, Standing::Disabled, admin()).await.expect("is stored");
            }
            _ => drop(server.delete_account(&jid, admin()).await),
        }
        let mut client = world.secure().await;
        assert_eq!(verdict(&client.by_fast("alice", &token, "").await), told, "{event}");
        // Whoever has it wrong is told nothing.
        let wrong = format!("{}x", &token[..token.len() - 1]);
        assert_eq!(show(&world, &wrong).await, "not-authorized", "{event}");
        let answer = client.sasl2("alice", PASSWORD, "").await;
        assert_eq!(verdict(&answer) == "in", password, "{event}: {answer}");
    }
}

#[tokio::test]
async fn ro_03_ro_04_going_away_is_not_logging_out_and_what_was_logged_out_never_works_again() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let captured = world.fast_token("alice").await;
    // However a connection ends, the token is good afterwards.
    for polite in [false, true] {
        let mut client = world.secure().await;
        let answer = client.by_fast("alice", &captured, BIND).await;
        let id = attribute(&answer, "id").unwrap_or_else(|| panic!("{answer}")).to_owned();
        let session = world.only_alive();
        if polite {
            client.send("</stream:stream>").await;
            client.expect_close().await.expect("is closed");
            assert!(world.server.settled(&session).await);
        } else {
            drop(client);
            assert_eventually("it hibernates", || !session.connected()).await;
            let mut client = world.secure().await;
            let inline = request_to_resume(&id, 0);
            let answer = client.by_fast("alice", &captured, &inline).await;
            assert!(answer.contains("<resumed"), "{answer}");
            drop(client);
            assert_eventually("it hibernates", || !session.connected()).await;
        }
    }
    let mut client = world.secure().await;
    let answer = client.by_fast("alice", &captured, BIND).await;
    let id = attribute(&answer, "id").expect("can be resumed").to_owned();
    let session = world.only_alive();
    let sid = session.identity().and_then(|me| me.client()).expect("is known").id;
    run(&world.server, &local(), "client revoke", json!({ "client": [sid.to_string()] }))
        .await
        .1
        .expect("is done");
    assert_eq!(reason(&session), Some(Reason::Revoked));
    assert_eq!(show(&world, &captured).await, "credentials-expired revoked");
    // Nor after another login of the same installation.
    let newer = world.fast_token("alice").await;
    assert_eq!(show(&world, &newer).await, "in");
    assert_ne!(show(&world, &captured).await, "in");
    let mut client = world.secure().await;
    let answer = client.by_fast("alice", &newer, &request_to_resume(&id, 0)).await;
    assert!(answer.contains("item-not-found") && !answer.contains("<resumed"), "{answer}");
}

#[tokio::test]
async fn iv_08_after_a_kick_the_answer_says_that_a_token_for_the_next_login_is_left() {
    for (level, ways, back) in [
        ("end", json!(["password", "fast"]), "in"),
        ("revoke", json!(["password"]), "credentials-expired revoked"),
        ("block", json!([]), "not-authorized blocked"),
    ] {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        let token = world.fast_token("alice").await;
        let mut client = world.secure().await;
        client.by_fast("alice", &token, BIND).await;
        let session = world.only_alive();
        drop(client);
        assert_eventually("it hibernates", || !session.connected()).await;
        let args = json!({ "id": session.id.to_string(), "level": level });
        let rows = rows(&world.server, "session end", args).await;
        assert_eq!(
            (&rows[0]["outcome"], &rows[0]["ways_back"]),
            (&json!("ended"), &ways),
            "{level}"
        );
        assert_eq!(show(&world, &token).await, back, "{level}");
    }
}

#[tokio::test]
async fn b_13_who_uses_a_replaced_token_ends_what_hibernates_of_its_family_too() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let stolen = world.fast_token("alice").await;
    let answer = world.secure().await.by_fast("alice", &stolen, WANT_TOKEN).await;
    let newer = attribute(&answer, "token").expect("was asked for").to_owned();
    let mut client = world.secure().await;
    let answer = client.by_fast("alice", &newer, BIND).await;
    let id = attribute(&answer, "id").expect("can be resumed").to_owned();
    let session = world.only_alive();
    drop(client);
    assert_eventually("it hibernates", || !session.connected()).await;
    let mut other = world.available("alice", "other").await;

    assert_eq!(show(&world, &stolen).await, "credentials-expired superseded");
    assert!(!session.alive());
    world.is_over(&session).await;
    assert_eq!(show(&world, &newer).await, "credentials-expired reused");
    assert!(other.element().await.contains("event='token-reused'"), "its owner is told");
    let mut client = world.secure().await;
    let answer = client.sasl2("alice", PASSWORD, &request_to_resume(&id, 0)).await;
    assert!(answer.contains("item-not-found") && !answer.contains("<resumed"), "{answer}");
    let audit = rows(&world.server, "audit list", json!({})).await;
    assert!(audit.iter().any(|entry| entry["what"] == "token reused"), "{audit:?}");
}

#[tokio::test]
async fn b_12_pr_23_neither_a_token_nor_what_resumes_a_stream_is_in_the_database() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store::sqlite(dir.path()).expect("opens");
    let keys = KeyRing::open(&dir.path().join("server.key")).expect("keys");
    let clock = Clock::manual(START);
    let world = World::start_keyed(store, keys, clock, plugins::ALL, |_| {}).await;
    world.account("alice").await;
    let token = world.fast_token("alice").await;
    let mut client = world.secure().await;
    let answer = client.by_fast("alice", &token, BIND).await;
    let id = attribute(&answer, "id").expect("can be resumed").to_owned();
    drop(client);
    world.server.shutdown().await;
    world.server.store.close().await.expect("closes");
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let secret = token.strip_prefix("secret-token:fast-").expect("is one");
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).expect("base64");
    let forms = [
        secret.as_bytes().to_vec(),
        bytes(secret),
        id.as_bytes().to_vec(),
        // Behind the session's own id, which is no secret.
        bytes(&id)[16..].to_vec(),
    ];
    let mut looked_at = 0;
    for file in std::fs::read_dir(dir.path()).expect("a directory") {
        let bytes = std::fs::read(file.expect("an entry").path()).expect("is read");
        looked_at += bytes.len();
        for form in &forms {
            assert!(!bytes.windows(form.len()).any(|window| window == form), "{form:?}");
        }
    }
    assert!(looked_at > 10_000, "that was the database");
}

#[tokio::test]
async fn lj_08_live_ones_hibernating_ones_and_tokens_without_a_session_all_end() {
    let world = World::start(|config| config.sessions.close_wait = Span::seconds(0)).await;
    world.account("alice").await;
    let server = &world.server;
    // A token without a session.
    let token = world.fast_token("alice").await;
    assert_eventually("its session is gone", || server.registry.counts().total == 0).await;
    let mut live = Vec::new();
    for resource in ["1", "2", "3"] {
        live.push(world.bound("alice", resource).await);
    }
    let (asleep, id) = world.asleep("alice", "asleep").await;
    let (_, ended) =
        server.raise_account_epoch(&ALICE.parse_jid(), false, &admin()).await.expect("is stored");
    assert_eq!(ended.len(), 4);
    world.is_over(&asleep).await;
    for client in &mut live {
        client.expect_error("reset").await;
    }
    assert_eq!(show(&world, &token).await, "credentials-expired epoch");
    let (_, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.contains("item-not-found") && answer.contains("reason='epoch'"), "{answer}");
}

#[tokio::test]
async fn ro_26_of_a_single_session_a_hibernating_one_makes_way_and_is_told_why() {
    let world = World::start(|config| {
        config.sessions.max_sessions = 1;
        config.sessions.at_limit = server::policy::AtLimit::DisplaceOldest;
    })
    .await;
    world.account("alice").await;
    let (asleep, id) = world.asleep("alice", "1").await;
    let _second = world.bound("alice", "2").await;
    world.is_over(&asleep).await;
    let (_, answer) = world.try_to_resume("alice", &id, 0).await;
    assert!(answer.contains("reason='displaced'"), "{answer}");
}
