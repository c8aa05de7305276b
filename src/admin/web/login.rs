//! Logging in and out. What is checked is what a client's login is checked for; the page tells no more
//! about who is there than that does.

use askama::Template;
use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::{StatusCode, header, request::Parts};
use server::{
    bearer::{NotBorne, Peer},
    browser::{Browser, FormOf},
    command::CommandError,
};
use wire::{Denied, Jid, SaslFailure, Secret};

use super::{
    form::{self, Fields, Posted},
    page::{Failure, Frame, Refusal, local, render},
    visitor,
};
use crate::http::{Api, oauth};

/// Letters of a browser's name for itself that are looked at.
const AGENT: usize = 400;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/login", get(show).post(login)).route("/logout", post(logout))
}

/// The page to log in at.
#[derive(Template)]
#[template(path = "login.html")]
struct Page {
    frame: Frame,
    key: String,
    jid: String,
    next: String,
    host: String,
    /// Something that is good to know.
    note: String,
    failure: Option<Failure>,
}

impl Page {
    fn of(api: &Api, id: &str, next: &str) -> Self {
        let key = api.server.form_key(&FormOf::Browser(id));
        Self {
            frame: Frame::plain("Log in"),
            key: key.expose_str().unwrap_or_default().into(),
            jid: String::new(),
            next: local(next).into(),
            host: api.server.default_host().to_string(),
            note: String::new(),
            failure: None,
        }
    }

    /// With the browser's id, which it keeps.
    fn answer(&self, status: StatusCode, peer: Peer, id: &str) -> Response {
        let mut response = render(status, self);
        visitor::set_browser_id(&mut response, peer, id);
        response
    }
}

async fn show(State(api): State<Api>, request: Request) -> Result<Response, Response> {
    let (mut parts, _) = request.into_parts();
    let peer = visitor::peer(&mut parts).await?;
    let fields = Fields::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let known = visitor::browser_id(&parts.headers, peer);
    let id = known.unwrap_or_else(Browser::new_id);
    let mut page = Page::of(&api, &id, fields.text("next"));
    let token = visitor::token(&parts.headers, peer);
    let had_one = token.is_some();
    if let Some(text) = token {
        match visitor::visit(&api, peer, &text).await {
            Ok(_) => return Ok(Redirect::to(&page.next).into_response()),
            Err(NotBorne::Throttled) => return Err(Refusal::throttled().into_response()),
            Err(NotBorne::Over(why)) => page.note = format!("You were logged out: {why}"),
            Err(NotBorne::Refused(why)) => page.note = format!("You cannot go on: {why}"),
            Err(NotBorne::Purpose(_) | NotBorne::Unknown) => {
                page.note = "You are not logged in any more".into();
            }
            Err(NotBorne::Unavailable) => return Err(Refusal::unavailable().into_response()),
        }
    } else if fields.text("out") == "1" {
        page.note = "You are logged out".into();
    }
    let mut response = page.answer(StatusCode::OK, peer, &id);
    if had_one {
        // It has been told why; there is nothing else that it is good for.
        visitor::set_token(&mut response, peer, "");
    }
    Ok(response)
}

/// What a browser says that it is, in a few words: the best known names, or its own.
fn software(parts: &Parts) -> Option<String> {
    let agent = parts.headers.get(header::USER_AGENT)?.to_str().ok()?;
    let agent: String = agent.chars().take(AGENT).collect();
    let first = |names: &[(&str, &'static str)]| {
        names.iter().find(|(part, _)| agent.contains(part)).map(|(_, name)| *name)
    };
    // The more special first: most say that they are all of the others too.
    let browser = first(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chromium/", "Chromium"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ]);
    Some(match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.into(),
        _ => agent.chars().take(80).collect(),
    })
}

async fn login(State(api): State<Api>, request: Request) -> Result<Response, Response> {
    let (mut parts, body) = request.into_parts();
    let peer = visitor::peer(&mut parts).await?;
    let id = visitor::browser_id(&parts.headers, peer);
    let (software, before) = (software(&parts), visitor::token(&parts.headers, peer));
    let fields = form::read(Request::from_parts(parts, body), peer).await?;
    let of_browser = |id: &String| fields.carry(&api.server.form_key(&FormOf::Browser(id)));
    let Some(id) = id.filter(of_browser) else { return Err(Refusal::forged().into_response()) };

    let mut page = Page::of(&api, &id, fields.text("next"));
    page.jid = fields.text("jid").trim().into();
    let named = match page.jid.contains('@') || page.jid.is_empty() {
        true => page.jid.clone(),
        false => format!("{}@{}", page.jid, page.host),
    };
    let Ok(user) = Jid::parse(&named) else {
        let hint = format!("It looks like `alice@{}`.", page.host);
        page.failure = Some(Failure::new("This is not an address", hint));
        return Ok(page.answer(StatusCode::BAD_REQUEST, peer, &id));
    };
    let password = Secret::new(fields.text("password").as_bytes().to_vec());
    let browser = Browser { id: id.clone(), software };
    match api.server.let_browser_in(peer.address, &user, password, &browser).await {
        Ok(token) => {
            // Whoever had this browser before has it no more.
            if let Some(before) = before {
                let gone = oauth::void(&api, &before).await;
                gone.map_err(|_| Refusal::unavailable().into_response())?;
            }
            let mut response = Redirect::to(&page.next).into_response();
            visitor::set_token(&mut response, peer, token.to_text().as_ref());
            Ok(response)
        }
        Err(denied) => {
            let (status, failure) = failure(denied);
            page.failure = Some(failure);
            Ok(page.answer(status, peer, &id))
        }
    }
}

/// What a login that is refused is told.
fn failure(denied: Denied) -> (StatusCode, Failure) {
    let status = match denied.failure {
        SaslFailure::TemporaryAuthFailure => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::FORBIDDEN,
    };
    let other = match denied.failure {
        SaslFailure::TemporaryAuthFailure => "The server cannot check this now; try again",
        _ => "The address or the password is wrong",
    };
    let text = denied.text.unwrap_or_else(|| other.into());
    (status, Failure::new(text, ""))
}

async fn logout(State(api): State<Api>, posted: Posted) -> Result<Response, Response> {
    let refused = |error: CommandError| Refusal::of(&api, &posted.visitor, error).into_response();
    oauth::void(&api, &posted.visitor.text).await.map_err(refused)?;
    Ok(visitor::logged_out(posted.peer, "/login?out=1"))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_browser_is_called_what_people_call_it() {
        let of = |agent: &'static str| {
            let request = Request::builder().header(header::USER_AGENT, agent).body(()).unwrap();
            software(&request.into_parts().0).unwrap()
        };
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/156.0.0.0 Safari/537.36";
        assert_eq!(of(chrome), "Chrome on Linux");
        assert_eq!(
            of("Mozilla/5.0 (Windows NT 10.0) Gecko/20100101 Firefox/150.0"),
            "Firefox on Windows"
        );
        assert_eq!(of("curl/8.5.0"), "curl/8.5.0");
    }
}
