use server::{
    hooks::Moment,
    session::{Feature, Flags},
};
use wire::{Frame, ns};

use crate::{
    offline::OFFLINE,
    testing::{Client, World, eventually, one},
};

const HI: &str = "<body>hi</body>";

async fn enable(client: &Client) {
    let iq = format!("<iq type='set' id='c'><enable xmlns='{}'/></iq>", ns::CARBONS);
    assert!(client.ask(&iq).await.contains("type='result'"));
}

async fn with_carbons(world: &World, who: &str) -> Client {
    let client = world.online(who).await;
    enable(&client).await;
    client
}

/// Those of Juliet's sessions that have carbons, and Romeo, with nothing left to read.
async fn scene(world: &World, mine: &[&str]) -> (Client, Vec<Client>) {
    let romeo = world.online("romeo/a").await;
    let mut juliet = Vec::new();
    for who in mine {
        juliet.push(with_carbons(world, who).await);
    }
    for client in &juliet {
        client.take();
    }
    (romeo, juliet)
}

/// The message within a copy, with its direction.
fn unwrap(copy: &str) -> (String, String) {
    let frame = Frame::parse(copy.as_bytes().to_vec()).expect("is well-formed");
    let outer = frame.payload().expect("has a payload");
    assert_eq!((outer.ns, outer.children()), (ns::CARBONS, 1), "{copy}");
    let forwarded = outer.el.child("forwarded", ns::FORWARD).expect("is forwarded");
    let message = forwarded.children().next().expect("is there");
    assert!(message.is("message", ns::CLIENT), "{copy}");
    (outer.local.into(), String::from_utf8_lossy(message.raw()).into_owned())
}

#[tokio::test]
async fn copies_of_what_is_received_and_sent() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = scene(&world, &["juliet/a", "juliet/b"]).await;
    let plain = world.online("juliet/plain").await;
    juliet.iter().for_each(|client| drop(client.take()));

    let message = "<thread>t</thread><x:y xmlns:x='urn:x'><x:z/></x:y>";
    let message =
        format!("<message to='juliet@localhost/a' type='chat' id='m'>{HI}{message}</message>");
    romeo.send(&message).await;
    let original = juliet[0].take();
    assert_eq!(original.len(), 1, "nothing but the message: {original:?}");
    let copies = juliet[1].take();
    assert_eq!(copies.len(), 1, "{copies:?}");
    let head = "<message type='chat' from='juliet@localhost' to='juliet@localhost/b'>";
    assert!(copies[0].starts_with(head), "{copies:?}");
    let (direction, inner) = unwrap(&copies[0]);
    let delivered = original[0].replacen("<message", "<message xmlns='jabber:client'", 1);
    assert_eq!((direction.as_str(), inner), ("received", delivered));

    juliet[0]
        .send("<message to='romeo@localhost' type='chat' id='n'><body>lo</body></message>")
        .await;
    assert!(juliet[0].take().is_empty(), "never to whoever has sent it");
    let copies = juliet[1].take();
    assert_eq!(copies.len(), 1, "{copies:?}");
    let (direction, inner) = unwrap(&copies[0]);
    assert_eq!(direction, "sent");
    let parts = ["from='juliet@localhost/a'", "to='romeo@localhost'", "<body>lo</body>"];
    assert!(one(&[inner], &parts), "{copies:?}");

    plain.send(&format!("<message to='romeo@localhost/a' type='chat'>{HI}</message>")).await;
    for client in &juliet {
        assert!(one(&client.take(), &["<sent", "juliet@localhost/plain"]), "whoever sends it");
    }
    assert!(plain.take().is_empty(), "it has not asked for copies");
}

#[tokio::test]
async fn it_is_turned_on_and_off_as_often_as_wanted() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = scene(&world, &["juliet/a", "juliet/b"]).await;
    let message = format!("<message to='juliet@localhost/a' type='chat'>{HI}</message>");
    let payload = |name: &str| format!("<{name} xmlns='{}'/>", ns::CARBONS);
    for (name, copies) in [("enable", 1), ("disable", 0), ("disable", 0), ("enable", 1)] {
        for to in ["", " to='juliet@localhost'"] {
            let iq = format!("<iq type='set' id='c'{to}>{}</iq>", payload(name));
            let answer = juliet[1].ask(&iq).await;
            assert!(answer.contains("type='result'"), "{answer}");
        }
        romeo.send(&message).await;
        assert_eq!(juliet[1].take().len(), copies, "{name}");
    }
    let iq = format!("<iq type='get' id='c'>{}</iq>", payload("enable"));
    assert!(juliet[1].ask(&iq).await.contains("bad-request"));
    let iq = format!("<iq type='set' id='c' to='romeo@localhost'>{}</iq>", payload("enable"));
    assert!(juliet[1].ask(&iq).await.contains("type='error'"));
}

#[tokio::test]
async fn it_is_on_from_the_bind_on_if_asked_for_within() {
    let world = World::new(&["juliet"]).await;
    let juliet = world.bind("juliet/a").await;
    let inline = &world.server.registrations.inline;
    let inline = inline.iter().find(|inline| inline.local == "enable").expect("is registered");
    assert_eq!((inline.var, inline.namespace), (ns::CARBONS, ns::CARBONS));
    let element = format!("<enable xmlns='{}'/>", ns::CARBONS);
    let moment = Moment { server: world.server.clone(), session: juliet.session.clone() };
    let frame = Frame::parse(element).expect("is well-formed");
    assert!(!juliet.session.has(Feature::Carbons));
    assert!(inline.call(&moment, &frame.root()).is_none());
    assert!(juliet.session.has(Feature::Carbons));
    for feature in [ns::CARBONS, super::RULES] {
        assert!(world.server.registrations.host_features.contains(&feature));
    }
}

#[tokio::test]
async fn what_goes_with_conversations_is_copied() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = scene(&world, &["juliet/a", "juliet/b"]).await;
    let room = "<x xmlns='http://jabber.org/protocol/muc#user'";
    let room_with_invitation = format!("{room}><invite to='a@b'/></x>");
    let room = format!("{room}/>");
    let private_chat = format!("{HI}{room}");
    let invited_from_room = format!("{room}<x xmlns='jabber:x:conference' jid='r@h'/>");
    let private = format!("{HI}<private xmlns='{}'/>", ns::CARBONS);
    let no_copy = format!("{HI}<no-copy xmlns='{}'/>", ns::HINTS);
    let both = format!("{private}<no-copy xmlns='{}'/>", ns::HINTS);
    let state = format!("<active xmlns='{}'/>", ns::CHAT_STATES);
    let state = state.as_str();
    // Type, content, whether it is copied when it is received and when it is sent.
    for (typ, content, received, sent) in [
        ("chat", HI, true, true),
        ("chat", "", true, true),
        ("chat", "<x xmlns='urn:x'/>", true, true),
        ("normal", HI, true, true),
        ("normal", "<x xmlns='urn:x'/>", false, false),
        ("normal", "<body xmlns='urn:x'/>", false, false),
        ("unknown", HI, true, true),
        ("normal", state, true, true),
        ("normal", "<received xmlns='urn:xmpp:receipts' id='1'/>", true, true),
        ("normal", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", true, true),
        ("normal", "<x xmlns='jabber:x:conference' jid='r@h'/>", true, true),
        ("normal", &room_with_invitation, true, true),
        ("headline", HI, false, false),
        ("groupchat", HI, false, false),
        ("groupchat", state, false, false),
        ("error", HI, false, false),
        ("chat", &private, false, false),
        ("chat", &no_copy, false, false),
        ("chat", &both, false, false),
        ("chat", &private_chat, false, true),
        ("chat", &invited_from_room, true, true),
    ] {
        let message = |to| format!("<message to='{to}' type='{typ}'>{content}</message>");
        romeo.send(&message("juliet@localhost/a")).await;
        let original = juliet[0].take();
        assert_eq!(original.len(), 1, "{typ} {content}");
        assert!(original[0].contains(content), "it is passed on as it is: {original:?}");
        assert_eq!(juliet[1].take().len(), usize::from(received), "received: {typ} {content}");
        juliet[0].send(&message("romeo@localhost/a")).await;
        assert_eq!(juliet[1].take().len(), usize::from(sent), "sent: {typ} {content}");
        assert_eq!(romeo.take().len(), 1);
    }
    for xml in [
        "<presence to='juliet@localhost/a'/>",
        "<iq to='juliet@localhost/a' type='result' id='1'/>",
    ] {
        romeo.send(xml).await;
        assert!(juliet[1].take().is_empty(), "only messages: {xml}");
    }
}

#[tokio::test]
async fn a_copy_is_not_copied_and_cannot_be_forged() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = scene(&world, &["juliet/a", "juliet/b"]).await;
    let inner = format!("<message xmlns='jabber:client' from='pope@h'>{HI}</message>");
    for name in ["received", "sent"] {
        let content = format!("<forwarded xmlns='{}'>{inner}</forwarded>", ns::FORWARD);
        let content = format!("<{name} xmlns='{}'>{content}</{name}>", ns::CARBONS);
        romeo.send(&format!("<message to='juliet@localhost/a'>{content}</message>")).await;
        let came = [juliet[0].take(), juliet[1].take()].concat();
        assert!(!came.concat().contains("pope"), "{came:?}");
        assert_eq!(came.len(), 1, "there is nothing left to be copied: {came:?}");
    }
}

#[tokio::test]
async fn who_gets_the_message_gets_no_copy() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = scene(&world, &["juliet/a", "juliet/b", "juliet/low"]).await;
    juliet[2].send("<presence><priority>-1</priority></presence>").await;
    juliet.iter().for_each(|client| drop(client.take()));
    romeo.send(&format!("<message to='juliet@localhost' type='chat'>{HI}</message>")).await;
    for client in &juliet[..2] {
        let came = client.take();
        assert!(came.len() == 1 && !came[0].contains(ns::CARBONS), "the message: {came:?}");
    }
    let came = juliet[2].take();
    assert!(came.len() == 1 && came[0].contains("<received"), "a copy: {came:?}");

    // To oneself: everybody has it once, however it is addressed.
    for to in ["juliet@localhost", "juliet@localhost/b"] {
        juliet[0].send(&format!("<message to='{to}' type='chat'>{HI}</message>")).await;
        let [a, b, low] = [0, 1, 2].map(|index: usize| juliet[index].take());
        assert_eq!(a.len(), usize::from(!to.contains('/')), "it is addressed itself: {a:?}");
        assert_eq!((b.len(), low.len()), (1, 1), "{b:?} {low:?}");
        assert!(!b.concat().contains(ns::CARBONS) && low[0].contains("<received"), "{low:?}");
    }
}

#[tokio::test]
async fn what_is_sent_is_copied_wherever_it_goes_and_so_is_the_error() {
    let world = World::new(&["juliet"]).await;
    let (a, b) = (with_carbons(&world, "juliet/a").await, with_carbons(&world, "juliet/b").await);
    for to in
        ["romeo@localhost", "romeo@localhost/x", "romeo@example.net", "example.net", "localhost"]
    {
        let message = format!("<message to='{to}' type='chat' id='m'>{HI}</message>");
        a.take();
        b.take();
        a.send(&message).await;
        assert!(one(&a.take(), &["type='error'", "id='m'"]), "{to}");
        let copies = b.take();
        assert_eq!(copies.len(), 2, "{to}: {copies:?}");
        assert_eq!(unwrap(&copies[0]).0, "sent");
        let (direction, error) = unwrap(&copies[1]);
        assert_eq!(direction, "received");
        assert!(one(&[error], &["type='error'", "id='m'", &format!("from='{to}'")]), "{copies:?}");
        let private = format!("{HI}<private xmlns='{}'/>", ns::CARBONS);
        a.send(&message.replace(HI, &private)).await;
        assert!(one(&a.take(), &["type='error'"]), "{to}");
    }
}

#[tokio::test]
async fn an_error_is_copied_if_the_message_was() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = scene(&world, &["juliet/a", "juliet/b"]).await;
    let message = |to: &str, id: &str, typ: &str| {
        format!("<message to='{to}' type='{typ}' id='{id}'>{HI}</message>")
    };
    juliet[0].send(&message("romeo@localhost", "1", "chat")).await;
    juliet[0].send(&message("romeo@localhost", "2", "headline")).await;
    romeo.send(&message("juliet@localhost/a", "3", "chat")).await;
    juliet.iter().for_each(|client| drop(client.take()));
    for (id, copied) in [("1", 1), ("2", 0), ("3", 0), ("4", 0)] {
        romeo.send(&message("juliet@localhost/a", id, "error")).await;
        assert_eq!(juliet[0].take().len(), 1);
        assert_eq!(juliet[1].take().len(), copied, "received {id}");
    }
    for (id, copied) in [("1", 0), ("3", 1), ("4", 0)] {
        juliet[0].send(&message("romeo@localhost/a", id, "error")).await;
        assert_eq!(juliet[1].take().len(), copied, "sent {id}");
    }
}

#[tokio::test]
async fn a_copy_that_nobody_reads_goes_nowhere() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, mut juliet) = scene(&world, &["juliet/a", "juliet/b"]).await;
    let third = with_carbons(&world, "juliet/c").await;
    juliet.iter().chain([&third]).for_each(|client| drop(client.take()));
    // One is read, the other sent: neither is anybody's loss.
    romeo
        .send(&format!("<message to='juliet@localhost/a' type='normal' id='m'>{HI}</message>"))
        .await;
    assert_eq!(juliet[0].take().len(), 1);
    juliet[0].send(&format!("<message to='romeo@localhost/a' type='chat'>{HI}</message>")).await;
    romeo.take();
    assert_eq!(third.take().len(), 2);
    juliet.pop().expect("is there").vanish().await;
    for client in [&third, &juliet[0]] {
        let came = client.take();
        assert_eq!(came.len(), 1, "neither the message nor a second copy: {came:?}");
        assert!(came[0].contains("unavailable"), "{came:?}");
    }
    assert!(romeo.take().is_empty(), "no error");
    assert!(world.rows(&OFFLINE, "juliet").await.is_empty(), "not stored");
    // An error about a copy goes to the account, and ends there.
    third.send("<message to='juliet@localhost' type='error'/>").await;
    assert!(juliet[0].take().is_empty() && romeo.take().is_empty());
}

#[tokio::test]
async fn a_message_and_its_copy_are_not_both_delivered_again() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, mut juliet) = scene(&world, &["juliet/a", "juliet/b"]).await;
    romeo
        .send(&format!("<message to='juliet@localhost/a' type='chat' id='m'>{HI}</message>"))
        .await;
    juliet.remove(0).vanish().await;
    let came: Vec<_> = juliet[0].take();
    assert!(one(&came, &["id='m'"]), "whoever has the copy has it: {came:?}");
    assert!(world.rows(&OFFLINE, "juliet").await.is_empty());

    let again = with_carbons(&world, "juliet/a").await;
    juliet[0].take();
    romeo
        .send(&format!("<message to='juliet@localhost/a' type='chat' id='n'>{HI}</message>"))
        .await;
    again.vanish().await;
    juliet.remove(0).vanish().await;
    let stored = async || world.rows(&OFFLINE, "juliet").await.len() == 1;
    eventually("what nobody has read is stored", stored).await;
    let later = world.bind("juliet/later").await;
    let came = later.tell("<presence/>").await;
    let parts = ["id='n'", "from='romeo@localhost/a'", "to='juliet@localhost/a'", "<delay"];
    assert!(one(&came, &parts), "{came:?}");
    assert!(!came.concat().contains(ns::CARBONS), "the message, not the copy: {came:?}");
}

#[tokio::test]
async fn a_copy_does_not_stand_for_the_message_with_who_takes_none() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, mut juliet) = scene(&world, &["juliet/low", "juliet/unread", "juliet/a"]).await;
    for low in &juliet[..2] {
        low.send("<presence><priority>-1</priority></presence>").await;
        low.take();
    }
    juliet.iter().for_each(|client| drop(client.take()));
    romeo
        .send(&format!("<message to='juliet@localhost/a' type='chat' id='m'>{HI}</message>"))
        .await;
    assert!(one(&juliet[0].take(), &["<received", "id='m'"]), "it sees what comes");
    juliet.pop().expect("is there").vanish().await;
    assert_eq!(world.rows(&OFFLINE, "juliet").await.len(), 1, "the message waits for another");
    let came = juliet[0].take();
    assert!(one(&came, &["unavailable"]) && came.len() == 1, "no second copy: {came:?}");
    juliet.pop().expect("is there").vanish().await;
    assert_eq!(world.rows(&OFFLINE, "juliet").await.len(), 1, "and once");
}

#[tokio::test]
async fn what_nobody_takes_is_copied_to_those_who_are_there() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = scene(&world, &["juliet/low"]).await;
    juliet[0].send("<presence><priority>-1</priority></presence>").await;
    let soon = world.bind("juliet/soon").await;
    enable(&soon).await;
    juliet[0].take();
    romeo.send(&format!("<message to='juliet@localhost' type='chat' id='m'>{HI}</message>")).await;
    assert!(one(&juliet[0].take(), &["<received", "id='m'"]));
    assert!(!soon.session.flags().has(Flags::AVAILABLE));
    assert!(soon.take().is_empty(), "it gets the message itself");
    assert!(one(&soon.tell("<presence/>").await, &["id='m'", "<delay"]));

    // Left unread, it is stored still, once.
    soon.vanish().await;
    romeo.send(&format!("<message to='juliet@localhost' type='chat' id='n'>{HI}</message>")).await;
    let unread = juliet.into_iter().next().expect("is there");
    unread.vanish().await;
    assert_eq!(world.rows(&OFFLINE, "juliet").await.len(), 1);
}
