//! The audit: who did what, newest first.

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use serde_json::Value;

use super::{
    form::Fields,
    page::{Frame, Prose, Refusal, ask, query, render},
    table::{Cell, Table},
    view::Row,
    visitor::Visitor,
};
use crate::http::Api;

/// Entries of a page.
const PAGE: &str = "50";

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/admin/audit", get(show))
}

#[derive(Template)]
#[template(path = "audit.html")]
struct Page {
    frame: Frame,
    jid: String,
    table: Table,
    next: String,
}

async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let fields = Fields(pairs);
    let wanted = [("jid", fields.text("jid").trim()), ("after", fields.text("after"))];
    let said = wanted.into_iter().filter(|(_, text)| !text.is_empty());
    let args = said.chain([("limit", PAGE)]).map(|(name, text)| (name, Value::from(text)));
    let listed = ask(&api, visitor.caller.clone(), "audit list", args).await;
    let (rows, done) =
        listed.map_err(|error| Refusal::of(&api, &visitor, error).into_response())?;
    let next = done.fields.get("next").and_then(Value::as_str).map(|next| {
        format!("/admin/audit?{}", query([("jid", fields.text("jid")), ("after", next)]))
    });
    let page = Page {
        frame: Frame::of(&api, &visitor, "Audit", "audit"),
        jid: fields.text("jid").into(),
        table: table(&rows),
        next: next.unwrap_or_default(),
    };
    Ok(render(StatusCode::OK, &page))
}

/// Entries as a table.
pub(super) fn table(rows: &[Row]) -> Table {
    let columns = ["When", "Who", "What", "With", "Done", "What came of it"];
    let mut table = Table::new("Audit", &columns, "Nothing is written there.");
    for row in rows {
        table.rows.push(vec![
            Cell::Time(row.time("at")),
            Cell::of(row, "who"),
            Cell::of(row, "what"),
            Cell::of(row, "args"),
            Cell::Badge(if row.is("ok") { "done" } else { "not done" }.into()),
            Cell::of(row, "outcome"),
        ]);
    }
    table
}
