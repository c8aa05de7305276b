//! Two clients that write to each other while their connections break at random points: each gets
//! every message of the other exactly once and in order, against the simplest model there is.

use std::collections::VecDeque;

use crate::{
    managed::{attribute, content},
    world::{Remote, World},
};

/// A client that keeps what XEP-0198 tells it to keep.
struct Peer {
    name: &'static str,
    other: &'static str,
    remote: Option<Remote>,
    id: String,
    /// Messages that it has written, and how many of them are acknowledged.
    written: u32,
    waiting: VecDeque<u32>,
    acked: u32,
    /// Stanzas that it was sent.
    handled: u32,
    seen: Vec<u32>,
}

impl Peer {
    async fn new(world: &World, name: &'static str, other: &'static str) -> Self {
        world.account(name).await;
        let (remote, id) = world.managed(name, "r").await;
        let (waiting, seen) = (VecDeque::new(), Vec::new());
        Self {
            name,
            other,
            remote: Some(remote),
            id,
            written: 0,
            waiting,
            acked: 0,
            handled: 0,
            seen,
        }
    }

    fn message(&self, number: u32) -> String {
        let to = self.other;
        format!("<message type='chat' to='{to}@localhost/r'><body>{number}</body></message>")
    }

    /// Whether it has a connection or not: what cannot be sent now is sent when it is back.
    async fn write(&mut self) {
        let message = self.message(self.written);
        self.waiting.push_back(self.written);
        self.written += 1;
        if let Some(remote) = &mut self.remote {
            remote.send(message).await;
        }
    }

    fn acknowledged(&mut self, h: &str) {
        let h: u32 = h.parse().expect("a count");
        for _ in 0..h.checked_sub(self.acked).expect("does not go back") {
            self.waiting.pop_front().expect("no more than was sent");
        }
        self.acked = h;
    }

    async fn take(&mut self, element: &str) {
        if element.starts_with("<message") {
            assert!(!element.contains("type='error'"), "{}: {element}", self.name);
            self.handled += 1;
            self.seen
                .push(content(element, "body").and_then(|n| n.parse().ok()).expect("a number"));
        } else if element.starts_with("<r ") {
            let ack = format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", self.handled);
            self.remote.as_mut().expect("is there").send(ack).await;
        } else if element.starts_with("<a ") {
            self.acknowledged(attribute(element, "h").expect("has one"));
        } else {
            panic!("{}: {element}", self.name);
        }
    }

    /// Reads until the server has said how many it has handled.
    async fn catch_up(&mut self) {
        let Some(remote) = &mut self.remote else { return };
        remote.send("<r xmlns='urn:xmpp:sm:3'/>").await;
        loop {
            let element = self.remote.as_mut().expect("is there").element().await;
            self.take(&element).await;
            if element.starts_with("<a ") {
                return;
            }
        }
    }

    async fn come_back(&mut self, world: &World) {
        let (mut remote, answer) = world.try_to_resume(self.name, &self.id, self.handled).await;
        assert!(answer.starts_with("<resumed "), "{}: {answer}", self.name);
        self.acknowledged(attribute(&answer, "h").expect("has one"));
        for &number in &self.waiting {
            remote.send(self.message(number)).await;
        }
        self.remote = Some(remote);
    }
}

/// Xorshift: any seed but 0 will do.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 8
}

async fn run(seed: u64) {
    let world = World::start(|config| config.limits.per_address = 0).await;
    let mut peers =
        [Peer::new(&world, "alice", "bob").await, Peer::new(&world, "bob", "alice").await];
    let mut state = seed;
    let mut resumptions = [0; 2];
    for _ in 0..120 {
        let which = usize::from(random(&mut state) & 1 == 0);
        let peer = &mut peers[which];
        match random(&mut state) % 8 {
            0..=3 => peer.write().await,
            4 => peer.catch_up().await,
            // Cut while things are on their way in both directions.
            5 => peer.remote = None,
            _ => {
                // A live one is resumed as well, now and then.
                resumptions[which] += 1;
                peer.come_back(&world).await;
            }
        }
    }
    for peer in &mut peers {
        peer.come_back(&world).await;
        peer.catch_up().await;
    }
    for _ in 0..3 {
        for peer in &mut peers {
            peer.catch_up().await;
        }
    }
    for (peer, other) in [(&peers[0], &peers[1]), (&peers[1], &peers[0])] {
        let wanted: Vec<u32> = (0..other.written).collect();
        assert_eq!(peer.seen, wanted, "{} with seed {seed}", peer.name);
        assert_eq!((peer.waiting.len(), peer.acked), (0, peer.written), "seed {seed}");
        let session = world.session(&format!("{}@localhost/r", peer.name));
        let counts = session.mailbox.counts().expect("is managed");
        assert_eq!(counts.handled, peer.written, "seed {seed}");
        assert_eq!(session.mailbox.len(), 0, "seed {seed}");
    }
    assert!(resumptions.iter().all(|count| *count > 3), "{resumptions:?}");
}

#[tokio::test]
async fn m3_random_cuts_lose_and_repeat_nothing() {
    for seed in 1..=12_u64 {
        run(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)).await;
    }
}
