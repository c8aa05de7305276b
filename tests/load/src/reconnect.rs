//! `load reconnect`: clients come back over and over, each when its last visit is over.
//!
//! With `--proxied` they come with a token and say all at once (SASL 2, FAST, Bind 2, and stream
//! management unless `--plain`): one round trip. Without it they log in as they always did. With
//! `--resume` they go on with a stream that was cut; what is measured then has the cutting in it.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use tokio::task::JoinSet;

use crate::{
    client::Client,
    latency::Latency,
    process::Process,
    report::{Report, Unit},
    returning::{Errand, Pass, Ticket},
    target::Target,
};

/// Options of `load reconnect`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server program to start; without it a running server is loaded, see `--against`
    #[arg(long, value_name = "PROGRAM")]
    pub usher: Option<PathBuf>,
    /// Returns to measure
    #[arg(long, default_value_t = 5000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// Clients that come back at any time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub concurrency: u32,
    /// Accounts, of one client each
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub users: u32,
    /// Go on with the earlier stream
    #[arg(long)]
    pub resume: bool,
    /// No stream management
    #[arg(long, conflicts_with = "resume")]
    pub plain: bool,
}

/// Runs and reports; a client that does not come back is a fault.
pub async fn run(target: Arc<Target>, options: &Options) -> Result<Report> {
    let Options { count, concurrency, users, resume, plain, .. } = *options;
    let users = users.min(count);
    let concurrency = concurrency.min(users);
    let mut crews = JoinSet::new();
    for first in 0..concurrency {
        let target = target.clone();
        crews.spawn(async move {
            let mut crew = Vec::new();
            for index in (first..users).step_by(concurrency as usize) {
                let member = Member::first(&target, index, resume, plain).await;
                let mut member = member.with_context(|| format!("client {index}"))?;
                // As it will be from now on, before the clock starts.
                member.again(&target).await?.part(resume).await?;
                crew.push(member);
            }
            Ok::<_, anyhow::Error>(crew)
        });
    }
    let crews = crews.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;

    let back = Arc::new(Latency::default());
    let cpu = target.process.as_ref().map(Process::cpu).transpose()?;
    let own = Process::own().cpu()?;
    let started = Instant::now();
    let mut working = JoinSet::new();
    for (number, mut crew) in (0..).zip(crews) {
        let (target, back) = (target.clone(), back.clone());
        let turns = count / concurrency + u32::from(number < count % concurrency);
        working.spawn(async move {
            let many = crew.len();
            for turn in 0..turns as usize {
                let begun = Instant::now();
                let client = crew[turn % many].again(&target).await?;
                back.record(begun.elapsed());
                client.part(resume).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    let ended = working.join_all().await;
    let took = started.elapsed();

    let done = back.count();
    let how = match (target.proxied, resume) {
        (true, false) => "with tokens",
        (true, true) => "to streams with tokens",
        (false, false) => "with passwords",
        (false, true) => "to streams with passwords",
    };
    let mut report = Report::new(format!("reconnect {how}"));
    report.figure("reconnects", done as f64, Unit::Count);
    report.figure("concurrency", f64::from(concurrency), Unit::Count);
    report.figure("rate", done as f64 / took.as_secs_f64(), Unit::PerSecond);
    report.latency("until_back", &back);
    let each = |used: Duration| used.div_f64(done.max(1) as f64);
    if let (Some(process), Some(before)) = (target.process, cpu) {
        let used = before.until(&process.cpu()?);
        report.micros("server_cpu_per_reconnect", each(used));
    }
    let used = own.until(&Process::own().cpu()?);
    report.micros("generator_cpu_per_reconnect", each(used));
    let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    if let Some(first) = failed.first() {
        report.fault(format!("{} of the crews broke off; the first: {first:#}", failed.len()));
    }
    Ok(report)
}

/// A client that was here before.
pub struct Member {
    index: u32,
    /// None: it has but its password.
    pass: Option<Pass>,
    /// None: it wants a session of its own.
    ticket: Option<Ticket>,
    plain: bool,
}

impl Member {
    /// Comes for the first time.
    async fn first(target: &Target, index: u32, resume: bool, plain: bool) -> Result<Self> {
        let (client, mut member) = Self::enter(target, index, index, !plain).await?;
        match resume {
            true => {
                member.ticket = Some(client.ticket()?);
                client.cut()?;
            }
            false => client.close().await?,
        }
        member.plain = plain;
        Ok(member)
    }

    /// A first login of `index`, as session `number`.
    pub async fn enter(
        target: &Target,
        index: u32,
        number: u32,
        managed: bool,
    ) -> Result<(Client, Self)> {
        let (client, pass) = if target.proxied {
            let (client, pass) = Client::enlist(target, index, managed).await?;
            (client, Some(pass))
        } else {
            let mut client = Client::log_in(target, index, &format!("load-{number}")).await?;
            if managed {
                client.manage().await.context("no stream management")?;
            }
            (client, None)
        };
        Ok((client, Self { index, pass, ticket: None, plain: !managed }))
    }

    /// Notes what resumes the stream of its session, which is cut.
    pub fn cut(&mut self, client: Client) -> Result<()> {
        self.ticket = Some(client.ticket()?);
        client.cut()
    }

    /// Comes back.
    pub async fn again(&mut self, target: &Target) -> Result<Client> {
        let index = self.index;
        match (&mut self.pass, &self.ticket) {
            (Some(pass), None) => {
                let errand = Errand::Bind { managed: !self.plain };
                Client::come_back(target, index, pass, errand).await
            }
            (Some(pass), Some(ticket)) => {
                Client::come_back(target, index, pass, Errand::Resume(ticket)).await
            }
            (None, Some(ticket)) => Client::resume(target, index, ticket).await,
            (None, None) => {
                let mut client = Client::log_in(target, index, &format!("load-{index}")).await?;
                if !self.plain {
                    client.manage().await?;
                }
                Ok(client)
            }
        }
    }
}

impl Client {
    /// Goes: for good, or so that it can come back to its stream.
    async fn part(self, resume: bool) -> Result<()> {
        if resume { self.cut() } else { self.close().await }
    }
}
