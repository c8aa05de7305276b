//! The life of sessions as the registry and the client see it: stages, deadlines, caps, resources.
//! How they end is in `ends`, and what changes of accounts do to them in `changes`.

use std::{collections::HashSet, net::SocketAddr};

use server::{
    config::{Conflict, Span},
    end::{End, Reason},
    id::SessionId,
    registry::Counts,
    session::Stage,
};
use wire::Mechanism;

use crate::{
    clients::eventually,
    dialogue::Chunks,
    world::{PASSWORD, ROSTER, START, World, assert_eventually, bind_request, enter, tended},
};

#[tokio::test]
async fn pr_01_pr_03_each_stage_is_seen_in_the_registry() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let counts = || world.server.registry.counts();
    let mut client = world.connect().await;
    assert_eventually("it is there", || counts().total == 1).await;
    let session = world.only();
    let one = Counts { total: 1, ..Counts::default() };
    assert_eq!((session.stage(), counts()), (Stage::Unauthed, Counts { unauthed: 1, ..one }));
    assert!(world.server.registry.of("alice@localhost").is_empty());

    client.login("alice", PASSWORD).await;
    assert_eq!((session.stage(), counts()), (Stage::C2s, Counts { c2s: 1, ..one }));
    assert_eq!(world.server.registry.of("alice@localhost").len(), 1);
    assert!(world.server.registry.bound("alice@localhost").is_empty());
    let identity = session.identity().expect("has logged in");
    assert_eq!((identity.mechanism, identity.since), (Mechanism::ScramSha256, START));

    client.bind("r").await;
    assert_eq!((session.stage(), counts()), (Stage::Bound, Counts { bound: 1, ..one }));
    assert_eq!(world.session("alice@localhost/r").id, session.id);

    client.send("<presence/>").await;
    client.expect("<presence from='alice@localhost/r' to='alice@localhost/r'/>").await;
    assert_eq!((session.stage(), counts()), (Stage::Available, Counts { available: 1, ..one }));

    client.send(ROSTER).await;
    client.expect("<iq type='result' id='roster' …>…</iq>").await;
    assert_eq!((session.stage(), counts()), (Stage::Interested, Counts { interested: 1, ..one }));

    client.send("<presence type='unavailable'/>").await;
    client.expect("<presence type='unavailable' …/>").await;
    client.settle().await;
    assert_eq!(session.stage(), Stage::Interested, "the roster is still of interest");
    assert!(session.presence().is_none());

    client.send("</stream:stream>").await;
    client.expect_close().await.expect("closes");
    world.empty().await;
    assert_eq!(counts(), Counts::default());
}

#[tokio::test]
async fn pr_02_interest_comes_before_availability_as_well() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut client = world.client("alice").await;
    client.send(ROSTER).await;
    client.expect("<iq type='result' id='roster' …>…</iq>").await;
    assert_eq!(world.only().stage(), Stage::Interested);
    assert!(world.only().presence().is_none());
}

#[tokio::test]
async fn a_connection_that_does_not_log_in_is_timed_out() {
    let world = World::start(|c| c.limits.unauthed.time = Span::seconds(60)).await;
    let mut silent = world.connect().await;
    let mut opened = world.connect().await;
    opened.open().await;
    assert_eventually("both are there", || world.server.registry.counts().total == 2).await;
    world.clock.advance(59_999);
    assert_eq!(world.server.sweep(), 0, "a moment too early");
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 2);
    assert_eq!(world.server.sweep(), 0, "only once");
    silent.expect("<stream:stream from='localhost' id='*' version='1.0' …>").await;
    silent.expect_error("connection-timeout").await;
    opened.expect_error("connection-timeout").await;
    world.empty().await;
}

#[tokio::test]
async fn a_tls_handshake_that_does_not_come_is_timed_out() {
    let world = World::start(|c| c.limits.unauthed.time = Span::seconds(60)).await;
    let mut client = world.connect().await;
    client.open().await;
    client.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    client.expect("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
    world.clock.advance(60_000);
    assert_eq!(world.server.sweep(), 1);
    client.expect_cut().await.expect("nothing in the clear behind <proceed/>");
    world.empty().await;
}

#[tokio::test]
async fn a_login_without_bind_is_timed_out_from_the_login_on() {
    let world = World::start(|config| {
        config.limits.unauthed.time = Span::seconds(60);
        config.limits.unbound.time = Span::seconds(30);
    })
    .await;
    world.account("alice").await;
    let mut client = world.connect().await;
    client.open().await;
    world.clock.advance(59_000);
    assert_eq!(world.server.sweep(), 0);
    drop(client);
    let mut client = world.authed("alice").await;
    world.clock.advance(29_999);
    assert_eq!(world.server.sweep(), 0, "a moment too early");
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 1);
    client.expect_error("connection-timeout").await;
    world.empty().await;
}

#[tokio::test]
async fn a_bound_session_outlives_both_and_ends_by_inactivity() {
    let world = World::start(|config| config.sessions.inactivity = Span::seconds(100)).await;
    world.account("alice").await;
    let mut client = world.client("alice").await;
    world.clock.advance(99_000);
    assert_eq!(world.server.sweep(), 0);
    client.act().await;
    world.clock.advance(99_999);
    assert_eq!(world.server.sweep(), 0, "it was active meanwhile");
    client.send(" ").await;
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 1, "white space is no activity");
    client.expect_error("reset").await;
}

#[tokio::test]
async fn pr_11_a_session_ends_with_its_token_and_the_token_stays_dead() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let (_, token) = world.token(&account, Some(100)).await;
    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.open().await;
    assert!(client.login_with(&token).await.starts_with("<success"));
    client.open().await;
    client.bind("r").await;
    world.clock.advance(99_999);
    assert_eq!(world.server.sweep(), 0, "a moment too early");
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 1);
    client
        .expect(
            "<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>*</text>\
             <ended xmlns='urn:usher:session:0' reason='token-expired' by='server'/>\
             </stream:error>",
        )
        .await;
    client.expect_close().await.expect("closes");
    let mut again = world.connect_in(true, Chunks::Whole).await;
    again.open().await;
    let answer = again.login_with(&token).await;
    assert!(answer.contains("<credentials-expired/>") && answer.contains("'expired'"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pr_19_many_who_bind_one_resource_are_never_two() {
    for policy in [Conflict::Replace, Conflict::Refuse, Conflict::Rename] {
        let world = World::start(|config| {
            config.sessions.conflict = policy;
            config.limits.per_account = 0;
        })
        .await;
        world.account("alice").await;
        let mut tasks = Vec::new();
        for _ in 0..16 {
            let server = world.server.clone();
            tasks.push(tokio::spawn(async move {
                let session = tended(&server);
                assert!(enter(&server, &session, "alice@localhost").await);
                let bound = server.bind(&session, Some("r")).await;
                bound.map(|jid| jid.to_string())
            }));
        }
        let mut bound = Vec::new();
        for task in tasks {
            bound.extend(task.await.expect("does not panic"));
        }
        let distinct: HashSet<&String> = bound.iter().collect();
        let alive = world.server.registry.bound("alice@localhost");
        let names: HashSet<_> = alive.iter().filter_map(|session| session.full()).collect();
        assert_eq!(names.len(), alive.len(), "{policy:?}: two sessions with one name");
        let holder = world.session("alice@localhost/r");
        assert!(holder.alive());
        let expected = match policy {
            Conflict::Replace => (16, 1, 1),
            Conflict::Refuse => (1, 1, 1),
            Conflict::Rename => (16, 16, 16),
        };
        assert_eq!((bound.len(), distinct.len(), alive.len()), expected, "{policy:?}");
    }
}

#[tokio::test]
async fn the_older_session_is_seen_to_leave_before_the_newer_comes() {
    let world = World::start(|config| config.sessions.conflict = Conflict::Replace).await;
    world.account("alice").await;
    let mut watcher = world.available("alice", "watcher").await;
    let mut old = world.available("alice", "r").await;
    watcher.expect("<presence from='alice@localhost/r' to='*'/>").await;
    let mut new = world.client("alice").await;
    new.send("<presence/>").await;
    watcher.expect("<presence type='unavailable' from='alice@localhost/r' to='*'/>").await;
    watcher.expect("<presence from='alice@localhost/r' to='*'/>").await;
    old.expect("<presence from='alice@localhost/watcher' …/>").await;
    old.expect_error("conflict").await;
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_it_may() {
    let world = World::start(|config| config.limits.per_address = 2).await;
    let mut first = world.connect().await;
    first.open().await;
    let mut second = world.connect().await;
    second.open().await;
    let mut third = world.connect().await;
    third.expect("<stream:stream from='localhost' …>").await;
    third.expect_error("policy-violation").await;
    assert_eq!(world.server.registry.counts().total, 2);
    drop(first);
    assert_eventually("one has left", || world.server.registry.counts().total == 1).await;
    world.connect().await.open().await;
}

#[tokio::test]
async fn an_ipv6_network_counts_as_one_address() {
    let world = World::start(|config| config.limits.per_address = 1).await;
    let server = &world.server;
    let connect = |address: &str| {
        let peer = SocketAddr::new(address.parse().expect("an address"), 5222);
        server.connect(peer)
    };
    let first = connect("2001:db8:1:2::1").expect("is the first");
    assert!(connect("2001:db8:1:2:ffff::2").is_err(), "the same peer by another name");
    let other = connect("2001:db8:1:3::1").expect("another network");
    // Asked for by address, each is found alone; and IPv4 in IPv6's clothes is IPv4.
    let at = |address: &str| server.registry.at(address.parse().expect("an address")).len();
    assert_eq!((at("2001:db8:1:2::1"), at("2001:db8:1:2::2"), at("2001:db8:1:3::1")), (1, 0, 1));
    let mapped = connect("::ffff:192.0.2.1").expect("another address");
    assert!(connect("192.0.2.1").is_err());
    assert_eq!(at("192.0.2.1"), 1);
    for session in [first, other, mapped] {
        server.settle(&session).await;
    }
    connect("2001:db8:1:2:ffff::2").expect("there is room again");
}

#[tokio::test]
async fn an_account_has_no_more_sessions_than_it_may() {
    let world = World::start(|config| config.limits.per_account = 2).await;
    world.account("alice").await;
    world.account("bob").await;
    let one = world.bound("alice", "one").await;
    let mut two = world.bound("alice", "two").await;

    // RFC 6120 section 7.6.2.1.
    let mut third = world.authed("alice").await;
    third.send(bind_request("three")).await;
    third
        .expect(
            "<iq type='error' id='bind'><error type='wait'>\
             <resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>…</error></iq>",
        )
        .await;
    // But it may take the place of another.
    third.bind("two").await;
    two.expect_error("conflict").await;
    let _bob = world.client("bob").await;
    drop(one);
    assert_eventually("one has left", || world.server.registry.of("alice@localhost").len() == 1)
        .await;
    let _three = world.bound("alice", "three").await;
}

#[tokio::test]
async fn an_account_has_no_more_unbound_sessions_than_it_may_have_bound_ones() {
    let world = World::start(|config| config.limits.per_account = 2).await;
    world.account("alice").await;
    let _waiting = (world.authed("alice").await, world.authed("alice").await);
    let mut third = world.connect().await;
    let refused = third.try_login("alice", PASSWORD).await.expect_err("one too many");
    assert!(refused.contains("temporary-auth-failure"), "{refused}");
}

#[tokio::test]
async fn pr_18_a_graceful_stop_tells_everybody_and_takes_nobody_in() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut bound = world.client("alice").await;
    let mut unbound = world.authed("alice").await;
    let mut fresh = world.connect().await;
    fresh.open().await;
    let server = world.server.clone();
    let stopped = tokio::spawn(async move { server.shutdown().await });
    for client in [&mut bound, &mut unbound, &mut fresh] {
        client.expect_error("system-shutdown").await;
    }
    drop((bound, unbound, fresh));
    stopped.await.expect("does not panic");
    assert_eq!(world.server.registry.counts().total, 0);
    let mut late = world.connect().await;
    late.expect("<stream:stream …>").await;
    late.expect_error("system-shutdown").await;
}

#[tokio::test]
async fn pr_19_a_request_to_bind_twice_at_once_binds_once() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut client = world.authed("alice").await;
    client.send(bind_request("a") + &bind_request("b")).await;
    client.expect("<iq type='result' id='bind'>…</iq>").await;
    client.expect("<iq type='error' id='bind' …>…</iq>").await;
    assert_eq!(world.server.registry.bound("alice@localhost").len(), 1);
}

/// A source of ids that gives these, one after the other, and then the last one for ever.
fn draw(world: &World, ids: &'static [u128]) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    world.server.session_ids.draw_from(move || {
        let index = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        SessionId(ids[index.min(ids.len() - 1)])
    });
}

async fn alarms(world: &World) -> Vec<server::audit::Entry> {
    let entries = world.server.audit_tail(100).await.expect("is read");
    entries.into_iter().filter(|entry| entry.what == "duplicate session id").collect()
}

#[tokio::test]
async fn ro_15_an_id_that_comes_twice_is_drawn_anew_with_an_alarm() {
    // With a cap on all connections and without: there are two ways in.
    for cap in [0, 100] {
        let world = World::without_doors(&[], |config| config.limits.connections = cap);
        draw(&world, &[7, 7, 7, 8, 8, 9]);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let ids: Vec<u128> = (0..3)
            .map(|_| world.server.connect(peer).expect("is let in"))
            .map(|session| session.id.0)
            .collect();
        assert_eq!(ids, [7, 8, 9]);
        assert_eq!(world.server.registry.counts().total, 3);
        let found = eventually(async || {
            let found = alarms(&world).await;
            (found.len() == 2).then_some(found)
        })
        .await;
        let id = SessionId(8).to_string();
        assert!(found.iter().any(|entry| entry.args["session"] == id.as_str()), "{found:?}");
        assert!(found.iter().all(|entry| !entry.ok && entry.who == "server"));
        // The end of one is not the end of another.
        let first = world.server.registry.get(SessionId(7)).expect("is there");
        world.server.end(&first, End::new(Reason::Kicked));
        world.server.settle(&first).await;
        assert_eq!(world.server.registry.counts().total, 2);
        assert!(world.server.registry.get(SessionId(8)).is_some_and(|other| other.alive()));
    }
}

#[tokio::test]
async fn ro_15_an_id_that_comes_twice_is_refused_if_the_configuration_says_so_or_it_never_ends() {
    use server::config::DuplicateIds::{Refuse, Retry};
    for (policy, ids) in [(Refuse, &[7, 7, 8][..]), (Retry, &[7])] {
        let world = World::without_doors(&[], |config| {
            config.sessions.duplicate_ids = policy;
            config.limits.per_address = 2;
        });
        draw(&world, ids);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let first = world.server.connect(peer).expect("is let in");
        let refused = world.server.connect(peer).expect_err("is refused");
        assert_eq!(refused.condition, wire::StreamCondition::InternalServerError);
        assert!(first.alive());
        assert_eq!(world.server.registry.counts().total, 1);
        eventually(async || (alarms(&world).await.len() == 1).then_some(())).await;
        if policy == Refuse {
            // Whoever was refused takes up no room.
            world.server.connect(peer).expect("has an id of its own");
        }
    }
}
