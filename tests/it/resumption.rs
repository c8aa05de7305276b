//! Who may go on with a stream, and what happens when several want to at the same moment, or somebody
//! ends it meanwhile. Sessions have no connections here: a test says itself what one would do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::Duration,
};

use server::{
    Server, Session,
    end::{End, Level, Reason},
    mailbox::Take,
    resumption::{Continued, Lease},
};
use wire::stream::{Enable, Failed, Resume};

use crate::world::{World, admin, enter, tended};

const ALICE: &str = "alice@localhost";

/// A login from somewhere, with nothing bound.
async fn arrive(server: &Arc<Server>, address: [u8; 4]) -> Arc<Session> {
    let session = server.connect(SocketAddr::from((address, 1))).expect("is let in");
    assert!(enter(server, &session, ALICE).await);
    session
}

/// A session that can be resumed, with its connection's right to it.
async fn managed(server: &Arc<Server>, address: [u8; 4]) -> (Arc<Session>, String, Lease) {
    let session = arrive(server, address).await;
    server.bind(&session, Some("r")).await.expect("may bind");
    let (enabled, lease) =
        server.manage(&session, Enable { resume: true, max: None }).expect("may be managed");
    (session, enabled.resumable.expect("can be resumed").0, lease)
}

/// The same once its connection has broken.
async fn asleep(server: &Arc<Server>, address: [u8; 4]) -> (Arc<Session>, String) {
    let (session, id, lease) = managed(server, address).await;
    assert!(server.hibernate(&session, lease.holder));
    (session, id)
}

async fn resume(
    server: &Arc<Server>,
    session: &Arc<Session>,
    id: &str,
) -> Result<Continued, Failed> {
    server.resume(session, &Resume { previd: id.to_owned(), h: 0 }).await
}

#[tokio::test]
async fn iv_18_a_bound_client_resumes_from_where_it_may_come_and_from_nowhere_else() {
    let world = World::without_doors(plugins::ALL, |_| {});
    world.account("alice").await;
    let server = &world.server;
    let (session, id) = asleep(server, [192, 0, 2, 1]).await;
    let me = session.identity().expect("is in");
    let sid = me.client().expect("is known").sid;
    let bound = server.change_client(me.account, sid, |client| {
        client.bound_to = Some("192.0.2.0/24".parse().expect("a network"));
        true
    });
    bound.await.expect("is stored");

    let elsewhere = arrive(server, [198, 51, 100, 1]).await;
    let failed = resume(server, &elsewhere, &id).await.err().expect("is refused");
    assert_eq!((failed.h, failed.app), (None, None), "no more than about one that is not there");
    assert!(session.alive() && !session.connected(), "it loses nothing by that");
    assert!(elsewhere.alive());

    let here = arrive(server, [192, 0, 2, 77]).await;
    let continued = resume(server, &here, &id).await.expect("may go on");
    assert!(Arc::ptr_eq(&continued.session, &session) && session.connected());
    assert_eq!(session.address(), std::net::IpAddr::from([192, 0, 2, 77]));
    assert!(!here.alive() && here.settled(), "it has become the other one");
    assert_eq!(server.registry.at([192, 0, 2, 77].into()).len(), 1);
    assert_eq!(server.registry.at([192, 0, 2, 1].into()).len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn t5_an_end_that_meets_a_resumption_ends_it_whichever_comes_first() {
    let world = World::without_doors(plugins::ALL, |config| config.limits.per_address = 0);
    world.account("alice").await;
    let server = &world.server;
    let (mut before, mut after) = (0, 0);
    for round in 0..200_u32 {
        let (session, id) = asleep(server, [127, 0, 0, 1]).await;
        let new = tended(server);
        assert!(enter(server, &new, ALICE).await);
        let kick = End { level: Level::Kick, actor: admin(), ..End::new(Reason::Kicked) };
        let (task, old) = (server.clone(), session.clone());
        let kicked = tokio::spawn(async move {
            for _ in 0..round % 20 {
                tokio::task::yield_now().await;
            }
            task.end(&old, kick)
        });
        let resumed = resume(server, &new, &id).await;
        assert!(kicked.await.expect("does not panic"), "it was there to be ended");
        assert!(!session.alive());
        match resumed {
            Ok(continued) => {
                after += 1;
                // As its connection would.
                drop(continued.lease);
                server.settle(&session).await;
                assert!(!new.alive());
            }
            Err(_) => {
                before += 1;
                assert!(new.alive(), "it may bind a resource now");
                server.end(&new, End::peer(Reason::Closed));
                assert!(server.settled(&new).await);
            }
        }
        assert!(server.settled(&session).await);
        assert_eq!(session.end_record().map(|record| record.reason), Some(Reason::Kicked));
        assert_eq!(server.registry.of(ALICE).len(), 0);
        assert_eq!(server.registry.counts().total, 0);
    }
    assert!(before + after == 200, "{before} before, {after} after");
}

/// What a connection does that goes on with a stream until it is displaced, or nobody else is left.
async fn hold(continued: Continued, running: Arc<AtomicUsize>) -> Option<Continued> {
    loop {
        let holder = continued.lease.holder;
        let taken = continued.session.mailbox.take(holder, 99, Waker::noop(), drop);
        if taken == Take::Displaced {
            drop(continued);
            running.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        if running.load(Ordering::SeqCst) == 1 {
            return Some(continued);
        }
        tokio::time::sleep(Duration::from_micros(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pr_19_of_many_who_resume_a_stream_at_once_exactly_one_has_it() {
    const MANY: usize = 6;
    let world = World::without_doors(plugins::ALL, |config| config.limits.per_address = 0);
    world.account("alice").await;
    let server = &world.server;
    for _ in 0..50 {
        let (session, id) = asleep(server, [127, 0, 0, 1]).await;
        let running = Arc::new(AtomicUsize::new(MANY));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..MANY {
            let new = tended(server);
            assert!(enter(server, &new, ALICE).await);
            let (server, id, running) = (server.clone(), id.clone(), running.clone());
            tasks.spawn(async move {
                match resume(&server, &new, &id).await {
                    Ok(continued) => hold(continued, running).await,
                    Err(_) => {
                        assert!(server.end(&new, End::peer(Reason::Closed)), "may bind instead");
                        running.fetch_sub(1, Ordering::SeqCst);
                        None
                    }
                }
            });
        }
        let mut winners = Vec::new();
        while let Some(done) = tasks.join_next().await {
            winners.extend(done.expect("does not panic"));
        }
        assert_eq!(winners.len(), 1, "one has it");
        assert!(session.alive() && session.connected());
        assert_eq!(session.resumable().and_then(|resumable| resumable.until()), None);
        assert!(session.resumable().is_some_and(|resumable| resumable.resumptions() >= 1));
        server.end(&session, End::peer(Reason::Closed));
        server.settle(&session).await;
        crate::world::assert_eventually("nobody is left", || server.registry.counts().total == 0)
            .await;
    }
}

#[tokio::test]
async fn t3_what_an_older_connection_does_late_touches_nothing_of_a_stream_that_went_on() {
    let world = World::without_doors(plugins::ALL, |_| {});
    world.account("alice").await;
    let server = &world.server;
    let (session, id, lease) = managed(server, [127, 0, 0, 1]).await;
    let new = arrive(server, [127, 0, 0, 2]).await;
    let (task, waits, name) = (server.clone(), new.clone(), id.clone());
    let resumed = tokio::spawn(async move { resume(&task, &waits, &name).await });
    let old = lease.holder;
    while session.mailbox.holder() == old {
        tokio::task::yield_now().await;
    }
    // It breaks now, while another one waits for it to be through with its last stanza.
    assert!(!session.mailbox.receive(old), "what it still reads is not taken in");
    assert!(server.hibernate(&session, old), "it is not its to end");
    drop(lease);
    let continued = resumed.await.expect("does not panic").expect("goes on");
    assert!(session.alive() && session.connected());
    assert!(server.hibernate(&session, old), "nor is it later");
    assert!(session.connected(), "and it does not hibernate");
    assert!(session.mailbox.receive(continued.lease.holder));
    assert_eq!(server.registry.counts().hibernating, 0);
}

#[tokio::test]
async fn t1_t2_ids_of_others_and_of_sessions_that_cannot_be_resumed_open_nothing() {
    let world = World::without_doors(plugins::ALL, |_| {});
    for name in ["alice", "bob"] {
        world.account(name).await;
    }
    let server = &world.server;
    let (session, id) = asleep(server, [127, 0, 0, 1]).await;
    let bob = tended(server);
    assert!(enter(server, &bob, "bob@localhost").await);
    let too_high = Resume { previd: id.clone(), h: 99 };
    assert!(server.resume(&bob, &too_high).await.is_err());
    assert!(bob.alive(), "a count of somebody else's stream is not looked at");
    assert!(session.alive() && session.mailbox.claim(0).is_ok());

    let bound = arrive(server, [127, 0, 0, 1]).await;
    server.bind(&bound, Some("bound")).await.expect("may bind");
    assert!(resume(server, &bound, &id).await.is_err(), "it has a resource already");
    assert!(bound.alive() && session.alive());
}
