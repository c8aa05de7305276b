//! The cases by which Rodauth specifies its active sessions, played again with what logs in here. A
//! captured session id is a token here, logging out is an end of level `revoke`, and the login that
//! needs nothing captured is the password's.

use std::{fs, sync::Arc};

use serde_json::json;
use server::{
    Server, Session,
    account::{Account, Role},
    change::Standing,
    client::book::CLIENTS,
    clock::Clock,
    config::{Config, Span, Who},
    end::{Actor, End, Reason},
    keyring::KeyRing,
    policy::AtLimit,
    store::{Batch, Range, SharedStore},
    vault::Mint,
};
use wire::{Secret, TokenId};

use crate::{
    clients::{clients, eventually, leave, token_visit, visit},
    dialogue::Chunks,
    rights::{local, run},
    world::{PASSWORD, ParseJid, Remote, START, World, admin, bind_request, enter, tended},
};

const ALICE: &str = "alice@localhost";

async fn mint(server: &Server, account: &Account) -> (TokenId, String) {
    let minted = server.mint(account, Mint::login(Role::User, "test")).await;
    let (found, token) = minted.expect("is stored");
    (found.token.id, token.to_text().to_string())
}

/// Logs out whoever came with this token, as `usher session end --token` does.
async fn log_out(server: &Arc<Server>, token: TokenId) {
    let args = json!({ "token": token.to_string(), "level": "revoke" });
    run(server, &local(), "session end", args).await.1.expect("is done");
}

/// A client over a socket that a token has let in, bound.
async fn by_token(world: &World, token: &str) -> Remote {
    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.open().await;
    assert!(client.login_with(token).await.starts_with("<success"));
    client.open().await;
    client.bind("r").await;
    client
}

/// Why a token opens nothing: the condition, and what is told beside it.
async fn denied(server: &Arc<Server>, token: &str) -> (&'static str, String) {
    let denied = token_visit(server, token).await.expect_err("is refused");
    let app = denied.app.unwrap_or_default();
    let reason = String::from_utf8_lossy(&app);
    let reason = reason.split(['\'', '"']).skip_while(|word| !word.ends_with("reason=")).nth(1);
    (denied.failure.as_str(), reason.unwrap_or_default().to_owned())
}

fn revoked() -> (&'static str, String) {
    ("credentials-expired", "revoked".to_owned())
}

#[tokio::test]
async fn ro_01_pr_07_b_12_nothing_that_opens_a_session_is_in_the_database() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store::sqlite(dir.path()).expect("opens");
    let world = World::start_on(store, Clock::manual(START), plugins::ALL, |_| {}).await;
    let password = "correct horse battery";
    let account = world.account_with(ALICE, password).await;
    let (_, text) = mint(&world.server, &account).await;
    leave(&world.server, &token_visit(&world.server, &text).await.expect("is valid")).await;
    world.server.store.close().await.expect("closes");
    let token = wire::Token::parse(&text).expect("a token");
    let secret = token.secret.expose();
    let forms = [
        secret.to_vec(),
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret).into_bytes(),
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, secret).into_bytes(),
        // The part of the text that is the secret's alone.
        text.as_bytes()[text.find(':').expect("has one") + 14..][..28].to_vec(),
        password.as_bytes().to_vec(),
    ];
    let mut looked_at = 0;
    for file in fs::read_dir(dir.path()).expect("a directory") {
        let bytes = fs::read(file.expect("an entry").path()).expect("is read");
        looked_at += bytes.len();
        for form in &forms {
            assert!(!bytes.windows(form.len()).any(|window| window == form), "{form:?}");
        }
    }
    assert!(looked_at > 10_000, "that was the database");
}

#[tokio::test]
async fn ro_02_ro_03_active_from_the_login_to_the_end_and_never_again() {
    // Twice, with either kind of login first.
    for token_first in [true, false] {
        let change = |config: &mut Config| config.sessions.close_wait = Span::seconds(0);
        let world = World::start(change).await;
        let account = world.account("alice").await;
        let server = &world.server;
        let (id, captured) = mint(server, &account).await;

        let mut nobody = world.connect().await;
        nobody.open().await;
        nobody.send(bind_request("r")).await;
        nobody.expect_error("not-authorized").await;

        let mut client = match token_first {
            true => by_token(&world, &captured).await,
            false => world.client("alice").await,
        };
        client.settle().await;
        let session = world.session("alice@localhost/r");
        if token_first {
            log_out(server, id).await;
        } else {
            let end = End { actor: admin(), ..End::new(Reason::Revoked) };
            server.end(&session, end);
            server.revoke_token(id, &admin(), None).await.expect("is stored");
        }
        client.expect_error("not-authorized").await;
        assert!(!session.alive() && server.registry.of(ALICE).is_empty());

        assert_eq!(denied(server, &captured).await, revoked());
        let (_, newer) = mint(server, &account).await;
        let again = token_visit(server, &newer).await.expect("a newer login is another one");
        assert_eq!(denied(server, &captured).await, revoked(), "the older one stays dead");
        assert!(again.alive());
        // One that is over is not revived by its own hand either.
        assert!(server.bind(&session, Some("r")).await.is_err());
    }
}

#[tokio::test]
async fn ro_04_going_away_is_not_logging_out() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (id, token) = mint(server, &account).await;
    for how in ["closed", "cut", "cut unbound"] {
        let session = token_visit(server, &token).await.expect("still good");
        match how {
            "closed" => leave(server, &session).await,
            "cut" => {
                server.bind(&session, None).await.expect("may bind");
                server.end(&session, End::peer(Reason::Lost));
            }
            _ => assert!(server.end(&session, End::peer(Reason::Lost))),
        }
    }
    let mut client = by_token(&world, &token).await;
    client.send("</stream:stream>").await;
    client.expect_close().await.expect("closes");
    let known = clients(server, &account).await;
    assert_eq!((known.len(), known[0].over.is_none()), (1, true), "one client all along");
    log_out(server, id).await;
    assert_eq!(denied(server, &token).await, revoked());
}

#[tokio::test]
async fn ro_05_what_was_ended_behind_its_back_fails_at_the_next_check() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (id, token) = mint(server, &account).await;
    let mut client = by_token(&world, &token).await;
    client.settle().await;
    server.revoke_token(id, &Actor::Server, None).await.expect("is stored");
    client.expect_error("not-authorized").await;

    // Even a row that is taken out by hand lets nobody in any more.
    let (_, token) = mint(server, &account).await;
    leave(server, &token_visit(server, &token).await.expect("is valid")).await;
    server.store.commit(Batch::new().delete_owner(&CLIENTS, account.id.0)).await.expect("is done");
    assert_eq!(denied(server, &token).await, ("not-authorized", String::new()));
}

#[tokio::test]
async fn ro_06_one_without_a_client_is_ended_as_well() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let session = tended(server);
    assert!(enter(server, &session, ALICE).await);
    assert!(session.identity().is_some_and(|me| me.client().is_none()), "not known yet");
    for level in ["kick", "revoke"] {
        let args = json!({ "selector": [ALICE], "level": level });
        let (rows, done) = run(server, &local(), "session end", args).await;
        let ended = usize::from(level == "kick");
        assert_eq!(
            (done.expect("is done").fields["ended"].clone(), rows.len()),
            (ended.into(), ended)
        );
    }
    assert!(!session.alive());
}

#[tokio::test]
async fn ro_07_ro_22_logging_out_takes_one_and_logging_out_everywhere_takes_all() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let bob = world.account("bob").await;
    let server = &world.server;
    let mut tokens = Vec::new();
    let mut sessions = Vec::new();
    for owner in [&account, &account, &account, &bob] {
        let (id, text) = mint(server, owner).await;
        sessions.push(token_visit(server, &text).await.expect("is valid"));
        tokens.push((id, text));
    }
    let password = visit(server, ALICE, "phone").await;
    log_out(server, tokens[0].0).await;
    let alive = |sessions: &[Arc<Session>]| sessions.iter().map(|s| s.alive()).collect::<Vec<_>>();
    assert_eq!(alive(&sessions), [false, true, true, true]);
    assert_eq!(denied(server, &tokens[0].1).await, revoked());
    leave(server, &token_visit(server, &tokens[1].1).await.expect("the second one is good")).await;

    let args = json!({ "selector": [ALICE], "level": "revoke" });
    run(server, &local(), "session end", args).await.1.expect("is done");
    assert_eq!(alive(&sessions), [false, false, false, true]);
    assert!(!password.alive() && server.registry.of(ALICE).is_empty());
    for (_, text) in &tokens[..3] {
        assert_eq!(denied(server, text).await, revoked());
    }
    leave(server, &token_visit(server, &tokens[3].1).await.expect("nobody else's")).await;
    leave(server, &visit(server, ALICE, "phone").await).await;
}

#[tokio::test]
async fn ro_08_ro_09_ro_10_the_clocks_of_what_was_captured() {
    const HOUR: u64 = 3_600_000;
    for (inactivity, lifetime) in [(true, true), (true, false), (false, true), (false, false)] {
        let world = World::start(|config| {
            config.clients.inactivity = if inactivity { Span::days(1) } else { Span::OFF };
            config.clients.lifetime = if lifetime { Span::days(30) } else { Span::OFF };
        })
        .await;
        let account = world.account("alice").await;
        let server = &world.server;
        let used = async |text: &str| {
            leave(server, &token_visit(server, text).await.expect("is good")).await;
            let now = world.clock.now();
            eventually(async || {
                let known = clients(server, &account).await;
                known.iter().any(|client| client.seen == Some(now)).then_some(())
            })
            .await;
        };
        let (_, left) = mint(server, &account).await;
        world.clock.advance(12 * HOUR);
        used(&left).await;
        let (_, kept) = mint(server, &account).await;
        world.clock.advance(12 * HOUR);
        used(&kept).await;
        world.clock.advance(24 * HOUR - 1);
        used(&kept).await;
        // The one that was left alone has not been used for two days.
        world.clock.advance(12 * HOUR + 1);
        match inactivity {
            true => assert_eq!(denied(server, &left).await.1, "inactive"),
            false => used(&left).await,
        }
        for _ in 0..55 {
            used(&kept).await;
            world.clock.advance(12 * HOUR);
        }
        used(&kept).await;
        world.clock.advance(12 * HOUR - 1);
        used(&kept).await;
        world.clock.advance(1);
        match lifetime {
            true => assert_eq!(denied(server, &kept).await.1, "expired"),
            false => assert!(token_visit(server, &kept).await.is_ok(), "for ever"),
        }
    }
}

#[tokio::test]
async fn ro_13_a_reason_once_and_then_a_login_like_any_other() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let (id, token) = mint(&world.server, &account).await;
    let mut client = by_token(&world, &token).await;
    let revoke = world.server.revoke_token(id, &admin(), None).await;
    revoke.expect("is stored");
    let told = client.element().await;
    assert!(told.starts_with("<error") && told.contains("reason='revoked'"), "{told}");

    // The same connection is told why, and may then prove in another way who it is.
    let mut next = world.connect_in(true, Chunks::Whole).await;
    next.open().await;
    let told = next.login_with(&token).await;
    assert!(told.contains("<credentials-expired/>") && told.contains("'revoked'"), "{told}");
    let message = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("\0alice\0{PASSWORD}"),
    );
    let sasl = "urn:ietf:params:xml:ns:xmpp-sasl";
    next.send(format!("<auth xmlns='{sasl}' mechanism='PLAIN'>{message}</auth>")).await;
    assert!(next.element().await.starts_with("<success"));
    next.open().await;
    next.bind("r").await;
}

#[tokio::test]
async fn ro_14_logging_in_again_takes_the_place_of_the_older_session() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let mut before: Option<Arc<Session>> = None;
    for _ in 0..3 {
        let session = visit(server, ALICE, "phone").await;
        assert_eq!(server.registry.of(ALICE).len(), 1, "never two");
        if let Some(before) = before.replace(session) {
            assert_eq!(before.end_record().map(|end| end.reason), Some(Reason::Replaced));
        }
    }
    assert_eq!(clients(server, &account).await.len(), 1, "one client, three visits");
}

#[tokio::test]
async fn ro_16_one_by_its_handle_the_current_one_or_all() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let server = &world.server;
    let [a, b, c] = [
        visit(server, ALICE, "a").await,
        visit(server, ALICE, "b").await,
        visit(server, ALICE, "c").await,
    ];
    let end = async |args| run(server, &local(), "session end", args).await.1.expect("is done");
    assert_eq!(end(json!({ "id": a.id.to_string() })).await.fields["ended"], 1);
    assert_eq!([&a, &b, &c].map(|session| session.alive()), [false, true, true]);
    assert!(!end(json!({ "id": a.id.to_string() })).await.matched, "it is gone already");
    // The current one, by its owner.
    let caller = server.caller_of(&b).await.expect("is there");
    let own = json!({ "id": b.id.to_string() });
    let (_, done) = run(server, &caller, "session end", own.clone()).await;
    assert_eq!(done.expect("is done").fields["ended"], 1);
    assert_eq!(b.end_record().map(|end| end.by.clone()), Some(Actor::Owner(ALICE.into())));
    assert!(run(server, &caller, "session end", own).await.1.is_err(), "nobody's session now");
    assert_eq!(end(json!({ "selector": [ALICE] })).await.fields["ended"], 1);
    assert!(!c.alive() && server.registry.of(ALICE).is_empty());
}

#[tokio::test]
async fn ro_17_all_can_be_ended_for_an_account_that_is_not_here() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (one, one_text) = mint(server, &account).await;
    let (_, two_text) = mint(server, &account).await;
    assert!(server.registry.of(ALICE).is_empty());
    log_out(server, one).await;
    assert_eq!(denied(server, &one_text).await, revoked());
    let reset = json!({ "jid": ALICE, "password": "other" });
    run(server, &local(), "user password", reset).await.1.expect("is done");
    let void = ("credentials-expired", "password-changed".to_owned());
    assert_eq!(denied(server, &two_text).await, void);
}

#[tokio::test]
async fn ro_18_a_reset_of_the_password_clears_everything() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (_, token) = mint(server, &account).await;
    let all = [
        token_visit(server, &token).await.expect("is good"),
        visit(server, ALICE, "phone").await,
        visit(server, ALICE, "laptop").await,
    ];
    let keys = server.keys_of(Secret::new("other")).await.expect("usable");
    let current = Some(all[1].id);
    let reset = server.set_password(&ALICE.parse_jid(), keys, admin(), current).await;
    assert_eq!(reset, Ok(3), "nobody is spared by a reset");
    for session in &all {
        assert_eq!(session.end_record().map(|end| end.reason), Some(Reason::PasswordChanged));
    }
    assert_eq!(denied(server, &token).await.1, "password-changed");
}

#[tokio::test]
async fn ro_18_pr_12_if_nobody_has_to_go_a_new_password_leaves_all_as_it_is() {
    let world = World::start(|config| {
        config.on.password_change = Who::Nobody;
        config.on.password_reset = Who::Nobody;
    })
    .await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (_, token) = mint(server, &account).await;
    let all =
        [token_visit(server, &token).await.expect("is good"), visit(server, ALICE, "phone").await];
    for actor in [admin(), Actor::Owner(ALICE.into())] {
        let keys = server.keys_of(Secret::new("other")).await.expect("usable");
        let changed = server.set_password(&ALICE.parse_jid(), keys, actor, None).await;
        assert_eq!(changed, Ok(0));
        assert!(all.iter().all(|session| session.alive()));
        leave(server, &token_visit(server, &token).await.expect("is as good as before")).await;
    }
    let mut late = world.connect().await;
    assert!(late.try_login("alice", PASSWORD).await.is_err(), "but the password is another");
}

#[tokio::test]
async fn ro_19_a_closed_account_has_no_sessions() {
    // Twice: closed for now, and for good.
    for delete in [false, true] {
        let world = World::start(|_| {}).await;
        let account = world.account("alice").await;
        let server = &world.server;
        let (_, token) = mint(server, &account).await;
        let all = [
            token_visit(server, &token).await.expect("is good"),
            visit(server, ALICE, "phone").await,
        ];
        let jid = ALICE.parse_jid();
        let ended = match delete {
            true => server.delete_account(&jid, admin()).await,
            false => server.set_standing(&jid, Standing::Disabled, admin()).await,
        };
        assert_eq!(ended, Ok(2));
        assert!(all.iter().all(|session| !session.alive()));
        let said = if delete { "not-authorized" } else { "account-disabled" };
        assert_eq!(denied(server, &token).await, (said, String::new()));
        assert!(!enter(server, &tended(server), ALICE).await);
        let rows = server.store.rows(&CLIENTS, account.id.0, Range::all()).await.expect("is read");
        assert_eq!(rows.is_empty(), delete, "what is deleted leaves nothing");
    }
}

/// A server with these keys, one a line of its file.
fn keyed(dir: &std::path::Path, store: &SharedStore, keys: &[(u32, u8)]) -> Arc<Server> {
    use std::os::unix::fs::PermissionsExt;
    let lines: String = keys
        .iter()
        .map(|(id, byte)| {
            let key =
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [*byte; 32]);
            format!("{id} {key}\n")
        })
        .collect();
    let path = dir.join("server.key");
    fs::write(&path, lines).expect("is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    let keys = KeyRing::open(&path).expect("keys");
    let mut config = Config::default();
    config.auth.scram_iterations = 2;
    let clock = Clock::manual(START);
    Server::new(config, clock, store.clone(), keys, plugins::ALL).expect("is put together")
}

#[tokio::test]
async fn ro_21_keys_are_rotated_in_four_steps() {
    let (dir, store) = (tempfile::tempdir().expect("a directory"), store::memory());
    let old = keyed(dir.path(), &store, &[(1, 1)]);
    let keys = old.keys_of(Secret::new(PASSWORD)).await.expect("usable");
    let account = old.add_account(&ALICE.parse_jid(), keys, Role::User).await.expect("is new");
    let (_, used) = mint(&old, &account).await;
    let (_, unused) = mint(&old, &account).await;
    leave(&old, &token_visit(&old, &used).await.expect("is good")).await;

    // Both keys: what was made with the old one is good, and is hashed anew when it is used.
    let both = keyed(dir.path(), &store, &[(1, 1), (2, 2)]);
    leave(&both, &token_visit(&both, &used).await.expect("is good with both")).await;
    eventually(async || {
        let rows = store.rows(&CLIENTS, account.id.0, Range::all()).await.expect("are read");
        let anew =
            |row: &server::store::Row| String::from_utf8_lossy(&row.value).contains("\"key\":2");
        rows.iter().any(anew).then_some(())
    })
    .await;

    // The old key is gone: what was used meanwhile is still good, what was not is dead.
    let new = keyed(dir.path(), &store, &[(2, 2)]);
    leave(&new, &token_visit(&new, &used).await.expect("is good with the new one")).await;
    assert_eq!(denied(&new, &unused).await, ("not-authorized", String::new()));

    // A key that nothing was hashed with.
    let other = keyed(dir.path(), &store, &[(3, 3)]);
    for text in [&used, &unused] {
        assert_eq!(denied(&other, text).await, ("not-authorized", String::new()));
    }
}

#[tokio::test]
async fn ro_26_of_a_single_session_the_newer_one_wins_and_the_older_is_told() {
    let world = World::start(|config| {
        config.sessions.max_sessions = 1;
        config.sessions.at_limit = AtLimit::DisplaceOldest;
    })
    .await;
    world.account("alice").await;
    let mut first = world.bound("alice", "first").await;
    let mut second = world.bound("alice", "second").await;
    let told = first.element().await;
    assert!(told.contains("<conflict") && told.contains("reason='displaced'"), "{told}");
    second.settle().await;
    drop(first);
    // It may come back, and the other one has to go then.
    let mut first = world.bound("alice", "first").await;
    first.settle().await;
    let told = second.element().await;
    assert!(told.contains("reason='displaced'"), "{told}");
    assert_eq!(world.server.registry.bound(ALICE).len(), 1);
}
