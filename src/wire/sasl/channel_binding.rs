//! What a connection can bind an authentication to (RFC 5056), under the names of XEP-0440.
//!
//! `tls-unique` is deliberately absent: TLS 1.3 has none, and in 1.2 it is broken without the
//! extended master secret, where `tls-exporter` does the same job.

/// RFC 9266: keying material exported from the TLS session.
pub const EXPORTER: &str = "tls-exporter";

/// RFC 5929: the hash of the server's certificate. Survives a TLS-terminating proxy.
pub const END_POINT: &str = "tls-server-end-point";

/// The channel binding data of one connection.
#[derive(Clone, Default)]
pub struct ChannelBinding {
    /// RFC 9266 section 2; absent when the TLS version has no safe exporter.
    pub exporter: Option<[u8; 32]>,
    /// RFC 5929 section 4.1: the certificate's hash.
    pub end_point: Option<Vec<u8>>,
}

impl ChannelBinding {
    /// The types this connection has, strongest first, as XEP-0440 lists them.
    pub fn types(&self) -> Vec<&'static str> {
        let exporter = self.exporter.is_some().then_some(EXPORTER);
        let end_point = self.end_point.is_some().then_some(END_POINT);
        exporter.into_iter().chain(end_point).collect()
    }

    /// The data of type `name`, with the name's lasting spelling.
    pub fn data(&self, name: &str) -> Option<(&'static str, &[u8])> {
        match name {
            EXPORTER => Some((EXPORTER, self.exporter.as_ref()?.as_slice())),
            END_POINT => Some((END_POINT, self.end_point.as_deref()?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_only_what_it_has() {
        assert!(ChannelBinding::default().types().is_empty());
        let both = ChannelBinding { exporter: Some([7; 32]), end_point: Some(vec![1, 2]) };
        assert_eq!(both.types(), ["tls-exporter", "tls-server-end-point"]);
        assert_eq!(both.data("tls-server-end-point"), Some((END_POINT, &[1, 2][..])));
        assert_eq!(both.data("tls-unique"), None);
        let one = ChannelBinding { exporter: None, ..both };
        assert_eq!(one.types(), ["tls-server-end-point"]);
        assert_eq!(one.data("tls-exporter"), None);
    }
}
