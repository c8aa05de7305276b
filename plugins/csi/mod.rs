//! Client state indication (XEP-0352): a client whose user does not look is spared what can wait.
//!
//! While a session is inactive, presence of others waits, of each only the newest, and chat states
//! are dropped. Whatever else comes goes at once, behind the presence that waits: so nothing that is
//! written is ever out of order. The state is between the client and this server. It has
//! nothing to do with presence, and ends with the connection: one that is resumed is active.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use server::{
    Server, Session,
    end::{End, Reason},
    hooks::{Flow, Moment, Outbound},
    mailbox::{Parcel, Refused},
    plugin::{Plugin, Setup, Spec},
    session::Feature,
};
use wire::{El, Frame, Jid, Kind, ns};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "csi",
    about: "Spares clients that nobody looks at what can wait",
    specs: &[Spec {
        id: "XEP-0352",
        version: "1.0.0",
        title: "Client State Indication",
        note: "Presence waits, chat states are dropped",
    }],
    setup,
};

const NAMESPACE: &str = "urn:xmpp:csi:0";

/// So many presences may wait; with one more, all go.
const MOST: usize = 500;

/// A message that is larger than this has something to say. Bytes.
const SMALL: usize = 4096;

/// XEP-0045.
const ROOM: &str = "http://jabber.org/protocol/muc#user";
/// XEP-0421.
const OCCUPANT: &str = "urn:xmpp:occupant-id:0";

fn setup(setup: &mut Setup<'_>) {
    setup.stream_feature(&format!("<csi xmlns='{NAMESPACE}'/>"));
    setup.nonza((NAMESPACE, "active"), |moment, _| activate(moment));
    setup.nonza((NAMESPACE, "inactive"), |moment, _| deactivate(moment));
    setup.inline(NAMESPACE, (NAMESPACE, "active"), |moment, _| {
        activate(moment);
        None
    });
    setup.inline(NAMESPACE, (NAMESPACE, "inactive"), |moment, _| {
        deactivate(moment);
        None
    });
    setup.resumed(|moment| {
        activate(moment);
        Flow::Next
    });
    setup.outbound(outbound);
    setup.keep(save, restore);
}

/// What waits, for a session that is to go on after the server was stopped.
fn save(moment: &Moment) -> Option<String> {
    if !moment.session.has(Feature::Outbound) {
        return None;
    }
    let state = moment.session.slot::<State>();
    let waiting = state.0.lock();
    let frames = waiting.queue.values().filter_map(|parcel| parcel.clone().into_frame());
    let texts: Vec<String> =
        frames.map(|frame| String::from_utf8_lossy(frame.bytes()).into_owned()).collect();
    if texts.is_empty() { None } else { serde_json::to_string(&texts).ok() }
}

/// It comes behind what the client has not acknowledged: whoever goes on is active.
fn restore(moment: &Moment, text: &str) {
    let texts: Vec<String> = serde_json::from_str(text).unwrap_or_default();
    for frame in texts.into_iter().filter_map(|text| Frame::parse(text).ok()) {
        let parcel = Parcel::whole(frame.kind(), frame.bytes().clone());
        moment.server.push(&moment.session, parcel);
    }
}

/// The state of a session that has been inactive.
#[derive(Default)]
struct State(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    inactive: bool,
    /// Presences in the order in which they are to go.
    queue: BTreeMap<u64, Parcel>,
    /// Where in the queue a sender's presence is.
    places: HashMap<String, u64>,
    /// The place of the next.
    next: u64,
    bytes: usize,
}

/// The user does not look any more.
fn deactivate(moment: &Moment) {
    let state = moment.session.slot::<State>();
    let mut waiting = state.0.lock();
    waiting.inactive = true;
    moment.session.turn(Feature::Outbound, true);
}

/// The user looks again: first of all at what has waited.
fn activate(moment: &Moment) {
    let (server, session) = (&moment.server, &moment.session);
    if !session.has(Feature::Outbound) {
        return;
    }
    let state = session.slot::<State>();
    let flushed = {
        let mut waiting = state.0.lock();
        waiting.inactive = false;
        let flushed = waiting.flush(server, session);
        // Whoever does not see the flag any more comes behind what has waited.
        session.turn(Feature::Outbound, false);
        flushed
    };
    see_to(flushed, moment);
}

fn outbound(cx: &Outbound) -> Flow {
    let weight = Weight::of(&cx.parcel, &cx.session);
    let state = cx.session.slot::<State>();
    let most_bytes = cx.server.config.limits.mailbox_bytes / 2;
    let (flushed, flow) = {
        let mut waiting = state.0.lock();
        match weight {
            // Active by now.
            _ if !waiting.inactive => return Flow::Next,
            Weight::Matters => (waiting.flush(&cx.server, &cx.session), Flow::Next),
            Weight::Waits(from) => {
                waiting.hold(from, cx.parcel.clone());
                if waiting.queue.len() <= MOST && waiting.bytes <= most_bytes {
                    return Flow::Done;
                }
                (waiting.flush(&cx.server, &cx.session), Flow::Done)
            }
            Weight::Nothing => {
                // As good as read: its sender is not to notice.
                cx.parcel.reached();
                return Flow::Done;
            }
        }
    };
    see_to(flushed, &Moment { server: cx.server.clone(), session: cx.session.clone() });
    flow
}

/// Ends a session that does not read. Not under the lock of its state: others hear of it.
fn see_to(flushed: Result<(), Refused>, moment: &Moment) {
    if let Err(Refused::Full(_)) = flushed {
        moment.server.end(&moment.session, End::new(Reason::SlowReader));
    }
}

impl Waiting {
    /// Lets a presence wait, in place of an earlier one of the same sender.
    fn hold(&mut self, from: String, parcel: Parcel) {
        self.bytes += parcel.len();
        self.queue.insert(self.next, parcel);
        let before = self.places.insert(from, self.next);
        if let Some(old) = before.and_then(|place| self.queue.remove(&place)) {
            self.bytes -= old.len();
        }
        self.next += 1;
    }

    /// Lets go of all that waits, into the mailbox itself: nobody is asked about it again.
    fn flush(&mut self, server: &Server, session: &Session) -> Result<(), Refused> {
        let inactive = self.inactive;
        let all = std::mem::replace(self, Self { inactive, ..Self::default() });
        let limit = server.config.limits.mailbox_bytes;
        all.queue.into_values().try_for_each(|parcel| session.mailbox.push(parcel, limit).map(drop))
    }
}

/// What something is worth to somebody who does not look.
enum Weight {
    /// It goes at once.
    Matters,
    /// Nothing, now or later.
    Nothing,
    /// The presence of this sender, of which the newest will do.
    Waits(String),
}

impl Weight {
    fn of(parcel: &Parcel, session: &Session) -> Self {
        match parcel.kind() {
            Kind::Presence => {}
            Kind::Message if parcel.len() <= SMALL => {}
            Kind::Iq | Kind::Message | Kind::Other => return Self::Matters,
        }
        let Some(frame) = parcel.clone().into_frame() else { return Self::Matters };
        match parcel.kind() {
            Kind::Presence => Self::of_presence(&frame, session.full()),
            _ if says_nothing(&frame, session) => Self::Nothing,
            _ => Self::Matters,
        }
    }

    fn of_presence(frame: &Frame, me: Option<&Jid>) -> Self {
        let from = frame.from().unwrap_or_default();
        let ordinary = matches!(frame.typ().as_deref(), None | Some("unavailable"));
        // What it has said itself comes back; so does, marked, what it has said to a room.
        let mine = me.is_none_or(|me| from == me.as_str())
            || frame.root().child("x", ROOM).is_some_and(|x| {
                x.children().any(|status| status.attr("code").as_deref() == Some("110"))
            });
        if ordinary && !mine { Self::Waits(from.into_owned()) } else { Self::Matters }
    }
}

/// Whether a message, or the one that it is a copy of, is a chat state and no more.
fn says_nothing(frame: &Frame, session: &Session) -> bool {
    if !frame.contains(ns::CHAT_STATES.as_bytes()) {
        return false;
    }
    let copied = |copy: &El<'_>| {
        let message = copy.child("forwarded", ns::FORWARD)?.children().next()?;
        Some(only_a_chat_state(&message))
    };
    match frame.payload() {
        Some(first) if first.ns == ns::CARBONS => {
            let account = session.full().map(Jid::bare_str);
            frame.from().as_deref() == account && copied(&first.el).unwrap_or(false)
        }
        _ => only_a_chat_state(&frame.root()),
    }
}

fn only_a_chat_state(message: &El<'_>) -> bool {
    let mut state = false;
    let nothing_else = message.children().all(|child| match (child.local(), &*child.ns()) {
        (_, ns::CHAT_STATES) => {
            state = true;
            true
        }
        ("thread", ns::CLIENT) | (_, ns::HINTS | ns::SID | OCCUPANT) => true,
        _ => false,
    });
    state && nothing_else && message.attr("type").as_deref() != Some("error")
}
