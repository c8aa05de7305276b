//! A server that stops and sends its clients elsewhere.

use server::{
    pace::Pace,
    stop::{Elsewhere, Wish},
};

use crate::{
    dialogue::HEADER,
    world::{Remote, World, assert_eventually},
};

const WHERE: &str = "b.example:5222";

fn elsewhere() -> Elsewhere {
    WHERE.parse().expect("a host")
}

fn per_second(rate: u32) -> Pace {
    Pace::per_second(rate).expect("is not 0")
}

/// Is told where to go, and how that is called here.
async fn moved(client: &mut Remote) {
    client
        .expect(&format!(
            "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>{WHERE}\
             </see-other-host><text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>*\
             </text><ended xmlns='urn:usher:session:0' reason='shutdown' by='server'/>\
             </stream:error>"
        ))
        .await;
    client.expect_close().await.expect("is closed");
}

#[tokio::test]
async fn clients_are_sent_elsewhere_and_so_is_who_comes_meanwhile() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut bound = world.bound("alice", "a").await;
    let mut authed = world.authed("alice").await;
    let mut silent = world.connect().await;
    assert_eventually("all are here", || world.server.registry.counts().total == 3).await;
    assert!(world.server.stop.ask(Wish::MoveTo(elsewhere(), per_second(1_000))));
    let server = world.server.clone();
    let moving =
        tokio::spawn(async move { server.move_clients(&elsewhere(), per_second(1_000)).await });
    moved(&mut bound).await;
    moved(&mut authed).await;
    silent.expect("<stream:stream …>").await;
    moved(&mut silent).await;
    let mut late = world.connect().await;
    late.expect("<stream:stream …>").await;
    moved(&mut late).await;
    moving.await.expect("no panic");
    world.empty().await;
}

#[tokio::test]
async fn a_plain_stop_is_for_those_whose_turn_has_not_come() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut clients = Vec::new();
    for resource in ["a", "b", "c", "d", "e"] {
        clients.push(world.bound("alice", resource).await);
    }
    let sessions: Vec<_> = world.server.registry.all().collect();
    assert!(world.server.stop.ask(Wish::MoveTo(elsewhere(), per_second(1))));
    let server = world.server.clone();
    let task = tokio::spawn(async move { server.move_clients(&elsewhere(), per_second(1)).await });
    assert_eventually("one has to go", || sessions.iter().any(|one| !one.alive())).await;
    assert!(sessions.iter().any(|one| one.alive()), "one after the other");
    task.abort();
    let _ = task.await;
    world.server.stop.ask(Wish::Stop);
    let server = world.server.clone();
    let stopping = tokio::spawn(async move { server.shutdown().await });
    let mut told = Vec::new();
    for client in &mut clients {
        told.push(client.element().await);
        client.expect_close().await.expect("is closed");
    }
    stopping.await.expect("no panic");
    let of = |condition| told.iter().filter(|text| text.contains(condition)).count();
    let (moved, stopped) = (of("see-other-host"), of("system-shutdown"));
    assert!(moved > 0 && stopped > 0 && moved + stopped == 5, "{told:?}");
    let mut late = world.connect().await;
    late.send(HEADER).await;
    late.expect("<stream:stream …>").await;
    late.expect_error("system-shutdown").await;
}
