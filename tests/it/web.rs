//! The pages for people, without sockets: who gets in, that nothing is done without a form of ours, and
//! "Your devices".

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{body::Body, http};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use server::{
    Server,
    account::Role,
    bearer::Peer,
    change::Standing,
    client::Client,
    config::Span,
    history::Query,
    rights::Right,
    vault::{Found, WEB},
};
use tower::ServiceExt;
use wire::Secret;

use crate::{
    api::{Face, api_token, with_role},
    world::{PASSWORD, ParseJid, World, admin},
};

const FORM: &str = "application/x-www-form-urlencoded";
pub const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0";

/// A page, or where to go instead.
#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Page {
    /// Where it sends the browser.
    pub fn to(&self) -> &str {
        assert_eq!(self.status, StatusCode::SEE_OTHER, "{self:?}");
        self.headers[header::LOCATION].to_str().expect("text")
    }

    #[track_caller]
    pub fn shows(&self, text: &str) -> &Self {
        assert!(self.text.contains(text), "no {text:?} in {}", self.text);
        self
    }

    #[track_caller]
    pub fn hides(&self, text: &str) -> &Self {
        assert!(!self.text.contains(text), "there is {text:?} in {}", self.text);
        self
    }

    /// The value of the first hidden field of this name.
    pub fn field(&self, name: &str) -> Option<String> {
        let (_, rest) = self.text.split_once(&format!("name=\"{name}\" value=\""))?;
        Some(rest.split('"').next()?.to_owned())
    }

    fn cookies(&self) -> Vec<&str> {
        let all = self.headers.get_all(header::SET_COOKIE).iter();
        all.map(|cookie| cookie.to_str().expect("text")).collect()
    }
}

/// Somebody's browser: it keeps cookies and sends what a browser sends.
pub struct Browser {
    face: Face,
    peer: Peer,
    pub jar: BTreeMap<String, String>,
    /// The key of the forms on the last page that had any.
    pub key: String,
    pub agent: &'static str,
}

impl Browser {
    pub fn of(server: &std::sync::Arc<Server>) -> Self {
        let address: SocketAddr = "192.0.2.9:4711".parse().expect("an address");
        let peer = Peer { address, encrypted: true };
        let (jar, key) = (BTreeMap::new(), String::new());
        Self { face: Face::of(server), peer, jar, key, agent: FIREFOX }
    }

    fn at(mut self, address: &str, encrypted: bool) -> Self {
        self.peer = Peer { address: address.parse().expect("an address"), encrypted };
        self
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let cookies: Vec<_> =
            self.jar.iter().map(|(name, text)| format!("{name}={text}")).collect();
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "chat.example")
            .header(header::ACCEPT, "text/html")
            .header(header::USER_AGENT, self.agent)
            .header(header::COOKIE, cookies.join("; "))
            .extension(self.peer)
    }

    async fn send(&mut self, request: Request<Body>) -> Page {
        let response = self.face.router.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let page = Page { status: parts.status, headers: parts.headers, text };
        for cookie in page.cookies() {
            let (name, value) =
                cookie.split(';').next().and_then(|c| c.split_once('=')).expect("a pair");
            match value {
                "" => self.jar.remove(name),
                value => self.jar.insert(name.to_owned(), value.to_owned()),
            };
        }
        if let Some(key) = page.field("form") {
            self.key = key;
        }
        page
    }

    pub async fn get(&mut self, path: &str) -> Page {
        let request = self.request(Method::GET, path).body(Body::empty()).expect("a request");
        self.send(request).await
    }

    /// A form of the last page, sent as a browser does.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let key = self.key.clone();
        self.post_with(path, &key, &[("sec-fetch-site", "same-origin")], fields).await
    }

    async fn post_with(
        &mut self,
        path: &str,
        key: &str,
        headers: &[(&'static str, &'static str)],
        fields: &[(&str, &str)],
    ) -> Page {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("form", key).extend_pairs(fields);
        let mut request = self.request(Method::POST, path).header(header::CONTENT_TYPE, FORM);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(form.finish().into()).expect("a request")).await
    }

    /// Fills in the login page.
    pub async fn try_login(&mut self, jid: &str, password: &str) -> Page {
        self.jar.retain(|name, _| name.ends_with("usher-browser"));
        self.get("/login").await.shows("Log in");
        self.post("/login", &[("jid", jid), ("password", password), ("next", "/devices")]).await
    }

    pub async fn login(&mut self, jid: &str) -> &mut Self {
        let page = self.try_login(jid, PASSWORD).await;
        assert_eq!(page.to(), "/devices");
        // For the key of its forms.
        self.get("/devices").await;
        self
    }

    /// The token in its cookie.
    pub fn token(&self) -> wire::Token {
        wire::Token::parse(&self.jar["__Host-usher"]).expect("a token")
    }

    async fn found(&self, server: &Server) -> Found {
        server.find_token(self.token().id).await.expect("is read").expect("is there")
    }
}

/// The rows of a command, done at the admin socket.
pub async fn rows(world: &World, name: &str, args: Value) -> Vec<Value> {
    crate::history::rows(&world.server, name, args).await
}

async fn clients(world: &World, jid: &str) -> Vec<Client> {
    let account = world.server.account(jid).await.expect("is read").expect("is there");
    world.server.clients_of(account.id, None, 0).await.expect("is read")
}

fn old(config: &mut server::config::Config) {
    config.clients.fresh = Span::OFF;
}

#[tokio::test]
async fn a_browser_that_logs_in_is_a_client_whose_cookie_nobody_else_can_have() {
    let world = World::start(|_| {}).await;
    let alice = world.account("alice").await;
    let mut browser = Browser::of(&world.server);
    assert_eq!(browser.get("/").await.to(), "/login?next=%2F");
    let page = browser.get("/login").await;
    let [id] = page.cookies()[..] else { panic!("{page:?}") };
    assert!(id.starts_with("__Host-usher-browser=") && id.contains("; HttpOnly; Secure; "), "{id}");

    let page = browser.post("/login", &[("jid", "alice"), ("password", PASSWORD)]).await;
    assert_eq!(page.to(), "/");
    let [cookie] = page.cookies()[..] else { panic!("{page:?}") };
    assert!(cookie.starts_with("__Host-usher=secret-token:"), "{cookie}");
    assert!(cookie.ends_with("; Path=/; HttpOnly; Secure; SameSite=Strict"), "{cookie}");
    assert_eq!(browser.get("/").await.to(), "/devices");
    assert_eq!(browser.get("/login?next=/devices").await.to(), "/devices");

    let [client] = &clients(&world, "alice@localhost").await[..] else { panic!("not one client") };
    assert_eq!(client.software.as_deref(), Some("Firefox on Linux"));
    assert_eq!(client.address.as_deref(), Some("192.0.2.9"));
    let found = browser.found(&world.server).await;
    assert_eq!((&*found.token.purpose, found.client.id), (WEB, client.id));
    let ttl = world.server.config.clients.short.get().expect("some time");
    assert_eq!(found.token.expires, Some(found.token.created.plus_seconds(ttl)));
    let query = Query { account: Some(alice.id), limit: 9, ..Query::default() };
    let [(_, login)] = &world.server.logins(query).await.expect("is read")[..] else {
        panic!("not one login")
    };
    assert_eq!((login.mechanism.as_deref(), &*login.session), (Some("PLAIN"), ""));
    let last = rows(&world, "last", json!({})).await;
    assert_eq!(
        (&last[0]["state"], &last[0]["software"]),
        (&json!("web"), &json!("Firefox on Linux"))
    );
    // It opens these pages and nothing else.
    let token = browser.jar["__Host-usher"].clone();
    let answer = browser.face.get(&token, "whoami").await;
    assert_eq!(answer.problem(), "unauthorized");
    let mut chat = world.connect_in(true, crate::dialogue::Chunks::Whole).await;
    chat.open().await;
    assert!(chat.login_with(&token).await.contains("not-authorized"));
    // Nor is what opens other doors good here.
    for other in
        [api_token(&world.server, &alice, Right::ALL).await, world.token(&alice, None).await.1]
    {
        browser.jar.insert("__Host-usher".into(), other);
        assert_eq!(browser.get("/devices").await.to(), "/login?next=%2Fdevices");
    }
}

#[tokio::test]
async fn a_login_is_refused_for_the_same_reasons_as_any_other() {
    let world = World::start(|config| config.auth.pair_failures = 4).await;
    let alice = world.account("alice").await;
    let mut browser = Browser::of(&world.server);
    let wrong = browser.try_login("alice@localhost", "wrong").await;
    let nobody = browser.try_login("nobody@localhost", "wrong").await;
    let elsewhere = browser.try_login("alice@elsewhere.example", PASSWORD).await;
    for page in [&wrong, &nobody, &elsewhere] {
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        page.shows("The address or the password is wrong").hides("__Host-usher=");
    }
    let same = |page: &Page, jid: &str| {
        let own = format!("name=\"jid\" value=\"{jid}\"");
        page.text.replace(&own, "").replace(&page.field("form").expect("a key"), "")
    };
    assert_eq!(same(&wrong, "alice@localhost"), same(&nobody, "nobody@localhost"));
    let page = browser.try_login("@", PASSWORD).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    let refused = Query { account: Some(alice.id), failed: true, limit: 9, ..Query::default() };
    let noted = world.server.logins(refused).await.expect("is read");
    assert_eq!(noted.len(), 1, "{noted:?}");

    let jid = "alice@localhost".parse_jid();
    let stand = async |standing| {
        world.server.set_standing(&jid, standing, admin()).await.expect("is there");
    };
    stand(Standing::Disabled).await;
    browser.try_login("alice", PASSWORD).await.shows("This account is disabled");
    // Who does not know the password is not told.
    browser.try_login("alice", "wrong").await.shows("The address or the password is wrong");
    stand(Standing::Enabled).await;
    world
        .server
        .hold_account(&jid, Some(world.clock.now().plus_seconds(60)))
        .await
        .expect("is held");
    assert_eq!(browser.try_login("alice", PASSWORD).await.status, StatusCode::TOO_MANY_REQUESTS);
    world.server.hold_account(&jid, None).await.expect("is let go");
    for _ in 0..2 {
        browser.try_login("alice", "wrong").await;
    }
    let page = browser.try_login("alice", PASSWORD).await;
    assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS);
    page.shows("wait some minutes");
    world.clock.advance(301_000);
    browser.login("alice").await;
}

#[tokio::test]
async fn nobody_logs_in_where_others_can_listen() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut far = Browser::of(&world.server).at("192.0.2.9:1", false);
    for page in [far.get("/login").await, far.get("/devices").await, far.get("/").await] {
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        page.shows("https://");
    }
    // This machine is no way that anybody can listen on; `Secure` would lose the cookie there.
    let mut here = Browser::of(&world.server).at("[::1]:1", false);
    here.login("alice").await;
    assert!(here.jar.contains_key("usher") && !here.jar.contains_key("__Host-usher"));
    here.get("/devices").await.shows("This device");
}

#[tokio::test]
async fn nothing_is_done_without_a_form_of_ours() {
    let world = World::start(old).await;
    world.account("alice").await;
    world.account("bob").await;
    let _phone = world.bound("alice", "phone").await;
    let mut browser = Browser::of(&world.server);
    browser.login("alice").await;
    let mut bob = Browser::of(&world.server);
    bob.login("bob").await;
    let phone = clients(&world, "alice@localhost").await[0].id.to_string();
    let (key, others) = (browser.key.clone(), bob.key.clone());
    let ours = ("sec-fetch-site", "same-origin");
    let tries: &[(&str, &[(&'static str, &'static str)])] = &[
        ("", &[ours]),
        ("x", &[ours]),
        (&others, &[ours]),
        (&key, &[]),
        (&key, &[("sec-fetch-site", "cross-site")]),
        (&key, &[("sec-fetch-site", "same-site")]),
        (&key, &[("origin", "https://evil.example"), ours]),
        (&key, &[("origin", "null")]),
    ];
    for (key, headers) in tries {
        for path in ["/devices/end", "/devices/label", "/logout", "/admin/act/client-revoke"] {
            let fields = [("client", &*phone), ("label", "evil"), ("sure", "yes")];
            let page = browser.post_with(path, key, headers, &fields).await;
            assert_eq!(page.status, StatusCode::FORBIDDEN, "{path} {key} {headers:?}");
            page.shows("Nothing was done");
        }
    }
    for headers in [&[][..], &[("sec-fetch-site", "cross-site")]] {
        let fields = [("jid", "alice"), ("password", PASSWORD)];
        let mut stranger = Browser::of(&world.server);
        stranger.get("/login").await;
        let key = stranger.key.clone();
        let page = stranger.post_with("/login", &key, headers, &fields).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        // A form that was made for another browser.
        let page = stranger.post_with("/login", &others, &[ours], &fields).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN);
        assert!(!stranger.jar.contains_key("__Host-usher"));
    }
    assert!(world.session("alice@localhost/phone").alive());
    assert_eq!(clients(&world, "alice@localhost").await[0].label, None);
    browser.get("/devices").await.shows("This device");
    // The same with what a browser says of a page of ours.
    let fields = [("client", &*phone), ("label", "pocket")];
    let headers = [("origin", "https://chat.example")];
    assert_eq!(browser.post_with("/devices/label", &key, &headers, &fields).await.to(), "/devices");
    browser.get("/devices").await.shows("pocket");
}

#[tokio::test]
async fn ro_35_looking_changes_nothing() {
    let world = World::start(old).await;
    with_role(&world, "boss", Role::Admin).await;
    world.account("alice").await;
    let _phone = world.bound("alice", "phone").await;
    let mut browser = Browser::of(&world.server);
    browser.login("boss").await;
    let of = async || {
        let mut all = clients(&world, "alice@localhost").await;
        all.extend(clients(&world, "boss@localhost").await);
        serde_json::to_string(&all).expect("can be written")
    };
    let before = of().await;
    let phone = clients(&world, "alice@localhost").await[0].id.to_string();
    for path in [
        "/devices/end?which=all&sure=yes".to_owned(),
        format!("/devices/end?client={phone}&sure=yes"),
        format!("/devices/label?client={phone}&label=x"),
        "/logout".into(),
        format!("/admin/act/client-revoke?client={phone}&reason=x&sure=yes"),
        "/admin/act/session-end?selector=alice%40localhost&reason=x&sure=yes".into(),
        "/admin/act/session-freeze?selector=alice%40localhost&reason=x&sure=yes".into(),
        "/admin/act/user-disable?jid=alice%40localhost&sure=yes".into(),
    ] {
        let page = browser.get(&path).await;
        assert!(page.status != StatusCode::INTERNAL_SERVER_ERROR, "{path}: {page:?}");
    }
    assert_eq!(of().await, before);
    assert!(world.session("alice@localhost/phone").alive());
    browser.get("/logout").await.shows("Nothing was done");
    browser.get("/devices").await.shows("This device");
}

#[tokio::test]
async fn a_cookie_whose_token_is_over_opens_nothing_and_is_told_why() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let jid = "alice@localhost".parse_jid();
    let mut browser = Browser::of(&world.server);
    browser.login("alice").await;
    let id = browser.token().id;
    world.server.revoke_token(id, &admin(), Some("lost <b>".into())).await.expect("is stored");
    assert_eq!(browser.get("/devices").await.to(), "/login?next=%2Fdevices");
    assert!(browser.post("/devices/end", &[("which", "all")]).await.to().starts_with("/login"));
    browser.get("/login").await.shows("You were logged out: lost &#60;b&#62;");

    browser.login("alice").await;
    let keys = world.server.keys_of(Secret::new("another one")).await.expect("a password");
    let set = world.server.set_password(&jid, keys, admin(), None);
    set.await.expect("is there");
    assert!(browser.get("/devices").await.to().starts_with("/login"));

    assert!(browser.try_login("alice", "another one").await.to().starts_with("/devices"));
    browser.get("/devices").await;
    let before = browser.jar.clone();
    assert_eq!(browser.post("/logout", &[]).await.to(), "/login?out=1");
    assert!(!browser.jar.contains_key("__Host-usher"));
    browser.jar = before;
    assert!(browser.get("/devices").await.to().starts_with("/login"));
    assert!(browser.try_login("alice", "another one").await.to().starts_with("/devices"));
    let ttl = world.server.config.clients.short.get().expect("some time");
    world.clock.advance(ttl * 1000);
    assert!(browser.get("/devices").await.to().starts_with("/login"));
}

#[tokio::test]
async fn a_browser_stays_the_same_client_and_has_one_token_at_a_time() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut browser = Browser::of(&world.server);
    for _ in 0..12 {
        let before = browser.jar.get("__Host-usher").cloned();
        browser.login("alice").await;
        if let Some(before) = before {
            let now = browser.jar.insert("__Host-usher".into(), before);
            assert!(browser.get("/devices").await.to().starts_with("/login"));
            browser.jar.insert("__Host-usher".into(), now.expect("a token"));
        }
        browser.get("/devices").await.shows("This device");
    }
    let [client] = &clients(&world, "alice@localhost").await[..] else { panic!("not one client") };
    assert!(client.grants.len() <= 9, "{}", client.grants.len());
    let good = client.grants.iter().flat_map(|grant| &grant.tokens).filter(|t| t.over.is_none());
    assert_eq!(good.count(), 1);
    let mut other = Browser::of(&world.server);
    other.login("alice").await;
    assert_eq!(clients(&world, "alice@localhost").await.len(), 2);
    // A blocked browser is refused with the password too.
    let phone = client.id;
    let [client, _] = &clients(&world, "alice@localhost").await[..] else { panic!("not two") };
    assert_eq!(client.id, phone);
    world.server.block_client(client, None, &admin(), None).await.expect("is stored");
    let page = browser.try_login("alice", PASSWORD).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    other.get("/devices").await.shows("Unblock");
}

#[tokio::test]
async fn ro_28_what_ends_others_takes_the_password_again_after_a_while() {
    let world = World::start(old).await;
    let alice = world.account("alice").await;
    let phone = world.bound("alice", "phone").await;
    let mut browser = Browser::of(&world.server);
    browser.login("alice").await;
    let id = clients(&world, "alice@localhost").await[0].id.to_string();
    let path = format!("/devices/end?client={id}");
    browser.get(&path).await.hides("Your password, once more");
    world.clock.advance(301_000);
    browser.get(&path).await.shows("Your password, once more");
    let fields =
        |password| [("client", id.clone()), ("how", "revoke".into()), ("password", password)];
    let end = async |browser: &mut Browser, password: &str| {
        let fields = fields(password.to_owned());
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        browser.post("/devices/end", &fields).await
    };
    assert_eq!(end(&mut browser, "").await.status, StatusCode::FORBIDDEN);
    let page = end(&mut browser, "wrong").await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    page.shows("This is not the password");
    // Nor is a token one.
    let (_, token) = world.token(&alice, None).await;
    assert_eq!(end(&mut browser, &token).await.status, StatusCode::FORBIDDEN);
    assert!(world.session("alice@localhost/phone").alive());
    let page = end(&mut browser, PASSWORD).await;
    assert_eq!(page.status, StatusCode::OK, "{page:?}");
    page.shows("1 session ended");
    drop(phone);

    // Who came in by a token has never shown it.
    let mut by_token = Browser::of(&world.server);
    assert_eq!(by_token.try_login("alice", &token).await.to(), "/devices");
    let page = by_token.get("/devices/end?which=all").await;
    page.shows("Your password, once more");
    let page = by_token.post("/devices/end", &[("which", "all"), ("password", PASSWORD)]).await;
    assert_eq!(page.status, StatusCode::OK, "{page:?}");
    assert!(by_token.get("/devices").await.to().starts_with("/login"));
}

#[tokio::test]
async fn what_a_token_has_let_in_gives_no_more_and_ends_with_it() {
    let world = World::start(|_| {}).await;
    let boss = with_role(&world, "boss", Role::Admin).await;
    let server = &world.server;
    let mint =
        server::vault::Mint { ttl: Some(60), ..server::vault::Mint::login(Role::User, "test") };
    let (found, token) = server.mint(&boss, mint).await.expect("is stored");
    let mut browser = Browser::of(server);
    assert_eq!(browser.try_login("boss", token.to_text().as_ref()).await.to(), "/devices");
    assert_eq!(browser.get("/").await.to(), "/devices");
    assert_eq!(browser.get("/admin/accounts").await.status, StatusCode::FORBIDDEN);
    let web = browser.found(server).await;
    assert_eq!((web.client.id, web.grant.id), (found.client.id, found.grant.id));
    assert_eq!(web.token.expires, found.token.expires);
    for _ in 0..70 {
        Browser::of(server).try_login("boss", token.to_text().as_ref()).await.to();
    }
    assert_eq!(browser.try_login("boss", token.to_text().as_ref()).await.to(), "/devices");
    server.revoke_token(found.token.id, &admin(), None).await.expect("is stored");
    assert!(browser.get("/devices").await.to().starts_with("/login"));
}

#[tokio::test]
async fn lj_26_ro_16_the_own_devices_are_shown_and_ended_one_or_all_others() {
    let world = World::start(old).await;
    world.account("alice").await;
    let _phone = world.bound("alice", "phone").await;
    let _desk = world.bound("alice", "desk").await;
    let mut browser = Browser::of(&world.server);
    browser.login("alice").await;
    let page = browser.get("/devices").await;
    assert_eq!(page.text.matches("This device</span>").count(), 1);
    assert_eq!(page.text.matches(">Connected</span>").count(), 2);
    page.shows("alice@localhost/phone").shows("alice@localhost/desk").shows("127.0.0.1");
    page.shows("Firefox on Linux").shows("192.0.2.9").shows("<time datetime=\"2026-01-01T");
    // The current one comes first.
    let first = page.text.split("class=\"card device").nth(1).expect("a device");
    assert!(first.starts_with(" current\""), "{first}");

    let phone = clients(&world, "alice@localhost").await[0].id.to_string();
    browser.get(&format!("/devices/end?client={phone}")).await.shows("Last seen");
    let fields = [("client", &*phone), ("how", "revoke"), ("reason", "lost in the tram")];
    let page = browser.post("/devices/end", &fields).await;
    page.shows("1 session ended")
        .shows("<td role=\"cell\" data-label=\"Outcome\">ended")
        .shows("password");
    let page = browser.get("/devices").await;
    page.hides("alice@localhost/phone").shows("lost in the tram").shows("logout");
    page.shows("alice@localhost/desk");
    // What was done, by whom, and who logged in.
    page.shows("client revoke").shows(">here<").shows(">ended<").shows(">web<");

    let page = browser.post("/devices/end", &[("which", "others")]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(world.server.registry.of("alice@localhost").is_empty());
    browser.get("/devices").await.hides("Log out all other devices");
}

#[tokio::test]
async fn ro_07_logging_out_everywhere_takes_this_browser_too() {
    let world = World::start(old).await;
    world.account("alice").await;
    let _phone = world.bound("alice", "phone").await;
    let mut browser = Browser::of(&world.server);
    browser.login("alice").await;
    browser.get("/devices/end?which=all").await.shows("this one too");
    let page = browser.post("/devices/end", &[("which", "all")]).await;
    assert_eq!(page.status, StatusCode::OK, "{page:?}");
    page.shows("1 session ended");
    assert!(world.server.registry.of("alice@localhost").is_empty());
    assert!(browser.get("/devices").await.to().starts_with("/login"));
    let over = |client: &Client| client.over.is_some();
    assert!(clients(&world, "alice@localhost").await.iter().all(over));
}

#[tokio::test]
async fn b_09_a_new_browser_throws_nobody_out_and_says_so() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let _phone = world.bound("alice", "phone").await;
    let mut browser = Browser::of(&world.server);
    browser.login("alice").await;
    browser.get("/devices").await.shows("This device is new");
    let page = browser.post("/devices/end", &[("which", "others")]).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    page.shows("do it from an older client");
    assert!(world.session("alice@localhost/phone").alive());
    // What came after it, it may.
    let _desk = world.bound("alice", "desk").await;
    let desk = clients(&world, "alice@localhost").await[2].id.to_string();
    let page = browser.post("/devices/end", &[("client", &desk), ("how", "block")]).await;
    page.shows("blocked").shows("1 session ended");
    // And the next day, being the same browser, all of them.
    world.clock.advance(86_400_000);
    browser.login("alice").await;
    browser.get("/devices").await.hides("This device is new").shows("Unblock");
    browser.post("/devices/end", &[("which", "others")]).await.shows("1 session ended");
}

#[tokio::test]
async fn what_is_anothers_is_out_of_reach() {
    let world = World::start(old).await;
    world.account("alice").await;
    world.account("bob").await;
    let _bob = world.bound("bob", "phone").await;
    let bobs = clients(&world, "bob@localhost").await[0].id.to_string();
    let mut browser = Browser::of(&world.server);
    browser.login("alice").await;
    browser.get("/devices").await.hides("bob@localhost");
    for path in
        [format!("/devices/end?client={bobs}"), format!("/devices/end?which=&client={bobs}")]
    {
        let page = browser.get(&path).await;
        assert_eq!(page.status, StatusCode::CONFLICT);
        page.hides("127.0.0.1");
    }
    for path in ["/devices/end", "/devices/label", "/devices/confirm"] {
        browser.post(path, &[("client", &bobs), ("label", "mine"), ("how", "revoke")]).await;
    }
    for act in ["client-revoke", "client-block", "session-end", "user-disable", "policy-set"] {
        let fields =
            [("client", &*bobs), ("reason", "x"), ("sure", "yes"), ("jid", "bob@localhost")];
        let page = browser.post(&format!("/admin/act/{act}"), &fields).await;
        assert_ne!(page.status, StatusCode::OK, "{act}");
    }
    for path in ["accounts", "audit?jid=bob%40localhost", "account?jid=bob%40localhost", "charts"] {
        let page = browser.get(&format!("/admin/{path}")).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{path}");
        page.hides("127.0.0.1");
    }
    let page = browser.get("/admin/sessions").await;
    page.hides("bob@localhost");
    let page = browser.get("/admin/audit").await;
    page.hides("bob@localhost");
    let [client] = &clients(&world, "bob@localhost").await[..] else { panic!("not one client") };
    assert!(client.label.is_none() && client.over.is_none() && client.block.is_none());
    assert!(world.session("bob@localhost/phone").alive());
}

#[tokio::test]
async fn b_22_whatever_somebody_calls_themselves_is_text_and_nothing_else() {
    let world = World::start(old).await;
    world.account("alice").await;
    let hostile = "\"><script>alert(1)</script>`<b>";
    let _phone = world.bound("alice", "phone").await;
    world.session("alice@localhost/phone").set_software(hostile);
    let mut browser = Browser::of(&world.server);
    browser.agent = "<script>alert(1)</script>\"'";
    browser.login("alice").await;
    let phone = clients(&world, "alice@localhost").await[0].id.to_string();
    browser.post("/devices/label", &[("client", &phone), ("label", hostile)]).await.to();
    let fields = [("client", &*phone), ("how", "block"), ("reason", hostile)];
    let pages = [
        browser.get("/devices").await,
        browser.get(&format!("/devices/end?client={phone}")).await,
        browser.post("/devices/end", &fields).await,
        browser.get("/devices").await,
        browser.get("/login?next=%22%3E%3Cscript%3E&out=1").await,
        browser.get("/nowhere/%3Cscript%3E").await,
        browser.try_login(hostile, hostile).await,
    ];
    for page in &pages {
        page.hides("<script>alert").hides("<b>").hides("\"><script").hides("javascript:");
    }
    pages[3].shows("&#60;script&#62;alert(1)&#60;/script&#62;");
    assert_eq!(pages[5].status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_page_says_that_nothing_else_may_be_loaded_or_run() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut browser = Browser::of(&world.server);
    let login = browser.get("/login").await;
    browser.login("alice").await;
    let devices = browser.get("/devices").await;
    for page in [login, browser.get("/nowhere").await, devices] {
        let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'"));
        assert!(!policy.contains("unsafe"));
        assert_eq!(page.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
        page.hides("style=\"").hides(" onclick").hides("<style").hides("http://").hides("<script>");
        let assets = ["src=\"/assets/", "href=\"/assets/"].map(|start| {
            let (_, rest) = page.text.split_once(start).expect("an asset");
            format!("/assets/{}", rest.split('"').next().expect("a name"))
        });
        for path in assets {
            let asset = browser.get(&path).await;
            assert_eq!(asset.status, StatusCode::OK, "{path}");
            let kept = asset.headers[header::CACHE_CONTROL].to_str().expect("text");
            assert!(kept.contains("immutable"), "{path}: {kept}");
        }
    }
    assert_eq!(browser.get("/assets/style.css").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn pages_can_be_turned_off() {
    let world = World::start(|config| config.http.web = false).await;
    for path in ["/", "/login", "/devices", "/admin/sessions"] {
        assert_eq!(
            Browser::of(&world.server).get(path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_browser_that_waits_for_a_word_of_another_device_may_not_even_look() {
    let confirm = |config: &mut server::config::Config| {
        config.host[0].policy.new_clients = Some(server::policy::NewClients::Confirm);
        old(config);
    };
    let world = World::start(confirm).await;
    world.account("alice").await;
    let mut first = Browser::of(&world.server);
    first.login("alice").await;
    let mut second = Browser::of(&world.server);
    second.login("alice").await;
    let page = second.get("/devices").await;
    page.shows("has to confirm it").hides("Firefox");
    let waiting = clients(&world, "alice@localhost").await[1].id.to_string();
    first.get("/devices").await.shows("Not confirmed").shows("Confirm<");
    assert_eq!(first.post("/devices/confirm", &[("client", &waiting)]).await.to(), "/devices");
    second.get("/devices").await.shows("Firefox").hides("has to confirm it");
}

#[tokio::test]
async fn a_cookie_that_is_good_for_nothing_is_taken_away_and_keeps_nobody_out() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    let mut browser = Browser::of(&world.server);
    browser.login("alice").await;
    let made_up = wire::Token {
        id: wire::TokenId(7),
        secret: Secret::new(vec![7; 24]),
        owner: "alice@localhost".parse_jid(),
    };
    browser.jar.insert("__Host-usher".into(), made_up.to_text().to_string());
    for _ in 0..5 {
        assert!(browser.get("/devices").await.to().starts_with("/login"));
        assert!(!browser.jar.contains_key("__Host-usher"));
        browser.get("/login?next=/devices").await.shows("Log in");
    }
    let id = browser.login("alice").await.token().id;
    world.server.revoke_token(id, &admin(), None).await.expect("is stored");
    browser.get("/login").await.shows("You were logged out");
    assert!(!browser.jar.contains_key("__Host-usher"));
}
