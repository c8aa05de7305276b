//! `usher status`, `stop`, `audit`, `plugin list`: the server as a whole.

use serde_json::Value;
use wire::Jid;

use super::{Arg, Call, Command, CommandError, Done, Form, Shape, ValueKind, row};

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "status",
        about: "Show how the server is",
        details: "",
        args: &[],
        mutates: false,
        shape: Shape::Record,
        run: |call| Box::pin(status(call)),
    },
    Command {
        name: "stop",
        about: "Stop the server as SIGTERM does: tell all clients, lose nothing",
        details: "",
        args: &[],
        mutates: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(stop(call)),
    },
    Command {
        name: "audit list",
        about: "Show who did what, newest first",
        details: "",
        args: &[Arg {
            name: "limit",
            about: "How many entries; 100 if not said",
            form: Form::Option,
            kind: ValueKind::Number,
        }],
        mutates: false,
        shape: Shape::List(&["at", "who", "what", "args", "outcome"]),
        run: |call| Box::pin(audit(call)),
    },
    Command {
        name: "plugin list",
        about: "List the features of this server and what they implement",
        details: "",
        args: &[],
        mutates: false,
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

async fn stop(call: Call) -> Result<Done, CommandError> {
    call.server.stop.notify_one();
    Ok(Done::said("the server is stopping"))
}

async fn audit(call: Call) -> Result<Done, CommandError> {
    let entries = call.server.audit_tail(call.value("limit").unwrap_or(100)).await?;
    for entry in &entries {
        call.row(row! {
            "at": entry.at.to_string(),
            "who": entry.who,
            "what": entry.what,
            "args": Value::Object(entry.args.clone()),
            "ok": entry.ok,
            "outcome": entry.outcome,
        })
        .await?;
    }
    Ok(if entries.is_empty() { Done::nothing("the audit is empty") } else { Done::said("") })
}

async fn plugins(call: Call) -> Result<Done, CommandError> {
    for plugin in call.server.plugins {
        let implements: Vec<&str> = plugin.specs.iter().map(|spec| spec.id).collect();
        call.row(row! { "name": plugin.name, "about": plugin.about, "implements": implements })
            .await?;
    }
    Ok(Done::said(""))
}
