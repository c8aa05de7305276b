//! `usher client …`: the pieces of software that an account has let in, and what they may.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use wire::Jid;

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind,
    caller::lacks,
    network, row,
    session::LIMIT,
    user::{sessions_ended, unknown},
};
use crate::{
    Server, Session,
    account::Account,
    client::{
        ATTRIBUTES, Check, Class, Client, Key, Over, TEXT, Tombstone, access::Circumstances,
        book::Handle,
    },
    clock::Millis,
    config::Span,
    end::{Actor, Outcome},
    id::ClientId,
    policy::Effective,
    privacy,
    registry::Few,
    rights::Right,
};

const CLIENT: Arg =
    Arg { name: "client", about: "The client's id", form: Form::Required, kind: ValueKind::Client };
const REASON: Arg =
    Arg { name: "reason", about: "Words for the peers", form: Form::Option, kind: ValueKind::Text };
/// How each client is shown that something was taken from.
const ENDED: &[&str] = &["client", "id", "jid", "outcome", "ways_back"];

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "client list",
        about: "List the clients of an account: each piece of software that it has let in",
        details: "A client outlives its sessions. It has a number of its own in its account, the \
                  `sid`; one that is over does not come back under it. How exact an address stays, \
                  and how long the software is remembered, is in `[privacy]`.",
        args: &[
            Arg {
                name: "jid",
                about: "The account's address",
                form: Form::Required,
                kind: ValueKind::Jid,
            },
            Arg {
                name: "all",
                about: "Also those that are over",
                form: Form::Flag,
                kind: ValueKind::Text,
            },
            LIMIT,
            Arg {
                name: "after",
                about: "Only those with a number above this",
                form: Form::Option,
                kind: ValueKind::Number,
            },
        ],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(&[
            "id", "sid", "label", "software", "class", "seen", "address", "sessions", "state",
            "current",
        ]),
        run: |call| Box::pin(list(call)),
    },
    Command {
        name: "client show",
        about: "Show a client, or what became of it",
        details: "",
        args: &[
            Arg {
                name: "client",
                about: "A client id, or the account's address together with `--sid`",
                form: Form::Required,
                kind: ValueKind::Text,
            },
            Arg {
                name: "sid",
                about: "The client's number in its account",
                form: Form::Option,
                kind: ValueKind::Number,
            },
        ],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Record,
        run: |call| Box::pin(show(call)),
    },
    Command {
        name: "client label",
        about: "Give a client a name for people, as in `kitchen tablet`",
        details: "",
        args: &[
            CLIENT,
            Arg {
                name: "label",
                about: "The name; an empty one takes it away",
                form: Form::Required,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        right: Right::Policy,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(label(call)),
    },
    Command {
        name: "client set",
        about: "Set how long a client may stay, from where it may come, and notes about it",
        details: "A class counts from now; the sessions that the client has go by it at once. A \
                  session that a token opened may only bound its account's clients more narrowly.",
        args: &[
            CLIENT,
            Arg {
                name: "class",
                about: "How long it may stay: `short`, `long` or `once`, as set under `[clients]`, or \
                        as its policy says",
                form: Form::Option,
                kind: ValueKind::Choice(Class::NAMES),
            },
            Arg {
                name: "bind-to",
                about: "The address or network that it has to come from the next time; `off`: any",
                form: Form::Option,
                kind: ValueKind::Text,
            },
            Arg {
                name: "attribute",
                about: "A note as `NAME=VALUE`; `NAME=` takes it away",
                form: Form::Options,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        right: Right::Policy,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(set(call)),
    },
    Command {
        name: "client confirm",
        about: "Confirm a new client, so that it may do what its account may",
        details: "Another client of the account does it, one that was there before and is confirmed \
                  itself, or somebody with the right.",
        args: &[CLIENT],
        mutates: true,
        right: Right::Policy,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(confirm(call)),
    },
    Command {
        name: "client revoke",
        about: "End clients for good, with their grants, tokens and sessions",
        details: "Says for each session what became of it, and for each client which ways back \
                  remain: with the password, it comes back as a new one. Who does so with the client \
                  that it asks from hears the answer first. A client that has only just come may not \
                  do it to older ones; see `clients.fresh`.",
        args: &[
            Arg { name: "client", about: "Client ids", form: Form::Many, kind: ValueKind::Client },
            Arg {
                name: "unless-password",
                about: "Only if none of them knows the password, with which it would come back",
                form: Form::Flag,
                kind: ValueKind::Text,
            },
            REASON,
        ],
        mutates: true,
        right: Right::Revoke,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(ENDED),
        run: |call| Box::pin(revoke(call)),
    },
    Command {
        name: "client block",
        about: "End a client for good, and refuse it when it comes back, whatever it proves",
        details: "It is known again by the resource that it asks for. A client that has only just \
                  come may not do it to older ones; see `clients.fresh`.",
        args: &[
            CLIENT,
            Arg {
                name: "for",
                about: "How long, as in `30d`; for ever if not said",
                form: Form::Option,
                kind: ValueKind::Span,
            },
            REASON,
        ],
        mutates: true,
        right: Right::Block,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(ENDED),
        run: |call| Box::pin(block(call)),
    },
    Command {
        name: "client unblock",
        about: "Let a blocked client come again, as a new one",
        details: "The owner of the account lifts what the owner has set.",
        args: &[CLIENT],
        mutates: true,
        right: Right::Block,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(unblock(call)),
    },
];

/// The account in the argument `jid`, if the caller may see it.
pub(super) async fn account_named(call: &Call) -> Result<Account, CommandError> {
    let jid = call.jid("jid")?;
    let account = call.account(&jid).await?.filter(|_| jid.is_bare());
    account.ok_or_else(|| unknown(&jid))
}

/// The client that has this handle, and its account. None: there is none, or none that the caller may
/// know of.
pub(super) async fn owned(
    call: &Call,
    handle: Handle,
) -> Result<Option<(Client, Account)>, CommandError> {
    let found = call.server.client_with(handle).await?;
    let Some(client) = found.filter(|client| call.may_see(Some(client.account))) else {
        return Ok(None);
    };
    let owner = call.server.account(&client.jid).await?.filter(|o| o.id == client.account);
    if owner.is_some() {
        call.note(client.account, &client.jid);
    }
    Ok(owner.map(|owner| (client, owner)))
}

/// The client in the argument `client`; refuses those who may not do this to it.
async fn target(call: &Call, right: Right) -> Result<Option<(Client, Account)>, CommandError> {
    let missing = || CommandError::usage("`client` is missing");
    let id = call.value::<ClientId>("client").ok_or_else(missing)?;
    let found = owned(call, Handle::Client(id)).await?;
    if let Some((client, owner)) = &found {
        call.may_act(client.account, &client.jid, owner.role, right)?;
    }
    Ok(found)
}

fn nothing(call: &Call) -> Done {
    Done::nothing(format!("there is no client `{}`", call.text("client").unwrap_or_default()))
}

pub(super) fn time(at: Option<Millis>) -> Option<String> {
    at.map(|at| at.to_string())
}

fn tombstone(over: Option<&Tombstone>) -> Option<Map<String, Value>> {
    over.map(|over| {
        row! {
            "at": over.at.to_string(),
            "why": over.why,
            "by": over.by,
            "text": over.text,
        }
    })
}

/// What a client comes from and with.
struct Whereabouts {
    address: Option<String>,
    software: Option<String>,
    device: Option<String>,
}

/// What a client comes from and with: what a session of it says, or what was noted of it, as far as
/// that may still be shown.
fn whereabouts(
    server: &Server,
    client: &Client,
    sessions: &[std::sync::Arc<Session>],
) -> Whereabouts {
    let here = sessions.iter().max_by_key(|session| session.created);
    let ladder = &server.config.privacy;
    let noted = client.seen.unwrap_or(client.created);
    let age = server.clock.now().seconds_since(noted);
    let address = match here {
        Some(session) => Some(session.address().to_string()),
        None => {
            client.address.as_deref().and_then(|address| privacy::address(address, age, ladder))
        }
    };
    let said = here.and_then(|session| session.software()).map(|software| software.to_string());
    let software = match here {
        Some(_) => said.or_else(|| client.software.clone()),
        None => privacy::software(client.software.clone(), age, ladder),
    };
    let device = match here {
        Some(_) => client.device.clone(),
        None => privacy::software(client.device.clone(), age, ladder),
    };
    Whereabouts { address, software, device }
}

fn client_row(
    call: &Call,
    owner: &Account,
    check: &Check<'_>,
    client: &Client,
) -> Map<String, Value> {
    let (server, now) = (&call.server, check.now);
    let sessions = server.visits(client);
    let Whereabouts { address, software, device } = whereabouts(server, client, &sessions);
    let circumstances = Circumstances {
        here: sessions.iter().filter_map(|session| Some(session.identity()?.role())).max(),
        waits: client.waits(&server.config.clients, now),
        step_up: server.config.auth.step_up.get().is_some(),
    };
    let mechanisms: BTreeMap<_, _> =
        client.mechanisms.iter().map(|(name, at)| (name, at.to_string())).collect();
    row! {
        "id": client.id.to_string(),
        "sid": client.sid,
        "jid": client.jid,
        "label": client.label,
        "software": software,
        "device": device,
        "class": client.class,
        "created": client.created.to_string(),
        "seen": time(client.seen),
        "address": address,
        "mechanisms": mechanisms,
        "connected": !sessions.is_empty(),
        "sessions": sessions.len(),
        "unconfirmed": circumstances.waits,
        "state": client.state(owner, check.policy, now),
        "expires": time(client.deadline(check.policy)),
        "tokens": client.good_tokens(owner, check),
        "ways_back": client.ways_back(owner, check),
        "password": client.knows_password(owner),
        "type": if client.has_chatted() { "session" } else { "access" },
        "access": client.access(owner, check, &circumstances),
        "over": tombstone(client.over.as_ref()),
        "current": call.own_client(client.account) == Some(client.sid),
    }
}

async fn list(call: Call) -> Result<Done, CommandError> {
    let owner = account_named(&call).await?;
    let limit = call.limit(usize::MAX)?;
    let server = &call.server;
    let (policy, epochs) = (server.policy_of(&owner), server.epochs_of(&owner).await?);
    let check = Check { policy: &policy, epochs: &epochs, now: server.clock.now() };
    let mut clients = server.clients_of(owner.id, call.value("after"), 0).await?;
    // What is refused when it comes is not done with.
    let there = |client: &Client| {
        client.is_blocked(check.now) || client.over(&owner, &policy, check.now).is_none()
    };
    clients.retain(|client| call.flag("all") || there(client));
    let shown = limit.min(clients.len());
    for client in clients.iter().take(shown) {
        call.row(client_row(&call, &owner, &check, client)).await?;
    }
    Ok(match clients.get(..shown).and_then(<[Client]>::last) {
        None => Done::nothing(format!("`{}` has no such clients", owner.jid)),
        Some(last) if shown < clients.len() => {
            let next = last.sid.to_string();
            let message = format!("{shown} of {}; the next ones: `--after {next}`", clients.len());
            Done::said(message).with("next", next).with("total", clients.len())
        }
        Some(_) => Done::said(""),
    })
}

async fn show(call: Call) -> Result<Done, CommandError> {
    let text = call.text("client").unwrap_or_default();
    let found = match (text.parse::<ClientId>(), call.value::<u64>("sid")) {
        (Ok(id), None) => owned(&call, Handle::Client(id)).await?,
        (Err(_), Some(sid)) => {
            let jid = Jid::parse(text).map_err(|why| {
                CommandError::usage(format!("`{text}` is neither a client id nor a JID: {why}"))
            })?;
            let owner = call.account(&jid).await?.ok_or_else(|| unknown(&jid))?;
            call.server.client(owner.id, sid).await?.map(|client| (client, owner))
        }
        (Err(_), None) => {
            return Err(CommandError::usage(format!("`{text}` is not a client id"))
                .hint("or name the account, and the client's number with `--sid`"));
        }
        (Ok(_), Some(_)) => {
            return Err(CommandError::usage("a client id and `--sid` say the same thing")
                .hint("leave one of them out"));
        }
    };
    let Some((client, owner)) = found else { return Ok(nothing(&call)) };
    let server = &call.server;
    let (policy, epochs) = (server.policy_of(&owner), server.epochs_of(&owner).await?);
    let check = Check { policy: &policy, epochs: &epochs, now: server.clock.now() };
    let mut row = client_row(&call, &owner, &check, &client);
    let grants: Vec<String> = client.grants.iter().map(|grant| grant.id.to_string()).collect();
    let resource = match &client.key {
        Key::Resource(resource) => Some(resource),
        Key::Grant(_) | Key::Agent(_) => None,
    };
    let block = client.block.as_ref().filter(|block| block.holds(check.now)).map(|block| {
        row! {
            "at": block.at.to_string(),
            "until": time(block.until),
            "by": block.by,
            "text": block.text,
        }
    });
    row.extend(row! {
        "created_by": client.created_by,
        "resource": resource,
        "bound_to": client.bound_to.map(|network| network.to_string()),
        "attributes": client.attributes,
        "held_until": time(client.hold.filter(|until| check.now < *until)),
        "block": block,
        "frozen": tombstone(client.frozen.as_ref()),
        "grants": grants,
    });
    call.row(row).await?;
    Ok(Done::said(""))
}

async fn label(call: Call) -> Result<Done, CommandError> {
    let Some((client, owner)) = target(&call, Right::Policy).await? else {
        return Ok(nothing(&call));
    };
    let text = call.text("label").unwrap_or_default();
    let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT).collect();
    let label = (!text.is_empty()).then_some(text);
    let change = |client: &mut Client| {
        client.label.clone_from(&label);
        true
    };
    if call.server.change_client(owner.id, client.sid, change).await?.is_none() {
        return Ok(nothing(&call));
    }
    let message = match &label {
        Some(label) => format!("called `{}` `{label}`", client.id),
        None => format!("took away the name of `{}`", client.id),
    };
    Ok(Done::said(message).with("id", client.id.to_string()))
}

/// What `client set` is to set.
struct Wish {
    class: Option<Class>,
    /// Outer none: not said; inner none: from anywhere.
    bound_to: Option<Option<IpNet>>,
    /// By name; an empty value takes it away.
    attributes: Vec<(String, String)>,
}

impl Wish {
    fn of(call: &Call) -> Result<Self, CommandError> {
        let bound_to = match call.text("bind-to") {
            None => None,
            Some("off") => Some(None),
            Some(text) => {
                let network = network(text)
                    .map_err(|why| CommandError::usage(format!("`bind-to`: {why}")))?;
                Some(Some(network.trunc()))
            }
        };
        let attributes = call.many("attribute").map(|text| {
            let (name, value) = text.split_once('=').unwrap_or_default();
            let fits =
                |text: &str| text.chars().count() <= TEXT && !text.chars().any(char::is_control);
            if name.is_empty() || !fits(name) || !fits(value) {
                let message = format!("`{text}` is not a note as in `NAME=VALUE`");
                let hint = format!("a name and a value have at most {TEXT} characters each");
                return Err(CommandError::usage(message).hint(hint));
            }
            Ok((name.to_owned(), value.to_owned()))
        });
        let attributes = attributes.collect::<Result<Vec<_>, _>>()?;
        let class = call.text("class").and_then(Class::parse);
        if class.is_none() && bound_to.is_none() && attributes.is_empty() {
            return Err(CommandError::usage("it is not said what to set")
                .hint("`--class`, `--bind-to` or `--attribute`"));
        }
        Ok(Self { class, bound_to, attributes })
    }

    /// Whether it bounds a client more widely than it is.
    fn widens(&self, client: &Client, expires: impl Fn(Class) -> Option<Millis>) -> bool {
        let longer = self.class.is_some_and(|class| match (client.expires, expires(class)) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(before), Some(after)) => after > before,
        });
        let wider = match (client.bound_to, self.bound_to) {
            (None, _) | (_, None) => false,
            (Some(before), Some(after)) => after.is_none_or(|after| !before.contains(&after)),
        };
        longer || wider
    }

    /// Changes a client; not at all, and false, if it would have too many notes.
    fn apply(&self, client: &mut Client, expires: impl Fn(Class) -> Option<Millis>) -> bool {
        let mut attributes = client.attributes.clone();
        for (name, value) in &self.attributes {
            match value.is_empty() {
                true => attributes.remove(name),
                false => attributes.insert(name.clone(), value.clone()),
            };
        }
        if attributes.len() > ATTRIBUTES {
            return false;
        }
        client.attributes = attributes;
        if let Some(class) = self.class {
            client.class = class;
            client.expires = expires(class);
        }
        if let Some(bound_to) = self.bound_to {
            client.bound_to = bound_to;
        }
        true
    }
}

async fn set(call: Call) -> Result<Done, CommandError> {
    let wish = Wish::of(&call)?;
    let Some((client, owner)) = target(&call, Right::Policy).await? else {
        return Ok(nothing(&call));
    };
    let (server, now) = (&call.server, call.server.clock.now());
    let expires =
        |class: Class| class.length(&server.config.clients).map(|length| now.plus_seconds(length));
    if wish.class.is_some() || wish.bound_to.is_some() {
        // To leave it no time, or nowhere to come from, is to end it.
        call.may_end_client(owner.id, client.sid).await?;
    }
    let policy = server.policy_of(&owner);
    if let Some(over) = client.over(&owner, &policy, now) {
        let message = format!("`{}` is over: {}", client.id, over.as_str());
        return Err(CommandError::failed(message).hint("it comes back as a new client"));
    }
    let by_token = call.by_token();
    if by_token && call.need(Right::Policy).is_err() && wish.widens(&client, expires) {
        let message = "what a token opened may not bound a client more widely than it is";
        return Err(CommandError::forbidden(message).hint("log in with the password"));
    }
    let mut fits = true;
    let altered = server.alter_client(owner.id, client.sid, |client| {
        fits = wish.apply(client, expires);
        fits
    });
    let Some((client, sessions)) = altered.await? else { return Ok(nothing(&call)) };
    if !fits {
        let message = format!("a client has {ATTRIBUTES} notes at most");
        return Err(CommandError::failed(message).hint("`--attribute NAME=` takes one away"));
    }
    let until = match client.deadline(&policy) {
        Some(at) => format!("it may stay until {at}"),
        None => "it may stay for good".into(),
    };
    Ok(Done::said(format!("set `{}`; {until}", client.id))
        .with("id", client.id.to_string())
        .with("class", client.class.as_str())
        .with("expires", time(client.deadline(&policy)))
        .with("sessions", sessions.len()))
}

/// Refuses who may not vouch for a client of the own account: who does not know better, and is itself
/// nobody that anybody vouches for.
async fn may_confirm(call: &Call, client: &Client) -> Result<(), CommandError> {
    let Some(me) = call.caller.account().filter(|me| me.id() == client.account) else {
        return Ok(());
    };
    let (session, bearer) = (call.session(), me.bearer());
    if me.rights().has(Right::Policy) || session.is_none() && bearer.is_none() {
        return Ok(());
    }
    let visit = session.and_then(|session| Some(session.identity()?.client()?.sid));
    let mine = match visit.or(bearer.map(|bearer| bearer.sid)) {
        Some(sid) => call.server.client(client.account, sid).await?,
        None => None,
    };
    let now = call.server.clock.now();
    let vouches =
        |mine: &Client| mine.sid < client.sid && !mine.waits(&call.server.config.clients, now);
    if mine.as_ref().is_some_and(vouches) {
        return Ok(());
    }
    let message = format!("`{}` has to be confirmed by a client that was there before", client.id);
    Err(CommandError::forbidden(message).hint("do it from an older client that is confirmed"))
}

async fn confirm(call: Call) -> Result<Done, CommandError> {
    let Some((client, owner)) = target(&call, Right::Policy).await? else {
        return Ok(nothing(&call));
    };
    may_confirm(&call, &client).await?;
    let mut waited = false;
    let altered = call.server.alter_client(owner.id, client.sid, |client| {
        waited = std::mem::take(&mut client.unconfirmed);
        waited
    });
    if altered.await?.is_none() {
        return Ok(nothing(&call));
    }
    let message = match waited {
        true => format!("confirmed `{}` of `{}`", client.id, client.jid),
        false => format!("`{}` of `{}` is confirmed already", client.id, client.jid),
    };
    Ok(Done::said(message).with("id", client.id.to_string()))
}

/// Shows what became of the sessions of a client that was ended, and which ways back it has. Gives how
/// many of them are gone.
async fn show_ended(
    call: &Call,
    owner: &Account,
    client: &Client,
    sessions: &Few,
    actor: &Actor,
) -> Result<usize, CommandError> {
    call.server.all_settled(sessions).await;
    let server = &call.server;
    let (policy, epochs): (Effective, _) =
        (server.policy_of(owner), server.epochs_of(owner).await?);
    let check = Check { policy: &policy, epochs: &epochs, now: server.clock.now() };
    let ways_back = client.ways_back(owner, &check);
    let one = |id: Option<String>, jid: &str, outcome: Value| {
        row! {
            "client": client.id.to_string(),
            "id": id,
            "jid": jid,
            "outcome": outcome,
            "ways_back": ways_back,
        }
    };
    let mut ended = 0;
    for session in sessions {
        let ours = session.end_record().is_some_and(|record| record.by == *actor);
        let outcome = Outcome::of(session.settled(), ours);
        ended += usize::from(outcome == Outcome::Ended);
        let jid = session.jid();
        let jid = jid.as_ref().map_or(client.jid.as_str(), Jid::as_str);
        // Whether or not somebody still listens, the rest is seen through.
        let _ = call.row(one(Some(session.id.to_string()), jid, json!(outcome))).await;
    }
    if sessions.is_empty() {
        let _ = call.row(one(None, &client.jid, "no-session".into())).await;
    }
    Ok(ended)
}

async fn revoke(call: Call) -> Result<Done, CommandError> {
    // All of them are looked at before the first is touched.
    let restraint = call.restraint().await?;
    let mut targets: Vec<(Client, Account)> = Vec::new();
    for text in call.many("client") {
        let id = text
            .parse::<ClientId>()
            .map_err(|why| CommandError::usage(format!("`{text}`: {why}")))?;
        if targets.iter().any(|(client, _)| client.id == id) {
            continue;
        }
        let Some((client, owner)) = owned(&call, Handle::Client(id)).await? else {
            return Ok(Done::nothing(format!("there is no client `{id}`; nothing was done")));
        };
        call.may_act(client.account, &client.jid, owner.role, Right::Revoke)?;
        if let Some(restraint) = restraint.as_ref().filter(|r| r.spares(owner.id, client.sid)) {
            return Err(restraint.refusal());
        }
        targets.push((client, owner));
    }
    if targets.is_empty() {
        return Err(CommandError::usage("it is not said which clients")
            .hint("`usher client list JID` shows them"));
    }
    call.reasoned(targets.iter().map(|(client, _)| Some(client.account)))?;
    if call.flag("unless-password") {
        let knows = |(client, owner): &&(Client, Account)| client.knows_password(owner);
        let known: Vec<_> = targets.iter().filter(knows).map(|(c, _)| c.id.to_string()).collect();
        if let Some(first) = known.first() {
            let message = format!("`{first}` knows the password; nothing was done");
            return Ok(Done::nothing(message).with("password", known));
        }
    }
    let text = call.text("reason").map(str::to_owned);
    // Nothing of any of them is good any more before the first of their connections is waited for.
    let mut buried = Vec::new();
    for (client, owner) in &targets {
        let actor = call.actor(Some(client.account));
        let ended = call.server.end_client(client, Over::by(&actor), &actor, text.clone()).await;
        let (client, sessions) = ended.map_err(|error| {
            let message = format!("{error}, after {} clients were revoked", buried.len());
            CommandError { internal: true, ..CommandError::failed(message) }
                .hint("see the server's log; try again")
        })?;
        buried.push((client, owner, sessions, actor));
    }
    let mut ended = 0;
    for (client, owner, sessions, actor) in &buried {
        ended += show_ended(&call, owner, client, sessions, actor).await?;
    }
    let what = match buried.as_slice() {
        [(client, ..)] => format!("revoked `{}` of `{}`", client.id, client.jid),
        many => format!("revoked {} clients", many.len()),
    };
    Ok(Done::said(format!("{what}, {}", sessions_ended(ended)))
        .with("revoked", buried.len())
        .with("ended", ended))
}

/// Refuses an owner who would lift, or shorten, what somebody else has set.
fn may_lift(call: &Call, client: &Client) -> Result<(), CommandError> {
    let block = client.block.as_ref().filter(|block| block.holds(call.server.clock.now()));
    match (call.confined(), block) {
        (Some(me), Some(block)) if block.by != me.jid().as_str() => {
            Err(lacks(&call.server, me, Right::Block))
        }
        _ => Ok(()),
    }
}

async fn block(call: Call) -> Result<Done, CommandError> {
    let Some((client, owner)) = target(&call, Right::Block).await? else {
        return Ok(nothing(&call));
    };
    call.may_end_client(owner.id, client.sid).await?;
    may_lift(&call, &client)?;
    call.reasoned([Some(client.account)])?;
    if let Key::Resource(resource) = &client.key
        && let Some(newer) = call.server.client_of_resource(owner.id, resource).await?
        && newer.id != client.id
    {
        let message = format!("`{}` has come back as `{}`", client.id, newer.id);
        return Err(CommandError::failed(message).hint("block that one"));
    }
    let span = call.value::<Span>("for").and_then(Span::get);
    let until = span.map(|span| call.server.clock.now().plus_seconds(span));
    let (actor, text) = (call.actor(Some(owner.id)), call.text("reason").map(str::to_owned));
    let blocked = call.server.block_client(&client, until, &actor, text).await?;
    let Some((client, sessions)) = blocked else { return Ok(nothing(&call)) };
    let ended = show_ended(&call, &owner, &client, &sessions, &actor).await?;
    let how_long = until.map_or("for ever".into(), |until| format!("until {until}"));
    let message = format!("blocked `{}` of `{}` {how_long}", client.id, client.jid);
    Ok(Done::said(format!("{message}, {}", sessions_ended(ended)))
        .with("id", client.id.to_string())
        .with("until", time(until))
        .with("ended", ended))
}

async fn unblock(call: Call) -> Result<Done, CommandError> {
    let Some((client, owner)) = target(&call, Right::Block).await? else {
        return Ok(nothing(&call));
    };
    may_lift(&call, &client)?;
    let mut was = false;
    let change = |client: &mut Client| {
        was = client.block.take().is_some() | client.hold.take().is_some();
        was
    };
    if call.server.change_client(owner.id, client.sid, change).await?.is_none() {
        return Ok(nothing(&call));
    }
    Ok(match was {
        true => Done::said(format!("unblocked `{}` of `{}`", client.id, client.jid)),
        false => Done::nothing(format!("`{}` of `{}` is not blocked", client.id, client.jid)),
    }
    .with("id", client.id.to_string()))
}
