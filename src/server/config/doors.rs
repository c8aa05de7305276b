//! `[listen]`, `[http]` and `[[webhook]]`: the ways in, and the one way out.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;
use crate::command::network;

/// Addresses to listen on. An empty list turns a door off.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Clients that start in the clear and upgrade with STARTTLS.
    pub c2s: Vec<String>,
    /// Clients that start with TLS at once (XEP-0368).
    pub c2s_tls: Vec<String>,
    /// HTTP in the clear: the API, and whatever else is turned on under `[http]`. Only loopback
    /// addresses: for programs on this machine, and for a proxy that does TLS.
    pub http: Vec<String>,
    /// The same with TLS, with the certificate of `[tls]`.
    pub https: Vec<String>,
    /// Balancers in front of the server: addresses, or networks as in `10.0.0.0/24`. A connection from
    /// there, but to HTTP, must begin with a PROXY header (HAProxy's protocol, version 1 or 2) and counts
    /// as coming from the address in it. Whoever is in one of these networks can say to be anybody.
    pub proxies: Vec<String>,
    /// Whether a client that spoke TLS to such a balancer, by the word of version 2, counts as
    /// encrypted, on either door, without TLS of our own. The way from the balancer to here must be
    /// protected by other means; TLS older than 1.2 is refused.
    pub proxies_tls: bool,
}

impl Listen {
    /// [`proxies`](Self::proxies), parsed; what is no network was an error when the file was read.
    #[must_use]
    pub fn trusted(&self) -> Vec<IpNet> {
        networks(&self.proxies)
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            c2s: vec!["[::]:5222".into()],
            c2s_tls: vec!["[::]:5223".into()],
            http: Vec::new(),
            https: Vec::new(),
            proxies: Vec::new(),
            proxies_tls: false,
        }
    }
}

/// What is offered over HTTP, at the addresses of `listen.http` and `listen.https`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Whether there are pages for people: their devices for everybody, and a dashboard for those who
    /// have the rights for it. A browser stays logged in for `clients.short`. Only over TLS, or for
    /// browsers on this machine.
    pub web: bool,
    /// Proxies in front of the HTTP doors: addresses or networks, as in `127.0.0.1`. From there, the
    /// last address in `X-Forwarded-For` counts as the client's, and `X-Forwarded-Proto` tells whether
    /// it spoke TLS. Whoever is in one of these networks can say to be anybody.
    pub proxies: Vec<String>,
    /// Whether `/metrics` is shown to everybody who can reach it. `false`: only to a token with the
    /// scope `status`.
    pub open_metrics: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self { web: true, proxies: Vec::new(), open_metrics: false }
    }
}

impl Http {
    /// [`proxies`](Self::proxies), parsed; what is no network was an error when the file was read.
    #[must_use]
    pub fn trusted(&self) -> Vec<IpNet> {
        networks(&self.proxies)
    }
}

/// A program that is told of every session that ends, once it had logged in: by POST, as a signed
/// security event token. It is told again until it answers with 2xx; an event that it has heard before has
/// the same `jti`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// A short name of letters, digits and hyphens, for the log and for what waits; who changes it
    /// leaves behind what was not heard.
    pub name: String,
    /// Where to send it, as in `https://example.org/events`. Plain `http:` only to this machine.
    pub url: String,
    /// What it is signed with (HMAC-SHA-256): 32 random characters at least, known to both sides.
    pub key: Hidden,
    /// Only ends for these reasons, as in `["revoked", "account-disabled"]`; empty: all.
    pub reasons: Vec<String>,
    /// How long an event is kept for one that does not hear.
    pub keep: Span,
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            name: String::new(),
            url: String::new(),
            key: Hidden::default(),
            reasons: Vec::new(),
            keep: Span::days(3),
        }
    }
}

/// A text that is shown to nobody.
#[derive(Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// Those that are networks.
fn networks(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| network(text).ok()).collect()
}
