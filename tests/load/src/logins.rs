//! `load logins`: connect, SASL, bind, close, over and over.
//!
//! Every account logs in once before the clock starts, so that deriving client keys, the
//! generator's own hashing, is not measured.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use anyhow::Result;
use clap::Args;

use crate::{
    client::Client,
    crowd::{each, lock},
    latency::Latency,
    process::Process,
    report::{Report, Unit},
    target::{Mechanism, Target},
};

/// Options of `load logins`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Logins to measure
    #[arg(long, default_value_t = 5000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// Logins under way at any time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub concurrency: u32,
    /// Accounts that log in, in turn
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub users: u32,
}

/// Runs and reports; a refused or broken login is a fault, not an error.
pub async fn run(target: &Arc<Target>, options: &Options) -> Result<Report> {
    let Options { count, concurrency, users } = *options;
    let users = users.min(count);
    let users = match target.mechanism {
        Mechanism::OauthBearer => users.min(target.tokens()).max(1),
        Mechanism::Plain | Mechanism::ScramSha256 => users,
    };
    let warm = target.clone();
    each(users, concurrency, move |index| {
        let target = warm.clone();
        async move { Client::log_in(&target, index, "load-warm").await?.close().await }
    })
    .await?;

    let (ready, whole) = (Arc::new(Latency::default()), Arc::new(Latency::default()));
    let failed = Arc::new(AtomicU64::new(0));
    let first_failure = Arc::new(Mutex::new(None));
    let cpu = target.process.as_ref().map(Process::cpu).transpose()?;
    let own = Process::own().cpu()?;
    let started = Instant::now();
    each(count, concurrency, |index| {
        let (target, ready, whole) = (target.clone(), ready.clone(), whole.clone());
        let (failed, first_failure) = (failed.clone(), first_failure.clone());
        async move {
            if let Err(error) = one(&target, index, users, &ready, &whole).await {
                failed.fetch_add(1, Relaxed);
                lock(&first_failure).get_or_insert_with(|| format!("{error:#}"));
            }
            Ok(())
        }
    })
    .await?;
    let took = started.elapsed();

    let done = ready.count();
    let mut report = Report::new(format!("logins by {}", target.mechanism));
    report.figure("logins", done as f64, Unit::Count);
    report.figure("concurrency", f64::from(concurrency), Unit::Count);
    report.figure("rate", done as f64 / took.as_secs_f64(), Unit::PerSecond);
    report.latency("until_bound", &ready);
    report.micros("until_closed_p50", whole.percentile(50.0));
    if let (Some(process), Some(before)) = (target.process, cpu) {
        let used = before.until(&process.cpu()?);
        report.micros("server_cpu_per_login", used.div_f64(done.max(1) as f64));
    }
    let used = own.until(&Process::own().cpu()?);
    report.micros("generator_cpu_per_login", used.div_f64(done.max(1) as f64));
    if let Some(failure) = lock(&first_failure).take() {
        report.fault(format!("{} logins failed; the first: {failure}", failed.load(Relaxed)));
    }
    Ok(report)
}

async fn one(
    target: &Target,
    index: u32,
    users: u32,
    ready: &Latency,
    whole: &Latency,
) -> Result<()> {
    let started = Instant::now();
    let client = Client::log_in(target, index % users, &format!("load-{}", index % users)).await?;
    ready.record(started.elapsed());
    client.close().await?;
    whole.record(started.elapsed());
    Ok(())
}
