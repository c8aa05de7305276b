//! Accounts: a list to find one in, and all that hangs on one, with what can be done to it.

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use serde_json::Value;
use server::{command::CommandError, rights::Right};

use super::{
    audit,
    devices::logins,
    form::Fields,
    page::{Failure, Frame, Prose, ask, listed, query, refuse, render},
    table::{Cell, Table, capital},
    view::{Row, Time},
    visitor::Visitor,
};
use crate::http::Api;

/// Accounts of a page.
const PAGE: &str = "100";
/// Logins and entries of the audit that are shown.
const FEW: &str = "20";
/// What an account can be bound by, as `policy set` calls it.
const POLICY: &[&str] = &[
    "inactivity",
    "lifetime",
    "client-inactivity",
    "client-lifetime",
    "max-sessions",
    "at-limit",
    "new-clients",
];

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/admin/accounts", get(list)).route("/admin/account", get(show))
}

#[derive(Template)]
#[template(path = "accounts.html")]
struct List {
    frame: Frame,
    pattern: String,
    table: Table,
    next: String,
}

async fn list(
    State(api): State<Api>,
    visitor: Visitor,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let fields = Fields(pairs);
    let list = ("user list", "/admin/accounts");
    let (rows, next) = listed(&api, &visitor, list, &fields, "pattern", PAGE).await?;
    let columns = ["Address", "Role", "May log in", "Sessions", "Since"];
    let table = Table::of_each("Accounts", &columns, "No account matches.", &rows, |row| {
        let jid = row.text("jid");
        vec![
            link("/admin/account", &[("jid", jid)], jid, ""),
            Cell::of(row, "role"),
            Cell::of(row, "enabled"),
            Cell::of(row, "sessions"),
            Cell::Time(row.time("created")),
        ]
    });
    let page = List {
        frame: Frame::of(&api, &visitor, "Accounts", "accounts"),
        pattern: fields.text("pattern").into(),
        table,
        next,
    };
    Ok(render(StatusCode::OK, &page))
}

fn link(path: &str, pairs: &[(&str, &str)], text: &str, label: &str) -> Cell {
    let href = format!("{path}?{}", query(pairs.iter().copied()));
    Cell::Link { href, text: text.into(), label: label.into() }
}

/// One part of an account's page: a table, or why there is none.
struct Part {
    id: &'static str,
    title: &'static str,
    table: Table,
    failure: Option<Failure>,
}

#[derive(Template)]
#[template(path = "account.html")]
struct Page {
    frame: Frame,
    jid: String,
    account: Row,
    parts: Vec<Part>,
    policy: &'static [&'static str],
}

impl Page {
    fn here(&self) -> String {
        here(&self.jid)
    }

    /// Where something is done to the whole account.
    fn act(&self, name: &str, field: &str) -> String {
        let back = self.here();
        format!("/admin/act/{name}?{}", query([(field, self.jid.as_str()), ("back", &back)]))
    }

    fn label(&self, key: &str) -> String {
        capital(&key.replace('-', " "))
    }

    fn fact(&self, name: &str) -> String {
        if name == "jid" { "Address".into() } else { capital(&name.replace('_', " ")) }
    }

    /// All that is known of the account itself.
    fn facts(&self) -> Vec<(String, String, Time)> {
        let row = &self.account;
        let fact = |name: &String| (self.fact(name), row.show(name), row.time(name));
        row.0.keys().map(fact).filter(|(_, value, _)| !value.is_empty()).collect()
    }
}

fn here(jid: &str) -> String {
    format!("/admin/account?{}", query([("jid", jid)]))
}

async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let jid = Fields(pairs).text("jid").trim().to_owned();
    let page = page(&api, &visitor, &jid).await;
    let page = page.map_err(refuse(&api, &visitor))?;
    Ok(render(StatusCode::OK, &page))
}

async fn page(api: &Api, visitor: &Visitor, jid: &str) -> Result<Page, CommandError> {
    let (mut rows, done) =
        ask(api, visitor.caller.clone(), "user show", [("jid", jid.into())]).await?;
    if rows.is_empty() {
        return Err(
            CommandError::failed(done.message).hint("`Accounts` lists those that are there")
        );
    }
    let account = rows.swap_remove(0);
    let of = |name: &'static str, more: Vec<(&'static str, Value)>| {
        let args: Vec<_> = more.into_iter().chain([("jid", jid.into())]).collect();
        ask(api, visitor.caller.clone(), name, args)
    };
    let pattern = [("pattern", jid.into())];
    let mut parts = vec![
        part(
            ("sessions", "Sessions"),
            ask(api, visitor.caller.clone(), "session list", pattern).await,
            |rows| sessions(jid, rows),
        ),
        part(("clients", "Clients"), of("client list", vec![("all", true.into())]).await, |rows| {
            clients(jid, rows)
        }),
        part(("tokens", "Tokens"), of("token list", vec![]).await, |rows| tokens(jid, rows)),
        part(("grants", "Grants"), of("grant list", vec![]).await, |rows| grants(jid, rows)),
        part(("policy", "Policy"), of("policy show", vec![]).await, policy),
        part(("logins", "Logins"), of("last", vec![("limit", FEW.into())]).await, logins),
    ];
    if visitor.caller.rights().has(Right::Audit) {
        let rows = of("audit list", vec![("limit", FEW.into())]).await;
        parts.push(part(("audit", "Audit"), rows, audit::table));
    }
    Ok(Page {
        frame: Frame::of(api, visitor, jid, "accounts"),
        jid: jid.into(),
        account,
        parts,
        policy: POLICY,
    })
}

fn part(
    (id, title): (&'static str, &'static str),
    rows: Result<(Vec<Row>, server::command::Done), CommandError>,
    table: impl Fn(&[Row]) -> Table,
) -> Part {
    match rows {
        Ok((rows, _)) => Part { id, title, table: table(&rows), failure: None },
        Err(error) => Part { id, title, table: Table::default(), failure: Some(error.into()) },
    }
}

/// The link to an act on one row.
fn act(name: &str, field: &str, row: &Row, jid: &str, text: &str) -> Cell {
    let id = row.text("id");
    let back = here(jid);
    link(&format!("/admin/act/{name}"), &[(field, id), ("back", &back)], text, id)
}

fn sessions(jid: &str, rows: &[Row]) -> Table {
    let columns = ["Session", "Stage", "Since", "From", "Software", "Do"];
    Table::of_each("Sessions", &columns, "None is there.", rows, |row| {
        vec![
            Cell::of(row, "jid"),
            Cell::Badge(row.text("stage").into()),
            Cell::Time(row.time("since")),
            Cell::of(row, "address"),
            Cell::of(row, "software"),
            act("session-end", "id", row, jid, "End…"),
        ]
    })
}

fn clients(jid: &str, rows: &[Row]) -> Table {
    let columns = ["Number", "Name", "Software", "State", "Seen", "From", "Ways back", "Do"];
    Table::of_each("Clients", &columns, "It has let none in.", rows, |row| {
        let act = match row.text("state") {
            "blocked" => act("client-unblock", "client", row, jid, "Unblock…"),
            "good" | "frozen" | "held" => act("client-revoke", "client", row, jid, "Log out…"),
            _ => Cell::text("–"),
        };
        vec![
            Cell::of(row, "sid"),
            Cell::of(row, "label"),
            Cell::of(row, "software"),
            Cell::Badge(row.text("state").into()),
            Cell::Time(row.time("seen")),
            Cell::of(row, "address"),
            Cell::of(row, "ways_back"),
            act,
        ]
    })
}

fn tokens(jid: &str, rows: &[Row]) -> Table {
    let columns = ["Token", "Name", "For", "State", "Expires", "Last used", "Do"];
    Table::of_each("Tokens", &columns, "It has none.", rows, |row| {
        let act = match row.text("state") {
            "valid" => act("token-revoke", "token", row, jid, "Revoke…"),
            _ => Cell::text("–"),
        };
        vec![
            Cell::of(row, "id"),
            Cell::of(row, "label"),
            Cell::of(row, "purpose"),
            Cell::Badge(row.text("state").into()),
            Cell::Time(row.time("expires")),
            Cell::Time(row.time("last_used")),
            act,
        ]
    })
}

fn grants(jid: &str, rows: &[Row]) -> Table {
    let columns = ["Grant", "Name", "State", "Since", "Last used", "Tokens", "Do"];
    Table::of_each("Grants", &columns, "It has none.", rows, |row| {
        let act = match row.text("state") {
            "good" => act("grant-revoke", "grant", row, jid, "Revoke…"),
            _ => Cell::text("–"),
        };
        vec![
            Cell::of(row, "id"),
            Cell::of(row, "label"),
            Cell::Badge(row.text("state").into()),
            Cell::Time(row.time("created")),
            Cell::Time(row.time("last_used")),
            Cell::of(row, "tokens"),
            act,
        ]
    })
}

fn policy(rows: &[Row]) -> Table {
    Table::of_each("Policy", &["What", "Value", "Said by"], "", rows, |row| {
        let key = Cell::text(capital(&row.text("key").replace('_', " ")));
        vec![key, Cell::of(row, "value"), Cell::of(row, "from")]
    })
}
