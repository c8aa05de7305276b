//! Identifiers that the server hands out. All are public: they name a thing and open nothing.

use std::{
    fmt,
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use crate::{clock::Millis, random};

/// The internal id of an account. Rights and rows hang on it, never on the account's name: an
/// account that is deleted and created again is another one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct AccountId(pub u64);

/// Gives out the ids of accounts, none twice: two accounts with one id would own each other's rows.
#[derive(Debug, Default)]
pub struct AccountIds {
    last: AtomicU64,
}

impl AccountIds {
    /// A new id: 42 bits of time, so that rows of new accounts lie together, then 21 random bits, so
    /// that one that was given out before a restart does not come again even if the clock was set
    /// back; and greater than all that were given out since. Never 0, the server's own owner id.
    pub fn next(&self, now: Millis) -> AccountId {
        let random = u64::from_be_bytes(random::bytes()) & ((1 << 21) - 1);
        let fresh = ((now.0 << 21) | random) & (u64::MAX >> 1);
        let after = |last: u64| fresh.max(last + 1);
        let last = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, |l| Some(after(l)));
        AccountId(after(last.unwrap_or_default()))
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

    /// The key of its rows.
    pub(crate) fn key(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }
}

/// Gives out the ids of sessions.
#[derive(Default)]
pub struct SessionIds {
    source: OnceLock<Box<dyn Fn() -> SessionId + Send + Sync>>,
}

impl SessionIds {
    /// Draws them from here instead of at random, from now on; the first one who says so decides. For
    /// those who want to see what comes of a bad source.
    pub fn draw_from(&self, source: impl Fn() -> SessionId + Send + Sync + 'static) {
        // Somebody else has decided otherwise.
        let _ = self.source.set(Box::new(source));
    }

    /// An id, which may be somebody's already if the source is bad.
    pub(crate) fn draw(&self) -> SessionId {
        self.source.get().map_or_else(SessionId::random, |source| source())
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

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal $bad:ident $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl $name {
            /// A new, unpredictable id.
            #[must_use]
            pub fn random() -> Self {
                Self(u64::from_be_bytes(random::bytes()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&wire::token::show_id($prefix, self.0))
            }
        }

        #[doc = concat!("Text that is not the id of a ", $what, ".")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        #[error("not the id of a {}: expected `{}-` and 13 digits or letters", $what, $prefix)]
        pub struct $bad;

        impl FromStr for $name {
            type Err = $bad;

            fn from_str(text: &str) -> Result<Self, $bad> {
                wire::token::read_id($prefix, text).map(Self).ok_or($bad)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// The public handle of a client.
    ClientId 'c' BadClientId "client";
    /// The public handle of a grant.
    GrantId 'g' BadGrantId "grant";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
    fn a_client_id_is_no_grant_id() {
        let id = ClientId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().parse::<GrantId>().is_err());
        assert!(id.to_string().to_uppercase().parse::<ClientId>().is_err());
    }

    #[test]
    fn account_ids_are_positive_and_never_the_servers_own() {
        for now in [Millis(0), Millis(1), Millis(1_800_000_000_000), Millis((1 << 42) - 2)] {
            let id = AccountIds::default().next(now);
            assert!(id.0 > 0 && id.0 <= i64::MAX as u64, "{id:?}");
        }
    }

    #[test]
    fn accounts_of_one_millisecond_have_ids_of_their_own() {
        let ids = AccountIds::default();
        let made: HashSet<_> = (0..20_000).map(|_| ids.next(Millis(1_800_000_000_000))).collect();
        assert_eq!(made.len(), 20_000);
    }
}
