//! What is SQLite's own: files, locks, marks, group commit, a full disk, damage.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use rusqlite::Connection;
use server::store::{Batch, Range, SharedStore, Store as _, StoreError, Table};
use tempfile::TempDir;

use super::{OpenError, Sqlite, backup};
use crate::{conformance::conformance, model, sqlite};

static NOTES: Table = Table { name: "notes", about: "a test" };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let directories = Mutex::new(Vec::new());
    conformance(async || {
        let data = tempfile::tempdir().unwrap();
        let store = sqlite(data.path()).unwrap();
        directories.lock().unwrap().push(data);
        store
    })
    .await;
}

#[test]
fn agrees_with_the_model() {
    let data = tempfile::tempdir().unwrap();
    model::agrees(|| sqlite(data.path()).unwrap());
}

#[tokio::test]
async fn rows_outlive_the_store() {
    let data = tempfile::tempdir().unwrap();
    let store = open(&data);
    store.commit(note("k", "v")).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(files(data.path()), ["usher.db", "usher.lock"], "closed cleanly, no `-wal` left");
    let store = open(&data);
    assert_eq!(store.get(&NOTES, 1, b"k").await, Ok(Some("v".into())));
    store.close().await.unwrap();
}

#[tokio::test]
async fn commits_are_synced_to_disk() {
    let data = tempfile::tempdir().unwrap();
    let opened = super::open::open(data.path(), 0).unwrap();
    let number = |name| opened.writer.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    assert_eq!(number("synchronous"), Ok(2), "FULL");
    let mode = opened.writer.pragma_query_value(None, "journal_mode", |row| row.get(0));
    assert_eq!(mode, Ok("wal".to_owned()));
}

#[tokio::test]
async fn files_are_for_the_server_alone() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("a/b");
    let store = sqlite(&data).unwrap();
    store.commit(note("k", "v")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let names = files(&data);
    assert_eq!(names, ["usher.db", "usher.db-shm", "usher.db-wal", "usher.lock"]);
    for name in names {
        assert_eq!(mode(&data.join(&name)), 0o600, "{name}");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_second_server_is_refused_and_a_reader_is_not() {
    let data = tempfile::tempdir().unwrap();
    let store = open(&data);
    store.commit(note("k", "v")).await.unwrap();
    let error = sqlite(data.path()).err().unwrap();
    assert!(matches!(&error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {};", process::id())), "{error}");

    let operator = Connection::open(data.path().join("usher.db")).unwrap();
    let value: String = operator
        .query_row("SELECT CAST(value AS TEXT) FROM t_notes WHERE owner = 1", (), |row| row.get(0))
        .unwrap();
    assert_eq!(value, "v");
    drop(operator);
    store.close().await.unwrap();
    open(&data).close().await.unwrap();
}

#[tokio::test]
async fn other_files_are_refused_and_left_as_they_are() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("usher.db");
    let made_by = |sql: &str| {
        let _ = fs::remove_file(&file);
        Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    };
    type Check = fn(&OpenError) -> bool;
    let foreign: Check = |error| matches!(error, OpenError::Foreign { .. });
    let newer: Check = |error| matches!(error, OpenError::Newer { found: 9, known: 1, .. });
    let ours = super::schema::APPLICATION_ID;
    for (sql, check) in [
        ("CREATE TABLE prosody (host)".to_owned(), foreign),
        ("PRAGMA application_id = 7".to_owned(), foreign),
        ("PRAGMA user_version = 1".to_owned(), foreign),
        (format!("PRAGMA application_id = {ours}; PRAGMA user_version = 9"), newer),
    ] {
        made_by(&sql);
        let before = fs::read(&file).unwrap();
        let error = sqlite(data.path()).err().unwrap();
        assert!(check(&error), "{sql}: {error}");
        assert_eq!(fs::read(&file).unwrap(), before, "{sql}");
    }
    fs::write(&file, "this is no database, and long enough to have a header; ".repeat(9)).unwrap();
    let error = sqlite(data.path()).err().unwrap();
    assert!(foreign(&error), "{error}");
}

#[test]
fn every_refusal_is_one_line_with_a_hint() {
    let data = tempfile::tempdir().unwrap();
    let plain = data.path().join("plain");
    fs::write(&plain, "a file").unwrap();
    let file = plain.clone();
    for error in [
        sqlite(&plain.join("below")).err().unwrap(),
        sqlite(&plain).err().unwrap(),
        backup::backup(data.path(), &data.path().join("copy")).unwrap_err(),
        OpenError::Foreign { file: file.clone() },
        OpenError::Locked { data: file.clone(), by: "another process".into() },
        OpenError::Newer { file, found: 2, known: 1 },
        OpenError::Threads { why: std::io::Error::other("no") },
    ] {
        let text = error.to_string();
        assert!(text.contains("; hint: ") && !text.contains('\n'), "{text}");
        assert!(!text.ends_with('.'), "{text}");
    }
}

#[tokio::test]
async fn commits_that_wait_share_a_transaction() {
    let data = tempfile::tempdir().unwrap();
    let store = Sqlite::open(data.path()).unwrap();
    store.commit(note("first", "v")).await.unwrap();
    let before = store.transactions();
    // While somebody else holds the file, the writer waits with what it took, and the rest queues
    // up.
    let blocker = Connection::open(data.path().join("usher.db")).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let calls: Vec<_> = (0..500).map(|n| store.commit(note(&format!("{n}"), "v"))).collect();
    blocker.execute_batch("COMMIT").unwrap();
    for call in calls {
        call.await.unwrap();
    }
    let transactions = store.transactions() - before;
    // At most: what was taken before the block, what was taken into it, the rest.
    assert!((1..=3).contains(&transactions), "{transactions} transactions for 500 commits");
    assert_eq!(store.count(&NOTES, 1).await, Ok(501));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let data = tempfile::tempdir().unwrap();
    let store = Sqlite::open(data.path()).unwrap();
    store.commit(note("kept", "v")).await.unwrap();
    store.limit_pages(16);
    let error = store.commit(note("large", &"x".repeat(1 << 20))).await.unwrap_err();
    let StoreError::Unavailable(why) = &error else { panic!("{error}") };
    assert!(why.contains("no space left") && why.contains("hint: "), "{why}");

    // In one group, the ones that fit are not spoiled by those that do not.
    let blocker = Connection::open(data.path().join("usher.db")).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let calls: Vec<_> = (0..40)
        .map(|n| {
            store.commit(note(&format!("{n}"), &"x".repeat(if n % 2 == 0 { 1 } else { 1 << 20 })))
        })
        .collect();
    blocker.execute_batch("COMMIT").unwrap();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.is_ok(), n % 2 == 0, "{n}");
    }
    assert_eq!(store.count(&NOTES, 1).await, Ok(21));

    store.limit_pages(0);
    store.commit(note("large", &"x".repeat(1 << 20))).await.unwrap();
    assert_eq!(store.get(&NOTES, 1, b"kept").await, Ok(Some("v".into())));
    assert_eq!(store.count(&NOTES, 1).await, Ok(22));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_table_whose_creation_failed_is_created_later() {
    let data = tempfile::tempdir().unwrap();
    let store = Sqlite::open(data.path()).unwrap();
    // Refused at the table, and then at the row, with the table rolled back.
    for (pages, value) in [(1, 1), (16, 1 << 20)] {
        store.limit_pages(pages);
        store.commit(note("k", &"x".repeat(value))).await.unwrap_err();
        assert_eq!(store.get(&NOTES, 1, b"k").await, Ok(None));
        assert_eq!(store.count(&NOTES, 1).await, Ok(0));
    }
    store.limit_pages(0);
    store.commit(note("k", "v")).await.unwrap();
    assert_eq!(store.get(&NOTES, 1, b"k").await, Ok(Some("v".into())));
    store.close().await.unwrap();
}

#[tokio::test]
async fn an_ill_named_table_spoils_only_its_own_batch() {
    static ILL: Table = Table { name: "x (a); DROP TABLE t_notes; --", about: "a test" };
    let data = tempfile::tempdir().unwrap();
    let store = open(&data);
    let calls = [note("a", "v"), Batch::new().put(&ILL, 1, "k", "v"), note("b", "v")];
    let calls = calls.map(|batch| store.commit(batch));
    let mut outcomes = vec![];
    for call in calls {
        outcomes.push(call.await);
    }
    assert!(matches!(&outcomes[..], [Ok(()), Err(StoreError::Unavailable(_)), Ok(())]));
    assert_eq!(store.count(&ILL, 1).await, Ok(0));
    store.close().await.unwrap();
}

#[tokio::test]
async fn damage_is_told_by_its_table() {
    let data = tempfile::tempdir().unwrap();
    let store = open(&data);
    store.commit(note("k", "v")).await.unwrap();
    store.close().await.unwrap();
    // A table of an operator's making, without the types that ours has.
    let operator = Connection::open(data.path().join("usher.db")).unwrap();
    operator
        .execute_batch(
            "DROP TABLE t_notes;
             CREATE TABLE t_notes (owner, key, value, PRIMARY KEY (owner, key)) WITHOUT ROWID;
             INSERT INTO t_notes VALUES (1, x'6b', 7)",
        )
        .unwrap();
    drop(operator);
    let store = open(&data);
    let corrupt = |error| matches!(error, Some(StoreError::Corrupt { table: "notes", .. }));
    assert!(corrupt(store.get(&NOTES, 1, b"k").await.err()));
    assert!(corrupt(store.rows(&NOTES, 1, Range::all()).await.err()));
    assert!(corrupt(store.commit(Batch::new().expect(&NOTES, 1, "k", None)).await.err()));
    store.commit(note("k", "again")).await.unwrap();
    assert_eq!(store.get(&NOTES, 1, b"k").await, Ok(Some("again".into())));
    store.close().await.unwrap();
}

#[tokio::test]
async fn dropping_without_close_finishes_what_was_queued() {
    let data = tempfile::tempdir().unwrap();
    let store = Sqlite::open(data.path()).unwrap();
    let mut closed = store.closed.clone();
    let call = store.commit(note("k", "v"));
    drop(store);
    call.await.unwrap();
    closed.wait_for(Option::is_some).await.unwrap();
    let store = open(&data);
    assert_eq!(store.get(&NOTES, 1, b"k").await, Ok(Some("v".into())));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_whole_while_commits_go_on() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&data);
    store.commit(note("0", "v")).await.unwrap();
    let writer = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        for n in 1..100 {
            let batch = note(&format!("{n}"), "v").and(note(&format!("{n} too"), "v"));
            writer.commit(batch).await.unwrap();
        }
    });
    let to = elsewhere.path().join("usher.db");
    backup::backup(data.path(), &to).unwrap();
    writing.await.unwrap();
    assert!(
        matches!(backup::backup(data.path(), &to), Err(OpenError::Io { .. })),
        "it overwrote a backup"
    );
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    store.close().await.unwrap();

    // A backup is a data directory's file: put in place, it is opened like any other.
    let copy = open(&elsewhere);
    let count = copy.count(&NOTES, 1).await.unwrap();
    assert!(count % 2 == 1 && count <= 199, "{count} rows: half a batch");
    copy.close().await.unwrap();
}

fn open(data: &TempDir) -> SharedStore {
    sqlite(data.path()).unwrap()
}

fn note(key: &str, value: &str) -> Batch {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Batch::new().put(&NOTES, 1, copy(key), copy(value))
}

fn files(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(name).map(|n| n.into_string().unwrap()).collect();
    names.sort();
    names
}
