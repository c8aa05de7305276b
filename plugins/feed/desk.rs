//! The one task that knows what each subscriber was told last. It is there only while somebody has
//! subscribed: without it, changes of sessions cost nothing. It looks at an account anew when anything has
//! changed there and tells the difference, so that no change that it misses is missed for good.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use server::{
    Server, Session,
    account::Role,
    events::Event,
    id::SessionId,
    iq::Answer,
    mailbox::Parcel,
    plugin::Iq,
    session::{Feature, Flags},
};
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};
use wire::{Condition, Jid, Kind};

use super::sight::Sight;

/// Where the task is found, if it is there.
#[derive(Clone, Default)]
pub struct Desk {
    task: Arc<Mutex<Option<UnboundedSender<Note>>>>,
}

/// What the task is told. Bounded by who tells it: a session waits for its answer, and ends once.
enum Note {
    /// A session goes on over another connection.
    Back(Arc<Session>),
    /// A session of this account has ended.
    Left(Jid),
    /// A session subscribes.
    Subscribe(Box<Iq>, oneshot::Sender<()>),
}

/// The feed of one account.
#[derive(Default)]
struct Feed {
    sight: Sight,
    /// Who knows that.
    told: HashSet<SessionId>,
}

impl Desk {
    /// Lets the session have the feed, and answers.
    pub async fn subscribe(&self, iq: Iq) -> Answer {
        let (done, answered) = oneshot::channel();
        let server = iq.server.clone();
        self.note(&server, Note::Subscribe(Box::new(iq), done));
        match answered.await {
            Ok(()) => Answer::Sent,
            Err(_) => Answer::refuse(Condition::InternalServerError),
        }
    }

    /// A session that has the feed goes on over another connection, perhaps in another process.
    pub fn is_back(&self, server: &Arc<Server>, session: &Arc<Session>) {
        self.note(server, Note::Back(session.clone()));
    }

    /// A session has ended.
    pub fn left(&self, session: &Session) {
        if let (Some(task), Some(me)) = (&*self.task.lock(), session.identity()) {
            // It is on its way out if this fails.
            let _ = task.send(Note::Left(me.jid.clone()));
        }
    }

    fn note(&self, server: &Arc<Server>, note: Note) {
        let mut task = self.task.lock();
        let Err(back) = (match &*task {
            Some(task) => task.send(note).map_err(|unsent| unsent.0),
            None => Err(note),
        }) else {
            return;
        };
        let (sender, notes) = unbounded_channel();
        let _ = sender.send(back);
        *task = Some(sender);
        let events = server.events.watch();
        let (server, desk) = (server.clone(), self.clone());
        let begun = Task { server: server.clone(), desk, feeds: HashMap::new() };
        server.spawn(begun.run(notes, events));
    }
}

/// The task.
struct Task {
    server: Arc<Server>,
    desk: Desk,
    feeds: HashMap<Jid, Feed>,
}

impl Task {
    /// Runs until nobody wants it any more.
    async fn run(mut self, mut notes: UnboundedReceiver<Note>, mut events: Receiver<Event>) {
        loop {
            tokio::select! {
                Some(note) = notes.recv() => self.take(note),
                event = events.recv() => match event {
                    Ok(event) => {
                        if let Some(me) = event.session.identity() {
                            self.look(&me.jid);
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        let all: Vec<Jid> = self.feeds.keys().cloned().collect();
                        all.iter().for_each(|account| self.look(account));
                    }
                    Err(RecvError::Closed) => return,
                },
            }
            while self.feeds.is_empty() {
                // Notes are written under the same lock: none comes too late.
                let mut task = self.desk.task.lock();
                match notes.try_recv() {
                    Ok(note) => {
                        drop(task);
                        self.take(note);
                    }
                    Err(_) => {
                        *task = None;
                        return;
                    }
                }
            }
        }
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Left(account) => self.look(&account),
            Note::Back(session) => {
                let Some(account) = session.full().map(Jid::bare) else { return };
                self.look(&account);
                let feed = self.feed(&account);
                if feed.told.insert(session.id) {
                    let whole = feed.sight.whole();
                    self.push(&session, &whole);
                }
            }
            Note::Subscribe(iq, done) => {
                let account = iq.from.bare();
                self.look(&account);
                let feed = self.feed(&account);
                feed.told.insert(iq.session.id);
                let known = iq
                    .frame
                    .payload()
                    .and_then(|payload| Some(payload.el.attr("ver")?.into_owned()));
                let same = known.is_some_and(|known| known == feed.sight.version());
                let answer = if same { Bytes::new() } else { feed.sight.whole() };
                // Nothing that is not in it is told before it.
                iq.session.turn(Feature::Sessions, true);
                iq.reply(Answer::Result(answer));
                let _ = done.send(());
            }
        }
    }

    /// The feed of an account as it was told last; as it is now, if nobody was told anything.
    fn feed(&mut self, account: &Jid) -> &mut Feed {
        let server = &self.server;
        self.feeds
            .entry(account.clone())
            .or_insert_with(|| Feed { sight: Sight::of(server, account), told: HashSet::new() })
    }

    /// Tells what has changed in an account, if anybody wants to know.
    fn look(&mut self, account: &Jid) {
        let Some(mut feed) = self.feeds.remove(account) else { return };
        let mut wanting = self.server.registry.bound(account.as_str());
        wanting.retain(|session| feed.told.contains(&session.id) && may(session));
        if wanting.is_empty() {
            return;
        }
        let now = Sight::of(&self.server, account);
        let changes = now.since(&feed.sight);
        feed.sight = now;
        feed.told = wanting.iter().map(|session| session.id).collect();
        self.feeds.insert(account.clone(), feed);
        if let Some(changes) = changes {
            wanting.iter().for_each(|session| self.push(session, &changes));
        }
    }

    fn push(&self, session: &Arc<Session>, payload: &Bytes) {
        let Some(to) = session.full() else { return };
        let head = format!("<iq type='set' id='feed-{:x}' to='", self.server.stamp());
        let tail = [b"'>".as_slice(), payload, b"</iq>"].concat();
        let parcel = Parcel::addressed(Kind::Iq, head.into(), to.clone(), tail.into());
        self.server.push(session, parcel);
    }
}

/// Whether a session wants the feed, and may have it still.
fn may(session: &Session) -> bool {
    let may = session.identity().is_some_and(|me| me.role() > Role::Restricted);
    if !may {
        session.turn(Feature::Sessions, false);
    }
    may && session.has(Feature::Sessions) && !session.flags().has(Flags::ENDING)
}
