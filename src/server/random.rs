//! Randomness enters the server here and nowhere else: always the operating system's generator.

/// `N` unpredictable bytes.
///
/// # Panics
/// If the operating system cannot give randomness; a server without it must not go on.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("the operating system provides randomness");
    out
}

/// An unpredictable text of 26 characters `[a-z2-7]` (128 bits): stream ids, nonces, resources.
#[must_use]
pub fn text() -> String {
    data_encoding::BASE32_NOPAD.encode(&bytes::<16>()).to_ascii_lowercase()
}
