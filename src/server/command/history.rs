//! `usher last`, `usher who`: who was here, and who is.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value};
use wire::Jid;

use super::{
    Acting, Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind,
    pattern::Pattern, row, session::may_see,
};
use crate::{
    Server, Session,
    clock::Millis,
    history::{LoginRecord, Query},
    rights::Right,
    session::Flags,
};

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "who",
        about: "Show who is here: one line for each session that has a resource",
        details: "",
        args: &[
            Arg {
                name: "pattern",
                about: "Only those whose JID matches; a bare JID matches its resources, `*` stands \
                        for anything",
                form: Form::Optional,
                kind: ValueKind::JidPattern,
            },
            Arg {
                name: "limit",
                about: "How many at most; all if not said",
                form: Form::Option,
                kind: ValueKind::Number,
            },
        ],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(&["jid", "since", "idle", "address", "mechanism", "software"]),
        run: |call| Box::pin(who(call)),
    },
    Command {
        name: "last",
        about: "Show who was here, newest first: from where, with what, until when, and how it ended",
        details: "A login is `here`, `ended`, `refused`, or `lost` if the server stopped before it \
                  could note its end; one by a browser, which has no session, is `web`. Refused ones \
                  that are alike are one row with a `count`. How long logins are remembered, and how \
                  exact addresses stay, is in `[history]` and `[privacy]`. `--json` has a `cursor` \
                  for each row; `--after` goes on behind it.",
        args: &[
            Arg {
                name: "jid",
                about: "The account's address; all accounts if not said",
                form: Form::Optional,
                kind: ValueKind::Jid,
            },
            Arg {
                name: "limit",
                about: "How many at most; 50 if not said",
                form: Form::Option,
                kind: ValueKind::Number,
            },
            Arg {
                name: "failed",
                about: "Only logins that were refused",
                form: Form::Flag,
                kind: ValueKind::Text,
            },
            Arg {
                name: "after",
                about: "Go on behind the row with this cursor",
                form: Form::Option,
                kind: ValueKind::Number,
            },
        ],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(&[
            "jid",
            "since",
            "until",
            "state",
            "reason",
            "address",
            "mechanism",
            "software",
            "count",
        ]),
        run: |call| Box::pin(last(call)),
    },
];

/// Rows of [`last`] if nothing is said.
const LIMIT: usize = 50;

async fn who(call: Call) -> Result<Done, CommandError> {
    let pattern = call.text("pattern").map(Pattern::new);
    let limit = call.limit(usize::MAX)?;
    let now = call.server.clock.now();
    let (mut after, mut shown) = (None, 0);
    'pages: while shown < limit {
        let page = call.server.registry.page(after, 500);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for session in &page {
            let Some(jid) = session.full().filter(|_| session.alive() && may_see(&call, session))
            else {
                continue;
            };
            if pattern.as_ref().is_none_or(|pattern| pattern.matches(jid.as_str())) {
                call.row(who_row(session, jid, now)).await?;
                shown += 1;
                if shown == limit {
                    break 'pages;
                }
            }
        }
    }
    Ok(if shown == 0 { Done::nothing("nobody is here") } else { Done::said("") })
}

fn who_row(session: &Session, jid: &Jid, now: Millis) -> Map<String, Value> {
    let identity = session.identity();
    let identity = identity.as_deref();
    let idle = now.seconds_since(session.last_activity());
    row! {
        "jid": jid.as_str(),
        "id": session.id.to_string(),
        "since": identity.map(|identity| identity.since.to_string()),
        "idle": length(idle),
        "idle_seconds": idle,
        "available": session.flags().has(Flags::AVAILABLE),
        "address": session.address().to_string(),
        "mechanism": identity.map(|identity| identity.mechanism.as_str()),
        "token": identity.and_then(|identity| identity.token).map(|token| token.to_string()),
        "software": session.software(),
    }
}

/// A length of time as people tell it: its largest unit only.
fn length(seconds: u64) -> String {
    match seconds {
        s if s < 60 => format!("{s}s"),
        s if s < 3_600 => format!("{}m", s / 60),
        s if s < 86_400 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

async fn last(call: Call) -> Result<Done, CommandError> {
    let server = &call.server;
    if server.config.history.retention.get().is_none() {
        let nothing = CommandError::failed("logins are not remembered here");
        return Err(nothing.hint("`history.retention` in the configuration"));
    }
    let account = match call.text("jid") {
        None => call.confined().map(Acting::id),
        Some(_) => {
            let jid = call.jid("jid")?;
            let Some(account) = call.account(&jid).await? else {
                return Ok(Done::nothing(format!("there is no account `{jid}`")));
            };
            Some(account.id)
        }
    };
    let limit = call.limit(LIMIT)?;
    let query = Query { account, failed: call.flag("failed"), before: call.value("after"), limit };
    let found = server.logins(query).await?;
    for (stamp, record) in &found {
        call.row(last_row(server, *stamp, record)).await?;
    }
    Ok(match found.last() {
        None => Done::nothing("no login is remembered"),
        Some((stamp, _)) if found.len() == limit => Done::said("").with("next", stamp.to_string()),
        Some(_) => Done::said(""),
    })
}

fn last_row(server: &Server, stamp: u64, record: &LoginRecord) -> Map<String, Value> {
    let here = server.login_session(record);
    let (end, refused) = (record.end.as_ref(), record.refused.as_ref());
    let state = match (&here, end, refused) {
        (Some(_), ..) => "here",
        (_, Some(_), _) => "ended",
        (.., Some(_)) => "refused",
        _ if record.session.is_empty() => "web",
        _ => "lost",
    };
    let until = end.map(|end| end.at).or(refused.map(|refused| refused.last));
    let traffic = |now: fn(&Session) -> u64, then: Option<u64>| {
        here.as_ref().map(|session| now(session)).or(then)
    };
    row! {
        "cursor": stamp.to_string(),
        "jid": record.jid,
        "state": state,
        "since": record.at.to_string(),
        "until": until.map(|until| until.to_string()),
        "seconds": until.map(|until| until.seconds_since(record.at)),
        "reason": end.map(|end| &end.reason).or(refused.map(|refused| &refused.reason)),
        "by": end.map(|end| &end.by),
        "count": refused.map(|refused| refused.count),
        "address": record.address,
        "mechanism": record.mechanism,
        "software": record.software.clone().or_else(|| Some(here.as_ref()?.software()?.to_string())),
        "session": record.session,
        "token": record.token,
        "rx_stanzas": traffic(|session| session.traffic.rx_stanzas.load(Relaxed), end.map(|end| end.rx)),
        "tx_stanzas": traffic(|session| session.traffic.tx_stanzas.load(Relaxed), end.map(|end| end.tx)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_times_are_told_in_their_largest_unit() {
        let told: Vec<_> = [0, 59, 60, 3_599, 7_199, 86_400 * 3].map(length).into();
        assert_eq!(told, ["0s", "59s", "1m", "59m", "1h", "3d"]);
    }
}
