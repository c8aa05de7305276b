//! Clients that were looked for lately, so that a login does not wait for storage twice. What is here
//! may be a moment older than what is stored: whoever lets somebody in by it looks again, in storage,
//! if anything has changed meanwhile ([`crate::login`]). Whoever changes a client forgets it here.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Client;
use crate::store::Owner;

/// Clients that are kept at most; half a kilobyte each. When there are more, all are forgotten: it is
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
    numbers: HashMap<(Owner, Bytes), u64>,
    clients: HashMap<(Owner, u64), Arc<Client>>,
}

impl Cache {
    /// The client that comes back with this, if it is known; else what to hand to [`keep`](Self::keep)
    /// with what was read instead.
    pub(super) fn find(&self, owner: Owner, key: &[u8]) -> Result<Arc<Client>, u64> {
        let inner = self.inner.lock();
        let key = (owner, Bytes::copy_from_slice(key));
        let sid = inner.numbers.get(&key);
        let found = sid.and_then(|sid| inner.clients.get(&(owner, *sid)));
        found.cloned().ok_or(inner.version)
    }

    /// The client with this number, if it is known.
    pub(crate) fn get(&self, owner: Owner, sid: u64) -> Option<Arc<Client>> {
        self.inner.lock().clients.get(&(owner, sid)).cloned()
    }

    /// Keeps what was read, unless something was changed since then.
    pub(super) fn keep(&self, version: u64, owner: Owner, key: &[u8], client: Arc<Client>) {
        let mut inner = self.inner.lock();
        if inner.version != version {
            return;
        }
        if inner.clients.len() >= MOST || inner.numbers.len() >= 2 * MOST {
            inner.clients = HashMap::new();
            inner.numbers = HashMap::new();
        }
        inner.numbers.insert((owner, Bytes::copy_from_slice(key)), client.sid);
        inner.clients.insert((owner, client.sid), client);
    }

    /// Forgets a client, because it was changed.
    pub(super) fn forget(&self, owner: Owner, sid: u64) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        inner.clients.remove(&(owner, sid));
    }

    /// Forgets all clients of an account, because they were changed.
    pub(super) fn forget_all(&self, owner: Owner) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        inner.clients.retain(|(whose, _), _| *whose != owner);
    }

    /// Forgets who comes back with this, because it is another one now.
    pub(super) fn forget_key(&self, owner: Owner, key: &Bytes) {
        let mut inner = self.inner.lock();
        inner.version += 1;
        inner.numbers.remove(&(owner, key.clone()));
    }
}
