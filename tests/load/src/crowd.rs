//! Many sessions at once: bounded-parallel logins and the tasks that run them.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use tokio::{sync::watch, task::JoinSet};

use crate::{client::Client, target::Target};

/// What to do with each session after bind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Fetch the roster.
    pub roster: bool,
    /// Send initial presence.
    pub available: bool,
    /// Turn stream management on, for a stream that can be resumed.
    pub managed: bool,
}

/// Logs in sessions `0..count`, `concurrency` at a time; session n belongs to account
/// n mod `users`. Sessions come back in order. The first failure ends it.
pub async fn log_in(
    target: &Arc<Target>,
    count: u32,
    users: u32,
    concurrency: u32,
    manner: Manner,
) -> Result<Vec<Client>> {
    let sessions: Arc<Mutex<Vec<Option<Client>>>> =
        Arc::new(Mutex::new((0..count).map(|_| None).collect()));
    each(count, concurrency, |index| {
        let (target, sessions) = (target.clone(), sessions.clone());
        async move {
            let entered = enter(&target, index, users, manner).await;
            let client = entered.with_context(|| format!("session {index} of {count}"))?;
            lock(&sessions)[index as usize] = Some(client);
            Ok(())
        }
    })
    .await?;
    let mut sessions = lock(&sessions);
    Ok(std::mem::take(&mut *sessions).into_iter().flatten().collect())
}

/// Ends all sessions, `concurrency` at a time, and says how many the server did not end in turn.
pub async fn log_out(clients: Vec<Client>, concurrency: u32) -> u32 {
    let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    let clients = Arc::new(Mutex::new(clients));
    let failed = Arc::new(Mutex::new(0));
    let ended = each(count, concurrency, |_| {
        let (clients, failed) = (clients.clone(), failed.clone());
        async move {
            let client = lock(&clients).pop();
            if let Some(client) = client
                && client.close().await.is_err()
            {
                *lock(&failed) += 1;
            }
            Ok(())
        }
    });
    let _ = ended.await;
    *lock(&failed)
}

/// Runs `work` for each of `0..count`, `concurrency` at a time, up to the first failure.
pub async fn each<F, W>(count: u32, concurrency: u32, work: W) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
    W: Fn(u32) -> F,
{
    let mut running = JoinSet::new();
    for index in 0..count {
        if index >= concurrency
            && let Some(done) = running.join_next().await
        {
            done??;
        }
        running.spawn(work(index));
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// Completes when the run is told to stop, or is gone.
pub async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A lock that a panicked task does not spoil.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

async fn enter(target: &Target, index: u32, users: u32, manner: Manner) -> Result<Client> {
    let mut client = Client::log_in(target, index % users, &format!("load-{index}")).await?;
    if manner.managed {
        client.manage().await?;
    }
    if manner.roster {
        client.fetch_roster().await?;
    }
    if manner.available {
        client.become_available().await?;
    }
    if manner.managed {
        client.acknowledge().await?;
    }
    Ok(client)
}
