//! Changes of accounts and tokens, and the sessions that they outlaw: nobody is left behind, and
//! nobody slips in while a change is under way.
//!
//! Races are run against the server's own functions, without sockets, so that many rounds take no
//! time; [`tended`] stands in for the connection then.

use server::{
    account::Role,
    change::Standing,
    end::{Actor, End, Level, Reason},
};
use wire::{Hash, Mechanism, Secret};

use crate::{
    dialogue::Chunks,
    world::{PASSWORD, ParseJid, ROSTER, Remote, World, admin, assert_eventually, enter, tended},
};

#[tokio::test]
async fn iv_19_pr_18_a_change_of_the_account_ends_bound_and_unbound_sessions() {
    for what in ["disable", "delete", "password"] {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        world.account("bob").await;
        let mut bound = world.client("alice").await;
        let mut unbound = world.authed("alice").await;
        let mut bob = world.client("bob").await;
        let jid = "alice@localhost".parse_jid();
        let server = world.server.clone();
        let change = tokio::spawn(async move {
            match what {
                "disable" => server.set_standing(&jid, Standing::Disabled, admin()).await,
                "delete" => server.delete_account(&jid, admin()).await,
                _ => {
                    let keys = server.keys_of(Secret::new("other")).await.expect("usable");
                    server.set_password(&jid, keys, admin(), None).await
                }
            }
        });
        let condition = if what == "password" { "reset" } else { "not-authorized" };
        bound.expect_error(condition).await;
        unbound.expect_error(condition).await;
        drop((bound, unbound));
        assert_eq!(change.await.expect("does not panic"), Ok(2), "{what}");
        assert_eq!(world.server.registry.counts().total, 1, "{what}: only bob is there");
        bob.settle().await;
        let mut late = world.connect().await;
        let refused = late.try_login("alice", PASSWORD).await.expect_err("is refused");
        let said = if what == "disable" { "account-disabled" } else { "not-authorized" };
        assert!(refused.contains(said), "{what}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn iv_19_nobody_slips_in_while_the_account_is_disabled() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let jid = "alice@localhost".parse_jid();
    let server = &world.server;
    for round in 0..150 {
        let mut logins = Vec::new();
        for login in 0..4 {
            let server = server.clone();
            logins.push(tokio::spawn(async move {
                for _ in 0..(round + login) % 7 {
                    tokio::task::yield_now().await;
                }
                let session = tended(&server);
                if enter(&server, &session, "alice@localhost").await {
                    let _ = server.bind(&session, None).await;
                } else {
                    server.end(&session, End::peer(Reason::Closed));
                }
            }));
        }
        let ended = server.set_standing(&jid, Standing::Disabled, admin()).await;
        ended.expect("is disabled");
        for login in logins {
            login.await.expect("does not panic");
        }
        let left = server.registry.of("alice@localhost");
        assert!(left.is_empty(), "round {round}: {left:?}");
        server.set_standing(&jid, Standing::Enabled, admin()).await.expect("is enabled");
    }
    world.empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pr_18_nobody_slips_in_with_a_proof_of_the_old_password() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let jid = "alice@localhost".parse_jid();
    let server = &world.server;
    for round in 0..60 {
        let mut logins = Vec::new();
        let keys = server.keys_of(Secret::new("next")).await.expect("usable");
        for login in 0..4 {
            let session = tended(server);
            let found = server.scram_keys(&session, &jid, Hash::Sha256).await;
            let (_, proved) = found.expect("is there");
            let server = server.clone();
            logins.push(tokio::spawn(async move {
                for _ in 0..(round + login) % 5 {
                    tokio::task::yield_now().await;
                }
                let done = server.enter(&session, proved, Mechanism::ScramSha256, None).await;
                if done.is_err() {
                    server.end(&session, End::peer(Reason::Closed));
                }
            }));
        }
        server.set_password(&jid, keys, admin(), None).await.expect("is changed");
        for login in logins {
            login.await.expect("does not panic");
        }
        let left = server.registry.of("alice@localhost");
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
    world.empty().await;
}

#[tokio::test]
async fn pr_14_a_revoked_token_takes_its_sessions_with_it_and_no_others() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let (id, token) = world.token(&account, None).await;
    let (_, other) = world.token(&account, None).await;
    let mut clients = Vec::new();
    for (text, resource) in [(&token, Some("a")), (&token, None), (&other, Some("b"))] {
        let mut client = world.connect_in(true, Chunks::Whole).await;
        client.open().await;
        assert!(client.login_with(text).await.starts_with("<success"));
        client.open().await;
        if let Some(resource) = resource {
            client.bind(resource).await;
        }
        clients.push(client);
    }
    let [mut bound, mut unbound, mut kept] = <[Remote; 3]>::try_from(clients).ok().expect("three");
    let reason = Some("lost on a train".to_owned());
    let revoked = world.server.revoke_token(id, &admin(), reason).await;
    let (_, sessions) = revoked.expect("is stored").expect("is there");
    assert_eq!(sessions.len(), 2);
    assert!(sessions.iter().all(|session| !session.alive()), "dead before the command returns");
    for client in [&mut bound, &mut unbound] {
        client
            .expect(
                "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
                 <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>lost on a train\
                 </text><ended xmlns='urn:usher:session:0' reason='revoked' by='admin'/>\
                 </stream:error>",
            )
            .await;
        client.expect_close().await.expect("closes");
    }
    kept.settle().await;
    assert_eq!(sessions[0].end_record().map(|record| record.level), Some(Level::Revoke));

    for _ in 0..2 {
        let mut again = world.connect_in(true, Chunks::Whole).await;
        again.open().await;
        let answer = again.login_with(&token).await;
        let gone = "<ended xmlns='urn:usher:session:0' by='admin' reason='revoked'/>";
        assert!(answer.contains("<credentials-expired/>") && answer.contains(gone), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pr_14_nobody_slips_in_while_the_token_is_revoked() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    for round in 0..100 {
        let (id, token) = world.token(&account, None).await;
        let mut logins = Vec::new();
        for login in 0..3 {
            let (server, token) = (server.clone(), token.clone());
            logins.push(tokio::spawn(async move {
                for _ in 0..(round + login) % 5 {
                    tokio::task::yield_now().await;
                }
                let session = tended(&server);
                let entered = match server.check_token(&session, None, Secret::new(token)).await {
                    Ok(candidate) => server
                        .enter(&session, candidate, Mechanism::OauthBearer, None)
                        .await
                        .is_ok(),
                    Err(_) => false,
                };
                if !entered {
                    server.end(&session, End::peer(Reason::Closed));
                }
            }));
        }
        server.revoke_token(id, &admin(), None).await.expect("is stored");
        for login in logins {
            login.await.expect("does not panic");
        }
        assert!(server.registry.with_token(id).is_empty(), "round {round}");
        let left = server.registry.of("alice@localhost");
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}

#[tokio::test]
async fn an_account_that_is_made_again_inherits_nothing() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    world.account("bob").await;
    let (_, token) = world.token(&alice, None).await;
    let mut first = world.client("alice").await;
    first
        .send(
            "<iq type='set' id='s'><query xmlns='jabber:iq:roster'>\
             <item jid='carol@localhost' name='Carol'/></query></iq>",
        )
        .await;
    first.expect("<iq type='result' id='s' …/>").await;
    drop(first);
    assert_eventually("she has left", || world.server.registry.counts().total == 0).await;
    let mut bob = world.client("bob").await;
    bob.send("<message to='alice@localhost' type='chat' id='1'><body>old</body></message>").await;
    bob.settle().await;

    let jid = "alice@localhost".parse_jid();
    world.server.delete_account(&jid, admin()).await.expect("is deleted");
    let again = world.account("alice").await;
    assert_ne!(again.id, alice.id);
    assert!(world.server.tokens_of(&again).await.expect("can be read").is_empty());
    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.open().await;
    let answer = client.login_with(&token).await;
    assert!(answer.contains("<not-authorized/>") && !answer.contains("ended"), "{answer}");
    let mut second = world.client("alice").await;
    second.send(ROSTER).await;
    second.expect("<iq type='result' id='roster' …><query xmlns='jabber:iq:roster' …/></iq>").await;
    second.send("<presence/>").await;
    second.expect("<presence from='alice@localhost/r' …/>").await;
    second.settle().await;
}

#[tokio::test]
async fn iv_15_another_role_counts_at_once_and_nobody_has_to_go() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let jid = "alice@localhost".parse_jid();
    let mut client = world.client("alice").await;
    let session = world.session("alice@localhost/r");
    for role in [Role::Admin, Role::Operator, Role::User] {
        let ended = world.server.set_standing(&jid, Standing::Role(role), admin()).await;
        assert_eq!(ended, Ok(0));
        assert_eq!(session.identity().map(|me| me.role()), Some(role));
        client.settle().await;
    }
}

#[tokio::test]
async fn ro_18_pr_18_the_owner_who_changes_the_password_stays_and_all_others_go() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let (_, token) = world.token(&account, None).await;
    let jid = "alice@localhost".parse_jid();
    let mut current = world.bound("alice", "current").await;
    let mut other = world.bound("alice", "other").await;
    let mut unbound = world.authed("alice").await;
    let id = world.session("alice@localhost/current").id;
    let keys = world.server.keys_of(Secret::new("next")).await.expect("usable");
    let server = world.server.clone();
    let owner = Actor::Owner("alice@localhost".into());
    let change =
        tokio::spawn(async move { server.set_password(&jid, keys, owner, Some(id)).await });
    other.expect_error("reset").await;
    unbound.expect_error("reset").await;
    drop((other, unbound));
    assert_eq!(change.await.expect("does not panic"), Ok(2));
    current.settle().await;
    let mut late = world.connect_in(true, Chunks::Whole).await;
    late.open().await;
    let answer = late.login_with(&token).await;
    assert!(answer.contains("password-changed"), "{answer}");
}
