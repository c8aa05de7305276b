//! The sessions that are there: filtered, in pages, with what can be done to them. Kept up to date by
//! what `session watch` tells, without asking again: looking at others is written to the audit.

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use serde_json::{Map, Value};
use server::{command::CommandError, end::Level, session::Stage};

use super::{
    form::Fields,
    page::{Frame, ask, follow, query, refuse, render, run},
    view::Row,
    visitor::Visitor,
};
use crate::http::Api;

/// Rows of a page.
const PAGE: &str = "50";
/// What narrows the list.
const FILTERS: &[&str] =
    &["pattern", "stage", "ip", "software", "mechanism", "idle", "hibernating"];

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/admin/sessions", get(show)).route("/admin/events", get(feed))
}

#[derive(Template)]
#[template(path = "sessions.html")]
struct Page {
    frame: Frame,
    filter: Fields,
    /// How many there are, by name; empty for whom that is not.
    counts: Vec<(&'static str, u64)>,
    sessions: Vec<Row>,
    total: u64,
    /// Where the next page is.
    next: String,
    /// Whether all that match can be named to `session end`.
    all: Vec<(String, String)>,
    stages: Vec<&'static str>,
    levels: Vec<(&'static str, &'static str)>,
}

impl Page {
    /// The end of one session.
    fn end(&self, row: &Row) -> String {
        let pairs = [("id", row.text("id")), ("back", "/admin/sessions")];
        format!("/admin/act/session-end?{}", query(pairs))
    }

    /// Its account's page.
    fn account(&self, row: &Row) -> String {
        let bare = row.text("jid").split('/').next().unwrap_or_default();
        format!("/admin/account?{}", query([("jid", bare)]))
    }

    /// What is special about it, in words.
    fn marks(&self, row: &Row) -> Vec<&'static str> {
        let marks = [("frozen", "frozen"), ("ending", "ending"), ("hibernating", "asleep")];
        marks.iter().filter(|(field, _)| row.is(field)).map(|(_, word)| *word).collect()
    }

    fn filtered(&self) -> bool {
        FILTERS.iter().any(|name| !self.filter.text(name).is_empty())
    }
}

async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let page = page(&api, &visitor, Fields(pairs)).await;
    let page = page.map_err(refuse(&api, &visitor))?;
    Ok(render(StatusCode::OK, &page))
}

async fn page(api: &Api, visitor: &Visitor, filter: Fields) -> Result<Page, CommandError> {
    let mut args: Map<String, Value> = FILTERS
        .iter()
        .map(|name| (*name, filter.text(name).trim()))
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (name.to_owned(), text.into()))
        .collect();
    if args.contains_key("hibernating") {
        args.insert("hibernating".into(), true.into());
    }
    // All that match, as far as `session end` can be told: it knows no patterns.
    let pattern = args.get("pattern").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut all: Vec<(String, String)> = args
        .iter()
        .filter(|(name, _)| *name != "pattern")
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or("true").to_owned()))
        .collect();
    match pattern.as_str() {
        "" if all.is_empty() => all.push(("all".into(), "true".into())),
        "" => {}
        wild if wild.contains('*') => all.clear(),
        jid => all.push(("selector".into(), jid.into())),
    }
    args.insert("limit".into(), PAGE.into());
    if !filter.text("after").is_empty() {
        args.insert("after".into(), filter.text("after").into());
    }
    let (sessions, done) = run(api, visitor.caller.clone(), "session list", args).await?;
    let next = done.fields.get("next").and_then(Value::as_str).map(|next| {
        let kept = FILTERS.iter().map(|name| (*name, filter.text(name)));
        format!("/admin/sessions?{}", query(kept.chain([("after", next)])))
    });
    let counts = match ask(api, visitor.caller.clone(), "session count", []).await {
        Ok((rows, _)) => counts(rows.first()),
        Err(_) => Vec::new(),
    };
    Ok(Page {
        frame: Frame::of(api, visitor, "Sessions", "sessions").fed_by("/admin/events"),
        total: done.fields.get("total").and_then(Value::as_u64).unwrap_or(sessions.len() as u64),
        filter,
        counts,
        sessions,
        next: next.unwrap_or_default(),
        all,
        stages: Stage::ALL.iter().map(|stage| stage.as_str()).collect(),
        levels: Level::NAMES.iter().map(|name| (*name, about(name))).collect(),
    })
}

fn counts(row: Option<&Row>) -> Vec<(&'static str, u64)> {
    let names = ["total", "unauthed", "c2s", "bound", "available", "interested", "hibernating"];
    row.map(|row| names.map(|name| (name, row.number(name))).to_vec()).unwrap_or_default()
}

/// How far a level goes, in words.
fn about(level: &str) -> &'static str {
    match level {
        "kick" => "kick: close the stream; it may be resumed",
        "end" => "end: nothing resumes it",
        "revoke" => "revoke: also the clients' tokens",
        "block" => "block: also refuse the clients",
        _ => "disable: also the accounts",
    }
}

/// Changes of all sessions as they happen.
async fn feed(State(api): State<Api>, visitor: Visitor) -> Result<Response, Response> {
    follow(&api, &visitor, visitor.caller.clone()).await
}
