//! `usher session …`: who is there, and the end of it.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Map, Value};
use wire::Jid;

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind,
    pattern::Pattern,
    recent::{note_past, past_row},
    row,
    select::{Filter, IDLE, IP, MECHANISM, OLDER, SOFTWARE},
};
use crate::{
    Session,
    clock::Millis,
    events::{Change, Event},
    id::{AccountId, SessionId},
    registry,
    resumption::Resumable,
    rights::Right,
    session::{Flags, Identity},
};

pub(super) const STAGES: &[&str] = &["unauthed", "c2s", "bound", "available", "interested"];
/// Rows of a list that are sent before others get their turn.
const PAGE: usize = 500;
const COLUMNS: &[&str] = &[
    "id",
    "jid",
    "stage",
    "since",
    "hibernating_since",
    "address",
    "tls",
    "mechanism",
    "software",
    "last_activity",
];
/// All that is known of a session, in the order of [`session_row`].
const FIELDS: &[&str] = &[
    "id",
    "jid",
    "stage",
    "available",
    "interested",
    "ending",
    "frozen",
    "hibernating",
    "since",
    "authed_since",
    "hibernating_since",
    "hibernating_until",
    "resumable",
    "resumptions",
    "address",
    "port",
    "ip_version",
    "tls",
    "cipher",
    "mechanism",
    "channel_binding",
    "client",
    "sid",
    "grant",
    "token",
    "role",
    "priority",
    "show",
    "software",
    "rx_bytes",
    "tx_bytes",
    "rx_stanzas",
    "tx_stanzas",
    "unacknowledged",
    "queued_stanzas",
    "queued_bytes",
    "last_activity",
];

pub(super) const STAGE: Arg = Arg {
    name: "stage",
    about: "Only sessions shown at this stage",
    form: Form::Option,
    kind: ValueKind::Choice(STAGES),
};

pub(super) const HIBERNATING: Arg = Arg {
    name: "hibernating",
    about: "Only sessions without a connection, which wait for their clients to resume them",
    form: Form::Flag,
    kind: ValueKind::Text,
};

pub(super) const LIMIT: Arg = Arg {
    name: "limit",
    about: "No more than so many",
    form: Form::Option,
    kind: ValueKind::Number,
};

/// A choice of the columns of a list that has these.
pub(super) const fn columns(fields: &'static [&'static str]) -> Arg {
    Arg {
        name: "columns",
        about: "These columns, in this order, instead of the usual ones; in JSON too",
        form: Form::Option,
        kind: ValueKind::Columns(fields),
    }
}

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "session list",
        about: "List sessions, from the first byte of a connection to its end",
        details: "They come in the order of their ids. With `--limit`, the closing line says how \
                  many match in all, and what to give as `--after` to get the next ones. A session \
                  whose connection broke, and which can be resumed, has the time of that as \
                  `hibernating_since`; `hibernating_until` is when it ends if nobody comes. It \
                  keeps `queued_stanzas` of `queued_bytes` for its client, of which the client was \
                  sent `unacknowledged` without saying that it has them.",
        args: &[
            Arg {
                name: "pattern",
                about: "Only those whose JID matches; a bare JID matches its resources, `*` stands \
                        for anything",
                form: Form::Optional,
                kind: ValueKind::JidPattern,
            },
            STAGE,
            HIBERNATING,
            IP,
            SOFTWARE,
            MECHANISM,
            OLDER,
            IDLE,
            LIMIT,
            Arg {
                name: "after",
                about: "Only those behind this session id",
                form: Form::Option,
                kind: ValueKind::Session,
            },
            columns(FIELDS),
        ],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(COLUMNS),
        run: |call| Box::pin(list(call)),
    },
    Command {
        name: "session show",
        about: "Show one session, or how it ended",
        details: "",
        args: &[Arg {
            name: "session",
            about: "A session id, or a full JID, or a bare JID with a single session",
            form: Form::Required,
            kind: ValueKind::Text,
        }],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Record,
        run: |call| Box::pin(show(call)),
    },
    Command {
        name: "session count",
        about: "Count sessions by stage",
        details: "",
        args: &[],
        mutates: false,
        right: Right::Status,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::Record,
        run: |call| Box::pin(count(call)),
    },
    Command {
        name: "session watch",
        about: "Show changes of sessions as they happen, until interrupted",
        details: "",
        args: &[],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Stream(&["at", "change", "id", "jid", "stage", "reason"]),
        run: |call| Box::pin(watch(call)),
    },
];

/// All that is known of a session.
#[must_use]
pub fn session_row(session: &Session) -> Map<String, Value> {
    use std::sync::atomic::Ordering::Relaxed;
    let identity = session.identity();
    let identity = identity.as_deref();
    let (flags, tls, presence) = (session.flags(), session.tls(), session.presence());
    let show = presence.as_ref().and_then(|presence| {
        let show = presence.frame.root().child("show", wire::ns::CLIENT)?;
        Some(show.text().into_owned())
    });
    let traffic = &session.traffic;
    let resumable = session.resumable();
    let resumable = resumable.as_deref();
    // Not since when the connection is about to break, but since when it is gone.
    let asleep = resumable.filter(|_| !session.connected());
    let time = |at: Option<Millis>| at.map(|at| at.to_string());
    row! {
        "id": session.id.to_string(),
        "jid": session.jid().as_ref().map(Jid::as_str),
        "stage": session.stage().as_str(),
        "available": flags.has(Flags::AVAILABLE),
        "interested": flags.has(Flags::INTERESTED),
        "ending": flags.has(Flags::ENDING),
        "frozen": flags.has(Flags::FROZEN),
        "hibernating": !session.connected(),
        "since": session.created.to_string(),
        "authed_since": identity.map(|identity| identity.since.to_string()),
        "hibernating_since": time(asleep.and_then(Resumable::since)),
        "hibernating_until": time(asleep.and_then(Resumable::until)),
        "resumable": resumable.map(Resumable::max).filter(|max| *max > 0),
        "resumptions": resumable.map_or(0, Resumable::resumptions),
        "address": session.address().to_string(),
        "port": session.peer().port(),
        "ip_version": if session.address().is_ipv4() { 4 } else { 6 },
        "tls": tls.as_ref().map(|tls| tls.version),
        "cipher": tls.as_ref().map(|tls| tls.cipher),
        "mechanism": identity.map(|identity| identity.mechanism.as_str()),
        "channel_binding": identity.and_then(|identity| identity.binding),
        "client": identity.and_then(Identity::client).map(|client| client.id.to_string()),
        "sid": identity.and_then(Identity::client).map(|client| client.sid),
        "grant": identity.and_then(|identity| identity.grant).map(|grant| grant.to_string()),
        "token": identity.and_then(|identity| identity.token).map(|token| token.to_string()),
        "role": identity.map(Identity::role),
        "priority": presence.as_ref().map(|presence| presence.priority),
        "show": show,
        "software": session.software(),
        "rx_bytes": traffic.rx_bytes.load(Relaxed),
        "tx_bytes": traffic.tx_bytes.load(Relaxed),
        "rx_stanzas": traffic.rx_stanzas.load(Relaxed),
        "tx_stanzas": traffic.tx_stanzas.load(Relaxed),
        "unacknowledged": session.mailbox.unacknowledged(),
        "queued_stanzas": session.mailbox.len(),
        "queued_bytes": session.mailbox.bytes(),
        "last_activity": session.last_activity().to_string(),
    }
}

async fn list(call: Call) -> Result<Done, CommandError> {
    let pattern = call.text("pattern").map(Pattern::new);
    let filter = Filter::of(&call);
    filter.allowed(&call)?;
    let wanted = |session: &Session| {
        filter.fits(session)
            && pattern.as_ref().is_none_or(|pattern| {
                session.jid().is_some_and(|jid| pattern.matches(jid.as_str()))
            })
            && call.server.is_overdue(session).is_none()
            && may_see(&call, session)
    };
    let named = pattern.as_ref().is_some_and(Pattern::names_one);
    // An address without `*` means one account's sessions; nobody else's are looked at.
    let whose = call.text("pattern").filter(|pattern| !pattern.contains('*')).map(Jid::parse);
    let whose = whose.transpose().unwrap_or(None);
    let whose = call.confined().map(|me| me.jid().clone()).or(whose);
    let limit = call.limit(usize::MAX)?;
    let registry = &call.server.registry;
    let (mut after, mut shown) = (call.value::<SessionId>("after"), 0);
    loop {
        let room = (limit - shown).min(PAGE);
        let page = match &whose {
            Some(jid) => registry.page_of(jid, after, room, wanted),
            None => registry.page_where(after, room, registry::BUDGET, wanted),
        };
        shown += page.sessions.len();
        for session in page.sessions {
            if named {
                call.note_session(&session);
            }
            call.row(session_row(&session)).await?;
        }
        after = page.next;
        if after.is_none() || limit == shown {
            break;
        }
        tokio::task::yield_now().await;
    }
    if shown == 0 {
        return Ok(Done::nothing("no session matches"));
    }
    if limit == usize::MAX {
        return Ok(Done::said(""));
    }
    let mut more = false;
    let counted = |session: &Session| {
        let counts = wanted(session);
        more |= counts && after.is_some_and(|after| session.id > after);
        counts
    };
    let total = match &whose {
        Some(jid) => registry.page_of(jid, None, usize::MAX, counted).sessions.len(),
        None => registry.count_where(counted).await,
    };
    let message = format!("{shown} of {}", plural(total));
    Ok(match after.filter(|_| more) {
        None => Done::said(message),
        Some(next) => Done::said(format!("{message}; the next ones: `--after {next}`"))
            .with("next", next.to_string()),
    }
    .with("total", total))
}

pub(super) fn account_of(session: &Session) -> Option<AccountId> {
    session.identity().map(|identity| identity.account)
}

pub(super) fn may_see(call: &Call, session: &Session) -> bool {
    call.may_see(account_of(session))
}

async fn show(call: Call) -> Result<Done, CommandError> {
    let text = call.text("session").unwrap_or_default();
    if let Ok(id) = text.parse::<SessionId>() {
        let there = call.server.registry.get(id);
        if let Some(session) = there.filter(|session| may_see(&call, session)) {
            call.note_session(&session);
            call.row(session_row(&session)).await?;
            return Ok(Done::said(""));
        }
        if let Some(past) = call.server.recent.get(id).filter(|past| call.may_see(past.account)) {
            note_past(&call, &past);
            call.row(past_row(&call, &past)).await?;
            return Ok(Done::said(""));
        }
        return Ok(Done::nothing(format!("there is no session `{id}`")));
    }
    let jid = Jid::parse(text).map_err(|why| {
        CommandError::usage(format!("`{text}` is neither a session id nor a JID: {why}"))
    })?;
    call.account(&jid).await?;
    let mut sessions = select_jid(&call, &jid);
    sessions.retain(|session| may_see(&call, session));
    match sessions.as_slice() {
        [] => Ok(Done::nothing(format!("`{jid}` has no session"))),
        [session] => {
            call.row(session_row(session)).await?;
            Ok(Done::said(""))
        }
        many => Err(CommandError::failed(format!("`{jid}` has {} sessions", many.len()))
            .hint("name one by its full JID or its id; `usher session list` shows them")),
    }
}

async fn count(call: Call) -> Result<Done, CommandError> {
    let counts = serde_json::to_value(call.server.registry.counts()).unwrap_or_default();
    if let Value::Object(row) = counts {
        call.row(row).await?;
    }
    Ok(Done::said(""))
}

async fn watch(mut call: Call) -> Result<Done, CommandError> {
    use tokio::sync::broadcast::error::RecvError;
    let mut events = call.server.events.watch();
    let epoch = |call: &Call| call.server.accounts_epoch.load(Ordering::SeqCst);
    let mut admitted = epoch(&call);
    call.renew().await?;
    call.began().await?;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = call.rows.closed() => return Ok(Done::said("")),
        };
        // It may go on for days: whoever is demoted meanwhile sees no more.
        if epoch(&call) != admitted {
            admitted = epoch(&call);
            call.renew().await?;
        }
        let row = match event {
            Ok(event) if !may_see(&call, &event.session) => continue,
            Ok(event) => {
                let record = match &event.change {
                    Change::Ended(record) => record.as_ref(),
                    _ => None,
                };
                row! {
                    "at": call.server.clock.now().to_string(),
                    "change": event.change.as_str(),
                    "id": event.session.id.to_string(),
                    "jid": event.session.jid().as_ref().map(Jid::as_str),
                    "stage": event.session.stage().as_str(),
                    "until": until(&event).map(|until| until.to_string()),
                    "address": event.session.address().to_string(),
                    "reason": record.map(|record| record.reason),
                    "by": record.map(|record| &record.by),
                    "text": record.and_then(|record| record.text.as_ref()),
                }
            }
            Err(RecvError::Lagged(missed)) => row! {
                "at": call.server.clock.now().to_string(),
                "change": "missed",
                "missed": missed,
            },
            Err(RecvError::Closed) => return Ok(Done::said("the server is stopping")),
        };
        call.row(row).await?;
    }
}

/// How long a session that has lost its connection waits for another one.
fn until(event: &Event) -> Option<Millis> {
    let hibernates = matches!(event.change, Change::Hibernating);
    event.session.resumable().filter(|_| hibernates)?.until()
}

pub(super) fn plural(count: usize) -> String {
    if count == 1 { "1 session".into() } else { format!("{count} sessions") }
}

pub(super) fn select_jid(call: &Call, jid: &Jid) -> Vec<Arc<Session>> {
    let registry = &call.server.registry;
    if jid.is_bare() {
        registry.of(jid.as_str()).into_iter().collect()
    } else {
        registry.full(jid).into_iter().collect()
    }
}
