//! Identifiers that the server hands out. All are public: they name a thing and open nothing.

use std::{fmt, str::FromStr};

use crate::{clock::Millis, random};

/// The internal id of an account. Rights and rows hang on it, never on the account's name: an
/// account that is deleted and created again is another one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct AccountId(pub u64);

impl AccountId {
    /// A new id: 42 bits of time, so that rows of new accounts lie together, then 21 random bits.
    /// Uniqueness is the store's business (the account's row is written only if its name is free,
    /// and never 0, the server's own owner id).
    #[must_use]
    pub fn new(now: Millis) -> Self {
        let random = u64::from_be_bytes(random::bytes()) & ((1 << 21) - 1);
        Self(((now.0 << 21) | random) & (u64::MAX >> 1))
    }
}

/// The public handle of a session: 128 random bits, shown as 26 characters `[a-z2-7]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u128);

impl SessionId {
    /// A new, unpredictable id.
    #[must_use]
    pub fn random() -> Self {
        Self(u128::from_be_bytes(random::bytes()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = data_encoding::BASE32_NOPAD.encode(&self.0.to_be_bytes());
        f.write_str(&text.to_ascii_lowercase())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session id: expected 26 characters `a-z2-7`, as `usher session list` shows them")]
pub struct BadSessionId;

impl FromStr for SessionId {
    type Err = BadSessionId;

    fn from_str(text: &str) -> Result<Self, BadSessionId> {
        let upper = text.to_ascii_uppercase();
        let bytes =
            data_encoding::BASE32_NOPAD.decode(upper.as_bytes()).map_err(|_| BadSessionId)?;
        Ok(Self(u128::from_be_bytes(bytes.try_into().map_err(|_| BadSessionId)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_survive_a_round_trip_and_refuse_the_rest() {
        let id = SessionId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 26);
        for bad in ["", "abc", "0189", &"a".repeat(27), &"!".repeat(26)] {
            assert_eq!(bad.parse::<SessionId>(), Err(BadSessionId), "{bad}");
        }
    }

    #[test]
    fn account_ids_are_positive_and_never_the_servers_own() {
        for now in [Millis(1), Millis(1_800_000_000_000), Millis(u64::MAX)] {
            assert!(AccountId::new(now).0 > 0);
            assert!(AccountId::new(now).0 <= i64::MAX as u64);
        }
    }
}
