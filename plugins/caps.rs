//! Entity capabilities of the server itself (XEP-0115): a hash of what discovery answers, announced
//! as a stream feature, so that a client that knows the hash need not ask.
//!
//! Last in the list of plugins, because the hash covers what all others have registered. Clients'
//! capabilities are theirs; nothing of them is cached here.

use base64::{Engine, engine::general_purpose::STANDARD};
use server::plugin::{Plugin, Setup, Spec};
use sha1::{Digest, Sha1};
use wire::Xml;

use crate::disco::Info;

/// XEP-0115.
pub const NAMESPACE: &str = "http://jabber.org/protocol/caps";

/// Names this software; nothing is to be found there.
const SOFTWARE: &str = "urn:usher:server";

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "caps",
    about: "Announces the server's capabilities to clients as they log in",
    specs: &[Spec {
        id: "XEP-0115",
        version: "1.6.0",
        title: "Entity Capabilities",
        note: "The server's own, as a stream feature; those of clients are passed on unchanged",
    }],
    setup,
};

fn setup(setup: &mut Setup<'_>) {
    setup.host_features(&[NAMESPACE]);
    let ver = hash(&Info::of_host(&setup.registered().host_features));
    let mut xml = Xml::new();
    xml.open("c").ns(NAMESPACE).attr("hash", "sha-1").attr("node", SOFTWARE).attr("ver", &ver);
    let xml = xml.finish();
    setup.stream_feature(&String::from_utf8_lossy(&xml));
}

/// The node under which discovery tells what the hash covers.
#[must_use]
pub fn node(info: &Info<'_>) -> String {
    format!("{SOFTWARE}#{}", hash(info))
}

/// The verification string (section 5.1).
#[must_use]
pub fn hash(info: &Info<'_>) -> String {
    let mut hash = Sha1::new();
    // Orders by category, type and language, bytewise: the order of the fields is that of the XEP.
    let mut identities = info.identities.clone();
    identities.sort_unstable();
    for identity in identities {
        let parts = [identity.category, identity.kind, identity.lang, identity.name];
        hash.update(parts.join("/"));
        hash.update("<");
    }
    let mut features = info.features.clone();
    features.sort_unstable();
    for feature in features {
        hash.update(feature);
        hash.update("<");
    }
    let mut forms = info.forms.clone();
    forms.sort_unstable_by_key(|form| form.kind);
    for mut form in forms {
        hash.update(form.kind);
        hash.update("<");
        form.fields.sort_unstable();
        for (name, mut values) in form.fields {
            hash.update(name);
            hash.update("<");
            values.sort_unstable();
            for value in values {
                hash.update(value);
                hash.update("<");
            }
        }
    }
    STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disco::{Form, Identity};

    const FEATURES: [&str; 4] = [
        "http://jabber.org/protocol/muc",
        "http://jabber.org/protocol/disco#items",
        "http://jabber.org/protocol/caps",
        "http://jabber.org/protocol/disco#info",
    ];

    fn client<'a>(lang: &'a str, name: &'a str) -> Identity<'a> {
        Identity { category: "client", kind: "pc", lang, name }
    }

    #[test]
    fn the_simple_example_of_section_5_2() {
        let identities = vec![client("", "Exodus 0.9.1")];
        let info = Info { identities, features: FEATURES.to_vec(), forms: vec![] };
        assert_eq!(hash(&info), "QgayPKawpkPSDYmwT/WM94uAlu0=");
    }

    #[test]
    fn the_complex_example_of_section_5_3() {
        let software = Form {
            kind: "urn:xmpp:dataforms:softwareinfo",
            fields: vec![
                ("software_version", vec!["0.11"]),
                ("ip_version", vec!["ipv6", "ipv4"]),
                ("os", vec!["Mac"]),
                ("os_version", vec!["10.5.1"]),
                ("software", vec!["Psi"]),
            ],
        };
        let info = Info {
            identities: vec![client("en", "Psi 0.11"), client("el", "Ψ 0.11")],
            features: FEATURES.to_vec(),
            forms: vec![software],
        };
        assert_eq!(hash(&info), "q07IKJEyjvHSyhy//CH0CxmKi8w=");
    }
}
