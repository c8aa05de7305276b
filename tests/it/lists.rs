//! Lists of sessions: pages with a cursor, filters, totals, and what is not shown.

use std::sync::Arc;

use serde_json::{Value, json};
use server::{
    Server, Session,
    account::Role,
    command::{self, Done, MASK, Reply, ValueKind},
    config::Span,
    end::{End, Reason},
};
use wire::StreamCondition;

use crate::{
    clients::{leave, visit},
    deadlines::{reason, unlimited},
    rights::{acting, add, forbidden, local, run},
    world::{ParseJid, World, admin, assert_eventually},
};

/// A listing: the ids of its rows, in order, and how it closed.
async fn list(server: &Arc<Server>, args: &[(&str, &str)]) -> (Vec<String>, Done) {
    let (rows, mut replies) = tokio::sync::mpsc::channel(16);
    let args = args.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let run =
        command::run(server.clone(), command::Caller::local("test"), "session list", args, rows);
    let task = tokio::spawn(run);
    let mut ids = Vec::new();
    let done = loop {
        match replies.recv().await {
            Some(Reply::Row(row)) => ids.push(row["id"].as_str().expect("a text").to_owned()),
            Some(Reply::Done(done)) => break done,
            other => panic!("{other:?}"),
        }
    };
    task.await.expect("does not panic");
    (ids, done)
}

#[tokio::test]
async fn lj_25_what_is_overdue_is_not_listed_and_a_new_login_clears_it_away() {
    let world = World::without_doors(&[], |config| {
        config.sessions.inactivity = Span::seconds(100);
    });
    world.account("alice").await;
    let old = world.phantom("alice", "old").await;
    world.clock.advance(99_999);
    for args in [&[][..], &[("pattern", "alice@localhost")], &[("pattern", "*@localhost")]] {
        assert_eq!(list(&world.server, args).await.0, [old.id.to_string()]);
    }
    world.clock.advance(1);
    for args in [&[][..], &[("pattern", "alice@localhost")], &[("pattern", "*@localhost")]] {
        let (ids, done) = list(&world.server, args).await;
        assert!(ids.is_empty() && !done.matched, "hidden before anybody has swept");
    }
    assert!(old.alive());
    let new = world.phantom("alice", "new").await;
    assert_eq!(reason(&old), Some(Reason::Idle));
    world.server.settle(&old).await;
    assert_eq!(world.server.registry.counts().total, 1);
    assert_eq!(list(&world.server, &[]).await.0, [new.id.to_string()]);
}

#[tokio::test]
async fn iv_14_a_page_of_fifty_among_ten_thousand_sessions_and_their_total() {
    let world = World::without_doors(&[], unlimited);
    let server = &world.server;
    for user in 0..100 {
        world.account(&format!("u{user}")).await;
    }
    let lucas = ["luca", "lucas", "gianluca", "xlucax"];
    for name in lucas {
        world.account(name).await;
    }
    let mut wanted = Vec::new();
    for n in 0..10_000 {
        if n % 50 == 0 {
            let session = world.phantom(lucas[n / 50 % 4], &format!("r{n}")).await;
            wanted.push(session.id);
        } else {
            world.phantom(&format!("u{}", n % 100), &format!("r{n}")).await;
        }
    }
    wanted.sort();
    let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let mut args = vec![("pattern", "*luca*"), ("limit", "50")];
        args.extend(after.as_deref().map(|after| ("after", after)));
        let (ids, done) = list(server, &args).await;
        assert_eq!((ids.len(), &done.fields["total"]), (50, &200.into()));
        seen.extend(ids);
        let next = done.fields.get("next").and_then(|next| next.as_str());
        assert_eq!(next, seen.last().map(String::as_str).filter(|_| seen.len() < 200));
        assert_eq!(done.message.contains("--after"), next.is_some(), "{}", done.message);
        match next {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert!(seen == wanted, "all of them, in order, each once");
    let (ids, done) = list(server, &[("limit", "50")]).await;
    assert_eq!((ids.len(), &done.fields["total"]), (50, &10_000.into()));
    let (ids, done) = list(server, &[("stage", "c2s"), ("limit", "50")]).await;
    assert!(ids.is_empty() && !done.matched);

    // However rare what is looked for, one page looks at no more than it may.
    let rare =
        |session: &Session| session.full().is_some_and(|jid| jid.resource() == Some("r9950"));
    let (mut looked, mut pages, mut found, mut after) = (0, 0, Vec::new(), None);
    loop {
        let page = server.registry.page_where(after, 50, 1_000, rare);
        assert!(page.looked_at <= 1_000);
        (looked, pages, after) = (looked + page.looked_at, pages + 1, page.next);
        found.extend(page.sessions);
        if after.is_none() {
            break;
        }
    }
    assert_eq!((looked, pages, found.len()), (10_000, 10, 1));

    // An address without `*` is no walk, and in order as well.
    let jid = "gianluca@localhost".parse_jid();
    let page = server.registry.page_of(&jid, None, 10, |_| true);
    assert_eq!((page.sessions.len(), page.looked_at), (10, 50));
    assert_eq!(page.next, page.sessions.last().map(|session| session.id));
    let (ids, done) = list(server, &[("pattern", "Gianluca@localhost"), ("limit", "30")]).await;
    assert_eq!((ids.len(), &done.fields["total"]), (30, &50.into()));
    let full = found[0].full().expect("is bound").to_string();
    assert_eq!(list(server, &[("pattern", &full)]).await.0, [found[0].id.to_string()]);
}

#[tokio::test]
async fn a_session_that_is_ending_is_listed_for_its_account_until_it_is_settled() {
    let world = World::without_doors(&[], |_| {});
    world.account("alice").await;
    let server = &world.server;
    let old = world.phantom("alice", "r").await;
    let new = world.phantom("alice", "r").await;
    assert_eq!(reason(&old), Some(Reason::Replaced));
    let both = [old.id.max(new.id), old.id.min(new.id)].map(|id| id.to_string());
    for pattern in ["alice@localhost", "alice@localhost/r", "*@localhost"] {
        let (mut ids, _) = list(server, &[("pattern", pattern)]).await;
        ids.reverse();
        assert_eq!(ids, both, "{pattern}");
    }
    server.end(&new, End::new(Reason::Kicked));
    server.settle(&old).await;
    assert_eq!(list(server, &[("pattern", "alice@localhost")]).await.0, [new.id.to_string()]);
    server.settle(&new).await;
    assert!(!list(server, &[("pattern", "alice@localhost")]).await.1.matched);
}

/// The columns that may be chosen of a list.
fn columns(command: &str) -> &'static [&'static str] {
    let command = command::find(command).expect("a command");
    match command.arg("columns").map(|arg| arg.kind) {
        Some(ValueKind::Columns(names)) => names,
        other => panic!("{other:?}"),
    }
}

fn keys(row: &Value) -> Vec<&str> {
    row.as_object().expect("a row").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn pr_21_a_list_has_the_columns_that_were_asked_for_in_their_order() {
    let world = World::start(|_| {}).await;
    add(&world, "viewer", Role::Viewer).await;
    add(&world, "alice", Role::User).await;
    let server = &world.server;
    let mut client = world.bound("alice", "phone").await;
    client.send("<presence><show>dnd</show><priority>3</priority></presence>").await;
    assert_eventually("is available", || {
        world.session("alice@localhost/phone").presence().is_some()
    })
    .await;
    let all = |args: Value| async move { run(server, &local(), "session list", args).await };
    let (rows, _) = all(json!({})).await;
    assert_eq!(keys(&rows[0]), columns("session list"), "each field can be asked for");
    assert_eq!((&rows[0]["show"], &rows[0]["ip_version"]), (&json!("dnd"), &json!(4)));
    let (rows, _) = all(json!({ "columns": "role, jid,tx_stanzas" })).await;
    assert_eq!(keys(&rows[0]), ["role", "jid", "tx_stanzas"]);
    assert_eq!(
        (&rows[0]["role"], &rows[0]["jid"]),
        (&json!("user"), &json!("alice@localhost/phone"))
    );
    // What is wrong is told, with what may have been meant.
    for (wrong, told) in [
        ("jid,sofware", "the nearest is `software`"),
        ("jid,,id", "there is no column ``"),
        ("colour", "there are id, jid, stage"),
    ] {
        let (rows, refused) = all(json!({ "columns": wrong })).await;
        let refused = refused.expect_err(wrong);
        assert!(rows.is_empty() && refused.usage, "{refused:?}");
        assert!(refused.message.contains(told), "{refused:?}");
    }
    // To leave the address of the account out is no way to see whose it is not.
    let viewer = acting(&world, "viewer").await;
    let args = json!({ "columns": "address,port" });
    let (rows, _) = run(server, &viewer, "session list", args).await;
    assert_eq!(rows, [json!({ "address": MASK, "port": MASK })]);
    let own = server.caller_of(&world.session("alice@localhost/phone")).await.expect("is there");
    let (rows, _) = run(server, &own, "session list", json!({ "columns": "address" })).await;
    assert_eq!(rows, [json!({ "address": "127.0.0.1" })], "its own it knows");
}

#[tokio::test]
async fn pr_21_an_administrator_chooses_the_stream_error_and_its_words() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    for (level, condition, words) in [
        ("kick", Some("reset"), Some("new software, please come again")),
        ("end", Some("resource-constraint"), None),
        ("end", Some("undefined-condition"), None),
        ("end", None, Some("tea time")),
    ] {
        let mut client = world.client("alice").await;
        let (task, caller) = (server.clone(), local());
        let mut args = json!({ "selector": ["alice@localhost"], "level": level });
        args["condition"] = condition.map_or(Value::Null, Value::from);
        args["reason"] = words.map_or(Value::Null, Value::from);
        args.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        let ending = tokio::spawn(async move { run(&task, &caller, "session end", args).await });
        let seen = condition.unwrap_or("policy-violation");
        let said = words.unwrap_or("This session was ended by an administrator");
        let reason = if level == "kick" { "kicked" } else { "ended" };
        client
            .expect(&format!(
                "<stream:error><{seen} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
                 <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>{said}</text>\
                 <ended xmlns='urn:usher:session:0' reason='{reason}' by='admin'/></stream:error>"
            ))
            .await;
        client.expect_close().await.expect("closes");
        drop(client);
        let (_, done) = ending.await.expect("does not panic");
        assert_eq!(done.expect("is done").fields["ended"], 1);
    }
    // What says that the peer has done wrong, or that a credential is gone, is not to be chosen.
    let stays = visit(server, "alice@localhost", "stays").await;
    for condition in StreamCondition::ALL {
        let args = json!({
            "selector": ["alice@localhost"], "condition": condition.as_str(), "dry-run": true,
        });
        let (_, dry) = run(server, &local(), "session end", args).await;
        let name = condition.as_str();
        let about_the_peer =
            name.contains("xml") || name.contains("format") || name == "see-other-host";
        assert!(!about_the_peer || dry.is_err_and(|refused| refused.usage), "{name}");
    }
    let args = json!({ "all": true, "condition": "reset", "level": "revoke" });
    let (_, refused) = run(server, &local(), "session end", args).await;
    assert!(refused.expect_err("is refused").usage && stays.alive());
}

#[tokio::test]
async fn b_26_the_last_that_ended_are_listed_filtered_and_have_their_traffic() {
    let world = World::start(|_| {}).await;
    add(&world, "alice", Role::User).await;
    add(&world, "bob", Role::User).await;
    add(&world, "viewer", Role::Viewer).await;
    let server = &world.server;
    let mut talks = world.bound("alice", "talks").await;
    talks.settle().await;
    let talked = world.session("alice@localhost/talks");
    talked.set_software("Gajim 1.9");
    let client = talked.identity().and_then(|me| me.client()).expect("is known").id.to_string();
    drop(talks);
    assert_eventually("is gone", || server.registry.counts().total == 0).await;
    world.clock.advance(1_000);
    for (jid, reason) in [("alice@localhost", Reason::Kicked), ("bob@localhost", Reason::Idle)] {
        let session = visit(server, jid, "r").await;
        server.end(&session, End { actor: admin(), ..End::new(reason) });
        assert!(server.settled(&session).await);
    }
    let jids = async |args: Value| -> Vec<String> {
        let (rows, _) = run(server, &local(), "session recent", args).await;
        rows.iter().map(|row| row["jid"].as_str().expect("has one").to_owned()).collect()
    };
    let [talks, kicked, idle] = ["alice@localhost/talks", "alice@localhost/r", "bob@localhost/r"];
    for (args, expected) in [
        (json!({}), vec![idle, kicked, talks]),
        (json!({ "pattern": "alice@localhost" }), vec![kicked, talks]),
        (json!({ "pattern": "*/r" }), vec![idle, kicked]),
        (json!({ "reason": "kicked" }), vec![kicked]),
        (json!({ "reason": "shutdown" }), vec![]),
        (json!({ "client": client }), vec![talks]),
        (json!({ "ip": "127.0.0.0/8" }), vec![idle, kicked, talks]),
        (json!({ "ip": "203.0.113.0/24" }), vec![]),
        (json!({ "pattern": "alice@localhost", "reason": "idle" }), vec![]),
        (json!({ "limit": "1" }), vec![idle]),
    ] {
        assert_eq!(jids(args.clone()).await, expected, "{args}");
    }
    let args = json!({ "client": client });
    let (rows, _) = run(server, &local(), "session recent", args).await;
    assert_eq!(keys(&rows[0]), columns("session recent"));
    let sums = ["rx_bytes", "tx_bytes", "rx_stanzas", "tx_stanzas"].map(|name| &rows[0][name]);
    assert!(sums.iter().all(|sum| sum.as_u64().is_some_and(|sum| sum > 0)), "{rows:?}");
    assert_eq!(
        rows[0]["rx_stanzas"],
        talked.traffic.rx_stanzas.load(std::sync::atomic::Ordering::Relaxed)
    );
    assert_eq!(
        (&rows[0]["address"], &rows[0]["software"]),
        (&json!("127.0.0.1"), &json!("Gajim 1.9"))
    );
    let shown = json!({ "session": talked.id.to_string() });
    assert_eq!(run(server, &local(), "session show", shown).await.0, rows, "the same one by one");
    let columns = json!({ "client": client, "columns": "reason,rx_bytes" });
    let (rows, _) = run(server, &local(), "session recent", columns).await;
    assert_eq!(keys(&rows[0]), ["reason", "rx_bytes"]);

    // Whoever may see no addresses sees none here and finds nobody by one.
    let viewer = acting(&world, "viewer").await;
    let (rows, _) = run(server, &viewer, "session recent", json!({})).await;
    assert!(rows.len() == 3 && rows.iter().all(|row| row["address"] == MASK), "{rows:?}");
    let by_address = json!({ "ip": "127.0.0.1" });
    assert!(forbidden(&run(server, &viewer, "session recent", by_address).await));
    // An owner sees the own ones, with where they were.
    let session = visit(server, "bob@localhost", "now").await;
    let bob = server.caller_of(&session).await.expect("is there");
    let (rows, _) = run(server, &bob, "session recent", json!({ "ip": "127.0.0.1" })).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0]["jid"], &rows[0]["reason"]), (&json!(idle), &json!("idle")));
    leave(server, &session).await;
    // What is remembered of an address grows vaguer as it does everywhere.
    world.clock.advance(31 * 86_400_000);
    let (rows, _) = run(server, &local(), "session recent", json!({ "client": client })).await;
    assert_eq!(rows[0]["address"], "127.0.0.0/24");
}
