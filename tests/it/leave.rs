//! Accounts that go, now or with grace, and accounts that go by another name.

use std::sync::Arc;

use serde_json::{Value, json};
use server::{
    Server,
    account::Role,
    clock::Clock,
    command::{self, Reply},
    config::{Span, Who},
    end::{Actor, Reason},
    keyring::KeyRing,
    vault::Mint,
};

use crate::{
    clients::{bound_by, clients, token_visit, visit},
    rights::{acting, add, forbidden, local, run},
    world::{PASSWORD, ParseJid, ROSTER, START, World, admin, assert_eventually, enter, tended},
};

const ALICE: &str = "alice@localhost";
const DAY: u64 = 86_400_000;

async fn done(server: &Arc<Server>, name: &str, args: Value) -> command::Done {
    let (_, done) = run(server, &local(), name, args.clone()).await;
    done.unwrap_or_else(|why| panic!("{name} {args}: {why:?}"))
}

async fn refused(server: &Arc<Server>, name: &str, args: Value) -> command::CommandError {
    run(server, &local(), name, args).await.1.expect_err(name)
}

/// Whether the password lets in.
async fn lets_in(world: &World, jid: &str) -> bool {
    enter(&world.server, &tended(&world.server), jid).await
}

fn reason(session: &server::Session) -> Option<Reason> {
    session.end_record().map(|record| record.reason)
}

#[tokio::test]
async fn pr_24_an_account_that_is_deleted_with_grace_is_disabled_now_and_gone_later() {
    let (store, keys) = (store::memory(), tempfile::tempdir().expect("a directory"));
    let keys = || KeyRing::open(&keys.path().join("server.key")).expect("keys");
    let clock = Clock::manual(START);
    let start = async || {
        World::start_keyed(store.clone(), keys(), clock.clone(), plugins::ALL, |_| {}).await
    };
    let world = start().await;
    let alice = world.account("alice").await;
    let (_, token) = world.token(&alice, None).await;
    let session = visit(&world.server, ALICE, "phone").await;
    let asked = json!({ "jid": ALICE, "grace": "7d" });
    let answer = done(&world.server, "user delete", asked.clone()).await;
    assert_eq!(answer.fields["ended"], 1);
    assert_eq!(answer.fields["at"], START.plus_seconds(7 * 86_400).to_string());
    assert_eq!(reason(&session), Some(Reason::AccountDeleted));
    assert!(!lets_in(&world, ALICE).await && token_visit(&world.server, &token).await.is_err());
    let (rows, _) = run(&world.server, &local(), "user show", json!({ "jid": ALICE })).await;
    assert_eq!((&rows[0]["enabled"], &rows[0]["deletion"]), (&json!(false), &answer.fields["at"]));
    // Twice is once, and to enable is not to restore.
    refused(&world.server, "user delete", asked).await;
    let enable = refused(&world.server, "user enable", json!({ "jid": ALICE })).await;
    assert!(enable.hint.contains("user restore"), "{enable:?}");
    drop(world);

    // Across a restart, not a moment too early.
    let world = start().await;
    world.clock.advance(7 * DAY - 1);
    assert_eq!(world.server.run_due().await, Ok(0));
    assert!(world.server.account(ALICE).await.expect("is read").is_some());
    world.clock.advance(1);
    assert_eq!(world.server.run_due().await, Ok(1));
    assert!(world.server.account(ALICE).await.expect("is read").is_none());
    assert!(world.server.planned().await.expect("are read").is_empty());
    let again = world.account("alice").await;
    assert!(again.id != alice.id && clients(&world.server, &again).await.is_empty());
}

#[tokio::test]
async fn pr_24_a_deletion_that_is_taken_back_leaves_all_as_it_was() {
    for disabled in [false, true] {
        let world = World::start(|_| {}).await;
        let alice = world.account("alice").await;
        let server = &world.server;
        let (_, token) = world.token(&alice, None).await;
        if disabled {
            done(server, "user disable", json!({ "jid": ALICE })).await;
        }
        done(server, "user delete", json!({ "jid": ALICE, "grace": "7d" })).await;
        world.clock.advance(3 * DAY);
        let restored = done(server, "user restore", json!({ "jid": ALICE })).await;
        assert_eq!(restored.fields["enabled"], !disabled);
        assert_eq!(lets_in(&world, ALICE).await, !disabled);
        assert_eq!(token_visit(server, &token).await.is_ok(), !disabled);
        assert!(server.planned().await.expect("are read").is_empty());
        world.clock.advance(30 * DAY);
        assert_eq!(server.run_due().await, Ok(0));
        assert!(server.account(ALICE).await.expect("is read").is_some());
        assert!(!done(server, "user restore", json!({ "jid": ALICE })).await.matched);
    }
    // Who is disabled meanwhile stays so.
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    done(&world.server, "user delete", json!({ "jid": ALICE, "grace": "7d" })).await;
    done(&world.server, "user disable", json!({ "jid": ALICE })).await;
    done(&world.server, "user restore", json!({ "jid": ALICE })).await;
    assert!(!lets_in(&world, ALICE).await);
}

#[tokio::test]
async fn pr_24_what_is_left_in_the_schedule_deletes_nobody_else() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    done(server, "user delete", json!({ "jid": ALICE, "grace": "7d" })).await;
    // As if the server had died between taking it back and striking it out; and one of another age.
    let jid = ALICE.parse_jid();
    let planned = server.planned().await.expect("are read").remove(0);
    done(server, "user restore", json!({ "jid": ALICE })).await;
    server
        .plan(planned.at, &planned.what, planned.args.clone(), &local(), false)
        .await
        .expect("planned");
    world.clock.advance(7 * DAY);
    assert_eq!(server.run_due().await, Ok(1));
    assert!(server.account(ALICE).await.expect("is read").is_some(), "it was taken back");
    server.delete_account(&jid, admin()).await.expect("is there");
    world.account("alice").await;
    done(server, "user delete", json!({ "jid": ALICE, "grace": "9d" })).await;
    server.plan(planned.at, &planned.what, planned.args, &local(), false).await.expect("planned");
    assert_eq!(server.run_due().await, Ok(1));
    assert!(server.account(ALICE).await.expect("is read").is_some(), "its own time has not come");
    // Without grace it goes at once, and the plan with it.
    done(server, "user delete", json!({ "jid": ALICE })).await;
    assert!(server.account(ALICE).await.expect("is read").is_none());
    assert!(server.planned().await.expect("are read").is_empty());
}

#[tokio::test]
async fn pr_24_who_deletes_the_own_account_hears_the_answer_before_its_session_ends() {
    let world = World::start(|_| {}).await;
    add(&world, "root", Role::Admin).await;
    let server = &world.server;
    let (asks, other) =
        (visit(server, "root@localhost", "a").await, visit(server, "root@localhost", "b").await);
    let caller = server.caller_of(&asks).await.expect("is there");
    let args = json!({ "jid": "root@localhost", "grace": "1d" });
    let args = args.as_object().expect("arguments").clone();
    let (sender, mut replies) = tokio::sync::mpsc::channel(1);
    let running =
        tokio::spawn(command::run(server.clone(), caller.clone(), "user delete", args, sender));
    match replies.recv().await {
        Some(Reply::Done(done)) => assert_eq!(done.fields["ended"], 2, "{done:?}"),
        other => panic!("{other:?}"),
    }
    assert!(asks.alive() && !other.alive());
    // It is heard, and nothing else can be done from there.
    assert!(forbidden(&run(server, &caller, "user list", json!({})).await));
    drop(replies);
    running.await.expect("does not panic");
    assert_eq!(reason(&asks), Some(Reason::AccountDeleted));
    // Nobody has to be there to see it through.
    world.clock.advance(DAY);
    assert_eq!(server.run_due().await, Ok(1));
    assert!(server.account("root@localhost").await.expect("is read").is_none());
}

#[tokio::test]
async fn ro_18_an_account_that_is_renamed_keeps_what_it_has_and_the_old_name_is_refused() {
    let world = World::start(|_| {}).await;
    let alice = add(&world, "alice", Role::Support).await;
    world.account("bob").await;
    let server = &world.server;
    let (_, token) = world.token(&alice, None).await;
    let mut old = world.bound("alice", "phone").await;
    old.send(
        "<iq type='set' id='s'><query xmlns='jabber:iq:roster'>\
         <item jid='carol@localhost' name='Carol'/></query></iq>",
    )
    .await;
    old.expect("<iq type='result' id='s' …/>").await;
    let by_token = bound_by(server, &token).await;
    let unbound = visit_unbound(&world).await;
    let (task, caller) = (server.clone(), local());
    let renaming = tokio::spawn(async move {
        let args = json!({ "jid": ALICE, "new": "Alina@localhost" });
        run(&task, &caller, "user rename", args).await.1
    });
    old.expect(
        "<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
         <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>This account has another \
         name now; log in with that</text>\
         <ended xmlns='urn:usher:session:0' reason='renamed' by='admin'/></stream:error>",
    )
    .await;
    drop(old);
    let answer = renaming.await.expect("does not panic").expect("is done");
    assert_eq!(
        (&answer.fields["jid"], &answer.fields["ended"]),
        (&json!("alina@localhost"), &json!(3))
    );
    assert!([&by_token, &unbound].iter().all(|session| reason(session) == Some(Reason::Renamed)));
    assert!(server.registry.of(ALICE).is_empty());

    let mut late = world.connect().await;
    assert!(late.try_login("alice", PASSWORD).await.is_err(), "there is no such account");
    assert!(token_visit(server, &token).await.is_err());
    // The same account: id, role, password, roster, client.
    let alina = server.account("alina@localhost").await.expect("is read").expect("is there");
    assert_eq!((alina.id, alina.role), (alice.id, Role::Support));
    let mut new = world.bound("alina", "phone").await;
    new.send(ROSTER).await;
    new.expect(
        "<iq type='result' id='roster' …><query xmlns='jabber:iq:roster' …>\
         <item jid='carol@localhost' name='Carol' subscription='none'/></query></iq>",
    )
    .await;
    let known = clients(server, &alina).await;
    assert!(known.iter().all(|client| client.jid == "alina@localhost"), "{known:?}");
    assert_eq!(known.len(), 2);
    let session = world.session("alina@localhost/phone");
    let client = session.identity().and_then(|me| me.client()).expect("is known");
    assert_eq!(client.id, known[1].id, "it is known again");
    // What is done to the client still reaches its sessions.
    let over = server::client::Over::Revoked;
    let (_, ended) = server.end_client(&known[1], over, &admin(), None).await.expect("is stored");
    assert_eq!(ended.len(), 1);
    // The owner finds it in the audit.
    let found = server.audit_of(alice.id, 10).await.expect("is read");
    assert!(found.iter().any(|entry| entry.what == "user rename"), "{found:?}");
}

async fn visit_unbound(world: &World) -> Arc<server::Session> {
    let session = tended(&world.server);
    assert!(enter(&world.server, &session, ALICE).await);
    session
}

#[tokio::test]
async fn ro_18_messages_that_waited_for_the_old_name_come_to_the_new_one() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    world.account("bob").await;
    let mut bob = world.client("bob").await;
    bob.send("<message to='alice@localhost' type='chat' id='1'><body>old</body></message>").await;
    bob.settle().await;
    let args = json!({ "jid": ALICE, "new": "alina@localhost" });
    done(&world.server, "user rename", args).await;
    let mut alina = world.client("alina").await;
    alina.send("<presence/>").await;
    alina.expect("<presence from='alina@localhost/r' …/>").await;
    alina.expect("<message from='bob@localhost/r' id='1' …><body>old</body>…</message>").await;
    bob.send("<message to='alice@localhost' type='chat' id='2'><body>x</body></message>").await;
    bob.expect("<message type='error' id='2' …>…</message>").await;
}

#[tokio::test]
async fn ro_18_the_grants_of_a_renamed_account_are_void_unless_the_configuration_says_otherwise() {
    for who in [Who::Others, Who::All, Who::Nobody] {
        let world = World::start(|config| config.on.rename = who).await;
        let alice = world.account("alice").await;
        let server = &world.server;
        let mint = Mint::login(Role::User, "test");
        let (found, text) = server.mint(&alice, mint).await.expect("is stored");
        let args = json!({ "jid": ALICE, "new": "alina@localhost" });
        done(server, "user rename", args).await;
        let alina = server.account("alina@localhost").await.expect("is read").expect("is there");
        // It names its owner: by the old text nobody comes in.
        let refused = token_visit(server, &text.to_text()).await.expect_err("is refused");
        assert_eq!(refused.failure.as_str(), "not-authorized");
        let rotated = server.rotate_token(&alina, found.token.id, "test").await;
        match (who, rotated) {
            (Who::Nobody, Ok((_, text))) => {
                let session = bound_by(server, &text.to_text()).await;
                assert!(session.jid().is_some_and(|jid| jid.bare_str() == "alina@localhost"));
            }
            (Who::All | Who::Others, Err(server::vault::MintError::Over(_))) => {}
            (_, other) => panic!("{who:?}: {:?}", other.map(|(found, _)| found)),
        }
    }
}

#[tokio::test]
async fn ro_18_a_former_name_is_nobody_elses() {
    let world = World::start(|config| config.clients.fresh = Span::OFF).await;
    let alice = world.account("alice").await;
    world.account("bob").await;
    add(&world, "support", Role::Support).await;
    let server = &world.server;
    let rename = |old: &str, new: &str| json!({ "jid": old, "new": new });
    for wrong in [
        rename(ALICE, "bob@localhost"),
        rename(ALICE, ALICE),
        rename(ALICE, "alina@elsewhere"),
        rename(ALICE, "alina@localhost/r"),
        rename("nobody@localhost", "alina@localhost"),
    ] {
        refused(server, "user rename", wrong.clone()).await;
        assert!(lets_in(&world, ALICE).await, "{wrong}: nothing has changed");
    }
    let support = acting(&world, "support").await;
    let args = rename(ALICE, "alina@localhost");
    assert!(forbidden(&run(server, &support, "user rename", args.clone()).await));
    done(server, "user rename", args).await;
    let taken = json!({ "jid": ALICE, "password": "x" });
    assert!(refused(server, "user add", taken).await.message.contains("kept back"));
    refused(server, "user rename", rename("bob@localhost", ALICE)).await;
    // Whoever had it may have it back, and the one in between is kept back then.
    done(server, "user rename", rename("alina@localhost", ALICE)).await;
    let back = server.account(ALICE).await.expect("is read").expect("is there");
    assert_eq!(back.id, alice.id);
    refused(server, "user rename", rename("bob@localhost", "alina@localhost")).await;
    // One that is to be deleted has no other name until that is taken back.
    done(server, "user delete", json!({ "jid": ALICE, "grace": "1d" })).await;
    refused(server, "user rename", rename(ALICE, "alina@localhost")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ro_18_nobody_slips_in_by_the_old_name() {
    let world = World::start(|config| config.clients.per_account = 1_000).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let names = [ALICE.parse_jid(), "alina@localhost".parse_jid()];
    for round in 0..60 {
        let (old, new) = (&names[round % 2], &names[(round + 1) % 2]);
        let mut logins = Vec::new();
        for login in 0..4 {
            let (server, old) = (server.clone(), old.clone());
            logins.push(tokio::spawn(async move {
                for _ in 0..(round + login) % 7 {
                    tokio::task::yield_now().await;
                }
                let session = tended(&server);
                if enter(&server, &session, old.as_str()).await {
                    let _ = server.bind(&session, Some(&format!("r{round}.{login}"))).await;
                } else {
                    server.end(&session, server::end::End::peer(Reason::Closed));
                }
            }));
        }
        server.rename_account(old, new, Actor::Server).await.expect("is renamed");
        for login in logins {
            login.await.expect("does not panic");
        }
        let left = server.registry.of(old.as_str());
        assert!(left.is_empty(), "round {round}: {left:?}");
        let known = server.clients_of(account.id, None, 0).await.expect("are read");
        let stale: Vec<_> = known.iter().filter(|client| client.jid != new.as_str()).collect();
        assert!(stale.is_empty(), "round {round}: {stale:?}");
    }
    assert_eventually("all are gone", || server.registry.counts().total == 0).await;
}
