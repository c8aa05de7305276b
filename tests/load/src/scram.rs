//! The client's half of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.
//!
//! Keys are derived once per password, salt and iteration count, so that the generator's own
//! hashing does not take the processor from the server. It does no SASLprep: names and passwords
//! of load accounts are ASCII.

use std::{collections::HashMap, sync::Mutex};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What a password becomes under one salt and count (RFC 5802, section 3).
#[derive(Clone, Copy)]
struct Keys {
    client: [u8; 32],
    stored: [u8; 32],
    server: [u8; 32],
}

/// What keys are derived from.
#[derive(PartialEq, Eq, Hash)]
struct Source {
    password: String,
    salt: Vec<u8>,
    iterations: u32,
}

/// Keys that were derived already.
#[derive(Default)]
pub struct Cache(Mutex<HashMap<Source, Keys>>);

impl Cache {
    fn keys(&self, password: &str, salt: &[u8], iterations: u32) -> Keys {
        let source = Source { password: password.to_owned(), salt: salt.to_vec(), iterations };
        let held = || self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(keys) = held().get(&source) {
            return *keys;
        }
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut salted);
        let client = mac(&salted, b"Client Key");
        let server = mac(&salted, b"Server Key");
        let keys = Keys { client, stored: Sha256::digest(client).into(), server };
        held().insert(source, keys);
        keys
    }
}

/// One running exchange.
pub struct Exchange {
    nonce: String,
    bare: String,
    /// The server's last word when it knows the password too.
    signature: Vec<u8>,
}

impl Exchange {
    /// Begins; `nonce` need only differ from login to login, as nothing here is worth guarding.
    pub fn new(user: &str, nonce: String) -> Self {
        let bare = format!("n={user},r={nonce}");
        Self { nonce, bare, signature: Vec::new() }
    }

    /// The client's first message.
    pub fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The client's final message, in answer to the server's first.
    pub fn last(&mut self, challenge: &str, password: &str, cache: &Cache) -> Result<String> {
        let field = |name: &str| {
            let found = challenge.split(',').find_map(|part| part.strip_prefix(name));
            found.with_context(|| format!("no `{name}` in the server's challenge"))
        };
        let (nonce, iterations) = (field("r=")?, field("i=")?.parse()?);
        let salt = STANDARD.decode(field("s=")?).context("the salt is not base64")?;
        ensure!(nonce.starts_with(&self.nonce), "the server's nonce does not begin with ours");
        ensure!((1..=1_000_000).contains(&iterations), "{iterations} iterations are out of range");
        let keys = cache.keys(password, &salt, iterations);
        let unproved = format!("c=biws,r={nonce}");
        let message = format!("{},{challenge},{unproved}", self.bare);
        let mut proof = mac(&keys.stored, message.as_bytes());
        for (byte, key) in proof.iter_mut().zip(keys.client) {
            *byte ^= key;
        }
        self.signature = mac(&keys.server, message.as_bytes()).to_vec();
        Ok(format!("{unproved},p={}", STANDARD.encode(proof)))
    }

    /// Checks that the server knew the password too.
    pub fn verify(&self, additional: &str) -> Result<()> {
        let given = additional.split(',').find_map(|part| part.strip_prefix("v="));
        let given = STANDARD.decode(given.context("the server gave no signature")?)?;
        ensure!(given == self.signature, "the server's signature is wrong");
        Ok(())
    }
}

/// HMAC-SHA-256.
pub fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes a key of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        let mut exchange = Exchange::new("user", "rOprNGfwEbeRWgbNEkqO".to_owned());
        assert_eq!(exchange.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let last = exchange.last(CHALLENGE, "pencil", &Cache::default()).unwrap();
        assert!(last.ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{last}");
        exchange.verify("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        assert!(exchange.verify("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_err());
        assert!(exchange.verify("e=other-error").is_err());
    }

    #[test]
    fn a_foreign_nonce_is_refused() {
        let mut exchange = Exchange::new("user", "other".to_owned());
        assert!(exchange.last(CHALLENGE, "pencil", &Cache::default()).is_err());
    }

    #[test]
    fn two_passwords_under_one_salt_do_not_share_keys() {
        let cache = Cache::default();
        let one = cache.keys("a", b"salt", 2).stored;
        assert_ne!(cache.keys("b", b"salt", 2).stored, one);
        assert_ne!(cache.keys("a", b"salt", 3).stored, one);
        assert_eq!(cache.keys("a", b"salt", 2).stored, one);
    }
}
