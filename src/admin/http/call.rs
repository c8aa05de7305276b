//! One request is one call of a command. What only looks is a GET with its arguments in the query;
//! what changes something, or takes a secret, is a POST with them in a JSON body.
//!
//! A list is `{"items":[…]}` and says how to go on: `next`, and the same as a link (RFC 8288). A record is
//! its object. An outcome is `{"message":…}` with its fields, and `items` if it is about several things.

use axum::{
    body::Bytes,
    extract::{
        Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use server::command::{self, Caller, Collected, Command, CommandError, Done, Shape, ValueKind};

use super::{
    Api,
    auth::Bearer,
    events, openapi, params,
    problem::{Kind, Problem},
};

/// How many rows a list has if the request does not say.
pub(super) const PAGE: u64 = 100;
/// How many it may have at most.
pub(super) const MAX_PAGE: u64 = 1_000;

/// Whether a command is asked for by GET. A secret has no place in an address, which is logged.
pub(super) fn by_get(command: &Command) -> bool {
    !command.mutates && !command.args.iter().any(|arg| arg.kind == ValueKind::Secret)
}

/// The route of a command.
pub(super) fn route(command: &'static Command) -> MethodRouter<Api> {
    if matches!(command.shape, Shape::Stream(_)) {
        return get(move |State(api): State<Api>, bearer: Bearer, query: Pairs| async move {
            let args = query_args(command, query)?;
            Ok::<_, Problem>(events::stream(api, bearer.0, command, args).await?)
        });
    }
    if by_get(command) {
        return get(move |State(api): State<Api>, bearer: Bearer, query: Pairs| async move {
            let args = query_args(command, query)?;
            answer(&api, bearer.0, command, args).await
        });
    }
    post(move |State(api): State<Api>, bearer: Bearer, headers: HeaderMap, body: Body| async move {
        let args = body_args(command, &headers, body)?;
        answer(&api, bearer.0, command, args).await
    })
}

type Body = Result<Bytes, BytesRejection>;

type Pairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

fn query_args(command: &Command, query: Pairs) -> Result<Map<String, Value>, Problem> {
    let Query(pairs) = query.map_err(|why| Problem::new(Kind::Usage, why.body_text()))?;
    let mut args = params::from_query(command, pairs)?;
    if command.arg("limit").is_some() {
        let limit = args.entry("limit").or_insert_with(|| PAGE.to_string().into());
        let number = limit.as_str().and_then(|limit| limit.parse::<u64>().ok());
        if number.is_some_and(|limit| limit > MAX_PAGE) {
            let detail = format!("`limit` has to be {MAX_PAGE} at most");
            return Err(Problem::new(Kind::Usage, detail)
                .hint("go on with `after`, which the answer names as `next`"));
        }
    }
    Ok(args)
}

fn body_args(
    command: &Command,
    headers: &HeaderMap,
    body: Body,
) -> Result<Map<String, Value>, Problem> {
    let body = body.map_err(|why| match why.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Kind::TooLarge, "it has more than 1 MiB"),
        _ => Problem::new(Kind::Usage, why.body_text()),
    })?;
    let media = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    let json = match media {
        // A request without arguments needs no body.
        None => body.is_empty(),
        Some(text) => text.is_ok_and(|text| {
            let essence = text.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
        }),
    };
    if !json {
        return Err(Problem::new(Kind::MediaType, "the body has to be `application/json`"));
    }
    Ok(params::from_body(command, &body)?)
}

/// A command; all that it gave.
pub(crate) async fn perform(
    api: &Api,
    caller: Caller,
    name: &'static str,
    args: Map<String, Value>,
) -> Result<(Vec<Map<String, Value>>, Done), CommandError> {
    let collected = command::collect(api.server.clone(), caller, name, args, usize::MAX).await;
    let Collected { rows, outcome, .. } = collected;
    Ok((rows, outcome?))
}

async fn answer(
    api: &Api,
    caller: Caller,
    command: &'static Command,
    args: Map<String, Value>,
) -> Result<Response, Problem> {
    let asked = args.clone();
    let (mut rows, done) = perform(api, caller, command.name, args).await?;
    let document = match command.shape {
        Shape::Record if !rows.is_empty() => rows.swap_remove(0),
        Shape::List(_) | Shape::Stream(_) => {
            let mut document = done.fields;
            document.insert("items".into(), rows.into_iter().map(Value::Object).collect());
            return Ok(list(command, &asked, document));
        }
        Shape::Record | Shape::Outcome(_) if !done.matched => {
            return Err(Problem::new(Kind::NotFound, done.message).with(done.fields));
        }
        Shape::Record | Shape::Outcome(_) => {
            let mut document = Map::from_iter([("message".to_owned(), done.message.into())]);
            document.extend(done.fields);
            if !rows.is_empty() {
                document.insert("items".into(), rows.into_iter().map(Value::Object).collect());
            }
            document
        }
    };
    Ok(json(&Value::Object(document)))
}

/// A list, with a link to its next page if there is one.
fn list(command: &Command, args: &Map<String, Value>, document: Map<String, Value>) -> Response {
    let next =
        document.get("next").and_then(Value::as_str).map(|next| next_page(command, args, next));
    let mut response = json(&Value::Object(document));
    if let Some(Ok(link)) =
        next.map(|next| HeaderValue::try_from(format!("<{next}>; rel=\"next\"")))
    {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

fn next_page(command: &Command, args: &Map<String, Value>, next: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in args.iter().filter(|(name, _)| *name != "after") {
        match value {
            Value::Array(values) => {
                query
                    .extend_pairs(values.iter().filter_map(Value::as_str).map(|text| (name, text)));
            }
            Value::String(text) => {
                query.append_pair(name, text);
            }
            other => {
                query.append_pair(name, &other.to_string());
            }
        }
    }
    query.append_pair("after", next);
    format!("{}?{}", openapi::path(command), query.finish())
}

/// An answer in JSON.
pub(super) fn json(value: &Value) -> Response {
    let media = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (media, value.to_string()).into_response()
}
