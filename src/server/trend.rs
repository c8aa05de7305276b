//! What the server was like over time: a few numbers, taken now and then, of the last day. They are in
//! memory only and gone when the server stops; whoever wants more of them, and for longer, reads
//! [`metrics`](crate::metrics).

use std::{collections::VecDeque, fs, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{Server, clock::Millis, registry::Counts};

/// How often they are taken.
pub const PERIOD: Duration = Duration::from_secs(30);
/// How many are kept: a day.
const KEPT: usize = 2_880;

/// The numbers of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When.
    pub at: Millis,
    /// Sessions that were there.
    pub sessions: Counts,
    /// Logins since the server was started.
    pub logins: u64,
    /// Logins that were refused since then.
    pub refused: u64,
    /// Sessions that had logged in and have ended since then.
    pub ends: u64,
    /// Bytes of memory that the process had; 0: the system does not tell.
    pub memory: u64,
}

/// The samples that are kept, oldest first.
#[derive(Default)]
pub struct Trend {
    samples: Mutex<VecDeque<Sample>>,
}

impl Trend {
    /// Those that were taken at this time or later, oldest first.
    #[must_use]
    pub fn since(&self, begin: Millis) -> Vec<Sample> {
        self.samples.lock().iter().filter(|sample| sample.at >= begin).copied().collect()
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.samples.lock();
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }
}

impl Server {
    /// Takes the numbers of this moment.
    pub fn take_sample(&self) {
        let totals = self.metrics.totals();
        self.trend.add(Sample {
            at: self.clock.now(),
            sessions: self.registry.counts(),
            logins: totals.logins,
            refused: totals.refused,
            ends: totals.ends,
            memory: resident().unwrap_or(0),
        });
    }

    /// Takes them from time to time, for as long as the server is there.
    pub async fn sample_forever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stopping() {
            ticks.tick().await;
            self.take_sample();
        }
    }
}

/// Memory of this process that is in use, in bytes, as Linux tells it (proc_pid_status(5)).
fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64) -> Sample {
        let sessions = Counts::default();
        Sample { at: Millis(at), sessions, logins: 0, refused: 0, ends: 0, memory: 0 }
    }

    #[test]
    fn a_day_is_kept_and_no_more() {
        let trend = Trend::default();
        for at in 0..KEPT as u64 + 10 {
            trend.add(sample(at));
        }
        let all = trend.since(Millis(0));
        assert_eq!((all.len(), all[0].at), (KEPT, Millis(10)));
        assert_eq!(trend.since(Millis(KEPT as u64)).len(), 10);
    }

    #[test]
    fn a_process_has_some_memory() {
        assert!(resident().is_none_or(|bytes| bytes > 1 << 20));
    }
}
