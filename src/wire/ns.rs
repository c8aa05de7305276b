//! The XML namespaces this server speaks, one constant each, in alphabetical order.
//!
//! Only names that code compares or writes; a plugin keeps a namespace of its own next to its code.

/// RFC 6120 7: resource binding.
pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
/// XEP-0386: resource binding inside authentication.
pub const BIND2: &str = "urn:xmpp:bind:0";
/// XEP-0280: message carbons.
pub const CARBONS: &str = "urn:xmpp:carbons:2";
/// XEP-0085: chat states.
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// RFC 6120 4.8.2: content of a client stream.
pub const CLIENT: &str = "jabber:client";
/// XEP-0203: delayed delivery.
pub const DELAY: &str = "urn:xmpp:delay";
/// XEP-0030: service discovery, information.
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// XEP-0030: service discovery, items.
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// XEP-0484: tokens for the next login.
pub const FAST: &str = "urn:xmpp:fast:0";
/// XEP-0297: stanza forwarding.
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// XEP-0334: message processing hints.
pub const HINTS: &str = "urn:xmpp:hints";
/// XEP-0509: authentication sent along with the stream's header.
pub const IAP: &str = "urn:xmpp:iap:0";
/// XEP-0478: what a stream may carry.
pub const LIMITS: &str = "urn:xmpp:stream-limits:0";
/// XEP-0199: ping.
pub const PING: &str = "urn:xmpp:ping";
/// RFC 6121 2: roster.
pub const ROSTER: &str = "jabber:iq:roster";
/// RFC 6120 6: SASL.
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// XEP-0388: SASL in one round trip.
pub const SASL2: &str = "urn:xmpp:sasl:2";
/// XEP-0480: better keys for the next login.
pub const SASL_UPGRADE: &str = "urn:xmpp:sasl:upgrade:0";
/// XEP-0440: types of channel binding.
pub const SASL_CB: &str = "urn:xmpp:sasl-cb:0";
/// RFC 6120 4.8.2: content of a server stream.
pub const SERVER: &str = "jabber:server";
/// XEP-0480 3: keys of SCRAM.
pub const SCRAM_UPGRADE: &str = "urn:xmpp:scram-upgrade:0";
/// XEP-0359: unique and stable stanza ids.
pub const SID: &str = "urn:xmpp:sid:0";
/// RFC 3921 3: session establishment, obsolete but still asked for.
pub const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
/// XEP-0198: stream management.
pub const SM: &str = "urn:xmpp:sm:3";
/// RFC 6120 8.3: stanza error conditions.
pub const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// RFC 6120 4.8.1: the stream element itself, `features` and `error`.
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
/// RFC 6120 5: STARTTLS.
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// XEP-0092: software version.
pub const VERSION: &str = "jabber:iq:version";
/// Namespaces in XML 3: what the prefix `xml` is always bound to.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// Namespaces in XML 3: what the prefix `xmlns` is always bound to.
pub const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
/// RFC 6120 4.9.2: stream error conditions.
pub const XML_STREAMS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
