//! `usher session …`: who is there, and the end of it.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use serde_json::{Map, Value};
use wire::{Jid, TokenId};

use super::{Arg, Call, Command, CommandError, Done, Form, Shape, ValueKind, row};
use crate::{
    Session,
    end::{End, Level, Outcome, Reason},
    events::Change,
    id::SessionId,
    registry,
    session::{Flags, Identity, Stage},
};

const STAGES: &[&str] = &["unauthed", "c2s", "bound", "available", "interested"];
/// Rows of a list that are sent before others get their turn.
const PAGE: usize = 500;
const LEVELS: &[&str] = &["kick", "end", "revoke"];
const COLUMNS: &[&str] =
    &["id", "jid", "stage", "since", "address", "tls", "mechanism", "software", "last_activity"];

const STAGE: Arg = Arg {
    name: "stage",
    about: "Only sessions shown at this stage",
    form: Form::Option,
    kind: ValueKind::Choice(STAGES),
};

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "session list",
        about: "List sessions, from the first byte of a connection to its end",
        details: "They come in the order of their ids. With `--limit`, the closing line says how \
                  many match in all, and what to give as `--after` to get the next ones.",
        args: &[
            Arg {
                name: "pattern",
                about: "Only those whose JID matches; a bare JID matches its resources, `*` stands \
                        for anything",
                form: Form::Optional,
                kind: ValueKind::JidPattern,
            },
            STAGE,
            Arg {
                name: "limit",
                about: "No more than so many",
                form: Form::Option,
                kind: ValueKind::Number,
            },
            Arg {
                name: "after",
                about: "Only those behind this session id",
                form: Form::Option,
                kind: ValueKind::Session,
            },
        ],
        mutates: false,
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
        shape: Shape::Record,
        run: |call| Box::pin(show(call)),
    },
    Command {
        name: "session count",
        about: "Count sessions by stage",
        details: "",
        args: &[],
        mutates: false,
        shape: Shape::Record,
        run: |call| Box::pin(count(call)),
    },
    Command {
        name: "session watch",
        about: "Show changes of sessions as they happen, until interrupted",
        details: "",
        args: &[],
        mutates: false,
        shape: Shape::Stream(&["at", "change", "id", "jid", "stage", "reason"]),
        run: |call| Box::pin(watch(call)),
    },
    Command {
        name: "session end",
        about: "End sessions, and say what became of each once it is really gone",
        details: "A bare JID ends all sessions of the account, a full JID that one. `kick` closes \
                  the stream only, `end` also takes away whatever could resume it, `revoke` also \
                  revokes the tokens that the sessions logged in with (and the one named by \
                  `--token` even if no session has), and ends all that they opened.",
        args: &[
            Arg {
                name: "selector",
                about: "Full or bare JIDs",
                form: Form::Many,
                kind: ValueKind::Jid,
            },
            Arg {
                name: "id",
                about: "The session with this id",
                form: Form::Option,
                kind: ValueKind::Session,
            },
            Arg {
                name: "token",
                about: "All sessions that logged in with this token",
                form: Form::Option,
                kind: ValueKind::Token,
            },
            Arg {
                name: "ip",
                about: "All sessions from this address or network",
                form: Form::Option,
                kind: ValueKind::Address,
            },
            Arg { name: "all", about: "All sessions", form: Form::Flag, kind: ValueKind::Text },
            Arg {
                name: "reason",
                about: "Words for the peers",
                form: Form::Option,
                kind: ValueKind::Text,
            },
            Arg {
                name: "level",
                about: "How far it goes: `kick`, `end` (if not said) or `revoke`",
                form: Form::Option,
                kind: ValueKind::Choice(LEVELS),
            },
            Arg {
                name: "dry-run",
                about: "Only show which sessions would end",
                form: Form::Flag,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        shape: Shape::Outcome(&["id", "jid", "outcome"]),
        run: |call| Box::pin(end(call)),
    },
];

/// A JID pattern: `*` stands for any text; a pattern without resource matches all resources.
pub(super) struct Pattern {
    parts: Vec<String>,
    bare: bool,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        // Patterns are not addresses; the one preparation that matters for them is case.
        let (bare, resource) = match text.split_once('/') {
            Some((bare, resource)) => (bare, Some(resource)),
            None => (text, None),
        };
        let whole = match resource {
            Some(resource) => format!("{}/{resource}", bare.to_lowercase()),
            None => bare.to_lowercase(),
        };
        let parts = whole.split('*').map(str::to_owned).collect();
        Self { parts, bare: resource.is_none() }
    }

    pub(super) fn matches(&self, jid: &str) -> bool {
        let jid = if self.bare { jid.split('/').next().unwrap_or(jid) } else { jid };
        let Some(((first, last), middle)) = self.split() else { return false };
        let Some(last) = last else { return jid == first };
        let Some(mut rest) = jid.strip_prefix(first).and_then(|rest| rest.strip_suffix(last))
        else {
            return false;
        };
        for part in middle {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }

    #[expect(clippy::type_complexity, reason = "first, last and what is between")]
    fn split(&self) -> Option<((&str, Option<&str>), &[String])> {
        let (first, rest) = self.parts.split_first()?;
        match rest.split_last() {
            None => Some(((first, None), &[])),
            Some((last, middle)) => Some(((first, Some(last)), middle)),
        }
    }
}

fn session_row(session: &Session) -> Map<String, Value> {
    use std::sync::atomic::Ordering::Relaxed;
    let identity = session.identity();
    let (flags, tls) = (session.flags(), session.tls());
    let traffic = &session.traffic;
    row! {
        "id": session.id.to_string(),
        "jid": session.jid().map(Jid::as_str),
        "stage": session.stage().as_str(),
        "available": flags.has(Flags::AVAILABLE),
        "interested": flags.has(Flags::INTERESTED),
        "ending": flags.has(Flags::ENDING),
        "since": session.created.to_string(),
        "authed_since": identity.map(|identity| identity.since.to_string()),
        "address": session.address().to_string(),
        "port": session.peer.port(),
        "tls": tls.as_ref().map(|tls| tls.version),
        "cipher": tls.as_ref().map(|tls| tls.cipher),
        "mechanism": identity.map(|identity| identity.mechanism.as_str()),
        "channel_binding": identity.and_then(|identity| identity.binding),
        "client": identity.and_then(Identity::client).map(|client| client.id.to_string()),
        "sid": identity.and_then(Identity::client).map(|client| client.sid),
        "grant": identity.and_then(|identity| identity.grant).map(|grant| grant.to_string()),
        "token": identity.and_then(|identity| identity.token).map(|token| token.to_string()),
        "role": identity.map(Identity::role),
        "priority": session.presence().map(|presence| presence.priority),
        "software": session.software(),
        "rx_bytes": traffic.rx_bytes.load(Relaxed),
        "tx_bytes": traffic.tx_bytes.load(Relaxed),
        "rx_stanzas": traffic.rx_stanzas.load(Relaxed),
        "tx_stanzas": traffic.tx_stanzas.load(Relaxed),
        "queued_bytes": session.mailbox.bytes(),
        "last_activity": session.last_activity().to_string(),
    }
}

async fn list(call: Call) -> Result<Done, CommandError> {
    let stage = call.text("stage");
    let stage = stage.and_then(|name| Stage::ALL.into_iter().find(|stage| stage.as_str() == name));
    let pattern = call.text("pattern").map(Pattern::new);
    let wanted = |session: &Session| {
        stage.is_none_or(|stage| session.stage() == stage)
            && pattern.as_ref().is_none_or(|pattern| {
                session.jid().is_some_and(|jid| pattern.matches(jid.as_str()))
            })
            && call.server.is_overdue(session).is_none()
    };
    // An address without `*` means one account's sessions; nobody else's are looked at.
    let whose = call.text("pattern").filter(|pattern| !pattern.contains('*')).map(Jid::parse);
    let whose = whose.transpose().unwrap_or(None);
    let limit = call.value::<usize>("limit");
    if limit == Some(0) {
        return Err(CommandError::usage("`limit` has to be 1 at least"));
    }
    let registry = &call.server.registry;
    let (mut after, mut shown) = (call.value::<SessionId>("after"), 0);
    loop {
        let room = limit.map_or(usize::MAX, |limit| limit - shown).min(PAGE);
        let page = match &whose {
            Some(jid) => registry.page_of(jid, after, room, wanted),
            None => registry.page_where(after, room, registry::BUDGET, wanted),
        };
        shown += page.sessions.len();
        for session in page.sessions {
            call.row(session_row(&session)).await?;
        }
        after = page.next;
        if after.is_none() || limit == Some(shown) {
            break;
        }
        tokio::task::yield_now().await;
    }
    if shown == 0 {
        return Ok(Done::nothing("no session matches"));
    }
    if limit.is_none() {
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

async fn show(call: Call) -> Result<Done, CommandError> {
    let text = call.text("session").unwrap_or_default();
    if let Ok(id) = text.parse::<SessionId>() {
        if let Some(session) = call.server.registry.get(id) {
            call.row(session_row(&session)).await?;
            return Ok(Done::said(""));
        }
        if let Some(past) = call.server.recent.get(id) {
            call.row(row! {
                "id": past.id.to_string(),
                "jid": past.jid.as_ref().map(Jid::as_str),
                "stage": "ended",
                "since": past.created.to_string(),
                "ended": past.record.at.to_string(),
                "reason": past.record.reason,
                "level": past.record.level,
                "by": past.record.by,
                "text": past.record.text,
            })
            .await?;
            return Ok(Done::said(""));
        }
        return Ok(Done::nothing(format!("there is no session `{id}`")));
    }
    let jid = Jid::parse(text).map_err(|why| {
        CommandError::usage(format!("`{text}` is neither a session id nor a JID: {why}"))
    })?;
    let sessions = select_jid(&call, &jid);
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

async fn watch(call: Call) -> Result<Done, CommandError> {
    use tokio::sync::broadcast::error::RecvError;
    let mut events = call.server.events.watch();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = call.rows.closed() => return Ok(Done::said("")),
        };
        let row = match event {
            Ok(event) => {
                let record = match &event.change {
                    Change::Ended(record) => record.as_ref(),
                    _ => None,
                };
                row! {
                    "at": call.server.clock.now().to_string(),
                    "change": event.change.as_str(),
                    "id": event.session.id.to_string(),
                    "jid": event.session.jid().map(Jid::as_str),
                    "stage": event.session.stage().as_str(),
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

fn select_jid(call: &Call, jid: &Jid) -> Vec<Arc<Session>> {
    let registry = &call.server.registry;
    if jid.is_bare() {
        registry.of(jid.as_str()).into_iter().collect()
    } else {
        registry.full(jid).into_iter().collect()
    }
}

/// All sessions that any of the selectors means, each once.
fn select(call: &Call) -> Result<Vec<Arc<Session>>, CommandError> {
    let registry = &call.server.registry;
    let mut found: Vec<Arc<Session>> = Vec::new();
    let mut selectors = 0;
    for text in call.many("selector") {
        selectors += 1;
        let jid = Jid::parse(text)
            .map_err(|why| CommandError::usage(format!("`{text}` is not a JID: {why}")))?;
        found.extend(select_jid(call, &jid));
    }
    if let Some(id) = call.value::<SessionId>("id") {
        selectors += 1;
        found.extend(registry.get(id));
    }
    if let Some(token) = call.value::<TokenId>("token") {
        selectors += 1;
        found.extend(registry.with_token(token));
    }
    if let Some(network) = call.network("ip") {
        selectors += 1;
        if network.prefix_len() == network.max_prefix_len() {
            found.extend(registry.at(network.addr()));
        } else {
            found.extend(registry.all().filter(|session| network.contains(&session.address())));
        }
    }
    if call.flag("all") {
        selectors += 1;
        found.extend(registry.all());
    }
    if selectors == 0 {
        return Err(CommandError::usage("it is not said which sessions")
            .hint("name a JID, `--id`, `--token`, `--ip` or `--all`"));
    }
    each_once(&mut found);
    Ok(found)
}

async fn end(call: Call) -> Result<Done, CommandError> {
    let mut sessions = select(&call)?;
    let level = call.text("level");
    let level = level.and_then(|name| Level::ALL.into_iter().find(|l| l.as_str() == name));
    let level = level.unwrap_or(Level::End);
    let tokens = if level == Level::Revoke { tokens(&call, &sessions) } else { BTreeSet::new() };
    // Whoever else has logged in with one of these tokens goes as well.
    sessions.extend(tokens.iter().flat_map(|token| call.server.registry.with_token(*token)));
    each_once(&mut sessions);
    let dry = call.flag("dry-run");
    if sessions.is_empty() && (dry || tokens.is_empty()) {
        let count = if dry { "would_end" } else { "ended" };
        return Ok(Done::nothing("no session matches").with(count, 0));
    }
    let one = |session: &Session, outcome: Value| {
        row! {
            "id": session.id.to_string(),
            "jid": session.jid().map(Jid::as_str),
            "outcome": outcome,
        }
    };
    if dry {
        for session in &sessions {
            call.row(one(session, "would-end".into())).await?;
        }
        let message = format!("{} would end; nothing was done", plural(sessions.len()));
        return Ok(Done::said(message).with("would_end", sessions.len()));
    }

    let text = call.text("reason").map(str::to_owned);
    // By whom they are ended: those that are ending already are not ended by this.
    let ending: HashSet<SessionId> =
        sessions.iter().filter(|session| !session.alive()).map(|session| session.id).collect();
    // Credentials first: all of them are dead before the first connection closes.
    let mut revoked = 0;
    for token in tokens {
        match call.server.revoke_token(token, &call.actor(), text.clone()).await {
            Ok(None) => {}
            Ok(Some((_, more))) => {
                revoked += 1;
                sessions.extend(more);
            }
            Err(error) if revoked == 0 => return Err(error.into()),
            Err(error) => {
                let message = format!(
                    "{error}, after {revoked} tokens were revoked; no session without one was ended"
                );
                return Err(CommandError::failed(message).hint("see the server's log; try again"));
            }
        }
    }
    each_once(&mut sessions);
    if sessions.is_empty() {
        return Ok(match revoked {
            0 => Done::nothing("there is no such token").with("ended", 0),
            _ => Done::said("revoked the token, no session to end").with("ended", 0),
        });
    }
    let reason = match level {
        Level::Kick => Reason::Kicked,
        Level::End => Reason::Ended,
        Level::Revoke => Reason::Revoked,
    };
    let request = End { level, actor: call.actor(), text, ..End::new(reason) };
    let ours = |session: &Arc<Session>| {
        call.server.end(session, request.clone())
            || !ending.contains(&session.id)
                && session.end_record().is_some_and(|record| {
                    level == Level::Revoke && record.level == level && record.by == request.actor
                })
    };
    // All are marked dead before the first is waited for.
    let ours: Vec<bool> = sessions.iter().map(ours).collect();
    call.server.all_settled(&sessions).await;
    let mut ended = 0;
    let mut lingering = 0;
    for (session, ours) in sessions.iter().zip(ours) {
        let outcome = Outcome::of(session.settled(), ours);
        ended += usize::from(outcome == Outcome::Ended);
        lingering += usize::from(outcome == Outcome::Lingering);
        let outcome = serde_json::to_value(outcome).unwrap_or_default();
        // Whether or not somebody still listens, the rest is seen through.
        let _ = call.row(one(session, outcome)).await;
    }
    let message = match lingering {
        0 => format!("{} ended", plural(ended)),
        some => format!("{} ended, {some} are dead but their connections linger", plural(ended)),
    };
    Ok(Done::said(message).with("ended", ended).with("lingering", lingering))
}

/// The tokens that are revoked together with these sessions: theirs, and the one that was named.
fn tokens(call: &Call, sessions: &[Arc<Session>]) -> BTreeSet<TokenId> {
    let theirs = sessions.iter().filter_map(|session| session.identity()?.token);
    theirs.chain(call.value::<TokenId>("token")).collect()
}

fn each_once(sessions: &mut Vec<Arc<Session>>) {
    sessions.sort_by_key(|session| session.id);
    sessions.dedup_by_key(|session| session.id);
}

fn plural(count: usize) -> String {
    if count == 1 { "1 session".into() } else { format!("{count} sessions") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_bare_and_full_addresses() {
        let matches = |pattern: &str, jid: &str| Pattern::new(pattern).matches(jid);
        assert!(matches("alice@localhost", "alice@localhost/phone"));
        assert!(matches("Alice@localhost", "alice@localhost"));
        assert!(matches("*@localhost", "bob@localhost/x"));
        assert!(matches("*li*@*", "alice@localhost/x"));
        assert!(matches("alice@localhost/ph*", "alice@localhost/phone"));
        assert!(!matches("alice@localhost/ph*", "alice@localhost/Phone"));
        assert!(!matches("alice", "alice@localhost"));
        assert!(!matches("*aa*", "a@b"), "parts do not overlap");
        assert!(!matches("ab*ba", "aba"), "first and last do not overlap");
    }
}
