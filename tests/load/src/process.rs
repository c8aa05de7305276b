//! What the server's process has used, read from `/proc` (Linux).
//!
//! The generator shares the machine with the server, so wall time says little and the server's own
//! processor time says much. It counts what the kernel charges to the process: its system calls
//! are in it, and so is most of the loopback's work in the sender's context; an interrupt that the
//! kernel charges to nobody is not.

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

/// `USER_HZ`: the unit of `/proc/PID/stat` on every Linux of ours.
const TICKS_PER_SECOND: u64 = 100;

/// A process that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pid: u32,
}

/// Processor time at one moment.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// Nanoseconds by thread: fine, but silent about threads that are gone.
    threads: HashMap<u32, u64>,
    /// User and system time of all threads, gone ones too, in ticks.
    ticks: u64,
}

/// Memory at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident, shared pages and the program itself included.
    pub resident: u64,
    /// Resident and not from a file: heap and stacks. 0 where the kernel does not say.
    pub anonymous: u64,
}

impl Process {
    /// Fails with a hint when there is no such process or it may not be read.
    pub fn new(pid: u32) -> Result<Self> {
        let process = Self { pid };
        process.cpu().and_then(|_| process.memory()).with_context(|| {
            format!("cannot watch process {pid}; hint: `--pid` is the server's, of the same user")
        })?;
        Ok(process)
    }

    /// The generator itself.
    pub fn own() -> Self {
        Self { pid: std::process::id() }
    }

    /// Processor time so far.
    pub fn cpu(&self) -> Result<Cpu> {
        let mut threads = HashMap::new();
        for entry in fs::read_dir(self.path("task"))? {
            let entry = entry?;
            let thread = entry.file_name().to_string_lossy().parse();
            // A thread may end between the listing and the reading.
            let line = fs::read_to_string(entry.path().join("schedstat"));
            if let (Ok(thread), Ok(line)) = (thread, line) {
                threads.insert(thread, schedstat(&line).unwrap_or(0));
            }
        }
        let stat = fs::read_to_string(self.path("stat"))?;
        let ticks = ticks(&stat).context("`/proc/PID/stat` has an unknown form")?;
        Ok(Cpu { threads, ticks })
    }

    /// Memory now.
    pub fn memory(&self) -> Result<Memory> {
        if let Ok(rollup) = fs::read_to_string(self.path("smaps_rollup")) {
            let field = |name| kibibytes(&rollup, name).map(|value| value * 1024);
            if let Some(resident) = field("Rss:") {
                return Ok(Memory { resident, anonymous: field("Anonymous:").unwrap_or(0) });
            }
        }
        let status = fs::read_to_string(self.path("status"))?;
        let resident = kibibytes(&status, "VmRSS:").context("the process has no memory")? * 1024;
        let anonymous = kibibytes(&status, "RssAnon:").unwrap_or(0) * 1024;
        Ok(Memory { resident, anonymous })
    }

    /// The most memory that was resident since it was last [forgotten](Self::forget_peak).
    pub fn peak(&self) -> Result<u64> {
        let status = fs::read_to_string(self.path("status"))?;
        Ok(kibibytes(&status, "VmHWM:").context("the process has no memory")? * 1024)
    }

    /// Forgets how much memory was resident until now.
    pub fn forget_peak(&self) -> Result<()> {
        fs::write(self.path("clear_refs"), "5").context("cannot reset the peak of its memory")
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

impl Cpu {
    /// Time spent from `self` to `later`: to the nanosecond from the threads, unless threads have
    /// ended meanwhile and took theirs along; then from the ticks, to 10 ms.
    pub fn until(&self, later: &Self) -> Duration {
        let fine = later.threads.iter().map(|(thread, nanos)| {
            nanos.saturating_sub(self.threads.get(thread).copied().unwrap_or(0))
        });
        let fine = Duration::from_nanos(fine.sum());
        let tick = Duration::from_millis(1000 / TICKS_PER_SECOND);
        let coarse =
            tick * u32::try_from(later.ticks.saturating_sub(self.ticks)).unwrap_or(u32::MAX);
        if coarse > fine + 2 * tick + fine / 50 { coarse } else { fine }
    }

    /// Time that one thread spent from `self` to `later`.
    pub fn thread_until(&self, later: &Self, thread: u32) -> Duration {
        let spent = |cpu: &Self| cpu.threads.get(&thread).copied().unwrap_or(0);
        Duration::from_nanos(spent(later).saturating_sub(spent(self)))
    }
}

/// Nanoseconds on a processor: the first field.
fn schedstat(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// `utime` + `stime`: fields 14 and 15, counted from behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 70 5 9 9 20 0 1 0 1 1 1";
        assert_eq!(ticks(stat), Some(75));
    }

    #[test]
    fn time_of_threads_that_ended_is_taken_from_the_ticks() {
        let before = Cpu { threads: HashMap::from([(1, 1_000), (2, 500_000_000)]), ticks: 50 };
        let gone = Cpu { threads: HashMap::from([(1, 2_000)]), ticks: 150 };
        assert_eq!(before.until(&gone), Duration::from_secs(1));
        let alive = Cpu { threads: HashMap::from([(1, 9_000), (2, 500_000_000)]), ticks: 51 };
        assert_eq!(before.until(&alive), Duration::from_nanos(8_000));
    }

    #[test]
    fn a_thread_that_began_meanwhile_is_counted_whole() {
        let later = Cpu { threads: HashMap::from([(1, 5), (3, 70)]), ticks: 0 };
        let before = Cpu { threads: HashMap::from([(1, 5)]), ticks: 0 };
        assert_eq!(before.until(&later), Duration::from_nanos(70));
    }

    #[test]
    fn this_process_can_be_watched() {
        let own = Process::new(std::process::id()).unwrap();
        let before = own.cpu().unwrap();
        let mut sum = 0u64;
        while before.until(&own.cpu().unwrap()) < Duration::from_millis(5) {
            sum = (0..10_000).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        assert!(own.memory().unwrap().resident > 100_000);
        assert!(Process::new(u32::MAX).is_err());
    }
}
