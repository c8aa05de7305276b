//! A load generator for XMPP servers: bounded in count and time, for this machine's loopback only.
//!
//! The figures that count are the server's processor time per operation and its memory per
//! session: generator and server share a machine, so wall time says less. `README.md` says how to
//! use it and what is measured how.

#![forbid(unsafe_code)]

mod client;
mod compare;
mod crowd;
mod floor;
mod framing;
mod idle;
mod latency;
mod logins;
mod messages;
mod plan;
mod presence;
mod process;
mod reconnect;
mod report;
mod restart;
mod returning;
mod rival;
mod scram;
mod storm;
#[cfg(test)]
mod stub;
mod tally;
mod target;
mod usher;

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::{report::Report, target::Target};

/// Load a server on this machine and say what each operation cost it
///
/// Exit status: 0 done, 1 failed, or something was lost, reordered or refused, 2 usage.
#[derive(Parser)]
#[command(name = "load", version)]
struct Arguments {
    #[command(flatten)]
    target: target::Options,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// Threads of the generator; one leaves the server most of a small machine
    #[arg(long, global = true, default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    #[command(subcommand)]
    load: Load,
}

#[derive(Subcommand)]
enum Load {
    /// Set logins and returns beside those of Prosody and ejabberd
    Compare(compare::Options),
    /// Pass bytes on without a server: what the kernel takes of each message
    Floor(floor::Options),
    /// Hold sessions that do nothing: memory of each, and what they cost idle
    Idle(idle::Options),
    /// Connect, authenticate, bind and close, over and over
    Logins(logins::Options),
    /// Send messages between pairs of sessions; check loss, doubles and order
    Messages(messages::Options),
    /// Log in accounts that are each other's contacts, all at once
    Presence(presence::Options),
    /// Come back with a token in one round trip, or to a stream, over and over
    Reconnect(reconnect::Options),
    /// Stop a server with many sessions that wait for their clients, and start it again
    Restart(restart::Options),
    /// Cut many sessions at once; all come back to their streams
    Storm(storm::Options),
    /// Start an Usher, run everything against it, and set the figures beside their targets
    Run(plan::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match work(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(arguments: Arguments) -> Result<bool> {
    let Arguments { target, json, threads, load } = arguments;
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit of open files")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.into())
        .enable_all()
        .build()?;
    let checked = || Target::new(&target).map(Arc::new);
    runtime.block_on(async {
        let report = match load {
            Load::Compare(options) => compare::run(&target, &options).await?,
            Load::Floor(options) => floor::run(&options).await?,
            Load::Idle(options) => idle::run(&checked()?, &options).await?,
            Load::Logins(options) => logins::run(&checked()?, &options).await?,
            Load::Messages(options) => messages::run(&checked()?, &options).await?,
            Load::Presence(options) => presence::run(&checked()?, &options).await?,
            Load::Reconnect(options) => {
                let (usher, users) = (options.usher.as_deref(), options.users);
                usher::against(usher, &target, users, |target| reconnect::run(target, &options))
                    .await?
            }
            Load::Restart(options) => restart::run(&target, &options).await?,
            Load::Storm(options) => {
                let (usher, users) = (options.usher.as_deref(), options.herd.users());
                usher::against(usher, &target, users, |target| storm::run(target, &options)).await?
            }
            Load::Run(options) => return plan::run(&target, &options, json).await,
        };
        print(&report, json);
        Ok(report.clean())
    })
}

fn print(report: &Report, json: bool) {
    if json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
}
