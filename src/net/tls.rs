//! TLS for the listeners: versions 1.2 and 1.3, one certificate at a time, replaceable while
//! running (RFC 7590, XEP-0368), and what an authentication can bind to (RFC 5929, RFC 9266).
//!
//! ```text
//!   load | self_signed ──► Identity ──► Tls ──► Served: three ServerConfigs, end point, fingerprint
//! ```
//!
//! A connection keeps the [`Served`] it was accepted with: after a replacement its channel binding
//! is still that of the certificate its peer saw. No client certificates, no early data, no
//! renegotiation. The certificate does not yet depend on the name that the client asks for.

mod end_point;
mod identity;
mod self_signed;

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, ServerConnection};
use rustls::{ServerConfig, version};
use sha2::{Digest, Sha256};
use wire::sasl::ChannelBinding;

pub use identity::{Identity, TlsError, load};
pub use self_signed::self_signed;

/// The protocol of a direct TLS port (XEP-0368).
const ALPN: &[u8] = b"xmpp-client";
/// The protocol of the HTTPS port (RFC 7301).
const HTTP: &[u8] = b"http/1.1";

/// The TLS side of the listeners. Accepting takes a reference; replacing the certificate disturbs
/// no connection.
pub struct Tls(RwLock<Arc<Served>>);

impl Tls {
    /// Serves this certificate.
    ///
    /// # Errors
    /// [`TlsError`] when key and certificate do not make a pair that can be served.
    pub fn new(identity: Identity) -> Result<Tls, TlsError> {
        Ok(Tls(RwLock::new(Arc::new(Served::new(identity)?))))
    }

    /// Serves another certificate from the next connection on. When it is unusable the present one
    /// stays.
    ///
    /// # Errors
    /// As [`Tls::new`].
    pub fn replace(&self, identity: Identity) -> Result<(), TlsError> {
        let served = Arc::new(Served::new(identity)?);
        *self.0.write() = served;
        Ok(())
    }

    /// What is served now, to be kept for the life of a connection.
    pub fn served(&self) -> Arc<Served> {
        Arc::clone(&self.0.read())
    }

    /// [`Served::starttls_config`] of now.
    pub fn starttls_config(&self) -> Arc<ServerConfig> {
        self.0.read().starttls_config()
    }

    /// [`Served::direct_config`] of now.
    pub fn direct_config(&self) -> Arc<ServerConfig> {
        self.0.read().direct_config()
    }

    /// For the HTTPS port, as of now.
    pub fn https_config(&self) -> Arc<ServerConfig> {
        self.0.read().https.clone()
    }

    /// [`Served::end_point`] of now.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        self.0.read().end_point.clone()
    }

    /// [`Served::fingerprint`] of now.
    pub fn fingerprint(&self) -> String {
        self.0.read().fingerprint.clone()
    }
}

/// One certificate and everything derived from it.
pub struct Served {
    starttls: Arc<ServerConfig>,
    direct: Arc<ServerConfig>,
    https: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
    fingerprint: String,
}

impl Served {
    fn new(identity: Identity) -> Result<Served, TlsError> {
        let leaf = identity.certificates.first().ok_or(TlsError::Empty)?;
        let end_point = end_point::hash(leaf);
        let fingerprint = fingerprint(leaf);

        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(identity.certificates, identity.key)
            .map_err(unusable)?;
        // Without the extended master secret (RFC 7627) a TLS 1.2 exporter does not identify one
        // session, and RFC 9266 forbids binding to it. Every library of the last ten years has it.
        config.require_ems = true;
        config.max_early_data_size = 0;
        // Stateless tickets, so that a million reconnecting phones cost no memory; one is enough
        // for a client with one connection. The keys are fresh for every certificate: a session
        // resumed across a replacement would bind its ends to different certificates.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().map_err(unusable)?;
        config.send_tls13_tickets = 1;

        let mut direct = config.clone();
        direct.alpn_protocols = vec![ALPN.to_vec()];
        let mut https = config.clone();
        https.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Served {
            starttls: Arc::new(config),
            direct: Arc::new(direct),
            https: Arc::new(https),
            end_point,
            fingerprint,
        })
    }

    /// For a stream that negotiated STARTTLS. ALPN is ignored there.
    pub fn starttls_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.starttls)
    }

    /// For the direct TLS port: a client that offers ALPN without `xmpp-client` is refused, one
    /// that offers none is served.
    pub fn direct_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.direct)
    }

    /// The `tls-server-end-point` of the certificate (RFC 5929 section 4.1); `None` for a signature
    /// algorithm the RFC defines none for, such as Ed25519.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// SHA-256 of the certificate, in upper-case hexadecimal with colons, as browsers and `openssl`
    /// show it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What an authentication on `conn`, accepted with this, can bind to.
    pub fn channel_binding(&self, conn: &ServerConnection) -> ChannelBinding {
        ChannelBinding { exporter: exporter(conn), end_point: self.end_point.clone() }
    }
}

/// The `tls-exporter` of a connection (RFC 9266 section 2); `None` while the handshake runs. TLS
/// 1.2 is only ever spoken with the extended master secret, which makes it safe there too.
pub fn exporter(conn: &ServerConnection) -> Option<[u8; 32]> {
    if conn.is_handshaking() {
        return None;
    }
    // An empty context is not an absent one in TLS 1.2 (RFC 5705 section 4); the RFC says empty.
    conn.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok()
}

/// The version a connection negotiated, as on the wire: `0x0304` is TLS 1.3.
pub fn protocol_version(conn: &ServerConnection) -> Option<u16> {
    conn.protocol_version().map(u16::from)
}

/// The one cryptography provider; given explicitly so that no process-wide default decides.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn fingerprint(certificate: &[u8]) -> String {
    let digest = Sha256::digest(certificate);
    let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests;
