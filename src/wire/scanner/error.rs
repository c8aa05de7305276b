//! What the scanner refuses, and the stream condition each refusal becomes (RFC 6120 4.9.3).

use crate::stream_error::{StreamCondition, StreamError};

/// Why input was refused. The same input gives the same error at any chunking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A prefix that no declaration in scope binds.
    #[error("namespace prefix is not declared")]
    BadNamespacePrefix,
    /// XML 1.0 or Namespaces in XML is violated; says where.
    #[error("not well-formed: {0}")]
    NotWellFormed(&'static str),
    /// XML that RFC 6120 11.1 forbids: says which of comment, processing instruction, DTD, entity.
    #[error("restricted XML: {0}")]
    Restricted(&'static str),
    /// A field of [`Limits`](crate::Limits), or what a stream header may leave to its stanzas, was
    /// exceeded.
    #[error("more than {limit} {what}")]
    TooLarge {
        /// The name of the field, or what there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
    /// The XML declaration, or the first byte, says that this is not UTF-8.
    #[error("encoding is not UTF-8")]
    UnsupportedEncoding,
}

impl ScanError {
    /// The condition to close the stream with.
    pub const fn condition(&self) -> StreamCondition {
        match self {
            Self::BadNamespacePrefix => StreamCondition::BadNamespacePrefix,
            Self::NotWellFormed(_) => StreamCondition::NotWellFormed,
            Self::Restricted(_) => StreamCondition::RestrictedXml,
            Self::TooLarge { .. } => StreamCondition::PolicyViolation,
            Self::UnsupportedEncoding => StreamCondition::UnsupportedEncoding,
        }
    }
}

impl From<ScanError> for StreamError {
    fn from(error: ScanError) -> Self {
        let plain = Self::new(error.condition());
        match error {
            ScanError::NotWellFormed(text) | ScanError::Restricted(text) => plain.with_text(text),
            ScanError::TooLarge { .. } => plain.with_text(error.to_string()),
            ScanError::BadNamespacePrefix | ScanError::UnsupportedEncoding => plain,
        }
    }
}
