//! Who answers an IQ that is addressed to the server or to an account (RFC 6120 section 8.2.3,
//! RFC 6121 section 8.5). Exactly one answer for each get and set; never one for an answer.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use wire::{Condition, Frame, Jid, Kind, StanzaError, Xml, ns};

use crate::{
    Server, Session,
    hooks::{Flow, Later},
    mailbox::Parcel,
    plugin::{Iq, Target},
};

/// What a handler answers.
pub enum Answer {
    /// The request is refused.
    Error(StanzaError),
    /// Not decided yet.
    Later(Later<Answer>),
    /// Done; the payload may be empty.
    Result(Bytes),
    /// The handler sends the answer itself ([`Iq::result`], [`Iq::reply`]): because its place among
    /// what else the session is sent matters, or because it takes long.
    Sent,
}

impl Answer {
    /// An empty result.
    #[must_use]
    pub fn done() -> Self {
        Self::Result(Bytes::new())
    }

    /// Refused, with the condition's usual type.
    #[must_use]
    pub fn refuse(condition: Condition) -> Self {
        Self::Error(StanzaError::new(condition))
    }

    /// An answer that is decided by a future.
    pub fn later(future: impl Future<Output = Self> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl Server {
    /// Answers an IQ get or set that is aimed at the server itself or at an account.
    pub(crate) fn answer(
        self: &Arc<Self>,
        session: &Arc<Session>,
        from: &Jid,
        to: Jid,
        target: Target,
        frame: Frame,
    ) -> Flow {
        let set = frame.typ().as_deref() == Some("set");
        let iq = Iq {
            server: self.clone(),
            session: session.clone(),
            from: from.clone(),
            to,
            target,
            set,
            frame,
        };
        let answer = self.handler(&iq);
        match answer {
            Answer::Later(mut future) => Flow::later(async move {
                let answer = loop {
                    match future.await {
                        Answer::Later(more) => future = more,
                        decided => break decided,
                    }
                };
                iq.reply(answer);
                Flow::Done
            }),
            decided => {
                iq.reply(decided);
                Flow::Done
            }
        }
    }

    fn handler(&self, iq: &Iq) -> Answer {
        let Some(payload) = iq.frame.payload() else {
            return Answer::refuse(Condition::BadRequest);
        };
        match (iq.target, payload.ns) {
            (Target::Own | Target::Host, ns::BIND) => {
                let error = StanzaError::new(Condition::NotAllowed);
                return Answer::Error(error.with_text("This stream has a resource already"));
            }
            // RFC 3921's session: nothing to do, but old clients wait for the answer.
            (Target::Own | Target::Host, ns::SESSION) if iq.set => return Answer::done(),
            _ => {}
        }
        let found = self.registrations.iq.get(&(iq.target, payload.ns, payload.local));
        found.map_or_else(|| Answer::refuse(Condition::ServiceUnavailable), |call| call(iq))
    }
}

impl Iq {
    /// The whole stanza that answers this request with a payload, which may be empty.
    #[must_use]
    pub fn result(&self, payload: &[u8]) -> Bytes {
        let mut xml = Xml::new();
        xml.open("iq").attr("type", "result").attr_opt("id", &self.frame.id());
        xml.attr("from", self.to.as_str()).attr("to", self.from.as_str()).raw(payload);
        xml.finish()
    }

    /// Sends what was decided. For a handler for which it matters what has been sent when; it answers
    /// [`Answer::Sent`] then.
    pub fn reply(&self, answer: Answer) {
        let xml = match answer {
            Answer::Result(payload) => Some(self.result(&payload)),
            Answer::Error(error) => error.of(&self.frame, self.to.as_str(), self.from.as_str()),
            // `answer` has waited for the one, the handler has seen to the other.
            Answer::Later(_) | Answer::Sent => None,
        };
        if let Some(xml) = xml {
            self.server.push(&self.session, Parcel::whole(Kind::Iq, xml));
        }
    }
}
