//! Sessions that may do less than their account: those that a token opened, and those whose password
//! was given too long ago.

use serde_json::json;
use server::{
    account::Role,
    command,
    config::Span,
    end::{End, Reason},
    rights::{Right, Rights},
};

use super::{add, by_token, forbidden, mint, present, run};
use crate::world::World;

#[tokio::test]
async fn lj_31_what_a_token_opened_may_do_no_more_than_the_token_says() {
    let world = World::start(|_| {}).await;
    let root = add(&world, "root", Role::Admin).await;
    add(&world, "alice", Role::User).await;
    let (own, _) = world.server.mint(&root, mint(Role::User)).await.expect("is stored");
    let own = own.token.id.to_string();
    for &role in Role::ALL {
        let session = by_token(&world, &root, role).await;
        let caller = world.server.caller_of(&session).await.expect("is there");
        let rights = caller.rights();
        assert_eq!(rights, world.server.config.roles.rights(role), "{role:?}");
        assert_eq!(caller.account().map(|me| me.role()), Some(role));
        // The own account's sessions and tokens are for no token that is for chats alone.
        for (name, args) in [
            ("session list", json!({})),
            ("session end", json!({ "id": "aaaaaaaaaaaaaaaaaaaaaaaaaa" })),
            ("token list", json!({ "jid": "root@localhost" })),
            ("token mint", json!({ "jid": "root@localhost" })),
            ("token revoke", json!({ "token": own })),
        ] {
            let outcome = run(&world.server, &caller, name, args).await;
            let token = name == "token mint" || name == "token revoke";
            assert_eq!(
                forbidden(&outcome),
                role == Role::Restricted || token,
                "{name}: {outcome:?}"
            );
        }
        world.server.end(&session, End::new(Reason::Kicked));
    }
}

#[tokio::test]
async fn lj_31_less_than_the_account_cannot_become_the_account() {
    let world = World::start(|config| config.auth.step_up = Span::OFF).await;
    let root = add(&world, "root", Role::Admin).await;
    let session = by_token(&world, &root, Role::User).await;
    let caller = world.server.caller_of(&session).await.expect("is there");
    let password = json!({ "jid": "root@localhost", "password": "mine" });
    assert!(forbidden(&run(&world.server, &caller, "user password", password).await));
    let more = json!({ "jid": "root@localhost", "role": "operator" });
    assert!(forbidden(&run(&world.server, &caller, "token mint", more).await));
    let (rows, done) =
        run(&world.server, &caller, "token mint", json!({ "jid": "root@localhost" })).await;
    let id = done.expect("no more than it is").fields["id"].as_str().expect("an id").to_owned();
    let record = world.server.find_token(id.parse().expect("an id")).await.expect("is read");
    assert_eq!(record.expect("is there").token.role, Role::User, "{rows:?}");
    // What a lower role was given by the configuration is no way around the account's own role.
    let odd = World::start(|config| config.roles.user.rights = Rights::of(&[Right::Server])).await;
    let viewer = add(&odd, "viewer", Role::Viewer).await;
    let session = by_token(&odd, &viewer, Role::User).await;
    let caller = odd.server.caller_of(&session).await.expect("is there");
    assert_eq!(caller.rights(), Rights::NONE);
}

#[tokio::test]
async fn ro_28_what_takes_a_recent_password_is_refused_to_a_token_and_later() {
    // Whether a new client may touch older ones is another question.
    let world = World::start(|config| config.clients.fresh = Span::OFF).await;
    let alice = add(&world, "alice", Role::User).await;
    let (token, _) = world.server.mint(&alice, mint(Role::User)).await.expect("is stored");
    let fresh: Vec<_> = command::table().filter(|command| command.fresh).collect();
    assert!(fresh.iter().any(|command| command.name == "user password"));
    let cases = [
        ("token mint", json!({ "jid": "alice@localhost" })),
        ("token revoke", json!({ "token": token.token.id.to_string() })),
        ("session end", json!({ "selector": ["alice@localhost/none"], "level": "revoke" })),
        ("user password", json!({ "jid": "alice@localhost", "password": "other" })),
    ];
    let by_token = by_token(&world, &alice, Role::User).await;
    let old = present(&world, "alice", "old").await;
    world.clock.advance(300_000);
    for session in [&by_token, &old] {
        let caller = world.server.caller_of(session).await.expect("is there");
        for (name, args) in &cases {
            let outcome = run(&world.server, &caller, name, args.clone()).await;
            assert!(forbidden(&outcome), "{name}: {outcome:?}");
        }
        // What only ends something is never put off.
        let args = json!({ "id": session.id.to_string(), "dry-run": true });
        assert!(run(&world.server, &caller, "session end", args).await.1.is_ok());
    }
    let recent = present(&world, "alice", "recent").await;
    world.clock.advance(299_000);
    let caller = world.server.caller_of(&recent).await.expect("is there");
    for (name, args) in &cases {
        let outcome = run(&world.server, &caller, name, args.clone()).await;
        assert!(outcome.1.is_ok(), "{name}: {outcome:?}");
    }
}
