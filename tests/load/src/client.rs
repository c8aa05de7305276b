//! The least XMPP client that can log in and talk: plain TCP, one stream, one resource
//! (RFC 6120, sections 4 to 7).
//!
//! It takes one step per round trip as most clients do; it does no TLS, since TLS would be measured
//! in place of the server.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use memchr::{memchr, memmem};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::{
    framing::{Framer, Piece, attribute, text},
    scram,
    target::{Mechanism, PATIENCE, Target},
};

/// A bound session.
pub struct Client {
    pub reader: Reader,
    pub writer: Writer,
    /// The full JID that the server gave.
    pub jid: String,
    /// What resumes its stream, if anything does (XEP-0198).
    pub previd: Option<String>,
}

/// The receiving half of a session.
pub struct Reader {
    socket: OwnedReadHalf,
    framer: Framer,
    /// Stanzas that came, since this was last set.
    pub handled: u32,
}

/// The sending half of a session.
pub struct Writer {
    socket: OwnedWriteHalf,
    /// Goes before what is sent first.
    lead: Vec<u8>,
}

impl Client {
    /// Connects, authenticates account `index` and binds `resource`. Each answer is awaited for
    /// [`PATIENCE`] at most; the error says which step failed and with what condition.
    pub async fn log_in(target: &Target, index: u32, resource: &str) -> Result<Self> {
        let mut client = Self::prove(target, index).await?;
        client.bind(resource).await.context("cannot bind")?;
        Ok(client)
    }

    /// The same up to the features that come after SASL.
    pub async fn prove(target: &Target, index: u32) -> Result<Self> {
        let mut client = Self::connect(target, index).await?;
        let features = client.open(target).await.context("no stream")?;
        client.authenticate(target, index, &features).await.context("cannot authenticate")?;
        client.reader.framer.restart();
        client.open(target).await.context("no stream after SASL")?;
        Ok(client)
    }

    /// Makes an account of the server's (XEP-0077).
    pub async fn register(target: &Target, index: u32) -> Result<()> {
        let mut client = Self::connect(target, index).await?;
        client.open(target).await.context("no stream")?;
        let register = format!(
            "<iq type='set' id='load-register'><query xmlns='jabber:iq:register'>\
             <username>{}</username><password>{}</password></query></iq>",
            target.user(index),
            target.password(index)
        );
        client.writer.send(register.as_bytes()).await?;
        let answer = client.answer("load-register").await?;
        ensure!(attribute(&answer, "type") == Some("result"), "refused: {}", show(&answer));
        client.close().await
    }

    /// Sends initial presence and waits until the server has taken it.
    pub async fn become_available(&mut self) -> Result<()> {
        self.writer.send(b"<presence/>").await?;
        self.sync().await.context("no answer after initial presence")
    }

    /// Fetches the roster, which makes the session interested (RFC 6121, section 2.1.3), and says
    /// how many contacts are subscribed in both directions.
    pub async fn fetch_roster(&mut self) -> Result<usize> {
        let get = "<iq type='get' id='load-roster'><query xmlns='jabber:iq:roster'/></iq>";
        self.writer.send(get.as_bytes()).await?;
        let roster = self.answer("load-roster").await.context("no roster")?;
        let both = |form: &str| memmem::find_iter(&roster, form).count();
        Ok(both("subscription='both'") + both("subscription=\"both\""))
    }

    /// Waits until the server has worked through everything sent so far: stanzas are processed in
    /// order (RFC 6120, section 10.1), so an answered ping is behind them all.
    pub async fn sync(&mut self) -> Result<()> {
        self.sync_hearing(|_| ()).await
    }

    /// The same, and passes on each element that comes before the answer.
    pub async fn sync_hearing(&mut self, heard: impl FnMut(&[u8])) -> Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = format!("load-sync-{}", NEXT.fetch_add(1, Relaxed));
        let ping = format!("<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>");
        self.writer.send(ping.as_bytes()).await?;
        self.answer_hearing(&id, heard).await.map(drop)
    }

    /// Drops the connection as a network does, without a word.
    pub fn cut(self) -> Result<()> {
        let stream = self.reader.socket.reunite(self.writer.socket)?;
        // Reset: the kernel remembers nothing of it, so that its port can be used again.
        Ok(stream.set_zero_linger()?)
    }

    /// Ends the stream as RFC 6120, section 4.4 has it. Fails when the server does not.
    pub async fn close(mut self) -> Result<()> {
        self.writer.close().await?;
        self.reader.end().await
    }

    /// Connects; through a balancer, if there is to be one, which says so before the first bytes.
    pub async fn connect(target: &Target, index: u32) -> Result<Self> {
        let connected = Self::dial(target, index).await;
        connected.with_context(|| format!("cannot connect to {}", target.address))
    }

    async fn dial(target: &Target, index: u32) -> Result<Self> {
        let v4 = target.address.is_ipv4();
        let socket = if v4 { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = target.source(index) {
            socket.bind(source).with_context(|| format!("cannot bind {}", source.ip()))?;
        }
        let stream = timeout(PATIENCE, socket.connect(target.address)).await??;
        stream.set_nodelay(true)?;
        let lead = match target.proxied {
            true => balanced(stream.local_addr()?, target.address),
            false => Vec::new(),
        };
        let (reader, writer) = stream.into_split();
        let reader = Reader { socket: reader, framer: Framer::default(), handled: 0 };
        let writer = Writer { socket: writer, lead };
        Ok(Self { reader, writer, jid: String::new(), previd: None })
    }

    async fn open(&mut self, target: &Target) -> Result<Vec<u8>> {
        self.writer.send(header(target).as_bytes()).await?;
        self.features().await
    }

    /// The next element, which has to be the features of the stream.
    pub async fn features(&mut self) -> Result<Vec<u8>> {
        let features = self.element().await?;
        ensure!(features.starts_with(b"<stream:features"), "no features: {}", show(&features));
        Ok(features)
    }

    async fn authenticate(&mut self, target: &Target, index: u32, features: &[u8]) -> Result<()> {
        let mechanism = target.mechanism;
        let offer = format!("<mechanism>{mechanism}</mechanism>");
        ensure!(
            memmem::find(features, offer.as_bytes()).is_some(),
            "{mechanism} is not offered: {}",
            show(features)
        );
        let user = target.user(index);
        let mut exchange = scram::Exchange::new(&user, nonce());
        let initial = match mechanism {
            Mechanism::OauthBearer => {
                format!("n,,\x01auth=Bearer {}\x01\x01", target.token(index)?)
            }
            Mechanism::Plain => format!("\0{user}\0{}", target.password(index)),
            Mechanism::ScramSha256 => exchange.first(),
        };
        let auth = format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='{mechanism}'>{}</auth>",
            STANDARD.encode(initial)
        );
        self.writer.send(auth.as_bytes()).await?;
        if mechanism == Mechanism::ScramSha256 {
            let challenge = self.element().await?;
            ensure!(challenge.starts_with(b"<challenge"), "refused: {}", show(&challenge));
            let last =
                exchange.last(&payload(&challenge)?, &target.password(index), &target.keys)?;
            let response = format!(
                "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{}</response>",
                STANDARD.encode(last)
            );
            self.writer.send(response.as_bytes()).await?;
        }
        let outcome = self.element().await?;
        ensure!(outcome.starts_with(b"<success"), "refused: {}", show(&outcome));
        if mechanism == Mechanism::ScramSha256 {
            exchange.verify(&payload(&outcome)?)?;
        }
        Ok(())
    }

    async fn bind(&mut self, resource: &str) -> Result<()> {
        let bind = format!(
            "<iq type='set' id='load-bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
             <resource>{resource}</resource></bind></iq>"
        );
        self.writer.send(bind.as_bytes()).await?;
        let answer = self.element().await?;
        ensure!(attribute(&answer, "type") == Some("result"), "refused: {}", show(&answer));
        self.jid = text(&answer, "jid").context("no JID in the answer")?.to_owned();
        Ok(())
    }

    /// Reads up to the answer with this id, past whatever else comes.
    async fn answer(&mut self, id: &str) -> Result<Vec<u8>> {
        self.answer_hearing(id, |_| ()).await
    }

    async fn answer_hearing(&mut self, id: &str, mut heard: impl FnMut(&[u8])) -> Result<Vec<u8>> {
        let answered = async {
            loop {
                let element = self.reader.next().await?;
                if element.starts_with(b"<iq") && attribute(element, "id") == Some(id) {
                    return Ok(element.to_vec());
                }
                heard(element);
            }
        };
        timeout(PATIENCE, answered).await.context("the server took too long")?
    }

    /// The next element, whatever it is.
    pub async fn element(&mut self) -> Result<Vec<u8>> {
        let next = timeout(PATIENCE, self.reader.next()).await;
        Ok(next.context("the server took too long")??.to_vec())
    }
}

impl Reader {
    /// The next stanza. Fails when the stream or the connection ends, with the stream error if
    /// there was one. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<&[u8]> {
        let range = self.range().await?;
        let element = &self.framer.bytes()[range];
        ensure!(!element.starts_with(b"<stream:error"), "stream error: {}", show(element));
        Ok(element)
    }

    /// Reads to the end of the stream, past whatever still comes. Fails on a stream error and
    /// when the end does not come in time.
    pub async fn end(&mut self) -> Result<()> {
        let ended = async {
            loop {
                while let Some(piece) = self.framer.cut()? {
                    let Piece::Element(range) = piece else {
                        continue;
                    };
                    let element = &self.framer.bytes()[range];
                    ensure!(!element.starts_with(b"<stream:error"), "{}", show(element));
                }
                if !self.fill().await? {
                    return Ok(());
                }
            }
        };
        timeout(PATIENCE, ended).await.context("the server did not close")?
    }

    async fn range(&mut self) -> Result<Range<usize>> {
        loop {
            match self.framer.cut()? {
                Some(Piece::Element(range)) => {
                    let element = &self.framer.bytes()[range.clone()];
                    let counts = STANZAS.iter().any(|name| element.starts_with(name.as_bytes()));
                    self.handled = self.handled.wrapping_add(counts.into());
                    return Ok(range);
                }
                Some(Piece::Open(_)) => {}
                Some(Piece::Close) => bail!("the server ended the stream"),
                None if self.fill().await? => {}
                None => bail!("the server dropped the connection"),
            }
        }
    }

    /// Reads once; false at the end.
    async fn fill(&mut self) -> Result<bool> {
        let room = self.framer.room();
        room.reserve(4096);
        Ok(self.socket.read_buf(room).await? > 0)
    }
}

impl Writer {
    /// Sends bytes as they are; waits no longer than [`PATIENCE`] for the server to take them.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let lead = std::mem::take(&mut self.lead);
        let sent = async {
            match lead.is_empty() {
                true => self.socket.write_all(bytes).await,
                // In one segment, as a balancer that waits for the first bytes sends it.
                false => self.socket.write_all(&[&lead, bytes].concat()).await,
            }
        };
        Ok(timeout(PATIENCE, sent).await.context("the server does not read")??)
    }

    /// Closes the stream in this direction.
    pub async fn close(&mut self) -> Result<()> {
        self.send(b"</stream:stream>").await
    }
}

/// What stream management counts.
const STANZAS: [&str; 3] = ["<message", "<presence", "<iq"];

/// The header of a stream.
pub fn header(target: &Target) -> String {
    format!(
        "<?xml version='1.0'?><stream:stream to='{}' version='1.0' xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams'>",
        target.domain
    )
}

/// Differs from login to login.
pub fn nonce() -> String {
    static LOGINS: AtomicU64 = AtomicU64::new(0);
    format!("{}.{}", std::process::id(), LOGINS.fetch_add(1, Relaxed))
}

/// What a balancer says of a client that speaks TLS 1.3 with it: version 2 of HAProxy's PROXY
/// protocol, sections 2.2 and 2.2.5.
fn balanced(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    const VERSION: &[u8] = b"TLSv1.3";
    let mut addresses = Vec::new();
    for address in [client.ip(), server.ip()] {
        match address {
            IpAddr::V4(address) => addresses.extend(address.octets()),
            IpAddr::V6(address) => addresses.extend(address.octets()),
        }
    }
    addresses.extend(client.port().to_be_bytes());
    addresses.extend(server.port().to_be_bytes());
    // By TLS, and it has shown no certificate.
    let mut tls = vec![0x01, 0, 0, 0, 1, 0x21, 0, VERSION.len() as u8];
    tls.extend(VERSION);
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    header.push(if client.is_ipv4() { 0x11 } else { 0x21 });
    header.extend(((addresses.len() + 3 + tls.len()) as u16).to_be_bytes());
    header.extend(addresses);
    header.extend([0x20, 0, tls.len() as u8]);
    header.extend(tls);
    header
}

/// What a SASL element carries.
pub fn payload(element: &[u8]) -> Result<String> {
    let begin = memchr(b'>', element).map_or(0, |at| at + 1);
    let rest = &element[begin..];
    let end = memchr(b'<', rest).unwrap_or(0);
    let decoded = STANDARD.decode(&rest[..end]).context("a SASL payload is not base64")?;
    String::from_utf8(decoded).context("a SASL payload is not text")
}

/// An element for an error message, cut short.
pub fn show(element: &[u8]) -> String {
    let text = String::from_utf8_lossy(element);
    text.chars().take(300).collect()
}
