//! What other programs know of tokens by standard: introspection (RFC 7662) and revocation (RFC 7009),
//! as forms. Both are faces of commands: `token inspect` and `token revoke`.

use axum::{
    Form, Router,
    extract::{State, rejection::FormRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use server::command::CommandError;
use wire::Secret;

use super::{
    Api, ROOT,
    auth::Bearer,
    call::{self, json as answer},
    problem::{Kind, Problem},
};

pub(super) const INTROSPECT: &str = "/oauth/introspect";
pub(super) const REVOKE: &str = "/oauth/revoke";

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route(&format!("{ROOT}{INTROSPECT}"), post(introspect))
        .route(&format!("{ROOT}{REVOKE}"), post(revoke))
}

#[derive(Deserialize)]
struct Presented {
    token: String,
    /// Only a hint, and there is only one kind.
    #[serde(default, rename = "token_type_hint")]
    _hint: Option<String>,
}

fn presented(form: Result<Form<Presented>, FormRejection>) -> Result<String, Problem> {
    let Form(Presented { token, .. }) = form.map_err(|why| match why.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Problem::new(Kind::MediaType, "the body has to be `application/x-www-form-urlencoded`")
        }
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Kind::TooLarge, "it has more than 1 MiB"),
        _ => Problem::new(Kind::Usage, why.body_text()).hint("send `token=secret-token:…`"),
    })?;
    Ok(token)
}

/// Whether a token is good, and for what. About one that is not, nothing else is said.
async fn introspect(
    State(api): State<Api>,
    Bearer(caller): Bearer,
    form: Result<Form<Presented>, FormRejection>,
) -> Result<Response, Problem> {
    let args = Map::from_iter([("token".to_owned(), presented(form)?.into())]);
    let (rows, _) = call::perform(&api, caller, "token inspect", args).await?;
    let Some(row) = rows.into_iter().next() else { return Ok(answer(&json!({ "active": false }))) };
    let text = |name: &str| row.get(name).and_then(Value::as_str);
    let seconds = |name: &str| text(name)?.parse::<jiff::Timestamp>().ok().map(|at| at.as_second());
    let scopes = row
        .get("scopes")
        .and_then(Value::as_array)
        .map(|scopes| scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
    let mut document = json!({
        "active": true,
        "client_id": text("client"),
        "username": text("jid"),
        "token_type": "Bearer",
        "iat": seconds("created"),
        "sub": text("jid"),
        "jti": text("id"),
        "purpose": text("purpose"),
        "role": text("role"),
    });
    let more = [("exp", seconds("expires").map(Value::from)), ("scope", scopes.map(Value::from))];
    if let Some(document) = document.as_object_mut() {
        document.extend(more.into_iter().filter_map(|(name, value)| Some((name.into(), value?))));
    }
    Ok(answer(&document))
}

/// Whoever has a token may make it void; nobody is told whether it was one.
async fn revoke(
    State(api): State<Api>,
    form: Result<Form<Presented>, FormRejection>,
) -> Result<Response, Problem> {
    void(&api, &presented(form)?).await?;
    Ok(StatusCode::OK.into_response())
}

/// Makes a token void, whoever has it; nothing if it is none.
pub(crate) async fn void(api: &Api, text: &str) -> Result<(), CommandError> {
    let secret = Secret::new(text.as_bytes().to_vec());
    Ok(api.server.void_token(&secret).await?)
}
