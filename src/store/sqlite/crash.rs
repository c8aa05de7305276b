//! `kill -9` in the middle of commits: whatever was acknowledged is there afterwards.
//!
//! The test runs itself as a child process that commits numbered rows from several tasks and writes
//! down each number once its commit is acknowledged. The parent kills it at a random point. This
//! shows what a dead process leaves behind; that the disk keeps it through a power cut rests on
//! `synchronous=FULL`, which `tests.rs` checks.

use std::{
    collections::BTreeSet,
    env,
    hash::{BuildHasher as _, RandomState},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rusqlite::Connection;
use server::store::{Batch, Range, Table};

use crate::sqlite;

static NUMBERS: Table = Table { name: "numbers", about: "a test" };
static PAIRS: Table = Table { name: "pairs", about: "a test" };

/// Where the child finds its data directory; only the child has it set.
const CHILD: &str = "USHER_TEST_STORE_CRASH";
const NAME: &str = "sqlite::crash::acknowledged_commits_survive_kill_9";
const ROUNDS: usize = 8;
const TASKS: u64 = 6;

#[test]
fn acknowledged_commits_survive_kill_9() {
    if let Some(data) = env::var_os(CHILD) {
        return commit_until_killed(&PathBuf::from(data));
    }
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let wanted = usize::try_from(RandomState::new().hash_one(round) % 300).unwrap();
        let seen = run_and_kill(data.path(), wanted);
        acknowledged.extend(seen);
        check(data.path(), &acknowledged, &format!("round {round}, killed after {wanted}"));
    }
    assert!(!acknowledged.is_empty(), "nothing was ever acknowledged");
}

/// Numbers that the child wrote down before it died.
fn run_and_kill(data: &Path, wanted: usize) -> Vec<u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CHILD, data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The test harness may have begun the first line.
    let number = |line: std::io::Result<String>| line.ok()?.rsplit_once("ack ")?.1.parse().ok();
    let mut seen: Vec<u64> = lines.by_ref().filter_map(number).take(wanted).collect();
    assert_eq!(seen.len(), wanted, "the child ended by itself");
    child.kill().unwrap();
    // Written before the kill and not read yet. A short write to a pipe is whole or not there.
    seen.extend(lines.filter_map(number));
    child.wait().unwrap();
    seen
}

fn check(data: &Path, acknowledged: &BTreeSet<u64>, when: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = sqlite(data).unwrap();
        let mut numbers = BTreeSet::new();
        for task in 0..TASKS {
            let rows = store.rows(&NUMBERS, task, Range::all()).await.unwrap();
            let pairs = store.rows(&PAIRS, task, Range::all()).await.unwrap();
            assert_eq!(rows, pairs, "{when}: half a batch");
            numbers.extend(rows.iter().map(|row| number(&row.key)));
        }
        let lost: Vec<_> = acknowledged.difference(&numbers).collect();
        assert!(lost.is_empty(), "{when}: lost {lost:?}");
        store.close().await.unwrap();
    });
    let db = Connection::open(data.join("usher.db")).unwrap();
    let verdict: String = db.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok", "{when}");
}

fn commit_until_killed(data: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = sqlite(data).unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let last = Range { reverse: true, limit: 1, ..Range::all() };
                let last = store.rows(&NUMBERS, task, last).await.unwrap();
                let mut n = last.first().map_or(task, |row| number(&row.key) + TASKS);
                loop {
                    let key = n.to_be_bytes();
                    let value = vec![n as u8; 700];
                    let batch = Batch::new().put(&NUMBERS, task, key.to_vec(), value.clone());
                    store.commit(batch.put(&PAIRS, task, key.to_vec(), value)).await.unwrap();
                    // One write to the pipe, so that lines of several tasks do not mix.
                    std::io::stdout().write_all(format!("ack {n}\n").as_bytes()).unwrap();
                    n += TASKS;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    });
}

fn number(key: &[u8]) -> u64 {
    u64::from_be_bytes(key.try_into().unwrap())
}
