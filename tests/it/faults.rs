//! Faults of the server that were found by reading it, each named after what was wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use server::{
    Server,
    account::Role,
    clock::Clock,
    command::{self, Caller, Reply},
    config::{Config, Conflict, Span},
    end::{End, Reason},
    history,
    keyring::KeyRing,
    vault::Mint,
};
use wire::{Mechanism, Secret};

use crate::{
    stores::{Between, one_less, refuse},
    world::{PASSWORD, ParseJid, START, World, admin, enter, tended},
};

#[tokio::test]
async fn a_message_that_no_place_was_found_for_is_told_to_its_sender() {
    let world = World::start(|config| config.storage_limits.offline_messages = 0).await;
    world.account("alice").await;
    world.account("bob").await;
    let bob = tended(&world.server);
    assert!(enter(&world.server, &bob, "bob@localhost").await);
    world.server.bind(&bob, Some("r")).await.expect("is free");
    let mut alice = world.client("alice").await;
    alice
        .send(
            "<message to='bob@localhost/r' type='chat' id='1'><body>a</body></message>\
             <iq to='bob@localhost/r' type='get' id='2'><ping xmlns='urn:xmpp:ping'/></iq>\
             <iq to='bob@localhost/r' type='result' id='3'/>\
             <message to='bob@localhost/r' type='error' id='4'/>",
        )
        .await;
    alice.settle().await;
    assert!(world.server.end(&bob, End::new(Reason::SlowReader)));
    for (name, id) in [("message", 1), ("iq", 2)] {
        alice
            .expect(&format!(
                "<{name} type='error' id='{id}' from='bob@localhost/r' to='alice@localhost/r'>\
                 <error type='cancel'><service-unavailable \
                 xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></{name}>"
            ))
            .await;
    }
    assert!(world.server.settled(&bob).await);
    alice.settle().await;
}

#[tokio::test]
async fn connections_that_linger_are_waited_for_once_and_not_one_after_the_other() {
    let world = World::start(|config| {
        config.sessions.close_wait = Span::OFF;
        config.limits.per_address = 0;
    })
    .await;
    world.account("alice").await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let session = world.server.connect(([127, 0, 0, 1], 1).into()).expect("is let in");
        assert!(enter(&world.server, &session, "alice@localhost").await);
        held.push(session);
    }
    let patience = Duration::from_secs(15);
    let jid = "alice@localhost".parse_jid();
    let keys = world.server.keys_of(Secret::new("other")).await.expect("usable");
    let changed =
        tokio::time::timeout(patience, world.server.set_password(&jid, keys, admin(), None));
    assert_eq!(changed.await.expect("does not take for ever"), Ok(20));
    let stopped = tokio::time::timeout(patience, world.server.shutdown());
    stopped.await.expect("does not take for ever");
}

fn mint(resource: Option<&str>) -> Mint {
    Mint { resource: resource.map(str::to_owned), ..Mint::login(Role::User, "test") }
}

#[tokio::test]
async fn pr_16_a_token_that_pins_a_resource_is_not_given_another_name() {
    let world = World::start(|config| config.sessions.conflict = Conflict::Rename).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (_, token) = server.mint(&account, mint(Some("pinned"))).await.expect("is stored");
    let mut bound = Vec::new();
    for _ in 0..2 {
        let session = tended(server);
        let candidate =
            server.check_token(&session, None, Secret::new(token.to_text().as_bytes())).await;
        let candidate = candidate.expect("is valid");
        let entered = server.enter(&session, candidate, Mechanism::OauthBearer, None).await;
        entered.expect("is let in");
        let jid = server.bind(&session, Some("other")).await;
        bound.push(jid.map(|jid| jid.to_string()).map_err(|error| error.condition));
    }
    let conflict = Err(wire::Condition::Conflict);
    assert_eq!(bound, [Ok("alice@localhost/pinned".to_owned()), conflict]);
}

#[tokio::test]
async fn a_token_in_use_does_not_die_because_its_use_was_not_written() {
    let world = World::start(|config| config.tokens.last_use = Span::seconds(3600)).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let mint = Mint { inactive: Some(3600), ..mint(None) };
    let (_, token) = server.mint(&account, mint).await.expect("is stored");
    for _ in 0..4 {
        let text = Secret::new(token.to_text().as_bytes());
        let candidate =
            server.check_token(&tended(server), None, text).await.expect("used 50 minutes ago");
        let session = tended(server);
        let entered = server.enter(&session, candidate, Mechanism::OauthBearer, None).await;
        entered.expect("is let in");
        server.end(&session, End::peer(Reason::Closed));
        assert!(server.settled(&session).await);
        let now = world.clock.now();
        let noted = async || {
            let found = server.tokens_of(&account).await.expect("are read");
            found[0].token.used == Some(now)
        };
        for _ in 0..1000 {
            if noted().await {
                break;
            }
            tokio::task::yield_now().await;
        }
        world.clock.advance(50 * 60_000);
    }
    world.clock.advance(10 * 60_000);
    let text = Secret::new(token.to_text().as_bytes());
    assert!(server.check_token(&tended(server), None, text).await.is_err(), "not used for an hour");
}

#[tokio::test]
async fn a_token_does_not_die_of_disuse_while_its_session_is_there() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let mint = Mint { inactive: Some(3600), ..mint(None) };
    let (record, token) = server.mint(&account, mint).await.expect("is stored");
    let text = || Secret::new(token.to_text().as_bytes());
    let session = tended(server);
    let candidate = server.check_token(&session, None, text()).await.expect("is valid");
    let entered = server.enter(&session, candidate, Mechanism::OauthBearer, None).await;
    entered.expect("is let in");
    server.bind(&session, None).await.expect("is free");
    for _ in 0..24 {
        world.clock.advance(300_000);
        assert_eq!(server.sweep(), 0, "it is overdue in no way");
        // What the sweep began is on its way to the store.
        let noted = async || {
            let found = server.find_token(record.token.id).await.expect("is read");
            found.expect("is there").token.used
        };
        let now = world.clock.now();
        for _ in 0..1000 {
            if noted().await.is_some_and(|at| now.seconds_since(at) < 360) {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    assert!(
        server.check_token(&tended(server), None, text()).await.is_ok(),
        "its session was there for two hours"
    );
}

/// Runs a command: its rows and its last word.
async fn run(server: &Arc<Server>, name: &str, args: Value) -> (Vec<Value>, Reply) {
    let Value::Object(args) = args else { panic!("{args} are no arguments") };
    let (sender, mut replies) = tokio::sync::mpsc::channel(64);
    let running = command::run(server.clone(), Caller::local("test"), name, args, sender);
    let collected = async {
        let mut rows = Vec::new();
        while let Some(reply) = replies.recv().await {
            match reply {
                Reply::Row(row) => rows.push(Value::Object(row)),
                Reply::Began | Reply::Progress { .. } => {}
                last => return (rows, last),
            }
        }
        panic!("no last word");
    };
    tokio::join!(running, collected).1
}

fn matched(reply: &Reply) -> bool {
    matches!(reply, Reply::Done(done) if done.matched)
}

#[tokio::test]
async fn revoking_one_session_names_all_that_its_token_takes_along() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (record, token) = server.mint(&account, mint(None)).await.expect("is stored");
    for resource in ["a", "b"] {
        let session = tended(server);
        let text = Secret::new(token.to_text().as_bytes());
        let candidate = server.check_token(&session, None, text).await.expect("is valid");
        let entered = server.enter(&session, candidate, Mechanism::OauthBearer, None).await;
        entered.expect("is let in");
        server.bind(&session, Some(resource)).await.expect("is free");
    }
    let other = tended(server);
    assert!(enter(server, &other, "alice@localhost").await);
    let mut args = json!({ "selector": ["alice@localhost/a"], "level": "revoke", "dry-run": true });
    for outcome in ["would-end", "ended"] {
        let (rows, done) = run(server, "session end", args.clone()).await;
        assert!(matched(&done), "{done:?}");
        let mut seen: Vec<_> = rows.iter().map(|row| (&row["jid"], &row["outcome"])).collect();
        seen.sort_by_key(|(jid, _)| jid.to_string());
        let (a, b, outcome) =
            (json!("alice@localhost/a"), json!("alice@localhost/b"), json!(outcome));
        assert_eq!(seen, [(&a, &outcome), (&b, &outcome)]);
        args["dry-run"] = false.into();
    }
    let stored = server.find_token(record.token.id).await.expect("can be read");
    let stored = stored.expect("is there").token;
    assert!(stored.over.is_some());
    assert!(other.alive(), "it has not used the token");
}

#[tokio::test]
async fn revoking_by_token_revokes_it_though_no_session_has_it() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (record, _) = server.mint(&account, mint(None)).await.expect("is stored");
    let revoked = async || {
        let stored = server.find_token(record.token.id).await.expect("can be read");
        let stored = stored.expect("is there").token;
        stored.over.is_some()
    };
    let id = record.token.id.to_string();
    let (_, done) = run(server, "session end", json!({ "token": id })).await;
    assert!(!matched(&done) && !revoked().await, "only its sessions were to end");
    let dry = json!({ "token": id, "level": "revoke", "dry-run": true });
    let (_, done) = run(server, "session end", dry).await;
    assert!(!matched(&done) && !revoked().await, "nothing was to be done");
    let args = json!({ "token": id, "level": "revoke" });
    let (_, done) = run(server, "session end", args).await;
    assert!(matched(&done) && revoked().await, "{done:?}");
    let unknown = json!({ "token": wire::TokenId(1).to_string(), "level": "revoke" });
    let (_, done) = run(server, "session end", unknown).await;
    assert!(!matched(&done), "{done:?}");
}

#[tokio::test]
async fn a_token_that_was_minted_for_nobody_is_named_in_the_audit() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (sender, gone) = tokio::sync::mpsc::channel(1);
    drop(gone);
    let Value::Object(args) = json!({ "jid": "alice@localhost" }) else { return };
    command::run(server.clone(), Caller::local("test"), "token mint", args, sender).await;
    let [record] = <[_; 1]>::try_from(server.tokens_of(&account).await.expect("can be read"))
        .unwrap_or_else(|all| panic!("{all:?}"));
    let audit = server.audit_tail(1).await.expect("can be read");
    assert!(audit[0].outcome.contains(&record.token.id.to_string()), "{audit:?}");
}

#[tokio::test]
async fn lj_22_a_made_up_token_tells_nobody_whether_its_account_is_there() {
    let store = Between::new(store::memory(), |store, batch| store.commit(batch));
    let mut config = Config::default();
    config.auth.scram_iterations = 2;
    let clock = Clock::manual(START);
    let server = Server::new(config, clock, store.clone(), KeyRing::ephemeral(), plugins::ALL);
    let server = server.expect("is put together");
    let keys = server.keys_of(Secret::new(PASSWORD)).await.expect("usable");
    server.add_account(&"alice@localhost".parse_jid(), keys, Role::User).await.expect("is new");
    let mut costs = Vec::new();
    for name in ["alice", "nobody"] {
        let owner = format!("{name}@localhost").as_str().parse_jid();
        let made_up = wire::Token { id: wire::TokenId(7), secret: Secret::new([7; 24]), owner };
        let text = Secret::new(made_up.to_text().as_bytes());
        store.reads.store(0, Ordering::SeqCst);
        let denied =
            server.check_token(&tended(&server), None, text).await.expect_err("is made up");
        costs.push((denied.failure, store.reads.load(Ordering::SeqCst)));
    }
    assert_eq!(costs[0], costs[1]);
}

#[tokio::test]
async fn lj_24_a_login_that_the_disk_did_not_take_is_written_once_it_does() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let left = refusals.clone();
    let store = Between::new(store::memory(), move |store, batch| match one_less(&left) {
        Some(_) => refuse("the disk is full"),
        None => store.commit(batch),
    });
    let world = World::start_on(store, Clock::manual(START), plugins::ALL, |_| {}).await;
    let account = world.account("alice").await;
    refusals.store(1, Ordering::SeqCst);
    // The login does not wait for it.
    let session = tended(&world.server);
    assert!(enter(&world.server, &session, "alice@localhost").await);
    assert!(world.server.history_written(Duration::from_secs(20)).await);
    assert_eq!(refusals.load(Ordering::SeqCst), 0, "it was refused once");
    assert_eq!(world.server.store.count(&history::LOGIN, account.id.0).await, Ok(1));
}
