//! The certificate of a server that was given none: made once, kept in the data directory, and made
//! anew when it no longer covers the hosts or its time is nearly over.
//!
//! It names every host as a DNS name (or an address) and as an XMPP address (`id-on-xmppAddr`, RFC
//! 6120 section 13.7.1.2). Clients have to be told to trust it; while its files stay, so does its
//! fingerprint.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

#[cfg(unix)]
use std::os::unix::fs::OpenOptionsExt;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, OtherNameValue,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use wire::Secret;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::{Identity, TlsError, load, now, unix_seconds};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long it is good for: long enough that a pinned fingerprint is not a yearly chore, short
/// enough for the clients that refuse longer ones (825 days).
const LIFETIME: Duration = Duration::from_secs(820 * 24 * 60 * 60);

/// It is replaced at the first start with less than this left.
const RENEWAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// `id-on-xmppAddr`.
const XMPP_ADDR: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 8, 5];

/// The certificate `self-signed.crt` in `dir`, with its key `self-signed.key` (mode 0600); both are
/// made when they are absent, damaged, about to expire, or do not cover all of `hosts`.
///
/// # Errors
/// [`TlsError`] when the files cannot be read or written, or a host name cannot stand in a
/// certificate.
pub fn self_signed(dir: &Path, hosts: &[String]) -> Result<Identity, TlsError> {
    let certificate = dir.join("self-signed.crt");
    let key = dir.join("self-signed.key");
    let names = hosts.iter().map(|host| name(host)).collect::<Result<Vec<_>, _>>()?;
    let now = now();
    match load(&certificate, &key) {
        Ok(identity) if fits(&identity, &names, now) => return Ok(identity),
        // What is there and may not be read is not ours to overwrite.
        Err(error @ TlsError::Unreadable { .. }) => return Err(error),
        _ => {}
    }

    let generate = |error: rcgen::Error| TlsError::Generate(error.to_string());
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(generate)?;
    let made = parameters(hosts, names, now)?.self_signed(&pair).map_err(generate)?;
    let secret = Secret::new(pair.serialize_pem());
    // The key first: a crash in between leaves a pair that does not match, which the next start
    // makes anew.
    write(&key, secret.expose(), 0o600)?;
    write(&certificate, made.pem().as_bytes(), 0o644)?;
    load(&certificate, &key)
}

/// A host as certificates spell it: an address, or a name in A-labels.
fn name(host: &str) -> Result<SanType, TlsError> {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = literal.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || TlsError::Generate(format!("`{host}` is not a host name"));
    let ascii = idna::domain_to_ascii(host).map_err(|_| bad())?;
    if ascii.is_empty() {
        return Err(bad());
    }
    Ok(SanType::DnsName(ascii.try_into().map_err(|_| bad())?))
}

fn parameters(
    hosts: &[String],
    names: Vec<SanType>,
    now: SystemTime,
) -> Result<CertificateParams, TlsError> {
    let first = hosts.first().ok_or_else(|| TlsError::Generate("no host is configured".into()))?;
    let today = rcgen::date_time_ymd(1970, 1, 1)
        + Duration::from_secs(u64::try_from(unix_seconds(now)).unwrap_or_default());
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, first.as_str());
    // A day of grace for clients whose clocks are slow.
    parameters.not_before = today - DAY;
    parameters.not_after = today + LIFETIME;
    parameters.subject_alt_names = names;
    parameters.subject_alt_names.extend(hosts.iter().map(|host| {
        SanType::OtherName((XMPP_ADDR.to_vec(), OtherNameValue::Utf8String(host.clone())))
    }));
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters)
}

/// Whether the certificate names every host and has time left.
fn fits(identity: &Identity, names: &[SanType], now: SystemTime) -> bool {
    let Some(leaf) = identity.certificates.first() else {
        return false;
    };
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let Ok(Some(alternatives)) = parsed.subject_alternative_name() else {
        return false;
    };
    let named = |wanted: &SanType| {
        alternatives.value.general_names.iter().any(|found| match (wanted, found) {
            (SanType::DnsName(wanted), GeneralName::DNSName(found)) => wanted.as_str() == *found,
            (SanType::IpAddress(IpAddr::V4(wanted)), GeneralName::IPAddress(found)) => {
                wanted.octets() == **found
            }
            (SanType::IpAddress(IpAddr::V6(wanted)), GeneralName::IPAddress(found)) => {
                wanted.octets() == **found
            }
            _ => false,
        })
    };
    unix_seconds(now + RENEWAL) < parsed.validity().not_after.timestamp() && names.iter().all(named)
}

/// Puts a file in place whole, with this mode from its first byte on.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), TlsError> {
    let unwritable = |why: io::Error| TlsError::Unwritable { path: path.into(), why };
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(&new).map_err(unwritable)?;
    file.write_all(content).map_err(unwritable)?;
    file.sync_all().map_err(unwritable)?;
    fs::rename(&new, path).map_err(unwritable)
}
