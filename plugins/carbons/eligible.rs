//! Which messages are copied (XEP-0280 section 6.1).
//!
//! An error is copied if the message was that it answers. Of each session that has exchanged copied
//! messages, the addresses and ids of the last of them are remembered, as hashes; whatever the error
//! says that it answers does not count.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

use parking_lot::Mutex;
use server::{
    Session,
    hooks::{Copies, Direction},
};
use wire::{Frame, ns};

/// XEP-0184.
const RECEIPTS: &str = "urn:xmpp:receipts";
/// XEP-0249.
const INVITATION: &str = "jabber:x:conference";
/// XEP-0333.
const MARKERS: &str = "urn:xmpp:chat-markers:0";
/// XEP-0045.
const ROOM: &str = "http://jabber.org/protocol/muc#user";

/// Of so many messages in a session, errors are known to answer them.
const REMEMBERED: usize = 64;

/// Whether the message is copied.
pub(super) fn eligible(cx: &Copies) -> bool {
    let content = Content::of(&cx.delivery.frame);
    let typ = cx.delivery.frame.typ();
    let from_room = content.room
        && cx.direction == Direction::Received
        && cx.delivery.from.resource().is_some();
    match typ.as_deref() {
        _ if content.private => false,
        Some("groupchat") => false,
        Some("error") => answers_a_copied_one(cx),
        _ if content.invitation => true,
        // A room sends private messages to all of the sessions in it by itself.
        _ if from_room => false,
        Some("chat") => true,
        Some("headline") => content.chat,
        _ => content.body || content.chat,
    }
}

/// What is in a message.
#[derive(Default)]
struct Content {
    /// It is not to be copied, or is a copy.
    private: bool,
    body: bool,
    /// Something that goes with conversations.
    chat: bool,
    /// It has passed through a room.
    room: bool,
    invitation: bool,
}

impl Content {
    fn of(frame: &Frame) -> Self {
        let mut content = Self::default();
        for child in frame.root().children() {
            match (child.local(), &*child.ns()) {
                ("private" | "received" | "sent", ns::CARBONS) | ("no-copy", ns::HINTS) => {
                    content.private = true;
                }
                ("body", ns::CLIENT) => content.body = true,
                (_, ns::CHAT_STATES | MARKERS | RECEIPTS) => content.chat = true,
                ("x", INVITATION) => content.invitation = true,
                ("x", ROOM) if child.child("invite", ROOM).is_some() => content.invitation = true,
                ("x", ROOM) => content.room = true,
                _ => {}
            }
        }
        content
    }
}

/// The last messages of a session that were copied.
#[derive(Default)]
struct Copied(Mutex<VecDeque<u64>>);

/// Remembers a message that is copied, for errors that answer it.
pub(super) fn note(cx: &Copies) {
    if cx.delivery.frame.typ().as_deref() == Some("error") {
        return;
    }
    let Some(key) = key(cx, cx.direction) else { return };
    for session in &cx.holders {
        let slot = session.slot::<Copied>();
        let mut copied = slot.0.lock();
        if copied.len() >= REMEMBERED {
            copied.pop_front();
        }
        copied.push_back(key);
    }
}

fn answers_a_copied_one(cx: &Copies) -> bool {
    // What came is answered by what goes.
    let before = match cx.direction {
        Direction::Received => Direction::Sent,
        Direction::Sent => Direction::Received,
    };
    let Some(key) = key(cx, before) else { return false };
    let known = |session: &Session| session.slot::<Copied>().0.lock().contains(&key);
    cx.holders.iter().any(|session| known(session))
}

/// A message that went one way or the other, with the other account's address and its id. None
/// without an id: no error can be told to answer it.
fn key(cx: &Copies, direction: Direction) -> Option<u64> {
    let peer = match cx.direction {
        Direction::Received => &cx.delivery.from,
        Direction::Sent => &cx.delivery.to,
    };
    let mut hasher = DefaultHasher::new();
    (direction == Direction::Sent).hash(&mut hasher);
    peer.bare_str().hash(&mut hasher);
    cx.delivery.frame.id()?.hash(&mut hasher);
    Some(hasher.finish())
}
