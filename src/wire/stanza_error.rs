//! Stanza errors, RFC 6120 8.3: condition, type, and the error stanza that answers a stanza.
//!
//! Who answers, and under which address, is the caller's.

use std::borrow::Cow;

use bytes::Bytes;

use crate::frame::{Frame, Kind};
use crate::{ns, xml::Xml};

/// A stanza error as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StanzaError {
    /// The defined condition.
    pub condition: Condition,
    /// What the sender can do about it; by default what the RFC names for the condition.
    pub kind: ErrorType,
    /// Text for people, in English.
    pub text: Option<Cow<'static, str>>,
    /// An application-specific condition: one complete, self-contained element.
    pub app: Option<Bytes>,
}

/// What the sender of a stanza can do about an error, RFC 6120 8.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// Retry with credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// Go on: this was a warning.
    Continue,
    /// Retry with other data.
    Modify,
    /// Retry later.
    Wait,
}

impl ErrorType {
    /// The value of the attribute `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Cancel => "cancel",
            Self::Continue => "continue",
            Self::Modify => "modify",
            Self::Wait => "wait",
        }
    }
}

impl StanzaError {
    /// An error with the default type of its condition.
    pub const fn new(condition: Condition) -> Self {
        Self { condition, kind: condition.default_type(), text: None, app: None }
    }

    /// Replaces the type.
    pub const fn with_type(mut self, kind: ErrorType) -> Self {
        self.kind = kind;
        self
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

    /// The error stanza that answers `frame`: same name and id. An empty address is left out.
    ///
    /// Asks nothing about `frame`; see [`of`](Self::of).
    pub fn reply(&self, frame: &Frame, from: &str, to: &str) -> Bytes {
        let mut xml = Xml::new();
        xml.open(match frame.kind() {
            Kind::Iq => "iq",
            Kind::Presence => "presence",
            Kind::Message | Kind::Other => "message",
        });
        xml.attr("type", "error").attr_opt("id", &frame.id());
        for (name, value) in [("from", from), ("to", to)] {
            if !value.is_empty() {
                xml.attr(name, value);
            }
        }
        self.write(&mut xml);
        xml.finish()
    }

    /// Like [`reply`](Self::reply), but `None` if the stanza must not be answered by an error: it
    /// is one itself, it is the result of an IQ, or it is no stanza (RFC 6120 8.1.2.1, 8.2.3,
    /// 8.3.1).
    pub fn of(&self, frame: &Frame, from: &str, to: &str) -> Option<Bytes> {
        let answerable = match (frame.kind(), frame.typ().as_deref()) {
            (Kind::Other, _) | (_, Some("error")) | (Kind::Iq, Some("result")) => false,
            (Kind::Iq | Kind::Message | Kind::Presence, _) => true,
        };
        answerable.then(|| self.reply(frame, from, to))
    }

    /// Writes the `<error/>` element.
    pub fn write(&self, xml: &mut Xml) {
        xml.open("error").attr("type", self.kind.as_str());
        xml.open(self.condition.as_str()).ns(ns::STANZAS).close();
        if let Some(text) = &self.text {
            xml.open("text").ns(ns::STANZAS).attr("xml:lang", "en").text(text).close();
        }
        if let Some(app) = &self.app {
            xml.raw(app);
        }
        xml.close();
    }
}

impl From<Condition> for StanzaError {
    fn from(condition: Condition) -> Self {
        Self::new(condition)
    }
}

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $kind:ident,)*) => {
        /// The defined conditions of RFC 6120 8.3.3.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Condition { $($(#[$doc])* $variant,)* }

        impl Condition {
            /// Every condition, in the order of the RFC.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name of the element.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The type that the RFC names for the condition.
            pub const fn default_type(self) -> ErrorType {
                match self { $(Self::$variant => ErrorType::$kind,)* }
            }
        }
    };
}

conditions! {
    /// Malformed, or not what the schema asks for.
    BadRequest = "bad-request" Modify,
    /// There is one of that name already.
    Conflict = "conflict" Cancel,
    /// Understood, but not implemented.
    FeatureNotImplemented = "feature-not-implemented" Cancel,
    /// Not enough rights.
    Forbidden = "forbidden" Auth,
    /// The addressee is elsewhere for good; `app` cannot name where.
    Gone = "gone" Cancel,
    /// Something is wrong here.
    InternalServerError = "internal-server-error" Cancel,
    /// No such item.
    ItemNotFound = "item-not-found" Cancel,
    /// The address is none.
    JidMalformed = "jid-malformed" Modify,
    /// Understood, but against a rule.
    NotAcceptable = "not-acceptable" Modify,
    /// Allowed to nobody.
    NotAllowed = "not-allowed" Cancel,
    /// Allowed only with credentials.
    NotAuthorized = "not-authorized" Auth,
    /// A local policy was violated.
    PolicyViolation = "policy-violation" Modify,
    /// The addressee is away.
    RecipientUnavailable = "recipient-unavailable" Wait,
    /// The addressee is elsewhere for now.
    Redirect = "redirect" Modify,
    /// Only after registration.
    RegistrationRequired = "registration-required" Auth,
    /// The other server does not exist.
    RemoteServerNotFound = "remote-server-not-found" Cancel,
    /// The other server could not be reached in time.
    RemoteServerTimeout = "remote-server-timeout" Wait,
    /// Out of resources.
    ResourceConstraint = "resource-constraint" Wait,
    /// Nothing here serves this.
    ServiceUnavailable = "service-unavailable" Cancel,
    /// Only with a subscription.
    SubscriptionRequired = "subscription-required" Auth,
    /// None of the others; comes with an application-specific condition.
    UndefinedCondition = "undefined-condition" Modify,
    /// Out of order.
    UnexpectedRequest = "unexpected-request" Wait,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_keeps_name_and_id() {
        let frame =
            Frame::parse("<iq type='get' id='a&amp;b' to='x'><q xmlns='urn:q'/></iq>").unwrap();
        let error = StanzaError::new(Condition::ServiceUnavailable)
            .with_text("not <here>")
            .with_app(&b"<x xmlns='urn:x'/>"[..]);
        assert_eq!(
            error.of(&frame, "x", "y@z/it's").unwrap(),
            "<iq type='error' id='a&amp;b' from='x' to='y@z/it&apos;s'><error type='cancel'>\
             <service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>not &lt;here&gt;</text>\
             <x xmlns='urn:x'/></error></iq>"
        );
    }

    #[test]
    fn errors_and_results_are_never_answered() {
        let error = StanzaError::new(Condition::BadRequest);
        for xml in [
            "<iq type='result' id='1'/>",
            "<iq type='error' id='1'/>",
            "<message type='error'/>",
            "<presence type='error'/>",
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
        ] {
            assert_eq!(error.of(&Frame::parse(xml).unwrap(), "", ""), None, "{xml}");
        }
        assert!(error.of(&Frame::parse("<presence/>").unwrap(), "", "").is_some());
    }

    #[test]
    fn every_condition_of_the_rfc_has_its_own_name() {
        let names: std::collections::HashSet<_> =
            Condition::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), 22);
    }
}
