//! Who has a message and who is to have a copy of it, when an account's sessions have turned carbons
//! on (XEP-0280). What is copied and how is a plugin's, asked by the chain `copies`; an account
//! whose sessions have not asked for any pays one look at their flags.
//!
//! A session that takes messages and gets a copy has the message as if it had been sent to all: it is
//! not delivered again because the one that it was addressed to has ended without reading it, and
//! only when all have ended so it is (see [`Parcel::forked`]). Every other copy is nobody's loss.

use std::sync::Arc;

use bytes::Bytes;
use wire::{Frame, Jid, Kind, ns};

use crate::{
    Server, Session,
    hooks::{Copies, Delivery, Direction},
    mailbox::Parcel,
    registry::Few,
    session::{Feature, Flags},
};

impl Delivery {
    /// Hands the message to sessions of the receiver, and copies to `others` of them. Whether
    /// somebody has it or is going to: who has ended by now without reading it does not count.
    pub(crate) fn hand(&self, sessions: &[Arc<Session>], others: Few) -> bool {
        match sessions {
            [] => return false,
            [session] if others.is_empty() => {
                return self.server.push(session, self.parcel().on_disk(self.flight.clone()));
            }
            _ => {}
        }
        let mut parcel = self.parcel().on_disk(self.flight.clone()).forked();
        let mut taken = false;
        for session in sessions {
            taken |= self.server.push(session, parcel.clone());
        }
        if taken {
            self.copy(Direction::Received, sessions, others, Some(&parcel));
        }
        parcel.has_another_copy()
    }

    /// Hands copies of a message that nobody takes to those who are there all the same: to a
    /// negative priority. Whoever is about to come gets the message itself from storage.
    pub(crate) fn hand_copies_only(&self, mut others: Few) {
        others.retain(|session| session.flags().has(Flags::AVAILABLE));
        self.copy(Direction::Received, &[], others, None);
    }

    /// Hands copies to the other sessions of the sender, wherever the message goes. What an account
    /// sends to itself, it receives.
    pub(crate) fn copy_sent(&self) {
        let Some(origin) = &self.origin else { return };
        if self.from.bare_str() != self.to.bare_str() {
            let others = self.server.having_carbons(&self.from);
            self.copy(Direction::Sent, std::slice::from_ref(origin), others, None);
        }
    }

    fn copy(
        &self,
        direction: Direction,
        holders: &[Arc<Session>],
        mut receivers: Few,
        original: Option<&Parcel>,
    ) {
        receivers.retain(|session| {
            let sender = self.origin.as_ref().is_some_and(|origin| Arc::ptr_eq(origin, session));
            !sender && !holders.iter().any(|holder| Arc::ptr_eq(holder, session))
        });
        if receivers.is_empty() {
            return;
        }
        let copies = Copies {
            delivery: self.clone(),
            direction,
            holders: holders.into(),
            receivers,
            original: original.cloned(),
        };
        if let Some(later) = self.server.hooks.copies.tell(&copies) {
            self.server.spawn(later);
        }
    }
}

impl Copies {
    /// Hands a copy to one of the receivers.
    pub fn hand(&self, session: &Arc<Session>, copy: Parcel) {
        let copy = match &self.original {
            Some(original) if session.takes_messages() => copy.alongside(original),
            _ => {
                let copy = copy.forked();
                copy.reached();
                copy
            }
        };
        self.delivery.server.push(session, copy);
    }
}

impl Server {
    /// Hands copies of an error to the other sessions of the account that it is for.
    pub(crate) fn copy_error(self: &Arc<Self>, session: &Arc<Session>, kind: Kind, xml: &Bytes) {
        let Some(full) = session.full().filter(|_| kind == Kind::Message) else { return };
        let others = self.having_carbons(full);
        if others.is_empty() {
            return;
        }
        let Ok(frame) = Frame::parse(xml.clone()) else { return };
        let Some(from) = frame.from().and_then(|from| Jid::parse(&from).ok()) else { return };
        let (server, to) = (self.clone(), full.clone());
        let delivery = Delivery { server, from, to, origin: None, frame, lang: None, flight: None };
        delivery.copy(Direction::Received, std::slice::from_ref(session), others, None);
    }

    /// The sessions of an account that have turned carbons on.
    fn having_carbons(&self, jid: &Jid) -> Few {
        let mut few = Few::new();
        self.registry.each_of(jid.bare_str(), |session| {
            if session.has(Feature::Carbons) {
                few.push(session.clone());
            }
        });
        few
    }

    /// The session with exactly this full JID, and the others of its account that have turned
    /// carbons on.
    pub(crate) fn full_and_others(&self, full: &Jid) -> (Option<Arc<Session>>, Few) {
        let (mut found, mut others) = (None, Few::new());
        self.registry.each_of(full.bare_str(), |session| {
            if session.full() == Some(full) {
                found = Some(session.clone());
            } else if session.has(Feature::Carbons) {
                others.push(session.clone());
            }
        });
        (found, others)
    }
}

/// What is to be found another place for, when a session has ended without taking `frame`: of a copy
/// of what was received it is the message itself, which nobody has then; of another copy, nothing.
pub(crate) fn without_copy(frame: Frame, account: &Jid) -> Option<Frame> {
    let ours = frame.kind() == Kind::Message
        && frame.contains(ns::CARBONS.as_bytes())
        && frame.from().is_some_and(|from| from == account.as_str());
    if !ours {
        return Some(frame);
    }
    let Some(copy) = frame.payload().filter(|payload| payload.ns == ns::CARBONS) else {
        return Some(frame);
    };
    let message = copy.el.child("forwarded", ns::FORWARD)?.children().next()?;
    (copy.local == "received").then(|| Frame::parse(message.to_owned_xml()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_copy_only_a_message_that_was_received_goes_elsewhere() {
        let account = Jid::parse("juliet@localhost").expect("is an address");
        let inner =
            "<message xmlns='jabber:client' from='romeo@localhost/a'><body>hi</body></message>";
        let copy = |from: &str, name: &str| {
            let forwarded = format!("<forwarded xmlns='{}'>{inner}</forwarded>", ns::FORWARD);
            let content = format!("<{name} xmlns='{}'>{forwarded}</{name}>", ns::CARBONS);
            Frame::parse(format!("<message from='{from}'>{content}</message>")).expect("is XML")
        };
        let left = |frame: Frame| without_copy(frame, &account).map(|frame| frame.bytes().clone());
        assert_eq!(left(copy("juliet@localhost", "received")).expect("is left"), inner);
        assert_eq!(left(copy("juliet@localhost", "sent")), None);
        for same in [
            copy("pope@localhost", "received"),
            copy("juliet@localhost/a", "sent"),
            copy("juliet@localhost", "x").without_children(|_| true),
            Frame::parse(inner).expect("is XML"),
        ] {
            assert_eq!(left(same.clone()).as_ref(), Some(same.bytes()));
        }
    }
}
