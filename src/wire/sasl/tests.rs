//! SASL dialogues: the mechanisms' table, what is out of turn, PLAIN and OAUTHBEARER.

mod scram;

use proptest::prelude::*;

use super::*;

const HOST: &str = "example.org";

fn cx() -> Context {
    Context { host: HOST.into(), nonce: "server-nonce".into(), ..Context::default() }
}

fn bound() -> Context {
    let binding = ChannelBinding { exporter: Some([7; 32]), end_point: Some(vec![9; 32]) };
    Context { plus_offered: true, binding: Some(Arc::new(binding)), ..cx() }
}

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// One word per step, so that tests can compare.
fn word(step: Step) -> String {
    match step {
        Step::Challenge(bytes) => format!("challenge {}", String::from_utf8_lossy(&bytes)),
        Step::NeedKeys { user, hash } => format!("keys {user} {hash:?}"),
        Step::NeedPassword { user, password } => {
            format!("password {user} {}", password.expose_str().unwrap())
        }
        Step::NeedToken { user: Some(user), token } => {
            format!("token {user} {}", token.expose_str().unwrap())
        }
        Step::NeedToken { user: None, token } => {
            format!("token - {}", token.expose_str().unwrap())
        }
        Step::NeedHashed { user, .. } => format!("hashed {user}"),
        Step::Proved { user, additional, binding } => {
            let additional = String::from_utf8(additional).unwrap();
            format!("proved {user} {} {additional}", binding.unwrap_or("-"))
        }
        Step::Fail(failure) => format!("fail {failure}"),
    }
}

fn first(mechanism: Mechanism, cx: Context, message: &str) -> String {
    let mut exchange = Exchange::start(mechanism, cx);
    word(exchange.step(Input::Initial(Some(message.into()))))
}

#[test]
fn mechanisms_have_exact_names_and_an_order() {
    for mechanism in Mechanism::all() {
        assert_eq!(mechanism.as_str().parse(), Ok(*mechanism));
        assert_eq!(mechanism.is_plus(), mechanism.as_str().ends_with("-PLUS"));
        let lower = mechanism.as_str().to_lowercase();
        assert_eq!(lower.parse::<Mechanism>(), Err(SaslFailure::InvalidMechanism));
    }
    assert!(Mechanism::all().is_sorted());
    assert!(Mechanism::Plain.needs_tls() && Mechanism::ScramSha1Plus.needs_tls());
    assert!(!Mechanism::ScramSha1.needs_tls());
}

#[test]
fn without_an_initial_response_the_server_asks_for_it() {
    for (mechanism, message, asked) in [
        (Mechanism::ScramSha1, "n,,n=user,r=abc", "keys user@example.org Sha1"),
        (Mechanism::Plain, "\0user\0pencil", "password user@example.org pencil"),
        (Mechanism::OauthBearer, "n,,\u{1}auth=Bearer x\u{1}\u{1}", "token - x"),
    ] {
        let mut exchange = Exchange::start(mechanism, cx());
        assert_eq!(word(exchange.step(Input::Initial(None))), "challenge ");
        assert_eq!(word(exchange.step(Input::Response(message.into()))), asked);
    }
}

#[test]
fn inputs_out_of_turn_end_it() {
    for mechanism in Mechanism::all() {
        for input in [
            Input::Response(b"\0user\0pencil".to_vec()),
            Input::Keys(None),
            Input::Accepted(jid("user@example.org")),
            Input::Rejected(SaslFailure::NotAuthorized),
        ] {
            let mut exchange = Exchange::start(*mechanism, cx());
            assert_eq!(word(exchange.step(input)), "fail malformed-request");
            let late = exchange.step(Input::Initial(None));
            assert_eq!(word(late), "fail malformed-request");
        }
        let mut exchange = Exchange::start(*mechanism, cx());
        assert_eq!(word(exchange.step(Input::Initial(None))), "challenge ");
        assert_eq!(word(exchange.step(Input::Abort)), "fail aborted");
        let late = exchange.step(Input::Accepted(jid("user@example.org")));
        assert_eq!(word(late), "fail malformed-request");
    }
    // A client that answers before the keys are there, or accepts itself.
    let mut exchange = Exchange::start(Mechanism::ScramSha1, cx());
    exchange.step(Input::Initial(Some(b"n,,n=user,r=abc".to_vec())));
    assert_eq!(word(exchange.step(Input::Response(Vec::new()))), "fail malformed-request");
    let mut exchange = Exchange::start(Mechanism::ScramSha1, cx());
    exchange.step(Input::Initial(Some(b"n,,n=user,r=abc".to_vec())));
    let step = exchange.step(Input::Accepted(jid("user@example.org")));
    assert_eq!(word(step), "fail malformed-request");
}

#[test]
fn plain_messages() {
    for (message, outcome) in [
        ("\0user\0pencil", "password user@example.org pencil"),
        ("\0USER\0Pencil ", "password user@example.org Pencil "),
        ("user@example.org\0user\0pencil", "password user@example.org pencil"),
        ("\0user\0secret-token:abc", "password user@example.org secret-token:abc"),
        ("other@example.org\0user\0pencil", "fail invalid-authzid"),
        ("user@example.org/x\0user\0pencil", "fail invalid-authzid"),
        ("user\0user\0pencil", "fail invalid-authzid"),
        ("\0user@example.org\0pencil", "fail not-authorized"),
        ("", "fail malformed-request"),
        ("\0user", "fail malformed-request"),
        ("\0\0pencil", "fail malformed-request"),
        ("\0user\0", "fail malformed-request"),
        ("\0user\0pen\0cil", "fail malformed-request"),
    ] {
        assert_eq!(first(Mechanism::Plain, cx(), message), outcome, "{message:?}");
    }
    let mut exchange = Exchange::start(Mechanism::Plain, cx());
    let step = exchange.step(Input::Initial(Some(b"\0user\0\xff".to_vec())));
    assert_eq!(word(step), "fail malformed-request");
}

#[test]
fn plain_gives_the_session_only_to_the_account_that_was_named() {
    for (owner, outcome) in [
        ("user@example.org", "proved user@example.org - "),
        ("user@example.org/phone", "proved user@example.org - "),
        ("other@example.org", "fail not-authorized"),
        ("user@example.com", "fail not-authorized"),
    ] {
        let mut exchange = Exchange::start(Mechanism::Plain, cx());
        exchange.step(Input::Initial(Some(b"\0user\0pencil".to_vec())));
        assert_eq!(word(exchange.step(Input::Accepted(jid(owner)))), outcome);
    }
    let mut exchange = Exchange::start(Mechanism::Plain, cx());
    exchange.step(Input::Initial(Some(b"\0user\0pencil".to_vec())));
    let step = exchange.step(Input::Rejected(SaslFailure::AccountDisabled));
    assert_eq!(word(step), "fail account-disabled");
}

#[test]
fn oauthbearer_messages() {
    let challenge = format!("challenge {}", oauthbearer::failure_json());
    for (message, outcome) in [
        ("n,,^auth=Bearer abc^^", "token - abc"),
        ("n,a=user@example.org,^auth=Bearer abc^^", "token user@example.org abc"),
        (
            "n,a=user@example.org,^host=example.org^port=5222^auth=bearer  secret-token:x ^^",
            "token user@example.org secret-token:x",
        ),
        ("y,,^auth=Bearer abc^^", "token - abc"),
        // No token: where could I get one?
        ("n,,^^", &challenge),
        ("n,,^auth=^^", &challenge),
        ("n,,^host=example.org^^", &challenge),
        ("n,a=user@example.org/x,^auth=Bearer abc^^", "fail invalid-authzid"),
        ("n,a=user,^auth=Bearer abc^^", "fail invalid-authzid"),
        ("p=tls-exporter,,^auth=Bearer abc^^", "fail malformed-request"),
        ("n,^auth=Bearer abc^^", "fail malformed-request"),
        ("n,,x^auth=Bearer abc^^", "fail malformed-request"),
        ("n,,^auth=Bearer abc^", "fail malformed-request"),
        ("n,,^auth=Bearer abc^^^", "fail malformed-request"),
        ("n,,^auth=Bearer abc", "fail malformed-request"),
        ("n,,^auth=Basic abc^^", "fail malformed-request"),
        ("n,,^auth=Bearerabc^^", "fail malformed-request"),
        ("n,,^auth=Bearer abc^auth=Bearer abc^^", "fail malformed-request"),
        ("n,,^au-th=Bearer abc^^", "fail malformed-request"),
        ("n,,^auth=Bearer a\0bc^^", "fail malformed-request"),
        ("n,,^auth^^", "fail malformed-request"),
        ("n,,", "fail malformed-request"),
        ("", "fail malformed-request"),
    ] {
        let sent = message.replace('^', "\u{1}");
        assert_eq!(first(Mechanism::OauthBearer, cx(), &sent), outcome, "{message:?}");
    }
}

#[test]
fn a_bad_token_takes_one_more_round() {
    let json = format!("challenge {}", oauthbearer::failure_json());
    for answer in ["\u{1}", "", "anything"] {
        let mut exchange = Exchange::start(Mechanism::OauthBearer, cx());
        exchange.step(Input::Initial(Some(b"n,,\x01auth=Bearer abc\x01\x01".to_vec())));
        let step = exchange.step(Input::Rejected(SaslFailure::CredentialsExpired));
        assert_eq!(word(step), json);
        let step = exchange.step(Input::Response(answer.into()));
        assert_eq!(word(step), "fail credentials-expired");
    }
    let mut exchange = Exchange::start(Mechanism::OauthBearer, cx());
    exchange.step(Input::Initial(Some(b"n,,\x01auth=Bearer abc\x01\x01".to_vec())));
    exchange.step(Input::Rejected(SaslFailure::NotAuthorized));
    let step = exchange.step(Input::Accepted(jid("user@example.org")));
    assert_eq!(word(step), "fail malformed-request");
}

#[test]
fn pr_16_a_token_opens_only_its_owner_at_this_host() {
    for (claim, owner, outcome) in [
        ("", "user@example.org", "proved user@example.org - "),
        ("a=user@example.org", "user@example.org", "proved user@example.org - "),
        ("a=other@example.org", "user@example.org", "fail invalid-authzid"),
        ("", "user@example.com", "fail not-authorized"),
        ("a=user@example.com", "user@example.com", "fail not-authorized"),
        ("", "example.org", "fail not-authorized"),
    ] {
        let mut exchange = Exchange::start(Mechanism::OauthBearer, cx());
        let message = format!("n,{claim},\u{1}auth=Bearer abc\u{1}\u{1}");
        exchange.step(Input::Initial(Some(message.into())));
        assert_eq!(word(exchange.step(Input::Accepted(jid(owner)))), outcome, "{claim} {owner}");
    }
}

fn mechanism() -> impl Strategy<Value = Mechanism> {
    proptest::sample::select(Mechanism::all())
}

proptest! {
    #[test]
    fn no_message_panics(
        mechanism in mechanism(),
        one in any::<Vec<u8>>(),
        two in any::<Vec<u8>>(),
        shaped in "[nyp=]{1,3},(a=[a-z@=.]{0,9})?,(m=x,)?n=[a-zé=2C3D]{0,6},r=[ -~]{0,6}",
    ) {
        for message in [one, shaped.into_bytes()] {
            let mut exchange = Exchange::start(mechanism, bound());
            if let Step::NeedKeys { hash, .. } = exchange.step(Input::Initial(Some(message))) {
                exchange.step(Input::Keys(Some(scram::keys(hash))));
            }
            exchange.step(Input::Response(two.clone()));
        }
    }
}
