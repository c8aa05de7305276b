//! The server behind the sockets: accounts, sessions, the registry, routing, hooks and commands.
#![forbid(unsafe_code)]

pub mod store;
