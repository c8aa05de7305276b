//! XEP-0160, as senders and receivers see it.

use server::end::{End, Reason};

use super::{
    OFFLINE,
    quota::{USAGE, Usage},
};
use crate::testing::{Client, World, eventually, one};

async fn say(from: &Client, text: &str) -> Vec<String> {
    from.tell(&format!(
        "<message type='chat' id='{text}' to='juliet@localhost'><body>{text}</body></message>"
    ))
    .await
}

/// The bodies of the messages that have come.
fn bodies(client: &Client) -> Vec<String> {
    let body = |xml: &String| Some(xml.split_once("<body>")?.1.split_once("</body>")?.0.to_owned());
    client.take().iter().filter_map(body).collect()
}

async fn stored(world: &World) -> usize {
    world.rows(&OFFLINE, "juliet").await.len()
}

async fn emptied(world: &World) {
    eventually("storage is empty", async || stored(world).await == 0).await;
}

#[tokio::test]
async fn messages_wait_in_order_and_come_once_with_their_time() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    for text in ["one", "two", "three"] {
        assert!(say(&romeo, text).await.is_empty(), "the sender hears nothing");
        world.clock.advance(1000);
    }
    let world = world.restarted();
    let juliet = world.bind("juliet/b").await;
    let came = juliet.tell("<presence/>").await;
    let delay = |second: u32| {
        format!(
            "<delay xmlns='urn:xmpp:delay' from='localhost' stamp='2026-11-22T10:00:0{second}.000Z'/>"
        )
    };
    let messages: Vec<_> = came.iter().filter(|xml| xml.starts_with("<message")).collect();
    assert_eq!(messages.len(), 3, "{came:?}");
    for ((message, text), second) in messages.iter().zip(["one", "two", "three"]).zip(0..) {
        assert!(message.contains(text) && message.contains(&delay(second)), "{message}");
        assert!(message.contains("from='romeo@localhost/a'"), "its true sender: {message}");
    }
    emptied(&world).await;
    juliet.vanish().await;
    let juliet = world.bind("juliet/b").await;
    juliet.send("<presence/>").await;
    assert!(bodies(&juliet).is_empty(), "once only");
}

#[tokio::test]
async fn a_negative_priority_gets_nothing_until_it_is_raised() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    let juliet = world.bind("juliet/b").await;
    juliet.send("<presence><priority>-1</priority></presence>").await;
    say(&romeo, "one").await;
    assert!(bodies(&juliet).is_empty());
    juliet.send("<presence><priority>0</priority></presence>").await;
    assert_eq!(bodies(&juliet), ["one"]);
    emptied(&world).await;
}

#[tokio::test]
async fn what_is_not_worth_keeping_is_not_kept() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    let message = |typ: &str, to: &str, inside: &str| {
        format!("<message type='{typ}' to='{to}@localhost' id='m'>{inside}</message>")
    };
    let body = "<body>hi</body>";
    let active = "<active xmlns='http://jabber.org/protocol/chatstates'/>";
    let hint = |hint: &str| format!("{body}<{hint} xmlns='urn:xmpp:hints'/>");
    for (xml, error) in [
        (message("chat", "juliet", active), "service-unavailable"),
        (message("chat", "juliet", &hint("no-store")), "service-unavailable"),
        (message("groupchat", "juliet", body), "service-unavailable"),
        (message("chat", "nobody", body), "service-unavailable"),
        (message("headline", "juliet", body), ""),
        (message("error", "juliet", body), ""),
    ] {
        let came = romeo.tell(&xml).await;
        assert_eq!(came.len(), usize::from(!error.is_empty()), "{xml}: {came:?}");
        assert!(came.iter().all(|answer| answer.contains(error)), "{xml}: {came:?}");
    }
    assert_eq!(stored(&world).await, 0);
    for xml in [
        message("normal", "juliet", body),
        message("wave", "juliet", body),
        message("chat", "juliet", &hint("no-permanent-store")),
        message("chat", "juliet", "<store xmlns='urn:xmpp:hints'/>"),
    ] {
        assert!(romeo.tell(&xml).await.is_empty(), "{xml}");
    }
    assert_eq!(stored(&world).await, 4);
}

#[tokio::test]
async fn beyond_the_limit_the_sender_is_told() {
    let world = World::with(&["romeo", "juliet"], |config| {
        config.storage_limits.offline_messages = 2;
    })
    .await;
    let romeo = world.online("romeo/a").await;
    assert!(say(&romeo, "one").await.is_empty() && say(&romeo, "two").await.is_empty());
    assert!(one(&say(&romeo, "three").await, &["service-unavailable", "id='three'"]));
    let juliet = world.online("juliet/b").await;
    emptied(&world).await;
    juliet.vanish().await;
    assert!(say(&romeo, "four").await.is_empty(), "there is room again");
}

/// Number and bytes of juliet's messages, as they are noted beside them.
async fn noted(world: &World) -> Usage {
    let rows = world.rows(&USAGE, "juliet").await;
    rows.first().map(|row| serde_json::from_slice(&row.value).expect("is ours")).unwrap_or_default()
}

#[tokio::test]
async fn nobody_stores_more_bytes_than_they_may_and_none_are_forgotten() {
    let world = World::with(&["romeo", "juliet"], |config| {
        config.storage_limits.offline_bytes = 3000;
    })
    .await;
    let romeo = world.online("romeo/a").await;
    let long = "x".repeat(900);
    assert!(say(&romeo, &long).await.is_empty() && say(&romeo, "short").await.is_empty());
    assert!(one(&say(&romeo, &long).await, &["service-unavailable"]));
    let rows = world.rows(&OFFLINE, "juliet").await;
    let bytes = rows.iter().map(|row| row.value.len() as u64).sum();
    assert_eq!(noted(&world).await, Usage { messages: 2, bytes });
    let juliet = world.online("juliet/b").await;
    emptied(&world).await;
    eventually("nothing is noted", async || noted(&world).await == Usage::default()).await;
    juliet.vanish().await;
    assert!(say(&romeo, &long).await.is_empty(), "there is room again");
}

#[tokio::test]
async fn two_sessions_that_come_at_once_never_both_get_a_message() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    let texts: Vec<_> = (0..200).map(|n| format!("m{n}")).collect();
    for text in &texts {
        say(&romeo, text).await;
    }
    let (a, b) = (world.bind("juliet/a").await, world.bind("juliet/b").await);
    tokio::join!(a.send("<presence/>"), b.send("<presence/>"));
    let mut got = Vec::new();
    eventually("all have come", async || {
        got.extend(bodies(&a));
        got.extend(bodies(&b));
        got.len() >= texts.len()
    })
    .await;
    emptied(&world).await;
    got.extend(bodies(&a));
    got.extend(bodies(&b));
    assert_eq!(got, texts, "each once, in order");
}

#[tokio::test]
async fn a_session_that_ends_before_it_read_them_loses_none() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    for text in ["one", "two"] {
        say(&romeo, text).await;
    }
    let first: Vec<_> = world.rows(&OFFLINE, "juliet").await;
    world.clock.advance(60_000);
    for _ in 0..3 {
        let juliet = world.bind("juliet/b").await;
        juliet.send_and_stall("<presence/>").await;
        assert!(juliet.session.mailbox.bytes() > 0, "they were handed over");
        juliet.vanish().await;
    }
    say(&romeo, "three").await;
    let juliet = world.bind("juliet/b").await;
    eventually("nobody hands out any more", async || {
        world.server.slot::<super::Desk>().busy.lock().is_empty()
    })
    .await;
    assert_eq!(world.rows(&OFFLINE, "juliet").await[..2], first, "stored as they were");
    let came = juliet.tell("<presence/>").await;
    let early = "stamp='2026-11-22T10:00:00.000Z'";
    let late = "stamp='2026-11-22T10:01:00.000Z'";
    let texts: Vec<_> = came.iter().filter(|xml| xml.contains("<body>")).collect();
    for (xml, (text, stamp)) in texts.iter().zip([("one", early), ("two", early), ("three", late)])
    {
        assert!(xml.contains(text) && xml.contains(stamp), "{xml}");
        assert_eq!(xml.matches("<delay").count(), 1, "{xml}");
    }
    assert_eq!(texts.len(), 3, "{came:?}");
    emptied(&world).await;
}

#[tokio::test]
async fn a_live_message_that_was_never_read_is_kept() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = (world.online("romeo/a").await, world.online("juliet/b").await);
    say(&romeo, "one").await;
    world.server.end(&juliet.session, End::new(Reason::Kicked));
    juliet.vanish().await;
    assert_eq!(stored(&world).await, 1);
    let juliet = world.bind("juliet/b").await;
    juliet.send("<presence/>").await;
    assert_eq!(bodies(&juliet), ["one"]);
}

#[tokio::test]
async fn more_than_a_mailbox_holds_comes_in_portions() {
    let world = World::with(&["romeo", "juliet"], |config| {
        config.limits.mailbox_bytes = 65_536;
    })
    .await;
    let romeo = world.online("romeo/a").await;
    let texts: Vec<_> = (0..40).map(|n| format!("{n:05000}")).collect();
    for text in &texts {
        say(&romeo, text).await;
    }
    let juliet = world.bind("juliet/b").await;
    juliet.send("<presence/>").await;
    let mut got = Vec::new();
    eventually("all have come", async || {
        assert!(juliet.session.alive(), "was not overwhelmed");
        got.extend(bodies(&juliet));
        got.len() >= texts.len()
    })
    .await;
    assert_eq!(got, texts);
    emptied(&world).await;
}

#[tokio::test]
async fn a_crash_before_they_were_taken_over_loses_none() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    say(&romeo, "one").await;
    let juliet = world.bind("juliet/b").await;
    juliet.send_and_stall("<presence/>").await;
    assert!(juliet.session.mailbox.bytes() > 0);
    assert_eq!(stored(&world).await, 1, "in the mailbox, and still in storage");
    let after = world.restarted();
    let juliet = after.bind("juliet/b").await;
    juliet.send("<presence/>").await;
    assert_eq!(bodies(&juliet), ["one"]);
    emptied(&after).await;
}
