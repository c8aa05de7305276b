//! What a plugin is: a name, the specifications it implements, and one function that registers
//! everything. The list of plugins is data (the crate `plugins`); the server, the protocol table of
//! the documentation and `usher plugin list` are all derived from it.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use wire::{El, Frame, Jid};

use crate::{
    Server, Session,
    config::Config,
    hooks::{AccountDeleted, Copies, Delivery, Ended, Flow, Hooks, Inbound, Moment, Outbound},
    iq::Answer,
    store::Table,
};

/// The declaration of a plugin.
#[derive(Clone, Copy)]
pub struct Plugin {
    /// Unique, lower case, as in `roster`.
    pub name: &'static str,
    /// One line for the operator.
    pub about: &'static str,
    /// What it implements, for the documentation.
    pub specs: &'static [Spec],
    /// Registers everything.
    pub setup: fn(&mut Setup<'_>),
}

/// One specification that a plugin (or the core) implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// `RFC 6121`, `XEP-0199`.
    pub id: &'static str,
    /// The version read when it was implemented; empty for RFCs.
    pub version: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What is there and what is not.
    pub note: &'static str,
}

/// At whom an IQ is aimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The sender's own account: no `to`, or the own bare JID.
    Own,
    /// Another local account's bare JID.
    Account,
    /// A domain that is served here.
    Host,
}

/// An IQ get or set that the server itself has to answer.
#[derive(Clone)]
pub struct Iq {
    /// The server.
    pub server: Arc<Server>,
    /// Who asks.
    pub session: Arc<Session>,
    /// Its full JID.
    pub from: Jid,
    /// Who is asked: an account's bare JID or a domain.
    pub to: Jid,
    /// At whom it is aimed.
    pub target: Target,
    /// `set` rather than `get`.
    pub set: bool,
    /// The stanza.
    pub frame: Frame,
}

/// Answers IQs with one payload.
pub(crate) type IqHandler = Box<dyn Fn(&Iq) -> Answer + Send + Sync>;

/// The payload of an IQ: namespace and local name.
pub(crate) type Payload = (&'static str, &'static str);

impl Registrations {
    /// Turns on what a request to bind (XEP-0386) asks for with it, and gives what there is to say to
    /// that: whole elements.
    pub(crate) fn enable_inline(&self, moment: &Moment, request: &Frame) -> Bytes {
        let mut said = Vec::new();
        let root = request.root();
        let Some(bind) = root.child("bind", wire::ns::BIND2) else { return Bytes::new() };
        for el in bind.children() {
            let ns = el.ns();
            for inline in self.inline.iter().filter(|i| i.namespace == ns && i.local == el.local())
            {
                said.extend_from_slice(&inline.call(moment, &el).unwrap_or_default());
            }
        }
        said.into()
    }
}

/// What a plugin keeps about a session while the server does not run.
pub struct Kept {
    /// The plugin.
    pub(crate) name: &'static str,
    /// As text; none: nothing that has to be kept.
    pub(crate) save: fn(&Moment) -> Option<String>,
    /// From that text.
    pub(crate) restore: fn(&Moment, &str),
}

/// Turns something on for a session that has just been bound, and may have something to tell it.
pub(crate) type InlineHandler = Box<dyn Fn(&Moment, &El<'_>) -> Option<Bytes> + Send + Sync>;

/// An element that a client may put into a request to bind (XEP-0386 section 4), so that something
/// is on from the first moment.
pub struct Inline {
    /// The feature under which it is announced; several elements may share one.
    pub var: &'static str,
    /// The element's namespace.
    pub namespace: &'static str,
    /// The element's local name.
    pub local: &'static str,
    handler: InlineHandler,
}

impl Inline {
    /// To be called right after the bind, with the client's element. What it gives is one or more
    /// whole elements, for the answer to the bind.
    #[must_use]
    pub fn call(&self, moment: &Moment, el: &El<'_>) -> Option<Bytes> {
        (self.handler)(moment, el)
    }
}

/// Deals with an element of a bound session that is no stanza.
pub(crate) type NonzaHandler = Box<dyn Fn(&Moment, &El<'_>) + Send + Sync>;

/// A first-level element that is no stanza and that a client may send once it is bound. There is no
/// answer to it.
pub struct Nonza {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its local name.
    pub local: &'static str,
    handler: NonzaHandler,
}

impl Nonza {
    /// To be called before anything else that the session has sent is looked at.
    pub fn call(&self, moment: &Moment, el: &El<'_>) {
        (self.handler)(moment, el);
    }
}

/// What plugins have registered, apart from their hooks.
#[derive(Default)]
pub struct Registrations {
    pub(crate) iq: HashMap<(Target, &'static str, &'static str), IqHandler>,
    pub(crate) tables: Vec<&'static Table>,
    pub(crate) kept: Vec<Kept>,
    /// Elements that a request to bind may contain, in the plugins' order.
    pub inline: Vec<Inline>,
    /// Elements that are no stanzas and that bound sessions may send.
    pub nonzas: Vec<Nonza>,
    /// Service-discovery features of hosts, sorted, each once.
    pub host_features: Vec<&'static str>,
    /// Service-discovery features of accounts, sorted, each once.
    pub account_features: Vec<&'static str>,
    /// XML of features that are announced once a client has logged in.
    pub stream_features: Vec<Arc<str>>,
}

/// Through which a plugin registers what it does.
pub struct Setup<'a> {
    pub(crate) plugin: &'static str,
    pub(crate) hooks: &'a mut Hooks,
    pub(crate) registrations: &'a mut Registrations,
    /// The configuration in force.
    pub config: &'a Config,
}

macro_rules! chains {
    ($($(#[$doc:meta])* $name:ident: $cx:ty;)*) => {
        impl Setup<'_> {
            $($(#[$doc])*
            pub fn $name(&mut self, call: impl Fn(&$cx) -> Flow + Send + Sync + 'static) {
                self.hooks.$name.add(self.plugin, call);
            })*
        }
    };
}

chains! {
    /// Is asked before an account's rows go.
    account_deleted: AccountDeleted;
    /// Is asked when a session begins to take messages.
    available: Moment;
    /// Is asked before a session is bound.
    binding: Moment;
    /// Is asked when sessions are to have copies of a message.
    copies: Copies;
    /// Is asked when a message is on its way to the sessions of a local account.
    deliver: Delivery;
    /// Is asked when a session has ended.
    ended: Ended;
    /// Is asked about each stanza of a bound session.
    inbound: Inbound;
    /// Is asked about what sessions with [`Feature::Outbound`](crate::session::Feature) are sent.
    outbound: Outbound;
    /// Is asked when a session goes on over another connection.
    resumed: Moment;
    /// Is asked about messages that no session could take.
    undelivered: Delivery;
}

impl Setup<'_> {
    /// What has been registered so far, by this plugin and those before it.
    #[must_use]
    pub fn registered(&self) -> &Registrations {
        self.registrations
    }

    /// Answers IQ gets and sets whose payload is `local` in `namespace`, for each of the targets.
    pub fn iq(
        &mut self,
        targets: &[Target],
        (namespace, local): Payload,
        handler: impl Fn(&Iq) -> Answer + Send + Sync + Clone + 'static,
    ) {
        for target in targets {
            let key = (*target, namespace, local);
            let before = self.registrations.iq.insert(key, Box::new(handler.clone()));
            debug_assert!(before.is_none(), "two plugins answer <{local} xmlns='{namespace}'/>");
        }
    }

    /// Keeps something about sessions that are resumed after the server was stopped and started. What
    /// comes back was written by `save`, perhaps of another release.
    pub fn keep(&mut self, save: fn(&Moment) -> Option<String>, restore: fn(&Moment, &str)) {
        self.registrations.kept.push(Kept { name: self.plugin, save, restore });
    }

    /// Lets clients put `local` in `namespace` into a request to bind, announced as the feature `var`.
    /// The handler is called once the session is bound.
    pub fn inline(
        &mut self,
        var: &'static str,
        (namespace, local): Payload,
        handler: impl Fn(&Moment, &El<'_>) -> Option<Bytes> + Send + Sync + 'static,
    ) {
        let handler = Box::new(handler);
        self.registrations.inline.push(Inline { var, namespace, local, handler });
    }

    /// Takes first-level elements `local` in `namespace` from bound sessions, though they are no
    /// stanzas.
    pub fn nonza(
        &mut self,
        (namespace, local): Payload,
        handler: impl Fn(&Moment, &El<'_>) + Send + Sync + 'static,
    ) {
        let handler = Box::new(handler);
        self.registrations.nonzas.push(Nonza { namespace, local, handler });
    }

    /// Announces features of the served domains.
    pub fn host_features(&mut self, features: &[&'static str]) {
        insert(&mut self.registrations.host_features, features);
    }

    /// Announces features of accounts.
    pub fn account_features(&mut self, features: &[&'static str]) {
        insert(&mut self.registrations.account_features, features);
    }

    /// Announces a stream feature to clients that have logged in; `xml` is one whole element.
    pub fn stream_feature(&mut self, xml: &str) {
        self.registrations.stream_features.push(xml.into());
    }

    /// Declares a table. Its rows of an account go when the account goes.
    pub fn table(&mut self, table: &'static Table) {
        self.registrations.tables.push(table);
    }
}

fn insert(sorted: &mut Vec<&'static str>, features: &[&'static str]) {
    sorted.extend(features);
    sorted.sort_unstable();
    sorted.dedup();
}
