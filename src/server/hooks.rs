//! Where features attach to the server: typed chains of handlers, run in the plugins' order.
//!
//! Synchronous first: a handler that has its answer at hand returns it and no future is made. One
//! that must wait returns [`Flow::Later`]; the session that caused it is not read from until then,
//! which keeps order and gives back-pressure.

use std::{future::Future, pin::Pin, sync::Arc};

use wire::{Frame, Jid, StanzaError};

use crate::{
    Server, Session, end::EndRecord, id::AccountId, journal::Flight, mailbox::Parcel, registry::Few,
};

/// A future that owns all it needs.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// What a handler decided.
pub enum Flow {
    /// Handled; nobody after this one sees it.
    Done,
    /// Not decided yet: wait for this.
    Later(Later<Flow>),
    /// Not mine, or looked at only: the next one in the chain.
    Next,
    /// Refused: the sender gets this error, and nobody after this one sees it.
    Reject(StanzaError),
}

impl Flow {
    /// A flow that is decided by a future.
    pub fn later(future: impl Future<Output = Self> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    /// Waits until it is decided; never `Later`.
    pub async fn decided(mut self) -> Self {
        while let Self::Later(future) = self {
            self = future.await;
        }
        self
    }
}

/// One handler of a chain, and the plugin it belongs to.
struct Hook<T> {
    plugin: &'static str,
    call: Box<dyn Fn(&T) -> Flow + Send + Sync>,
}

/// Handlers for one kind of moment.
pub struct Chain<T> {
    hooks: Arc<Vec<Hook<T>>>,
}

impl<T> Default for Chain<T> {
    fn default() -> Self {
        Self { hooks: Arc::new(Vec::new()) }
    }
}

impl<T: Clone + Send + Sync + 'static> Chain<T> {
    pub(crate) fn add(
        &mut self,
        plugin: &'static str,
        call: impl Fn(&T) -> Flow + Send + Sync + 'static,
    ) {
        // Only ever called while the server is put together, when nobody shares the list yet.
        if let Some(hooks) = Arc::get_mut(&mut self.hooks) {
            hooks.push(Hook { plugin, call: Box::new(call) });
        }
    }

    /// Names of the plugins in the order they are asked.
    pub fn plugins(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.hooks.iter().map(|hook| hook.plugin)
    }

    /// Asks one after the other until somebody decides. `Next` means that nobody did.
    pub fn run(&self, cx: &T) -> Flow {
        Self::run_from(&self.hooks, 0, cx)
    }

    /// Tells all of them, whatever each decides. Some future if any of them has to be waited for.
    pub fn tell(&self, cx: &T) -> Option<Later<()>> {
        let mut waits = Vec::new();
        for hook in self.hooks.iter() {
            if let flow @ Flow::Later(_) = (hook.call)(cx) {
                waits.push(flow);
            }
        }
        if waits.is_empty() {
            return None;
        }
        Some(Box::pin(async move {
            for flow in waits {
                flow.decided().await;
            }
        }))
    }

    fn run_from(hooks: &Arc<Vec<Hook<T>>>, start: usize, cx: &T) -> Flow {
        for (index, hook) in hooks.iter().enumerate().skip(start) {
            match (hook.call)(cx) {
                Flow::Next => {}
                Flow::Later(future) => {
                    let (hooks, cx) = (Arc::clone(hooks), cx.clone());
                    return Flow::later(async move {
                        match Flow::Later(future).decided().await {
                            Flow::Next => Self::run_from(&hooks, index + 1, &cx),
                            decided => decided,
                        }
                    });
                }
                decided => return decided,
            }
        }
        Flow::Next
    }
}

/// A stanza that a bound session sent; `inbound` chain, before anything is done with it.
#[derive(Clone)]
pub struct Inbound {
    /// The server.
    pub server: Arc<Server>,
    /// Who sent it.
    pub session: Arc<Session>,
    /// Its full JID.
    pub from: Jid,
    /// Parsed `to`, if it has one.
    pub to: Option<Jid>,
    /// The stanza as sent, without elements that only a server may add.
    pub frame: Frame,
    /// `xml:lang` of its stream, for stanzas that carry none.
    pub lang: Option<Arc<str>>,
}

/// A message on its way to sessions of a local account; `deliver` chain. `undelivered` chain: no
/// session could take it.
#[derive(Clone)]
pub struct Delivery {
    /// The server.
    pub server: Arc<Server>,
    /// The true sender.
    pub from: Jid,
    /// The receiver as addressed, a local bare or full JID.
    pub to: Jid,
    /// The session it came from; none for one that the server re-routes or makes.
    pub origin: Option<Arc<Session>>,
    /// The message; its `from` is not stamped yet.
    pub frame: Frame,
    /// `xml:lang` of the sender's stream, for stanzas that carry none.
    pub lang: Option<Arc<str>>,
    /// Its copy on disk, as long as it is on its way.
    pub(crate) flight: Option<Arc<Flight>>,
}

/// Which way a message goes, seen from an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To it.
    Received,
    /// From it.
    Sent,
}

/// A message of which sessions of an account are to have copies; `copies` chain. Whatever a handler
/// returns, all are asked.
#[derive(Clone)]
pub struct Copies {
    /// The message.
    pub delivery: Delivery,
    /// Which way it goes, seen from the account.
    pub direction: Direction,
    /// The account's sessions that have the message itself: the one that has sent it, or those that
    /// it was handed to.
    pub holders: Few,
    /// The account's other sessions that have turned carbons on; at least one.
    pub receivers: Few,
    /// What the holders were handed, if a copy may stand for it.
    pub(crate) original: Option<Parcel>,
}

/// A stanza on its way into a session's mailbox; `outbound` chain, asked only while the session has
/// [`Feature::Outbound`](crate::session::Feature::Outbound). `Done`: it is taken care of; else it
/// goes on at once, `Later` included.
#[derive(Clone)]
pub struct Outbound {
    /// The server.
    pub server: Arc<Server>,
    /// Whose mailbox.
    pub session: Arc<Session>,
    /// The stanza. Not to be kept if it is a message or an IQ.
    pub parcel: Parcel,
}

/// A moment in the life of a session: `binding`, `available`, `resumed` chains.
#[derive(Clone)]
pub struct Moment {
    /// The server.
    pub server: Arc<Server>,
    /// Whose.
    pub session: Arc<Session>,
}

/// A session has just left the registry; `ended` chain. Whatever a handler returns, all are asked.
#[derive(Clone)]
pub struct Ended {
    /// The server.
    pub server: Arc<Server>,
    /// Which.
    pub session: Arc<Session>,
    /// Why.
    pub record: Arc<EndRecord>,
}

/// An account is about to be deleted; `account_deleted` chain, before its rows go. Whatever a
/// handler returns, all are asked.
#[derive(Clone)]
pub struct AccountDeleted {
    /// The server.
    pub server: Arc<Server>,
    /// Whose.
    pub account: AccountId,
    /// Its bare JID.
    pub jid: Jid,
}

/// All chains of a server.
#[derive(Default)]
pub struct Hooks {
    /// An account is about to be deleted.
    pub account_deleted: Chain<AccountDeleted>,
    /// A session has become available with a non-negative priority, having not been so before.
    pub available: Chain<Moment>,
    /// A session is about to be bound: load what it needs. `Reject` refuses the bind.
    pub binding: Chain<Moment>,
    /// Sessions are to have copies of a message.
    pub copies: Chain<Copies>,
    /// A message is on its way to the sessions of a local account (archive, push).
    pub deliver: Chain<Delivery>,
    /// A session has ended.
    pub ended: Chain<Ended>,
    /// A bound session sent a stanza.
    pub inbound: Chain<Inbound>,
    /// A stanza is about to enter the mailbox of a session that has asked for this.
    pub outbound: Chain<Outbound>,
    /// A session goes on over another connection. Whatever a handler returns, all are asked.
    pub resumed: Chain<Moment>,
    /// A message found no session that may take it. `Done`: it is kept; else the sender is told.
    pub undelivered: Chain<Delivery>,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Clone)]
    struct Cx(Arc<AtomicU32>);

    fn chain(calls: Vec<fn(&Cx) -> Flow>) -> Chain<Cx> {
        let mut chain = Chain::default();
        for call in calls {
            chain.add("test", call);
        }
        chain
    }

    fn note(cx: &Cx, digit: u32) {
        let before = cx.0.load(Ordering::SeqCst);
        cx.0.store(before * 10 + digit, Ordering::SeqCst);
    }

    #[tokio::test]
    async fn goes_on_behind_a_handler_that_had_to_wait() {
        let chain = chain(vec![
            |cx| {
                note(cx, 1);
                Flow::Next
            },
            |cx| {
                let cx = cx.clone();
                Flow::later(async move {
                    note(&cx, 2);
                    Flow::later(async { Flow::Next })
                })
            },
            |cx| {
                note(cx, 3);
                Flow::Done
            },
            |cx| {
                note(cx, 4);
                Flow::Done
            },
        ]);
        let cx = Cx(Arc::default());
        assert!(matches!(chain.run(&cx).decided().await, Flow::Done));
        assert_eq!(cx.0.load(Ordering::SeqCst), 123, "each once, in order, none after Done");
    }

    #[tokio::test]
    async fn all_are_told_even_behind_one_that_decides_or_waits() {
        let chain = chain(vec![
            |cx| {
                note(cx, 1);
                Flow::Done
            },
            |cx| {
                let cx = cx.clone();
                Flow::later(async move {
                    note(&cx, 3);
                    Flow::Done
                })
            },
            |cx| {
                note(cx, 2);
                Flow::Next
            },
        ]);
        let cx = Cx(Arc::default());
        chain.tell(&cx).expect("one has to be waited for").await;
        assert_eq!(cx.0.load(Ordering::SeqCst), 123);
    }

    #[test]
    fn nobody_decides() {
        assert!(matches!(chain(vec![|_| Flow::Next]).run(&Cx(Arc::default())), Flow::Next));
    }
}
