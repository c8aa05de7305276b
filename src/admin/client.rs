//! The other end of the admin socket: connects, calls a command, hears what it says.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use server::command::{CommandError, Done};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A connection to a running server.
pub struct Client {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    acting: Option<String>,
}

/// What a command says before it is over.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// How far it is: steps done, and steps in all.
    Progress(u64, u64),
    /// One row of its result.
    Row(Map<String, Value>),
}

impl Client {
    /// Connects to the server whose admin socket is at `path`.
    ///
    /// # Errors
    /// When no server is there, or it may not be talked to.
    pub async fn connect(path: &Path) -> Result<Self, CommandError> {
        let place = path.display();
        let stream = UnixStream::connect(path).await.map_err(|why| match why.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => CommandError::failed(format!(
                "no server is running on `{place}`"
            ))
            .hint("start it with `usher serve`, or name its configuration with `--config FILE`"),
            ErrorKind::PermissionDenied => {
                CommandError::failed(format!("the server on `{place}` does not take your commands"))
                    .hint("become the user who runs the server, or root")
            }
            _ => CommandError::failed(format!("cannot reach the server on `{place}`: {why}")).hint(
                "look whether the server is running, and for `data_dir` in its configuration",
            ),
        })?;
        let (read, write) = stream.into_split();
        Ok(Self { read: BufReader::new(read), write, acting: None })
    }

    /// From now on, calls are done with the rights of this account and no others.
    #[must_use]
    pub fn acting_as(self, account: Option<String>) -> Self {
        Self { acting: account, ..self }
    }

    /// Calls a command and passes on what it says until it is over.
    ///
    /// # Errors
    /// Why the command could not be done, or that the server went away meanwhile. An error of
    /// `heard` ends the call; the connection is then good for nothing more.
    pub async fn call(
        &mut self,
        command: &str,
        args: &Map<String, Value>,
        mut heard: impl FnMut(Heard) -> io::Result<()>,
    ) -> Result<Done, CallError> {
        let mut request =
            serde_json::to_vec(&Request { command, acting: self.acting.as_deref(), args })
                .map_err(io::Error::from)?;
        request.push(b'\n');
        // A server that refuses says so and closes: what it said is read, not that it closed.
        let sent = self.write.write_all(&request).await;
        let mut line = String::new();
        loop {
            line.clear();
            match self.read.read_line(&mut line).await {
                Ok(0) | Err(_) => return Err(CallError::Command(gone(sent.err()))),
                Ok(_) => {}
            }
            match serde_json::from_str(&line) {
                Ok(Answer::Done(done)) => return Ok(done),
                Ok(Answer::Failed(error)) => return Err(CallError::Command(error)),
                Ok(Answer::Progress { done, total }) => heard(Heard::Progress(done, total))?,
                Ok(Answer::Row(row)) => heard(Heard::Row(row))?,
                Err(_) => {
                    return Err(CommandError::failed("the server answers in another language")
                        .hint("server and command line must be of the same version")
                        .into());
                }
            }
        }
    }
}

/// Why a call did not come to its end.
#[derive(Debug)]
pub enum CallError {
    /// The command says so.
    Command(CommandError),
    /// What was heard could not be passed on.
    Passing(io::Error),
}

impl From<CommandError> for CallError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Passing(error)
    }
}

fn gone(why: Option<io::Error>) -> CommandError {
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    CommandError::failed(format!("the server went away before it answered{why}"))
        .hint("see the server's log; whether the command was done is in its audit")
}

#[derive(Serialize)]
struct Request<'a> {
    command: &'a str,
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    acting: Option<&'a str>,
    args: &'a Map<String, Value>,
}

/// [`server::command::Reply`] as it arrives.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Done(Done),
    Failed(CommandError),
    Progress { done: u64, total: u64 },
    Row(Map<String, Value>),
}
