//! What a stream announces, by how far it has come (RFC 6120 section 4.3.2).

use bytes::Bytes;

use crate::{Mechanism, Xml, ns, sasl::Offer};

use super::{Settings, TlsUp};

/// XEP-0440: types of channel binding.
const SASL_CB: &str = "urn:xmpp:sasl-cb:0";

/// What may be used to log in on a stream as it stands. Only what is in here is accepted later.
pub(super) fn offer(settings: &Settings, encrypted: Option<&TlsUp>) -> Offer {
    let Some(tls) = encrypted else {
        let open = !settings.tls_required;
        let clear = Mechanism::all().iter().filter(|mechanism| open && !mechanism.needs_tls());
        return Offer { mechanisms: clear.copied().collect(), bindings: None };
    };
    let bindings = tls.binding.types();
    let fits = |mechanism: &&Mechanism| !mechanism.is_plus() || !bindings.is_empty();
    let mechanisms = Mechanism::all().iter().filter(fits).copied().collect();
    Offer { mechanisms, bindings: (!bindings.is_empty()).then_some(bindings) }
}

/// Features before login.
pub(super) fn before_login(settings: &Settings, encrypted: bool, offer: &Offer) -> Bytes {
    let mut xml = Xml::new();
    xml.open("stream:features");
    if settings.starttls && !encrypted {
        xml.open("starttls").ns(ns::TLS);
        if settings.tls_required {
            xml.open("required").close();
        }
        xml.close();
    }
    if !offer.mechanisms.is_empty() {
        xml.open("mechanisms").ns(ns::SASL);
        for mechanism in &offer.mechanisms {
            xml.leaf("mechanism", mechanism.as_str());
        }
        xml.close();
    }
    if let Some(bindings) = &offer.bindings {
        xml.open("sasl-channel-binding").ns(SASL_CB);
        for binding in bindings {
            xml.open("channel-binding").attr("type", binding).close();
        }
        xml.close();
    }
    xml.finish()
}

/// Features after login.
pub(super) fn after_login(settings: &Settings) -> Bytes {
    let mut xml = Xml::new();
    xml.open("stream:features");
    xml.open("bind").ns(ns::BIND).close();
    xml.open("session").ns(ns::SESSION).open("optional").close().close();
    for feature in &settings.features {
        xml.raw(feature.as_bytes());
    }
    xml.finish()
}
