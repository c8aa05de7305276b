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
async fn presence_speaks_the_language_of_its_stream() {
    let world = World::new(&["romeo", "juliet"]).await;
    world.befriend("romeo", "juliet").await;
    let early = world.online("juliet/early").await;
    let mut romeo = world.bind("romeo/a").await;
    romeo.lang = Some("it".into());
    romeo.send("<presence><status>Eccomi</status></presence>").await;
    let late = world.bind("juliet/late").await;
    late.send("<presence/>").await;
    for juliet in [&early, &late] {
        assert!(one(&juliet.take(), &["from='romeo@localhost/a'", "xml:lang='it'"]));
    }
    romeo.send("<presence xml:lang='la'><status>Adsum</status></presence>").await;
    let came = early.take();
    assert!(one(&came, &["xml:lang='la'"]) && !one(&came, &["'it'"]), "its own goes first");
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

/// What somebody was told last of Romeo's session: that it is there, or not; or nothing.
fn last_told(client: &Client) -> Option<bool> {
    let came = client.take();
    let mut of_romeo = came.iter().filter(|xml| xml.contains("from='romeo@localhost/a'"));
    of_romeo.next_back().map(|xml| !xml.contains("unavailable"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_while_another_goes_sees_no_ghost() {
    let (world, mut romeo, _juliet) = friends().await;
    for round in 0..300 {
        romeo.send("<presence/>").await;
        let stays = round % 2 == 0;
        let juliet = world.bind("juliet/late").await;
        let goes = tokio::spawn(async move {
            romeo.send("<presence type='unavailable'/>").await;
            if stays {
                romeo.send("<presence/>").await;
            }
            romeo
        });
        let comes = tokio::spawn(async move {
            juliet.send("<presence/>").await;
            juliet
        });
        romeo = goes.await.expect("ends");
        let juliet = comes.await.expect("ends");
        assert_eq!(last_told(&juliet).unwrap_or(false), stays, "round {round}");
        romeo.take();
        juliet.vanish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_kicked_while_he_speaks_leaves_no_ghost() {
    let (world, romeo, juliet) = friends().await;
    romeo.vanish().await;
    for round in 0..300 {
        let romeo = world.online("romeo/a").await;
        let (server, session) = (world.server.clone(), romeo.session.clone());
        let speaks = tokio::spawn(async move {
            for _ in 0..3 {
                romeo.send("<presence><status>still here</status></presence>").await;
                romeo.send("<presence to='juliet@localhost/b'/>").await;
            }
        });
        let kicks = tokio::spawn(async move {
            server.end(&session, End::new(Reason::Kicked));
            server.settle(&session).await;
        });
        speaks.await.expect("ends");
        kicks.await.expect("ends");
        assert_eq!(last_told(&juliet), Some(false), "round {round}");
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

mod dialogues {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        roster::{book::Roster, subscription::Notice},
        testing::bare,
    };

    /// One of the two, with what it believes of the other's session.
    struct Person {
        name: &'static str,
        other: &'static str,
        client: Option<Client>,
        available: bool,
        sees: bool,
    }

    impl Person {
        /// Reads what has come. Presence of the other is believed.
        fn read(&mut self) {
            let Some(client) = &self.client else { return };
            let from = format!("from='{}@localhost/x'", self.other);
            for xml in client.take() {
                if xml.starts_with("<presence") && xml.contains(&from) {
                    self.sees = !xml.contains("type='unavailable'");
                }
            }
        }

        async fn act(&mut self, world: &World, what: usize) {
            let to = format!("to='{}@localhost'", self.other);
            let Some(client) = &self.client else {
                let client = world.bind(&format!("{}/x", self.name)).await;
                client.roster().await;
                (self.client, self.available, self.sees) = (Some(client), false, false);
                return;
            };
            match what {
                0..4 => {
                    let notice = Notice::ALL[what].as_str();
                    client.send(&format!("<presence type='{notice}' {to}/>")).await;
                }
                4 => {
                    let item =
                        format!("<item jid='{}@localhost' subscription='remove'/>", self.other);
                    let query = format!("<query xmlns='jabber:iq:roster'>{item}</query>");
                    client.send(&format!("<iq type='set' id='s'>{query}</iq>")).await;
                }
                5 | 6 => {
                    client.send("<presence/>").await;
                    self.available = true;
                }
                7 => {
                    client.send("<presence type='unavailable'/>").await;
                    self.read();
                    (self.available, self.sees) = (false, false);
                }
                _ => {
                    if let Some(client) = self.client.take() {
                        client.vanish().await;
                    }
                    (self.available, self.sees) = (false, false);
                }
            }
        }
    }

    async fn states(world: &World) -> [crate::roster::subscription::State; 2] {
        let mut states = Vec::new();
        for (name, other) in [("romeo", "juliet"), ("juliet", "romeo")] {
            let probe = world.bind(&format!("{name}/probe")).await;
            let roster = Roster::of(&probe.session).expect("is loaded");
            states.push(roster.state(bare(other).as_str()));
            probe.vanish().await;
        }
        [states[0], states[1]]
    }

    async fn play(acts: Vec<(bool, usize)>) -> Result<(), TestCaseError> {
        let world = World::new(&["romeo", "juliet"]).await;
        let person =
            |name, other| Person { name, other, client: None, available: false, sees: false };
        let mut people = [person("romeo", "juliet"), person("juliet", "romeo")];
        for (who, what) in acts {
            people[usize::from(who)].act(&world, what).await;
            let now = states(&world).await;
            for person in &mut people {
                person.read();
            }
            for (me, you) in [(0, 1), (1, 0)] {
                prop_assert_eq!(now[me].to, now[you].from);
                prop_assert_eq!(now[me].asked, now[you].pending);
                if people[me].available {
                    let there = now[me].to && people[you].available;
                    prop_assert_eq!(people[me].sees, there, "{} after {}", people[me].name, what);
                }
            }
            let stored = states(&world.restarted()).await;
            prop_assert_eq!(stored, now, "what is in memory is what is stored");
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever two people do, their rosters agree, in memory and in storage, and each sees the
        /// other exactly while the other is there and lets them.
        #[test]
        fn two_people_see_what_they_may(acts in prop::collection::vec((any::<bool>(), 0..9usize), 1..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("starts").block_on(play(acts))?;
        }
    }
}
