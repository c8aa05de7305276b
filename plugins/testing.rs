//! A vocabulary for tests: a server with a store in memory and a clock that stands still, and
//! clients that enter it where a connection would, without sockets.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
};

use parking_lot::Mutex;
use server::{
    Server, Session,
    account::Role,
    clock::{Clock, Millis},
    config::Config,
    hooks::Flow,
    keyring::KeyRing,
    plugin::Plugin,
    store::{Range, Row, SharedStore, Table},
};
use wire::{Frame, Hash, Jid, Mechanism, Secret, StanzaError};

/// When the clock stands still: 2026-11-22T10:00:00Z.
const NOW: Millis = Millis(1_795_341_600_000);

/// A server.
pub struct World {
    pub server: Arc<Server>,
    pub store: SharedStore,
    pub clock: Clock,
}

/// A client that is bound.
pub struct Client {
    server: Arc<Server>,
    pub session: Arc<Session>,
    pub jid: Jid,
    /// `xml:lang` of its stream.
    pub lang: Option<Arc<str>>,
    inbox: Mutex<Vec<String>>,
}

impl World {
    /// With these accounts at `localhost`.
    pub async fn new(users: &[&str]) -> Self {
        Self::with(users, |_| {}).await
    }

    /// With another configuration.
    pub async fn with(users: &[&str], configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.auth.scram_iterations = 4096;
        configure(&mut config);
        let (store, clock) = (store::memory(), Clock::manual(NOW));
        let world = Self::start(config, store, clock, crate::ALL);
        for user in users {
            world.add(user).await;
        }
        world
    }

    fn start(config: Config, store: SharedStore, clock: Clock, all: &'static [Plugin]) -> Self {
        let keys = KeyRing::ephemeral();
        let server = Server::new(config, clock.clone(), store.clone(), keys, all);
        Self { server: server.expect("the configuration is sound"), store, clock }
    }

    /// Another server on the same store, as after a crash or a restart.
    pub fn restarted(&self) -> Self {
        Self::start(self.server.config.clone(), self.store.clone(), self.clock.clone(), crate::ALL)
    }

    /// Adds an account.
    pub async fn add(&self, user: &str) {
        let keys = self.server.keys_of(Secret::new(b"pencil".to_vec())).await.expect("has keys");
        let added = self.server.add_account(&bare(user), keys, Role::User).await;
        added.expect("is new");
    }

    /// Logs in and binds, as in `world.bind("romeo/orchard")`.
    pub async fn bind(&self, who: &str) -> Client {
        self.try_bind(who).await.expect("is let in")
    }

    /// The same, when the bind may be refused.
    pub async fn try_bind(&self, who: &str) -> Result<Client, StanzaError> {
        let (user, resource) = who.split_once('/').expect("user/resource");
        let peer = "127.0.0.1:5222".parse().expect("is an address");
        let session = self.server.connect(peer).expect("is let in");
        let proved = self.server.scram_keys(&session, &bare(user), Hash::Sha256).await;
        let proved = proved.expect("has keys");
        let entered = self.server.enter(&session, proved.1, Mechanism::ScramSha256, None).await;
        entered.expect("is let in");
        let jid = self.server.bind(&session, Some(resource)).await?;
        Ok(Client {
            server: self.server.clone(),
            session,
            jid,
            lang: None,
            inbox: Mutex::default(),
        })
    }

    /// Binds, fetches the roster, sends initial presence, and forgets what came of it.
    pub async fn online(&self, who: &str) -> Client {
        let client = self.bind(who).await;
        client.send("<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>").await;
        client.send("<presence/>").await;
        client.take();
        client
    }

    /// Rows of an account in a table.
    pub async fn rows(&self, table: &'static Table, user: &str) -> Vec<Row> {
        let account = self.server.account(bare(user).as_str()).await.expect("is read");
        let owner = account.expect("exists").id.0;
        self.store.rows(table, owner, Range::all()).await.expect("is read")
    }

    /// Makes two accounts see each other.
    pub async fn befriend(&self, one: &str, other: &str) {
        for (a, b) in [(one, other), (other, one)] {
            let (a, b) =
                (self.online(&format!("{a}/x")).await, self.online(&format!("{b}/x")).await);
            a.send(&format!("<presence type='subscribe' to='{}'/>", b.jid.bare())).await;
            b.send(&format!("<presence type='subscribed' to='{}'/>", a.jid.bare())).await;
            a.vanish().await;
            b.vanish().await;
        }
    }
}

impl Client {
    /// Sends a stanza and waits until the next one may be sent. Reads meanwhile, as connections do.
    pub async fn send(&self, xml: &str) {
        let mut flow = pin!(self.inbound(xml));
        let flow = poll_fn(|cx| {
            let polled = flow.as_mut().poll(cx);
            self.read(cx.waker());
            polled
        });
        assert!(matches!(flow.await, Flow::Done), "the server deals with every stanza");
    }

    /// Sends a stanza, and from then on neither reads nor sends.
    pub async fn send_and_stall(&self, xml: &str) {
        let mut flow = pin!(self.inbound(xml));
        // What others do for it goes on beside.
        for _ in 0..100 {
            if poll_fn(|cx| Poll::Ready(flow.as_mut().poll(cx).is_ready())).await {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn inbound(&self, xml: &str) -> impl Future<Output = Flow> + use<> {
        let frame = Frame::parse(xml.as_bytes().to_vec()).expect("is well-formed");
        self.server.inbound(&self.session, self.lang.as_ref(), frame).decided()
    }

    fn read(&self, waker: &Waker) {
        self.session.mailbox.take(self.session.mailbox.holder(), usize::MAX, waker, |parcel| {
            let mut whole = Vec::new();
            parcel.pieces(|piece| whole.extend_from_slice(&piece));
            Frame::parse(whole.clone()).expect("what the server sends is well-formed");
            let text = String::from_utf8(whole).expect("what the server sends is UTF-8");
            self.inbox.lock().push(text);
        });
    }

    /// Takes all that has come, oldest first. Everything has to be well-formed.
    pub fn take(&self) -> Vec<String> {
        self.read(Waker::noop());
        std::mem::take(&mut *self.inbox.lock())
    }

    /// Sends a stanza and takes what came of it; what came before is forgotten.
    pub async fn tell(&self, xml: &str) -> Vec<String> {
        self.take();
        self.send(xml).await;
        self.take()
    }

    /// Asks something, and takes the one answer.
    pub async fn ask(&self, xml: &str) -> String {
        let mut came = self.tell(xml).await;
        assert_eq!(came.len(), 1, "one answer: {came:?}");
        came.remove(0)
    }

    /// Sets a contact; the inside of the item is given.
    pub async fn set(&self, item: &str) -> Vec<String> {
        let query = format!("<query xmlns='jabber:iq:roster'>{item}</query>");
        self.tell(&format!("<iq type='set' id='s'>{query}</iq>")).await
    }

    /// Asks for the roster.
    pub async fn roster(&self) -> String {
        self.ask("<iq type='get' id='g'><query xmlns='jabber:iq:roster'/></iq>").await
    }

    /// The connection breaks.
    pub async fn vanish(self) {
        self.server.settle(&self.session).await;
    }
}

/// An account at `localhost`.
pub fn bare(user: &str) -> Jid {
    Jid::from_parts(Some(user), "localhost", None).expect("is an address")
}

/// Whether exactly one stanza has all of these parts.
pub fn one(stanzas: &[String], parts: &[&str]) -> bool {
    stanzas.iter().filter(|stanza| parts.iter().all(|part| stanza.contains(part))).count() == 1
}

/// Waits for something that another task does.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..5000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("never came true: {what}");
}
