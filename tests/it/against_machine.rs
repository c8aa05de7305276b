//! Scripts about one stream, run against the state machine and the scanner alone: no sockets, no
//! tasks, no server. Around them stands only what answers their questions: accounts in a map, and a
//! bind that says yes.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use wire::{
    ChannelBinding, Condition, Denied, Event, Jid, Limits, SaslFailure, Scanner, ScramKeys, Secret,
    StanzaError, Stream,
    stream::{Bound, Effect, Effects, Enabled, Input, Settings, TlsUp, Wanted, sm},
};

use crate::{
    dialogue::{self, Chunks, Client, Got, Link},
    script::{self, Case, TokenState},
    xml::Vars,
};

/// A stream and its surroundings.
struct Machine {
    stream: Stream,
    scanner: Scanner,
    config: server::config::Config,
    accounts: HashMap<String, (String, bool)>,
    /// By text: whose, and how it stands.
    tokens: HashMap<String, (Jid, TokenState)>,
    out: VecDeque<Vec<u8>>,
    /// The peer was told to go on with TLS.
    upgrade: bool,
    over: bool,
    /// The name of the account that has logged in.
    user: Option<Jid>,
    /// How many random texts were given out.
    random: u32,
    /// Stanzas since they are counted.
    handled: Option<u32>,
}

fn limits(phase: &server::config::Phase) -> Limits {
    Limits {
        bytes: phase.stanza_bytes,
        elements: phase.elements,
        depth: phase.depth,
        attributes: phase.attributes,
        namespaces: phase.attributes,
    }
}

fn tls_up() -> TlsUp {
    let binding =
        ChannelBinding { exporter: Some([7; 32]), end_point: Some(b"certificate".to_vec()) };
    TlsUp { binding, version: Some(0x0304) }
}

impl Machine {
    /// What a case starts from; the texts of its tokens go into `vars`.
    fn new(case: &Case, vars: &mut Vars) -> Self {
        let config = case.config();
        let hosts = config.host.iter().map(|h| Jid::parse(&h.name).expect("a domain")).collect();
        let mut settings = Settings::new(hosts);
        settings.starttls = !case.setup.tls;
        settings.tls_required = config.tls.required;
        settings.attempts = config.auth.attempts;
        settings.upgrades = vec![server::task::UPGRADE];
        settings.max_bytes =
            (config.limits.unauthed.stanza_bytes, config.limits.bound.stanza_bytes);
        let accounts = case.setup.accounts.iter();
        let accounts = accounts.map(|a| (a.jid.clone(), (a.password.clone(), a.disabled)));
        let mut tokens = HashMap::new();
        for token in &case.setup.tokens {
            let text = format!("secret-token:{}-{:?}", token.name, token.state);
            let owner = Jid::parse(&token.owner).expect("an address");
            tokens.insert(text.clone(), (owner, token.state));
            vars.insert(token.name.clone(), text);
        }
        Self {
            stream: Stream::new(Arc::new(settings), case.setup.tls.then(tls_up)),
            scanner: Scanner::new(limits(&config.limits.unauthed)),
            accounts: accounts.collect(),
            tokens,
            config,
            out: VecDeque::new(),
            upgrade: false,
            over: false,
            user: None,
            random: 0,
            handled: None,
        }
    }

    fn feed(&mut self, mut input: &[u8]) {
        while !input.is_empty() && !self.upgrade && !self.over {
            match self.scanner.feed(input) {
                Ok((used, event)) => {
                    input = &input[used..];
                    match event {
                        None => {}
                        Some(Event::Open(header)) => self.step(Input::Header(header)),
                        Some(Event::Stanza(frame)) => self.step(Input::Frame(frame)),
                        Some(Event::Close) => self.step(Input::Close),
                    }
                }
                Err(error) => return self.step(Input::Fault(error)),
            }
        }
    }

    fn step(&mut self, input: Input) {
        let count = &mut self.random;
        let effects = self.stream.step(input, &mut || random(count));
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Send(bytes) => self.out.push_back(bytes.to_vec()),
                Effect::StartTls => self.upgrade = true,
                Effect::Restart => self.scanner.restart(),
                // Where it goes is not the stream's business.
                Effect::Stanza(_) => self.handled = self.handled.map(|h| h.wrapping_add(1)),
                Effect::Nonza(_) => {}
                Effect::Manage(enable) => {
                    let enabled = match self.handled {
                        Some(_) => Err(Condition::UnexpectedRequest.into()),
                        None => {
                            let max = enable.max.unwrap_or(600).min(600);
                            let resumable = enable.resume.then(|| ("an id".to_owned(), max));
                            Ok(Enabled { resumable })
                        }
                    };
                    self.handled.get_or_insert(0);
                    self.step(Input::Managed(enabled));
                }
                // Nothing is ever sent to it that it could acknowledge.
                Effect::Ack(0) => {}
                Effect::Ack(h) => self.farewell(Some(&sm::too_high(h, 0))),
                Effect::Ask => {
                    let ack = sm::ack(self.handled.unwrap_or(0));
                    self.out.push_back(ack.to_vec());
                }
                Effect::Resume(_) => {
                    self.step(Input::Resumed(Err(Condition::ItemNotFound.into())));
                }
                Effect::CheckHashed { .. } => {
                    self.step(Input::Hashed(Err(SaslFailure::NotAuthorized.into())));
                }
                Effect::Upgrade(_) => self.step(Input::Task(None)),
                Effect::Perform { .. } => self.step(Input::Performed(Ok(()))),
                Effect::Grant { .. } => self.step(Input::Granted(None)),
                Effect::Refused { .. } => {}
                Effect::FindKeys { user, hash } => {
                    let keys = match self.accounts.get(user.as_str()) {
                        Some((password, _)) => wire::derive(hash, password, b"a salt", 2),
                        None => Ok(ScramKeys::decoy(hash, &Secret::new(*b"seed"), &user, 2)),
                    };
                    self.step(Input::Keys(Ok(keys.expect("a usable password"))));
                }
                Effect::CheckPassword { user, password } => {
                    let verdict = match password.expose_str() {
                        Some(text) if text.starts_with("secret-token:") => {
                            self.token(Some(&user), &password)
                        }
                        _ => match self.accounts.get(user.as_str()) {
                            Some((right, _)) if password.ct_eq(right.as_bytes()) => Ok(user),
                            _ => Err(SaslFailure::NotAuthorized.into()),
                        },
                    };
                    self.step(Input::Checked(verdict));
                }
                Effect::CheckToken { user, token } => {
                    let verdict = self.token(user.as_ref(), &token);
                    self.step(Input::Checked(verdict));
                }
                Effect::Enter { user, .. } => {
                    let verdict = match self.accounts.get(user.as_str()) {
                        Some((_, false)) => Ok(()),
                        Some((_, true)) => Err(SaslFailure::AccountDisabled.into()),
                        None => Err(SaslFailure::NotAuthorized.into()),
                    };
                    if verdict.is_ok() {
                        self.user = Some(user);
                        self.scanner.set_limits(limits(&self.config.limits.unbound));
                    }
                    self.step(Input::Entered(verdict));
                }
                Effect::Bind(wanted) => {
                    let user = self.user.clone().expect("nobody binds before login");
                    let name = match wanted {
                        Wanted::Resource(Some(name)) => name,
                        Wanted::Resource(None) | Wanted::Tag(None, _) => random(&mut self.random),
                        Wanted::Tag(Some(tag), _) => format!("{tag}/{}", random(&mut self.random)),
                    };
                    let bound = user.with_resource(&name);
                    if bound.is_ok() {
                        self.scanner.set_limits(limits(&self.config.limits.bound));
                    }
                    let refused = |_| StanzaError::new(Condition::BadRequest);
                    let bound = bound.map(|jid| Bound { jid, features: Bytes::new() });
                    self.step(Input::Bound(bound.map_err(refused)));
                }
                Effect::Fail(error) => self.farewell(Some(&error)),
                Effect::Closed => self.farewell(None),
            }
        }
    }

    fn token(&self, user: Option<&Jid>, token: &Secret) -> Result<Jid, Denied> {
        let text = token.expose_str().unwrap_or_default();
        let gone = |reason: &str| {
            let element = server::end::element(reason, "admin");
            Denied { app: Some(element), ..SaslFailure::CredentialsExpired.into() }
        };
        match self.tokens.get(text) {
            Some((owner, _)) if user.is_some_and(|user| user != owner) => {
                Err(SaslFailure::NotAuthorized.into())
            }
            Some((owner, TokenState::Valid)) => Ok(owner.clone()),
            Some((_, TokenState::Expired)) => Err(gone("expired")),
            Some((_, TokenState::Revoked)) => Err(gone("revoked")),
            Some((_, TokenState::Forged)) | None => Err(SaslFailure::NotAuthorized.into()),
        }
    }

    fn farewell(&mut self, error: Option<&wire::StreamError>) {
        if !self.over {
            let count = &mut self.random;
            let last = self.stream.farewell(error, &mut || random(count));
            self.out.push_back(last.to_vec());
            self.over = true;
        }
    }
}

fn random(count: &mut u32) -> String {
    *count += 1;
    format!("randomtextnumber{count:010}")
}

impl Link for Machine {
    async fn send(&mut self, bytes: &[u8]) {
        self.feed(bytes);
    }

    async fn receive(&mut self) -> Got {
        match self.out.pop_front() {
            Some(bytes) => Got::Bytes(bytes),
            None if self.over => Got::Eof,
            None => Got::Nothing,
        }
    }

    async fn start_tls(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.upgrade) {
            return Err("the server did not start TLS".into());
        }
        self.step(Input::Encrypted(tls_up()));
        Ok(())
    }

    fn cut(&mut self) {}

    fn binding(&self, kind: &str) -> Vec<u8> {
        let known = tls_up().binding;
        known.data(kind).map(|(_, data)| data.to_vec()).unwrap_or_default()
    }
}

/// Runs all cases that are about one stream.
fn run_all(chunks: &Chunks) {
    let (mut failed, mut count) = (Vec::new(), 0);
    for case in script::all().values().flatten().filter(|case| case.is_about_one_stream()) {
        count += 1;
        let mut vars = Vars::new();
        let machine = Machine::new(case, &mut vars);
        let name = case.clients().first().map_or("", |name| name).to_owned();
        let mut clients = HashMap::from([(name, Client::new(machine, chunks.clone()))]);
        // Nothing in it ever waits.
        let run = pin!(dialogue::run(case, &mut clients, &mut vars));
        match run.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(why)) => failed.push(format!("{} {}: {why}", case.place, case.name)),
            Poll::Pending => failed.push(format!("{} {}: waits", case.place, case.name)),
        }
    }
    let failures = failed.len();
    assert!(failed.is_empty(), "{failures} of {count} cases failed\n{}", failed.join("\n"));
    assert!(count > 0, "no case was run");
}

#[test]
fn scripts_in_one_piece() {
    run_all(&Chunks::Whole);
}

#[test]
fn scripts_in_random_pieces() {
    for seed in 1..=8 {
        run_all(&Chunks::Random(seed * 0x9e37_79b9));
    }
}

#[test]
fn scripts_byte_by_byte() {
    run_all(&Chunks::Bytes);
}
