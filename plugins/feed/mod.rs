//! A feed of the own account's sessions: a client that has asked for it is told of each that comes, changes
//! and goes, so that it need not ask again and again. A protocol of this server's own, in
//! `urn:usher:session:0`; it is described in `doc/session-control.md`.
//!
//! Who may list the account's sessions may have the feed. It is about sessions with a resource, and about
//! nobody else's; nothing of it is stored.

mod desk;
mod sight;
#[cfg(test)]
mod tests;

use serde_json::Map;
use server::{
    end::NAMESPACE,
    hooks::Flow,
    iq::Answer,
    plugin::{Iq, Plugin, Setup, Target},
    session::Feature,
};
use wire::Condition;

use crate::command;
use desk::Desk;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "feed",
    about: "Tells clients when sessions of their account come, change and go",
    specs: &[],
    setup,
};

fn setup(setup: &mut Setup<'_>) {
    setup.account_features(&[NAMESPACE]);
    let desk = Desk::default();
    let at = desk.clone();
    setup.iq(&[Target::Own], (NAMESPACE, "subscribe"), move |iq| match iq.set {
        true => {
            let (iq, desk) = (iq.clone(), at.clone());
            Answer::later(async move { subscribe(iq, &desk).await })
        }
        false => Answer::refuse(Condition::BadRequest),
    });
    setup.iq(&[Target::Own], (NAMESPACE, "unsubscribe"), |iq| {
        if !iq.set {
            return Answer::refuse(Condition::BadRequest);
        }
        iq.session.turn(Feature::Sessions, false);
        Answer::done()
    });
    setup.keep(
        |moment| moment.session.has(Feature::Sessions).then(|| "on".into()),
        |moment, _| moment.session.turn(Feature::Sessions, true),
    );
    let at = desk.clone();
    setup.resumed(move |cx| {
        if cx.session.has(Feature::Sessions) {
            at.is_back(&cx.server, &cx.session);
        }
        Flow::Next
    });
    // It is gone for everybody as soon as it is marked; its connection may take a while to close.
    setup.ended(move |cx| {
        desk.left(&cx.session);
        Flow::Next
    });
}

async fn subscribe(iq: Iq, desk: &Desk) -> Answer {
    let mut args = Map::new();
    args.insert("pattern".into(), iq.from.bare_str().into());
    let listed = match command::run(&iq, "session list", args).await {
        Ok(listed) => listed.outcome,
        Err(error) => return Answer::Error(error),
    };
    match listed {
        Ok(_) => desk.subscribe(iq).await,
        Err(error) => Answer::Error(command::refusal(&error)),
    }
}
