//! `bench CASE COUNT`: does one thing COUNT times. `tests/bench/run` counts the instructions.
//! `bench scale [SESSIONS]`: a report about a server with so many sessions, a million if not said.
#![forbid(unsafe_code)]

mod scale;

use std::{hint::black_box, net::SocketAddr, process::ExitCode, sync::Arc, task::Waker};

use server::{
    Server, Session,
    account::Role,
    clock::{Clock, Millis},
    config::Config,
    end::{End, Reason},
    keyring::KeyRing,
};
use wire::{Event, Frame, Hash, Jid, Limits, Mechanism, Scanner, Secret};

/// A chat message as clients send them, 415 bytes with its receipt request and origin id.
const MESSAGE: &str = "<message to='juliet@localhost/balcony' type='chat' \
    id='b5a1c2d3-9f3e-4a52-8f6b-0c1d2e3f4a5b' xml:lang='en'><body>Wherefore art thou Romeo? Deny thy \
    father and refuse thy name, or if thou wilt not, be but sworn my love</body><origin-id \
    xmlns='urn:xmpp:sid:0' id='b5a1c2d3-9f3e-4a52-8f6b-0c1d2e3f4a5b'/><request \
    xmlns='urn:xmpp:receipts'/><active xmlns='http://jabber.org/protocol/chatstates'/></message>";

/// Does one thing so many times.
type Case = fn(u64);

const CASES: [(&str, Case); 7] = [
    ("scan-message", scan),
    ("scan-byte-by-byte", scan_slowly),
    ("restamp-message", restamp),
    ("jid-parse", jid),
    ("route-message", route),
    ("registry-find-1000", find),
    ("login-bind-end", life),
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let case = args.next().unwrap_or_default();
    let count = args.next().and_then(|count| count.parse().ok());
    match (CASES.iter().find(|(name, _)| *name == case), count) {
        (Some((_, run)), Some(count)) => {
            run(count);
            ExitCode::SUCCESS
        }
        _ if case == "list" => {
            CASES.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::SUCCESS
        }
        _ if case == "scale" => {
            let sessions = std::env::args().nth(2).map_or(Ok(1_000_000), |count| count.parse());
            let Ok(sessions) = sessions else { return usage() };
            scale::report(sessions);
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: bench CASE COUNT, or bench list, or bench scale [SESSIONS]");
    ExitCode::from(2)
}

fn limits() -> Limits {
    Limits { bytes: 262_144, elements: 10_000, depth: 100, attributes: 100, namespaces: 100 }
}

fn open_scanner() -> Scanner {
    let mut scanner = Scanner::new(limits());
    let header = "<stream:stream xmlns='jabber:client' \
        xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>";
    let opened = scanner.feed(header.as_bytes()).expect("a good header");
    assert!(matches!(opened.1, Some(Event::Open(_))));
    scanner
}

fn scan(count: u64) {
    let mut scanner = open_scanner();
    for _ in 0..count {
        let scanned = scanner.feed(black_box(MESSAGE.as_bytes())).expect("a good stanza");
        assert!(matches!(black_box(scanned).1, Some(Event::Stanza(_))));
    }
}

fn scan_slowly(count: u64) {
    let mut scanner = open_scanner();
    for _ in 0..count {
        for byte in MESSAGE.as_bytes() {
            black_box(scanner.feed(std::slice::from_ref(byte)).expect("a good stanza"));
        }
    }
}

fn restamp(count: u64) {
    let frame = Frame::parse(MESSAGE).expect("a good stanza");
    let from = Some("romeo@localhost/orchard");
    for _ in 0..count {
        black_box(frame.restamp(wire::Stamp { from, to: None, lang: None }));
    }
}

fn jid(count: u64) {
    for _ in 0..count {
        black_box(Jid::parse(black_box("juliet@localhost/balcony")).expect("a good address"));
    }
}

/// A server in memory with every plugin, and a way to give it bound sessions without sockets.
struct Stage {
    runtime: tokio::runtime::Runtime,
    server: Arc<Server>,
}

impl Stage {
    fn new() -> Self {
        let mut config = Config::default();
        config.limits.per_address = 0;
        config.limits.per_account = 0;
        config.limits.mailbox_bytes = usize::MAX;
        let clock = Clock::manual(Millis(1_800_000_000_000));
        let store = store::memory();
        let server = Server::new(config, clock, store, KeyRing::ephemeral(), plugins::ALL);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { runtime, server: server.expect("a server") }
    }

    fn account(&self, user: &str) -> Jid {
        let jid = Jid::parse(&format!("{user}@localhost")).expect("a good address");
        self.runtime.block_on(async {
            let keys = self.server.keys_of(Secret::new("secret")).await.expect("a good password");
            self.server.add_account(&jid, keys, Role::User).await.expect("is new");
        });
        jid
    }

    /// Logs in and binds; what a peer proves on the way is not part of it.
    fn session(&self, account: &Jid, resource: &str) -> Arc<Session> {
        let peer = SocketAddr::from(([127, 0, 0, 1], 5222));
        self.runtime.block_on(async {
            let session = self.server.connect(peer).expect("may connect");
            let found = self.server.scram_keys(&session, account, Hash::Sha256).await;
            let (_, candidate) = found.expect("storage works");
            let mechanism = Mechanism::ScramSha256;
            self.server.enter(&session, candidate, mechanism, None).await.expect("may enter");
            self.server.bind(&session, Some(resource)).await.expect("may bind");
            session
        })
    }

    fn send(&self, session: &Arc<Session>, stanza: &'static str) {
        let frame = Frame::parse(stanza).expect("a good stanza");
        self.runtime.block_on(async {
            self.server.inbound(session, None, frame).decided().await;
        });
    }
}

/// From a validated frame to the receiver's connection: hooks, rules of RFC 6121, mailbox.
fn route(count: u64) {
    let stage = Stage::new();
    let romeo = stage.session(&stage.account("romeo"), "orchard");
    let juliet = stage.session(&stage.account("juliet"), "balcony");
    stage.send(&juliet, "<presence/>");
    let frame = Frame::parse(MESSAGE).expect("a good stanza");
    for _ in 0..count {
        black_box(stage.server.inbound(&romeo, None, frame.clone()));
        let taken =
            juliet.mailbox.take(juliet.mailbox.holder(), usize::MAX, Waker::noop(), |parcel| {
                parcel.pieces(|piece| {
                    black_box(piece);
                });
            });
        assert!(taken != server::mailbox::Take::Empty, "the message has arrived");
    }
}

/// Finding a session among ten thousand by its full JID, a thousand times: the setting varies by more
/// than a single find costs.
fn find(count: u64) {
    let stage = Stage::new();
    let account = stage.account("romeo");
    let others: Vec<_> = (0..100).map(|user| stage.account(&format!("u{user}"))).collect();
    let sessions: Vec<_> = (0..10_000)
        .map(|index| stage.session(&others[index % 100], &format!("r{index}")))
        .collect();
    let session = stage.session(&account, "orchard");
    let full = session.full().expect("is bound");
    for _ in 0..count * 1000 {
        assert!(black_box(stage.server.registry.full(black_box(full))).is_some());
    }
    drop(sessions);
}

/// A whole life without its bytes: connect, log in, bind, end, settle.
fn life(count: u64) {
    let stage = Stage::new();
    let account = stage.account("romeo");
    for _ in 0..count {
        let session = stage.session(&account, "orchard");
        stage.runtime.block_on(async {
            assert!(stage.server.end(&session, End::peer(Reason::Closed)));
            stage.server.settle(&session).await;
        });
    }
}
