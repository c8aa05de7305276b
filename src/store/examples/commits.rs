//! How many commits and reads a second SQLite gives on a disk:
//! `cargo run -p store --example commits [DIRECTORY]`.
//!
//! A commit writes one row of 200 bytes and is acknowledged after its fsync; what grows with the
//! number of tasks is the effect of group commit. The numbers are of this disk: compare them with
//! those of the same disk.

use std::{path::PathBuf, sync::Arc, time::Instant};

use server::store::{Batch, SharedStore, Table};
use tokio::task::JoinSet;

static ROWS: Table = Table { name: "rows", about: "rows to measure with" };

/// Tasks at once, and how often each asks.
const ROUNDS: [(u64, u32); 4] = [(1, 1_000), (10, 500), (100, 200), (1_000, 40)];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let data = tempfile::tempdir_in(parent)?;
    let store = store::sqlite(data.path())?;
    println!("{:>6} {:>12} {:>12}", "tasks", "commits/s", "reads/s");
    for (tasks, each) in ROUNDS {
        let commits = rate(&store, tasks, each, |store, task, n| {
            let batch = Batch::new().put(&ROWS, task, n.to_be_bytes().to_vec(), vec![7; 200]);
            store.commit(batch)
        });
        let commits = commits.await?;
        let reads = rate(&store, tasks, each * 5, move |store, task, n| {
            let row = store.get(&ROWS, task, &(n % each).to_be_bytes());
            Box::pin(async move { row.await.map(|row| assert!(row.is_some())) })
        });
        println!("{tasks:>6} {commits:>12.0} {:>12.0}", reads.await?);
    }
    store.close().await?;
    Ok(())
}

async fn rate(
    store: &SharedStore,
    tasks: u64,
    each: u32,
    ask: impl Fn(&SharedStore, u64, u32) -> server::store::Fetch<()> + Copy + Send + 'static,
) -> Result<f64, Box<dyn std::error::Error>> {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for task in 0..tasks {
        let store = Arc::clone(store);
        running.spawn(async move {
            for n in 0..each {
                ask(&store, task, n).await?;
            }
            Ok::<_, server::store::StoreError>(())
        });
    }
    while let Some(task) = running.join_next().await {
        task??;
    }
    let asked = (tasks * u64::from(each)) as f64;
    Ok(asked / started.elapsed().as_secs_f64())
}
