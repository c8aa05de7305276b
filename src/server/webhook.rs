//! Ends of sessions, told to other programs: one event for each session that had logged in, whatever
//! ended it, in the shape of OpenID CAEP (`session-revoked`) as a signed security event token
//! (RFC 8417). What is told, and that it is kept until it was heard, is decided here; the crate `net`
//! sends it (RFC 8935).
//!
//! ```text
//!   see_off ──► waiting ──► one batch for all that waits ──► webhook (table) ──► net::webhook ──► 2xx
//!                                                                  └───── stays until then ◄──┘
//! ```
//!
//! At least once: an event has the same id and the same signature however often it is sent. Deliberately
//! absent: events about connections that never logged in, and orders of any kind in the answer.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::watch;

use crate::{
    Server, Session,
    clock::Millis,
    config::Webhook,
    end::{Actor, EndRecord, Reason},
    store::{Batch, Range, SERVER, StoreError, Table},
};

/// Events that wait to be heard, by the webhook's name and their order.
pub static EVENTS: Table =
    Table { name: "webhook", about: "events for webhooks that were not heard yet" };

/// The type of event of OpenID CAEP.
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
/// What we know beyond it.
const ENDED: &str = "urn:usher:event:session-ended";
/// Events that wait to be written at most; beyond it they are lost, which the log tells.
const BACKLOG: usize = 100_000;
/// Events that are written at once.
const BATCH: usize = 256;
/// Before the disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often one batch is tried.
const TRIES: usize = 30;

/// An event as it waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its id, by which whoever hears it twice knows that.
    pub id: String,
    /// When it happened.
    pub at: Millis,
    /// What it is about, as `sub_id` (RFC 9493).
    subject: Value,
    /// What happened, as `events` (RFC 8417).
    events: Value,
}

/// Where an event is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(Bytes);

/// Events on their way to disk.
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    /// Grows when events were written: there is something to send.
    written: watch::Sender<u64>,
}

#[derive(Default)]
struct Waiting {
    rows: Vec<(Bytes, Bytes)>,
    lost: usize,
    writing: bool,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { waiting: Mutex::default(), written: watch::Sender::new(0) }
    }
}

impl Webhook {
    /// Whether it is told of ends for this reason.
    fn wants(&self, reason: Reason) -> bool {
        self.reasons.is_empty() || self.reasons.iter().any(|name| name == reason.as_str())
    }

    /// What is sent of an event: a security event token, the same each time.
    #[must_use]
    pub fn token(&self, server: &Server, event: &Event) -> String {
        let header = json!({ "typ": "secevent+jwt", "alg": "HS256" });
        let claims = json!({
            "iss": format!("xmpp:{}", server.default_host()),
            "aud": self.url,
            "jti": event.id,
            "iat": event.at.0 / 1000,
            "sub_id": event.subject,
            "events": event.events,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.key.expose().as_bytes())
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("{signed}.{signature}")
    }
}

impl Event {
    /// The end of a session that had logged in.
    fn ended(server: &Server, session: &Session, record: &EndRecord) -> Option<Self> {
        let me = session.identity()?;
        let by = match (&record.by, record.reason) {
            (Actor::Admin(_), _) => "admin",
            (Actor::Owner(_) | Actor::Peer, _) => "user",
            (Actor::Server, Reason::Internal | Reason::Lost | Reason::Shutdown) => "system",
            (Actor::Server, _) => "policy",
        };
        let id = session.id.to_string();
        let user = json!({ "format": "uri", "uri": format!("xmpp:{}", in_uri(me.jid.as_str())) });
        let text = record.text.as_deref().unwrap_or(record.reason.text());
        Some(Self {
            id: format!("ended-{id}"),
            at: record.at,
            subject: json!({
                "format": "complex",
                "user": user,
                "session": { "format": "opaque", "id": id },
            }),
            events: json!({
                REVOKED: {
                    "event_timestamp": record.at.0 / 1000,
                    "initiating_entity": by,
                    "reason_admin": { "en": record.reason.as_str() },
                    "reason_user": { "en": text },
                },
                ENDED: {
                    "session": id,
                    "server": server.default_host().as_str(),
                    "jid": session.full().map_or(me.jid.as_str(), |full| full.as_str()),
                    "reason": record.reason.as_str(),
                    "level": record.level,
                    "mechanism": me.mechanism.as_str(),
                    "client": me.client().map(|client| client.id.to_string()),
                    "grant": me.grant.map(|grant| grant.to_string()),
                    "token": me.token.map(|token| token.to_string()),
                    "since": me.since.to_string(),
                    "at": record.at.to_string(),
                },
            }),
        })
    }
}

impl Server {
    /// Notes the end of a session for whoever wants to be told; never waits.
    pub(crate) fn announce_end(self: &Arc<Self>, session: &Session, record: &EndRecord) {
        if self.config.webhook.is_empty() || record.reason == Reason::Resumed {
            return;
        }
        let Some(event) = Event::ended(self, session, record) else { return };
        let Ok(value) = serde_json::to_vec(&event).map(Bytes::from) else { return };
        let mut waiting = self.outbox.waiting.lock();
        for webhook in self.config.webhook.iter().filter(|webhook| webhook.wants(record.reason)) {
            if waiting.rows.len() >= BACKLOG {
                waiting.lost += 1;
                continue;
            }
            let key = [prefix(&webhook.name).as_ref(), &self.stamp().to_be_bytes()].concat();
            waiting.rows.push((key.into(), value.clone()));
        }
        if !waiting.rows.is_empty() && !std::mem::replace(&mut waiting.writing, true) {
            let server = self.clone();
            self.spawn(async move { server.write_events().await });
        }
    }

    async fn write_events(self: Arc<Self>) {
        loop {
            let (rows, lost): (Vec<_>, usize) = {
                let mut waiting = self.outbox.waiting.lock();
                if waiting.rows.is_empty() {
                    waiting.writing = false;
                    drop(waiting);
                    self.outbox.written.send_modify(|count| *count += 1);
                    return;
                }
                let count = waiting.rows.len().min(BATCH);
                (waiting.rows.drain(..count).collect(), std::mem::take(&mut waiting.lost))
            };
            if lost > 0 {
                tracing::error!(event = "webhook-events-lost", count = lost);
            }
            let batch = rows
                .into_iter()
                .fold(Batch::new(), |batch, (key, value)| batch.put(&EVENTS, SERVER, key, value));
            for tries in 1.. {
                match self.store.commit(batch.clone()).await {
                    Ok(()) => break,
                    Err(error) if tries == TRIES => {
                        tracing::error!(event = "webhook-events-lost", %error);
                        break;
                    }
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
            self.outbox.written.send_modify(|count| *count += 1);
        }
    }

    /// Waits until all events that have been noted are written.
    pub(crate) async fn events_written(&self) {
        let mut written = self.outbox.written.subscribe();
        let idle = |_: &u64| !self.outbox.waiting.lock().writing;
        // The sender is a part of the server.
        let _ = written.wait_for(idle).await;
    }

    /// Changes whenever there may be something new to send.
    #[must_use]
    pub fn events_news(&self) -> watch::Receiver<u64> {
        self.outbox.written.subscribe()
    }

    /// The oldest events that a webhook has not heard.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn events_for(
        &self,
        webhook: &Webhook,
        limit: usize,
    ) -> Result<Vec<(Place, Event)>, StoreError> {
        let prefix = prefix(&webhook.name);
        let mut end = prefix.to_vec();
        // The prefix ends with a zero.
        if let Some(last) = end.last_mut() {
            *last = 1;
        }
        let range =
            Range { after: Some(prefix), before: Some(end.into()), limit, ..Range::default() };
        let rows = self.store.rows(&EVENTS, SERVER, range).await?;
        let read = |row: &crate::store::Row| {
            let corrupt = |why: serde_json::Error| StoreError::Corrupt {
                table: EVENTS.name,
                why: why.to_string(),
            };
            Ok((Place(row.key.clone()), serde_json::from_slice(&row.value).map_err(corrupt)?))
        };
        rows.iter().map(read).collect()
    }

    /// Forgets events that were heard, or that nobody will hear.
    ///
    /// # Errors
    /// When storage fails: they will be sent again.
    pub async fn events_over(&self, places: Vec<Place>) -> Result<(), StoreError> {
        let delete = |batch: Batch, Place(key)| batch.delete(&EVENTS, SERVER, key);
        self.store.commit(places.into_iter().fold(Batch::new(), delete)).await
    }
}

/// A bare JID as it stands in a URI (RFC 5122): what is no plain letter, digit or mark is encoded.
fn in_uri(jid: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@!$&()*+,;=".contains(&byte);
    let one =
        |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    jid.bytes().map(one).collect()
}

/// What the keys of a webhook's events begin with.
fn prefix(name: &str) -> Bytes {
    [name.as_bytes(), &[0]].concat().into()
}
