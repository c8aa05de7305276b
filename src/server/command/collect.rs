//! A command run to its end, with all that it gave: for faces that answer once. Not for commands
//! without an end ([`Shape::Stream`](super::Shape)).

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Caller, CommandError, Done, Reply, run};
use crate::Server;

/// Rows that wait for whoever collects them.
const WAITING: usize = 64;

/// What a command gave.
#[derive(Debug)]
pub struct Collected {
    /// Its rows, no more than were asked for.
    pub rows: Vec<Map<String, Value>>,
    /// How many there were beyond these.
    pub left_out: usize,
    /// How it ended.
    pub outcome: Result<Done, CommandError>,
    listening: mpsc::Receiver<Reply>,
    running: JoinHandle<()>,
}

/// Runs a command, as [`run`] does, and collects what it gives, at most so many rows. It is seen through
/// even if nobody waits for this any more. To be dropped when the caller has been told: if the command ends
/// the session that it is called from, that ends then.
pub async fn collect(
    server: Arc<Server>,
    caller: Caller,
    name: &str,
    args: Map<String, Value>,
    most: usize,
) -> Collected {
    let (sender, mut replies) = mpsc::channel(WAITING);
    let name = name.to_owned();
    let running = tokio::spawn(async move { run(server, caller, &name, args, sender).await });
    let (mut rows, mut left_out) = (Vec::new(), 0);
    let outcome = loop {
        match replies.recv().await {
            Some(Reply::Row(row)) if rows.len() < most => rows.push(row),
            Some(Reply::Row(_)) => left_out += 1,
            Some(Reply::Began | Reply::Progress { .. }) => {}
            Some(Reply::Done(done)) => break Ok(done),
            Some(Reply::Failed(error)) => break Err(error),
            None => {
                let broken = CommandError::failed("the command broke off");
                let broken = CommandError { internal: true, ..broken };
                break Err(broken.hint("see the server's log"));
            }
        }
    };
    Collected { rows, left_out, outcome, listening: replies, running }
}

impl Collected {
    /// The caller has been told; waits until whatever waited for that is done.
    pub async fn heard(self) {
        drop(self.listening);
        let _ = self.running.await;
    }
}
