//! The storage drivers behind [`server::store::Store`]: memory, and SQLite as the default.
//!
//! ```text
//!   commit(batch) ──► commit queue ──► writer thread ── BEGIN, batch, batch, …, COMMIT, fsync ─┐
//!        ▲             bounded                                                                 ▼
//!        └──────────────── answered after the COMMIT ◄─────────────────────────────────── usher.db
//!                                                                                              │
//!   get, rows, count ─► read queue ──► reader threads ── SELECT, one connection each ◄─────────┘
//! ```
//!
//! Whatever has queued up while one commit waited for the disk goes to the disk together with the
//! next (group commit), so a hundred sessions that write at once cost a few fsyncs and not a
//! hundred. No call blocks the task that makes it: engines run in threads of their own, tasks
//! await.
//!
//! Nothing here knows what a row means. A driver for another engine is a crate of its own and
//! proves itself with the suite in `conformance.rs` (feature `conformance`).

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod memory;
#[cfg(test)]
mod model;
mod queue;
mod sqlite;

use std::{path::Path, sync::Arc};

use server::store::SharedStore;

pub use self::sqlite::OpenError;

/// A store that lives and dies with the process, for tests and `store = "memory"`. Nothing in it is
/// durable.
#[must_use]
pub fn memory() -> SharedStore {
    Arc::new(memory::Memory::default())
}

/// Opens the SQLite store in the directory `data`, `usher.db`, and creates both if they are not
/// there.
///
/// The directory is locked until the store is closed, so that two servers never share one; reading
/// `usher.db` with SQLite's own tools meanwhile is fine. Blocks while it opens: call it at start.
///
/// # Errors
///
/// [`OpenError`] says in one line what is wrong and what to do.
pub fn sqlite(data: &Path) -> Result<SharedStore, OpenError> {
    Ok(Arc::new(sqlite::Sqlite::open(data)?))
}
