//! Directed presence (RFC 6121 section 4.6): to whom a session has shown itself beside its contacts,
//! so that they, too, hear when it goes.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use server::{
    Server, Session,
    hooks::{Flow, Inbound},
    id::SessionId,
    mailbox::Parcel,
};
use wire::{Condition, Jid, Kind, StanzaError};

use super::{available as sessions, broadcast, not_found};

/// Most addresses that a session may have shown itself to at a time.
const TARGETS: usize = 1000;

/// To whom a session has sent directed presence.
#[derive(Default)]
struct Targets(Mutex<BTreeSet<Jid>>);

/// To whom a session has shown itself, as text.
pub(super) fn save(session: &Session) -> Option<String> {
    let targets = session.slot::<Targets>();
    let targets = targets.0.lock();
    let lines: Vec<&str> = targets.iter().map(Jid::as_str).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The same again.
pub(super) fn restore(session: &Session, text: &str) {
    let targets = session.slot::<Targets>();
    targets.0.lock().extend(text.lines().take(TARGETS).filter_map(|line| Jid::parse(line).ok()));
}

/// A session shows itself to one address.
pub(super) fn available(cx: &Inbound, to: &Jid) -> Flow {
    if !cx.server.is_local(to.domain()) {
        return Flow::Reject(not_found());
    }
    {
        let targets = cx.session.slot::<Targets>();
        let mut targets = targets.0.lock();
        if targets.len() >= TARGETS && !targets.contains(to) {
            let text = format!("A session may show itself to at most {TARGETS} others");
            return Flow::Reject(StanzaError::new(Condition::PolicyViolation).with_text(text));
        }
        targets.insert(to.clone());
    }
    send(cx, to);
    if !cx.session.alive() {
        // It has ended meanwhile, and its farewell may have come before what was just sent.
        broadcast::gone(&cx.server, &cx.session);
    }
    Flow::Done
}

/// A session hides from one address again.
pub(super) fn unavailable(cx: &Inbound, to: &Jid) -> Flow {
    cx.session.slot::<Targets>().0.lock().remove(to);
    send(cx, to);
    Flow::Done
}

/// A session could not make sense of somebody's presence, and says so to that session alone.
pub(super) fn error(cx: &Inbound, to: &Jid) -> Flow {
    if to.resource().is_some() {
        send(cx, to);
    }
    Flow::Done
}

/// Tells all whom a session has shown itself to that it is not there, but for those who were told
/// already. The list is empty afterwards.
pub(super) fn farewells(
    server: &Arc<Server>,
    session: &Session,
    head: &Bytes,
    tail: &Bytes,
    told: &BTreeSet<SessionId>,
) {
    let targets = std::mem::take(&mut *session.slot::<Targets>().0.lock());
    for to in targets {
        for receiver in receivers(server, &to) {
            if !told.contains(&receiver.id) {
                let (head, tail) = (head.clone(), tail.clone());
                server.push(&receiver, Parcel::addressed(Kind::Presence, head, to.clone(), tail));
            }
        }
    }
}

fn send(cx: &Inbound, to: &Jid) {
    let receivers = receivers(&cx.server, to);
    if receivers.is_empty() {
        return;
    }
    let parcel = Parcel::stamped(&cx.frame, &cx.from, None, None);
    for receiver in receivers {
        cx.server.push(&receiver, parcel.clone());
    }
}

/// Who gets presence for an address (sections 8.5.2.1.2 and 8.5.3.1): that session, or all that are
/// available. Nobody is told when there is none.
fn receivers(server: &Server, to: &Jid) -> Vec<Arc<Session>> {
    if to.resource().is_some() {
        server.registry.full(to).into_iter().collect()
    } else {
        sessions(server, to.as_str()).collect()
    }
}
