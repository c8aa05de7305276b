//! The store in memory: what the contract means in its plainest form.
//!
//! One lock around ordered maps; every call is done before it returns. It keeps nothing beyond the
//! process and bounds nothing.

use std::{
    collections::{BTreeMap, HashMap},
    future,
    ops::Bound,
    path::Path,
};

use bytes::Bytes;
use parking_lot::Mutex;
use server::store::{Batch, Fetch, Op, Owner, Range, Row, Store, StoreError, Table};

/// See the module.
#[derive(Default)]
pub(crate) struct Memory {
    state: Mutex<State>,
}

impl Store for Memory {
    fn get(&self, table: &'static Table, owner: Owner, key: &[u8]) -> Fetch<Option<Bytes>> {
        self.answer(|state| Ok(state.value(table, owner, key).cloned()))
    }

    fn rows(&self, table: &'static Table, owner: Owner, range: Range) -> Fetch<Vec<Row>> {
        self.answer(|state| {
            Ok(state.owned(table, owner).map_or_else(Vec::new, |r| select(r, &range)))
        })
    }

    fn count(&self, table: &'static Table, owner: Owner) -> Fetch<u64> {
        self.answer(|state| Ok(state.owned(table, owner).map_or(0, |rows| rows.len() as u64)))
    }

    fn commit(&self, batch: Batch) -> Fetch<()> {
        self.answer(|state| state.commit(batch))
    }

    fn backup(&self, _: &Path) -> Fetch<()> {
        let why = "everything is in memory, by `storage = \"memory\"`; there is nothing to back up";
        Box::pin(future::ready(Err(StoreError::Unavailable(why.into()))))
    }

    fn close(&self) -> Fetch<()> {
        self.state.lock().closed = true;
        Box::pin(future::ready(Ok(())))
    }
}

impl Memory {
    fn answer<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Fetch<T> {
        let mut state = self.state.lock();
        let answer = if state.closed {
            Err(StoreError::Unavailable("it is closed".into()))
        } else {
            ask(&mut state)
        };
        Box::pin(future::ready(answer))
    }
}

type Rows = BTreeMap<Bytes, Bytes>;

#[derive(Default)]
struct State {
    closed: bool,
    /// By the table's name: two declarations of one name are one table, as in every driver.
    tables: HashMap<&'static str, BTreeMap<Owner, Rows>>,
}

impl State {
    fn owned(&self, table: &Table, owner: Owner) -> Option<&Rows> {
        self.tables.get(table.name)?.get(&owner)
    }

    fn value(&self, table: &Table, owner: Owner, key: &[u8]) -> Option<&Bytes> {
        self.owned(table, owner)?.get(key)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        for op in &batch.ops {
            if let Op::Expect { table, owner, key, value } = op
                && self.value(table, *owner, key) != value.as_ref()
            {
                return Err(StoreError::Conflict);
            }
        }
        for op in batch.ops {
            self.apply(op);
        }
        Ok(())
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Delete { table, owner, key } => {
                if let Some(owners) = self.tables.get_mut(table.name)
                    && let Some(rows) = owners.get_mut(&owner)
                {
                    rows.remove(&key);
                    if rows.is_empty() {
                        owners.remove(&owner);
                    }
                }
            }
            Op::DeleteOwner { table, owner } => {
                if let Some(owners) = self.tables.get_mut(table.name) {
                    owners.remove(&owner);
                }
            }
            Op::Expect { .. } => {}
            Op::Put { table, owner, key, value } => {
                // Copied, because a slice of a larger buffer would keep all of that alive.
                let (key, value) = (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
                let owners = self.tables.entry(table.name).or_default();
                owners.entry(owner).or_default().insert(key, value);
            }
        }
    }
}

fn select(rows: &Rows, range: &Range) -> Vec<Row> {
    if let (Some(after), Some(before)) = (&range.after, &range.before)
        && after >= before
    {
        return Vec::new();
    }
    let bound = |key: &Option<Bytes>| key.clone().map_or(Bound::Unbounded, Bound::Excluded);
    let found = rows.range((bound(&range.after), bound(&range.before)));
    let limit = if range.limit == 0 { usize::MAX } else { range.limit };
    let row = |(key, value): (&Bytes, &Bytes)| Row { key: key.clone(), value: value.clone() };
    if range.reverse {
        found.rev().take(limit).map(row).collect()
    } else {
        found.take(limit).map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conformance::conformance, memory, model};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conforms() {
        conformance(async || memory()).await;
    }

    #[test]
    fn agrees_with_the_model() {
        model::agrees(memory);
    }

    #[tokio::test]
    async fn a_stored_slice_does_not_keep_its_buffer() {
        static TABLE: Table = Table { name: "slices", about: "a test" };
        let buffer = Bytes::from(vec![7; 4096]);
        let store = memory();
        let batch = Batch::new().put(&TABLE, 1, buffer.slice(..8), buffer.slice(8..16));
        store.commit(batch).await.unwrap();
        assert!(buffer.is_unique());
    }
}
