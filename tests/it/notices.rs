//! What the owner of an account hears of what is done to it.

use serde_json::json;
use server::{
    account::Role,
    change::Standing,
    end::Actor,
    vault::{Mint, Parent},
};
use wire::Secret;

use crate::{
    clients::{token_visit, visit},
    rights::{local, run},
    world::{PASSWORD, ParseJid, Remote, World, admin, assert_eventually},
};

const ALICE: &str = "alice@localhost";

/// What is done, and what the owner is told; the last is whether a session of hers is left.
const EVENTS: [(&str, &str, &str, bool); 5] = [
    ("password-changed", "The password of this account was changed", "Das Passwort", true),
    (
        "password-reset",
        "An administrator has set another password for this account",
        "Die Verw",
        false,
    ),
    (
        "role-changed",
        "An administrator has changed what this account may do",
        "Die Verwaltung",
        true,
    ),
    ("token-reused", "A token of this account that had been replaced", "Ein Token", true),
    (
        "sessions-ended",
        "An administrator has ended all sessions of this account",
        "Die Verw",
        false,
    ),
];

/// Makes it happen; if a session is to be left, `current` is.
async fn happen(world: &World, event: &str, current: Option<server::id::SessionId>) {
    let (server, jid) = (&world.server, ALICE.parse_jid());
    let set = async |actor| {
        let keys = server.keys_of(Secret::new(PASSWORD)).await.expect("usable");
        server.set_password(&jid, keys, actor, current).await.expect("is stored");
    };
    match event {
        "password-changed" => set(Actor::Owner(ALICE.into())).await,
        "password-reset" => set(admin()).await,
        "role-changed" => {
            let standing = Standing::Role(Role::Support);
            server.set_standing(&jid, standing, admin()).await.expect("is stored");
        }
        "token-reused" => {
            let account = server.account(ALICE).await.expect("is read").expect("is there");
            let mint = || Mint { parent: Parent::New, ..Mint::login(Role::User, "test") };
            let (first, text) = server.mint(&account, mint()).await.expect("is stored");
            let rotated = server.rotate_token(&account, first.token.id, "test").await;
            let (_, newer) = rotated.expect("is stored");
            let used = token_visit(server, &newer.to_text()).await.expect("is good");
            crate::clients::eventually(async || {
                let found = server.find_token(first.token.id).await.expect("is read");
                found.expect("is there").token.over
            })
            .await;
            let refused = token_visit(server, &text.to_text()).await.expect_err("is replaced");
            assert_eq!(refused.failure.as_str(), "credentials-expired");
            assert!(!used.alive(), "all that came from it is over");
        }
        "sessions-ended" => {
            let args = json!({ "selector": [ALICE] });
            run(server, &local(), "session end", args).await.1.expect("is done");
        }
        other => panic!("{other}"),
    }
}

async fn hears(
    client: &mut Remote,
    (event, english, german, _): (&str, &str, &str, bool),
    kind: &str,
) {
    let message = client.element().await;
    assert!(
        message.contains("from='localhost'") && message.contains(&format!(">{english}")),
        "{message}"
    );
    assert!(message.contains("lang='de'") && message.contains(&format!(">{german}")), "{message}");
    assert!(message.contains(&format!("event='{event}'")), "{message}");
    assert_eq!(message.contains("type='headline'"), kind == "headline", "{message}");
}

#[tokio::test]
async fn lj_29_whoever_is_left_gets_a_headline_and_whoever_is_away_finds_a_message() {
    for event in EVENTS {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        if event.3 {
            let mut client = world.available("alice", "r").await;
            let current = world.session("alice@localhost/r").id;
            happen(&world, event.0, Some(current)).await;
            hears(&mut client, event, "headline").await;
            client.settle().await;
            drop(client);
            assert_eventually("is gone", || world.server.registry.of(ALICE).is_empty()).await;
            // Who has heard it does not hear it again.
            let mut later = world.available("alice", "r").await;
            later.settle().await;
            continue;
        }
        // Somebody has to be there for a session to end.
        let _gone = visit(&world.server, ALICE, "gone").await;
        happen(&world, event.0, None).await;
        let mut later = world.available("alice", "r").await;
        hears(&mut later, event, "normal").await;
        later.settle().await;
    }
}

#[tokio::test]
async fn lj_29_whoever_does_not_want_it_and_whoever_does_it_to_the_own_sessions_hears_nothing() {
    for event in EVENTS {
        let world = World::start(|config| config.on.notify = false).await;
        world.account("alice").await;
        let _gone = visit(&world.server, ALICE, "gone").await;
        happen(&world, event.0, None).await;
        let mut later = world.available("alice", "r").await;
        later.settle().await;
    }
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let own = visit(server, ALICE, "own").await;
    let caller = server.caller_of(&own).await.expect("is there");
    let all = json!({ "selector": [ALICE] });
    run(server, &caller, "session end", all.clone()).await.1.expect("is done");
    // Nor is it news that a stream was closed, that one of two was ended, or that nobody was there.
    run(server, &local(), "session end", all).await.1.expect("nothing to do");
    let _kicked = visit(server, ALICE, "kicked").await;
    let kick = json!({ "selector": [ALICE], "level": "kick" });
    run(server, &local(), "session end", kick).await.1.expect("is done");
    let (one, _other) = (visit(server, ALICE, "one").await, visit(server, ALICE, "other").await);
    let one = json!({ "id": one.id.to_string() });
    run(server, &local(), "session end", one).await.1.expect("is done");
    let mut later = world.available("alice", "r").await;
    later.settle().await;
}
