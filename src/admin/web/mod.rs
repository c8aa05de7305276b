//! Pages for people: "Your devices" for everybody, and a dashboard for those who have the rights.
//!
//! ```text
//!   browser ── cookie ─► visitor ─► a page ──► http::call ──► server::command
//!      │                               │
//!      └── form ─► form (CSRF) ────────┘          login ──► server::browser
//! ```
//!
//! Everything that is shown or done goes through the command table, as whoever is logged in and with
//! what they may do; whoever may not is told so by the table. A GET changes nothing; a POST carries a
//! key that no other page can know. All of it works without scripts; one script keeps pages up to date.
//!
//! Deliberately absent: single acts. What can be done is in [`act`]'s list of commands, and its page is
//! made from the command's own declaration.

mod accounts;
mod act;
mod assets;
mod audit;
mod charts;
mod confirm;
mod devices;
mod form;
mod login;
mod page;
mod plot;
mod sessions;
mod table;
mod view;
mod visitor;

use axum::{Router, extract::Request, response::Redirect, routing::get};
use http::header;
use server::rights::Right;

pub(crate) use self::page::{method, nowhere};
use self::visitor::Visitor;
use crate::http::{Api, ROOT};

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(home))
        .merge(login::routes())
        .merge(devices::routes())
        .merge(sessions::routes())
        .merge(accounts::routes())
        .merge(audit::routes())
        .merge(charts::routes())
        .merge(act::routes())
        .merge(assets::routes())
}

/// Whether whoever asks wants to read what comes, and is not a program that uses the API.
pub(crate) fn is_page(request: &Request) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    !request.uri().path().starts_with(ROOT)
        && accepts.is_some_and(|accept| accept.contains("text/html"))
}

async fn home(visitor: Visitor) -> Redirect {
    let sees_others = visitor.caller.rights().has(Right::List);
    Redirect::to(if sees_others { "/admin/sessions" } else { "/devices" })
}
