//! `usher trend list`: numbers of the server over the last day.

use super::{Arg, Call, Command, CommandError, Done, Form, Scope, Shape, ValueKind, row};
use crate::{clock::Millis, config::Span, rights::Right};

/// The commands.
pub const COMMANDS: &[Command] = &[Command {
    name: "trend list",
    about: "List how many sessions, logins and ends there were over time, and how much memory, oldest first",
    details: "The numbers of the last day are kept, taken every half minute, until the server stops. \
              Logins and ends are counted from its start. Sessions are by the stage that is shown.",
    args: &[Arg {
        name: "since",
        about: "Only those that are no older than this; a day if not said",
        form: Form::Option,
        kind: ValueKind::Span,
    }],
    mutates: false,
    right: Right::Status,
    scope: Scope::Others,
    fresh: false,
    shape: Shape::List(&[
        "at",
        "unauthed",
        "c2s",
        "bound",
        "available",
        "interested",
        "hibernating",
        "logins",
        "refused",
        "ends",
        "memory",
    ]),
    run: |call| Box::pin(list(call)),
}];

async fn list(call: Call) -> Result<Done, CommandError> {
    let server = &call.server;
    let span = call.value::<Span>("since").and_then(Span::get).unwrap_or(86_400);
    let begin = Millis(server.clock.now().0.saturating_sub(span.saturating_mul(1000)));
    let samples = server.trend.since(begin);
    for sample in &samples {
        let sessions = &sample.sessions;
        call.row(row! {
            "at": sample.at.to_string(),
            "total": sessions.total,
            "unauthed": sessions.unauthed,
            "c2s": sessions.c2s,
            "bound": sessions.bound,
            "available": sessions.available,
            "interested": sessions.interested,
            "hibernating": sessions.hibernating,
            "logins": sample.logins,
            "refused": sample.refused,
            "ends": sample.ends,
            "memory": sample.memory,
        })
        .await?;
    }
    Ok(if samples.is_empty() { Done::nothing("nothing is known yet") } else { Done::said("") })
}
