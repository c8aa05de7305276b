//! XMPP bytes to protocol and back: pure, no I/O.

#![forbid(unsafe_code)]

mod chars;
mod el;
mod frame;
mod jid;
pub mod ns;
pub mod sasl;
mod scanner;
mod secret;
mod stamp;
mod stanza_error;
pub mod stream;
mod stream_error;
pub mod token;
mod xml;

pub use el::El;
pub use frame::{Frame, Kind, Payload};
pub use jid::{Jid, JidError, Part};
pub use sasl::ChannelBinding;
pub use sasl::{Hash, Mechanism, SaslFailure, ScramKeys, derive, verify_password};
pub use scanner::{Event, Limits, ScanError, Scanner, StreamHeader};
pub use secret::Secret;
pub use stamp::Stamp;
pub use stanza_error::{Condition, ErrorType, StanzaError};
pub use stream::{Agent, Denied, Stream};
pub use stream_error::{StreamCondition, StreamError};
pub use token::{Token, TokenId};
pub use xml::{Xml, escape};
