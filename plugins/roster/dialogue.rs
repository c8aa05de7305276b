//! Carrying out what one account says to another about subscriptions (RFC 6121 section 3): read both
//! rosters, plan, make durable, and only then tell clients and contacts.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use server::{Server, mailbox::Parcel, session::Flags, store::StoreError};
use tokio::sync::{MutexGuard, oneshot};
use wire::{Condition, Frame, Jid, Kind, Stamp, StanzaError, Xml};

use super::{
    book::{self, Book, Edit, Roster},
    plan::{Contact, Plan, Side, Step},
    push,
    subscription::Notice,
};
use crate::presence;

/// The longest request that is kept whole, in bytes; a longer one is kept without what the client
/// put into it.
const REQUEST_BYTES: usize = 8192;

/// How often a change is tried again when somebody else changes the same rows.
const TRIES: usize = 5;

/// What an account does.
#[derive(Clone)]
pub enum Act {
    /// Removes a contact from its roster.
    Remove,
    /// Sends a subscription stanza; the frame is as the client sent it.
    Say(Notice, Frame),
}

/// Does it. The work goes on to its end even if the one who waits for it goes away, so that what is
/// in memory never falls behind what is stored.
///
/// # Errors
/// What the client is told: storage failed, the roster is full, or there is nothing to remove.
pub async fn act(
    server: &Arc<Server>,
    roster: Arc<Roster>,
    contact: Jid,
    act: Act,
) -> Result<(), StanzaError> {
    let work = {
        let server = server.clone();
        async move { Dialogue { server, mine: roster, contact }.run(&act).await }
    };
    detached(server, work).await
}

/// Work on rosters that is not to be broken off half-way.
///
/// # Errors
/// Those of the work; `internal-server-error` if it did not come to its end.
pub async fn detached<T: Send + 'static>(
    server: &Server,
    work: impl Future<Output = Result<T, StanzaError>> + Send + 'static,
) -> Result<T, StanzaError> {
    let (sender, receiver) = oneshot::channel();
    server.spawn(async move {
        // Nobody waits any more: done is done all the same.
        let _ = sender.send(work.await);
    });
    let lost = |_| Err(StanzaError::new(Condition::InternalServerError));
    receiver.await.unwrap_or_else(lost)
}

/// Storage failed.
pub fn failed(error: &StoreError) -> StanzaError {
    tracing::error!(event = "roster-storage-failed", %error);
    StanzaError::new(Condition::InternalServerError).with_text("The roster could not be stored")
}

struct Dialogue {
    server: Arc<Server>,
    mine: Arc<Roster>,
    contact: Jid,
}

impl Dialogue {
    async fn run(&self, act: &Act) -> Result<(), StanzaError> {
        let (contact, theirs) = self.other().await.map_err(|error| failed(&error))?;
        let theirs = theirs.as_deref();
        let _gates = gates(&self.mine, theirs).await;
        for _ in 0..TRIES {
            match self.change(act, contact, theirs).await? {
                Some(plan) => {
                    self.tell(act, &plan, theirs);
                    return Ok(());
                }
                None => tracing::debug!(event = "roster-conflict", jid = self.mine.jid.as_str()),
            }
        }
        Err(failed(&StoreError::Conflict))
    }

    /// Who the contact is, and its roster if it has one here.
    async fn other(&self) -> Result<(Contact, Option<Arc<Roster>>), StoreError> {
        if !self.server.is_local(self.contact.domain()) {
            return Ok((Contact::Elsewhere, None));
        }
        match self.server.account(self.contact.as_str()).await? {
            Some(account) => {
                let theirs = Book::open(&self.server, account.id, &self.contact).await?;
                let hidden = theirs.counts().1;
                let room = self.server.config.storage_limits.roster_items.saturating_sub(hidden);
                Ok((Contact::Here(room), Some(theirs)))
            }
            None => Ok((Contact::Nobody, None)),
        }
    }

    /// Plans and stores. None: somebody else came first, and the rosters were read again.
    async fn change(
        &self,
        act: &Act,
        contact: Contact,
        theirs: Option<&Roster>,
    ) -> Result<Option<Plan>, StanzaError> {
        let me = &self.mine.jid;
        let item = self.mine.item(&self.contact);
        let other = theirs.and_then(|theirs| theirs.item(me));
        let request = match act {
            Act::Say(Notice::Subscribe, _) => self.stanza(act, Notice::Subscribe, REQUEST_BYTES),
            _ => Bytes::new(),
        };
        let request = String::from_utf8_lossy(&request).into_owned();
        let plan = Plan::new(item.clone(), other.clone(), contact, request);
        let plan = match act {
            Act::Remove if item.as_ref().is_none_or(|item| item.hidden) => {
                return Err(StanzaError::new(Condition::ItemNotFound));
            }
            Act::Remove => plan.removes(),
            Act::Say(notice, _) => plan.says(*notice),
        };
        if item.as_ref().is_none_or(|item| item.hidden)
            && plan.mine.as_ref().is_some_and(|item| !item.hidden)
        {
            room(&self.server, &self.mine)?;
        }
        let mut edits = Vec::new();
        let sides = [
            (Some(&*self.mine), &self.contact, &item, &plan.mine),
            (theirs, me, &other, &plan.theirs),
        ];
        for (roster, contact, before, after) in sides {
            if let Some(roster) = roster.filter(|_| before != after) {
                let (before, after) = (before.as_ref(), after.as_ref());
                edits.push(Edit { roster, contact, before, after });
            }
        }
        if edits.is_empty() {
            return Ok(Some(plan));
        }
        match book::commit(&self.server, &edits).await {
            Ok(()) => Ok(Some(plan)),
            Err(StoreError::Conflict) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    fn tell(&self, act: &Act, plan: &Plan, theirs: Option<&Roster>) {
        let server = &self.server;
        let (me, you) = (&self.mine.jid, &self.contact);
        for step in &plan.steps {
            match step {
                Step::Push(Side::Mine, item) => push::push(server, &self.mine, you, item.as_ref()),
                Step::Push(Side::Theirs, item) => {
                    if let Some(theirs) = theirs {
                        push::push(server, theirs, me, item.as_ref());
                    }
                }
                Step::Deliver(Side::Mine, notice) => {
                    deliver(server, me, *notice, plain(*notice, you, me));
                }
                Step::Deliver(Side::Theirs, notice) => {
                    deliver(server, you, *notice, self.stanza(act, *notice, usize::MAX));
                }
                Step::Show(Side::Mine) => presence::show(server, me, you),
                Step::Show(Side::Theirs) => presence::show(server, you, me),
                Step::Hide(Side::Mine) => presence::hide(server, me, you),
                Step::Hide(Side::Theirs) => presence::hide(server, you, me),
            }
        }
    }

    /// The stanza for the contact: the client's own, between bare addresses (RFC 6121 section
    /// 3.1.2), or a plain one if it sent none or it is longer than `most`.
    fn stanza(&self, act: &Act, notice: Notice, most: usize) -> Bytes {
        let (from, to) = (&self.mine.jid, &self.contact);
        match act {
            Act::Say(said, frame) if *said == notice && frame.bytes().len() <= most => {
                let (from, to) = (Some(from.as_str()), Some(to.as_str()));
                let (head, tail) = frame.restamp(Stamp { from, to, lang: None });
                [head, tail].concat().into()
            }
            _ => plain(notice, from, to),
        }
    }
}

/// Refuses to let a roster grow beyond its limit.
///
/// # Errors
/// `policy-violation`.
pub fn room(server: &Server, roster: &Roster) -> Result<(), StanzaError> {
    let most = server.config.storage_limits.roster_items;
    if roster.counts().0 < most {
        return Ok(());
    }
    let text = format!("A roster here holds at most {most} contacts");
    Err(StanzaError::new(Condition::PolicyViolation).with_text(text))
}

/// Takes the gates of one or two rosters, always in the same order.
async fn gates<'a>(mine: &'a Roster, theirs: Option<&'a Roster>) -> Vec<MutexGuard<'a, ()>> {
    let mut rosters: Vec<_> = theirs.into_iter().chain([mine]).collect();
    rosters.sort_by_key(|roster| roster.account);
    rosters.dedup_by_key(|roster| roster.account);
    let mut gates = Vec::with_capacity(rosters.len());
    for roster in rosters {
        gates.push(roster.gate.lock().await);
    }
    gates
}

/// A subscription stanza with nothing in it.
fn plain(notice: Notice, from: &Jid, to: &Jid) -> Bytes {
    let mut xml = Xml::new();
    xml.open("presence").attr("type", notice.as_str());
    xml.attr("from", from.as_str()).attr("to", to.as_str());
    xml.finish()
}

/// A request goes to the sessions that may show it to somebody, the rest to those that keep a roster
/// (RFC 6121 sections 3.1.3, 3.1.6, 3.2.3, 3.3.3).
fn deliver(server: &Arc<Server>, to: &Jid, notice: Notice, xml: Bytes) {
    let wanted = match notice {
        Notice::Subscribe => Flags::AVAILABLE,
        Notice::Subscribed | Notice::Unsubscribe | Notice::Unsubscribed => Flags::INTERESTED,
    };
    for session in server.registry.bound(to.as_str()) {
        if session.flags().has(wanted) {
            server.push(&session, Parcel::whole(Kind::Presence, xml.clone()));
        }
    }
}
