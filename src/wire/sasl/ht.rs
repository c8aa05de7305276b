//! SASL-HT (draft-ietf-kitten-sasl-ht): one message proves possession of a short-lived token, one
//! answer proves that the server has it too. FAST (XEP-0484) hands the tokens out.
//!
//! Two layouts of the message are deployed under the same names. Where the older one (draft
//! version 09) has the hash alone behind the user's name, the newer one has a list of key/value
//! pairs, perhaps empty, and a NUL before it. They are told apart by what is left behind the first
//! NUL: exactly one hash, or more.
//!
//! ```text
//! older:  authcid NUL hash                 HMAC(token, "Initiator" binding)
//! newer:  authcid NUL pairs NUL hash       HMAC(token, "Initiator" binding pairs)
//! ```

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{Context, Mechanism, SaslFailure, account};
use crate::{Jid, Secret, sasl::channel_binding};

/// Bytes of a hash.
const HASH: usize = 32;
/// Longest user name that has to be accepted, in bytes.
const NAME: usize = 1023;

/// A client's proof that it has a token, for the server to try its tokens against.
pub struct HashedToken {
    mechanism: Mechanism,
    binding: Vec<u8>,
    /// The key/value pairs of the newer layout; none in the older one.
    pairs: Option<Vec<u8>>,
    hash: [u8; HASH],
}

impl HashedToken {
    /// The mechanism: a token opens nothing with another one than it was made for.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Whether this proves possession of `token`. Takes the same time for every token.
    #[must_use]
    pub fn proves(&self, token: &Secret) -> bool {
        let pairs = self.pairs.as_deref().unwrap_or_default();
        hash(token, b"Initiator", &self.binding, pairs).ct_eq(&self.hash).into()
    }

    /// The server's own proof, for a token that was accepted.
    pub(super) fn answer(&self, token: &Secret) -> Vec<u8> {
        let hash = hash(token, b"Responder", &self.binding, b"");
        match self.pairs {
            None => hash.to_vec(),
            // An empty list of pairs between the two NULs.
            Some(_) => [&[0, 0][..], &hash].concat(),
        }
    }
}

/// Takes the message apart.
pub(super) fn parse(
    message: &[u8],
    mechanism: Mechanism,
    cx: &Context,
) -> Result<(Jid, HashedToken), SaslFailure> {
    let malformed = SaslFailure::MalformedRequest;
    let end = message.iter().position(|byte| *byte == 0).ok_or(malformed)?;
    let (name, rest) = message.split_at_checked(end).ok_or(malformed)?;
    let rest = rest.get(1..).ok_or(malformed)?;
    if name.is_empty() || name.len() > NAME {
        return Err(malformed);
    }
    let (pairs, hash) = match rest.len().checked_sub(HASH) {
        None => return Err(malformed),
        Some(0) => (None, rest),
        Some(more) => {
            let (pairs, hash) = rest.split_at_checked(more).ok_or(malformed)?;
            let pairs = pairs.strip_suffix(&[0]).ok_or(malformed)?;
            if !are_pairs(pairs) {
                return Err(malformed);
            }
            (Some(pairs.to_vec()), hash)
        }
    };
    let binding = match mechanism.ht_binding() {
        None => return Err(SaslFailure::InvalidMechanism),
        Some("") => Vec::new(),
        Some(kind) => {
            let known = cx.binding.as_deref().and_then(|binding| binding.data(kind));
            known.ok_or(SaslFailure::NotAuthorized)?.1.to_vec()
        }
    };
    let name = std::str::from_utf8(name).map_err(|_| malformed)?;
    let hash = hash.try_into().map_err(|_| malformed)?;
    Ok((user(name, cx)?, HashedToken { mechanism, binding, pairs, hash }))
}

/// The account that is meant: by its localpart, as with other mechanisms, or by its bare JID, which
/// some clients send.
fn user(name: &str, cx: &Context) -> Result<Jid, SaslFailure> {
    match name.split_once('@') {
        None => account(name, cx),
        Some((local, domain)) if domain.eq_ignore_ascii_case(&cx.host) => account(local, cx),
        Some(_) => Err(SaslFailure::NotAuthorized),
    }
}

/// `key=value` any number of times, with commas between them.
fn are_pairs(text: &[u8]) -> bool {
    let fits = |part: &[u8]| {
        let mut bytes = part.iter();
        !part.is_empty()
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'+' | b'-' | b'_'))
    };
    text.is_empty()
        || text.split(|byte| *byte == b',').all(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=');
            at.is_some_and(|at| {
                let (key, value) = pair.split_at(at);
                fits(key) && value.get(1..).is_some_and(fits)
            })
        })
}

fn hash(token: &Secret, role: &[u8], binding: &[u8], pairs: &[u8]) -> [u8; HASH] {
    // HMAC takes keys of every length.
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(token.expose()) else {
        return [0; HASH];
    };
    for part in [role, binding, pairs] {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

impl Mechanism {
    /// What a mechanism of this family binds to: a type of channel binding, or nothing (`""`). None:
    /// it is another family's.
    #[must_use]
    pub const fn ht_binding(self) -> Option<&'static str> {
        match self {
            Mechanism::HtSha256Expr => Some(channel_binding::EXPORTER),
            Mechanism::HtSha256Endp => Some(channel_binding::END_POINT),
            Mechanism::HtSha256None => Some(""),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::ChannelBinding;

    fn cx() -> Context {
        let binding = ChannelBinding { exporter: Some([7; 32]), end_point: Some(vec![9; 32]) };
        Context {
            host: "example.org".into(),
            binding: Some(Arc::new(binding)),
            ..Context::default()
        }
    }

    /// The client's side, written from the drafts on its own.
    fn message(token: &[u8], binding: &[u8], pairs: Option<&str>) -> Vec<u8> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(token).unwrap();
        mac.update(b"Initiator");
        mac.update(binding);
        mac.update(pairs.unwrap_or_default().as_bytes());
        let mut message = b"alice\0".to_vec();
        if let Some(pairs) = pairs {
            message.extend_from_slice(pairs.as_bytes());
            message.push(0);
        }
        message.extend_from_slice(&mac.finalize().into_bytes());
        message
    }

    #[test]
    fn both_layouts_are_told_apart_and_answered_in_kind() {
        let token = Secret::new(*b"a token");
        for (pairs, length) in [(None, 32), (Some(""), 34), (Some("a=b,c=d"), 34)] {
            for mechanism in
                [Mechanism::HtSha256None, Mechanism::HtSha256Endp, Mechanism::HtSha256Expr]
            {
                let binding: &[u8] = match mechanism {
                    Mechanism::HtSha256Endp => &[9; 32],
                    Mechanism::HtSha256Expr => &[7; 32],
                    _ => b"",
                };
                let sent = message(token.expose(), binding, pairs);
                let (user, proof) = parse(&sent, mechanism, &cx()).expect("is well-formed");
                assert_eq!(user.as_str(), "alice@example.org");
                assert!(proof.proves(&token), "{mechanism} {pairs:?}");
                assert!(!proof.proves(&Secret::new(*b"another")));
                let answer = proof.answer(&token);
                assert_eq!(answer.len(), length);
                let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(b"a token").unwrap();
                mac.update(b"Responder");
                mac.update(binding);
                assert!(answer.ends_with(&mac.finalize().into_bytes()));
            }
        }
    }

    #[test]
    fn a_hash_of_32_bytes_that_holds_a_nul_is_not_taken_for_the_newer_layout() {
        let mut sent = b"alice\0".to_vec();
        sent.extend_from_slice(&[0; 32]);
        let (_, proof) = parse(&sent, Mechanism::HtSha256None, &cx()).expect("is well-formed");
        assert!(proof.pairs.is_none());
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        let malformed = SaslFailure::MalformedRequest;
        for bad in
            [&b""[..], b"alice", b"alice\0", b"alice\0short", b"\0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
        {
            let refused = parse(bad, Mechanism::HtSha256None, &cx()).err();
            assert_eq!(refused, Some(malformed), "{bad:?}");
        }
        let sent = message(b"t", b"", Some("no pair"));
        assert_eq!(parse(&sent, Mechanism::HtSha256None, &cx()).err(), Some(malformed));
        let unbound = Context { binding: None, ..cx() };
        let sent = message(b"t", &[7; 32], None);
        let refused = parse(&sent, Mechanism::HtSha256Expr, &unbound).err();
        assert_eq!(refused, Some(SaslFailure::NotAuthorized));
        let elsewhere = [&b"alice@other.org\0"[..], &[1; 32]].concat();
        let refused = parse(&elsewhere, Mechanism::HtSha256None, &cx()).err();
        assert_eq!(refused, Some(SaslFailure::NotAuthorized));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes, Mechanism::HtSha256None, &cx());
        }
    }
}
