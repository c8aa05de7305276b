//! Message carbons (XEP-0280): copies of what an account's other sessions send and receive, for the
//! sessions that ask for them.
//!
//! The router knows who has a message and who wants a copy (`server::copies`); here is which messages
//! are copied, and what a copy looks like. A copy goes into a mailbox and nowhere else: it is not
//! stored, and nobody is told when it cannot be delivered.

mod eligible;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use server::{
    hooks::{Copies, Direction, Flow},
    iq::Answer,
    mailbox::Parcel,
    plugin::{Iq, Plugin, Setup, Spec, Target},
    session::Feature,
};
use wire::{Condition, Kind, Xml, ns};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "carbons",
    about: "Copies messages to an account's other clients",
    specs: &[
        Spec {
            id: "XEP-0280",
            version: "1.0.1",
            title: "Message Carbons",
            note: "With all of its rules of what is copied",
        },
        Spec {
            id: "XEP-0297",
            version: "1.0",
            title: "Stanza Forwarding",
            note: "The form of the copies",
        },
    ],
    setup,
};

/// XEP-0280 section 6.2: the rules of which messages are copied are followed, and may be relied on.
const RULES: &str = "urn:xmpp:carbons:rules:0";

fn setup(setup: &mut Setup<'_>) {
    setup.host_features(&[ns::CARBONS, RULES]);
    setup.iq(&[Target::Own], (ns::CARBONS, "enable"), |iq| turn(iq, true));
    setup.iq(&[Target::Own], (ns::CARBONS, "disable"), |iq| turn(iq, false));
    setup.inline(ns::CARBONS, (ns::CARBONS, "enable"), |moment, _| {
        moment.session.turn(Feature::Carbons, true);
        None
    });
    setup.copies(copy);
    setup.keep(
        |moment| moment.session.has(Feature::Carbons).then(|| "on".into()),
        |moment, _| moment.session.turn(Feature::Carbons, true),
    );
}

/// Turns it on or off, as often as the client likes (section 10.1).
fn turn(iq: &Iq, on: bool) -> Answer {
    if !iq.set {
        return Answer::refuse(Condition::BadRequest);
    }
    iq.session.turn(Feature::Carbons, on);
    Answer::done()
}

/// A message that other sessions of an account may have to see (sections 7 and 8).
fn copy(cx: &Copies) -> Flow {
    if eligible::eligible(cx)
        && let Some((head, tail)) = wrapped(cx)
    {
        eligible::note(cx);
        for session in &cx.receivers {
            let Some(to) = session.full() else { continue };
            let (head, tail) = (head.clone(), tail.clone());
            cx.hand(session, Parcel::addressed(Kind::Message, head, to.clone(), tail));
        }
    }
    Flow::Next
}

/// The copy, around the address of the receiver.
fn wrapped(cx: &Copies) -> Option<(Bytes, Bytes)> {
    let message = cx.delivery.stamped()?;
    let account = cx.receivers.first()?.full()?.bare_str();
    let mut xml = Xml::new();
    xml.open(match cx.direction {
        Direction::Received => "received",
        Direction::Sent => "sent",
    });
    xml.ns(ns::CARBONS).open("forwarded").ns(ns::FORWARD).raw(&message.root().to_owned_xml());
    let content = xml.finish();
    let mut head = String::from("<message");
    if let Some(typ) = message.typ() {
        head = format!("{head} type='{}'", wire::escape(&typ));
    }
    head = format!("{head} from='{}' to='", wire::escape(account));
    Some((head.into(), [b"'>".as_slice(), &content, b"</message>"].concat().into()))
}
