//! A command run to its end, with all that it gave: for faces that answer once. Not for commands
//! without an end ([`Shape::Stream`](super::Shape)).

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::{Caller, CommandError, Done, Reply, run};
use crate::{Server, hearing::Hearing};

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
    /// What is to end once the caller has its answer waits, within bounds, until this is dropped: first
    /// the one, then the other.
    _hearing: Option<Hearing>,
    _listening: mpsc::Receiver<Reply>,
}

/// Runs a command and collects what it gives, at most so many rows. It is seen through even if nobody
/// waits for this any more. To be dropped when the caller has been told: if it has asked through a session,
/// and ends that, the session ends then.
pub async fn collect(
    server: Arc<Server>,
    caller: Caller,
    name: &str,
    args: Map<String, Value>,
    most: usize,
) -> Collected {
    let (sender, mut replies) = mpsc::channel(WAITING);
    let name = name.to_owned();
    let session = caller.account().and_then(|me| server.registry.get(me.session()?));
    let hearing = session.map(|session| Hearing::new(server.clone(), session));
    let command = async move { run(server, caller, &name, args, sender).await };
    match &hearing {
        Some(hearing) => tokio::spawn(hearing.during(command)),
        None => tokio::spawn(command),
    };
    let (mut rows, mut left_out) = (Vec::new(), 0);
    let outcome = loop {
        match replies.recv().await {
            Some(Reply::Row(row)) if rows.len() < most => rows.push(row),
            Some(Reply::Row(_)) => left_out += 1,
            Some(Reply::Progress { .. }) => {}
            Some(Reply::Done(done)) => break Ok(done),
            Some(Reply::Failed(error)) => break Err(error),
            None => {
                let broken = CommandError::failed("the command broke off");
                break Err(broken.hint("see the server's log"));
            }
        }
    };
    Collected { rows, left_out, outcome, _hearing: hearing, _listening: replies }
}
