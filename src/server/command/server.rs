//! `usher status`, `stop`, `restart`, `backup`, `audit`, `plugin list`: the server as a whole.

use std::path::Path;

use serde_json::{Map, Value};
use wire::Jid;

use super::{
    Acting, Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind, row,
    user::unknown,
};
use crate::{
    audit::Entry,
    config::Span,
    pace::Pace,
    rights::Right,
    stop::{Elsewhere, Wish},
};

const IN: Arg = Arg {
    name: "in",
    about: "Not now, but when this long has passed",
    form: Form::Option,
    kind: ValueKind::Span,
};
const STARTED: Arg = Arg {
    name: "started",
    about: "Only if the server was started at this time; what was planned says so",
    form: Form::Option,
    kind: ValueKind::Time,
};

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "status",
        about: "Show how the server is",
        details: "",
        args: &[],
        mutates: false,
        right: Right::Status,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::Record,
        run: |call| Box::pin(status(call)),
    },
    Command {
        name: "stop",
        about: "Stop the server as SIGTERM does: tell all clients, lose nothing",
        details: "With `--move-to`, clients are sent to another server with `see-other-host`, one after \
                  the other so that they do not all arrive there at once. A plain `stop`, or SIGTERM, \
                  cuts that short.",
        args: &[
            Arg {
                name: "move-to",
                about: "Where the clients are to go instead, as in `b.example.org:5222`",
                form: Form::Option,
                kind: ValueKind::Text,
            },
            Arg {
                name: "rate",
                about: "How many of them a second; 100 if not said",
                form: Form::Option,
                kind: ValueKind::Number,
            },
            IN,
            STARTED,
        ],
        mutates: true,
        right: Right::Server,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(stop(call)),
    },
    Command {
        name: "restart",
        about: "Start the server anew, as SIGUSR2 does: nobody who connects meanwhile is refused",
        details: "Ends every session as `stop` does, and then becomes the program that is at its place \
                  now, an upgraded one as well as the same, with the configuration as it is now. The \
                  process and its listening sockets stay. What would keep it from starting is looked \
                  for before anybody is told.",
        args: &[IN, STARTED],
        mutates: true,
        right: Right::Server,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(restart(call)),
    },
    Command {
        name: "backup",
        about: "Copy the database, whole and consistent, while the server runs",
        details: "The copy is a database of its own: put it into an empty data directory as \
                  `usher.db` to restore it. The server key, `server.key` in the data directory, is \
                  not part of it; keep a copy elsewhere.",
        args: &[Arg {
            name: "file",
            about: "The file to write, which must not be there yet",
            form: Form::Required,
            kind: ValueKind::Path,
        }],
        mutates: true,
        right: Right::Server,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(backup(call)),
    },
    Command {
        name: "keys list",
        about: "List the server's keys, and how many tokens hang on each",
        details: "",
        args: &[],
        mutates: false,
        right: Right::Status,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::List(&["id", "state", "tokens"]),
        run: |call| Box::pin(keys(call)),
    },
    Command {
        name: "keys rotate",
        about: "Make a new server key; each token moves to it when it is used",
        details: "Nothing ends by it. Retire the older key once `usher keys list` shows no tokens on \
                  it. Keep a copy of `server.key`, as before.",
        args: &[],
        mutates: true,
        right: Right::Server,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(rotate_keys(call)),
    },
    Command {
        name: "keys retire",
        about: "Accept no token any more that hangs on this key",
        details: "Their sessions end when they come back, not now; `usher epoch raise --server` ends \
                  everything at once.",
        args: &[
            Arg {
                name: "key",
                about: "The key's number",
                form: Form::Required,
                kind: ValueKind::Number,
            },
            Arg {
                name: "force",
                about: "Even if tokens still hang on it",
                form: Form::Flag,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        right: Right::Server,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(retire_key(call)),
    },
    Command {
        name: "audit list",
        about: "Show who did what, newest first",
        details: "Accounts without the right read what was done to themselves.",
        args: &[
            Arg {
                name: "jid",
                about: "Only what was done to this account",
                form: Form::Optional,
                kind: ValueKind::Jid,
            },
            Arg {
                name: "limit",
                about: "How many entries; 100 if not said",
                form: Form::Option,
                kind: ValueKind::Number,
            },
            Arg {
                name: "after",
                about: "Go on behind the entry with this cursor",
                form: Form::Option,
                kind: ValueKind::Number,
            },
        ],
        mutates: false,
        right: Right::Audit,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(&["at", "who", "what", "args", "outcome"]),
        run: |call| Box::pin(audit(call)),
    },
    Command {
        name: "audit verify",
        about: "Check that no entry of the audit was changed, removed or inserted",
        details: "Every entry carries a keyed hash over itself and the one before it. Note the last \
                  hash elsewhere now and then: it tells a whole database that was put back to an \
                  earlier state.",
        args: &[],
        mutates: false,
        right: Right::Audit,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(verify(call)),
    },
    Command {
        name: "plugin list",
        about: "List the features of this server and what they implement",
        details: "",
        args: &[],
        mutates: false,
        right: Right::Status,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::List(&["name", "about", "implements"]),
        run: |call| Box::pin(plugins(call)),
    },
];

async fn status(call: Call) -> Result<Done, CommandError> {
    let server = &call.server;
    let hosts: Vec<&str> = server.hosts.iter().map(Jid::as_str).collect();
    call.row(row! {
        "version": env!("CARGO_PKG_VERSION"),
        "hosts": hosts,
        "started": server.started.to_string(),
        "uptime_seconds": server.clock.now().seconds_since(server.started),
        "sessions": server.registry.counts().total,
        "data_dir": server.config.data_dir.display().to_string(),
        "storage": server.config.storage,
    })
    .await?;
    Ok(Done::said(""))
}

/// What there is to say if a stop or a new start is not to happen now: it is planned, or it was planned
/// for another run of the server.
async fn not_now(call: &Call, what: &str) -> Result<Option<Done>, CommandError> {
    let started = call.server.started;
    let planned_for = call.value::<jiff::Timestamp>("started");
    let same = |at: jiff::Timestamp| u64::try_from(at.as_millisecond()) == Ok(started.0);
    if planned_for.is_some_and(|at| !same(at)) {
        let message = format!("the server was started at {started}, not then; nothing was done");
        return Ok(Some(Done::nothing(message)));
    }
    let Some(span) = call.value::<Span>("in").and_then(Span::get) else { return Ok(None) };
    let at = call.server.clock.now().plus_seconds(span);
    let mut args = call.args.clone();
    args.remove("in");
    args.insert("started".into(), started.to_string().into());
    let planned = call.server.plan(at, what, args, &call.caller, false).await?;
    let message = format!(
        "planned as {} for {at}; `usher schedule list` shows it, `usher schedule cancel {}` strikes \
         it out",
        planned.id, planned.id
    );
    Ok(Some(Done::said(message).with("schedule", planned.id).with("at", at.to_string())))
}

async fn stop(call: Call) -> Result<Done, CommandError> {
    if let Some(done) = not_now(&call, "stop").await? {
        return Ok(done);
    }
    let Some(place) = call.text("move-to") else {
        if call.text("rate").is_some() {
            let error = CommandError::usage("`rate` is for `move-to`");
            return Err(error.hint("say where with `--move-to`, or leave `--rate` out"));
        }
        call.server.stop.ask(Wish::Stop);
        return Ok(Done::said("the server is stopping"));
    };
    let elsewhere: Elsewhere =
        place.parse().map_err(|why: String| hinted(&why, CommandError::usage))?;
    let pace = Pace::per_second(call.value("rate").unwrap_or(100));
    let pace = pace.ok_or_else(|| CommandError::usage("`rate` must be 1 at least"))?;
    let said = format!("the server sends its clients to `{elsewhere}` and stops");
    match call.server.stop.ask(Wish::MoveTo(elsewhere, pace)) {
        true => Ok(Done::said(said)),
        false => Err(CommandError::failed("the server is stopping or starting anew already")),
    }
}

/// A text with its hint as an error.
fn hinted(why: &str, error: fn(String) -> CommandError) -> CommandError {
    match why.split_once("; hint: ") {
        Some((what, hint)) => error(what.into()).hint(hint),
        None => error(why.into()),
    }
}

async fn restart(call: Call) -> Result<Done, CommandError> {
    if let Some(done) = not_now(&call, "restart").await? {
        return Ok(done);
    }
    call.server.restart().await.map_err(|why| hinted(&why, CommandError::failed))?;
    Ok(Done::said("the server starts anew"))
}

async fn backup(call: Call) -> Result<Done, CommandError> {
    let missing = || CommandError::usage("`file` is missing");
    let file = Path::new(call.text("file").ok_or_else(missing)?);
    if !file.is_absolute() {
        return Err(CommandError::usage(format!("`{}` is not an absolute path", file.display())));
    }
    if file.exists() {
        let message = format!("`{}` is there already", file.display());
        return Err(CommandError::failed(message).hint("name a file that is not there yet"));
    }
    call.server
        .store
        .backup(file)
        .await
        .map_err(|error| CommandError::failed(error.to_string()))?;
    let shown = file.display().to_string();
    Ok(Done::said(format!("copied the database to `{shown}`")).with("file", shown))
}

async fn audit(call: Call) -> Result<Done, CommandError> {
    let limit = call.limit(100)?;
    let own = call.confined().cloned();
    let about = match (call.text("jid"), &own) {
        (Some(_), _) => Some(call.jid("jid")?),
        (None, Some(me)) => Some(me.jid().clone()),
        (None, None) => None,
    };
    let about = match about {
        Some(jid) => Some(call.account(&jid).await?.ok_or_else(|| unknown(&jid))?.id),
        None => None,
    };
    let entries = call.server.audit_page(about, call.value("after"), limit).await?;
    for (stamp, entry) in &entries {
        let mut row = match &own {
            Some(me) => own_entry(entry, me),
            None => whole_entry(entry),
        };
        row.insert("cursor".into(), stamp.to_string().into());
        call.row(row).await?;
    }
    Ok(match entries.last() {
        None => Done::nothing("nothing was noted"),
        Some((stamp, _)) if entries.len() == limit => {
            Done::said("").with("next", stamp.to_string())
        }
        Some(_) => Done::said(""),
    })
}

fn whole_entry(entry: &Entry) -> Map<String, Value> {
    let accounts: Vec<&str> = entry.accounts.iter().map(|subject| &*subject.jid).collect();
    row! {
        "at": entry.at.to_string(),
        "who": entry.who,
        "what": entry.what,
        "args": Value::Object(entry.args.clone()),
        "ok": entry.ok,
        "outcome": entry.outcome,
        "accounts": accounts,
    }
}

/// The part of an entry that is the business of an account that it is about: not the names of who
/// administers, nor whom else it was about.
fn own_entry(entry: &Entry, me: &Acting) -> Map<String, Value> {
    let alone = entry.accounts.len() == 1;
    let who = if entry.who == me.jid().as_str() { entry.who.as_str() } else { "admin" };
    let args = if alone { entry.args.clone() } else { Map::new() };
    let outcome = match entry.ok {
        _ if alone => entry.outcome.as_str(),
        true => "done",
        false => "not done",
    };
    row! {
        "at": entry.at.to_string(),
        "who": who,
        "what": entry.what,
        "args": Value::Object(args),
        "ok": entry.ok,
        "outcome": outcome,
    }
}

async fn verify(call: Call) -> Result<Done, CommandError> {
    let head = call.server.verify_audit().await.map_err(|error| {
        let failed = CommandError::failed(format!("the audit cannot be trusted: {error}"));
        failed.hint("compare with a backup, and with the log, which has every entry too")
    })?;
    let message = match head.count {
        0 => "the audit is empty".into(),
        count => format!("{count} entries, none changed; the last hash is {}", head.link),
    };
    Ok(Done::said(message).with("entries", head.count).with("link", head.link))
}

async fn plugins(call: Call) -> Result<Done, CommandError> {
    for plugin in call.server.plugins {
        let implements: Vec<&str> = plugin.specs.iter().map(|spec| spec.id).collect();
        call.row(row! { "name": plugin.name, "about": plugin.about, "implements": implements })
            .await?;
    }
    Ok(Done::said(""))
}

async fn keys(call: Call) -> Result<Done, CommandError> {
    let counts = call.server.tokens_by_key().await?;
    let ids = call.server.keys.ids();
    let current = ids.last().map(|(id, _)| *id);
    for (id, retired) in ids {
        let state = match (retired, Some(id) == current) {
            (true, _) => "retired",
            (false, true) => "in use",
            (false, false) => "older",
        };
        let tokens = counts.get(&id).copied().unwrap_or(0);
        call.row(row! { "id": id, "state": state, "tokens": tokens }).await?;
    }
    Ok(Done::said(""))
}

fn unwritten(error: &std::io::Error) -> CommandError {
    CommandError::failed(format!("`server.key` cannot be written: {error}; nothing has changed"))
        .hint("look at the data directory's disk and permissions")
}

async fn rotate_keys(call: Call) -> Result<Done, CommandError> {
    let id = call.server.keys.rotate().map_err(|error| unwritten(&error))?;
    Ok(Done::said(format!("key {id} is in use")).with("key", id))
}

async fn retire_key(call: Call) -> Result<Done, CommandError> {
    let id = call.value::<u32>("key").unwrap_or_default();
    let tokens = call.server.tokens_by_key().await?.get(&id).copied().unwrap_or(0);
    if tokens > 0 && !call.flag("force") {
        let message = format!("{tokens} tokens still hang on key {id}");
        return Err(CommandError::failed(message)
            .hint("each moves when it is used; `--force` makes those that have not invalid"));
    }
    match call.server.keys.retire(id).map_err(|error| unwritten(&error))? {
        Some(()) => Ok(Done::said(format!("key {id} is retired")).with("tokens", tokens)),
        None => Ok(Done::nothing(format!("there is no older key {id}"))),
    }
}
