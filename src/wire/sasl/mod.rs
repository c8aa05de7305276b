//! SASL as an XMPP server speaks it (RFC 6120 section 6): one [`Exchange`] per attempt.
//!
//! ```text
//!   peer's bytes ──► step(Input) ──► Step::Challenge     ──► peer
//!                                    Step::NeedKeys      ──► store ──► Input::Keys
//!                                    Step::NeedPassword  ──► store ──► Input::Accepted, Rejected
//!                                    Step::NeedToken     ──► vault ──► Input::Accepted, Rejected
//!                                    Step::NeedHashed    ──► vault ──► Input::Hashed, Rejected
//!                                    Step::Proved, Fail  ──► the end of it
//! ```
//!
//! An exchange sees decoded bytes, never base64 or XML. It draws no randomness (the nonce arrives
//! in [`Context`]), asks no storage and keeps no time. It does not decide which mechanisms are
//! offered, whether TLS is there, or how often a peer may try: the stream does.
//!
//! Every mechanism refuses to act for another account: an authorization identity is empty or the
//! bare JID of the account itself ([`SaslFailure::InvalidAuthzid`]).

mod channel_binding;
mod ht;
pub mod oauthbearer;
mod plain;
mod scram;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use channel_binding::{ChannelBinding, END_POINT, EXPORTER};
pub use ht::HashedToken;
pub use scram::{DeriveError, Hash, SALT_SIZE, ScramKeys, derive, verify_password};

use crate::{Jid, Secret};

/// The mechanisms, best first: the derived order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mechanism {
    /// RFC 7677 with channel binding.
    ScramSha256Plus,
    /// RFC 5802 with channel binding.
    ScramSha1Plus,
    /// RFC 7677.
    ScramSha256,
    /// RFC 5802.
    ScramSha1,
    /// RFC 7628: a bearer token.
    OauthBearer,
    /// RFC 4616: the password itself.
    Plain,
    /// SASL-HT with `tls-exporter`; this one and the next two are for FAST (XEP-0484) alone.
    HtSha256Expr,
    /// SASL-HT with `tls-server-end-point`.
    HtSha256Endp,
    /// SASL-HT without channel binding.
    HtSha256None,
}

impl Mechanism {
    /// Every mechanism, in order of preference.
    pub const fn all() -> &'static [Mechanism] {
        use Mechanism::*;
        &[
            ScramSha256Plus,
            ScramSha1Plus,
            ScramSha256,
            ScramSha1,
            OauthBearer,
            Plain,
            HtSha256Expr,
            HtSha256Endp,
            HtSha256None,
        ]
    }

    /// Whether it takes a token that FAST has handed out, and is offered there and nowhere else.
    pub const fn is_fast(self) -> bool {
        self.ht_binding().is_some()
    }

    /// The registered name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::OauthBearer => "OAUTHBEARER",
            Mechanism::Plain => "PLAIN",
            Mechanism::HtSha256Expr => "HT-SHA-256-EXPR",
            Mechanism::HtSha256Endp => "HT-SHA-256-ENDP",
            Mechanism::HtSha256None => "HT-SHA-256-NONE",
        }
    }

    /// Whether it hands the server something an eavesdropper could use, or needs channel binding.
    pub const fn needs_tls(self) -> bool {
        !matches!(self, Mechanism::ScramSha256 | Mechanism::ScramSha1)
    }

    /// Whether it binds to the TLS channel.
    pub const fn is_plus(self) -> bool {
        matches!(self, Mechanism::ScramSha256Plus | Mechanism::ScramSha1Plus)
    }

    /// The hash of a SCRAM mechanism.
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Mechanism::ScramSha256Plus | Mechanism::ScramSha256 => Some(Hash::Sha256),
            Mechanism::ScramSha1Plus | Mechanism::ScramSha1 => Some(Hash::Sha1),
            _ => None,
        }
    }
}

impl FromStr for Mechanism {
    type Err = SaslFailure;

    /// The mechanism of this exact name; names are upper case (RFC 4422 section 3.1).
    fn from_str(name: &str) -> Result<Mechanism, SaslFailure> {
        let mut all = Mechanism::all().iter().copied();
        all.find(|mechanism| mechanism.as_str() == name).ok_or(SaslFailure::InvalidMechanism)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the stream features announced. XEP-0474 lets the client check that it saw the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The announced mechanisms of the protocol in use (SASL or SASL 2, not both together).
    pub mechanisms: Vec<Mechanism>,
    /// The announced XEP-0440 channel binding types; `None` when that feature was not sent.
    pub bindings: Option<Vec<&'static str>>,
}

impl Offer {
    /// Whether this stream announced `mechanism`; nothing else may be accepted.
    pub fn contains(&self, mechanism: Mechanism) -> bool {
        self.mechanisms.contains(&mechanism)
    }

    /// Whether a mechanism with channel binding was announced.
    pub fn has_plus(&self) -> bool {
        self.mechanisms.iter().any(|mechanism| mechanism.is_plus())
    }

    /// The string whose hash is XEP-0474's `h` attribute, section 5.1.
    fn downgrade_text(&self) -> String {
        let mut names: Vec<&str> = self.mechanisms.iter().map(|m| m.as_str()).collect();
        names.sort_unstable();
        let mut text = names.join("\u{1e}");
        if let Some(bindings) = &self.bindings {
            let mut bindings = bindings.clone();
            bindings.sort_unstable();
            text.push('\u{1f}');
            text.push_str(&bindings.join("\u{1e}"));
        }
        text
    }
}

/// What an exchange has to know about its stream.
#[derive(Clone, Default)]
pub struct Context {
    /// The domain the stream was opened to, prepared: accounts are `user@host`.
    pub host: String,
    /// The server's part of the nonce: fresh, at least 128 bits, printable ASCII without a comma.
    pub nonce: String,
    /// Whether this stream announced a mechanism with channel binding.
    pub plus_offered: bool,
    /// What this connection can bind to; `None` without TLS.
    pub binding: Option<Arc<ChannelBinding>>,
    /// What was announced, for SCRAM's downgrade protection (XEP-0474); `None` leaves it out.
    pub offer: Option<Arc<Offer>>,
    /// The version number TLS negotiated (`0x0304` is 1.3), sent along with `offer` (XEP-0515).
    pub tls_version: Option<u16>,
}

/// What happens to an exchange.
pub enum Input {
    /// The peer's `<auth/>`. `None` is no initial response; an empty one (`=`) is `Some` of
    /// nothing.
    Initial(Option<Vec<u8>>),
    /// The peer's `<response/>`.
    Response(Vec<u8>),
    /// The peer's `<abort/>`.
    Abort,
    /// The answer to [`Step::NeedKeys`]. For an account that does not exist give
    /// [`ScramKeys::decoy`], so that it looks like a wrong password. `None`: the store cannot say.
    Keys(Option<ScramKeys>),
    /// The password or token is good, and this is its owner.
    Accepted(Jid),
    /// The token that a [`Step::NeedHashed`] proves possession of.
    Hashed(Secret),
    /// The password or token is not good, or the account may not log in.
    Rejected(SaslFailure),
}

/// What to do next.
pub enum Step {
    /// Send a challenge.
    Challenge(Vec<u8>),
    /// Look up the SCRAM keys of `user` for `hash` and answer [`Input::Keys`].
    NeedKeys {
        /// The account, a bare JID at the context's host.
        user: Jid,
        /// Which keys.
        hash: Hash,
    },
    /// Check a password, which may be a token's text, and answer [`Input::Accepted`] or `Rejected`.
    NeedPassword {
        /// The account, a bare JID at the context's host.
        user: Jid,
        /// As sent: UTF-8, not prepared.
        password: Secret,
    },
    /// Check a bearer token and answer [`Input::Accepted`] or `Rejected`.
    NeedToken {
        /// The account the peer claims, if it does.
        user: Option<Jid>,
        /// The token's text as sent.
        token: Secret,
    },
    /// Find the token whose possession is proved, and answer [`Input::Hashed`] or `Rejected`.
    NeedHashed {
        /// The account, a bare JID at the context's host.
        user: Jid,
        /// The proof, to try tokens against.
        proof: Arc<HashedToken>,
    },
    /// Authenticated. Whether the account may log in is still the caller's to say.
    Proved {
        /// The account, a bare JID at the context's host.
        user: Jid,
        /// Goes into `<success/>`; empty for none.
        additional: Vec<u8>,
        /// The channel binding type in use.
        binding: Option<&'static str>,
    },
    /// Failed, for good.
    Fail(SaslFailure),
}

/// The failure conditions of RFC 6120 section 6.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SaslFailure {
    /// The peer gave up.
    Aborted,
    /// The account exists, the credentials are right, and it is disabled.
    AccountDisabled,
    /// The credentials were right once.
    CredentialsExpired,
    /// The mechanism needs TLS first.
    EncryptionRequired,
    /// Not base64.
    IncorrectEncoding,
    /// Acting for another account, or an authorization identity that is no address.
    InvalidAuthzid,
    /// Not a mechanism this stream offered.
    InvalidMechanism,
    /// The mechanism's own syntax is broken, or a message came out of turn.
    MalformedRequest,
    /// The account may not use so weak a mechanism.
    MechanismTooWeak,
    /// Wrong password, unknown account, failed channel binding: deliberately one condition.
    NotAuthorized,
    /// The server cannot check now.
    TemporaryAuthFailure,
}

impl SaslFailure {
    /// The name of the condition's element.
    pub const fn as_str(self) -> &'static str {
        match self {
            SaslFailure::Aborted => "aborted",
            SaslFailure::AccountDisabled => "account-disabled",
            SaslFailure::CredentialsExpired => "credentials-expired",
            SaslFailure::EncryptionRequired => "encryption-required",
            SaslFailure::IncorrectEncoding => "incorrect-encoding",
            SaslFailure::InvalidAuthzid => "invalid-authzid",
            SaslFailure::InvalidMechanism => "invalid-mechanism",
            SaslFailure::MalformedRequest => "malformed-request",
            SaslFailure::MechanismTooWeak => "mechanism-too-weak",
            SaslFailure::NotAuthorized => "not-authorized",
            SaslFailure::TemporaryAuthFailure => "temporary-auth-failure",
        }
    }
}

impl fmt::Display for SaslFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One running authentication.
pub struct Exchange {
    mechanism: Mechanism,
    cx: Context,
    state: State,
}

impl Exchange {
    /// An exchange that waits for [`Input::Initial`]. The caller has checked that `mechanism` was
    /// offered and that TLS is there if it needs it.
    pub fn start(mechanism: Mechanism, cx: Context) -> Exchange {
        Exchange { mechanism, cx, state: State::Start }
    }

    /// The mechanism of this attempt.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Takes one input to the next step. After [`Step::Proved`] and [`Step::Fail`], and for an
    /// input out of turn, it fails.
    pub fn step(&mut self, input: Input) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over);
        match self.advance(state, input) {
            Ok((state, step)) => {
                self.state = state;
                step
            }
            Err(failure) => Step::Fail(failure),
        }
    }

    fn advance(&self, state: State, input: Input) -> Result<(State, Step), SaslFailure> {
        match (state, input) {
            (State::Over, _) => Err(SaslFailure::MalformedRequest),
            (_, Input::Abort) => Err(SaslFailure::Aborted),
            (State::Start, Input::Initial(None)) => Ok((State::First, Step::Challenge(Vec::new()))),
            (State::Start, Input::Initial(Some(bytes)))
            | (State::First, Input::Response(bytes)) => self.first(bytes),
            (State::ScramKeys(first), Input::Keys(Some(keys))) => {
                let (last, challenge) = first.challenge(&self.cx, keys);
                Ok((State::ScramFinal(last), Step::Challenge(challenge)))
            }
            (State::ScramKeys(_), Input::Keys(None)) => Err(SaslFailure::TemporaryAuthFailure),
            (State::ScramFinal(last), Input::Response(bytes)) => {
                Ok((State::Over, last.prove(&bytes)?))
            }
            (State::Claim(claim), Input::Accepted(owner)) => {
                Ok((State::Over, self.accept(claim, owner)?))
            }
            (State::Claim(_), Input::Rejected(failure)) => match self.mechanism {
                Mechanism::OauthBearer => Ok(refuse_token(failure)),
                _ => Err(failure),
            },
            (State::Hashed(user, proof), Input::Hashed(token)) => {
                let binding = self.mechanism.ht_binding().filter(|kind| !kind.is_empty());
                let additional = proof.answer(&token);
                Ok((State::Over, Step::Proved { user, additional, binding }))
            }
            (State::Hashed(..), Input::Rejected(failure)) => Err(failure),
            // Whatever the dummy response says, the challenge before it was the refusal.
            (State::TokenRefused(failure), Input::Response(_)) => Err(failure),
            _ => Err(SaslFailure::MalformedRequest),
        }
    }

    /// The client's first message.
    fn first(&self, bytes: Vec<u8>) -> Result<(State, Step), SaslFailure> {
        match self.mechanism {
            Mechanism::Plain => {
                let (user, password) = plain::parse(Secret::new(bytes), &self.cx)?;
                let step = Step::NeedPassword { user: user.clone(), password };
                Ok((State::Claim(Some(user)), step))
            }
            Mechanism::OauthBearer => match oauthbearer::parse(Secret::new(bytes), &self.cx)? {
                (user, Some(token)) => {
                    let step = Step::NeedToken { user: user.clone(), token };
                    Ok((State::Claim(user), step))
                }
                (_, None) => Ok(refuse_token(SaslFailure::NotAuthorized)),
            },
            Mechanism::HtSha256Expr | Mechanism::HtSha256Endp | Mechanism::HtSha256None => {
                let (user, proof) = ht::parse(&bytes, self.mechanism, &self.cx)?;
                let proof = Arc::new(proof);
                let step = Step::NeedHashed { user: user.clone(), proof: proof.clone() };
                Ok((State::Hashed(user, proof), step))
            }
            Mechanism::ScramSha256Plus
            | Mechanism::ScramSha1Plus
            | Mechanism::ScramSha256
            | Mechanism::ScramSha1 => {
                let first = scram::First::parse(&bytes, self.mechanism, &self.cx)?;
                let step = Step::NeedKeys { user: first.user().clone(), hash: first.hash() };
                Ok((State::ScramKeys(first), step))
            }
        }
    }

    /// The last word on whose session this becomes: a credential never opens another account or
    /// another host than the ones the peer spoke of.
    fn accept(&self, claim: Option<Jid>, owner: Jid) -> Result<Step, SaslFailure> {
        let user = owner.bare();
        if claim.is_some_and(|claim| claim != user) {
            return Err(match self.mechanism {
                Mechanism::OauthBearer => SaslFailure::InvalidAuthzid,
                _ => SaslFailure::NotAuthorized,
            });
        }
        if user.local().is_none() || user.domain() != self.cx.host {
            return Err(SaslFailure::NotAuthorized);
        }
        Ok(Step::Proved { user, additional: Vec::new(), binding: None })
    }
}

/// Where an exchange is. Each state owns what its next message needs.
enum State {
    /// Nothing came yet.
    Start,
    /// The empty challenge is out.
    First,
    /// SCRAM waits for the keys.
    ScramKeys(scram::First),
    /// SCRAM waits for the proof.
    ScramFinal(scram::Final),
    /// PLAIN and OAUTHBEARER wait for the caller's verdict on this claimed account.
    Claim(Option<Jid>),
    /// SASL-HT waits for the token.
    Hashed(Jid, Arc<HashedToken>),
    /// OAUTHBEARER waits for the dummy response.
    TokenRefused(SaslFailure),
    /// Proved or failed.
    Over,
}

fn refuse_token(failure: SaslFailure) -> (State, Step) {
    (State::TokenRefused(failure), Step::Challenge(oauthbearer::failure_json().into()))
}

/// The account that SASL user name `name` means at the context's host: SASLprep (RFC 4013), then
/// the localpart's own preparation.
fn account(name: &str, cx: &Context) -> Result<Jid, SaslFailure> {
    let name = stringprep::saslprep(name).map_err(|_| SaslFailure::NotAuthorized)?;
    Jid::from_parts(Some(&name), &cx.host, None).map_err(|_| SaslFailure::NotAuthorized)
}

/// An authorization identity, which in XMPP is a bare JID (RFC 6120 section 6.3.8).
fn authzid(text: &str) -> Result<Jid, SaslFailure> {
    Jid::parse(text)
        .ok()
        .filter(|jid| jid.is_bare() && jid.local().is_some())
        .ok_or(SaslFailure::InvalidAuthzid)
}

#[cfg(test)]
mod tests;
