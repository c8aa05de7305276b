//! Ping (XEP-0199): the server answers for itself and for accounts; a ping to a full JID is the
//! client's to answer.

use server::{
    iq::Answer,
    plugin::{Iq, Plugin, Setup, Spec, Target},
};
use wire::{Condition, ns};

use crate::roster;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "ping",
    about: "Answers pings",
    specs: &[Spec {
        id: "XEP-0199",
        version: "2.0.1",
        title: "XMPP Ping",
        note: "Answered for hosts, the own account and contacts whose presence may be seen. The \
               server does not ping clients",
    }],
    setup,
};

fn setup(setup: &mut Setup<'_>) {
    setup.host_features(&[ns::PING]);
    setup.account_features(&[ns::PING]);
    setup.iq(&[Target::Host], (ns::PING, "ping"), pong);
    setup.iq(&[Target::Own, Target::Account], (ns::PING, "ping"), |iq| {
        roster::for_acquaintances(iq, pong)
    });
}

fn pong(iq: &Iq) -> Answer {
    if iq.set { Answer::refuse(Condition::BadRequest) } else { Answer::done() }
}
