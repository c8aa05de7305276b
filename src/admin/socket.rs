//! The admin socket: a Unix socket in the data directory on which a running server takes commands.
//!
//! One JSON object per line each way. A request is `{"command":"session list","args":{…}}`; the
//! answer is any number of `{"row":…}` and `{"progress":…}`, closed by one `{"done":…}` or
//! `{"failed":…}`. Requests on one connection are done one after another.
//!
//! Whoever can open the socket and is the server's own user or root may do everything. With
//! `"as":"alice@localhost"` beside the command, a request does what that account may do and no more,
//! and the audit names both. Deliberately absent: any knowledge of single commands.

use std::{
    fs,
    future::Future,
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Map, Value};
use server::{
    Server,
    command::{self, Caller, CommandError, Reply, Shape},
    config::Config,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

/// The longest request in bytes; rows of an import come in chunks that fit.
pub const MAX_REQUEST: usize = 8 << 20;

/// Administrators at once.
const MAX_CONNECTIONS: usize = 32;

/// How long commands in flight are waited for when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where the admin socket of a server with this configuration is.
#[must_use]
pub fn path(config: &Config) -> PathBuf {
    config.data_dir.join("admin.sock")
}

/// Takes commands on a socket at `path` until `stop` is ready; then lets commands in flight finish,
/// bounded, and removes the socket.
///
/// # Errors
/// As [`Socket::bind`].
pub async fn serve(
    server: Arc<Server>,
    path: &Path,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    Socket::bind(path)?.serve(server, stop).await;
    Ok(())
}

/// A bound admin socket; removed from the file system when dropped.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that only our own is removed.
    identity: (u64, u64),
}

impl Socket {
    /// Makes the socket, with mode 0600 from the first moment that anybody can reach it: it is bound
    /// in a directory of mode 0700 and moved to its place when it is ready. A socket that a dead
    /// server left is replaced. Must be called from within the runtime.
    ///
    /// # Errors
    /// When a server listens there, when there is something else at `path`, and when the directory
    /// cannot be written; the text says which and what to do.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let place = path.display();
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                let text = format!("`{place}` is there and is no socket; hint: move it away");
                return Err(io::Error::new(ErrorKind::AlreadyExists, text));
            }
            Ok(_) if StdUnixStream::connect(path).is_ok() => {
                let text = format!(
                    "a server listens on `{place}` already; hint: stop it, or set another `data_dir`"
                );
                return Err(io::Error::new(ErrorKind::AddrInUse, text));
            }
            _ => {}
        }
        let explain = |why: io::Error| {
            let text = format!(
                "cannot make the admin socket `{place}`: {why}; hint: `data_dir` must \
                                be a directory that the server may write, with a path of at most 90 bytes"
            );
            io::Error::new(why.kind(), text)
        };
        let directory = path.with_file_name(format!(".u{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::DirBuilder::new().mode(0o700).create(&directory).map_err(explain)?;
        let bound = bind_private(&directory.join("s"), path);
        let _ = fs::remove_dir_all(&directory);
        let (listener, identity) = bound.map_err(explain)?;
        Ok(Self { listener, path: path.into(), identity })
    }

    /// Takes commands until `stop` is ready; then lets commands in flight finish, bounded.
    pub async fn serve(self, server: Arc<Server>, stop: impl Future<Output = ()>) {
        let (closing, closed) = watch::channel(false);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = &mut stop => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(event = "admin-accept-failed", %error);
                    // Out of descriptors: it gets better when somebody leaves, not by trying on.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (server, mut closed) = (server.clone(), closed.clone());
            let place = places.clone().try_acquire_owned();
            connections.spawn(async move {
                let outcome = match (caller(&stream), place) {
                    (Err(error), _) => refuse(stream, error).await,
                    (Ok(_), Err(_)) => refuse(stream, crowded()).await,
                    (Ok(caller), Ok(_place)) => {
                        let (read, write) = stream.into_split();
                        converse(&server, &caller, read, write, &mut closed).await
                    }
                };
                if let Err(error) = outcome {
                    tracing::debug!(event = "admin-connection-lost", %error);
                }
            });
        }
        let _ = closing.send(true);
        let _ =
            timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_private(hidden: &Path, path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let listener = UnixListener::bind(hidden)?;
    fs::set_permissions(hidden, fs::Permissions::from_mode(0o600))?;
    fs::rename(hidden, path)?;
    Ok((listener, identity(path)?))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let there = fs::symlink_metadata(path)?;
    Ok((there.dev(), there.ino()))
}

/// Who is at the other end, as the audit names it; or why it is sent away.
fn caller(stream: &UnixStream) -> Result<Caller, CommandError> {
    let unknown = |_| CommandError::failed("it cannot be told who you are");
    let peer = stream.peer_cred().map_err(unknown)?.uid();
    if !may_command(peer, rustix::process::geteuid().as_raw()) {
        return Err(CommandError::failed(format!("user {peer} may not command this server"))
            .hint("become the user who runs the server, or root"));
    }
    Ok(Caller::local(format!("uid:{peer}")))
}

/// Whether the user `peer` may command a server that runs as `own`. The mode of the socket says the
/// same, but it can be changed by mistake.
fn may_command(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

fn crowded() -> CommandError {
    CommandError::failed(format!("{MAX_CONNECTIONS} administrators are connected already"))
        .hint("end a `watch` or a `console` somewhere")
}

async fn refuse(mut stream: UnixStream, error: CommandError) -> io::Result<()> {
    send(&mut stream, &[Reply::Failed(error)]).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    command: String,
    /// The account whose rights it is done with; none: all.
    #[serde(default, rename = "as")]
    acting: Option<String>,
    #[serde(default)]
    args: Map<String, Value>,
}

async fn converse(
    server: &Arc<Server>,
    caller: &Caller,
    read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    closed: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    let mut read = BufReader::new(read);
    loop {
        let line = tokio::select! {
            line = line(&mut read) => line?,
            () = stopping(closed) => return Ok(()),
        };
        let Some(line) = line else { return Ok(()) };
        let Line::Whole(line) = line else {
            let error = CommandError::usage(format!("a request has more than {MAX_REQUEST} bytes"));
            return send(&mut write, &[Reply::Failed(error)]).await;
        };
        match serde_json::from_slice::<Request>(&line) {
            Ok(request) => answer(server, caller, request, &mut read, &mut write, closed).await?,
            Err(why) => {
                let error = CommandError::usage(format!("the line is no request: {why}"))
                    .hint("send `{\"command\":\"session list\",\"args\":{}}`, on one line");
                send(&mut write, &[Reply::Failed(error)]).await?;
            }
        }
    }
}

enum Line {
    TooLong,
    Whole(Vec<u8>),
}

async fn line(read: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    loop {
        let some = read.fill_buf().await?;
        if some.is_empty() {
            return Ok((!line.is_empty()).then_some(Line::Whole(line)));
        }
        let end = some.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(some.len());
        if line.len() + taken > MAX_REQUEST {
            return Ok(Some(Line::TooLong));
        }
        line.extend(some.iter().take(taken));
        read.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Some(Line::Whole(line)));
        }
    }
}

/// Runs one command and passes on what it says. The command is a task of its own: it is seen through
/// when its caller goes away, unless it is a stream, which has no end but that.
async fn answer(
    server: &Arc<Server>,
    caller: &Caller,
    request: Request,
    read: &mut (impl AsyncBufReadExt + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
    closed: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    let Request { command: name, acting, args } = request;
    let caller = match acting {
        Some(account) => match server.caller_as(&account, caller).await {
            Ok(caller) => caller,
            Err(error) => return send(write, &[Reply::Failed(error)]).await,
        },
        None => caller.clone(),
    };
    let stream =
        command::find(&name).is_some_and(|command| matches!(command.shape, Shape::Stream(_)));
    let (rows, mut replies) = mpsc::channel(64);
    let server = server.clone();
    tokio::spawn(async move { command::run(server, caller, &name, args, rows).await });
    let (mut some, mut watching) = (Vec::new(), stream);
    loop {
        tokio::select! {
            count = replies.recv_many(&mut some, 64) => {
                let last = matches!(some.last(), Some(Reply::Done(_) | Reply::Failed(_)));
                if count == 0 {
                    some.push(Reply::Failed(CommandError::failed("the command broke off")
                        .hint("see the server's log")));
                }
                send(write, &some).await?;
                some.clear();
                if last || count == 0 {
                    return Ok(());
                }
            }
            // What comes meanwhile is the next request, and stays in the buffer; the end of it
            // means that nobody waits for more of this one.
            ahead = read.fill_buf(), if watching => match ahead?.is_empty() {
                true => return Ok(()),
                false => watching = false,
            },
            () = stopping(closed), if stream => {
                let done = command::Done::said("the server is stopping");
                return send(write, &[Reply::Done(done)]).await;
            }
        }
    }
}

/// Ready when the server stops.
pub(crate) async fn stopping(closed: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone.
    let _ = closed.wait_for(|closed| *closed).await;
}

async fn send(write: &mut (impl AsyncWrite + Unpin), replies: &[Reply]) -> io::Result<()> {
    let mut text = Vec::new();
    for reply in replies.iter().filter(|reply| !matches!(reply, Reply::Began)) {
        serde_json::to_writer(&mut text, reply)?;
        text.push(b'\n');
    }
    write.write_all(&text).await?;
    write.flush().await
}

#[cfg(test)]
pub(crate) mod tests;
