//! The commands about clients, grants, policies and epochs, and what a client that has only just come
//! may not do.

use std::sync::Arc;

use serde_json::{Value, json};
use server::{
    Server, Session,
    account::Role,
    command::{Caller, CommandError, Done},
    config::{Group, Span},
    end::{Actor, Reason},
    hooks::Flow,
    plugin::{Plugin, Setup},
    policy::{AtLimit, NewClients, Policy},
    vault::{Mint, Parent},
};

use crate::{
    clients::{clients, leave, sid, token_visit, visit},
    rights::{acting, add, forbidden, local, run},
    world::{World, enter, tended},
};

const DAY: u64 = 86_400_000;
const ALICE: &str = "alice@localhost";

/// A call that is expected to be answered.
async fn call(
    server: &Arc<Server>,
    caller: &Caller,
    name: &str,
    args: Value,
) -> (Vec<Value>, Done) {
    let (rows, done) = run(server, caller, name, args.clone()).await;
    (rows, done.unwrap_or_else(|why| panic!("{name} {args}: {why:?}")))
}

async fn refused(server: &Arc<Server>, caller: &Caller, name: &str, args: Value) -> CommandError {
    let (rows, done) = run(server, caller, name, args.clone()).await;
    assert!(rows.is_empty(), "{name} {args}: {rows:?}");
    done.expect_err(name)
}

async fn as_session(server: &Arc<Server>, session: &Session) -> Caller {
    server.caller_of(session).await.expect("is there")
}

fn client_of(session: &Session) -> String {
    session.identity().and_then(|me| me.client()).expect("is known").id.to_string()
}

fn reason(session: &Session) -> Option<Reason> {
    session.end_record().map(|record| record.reason)
}

fn field<'a>(rows: &'a [Value], name: &str) -> Vec<&'a Value> {
    rows.iter().map(|row| &row[name]).collect()
}

#[tokio::test]
async fn lj_26_clients_are_listed_with_the_own_one_marked_and_others_are_ended_in_one_call() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let phone = visit(server, ALICE, "phone").await;
    let laptop = visit(server, ALICE, "laptop").await;
    let tablet = visit(server, ALICE, "tablet").await;
    phone.set_software("Conversations 2.17");
    for (session, own) in [(&phone, 0), (&laptop, 1), (&tablet, 2)] {
        let caller = as_session(server, session).await;
        let (rows, _) = call(server, &caller, "client list", json!({ "jid": ALICE })).await;
        let current: Vec<bool> = (0..3).map(|index| index == own).collect();
        assert_eq!(
            field(&rows, "current"),
            current.iter().map(|c| json!(c)).collect::<Vec<_>>().iter().collect::<Vec<_>>()
        );
        assert_eq!(rows[0]["software"], "Conversations 2.17");
        assert!(rows.iter().all(|row| row["connected"] == true && row["address"] == "127.0.0.1"));
    }
    let caller = as_session(server, &phone).await;
    let both = json!({ "client": [client_of(&laptop), client_of(&tablet)] });
    let (rows, done) = call(server, &caller, "client revoke", both).await;
    assert_eq!((&done.fields["revoked"], &done.fields["ended"]), (&json!(2), &json!(2)));
    assert_eq!(field(&rows, "outcome"), [&json!("ended"), &json!("ended")]);
    assert_eq!(rows[0]["ways_back"], json!(["password"]));
    assert!(phone.alive() && !laptop.alive() && !tablet.alive());
    assert_eq!(reason(&laptop), Some(Reason::Revoked));
    assert_eq!(laptop.end_record().expect("is over").by, Actor::Owner(ALICE.into()));

    let (rows, _) = call(server, &caller, "client list", json!({ "jid": ALICE })).await;
    assert_eq!(field(&rows, "sid"), [&json!(1)]);
    let all = json!({ "jid": ALICE, "all": true });
    let (rows, _) = call(server, &caller, "client list", all).await;
    assert_eq!(field(&rows, "state"), [&json!("good"), &json!("logout"), &json!("logout")]);
    // Page by page the same.
    let page = json!({ "jid": ALICE, "all": true, "limit": "2" });
    let (rows, done) = call(server, &caller, "client list", page).await;
    assert_eq!((rows.len(), &done.fields["next"]), (2, &json!("2")));
    let rest = json!({ "jid": ALICE, "all": true, "limit": "2", "after": "2" });
    assert_eq!(call(server, &caller, "client list", rest).await.0.len(), 1);
    // What is over comes back as a new one.
    let again = visit(server, ALICE, "laptop").await;
    assert_eq!(sid(&again), 4);
    assert_eq!(clients(server, &alice).await.len(), 4);
}

#[tokio::test]
async fn pr_22_a_client_is_shown_by_its_id_or_number_and_an_unknown_one_is_told() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let phone = visit(server, ALICE, "phone").await;
    let id = client_of(&phone);
    let label = json!({ "client": id, "label": "my\u{7} phone" });
    call(server, &local(), "client label", label).await;
    for args in [json!({ "client": id }), json!({ "client": ALICE, "sid": "1" })] {
        let (rows, _) = call(server, &local(), "client show", args).await;
        assert_eq!((rows[0]["label"].as_str(), &rows[0]["sid"]), (Some("my phone"), &json!(1)));
        assert_eq!(rows[0]["resource"], "phone");
        assert!(rows[0]["mechanisms"]["SCRAM-SHA-256"].is_string(), "{rows:?}");
    }
    let unknown = "c-0000000000000".parse::<server::id::ClientId>();
    let unknown = unknown.map_or_else(|_| server::id::ClientId(1).to_string(), |id| id.to_string());
    for name in ["client show", "client confirm", "client block"] {
        let (_, done) = call(server, &local(), name, json!({ "client": unknown })).await;
        assert!(!done.matched, "{name}");
    }
    // One that is not there: nothing is done to the others either.
    let some = json!({ "client": [id, unknown] });
    let (_, done) = call(server, &local(), "client revoke", some).await;
    assert!(!done.matched && phone.alive());
    // One that has no session is revoked like any other.
    leave(server, &phone).await;
    let (rows, done) = call(server, &local(), "client revoke", json!({ "client": [id] })).await;
    assert_eq!((done.matched, &rows[0]["outcome"]), (true, &json!("no-session")));
}

#[tokio::test]
async fn pr_17_pr_22_no_list_shows_a_secret_and_old_addresses_grow_vague() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let (_, text) = world.token(&alice, None).await;
    let secret = text.rsplit(':').next().expect("a secret").to_owned();
    let session = token_visit(server, &text).await.expect("is valid");
    let stored = format!("{:?}", clients(server, &alice).await[0].grants[0].tokens[0]);
    let mac = stored.split("mac: \"").nth(1).and_then(|rest| rest.split('"').next());
    let mac = mac.expect("is stored").to_owned();
    let id = client_of(&session);
    let caller = as_session(server, &session).await;
    for (name, args) in [
        ("client list", json!({ "jid": ALICE, "all": true })),
        ("client show", json!({ "client": id })),
        ("grant list", json!({ "jid": ALICE })),
        ("token list", json!({ "jid": ALICE })),
        ("whoami", json!({})),
    ] {
        let (rows, _) = call(server, &caller, name, args).await;
        let shown = Value::from(rows).to_string();
        assert!(!shown.contains(&secret) && !shown.contains(&mac), "{name}: {shown}");
        assert!(!shown.contains("secret") && !shown.contains("\"mac\""), "{name}: {shown}");
    }
    leave(server, &session).await;
    for (days, address) in
        [(0, json!("127.0.0.1")), (31, json!("127.0.0.0/24")), (181, Value::Null)]
    {
        world.clock.advance(days * DAY);
        let (rows, _) = call(server, &local(), "client list", json!({ "jid": ALICE })).await;
        assert_eq!(rows[0]["address"], address, "after {days} days more");
    }
}

#[tokio::test]
async fn lj_20_a_class_counts_from_now_and_live_sessions_go_by_it() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let session = visit(server, ALICE, "phone").await;
    let caller = as_session(server, &session).await;
    let id = client_of(&session);
    let set = async |class: &str| {
        let args = json!({ "client": id, "class": class });
        call(server, &caller, "client set", args).await.1
    };
    let left = async || call(server, &caller, "whoami", json!({})).await.0[0].clone();
    assert_eq!(left().await["credential_left"], Value::Null);
    for (class, length) in [("long", 60 * 86_400), ("short", 36 * 3_600), ("once", 2 * 3_600)] {
        world.clock.advance(600_000);
        let done = set(class).await;
        let until = world.clock.now().plus_seconds(length).to_string();
        assert_eq!(done.fields["expires"], json!(until));
        let row = left().await;
        assert_eq!((&row["credential_left"], &row["class"]), (&json!(length), &json!(class)));
    }
    set("policy").await;
    assert_eq!(left().await["credential_left"], Value::Null);
    set("short").await;
    world.clock.advance(36 * 3_600_000 - 1);
    server.sweep();
    assert!(session.alive());
    world.clock.advance(1);
    server.sweep();
    assert!(!session.alive(), "36 hours from then");
    let again = visit(server, ALICE, "phone").await;
    assert_eq!(sid(&again), 2, "what was there is over");
}

#[tokio::test]
async fn lj_16_lj_20_notes_are_bounded_and_a_bound_client_is_refused_elsewhere() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let session = visit(server, ALICE, "phone").await;
    let id = client_of(&session);
    let attributes = |args: Value| {
        let id = id.clone();
        async move {
            let args = json!({ "client": id, "attribute": args });
            run(server, &local(), "client set", args).await.1
        }
    };
    let many: Vec<String> = (0..16).map(|n| format!("n{n}=v=v")).collect();
    attributes(json!(many)).await.expect("as many as there may be");
    let more = attributes(json!(["one=more"])).await.expect_err("too many");
    assert!(!more.usage && more.message.contains("16"), "{more:?}");
    attributes(json!(["n0=", "one=more"])).await.expect("one has gone");
    for bad in ["none", "=v", &format!("n={}", "v".repeat(101)), "n=\n"] {
        assert!(attributes(json!([bad])).await.expect_err(bad).usage, "{bad}");
    }
    let (rows, _) = call(server, &local(), "client show", json!({ "client": id })).await;
    assert_eq!(rows[0]["attributes"]["n1"], "v=v");
    assert_eq!(rows[0]["attributes"]["n0"], Value::Null);

    let bind = json!({ "client": id, "bind-to": "203.0.113.0/24" });
    call(server, &local(), "client set", bind).await;
    assert!(session.alive(), "it is for the next time");
    leave(server, &session).await;
    let back = tended(server);
    assert!(enter(server, &back, ALICE).await);
    assert!(server.bind(&back, Some("phone")).await.is_err());
    assert!(!back.alive());
    let both = json!({ "client": id, "bind-to": "off", "attribute": many });
    refused(server, &local(), "client set", both).await;
    let (rows, _) = call(server, &local(), "client show", json!({ "client": id })).await;
    assert_eq!(rows[0]["bound_to"], "203.0.113.0/24", "all of it or nothing");
    let off = json!({ "client": id, "bind-to": "off" });
    call(server, &local(), "client set", off).await;
    let back = visit(server, ALICE, "phone").await;
    assert_eq!(sid(&back), 1, "it has lost nothing");
    let nowhere = json!({ "client": id, "bind-to": "nowhere" });
    assert!(refused(server, &local(), "client set", nowhere).await.usage);
}

#[tokio::test]
async fn lj_20_what_a_token_opened_may_only_bound_itself_more_narrowly() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let mint = Mint { class: server::client::Class::Short, ..Mint::login(Role::User, "test") };
    let (_, text) = server.mint(&alice, mint).await.expect("is minted");
    let session = token_visit(server, &text.to_text()).await.expect("is valid");
    let caller = as_session(server, &session).await;
    let set = async |class: &str| {
        let args = json!({ "client": client_of(&session), "class": class });
        run(server, &caller, "client set", args).await
    };
    for wider in ["long", "policy"] {
        assert!(forbidden(&set(wider).await), "{wider}");
    }
    set("once").await.1.expect("is shorter");
    assert!(forbidden(&set("short").await));
}

#[tokio::test]
async fn b_09_an_unconfirmed_client_is_confirmed_by_an_older_one_and_by_no_other() {
    let world = World::start(|config| config.clients.new_clients = NewClients::Confirm).await;
    add(&world, "alice", Role::Support).await;
    add(&world, "operator", Role::Operator).await;
    let server = &world.server;
    let first = visit(server, ALICE, "phone").await;
    let second = visit(server, ALICE, "tablet").await;
    let third = visit(server, ALICE, "laptop").await;
    let role = |session: &Session| session.identity().expect("is in").role();
    assert_eq!(
        [&first, &second, &third].map(|s| role(s)),
        [Role::Support, Role::Restricted, Role::Restricted]
    );
    let confirm = async |by: &Session, whom: &Session| {
        let args = json!({ "client": client_of(whom) });
        run(server, &as_session(server, by).await, "client confirm", args).await
    };
    for (by, whom) in [(&second, &second), (&third, &second), (&second, &third)] {
        assert!(forbidden(&confirm(by, whom).await));
    }
    confirm(&first, &third).await.1.expect("is older");
    assert_eq!(role(&third), Role::Support, "at once");
    assert!(forbidden(&confirm(&third, &second).await), "it is younger");
    let args = json!({ "client": client_of(&second) });
    let operator = acting(&world, "operator").await;
    let (_, done) = call(server, &operator, "client confirm", args.clone()).await;
    assert!(done.message.starts_with("confirmed"), "{done:?}");
    assert_eq!(role(&second), Role::Support);
    let (_, done) = call(server, &operator, "client confirm", args).await;
    assert!(done.message.contains("already"), "{done:?}");
    leave(server, &second).await;
    let back = visit(server, ALICE, "tablet").await;
    assert_eq!(role(&back), Role::Support, "and stays so");
}

#[tokio::test]
async fn b_09_an_unconfirmed_client_counts_as_confirmed_after_a_while() {
    let world = World::start(|config| {
        config.clients.new_clients = NewClients::Confirm;
        config.clients.confirm_after = Span::days(7);
    });
    let world = world.await;
    add(&world, "alice", Role::Support).await;
    let server = &world.server;
    visit(server, ALICE, "phone").await;
    let waits = visit(server, ALICE, "tablet").await;
    leave(server, &waits).await;
    for (advance, role) in [(7 * DAY - 1, Role::Restricted), (1, Role::Support)] {
        world.clock.advance(advance);
        let session = visit(server, ALICE, "tablet").await;
        assert_eq!(session.identity().expect("is in").role(), role);
        leave(server, &session).await;
    }
}

#[tokio::test]
async fn b_09_a_client_that_has_just_come_may_not_throw_out_older_ones() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let owner = visit(server, ALICE, "phone").await;
    world.clock.advance(DAY);
    let parent = Parent::Client(client_of(&owner).parse().expect("an id"));
    let mint = Mint { parent, ..Mint::login(Role::User, "test") };
    let (found, _) = server.mint(&alice, mint).await.expect("is minted");
    let thief = visit(server, ALICE, "thief").await;
    let younger = visit(server, ALICE, "younger").await;
    let (phone, grant) = (client_of(&owner), found.grant.id.to_string());
    let token = found.token.id.to_string();
    let acts = [
        ("client set", json!({ "client": phone, "class": "once" })),
        ("token revoke", json!({ "token": token })),
        ("grant revoke", json!({ "grant": grant })),
        ("epoch raise", json!({ "grant": grant })),
        ("epoch raise", json!({ "account": ALICE })),
        ("client revoke", json!({ "client": [client_of(&younger), phone] })),
        ("client block", json!({ "client": phone })),
    ];
    let by_thief = as_session(server, &thief).await;
    for (name, args) in &acts {
        let why = refused(server, &by_thief, name, args.clone()).await;
        assert!(why.forbidden && why.message.contains("older"), "{name}: {why:?}");
    }
    assert!(owner.alive() && younger.alive(), "and nothing was done by halves");
    assert!(clients(server, &alice).await[0].grants[0].over.is_none());
    // One that has bound nothing is nobody yet, and younger than all.
    let nobody = tended(server);
    assert!(enter(server, &nobody, ALICE).await);
    let by_nobody = as_session(server, &nobody).await;
    for (name, args) in &acts {
        assert!(refused(server, &by_nobody, name, args.clone()).await.forbidden, "{name}");
    }
    // The own one, and younger ones, it may.
    let args = json!({ "client": [client_of(&younger)] });
    call(server, &by_thief, "client revoke", args).await;
    // The older one throws the thief out; one that comes too late for that is not held back.
    world.clock.advance(1_000);
    let fresh = visit(server, ALICE, "phone").await;
    let by_owner = as_session(server, &fresh).await;
    call(server, &by_owner, "client block", json!({ "client": client_of(&thief) })).await;
    assert!(!thief.alive());
    let late = visit(server, ALICE, "late").await;
    leave(server, &late).await;
    let until = DAY - 1_000;
    world.clock.advance(until);
    let late = visit(server, ALICE, "late").await;
    let by_late = as_session(server, &late).await;
    let revoke = json!({ "client": [phone] });
    assert!(refused(server, &by_late, "client revoke", revoke.clone()).await.forbidden);
    world.clock.advance(1_000);
    let late = visit(server, ALICE, "late").await;
    let by_late = as_session(server, &late).await;
    call(server, &by_late, "client revoke", revoke).await;
    assert!(!fresh.alive());
}

#[tokio::test]
async fn b_09_the_only_client_of_an_account_is_not_held_back() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let session = visit(server, ALICE, "phone").await;
    let (token, _) = world.token(&alice, None).await;
    let caller = as_session(server, &session).await;
    call(server, &caller, "token revoke", json!({ "token": token.to_string() })).await;
    call(server, &caller, "epoch raise", json!({ "account": ALICE })).await;
    assert_eq!(reason(&session), Some(Reason::Epoch));
}

#[tokio::test]
async fn iv_08_a_blocked_client_is_refused_with_the_password_too_until_its_time_has_passed() {
    let world = World::start(|_| {}).await;
    add(&world, "alice", Role::User).await;
    let server = &world.server;
    let phone = visit(server, ALICE, "phone").await;
    let laptop = visit(server, ALICE, "laptop").await;
    let id = client_of(&phone);
    let args = json!({ "client": id, "for": "1h", "reason": "stolen" });
    let (rows, done) = call(server, &local(), "client block", args).await;
    assert_eq!((&rows[0]["outcome"], &rows[0]["ways_back"]), (&json!("ended"), &json!([])));
    assert_eq!(done.fields["ended"], 1);
    assert_eq!(reason(&phone), Some(Reason::Blocked));
    assert!(laptop.alive());
    let come = async || {
        let session = tended(server);
        assert!(enter(server, &session, ALICE).await);
        match server.bind(&session, Some("phone")).await {
            Ok(_) => Ok(session),
            Err(_) => Err(reason(&session)),
        }
    };
    assert_eq!(come().await.err(), Some(Some(Reason::Blocked)));
    // It is in the list though it is over.
    let (rows, _) = call(server, &local(), "client list", json!({ "jid": ALICE })).await;
    assert_eq!(field(&rows, "state"), [&json!("blocked"), &json!("good")]);
    // The owner does not lift, nor shorten, what an administrator has set.
    let owner = as_session(server, &laptop).await;
    assert!(refused(server, &owner, "client unblock", json!({ "client": id })).await.forbidden);
    world.clock.advance(3_600_000 - 1);
    assert_eq!(come().await.err(), Some(Some(Reason::Blocked)));
    world.clock.advance(1);
    let back = come().await.expect("its time has passed");
    assert_eq!(sid(&back), 3, "as a new one");
    // To block what has come back already is to block nobody.
    let old = refused(server, &local(), "client block", json!({ "client": id })).await;
    assert!(old.message.contains(&client_of(&back)), "{old:?}");
    let args = json!({ "client": client_of(&back) });
    call(server, &local(), "client block", args.clone()).await;
    world.clock.advance(400 * DAY);
    assert_eq!(come().await.err(), Some(Some(Reason::Blocked)), "for ever");
    call(server, &local(), "client unblock", args.clone()).await;
    assert!(come().await.is_ok());
    let (_, done) = call(server, &local(), "client unblock", args).await;
    assert!(!done.matched);
}

#[tokio::test]
async fn iv_08_tokens_of_a_blocked_client_are_refused_too() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let (_, text) = world.token(&alice, None).await;
    let session = token_visit(server, &text).await.expect("is valid");
    let args = json!({ "client": client_of(&session) });
    call(server, &local(), "client block", args).await;
    assert_eq!(reason(&session), Some(Reason::Blocked));
    let denied = token_visit(server, &text).await.expect_err("is refused");
    assert_eq!(denied.failure.as_str(), "not-authorized");
    assert!(String::from_utf8_lossy(&denied.app.expect("says why")).contains("blocked"));
    // Without its secret nobody is told.
    let wrong = text.replacen("secret-token:", "secret-token:x", 1);
    let denied = token_visit(server, &wrong).await.expect_err("is wrong");
    assert_eq!(denied.app, None);
}

#[tokio::test]
async fn b_22_a_name_and_notes_stick_to_the_client_over_re_login() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let phone = visit(server, ALICE, "phone").await;
    let id = client_of(&phone);
    let caller = as_session(server, &phone).await;
    call(server, &caller, "client label", json!({ "client": id, "label": "my phone" })).await;
    let icon = json!({ "client": id, "attribute": ["icon=phone"] });
    call(server, &caller, "client set", icon).await;
    leave(server, &phone).await;
    world.clock.advance(30 * DAY);
    let back = visit(server, ALICE, "phone").await;
    let caller = as_session(server, &back).await;
    let (rows, _) = call(server, &caller, "client show", json!({ "client": id })).await;
    assert_eq!(
        (&rows[0]["label"], &rows[0]["attributes"]["icon"]),
        (&json!("my phone"), &json!("phone"))
    );
    assert_eq!(rows[0]["current"], true);
    call(server, &caller, "client label", json!({ "client": id, "label": "" })).await;
    let (rows, _) = call(server, &caller, "whoami", json!({})).await;
    assert_eq!(rows[0]["label"], Value::Null);
}

/// Does what a client's label says while somebody comes back as that client.
static MEDDLER: [Plugin; 1] =
    [Plugin { name: "meddler", about: "Comes in between", specs: &[], setup: meddler }];

fn meddler(setup: &mut Setup<'_>) {
    setup.binding(|cx| {
        let server = cx.server.clone();
        let account = cx.session.identity().map(|me| me.account);
        Flow::later(async move {
            for client in server.clients_of(account.expect("is in"), None, 0).await.expect("read") {
                let id = client.id.to_string();
                let (name, args) = match client.label.as_deref() {
                    Some("block") => ("client block", json!({ "client": id })),
                    Some("revoke") => ("client revoke", json!({ "client": [id] })),
                    Some("short") => ("client set", json!({ "client": id, "class": "short" })),
                    _ => continue,
                };
                call(&server, &local(), name, args).await;
            }
            Flow::Next
        })
    });
}

#[tokio::test]
async fn iv_08_lj_20_what_is_done_to_a_client_while_it_comes_back_counts() {
    for (label, ended) in
        [("block", Some(Reason::Blocked)), ("revoke", Some(Reason::Revoked)), ("short", None)]
    {
        let world = World::without_doors(&MEDDLER, |_| {});
        world.account("alice").await;
        let server = &world.server;
        let first = visit(server, ALICE, "phone").await;
        let args = json!({ "client": client_of(&first), "label": label });
        call(server, &local(), "client label", args).await;
        leave(server, &first).await;
        let back = tended(server);
        assert!(enter(server, &back, ALICE).await);
        let _ = server.bind(&back, Some("phone")).await;
        assert_eq!(reason(&back), ended, "{label}");
        let until = world.clock.now().plus_seconds(36 * 3_600);
        let expires = back.identity().and_then(|me| me.expires());
        assert_eq!(expires, ended.is_none().then_some(until), "{label}");
    }
}

#[tokio::test]
async fn pr_14_a_grant_is_revoked_and_its_siblings_stay() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let (one, one_text) =
        server.mint(&alice, Mint::login(Role::User, "test")).await.expect("is minted");
    let cousin = Mint { parent: Parent::Client(one.client.id), ..Mint::login(Role::User, "test") };
    let (_, two_text) = server.mint(&alice, cousin).await.expect("is minted");
    let first = token_visit(server, &one_text.to_text()).await.expect("is valid");
    let second = token_visit(server, &two_text.to_text()).await.expect("is valid");
    let (rows, _) = call(server, &local(), "grant list", json!({ "jid": ALICE })).await;
    assert_eq!(field(&rows, "sessions"), [&json!(1), &json!(1)]);
    let args = json!({ "grant": one.grant.id.to_string(), "reason": "lost" });
    let (_, done) = call(server, &local(), "grant revoke", args).await;
    assert_eq!(done.fields["ended"], 1);
    assert!(!first.alive() && second.alive());
    let (rows, _) = call(server, &local(), "grant list", json!({ "jid": ALICE })).await;
    assert_eq!(field(&rows, "state"), [&json!("revoked"), &json!("good")]);
    assert_eq!((&rows[0]["reason"], &rows[0]["tokens"]), (&json!("lost"), &json!(0)));
}

#[tokio::test]
async fn lj_23_the_epoch_of_a_grant_voids_its_tokens_and_keeps_it() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let (found, text) =
        server.mint(&alice, Mint::login(Role::User, "test")).await.expect("is minted");
    let (_, other) = world.token(&alice, None).await;
    let mine = token_visit(server, &text.to_text()).await.expect("is valid");
    let others = token_visit(server, &other).await.expect("is valid");
    let grant = found.grant.id.to_string();
    let grace = json!({ "grant": grant, "grace": true });
    let (_, done) = call(server, &local(), "epoch raise", grace).await;
    assert_eq!((&done.fields["epoch"], &done.fields["ended"]), (&json!(1), &json!(0)));
    assert!(mine.alive());
    let (_, done) = call(server, &local(), "epoch raise", json!({ "grant": grant })).await;
    assert_eq!(done.fields["ended"], 1);
    assert_eq!(reason(&mine), Some(Reason::Epoch));
    assert!(others.alive());
    let denied = token_visit(server, &text.to_text()).await.expect_err("is void");
    assert!(String::from_utf8_lossy(&denied.app.expect("says why")).contains("epoch"));
    let parent = Parent::Grant(found.grant.id);
    let new = server.mint(&alice, Mint { parent, ..Mint::login(Role::User, "test") }).await;
    let (_, text) = new.expect("the grant is good");
    leave(server, &token_visit(server, &text.to_text()).await.expect("is of the new one")).await;
}

#[tokio::test]
async fn lj_23_everybody_is_logged_out_by_one_command_for_which_it_takes_the_right() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    add(&world, "operator", Role::Operator).await;
    let server = &world.server;
    let operator = acting(&world, "operator").await;
    for (args, may) in [
        (json!({ "server": true }), false),
        (json!({ "host": "localhost" }), false),
        (json!({ "account": ALICE }), true),
    ] {
        let alice = visit(server, ALICE, "phone").await;
        let outcome = run(server, &operator, "epoch raise", args.clone()).await;
        assert_eq!(forbidden(&outcome), !may, "{args}");
        assert_eq!(alice.alive(), !may, "{args}");
        let (_, done) = call(server, &local(), "epoch raise", args).await;
        assert_eq!((&done.fields["ended"], alice.alive()), (&json!(u8::from(!may)), false));
    }
    for bad in [json!({}), json!({ "server": true, "account": ALICE }), json!({ "grace": true })] {
        assert!(refused(server, &local(), "epoch raise", bad).await.usage);
    }
    let elsewhere = json!({ "host": "elsewhere" });
    assert!(!refused(server, &local(), "epoch raise", elsewhere).await.hint.is_empty());
}

/// Binds one more session of alice; why not, if not.
async fn one_more(server: &Arc<Server>, resource: &str) -> Result<Arc<Session>, String> {
    let session = tended(server);
    assert!(enter(server, &session, ALICE).await);
    match server.bind(&session, Some(resource)).await {
        Ok(_) => Ok(session),
        Err(error) => Err(format!("{error:?}")),
    }
}

#[tokio::test]
async fn iv_13_the_nearest_that_says_something_wins_and_what_is_unset_falls_back() {
    // As in the manual of WebSEAL: 1 for everybody, 4 for one user.
    for (global, own, room) in
        [(1, Some("4"), 4), (1, None, 1), (0, None, 6), (1, Some("0"), 6), (0, Some("1"), 1)]
    {
        let world = World::start(|config| {
            config.sessions.max_sessions = global;
            config.sessions.at_limit = AtLimit::Refuse;
        });
        let world = world.await;
        world.account("alice").await;
        let server = &world.server;
        // Set and unset again is as never set.
        let set = json!({ "jid": ALICE, "max-sessions": own.unwrap_or("3") });
        call(server, &local(), "policy set", set).await;
        if own.is_none() {
            let unset = json!({ "jid": ALICE, "key": ["max_sessions"] });
            call(server, &local(), "policy unset", unset).await;
        }
        let mut bound = 0;
        for number in 0..6 {
            match one_more(server, &format!("r{number}")).await {
                Ok(_) => bound += 1,
                Err(why) => assert!(why.contains("ResourceConstraint"), "{why}"),
            }
        }
        assert_eq!(bound, room, "{global} {own:?}");
        let (rows, _) = call(server, &local(), "policy show", json!({ "jid": ALICE })).await;
        let row = rows.iter().find(|row| row["key"] == "max_sessions").expect("is shown");
        let from = if own.is_some() { "account" } else { "configuration" };
        let value = own.map_or(global, |own| own.parse().expect("a number"));
        assert_eq!((&row["value"], row["from"].as_str()), (&json!(value), Some(from)));
    }
}

#[tokio::test]
async fn iv_13_who_is_displaced_gets_a_conflict_and_is_told_why() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let set = json!({ "jid": ALICE, "max-sessions": "1", "at-limit": "displace-oldest" });
    call(server, &local(), "policy set", set).await;
    let mut old = world.bound("alice", "old").await;
    let new = world.bound("alice", "new").await;
    old.expect(
        "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>…\
         <ended xmlns='urn:usher:session:0' reason='displaced' by='server'/></stream:error>",
    )
    .await;
    assert_eq!(server.registry.bound(ALICE).len(), 1);
    let refuse = json!({ "jid": ALICE, "at-limit": "refuse" });
    call(server, &local(), "policy set", refuse).await;
    assert!(one_more(server, "more").await.expect_err("no room").contains("ResourceConstraint"));
    drop(new);
}

#[tokio::test]
async fn iv_13_groups_count_in_their_order_and_unknown_ones_are_named_with_the_nearest() {
    let world = World::start(|config| {
        let group = |name: &str, max| Group {
            name: name.into(),
            policy: Policy { max_sessions: Some(max), ..Policy::default() },
        };
        config.group = vec![group("staff", 5), group("kiosk", 2)];
        config.sessions.max_sessions = 9;
    });
    let world = world.await;
    world.account("alice").await;
    let server = &world.server;
    let shown = async || {
        let (rows, _) = call(server, &local(), "policy show", json!({ "jid": ALICE })).await;
        let row = rows.into_iter().find(|row| row["key"] == "max_sessions").expect("is shown");
        (row["value"].as_u64(), row["from"].as_str().map(str::to_owned))
    };
    let said = |value, from: &str| (Some(value), Some(from.to_owned()));
    assert_eq!(shown().await, said(9, "configuration"));
    for (groups, value, from) in [
        (json!(["kiosk", "staff"]), 2, "group kiosk"),
        (json!(["staff", "kiosk"]), 5, "group staff"),
        (json!([]), 9, "configuration"),
    ] {
        call(server, &local(), "user group", json!({ "jid": ALICE, "group": groups })).await;
        assert_eq!(shown().await, said(value, from));
    }
    let slip = json!({ "jid": ALICE, "group": ["staf"] });
    let why = refused(server, &local(), "user group", slip).await;
    assert!(why.usage && why.hint.contains("`staff`"), "{why:?}");
    let other = json!({ "jid": ALICE, "group": ["elsewhere"] });
    assert!(refused(server, &local(), "user group", other).await.hint.contains("[[group]]"));
    for bad in [
        json!({ "jid": ALICE }),
        json!({ "jid": ALICE, "max-sessions": "5000000000" }),
        json!({ "jid": ALICE, "at-limit": "maybe" }),
    ] {
        assert!(refused(server, &local(), "policy set", bad).await.usage);
    }
}

#[tokio::test]
async fn lj_33_iv_22_whoami_tells_what_is_left_and_it_counts_down() {
    let world = World::start(|config| {
        config.sessions.inactivity = Span::seconds(600);
        config.sessions.lifetime = Span::seconds(3_600);
    });
    let world = world.await;
    add(&world, "alice", Role::Viewer).await;
    let server = &world.server;
    let session = visit(server, ALICE, "phone").await;
    let caller = as_session(server, &session).await;
    let args = json!({ "client": client_of(&session), "class": "short", "bind-to": "127.0.0.0/8" });
    call(server, &caller, "client set", args).await;
    for passed in [0, 1, 59] {
        world.clock.advance(passed * 1_000);
        let (rows, _) = call(server, &caller, "whoami", json!({})).await;
        let gone = world.clock.now().seconds_since(session.created);
        let row = &rows[0];
        assert_eq!(row["idle_left"], json!(600 - gone));
        assert_eq!(row["lifetime_left"], json!(3_600 - gone));
        assert_eq!(row["credential_left"], json!(36 * 3_600 - gone));
        assert_eq!((&row["class"], &row["bound_to"]), (&json!("short"), &json!("127.0.0.0/8")));
        assert_eq!((&row["jid"], &row["sid"]), (&json!("alice@localhost/phone"), &json!(1)));
        assert_eq!((&row["role"], &row["via"]), (&json!("viewer"), &json!("session")));
        assert_eq!(row["client"], json!(client_of(&session)));
    }
    let before = server.audit_tail(9).await.expect("is read").len();
    call(server, &caller, "whoami", json!({})).await;
    assert_eq!(server.audit_tail(9).await.expect("is read").len(), before, "nobody's business");
    let (rows, done) = call(server, &local(), "whoami", json!({})).await;
    assert!(done.message.contains("admin socket"), "{done:?}");
    assert_eq!(rows[0]["name"], "uid:0");
}

#[tokio::test]
async fn lj_08_ro_07_all_of_an_account_is_revoked_with_the_clients_that_are_away() {
    let world = World::start(|_| {}).await;
    let (alice, bob) = (world.account("alice").await, world.account("bob").await);
    let server = &world.server;
    let (_, away) = world.token(&alice, None).await;
    let (_, other) = world.token(&bob, None).await;
    let phone = visit(server, ALICE, "phone").await;
    let revoke = |more: Value| {
        let mut args = json!({ "selector": [ALICE], "level": "revoke" });
        let more = more.as_object().cloned().unwrap_or_default();
        args.as_object_mut().expect("an object").extend(more);
        args
    };
    let good = async |token: &str| token_visit(server, token).await.is_ok();
    // Whoever describes sessions means those, and a dry run does nothing.
    let desk = visit(server, ALICE, "desk").await;
    let except = phone.id.to_string();
    for more in [json!({ "dry-run": true }), json!({ "stage": "bound", "except": except })] {
        call(server, &local(), "session end", revoke(more)).await;
    }
    assert!(phone.alive() && !desk.alive() && good(&away).await);
    call(server, &local(), "session end", json!({ "selector": [ALICE] })).await;
    assert!(!phone.alive() && good(&away).await, "its level is less");

    // One that has only just come has no say over those that were there before it.
    let young = visit(server, ALICE, "young").await;
    let caller = as_session(server, &young).await;
    call(server, &caller, "session end", revoke(json!({}))).await;
    assert!(good(&away).await, "it is older");

    call(server, &local(), "session end", revoke(json!({}))).await;
    assert!(!good(&away).await && good(&other).await);
    let over = |clients: &[server::client::Client]| clients.iter().all(|c| c.over.is_some());
    assert!(over(&clients(server, &alice).await) && !over(&clients(server, &bob).await));
}
