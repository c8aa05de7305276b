//! `usher announce`: a message of the server to everybody who is online. Nobody else gets it, then or
//! later.

use wire::{Jid, Kind, Xml};

use super::{
    Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind,
    online::{HOST, host, is_of},
    session::plural,
};
use crate::{Session, mailbox::Parcel, registry, rights::Right};

/// Sessions that are told before others get their turn.
const PAGE: usize = 200;

/// The commands.
pub const COMMANDS: &[Command] = &[Command {
    name: "announce",
    about: "Send a message to everybody who is online",
    details: "It goes to every session that takes messages, as a headline from its own domain, and \
              is not kept for anybody who is away.",
    args: &[
        Arg { name: "text", about: "What it says", form: Form::Required, kind: ValueKind::Text },
        Arg {
            name: "subject",
            about: "What it is about",
            form: Form::Option,
            kind: ValueKind::Text,
        },
        HOST,
    ],
    mutates: true,
    right: Right::Server,
    scope: Scope::Others,
    fresh: false,
    shape: Shape::Outcome(&[]),
    run: |call| Box::pin(announce(call)),
}];

async fn announce(call: Call) -> Result<Done, CommandError> {
    let text = call.text("text").unwrap_or_default();
    if text.trim().is_empty() {
        return Err(CommandError::usage("there is nothing to say").hint("say it in `text`"));
    }
    let host = host(&call)?;
    let tail = tail(text, call.text("subject"));
    let wanted = |session: &Session| {
        session.takes_messages()
            && session.identity().is_some_and(|me| is_of(&me.jid, host.as_ref()))
    };
    let (mut after, mut told) = (None, 0);
    loop {
        let page = call.server.registry.page_where(after, PAGE, registry::BUDGET, wanted);
        for session in &page.sessions {
            let Some(to) = session.full() else { continue };
            let head = head(to);
            let parcel = Parcel::addressed(Kind::Message, head, to.clone(), tail.clone());
            told += usize::from(call.server.push(session, parcel));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(match told {
        0 => Done::nothing("nobody is online"),
        told => Done::said(format!("told {}", plural(told))),
    }
    .with("told", told))
}

/// All before the receiver's address.
fn head(to: &Jid) -> bytes::Bytes {
    format!("<message type='headline' from='{}' to='", wire::escape(to.domain())).into()
}

/// All behind it; the same for everybody.
fn tail(text: &str, subject: Option<&str>) -> bytes::Bytes {
    let mut xml = Xml::new();
    if let Some(subject) = subject {
        xml.leaf("subject", subject);
    }
    xml.leaf("body", text);
    [b"'>".as_slice(), &xml.finish(), b"</message>"].concat().into()
}
