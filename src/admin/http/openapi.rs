//! The description of the HTTP face (OpenAPI 3.1), made from the command table: served, and written to
//! `doc/reference/openapi.json`. Deliberately absent: types of the fields of rows; the table has their
//! names for people, and programs find more in what they get.

use axum::{Router, routing::get};
use serde_json::{Map, Value, json};
use server::command::{self, Arg, Command, Form, Scope, Shape, ValueKind};

use super::{
    Api, ROOT, call, oauth,
    problem::{self, Kind},
};

/// Where a command is: `/api/v1/session/list`.
pub(super) fn path(command: &Command) -> String {
    format!("{ROOT}/{}", command.name.replace(' ', "/"))
}

pub(super) fn routes() -> Router<Api> {
    // Made once; it is the same as long as the program is.
    let text = document().to_string();
    let get = get(async move || {
        let media = [(http::header::CONTENT_TYPE, "application/json")];
        (media, text.clone())
    });
    Router::new().route(&format!("{ROOT}/openapi.json"), get)
}

/// The description.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    for command in command::table() {
        let method = if call::by_get(command) { "get" } else { "post" };
        paths.insert(path(command), json!({ method: operation(command) }));
    }
    paths.insert(format!("{ROOT}{}", oauth::INTROSPECT), form(
        "Say whether a token is good, and for what (RFC 7662)",
        "Needs the scope `list`. About a token that is not good, or not the caller's to know of, nothing \
         is said but that.",
        &json!({
            "type": "object",
            "required": ["active"],
            "properties": { "active": { "type": "boolean" }, "scope": { "type": "string" } },
        }),
        true,
    ));
    paths.insert(
        format!("{ROOT}{}", oauth::REVOKE),
        form(
            "Make a token void (RFC 7009)",
            "Whoever has the token may. The answer is the same if it was none.",
            &Value::Null,
            false,
        ),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Usher",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every command of the server, one path each. What only looks is a GET with its \
                arguments in the query; what changes something, or takes a secret, is a POST with them in a \
                JSON body. Errors are problem documents (RFC 9457).",
        },
        "security": [{ "token": [] }],
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "A token of the purpose `api`: `usher token mint JID --purpose api --scope list`",
            } },
            "schemas": { "Problem": problem() },
            "responses": { "Problem": {
                "description": "Why it was not done",
                "content": { problem::MEDIA_TYPE: {
                    "schema": { "$ref": "#/components/schemas/Problem" },
                } },
            } },
        },
        "paths": paths,
    })
}

fn problem() -> Value {
    let types: Vec<_> =
        Kind::ALL.iter().map(|kind| format!("urn:usher:problem:{}", kind.name())).collect();
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "enum": types },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "What was wrong" },
            "hint": { "type": "string", "description": "What to do about it" },
        },
    })
}

fn operation(command: &Command) -> Value {
    let own = match command.scope {
        Scope::Own => ", for what is not the caller's own",
        Scope::Others => "",
    };
    let right = command.right;
    let mut description = command.details.to_owned();
    if !description.is_empty() {
        description.push_str("\n\n");
    }
    description.push_str(&format!("Needs the scope `{right}`, and the right `{right}`{own}."));
    let mut operation = json!({
        "operationId": command.name.replace(' ', "_"),
        "tags": [command.name.split(' ').next()],
        "summary": command.about,
        "description": description,
        "x-scope": right.as_str(),
        "responses": responses(command),
    });
    let Some(fields) = operation.as_object_mut() else { return operation };
    if call::by_get(command) {
        fields.insert("parameters".into(), command.args.iter().map(parameter).collect());
    } else {
        let required = command.args.iter().any(|arg| arg.form == Form::Required);
        fields.insert(
            "requestBody".into(),
            json!({
                "required": required,
                "content": { "application/json": { "schema": body(command) } },
            }),
        );
    }
    operation
}

fn responses(command: &Command) -> Value {
    let item = |columns: &[&str]| {
        let properties: Map<String, Value> =
            columns.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
        json!({ "type": "object", "properties": properties })
    };
    let (media, schema) = match command.shape {
        Shape::List(columns) => (
            "application/json",
            json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "items": { "type": "array", "items": item(columns) },
                    "next": { "type": "string", "description": "To be given as `after` for what follows" },
                },
            }),
        ),
        Shape::Record => ("application/json", json!({ "type": "object" })),
        Shape::Outcome(columns) => (
            "application/json",
            json!({
                "type": "object",
                "required": ["message"],
                "properties": {
                    "message": { "type": "string" },
                    "items": { "type": "array", "items": item(columns) },
                },
            }),
        ),
        Shape::Stream(_) => (
            "text/event-stream",
            json!({ "type": "string", "description": "Server-sent events without end" }),
        ),
    };
    json!({
        "200": { "description": "Done", "content": { media: { "schema": schema } } },
        "default": { "$ref": "#/components/responses/Problem" },
    })
}

fn form(summary: &str, description: &str, schema: &Value, bearer: bool) -> Value {
    let mut done = json!({ "description": "Done" });
    if let (Some(done), false) = (done.as_object_mut(), schema.is_null()) {
        done.insert("content".into(), json!({ "application/json": { "schema": schema } }));
    }
    let mut operation = json!({
        "tags": ["oauth"],
        "summary": summary,
        "description": description,
        "requestBody": {
            "required": true,
            "content": { "application/x-www-form-urlencoded": { "schema": {
                "type": "object",
                "required": ["token"],
                "properties": {
                    "token": { "type": "string" },
                    "token_type_hint": { "type": "string" },
                },
            } } },
        },
        "responses": {
            "200": done,
            "default": { "$ref": "#/components/responses/Problem" },
        },
    });
    if let (Some(operation), false) = (operation.as_object_mut(), bearer) {
        operation.insert("security".into(), json!([]));
    }
    json!({ "post": operation })
}

fn parameter(arg: &Arg) -> Value {
    json!({
        "name": arg.name,
        "in": "query",
        "description": arg.about,
        "required": arg.form == Form::Required,
        "schema": value(arg),
    })
}

fn body(command: &Command) -> Value {
    let properties: Map<String, Value> = command
        .args
        .iter()
        .map(|arg| {
            let mut schema = value(arg);
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".into(), arg.about.into());
            }
            (arg.name.to_owned(), schema)
        })
        .collect();
    let required: Vec<_> =
        command.args.iter().filter(|arg| arg.form == Form::Required).map(|arg| arg.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// How ids are written that begin with this letter: 64 bits in base 32.
fn id(kind: char) -> String {
    format!("^{kind}-[0-9a-f][0-9a-hjkmnp-tv-z]{{12}}$")
}

/// What an argument may be.
fn value(arg: &Arg) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let schema = match arg.kind {
        _ if arg.form == Form::Flag => json!({ "type": "boolean" }),
        ValueKind::Choice(words) => json!({ "type": "string", "enum": words }),
        ValueKind::Columns(names) => {
            let names = names.join("|");
            text(&format!("^({names})(,({names}))*$"))
        }
        ValueKind::CsvFile => {
            json!({ "type": "array", "items": { "type": "array", "items": { "type": "string" } } })
        }
        ValueKind::Number if arg.name == "limit" => {
            json!({ "type": "integer", "minimum": 1, "maximum": call::MAX_PAGE, "default": call::PAGE })
        }
        ValueKind::Number => json!({ "type": "integer", "minimum": 0 }),
        ValueKind::Secret => json!({ "type": "string", "format": "password" }),
        ValueKind::Span => text("^(off|[1-9][0-9]{0,4}(s|m|h|d))$"),
        ValueKind::Time => json!({ "type": "string", "format": "date-time" }),
        ValueKind::Jid | ValueKind::Address | ValueKind::JidPattern | ValueKind::Path => {
            json!({ "type": "string", "minLength": 1 })
        }
        ValueKind::Client => text(&id('c')),
        ValueKind::Grant => text(&id('g')),
        ValueKind::Session => text("^[A-Za-z2-7]{25}[AEIMQUYaeimquy4]$"),
        ValueKind::Token => text(&id('t')),
        ValueKind::Text => json!({ "type": "string" }),
    };
    if arg.takes_several() { json!({ "type": "array", "items": schema }) } else { schema }
}
