//! SCRAM (RFC 5802, RFC 7677), the server's half, with its downgrade protection (XEP-0474,
//! XEP-0515).
//!
//! Nothing here stores or sees a password during an exchange: [`ScramKeys`] are enough to check a
//! proof and useless for making one. A failed channel binding, a wrong nonce and a wrong proof end
//! in the same condition; broken syntax has its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::{Context, Mechanism, SaslFailure, Step, account, authzid};
use crate::{Jid, Secret};

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hash {
    /// RFC 5802; fit for HMAC still.
    Sha1,
    /// RFC 7677.
    Sha256,
}

impl Hash {
    /// Length of a digest, a key and a proof, in bytes.
    pub const fn size(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
        }
    }

    fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(data).to_vec(),
            Hash::Sha256 => Sha256::digest(data).to_vec(),
        }
    }

    /// HMAC over the concatenation of `parts`.
    fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Hash::Sha1 => hmac_of::<Hmac<Sha1>>(key, parts),
            Hash::Sha256 => hmac_of::<Hmac<Sha256>>(key, parts),
        }
    }
}

/// What is stored of a password, for one hash (RFC 5802 section 3). Whoever has `server_key` can
/// pose as the server to this user, so it is neither printed nor listed.
#[derive(Clone)]
pub struct ScramKeys {
    /// Random, per account and hash.
    pub salt: Vec<u8>,
    /// Rounds of PBKDF2, at least 1; RFC 7677 asks for at least 4096.
    pub iterations: u32,
    /// `H(ClientKey)`: checks a proof.
    pub stored_key: Vec<u8>,
    /// Proves the server to the client.
    pub server_key: Vec<u8>,
}

/// Length of a fresh salt in bytes. Decoys have the same, or they could be told from real keys.
pub const SALT_SIZE: usize = 16;

impl ScramKeys {
    /// Keys of a password that somebody else has salted (XEP-0480 section 3). None: it is not as long as
    /// the hash makes it.
    pub fn of_salted(
        hash: Hash,
        salted: &[u8],
        salt: Vec<u8>,
        iterations: u32,
    ) -> Option<ScramKeys> {
        if salted.len() != hash.size() {
            return None;
        }
        Some(Self::salted(hash, salted, salt, iterations))
    }

    fn salted(hash: Hash, salted: &[u8], salt: Vec<u8>, iterations: u32) -> ScramKeys {
        let client_key = Zeroizing::new(hash.hmac(salted, &[b"Client Key"]));
        let stored_key = hash.digest(&client_key);
        let server_key = hash.hmac(salted, &[b"Server Key"]);
        ScramKeys { salt, iterations, stored_key, server_key }
    }

    /// Keys for an account that does not exist: the same at every attempt, as real ones would be,
    /// and without a password that fits. `seed` is the server's and stays; `iterations` is what new
    /// accounts get.
    pub fn decoy(hash: Hash, seed: &Secret, user: &Jid, iterations: u32) -> ScramKeys {
        let part = |label: &[u8]| {
            hash.hmac(seed.expose(), &[b"decoy ", label, b"\0", user.as_str().as_bytes()])
        };
        let mut salt = part(b"salt");
        salt.truncate(SALT_SIZE);
        ScramKeys { salt, iterations, stored_key: part(b"stored"), server_key: part(b"server") }
    }
}

/// Why no keys can be made of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeriveError {
    /// Nothing left to protect an account with.
    #[error("password is empty")]
    EmptyPassword,
    /// Without a salt equal passwords have equal keys.
    #[error("salt is empty")]
    EmptySalt,
    /// PBKDF2 has at least one round.
    #[error("iteration count is 0")]
    NoIterations,
    /// A character SASLprep (RFC 4013) forbids: controls, private use, or younger than Unicode 3.2;
    /// or writing directions mixed. The character is not named: it is part of a password.
    #[error("password has a character that RFC 4013 does not allow")]
    Prohibited,
}

/// Makes the keys of a password. This is the slow step: `iterations` rounds of HMAC.
///
/// # Errors
/// [`DeriveError`] when the password or a parameter is unfit.
pub fn derive(
    hash: Hash,
    password: &str,
    salt: &[u8],
    iterations: u32,
) -> Result<ScramKeys, DeriveError> {
    if salt.is_empty() {
        return Err(DeriveError::EmptySalt);
    }
    if iterations == 0 {
        return Err(DeriveError::NoIterations);
    }
    let password = stringprep::saslprep(password).map_err(|_| DeriveError::Prohibited)?;
    let password = Zeroizing::new(password.into_owned());
    if password.is_empty() {
        return Err(DeriveError::EmptyPassword);
    }
    let mut salted = Zeroizing::new([0; 32]);
    let (salted, _) = salted.split_at_mut(hash.size());
    match hash {
        Hash::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(password.as_bytes(), salt, iterations, salted),
        Hash::Sha256 => {
            pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, salted);
        }
    }
    Ok(ScramKeys::salted(hash, salted, salt.to_vec(), iterations))
}

/// Whether `password` is the one behind `keys`. The comparison takes constant time; the work before
/// it depends on the iteration count and the password's length.
pub fn verify_password(hash: Hash, keys: &ScramKeys, password: &str) -> bool {
    derive(hash, password, &keys.salt, keys.iterations)
        .is_ok_and(|derived| derived.stored_key.ct_eq(&keys.stored_key).into())
}

/// After client-first: the keys are being looked up.
pub(super) struct First {
    hash: Hash,
    user: Jid,
    /// `gs2-cbind-flag "," [authzid] ","` and the binding's data: what `c=` must say.
    binding: Vec<u8>,
    binding_type: Option<&'static str>,
    /// client-first-message-bare.
    bare: String,
    /// The client's part of the nonce.
    nonce: String,
}

impl First {
    /// Reads client-first-message (RFC 5802 section 7).
    pub(super) fn parse(
        message: &[u8],
        mechanism: Mechanism,
        cx: &Context,
    ) -> Result<First, SaslFailure> {
        let malformed = SaslFailure::MalformedRequest;
        let hash = mechanism.hash().ok_or(SaslFailure::InvalidMechanism)?;
        let text = std::str::from_utf8(message).map_err(|_| malformed)?;
        let mut fields = text.splitn(3, ',');
        let (Some(flag), Some(acting), Some(bare)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(malformed);
        };

        let mut binding = format!("{flag},{acting},").into_bytes();
        let binding_type = match (flag, flag.strip_prefix("p="), mechanism.is_plus()) {
            ("n", _, false) => None,
            // The peer can bind and believes that we cannot: somebody took the offer away.
            ("y", _, false) if cx.plus_offered => return Err(SaslFailure::NotAuthorized),
            ("y", _, false) => None,
            (_, Some(name), true) => {
                let known = cx.binding.as_deref().and_then(|binding| binding.data(name));
                let (name, data) = known.ok_or(SaslFailure::NotAuthorized)?;
                binding.extend_from_slice(data);
                Some(name)
            }
            _ => return Err(malformed),
        };

        // `m=` first would be an extension that we must understand; there is none.
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|a| a.strip_prefix("n=")).ok_or(malformed)?;
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or(malformed)?;
        if nonce.is_empty() || !nonce.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(malformed);
        }
        if !attributes.all(optional_extension) {
            return Err(malformed);
        }

        let user = account(&decode_name(name).ok_or(malformed)?, cx)?;
        match acting.strip_prefix("a=") {
            Some(acting) => {
                if authzid(&decode_name(acting).ok_or(malformed)?)? != user {
                    return Err(SaslFailure::InvalidAuthzid);
                }
            }
            None if acting.is_empty() => {}
            None => return Err(malformed),
        }
        let (bare, nonce) = (bare.to_owned(), nonce.to_owned());
        Ok(First { hash, user, binding, binding_type, bare, nonce })
    }

    /// The account to look up.
    pub(super) fn user(&self) -> &Jid {
        &self.user
    }

    /// The hash to look keys up for.
    pub(super) fn hash(&self) -> Hash {
        self.hash
    }

    /// Puts other binding data in place, for vectors whose data no connection could have.
    #[cfg(test)]
    pub(super) fn replace_binding(&mut self, binding: Vec<u8>) {
        self.binding = binding;
    }

    /// Makes server-first-message.
    pub(super) fn challenge(self, cx: &Context, keys: ScramKeys) -> (Final, Vec<u8>) {
        debug_assert!(!cx.nonce.is_empty() && !cx.nonce.contains(','));
        let nonce = self.nonce + &cx.nonce;
        let salt = BASE64.encode(&keys.salt);
        let mut server_first = format!("r={nonce},s={salt},i={}", keys.iterations);
        if let Some(offer) = &cx.offer {
            let announced = self.hash.digest(offer.downgrade_text().as_bytes());
            server_first.push_str(",h=");
            server_first.push_str(&BASE64.encode(announced));
            if let Some(version) = cx.tls_version {
                server_first.push_str(&format!(",t={version:04x}"));
            }
        }
        let last = Final {
            hash: self.hash,
            user: self.user,
            binding: self.binding,
            binding_type: self.binding_type,
            signed: format!("{},{server_first},", self.bare),
            nonce,
            keys,
        };
        (last, server_first.into_bytes())
    }
}

/// After server-first: the proof is awaited.
pub(super) struct Final {
    hash: Hash,
    user: Jid,
    binding: Vec<u8>,
    binding_type: Option<&'static str>,
    /// AuthMessage up to and with the comma before client-final-message-without-proof.
    signed: String,
    /// The whole nonce.
    nonce: String,
    keys: ScramKeys,
}

impl Final {
    /// Reads client-final-message and checks all of it.
    pub(super) fn prove(self, message: &[u8]) -> Result<Step, SaslFailure> {
        let malformed = SaslFailure::MalformedRequest;
        let text = std::str::from_utf8(message).map_err(|_| malformed)?;
        // A base64 value has no comma, so the last `,p=` is the proof.
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(malformed)?;
        let proof = BASE64.decode(proof).map_err(|_| malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|a| a.strip_prefix("c=")).ok_or(malformed)?;
        let binding = BASE64.decode(binding).map_err(|_| malformed)?;
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or(malformed)?;
        if !attributes.all(optional_extension) || proof.len() != self.hash.size() {
            return Err(malformed);
        }

        let signed: [&[u8]; 2] = [self.signed.as_bytes(), without_proof.as_bytes()];
        let signature = self.hash.hmac(&self.keys.stored_key, &signed);
        let client_key: Zeroizing<Vec<u8>> =
            Zeroizing::new(proof.iter().zip(&signature).map(|(p, s)| p ^ s).collect());
        // Every check is made before any is looked at.
        let right: Choice = self.hash.digest(&client_key).ct_eq(&self.keys.stored_key)
            & binding.ct_eq(&self.binding)
            & nonce.as_bytes().ct_eq(self.nonce.as_bytes());
        if !bool::from(right) {
            return Err(SaslFailure::NotAuthorized);
        }
        let verifier = self.hash.hmac(&self.keys.server_key, &signed);
        Ok(Step::Proved {
            user: self.user,
            additional: format!("v={}", BASE64.encode(verifier)).into_bytes(),
            binding: self.binding_type,
        })
    }
}

/// Undoes `=2C` and `=3D` in a saslname; any other `=` and a NUL are not one (RFC 5802 section
/// 5.1).
pub(super) fn decode_name(name: &str) -> Option<String> {
    let mut decoded = String::with_capacity(name.len());
    let mut pieces = name.split('=');
    decoded.push_str(pieces.next()?);
    for piece in pieces {
        if let Some(rest) = piece.strip_prefix("2C") {
            decoded.push(',');
            decoded.push_str(rest);
        } else if let Some(rest) = piece.strip_prefix("3D") {
            decoded.push('=');
            decoded.push_str(rest);
        } else {
            return None;
        }
    }
    (!decoded.is_empty() && !decoded.contains('\0')).then_some(decoded)
}

/// An attribute we may read over: a letter, `=`, a value; but not `m`, which must be understood.
fn optional_extension(attribute: &str) -> bool {
    match attribute.as_bytes() {
        [b'm', ..] => false,
        [letter, b'=', value @ ..] => {
            letter.is_ascii_alphabetic() && !value.is_empty() && !value.contains(&0)
        }
        _ => false,
    }
}

fn hmac_of<M: KeyInit + Mac>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    // HMAC takes keys of every length; the empty vector can never equal a digest.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else {
        return Vec::new();
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}
