//! `load compare`: Usher, Prosody and ejabberd on one machine in one run, by turns, so that whatever
//! else the machine does is no one's advantage: logins with SCRAM-SHA-256, and returns to streams
//! (XEP-0198), each with a login of its own and a connection that is cut.
//!
//! Of several rounds the median counts. A server that is not installed is left out.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    logins, plan, reconnect,
    report::{Report, Unit},
    rival::{Kind, Rival},
    target::{self, Mechanism, Target},
    usher::Usher,
};

/// Options of `load compare`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server program to start
    #[arg(long, value_name = "PROGRAM")]
    pub usher: PathBuf,
    /// Logins, and returns, of each round
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// How often each server has its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: u32,
    /// Accounts
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub users: u32,
    /// Clients under way at any time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub concurrency: u32,
}

/// What is measured of each server, with the figure that counts.
const CONTESTS: [(&str, &str); 2] =
    [("login", "server_cpu_per_login"), ("return", "server_cpu_per_reconnect")];

/// One of those that compete.
struct Rider {
    name: &'static str,
    target: Arc<Target>,
    /// Microseconds, by contest.
    figures: [Vec<f64>; CONTESTS.len()],
}

/// Runs and reports; a failed login is a fault, whoever's.
pub async fn run(options: &target::Options, compare: &Options) -> Result<Report> {
    let options = target::Options {
        password: options.password.clone().or_else(|| Some("load-password".into())),
        mechanism: Mechanism::ScramSha256,
        proxied: false,
        ..options.clone()
    };
    let usher = Usher::start(&compare.usher, false).await?;
    let mut rivals = Vec::new();
    let report = tokio::select! {
        report = race(&options, compare, &usher, &mut rivals) => report,
        () = plan::interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    for rival in rivals {
        rival.stop().await?;
    }
    usher.stop().await?;
    report
}

async fn race(
    options: &target::Options,
    compare: &Options,
    usher: &Usher,
    rivals: &mut Vec<Rival>,
) -> Result<Report> {
    let target = usher.target(options, compare.users).await?;
    let mut riders = vec![Rider { name: "usher", target, figures: Default::default() }];
    for kind in [Kind::Prosody, Kind::Ejabberd] {
        let name = kind.name();
        if !kind.is_installed() {
            eprintln!("{name} is left out; hint: apt-get install {name}");
            continue;
        }
        eprintln!("starting {name} ...");
        let (rival, target) = Rival::start(kind, options, compare.users).await?;
        rivals.push(rival);
        riders.push(Rider { name, target, figures: Default::default() });
    }
    let mut report = Report::new("compare, microseconds of server CPU each");
    for round in 1..=compare.rounds {
        for rider in &mut riders {
            eprintln!("round {round} of {}: {} ...", compare.rounds, rider.name);
            for (contest, (what, figure)) in CONTESTS.into_iter().enumerate() {
                let ridden = ride(&rider.target, compare, contest).await;
                let ridden = ridden.with_context(|| format!("{}: {what}", rider.name))?;
                if !ridden.clean() {
                    report.fault(format!("{}: {}", rider.name, ridden.text()));
                }
                rider.figures[contest].extend(ridden.value(figure));
            }
        }
    }
    report.figure("rounds", f64::from(compare.rounds), Unit::Count);
    report.figure("of_each", f64::from(compare.count), Unit::Count);
    for (contest, (what, _)) in CONTESTS.into_iter().enumerate() {
        let ours = median(&riders[0].figures[contest]);
        for rider in &riders {
            let figures = &rider.figures[contest];
            let name = rider.name;
            report.figure(format!("{what}_{name}"), median(figures), Unit::Micros);
            let (least, most) = figures.iter().fold((f64::MAX, 0f64), |(least, most), figure| {
                (least.min(*figure), most.max(*figure))
            });
            report.figure(format!("{what}_{name}_least"), least, Unit::Micros);
            report.figure(format!("{what}_{name}_most"), most, Unit::Micros);
            if name != "usher" {
                let times = median(figures) / ours;
                report.figure(format!("{what}_{name}_times_ours"), times, Unit::Times);
            }
        }
    }
    Ok(report)
}

async fn ride(target: &Arc<Target>, compare: &Options, contest: usize) -> Result<Report> {
    let Options { count, users, concurrency, .. } = *compare;
    match contest {
        0 => logins::run(target, &logins::Options { count, concurrency, users }).await,
        _ => {
            let options = reconnect::Options {
                usher: None,
                count,
                concurrency,
                users,
                resume: true,
                plain: false,
            };
            reconnect::run(target.clone(), &options).await
        }
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(&[3.0, 100.0, 1.0]), 3.0);
        assert_eq!(median(&[5.0]), 5.0);
        assert!(median(&[]).is_nan());
    }
}
