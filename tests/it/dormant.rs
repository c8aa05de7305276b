//! The rule for dormant accounts, and when accounts were used last.

use serde_json::json;
use server::{
    clock::Clock,
    config::Span,
    end::{End, Reason},
};

use crate::{
    history::{DAY, PATIENCE, login, login_and_out, rows},
    world::{PASSWORD, START, World},
};

#[tokio::test]
async fn ro_32_an_account_that_was_not_used_for_180_days_may_not_log_in() {
    let world = World::start(|config| config.auth.dormant = Span::days(180)).await;
    world.account("alice").await;
    let server = &world.server;
    drop(world.client("alice").await);
    world.empty().await;
    world.clock.advance(179 * DAY);
    drop(world.client("alice").await);
    world.empty().await;
    assert!(server.history_written(PATIENCE).await);
    world.clock.advance(181 * DAY);

    let mut wrong = world.connect().await;
    let refused = wrong.try_login("alice", "wrong").await.expect_err("is wrong");
    assert!(refused.contains("not-authorized"), "a stranger learns nothing: {refused}");
    let mut late = world.connect().await;
    let refused = late.try_login("alice", PASSWORD).await.expect_err("is dormant");
    assert!(refused.contains("account-disabled"), "{refused}");
    let failed = rows(server, "last", json!({ "failed": true, "limit": "1" })).await;
    assert_eq!(failed[0]["reason"], "dormant");

    let enabled = rows(server, "user enable", json!({ "jid": "alice@localhost" })).await;
    assert!(enabled.is_empty());
    world.client("alice").await;
}

#[tokio::test]
async fn ro_32_whoever_is_here_or_new_or_of_unknown_age_is_not_dormant() {
    let store = store::memory();
    let (clock, change) = (Clock::manual(START), |_: &mut server::config::Config| {});
    let world = World::start_on(store.clone(), clock.clone(), plugins::ALL, change).await;
    for name in ["alice", "old"] {
        world.account(name).await;
    }
    clock.advance(400 * DAY);
    // The rule is new: nobody knows when `old` was here last.
    let world = World::start_on(store, clock, plugins::ALL, |config| {
        config.auth.dormant = Span::days(180);
    })
    .await;
    let first = login(&world.server, "alice@localhost").await;
    world.clock.advance(100 * DAY);
    login_and_out(&world.server, "old@localhost").await;
    world.account("new").await;
    world.clock.advance(179 * DAY);
    login_and_out(&world.server, "new@localhost").await;
    // 279 days after its login, but it is still there; and once it has gone, it was there till then.
    login_and_out(&world.server, "alice@localhost").await;
    world.server.end(&first, End::peer(Reason::Closed));
    assert!(world.server.history_written(PATIENCE).await);
    world.clock.advance(179 * DAY);
    login_and_out(&world.server, "alice@localhost").await;
}
