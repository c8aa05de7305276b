use std::{fs::File, io::Write};

use serde_json::json;
use server::{clock::Clock, command::Done, keyring::KeyRing};
use tokio::sync::oneshot;

use super::*;
use crate::client::{CallError, Client, Heard};

/// A server on the memory store with its admin socket in a directory of its own.
pub(crate) struct World {
    pub(crate) path: PathBuf,
    _dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<()>,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let keys = KeyRing::ephemeral();
        let server = Server::new(Config::default(), Clock::system(), store::memory(), keys, &[]);
        let server = server.unwrap();
        let socket = Socket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let serving = tokio::spawn(socket.serve(server, stopped));
        Self { path, _dir: dir, stop: Some(stop), serving }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap()
    }

    async fn raw(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(&self.path).await.unwrap())
    }
}

async fn call(
    client: &mut Client,
    name: &str,
    args: Value,
) -> Result<(Done, Vec<Value>), CommandError> {
    let mut rows = Vec::new();
    let hear = |heard| {
        if let Heard::Row(row) = heard {
            rows.push(Value::from(row));
        }
        Ok(())
    };
    match client.call(name, args.as_object().unwrap(), hear).await {
        Ok(done) => Ok((done, rows)),
        Err(CallError::Command(error)) => Err(error),
        Err(CallError::Passing(error)) => panic!("{error}"),
    }
}

/// Asks until it is so; fails the test if it never is.
async fn eventually(mut so: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to be");
}

#[tokio::test]
async fn commands_run_one_after_another_and_are_audited_by_user() {
    let world = World::new();
    let mut client = world.client().await;
    let add = json!({"jid": "alice@localhost", "password": "correct horse"});
    let (done, _) = call(&mut client, "user add", add.clone()).await.unwrap();
    assert!(done.matched);
    let (_, rows) = call(&mut client, "user list", json!({})).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["jid"], "alice@localhost");
    let again = call(&mut client, "user add", add).await.unwrap_err();
    assert!(!again.usage && !again.hint.is_empty(), "{again:?}");
    assert!(call(&mut client, "no such", json!({})).await.unwrap_err().usage);
    let (_, audit) = call(&mut client, "audit list", json!({})).await.unwrap();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(audit[0]["who"], format!("uid:{own}"));
    assert!(!Value::from(audit).to_string().contains("correct horse"));
}

#[tokio::test]
async fn only_its_user_can_open_it() {
    let world = World::new();
    assert_eq!(fs::metadata(&world.path).unwrap().permissions().mode() & 0o777, 0o600);
    let left: Vec<_> = fs::read_dir(world.path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing but the socket: {left:?}");
}

#[test]
fn only_its_user_and_root_may_command() {
    assert!(may_command(1000, 1000));
    assert!(may_command(0, 1000));
    assert!(!may_command(1001, 1000));
    assert!(!may_command(1000, 0));
}

#[tokio::test]
async fn a_line_that_is_no_request_is_answered_and_the_next_is_heard() {
    let world = World::new();
    let mut raw = world.raw().await;
    raw.write_all(b"hello\n{\"command\":\"status\"}\n").await.unwrap();
    let (mut first, mut second) = (String::new(), String::new());
    raw.read_line(&mut first).await.unwrap();
    raw.read_line(&mut second).await.unwrap();
    assert!(first.starts_with("{\"failed\":{\"usage\":true"), "{first}");
    assert!(second.starts_with("{\"row\":{\"version\""), "{second}");
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let world = World::new();
    let mut raw = world.raw().await;
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent <= MAX_REQUEST + piece.len() && raw.write_all(&piece).await.is_ok() {
        sent += piece.len();
    }
    let mut answer = String::new();
    let _ = raw.read_line(&mut answer).await;
    assert!(answer.contains("a request has more than"), "{answer}");
}

/// Tasks of this test's runtime: the socket's, and two for each command at work.
fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn a_stream_ends_when_its_listener_goes() {
    let world = World::new();
    let mut raw = world.raw().await;
    raw.write_all(b"{\"command\":\"session watch\"}\n").await.unwrap();
    eventually(async || tasks() == 3).await;
    drop(raw);
    eventually(async || tasks() == 1).await;
}

#[tokio::test]
async fn a_stream_ends_with_the_server_and_the_socket_is_gone() {
    let mut world = World::new();
    let mut raw = world.raw().await;
    raw.write_all(b"{\"command\":\"session watch\"}\n").await.unwrap();
    eventually(async || tasks() == 3).await;
    drop(world.stop.take());
    let mut answer = String::new();
    raw.read_line(&mut answer).await.unwrap();
    assert!(answer.starts_with("{\"done\""), "{answer}");
    world.serving.await.unwrap();
    assert!(!world.path.exists());
    let error = Client::connect(&world.path).await.err().unwrap();
    assert_eq!(error.message, format!("no server is running on `{}`", world.path.display()));
    assert!(error.hint.contains("--config"));
}

#[tokio::test]
async fn there_is_a_bound_on_administrators_at_once() {
    let world = World::new();
    let mut inside = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut client = world.client().await;
        call(&mut client, "status", json!({})).await.unwrap();
        inside.push(client);
    }
    let refused = call(&mut world.client().await, "status", json!({})).await.unwrap_err();
    assert!(refused.message.contains("administrators"), "{refused:?}");
    inside.pop();
    eventually(async || call(&mut world.client().await, "status", json!({})).await.is_ok()).await;
}

#[tokio::test]
async fn a_socket_of_a_dead_server_is_replaced_and_one_of_a_living_is_not() {
    let world = World::new();
    let error = Socket::bind(&world.path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    call(&mut world.client().await, "status", json!({})).await.unwrap();

    let dead = world.path.with_file_name("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(dead.exists());
    let socket = Socket::bind(&dead).unwrap();
    assert!(StdUnixStream::connect(&dead).is_ok());
    drop(socket);
    assert!(!dead.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    File::create(&path).unwrap().write_all(b"mine").unwrap();
    assert_eq!(Socket::bind(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[tokio::test]
async fn a_socket_that_another_server_made_since_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let old = Socket::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let new = Socket::bind(&path).unwrap();
    drop(old);
    assert!(path.exists());
    drop(new);
}
