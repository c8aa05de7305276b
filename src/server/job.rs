//! Long work under way, for those who want to see how far it is, hold it, or call it off.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{clock::Millis, pace::Control};

/// One piece of long work.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number, from 1 since the server started.
    pub id: u64,
    /// The command that began it.
    pub what: String,
    /// Who called it.
    pub by: Arc<str>,
    /// When it began.
    pub since: Millis,
    /// Steps in all.
    pub total: u64,
    /// Steps done.
    pub done: Arc<AtomicU64>,
    /// Holds it, lets it go on, calls it off.
    pub control: Control,
}

/// All of them, by number.
#[derive(Default)]
pub struct Jobs {
    last: AtomicU64,
    all: Mutex<BTreeMap<u64, Job>>,
}

/// A job that is in the list for as long as this lives.
pub struct Listed {
    jobs: Arc<crate::Server>,
    /// The job.
    pub job: Job,
}

impl Jobs {
    /// Those under way, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Job> {
        self.all.lock().values().cloned().collect()
    }

    /// The one with this number, while it is under way.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Job> {
        self.all.lock().get(&id).cloned()
    }
}

impl crate::Server {
    /// Lists a piece of work that begins now.
    pub(crate) fn begin(self: &Arc<Self>, what: &str, by: Arc<str>, total: u64) -> Listed {
        let job = Job {
            id: self.jobs.last.fetch_add(1, Ordering::Relaxed) + 1,
            what: what.into(),
            by,
            since: self.clock.now(),
            total,
            done: Arc::default(),
            control: Control::default(),
        };
        self.jobs.all.lock().insert(job.id, job.clone());
        Listed { jobs: self.clone(), job }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.jobs.jobs.all.lock().remove(&self.job.id);
    }
}
