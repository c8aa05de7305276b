//! Undirected presence: initial, later, and the last (RFC 6121 sections 4.2, 4.4, 4.5).

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use server::{
    Server, Session,
    events::Change,
    hooks::{Flow, Inbound, Moment},
    id::SessionId,
    mailbox::Parcel,
    session::Presence,
};
use wire::{Condition, Frame, Jid, Kind, StanzaError, ns};

use super::{available as sessions, deliver_current, directed, farewell};
use crate::{caps, roster::book::Roster};

/// A session says that it is there, or how.
pub(super) fn available(cx: &Inbound) -> Flow {
    let Some(priority) = priority(&cx.frame) else {
        let text = "A priority is a number from -128 to 127";
        return Flow::Reject(StanzaError::new(Condition::BadRequest).with_text(text));
    };
    let (server, session) = (&cx.server, &cx.session);
    if let Some(caps) = cx.frame.root().child("c", caps::NAMESPACE)
        && let Some(node) = caps.attr("node")
    {
        session.set_software(&node);
    }
    let presence = Presence { priority, frame: cx.frame.clone(), since: server.clock.now() };
    let Some(before) = server.registry.set_presence(session, Some(presence)) else {
        return Flow::Done;
    };
    let (head, tail) = cx.frame.broadcast(cx.from.as_str(), None);
    spread(server, session, &head, &tail, &mut BTreeSet::new());
    if !session.alive() {
        // It has ended meanwhile, and its farewell may have come before what was just sent.
        gone(server, session);
        return Flow::Done;
    }
    if before.is_none() {
        server.events.publish(session, Change::Available);
        look_around(server, session, &cx.from);
    }
    let took_messages = before.is_some_and(|before| before.priority >= 0);
    if priority < 0 || took_messages {
        return Flow::Done;
    }
    let moment = Moment { server: server.clone(), session: session.clone() };
    match server.hooks.available.run(&moment) {
        Flow::Later(future) => Flow::later(async move {
            // Whatever came of it, the presence itself was dealt with.
            let _ = Flow::Later(future).decided().await;
            Flow::Done
        }),
        _ => Flow::Done,
    }
}

/// A session takes its presence back; it stays bound.
pub(super) fn unavailable(cx: &Inbound) -> Flow {
    let (server, session) = (&cx.server, &cx.session);
    let Some(before) = server.registry.set_presence(session, None) else { return Flow::Done };
    let (head, tail) = cx.frame.broadcast(cx.from.as_str(), None);
    let mut told = BTreeSet::new();
    if before.is_some() {
        // Out of the list of those who are there, it still hears itself leave (section 4.5.2).
        told.insert(session.id);
        let (to, head, tail) = (cx.from.clone(), head.clone(), tail.clone());
        server.push(session, Parcel::addressed(Kind::Presence, head.clone(), to, tail.clone()));
        spread(server, session, &head, &tail, &mut told);
        server.events.publish(session, Change::Unavailable);
    }
    directed::farewells(server, session, &head, &tail, &told);
    Flow::Done
}

/// A session has ended, without a word or with one.
pub(super) fn gone(server: &Arc<Server>, session: &Arc<Session>) {
    let Some(from) = session.full() else { return };
    let (head, tail) = farewell(from);
    let mut told = BTreeSet::new();
    if session.presence().is_some() {
        spread(server, session, &head, &tail, &mut told);
    }
    directed::farewells(server, session, &head, &tail, &told);
}

/// Sends a presence to the account's own available sessions, the sender included, and to those of
/// the contacts who may see it. Notes who was told.
fn spread(
    server: &Arc<Server>,
    session: &Arc<Session>,
    head: &Bytes,
    tail: &Bytes,
    told: &mut BTreeSet<SessionId>,
) {
    let Some(roster) = Roster::of(session) else { return };
    let mut send = |receiver: &Arc<Session>, to: &Jid| {
        told.insert(receiver.id);
        let (head, tail) = (head.clone(), tail.clone());
        server.push(receiver, Parcel::addressed(Kind::Presence, head, to.clone(), tail));
    };
    for own in sessions(server, roster.jid.as_str()) {
        if let Some(full) = own.full() {
            send(&own, full);
        }
    }
    for contact in roster.contacts(|state| state.from) {
        for receiver in sessions(server, contact.as_str()) {
            send(&receiver, &contact);
        }
    }
}

/// A session has just become available: it is told who else is (section 4.3.2), and who has asked
/// to see the account (section 3.1.3).
fn look_around(server: &Arc<Server>, session: &Arc<Session>, me: &Jid) {
    let Some(roster) = Roster::of(session) else { return };
    for own in sessions(server, roster.jid.as_str()) {
        if own.id != session.id {
            deliver_current(server, &own, session, me);
        }
    }
    for contact in roster.contacts(|state| state.to) {
        for theirs in sessions(server, contact.as_str()) {
            // Their roster decides what is to be seen of them.
            let may = Roster::of(&theirs).is_some_and(|theirs| theirs.state(me.bare_str()).from);
            if may {
                deliver_current(server, &theirs, session, me);
            }
        }
    }
    for request in roster.requests() {
        let request = Bytes::from(String::from(request));
        server.push(session, Parcel::whole(Kind::Presence, request));
    }
}

/// The priority, 0 if none is given (section 4.7.2.3). None: it is not one.
fn priority(frame: &Frame) -> Option<i8> {
    match frame.root().child("priority", ns::CLIENT) {
        Some(priority) => priority.text().trim().parse().ok(),
        None => Some(0),
    }
}
