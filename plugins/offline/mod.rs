//! Messages for accounts that are not there (XEP-0160), marked with when they came (XEP-0203).
//!
//! A message is on stable storage before its sender is done with. It is taken out of storage only
//! once the connection of the session that gets it has taken it over (with stream management: once
//! its client has acknowledged it), or the session has ended and what it had not taken over has come
//! back; a server that is killed in between delivers it once
//! more. So: never lost, and twice only after a crash; and not even then once the client has heard
//! an answer to anything that it sent after its presence, for that waits until they are out.
//!
//! One task per account hands messages out, so that two sessions that become available at the same
//! moment never both get them, and it never queues more than half of what a mailbox holds.

mod quota;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use server::{
    Server, Session,
    clock::Millis,
    hooks::{Delivery, Flow, Moment},
    id::{AccountId, SessionId},
    journal::worth_keeping,
    mailbox::Parcel,
    plugin::{Plugin, Setup, Spec},
    store::{Batch, Range, Row, StoreError, Table},
};
use tokio::sync::oneshot;
use wire::{Condition, Frame, Jid, Kind, StanzaError, Xml, ns};

/// Messages by account, in the order in which they came.
pub static OFFLINE: Table =
    Table { name: "offline", about: "messages for accounts that are not there, by time" };

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "offline",
    about: "Keeps messages for accounts that are not there",
    specs: &[
        Spec {
            id: "XEP-0160",
            version: "1.0.1",
            title: "Best Practices for Handling Offline Messages",
            note: "Chat and normal messages with a body",
        },
        Spec {
            id: "XEP-0203",
            version: "2.0",
            title: "Delayed Delivery",
            note: "On offline messages",
        },
        Spec {
            id: "XEP-0334",
            version: "1.0.0",
            title: "Message Processing Hints",
            note: "`no-store`, `store`, and `no-copy` for carbons",
        },
    ],
    setup,
};

/// Rows read at a time.
const PAGE: usize = 64;

fn setup(setup: &mut Setup<'_>) {
    setup.table(&OFFLINE);
    setup.table(&quota::USAGE);
    setup.host_features(&["msgoffline"]);
    setup.undelivered(keep);
    setup.binding(find_left);
    setup.available(hand_out);
    setup.keep(save, restore);
    setup.resumed(hand_out_left);
}

/// A message as stored.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// When it came.
    at: Millis,
    /// The stanza, with its true sender.
    stanza: String,
}

/// Somebody of an account is there: what was on its way to it when the server died is kept
/// like what came while nobody was there, in its place in the order of time.
fn find_left(cx: &Moment) -> Flow {
    // One that was here before the server stopped has not come yet: it may say what it has.
    let Some(me) = cx.session.identity().filter(|_| cx.session.connected()) else {
        return Flow::Next;
    };
    let left = cx.server.left_behind(me.account);
    if left.is_empty() {
        return Flow::Next;
    }
    let server = cx.server.clone();
    Flow::later(async move {
        let desk = server.slot::<Desk>();
        let (mut batch, mut bytes) = (Batch::new(), 0);
        for one in &left {
            let kept = Kept { at: one.at, stanza: one.stanza.clone() };
            let value = serde_json::to_vec(&kept).unwrap_or_default();
            bytes += value.len();
            let key = one.stamp.to_be_bytes().to_vec();
            batch = one.remove(batch).put(&OFFLINE, me.account.0, key, value);
        }
        // They were accepted already: no quota turns them away now.
        let more = |usage: quota::Usage| Some(usage.with(left.len(), bytes));
        match desk.lanes.commit(&server, me.account, batch, more).await {
            Ok(_) => Flow::Next,
            Err(error) => {
                tracing::error!(event = "offline-storage-failed", %error);
                server.still_behind(me.account, left);
                Flow::Reject(StanzaError::new(Condition::InternalServerError))
            }
        }
    })
}

/// A session that was here before the server stopped has its client again: what was on its way to it
/// when the server died is not in its mailbox.
fn hand_out_left(cx: &Moment) -> Flow {
    let found = find_left(cx);
    let Flow::Later(_) = found else { return found };
    let cx = cx.clone();
    Flow::later(async move {
        found.decided().await;
        if takes(&cx.session) {
            hand_out(&cx).decided().await;
        }
        Flow::Next
    })
}

/// Messages on their way out of storage.
#[derive(Default)]
struct Desk {
    lanes: quota::Lanes,
    busy: Mutex<HashMap<AccountId, Rounds>>,
}

/// The state of an account whose messages are being handed out.
#[derive(Default)]
struct Rounds {
    /// There may be more by now: go round once more.
    again: bool,
    /// Handed to a session, and not deleted yet.
    out: Vec<Out>,
    /// Which session that is.
    to: Option<SessionId>,
}

/// A message that was handed to a session.
#[derive(Clone, Serialize, Deserialize)]
struct Out {
    key: Vec<u8>,
    /// As it was handed over.
    stanza: String,
    /// What it takes in storage.
    bytes: usize,
}

/// Nobody could take a message.
fn keep(cx: &Delivery) -> Flow {
    if !worth_keeping(&cx.frame) {
        return Flow::Next;
    }
    let cx = cx.clone();
    Flow::later(async move {
        store(&cx).await.unwrap_or_else(|error| {
            tracing::error!(event = "offline-storage-failed", %error);
            Flow::Reject(StanzaError::new(Condition::InternalServerError))
        })
    })
}

async fn store(cx: &Delivery) -> Result<Flow, StoreError> {
    let server = &cx.server;
    let jid = cx.to.bare();
    let Some(account) = server.account(jid.as_str()).await? else { return Ok(Flow::Next) };
    if cx.origin.is_none() && server.slot::<Desk>().comes_back(account.id, cx.frame.bytes()) {
        return Ok(Flow::Done);
    }
    let Some(frame) = cx.stamped() else { return Ok(Flow::Next) };
    let stanza = String::from_utf8_lossy(frame.bytes()).into_owned();
    let kept = Kept { at: server.clock.now(), stanza };
    let value = serde_json::to_vec(&kept).unwrap_or_default();
    let key = server.stamp().to_be_bytes().to_vec();
    let bytes = value.len();
    let batch = Batch::new().put(&OFFLINE, account.id.0, key, value);
    let desk = server.slot::<Desk>();
    if !desk.lanes.commit(server, account.id, batch, |usage| usage.plus(bytes, server)).await? {
        return Ok(Flow::Next);
    }
    // Somebody may have come while it was being stored, and have found nothing.
    if let Some(session) = taker(server, &jid) {
        start(server, account.id, jid, session);
    }
    Ok(Flow::Done)
}

/// A session begins to take messages.
fn hand_out(cx: &Moment) -> Flow {
    let Some(identity) = cx.session.identity() else { return Flow::Next };
    let (account, jid) = (identity.account, identity.jid.clone());
    match start(&cx.server, account, jid, cx.session.clone()) {
        Some(handed_out) => Flow::later(async move {
            let _ = handed_out.await;
            Flow::Next
        }),
        None => Flow::Next,
    }
}

/// Sees to it that messages are handed out. Resolves, by closing, once they are and their removal is
/// durable; none if somebody is at it already.
fn start(
    server: &Arc<Server>,
    account: AccountId,
    jid: Jid,
    session: Arc<Session>,
) -> Option<oneshot::Receiver<()>> {
    let desk = server.slot::<Desk>();
    {
        let mut busy = desk.busy.lock();
        if let Some(rounds) = busy.get_mut(&account) {
            rounds.again = true;
            return None;
        }
        busy.insert(account, Rounds::default());
    }
    let (sender, receiver) = oneshot::channel();
    let mut errand =
        Errand { server: server.clone(), desk, account, jid, session, waited_for: Some(sender) };
    server.spawn(async move { errand.run().await });
    Some(receiver)
}

/// What was handed to a session and may not have come: it stays in storage until the session goes on,
/// which perhaps is after the server has stopped and started.
fn save(cx: &Moment) -> Option<String> {
    let account = cx.session.identity()?.account;
    let desk = cx.server.slot::<Desk>();
    let busy = desk.busy.lock();
    let rounds = busy.get(&account).filter(|rounds| rounds.to == Some(cx.session.id))?;
    let out = Some(&rounds.out).filter(|out| !out.is_empty())?;
    serde_json::to_string(out).ok()
}

/// Goes on with it.
fn restore(cx: &Moment, text: &str) {
    let Some(identity) = cx.session.identity() else { return };
    let Ok(out) = serde_json::from_str::<Vec<Out>>(text) else { return };
    let (account, jid) = (identity.account, identity.jid.clone());
    let desk = cx.server.slot::<Desk>();
    {
        let mut busy = desk.busy.lock();
        if busy.contains_key(&account) {
            return;
        }
        busy.insert(account, Rounds { again: true, out, to: Some(cx.session.id) });
    }
    let (server, session) = (cx.server.clone(), cx.session.clone());
    let mut errand = Errand { server, desk, account, jid, session, waited_for: None };
    cx.server.spawn(async move {
        if let Err(error) = errand.see_off().await {
            tracing::error!(event = "offline-storage-failed", %error);
        }
        errand.run().await;
    });
}

impl Desk {
    /// A session has ended without taking over what it was handed: it stays where it is stored.
    fn comes_back(&self, account: AccountId, stanza: &Bytes) -> bool {
        let mut busy = self.busy.lock();
        let Some(rounds) = busy.get_mut(&account) else { return false };
        let found = rounds.out.iter().position(|out| out.stanza.as_bytes() == stanza);
        found.map(|index| rounds.out.remove(index)).is_some()
    }
}

/// Handing out the messages of one account.
struct Errand {
    server: Arc<Server>,
    desk: Arc<Desk>,
    account: AccountId,
    jid: Jid,
    session: Arc<Session>,
    /// Whoever waits for the first round; dropped when it is over.
    waited_for: Option<oneshot::Sender<()>>,
}

impl Errand {
    /// Goes round as long as there may be more.
    async fn run(&mut self) {
        loop {
            if let Err(error) = self.round().await {
                tracing::error!(event = "offline-storage-failed", %error);
            }
            self.waited_for = None;
            if self.over() {
                return;
            }
        }
    }

    /// Hands out what is stored, oldest first.
    async fn round(&mut self) -> Result<(), StoreError> {
        loop {
            let page = Range::page(None, PAGE);
            let rows = self.server.store.rows(&OFFLINE, self.account.0, page).await?;
            if rows.is_empty() {
                return Ok(());
            }
            if !takes(&self.session) {
                let Some(session) = taker(&self.server, &self.jid) else { return Ok(()) };
                self.session = session;
            }
            self.hand_over(&rows);
            self.see_off().await?;
        }
    }

    /// Deletes what was handed over, once it is out of the server's hands.
    async fn see_off(&mut self) -> Result<(), StoreError> {
        self.taken_over().await;
        let out = self.out(std::mem::take);
        let (count, bytes) = (out.len(), out.iter().map(|out| out.bytes).sum());
        let batch = out
            .into_iter()
            .fold(Batch::new(), |batch, out| batch.delete(&OFFLINE, self.account.0, out.key));
        let less = |usage: quota::Usage| Some(usage.minus(count, bytes));
        self.desk.lanes.commit(&self.server, self.account, batch, less).await.map(drop)
    }

    /// Puts as many as it may into the session's mailbox.
    fn hand_over(&self, rows: &[Row]) {
        self.desk.busy.lock().entry(self.account).or_default().to = Some(self.session.id);
        let most = self.server.config.limits.mailbox_bytes / 2;
        for row in rows {
            let stanza = self.stanza(row).unwrap_or_default();
            let waiting = self.session.mailbox.bytes();
            if waiting > 0 && waiting + stanza.len() > most {
                return;
            }
            // Noted first: it may come back at once.
            let (key, bytes) = (row.key.to_vec(), row.value.len());
            let text = String::from_utf8_lossy(&stanza).into_owned();
            self.out(|out| out.push(Out { key, stanza: text, bytes }));
            let unreadable = stanza.is_empty();
            let taken = unreadable
                || self.server.push(&self.session, Parcel::whole(Kind::Message, stanza).kept());
            if !taken {
                self.out(|out| out.retain(|out| out.key != row.key));
                return;
            }
        }
    }

    /// The stanza with the time it came. None: it cannot be read, and goes unseen.
    fn stanza(&self, row: &Row) -> Option<Bytes> {
        let kept = serde_json::from_slice::<Kept>(&row.value).ok();
        let read = kept.and_then(|kept| Some((Frame::parse(kept.stanza).ok()?, kept.at)));
        let Some((frame, at)) = read else {
            tracing::error!(event = "offline-message-unreadable", jid = self.jid.as_str());
            return None;
        };
        let host = self.jid.domain();
        // One that has come back from a session keeps the time at which it first came. Nobody but
        // this server can have written it.
        let marked = frame.root().children().any(|child| {
            child.is("delay", ns::DELAY) && child.attr("from").as_deref() == Some(host)
        });
        if marked {
            return Some(frame.bytes().clone());
        }
        let mut xml = Xml::new();
        xml.open("delay").ns(ns::DELAY).attr("from", host).attr("stamp", &at.to_string());
        Some(frame.with_children(&xml.finish()).bytes().clone())
    }

    /// Waits until the session's connection has taken over all that it was handed, or the session is
    /// gone and what it left has come back.
    async fn taken_over(&mut self) {
        let mark = self.session.mailbox.mark();
        let mut pause = Duration::from_millis(1);
        while self.session.alive() && !self.session.mailbox.handed_over(mark) {
            if self.session.mailbox.passed(mark) {
                // They are on their way. Its acknowledgement of them is behind what waits for this.
                self.waited_for = None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        // Asked last: it may have ended with a part of it.
        if !self.session.alive() {
            // Its connection waits for this before it settles.
            self.waited_for = None;
            self.server.settled(&self.session).await;
        }
    }

    fn out<T>(&self, with: impl FnOnce(&mut Vec<Out>) -> T) -> T {
        with(&mut self.desk.busy.lock().entry(self.account).or_default().out)
    }

    /// Whether there is no reason to go round again; nobody is at it from then on.
    fn over(&self) -> bool {
        let mut busy = self.desk.busy.lock();
        let again = busy.get_mut(&self.account).is_some_and(|rounds| {
            rounds.out.clear();
            std::mem::take(&mut rounds.again)
        });
        if !again {
            busy.remove(&self.account);
        }
        !again
    }
}

/// The session that stored messages go to when there is a choice: the most wanted, then the latest.
fn taker(server: &Server, jid: &Jid) -> Option<Arc<Session>> {
    let sessions = server.registry.bound(jid.as_str()).into_iter();
    sessions.filter(|session| takes(session)).max_by_key(|session| {
        session.presence().map(|presence| (presence.priority, presence.since))
    })
}

fn takes(session: &Session) -> bool {
    session.alive() && session.takes_messages()
}
