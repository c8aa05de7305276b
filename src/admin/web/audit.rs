//! The audit: who did what, newest first.

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    response::Response,
    routing::get,
};
use http::StatusCode;

use super::{
    form::Fields,
    page::{Frame, Prose, listed, render},
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
    let list = ("audit list", "/admin/audit");
    let (rows, next) = listed(&api, &visitor, list, &fields, "jid", PAGE).await?;
    let page = Page {
        frame: Frame::of(&api, &visitor, "Audit", "audit"),
        jid: fields.text("jid").into(),
        table: table(&rows),
        next,
    };
    Ok(render(StatusCode::OK, &page))
}

/// Entries as a table.
pub(super) fn table(rows: &[Row]) -> Table {
    let columns = ["When", "Who", "What", "With", "Done", "What came of it"];
    Table::of_each("Audit", &columns, "Nothing is written there.", rows, |row| {
        vec![
            Cell::Time(row.time("at")),
            Cell::of(row, "who"),
            Cell::of(row, "what"),
            Cell::of(row, "args"),
            Cell::Badge(if row.is("ok") { "done" } else { "not done" }.into()),
            Cell::of(row, "outcome"),
        ]
    })
}
