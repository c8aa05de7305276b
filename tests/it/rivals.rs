//! Faults of other servers, each with a test that this one does not have it. The names say whose
//! fault it was: a CVE, an issue, or what was seen on a running Prosody 13.0. Single dialogues are
//! in `tests/scripts`; here is what takes a matrix, many connections, or a look inside.

use server::{
    account::Role,
    change::Standing,
    clock::Millis,
    config::Span,
    config::Who,
    end::{Actor, End, Reason},
    mailbox::Parcel,
    session::Flags,
    vault::Mint,
};
use wire::{Kind, Secret};

use crate::{
    dialogue::{Chunks, HEADER, Link, encode},
    script::Scram,
    world::{PASSWORD, ParseJid, Remote, World, assert_eventually, bind_request},
};

const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const MECHANISMS: [&str; 6] = [
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "OAUTHBEARER",
    "PLAIN",
];

/// What a server answers a login with an authorization identity, in one word.
async fn login_as(client: &mut Remote, mechanism: &str, authzid: &str, token: &str) -> String {
    if mechanism.starts_with("SCRAM") {
        let acting = ("authzid".to_owned(), authzid.to_owned());
        let plan = Scram {
            mechanism: mechanism.into(),
            user: "alice".into(),
            password: PASSWORD.into(),
            options: [acting].into_iter().filter(|(_, id)| !id.is_empty()).collect(),
            inline: None,
        };
        client.scram(&plan).await.expect("an answer");
        return verdict(&client.element().await);
    }
    let message = match mechanism {
        "PLAIN" => format!("{authzid}\\0alice\\0{PASSWORD}"),
        _ => {
            let acting = if authzid.is_empty() { String::new() } else { format!("a={authzid}") };
            format!("n,{acting},\\x01auth=Bearer {token}\\x01\\x01")
        }
    };
    client.send(auth(mechanism, &message)).await;
    let answer = client.element().await;
    if answer.starts_with("<challenge") {
        client.send(format!("<response xmlns='{SASL}'>AQ==</response>")).await;
        return verdict(&client.element().await);
    }
    verdict(&answer)
}

fn auth(mechanism: &str, message: &str) -> String {
    let text = format!("<auth xmlns='{SASL}' mechanism='{mechanism}'>{{{{{message}}}}}</auth>");
    encode(&text).expect("is right")
}

/// `success`, or the condition of a failure.
fn verdict(answer: &str) -> String {
    if answer.starts_with("<success") {
        return "success".into();
    }
    let inner = answer.strip_prefix(&format!("<failure xmlns='{SASL}'><")).unwrap_or(answer);
    inner.split(['/', '>', ' ']).next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn ejabberd_26_07_no_mechanism_acts_for_somebody_else() {
    let world = World::start(|config| {
        config.auth.attempts = 100;
        config.auth.pair_failures = 0;
    })
    .await;
    let alice = world.account("alice").await;
    world.account("bob").await;
    let (_, token) = world.token(&alice, None).await;
    let cases = [
        ("", true),
        ("alice@localhost", true),
        ("Alice@LOCALHOST", true),
        ("bob@localhost", false),
        ("nobody@localhost", false),
        ("alice@localhost/r", false),
        ("alice@example.net", false),
        ("localhost", false),
        ("alice", false),
        ("alice@localhost@localhost", false),
    ];
    for mechanism in MECHANISMS {
        for (authzid, allowed) in cases {
            let mut client = world.connect_in(true, Chunks::Whole).await;
            client.open().await;
            let said = login_as(&mut client, mechanism, authzid, &token).await;
            assert_eq!(said == "success", allowed, "{mechanism} as `{authzid}`: {said}");
            // With a token, who it is not for is as wrong as a token that is not there.
            let refusals = ["invalid-authzid", "not-authorized"];
            assert!(allowed || refusals.contains(&&*said), "{mechanism} as `{authzid}`: {said}");
            if allowed {
                client.open().await;
                client.bind("r").await;
                assert!(world.session("alice@localhost/r").alive());
            }
        }
    }
    assert!(world.server.registry.of("bob@localhost").is_empty());
}

#[tokio::test]
async fn of_3273_a_mechanism_that_was_not_offered_is_not_accepted() {
    let others = ["ANONYMOUS", "EXTERNAL", "DIGEST-MD5", "X-OAUTH2", "HT-SHA-256-NONE", "LOGIN"];
    for (tls, required) in [(false, true), (false, false), (true, true)] {
        let world = World::start(|config| {
            config.tls.required = required;
            config.auth.attempts = 100;
        })
        .await;
        let alice = world.account("alice").await;
        let (_, token) = world.token(&alice, None).await;
        let mut client = world.connect_in(tls, Chunks::Whole).await;
        let features = client.open().await;
        let offered: Vec<_> = MECHANISMS
            .into_iter()
            .filter(|name| features.contains(&format!("<mechanism>{name}</mechanism>")))
            .collect();
        assert_eq!(offered.len(), if tls { 6 } else { 2 * usize::from(!required) });
        for mechanism in MECHANISMS.into_iter().filter(|name| !offered.contains(name)) {
            let said = login_as(&mut client, mechanism, "", &token).await;
            assert_eq!(said, "encryption-required", "{mechanism}");
        }
        for mechanism in others {
            client.send(auth(mechanism, "alice")).await;
            assert_eq!(verdict(&client.element().await), "invalid-mechanism", "{mechanism}");
        }
        assert_eq!(world.server.registry.counts().unauthed, 1);
    }
}

#[tokio::test]
async fn prosody_thirty_wrong_passwords_on_one_stream() {
    let world = World::start(|config| config.auth.attempts = 4).await;
    world.account("alice").await;
    // However they are mixed, and whatever is wrong with them.
    let wrong = [
        auth("PLAIN", "\\0alice\\0wrong"),
        auth("NONSENSE", "x"),
        auth("PLAIN", "garbage"),
        format!("<auth xmlns='{SASL}' mechanism='PLAIN'>%</auth>"),
        format!(
            "<auth xmlns='{SASL}' mechanism='SCRAM-SHA-256'>biws</auth><abort xmlns='{SASL}'/>"
        ),
    ];
    for first in 0..wrong.len() {
        let mut client = world.connect_in(true, Chunks::Whole).await;
        client.open().await;
        let (mut failures, mut attempt) = (0, first);
        loop {
            client.send(&wrong[attempt % wrong.len()]).await;
            attempt += 1;
            assert!(attempt < first + 30, "thirty attempts were taken");
            // One of them brings two answers; what is left of it is read in the next round.
            let answer = client.element().await;
            if answer.starts_with("<error") {
                assert!(answer.contains("<policy-violation"), "{answer}");
                break;
            }
            assert!(answer.starts_with("<failure"), "{answer}");
            failures += 1;
        }
        assert_eq!(failures, 4);
        client.expect_close().await.expect("closes");
    }
    world.empty().await;
}

#[tokio::test]
async fn prosody_stanzas_before_login_are_the_end_of_the_stream() {
    let world = World::start(|_| {}).await;
    let stanzas = [
        "<message to='alice@localhost'><body>hi</body></message>",
        "<presence/>",
        "<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>",
        "<iq type='get' id='1' to='localhost'><query xmlns='jabber:iq:register'/></iq>",
        "<iq type='result' id='1'/>",
        "<message type='error'/>",
    ];
    for tls in [false, true] {
        for stanza in stanzas {
            let mut client = world.connect_in(tls, Chunks::Whole).await;
            client.open().await;
            client.send(stanza.to_owned() + stanza).await;
            client.expect_error("not-authorized").await;
        }
    }
    world.empty().await;
}

#[tokio::test]
async fn prosody_an_unbound_stream_binds_no_more_once_its_account_has_changed() {
    for what in ["disable", "delete", "password", "role"] {
        let world = World::start(|config| config.on.role_change = Who::All).await;
        world.account("alice").await;
        let mut client = world.authed("alice").await;
        let jid = "alice@localhost".parse_jid();
        let server = world.server.clone();
        let change = tokio::spawn(async move {
            let actor = Actor::Server;
            match what {
                "disable" => server.set_standing(&jid, Standing::Disabled, actor).await,
                "delete" => server.delete_account(&jid, actor).await,
                "role" => server.set_standing(&jid, Standing::Role(Role::Admin), actor).await,
                _ => {
                    let keys = server.keys_of(Secret::new("other")).await.expect("usable");
                    server.set_password(&jid, keys, actor, None).await
                }
            }
        });
        assert_eventually("it is marked", || {
            world.server.registry.of("alice@localhost").is_empty()
        })
        .await;
        client.send(bind_request("r")).await;
        let answer = client.element().await;
        assert!(answer.starts_with("<error"), "{what}: {answer}");
        client.expect_close().await.expect("closes");
        assert_eq!(change.await.expect("does not panic"), Ok(1), "{what}");
        assert!(world.server.registry.bound("alice@localhost").is_empty(), "{what}");
    }
}

#[tokio::test]
async fn cve_2018_10847_the_host_does_not_change_at_a_restart() {
    let hosts = ["localhost", "other.example"];
    for tls in [false, true] {
        let world = World::start(|config| {
            config.host = hosts
                .map(|name| server::config::Host { name: name.into(), ..Default::default() })
                .into();
        })
        .await;
        world.account("alice").await;
        world.account_with("alice@other.example", "another").await;
        let mut client = world.connect_in(tls, Chunks::Whole).await;
        client.open().await;
        let said = login_as(&mut client, "SCRAM-SHA-256", "", "").await;
        assert_eq!(said, "success");
        client.send(HEADER.replace("localhost", "other.example")).await;
        client.expect("<stream:stream from='localhost' …>").await;
        client.expect_error("not-authorized").await;
        assert!(world.server.registry.of("alice@other.example").is_empty());
    }
}

#[tokio::test]
async fn cve_2011_2205_and_2022_0217_bombs_do_not_go_off_at_any_place() {
    let bombs = [
        "<!DOCTYPE l [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>",
        "<?xml-stylesheet href='http://127.0.0.1/'?>",
        "<!-- a comment -->",
        "<message><body>&b;</body></message>",
        "<message><body><!ENTITY a 'b'></body></message>",
    ];
    for tls in [false, true] {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        for (index, bomb) in bombs.iter().enumerate() {
            let wanted = if index == 4 { "not-well-formed" } else { "restricted-xml" };
            for place in ["features", "authed", "bound"] {
                let mut client = world.connect_in(tls, Chunks::Whole).await;
                match place {
                    "features" => drop(client.open().await),
                    "authed" => client.login("alice", PASSWORD).await,
                    _ => {
                        client.login("alice", PASSWORD).await;
                        client.bind("r").await;
                    }
                }
                client.send(bomb).await;
                let error = client.element().await;
                let fits = error.contains("<restricted-xml") || error.contains(wanted);
                assert!(fits, "{bomb} at {place}: {error}");
                client.expect_close().await.expect("closes");
            }
        }
        world.empty().await;
    }
}

#[tokio::test]
async fn cve_2026_43506_connections_that_are_abandoned_leave_nothing_behind() {
    let world = World::start(|config| {
        config.limits.per_address = 0;
        config.limits.connects_per_second = 0;
        config.limits.per_account = 0;
    })
    .await;
    world.account("alice").await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for round in 0..2_000 {
        let mut client = world.connect_in(round % 50 == 0, Chunks::Whole).await;
        match round % 5 {
            0 => {}
            1 => client.send("<?xml version='1.0'?><stream:str").await,
            2 => drop(client.open().await),
            3 => {
                client.open().await;
                let challenge = auth("SCRAM-SHA-256", "n,,n=alice,r=abcdefgh");
                client.send(challenge).await;
            }
            _ if round % 20 == 4 => client.login("alice", PASSWORD).await,
            _ => {
                client.open().await;
                client.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
            }
        }
        client.link.cut();
    }
    world.empty().await;
    assert!(world.server.registry.of("alice@localhost").is_empty());
    assert!(world.server.registry.at([127, 0, 0, 1].into()).is_empty());
    assert_eventually("every task is over", || tasks() <= before).await;
}

#[tokio::test]
async fn cve_2021_32918_a_dribbling_peer_does_not_win_time() {
    let world = World::start(|config| config.limits.unauthed.time = Span::seconds(60)).await;
    let mut client = world.connect().await;
    client.open().await;
    let session = world.only();
    client.send("<message><body>").await;
    for _ in 0..59 {
        client.send("x").await;
        world.clock.advance(1_000);
        assert_eq!(world.server.sweep(), 0);
    }
    world.clock.advance(1_000);
    assert_eq!(world.server.sweep(), 1);
    assert_eq!(session.end_record().map(|end| end.reason), Some(Reason::AuthTimeout));
    client.expect_error("connection-timeout").await;
}

#[tokio::test]
async fn cve_2011_0411_what_is_sent_in_the_clear_behind_starttls_is_not_executed() {
    let injected = format!(
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>{}{}",
        HEADER.replace("localhost", "example.net"),
        auth("SCRAM-SHA-256", "n,,n=alice,r=abcdefgh"),
    );
    for chunks in [Chunks::Whole, Chunks::Bytes, Chunks::Random(7), Chunks::Random(8)] {
        let world = World::start(|config| config.tls.required = true).await;
        world.account("alice").await;
        let whole = matches!(chunks, Chunks::Whole);
        let mut client = world.connect_in(false, chunks).await;
        client.open().await;
        client.send(&injected).await;
        client.expect("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        // Late bytes spoil the handshake, which is as good; in one piece they are dropped.
        let handshake = client.start_tls().await;
        assert!(handshake.is_ok() || !whole, "{handshake:?}");
        if handshake.is_ok() {
            client.open().await;
            client.send("</stream:stream>").await;
            client.expect_close().await.expect("nothing but the end");
        }
        client.link.cut();
        world.empty().await;
    }
}

#[tokio::test]
async fn cve_2008_1728_a_mailbox_does_not_grow_without_bound() {
    let world = World::start(|config| {
        config.limits.mailbox_bytes = 65_536;
        config.sessions.close_wait = Span::seconds(1);
    })
    .await;
    world.account("bob").await;
    let slow = world.available("bob", "slow").await;
    let session = world.session("bob@localhost/slow");
    let parcel = || {
        let text = format!(
            "<message to='bob@localhost/slow'><body>{}</body></message>",
            "x".repeat(9_000)
        );
        Parcel::whole(Kind::Message, text.into())
    };
    let mut pushed = 0;
    while world.server.push(&session, parcel()) {
        pushed += 1;
        assert!(session.mailbox.bytes() <= 65_536, "{}", session.mailbox.bytes());
        assert!(pushed < 10_000, "nobody reads, and nothing is full");
        tokio::task::yield_now().await;
    }
    assert_eq!(session.end_record().map(|end| end.reason), Some(Reason::SlowReader));
    world.empty().await;
    assert_eq!(session.mailbox.bytes(), 0);
    drop(slow);
}

#[tokio::test]
async fn prosody_a_closing_session_is_not_routed_to_and_shows_as_closing() {
    let world = World::start(|_| {}).await;
    world.account("alice").await;
    world.account("bob").await;
    let mut alice = world.client("alice").await;
    let mut bob = world.available("bob", "r").await;
    let session = world.session("bob@localhost/r");
    assert!(world.server.end(&session, End::new(Reason::Kicked)));
    // Its client has not even heard of it yet.
    assert!(world.server.registry.full(&"bob@localhost/r".parse_jid()).is_none());
    let seen = world.server.registry.get(session.id).expect("still has a connection");
    assert!(seen.flags().has(Flags::ENDING) && !seen.alive());
    let ping = "<iq type='get' id='1' to='bob@localhost/r'><ping xmlns='urn:xmpp:ping'/></iq>";
    alice.send(ping).await;
    alice.expect("<iq type='error' id='1' …>…</iq>").await;
    bob.send("<message to='alice@localhost/r'/>").await;
    bob.expect_error("policy-violation").await;
    alice.settle().await;
    drop(bob);
    assert_eventually("it is gone", || world.server.registry.get(session.id).is_none()).await;
}

#[tokio::test]
async fn prosody_a_token_of_a_lower_role_gives_no_more_than_that() {
    let world = World::start(|_| {}).await;
    let keys = world.server.keys_of(Secret::new(PASSWORD)).await.expect("usable");
    let jid = "root@localhost".parse_jid();
    let root = world.server.add_account(&jid, keys, Role::Admin).await.expect("is new");
    for (role, given) in
        [(Role::User, Role::User), (Role::Operator, Role::Operator), (Role::Admin, Role::Admin)]
    {
        let mint = Mint { resource: Some("pinned".into()), ..Mint::login(role, "test") };
        let (_, token) = world.server.mint(&root, mint).await.expect("is stored");
        let mut client = world.connect_in(true, Chunks::Whole).await;
        client.open().await;
        assert!(client.login_with(&token.to_text()).await.starts_with("<success"));
        client.open().await;
        client.send(bind_request("other")).await;
        client.expect("<iq type='result' id='bind'>…</iq>").await;
        let session = world.session("root@localhost/pinned");
        assert_eq!(session.identity().map(|me| me.role()), Some(given));
        world.server.end(&session, End::new(Reason::Kicked));
    }
    // Nor does a token raise an account that is less.
    let alice = world.account("alice").await;
    let (_, token) = world.token(&alice, None).await;
    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.open().await;
    assert!(client.login_with(&token).await.starts_with("<success"));
    let sessions = world.server.registry.of("alice@localhost");
    assert_eq!(sessions[0].identity().map(|me| me.role()), Some(Role::User));
}

#[tokio::test]
async fn prosody_a_token_minted_in_the_moment_of_a_password_change_is_void() {
    let world = World::start(|_| {}).await;
    let account = world.account("alice").await;
    let (_, token) = world.token(&account, None).await;
    let keys = world.server.keys_of(Secret::new("other")).await.expect("usable");
    let jid = "alice@localhost".parse_jid();
    world.server.set_password(&jid, keys, Actor::Server, None).await.expect("is changed");
    assert_eq!(world.clock.now(), Millis(account.created.0), "the clock has not moved");
    let mut client = world.connect_in(true, Chunks::Whole).await;
    client.open().await;
    let answer = client.login_with(&token).await;
    assert!(answer.contains("<credentials-expired/>"), "{answer}");
    assert!(answer.contains("password-changed"), "{answer}");
}

#[tokio::test]
async fn unknown_accounts_look_like_wrong_passwords() {
    let world = World::start(|config| config.auth.attempts = 100).await;
    world.account("alice").await;
    let mut answers = Vec::new();
    for name in ["alice", "nobody"] {
        let mut client = world.connect_in(true, Chunks::Whole).await;
        client.open().await;
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-1"] {
            // The same salt and count each time, and one that looks like any other.
            let mut salts = Vec::new();
            for _ in 0..2 {
                client.send(auth(mechanism, &format!("n,,n={name},r=abcdefgh"))).await;
                let challenge = client.element().await;
                assert!(challenge.starts_with("<challenge"), "{challenge}");
                let text = challenge.split(['>', '<']).nth(2).expect("a text").to_owned();
                let text = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
                let text = String::from_utf8(text.expect("base64")).expect("text");
                salts.push(text.split_once(",s=").expect("a salt").1.to_owned());
                client.send(format!("<abort xmlns='{SASL}'/>")).await;
                assert_eq!(verdict(&client.element().await), "aborted");
            }
            assert_eq!(salts[0], salts[1], "{name}");
            answers.push((mechanism, salts[0].len()));
        }
        let said = login_as_plain(&mut client, name).await;
        assert_eq!(said, "not-authorized");
    }
    assert_eq!(answers[..2], answers[2..], "nothing tells them apart");
}

async fn login_as_plain(client: &mut Remote, name: &str) -> String {
    client.send(auth("PLAIN", &format!("\\0{name}\\0wrong"))).await;
    verdict(&client.element().await)
}

#[tokio::test]
async fn cve_2013_6169_tls_is_1_2_or_1_3_and_both_can_be_bound_to() {
    for (version, name) in
        [(&rustls::version::TLS12, "TLSv1.2"), (&rustls::version::TLS13, "TLSv1.3")]
    {
        let world = World::start(|_| {}).await;
        world.account("alice").await;
        for binding in ["tls-exporter", "tls-server-end-point"] {
            let mut client = world.connect_over(version).await;
            client.open().await;
            let plan = Scram {
                mechanism: "SCRAM-SHA-256-PLUS".into(),
                user: "alice".into(),
                password: PASSWORD.into(),
                options: [("binding".to_owned(), binding.to_owned())].into(),
                inline: None,
            };
            client.scram(&plan).await.expect("a challenge");
            client.expect_scram().await.expect("both ends see the same channel");
            let session = world.only();
            assert_eq!(session.tls().map(|tls| tls.version), Some(name));
            assert_eq!(session.identity().and_then(|me| me.binding), Some(binding));
            client.link.cut();
            world.empty().await;
        }
    }
}
