//! The password and the end of an account, by its owner over XMPP (XEP-0077), by clients with
//! connections.

use server::{
    account::Role,
    config::{Config, Span, Who},
    end::Reason,
    policy::NewClients,
    vault::Mint,
};

use crate::{
    cam::{ask, by_token},
    deadlines::reason,
    dialogue::Chunks,
    world::{PASSWORD, Remote, World, enter, tended},
};

const ALICE: &str = "alice@localhost";
const REMOVE: &str = "<query xmlns='jabber:iq:register'><remove/></query>";

fn change(username: &str, password: &str) -> String {
    format!(
        "<query xmlns='jabber:iq:register'><username>{username}</username>\
         <password>{password}</password></query>"
    )
}

/// A client under TLS.
async fn secure(world: &World, resource: &str) -> Remote {
    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.login("alice", PASSWORD).await;
    client.bind(resource).await;
    client
}

async fn start(configure: impl FnOnce(&mut Config)) -> World {
    let world = World::start(configure).await;
    world.account("alice").await;
    world
}

/// Whether the password lets in.
async fn lets_in(world: &World) -> bool {
    enter(&world.server, &tended(&world.server), ALICE).await
}

async fn lets_in_with(world: &World, password: &str) -> bool {
    world.connect().await.try_login("alice", password).await.is_ok()
}

#[tokio::test]
async fn ro_18_pr_18_who_changes_the_password_hears_so_and_others_have_to_go_as_the_policy_says() {
    for (who, others, own) in
        [(Who::Others, true, false), (Who::Nobody, false, false), (Who::All, true, true)]
    {
        let world = start(|config| config.on.password_change = who).await;
        let mut desk = secure(&world, "desk").await;
        let mut phone = world.bound("alice", "phone").await;
        let asked = format!("<iq type='set' id='ask'>{}</iq>", change("alice", "new &amp; safe"));
        // The others are gone before there is an answer.
        desk.send(asked).await;
        if others {
            phone.expect_error("reset").await;
        } else {
            phone.settle().await;
        }
        desk.expect("<iq type='result' id='ask' from='alice@localhost' to='*'/>").await;
        if own {
            desk.expect_error("reset").await;
        } else {
            desk.settle().await;
        }
        assert!(lets_in_with(&world, "new & safe").await, "{who:?}");
        assert!(!lets_in_with(&world, PASSWORD).await, "{who:?}");
    }
}

#[tokio::test]
async fn the_form_says_that_there_is_an_account_and_no_password() {
    let world = start(|_| {}).await;
    let mut desk = world.bound("alice", "desk").await;
    for to in ["", "localhost", ALICE] {
        let form = ask(&mut desk, "get", to, "<query xmlns='jabber:iq:register'/>").await;
        assert!(form.contains("<registered/>"), "{form}");
        assert!(form.contains("<username>alice</username><password/>"), "{form}");
    }
    let other = ask(&mut desk, "get", "bob@localhost", "<query xmlns='jabber:iq:register'/>").await;
    assert!(other.contains("<service-unavailable"), "{other}");
    let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    let info = ask(&mut desk, "get", "localhost", info).await;
    assert!(info.contains("<feature var='jabber:iq:register'/>"), "{info}");
}

#[tokio::test]
async fn what_cannot_be_a_password_leaves_the_old_one_as_it_is() {
    let world = start(|_| {}).await;
    let mut desk = secure(&world, "desk").await;
    let query = |inside: &str| format!("<query xmlns='jabber:iq:register'>{inside}</query>");
    for (payload, condition) in [
        (change("alice", ""), "bad-request"),
        (query("<username>alice</username><password/>"), "bad-request"),
        (query("<username>alice</username>"), "bad-request"),
        (query("<password>x</password>"), "bad-request"),
        (query(""), "bad-request"),
        (change("bob", "x"), "forbidden"),
        (change("ali ce", "x"), "forbidden"),
        (change("alice", "\u{e000}\u{7f}"), "not-acceptable"),
        (query("<remove/><username>alice</username>"), "bad-request"),
    ] {
        let answer = ask(&mut desk, "set", "localhost", &payload).await;
        assert!(answer.contains(&format!("<{condition}")), "{payload}: {answer}");
        assert!(!answer.contains("jabber:iq:register"), "nothing is sent back: {answer}");
    }
    // In the clear it could be read by others.
    let mut plain = world.bound("alice", "plain").await;
    let answer = ask(&mut plain, "set", "localhost", &change("alice", "x")).await;
    assert!(answer.contains("<error type='modify'><not-authorized"), "{answer}");
    drop(plain);
    assert!(lets_in(&world).await);
    // Another way to write the own name.
    let answer = ask(&mut desk, "set", "localhost", &change("ALICE", "other one")).await;
    assert!(answer.contains("type='result'"), "{answer}");
    assert!(lets_in_with(&world, "other one").await);
}

#[tokio::test]
async fn ro_28_without_a_recent_password_neither_is_done() {
    let world = start(|config| config.clients.fresh = Span::OFF).await;
    let alice = world.server.account(ALICE).await.expect("is read").expect("is there");
    let minted = world.server.mint(&alice, Mint::login(Role::Admin, "test")).await;
    let text = minted.expect("is stored").1.to_text().to_string();
    let mut bot = by_token(&world, &text, "bot").await;
    let mut desk = secure(&world, "desk").await;
    world.clock.advance(300_000);
    for client in [&mut bot, &mut desk] {
        for payload in [change("alice", "x"), REMOVE.into()] {
            let answer = ask(client, "set", "", &payload).await;
            assert!(answer.contains("<error type='auth'><not-authorized"), "{answer}");
            assert!(answer.contains("log in again with the password"), "{answer}");
        }
    }
    assert!(lets_in(&world).await);
}

#[tokio::test]
async fn b_09_who_has_only_just_come_removes_no_account_with_older_clients() {
    let world = start(|config| config.clients.new_clients = NewClients::Free).await;
    drop(secure(&world, "old").await);
    let mut young = secure(&world, "young").await;
    let answer = ask(&mut young, "set", "", REMOVE).await;
    assert!(answer.contains("<forbidden") && answer.contains("older client"), "{answer}");
    drop(young);
    world.clock.advance(86_400_000);
    let mut back = secure(&world, "young").await;
    assert!(ask(&mut back, "set", "", REMOVE).await.contains("type='result'"));
}

#[tokio::test]
async fn pr_24_who_removes_the_account_hears_so_before_all_its_streams_end() {
    for grace in [Span::OFF, Span::days(7)] {
        let world = start(|config| config.registration.grace = grace).await;
        let mut desk = secure(&world, "desk").await;
        let mut phone = world.bound("alice", "phone").await;
        let (asleep, _) = world.asleep("alice", "tablet").await;
        let session = world.session("alice@localhost/desk");
        let late = "<message to='alice@localhost' type='chat'><body>too late</body></message>";
        desk.send(format!("<iq type='set' id='ask'>{REMOVE}</iq>{late}")).await;
        phone.expect_error("not-authorized").await;
        desk.expect("<iq type='result' id='ask' from='alice@localhost' to='*'/>").await;
        let error = desk.element().await;
        assert!(error.contains("<not-authorized") && error.contains("account-deleted"), "{error}");
        for session in [&session, &asleep] {
            assert_eq!(reason(session), Some(Reason::AccountDeleted));
        }
        assert!(!lets_in(&world).await);
        let days = grace.get().unwrap_or(0);
        if days > 0 {
            world.clock.advance(days * 1_000 - 1);
            assert_eq!(world.server.run_due().await, Ok(0));
            world.clock.advance(1);
        }
        assert_eq!(world.server.run_due().await, Ok(1));
        assert!(world.server.account(ALICE).await.expect("is read").is_none());
        let audit = world.server.audit_tail(2).await.expect("is read");
        assert!(audit.iter().any(|e| e.what == "user delete" && e.who == ALICE && e.ok));
    }
}

#[tokio::test]
async fn an_operator_may_turn_either_off() {
    let world = start(|config| {
        config.registration.change_password = false;
        config.registration.remove = false;
    })
    .await;
    let mut desk = secure(&world, "desk").await;
    for payload in [change("alice", "x"), REMOVE.into()] {
        let answer = ask(&mut desk, "set", "localhost", &payload).await;
        assert!(answer.contains("<not-allowed"), "{answer}");
    }
    assert!(lets_in(&world).await);
}
