//! The client's half of SCRAM (RFC 5802) and of SASL-HT (draft-ietf-kitten-sasl-ht), written from the
//! texts and independent of the server's, so that a mistake in one is not repeated in the other. It can
//! make the mistakes that a script asks for. Names and passwords are ASCII.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::script::{Fast, Scram};

/// A running exchange.
pub struct Exchange {
    plan: Scram,
    /// The GS2 header, as in `n,,`.
    header: String,
    bare: String,
    /// What is appended to the header for `c=`.
    channel: Vec<u8>,
    signature: Vec<u8>,
}

const NONCE: &str = "a0-client-nonce-b1";

impl Exchange {
    /// `binding` gives the channel binding data of a type.
    pub fn new(plan: &Scram, binding: impl Fn(&str) -> Vec<u8>) -> Self {
        let option = |key: &str| plan.options.get(key);
        let (mut flag, mut channel) = ("n".to_owned(), Vec::new());
        if plan.mechanism.ends_with("-PLUS") {
            let kind = option("binding").map_or("tls-exporter", |kind| kind);
            flag = format!("p={kind}");
            channel = binding(kind);
        }
        if let Some(other) = option("flag") {
            flag = other.clone();
        }
        if let Some(other) = option("channel") {
            channel = other.clone().into_bytes();
        }
        let authzid = option("authzid").map(|id| format!("a={id}")).unwrap_or_default();
        let header = format!("{flag},{authzid},");
        let bare = format!("n={},r={NONCE}", plan.user);
        Self { plan: plan.clone(), header, bare, channel, signature: Vec::new() }
    }

    /// The client's first message.
    pub fn first(&self) -> String {
        format!("{}{}", self.header, self.bare)
    }

    /// The client's last message, in answer to the server's first.
    pub fn last(&mut self, challenge: &str) -> Result<String, String> {
        let field = |name: &str| {
            let found = challenge.split(',').find_map(|part| part.strip_prefix(name));
            found.ok_or_else(|| format!("no `{name}` in `{challenge}`"))
        };
        let nonce = field("r=")?;
        if !nonce.starts_with(NONCE) || nonce.len() < NONCE.len() + 16 {
            return Err(format!("the server's nonce is wrong: `{challenge}`"));
        }
        let nonce = self.plan.options.get("nonce").map_or(nonce, |other| other);
        let salt = STANDARD.decode(field("s=")?).map_err(|why| why.to_string())?;
        let rounds = field("i=")?.parse().map_err(|why| format!("iterations: {why}"))?;
        let mut header = self.header.clone().into_bytes();
        header.extend_from_slice(&self.channel);
        let unproved = format!("c={},r={nonce}", STANDARD.encode(header));
        let message = format!("{},{challenge},{unproved}", self.bare);

        let sha1 = self.plan.mechanism.contains("SHA-1");
        let (password, message) = (self.plan.password.as_bytes(), message.as_bytes());
        let (proof, signature) = match sha1 {
            true => {
                let mut salted = [0; 20];
                pbkdf2::pbkdf2_hmac::<Sha1>(password, &salt, rounds, &mut salted);
                let client = mac1(&salted, b"Client Key");
                let proof = xor(&client, &mac1(&Sha1::digest(&client), message));
                (proof, mac1(&mac1(&salted, b"Server Key"), message))
            }
            false => {
                let mut salted = [0; 32];
                pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt, rounds, &mut salted);
                let client = mac256(&salted, b"Client Key");
                let proof = xor(&client, &mac256(&Sha256::digest(&client), message));
                (proof, mac256(&mac256(&salted, b"Server Key"), message))
            }
        };
        self.signature = signature;
        Ok(format!("{unproved},p={}", STANDARD.encode(proof)))
    }

    /// Checks that the server knows the password too.
    pub fn verify(&self, additional: &str) -> Result<(), String> {
        let wanted = format!("v={}", STANDARD.encode(&self.signature));
        let same = !self.signature.is_empty() && additional == wanted;
        same.then_some(()).ok_or_else(|| format!("`{additional}` instead of `{wanted}`"))
    }
}

/// What shows that a client has a token, and that the server has it.
pub struct Possession {
    /// The client's message.
    pub message: Vec<u8>,
    /// What the server has to answer.
    pub answer: Vec<u8>,
}

impl Possession {
    /// `binding` gives the channel binding data of a type.
    pub fn new(plan: &Fast, binding: impl Fn(&str) -> Vec<u8>) -> Self {
        let channel = match plan.mechanism.rsplit('-').next() {
            Some("EXPR") => binding("tls-exporter"),
            Some("ENDP") => binding("tls-server-end-point"),
            _ => Vec::new(),
        };
        let hash = |parts: &[&[u8]]| mac256(plan.token.as_bytes(), &parts.concat());
        let name = plan.user.as_bytes();
        let responder = hash(&[b"Responder", &channel]);
        match &plan.pairs {
            None => {
                let proof = hash(&[b"Initiator", &channel]);
                Self { message: [name, &[0], &proof].concat(), answer: responder }
            }
            Some(pairs) => {
                let pairs = pairs.as_bytes();
                let proof = hash(&[b"Initiator", &channel, pairs]);
                let message = [name, &[0], pairs, &[0], &proof].concat();
                Self { message, answer: [&[0, 0][..], &responder].concat() }
            }
        }
    }
}

fn xor(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

fn mac1(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn mac256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}
