//! A stream until it is bound: header, STARTTLS, what comes with a login, bind. The login itself is in
//! `sasl`.

use std::mem;

use bytes::Bytes;

use crate::{
    Condition, Frame, Jid, Kind, Mechanism, SaslFailure, StanzaError, StreamCondition, StreamError,
    StreamHeader, Xml, ns,
    sasl::{self, Exchange},
};

use super::{
    Bound, Denied, Effect, Effects, Input, Settings, TlsUp, Wanted,
    features::{self, Announcement},
    sasl::{failure, success},
    sasl2::{Outcome, Request, Task},
    sm, unexpected,
};

/// What is only needed until bind.
pub(super) struct Negotiation {
    pub(super) phase: Phase,
    /// What TLS has brought, once it is there.
    pub(super) tls: Option<TlsUp>,
    /// The domain of the first header; the same for all later ones.
    host: Option<Jid>,
    /// In whose name the stream was opened, if in anybody's: a bare JID.
    pub(super) from: Option<Jid>,
    /// Who has logged in.
    user: Option<Jid>,
    /// Failed logins so far.
    pub(super) failures: u32,
    /// Whom the peer says it is, in the login under way.
    pub(super) claimed: Option<Jid>,
    /// The login under way is one of SASL 2, with what came with it.
    pub(super) request: Option<Box<Request>>,
}

/// What is expected next.
pub(super) enum Phase {
    /// The peer's header.
    Header,
    /// An element that negotiates a feature.
    Features,
    /// The peer's next SASL message. With what it will be told if it fails.
    Sasl(Box<Exchange>, Option<Denied>),
    /// The server's answer about a login.
    Asked(Box<Exchange>),
    /// The server's verdict on a proven login. With what goes into `<success/>`.
    Entering(Jid, Mechanism, Vec<u8>),
    /// The server's answer about something that came with a login.
    Inline(Box<Outcome>),
    /// The client begins a task that its login takes.
    Task(Box<Outcome>, Task),
    /// The client does it.
    TaskData(Box<Outcome>, Task),
    /// The server's answer to a request to go on with the stream of this id.
    Resuming(String),
    /// The server's answer to a bind request with this id.
    Binding(Option<String>),
}

/// A step that changes more than the negotiation itself.
pub(super) enum Ready {
    /// The session has its resource; `managed`: its stanzas are counted.
    Bound { managed: bool },
    /// The peer opens the stream anew.
    Restart,
}

impl Negotiation {
    pub(super) fn new(tls: Option<TlsUp>) -> Self {
        Self {
            phase: Phase::Header,
            tls,
            host: None,
            from: None,
            user: None,
            failures: 0,
            claimed: None,
            request: None,
        }
    }

    /// What this stream announces before login.
    pub(super) fn announcement<'a>(&self, settings: &'a Settings) -> &'a Announcement {
        settings.announced.case(settings, self.tls.as_ref())
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
        self.check_from(settings, header)?;
        let major = header.version.as_deref().and_then(|version| version.split_once('.'));
        if !major.is_some_and(|(major, _)| major.parse::<u32>().is_ok_and(|major| major >= 1)) {
            return fail(StreamCondition::UnsupportedVersion, "XMPP 1.0 or later is needed");
        }
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

    fn check_from(
        &mut self,
        settings: &Settings,
        header: &StreamHeader,
    ) -> Result<(), StreamError> {
        let Some(from) = &header.from else { return Ok(()) };
        let from = Jid::parse(from).map_err(|why| {
            StreamError::new(StreamCondition::ImproperAddressing)
                .with_text(format!("The `from` address is not valid: {why}"))
        })?;
        let wrong = |text: &'static str| {
            Err(StreamError::new(StreamCondition::InvalidFrom).with_text(text))
        };
        if from.domain() != self.host(settings).as_str() {
            // XEP-0388 section 2.1.
            return wrong("The `from` address is of another domain than the stream is to");
        }
        match &self.user {
            Some(user) if from.bare_str() != user.as_str() => {
                wrong("You have logged in as somebody else")
            }
            _ => {
                self.from = Some(from.bare());
                Ok(())
            }
        }
    }

    /// What is announced to the peer as things stand.
    pub(super) fn features(&self, settings: &Settings) -> Bytes {
        match self.user {
            Some(_) => features::after_login(settings, false, false),
            None => self.announcement(settings).xml.clone(),
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
            (Phase::Asked(mut exchange), Input::Hashed(verdict)) => {
                let (input, denied) = match verdict {
                    Ok(token) => (sasl::Input::Hashed(token), None),
                    Err(denied) => (sasl::Input::Rejected(denied.failure), Some(denied)),
                };
                let step = exchange.step(input);
                self.sasl_step(settings, exchange, denied, step, out);
                None
            }
            (Phase::Entering(user, mechanism, additional), Input::Entered(verdict)) => {
                if let Err(denied) = verdict {
                    self.deny(settings, &denied, out);
                    return None;
                }
                self.user = Some(user.clone());
                match self.request.take() {
                    None => {
                        out.push(Effect::Send(success(&additional)));
                        out.push(Effect::Restart);
                        Some(Ready::Restart)
                    }
                    Some(request) => {
                        let outcome = Outcome::new(*request, mechanism, user, additional);
                        self.inline(settings, Box::new(outcome), out)
                    }
                }
            }
            (Phase::Inline(mut outcome), Input::Resumed(resumed)) => {
                if let Some(resume) = outcome.request.resume.take() {
                    match resumed {
                        Ok(resumed) => {
                            outcome.jid = resumed.jid;
                            outcome.resumed = Some((resume.previd, resumed.h));
                        }
                        Err(failed) => outcome.failed = Some(failed),
                    }
                }
                self.inline(settings, outcome, out)
            }
            (Phase::Inline(mut outcome), Input::Bound(bound)) => {
                outcome.request.bind = None;
                match bound {
                    Ok(Bound { jid, features }) => {
                        outcome.jid = jid;
                        outcome.bound = Some(features);
                        self.inline(settings, outcome, out)
                    }
                    Err(error) => {
                        out.push(Effect::Fail(not_bound(error)));
                        None
                    }
                }
            }
            (Phase::Inline(mut outcome), Input::Task(task)) => {
                let Some(task) = task else {
                    outcome.request.upgrades.clear();
                    return self.inline(settings, outcome, out);
                };
                let additional = mem::take(&mut outcome.additional);
                out.push(Effect::Send(task.announce(&additional)));
                self.phase = Phase::Task(outcome, task);
                None
            }
            (Phase::Task(outcome, task), Input::Frame(frame)) => {
                let next = frame.ns() == ns::SASL2 && frame.local() == "next";
                if next && frame.root().attr("task").as_deref() == Some(task.name) {
                    out.push(Effect::Send(task.begin()));
                    self.phase = Phase::TaskData(outcome, task);
                } else {
                    not_done(&frame, out);
                }
                None
            }
            (Phase::TaskData(outcome, task), Input::Frame(frame)) => {
                if frame.ns() == ns::SASL2 && frame.local() == "task-data" {
                    out.push(Effect::Perform { task: task.name, data: frame });
                    self.phase = Phase::Inline(outcome);
                } else {
                    not_done(&frame, out);
                }
                None
            }
            (Phase::Inline(outcome), Input::Performed(performed)) => match performed {
                Ok(()) => self.inline(settings, outcome, out),
                Err(denied) => {
                    out.push(Effect::Send(failure(true, &denied)));
                    let error = StreamError::new(StreamCondition::NotAuthorized);
                    out.push(Effect::Fail(error.with_text("Log in anew")));
                    None
                }
            },
            (Phase::Inline(mut outcome), Input::Managed(managed)) => {
                outcome.request.enable = None;
                outcome.enabled = Some(managed);
                self.inline(settings, outcome, out)
            }
            (Phase::Inline(mut outcome), Input::Granted(granted)) => {
                outcome.granted = granted;
                self.succeed(settings, &outcome, out)
            }
            (Phase::Resuming(previd), Input::Resumed(resumed)) => match resumed {
                Ok(resumed) => {
                    let xml = sm::whole(|xml| sm::resumed(xml, &previd, resumed.h));
                    out.push(Effect::Send(xml));
                    Some(Ready::Bound { managed: true })
                }
                Err(failed) => {
                    out.push(Effect::Send(sm::whole(|xml| failed.write(xml))));
                    self.phase = Phase::Features;
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
        match sm::Request::of(frame) {
            Some(Ok(sm::Request::Resume(resume))) if self.user.is_some() => {
                self.phase = Phase::Resuming(resume.previd.clone());
                out.push(Effect::Resume(resume));
                return None;
            }
            // XEP-0198 section 3: not before a resource is bound.
            Some(Ok(_)) => {
                out.push(Effect::Send(unexpected()));
                return None;
            }
            Some(Err(error)) => {
                out.push(Effect::Fail(error));
                return None;
            }
            None => {}
        }
        match (frame.ns(), frame.local()) {
            (ns::TLS, "starttls") => return self.starttls(settings, out),
            (ns::SASL, "auth") if self.user.is_none() => {
                self.auth(settings, frame, random, out);
            }
            (ns::SASL2, "authenticate") if self.user.is_none() => {
                self.authenticate(settings, frame, random, out);
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

    /// Asks for what came with a login and is not seen to yet; once all is, the login has succeeded.
    fn inline(
        &mut self,
        settings: &Settings,
        outcome: Box<Outcome>,
        out: &mut Effects,
    ) -> Option<Ready> {
        let request = &outcome.request;
        let effect = if !request.upgrades.is_empty() {
            Effect::Upgrade(request.upgrades.clone())
        } else if let Some(resume) = &request.resume {
            Effect::Resume(resume.clone())
        } else if let Some(tag) = request.bind.as_ref().filter(|_| outcome.resumed.is_none()) {
            Effect::Bind(Wanted::Tag(tag.clone(), request.frame.clone()))
        } else if let Some(enable) = request.enable.filter(|_| outcome.bound.is_some()) {
            Effect::Manage(enable)
        } else if request.token.is_some() || outcome.mechanism.is_fast() {
            let fast = request.fast.filter(|_| outcome.mechanism.is_fast());
            Effect::Grant { wanted: request.token, fast }
        } else {
            return self.succeed(settings, &outcome, out);
        };
        out.push(effect);
        self.phase = Phase::Inline(outcome);
        None
    }

    /// All that came with a login is seen to.
    fn succeed(
        &mut self,
        settings: &Settings,
        outcome: &Outcome,
        out: &mut Effects,
    ) -> Option<Ready> {
        out.push(Effect::Send(outcome.success()));
        let bound = outcome.bound.is_some();
        if outcome.resumed.is_some() {
            // XEP-0198 section 8.2: the stream is there again, features and all.
            return Some(Ready::Bound { managed: true });
        }
        let managed = matches!(outcome.enabled, Some(Ok(_)));
        out.push(Effect::Send(features::after_login(settings, bound, managed)));
        self.phase = Phase::Features;
        bound.then_some(Ready::Bound { managed })
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
        let resource = resource.filter(|resource| !resource.is_empty());
        out.push(Effect::Bind(Wanted::Resource(resource)));
        self.phase = Phase::Binding(id);
    }

    fn bound(
        &mut self,
        id: Option<String>,
        bound: Result<Bound, StanzaError>,
        out: &mut Effects,
    ) -> Option<Ready> {
        let mut xml = Xml::new();
        xml.open("iq");
        match bound {
            Ok(Bound { jid, .. }) => {
                xml.attr("type", "result").attr_opt("id", &id);
                xml.open("bind").ns(ns::BIND).leaf("jid", jid.as_str());
                out.push(Effect::Send(xml.finish()));
                Some(Ready::Bound { managed: false })
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

/// A client does something else than its task. It has logged in by then, and cannot do so again
/// (XEP-0388 section 2.8.5): the stream is over.
fn not_done(frame: &Frame, out: &mut Effects) {
    let (failed, text) = match (frame.ns(), frame.local()) {
        (ns::SASL2, "abort") => (SaslFailure::Aborted, "The login was called off"),
        (ns::SASL2, "next") => (SaslFailure::MalformedRequest, "There is no such task"),
        _ => (SaslFailure::MalformedRequest, "There is a task to do first"),
    };
    out.push(Effect::Send(failure(true, &failed.into())));
    let error = StreamError::new(StreamCondition::PolicyViolation);
    out.push(Effect::Fail(error.with_text(text)));
}

/// The end of a stream whose client has logged in and cannot have a resource.
fn not_bound(error: StanzaError) -> StreamError {
    let condition = match error.condition {
        Condition::Conflict => StreamCondition::Conflict,
        Condition::ResourceConstraint => StreamCondition::ResourceConstraint,
        Condition::InternalServerError => StreamCondition::InternalServerError,
        _ => StreamCondition::PolicyViolation,
    };
    let end = StreamError { app: error.app, ..StreamError::new(condition) };
    StreamError { text: error.text, ..end }
}
