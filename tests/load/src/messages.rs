//! `load messages`: pairs of available sessions; one talks, the other listens and keeps the book.
//!
//! Each message carries the run, its pair, its number and when it was sent. With `--rate` messages
//! leave on a schedule whatever the server does, and how late the generator itself was is reported
//! too; with `--max` each pair keeps a window of messages under way.

use std::{
    fmt::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use memchr::memmem;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use crate::{
    client::{Client, Reader, Writer},
    crowd::{self, Manner, lock, told},
    framing::attribute,
    latency::Latency,
    process::Process,
    report::{Report, Unit},
    tally::{Tally, Wrongs},
    target::Target,
};

/// What the payload of a message begins with.
const MARK: &[u8] = b"<body>load ";
/// How long after the last expected message to listen for ones too many.
const SURPLUS: Duration = Duration::from_millis(300);

/// Options of `load messages`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Pairs of sender and receiver
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub pairs: u32,
    /// Messages per second, over all pairs
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub rate: u32,
    /// As fast as the server takes them, in place of `--rate`
    #[arg(long, conflicts_with = "rate")]
    pub max: bool,
    /// Messages of a pair under way at any time, with `--max`
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub window: u32,
    /// How long to send
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Size of a message as sent, in bytes
    #[arg(long, default_value_t = 415, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub size: u32,
    /// Address messages to the account or to the session
    #[arg(long, default_value = "bare")]
    pub to: To,
    /// How long to wait for messages still under way at the end, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=120))]
    pub drain: u32,
    /// Turn stream management on; receivers acknowledge whenever they are asked to
    #[arg(long)]
    pub managed: bool,
}

/// What messages are addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// The account's bare JID.
    Bare,
    /// The session's full JID.
    Full,
}

/// Runs and reports; anything lost, doubled, reordered, strayed or refused is a fault.
pub async fn run(target: &Arc<Target>, options: &Options) -> Result<Report> {
    let manner = Manner { roster: false, available: true, managed: options.managed };
    let count = options.pairs * 2;
    let clients = crowd::log_in(target, count, count, 32, manner).await?;
    let stage = Arc::new(Stage::new(options));
    let (stop, stopped) = watch::channel(false);
    let (mut listening, mut talkers) = (JoinSet::new(), Vec::new());
    let mut clients = clients.into_iter();
    while let (Some(talker), Some(listener)) = (clients.next(), clients.next()) {
        let index = talkers.len();
        let to = match options.to {
            To::Bare => target.bare(index as u32 * 2 + 1),
            To::Full => listener.jid.clone(),
        };
        listening.spawn(listen(stage.clone(), index, talker.jid, listener, stopped.clone()));
        listening.spawn(overhear(stage.clone(), talker.reader, stopped.clone()));
        talkers.push((talker.writer, to));
    }

    let cpu = target.process.as_ref().map(Process::cpu).transpose()?;
    let own = Process::own().cpu()?;
    let started = Instant::now();
    let mut talking = JoinSet::new();
    for (index, (writer, to)) in talkers.into_iter().enumerate() {
        talking.spawn(talk(stage.clone(), index, writer, to, started));
    }
    let mut writers = Vec::new();
    while let Some(talked) = talking.join_next().await {
        match talked? {
            Ok(writer) => writers.push(writer),
            Err(error) => stage.fail(format!("a sender was cut off: {error:#}")),
        }
    }
    let drain = Duration::from_secs(options.drain.into());
    let _ = timeout(drain, stage.settled()).await;
    let last = stage.begun + Duration::from_nanos(stage.last.load(Relaxed));
    let took = last.saturating_duration_since(started).max(Duration::from_millis(1));
    let used = match (target.process, cpu) {
        (Some(process), Some(before)) => Some(before.until(&process.cpu()?)),
        _ => None,
    };
    let own = own.until(&Process::own().cpu()?);
    sleep(SURPLUS).await;

    stop.send_replace(true);
    for writer in &mut writers {
        let _ = writer.close().await;
    }
    while let Some(ended) = listening.join_next().await {
        ended?;
    }
    Ok(stage.report(options, took, used, own))
}

/// What all tasks of a run share.
struct Stage {
    options: Options,
    /// Tells this run's messages from those of an earlier one.
    run: u64,
    begun: Instant,
    pairs: Vec<Pair>,
    latency: Latency,
    /// How late the generator sent.
    slip: Latency,
    /// When the last message came, in nanoseconds from the start.
    last: AtomicU64,
    stale: AtomicU64,
    refused: AtomicU64,
    failures: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Pair {
    sent: AtomicU64,
    received: AtomicU64,
    /// Woken by each receipt.
    came: Notify,
    tally: Mutex<Tally>,
}

impl Stage {
    #[expect(clippy::disallowed_methods, reason = "another program than the server")]
    fn new(options: &Options) -> Self {
        let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            options: options.clone(),
            run: u64::try_from(run.as_nanos()).unwrap_or_default(),
            begun: Instant::now(),
            pairs: (0..options.pairs).map(|_| Pair::default()).collect(),
            latency: Latency::default(),
            slip: Latency::default(),
            last: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failures: Mutex::new(Vec::new()),
        }
    }

    fn fail(&self, what: String) {
        lock(&self.failures).push(what);
    }

    /// Completes when as many messages came as were sent.
    async fn settled(&self) {
        let due = |pair: &Pair| pair.received.load(Relaxed) < pair.sent.load(Relaxed);
        while self.pairs.iter().any(due) {
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn report(
        &self,
        options: &Options,
        took: Duration,
        cpu: Option<Duration>,
        own: Duration,
    ) -> Report {
        let (mut sent, mut received, mut wrongs) = (0, 0, Wrongs::default());
        for pair in &self.pairs {
            let of_pair = pair.sent.load(Relaxed);
            sent += of_pair;
            received += pair.received.load(Relaxed);
            wrongs += lock(&pair.tally).close(of_pair);
        }
        let Wrongs { lost, doubled, reordered, strayed } = wrongs;
        let manner = if options.max { "as fast as possible" } else { "at a rate" };
        let mut report = Report::new(format!("messages {manner}"));
        report.figure("pairs", f64::from(options.pairs), Unit::Count);
        report.figure("size", f64::from(options.size), Unit::Bytes);
        report.figure("sent", sent as f64, Unit::Count);
        report.figure("received", received as f64, Unit::Count);
        for (name, count) in
            [("lost", lost), ("doubled", doubled), ("reordered", reordered), ("strayed", strayed)]
        {
            report.figure(name, count as f64, Unit::Count);
            if count > 0 {
                report.fault(format!("{count} messages were {name}"));
            }
        }
        report.figure("rate", received as f64 / took.as_secs_f64(), Unit::PerSecond);
        report.latency("latency", &self.latency);
        if !options.max {
            report.micros("generator_late_p99", self.slip.percentile(99.0));
        }
        let each = |used: Duration| used.div_f64((received as f64).max(1.0));
        if let Some(cpu) = cpu {
            report.micros("server_cpu_per_message", each(cpu));
        }
        report.micros("generator_cpu_per_message", each(own));
        let stale = self.stale.load(Relaxed);
        if stale > 0 {
            report.figure("of_an_earlier_run", stale as f64, Unit::Count);
        }
        let refused = self.refused.load(Relaxed);
        if refused > 0 {
            report.fault(format!("{refused} messages came back as errors"));
        }
        for failure in lock(&self.failures).iter().take(5) {
            report.fault(failure.clone());
        }
        report
    }
}

/// Sends the messages of one pair, and gives the stream back unclosed.
async fn talk(
    stage: Arc<Stage>,
    index: usize,
    mut writer: Writer,
    to: String,
    started: Instant,
) -> Result<Writer> {
    let Options { rate, pairs, max, window, seconds, size, .. } = stage.options;
    let pair = &stage.pairs[index];
    let end = started + Duration::from_secs(seconds.into());
    // Pairs take turns; from the number, lest rounding add up.
    let due_of = |sequence: u64| {
        let place = sequence as f64 * f64::from(pairs) + index as f64;
        started + Duration::from_secs_f64(place / f64::from(rate))
    };
    let (mut sequence, mut due, mut batch) = (0, due_of(0), String::new());
    loop {
        let now = Instant::now();
        // A schedule is kept to its last message, however late; a window closes with the time.
        if end <= if max { now } else { due } {
            return Ok(writer);
        }
        batch.clear();
        if max {
            let room = u64::from(window) + pair.received.load(Relaxed) - sequence;
            for _ in 0..room {
                stage.write(&mut batch, index, &to, sequence, size);
                sequence += 1;
            }
        } else {
            while due <= now && due < end {
                stage.slip.record(now - due);
                stage.write(&mut batch, index, &to, sequence, size);
                sequence += 1;
                due = due_of(sequence);
            }
        }
        if !batch.is_empty() {
            // Counted before it is sent, so that a cut-off sender's messages count as lost.
            pair.sent.store(sequence, Relaxed);
            writer.send(batch.as_bytes()).await?;
        }
        if max {
            let _ = timeout(end - now, pair.came.notified()).await;
        } else {
            sleep_until(due.min(end).into()).await;
        }
    }
}

impl Stage {
    fn write(&self, batch: &mut String, index: usize, to: &str, sequence: u64, size: u32) {
        let begin = batch.len();
        let sent = self.begun.elapsed().as_nanos();
        // Writing to a String does not fail.
        let _ = write!(
            batch,
            "<message to='{to}' type='chat' id='{index}-{sequence}'><body>load {} {index} \
             {sequence} {sent} ",
            self.run
        );
        const TAIL: &str = "</body></message>";
        let wanted = size as usize;
        let fill = wanted.saturating_sub(batch.len() - begin + TAIL.len());
        batch.extend(std::iter::repeat_n('x', fill));
        batch.push_str(TAIL);
    }

    /// What a message carries: pair, number, when it was sent. `None` when it is not of this run.
    fn read(&self, stanza: &[u8]) -> Option<(usize, u64, Duration)> {
        let at = memmem::find(stanza, MARK)? + MARK.len();
        let end = at + memchr::memchr(b'<', &stanza[at..])?;
        let text = std::str::from_utf8(&stanza[at..end]).ok()?;
        let mut words = text.split(' ').map(str::parse::<u64>);
        let mut word = || words.next()?.ok();
        let (run, pair, sequence, sent) = (word()?, word()?, word()?, word()?);
        (run == self.run).then_some((pair as usize, sequence, Duration::from_nanos(sent)))
    }
}

/// Keeps the book of one pair until told to stop, then ends the session.
async fn listen(
    stage: Arc<Stage>,
    index: usize,
    sender: String,
    mut client: Client,
    mut stopped: watch::Receiver<bool>,
) {
    let pair = &stage.pairs[index];
    loop {
        let stanza = tokio::select! {
            biased;
            () = told(&mut stopped) => break,
            stanza = client.reader.next() => stanza,
        };
        let stanza = match stanza {
            Ok(stanza) if stanza.starts_with(b"<message") => stanza,
            Ok(stanza) => {
                if stanza.starts_with(b"<r") && client.acknowledge().await.is_err() {
                    return stage.fail("a receiver cannot acknowledge".to_owned());
                }
                continue;
            }
            Err(error) => return stage.fail(format!("a receiver was cut off: {error:#}")),
        };
        let Some((of, sequence, sent)) = stage.read(stanza) else {
            stage.stale.fetch_add(1, Relaxed);
            continue;
        };
        if of != index || attribute(stanza, "from") != Some(sender.as_str()) {
            lock(&pair.tally).stray();
            continue;
        }
        let now = stage.begun.elapsed();
        if lock(&pair.tally).count(sequence) {
            stage.latency.record(now.saturating_sub(sent));
            stage.last.fetch_max(now.as_nanos() as u64, Relaxed);
            pair.received.fetch_add(1, Relaxed);
            pair.came.notify_one();
        }
    }
    let _ = client.close().await;
}

/// Reads what comes to a sender: answers are not expected, errors are counted.
async fn overhear(stage: Arc<Stage>, mut reader: Reader, mut stopped: watch::Receiver<bool>) {
    loop {
        let stanza = tokio::select! {
            biased;
            () = told(&mut stopped) => break,
            stanza = reader.next() => stanza,
        };
        match stanza {
            Ok(stanza) if stanza.starts_with(b"<message") => {
                stage.refused.fetch_add(1, Relaxed);
            }
            Ok(_) => {}
            Err(error) => return stage.fail(format!("a sender was cut off: {error:#}")),
        }
    }
    let _ = reader.end().await;
}
