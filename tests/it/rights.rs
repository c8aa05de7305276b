//! Who may do what to whom. The whole command table is tried with every role, so that a command that
//! is added is tried too.

mod tokens;
mod views;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use server::{
    Server, Session,
    account::{Account, Role},
    change::Standing,
    command::{self, Caller, Command, CommandError, Done, MASK, Reply, Scope, Shape},
    end::{Actor, End, Reason},
    rights::{Right, Rights},
    vault::Mint,
};
use wire::{Mechanism, Secret};

use crate::world::{ParseJid, World, admin, enter, tended};

/// What a call gave.
pub type Outcome = (Vec<Value>, Result<Done, CommandError>);

/// Runs a command to its end; a stream, until its first row or its refusal.
pub async fn run(server: &Arc<Server>, caller: &Caller, name: &str, args: Value) -> Outcome {
    let Value::Object(args) = args else { panic!("{args} are no arguments") };
    let (sender, mut replies) = tokio::sync::mpsc::channel(64);
    let (server, caller, name) = (server.clone(), caller.clone(), name.to_owned());
    let stream = matches!(command::find(&name).map(|c| c.shape), Some(Shape::Stream(_)));
    let running =
        tokio::spawn(async move { command::run(server, caller, &name, args, sender).await });
    let mut rows = Vec::new();
    let outcome = loop {
        let patience = std::time::Duration::from_millis(200);
        let reply = match tokio::time::timeout(patience, replies.recv()).await {
            Err(_) if stream => {
                drop(replies);
                running.await.expect("does not panic");
                return (rows, Ok(Done::said("")));
            }
            Err(_) => continue,
            Ok(reply) => reply.expect("a last word"),
        };
        match reply {
            Reply::Row(row) => rows.push(Value::Object(row)),
            Reply::Began | Reply::Progress { .. } => {}
            Reply::Done(done) => break Ok(done),
            Reply::Failed(error) => break Err(error),
        }
    };
    // It was heard.
    drop(replies);
    running.await.expect("does not panic");
    (rows, outcome)
}

/// Who is at the admin socket.
pub fn local() -> Caller {
    Caller::local("uid:0")
}

pub async fn add(world: &World, name: &str, role: Role) -> Account {
    let account = world.account(name).await;
    let jid = account.jid.parse_jid();
    let standing = Standing::Role(role);
    world.server.set_standing(&jid, standing, Actor::Server).await.expect("is there");
    world.server.account(&account.jid).await.expect("is read").expect("is there")
}

pub async fn acting(world: &World, name: &str) -> Caller {
    let caller = world.server.caller_as(&format!("{name}@localhost"), &local()).await;
    caller.expect("an account that may act")
}

/// A bound session of an account, without a connection.
async fn present(world: &World, name: &str, resource: &str) -> Arc<Session> {
    let session = tended(&world.server);
    assert!(enter(&world.server, &session, &format!("{name}@localhost")).await);
    world.server.bind(&session, Some(resource)).await.expect("is free");
    session
}

/// A bound session that a token of this role opened.
async fn by_token(world: &World, account: &Account, role: Role) -> Arc<Session> {
    let (_, token) = world.server.mint(account, mint(role)).await.expect("is stored");
    let session = tended(&world.server);
    let secret = Secret::new(token.to_text().as_bytes());
    let candidate =
        world.server.check_token(&tended(&world.server), None, secret).await.expect("is valid");
    let entered = world.server.enter(&session, candidate, Mechanism::OauthBearer, None).await;
    entered.expect("is let in");
    world.server.bind(&session, None).await.expect("is free");
    session
}

fn mint(role: Role) -> Mint {
    Mint::login(role, "test")
}

/// Arguments with which a command would do something to the account `target`, if it were let.
pub async fn args(world: &World, command: &Command, target: &Account) -> Value {
    let jid = &target.jid;
    match command.name {
        "user add" => json!({ "jid": "new@localhost", "password": "x" }),
        "user password" => json!({ "jid": jid, "password": "other" }),
        "user role" => json!({ "jid": jid, "role": "restricted" }),
        "user import" => json!({ "file": [["imported@localhost", "x"]] }),
        "user show" | "user disable" | "user enable" | "user delete" | "user group"
        | "token mint" | "token list" | "last" | "client list" | "grant list" | "policy show" => {
            json!({ "jid": jid })
        }
        "user restore" => json!({ "jid": jid }),
        "user rename" => json!({ "jid": jid, "new": "renamed@localhost" }),
        "policy set" => json!({ "jid": jid, "max-sessions": "2" }),
        "policy unset" => json!({ "jid": jid, "key": ["max_sessions"] }),
        "epoch raise" => json!({ "account": jid }),
        name if name.starts_with("client ") || name == "grant revoke" => {
            let bound_to = "127.0.0.0/8".parse().ok();
            let mint = Mint { bound_to, ..mint(Role::Restricted) };
            let (found, _) = world.server.mint(target, mint).await.expect("is");
            let (client, grant) = (found.client.id.to_string(), found.grant.id.to_string());
            match name {
                "client label" => json!({ "client": client, "label": "tablet" }),
                "client set" => json!({ "client": client, "class": "short" }),
                "client revoke" => json!({ "client": [client], "reason": "test" }),
                "client block" => json!({ "client": client, "reason": "test" }),
                "grant revoke" => json!({ "grant": grant, "reason": "test" }),
                _ => json!({ "client": client }),
            }
        }
        "who" => json!({ "pattern": jid }),
        "session show" => json!({ "session": jid }),
        "session end" | "session freeze" | "session unfreeze" => {
            json!({ "selector": [jid], "reason": "test" })
        }
        "keys retire" => json!({ "key": "1" }),
        "token revoke" => {
            let (record, _) = world.server.mint(target, mint(Role::Restricted)).await.expect("is");
            json!({ "token": record.token.id.to_string(), "reason": "test" })
        }
        "token inspect" => {
            let (_, token) = world.server.mint(target, mint(Role::Restricted)).await.expect("is");
            json!({ "token": token.to_text().as_str() })
        }
        "token rotate" => {
            let (record, _) = world.server.mint(target, mint(Role::Restricted)).await.expect("is");
            json!({ "token": record.token.id.to_string() })
        }
        "audit list" => json!({ "jid": jid }),
        "job pause" | "job resume" | "job abort" => json!({ "job": "1" }),
        "schedule cancel" => json!({ "id": "1" }),
        "announce" => json!({ "text": "test" }),
        "backup" => json!({ "file": "/nonexistent/usher.db" }),
        _ => json!({}),
    }
}

/// Whether what a command is about is named by an id, which tells nobody whose it is: for who may not
/// know, it is as if it were not there.
fn by_id(name: &str) -> bool {
    matches!(
        name,
        "client show"
            | "client label"
            | "client set"
            | "client confirm"
            | "client revoke"
            | "client block"
            | "client unblock"
            | "grant revoke"
            | "token inspect"
            | "token revoke"
            | "token rotate"
    )
}

pub fn forbidden(outcome: &Outcome) -> bool {
    outcome.1.as_ref().is_err_and(|error| {
        assert!(!error.forbidden || !error.usage, "{error:?}");
        error.forbidden
    })
}

/// The newest entry of the audit.
async fn newest(server: &Server) -> server::audit::Entry {
    server.audit_tail(1).await.expect("is read").pop().expect("is written")
}

async fn entries(server: &Server) -> u64 {
    server.verify_audit().await.expect("is whole").count
}

#[tokio::test]
async fn iv_03_every_command_with_every_role_on_others_and_on_the_own_account() {
    for command in command::table() {
        for &role in Role::ALL {
            for own in [false, true] {
                let world = World::start(|_| {}).await;
                let me = add(&world, "me", role).await;
                let other = add(&world, "other", Role::Restricted).await;
                let target = if own { &me } else { &other };
                present(&world, "other", "r").await;
                let caller = acting(&world, "me").await;
                let args = args(&world, command, target).await;
                let (name, before) = (command.name, entries(&world.server).await);
                let outcome = run(&world.server, &caller, name, args.clone()).await;

                let right = world.server.config.roles.rights(role).has(command.right);
                let names_one = command.arg("jid").is_some()
                    || matches!(
                        name,
                        "session show"
                            | "session end"
                            | "session freeze"
                            | "session unfreeze"
                            | "epoch raise"
                    )
                    || by_id(name);
                // What is not below the own role may be touched only if it is the own account.
                let below = own || !command.mutates || role > Role::Restricted;
                let free = command.scope == Scope::Own
                    && role > Role::Restricted
                    && (own || !names_one || by_id(name));
                let may = free || right && below;
                let case = format!("{name} by {}, own: {own}: {outcome:?}", role.as_str());
                assert_eq!(!forbidden(&outcome), may, "{case}");
                if let (Err(error), true) = (&outcome.1, !may) {
                    assert!(error.message.contains(&format!("`{}`", command.right)), "{case}");
                    assert!(error.hint.contains("admin"), "{case}");
                }
                if command.mutates {
                    let entry = newest(&world.server).await;
                    assert_eq!(entries(&world.server).await, before + 1, "{case}");
                    assert_eq!(
                        (entry.who.as_str(), entry.ok),
                        ("uid:0 as me@localhost", outcome.1.is_ok())
                    );
                }
                // What is somebody else's is for who may not touch it as if it were not there.
                if by_id(name) && !own && may && !right {
                    assert!(
                        outcome.1.is_ok_and(|done| !done.matched) && outcome.0.is_empty(),
                        "{name}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn mongooseim_4734_who_is_nobody_here_gets_nothing_of_any_command() {
    let world = World::start(|_| {}).await;
    let gone = add(&world, "gone", Role::Admin).await;
    let off = add(&world, "off", Role::Admin).await;
    let (deleted, disabled) = (acting(&world, "gone").await, acting(&world, "off").await);
    let jid = gone.jid.parse_jid();
    world.server.delete_account(&jid, Actor::Server).await.expect("is there");
    let jid = off.jid.parse_jid();
    let standing = Standing::Disabled;
    world.server.set_standing(&jid, standing, Actor::Server).await.expect("is there");
    let target = add(&world, "target", Role::Restricted).await;
    for command in command::table() {
        for caller in [&deleted, &disabled] {
            let args = args(&world, command, &target).await;
            let outcome = run(&world.server, caller, command.name, args).await;
            assert!(forbidden(&outcome) && outcome.0.is_empty(), "{}", command.name);
        }
    }
    for nobody in ["gone@localhost", "off@localhost", "never@localhost", "localhost"] {
        let refused = world.server.caller_as(nobody, &local()).await.expect_err(nobody);
        assert!(refused.forbidden, "{refused:?}");
    }
    // Nor does a session that has not logged in, and an account does not act as another.
    let session = tended(&world.server);
    assert!(world.server.caller_of(&session).await.expect_err("nobody").forbidden);
    add(&world, "root", Role::Admin).await;
    let root = acting(&world, "root").await;
    let refused = world.server.caller_as("target@localhost", &root).await;
    assert!(refused.expect_err("is an account").forbidden);
}

#[tokio::test]
async fn cve_2020_8086_an_address_of_another_server_is_nobody_here() {
    let world = World::start(|_| {}).await;
    add(&world, "root", Role::Admin).await;
    for remote in ["root@evil.example", "root@localhost.evil.example", "root@localhost/r"] {
        let refused = world.server.caller_as(remote, &local()).await.expect_err(remote);
        assert!(refused.forbidden, "{refused:?}");
    }
    assert!(world.server.caller_as("root@localhost", &local()).await.is_ok());
}

#[tokio::test]
async fn cve_2024_25420_an_account_that_was_deleted_and_made_again_has_nothing_of_the_old_one() {
    let world = World::start(|_| {}).await;
    let old = add(&world, "root", Role::Admin).await;
    let session = present(&world, "root", "r").await;
    let by_name = acting(&world, "root").await;
    let by_session = world.server.caller_of(&session).await.expect("is there");
    let args = json!({ "jid": "root@localhost" });
    let (_, shown) = run(&world.server, &local(), "user show", args).await;
    shown.expect("is shown");
    assert_eq!(world.server.audit_of(old.id, 10).await.expect("is read").len(), 1);

    let jid = old.jid.parse_jid();
    world.server.delete_account(&jid, Actor::Server).await.expect("is there");
    let new = add(&world, "root", Role::Admin).await;
    assert_ne!(old.id, new.id);
    for caller in [&by_name, &by_session] {
        let outcome = run(&world.server, caller, "session list", json!({})).await;
        assert!(forbidden(&outcome), "{outcome:?}");
    }
    // What was done to the old one is in the chain, and nobody's own any more.
    for id in [old.id, new.id] {
        assert!(world.server.audit_of(id, 10).await.expect("is read").is_empty());
    }
    assert!(entries(&world.server).await >= 1);
    let args = json!({ "session": session.id.to_string() });
    world.clock.advance(1_000);
    let (_, done) = run(&world.server, &acting(&world, "root").await, "session show", args).await;
    assert!(done.is_ok(), "an admin still sees the tombstone: {done:?}");
}

#[tokio::test]
async fn of_1734_a_demoted_admin_has_lost_its_rights_at_the_next_command() {
    let world = World::start(|_| {}).await;
    let root = add(&world, "root", Role::Admin).await;
    add(&world, "alice", Role::User).await;
    let caller = acting(&world, "root").await;
    let args = json!({ "jid": "alice@localhost" });
    let (_, done) = run(&world.server, &caller, "user disable", args.clone()).await;
    done.expect("an admin may");
    // A stream that is open goes no further than the demotion either.
    let (sender, mut replies) = tokio::sync::mpsc::channel(64);
    let (server, watching) = (world.server.clone(), caller.clone());
    let watch = tokio::spawn(async move {
        command::run(server, watching, "session watch", Map::new(), sender).await;
    });
    assert!(matches!(replies.recv().await, Some(Reply::Began)));
    let seen = tended(&world.server);
    let row = replies.recv().await;
    assert!(matches!(row, Some(Reply::Row(_))), "{row:?}");
    let standing = Standing::Role(Role::Restricted);
    let jid = root.jid.parse_jid();
    world.server.set_standing(&jid, standing, Actor::Server).await.expect("is there");
    while replies.try_recv().is_ok() {}
    world.server.end(&seen, End::new(Reason::Kicked));
    let patience = std::time::Duration::from_secs(5);
    match tokio::time::timeout(patience, replies.recv()).await {
        Ok(Some(Reply::Failed(error))) => assert!(error.forbidden, "{error:?}"),
        other => panic!("{other:?}"),
    }
    watch.await.expect("does not panic");
    for name in ["user disable", "user show"] {
        let outcome = run(&world.server, &caller, name, args.clone()).await;
        assert!(forbidden(&outcome), "{outcome:?}");
    }
    let entry = newest(&world.server).await;
    assert_eq!((entry.what.as_str(), entry.ok), ("user disable", false));
}

#[tokio::test]
async fn lj_27_who_may_not_see_addresses_sees_none_in_any_command() {
    let world = World::start(|_| {}).await;
    add(&world, "viewer", Role::Viewer).await;
    add(&world, "support", Role::Support).await;
    let alice = add(&world, "alice", Role::User).await;
    present(&world, "alice", "r").await;
    present(&world, "viewer", "own").await;
    let ended = present(&world, "alice", "ended").await;
    world.server.end(&ended, End { actor: admin(), ..End::new(Reason::Kicked) });
    world.server.settled(&ended).await;
    tended(&world.server);
    let by_address = json!({ "ip": "127.0.0.1", "dry-run": true });
    run(&world.server, &local(), "session end", by_address).await.1.expect("is done");

    // Of a viewer with every right but this one, in every command that shows something.
    let world = world;
    let all_but = Rights::ALL.without(Right::ListIp);
    let careful = World::start(|config| config.roles.viewer.rights = all_but).await;
    add(&careful, "viewer", Role::Viewer).await;
    let bob = add(&careful, "alice", Role::User).await;
    present(&careful, "alice", "r").await;
    let by_address = json!({ "ip": "127.0.0.1", "dry-run": true });
    run(&careful.server, &local(), "session end", by_address.clone()).await.1.expect("is done");
    for (world, target) in [(&world, &alice), (&careful, &bob)] {
        let viewer = acting(world, "viewer").await;
        for command in command::table().filter(|command| !command.mutates) {
            let args = match command.name {
                "audit list" => json!({}),
                _ => args(world, command, target).await,
            };
            let (shown, _) = run(&world.server, &local(), command.name, args.clone()).await;
            let (rows, _) = run(&world.server, &viewer, command.name, args).await;
            for row in rows
                .iter()
                .filter(|row| !row["jid"].as_str().is_some_and(|jid| jid.starts_with("viewer@")))
            {
                let text = row.to_string();
                assert!(!text.contains("127.0.0."), "{}: {text}", command.name);
            }
            let told = ["\"address\":\"127", "\"bound_to\":\"127"];
            let shown = Value::from(shown).to_string();
            if !rows.is_empty() && told.iter().any(|told| shown.contains(told)) {
                assert!(Value::from(rows).to_string().contains(MASK), "{}", command.name);
            }
        }
    }
    let (rows, _) =
        run(&world.server, &acting(&world, "viewer").await, "session list", json!({})).await;
    let of = |jid: &str| rows.iter().find(|row| row["jid"] == jid).expect("is listed");
    assert_eq!(
        (&of("alice@localhost/r")["address"], &of("alice@localhost/r")["port"]),
        (&json!(MASK), &json!(MASK))
    );
    assert_eq!(of("viewer@localhost/own")["address"], "127.0.0.1", "its own it knows");
    let support = acting(&world, "support").await;
    let (rows, _) = run(&world.server, &support, "session list", json!({})).await;
    assert!(rows.iter().all(|row| row["address"] == "127.0.0.1"));

    // To see is not to end, and who may not see addresses finds nobody by one.
    let end = json!({ "selector": ["alice@localhost"], "reason": "x" });
    assert!(forbidden(
        &run(&world.server, &acting(&world, "viewer").await, "session end", end).await
    ));
    let viewer = acting(&careful, "viewer").await;
    assert!(forbidden(&run(&careful.server, &viewer, "session end", by_address).await));
}

#[tokio::test]
async fn lj_28_staff_end_all_sessions_of_an_account_say_why_and_are_in_the_audit() {
    let world = World::start(|_| {}).await;
    let alice = add(&world, "alice", Role::User).await;
    let staff = add(&world, "staff", Role::Support).await;
    for resource in ["a", "b", "c"] {
        present(&world, "alice", resource).await;
    }
    let session = present(&world, "staff", "desk").await;
    let caller = world.server.caller_of(&session).await.expect("is there");
    let silent = json!({ "selector": ["alice@localhost"] });
    let (_, refused) = run(&world.server, &caller, "session end", silent).await;
    assert!(refused.expect_err("needs a reason").message.contains("--reason"));
    assert_eq!(world.server.registry.of("alice@localhost").len(), 3);

    let args = json!({ "selector": ["alice@localhost"], "reason": "abuse, ticket 7" });
    let (rows, done) = run(&world.server, &caller, "session end", args.clone()).await;
    assert_eq!(done.expect("is done").fields["ended"], 3);
    assert_eq!(rows.len(), 3);
    let entry = newest(&world.server).await;
    assert_eq!((entry.who.as_str(), entry.what.as_str()), ("staff@localhost", "session end"));
    assert_eq!((Value::from(entry.args), entry.outcome.as_str()), (args, "3 sessions ended"));
    assert_eq!(entry.accounts.len(), 1);
    assert_eq!(
        (entry.accounts[0].id, entry.accounts[0].jid.as_str()),
        (alice.id, "alice@localhost")
    );
    assert!(entry.ok);

    let args = json!({ "selector": ["nobody@localhost"], "reason": "x" });
    let (_, unknown) = run(&world.server, &caller, "session end", args).await;
    assert!(unknown.expect_err("is unknown").message.contains("there is no account"));
    // Of the own sessions nobody has to answer for.
    let own = json!({ "selector": ["staff@localhost"] });
    let (_, done) = run(&world.server, &caller, "session end", own).await;
    assert_eq!(done.expect("is done").fields["ended"], 1);
    let record = session.end_record().expect("is ended");
    assert_eq!(record.by, Actor::Owner("staff@localhost".into()));
    assert!(forbidden(&run(&world.server, &caller, "session list", json!({})).await), "{staff:?}");
}

#[tokio::test]
async fn iv_03_nobody_touches_the_own_step_or_above() {
    let others =
        [("operator2", Role::Operator), ("admin2", Role::Admin), ("support", Role::Support)];
    for (me, mine) in [("operator", Role::Operator), ("admin", Role::Admin)] {
        for (name, role) in others {
            let all = |config: &mut server::config::Config| {
                config.roles.operator.rights = Rights::ALL;
            };
            for command in command::table().filter(|command| command.mutates) {
                if !(command.arg("jid").is_some() && command.name != "user add"
                    || matches!(command.name, "session end" | "epoch raise")
                    || by_id(command.name))
                {
                    continue;
                }
                let world = World::start(all).await;
                add(&world, me, mine).await;
                let target = add(&world, name, role).await;
                let session = present(&world, name, "r").await;
                let args = args(&world, command, &target).await;
                let caller = acting(&world, me).await;
                let outcome = run(&world.server, &caller, command.name, args).await;
                let may = role < mine;
                assert_eq!(forbidden(&outcome), !may, "{me} {} {name}: {outcome:?}", command.name);
                if !may {
                    assert!(session.alive());
                    assert!(!newest(&world.server).await.ok);
                }
            }
        }
    }
}

#[tokio::test]
async fn iv_03_nobody_gives_a_role_that_is_not_below_the_own() {
    let world = World::start(|config| config.roles.operator.rights = Rights::ALL).await;
    add(&world, "operator", Role::Operator).await;
    add(&world, "alice", Role::User).await;
    let caller = acting(&world, "operator").await;
    for (role, may) in [("support", true), ("operator", false), ("admin", false)] {
        let name = format!("new-{role}@localhost");
        for (command, args) in [
            ("user add", json!({ "jid": name, "password": "x", "role": role })),
            ("user role", json!({ "jid": "alice@localhost", "role": role })),
        ] {
            let outcome = run(&world.server, &caller, command, args).await;
            assert_eq!(forbidden(&outcome), !may, "{command} {role}: {outcome:?}");
        }
        let file = json!({ "file": [[format!("row-{role}@localhost"), "x", role]] });
        let (_, done) = run(&world.server, &caller, "user import", file).await;
        assert_eq!(done.expect("is done").fields["added"], u64::from(may));
    }
    let own = json!({ "jid": "operator@localhost", "role": "admin" });
    assert!(forbidden(&run(&world.server, &caller, "user role", own).await));
}

#[tokio::test]
async fn iv_03_of_many_sessions_only_those_that_may_be_ended_are() {
    let world = World::start(|_| {}).await;
    add(&world, "support", Role::Support).await;
    add(&world, "alice", Role::User).await;
    add(&world, "root", Role::Admin).await;
    let (alice, root) = (present(&world, "alice", "r").await, present(&world, "root", "r").await);
    let caller = acting(&world, "support").await;
    let args = json!({ "all": true, "reason": "test" });
    let (rows, done) = run(&world.server, &caller, "session end", args).await;
    let done = done.expect("is done");
    assert_eq!((&done.fields["ended"], &done.fields["forbidden"]), (&json!(1), &json!(1)));
    assert!(rows.iter().any(|row| row["outcome"] == "forbidden"));
    assert!(!alice.alive() && root.alive());
    // To end is not to revoke.
    let session = present(&world, "alice", "r").await;
    let args = json!({ "selector": ["alice@localhost"], "level": "revoke", "reason": "test" });
    let outcome = run(&world.server, &caller, "session end", args).await;
    assert!(forbidden(&outcome) && session.alive(), "{outcome:?}");
    let message = outcome.1.expect_err("is refused").message;
    assert!(message.contains("`revoke`"), "{message}");
}

#[tokio::test]
async fn cve_2009_1595_an_account_reaches_no_other_by_naming_it() {
    let world = World::start(|_| {}).await;
    add(&world, "alice", Role::User).await;
    let bob = add(&world, "bob", Role::Restricted).await;
    let mine = present(&world, "alice", "r").await;
    let other = present(&world, "bob", "r").await;
    let caller = world.server.caller_of(&mine).await.expect("is there");
    for command in command::table() {
        let own = matches!(
            command.name,
            "schedule list"
                | "session list"
                | "session recent"
                | "session watch"
                | "who"
                | "last"
                | "whoami"
        );
        if own {
            continue;
        }
        let args = args(&world, command, &bob).await;
        if by_id(command.name) || command.name == "schedule cancel" {
            let (rows, done) = run(&world.server, &caller, command.name, args).await;
            assert!(rows.is_empty() && !done.expect("nothing").matched, "{}", command.name);
            continue;
        }
        let outcome = run(&world.server, &caller, command.name, args).await;
        assert!(forbidden(&outcome) && outcome.0.is_empty(), "{}: {outcome:?}", command.name);
    }
    let (record, _) = world.server.mint(&bob, mint(Role::Restricted)).await.expect("is stored");
    // By an id it learns no more than that there is nothing of its own.
    for (name, args) in [
        ("session show", json!({ "session": other.id.to_string() })),
        ("session end", json!({ "id": other.id.to_string() })),
        ("session end", json!({ "token": record.token.id.to_string(), "level": "revoke" })),
        ("session list", json!({ "pattern": "bob@localhost" })),
        ("token revoke", json!({ "token": record.token.id.to_string() })),
    ] {
        let (rows, done) = run(&world.server, &caller, name, args).await;
        assert!(rows.is_empty() && !done.expect("nothing matches").matched, "{name}");
    }
    let (rows, _) = run(&world.server, &caller, "session list", json!({})).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["jid"], "alice@localhost/r");
    let args = json!({ "ip": "127.0.0.1" });
    let (rows, done) = run(&world.server, &caller, "session end", args).await;
    assert_eq!((rows.len(), done.expect("is done").matched), (1, true));
    assert!(other.alive() && !mine.alive());
    assert!(
        world
            .server
            .find_token(record.token.id)
            .await
            .expect("is read")
            .expect("is")
            .token
            .over
            .is_none()
    );
}
