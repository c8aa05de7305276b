//! A server just good enough to be loaded, which can be told to do wrong; and the tests that the
//! generator notices. PLAIN only, no presence, messages by account.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedSender, unbounded_channel},
};

use crate::{
    crowd::lock,
    framing::{Framer, Piece, attribute, text},
    idle, logins, messages,
    report::Report,
    target::{Loopback, Mechanism, Options, Target},
};

/// What the server does wrong, with every tenth message or session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Double,
    Drop,
    ForgeSender,
    HangUp,
    Nothing,
    Refuse,
    Swap,
}

type Inboxes = Arc<Mutex<HashMap<String, UnboundedSender<String>>>>;

/// Starts the server and gives the options to load it.
async fn serve(wrong: Wrong) -> Arc<Target> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let against = Loopback(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let inboxes = Inboxes::default();
        for session in 0.. {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            tokio::spawn(session_of(stream, session, inboxes.clone(), wrong));
        }
    });
    let options = Options {
        against,
        domain: "localhost".to_owned(),
        pid: Some(std::process::id()),
        password: None,
        mechanism: Mechanism::Plain,
        tokens: None,
        sources: 3,
        proxied: false,
    };
    Arc::new(Target::new(&options).unwrap())
}

async fn session_of(stream: TcpStream, number: u32, inboxes: Inboxes, wrong: Wrong) -> Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (inbox, mut mail) = unbounded_channel::<String>();
    tokio::spawn(async move {
        while let Some(text) = mail.recv().await {
            if writer.write_all(text.as_bytes()).await.is_err() || text == "</stream:stream>" {
                return;
            }
        }
    });
    let (mut framer, mut user, mut count, mut kept) = (Framer::default(), String::new(), 0, None);
    loop {
        let Some(piece) = framer.cut()? else {
            if reader.read_buf(framer.room()).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let range = match piece {
            Piece::Open(_) => {
                inbox.send(features(&user))?;
                continue;
            }
            Piece::Close => return Ok(inbox.send("</stream:stream>".to_owned())?),
            Piece::Element(range) => range,
        };
        let stanza = framer.bytes()[range].to_vec();
        let id = attribute(&stanza, "id").unwrap_or_default();
        if stanza.starts_with(b"<auth") {
            let end = stanza.len() - "</auth>".len();
            let begin = stanza.iter().position(|b| *b == b'>').unwrap() + 1;
            let plain = String::from_utf8(STANDARD.decode(&stanza[begin..end])?)?;
            user = plain.split('\0').nth(1).unwrap().to_owned();
            if plain != format!("\0{user}\0pass-{}", &user[1..]) {
                inbox.send("<failure><not-authorized/></failure>".to_owned())?;
                continue;
            }
            inbox.send("<success/>".to_owned())?;
            framer.restart();
        } else if let Some(resource) = text(&stanza, "resource") {
            lock(&inboxes).insert(user.clone(), inbox.clone());
            let jid = format!("<jid>{user}@localhost/{resource}</jid>");
            inbox.send(format!("<iq type='result' id='{id}'><bind>{jid}</bind></iq>"))?;
        } else if stanza.starts_with(b"<iq") {
            inbox.send(format!("<iq type='result' id='{id}'/>"))?;
        } else if stanza.starts_with(b"<presence") && wrong == Wrong::HangUp && number % 10 == 9 {
            inbox.send(format!("<iq type='result' id='{id}'/></stream:stream>"))?;
        } else if stanza.starts_with(b"<message") {
            count += 1;
            let wrong = if count % 10 == 5 { wrong } else { Wrong::Nothing };
            let from = if wrong == Wrong::ForgeSender { "root" } else { &user };
            let to = attribute(&stanza, "to").and_then(|to| to.split('@').next());
            let receiver = lock(&inboxes)[to.unwrap()].clone();
            let whole = String::from_utf8(stanza.clone())?;
            // The resource is the one that the generator gives: `load-` and the account's number.
            let resource = format!("load-{}", &user[1..]);
            let head = format!("<message from='{from}@localhost/{resource}' ");
            let stamped = whole.replacen("<message ", &head, 1);
            match wrong {
                Wrong::Drop => {}
                Wrong::Refuse => inbox.send("<message type='error'/>".to_owned())?,
                Wrong::Swap => kept = Some(stamped),
                Wrong::Double => receiver.send(stamped.clone() + &stamped)?,
                _ => receiver.send(stamped + &kept.take().unwrap_or_default())?,
            }
        }
    }
}

fn features(user: &str) -> String {
    let plain = "<mechanisms><mechanism>PLAIN</mechanism></mechanisms>";
    let inner = if user.is_empty() { plain } else { "<bind/>" };
    format!("<stream:stream version='1.0'><stream:features>{inner}</stream:features>")
}

async fn talk(wrong: Wrong, max: bool, to: messages::To) -> Report {
    let (pairs, rate, window, seconds, size, drain) = (3, 300, 8, 1, 415, 2);
    let managed = false;
    let options = messages::Options { pairs, rate, max, window, seconds, size, to, drain, managed };
    messages::run(&serve(wrong).await, &options).await.unwrap()
}

#[tokio::test]
async fn a_right_server_is_found_right() {
    for (max, to) in [(false, messages::To::Bare), (true, messages::To::Full)] {
        let report = talk(Wrong::Nothing, max, to).await;
        assert!(report.clean(), "{}", report.text());
        assert!(report.value("received").unwrap() >= 299.0, "{}", report.text());
        assert!(report.value("latency_p50").unwrap() > 0.0);
        assert!(report.value("server_cpu_per_message").unwrap() > 0.0);
    }
}

#[tokio::test]
async fn each_wrong_of_a_server_is_noticed_and_named() {
    for (wrong, name) in [
        (Wrong::Double, "doubled"),
        (Wrong::Drop, "lost"),
        (Wrong::ForgeSender, "strayed"),
        (Wrong::Refuse, "lost"),
        (Wrong::Swap, "reordered"),
    ] {
        let report = talk(wrong, false, messages::To::Bare).await;
        assert!(!report.clean(), "{wrong:?}");
        assert_eq!(report.value(name), Some(30.0), "{wrong:?}: {}", report.text());
        assert_eq!(report.text().contains("came back as errors"), wrong == Wrong::Refuse);
    }
}

#[tokio::test]
async fn logins_are_counted_and_a_refused_password_is_a_fault() {
    let target = serve(Wrong::Nothing).await;
    let report =
        logins::run(&target, &logins::Options { count: 60, concurrency: 8, users: 20 }).await;
    let report = report.unwrap();
    assert!(report.clean(), "{}", report.text());
    assert_eq!(report.value("logins"), Some(60.0));
    assert!(report.value("server_cpu_per_login").unwrap() > 0.0);

    let password = Some("another".to_owned());
    let options = Options {
        against: Loopback(target.address),
        domain: "localhost".to_owned(),
        pid: None,
        password,
        mechanism: Mechanism::Plain,
        tokens: None,
        sources: 1,
        proxied: false,
    };
    let target = Arc::new(Target::new(&options).unwrap());
    let refused =
        logins::run(&target, &logins::Options { count: 1, concurrency: 1, users: 1 }).await;
    assert!(format!("{:#}", refused.err().unwrap()).contains("not-authorized"));
}

#[tokio::test]
async fn idle_sessions_that_the_server_ends_are_a_fault() {
    let options = |sessions| idle::Options {
        sessions,
        users: None,
        seconds: 1,
        concurrency: 4,
        settle: 0,
        roster: true,
        managed: false,
    };
    let right = idle::run(&serve(Wrong::Nothing).await, &options(15)).await.unwrap();
    assert!(right.clean(), "{}", right.text());
    assert_eq!(right.value("alive_at_the_end"), Some(15.0));
    assert!(right.value("per_session").is_some());
    let wrong = idle::run(&serve(Wrong::HangUp).await, &options(15)).await;
    // Ended before its login was done, or while it was held.
    assert!(wrong.is_err() || !wrong.unwrap().clean());
}
