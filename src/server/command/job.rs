//! `usher job …`, `usher schedule …`: long work under way, and what is to run later.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::Value;

use super::{Arg, Call, Command, CommandError, Done, Form, Running, Scope, Shape, ValueKind, row};
use crate::{pace::Order, rights::Right, schedule::Planned};

const JOB: Arg =
    Arg { name: "job", about: "The job's number", form: Form::Required, kind: ValueKind::Number };

const fn order(name: &'static str, about: &'static str, run: fn(Call) -> Running) -> Command {
    Command {
        name,
        about,
        details: "",
        args: &[JOB],
        mutates: true,
        right: Right::Server,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::Outcome(&[]),
        run,
    }
}

/// The commands.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "job list",
        about: "List long work under way, and how far it is",
        details: "",
        args: &[],
        mutates: false,
        right: Right::Status,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::List(&["id", "what", "by", "since", "done", "total", "state"]),
        run: |call| Box::pin(jobs(call)),
    },
    order("job pause", "Hold long work until it is resumed", |call| tell(call, Order::Pause)),
    order("job resume", "Let long work go on", |call| tell(call, Order::Go)),
    order("job abort", "Call off long work; what is done stays done", |call| {
        tell(call, Order::Abort)
    }),
    Command {
        name: "schedule list",
        about: "List what is to run later",
        details: "Accounts without the right see what they have planned themselves.",
        args: &[],
        mutates: false,
        right: Right::Status,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::List(&["id", "at", "what", "args", "by", "since"]),
        run: |call| Box::pin(planned(call)),
    },
    Command {
        name: "schedule cancel",
        about: "Strike out what is to run later",
        details: "",
        args: &[Arg {
            name: "id",
            about: "Its number, as `usher schedule list` shows it",
            form: Form::Required,
            kind: ValueKind::Number,
        }],
        mutates: true,
        right: Right::Server,
        scope: Scope::Own,
        fresh: false,
        shape: Shape::Outcome(&[]),
        run: |call| Box::pin(cancel(call)),
    },
];

async fn jobs(call: Call) -> Result<Done, CommandError> {
    let jobs = call.server.jobs.all();
    for job in &jobs {
        let state = match job.control.order() {
            Order::Abort => "aborted",
            Order::Go => "at work",
            Order::Pause => "paused",
        };
        call.row(row! {
            "id": job.id,
            "what": job.what,
            "by": &*job.by,
            "since": job.since.to_string(),
            "done": job.done.load(Relaxed),
            "total": job.total,
            "state": state,
        })
        .await?;
    }
    Ok(if jobs.is_empty() { Done::nothing("no long work is under way") } else { Done::said("") })
}

fn tell(call: Call, order: Order) -> Running {
    Box::pin(async move {
        let id = call.value::<u64>("job").unwrap_or_default();
        let Some(job) = call.server.jobs.get(id) else {
            return Ok(Done::nothing(format!("there is no job {id} under way")));
        };
        let done = match order {
            Order::Abort => {
                job.control.abort();
                "aborted"
            }
            Order::Go if job.control.resume() => "resumed",
            Order::Pause if job.control.pause() => "paused",
            Order::Go | Order::Pause => {
                return Err(CommandError::failed(format!("job {id} was aborted")));
            }
        };
        Ok(Done::said(format!("{done} job {id}")))
    })
}

/// Whether it is the caller's to know of.
fn is_seen(call: &Call, plan: &Planned) -> bool {
    call.may_see(plan.account.as_ref().map(|(id, _)| *id))
}

async fn planned(call: Call) -> Result<Done, CommandError> {
    let mut planned = call.server.planned().await?;
    planned.retain(|plan| is_seen(&call, plan));
    for plan in &planned {
        call.row(row! {
            "id": plan.id,
            "at": plan.at.to_string(),
            "what": plan.what,
            "args": Value::Object(plan.args.clone()),
            "by": plan.by,
            "since": plan.since.to_string(),
        })
        .await?;
    }
    Ok(if planned.is_empty() { Done::nothing("nothing is planned") } else { Done::said("") })
}

async fn cancel(call: Call) -> Result<Done, CommandError> {
    let id = call.value::<u64>("id").unwrap_or_default();
    let planned = call.server.planned().await?;
    let there = planned.iter().any(|plan| plan.id == id && is_seen(&call, plan));
    Ok(match there && call.server.unplan(id).await? {
        true => Done::said(format!("struck out {id}")),
        false => Done::nothing(format!("nothing is planned under {id}")),
    })
}
