//! The header by which a balancer says whom it passes on: HAProxy's PROXY protocol, version 1 (a line
//! of text) and version 2 (binary), <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>.
//!
//! ```text
//!   v1   PROXY TCP6 2001:db8::1 2001:db8::2 50000 5222\r\n                  107 bytes at most
//!   v2   signature(12) version|command(1) family(1) length(2) addresses TLVs   [`LONGEST`] at most
//! ```
//!
//! Pure: bytes go in as they come, a [`Header`] comes out once it is whole, and no byte behind it is
//! taken. Deliberately absent: who may send one ([`entry`](crate::entry)), and the checksum, names
//! and certificates that version 2 may carry besides; they are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How version 1 begins.
const TEXT: &[u8] = b"PROXY ";
/// How version 2 begins: no text that any protocol starts with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end (section 2.1).
const LONGEST_LINE: usize = 107;
/// Signature, version, family and length of version 2.
const FIXED: usize = 16;
/// The longest header of version 2: a client's certificate may be in it, and nothing else is large.
pub(crate) const LONGEST: usize = 4096;

/// The addition about the client's TLS (section 2.2.5), and the parts of it that are looked at.
const TLV_SSL: u8 = 0x20;
const TLV_SSL_VERSION: u8 = 0x21;
const CLIENT_SSL: u8 = 0x01;

/// What a balancer says of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whose connection it is; none: the balancer's own, as when it looks whether we are there.
    pub(crate) client: Option<SocketAddr>,
    /// Whether, and how, the client spoke TLS to the balancer.
    pub(crate) tls: Option<Version>,
}

/// The client's version of TLS, as the balancer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 1.2.
    Tls12,
    /// 1.3.
    Tls13,
    /// It named none.
    Unsaid,
    /// One that nobody may use any more, or that is not known.
    Other,
}

/// Why this is no header. The texts are for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("the line is longer than {LONGEST_LINE} bytes")]
    LongLine,
    #[error("the header is longer than {LONGEST} bytes")]
    Long,
    #[error("the line is not as version 1 has it")]
    Line,
    #[error("an address or port does not fit its family")]
    Address,
    #[error("it is neither version 1 nor version 2")]
    Version,
    #[error("the command is not known")]
    Command,
    #[error("it is not about a stream")]
    Family,
    #[error("it is too short for its addresses")]
    Short,
    #[error("an addition is cut off, or there twice")]
    Addition,
}

/// A header as far as it has come.
#[derive(Default)]
pub(crate) struct Reader(Vec<u8>);

impl Reader {
    /// Takes what belongs to the header from the front of `input`, and says how many bytes that were;
    /// all of them unless it is whole.
    ///
    /// # Errors
    /// [`ProxyError`], as soon as it cannot become a header any more.
    pub(crate) fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Header>), ProxyError> {
        let mut used = 0;
        for byte in input {
            self.0.push(*byte);
            used += 1;
            if let Some(header) = self.look(*byte)? {
                return Ok((used, Some(header)));
            }
        }
        Ok((used, None))
    }

    /// Whether nothing has come at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// After each byte: whether the header is whole, or cannot become one.
    fn look(&self, last: u8) -> Result<Option<Header>, ProxyError> {
        let so_far = self.0.as_slice();
        if begins(so_far, TEXT) {
            return match last {
                b'\n' => line(so_far).map(Some),
                _ if so_far.len() >= LONGEST_LINE => Err(ProxyError::LongLine),
                _ => Ok(None),
            };
        }
        if !begins(so_far, SIGNATURE) {
            return Err(ProxyError::Missing);
        }
        let Some((fixed, rest)) = so_far.split_first_chunk::<FIXED>() else { return Ok(None) };
        let [.., command, family, high, low] = *fixed;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if FIXED + length > LONGEST {
            return Err(ProxyError::Long);
        }
        match rest.len() == length {
            true => binary(command, family, rest).map(Some),
            false => Ok(None),
        }
    }
}

/// Whether it is how something starts that begins like this.
fn begins(so_far: &[u8], with: &[u8]) -> bool {
    so_far.iter().zip(with).all(|(a, b)| a == b)
}

/// Version 1, section 2.1. Exactly one space between the fields, and nothing behind them.
fn line(line: &[u8]) -> Result<Header, ProxyError> {
    let text = line.strip_suffix(b"\r\n").ok_or(ProxyError::Line)?;
    let text = std::str::from_utf8(text).map_err(|_| ProxyError::Line)?;
    let mut fields = text.split(' ').skip(1);
    let protocol = fields.next().ok_or(ProxyError::Line)?;
    // Whatever stands behind it is to be ignored.
    if protocol == "UNKNOWN" {
        return Ok(Header::default());
    }
    let mut next = || fields.next().ok_or(ProxyError::Line);
    let (from, to, from_port, to_port) = (next()?, next()?, next()?, next()?);
    if fields.next().is_some() {
        return Err(ProxyError::Line);
    }
    // Each family by its own parser, over the whole field: there is nothing to be guessed.
    let address = |text: &str| match protocol {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from).map_err(|_| ProxyError::Address),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::from).map_err(|_| ProxyError::Address),
        _ => Err(ProxyError::Line),
    };
    let (client, _) = (address(from)?, address(to)?);
    let (from_port, _) = (port(from_port)?, port(to_port)?);
    Ok(Header { client: Some(SocketAddr::new(client, from_port)), tls: None })
}

/// Digits alone, without zeros in front.
fn port(text: &str) -> Result<u16, ProxyError> {
    let port = text.parse::<u16>().map_err(|_| ProxyError::Address)?;
    if port.to_string() == text { Ok(port) } else { Err(ProxyError::Address) }
}

/// Version 2, section 2.2: what stands behind the length.
fn binary(command: u8, family: u8, rest: &[u8]) -> Result<Header, ProxyError> {
    match command {
        // LOCAL: whatever follows is to be ignored.
        0x20 => return Ok(Header::default()),
        0x21 => {}
        other if other >> 4 != 2 => return Err(ProxyError::Version),
        _ => return Err(ProxyError::Command),
    }
    let (client, additions) = match family {
        // Not known to the balancer, or its own Unix socket: nothing is known of the client.
        0x00 | 0x31 => return Ok(Header::default()),
        0x11 => {
            let (addresses, additions) = rest.split_first_chunk::<12>().ok_or(ProxyError::Short)?;
            let [a, b, c, d, _, _, _, _, high, low, ..] = *addresses;
            let port = u16::from_be_bytes([high, low]);
            (SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port), additions)
        }
        0x21 => {
            let (addresses, additions) = rest.split_first_chunk::<36>().ok_or(ProxyError::Short)?;
            let (from, ports) = addresses.split_first_chunk::<16>().ok_or(ProxyError::Short)?;
            let [.., high, low, _, _] = ports else { return Err(ProxyError::Short) };
            let port = u16::from_be_bytes([*high, *low]);
            (SocketAddr::new(Ipv6Addr::from(*from).into(), port), additions)
        }
        _ => return Err(ProxyError::Family),
    };
    Ok(Header { client: Some(client), tls: tls(additions)? })
}

/// The client's TLS from the additions; all of them have to be whole.
fn tls(additions: &[u8]) -> Result<Option<Version>, ProxyError> {
    let Some(ssl) = find(additions, TLV_SSL)? else { return Ok(None) };
    // Flags, and the outcome of verifying the client's certificate.
    let ([client, ..], inner) = ssl.split_first_chunk::<5>().ok_or(ProxyError::Addition)?;
    let version = find(inner, TLV_SSL_VERSION)?;
    if client & CLIENT_SSL == 0 {
        return Ok(None);
    }
    Ok(Some(match version {
        None => Version::Unsaid,
        Some(b"TLSv1.2") => Version::Tls12,
        Some(b"TLSv1.3") => Version::Tls13,
        Some(_) => Version::Other,
    }))
}

/// The one addition of this kind: a byte for the kind, two for the length, the value.
fn find(mut additions: &[u8], wanted: u8) -> Result<Option<&[u8]>, ProxyError> {
    let mut found = None;
    while !additions.is_empty() {
        let ([kind, high, low], rest) =
            additions.split_first_chunk::<3>().ok_or(ProxyError::Addition)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(ProxyError::Addition)?;
        if *kind == wanted && found.replace(value).is_some() {
            return Err(ProxyError::Addition);
        }
        additions = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
