//! What becomes of sessions, clients and tokens by what is asked by LiveJournal's protocol.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use server::{
    Server,
    account::Role,
    clock::Clock,
    config::Config,
    id::AccountId,
    keyring::KeyRing,
    store::SharedStore,
    vault::{LJ, LJ_APP, LJ_SCOPES, Mint},
};

use super::program::{BOTH, Program, Transport};
use crate::{
    stores::{Between, Disk, refuse},
    world::{PASSWORD, START, World},
};

const ALICE: &str = "alice@localhost";
const PROOF: [(&str, &str); 2] = [("user", "alice"), ("password", PASSWORD)];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&PROOF, more].concat()
}

async fn world() -> World {
    let world = World::start(|config| config.lj.enabled = true).await;
    world.account("alice").await;
    world.account("bob").await;
    world
}

async fn app_token(server: &Arc<Server>) -> wire::Token {
    let account = server.account(ALICE).await.expect("is read").expect("is there");
    let purpose = LJ_APP.into();
    let mint = Mint { purpose, scopes: Some(LJ_SCOPES), ..Mint::login(Role::Admin, "test") };
    let (_, token) = server.mint(&account, mint).await.expect("is stored");
    token
}

async fn app_password(server: &Arc<Server>) -> String {
    app_token(server).await.secret.expose_str().expect("is text").to_owned()
}

async fn account(server: &Arc<Server>) -> AccountId {
    server.account(ALICE).await.expect("is read").expect("is there").id
}

#[tokio::test]
async fn lj_08_all_end_those_here_those_that_hibernate_those_never_here_and_the_caller() {
    for transport in BOTH {
        let world = world().await;
        let server = &world.server;
        let program = Program::new(server, transport);
        let mut here = Vec::new();
        for resource in ["desk", "phone", "tablet"] {
            here.push(world.bound("alice", resource).await);
        }
        let (asleep, stream) = world.asleep("alice", "laptop").await;
        let account = server.account(ALICE).await.expect("is read").expect("is there");
        let (_, never_here) = world.token(&account, None).await;
        let bob = world.bound("bob", "desk").await;

        let said = program.ask("sessionexpire", &with(&[("expireall", "1")])).await;
        assert!(said.is_ok(), "{said:?}");
        for client in &mut here {
            let error = client.element().await;
            assert!(error.contains("revoked"), "{error}");
        }
        assert!(server.registry.of(ALICE).is_empty() && !asleep.alive(), "{transport:?}");
        let (_, answer) = world.try_to_resume("alice", &stream, 0).await;
        assert!(answer.contains("failed"), "{answer}");
        let refused = world.secure().await.login_with(&never_here).await;
        assert!(refused.contains("credentials-expired"), "{refused}");
        assert!(world.session("bob@localhost/desk").alive());
        drop(bob);
    }
}

#[tokio::test]
async fn lj_09_lj_11_a_session_ends_by_its_number_and_nobody_else_s_does() {
    for transport in BOTH {
        let world = world().await;
        let program = Program::new(&world.server, transport);
        let _alice = [world.bound("alice", "a").await, world.bound("alice", "b").await];
        let _bob = [world.bound("bob", "a").await, world.bound("bob", "b").await];
        let two = with(&[("expire", "[2]"), ("verbose", "1")]);
        let said = program.ask("sessionexpire", &two).await;
        assert_eq!(said.field("outcome_2"), "ended");
        let there = |jid: &str| world.server.registry.full(&jid.parse().expect("a JID")).is_some();
        assert!(there("alice@localhost/a") && !there("alice@localhost/b"));
        assert!(there("bob@localhost/a") && there("bob@localhost/b"));
    }
}

fn on(store: SharedStore, keys: KeyRing) -> Arc<Server> {
    let mut config = Config::default();
    config.auth.scram_iterations = 2;
    config.lj.enabled = true;
    let server = Server::new(config, Clock::manual(START), store, keys, plugins::ALL);
    server.expect("is put together")
}

/// A server whose store can be told to take nothing.
async fn fallible() -> (Arc<Server>, Arc<AtomicBool>) {
    let (store, broken): (SharedStore, _) = (store::memory(), Arc::new(AtomicBool::new(false)));
    let out = broken.clone();
    let store = Between::new(store, move |store, batch| match out.load(Ordering::SeqCst) {
        true => refuse("it is out of reach"),
        false => store.commit(batch),
    });
    let server = on(store, KeyRing::ephemeral());
    let keys = server.keys_of(wire::Secret::new(PASSWORD)).await.expect("a password");
    server.add_account(&ALICE.parse().expect("a JID"), keys, Role::User).await.expect("is new");
    (server, broken)
}

#[tokio::test]
async fn lj_12_when_nothing_can_be_written_it_says_so_and_nothing_has_ended() {
    for transport in BOTH {
        let (server, broken) = fallible().await;
        let program = Program::new(&server, transport);
        let made = program.ask("sessiongenerate", &PROOF).await;
        let session = made.field("ljsession").to_owned();
        broken.store(true, Ordering::SeqCst);
        for args in [with(&[("expireall", "1")]), with(&[("expire", "[1]")])] {
            assert_eq!(program.ask("sessionexpire", &args).await.number(), 502, "{args:?}");
        }
        assert_eq!(program.ask("sessiongenerate", &PROOF).await.number(), 502);
        broken.store(false, Ordering::SeqCst);
        let visitor = Program { cookies: vec![session], ..program };
        let cookie = [("user", "alice"), ("auth_method", "cookie")];
        assert_eq!(visitor.ask("checksession", &cookie).await.field("session"), "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lj_05_of_a_hundred_who_use_a_challenge_at_once_one_gets_in() {
    let world = world().await;
    let password = app_password(&world.server).await;
    for transport in BOTH {
        let program = Program::new(&world.server, transport);
        let challenge = program.ask("getchallenge", &[]).await.field("challenge").to_owned();
        let response = super::transcript::c0(&challenge, &password);
        let tries = (0..100).map(|_| {
            let (program, challenge, response) =
                (program.clone(), challenge.clone(), response.clone());
            tokio::spawn(async move {
                let args = [
                    ("user", "alice"),
                    ("auth_method", "challenge"),
                    ("auth_challenge", &*challenge),
                    ("auth_response", &*response),
                ];
                program.ask("sessiongenerate", &args).await
            })
        });
        let mut entered = 0;
        for one in tries.collect::<Vec<_>>() {
            let said = one.await.expect("does not panic");
            match said.is_ok() {
                true => entered += 1,
                false => assert_eq!(said.number(), 101),
            }
        }
        assert_eq!(entered, 1, "{transport:?}");
    }
}

#[tokio::test]
async fn lj_14_lj_31_what_was_made_is_listed_and_good_for_nothing_else() {
    let world = world().await;
    let server = &world.server;
    let program = Program::new(server, Transport::Flat);
    let session = program.ask("sessiongenerate", &PROOF).await.field("ljsession").to_owned();
    let clients = server.clients_of(account(server).await, None, 0).await.expect("are read");
    let [client] = &clients[..] else { panic!("{clients:?}") };
    let token = &client.grants[0].tokens[0];
    assert_eq!((client.sid, &*token.purpose, token.scopes), (1, LJ, Some(LJ_SCOPES)));
    assert!(session.starts_with("ws:alice:1:"));
    // The same secret as a token of the usual text.
    let auth = session.rsplit(':').next().expect("four parts");
    let bytes = data(auth);
    let native = wire::Token {
        id: wire::TokenId(u64::from_be_bytes(bytes[..8].try_into().expect("eight"))),
        secret: wire::Secret::new(&bytes[8..]),
        owner: ALICE.parse().expect("a JID"),
    };
    let native = native.to_text().to_string();
    let refused = world.secure().await.login_with(&native).await;
    assert!(refused.contains("not-authorized"), "{refused}");
    let why = server.bearer(program.peer.address, &native).await.expect_err("is for another door");
    assert!(matches!(why, server::bearer::NotBorne::Purpose(_)), "{why:?}");
    // Neither is an application password.
    let app = app_token(server).await.to_text().to_string();
    let refused = world.secure().await.login_with(&app).await;
    assert!(refused.contains("not-authorized"), "{refused}");
    assert!(server.bearer(program.peer.address, &app).await.is_err());
}

fn data(text: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("is base64")
}

#[tokio::test]
async fn lj_15_the_disk_has_nothing_that_opens_a_session_or_makes_an_application_password() {
    let disk = Disk::new();
    let server = on(disk.store.clone(), disk.keys());
    let keys = server.keys_of(wire::Secret::new(PASSWORD)).await.expect("a password");
    server.add_account(&ALICE.parse().expect("a JID"), keys, Role::User).await.expect("is new");
    let program = Program::new(&server, Transport::Flat);
    let session = program.ask("sessiongenerate", &PROOF).await.field("ljsession").to_owned();
    let app = app_password(&server).await;
    let clients = server.clients_of(account(&server).await, None, 0).await.expect("are read");
    let stored = serde_json::to_string(&clients).expect("is JSON");
    let secret = &data(session.rsplit(':').next().expect("four parts"))[8..];
    let texts = [
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret),
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, secret),
        app.clone(),
        super::transcript::md5_hex(app.as_bytes()),
    ];
    for text in &texts {
        assert!(!stored.contains(text), "{stored}");
    }
    drop((server, program));
    // With another key, what is stored is good for nothing; with the one it was made with, it is.
    for (keys, good) in [(disk.keys(), true), (KeyRing::ephemeral(), false)] {
        let server = on(disk.store.clone(), keys);
        let program = Program::new(&server, Transport::Flat);
        let visitor = Program { cookies: vec![session.clone()], ..program.clone() };
        let cookie = [("user", "alice"), ("auth_method", "cookie")];
        assert_eq!(visitor.ask("checksession", &cookie).await.is_ok(), good);
        let proof = [("user", "alice"), ("password", &*app)];
        assert_eq!(program.ask("login", &proof).await.is_ok(), good);
    }
}

#[tokio::test]
async fn lj_22_lj_33_whatever_is_wrong_with_a_session_the_answer_is_one_and_no_answer_has_a_secret()
{
    for transport in BOTH {
        let world = world().await;
        let program = Program::new(&world.server, transport);
        let mut made = Vec::new();
        for more in [&[][..], &[("ipfixed", "1")], &[("expiration", "once")], &[]] {
            let said = program.ask("sessiongenerate", &with(more)).await;
            made.push(said.field("ljsession").to_owned());
        }
        let [good, bound, once, ended] = &made[..] else { panic!("{made:?}") };
        let visitor = |cookie: &str| Program { cookies: vec![cookie.into()], ..program.clone() };
        let look = async |program: &Program, user: &str| {
            let args = [("user", user), ("auth_method", "cookie")];
            program.ask("checksession", &args).await
        };
        let shown = look(&visitor(good), "alice").await;
        let secret = good.rsplit(':').next().expect("four parts");
        assert!(shown.is_ok() && !format!("{shown:?}").contains(secret), "{shown:?}");

        let end = program.ask("sessionexpire", &with(&[("expire", "[4]")])).await;
        assert!(end.is_ok(), "{end:?}");
        world.clock.advance(7_200_000);
        let mut changed = good.clone();
        let place = changed.len() - 5;
        let other = if changed.as_bytes()[place] == b'A' { "B" } else { "A" };
        changed.replace_range(place..=place, other);
        let renumbered = good.replace(":1:", ":2:");
        let elsewhere = visitor(bound).from("198.51.100.9");
        let mut answers = vec![look(&visitor(good), "bob").await];
        for one in [&visitor("ws:alice:1:x"), &visitor(&renumbered), &elsewhere]
            .into_iter()
            .chain([&visitor(once), &visitor(ended), &visitor(&changed)])
        {
            answers.push(look(one, "alice").await);
        }
        for answer in &answers {
            assert_eq!(answer.number(), 101, "{answers:?}");
            assert_eq!(answer, &answers[0], "{answers:?}");
        }
        for cookie in [good, bound] {
            assert!(look(&visitor(cookie), "alice").await.is_ok(), "nothing of it has ended");
        }
    }
}

#[tokio::test]
async fn lj_32_a_flood_is_refused_and_the_end_of_all_is_not() {
    let world = World::start(|config| {
        config.lj.enabled = true;
        config.commands.changes = 2;
    });
    let world = world.await;
    world.account("alice").await;
    let program = Program::new(&world.server, Transport::XmlRpc);
    for _ in 0..2 {
        assert!(program.ask("sessiongenerate", &PROOF).await.is_ok());
    }
    assert_eq!(program.ask("sessiongenerate", &PROOF).await.number(), 402);
    assert_eq!(program.ask("sessionexpire", &with(&[("expire", "[1]")])).await.number(), 402);
    let all = program.ask("sessionexpire", &with(&[("expireall", "1")])).await;
    assert!(all.is_ok(), "{all:?}");
    let clients = world.server.clients_of(account(&world.server).await, None, 0).await;
    assert!(clients.expect("are read").iter().all(|client| client.over.is_some()));
}

#[tokio::test]
async fn a_key_that_is_retired_takes_its_application_passwords_along_and_using_them_moves_none() {
    let world = world().await;
    let keys = &world.server.keys;
    let program = Program::new(&world.server, Transport::Flat);
    let old = app_password(&world.server).await;
    let asks = async |password: &str| {
        program.ask("login", &[("user", "alice"), ("password", password)]).await.is_ok()
    };
    keys.rotate().expect("is kept nowhere");
    let new = app_password(&world.server).await;
    for _ in 0..2 {
        assert!(asks(&old).await && asks(&new).await);
    }
    keys.retire(1).expect("is kept nowhere").expect("is there");
    assert!(!asks(&old).await && asks(&new).await);
}

#[tokio::test]
async fn it_is_not_there_unless_it_is_turned_on() {
    let world = World::start(|_| {}).await;
    let (_, stop) = tokio::sync::watch::channel(false);
    let router = admin::http::router(&world.server, stop);
    for path in [super::program::FLAT, super::program::XMLRPC] {
        let request = axum::http::Request::post(path).body(axum::body::Body::empty());
        let request = request.expect("a request");
        let answer = tower::ServiceExt::oneshot(router.clone(), request).await.expect("an answer");
        assert_eq!(answer.status(), 404, "{path}");
    }
}
