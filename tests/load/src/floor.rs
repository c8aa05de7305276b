//! `load floor`: what passing a message on costs on this machine when nobody looks at it.
//!
//! A thread reads from one socket and writes to another, on tokio, with no XMPP and no parsing.
//! What a server needs beyond this is its own; what it needs up to this is the kernel's.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, sleep_until},
};

use crate::{
    process::Process,
    report::{Report, Unit},
};

/// Options of `load floor`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Pairs of sender and receiver
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub pairs: u32,
    /// Messages per second, over all pairs
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub rate: u32,
    /// How long to send
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Size of a message, in bytes
    #[arg(long, default_value_t = 415, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub size: u32,
}

/// Runs and reports.
pub async fn run(options: &Options) -> Result<Report> {
    let Options { pairs, rate, seconds, size } = *options;
    let (ready, relay) = mpsc::channel();
    thread::Builder::new().name("relay".to_owned()).spawn(move || {
        // Ends with the process; a failure shows as connections that nobody takes.
        let _ = pass_on(pairs, &ready);
    })?;
    let (address, thread) = relay.recv_timeout(Duration::from_secs(5)).context("no relay")?;

    let received = Arc::new(AtomicU64::new(0));
    let (mut listening, mut senders) = (JoinSet::new(), Vec::new());
    for _ in 0..pairs {
        let sender = TcpStream::connect(address).await?;
        sender.set_nodelay(true)?;
        senders.push(sender);
        let (mut receiver, received) = (TcpStream::connect(address).await?, received.clone());
        listening.spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(count @ 1..) = receiver.read(&mut buffer).await {
                received.fetch_add(count as u64, Relaxed);
            }
        });
    }

    let own = Process::own();
    let before = own.cpu()?;
    let started = Instant::now();
    let each = u64::from(rate) * u64::from(seconds) / u64::from(pairs);
    let mut talking = JoinSet::new();
    for (index, mut sender) in senders.into_iter().enumerate() {
        talking.spawn(async move {
            let message = vec![b'x'; size as usize];
            for sequence in 0..each {
                let place = sequence as f64 * f64::from(pairs) + index as f64;
                let due = started + Duration::from_secs_f64(place / f64::from(rate));
                sleep_until(due.into()).await;
                sender.write_all(&message).await?;
            }
            Ok::<_, std::io::Error>(sender)
        });
    }
    let mut senders = Vec::new();
    while let Some(talked) = talking.join_next().await {
        senders.push(talked??);
    }
    let (sent, deadline) = (each * u64::from(pairs), Instant::now() + Duration::from_secs(10));
    let bytes = sent * u64::from(size);
    while received.load(Relaxed) < bytes && Instant::now() < deadline {
        sleep(Duration::from_millis(2)).await;
    }
    let used = before.thread_until(&own.cpu()?, thread);

    let mut report = Report::new("floor of passing messages on");
    report.figure("pairs", f64::from(pairs), Unit::Count);
    report.figure("size", f64::from(size), Unit::Bytes);
    report.figure("messages", sent as f64, Unit::Count);
    report.figure("rate", sent as f64 / started.elapsed().as_secs_f64(), Unit::PerSecond);
    report.micros("relay_cpu_per_message", used.div_f64((sent as f64).max(1.0)));
    let missing = bytes.saturating_sub(received.load(Relaxed));
    if missing > 0 {
        report.fault(format!("{missing} bytes did not come"));
    }
    Ok(report)
}

/// The relay: tells its address and thread, takes sender and receiver in turn, and passes on.
fn pass_on(pairs: u32, ready: &mpsc::Sender<(SocketAddr, u32)>) -> Result<()> {
    let thread = std::fs::read_link("/proc/thread-self")?;
    let thread = thread.file_name().and_then(|name| name.to_str()?.parse().ok());
    let thread = thread.context("`/proc/thread-self` has an unknown form")?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        ready.send((listener.local_addr()?, thread))?;
        let mut passing = JoinSet::new();
        for _ in 0..pairs {
            let (mut sender, _) = listener.accept().await?;
            let (mut receiver, _) = listener.accept().await?;
            receiver.set_nodelay(true)?;
            passing.spawn(async move {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = sender.read(&mut buffer).await {
                    if receiver.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
        while passing.join_next().await.is_some() {}
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_is_passed_on_and_the_relay_alone_is_charged() {
        let report = run(&Options { pairs: 3, rate: 300, seconds: 1, size: 100 }).await.unwrap();
        assert!(report.clean(), "{}", report.text());
        assert_eq!(report.value("messages"), Some(300.0));
        assert!(report.value("relay_cpu_per_message").unwrap() > 0.0);
    }
}
