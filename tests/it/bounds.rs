//! What bounds a caller cannot be got around: not by doing it later, not through somebody else's client,
//! not at another door. Each of these was possible once.

use serde_json::json;
use server::{
    account::Role, change::Standing, command::Caller, config::Span, rights::Right, vault::Mint,
};

use crate::{
    api::{Face, api_token},
    clients::visit,
    rights::{acting, add, forbidden, local, run},
    world::{World, admin, bind_request},
};

const ME: &str = "me@localhost";

#[tokio::test]
async fn a_token_plans_nothing_that_it_would_be_refused_now() {
    let world = World::start(|_| {}).await;
    let boss = add(&world, "boss", Role::Admin).await;
    add(&world, "bob", Role::User).await;
    let bob = world.bound("bob", "phone").await;
    let face = Face::of(&world.server);
    let token = api_token(&world.server, &boss, &[Right::End]).await;
    for args in [
        json!({ "all": true, "level": "disable", "reason": "x", "in": "1s" }),
        json!({ "all": true, "reason": "x", "in": "1s" }),
    ] {
        assert_eq!(face.post(&token, "session/end", args.clone()).await.problem(), "forbidden");
    }
    world.clock.advance(2_000);
    assert_eq!(world.server.run_due().await.expect("is read"), 0);
    assert!(world.session("bob@localhost/phone").alive());
    drop(bob);
}

#[tokio::test]
async fn a_level_takes_its_rights_when_it_is_planned_too() {
    let world = World::start(|_| {}).await;
    add(&world, "op", Role::Operator).await;
    add(&world, "bob", Role::User).await;
    let operator = acting(&world, "op").await;
    let later =
        json!({ "selector": ["bob@localhost"], "level": "disable", "reason": "x", "in": "1h" });
    let outcome = run(&world.server, &operator, "session end", later).await;
    assert!(forbidden(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn b_09_who_has_only_just_come_plans_no_end_of_older_clients() {
    let world = World::start(|config| config.auth.step_up = Span::OFF).await;
    add(&world, "me", Role::User).await;
    let old = visit(&world.server, ME, "old").await;
    world.clock.advance(86_400_000);
    let young = visit(&world.server, ME, "young").await;
    let caller = world.server.caller_of(&young).await.expect("is there");
    let later = json!({ "selector": [ME], "level": "revoke", "in": "1s" });
    let outcome = run(&world.server, &caller, "session end", later).await;
    assert!(forbidden(&outcome), "{outcome:?}");
    // Nor by a token that hangs on the older one.
    let id = old.identity().and_then(|me| me.client()).expect("is known").id.to_string();
    let mint = json!({ "jid": ME, "purpose": "api", "scope": ["revoke"], "client": id });
    let outcome = run(&world.server, &caller, "token mint", mint).await;
    assert!(forbidden(&outcome), "{outcome:?}");
    assert!(old.alive());
}

#[tokio::test]
async fn what_was_planned_for_the_own_sessions_touches_no_others_whatever_becomes_of_the_planner() {
    let world = World::start(|config| config.clients.fresh = Span::OFF).await;
    add(&world, "me", Role::User).await;
    add(&world, "bob", Role::User).await;
    let mine = visit(&world.server, ME, "a").await;
    let bobs = visit(&world.server, "bob@localhost", "b").await;
    let caller = world.server.caller_of(&mine).await.expect("is there");
    let later = json!({ "all": true, "reason": "x", "in": "1s" });
    run(&world.server, &caller, "session end", later).await.1.expect("is planned");
    let jid = ME.parse().expect("a JID");
    let standing = Standing::Role(Role::Admin);
    world.server.set_standing(&jid, standing, admin()).await.expect("is there");
    world.clock.advance(2_000);
    assert_eq!(world.server.run_due().await.expect("is read"), 1);
    assert!(bobs.alive() && !mine.alive());
}

#[tokio::test]
async fn plans_are_few_are_the_owner_s_to_strike_out_and_end_with_the_password() {
    let world = World::start(|config| {
        config.clients.fresh = Span::OFF;
        config.auth.step_up = Span::OFF;
    })
    .await;
    for name in ["me", "bob"] {
        add(&world, name, Role::User).await;
    }
    let mine = visit(&world.server, ME, "a").await;
    let me = world.server.caller_of(&mine).await.expect("is there");
    let bobs = visit(&world.server, "bob@localhost", "b").await;
    let bob = world.server.caller_of(&bobs).await.expect("is there");
    let plan = async |caller: &Caller| {
        let later = json!({ "all": true, "in": "1h" });
        run(&world.server, caller, "session end", later).await.1
    };
    for _ in 0..16 {
        plan(&me).await.expect("is planned");
    }
    plan(&me).await.expect_err("is too much");
    let id = plan(&bob).await.expect("counts apart").fields["schedule"].to_string();
    let list =
        async |caller: &Caller| run(&world.server, caller, "schedule list", json!({})).await.0;
    assert_eq!((list(&me).await.len(), list(&bob).await.len()), (16, 1));
    let cancel = async |caller: &Caller, id: &str| {
        let done = run(&world.server, caller, "schedule cancel", json!({ "id": id })).await.1;
        done.expect("is no error").matched
    };
    assert!(!cancel(&me, &id).await && cancel(&bob, &id).await);
    let password = json!({ "jid": ME, "password": "another one" });
    run(&world.server, &local(), "user password", password).await.1.expect("is set");
    let again = visit(&world.server, ME, "c").await;
    world.clock.advance(3_601_000);
    world.server.run_due().await.expect("is read");
    assert!(again.alive(), "who knew an earlier password has no say");
}

#[tokio::test]
async fn nobody_is_kept_out_of_the_account_by_a_token_and_an_administrator_lets_in_again() {
    let world = World::start(|config| config.clients.fresh = Span::OFF).await;
    let me = add(&world, "me", Role::User).await;
    let (_, token) = world.token(&me, None).await;
    let mut remote = world.connect_in(true, crate::dialogue::Chunks::Whole).await;
    remote.open().await;
    assert!(remote.login_with(&token).await.starts_with("<success"));
    remote.open().await;
    remote.send(bind_request("t")).await;
    remote.element().await;
    let session = world.session("me@localhost/t");
    let caller = world.server.caller_of(&session).await.expect("is there");
    let hold = json!({ "selector": [ME], "hold-off": "9000d" });
    assert!(forbidden(&run(&world.server, &caller, "session end", hold.clone()).await));
    add(&world, "op", Role::Operator).await;

    let other = world.authed("me").await;
    let fresh = world.server.registry.all().find(|s| s.full().is_none()).expect("is there");
    let caller = world.server.caller_of(&fresh).await.expect("is there");
    run(&world.server, &caller, "session end", hold).await.1.expect("with the password");
    drop((remote, other));
    world.empty().await;
    let mut kept_out = world.connect().await;
    kept_out.try_login("me", crate::world::PASSWORD).await.expect_err("is held");
    run(&world.server, &local(), "user enable", json!({ "jid": ME })).await.1.expect("is there");
    let mut back = world.connect().await;
    back.try_login("me", crate::world::PASSWORD).await.expect("may come again");
}

#[tokio::test]
async fn what_a_token_opened_vouches_for_nobody_and_widens_nothing_over_http_either() {
    let world = World::start(|_| {}).await;
    let me = add(&world, "me", Role::User).await;
    let bound_to = "192.0.2.0/24".parse().ok();
    let mint = Mint {
        bound_to,
        purpose: "api".into(),
        scopes: Some(server::rights::Rights::of(&[Right::Policy])),
        ..Mint::login(Role::User, "test")
    };
    let (found, token) = world.server.mint(&me, mint).await.expect("is stored");
    let face = Face::of(&world.server);
    let widen = json!({ "client": found.client.id.to_string(), "bind-to": "off" });
    let token = token.to_text().to_string();
    let refused = face.post(&token, "client/set", widen).await;
    assert_eq!(refused.problem(), "forbidden", "{refused:?}");
}

#[tokio::test]
async fn whoever_ends_all_own_sessions_hears_of_it_though_another_one_lingers() {
    let world = World::start(|config| config.sessions.close_wait = Span::seconds(4)).await;
    add(&world, "me", Role::User).await;
    // It does not close its side, as a phone that is out of reach.
    let _dead = world.bound("me", "dead").await;
    let mut here = world.bound("me", "here").await;
    here.send(format!(
        "<iq type='set' id='c' to='localhost'><command \
         xmlns='http://jabber.org/protocol/commands' node='urn:usher:command:0#session-end'>\
         <x xmlns='jabber:x:data' type='submit'><field var='selector'><value>{ME}</value></field>\
         </x></command></iq>"
    ))
    .await;
    let answer = here.element().await;
    assert!(answer.starts_with("<iq") && answer.contains("completed"), "{answer}");
    here.expect_error("policy-violation").await;
}

#[tokio::test]
async fn revoking_an_old_token_spares_the_one_that_took_its_place_and_works_for_whoever_may_nothing()
 {
    let world = World::start(|_| {}).await;
    let me = add(&world, "me", Role::User).await;
    let face = Face::of(&world.server);
    let revoke = async |text: &str| {
        let done =
            face.form("", "oauth/revoke", &format!("token={}", text.replace(';', "%3B"))).await;
        assert_eq!(done.status, 200, "{done:?}");
    };
    let old = api_token(&world.server, &me, &[Right::List]).await;
    let id = wire::Token::parse(&old).expect("a token").id;
    let (_, new) = world.server.rotate_token(&me, id, "test").await.expect("is stored");
    let new = new.to_text().to_string();
    assert_eq!(face.get(&new, "whoami").await.status, 200);
    revoke(&old).await;
    assert_eq!(face.get(&new, "whoami").await.status, 200, "nobody has stolen it");

    let jid = ME.parse().expect("a JID");
    let stand = async |standing| {
        world.server.set_standing(&jid, standing, admin()).await.expect("is there");
    };
    stand(Standing::Disabled).await;
    revoke(&new).await;
    stand(Standing::Enabled).await;
    assert_eq!(face.get(&new, "whoami").await.problem(), "token-over");
}

#[tokio::test]
async fn a_client_that_has_only_sent_requests_is_shown_as_access() {
    let world = World::start(|_| {}).await;
    let me = add(&world, "me", Role::User).await;
    let token = api_token(&world.server, &me, &[Right::List]).await;
    let face = Face::of(&world.server);
    assert_eq!(face.get(&token, "whoami").await.status, 200);
    let session = visit(&world.server, ME, "a").await;
    let caller = world.server.caller_of(&session).await.expect("is there");
    let types = async || {
        let (rows, _) = run(&world.server, &caller, "client list", json!({ "jid": ME })).await;
        let seen = rows.iter().all(|row| !row["seen"].is_null());
        let mut types: Vec<_> = rows.iter().map(|row| row["type"].clone()).collect();
        types.sort_by_key(|kind| kind.to_string());
        seen.then_some(types)
    };
    let mut found = None;
    while found.is_none() {
        found = types().await;
    }
    assert_eq!(found, Some(vec![json!("access"), json!("session")]));
}

#[tokio::test]
async fn an_empty_preview_holds_whoever_goes_on_to_it() {
    let world = World::start(|_| {}).await;
    add(&world, "me", Role::User).await;
    let dry = json!({ "selector": [ME], "dry-run": true });
    let done = run(&world.server, &local(), "session end", dry).await.1.expect("is no error");
    let hash = done.fields["hash"].as_str().expect("a hash").to_owned();
    let session = visit(&world.server, ME, "a").await;
    let held = json!({ "selector": [ME], "if-hash": hash });
    run(&world.server, &local(), "session end", held).await.1.expect_err("is another one");
    assert!(session.alive());
}

#[tokio::test]
async fn what_an_administrator_has_frozen_the_owner_does_not_open() {
    let world = World::start(|config| config.clients.fresh = Span::OFF).await;
    add(&world, "me", Role::User).await;
    let (a, b) = (visit(&world.server, ME, "a").await, visit(&world.server, ME, "b").await);
    let full = json!({ "selector": ["me@localhost/a"], "reason": "x" });
    let caller = world.server.caller_of(&b).await.expect("is there");
    run(&world.server, &local(), "session freeze", full.clone()).await.1.expect("is there");
    assert!(forbidden(&run(&world.server, &caller, "session unfreeze", full.clone()).await));
    run(&world.server, &local(), "session unfreeze", full.clone()).await.1.expect("is there");
    // What it has frozen itself, it does.
    run(&world.server, &caller, "session freeze", full.clone()).await.1.expect("is its own");
    run(&world.server, &caller, "session unfreeze", full).await.1.expect("is its own");
    assert!(a.alive());
}
