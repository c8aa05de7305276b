//! RFC 6121 sections 3 and 4, as clients see them.

use server::end::{End, Reason};

use crate::testing::{Client, World, one};

/// Two who see each other, both online.
async fn friends() -> (World, Client, Client) {
    let world = World::new(&["romeo", "juliet"]).await;
    world.befriend("romeo", "juliet").await;
    let (romeo, juliet) = (world.online("romeo/a").await, world.online("juliet/b").await);
    romeo.take();
    (world, romeo, juliet)
}

#[tokio::test]
async fn initial_presence_goes_both_ways() {
    let world = World::new(&["romeo", "juliet", "nurse"]).await;
    world.befriend("romeo", "juliet").await;
    let nurse = world.online("nurse/n").await;
    let romeo = world.bind("romeo/a").await;
    let came = romeo.tell("<presence xml:lang='it'><status>Eccomi</status></presence>").await;
    assert!(came.len() == 1 && one(&came, &["from='romeo@localhost/a'", "Eccomi"]), "{came:?}");
    let juliet = world.bind("juliet/b").await;
    let came = juliet.tell("<presence><show>away</show></presence>").await;
    assert_eq!(came.len(), 2, "herself and Romeo: {came:?}");
    let romeos = ["from='romeo@localhost/a'", "to='juliet@localhost/b'", "Eccomi", "xml:lang='it'"];
    assert!(one(&came, &romeos), "{came:?}");
    let came = romeo.take();
    let hers = ["from='juliet@localhost/b'", "to='romeo@localhost'", "<show>away</show>"];
    assert!(came.len() == 1 && one(&came, &hers), "{came:?}");
    assert!(nurse.take().is_empty(), "is nobody's contact");
}

#[tokio::test]
async fn own_sessions_see_each_other() {
    let world = World::new(&["romeo"]).await;
    let a = world.bind("romeo/a").await;
    a.send("<presence><status>first</status></presence>").await;
    a.take();
    let silent = world.bind("romeo/silent").await;
    let b = world.bind("romeo/b").await;
    let came = b.tell("<presence/>").await;
    assert!(came.len() == 2 && one(&came, &["from='romeo@localhost/a'", "first"]), "{came:?}");
    assert!(one(&a.take(), &["from='romeo@localhost/b'", "to='romeo@localhost/a'"]));
    assert!(silent.take().is_empty(), "has not sent presence");
    let came = a.tell("<presence type='unavailable'><status>bye</status></presence>").await;
    assert!(came.len() == 1 && one(&came, &["unavailable", "bye"]), "hears itself leave: {came:?}");
    assert!(one(&b.take(), &["unavailable", "from='romeo@localhost/a'", "bye"]));
}

#[tokio::test]
async fn later_presence_is_broadcast_and_nobody_is_asked_again() {
    let (_world, romeo, juliet) = friends().await;
    let came = romeo.tell("<presence><show>dnd</show></presence>").await;
    assert_eq!(came.len(), 1, "only himself, nothing of Juliet: {came:?}");
    assert!(one(&juliet.take(), &["from='romeo@localhost/a'", "dnd"]));
    romeo.send("<presence type='unavailable'/>").await;
    assert!(one(&juliet.take(), &["unavailable", "from='romeo@localhost/a'"]));
    assert!(romeo.tell("<presence type='unavailable'/>").await.is_empty(), "was not there");
    assert!(juliet.take().is_empty());
}

#[tokio::test]
async fn contacts_hear_of_every_kind_of_end() {
    for cause in ["lost", "kicked", "closed", "replaced"] {
        let (world, romeo, juliet) = friends().await;
        let session = romeo.session.clone();
        match cause {
            "lost" => romeo.vanish().await,
            "kicked" => assert!(world.server.end(&session, End::new(Reason::Kicked))),
            "closed" => assert!(world.server.end(&session, End::peer(Reason::Closed))),
            _ => drop(world.bind("romeo/a").await),
        }
        let came = juliet.take();
        let gone = ["type='unavailable'", "from='romeo@localhost/a'", "to='juliet@localhost'"];
        assert!(came.len() == 1 && one(&came, &gone), "{cause}: {came:?}");
        world.server.settle(&session).await;
        assert!(juliet.take().is_empty(), "{cause}: once only");
    }
}

#[tokio::test]
async fn directed_presence_is_taken_back_however_the_session_ends() {
    let world = World::new(&["romeo", "juliet", "nurse"]).await;
    let (juliet, nurse) = (world.bind("juliet/b").await, world.online("nurse/n").await);
    let romeo = world.bind("romeo/a").await;
    romeo.send("<presence to='juliet@localhost/b'><status>psst</status></presence>").await;
    romeo.send("<presence to='nurse@localhost'/>").await;
    let came = juliet.take();
    assert!(came.len() == 1 && one(&came, &["from='romeo@localhost/a'", "psst"]), "{came:?}");
    assert_eq!(nurse.take().len(), 1);
    // It does not leak into a broadcast, nor a broadcast to it.
    romeo.send("<presence/>").await;
    assert!(juliet.take().is_empty() && nurse.take().is_empty());
    romeo.send("<presence type='unavailable' to='nurse@localhost'/>").await;
    assert!(one(&nurse.take(), &["unavailable"]));
    romeo.vanish().await;
    assert!(one(&juliet.take(), &["unavailable", "from='romeo@localhost/a'"]));
    assert!(nurse.take().is_empty(), "was told already");
}

#[tokio::test]
async fn a_contact_who_was_also_shown_presence_hears_of_the_end_once() {
    let (world, romeo, juliet) = friends().await;
    let quiet = world.bind("juliet/quiet").await;
    for to in ["juliet@localhost", "juliet@localhost/b", "juliet@localhost/quiet"] {
        romeo.send(&format!("<presence to='{to}'/>")).await;
    }
    assert_eq!((juliet.take().len(), quiet.take().len()), (2, 1));
    romeo.send("<presence type='unavailable'/>").await;
    assert_eq!((juliet.take().len(), quiet.take().len()), (1, 1));
    romeo.vanish().await;
    assert!(juliet.take().is_empty() && quiet.take().is_empty());
}

#[tokio::test]
async fn what_is_not_presence_is_refused() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    let priority = |text: &str| format!("<presence id='p'><priority>{text}</priority></presence>");
    for text in ["128", "-129", "high", "", "1.5"] {
        let came = romeo.tell(&priority(text)).await;
        assert!(came.len() == 1 && one(&came, &["type='error'", "bad-request"]), "{came:?}");
    }
    for text in ["127", "-128", " 5\n"] {
        assert!(!one(&romeo.tell(&priority(text)).await, &["error"]), "{text}");
    }
    for xml in [
        "<presence type='invisible'/>",
        "<presence type='subscribe'/>",
        "<presence type='wave' to='juliet@localhost'/>",
    ] {
        assert!(romeo.ask(xml).await.contains("bad-request"), "{xml}");
    }
    for xml in
        ["<presence to='far@example.org'/>", "<presence type='subscribe' to='far@example.org'/>"]
    {
        assert!(romeo.ask(xml).await.contains("remote-server-not-found"), "{xml}");
    }
    for xml in [
        "<presence type='probe' to='juliet@localhost'/>",
        "<presence type='error' to='juliet@localhost'/>",
        "<presence to='localhost'/>",
        "<presence to='nobody@localhost'/>",
        "<presence to='juliet@localhost/nowhere'/>",
        "<presence type='subscribe' to='romeo@localhost'/>",
        "<presence type='unsubscribed' to='romeo@localhost/a'/>",
    ] {
        assert!(romeo.tell(xml).await.is_empty(), "{xml}");
    }
    assert!(!romeo.roster().await.contains("<item"));
}

#[tokio::test]
async fn targets_of_directed_presence_are_bounded() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo/a").await;
    for n in 0..1000 {
        romeo.send(&format!("<presence to='c{n}@localhost'/>")).await;
    }
    assert!(romeo.take().is_empty());
    assert!(romeo.ask("<presence to='more@localhost'/>").await.contains("policy-violation"));
    assert!(romeo.tell("<presence to='c7@localhost'/>").await.is_empty(), "known already");
    romeo.send("<presence type='unavailable' to='c7@localhost'/>").await;
    assert!(romeo.tell("<presence to='more@localhost'/>").await.is_empty(), "there is room again");
}

#[tokio::test]
async fn a_subscription_from_request_to_presence() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = (world.online("romeo/a").await, world.online("juliet/b").await);
    let asks = "<presence id='1' type='subscribe' to='juliet@localhost/b'><nick \
                xmlns='http://jabber.org/protocol/nick'>R</nick></presence>";
    let came = romeo.tell(asks).await;
    let pushed = "<item jid='juliet@localhost' subscription='none' ask='subscribe'/>";
    assert!(came.len() == 1 && one(&came, &["push-", pushed]), "{came:?}");
    let came = juliet.take();
    let asked =
        ["type='subscribe'", "from='romeo@localhost'", "to='juliet@localhost'", ">R</nick>"];
    assert!(came.len() == 1 && one(&came, &asked), "bare addresses, and its extras: {came:?}");
    assert!(!juliet.roster().await.contains("<item"), "a request is not in the roster");
    romeo.send(asks).await;
    assert!(juliet.take().is_empty(), "asking again does not pester");

    let came = juliet.tell("<presence type='subscribed' to='romeo@localhost'/>").await;
    let pushed = "<item jid='romeo@localhost' subscription='from'/>";
    assert!(came.len() == 1 && one(&came, &["push-", pushed]), "{came:?}");
    let came = romeo.take();
    assert_eq!(came.len(), 3, "{came:?}");
    assert!(came[0].contains("type='subscribed'") && came[0].contains("from='juliet@localhost'"));
    assert!(came[1].contains("<item jid='juliet@localhost' subscription='to'/>"), "{came:?}");
    assert!(
        came[2].contains("from='juliet@localhost/b'") && !came[2].contains("type="),
        "{came:?}"
    );

    romeo.send("<presence type='subscribed' to='juliet@localhost'/>").await;
    assert!(one(&romeo.take(), &["push-", "approved='true'"]), "in advance");
    assert!(juliet.take().is_empty());
    let came = juliet.tell("<presence type='subscribe' to='romeo@localhost'/>").await;
    assert!(one(&came, &["type='subscribed'", "from='romeo@localhost'"]), "at once: {came:?}");
    assert!(one(&came, &["<item jid='romeo@localhost' subscription='both'/>"]), "{came:?}");
    assert!(one(&came, &["from='romeo@localhost/a'", "to='juliet@localhost'"]), "{came:?}");
    let came = romeo.take();
    assert!(!one(&came, &["type='subscribe'"]), "he was not asked: {came:?}");
    assert!(one(&came, &["subscription='both' approved='true'"]), "{came:?}");

    let came = romeo.tell("<presence type='unsubscribed' to='juliet@localhost'/>").await;
    assert!(came.len() == 1 && one(&came, &["push-", "subscription='to'/>"]), "{came:?}");
    let came = juliet.take();
    assert!(one(&came, &["type='unsubscribed'", "from='romeo@localhost'"]), "{came:?}");
    assert!(one(&came, &["<item jid='romeo@localhost' subscription='from'/>"]), "{came:?}");
    assert!(one(&came, &["type='unavailable'", "from='romeo@localhost/a'"]), "{came:?}");

    let came = romeo.tell("<presence type='unsubscribe' to='juliet@localhost'/>").await;
    assert!(one(&came, &["type='unavailable'", "from='juliet@localhost/b'"]), "{came:?}");
    assert!(one(&juliet.take(), &["type='unsubscribe'", "from='romeo@localhost'"]));
    for client in [&romeo, &juliet] {
        let roster = client.roster().await;
        assert!(roster.contains("subscription='none'/>"), "{roster}");
    }
}

#[tokio::test]
async fn a_request_waits_for_every_login_until_it_is_answered() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    let asks =
        "<presence type='subscribe' to='juliet@localhost'><status>Please</status></presence>";
    romeo.send(asks).await;
    let world = world.restarted();
    for _ in 0..2 {
        let juliet = world.bind("juliet/b").await;
        let came = juliet.tell("<presence/>").await;
        let asked = ["type='subscribe'", "from='romeo@localhost'", "Please"];
        assert!(one(&came, &asked), "after a restart, and once more: {came:?}");
        assert!(!one(&juliet.tell("<presence><show>xa</show></presence>").await, &["subscribe"]));
        juliet.vanish().await;
    }
    let juliet = world.online("juliet/c").await;
    juliet.send("<presence type='unsubscribed' to='romeo@localhost'/>").await;
    juliet.vanish().await;
    let juliet = world.bind("juliet/d").await;
    assert!(!one(&juliet.tell("<presence/>").await, &["subscribe"]), "it was denied");
    let romeo = world.bind("romeo/a").await;
    assert!(romeo.roster().await.contains("<item jid='juliet@localhost' subscription='none'/>"));
}

#[tokio::test]
async fn a_huge_request_is_kept_without_its_extras() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    let status = "x".repeat(10_000);
    let asks =
        format!("<presence type='subscribe' to='juliet@localhost'><status>{status}</status>");
    romeo.send(&format!("{asks}</presence>")).await;
    let juliet = world.bind("juliet/b").await;
    let came = juliet.tell("<presence/>").await;
    assert!(one(&came, &["type='subscribe'", "from='romeo@localhost'"]), "{came:?}");
    assert!(!one(&came, &["xxx"]));
}

#[tokio::test]
async fn asking_nobody_is_answered_with_no() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo/a").await;
    let came = romeo.tell("<presence type='subscribe' to='nobody@localhost'/>").await;
    assert!(one(&came, &["type='unsubscribed'", "from='nobody@localhost'"]), "{came:?}");
    assert!(romeo.roster().await.contains("<item jid='nobody@localhost' subscription='none'/>"));
}

#[tokio::test]
async fn an_unasked_for_subscribed_changes_nothing() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = (world.online("romeo/a").await, world.online("juliet/b").await);
    for typ in ["subscribed", "unsubscribed", "unsubscribe"] {
        romeo.send(&format!("<presence type='{typ}' to='juliet@localhost'/>")).await;
        assert!(juliet.take().is_empty(), "{typ}");
    }
    assert!(!juliet.roster().await.contains("<item"));
    juliet.tell("<presence><status>secret</status></presence>").await;
    assert!(!one(&romeo.take(), &["secret"]));
}

#[tokio::test]
async fn an_account_that_goes_leaves_no_subscription_to_its_successor() {
    let (world, romeo, juliet) = friends().await;
    world.add("nurse").await;
    let nurse = world.online("nurse/n").await;
    nurse.send("<presence type='subscribe' to='romeo@localhost'/>").await;
    nurse.take();
    let (server, session) = (world.server.clone(), romeo.session.clone());
    let settled = tokio::spawn(async move { server.settle(&session).await });
    let jid = crate::testing::bare("romeo");
    let actor = server::end::Actor::Server;
    world.server.delete_account(&jid, actor).await.expect("is deleted");
    settled.await.expect("ends");
    let came = juliet.take();
    assert!(one(&came, &["type='unsubscribed'", "from='romeo@localhost'"]), "{came:?}");
    assert!(one(&nurse.take(), &["type='unsubscribed'", "from='romeo@localhost'"]));
    world.add("romeo").await;
    let heir = world.online("romeo/a").await;
    juliet.tell("<presence><status>for the dead</status></presence>").await;
    assert!(heir.take().is_empty());
    assert!(!heir.roster().await.contains("<item"), "inherits nothing");
    let roster = juliet.roster().await;
    assert!(roster.contains("<item jid='romeo@localhost' subscription='none'/>"), "{roster}");
}

#[tokio::test]
async fn software_is_known_by_its_capabilities() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.online("romeo/a").await;
    let caps =
        "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='https://x.im' ver='='/>";
    romeo.send(&format!("<presence>{caps}</presence>")).await;
    assert_eq!(romeo.session.software().as_deref(), Some("https://x.im"));
}
