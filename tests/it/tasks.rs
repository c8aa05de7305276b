//! What a client does before its login succeeds: better keys of its password (XEP-0480). Who makes way
//! for whom is in `tests/scripts/tasks.script`.

use base64::{Engine, engine::general_purpose::STANDARD};
use pbkdf2::pbkdf2_hmac;
use server::clock::Clock;
use sha2::Sha256;
use wire::Hash;

use crate::{
    script::Scram,
    world::{PASSWORD, Remote, START, World},
    xml::{Item, Vars},
};

/// The keys' iterations, as they are stored.
async fn iterations(world: &World) -> u32 {
    let account =
        world.server.account("alice@localhost").await.expect("storage").expect("is there");
    account.keys(Hash::Sha256).expect("has keys").iterations
}

async fn begin(world: &World, beside: &str) -> Remote {
    let mut client = world.connect_in(true, crate::dialogue::Chunks::Whole).await;
    client.open().await;
    let plan = Scram {
        mechanism: "SCRAM-SHA-256".into(),
        user: "alice".into(),
        password: PASSWORD.into(),
        options: Default::default(),
        inline: Some(beside.into()),
    };
    client.scram(&plan).await.expect("a proof");
    client
}

const ABLE: &str = "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>";

#[tokio::test]
async fn b5_a_client_brings_better_keys_of_its_password_once_and_only_if_it_can() {
    let store = store::memory();
    let clock = Clock::manual(START);
    let before = World::start_on(store.clone(), clock.clone(), plugins::ALL, |_| {}).await;
    before.account("alice").await;
    let iterations_before = iterations(&before).await;
    drop(before);
    let world = World::start_on(store, clock, plugins::ALL, |config| {
        config.auth.scram_iterations = iterations_before + 3;
    })
    .await;

    // Who does not say that it can is not asked.
    let mut client = begin(&world, "").await;
    client.expect("<success xmlns='urn:xmpp:sasl:2'>…</success>").await;
    assert_eq!(iterations(&world).await, iterations_before);

    let mut client = begin(&world, ABLE).await;
    client
        .expect(
            "<continue xmlns='urn:xmpp:sasl:2'><additional-data>*</additional-data>\
             <tasks><task>UPGR-SCRAM-SHA-256</task></tasks><text>*</text></continue>",
        )
        .await;
    client.send("<next xmlns='urn:xmpp:sasl:2' task='UPGR-SCRAM-SHA-256'/>").await;
    let wanted = iterations_before + 3;
    let pattern = format!(
        "<task-data xmlns='urn:xmpp:sasl:2'>\
         <salt xmlns='urn:xmpp:scram-upgrade:0' iterations='{wanted}'>${{salt}}</salt></task-data>"
    );
    let vars: Vars = client.expect(&pattern).await;
    let salt = STANDARD.decode(&vars["salt"]).expect("base64");
    let mut salted = [0; 32];
    pbkdf2_hmac::<Sha256>(PASSWORD.as_bytes(), &salt, wanted, &mut salted);
    let hash = STANDARD.encode(salted);
    client
        .send(format!(
            "<task-data xmlns='urn:xmpp:sasl:2'>\
             <hash xmlns='urn:xmpp:scram-upgrade:0'>{hash}</hash></task-data>"
        ))
        .await;
    client
        .expect(
            "<success xmlns='urn:xmpp:sasl:2'>\
             <authorization-identifier>alice@localhost</authorization-identifier></success>",
        )
        .await;
    assert_eq!(iterations(&world).await, wanted);

    // The new keys open the account, and nothing is asked any more.
    let mut client = begin(&world, ABLE).await;
    client.expect("<success xmlns='urn:xmpp:sasl:2'>…</success>").await;
    let Ok(Some(Item::Element(features))) = client.next().await else { panic!("no features") };
    assert_eq!(features.local, "features");
}

#[tokio::test]
async fn b5_keys_that_are_none_are_not_stored() {
    let store = store::memory();
    let clock = Clock::manual(START);
    let before = World::start_on(store.clone(), clock.clone(), plugins::ALL, |_| {}).await;
    before.account("alice").await;
    let stored = iterations(&before).await;
    drop(before);
    let world = World::start_on(store, clock, plugins::ALL, |config| {
        config.auth.scram_iterations = stored + 1;
    })
    .await;
    for bad in ["", "<hash xmlns='urn:xmpp:scram-upgrade:0'>AAAA</hash>"] {
        let mut client = begin(&world, ABLE).await;
        client.expect("<continue xmlns='urn:xmpp:sasl:2'>…</continue>").await;
        client.send("<next xmlns='urn:xmpp:sasl:2' task='UPGR-SCRAM-SHA-256'/>").await;
        client.expect("<task-data xmlns='urn:xmpp:sasl:2'>…</task-data>").await;
        client.send(format!("<task-data xmlns='urn:xmpp:sasl:2'>{bad}</task-data>")).await;
        client.expect("<failure xmlns='urn:xmpp:sasl:2'>…</failure>").await;
        client.expect_error("not-authorized").await;
        assert_eq!(iterations(&world).await, stored);
    }
}
