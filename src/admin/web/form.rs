//! Forms that change something. Two things have to hold, each of which would do: the request comes from
//! a page of ours by the word of the browser (`Sec-Fetch-Site`, `Origin`), and it carries the key that
//! only such a page has ([`Server::form_key`](server::Server::form_key)).

use axum::{
    body::Bytes,
    extract::{FromRef, FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use server::bearer::Peer;
use wire::Secret;

use super::{
    page::Refusal,
    visitor::{self, Visitor},
};
use crate::http::Api;

/// The field with the key.
const KEY: &str = "form";

/// The fields of a form, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(pub(super) Vec<(String, String)>);

impl Fields {
    /// The first one of this name; empty if there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Those of a query or of the body of a form.
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// Whether they carry this key.
    pub(super) fn carry(&self, key: &Secret) -> bool {
        key.ct_eq(self.text(KEY).as_bytes())
    }
}

/// What a page of ours has sent, by somebody who is logged in.
pub(super) struct Posted {
    pub(super) visitor: Visitor,
    pub(super) peer: Peer,
    pub(super) fields: Fields,
}

impl<S: Send + Sync> FromRequest<S> for Posted
where
    Api: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let api = Api::from_ref(state);
        let (mut parts, body) = request.into_parts();
        let peer = visitor::peer(&mut parts).await?;
        let visitor = Visitor::from_request_parts(&mut parts, state).await?;
        let fields = read(Request::from_parts(parts, body), peer).await?;
        match fields.carry(&visitor.form_key(&api)) {
            true => Ok(Self { visitor, peer, fields }),
            false => Err(Refusal::forged().into_response()),
        }
    }
}

/// The fields of a form of ours; whose it is, is still to be seen.
pub(super) async fn read(request: Request, peer: Peer) -> Result<Fields, Response> {
    let headers = request.headers();
    let form = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
    let form = form.is_some_and(|media| {
        let essence = media.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if !form || !from_our_page(headers, peer) {
        return Err(Refusal::forged().into_response());
    }
    let body = Bytes::from_request(request, &()).await.map_err(IntoResponse::into_response)?;
    Ok(Fields::parse(&body))
}

/// Whether the browser says that a page of ours has sent this. Every browser says so with a POST.
fn from_our_page(headers: &HeaderMap, peer: Peer) -> bool {
    let text = |name: &HeaderName| headers.get(name).map(HeaderValue::to_str);
    let site = text(&HeaderName::from_static("sec-fetch-site"));
    if site.as_ref().is_some_and(|site| !matches!(site, Ok("same-origin"))) {
        return false;
    }
    match (text(&header::ORIGIN), text(&header::HOST)) {
        (None, _) => site.is_some(),
        (Some(Ok(origin)), Some(Ok(host))) => {
            let scheme = if peer.encrypted { "https://" } else { "http://" };
            origin.strip_prefix(scheme).is_some_and(|of| of.eq_ignore_ascii_case(host))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_may_send_forms() {
        let says = |encrypted, fields: &[(&'static str, &'static str)]| {
            let peer = Peer { address: ([127, 0, 0, 1], 1).into(), encrypted };
            let mut headers =
                HeaderMap::from_iter([(header::HOST, "a.example:8".parse().unwrap())]);
            for (name, value) in fields {
                headers.insert(*name, value.parse().unwrap());
            }
            from_our_page(&headers, peer)
        };
        assert!(says(true, &[("origin", "https://a.example:8")]));
        assert!(says(false, &[("origin", "http://A.example:8")]));
        assert!(says(true, &[("sec-fetch-site", "same-origin")]));
        assert!(!says(true, &[]));
        for origin in ["null", "http://a.example:8", "https://a.example", "https://b.example:8"] {
            assert!(!says(true, &[("origin", origin)]), "{origin}");
            assert!(!says(true, &[("origin", origin), ("sec-fetch-site", "same-origin")]));
        }
        for site in ["cross-site", "same-site", "none", ""] {
            let fields = [("origin", "https://a.example:8"), ("sec-fetch-site", site)];
            assert!(!says(true, &fields), "{site}");
        }
    }
}
