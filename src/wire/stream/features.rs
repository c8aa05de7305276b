//! What a stream announces, by how far it has come (RFC 6120 section 4.3.2). What is announced before
//! login depends on nothing but the listener and the encryption, so it is written once for each of
//! the few cases there are.

use std::sync::{Arc, OnceLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{Mechanism, Xml, ns, sasl::Offer};

use super::{Settings, TlsUp};

/// The cases: in the clear, and with TLS whichever of two types of channel binding there are.
const CASES: usize = 5;

/// What streams of a listener announce before login.
#[derive(Debug, Default)]
pub(super) struct Announced([OnceLock<Announcement>; CASES]);

/// What one kind of stream announces before login. Only what is in here is accepted later.
#[derive(Debug)]
pub(super) struct Announcement {
    /// The mechanisms of both profiles.
    pub(super) offer: Arc<Offer>,
    /// Those for tokens of FAST.
    pub(super) fast: Vec<Mechanism>,
    /// `<stream:features/>`.
    pub(super) xml: Bytes,
    /// What it is called in XEP-0509.
    pub(super) version: String,
}

impl Announced {
    pub(super) fn case(&self, settings: &Settings, encrypted: Option<&TlsUp>) -> &Announcement {
        let index = encrypted.map_or(0, |tls| {
            let binding = &tls.binding;
            1 + usize::from(binding.exporter.is_some())
                + 2 * usize::from(binding.end_point.is_some())
        });
        self.0[index].get_or_init(|| Announcement::new(settings, encrypted))
    }
}

impl Announcement {
    fn new(settings: &Settings, encrypted: Option<&TlsUp>) -> Self {
        let offer = offer(settings, encrypted);
        let has = |kind: &str| {
            kind.is_empty() || encrypted.is_some_and(|tls| tls.binding.data(kind).is_some())
        };
        let fits = |mechanism: &&Mechanism| mechanism.ht_binding().is_some_and(has);
        let fast = match encrypted {
            Some(_) => Mechanism::all().iter().filter(fits).copied().collect(),
            None => Vec::new(),
        };
        let xml = before_login(settings, encrypted.is_some(), &offer, &fast, None);
        let version = STANDARD.encode(&Sha256::digest(&xml)[..12]);
        let version_in = encrypted.map(|_| version.as_str());
        let xml = before_login(settings, encrypted.is_some(), &offer, &fast, version_in);
        Self { offer: Arc::new(offer), fast, xml, version }
    }
}

/// What may be used to log in on a stream as it stands.
fn offer(settings: &Settings, encrypted: Option<&TlsUp>) -> Offer {
    let all = Mechanism::all().iter().filter(|mechanism| !mechanism.is_fast());
    let Some(tls) = encrypted else {
        let open = !settings.tls_required;
        let clear = all.filter(|mechanism| open && !mechanism.needs_tls());
        return Offer { mechanisms: clear.copied().collect(), bindings: None };
    };
    let bindings = tls.binding.types();
    let fits = |mechanism: &&Mechanism| !mechanism.is_plus() || !bindings.is_empty();
    let mechanisms = all.filter(fits).copied().collect();
    Offer { mechanisms, bindings: (!bindings.is_empty()).then_some(bindings) }
}

fn before_login(
    settings: &Settings,
    encrypted: bool,
    offer: &Offer,
    fast: &[Mechanism],
    version: Option<&str>,
) -> Bytes {
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
    // XEP-0388: never without TLS.
    if encrypted {
        authentication(&mut xml, settings, offer, fast);
    }
    if let Some(bindings) = &offer.bindings {
        xml.open("sasl-channel-binding").ns(ns::SASL_CB);
        for binding in bindings {
            xml.open("channel-binding").attr("type", binding).close();
        }
        xml.close();
    }
    if !offer.mechanisms.is_empty() {
        limits(&mut xml, settings.max_bytes.0, None);
    }
    if let Some(version) = version {
        xml.open("config-version").ns(ns::IAP).attr("scheme", "opaque").attr("value", version);
    }
    xml.finish()
}

fn authentication(xml: &mut Xml, settings: &Settings, offer: &Offer, fast: &[Mechanism]) {
    xml.open("authentication").ns(ns::SASL2);
    for mechanism in &offer.mechanisms {
        xml.leaf("mechanism", mechanism.as_str());
    }
    for task in &settings.upgrades {
        xml.open("upgrade").ns(ns::SASL_UPGRADE).text(task).close();
    }
    xml.open("inline");
    xml.open("bind").ns(ns::BIND2).open("inline");
    for var in settings.inline.iter().copied().chain([ns::SM]) {
        xml.open("feature").attr("var", var).close();
    }
    xml.close().close();
    xml.open("sm").ns(ns::SM).close();
    xml.open("fast").ns(ns::FAST);
    for mechanism in fast {
        xml.leaf("mechanism", mechanism.as_str());
    }
    xml.close().close().close();
}

/// XEP-0478.
fn limits(xml: &mut Xml, bytes: usize, idle: Option<u64>) {
    xml.open("limits").ns(ns::LIMITS).leaf("max-bytes", &bytes.to_string());
    if let Some(idle) = idle {
        xml.leaf("idle-seconds", &idle.to_string());
    }
    xml.close();
}

/// Features after login; `bound`: with a resource already, `managed`: its stanzas are counted already.
/// What is there is not announced: clients would ask for it again.
pub(super) fn after_login(settings: &Settings, bound: bool, managed: bool) -> Bytes {
    let mut xml = Xml::new();
    xml.open("stream:features");
    if !bound {
        xml.open("bind").ns(ns::BIND).close();
        xml.open("session").ns(ns::SESSION).open("optional").close().close();
    }
    if !managed {
        xml.open("sm").ns(ns::SM).close();
    }
    for feature in &settings.features {
        xml.raw(feature.as_bytes());
    }
    limits(&mut xml, settings.max_bytes.1, settings.idle);
    xml.finish()
}
