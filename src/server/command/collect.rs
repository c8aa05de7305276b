//! A command run for somebody who takes what it gives as a whole, as IQs and HTTP requests do. Not for
//! commands that give rows without end.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Caller, CommandError, Done, Reply, run};
use crate::{Server, Session};

/// What a command gave.
pub struct Collected {
    /// Its rows.
    pub rows: Vec<Map<String, Value>>,
    /// How it ended.
    pub outcome: Result<Done, CommandError>,
    /// To be told, or dropped, when the caller has its answer.
    pub hearing: Hearing,
}

/// What waits for a caller to have its answer: the end of the very session that asks, if the command
/// means that one as well.
pub struct Hearing {
    rows: mpsc::Receiver<Reply>,
    running: JoinHandle<()>,
}

/// Runs a command, like [`run`], and gives all of it at once. What has begun is seen through, also if
/// nobody waits for it any more.
pub async fn collect(
    server: &Arc<Server>,
    caller: Caller,
    name: &'static str,
    args: Map<String, Value>,
) -> Collected {
    let (sender, mut replies) = mpsc::channel(64);
    let running = tokio::spawn(run(server.clone(), caller, name, args, sender));
    let mut rows = Vec::new();
    let outcome = loop {
        match replies.recv().await {
            Some(Reply::Row(row)) => rows.push(row),
            Some(Reply::Progress { .. }) => {}
            Some(Reply::Done(done)) => break Ok(done),
            Some(Reply::Failed(error)) => break Err(error),
            None => break Err(CommandError::failed(format!("`{name}` was cut off"))),
        }
    };
    Collected { rows, outcome, hearing: Hearing { rows: replies, running } }
}

impl Hearing {
    /// Waits until the session's connection has taken the answer, which has been pushed, and then until
    /// what waited for that is done. Not for ever: the session may not be read from.
    pub async fn heard(mut self, session: &Session) {
        let mark = session.mailbox.mark();
        let taken = async {
            let mut pause = Duration::from_millis(1);
            while session.alive() && !session.mailbox.passed(mark) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        };
        tokio::select! {
            // Nothing waits, or it has waited for long enough.
            _ = self.rows.recv() => {}
            () = taken => {}
        }
        drop(self.rows);
        let _ = self.running.await;
    }
}
