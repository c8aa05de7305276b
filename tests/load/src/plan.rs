//! `load run`: everything in one go, with the targets beside the figures.
//!
//! Either against an Usher of its own (`--usher`), or, for comparison, against a server that runs
//! already (`--against` and `--pid`) and has accounts `u0` upwards.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    floor, idle, logins, messages, presence,
    report::{Report, Unit},
    target::{self, Loopback, Mechanism, Target},
    usher::Usher,
};

/// What a figure may be at most.
struct Goal {
    what: &'static str,
    /// Which report of the plan, and which figure of it.
    step: &'static str,
    figure: &'static str,
    unit: Unit,
    most: f64,
}

/// The targets, on this class of machine, plain TCP, release build.
const GOALS: [Goal; 4] = [
    Goal {
        what: "memory per idle session",
        step: "idle",
        figure: "per_session",
        unit: Unit::Bytes,
        most: 6144.0,
    },
    Goal {
        what: "server CPU per message at a rate",
        step: "messages_rate",
        figure: "server_cpu_per_message",
        unit: Unit::Micros,
        most: 15.0,
    },
    Goal {
        what: "server CPU per message at most",
        step: "messages_max",
        figure: "server_cpu_per_message",
        unit: Unit::Micros,
        most: 15.0,
    },
    Goal {
        what: "server CPU per SCRAM-SHA-256 login",
        step: "logins",
        figure: "server_cpu_per_login",
        unit: Unit::Micros,
        most: 250.0,
    },
];

/// Options of `load run`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server program to start; without it a running server is loaded, see `--against`
    #[arg(long, value_name = "PROGRAM")]
    pub usher: Option<PathBuf>,
    /// Idle sessions to hold, each of an account of its own
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub sessions: u32,
    /// Pairs that exchange messages
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub pairs: u32,
    /// Messages per second, where a rate is kept
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub rate: u32,
    /// How long each phase lasts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Logins to measure
    #[arg(long, default_value_t = 5000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub logins: u32,
    /// Also log in so many accounts by token (`--usher` only; the server must offer OAUTHBEARER)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub token_accounts: u32,
    /// Also run a login storm of so many accounts that are each other's contacts
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=5000))]
    pub storm: u32,
    /// Fail when a target is missed, too
    #[arg(long)]
    pub strict: bool,
}

/// Runs everything and prints; true when nothing was lost (and with `--strict` no target missed).
pub async fn run(target: &target::Options, options: &Options, json: bool) -> Result<bool> {
    let mut steps = Steps { reports: Vec::new(), json };
    let Some(program) = &options.usher else {
        load(&mut steps, target, options, None).await?;
        return Ok(conclude(&steps, options));
    };
    let usher = Usher::start(program, target.proxied).await?;
    let against = Loopback(usher.address());
    let target = target::Options { against, pid: Some(usher.pid()), ..target.clone() };
    let loaded = tokio::select! {
        loaded = load(&mut steps, &target, options, Some(&usher)) => loaded,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    let stopped = usher.stop().await;
    loaded?;
    let clean = conclude(&steps, options);
    stopped?;
    Ok(clean)
}

/// The reports so far, by step.
struct Steps {
    reports: Vec<(&'static str, Report)>,
    json: bool,
}

impl Steps {
    /// Keeps a report, and prints it for people. A step that broke off is a fault of its own and
    /// does not take the other steps' figures along.
    fn add(&mut self, step: &'static str, outcome: Result<Report>) {
        let report = outcome.unwrap_or_else(|error| {
            let mut report = Report::new(step);
            report.fault(format!("broke off: {error:#}"));
            report
        });
        if !self.json {
            println!("{}", report.text());
        }
        self.reports.push((step, report));
    }
}

async fn load(
    steps: &mut Steps,
    options: &target::Options,
    plan: &Options,
    usher: Option<&Usher>,
) -> Result<()> {
    let target = Arc::new(Target::new(options)?);
    if let Some(usher) = usher {
        let accounts = accounts(plan);
        progress(format!("importing {accounts} accounts"));
        let (jid, password) = (|n| target.bare(n), |n| target.password(n));
        let took = usher.import(accounts, jid, password).await?;
        let mut report = Report::new("import of accounts");
        report.figure("accounts", f64::from(accounts), Unit::Count);
        report.figure("rate", f64::from(accounts) / took.as_secs_f64(), Unit::PerSecond);
        steps.add("import", Ok(report));
    }

    let Options { sessions, pairs, rate, seconds, logins, token_accounts, storm, .. } = *plan;
    progress(format!("holding {sessions} idle sessions"));
    let idle = idle::Options {
        sessions,
        users: None,
        seconds,
        concurrency: 32,
        settle: 3,
        roster: false,
        managed: false,
    };
    steps.add("idle", idle::run(&target, &idle).await);

    progress(format!("passing messages between {pairs} pairs of sockets, without a server"));
    let floor = floor::Options { pairs: pairs.min(2000), rate, seconds, size: 415 };
    steps.add("floor", floor::run(&floor).await);
    for (step, max) in [("messages_rate", false), ("messages_max", true)] {
        progress(format!("sending messages between {pairs} pairs"));
        let (size, to, window, drain) = (415, messages::To::Bare, 16, 10);
        let options = messages::Options {
            pairs,
            rate,
            max,
            window,
            seconds,
            size,
            to,
            drain,
            managed: false,
        };
        steps.add(step, messages::run(&target, &options).await);
    }

    progress(format!("logging in {logins} times"));
    let users = accounts(plan).min(500);
    let options_of = |users| logins::Options { count: logins, concurrency: 16, users };
    steps.add("logins", logins::run(&target, &options_of(users)).await);

    if token_accounts > 0 {
        let Some(usher) = usher else { bail!("`--token-accounts` needs `--usher`") };
        progress(format!("logging in {logins} times by token"));
        let tokens = usher.mint(token_accounts, |n| target.bare(n)).await?;
        let mechanism = Mechanism::OauthBearer;
        let options = target::Options { mechanism, tokens: Some(tokens), ..options.clone() };
        let by_token = Arc::new(Target::new(&options)?);
        steps.add("token_logins", logins::run(&by_token, &options_of(token_accounts)).await);
    }
    if storm > 0 {
        progress(format!("logging in {storm} contacts at once"));
        let contacts = 20.min(storm.saturating_sub(2));
        let options = presence::Options { users: storm, contacts, concurrency: 32, drain: 20 };
        steps.add("presence", presence::run(&target, &options).await);
    }
    Ok(())
}

/// How many accounts the plan takes.
fn accounts(plan: &Options) -> u32 {
    [plan.sessions, plan.pairs * 2, plan.token_accounts, plan.storm].into_iter().max().unwrap_or(0)
}

/// Prints the targets, or everything as one object; says whether it is good.
fn conclude(steps: &Steps, options: &Options) -> bool {
    let outcomes: Vec<_> = GOALS.iter().map(|goal| (goal, outcome(goal, steps))).collect();
    let clean = steps.reports.iter().all(|(_, report)| report.clean());
    let met = outcomes.iter().all(|(goal, value)| value.is_some_and(|value| value <= goal.most));
    if steps.json {
        let targets = outcomes.iter().map(|(goal, value)| {
            json!({
                "what": goal.what,
                "value": value,
                "most": goal.most,
                "met": value.map(|value| value <= goal.most),
            })
        });
        let targets: Vec<Value> = targets.collect();
        let reports = steps.reports.iter();
        let reports: serde_json::Map<String, Value> =
            reports.map(|(step, report)| ((*step).to_owned(), report.json())).collect();
        println!("{}", json!({ "run": "run", "ok": clean, "steps": reports, "targets": targets }));
    } else {
        print!("{}", table(&outcomes));
    }
    clean && (met || !options.strict)
}

fn outcome(goal: &Goal, steps: &Steps) -> Option<f64> {
    let report = steps.reports.iter().find(|(step, _)| *step == goal.step);
    report.and_then(|(_, report)| report.value(goal.figure))
}

fn table(outcomes: &[(&Goal, Option<f64>)]) -> String {
    let mut out = format!("{:<36}{:>12}{:>12}\n", "", "measured", "target");
    for (goal, value) in outcomes {
        let (measured, verdict) = match value {
            Some(value) if *value <= goal.most => (goal.unit.show(*value), "met"),
            Some(value) => (goal.unit.show(*value), "missed"),
            None => ("-".to_owned(), "not measured; hint: `--pid`"),
        };
        let most = format!("≤ {}", goal.unit.show(goal.most));
        out.push_str(&format!("{:<36}{measured:>12}{most:>12}  {verdict}\n", goal.what));
    }
    out
}

fn progress(what: String) {
    eprintln!("{what} ...");
}

/// Completes on SIGINT or SIGTERM, so that a server that was started is ended, too.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goal_names_a_step_once_and_missing_figures_are_not_met() {
        let mut report = Report::new("idle");
        report.figure("per_session", 7000.0, Unit::Bytes);
        let mut steps = Steps { reports: Vec::new(), json: true };
        steps.add("idle", Ok(report));
        steps.add("logins", Err(anyhow::anyhow!("broken")));
        assert!(!steps.reports[1].1.clean());
        let outcomes: Vec<_> = GOALS.iter().map(|goal| (goal, outcome(goal, &steps))).collect();
        let table = table(&outcomes);
        assert_eq!(table.matches("missed").count(), 1, "{table}");
        assert_eq!(table.matches("not measured").count(), GOALS.len() - 1, "{table}");
    }
}
