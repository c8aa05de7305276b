//! Sends events to webhooks (RFC 8935) until they are heard: the oldest first, some at once, and after a
//! failure more and more slowly. What is sent, and what is kept, `server::webhook` decides; answers are
//! looked at for their status and nothing else.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use server::{
    Server,
    config::Webhook,
    random,
    webhook::{Event, Place},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use ureq::{
    Agent,
    tls::{RootCerts, TlsConfig},
};

use crate::http::stopped;

/// Requests to one webhook at once.
const AT_ONCE: usize = 8;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first wait after a failure; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait, unless the webhook asks for a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The longest wait that a webhook may ask for.
const LONGEST_ASKED: u64 = 3_600;
/// How often an event is sent to a webhook that answers that it does not want it.
const REFUSALS: u32 = 5;

/// What became of one request.
enum Outcome {
    Heard,
    /// The webhook says that the event is wrong.
    Refused(u16),
    /// Not now: perhaps it is told when, in seconds.
    Later(String, Option<u64>),
}

/// Sends the events of one webhook until `stop` says so: then what is on its way is seen through, and the
/// rest is for the server's next life.
pub async fn tell(server: Arc<Server>, webhook: Webhook, mut stop: watch::Receiver<bool>) {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .user_agent("usher")
        .tls_config(tls)
        .build()
        .into();
    let webhook = Arc::new(webhook);
    let mut news = server.events_news();
    let mut refusals = HashMap::new();
    let mut failures = 0;
    // An error means that whoever could say so is gone.
    while !*stop.borrow() && stop.has_changed().is_ok() {
        news.borrow_and_update();
        let due = match server.events_for(&webhook, AT_ONCE).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(event = "webhook-storage-failed", webhook = webhook.name, %error);
                pause(LONGEST_WAIT, &mut stop).await;
                continue;
            }
        };
        if due.is_empty() {
            tokio::select! {
                _ = news.changed() => continue,
                () = stopped(&mut stop) => return,
            }
        }
        let mut requests = JoinSet::new();
        for (place, event) in due {
            let (agent, webhook, server) = (agent.clone(), webhook.clone(), server.clone());
            requests.spawn_blocking(move || {
                let outcome = send(&agent, &webhook, &server, &event);
                (place, event, outcome)
            });
        }
        let (mut over, mut later) = (Vec::new(), None);
        while let Some(done) = requests.join_next().await {
            let Ok((place, event, outcome)) = done else { continue };
            let label = match &outcome {
                Outcome::Heard => "heard",
                Outcome::Refused(_) => "refused",
                Outcome::Later(..) => "failed",
            };
            server.metrics.webhook_asked(label);
            if let Some(wait) = judge(&server, &webhook, &event, outcome, &mut refusals) {
                later = later.max(Some(wait));
            } else {
                refusals.remove(&event.id);
                over.push(place);
            }
        }
        forget(&server, &webhook, over).await;
        failures = if later.is_some() { failures + 1 } else { 0 };
        if let Some(asked) = later {
            pause(asked.max(wait(failures)), &mut stop).await;
        }
    }
}

async fn pause(length: Duration, stop: &mut watch::Receiver<bool>) {
    let _ = timeout(length, stopped(stop)).await;
}

/// Nothing if the event is over; else how long to wait at least before it is sent again.
fn judge(
    server: &Server,
    webhook: &Webhook,
    event: &Event,
    outcome: Outcome,
    refusals: &mut HashMap<String, u32>,
) -> Option<Duration> {
    let name = &webhook.name;
    let (why, asked) = match outcome {
        Outcome::Heard => return None,
        Outcome::Refused(status) => {
            let count = refusals.entry(event.id.clone()).or_default();
            *count += 1;
            if *count >= REFUSALS {
                tracing::error!(event = "webhook-refuses", webhook = name, id = event.id, status);
                return None;
            }
            (format!("it answers {status}"), None)
        }
        Outcome::Later(why, asked) => (why, asked),
    };
    let age = server.clock.now().seconds_since(event.at);
    if webhook.keep.get().is_some_and(|keep| age > keep) {
        tracing::error!(event = "webhook-gives-up", webhook = name, id = event.id, why);
        return None;
    }
    tracing::warn!(event = "webhook-not-heard", webhook = name, id = event.id, why);
    Some(Duration::from_secs(asked.unwrap_or(0).min(LONGEST_ASKED)))
}

async fn forget(server: &Server, webhook: &Webhook, over: Vec<Place>) {
    if over.is_empty() {
        return;
    }
    if let Err(error) = server.events_over(over).await {
        // They are sent once more: by their ids whoever hears them knows.
        tracing::error!(event = "webhook-storage-failed", webhook = webhook.name, %error);
        sleep(FIRST_WAIT).await;
    }
}

/// How long to wait after so many failures, a quarter of it by chance.
fn wait(failures: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let longest = doubled.min(LONGEST_WAIT);
    let [chance] = random::bytes::<1>();
    longest.mul_f64(0.75 + f64::from(chance) / 1024.0)
}

fn send(agent: &Agent, webhook: &Webhook, server: &Server, event: &Event) -> Outcome {
    let answer = agent
        .post(&webhook.url)
        .header("content-type", "application/secevent+jwt")
        .header("accept", "application/json")
        .send(webhook.token(server, event));
    match answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let after = answer.headers().get("retry-after");
            let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
            match status {
                200..=299 => Outcome::Heard,
                // Those are about the event; the others pass, as when a receiver is put in place anew.
                400 | 413 | 415 | 422 => Outcome::Refused(status),
                _ => Outcome::Later(format!("it answers {status}"), after),
            }
        }
        Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Outcome::Later("nobody listens there".into(), None)
        }
        Err(error) => Outcome::Later(error.to_string(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_differ_by_chance() {
        for (failures, seconds) in [(1, 1.0), (2, 2.0), (5, 16.0), (20, 300.0), (u32::MAX, 300.0)] {
            let waits: Vec<_> = (0..64).map(|_| wait(failures).as_secs_f64()).collect();
            assert!(
                waits.iter().all(|wait| (0.75 * seconds..=seconds).contains(wait)),
                "{waits:?}"
            );
            assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
        }
    }
}
