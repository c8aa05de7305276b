//! Which accounts are online, and whether anybody is at the other end: for `usher user list --state`,
//! and in numbers, `usher user count`.

use std::collections::BTreeMap;

use serde_json::Map;
use wire::Jid;

use super::{Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind};
use crate::{Session, config::Span, rights::Right};

/// How long without a stanza makes somebody idle if nothing else is said, in seconds.
const IDLE_AFTER: u64 = 600;

pub(super) const STATE: Arg = Arg {
    name: "state",
    about: "Only those that are this; online is who has a bound session",
    form: Form::Option,
    kind: ValueKind::Choice(State::NAMES),
};
pub(super) const IDLE: Arg = Arg {
    name: "idle",
    about: "Who has sent no stanza for this long is idle; `10m` if not said",
    form: Form::Option,
    kind: ValueKind::Span,
};
/// A domain that is served.
pub(super) const HOST: Arg = Arg {
    name: "host",
    about: "Only accounts of this domain",
    form: Form::Option,
    kind: ValueKind::Text,
};

/// What can be counted, in the order of the row.
const COUNTS: &[&str] = &["registered", "disabled", "online", "active", "idle"];

/// The commands.
pub const COMMANDS: &[Command] = &[Command {
    name: "user count",
    about: "Count accounts: all, disabled, online, and of those active and idle",
    details: "All accounts are looked at to count them, or only the sessions, if `--only` asks for \
              who is online.",
    args: &[
        Arg {
            name: "only",
            about: "Only this number",
            form: Form::Option,
            kind: ValueKind::Choice(COUNTS),
        },
        HOST,
        IDLE,
    ],
    mutates: false,
    right: Right::Status,
    scope: Scope::Others,
    fresh: false,
    shape: Shape::Record,
    run: |call| Box::pin(count(call)),
}];

/// What an account can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active,
    Disabled,
    Enabled,
    Idle,
    Online,
}

impl State {
    const NAMES: &'static [&'static str] = &["disabled", "enabled", "online", "active", "idle"];

    /// The one that is asked for.
    pub(super) fn asked(call: &Call) -> Option<Self> {
        match call.text("state")? {
            "active" => Some(Self::Active),
            "disabled" => Some(Self::Disabled),
            "enabled" => Some(Self::Enabled),
            "idle" => Some(Self::Idle),
            _ => Some(Self::Online),
        }
    }
}

/// Accounts that are online, in the order of their names, and whether each is active.
pub(super) async fn online(call: &Call, wanted: impl Fn(&Jid) -> bool) -> BTreeMap<String, bool> {
    let mut online = BTreeMap::new();
    let idle = call.value::<Span>("idle").and_then(Span::get).unwrap_or(IDLE_AFTER);
    let now = call.server.clock.now();
    let active = |session: &Session| session.last_activity().plus_seconds(idle) > now;
    let look = |session: &Session| {
        let bound = session.full().is_some() && session.alive();
        let Some(identity) = session.identity().filter(|_| bound) else { return false };
        if wanted(&identity.jid) && call.server.is_overdue(session).is_none() {
            let known = online.entry(identity.jid.as_str().to_owned()).or_insert(false);
            *known |= active(session);
        }
        true
    };
    call.server.registry.count_where(look).await;
    online
}

/// The domain that is asked for.
///
/// # Errors
/// When it is not served here.
pub(super) fn host(call: &Call) -> Result<Option<Jid>, CommandError> {
    let Some(text) = call.text("host") else { return Ok(None) };
    let host = Jid::parse(text).ok().filter(|host| call.server.hosts.contains(host));
    let unknown = || {
        let hosts: Vec<&str> = call.server.hosts.iter().map(Jid::as_str).collect();
        CommandError::usage(format!("`{text}` is not served here"))
            .hint(format!("there are {}", hosts.join(", ")))
    };
    host.map(Some).ok_or_else(unknown)
}

/// Whether an address is of this domain, or of any if there is none.
pub(super) fn is_of(jid: &Jid, host: Option<&Jid>) -> bool {
    host.is_none_or(|host| jid.domain() == host.domain())
}

async fn count(call: Call) -> Result<Done, CommandError> {
    let (host, only) = (host(&call)?, call.text("only"));
    let asked = |names: &[&str]| only.is_none_or(|only| names.contains(&only));
    let mut row = Map::new();
    if asked(&["registered", "disabled"]) {
        let (registered, disabled) = accounts(&call, host.as_ref()).await?;
        row.insert("registered".into(), registered.into());
        row.insert("disabled".into(), disabled.into());
    }
    if asked(&["online", "active", "idle"]) {
        let online = online(&call, |jid| is_of(jid, host.as_ref())).await;
        let active = online.values().filter(|active| **active).count();
        row.insert("online".into(), online.len().into());
        row.insert("active".into(), active.into());
        row.insert("idle".into(), (online.len() - active).into());
    }
    if let Some(only) = only {
        row.retain(|name, _| name == only);
    }
    call.row(row).await?;
    Ok(Done::said(""))
}

/// How many accounts there are, and how many of them are disabled.
async fn accounts(call: &Call, host: Option<&Jid>) -> Result<(u64, u64), CommandError> {
    let (mut registered, mut disabled) = (0, 0);
    let mut after: Option<String> = None;
    loop {
        let page = call.server.accounts(after.as_deref(), 500).await?;
        let Some(last) = page.last() else { return Ok((registered, disabled)) };
        after = Some(last.jid.clone());
        for account in &page {
            let domain = account.jid.split_once('@').map(|(_, domain)| domain);
            if host.is_none_or(|host| domain == Some(host.domain())) {
                registered += 1;
                disabled += u64::from(account.disabled);
            }
        }
    }
}
