//! Clients: made by logins and tokens, known again when they come back, and over for good when they
//! are ended.

use std::sync::Arc;

use server::{
    Server, Session,
    account::{Account, Role},
    client::{Class, Client, Key, Over},
    config::Span,
    end::{End, Reason},
    policy::NewClients,
    store::{Batch, SERVER, Table},
    vault::{Mint, Parent},
};
use wire::{Mechanism, Secret, TokenId};

use crate::world::{ParseJid, World, admin, enter, tended};

/// A password login that binds this resource.
pub async fn visit(server: &Arc<Server>, jid: &str, resource: &str) -> Arc<Session> {
    let session = tended(server);
    assert!(enter(server, &session, jid).await, "{jid} is let in");
    server.bind(&session, Some(resource)).await.expect("is bound");
    session
}

/// A login with a token, not bound.
pub async fn token_visit(server: &Arc<Server>, token: &str) -> Result<Arc<Session>, wire::Denied> {
    let session = tended(server);
    let candidate = server.check_token(&session, None, Secret::new(token)).await?;
    server.enter(&session, candidate, Mechanism::OauthBearer, None).await?;
    Ok(session)
}

/// The same, bound.
pub async fn bound_by(server: &Arc<Server>, token: &str) -> Arc<Session> {
    let session = token_visit(server, token).await.expect("is let in");
    server.bind(&session, None).await.expect("is bound");
    session
}

pub async fn leave(server: &Arc<Server>, session: &Arc<Session>) {
    server.end(session, End::peer(Reason::Closed));
    assert!(server.settled(session).await);
}

pub fn sid(session: &Session) -> u64 {
    session.identity().and_then(|me| me.client()).expect("is known").sid
}

pub async fn clients(server: &Server, account: &Account) -> Vec<Client> {
    server.clients_of(account.id, None, 0).await.expect("are read")
}

/// Something that counts as use.
async fn act(server: &Arc<Server>, session: &Arc<Session>) {
    let frame = wire::Frame::parse("<presence type='probe'/>").expect("is well-formed");
    server.inbound(session, None, frame).decided().await;
}

/// Waits for a write that nobody waits for.
pub async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..2_000 {
        if let Some(seen) = look().await {
            return seen;
        }
        tokio::task::yield_now().await;
    }
    panic!("never");
}

#[tokio::test]
async fn lj_16_lj_17_a_client_outlives_its_sessions_and_its_number_is_given_once() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let phone = visit(server, "alice@localhost", "phone").await;
    let laptop = visit(server, "alice@localhost", "laptop").await;
    assert_eq!((sid(&phone), sid(&laptop)), (1, 2));
    leave(server, &phone).await;
    world.clock.advance(600_000);
    let again = visit(server, "alice@localhost", "phone").await;
    assert_eq!(sid(&again), 1, "it is known again by its resource");
    let known = clients(server, &account).await;
    assert_eq!(known.len(), 2);
    assert_eq!(known[0].key, Key::Resource("phone".into()));
    assert!(known[0].mechanisms.contains_key("SCRAM-SHA-256"), "{known:?}");

    // The highest one is ended and forgotten: its number does not come again.
    let last = known[1].clone();
    leave(server, &laptop).await;
    let tombstone =
        server::client::Tombstone::new(world.clock.now(), Over::Revoked, &admin(), None);
    server.bury_client(&last, &tombstone).await.expect("is written");
    let new = visit(server, "alice@localhost", "laptop").await;
    assert_eq!(sid(&new), 3, "what is over does not come back under its number");
}

#[tokio::test]
async fn pr_22_the_last_visit_and_every_mechanism_are_noted() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let session = visit(server, "alice@localhost", "phone").await;
    session.set_software("Gajim 1.9");
    leave(server, &session).await;
    let client = eventually(async || {
        let client = clients(server, &account).await.remove(0);
        client.software.is_some().then_some(client)
    })
    .await;
    assert_eq!(client.software.as_deref(), Some("Gajim 1.9"));
    assert_eq!(client.seen, Some(world.clock.now()));
    assert_eq!(client.address.as_deref(), Some("127.0.0.1"));
}

#[tokio::test]
async fn ro_11_pr_13_the_last_use_is_written_no_more_often_than_its_granule() {
    let world = World::start(|config| config.clients.last_use = Span::seconds(3600)).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let start = world.clock.now();
    let session = visit(server, "alice@localhost", "phone").await;
    leave(server, &session).await;
    for _ in 0..5 {
        world.clock.advance(600_000);
        let session = visit(server, "alice@localhost", "phone").await;
        leave(server, &session).await;
    }
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(clients(server, &account).await[0].seen, Some(start), "50 minutes: one write");
    world.clock.advance(600_000);
    let session = visit(server, "alice@localhost", "phone").await;
    let now = world.clock.now();
    eventually(async || (clients(server, &account).await[0].seen == Some(now)).then_some(())).await;
    leave(server, &session).await;
}

#[tokio::test]
async fn lj_18_lj_19_classes_end_to_the_millisecond_and_only_long_ones_slide() {
    for (class, length) in
        [(Class::Short, 36 * 3_600), (Class::Long, 60 * 86_400), (Class::Once, 7_200)]
    {
        let world = World::start(|_| {}).await;
        let account = world.account("alice").await;
        let server = &world.server;
        let mint = Mint { class, ..Mint::login(Role::User, "test") };
        let (found, token) = server.mint(&account, mint).await.expect("is minted");
        let text = token.to_text().to_string();
        assert_eq!(found.client.expires, Some(world.clock.now().plus_seconds(length)));
        // Not yet half of it: nothing moves.
        world.clock.advance(length * 490);
        let session = token_visit(server, &text).await.expect("is valid");
        leave(server, &session).await;
        let now = world.clock.now();
        eventually(async || (clients(server, &account).await[0].seen == Some(now)).then_some(()))
            .await;
        assert_eq!(clients(server, &account).await[0].expires, found.client.expires);
        // A little more than half of it: a long one gets its full length again.
        world.clock.advance(length * 20);
        let session = token_visit(server, &text).await.expect("is valid");
        let until = session.identity().and_then(|me| me.expires());
        leave(server, &session).await;
        let now = world.clock.now();
        let client = eventually(async || {
            let client = clients(server, &account).await.remove(0);
            (client.seen == Some(now)).then_some(client)
        })
        .await;
        let slid = client.expires != found.client.expires;
        assert_eq!(slid, class == Class::Long, "{class:?}");
        assert_eq!(until, client.expires, "{class:?}: its session lasts as long");
        let expires = client.expires.expect("has an end").0;
        world.clock.advance(expires - world.clock.now().0 - 1);
        leave(server, &token_visit(server, &text).await.expect("the last millisecond")).await;
    }
    assert_eq!(Class::parse("xxlongyy"), None, "only the exact name counts");
}

#[tokio::test]
async fn lj_21_iv_18_a_bound_client_is_refused_elsewhere_and_loses_nothing() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    for (network, fits) in
        [("127.0.0.0/8", true), ("2001:db8:1:2::/64", false), ("127.0.0.2/32", false)]
    {
        let bound_to = Some(network.parse().expect("a network"));
        let mint = Mint { bound_to, ..Mint::login(Role::User, "test") };
        let (found, token) = server.mint(&account, mint).await.expect("is minted");
        let came = token_visit(server, &token.to_text()).await;
        assert_eq!(came.is_ok(), fits, "{network}");
        if let Err(denied) = came {
            assert_eq!((denied.failure.as_str(), denied.app), ("not-authorized", None));
        }
        let client = server.client(account.id, found.client.sid).await.expect("is read");
        assert!(client.expect("is there").over.is_none());
    }
}

#[tokio::test]
async fn pr_11_no_token_outlives_or_exceeds_its_grant() {
    let world = World::start(|_| {}).await;
    let keys = world.server.keys_of(Secret::new("secret")).await.expect("usable");
    let jid = "root@localhost".parse_jid();
    let account = world.server.add_account(&jid, keys, Role::Admin).await.expect("is new");
    let server = &world.server;
    let (first, _) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is minted");
    let parent = Parent::Grant(first.grant.id);
    let more = Mint { parent, ttl: Some(60), ..Mint::login(Role::Admin, "test") };
    let (second, text) = server.mint(&account, more).await.expect("is minted");
    assert_eq!(second.client.sid, first.client.sid);
    assert_eq!(second.token.role, Role::User, "no more than its grant");
    world.clock.advance(59_999);
    leave(server, &token_visit(server, &text.to_text()).await.expect("not yet")).await;
    world.clock.advance(1);
    let denied = token_visit(server, &text.to_text()).await.expect_err("at this very instant");
    assert_eq!(denied.failure.as_str(), "credentials-expired");

    let other = world.account("alice").await;
    let foreign = Mint { parent, ..Mint::login(Role::User, "test") };
    assert!(server.mint(&other, foreign).await.is_err(), "a grant is its account's alone");
}

#[tokio::test]
async fn pr_14_a_token_goes_alone_and_a_grant_with_all_it_has() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (one, one_text) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is minted");
    let sibling = Mint { parent: Parent::Grant(one.grant.id), ..Mint::login(Role::User, "test") };
    let (_, two_text) = server.mint(&account, sibling).await.expect("is minted");
    let cousin = Mint { parent: Parent::Client(one.client.id), ..Mint::login(Role::User, "test") };
    let (three, three_text) = server.mint(&account, cousin).await.expect("is minted");
    assert_ne!(three.grant.id, one.grant.id);
    let first = token_visit(server, &one_text.to_text()).await.expect("is valid");
    let second = token_visit(server, &two_text.to_text()).await.expect("is valid");
    let third = token_visit(server, &three_text.to_text()).await.expect("is valid");
    server.revoke_token(one.token.id, &admin(), None).await.expect("is written");
    assert!(!first.alive() && second.alive() && third.alive());
    server.end_grant(one.grant.id, Over::Revoked, &admin(), None).await.expect("is written");
    assert!(!second.alive() && third.alive());
    for (text, good) in [(&one_text, false), (&two_text, false), (&three_text, true)] {
        assert_eq!(token_visit(server, &text.to_text()).await.is_ok(), good);
    }
}

#[tokio::test]
async fn ro_23_ro_24_a_rotated_token_gives_way_once_the_new_one_is_used_and_reuse_ends_the_family()
{
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (old, old_text) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is minted");
    let rotated = server.rotate_token(&account, old.token.id, "test").await;
    let (new, new_text) = rotated.expect("is rotated");
    assert_eq!((new.client.id, new.client.created), (old.client.id, old.client.created));
    leave(server, &token_visit(server, &old_text.to_text()).await.expect("not used yet")).await;
    let session = token_visit(server, &new_text.to_text()).await.expect("is valid");
    let id: TokenId = old.token.id;
    eventually(async || {
        let found = server.find_token(id).await.expect("is read").expect("is there");
        found.token.over.map(|over| assert_eq!(over.why, Over::Superseded))
    })
    .await;
    assert!(session.alive());
    let denied = token_visit(server, &old_text.to_text()).await.expect_err("has given way");
    assert_eq!(denied.failure.as_str(), "credentials-expired");
    assert!(!session.alive(), "nobody can tell which of the two is the thief");
    let denied = token_visit(server, &new_text.to_text()).await.expect_err("its family is over");
    let app = denied.app.expect("says why");
    assert!(String::from_utf8_lossy(&app).contains("reused"), "{app:?}");
    let audit = server.audit_tail(1).await.expect("is read");
    assert_eq!(audit[0].what, "token reused");
}

#[tokio::test]
async fn lj_23_an_epoch_outlaws_what_came_before_unless_it_has_grace() {
    use server::epoch::Scope;
    for scope in ["server", "host", "account"] {
        let world = World::start(|_| {}).await;
        let account = world.account("alice").await;
        let server = &world.server;
        let jid = "alice@localhost".parse_jid();
        let raise = async |grace| {
            let ended = match scope {
                "server" => server.raise_epoch(Scope::Server, grace, &admin()).await.expect("ok").1,
                "host" => {
                    server
                        .raise_epoch(Scope::Host("localhost"), grace, &admin())
                        .await
                        .expect("ok")
                        .1
                }
                _ => server.raise_account_epoch(&jid, grace, &admin()).await.expect("ok").1,
            };
            ended.len()
        };
        let (_, text) = world.token(&account, None).await;
        let by_token = token_visit(server, &text).await.expect("is valid");
        let by_password = visit(server, "alice@localhost", "phone").await;
        assert_eq!(raise(true).await, 0, "{scope}: grace");
        assert!(by_token.alive() && by_password.alive());
        leave(server, &token_visit(server, &text).await.expect("grace")).await;
        assert_eq!(raise(false).await, 2, "{scope}");
        assert_eq!(by_token.end_record().map(|record| record.reason), Some(Reason::Epoch));
        let denied = token_visit(server, &text).await.expect_err("is void");
        assert!(String::from_utf8_lossy(&denied.app.expect("says why")).contains("epoch"));
        let account = server.account("alice@localhost").await.expect("ok").expect("is there");
        let (_, text) = world.token(&account, None).await;
        leave(server, &token_visit(server, &text).await.expect("is of the new epoch")).await;
        leave(server, &visit(server, "alice@localhost", "phone").await).await;
    }
}

#[tokio::test]
async fn b_09_a_new_client_waits_to_be_confirmed_once_there_is_somebody_to_do_it() {
    let world = World::start(|config| config.clients.new_clients = NewClients::Confirm).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let first = visit(server, "alice@localhost", "phone").await;
    let second = visit(server, "alice@localhost", "thief").await;
    let known = clients(server, &account).await;
    assert_eq!(known.iter().map(|c| c.unconfirmed).collect::<Vec<_>>(), [false, true]);
    assert!(first.alive() && second.alive());
}

#[tokio::test]
async fn a_password_does_not_revive_a_client_that_was_away_too_long_nor_its_tokens() {
    for away in [true, false] {
        let world = World::start(|config| {
            let span = Span::days(1);
            *(if away { &mut config.clients.inactivity } else { &mut config.clients.lifetime }) =
                span;
        })
        .await;
        let account = world.account("alice").await;
        let server = &world.server;
        leave(server, &visit(server, "alice@localhost", "phone").await).await;
        let first = clients(server, &account).await.remove(0);
        let parent = Parent::Client(first.id);
        let mint = Mint { parent, ..Mint::login(Role::User, "test") };
        let (_, token) = server.mint(&account, mint).await.expect("is minted");
        world.clock.advance(86_400_000 - 1);
        leave(server, &token_visit(server, &token.to_text()).await.expect("not yet")).await;
        let now = world.clock.now();
        eventually(async || (clients(server, &account).await[0].seen == Some(now)).then_some(()))
            .await;
        world.clock.advance(if away { 86_400_000 } else { 1 });
        let session = visit(server, "alice@localhost", "phone").await;
        assert_eq!(sid(&session), 2, "it is another one from now on");
        let denied = token_visit(server, &token.to_text()).await.expect_err("is over");
        assert_eq!(denied.failure.as_str(), "credentials-expired");
        let known = clients(server, &account).await;
        let why = if away { Over::Inactive } else { Over::Expired };
        assert_eq!(known[0].over.as_ref().map(|over| over.why), Some(why));
        // One that is here all the time has not been away.
        world.clock.advance(86_400_000 - 1);
        act(server, &session).await;
        world.clock.advance(1);
        assert_eq!(
            sid(visit(server, "alice@localhost", "phone").await.as_ref()),
            if away { 2 } else { 3 }
        );
    }
}

#[tokio::test]
async fn nobody_slips_in_who_proved_a_token_just_before_its_client_was_ended() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (found, text) =
        server.mint(&account, Mint::login(Role::User, "test")).await.expect("is minted");
    let session = tended(server);
    let proof = Secret::new(text.to_text().as_bytes());
    let proved = server.check_token(&session, None, proof).await.expect("is good");
    let tombstone =
        server::client::Tombstone::new(world.clock.now(), Over::Revoked, &admin(), None);
    server.bury_client(&found.client, &tombstone).await.expect("is written");
    // Whoever ends the sessions of the client now does not find this one.
    assert!(server.registry.of("alice@localhost").is_empty());
    let entered = server.enter(&session, proved, Mechanism::OauthBearer, None).await;
    assert!(entered.is_err() && !session.alive());
}

#[tokio::test]
async fn ro_06_ro_33_tokens_of_the_first_release_are_taken_over() {
    static TOKENS: Table = Table { name: "token", about: "" };
    static TOKEN_OWNERS: Table = Table { name: "token_owner", about: "" };
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let mut texts = Vec::new();
    for revoked in [false, true] {
        let secret = Secret::new(*b"0123456789abcdef01234567");
        let id = TokenId(7 + u64::from(revoked));
        let (key, server_key) = server.keys.current();
        let mac = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            wire::token::mac(&server_key, id, &secret),
        );
        let end = serde_json::json!({ "at": 5, "by": "uid:0", "reason": "lost" });
        let row = serde_json::json!({
            "id": id.to_string(), "account": account.id.0, "jid": account.jid, "key": key,
            "mac": mac, "generation": account.generation, "created": 4, "created_by": "uid:0",
            "expires": null, "inactive": null, "last_used": null, "role": "user",
            "purpose": "login", "label": "tablet", "resource": null,
            "revoked": if revoked { end } else { serde_json::Value::Null },
        });
        let place = id.0.to_be_bytes().to_vec();
        let batch = Batch::new().put(&TOKENS, account.id.0, place.clone(), row.to_string()).put(
            &TOKEN_OWNERS,
            SERVER,
            place,
            account.id.0.to_be_bytes().to_vec(),
        );
        server.store.commit(batch).await.expect("is written");
        let owner = "alice@localhost".parse_jid();
        texts.push(wire::Token { id, secret, owner }.to_text().to_string());
    }
    assert!(token_visit(server, &texts[0]).await.is_err(), "not before they are taken over");
    assert_eq!(server.upgrade().await, Ok(2));
    assert_eq!(server.upgrade().await, Ok(0));
    let session = token_visit(server, &texts[0]).await.expect("is as good as before");
    assert_eq!(clients(server, &account).await[0].label.as_deref(), Some("tablet"));
    let denied = token_visit(server, &texts[1]).await.expect_err("was revoked");
    assert_eq!(denied.text.as_deref(), Some("lost"));
    leave(server, &session).await;
}

#[tokio::test]
async fn ro_21_tokens_move_to_a_new_server_key_when_they_are_used() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let (_, used) = world.token(&account, None).await;
    let (_, unused) = world.token(&account, None).await;
    assert_eq!(server.keys.rotate().expect("is made"), 2);
    let counts = async || server.tokens_by_key().await.expect("are counted");
    assert_eq!(counts().await, [(1, 2)].into());
    leave(server, &token_visit(server, &used).await.expect("the older key is still good")).await;
    eventually(async || (counts().await == [(1, 1), (2, 1)].into()).then_some(())).await;
    server.keys.retire(1).expect("is written");
    leave(server, &token_visit(server, &used).await.expect("it has moved")).await;
    let denied = token_visit(server, &unused).await.expect_err("it has not");
    assert_eq!(denied.failure.as_str(), "not-authorized");
    let (_, new) = world.token(&account, None).await;
    leave(server, &token_visit(server, &new).await.expect("is of the new key")).await;
}

#[tokio::test]
async fn b_20_what_is_known_of_a_client_grows_vaguer_with_time() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let server = &world.server;
    let session = visit(server, "alice@localhost", "phone").await;
    session.set_software("Gajim 1.9");
    leave(server, &session).await;
    eventually(async || clients(server, &account).await[0].software.is_some().then_some(())).await;
    for (days, address, software) in [
        (29, Some("127.0.0.1"), true),
        (30, Some("127.0.0.0/24"), true),
        (180, None, true),
        (366, None, false),
    ] {
        let world_now = server::clock::Millis(crate::world::START.0 + days * 86_400_000);
        world.clock.advance(world_now.0 - world.clock.now().0);
        while !server.age_step().await.expect("goes on").finished {}
        let client = clients(server, &account).await.remove(0);
        assert_eq!(client.address.as_deref(), address, "{days} days");
        assert_eq!(client.software.is_some(), software, "{days} days");
    }
}

#[tokio::test]
async fn a_client_that_stays_is_noted_as_seen_and_does_not_lapse_meanwhile() {
    for (by_token, last_use) in [(false, 60), (true, 60), (true, 86_400)] {
        let world = World::start(|config| {
            config.clients.inactivity = Span::days(1);
            config.clients.last_use = Span::seconds(last_use);
            config.tokens.last_use = Span::days(30);
        })
        .await;
        let account = world.account("alice").await;
        let server = &world.server;
        let (_, token) = world.token(&account, None).await;
        let session = match by_token {
            true => bound_by(server, &token).await,
            false => visit(server, "alice@localhost", "phone").await,
        };
        // It sends nothing at all for ten days.
        let seen = async || clients(server, &account).await[usize::from(!by_token)].seen;
        for _ in 0..240 {
            world.clock.advance(3_600_000);
            assert_eq!(server.sweep(), 0);
            let now = world.clock.now();
            eventually(async || {
                seen().await.filter(|seen| now.seconds_since(*seen) < 8_640).map(drop)
            })
            .await;
        }
        if by_token {
            // Its token lets in a second one, for its client is good.
            leave(server, &token_visit(server, &token).await.expect("is let in")).await;
        }
        // Once it has gone, the clock runs.
        leave(server, &session).await;
        let last = seen().await.expect("was seen");
        world.clock.advance(86_400_000 - world.clock.now().seconds_since(last) * 1_000);
        let state = |client: &Client| {
            client.state(&account, &server.policy_of(&account), world.clock.now())
        };
        assert_eq!(state(&clients(server, &account).await[usize::from(!by_token)]), "inactive");
    }
}

#[tokio::test]
async fn a_new_lifetime_of_clients_counts_for_the_sessions_that_are_there() {
    const HOUR: u64 = 3_600_000;
    for by_token in [false, true] {
        let world = World::start(|_| {}).await;
        let account = world.account("alice").await;
        let server = &world.server;
        let (_, token) = world.token(&account, None).await;
        let session = match by_token {
            true => bound_by(server, &token).await,
            false => visit(server, "alice@localhost", "phone").await,
        };
        let set = async |span: Span| {
            let jid = "alice@localhost".parse_jid();
            let set = server.set_policy(&jid, |policy, _| policy.client_lifetime = Some(span));
            set.await.expect("is stored");
        };
        world.clock.advance(HOUR);
        set(Span::seconds(2 * 3_600)).await;
        set(Span::seconds(4 * 3_600)).await;
        world.clock.advance(3 * HOUR - 1);
        assert_eq!((server.sweep(), session.alive()), (0, true), "the latest counts");
        world.clock.advance(1);
        assert_eq!(server.sweep(), 1);
        assert_eq!(session.end_record().map(|record| record.reason), Some(Reason::TokenExpired));

        // And one that is taken back gives all the time there is.
        let account = world.account("bob").await;
        let (_, token) = world.token(&account, None).await;
        let session = bound_by(server, &token).await;
        let jid = "bob@localhost".parse_jid();
        for span in [Some(Span::seconds(100)), None] {
            let set = server.set_policy(&jid, |policy, _| policy.client_lifetime = span);
            set.await.expect("is stored");
        }
        world.clock.advance(1_000 * HOUR);
        assert_eq!((server.sweep(), session.alive()), (0, true));
    }
}
