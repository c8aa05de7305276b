//! Challenges: strings that the server signs and takes back once, within `lj.challenge`. The answer proves
//! an application password without showing it.
//!
//! | scheme | answer, in hexadecimal |
//! |---|---|
//! | `c0` | MD5(challenge + hexadecimal MD5(password)) |
//! | `c1` | HMAC-SHA-256 of the challenge, with the password as key |
//!
//! Which of them is in the challenge and signed with it: an answer by the other one is wrong. What was
//! used is remembered in memory, within bounds; a challenge that cannot be noted there is no good, nor
//! is one from before the server's start.

use std::collections::HashMap;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use server::{clock::Millis, keyring::KeyRing, random};
use sha2::Sha256;
use wire::Secret;

/// Used challenges that are remembered: beyond it none is good until some have expired.
const USED: usize = 65_536;
/// The length of the part that is random.
const RANDOM: usize = 20;

/// How a challenge is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    C0,
    C1,
}

impl Scheme {
    pub(super) const ALL: [Self; 2] = [Self::C0, Self::C1];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::C0 => "c0",
            Self::C1 => "c1",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == name)
    }

    /// Whether this is the answer of somebody who knows the password.
    pub(super) fn proves(self, password: &Secret, challenge: &str, response: &str) -> bool {
        let right = match self {
            Self::C0 => hex(&Md5::digest([challenge, &md5_hex(password)].concat())),
            Self::C1 => {
                let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(password.expose());
                let Ok(mut mac) = mac else { return false };
                mac.update(challenge.as_bytes());
                hex(&mac.finalize().into_bytes())
            }
        };
        Secret::new(right).ct_eq(response.to_ascii_lowercase().as_bytes())
    }
}

/// What old programs send as `hpassword`.
pub(super) fn md5_hex(password: &Secret) -> String {
    hex(&Md5::digest(password.expose()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a challenge is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoGood {
    /// It was good once.
    Expired,
    /// It is none of ours, or was changed.
    Wrong,
}

/// The challenges of one server, since it was started.
pub(super) struct Challenges {
    /// In every signature: what another process has signed is no good here, since it is not known
    /// whether it was used there.
    process: [u8; 16],
    /// What was used, by its random part, and until when that has to be remembered.
    used: Mutex<HashMap<String, Millis>>,
}

impl Challenges {
    pub(super) fn new() -> Self {
        Self { process: random::bytes(), used: Mutex::default() }
    }

    /// A new one, which is good for so many seconds.
    pub(super) fn issue(&self, keys: &KeyRing, scheme: Scheme, now: Millis, life: u64) -> String {
        let seconds = now.0 / 1_000;
        let (hour, age) = (seconds - seconds % 3_600, seconds % 3_600);
        let random: String = random::text().chars().take(RANDOM).collect();
        let signed = format!("{}:{hour}:{age}:{life}:{random}", scheme.as_str());
        let digest = self.digest(keys, &signed);
        format!("{signed}:{digest}")
    }

    fn digest(&self, keys: &KeyRing, signed: &str) -> String {
        let input = [&self.process, signed.as_bytes()].concat();
        let mac = keys.derive("lj challenge", &input);
        hex(mac.get(..16).unwrap_or_default())
    }

    /// Whether a challenge is one of ours, in time; at the very instant of its end it is not.
    pub(super) fn check(&self, keys: &KeyRing, text: &str, now: Millis) -> Result<Scheme, NoGood> {
        let (signed, digest) = text.rsplit_once(':').ok_or(NoGood::Wrong)?;
        if !Secret::new(self.digest(keys, signed)).ct_eq(digest.as_bytes()) {
            return Err(NoGood::Wrong);
        }
        let (scheme, until, _) = parts(signed).ok_or(NoGood::Wrong)?;
        if until <= now { Err(NoGood::Expired) } else { Ok(scheme) }
    }

    /// Takes a challenge that was checked; true for exactly one of all that ever try.
    pub(super) fn take(&self, text: &str, now: Millis) -> bool {
        let parts = text.rsplit_once(':').and_then(|(signed, _)| parts(signed));
        let Some((_, until, random)) = parts.filter(|(_, until, _)| now < *until) else {
            return false;
        };
        let mut used = self.used.lock();
        if used.len() >= USED {
            used.retain(|_, until| now < *until);
        }
        used.len() < USED && used.insert(random.to_owned(), until).is_none()
    }
}

/// Scheme, end and random part of what was signed.
fn parts(signed: &str) -> Option<(Scheme, Millis, &str)> {
    let mut parts = signed.split(':');
    let scheme = Scheme::parse(parts.next()?)?;
    let mut number = || parts.next()?.parse::<u64>().ok();
    let until = number()?.checked_add(number()?)?.checked_add(number()?)?;
    Some((scheme, Millis(until.checked_mul(1_000)?), parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_767_225_600_000);

    fn challenge() -> (KeyRing, Challenges, String) {
        let (keys, challenges) = (KeyRing::ephemeral(), Challenges::new());
        let text = challenges.issue(&keys, Scheme::C0, NOW, 60);
        (keys, challenges, text)
    }

    #[test]
    fn lj_05_a_challenge_is_good_for_its_time_and_as_it_was_given() {
        let (keys, challenges, text) = challenge();
        let check = |text: &str, now| challenges.check(&keys, text, now);
        assert_eq!(check(&text, NOW), Ok(Scheme::C0));
        assert_eq!(check(&text, Millis(NOW.0 + 59_999)), Ok(Scheme::C0));
        assert_eq!(check(&text, Millis(NOW.0 + 60_000)), Err(NoGood::Expired));
        assert!(!challenges.take(&text, Millis(NOW.0 + 60_000)));
        for changed in [
            text.replace(":60:", ":6000:"),
            text.replace("c0:", "c1:"),
            format!("{text} "),
            format!("{text}:"),
            text.to_uppercase(),
            String::new(),
            ":".into(),
            text.rsplit_once(':').unwrap().0.into(),
        ] {
            assert_eq!(check(&changed, NOW), Err(NoGood::Wrong), "{changed}");
        }
        let restarted = Challenges::new();
        assert_eq!(restarted.check(&keys, &text, NOW), Err(NoGood::Wrong));
    }

    #[test]
    fn lj_05_of_many_who_take_a_challenge_at_once_one_has_it() {
        let (_, challenges, text) = challenge();
        let taken = std::thread::scope(|scope| {
            let take = || scope.spawn(|| challenges.take(&text, NOW));
            let threads: Vec<_> = std::iter::repeat_with(take).take(100).collect();
            let taken = threads.into_iter().map(|thread| thread.join().unwrap());
            taken.filter(|taken| *taken).count()
        });
        assert_eq!(taken, 1);
    }

    #[test]
    fn lj_05_what_cannot_be_noted_as_used_is_no_good() {
        let (keys, challenges, text) = challenge();
        for n in 0..USED {
            challenges.used.lock().insert(n.to_string(), Millis(NOW.0 + 1_000));
        }
        assert!(!challenges.take(&text, NOW));
        let later = Millis(NOW.0 + 1_000);
        assert!(challenges.take(&text, later), "the others have expired");
        assert!(!challenges.take(&text, later));
        assert_eq!(challenges.check(&keys, &text, later), Ok(Scheme::C0), "only its use is over");
    }

    #[test]
    fn lj_05_answers_are_those_that_others_work_out() {
        // By Python's hashlib and hmac.
        let password = Secret::new(b"a secret".to_vec());
        assert_eq!(md5_hex(&password), "8b32185212f8625d1752b360f224fba2");
        let proves = |scheme: Scheme, response: &str| scheme.proves(&password, "c0:x", response);
        assert!(proves(Scheme::C0, "6585fa2c6150252af2367392c48cba17"));
        assert!(proves(Scheme::C0, &"6585fa2c6150252af2367392c48cba17".to_uppercase()));
        assert!(proves(
            Scheme::C1,
            "48b46426dc53d9e92c6e29fbc61bbbf146301372a0f46d08e3b3547e12f3ead6"
        ));
        assert!(!proves(Scheme::C1, "6585fa2c6150252af2367392c48cba17"));
        assert!(!proves(Scheme::C0, ""));
    }
}
