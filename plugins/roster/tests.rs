//! RFC 6121 section 2, as clients see it.

use super::{ROSTER, book::Book};
use crate::testing::{World, one};

#[tokio::test]
async fn a_set_is_pushed_to_interested_sessions_only_and_then_answered() {
    let world = World::new(&["romeo"]).await;
    let (a, b) = (world.online("romeo/a").await, world.online("romeo/b").await);
    let deaf = world.bind("romeo/deaf").await;
    let item = "<item jid='juliet@localhost' name='J &amp; co'><group>Friends</group></item>";
    let came = a.set(item).await;
    assert_eq!(came.len(), 2, "{came:?}");
    assert!(came[0].starts_with("<iq type='set' id='push-"), "the push first: {came:?}");
    assert!(came[0].contains("to='romeo@localhost/a'") && !came[0].contains("from="), "{came:?}");
    assert!(came[0].contains(" ver='"), "{came:?}");
    let shown = "<item jid='juliet@localhost' name='J &amp; co' subscription='none'>\
                 <group>Friends</group></item>";
    assert!(came[0].contains(shown), "{came:?}");
    assert!(came[1].contains("type='result' id='s'"), "{came:?}");
    assert!(one(&b.take(), &["push-", shown, "to='romeo@localhost/b'"]));
    assert!(deaf.take().is_empty(), "has not asked for its roster");
    assert!(a.roster().await.contains(shown));
    // It is durable: another server on the same store has it.
    let again = world.restarted().bind("romeo/a").await;
    assert!(again.roster().await.contains(shown));
}

#[tokio::test]
async fn a_set_keeps_the_subscription_and_ignores_what_is_not_a_clients_to_set() {
    let world = World::new(&["romeo", "juliet"]).await;
    world.befriend("romeo", "juliet").await;
    let romeo = world.online("romeo/a").await;
    let forged = "subscription='none' ask='subscribe' approved='true'";
    let came = romeo.set(&format!("<item jid='juliet@localhost' name='J' {forged}/>")).await;
    let shown = "<item jid='juliet@localhost' name='J' subscription='both'/>";
    assert!(one(&came, &["push-", shown]), "{came:?}");
    let came = romeo.set("<item jid='nurse@localhost' subscription='both'/>").await;
    assert!(one(&came, &["<item jid='nurse@localhost' subscription='none'/>"]), "{came:?}");
}

#[tokio::test]
async fn what_a_set_may_not_say() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.online("romeo/a").await;
    let long = "x".repeat(1024);
    let many: String = (0..101).map(|n| format!("<group>{n}</group>")).collect();
    let inside = |inside: &str| format!("<item jid='n@localhost'>{inside}</item>");
    for (item, condition) in [
        (String::new(), "bad-request"),
        ("<item jid='a@localhost'/><item jid='b@localhost'/>".into(), "bad-request"),
        ("<item/>".into(), "bad-request"),
        ("<other/>".into(), "bad-request"),
        ("<item jid='@'/>".into(), "jid-malformed"),
        ("<item jid='romeo@localhost'/>".into(), "not-allowed"),
        ("<item jid='romeo@localhost/a'/>".into(), "not-allowed"),
        (inside("<group>A</group><group>A</group>"), "bad-request"),
        (inside("<group/>"), "not-acceptable"),
        (inside(&format!("<group>{long}</group>")), "not-acceptable"),
        (inside(&many), "not-acceptable"),
        (format!("<item jid='n@localhost' name='{long}'/>"), "not-acceptable"),
        ("<item jid='n@localhost' subscription='remove'/>".into(), "item-not-found"),
    ] {
        let came = romeo.set(&item).await;
        assert!(came.len() == 1 && one(&came, &["type='error' id='s'", condition]), "{came:?}");
    }
    for kind in ["get", "set"] {
        for other in ["juliet", "nobody"] {
            let iq = format!("<iq type='{kind}' id='f' to='{other}@localhost'>");
            let iq = format!("{iq}<query xmlns='jabber:iq:roster'><item jid='x@y'/></query></iq>");
            assert!(romeo.ask(&iq).await.contains("forbidden"));
        }
    }
    assert!(!romeo.roster().await.contains("<item"), "nothing of it was kept");
}

#[tokio::test]
async fn a_roster_does_not_grow_beyond_its_limit() {
    let world = World::with(&["romeo"], |config| config.storage_limits.roster_items = 2).await;
    let romeo = world.online("romeo/a").await;
    for name in ["a", "b"] {
        assert_eq!(romeo.set(&format!("<item jid='{name}@localhost'/>")).await.len(), 2);
    }
    let came = romeo.set("<item jid='c@localhost'/>").await;
    assert!(one(&came, &["policy-violation"]) && came.len() == 1, "{came:?}");
    let came = romeo.tell("<presence type='subscribe' to='c@localhost'/>").await;
    assert!(one(&came, &["<presence", "policy-violation"]) && came.len() == 1, "{came:?}");
    assert_eq!(romeo.set("<item jid='a@localhost' name='A'/>").await.len(), 2, "a change fits");
}

#[tokio::test]
async fn versions_save_the_second_transfer() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.bind("romeo/a").await;
    let get = |ver: &str| {
        format!("<iq type='get' id='g'><query xmlns='jabber:iq:roster' ver='{ver}'/></iq>")
    };
    let ver = |stanza: &str| {
        let rest = stanza.split_once(" ver='").expect("has a version").1;
        rest.split_once('\'').expect("is quoted").0.to_owned()
    };
    let first = romeo.ask(&get("")).await;
    let old = ver(&first);
    let push = romeo.set("<item jid='juliet@localhost'/>").await.remove(0);
    let new = ver(&push);
    assert_ne!(old, new);
    assert!(romeo.ask(&get(&old)).await.contains("juliet"), "an old version: everything");
    let same = romeo.ask(&get(&new)).await;
    assert!(!same.contains("<query"), "unchanged: an empty result, not an empty roster: {same}");
    let removed = romeo.set("<item jid='juliet@localhost' subscription='remove'/>").await;
    assert_ne!(ver(&removed[0]), new, "a removal is a change");
    let again = world.restarted().bind("romeo/a").await;
    let known = again.ask(&get(&ver(&removed[0]))).await;
    assert!(!known.contains("<query"), "versions outlive the server: {known}");
}

#[tokio::test]
async fn removing_a_contact_ends_both_subscriptions() {
    let world = World::new(&["romeo", "juliet"]).await;
    world.befriend("romeo", "juliet").await;
    let (romeo, juliet) = (world.online("romeo/a").await, world.online("juliet/b").await);
    romeo.take();
    let came = romeo.set("<item jid='juliet@localhost' subscription='remove'/>").await;
    assert!(came[0].contains("<item jid='juliet@localhost' subscription='remove'/>"), "{came:?}");
    assert!(one(&came, &["unavailable", "from='juliet@localhost/b'"]), "{came:?}");
    assert!(came[came.len() - 1].contains("type='result' id='s'"), "{came:?}");
    let came = juliet.take();
    let from = "from='romeo@localhost'";
    assert!(one(&came, &["type='unsubscribe'", from]), "{came:?}");
    assert!(one(&came, &["type='unsubscribed'", from]), "{came:?}");
    assert!(one(&came, &["type='unavailable'", "from='romeo@localhost/a'"]), "{came:?}");
    let roster = juliet.roster().await;
    assert!(roster.contains("<item jid='romeo@localhost' subscription='none'/>"), "{roster}");
    assert!(!romeo.roster().await.contains("<item"));
    assert!(romeo.tell("<presence><status>hm</status></presence>").await.len() == 1);
    assert!(juliet.take().is_empty(), "sees nothing any more");
}

#[tokio::test]
async fn removing_denies_a_request_and_withdraws_ones_own() {
    let world = World::new(&["romeo", "juliet"]).await;
    let (romeo, juliet) = (world.online("romeo/a").await, world.online("juliet/b").await);
    romeo.send("<presence type='subscribe' to='juliet@localhost'/>").await;
    assert!(one(&juliet.take(), &["type='subscribe'"]));
    let came = juliet.set("<item jid='romeo@localhost' subscription='remove'/>").await;
    assert!(one(&came, &["item-not-found"]), "a request alone is not in the roster: {came:?}");
    juliet.set("<item jid='romeo@localhost' name='R'/>").await;
    romeo.take();
    juliet.set("<item jid='romeo@localhost' subscription='remove'/>").await;
    let came = romeo.take();
    assert!(one(&came, &["type='unsubscribed'", "from='juliet@localhost'"]), "{came:?}");
    // And the other way round.
    romeo.send("<presence type='subscribe' to='juliet@localhost'/>").await;
    romeo.set("<item jid='juliet@localhost' subscription='remove'/>").await;
    assert!(one(&juliet.take(), &["type='unsubscribe'", "from='romeo@localhost'"]));
    assert!(world.rows(&ROSTER, "juliet").await.iter().all(|row| row.key.is_empty()));
}

#[test]
fn an_idle_session_pays_little_for_its_roster() {
    let (roster, item) = (size_of::<super::book::Roster>(), size_of::<super::item::Item>());
    assert!(roster <= 256, "an empty roster takes {roster} bytes");
    assert!(item <= 64, "a contact takes {item} bytes besides its texts");
}

#[tokio::test]
async fn nothing_leaks_when_sessions_end() {
    let world = World::new(&["romeo", "juliet"]).await;
    let book = world.server.slot::<Book>();
    let (a, b) = (world.online("romeo/a").await, world.online("romeo/b").await);
    assert_eq!(book.len(), 1, "one roster for both sessions");
    a.send("<presence type='subscribe' to='juliet@localhost'/>").await;
    assert_eq!(book.len(), 1, "that of an absent contact is not kept");
    a.vanish().await;
    assert_eq!(book.len(), 1);
    b.vanish().await;
    assert!(book.is_empty());
}

#[tokio::test]
async fn pr_04_a_bind_without_its_roster_is_refused() {
    let world = World::new(&["romeo"]).await;
    let owner = world.server.account("romeo@localhost").await.expect("is read").expect("exists");
    let broken = server::store::Batch::new().put(&ROSTER, owner.id.0, "x@y", "not JSON");
    world.store.commit(broken).await.expect("is stored");
    let error = world.try_bind("romeo/a").await.err().expect("is refused");
    assert_eq!(error.condition, wire::Condition::InternalServerError);
    assert!(world.server.registry.bound("romeo@localhost").is_empty(), "nothing half-bound");
}

#[tokio::test]
async fn concurrent_changes_are_all_kept() {
    let world = World::new(&["romeo"]).await;
    let (a, b) = (world.online("romeo/a").await, world.online("romeo/b").await);
    let change = |client: &crate::testing::Client, from: u32| {
        let frames: Vec<_> = (from..from + 50)
            .map(|n| {
                let item = format!("<item jid='c{}@localhost' name='{n}'/>", n % 60);
                format!("<iq type='set' id='s'><query xmlns='jabber:iq:roster'>{item}</query></iq>")
            })
            .collect();
        let (server, session) = (world.server.clone(), client.session.clone());
        tokio::spawn(async move {
            for frame in frames {
                let frame = wire::Frame::parse(frame.into_bytes()).expect("is well-formed");
                server.inbound(&session, None, frame).decided().await;
            }
        })
    };
    let (one, other) = (change(&a, 0), change(&b, 30));
    one.await.expect("ends");
    other.await.expect("ends");
    assert_eq!(world.rows(&ROSTER, "romeo").await.len(), 61, "sixty contacts and the version");
    let seen = |came: Vec<String>| -> Vec<String> {
        came.into_iter()
            .filter(|xml| xml.contains("push-"))
            .map(|xml| xml.replace("/a'", "/b'"))
            .collect()
    };
    assert_eq!(seen(a.take()), seen(b.take()), "both saw the same changes in the same order");
}

#[tokio::test]
async fn a_change_by_somebody_else_is_not_overwritten() {
    let world = World::new(&["romeo"]).await;
    let elsewhere = world.restarted();
    let (a, b) = (world.online("romeo/a").await, elsewhere.online("romeo/b").await);
    a.set("<item jid='juliet@localhost' name='one'/>").await;
    b.set("<item jid='nurse@localhost' name='two'/>").await;
    // Asks for nothing that the roster would not have; its answer tells what was found there.
    b.send("<presence type='subscribe' to='juliet@localhost'/>").await;
    let roster = b.roster().await;
    let kept = "<item jid='juliet@localhost' name='one' subscription='none'";
    assert!(roster.contains(kept) && roster.contains("nurse"), "{roster}");
}
