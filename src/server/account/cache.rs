//! Accounts that were looked for lately, for logins alone: a login reads its account here and, if
//! anything has changed meanwhile, once more in storage after it has entered ([`crate::login`]). So
//! whoever changes an account forgets it here once that is durable, and only then raises the epoch:
//! a login that notes the new epoch finds nothing older than it.
//!
//! Names that nobody has are remembered as well, so that asking again tells nobody apart.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::Account;

/// Names that are kept at most; a kilobyte each. When there are more, all are forgotten: it is
/// cheaper to read some again than to keep book on who was looked for when.
const MOST: usize = 4_096;

/// See the module.
#[derive(Default)]
pub(crate) struct Cache {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Grows whenever something is forgotten: what was read before then is not kept.
    version: u64,
    accounts: HashMap<Box<str>, Option<Arc<Account>>>,
}

impl Cache {
    /// The account of this name, if it is known whether there is one; else what to hand to
    /// [`keep`](Self::keep) with what was read instead.
    pub(super) fn find(&self, bare: &str) -> Result<Option<Arc<Account>>, u64> {
        let inner = self.inner.lock();
        inner.accounts.get(bare).cloned().ok_or(inner.version)
    }

    /// Keeps what was read, unless something was changed since then.
    pub(super) fn keep(&self, version: u64, bare: &str, account: Option<Arc<Account>>) {
        let mut inner = self.inner.lock();
        if inner.version != version {
            return;
        }
        if inner.accounts.len() >= MOST {
            inner.accounts = HashMap::new();
        }
        inner.accounts.insert(bare.into(), account);
    }

    /// Forgets an account, because what is stored of that name was changed.
    pub(crate) fn forget(&self, bare: &str) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        inner.accounts.remove(bare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_is_not_kept() {
        let cache = Cache::default();
        let version = cache.find("a@b").expect_err("is not known");
        cache.keep(version, "a@b", None);
        assert!(cache.find("a@b").expect("is known").is_none());
        cache.forget("a@b");
        assert!(cache.find("a@b").is_err());
        cache.keep(version, "a@b", None);
        assert!(cache.find("a@b").is_err(), "read before it was changed");
    }

    #[test]
    fn so_many_names_are_kept_and_no_more() {
        let cache = Cache::default();
        for number in 0..3 * MOST {
            cache.keep(0, &number.to_string(), None);
            assert!(cache.inner.lock().accounts.len() <= MOST);
        }
    }
}
