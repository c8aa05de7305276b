//! `usher grant …`: what lets clients back in without the password. Nothing here shows a secret: the
//! server has none.

use serde_json::{Map, Value};

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind,
    client::{account_named, owned, time},
    row,
    user::sessions_ended,
};
use crate::{
    account::Account,
    client::{Check, Client, Over, book::Handle},
    id::GrantId,
    rights::Right,
    vault::Grant,
};

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "grant list",
        about: "List what lets the clients of an account back in without the password",
        details: "A client owns grants, and a grant owns tokens: no token lasts longer than its \
                  grant, or gives more.",
        args: &[Arg {
            name: "jid",
            about: "The account's address",
            form: Form::Required,
            kind: ValueKind::Jid,
        }],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(&["id", "client", "label", "state", "created", "last_used", "tokens"]),
        run: |call| Box::pin(list(call)),
    },
    Command {
        name: "grant revoke",
        about: "Make a grant dead for good with its tokens, and end the sessions that they opened",
        details: "The client stays, and so do its other grants. A client that has only just come may \
                  not do it to older ones; see `clients.fresh`.",
        args: &[
            Arg {
                name: "grant",
                about: "The grant's id",
                form: Form::Required,
                kind: ValueKind::Grant,
            },
            Arg {
                name: "reason",
                about: "Words for the peers",
                form: Form::Option,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        right: Right::Revoke,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(revoke(call)),
    },
];

fn grant_row(
    call: &Call,
    owner: &Account,
    check: &Check<'_>,
    client: &Client,
    grant: &Grant,
) -> Map<String, Value> {
    let over = client.grant_over(grant, owner, check);
    let tombstone = grant.over.as_ref().or(client.over.as_ref());
    let good = |token: &&crate::vault::TokenRecord| {
        client.token_over(grant, token, owner, check).is_none()
    };
    let opened = |session: &std::sync::Arc<crate::Session>| {
        session.identity().is_some_and(|me| me.grant == Some(grant.id))
    };
    row! {
        "id": grant.id.to_string(),
        "jid": client.jid,
        "client": client.id.to_string(),
        "sid": client.sid,
        "label": client.label,
        "state": over.map_or("good", Over::as_str),
        "role": grant.role,
        "created": grant.created.to_string(),
        "created_by": grant.created_by,
        "expires": time(grant.expires),
        "last_used": time(grant.used),
        "epoch": grant.epoch.current,
        "tokens": grant.tokens.iter().filter(good).count(),
        "sessions": call.server.registry.of(&client.jid).iter().filter(|s| opened(s)).count(),
        "ended": time(tombstone.map(|over| over.at)),
        "ended_by": tombstone.map(|over| &over.by),
        "reason": tombstone.and_then(|over| over.text.as_ref()),
    }
}

async fn list(call: Call) -> Result<Done, CommandError> {
    let owner = account_named(&call).await?;
    let server = &call.server;
    let (policy, epochs) = (server.policy_of(&owner), server.epochs_of(&owner).await?);
    let check = Check { policy: &policy, epochs: &epochs, now: server.clock.now() };
    let mut shown = 0;
    for client in server.clients_of(owner.id, None, 0).await? {
        for grant in &client.grants {
            shown += 1;
            call.row(grant_row(&call, &owner, &check, &client, grant)).await?;
        }
    }
    Ok(match shown {
        0 => Done::nothing(format!("`{}` has no grants", owner.jid)),
        _ => Done::said(""),
    })
}

async fn revoke(call: Call) -> Result<Done, CommandError> {
    let missing = || CommandError::usage("`grant` is missing");
    let id = call.value::<GrantId>("grant").ok_or_else(missing)?;
    let nothing = || Done::nothing(format!("there is no grant `{id}`"));
    let Some((client, owner)) = owned(&call, Handle::Grant(id)).await? else {
        return Ok(nothing());
    };
    call.may_act(owner.id, &owner.jid, owner.role, Right::Revoke)?;
    call.may_end_client(owner.id, client.sid).await?;
    call.reasoned([Some(owner.id)])?;
    let (actor, text) = (call.actor(Some(owner.id)), call.text("reason").map(str::to_owned));
    let ended = call.server.end_grant(id, Over::Revoked, &actor, text).await?;
    let Some((_, sessions)) = ended else { return Ok(nothing()) };
    let ended = sessions.len() - call.server.all_settled(&sessions).await.len();
    let message = format!("revoked `{id}` of `{}`, {}", owner.jid, sessions_ended(ended));
    Ok(Done::said(message).with("id", id.to_string()).with("ended", ended))
}
