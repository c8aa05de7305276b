//! The server's own keys: whoever steals the database but not these can use nothing in it.
//!
//! A file of mode 0600 in the data directory with one key per line, `id base64`, the one in use last.
//! Older ones stay valid for verifying, so that the key can be changed without ending anything.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wire::Secret;

use crate::random;

/// The keys, newest last; never empty.
pub struct KeyRing {
    keys: Vec<(u32, Secret)>,
}

/// Why the server's keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("server key `{path}`: {error}; hint: it must be readable by the server's user")]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// Somebody else could read it.
    #[error(
        "server key `{0}` can be read by other users; hint: `chmod 600` it, and if they may have \
         read it, delete it: all tokens are dead then"
    )]
    Exposed(PathBuf),
    /// It does not hold keys.
    #[error(
        "server key `{0}` is damaged; hint: restore it from a backup, or delete it: all tokens are \
         dead then"
    )]
    Damaged(PathBuf),
}

impl KeyRing {
    /// Reads the keys, or makes the first one if the file is not there.
    ///
    /// # Errors
    /// [`KeyError`]: the server must not start then.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let io = |error| KeyError::Io { path: path.into(), error };
        match fs::read_to_string(path) {
            Ok(text) => {
                let mode = fs::metadata(path).map_err(io)?.permissions().mode();
                if mode & 0o077 != 0 {
                    return Err(KeyError::Exposed(path.into()));
                }
                Self::parse(&text).ok_or_else(|| KeyError::Damaged(path.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key: [u8; 32] = random::bytes();
                let line = format!("1 {}\n", STANDARD.encode(key));
                // Complete before it has its name: a crash in between leaves no half of a key.
                let new = path.with_extension("new");
                let _ = fs::remove_file(&new);
                let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
                made.and_then(|mut file| {
                    file.write_all(line.as_bytes())?;
                    file.sync_all()?;
                    fs::rename(&new, path)?;
                    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
                })
                .map_err(io)?;
                Ok(Self { keys: vec![(1, Secret::new(key.to_vec()))] })
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Keys that live as long as this value, for tests and the memory store.
    #[must_use]
    pub fn ephemeral() -> Self {
        Self { keys: vec![(1, Secret::new(random::bytes::<32>().to_vec()))] }
    }

    fn parse(text: &str) -> Option<Self> {
        let key = |line: &str| {
            let (id, key) = line.split_once(' ')?;
            let key = STANDARD.decode(key.trim_end()).ok().filter(|key| key.len() >= 32)?;
            Some((id.parse().ok()?, Secret::new(key)))
        };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let keys = lines.map(key).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self { keys })
    }

    /// The key in use and its id.
    #[must_use]
    pub fn current(&self) -> (u32, &Secret) {
        let (id, key) = self.keys.last().unwrap_or_else(|| unreachable!("never empty"));
        (*id, key)
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&Secret> {
        self.keys.iter().find(|(other, _)| *other == id).map(|(_, key)| key)
    }

    /// What the keys of accounts that do not exist are made from.
    #[must_use]
    pub fn decoy_seed(&self) -> Secret {
        Secret::new(self.derive("decoy", b""))
    }

    /// 32 bytes that are always the same for the same purpose and input and that nobody without the
    /// oldest key can tell from random ones.
    #[must_use]
    pub fn derive(&self, purpose: &str, input: &[u8]) -> [u8; 32] {
        let (_, key) = self.keys.first().unwrap_or_else(|| unreachable!("never empty"));
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose())
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        // The length of the purpose keeps two purposes from sharing an input.
        mac.update(&(purpose.len() as u64).to_be_bytes());
        mac.update(purpose.as_bytes());
        mac.update(input);
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ro_01_made_once_with_mode_0600_and_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("server.key");
        let made = KeyRing::open(&path).expect("is made");
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        let read = KeyRing::open(&path).expect("is read");
        assert_eq!(made.derive("a", b"b"), read.derive("a", b"b"));
        assert_eq!(made.current().0, 1);
    }

    #[test]
    fn ro_01_exposed_and_damaged_files_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("server.key");
        KeyRing::open(&path).expect("is made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(KeyRing::open(&path), Err(KeyError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        for damaged in ["", "1", "1 abc", "x AAAA"] {
            fs::write(&path, damaged).expect("write");
            assert!(matches!(KeyRing::open(&path), Err(KeyError::Damaged(_))), "{damaged:?}");
        }
    }

    #[test]
    fn purposes_do_not_meet() {
        let keys = KeyRing::ephemeral();
        assert_ne!(keys.derive("ab", b"c"), keys.derive("a", b"bc"));
    }
}
