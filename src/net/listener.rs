//! Doors: addresses on which connections are taken in.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use server::Server;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::{entry::Entry, inherited::Kept, tls::Tls};

/// Connections that the kernel keeps while none is accepted.
const BACKLOG: i32 = 4096;

/// What is spoken at a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Clients that start in the clear and may upgrade.
    C2s,
    /// Clients that start with TLS.
    C2sTls,
    /// HTTP in the clear.
    Http,
    /// HTTP with TLS.
    Https,
}

impl Door {
    /// The key in `[listen]`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::C2s => "c2s",
            Self::C2sTls => "c2s_tls",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has the port.
    #[error(
        "cannot listen on {address}: the port is in use; hint: stop the other program \
         (`ss -ltnp` shows it) or set `listen.{key}` to another address"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The key in `[listen]`.
        key: &'static str,
    },
    /// Something was passed on to the server that it cannot listen on.
    #[error(
        "what was passed on to the server as `{name}` is no listening TCP socket: {error}; hint: \
         correct `ListenStream=` in the socket unit"
    )]
    NotListening {
        /// As it was passed on.
        name: String,
        /// What is wrong.
        error: io::Error,
    },
    /// A socket was passed on to the server that nothing is configured for.
    #[error(
        "a socket for {address} was passed on to the server, but it is not configured to listen \
         there; hint: add the address to the door in `[listen]` that it is for, or take it out of \
         the socket unit"
    )]
    NotWanted {
        /// Where the socket listens.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {error}; hint: check `listen.{key}`")]
    Io {
        /// The address.
        address: SocketAddr,
        /// The key in `[listen]`.
        key: &'static str,
        /// What failed.
        error: io::Error,
    },
}

/// A bound address; connections wait in the kernel until [`run`](Self::run).
pub struct Listener {
    socket: TcpListener,
    door: Door,
}

impl Listener {
    /// Binds an address. `[::]` takes IPv4 as well, and alone where there is no IPv6.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(door: Door, address: SocketAddr) -> Result<Self, ListenError> {
        let bound = match open(address) {
            Err(_) if address.ip().is_unspecified() && address.is_ipv6() && !has_ipv6() => {
                open((Ipv4Addr::UNSPECIFIED, address.port()).into())
            }
            other => other,
        };
        match bound {
            Ok(socket) => Ok(Self { socket, door }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(ListenError::InUse { address, key: door.key() })
            }
            Err(error) => Err(ListenError::Io { address, key: door.key(), error }),
        }
    }

    /// Takes over a socket that listens already.
    pub(crate) fn inherit(
        door: Door,
        address: SocketAddr,
        socket: std::net::TcpListener,
    ) -> Result<Self, ListenError> {
        let failed = |error| ListenError::Io { address, key: door.key(), error };
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket: TcpListener::from_std(socket).map_err(failed)?, door })
    }

    /// Keeps the socket open beyond the life of the listener.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn keep(&self) -> io::Result<Kept> {
        Ok(Kept::new(self.socket.as_fd().try_clone_to_owned()?, self.door))
    }

    /// The address as bound, with the real port.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// What is spoken here.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door
    }

    /// Takes in chat clients until the task is dropped.
    pub async fn run(self, server: Arc<Server>, tls: Arc<Tls>) {
        let entry = Arc::new(Entry::new(self.door, server, tls));
        loop {
            entry.room().await;
            let (tcp, peer) = self.accept().await;
            entry.take(tcp, peer);
        }
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    // Out of descriptors or memory: those who wait are not lost, and others leave.
                    tracing::warn!(event = "accept-failed", %error);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Only skips the wait for old connections of the port; another listener still gets in the way.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}
