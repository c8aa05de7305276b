//! The HTTP doors: connections are taken in here, with or without TLS, and their requests given to
//! whatever service the binary puts behind them (HTTP/1.1, RFC 9112). What a request means is not known
//! here, nor is there any HTTP/2: one protocol with one set of limits.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use ::http::{HeaderMap, Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use parking_lot::Mutex;
use server::{Server, bearer::Peer, budget::Verdict, registry::peer_network};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt};

use crate::{
    listener::{Door, Listener},
    tls::Tls,
};

/// Connections at once, over all HTTP doors.
const CONNECTIONS: usize = 1_024;
/// Connections at once from one IPv4 address or IPv6 /64 network; a proxy that is trusted may have all.
const PER_ADDRESS: usize = 64;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the head of a request may take, from the moment that it can come: an idle connection is
/// closed as well.
const HEAD: Duration = Duration::from_secs(30);
/// The longest head of a request in bytes, and how much is read ahead.
const HEAD_BYTES: usize = 16 << 10;
/// Header fields in a request at most.
const HEADERS: usize = 64;
/// How long requests under way are waited for when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What all connections of the HTTP doors share.
pub struct Http<S> {
    server: Arc<Server>,
    tls: Arc<Tls>,
    service: S,
    /// Proxies, whose word on their clients counts.
    trusted: Vec<IpNet>,
    places: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl<S, B> Http<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Error: std::error::Error + Send + Sync> + Send + 'static,
    B::Data: Send,
{
    /// Doors to a service. It finds a [`Peer`] among the extensions of each request.
    pub fn new(server: Arc<Server>, tls: Arc<Tls>, service: S) -> Arc<Self> {
        Arc::new(Self {
            trusted: server.config.http.trusted(),
            server,
            tls,
            service,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            by_address: Mutex::default(),
        })
    }

    /// Takes in connections until `stop` says so; then lets requests under way finish, bounded.
    pub async fn serve(self: Arc<Self>, listener: Listener, mut stop: watch::Receiver<bool>) {
        let encrypted = listener.door() == Door::Https;
        let mut connections = JoinSet::new();
        loop {
            // Those beyond it wait in the kernel.
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let (tcp, peer) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopped(&mut stop) => break,
            };
            while connections.try_join_next().is_some() {}
            let Some(counted) = self.counted(peer.ip().to_canonical()) else { continue };
            let (this, stop) = (self.clone(), stop.clone());
            connections.spawn(async move {
                let _held = (place, counted);
                if let Err(error) = this.connection(tcp, peer, encrypted, stop).await {
                    tracing::debug!(event = "http-connection-lost", %peer, %error);
                }
            });
        }
        drop(listener);
        let rest = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(LAST_WORDS, rest).await;
    }

    /// A place among those of its address, given back when dropped; none: it has as many as it may, or
    /// comes too often.
    fn counted(self: &Arc<Self>, address: IpAddr) -> Option<Counted<S>> {
        if self.trusts(address) {
            return Some(Counted(None));
        }
        match self.server.connects.take(address, self.server.clock.now()) {
            Verdict::Within => {}
            Verdict::First => {
                tracing::info!(event = "connects-too-fast", %address);
                return None;
            }
            Verdict::Beyond => return None,
        }
        let network = peer_network(address);
        let mut by_address = self.by_address.lock();
        let here = by_address.entry(network).or_default();
        if *here >= PER_ADDRESS {
            tracing::info!(event = "http-address-cap", %address);
            return None;
        }
        *here += 1;
        Some(Counted(Some((self.clone(), network))))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    async fn connection(
        self: Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        encrypted: bool,
        stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let _ = tcp.set_nodelay(true);
        // Who does not read holds its place no longer than who does not write.
        let _ = SockRef::from(&tcp).set_tcp_user_timeout(Some(HEAD));
        if !encrypted {
            return self.requests(tcp, Peer { address: peer, encrypted }, stop).await;
        }
        let acceptor = TlsAcceptor::from(self.tls.https_config());
        let shaken = timeout(HANDSHAKE, acceptor.accept(tcp)).await;
        let tls = shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.requests(tls, Peer { address: peer, encrypted }, stop).await
    }

    async fn requests(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let trusted = self.trusts(peer.address.ip().to_canonical());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let peer = if trusted { forwarded(peer, request.headers()) } else { peer };
            request.extensions_mut().insert(peer);
            self.service.clone().oneshot(request)
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            served = connection.as_mut() => return served.map_err(io::Error::other),
            () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
        }
        connection.await.map_err(io::Error::other)
    }
}

/// Ready when the server stops.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One of the connections of an address.
struct Counted<S>(Option<(Arc<Http<S>>, IpAddr)>);

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        let Some((http, address)) = &self.0 else { return };
        let mut by_address = http.by_address.lock();
        if let Some(here) = by_address.get_mut(address) {
            *here -= 1;
            if *here == 0 {
                by_address.remove(address);
            }
        }
    }
}

/// Whom a trusted proxy speaks for. What it has added itself is the last one of each; what stands
/// before may be the client's invention.
fn forwarded(proxy: Peer, headers: &HeaderMap) -> Peer {
    let last = |name: &str| {
        let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
        value.rsplit(',').next().map(str::trim)
    };
    let client = last("x-forwarded-for").and_then(|text| {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let address = text.parse::<SocketAddr>().ok();
        address.or_else(|| Some(SocketAddr::new(bare.parse().ok()?, 0)))
    });
    Peer {
        address: client.unwrap_or(proxy.address),
        encrypted: proxy.encrypted || last("x-forwarded-proto") == Some("https"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_proxy_itself_has_added_counts() {
        let proxy = Peer { address: "127.0.0.1:9".parse().unwrap(), encrypted: false };
        let of = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            let peer = forwarded(proxy, &headers);
            (peer.address.ip().to_string(), peer.encrypted)
        };
        assert_eq!(of(&[]), ("127.0.0.1".into(), false));
        assert_eq!(of(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2")]), ("2.2.2.2".into(), false));
        let twice = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "[2001:db8::1]")];
        assert_eq!(of(&twice), ("2001:db8::1".into(), false));
        assert_eq!(of(&[("x-forwarded-for", "2.2.2.2:80")]), ("2.2.2.2".into(), false));
        assert_eq!(of(&[("x-forwarded-for", "somebody")]), ("127.0.0.1".into(), false));
        let spoof = [("x-forwarded-proto", "https, http")];
        assert_eq!(of(&spoof), ("127.0.0.1".into(), false));
        assert_eq!(of(&[("x-forwarded-proto", "https")]), ("127.0.0.1".into(), true));
    }
}
