//! The real binary, killed with SIGKILL in the middle of work and started again on the same data:
//! what was acknowledged is there, in order and once; what was revoked stays dead.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    dialogue::{Chunks, Client},
    world::{ParseJid, ROSTER, Remote, Socket},
    xml::{Item, Node, Tree},
};

const WRITERS: usize = 4;

/// An `usher serve` of its own.
pub struct Process {
    child: Child,
    address: SocketAddr,
    config: PathBuf,
}

impl Process {
    pub fn start(dir: &Path) -> Self {
        let config = dir.join("usher.toml");
        let text = format!(
            "data_dir = {:?}\n[listen]\nc2s = ['127.0.0.1:0']\nc2s_tls = []\n[tls]\nrequired = false\n\
             [auth]\nscram_iterations = 4096\n[storage_limits]\noffline_messages = 1000000\n",
            dir.join("data")
        );
        std::fs::write(&config, text).expect("a configuration");
        let mut child = Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(["serve", "--config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let stdout = child.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let first = lines.next().expect("it says where it listens");
        let address = first.split(' ').nth(2).expect("`listening on ADDRESS …`");
        let address = address.parse().expect("an address");
        // It says that it serves once the admin socket is there.
        assert!(lines.any(|line| line.starts_with("serving ")), "it never came up");
        Self { child, address, config }
    }

    /// SIGKILL; dropping it is all there is to it.
    pub fn kill(self) {}

    fn usher(config: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
        command.args(args).arg("--json").arg("--config").arg(config);
        command.stdin(Stdio::null()).output().expect("it runs")
    }

    fn rows(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let out = Self::usher(&self.config, args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).expect("a list")
    }

    pub fn import(&self, dir: &Path) {
        let file = dir.join("users.csv");
        let users = (0..WRITERS).map(|writer| format!("w{writer}@localhost,secret\n"));
        let users: String = users.chain(["sink@localhost,secret\n".into()]).collect();
        std::fs::write(&file, users).expect("a file");
        let file = file.to_str().expect("a path");
        let out = Self::usher(&self.config, &["user", "import", file]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// A client that has logged in and bound nothing.
    pub async fn authed(&self, user: &str) -> Remote {
        let tcp = TcpStream::connect(self.address).await.expect("is let in");
        tcp.set_nodelay(true).expect("a socket option");
        let mut client = Client::new(Socket::Tcp(tcp), Chunks::Whole);
        client.login(user, "secret").await;
        client
    }

    pub async fn client(&self, user: &str) -> Remote {
        let mut client = self.authed(user).await;
        client.bind("r").await;
        client
    }
}

/// A test that fails leaves no server behind.
impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }
}

/// What the server has acknowledged.
#[derive(Default)]
struct Acknowledged {
    contacts: Vec<(usize, usize)>,
    messages: Vec<(usize, usize)>,
    minted: Vec<String>,
    revoked: Vec<String>,
}

type Book = Arc<Mutex<Acknowledged>>;

/// Until the server dies: sets a contact, then sends a message to somebody absent and a ping behind
/// it, whose answer says that the message has been dealt with.
async fn write(mut client: Remote, writer: usize, round: usize, book: Book) {
    for number in (round * 1_000_000).. {
        client
            .send(format!(
                "<iq type='set' id='c'><query xmlns='jabber:iq:roster'>\
                 <item jid='c{number}@elsewhere'/></query></iq>"
            ))
            .await;
        if !answered(&mut client, "c").await {
            return;
        }
        book.lock().contacts.push((writer, number));
        client
            .send(format!(
                "<message to='sink@localhost' type='chat'><body>{writer} {number}</body></message>\
                 <iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>"
            ))
            .await;
        if !answered(&mut client, "p").await {
            return;
        }
        book.lock().messages.push((writer, number));
    }
}

/// Whether a result with this id comes before the connection is over.
async fn answered(client: &mut Remote, id: &str) -> bool {
    while let Ok(Some(item)) = client.next().await {
        if let Item::Element(tree) = item
            && attr(&tree, "id") == Some(id)
        {
            return attr(&tree, "type") == Some("result");
        }
    }
    false
}

/// Until the server dies: mints tokens and revokes every second one.
fn mint(config: &Path, book: &Book) {
    loop {
        let out = Process::usher(config, &["token", "mint", "sink@localhost"]);
        if !out.status.success() {
            return;
        }
        let said: serde_json::Value = serde_json::from_slice(&out.stdout).expect("an outcome");
        let id = said["id"].as_str().expect("an id").to_owned();
        let revoke = book.lock().minted.len() % 2 == 1;
        book.lock().minted.push(id.clone());
        if revoke {
            if !Process::usher(config, &["token", "revoke", &id]).status.success() {
                return;
            }
            book.lock().revoked.push(id);
        }
    }
}

pub fn attr<'a>(tree: &'a Tree, name: &str) -> Option<&'a str> {
    tree.attrs.get(&(String::new(), name.to_owned())).map(String::as_str)
}

pub fn child<'a>(tree: &'a Tree, local: &str) -> Option<&'a Tree> {
    tree.content.iter().find_map(|node| match node {
        Node::Element(child) if child.local == local => Some(child),
        _ => None,
    })
}

pub fn text(tree: &Tree) -> String {
    let texts = tree.content.iter().filter_map(|node| match node {
        Node::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_04_nothing_acknowledged_is_lost_when_it_is_killed_under_load() {
    let dir = tempfile::tempdir().expect("a directory");
    let book = Book::default();
    let mut server = Process::start(dir.path());
    server.import(dir.path());

    for round in 0..2 {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let client = server.client(&format!("w{writer}")).await;
            writers.spawn(write(client, writer, round, book.clone()));
        }
        let (config, minting) = (server.config.clone(), book.clone());
        let minter = tokio::task::spawn_blocking(move || mint(&config, &minting));

        // Enough of everything, then at once.
        let before = book.lock().messages.len();
        crate::world::assert_eventually("there is something to lose", || {
            let book = book.lock();
            book.messages.len() > before + 100 && book.revoked.len() > round
        })
        .await;
        server.kill();
        while writers.join_next().await.is_some() {}
        minter.await.expect("the minter sees the end");
        server = Process::start(dir.path());
    }

    // Writers first: theirs is only looked at, while the messages leave storage.
    for writer in 0..WRITERS {
        let mut client = server.client(&format!("w{writer}")).await;
        client.send(ROSTER).await;
        let Ok(Some(Item::Element(roster))) = client.next().await else { panic!("no roster") };
        let query = child(&roster, "query").expect("a query");
        let listed: Vec<&str> = query
            .content
            .iter()
            .filter_map(|node| match node {
                Node::Element(item) => attr(item, "jid"),
                _ => None,
            })
            .collect();
        for (_, number) in book.lock().contacts.iter().filter(|(of, _)| *of == writer) {
            let jid = format!("c{number}@elsewhere").parse_jid();
            assert!(listed.contains(&jid.as_str()), "{jid} was acknowledged to w{writer}");
        }
    }
    messages_are_there(&server, &book).await;
    tokens_are_as_acknowledged(&server, &book);
    server.kill();
}

async fn messages_are_there(server: &Process, book: &Book) {
    let mut sink = server.client("sink").await;
    sink.send("<presence/><iq type='get' id='end'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    let mut came: Vec<(usize, usize)> = Vec::new();
    loop {
        match sink.next().await.expect("the messages come") {
            Some(Item::Element(tree)) if tree.local == "message" => {
                let body = text(child(&tree, "body").expect("a body"));
                let (writer, number) = body.split_once(' ').expect("two numbers");
                came.push((writer.parse().expect("one"), number.parse().expect("two")));
                assert!(child(&tree, "delay").is_some(), "it says when it came");
            }
            Some(Item::Element(tree)) if attr(&tree, "id") == Some("end") => break,
            Some(Item::Element(_)) => {}
            other => panic!("{other:?} before all messages were there"),
        }
    }
    for writer in 0..WRITERS {
        let of = |list: &[(usize, usize)]| -> Vec<usize> {
            list.iter().filter(|(of, _)| *of == writer).map(|(_, number)| *number).collect()
        };
        let came = of(&came);
        assert!(came.is_sorted_by(|a, b| a < b), "w{writer}: in order, each once: {came:?}");
        for number in of(&book.lock().messages) {
            assert!(came.contains(&number), "{number} of w{writer} was acknowledged");
        }
    }
}

fn tokens_are_as_acknowledged(server: &Process, book: &Book) {
    let listed = server.rows(&["token", "list", "sink@localhost"]);
    let state = |id: &String| {
        let row = listed.iter().find(|row| row["id"] == id.as_str());
        row.map(|row| row["state"].as_str().unwrap_or_default().to_owned())
    };
    let book = book.lock();
    for id in &book.minted {
        assert!(state(id).is_some(), "{id} was minted");
    }
    for id in &book.revoked {
        assert_eq!(state(id).as_deref(), Some("revoked"), "{id} stays dead");
    }
    let audit = server.rows(&["audit", "list", "--limit", "1000000"]);
    let revoked = audit.iter().filter(|row| row["what"] == "token revoke").count();
    assert!(revoked >= book.revoked.len(), "every acknowledged act is in the audit");
}
