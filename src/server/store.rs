//! What the server asks of a storage driver: ordered tables of rows, atomic batches, nothing else.
//!
//! A [`Table`] maps `(owner, key)` to a value; keys are ordered bytewise, so a log is a table whose
//! keys grow with time, and needs no second shape. A [`Batch`] is applied whole or not at all, may
//! state what it expects to find, and is durable once its future resolves. Drivers live in the crate
//! `store`; nothing here knows SQL. Values are opaque to drivers and are JSON by convention, so that
//! an operator can read them with the engine's own tools.

use std::{future::Future, path::Path, pin::Pin, sync::Arc};

use bytes::Bytes;

/// Whose row it is: an account's internal id, or [`SERVER`]. Deleting an account deletes its rows in
/// every table, so nothing is inherited by a later account of the same name.
pub type Owner = u64;

/// Owner of the rows that belong to the server as a whole.
pub const SERVER: Owner = 0;

/// The declaration of a table. Tables are statics: declared once, by the module that uses them.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Unique name, `[a-z][a-z0-9_]*`; the driver may use it as the name of its own table.
    pub name: &'static str,
    /// What it holds, for the operator who looks inside.
    pub about: &'static str,
}

/// One row as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The row's key.
    pub key: Bytes,
    /// The row's value.
    pub value: Bytes,
}

/// Which rows of one owner to read, in key order.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// Only keys greater than this one.
    pub after: Option<Bytes>,
    /// Only keys less than this one.
    pub before: Option<Bytes>,
    /// Largest key first.
    pub reverse: bool,
    /// At most this many rows; 0 means no limit.
    pub limit: usize,
}

impl Range {
    /// All rows of the owner, smallest key first.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The first `limit` rows after `key`, for paging with a cursor.
    #[must_use]
    pub fn page(after: Option<Bytes>, limit: usize) -> Self {
        Self { after, limit, ..Self::default() }
    }
}

/// One operation of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Remove the row if it is there.
    Delete {
        /// Where.
        table: &'static Table,
        /// Whose.
        owner: Owner,
        /// Which.
        key: Bytes,
    },
    /// Remove all rows of an owner in one table.
    DeleteOwner {
        /// Where.
        table: &'static Table,
        /// Whose.
        owner: Owner,
    },
    /// Fail the whole batch with [`StoreError::Conflict`] unless the row has this value (`None`: is
    /// absent). Evaluated before any write of the batch.
    Expect {
        /// Where.
        table: &'static Table,
        /// Whose.
        owner: Owner,
        /// Which.
        key: Bytes,
        /// The value that must be there.
        value: Option<Bytes>,
    },
    /// Write the row, replacing an earlier value.
    Put {
        /// Where.
        table: &'static Table,
        /// Whose.
        owner: Owner,
        /// Which.
        key: Bytes,
        /// The new value.
        value: Bytes,
    },
}

/// Operations that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order they were added; writes apply in this order.
    pub ops: Vec<Op>,
}

impl Batch {
    /// An empty batch, which commits trivially.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a write.
    #[must_use]
    pub fn put(
        mut self,
        table: &'static Table,
        owner: Owner,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Self {
        self.ops.push(Op::Put { table, owner, key: key.into(), value: value.into() });
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn delete(mut self, table: &'static Table, owner: Owner, key: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Delete { table, owner, key: key.into() });
        self
    }

    /// Adds the removal of all that an owner has in a table.
    #[must_use]
    pub fn delete_owner(mut self, table: &'static Table, owner: Owner) -> Self {
        self.ops.push(Op::DeleteOwner { table, owner });
        self
    }

    /// Adds a condition; see [`Op::Expect`].
    #[must_use]
    pub fn expect(
        mut self,
        table: &'static Table,
        owner: Owner,
        key: impl Into<Bytes>,
        value: Option<Bytes>,
    ) -> Self {
        self.ops.push(Op::Expect { table, owner, key: key.into(), value });
        self
    }

    /// Adds all operations of another batch.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.ops.extend(other.ops);
        self
    }
}

/// Why storage could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// An [`Op::Expect`] did not hold: somebody else changed the row. Nothing was written.
    #[error("the row was changed by somebody else in the meantime")]
    Conflict,
    /// What was read cannot be understood.
    #[error("table `{table}` holds a value that cannot be read: {why}")]
    Corrupt {
        /// The table's name.
        table: &'static str,
        /// What was wrong.
        why: String,
    },
    /// The driver or its disk failed; nothing of the batch was written, or it is not known to be.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
}

/// The result of a request to storage, when it is there.
pub type Fetch<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'static>>;

/// A storage driver. All methods may be called from any task and never block it.
pub trait Store: Send + Sync + 'static {
    /// One row.
    fn get(&self, table: &'static Table, owner: Owner, key: &[u8]) -> Fetch<Option<Bytes>>;

    /// Rows of one owner in key order.
    fn rows(&self, table: &'static Table, owner: Owner, range: Range) -> Fetch<Vec<Row>>;

    /// How many rows an owner has in a table.
    fn count(&self, table: &'static Table, owner: Owner) -> Fetch<u64>;

    /// Applies a batch. When the future resolves to `Ok`, it is on stable storage and visible to
    /// every later read. Batches handed over in order by one task apply in that order: the call counts,
    /// not when the future is polled. A future dropped before it resolves leaves open whether the
    /// batch was applied.
    fn commit(&self, batch: Batch) -> Fetch<()>;

    /// Writes a consistent copy of everything to the new file `to`, readable by the server's user
    /// only, while the store goes on working. Fails with [`StoreError::Unavailable`] if the file is
    /// there already, or if there is nothing durable to copy.
    fn backup(&self, to: &Path) -> Fetch<()>;

    /// Waits for all commits handed over so far and closes the engine cleanly. Later calls fail
    /// with [`StoreError::Unavailable`], except that closing again is fine.
    fn close(&self) -> Fetch<()>;
}

/// The driver in use, shared.
pub type SharedStore = Arc<dyn Store>;
