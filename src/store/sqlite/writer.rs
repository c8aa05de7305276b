//! The thread that writes: group commit.
//!
//! It takes whatever has queued up, applies it in one transaction, in order, and answers everybody
//! after the COMMIT. A batch's expectations are checked before its writes, so a conflict leaves
//! nothing to undo and its neighbours untouched. When the engine itself fails, the transaction is
//! rolled back and, unless the whole file is out of reach, each batch is tried again in a
//! transaction of its own: one that is too large for the disk does not take the others with it.
//! Nobody is answered out of a transaction that did not commit, not even with a conflict, for it
//! may rest on a write that is gone.

use std::{
    cell::Cell,
    fs::File,
    path::Path,
    slice,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
};

use rusqlite::Connection;
use server::store::{Batch, Op, StoreError, Table};
use tokio::sync::watch;

use super::{
    Counters, Reply,
    fault::{self, Fault},
    reader,
    schema::{self, Tables},
};
use crate::queue::{Limit, Taker};

/// The most that goes into one transaction, so that a burst does not keep its first batch waiting.
const GROUP: Limit = Limit { requests: 1024, bytes: 8 << 20 };

/// A batch to commit, and where the answer goes.
pub(super) struct Commit {
    pub(super) batch: Batch,
    pub(super) reply: Reply<()>,
}

/// See the module.
pub(super) struct Writer {
    /// Told when the file is closed.
    pub(super) closing: watch::Sender<Option<Result<(), StoreError>>>,
    pub(super) commits: Taker<Commit>,
    pub(super) counters: Arc<Counters>,
    pub(super) db: Connection,
    /// Whether the last group failed as a whole.
    pub(super) failing: Cell<bool>,
    pub(super) file: Arc<Path>,
    /// Held until the file is closed.
    pub(super) lock: File,
    /// They end when their queue is closed; the file can be closed only after them.
    pub(super) readers: Vec<JoinHandle<()>>,
    pub(super) tables: Arc<Tables>,
}

impl Writer {
    /// Commits until the queue is closed and empty, then closes the file.
    pub(super) fn run(self) {
        while let Some(group) = self.commits.take(GROUP) {
            let (batches, replies): (Vec<_>, Vec<_>) =
                group.into_iter().map(|commit| (commit.batch, commit.reply)).unzip();
            for (reply, outcome) in replies.into_iter().zip(self.commit(&batches)) {
                // Nobody may be waiting any more, which is fine.
                let _ = reply.send(outcome);
            }
        }
        self.finish();
    }

    /// One outcome per batch, in order.
    fn commit(&self, batches: &[Batch]) -> Vec<Result<(), StoreError>> {
        let fault = match self.transaction(batches) {
            Ok(outcomes) => {
                if self.failing.replace(false) {
                    tracing::info!(event = "store-recovered", file = %self.file.display());
                }
                return outcomes;
            }
            Err(fault) => fault,
        };
        // Said once, not for every commit until somebody comes.
        if !self.failing.replace(true) {
            let error = fault.answer(&self.file);
            tracing::error!(event = "store-failed", batches = batches.len(), %error);
        }
        if fault.is_of_space() {
            // What the `-wal` holds may go into pages that are there already, and its room be used
            // again. If there is no room for that either, nothing is lost by the attempt.
            let _ = self.db.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(()));
        }
        self.commit_each(batches, fault)
    }

    /// Each batch in a transaction of its own, after all of them in one have failed.
    fn commit_each(&self, batches: &[Batch], mut fault: Fault) -> Vec<Result<(), StoreError>> {
        let mut outcomes = Vec::with_capacity(batches.len());
        for batch in batches {
            if fault.is_of_file() {
                // The next would fail in the same way, perhaps after as long a wait.
                outcomes.push(Err(fault.answer(&self.file)));
                continue;
            }
            match self.transaction(slice::from_ref(batch)) {
                Ok(outcome) => outcomes.extend(outcome),
                Err(again) => {
                    outcomes.push(Err(again.answer(&self.file)));
                    fault = again;
                }
            }
        }
        outcomes
    }

    fn transaction(&self, batches: &[Batch]) -> Result<Vec<Result<(), StoreError>>, Fault> {
        #[cfg(test)]
        self.limit_pages()?;
        self.execute("BEGIN IMMEDIATE")?;
        let done = self.apply_all(batches).and_then(|done| {
            self.execute("COMMIT")?;
            Ok(done)
        });
        match done {
            Ok((outcomes, created)) => {
                self.tables.add(&created);
                self.counters.transactions.fetch_add(1, Ordering::Relaxed);
                Ok(outcomes)
            }
            Err(fault) => {
                // Some errors have rolled back already.
                if !self.db.is_autocommit()
                    && let Err(error) = self.execute("ROLLBACK")
                {
                    let error = error.answer(&self.file);
                    tracing::error!(event = "store-rollback-failed", %error);
                }
                Err(fault)
            }
        }
    }

    fn apply_all(&self, batches: &[Batch]) -> Result<Applied, Fault> {
        let mut created = Vec::new();
        let mut outcomes = Vec::with_capacity(batches.len());
        for batch in batches {
            outcomes.push(self.apply(batch, &mut created)?);
        }
        Ok((outcomes, created))
    }

    fn apply(
        &self,
        batch: &Batch,
        created: &mut Vec<&'static Table>,
    ) -> Result<Result<(), StoreError>, Fault> {
        for op in &batch.ops {
            let (Op::Delete { table, .. }
            | Op::DeleteOwner { table, .. }
            | Op::Expect { table, .. }
            | Op::Put { table, .. }) = op;
            if self.tables.has(table) || created.contains(table) {
                continue;
            }
            if !schema::is_well_named(table) {
                let why = format!("`{}` cannot be the name of a table", table.name);
                return Ok(Err(StoreError::Unavailable(why)));
            }
            self.db.execute_batch(&schema::create(table)).map_err(Fault::at(table))?;
            created.push(table);
        }
        for op in &batch.ops {
            if let Op::Expect { table, owner, key, value } = op
                && reader::get(&self.db, table, *owner, key)? != *value
            {
                return Ok(Err(StoreError::Conflict));
            }
        }
        for op in &batch.ops {
            self.write(op)?;
        }
        Ok(Ok(()))
    }

    fn write(&self, op: &Op) -> Result<(), Fault> {
        match op {
            Op::Delete { table, owner, key } => self
                .db
                .prepare_cached(&schema::delete(table))
                .and_then(|mut delete| delete.execute((schema::owner(*owner), &key[..])))
                .map_err(Fault::at(table))?,
            Op::DeleteOwner { table, owner } => self
                .db
                .prepare_cached(&schema::delete_owner(table))
                .and_then(|mut delete| delete.execute([schema::owner(*owner)]))
                .map_err(Fault::at(table))?,
            Op::Expect { .. } => 0,
            Op::Put { table, owner, key, value } => self
                .db
                .prepare_cached(&schema::put(table))
                .and_then(|mut put| put.execute((schema::owner(*owner), &key[..], &value[..])))
                .map_err(Fault::at(table))?,
        };
        Ok(())
    }

    fn execute(&self, sql: &str) -> Result<(), Fault> {
        self.db.prepare_cached(sql)?.execute(())?;
        Ok(())
    }

    /// Waits for the readers, moves everything into the file proper, closes it, lets the lock go.
    fn finish(self) {
        for reader in self.readers {
            if reader.join().is_err() {
                tracing::error!(event = "store-reader-panicked");
            }
        }
        let checkpoint = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0));
        let outcome = match checkpoint {
            Ok(0) => Ok(()),
            Ok(_) => {
                // Somebody reads the file. Nothing is lost: the rest is in the `-wal` beside it.
                tracing::warn!(event = "store-checkpoint-postponed", file = %self.file.display());
                Ok(())
            }
            Err(error) => Err(error),
        };
        let outcome = outcome.and(self.db.close().map_err(|(_, error)| error));
        drop(self.lock);
        let transactions = self.counters.transactions.load(Ordering::Relaxed);
        tracing::info!(event = "store-closed", file = %self.file.display(), transactions);
        let describe = |error| StoreError::Unavailable(fault::describe(&error, &self.file));
        self.closing.send_replace(Some(outcome.map_err(describe)));
    }

    #[cfg(test)]
    fn limit_pages(&self) -> Result<(), Fault> {
        let pages = match self.counters.page_limit.load(Ordering::Relaxed) {
            0 => u32::MAX - 1,
            pages => pages,
        };
        self.db.query_row(&format!("PRAGMA max_page_count = {pages}"), (), |_| Ok(()))?;
        Ok(())
    }
}

/// The outcome of each batch, and the tables that were created on the way.
type Applied = (Vec<Result<(), StoreError>>, Vec<&'static Table>);
