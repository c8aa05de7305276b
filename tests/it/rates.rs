//! How many commands an account may give, and what it may do even then.

use std::sync::Arc;

use serde_json::{Value, json};
use server::{
    Server,
    account::Role,
    command::{Caller, CommandError},
    config::{Config, Span},
};

use crate::{
    clients::visit,
    rights::{acting, add, forbidden, local, run},
    world::World,
};

const ALICE: &str = "alice@localhost";

fn few(config: &mut Config) {
    config.commands.changes = 3;
    config.commands.views = 2;
    config.commands.own_ends = 3;
    config.commands.period = Span::seconds(60);
    config.clients.fresh = Span::OFF;
}

async fn ask(
    server: &Arc<Server>,
    caller: &Caller,
    name: &str,
    args: Value,
) -> Result<(), CommandError> {
    run(server, caller, name, args).await.1.map(drop)
}

/// The same, if it is refused because there were too many.
async fn too_many(server: &Arc<Server>, caller: &Caller, name: &str, args: Value) -> CommandError {
    let error = ask(server, caller, name, args).await.expect_err(name);
    assert!(error.message.contains("has given") && !error.forbidden, "{error:?}");
    assert!(error.hint.contains("try again in"), "{error:?}");
    error
}

fn label(client: &str) -> Value {
    json!({ "client": client, "label": "phone" })
}

#[tokio::test]
async fn lj_32_a_flood_is_refused_until_the_time_that_is_told_and_counted_for_each_account() {
    let world = World::start(few).await;
    let server = &world.server;
    for name in ["alice", "bob"] {
        world.account(name).await;
    }
    let session = visit(server, ALICE, "a").await;
    let client = session.identity().and_then(|me| me.client()).expect("is known").id.to_string();
    let alice = server.caller_of(&session).await.expect("is there");
    for _ in 0..2 {
        ask(server, &alice, "session list", json!({})).await.expect("is shown");
        world.clock.advance(10_000);
    }
    let error = too_many(server, &alice, "session list", json!({})).await;
    assert!(error.hint.contains("in 40s") && error.hint.contains("commands.views"), "{error:?}");
    // From another session of the account it is the same; to change something is counted apart, and
    // others are others.
    let other = visit(server, ALICE, "b").await;
    let other = server.caller_of(&other).await.expect("is there");
    too_many(server, &other, "whoami", json!({})).await;
    for _ in 0..3 {
        ask(server, &alice, "client label", label(&client)).await.expect("is done");
    }
    too_many(server, &alice, "client label", label(&client)).await;
    let bob = visit(server, "bob@localhost", "b").await;
    let bob = server.caller_of(&bob).await.expect("is there");
    ask(server, &bob, "session list", json!({})).await.expect("is shown");
    // Of a flood the audit has what was done, and once that it was too much.
    for _ in 0..50 {
        too_many(server, &alice, "client label", label(&client)).await;
    }
    let entries = server.audit_tail(100).await.expect("is read");
    let of = |ok| entries.iter().filter(|e| e.what == "client label" && e.ok == ok).count();
    assert_eq!((of(true), of(false)), (3, 1));
    // At the time that was told, and not before; however often it has asked meanwhile.
    world.clock.advance(39_999);
    too_many(server, &alice, "session list", json!({})).await;
    world.clock.advance(1);
    ask(server, &alice, "session list", json!({})).await.expect("is shown");
}

#[tokio::test]
async fn lj_32_whoever_has_done_too_much_may_still_end_the_own_sessions_and_no_others() {
    let world = World::start(few).await;
    let server = &world.server;
    for (name, role) in [("alice", Role::Operator), ("bob", Role::User)] {
        add(&world, name, role).await;
    }
    let session = visit(server, ALICE, "own").await;
    let client = session.identity().and_then(|me| me.client()).expect("is known").id.to_string();
    let caller = server.caller_of(&session).await.expect("is there");
    for _ in 0..3 {
        ask(server, &caller, "client label", label(&client)).await.expect("is done");
    }
    let thief = visit(server, ALICE, "thief").await;
    let bob = visit(server, "bob@localhost", "r").await;
    let others = json!({ "selector": [ALICE], "others": true, "level": "revoke" });
    ask(server, &caller, "session end", others.clone()).await.expect("is never refused");
    assert!(!thief.alive() && session.alive());
    // What is of others is not, whatever the rights.
    for wrong in [
        json!({ "selector": ["bob@localhost"], "reason": "test" }),
        json!({ "id": bob.id.to_string(), "reason": "test" }),
    ] {
        let _ = ask(server, &caller, "session end", wrong).await;
        assert!(bob.alive());
    }
    // Nor is this without end.
    too_many(server, &caller, "session end", others.clone()).await;
    world.clock.advance(60_000);
    ask(server, &caller, "session end", others).await.expect("there is nobody else");
    let of_others = json!({ "selector": ["bob@localhost"], "reason": "test" });
    ask(server, &caller, "session end", of_others).await.expect("may again");
    assert!(!bob.alive());
}

#[tokio::test]
async fn lj_32_others_named_in_a_panic_get_the_answer_that_there_were_too_many() {
    let world = World::start(few).await;
    let server = &world.server;
    add(&world, "root", Role::Admin).await;
    add(&world, "bob", Role::User).await;
    let root = acting(&world, "root").await;
    let show = json!({ "selector": ["bob@localhost"], "reason": "x", "dry-run": true });
    for _ in 0..3 {
        ask(server, &root, "session end", show.clone()).await.expect("is done");
    }
    let error = too_many(server, &root, "session end", show).await;
    assert!(error.hint.contains("commands.changes"), "{error:?}");
    // Who may not do it at all is told so.
    add(&world, "low", Role::Restricted).await;
    let low = acting(&world, "low").await;
    assert!(forbidden(&run(server, &low, "session end", json!({ "all": true })).await));
}

#[tokio::test]
async fn lj_32_the_admin_socket_and_what_was_planned_are_not_counted() {
    let world = World::start(few).await;
    let server = &world.server;
    add(&world, "root", Role::Admin).await;
    world.account("alice").await;
    for _ in 0..20 {
        ask(server, &local(), "session list", json!({})).await.expect("is shown");
        ask(server, &local(), "user disable", json!({ "jid": ALICE })).await.expect("is done");
    }
    ask(server, &local(), "user enable", json!({ "jid": ALICE })).await.expect("is done");
    let session = visit(server, ALICE, "r").await;
    let root = acting(&world, "root").await;
    let later = json!({ "selector": [ALICE], "reason": "test", "in": "30s" });
    for _ in 0..3 {
        ask(server, &root, "session end", later.clone()).await.expect("is planned");
    }
    too_many(server, &root, "user disable", json!({ "jid": ALICE })).await;
    world.clock.advance(30_000);
    assert_eq!(server.run_due().await, Ok(3));
    assert!(!session.alive(), "what was planned is done");
    // Off is off.
    let free = World::start(|config| {
        few(config);
        config.commands.period = Span::OFF;
    })
    .await;
    add(&free, "root", Role::Admin).await;
    let root = acting(&free, "root").await;
    for _ in 0..20 {
        ask(&free.server, &root, "session list", json!({})).await.expect("is shown");
    }
}
