//! The life of sessions as the registry, the events and the client see it: stages, deadlines, ends,
//! caps, and that a change of an account or token leaves nobody behind.
//!
//! Races are run against the server's own functions, without sockets, so that many rounds take no
//! time; [`tended`] stands in for the connection then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proptest::prelude::*;
use server::{
    Server, Session,
    account::Standing,
    config::{Conflict, Span},
    end::{Actor, End, Level, Outcome, Reason},
    events::Change,
    id::SessionId,
    registry::Counts,
    session::{Presence, Stage},
};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};
use wire::{Frame, Hash, Mechanism, Secret};

use crate::{
    dialogue::{Chunks, Link},
    world::{PASSWORD, ParseJid, Remote, START, World, assert_eventually, bind_request},
    xml::Item,
};

const ROSTER: &str = "<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>";

fn admin() -> Actor {
    Actor::Admin("test".into())
}

/// A session without a connection, settled as soon as it ends.
fn tended(server: &Arc<Server>) -> Arc<Session> {
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let session = server.connect(peer).expect("is let in");
    let (server, tended) = (server.clone(), session.clone());
    tokio::spawn(async move {
        while tended.alive() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.settle(&tended).await;
    });
    session
}

/// Logs a session in as somebody who has proved to be the owner of the account.
async fn enter(server: &Arc<Server>, session: &Arc<Session>, jid: &str) -> bool {
    let Ok((_, candidate)) = server.scram_keys(&jid.parse_jid(), Hash::Sha256).await else {
        return false;
    };
    server.enter(session, candidate, Mechanism::ScramSha256, None).await.is_ok()
}

/// The ends that were reported so far: reasons by session.
fn ends(events: &mut Receiver<server::events::Event>) -> HashMap<SessionId, Vec<Option<Reason>>> {
    let mut ends: HashMap<SessionId, Vec<Option<Reason>>> = HashMap::new();
    loop {
        match events.try_recv() {
            Ok(event) => {
                if let Change::Ended(record) = event.change {
                    let reason = record.map(|record| record.reason);
                    ends.entry(event.session.id).or_default().push(reason);
                }
            }
            Err(TryRecvError::Empty | TryRecvError::Closed) => return ends,
            Err(TryRecvError::Lagged(missed)) => panic!("{missed} events were missed"),
        }
    }
}

#[tokio::test]
async fn each_stage_is_seen_in_the_registry() {
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
async fn interest_comes_before_availability_as_well() {
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
    client.settle().await;
    world.clock.advance(99_999);
    assert_eq!(world.server.sweep(), 0, "it was active meanwhile");
    client.send(" ").await;
    world.clock.advance(1);
    assert_eq!(world.server.sweep(), 1, "white space is no activity");
    client.expect_error("reset").await;
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_the_token_stays_dead() {
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
             <ended xmlns='urn:usher:session:0' reason='token-expired' by='server'/></stream:error>",
        )
        .await;
    client.expect_close().await.expect("closes");
    let mut again = world.connect_in(true, Chunks::Whole).await;
    again.open().await;
    let answer = again.login_with(&token).await;
    assert!(answer.contains("<credentials-expired/>") && answer.contains("'expired'"), "{answer}");
}

#[tokio::test]
async fn an_end_for_any_reason_is_one_event_and_one_record() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut events = world.server.events.watch();
    for &reason in Reason::ALL {
        let mut client = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        assert!(world.server.end(&session, End::new(reason)), "{reason:?}");
        for late in [Reason::Kicked, Reason::Lost, reason] {
            assert!(!world.server.end(&session, End::new(late)), "{reason:?} again");
        }
        match reason {
            Reason::Lost => client.expect_cut().await.expect("nothing more"),
            Reason::Closed => client.expect_close().await.expect("closes"),
            _ => client.expect_error(reason.condition().as_str()).await,
        }
        drop(client);
        world.empty().await;
        let seen = ends(&mut events);
        assert_eq!(seen, HashMap::from([(session.id, vec![Some(reason)])]));
        let past = world.server.recent.get(session.id).expect("is remembered");
        assert_eq!((past.record.reason, past.record.at), (reason, START));
        let records = world.server.recent.all();
        assert_eq!(records.iter().filter(|past| past.id == session.id).count(), 1);
    }
}

#[tokio::test]
async fn what_happens_on_the_wire_ends_a_session_for_the_right_reason() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut events = world.server.events.watch();
    let causes: [(&str, Reason); 5] = [
        ("</stream:stream>", Reason::Closed),
        ("cut", Reason::Lost),
        ("<oops>", Reason::Protocol),
        ("<message from='bob@localhost'/>", Reason::Protocol),
        ("bind", Reason::Replaced),
    ];
    for (cause, reason) in causes {
        let mut client = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        let mut other = None;
        match cause {
            "cut" => client.link.cut(),
            "<oops>" => client.send("<oops><!-- -->").await,
            "bind" => other = Some(world.client("alice").await),
            text => client.send(text).await,
        }
        drop(client);
        assert_eventually("it is settled", || world.server.recent.get(session.id).is_some()).await;
        drop(other);
        world.empty().await;
        let mut seen = ends(&mut events);
        assert_eq!(seen.remove(&session.id), Some(vec![Some(reason)]), "{cause}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_end_a_session_one_wins_and_all_wait_for_it() {
    let world = World::start(|config| config.limits.per_address = 0).await;
    world.account("alice").await;
    let mut events = world.server.events.watch();
    for round in 0..40 {
        let mut client = world.client("alice").await;
        let session = world.session("alice@localhost/r");
        let won = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for task in 0..8 {
            let (server, session, won) = (world.server.clone(), session.clone(), won.clone());
            tasks.push(tokio::spawn(async move {
                let reason = if task % 2 == 0 { Reason::Kicked } else { Reason::Ended };
                let outcome = server.end_and_wait(&session, End::new(reason)).await;
                match outcome {
                    Outcome::Ended => won.fetch_add(1, Ordering::SeqCst),
                    Outcome::AlreadyEnded => 0,
                    Outcome::Lingering => panic!("it did not go"),
                };
                assert!(server.registry.get(session.id).is_none(), "it is really gone");
            }));
        }
        // The client leaves at the same moment, one way or the other.
        if round % 2 == 0 {
            client.send("</stream:stream>").await;
        }
        drop(client);
        for task in tasks {
            task.await.expect("does not panic");
        }
        assert!(won.load(Ordering::SeqCst) <= 1);
        let seen = ends(&mut events);
        assert_eq!(seen.get(&session.id).map(Vec::len), Some(1), "round {round}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_bind_one_resource_are_never_two() {
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
async fn an_account_has_no_more_sessions_than_it_may() {
    let world = World::start(|config| config.limits.per_account = 2).await;
    world.account("alice").await;
    world.account("bob").await;
    let one = world.bound("alice", "one").await;
    let _two = world.authed("alice").await;
    let mut third = world.connect().await;
    let refused = third.try_login("alice", PASSWORD).await.expect_err("one too many");
    assert!(refused.contains("temporary-auth-failure"), "{refused}");
    let _bob = world.client("bob").await;
    drop(one);
    assert_eventually("one has left", || world.server.registry.of("alice@localhost").len() == 1)
        .await;
    let _three = world.bound("alice", "three").await;
}

/// The number of the next message.
async fn number(client: &mut Remote) -> usize {
    loop {
        match client.next().await {
            Ok(Some(Item::Element(tree))) if tree.local == "message" => {
                let id = &tree.attrs[&(String::new(), "id".to_owned())];
                return id.parse().expect("a number");
            }
            Ok(Some(Item::Element(_))) => {}
            other => panic!("{other:?} instead of a message"),
        }
    }
}

/// Sends numbered messages to `to` until the session `slow` has ended; the number of the last one.
async fn flood(alice: &mut Remote, to: &str, slow: &Session) -> usize {
    let body = "x".repeat(30_000);
    for id in 1..2_000 {
        let text =
            format!("<message to='{to}' type='chat' id='{id}'><body>{body}</body></message>");
        alice.send(text).await;
        if id % 8 == 0 {
            alice.settle().await;
        }
        if !slow.alive() {
            return id;
        }
    }
    panic!("it never ended");
}

#[tokio::test]
async fn who_does_not_read_is_ended_and_what_waited_is_kept() {
    let world = World::start(|config| {
        config.limits.mailbox_bytes = 1 << 20;
        config.limits.bound.bytes_per_second = 0;
        config.sessions.close_wait = Span::seconds(1);
    })
    .await;
    world.account("alice").await;
    world.account("bob").await;
    let mut alice = world.client("alice").await;
    let slow = world.available("bob", "slow").await;
    let session = world.session("bob@localhost/slow");
    let last = flood(&mut alice, "bob@localhost/slow", &session).await;
    assert_eventually("it is settled", || world.server.recent.get(session.id).is_some()).await;
    let record = session.end_record().expect("has ended");
    assert_eq!(record.reason, Reason::SlowReader);
    alice.settle().await;

    let mut again = world.bound("bob", "again").await;
    again.send("<presence/>").await;
    // What was sent after the end may have been stored before what had waited until then.
    let mut seen = BTreeSet::new();
    while seen.len() <= 20 || seen.iter().copied().ne(seen.first().copied().unwrap_or(0)..=last) {
        assert!(seen.insert(number(&mut again).await), "none twice");
    }
    again.settle().await;
    drop(slow);
}

#[tokio::test]
async fn what_waited_for_who_does_not_read_goes_to_another_session() {
    let world = World::start(|config| {
        config.limits.mailbox_bytes = 1 << 20;
        config.limits.bound.bytes_per_second = 0;
        config.sessions.close_wait = Span::seconds(1);
    })
    .await;
    world.account("alice").await;
    world.account("bob").await;
    let mut alice = world.client("alice").await;
    let slow = world.available("bob", "slow").await;
    let mut other = world.available("bob", "other").await;
    let session = world.session("bob@localhost/slow");
    let last = flood(&mut alice, "bob@localhost/slow", &session).await;
    let mut seen = Vec::new();
    while seen.len() < 20 {
        seen.push(number(&mut other).await);
    }
    let distinct: HashSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "none twice: {seen:?}");
    assert!(seen.iter().all(|id| *id <= last));
    drop(slow);
}

#[tokio::test]
async fn a_change_of_the_account_ends_bound_and_unbound_sessions() {
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
                    server.set_password(&jid, keys, admin()).await
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
async fn nobody_slips_in_while_the_account_is_disabled() {
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
async fn nobody_slips_in_with_a_proof_of_the_old_password() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let jid = "alice@localhost".parse_jid();
    let server = &world.server;
    for round in 0..60 {
        let mut logins = Vec::new();
        let keys = server.keys_of(Secret::new("next")).await.expect("usable");
        for login in 0..4 {
            let (_, proved) = server.scram_keys(&jid, Hash::Sha256).await.expect("is there");
            let server = server.clone();
            logins.push(tokio::spawn(async move {
                for _ in 0..(round + login) % 5 {
                    tokio::task::yield_now().await;
                }
                let session = tended(&server);
                let done = server.enter(&session, proved, Mechanism::ScramSha256, None).await;
                if done.is_err() {
                    server.end(&session, End::peer(Reason::Closed));
                }
            }));
        }
        server.set_password(&jid, keys, admin()).await.expect("is changed");
        for login in logins {
            login.await.expect("does not panic");
        }
        let left = server.registry.of("alice@localhost");
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
    world.empty().await;
}

#[tokio::test]
async fn a_revoked_token_takes_its_sessions_with_it_and_no_others() {
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
    let revoked = world.server.revoke_token(id, &admin(), "test", reason).await;
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
async fn nobody_slips_in_while_the_token_is_revoked() {
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
                let entered = match server.check_token(None, Secret::new(token)).await {
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
        server.revoke_token(id, &admin(), "test", None).await.expect("is stored");
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
async fn a_graceful_stop_tells_everybody_and_takes_nobody_in() {
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
async fn a_request_to_bind_twice_at_once_binds_once() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut client = world.authed("alice").await;
    client.send(bind_request("a") + &bind_request("b")).await;
    client.expect("<iq type='result' id='bind'>…</iq>").await;
    client.expect("<iq type='error' id='bind' …>…</iq>").await;
    assert_eq!(world.server.registry.bound("alice@localhost").len(), 1);
}

/// What one task does next; numbers pick a session, an account or a resource.
#[derive(Clone, Copy, Debug)]
enum Op {
    Bind(usize, usize),
    Connect(usize),
    End(usize),
    Interested(usize),
    Login(usize, usize),
    Presence(usize, bool),
    Settle(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..1000_usize;
    prop_oneof![
        2 => n.clone().prop_map(Op::Connect),
        3 => (n.clone(), 0..3_usize).prop_map(|(s, a)| Op::Login(s, a)),
        3 => (n.clone(), 0..3_usize).prop_map(|(s, r)| Op::Bind(s, r)),
        2 => (n.clone(), any::<bool>()).prop_map(|(s, on)| Op::Presence(s, on)),
        1 => n.clone().prop_map(Op::Interested),
        1 => n.clone().prop_map(Op::End),
        1 => n.prop_map(Op::Settle),
    ]
}

const ACCOUNTS: [&str; 3] = ["a@localhost", "b@localhost", "c@localhost"];

async fn act(server: &Arc<Server>, all: &parking::Shared, op: Op) {
    let pick = |n: usize| all.pick(n);
    match op {
        Op::Connect(n) => {
            let address = Ipv4Addr::new(127, 0, 0, u8::try_from(n % 3 + 1).unwrap_or(1));
            if let Ok(session) = server.connect(SocketAddr::from((address, 1))) {
                all.add(session);
            }
        }
        Op::Login(n, account) => {
            if let Some(session) = pick(n) {
                enter(server, &session, ACCOUNTS[account]).await;
            }
        }
        Op::Bind(n, resource) => {
            if let Some(session) = pick(n) {
                let _ = server.bind(&session, Some(["x", "y", "z"][resource])).await;
            }
        }
        Op::Presence(n, on) => {
            if let Some(session) = pick(n) {
                let frame = Frame::parse("<presence/>").expect("a stanza");
                let presence = on.then_some(Presence { priority: 0, frame, since: START });
                server.registry.set_presence(&session, presence);
            }
        }
        Op::Interested(n) => {
            if let Some(session) = pick(n) {
                server.registry.set_interested(&session);
            }
        }
        Op::End(n) => {
            if let Some(session) = pick(n) {
                server.end(&session, End::new(Reason::Kicked));
            }
        }
        Op::Settle(n) => {
            if let Some(session) = pick(n) {
                server.settle(&session).await;
            }
        }
    }
}

/// The sessions that all tasks of a run share.
mod parking {
    use std::sync::{Arc, Mutex};

    use server::Session;

    #[derive(Default)]
    pub struct Shared(Mutex<Vec<Arc<Session>>>);

    impl Shared {
        pub fn add(&self, session: Arc<Session>) {
            self.0.lock().expect("nobody panics").push(session);
        }

        pub fn pick(&self, n: usize) -> Option<Arc<Session>> {
            let all = self.0.lock().expect("nobody panics");
            all.get(n.checked_rem(all.len())?).cloned()
        }
    }
}

/// The counters, counted by hand.
fn counted(sessions: &[Arc<Session>]) -> Counts {
    let at = |stage| sessions.iter().filter(|session| session.stage() == stage).count();
    Counts {
        total: sessions.len(),
        unauthed: at(Stage::Unauthed),
        c2s: at(Stage::C2s),
        bound: at(Stage::Bound),
        available: at(Stage::Available),
        interested: at(Stage::Interested),
    }
}

async fn churn(plans: Vec<Vec<Op>>) {
    let world = World::start_with(&[], |config| {
        config.limits.per_address = 20;
        config.limits.per_account = 8;
    })
    .await;
    for name in ACCOUNTS {
        world.account_with(name, PASSWORD).await;
    }
    let (server, all) = (world.server.clone(), Arc::new(parking::Shared::default()));
    let tasks = plans.into_iter().map(|plan| {
        let (server, all) = (server.clone(), all.clone());
        tokio::spawn(async move {
            for op in plan {
                act(&server, &all, op).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("does not panic");
    }
    let registry = &server.registry;
    let there: Vec<_> = registry.all().collect();
    assert_eq!(registry.counts(), counted(&there), "counters and list");
    let ids = |sessions: &[Arc<Session>]| -> HashSet<SessionId> {
        sessions.iter().map(|session| session.id).collect()
    };
    for name in ACCOUNTS {
        let mine = |session: &&Arc<Session>| {
            session.alive() && session.identity().is_some_and(|me| me.jid.as_str() == name)
        };
        let wanted: Vec<_> = there.iter().filter(mine).cloned().collect();
        let listed = registry.of(name);
        assert_eq!(ids(&listed), ids(&wanted), "the index of {name}");
        assert_eq!(listed.len(), wanted.len(), "each once");
        assert!(listed.len() <= 8, "the cap of an account");
        let names: HashSet<_> = listed.iter().filter_map(|session| session.full()).collect();
        let bound = listed.iter().filter(|session| session.full().is_some()).count();
        assert_eq!(names.len(), bound, "two sessions with one name");
    }
    let mut addresses: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for session in &there {
        addresses.entry(session.address()).or_default().push(session.clone());
    }
    for (address, wanted) in &addresses {
        assert_eq!(ids(&registry.at(*address)), ids(wanted), "the index of {address}");
        assert!(wanted.len() <= 20, "the cap of an address");
    }
    for session in &there {
        server.settle(session).await;
    }
    assert_eq!(registry.counts(), Counts::default(), "nothing is left");
    assert!(addresses.keys().all(|address| registry.at(*address).is_empty()));
    assert!(ACCOUNTS.iter().all(|name| registry.of(name).is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn counters_equal_the_lists_they_count(
        plans in prop::collection::vec(prop::collection::vec(op(), 1..80), 4),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(churn(plans));
    }
}
