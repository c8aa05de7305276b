//! `load storm`: many sessions lose their connections at the same instant, a message is sent to each,
//! and all come back to their streams. Each has to get its message once, in the round it is of.
//!
//! Only the coming back is measured. With `--proxied` clients come with tokens, in one round trip;
//! without, with their passwords.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::time::sleep;

use crate::{
    client::Client,
    crowd::{each, lock},
    framing::attribute,
    latency::Latency,
    process::{Cpu, Process},
    reconnect::Member,
    report::{Report, Unit},
    target::Target,
};
use std::sync::Mutex;

/// How long the server may take to notice something that it is not asked about.
const SETTLE: Duration = Duration::from_secs(2);

/// Options of `load storm`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server program to start; without it a running server is loaded, see `--against`
    #[arg(long, value_name = "PROGRAM")]
    pub usher: Option<PathBuf>,
    #[command(flatten)]
    pub herd: HerdOptions,
    /// How often they are cut
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: u32,
}

/// Many sessions whose streams can be resumed.
#[derive(Args, Clone, Debug)]
pub struct HerdOptions {
    /// Sessions, each of an account of its own
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub sessions: u32,
    /// Clients that dial at any time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub dials: u32,
}

impl HerdOptions {
    /// How many accounts it takes: one more, for whoever sends the messages.
    pub fn users(&self) -> u32 {
        self.sessions + 1
    }
}

/// Runs and reports; a message lost or doubled, or a session that does not come back, is a fault.
pub async fn run(target: Arc<Target>, options: &Options) -> Result<Report> {
    let sessions = options.herd.sessions;
    let memory = || target.process.as_ref().map(Process::memory).transpose();
    let herd = Herd::gather(&target, &options.herd).await?;
    sleep(SETTLE).await;
    let idle = memory()?;

    let mut report = Report::new(format!("storm of {sessions} sessions"));
    report.figure("sessions", f64::from(sessions), Unit::Count);
    report.figure("dials_at_a_time", f64::from(options.herd.dials), Unit::Count);
    let mut worst = 0;
    for round in 1..=options.rounds {
        herd.scatter()?;
        herd.write_to_all(&target, round).await.context("cannot send what they are to get")?;
        sleep(SETTLE).await;
        if let Some(process) = &target.process {
            process.forget_peak()?;
        }
        let before = Meter::read(&target)?;
        let back = Arc::new(Latency::default());
        herd.regather(&target, round, &back).await?;
        before.report(&target, sessions, &mut report, &format!("round_{round}"))?;
        report.latency(&format!("round_{round}_until_back"), &back);
        if let Some(process) = &target.process {
            worst = worst.max(process.peak()?);
        }
    }
    herd.verdict(options.rounds, &mut report).await?;
    if let Some(idle) = idle {
        report.figure("resident_idle", idle.resident as f64, Unit::Bytes);
        report.figure("resident_at_most", worst as f64, Unit::Bytes);
        let share = worst as f64 / idle.resident as f64 * 100.0;
        report.figure("at_most_of_idle", share, Unit::Percent);
    }
    herd.dismiss().await?;
    Ok(report)
}

/// What server and generator have used by a moment.
pub struct Meter {
    at: Instant,
    server: Option<Cpu>,
    own: Cpu,
}

impl Meter {
    /// Now.
    pub fn read(target: &Target) -> Result<Self> {
        let server = target.process.as_ref().map(Process::cpu).transpose()?;
        Ok(Self { at: Instant::now(), server, own: Process::own().cpu()? })
    }

    /// Reports what was used since, for each of so many.
    pub fn report(
        &self,
        target: &Target,
        many: u32,
        report: &mut Report,
        name: &str,
    ) -> Result<()> {
        let took = self.at.elapsed();
        let each = |used: Duration| used.div_f64(f64::from(many));
        report.figure(format!("{name}_took"), took.as_secs_f64(), Unit::Seconds);
        report.figure(
            format!("{name}_rate"),
            f64::from(many) / took.as_secs_f64(),
            Unit::PerSecond,
        );
        if let (Some(process), Some(before)) = (target.process, &self.server) {
            let used = before.until(&process.cpu()?);
            report.micros(format!("{name}_server_cpu_per_session"), each(used));
        }
        let own = self.own.until(&Process::own().cpu()?);
        report.micros(format!("{name}_generator_cpu_per_session"), each(own));
        let share = own.as_secs_f64() / took.as_secs_f64() * 100.0;
        report.figure(format!("{name}_generator_of_one_core"), share, Unit::Percent);
        Ok(())
    }
}

/// One of the herd.
struct Sheep {
    member: Member,
    /// Its session, while it has a connection.
    client: Option<Client>,
    jid: String,
    /// Messages that came, in any round.
    messages: u32,
}

/// See [`HerdOptions`].
pub struct Herd {
    flock: Arc<Vec<Mutex<Option<Sheep>>>>,
    dials: u32,
    /// Messages that came in another round than they were sent in.
    astray: Arc<AtomicU32>,
}

impl Herd {
    /// Logs all in; each is available and has acknowledged what it was sent.
    pub async fn gather(target: &Arc<Target>, options: &HerdOptions) -> Result<Self> {
        let flock: Vec<_> = (0..options.sessions).map(|_| Mutex::new(None)).collect();
        let flock = Arc::new(flock);
        each(options.sessions, options.dials.min(64), |index| {
            let (target, flock) = (target.clone(), flock.clone());
            async move {
                let entered = Member::enter(&target, index, index, true).await;
                let (mut client, member) = entered.with_context(|| format!("session {index}"))?;
                client.become_available().await?;
                client.acknowledge().await?;
                client.sync().await?;
                let jid = client.jid.clone();
                let sheep = Sheep { member, client: Some(client), jid, messages: 0 };
                *lock(&flock[index as usize]) = Some(sheep);
                Ok(())
            }
        })
        .await?;
        Ok(Self { flock, dials: options.dials, astray: Arc::default() })
    }

    /// Cuts all connections.
    pub fn scatter(&self) -> Result<()> {
        for sheep in self.flock.iter() {
            if let Some(sheep) = &mut *lock(sheep)
                && let Some(client) = sheep.client.take()
            {
                sheep.member.cut(client)?;
            }
        }
        Ok(())
    }

    /// Sends each a message of this round; the server has taken all of them when this returns.
    pub async fn write_to_all(&self, target: &Target, round: u32) -> Result<()> {
        let sender = self.flock.len() as u32;
        let mut sender = Client::log_in(target, sender, "load-sender").await?;
        for (index, sheep) in self.flock.iter().enumerate() {
            let jid = lock(sheep).as_ref().context("a session is missing")?.jid.clone();
            let message = format!(
                "<message to='{jid}' type='chat' id='storm-{round}-{index}'><body>{}</body>\\
                 </message>",
                "x".repeat(64)
            );
            sender.writer.send(message.as_bytes()).await?;
            if index % 100 == 99 {
                sender.sync().await?;
            }
        }
        sender.sync().await?;
        sender.close().await
    }

    /// All come back and hear what waited for them.
    pub async fn regather(
        &self,
        target: &Arc<Target>,
        round: u32,
        back: &Arc<Latency>,
    ) -> Result<()> {
        each(self.flock.len() as u32, self.dials, |index| {
            let (target, flock, back) = (target.clone(), self.flock.clone(), back.clone());
            let astray = self.astray.clone();
            async move {
                let taken = lock(&flock[index as usize]).take();
                let mut sheep = taken.context("a session is missing")?;
                let begun = Instant::now();
                let returned = sheep.member.again(&target).await;
                let mut client = returned.with_context(|| format!("session {index}"))?;
                back.record(begun.elapsed());
                let expected = format!("storm-{round}-{index}");
                client
                    .sync_hearing(|element| {
                        if element.starts_with(b"<message") {
                            sheep.messages += 1;
                            if attribute(element, "id") != Some(&expected) {
                                astray.fetch_add(1, Relaxed);
                            }
                        }
                    })
                    .await?;
                client.acknowledge().await?;
                sheep.client = Some(client);
                *lock(&flock[index as usize]) = Some(sheep);
                Ok(())
            }
        })
        .await
    }

    /// Whether each has got one message in each of so many rounds, and gets no more.
    pub async fn verdict(&self, rounds: u32, report: &mut Report) -> Result<()> {
        let (flock, astray) = (self.flock.clone(), self.astray.clone());
        let (lost, doubled) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (missing, surplus) = (lost.clone(), doubled.clone());
        each(flock.len() as u32, self.dials, move |index| {
            let (flock, missing, surplus) = (flock.clone(), missing.clone(), surplus.clone());
            async move {
                let taken = lock(&flock[index as usize]).take();
                let mut sheep = taken.context("a session is missing")?;
                let client = sheep.client.as_mut().context("a session has no connection")?;
                let mut more = 0;
                client.sync_hearing(|el| more += u32::from(el.starts_with(b"<message"))).await?;
                sheep.messages += more;
                missing.fetch_add(rounds.saturating_sub(sheep.messages), Relaxed);
                surplus.fetch_add(sheep.messages.saturating_sub(rounds), Relaxed);
                *lock(&flock[index as usize]) = Some(sheep);
                Ok(())
            }
        })
        .await?;
        let astray = astray.load(Relaxed);
        for (name, count) in
            [("lost", lost.load(Relaxed)), ("doubled", doubled.load(Relaxed)), ("strayed", astray)]
        {
            report.figure(name, f64::from(count), Unit::Count);
            if count > 0 {
                report.fault(format!("{count} messages were {name}"));
            }
        }
        Ok(())
    }

    /// Ends all sessions.
    pub async fn dismiss(&self) -> Result<()> {
        let flock = self.flock.clone();
        let ended = Arc::new(AtomicU32::new(0));
        let count = ended.clone();
        each(flock.len() as u32, self.dials.min(64), move |index| {
            let (flock, count) = (flock.clone(), count.clone());
            async move {
                let client = lock(&flock[index as usize]).take().and_then(|sheep| sheep.client);
                client.context("a session has no connection")?.close().await?;
                count.fetch_add(1, Relaxed);
                Ok(())
            }
        })
        .await?;
        ensure!(ended.load(Relaxed) as usize == self.flock.len(), "not all have ended");
        Ok(())
    }
}
