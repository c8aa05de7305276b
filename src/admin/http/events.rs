//! Commands without end as server-sent events: one for each row, as it comes, named by what has changed.
//! It goes on until the one who asked goes away, may not any more, or the server stops; the last event is
//! `done` or `failed`. What was missed is not sent again: whoever comes back looks at the list first.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures_core::Stream;
use serde_json::{Map, Value};
use server::command::{self, Caller, Command, CommandError, Reply};
use tokio::{sync::mpsc, time::interval};

use super::Api;
use crate::socket::stopping;

/// How often something is sent, so that proxies do not close it and dead peers are noticed; and how
/// often it is looked whether the caller still may.
const ALIVE: Duration = Duration::from_secs(15);

/// Rows of a command as they come.
pub(crate) async fn stream(
    api: Api,
    caller: Caller,
    command: &'static Command,
    args: Map<String, Value>,
) -> Result<Response, CommandError> {
    let (rows, mut replies) = mpsc::channel(64);
    let (sender, events) = mpsc::channel(64);
    let server = api.server.clone();
    tokio::spawn(command::run(server, caller.clone(), command.name, args, rows));
    // A refusal is a refusal, not an event; and whoever has the answer misses nothing that comes then.
    match replies.recv().await {
        Some(Reply::Failed(error)) => return Err(error),
        Some(Reply::Began) => {}
        Some(Reply::Done(_) | Reply::Progress { .. } | Reply::Row(_)) | None => {
            let broken = CommandError::failed("the command broke off");
            return Err(CommandError { internal: true, ..broken }.hint("see the server's log"));
        }
    }
    tokio::spawn(pass_on(api, caller, command, replies, sender));
    let sse = Sse::new(Events(events)).keep_alive(KeepAlive::new().interval(ALIVE));
    Ok(sse.into_response())
}

async fn pass_on(
    mut api: Api,
    caller: Caller,
    command: &'static Command,
    mut replies: mpsc::Receiver<Reply>,
    sender: mpsc::Sender<Event>,
) {
    let mut look = interval(ALIVE);
    loop {
        let (event, last) = tokio::select! {
            reply = replies.recv() => match reply {
                Some(Reply::Row(row)) => (of(row), false),
                Some(Reply::Began | Reply::Progress { .. }) => continue,
                Some(Reply::Done(done)) => (named("done", &done), true),
                Some(Reply::Failed(error)) => (named("failed", &error), true),
                None => return,
            },
            _ = look.tick() => match api.server.may_run(&caller, command).await {
                Ok(()) => continue,
                Err(error) => (named("failed", &error), true),
            },
            () = sender.closed() => return,
            () = stopping(&mut api.stop) => {
                (named("done", &command::Done::said("the server is stopping")), true)
            }
        };
        if sender.send(event).await.is_err() || last {
            return;
        }
    }
}

fn of(row: Map<String, Value>) -> Event {
    let name = row.get("change").and_then(Value::as_str).unwrap_or("row").to_owned();
    named(&name, &row)
}

fn named(name: &str, data: &impl serde::Serialize) -> Event {
    // What is made of text and numbers can be written.
    Event::default().event(name).data(serde_json::to_string(data).unwrap_or_default())
}

/// What is sent, until there is no more.
struct Events(mpsc::Receiver<Event>);

impl Stream for Events {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|event| event.map(Ok))
    }
}
