//! One truth, whichever door: a command gives the same rows and comes to the same outcome, and leaves
//! the same in the audit, however it is called. A door is one more line in [`DOORS`] and one more arm in
//! [`run`].
//!
//! What a door cannot tell apart does not count: every value is a text, or several, and a list has the
//! columns that all doors show.

use std::{collections::BTreeMap, sync::Arc};

use admin::{
    client::{CallError, Client, Heard},
    socket::Socket,
};
use serde_json::{Value, json};
use server::{
    Server, Session,
    account::{Account, Role},
    command::{self, Command, CommandError, Done, Form, Shape, ValueKind},
    config::Span,
    vault::{API, Mint},
};

use crate::{
    api::Face,
    rights,
    world::{Remote, World, enter, tended},
    xml::{Item, Node, Tree},
};

/// A way to give a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// An ad-hoc command from a client.
    AdHoc,
    /// A request that bears a token.
    Http,
    /// The admin socket, by which the command line and the console come, as the account.
    Socket,
    /// The table itself.
    Table,
}

/// All but the table itself, which they are compared with.
const DOORS: &[Door] = &[Door::AdHoc, Door::Http, Door::Socket];

/// A row: texts by name. What is not there, and what is null, has no text.
type Row = BTreeMap<String, Vec<String>>;

/// How it ended: what kind of end, and its words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    kind: Kind,
    words: String,
    fields: Row,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Done,
    Nothing,
    Failed,
    Forbidden,
    Usage,
}

/// An account with a client that is there, and a token for requests without bounds of its own.
struct Caller {
    client: Remote,
    session: Arc<Session>,
    token: String,
}

/// Whether a command goes through every door: not those that have no end, or read a file beside the
/// caller.
fn everywhere(command: &Command) -> bool {
    !matches!(command.shape, Shape::Stream(_))
        && command.args.iter().all(|arg| arg.kind != ValueKind::CsvFile)
}

/// Gives a command through a door.
async fn run(
    server: &Arc<Server>,
    caller: &mut Caller,
    door: Door,
    command: &Command,
    args: &Value,
) -> (Vec<Row>, Outcome) {
    match door {
        Door::Table => {
            let acting = server.caller_of(&caller.session).await.expect("is there");
            let (rows, outcome) = rights::run(server, &acting, command.name, args.clone()).await;
            (rows.iter().map(|row| texts(row, shown(command))).collect(), of(outcome))
        }
        Door::AdHoc => adhoc(&mut caller.client, command, args).await,
        Door::Http => http(server, &caller.token, command, args).await,
        Door::Socket => socket(server, command, args).await,
    }
}

/// The columns that every door shows; none: all.
fn shown(command: &Command) -> Option<&'static [&'static str]> {
    let choice = command.args.iter().any(|arg| matches!(arg.kind, ValueKind::Columns(_)));
    match command.shape {
        Shape::List(columns) if choice => Some(columns),
        _ => None,
    }
}

fn texts(row: &Value, columns: Option<&[&str]>) -> Row {
    let one = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let several = |value: &Value| match value {
        Value::Null => vec![],
        Value::Array(list) => list.iter().map(one).collect(),
        other => vec![one(other)],
    };
    let fields = row.as_object().expect("a row");
    let wanted = |name: &str| columns.is_none_or(|columns| columns.contains(&name));
    let fields = fields.iter().filter(|(name, _)| wanted(name));
    let fields = fields.map(|(name, value)| (name.clone(), several(value)));
    fields.filter(|(_, values)| !values.is_empty()).collect()
}

fn of(outcome: Result<Done, CommandError>) -> Outcome {
    match outcome {
        Ok(done) => Outcome {
            kind: if done.matched { Kind::Done } else { Kind::Nothing },
            words: done.message,
            fields: texts(&Value::Object(done.fields), None),
        },
        Err(error) => Outcome {
            kind: match (error.usage, error.forbidden) {
                (true, _) => Kind::Usage,
                (_, true) => Kind::Forbidden,
                _ => Kind::Failed,
            },
            words: match error.hint.is_empty() {
                true => error.message,
                false => format!("{}; hint: {}", error.message, error.hint),
            },
            fields: Row::new(),
        },
    }
}

// --- ad-hoc commands ---------------------------------------------------------------------------

async fn adhoc(client: &mut Remote, command: &Command, args: &Value) -> (Vec<Row>, Outcome) {
    let node = format!("urn:usher:command:0#{}", command.name.replace(' ', "-"));
    let mut fields = String::new();
    for (name, value) in args.as_object().expect("arguments") {
        let arg = command.arg(name).expect("is declared");
        let values: Vec<String> = match (arg.form, value) {
            (Form::Flag, _) => vec!["1".into()],
            (_, Value::Array(list)) => {
                list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
            }
            (_, value) => vec![value.as_str().expect("a text").to_owned()],
        };
        let values = values.iter().map(|value| format!("<value>{}</value>", wire::escape(value)));
        fields += &format!("<field var='{name}'>{}</field>", values.collect::<String>());
    }
    client
        .send(format!(
            "<iq type='set' id='c' to='localhost'>\
             <command xmlns='http://jabber.org/protocol/commands' node='{node}'>\
             <x xmlns='jabber:x:data' type='submit'>{fields}</x></command></iq>"
        ))
        .await;
    let answer = loop {
        match client.next().await {
            Ok(Some(Item::Element(tree))) if tree.local == "iq" => break tree,
            Ok(Some(Item::Element(_))) => {}
            other => panic!("{}: {other:?} instead of an answer", command.name),
        }
    };
    if let Some(error) = child(&answer, "error") {
        let kind = match child(error, "bad-payload") {
            Some(_) => Kind::Usage,
            None => {
                assert!(child(error, "forbidden").is_some(), "{error:?}");
                Kind::Forbidden
            }
        };
        let words = child(error, "text").map(text).expect("has words");
        return (vec![], Outcome { kind, words, fields: Row::new() });
    }
    let told = child(&answer, "command").expect("is answered");
    assert_eq!(attr(told, "status"), "completed", "{}", command.name);
    let (mut rows, mut fields) = (vec![], Row::new());
    for form in children(told, "x") {
        rows.extend(children(form, "item").map(row));
        let plain = row(form);
        if !plain.is_empty() {
            match (command.shape, rows.is_empty()) {
                (Shape::Record, true) => rows.push(plain),
                _ => fields = plain,
            }
        }
    }
    let (mut kind, mut words) = (Kind::Done, String::new());
    for note in children(told, "note") {
        words = text(note);
        kind = match attr(note, "type").as_str() {
            "info" => Kind::Done,
            "warn" => Kind::Nothing,
            _ => Kind::Failed,
        };
    }
    (rows, Outcome { kind, words, fields })
}

/// The fields of a form or of an item, but for its type.
fn row(form: &Tree) -> Row {
    let values = |field: &Tree| {
        let values = children(field, "value").map(text);
        values.filter(|value| !value.is_empty()).collect::<Vec<_>>()
    };
    let fields = children(form, "field").map(|field| (attr(field, "var"), values(field)));
    fields.filter(|(name, values)| name != "FORM_TYPE" && !values.is_empty()).collect()
}

fn children<'a>(tree: &'a Tree, local: &str) -> impl Iterator<Item = &'a Tree> {
    tree.content.iter().filter_map(move |node| match node {
        Node::Element(tree) if tree.local == local => Some(tree),
        _ => None,
    })
}

fn child<'a>(tree: &'a Tree, local: &str) -> Option<&'a Tree> {
    children(tree, local).next()
}

fn attr(tree: &Tree, name: &str) -> String {
    tree.attrs.get(&(String::new(), name.into())).cloned().unwrap_or_default()
}

fn text(tree: &Tree) -> String {
    let texts = tree.content.iter().filter_map(|node| match node {
        Node::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

// --- the admin socket ---------------------------------------------------------------------------

async fn socket(server: &Arc<Server>, command: &Command, args: &Value) -> (Vec<Row>, Outcome) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("admin.sock");
    let socket = Socket::bind(&path).expect("is bound");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) };
    let serving = tokio::spawn(socket.serve(server.clone(), stopped));
    let client = Client::connect(&path).await.expect("is let in");
    let mut client = client.acting_as(Some("me@localhost".into()));
    let mut rows = Vec::new();
    let hear = |heard| {
        if let Heard::Row(row) = heard {
            rows.push(texts(&Value::Object(row), shown(command)));
        }
        Ok(())
    };
    let args = args.as_object().expect("arguments");
    let outcome = match client.call(command.name, args, hear).await {
        Ok(done) => Ok(done),
        Err(CallError::Command(error)) => Err(error),
        Err(CallError::Passing(error)) => panic!("{error}"),
    };
    drop((client, stop));
    serving.await.expect("does not panic");
    (rows, of(outcome))
}

// --- HTTP --------------------------------------------------------------------------------------

async fn http(
    server: &Arc<Server>,
    token: &str,
    command: &Command,
    args: &Value,
) -> (Vec<Row>, Outcome) {
    let face = Face::of(server);
    let path = command.name.replace(' ', "/");
    let secret = command.args.iter().any(|arg| arg.kind == ValueKind::Secret);
    let answer = if command.mutates || secret {
        face.post(token, &path, args.clone()).await
    } else {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in args.as_object().expect("arguments") {
            match value {
                Value::Array(values) => {
                    query.extend_pairs(values.iter().filter_map(Value::as_str).map(|v| (name, v)))
                }
                Value::String(text) => query.append_pair(name, text),
                other => query.append_pair(name, &other.to_string()),
            };
        }
        face.get(token, &format!("{path}?{}", query.finish())).await
    };
    let mut document = answer.json();
    let fields = document.as_object_mut().expect("an object");
    if answer.status != 200 {
        let kind = match &*answer.problem() {
            "nothing-matched" => Kind::Nothing,
            "usage" => Kind::Usage,
            "forbidden" => Kind::Forbidden,
            "failed" => Kind::Failed,
            other => panic!("{}: {other}: {answer:?}", command.name),
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let words = text("detail").expect("has words").to_owned();
        let words = text("hint").map_or(words.clone(), |hint| format!("{words}; hint: {hint}"));
        let known = ["type", "title", "status", "detail", "hint"];
        fields.retain(|name, _| !known.contains(&name.as_str()));
        let fields = texts(&document, None);
        return (vec![], Outcome { kind, words, fields });
    }
    let items = match fields.remove("items") {
        Some(Value::Array(items)) => items,
        _ => vec![],
    };
    let rows = items.iter().map(|row| texts(row, shown(command))).collect();
    let done = |words: String, fields: Row| Outcome { kind: Kind::Done, words, fields };
    match command.shape {
        Shape::Record if !fields.contains_key("message") => {
            (vec![texts(&document, None)], done(String::new(), Row::new()))
        }
        _ => {
            let words =
                fields.remove("message").and_then(|words| words.as_str().map(str::to_owned));
            (rows, done(words.unwrap_or_default(), texts(&document, None)))
        }
    }
}

/// What a door shows of how a command ended: by HTTP, a list is its rows, and a record its fields.
fn told(
    door: Door,
    command: &Command,
    (rows, mut outcome): (Vec<Row>, Outcome),
) -> (Vec<Row>, Outcome) {
    let plain = matches!(command.shape, Shape::List(_)) || !rows.is_empty();
    let record = matches!(command.shape, Shape::List(_) | Shape::Record);
    if door == Door::Http && record && plain && matches!(outcome.kind, Kind::Done | Kind::Nothing) {
        outcome = Outcome { kind: Kind::Done, words: String::new(), fields: Row::new() };
    }
    (rows, outcome)
}

/// What is not the same from no session as from one: what the caller is, what is done to the very
/// session that asks.
fn differs(door: Door, command: &Command, own: bool) -> bool {
    let own = own && matches!(command.name, "user delete" | "user password");
    matches!(door, Door::Http | Door::Socket) && (command.name == "whoami" || own)
}

// --- what is compared --------------------------------------------------------------------------

/// Values that differ between two calls of the same command.
const VOLATILE: &[&str] = &[
    "current",
    "port",
    "rx_bytes",
    "rx_stanzas",
    "tx_bytes",
    "tx_stanzas",
    "link",
    "queued_bytes",
    "queued_stanzas",
];

/// The same without what is drawn by lot: ids, secrets and hashes.
fn scrubbed(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':');
    let (mut out, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end.max(if end == 0 { c.len_utf8() } else { end }));
        let base32 = word.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b));
        let id = word.split_once('-').is_some_and(|(kind, id)| kind.len() == 1 && id.len() > 10);
        let lot = word.starts_with("secret-token:")
            || id
            || word.len() > 30
            || (base32 && matches!(word.len(), 16 | 26))
            || (word.len() > 14 && word.bytes().all(|b| b.is_ascii_digit()));
        out.push_str(if lot { "<lot>" } else { word });
        rest = behind;
    }
    out
}

fn scrub(row: &mut Row) {
    row.retain(|name, _| !VOLATILE.contains(&name.as_str()));
    row.values_mut().flatten().for_each(|value| *value = scrubbed(value));
}

fn comparable((mut rows, mut outcome): (Vec<Row>, Outcome)) -> (Vec<Row>, Outcome) {
    rows.iter_mut().for_each(scrub);
    // Ids have an order, and are drawn by lot.
    rows.sort();
    scrub(&mut outcome.fields);
    outcome.words = scrubbed(&outcome.words);
    (rows, outcome)
}

/// Who, what, with which arguments, whether it was done, and how it went.
type Entry = (String, String, String, bool, String);

/// A server on which `me`, with this role, has a client, and `other` a session.
async fn scene(role: Role) -> (World, Caller, [Account; 2]) {
    // A client that does not read is not waited for.
    let world = World::start(|config| {
        config.sessions.close_wait = Span::OFF;
        config.clients.fresh = Span::OFF;
    })
    .await;
    let me = rights::add(&world, "me", role).await;
    let other = rights::add(&world, "other", Role::Restricted).await;
    let client = world.bound("me", "r").await;
    let session = tended(&world.server);
    assert!(enter(&world.server, &session, "other@localhost").await);
    world.server.bind(&session, Some("r")).await.expect("is free");
    let mint = Mint { purpose: API.into(), ..Mint::login(Role::Admin, "test") };
    let (found, token) = world.server.mint(&me, mint).await.expect("is stored");
    let token = token.to_text().to_string();
    // Whichever door it is: it was used once.
    let face = Face::of(&world.server);
    assert!(face.get(&token, "whoami").await.status.as_u16() < 500);
    let noted = async || world.server.find_token(found.token.id).await.expect("is read");
    while noted().await.is_none_or(|found| found.client.seen.is_none()) {
        tokio::task::yield_now().await;
    }
    let caller = Caller { client, session: world.session("me@localhost/r"), token };
    (world, caller, [me, other])
}

#[tokio::test]
async fn every_command_gives_the_same_through_every_door_and_leaves_the_same_in_the_audit() {
    for command in command::table().filter(|command| everywhere(command)) {
        for role in [Role::Admin, Role::User, Role::Restricted] {
            for own in [false, true] {
                if own && command.name == "session freeze" {
                    // Whoever freezes the session that it asks through hears of it when it thaws.
                    continue;
                }
                let mut seen = Vec::new();
                for door in [&[Door::Table], DOORS].concat() {
                    if differs(door, command, own) {
                        continue;
                    }
                    let (world, mut caller, [me, other]) = scene(role).await;
                    let target = if own { &me } else { &other };
                    let mut args = rights::args(&world, command, target).await;
                    if command.arg("limit").is_some() {
                        // By HTTP, a list is never without.
                        args["limit"] = "100".into();
                    }
                    let given =
                        comparable(run(&world.server, &mut caller, door, command, &args).await);
                    let entries = world.server.audit_tail(10).await.expect("is read");
                    let entries: Vec<_> = entries
                        .iter()
                        .map(|entry| {
                            let args = scrubbed(&Value::Object(entry.args.clone()).to_string());
                            let outcome = scrubbed(&entry.outcome);
                            // Who acts as somebody is named with them.
                            let who = entry.who.split(" as ").last().unwrap_or_default();
                            (who.to_owned(), entry.what.clone(), args, entry.ok, outcome)
                        })
                        .collect();
                    seen.push((door, given, entries));
                }
                let (_, given, entries) = &seen[0];
                for (door, through, audit) in &seen[1..] {
                    let case = format!("`{}` by {} own: {own}", command.name, role.as_str());
                    let given_there = told(*door, command, given.clone());
                    let through = told(*door, command, through.clone());
                    assert_eq!(given_there, through, "{case} through {door:?}");
                    // A refusal before the form was looked at is without it.
                    let refused = given.1.kind == Kind::Forbidden;
                    let compared = |entries: &[Entry]| {
                        let mut entries = entries.to_vec();
                        entries.iter_mut().filter(|_| refused).for_each(|entry| entry.2.clear());
                        entries
                    };
                    assert_eq!(compared(entries), compared(audit), "{case} through {door:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_wrong_in_the_same_words_through_every_door() {
    let (world, mut caller, _) = scene(Role::Admin).await;
    for (name, args) in [
        ("session end", json!({})),
        ("session end", json!({ "selector": ["other@localhost"] })),
        ("session end", json!({ "selector": ["other@localhost"], "for": "1h", "reason": "x" })),
        ("session list", json!({ "limit": "0" })),
        ("session list", json!({ "limit": "many" })),
        ("user show", json!({ "jid": "nobody@localhost" })),
        ("user add", json!({ "jid": "me@localhost", "password": "x" })),
        ("session show", json!({ "session": "nobody@localhost" })),
        ("user count", json!({ "host": "elsewhere.example" })),
        ("announce", json!({ "text": "x", "host": "elsewhere.example" })),
    ] {
        let command = command::find(name).expect("is in the table");
        let direct = run(&world.server, &mut caller, Door::Table, command, &args).await;
        assert_ne!(direct.1.kind, Kind::Done, "{name} {args}");
        for door in DOORS {
            let through = run(&world.server, &mut caller, *door, command, &args).await;
            let there = told(*door, command, direct.clone());
            assert_eq!(there, told(*door, command, through), "{name} {args} through {door:?}");
        }
    }
}

#[test]
fn scrubbing_leaves_what_is_no_lot() {
    for text in ["set the password of `a@b`, 1 session ended", "2026-01-01T00:00:00.000Z", "a-b"] {
        assert_eq!(scrubbed(text), text);
    }
    assert_eq!(scrubbed("`fipvzonq4yamjnmmid2zrguk5y`, c-9rmbgt1haamga!"), "`<lot>`, <lot>!");
}
