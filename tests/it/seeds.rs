//! What LiveJournal, IBM's access manager and Prosody do with sessions, where no other file has it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::json;
use server::{
    account::Role,
    change::Standing,
    client::{Block, Over, Tombstone, book::CLIENTS},
    clock::Clock,
    config::{Group, Span},
    end::{Actor, Reason},
    policy::{AtLimit, NewClients},
    vault::Mint,
};
use wire::Condition;

use crate::{
    clients::{clients, leave, sid, token_visit, visit},
    managed::{AGENT, verdict},
    rights::{local, run},
    script::Fast,
    stores::{Between, refuse},
    world::{ParseJid, START, World, admin, bind_request, enter, tended},
};

const ALICE: &str = "alice@localhost";

#[tokio::test]
async fn lj_08_lj_09_iv_01_those_that_are_named_end_and_all_if_all_are_meant() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let mut sessions = Vec::new();
    for resource in ["1", "2", "3", "4", "5"] {
        sessions.push(visit(server, ALICE, resource).await);
    }
    let alive = || sessions.iter().map(|session| session.alive()).collect::<Vec<_>>();
    let end = async |args| run(server, &local(), "session end", args).await.1.expect("is done");
    end(json!({ "id": sessions[4].id.to_string() })).await;
    assert_eq!(alive(), [true, true, true, true, false], "exactly one");
    let named = json!({ "selector": ["alice@localhost/1", "alice@localhost/2"] });
    assert_eq!(end(named).await.fields["ended"], 2);
    assert_eq!(alive(), [false, false, true, true, false]);
    // All of the own ones, the caller's too, which hears of it first.
    let caller = server.caller_of(&sessions[2]).await.expect("is there");
    let all = json!({ "selector": [ALICE, "alice@localhost/4"] });
    let (rows, done) = run(server, &caller, "session end", all).await;
    assert_eq!(done.expect("is done").fields["ended"], 2);
    assert!(rows.iter().all(|row| row["outcome"] == "ended"), "{rows:?}");
    assert_eq!(alive(), [false; 5]);
}

#[tokio::test]
async fn lj_11_b_05_nothing_named_or_there_or_tried_dry_does_nothing_and_never_to_others() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    world.account("bob").await;
    let server = &world.server;
    let (alice, bob) = (visit(server, ALICE, "r").await, visit(server, "bob@localhost", "r").await);
    let caller = server.caller_of(&alice).await.expect("is there");
    let end = async |args| run(server, &caller, "session end", args).await.1;
    assert!(end(json!({})).await.expect_err("names nothing").usage);
    // One that is another's is as one that is not there, in every word.
    let foreign = end(json!({ "id": bob.id.to_string() })).await.expect("is done");
    let gone = end(json!({ "id": "aaaaaaaaaaaaaaaaaaaaaaaaaa" })).await.expect("is done");
    assert_eq!((foreign.matched, gone.matched), (false, false));
    assert_eq!((foreign.message, foreign.fields), (gone.message, gone.fields));
    assert!(end(json!({ "selector": ["bob@localhost"] })).await.is_err());
    assert!(end(json!({ "all": true, "dry-run": true })).await.is_ok_and(|done| done.matched));
    assert!(alice.alive() && bob.alive());
    assert_eq!(end(json!({ "all": true })).await.expect("is done").fields["ended"], 1);
    assert!(!alice.alive() && bob.alive(), "all that are the caller's");
}

#[tokio::test]
async fn lj_17_iv_21_numbers_and_clocks_go_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Clock::manual(START);
    let start = async || {
        let store = store::sqlite(dir.path()).expect("opens");
        World::start_on(store, clock.clone(), plugins::ALL, |_| {}).await
    };
    let world = start().await;
    let account = world.account("alice").await;
    leave(&world.server, &visit(&world.server, ALICE, "phone").await).await;
    let last = visit(&world.server, ALICE, "laptop").await;
    assert_eq!(sid(&last), 2);
    let before = clients(&world.server, &account).await;
    let tombstone = Tombstone::new(clock.now(), Over::Revoked, &admin(), None);
    world.server.bury_client(&before[1], &tombstone).await.expect("is written");
    leave(&world.server, &last).await;
    world.server.shutdown().await;
    world.server.store.close().await.expect("closes");
    drop(world);

    clock.advance(3_600_000);
    let world = start().await;
    let after = clients(&world.server, &account).await;
    assert_eq!((after[0].created, after[0].seen), (START, Some(START)));
    assert_eq!(after[1].over.as_ref().map(|over| over.at), Some(START));
    assert_eq!(sid(visit(&world.server, ALICE, "phone").await.as_ref()), 1);
    assert_eq!(
        sid(visit(&world.server, ALICE, "laptop").await.as_ref()),
        3,
        "the highest is not reused"
    );
}

/// Fails to write clients while it is `broken`.
fn failing(broken: &Arc<AtomicBool>) -> Arc<Between> {
    let broken = broken.clone();
    Between::new(store::memory(), move |store, batch| {
        let of_client = format!("{batch:?}").contains(CLIENTS.name);
        match of_client && broken.load(Ordering::SeqCst) {
            true => refuse("as the test wants it"),
            false => store.commit(batch),
        }
    })
}

#[tokio::test]
async fn pr_04_a_bind_that_cannot_be_written_leaves_no_session_and_the_resource_free() {
    let broken = Arc::new(AtomicBool::new(false));
    let world = World::start_on(failing(&broken), Clock::manual(START), plugins::ALL, |_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    broken.store(true, Ordering::SeqCst);
    let session = tended(server);
    assert!(enter(server, &session, ALICE).await);
    let refused = server.bind(&session, Some("r")).await.expect_err("cannot be written");
    assert_eq!(refused.condition, Condition::InternalServerError);
    assert!(!session.alive());
    assert_eq!(session.end_record().map(|end| end.reason), Some(Reason::Internal));
    assert!(server.registry.of(ALICE).is_empty());

    let mut client = world.authed("alice").await;
    client.send(bind_request("r")).await;
    let told = client.element().await;
    assert!(told.contains("<internal-server-error"), "{told}");
    drop(client);
    world.empty().await;
    assert!(clients(server, &account).await.is_empty(), "nothing half-made");

    broken.store(false, Ordering::SeqCst);
    let mut client = world.bound("alice", "r").await;
    client.settle().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_made_void_ends_the_login_that_asked_for_it() {
    let broken = Arc::new(AtomicBool::new(false));
    let world = World::start_on(failing(&broken), Clock::manual(START), plugins::ALL, |_| {}).await;
    world.account("alice").await;
    let token = world.fast_token("alice").await;
    assert_eq!(verdict(&world.secure().await.by_fast("alice", &token, "").await), "in");

    broken.store(true, Ordering::SeqCst);
    let mut client = world.secure().await;
    let void = Fast {
        mechanism: "HT-SHA-256-NONE".into(),
        user: "alice".into(),
        token,
        pairs: None,
        inline: format!("{AGENT}<fast xmlns='urn:xmpp:fast:0' invalidate='true'/>"),
    };
    client.fast(&void).await;
    while !client.element().await.contains("<internal-server-error") {}
    client.expect_close().await.expect("is closed");
}

#[tokio::test]
async fn iv_06_b_02_after_an_end_the_password_is_enough_and_after_a_block_it_is_not() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let session = visit(server, ALICE, "phone").await;
    let (found, token) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is stored");
    let end = json!({ "selector": [ALICE], "level": "end" });
    run(server, &local(), "session end", end).await.1.expect("is done");
    assert!(!session.alive());
    leave(server, &visit(server, ALICE, "phone").await).await;
    leave(server, &token_visit(server, &token.to_text()).await.expect("is good")).await;

    let until = Some(world.clock.now().plus_seconds(60));
    for number in [1, found.client.sid] {
        let block = Block { at: world.clock.now(), until, by: "test".into(), text: None };
        let blocked = server.change_client(account.id, number, |client| {
            client.block = Some(block.clone());
            true
        });
        blocked.await.expect("is written").expect("is there");
    }
    let back = tended(server);
    assert!(enter(server, &back, ALICE).await, "the password is right");
    assert!(server.bind(&back, Some("phone")).await.is_err());
    assert_eq!(back.end_record().map(|end| end.reason), Some(Reason::Blocked));
    let denied = token_visit(server, &token.to_text()).await.expect_err("is blocked");
    let app = denied.app.expect("says why");
    assert!(String::from_utf8_lossy(&app).contains("blocked"), "{app:?}");
    leave(server, &visit(server, ALICE, "laptop").await).await;
    world.clock.advance(60_000);
    leave(server, &visit(server, ALICE, "phone").await).await;
    leave(server, &token_visit(server, &token.to_text()).await.expect("is over")).await;
}

#[tokio::test]
async fn iv_07_a_tombstone_stands_for_its_time_and_no_longer() {
    let world = World::start(|config| config.clients.tombstones = Span::days(90)).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (found, token) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is stored");
    let text = token.to_text().to_string();
    let tombstone = Tombstone::new(world.clock.now(), Over::Revoked, &admin(), None);
    server.bury_client(&found.client, &tombstone).await.expect("is written");
    let told = async || token_visit(server, &text).await.expect_err("is over").failure.as_str();
    // Every sixteenth client that is new tidies up.
    let tidy = async |round: u32| {
        for number in 0..16 {
            leave(server, &visit(server, ALICE, &format!("{round}-{number}")).await).await;
        }
    };
    world.clock.advance(90 * 86_400_000 - 1);
    tidy(1).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(told().await, "credentials-expired");
    world.clock.advance(1);
    tidy(2).await;
    crate::clients::eventually(async || (told().await == "not-authorized").then_some(())).await;
    let denied = token_visit(server, &text).await.expect_err("is forgotten");
    assert_eq!(denied.app, None);
}

/// A policy of the account's own, its groups, and what counts then, each with where that is said.
type Case<'a> = (Option<u32>, &'a [&'a str], (u32, &'a str), (&'a str, &'a str));

#[tokio::test]
async fn iv_13_the_nearest_policy_that_says_something_counts() {
    let world = World::start(|config| {
        config.sessions.max_sessions = 1;
        config.host[0].policy.at_limit = Some(AtLimit::DisplaceIdlest);
        config.group = [("many", Some(3), None), ("old", Some(5), Some(AtLimit::DisplaceOldest))]
            .map(|(name, max_sessions, at_limit)| {
                let mut group = Group { name: name.into(), ..Group::default() };
                (group.policy.max_sessions, group.policy.at_limit) = (max_sessions, at_limit);
                group
            })
            .into();
    })
    .await;
    world.account("alice").await;
    let jid = ALICE.parse_jid();
    let server = &world.server;
    let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let idlest = ("displace-idlest", "host localhost");
    let cases: [Case<'_>; 5] = [
        (None, &[], (1, "configuration"), idlest),
        (None, &["many", "old"], (3, "group many"), ("displace-oldest", "group old")),
        (None, &["old", "many"], (5, "group old"), ("displace-oldest", "group old")),
        (Some(4), &["many"], (4, "account"), idlest),
        (Some(0), &["nobody knows it"], (0, "account"), idlest),
    ];
    for (own, member, max, at_limit) in cases {
        let set = server.set_policy(&jid, |policy, of| {
            policy.max_sessions = own;
            *of = groups(member);
        });
        let account = set.await.expect("is stored");
        let explained = server.explain_policy(&account);
        let of = |key: &str| {
            let found = explained.iter().find(|(name, ..)| name == key).expect("is a key");
            (found.1.clone(), found.2.clone())
        };
        assert_eq!(of("max_sessions"), (max.0.into(), max.1.to_owned()));
        assert_eq!(of("at_limit"), (at_limit.0.into(), at_limit.1.to_owned()));
        let effective = server.policy_of(&account);
        assert_eq!(effective.max_sessions, max.0);
        assert_eq!(serde_json::to_value(effective.at_limit).ok(), Some(at_limit.0.into()));
    }
}

#[tokio::test]
async fn iv_13_the_newer_is_refused_or_the_oldest_or_the_idlest_makes_way() {
    let cases = [
        (AtLimit::Refuse, None),
        (AtLimit::DisplaceOldest, Some(0)),
        (AtLimit::DisplaceIdlest, Some(1)),
    ];
    for (at_limit, leaves) in cases {
        let world = World::start(|config| {
            config.sessions.max_sessions = 2;
            config.sessions.at_limit = at_limit;
        })
        .await;
        world.account("alice").await;
        let server = &world.server;
        let mut here = Vec::new();
        for resource in ["a", "b"] {
            here.push(visit(server, ALICE, resource).await);
            world.clock.advance(1_000);
        }
        let frame = wire::Frame::parse("<presence type='probe'/>").expect("is well-formed");
        server.inbound(&here[0], None, frame).decided().await;
        let third = tended(server);
        assert!(enter(server, &third, ALICE).await);
        let bound = server.bind(&third, Some("c")).await;
        assert_eq!(bound.as_ref().is_ok(), leaves.is_some(), "{at_limit:?}");
        if let Err(error) = bound {
            assert_eq!(error.condition, Condition::ResourceConstraint);
        }
        for (index, session) in here.iter().enumerate() {
            let reason = session.end_record().map(|end| end.reason);
            assert_eq!(
                reason,
                (leaves == Some(index)).then_some(Reason::Displaced),
                "{at_limit:?}"
            );
        }
        // One that takes the place of another is not one more.
        let again = visit(server, ALICE, if leaves == Some(0) { "b" } else { "a" }).await;
        assert!(again.alive());
        assert_eq!(server.registry.bound(ALICE).len(), 2);
    }
}

#[tokio::test]
async fn iv_20_secrets_and_handles_are_all_different_and_say_nothing() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let (mut secrets, mut ids, mut ones) = (HashSet::new(), HashSet::new(), [0_u32; 192]);
    for _ in 0..256 {
        let mint = Mint::login(Role::User, "test");
        let (_, token) = world.server.mint(&account, mint).await.expect("is stored");
        let secret = token.secret.expose().to_vec();
        assert_eq!(secret.len(), 24);
        for (bit, count) in ones.iter_mut().enumerate() {
            *count += u32::from(secret[bit / 8] >> (bit % 8) & 1);
        }
        assert!(secrets.insert(secret) && ids.insert(token.id), "came twice");
    }
    // Each bit is a coin: 256 throws are within seven standard deviations.
    assert!(ones.iter().all(|count| (72..=184).contains(count)), "{ones:?}");
    let mut handles = HashSet::new();
    for _ in 0..256 {
        let session = tended(&world.server);
        assert_eq!(session.id.to_string().len(), 26);
        assert!(handles.insert(session.id), "came twice");
        world.server.settle(&session).await;
    }
}

#[tokio::test]
async fn b_09_an_unconfirmed_client_may_only_chat_whatever_its_account_is() {
    let world = World::start(|config| config.clients.new_clients = NewClients::Confirm).await;
    world.account("alice").await;
    let server = &world.server;
    let admin = Standing::Role(Role::Admin);
    server.set_standing(&ALICE.parse_jid(), admin, Actor::Server).await.expect("is there");
    for (resource, role) in
        [("phone", Role::Admin), ("new", Role::Restricted), ("new", Role::Restricted)]
    {
        let session = visit(server, ALICE, resource).await;
        assert_eq!(session.identity().map(|me| me.role()), Some(role), "{resource}");
        // Nor does it become more when the account's role is given once more.
        server
            .set_standing(&ALICE.parse_jid(), Standing::Role(Role::Operator), Actor::Server)
            .await
            .expect("is there");
        server.set_standing(&ALICE.parse_jid(), admin, Actor::Server).await.expect("is there");
        assert_eq!(session.identity().map(|me| me.role()), Some(role), "{resource}");
        leave(server, &session).await;
    }
}

#[tokio::test]
async fn pr_15_a_token_for_another_purpose_opens_no_session() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    for (purpose, opens) in [("login", true), ("upload", false), ("Login", false), ("", false)] {
        let mint = Mint { purpose: purpose.into(), ..Mint::login(Role::User, "test") };
        let (_, token) = world.server.mint(&account, mint).await.expect("is stored");
        let came = token_visit(&world.server, &token.to_text()).await;
        let said = came.map(drop).map_err(|denied| denied.failure.as_str());
        assert_eq!(said, if opens { Ok(()) } else { Err("not-authorized") }, "{purpose}");
    }
}

#[tokio::test]
async fn pr_17_no_list_shows_what_opens_a_session() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (found, token) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is stored");
    let text = token.to_text().to_string();
    let session = token_visit(server, &text).await.expect("is good");
    server.bind(&session, Some("r")).await.expect("is free");
    let stored = serde_json::to_value(&found.token).expect("JSON");
    let mac = stored["mac"].as_str().expect("a hash").to_owned();
    let secret =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, token.secret.expose());
    let id = session.id.to_string();
    for (name, args) in [
        ("token list", json!({ "jid": ALICE })),
        ("session list", json!({})),
        ("session show", json!({ "session": id })),
        ("user show", json!({ "jid": ALICE })),
        ("user list", json!({})),
        ("who", json!({})),
        ("last", json!({})),
        ("audit list", json!({})),
    ] {
        let (rows, done) = run(server, &local(), name, args).await;
        let shown = format!("{rows:?}{:?}", done.expect("is done"));
        let keys = ["mac", "scram", "salt", "secret", "stored_key", "server_key"];
        for hidden in keys.map(|key| format!("\"{key}")).iter().chain([&text, &mac, &secret]) {
            assert!(!shown.contains(hidden.as_str()), "{name} shows {hidden}");
        }
        assert!(!rows.is_empty() || name == "audit list", "{name} shows something");
    }
}
