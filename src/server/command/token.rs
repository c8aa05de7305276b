//! `usher token …`: credentials that open sessions without a password.

use serde_json::{Map, Value};
use wire::TokenId;

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind, row, user::unknown,
};
use crate::{
    account::{Account, Role},
    config::Span,
    rights::Right,
    vault::{LOGIN, Mint, Over, TokenRecord},
};

const JID: Arg =
    Arg { name: "jid", about: "The account's address", form: Form::Required, kind: ValueKind::Jid };

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "token mint",
        about: "Make a token that logs in to an account, and show it this once",
        details: "The token is a password of its own: a client sends it by OAUTHBEARER, or by PLAIN \
                  in the password's place.",
        args: &[
            JID,
            Arg {
                name: "resource",
                about: "The one resource that its session gets",
                form: Form::Option,
                kind: ValueKind::Text,
            },
            Arg {
                name: "ttl",
                about: "How long it is valid, as in `30d`; `tokens.ttl` if not said",
                form: Form::Option,
                kind: ValueKind::Span,
            },
            Arg {
                name: "inactive",
                about: "It dies when it is not used for this long, as in `7d`",
                form: Form::Option,
                kind: ValueKind::Span,
            },
            Arg {
                name: "role",
                about: "What its sessions may do at most; the account's role if not said",
                form: Form::Option,
                kind: ValueKind::Choice(Role::NAMES),
            },
            Arg {
                name: "purpose",
                about: "What it is for; only `login`, which is meant if not said, opens a session",
                form: Form::Option,
                kind: ValueKind::Text,
            },
            Arg {
                name: "label",
                about: "A name for people, as in `kitchen tablet`",
                form: Form::Option,
                kind: ValueKind::Text,
            },
        ],
        mutates: true,
        right: Right::Token,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&["token", "id", "expires"]),
        run: |call| Box::pin(mint(call)),
    },
    Command {
        name: "token list",
        about: "List the tokens of an account, dead ones included",
        details: "",
        args: &[JID],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(&[
            "id",
            "label",
            "state",
            "created",
            "expires",
            "last_used",
            "sessions",
        ]),
        run: |call| Box::pin(list(call)),
    },
    Command {
        name: "token revoke",
        about: "Make a token dead for good, and end the sessions that it opened",
        details: "",
        args: &[
            Arg {
                name: "token",
                about: "The token's id",
                form: Form::Required,
                kind: ValueKind::Token,
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

async fn account(call: &Call) -> Result<Account, CommandError> {
    let jid = call.jid("jid")?;
    if !jid.is_bare() {
        return Err(CommandError::usage(format!("`{jid}` has a resource"))
            .hint("name the account, and the resource with `--resource`"));
    }
    call.account(&jid).await?.ok_or_else(|| unknown(&jid))
}

async fn mint(call: Call) -> Result<Done, CommandError> {
    let account = account(&call).await?;
    call.may_act(account.id, &account.jid, account.role, Right::Token)?;
    let bounds = &call.server.config.tokens;
    let ttl = call.value::<Span>("ttl").unwrap_or(bounds.ttl);
    if let Some(max) = bounds.max_ttl.get()
        && ttl.get().is_none_or(|ttl| ttl > max)
    {
        let message = format!("a token may live {} at most", bounds.max_ttl);
        return Err(CommandError::failed(message).hint("`tokens.max_ttl` in the configuration"));
    }
    let inactive = call.value::<Span>("inactive").unwrap_or(bounds.inactive);
    // What may do less than its account makes nothing that may do more than it.
    let most = call.caller.account().map_or(Role::Admin, |me| me.role());
    let asked = call.text("role").and_then(Role::parse);
    let role = asked.unwrap_or_else(|| account.role.min(most));
    if role > most {
        call.may_give(role)?;
    }
    if role > account.role {
        let message = format!(
            "`{}` is only {}, so its token cannot be {}",
            account.jid,
            account.role.as_str(),
            role.as_str()
        );
        return Err(
            CommandError::failed(message).hint("`usher user role` changes the account's role")
        );
    }
    let resource = match call.text("resource") {
        None => None,
        Some(resource) => {
            let owner = call.jid("jid")?;
            let full = owner.with_resource(resource).map_err(|why| {
                CommandError::usage(format!("`{resource}` cannot be a resource: {why}"))
            })?;
            full.resource().map(str::to_owned)
        }
    };
    let mint = Mint {
        ttl: ttl.get(),
        inactive: inactive.get(),
        role,
        purpose: call.text("purpose").unwrap_or(LOGIN).into(),
        label: call.text("label").map(|label| label.chars().take(100).collect()),
        resource,
        by: call.caller.name().to_string(),
    };
    let (record, token) = call.server.mint(&account, mint).await?;
    let expires = record.expires.map(|expires| expires.to_string());
    let text = token.to_text();
    let row = row! { "token": text.as_str(), "id": record.id.to_string(), "expires": expires };
    if call.row(row).await.is_err() {
        // It is valid all the same, so the audit names it.
        let message = format!(
            "minted {} for `{}`, but the caller had gone before it was shown",
            record.id, record.jid
        );
        return Err(CommandError::failed(message).hint("revoke it"));
    }
    Ok(Done::said(format!("minted {} for `{}`; it is not shown again", record.id, record.jid))
        .with("id", record.id.to_string()))
}

fn token_row(call: &Call, account: &Account, record: &TokenRecord) -> Map<String, Value> {
    let time = |at: Option<crate::clock::Millis>| at.map(|at| at.to_string());
    row! {
        "id": record.id.to_string(),
        "jid": record.jid,
        "label": record.label,
        "state": record.over(account, call.server.clock.now()).map_or("valid", Over::as_str),
        "role": record.role,
        "purpose": record.purpose,
        "resource": record.resource,
        "created": record.created.to_string(),
        "created_by": record.created_by,
        "expires": time(record.expires),
        "inactive_seconds": record.inactive,
        "last_used": time(record.last_used),
        "revoked": time(record.revoked.as_ref().map(|revoked| revoked.at)),
        "revoked_by": record.revoked.as_ref().map(|revoked| &revoked.by),
        "reason": record.revoked.as_ref().and_then(|revoked| revoked.reason.as_ref()),
        "sessions": call.server.registry.with_token(record.id).len(),
    }
}

async fn list(call: Call) -> Result<Done, CommandError> {
    let account = account(&call).await?;
    let records = call.server.tokens_of(&account).await?;
    for record in &records {
        call.row(token_row(&call, &account, record)).await?;
    }
    Ok(if records.is_empty() {
        Done::nothing(format!("`{}` has no tokens", account.jid))
    } else {
        Done::said("")
    })
}

async fn revoke(call: Call) -> Result<Done, CommandError> {
    let missing = || CommandError::usage("`token` is missing");
    let id = call.value::<TokenId>("token").ok_or_else(missing)?;
    let nothing = || Ok(Done::nothing(format!("there is no token {id}")));
    let Some(record) = call.server.token(id).await? else { return nothing() };
    if !call.may_see(Some(record.account)) {
        return nothing();
    }
    let owner = call.server.account(&record.jid).await?.filter(|owner| owner.id == record.account);
    let role = owner.map_or(record.role, |owner| owner.role);
    call.note(record.account, &record.jid);
    call.may_act(record.account, &record.jid, role, Right::Revoke)?;
    let reason = call.text("reason").map(str::to_owned);
    call.reasoned([Some(record.account)])?;
    let actor = call.actor(Some(record.account));
    let revoked = call.server.revoke_token(id, &actor, &call.caller.name(), reason).await?;
    let Some((record, sessions)) = revoked else { return nothing() };
    let ended = sessions.len() - call.server.all_settled(&sessions).await.len();
    let message = match sessions.len() {
        0 => format!("revoked {id} of `{}`, no session to end", record.jid),
        1 => format!("revoked {id} of `{}`, 1 session ended", record.jid),
        many => format!("revoked {id} of `{}`, {many} sessions ended", record.jid),
    };
    Ok(Done::said(message).with("id", id.to_string()).with("ended", ended))
}
