//! The matrix of ends once more, for the ways back that need no new session: a token for the next login
//! (FAST), and going on with a stream that hibernates, asked for behind the login or together with it.

use server::{client::Over, clock::Clock, keyring::KeyRing, store::SharedStore};

use crate::{
    managed::{AGENT, WANT_TOKEN, attribute, request_to_resume, verdict},
    matrix::{Case, by_token, config, happen},
    world::{PASSWORD, START, World, admin, assert_eventually},
};

/// What each way back gives after each event. There hibernate a session that a token has let in, which
/// is what sessions are named by in the events, and one of an installation that has a token for its next
/// login besides. `resume` and `inline` go on with the first one after a login with the password as it
/// is then, `of installation` and `by fast` with the other one. `resumed`: it goes on; `no login`:
/// nobody gets so far; else the reason that is told.
const EXPECTED: &str = "
event                | fast                                 | resume           | inline           | of installation  | by fast
---------------------+--------------------------------------+------------------+------------------+------------------+-------------------------------------
nothing              | in                                   | resumed          | resumed          | resumed          | resumed
password-changed     | credentials-expired password-changed | password-changed | password-changed | password-changed | credentials-expired password-changed
account-disabled     | account-disabled                     | no login         | no login         | no login         | account-disabled
account-deleted      | not-authorized                       | no login         | no login         | no login         | not-authorized
session-kicked       | in                                   | kicked           | kicked           | resumed          | resumed
session-ended        | in                                   | ended            | ended            | resumed          | resumed
token-revoked        | in                                   | revoked          | revoked          | resumed          | resumed
grant-revoked        | in                                   | revoked          | revoked          | resumed          | resumed
client-buried        | in                                   | revoked          | revoked          | resumed          | resumed
installation-revoked | credentials-expired revoked          | resumed          | resumed          | revoked          | credentials-expired revoked
installation-blocked | not-authorized blocked               | resumed          | resumed          | blocked          | not-authorized blocked
epoch-server         | credentials-expired epoch            | epoch            | epoch            | epoch            | credentials-expired epoch
epoch-host           | credentials-expired epoch            | epoch            | epoch            | epoch            | credentials-expired epoch
epoch-account        | credentials-expired epoch            | epoch            | epoch            | epoch            | credentials-expired epoch
role-lowered         | in                                   | resumed          | resumed          | resumed          | resumed
";

fn expected() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    EXPECTED.trim().lines().skip(2).map(|line| {
        let mut cells = line.split('|').map(str::trim);
        (cells.next().expect("an event"), cells.collect())
    })
}

/// What its owner has kept of the sessions.
struct Kept {
    /// Resumes the session that a token has let in.
    first: String,
    /// Resumes the one of the installation.
    second: String,
    fast: String,
}

/// Two sessions that hibernate, and something happens.
async fn set_out(world: &World, event: &str) -> Kept {
    let case = Case::new(world).await;
    let mut live = by_token(world, &case.token, Some("live")).await;
    let first = live.manage().await;
    let bound = world.lose(live, "alice@localhost/live").await;
    let mut other = world.secure().await;
    let wanted = format!(
        "{AGENT}<bind xmlns='urn:xmpp:bind:0'><enable xmlns='urn:xmpp:sm:3' resume='1'/></bind>\
         {WANT_TOKEN}"
    );
    let answer = other.sasl2("alice", PASSWORD, &wanted).await;
    let second = attribute(&answer, "id").expect("can be resumed").to_owned();
    let fast = attribute(&answer, "token").expect("was asked for").to_owned();
    let mut all = world.server.registry.of("alice@localhost");
    all.retain(|session| session.connected());
    let installation = all.pop().expect("is there");
    drop(other);
    assert_eventually("it hibernates", || !installation.connected()).await;

    let Some(what) = event.strip_prefix("installation-") else {
        happen(world, event, &case, Some(&bound)).await;
        return Kept { first, second, fast };
    };
    let me = installation.identity().expect("is in");
    let sid = me.client().expect("is known").sid;
    let client = world.server.client(me.account, sid).await.expect("is read").expect("is there");
    if what == "revoked" {
        let ended = world.server.end_client(&client, Over::Revoked, &admin(), None).await;
        assert_eq!(ended.expect("is stored").1.len(), 1);
    } else {
        world.server.block_client(&client, None, &admin(), None).await.expect("is stored");
    }
    Kept { first, second, fast }
}

/// What became of a wish to resume.
fn fate(answer: &str) -> String {
    if answer.contains("<resumed ") {
        return "resumed".into();
    }
    assert!(answer.contains("<item-not-found "), "{answer}");
    attribute(answer, "reason").unwrap_or("item-not-found").to_owned()
}

/// What each way back gives.
async fn return_by_all_ways(world: &World, event: &str, kept: &Kept) -> Vec<String> {
    let password = if event == "password-changed" { "other" } else { PASSWORD };
    let classic = async |id: &str| {
        let mut client = world.connect().await;
        match client.try_login("alice", password).await {
            Ok(()) => fate(&client.resume(id, 0).await),
            Err(_) => "no login".into(),
        }
    };
    let mut given = vec![verdict(&world.secure().await.by_fast("alice", &kept.fast, "").await)];
    given.push(classic(&kept.first).await);
    let inline = request_to_resume(&kept.first, 0);
    let answer = world.secure().await.sasl2("alice", password, &inline).await;
    given.push(if verdict(&answer) == "in" { fate(&answer) } else { "no login".into() });
    given.push(classic(&kept.second).await);
    let inline = request_to_resume(&kept.second, 0);
    let answer = world.secure().await.by_fast("alice", &kept.fast, &inline).await;
    given.push(if verdict(&answer) == "in" { fate(&answer) } else { verdict(&answer) });
    given
}

#[tokio::test]
async fn iv_07_iv_08_pr_20_pr_23_b_01_every_event_by_every_way_back_without_a_new_session() {
    for (event, cells) in expected() {
        let world = World::start(config).await;
        let kept = set_out(&world, event).await;
        assert_eq!(return_by_all_ways(&world, event, &kept).await, cells, "{event}");
    }
}

#[tokio::test]
async fn iv_07_pr_20_pr_23_b_04_the_same_after_a_restart() {
    for (event, cells) in expected() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = dir.path().join("server.key");
        let (clock, store) = (Clock::manual(START), store::memory());
        let start = async |store: SharedStore| {
            let keys = KeyRing::open(&key).expect("keys");
            World::start_keyed(store, keys, clock.clone(), plugins::ALL, config).await
        };
        let world = start(store.clone()).await;
        let kept = set_out(&world, event).await;
        world.server.shutdown().await;
        drop(world);

        let world = start(store).await;
        let woken = world.server.wake_up().await.expect("is read");
        let resumed = [cells[1], cells[3]].iter().filter(|cell| **cell == "resumed").count();
        assert_eq!(woken, resumed, "{event}");
        // Why a session has ended is known as long as the server runs.
        let forgotten = |cell: &&'static str| match *cell {
            "resumed" | "no login" => *cell,
            _ => "item-not-found",
        };
        let mut wanted: Vec<&str> = cells.clone();
        for cell in &mut wanted[1..4] {
            *cell = forgotten(cell);
        }
        assert_eq!(return_by_all_ways(&world, event, &kept).await, wanted, "{event}");
        world.server.shutdown().await;
    }
}
