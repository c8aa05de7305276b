//! The roster: contacts, their names and groups (RFC 6121 section 2), with versions (section 2.6).
//!
//! ```text
//!  iq set, presence ─► plan (pure) ─► commit (durable) ─► book (memory) ─► push, presence
//! ```
//!
//! A roster is read when the first session of its account is bound, and held in memory while any is.
//! What is deliberately absent: contacts shared by an operator, and exchange between rosters.

pub mod book;
pub mod dialogue;
pub mod item;
pub mod plan;
mod push;
pub mod subscription;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use server::{
    events::Change,
    hooks::{AccountDeleted, Flow, Moment},
    iq::Answer,
    mailbox::Parcel,
    plugin::{Iq, Plugin, Setup, Spec, Target},
    session::Flags,
    store::{StoreError, Table},
};
use wire::{Condition, El, Jid, Kind, StanzaError, Xml, ns};

use self::{
    book::{Book, Edit, Roster},
    dialogue::Act,
    item::Item,
};

/// Contacts by account and address; the empty key holds the roster's version.
pub static ROSTER: Table =
    Table { name: "roster", about: "contacts: bare JID to name, groups and subscription" };

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "roster",
    about: "Contact lists",
    specs: &[
        Spec {
            id: "RFC 6121",
            version: "",
            title: "XMPP: Instant Messaging and Presence",
            note: "Roster, versions and pushes (section 2), subscriptions with pre-approval (3), \
                   presence (4), messages (5) and delivery to local accounts (8). Not yet: contacts \
                   on other servers",
        },
        Spec {
            id: "XEP-0237",
            version: "1.3",
            title: "Roster Versioning",
            note: "As taken over by RFC 6121: an unchanged roster is not sent again, a changed one \
                   is sent whole",
        },
    ],
    setup,
};

/// Longest name of a contact or group, in bytes.
const NAME_BYTES: usize = 1023;

/// Most groups of one contact.
const GROUPS: usize = 100;

fn setup(setup: &mut Setup<'_>) {
    setup.table(&ROSTER);
    setup.stream_feature("<ver xmlns='urn:xmpp:features:rosterver'/>");
    setup.stream_feature("<sub xmlns='urn:xmpp:features:pre-approval'/>");
    setup.host_features(&[ns::ROSTER]);
    setup.binding(load);
    setup.account_deleted(part);
    setup.iq(&[Target::Own], (ns::ROSTER, "query"), own);
    setup.iq(&[Target::Account], (ns::ROSTER, "query"), |_| Answer::refuse(Condition::Forbidden));
}

/// Whether somebody may see an account's presence, and so learn more about it than a stranger. Reads
/// the roster if the account is not there; false for accounts that do not exist.
///
/// # Errors
/// When it cannot be read.
pub async fn may_see(iq: &Iq) -> Result<bool, StoreError> {
    let (server, jid) = (&iq.server, &iq.to);
    let Some(account) = server.account(jid.as_str()).await? else { return Ok(false) };
    let roster = Book::open(server, account.id, jid).await?;
    Ok(roster.state(iq.from.bare_str()).from)
}

/// Answers about an account: to itself, and to those who may see it; to strangers it does not exist.
pub fn for_acquaintances(iq: &Iq, answer: fn(&Iq) -> Answer) -> Answer {
    if iq.target == Target::Own {
        return answer(iq);
    }
    let iq = iq.clone();
    Answer::later(async move {
        match may_see(&iq).await {
            Ok(true) => answer(&iq),
            Ok(false) => Answer::refuse(Condition::ServiceUnavailable),
            Err(error) => Answer::Error(dialogue::failed(&error)),
        }
    })
}

/// A session is about to be bound: nothing that needs the roster may come before it is there.
fn load(cx: &Moment) -> Flow {
    let cx = cx.clone();
    Flow::later(async move {
        let Some(identity) = cx.session.identity() else { return Flow::Next };
        match Book::open(&cx.server, identity.account, &identity.jid).await {
            Ok(roster) => {
                roster.hold(&cx.session);
                Flow::Next
            }
            Err(error) => Flow::Reject(dialogue::failed(&error)),
        }
    })
}

/// An account goes: it takes leave of its contacts, so that none of them is left with a subscription
/// that a later account of the same name would find.
fn part(cx: &AccountDeleted) -> Flow {
    let cx = cx.clone();
    Flow::later(async move {
        let roster = match Book::open(&cx.server, cx.account, &cx.jid).await {
            Ok(roster) => roster,
            Err(error) => {
                tracing::error!(event = "roster-storage-failed", %error);
                return Flow::Next;
            }
        };
        for contact in roster.contacts(|_| true) {
            // Shown first, because only what is shown can be removed.
            let act = if roster.item(&contact).is_some_and(|item| item.hidden) {
                let notice = subscription::Notice::Unsubscribed;
                match wire::Frame::parse(format!("<presence type='{}'/>", notice.as_str())) {
                    Ok(frame) => Act::Say(notice, frame),
                    Err(_) => continue,
                }
            } else {
                Act::Remove
            };
            if let Err(error) = dialogue::act(&cx.server, roster.clone(), contact, act).await {
                tracing::warn!(event = "contact-not-parted", error = error.condition.as_str());
            }
        }
        Flow::Next
    })
}

fn own(iq: &Iq) -> Answer {
    let Some(roster) = Roster::of(&iq.session) else {
        return Answer::refuse(Condition::InternalServerError);
    };
    if iq.set {
        return match Wish::parse(iq, &roster) {
            Ok(wish) => {
                let iq = iq.clone();
                Answer::later(async move { wish.fulfil(&iq, roster).await })
            }
            Err(error) => Answer::Error(error),
        };
    }
    if let Ok(_gate) = roster.gate.try_lock() {
        return get(iq, &roster);
    }
    let iq = iq.clone();
    Answer::later(async move {
        let _gate = roster.gate.lock().await;
        get(&iq, &roster)
    })
}

/// Answers with the roster. The caller holds the gate, so that no push about a change that is not in
/// the answer comes before it.
fn get(iq: &Iq, roster: &Roster) -> Answer {
    if !iq.session.flags().has(Flags::INTERESTED) {
        iq.server.registry.set_interested(&iq.session);
        iq.server.events.publish(&iq.session, Change::Interested);
    }
    let known = iq.frame.payload().and_then(|query| query.el.attr("ver"));
    let mut xml = Xml::new();
    if known.as_deref() != Some(push::version_text(roster.version()).as_str()) {
        let (items, version) = roster.listed();
        push::open_query(&mut xml, version);
        for (jid, item) in &items {
            item.write(jid, &mut xml);
        }
    }
    iq.server.push(&iq.session, Parcel::whole(Kind::Iq, iq.result(&xml.finish())));
    Answer::Sent
}

/// What a client asks for in a roster set. Its `subscription` (but for `remove`), `ask` and
/// `approved` are not a client's to set, and are not looked at.
enum Wish {
    Remove(Jid),
    Set { contact: Jid, name: Option<Box<str>>, groups: Box<[Box<str>]> },
}

impl Wish {
    fn parse(iq: &Iq, roster: &Roster) -> Result<Self, StanzaError> {
        let bad = |text: &'static str| StanzaError::new(Condition::BadRequest).with_text(text);
        let query = iq.frame.payload().ok_or_else(|| bad("A query is needed"))?;
        let mut items = query.el.children();
        let (item, more) = (items.next(), items.next());
        let item = item.filter(|item| more.is_none() && item.is("item", ns::ROSTER));
        let item = item.ok_or_else(|| bad("A roster set has exactly one item"))?;
        let jid = item.attr("jid").ok_or_else(|| bad("An item has a `jid`"))?;
        let contact = Jid::parse(&jid).map_err(|why| {
            let text = format!("The item's `jid` is not valid: {why}");
            StanzaError::new(Condition::JidMalformed).with_text(text)
        })?;
        let contact = contact.bare();
        if item.attr("subscription").as_deref() == Some("remove") {
            return Ok(Self::Remove(contact));
        }
        if contact == roster.jid {
            let text = "An account is not in its own roster";
            return Err(StanzaError::new(Condition::NotAllowed).with_text(text));
        }
        let name = item.attr("name").filter(|name| !name.is_empty());
        if name.as_ref().is_some_and(|name| name.len() > NAME_BYTES) {
            return Err(
                StanzaError::new(Condition::NotAcceptable).with_text("The name is too long")
            );
        }
        let name = name.map(|name| name.as_ref().into());
        Ok(Self::Set { contact, name, groups: groups(item)? })
    }

    async fn fulfil(self, iq: &Iq, roster: Arc<Roster>) -> Answer {
        let server = &iq.server;
        let done = match self {
            Self::Remove(contact) => dialogue::act(server, roster, contact, Act::Remove).await,
            Self::Set { contact, name, groups } => {
                let server = server.clone();
                let work = async move {
                    let _gate = roster.gate.lock().await;
                    for _ in 0..5 {
                        let before = roster.item(&contact);
                        if before.as_ref().is_none_or(|item| item.hidden) {
                            dialogue::room(&server, &roster)?;
                        }
                        let (name, groups) = (name.clone(), groups.clone());
                        let item = before.clone().unwrap_or_default();
                        let after = Some(Item { name, groups, hidden: false, ..item });
                        let (before, after) = (before.as_ref(), after.as_ref());
                        let edit = Edit { roster: &roster, contact: &contact, before, after };
                        match book::commit(&server, &[edit]).await {
                            Ok(()) => {
                                push::push(&server, &roster, &contact, after);
                                return Ok(());
                            }
                            Err(StoreError::Conflict) => {}
                            Err(error) => return Err(dialogue::failed(&error)),
                        }
                    }
                    Err(dialogue::failed(&StoreError::Conflict))
                };
                dialogue::detached(&iq.server, work).await
            }
        };
        done.map_or_else(Answer::Error, |()| Answer::done())
    }
}

/// The groups of an item: named, and each once (RFC 6121 section 2.3.3).
fn groups(item: El<'_>) -> Result<Box<[Box<str>]>, StanzaError> {
    let unfit =
        |text: &'static str| Err(StanzaError::new(Condition::NotAcceptable).with_text(text));
    let mut seen = BTreeSet::new();
    let mut groups: Vec<Box<str>> = Vec::new();
    for group in item.children().filter(|child| child.is("group", ns::ROSTER)) {
        let name = group.text();
        if name.is_empty() {
            return unfit("A group has a name");
        }
        if name.len() > NAME_BYTES {
            return unfit("The group's name is too long");
        }
        let name: Box<str> = name.into();
        if !seen.insert(name.clone()) {
            let text = "The item names a group twice";
            return Err(StanzaError::new(Condition::BadRequest).with_text(text));
        }
        groups.push(name);
        if groups.len() > GROUPS {
            return unfit("The item has too many groups");
        }
    }
    Ok(groups.into())
}
