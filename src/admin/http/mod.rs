//! The HTTP face of the command table (RFC 9110), and what else programs expect of a server there.
//!
//! ```text
//!   /api/v1/session/list …   one path per command, made from the table ── params ─┐
//!   /api/v1/openapi.json     the same, described (OpenAPI 3.1)                    ├─► server::command
//!   /api/v1/oauth/…          RFC 7662 introspection, RFC 7009 revocation ─────────┘
//!   /healthz /readyz         whether it lives, whether it may be sent clients
//!   /metrics                 numbers for Prometheus
//!   /interface/…             LiveJournal's protocol, if it is turned on (`crate::lj`)
//!   everything else          pages for people: the module `web`
//! ```
//!
//! A request bears a token (RFC 6750) of the purpose `api`, minted by `usher token mint`; it is done
//! as the token's owner, within the token's scopes. Every error is a problem document (RFC 9457).
//! Deliberately absent: cookies, passwords and cross-origin access (nothing here is for pages of others),
//! sockets and TLS (the crate `net`), and any knowledge of single commands.

mod auth;
mod body;
pub(crate) mod call;
pub(crate) mod events;
mod health;
pub(crate) mod oauth;
pub mod openapi;
pub(crate) mod params;
mod problem;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Request},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use server::{Server, command};
use tokio::sync::watch;

use self::body::InTime;
use self::problem::Problem;
pub(crate) use self::{call::perform, problem::status_of};
use crate::web;

/// Where the commands are.
pub const ROOT: &str = "/api/v1";
/// The longest body of a request in bytes: an import comes in chunks that fit.
const BODY: usize = 1 << 20;
/// How long a whole body may take.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What requests are done with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) server: Arc<Server>,
    /// True once the server stops: streams without end are ended.
    stop: watch::Receiver<bool>,
}

/// Everything that is served over HTTP. `stop` becomes true when the last requests are to end.
pub fn router(server: &Arc<Server>, stop: watch::Receiver<bool>) -> Router {
    let api = Api { server: server.clone(), stop };
    let commands = command::table().fold(Router::new(), |router, command| {
        router.route(&openapi::path(command), call::route(command))
    });
    let pages = match server.config.http.web {
        true => web::routes(),
        false => Router::new(),
    };
    commands
        .merge(oauth::routes())
        .merge(health::routes())
        .merge(openapi::routes())
        .merge(crate::lj::routes(&api))
        .merge(pages)
        .fallback(async |request: Request| match web::is_page(&request) {
            true => web::nowhere(),
            false => Problem::nowhere().into_response(),
        })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn(finish))
        .with_state(api)
}

/// Gives the body of a request so long and no longer.
async fn in_time(request: Request, next: Next) -> Response {
    next.run(request.map(|body| Body::new(InTime::new(body, BODY_TIME)))).await
}

/// What holds for every answer: it is for nobody's cache and no page's frame.
async fn finish(request: Request, next: Next) -> Response {
    let page = web::is_page(&request);
    let mut response = next.run(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = response.headers().get(header::ALLOW).cloned();
        response = match page {
            true => web::method(),
            false => Problem::method().into_response(),
        };
        if let Some(allowed) = allowed {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
    }
    let headers = response.headers_mut();
    let mut set = |name, value| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CACHE_CONTROL, "no-store");
    set(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}
