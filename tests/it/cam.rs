//! What has access to an account, seen and taken away by its owner over XMPP (XEP-0494), by clients with
//! connections.

use server::{
    Session,
    account::{Account, Role},
    config::{RevokePassword, Span},
    end::Reason,
    policy::NewClients,
    vault::Mint,
};

use crate::{
    clients::{clients, sid},
    deadlines::reason,
    dialogue::Chunks,
    managed::attribute,
    rights::add,
    world::{PASSWORD, Remote, World, assert_eventually},
};

const ALICE: &str = "alice@localhost";
const CAM: &str = "urn:xmpp:cam:0";
const EARLIER: &str = "xmpp:prosody.im/protocol/manage-clients";

/// A client over a socket that a token has let in.
pub async fn by_token(world: &World, token: &str, resource: &str) -> Remote {
    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.open().await;
    assert!(client.login_with(token).await.starts_with("<success"));
    client.open().await;
    client.bind(resource).await;
    client
}

/// Asks, and gives the answer.
pub async fn ask(client: &mut Remote, kind: &str, to: &str, payload: &str) -> String {
    let to = if to.is_empty() { String::new() } else { format!(" to='{to}'") };
    client.send(format!("<iq type='{kind}' id='ask'{to}>{payload}</iq>")).await;
    let answer = client.element().await;
    assert!(answer.starts_with("<iq ") && answer.contains(" id='ask'"), "{answer}");
    answer
}

async fn list(client: &mut Remote) -> Vec<String> {
    let answer = ask(client, "get", "", &format!("<list xmlns='{CAM}'/>")).await;
    each(&answer)
}

/// The clients in a list.
fn each(answer: &str) -> Vec<String> {
    assert!(answer.contains("type='result'"), "{answer}");
    let clients = answer.split("<client ").skip(1);
    clients.map(|client| format!("<client {client}")).collect()
}

fn id_of(session: &Session) -> String {
    session.identity().and_then(|me| me.client()).expect("is known").id.to_string()
}

fn revoke(id: &str) -> String {
    format!("<revoke xmlns='{CAM}' id='{id}'/>")
}

fn is_done(answer: &str) -> bool {
    answer.contains("type='result'")
}

async fn mint(world: &World, account: &Account, role: Role) -> (String, String) {
    let (found, token) =
        world.server.mint(account, Mint::login(role, "test")).await.expect("is stored");
    (found.client.id.to_string(), token.to_text().to_string())
}

#[tokio::test]
async fn pr_22_lj_26_an_owner_sees_every_kind_of_client_as_it_is() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let mut desk = world.bound("alice", "desk").await;
    world.session("alice@localhost/desk").set_software("Gajim <1.9>");
    world.clock.advance(60_000);
    let (lost, _) = world.managed("alice", "phone").await;
    let asleep = world.lose(lost, "alice@localhost/phone").await;
    let gone = world.bound("alice", "old").await;
    let gone_session = world.session("alice@localhost/old");
    drop(gone);
    assert_eventually("it is gone", || gone_session.settled()).await;
    let (unused, _) = mint(&world, &alice, Role::User).await;
    let (bot, text) = mint(&world, &alice, Role::Restricted).await;
    let _bot = by_token(&world, &text, "bot").await;
    let fast = world.fast_token("alice").await;
    let scoped = Mint { purpose: "metrics".into(), ..Mint::login(Role::User, "test") };
    let scoped =
        world.server.mint(&alice, scoped).await.expect("is stored").0.client.id.to_string();

    let seen = list(&mut desk).await;
    assert_eq!(seen.len(), 7, "{seen:#?}");
    let by_id = |id: &str| {
        let id = format!(" id='{id}'");
        seen.iter().find(|client| client.contains(&id)).unwrap_or_else(|| panic!("{id} {seen:#?}"))
    };
    let is = |id: &str, connected: bool, kind: &str, auth: &str, permission: &str| {
        let client = by_id(id);
        assert_eq!(attribute(client, "connected"), Some(if connected { "true" } else { "false" }));
        assert_eq!(attribute(client, "type"), Some(kind), "{client}");
        assert!(client.contains(&format!("<auth>{auth}</auth>")), "{client}");
        assert!(client.contains(&format!("<permission status='{permission}'")), "{client}");
    };
    let own = id_of(&world.session("alice@localhost/desk"));
    is(&own, true, "session", "<password/>", "unrestricted");
    assert!(by_id(&own).contains("<first-seen>2026-01-01T00:00:00.000Z</first-seen>"));
    assert!(by_id(&own).contains("<user-agent><software>Gajim "), "{}", by_id(&own));
    is(&id_of(&asleep), true, "session", "<password/>", "unrestricted");
    assert!(!asleep.connected() && asleep.alive(), "it can be resumed");
    is(&id_of(&gone_session), false, "session", "<password/>", "unrestricted");
    is(&unused, false, "access", "<grant/>", "normal");
    assert!(!by_id(&unused).contains("<last-seen>"));
    is(&scoped, false, "access", "<grant/>", "restricted");
    is(&bot, true, "session", "<grant/>", "restricted");
    let restriction = "<restriction xmlns='urn:usher:session:0' name='token'/>";
    assert!(by_id(&bot).contains(restriction), "{}", by_id(&bot));
    let fast = fast.rsplit(':').next().expect("a secret");
    assert!(seen.iter().any(|client| client.contains("<password/><fast/>")), "{seen:#?}");
    assert!(!seen.iter().any(|client| client.contains(fast) || client.contains("secret")));

    // The same by the other addresses and the earlier name; each element is what it has to be.
    for to in [ALICE, "localhost"] {
        let answer = ask(&mut desk, "get", to, &format!("<list xmlns='{CAM}'/>")).await;
        assert_eq!(each(&answer), seen, "{to}");
    }
    let earlier = ask(&mut desk, "get", "", &format!("<list xmlns='{EARLIER}'/>")).await;
    assert_eq!(earlier.matches("<bearer-token/>").count(), 3, "{earlier}");
    assert!(!earlier.contains("<permission"), "{earlier}");
    for (kind, payload) in [("set", "list"), ("get", "revoke")] {
        let wrong = ask(&mut desk, kind, "", &format!("<{payload} xmlns='{CAM}' id='x'/>")).await;
        assert!(wrong.contains("<bad-request"), "{wrong}");
    }
}

#[tokio::test]
async fn pr_22_what_came_by_tokens_is_revoked_with_all_it_has() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let mut desk = world.bound("alice", "desk").await;
    let (bot, text) = mint(&world, &alice, Role::User).await;
    let mut client = by_token(&world, &text, "bot").await;
    let (unused, _) = mint(&world, &alice, Role::User).await;
    let (earlier, _) = mint(&world, &alice, Role::User).await;

    let asked = format!("<iq type='set' id='ask'>{}</iq>", revoke(&bot));
    desk.send(asked).await;
    client.expect_error("not-authorized").await;
    assert!(is_done(&desk.element().await));
    assert!(is_done(&ask(&mut desk, "set", ALICE, &revoke(&unused)).await));
    let payload = format!("<revoke xmlns='{EARLIER}' id='{earlier}'/>");
    assert!(is_done(&ask(&mut desk, "set", "", &payload).await));
    assert_eq!(list(&mut desk).await.len(), 1);
    let mut again = world.connect_in(true, Chunks::Whole).await;
    again.open().await;
    assert!(again.login_with(&text).await.contains("credentials-expired"));
    // Once is enough; and there are others that there are not.
    let never = server::id::ClientId::random().to_string();
    for id in [bot.as_str(), &never, "zeiP41HLglIu", ""] {
        let answer = ask(&mut desk, "set", "", &revoke(id)).await;
        assert!(answer.contains("<item-not-found"), "{id}: {answer}");
    }
    let answer = ask(&mut desk, "set", "", &format!("<revoke xmlns='{CAM}'/>")).await;
    assert!(answer.contains("<bad-request"), "{answer}");
    // By the account's own audit, the owner did it.
    let audit = world.server.audit_tail(1).await.expect("is read").pop().expect("is written");
    assert_eq!((audit.who.as_str(), audit.what.as_str(), audit.ok), (ALICE, "client revoke", true));
}

#[tokio::test]
async fn pr_22_b_02_who_knows_the_password_stays_whole_until_that_is_changed() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let mut desk = world.connect_in(true, Chunks::Whole).await;
    desk.login("alice", PASSWORD).await;
    desk.bind("desk").await;
    let mut phone = world.bound("alice", "phone").await;
    let session = world.session("alice@localhost/phone");
    let id = id_of(&session);
    // It has a token as well, which must not be half of what is done.
    let parent = server::vault::Parent::Client(id.parse().expect("an id"));
    let more = Mint { parent, ..Mint::login(Role::User, "test") };
    world.server.mint(&alice, more).await.expect("is stored");
    for (ns, payload) in [(CAM, revoke(&id)), (EARLIER, revoke(&id).replace(CAM, EARLIER))] {
        let answer = ask(&mut desk, "set", "", &payload).await;
        assert!(answer.contains("<error type='cancel'><service-unavailable "), "{answer}");
        assert!(answer.contains(&format!("<password-reset-required xmlns='{ns}'/>")), "{answer}");
    }
    phone.settle().await;
    let kept = clients(&world.server, &alice).await;
    assert!(kept.iter().all(|client| client.over.is_none()));
    assert!(kept.iter().flat_map(|c| &c.grants).all(|grant| grant.over.is_none()));

    // With another password there is nothing left of it but its session, if that may stay.
    let change = "<query xmlns='jabber:iq:register'><username>alice</username>\
                  <password>another one</password></query>";
    let asked = format!("<iq type='set' id='ask' to='localhost'>{change}</iq>");
    desk.send(asked).await;
    phone.expect_error("reset").await;
    assert!(is_done(&desk.element().await));
    let seen = list(&mut desk).await;
    let own = id_of(&world.session("alice@localhost/desk"));
    assert_eq!(seen.len(), 1, "{seen:#?}");
    assert_eq!(attribute(&seen[0], "id"), Some(own.as_str()));
    assert!(seen[0].contains("<auth><password/></auth>"), "it has set the password: {seen:#?}");
    let answer = ask(&mut desk, "set", "", &revoke(&id)).await;
    assert!(answer.contains("<item-not-found"), "it has nothing to be revoked: {answer}");

    // What comes back with the new one knows that one.
    let mut phone = world.connect().await;
    phone.login("alice", "another one").await;
    phone.bind("phone").await;
    assert_eq!(id_of(&world.session("alice@localhost/phone")), id);
    let answer = ask(&mut desk, "set", "", &revoke(&id)).await;
    assert!(answer.contains("<password-reset-required"), "{answer}");
}

#[tokio::test]
async fn b_02_where_nobody_has_to_go_the_old_password_is_no_way_back_all_the_same() {
    let world = World::start(|config| {
        config.on.password_change = server::config::Who::Nobody;
    })
    .await;
    world.account("alice").await;
    let mut desk = world.connect_in(true, Chunks::Whole).await;
    desk.login("alice", PASSWORD).await;
    desk.bind("desk").await;
    let mut phone = world.bound("alice", "phone").await;
    let id = id_of(&world.session("alice@localhost/phone"));
    let change = "<query xmlns='jabber:iq:register'><username>alice</username>\
                  <password>another one</password></query>";
    assert!(is_done(&ask(&mut desk, "set", "", change).await));
    phone.settle().await;
    let seen = list(&mut desk).await;
    let phones = seen.iter().find(|client| client.contains(&id)).expect("is connected");
    assert!(phones.contains("<auth/>"), "{phones}");
    desk.send(format!("<iq type='set' id='ask'>{}</iq>", revoke(&id))).await;
    phone.expect_error("not-authorized").await;
    assert!(is_done(&desk.element().await));
}

#[tokio::test]
async fn b_02_by_policy_who_knows_the_password_is_blocked_instead() {
    let world = World::start(|config| config.clients.revoke_password = RevokePassword::Block).await;
    let alice = world.account("alice").await;
    let mut desk = world.bound("alice", "desk").await;
    let mut phone = world.bound("alice", "phone").await;
    let session = world.session("alice@localhost/phone");
    desk.send(format!("<iq type='set' id='ask'>{}</iq>", revoke(&id_of(&session)))).await;
    phone.expect_error("not-authorized").await;
    assert!(is_done(&desk.element().await));
    assert_eq!(reason(&session), Some(Reason::Blocked));
    assert_eq!(list(&mut desk).await.len(), 1);
    assert!(clients(&world.server, &alice).await.iter().any(|client| client.block.is_some()));
    // Not that client again, though the password is right; others as before.
    let mut again = world.authed("alice").await;
    again.send(crate::world::bind_request("phone")).await;
    assert!(again.element().await.contains("<not-allowed"));
    again.expect_error("not-authorized").await;
    world.bound("alice", "tablet").await;
}

#[tokio::test]
async fn pr_22_who_revokes_its_own_client_hears_the_answer_before_its_stream_ends() {
    for block in [false, true] {
        let world = World::start(|config| {
            config.auth.step_up = Span::OFF;
            if block {
                config.clients.revoke_password = RevokePassword::Block;
            }
        })
        .await;
        let alice = world.account("alice").await;
        let (mut client, id) = match block {
            false => {
                let (bot, text) = mint(&world, &alice, Role::User).await;
                (by_token(&world, &text, "own").await, bot)
            }
            true => {
                let client = world.bound("alice", "own").await;
                (client, id_of(&world.session("alice@localhost/own")))
            }
        };
        let session = world.session("alice@localhost/own");
        // What it says behind that is not heard any more.
        let late = "<iq type='get' id='late'><list xmlns='urn:xmpp:cam:0'/></iq>";
        client.send(format!("<iq type='set' id='ask'>{}</iq>{late}", revoke(&id))).await;
        client.expect("<iq type='result' id='ask' from='alice@localhost' to='*'/>").await;
        client.expect_error("not-authorized").await;
        let wanted = if block { Reason::Blocked } else { Reason::Revoked };
        assert_eq!(reason(&session), Some(wanted));
        drop(client);
        world.empty().await;
    }
}

#[tokio::test]
async fn pr_22_the_clients_of_others_are_for_those_with_the_rights() {
    let world = World::start(|_| {}).await;
    add(&world, "root", Role::Admin).await;
    let bob = world.account("bob").await;
    world.account("alice").await;
    let mut alice = world.bound("alice", "desk").await;
    let mut root = world.bound("root", "desk").await;
    let (id, text) = mint(&world, &bob, Role::User).await;
    let mut victim = by_token(&world, &text, "bot").await;

    let mut told = Vec::new();
    for name in ["bob", "nobody"] {
        let to = format!("{name}@localhost");
        let listed = ask(&mut alice, "get", &to, &format!("<list xmlns='{CAM}'/>")).await;
        let revoked = ask(&mut alice, "set", &to, &revoke(&id)).await;
        assert!(listed.contains("<forbidden"), "{listed}");
        assert!(revoked.contains("<item-not-found"), "{revoked}");
        told.push((listed + &revoked).replace(name, "X"));
    }
    assert_eq!(told[0], told[1], "nobody can tell who exists");
    let answer = ask(&mut alice, "set", "", &revoke(&id)).await;
    assert!(answer.contains("<item-not-found"), "{answer}");

    let to = "bob@localhost";
    let answer = ask(&mut root, "get", to, &format!("<list xmlns='{CAM}'/>")).await;
    assert_eq!(each(&answer).len(), 1);
    let answer = ask(&mut root, "get", "nobody@localhost", &format!("<list xmlns='{CAM}'/>")).await;
    assert!(answer.contains("<item-not-found"), "{answer}");
    // Of its own account there is no such client; and what is not the own takes a reason.
    let answer = ask(&mut root, "set", "", &revoke(&id)).await;
    assert!(answer.contains("<item-not-found"), "{answer}");
    let answer = ask(&mut root, "set", to, &revoke(&id)).await;
    assert!(answer.contains("<bad-request") && answer.contains("--reason"), "{answer}");
    victim.settle().await;
    let why = "<reason xmlns='urn:usher:session:0'>compromised</reason>";
    let payload = format!("<revoke xmlns='{CAM}' id='{id}'>{why}</revoke>");
    root.send(format!("<iq type='set' id='ask' to='{to}'>{payload}</iq>")).await;
    let error = victim.element().await;
    assert!(error.contains("<not-authorized") && error.contains("compromised"), "{error}");
    drop(victim);
    assert!(is_done(&root.element().await));
}

#[tokio::test]
async fn ro_28_b_09_what_takes_more_than_being_logged_in_is_refused_in_so_many_words() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let mut old = world.bound("alice", "old").await;
    let (other, _) = mint(&world, &alice, Role::User).await;
    let (_, text) = mint(&world, &alice, Role::User).await;
    // A token is not the password.
    let mut bot = by_token(&world, &text, "bot").await;
    assert!(!list(&mut bot).await.is_empty());
    let answer = ask(&mut bot, "set", "", &revoke(&other)).await;
    assert!(answer.contains("<not-authorized"), "{answer}");
    assert!(answer.contains("log in again with the password"), "{answer}");
    // Nor is a password of long ago, or of somebody who has only just come.
    let mut young = world.bound("alice", "young").await;
    assert!(sid(&world.session("alice@localhost/young")) > 1);
    let answer = ask(&mut young, "set", "", &revoke(&other)).await;
    assert!(answer.contains("<forbidden") && answer.contains("older client"), "{answer}");
    world.clock.advance(300_000);
    let answer = ask(&mut old, "set", "", &revoke(&other)).await;
    assert!(answer.contains("<not-authorized"), "{answer}");
    let mut back = world.bound("alice", "old2").await;
    let answer = ask(&mut back, "set", "", &revoke(&other)).await;
    assert!(answer.contains("<forbidden"), "{answer}");
}

#[tokio::test]
async fn b_09_who_waits_to_be_confirmed_sees_nothing_and_is_seen_to_wait() {
    let world = World::start(|config| config.clients.new_clients = NewClients::Confirm).await;
    world.account("alice").await;
    let mut first = world.bound("alice", "first").await;
    let mut thief = world.bound("alice", "thief").await;
    let answer = ask(&mut thief, "get", "", &format!("<list xmlns='{CAM}'/>")).await;
    assert!(answer.contains("<forbidden"), "{answer}");
    let seen = list(&mut first).await;
    let waits = "<permission status='restricted'>\
                 <restriction xmlns='urn:usher:session:0' name='unconfirmed'/></permission>";
    assert_eq!(seen.iter().filter(|client| client.contains(waits)).count(), 1, "{seen:#?}");
}

#[tokio::test]
async fn lj_32_who_asks_too_often_is_told_to_wait() {
    let world = World::start(|config| config.commands.views = 2).await;
    world.account("alice").await;
    let mut client = world.bound("alice", "desk").await;
    for _ in 0..2 {
        assert_eq!(list(&mut client).await.len(), 1);
    }
    let answer = ask(&mut client, "get", "", &format!("<list xmlns='{CAM}'/>")).await;
    assert!(answer.contains("<error type='wait'><policy-violation"), "{answer}");
    world.clock.advance(60_000);
    assert_eq!(list(&mut client).await.len(), 1);
}
