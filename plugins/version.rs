//! Software version (XEP-0092). The operating system is not told: it helps nobody but an attacker.

use server::{
    iq::Answer,
    plugin::{Iq, Plugin, Setup, Spec, Target},
};
use wire::{Condition, Xml, ns};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "version",
    about: "Tells clients the server's name and version",
    specs: &[Spec {
        id: "XEP-0092",
        version: "1.1",
        title: "Software Version",
        note: "Of hosts, without the operating system",
    }],
    setup,
};

fn setup(setup: &mut Setup<'_>) {
    setup.host_features(&[ns::VERSION]);
    setup.iq(&[Target::Host], (ns::VERSION, "query"), version);
}

fn version(iq: &Iq) -> Answer {
    if iq.set {
        return Answer::refuse(Condition::BadRequest);
    }
    let mut xml = Xml::new();
    xml.open("query").ns(ns::VERSION);
    xml.leaf("name", "Usher").leaf("version", env!("CARGO_PKG_VERSION"));
    Answer::Result(xml.finish())
}
