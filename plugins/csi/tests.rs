use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use server::{hooks::Moment, mailbox::Parcel, session::Feature};
use wire::{Frame, Kind, ns};

use super::{MOST, NAMESPACE};
use crate::testing::{Client, World, one};

/// The client says what its user does, as over a stream.
fn say(world: &World, client: &Client, state: &str) {
    let nonzas = &world.server.registrations.nonzas;
    let found = nonzas.iter().find(|nonza| (nonza.namespace, nonza.local) == (NAMESPACE, state));
    let frame = Frame::parse(format!("<{state} xmlns='{NAMESPACE}'/>")).expect("is well-formed");
    found.expect("is registered").call(&moment(world, client), &frame.root());
}

fn moment(world: &World, client: &Client) -> Moment {
    Moment { server: world.server.clone(), session: client.session.clone() }
}

fn parcel(kind: Kind, xml: &str) -> Parcel {
    Parcel::whole(kind, xml.to_owned().into())
}

fn push(world: &World, client: &Client, kind: Kind, xml: &str) -> bool {
    world.server.push(&client.session, parcel(kind, xml))
}

/// A session to whom stanzas come from all sides.
async fn inactive() -> (World, Client) {
    let world = World::new(&["juliet"]).await;
    let juliet = world.online("juliet/a").await;
    say(&world, &juliet, "inactive");
    (world, juliet)
}

#[tokio::test]
async fn presence_waits_and_of_each_only_the_newest() {
    let (world, juliet) = inactive().await;
    let presence = |from: &str, show: &str| {
        let xml = format!("<presence from='{from}' to='juliet@localhost'>{show}</presence>");
        assert!(push(&world, &juliet, Kind::Presence, &xml));
    };
    presence("a@h/1", "<show>away</show>");
    presence("a@h/2", "");
    presence("b@h/1", "");
    presence("a@h/1", "<show>dnd</show>");
    let gone = "<presence from='b@h/1' type='unavailable' to='juliet@localhost'/>";
    assert!(push(&world, &juliet, Kind::Presence, gone));
    assert!(juliet.take().is_empty());

    say(&world, &juliet, "active");
    let came = juliet.take();
    assert_eq!(came.len(), 3, "{came:?}");
    assert!(came[0].contains("a@h/2") && came[1].contains("dnd"), "{came:?}");
    assert_eq!(came[2], gone);
    assert!(!juliet.session.has(Feature::Outbound), "the way is free again");
    presence("c@h/1", "");
    assert_eq!(juliet.take().len(), 1, "nothing waits any more");
    say(&world, &juliet, "active");
    assert!(juliet.take().is_empty(), "said twice, it changes nothing");
}

#[tokio::test]
async fn what_matters_goes_at_once_behind_what_has_waited() {
    let states = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";
    for (kind, xml) in [
        (Kind::Message, "<message from='a@h/1'><body>hi</body></message>".to_owned()),
        (Kind::Message, format!("<message from='a@h/1'>{states}<body>hi</body></message>")),
        (Kind::Message, format!("<message from='a@h/1'>{states}<x xmlns='urn:x'/></message>")),
        (Kind::Message, format!("<message from='a@h/1' type='error'>{states}</message>")),
        (Kind::Message, "<message from='a@h/1'/>".to_owned()),
        (Kind::Iq, "<iq from='a@h/1' type='get' id='1'><x xmlns='urn:x'/></iq>".to_owned()),
        (Kind::Presence, "<presence from='a@h' type='subscribe'/>".to_owned()),
        (Kind::Presence, "<presence from='a@h/1' type='error'/>".to_owned()),
        (Kind::Presence, "<presence from='juliet@localhost/a'/>".to_owned()),
        (
            Kind::Presence,
            "<presence from='r@h/me'><x xmlns='http://jabber.org/protocol/muc#user'>\
             <status code='110'/></x></presence>"
                .to_owned(),
        ),
    ] {
        let (world, juliet) = inactive().await;
        for from in ["a@h/1", "b@h/1", "r@h/me"] {
            push(&world, &juliet, Kind::Presence, &format!("<presence from='{from}'/>"));
        }
        assert!(juliet.take().is_empty());
        assert!(push(&world, &juliet, kind, &xml));
        let mut expected: Vec<_> =
            ["a@h/1", "b@h/1", "r@h/me"].map(|from| format!("<presence from='{from}'/>")).into();
        expected.push(xml);
        assert_eq!(juliet.take(), expected);
        push(&world, &juliet, Kind::Presence, "<presence from='a@h/1'/>");
        assert!(juliet.take().is_empty(), "it is inactive still");
    }
}

#[tokio::test]
async fn an_answer_comes_behind_what_has_waited() {
    let (world, juliet) = inactive().await;
    push(&world, &juliet, Kind::Presence, "<presence from='a@h/1'/>");
    say(&world, &juliet, "active");
    juliet.send("<iq type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    let came = juliet.take();
    assert!(came.len() == 2 && came[1].contains("id='p'"), "{came:?}");
}

#[tokio::test]
async fn chat_states_are_dropped_and_their_sender_does_not_notice() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    let (a, b) = (world.online("juliet/a").await, world.online("juliet/b").await);
    let enable = format!("<iq type='set' id='c'><enable xmlns='{}'/></iq>", ns::CARBONS);
    for client in [&a, &b] {
        client.send(&enable).await;
        say(&world, client, "inactive");
        client.take();
    }
    let state = format!("<composing xmlns='{}'/>", ns::CHAT_STATES);
    let hint = format!("<no-store xmlns='{}'/>", ns::HINTS);
    for to in ["juliet@localhost", "juliet@localhost/a"] {
        for content in [state.clone(), format!("{state}<thread>t</thread>{hint}")] {
            let xml = format!("<message to='{to}' type='chat' id='m'>{content}</message>");
            assert!(romeo.tell(&xml).await.is_empty(), "no error: {xml}");
            assert!(a.take().is_empty() && b.take().is_empty(), "neither message nor copy: {xml}");
        }
        let xml = format!("<message to='{to}' type='chat'>{state}<body>hi</body></message>");
        romeo.send(&xml).await;
        assert_eq!((a.take().len(), b.take().len()), (1, 1), "{xml}");
    }
    say(&world, &a, "active");
    assert!(a.take().is_empty(), "they are not kept");
    romeo.send(&format!("<message to='juliet@localhost/a'>{state}</message>")).await;
    assert_eq!((a.take().len(), b.take().len()), (1, 0), "one is active");
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let (world, juliet) = inactive().await;
    let presence = |number: usize| format!("<presence from='a@h/{number}'/>");
    for number in 0..MOST {
        push(&world, &juliet, Kind::Presence, &presence(number));
    }
    push(&world, &juliet, Kind::Presence, &presence(0));
    assert!(juliet.take().is_empty(), "as many as may wait");
    push(&world, &juliet, Kind::Presence, &presence(MOST));
    let came = juliet.take();
    assert_eq!(came.len(), MOST + 1);
    let ends = (presence(1), presence(0), presence(MOST));
    assert_eq!((&came[0], &came[MOST - 1], &came[MOST]), (&ends.0, &ends.1, &ends.2));

    // And in bytes, before the mailbox is too small for it.
    let limit = world.server.config.limits.mailbox_bytes;
    let status = "x".repeat(limit / 8);
    let mut waited = 0;
    while juliet.session.mailbox.bytes() == 0 {
        let xml = format!("<presence from='b@h/{waited}'><status>{status}</status></presence>");
        assert!(push(&world, &juliet, Kind::Presence, &xml));
        waited += 1;
        assert!(waited < 8, "never more than a mailbox may hold");
    }
    assert!(waited > 1 && juliet.session.alive());
}

#[tokio::test]
async fn every_session_and_every_connection_begins_active() {
    let (world, juliet) = inactive().await;
    let other = world.online("juliet/b").await;
    assert!(!other.session.has(Feature::Outbound));
    juliet.take();
    push(&world, &juliet, Kind::Presence, "<presence from='a@h/1'/>");
    assert!(juliet.take().is_empty());
    assert!(world.server.hooks.resumed.tell(&moment(&world, &juliet)).is_none());
    assert_eq!(juliet.take().last().map(String::as_str), Some("<presence from='a@h/1'/>"));
    push(&world, &juliet, Kind::Presence, "<presence from='a@h/2'/>");
    assert_eq!(juliet.take().len(), 1);
}

#[tokio::test]
async fn it_can_be_said_within_the_bind_and_is_announced() {
    let world = World::new(&["juliet"]).await;
    let juliet = world.bind("juliet/a").await;
    let inline = &world.server.registrations.inline;
    for (state, held) in [("inactive", true), ("active", false)] {
        let found = inline.iter().find(|one| (one.namespace, one.local) == (NAMESPACE, state));
        let frame = Frame::parse(format!("<{state} xmlns='{NAMESPACE}'/>")).expect("is XML");
        let found = found.expect("is registered");
        assert_eq!(found.var, NAMESPACE);
        assert!(found.call(&moment(&world, &juliet), &frame.root()).is_none());
        assert_eq!(juliet.session.has(Feature::Outbound), held);
    }
    let announced = format!("<csi xmlns='{NAMESPACE}'/>");
    let announced: Arc<str> = announced.into();
    assert!(world.server.registrations.stream_features.contains(&announced));
}

#[tokio::test]
async fn nobody_sees_the_state() {
    let world = World::new(&["romeo", "juliet"]).await;
    world.befriend("romeo", "juliet").await;
    let (romeo, juliet) = (world.online("romeo/a").await, world.online("juliet/a").await);
    romeo.take();
    say(&world, &juliet, "inactive");
    assert!(romeo.take().is_empty());
    // Its own presence goes both ways as ever; that of others waits.
    let came = juliet.tell("<presence><show>away</show></presence>").await;
    assert!(one(&came, &["from='juliet@localhost/a'", "away"]), "{came:?}");
    assert!(one(&romeo.take(), &["from='juliet@localhost/a'", "away"]));
    romeo.send("<presence><show>dnd</show></presence>").await;
    assert!(juliet.take().is_empty());
    let message = "<message to='juliet@localhost' type='chat'><body>hi</body></message>";
    assert!(!one(&romeo.tell(message).await, &["type='error'"]));
    let came = juliet.take();
    assert!(came.len() == 2 && came[0].contains("dnd") && came[1].contains("<body>"), "{came:?}");
}

#[tokio::test]
async fn whoever_has_no_room_for_what_has_waited_ends() {
    let (world, juliet) = inactive().await;
    let limit = world.server.config.limits.mailbox_bytes;
    let text = |bytes| "x".repeat(bytes);
    let message = format!("<message from='a@h/1'><body>{}</body></message>", text(limit * 2 / 3));
    assert!(push(&world, &juliet, Kind::Message, &message));
    let presence =
        format!("<presence from='a@h/1'><status>{}</status></presence>", text(limit / 3));
    assert!(push(&world, &juliet, Kind::Presence, &presence));
    assert!(juliet.session.alive());
    say(&world, &juliet, "active");
    assert!(!juliet.session.alive());
}

#[tokio::test]
async fn order_holds_while_the_state_changes() {
    let (world, juliet) = inactive().await;
    // One sender, and a client that cannot make up its mind.
    let done = Arc::new(AtomicBool::new(false));
    let sender = {
        let (server, session, done) =
            (world.server.clone(), juliet.session.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                // Never more than the mailbox may hold.
                if session.mailbox.bytes() > 10_000 {
                    std::thread::yield_now();
                    continue;
                }
                for kind in [Kind::Presence, Kind::Message] {
                    let name = if kind == Kind::Presence { "presence" } else { "message" };
                    let xml = format!("<{name} from='a@h/1' id='{number}'/>");
                    server.push(&session, parcel(kind, &xml));
                    number += 1;
                }
            }
            number
        })
    };
    let mut came = Vec::new();
    for _ in 0..15_000 {
        say(&world, &juliet, "active");
        say(&world, &juliet, "inactive");
        came.extend(juliet.take());
    }
    done.store(true, Ordering::Relaxed);
    let sent: u32 = sender.join().expect("does not panic");
    came.extend(juliet.take());
    let number = |xml: &String| {
        let frame = Frame::parse(xml.clone()).expect("is well-formed");
        frame.id().and_then(|id| id.parse::<u32>().ok()).expect("is a number")
    };
    assert!(came.iter().map(number).eq(0..sent), "all, each behind what came before it");
}
