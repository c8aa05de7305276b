//! `load restart`: sessions wait for their clients, each with a message, while the server is stopped
//! and started again; then all come back. Nothing may be lost or doubled.
//!
//! Downtime runs from the signal: to the first login that is accepted, and to the last session that is
//! back. A client logs in over and over from the signal on, so that the first is found at once; it has
//! seen the end of its own stream before it begins, so that no answer is the old server's.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use tokio::time::sleep;

use crate::{
    client::Client,
    latency::Latency,
    process::Process,
    report::{Report, Unit},
    storm::{Herd, HerdOptions, Meter},
    target::{self, Target},
    usher::Usher,
};

/// How long nobody may be let in.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);

/// Options of `load restart`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server program to start
    #[arg(long, value_name = "PROGRAM")]
    pub usher: PathBuf,
    #[command(flatten)]
    pub herd: HerdOptions,
    /// Stop it and start it anew, or let it start in place
    #[arg(long, default_value = "term")]
    pub how: How,
}

/// How the server is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// SIGTERM, and a new process once it is gone.
    Term,
    /// SIGUSR2: the same process, with its listening sockets open.
    Usr2,
}

/// Runs and reports; a message lost or doubled, or a session that does not come back, is a fault.
pub async fn run(options: &target::Options, restart: &Options) -> Result<Report> {
    let mut usher = Usher::start(&restart.usher, options.proxied).await?;
    let ran = tokio::select! {
        ran = attempt(&mut usher, options, restart) => ran,
        () = crate::plan::interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    let stopped = usher.stop().await;
    let report = ran?;
    stopped?;
    Ok(report)
}

async fn attempt(
    usher: &mut Usher,
    options: &target::Options,
    restart: &Options,
) -> Result<Report> {
    let sessions = restart.herd.sessions;
    let before = usher.target(options, restart.herd.users()).await?;
    let herd = Herd::gather(&before, &restart.herd).await?;
    let idle = before.process.as_ref().map(Process::memory).transpose()?;
    herd.scatter()?;
    herd.write_to_all(&before, 1).await?;
    sleep(Duration::from_secs(2)).await;

    let witness = Client::log_in(&before, sessions, "load-witness").await?;
    let started = Instant::now();
    let witness = tokio::spawn(async move {
        // A stopping server says why it ends a stream, which is an error to others.
        let mut whole = witness;
        let _ = whole.reader.end().await;
        started.elapsed()
    });
    let stopped = match restart.how {
        How::Term => Some(usher.restart().await?),
        How::Usr2 => {
            usher.signal("USR2")?;
            None
        }
    };
    let ended = witness.await?;
    let after = match restart.how {
        How::Term => Arc::new(before.again(usher.pid())?),
        How::Usr2 => before.clone(),
    };
    let first = first_login(&after, sessions).await?;
    let down = started.elapsed();

    let mut report = Report::new(format!("restart with {sessions} sessions that wait"));
    report.figure("sessions", f64::from(sessions), Unit::Count);
    if let Some(stopped) = stopped {
        report.micros("until_the_process_ended", stopped);
    }
    report.micros("until_the_last_stream_ended", ended);
    report.micros("until_the_first_login", down);
    let meter = Meter::read(&after)?;
    let back = Arc::new(Latency::default());
    herd.regather(&after, 1, &back).await?;
    report.micros("until_the_last_was_back", started.elapsed());
    meter.report(&after, sessions, &mut report, "coming_back")?;
    report.latency("until_back", &back);
    herd.verdict(1, &mut report).await?;
    if let (Some(idle), Some(process)) = (idle, &after.process) {
        report.figure("resident_idle", idle.resident as f64, Unit::Bytes);
        report.figure("resident_at_most_afterwards", process.peak()? as f64, Unit::Bytes);
    }
    first.close().await.context("the first that was let in was lost")?;
    herd.dismiss().await?;
    Ok(report)
}

/// Tries until somebody is let in.
async fn first_login(target: &Target, index: u32) -> Result<Client> {
    let begun = Instant::now();
    loop {
        match Client::log_in(target, index, "load-first").await {
            Ok(client) => return Ok(client),
            Err(error) => {
                ensure!(begun.elapsed() < PATIENCE, "nobody is let in any more: {error:#}");
                sleep(PAUSE).await;
            }
        }
    }
}
