//! `usher whoami`: what the server takes the caller for, and how long that lasts. Never a secret.

use serde_json::{Map, Value};
use wire::Jid;

use super::caller::Bearer;
use super::{Acting, Call, Command, CommandError, Done, Scope, Shape, client::time, row};
use crate::{Server, Session, client::Client, clock::Millis, rights::Right};

/// The commands.
pub const COMMANDS: &[Command] = &[Command {
    name: "whoami",
    about: "Show what the server takes you for, and how long your session lasts",
    details: "What is left of a session is in seconds, and counts down: until it is ended for sending \
              nothing (`idle_left`), for its age (`lifetime_left`), and because what it logged in with \
              is no longer good (`credential_left`).",
    args: &[],
    mutates: false,
    right: Right::List,
    scope: Scope::Own,
    fresh: false,
    shape: Shape::Record,
    run: |call| Box::pin(whoami(call)),
}];

async fn whoami(call: Call) -> Result<Done, CommandError> {
    let Some(me) = call.caller.account() else {
        call.row(row! { "via": "admin socket", "name": call.caller.name().as_ref() }).await?;
        return Ok(Done::said("this is the admin socket: it may do everything"));
    };
    // What is one's own is nobody else's business.
    call.note(me.id(), me.jid().as_str());
    let mut row = account_row(&call, me);
    if let Some(session) = call.session() {
        let client = session.identity().and_then(|identity| identity.client());
        let client = match client {
            Some(client) => call.server.client(me.id(), client.sid).await?,
            None => None,
        };
        row.extend(session_row(&call.server, &session, client.as_ref()));
    }
    if let Some(bearer) = me.bearer() {
        row.extend(bearer_row(&call, me, bearer).await?);
    }
    call.row(row).await?;
    Ok(Done::said(""))
}

fn account_row(call: &Call, me: &Acting) -> Map<String, Value> {
    let via = match (me.session(), me.bearer()) {
        (Some(_), _) => "session",
        (None, Some(_)) => "token",
        (None, None) if me.is_acted() => "admin socket",
        (None, None) => "password",
    };
    let rights: Vec<&str> = me.rights().iter().map(Right::as_str).collect();
    row! {
        "via": via,
        "name": call.caller.name().as_ref(),
        "jid": me.jid().as_str(),
        "role": me.role(),
        "rights": rights,
    }
}

/// What is known of a token that is borne, in the words for a session.
async fn bearer_row(
    call: &Call,
    me: &Acting,
    bearer: Bearer,
) -> Result<Map<String, Value>, CommandError> {
    let server = &call.server;
    let client = server.client(me.id(), bearer.sid).await?;
    let account = server.account(me.jid().as_str()).await?.filter(|account| account.id == me.id());
    let Some((client, account)) = client.zip(account) else { return Ok(Map::new()) };
    let (policy, now) = (server.policy_of(&account), server.clock.now());
    let expires = client.expiry(bearer.token, &policy);
    Ok(row! {
        "client": client.id.to_string(),
        "sid": client.sid,
        "grant": client.token(bearer.token).map(|(grant, _)| grant.id.to_string()),
        "token": bearer.token.to_string(),
        "scopes": bearer.scopes,
        "label": client.label,
        "class": client.class,
        "bound_to": client.bound_to.map(|network| network.to_string()),
        "client_expires": time(client.deadline(&policy)),
        "credential_left": expires.map(|at| at.seconds_since(now)),
    })
}

fn session_row(server: &Server, session: &Session, client: Option<&Client>) -> Map<String, Value> {
    let now = server.clock.now();
    let identity = session.identity();
    let identity = identity.as_deref();
    let policy = identity.map(|identity| identity.policy());
    let left = |at: Option<Millis>| at.map(|at| at.seconds_since(now));
    let after = |since: Millis, span: Option<u64>| span.map(|span| since.plus_seconds(span));
    let since = identity.map_or(session.created, |identity| identity.since);
    let idle = after(session.last_activity(), policy.as_ref().and_then(|p| p.inactivity));
    let lifetime = after(since, policy.as_ref().and_then(|policy| policy.lifetime));
    let limit = after(since, server.config.limits.bound.time.get());
    let lifetime = [lifetime, limit].into_iter().flatten().min();
    let handle = identity.and_then(|identity| identity.client());
    row! {
        "session": session.id.to_string(),
        "jid": session.jid().as_ref().map(Jid::as_str),
        "stage": session.stage().as_str(),
        "since": since.to_string(),
        "address": session.address().to_string(),
        "tls": session.tls().map(|tls| tls.version),
        "mechanism": identity.map(|identity| identity.mechanism.as_str()),
        "client": handle.map(|client| client.id.to_string()),
        "sid": handle.map(|client| client.sid),
        "grant": identity.and_then(|identity| identity.grant).map(|grant| grant.to_string()),
        "token": identity.and_then(|identity| identity.token).map(|token| token.to_string()),
        "label": client.map(|client| &client.label),
        "class": client.map(|client| client.class),
        "unconfirmed": client.map(|client| client.waits(&server.config.clients, now)),
        "bound_to": client.and_then(|client| client.bound_to).map(|network| network.to_string()),
        "client_expires": time(client.zip(policy.as_ref()).and_then(|(c, p)| c.deadline(p))),
        "idle_left": left(idle),
        "lifetime_left": left(lifetime),
        "credential_left": left(identity.and_then(|identity| identity.expires())),
    }
}
