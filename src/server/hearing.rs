//! Who asks for a command through a session hears the answer through it, though the command ends that
//! very session. Its end is put off until it has been told, within bounds; everything else that the
//! command takes away is gone before that.
//!
//! Only ends by the command itself are put off, and only of the session that it was asked through:
//! whatever else ends that session ends it at once. To the command the session is over. Work that it
//! leaves to another task, as ends at a pace, is not put off.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Server, Session,
    end::{End, EndRecord},
};

/// How long an end is put off at most while the command goes on, beyond the time that the connections of
/// others may take to be gone.
const COMMAND: Duration = Duration::from_secs(3);
/// How long the connection may take to take the answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(2);

tokio::task_local! {
    static ASKING: Arc<Asking>;
}

/// A command that was asked for through a session.
struct Asking {
    server: Arc<Server>,
    session: Arc<Session>,
    /// How the session is to end once its answer was heard.
    end: Mutex<Option<(End, Arc<EndRecord>)>>,
}

/// Answers that are still to be heard.
#[derive(Default)]
struct Unheard(Mutex<Vec<Weak<Asking>>>);

/// Held from before the command until its answer was given.
pub(crate) struct Hearing(Arc<Asking>);

impl Hearing {
    pub(crate) fn new(server: Arc<Server>, session: Arc<Session>) -> Self {
        let unheard = server.slot::<Unheard>();
        let asking = Arc::new(Asking { server, session, end: Mutex::default() });
        unheard.0.lock().push(Arc::downgrade(&asking));
        Self(asking)
    }

    /// Runs the command.
    pub(crate) fn during<F: Future>(&self, command: F) -> impl Future<Output = F::Output> + use<F> {
        ASKING.scope(self.0.clone(), command)
    }

    /// The answer has been given to whoever speaks to the session, in so far as it listens. Waits until
    /// the session's connection has taken it, and ends the session if the command does.
    pub(crate) async fn heard(self, answered: impl Future<Output = ()>) {
        let waits = self.0.end.lock().is_some() || self.0.server.stop.is_asked();
        if waits {
            let mailbox = &self.0.session.mailbox;
            let taken = async {
                answered.await;
                let mark = mailbox.mark();
                while self.0.session.connected() && !mailbox.passed(mark) {
                    sleep(LOOK).await;
                }
            };
            // Whoever does not read does not hear.
            let _ = timeout(ANSWER, taken).await;
        }
        self.0.end();
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        let heard = Arc::downgrade(&self.0);
        self.0.server.slot::<Unheard>().0.lock().retain(|asking| !asking.ptr_eq(&heard));
    }
}

impl Asking {
    fn end(&self) {
        let end = self.end.lock().take();
        if let Some((end, _)) = end {
            // Not by the command any more: it is not put off again.
            self.server.end_now(&self.session, end);
        }
    }

    /// Puts the end off. True: by this; false: it was put off before.
    fn put_off(self: &Arc<Self>, end: &End) -> bool {
        {
            let mut put_off = self.end.lock();
            if put_off.is_some() {
                return false;
            }
            *put_off = Some((end.clone(), Arc::new(end.record(self.server.clock.now()))));
        }
        let asking = self.clone();
        let patience = self.server.patience() + COMMAND;
        self.server.spawn(async move {
            sleep(patience).await;
            asking.end();
        });
        true
    }
}

fn asking(session: &Session) -> Option<Arc<Asking>> {
    let asking = ASKING.try_with(Arc::clone).ok()?;
    (asking.session.id == session.id).then_some(asking)
}

/// Puts off the end of a session if it is by a command that was asked for through it; whether it was by
/// this call then.
pub(crate) fn put_off(session: &Session, end: &End) -> Option<bool> {
    let asking = asking(session).filter(|_| session.alive() && session.connected())?;
    Some(asking.put_off(end))
}

/// How a session will have ended, for the command that has ended it.
pub(crate) fn record(session: &Session) -> Option<Arc<EndRecord>> {
    asking(session)?.end.lock().as_ref().map(|(_, record)| record.clone())
}

impl Server {
    /// Waits until whoever has asked for something has been answered, within bounds; what was put off
    /// for that until then happens now.
    pub(crate) async fn all_heard(&self) {
        let unheard = self.slot::<Unheard>();
        let begin = Instant::now();
        while !unheard.0.lock().is_empty() && begin.elapsed() < ANSWER {
            sleep(LOOK).await;
        }
        let rest = std::mem::take(&mut *unheard.0.lock());
        rest.iter().filter_map(Weak::upgrade).for_each(|asking| asking.end());
    }
}
