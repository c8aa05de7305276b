//! What subscribers are told, without connections.

use server::{
    account::Role,
    change::Standing,
    end::{Actor, End, Reason},
};

use crate::testing::{Client, World, bare, eventually};

const SUBSCRIBE: &str = "<iq type='set' id='f'><subscribe xmlns='urn:usher:session:0'/></iq>";

fn value<'a>(xml: &'a str, name: &str) -> &'a str {
    let after = xml.split(&format!(" {name}='")).nth(1);
    after.and_then(|rest| rest.split('\'').next()).unwrap_or_default()
}

/// The changes that come next, each as kind, resource and stage.
async fn told(client: &Client) -> (String, Vec<(String, String, String)>) {
    let mut came = Vec::new();
    eventually("something is told", async || {
        came.extend(client.take().into_iter().filter(|stanza| stanza.contains("<changes")));
        !came.is_empty()
    })
    .await;
    let [push] = came.as_slice() else { panic!("one push: {came:?}") };
    assert!(push.starts_with("<iq type='set' id='feed-"), "{push}");
    assert_eq!(value(push, "to"), client.jid.as_str());
    let each = push.split("<session").skip(1).map(|one| {
        let resource = value(one, "jid").split('/').nth(1).unwrap_or_default();
        (value(one, "change").into(), resource.into(), value(one, "stage").into())
    });
    (value(push, "ver").to_owned(), each.collect())
}

fn change(kind: &str, resource: &str, stage: &str) -> (String, String, String) {
    (kind.into(), resource.into(), stage.into())
}

#[tokio::test]
async fn b_11_who_has_subscribed_is_told_of_each_session_that_comes_changes_and_goes() {
    let world = World::new(&["romeo", "juliet"]).await;
    let romeo = world.bind("romeo/a").await;
    let deaf = world.bind("romeo/deaf").await;
    let other = world.bind("juliet/a").await;
    let answer = romeo.ask(SUBSCRIBE).await;
    assert!(answer.contains("type='result'") && answer.contains("<sessions xmlns="), "{answer}");
    assert_eq!(answer.matches("<session ").count(), 2, "the own ones: {answer}");
    assert!(answer.contains(" hibernating='false' frozen='false' "), "{answer}");
    other.ask(SUBSCRIBE).await;

    let phone = world.bind("romeo/phone").await;
    assert_eq!(told(&romeo).await.1, [change("created", "phone", "bound")]);
    phone.send("<presence/>").await;
    let (version, changes) = told(&romeo).await;
    assert_eq!(changes, [change("changed", "phone", "available")]);
    world.server.end(&phone.session, End::new(Reason::Kicked));
    // Its connection has not closed yet.
    let mut came = Vec::new();
    eventually("its end is told", async || {
        came.extend(romeo.take().into_iter().filter(|stanza| stanza.contains("<changes")));
        !came.is_empty()
    })
    .await;
    let end = &came[0];
    assert!(end.contains("change='ended'") && end.contains("reason='kicked' by='server'"), "{end}");
    assert!(end.contains(&format!("id='{}'", phone.session.id)), "{end}");
    assert_ne!(value(end, "ver"), version);
    assert!(deaf.take().iter().chain(&other.take()).all(|stanza| !stanza.contains("<changes")));
}

#[tokio::test]
async fn b_11_the_version_is_that_of_the_list_and_spares_it() {
    let world = World::new(&["romeo"]).await;
    let romeo = world.bind("romeo/a").await;
    let first = romeo.ask(SUBSCRIBE).await;
    let version = value(&first, "ver").to_owned();
    let again =
        |version: &str| SUBSCRIBE.replace("<subscribe ", &format!("<subscribe ver='{version}' "));
    let answer = romeo.ask(&again(&version)).await;
    assert!(answer.contains("type='result'") && !answer.contains("<sessions"), "{answer}");
    let phone = world.bind("romeo/phone").await;
    let (later, _) = told(&romeo).await;
    assert!(romeo.ask(&again(&version)).await.contains("<sessions"), "it is another list");
    assert!(!romeo.ask(&again(&later)).await.contains("<sessions"), "what was told is the list");
    world.server.end(&phone.session, End::new(Reason::Kicked));
    let (back, _) = told(&romeo).await;
    assert_eq!(back, version, "as before");
}

#[tokio::test]
async fn b_11_who_unsubscribes_or_may_not_any_more_is_told_nothing() {
    let world = World::new(&["romeo"]).await;
    let (one, two) = (world.bind("romeo/one").await, world.bind("romeo/two").await);
    one.ask(SUBSCRIBE).await;
    two.ask(SUBSCRIBE).await;
    let off = "<iq type='set' id='u'><unsubscribe xmlns='urn:usher:session:0'/></iq>";
    assert!(two.ask(off).await.contains("type='result'"));
    let _three = world.bind("romeo/three").await;
    told(&one).await;
    assert!(two.take().is_empty());

    let standing = Standing::Role(Role::Restricted);
    world.server.set_standing(&bare("romeo"), standing, Actor::Server).await.expect("is there");
    let refused = two.ask(SUBSCRIBE).await;
    assert!(refused.contains("<forbidden"), "{refused}");
    one.take();
    let _four = world.bind("romeo/four").await;
    let refused = one.ask(SUBSCRIBE).await;
    assert!(refused.contains("<forbidden"), "nothing came before it: {refused}");
    for wrong in ["subscribe", "unsubscribe"] {
        let get = format!("<iq type='get' id='g'><{wrong} xmlns='urn:usher:session:0'/></iq>");
        assert!(one.ask(&get).await.contains("<bad-request"));
    }
}

#[tokio::test]
async fn b_11_nobody_watches_once_the_last_subscriber_is_gone_and_the_next_begins_anew() {
    let world = World::new(&["romeo"]).await;
    for _ in 0..3 {
        let romeo = world.bind("romeo/a").await;
        romeo.ask(SUBSCRIBE).await;
        let phone = world.bind("romeo/phone").await;
        assert_eq!(told(&romeo).await.1, [change("created", "phone", "bound")]);
        romeo.vanish().await;
        phone.vanish().await;
        let events = &world.server.events;
        eventually("nobody watches", async || events.watchers() == 0).await;
    }
}
