//! `session end`: who is meant, how far it goes, and what the answer says; now, later, and at a pace.

use std::{sync::Arc, time::Duration};

use crate::{
    clients::{clients, leave, sid, token_visit, visit},
    world::{World, enter, tended},
};
use serde_json::{Value, json};
use server::{
    Server, Session,
    account::Role,
    command::{self, Caller, CommandError, Done, Reply},
    end::Reason,
    vault::{Mint, Parent},
};

type Outcome = (Vec<Value>, Result<Done, CommandError>);

/// Runs a command as whoever is at the admin socket.
async fn run(server: &Arc<Server>, name: &str, args: Value) -> Outcome {
    let Value::Object(args) = args else { panic!("arguments are an object") };
    let (sender, mut replies) = tokio::sync::mpsc::channel(64);
    let caller = Caller::local("test");
    let server = server.clone();
    let name = name.to_owned();
    tokio::spawn(async move { command::run(server, caller, &name, args, sender).await });
    let mut rows = Vec::new();
    loop {
        match replies.recv().await.expect("an end") {
            Reply::Row(row) => rows.push(Value::Object(row)),
            Reply::Began | Reply::Progress { .. } => {}
            Reply::Done(done) => return (rows, Ok(done)),
            Reply::Failed(error) => return (rows, Err(error)),
        }
    }
}

async fn end(server: &Arc<Server>, args: Value) -> (Vec<Value>, Done) {
    let (rows, done) = run(server, "session end", args.clone()).await;
    (rows, done.unwrap_or_else(|why| panic!("{args}: {why:?}")))
}

/// Who would end, by full JID or `-`.
async fn meant(server: &Arc<Server>, mut args: Value) -> Vec<String> {
    args["dry-run"] = true.into();
    let (rows, _) = end(server, args).await;
    let mut jids: Vec<_> =
        rows.iter().map(|row| row["jid"].as_str().unwrap_or("-").to_owned()).collect();
    jids.sort();
    jids
}

fn reason(session: &Session) -> Option<Reason> {
    session.end_record().map(|record| record.reason)
}

#[tokio::test]
async fn iv_14_what_names_adds_up_and_what_describes_narrows() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    world.account("bob").await;
    let server = &world.server;
    let phone = visit(server, "alice@localhost", "phone").await;
    phone.set_software("Conversations 2.12");
    world.clock.advance(3_600_000);
    let laptop = visit(server, "alice@localhost", "laptop").await;
    laptop.set_software("Gajim 1.9");
    let bob = visit(server, "bob@localhost", "x").await;
    let (found, text) =
        server.mint(&alice, Mint::login(Role::User, "test")).await.expect("is minted");
    let tokened = token_visit(server, &text.to_text()).await.expect("is valid");
    let (a, l, b, t) =
        ("alice@localhost/phone", "alice@localhost/laptop", "bob@localhost/x", "alice@localhost");
    let client = found.client.id.to_string();
    for (args, who) in [
        (json!({ "selector": ["alice@localhost"] }), vec![t, l, a]),
        (json!({ "selector": [l, b] }), vec![l, b]),
        (json!({ "selector": ["bob@localhost"], "id": phone.id.to_string() }), vec![a, b]),
        (json!({ "client": client }), vec![t]),
        (json!({ "grant": found.grant.id.to_string() }), vec![t]),
        (json!({ "token": found.token.id.to_string() }), vec![t]),
        (json!({ "selector": ["alice@localhost"], "sid": "1" }), vec![a]),
        (json!({ "software": "gajim" }), vec![l]),
        (json!({ "software": "gajim", "selector": ["bob@localhost"] }), vec![]),
        (json!({ "mechanism": "oauthbearer" }), vec![t]),
        (json!({ "stage": "c2s" }), vec![t]),
        (json!({ "older": "1h" }), vec![a]),
        (json!({ "idle": "30m", "selector": ["alice@localhost"] }), vec![a]),
        (json!({ "ip": "127.0.0.0/8", "selector": ["bob@localhost"] }), vec![b]),
        (json!({ "ip": "203.0.113.0/24" }), vec![]),
        (json!({ "selector": ["alice@localhost"], "except": phone.id.to_string() }), vec![t, l]),
        (json!({ "all": true }), vec![t, l, a, b]),
    ] {
        assert_eq!(meant(server, args.clone()).await, who, "{args}");
    }
    for wrong in [json!({}), json!({ "sid": "1" }), json!({ "others": true })] {
        let (_, refused) = run(server, "session end", wrong.clone()).await;
        assert!(refused.expect_err("is refused").usage, "{wrong}");
    }
    assert!([&phone, &laptop, &bob, &tokened].iter().all(|session| session.alive()));
}

#[tokio::test]
async fn b_05_only_those_of_the_dry_run_end_or_nobody() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let first = visit(server, "alice@localhost", "a").await;
    let args = |more: Value| {
        let mut args = json!({ "selector": ["alice@localhost"] });
        args.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("too"));
        args
    };
    let (_, dry) = end(server, args(json!({ "dry-run": true }))).await;
    let hash = dry.fields["hash"].as_str().expect("a hash").to_owned();
    let late = visit(server, "alice@localhost", "b").await;
    let (_, refused) = run(server, "session end", args(json!({ "if-hash": hash }))).await;
    assert!(refused.expect_err("somebody has come").message.contains("nothing was done"));
    let stricter = args(json!({ "if-hash": hash, "level": "kick" }));
    leave(server, &late).await;
    assert!(run(server, "session end", stricter).await.1.is_err(), "another level");
    assert!(first.alive());
    let (rows, done) = end(server, args(json!({ "if-hash": hash }))).await;
    assert_eq!((rows.len(), done.fields["ended"].as_u64()), (1, Some(1)));
    assert!(!first.alive());
}

#[tokio::test]
async fn b_17_iv_08_the_answer_names_the_ways_back_that_are_left() {
    for (level, ways) in [
        ("kick", json!(["password", "token"])),
        ("end", json!(["password", "token"])),
        ("revoke", json!(["password"])),
        ("block", json!([])),
        ("disable", json!([])),
    ] {
        let world = World::start(|_| {}).await;
        let alice = world.account("alice").await;
        let server = &world.server;
        let (_, text) =
            server.mint(&alice, Mint::login(Role::User, "test")).await.expect("is minted");
        let session = token_visit(server, &text.to_text()).await.expect("is valid");
        server.bind(&session, Some("phone")).await.expect("is free");
        let other = visit(server, "alice@localhost", "other").await;
        let args = json!({ "selector": ["alice@localhost/phone"], "level": level });
        let (rows, _) = end(server, args).await;
        let row = rows.iter().find(|row| row["id"] == session.id.to_string()).expect("is named");
        assert_eq!((&row["outcome"], &row["ways_back"]), (&json!("ended"), &ways), "{level}");
        assert!(session.settled(), "it is really gone");
        assert_eq!(other.alive(), level != "disable", "{level}");
        let back = token_visit(server, &text.to_text()).await;
        assert_eq!(back.is_ok(), matches!(level, "kick" | "end"), "{level}");
    }
}

#[tokio::test]
async fn iv_08_a_blocked_client_is_refused_with_the_password_and_others_are_not() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let phone = visit(server, "alice@localhost", "phone").await;
    let args = json!({ "selector": ["alice@localhost/phone"], "level": "block", "for": "1h" });
    end(server, args).await;
    assert_eq!(reason(&phone), Some(Reason::Blocked));
    let again = tended(server);
    assert!(enter(server, &again, "alice@localhost").await, "nobody knows yet who it is");
    assert!(server.bind(&again, Some("phone")).await.is_err());
    assert!(server.settled(&again).await);
    assert_eq!(reason(&again), Some(Reason::Blocked));
    leave(server, &visit(server, "alice@localhost", "laptop").await).await;
    world.clock.advance(3_599_999);
    let early = tended(server);
    assert!(enter(server, &early, "alice@localhost").await);
    assert!(server.bind(&early, Some("phone")).await.is_err(), "the last millisecond");
    world.clock.advance(1);
    let new = visit(server, "alice@localhost", "phone").await;
    assert_eq!(sid(&new), 3, "it is another client now");
    assert_eq!(clients(server, &account).await.len(), 3);
}

#[tokio::test]
async fn a_hold_off_keeps_out_for_its_time_and_no_longer() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (_, text) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is minted");
    for (who, all) in [("alice@localhost", true), ("alice@localhost/phone", false)] {
        let phone = visit(server, "alice@localhost", "phone").await;
        end(server, json!({ "selector": [who], "hold-off": "5m" })).await;
        assert!(!phone.alive());
        let early = tended(server);
        let let_in = enter(server, &early, "alice@localhost").await;
        assert_eq!(let_in, !all, "{who}");
        if let_in {
            assert!(server.bind(&early, Some("phone")).await.is_err());
            assert_eq!(reason(&early), Some(Reason::HeldOff));
        }
        assert_eq!(token_visit(server, &text.to_text()).await.is_ok(), !all, "{who}");
        world.clock.advance(300_000);
        leave(server, &visit(server, "alice@localhost", "phone").await).await;
        end(server, json!({ "all": true })).await;
    }
}

#[tokio::test]
async fn pr_14_at_level_revoke_a_named_grant_goes_alone_and_a_named_client_with_all() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (one, one_text) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is minted");
    let cousin = Mint { parent: Parent::Client(one.client.id), ..Mint::login(Role::User, "test") };
    let (_, two_text) = server.mint(&account, cousin).await.expect("is minted");
    let first = token_visit(server, &one_text.to_text()).await.expect("is valid");
    let second = token_visit(server, &two_text.to_text()).await.expect("is valid");
    end(server, json!({ "grant": one.grant.id.to_string(), "level": "revoke" })).await;
    assert!(!first.alive() && second.alive());
    assert!(token_visit(server, &one_text.to_text()).await.is_err());
    end(server, json!({ "client": one.client.id.to_string(), "level": "revoke" })).await;
    assert!(!second.alive());
    let denied = token_visit(server, &two_text.to_text()).await.expect_err("is over");
    assert_eq!(denied.failure.as_str(), "credentials-expired");
    let nobody = server::id::ClientId(7).to_string();
    let (_, done) = end(server, json!({ "client": nobody, "level": "revoke" })).await;
    assert!(!done.matched);
}

#[tokio::test]
async fn b_23_what_is_planned_runs_once_when_its_time_has_come() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let now = visit(server, "alice@localhost", "now").await;
    let args = json!({ "selector": ["alice@localhost"], "in": "1h", "reason": "good night" });
    let (rows, done) = end(server, args).await;
    assert!(rows.is_empty() && now.alive(), "{done:?}");
    let planned = server.planned().await.expect("is read");
    assert_eq!((planned.len(), planned[0].what.as_str()), (1, "session end"));
    world.clock.advance(3_599_999);
    assert_eq!(server.run_due().await, Ok(0));
    let late = visit(server, "alice@localhost", "late").await;
    world.clock.advance(1);
    assert_eq!(server.run_due().await, Ok(1));
    for session in [&now, &late] {
        let record = session.end_record().expect("who is there then");
        assert_eq!(record.text.as_deref(), Some("good night"));
    }
    assert_eq!(server.run_due().await, Ok(0));
    let audit = server.audit_tail(1).await.expect("is read");
    assert_eq!(audit[0].who, "schedule 1 by test");

    let again = visit(server, "alice@localhost", "now").await;
    end(server, json!({ "selector": ["alice@localhost"], "at": "2030-01-01T00:00:00Z" })).await;
    let (_, done) = run(server, "schedule cancel", json!({ "id": "1" })).await;
    assert!(done.expect("is there").matched);
    world.clock.advance(10 * 366 * 86_400_000);
    assert_eq!(server.run_due().await, Ok(0));
    assert!(again.alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_06_a_bulk_end_at_a_pace_can_be_held_resumed_and_called_off() {
    let world = World::start(|config| {
        config.limits.per_address = 0;
        config.limits.per_account = 0;
    })
    .await;
    world.account("alice").await;
    let server = &world.server;
    let mut sessions = Vec::new();
    for index in 0..60 {
        sessions.push(visit(server, "alice@localhost", &format!("r{index}")).await);
    }
    let work = {
        let server = server.clone();
        tokio::spawn(async move {
            end(&server, json!({ "selector": ["alice@localhost"], "rate": "50" })).await
        })
    };
    let ended = || sessions.iter().filter(|session| !session.alive()).count();
    let wait = async |holds: &dyn Fn() -> bool| {
        for _ in 0..2_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never");
    };
    wait(&|| ended() > 0).await;
    let (rows, _) = run(server, "job list", json!({})).await;
    assert_eq!((&rows[0]["what"], &rows[0]["total"]), (&json!("session end"), &json!(60)));
    let job = json!({ "job": rows[0]["id"].to_string() });
    run(server, "job pause", job.clone()).await.1.expect("is there");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let held = ended();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(ended() <= held + 1 && held < 60, "{held} {}", ended());
    run(server, "job resume", job.clone()).await.1.expect("is there");
    wait(&|| ended() > held + 1).await;
    run(server, "job abort", job).await.1.expect("is there");
    let (rows, done) = work.await.expect("does not panic");
    assert_eq!(rows.len(), 60, "each is named");
    let spared = done.fields["spared"].as_u64().expect("some are spared");
    assert_eq!(done.fields["ended"].as_u64().expect("a number") + spared, 60);
    assert_eq!(ended() as u64 + spared, 60);
    assert!(server.jobs.all().is_empty());
}

#[tokio::test]
async fn lj_34_every_end_is_one_event_also_in_bulk_and_at_every_level() {
    for level in ["kick", "end", "revoke", "block", "disable"] {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        let server = &world.server;
        for index in 0..5 {
            visit(server, "alice@localhost", &format!("r{index}")).await;
        }
        let mut events = server.events.watch();
        end(server, json!({ "selector": ["alice@localhost"], "level": level })).await;
        let mut ended = 0;
        while let Ok(event) = events.try_recv() {
            ended += usize::from(matches!(event.change, server::events::Change::Ended(_)));
        }
        assert_eq!(ended, 5, "{level}");
        let again = end(server, json!({ "selector": ["alice@localhost"], "level": level })).await;
        assert!(!again.1.matched, "LJ-11: nothing there is nothing to do");
    }
}

#[tokio::test]
async fn b_08_a_frozen_session_neither_speaks_nor_hears_and_loses_nothing() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    world.account("bob").await;
    let server = &world.server;
    let mut alice = world.available("alice", "r").await;
    let mut bob = world.available("bob", "r").await;
    let args = json!({ "selector": ["alice@localhost/r"] });
    let (rows, done) = run(server, "session freeze", args.clone()).await;
    assert!(done.expect("is done").matched);
    assert_eq!(rows[0]["outcome"], "frozen");
    let message = |to: &str, id: &str| {
        format!("<message to='{to}' type='chat' id='{id}'><body>x</body></message>")
    };
    let session = world.session("alice@localhost/r");
    let told = || session.traffic.tx_stanzas.load(std::sync::atomic::Ordering::Relaxed);
    let before = told();
    bob.send(message("alice@localhost/r", "in")).await;
    alice.send(message("bob@localhost/r", "out")).await;
    bob.settle().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    bob.settle().await;
    assert_eq!(told(), before, "it is told nothing");
    run(server, "session unfreeze", args.clone()).await.1.expect("is done");
    alice.expect("<message from='bob@localhost/r' id='in' …>…</message>").await;
    bob.expect("<message from='alice@localhost/r' id='out' …>…</message>").await;

    run(server, "session freeze", args).await.1.expect("is done");
    assert!(clients(server, &account).await[0].frozen.is_some(), "its client is locked too");
    leave(server, &session).await;
    let again = visit(server, "alice@localhost", "r").await;
    assert!(again.flags().has(server::session::Flags::FROZEN), "also when it comes again");
    leave(server, &again).await;
}

#[tokio::test]
async fn ro_34_the_peer_is_told_in_the_language_of_its_stream() {
    let world = World::start(|_| {}).await;
    for (lang, told, text) in [
        ("de-AT", "de", "Die Anmeldung hat zu lange gedauert"),
        ("fr", "en", "Login took too long"),
    ] {
        let mut client = world.connect().await;
        let header = crate::dialogue::HEADER;
        client
            .send(header.replace("<stream:stream ", &format!("<stream:stream xml:lang='{lang}' ")))
            .await;
        client.expect("<stream:stream …>").await;
        client.expect("<stream:features>…</stream:features>").await;
        world.clock.advance(60_000);
        assert_eq!(world.server.sweep(), 1);
        client
            .expect(&format!(
                "<stream:error><connection-timeout xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
                 <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='{told}'>{text}</text>\
                 <ended xmlns='urn:usher:session:0' reason='auth-timeout' by='server'/></stream:error>"
            ))
            .await;
        drop(client);
        world.empty().await;
    }
}

#[tokio::test]
async fn b_09_who_has_just_come_ends_no_older_session_of_its_account() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let old = visit(server, "alice@localhost", "phone").await;
    let thief = visit(server, "alice@localhost", "thief").await;
    let end_as = async |session: &Session, args: Value| {
        let Value::Object(args) = args else { panic!("arguments are an object") };
        let caller = server.caller_of(session).await.expect("is there");
        let (sender, mut replies) = tokio::sync::mpsc::channel(64);
        command::run(server.clone(), caller, "session end", args, sender).await;
        let mut last = None;
        while let Some(reply) = replies.recv().await {
            last = Some(reply);
        }
        last
    };
    for level in ["kick", "end", "revoke"] {
        let args = json!({ "selector": ["alice@localhost/phone"], "level": level });
        let told = end_as(&thief, args).await;
        let Some(Reply::Failed(error)) = told else { panic!("{level}: {told:?}") };
        assert!(error.forbidden && old.alive(), "{level}: {error:?}");
    }
    let all = json!({ "selector": ["alice@localhost"], "others": true });
    assert!(matches!(end_as(&old, all).await, Some(Reply::Done(_))), "the older one may");
    assert!(!thief.alive() && old.alive());
}

#[tokio::test]
async fn iv_10_who_only_pings_is_inactive_all_the_same_unless_pings_count() {
    for counts in [false, true] {
        let world = World::start(|config| {
            config.sessions.inactivity = server::config::Span::seconds(600);
            config.sessions.pings_count = counts;
        })
        .await;
        world.account("alice").await;
        let mut client = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        world.clock.advance(599_999);
        client.send(" ").await;
        client.settle().await;
        world.clock.advance(1);
        assert_eq!(world.server.sweep(), usize::from(!counts), "pings count: {counts}");
        assert_eq!(session.alive(), counts);
    }
    // What somebody does counts in any case.
    let world = World::start(|config| {
        config.sessions.inactivity = server::config::Span::seconds(600);
    })
    .await;
    world.account("alice").await;
    let mut client = world.client("alice").await;
    world.clock.advance(599_999);
    client.send("<message to='alice@localhost' type='headline'><body>x</body></message>").await;
    client.settle().await;
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 0);
}

#[tokio::test]
async fn iv_07_who_was_logged_out_by_its_owner_is_told_so() {
    let world = World::start(|config| config.clients.fresh = server::config::Span::OFF).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let (_, text) = server.mint(&alice, Mint::login(Role::User, "test")).await.expect("is minted");
    let tablet = token_visit(server, &text.to_text()).await.expect("is valid");
    server.bind(&tablet, Some("tablet")).await.expect("is free");
    let phone = visit(server, "alice@localhost", "phone").await;
    let caller = server.caller_of(&phone).await.expect("is there");
    let args = json!({ "selector": ["alice@localhost/tablet"], "level": "revoke" });
    let Value::Object(args) = args else { panic!("arguments are an object") };
    let (sender, mut replies) = tokio::sync::mpsc::channel(64);
    command::run(server.clone(), caller, "session end", args, sender).await;
    while let Some(reply) = replies.recv().await {
        assert!(!matches!(reply, Reply::Failed(_)), "{reply:?}");
    }
    let denied = token_visit(server, &text.to_text()).await.expect_err("is over");
    let app = denied.app.expect("says why");
    let told = String::from_utf8_lossy(&app).into_owned();
    assert!(told.contains("logout") && told.contains("owner"), "{told}");
    assert_eq!(denied.text.as_deref(), Some("This client was logged out"));
}
