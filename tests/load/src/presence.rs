//! `load presence`: a login storm of accounts that are each other's contacts (RFC 6121, section 4).
//!
//! Account n is in touch with its neighbours in a ring, in both directions. The first run on a
//! server makes the subscriptions. Then all log in at once, and each must hear of every contact.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    client::Client,
    crowd::{self, Manner, each, lock, told},
    framing::attribute,
    latency::Latency,
    process::Process,
    report::{Report, Unit},
    target::Target,
};

/// How long making the subscriptions may take.
const PREPARATION: Duration = Duration::from_secs(120);

/// Options of `load presence`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Accounts
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    pub users: u32,
    /// Contacts of each account; rounded up to even, fewer than accounts
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub contacts: u32,
    /// Logins under way at any time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub concurrency: u32,
    /// How long to wait for the last presence, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=120))]
    pub drain: u32,
}

/// Runs and reports; a presence that did not come is a fault.
pub async fn run(target: &Arc<Target>, options: &Options) -> Result<Report> {
    let Options { users, concurrency, drain, .. } = *options;
    let contacts = options.contacts.next_multiple_of(2);
    ensure!(contacts < users, "{contacts} contacts need more than {users} accounts");
    prepare(target, users, contacts, concurrency).await?;

    let storm = Arc::new(Storm { wanted: contacts as usize, ..Storm::default() });
    let held = Arc::new(Mutex::new(JoinSet::new()));
    let (stop, stopped) = watch::channel(false);
    let cpu = target.process.as_ref().map(Process::cpu).transpose()?;
    let started = Instant::now();
    each(users, concurrency, |index| {
        let (target, storm) = (target.clone(), storm.clone());
        let (held, stopped) = (held.clone(), stopped.clone());
        async move {
            let begun = Instant::now();
            let mut client = Client::log_in(&target, index, "load-storm").await?;
            let both = client.fetch_roster().await?;
            ensure!(
                both >= contacts as usize,
                "u{index} has {both} contacts, not {contacts}; hint: load a fresh server"
            );
            client.writer.send(b"<presence/>").await?;
            storm.logins.record(begun.elapsed());
            let own = target.bare(index);
            lock(&held).spawn(hear(storm, client, own, stopped));
            Ok(())
        }
    })
    .await?;
    let logged_in = started.elapsed();
    let complete = async {
        while storm.complete.load(Relaxed) < u64::from(users) {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = timeout(Duration::from_secs(drain.into()), complete).await;
    let took = started.elapsed();
    let used = match (target.process, cpu) {
        (Some(process), Some(before)) => Some(before.until(&process.cpu()?)),
        _ => None,
    };
    stop.send_replace(true);
    let mut held = std::mem::take(&mut *lock(&held));
    while let Some(ended) = held.join_next().await {
        ended?;
    }

    let (heard, known) = (storm.heard.load(Relaxed), storm.known.load(Relaxed));
    let wanted = u64::from(users) * u64::from(contacts);
    let mut report = Report::new("presence in a login storm");
    report.figure("users", f64::from(users), Unit::Count);
    report.figure("contacts", f64::from(contacts), Unit::Count);
    report.figure("rate", f64::from(users) / logged_in.as_secs_f64(), Unit::PerSecond);
    report.latency("until_available", &storm.logins);
    report.figure("all_heard_after", took.as_secs_f64(), Unit::Seconds);
    report.figure("presences", heard as f64, Unit::Count);
    if let Some(used) = used {
        report.micros("server_cpu_per_login", used / users);
        report.micros("server_cpu_per_presence", used.div_f64((heard as f64).max(1.0)));
    }
    if known < wanted {
        report.fault(format!("{} of {wanted} presences did not come", wanted - known));
    }
    for failure in lock(&storm.failures).iter().take(5) {
        report.fault(failure.clone());
    }
    Ok(report)
}

#[derive(Default)]
struct Storm {
    /// Contacts that each account must hear of.
    wanted: usize,
    logins: Latency,
    /// Available presences of others that came.
    heard: AtomicU64,
    /// The same, each contact once.
    known: AtomicU64,
    /// Accounts that heard of all their contacts.
    complete: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// Counts presences of contacts until told to stop, then ends the session.
async fn hear(
    storm: Arc<Storm>,
    mut client: Client,
    own: String,
    mut stopped: watch::Receiver<bool>,
) {
    let mut seen = HashSet::new();
    loop {
        let stanza = tokio::select! {
            biased;
            () = told(&mut stopped) => break,
            stanza = client.reader.next() => stanza,
        };
        let stanza = match stanza {
            Ok(stanza) => stanza,
            Err(error) => return lock(&storm.failures).push(format!("cut off: {error:#}")),
        };
        let available = stanza.starts_with(b"<presence") && attribute(stanza, "type").is_none();
        let from = attribute(stanza, "from").and_then(|from| from.split('/').next());
        let Some(from) = from.filter(|from| available && *from != own) else {
            continue;
        };
        storm.heard.fetch_add(1, Relaxed);
        if seen.insert(from.to_owned()) {
            storm.known.fetch_add(1, Relaxed);
            if seen.len() == storm.wanted {
                storm.complete.fetch_add(1, Relaxed);
            }
        }
    }
    let _ = client.close().await;
}

/// Makes the subscriptions, unless the rosters have them.
async fn prepare(target: &Arc<Target>, users: u32, contacts: u32, concurrency: u32) -> Result<()> {
    let manner = Manner { roster: true, available: true, managed: false };
    let mut clients = crowd::log_in(target, users, users, concurrency, manner).await?;
    let mut lacking = false;
    for client in &mut clients {
        lacking |= client.fetch_roster().await? < contacts as usize;
    }
    if !lacking {
        crowd::log_out(clients, concurrency).await;
        return Ok(());
    }
    let approved = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let mut asking = JoinSet::new();
    for (index, client) in (0..users).zip(clients) {
        let around = (1..=contacts / 2).flat_map(|step| [index + step, index + users - step]);
        let others = around.map(|other| target.bare(other % users)).collect();
        asking.spawn(befriend(client, others, approved.clone(), stopped.clone()));
    }
    let wanted = u64::from(users) * u64::from(contacts);
    let done = async {
        while approved.load(Relaxed) < wanted && !asking.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = timeout(PREPARATION, done).await;
    stop.send_replace(true);
    while let Some(ended) = asking.join_next().await {
        ended??;
    }
    let got = approved.load(Relaxed);
    in_time.with_context(|| {
        format!("{got} of {wanted} subscriptions were approved; hint: load a fresh server")
    })
}

/// Asks for the presence of others, and lets everyone have its own.
async fn befriend(
    mut client: Client,
    others: Vec<String>,
    approved: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    for other in others {
        let ask = format!("<presence type='subscribe' to='{other}'/>");
        client.writer.send(ask.as_bytes()).await?;
    }
    loop {
        let stanza = tokio::select! {
            biased;
            () = told(&mut stopped) => return client.close().await,
            stanza = client.reader.next() => stanza?,
        };
        if !stanza.starts_with(b"<presence") {
            continue;
        }
        match (attribute(stanza, "type"), attribute(stanza, "from")) {
            (Some("subscribe"), Some(from)) => {
                let grant = format!("<presence type='subscribed' to='{from}'/>");
                client.writer.send(grant.as_bytes()).await?;
            }
            (Some("subscribed"), _) => {
                approved.fetch_add(1, Relaxed);
            }
            _ => {}
        }
    }
}
