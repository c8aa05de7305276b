//! `usher policy …`, `usher user group`, `usher epoch raise`: what sessions and clients are bound by,
//! and the end of all that is from before.

use serde::de::{DeserializeOwned, value::StrDeserializer};
use wire::Jid;

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind,
    client::{account_named, owned},
    row,
    user::{self, sessions_ended, unknown},
};
use crate::{
    Session,
    client::book::Handle,
    epoch::{Epoch, Scope as Whose},
    id::GrantId,
    policy::{AtLimit, NewClients, Policy},
    rights::Right,
};

const JID: Arg =
    Arg { name: "jid", about: "The account's address", form: Form::Required, kind: ValueKind::Jid };

/// What a policy may say, as in the configuration.
const KEYS: &[&str] = &[
    "inactivity",
    "lifetime",
    "client_inactivity",
    "client_lifetime",
    "max_sessions",
    "at_limit",
    "new_clients",
];

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "policy show",
        about: "Show what an account's sessions and clients are bound by, and where that is said",
        details: "The nearest one that says something wins: the account, then the first of its groups \
                  that says it, then its host, then `[sessions]` and `[clients]`.",
        args: &[JID],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(&["key", "value", "from"]),
        run: |call| Box::pin(show(call)),
    },
    Command {
        name: "policy set",
        about: "Bound an account's sessions and clients otherwise than its groups and host do",
        details: "Its sessions go by it at once.",
        args: &[
            JID,
            Arg {
                name: "inactivity",
                about: "A session that sends no stanza for this long is ended; `off`: never",
                form: Form::Option,
                kind: ValueKind::Span,
            },
            Arg {
                name: "lifetime",
                about: "A session this old is ended; `off`: never",
                form: Form::Option,
                kind: ValueKind::Span,
            },
            Arg {
                name: "client-inactivity",
                about: "A client that is not seen for this long is over; `off`: never",
                form: Form::Option,
                kind: ValueKind::Span,
            },
            Arg {
                name: "client-lifetime",
                about: "A client this old is over; `off`: never",
                form: Form::Option,
                kind: ValueKind::Span,
            },
            Arg {
                name: "max-sessions",
                about: "Bound sessions at once; 0: no bound but `limits.per_account`",
                form: Form::Option,
                kind: ValueKind::Number,
            },
            Arg {
                name: "at-limit",
                about: "What happens when there are as many and another one comes",
                form: Form::Option,
                kind: ValueKind::Choice(AtLimit::NAMES),
            },
            Arg {
                name: "new-clients",
                about: "Whether a new client has to be confirmed by another one",
                form: Form::Option,
                kind: ValueKind::Choice(NewClients::NAMES),
            },
        ],
        mutates: true,
        right: Right::Policy,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(set(call)),
    },
    Command {
        name: "policy unset",
        about: "Bound an account's sessions and clients again as its groups and host do",
        details: "",
        args: &[
            JID,
            Arg {
                name: "key",
                about: "What is to be as it is there",
                form: Form::Many,
                kind: ValueKind::Choice(KEYS),
            },
        ],
        mutates: true,
        right: Right::Policy,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(unset(call)),
    },
    Command {
        name: "user group",
        about: "Put an account into groups, whose policies count for it",
        details: "The most important one first; without any, it is in none. Groups are set under \
                  `[[group]]` in the configuration.",
        args: &[
            JID,
            Arg {
                name: "group",
                about: "The names of all its groups",
                form: Form::Many,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        right: Right::Policy,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(group(call)),
    },
    Command {
        name: "epoch raise",
        about: "End everything from before at once: sessions and tokens, but no account and client",
        details: "Of everybody, of a host, of an account or of a grant. It takes no longer however \
                  much there is. For everybody and a host it takes the right `server`.",
        args: &[
            Arg { name: "server", about: "Of everybody", form: Form::Flag, kind: ValueKind::Text },
            Arg {
                name: "host",
                about: "Of all accounts of this domain",
                form: Form::Option,
                kind: ValueKind::Text,
            },
            Arg {
                name: "account",
                about: "Of this account",
                form: Form::Option,
                kind: ValueKind::Jid,
            },
            Arg {
                name: "grant",
                about: "Of this grant",
                form: Form::Option,
                kind: ValueKind::Grant,
            },
            Arg {
                name: "grace",
                about: "What is good now stays so, until it is raised again without this",
                form: Form::Flag,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        right: Right::Revoke,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(raise(call)),
    },
];

async fn show(call: Call) -> Result<Done, CommandError> {
    let account = account_named(&call).await?;
    for (key, value, from) in call.server.explain_policy(&account) {
        call.row(row! { "key": key, "value": value, "from": from }).await?;
    }
    Ok(Done::said(""))
}

/// A word of a choice as what it means.
fn word<T: DeserializeOwned>(call: &Call, name: &str) -> Option<T> {
    let text = call.text(name)?;
    T::deserialize(StrDeserializer::<serde::de::value::Error>::new(text)).ok()
}

/// Lays what is said over what was said before.
fn lay_over(policy: &mut Policy, said: &Policy) {
    let Policy { inactivity, lifetime, client_inactivity, client_lifetime, .. } = said;
    policy.inactivity = inactivity.or(policy.inactivity);
    policy.lifetime = lifetime.or(policy.lifetime);
    policy.client_inactivity = client_inactivity.or(policy.client_inactivity);
    policy.client_lifetime = client_lifetime.or(policy.client_lifetime);
    policy.max_sessions = said.max_sessions.or(policy.max_sessions);
    policy.at_limit = said.at_limit.or(policy.at_limit);
    policy.new_clients = said.new_clients.or(policy.new_clients);
}

fn take_away(policy: &mut Policy, key: &str) {
    match key {
        "inactivity" => policy.inactivity = None,
        "lifetime" => policy.lifetime = None,
        "client_inactivity" => policy.client_inactivity = None,
        "client_lifetime" => policy.client_lifetime = None,
        "max_sessions" => policy.max_sessions = None,
        "at_limit" => policy.at_limit = None,
        "new_clients" => policy.new_clients = None,
        other => debug_assert!(false, "`{other}` is no key"),
    }
}

async fn set(call: Call) -> Result<Done, CommandError> {
    let most = call.text("max-sessions").map(str::parse::<u32>).transpose();
    let most = most.map_err(|_| CommandError::usage("`max-sessions` is too large"))?;
    let said = Policy {
        inactivity: call.value("inactivity"),
        lifetime: call.value("lifetime"),
        client_inactivity: call.value("client-inactivity"),
        client_lifetime: call.value("client-lifetime"),
        max_sessions: most,
        at_limit: word(&call, "at-limit"),
        new_clients: word(&call, "new-clients"),
    };
    if said.is_empty() {
        return Err(CommandError::usage("it is not said what to set")
            .hint("`usher help policy set` shows what there is"));
    }
    let (jid, _) = user::target(&call, Right::Policy).await?;
    call.server.set_policy(&jid, |policy, _| lay_over(policy, &said)).await?;
    Ok(Done::said(format!("set the policy of `{jid}`")).with("jid", jid.as_str()))
}

async fn unset(call: Call) -> Result<Done, CommandError> {
    let keys: Vec<&str> = call.many("key").collect();
    if keys.is_empty() {
        let hint = format!("one or more of {}", KEYS.join(", "));
        return Err(CommandError::usage("it is not said what to unset").hint(hint));
    }
    let (jid, _) = user::target(&call, Right::Policy).await?;
    let change = |policy: &mut Policy, _: &mut Vec<String>| {
        keys.iter().for_each(|key| take_away(policy, key));
    };
    call.server.set_policy(&jid, change).await?;
    let message = format!("unset {} of `{jid}`", keys.join(", "));
    Ok(Done::said(message).with("jid", jid.as_str()))
}

async fn group(call: Call) -> Result<Done, CommandError> {
    let config = &call.server.config;
    let mut wanted: Vec<String> = Vec::new();
    for name in call.many("group") {
        if !config.group.iter().any(|group| group.name == name) {
            let hint = match config.nearest_group(name) {
                Some(near) => format!("the nearest known group is `{near}`"),
                None => "groups are set under `[[group]]` in the configuration".into(),
            };
            let message = format!("there is no group `{name}`");
            return Err(CommandError::usage(message).hint(hint));
        }
        if !wanted.iter().any(|there| there == name) {
            wanted.push(name.into());
        }
    }
    let (jid, _) = user::target(&call, Right::Policy).await?;
    call.server.set_policy(&jid, |_, groups| groups.clone_from(&wanted)).await?;
    let message = match wanted.as_slice() {
        [] => format!("`{jid}` is in no group"),
        some => format!("`{jid}` is in {}", some.join(", ")),
    };
    Ok(Done::said(message).with("jid", jid.as_str()).with("groups", wanted))
}

async fn raise(call: Call) -> Result<Done, CommandError> {
    let (account, grant) = (call.text("account"), call.value::<GrantId>("grant"));
    match (call.flag("server"), call.text("host"), account, grant) {
        (true, None, None, None) => raise_many(&call, Whose::Server, "everybody").await,
        (false, Some(host), None, None) => {
            call.need(Right::Server)?;
            let known = Jid::parse(host).ok().filter(|host| call.server.hosts.contains(host));
            let Some(host) = known else {
                let message = format!("there is no host `{host}`");
                return Err(CommandError::failed(message)
                    .hint("hosts are set under `[[host]]` in the configuration"));
            };
            raise_many(&call, Whose::Host(host.as_str()), host.as_str()).await
        }
        (false, None, Some(_), None) => raise_account(&call).await,
        (false, None, None, Some(grant)) => raise_grant(&call, grant).await,
        _ => Err(CommandError::usage("it is not said whose epoch, or more than once")
            .hint("one of `--server`, `--host`, `--account` and `--grant`")),
    }
}

async fn raise_many(call: &Call, whose: Whose<'_>, name: &str) -> Result<Done, CommandError> {
    call.need(Right::Server)?;
    // Whoever has the right acts as an administrator, on the own sessions too.
    let actor = call.actor(None);
    let (epoch, sessions) = call.server.raise_epoch(whose, call.flag("grace"), &actor).await?;
    Ok(raised(call, name, &epoch, &sessions).await)
}

async fn raise_account(call: &Call) -> Result<Done, CommandError> {
    let jid = call.jid("account")?;
    let account = call.account(&jid).await?.filter(|_| jid.is_bare());
    let account = account.ok_or_else(|| unknown(&jid))?;
    call.may_act(account.id, &account.jid, account.role, Right::Revoke)?;
    let grace = call.flag("grace");
    if let Some(restraint) = call.restraint().await?.filter(|_| !grace) {
        let clients = call.server.clients_of(account.id, None, 0).await?;
        if clients.iter().any(|c| c.over.is_none() && restraint.spares(account.id, c.sid)) {
            return Err(restraint.refusal());
        }
    }
    let actor = call.actor(Some(account.id));
    let (epoch, sessions) = call.server.raise_account_epoch(&jid, grace, &actor).await?;
    Ok(raised(call, jid.as_str(), &epoch, &sessions).await)
}

async fn raise_grant(call: &Call, id: GrantId) -> Result<Done, CommandError> {
    let nothing = || Done::nothing(format!("there is no grant `{id}`"));
    let Some((client, owner)) = owned(call, Handle::Grant(id)).await? else {
        return Ok(nothing());
    };
    call.may_act(owner.id, &owner.jid, owner.role, Right::Revoke)?;
    let grace = call.flag("grace");
    if !grace {
        call.may_end_client(owner.id, client.sid).await?;
    }
    let actor = call.actor(Some(owner.id));
    let raised_to = call.server.raise_grant_epoch(id, grace, &actor).await?;
    let Some((epoch, sessions)) = raised_to else { return Ok(nothing()) };
    Ok(raised(call, &id.to_string(), &epoch, &sessions).await)
}

/// Waits for the sessions that had to go, and says how many have gone.
async fn raised(
    call: &Call,
    whose: &str,
    epoch: &Epoch,
    sessions: &[std::sync::Arc<Session>],
) -> Done {
    for session in sessions {
        call.note_session(session);
    }
    let ended = sessions.len() - call.server.all_settled(sessions).await.len();
    let message = format!("raised the epoch of `{whose}`, {}", sessions_ended(ended));
    Done::said(message).with("epoch", epoch.current).with("ended", ended)
}
