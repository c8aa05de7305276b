//! Sessions whose streams are claimed, lost, ended and written down by several tasks at the same
//! moment: whatever comes first, each is in the end with one connection, waits for one, or is settled
//! with one record; never something in between that nobody sees to.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use server::{
    Server, Session,
    end::{End, Reason},
    events::Change,
    id::SessionId,
    mailbox::{Parcel, Take},
    resumption::Lease,
};
use wire::{
    Kind,
    stream::{Enable, Resume},
};

use crate::world::{World, enter};

/// What `net::Conn` does about a session whose stream is managed, without sockets: takes mail until it
/// is displaced, the session is over, or the connection breaks, which it does after so many turns.
async fn connection(server: Arc<Server>, session: Arc<Session>, lease: Lease, patience: usize) {
    for turn in 0.. {
        let waker = std::task::Waker::noop();
        if session.mailbox.take(lease.holder, 64, waker, drop) == Take::Displaced {
            return;
        }
        let broken = turn > patience;
        if broken && session.alive() && server.hibernate(&session, lease.holder) {
            return;
        }
        if broken || !session.alive() {
            drop(lease);
            server.settle(&session).await;
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A login of the same account that asks for the stream of `id`.
async fn come_back(server: Arc<Server>, id: String, patience: usize) {
    let peer = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 1));
    // Unless it stops.
    let Ok(session) = server.connect(peer) else { return };
    enter(&server, &session, "alice@localhost").await;
    match server.resume(&session, &Resume { previd: id, h: 0 }).await {
        Ok(continued) => {
            let lease = continued.lease;
            connection(server, continued.session, lease, patience).await;
        }
        Err(_) => {
            server.end(&session, End::new(Reason::Closed));
            server.settle(&session).await;
        }
    }
}

/// A number for each step; xorshift.
fn next(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    usize::try_from(*seed >> 40).unwrap_or(0)
}

async fn round(world: &World, seed: &mut u64, ends: bool, stops: bool) {
    let server = &world.server;
    let mut events = server.events.watch();
    let session = world.phantom("alice", "r").await;
    let enable = Enable { resume: true, max: None };
    let (enabled, lease) = server.manage(&session, enable).expect("can be managed");
    let (id, _) = enabled.resumable.expect("can be resumed");
    let mut tasks = Vec::new();
    let patience = next(seed) % 12;
    tasks.push(tokio::spawn(connection(server.clone(), session.clone(), lease, patience)));
    for _ in 0..2 + next(seed) % 2 {
        let patience = next(seed) % 12;
        tasks.push(tokio::spawn(come_back(server.clone(), id.clone(), patience)));
    }
    let (pusher, to) = (server.clone(), session.clone());
    tasks.push(tokio::spawn(async move {
        for _ in 0..4 {
            let xml = "<message from='b@localhost/r' type='headline'/>".as_bytes();
            pusher.push(&to, Parcel::whole(Kind::Message, xml.into()));
            tokio::task::yield_now().await;
        }
    }));
    if ends {
        let (server, session, wait) = (server.clone(), session.clone(), next(seed) % 16);
        tasks.push(tokio::spawn(async move {
            for _ in 0..wait {
                tokio::task::yield_now().await;
            }
            server.end(&session, End::new(Reason::Kicked));
        }));
    }
    if stops {
        let server = server.clone();
        tasks.push(tokio::spawn(async move { server.shutdown().await }));
    }
    for task in tasks {
        task.await.expect("does not panic");
    }
    let over = !session.alive();
    assert!(!ends || over, "it was ended");
    if over {
        assert!(server.settled(&session).await, "it has ended, and nobody settles it");
    } else {
        assert!(!session.connected(), "nobody has it, and it does not wait for anybody");
        let resumable = session.resumable().expect("is managed");
        assert!(resumable.until().is_some(), "it would wait for ever");
    }
    if !over {
        server.end(&session, End::new(Reason::Kicked));
        assert!(server.settled(&session).await);
    }
    // Another session's end, behind which there is nothing left to come.
    let last = if stops { session.clone() } else { world.phantom("alice", "last").await };
    server.settle(&last).await;
    let mut ended: HashMap<SessionId, usize> = HashMap::new();
    while !(ended.contains_key(&last.id) && ended.contains_key(&session.id)) {
        let event = events.recv().await.expect("not too many");
        if let Change::Ended(record) = event.change {
            assert!(record.is_some());
            *ended.entry(event.session.id).or_default() += 1;
        }
    }
    assert!(ended.values().all(|count| *count == 1), "{ended:?}");
}

async fn rounds(count: usize, ends: bool) {
    let world = World::without_doors(&[], |config| config.limits.per_address = 0);
    world.account("alice").await;
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..count {
        round(&world, &mut seed, ends, false).await;
    }
    let server = &world.server;
    assert_eq!(server.registry.counts(), server::registry::Counts::default());
    for last in [1, 2] {
        assert!(server.registry.at(Ipv4Addr::new(127, 0, 0, last).into()).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_claims_a_stream_at_the_same_moment_leaves_nobody_without_a_connection_and_a_deadline()
{
    rounds(1_000, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_that_ends_while_it_is_claimed_or_lost_is_settled_once() {
    rounds(1_000, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_that_ends_while_it_is_put_to_sleep_is_settled_once() {
    let mut seed = 0x2545_f491_4f6c_dd1d;
    for turn in 0..60 {
        let world = World::without_doors(&[], |config| config.limits.per_address = 0);
        world.account("alice").await;
        round(&world, &mut seed, turn % 2 == 0, true).await;
    }
}
