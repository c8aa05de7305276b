//! A stream until it is bound: header, STARTTLS, SASL, bind.

use std::{mem, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use crate::{
    Condition, Frame, Jid, Kind, Mechanism, SaslFailure, StanzaError, StreamCondition, StreamError,
    StreamHeader, Xml, ns,
    sasl::{self, Context, Exchange, Offer, Step},
};

use super::{Denied, Effect, Effects, Input, Settings, TlsUp, features};

/// What is only needed until bind.
pub(super) struct Negotiation {
    phase: Phase,
    /// What TLS has brought, once it is there.
    tls: Option<TlsUp>,
    /// The domain of the first header; the same for all later ones.
    host: Option<Jid>,
    /// Who has logged in.
    user: Option<Jid>,
    /// What this stream has offered.
    offer: Arc<Offer>,
    /// Failed logins so far.
    failures: u32,
    /// Whom the peer says it is, in the login under way.
    claimed: Option<Jid>,
}

/// What is expected next.
enum Phase {
    /// The peer's header.
    Header,
    /// An element that negotiates a feature.
    Features,
    /// The peer's next SASL message. With what it will be told if it fails.
    Sasl(Box<Exchange>, Option<Denied>),
    /// The server's answer about a login.
    Asked(Box<Exchange>),
    /// The server's verdict on a proven login. With what goes into `<success/>`.
    Entering(Jid, Vec<u8>),
    /// The server's answer to a bind request with this id.
    Binding(Option<String>),
}

/// A step that changes more than the negotiation itself.
pub(super) enum Ready {
    /// The session has its resource.
    Bound,
    /// The peer opens the stream anew.
    Restart,
}

impl Negotiation {
    pub(super) fn new(tls: Option<TlsUp>) -> Self {
        let offer = Arc::default();
        Self {
            phase: Phase::Header,
            tls,
            host: None,
            user: None,
            offer,
            failures: 0,
            claimed: None,
        }
    }

    /// The domain that the peer wants, or the default one.
    pub(super) fn host<'a>(&'a self, settings: &'a Settings) -> &'a Jid {
        self.host.as_ref().unwrap_or(&settings.hosts[0])
    }

    /// Checks a header and moves on to the features.
    pub(super) fn header(
        &mut self,
        settings: &Settings,
        header: &StreamHeader,
    ) -> Result<(), StreamError> {
        let fail =
            |condition, text: &str| Err(StreamError::new(condition).with_text(text.to_owned()));
        if !matches!(self.phase, Phase::Header) {
            return fail(StreamCondition::PolicyViolation, "The stream is open already");
        }
        if header.name_ns != ns::STREAMS {
            return fail(StreamCondition::InvalidNamespace, "This is no XMPP stream");
        }
        if header.local != "stream" {
            return fail(StreamCondition::BadFormat, "A stream starts with <stream:stream>");
        }
        if header.content_ns.as_deref().is_some_and(|content| content != ns::CLIENT) {
            return fail(StreamCondition::InvalidNamespace, "Clients speak jabber:client here");
        }
        self.check_to(settings, header)?;
        self.check_from(header)?;
        let major = header.version.as_deref().and_then(|version| version.split_once('.'));
        if !major.is_some_and(|(major, _)| major.parse::<u32>().is_ok_and(|major| major >= 1)) {
            return fail(StreamCondition::UnsupportedVersion, "XMPP 1.0 or later is needed");
        }
        self.offer = Arc::new(features::offer(settings, self.tls.as_ref()));
        self.phase = Phase::Features;
        Ok(())
    }

    /// A stream stays with the domain that it named first, over every restart.
    fn check_to(&mut self, settings: &Settings, header: &StreamHeader) -> Result<(), StreamError> {
        let Some(to) = &header.to else {
            self.host.get_or_insert_with(|| settings.hosts[0].clone());
            return Ok(());
        };
        let to = Jid::parse(to).map_err(|why| {
            StreamError::new(StreamCondition::ImproperAddressing)
                .with_text(format!("The `to` address is not valid: {why}"))
        })?;
        let Some(host) = settings.hosts.iter().find(|host| **host == to) else {
            let error = StreamError::new(StreamCondition::HostUnknown);
            return Err(error.with_text(format!("`{to}` is not served here")));
        };
        match &self.host {
            Some(first) if first != host => Err(StreamError::new(StreamCondition::NotAuthorized)
                .with_text("The stream was opened to another domain before")),
            _ => {
                self.host = Some(host.clone());
                Ok(())
            }
        }
    }

    fn check_from(&self, header: &StreamHeader) -> Result<(), StreamError> {
        let Some(from) = &header.from else { return Ok(()) };
        let from = Jid::parse(from).map_err(|why| {
            StreamError::new(StreamCondition::ImproperAddressing)
                .with_text(format!("The `from` address is not valid: {why}"))
        })?;
        match &self.user {
            Some(user) if from.bare_str() != user.as_str() => {
                Err(StreamError::new(StreamCondition::InvalidFrom)
                    .with_text("You have logged in as somebody else"))
            }
            _ => Ok(()),
        }
    }

    /// What is announced to the peer as things stand.
    pub(super) fn features(&self, settings: &Settings) -> Bytes {
        match self.user {
            Some(_) => features::after_login(settings),
            None => features::before_login(settings, self.tls.is_some(), &self.offer),
        }
    }

    pub(super) fn step(
        &mut self,
        settings: &Settings,
        input: Input,
        random: &mut dyn FnMut() -> String,
        out: &mut Effects,
    ) -> Option<Ready> {
        match (mem::replace(&mut self.phase, Phase::Header), input) {
            (Phase::Header, Input::Encrypted(tls)) => {
                self.tls = Some(tls);
                None
            }
            (Phase::Features, Input::Frame(frame)) => {
                self.phase = Phase::Features;
                self.feature(settings, &frame, random, out)
            }
            (Phase::Sasl(exchange, denied), Input::Frame(frame)) => {
                self.sasl_message(settings, exchange, denied, &frame, out);
                None
            }
            (Phase::Asked(mut exchange), Input::Keys(keys)) => {
                match keys {
                    Ok(keys) => {
                        let step = exchange.step(sasl::Input::Keys(Some(keys)));
                        self.sasl_step(settings, exchange, None, step, out);
                    }
                    Err(denied) => self.deny(settings, &denied, out),
                }
                None
            }
            (Phase::Asked(mut exchange), Input::Checked(verdict)) => {
                let (input, denied) = match verdict {
                    Ok(owner) => (sasl::Input::Accepted(owner), None),
                    Err(denied) => (sasl::Input::Rejected(denied.failure), Some(denied)),
                };
                let step = exchange.step(input);
                self.sasl_step(settings, exchange, denied, step, out);
                None
            }
            (Phase::Entering(user, additional), Input::Entered(verdict)) => match verdict {
                Ok(()) => {
                    self.user = Some(user);
                    out.push(Effect::Send(success(&additional)));
                    out.push(Effect::Restart);
                    Some(Ready::Restart)
                }
                Err(denied) => {
                    self.deny(settings, &denied, out);
                    None
                }
            },
            (Phase::Binding(id), Input::Bound(bound)) => self.bound(id, bound, out),
            (phase, Input::Frame(_)) => {
                self.phase = phase;
                let error = StreamError::new(StreamCondition::PolicyViolation);
                out.push(Effect::Fail(error.with_text("Nothing may be sent at this point")));
                None
            }
            // An answer to a question that was not asked: the connection keeps track of them.
            (phase, _) => {
                debug_assert!(false, "an answer without a question");
                self.phase = phase;
                None
            }
        }
    }

    /// An element while the features stand.
    fn feature(
        &mut self,
        settings: &Settings,
        frame: &Frame,
        random: &mut dyn FnMut() -> String,
        out: &mut Effects,
    ) -> Option<Ready> {
        match (frame.ns(), frame.local()) {
            (ns::TLS, "starttls") => return self.starttls(settings, out),
            (ns::SASL, "auth") if self.user.is_none() => {
                self.auth(settings, frame, random, out);
            }
            (ns::SASL, "abort" | "response") if self.user.is_none() => {
                self.deny(settings, &SaslFailure::MalformedRequest.into(), out);
            }
            _ if frame.kind() == Kind::Other => {
                let text = format!("<{}/> is not expected here", frame.local());
                let error = StreamError::new(StreamCondition::UnsupportedStanzaType);
                out.push(Effect::Fail(error.with_text(text)));
            }
            _ if self.user.is_some() && is_bind(frame) => self.bind(settings, frame, out),
            _ => {
                let text = match self.user {
                    None => "Log in first",
                    Some(_) => "Bind a resource first",
                };
                let error = StreamError::new(StreamCondition::NotAuthorized);
                out.push(Effect::Fail(error.with_text(text)));
            }
        }
        None
    }

    fn starttls(&mut self, settings: &Settings, out: &mut Effects) -> Option<Ready> {
        if !settings.starttls || self.tls.is_some() || self.user.is_some() {
            let mut xml = Xml::new();
            xml.open("failure").ns(ns::TLS);
            out.push(Effect::Send(xml.finish()));
            // RFC 6120 section 5.4.2.2: the failure is followed by the end of the stream, with no
            // stream error of its own.
            out.push(Effect::Closed);
            return None;
        }
        let mut xml = Xml::new();
        xml.open("proceed").ns(ns::TLS);
        out.push(Effect::Send(xml.finish()));
        out.push(Effect::StartTls);
        out.push(Effect::Restart);
        self.phase = Phase::Header;
        Some(Ready::Restart)
    }

    fn auth(
        &mut self,
        settings: &Settings,
        frame: &Frame,
        random: &mut dyn FnMut() -> String,
        out: &mut Effects,
    ) {
        let root = frame.root();
        let mechanism = root.attr("mechanism").unwrap_or_default();
        let mechanism = match mechanism.parse::<Mechanism>() {
            Ok(mechanism) if self.offer.contains(mechanism) => mechanism,
            Ok(_) if self.tls.is_none() && settings.starttls => {
                return self.deny(settings, &SaslFailure::EncryptionRequired.into(), out);
            }
            Ok(_) | Err(_) => {
                return self.deny(settings, &SaslFailure::InvalidMechanism.into(), out);
            }
        };
        let text = root.text();
        let initial = match (text.trim(), decode(&text)) {
            ("", _) => None,
            (_, Some(bytes)) => Some(bytes),
            (_, None) => return self.deny(settings, &SaslFailure::IncorrectEncoding.into(), out),
        };
        let cx = Context {
            host: self.host(settings).as_str().to_owned(),
            nonce: random(),
            plus_offered: self.offer.has_plus(),
            binding: self.tls.as_ref().map(|tls| Arc::new(tls.binding.clone())),
            offer: Some(self.offer.clone()),
            tls_version: self.tls.as_ref().and_then(|tls| tls.version),
        };
        let mut exchange = Box::new(Exchange::start(mechanism, cx));
        let step = exchange.step(sasl::Input::Initial(initial));
        self.sasl_step(settings, exchange, None, step, out);
    }

    fn sasl_message(
        &mut self,
        settings: &Settings,
        mut exchange: Box<Exchange>,
        denied: Option<Denied>,
        frame: &Frame,
        out: &mut Effects,
    ) {
        let input = match (frame.ns(), frame.local()) {
            (ns::SASL, "response") => match decode(&frame.root().text()) {
                Some(bytes) => sasl::Input::Response(bytes),
                None => return self.deny(settings, &SaslFailure::IncorrectEncoding.into(), out),
            },
            (ns::SASL, "abort") => sasl::Input::Abort,
            (ns::SASL, _) => {
                return self.deny(settings, &SaslFailure::MalformedRequest.into(), out);
            }
            _ => {
                let error = StreamError::new(StreamCondition::NotAuthorized);
                return out.push(Effect::Fail(error.with_text("Log in first")));
            }
        };
        let step = exchange.step(input);
        self.sasl_step(settings, exchange, denied, step, out);
    }

    fn sasl_step(
        &mut self,
        settings: &Settings,
        exchange: Box<Exchange>,
        denied: Option<Denied>,
        step: Step,
        out: &mut Effects,
    ) {
        match step {
            Step::Challenge(bytes) => {
                let mut xml = Xml::new();
                xml.open("challenge").ns(ns::SASL).text(&STANDARD.encode(bytes));
                out.push(Effect::Send(xml.finish()));
                self.phase = Phase::Sasl(exchange, denied);
            }
            Step::NeedKeys { user, hash } => {
                self.claimed = Some(user.clone());
                out.push(Effect::FindKeys { user, hash });
                self.phase = Phase::Asked(exchange);
            }
            Step::NeedPassword { user, password } => {
                self.claimed = Some(user.clone());
                out.push(Effect::CheckPassword { user, password });
                self.phase = Phase::Asked(exchange);
            }
            Step::NeedToken { user, token } => {
                self.claimed.clone_from(&user);
                out.push(Effect::CheckToken { user, token });
                self.phase = Phase::Asked(exchange);
            }
            Step::Proved { user, additional, binding } => {
                let mechanism = exchange.mechanism();
                // A token says for itself whose it is.
                self.claimed = Some(user.clone());
                out.push(Effect::Enter { user: user.clone(), mechanism, binding });
                self.phase = Phase::Entering(user, additional);
            }
            Step::Fail(failure) => {
                // The exchange knows the condition; the server's words go with it if they are about
                // the same.
                let denied = denied.filter(|denied| denied.failure == failure);
                self.deny(settings, &denied.unwrap_or_else(|| failure.into()), out);
            }
        }
    }

    /// Tells the peer that its login failed. After too many the stream is over.
    fn deny(&mut self, settings: &Settings, denied: &Denied, out: &mut Effects) {
        let mut xml = Xml::new();
        xml.open("failure").ns(ns::SASL).open(denied.failure.as_str()).close();
        if let Some(text) = &denied.text {
            xml.open("text").attr("xml:lang", denied.lang).text(text).close();
        }
        if let Some(app) = &denied.app {
            xml.raw(app);
        }
        out.push(Effect::Send(xml.finish()));
        out.push(Effect::Refused { user: self.claimed.take(), failure: denied.failure });
        self.phase = Phase::Features;
        self.failures += 1;
        if self.failures >= settings.attempts {
            let error = StreamError::new(StreamCondition::PolicyViolation);
            out.push(Effect::Fail(error.with_text("Too many failed logins")));
        }
    }

    fn bind(&mut self, settings: &Settings, frame: &Frame, out: &mut Effects) {
        let id = frame.id().map(std::borrow::Cow::into_owned);
        let to = frame.to().and_then(|to| Jid::parse(&to).ok());
        let ours =
            to.is_none_or(|to| to == *self.host(settings) || Some(&to) == self.user.as_ref());
        let set = frame.typ().as_deref() == Some("set");
        if !ours || !set || id.is_none() || frame.children() != 1 {
            let error = StanzaError::new(Condition::BadRequest);
            return out.extend(error.of(frame, "", "").map(Effect::Send));
        }
        let payload = frame.root().child("bind", ns::BIND);
        let resource = payload.and_then(|bind| bind.child("resource", ns::BIND));
        let resource = resource.map(|resource| resource.text().into_owned());
        out.push(Effect::Bind { resource: resource.filter(|resource| !resource.is_empty()) });
        self.phase = Phase::Binding(id);
    }

    fn bound(
        &mut self,
        id: Option<String>,
        bound: Result<Jid, StanzaError>,
        out: &mut Effects,
    ) -> Option<Ready> {
        let mut xml = Xml::new();
        xml.open("iq");
        match bound {
            Ok(jid) => {
                xml.attr("type", "result").attr_opt("id", &id);
                xml.open("bind").ns(ns::BIND).leaf("jid", jid.as_str());
                out.push(Effect::Send(xml.finish()));
                Some(Ready::Bound)
            }
            Err(error) => {
                xml.attr("type", "error").attr_opt("id", &id);
                error.write(&mut xml);
                out.push(Effect::Send(xml.finish()));
                self.phase = Phase::Features;
                None
            }
        }
    }
}

fn is_bind(frame: &Frame) -> bool {
    frame.kind() == Kind::Iq
        && frame.payload().is_some_and(|payload| payload.ns == ns::BIND && payload.local == "bind")
}

/// Base64 of a SASL message; `=` stands for an empty one (RFC 6120 section 6.4.2).
fn decode(text: &str) -> Option<Vec<u8>> {
    match text.trim() {
        "" | "=" => Some(Vec::new()),
        text => STANDARD.decode(text).ok(),
    }
}

fn success(additional: &[u8]) -> Bytes {
    let mut xml = Xml::new();
    xml.open("success").ns(ns::SASL);
    if !additional.is_empty() {
        xml.text(&STANDARD.encode(additional));
    }
    xml.finish()
}
