//! Logging in: the profile of RFC 6120 section 6 and that of XEP-0388, around the same exchanges.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;

use crate::{
    Frame, Mechanism, SaslFailure, StreamCondition, StreamError, Xml, ns,
    sasl::{self, Context, Exchange, Step},
};

use super::{
    Denied, Effect, Effects, Settings,
    negotiation::{Negotiation, Phase},
    sasl2::{Request, decode},
};

impl Negotiation {
    /// `<auth/>` of RFC 6120.
    pub(super) fn auth(
        &mut self,
        settings: &Settings,
        frame: &Frame,
        random: &mut dyn FnMut() -> String,
        out: &mut Effects,
    ) {
        let root = frame.root();
        let text = root.text();
        let initial = match text.trim() {
            "" => Ok(None),
            _ => decode(&text).map(Some),
        };
        let name = root.attr("mechanism").unwrap_or_default();
        let offer = self.announcement(settings).offer.clone();
        let known = name.parse().ok().filter(|mechanism| offer.contains(*mechanism));
        self.begin(settings, (&name, known), initial, random, out);
    }

    /// `<authenticate/>` of XEP-0388.
    pub(super) fn authenticate(
        &mut self,
        settings: &Settings,
        frame: &Frame,
        random: &mut dyn FnMut() -> String,
        out: &mut Effects,
    ) {
        if self.tls.is_none() {
            return self.deny_in(true, settings, &SaslFailure::EncryptionRequired.into(), out);
        }
        let request = match Request::of(frame) {
            Ok(request) => request,
            Err(text) => {
                let text = Some(text.to_owned());
                let denied = Denied { text, ..SaslFailure::MalformedRequest.into() };
                return self.deny_in(true, settings, &denied, out);
            }
        };
        let announcement = self.announcement(settings);
        if request.version.as_ref().is_some_and(|version| *version != announcement.version) {
            // The client has an older announcement in mind; it has the present one by now.
            let mut xml = Xml::new();
            xml.open("failure").ns(ns::SASL2).open("aborted").ns(ns::SASL).close();
            xml.open("config-version-mismatch").ns(ns::IAP).close();
            xml.leaf("text", "The server offers something else by now");
            return out.push(Effect::Send(xml.finish()));
        }
        let initial = request.initial();
        let root = frame.root();
        let name = root.attr("mechanism").unwrap_or_default();
        let offer = announcement.offer.clone();
        let fast = announcement.fast.clone();
        let known = name.parse().ok().filter(|mechanism: &Mechanism| match request.fast {
            Some(_) => fast.contains(mechanism),
            None => offer.contains(*mechanism),
        });
        self.request = Some(Box::new(request));
        self.begin(settings, (&name, known), initial, random, out);
    }

    fn begin(
        &mut self,
        settings: &Settings,
        (name, mechanism): (&str, Option<Mechanism>),
        initial: Result<Option<Vec<u8>>, SaslFailure>,
        random: &mut dyn FnMut() -> String,
        out: &mut Effects,
    ) {
        let Some(mechanism) = mechanism else {
            let exists = name.parse::<Mechanism>().is_ok_and(|known| !known.is_fast());
            let failure = match self.tls.is_none() && settings.starttls && exists {
                true => SaslFailure::EncryptionRequired,
                false => SaslFailure::InvalidMechanism,
            };
            return self.deny(settings, &failure.into(), out);
        };
        let initial = match initial {
            Ok(initial) => initial,
            Err(failure) => return self.deny(settings, &failure.into(), out),
        };
        let offer = self.announcement(settings).offer.clone();
        let cx = Context {
            host: self.host(settings).as_str().to_owned(),
            nonce: random(),
            plus_offered: offer.has_plus(),
            binding: self.tls.as_ref().map(|tls| Arc::new(tls.binding.clone())),
            offer: Some(offer),
            tls_version: self.tls.as_ref().and_then(|tls| tls.version),
        };
        let mut exchange = Box::new(Exchange::start(mechanism, cx));
        let step = exchange.step(sasl::Input::Initial(initial));
        self.sasl_step(settings, exchange, None, step, out);
    }

    /// The client's next message.
    pub(super) fn sasl_message(
        &mut self,
        settings: &Settings,
        mut exchange: Box<Exchange>,
        denied: Option<Denied>,
        frame: &Frame,
        out: &mut Effects,
    ) {
        let profile = if self.request.is_some() { ns::SASL2 } else { ns::SASL };
        let input = match (frame.ns(), frame.local()) {
            (ns, "response") if ns == profile => match decode(&frame.root().text()) {
                Ok(bytes) => sasl::Input::Response(bytes),
                Err(failure) => return self.deny(settings, &failure.into(), out),
            },
            (ns, "abort") if ns == profile => sasl::Input::Abort,
            (ns::SASL, _) if profile == ns::SASL => {
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

    /// Does what the exchange says is next.
    pub(super) fn sasl_step(
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
                let profile = if self.request.is_some() { ns::SASL2 } else { ns::SASL };
                xml.open("challenge").ns(profile).text(&STANDARD.encode(bytes));
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
            Step::NeedHashed { user, proof } => {
                self.claimed = Some(user.clone());
                let request = self.request.as_ref();
                let agent = request.and_then(|request| request.agent.clone());
                let fast = request.and_then(|request| request.fast).unwrap_or_default();
                let Some(agent) = agent.filter(|agent| agent.id.is_some()) else {
                    let text = "A token is used with the <user-agent/> and id it was made for";
                    let text = Some(text.to_owned());
                    let denied = Denied { text, ..SaslFailure::MalformedRequest.into() };
                    return self.deny(settings, &denied, out);
                };
                out.push(Effect::CheckHashed { user, proof, agent, fast });
                self.phase = Phase::Asked(exchange);
            }
            Step::Proved { user, additional, binding } => {
                let mechanism = exchange.mechanism();
                // A token says for itself whose it is.
                self.claimed = Some(user.clone());
                if self.request.is_some() && self.from.as_ref().is_some_and(|from| *from != user) {
                    let text = "The stream was opened in the name of somebody else";
                    let text = Some(text.to_owned());
                    let denied = Denied { text, ..SaslFailure::InvalidAuthzid.into() };
                    return self.deny(settings, &denied, out);
                }
                let agent = self.request.as_ref().and_then(|request| request.agent.clone());
                out.push(Effect::Enter { user: user.clone(), mechanism, binding, agent });
                self.phase = Phase::Entering(user, mechanism, additional);
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
    pub(super) fn deny(&mut self, settings: &Settings, denied: &Denied, out: &mut Effects) {
        let sasl2 = self.request.take().is_some();
        self.deny_in(sasl2, settings, denied, out);
    }

    fn deny_in(&mut self, sasl2: bool, settings: &Settings, denied: &Denied, out: &mut Effects) {
        out.push(Effect::Send(failure(sasl2, denied)));
        out.push(Effect::Refused { user: self.claimed.take(), failure: denied.failure });
        self.phase = Phase::Features;
        self.failures += 1;
        if self.failures >= settings.attempts {
            let error = StreamError::new(StreamCondition::PolicyViolation);
            out.push(Effect::Fail(error.with_text("Too many failed logins")));
        }
    }
}

/// `<failure/>` in either profile: the conditions have the namespace of the older one in both.
pub(super) fn failure(sasl2: bool, denied: &Denied) -> Bytes {
    let mut xml = Xml::new();
    xml.open("failure").ns(if sasl2 { ns::SASL2 } else { ns::SASL });
    xml.open(denied.failure.as_str());
    if sasl2 {
        xml.ns(ns::SASL);
    }
    xml.close();
    if let Some(text) = &denied.text {
        xml.open("text").attr("xml:lang", denied.lang).text(text).close();
    }
    if let Some(app) = &denied.app {
        xml.raw(app);
    }
    xml.finish()
}

/// `<success/>` of RFC 6120.
pub(super) fn success(additional: &[u8]) -> Bytes {
    let mut xml = Xml::new();
    xml.open("success").ns(ns::SASL);
    if !additional.is_empty() {
        xml.text(&STANDARD.encode(additional));
    }
    xml.finish()
}
