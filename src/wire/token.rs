//! The text form of a token (RFC 8959): `secret-token:` and base64url without padding of
//!
//! ```text
//! version 1 | id, 8 bytes, big endian | secret, 24 bytes | owner's bare JID, UTF-8
//! ```
//!
//! There is exactly one text for a token: another alphabet, padding, stray bits or an unprepared
//! address are refused, so a token cannot be respelled past a filter. What is stored is a keyed
//! hash of id and secret ([`mac`]), never the secret. Expiry, roles and revocation are the vault's.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{Jid, Secret};

/// The scheme of RFC 8959, by which scanners find leaked tokens.
pub const SCHEME: &str = "secret-token:";

/// Length of a token's secret in bytes.
pub const SECRET_SIZE: usize = 24;

const VERSION: u8 = 1;
const OWNER_AT: usize = 1 + 8 + SECRET_SIZE;

/// Names a token where the token itself must not be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub u64);

/// A bearer token, taken apart.
pub struct Token {
    /// Finds its record.
    pub id: TokenId,
    /// Proves possession; [`SECRET_SIZE`] bytes.
    pub secret: Secret,
    /// The account it opens: a bare JID.
    pub owner: Jid,
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The scheme is missing; it may be a password.
    #[error("does not start with `secret-token:`")]
    NotAToken,
    /// A layout of a later release, or of another product.
    #[error("token version {0} is not known here")]
    Version(u8),
    /// Ours by its scheme, and damaged.
    #[error("token is damaged")]
    Malformed,
}

impl Token {
    /// Reads a token's text.
    ///
    /// # Errors
    /// [`TokenError`]; nothing of the text is repeated in it.
    pub fn parse(text: &str) -> Result<Token, TokenError> {
        let encoded = text.strip_prefix(SCHEME).ok_or(TokenError::NotAToken)?;
        let bytes = Zeroizing::new(BASE64URL.decode(encoded).map_err(|_| TokenError::Malformed)?);
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(TokenError::Version(other)),
            None => return Err(TokenError::Malformed),
        }
        let id = bytes.get(1..9).and_then(|id| id.try_into().ok()).ok_or(TokenError::Malformed)?;
        let secret = bytes.get(9..OWNER_AT).ok_or(TokenError::Malformed)?;
        let owner = bytes.get(OWNER_AT..).and_then(|owner| std::str::from_utf8(owner).ok());
        let owner = owner.ok_or(TokenError::Malformed)?;
        let jid = Jid::parse(owner).map_err(|_| TokenError::Malformed)?;
        if !jid.is_bare() || jid.local().is_none() || jid.as_str() != owner {
            return Err(TokenError::Malformed);
        }
        Ok(Token { id: TokenId(u64::from_be_bytes(id)), secret: Secret::new(secret), owner: jid })
    }

    /// The token's text, to be shown once.
    pub fn to_text(&self) -> Zeroizing<String> {
        let owner = self.owner.bare_str().as_bytes();
        let mut bytes = Zeroizing::new(Vec::with_capacity(OWNER_AT + owner.len()));
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.id.0.to_be_bytes());
        bytes.extend_from_slice(self.secret.expose());
        bytes.extend_from_slice(owner);
        // Sized at once: a string that grows leaves pieces of the secret behind.
        let length = SCHEME.len() + bytes.len().div_ceil(3) * 4;
        let mut text = Zeroizing::new(String::with_capacity(length));
        text.push_str(SCHEME);
        BASE64URL.encode_string(&*bytes, &mut text);
        text
    }
}

/// The keyed hash that is stored in place of a token's secret: HMAC-SHA-256 over a label, the id
/// and the secret, each with its length in front, so no two pairs share an input.
pub fn mac(server_key: &Secret, id: TokenId, secret: &Secret) -> [u8; 32] {
    // HMAC takes keys of every length, so this never fails; a hash of nothing would fail closed.
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(server_key.expose()) else {
        return [0; 32];
    };
    for part in [b"usher token v1".as_slice(), &id.0.to_be_bytes(), secret.expose()] {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Whether `stored` is the keyed hash of this secret; in constant time.
pub fn verify(server_key: &Secret, id: TokenId, secret: &Secret, stored: &[u8]) -> bool {
    mac(server_key, id, secret).ct_eq(stored).into()
}

/// Takes every token out of a text, for logs. It rather takes too much than too little: everything
/// that can stand in a URI path after the scheme goes.
pub fn redact(text: &str) -> Cow<'_, str> {
    const HIDDEN: &str = "<redacted>";
    let mut out = String::new();
    let mut rest = text;
    while let Some(found) = find_scheme(rest) {
        let (kept, tail) = rest.split_at(found + SCHEME.len());
        let end = tail.bytes().position(|b| !in_path(b)).unwrap_or(tail.len());
        out.push_str(kept);
        if end > 0 {
            out.push_str(HIDDEN);
        }
        rest = tail.get(end..).unwrap_or_default();
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Where the scheme starts, in any case (RFC 3986 section 3.1).
fn find_scheme(text: &str) -> Option<usize> {
    let scheme = SCHEME.as_bytes();
    text.as_bytes().windows(scheme.len()).position(|window| window.eq_ignore_ascii_case(scheme))
}

/// Characters of a URI path (RFC 3986 section 3.3).
fn in_path(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/".contains(&b)
}

/// Crockford's digits: none of them looks like another.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The text of a public 64-bit id: a prefix that says of what, `-`, and 13 digits, most significant
/// first.
pub fn show_id(prefix: char, id: u64) -> String {
    let mut text = String::with_capacity(15);
    text.push(prefix);
    text.push('-');
    for place in (0..13).rev() {
        let digit = (id >> (5 * place)) & 31;
        text.extend(DIGITS.get(digit as usize).map(|&b| char::from(b)));
    }
    text
}

/// Reads what [`show_id`] wrote, with the same prefix and in no other spelling.
pub fn read_id(prefix: char, text: &str) -> Option<u64> {
    let digits = text.strip_prefix(prefix)?.strip_prefix('-')?;
    if digits.len() != 13 {
        return None;
    }
    digits.bytes().try_fold(0u64, |value, byte| {
        let digit = DIGITS.iter().position(|&d| d == byte)?;
        // 13 digits hold 65 bits: the first must leave room.
        Some(value.checked_mul(32)? | digit as u64)
    })
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&show_id('t', self.0))
    }
}

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(s: &str) -> Result<TokenId, TokenIdError> {
        read_id('t', s).map(TokenId).ok_or(TokenIdError)
    }
}

/// A text that is not a token id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token id is `t-` and 13 digits or lower-case letters without i, l, o and u")]
pub struct TokenIdError;

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
