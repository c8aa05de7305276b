//! Tokens: exact round trips, and every respelling refused.

use proptest::prelude::*;

use super::*;

fn token() -> Token {
    Token {
        id: TokenId(0x0102_0304_0506_0708),
        secret: Secret::new([0xa5; SECRET_SIZE]),
        owner: Jid::parse("juliet@example.org").unwrap(),
    }
}

fn text_of(bytes: &[u8]) -> String {
    format!("{SCHEME}{}", BASE64URL.encode(bytes))
}

fn error_of(text: &str) -> TokenError {
    match Token::parse(text) {
        Ok(_) => panic!("a token: {text}"),
        Err(error) => error,
    }
}

#[test]
fn pr_06_text_form_is_fixed() {
    let text = token().to_text();
    assert_eq!(
        *text,
        "secret-token:AQECAwQFBgcIpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlanVsaWV0QGV4YW1wbGUub3Jn"
    );
}

#[test]
fn pr_06_pr_08_pr_09_refuses_what_is_not_exactly_a_token() {
    use TokenError::*;
    let text = token().to_text();
    let mut bytes = BASE64URL.decode(&text[SCHEME.len()..]).unwrap();
    assert_eq!(error_of("pencil"), NotAToken);
    assert_eq!(error_of(""), NotAToken);
    assert_eq!(error_of(&text.replace("secret", "Secret")), NotAToken);
    assert_eq!(error_of(&format!(" {}", *text)), NotAToken);
    assert_eq!(error_of(SCHEME), Malformed);
    assert_eq!(error_of(&format!("{}=", *text)), Malformed);
    assert_eq!(error_of(&format!("{} ", *text)), Malformed);
    assert_eq!(error_of(&text[..text.len() - 1]), Malformed);
    for owner in ["JULIET@example.org", "juliet@example.org/x", "example.org", "", "a@b@c"] {
        bytes.truncate(OWNER_AT);
        bytes.extend_from_slice(owner.as_bytes());
        assert_eq!(error_of(&text_of(&bytes)), Malformed, "{owner}");
    }
    assert_eq!(error_of(&text_of(&bytes[..OWNER_AT - 1])), Malformed);
    bytes[0] = 2;
    assert_eq!(error_of(&text_of(&bytes)), Version(2));
}

#[test]
fn pr_06_refuses_stray_bits_behind_the_last_byte() {
    // 33 + 4 bytes end in a character with four unused bits.
    let mut token = token();
    token.owner = Jid::parse("ab@c").unwrap();
    let text = token.to_text();
    let last = text.chars().last().unwrap();
    for c in ('A'..='Z').chain('a'..='z').chain('0'..='9').filter(|&c| c != last) {
        let other = format!("{}{c}", &text[..text.len() - 1]);
        if let Ok(parsed) = Token::parse(&other) {
            assert_eq!(*parsed.to_text(), other, "one token, one text");
            assert_ne!(parsed.owner, token.owner);
        }
    }
}

#[test]
fn ids_are_written_one_way() {
    assert_eq!(TokenId(0).to_string(), "t-0000000000000");
    assert_eq!(TokenId(31).to_string(), "t-000000000000z");
    assert_eq!(TokenId(u64::MAX).to_string(), "t-fzzzzzzzzzzzz");
    for wrong in [
        "",
        "t-",
        "0000000000000",
        "t-000000000000",
        "t-00000000000000",
        "t-g000000000000",
        "t-zzzzzzzzzzzzz",
        "T-0000000000000",
        "t-000000000000Z",
        "t-000000000000i",
        "t-000000000000l",
        "t-000000000000o",
        "t-000000000000u",
        "t-00000000000é",
        " t-000000000000",
    ] {
        assert_eq!(wrong.parse::<TokenId>(), Err(TokenIdError), "{wrong}");
    }
}

#[test]
fn pr_07_mac_depends_on_all_three() {
    let key = Secret::new([1; 32]);
    let Token { id, secret, .. } = token();
    let stored = mac(&key, id, &secret);
    assert!(verify(&key, id, &secret, &stored));
    assert!(!verify(&Secret::new([2; 32]), id, &secret, &stored));
    assert!(!verify(&key, TokenId(id.0 ^ 1), &secret, &stored));
    assert!(!verify(&key, id, &Secret::new([0xa4; SECRET_SIZE]), &stored));
    assert!(!verify(&key, id, &secret, &stored[..31]));
    assert!(!verify(&key, id, &secret, &[]));
}

#[test]
fn pr_07_mac_is_the_documented_hmac() {
    let mut input = Vec::new();
    input.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 14]);
    input.extend_from_slice(b"usher token v1");
    input.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7]);
    input.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3, b'a', b'b', b'c']);
    let mut hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(b"key").unwrap();
    hmac.update(&input);
    let expected: [u8; 32] = hmac.finalize().into_bytes().into();
    assert_eq!(mac(&Secret::new(*b"key"), TokenId(7), &Secret::new(*b"abc")), expected);
}

#[test]
fn pr_09_logs_show_no_token() {
    let text = token().to_text();
    assert_eq!(redact("nothing here"), "nothing here");
    assert!(matches!(redact("nothing here"), Cow::Borrowed(_)));
    assert_eq!(
        redact(&format!("login with {} and <a>{}</a>", *text, *text)),
        "login with secret-token:<redacted> and <a>secret-token:<redacted></a>"
    );
    assert_eq!(redact("SECRET-TOKEN:abc%20/d x"), "SECRET-TOKEN:<redacted> x");
    assert_eq!(redact("a secret-token: b"), "a secret-token: b");
    assert_eq!(redact("secret-token:secret-token:x é"), "secret-token:<redacted> é");
    assert_eq!(redact("é secret-token:x\u{e9}"), "é secret-token:<redacted>\u{e9}");
}

proptest! {
    #[test]
    fn pr_06_tokens_round_trip(
        id: u64,
        secret: [u8; SECRET_SIZE],
        owner in "[a-zà-ý]{1,40}@[a-z]{1,20}\\.org",
    ) {
        let owner = Jid::parse(&owner).unwrap();
        let token = Token { id: TokenId(id), secret: Secret::new(secret), owner };
        let text = token.to_text();
        let read = Token::parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(read.id, token.id);
        prop_assert!(read.secret.ct_eq(&secret));
        prop_assert_eq!(&read.owner, &token.owner);
        let redacted = redact(&text).into_owned();
        prop_assert_eq!(redacted.as_str(), "secret-token:<redacted>");
        prop_assert_eq!(&*redact(&redacted), redacted.as_str());
    }

    #[test]
    fn pr_06_one_text_per_token(flip in 13usize..60, with in "[A-Za-z0-9_-]") {
        let text = token().to_text();
        let mut other = text.to_string();
        other.replace_range(flip..=flip, &with);
        if let Ok(read) = Token::parse(&other) {
            prop_assert_eq!(&*read.to_text(), &other);
        }
    }

    #[test]
    fn pr_06_reading_never_panics(text in any::<String>(), bytes: Vec<u8>) {
        let _ = Token::parse(&text);
        let _ = Token::parse(&text_of(&bytes));
        let _ = redact(&text);
        let _ = text.parse::<TokenId>();
    }

    #[test]
    fn ids_round_trip_and_sort_as_text(a: u64, b: u64) {
        let (a, b) = (TokenId(a), TokenId(b));
        prop_assert_eq!(a.to_string().parse(), Ok(a));
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
    }

    /// Moving bytes between id and secret gives another input, so another hash.
    #[test]
    fn pr_07_mac_inputs_are_injective(a: u64, b: u64, x in any::<Vec<u8>>(), y in any::<Vec<u8>>()) {
        let key = Secret::new([9; 32]);
        let (left, right) = (Secret::new(x.clone()), Secret::new(y.clone()));
        let same = mac(&key, TokenId(a), &left) == mac(&key, TokenId(b), &right);
        prop_assert_eq!(same, a == b && x == y);
    }
}
