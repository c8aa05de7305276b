//! The contract of [`server::store::Store`] as a suite that every driver must pass.
//!
//! Each check gets an empty store of its own and panics at what is wrong. What only an engine's
//! owner can provoke, a crash or a full disk, is tested beside the driver.

use std::sync::Arc;

use bytes::Bytes;
use server::store::{Batch, Owner, Range, Row, SERVER, SharedStore, StoreError, Table};
use tokio::task::JoinSet;

static NOTES: Table = Table { name: "notes", about: "rows of the conformance suite" };
static OTHER: Table = Table { name: "other_notes", about: "more rows of the conformance suite" };
static NEVER: Table = Table { name: "never_written", about: "stays without rows" };

/// Owners at the edges of the type, where a driver whose integers are signed may slip.
pub const OWNERS: [Owner; 6] =
    [SERVER, 1, i64::MAX as Owner, i64::MAX as Owner + 1, Owner::MAX - 1, Owner::MAX];

/// Runs the suite. `make` returns an empty store each time it is called; the suite closes it. Needs
/// a tokio runtime.
///
/// # Panics
///
/// When the driver does not keep the contract.
pub async fn conformance(make: impl AsyncFn() -> SharedStore) {
    macro_rules! checks {
        ($($check:ident),+ $(,)?) => {$(
            let store = make().await;
            $check(&store).await;
            assert_eq!(store.close().await, Ok(()), concat!(stringify!($check), ": close"));
        )+};
    }
    checks![
        empty_store_answers,
        rows_are_read_back,
        owners_and_tables_are_apart,
        any_bytes_are_keys_and_values,
        keys_are_ordered_bytewise,
        ranges_exclude_their_bounds,
        pages_meet_without_gap,
        writes_apply_in_order,
        delete_removes_what_is_there,
        expect_guards_the_whole_batch,
        expect_sees_the_state_before_the_batch,
        conflict_leaves_its_neighbours_alone,
        order_is_that_of_the_calls,
        dropped_future_does_not_block_the_next,
        increments_are_not_lost,
        readers_see_whole_batches,
        closing_waits_and_then_refuses,
    ];
}

async fn empty_store_answers(store: &SharedStore) {
    assert_eq!(store.get(&NEVER, 1, b"k").await, Ok(None));
    assert_eq!(store.rows(&NEVER, 1, Range::all()).await, Ok(vec![]));
    assert_eq!(store.count(&NEVER, 1).await, Ok(0));
    let remove = Batch::new().delete(&NEVER, 1, "k").delete_owner(&NEVER, 1);
    assert_eq!(store.commit(remove).await, Ok(()));
    assert_eq!(store.commit(Batch::new()).await, Ok(()));
    assert_eq!(store.commit(Batch::new().expect(&NEVER, 1, "k", None)).await, Ok(()));
    let expect = Batch::new().expect(&NEVER, 1, "k", Some(Bytes::new()));
    assert_eq!(store.commit(expect).await, Err(StoreError::Conflict));
    assert_eq!(store.count(&NEVER, 1).await, Ok(0));
}

async fn rows_are_read_back(store: &SharedStore) {
    put(store, 1, &[("a", "1"), ("b", "2")]).await;
    assert_eq!(store.get(&NOTES, 1, b"a").await, Ok(Some("1".into())));
    assert_eq!(store.get(&NOTES, 1, b"c").await, Ok(None));
    put(store, 1, &[("a", "3")]).await;
    assert_eq!(store.get(&NOTES, 1, b"a").await, Ok(Some("3".into())));
    assert_eq!(store.count(&NOTES, 1).await, Ok(2));
}

async fn owners_and_tables_are_apart(store: &SharedStore) {
    for owner in OWNERS {
        put(store, owner, &[("k", &owner.to_string())]).await;
    }
    let batch = Batch::new().put(&OTHER, 1, "k", "other");
    store.commit(batch.delete_owner(&NOTES, Owner::MAX)).await.unwrap();
    for owner in OWNERS {
        let there = (owner != Owner::MAX).then(|| Bytes::from(owner.to_string()));
        assert_eq!(store.count(&NOTES, owner).await, Ok(u64::from(there.is_some())), "{owner}");
        assert_eq!(store.get(&NOTES, owner, b"k").await, Ok(there), "{owner}");
    }
    assert_eq!(store.get(&OTHER, 1, b"k").await, Ok(Some("other".into())));
}

async fn any_bytes_are_keys_and_values(store: &SharedStore) {
    let every: Vec<u8> = (0..=255).collect();
    let large = vec![0xa5; 1 << 20];
    let (empty, zero): (&[u8], &[u8]) = (b"", b"\0");
    for bytes in [empty, zero, b"\0\0", b"\xff", b"'; --", &every, &large] {
        let bytes = Bytes::copy_from_slice(bytes);
        let batch = Batch::new().put(&NOTES, 1, bytes.clone(), bytes.clone());
        store.commit(batch).await.unwrap();
        let found = store.get(&NOTES, 1, &bytes).await;
        assert!(found == Ok(Some(bytes.clone())), "{} bytes come back changed", bytes.len());
        let expect = Batch::new().expect(&NOTES, 1, bytes.clone(), Some(bytes));
        assert_eq!(store.commit(expect).await, Ok(()));
    }
    assert_eq!(store.count(&NOTES, 1).await, Ok(7));
}

async fn keys_are_ordered_bytewise(store: &SharedStore) {
    let sorted: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"A", b"a", b"a\0", b"aa", b"\xff"];
    for index in [3, 0, 7, 5, 1, 6, 2, 4] {
        let batch = Batch::new().put(&NOTES, 1, sorted[index], "");
        store.commit(batch).await.unwrap();
    }
    assert_eq!(keys(store, Range::all()).await, sorted);
    let reverse = Range { reverse: true, ..Range::all() };
    assert!(keys(store, reverse).await.iter().eq(sorted.iter().rev()));
}

async fn ranges_exclude_their_bounds(store: &SharedStore) {
    put(store, 1, &["", "a", "b", "c", "d"].map(|key| (key, "v"))).await;
    put(store, 2, &[("bb", "of somebody else")]).await;
    let nothing: [&str; 0] = [];
    let between = |after: &str, before: &str| Range {
        after: Some(Bytes::copy_from_slice(after.as_bytes())),
        before: Some(Bytes::copy_from_slice(before.as_bytes())),
        ..Range::all()
    };
    assert_eq!(keys(store, between("a", "d")).await, ["b", "c"]);
    assert_eq!(keys(store, between("aa", "cc")).await, ["b", "c"], "bounds need not be there");
    assert_eq!(keys(store, between("", "b")).await, ["a"], "the empty key is a bound like others");
    for (after, before) in [("a", "b"), ("b", "b"), ("d", "a"), ("", ""), ("d", "z")] {
        assert_eq!(keys(store, between(after, before)).await, nothing, "{after}..{before}");
    }
    let reverse = Range { reverse: true, limit: 2, ..between("", "d") };
    assert_eq!(keys(store, reverse).await, ["c", "b"]);
    let before = Range { before: Some("b".into()), ..Range::all() };
    assert_eq!(keys(store, before).await, ["", "a"]);
    let after = Range { after: Some("c".into()), reverse: true, ..Range::all() };
    assert_eq!(keys(store, after).await, ["d"]);
    let many = Range { limit: usize::MAX, ..Range::all() };
    assert_eq!(keys(store, many).await.len(), 5);
}

async fn pages_meet_without_gap(store: &SharedStore) {
    let all: Vec<String> = (0..25).map(|n| format!("{n:02}")).collect();
    let rows: Vec<_> = all.iter().map(|key| (key.as_str(), "v")).collect();
    put(store, 1, &rows).await;
    let (mut cursor, mut seen, mut sizes) = (None, vec![], vec![]);
    loop {
        let page = store.rows(&NOTES, 1, Range::page(cursor.clone(), 10)).await.unwrap();
        sizes.push(page.len());
        let Some(last) = page.last() else { break };
        cursor = Some(last.key.clone());
        seen.extend(page.into_iter().map(|row| row.key));
    }
    assert_eq!(sizes, [10, 10, 5, 0]);
    assert!(seen.iter().eq(all.iter()));
}

async fn writes_apply_in_order(store: &SharedStore) {
    put(store, 1, &[("old", "v")]).await;
    let batch = Batch::new()
        .put(&NOTES, 1, "a", "1")
        .put(&NOTES, 1, "a", "2")
        .delete(&NOTES, 1, "b")
        .put(&NOTES, 1, "b", "3");
    store.commit(batch).await.unwrap();
    assert_eq!(keys(store, Range::all()).await, ["a", "b", "old"]);
    assert_eq!(store.get(&NOTES, 1, b"a").await, Ok(Some("2".into())));
    let batch = Batch::new().put(&NOTES, 1, "c", "4").delete_owner(&NOTES, 1);
    store.commit(batch.put(&NOTES, 1, "d", "5")).await.unwrap();
    assert_eq!(keys(store, Range::all()).await, ["d"]);
}

async fn delete_removes_what_is_there(store: &SharedStore) {
    put(store, 1, &[("a", "1"), ("b", "2")]).await;
    let batch = Batch::new().delete(&NOTES, 1, "a").delete(&NOTES, 1, "missing");
    store.commit(batch).await.unwrap();
    assert_eq!(keys(store, Range::all()).await, ["b"]);
}

async fn expect_guards_the_whole_batch(store: &SharedStore) {
    put(store, 1, &[("k", "v"), ("empty", "")]).await;
    let guarded = |key: &'static str, value: Option<&'static str>| {
        Batch::new()
            .put(&NOTES, 1, "before", "x")
            .delete(&NOTES, 1, "k")
            .expect(&NOTES, 1, key, value.map(Bytes::from))
            .put(&OTHER, 1, "after", "x")
    };
    for (key, value) in [
        ("k", Some("w")),
        ("k", Some("")),
        ("k", None),
        ("missing", Some("v")),
        ("missing", Some("")),
        ("empty", None),
    ] {
        let outcome = store.commit(guarded(key, value)).await;
        assert_eq!(outcome, Err(StoreError::Conflict), "{key} {value:?}");
        assert_eq!(keys(store, Range::all()).await, ["empty", "k"]);
        assert_eq!(store.count(&OTHER, 1).await, Ok(0));
    }
    let both = guarded("missing", None).and(guarded("k", Some("v")));
    assert_eq!(store.commit(both).await, Ok(()));
    assert_eq!(keys(store, Range::all()).await, ["before", "empty"]);
    assert_eq!(store.count(&OTHER, 1).await, Ok(1));
}

async fn expect_sees_the_state_before_the_batch(store: &SharedStore) {
    let batch = Batch::new().put(&NOTES, 1, "k", "1").expect(&NOTES, 1, "k", None);
    assert_eq!(store.commit(batch.clone()).await, Ok(()));
    assert_eq!(store.commit(batch).await, Err(StoreError::Conflict));
}

async fn conflict_leaves_its_neighbours_alone(store: &SharedStore) {
    // Handed over at once, so that a driver that groups commits groups these.
    let calls: Vec<_> = (0..40)
        .map(|n| {
            let batch = Batch::new().put(&NOTES, 1, format!("{n:02}"), "v");
            let wrong = (n % 4 == 1).then(|| Bytes::from("never"));
            store.commit(batch.expect(&OTHER, 1, "k", wrong))
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        let expected = if n % 4 == 1 { Err(StoreError::Conflict) } else { Ok(()) };
        assert_eq!(call.await, expected, "{n}");
    }
    assert_eq!(store.count(&NOTES, 1).await, Ok(30));
}

async fn order_is_that_of_the_calls(store: &SharedStore) {
    let step = |n: u32| {
        let before = n.checked_sub(1).map(|n| Bytes::from(n.to_string()));
        let batch = Batch::new().expect(&NOTES, 1, "step", before);
        store.commit(batch.put(&NOTES, 1, "step", n.to_string()))
    };
    let calls: Vec<_> = (0..200).map(step).collect();
    // Awaited the other way round: the order of the calls counts.
    for (n, call) in calls.into_iter().enumerate().rev() {
        assert_eq!(call.await, Ok(()), "step {n}");
    }
}

async fn dropped_future_does_not_block_the_next(store: &SharedStore) {
    for n in 0..50 {
        drop(store.commit(Batch::new().put(&NOTES, 1, format!("{n:02}"), "v")));
        drop(store.rows(&NOTES, 1, Range::all()));
    }
    put(store, 1, &[("last", "v")]).await;
    assert_eq!(store.get(&NOTES, 1, b"last").await, Ok(Some("v".into())));
}

async fn increments_are_not_lost(store: &SharedStore) {
    const TASKS: u64 = 16;
    const EACH: u64 = 10;
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for _ in 0..EACH {
                while !increment(&store).await {}
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let total = store.get(&NOTES, SERVER, b"counter").await.unwrap().unwrap();
    assert_eq!(total, (TASKS * EACH).to_string());
}

/// Whether it was us who moved the counter on.
async fn increment(store: &SharedStore) -> bool {
    let before = store.get(&NOTES, SERVER, b"counter").await.unwrap();
    let known = before.as_deref().map_or(0, number);
    let batch = Batch::new().expect(&NOTES, SERVER, "counter", before);
    match store.commit(batch.put(&NOTES, SERVER, "counter", (known + 1).to_string())).await {
        Ok(()) => {
            let after = store.get(&NOTES, SERVER, b"counter").await.unwrap().unwrap();
            assert!(number(&after) > known, "a read after the commit shows an earlier state");
            true
        }
        Err(StoreError::Conflict) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn readers_see_whole_batches(store: &SharedStore) {
    let writer = Arc::clone(store);
    let writing = tokio::spawn(async move {
        for n in 0..60_u32 {
            let keys = ["a", "b", "c"].into_iter();
            let batch = keys.fold(Batch::new(), |b, key| b.put(&NOTES, 1, key, n.to_string()));
            writer.commit(batch).await.unwrap();
        }
    });
    let mut last = 0;
    while !writing.is_finished() {
        let rows = store.rows(&NOTES, 1, Range::all()).await.unwrap();
        let Some(first) = rows.first() else { continue };
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.value == first.value), "half a batch: {rows:?}");
        assert!(number(&first.value) >= last, "went back in time");
        last = number(&first.value);
    }
    writing.await.unwrap();
}

async fn closing_waits_and_then_refuses(store: &SharedStore) {
    let pending: Vec<_> =
        (0..20).map(|n| store.commit(Batch::new().put(&NOTES, 1, format!("{n}"), "v"))).collect();
    assert_eq!(store.close().await, Ok(()));
    for commit in pending {
        assert_eq!(commit.await, Ok(()), "handed over before the end");
    }
    let refused = |error: Option<StoreError>| matches!(error, Some(StoreError::Unavailable(_)));
    assert!(refused(store.get(&NOTES, 1, b"0").await.err()));
    assert!(refused(store.rows(&NOTES, 1, Range::all()).await.err()));
    assert!(refused(store.count(&NOTES, 1).await.err()));
    assert!(refused(store.commit(Batch::new()).await.err()));
    assert_eq!(store.close().await, Ok(()), "closing twice does no harm");
}

async fn put(store: &SharedStore, owner: Owner, rows: &[(&str, &str)]) {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let add = |batch: Batch, &(key, value): &(&str, &str)| {
        batch.put(&NOTES, owner, copy(key), copy(value))
    };
    store.commit(rows.iter().fold(Batch::new(), add)).await.unwrap();
}

async fn keys(store: &SharedStore, range: Range) -> Vec<Bytes> {
    let rows = store.rows(&NOTES, 1, range).await.unwrap();
    rows.into_iter().map(|Row { key, .. }| key).collect()
}

fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}
