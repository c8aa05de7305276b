//! What all pages have in common: the frame around them, how they go out, and what stands there when
//! something could not be done.

use std::fmt;

use askama::{Template, filters::HtmlSafe};
use axum::response::{Html, IntoResponse, Redirect, Response};
use http::{HeaderValue, StatusCode, Uri, header};
use serde_json::{Map, Value};
use server::{
    command::{self, Caller, CommandError, Done},
    rights::Right,
};

use super::{assets::ASSETS, form::Fields, view::Row, visitor::Visitor};
use crate::http::{Api, call, events, status_of};

/// What a page may load and do: nothing but what is of ours.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What is around every page.
pub(super) struct Frame {
    pub(super) title: String,
    /// Which part of the pages it is; marked in the navigation.
    pub(super) here: &'static str,
    /// Who sees it; none: somebody who is not logged in.
    pub(super) me: Option<Me>,
    /// Where changes are told while the page is looked at; empty: nowhere.
    pub(super) feed: &'static str,
}

/// Who sees a page, and where they may go.
pub(super) struct Me {
    pub(super) jid: String,
    /// What forms carry.
    pub(super) key: String,
    pub(super) sees_others: bool,
    pub(super) sees_numbers: bool,
    pub(super) sees_audit: bool,
}

impl Frame {
    /// Of a page for who is logged in.
    pub(super) fn of(
        api: &Api,
        visitor: &Visitor,
        title: impl Into<String>,
        here: &'static str,
    ) -> Self {
        let rights = visitor.caller.rights();
        let key = visitor.form_key(api);
        let me = Me {
            jid: visitor.jid().into(),
            key: key.expose_str().unwrap_or_default().into(),
            sees_others: rights.has(Right::List),
            sees_numbers: rights.has(Right::Status),
            sees_audit: rights.has(Right::Audit),
        };
        Self { title: title.into(), here, me: Some(me), feed: "" }
    }

    /// The same for a page that is kept up to date.
    pub(super) fn fed_by(self, feed: &'static str) -> Self {
        Self { feed, ..self }
    }

    /// Of a page for everybody.
    pub(super) fn plain(title: impl Into<String>) -> Self {
        Self { title: title.into(), here: "", me: None, feed: "" }
    }

    pub(super) fn style(&self) -> &'static str {
        &ASSETS.style.path
    }

    pub(super) fn script(&self) -> &'static str {
        &ASSETS.script.path
    }

    pub(super) fn icon(&self) -> &'static str {
        &ASSETS.icon.path
    }

    /// What forms carry; nobody who is not logged in has any.
    pub(super) fn key(&self) -> &str {
        self.me.as_ref().map_or("", |me| &me.key)
    }
}

/// A page as it goes out.
pub(super) fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => {
            let headers = [
                (header::CONTENT_SECURITY_POLICY, POLICY),
                // Without it browsers do not say which page has sent a form.
                (header::REFERRER_POLICY, "same-origin"),
            ];
            let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
            (status, headers, Html(text)).into_response()
        }
        Err(error) => {
            tracing::error!(event = "page-not-rendered", %error);
            (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n").into_response()
        }
    }
}

/// What a command's refusal becomes, on a page of its own.
pub(super) fn refuse(api: &Api, visitor: &Visitor) -> impl Fn(CommandError) -> Response {
    |error| Refusal::of(api, visitor, error).into_response()
}

/// One page of a list: its rows, and where the next one is; empty: nowhere. What is `wanted` of it stands in
/// the query, and is asked of the command by the same name.
pub(super) async fn listed(
    api: &Api,
    visitor: &Visitor,
    (name, path): (&'static str, &str),
    fields: &Fields,
    wanted: &'static str,
    limit: &str,
) -> Result<(Vec<Row>, String), Response> {
    let said = [wanted, "after"].map(|name| (name, fields.text(name).trim()));
    let said = said.into_iter().filter(|(_, text)| !text.is_empty());
    let args = said.chain([("limit", limit)]).map(|(name, text)| (name, Value::from(text)));
    let asked = ask(api, visitor.caller.clone(), name, args).await;
    let (rows, done) = asked.map_err(refuse(api, visitor))?;
    let next =
        done.fields.get("next").and_then(Value::as_str).map(|next| {
            format!("{path}?{}", query([(wanted, fields.text(wanted)), ("after", next)]))
        });
    Ok((rows, next.unwrap_or_default()))
}

/// Changes of sessions as they happen, for whom the caller is.
pub(super) async fn follow(
    api: &Api,
    visitor: &Visitor,
    caller: Caller,
) -> Result<Response, Response> {
    let watch = command::find("session watch").ok_or_else(nowhere)?;
    let feed = events::stream(api.clone(), caller, watch, Map::new()).await;
    feed.map_err(refuse(api, visitor))
}

/// A command's rows and closing line.
pub(super) async fn ask(
    api: &Api,
    caller: Caller,
    name: &'static str,
    args: impl IntoIterator<Item = (&'static str, Value)>,
) -> Result<(Vec<Row>, Done), CommandError> {
    let args = args.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    run(api, caller, name, args).await
}

/// The same with arguments that are together already.
pub(super) async fn run(
    api: &Api,
    caller: Caller,
    name: &'static str,
    args: Map<String, Value>,
) -> Result<(Vec<Row>, Done), CommandError> {
    let (rows, done) = call::perform(api, caller, name, args).await?;
    Ok((rows.into_iter().map(Row).collect(), done))
}

/// Text with literals in backticks, as the command table writes it.
pub(super) struct Prose<'a>(pub(super) &'a str);

impl fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.split('`').enumerate() {
            let part =
                askama::filters::escape(part, askama::filters::Html).map_err(|_| fmt::Error)?;
            match index % 2 {
                0 => write!(f, "{part}")?,
                _ => write!(f, "<code>{part}</code>")?,
            }
        }
        Ok(())
    }
}

/// It escapes by itself.
impl HtmlSafe for Prose<'_> {}

/// What went wrong, on the page where it can be put right.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) hint: String,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }

    pub(super) fn message(&self) -> Prose<'_> {
        Prose(&self.message)
    }

    pub(super) fn hint(&self) -> Prose<'_> {
        Prose(&self.hint)
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        Self { message: error.message, hint: error.hint }
    }
}

/// A page that says why there is no other, and what to do.
#[derive(Template)]
#[template(path = "refusal.html")]
pub(super) struct Refusal {
    frame: Frame,
    status: StatusCode,
    failure: Failure,
    /// Seconds.
    retry: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, title: &str, message: &str, hint: &str) -> Self {
        let failure = Failure::new(message, hint);
        Self { frame: Frame::plain(title), status, failure, retry: None }
    }

    pub(super) fn forged() -> Self {
        let message =
            "The request does not come from a page of this server, or that page is too old.";
        let hint = "Nothing was done. Go back, load the page again, and try once more. If a proxy is \
                    in front of the server, `http.proxies` has to name it.";
        Self::new(StatusCode::FORBIDDEN, "Not sent from here", message, hint)
    }

    pub(super) fn insecure() -> Self {
        let message = "These pages are shown over an encrypted connection only.";
        let hint =
            "Use the address with `https://`. If a proxy does that, `http.proxies` has to name it.";
        Self::new(StatusCode::FORBIDDEN, "Not encrypted", message, hint)
    }

    pub(super) fn nowhere() -> Self {
        let hint = "Perhaps it was mistyped, or what was here is gone.";
        Self::new(StatusCode::NOT_FOUND, "Nothing here", "There is no page at this address.", hint)
    }

    pub(super) fn throttled() -> Self {
        let message = "Too many logins from your address have failed.";
        let page = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many failures",
            message,
            "Wait some minutes.",
        );
        Self { retry: Some(60), ..page }
    }

    pub(super) fn unavailable() -> Self {
        let message = "The server cannot check this now.";
        let page = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Not now",
            message,
            "Try again in a moment.",
        );
        Self { retry: Some(5), ..page }
    }

    /// A command's refusal, on a page of its own.
    pub(super) fn of(api: &Api, visitor: &Visitor, error: CommandError) -> Self {
        let status = status_of(&error);
        let title = match status {
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::TOO_MANY_REQUESTS => "Too many requests",
            _ => "That did not work",
        };
        let frame = Frame::of(api, visitor, title, "");
        Self { frame, status, retry: error.retry, failure: error.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = render(self.status, &self);
        if let Some(seconds) = self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// There is no such page.
pub(crate) fn nowhere() -> Response {
    Refusal::nowhere().into_response()
}

/// There is one, for another method.
pub(crate) fn method() -> Response {
    let (message, hint) =
        ("This address is for forms.", "Nothing was done. Go back to the page before.");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Not by itself", message, hint).into_response()
}

/// To the page to log in at, and back from there.
pub(super) fn login_first(uri: &Uri) -> Response {
    let next = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut query = form_urlencoded::Serializer::new(String::new());
    Redirect::to(&format!("/login?{}", query.append_pair("next", next).finish())).into_response()
}

/// A place on this server; `/` if it is one elsewhere.
pub(super) fn local(path: &str) -> &str {
    let elsewhere = !path.starts_with('/')
        || path.starts_with("//")
        || path.contains(|c: char| c == '\\' || c.is_control());
    if elsewhere { "/" } else { path }
}

/// A query of these pairs, without those that say nothing.
pub(super) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.into_iter().filter(|(_, value)| !value.is_empty()));
    query.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_shown_as_such_and_nothing_gets_through() {
        let text = "`<b>` has <i>, and `x";
        let shown = Prose(text).to_string();
        assert_eq!(shown, "<code>&#60;b&#62;</code> has &#60;i&#62;, and <code>x</code>");
    }

    #[test]
    fn one_goes_on_at_places_of_this_server_only() {
        assert_eq!(local("/devices?x=1"), "/devices?x=1");
        for elsewhere in ["//evil.example", "https://evil.example", "/\\evil.example", "", "/\n"] {
            assert_eq!(local(elsewhere), "/", "{elsewhere:?}");
        }
    }
}
