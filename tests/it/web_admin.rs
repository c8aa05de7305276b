//! The dashboard: what is seen, what is done by it, and that nobody sees or does there what the command
//! table would not let them.

use http_body_util::BodyExt;

use axum::{
    body::Body,
    http::{self, Method, Request, StatusCode, header},
};
use serde_json::json;
use server::{account::Role, bearer::Peer, rights::Right};
use tower::ServiceExt;

use crate::{
    api::{Face, api_token, with_role},
    web::{Browser, Page, rows},
    world::{ParseJid, World},
};

async fn logged_in(world: &World, name: &str, role: Role) -> Browser {
    with_role(world, name, role).await;
    let mut browser = Browser::of(&world.server);
    browser.login(name).await;
    browser
}

/// Sends the form of a page that asks, as it stands, with these fields besides.
async fn confirm(browser: &mut Browser, asked: &Page, path: &str, more: &[(&str, &str)]) -> Page {
    let names =
        ["sure", "selector", "id", "level", "all", "ip", "back", "if-hash", "jid", "client"];
    let hidden = names.iter().filter_map(|name| Some((*name, asked.field(name)?)));
    let hidden: Vec<_> = hidden.collect();
    let own = hidden.iter().map(|(name, value)| (*name, value.as_str()));
    let fields: Vec<_> = own.chain(more.iter().copied()).collect();
    browser.post(path, &fields).await
}

#[tokio::test]
async fn sessions_are_listed_filtered_and_in_pages() {
    let world = World::start(|_| {}).await;
    let mut browser = logged_in(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let mut there = Vec::new();
    for index in 0..53 {
        there.push(world.phantom("alice", &format!("r{index:02}")).await.id);
        if index == 26 {
            // As many as may be there at once, of one account.
            world.account("bob").await;
        }
        if there.len() == 27 {
            break;
        }
    }
    for index in 27..53 {
        there.push(world.phantom("bob", &format!("r{index:02}")).await.id);
    }
    let _late = world.authed("alice").await;
    let page = browser.get("/admin/sessions").await;
    assert_eq!(page.text.matches("data-session=").count(), 50);
    page.shows("50 of 54").shows("<dt>total</dt><dd>54</dd>").shows("<dt>c2s</dt><dd>1</dd>");
    let (_, next) = page.text.split_once("rel=\"next\" href=\"").expect("a next page");
    let next = next.split('"').next().expect("a link").replace("&#38;", "&");
    let rest = browser.get(&next).await;
    assert_eq!(rest.text.matches("data-session=").count(), 4);
    let all = format!("{}{}", page.text, rest.text);
    assert!(there.iter().all(|id| all.contains(&id.to_string())));

    let count = async |browser: &mut Browser, query: &str| {
        let page = browser.get(&format!("/admin/sessions?{query}")).await;
        assert_eq!(page.status, StatusCode::OK, "{query}: {page:?}");
        page.text.matches("data-session=").count()
    };
    assert_eq!(count(&mut browser, "pattern=bob%40localhost").await, 26);
    assert_eq!(count(&mut browser, "pattern=*%2Fr01").await, 1);
    assert_eq!(count(&mut browser, "stage=c2s").await, 1);
    assert_eq!(count(&mut browser, "ip=192.0.2.0%2F24").await, 0);
    assert_eq!(count(&mut browser, "ip=127.0.0.1&pattern=alice%40localhost").await, 28);
    assert_eq!(count(&mut browser, "hibernating=true").await, 0);
    let page = browser.get("/admin/sessions?ip=nonsense").await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn lj_28_b_05_iv_08_an_end_is_shown_before_it_is_done_and_done_only_so() {
    let world = World::start(|_| {}).await;
    let mut browser = logged_in(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let mut phone = world.bound("alice", "phone").await;
    let path = "/admin/act/session-end";
    let asked = browser.post(path, &[("selector", "alice@localhost"), ("level", "end")]).await;
    asked.shows("1 session would end").shows("alice@localhost/phone").shows("required");
    assert!(world.session("alice@localhost/phone").alive());

    // Somebody has come meanwhile.
    let _desk = world.bound("alice", "desk").await;
    let refused = confirm(&mut browser, &asked, path, &[("reason", "so")]).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    refused.shows("nothing was done");
    assert!(world.session("alice@localhost/phone").alive());

    let asked = browser.get(&format!("{path}?selector=alice%40localhost")).await;
    asked.shows("2 sessions would end");
    let refused = confirm(&mut browser, &asked, path, &[]).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    refused.shows("say why").shows("name=\"if-hash\"");
    let done = confirm(&mut browser, &asked, path, &[("reason", "maintenance")]).await;
    assert_eq!(done.status, StatusCode::OK, "{done:?}");
    done.shows("2 sessions ended").shows("data-label=\"Ways back\">password");
    phone.expect_error("policy-violation").await;
    let audit = rows(&world, "audit list", json!({ "jid": "alice@localhost" })).await;
    let entry = audit.iter().find(|entry| entry["args"]["if-hash"].is_string());
    let entry = entry.expect("the one that was done");
    assert_eq!(entry["who"], "boss@localhost");
    assert_eq!(entry["args"]["reason"], "maintenance");
    let page = browser.get("/admin/audit?jid=alice%40localhost").await;
    page.shows("session end").shows("maintenance").shows("boss@localhost");

    let gone = browser.get(&format!("{path}?selector=alice%40localhost")).await;
    assert_eq!(gone.status, StatusCode::CONFLICT);
    gone.shows("no session matches");
}

#[tokio::test]
async fn what_ends_with_the_sessions_is_shown_and_takes_the_password_on_the_page() {
    let world = World::start(|_| {}).await;
    let mut browser = logged_in(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let _phone = world.bound("alice", "phone").await;
    world.clock.advance(301_000);
    let path = "/admin/act/session-end";
    let fields = [("selector", "alice@localhost"), ("level", "disable")];
    let asked = browser.post(path, &fields).await;
    asked.shows("1 session would end").shows("ACCOUNTS are disabled");
    asked.shows("Your password, once more");
    let words = [("reason", "so"), ("password", "wrong")];
    let refused = confirm(&mut browser, &asked, path, &words).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let words = [("reason", "so"), ("password", crate::world::PASSWORD)];
    let done = confirm(&mut browser, &asked, path, &words).await;
    assert_eq!(done.status, StatusCode::OK, "{done:?}");
    // What it would be about later cannot be shown.
    for query in ["in=1h", "at=2030-01-01T00:00:00Z", "dry-run=true"] {
        let page = browser.get(&format!("{path}?all=true&{query}")).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn sessions_are_frozen_and_the_password_is_asked_for_when_it_was_shown_long_ago() {
    let world = World::start(|_| {}).await;
    let mut browser = logged_in(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let _phone = world.bound("alice", "phone").await;
    world.clock.advance(301_000);
    let path = "/admin/act/session-freeze";
    let fields = [("selector", "alice@localhost/phone"), ("level", "end")];
    let asked = browser.post(path, &fields).await;
    asked.shows("Your password, once more").shows("alice@localhost/phone");
    let frozen = |world: &World| {
        let flags = world.session("alice@localhost/phone").flags();
        flags.has(server::session::Flags::FROZEN)
    };
    let wrong = [("reason", "look into it"), ("password", "wrong")];
    let page = confirm(&mut browser, &asked, path, &wrong).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    page.shows("This is not the password").shows("value=\"look into it\"");
    assert!(!frozen(&world));
    let right = [("reason", "look into it"), ("password", crate::world::PASSWORD)];
    confirm(&mut browser, &asked, path, &right).await.shows("1 session frozen");
    assert!(frozen(&world));
    browser.get("/admin/sessions").await.shows("<span class=\"badge frozen\">frozen</span>");
    // It was shown just now.
    let path = "/admin/act/session-unfreeze";
    let asked = browser.get(&format!("{path}?selector=alice%40localhost")).await;
    asked.hides("Your password, once more");
    confirm(&mut browser, &asked, path, &[("reason", "nothing")]).await.shows("1 session unfrozen");
    assert!(!frozen(&world));
    assert_eq!(
        browser.get("/admin/act/user-add?jid=x%40localhost").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn an_account_is_shown_with_all_that_hangs_on_it() {
    let world = World::start(|_| {}).await;
    let mut browser = logged_in(&world, "boss", Role::Admin).await;
    let alice = world.account("alice").await;
    let _phone = world.bound("alice", "phone").await;
    let (login, text) = world.token(&alice, None).await;
    let api = api_token(&world.server, &alice, &[Right::List]).await;
    browser
        .get("/admin/accounts?pattern=ali*")
        .await
        .shows("jid=alice%40localhost")
        .hides("boss%40");
    let page = browser.get("/admin/account?jid=alice%40localhost").await;
    page.shows("alice@localhost/phone").shows("/admin/act/client-revoke?").shows("Max sessions");
    page.shows(&format!("/admin/act/token-revoke?token={login}"));
    page.shows(&login.to_string()).hides(&text).hides(&api);
    page.shows(">here<").shows("SCRAM-SHA-256");
    // That it was looked at is in the audit, and its owner sees it there.
    let mut owner = Browser::of(&world.server);
    owner.login("alice").await;
    owner.get("/devices").await.shows("user show").hides("boss@localhost");

    let path = "/admin/act/token-revoke";
    let asked = browser.get(&format!("{path}?token={login}&back=%2Fadmin%2Faudit")).await;
    asked.shows("href=\"/admin/audit\"");
    let fields = [("token", &*login.to_string()), ("reason", "lost"), ("sure", "yes")];
    browser.post(path, &fields).await.shows("revoked");
    browser.get("/admin/account?jid=alice%40localhost").await.shows(">revoked<");
    let path = "/admin/act/policy-set";
    let asked =
        browser.get(&format!("{path}?jid=alice%40localhost&max-sessions=3&lifetime=")).await;
    asked.shows("Max sessions").shows("alice@localhost");
    let fields = [("jid", "alice@localhost"), ("max-sessions", "3"), ("sure", "yes")];
    assert_eq!(browser.post(path, &fields).await.status, StatusCode::OK);
    let policy = rows(&world, "policy show", json!({ "jid": "alice@localhost" })).await;
    let set = policy.iter().find(|row| row["key"] == "max_sessions").expect("is there");
    assert_eq!(set["value"].to_string().trim_matches('"'), "3");
    let page = browser.get("/admin/account?jid=nobody%40localhost").await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    let page = browser.get("/admin/account?jid=%40").await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn lj_27_who_may_look_only_sees_no_address_and_ends_nobody() {
    let world = World::start(|_| {}).await;
    let mut viewer = logged_in(&world, "viewer", Role::Viewer).await;
    world.account("alice").await;
    let _phone = world.bound("alice", "phone").await;
    for path in ["/admin/sessions", "/admin/account?jid=alice%40localhost"] {
        let page = viewer.get(path).await;
        page.shows("alice@localhost/phone").shows("***").hides("127.0.0.1");
    }
    assert_eq!(viewer.get("/admin/sessions?ip=127.0.0.1").await.status, StatusCode::FORBIDDEN);
    assert_eq!(viewer.get("/admin/audit").await.status, StatusCode::OK);
    viewer.get("/admin/audit").await.hides("alice@localhost");
    let fields = [("selector", "alice@localhost"), ("reason", "x"), ("sure", "yes")];
    for act in ["session-end", "session-freeze"] {
        let path = format!("/admin/act/{act}");
        assert_eq!(viewer.post(&path, &fields).await.status, StatusCode::FORBIDDEN);
    }
    assert!(world.session("alice@localhost/phone").alive());
    // Who is demoted has lost at the next page.
    let stand = server::change::Standing::Role(Role::User);
    let jid = "viewer@localhost".parse_jid();
    world.server.set_standing(&jid, stand, crate::world::admin()).await.expect("is there");
    viewer.get("/admin/sessions").await.hides("alice@localhost");
    assert_eq!(viewer.get("/admin/accounts").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn numbers_over_time_are_drawn_and_written() {
    let world = World::start(|_| {}).await;
    let mut browser = logged_in(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    browser.get("/admin/charts").await.hides("<polyline").shows("from the second sample on");
    world.server.take_sample();
    let mut there = Vec::new();
    for resource in ["a", "b"] {
        there.push(world.bound("alice", resource).await);
        world.clock.advance(30_000);
        world.server.take_sample();
    }
    let ended = world.session("alice@localhost/a");
    world.server.end(&ended, server::end::End::new(server::end::Reason::Kicked));
    drop(there.remove(0));
    crate::world::assert_eventually("it is gone", || world.server.registry.counts().total == 1)
        .await;
    world.clock.advance(30_000);
    world.server.take_sample();
    let trend = rows(&world, "trend list", json!({})).await;
    let of = |name: &str| {
        trend.iter().map(|row| row[name].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(of("bound"), [0, 1, 2, 1]);
    assert_eq!(of("ends"), [0, 0, 0, 1]);
    // A browser has logged in before.
    assert_eq!(of("logins"), [1, 2, 3, 3]);
    assert!(of("memory").iter().all(|bytes| *bytes > 0));
    let page = browser.get("/admin/charts?span=6h").await;
    assert_eq!(page.text.matches("<polyline").count(), 6 + 2 + 1 + 1);
    page.shows("Sessions by stage; now all 1").shows("aria-current=\"page\">The last six hours");
    assert_eq!(rows(&world, "trend list", json!({ "since": "60s" })).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_told_to_whom_it_concerns() {
    let world = World::without_doors(plugins::ALL, |_| {});
    let mut boss = logged_in(&world, "boss", Role::Admin).await;
    let before = rows(&world, "audit list", json!({})).await.len();
    world.account("alice").await;
    let face = Face::of(&world.server);
    let mut feeds = Vec::new();
    for path in ["/events", "/admin/events"] {
        let peer = Peer { address: "192.0.2.9:1".parse().expect("an address"), encrypted: true };
        let cookie = format!("__Host-usher={}", boss.jar["__Host-usher"]);
        let request =
            Request::builder().method(Method::GET).uri(path).header(header::COOKIE, cookie);
        let request = request.extension(peer).body(Body::empty()).expect("a request");
        let response: http::Response<Body> =
            face.router.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        feeds.push(response.into_body());
    }
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    world.phantom("alice", "phone").await;
    world.phantom("boss", "desk").await;
    let mut next = async |index: usize| loop {
        let frame = feeds[index].frame().await.expect("goes on").expect("goes on");
        let text = String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text");
        if text.contains("event: bound") || text.contains("event: failed") {
            return text;
        }
    };
    assert!(next(1).await.contains("alice@localhost/phone"));
    assert!(next(1).await.contains("boss@localhost/desk"));
    // Who asks for what is their own hears of that only, and it is nobody else's business.
    assert!(next(0).await.contains("boss@localhost/desk"));
    let told = rows(&world, "audit list", json!({})).await.len() - before;
    assert_eq!(told, 1, "that everybody is watched is in the audit, once");
    // It is over with its token.
    world
        .server
        .revoke_token(boss.token().id, &crate::world::admin(), None)
        .await
        .expect("is stored");
    assert!(next(0).await.contains("event: failed"));
    assert!(boss.get("/events").await.to().starts_with("/login"));
}
