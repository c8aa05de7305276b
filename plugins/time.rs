//! The server's time (XEP-0202), always UTC, and how long it has been up (XEP-0012 section 5).

use server::{
    iq::Answer,
    plugin::{Iq, Plugin, Setup, Spec, Target},
};
use wire::{Condition, Xml};

const TIME: &str = "urn:xmpp:time";
const LAST: &str = "jabber:iq:last";

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "time",
    about: "Tells clients the server's time and how long it has been up",
    specs: &[
        Spec { id: "XEP-0202", version: "2.0", title: "Entity Time", note: "Of hosts, in UTC" },
        Spec {
            id: "XEP-0012",
            version: "2.0",
            title: "Last Activity",
            note: "Of hosts: the time since the start. Not of accounts",
        },
    ],
    setup,
};

fn setup(setup: &mut Setup<'_>) {
    setup.host_features(&[TIME, LAST]);
    setup.iq(&[Target::Host], (TIME, "time"), time);
    setup.iq(&[Target::Host], (LAST, "query"), uptime);
}

fn time(iq: &Iq) -> Answer {
    if iq.set {
        return Answer::refuse(Condition::BadRequest);
    }
    let mut xml = Xml::new();
    xml.open("time").ns(TIME).leaf("tzo", "+00:00").leaf("utc", &iq.server.clock.now().to_string());
    Answer::Result(xml.finish())
}

fn uptime(iq: &Iq) -> Answer {
    if iq.set {
        return Answer::refuse(Condition::BadRequest);
    }
    let seconds = iq.server.clock.now().seconds_since(iq.server.started);
    let mut xml = Xml::new();
    xml.open("query").ns(LAST).attr("seconds", &seconds.to_string());
    Answer::Result(xml.finish())
}
