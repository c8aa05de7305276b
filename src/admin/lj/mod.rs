//! LiveJournal's protocol, as far as it is about sessions: old programs log in, and make, look at and
//! end sessions by it. Off unless `lj.enabled` says otherwise.
//!
//! ```text
//!   POST /interface/flat    ── flat ───┐            ┌─ auth ──► server: password, token, throttle
//!                                      ├─► mode ────┤
//!   POST /interface/xmlrpc  ── xmlrpc ─┘            └─ server::command: whoami, token mint,
//!                                                      session end, client list, client revoke
//! ```
//!
//! Deliberately absent: everything else of that protocol (journals, friends, entries), any state of
//! sessions of its own, and any right that the command table does not give.

mod auth;
mod challenge;
mod cookie;
mod fault;
mod flat;
mod mode;
mod xmlrpc;

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    response::Response,
    routing::post,
};
use http::{HeaderMap, header};
use serde_json::{Map, Value};
use server::bearer::Peer;

use self::{
    challenge::Challenges,
    fault::{Fault, Number},
};
use crate::http::Api;

/// The longest body of a request in bytes.
const BODY: usize = 64 << 10;
/// Cookies of a request that are tried at most.
const COOKIES: usize = 4;

/// What requests are done with.
struct Door {
    api: Api,
    challenges: Challenges,
}

/// A request, whichever way it came.
struct Asked {
    /// What is to be done; empty: it does not say.
    mode: String,
    args: Map<String, Value>,
    peer: Peer,
    /// The session strings in its cookies.
    sessions: Vec<String>,
    /// It has the header that a page of somebody else cannot send along with a cookie.
    guarded: bool,
}

impl Asked {
    fn new(mode: String, args: Map<String, Value>, peer: Peer, headers: &HeaderMap) -> Self {
        let cookies = headers.get_all(header::COOKIE).iter();
        let pairs = cookies.filter_map(|value| value.to_str().ok()).flat_map(|t| t.split(';'));
        let sessions = pairs.filter_map(|pair| pair.trim().strip_prefix("ljsession="));
        let sessions = sessions.take(COOKIES).map(|text| text.trim_matches('"').into()).collect();
        let guarded = headers.get("x-lj-auth").is_some_and(|value| value == "cookie");
        Self { mode, args, peer, sessions, guarded }
    }

    /// An argument as text; none: it is not there, or has no text.
    fn text(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        match self.args.get(name)? {
            Value::String(text) => Some(text.into()),
            Value::Number(number) => Some(number.to_string().into()),
            Value::Bool(bool) => Some(if *bool { "1" } else { "0" }.into()),
            Value::Array(_) | Value::Null | Value::Object(_) => None,
        }
    }

    /// Whether an argument is there and true.
    fn flag(&self, name: &str) -> bool {
        self.text(name).is_some_and(|text| is_true(&text))
    }
}

/// What counts as true: anything but nothing, `0` and `false`.
fn is_true(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text != "0" && !text.eq_ignore_ascii_case("false")
}

/// The two addresses of the protocol; none if it is turned off.
pub(crate) fn routes(api: &Api) -> Router<Api> {
    if !api.server.config.lj.enabled {
        return Router::new();
    }
    let door = Arc::new(Door { api: api.clone(), challenges: Challenges::new() });
    Router::new()
        .route("/interface/flat", post(by_flat))
        .route("/interface/xmlrpc", post(by_xmlrpc))
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(door)
}

async fn by_flat(
    State(door): State<Arc<Door>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let read = body.map_err(too_large).and_then(|body| flat::read(&body));
    let mut args = match read {
        Ok(args) => args,
        Err(fault) => return flat::answer(Err(fault), false),
    };
    let mode = args.remove("mode");
    let mode = mode.as_ref().and_then(Value::as_str).unwrap_or_default().trim().to_owned();
    let asked = Asked::new(mode, args, peer, &headers);
    let urlenc = asked.text("responseenc").is_some_and(|enc| enc == "urlenc");
    flat::answer(mode::run(&door, &asked).await, urlenc)
}

async fn by_xmlrpc(
    State(door): State<Arc<Door>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let read = body.map_err(too_large).and_then(xmlrpc::read);
    let (mode, args) = match read {
        Ok(call) => call,
        Err(fault) => return xmlrpc::answer(Err(fault)),
    };
    xmlrpc::answer(mode::run(&door, &Asked::new(mode, args, peer, &headers)).await)
}

fn too_large(_: BytesRejection) -> Fault {
    Fault::with(Number::Argument, "the body has more than 64 KiB, or did not come whole")
}
