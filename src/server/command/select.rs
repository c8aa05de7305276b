//! Which sessions a command is about, and which of them the caller may touch. What names sessions (an
//! address, an id, a token …) adds to each other; what describes them (`--ip`, `--software`, `--idle` …)
//! narrows what was named, or, if nothing was, everything.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use wire::{Jid, TokenId};

use super::{
    Arg, Call, CommandError, Form, ValueKind,
    session::{STAGES, account_of, may_see, select_jid},
    user::unknown,
};
use crate::{
    Session,
    account::Role,
    client::{Client, book::Handle},
    clock::Millis,
    config::Span,
    id::{AccountId, ClientId, GrantId, SessionId},
    rights::Right,
    session::Stage,
};

macro_rules! args {
    ($($name:ident $word:literal $form:ident $kind:expr, $about:literal;)*) => {
        $(pub(super) const $name: Arg =
            Arg { name: $word, about: $about, form: Form::$form, kind: $kind };)*
    };
}

args! {
    SELECTOR "selector" Many ValueKind::Jid, "Full or bare JIDs";
    ID "id" Option ValueKind::Session, "The session with this id";
    CLIENT "client" Option ValueKind::Client, "All sessions of this client";
    SID "sid" Option ValueKind::Number,
        "Of the one bare JID that is named, only the client with this number";
    GRANT "grant" Option ValueKind::Grant, "All sessions that this grant let in";
    TOKEN "token" Option ValueKind::Token, "All sessions that logged in with this token";
    IP "ip" Option ValueKind::Address, "Only those from this address or network";
    SOFTWARE "software" Option ValueKind::Text,
        "Only those whose software has this in its name, in any case";
    MECHANISM "mechanism" Option ValueKind::Text, "Only those that logged in by this SASL mechanism";
    AT_STAGE "stage" Option ValueKind::Choice(STAGES), "Only those shown at this stage";
    OLDER "older" Option ValueKind::Span, "Only those that connected this long ago or earlier";
    IDLE "idle" Option ValueKind::Span, "Only those that have sent no stanza for this long";
    EXCEPT "except" Option ValueKind::Session, "Not the session with this id";
    OTHERS "others" Flag ValueKind::Text, "Not the session that this is asked from";
    ALL "all" Flag ValueKind::Text, "All sessions";
}

/// The arguments that select sessions, with those that a command has besides.
macro_rules! selectors {
    ($($more:expr),* $(,)?) => {
        &[
            $crate::command::select::SELECTOR,
            $crate::command::select::ID,
            $crate::command::select::CLIENT,
            $crate::command::select::SID,
            $crate::command::select::GRANT,
            $crate::command::select::TOKEN,
            $crate::command::select::IP,
            $crate::command::select::SOFTWARE,
            $crate::command::select::MECHANISM,
            $crate::command::select::AT_STAGE,
            $crate::command::session::HIBERNATING,
            $crate::command::select::OLDER,
            $crate::command::select::IDLE,
            $crate::command::select::EXCEPT,
            $crate::command::select::OTHERS,
            $crate::command::select::ALL,
            $($more),*
        ]
    };
}
pub(super) use selectors;

/// What was selected.
pub(super) struct Selected {
    /// The sessions, each once, in the order of their ids.
    pub(super) sessions: Vec<Arc<Session>>,
    /// The client, grant or token that was named, with what it belongs to.
    pub(super) named: Option<(Handle, Client)>,
}

/// What narrows a selection.
pub(super) struct Filter<'a> {
    network: Option<IpNet>,
    software: Option<String>,
    mechanism: Option<&'a str>,
    stage: Option<Stage>,
    hibernating: bool,
    older: Option<u64>,
    idle: Option<u64>,
    except: [Option<SessionId>; 2],
    now: Millis,
}

impl<'a> Filter<'a> {
    pub(super) fn of(call: &'a Call) -> Self {
        let stage = call.text("stage");
        let me = call.caller.account().and_then(|me| me.session());
        Self {
            network: call.network("ip"),
            software: call.text("software").map(str::to_lowercase),
            mechanism: call.text("mechanism"),
            stage: stage.and_then(|name| Stage::ALL.into_iter().find(|s| s.as_str() == name)),
            hibernating: call.flag("hibernating"),
            older: call.value::<Span>("older").and_then(Span::get),
            idle: call.value::<Span>("idle").and_then(Span::get),
            except: [call.value("except"), me.filter(|_| call.flag("others"))],
            now: call.server.clock.now(),
        }
    }

    /// Refuses who may not look for it in this way: who is found by an address is seen to have it.
    pub(super) fn allowed(&self, call: &Call) -> Result<(), CommandError> {
        match self.network.is_some() && call.confined().is_none() {
            true => call.need(Right::ListIp),
            false => Ok(()),
        }
    }

    fn describes(&self) -> bool {
        self.network.is_some()
            || self.software.is_some()
            || self.mechanism.is_some()
            || self.stage.is_some()
            || self.hibernating
            || self.older.is_some()
            || self.idle.is_some()
    }

    pub(super) fn fits(&self, session: &Session) -> bool {
        let passed = |since: Millis, span: Option<u64>| {
            span.is_none_or(|span| since.plus_seconds(span) <= self.now)
        };
        !self.except.contains(&Some(session.id))
            && self.network.is_none_or(|network| network.contains(&session.address()))
            && self.stage.is_none_or(|stage| session.stage() == stage)
            && (!self.hibernating || !session.connected())
            && self.mechanism.is_none_or(|name| {
                session
                    .identity()
                    .is_some_and(|me| me.mechanism.as_str().eq_ignore_ascii_case(name))
            })
            && self.software.as_deref().is_none_or(|part| {
                session.software().is_some_and(|name| name.to_lowercase().contains(part))
            })
            && passed(session.created, self.older)
            && passed(session.last_activity(), self.idle)
    }
}

/// All sessions that are meant, as far as the caller may see them.
///
/// # Errors
/// When nothing is said about which, or the caller may not look for it in this way.
pub(super) async fn select(call: &Call) -> Result<Selected, CommandError> {
    let registry = &call.server.registry;
    let mut found: Vec<Arc<Session>> = Vec::new();
    let mut names = 0;
    let sid = call.value::<u64>("sid");
    let jids: Vec<&str> = call.many("selector").collect();
    if sid.is_some() && jids.len() != 1 {
        return Err(CommandError::usage("`--sid` is a number within one account")
            .hint("name that account's bare JID, and no other"));
    }
    for text in jids {
        names += 1;
        let jid = Jid::parse(text)
            .map_err(|why| CommandError::usage(format!("`{text}` is not a JID: {why}")))?;
        // Who is at the socket is told that nothing matches; an account, that nobody is there.
        if call.account(&jid).await?.is_none() && call.caller.account().is_some() {
            return Err(unknown(&jid));
        }
        let of = |session: &Arc<Session>| {
            sid.is_none_or(|sid| {
                let client = session.identity().and_then(|me| me.client());
                client.is_some_and(|client| client.sid == sid)
            })
        };
        found.extend(select_jid(call, &jid).into_iter().filter(of));
    }
    if let Some(id) = call.value::<SessionId>("id") {
        names += 1;
        found.extend(registry.get(id));
    }
    let handles = [
        call.value::<ClientId>("client").map(Handle::Client),
        call.value::<GrantId>("grant").map(Handle::Grant),
        call.value::<TokenId>("token").map(Handle::Token),
    ];
    let mut handles = handles.into_iter().flatten();
    let mut named = None;
    if let Some(handle) = handles.next() {
        names += 1;
        if handles.next().is_some() {
            return Err(CommandError::usage(
                "`--client`, `--grant` and `--token` exclude each other",
            )
            .hint("a client has its grants, and a grant its tokens"));
        }
        let client = call.server.client_with(handle).await?;
        if let Some(client) = client.filter(|client| call.may_see(Some(client.account))) {
            let theirs = |session: &&Arc<Session>| {
                session.identity().is_some_and(|me| match handle {
                    Handle::Client(id) => me.client().is_some_and(|client| client.id == id),
                    Handle::Grant(id) => me.grant == Some(id),
                    Handle::Token(id) => me.token == Some(id),
                })
            };
            found.extend(registry.of(&client.jid).iter().filter(theirs).cloned());
            named = Some((handle, client));
        }
    }
    let filter = Filter::of(call);
    filter.allowed(call)?;
    if names == 0 {
        if !call.flag("all") && !filter.describes() && !call.flag("others") {
            return Err(CommandError::usage("it is not said which sessions").hint(
                "name a JID, `--id`, `--client`, `--grant` or `--token`, or describe them, as by \
                 `--ip`, or say `--all`",
            ));
        }
        match (call.confined(), filter.network) {
            (Some(me), _) => found.extend(registry.of(me.jid().as_str())),
            (None, Some(network)) if network.prefix_len() == network.max_prefix_len() => {
                found.extend(registry.at(network.addr()));
            }
            (None, _) if call.flag("others") => match call.caller.account() {
                Some(me) => found.extend(registry.of(me.jid().as_str())),
                None => {
                    return Err(CommandError::usage("`--others` is for who asks from a session")
                        .hint("name the session that is to stay with `--except`"));
                }
            },
            (None, _) => found.extend(registry.all().filter(|session| filter.fits(session))),
        }
    }
    found.retain(|session| may_see(call, session) && filter.fits(session));
    each_once(&mut found);
    Ok(Selected { sessions: found, named })
}

pub(super) fn each_once(sessions: &mut Vec<Arc<Session>>) {
    sessions.sort_by_key(|session| session.id);
    sessions.dedup_by_key(|session| session.id);
}

/// Takes away the sessions that the caller may not touch with these rights, and gives them, with why
/// not the first of them.
pub(super) async fn withhold(
    call: &Call,
    sessions: &mut Vec<Arc<Session>>,
    rights: &[Right],
) -> Result<(Vec<Arc<Session>>, Option<CommandError>), CommandError> {
    let mut verdicts: BTreeMap<Option<AccountId>, Option<CommandError>> = BTreeMap::new();
    for session in sessions.iter() {
        call.note_session(session);
        let account = account_of(session);
        if call.caller.account().is_none() || verdicts.contains_key(&account) {
            continue;
        }
        let verdict = match session.identity() {
            Some(me) => may_touch(call, me.account, &me.jid, rights).await?,
            // Nobody's yet: who may touch those of others may touch it.
            None => rights.iter().find_map(|right| call.need(*right).err()),
        };
        verdicts.insert(account, verdict);
    }
    let restraint = call.restraint().await?;
    let why = |session: &Arc<Session>| {
        let verdict = verdicts.get(&account_of(session)).cloned().flatten();
        let client = session.identity().and_then(|me| Some((me.account, me.client()?.sid)));
        let spared = restraint.as_ref().zip(client);
        let spared = spared.filter(|(restraint, (account, sid))| restraint.spares(*account, *sid));
        verdict.or_else(|| spared.map(|(restraint, _)| restraint.refusal()))
    };
    let (withheld, rest): (Vec<_>, Vec<_>) =
        std::mem::take(sessions).into_iter().partition(|session| why(session).is_some());
    *sessions = rest;
    let first = withheld.first().and_then(why);
    Ok((withheld, first))
}

/// Why the caller may not touch what is of this account with these rights, if so.
pub(super) async fn may_touch(
    call: &Call,
    account: AccountId,
    jid: &Jid,
    rights: &[Right],
) -> Result<Option<CommandError>, CommandError> {
    let owner = call.server.account(jid.as_str()).await?.filter(|owner| owner.id == account);
    // One that is being deleted is nobody's any more.
    let role = owner.map_or(Role::Restricted, |owner| owner.role);
    let act = |right: &Right| call.may_act(account, jid.as_str(), role, *right).err();
    Ok(rights.iter().find_map(act))
}
