//! Telling an account's interested sessions about a change (RFC 6121 section 2.1.6).

use std::sync::Arc;

use bytes::Bytes;
use server::{Server, mailbox::Parcel, session::Flags};
use wire::{Jid, Kind, Xml, ns};

use super::{book::Roster, item::Item};

/// Pushes one contact; none: it is gone. The body is shared by all sessions; only `to` differs.
pub fn push(server: &Arc<Server>, roster: &Roster, contact: &Jid, item: Option<&Item>) {
    let mut sessions = server.registry.bound(roster.jid.as_str());
    sessions.retain(|session| session.flags().has(Flags::INTERESTED));
    if sessions.is_empty() {
        return;
    }
    let head = Bytes::from(format!("<iq type='set' id='push-{:x}' to='", server.stamp()));
    let mut xml = Xml::new();
    open_query(&mut xml, roster.version());
    match item.filter(|item| !item.hidden) {
        Some(item) => item.write(contact, &mut xml),
        None => {
            xml.open("item").attr("jid", contact.as_str()).attr("subscription", "remove").close();
        }
    }
    let tail = Bytes::from([b"'>".as_slice(), &xml.finish(), b"</iq>"].concat());
    for session in sessions {
        if let Some(to) = session.full() {
            let (head, tail) = (head.clone(), tail.clone());
            server.push(&session, Parcel::addressed(Kind::Iq, head, to.clone(), tail));
        }
    }
}

/// Begins a `<query/>` with its version, which means nothing to clients but whether it is the same.
pub fn open_query(xml: &mut Xml, version: u64) {
    xml.open("query").ns(ns::ROSTER).attr("ver", &version_text(version));
}

/// A version as it is shown.
#[must_use]
pub fn version_text(version: u64) -> String {
    format!("{version:x}")
}
