//! OAUTHBEARER (RFC 7628): a bearer token, and the failure that takes one more round.
//!
//! ```text
//! gs2-header ^A *( key "=" value ^A ) ^A
//! ```
//!
//! `host` and `port` are read over: the stream already says which host is meant. There is no
//! channel binding variant of the mechanism.

use super::{Context, SaslFailure, authzid, scram::decode_name};
use crate::{Jid, Secret};

/// The challenge that says why the token failed (RFC 7628 section 3.2.2).
pub fn failure_json() -> &'static str {
    r#"{"status":"invalid_token","schemes":"bearer"}"#
}

/// Takes the message apart into the claimed account and the token. No token (the client asks how
/// it could get one) is not a syntax error.
pub(super) fn parse(
    message: Secret,
    cx: &Context,
) -> Result<(Option<Jid>, Option<Secret>), SaslFailure> {
    let malformed = SaslFailure::MalformedRequest;
    let text = message.expose_str().ok_or(malformed)?;
    let (header, rest) = text.split_once('\u{1}').ok_or(malformed)?;
    let pairs = match rest {
        "\u{1}" => "",
        _ => rest.strip_suffix("\u{1}\u{1}").ok_or(malformed)?,
    };

    let mut fields = header.split(',');
    let (Some(flag), Some(acting), Some(""), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(malformed);
    };
    match flag {
        "n" => {}
        // The peer can bind and believes that we cannot: somebody took the offer away.
        "y" if cx.plus_offered => return Err(SaslFailure::NotAuthorized),
        "y" => {}
        _ => return Err(malformed),
    }
    let user = match acting.strip_prefix("a=") {
        Some(name) => Some(authzid(&decode_name(name).ok_or(malformed)?)?),
        None if acting.is_empty() => None,
        None => return Err(malformed),
    };

    let mut token = None;
    for pair in pairs.split('\u{1}').filter(|_| !pairs.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or(malformed)?;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(malformed);
        }
        if !value.bytes().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~')) {
            return Err(malformed);
        }
        if key == "auth" {
            if token.is_some() {
                return Err(malformed);
            }
            token = Some(bearer(value).ok_or(malformed)?);
        }
    }
    Ok((user, token.filter(|token| !token.is_empty())))
}

/// The token of `Bearer TOKEN`; the scheme's case does not matter (RFC 7235 section 2.1).
fn bearer(value: &str) -> Option<Secret> {
    if value.is_empty() {
        return Some(Secret::new(Vec::new()));
    }
    let (scheme, token) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    Some(Secret::new(token.trim_matches(' ')))
}
