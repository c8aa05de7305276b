//! The server's own keys: whoever steals the database but not these can use nothing in it.
//!
//! A file of mode 0600 in the data directory with one key per line, `id base64 [retired]`, the one in
//! use last. Older ones stay valid for verifying, so that the key can be changed without ending
//! anything, until they are retired.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::RwLock;
use sha2::Sha256;
use wire::Secret;

use crate::random;

/// The keys, oldest first; never empty.
pub struct KeyRing {
    keys: RwLock<Vec<Key>>,
    /// Where they are kept; none: nowhere.
    path: Option<PathBuf>,
}

/// One of the server's keys.
#[derive(Clone)]
struct Key {
    id: u32,
    secret: Arc<Secret>,
    /// Tokens are not verified with it any more. It stays in the file, for what else hangs on the
    /// oldest key.
    retired: bool,
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
                let keys = Self::parse(&text).ok_or_else(|| KeyError::Damaged(path.into()))?;
                Ok(Self { keys: RwLock::new(keys), path: Some(path.into()) })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = vec![Key::new(1)];
                write(path, &keys).map_err(io)?;
                Ok(Self { keys: RwLock::new(keys), path: Some(path.into()) })
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Keys that live as long as this value, for tests and the memory store.
    #[must_use]
    pub fn ephemeral() -> Self {
        Self { keys: RwLock::new(vec![Key::new(1)]), path: None }
    }

    fn parse(text: &str) -> Option<Vec<Key>> {
        let key = |line: &str| {
            let mut words = line.split_whitespace();
            let id = words.next()?.parse().ok()?;
            let key = STANDARD.decode(words.next()?).ok().filter(|key| key.len() >= 32)?;
            let retired = match words.next() {
                None => false,
                Some("retired") => true,
                Some(_) => return None,
            };
            Some(Key { id, secret: Arc::new(Secret::new(key)), retired })
        };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let keys = lines.map(key).collect::<Option<Vec<_>>>()?;
        (!keys.last()?.retired).then_some(keys)
    }

    /// The key in use and its id.
    #[must_use]
    pub fn current(&self) -> (u32, Arc<Secret>) {
        let keys = self.keys.read();
        let key = keys.last().unwrap_or_else(|| unreachable!("never empty"));
        (key.id, key.secret.clone())
    }

    /// The key with this id, unless it is retired.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Arc<Secret>> {
        let keys = self.keys.read();
        keys.iter().find(|key| key.id == id && !key.retired).map(|key| key.secret.clone())
    }

    /// All ids, oldest first, and whether each is retired. The last one is in use.
    #[must_use]
    pub fn ids(&self) -> Vec<(u32, bool)> {
        self.keys.read().iter().map(|key| (key.id, key.retired)).collect()
    }

    /// Makes a new key, which is in use from now on, and gives its id. What the older ones made stays
    /// good; each token moves to the new one when it is used.
    ///
    /// # Errors
    /// When the file cannot be written: nothing has changed then.
    pub fn rotate(&self) -> io::Result<u32> {
        self.change(|keys| {
            let id = keys.iter().map(|key| key.id).max().unwrap_or(0) + 1;
            keys.push(Key::new(id));
            Some(id)
        })
        .map(|id| id.unwrap_or_default())
    }

    /// Verifies no token with this key any more; none: there is no such key, or it is in use.
    ///
    /// # Errors
    /// When the file cannot be written: nothing has changed then.
    pub fn retire(&self, id: u32) -> io::Result<Option<()>> {
        self.change(|keys| {
            let last = keys.last().map(|key| key.id);
            let key = keys.iter_mut().find(|key| key.id == id && Some(id) != last)?;
            key.retired = true;
            Some(())
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Key>) -> Option<T>) -> io::Result<Option<T>> {
        let mut keys = self.keys.write();
        let mut changed = keys.clone();
        let Some(result) = change(&mut changed) else { return Ok(None) };
        if let Some(path) = &self.path {
            write(path, &changed)?;
        }
        *keys = changed;
        Ok(Some(result))
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
        let key = self.keys.read().first().map(|key| key.secret.clone());
        let key = key.unwrap_or_else(|| unreachable!("never empty"));
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose())
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        // The length of the purpose keeps two purposes from sharing an input.
        mac.update(&(purpose.len() as u64).to_be_bytes());
        mac.update(purpose.as_bytes());
        mac.update(input);
        mac.finalize().into_bytes().into()
    }
}

impl Key {
    fn new(id: u32) -> Self {
        let secret = Arc::new(Secret::new(random::bytes::<32>().to_vec()));
        Self { id, secret, retired: false }
    }
}

/// Writes the file, complete before it has its name: a crash in between leaves the one before.
fn write(path: &Path, keys: &[Key]) -> io::Result<()> {
    let line = |key: &Key| {
        let retired = if key.retired { " retired" } else { "" };
        format!("{} {}{retired}\n", key.id, STANDARD.encode(key.secret.expose()))
    };
    let text: String = keys.iter().map(line).collect();
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
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
    fn a_rotated_ring_is_read_again_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("server.key");
        let made = KeyRing::open(&path).expect("is made");
        let derived = made.derive("audit", b"x");
        assert_eq!(made.rotate().expect("is written"), 2);
        assert_eq!(made.retire(2).expect("is read"), None, "it is in use");
        assert_eq!(made.retire(1).expect("is written"), Some(()));
        let read = KeyRing::open(&path).expect("is read");
        assert_eq!(read.ids(), [(1, true), (2, false)]);
        assert!(read.get(1).is_none() && read.get(2).is_some());
        assert_eq!(read.derive("audit", b"x"), derived, "the audit hangs on the oldest");
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn purposes_do_not_meet() {
        let keys = KeyRing::ephemeral();
        assert_ne!(keys.derive("ab", b"c"), keys.derive("a", b"bc"));
    }
}
