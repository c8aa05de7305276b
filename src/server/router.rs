//! RFC 6121 section 8: where a stanza goes. Local sessions only; other nodes, servers and components
//! attach here.

use std::sync::Arc;

use wire::{Condition, Frame, Jid, Kind, Stamp, StanzaError, StreamCondition, StreamError, Xml};

use crate::{
    Server, Session,
    clock::Millis,
    copies,
    end::{End, Reason},
    hooks::{Delivery, Flow, Inbound, Outbound},
    journal::Flight,
    mailbox::{Parcel, Refused},
    plugin::Target,
    registry::Few,
    session::Feature,
};

/// The type attribute of a message (RFC 6121 section 5.2.2); an unknown one counts as normal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MessageType {
    Chat,
    Error,
    Groupchat,
    Headline,
    Normal,
}

impl MessageType {
    fn of(frame: &Frame) -> Self {
        match frame.typ().as_deref() {
            Some("chat") => Self::Chat,
            Some("error") => Self::Error,
            Some("groupchat") => Self::Groupchat,
            Some("headline") => Self::Headline,
            _ => Self::Normal,
        }
    }
}

impl Server {
    /// Takes in a stanza that a bound session sent. `Done`, or `Later` when something has to be
    /// waited for before the next stanza of this session may be taken in.
    pub fn inbound(
        self: &Arc<Self>,
        session: &Arc<Session>,
        lang: Option<&Arc<str>>,
        frame: Frame,
    ) -> Flow {
        let Some(from) = session.full() else {
            self.end(session, End::protocol(StreamError::new(StreamCondition::NotAuthorized)));
            return Flow::Done;
        };
        if !session.alive() {
            return Flow::Done;
        }
        if self.config.sessions.pings_count || !keeps_alive_only(&frame) {
            session.touch(self.clock.now());
        }

        if !self.may_claim(session, from, &frame) {
            self.end(session, End::protocol(StreamError::new(StreamCondition::InvalidFrom)));
            return Flow::Done;
        }
        let to = match frame.to() {
            None => None,
            Some(to) => match Jid::parse(&to) {
                Ok(to) => Some(to),
                Err(why) => {
                    let error = StanzaError::new(Condition::JidMalformed)
                        .with_text(format!("The `to` address is not valid: {why}"));
                    self.bounce(session, &frame, None, error);
                    return Flow::Done;
                }
            },
        };
        let frame = self.without_server_elements(frame);
        let inbound = Inbound {
            server: self.clone(),
            session: session.clone(),
            from: from.clone(),
            to,
            frame,
            lang: lang.cloned(),
        };
        match self.hooks.inbound.run(&inbound) {
            Flow::Later(future) => Flow::later(async move {
                match Flow::Later(future).decided().await {
                    Flow::Next => inbound.dispatch().decided().await,
                    Flow::Reject(error) => inbound.refuse(error),
                    decided => decided,
                }
            }),
            Flow::Next => inbound.dispatch(),
            Flow::Reject(error) => inbound.refuse(error),
            Flow::Done => Flow::Done,
        }
    }

    /// A client may name itself, fully or by its bare JID, or nobody (RFC 6120 section 8.1.2.1).
    fn may_claim(&self, session: &Session, full: &Jid, frame: &Frame) -> bool {
        let Some(claimed) = frame.from() else { return true };
        if claimed == full.as_str() || claimed == full.bare_str() {
            return true;
        }
        Jid::parse(&claimed).is_ok_and(|claimed| {
            claimed == *full || session.identity().is_some_and(|me| me.jid == claimed)
        })
    }

    /// Strips what only a server may add, so that no client can forge it: stanza ids and delays in
    /// the name of this server, and carbons.
    fn without_server_elements(&self, frame: Frame) -> Frame {
        if frame.kind() == Kind::Iq
            || !(frame.contains(b"stanza-id")
                || frame.contains(wire::ns::DELAY.as_bytes())
                || frame.contains(wire::ns::CARBONS.as_bytes()))
        {
            return frame;
        }
        let ours = |address: &str| Jid::parse(address).is_ok_and(|by| self.is_local(by.domain()));
        frame.without_children(|child| match (child.local(), &*child.ns()) {
            ("stanza-id", wire::ns::SID) => child.attr("by").is_none_or(|by| ours(&by)),
            ("delay", wire::ns::DELAY) => child.attr("from").is_none_or(|by| ours(&by)),
            ("sent" | "received", wire::ns::CARBONS) => true,
            _ => false,
        })
    }

    /// Sends an error about a stanza back to the session that sent it, unless the stanza is an error
    /// or an answer itself.
    pub fn bounce(
        self: &Arc<Self>,
        session: &Arc<Session>,
        frame: &Frame,
        by: Option<&Jid>,
        error: StanzaError,
    ) {
        let (Some(to), Some(me)) = (session.full(), session.identity()) else { return };
        let from = by.map_or(me.jid.as_str(), Jid::as_str);
        if let Some(xml) = error.of(frame, from, to.as_str()) {
            self.copy_error(session, frame.kind(), &xml);
            self.push(session, Parcel::whole(frame.kind(), xml));
        }
    }

    /// Hands a parcel to a session. One that does not read what it is sent ends.
    pub fn push(self: &Arc<Self>, session: &Arc<Session>, parcel: Parcel) -> bool {
        if session.has(Feature::Outbound) {
            let (server, session) = (self.clone(), session.clone());
            let outbound = Outbound { server, session, parcel: parcel.clone() };
            if let Flow::Done = self.hooks.outbound.run(&outbound) {
                return true;
            }
        }
        let parcel = match session.connected() {
            true => parcel,
            false => parcel.waiting_since(self.clock.now()),
        };
        let flight = parcel.flight();
        match session.mailbox.push(parcel, self.config.limits.mailbox_bytes) {
            Ok(count) => {
                if let Some(flight) = flight {
                    flight.goes_to(session.id, count);
                }
                true
            }
            Err(Refused::Closed(_)) => false,
            Err(Refused::Full(_)) => {
                self.end(session, End::new(Reason::SlowReader));
                false
            }
        }
    }

    /// A message with the time at which it came (XEP-0203), unless this server has said so before.
    pub(crate) fn delayed(&self, session: &Session, frame: Frame, at: Millis) -> Frame {
        let Some(me) = session.identity().filter(|_| frame.kind() == Kind::Message) else {
            return frame;
        };
        let host = me.jid.domain();
        // Nobody but this server can have written it: see `without_server_elements`.
        let marked = frame.root().children().any(|child| {
            child.is("delay", wire::ns::DELAY) && child.attr("from").as_deref() == Some(host)
        });
        if marked {
            return frame;
        }
        let mut xml = Xml::new();
        xml.open("delay").ns(wire::ns::DELAY).attr("from", host).attr("stamp", &at.to_string());
        frame.with_children(&xml.finish())
    }

    /// A parcel that waited while nobody was there, as it is handed over now.
    #[must_use]
    pub fn woken(&self, session: &Session, parcel: Parcel) -> Parcel {
        match parcel.waits_since().filter(|_| parcel.kind() == Kind::Message) {
            None => parcel,
            Some(at) => match parcel.clone().into_frame() {
                None => parcel,
                Some(frame) => {
                    let frame = self.delayed(session, frame, at);
                    Parcel::whole(Kind::Message, frame.bytes().clone())
                }
            },
        }
    }

    /// Whether a domain is served here.
    #[must_use]
    pub fn is_local(&self, domain: &str) -> bool {
        self.hosts.iter().any(|host| host.as_str() == domain)
    }

    /// Delivers a message to a local account by the rules of RFC 6121 section 8.5.
    pub fn deliver(self: &Arc<Self>, delivery: Delivery) -> Flow {
        match self.hooks.deliver.run(&delivery) {
            Flow::Later(future) => Flow::later(async move {
                match Flow::Later(future).decided().await {
                    Flow::Next => delivery.take_off().decided().await,
                    decided => decided,
                }
            }),
            Flow::Next => delivery.take_off(),
            decided => decided,
        }
    }

    /// Finds another place for what a session could not take any more; if there is none, whoever sent
    /// it is told, as if the session had not been there.
    pub(crate) async fn reroute(
        self: &Arc<Self>,
        session: &Arc<Session>,
        frame: Frame,
        flight: Option<Arc<Flight>>,
    ) {
        let Some(me) = session.identity() else { return };
        let Some(frame) = copies::without_copy(frame, &me.jid) else { return };
        let Some(from) = frame.from().and_then(|from| Jid::parse(&from).ok()) else { return };
        let unavailable = || StanzaError::new(Condition::ServiceUnavailable);
        let error = match (frame.kind(), MessageType::of(&frame)) {
            (Kind::Message, MessageType::Chat | MessageType::Normal) => {
                let delivery = Delivery {
                    server: self.clone(),
                    from: from.clone(),
                    to: me.jid.clone(),
                    origin: None,
                    frame: frame.clone(),
                    lang: None,
                    flight,
                };
                match delivery.to_sessions(true).decided().await {
                    Flow::Reject(error) => error,
                    _ => return,
                }
            }
            (Kind::Message, MessageType::Groupchat) | (Kind::Iq, _) => unavailable(),
            _ => return,
        };
        let by = frame.to().unwrap_or_else(|| me.jid.as_str().into());
        if let Some(sender) = self.registry.full(&from)
            && let Some(xml) = error.of(&frame, &by, from.as_str())
        {
            self.copy_error(&sender, frame.kind(), &xml);
            self.push(&sender, Parcel::whole(frame.kind(), xml));
        }
    }
}

/// Whether software sends this to see that the other side is there, or to answer it, and nobody uses
/// anything by it.
fn keeps_alive_only(frame: &Frame) -> bool {
    frame.kind() == Kind::Iq
        && match frame.typ().as_deref() {
            Some("result" | "error") => true,
            _ => frame.payload().is_some_and(|payload| payload.ns == wire::ns::PING),
        }
}

impl Inbound {
    fn refuse(&self, error: StanzaError) -> Flow {
        let by = self.to.as_ref();
        self.server.bounce(&self.session, &self.frame, by, error);
        Flow::Done
    }

    /// Sends the stanza on its way, now that no plugin wanted it.
    fn dispatch(&self) -> Flow {
        match self.frame.kind() {
            Kind::Message => self.message(),
            Kind::Iq => self.iq(),
            // Presence is the presence plugin's; without it, nobody is told.
            Kind::Presence => Flow::Done,
            Kind::Other => {
                let error = StreamError::new(StreamCondition::UnsupportedStanzaType);
                self.server.end(&self.session, End::protocol(error));
                Flow::Done
            }
        }
    }

    fn message(&self) -> Flow {
        let own = || self.from.bare();
        let delivery = Delivery {
            server: self.server.clone(),
            from: self.from.clone(),
            to: self.to.clone().unwrap_or_else(own),
            origin: Some(self.session.clone()),
            frame: self.frame.clone(),
            lang: self.lang.clone(),
            flight: None,
        };
        delivery.copy_sent();
        if !self.server.is_local(delivery.to.domain()) {
            return self.refuse(remote_server_not_found());
        }
        if delivery.to.local().is_none() {
            return self.refuse(StanzaError::new(Condition::ServiceUnavailable));
        }
        match self.server.deliver(delivery) {
            Flow::Reject(error) => self.refuse(error),
            Flow::Later(future) => {
                let inbound = self.clone();
                Flow::later(async move {
                    match Flow::Later(future).decided().await {
                        Flow::Reject(error) => inbound.refuse(error),
                        decided => decided,
                    }
                })
            }
            decided => decided,
        }
    }

    fn iq(&self) -> Flow {
        let kind = self.frame.typ();
        let (request, known) = match kind.as_deref() {
            Some("get" | "set") => (true, true),
            Some("result" | "error") => (false, true),
            _ => (true, false),
        };
        let children = self.frame.children();
        if !known || self.frame.id().is_none() || (request && children != 1) {
            let text = "An iq has an id, a type of get, set, result or error, and a get or set has \
                        exactly one child element";
            return self.refuse(StanzaError::new(Condition::BadRequest).with_text(text));
        }
        let own = self.from.bare();
        let to = self.to.clone().unwrap_or_else(|| own.clone());
        if !self.server.is_local(to.domain()) {
            return self.refuse(remote_server_not_found());
        }
        if to.resource().is_some() && to.local().is_some() {
            return self.iq_to_session(&to);
        }
        if !request {
            return Flow::Done;
        }
        let target = match (to == own, to.local()) {
            (true, _) => Target::Own,
            (false, Some(_)) => Target::Account,
            (false, None) if to.resource().is_none() => Target::Host,
            (false, None) => return self.refuse(StanzaError::new(Condition::ServiceUnavailable)),
        };
        self.server.answer(&self.session, &self.from, to, target, self.frame.clone())
    }

    fn iq_to_session(&self, to: &Jid) -> Flow {
        let lang = self.lang.as_deref();
        let parcel = || Parcel::stamped(&self.frame, &self.from, None, lang);
        match self.server.registry.full(to) {
            Some(session) if self.server.push(&session, parcel()) => Flow::Done,
            _ => self.refuse(StanzaError::new(Condition::ServiceUnavailable)),
        }
    }
}

impl Delivery {
    /// The sender's stanza with its true sender; made once for all receivers.
    pub(crate) fn parcel(&self) -> Parcel {
        Parcel::stamped(&self.frame, &self.from, None, self.lang.as_deref())
    }

    /// The message with its true sender, as one frame: for archives and offline storage.
    #[must_use]
    pub fn stamped(&self) -> Option<Frame> {
        let from = Some(self.from.as_str());
        let lang = self.lang.as_deref();
        let (head, tail) = self.frame.restamp(Stamp { from, to: None, lang });
        let mut whole = head.to_vec();
        whole.extend_from_slice(&tail);
        Frame::parse(whole).ok()
    }

    /// `again`: copies of it were handed out when it came.
    fn to_sessions(&self, again: bool) -> Flow {
        let kind = MessageType::of(&self.frame);
        // Those who would not take it any more.
        let mut gone = Few::new();
        if self.to.resource().is_some() {
            let (session, others) = self.server.full_and_others(&self.to);
            if let Some(session) = session {
                if self.hand(std::slice::from_ref(&session), others) {
                    return Flow::Done;
                }
                gone.push(session);
            }
            // RFC 6121 section 8.5.3.2.1: a chat message goes to the account instead.
            match kind {
                MessageType::Chat => {}
                MessageType::Error | MessageType::Headline => return Flow::Done,
                MessageType::Groupchat | MessageType::Normal => {
                    return Flow::Reject(StanzaError::new(Condition::ServiceUnavailable));
                }
            }
        }
        match kind {
            MessageType::Error => return Flow::Done,
            MessageType::Groupchat => {
                return Flow::Reject(StanzaError::new(Condition::ServiceUnavailable));
            }
            MessageType::Chat | MessageType::Headline | MessageType::Normal => {}
        }
        let mut receivers: Few = self.server.registry.of(self.to.bare_str());
        let mut others = Few::new();
        receivers.retain(|session| {
            let takes = session.takes_messages();
            if !takes && !again && session.has(Feature::Carbons) {
                others.push(session.clone());
            }
            takes
        });
        if self.hand(&receivers, others.clone()) || kind == MessageType::Headline {
            return Flow::Done;
        }
        self.hand_copies_only(others);
        gone.append(&mut receivers);
        if gone.is_empty() {
            return self.to_nobody();
        }
        // What they leave behind is older than this, and goes first.
        let delivery = self.clone();
        Flow::later(async move {
            for session in &gone {
                delivery.server.rerouted(session).await;
            }
            delivery.to_nobody().decided().await
        })
    }

    /// Delivers it, and sees to it that its sender is told that the server has it only once that is
    /// on disk, if it is told at all.
    fn take_off(mut self) -> Flow {
        if !self.server.is_written_down(&self) {
            return self.to_sessions(false);
        }
        let mut account = None;
        self.server.registry.each_of(self.to.bare_str(), |session| {
            account = account.or_else(|| Some(session.identity()?.account));
        });
        self.flight = account.map(|account| self.server.takes_off(account));
        let delivered = self.to_sessions(false);
        Flow::later(async move {
            let delivered = delivered.decided().await;
            if let Flow::Reject(_) = delivered {
                return delivered;
            }
            match self.server.write_down(&self).await {
                Ok(()) => delivered,
                Err(error) => {
                    tracing::error!(event = "journal-failed", %error);
                    let error = StanzaError::new(Condition::InternalServerError);
                    Flow::Reject(error.with_text("The server cannot keep this message now"))
                }
            }
        })
    }

    fn to_nobody(&self) -> Flow {
        let unavailable = || Flow::Reject(StanzaError::new(Condition::ServiceUnavailable));
        match self.server.hooks.undelivered.run(self) {
            Flow::Next => unavailable(),
            Flow::Later(future) => Flow::later(async move {
                match Flow::Later(future).decided().await {
                    Flow::Next => unavailable(),
                    decided => decided,
                }
            }),
            decided => decided,
        }
    }
}

/// There is no way to other servers yet, so none of them is found.
fn remote_server_not_found() -> StanzaError {
    StanzaError::new(Condition::RemoteServerNotFound)
        .with_text("This server does not reach other servers")
}
