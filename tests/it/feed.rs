//! The feed of the own sessions, by clients with connections: over a resumption and a restart.

use crate::{
    managed::attribute,
    restarts::Place,
    world::{Remote, World, assert_eventually},
};

const SUBSCRIBE: &str = "<iq type='set' id='f'><subscribe xmlns='urn:usher:session:0'/></iq>";

async fn subscribe(client: &mut Remote) -> String {
    client.send(SUBSCRIBE).await;
    let answer = client.quiet_element().await;
    assert!(answer.contains("id='f'") && answer.contains("type='result'"), "{answer}");
    answer
}

/// The next push, as kind and address of each change.
async fn told(client: &mut Remote) -> Vec<(String, String)> {
    let push = client.quiet_element().await;
    assert!(push.starts_with("<iq ") && push.contains("<changes "), "{push}");
    changes(&push)
}

fn changes(push: &str) -> Vec<(String, String)> {
    let text = |one: &str, name| attribute(one, name).unwrap_or_default().to_owned();
    push.split("<session").skip(1).map(|one| (text(one, "change"), text(one, "jid"))).collect()
}

fn one(kind: &str, resource: &str) -> Vec<(String, String)> {
    vec![(kind.to_owned(), format!("alice@localhost/{resource}"))]
}

#[tokio::test]
async fn b_11_a_client_sees_others_come_lose_their_connection_come_back_and_go() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut desk = world.bound("alice", "desk").await;
    assert_eq!(subscribe(&mut desk).await.matches("<session ").count(), 1);
    let (phone, id) = world.managed("alice", "phone").await;
    assert_eq!(told(&mut desk).await, one("created", "phone"));
    world.lose(phone, "alice@localhost/phone").await;
    let push = desk.quiet_element().await;
    assert!(push.contains(" hibernating='true'"), "{push}");
    let (phone, _) = world.try_to_resume("alice", &id, 0).await;
    let push = desk.quiet_element().await;
    assert!(push.contains(" hibernating='false'"), "{push}");
    assert_eq!(changes(&push), one("changed", "phone"));
    drop(phone);
    let push = desk.quiet_element().await;
    assert!(push.contains(" hibernating='true'"), "{push}");
    // The owner ends it; the one that has the feed is told though it is the one that asks.
    let end = server::end::End::new(server::end::Reason::Ended);
    world.server.end(&world.session("alice@localhost/phone"), end);
    let push = desk.quiet_element().await;
    assert_eq!(changes(&push), one("ended", "phone"));
    assert!(push.contains(" reason='ended'") && push.contains(" by='server'"), "{push}");
    // What the client says to a push is nobody's business.
    let id = attribute(&push, "id").expect("has one").to_owned();
    desk.send(format!("<iq type='result' id='{id}'/>")).await;
    desk.settle().await;
}

#[tokio::test]
async fn b_11_what_changed_while_a_subscriber_hibernated_waits_for_it() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let (mut desk, id) = world.managed("alice", "desk").await;
    subscribe(&mut desk).await;
    desk.send("<a xmlns='urn:xmpp:sm:3' h='1'/>").await;
    desk.send("<r xmlns='urn:xmpp:sm:3'/>").await;
    assert!(desk.quiet_element().await.starts_with("<a "));
    let session = world.lose(desk, "alice@localhost/desk").await;
    // That it hibernates is the first thing that it will be told.
    assert_eventually("that is told", || session.mailbox.len() == 1).await;
    let _phone = world.bound("alice", "phone").await;
    assert_eventually("so is that", || session.mailbox.len() == 2).await;
    let (mut desk, answer) = world.try_to_resume("alice", &id, 1).await;
    assert!(answer.starts_with("<resumed "), "{answer}");
    assert_eq!(told(&mut desk).await, one("changed", "desk"));
    assert_eq!(told(&mut desk).await, one("created", "phone"));
    assert_eq!(told(&mut desk).await, one("changed", "desk"), "it is back");
}

#[tokio::test]
async fn b_11_after_a_restart_a_subscriber_is_told_everything_and_goes_on() {
    let place = Place::new(true);
    let world = place.start().await;
    world.account("alice").await;
    let (mut desk, id) = world.managed("alice", "desk").await;
    subscribe(&mut desk).await;
    let (_deaf, other) = world.managed("alice", "deaf").await;
    assert_eq!(told(&mut desk).await, one("created", "deaf"));
    // What it acknowledges is not sent again.
    desk.send("<a xmlns='urn:xmpp:sm:3' h='2'/><r xmlns='urn:xmpp:sm:3'/>").await;
    assert!(desk.quiet_element().await.starts_with("<a "));
    place.stop(world).await;

    let (world, woken) = place.start_and_wake().await;
    assert_eq!(woken, 2);
    let (mut desk, answer) = world.try_to_resume("alice", &id, 2).await;
    assert!(answer.starts_with("<resumed "), "{answer}");
    let whole = loop {
        let push = desk.quiet_element().await;
        if push.contains("<sessions ") {
            break push;
        }
        assert!(push.contains("<changes "), "of before: {push}");
    };
    assert!(whole.contains("type='set'"), "{whole}");
    assert_eq!(whole.matches("<session ").count(), 2, "{whole}");
    let _deaf = world.try_to_resume("alice", &other, 0).await;
    let push = desk.quiet_element().await;
    assert_eq!(changes(&push), one("changed", "deaf"));
}
