//! What carries a connection's bytes: TCP, TLS over it, or a handshake between the two.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::ProtocolVersion;
use server::session::TlsInfo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};
use wire::stream::TlsUp;

use crate::tls::{self, Served};

/// The transport of one connection. TLS is boxed: its state is many times the size of the rest.
pub(crate) enum Transport {
    Tcp(TcpStream),
    /// With the certificate that the peer is shown.
    Handshake(Box<Accept<TcpStream>>, Arc<Served>),
    Tls(Box<TlsStream<TcpStream>>),
    /// Gone, or in the middle of being replaced.
    None,
}

impl Transport {
    /// Starts a TLS handshake on a plain connection.
    pub(crate) fn encrypt(&mut self, served: Arc<Served>, direct: bool) {
        let config = if direct { served.direct_config() } else { served.starttls_config() };
        *self = match std::mem::replace(self, Self::None) {
            Self::Tcp(tcp) => {
                Self::Handshake(Box::new(TlsAcceptor::from(config).accept(tcp)), served)
            }
            other => other,
        };
    }

    /// Goes on with the handshake; once it is over, gives what the session should know of it.
    pub(crate) fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TlsInfo, TlsUp)>> {
        let Self::Handshake(accept, served) = self else { return Poll::Pending };
        let tls = match ready!(Pin::new(accept.as_mut()).poll(cx)) {
            Ok(tls) => tls,
            Err(error) => {
                *self = Self::None;
                return Poll::Ready(Err(error));
            }
        };
        let (_, connection) = tls.get_ref();
        let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let info = TlsInfo { version, cipher: suite.unwrap_or("unknown") };
        let up = TlsUp {
            binding: served.channel_binding(connection),
            version: tls::protocol_version(connection),
        };
        *self = Self::Tls(Box::new(tls));
        Poll::Ready(Ok((info, up)))
    }

    /// Whether bytes of the stream can pass.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Tls(_))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buffer),
            Self::Handshake(..) | Self::None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_write_vectored(cx, slices),
            Self::Handshake(..) | Self::None => Poll::Pending,
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
            Self::Handshake(..) | Self::None => Poll::Pending,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
            Self::Handshake(..) | Self::None => Poll::Ready(Ok(())),
        }
    }
}
