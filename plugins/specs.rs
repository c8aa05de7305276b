//! What the core implements, apart from any plugin: streams, security, delivery. The table of
//! protocols in the documentation is derived from this and from what the plugins declare.

use std::fmt::Write;

use server::plugin::Spec;

/// The protocol table of the documentation: what the core implements, then each plugin.
#[must_use]
pub fn protocol_markdown() -> String {
    let mut out = String::from(
        "# Protocol\n\n\
         What Usher implements, as the code declares it. This file is generated from the declarations\n\
         of the core and the plugins.\n\n\
         | specification | version | title | part | notes |\n|---|---|---|---|---|\n",
    );
    let core = CORE_SPECS.iter().map(|spec| ("core", spec));
    let plugins = crate::ALL.iter();
    let plugins = plugins.flat_map(|plugin| plugin.specs.iter().map(|spec| (plugin.name, spec)));
    for (part, spec) in core.chain(plugins) {
        let Spec { id, version, title, note } = spec;
        let _ = writeln!(out, "| {id} | {version} | {title} | {part} | {note} |");
    }
    out
}

/// Specifications of the core, RFCs first.
pub static CORE_SPECS: &[Spec] = &[
    rfc(
        "RFC 6120",
        "XMPP: Core",
        "Client streams, STARTTLS, SASL, bind, stanzas. Not yet: servers",
    ),
    rfc("RFC 7590", "Use of TLS in XMPP", "TLS 1.2 and 1.3 only"),
    rfc(
        "RFC 7622",
        "XMPP: Address Format",
        "Prepared with the stringprep profiles of RFC 6122, which servers in the field use, where \
         the two differ",
    ),
    rfc("RFC 4616", "The PLAIN SASL Mechanism", "Under TLS only; the password may be a token"),
    rfc("RFC 5802", "SCRAM", "SCRAM-SHA-1 and SCRAM-SHA-1-PLUS"),
    rfc("RFC 7677", "SCRAM-SHA-256", "SCRAM-SHA-256 and SCRAM-SHA-256-PLUS"),
    rfc("RFC 7628", "SASL Mechanisms for OAuth", "OAUTHBEARER, with a `secret-token:`"),
    rfc("RFC 5929", "Channel Bindings for TLS", "`tls-server-end-point`; the others are unsafe"),
    rfc("RFC 9266", "Channel Bindings for TLS 1.3", "`tls-exporter`"),
    rfc("RFC 8959", "The \"secret-token\" URI Scheme", "Tokens of clients"),
    xep("XEP-0082", "1.1.1", "XMPP Date and Time Profiles", "UTC, with milliseconds"),
    xep(
        "XEP-0198",
        "1.6.3",
        "Stream Management",
        "Acknowledgements and resumption, also inside SASL 2 and Bind 2, also after a restart of the \
         server. No `location`",
    ),
    xep("XEP-0368", "1.1.0", "SRV Records for XMPP over TLS", "Direct TLS is accepted, with ALPN"),
    xep("XEP-0386", "1.1.0", "Bind 2", "With stream management, carbons and client states inside"),
    xep("XEP-0388", "1.0.4", "Extensible SASL Profile", "With tasks, under TLS only"),
    xep(
        "XEP-0440",
        "1.0.0",
        "SASL Channel-Binding Type Capability",
        "Announced with the mechanisms",
    ),
    xep(
        "XEP-0474",
        "0.5.0",
        "SASL SCRAM Downgrade Protection",
        "The attribute `h`, for SASL and SASL 2",
    ),
    xep("XEP-0478", "0.2.0", "Stream Limits Advertisement", "What is announced is enforced"),
    xep(
        "XEP-0480",
        "0.2.0",
        "SASL Upgrade Tasks",
        "`UPGR-SCRAM-SHA-256`, for accounts whose keys have fewer iterations than new ones get",
    ),
    xep(
        "XEP-0484",
        "0.2.0",
        "Fast Authentication Streamlining Tokens",
        "HT-SHA-256-EXPR, -ENDP and -NONE in both layouts of SASL-HT. No TLS early data",
    ),
    xep("XEP-0509", "0.2.0", "Initial Authentication Pipelining", "The `opaque` scheme"),
    xep(
        "XEP-0515",
        "0.1.0",
        "TLS Channel-Binding Downgrade Protection",
        "The attribute `t`, for SASL and SASL 2",
    ),
];

const fn rfc(id: &'static str, title: &'static str, note: &'static str) -> Spec {
    Spec { id, version: "", title, note }
}

const fn xep(
    id: &'static str,
    version: &'static str,
    title: &'static str,
    note: &'static str,
) -> Spec {
    Spec { id, version, title, note }
}
