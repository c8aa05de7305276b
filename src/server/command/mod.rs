//! The command table: every act of administration, declared once. Parser, help, completion, console,
//! admin socket, permission check, audit and documentation are derived from the declarations here;
//! the crate `admin` holds those faces.

mod announce;
mod call;
mod caller;
mod client;
mod collect;
mod condition;
mod end;
mod freeze;
mod grant;
mod history;
mod job;
mod leave;
mod online;
mod pattern;
mod policy;
pub(crate) mod rate;
mod recent;
mod select;
mod server;
mod session;
mod token;
mod trend;
mod user;
mod whoami;

use std::{future::Future, net::IpAddr, pin::Pin};

use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Map, Value};
use wire::{Jid, TokenId};

use crate::{
    config::Span,
    id::{ClientId, GrantId, SessionId},
    rights::Right,
};

pub use self::history::COMMANDS as HISTORY;
pub use self::{
    call::{ADDRESSES, Call, MASK, may_begin, run},
    caller::{Acting, Caller},
    collect::{Collected, collect},
};
pub use self::{client::COMMANDS as CLIENT, grant::COMMANDS as GRANT};
pub use self::{policy::COMMANDS as POLICY, whoami::COMMANDS as WHOAMI};
pub use self::{
    server::COMMANDS as SERVER,
    session::{COMMANDS as SESSION, session_row},
};
pub use self::{token::COMMANDS as TOKEN, user::COMMANDS as USER};

/// All commands, in the order of the help.
pub const CORE: &[&[Command]] = &[
    USER,
    online::COMMANDS,
    leave::COMMANDS,
    POLICY,
    SESSION,
    recent::COMMANDS,
    WHOAMI,
    end::COMMANDS,
    freeze::COMMANDS,
    job::COMMANDS,
    HISTORY,
    CLIENT,
    GRANT,
    TOKEN,
    announce::COMMANDS,
    SERVER,
    trend::COMMANDS,
];

/// One command.
#[derive(Debug)]
pub struct Command {
    /// Words, as in `session end`.
    pub name: &'static str,
    /// One line, without full stop.
    pub about: &'static str,
    /// What more there is to know; may be empty.
    pub details: &'static str,
    /// What may be said with it.
    pub args: &'static [Arg],
    /// Whether it changes anything: such a command is audited, with its outcome.
    pub mutates: bool,
    /// What it takes to do it to others.
    pub right: Right,
    /// Whether it takes that for the own account too.
    pub scope: Scope,
    /// Whether a session must have shown the password lately to do it.
    pub fresh: bool,
    /// How it shows what it gives.
    pub shape: Shape,
    /// Does it.
    pub run: fn(Call) -> Running,
}

/// Whom a command is for, besides those who have its right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nobody else.
    Others,
    /// Every account above `restricted`, for what is its own.
    Own,
}

/// How a command's rows are shown to people. With `--json`, a list is one array, a record or an
/// outcome one object, and a stream one object per line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Rows, as a table with these columns; `--json` has all fields.
    List(&'static [&'static str]),
    /// One row, as name and value.
    Record,
    /// Rows without end, shown as they come, until the one who asked goes away.
    Stream(&'static [&'static str]),
    /// Nothing but the closing line (and, for commands on several things, a row for each).
    Outcome(&'static [&'static str]),
}

/// One argument of a command.
#[derive(Debug)]
pub struct Arg {
    /// Its name: `jid` of a positional, `ttl` of `--ttl`.
    pub name: &'static str,
    /// One line, without full stop.
    pub about: &'static str,
    /// How it is given.
    pub form: Form,
    /// What it may be.
    pub kind: ValueKind,
}

/// How an argument is given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `--name`, true if there.
    Flag,
    /// By place, none or more. The JSON value is an array.
    Many,
    /// `--name VALUE`, may be left out.
    Option,
    /// By place, may be left out.
    Optional,
    /// `--name VALUE`, may be left out or said several times. The JSON value is an array.
    Options,
    /// By place, must be there.
    Required,
}

/// What a value may be; a face checks and completes by it, and the command checks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// An IP address or a network in CIDR notation.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A client id.
    Client,
    /// Some of these names, with commas between them: the rows that are given have these fields, in
    /// this order, and no others.
    Columns(&'static [&'static str]),
    /// A CSV file that the face reads, or `-` for its standard input; sent as an array of rows
    /// (arrays of text). The face may send it in several calls and adds up the outcomes.
    CsvFile,
    /// A bare or full JID.
    Jid,
    /// A grant id.
    Grant,
    /// A JID in which `*` stands for anything.
    JidPattern,
    /// A number.
    Number,
    /// A file that the server reads or writes; the face makes it absolute.
    Path,
    /// A secret that the face asks for at a prompt without echo (twice), or reads as one line of its
    /// standard input with `--<name>-stdin`. Never given on the command line itself.
    Secret,
    /// A session id.
    Session,
    /// A point in time, as in `2026-11-24T18:00:00Z`.
    Time,
    /// A length of time: `30d`.
    Span,
    /// Any text.
    Text,
    /// A token id.
    Token,
}

/// A command at work.
pub type Running = Pin<Box<dyn Future<Output = Result<Done, CommandError>> + Send>>;

/// What goes to the caller, one JSON object per line: `{"row":…}`, `{"progress":…}`, and in the end
/// `{"done":…}` or `{"failed":…}`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// A stream has begun: whatever happens from here on comes as a row. Not for who reads lines.
    Began,
    /// It is over.
    Done(Done),
    /// It could not be done.
    Failed(CommandError),
    /// How far a long one is.
    Progress {
        /// Steps done.
        done: u64,
        /// Steps in all.
        total: u64,
    },
    /// One row of its result.
    Row(Map<String, Value>),
}

/// How it ended, if it could be done.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize)]
pub struct Done {
    /// One line for people, without full stop; may be empty for lists.
    pub message: String,
    /// Whether there was anything that it could be done to; if not, the exit status is 3.
    pub matched: bool,
    /// Fields of the outcome for `--json`, besides the rows.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl Done {
    /// Done, in these words.
    #[must_use]
    pub fn said(message: impl Into<String>) -> Self {
        Self { message: message.into(), matched: true, fields: Map::new() }
    }

    /// Nothing matched; exit status 3.
    #[must_use]
    pub fn nothing(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// Adds a field of the outcome.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.into(), value.into());
        self
    }
}

/// Why it could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CommandError {
    /// Whether the call itself was wrong; the exit status is then 2, else 1.
    pub usage: bool,
    /// Whether the caller may not do it, though others may.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forbidden: bool,
    /// Whether it may after a login with the password.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub login: bool,
    /// The scope that the caller's token lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// It may be done in so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<u64>,
    /// Whether it is the server's fault.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// One line without full stop; what was wrong, literals in backticks.
    pub message: String,
    /// What to do about it; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// What kind of refusal or failure it is, for faces that have a word of their own for each. What counts
/// first is what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It could not be done.
    Failed,
    /// The caller may not.
    Forbidden,
    /// The server has failed.
    Internal,
    /// The caller may, after a login with the password.
    Login,
    /// The caller may again, after a while.
    Throttled,
    /// It was called wrongly.
    Usage,
}

impl CommandError {
    /// What kind it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            error if error.retry.is_some() => ErrorKind::Throttled,
            error if error.internal => ErrorKind::Internal,
            error if error.login => ErrorKind::Login,
            error if error.forbidden => ErrorKind::Forbidden,
            error if error.usage => ErrorKind::Usage,
            _ => ErrorKind::Failed,
        }
    }

    /// It could not be done.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        let (message, hint) = (message.into(), String::new());
        let (usage, forbidden, login, internal) = (false, false, false, false);
        Self { usage, forbidden, login, scope: None, retry: None, internal, message, hint }
    }

    /// It was called wrongly.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self { usage: true, ..Self::failed(message) }
    }

    /// The caller may not.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self { forbidden: true, ..Self::failed(message) }
    }

    /// The caller may not, but may after a login with the password.
    #[must_use]
    pub fn login(message: impl Into<String>) -> Self {
        Self { login: true, ..Self::forbidden(message) }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl From<crate::store::StoreError> for CommandError {
    fn from(error: crate::store::StoreError) -> Self {
        let failed = Self::failed(error.to_string());
        Self { internal: true, ..failed }.hint("see the server's log; nothing was changed")
    }
}

/// All commands of a server, for the faces.
pub fn table() -> impl Iterator<Item = &'static Command> {
    CORE.iter().copied().flatten()
}

/// The command of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Command> {
    table().find(|command| command.name == name)
}

impl Command {
    /// The argument of this name.
    #[must_use]
    pub fn arg(&self, name: &str) -> Option<&Arg> {
        self.args.iter().find(|arg| arg.name == name)
    }

    /// Unknown, missing and misshapen arguments are the caller's fault, whichever face it came by.
    fn check(&self, args: &Map<String, Value>) -> Result<(), CommandError> {
        for (name, value) in args {
            let arg = self.arg(name).ok_or_else(|| {
                CommandError::usage(format!("`{}` takes no argument `{name}`", self.name))
            })?;
            arg.check(value)?;
        }
        for arg in self.args {
            if arg.form == Form::Required && !args.contains_key(arg.name) {
                return Err(CommandError::usage(format!("`{}` needs `{}`", self.name, arg.name)));
            }
        }
        Ok(())
    }
}

impl Arg {
    /// Whether it may have several values; it is an array then.
    #[must_use]
    pub fn takes_several(&self) -> bool {
        matches!(self.form, Form::Many | Form::Options)
    }

    fn check(&self, value: &Value) -> Result<(), CommandError> {
        let wrong =
            |want: &str| Err(CommandError::usage(format!("`{}` has to be {want}", self.name)));
        match self.form {
            Form::Flag if !value.is_boolean() => wrong("true or false"),
            Form::Flag => Ok(()),
            Form::Many | Form::Options => match value {
                Value::Array(values) => values.iter().try_for_each(|value| self.check_one(value)),
                _ => wrong("a list"),
            },
            Form::Option | Form::Optional | Form::Required => self.check_one(value),
        }
    }

    fn check_one(&self, value: &Value) -> Result<(), CommandError> {
        let bad = |want: String| Err(CommandError::usage(format!("`{}`: {want}", self.name)));
        if self.kind == ValueKind::CsvFile {
            let row =
                |row: &Value| row.as_array().is_some_and(|row| row.iter().all(Value::is_string));
            let rows = value.as_array().is_some_and(|rows| rows.iter().all(row));
            return if rows { Ok(()) } else { bad("not a list of rows of texts".into()) };
        }
        let Some(text) = value.as_str() else { return bad("not a text".into()) };
        let checked = match self.kind {
            ValueKind::Address => network(text).map(|_| ()),
            ValueKind::Choice(words) if !words.contains(&text) => {
                Err(format!("`{text}` is none of {}", words.join(", ")))
            }
            ValueKind::Columns(known) => {
                columns(text).try_for_each(|name| match known.contains(&name) {
                    true => Ok(()),
                    false => Err(unknown_column(name, known)),
                })
            }
            ValueKind::Client => {
                text.parse::<ClientId>().map(|_| ()).map_err(|why| format!("`{text}`: {why}"))
            }
            ValueKind::Grant => {
                text.parse::<GrantId>().map(|_| ()).map_err(|why| format!("`{text}`: {why}"))
            }
            ValueKind::JidPattern if text.is_empty() => {
                Err("nothing matches an empty pattern; leave it out, or say `*`".into())
            }
            ValueKind::Jid => {
                Jid::parse(text).map(|_| ()).map_err(|why| format!("`{text}` is not a JID: {why}"))
            }
            ValueKind::Number => {
                text.parse::<u64>().map(|_| ()).map_err(|_| format!("`{text}` is not a number"))
            }
            ValueKind::Session => {
                text.parse::<SessionId>().map(|_| ()).map_err(|why| format!("`{text}`: {why}"))
            }
            ValueKind::Time => text
                .parse::<jiff::Timestamp>()
                .map(|_| ())
                .map_err(|_| format!("`{text}` is not a time such as `2026-11-24T18:00:00Z`")),
            ValueKind::Span => text.parse::<Span>().map(|_| ()).map_err(|why| why.to_string()),
            ValueKind::Token => text.parse::<TokenId>().map(|_| ()).map_err(|_| {
                format!("`{text}` is not a token id, as `usher token list` shows them")
            }),
            ValueKind::Choice(_)
            | ValueKind::CsvFile
            | ValueKind::JidPattern
            | ValueKind::Path
            | ValueKind::Secret
            | ValueKind::Text => Ok(()),
        };
        checked.map_err(|why| CommandError::usage(format!("`{}`: {why}", self.name)))
    }
}

/// The names in a [`ValueKind::Columns`].
pub fn columns(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

fn unknown_column(name: &str, known: &[&str]) -> String {
    match crate::config::nearest_word(name, known) {
        Some(near) => format!("there is no column `{name}`; the nearest is `{near}`"),
        None => format!("there is no column `{name}`; there are {}", known.join(", ")),
    }
}

/// An IP address, or a network in CIDR notation. IPv4 in its IPv6 dress is undressed, as the
/// addresses of sessions are.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    let network = one.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
        format!("`{text}` is neither an IP address nor a network such as `203.0.113.0/24`")
    })?;
    let mapped = network.prefix_len().checked_sub(96).filter(|_| network.addr().is_ipv6());
    Ok(match (mapped, network.addr().to_canonical()) {
        (Some(prefix), address @ IpAddr::V4(_)) => IpNet::new(address, prefix).unwrap_or(network),
        _ => network,
    })
}

/// Builds a row from names and values; absent values are left as null, so that each row of a list
/// has the same fields.
macro_rules! row {
    ($($name:literal: $value:expr),* $(,)?) => {{
        let mut row = serde_json::Map::new();
        $(row.insert($name.into(), serde_json::json!($value));)*
        row
    }};
}
pub(crate) use row;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_networks_mean_the_ipv4_ones() {
        let of = |text: &str| network(text).unwrap().trunc().to_string();
        assert_eq!(of("::ffff:127.0.0.1"), "127.0.0.1/32");
        assert_eq!(of("::ffff:127.9.9.9/104"), "127.0.0.0/8");
        assert_eq!(of("::ffff:0.0.0.0/96"), "0.0.0.0/0");
        assert_eq!(of("::ffff:0.0.0.0/95"), "::fffe:0:0/95");
        assert_eq!(of("2001:db8::/32"), "2001:db8::/32");
        assert_eq!(of("203.0.113.9/24"), "203.0.113.0/24");
    }
}
