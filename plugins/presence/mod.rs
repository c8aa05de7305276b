//! Presence: who is there (RFC 6121 section 4), and subscription stanzas on their way to the roster
//! (section 3).
//!
//! All accounts are local, so nobody is probed: the answers are in memory and are looked at. What
//! one session sees of another may change while it is looked at; [`deliver_current`] and the checks
//! behind each broadcast see to it that the last thing a session hears is the truth.

mod broadcast;
mod directed;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use server::{
    Server, Session,
    hooks::{Ended, Flow, Inbound},
    mailbox::Parcel,
    plugin::{Plugin, Setup},
    session::{Flags, Presence},
};
use wire::{Condition, ErrorType, Frame, Jid, Kind, Stamp, StanzaError, Xml};

use crate::roster::{
    book::Roster,
    dialogue::{self, Act},
    subscription::Notice,
};

/// The plugin.
pub const PLUGIN: Plugin =
    Plugin { name: "presence", about: "Who is online, and who may know", specs: &[], setup };

fn setup(setup: &mut Setup<'_>) {
    setup.inbound(inbound);
    setup.ended(ended);
    setup.keep(
        |moment| directed::save(&moment.session),
        |moment, text| directed::restore(&moment.session, text),
    );
}

fn inbound(cx: &Inbound) -> Flow {
    if cx.frame.kind() != Kind::Presence {
        return Flow::Next;
    }
    let cx = &in_its_language(cx);
    match (cx.frame.typ().as_deref(), &cx.to) {
        (None, None) => broadcast::available(cx),
        (None, Some(to)) => directed::available(cx, to),
        (Some("unavailable"), None) => broadcast::unavailable(cx),
        (Some("unavailable"), Some(to)) => directed::unavailable(cx, to),
        (Some("error"), Some(to)) => directed::error(cx, to),
        // Probing is the server's business (section 4.3); an error to nobody is nothing.
        (Some("probe" | "error"), _) => Flow::Done,
        (Some(typ), to) => match (Notice::parse(typ), to) {
            (Some(notice), Some(to)) => subscription(cx, to, notice),
            _ => Flow::Reject(StanzaError::new(Condition::BadRequest)),
        },
    }
}

/// The same with the language of its stream, if it names none: it is sent on more than once, and
/// kept for longer than its stream may last.
fn in_its_language(cx: &Inbound) -> Inbound {
    let lang = cx.lang.as_deref().filter(|_| cx.frame.lang().is_none());
    let stamped = lang.and_then(|lang| {
        let (head, tail) = cx.frame.restamp(Stamp { from: None, to: None, lang: Some(lang) });
        Frame::parse([head, tail].concat()).ok()
    });
    let mut cx = cx.clone();
    cx.frame = stamped.unwrap_or(cx.frame);
    cx
}

fn subscription(cx: &Inbound, to: &Jid, notice: Notice) -> Flow {
    let contact = to.bare();
    if contact == cx.from.bare() {
        // An account sees itself (section 4.2.2); there is nothing to ask for.
        return Flow::Done;
    }
    if notice == Notice::Subscribe && !cx.server.is_local(contact.domain()) {
        return Flow::Reject(not_found());
    }
    let Some(roster) = Roster::of(&cx.session) else {
        return Flow::Reject(StanzaError::new(Condition::InternalServerError));
    };
    let cx = cx.clone();
    Flow::later(async move {
        let act = Act::Say(notice, cx.frame.clone());
        match dialogue::act(&cx.server, roster, contact, act).await {
            Ok(()) => Flow::Done,
            Err(error) => Flow::Reject(error),
        }
    })
}

/// However a session ends, whoever was told that it is there is told that it is not.
fn ended(cx: &Ended) -> Flow {
    broadcast::gone(&cx.server, &cx.session);
    Flow::Next
}

/// Sends the presence of one account's sessions to those of another, which sees it from now on.
pub fn show(server: &Arc<Server>, from: &Jid, to: &Jid) {
    for session in available(server, from.as_str()) {
        for receiver in available(server, to.as_str()) {
            deliver_current(server, &session, &receiver, to);
        }
    }
}

/// Tells one account's sessions that another's are not there, now that it must not see them.
pub fn hide(server: &Arc<Server>, from: &Jid, to: &Jid) {
    for session in available(server, from.as_str()) {
        for receiver in available(server, to.as_str()) {
            deliver_unavailable(server, &session, &receiver, to);
        }
    }
}

/// The sessions of an account that are available.
fn available<'a>(server: &'a Server, bare: &str) -> impl Iterator<Item = Arc<Session>> + use<'a> {
    let sessions = server.registry.bound(bare).into_iter();
    sessions.filter(|session| session.flags().has(Flags::AVAILABLE))
}

/// What there is to see of a session.
fn current(session: &Session) -> Option<Arc<Presence>> {
    session.presence().filter(|_| session.alive())
}

/// Sends a session's presence to another. If it changes meanwhile, its own broadcast of the change
/// may have come first, so the change is sent again.
fn deliver_current(server: &Arc<Server>, from: &Session, receiver: &Arc<Session>, to: &Jid) {
    let Some(full) = from.full() else { return };
    let mut sent: Option<Arc<Presence>> = None;
    loop {
        let now = current(from);
        match (&sent, &now) {
            (None, None) => return,
            (Some(sent), Some(now)) if Arc::ptr_eq(sent, now) => return,
            (_, Some(presence)) => {
                let (head, tail) = presence.frame.broadcast(full.as_str(), None);
                server.push(receiver, Parcel::addressed(Kind::Presence, head, to.clone(), tail));
            }
            (Some(_), None) => deliver_unavailable(server, from, receiver, to),
        }
        sent = now;
    }
}

fn deliver_unavailable(server: &Arc<Server>, from: &Session, receiver: &Arc<Session>, to: &Jid) {
    if let Some(full) = from.full() {
        let (head, tail) = farewell(full);
        server.push(receiver, Parcel::addressed(Kind::Presence, head, to.clone(), tail));
    }
}

/// `unavailable` in the name of a session, around the address of the receiver.
fn farewell(from: &Jid) -> (Bytes, Bytes) {
    let mut xml = Xml::new();
    xml.open("presence").attr("type", "unavailable").attr("from", from.as_str()).attr("to", "");
    let whole = xml.finish();
    // `…to=''/>`: split between the quotes.
    let split = whole.len() - b"'/>".len();
    (whole.slice(..split), whole.slice(split..))
}

/// There is no way to other servers yet.
fn not_found() -> StanzaError {
    StanzaError::new(Condition::RemoteServerNotFound)
        .with_type(ErrorType::Cancel)
        .with_text("This server does not reach other servers")
}
