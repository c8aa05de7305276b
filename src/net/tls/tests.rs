//! TLS between a rustls client and what is served, over memory.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use rustls::{SupportedProtocolVersion, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256, Sha384};

use super::*;

/// A pair signed with `algorithm`, for `localhost`.
fn pair(algorithm: &'static SignatureAlgorithm) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn identity(algorithm: &'static SignatureAlgorithm) -> Identity {
    let (certificate, key) = pair(algorithm);
    Identity {
        certificates: vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
        key: PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
    }
}

fn client(
    roots: &[CertificateDer<'static>],
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> ClientConfig {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// Runs a handshake to its end, tickets included.
fn handshake(
    client: &Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(server)?;
    assert!(exporter(&server).is_none(), "nothing to bind to before the handshake");
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        wire.clear();
        client.write_tls(&mut wire).unwrap();
        feed(&mut wire.as_slice(), |from| server.read_tls(from));
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        feed(&mut wire.as_slice(), |from| client.read_tls(from));
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn feed(bytes: &mut &[u8], mut read: impl FnMut(&mut dyn io::Read) -> io::Result<usize>) {
    while !bytes.is_empty() {
        read(bytes).unwrap();
    }
}

#[test]
fn both_ends_export_the_same_in_both_versions() {
    let identity = identity(&rcgen::PKCS_ECDSA_P256_SHA256);
    let roots = identity.certificates.clone();
    let tls = Tls::new(identity).unwrap();
    for (version, number) in [(&version::TLS13, 0x0304), (&version::TLS12, 0x0303)] {
        let config = Arc::new(client(&roots, &[version], &[]));
        let (one, server) = handshake(&config, tls.starttls_config()).unwrap();
        assert_eq!(protocol_version(&server), Some(number));
        let label = b"EXPORTER-Channel-Binding";
        let theirs = one.export_keying_material([0; 32], label, Some(b"")).unwrap();
        assert_eq!(exporter(&server), Some(theirs));
        let (_, other) = handshake(&config, tls.starttls_config()).unwrap();
        assert_ne!(exporter(&other), Some(theirs), "another connection, another binding");

        let binding = tls.served().channel_binding(&server);
        assert_eq!(binding.types(), ["tls-exporter", "tls-server-end-point"]);
        assert_eq!(binding.exporter, Some(theirs));
        assert_eq!(binding.end_point, Some(Sha256::digest(&roots[0]).to_vec()));
    }
}

#[test]
fn serves_neither_early_data_nor_exporters_without_ems() {
    let tls = Tls::new(identity(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    for config in [tls.starttls_config(), tls.direct_config()] {
        assert!(config.require_ems);
        assert_eq!(config.max_early_data_size, 0);
    }
}

#[test]
fn alpn_is_for_the_direct_port_only() {
    let identity = identity(&rcgen::PKCS_ECDSA_P256_SHA256);
    let roots = identity.certificates.clone();
    let tls = Tls::new(identity).unwrap();
    let run = |alpn: &[&[u8]], config| {
        let client = Arc::new(client(&roots, &[&version::TLS13], alpn));
        handshake(&client, config).map(|(_, server)| server.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(run(&[b"xmpp-client"], tls.direct_config()), Ok(Some(ALPN.to_vec())));
    assert_eq!(run(&[b"h2", b"xmpp-client"], tls.direct_config()), Ok(Some(ALPN.to_vec())));
    assert_eq!(run(&[], tls.direct_config()), Ok(None));
    assert!(run(&[b"xmpp-server"], tls.direct_config()).is_err());
    assert_eq!(run(&[b"xmpp-server"], tls.starttls_config()), Ok(None));
}

#[test]
fn a_replaced_certificate_is_seen_by_the_next_connection_and_by_no_resumption() {
    let first = identity(&rcgen::PKCS_ECDSA_P256_SHA256);
    let second = identity(&rcgen::PKCS_ECDSA_P384_SHA384);
    let roots = [first.certificates[0].clone(), second.certificates[0].clone()];
    for version in [&version::TLS13, &version::TLS12] {
        let identity =
            Identity { certificates: first.certificates.clone(), key: first.key.clone_key() };
        let tls = Tls::new(identity).unwrap();
        let mut config = client(&roots, &[version], &[]);
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);

        let (_, server) = handshake(&config, tls.starttls_config()).unwrap();
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        let (_, server) = handshake(&config, tls.starttls_config()).unwrap();
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));

        let before = tls.served();
        let next =
            Identity { certificates: second.certificates.clone(), key: second.key.clone_key() };
        tls.replace(next).unwrap();
        let (client, server) = handshake(&config, tls.starttls_config()).unwrap();
        assert_ne!(server.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(client.peer_certificates().unwrap()[0], roots[1]);
        assert_eq!(tls.end_point(), Some(Sha384::digest(&roots[1]).to_vec()));
        // What was accepted before keeps its own binding.
        assert_eq!(before.end_point(), Some(Sha256::digest(&roots[0]).as_slice()));
        assert_ne!(before.fingerprint(), tls.fingerprint());
    }
}

#[test]
fn an_unusable_replacement_leaves_the_present_one() {
    let tls = Tls::new(identity(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
    let before = tls.fingerprint();
    let mixed = Identity {
        key: identity(&rcgen::PKCS_ECDSA_P256_SHA256).key,
        ..identity(&rcgen::PKCS_ECDSA_P256_SHA256)
    };
    assert!(matches!(tls.replace(mixed), Err(TlsError::Unusable(_))));
    let none = Identity { certificates: Vec::new(), ..identity(&rcgen::PKCS_ECDSA_P256_SHA256) };
    assert!(matches!(tls.replace(none), Err(TlsError::Empty)));
    assert_eq!(tls.fingerprint(), before);
}

#[test]
fn end_points_follow_the_signature() {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let of = |pem: &[u8]| end_point::hash(&CertificateDer::from_pem_slice(pem).unwrap());
    // Expected values by `openssl x509 -outform der | sha256sum` and `sha512sum`.
    let sha1 = of(include_bytes!("sha1.pem"));
    assert_eq!(
        sha1.map(hex).as_deref(),
        Some("91e988babb2e572c92ddfd2d841df42c00893af9cbe45797bc731c213a5eefd8")
    );
    let pss = of(include_bytes!("pss_sha512.pem"));
    assert_eq!(
        pss.map(hex).as_deref(),
        Some(
            "32212754d3309c16dea1b923063ba4be1a5f719356772d1f395395b1d67b1a2d\
             69d148d65b01d9bad6b5a60707aecb658fbd358a3e8ceabb42e3fbe41526dc79"
        )
    );
    let (p384, _) = pair(&rcgen::PKCS_ECDSA_P384_SHA384);
    let der = CertificateDer::from_pem_slice(p384.as_bytes()).unwrap();
    assert_eq!(of(p384.as_bytes()), Some(Sha384::digest(&der).to_vec()));
    let (edwards, _) = pair(&rcgen::PKCS_ED25519);
    assert_eq!(of(edwards.as_bytes()), None, "RFC 5929 defines none");
    assert_eq!(end_point::hash(b"no certificate"), None);
}

#[test]
fn fingerprints_look_as_openssl_prints_them() {
    assert!(fingerprint(b"").starts_with("E3:B0:C4:42:98:FC:1C:14:"));
    assert_eq!(fingerprint(b"").len(), 32 * 3 - 1);
}

fn error_of(certificate: &Path, key: &Path) -> String {
    match load(certificate, key) {
        Ok(_) => panic!("loaded"),
        Err(error) => {
            // Whoever prints the chain of causes would say it again, behind the hint.
            assert!(std::error::Error::source(&error).is_none(), "{error} says its cause twice");
            error.to_string()
        }
    }
}

#[test]
fn says_what_is_wrong_with_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let (certificate, key) = pair(&rcgen::PKCS_ECDSA_P256_SHA256);
    let good = file("good.crt", &certificate);
    let good_key = file("good.key", &key);
    assert!(load(&good, &good_key).is_ok());

    let absent = dir.path().join("absent");
    for (found, expected) in [
        (error_of(&absent, &good_key), "absent` does not exist; hint: check `[tls] certificate`"),
        (error_of(&good, &absent), "absent` does not exist; hint: check `[tls] key`"),
        (error_of(dir.path(), &good_key), "cannot read certificate"),
        (error_of(&good_key, &good_key), "good.key` has no PEM certificate in it"),
        (error_of(&good, &good), "good.crt` has no PEM private key in it"),
        (error_of(&file("empty", ""), &good_key), "empty` has no PEM certificate in it"),
        (
            error_of(&file("cut", &certificate[..certificate.len() / 2]), &good_key),
            "cut` has no PEM certificate in it",
        ),
        (
            error_of(&good, &file("other.key", &pair(&rcgen::PKCS_ECDSA_P256_SHA256).1)),
            "other.key` does not belong to the first certificate in",
        ),
        (
            error_of(
                &good,
                &file(
                    "locked.key",
                    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n\
                     -----END ENCRYPTED PRIVATE KEY-----",
                ),
            ),
            "locked.key` is encrypted",
        ),
        (
            error_of(
                &file("odd", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
                &good_key,
            ),
            "odd` has a damaged certificate in it",
        ),
    ] {
        assert!(found.contains(expected), "{found}");
        assert!(found.contains("; hint: ") && !found.contains('\n'), "{found}");
    }
}

#[test]
fn says_when_a_certificate_is_out_of_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let path = dir.path().join("key");
    fs::write(&path, key.serialize_pem()).unwrap();
    for (from, to, expected) in
        [(2001, 2002, "expired on Jan  1"), (3001, 3002, "is not valid before Jan  1")]
    {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = dir.path().join("crt");
        fs::write(&certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
        let found = error_of(&certificate, &path);
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn self_signed_is_made_once_and_serves_its_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = ["localhost".to_owned(), "münchen.example".to_owned(), "[::1]".to_owned()];
    let made = self_signed(dir.path(), &hosts).unwrap();
    let mode = |name| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("self-signed.key"), 0o600);
    assert_eq!(mode("self-signed.crt") & 0o022, 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);

    let again = self_signed(dir.path(), &hosts[..2]).unwrap();
    assert_eq!(again.certificates, made.certificates, "fewer hosts need no other certificate");

    let roots = made.certificates.clone();
    let tls = Tls::new(made).unwrap();
    let config = Arc::new(client(&roots, &[&version::TLS13], &[]));
    for name in ["localhost", "xn--mnchen-3ya.example", "::1"] {
        let mut one = ClientConnection::new(config.clone(), name.try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(tls.starttls_config()).unwrap();
        let mut wire = Vec::new();
        one.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        feed(&mut wire.as_slice(), |from| one.read_tls(from));
        one.process_new_packets().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn self_signed_is_made_anew_for_new_hosts_and_damaged_files() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = ["localhost".to_owned(), "chat.example".to_owned()];
    let certificate = dir.path().join("self-signed.crt");
    let mut last = self_signed(dir.path(), &hosts[..1]).unwrap().certificates;
    let mut made_anew = |why: &str| {
        let next = self_signed(dir.path(), &hosts).unwrap().certificates;
        assert_ne!(next, last, "{why}");
        last = next;
    };
    made_anew("another host");
    fs::write(&certificate, "damaged").unwrap();
    made_anew("a damaged certificate");
    let (_, other_key) = pair(&rcgen::PKCS_ECDSA_P256_SHA256);
    fs::write(dir.path().join("self-signed.key"), other_key).unwrap();
    made_anew("a crash between the two files");
    fs::remove_file(dir.path().join("self-signed.key")).unwrap();
    made_anew("a lost key");

    // Nearly over: a certificate for the right hosts with a day left.
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut parameters = CertificateParams::new(hosts.to_vec()).unwrap();
    let seconds = identity::unix_seconds(identity::now()) as u64 + 86_400;
    parameters.not_after =
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds);
    fs::write(&certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.path().join("self-signed.key"), key.serialize_pem()).unwrap();
    assert!(load(&certificate, &dir.path().join("self-signed.key")).is_ok());
    let old = fs::read(&certificate).unwrap();
    made_anew("a day left");
    assert_ne!(fs::read(&certificate).unwrap(), old);
}

#[test]
fn self_signed_refuses_what_cannot_stand_in_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let said = |hosts: &[String]| match self_signed(dir.path(), hosts) {
        Ok(_) => panic!("made for {hosts:?}"),
        Err(error) => error.to_string(),
    };
    assert!(said(&[]).contains("no host is configured"));
    assert!(said(&["xn--a".to_owned()]).contains("`xn--a` is not a host name"));
    assert!(said(&[String::new()]).contains("`` is not a host name"));
    let absent = dir.path().join("absent");
    let error = self_signed(&absent, &["localhost".to_owned()]).err().unwrap().to_string();
    assert!(error.contains("cannot write") && error.contains("hint: "), "{error}");
}
