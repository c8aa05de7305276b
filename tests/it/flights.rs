//! The real binary, killed with SIGKILL while messages are on their way between clients that count
//! stanzas (XEP-0198): what was acknowledged to its sender arrives, and a client that says how much it
//! has gets nothing twice.

use std::collections::BTreeSet;

use crate::{
    crash::{Process, attr, child, text},
    world::Remote,
    xml::{Item, Tree},
};

/// What one client has of the other's messages, by their numbers, and its count.
#[derive(Default)]
struct Side {
    /// What resumes its stream.
    id: String,
    /// Stanzas that it has handled.
    h: u32,
    /// Messages that came, in their order.
    came: Vec<usize>,
}

impl Side {
    /// Turns counting on.
    async fn enabled(client: &mut Remote) -> Self {
        client.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>").await;
        let vars =
            client.expect("<enabled xmlns='urn:xmpp:sm:3' resume='true' id='${id}' …/>").await;
        Self { id: vars["id"].clone(), ..Self::default() }
    }

    /// Takes in what came next; whether anything did.
    async fn take(&mut self, client: &mut Remote) -> Option<Tree> {
        let Ok(Some(Item::Element(tree))) = client.next().await else { return None };
        if matches!(tree.local.as_str(), "message" | "presence" | "iq") {
            self.h += 1;
        }
        if tree.local == "message" {
            let body = child(&tree, "body").expect("only messages with a text were sent");
            self.came.push(text(body).parse().expect("a number"));
        }
        Some(tree)
    }

    /// Asks the server, which is another one by now, to go on with the stream; what it says to that.
    async fn resume(&self, client: &mut Remote) -> String {
        let (h, id) = (self.h, &self.id);
        client.send(format!("<resume xmlns='urn:xmpp:sm:3' h='{h}' previd='{id}'/>")).await;
        client.element().await
    }
}

fn message(number: usize) -> String {
    format!("<message to='sink@localhost' type='chat'><body>{number}</body></message>")
}

/// Everything that is there for an account, as a client gets it that has just bound.
async fn all(client: &mut Remote) -> Vec<usize> {
    let mut side = Side::default();
    client.send("<presence/><iq type='get' id='end'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    while let Some(tree) = side.take(client).await {
        if attr(&tree, "id") == Some("end") {
            return side.came;
        }
    }
    panic!("the connection ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_to_its_sender_survives_though_nobody_has_acknowledged_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Process::start(dir.path());
    server.import(dir.path());
    let mut sink = server.client("sink").await;
    let mut got = Side::enabled(&mut sink).await;
    sink.send("<presence/>").await;
    got.take(&mut sink).await.expect("its own presence");
    let mut writer = server.client("w0").await;
    let sent = Side::enabled(&mut writer).await;
    for number in 0..30 {
        writer.send(message(number)).await;
    }
    writer.send("<r xmlns='urn:xmpp:sm:3'/>").await;
    writer.expect("<a xmlns='urn:xmpp:sm:3' h='30'/>").await;
    // Ten of them are the client's for good.
    while got.came.len() < 10 {
        got.take(&mut sink).await.expect("a message");
    }
    server.kill();
    server = Process::start(dir.path());

    let mut writer = server.authed("w0").await;
    let said = sent.resume(&mut writer).await;
    assert!(said.starts_with("<failed") && said.contains("h='30'"), "{said}");
    let mut sink = server.authed("sink").await;
    let said = got.resume(&mut sink).await;
    assert!(said.contains("<item-not-found"), "{said}");
    sink.bind("r").await;
    assert_eq!(all(&mut sink).await, (10..30).collect::<Vec<_>>());
    drop(sink);
    let mut again = server.client("sink").await;
    assert_eq!(all(&mut again).await, Vec::<usize>::new());
}

/// One round of the next test: the writer's side and how much was acknowledged to it, and the sink's
/// side, once the server is dead.
async fn round(server: &Process, from: usize) -> (Side, u32, tokio::task::JoinHandle<Side>) {
    let mut sink = server.client("sink").await;
    let mut got = Side::enabled(&mut sink).await;
    sink.send("<presence/>").await;
    got.take(&mut sink).await.expect("its own presence");
    let mut writer = server.client("w0").await;
    let sent = Side::enabled(&mut writer).await;
    let reader = tokio::spawn(async move {
        while let Some(tree) = got.take(&mut sink).await {
            // It acknowledges when it is asked, as clients do.
            if tree.local == "r" {
                sink.send(format!("<a xmlns='urn:xmpp:sm:3' h='{}'/>", got.h)).await;
            }
        }
        got
    });
    let (mut acked, mut number) = (0, from);
    let enough = from + 60 + from % 7;
    while number < enough {
        for _ in 0..3 {
            writer.send(message(number)).await;
            number += 1;
        }
        writer.send("<r xmlns='urn:xmpp:sm:3'/>").await;
        if let Ok(Some(Item::Element(ack))) = writer.next().await {
            acked = attr(&ack, "h").and_then(|h| h.parse().ok()).expect("a count");
        }
    }
    // On its way when the server dies.
    writer.send(message(number)).await;
    (sent, acked, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_comes_twice_to_who_says_what_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = Process::start(dir.path());
    server.import(dir.path());
    let mut from = 0;
    for _ in 0..4 {
        let (sent, acked, reader) = round(&server, from).await;
        server.kill();
        let mut got = reader.await.expect("the reader sees the end");
        server = Process::start(dir.path());

        let mut writer = server.authed("w0").await;
        let said = sent.resume(&mut writer).await;
        let h = said.split("h='").nth(1).and_then(|rest| rest.split('\'').next());
        let h: u32 = h.and_then(|h| h.parse().ok()).expect("how many were handled");
        assert!(h >= acked, "{h} of {acked} that were acknowledged");

        let mut sink = server.authed("sink").await;
        let said = got.resume(&mut sink).await;
        assert!(said.contains("<item-not-found"), "{said}");
        sink.bind("r").await;
        got.came.extend(all(&mut sink).await);
        let unique: BTreeSet<usize> = got.came.iter().copied().collect();
        assert_eq!(unique.len(), got.came.len(), "something came twice: {:?}", got.came);
        assert!(got.came.is_sorted(), "{:?}", got.came);
        let handled = usize::try_from(h).expect("few");
        for number in from..from + handled {
            assert!(unique.contains(&number), "{number} was handled, and is lost");
        }
        from += 1_000;
    }
}
