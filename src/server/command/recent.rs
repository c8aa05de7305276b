//! `usher session recent`: the sessions that ended last, how, and what went over them. They are
//! remembered until the server stops; `usher last` has the logins of a longer time.

use serde_json::{Map, Value};
use wire::Jid;

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind,
    pattern::Pattern,
    row,
    session::{LIMIT, columns, plural},
};
use crate::{
    end::Reason,
    events::Past,
    id::ClientId,
    privacy::{self, Shown},
    rights::Right,
};

const COLUMNS: &[&str] =
    &["id", "jid", "ended", "reason", "by", "address", "rx_bytes", "tx_bytes", "text"];
/// All that is known of one, in the order of [`past_row`].
const FIELDS: &[&str] = &[
    "id",
    "jid",
    "stage",
    "since",
    "ended",
    "reason",
    "level",
    "by",
    "text",
    "client",
    "sid",
    "mechanism",
    "software",
    "address",
    "rx_bytes",
    "tx_bytes",
    "rx_stanzas",
    "tx_stanzas",
];

/// The commands.
pub const COMMANDS: &[Command] = &[Command {
    name: "session recent",
    about: "List the sessions that ended last, newest first, with why and their traffic",
    details: "The last thousand that had logged in are remembered until the server stops. What is \
              said adds up: only those that fit all of it are listed.",
    args: &[
        Arg {
            name: "pattern",
            about: "Only those whose JID matches; a bare JID matches its resources, `*` stands for \
                    anything",
            form: Form::Optional,
            kind: ValueKind::JidPattern,
        },
        Arg {
            name: "reason",
            about: "Only those that ended for this reason",
            form: Form::Option,
            kind: ValueKind::Choice(Reason::NAMES),
        },
        Arg {
            name: "client",
            about: "Only visits of this client",
            form: Form::Option,
            kind: ValueKind::Client,
        },
        Arg {
            name: "ip",
            about: "Only those from this address or network",
            form: Form::Option,
            kind: ValueKind::Address,
        },
        LIMIT,
        columns(FIELDS),
    ],
    mutates: false,
    right: Right::List,
    scope: Scope::Own,
    fresh: false,
    shape: Shape::List(COLUMNS),
    run: |call| Box::pin(recent(call)),
}];

/// What may still be shown of where it was.
fn address(call: &Call, past: &Past) -> Shown {
    let age = call.server.clock.now().seconds_since(past.record.at);
    privacy::seen(past.address, age, &call.server.config.privacy)
}

/// A session that is over, as it is shown.
pub(super) fn past_row(call: &Call, past: &Past) -> Map<String, Value> {
    let address = match address(call, past) {
        Shown::Nothing => None,
        some => Some(some.to_string()),
    };
    let age = call.server.clock.now().seconds_since(past.record.at);
    let software = past.software.as_deref().map(str::to_owned);
    row! {
        "id": past.id.to_string(),
        "jid": past.jid.as_ref().map(Jid::as_str),
        "stage": "ended",
        "since": past.created.to_string(),
        "ended": past.record.at.to_string(),
        "reason": past.record.reason,
        "level": past.record.level,
        "by": past.record.by,
        "text": past.record.text,
        "client": past.client.map(|client| client.id.to_string()),
        "sid": past.client.map(|client| client.sid),
        "mechanism": past.mechanism.map(wire::Mechanism::as_str),
        "software": privacy::software(software, age, &call.server.config.privacy),
        "address": address,
        "rx_bytes": past.traffic.rx_bytes,
        "tx_bytes": past.traffic.tx_bytes,
        "rx_stanzas": past.traffic.rx_stanzas,
        "tx_stanzas": past.traffic.tx_stanzas,
    }
}

/// Notes for the audit whose it was.
pub(super) fn note_past(call: &Call, past: &Past) {
    if let (Some(account), Some(jid)) = (past.account, &past.jid) {
        call.note(account, jid.bare_str());
    }
}

async fn recent(call: Call) -> Result<Done, CommandError> {
    let pattern = call.text("pattern").map(Pattern::new);
    let named = pattern.as_ref().is_some_and(Pattern::names_one);
    let (reason, client) = (call.text("reason"), call.value::<ClientId>("client"));
    let network = call.network("ip");
    if network.is_some() && call.confined().is_none() {
        // Who is found by an address is seen to have had it.
        call.need(Right::ListIp)?;
    }
    let fits = |past: &Past| {
        call.may_see(past.account)
            && pattern.as_ref().is_none_or(|pattern| {
                past.jid.as_ref().is_some_and(|jid| pattern.matches(jid.as_str()))
            })
            && reason.is_none_or(|reason| past.record.reason.as_str() == reason)
            && client.is_none_or(|client| past.client.is_some_and(|past| past.id == client))
            && network.is_none_or(|network| match address(&call, past) {
                Shown::Exact(address) => network.contains(&address),
                Shown::Network(known) => network.contains(&known),
                Shown::Nothing => false,
            })
    };
    let limit = call.limit(usize::MAX)?;
    let mut found = call.server.recent.all();
    found.retain(fits);
    let total = found.len();
    for past in found.iter().take(limit) {
        if named || client.is_some() {
            note_past(&call, past);
        }
        call.row(past_row(&call, past)).await?;
    }
    Ok(match total {
        0 => Done::nothing("no session that has ended matches"),
        some if some > limit => {
            Done::said(format!("{limit} of {}", plural(some))).with("total", some)
        }
        _ => Done::said(""),
    })
}
