//! Numbers over time, as charts and as a table: sessions by stage, logins, ends and memory.

use askama::Template;
use axum::{
    Router,
    extract::{Query, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::{
    form::Fields,
    page::{Frame, Prose, ask, refuse, render},
    plot::{Chart, Line},
    table::{Cell, Table},
    view::Row,
    visitor::Visitor,
};
use crate::http::Api;

/// How far back one can look.
const SPANS: &[(&str, &str)] = &[("1h", "hour"), ("6h", "six hours"), ("24h", "day")];
/// Points of a line at most.
const POINTS: usize = 240;
/// Rows of the table at most.
const ROWS: usize = 24;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/admin/charts", get(show))
}

#[derive(Template)]
#[template(path = "charts.html")]
struct Page {
    frame: Frame,
    span: &'static str,
    charts: Vec<Chart>,
    table: Table,
}

impl Page {
    fn spans(&self) -> &'static [(&'static str, &'static str)] {
        SPANS
    }
}

async fn show(
    State(api): State<Api>,
    visitor: Visitor,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let fields = Fields(pairs);
    let span = SPANS.iter().find(|(name, _)| *name == fields.text("span"));
    let span = span.map_or("1h", |(name, _)| name);
    let listed =
        ask(&api, visitor.caller.clone(), "trend list", [("since", Value::from(span))]).await;
    let (rows, _) = listed.map_err(refuse(&api, &visitor))?;
    let samples = thinned(rows);
    let page = Page {
        frame: Frame::of(&api, &visitor, "Charts", "charts"),
        span,
        charts: charts(&samples),
        table: table(&samples),
    };
    Ok(render(StatusCode::OK, &page))
}

/// No more rows than points fit; the last one is always among them.
fn thinned(rows: Vec<Row>) -> Vec<Row> {
    let step = rows.len().div_ceil(POINTS).max(1);
    let last = rows.len().saturating_sub(1) % step;
    rows.into_iter().skip(last).step_by(step).collect()
}

fn charts(samples: &[Row]) -> Vec<Chart> {
    let at = |row: &Row| row.text("at").parse::<Timestamp>().ok().map(|at| at.as_second());
    let times: Vec<i64> = samples.iter().filter_map(at).collect();
    let level = |name: &str| samples.iter().map(|row| row.number(name)).collect::<Vec<_>>();
    // What has happened since the sample before.
    let rate = |name: &str| {
        let sums = level(name);
        let first = sums.first().copied().unwrap_or_default();
        let before = std::iter::once(first).chain(sums.iter().copied());
        sums.iter().zip(before).map(|(now, then)| now.saturating_sub(then)).collect::<Vec<_>>()
    };
    let line = |name: &'static str, values: Vec<u64>| Line { name, values };
    let stages = ["interested", "available", "bound", "c2s", "unauthed"];
    let sessions = std::iter::once(line("all", level("total")))
        .chain(stages.into_iter().map(|stage| line(stage, level(stage))))
        .collect();
    let memory = level("memory").iter().map(|bytes| bytes >> 20).collect();
    let logins = vec![line("logins", rate("logins")), line("refused", rate("refused"))];
    vec![
        Chart::new("Sessions by stage", "", &times, sessions),
        Chart::new("Logins, and those that were refused", "", &times, logins),
        Chart::new("Sessions that ended", "", &times, vec![line("ends", rate("ends"))]),
        Chart::new("Memory", " MiB", &times, vec![line("memory", memory)]),
    ]
}

fn table(samples: &[Row]) -> Table {
    let columns = ["When", "Sessions", "Logins so far", "Refused so far", "Ends so far", "Memory"];
    let mut table = Table::new("The same numbers", &columns, "Nothing is known yet.");
    let step = samples.len().div_ceil(ROWS).max(1);
    table.rows = samples
        .iter()
        .rev()
        .step_by(step)
        .map(|row| {
            vec![
                Cell::Time(row.time("at")),
                Cell::of(row, "total"),
                Cell::of(row, "logins"),
                Cell::of(row, "refused"),
                Cell::of(row, "ends"),
                Cell::text(format!("{} MiB", row.number("memory") >> 20)),
            ]
        })
        .collect();
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(count: usize) -> Vec<Row> {
        let row = |index| json!({ "logins": index, "at": "2026-11-24T18:00:00Z" });
        let row = |index| Row(row(index).as_object().cloned().unwrap_or_default());
        (0..count).map(row).collect()
    }

    #[test]
    fn a_long_time_has_few_points_and_the_last_one_is_among_them() {
        for count in [0, 1, POINTS, POINTS + 1, 2_880] {
            let thin = thinned(rows(count));
            assert!(thin.len() <= POINTS && thin.len() >= count.min(POINTS / 2), "{count}");
            let last = thin.last().map(|row| row.number("logins"));
            assert_eq!(last, count.checked_sub(1).map(|last| last as u64));
        }
    }

    #[test]
    fn what_is_counted_from_the_start_is_shown_by_when_it_happened() {
        let charts = charts(&rows(3));
        assert_eq!(charts[1].lines[0].values, [0, 1, 1]);
    }
}
