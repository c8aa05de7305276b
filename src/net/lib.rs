//! Sockets: listeners, connections and TLS.

#![forbid(unsafe_code)]

pub mod tls;
