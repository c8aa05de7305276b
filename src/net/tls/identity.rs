//! A certificate with its key, from PEM files, and everything that can be wrong with them.
//!
//! Checked here: that both can be read, belong together and are valid today. Not checked: whether a
//! client would trust the chain; that is between the clients and the authority.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::InconsistentKeys;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use wire::Secret;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the server shows to prove itself.
pub struct Identity {
    /// The server's own certificate, then those that lead to a root.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

/// Why TLS cannot be served. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// What the file has in it for a certificate is none.
    #[error("`{path}` has a damaged certificate in it: {why}; hint: get a fresh copy of it")]
    Damaged {
        /// The certificate's file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
    /// An identity without certificates.
    #[error("there is no certificate to serve; hint: set `[tls] certificate`")]
    Empty,
    /// The key file is protected by a passphrase.
    #[error(
        "key `{0}` is encrypted and the server cannot ask for a passphrase; hint: decrypt it with \
         `openssl pkey` and set its mode to 0600"
    )]
    EncryptedKey(PathBuf),
    /// Past its last day.
    #[error(
        "certificate `{path}` expired on {on}; hint: renew it, or remove `[tls] certificate` and \
         `key` to start with a self-signed one"
    )]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Its last moment.
        on: String,
    },
    /// A self-signed certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}; hint: check the `[[host]] name`s")]
    Generate(String),
    /// Certificate and key are not a pair.
    #[error(
        "key `{key}` does not belong to the first certificate in `{certificate}`; hint: the \
         server's own certificate comes first, then the chain"
    )]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A file is not there.
    #[error("{what} `{path}` does not exist; hint: check `[tls] {what}`")]
    Missing {
        /// `certificate` or `key`.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file has no certificate in it.
    #[error(
        "`{0}` has no PEM certificate in it; hint: it must contain `-----BEGIN CERTIFICATE-----`"
    )]
    NoCertificate(PathBuf),
    /// A file has no key in it.
    #[error(
        "`{0}` has no PEM private key in it; hint: it must contain `-----BEGIN PRIVATE KEY-----`"
    )]
    NoKey(PathBuf),
    /// Before its first day.
    #[error("certificate `{path}` is not valid before {from}; hint: check the system's clock")]
    NotYetValid {
        /// The certificate's file.
        path: PathBuf,
        /// Its first moment.
        from: String,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {what} `{path}`: {why}; hint: give the server's user read access")]
    Unreadable {
        /// `certificate` or `key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says; not a `source`, for the message has it in it.
        why: io::Error,
    },
    /// The TLS library refuses it: an unknown kind of key, a broken certificate.
    #[error(
        "certificate and key cannot be served: {0}; hint: use an ECDSA P-256 pair, or RSA of 2048 \
         bits or more"
    )]
    Unusable(String),
    /// A self-signed certificate could not be kept.
    #[error("cannot write `{path}`: {why}; hint: the data directory must be writable")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system says; not a `source`, for the message has it in it.
        why: io::Error,
    },
}

/// Reads a certificate chain and its key from PEM files and checks that they can be served today.
///
/// # Errors
/// [`TlsError`] names the file and what is wrong with it.
pub fn load(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
    let pem = read("certificate", certificate)?;
    let none = |_| TlsError::NoCertificate(certificate.into());
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(none)?;
    let leaf = certificates.first().ok_or_else(|| TlsError::NoCertificate(certificate.into()))?;
    check_dates(leaf, certificate, now())?;

    let pem = Secret::new(read("key", key)?);
    let private = PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| {
        match pem.expose_str().is_some_and(|text| text.contains("ENCRYPTED")) {
            true => TlsError::EncryptedKey(key.into()),
            false => TlsError::NoKey(key.into()),
        }
    })?;
    let pair =
        CertifiedKey::from_der(certificates.clone(), private.clone_key(), &super::provider());
    match pair {
        Ok(_) => Ok(Identity { certificates, key: private }),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(TlsError::KeyMismatch { certificate: certificate.into(), key: key.into() })
        }
        Err(error) => {
            let (certificate, key) = (certificate.display(), key.display());
            Err(TlsError::Unusable(format!("{error} (`{certificate}`, `{key}`)")))
        }
    }
}

/// Certificates are valid by the world's clock, which no test moves.
#[expect(clippy::disallowed_methods, reason = "read once, when a certificate is loaded or made")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => TlsError::Missing { what, path: path.into() },
        _ => TlsError::Unreadable { what, path: path.into(), why },
    })
}

fn check_dates(certificate: &[u8], path: &Path, now: SystemTime) -> Result<(), TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| TlsError::Damaged { path: path.into(), why: error.to_string() })?;
    let validity = parsed.validity();
    let now = unix_seconds(now);
    if now > validity.not_after.timestamp() {
        let on = validity.not_after.to_string();
        return Err(TlsError::Expired { path: path.into(), on });
    }
    if now < validity.not_before.timestamp() {
        let from = validity.not_before.to_string();
        return Err(TlsError::NotYetValid { path: path.into(), from });
    }
    Ok(())
}

/// Seconds since 1970; a clock before that counts as 1970.
pub(super) fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
