//! Who is at the browser: the cookie, what it may hold, and the page for those who have none.
//!
//! Two cookies. One has the token; it is a secret and goes with requests of our own pages only
//! (`SameSite=Strict`). The other has the browser's id, by which its client is known again at the next
//! login; it opens nothing. Both are named `__Host-…` wherever the connection is encrypted, so that no
//! neighbour of the domain can set them.

use axum::{
    Extension, RequestPartsExt,
    extract::{FromRef, FromRequestParts},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use server::{
    bearer::{NotBorne, Peer},
    browser::{Browser, FormOf},
    command::Caller,
    vault::WEB,
};
use wire::{Secret, Token, TokenId};

use super::page::{Refusal, login_first};
use crate::http::Api;

/// How long a browser keeps its id.
const KEPT: &str = "Max-Age=34560000";

/// Somebody who is logged in.
pub(super) struct Visitor {
    pub(super) caller: Caller,
    pub(super) token: TokenId,
    /// The token itself, as the cookie has it.
    pub(super) text: String,
}

impl Visitor {
    /// The same with nothing but what is its own within reach.
    pub(super) fn only_own(&self) -> Caller {
        self.caller.clone().only_own()
    }

    /// Its bare JID; whoever has a token is an account.
    pub(super) fn jid(&self) -> &str {
        self.caller.account().map_or("", |me| me.jid().as_str())
    }

    /// What its forms carry.
    pub(super) fn form_key(&self, api: &Api) -> Secret {
        api.server.form_key(&FormOf::Token(self.token))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor
where
    Api: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let api = Api::from_ref(state);
        let peer = peer(parts).await?;
        // Nobody comes back to a form that was sent.
        let shown = parts.method == http::Method::GET;
        let uri = if shown { parts.uri.clone() } else { http::Uri::from_static("/") };
        let Some(text) = token(&parts.headers, peer) else { return Err(login_first(&uri)) };
        match visit(&api, peer, &text).await {
            Ok(visitor) => Ok(visitor),
            Err(NotBorne::Throttled) => Err(Refusal::throttled().into_response()),
            Err(NotBorne::Unavailable) => Err(Refusal::unavailable().into_response()),
            // Shown again and again, it would count as a failed login each time.
            Err(NotBorne::Unknown | NotBorne::Purpose(_)) => {
                let mut response = login_first(&uri);
                set_token(&mut response, peer, "");
                Err(response)
            }
            // The page to log in at says why.
            Err(NotBorne::Over(_) | NotBorne::Refused(_)) => Err(login_first(&uri)),
        }
    }
}

/// Who a token stands for.
pub(super) async fn visit(api: &Api, peer: Peer, text: &str) -> Result<Visitor, NotBorne> {
    let token = Token::parse(text).map_err(|_| NotBorne::Unknown)?;
    let (caller, _) = api.server.bearer_for(peer.address, &token, WEB).await?;
    let bearer = caller.account().and_then(|me| me.bearer());
    let token = bearer.ok_or(NotBorne::Unknown)?.token;
    Ok(Visitor { caller, token, text: text.into() })
}

/// Who sends the request, if passwords and cookies may be exchanged with them.
pub(super) async fn peer(parts: &mut Parts) -> Result<Peer, Response> {
    let peer = parts.extract::<Extension<Peer>>().await.ok().map(|Extension(peer)| peer);
    peer.filter(|peer| peer.is_private()).ok_or_else(|| Refusal::insecure().into_response())
}

fn name(stem: &str, peer: Peer) -> String {
    format!("{}{stem}", if peer.encrypted { "__Host-" } else { "" })
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let mut pairs =
        fields.flat_map(|field| field.split(';')).filter_map(|p| p.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}

/// The token in the cookie.
pub(super) fn token(headers: &HeaderMap, peer: Peer) -> Option<String> {
    cookie(headers, &name("usher", peer)).filter(|value| !value.is_empty())
}

/// The browser's id, if it has one.
pub(super) fn browser_id(headers: &HeaderMap, peer: Peer) -> Option<String> {
    cookie(headers, &name("usher-browser", peer)).filter(|id| Browser::is_id(id))
}

/// Sets a cookie on the way out.
fn set(response: &mut Response, cookie: String) {
    // Everything in it is of ours, and can stand in a header.
    if let Ok(value) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

fn attributes(peer: Peer) -> &'static str {
    if peer.encrypted { "Path=/; HttpOnly; Secure" } else { "Path=/; HttpOnly" }
}

/// Gives the browser its token; an empty one takes it away.
pub(super) fn set_token(response: &mut Response, peer: Peer, text: &str) {
    let (name, attributes) = (name("usher", peer), attributes(peer));
    let age = if text.is_empty() { "; Max-Age=0" } else { "" };
    set(response, format!("{name}={text}; {attributes}; SameSite=Strict{age}"));
}

/// Gives the browser its id. It is sent along a link from elsewhere as well, or such a visit would
/// give it another one.
pub(super) fn set_browser_id(response: &mut Response, peer: Peer, id: &str) {
    let (name, attributes) = (name("usher-browser", peer), attributes(peer));
    set(response, format!("{name}={id}; {attributes}; SameSite=Lax; {KEPT}"));
}

/// A redirect that takes the token away.
pub(super) fn logged_out(peer: Peer, to: &str) -> Response {
    let mut response = Redirect::to(to).into_response();
    set_token(&mut response, peer, "");
    response
}
