//! `usher token …`: credentials that open sessions without a password.

use serde_json::{Map, Value};
use wire::{Token, TokenId};

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind, row, user::unknown,
};
use crate::{
    account::{Account, Role},
    client::{self, Check, Class, Over},
    clock::Millis,
    config::Span,
    id::{ClientId, GrantId},
    rights::{Right, Rights},
    vault::{API, Found, LJ, LJ_APP, LJ_SCOPES, LOGIN, Mint, MintError, Parent},
};

const JID: Arg =
    Arg { name: "jid", about: "The account's address", form: Form::Required, kind: ValueKind::Jid };
const TOKEN: Arg =
    Arg { name: "token", about: "The token's id", form: Form::Required, kind: ValueKind::Token };

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
                about: "What it is for: `login`, which is meant if not said, opens a session; `api` is \
                        for requests over HTTP, within its scopes; `lj-app` is a password for one \
                        program that speaks LiveJournal's protocol",
                form: Form::Option,
                kind: ValueKind::Text,
            },
            Arg {
                name: "scope",
                about: "What a token for `api` is good for: commands that take this right, for what is \
                        the owner's own as well; it never gives what the owner may not do",
                form: Form::Options,
                kind: ValueKind::Choice(Right::NAMES),
            },
            Arg {
                name: "label",
                about: "A name for people, as in `kitchen tablet`",
                form: Form::Option,
                kind: ValueKind::Text,
            },
            Arg {
                name: "class",
                about: "How long the client that it is for may stay: `short`, `long` or `once`, as set \
                        under `[clients]`, instead of `--ttl`",
                form: Form::Option,
                kind: ValueKind::Choice(Class::NAMES),
            },
            Arg {
                name: "bind-to",
                about: "The address or network that this client has to come from",
                form: Form::Option,
                kind: ValueKind::Address,
            },
            Arg {
                name: "client",
                about: "A client that is there already, which gets another grant by it",
                form: Form::Option,
                kind: ValueKind::Client,
            },
            Arg {
                name: "grant",
                about: "A grant that is there already, which gets another token by it",
                form: Form::Option,
                kind: ValueKind::Grant,
            },
        ],
        mutates: true,
        right: Right::Token,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&["token", "id", "client", "expires"]),
        run: |call| Box::pin(mint(call)),
    },
    Command {
        name: "token rotate",
        about: "Make a token that takes another one's place, and show it this once",
        details: "The older one is good until the newer one is used. Whoever uses the older one after \
                  that has it from somewhere it should not be: then all that came from its grant ends.",
        args: &[TOKEN],
        mutates: true,
        right: Right::Token,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&["token", "id", "client", "expires"]),
        run: |call| Box::pin(rotate(call)),
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
        name: "token inspect",
        about: "Show what a token is that somebody has found",
        details: "A token that opens nothing, for whichever reason, is not told apart from one that never \
                  was.",
        args: &[Arg {
            name: "token",
            about: "The token itself, not its id",
            form: Form::Required,
            kind: ValueKind::Secret,
        }],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Record,
        run: |call| Box::pin(inspect(call)),
    },
    Command {
        name: "token revoke",
        about: "Make a token dead for good, and end the sessions that it opened",
        details: "",
        args: &[
            TOKEN,
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

impl From<MintError> for CommandError {
    fn from(error: MintError) -> Self {
        match error {
            MintError::Store(error) => error.into(),
            other => Self::failed(other.to_string())
                .hint("`usher client list JID` and `usher token list JID` show what there is"),
        }
    }
}

async fn mint(call: Call) -> Result<Done, CommandError> {
    let account = account(&call).await?;
    call.may_act(account.id, &account.jid, account.role, Right::Token)?;
    let (bounds, clients) = (&call.server.config.tokens, &call.server.config.clients);
    let class = call.text("class").and_then(Class::parse).unwrap_or_default();
    let ttl = match (call.value::<Span>("ttl"), class.length(clients)) {
        (Some(_), Some(_)) => {
            return Err(CommandError::usage("`--ttl` and `--class` say the same thing")
                .hint("leave one of them out"));
        }
        (Some(ttl), None) => ttl.get(),
        (None, Some(_)) => None,
        (None, None) => bounds.ttl.get(),
    };
    if let Some(max) = bounds.max_ttl.get()
        && ttl.or(class.length(clients)).is_none_or(|ttl| ttl > max)
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
    let (purpose, scopes) = purpose(&call)?;
    may_hold(&call, &account, role, scopes)?;
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
    let parent = match (call.value::<ClientId>("client"), call.value::<GrantId>("grant")) {
        (None, None) => Parent::New,
        (Some(client), None) => Parent::Client(client),
        (None, Some(grant)) => Parent::Grant(grant),
        (Some(_), Some(_)) => {
            return Err(CommandError::usage("`--client` and `--grant` exclude each other")
                .hint("a grant has its client already"));
        }
    };
    let bound_to = call.network("bind-to").map(|network| network.trunc());
    if let Some(handle) = parent.handle()
        && let Some(client) = call.server.client_with(handle).await?
        && client.account == account.id
    {
        // What hangs on an older client counts as that.
        call.may_end_client(account.id, client.sid).await?;
    }
    if parent != Parent::New && (class != Class::Policy || bound_to.is_some()) {
        return Err(CommandError::usage("`--class` and `--bind-to` are for a new client")
            .hint("`usher client set` changes one that is there"));
    }
    let mint = Mint {
        ttl,
        inactive: inactive.get(),
        purpose,
        scopes,
        label: call.text("label").map(|label| label.chars().take(client::TEXT).collect()),
        resource,
        class,
        bound_to,
        parent,
        ..Mint::login(role, &*call.caller.name())
    };
    let (found, token) = call.server.mint(&account, mint).await?;
    shown(&call, &account, &found, &token).await
}

/// What a new token is for, and what it is good for.
fn purpose(call: &Call) -> Result<(String, Option<Rights>), CommandError> {
    let purpose = call.text("purpose").unwrap_or(LOGIN);
    let scopes: Rights = call.many("scope").filter_map(Right::parse).collect();
    let wrong = |message: &str, hint: &str| Err(CommandError::usage(message).hint(hint));
    if matches!(purpose, LJ | LJ_APP) && scopes.is_empty() {
        return Ok((purpose.into(), Some(LJ_SCOPES)));
    }
    match (purpose == API, scopes.is_empty()) {
        (true, true) => wrong(
            "a token for `api` needs `--scope`",
            "`--scope list` lets it look at who is there; see `usher token mint --help`",
        ),
        (false, false) => wrong("`--scope` is for `--purpose api`", "leave it out, or say that"),
        (true, false) => Ok((purpose.into(), Some(scopes))),
        (false, true) => Ok((purpose.into(), None)),
    }
}

/// Refuses to hand somebody a token of its own account that opens more than it has itself.
fn may_hold(
    call: &Call,
    account: &Account,
    role: Role,
    scopes: Option<Rights>,
) -> Result<(), CommandError> {
    let Some(me) = call.caller.account().filter(|me| me.id() == account.id) else { return Ok(()) };
    let within = match (me.scopes(), scopes) {
        (None, _) => true,
        (Some(mine), Some(scopes)) => scopes.within(mine),
        (Some(_), None) => false,
    };
    if within && role <= me.role() {
        return Ok(());
    }
    let message = "a token makes none of its own account that opens more than it does";
    Err(CommandError::forbidden(message).hint("log in with the password first"))
}

async fn rotate(call: Call) -> Result<Done, CommandError> {
    let Some((old, owner)) = by_id(&call, Right::Token).await? else { return Ok(nothing(&call)) };
    let gone = || CommandError::failed(format!("there is no account `{}`", old.client.jid));
    let account = owner.ok_or_else(gone)?;
    may_hold(&call, &account, old.token.role.min(old.grant.role), old.token.scopes)?;
    call.may_end_client(account.id, old.client.sid).await?;
    let by = call.caller.name();
    let (found, token) = call.server.rotate_token(&account, old.token.id, &by).await?;
    shown(&call, &account, &found, &token).await
}

/// Shows a token, once and never again.
async fn shown(
    call: &Call,
    account: &Account,
    found: &Found,
    token: &Token,
) -> Result<Done, CommandError> {
    let (id, jid) = (found.token.id, &account.jid);
    let policy = call.server.policy_of(account);
    // What a person types into an old program is no more than the secret.
    let whole = token.to_text();
    let text = match (&*found.token.purpose, token.secret.expose_str()) {
        (LJ_APP, Some(password)) => password,
        _ => whole.as_str(),
    };
    let row = row! {
        "token": text,
        "id": id.to_string(),
        "client": found.client.id.to_string(),
        "sid": found.client.sid,
        "grant": found.grant.id.to_string(),
        "expires": found.client.expiry(id, &policy).map(|expires| expires.to_string()),
    };
    if call.row(row).await.is_err() {
        // It is valid all the same, so the audit names it.
        let message =
            format!("minted {id} for `{jid}`, but the caller had gone before it was shown");
        return Err(CommandError::failed(message).hint("revoke it"));
    }
    Ok(Done::said(format!("minted {id} for `{jid}`; it is not shown again"))
        .with("id", id.to_string())
        .with("client", found.client.id.to_string()))
}

fn token_row(
    call: &Call,
    account: &Account,
    check: &Check<'_>,
    found: &Found,
) -> Map<String, Value> {
    let Found { client, grant, token } = found;
    let time = |at: Option<Millis>| at.map(|at| at.to_string());
    let over = client.token_over(grant, token, account, check);
    let tombstone = client.tombstone(grant, token);
    row! {
        "id": token.id.to_string(),
        "jid": client.jid,
        "client": client.id.to_string(),
        "sid": client.sid,
        "grant": grant.id.to_string(),
        "label": client.label,
        "state": over.map_or("valid", Over::as_str),
        "role": token.role.min(grant.role),
        "purpose": token.purpose,
        "scopes": token.scopes,
        "resource": token.resource,
        "created": token.created.to_string(),
        "created_by": token.created_by,
        "expires": time(client.expiry(token.id, check.policy)),
        "inactive_seconds": token.inactive,
        "last_used": time(token.used),
        "revoked": time(tombstone.map(|over| over.at)),
        "revoked_by": tombstone.map(|over| &over.by),
        "reason": tombstone.and_then(|over| over.text.as_ref()),
        "sessions": call.server.registry.with_token(token.id).len(),
    }
}

async fn list(call: Call) -> Result<Done, CommandError> {
    let account = account(&call).await?;
    let tokens = call.server.tokens_of(&account).await?;
    let (policy, epochs) =
        (call.server.policy_of(&account), call.server.epochs_of(&account).await?);
    let check = Check { policy: &policy, epochs: &epochs, now: call.server.clock.now() };
    for found in &tokens {
        call.row(token_row(&call, &account, &check, found)).await?;
    }
    Ok(if tokens.is_empty() {
        Done::nothing(format!("`{}` has no tokens", account.jid))
    } else {
        Done::said("")
    })
}

async fn inspect(call: Call) -> Result<Done, CommandError> {
    let secret = call.secret("token")?;
    let nothing = || Done::nothing("this is no token of this server that is valid");
    let found = call.server.inspect_token(&secret).await?;
    let found = found.filter(|(found, _)| call.may_see(Some(found.client.account)));
    let Some((found, account)) = found else { return Ok(nothing()) };
    call.note(account.id, &account.jid);
    let (policy, epochs) =
        (call.server.policy_of(&account), call.server.epochs_of(&account).await?);
    let check = Check { policy: &policy, epochs: &epochs, now: call.server.clock.now() };
    call.row(token_row(&call, &account, &check, &found)).await?;
    Ok(Done::said(""))
}

/// The token that is named, and its account if that is still there; none if there is none that the
/// caller may know of. Refuses those who may not do this to it.
async fn by_id(
    call: &Call,
    right: Right,
) -> Result<Option<(Found, Option<Account>)>, CommandError> {
    let missing = || CommandError::usage("`token` is missing");
    let id = call.value::<TokenId>("token").ok_or_else(missing)?;
    let Some(found) = call.server.find_token(id).await? else { return Ok(None) };
    let client = &found.client;
    if !call.may_see(Some(client.account)) {
        return Ok(None);
    }
    let owner = call.server.account(&client.jid).await?.filter(|o| o.id == client.account);
    let role = owner.as_ref().map_or(found.token.role, |owner| owner.role);
    call.note(client.account, &client.jid);
    call.may_act(client.account, &client.jid, role, right)?;
    Ok(Some((found, owner)))
}

fn nothing(call: &Call) -> Done {
    Done::nothing(format!("there is no token {}", call.text("token").unwrap_or_default()))
}

async fn revoke(call: Call) -> Result<Done, CommandError> {
    let Some((found, _)) = by_id(&call, Right::Revoke).await? else { return Ok(nothing(&call)) };
    let (id, account, jid) = (found.token.id, found.client.account, &found.client.jid);
    call.may_end_client(account, found.client.sid).await?;
    call.reasoned([Some(account)])?;
    let reason = call.text("reason").map(str::to_owned);
    let revoked = call.server.revoke_token(id, &call.actor(Some(account)), reason).await?;
    let Some((_, sessions)) = revoked else { return Ok(nothing(&call)) };
    let ended = sessions.len() - call.server.all_settled(&sessions).await.len();
    let message = match sessions.len() {
        0 => format!("revoked {id} of `{jid}`, no session to end"),
        1 => format!("revoked {id} of `{jid}`, 1 session ended"),
        many => format!("revoked {id} of `{jid}`, {many} sessions ended"),
    };
    Ok(Done::said(message).with("id", id.to_string()).with("ended", ended))
}
