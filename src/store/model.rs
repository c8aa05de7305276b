//! Random batches and reads, compared with a model that is too simple to be wrong.
//!
//! The model is one flat map; it filters, sorts and cuts where a driver seeks.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use server::store::{Batch, Op, Owner, Range, Row, SharedStore, StoreError, Table};

use crate::conformance::OWNERS;

static TABLES: [Table; 2] =
    [Table { name: "left", about: "a test" }, Table { name: "right_2", about: "a test" }];

/// Fails when the store that `make` returns differs from the model.
pub(crate) fn agrees(make: impl FnOnce() -> SharedStore) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let store = make();
    let config = Config { cases: 96, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&vec(step(), 1..24), |steps| {
        runtime.block_on(compare(&store, steps));
        Ok(())
    });
    runtime.block_on(store.close()).unwrap();
    outcome.unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    /// Handed over at once, then awaited.
    Commit(Vec<Batch>),
    Get(&'static Table, Owner, Bytes),
    Rows(&'static Table, Owner, Range),
}

#[derive(Default)]
struct Model(BTreeMap<(&'static str, Owner, Bytes), Bytes>);

impl Model {
    fn get(&self, table: &Table, owner: Owner, key: &Bytes) -> Option<&Bytes> {
        self.0.get(&(table.name, owner, key.clone()))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        for op in &batch.ops {
            if let Op::Expect { table, owner, key, value } = op
                && self.get(table, *owner, key) != value.as_ref()
            {
                return Err(StoreError::Conflict);
            }
        }
        for op in &batch.ops {
            match op {
                Op::Delete { table, owner, key } => {
                    self.0.remove(&(table.name, *owner, key.clone()));
                }
                Op::DeleteOwner { table, owner } => {
                    self.0.retain(|(name, whose, _), _| (*name, *whose) != (table.name, *owner));
                }
                Op::Expect { .. } => {}
                Op::Put { table, owner, key, value } => {
                    self.0.insert((table.name, *owner, key.clone()), value.clone());
                }
            }
        }
        Ok(())
    }

    fn rows(&self, table: &Table, owner: Owner, range: &Range) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .0
            .iter()
            .filter(|((name, whose, _), _)| (*name, *whose) == (table.name, owner))
            .map(|((_, _, key), value)| Row { key: key.clone(), value: value.clone() })
            .filter(|row| range.after.as_ref().is_none_or(|after| row.key > *after))
            .filter(|row| range.before.as_ref().is_none_or(|before| row.key < *before))
            .collect();
        if range.reverse {
            rows.reverse();
        }
        if range.limit > 0 {
            rows.truncate(range.limit);
        }
        rows
    }
}

async fn compare(store: &SharedStore, steps: Vec<Step>) {
    let mut model = Model::default();
    let wipe = TABLES.iter().flat_map(|table| OWNERS.map(|owner| (table, owner)));
    let wipe = wipe.fold(Batch::new(), |batch, (table, owner)| batch.delete_owner(table, owner));
    store.commit(wipe).await.unwrap();
    for step in steps {
        match step {
            Step::Commit(batches) => {
                let calls: Vec<_> = batches.iter().map(|b| store.commit(b.clone())).collect();
                for (batch, call) in batches.iter().zip(calls) {
                    assert_eq!(call.await, model.commit(batch));
                }
            }
            Step::Get(table, owner, key) => {
                let found = store.get(table, owner, &key).await.unwrap();
                assert!(found.as_ref() == model.get(table, owner, &key), "get differs");
            }
            Step::Rows(table, owner, range) => {
                let found = store.rows(table, owner, range.clone()).await.unwrap();
                assert!(found == model.rows(table, owner, &range), "rows differ: {range:?}");
            }
        }
    }
    for (table, owner) in TABLES.iter().flat_map(|table| OWNERS.map(|owner| (table, owner))) {
        let expected = model.rows(table, owner, &Range::all());
        assert_eq!(store.count(table, owner).await, Ok(expected.len() as u64));
        assert!(store.rows(table, owner, Range::all()).await == Ok(expected), "rows differ");
    }
}

fn step() -> impl Strategy<Value = Step> {
    let get = (table(), owner(), key()).prop_map(|(t, o, k)| Step::Get(t, o, k));
    let rows = (table(), owner(), range()).prop_map(|(t, o, r)| Step::Rows(t, o, r));
    let batch = vec(op(), 0..8).prop_map(|ops| Batch { ops });
    prop_oneof![2 => vec(batch, 1..5).prop_map(Step::Commit), 1 => get, 2 => rows]
}

fn op() -> impl Strategy<Value = Op> {
    let place = || (table(), owner(), key());
    let delete = place().prop_map(|(table, owner, key)| Op::Delete { table, owner, key });
    let delete_owner =
        (table(), owner()).prop_map(|(table, owner)| Op::DeleteOwner { table, owner });
    // Mostly absent, or a value that is often there: both outcomes must be common.
    let expected = option::weighted(0.2, Just(Bytes::from_static(b"v")));
    let expect = (place(), expected).prop_map(|((table, owner, key), value)| Op::Expect {
        table,
        owner,
        key,
        value,
    });
    let put = (place(), value()).prop_map(|((table, owner, key), value)| Op::Put {
        table,
        owner,
        key,
        value,
    });
    prop_oneof![3 => delete, 1 => delete_owner, 2 => expect, 12 => put]
}

fn table() -> impl Strategy<Value = &'static Table> {
    prop_oneof![Just(&TABLES[0]), Just(&TABLES[1])]
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![2 => Just(OWNERS[1]), 1 => prop::sample::select(OWNERS.to_vec())]
}

/// Few enough to meet again, with the bytes where orders differ.
fn key() -> impl Strategy<Value = Bytes> {
    let byte = prop::sample::select(vec![0, b'a', b'b', 0x7f, 0x80, 0xff_u8]);
    vec(byte, 0..3).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        40 => Just(Bytes::from_static(b"v")),
        20 => vec(any::<u8>(), 0..64).prop_map(Bytes::from),
        1 => any::<u8>().prop_map(|byte| Bytes::from(vec![byte; 1 << 20])),
    ]
}

fn range() -> impl Strategy<Value = Range> {
    let limit = prop_oneof![Just(0_usize), 1..5_usize];
    (option::of(key()), option::of(key()), any::<bool>(), limit)
        .prop_map(|(after, before, reverse, limit)| Range { after, before, reverse, limit })
}
