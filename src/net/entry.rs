//! From an accepted socket to a connection that is served: the budget of its address, socket options,
//! the header of a trusted balancer, and the server's word on whether there is room.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use server::{Server, budget::Verdict, random, session::TlsInfo};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use wire::stream::{Settings, Stream, TlsUp};

use crate::{
    conn::{Conn, Shared, serve},
    keepalive::Keepalive,
    listener::Door,
    proxy::{Header, ProxyError, Reader, Version},
    tls::Tls,
};

/// How long a balancer may take for its header: a lost packet is sent again within it.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// What all connections of a door are taken in by.
pub(crate) struct Entry {
    shared: Arc<Shared>,
    /// The connection starts with TLS.
    direct: bool,
    /// Balancers, whose word on their clients counts.
    trusted: Vec<IpNet>,
    /// Their word on TLS counts too.
    trusted_tls: bool,
    keepalive: Keepalive,
}

impl Entry {
    pub(crate) fn new(door: Door, server: Arc<Server>, tls: Arc<Tls>) -> Self {
        let config = &server.config;
        let settings = Arc::new(settings(&server, door));
        Self {
            direct: door == Door::C2sTls,
            trusted: config.listen.trusted(),
            trusted_tls: config.listen.proxies_tls,
            keepalive: Keepalive::new(&config.sessions),
            shared: Arc::new(Shared { server, settings, tls }),
        }
    }

    /// Waits until another connection may be taken in.
    pub(crate) async fn room(&self) {
        self.shared.server.logins.room().await;
    }

    /// Takes in a connection; never waits.
    pub(crate) fn take(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr) {
        let address = peer.ip().to_canonical();
        let proxied = self.trusted.iter().any(|network| network.contains(&address));
        if !proxied && !self.within_budget(address) {
            return;
        }
        if let Err(error) = self.keepalive.tune(&tcp) {
            tracing::debug!(event = "socket-options", %error);
        }
        if proxied {
            tokio::spawn(self.clone().take_proxied(tcp, peer));
        } else {
            self.admit(tcp, peer, None);
        }
    }

    /// The same for a balancer: waits for what it says of its client.
    async fn take_proxied(self: Arc<Self>, mut tcp: TcpStream, balancer: SocketAddr) {
        let header = match timeout(HEADER_TIME, header(&mut tcp)).await {
            Ok(Ok(header)) => header,
            Ok(Err(HeaderError::Nothing)) => {
                return tracing::debug!(event = "proxy-looked-in", %balancer);
            }
            Ok(Err(error)) => return refused(balancer, &error),
            Err(_) => return refused(balancer, &HeaderError::Slow),
        };
        let tls = match header.tls.filter(|_| self.trusted_tls).map(by_proxy).transpose() {
            Ok(tls) => tls,
            Err(error) => return refused(balancer, &error),
        };
        // The balancer's own connections are its operator's business.
        if header.client.is_none_or(|client| self.within_budget(client.ip())) {
            self.admit(tcp, header.client.unwrap_or(balancer), tls);
        }
    }

    /// Whether an address may open another connection now. If not, it is closed without a word: that
    /// is all it costs.
    fn within_budget(&self, address: IpAddr) -> bool {
        let server = &self.shared.server;
        match server.connects.take(address, server.clock.now()) {
            Verdict::Within => return true,
            Verdict::First => tracing::info!(event = "connects-too-fast", %address),
            Verdict::Beyond => {}
        }
        false
    }

    fn admit(&self, tcp: TcpStream, peer: SocketAddr, by_proxy: Option<(TlsInfo, TlsUp)>) {
        let shared = &self.shared;
        match shared.server.connect(peer) {
            Ok(session) => {
                let (info, up) = by_proxy.unzip();
                if let Some(info) = info {
                    session.set_tls(info);
                }
                tokio::spawn(serve(Conn::new(shared.clone(), session, tcp, self.direct, up)));
            }
            // A courtesy: it fits into the empty send buffer, or the peer learns nothing.
            Err(error) if !self.direct || by_proxy.is_some() => {
                let mut stream = Stream::new(shared.settings.clone(), None);
                let _ = tcp.try_write(&stream.farewell(Some(&error), &mut random::text));
            }
            Err(_) => {}
        }
    }
}

/// Why a balancer's connection is closed.
#[derive(Debug, thiserror::Error)]
enum HeaderError {
    #[error("it closed before its header was whole")]
    CutOff,
    #[error(transparent)]
    Header(#[from] ProxyError),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It only looked whether we are there.
    #[error("it closed without a word")]
    Nothing,
    #[error("its client's TLS is older than 1.2, or not known")]
    OldTls,
    #[error("its header took longer than {} s", HEADER_TIME.as_secs())]
    Slow,
}

fn refused(balancer: SocketAddr, error: &HeaderError) {
    tracing::warn!(event = "proxy-header-refused", %balancer, %error);
}

/// Reads the header and not one byte more: what follows may be for TLS.
async fn header(tcp: &mut TcpStream) -> Result<Header, HeaderError> {
    let mut reader = Reader::default();
    let mut buffer = [0; 512];
    loop {
        let seen = tcp.peek(&mut buffer).await?;
        let seen = buffer.get_mut(..seen).unwrap_or_default();
        if seen.is_empty() {
            let nothing = reader.is_empty();
            return Err(if nothing { HeaderError::Nothing } else { HeaderError::CutOff });
        }
        let (used, header) = reader.feed(seen)?;
        tcp.read_exact(seen.get_mut(..used).unwrap_or_default()).await?;
        if let Some(header) = header {
            return Ok(header);
        }
    }
}

/// Encryption that ends at the balancer: there is nothing that a login could be bound to.
fn by_proxy(version: Version) -> Result<(TlsInfo, TlsUp), HeaderError> {
    let (name, number) = match version {
        Version::Tls12 => ("TLSv1.2", Some(0x0303)),
        Version::Tls13 => ("TLSv1.3", Some(0x0304)),
        Version::Unsaid => ("TLS", None),
        Version::Other => return Err(HeaderError::OldTls),
    };
    let info = TlsInfo { version: name, cipher: "by proxy" };
    Ok((info, TlsUp { version: number, ..TlsUp::default() }))
}

/// What the streams of a door announce and accept.
fn settings(server: &Server, door: Door) -> Settings {
    let (config, registered) = (&server.config, &server.registrations);
    let mut inline: Vec<_> = registered.inline.iter().map(|inline| inline.var).collect();
    inline.dedup();
    let mut settings = Settings::new(server.hosts.clone());
    settings.starttls = door == Door::C2s;
    settings.tls_required = config.tls.required;
    settings.attempts = config.auth.attempts;
    settings.features = registered.stream_features.clone();
    settings.inline = inline;
    settings.upgrades = vec![server::task::UPGRADE];
    settings.nonzas = registered.nonzas.iter().map(|n| (n.namespace, n.local)).collect();
    settings.max_bytes = (config.limits.unauthed.stanza_bytes, config.limits.bound.stanza_bytes);
    settings.idle = config.sessions.inactivity.get();
    settings
}
