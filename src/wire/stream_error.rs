//! Stream errors, RFC 6120 4.9: the condition and the `<stream:error/>` element that carries it.
//!
//! Closing the stream after one, and opening it before one, is the caller's.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use crate::{ns, xml::Xml};

/// A stream error as a value, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// The defined condition.
    pub condition: StreamCondition,
    /// What the element of the condition holds: of `see-other-host`, host and port.
    pub place: Option<Arc<str>>,
    /// Text for people.
    pub text: Option<Cow<'static, str>>,
    /// The language of the text (RFC 5646).
    pub lang: &'static str,
    /// An application-specific condition: one complete, self-contained element.
    pub app: Option<Bytes>,
}

impl StreamError {
    /// An error with nothing but its condition.
    pub const fn new(condition: StreamCondition) -> Self {
        Self { condition, place: None, text: None, lang: "en", app: None }
    }

    /// Served elsewhere: at this host, as in `example.org`, `example.org:5222` or `[::1]:5222` (RFC 6120
    /// section 4.9.3.19).
    pub fn see_other_host(place: impl Into<Arc<str>>) -> Self {
        Self { place: Some(place.into()), ..Self::new(StreamCondition::SeeOtherHost) }
    }

    /// Adds a text for people.
    pub fn with_text(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Adds an application-specific condition, which must be well-formed and self-contained.
    pub fn with_app(mut self, app: impl Into<Bytes>) -> Self {
        self.app = Some(app.into());
        self
    }

    /// The `<stream:error/>` element, for a stream that binds the prefix `stream`.
    pub fn to_xml(&self) -> Bytes {
        let mut xml = Xml::new();
        xml.open("stream:error").open(self.condition.as_str()).ns(ns::XML_STREAMS);
        if let Some(place) = &self.place {
            xml.text(place);
        }
        xml.close();
        if let Some(text) = &self.text {
            xml.open("text").ns(ns::XML_STREAMS).attr("xml:lang", self.lang).text(text).close();
        }
        if let Some(app) = &self.app {
            xml.raw(app);
        }
        xml.finish()
    }
}

impl From<StreamCondition> for StreamError {
    fn from(condition: StreamCondition) -> Self {
        Self::new(condition)
    }
}

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The defined conditions of RFC 6120 4.9.3.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum StreamCondition { $($(#[$doc])* $variant,)* }

        impl StreamCondition {
            /// Every condition, in the order of the RFC.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name of the element.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

conditions! {
    /// XML that cannot be processed.
    BadFormat = "bad-format",
    /// A prefix that is not supported, or none where one is needed.
    BadNamespacePrefix = "bad-namespace-prefix",
    /// Another stream took the place of this one.
    Conflict = "conflict",
    /// The peer was silent for too long.
    ConnectionTimeout = "connection-timeout",
    /// The host is no longer served here.
    HostGone = "host-gone",
    /// The host is not served here.
    HostUnknown = "host-unknown",
    /// No `to` or `from` where one is needed, or a malformed one.
    ImproperAddressing = "improper-addressing",
    /// Something is wrong here.
    InternalServerError = "internal-server-error",
    /// A `from` that is not the peer's own.
    InvalidFrom = "invalid-from",
    /// A wrong stream or content namespace.
    InvalidNamespace = "invalid-namespace",
    /// XML that violates its schema.
    InvalidXml = "invalid-xml",
    /// Data before authentication, or what its outcome does not allow.
    NotAuthorized = "not-authorized",
    /// XML that violates well-formedness, that of namespaces included.
    NotWellFormed = "not-well-formed",
    /// A local policy was violated.
    PolicyViolation = "policy-violation",
    /// The other server cannot be reached.
    RemoteConnectionFailed = "remote-connection-failed",
    /// The stream is closed so that a new one is set up.
    Reset = "reset",
    /// Out of resources.
    ResourceConstraint = "resource-constraint",
    /// A comment, processing instruction, DTD or entity reference.
    RestrictedXml = "restricted-xml",
    /// Served elsewhere: the text of the element names where.
    SeeOtherHost = "see-other-host",
    /// The server is going down.
    SystemShutdown = "system-shutdown",
    /// None of the others; comes with an application-specific condition.
    UndefinedCondition = "undefined-condition",
    /// An encoding other than UTF-8.
    UnsupportedEncoding = "unsupported-encoding",
    /// A mandatory feature is not supported.
    UnsupportedFeature = "unsupported-feature",
    /// A first-level element that is not understood.
    UnsupportedStanzaType = "unsupported-stanza-type",
    /// A version of XMPP that is not supported.
    UnsupportedVersion = "unsupported-version",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_whole() {
        let error = StreamError::new(StreamCondition::PolicyViolation)
            .with_text("a < b")
            .with_app(&b"<x xmlns='urn:x'/>"[..]);
        assert_eq!(
            error.to_xml(),
            "<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>a &lt; b</text>\
             <x xmlns='urn:x'/></stream:error>"
        );
    }

    #[test]
    fn another_host_stands_in_the_condition_itself() {
        assert_eq!(
            StreamError::see_other_host("[2001:db8::1]:5222").with_text("moved").to_xml(),
            "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>\
             [2001:db8::1]:5222</see-other-host>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>moved</text>\
             </stream:error>"
        );
    }

    #[test]
    fn every_condition_of_the_rfc_has_its_own_name() {
        let names: std::collections::HashSet<_> =
            StreamCondition::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), 25);
    }
}
