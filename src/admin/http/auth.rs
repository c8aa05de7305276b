//! Who asks: the bearer token of a request (RFC 6750), in the header and nowhere else.

use axum::{
    Extension, RequestPartsExt,
    extract::{FromRef, FromRequestParts},
};
use http::{header, request::Parts};
use server::{
    bearer::{NotBorne, Peer},
    command::Caller,
};

use super::{
    Api,
    problem::{Kind, Problem},
};

/// The owner of the token that a request bears.
pub(super) struct Bearer(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Bearer
where
    Api: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let api = Api::from_ref(state);
        let token = bearer(parts)?.to_owned();
        let Extension(peer) = parts.extract::<Extension<Peer>>().await.map_err(|_| {
            Problem::new(Kind::Internal, "it cannot be told where the request comes from")
        })?;
        let caller = api.server.bearer(peer.address, &token).await.map_err(turned_away)?;
        Ok(Self(caller))
    }
}

/// The token in the header.
fn bearer(parts: &Parts) -> Result<&str, Problem> {
    let mut fields = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (field, more) = (fields.next(), fields.next());
    let value = field.and_then(|value| value.to_str().ok()).filter(|_| more.is_none());
    let Some((scheme, token)) = value.and_then(|value| value.split_once(' ')) else {
        return Err(Problem::new(Kind::Unauthorized, "the request bears no token")
            .hint(
                "mint one with `usher token mint JID --purpose api --scope list` and send it as \
                 `Authorization: Bearer secret-token:…`",
            )
            .challenge("Bearer realm=\"usher\""));
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        let detail = "only the scheme `Bearer` is taken";
        return Err(Problem::new(Kind::Unauthorized, detail)
            .hint("passwords are for chat clients; mint a token")
            .challenge("Bearer realm=\"usher\""));
    }
    Ok(token.trim())
}

fn turned_away(why: NotBorne) -> Problem {
    let invalid = "Bearer realm=\"usher\", error=\"invalid_token\"";
    let detail = why.to_string();
    match why {
        NotBorne::Over(_) => Problem::new(Kind::Gone, detail).challenge(invalid),
        NotBorne::Purpose(_) => Problem::new(Kind::Unauthorized, detail)
            .hint("mint one with `--purpose api`")
            .challenge(invalid),
        NotBorne::Refused(_) => Problem::new(Kind::Refused, detail),
        NotBorne::Throttled => Problem::new(Kind::Throttled, detail).retry(60),
        NotBorne::Unavailable => Problem::new(Kind::Unavailable, detail).retry(5),
        NotBorne::Unknown => Problem::new(Kind::Unauthorized, detail).challenge(invalid),
    }
}
