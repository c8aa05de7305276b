//! Connections that are cut in the middle of coming back: after each byte that the client sends, and
//! after each byte that it reads. Whatever it has heard by then, it comes back once more with what it
//! knows, and nothing is lost, doubled or out of order, whichever way it comes:
//!
//! ```text
//!  classic: login, then <resume/>          inline: <resume/> within the login (SASL 2)
//!  token:   login with a token (FAST) that is replaced each time, Bind 2, stream management anew
//!
//!  online ─ message ─ cut ─ message ─ comes back, cut after n bytes ─ message ─ comes back ─ check
//! ```
//!
//! A sample of the cuts is tried; all of them, in a minute, with
//! `USHER_CUTS=all cargo test --test it cut_bytes`.

use std::collections::{BTreeSet, VecDeque};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{
    crash::{attr, child, text},
    dialogue::{Chunks, Client, Got, HEADER, Link},
    script::Scram,
    world::{PASSWORD, Remote, Socket, World},
    xml::{Item, Tree},
};

const SM: &str = "urn:xmpp:sm:3";
const ENABLE: &str = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>";
pub const AGENT: &str = "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'/>";
const ASK: &str = "<r xmlns='urn:xmpp:sm:3'/>";

/// How many bytes pass in each direction before the connection is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    send: usize,
    receive: usize,
}

pub const NEVER: Cut = Cut { send: usize::MAX, receive: usize::MAX };

/// A connection that is cut in time.
pub struct Cable {
    socket: Socket,
    left: Cut,
    /// What has passed.
    sent: usize,
    received: usize,
}

impl Link for Cable {
    async fn send(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.left.send - self.sent);
        self.sent += count;
        self.socket.send(&bytes[..count]).await;
        if self.sent == self.left.send {
            self.socket.cut();
        }
    }

    async fn receive(&mut self) -> Got {
        let room = self.left.receive - self.received;
        if room == 0 {
            self.socket.cut();
            return Got::Eof;
        }
        match self.socket.receive().await {
            Got::Bytes(mut bytes) => {
                bytes.truncate(room);
                self.received += bytes.len();
                Got::Bytes(bytes)
            }
            other => other,
        }
    }

    async fn start_tls(&mut self) -> Result<(), String> {
        self.socket.start_tls().await
    }

    fn cut(&mut self) {
        self.socket.cut();
    }

    fn binding(&self, kind: &str) -> Vec<u8> {
        self.socket.binding(kind)
    }
}

pub type Wire = Client<Cable>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Classic,
    Inline,
    Token,
}

/// The client that comes back, and all that it knows.
pub struct Device {
    way: Way,
    pub previd: String,
    /// Stanzas that it has handled.
    pub h: u32,
    /// Messages that came, by their numbers.
    pub came: Vec<usize>,
    /// Its own messages that are not acknowledged, by their numbers.
    out: VecDeque<usize>,
    /// Its stanzas that are.
    pub acked: u32,
    /// How many messages it has made.
    made: usize,
    /// Newest last.
    pub tokens: Vec<String>,
    pub count: u64,
}

/// The next element; why there is none.
pub async fn element(wire: &mut Wire) -> Result<Tree, String> {
    loop {
        match wire.next().await? {
            Some(Item::Element(tree)) => return Ok(tree),
            Some(Item::Open(_)) => {}
            other => return Err(format!("{other:?}")),
        }
    }
}

pub async fn expect(wire: &mut Wire, local: &str) -> Result<Tree, String> {
    let tree = element(wire).await?;
    if tree.local == "failure" {
        return Err(crate::dialogue::show(&tree));
    }
    // A connection that is cut says nothing; one that says something else is wrong.
    assert_eq!(tree.local, local, "{}", crate::dialogue::show(&tree));
    Ok(tree)
}

pub fn number(tree: &Tree, name: &str) -> u32 {
    attr(tree, name).and_then(|h| h.parse().ok()).expect("a count")
}

impl Device {
    pub fn new(way: Way) -> Self {
        Self {
            way,
            previd: String::new(),
            h: 0,
            came: Vec::new(),
            out: VecDeque::new(),
            acked: 0,
            made: 0,
            tokens: Vec::new(),
            count: 0,
        }
    }

    /// The first visit: everything that it needs to come back.
    pub async fn arrive(&mut self, world: &World) -> Wire {
        let mut wire = connect(world, self.way, NEVER).await;
        let first = STANDARD.encode(format!("\0alice\0{PASSWORD}"));
        let arrived = async {
            match self.way {
                Way::Classic => {
                    log_in(&mut wire).await?;
                    wire.send(crate::world::bind_request("r")).await;
                    expect(&mut wire, "iq").await?;
                    wire.send(ENABLE).await;
                    let enabled = expect(&mut wire, "enabled").await?;
                    self.previd = attr(&enabled, "id").expect("can be resumed").into();
                }
                Way::Inline | Way::Token => {
                    let success = authenticate(&mut wire, "PLAIN", &first, &bind()).await?;
                    self.bound(&success);
                    expect(&mut wire, "features").await?;
                }
            }
            wire.send("<presence/>").await;
            self.acked = u32::MAX; // Its presence is not acknowledged yet, and is no message.
            Ok::<_, String>(())
        };
        arrived.await.expect("is let in");
        self.h = 0;
        wire.send(ASK).await;
        while self.acked == u32::MAX {
            self.take(&mut wire).await.expect("it goes on");
        }
        wire
    }

    /// What a login that has bound a resource says.
    fn bound(&mut self, success: &Tree) {
        let bound = child(success, "bound").expect("is bound");
        let enabled = child(bound, "enabled").expect("counts");
        self.previd = attr(enabled, "id").expect("can be resumed").into();
        if let Some(token) = child(success, "token") {
            self.tokens.push(attr(token, "token").expect("its text").into());
        }
        (self.h, self.acked) = (0, 0);
    }

    /// Takes in what comes next, and says what it was.
    pub async fn take(&mut self, wire: &mut Wire) -> Result<String, String> {
        let tree = element(wire).await?;
        match tree.local.as_str() {
            "a" => self.acknowledged(number(&tree, "h")),
            "r" => wire.send(format!("<a xmlns='{SM}' h='{}'/>", self.h)).await,
            "message" => {
                self.h += 1;
                let body = text(child(&tree, "body").expect("only messages with a text were sent"));
                self.came.push(body.parse().expect("a number"));
            }
            "iq" | "presence" => self.h += 1,
            other => panic!("<{other}>"),
        }
        Ok(tree.local)
    }

    /// Acknowledges until the server has nothing more for it.
    pub async fn have_all(&mut self, world: &World, wire: &mut Wire) {
        let server = &world.server;
        let account = server.account("alice@localhost").await.expect("is read").expect("is there");
        loop {
            wire.send(format!("<a xmlns='{SM}' h='{}'/>", self.h)).await;
            let ping = "<iq type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>";
            wire.send(ping).await;
            while self.take(wire).await.expect("it goes on") != "iq" {}
            let session = &server.registry.bound("alice@localhost")[0];
            let kept = server
                .store
                .count(&plugins::offline::OFFLINE, account.id.0)
                .await
                .expect("is read");
            // The answer to the ping.
            if kept == 0 && session.mailbox.unacknowledged() == 1 && session.mailbox.untaken() == 0
            {
                return;
            }
        }
    }

    pub fn acknowledged(&mut self, h: u32) {
        if self.acked == u32::MAX {
            // The first word of the server: what has gone before were no messages.
            self.acked = h;
            return;
        }
        let count = usize::try_from(h - self.acked).expect("it does not go back");
        assert!(
            count <= self.out.len(),
            "{h} acknowledged, {} and {:?} sent",
            self.acked,
            self.out
        );
        self.out.drain(..count);
        self.acked = h;
    }

    /// Comes back, and goes on until all is said and `wanted` messages have come. Why not, if it was
    /// cut.
    pub async fn come_back(
        &mut self,
        wire: &mut Wire,
        wanted: usize,
        old: bool,
    ) -> Result<(), String> {
        let resume = format!("<resume xmlns='{SM}' h='{}' previd='{}'/>", self.h, self.previd);
        match self.way {
            Way::Classic => {
                log_in(wire).await?;
                wire.send(resume).await;
                let resumed = expect(wire, "resumed").await?;
                self.acknowledged(number(&resumed, "h"));
            }
            Way::Inline => {
                let first = STANDARD.encode(format!("\0alice\0{PASSWORD}"));
                let success = authenticate(wire, "PLAIN", &first, &resume).await?;
                let resumed = child(&success, "resumed").expect("it is there");
                self.acknowledged(number(resumed, "h"));
            }
            Way::Token => {
                self.count += 1;
                let older = self.tokens.len().saturating_sub(2);
                let token = if old { self.tokens.get(older) } else { self.tokens.last() };
                let token = token.expect("one at least").clone();
                // Once it is tried, whatever there is besides may be over.
                self.tokens = vec![token.clone()];
                let first = STANDARD.encode([b"alice\0".as_slice(), &proof(&token)].concat());
                let fast = format!("<fast xmlns='urn:xmpp:fast:0' count='{}'/>", self.count);
                let inside = fast + &bind();
                let success = authenticate(wire, "HT-SHA-256-NONE", &first, &inside).await?;
                self.bound(&success);
                expect(wire, "features").await?;
            }
        }
        if self.way == Way::Token {
            wire.send("<presence/>").await;
            wire.send(ASK).await;
            self.acked = u32::MAX;
            let different = |came: &[usize]| came.iter().collect::<BTreeSet<_>>().len();
            while self.acked == u32::MAX || different(&self.came) < wanted {
                self.take(wire).await?;
            }
        } else {
            for one in self.out.clone() {
                wire.send(message("bob@localhost/r", one)).await;
            }
            self.made += 1;
            self.out.push_back(self.made);
            wire.send(message("bob@localhost/r", self.made)).await;
            wire.send(ASK).await;
            while !self.out.is_empty() || self.came.len() < wanted {
                self.take(wire).await?;
            }
        }
        wire.send(format!("<a xmlns='{SM}' h='{}'/>", self.h)).await;
        Ok(())
    }
}

pub fn message(to: &str, number: usize) -> String {
    format!("<message to='{to}' type='chat'><body>{number}</body></message>")
}

fn bind() -> String {
    format!(
        "<bind xmlns='urn:xmpp:bind:0'>{ENABLE}</bind>\
         <request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>"
    )
}

fn proof(token: &str) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(token.as_bytes()).expect("any length");
    mac.update(b"Initiator");
    mac.finalize().into_bytes().to_vec()
}

pub async fn connect(world: &World, way: Way, left: Cut) -> Wire {
    // SASL 2 is never offered without TLS.
    let socket = world.connect_in(way != Way::Classic, Chunks::Whole).await.link;
    Client::new(Cable { socket, left, sent: 0, received: 0 }, Chunks::Whole)
}

pub async fn log_in(wire: &mut Wire) -> Result<(), String> {
    wire.send(HEADER).await;
    expect(wire, "features").await?;
    let plan = Scram {
        mechanism: "SCRAM-SHA-256".into(),
        user: "alice".into(),
        password: PASSWORD.into(),
        options: Default::default(),
        inline: None,
    };
    wire.scram(&plan).await?;
    wire.expect_scram().await?;
    wire.send(HEADER).await;
    expect(wire, "features").await.map(drop)
}

async fn authenticate(
    wire: &mut Wire,
    mechanism: &str,
    first: &str,
    inside: &str,
) -> Result<Tree, String> {
    wire.send(HEADER).await;
    expect(wire, "features").await?;
    let xml = format!(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'>\
         <initial-response>{first}</initial-response>{AGENT}{inside}</authenticate>"
    );
    wire.send(xml).await;
    expect(wire, "success").await
}

/// The other side: always there.
struct Bob {
    client: Remote,
    /// How many messages it has sent, each acknowledged.
    sent: usize,
    came: Vec<usize>,
}

impl Bob {
    async fn say(&mut self) {
        self.sent += 1;
        self.client.send(message("alice@localhost", self.sent)).await;
        self.look().await;
    }

    /// Takes in whatever has come by now.
    async fn look(&mut self) {
        let ping = "<iq type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>";
        self.client.send(ping).await;
        loop {
            match self.client.next().await {
                Ok(Some(Item::Element(tree))) if tree.local == "message" => {
                    assert_ne!(attr(&tree, "type"), Some("error"), "what it said has no place");
                    let body = text(child(&tree, "body").expect("a text"));
                    self.came.push(body.parse().expect("a number"));
                }
                Ok(Some(Item::Element(tree))) if tree.local == "iq" => return,
                Ok(Some(Item::Element(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// One cut; how many bytes would have passed without it.
async fn case(world: &World, device: &mut Device, bob: &mut Bob, wire: &mut Wire, cut: Cut) -> Cut {
    let way = device.way;
    bob.say().await;
    wire.link.cut();
    bob.say().await;
    let before = device.came.len();
    let mut broken = connect(world, way, cut).await;
    let went = device.come_back(&mut broken, bob.sent, false).await;
    let passed = Cut { send: broken.link.sent, receive: broken.link.received };
    if cut.send == usize::MAX && cut.receive == usize::MAX {
        went.expect("nothing is cut");
    } else if let Err(why) = went {
        assert!(!why.contains("<failure"), "{way:?}, {cut:?}: {why}");
    }
    broken.link.cut();
    bob.say().await;
    *wire = connect(world, way, NEVER).await;
    // One that has lost the newer of its tokens still has the older one.
    let old = passed.receive.is_multiple_of(2);
    let back = device.come_back(wire, bob.sent, old).await;
    back.unwrap_or_else(|why| panic!("{way:?}, {cut:?}: {why}"));
    bob.look().await;

    assert!(way != Way::Token || device.tokens.len() == 2, "it has the next one as well");

    let all: Vec<usize> = (1..=bob.sent).collect();
    if way == Way::Token {
        // Who does not say what it has may get that again, but nothing that it had acknowledged.
        device.have_all(world, wire).await;
        let again = device.came[before..].iter().any(|one| device.came[..before].contains(one));
        assert!(!again, "{cut:?}: what was acknowledged came again: {:?}", device.came);
        let mut unique = device.came.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique, all, "{cut:?}");
    } else {
        assert_eq!(device.came, all, "{way:?}, {cut:?}: each once and in order");
        let made: Vec<usize> = (1..=device.made).collect();
        assert_eq!(bob.came, made, "{way:?}, {cut:?}: each once and in order");
        assert!(device.out.is_empty());
    }
    passed
}

/// After the first byte, after each that is looked at, and after the last.
fn places(whole: usize, stride: usize) -> impl Iterator<Item = usize> {
    (0..whole).step_by(stride).chain([whole])
}

async fn sweep(way: Way, stride: usize) {
    let stride = if std::env::var_os("USHER_CUTS").is_some() { 1 } else { stride };
    let world = World::start(|config| {
        config.limits.per_address = 0;
        config.limits.connects_per_second = 0;
    })
    .await;
    for name in ["alice", "bob"] {
        world.account(name).await;
    }
    let mut bob = Bob { client: world.available("bob", "r").await, sent: 0, came: Vec::new() };
    let mut device = Device::new(way);
    let mut wire = device.arrive(&world).await;
    let whole = case(&world, &mut device, &mut bob, &mut wire, NEVER).await;
    for send in places(whole.send, stride) {
        case(&world, &mut device, &mut bob, &mut wire, Cut { send, ..NEVER }).await;
    }
    for receive in places(whole.receive, stride) {
        case(&world, &mut device, &mut bob, &mut wire, Cut { receive, ..NEVER }).await;
    }
    // All that it said it has is gone from the server, and nothing else was ever there.
    wire.send(format!("<a xmlns='{SM}' h='{}'/>{ASK}", device.h)).await;
    device.acked = u32::MAX;
    while device.acked == u32::MAX {
        device.take(&mut wire).await.expect("it goes on");
    }
    let all = world.server.registry.bound("alice@localhost");
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].mailbox.unacknowledged() + all[0].mailbox.untaken(), 0);
    let counts = all[0].mailbox.counts().expect("it counts");
    assert_eq!((counts.acked, counts.handled), (device.h, device.acked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_resumed_may_be_cut_after_any_byte() {
    sweep(Way::Classic, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_resumed_with_the_login_may_be_cut_after_any_byte() {
    sweep(Way::Inline, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_with_a_token_may_be_cut_after_any_byte() {
    sweep(Way::Token, 13).await;
}
