//! Bytes that must not get out: passwords, tokens, keys.
//!
//! A [`Secret`] has no `Debug`, `Display`, `PartialEq` or `Clone`, so it can be neither logged nor
//! compared in variable time nor multiplied by accident. Its memory is cleared when it is dropped.
//! It does not protect against swapping or core dumps; that is the operator's.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes that are cleared on drop and compare in constant time.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes into care. A `Vec` or `String` moves in without leaving a copy behind; the
    /// copies of an array are the caller's.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(Zeroizing::new(bytes.into()))
    }

    /// The bytes. The name is long enough to be found by a reviewer.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, when they are UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Length in bytes; not secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in a time that depends on the lengths only.
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_whole_values() {
        let secret = Secret::new(*b"open sesame");
        assert!(secret.ct_eq(b"open sesame"));
        assert!(!secret.ct_eq(b"open sesamf"));
        assert!(!secret.ct_eq(b"open sesam"));
        assert!(!secret.ct_eq(b""));
        assert_eq!(secret.expose_str(), Some("open sesame"));
    }
}
