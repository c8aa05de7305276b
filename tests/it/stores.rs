//! What stands between a server and what it has stored, for tests in which writing goes wrong.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use server::{
    keyring::KeyRing,
    store::{Batch, Fetch, Owner, Range, Row, SharedStore, Store, StoreError, Table},
};

/// What becomes of a batch that is to be written to this store.
type Commit = Box<dyn Fn(&SharedStore, Batch) -> Fetch<()> + Send + Sync>;

/// A store whose writes go through a test, and whose reads are counted.
pub struct Between {
    store: SharedStore,
    commit: Commit,
    /// How often something was read.
    pub reads: AtomicUsize,
}

impl Between {
    pub fn new(
        store: SharedStore,
        commit: impl Fn(&SharedStore, Batch) -> Fetch<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { store, commit: Box::new(commit), reads: AtomicUsize::new(0) })
    }
}

impl Store for Between {
    fn get(&self, table: &'static Table, owner: Owner, key: &[u8]) -> Fetch<Option<bytes::Bytes>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.store.get(table, owner, key)
    }

    fn rows(&self, table: &'static Table, owner: Owner, range: Range) -> Fetch<Vec<Row>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.store.rows(table, owner, range)
    }

    fn count(&self, table: &'static Table, owner: Owner) -> Fetch<u64> {
        self.store.count(table, owner)
    }

    fn commit(&self, batch: Batch) -> Fetch<()> {
        (self.commit)(&self.store, batch)
    }

    fn backup(&self, to: &Path) -> Fetch<()> {
        self.store.backup(to)
    }

    fn close(&self) -> Fetch<()> {
        self.store.close()
    }
}

/// Takes nothing.
pub fn refuse(why: &'static str) -> Fetch<()> {
    Box::pin(async move { Err(StoreError::Unavailable(why.into())) })
}

/// Counts down by one: what was left, none once there is nothing left.
pub fn one_less(left: &AtomicUsize) -> Option<usize> {
    let take = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()
}

/// What outlives a server.
pub struct Disk {
    pub store: SharedStore,
    dir: tempfile::TempDir,
}

impl Disk {
    pub fn new() -> Self {
        Self { store: store::memory(), dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn keys(&self) -> KeyRing {
        KeyRing::open(&self.dir.path().join("server.key")).expect("keys")
    }
}
