//! The server's side of a client stream (RFC 6120 sections 4 to 7) as a state machine without I/O.
//!
//! ```text
//!            Header            starttls           auth … success          bind
//!  Start ──────────► Features ─────────► Start ─────────► … ─────► Start ──────► Bound
//!    ▲                   │                 (encrypted)                (authed)
//!    └── restart ────────┘                     │ authenticate … success            ▲
//!                                              └── resumed, or bound: no restart ──┘
//! ```
//!
//! Inputs go in ([`Input`]), effects come out ([`Effect`]) for the connection to carry out in order.
//! Questions that only the server can answer (keys of an account, a verdict on a password, admission,
//! a resource) are effects too; their answers come back as inputs, and until then the connection
//! reads nothing. Time is the server's business: it ends sessions that take too long. Randomness
//! arrives as an argument.

mod features;
mod negotiation;
mod sasl;
mod sasl2;
pub mod sm;

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{
    ChannelBinding, Condition, Frame, Hash, Jid, Kind, Mechanism, SaslFailure, ScanError,
    ScramKeys, Secret, StanzaError, StreamCondition, StreamError, StreamHeader, escape, ns,
    sasl::HashedToken,
};
use negotiation::Negotiation;
pub use sasl2::{Agent, FastUse, Granted, Task};
pub use sm::{Enable, Enabled, Failed, Resume};

/// Longest `xml:lang` of a stream that is kept for its stanzas, in bytes; RFC 5646 section 4.4.1 has
/// 35 for the longest that makes sense.
const LANG: usize = 64;

/// What all streams of a listener share.
#[derive(Debug)]
pub struct Settings {
    /// The served domains; the first is for clients that name none. Never empty.
    pub hosts: Vec<Jid>,
    /// Whether STARTTLS can be had.
    pub starttls: bool,
    /// Whether nobody may log in without TLS.
    pub tls_required: bool,
    /// Failed logins on one stream before it ends.
    pub attempts: u32,
    /// Whole elements announced to clients that have logged in, besides `bind`.
    pub features: Vec<Arc<str>>,
    /// Features that can be enabled while a resource is bound (XEP-0386), by their names there.
    pub inline: Vec<&'static str>,
    /// Tasks by which clients can bring better keys (XEP-0480), by name.
    pub upgrades: Vec<&'static str>,
    /// First-level elements that are no stanzas and that something understands once a resource is
    /// bound: namespace and local name.
    pub nonzas: Vec<(&'static str, &'static str)>,
    /// The largest element that is taken, in bytes, before login and afterwards (XEP-0478).
    pub max_bytes: (usize, usize),
    /// Seconds without a stanza after which a session ends, if there is such a rule (XEP-0478).
    pub idle: Option<u64>,
    announced: features::Announced,
}

impl Settings {
    /// For these domains, of which the first is for clients that name none; at least one. TLS is
    /// there and not demanded, and nothing but the core is announced.
    #[must_use]
    pub fn new(hosts: Vec<Jid>) -> Self {
        Self {
            hosts,
            starttls: true,
            tls_required: false,
            attempts: 4,
            features: Vec::new(),
            inline: Vec::new(),
            upgrades: Vec::new(),
            nonzas: Vec::new(),
            max_bytes: (10_000, 262_144),
            idle: None,
            announced: features::Announced::default(),
        }
    }
}

/// What happens to a stream.
pub enum Input {
    /// The peer opened the stream.
    Header(StreamHeader),
    /// The peer sent a first-level element.
    Frame(Frame),
    /// The peer closed the stream.
    Close,
    /// The peer sent what no stream may contain.
    Fault(ScanError),
    /// The connection is encrypted now.
    Encrypted(TlsUp),
    /// Answers [`Effect::FindKeys`].
    Keys(Result<ScramKeys, Denied>),
    /// Answers [`Effect::CheckPassword`] and [`Effect::CheckToken`]: whose it is.
    Checked(Result<Jid, Denied>),
    /// Answers [`Effect::Enter`].
    Entered(Result<(), Denied>),
    /// Answers [`Effect::CheckHashed`]: the token whose possession was proved.
    Hashed(Result<Secret, Denied>),
    /// Answers [`Effect::Bind`].
    Bound(Result<Bound, StanzaError>),
    /// Answers [`Effect::Upgrade`] and [`Effect::Bind`]: this has to be done first, or nothing has.
    Task(Option<Task>),
    /// Answers [`Effect::Perform`].
    Performed(Result<(), Denied>),
    /// Answers [`Effect::Manage`].
    Managed(Result<Enabled, Failed>),
    /// Answers [`Effect::Resume`].
    Resumed(Result<Resumed, Failed>),
    /// Answers [`Effect::Grant`].
    Granted(Option<Granted>),
}

/// A session has its resource.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The full JID.
    pub jid: Jid,
    /// What features that were enabled with it have to say: whole elements.
    pub features: Bytes,
}

/// An earlier stream goes on.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// Its full JID.
    pub jid: Jid,
    /// How many stanzas of the client the server has handled on it.
    pub h: u32,
}

/// The resource that a client wants.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// This one, not prepared; or one of the server's making (RFC 6120).
    Resource(Option<String>),
    /// One that the server makes, with this text in it (XEP-0386); with the whole request for what
    /// else is to be enabled.
    Tag(Option<String>, Frame),
}

/// What is known of a fresh TLS connection.
#[derive(Clone, Default)]
pub struct TlsUp {
    /// What authentication can be bound to.
    pub binding: ChannelBinding,
    /// The negotiated version, `0x0304` for 1.3.
    pub version: Option<u16>,
}

/// What the connection has to do, in order.
pub enum Effect {
    /// Write these bytes.
    Send(Bytes),
    /// Flush, forget every byte that came in the clear, and do the TLS handshake.
    StartTls,
    /// Expect a new stream header; forget what the scanner has.
    Restart,
    /// Look up SCRAM keys; a decoy for an account that is not there.
    FindKeys {
        /// The account.
        user: Jid,
        /// Which keys.
        hash: Hash,
    },
    /// Check a password.
    CheckPassword {
        /// The account.
        user: Jid,
        /// As the peer sent it.
        password: Secret,
    },
    /// Check a token.
    CheckToken {
        /// Whose the peer says that it is.
        user: Option<Jid>,
        /// As the peer sent it.
        token: Secret,
    },
    /// The peer has proved who it is; may it come in?
    Enter {
        /// The account.
        user: Jid,
        /// How.
        mechanism: Mechanism,
        /// Type of channel binding in use.
        binding: Option<&'static str>,
        /// What the client says it is.
        agent: Option<Arc<Agent>>,
    },
    /// Find the token of FAST whose possession is proved.
    CheckHashed {
        /// The account.
        user: Jid,
        /// The proof.
        proof: Arc<HashedToken>,
        /// What the client says it is; with an id.
        agent: Arc<Agent>,
        /// How the token is used.
        fast: FastUse,
    },
    /// Give the session a resource.
    Bind(Wanted),
    /// Is there something that the client should bring, of what it can?
    Upgrade(Vec<String>),
    /// The client does its task.
    Perform {
        /// Which.
        task: &'static str,
        /// `<task-data/>`.
        data: Frame,
    },
    /// Count stanzas from now on.
    Manage(Enable),
    /// Go on with an earlier stream of the same account.
    Resume(Resume),
    /// Hand out a token for the next login, if one is wanted or due.
    Grant {
        /// For this mechanism; none: the client has not asked for one.
        wanted: Option<Mechanism>,
        /// How the token in use was used; none: it was not a token of FAST.
        fast: Option<FastUse>,
    },
    /// A stanza of a bound session.
    Stanza(Frame),
    /// One of [`Settings::nonzas`], of a bound session.
    Nonza(Frame),
    /// The client has handled so many stanzas.
    Ack(u32),
    /// The client asks how many stanzas the server has handled.
    Ask,
    /// A login was refused and the peer is told. Nothing to do; something to note.
    Refused {
        /// The account that it was about, as far as the exchange got.
        user: Option<Jid>,
        /// Why, as the peer is told.
        failure: SaslFailure,
    },
    /// End the session with this error.
    Fail(StreamError),
    /// The peer has closed its stream: end the session, close ours.
    Closed,
}

/// Effects of one step.
pub type Effects = SmallVec<[Effect; 2]>;

/// A refused login, as the peer is told.
#[derive(Clone, Debug)]
pub struct Denied {
    /// The SASL condition.
    pub failure: SaslFailure,
    /// In words; none where words would tell more than the condition.
    pub text: Option<String>,
    /// The language of these words (RFC 5646).
    pub lang: &'static str,
    /// An application-specific condition, one whole element.
    pub app: Option<Bytes>,
}

impl From<SaslFailure> for Denied {
    fn from(failure: SaslFailure) -> Self {
        Self { failure, text: None, lang: "en", app: None }
    }
}

/// One client stream, over all its restarts.
pub struct Stream {
    settings: Arc<Settings>,
    state: State,
    /// The stream has been opened from our side since the last restart.
    open: bool,
    /// `xml:lang` of the peer's header.
    lang: Option<Arc<str>>,
}

/// Where the stream is. Everything that is only needed until bind is in the box, and goes with it.
enum State {
    Negotiating(Box<Negotiation>),
    Bound { managed: bool },
    Over,
}

impl Stream {
    /// A stream that waits for the peer's header. `encrypted`: over direct TLS.
    #[must_use]
    pub fn new(settings: Arc<Settings>, encrypted: Option<TlsUp>) -> Self {
        let state = State::Negotiating(Box::new(Negotiation::new(encrypted)));
        Self { settings, state, open: false, lang: None }
    }

    /// Takes one input. `random` gives a fresh unpredictable text of at least 128 bits, made of
    /// letters and digits, at each call.
    pub fn step(&mut self, input: Input, random: &mut dyn FnMut() -> String) -> Effects {
        let mut out = Effects::new();
        match (&mut self.state, input) {
            (State::Over, _) => {}
            // The way that nearly everything takes.
            (State::Bound { managed }, Input::Frame(frame)) => {
                bound(&self.settings, *managed, frame, &mut out);
            }
            (State::Bound { managed }, Input::Managed(answer)) => {
                *managed = answer.is_ok();
                out.push(Effect::Send(sm::whole(|xml| match answer {
                    Ok(enabled) => enabled.write(xml),
                    Err(failed) => failed.write(xml),
                })));
            }
            (_, Input::Close) => out.push(Effect::Closed),
            (_, Input::Fault(error)) => {
                let text = error.to_string();
                out.push(Effect::Fail(StreamError::new(error.condition()).with_text(text)));
            }
            (State::Bound { .. }, _) => {
                let error = StreamError::new(StreamCondition::PolicyViolation);
                out.push(Effect::Fail(error.with_text("The stream is open already")));
            }
            (State::Negotiating(negotiation), Input::Header(header)) => {
                let lang = header.lang.as_deref().filter(|lang| lang.len() <= LANG);
                self.lang = lang.map(Arc::from);
                let checked = negotiation.header(&self.settings, &header);
                let error = checked.err();
                let to = header.from.as_deref().and_then(|from| Jid::parse(from).ok());
                let host = negotiation.host(&self.settings).clone();
                out.push(Effect::Send(opening(&host, to.as_ref(), &random())));
                self.open = true;
                match error {
                    Some(error) => out.push(Effect::Fail(error)),
                    None => out.push(Effect::Send(negotiation.features(&self.settings))),
                }
            }
            (State::Negotiating(negotiation), input) => {
                if let Some(ready) = negotiation.step(&self.settings, input, random, &mut out) {
                    match ready {
                        negotiation::Ready::Bound { managed } => {
                            self.state = State::Bound { managed };
                        }
                        negotiation::Ready::Restart => self.open = false,
                    }
                }
            }
        }
        out
    }

    /// The last bytes of the stream: our header if the peer has not seen one, the error if there is
    /// one, and the closing tag. Nothing that the peer sends counts after this.
    pub fn farewell(
        &mut self,
        error: Option<&StreamError>,
        random: &mut dyn FnMut() -> String,
    ) -> Bytes {
        let mut last = Vec::new();
        if !self.open {
            let host = match &self.state {
                State::Negotiating(negotiation) => negotiation.host(&self.settings),
                State::Bound { .. } | State::Over => &self.settings.hosts[0],
            };
            last.extend_from_slice(&opening(host, None, &random()));
        }
        if let Some(error) = error {
            last.extend_from_slice(&error.to_xml());
        }
        last.extend_from_slice(b"</stream:stream>");
        self.state = State::Over;
        last.into()
    }

    /// Whether stanzas may pass.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        matches!(self.state, State::Bound { .. })
    }

    /// `xml:lang` of the peer's stream.
    #[must_use]
    pub fn lang(&self) -> Option<&Arc<str>> {
        self.lang.as_ref()
    }
}

/// Our stream header; the declaration is part of it at every (re)start.
fn opening(host: &Jid, to: Option<&Jid>, id: &str) -> Bytes {
    let mut text = format!(
        "<?xml version='1.0'?><stream:stream xmlns='{}' xmlns:stream='{}' id='{id}' from='{}'",
        ns::CLIENT,
        ns::STREAMS,
        escape(host.as_str()),
    );
    if let Some(to) = to {
        text.push_str(&format!(" to='{}'", escape(to.bare_str())));
    }
    text.push_str(" version='1.0' xml:lang='en'>");
    text.into()
}

/// A first-level element of a bound session: a stanza, something about the stream, or out of place.
fn bound(settings: &Settings, managed: bool, frame: Frame, out: &mut Effects) {
    if frame.kind() != Kind::Other {
        return out.push(Effect::Stanza(frame));
    }
    match sm::Request::of(&frame) {
        Some(Ok(request)) => return manage(managed, request, out),
        Some(Err(error)) => return out.push(Effect::Fail(error)),
        None => {}
    }
    if settings.nonzas.contains(&(frame.ns(), frame.local())) {
        return out.push(Effect::Nonza(frame));
    }
    let text = format!("<{}/> is no stanza", frame.local());
    let error = StreamError::new(StreamCondition::UnsupportedStanzaType);
    out.push(Effect::Fail(error.with_text(text)));
}

/// What a client of a bound session asks of stream management.
fn manage(managed: bool, request: sm::Request, out: &mut Effects) {
    match request {
        sm::Request::Enable(enable) if !managed => out.push(Effect::Manage(enable)),
        sm::Request::Ack(h) if managed => out.push(Effect::Ack(h)),
        sm::Request::Ask if managed => out.push(Effect::Ask),
        // It may be tried once (XEP-0198 section 3), and means the end of what was counted.
        sm::Request::Enable(_) => {
            out.push(Effect::Send(unexpected()));
            let error = StreamError::new(StreamCondition::PolicyViolation);
            out.push(Effect::Fail(error.with_text("Stream management is enabled already")));
        }
        // Acknowledgements of what nobody counts, and a stream that is to be two.
        _ => out.push(Effect::Send(unexpected())),
    }
}

/// `<failed/>`: not at this point.
fn unexpected() -> Bytes {
    sm::whole(|xml| Failed::from(Condition::UnexpectedRequest).write(xml))
}

#[cfg(test)]
mod tests;
