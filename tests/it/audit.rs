//! The audit's chain: what was written is found to be what is there, and anything else is found out.

use std::sync::Arc;

use serde_json::{Map, Value};
use server::{
    Server,
    audit::{AUDIT, AuditError, Entry},
    clock::{Clock, Millis},
    config::Config,
    keyring::KeyRing,
    store::{Batch, Range, Row, SERVER},
};

use crate::world::START;

/// More than are read at a time.
const MANY: usize = 503;

fn entry(outcome: &str) -> Entry {
    let args = Map::from_iter([("jid".to_owned(), Value::from("a}@b\",\"link\":\"x"))]);
    Entry {
        at: Millis(1),
        who: "uid:0".into(),
        what: "test".into(),
        args,
        ok: true,
        outcome: outcome.into(),
        accounts: Vec::new(),
    }
}

async fn server(entries: usize) -> Arc<Server> {
    let (store, clock) = (store::memory(), Clock::manual(START));
    let server = Server::new(Config::default(), clock, store, KeyRing::ephemeral(), &[]);
    let server = server.expect("is put together");
    for number in 0..entries {
        server.audit(&entry(&format!("outcome {number}}}"))).await.expect("is written");
    }
    server
}

async fn rows(server: &Server) -> Vec<Row> {
    server.store.rows(&AUDIT, SERVER, Range::all()).await.expect("is read")
}

#[tokio::test]
async fn b_19_an_untouched_audit_verifies_and_reads_as_it_was_written() {
    let server = server(MANY).await;
    assert_eq!(server.verify_audit().await.map(|head| head.count), Ok(MANY as u64));
    let tail = server.audit_tail(1).await.expect("is read");
    assert_eq!(tail[0].outcome, format!("outcome {}}}", MANY - 1));
    assert_eq!(self::server(0).await.verify_audit().await.map(|head| head.count), Ok(0));
}

#[tokio::test]
async fn b_19_whatever_is_changed_removed_or_inserted_is_found_at_its_place() {
    type Tamper = fn(&[Row]) -> Batch;
    let cases: [(Tamper, u64); 4] = [
        (
            |rows| {
                let text = String::from_utf8_lossy(&rows[1].value).replace("outcome 1", "nothing");
                Batch::new().put(&AUDIT, SERVER, rows[1].key.clone(), text)
            },
            2,
        ),
        (|rows| Batch::new().delete(&AUDIT, SERVER, rows[2].key.clone()), 3),
        (
            |rows| {
                let mut key = rows[3].key.to_vec();
                key.push(0);
                Batch::new().put(&AUDIT, SERVER, key, rows[3].value.clone())
            },
            5,
        ),
        (|rows| Batch::new().put(&AUDIT, SERVER, rows[0].key.clone(), "no entry"), 1),
    ];
    for (tamper, place) in cases {
        let server = server(5).await;
        let batch = tamper(&rows(&server).await);
        server.store.commit(batch).await.expect("is written");
        match server.verify_audit().await {
            Err(AuditError::Broken { number, .. }) => assert_eq!(number, place),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn b_19_an_end_that_was_cut_off_is_missed() {
    let server = server(5).await;
    let last = rows(&server).await.pop().expect("is there");
    server.store.commit(Batch::new().delete(&AUDIT, SERVER, last.key)).await.expect("done");
    assert_eq!(server.verify_audit().await, Err(AuditError::CutOff { missing: 1 }));
}

#[tokio::test]
async fn b_19_entries_that_are_written_side_by_side_make_one_chain() {
    let server = server(0).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50 {
        let server = server.clone();
        tasks.spawn(async move { server.audit(&entry(&number.to_string())).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic").expect("is written");
    }
    assert_eq!(server.verify_audit().await.map(|head| head.count), Ok(50));
}
