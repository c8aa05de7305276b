//! The matrix of ends: whatever ends something, and every way back in that there is. Other servers
//! have lost cells of it: MongooseIM lets a banned account in by its other mechanisms, ejabberd leaves
//! live sessions and tokens when a password changes, both bring back whoever was kicked.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use server::{
    Session,
    account::Role,
    change::Standing,
    clock::Clock,
    end::{End, Level, Reason},
    epoch::Scope,
    keyring::KeyRing,
    vault::{Found, Mint},
};
use wire::Secret;

use crate::{
    dialogue::Chunks,
    world::{PASSWORD, ParseJid, Remote, START, World, admin, bind_request},
};

/// What the next attempt gives after each event. `in`: it is let in; another word is the SASL
/// condition, with the reason that is told beside it. Of sessions: `alive`, or what their stream error
/// says; `binds`: it has become a bound one.
///
/// The token of the ended client is `token`; a second client has the `other` one. Live are a bound and
/// an unbound session of `token`, and one of the password.
const EXPECTED: &str = "
event            | scram            | plain            | plain+token                          | bearer                               | other bearer                         | live             | unbound          | of password
-----------------+------------------+------------------+--------------------------------------+--------------------------------------+--------------------------------------+------------------+------------------+-----------------
nothing          | in               | in               | in                                   | in                                   | in                                   | alive            | binds            | alive
password-changed | not-authorized   | not-authorized   | credentials-expired password-changed | credentials-expired password-changed | credentials-expired password-changed | password-changed | password-changed | password-changed
account-disabled | account-disabled | account-disabled | account-disabled                     | account-disabled                     | account-disabled                     | account-disabled | account-disabled | account-disabled
account-deleted  | not-authorized   | not-authorized   | not-authorized                       | not-authorized                       | not-authorized                       | account-deleted  | account-deleted  | account-deleted
session-kicked   | in               | in               | in                                   | in                                   | in                                   | kicked           | binds            | alive
session-ended    | in               | in               | in                                   | in                                   | in                                   | ended            | binds            | alive
token-revoked    | in               | in               | credentials-expired revoked          | credentials-expired revoked          | in                                   | revoked          | revoked          | alive
grant-revoked    | in               | in               | credentials-expired revoked          | credentials-expired revoked          | in                                   | revoked          | revoked          | alive
client-buried    | in               | in               | credentials-expired revoked          | credentials-expired revoked          | in                                   | revoked          | revoked          | alive
epoch-server     | in               | in               | credentials-expired epoch            | credentials-expired epoch            | credentials-expired epoch            | epoch            | epoch            | epoch
epoch-host       | in               | in               | credentials-expired epoch            | credentials-expired epoch            | credentials-expired epoch            | epoch            | epoch            | epoch
epoch-account    | in               | in               | credentials-expired epoch            | credentials-expired epoch            | credentials-expired epoch            | epoch            | epoch            | epoch
role-lowered     | in               | in               | in                                   | in                                   | in                                   | alive            | binds            | alive
";

/// How many of the columns are logins; the others are sessions that a restart ends.
const LOGINS: usize = 5;

/// The events, each with what is expected of every column.
fn expected() -> Vec<(&'static str, Vec<&'static str>)> {
    let lines = EXPECTED.trim().lines().skip(2);
    lines
        .map(|line| {
            let mut cells = line.split('|').map(str::trim);
            (cells.next().expect("an event"), cells.collect())
        })
        .collect()
}

/// An account with two tokens, and what the first of them belongs to.
pub struct Case {
    pub found: Found,
    pub token: String,
    other: String,
}

impl Case {
    pub async fn new(world: &World) -> Self {
        let account = world.account("alice").await;
        let jid = account.jid.parse_jid();
        let standing = Standing::Role(Role::Admin);
        world.server.set_standing(&jid, standing, admin()).await.expect("is there");
        let mint = || Mint::login(Role::Admin, "test");
        let (found, token) = world.server.mint(&account, mint()).await.expect("is stored");
        let (_, other) = world.server.mint(&account, mint()).await.expect("is stored");
        Self { found, token: token.to_text().to_string(), other: other.to_text().to_string() }
    }
}

/// Makes it happen; `live` is the bound session of the token.
pub async fn happen(world: &World, event: &str, case: &Case, live: Option<&Arc<Session>>) {
    let (server, jid, found) = (&world.server, "alice@localhost".parse_jid(), &case.found);
    let end = |reason, level| {
        if let Some(live) = live {
            assert!(server.end(live, End { level, actor: admin(), ..End::new(reason) }));
        }
    };
    let epoch = async |scope| {
        let raised = server.raise_epoch(scope, false, &admin()).await;
        raised.expect("is stored");
    };
    match event {
        "nothing" => {}
        "password-changed" => {
            let keys = server.keys_of(Secret::new("other")).await.expect("usable");
            server.set_password(&jid, keys, admin(), None).await.map(drop).expect("is stored");
        }
        "account-disabled" => {
            let standing = server.set_standing(&jid, Standing::Disabled, admin()).await;
            standing.map(drop).expect("is stored");
        }
        "account-deleted" => {
            server.delete_account(&jid, admin()).await.map(drop).expect("is stored");
        }
        "session-kicked" => end(Reason::Kicked, Level::Kick),
        "session-ended" => end(Reason::Ended, Level::End),
        "token-revoked" => {
            let revoked = server.revoke_token(found.token.id, &admin(), None).await;
            revoked.expect("is stored").map(drop).expect("is there");
        }
        "grant-revoked" => {
            let why = server::client::Over::Revoked;
            let revoked = server.end_grant(found.grant.id, why, &admin(), None).await;
            revoked.expect("is stored").map(drop).expect("is there");
        }
        "client-buried" => {
            let (now, why) = (world.clock.now(), server::client::Over::Revoked);
            let tombstone = server::client::Tombstone::new(now, why, &admin(), None);
            server.bury_client(&found.client, &tombstone).await.expect("is stored");
            // Its sessions are the caller's to end.
            for session in server.registry.of("alice@localhost") {
                let client = session.identity().and_then(|me| me.client());
                if client.is_some_and(|client| client.id == found.client.id) {
                    let end = End { level: Level::Revoke, ..End::new(Reason::Revoked) };
                    server.end(&session, end);
                }
            }
        }
        "epoch-server" => epoch(Scope::Server).await,
        "epoch-host" => epoch(Scope::Host("localhost")).await,
        "epoch-account" => {
            let raised = server.raise_account_epoch(&jid, false, &admin()).await;
            raised.map(drop).expect("is stored");
        }
        "role-lowered" => {
            let ended = server.set_standing(&jid, Standing::Role(Role::User), admin()).await;
            assert_eq!(ended, Ok(0));
        }
        other => panic!("nobody knows how `{other}` happens"),
    }
}

/// The SASL condition, or the stream's reason, in a word or two.
fn said(answer: &str) -> String {
    if answer.starts_with("<success") {
        return "in".into();
    }
    let reason = answer.split("reason='").nth(1).and_then(|rest| rest.split('\'').next());
    let failure = answer.strip_prefix("<failure");
    let condition = failure.and_then(|rest| rest.split('<').nth(1)?.split(['/', ' ', '>']).next());
    let words: Vec<_> = condition.into_iter().chain(reason).collect();
    assert!(!words.is_empty(), "{answer}");
    words.join(" ")
}

/// A connection under TLS that has opened its stream.
async fn opened(world: &World) -> Remote {
    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.open().await;
    client
}

async fn plain(world: &World, password: &str) -> String {
    let mut client = opened(world).await;
    let message = STANDARD.encode(format!("\0alice\0{password}"));
    let sasl = "urn:ietf:params:xml:ns:xmpp-sasl";
    client.send(format!("<auth xmlns='{sasl}' mechanism='PLAIN'>{message}</auth>")).await;
    said(&client.element().await)
}

async fn scram(world: &World) -> String {
    let mut client = world.connect_in(true, Chunks::Whole).await;
    match client.try_login("alice", PASSWORD).await {
        Ok(()) => "in".into(),
        Err(why) => {
            let conditions = ["account-disabled", "not-authorized", "temporary-auth-failure"];
            let found = conditions.iter().find(|condition| why.contains(**condition));
            found.copied().unwrap_or(&why).to_owned()
        }
    }
}

async fn bearer(world: &World, token: &str) -> String {
    said(&opened(world).await.login_with(token).await)
}

/// What each way in gives.
async fn logins(world: &World, case: &Case) -> Vec<String> {
    vec![
        scram(world).await,
        plain(world, PASSWORD).await,
        plain(world, &case.token).await,
        bearer(world, &case.token).await,
        bearer(world, &case.other).await,
    ]
}

/// A client that a token has let in.
pub async fn by_token(world: &World, token: &str, resource: Option<&str>) -> Remote {
    let mut client = opened(world).await;
    assert!(client.login_with(token).await.starts_with("<success"));
    client.open().await;
    if let Some(resource) = resource {
        client.bind(resource).await;
    }
    client
}

/// What a session says for itself: the answer to a request if it is alive, else its stream error.
async fn state(client: &mut Remote, alive: bool, request: &str, word: &str) -> String {
    if alive {
        client.send(request).await;
    }
    let answer = client.element().await;
    if alive {
        assert!(answer.starts_with("<iq") && answer.contains("'result'"), "{answer}");
        return word.to_owned();
    }
    said(&answer)
}

pub fn config(config: &mut server::config::Config) {
    // A dead session's connection is not waited for, and wrong passwords are not counted.
    config.sessions.close_wait = server::config::Span::seconds(0);
    config.auth.pair_failures = 0;
}

#[tokio::test]
async fn iv_07_iv_19_pr_16_b_01_every_event_by_every_way_back() {
    for (event, cells) in expected() {
        let world = World::start(config).await;
        let case = Case::new(&world).await;
        let mut live = by_token(&world, &case.token, Some("live")).await;
        let bound = world.session("alice@localhost/live");
        let mut unbound = by_token(&world, &case.token, None).await;
        let with_token = world.server.registry.with_token(case.found.token.id);
        let waiting = with_token.iter().find(|session| session.full().is_none());
        let waiting = waiting.expect("is in").clone();
        let mut password = world.bound("alice", "password").await;
        let third = world.session("alice@localhost/password");

        happen(&world, event, &case, Some(&bound)).await;
        let alive = [&bound, &waiting, &third].map(|session| session.alive());
        let ping = "<iq type='get' id='1' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>";
        let sessions = [
            state(&mut live, alive[0], ping, "alive").await,
            state(&mut unbound, alive[1], &bind_request("late"), "binds").await,
            state(&mut password, alive[2], ping, "alive").await,
        ];
        if event == "role-lowered" {
            for session in [&bound, &waiting, &third] {
                assert_eq!(session.identity().map(|me| me.role()), Some(Role::User));
            }
        }
        let mut given = logins(&world, &case).await;
        given.extend(sessions);
        assert_eq!(given, cells, "{event}");
    }
}

#[tokio::test]
async fn iv_07_b_04_every_event_by_every_way_back_after_a_restart() {
    for (event, cells) in expected() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = dir.path().join("server.key");
        let clock = Clock::manual(START);
        let start = async || {
            let keys = KeyRing::open(&key).expect("keys");
            let store = store::sqlite(dir.path()).expect("opens");
            World::start_keyed(store, keys, clock.clone(), plugins::ALL, config).await
        };
        let world = start().await;
        let case = Case::new(&world).await;
        let live = by_token(&world, &case.token, Some("live")).await;
        let bound = world.session("alice@localhost/live");
        happen(&world, event, &case, Some(&bound)).await;
        drop(live);
        world.server.shutdown().await;
        world.server.store.close().await.expect("closes");
        drop((bound, world));

        let world = start().await;
        assert_eq!(logins(&world, &case).await, cells[..LOGINS], "{event}");
        world.server.shutdown().await;
        world.server.store.close().await.expect("closes");
    }
}
