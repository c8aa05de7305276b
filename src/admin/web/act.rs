//! Any command that acts on others, as a page: made from its declaration. Asked by GET, or by POST
//! without `sure`, it shows what would be done; with `sure` it is done. What the reader adds there is a
//! reason, and the password if it takes a recent one.

use axum::{
    Router,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::StatusCode;
use serde_json::{Map, Value};
use server::command::{self, Command, CommandError, Shape};

use super::{
    confirm::{self, Confirm, Outcome, SURE},
    form::{Fields, Posted},
    page::{Failure, Frame, Refusal, local, nowhere, run},
    table::{Cell, Table, capital},
    view::{Row, shown},
    visitor::{self, Visitor},
};
use crate::http::{Api, params, status_of};

/// What can be done here, and what its button says.
const ACTS: &[(&str, &str)] = &[
    ("client block", "Block"),
    ("client confirm", "Confirm"),
    ("client revoke", "Log out for good"),
    ("client unblock", "Unblock"),
    ("epoch raise", "End everything from before"),
    ("grant revoke", "Revoke the grant"),
    ("policy set", "Set the policy"),
    ("policy unset", "Take the policy away"),
    ("session end", "End the sessions"),
    ("session freeze", "Freeze the sessions"),
    ("session unfreeze", "Unfreeze the sessions"),
    ("token revoke", "Revoke the token"),
    ("user disable", "Disable the account"),
    ("user enable", "Enable the account"),
];

/// Fields of the form that are no arguments.
const OWN: &[&str] = &["back", "form", "password", SURE];

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/admin/act/{name}", get(show).post(act))
}

/// Arguments of `session end` that the page shows by their effect.
const SHOWN: &[&str] = &["id", "if-hash", "level", "reason", "selector"];

/// Arguments that make another thing of an act than what is shown.
const NOT_HERE: &[&str] = &["at", "dry-run", "in"];

/// An act, with what it is to be done to.
struct Act {
    command: &'static Command,
    button: &'static str,
    args: Map<String, Value>,
    /// The same as fields of a form.
    pairs: Vec<(String, String)>,
    back: String,
}

impl Act {
    fn of(name: &str, fields: &Fields) -> Result<Self, Option<CommandError>> {
        let known = ACTS.iter().find(|(known, _)| known.replace(' ', "-") == name);
        let (name, button) = *known.ok_or(None)?;
        let command = command::find(name).ok_or(None)?;
        // One form has a button for freezing too, which knows no levels.
        let other = |name: &str| name == "level" && command.arg(name).is_none();
        let said = |(name, value): &&(String, String)| {
            !value.trim().is_empty() && !OWN.contains(&name.as_str()) && !other(name)
        };
        let pairs: Vec<_> = fields.0.iter().filter(said).cloned().collect();
        // Whoever is there later is not whom the page can show.
        if let Some((name, _)) = pairs.iter().find(|(name, _)| NOT_HERE.contains(&name.as_str())) {
            let error = CommandError::usage(format!("`{name}` is not for this page"));
            return Err(Some(error.hint("plan it at the command line")));
        }
        let args = params::from_query(command, pairs.clone())?;
        let back = local(fields.text("back")).to_owned();
        Ok(Self { command, button, args, pairs, back })
    }

    fn path(&self) -> String {
        format!("/admin/act/{}", self.command.name.replace(' ', "-"))
    }

    /// Whether it takes a recent password.
    fn fresh(&self) -> bool {
        let level = self.args.get("level").and_then(Value::as_str);
        self.command.fresh
            || matches!(level, Some("revoke" | "block" | "disable"))
            || self.args.contains_key("hold-off")
    }

    /// The page that asks.
    fn question(&self, api: &Api, visitor: &Visitor) -> Confirm {
        let frame = Frame::of(api, visitor, self.button, "");
        let mut page = Confirm::new(frame, self.path(), &self.back);
        let Command { about, details, .. } = self.command;
        page.lead = format!("{about}. {details}");
        page.button = self.button.into();
        let reason = self.command.arg("reason").is_some();
        page.reason = reason.then_some(true);
        page.given_reason = self.args.get("reason").map(shown).unwrap_or_default();
        let rest = self.pairs.iter().filter(|(name, _)| name != "reason" && name != "if-hash");
        page.hidden = rest.cloned().collect();
        page.hidden.push(("back".into(), self.back.clone()));
        page.password = self.fresh() && !api.server.is_fresh(&visitor.caller);
        let mut table = Table::new("What it is about", &["What", "Value"], "");
        let said = self.args.iter().filter(|(name, _)| *name != "reason" && *name != "if-hash");
        let line = |(name, value): (&String, &Value)| {
            let name = match name.as_str() {
                "selector" => "Whose".into(),
                other => capital(&other.replace('-', " ")),
            };
            vec![Cell::text(name), Cell::text(shown(value))]
        };
        table.rows = said.map(line).collect();
        page.table = Some(table).filter(|table| !table.rows.is_empty());
        page
    }

    /// The page that asks, with whom it would hit, if that can be told.
    async fn preview(&self, api: &Api, visitor: &Visitor) -> Result<Confirm, CommandError> {
        let mut page = self.question(api, visitor);
        if self.command.name != "session end" {
            return Ok(page);
        }
        let mut args = self.args.clone();
        args.remove("if-hash");
        args.remove("reason");
        args.insert("dry-run".into(), true.into());
        let (rows, done) = run(api, visitor.caller.clone(), "session end", args).await?;
        if !done.matched {
            return Err(CommandError::failed(done.message).hint("they may have ended already"));
        }
        let count = done.fields.get("would_end").and_then(Value::as_u64).unwrap_or_default();
        let (these, s) = if count == 1 { ("this", "") } else { ("these", "s") };
        let with = match self.args.get("level").and_then(Value::as_str) {
            Some("revoke") => {
                ", and their clients lose all that lets them in, those that are away too"
            }
            Some("block") => {
                ", and their clients, those that are away too, are refused whatever they prove"
            }
            Some("disable") => ", and their ACCOUNTS are disabled",
            _ => "",
        };
        let more = self.args.iter().filter(|(name, _)| !SHOWN.contains(&name.as_str()));
        let more: Vec<_> = more.map(|(name, value)| format!("{name} {}", shown(value))).collect();
        let more =
            if more.is_empty() { String::new() } else { format!(" With: {}.", more.join(", ")) };
        page.lead = format!(
            "{count} session{s} would end{with}. Only {these} will, or none if another has come \
             meanwhile.{more}"
        );
        if let Some(hash) = done.fields.get("hash").and_then(Value::as_str) {
            page.hidden.push(("if-hash".into(), hash.into()));
        }
        page.table = Some(sessions(&rows));
        page.button = format!("End {count} session{s}");
        Ok(page)
    }
}

/// Sessions of a dry run.
fn sessions(rows: &[Row]) -> Table {
    let mut table = Table::new("Sessions that would end", &["Session", "Id", "What happens"], "");
    for row in rows {
        let outcome = match row.text("outcome") {
            "would-end" => "ends",
            other => other,
        };
        table.rows.push(vec![
            Cell::text(row.text_or("jid", "not logged in")),
            Cell::of(row, "id"),
            Cell::Badge(outcome.into()),
        ]);
    }
    table
}

/// What the reader is told of an act that cannot be.
fn refused(api: &Api, visitor: &Visitor, error: Option<CommandError>) -> Response {
    match error {
        Some(error) => Refusal::of(api, visitor, error).into_response(),
        None => nowhere(),
    }
}

async fn show(
    State(api): State<Api>,
    Path(name): Path<String>,
    visitor: Visitor,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Response> {
    let act = Act::of(&name, &Fields(pairs)).map_err(|why| refused(&api, &visitor, why))?;
    asked(&api, &visitor, &act).await
}

async fn asked(api: &Api, visitor: &Visitor, act: &Act) -> Result<Response, Response> {
    let may = api.server.may_run(&visitor.caller, act.command).await;
    // What only lacks a recent password is asked for it.
    if let Err(error) = may
        && (!act.fresh() || api.server.is_fresh(&visitor.caller))
    {
        return Err(refused(api, visitor, Some(error)));
    }
    let page = act.preview(api, visitor).await;
    let page = page.map_err(|error| refused(api, visitor, Some(error)))?;
    Ok(super::page::render(StatusCode::OK, &page))
}

async fn act(
    State(api): State<Api>,
    Path(name): Path<String>,
    posted: Posted,
) -> Result<Response, Response> {
    let Posted { mut visitor, peer, fields } = posted;
    let act = Act::of(&name, &fields).map_err(|why| refused(&api, &visitor, why))?;
    if fields.text(SURE) != "yes" {
        return asked(&api, &visitor, &act).await;
    }
    let again = |failure: Failure, visitor: &Visitor, status: StatusCode| {
        let mut page = act.question(&api, visitor);
        if let Some(hash) = act.args.get("if-hash").map(shown) {
            page.hidden.push(("if-hash".into(), hash));
        }
        page.failure = Some(failure);
        super::page::render(status, &page)
    };
    if let Some(failure) = confirm::prove(&api, &visitor, peer, &fields).await? {
        return Ok(again(failure, &visitor, StatusCode::FORBIDDEN));
    }
    // The password may have been shown just now.
    if let Ok(proved) = visitor::visit(&api, peer, &visitor.text).await {
        visitor = proved;
    }
    match run(&api, visitor.caller.clone(), act.command.name, act.args.clone()).await {
        Ok((rows, done)) => {
            let columns = match act.command.shape {
                Shape::Outcome(columns) => columns,
                _ => &[],
            };
            let table = Table::of_rows("What became of each", columns, &rows);
            let table = Some(table).filter(|table| !table.rows.is_empty());
            let frame = Frame::of(&api, &visitor, act.button, "");
            Ok(Outcome::of(frame, &done, table, &act.back))
        }
        // With the list as it is now: what was shown before may be why it could not be done.
        Err(error) => Ok(match act.preview(&api, &visitor).await {
            Ok(mut page) => {
                page.failure = Some(error.clone().into());
                super::page::render(status_of(&error), &page)
            }
            Err(_) => again(error.clone().into(), &visitor, status_of(&error)),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_act_is_a_command_that_changes_something() {
        for (name, _) in ACTS {
            assert!(command::find(name).is_some_and(|command| command.mutates), "{name}");
        }
    }
}
