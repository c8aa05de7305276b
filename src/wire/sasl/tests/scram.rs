//! SCRAM against a client written here: the vectors of the RFCs and XEPs, every refusal, properties.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::super::*;
use super::{bound, cx, first, jid, word};

pub(super) fn keys(hash: Hash) -> ScramKeys {
    derive(hash, "pencil", b"salt of 16 bytes", 3).unwrap()
}

/// The client's half of SCRAM, written from RFC 5802 and sharing no code with the server's.
struct Client {
    hash: Hash,
    gs2: String,
    data: Vec<u8>,
    bare: String,
    password: &'static str,
}

impl Client {
    fn new(hash: Hash, gs2: &str, data: &[u8]) -> Client {
        Client {
            hash,
            gs2: gs2.into(),
            data: data.into(),
            bare: "n=user,r=client-nonce".into(),
            password: "pencil",
        }
    }

    fn first(&self) -> Vec<u8> {
        format!("{}{}", self.gs2, self.bare).into_bytes()
    }

    fn hmac(&self, key: &[u8], data: &[u8]) -> Vec<u8> {
        match self.hash {
            Hash::Sha1 => {
                let mut mac = <Hmac<Sha1> as KeyInit>::new_from_slice(key).unwrap();
                mac.update(data);
                mac.finalize().into_bytes().to_vec()
            }
            Hash::Sha256 => {
                let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
                mac.update(data);
                mac.finalize().into_bytes().to_vec()
            }
        }
    }

    fn digest(&self, data: &[u8]) -> Vec<u8> {
        match self.hash {
            Hash::Sha1 => Sha1::digest(data).to_vec(),
            Hash::Sha256 => Sha256::digest(data).to_vec(),
        }
    }

    /// `Hi` of RFC 5802 section 2.2, the slow way.
    fn salted(&self, salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut u = self.hmac(self.password.as_bytes(), &[salt, &[0, 0, 0, 1]].concat());
        let mut sum = u.clone();
        for _ in 1..iterations {
            u = self.hmac(self.password.as_bytes(), &u);
            sum.iter_mut().zip(&u).for_each(|(s, u)| *s ^= u);
        }
        sum
    }

    /// client-final-message and the server signature to expect.
    fn last(&self, challenge: &[u8], extension: &str) -> (String, String) {
        self.last_with(challenge, extension, str::to_owned)
    }

    /// The same with the nonce sent back changed by `nonce`, and signed so.
    fn last_with(
        &self,
        challenge: &[u8],
        extension: &str,
        nonce: impl Fn(&str) -> String,
    ) -> (String, String) {
        let challenge = std::str::from_utf8(challenge).unwrap();
        let value = |name: &str| {
            challenge.split(',').find_map(|a| a.strip_prefix(name)).unwrap().to_owned()
        };
        let salt = BASE64.decode(value("s=")).unwrap();
        let salted = self.salted(&salt, value("i=").parse().unwrap());
        let binding = BASE64.encode([self.gs2.as_bytes(), &self.data].concat());
        let without_proof = format!("c={binding},r={}{extension}", nonce(&value("r=")));
        let signed = format!("{},{challenge},{without_proof}", self.bare);
        let client_key = self.hmac(&salted, b"Client Key");
        let signature = self.hmac(&self.digest(&client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server = self.hmac(&self.hmac(&salted, b"Server Key"), signed.as_bytes());
        (
            format!("{without_proof},p={}", BASE64.encode(proof)),
            format!("v={}", BASE64.encode(server)),
        )
    }
}

/// Runs an exchange up to the challenge.
fn challenged(mechanism: Mechanism, cx: Context, first: Vec<u8>) -> (Exchange, Vec<u8>) {
    let mut exchange = Exchange::start(mechanism, cx);
    let Step::NeedKeys { hash, .. } = exchange.step(Input::Initial(Some(first))) else {
        panic!("keys are asked for");
    };
    match exchange.step(Input::Keys(Some(keys(hash)))) {
        Step::Challenge(challenge) => (exchange, challenge),
        _ => panic!("a challenge"),
    }
}

/// A vector's dialogue with fixed nonces.
fn vector(
    mechanism: Mechanism,
    nonce: &str,
    salt: &str,
    first: &str,
    challenge: &str,
    last: &str,
) -> String {
    let mut exchange = Exchange::start(mechanism, Context { nonce: nonce.into(), ..cx() });
    let Step::NeedKeys { user, hash } = exchange.step(Input::Initial(Some(first.into()))) else {
        panic!("keys are asked for");
    };
    assert_eq!(user, jid("user@example.org"));
    let keys = derive(hash, "pencil", &BASE64.decode(salt).unwrap(), 4096).unwrap();
    let step = exchange.step(Input::Keys(Some(keys)));
    assert_eq!(word(step), format!("challenge {challenge}"));
    word(exchange.step(Input::Response(last.into())))
}

#[test]
fn rfc_5802_section_5() {
    let last = vector(
        Mechanism::ScramSha1,
        "3rfcNHYJY1ZVvWVs7j",
        "QSXCR+Q6sek8bf92",
        "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    );
    assert_eq!(last, "proved user@example.org - v=rmF9pqV8S7suAoZWja4dJRkFsKQ=");
}

#[test]
fn rfc_7677_section_3() {
    let last = vector(
        Mechanism::ScramSha256,
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    );
    assert_eq!(last, "proved user@example.org - v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

/// The dialogue of XEP-0474's and XEP-0515's example with their made-up binding data, which no
/// [`ChannelBinding`] has room for.
#[test]
fn xep_0474_and_0515_examples() {
    let offer = Offer {
        mechanisms: vec![Mechanism::ScramSha1Plus, Mechanism::ScramSha1],
        bindings: Some(vec![END_POINT, EXPORTER]),
    };
    for (tls_version, challenge, extension, proof, server) in [
        (
            None,
            "h=G6k/rBLDqgOhRRaCuuatSDFkJ08=",
            ",x=19C6532F-1CF4-4A27-A18D-DC9CEA41BBB3",
            "M/SIDjT+dfcxUh89jZEypRvFxB4=",
            "MQrMPvv7yv4x4Cq4W4Ih25EqS2c=",
        ),
        (
            Some(0x0304),
            "h=G6k/rBLDqgOhRRaCuuatSDFkJ08=,t=0304",
            "",
            "KHUfN8dSy1K95crT4D5y1ItLJfs=",
            "3w34ZIMVRkx2f2Ozb3/ecRPVdv4=",
        ),
    ] {
        let end_point = Some(b"THIS IS FAKE CB DATA".to_vec());
        let cx = Context {
            nonce: "a09117a6-ac50-4f2f-93f1-93799c2bddf6".into(),
            offer: Some(Arc::new(offer.clone())),
            tls_version,
            binding: Some(Arc::new(ChannelBinding { exporter: Some([0; 32]), end_point })),
            ..bound()
        };
        // Their data under our name: only the type differs from the printed dialogue.
        let gs2 = "p=tls-exporter,,";
        let bare = "n=user,r=12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6";
        let message = format!("{gs2}{bare}");
        let mut state =
            scram::First::parse(message.as_bytes(), Mechanism::ScramSha1Plus, &cx).unwrap();
        state.replace_binding([gs2.as_bytes(), b"THIS IS FAKE CB DATA"].concat());
        let salt = BASE64.decode("QSXCR+Q6sek8bf92").unwrap();
        let keys = derive(Hash::Sha1, "pencil", &salt, 4096).unwrap();
        let (last, sent) = state.challenge(&cx, keys);
        let nonce = "12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6a09117a6-ac50-4f2f-93f1-93799c2bddf6";
        assert_eq!(
            String::from_utf8(sent).unwrap(),
            format!("r={nonce},s=QSXCR+Q6sek8bf92,i=4096,{challenge}")
        );
        let binding = "cD10bHMtZXhwb3J0ZXIsLFRISVMgSVMgRkFLRSBDQiBEQVRB";
        let message = format!("c={binding},r={nonce}{extension},p={proof}");
        let step = last.prove(message.as_bytes()).unwrap_or_else(Step::Fail);
        assert_eq!(word(step), format!("proved user@example.org tls-exporter v={server}"));
    }
}

#[test]
fn downgrade_text_is_sorted_by_octets_and_leaves_out_what_was_not_announced() {
    let all = Mechanism::all().iter().filter(|mechanism| !mechanism.is_fast());
    let mut offer = Offer { mechanisms: all.copied().collect(), bindings: None };
    assert_eq!(
        offer.downgrade_text(),
        "OAUTHBEARER\x1ePLAIN\x1eSCRAM-SHA-1\x1eSCRAM-SHA-1-PLUS\x1eSCRAM-SHA-256\x1e\
         SCRAM-SHA-256-PLUS"
    );
    offer.mechanisms = vec![Mechanism::Plain];
    offer.bindings = Some(vec![END_POINT]);
    assert_eq!(offer.downgrade_text(), "PLAIN\x1ftls-server-end-point");
    offer.bindings = Some(vec![]);
    assert_eq!(offer.downgrade_text(), "PLAIN\x1f");
    assert!(offer.contains(Mechanism::Plain) && !offer.contains(Mechanism::ScramSha1));
    assert!(!offer.has_plus());
}

#[test]
fn every_scram_mechanism_proves_its_own_client() {
    for (mechanism, gs2, data, binding) in [
        (Mechanism::ScramSha1, "n,,", &[][..], "-"),
        (Mechanism::ScramSha256, "n,a=user@example.org,", &[][..], "-"),
        (Mechanism::ScramSha1Plus, "p=tls-exporter,,", &[7; 32][..], "tls-exporter"),
        (
            Mechanism::ScramSha256Plus,
            "p=tls-server-end-point,,",
            &[9; 32][..],
            "tls-server-end-point",
        ),
        (
            Mechanism::ScramSha256Plus,
            "p=tls-exporter,a=User@Example.org,",
            &[7; 32][..],
            "tls-exporter",
        ),
    ] {
        let client = Client::new(mechanism.hash().unwrap(), gs2, data);
        let (mut exchange, challenge) = challenged(mechanism, bound(), client.first());
        let (last, server) = client.last(&challenge, "");
        let step = exchange.step(Input::Response(last.into()));
        assert_eq!(word(step), format!("proved user@example.org {binding} {server}"));
        let after = exchange.step(Input::Response(Vec::new()));
        assert_eq!(word(after), "fail malformed-request");
    }
}

#[test]
fn y_is_welcome_only_when_no_plus_was_offered() {
    let client = Client::new(Hash::Sha1, "y,,", b"");
    let (mut exchange, challenge) = challenged(Mechanism::ScramSha1, cx(), client.first());
    let step = exchange.step(Input::Response(client.last(&challenge, "").0.into()));
    assert!(word(step).starts_with("proved"));
    let offered = Context { plus_offered: true, ..cx() };
    for (mechanism, message) in [
        (Mechanism::ScramSha1, "y,,n=user,r=abc"),
        (Mechanism::ScramSha256, "y,,n=user,r=abc"),
        (Mechanism::OauthBearer, "y,,\u{1}auth=Bearer x\u{1}\u{1}"),
    ] {
        assert_eq!(first(mechanism, offered.clone(), message), "fail not-authorized");
    }
}

#[test]
fn a_wrong_channel_is_a_wrong_password() {
    let mechanism = Mechanism::ScramSha256Plus;
    for (gs2, data) in [
        // Another connection's data, the other type's data, none, and a header that was changed.
        ("p=tls-exporter,,", &[8; 32][..]),
        ("p=tls-exporter,,", &[9; 32][..]),
        ("p=tls-exporter,,", &[][..]),
    ] {
        let client = Client::new(Hash::Sha256, gs2, data);
        let (mut exchange, challenge) = challenged(mechanism, bound(), client.first());
        let step = exchange.step(Input::Response(client.last(&challenge, "").0.into()));
        assert_eq!(word(step), "fail not-authorized");
    }
    let client = Client::new(Hash::Sha256, "p=tls-exporter,,", &[7; 32]);
    let (mut exchange, challenge) = challenged(mechanism, bound(), client.first());
    let changed = Client { gs2: "p=tls-server-end-point,,".into(), ..client };
    let step = exchange.step(Input::Response(changed.last(&challenge, "").0.into()));
    assert_eq!(word(step), "fail not-authorized");
}

#[test]
fn scram_first_messages_that_are_refused() {
    let plain = Mechanism::ScramSha256;
    let plus = Mechanism::ScramSha256Plus;
    for (mechanism, message, failure) in [
        (plain, "", "malformed-request"),
        (plain, "n", "malformed-request"),
        (plain, "n,,", "malformed-request"),
        (plain, "n,,n=user", "malformed-request"),
        (plain, "n,,r=abc,n=user", "malformed-request"),
        (plain, "n,,n=,r=abc", "malformed-request"),
        (plain, "n,,n=user,r=", "malformed-request"),
        (plain, "n,,n=user,r=a b", "malformed-request"),
        (plain, "n,,n=user,r=ab\u{e9}", "malformed-request"),
        (plain, "n,,m=x,n=user,r=abc", "malformed-request"),
        (plain, "n,,n=user,r=abc,m=x", "malformed-request"),
        (plain, "n,,n=user,r=abc,", "malformed-request"),
        (plain, "n,,n=user,r=abc,x", "malformed-request"),
        (plain, "n,,n=user,r=abc,1=x", "malformed-request"),
        (plain, "n,,n=us=er,r=abc", "malformed-request"),
        (plain, "n,,n=us=2cer,r=abc", "malformed-request"),
        (plain, "n,,n=us=2,r=abc", "malformed-request"),
        (plain, "n,,n=us\0er,r=abc", "malformed-request"),
        (plain, "x,,n=user,r=abc", "malformed-request"),
        (plain, "F,n,,n=user,r=abc", "malformed-request"),
        (plain, "n,b=user,n=user,r=abc", "malformed-request"),
        (plain, "n,a=,n=user,r=abc", "malformed-request"),
        (plain, "n,a=us=er,n=user,r=abc", "malformed-request"),
        (plain, "p=tls-exporter,,n=user,r=abc", "malformed-request"),
        (plus, "n,,n=user,r=abc", "malformed-request"),
        (plus, "y,,n=user,r=abc", "malformed-request"),
        (plus, "p=tls-unique,,n=user,r=abc", "not-authorized"),
        (plus, "p=,,n=user,r=abc", "not-authorized"),
        (plain, "n,a=other@example.org,n=user,r=abc", "invalid-authzid"),
        (plain, "n,a=user@example.org/x,n=user,r=abc", "invalid-authzid"),
        (plain, "n,a=user@example.com,n=user,r=abc", "invalid-authzid"),
        (plain, "n,a=user,n=user,r=abc", "invalid-authzid"),
        (plain, "n,a=@,n=user,r=abc", "invalid-authzid"),
        // Names no account can have. A JID is not a user name here: RFC 6120 section 6.3.7.
        (plain, "n,,n=user@example.org,r=abc", "not-authorized"),
        (plain, "n,,n=us er,r=abc", "not-authorized"),
        (plain, "n,,n=us=2Cer/,r=abc", "not-authorized"),
        (plain, "n,,n=\u{7},r=abc", "not-authorized"),
    ] {
        assert_eq!(first(mechanism, bound(), message), format!("fail {failure}"), "{message:?}");
    }
    let mut exchange = Exchange::start(plain, cx());
    let step = exchange.step(Input::Initial(Some(b"n,,n=\xff,r=abc".to_vec())));
    assert_eq!(word(step), "fail malformed-request");
    // PLUS on a connection that has nothing to bind to.
    assert_eq!(first(plus, cx(), "p=tls-exporter,,n=user,r=abc"), "fail not-authorized");
}

#[test]
fn user_names_are_unescaped_and_prepared() {
    for (message, user) in [
        ("n,,n=USER,r=abc", "user@example.org"),
        ("n,,n=us=2Cer=3D,r=abc", "us,er=@example.org"),
        ("n,,n=ｕser,r=abc,x=y", "user@example.org"),
        ("n,,n=I\u{ad}X,r=abc", "ix@example.org"),
        ("n,a=us=2Cer@example.org,n=us=2Cer,r=abc", "us,er@example.org"),
    ] {
        let asked = first(Mechanism::ScramSha1, cx(), message);
        assert_eq!(asked, format!("keys {user} Sha1"), "{message}");
    }
}

#[test]
fn scram_final_messages_that_are_refused() {
    let client = Client::new(Hash::Sha1, "n,,", b"");
    let full = "client-nonceserver-nonce";
    let (_, challenge) = challenged(Mechanism::ScramSha1, cx(), client.first());
    let (good, _) = client.last(&challenge, "");
    let (good_extended, _) = client.last(&challenge, ",x=y");
    let (mandatory, _) = client.last(&challenge, ",m=y");
    let proof = good.rsplit_once(",p=").unwrap().1;
    for (message, outcome) in [
        (good.clone(), "proved"),
        (good_extended.clone(), "proved"),
        (mandatory, "fail malformed-request"),
        (String::new(), "fail malformed-request"),
        (format!("c=biws,r={full}"), "fail malformed-request"),
        (format!("c=biws,r={full},p="), "fail malformed-request"),
        (format!("c=biws,r={full},p=AAAA"), "fail malformed-request"),
        (format!("c=biws,r={full},p=!"), "fail malformed-request"),
        (format!("c=!,r={full},p={proof}"), "fail malformed-request"),
        (format!("r={full},c=biws,p={proof}"), "fail malformed-request"),
        (format!("{good},x=y"), "fail malformed-request"),
        (format!("c=biws,p={proof}"), "fail malformed-request"),
        // A nonce cut short, only the client's half, and one with something more.
        (good.replace(full, "client-nonceserver-nonc"), "fail not-authorized"),
        (good.replace(full, "client-nonce"), "fail not-authorized"),
        (good.replace(full, "client-nonceserver-nonce1"), "fail not-authorized"),
        // The header was `n,,`: `y,,` and an authzid are changes.
        (good.replace("biws", "eSws"), "fail not-authorized"),
        (good.replace("biws", "bixhPXgs"), "fail not-authorized"),
        (good_extended.replace("x=y", "x=z"), "fail not-authorized"),
    ] {
        let (mut exchange, _) = challenged(Mechanism::ScramSha1, cx(), client.first());
        let said = word(exchange.step(Input::Response(message.clone().into())));
        assert!(said.starts_with(outcome), "{message}: {said}");
    }
}

/// Even a proof that fits the changed message does not carry a wrong nonce or header through.
#[test]
fn a_signed_wrong_nonce_or_header_still_fails() {
    let client = Client::new(Hash::Sha1, "n,,", b"");
    let (mut exchange, challenge) = challenged(Mechanism::ScramSha1, cx(), client.first());
    let lying = Client { gs2: "y,,".into(), ..Client::new(Hash::Sha1, "n,,", b"") };
    let step = exchange.step(Input::Response(lying.last(&challenge, "").0.into()));
    assert_eq!(word(step), "fail not-authorized");

    for change in [
        |nonce: &str| nonce.replace("server-nonce", "other-nonce!"),
        |nonce: &str| nonce.replace("server-nonce", ""),
        |nonce: &str| nonce.replace("client", "Client"),
        |nonce: &str| format!("{nonce}1"),
        |_: &str| String::new(),
    ] {
        let (mut exchange, challenge) = challenged(Mechanism::ScramSha1, cx(), client.first());
        let last = client.last_with(&challenge, "", change).0;
        assert_eq!(word(exchange.step(Input::Response(last.into()))), "fail not-authorized");
    }
}

#[test]
fn an_unknown_account_looks_like_a_wrong_password() {
    let seed = Secret::new([3; 32]);
    let client = Client::new(Hash::Sha256, "n,,", b"");
    let run = |keys: ScramKeys| {
        let mut exchange = Exchange::start(Mechanism::ScramSha256, cx());
        exchange.step(Input::Initial(Some(client.first())));
        let Step::Challenge(challenge) = exchange.step(Input::Keys(Some(keys))) else {
            panic!("a challenge");
        };
        let last = client.last(&challenge, "").0;
        (challenge, word(exchange.step(Input::Response(last.into()))))
    };
    let decoy = || ScramKeys::decoy(Hash::Sha256, &seed, &jid("user@example.org"), 3);
    let real = derive(Hash::Sha256, "another", &[5; SALT_SIZE], 3).unwrap();
    let (real_challenge, real_end) = run(real);
    let (challenge, end) = run(decoy());
    assert_eq!(end, "fail not-authorized");
    assert_eq!(end, real_end);
    assert_eq!(challenge.len(), real_challenge.len());
    assert_eq!(challenge, run(decoy()).0, "asking twice shows the same salt");
    let other = ScramKeys::decoy(Hash::Sha256, &seed, &jid("other@example.org"), 3);
    assert_ne!(other.salt, decoy().salt);
    assert_eq!(decoy().stored_key.len(), 32);
    assert_ne!(decoy().stored_key, decoy().server_key);
}

#[test]
fn a_store_that_cannot_answer_is_a_temporary_failure() {
    let mut exchange = Exchange::start(Mechanism::ScramSha1, cx());
    exchange.step(Input::Initial(Some(b"n,,n=user,r=abc".to_vec())));
    assert_eq!(word(exchange.step(Input::Keys(None))), "fail temporary-auth-failure");
}

#[test]
fn passwords_are_prepared_and_unfit_ones_named() {
    let salt = [1; SALT_SIZE];
    for hash in [Hash::Sha1, Hash::Sha256] {
        // RFC 4013 section 3: a soft hyphen vanishes, a ligature is its letters.
        let keys = derive(hash, "I\u{ad}X", &salt, 2).unwrap();
        assert!(verify_password(hash, &keys, "IX"));
        assert!(verify_password(hash, &keys, "\u{2168}"));
        assert!(!verify_password(hash, &keys, "ix"));
        assert!(!verify_password(hash, &keys, ""));
        assert!(!verify_password(hash, &keys, "\u{7}"));
        assert_eq!(keys.stored_key.len(), hash.size());
    }
    for (password, salt, iterations, error) in [
        ("", &salt[..], 1, DeriveError::EmptyPassword),
        ("\u{ad}", &salt[..], 1, DeriveError::EmptyPassword),
        ("\u{7}", &salt[..], 1, DeriveError::Prohibited),
        ("\u{627}1", &salt[..], 1, DeriveError::Prohibited),
        ("pencil", &[][..], 1, DeriveError::EmptySalt),
        ("pencil", &salt[..], 0, DeriveError::NoIterations),
    ] {
        assert_eq!(derive(Hash::Sha1, password, salt, iterations).err(), Some(error));
    }
}

#[test]
fn keys_of_another_hash_or_salt_do_not_fit() {
    let keys = derive(Hash::Sha256, "pencil", b"salt", 2).unwrap();
    assert!(verify_password(Hash::Sha256, &keys, "pencil"));
    assert!(!verify_password(Hash::Sha1, &keys, "pencil"));
    let other = ScramKeys { salt: b"tlas".to_vec(), ..keys.clone() };
    assert!(!verify_password(Hash::Sha256, &other, "pencil"));
    let truncated = ScramKeys { stored_key: keys.stored_key[..31].to_vec(), ..keys };
    assert!(!verify_password(Hash::Sha256, &truncated, "pencil"));
}

proptest! {
    #[test]
    fn any_name_and_nonce_prove(
        name in "[a-z0-9,=.~-]{1,12}",
        nonce in "[!-+\\--~]{1,30}",
        extension in "(,[a-ln-z]=[!-+\\--~]{1,8}){0,2}",
    ) {
        prop_assume!(!extension.contains(",p="));
        let name = name.replace('=', "=3D").replace(',', "=2C");
        let mut client = Client::new(Hash::Sha256, "p=tls-exporter,,", &[7; 32]);
        client.bare = format!("n={name},r={nonce}");
        let first = client.first();
        let (mut exchange, challenge) = challenged(Mechanism::ScramSha256Plus, bound(), first);
        let (last, server) = client.last(&challenge, &extension);
        let end = word(exchange.step(Input::Response(last.into())));
        prop_assert!(end.ends_with(&format!("tls-exporter {server}")), "{}", end);
    }

    /// A flipped bit anywhere in what the client sends last never proves.
    #[test]
    fn no_flipped_bit_proves(at in any::<prop::sample::Index>(), bit in 0..8u32, sha1: bool) {
        let mechanism =
            if sha1 { Mechanism::ScramSha1Plus } else { Mechanism::ScramSha256Plus };
        let client = Client::new(mechanism.hash().unwrap(), "p=tls-exporter,,", &[7; 32]);
        let (mut exchange, challenge) = challenged(mechanism, bound(), client.first());
        let mut last = client.last(&challenge, ",x=y").0.into_bytes();
        let at = at.index(last.len());
        last[at] ^= 1 << bit;
        let end = word(exchange.step(Input::Response(last)));
        prop_assert!(end.starts_with("fail "), "{}", end);
    }

    /// Nor does a bit flipped on the way in the first message, when the client signs what it sent.
    #[test]
    fn no_flipped_bit_in_the_first_message_proves(
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let client = Client::new(Hash::Sha256, "p=tls-exporter,,", &[7; 32]);
        let mut sent = client.first();
        let at = at.index(sent.len());
        sent[at] ^= 1 << bit;
        let mut exchange = Exchange::start(Mechanism::ScramSha256Plus, bound());
        let end = match exchange.step(Input::Initial(Some(sent))) {
            Step::NeedKeys { hash, .. } => {
                let Step::Challenge(challenge) = exchange.step(Input::Keys(Some(keys(hash))))
                else {
                    return Err(TestCaseError::fail("a challenge"));
                };
                let last = client.last(&challenge, "").0;
                word(exchange.step(Input::Response(last.into())))
            }
            step => word(step),
        };
        prop_assert!(end.starts_with("fail "), "{}", end);
    }

    #[test]
    fn only_the_password_proves(guess in "[a-z]{1,8}") {
        let keys = keys(Hash::Sha256);
        prop_assert_eq!(verify_password(Hash::Sha256, &keys, &guess), guess == "pencil");
    }
}
