//! Sockets: the only crate that knows what a TCP stream is. What is deliberately absent: anything
//! about accounts, routing or storage; a connection asks the server.
//!
//! ```text
//! Listener ──accept──► Entry ──► Conn (one task, one hand-written future per connection)
//!                     (proxy)    │  read ► scanner ► Stream::step ► effects
//!                                │  waiting: one question to the server at a time; pauses reading
//!                                └─ mailbox ► outbox ► vectored write
//! events ──► webhook ──► ureq (requests of our own)
//! Listener ──accept──► Http ──► hyper ──► whatever service the binary gives it
//! ```

#![forbid(unsafe_code)]

mod conn;
mod entry;
pub mod http;
pub mod inherited;
mod keepalive;
mod listener;
mod outbox;
mod pace;
mod proxy;
pub mod tls;
mod transport;
pub mod webhook;

pub use inherited::Inherited;
pub use listener::{Door, ListenError, Listener};
pub use tls::Tls;
