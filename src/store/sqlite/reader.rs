//! A thread that reads, on a read-only connection of its own.
//!
//! Each request is one statement and so one snapshot, taken when the statement starts: a commit
//! that was acknowledged before the request was made is in it. Requests nobody waits for any more
//! are skipped.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, ToSql, types::ValueRef};
use server::store::{Owner, Range, Row, StoreError, Table};

use super::{
    Reply,
    fault::Fault,
    schema::{self, Tables},
};
use crate::queue::{Limit, Taker};

/// A request to read, and where the answer goes.
pub(super) enum Read {
    Count { table: &'static Table, owner: Owner, reply: Reply<u64> },
    Get { table: &'static Table, owner: Owner, key: Vec<u8>, reply: Reply<Option<Bytes>> },
    Rows { table: &'static Table, owner: Owner, range: Range, reply: Reply<Vec<Row>> },
}

/// See the module.
pub(super) struct Reader {
    db: Connection,
    file: Arc<Path>,
    reads: Arc<Taker<Read>>,
    tables: Arc<Tables>,
}

impl Reader {
    pub(super) fn new(
        db: Connection,
        file: Arc<Path>,
        reads: Arc<Taker<Read>>,
        tables: Arc<Tables>,
    ) -> Self {
        Self { db, file, reads, tables }
    }

    /// Serves requests until the queue is closed and empty.
    pub(super) fn run(self) {
        while let Some(requests) = self.reads.take(Limit { requests: 1, bytes: usize::MAX }) {
            for request in requests {
                match request {
                    Read::Count { table, owner, reply } => {
                        self.answer(table, reply, || self.count(table, owner));
                    }
                    Read::Get { table, owner, key, reply } => {
                        self.answer(table, reply, || get(&self.db, table, owner, &key));
                    }
                    Read::Rows { table, owner, range, reply } => {
                        self.answer(table, reply, || self.rows(table, owner, &range));
                    }
                }
            }
        }
    }

    fn answer<T: Default>(
        &self,
        table: &'static Table,
        reply: Reply<T>,
        read: impl FnOnce() -> Result<T, Fault>,
    ) {
        if reply.is_closed() {
            return;
        }
        let answer = if self.tables.has(table) { read() } else { Ok(T::default()) };
        // Nobody may be waiting any more, which is fine.
        let _ = reply.send(answer.map_err(|fault| -> StoreError { fault.answer(&self.file) }));
    }

    fn count(&self, table: &'static Table, owner: Owner) -> Result<u64, Fault> {
        let mut statement =
            self.db.prepare_cached(&schema::count(table)).map_err(Fault::at(table))?;
        let count = statement.query_row([schema::owner(owner)], |row| row.get::<_, i64>(0));
        count.map(i64::cast_unsigned).map_err(Fault::at(table))
    }

    fn rows(&self, table: &'static Table, owner: Owner, range: &Range) -> Result<Vec<Row>, Fault> {
        let owner = schema::owner(owner);
        let limit = match range.limit {
            0 => -1,
            limit => i64::try_from(limit).unwrap_or(i64::MAX),
        };
        let (after, before) = (range.after.as_deref(), range.before.as_deref());
        let mut parameters: Vec<&dyn ToSql> = vec![&owner, &limit];
        parameters.extend(after.iter().map(|key| key as &dyn ToSql));
        parameters.extend(before.iter().map(|key| key as &dyn ToSql));

        let sql = schema::rows(table, range);
        let mut statement = self.db.prepare_cached(&sql).map_err(Fault::at(table))?;
        let mut found = statement.query(parameters.as_slice()).map_err(Fault::at(table))?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(Fault::at(table))? {
            let column = |number| -> Result<Bytes, rusqlite::Error> { bytes(row.get_ref(number)?) };
            let key = column(0).map_err(Fault::at(table))?;
            rows.push(Row { key, value: column(1).map_err(Fault::at(table))? });
        }
        Ok(rows)
    }
}

/// One row's value; the writer reads this way too, within its transaction.
pub(super) fn get(
    db: &Connection,
    table: &'static Table,
    owner: Owner,
    key: &[u8],
) -> Result<Option<Bytes>, Fault> {
    let mut statement = db.prepare_cached(&schema::get(table)).map_err(Fault::at(table))?;
    let value = statement.query_row((schema::owner(owner), key), |row| bytes(row.get_ref(0)?));
    value.optional().map_err(Fault::at(table))
}

fn bytes(value: ValueRef<'_>) -> Result<Bytes, rusqlite::Error> {
    Ok(Bytes::copy_from_slice(value.as_blob().map_err(rusqlite::Error::from)?))
}
