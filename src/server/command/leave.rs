//! `usher user delete`, `restore` and `rename`: what becomes of an account that goes, or goes by another
//! name.

use serde_json::json;
use wire::Jid;

use super::{
    Arg, Call, Caller, Command, CommandError, Done, Form, Scope, Shape, ValueKind, row,
    user::{self, JID, sessions_ended, target},
};
use crate::{
    account::Account,
    client::Client,
    config::{Span, Who},
    rights::Right,
};

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "user delete",
        about: "Delete an account with all that it has; ends its sessions",
        details: "A later account of the same name inherits nothing. With `--grace` it is disabled at \
                  once, and deleted when that has passed: `usher schedule list` shows when, and \
                  `usher user restore` takes it back. Who does so with the own account hears the answer \
                  before the session ends that it asks from; also without `--grace`, the account is \
                  only disabled until then. A client that has only just come may not do it while the \
                  account has older ones; see `clients.fresh`.",
        args: &[
            JID,
            Arg {
                name: "grace",
                about: "Not now, but when this long has passed; until then it is only disabled",
                form: Form::Option,
                kind: ValueKind::Span,
            },
            Arg {
                name: "due",
                about: "Only if its grace has passed; what was planned says so",
                form: Form::Flag,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        right: Right::User,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(delete(call)),
    },
    Command {
        name: "user restore",
        about: "Take back that an account is to be deleted",
        details: "It may log in again, unless it was disabled before. Its tokens are as they were.",
        args: &[JID],
        mutates: true,
        right: Right::User,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(restore(call)),
    },
    Command {
        name: "user rename",
        about: "Give an account another name; ends the sessions of the old one",
        details: "It keeps all it has: roster, messages, clients, password, role and policy. Its tokens \
                  name their owner: none from before opens anything, and unless `on.rename` is `nobody` \
                  its grants are void too. Contacts are not told. The old name is kept back from \
                  others.",
        args: &[
            JID,
            Arg {
                name: "new",
                about: "The new address, as in `alice@example.org`",
                form: Form::Required,
                kind: ValueKind::Jid,
            },
        ],
        mutates: true,
        right: Right::User,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(rename(call)),
    },
];

async fn delete(call: Call) -> Result<Done, CommandError> {
    let (jid, account) = target(&call, Right::User).await?;
    let now = call.server.clock.now();
    if call.flag("due") && !account.deletion.is_some_and(|deletion| deletion.is_due(now)) {
        return Ok(Done::nothing(format!("`{jid}` is not to be deleted now")).with("ended", 0));
    }
    may_go(&call, &account).await?;
    // Nothing may be written behind the deletion's back: a session that still has to hear the answer
    // goes first.
    let hears =
        call.session().is_some_and(|s| s.identity().is_some_and(|me| me.account == account.id));
    if call.text("grace").is_some() || hears {
        return later(call, &jid).await;
    }
    let actor = call.actor(Some(account.id));
    let ended = call.server.delete_account(&jid, actor).await?;
    if let Some(deletion) = account.deletion {
        call.server.unplan(deletion.plan).await?;
    }
    let message = format!("deleted `{jid}`, {}", sessions_ended(ended));
    Ok(Done::said(message).with("jid", jid.as_str()).with("ended", ended))
}

/// Refuses an account that would delete itself from where it may do less than it may, or from a client
/// that may not so much as end the others.
async fn may_go(call: &Call, account: &Account) -> Result<(), CommandError> {
    let Some(me) = call.caller.account().filter(|me| me.id() == account.id) else { return Ok(()) };
    if me.narrowed() {
        return Err(user::narrowed(me.jid()));
    }
    let Some(restraint) = call.restraint().await? else { return Ok(()) };
    let clients = call.server.clients_of(account.id, None, 0).await?;
    let spared =
        |client: &Client| client.over.is_none() && restraint.spares(account.id, client.sid);
    match clients.iter().any(spared) {
        true => Err(restraint.refusal()),
        false => Ok(()),
    }
}

async fn later(call: Call, jid: &Jid) -> Result<Done, CommandError> {
    let (_, account) = target(&call, Right::User).await?;
    let grace = match call.text("grace") {
        None => Some(0),
        Some(_) => call.value::<Span>("grace").and_then(Span::get),
    };
    let Some(grace) = grace else {
        return Err(CommandError::usage("`--grace off` is no length of time")
            .hint("say how long, as in `--grace 7d`, or leave it out to delete it now"));
    };
    if let Some(before) = account.deletion {
        let message = format!("`{jid}` is to be deleted at {} already", before.at);
        return Err(CommandError::failed(message)
            .hint("`usher user restore` takes that back; without `--grace` it is deleted now"));
    }
    let server = &call.server;
    let own = call.caller.account().is_some_and(|me| me.id() == account.id);
    // Who is disabled by this can do nothing any more when the time has come.
    let planner = if own { Caller::local(call.caller.name()) } else { call.caller.clone() };
    let at = server.clock.now().plus_seconds(grace);
    let args = row! { "jid": jid.as_str(), "due": json!(true) };
    let planned = server.plan(at, "user delete", args, &planner, false).await?;
    let actor = call.actor(Some(account.id));
    let ended = match server.delete_later(jid, (at, planned.id), actor).await {
        Ok(ended) => ended,
        Err(error) => {
            server.unplan(planned.id).await?;
            return Err(error.into());
        }
    };
    let message = format!("disabled `{jid}`, {}; deleted at {at}", sessions_ended(ended));
    Ok(Done::said(message)
        .with("jid", jid.as_str())
        .with("ended", ended)
        .with("at", at.to_string())
        .with("schedule", planned.id))
}

async fn restore(call: Call) -> Result<Done, CommandError> {
    let (jid, _) = target(&call, Right::User).await?;
    Ok(match call.server.restore_account(&jid).await? {
        Some(account) => {
            let still = if account.disabled { ", which is disabled as before" } else { "" };
            Done::said(format!("restored `{jid}`{still}")).with("enabled", !account.disabled)
        }
        None => Done::nothing(format!("`{jid}` is not to be deleted")),
    }
    .with("jid", jid.as_str()))
}

async fn rename(call: Call) -> Result<Done, CommandError> {
    let (jid, account) = target(&call, Right::User).await?;
    let new = call.jid("new")?;
    if let Some(deletion) = account.deletion {
        let message = format!("`{jid}` is to be deleted at {}", deletion.at);
        return Err(CommandError::failed(message).hint("`usher user restore` takes that back"));
    }
    let actor = call.actor(Some(account.id));
    let ended = call.server.rename_account(&jid, &new, actor).await?;
    call.note(account.id, new.as_str());
    let tokens = match call.server.config.on.rename {
        Who::Nobody => "; tokens have to be rotated",
        Who::All | Who::Others => "; its tokens are void",
    };
    let message = format!("renamed `{jid}` to `{new}`, {}{tokens}", sessions_ended(ended));
    Ok(Done::said(message).with("jid", new.as_str()).with("ended", ended))
}
