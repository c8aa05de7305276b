//! `load idle`: many bound and available sessions that do nothing, and what each costs.
//!
//! A few sessions come and go before the base line is taken, so that what the server allocates
//! once is not charged to the sessions. At the end every session must still answer a ping.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

use crate::{
    client::Client,
    crowd::{self, Manner, told},
    framing::attribute,
    process::Process,
    report::{Report, Unit},
    target::Target,
};

/// Options of `load idle`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Sessions to hold
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub sessions: u32,
    /// Accounts that the sessions belong to, in turn; one each without it
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub users: Option<u32>,
    /// How long to hold them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Logins under way at any time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub concurrency: u32,
    /// How long the server gets to settle before its memory is read, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=60))]
    pub settle: u32,
    /// Fetch the roster before presence
    #[arg(long)]
    pub roster: bool,
    /// Turn stream management on
    #[arg(long)]
    pub managed: bool,
}

/// Runs and reports; a session that the server lost is a fault.
pub async fn run(target: &Arc<Target>, options: &Options) -> Result<Report> {
    let Options { sessions, users, seconds, concurrency, roster, managed, .. } = *options;
    let settle = Duration::from_secs(options.settle.into());
    let users = users.unwrap_or(sessions);
    let manner = Manner { roster, available: true, managed };
    let memory = || target.process.as_ref().map(Process::memory).transpose();
    let cpu = || target.process.as_ref().map(Process::cpu).transpose();

    let fresh = memory()?;
    let warm = crowd::log_in(target, warm_up(sessions), users, concurrency, manner).await?;
    crowd::log_out(warm, concurrency).await;
    sleep(settle).await;
    let empty = memory()?;

    let started = Instant::now();
    let clients = crowd::log_in(target, sessions, users, concurrency, manner).await?;
    let filled_in = started.elapsed();
    let (stop, stopped) = watch::channel(false);
    let turns = Arc::new(Semaphore::new(concurrency as usize));
    let mut held = JoinSet::new();
    for client in clients {
        held.spawn(hold(client, stopped.clone(), turns.clone()));
    }
    sleep(settle).await;
    let before = cpu()?;
    sleep(Duration::from_secs(seconds.into())).await;
    let after = cpu()?;
    let full = memory()?;

    stop.send_replace(true);
    let (mut alive, mut failure) = (0u32, None);
    while let Some(ended) = held.join_next().await {
        match ended? {
            Ok(()) => alive += 1,
            Err(error) => failure = failure.or(Some(format!("{error:#}"))),
        }
    }
    sleep(settle).await;
    let left = memory()?;

    let mut report = Report::new(format!("idle with {sessions} sessions"));
    report.figure("sessions", f64::from(sessions), Unit::Count);
    report.figure("alive_at_the_end", f64::from(alive), Unit::Count);
    report.figure("filled_in", filled_in.as_secs_f64(), Unit::Seconds);
    if let (Some(fresh), Some(empty), Some(full), Some(left)) = (fresh, empty, full, left) {
        let each = |full: u64, empty: u64| (full as f64 - empty as f64) / f64::from(sessions);
        report.figure("resident_at_first", fresh.resident as f64, Unit::Bytes);
        report.figure("resident_empty", empty.resident as f64, Unit::Bytes);
        report.figure("resident_full", full.resident as f64, Unit::Bytes);
        report.figure("resident_after", left.resident as f64, Unit::Bytes);
        report.figure("per_session", each(full.resident, empty.resident), Unit::Bytes);
        let heap = each(full.anonymous, empty.anonymous);
        report.figure("anonymous_per_session", heap, Unit::Bytes);
    }
    if let (Some(before), Some(after)) = (before, after) {
        let share = before.until(&after).as_secs_f64() / f64::from(seconds);
        report.figure("idle_cpu_of_one_core", share * 100.0, Unit::Percent);
    }
    if let Some(failure) = failure {
        report.fault(format!("{} sessions were lost; the first: {failure}", sessions - alive));
    }
    Ok(report)
}

/// How many sessions come and go before the base line. What they leave to be used again is not seen
/// in the sessions that follow, so they are one in a hundred: that is as far as the figure can err.
fn warm_up(sessions: u32) -> u32 {
    (sessions / 100).clamp(1, 100)
}

/// The answer that a request of the server's needs, lest it take the session for dead.
fn answer(stanza: &[u8]) -> Option<String> {
    let asks = stanza.starts_with(b"<iq") && attribute(stanza, "type") == Some("get");
    let id = attribute(stanza, "id").filter(|_| asks)?;
    let to = attribute(stanza, "from").map_or(String::new(), |from| format!(" to=\"{from}\""));
    Some(format!("<iq type='result' id=\"{id}\"{to}/>"))
}

/// Reads whatever comes until told to finish; then, in turn, one ping and the end.
async fn hold(
    mut client: Client,
    mut stopped: watch::Receiver<bool>,
    turns: Arc<Semaphore>,
) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            () = told(&mut stopped) => break,
            stanza = client.reader.next() => {
                let stanza = stanza?;
                if let Some(answer) = answer(stanza) {
                    client.writer.send(answer.as_bytes()).await?;
                } else if stanza.starts_with(b"<r") {
                    client.acknowledge().await?;
                }
            }
        }
    }
    let _turn = turns.acquire().await?;
    client.sync().await?;
    client.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_sessions_are_not_hidden_by_a_hundred_that_came_before() {
        assert_eq!(warm_up(1), 1);
        for sessions in [100, 500, 10_000, 15_000] {
            assert!(warm_up(sessions) * 100 <= sessions, "{sessions}");
        }
    }

    #[test]
    fn a_ping_of_the_server_is_answered_and_an_answer_is_not() {
        let ping = b"<iq type='get' from='h' id='a'><ping xmlns='urn:xmpp:ping'/></iq>";
        assert_eq!(answer(ping).as_deref(), Some("<iq type='result' id=\"a\" to=\"h\"/>"));
        assert_eq!(answer(b"<iq type='result' id='a'/>"), None);
        assert_eq!(answer(b"<message type='get' id='a'/>"), None);
    }
}
