//! PLAIN (RFC 4616): `[authzid] NUL authcid NUL passwd`, in UTF-8.
//!
//! The password is handed on unprepared: it may be the text of a token, and SASLprep happens where
//! it is compared ([`super::verify_password`]).

use super::{Context, SaslFailure, account, authzid};
use crate::{Jid, Secret};

/// Takes the message apart.
pub(super) fn parse(message: Secret, cx: &Context) -> Result<(Jid, Secret), SaslFailure> {
    let text = message.expose_str().ok_or(SaslFailure::MalformedRequest)?;
    let mut parts = text.split('\0');
    let (Some(acting), Some(name), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SaslFailure::MalformedRequest);
    };
    if name.is_empty() || password.is_empty() {
        return Err(SaslFailure::MalformedRequest);
    }
    let user = account(name, cx)?;
    if !acting.is_empty() && authzid(acting)? != user {
        return Err(SaslFailure::InvalidAuthzid);
    }
    Ok((user, Secret::new(password)))
}
