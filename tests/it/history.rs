//! The login history, the privacy clock over it, and when accounts were used last.

use std::sync::Arc;

use serde_json::{Value, json};
use server::{
    Server, Session,
    clock::{Clock, Millis},
    command::{self, Reply},
    config::Span,
    end::{End, Reason},
    history::{LAST_SEEN, LOGIN, LOGIN_REFUSED, LOGIN_TIME, LoginRecord, Query, Seen},
    store::{Range, Row, SERVER, Table},
};
use wire::{Hash, Mechanism, SaslFailure, Secret};

use crate::{
    dialogue::encode,
    world::{PASSWORD, ParseJid, START, World, admin, assert_eventually, enter, tended},
};

/// In milliseconds.
pub const DAY: u64 = 86_400_000;
/// How long something that has to happen may take.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// The rows of a command.
pub async fn rows(server: &Arc<Server>, name: &str, args: Value) -> Vec<Value> {
    let (sender, mut replies) = tokio::sync::mpsc::channel(10_000);
    let Value::Object(args) = args else { panic!("arguments are an object") };
    command::run(server.clone(), command::Caller::local("test"), name, args, sender).await;
    let mut rows = Vec::new();
    while let Some(reply) = replies.recv().await {
        match reply {
            Reply::Row(row) => rows.push(Value::Object(row)),
            Reply::Failed(error) => panic!("{name}: {error}"),
            _ => {}
        }
    }
    rows
}

/// All rows of a table of an account, when all that was noted is written.
pub async fn stored(server: &Arc<Server>, table: &'static Table, owner: u64) -> Vec<Row> {
    assert!(server.history_written(PATIENCE).await, "it is written");
    server.store.rows(table, owner, Range::all()).await.expect("can be read")
}

async fn count(server: &Arc<Server>, owner: u64) -> usize {
    let rows = stored(server, &LOGIN, owner).await;
    let index = stored(server, &LOGIN_TIME, SERVER).await;
    let of = |row: &&Row| {
        let place: Value = serde_json::from_slice(&row.value).expect("JSON");
        place["account"] == owner
    };
    assert_eq!(index.iter().filter(of).count(), rows.len(), "each row is in the index");
    let refused = stored(server, &LOGIN_REFUSED, SERVER).await;
    let failed = |row: &&Row| String::from_utf8_lossy(&row.value).contains("refused");
    let in_index = refused.iter().filter(of).count();
    assert_eq!(in_index, rows.iter().filter(failed).count(), "and each refused one again");
    rows.len()
}

pub async fn login(server: &Arc<Server>, jid: &str) -> Arc<Session> {
    let session = tended(server);
    assert!(enter(server, &session, jid).await, "{jid} is let in");
    session
}

pub async fn login_and_out(server: &Arc<Server>, jid: &str) {
    let session = login(server, jid).await;
    server.end(&session, End::peer(Reason::Closed));
    assert!(server.settled(&session).await);
}

/// A whole round of the pass over all accounts; how many rows it has changed.
pub async fn age(server: &Arc<Server>) -> usize {
    let mut changed = 0;
    loop {
        let step = server.age_step().await.expect("works");
        changed += step.changed;
        if step.finished {
            return changed;
        }
    }
}

#[tokio::test]
async fn lj_24_a_login_is_one_row_that_says_who_from_where_with_what_and_how_it_ended() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut client = world.client("alice").await;
    client.settle().await;
    let session = world.session("alice@localhost/r");
    let all = rows(&world.server, "last", json!({})).await;
    let [row] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(row["jid"], "alice@localhost");
    assert_eq!(row["state"], "here");
    assert_eq!(row["since"], START.to_string());
    assert_eq!((&row["until"], &row["reason"]), (&Value::Null, &Value::Null));
    assert_eq!(row["address"], "127.0.0.1");
    assert_eq!(row["mechanism"], "SCRAM-SHA-256");
    assert_eq!(row["session"], session.id.to_string());

    session.set_software("Gajim 2");
    world.clock.advance(65_000);
    let text = Some("tea".to_owned());
    let kick = End { actor: admin(), text, ..End::new(Reason::Kicked) };
    assert!(world.server.end(&session, kick));
    let all = rows(&world.server, "last", json!({ "jid": "alice@localhost" })).await;
    let [row] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((&row["state"], &row["reason"]), (&json!("ended"), &json!("kicked")));
    assert_eq!((&row["by"], &row["seconds"]), (&json!("admin:test"), &json!(65)));
    assert_eq!(row["until"], Millis(START.0 + 65_000).to_string());
    assert_eq!(row["software"], "Gajim 2");
    assert_eq!(row["rx_stanzas"], 1, "{row}");
}

#[tokio::test]
async fn lj_24_ten_kilobytes_of_user_agent_are_stored_capped() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let session = login(&world.server, "alice@localhost").await;
    session.set_software(&"é".repeat(5_000));
    world.server.end(&session, End::peer(Reason::Closed));
    let [row] = <[Row; 1]>::try_from(stored(&world.server, &LOGIN, account.id.0).await)
        .unwrap_or_else(|rows| panic!("{rows:?}"));
    let record: LoginRecord = serde_json::from_slice(&row.value).expect("a record");
    assert_eq!(record.software.as_deref(), Some("é".repeat(100).as_str()));
    assert!(row.value.len() < 700, "{}", row.value.len());
}

#[tokio::test]
async fn lj_24_a_login_removes_the_account_s_rows_of_31_days_ago() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let bob = world.account("bob").await;
    login_and_out(&world.server, "alice@localhost").await;
    login_and_out(&world.server, "bob@localhost").await;
    world.clock.advance(29 * DAY);
    login_and_out(&world.server, "alice@localhost").await;
    assert_eq!(count(&world.server, alice.id.0).await, 2, "29 days are not 30");
    world.clock.advance(2 * DAY);
    login_and_out(&world.server, "alice@localhost").await;
    assert_eq!(count(&world.server, alice.id.0).await, 2, "the first is gone");
    assert_eq!(count(&world.server, bob.id.0).await, 1, "a login looks at its own account");
    let shown = rows(&world.server, "last", json!({})).await;
    assert_eq!(shown.len(), 2, "{shown:?}");
}

#[tokio::test]
async fn lj_25_the_rest_is_removed_in_the_background_and_never_shown() {
    let world = World::start(|_| {}).await;
    let bob = world.account("bob").await;
    login_and_out(&world.server, "bob@localhost").await;
    let stays = login(&world.server, "bob@localhost").await;
    world.clock.advance(31 * DAY);
    let shown = rows(&world.server, "last", json!({ "jid": "bob@localhost" })).await;
    assert_eq!(shown.len(), 1, "overdue, though it is stored: {shown:?}");
    assert_eq!(shown[0]["state"], "here");
    age(&world.server).await;
    assert_eq!(count(&world.server, bob.id.0).await, 1, "whoever is here stays in the book");
    world.server.end(&stays, End::peer(Reason::Closed));
    assert!(world.server.settled(&stays).await);
    age(&world.server).await;
    assert_eq!(count(&world.server, bob.id.0).await, 1, "30 days from its end on");
    world.clock.advance(30 * DAY);
    age(&world.server).await;
    assert_eq!(count(&world.server, bob.id.0).await, 0);
}

#[tokio::test]
async fn lj_24_nolog_leaves_no_row() {
    let world = World::start(|config| config.history.nolog = vec!["probe@localhost".into()]).await;
    let probe = world.account("probe").await;
    let alice = world.account("alice").await;
    let server = &world.server;
    login_and_out(server, "probe@localhost").await;
    let session = tended(server);
    let keys = server.scram_keys(&session, &"alice@localhost".parse_jid(), Hash::Sha256).await;
    let (_, candidate) = keys.expect("is there");
    let entered = server.enter(&session, candidate.nolog(), Mechanism::ScramSha256, None).await;
    entered.expect("is let in");
    server.end(&session, End::peer(Reason::Closed));
    for account in [&probe, &alice] {
        assert_eq!(count(server, account.id.0).await, 0);
        let seen = server.last_seen(account.id).await.expect("can be read");
        assert_eq!(seen.expect("is known").login, START, "when, and nothing else");
    }
}

#[tokio::test]
async fn lj_24_without_retention_nothing_is_noted_and_what_was_goes() {
    let store = store::memory();
    let (clock, change) = (Clock::manual(START), |_: &mut server::config::Config| {});
    let world = World::start_on(store.clone(), clock.clone(), plugins::ALL, change).await;
    let alice = world.account("alice").await;
    login_and_out(&world.server, "alice@localhost").await;
    assert_eq!(count(&world.server, alice.id.0).await, 1);
    let world = World::start_on(store, clock, plugins::ALL, |config| {
        config.history.retention = Span::OFF;
    })
    .await;
    login_and_out(&world.server, "alice@localhost").await;
    assert_eq!(
        count(&world.server, alice.id.0).await,
        0,
        "nothing new, and a login removes the old"
    );
    let bob = world.account("bob").await;
    let (session, nobody) = (tended(&world.server), "bob@localhost".parse_jid());
    world.server.login_refused(&session, Some(&nobody), SaslFailure::NotAuthorized);
    assert_eq!(count(&world.server, bob.id.0).await, 0);
    age(&world.server).await;
    assert_eq!(count(&world.server, alice.id.0).await, 0);
}

#[tokio::test]
async fn lj_24_failures_are_noted_for_accounts_that_there_are() {
    let world = World::start(|config| config.auth.pair_failures = 0).await;
    world.account("alice").await;
    for (user, times) in [("alice", 2), ("nobody", 1)] {
        for _ in 0..times {
            let mut client = world.connect().await;
            client.try_login(user, "wrong").await.expect_err("is wrong");
        }
    }
    world.clock.advance(60_000);
    let token = "secret-token:aaaaaaaaaaaaa.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.alice@localhost";
    let plain = format!("{{{{\\0alice\\0{PASSWORD}x}}}}");
    let mut client = world.connect_in(true, crate::dialogue::Chunks::Whole).await;
    client.open().await;
    let auth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>";
    client.send(encode(&format!("{auth}{plain}</auth>")).expect("is right")).await;
    let refused = client.element().await;
    assert!(refused.contains("<not-authorized/>"), "{refused}");
    let _ = client.login_with(token).await;

    let shown = rows(&world.server, "last", json!({ "failed": true })).await;
    let [row] = shown.as_slice() else { panic!("{shown:?}") };
    assert_eq!((&row["jid"], &row["state"]), (&json!("alice@localhost"), &json!("refused")));
    assert_eq!(row["reason"], "not-authorized");
    assert!(row["count"].as_u64() >= Some(3), "{row}");
    assert_eq!(row["since"], START.to_string());
    assert_eq!(row["until"], Millis(START.0 + 60_000).to_string());
    assert_eq!(row["address"], "127.0.0.1");
}

#[tokio::test]
async fn lj_24_whoever_tries_passwords_does_not_fill_the_disk() {
    let world = World::start(|config| {
        config.auth.pair_failures = 0;
        config.auth.address_failures = 0;
    })
    .await;
    let alice = world.account("alice").await;
    let user = "alice@localhost".parse_jid();
    let fail = |number: u32| {
        let peer = std::net::SocketAddr::from((std::net::Ipv4Addr::from_bits(number), 1));
        let session = world.server.connect(peer).expect("is let in");
        world.server.login_refused(&session, Some(&user), SaslFailure::NotAuthorized);
        session
    };
    for round in 0..10 {
        for number in 0..100 {
            let session = fail(0x0a00_0000 + number * 256 + round);
            world.server.settle(&session).await;
        }
        world.clock.advance(60_000);
    }
    assert_eq!(count(&world.server, alice.id.0).await, 21, "20 addresses, and all others");
    let query = Query { account: Some(alice.id), limit: 100, ..Query::default() };
    let found = world.server.logins(query).await.expect("can be read");
    let sum: u64 = found.iter().filter_map(|(_, row)| Some(row.refused.as_ref()?.count)).sum();
    assert_eq!(sum, 1000, "each is counted");
    assert_eq!(found.iter().filter(|(_, row)| row.address.is_none()).count(), 1);
    world.clock.advance(3_600_000);
    world.server.settle(&fail(1)).await;
    assert_eq!(count(&world.server, alice.id.0).await, 22, "an hour later it is worth a row");
}

#[tokio::test]
async fn lj_24_a_cursor_goes_through_all_of_it_in_order() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    world.account("bob").await;
    for number in 0..250 {
        login_and_out(&world.server, ["alice@localhost", "bob@localhost"][number % 2]).await;
        world.clock.advance(1000);
    }
    for (args, total) in [(json!({}), 250), (json!({ "jid": "bob@localhost" }), 125)] {
        let (mut all, mut args) = (Vec::new(), args);
        args["limit"] = json!("60");
        loop {
            let page = rows(&world.server, "last", args.clone()).await;
            let Some(last) = page.last() else { break };
            args["after"] = last["cursor"].clone();
            all.extend(page);
        }
        assert_eq!(all.len(), total);
        let times: Vec<_> = all.iter().map(|row| row["since"].as_str().unwrap()).collect();
        assert!(times.is_sorted_by(|a, b| a > b), "newest first, each once");
    }
}

#[tokio::test]
async fn lj_24_who_shows_one_row_for_each_bound_session() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    world.account("bob").await;
    let _unbound = world.authed("alice").await;
    let mut alice = world.bound("alice", "phone").await;
    let _bob = world.bound("bob", "r").await;
    world.clock.advance(90_000);
    alice.act().await;
    world.clock.advance(3_000);
    let mut all = rows(&world.server, "who", json!({})).await;
    all.sort_by_key(|row| row["jid"].to_string());
    let [one, two] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((&one["jid"], &one["idle"]), (&json!("alice@localhost/phone"), &json!("3s")));
    assert_eq!((&two["jid"], &two["idle"]), (&json!("bob@localhost/r"), &json!("1m")));
    assert_eq!((&one["address"], &one["since"]), (&json!("127.0.0.1"), &json!(START.to_string())));
    let only = rows(&world.server, "who", json!({ "pattern": "bob@*" })).await;
    assert_eq!(only.len(), 1);
    assert_eq!(rows(&world.server, "who", json!({ "limit": "1" })).await.len(), 1);
}

#[tokio::test]
async fn lj_24_secrets_are_never_in_rows() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let (id, token) = world.token(&account, None).await;
    let server = &world.server;
    let session = tended(server);
    let candidate = server.check_token(&session, None, Secret::new(token.as_bytes())).await;
    let candidate = candidate.expect("is valid");
    server.enter(&session, candidate, Mechanism::OauthBearer, None).await.expect("is let in");
    server.end(&session, End::peer(Reason::Closed));
    let mut wrong = token.clone().into_bytes();
    // The secret is behind the id.
    let at = "secret-token:".len() + 20;
    wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
    let session = tended(server);
    let wrong = Secret::new(wrong);
    server.check_token(&session, None, wrong).await.expect_err("is wrong");

    let found = stored(server, &LOGIN, account.id.0).await;
    assert_eq!(found.len(), 2, "the good one and the bad one: {found:?}");
    let text: String =
        found.iter().map(|row| String::from_utf8_lossy(&row.value).into_owned()).collect();
    assert!(text.contains(&id.to_string()), "the token's name is there: {text}");
    let secret: &str = token.split(['.', ':']).max_by_key(|part| part.len()).expect("a part");
    for hidden in [&token, secret, PASSWORD, "secret-token"] {
        assert!(!text.contains(hidden), "{text}");
    }
}

#[tokio::test]
async fn lj_24_a_deleted_account_takes_its_history_with_it() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let _there = login(&world.server, "alice@localhost").await;
    login_and_out(&world.server, "alice@localhost").await;
    let jid = "alice@localhost".parse_jid();
    world.server.delete_account(&jid, admin()).await.expect("is deleted");
    assert_eq!(count(&world.server, alice.id.0).await, 0);
    assert!(stored(&world.server, &LAST_SEEN, alice.id.0).await.is_empty());
    world.account("alice").await;
    assert!(rows(&world.server, "last", json!({})).await.is_empty());
}

#[tokio::test]
async fn lj_24_history_and_last_activity_survive_a_stop_and_a_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Clock::manual(START);
    let change = |_: &mut server::config::Config| {};
    let store = store::sqlite(dir.path()).expect("opens");
    let world = World::start_on(store, clock.clone(), plugins::ALL, change).await;
    let account = world.account("alice").await;
    world.account("bob").await;
    let mut alice = world.client("alice").await;
    login_and_out(&world.server, "bob@localhost").await;
    clock.advance(7_000);
    alice.act().await;
    clock.advance(1_000);
    let server = world.server.clone();
    let stopped = tokio::spawn(async move { server.shutdown().await });
    alice.expect_error("system-shutdown").await;
    drop(alice);
    stopped.await.expect("stops");
    world.server.store.close().await.expect("closes");
    drop(world);

    clock.advance(5_000);
    let store = store::sqlite(dir.path()).expect("opens again");
    let world = World::start_on(store, clock, plugins::ALL, change).await;
    let all = rows(&world.server, "last", json!({})).await;
    let [bob, alice] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((&bob["jid"], &bob["reason"]), (&json!("bob@localhost"), &json!("closed")));
    assert_eq!((&alice["state"], &alice["reason"]), (&json!("ended"), &json!("shutdown")));
    assert_eq!(alice["until"], Millis(START.0 + 8_000).to_string());
    // T25: a stop writes when everybody did anything last.
    let seen = world.server.last_seen(account.id).await.expect("can be read");
    let active = Millis(START.0 + 7_000);
    assert_eq!(seen, Some(Seen { login: START, active, enabled: Millis(0) }));
    world.server.store.close().await.expect("closes");
}

#[tokio::test]
async fn lj_24_a_login_that_a_crash_has_ended_is_shown_as_lost() {
    let store = store::memory();
    let (clock, change) = (Clock::manual(START), |_: &mut server::config::Config| {});
    let world = World::start_on(store.clone(), clock.clone(), plugins::ALL, change).await;
    let account = world.account("alice").await;
    let session = login(&world.server, "alice@localhost").await;
    clock.advance(1_000);
    age(&world.server).await;
    assert!(session.alive());
    assert_eq!(count(&world.server, account.id.0).await, 1);
    // Nobody says goodbye.
    let next = World::start_on(store, clock, plugins::ALL, change).await;
    let all = rows(&next.server, "last", json!({})).await;
    assert_eq!((all.len(), &all[0]["state"]), (1, &json!("lost")));
    let seen = next.server.last_seen(account.id).await.expect("can be read");
    assert_eq!(seen.map(|seen| seen.login), Some(START));
}

#[tokio::test]
async fn b_20_rows_are_rewritten_in_place_and_shown_no_better_than_they_may_be() {
    let world = World::start(|config| {
        config.history.retention = Span::days(1000);
        config.privacy.software = Span::days(100);
    })
    .await;
    let alice = world.account("alice").await;
    for address in ["203.0.113.77:1", "[2001:db8:1:2::3]:1"] {
        let server = &world.server;
        let session = server.connect(address.parse().expect("an address")).expect("is let in");
        assert!(enter(server, &session, "alice@localhost").await);
        session.set_software("Gajim");
        server.settle(&session).await;
    }
    let texts = async || -> Vec<(Option<String>, Option<String>)> {
        let rows = stored(&world.server, &LOGIN, alice.id.0).await;
        let records = rows.iter().map(|row| serde_json::from_slice(&row.value).expect("a record"));
        records.map(|record: LoginRecord| (record.address, record.software)).collect()
    };
    let shown = async || -> Vec<Value> {
        let rows = rows(&world.server, "last", json!({})).await;
        rows.into_iter().rev().map(|row| json!([row["address"], row["software"]])).collect()
    };
    for (days, wanted) in [
        (29, json!([["203.0.113.77", "Gajim"], ["2001:db8:1:2::3", "Gajim"]])),
        (1, json!([["203.0.113.0/24", "Gajim"], ["2001:db8:1::/48", "Gajim"]])),
        (70, json!([["203.0.113.0/24", null], ["2001:db8:1::/48", null]])),
        (80, json!([[null, null], [null, null]])),
    ] {
        world.clock.advance(days * DAY);
        assert_eq!(json!(shown().await), wanted, "at once");
        let changed = age(&world.server).await;
        assert_eq!(changed, if days == 29 { 0 } else { 2 });
        assert_eq!(json!(texts().await), wanted, "and in the database");
        assert_eq!(age(&world.server).await, 0, "once");
    }
}

#[tokio::test]
async fn b_20_the_pass_goes_over_many_accounts_and_rows_in_bounded_steps() {
    let world = World::start(|config| config.history.retention = Span::days(1000)).await;
    for number in 0..120 {
        world.account(&format!("user{number}")).await;
        login_and_out(&world.server, &format!("user{number}@localhost")).await;
    }
    for _ in 0..700 {
        login_and_out(&world.server, "user7@localhost").await;
    }
    world.server.history_written(PATIENCE).await;
    world.clock.advance(31 * DAY);
    let (mut steps, mut changed) = (0, 0);
    loop {
        let step = world.server.age_step().await.expect("works");
        assert!(step.changed <= 500, "{step:?}");
        (steps, changed) = (steps + 1, changed + step.changed);
        if step.finished {
            break;
        }
    }
    assert!(steps > 1, "{steps}");
    assert_eq!(changed, 820);
}

#[tokio::test]
async fn lj_24_ends_that_meet_a_login_under_way_are_written_too() {
    let world = World::start(|config| config.limits.per_account = 0).await;
    let account = world.account("alice").await;
    let mut tasks = Vec::new();
    for _ in 0..50 {
        let server = world.server.clone();
        tasks.push(tokio::spawn(async move {
            let session = tended(&server);
            enter(&server, &session, "alice@localhost").await;
        }));
    }
    for task in tasks {
        task.await.expect("does not panic");
    }
    let jid = "alice@localhost".parse_jid();
    let keys = world.server.keys_of(Secret::new("next")).await.expect("usable");
    world.server.set_password(&jid, keys, admin(), None).await.expect("is changed");
    assert_eventually("all are gone", || world.server.registry.of("alice@localhost").is_empty())
        .await;
    for row in stored(&world.server, &LOGIN, account.id.0).await {
        let record: LoginRecord = serde_json::from_slice(&row.value).expect("a record");
        assert!(record.end.is_some(), "{record:?}");
    }
}
