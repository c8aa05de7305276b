//! "Your devices": what has been let in to the own account, where and since when, and the end of it.
//! Everything here is asked with nothing but the own account within reach, whoever looks at it.

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::StatusCode;
use serde_json::{Map, json};
use server::{clock::Millis, command::CommandError};

use super::{
    confirm::{self, Confirm, Outcome},
    form::{Fields, Posted},
    page::{Failure, Frame, Prose, ask, follow, query, refuse, render},
    table::{Cell, Table},
    view::{Row, Time},
    visitor::Visitor,
};
use crate::http::{Api, status_of};

/// Ended devices, logins and acts that are shown.
const PAST: usize = 12;
const LOGINS: &str = "12";
const ACTS: &str = "60";

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/devices", get(show))
        .route("/devices/end", get(ask_end).post(end))
        .route("/devices/label", post(label))
        .route("/devices/confirm", post(vouch))
        .route("/events", get(feed))
}

/// The page.
#[derive(Template)]
#[template(path = "devices.html")]
struct Page {
    frame: Frame,
    devices: Vec<Device>,
    past: Table,
    logins: Table,
    looked: Table,
    /// Until when this device may not end older ones.
    fresh_until: Option<Time>,
    /// It waits for another one to confirm it.
    waits: bool,
    failure: Option<Failure>,
}

impl Page {
    fn others(&self) -> bool {
        self.devices.iter().any(|device| !device.row.is("current"))
    }
}

/// One device.
struct Device {
    row: Row,
    sessions: Vec<Row>,
}

impl Device {
    /// What people call it.
    fn name(&self) -> &str {
        name(&self.row)
    }

    fn end(&self) -> String {
        format!("/devices/end?{}", query([("client", self.row.text("id"))]))
    }

    /// What stands in its way, in words.
    fn state(&self) -> &'static str {
        match self.row.text("state") {
            "blocked" => "Blocked",
            "frozen" => "Frozen",
            "held" => "May not come back yet",
            _ if self.row.is("unconfirmed") => "Not confirmed",
            _ if self.row.is("connected") => "Connected",
            _ => "",
        }
    }

    /// What it may do.
    fn may(&self) -> &'static str {
        match self.row.text("state") {
            "blocked" => "Nothing: it is refused whatever it proves",
            "frozen" => "Nothing until it is unfrozen",
            _ if self.row.is("unconfirmed") => {
                "Chat; nothing with this account until it is confirmed"
            }
            _ => match self.row.text("access") {
                "restricted" => "Chat; nothing with this account",
                "normal" => "What your account may, but not what takes the password",
                _ => "Whatever your account may",
            },
        }
    }

    /// How it can come back.
    fn ways(&self) -> String {
        self.row.show("ways_back")
    }
}

fn name(row: &Row) -> &str {
    let software = row.text_or("software", "Unknown software");
    row.text_or("label", software)
}

/// The own clients; `all`: those that are over as well.
async fn clients(api: &Api, visitor: &Visitor, all: bool) -> Result<Vec<Row>, CommandError> {
    let args = [("jid", visitor.jid().into()), ("all", all.into())];
    Ok(ask(api, visitor.only_own(), "client list", args).await?.0)
}

async fn show(State(api): State<Api>, visitor: Visitor) -> Result<Response, Response> {
    let page = page(&api, &visitor).await;
    let page = page.map_err(refuse(&api, &visitor))?;
    Ok(render(StatusCode::OK, &page))
}

async fn page(api: &Api, visitor: &Visitor) -> Result<Page, CommandError> {
    let frame = Frame::of(api, visitor, "Your devices", "devices").fed_by("/events");
    let mut page = Page {
        frame,
        devices: Vec::new(),
        past: Table::default(),
        logins: Table::default(),
        looked: Table::default(),
        fresh_until: None,
        waits: false,
        failure: None,
    };
    let all = match clients(api, visitor, true).await {
        Ok(all) => all,
        // One that waits to be confirmed may not even look.
        Err(error) if error.forbidden => {
            (page.waits, page.failure) = (true, Some(error.into()));
            return Ok(page);
        }
        Err(error) => return Err(error),
    };
    let me = visitor.only_own();
    let (sessions, _) = ask(api, me.clone(), "session list", []).await?;
    let of = |client: &Row| {
        let id = client.text("id");
        sessions.iter().filter(|session| session.text("client") == id).cloned().collect()
    };
    let over = |row: &Row| {
        row.inner("over").is_some() && row.text("state") != "blocked"
            || !matches!(row.text("state"), "blocked" | "frozen" | "good" | "held")
    };
    let (mut past, there): (Vec<Row>, Vec<Row>) = all.into_iter().partition(over);
    page.devices = there.into_iter().map(|row| Device { sessions: of(&row), row }).collect();
    page.devices.sort_by_key(|device| {
        let row = &device.row;
        (!row.is("current"), !row.is("connected"), std::cmp::Reverse(row.text("seen").to_owned()))
    });
    page.fresh_until = page.devices.iter().find_map(|device| fresh_until(api, &device.row));
    past.sort_by_key(|row| std::cmp::Reverse(ended_at(row).to_owned()));
    page.past = past_table(&past);
    let args = [("jid", visitor.jid().into()), ("limit", LOGINS.into())];
    page.logins = match ask(api, me.clone(), "last", args).await {
        Ok((rows, _)) => logins(&rows),
        // It may be that they are not remembered here.
        Err(_) => logins(&[]),
    };
    let args = [("jid", visitor.jid().into()), ("limit", ACTS.into())];
    let (acts, _) = ask(api, me, "audit list", args).await?;
    page.looked = looked(&acts);
    Ok(page)
}

/// Until when a device is too young to end others; none: it is not.
fn fresh_until(api: &Api, row: &Row) -> Option<Time> {
    let span = api.server.config.clients.fresh.get().filter(|_| row.is("current"))?;
    let created: jiff::Timestamp = row.text("created").parse().ok()?;
    let created = Millis(u64::try_from(created.as_millisecond()).ok()?);
    let until = created.plus_seconds(span);
    (api.server.clock.now() < until).then(|| Time::parse(&until.to_string()))
}

fn ended_at(row: &Row) -> String {
    let over = row.inner("over").unwrap_or_default();
    over.text_or("at", row.text("seen")).to_owned()
}

fn past_table(past: &[Row]) -> Table {
    let columns = ["Device", "Ended", "Why", "By", "Words"];
    Table::of_each("Devices that are over", &columns, "None.", past.iter().take(PAST), |row| {
        let over = row.inner("over").unwrap_or_default();
        vec![
            Cell::text(name(row)),
            Cell::Time(Time::parse(&ended_at(row))),
            Cell::Badge(row.text("state").into()),
            Cell::of(&over, "by"),
            Cell::of(&over, "text"),
        ]
    })
}

pub(super) fn logins(rows: &[Row]) -> Table {
    let columns =
        ["When", "What came of it", "Why", "From", "By means of", "Software", "How often"];
    Table::of_each("Logins", &columns, "None that is remembered.", rows, |row| {
        vec![
            Cell::Time(row.time("since")),
            Cell::Badge(row.text("state").into()),
            Cell::of(row, "reason"),
            Cell::of(row, "address"),
            Cell::of(row, "mechanism"),
            Cell::of(row, "software"),
            Cell::text(row.number("count").max(1).to_string()),
        ]
    })
}

/// One visit to a page of others asks for several things at once: that is one line.
fn looked(rows: &[Row]) -> Table {
    let columns = ["When", "Who", "What", "What came of it"];
    let mut table = Table::new("Who looked, and who changed something", &columns, "Nobody.");
    let mut rows = rows.iter().peekable();
    while let Some(row) = rows.next() {
        let mut what = vec![row.text("what")];
        let same = |next: &&&Row| {
            let of = |row: &Row| (row.text("who").to_owned(), row.time("at").minute());
            row.text("outcome").is_empty() && next.text("outcome").is_empty() && of(row) == of(next)
        };
        while let Some(next) = rows.peek().filter(same) {
            what.push(next.text("what"));
            rows.next();
        }
        what.dedup();
        table.rows.push(vec![
            Cell::Time(row.time("at")),
            Cell::of(row, "who"),
            Cell::text(what.join(", ")),
            Cell::of(row, "outcome"),
        ]);
    }
    table
}

/// What is to end.
async fn question(
    api: &Api,
    visitor: &Visitor,
    fields: &Fields,
) -> Result<(Confirm, Vec<String>), Response> {
    let failed = refuse(api, visitor);
    let there = clients(api, visitor, false).await.map_err(&failed)?;
    let (title, lead, wanted): (_, _, Vec<&Row>) = match fields.text("which") {
        "all" => (
            "Log out everywhere",
            "All of your devices are logged out, this one too. Each needs the password to come back.",
            there.iter().collect(),
        ),
        "others" => (
            "Log out all other devices",
            "All devices but this one are logged out. Each needs the password to come back.",
            there.iter().filter(|row| !row.is("current")).collect(),
        ),
        _ => (
            "Log out a device",
            "Its sessions end now, and nothing that it has lets it back in but the password.",
            there.iter().filter(|row| row.text("id") == fields.text("client")).collect(),
        ),
    };
    if wanted.is_empty() {
        let none =
            CommandError::failed("there is no such device any more").hint("look at the list again");
        return Err(failed(none));
    }
    let frame = Frame::of(api, visitor, title, "devices");
    let mut page = Confirm::new(frame, "/devices/end", "/devices");
    page.lead = lead.into();
    let mut table = Table::new("What is logged out", &["Device", "From", "Last seen"], "");
    for row in &wanted {
        let here = if row.is("current") { " (this device)" } else { "" };
        let device = Cell::text(format!("{}{here}", name(row)));
        table.rows.push(vec![device, Cell::of(row, "address"), Cell::Time(row.time("seen"))]);
    }
    page.table = Some(table);
    page.hidden = vec![
        ("which".into(), fields.text("which").into()),
        ("client".into(), fields.text("client").into()),
    ];
    page.hidden.retain(|(_, value)| !value.is_empty());
    page.reason = Some(false);
    if fields.text("which").is_empty() {
        page.choices = vec![
            ("how", "revoke", "It may log in again with the password"),
            ("how", "block", "It is refused from now on, even with the password"),
        ];
    }
    page.password = !api.server.is_fresh(&visitor.caller);
    page.button = title.into();
    let ids = wanted.iter().map(|row| row.text("id").to_owned()).collect();
    Ok((page, ids))
}

async fn ask_end(
    State(api): State<Api>,
    visitor: Visitor,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let (page, _) = question(&api, &visitor, &Fields(pairs)).await?;
    Ok(render(StatusCode::OK, &page))
}

async fn end(State(api): State<Api>, posted: Posted) -> Result<Response, Response> {
    let Posted { mut visitor, peer, fields } = posted;
    let (mut page, ids) = question(&api, &visitor, &fields).await?;
    page.given_reason = fields.text("reason").into();
    if let Some(failure) = confirm::prove(&api, &visitor, peer, &fields).await? {
        page.failure = Some(failure);
        return Ok(render(StatusCode::FORBIDDEN, &page));
    }
    // The password may have been shown just now.
    visitor = super::visitor::visit(&api, peer, &visitor.text)
        .await
        .map_err(|_| Redirect::to("/login").into_response())?;
    let mut args = Map::new();
    let name = match fields.text("how") {
        "block" => "client block",
        _ => "client revoke",
    };
    match (name, ids.as_slice()) {
        ("client block", [id]) => args.insert("client".into(), id.as_str().into()),
        _ => args.insert("client".into(), json!(ids)),
    };
    if !fields.text("reason").is_empty() {
        args.insert("reason".into(), fields.text("reason").into());
    }
    match super::page::run(&api, visitor.only_own(), name, args).await {
        Ok((rows, done)) => {
            let columns = ["jid", "outcome", "ways_back"];
            let table = Table::of_rows("What became of each", &columns, &rows);
            let frame = Frame::of(&api, &visitor, "Logged out", "devices");
            Ok(Outcome::of(frame, &done, Some(table), "/devices"))
        }
        Err(error) => {
            let status = status_of(&error);
            page.password = !api.server.is_fresh(&visitor.caller);
            page.failure = Some(error.into());
            Ok(render(status, &page))
        }
    }
}

/// Does something to one device, and shows the list again.
async fn simply(
    api: &Api,
    posted: &Posted,
    name: &'static str,
    args: &[&'static str],
) -> Result<Response, Response> {
    let Posted { visitor, fields, .. } = posted;
    let args = args.iter().map(|name| (*name, fields.text(name).into()));
    let done = ask(api, visitor.only_own(), name, args).await;
    done.map(|_| Redirect::to("/devices").into_response()).map_err(refuse(api, visitor))
}

async fn label(State(api): State<Api>, posted: Posted) -> Result<Response, Response> {
    simply(&api, &posted, "client label", &["client", "label"]).await
}

async fn vouch(State(api): State<Api>, posted: Posted) -> Result<Response, Response> {
    simply(&api, &posted, "client confirm", &["client"]).await
}

/// Changes of the own sessions as they happen.
async fn feed(State(api): State<Api>, visitor: Visitor) -> Result<Response, Response> {
    follow(&api, &visitor, visitor.only_own()).await
}
