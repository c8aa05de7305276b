//! Whether the server lives, and how it is: for whatever watches it.

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, header};
use server::command;

use super::{
    Api,
    auth::Bearer,
    problem::{Kind, Problem},
};

/// As Prometheus reads it.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn routes() -> Router<Api> {
    Router::new()
        // It answers: nothing else is meant by it.
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

/// Whether clients may be sent here: storage answers, and the server does not stop.
async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    let unready = |why: &str| Problem::new(Kind::Unavailable, why).retry(5);
    if *api.stop.borrow() || api.server.stopping() {
        return Err(unready("the server is stopping"));
    }
    api.server.accounts(None, 1).await.map_err(|_| unready("storage does not answer"))?;
    Ok("ready\n")
}

async fn metrics(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    if !api.server.config.http.open_metrics {
        let (mut parts, _) = request.into_parts();
        use axum::extract::FromRequestParts;
        let Bearer(caller) = Bearer::from_request_parts(&mut parts, &api).await?;
        // The numbers of `usher status`, and more of them.
        let status = command::find("status").ok_or_else(Problem::nowhere)?;
        api.server.may_run(&caller, status).await?;
    }
    let text = api.server.metrics.text(&api.server);
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT))], text).into_response())
}
