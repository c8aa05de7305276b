//! The HTTP face: who may ask for what, how it answers, and that nothing gets in by it that the command
//! table would not let in.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, http};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, channel::Channel};
use serde_json::{Value, json};
use server::{
    Server,
    account::{Account, Role},
    bearer::Peer,
    command,
    rights::{Right, Rights},
    vault::{API, Mint},
};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::{
    dialogue::Chunks,
    world::{PASSWORD, World},
};

/// Where requests come from.
const PEER: &str = "192.0.2.7:4711";

/// The HTTP face of a world, without sockets.
pub struct Face {
    pub router: Router,
    /// Set to true, the server stops.
    pub stop: watch::Sender<bool>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    fn items(&self) -> Vec<Value> {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.json()["items"].as_array().expect("a list").clone()
    }

    /// The last part of the problem's type.
    pub fn problem(&self) -> String {
        let media = &self.headers[header::CONTENT_TYPE];
        assert_eq!(media, "application/problem+json", "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status.as_u16(), "{self:?}");
        assert!(!document["detail"].as_str().expect("a text").is_empty(), "{self:?}");
        let name = document["type"].as_str().expect("a text").strip_prefix("urn:usher:problem:");
        name.expect("of ours").to_owned()
    }
}

impl Face {
    pub fn of(server: &Arc<Server>) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { router: admin::http::router(server, stopped), stop }
    }

    async fn response(&self, request: http::request::Builder, body: Body) -> http::Response<Body> {
        let peer =
            Peer { address: PEER.parse::<SocketAddr>().expect("an address"), encrypted: true };
        let request = request.extension(peer).body(body).expect("a request");
        self.router.clone().oneshot(request).await.expect("an answer")
    }

    async fn ask(&self, request: http::request::Builder, body: impl Into<Body>) -> Answer {
        let (parts, body) = self.response(request, body.into()).await.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("is text");
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, token: &str, path: &str) -> Answer {
        self.ask(request(Method::GET, token, path), "").await
    }

    pub async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        let request = request(Method::POST, token, path);
        self.ask(request.header(header::CONTENT_TYPE, "application/json"), body.to_string()).await
    }

    pub async fn form(&self, token: &str, path: &str, body: &str) -> Answer {
        let request = request(Method::POST, token, path);
        let form = "application/x-www-form-urlencoded";
        self.ask(request.header(header::CONTENT_TYPE, form), body.to_owned()).await
    }
}

fn request(method: Method, token: &str, path: &str) -> http::request::Builder {
    let path = match path.strip_prefix('/') {
        Some(_) => path.to_owned(),
        None => format!("{}/{path}", admin::http::ROOT),
    };
    let request = Request::builder().method(method).uri(path);
    match token {
        "" => request,
        token => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
    }
}

/// A token for requests, good for these scopes.
pub async fn api_token(server: &Arc<Server>, account: &Account, scopes: &[Right]) -> String {
    let scopes = Some(Rights::of(scopes));
    let mint = Mint { purpose: API.into(), scopes, ..Mint::login(Role::Admin, "test") };
    let (_, token) = server.mint(account, mint).await.expect("is stored");
    token.to_text().to_string()
}

pub async fn with_role(world: &World, name: &str, role: Role) -> Account {
    let account = world.account(name).await;
    let jid = account.jid.parse().expect("a JID");
    let change = server::change::Standing::Role(role);
    world.server.set_standing(&jid, change, crate::world::admin()).await.expect("is there");
    world.server.account(&account.jid).await.expect("is read").expect("is there")
}

#[tokio::test]
async fn every_command_has_a_path_and_only_what_looks_is_a_get() {
    let world = World::start(|_| {}).await;
    let face = Face::of(&world.server);
    let described = admin::http::openapi::document();
    for command in command::table() {
        let path = format!("/api/v1/{}", command.name.replace(' ', "/"));
        let methods = described["paths"][&path].as_object().expect("is described");
        let allowed: Vec<&str> = methods.keys().map(String::as_str).collect();
        assert!(!command.mutates || allowed == ["post"], "{path}: {allowed:?}");
        let other = if allowed == ["post"] { Method::GET } else { Method::POST };
        let answer = face.ask(request(other, "", &path), "").await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(answer.problem(), "method");
        assert!(answer.headers.contains_key(header::ALLOW), "{path}: {answer:?}");
        let right = match allowed[0] {
            "post" => face.post("", &path, json!({})).await,
            _ => face.get("", &path).await,
        };
        assert_eq!(right.problem(), "unauthorized", "{path}");
    }
}

#[tokio::test]
async fn ro_35_a_get_ends_nothing() {
    let world = World::start(|_| {}).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let token = api_token(&world.server, &boss, Right::ALL).await;
    let _alice = world.bound("alice", "phone").await;
    let face = Face::of(&world.server);
    let path = "session/end?jid=alice%40localhost&reason=no";
    assert_eq!(face.get(&token, path).await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(world.session("alice@localhost/phone").alive());
}

#[tokio::test]
async fn who_bears_no_token_that_is_good_is_told_what_is_wrong_only_if_it_was_right_once() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let face = Face::of(&world.server);
    let refused = async |token: &str| {
        let answer = face.get(token, "whoami").await;
        (answer.status.as_u16(), answer.problem(), answer)
    };
    let (status, problem, answer) = refused("").await;
    assert_eq!((status, &*problem), (401, "unauthorized"));
    assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"usher\"");
    let good = api_token(&world.server, &alice, &[Right::List]).await;
    assert_eq!(face.get(&good, "whoami").await.json()["jid"], "alice@localhost");
    let mut wrong = good.clone();
    let place = "secret-token:".len() + 20;
    let other = if wrong.as_bytes()[place] == b'A' { "B" } else { "A" };
    wrong.replace_range(place..=place, other);
    for none in ["secret-token:", "x", &wrong] {
        let (status, problem, answer) = refused(none).await;
        assert_eq!((status, &*problem), (401, "unauthorized"), "{none}");
        let challenge = &answer.headers[header::WWW_AUTHENTICATE];
        assert_eq!(challenge, "Bearer realm=\"usher\", error=\"invalid_token\"");
    }
    let (_, login) = world.token(&alice, None).await;
    let (status, _, answer) = refused(&login).await;
    assert!(status == 401 && answer.text.contains("`login`"), "{answer:?}");

    let text = good.parse_token();
    let by = crate::world::admin();
    let revoked = world.server.revoke_token(text, &by, Some("lost".into()));
    revoked.await.expect("is stored").expect("is there");
    let (status, problem, answer) = refused(&good).await;
    assert_eq!((status, &*problem), (401, "token-over"));
    assert!(answer.text.contains("lost"), "{answer:?}");
}

trait ParseToken {
    fn parse_token(&self) -> wire::TokenId;
}

impl ParseToken for String {
    fn parse_token(&self) -> wire::TokenId {
        wire::Token::parse(self).expect("a token").id
    }
}

#[tokio::test]
async fn lj_30_a_wrong_token_is_a_failed_login_and_too_many_shut_the_address_out() {
    let world = World::start(|config| config.auth.pair_failures = 2).await;
    let alice = world.account("alice").await;
    let good = api_token(&world.server, &alice, &[Right::List]).await;
    let made_up = wire::Token {
        id: wire::TokenId(7),
        secret: wire::Secret::new(vec![7; 24]),
        owner: "alice@localhost".parse().expect("a JID"),
    };
    let made_up = made_up.to_text().to_string();
    let face = Face::of(&world.server);
    for _ in 0..2 {
        assert_eq!(face.get(&made_up, "whoami").await.problem(), "unauthorized");
    }
    let answer = face.get(&good, "whoami").await;
    assert_eq!(answer.problem(), "throttled");
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    world.clock.advance(301_000);
    assert_eq!(face.get(&good, "whoami").await.status, StatusCode::OK);
}

#[tokio::test]
async fn lj_31_a_token_does_nothing_that_its_scopes_do_not_name_not_even_with_its_own() {
    let world = World::start(|config| config.clients.fresh = server::config::Span::OFF).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    let server = &world.server;
    let _phone = world.bound("boss", "phone").await;
    let lists = api_token(server, &boss, &[Right::List]).await;
    let ends = api_token(server, &boss, &[Right::End]).await;
    let mints = api_token(server, &boss, &[Right::Token, Right::List, Right::User]).await;
    let face = Face::of(server);

    assert_eq!(face.get(&lists, "session/list").await.items().len(), 1);
    let end = json!({ "selector": ["boss@localhost/phone"] });
    let refused = face.post(&lists, "session/end", end.clone()).await;
    assert_eq!(refused.problem(), "forbidden");
    assert!(refused.text.contains("lacks the scope `end`"), "{refused:?}");
    let challenge = &refused.headers[header::WWW_AUTHENTICATE];
    let wanted = "Bearer realm=\"usher\", error=\"insufficient_scope\", scope=\"end\"";
    assert_eq!(challenge, wanted);
    assert_eq!(face.get(&ends, "session/list").await.problem(), "forbidden");
    // More than ending takes more, for what is one's own too.
    let mut revoke = end.clone();
    revoke["level"] = "revoke".into();
    let refused = face.post(&ends, "session/end", revoke).await;
    assert_eq!(refused.problem(), "forbidden", "{refused:?}");
    assert!(world.session("boss@localhost/phone").alive());

    // Nothing that opens more than it does itself.
    let (login, _) = world.token(&boss, None).await;
    let jid = "boss@localhost";
    for (path, args) in [
        ("token/mint", json!({ "jid": jid })),
        ("token/mint", json!({ "jid": jid, "purpose": "api", "scope": ["end"] })),
        ("token/rotate", json!({ "token": login.to_string() })),
        ("user/password", json!({ "jid": jid, "password": "another one" })),
    ] {
        let refused = face.post(&mints, path, args).await;
        assert_eq!(refused.problem(), "forbidden", "{path}: {refused:?}");
    }
    let less = json!({ "jid": jid, "purpose": "api", "scope": ["list"] });
    let minted = face.post(&mints, "token/mint", less).await;
    assert_eq!(minted.status, StatusCode::OK, "{minted:?}");

    let ended = face.post(&ends, "session/end", end).await;
    assert_eq!(ended.status, StatusCode::OK, "{ended:?}");
    assert!(world.server.registry.full(&"boss@localhost/phone".parse().expect("a JID")).is_none());
}

#[tokio::test]
async fn a_demoted_owner_and_a_disabled_one_have_lost_at_their_next_request() {
    let world = World::start(|_| {}).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let _alice = world.bound("alice", "phone").await;
    let token = api_token(&world.server, &boss, Right::ALL).await;
    let face = Face::of(&world.server);
    assert_eq!(face.get(&token, "session/list").await.items().len(), 1);
    let jid = "boss@localhost".parse().expect("a JID");
    let stand = async |standing| {
        let set = world.server.set_standing(&jid, standing, crate::world::admin());
        set.await.expect("is there");
    };
    stand(server::change::Standing::Role(Role::User)).await;
    assert!(face.get(&token, "session/list").await.items().is_empty());
    stand(server::change::Standing::Disabled).await;
    assert_eq!(face.get(&token, "session/list").await.problem(), "refused");
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told_what_to_do() {
    let world = World::start(|_| {}).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    let token = api_token(&world.server, &boss, Right::ALL).await;
    let face = Face::of(&world.server);
    for (path, said) in [
        ("session/list?limt=1", "limt"),
        ("session/list?limit=0", "1 at least"),
        ("session/list?limit=1001", "1000 at most"),
        ("session/list?limit=1&limit=2", "twice"),
        ("session/list?stage=asleep", "asleep"),
        ("session/list?hibernating=perhaps", "true"),
        ("session/show", "needs"),
        ("user/show?jid=%40", "JID"),
    ] {
        let answer = face.get(&token, path).await;
        assert_eq!(answer.problem(), "usage", "{path}");
        assert!(answer.text.contains(said), "{path}: {answer:?}");
    }
    assert_eq!(
        face.get(&token, "user/show?jid=nobody%40localhost").await.problem(),
        "nothing-matched"
    );
    assert_eq!(face.get(&token, "/api/v1/no/such").await.problem(), "no-such-path");
    assert_eq!(face.get(&token, "/nowhere").await.problem(), "no-such-path");
    let add = |body: &'static str, media: Option<&'static str>| {
        let mut request = request(Method::POST, &token, "user/add");
        if let Some(media) = media {
            request = request.header(header::CONTENT_TYPE, media);
        }
        face.ask(request, body)
    };
    let json = Some("application/json; charset=utf-8");
    assert_eq!(add("{", json).await.problem(), "usage");
    assert_eq!(add("[]", json).await.problem(), "usage");
    assert_eq!(add("{\"jid\":1}", json).await.problem(), "usage");
    assert_eq!(add("{}", None).await.problem(), "media-type");
    assert_eq!(
        add("jid=x", Some("application/x-www-form-urlencoded")).await.problem(),
        "media-type"
    );
    let large = " ".repeat((1 << 20) + 1);
    let large = face.post(&token, "user/add", json!({ "jid": large })).await;
    assert_eq!((large.status, &*large.problem()), (StatusCode::PAYLOAD_TOO_LARGE, "too-large"));
    let twice = json!({ "jid": "boss@localhost", "password": PASSWORD });
    assert_eq!(face.post(&token, "user/add", twice).await.problem(), "failed");
}

#[tokio::test]
async fn iv_14_a_long_list_comes_in_pages_that_hang_together() {
    let world = World::start(|_| {}).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    let token = api_token(&world.server, &boss, Right::ALL).await;
    world.account("alice").await;
    let mut there = Vec::new();
    for resource in ["a", "b", "c", "d", "e"] {
        there.push(world.bound("alice", resource).await);
    }
    let face = Face::of(&world.server);
    let (mut path, mut seen) = ("session/list?limit=2&stage=bound".to_owned(), Vec::new());
    for page in 1.. {
        let answer = face.get(&token, &path).await;
        let items = answer.items();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["jid"].as_str().expect("a JID").to_owned()));
        let Some(link) = answer.headers.get(header::LINK) else {
            assert_eq!(page, 3);
            break;
        };
        let link = link.to_str().expect("text");
        path = link.trim_start_matches('<').split('>').next().expect("a target").to_owned();
        assert!(link.ends_with("; rel=\"next\"") && path.contains("stage=bound"), "{link}");
        assert!(path.contains(answer.json()["next"].as_str().expect("a text")), "{link}");
    }
    seen.sort();
    let all = ["a", "b", "c", "d", "e"].map(|resource| format!("alice@localhost/{resource}"));
    assert_eq!(seen, all);
}

#[tokio::test]
async fn tokens_are_introspected_and_revoked_as_the_standards_have_it() {
    let world = World::start(|_| {}).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    let alice = world.account("alice").await;
    let server = &world.server;
    let token = api_token(server, &boss, &[Right::List]).await;
    let own = api_token(server, &alice, &[Right::List]).await;
    let (_, login) = world.token(&alice, Some(60)).await;
    let face = Face::of(server);
    let (introspect, revoke) = ("oauth/introspect", "oauth/revoke");
    let of = |token: &str| {
        let pairs = [("token", token), ("token_type_hint", "nonsense")];
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    };

    let active = face.form(&token, introspect, &of(&login)).await.json();
    assert_eq!(active["active"], true, "{active}");
    assert_eq!(active["sub"], "alice@localhost");
    assert_eq!(
        active["exp"].as_i64().expect("a time") - active["iat"].as_i64().expect("a time"),
        60
    );
    let scoped = face.form(&token, introspect, &of(&own)).await.json();
    assert_eq!((&scoped["scope"], &scoped["exp"]), (&json!("list"), &Value::Null), "{scoped}");
    let inactive = json!({ "active": false });
    // What is others' is as good as none to whoever may not see it.
    let of_boss = face.form(&own, introspect, &of(&token)).await;
    assert_eq!(of_boss.json(), inactive);
    assert_eq!(face.form(&token, introspect, &of("x")).await.json(), inactive);
    assert_eq!(face.form("", introspect, &of(&login)).await.problem(), "unauthorized");
    assert_eq!(face.form(&token, introspect, "tokn=x").await.problem(), "usage");

    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.open().await;
    assert!(client.login_with(&login).await.starts_with("<success"));
    client.open().await;
    for _ in 0..2 {
        let answer = face.form("", revoke, &of(&login)).await;
        assert_eq!((answer.status, &*answer.text), (StatusCode::OK, ""));
    }
    client.expect_error("not-authorized").await;
    assert_eq!(face.form(&token, introspect, &of(&login)).await.json(), inactive);
    assert_eq!(face.form("", revoke, &of("nonsense")).await.status, StatusCode::OK);
    // One of the API as well, though it lacks the scope for anything like it.
    assert_eq!(face.form("", revoke, &of(&own)).await.status, StatusCode::OK);
    assert_eq!(face.get(&own, "whoami").await.problem(), "token-over");
}

#[tokio::test]
async fn whoever_watches_the_server_gets_true_numbers() {
    let world = World::start(|_| {}).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let token = api_token(&world.server, &boss, &[Right::Status]).await;
    let other = api_token(&world.server, &boss, &[Right::List]).await;
    let face = Face::of(&world.server);
    assert_eq!(face.get("", "/healthz").await.text, "ok\n");
    assert_eq!(face.get("", "/readyz").await.text, "ready\n");
    assert_eq!(face.get("", "/metrics").await.problem(), "unauthorized");
    assert_eq!(face.get(&other, "/metrics").await.problem(), "forbidden");

    let alice = world.bound("alice", "a").await;
    let _bound = world.bound("alice", "b").await;
    let mut stranger = world.connect().await;
    stranger.try_login("alice", "wrong").await.expect_err("is wrong");
    let ended = world.session("alice@localhost/a");
    world.server.end(&ended, server::end::End::new(server::end::Reason::Kicked));
    drop(alice);
    crate::world::assert_eventually("it is gone", || world.server.registry.counts().bound == 1)
        .await;
    let text = face.get(&token, "/metrics").await.text;
    let value = |line: &str| {
        let found = text.lines().find_map(|text| text.strip_prefix(&format!("{line} ")));
        found.unwrap_or_else(|| panic!("no {line} in {text}")).parse::<f64>().expect("a number")
    };
    assert_eq!(value("usher_sessions{stage=\"bound\"}"), 1.0);
    assert_eq!(value("usher_logins_total{mechanism=\"SCRAM-SHA-256\"}"), 2.0);
    let failed =
        "usher_login_failures_total{mechanism=\"SCRAM-SHA-256\",reason=\"not-authorized\"}";
    assert_eq!(value(failed), 1.0);
    assert_eq!(value("usher_session_ends_total{reason=\"kicked\"}"), 1.0);
    assert!(value("usher_tokens_total{event=\"minted\"}") >= 2.0);
    assert!(value("usher_storage_seconds_count{operation=\"commit\"}") >= 2.0);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let reference = server::metrics::Metrics::reference();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let ends = ["", "_bucket", "_count", "_sum"];
        let mut known = ends.iter().filter_map(|end| name.strip_suffix(end));
        assert!(known.any(|name| reference.contains(&format!("`{name}`"))), "{line}");
    }

    face.stop.send(true).expect("is heard");
    assert_eq!(face.get("", "/readyz").await.problem(), "unavailable");
}

#[tokio::test(start_paused = true)]
async fn sessions_are_watched_as_they_come_and_go_for_as_long_as_the_token_is_good() {
    let world = World::without_doors(plugins::ALL, |_| {});
    let boss = with_role(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let token = api_token(&world.server, &boss, &[Right::List, Right::ListIp]).await;
    let face = Face::of(&world.server);
    assert_eq!(face.get("", "session/watch").await.problem(), "unauthorized");
    let ends = api_token(&world.server, &boss, &[Right::End]).await;
    assert_eq!(face.get(&ends, "session/watch").await.problem(), "forbidden");

    let response =
        face.response(request(Method::GET, &token, "session/watch"), Body::empty()).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    let mut next = async || -> Option<(String, Value)> {
        loop {
            let frame = body.frame().await?.expect("goes on").into_data().expect("is data");
            let text = String::from_utf8(frame.to_vec()).expect("is text");
            let Some((name, data)) = text.trim().split_once('\n') else { continue };
            let name = name.strip_prefix("event: ").expect("a name").to_owned();
            let data = data.strip_prefix("data: ").expect("data");
            return Some((name, serde_json::from_str(data).expect("is JSON")));
        }
    };
    tokio::time::sleep(Duration::from_millis(10)).await;
    let session = world.phantom("alice", "phone").await;
    for change in ["connected", "logged-in", "bound"] {
        let (name, data) = next().await.expect("an event");
        assert_eq!((&*name, &data["change"]), (change, &json!(change)));
        assert_eq!(data["id"], session.id.to_string());
    }
    // It is over while nothing happens: its stream ends all the same.
    let id = token.parse_token();
    world.server.revoke_token(id, &crate::world::admin(), None).await.expect("is stored");
    let (name, data) = next().await.expect("an event");
    assert_eq!((&*name, data["forbidden"].as_bool()), ("failed", Some(true)), "{data}");
    assert_eq!(next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::without_doors(plugins::ALL, |_| {});
    let face = Face::of(&world.server);
    let (_silent, never) = Channel::<bytes::Bytes>::new(1);
    let form = "application/x-www-form-urlencoded";
    let request = request(Method::POST, "", "oauth/revoke").header(header::CONTENT_TYPE, form);
    let answer = face.ask(request, Body::new(never)).await;
    assert_eq!(answer.problem(), "usage", "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_ends_when_the_server_stops() {
    let world = World::without_doors(plugins::ALL, |_| {});
    let boss = with_role(&world, "boss", Role::Admin).await;
    let token = api_token(&world.server, &boss, Right::ALL).await;
    let face = Face::of(&world.server);
    let response =
        face.response(request(Method::GET, &token, "session/watch"), Body::empty()).await;
    face.stop.send(true).expect("is heard");
    let text = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(text.starts_with(b"event: done"), "{text:?}");
}

#[tokio::test]
async fn accounts_logins_and_the_audit_come_in_pages_too() {
    let world = World::start(|_| {}).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    let token = api_token(&world.server, &boss, Right::ALL).await;
    for name in ["alice", "bob", "carol"] {
        world.account(name).await;
        drop(world.bound(name, "r").await);
    }
    world.empty().await;
    let face = Face::of(&world.server);
    for name in ["alice", "bob", "carol"] {
        let label = json!({ "jid": format!("{name}@localhost"), "group": "" });
        face.post(&token, "user/group", label).await;
    }
    for (path, field) in [("user/list", "jid"), ("last", "cursor"), ("audit/list", "cursor")] {
        let all = face.get(&token, &format!("{path}?limit=1000")).await.items();
        assert!(all.len() >= 3, "{path}: {all:?}");
        let (mut next, mut seen) = (format!("{path}?limit=2"), Vec::new());
        loop {
            let answer = face.get(&token, &next).await;
            seen.extend(answer.items());
            let after = answer.json()["next"].as_str().map(str::to_owned);
            let Some(after) = after else { break };
            next = format!("{path}?limit=2&after={after}");
        }
        let of = |items: &[Value]| items.iter().map(|item| item[field].clone()).collect::<Vec<_>>();
        // The audit notes that it was looked at meanwhile, in front.
        assert!(of(&seen).ends_with(&of(&all)), "{path}: {seen:?}");
        assert!(seen.len() - all.len() <= usize::from(path == "audit/list"), "{path}: {seen:?}");
    }
}
