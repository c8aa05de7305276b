//! `usher user …`: accounts.

use serde_json::Value;
use wire::{Jid, Secret};

use super::{
    Arg, Call, Command, CommandError, Done, Form, Running, Scope, Shape, ValueKind,
    online::{IDLE, STATE, State, online},
    pattern::Pattern,
    row,
    session::LIMIT,
};
use crate::{
    account::{Account, AccountError, Role},
    change::Standing,
    clock::Millis,
    rights::Right,
};

pub(super) const JID: Arg = Arg {
    name: "jid",
    about: "The account's address, as in `alice@example.org`",
    form: Form::Required,
    kind: ValueKind::Jid,
};
const PASSWORD: Arg = Arg {
    name: "password",
    about: "The password, asked for at a prompt unless it comes by standard input",
    form: Form::Option,
    kind: ValueKind::Secret,
};
const COLUMNS: &[&str] = &["jid", "role", "enabled", "sessions", "created"];

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "user add",
        about: "Add an account",
        details: "",
        args: &[
            JID,
            PASSWORD,
            Arg {
                name: "role",
                about: "What it may do; `user` if not said",
                form: Form::Option,
                kind: ValueKind::Choice(Role::NAMES),
            },
        ],
        mutates: true,
        right: Right::User,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(add(call)),
    },
    Command {
        name: "user password",
        about: "Set another password; ends the account's sessions and voids its tokens",
        details: "Who has to go is said by `on.password_change` for the owner, and by \
                  `on.password_reset` for others. The owner hears the answer before the session ends \
                  that it asks from, if that has to go too.",
        args: &[JID, PASSWORD],
        mutates: true,
        right: Right::User,
        scope: Scope::Own,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(password(call)),
    },
    Command {
        name: "user role",
        about: "Change what an account may do; its sessions go by it at once",
        details: "",
        args: &[
            JID,
            Arg {
                name: "role",
                about: "The new role",
                form: Form::Required,
                kind: ValueKind::Choice(Role::NAMES),
            },
        ],
        mutates: true,
        right: Right::User,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| {
            let role = call.text("role").and_then(Role::parse).unwrap_or(Role::User);
            stand(call, Standing::Role(role))
        },
    },
    Command {
        name: "user import",
        about: "Add accounts in bulk from a CSV file with `jid,password[,role]` in each row",
        details: "Rows that cannot be imported are named and skipped; the rest is added. A first row \
                  of `jid,password` or `jid,password,role` is taken for a heading.",
        args: &[Arg {
            name: "file",
            about: "The CSV file, or `-` for standard input",
            form: Form::Required,
            kind: ValueKind::CsvFile,
        }],
        mutates: true,
        right: Right::User,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&["row", "jid", "problem"]),
        run: |call| Box::pin(import(call)),
    },
    Command {
        name: "user list",
        about: "List accounts",
        details: "",
        args: &[
            Arg {
                name: "pattern",
                about: "Only those whose address matches; `*` stands for anything",
                form: Form::Optional,
                kind: ValueKind::JidPattern,
            },
            STATE,
            IDLE,
            LIMIT,
            Arg {
                name: "after",
                about: "Only those behind this one, in the order of the addresses",
                form: Form::Option,
                kind: ValueKind::Jid,
            },
        ],
        mutates: false,
        right: Right::List,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::List(COLUMNS),
        run: |call| Box::pin(list(call)),
    },
    Command {
        name: "user show",
        about: "Show an account",
        details: "",
        args: &[JID],
        mutates: false,
        right: Right::List,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Record,
        run: |call| Box::pin(show(call)),
    },
    Command {
        name: "user disable",
        about: "Keep an account from logging in; ends its sessions",
        details: "",
        args: &[JID],
        mutates: true,
        right: Right::Block,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| stand(call, Standing::Disabled),
    },
    Command {
        name: "user enable",
        about: "Let a disabled account log in again",
        details: "",
        args: &[JID],
        mutates: true,
        right: Right::Block,
        scope: Scope::Others,
        fresh: true,
        shape: Shape::Outcome(&[]),
        run: |call| stand(call, Standing::Enabled),
    },
];

impl From<AccountError> for CommandError {
    fn from(error: AccountError) -> Self {
        let internal = matches!(error, AccountError::Store(_));
        let hint = match &error {
            AccountError::Exists(_) => "`usher user password` sets another password",
            AccountError::Former(_) => {
                "it stands in rosters for whoever had it; choose another one, or give it back to it \
                 with `usher user rename`"
            }
            AccountError::Unknown(_) => "`usher user list` shows all accounts",
            AccountError::Unsuitable(..) => "domains are set under `[[host]]` in the configuration",
            AccountError::Store(_) => "see the server's log",
            AccountError::Password(_) => "choose another one",
        };
        Self { internal, ..Self::failed(error.to_string()) }.hint(hint)
    }
}

/// Nobody has this address.
pub(super) fn unknown(jid: &Jid) -> CommandError {
    AccountError::Unknown(jid.as_str().into()).into()
}

/// The account that the command is to change, if the caller may do this to it.
pub(super) async fn target(call: &Call, right: Right) -> Result<(Jid, Account), CommandError> {
    let jid = call.jid("jid")?;
    let account = call.account(&jid).await?.filter(|_| jid.is_bare());
    let account = account.ok_or_else(|| unknown(&jid))?;
    call.may_act(account.id, &account.jid, account.role, right)?;
    Ok((jid, account))
}

async fn add(call: Call) -> Result<Done, CommandError> {
    let jid = call.jid("jid")?;
    call.server.account_address(&jid)?;
    if call.server.account(jid.as_str()).await?.is_some() {
        return Err(AccountError::Exists(jid.as_str().into()).into());
    }
    let role = call.text("role").and_then(Role::parse).unwrap_or(Role::User);
    call.may_give(role)?;
    let keys = call.server.keys_of(call.secret("password")?).await?;
    let account = call.server.add_account(&jid, keys, role).await?;
    call.note(account.id, &account.jid);
    Ok(Done::said(format!("added `{jid}` as {}", role.as_str())).with("jid", jid.as_str()))
}

/// Refuses a session that may do less than its account.
pub(super) fn narrowed(jid: &Jid) -> CommandError {
    CommandError::login(format!("this session of `{jid}` may do less than the account"))
        .hint("log in with the password first")
}

async fn password(call: Call) -> Result<Done, CommandError> {
    let (jid, account) = target(&call, Right::User).await?;
    if call.caller.account().is_some_and(|me| me.id() == account.id && me.narrowed()) {
        // With the password it could be all that its account is.
        return Err(narrowed(&jid));
    }
    let keys = call.server.keys_of(call.secret("password")?).await?;
    let actor = call.actor(Some(account.id));
    let current = call.caller.account().and_then(|me| me.session());
    let ended = call.server.set_password(&jid, keys, actor, current).await?;
    let message = format!("set the password of `{jid}`, {}", sessions_ended(ended));
    Ok(Done::said(message).with("jid", jid.as_str()).with("ended", ended))
}

fn stand(call: Call, standing: Standing) -> Running {
    Box::pin(async move {
        let right = match standing {
            Standing::Disabled | Standing::Enabled => Right::Block,
            Standing::Role(_) => Right::User,
        };
        let (jid, account) = target(&call, right).await?;
        if let Standing::Role(role) = standing {
            call.may_give(role)?;
        }
        if let Some(deletion) = account.deletion.filter(|_| standing == Standing::Enabled) {
            let message = format!("`{jid}` is to be deleted at {}", deletion.at);
            return Err(CommandError::failed(message).hint("`usher user restore` takes that back"));
        }
        let actor = call.actor(Some(account.id));
        let ended = call.server.set_standing(&jid, standing, actor).await?;
        let what = match standing {
            Standing::Disabled => "disabled".into(),
            Standing::Enabled => "enabled".into(),
            Standing::Role(role) => format!("gave the role {} to", role.as_str()),
        };
        let message = format!("{what} `{jid}`, {}", sessions_ended(ended));
        Ok(Done::said(message).with("jid", jid.as_str()).with("ended", ended))
    })
}

/// The end of a sentence.
pub(super) fn sessions_ended(ended: usize) -> String {
    match ended {
        0 => "no session to end".into(),
        1 => "1 session ended".into(),
        many => format!("{many} sessions ended"),
    }
}

/// Rows are imported side by side as far as the hash allows, and named by their place in the call.
async fn import(call: Call) -> Result<Done, CommandError> {
    let rows = call.args.get("file").and_then(Value::as_array).cloned().unwrap_or_default();
    let total = rows.len() as u64;
    let call = std::sync::Arc::new(call);
    let mut running = tokio::task::JoinSet::new();
    let mut rows = rows.into_iter().enumerate();
    let (mut added, mut skipped, mut finished) = (0u64, 0u64, 0u64);
    loop {
        while running.len() < 64
            && let Some((index, row)) = rows.next()
        {
            if index == 0 && is_heading(&row) {
                finished += 1;
                continue;
            }
            let call = call.clone();
            running.spawn(async move { (index, import_row(&call, row).await) });
        }
        let Some(joined) = running.join_next().await else { break };
        finished += 1;
        match joined {
            Ok((_, Ok(()))) => added += 1,
            Ok((index, Err((jid, problem)))) => {
                skipped += 1;
                let _ = call.row(row! { "row": index + 1, "jid": jid, "problem": problem }).await;
            }
            Err(panic) => return Err(CommandError::failed(format!("a row failed: {panic}"))),
        }
        if finished.is_multiple_of(64) {
            let _ = call.progress(finished, total).await;
        }
    }
    let of = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let message = match skipped {
        0 => format!("added {}", of(added, "account")),
        some => format!("added {}, skipped {}", of(added, "account"), of(some, "bad row")),
    };
    let done = if added + skipped == 0 { Done::nothing("no rows") } else { Done::said(message) };
    Ok(done.with("added", added).with("skipped", skipped))
}

fn is_heading(row: &Value) -> bool {
    let field = |index: usize| row.get(index).and_then(Value::as_str).map(str::trim);
    field(0) == Some("jid") && field(1) == Some("password")
}

/// Accounts that are imported are not noted one by one: the audit has their number.
async fn import_row(call: &Call, row: Value) -> Result<(), (Option<String>, String)> {
    let server = &call.server;
    let field = |index: usize| row.get(index).and_then(Value::as_str);
    let name = field(0).unwrap_or_default().trim();
    let bad = |why: String| (Some(name.to_owned()), why);
    let jid = Jid::parse(name).map_err(|why| bad(why.to_string()))?;
    let password = field(1).ok_or_else(|| bad("the password is missing".into()))?;
    let role = match field(2).map(str::trim) {
        None | Some("") => Role::User,
        Some(role) => Role::parse(role)
            .ok_or_else(|| bad(format!("`{role}` is none of {}", Role::NAMES.join(", "))))?,
    };
    if row.as_array().is_some_and(|fields| fields.len() > 3) {
        return Err(bad("there are more than three fields".into()));
    }
    let said = |error: AccountError| bad(error.to_string());
    call.may_give(role).map_err(|why| bad(why.message))?;
    server.account_address(&jid).map_err(said)?;
    // Hashing is the dear part.
    if server.account(jid.as_str()).await.map_err(|why| said(why.into()))?.is_some() {
        return Err(said(AccountError::Exists(jid.as_str().into())));
    }
    let secret = Secret::new(password.as_bytes().to_vec());
    let keys = server.keys_of(secret).await.map_err(said)?;
    server.add_account(&jid, keys, role).await.map_err(said)?;
    Ok(())
}

fn account_row(call: &Call, account: &Account) -> serde_json::Map<String, Value> {
    row! {
        "jid": account.jid,
        "role": account.role,
        "enabled": !account.disabled,
        "sessions": call.server.registry.of(&account.jid).len(),
        "created": account.created.to_string(),
        "deletion": account.deletion.map(|deletion| deletion.at.to_string()),
    }
}

async fn list(call: Call) -> Result<Done, CommandError> {
    let pattern = call.text("pattern").map(Pattern::new);
    let fits = |jid: &str| pattern.as_ref().is_none_or(|pattern| pattern.matches(jid));
    let named = pattern.as_ref().is_some_and(Pattern::names_one);
    let limit = call.limit(usize::MAX)?;
    let after = call.text("after").map(|_| call.jid("after")).transpose()?;
    let after = after.map(|jid| jid.bare_str().to_owned());
    let state = State::asked(&call);
    let mut accounts = match state {
        Some(State::Active | State::Idle | State::Online) => {
            let behind = |jid: &str| after.as_deref().is_none_or(|after| jid > after);
            let online = online(&call, |jid| fits(jid.as_str()) && behind(jid.as_str())).await;
            let wanted = |active: bool| match state {
                Some(State::Active) => active,
                Some(State::Idle) => !active,
                _ => true,
            };
            let online = online.into_iter().filter(|(_, active)| wanted(*active));
            Accounts::Online(online.map(|(jid, _)| jid).collect::<Vec<_>>().into_iter())
        }
        _ => Accounts::All(after),
    };
    let (mut shown, mut last_shown) = (0, String::new());
    while let Some(page) = accounts.page(&call).await? {
        for account in page {
            let wanted = match state {
                Some(State::Disabled) => account.disabled,
                Some(State::Enabled) => !account.disabled,
                _ => true,
            };
            if !wanted || !fits(&account.jid) {
                continue;
            }
            if shown == limit {
                let message = format!("the next ones: `--after {last_shown}`");
                return Ok(Done::said(message).with("next", last_shown));
            }
            shown += 1;
            last_shown.clone_from(&account.jid);
            if named {
                call.note(account.id, &account.jid);
            }
            call.row(account_row(&call, &account)).await?;
        }
    }
    Ok(if shown == 0 { Done::nothing("no account matches") } else { Done::said("") })
}

/// Where the accounts of a list come from.
enum Accounts {
    /// The store, from behind this address.
    All(Option<String>),
    /// These, which were online a moment ago.
    Online(std::vec::IntoIter<String>),
}

impl Accounts {
    /// The next ones; none: there are no more.
    async fn page(&mut self, call: &Call) -> Result<Option<Vec<Account>>, CommandError> {
        match self {
            Self::All(after) => {
                let page = call.server.accounts(after.as_deref(), 500).await?;
                *after = page.last().map(|last| last.jid.clone());
                Ok(after.is_some().then_some(page))
            }
            Self::Online(jids) => {
                let Some(jid) = jids.next() else { return Ok(None) };
                Ok(Some(call.server.account(&jid).await?.into_iter().collect()))
            }
        }
    }
}

async fn show(call: Call) -> Result<Done, CommandError> {
    let jid = call.jid("jid")?;
    let Some(account) = call.account(&jid).await? else {
        return Ok(Done::nothing(format!("there is no account `{jid}`")));
    };
    let mut row = account_row(&call, &account);
    row.insert("id".into(), account.id.0.to_string().into());
    row.insert("tokens".into(), call.server.tokens_of(&account).await?.len().into());
    let seen = call.server.last_seen(account.id).await?;
    let time = |at: Option<Millis>| at.filter(|at| at.0 > 0).map(|at| at.to_string());
    row.insert("last_login".into(), time(seen.map(|seen| seen.login)).into());
    row.insert("last_active".into(), time(seen.map(|seen| seen.active)).into());
    let sessions = call.server.registry.of(&account.jid);
    let resources: Vec<&str> =
        sessions.iter().filter_map(|session| session.full()?.resource()).collect();
    let mut addresses: Vec<String> =
        sessions.iter().map(|session| session.address().to_string()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    row.insert("resources".into(), resources.into());
    row.insert("addresses".into(), addresses.into());
    call.row(row).await?;
    Ok(Done::said(""))
}
