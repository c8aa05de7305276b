//! What is only looked at, what of it is in the audit, who reads that, and who acts as whom.

use admin::{
    client::{CallError, Client, Heard},
    socket::Socket,
};
use serde_json::{Value, json};
use server::{account::Role, command, config::Span, end::Actor, rights::Right};

use super::{acting, add, entries, forbidden, local, mint, newest, present, run};
use crate::world::World;

#[tokio::test]
async fn ro_31_an_admin_and_the_owner_get_the_same_from_the_same_command() {
    let mut seen = Vec::new();
    for owner in [false, true] {
        let world = World::start(|config| config.clients.fresh = Span::OFF).await;
        let alice = add(&world, "alice", Role::User).await;
        world.server.mint(&alice, mint(Role::User)).await.expect("is stored");
        present(&world, "alice", "a").await;
        let session = present(&world, "alice", "b").await;
        let caller = match owner {
            true => world.server.caller_of(&session).await.expect("is there"),
            false => local(),
        };
        for (name, args) in [
            ("user show", json!({ "jid": "alice@localhost" })),
            ("session list", json!({})),
            ("token list", json!({ "jid": "alice@localhost" })),
            ("session end", json!({ "selector": ["alice@localhost"] })),
        ] {
            let (mut rows, done) = run(&world.server, &caller, name, args).await;
            for row in rows.iter_mut().filter_map(Value::as_object_mut) {
                for random in ["id", "created_by", "client", "grant"] {
                    row.remove(random);
                }
            }
            rows.sort_by_key(Value::to_string);
            let done = done.expect("is done");
            seen.push((name, rows, done.message, done.matched, done.fields));
        }
    }
    let (admins, owners) = seen.split_at(4);
    assert_eq!(admins, owners);
}

#[tokio::test]
async fn ro_35_what_mutates_nothing_changes_nothing_and_says_so() {
    // Every command that takes a right to change things is declared to change them, so that a face
    // that only looks (a GET, an iq of type get) can go by the declaration.
    for command in command::table() {
        let looks =
            matches!(command.right, Right::List | Right::ListIp | Right::Status | Right::Audit);
        assert_eq!(command.mutates, !looks, "{}", command.name);
        assert!(command.mutates || !command.fresh, "{}", command.name);
    }
}

#[tokio::test]
async fn b_19_what_accounts_look_at_of_others_is_in_the_audit() {
    let world = World::start(|_| {}).await;
    let alice = add(&world, "alice", Role::User).await;
    add(&world, "admin", Role::Admin).await;
    present(&world, "alice", "r").await;
    let server = &world.server;
    let caller = acting(&world, "admin").await;
    let views = [
        ("session show", json!({ "session": "alice@localhost/r" })),
        ("session list", json!({ "pattern": "alice@localhost" })),
        ("user show", json!({ "jid": "alice@localhost" })),
        ("user list", json!({ "pattern": "alice@localhost" })),
        ("token list", json!({ "jid": "alice@localhost" })),
        ("audit list", json!({ "jid": "alice@localhost" })),
    ];
    let all = [
        ("session list", json!({})),
        ("user list", json!({})),
        ("audit list", json!({})),
        ("session watch", json!({})),
    ];
    for (name, args) in views.iter().chain(&all) {
        let before = entries(server).await;
        run(server, &caller, name, args.clone()).await.1.expect("is shown");
        assert_eq!(entries(server).await, before + 1, "{name} {args}");
        let entry = newest(server).await;
        assert_eq!((&*entry.who, &*entry.what), ("uid:0 as admin@localhost", *name));
        let named = !all.contains(&(*name, args.clone()));
        assert_eq!(entry.accounts.iter().any(|about| about.id == alice.id), named, "{name}");
    }
    // Numbers are nobody's, and what is one's own is nobody else's business.
    let own = json!({ "jid": "admin@localhost" });
    for (name, args) in [("status", json!({})), ("session count", json!({})), ("user show", own)] {
        let before = entries(server).await;
        run(server, &caller, name, args).await.1.expect("is shown");
        assert_eq!(entries(server).await, before, "{name}");
    }
    // At the socket, what names one account is written, unless the configuration says otherwise.
    let quiet = World::start(|config| config.audit.views = false).await;
    add(&quiet, "alice", Role::User).await;
    present(&quiet, "alice", "r").await;
    for (world, written) in [(&world, 1), (&quiet, 0)] {
        for (name, args) in &views {
            let before = entries(&world.server).await;
            run(&world.server, &local(), name, args.clone()).await.1.expect("is shown");
            assert_eq!(entries(&world.server).await, before + written, "{name}");
        }
        let before = entries(&world.server).await;
        run(&world.server, &local(), "session list", json!({})).await.1.expect("is shown");
        assert_eq!(entries(&world.server).await, before);
    }
}

#[tokio::test]
async fn ro_30_an_owner_reads_what_was_done_to_the_own_account_and_no_more() {
    let world = World::start(|_| {}).await;
    add(&world, "alice", Role::User).await;
    add(&world, "bob", Role::User).await;
    present(&world, "alice", "r").await;
    present(&world, "bob", "r").await;
    let server = &world.server;
    let both = json!({ "selector": ["alice@localhost", "bob@localhost"], "reason": "test" });
    run(server, &local(), "session end", both).await.1.expect("is done");
    run(server, &local(), "user disable", json!({ "jid": "bob@localhost" })).await.1.expect("done");
    let show = json!({ "jid": "alice@localhost" });
    run(server, &local(), "user show", show.clone()).await.1.expect("is shown");
    let session = present(&world, "alice", "r").await;
    let caller = server.caller_of(&session).await.expect("is there");
    let own = json!({ "id": session.id.to_string(), "dry-run": true });
    run(server, &caller, "session end", own).await.1.expect("is done");
    for args in [json!({}), show] {
        let (rows, done) = run(server, &caller, "audit list", args).await;
        assert!(done.expect("is read").matched);
        let what: Vec<_> = rows.iter().map(|row| (&row["what"], &row["who"])).collect();
        let [ended, shown, dry] =
            [("session end", "admin"), ("user show", "admin"), ("session end", "alice@localhost")]
                .map(|(what, who)| (json!(what), json!(who)));
        assert_eq!(what, [(&dry.0, &dry.1), (&shown.0, &shown.1), (&ended.0, &ended.1)]);
        let text = Value::from(rows).to_string();
        assert!(!text.contains("bob") && !text.contains("uid:0"), "{text}");
    }
    let (rows, _) = run(server, &caller, "audit list", json!({ "limit": "1" })).await;
    assert_eq!(rows.len(), 1);
    for (name, args) in
        [("audit list", json!({ "jid": "bob@localhost" })), ("audit verify", json!({}))]
    {
        assert!(forbidden(&run(server, &caller, name, args).await), "{name}");
    }
    // With the right, all of it; and whatever was read, the chain is whole.
    let (rows, _) = run(server, &local(), "audit list", json!({ "jid": "bob@localhost" })).await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0]["who"], "uid:0");
    entries(server).await;
}

#[tokio::test]
async fn ro_30_an_act_on_very_many_is_one_entry_that_each_of_them_finds() {
    let world = World::start(|_| {}).await;
    let mut ids = Vec::new();
    for number in 0..120 {
        let name = format!("user{number}");
        ids.push(world.account(&name).await.id);
        present(&world, &name, "r").await;
    }
    let all = json!({ "all": true });
    run(&world.server, &local(), "session end", all).await.1.expect("is done");
    assert_eq!(entries(&world.server).await, 1);
    assert_eq!(newest(&world.server).await.accounts.len(), 100);
    for id in ids {
        assert_eq!(world.server.audit_of(id, 10).await.expect("is read").len(), 1);
    }
}

#[tokio::test]
async fn iv_23_the_socket_acts_as_an_account_with_its_rights_and_the_audit_names_both() {
    let world = World::start(|_| {}).await;
    add(&world, "support", Role::Support).await;
    add(&world, "alice", Role::User).await;
    present(&world, "alice", "r").await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("admin.sock");
    let socket = Socket::bind(&path).expect("is bound");
    let serving = tokio::spawn(socket.serve(world.server.clone(), std::future::pending()));
    let call = async |acting: Option<&str>, name: &str, args: Value| {
        let client = Client::connect(&path).await.expect("is there");
        let mut client = client.acting_as(acting.map(str::to_owned));
        let mut rows = Vec::new();
        let args = args.as_object().expect("arguments").clone();
        let hear = |heard| {
            if let Heard::Row(row) = heard {
                rows.push(Value::Object(row));
            }
            Ok(())
        };
        match client.call(name, &args, hear).await {
            Ok(done) => (rows, Ok(done)),
            Err(CallError::Command(error)) => (rows, Err(error)),
            Err(CallError::Passing(error)) => panic!("{error}"),
        }
    };
    let support = Some("support@localhost");
    assert_eq!(call(support, "session list", json!({})).await.0.len(), 1);
    let disable = json!({ "jid": "alice@localhost" });
    let refused = call(support, "user disable", disable.clone()).await;
    assert!(forbidden(&refused), "{refused:?}");
    let uid = std::fs::metadata(dir.path()).expect("is there");
    let uid = format!("uid:{}", std::os::unix::fs::MetadataExt::uid(&uid));
    let entry = newest(&world.server).await;
    assert_eq!(entry.who, format!("{uid} as support@localhost"));
    assert!(!entry.ok && entry.outcome.contains("lacks the right `block`"), "{}", entry.outcome);
    for nobody in ["nobody@localhost", "alice@elsewhere", "no jid at all@"] {
        let (_, refused) = call(Some(nobody), "status", json!({})).await;
        refused.expect_err(nobody);
    }
    // Who acts as the owner is not the owner: the owner sees that it was an administrator.
    let end = json!({ "selector": ["alice@localhost"] });
    call(Some("alice@localhost"), "session end", end).await.1.expect("is its own");
    let past = world.server.recent.all();
    assert_eq!(past[0].record.by, Actor::Admin(format!("{uid} as alice@localhost").into()));
    let session = present(&world, "alice", "r").await;
    let alice = world.server.caller_of(&session).await.expect("is there");
    let (rows, _) = run(&world.server, &alice, "audit list", json!({})).await;
    assert_eq!(rows[0]["who"], "admin");
    // Without it, all as ever.
    call(None, "user disable", disable).await.1.expect("the socket may do everything");
    assert_eq!(newest(&world.server).await.who, uid);
    serving.abort();
}
