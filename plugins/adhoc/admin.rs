//! Service administration (XEP-0133): its use cases, each by commands of the table. What the server
//! cannot do, or must not, as telling a password, has no node.
//!
//! Beyond the XEP, the form that ends sessions asks why: the table wants a reason for what is not one's
//! own. Fields that there are no figures for are left out of statistics.

use std::{future::Future, pin::Pin};

use serde_json::{Map, Value, json};
use server::command::Collected;
use wire::StanzaError;

use super::{
    face::Asked,
    form::{self, Field, Filled, Kind, Told},
    report::{Gravity, ROWS, Report},
    request::{Refusal, refused},
};

/// XEP-0133; also what its forms are for.
pub const NAMESPACE: &str = "http://jabber.org/protocol/admin";
/// What the documentation says.
pub const NOTE: &str = "Users are added, deleted, disabled, enabled, listed and counted, their sessions \
                        ended, their passwords set; announcements; stop and restart. No rosters, no \
                        messages of the day or of welcome, no lists of who is kept out, no list of \
                        admins: roles are set with `user role`. Sessions of others are ended with a \
                        reason (`x-reason`). Of statistics, addresses and resources";

/// Addresses of one list, if as many as there are were asked for.
const MANY: usize = 1_000;

/// A use case.
pub struct Task {
    /// The node, behind `#`.
    pub name: &'static str,
    /// For people, in a line.
    pub title: &'static str,
    /// For people, what else there is to know; may be empty.
    pub about: &'static str,
    /// What is to be filled in.
    pub fields: &'static [Field],
    /// The commands of the table that it stands for: who may run all of them may do this.
    pub commands: &'static [&'static str],
    /// Does it.
    pub run: fn(Asked, Filled) -> Working,
}

/// A use case at work.
pub type Working = Pin<Box<dyn Future<Output = Result<Report, StanzaError>> + Send>>;

const fn field(var: &'static str, label: &'static str, kind: Kind) -> Field {
    Field { var, label, kind, required: true }
}

const fn optional(var: &'static str, label: &'static str, kind: Kind) -> Field {
    Field { var, label, kind, required: false }
}

const fn accounts(label: &'static str) -> Field {
    field("accountjids", label, Kind::JidMulti)
}

const MAX_ITEMS: Field = optional(
    "max_items",
    "Maximum number of items to show",
    Kind::ListSingle(&["25", "50", "75", "100", "150", "200", "none"]),
);
const DELAYS: Kind = Kind::ListSingle(&["30", "60", "90", "120", "180", "240", "300"]);
const ANNOUNCEMENT: &str = "announcement";

/// One that says how many there are of something.
const fn number(
    name: &'static str,
    title: &'static str,
    run: fn(Asked, Filled) -> Working,
) -> Task {
    Task { name, title, about: "", fields: &[], commands: &["user count"], run }
}

/// One that says who is something.
const fn list(name: &'static str, title: &'static str, run: fn(Asked, Filled) -> Working) -> Task {
    Task { name, title, about: "", fields: &[MAX_ITEMS], commands: &["user list"], run }
}

/// All of them.
pub static TASKS: &[Task] = &[
    Task {
        name: "add-user",
        title: "Add a User",
        about: "Fill out this form to add a user.",
        fields: &[
            field("accountjid", "The Jabber ID for the account to be added", Kind::JidSingle),
            field("password", "The password for this account", Kind::TextPrivate),
            optional("password-verify", "Retype password", Kind::TextPrivate),
        ],
        commands: &["user add"],
        run: |asked, filled| Box::pin(add(asked, filled)),
    },
    Task {
        name: "delete-user",
        title: "Delete a User",
        about: "Fill out this form to delete users, with all that they have.",
        fields: &[accounts("The Jabber ID(s) to delete")],
        commands: &["user delete"],
        run: |asked, filled| Box::pin(each(asked, filled, "user delete")),
    },
    Task {
        name: "disable-user",
        title: "Disable a User",
        about: "Fill out this form to disable users; their sessions end.",
        fields: &[accounts("The Jabber ID(s) to disable")],
        commands: &["user disable"],
        run: |asked, filled| Box::pin(each(asked, filled, "user disable")),
    },
    Task {
        name: "reenable-user",
        title: "Re-Enable a User",
        about: "Fill out this form to re-enable users.",
        fields: &[accounts("The Jabber ID(s) to re-enable")],
        commands: &["user enable"],
        run: |asked, filled| Box::pin(each(asked, filled, "user enable")),
    },
    Task {
        name: "end-user-session",
        title: "End a User's Sessions",
        about: "Fill out this form to end sessions: all of a user, or, by a full Jabber ID, one.",
        fields: &[
            accounts("The Jabber ID(s) for which to end sessions"),
            optional(
                "x-reason",
                "Why; needed for sessions that are not your own",
                Kind::TextSingle,
            ),
        ],
        commands: &["session end"],
        run: |asked, filled| Box::pin(end(asked, filled)),
    },
    Task {
        name: "change-user-password",
        title: "Change a User's Password",
        about: "Fill out this form to change a user's password.",
        fields: &[
            field("accountjid", "The Jabber ID for this account", Kind::JidSingle),
            field("password", "The password for this account", Kind::TextPrivate),
        ],
        commands: &["user password"],
        run: |asked, filled| Box::pin(password(asked, filled)),
    },
    Task {
        name: "get-user-lastlogin",
        title: "Get a User's Last Login Time",
        about: "Fill out this form to get the time of the last login.",
        fields: &[accounts("The Jabber ID(s) for which to retrieve the last login time")],
        commands: &["user show"],
        run: |asked, filled| Box::pin(last_login(asked, filled)),
    },
    Task {
        name: "user-stats",
        title: "Get User Statistics",
        about: "Fill out this form to gather user statistics.",
        fields: &[field("accountjid", "The Jabber ID for statistics", Kind::JidSingle)],
        commands: &["user show"],
        run: |asked, filled| Box::pin(stats(asked, filled)),
    },
    number("get-registered-users-num", "Get the Number of Registered Users", |asked, _| {
        Box::pin(count(asked, "registered", "registeredusersnum", "The number of registered users"))
    }),
    number("get-disabled-users-num", "Get the Number of Disabled Users", |asked, _| {
        Box::pin(count(asked, "disabled", "disabledusersnum", "The number of disabled users"))
    }),
    number("get-online-users-num", "Get the Number of Online Users", |asked, _| {
        Box::pin(count(asked, "online", "onlineusersnum", "The number of online users"))
    }),
    number("get-active-users-num", "Get the Number of Active Users", |asked, _| {
        Box::pin(count(asked, "active", "activeusersnum", "The number of active users"))
    }),
    number("get-idle-users-num", "Get the Number of Idle Users", |asked, _| {
        Box::pin(count(asked, "idle", "idleusersnum", "The number of idle users"))
    }),
    list("get-registered-users-list", "Get the List of Registered Users", |asked, filled| {
        Box::pin(names(asked, filled, None, "registereduserjids", "The list of all users"))
    }),
    list("get-disabled-users-list", "Get the List of Disabled Users", |asked, filled| {
        let label = "The list of all disabled users";
        Box::pin(names(asked, filled, Some("disabled"), "disableduserjids", label))
    }),
    list("get-online-users-list", "Get the List of Online Users", |asked, filled| {
        let label = "The list of all online users";
        Box::pin(names(asked, filled, Some("online"), "onlineuserjids", label))
    }),
    list("get-active-users", "Get the List of Active Users", |asked, filled| {
        let label = "The list of active users";
        Box::pin(names(asked, filled, Some("active"), "activeuserjids", label))
    }),
    list("get-idle-users", "Get the List of Idle Users", |asked, filled| {
        // The XEP has no name of its own for these.
        let label = "The list of idle users";
        Box::pin(names(asked, filled, Some("idle"), "activeuserjids", label))
    }),
    Task {
        name: "announce",
        title: "Send an Announcement to Online Users",
        about: "Fill out this form to make an announcement to all online users of this service.",
        fields: &[field(ANNOUNCEMENT, "Announcement", Kind::TextMulti)],
        commands: &["announce"],
        run: |asked, filled| Box::pin(announce(asked, filled)),
    },
    Task {
        name: "restart",
        title: "Restart the Service",
        about: "Fill out this form to restart the service.",
        fields: &[
            optional("delay", "Time delay before restarting, in seconds", DELAYS),
            optional(ANNOUNCEMENT, "Announcement", Kind::TextMulti),
        ],
        commands: &["restart", "announce"],
        run: |asked, filled| Box::pin(stop(asked, filled, "restart")),
    },
    Task {
        name: "shutdown",
        title: "Shut Down the Service",
        about: "Fill out this form to shut down the service.",
        fields: &[
            optional("delay", "Time delay before shutting down, in seconds", DELAYS),
            optional(ANNOUNCEMENT, "Announcement", Kind::TextMulti),
        ],
        commands: &["stop", "announce"],
        run: |asked, filled| Box::pin(stop(asked, filled, "stop")),
    },
];

impl Task {
    /// Its node.
    pub fn node(&self) -> String {
        format!("{NAMESPACE}#{}", self.name)
    }
}

/// The one of a node.
pub fn find(node: &str) -> Option<&'static Task> {
    let name = node.strip_prefix(NAMESPACE)?.strip_prefix('#')?;
    TASKS.iter().find(|task| task.name == name)
}

/// The only value of a field.
fn one<'a>(filled: &'a Filled, var: &str) -> Option<&'a str> {
    filled.get(var)?.first().map(String::as_str)
}

/// The addresses of a form, each once.
fn jids(filled: &Filled) -> Vec<&str> {
    let mut each: Vec<&str> = Vec::new();
    for jid in filled.get("accountjids").into_iter().flatten().map(|jid| jid.trim()) {
        if !jid.is_empty() && !each.contains(&jid) {
            each.push(jid);
        }
    }
    each
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Runs one command: how it ended, and its rows, which are still to be told.
async fn call(
    asked: &Asked,
    name: &str,
    args: Value,
    most: usize,
) -> Result<(Report, Vec<Map<String, Value>>), StanzaError> {
    let mut collected = asked.run(name, object(args), most).await;
    let mut report = Report::default();
    report.outcome(&collected)?;
    let rows = std::mem::take(&mut collected.rows);
    report.told.push(collected);
    Ok((report, rows))
}

/// The same for one whose closing line is all there is to tell.
async fn run(asked: &Asked, name: &str, args: Value) -> Result<Report, StanzaError> {
    call(asked, name, args, ROWS).await.map(|(report, _)| report)
}

/// The word to a form that names nobody.
fn nobody() -> StanzaError {
    Refusal::BadPayload.because("`accountjids` names nobody")
}

async fn add(asked: Asked, filled: Filled) -> Result<Report, StanzaError> {
    let (jid, password) = (one(&filled, "accountjid"), one(&filled, "password"));
    if one(&filled, "password-verify").is_some_and(|again| Some(again) != password) {
        return Err(Refusal::BadPayload.because("the two passwords differ"));
    }
    run(&asked, "user add", json!({ "jid": jid, "password": password })).await
}

async fn password(asked: Asked, filled: Filled) -> Result<Report, StanzaError> {
    let (jid, password) = (one(&filled, "accountjid"), one(&filled, "password"));
    run(&asked, "user password", json!({ "jid": jid, "password": password })).await
}

async fn end(asked: Asked, filled: Filled) -> Result<Report, StanzaError> {
    let mut args = object(json!({ "selector": jids(&filled) }));
    if let Some(reason) = one(&filled, "x-reason") {
        args.insert("reason".into(), reason.into());
    }
    run(&asked, "session end", Value::Object(args)).await
}

/// Runs a command for each account. What is refused is an error if nothing was done before it.
async fn each(asked: Asked, filled: Filled, name: &'static str) -> Result<Report, StanzaError> {
    let mut report = Report::default();
    let jids = jids(&filled);
    if jids.is_empty() {
        return Err(nobody());
    }
    for jid in jids {
        let collected = asked.run(name, object(json!({ "jid": jid })), ROWS).await;
        report = told(report, collected, jid)?;
    }
    Ok(report)
}

/// Adds how a call for one of several accounts ended.
fn told(mut report: Report, collected: Collected, jid: &str) -> Result<Report, StanzaError> {
    let first = report.told.is_empty();
    match &collected.outcome {
        Err(error) if first && (error.usage || error.forbidden) => return Err(refused(error)),
        Err(error) => {
            let words = super::request::words(error);
            report.note(Gravity::Error, format!("`{jid}`: {words}"));
        }
        Ok(_) => {
            report.outcome(&collected)?;
        }
    }
    report.told.push(collected);
    Ok(report)
}

async fn last_login(asked: Asked, filled: Filled) -> Result<Report, StanzaError> {
    let mut report = Report::default();
    let mut found = Vec::new();
    let jids = jids(&filled);
    if jids.is_empty() {
        return Err(nobody());
    }
    for jid in jids {
        let mut collected = asked.run("user show", object(json!({ "jid": jid })), 1).await;
        for row in std::mem::take(&mut collected.rows) {
            let of = |name: &str| texts(row.get(name));
            found.push(vec![of("jid"), of("last_login")]);
        }
        report = told(report, collected, jid)?;
    }
    let columns =
        [("accountjids".to_owned(), Kind::JidSingle), ("lastlogin".to_owned(), Kind::TextSingle)];
    match found.as_slice() {
        [] => {}
        // As the XEP shows it; of several it does not say how.
        [row] => {
            let labels = ["The Jabber ID", "The last login time"];
            let fields = columns.into_iter().zip(labels).zip(row);
            let told = |(((var, kind), label), values): (_, &Vec<String>)| Told {
                var,
                label,
                kind,
                values: values.clone(),
            };
            let fields: Vec<Told> = fields.map(told).collect();
            form::tell(&mut report.forms, NAMESPACE, &fields);
        }
        rows => form::table(&mut report.forms, &columns, rows),
    }
    Ok(report)
}

async fn stats(asked: Asked, filled: Filled) -> Result<Report, StanzaError> {
    let args = json!({ "jid": one(&filled, "accountjid") });
    let (mut report, rows) = call(&asked, "user show", args, 1).await?;
    for row in rows {
        let of = |var: &str, label, name: &str| Told {
            var: var.into(),
            label,
            kind: Kind::TextMulti,
            values: texts(row.get(name)),
        };
        let told = [
            of("ipaddresses", "The IP addresses of an account's online sessions", "addresses"),
            of("onlineresources", "The names of an account's online sessions", "resources"),
        ];
        form::tell(&mut report.forms, NAMESPACE, &told);
    }
    Ok(report)
}

async fn count(
    asked: Asked,
    what: &'static str,
    var: &'static str,
    label: &'static str,
) -> Result<Report, StanzaError> {
    let args = json!({ "only": what, "host": asked.host.as_str() });
    let (mut report, rows) = call(&asked, "user count", args, 1).await?;
    for row in rows {
        let values = texts(row.get(what));
        let told = Told { var: var.into(), label, kind: Kind::TextSingle, values };
        form::tell(&mut report.forms, NAMESPACE, &[told]);
    }
    Ok(report)
}

async fn names(
    asked: Asked,
    filled: Filled,
    state: Option<&'static str>,
    var: &'static str,
    label: &'static str,
) -> Result<Report, StanzaError> {
    let most = one(&filled, "max_items").and_then(|most| most.parse().ok()).unwrap_or(MANY);
    let pattern = format!("*@{}", asked.host);
    let mut args = json!({ "pattern": pattern, "limit": most.to_string() });
    if let Some(state) = state {
        args["state"] = state.into();
    }
    let (mut report, rows) = call(&asked, "user list", args, most).await?;
    let values = rows.iter().flat_map(|row| texts(row.get("jid"))).collect();
    let told = Told { var: var.into(), label, kind: Kind::JidMulti, values };
    form::tell(&mut report.forms, NAMESPACE, &[told]);
    Ok(report)
}

/// The lines of an announcement; none: there is nothing to say.
fn announcement(filled: &Filled) -> Option<String> {
    let text = filled.get(ANNOUNCEMENT)?.join("\n");
    (!text.trim().is_empty()).then_some(text)
}

async fn announce(asked: Asked, filled: Filled) -> Result<Report, StanzaError> {
    let text = announcement(&filled).unwrap_or_default();
    run(&asked, "announce", json!({ "text": text, "host": asked.host.as_str() })).await
}

/// Tells everybody, if there is something to say, and then stops; or does neither.
async fn stop(asked: Asked, filled: Filled, name: &'static str) -> Result<Report, StanzaError> {
    let mut report = Report::default();
    if let Some(text) = announcement(&filled) {
        let announced = run(&asked, "announce", json!({ "text": text })).await?;
        if announced.notes.iter().any(|(gravity, _)| *gravity == Gravity::Error) {
            return Ok(announced);
        }
        report = announced;
    }
    let mut args = Map::new();
    if let Some(delay) = one(&filled, "delay") {
        args.insert("in".into(), format!("{delay}s").into());
    }
    let stopped = run(&asked, name, Value::Object(args)).await?;
    report.notes.extend(stopped.notes);
    report.told.extend(stopped.told);
    Ok(report)
}

/// A value as texts.
fn texts(value: Option<&Value>) -> Vec<String> {
    super::report::values(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_use_case_stands_for_commands_of_the_table_and_has_a_node_of_its_own() {
        let mut nodes = BTreeSet::new();
        for task in TASKS {
            assert!(nodes.insert(task.node()), "{}", task.name);
            assert_eq!(find(&task.node()).map(|found| found.name), Some(task.name));
            assert!(!task.commands.is_empty(), "{}", task.name);
            for name in task.commands {
                assert!(server::command::find(name).is_some(), "{name}");
            }
        }
        assert!(find("http://jabber.org/protocol/admin#get-user-password").is_none());
    }

    #[test]
    fn addresses_count_once() {
        let words = ["a@b", " a@b ", "", "c@d"].map(str::to_owned).to_vec();
        assert_eq!(jids(&Filled::from([("accountjids", words)])), ["a@b", "c@d"]);
    }
}
