//! XMPP bytes to protocol and back: pure, no I/O.

#![forbid(unsafe_code)]

mod jid;
pub mod sasl;
mod secret;
pub mod token;

pub use jid::{Jid, JidError, Part};
pub use secret::Secret;
pub use token::{Token, TokenId};
