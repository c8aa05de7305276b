//! The SQLite driver: one file, one thread that writes, a few that read.
//!
//! WAL with `synchronous=FULL`: a commit is answered after its fsync, so what was acknowledged
//! survives a power cut, and readers never wait for the writer. Every [`Table`] is an SQL table
//! `t_<name>` of `(owner, key, value)`, created when first written to. There is no cache of rows
//! here, and no SQL beyond that shape.

mod backup;
#[cfg(test)]
mod crash;
mod fault;
mod open;
mod reader;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use bytes::Bytes;
use server::store::{Batch, Fetch, Op, Owner, Range, Row, Store, StoreError, Table};
use tokio::sync::{oneshot, watch};

use self::{
    open::Opened,
    reader::{Read, Reader},
    schema::Tables,
    writer::{Commit, Writer},
};
use crate::queue::{Closed, Limit, Queue, Taker};

pub use self::open::OpenError;

/// Threads that read, each with a connection of its own.
const READERS: usize = 2;
/// Commits that may be queued; more wait in the futures of those who want them.
const COMMITS: Limit = Limit { requests: 8 * 1024, bytes: 64 << 20 };
/// Reads that may be queued; what they return is not counted.
const READS: Limit = Limit { requests: 64 * 1024, bytes: 16 << 20 };
/// What a request weighs beyond its keys and values: about the size of an operation and its reply.
const WEIGHT: usize = 128;

/// See the module. Dropping it without [`Store::close`] lets the threads finish what is queued, in
/// their own time.
pub(crate) struct Sqlite {
    closed: watch::Receiver<Option<Result<(), StoreError>>>,
    commits: Arc<Queue<Commit>>,
    #[cfg(test)]
    counters: Arc<Counters>,
    data: PathBuf,
    reads: Arc<Queue<Read>>,
}

/// What the writer tells about itself, and what a test tells the writer.
#[derive(Default)]
pub(crate) struct Counters {
    /// Pages the file may have, 0 for no limit: a disk that is full, for tests.
    #[cfg(test)]
    pub(crate) page_limit: std::sync::atomic::AtomicU32,
    /// Transactions committed since the store was opened.
    pub(crate) transactions: AtomicU64,
}

impl Sqlite {
    pub(crate) fn open(data: &Path) -> Result<Self, OpenError> {
        let Opened { file, lock, readers, tables, writer } = open::open(data, READERS)?;
        let (tables, counters) = (Arc::new(Tables::new(tables)), Arc::new(Counters::default()));
        let (commits, reads) = (Queue::new(COMMITS), Queue::new(READS));
        let taker = Arc::new(Taker::new(&reads));
        let (closing, closed) = watch::channel(None);
        let failed = |why| OpenError::Threads { why };

        let mut threads = Vec::with_capacity(READERS);
        for (number, db) in readers.into_iter().enumerate() {
            let reader =
                Reader::new(db, Arc::clone(&file), Arc::clone(&taker), Arc::clone(&tables));
            let name = format!("store-read-{number}");
            let thread = thread::Builder::new().name(name).spawn(move || reader.run());
            threads.push(thread.inspect_err(|_| reads.close()).map_err(failed)?);
        }
        // From here on the readers alone hold it.
        drop(taker);
        let writer = Writer {
            closing,
            commits: Taker::new(&commits),
            counters: Arc::clone(&counters),
            db: writer,
            failing: Cell::new(false),
            file,
            lock,
            readers: threads,
            tables,
        };
        let thread = thread::Builder::new().name("store-write".into());
        thread.spawn(move || writer.run()).inspect_err(|_| reads.close()).map_err(failed)?;
        Ok(Self {
            closed,
            commits,
            #[cfg(test)]
            counters,
            data: data.to_owned(),
            reads,
        })
    }

    /// Transactions committed since the store was opened: fewer than batches, where group commit
    /// works.
    #[cfg(test)]
    pub(crate) fn transactions(&self) -> u64 {
        self.counters.transactions.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Makes the disk as good as full once the file has this many pages; 0 ends that.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        self.counters.page_limit.store(pages, std::sync::atomic::Ordering::Relaxed);
    }

    fn read<T: Send + 'static>(
        &self,
        bytes: usize,
        request: impl FnOnce(Reply<T>) -> Read,
    ) -> Fetch<T> {
        let (reply, answer) = oneshot::channel();
        let place = self.reads.push(request(reply), WEIGHT + bytes);
        Box::pin(async move {
            let _place = place.map_err(closed)?;
            answer.await.unwrap_or_else(|_| Err(stopped()))
        })
    }
}

impl Store for Sqlite {
    fn get(&self, table: &'static Table, owner: Owner, key: &[u8]) -> Fetch<Option<Bytes>> {
        let key = key.to_vec();
        self.read(key.len(), |reply| Read::Get { table, owner, key, reply })
    }

    fn rows(&self, table: &'static Table, owner: Owner, range: Range) -> Fetch<Vec<Row>> {
        let bytes = |key: &Option<Bytes>| key.as_ref().map_or(0, Bytes::len);
        let bytes = bytes(&range.after) + bytes(&range.before);
        self.read(bytes, |reply| Read::Rows { table, owner, range, reply })
    }

    fn count(&self, table: &'static Table, owner: Owner) -> Fetch<u64> {
        self.read(0, |reply| Read::Count { table, owner, reply })
    }

    fn commit(&self, batch: Batch) -> Fetch<()> {
        let (reply, answer) = oneshot::channel();
        let bytes = weight(&batch);
        let place = self.commits.push(Commit { batch, reply }, bytes);
        Box::pin(async move {
            let _place = place.map_err(closed)?;
            answer.await.unwrap_or_else(|_| Err(stopped()))
        })
    }

    fn backup(&self, to: &Path) -> Fetch<()> {
        let (data, to) = (self.data.clone(), to.to_owned());
        let copied = tokio::task::spawn_blocking(move || backup::backup(&data, &to));
        Box::pin(async move {
            let copied = copied.await.map_err(|_| stopped())?;
            copied.map_err(|error| StoreError::Unavailable(error.to_string()))
        })
    }

    fn close(&self) -> Fetch<()> {
        self.commits.close();
        self.reads.close();
        let mut closed = self.closed.clone();
        Box::pin(async move {
            let outcome = closed.wait_for(Option::is_some).await;
            outcome.ok().and_then(|outcome| outcome.clone()).unwrap_or_else(|| Err(stopped()))
        })
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.commits.close();
        self.reads.close();
    }
}

/// Where an answer goes.
type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

fn weight(batch: &Batch) -> usize {
    let bytes = |op: &Op| match op {
        Op::Delete { key, .. } => key.len(),
        Op::DeleteOwner { .. } => 0,
        Op::Expect { key, value, .. } => key.len() + value.as_ref().map_or(0, Bytes::len),
        Op::Put { key, value, .. } => key.len() + value.len(),
    };
    WEIGHT + batch.ops.iter().map(|op| WEIGHT + bytes(op)).sum::<usize>()
}

fn closed(_: Closed) -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

fn stopped() -> StoreError {
    StoreError::Unavailable("its thread has stopped; hint: see the log, then restart".into())
}
