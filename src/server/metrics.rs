//! Numbers for whoever watches the server, in the form of OpenMetrics. One table: a metric stands in
//! [`Metrics::new`] with its name, what it means and its labels, and nowhere else; the reference and the
//! dashboard are held against it.
//!
//! What happens is counted where it happens, at the cost of an atomic addition; what is there is counted
//! when somebody asks. No label has values that a peer can make up.

use std::{
    fmt::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry, Unit},
};
use wire::Mechanism;

use crate::{
    Server,
    end::Reason,
    store::{self, Batch, Fetch, Owner, Range, Row, SharedStore, Store, StoreError},
};

/// Labels of a metric: name and value.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The counts of a server.
pub struct Metrics {
    table: Mutex<Table>,
    logins: Family<Labels<1>, Counter>,
    login_failures: Family<Labels<2>, Counter>,
    ends: Family<Labels<1>, Counter>,
    resumes: Family<Labels<1>, Counter>,
    tokens: Family<Labels<1>, Counter>,
    webhooks: Family<Labels<1>, Counter>,
    sessions: Family<Labels<1>, Gauge>,
    hibernating: Gauge,
    queue_bytes: Gauge,
    queue_stanzas: Gauge,
    uptime: Gauge,
    storage: Arc<Latency>,
    /// Sums over all labels of what these are of.
    totals: Sums,
}

#[derive(Default)]
struct Sums {
    logins: AtomicU64,
    refused: AtomicU64,
    ends: AtomicU64,
}

/// How often something has happened since the server was started.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// Logins.
    pub logins: u64,
    /// Logins that were refused.
    pub refused: u64,
    /// Sessions that ended.
    pub ends: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    fn new() -> Self {
        let mut table = Table::default();
        let (logins, login_failures) = (Family::default(), Family::default());
        let (ends, resumes, tokens) = (Family::default(), Family::default(), Family::default());
        let (webhooks, sessions) = (Family::default(), Family::default());
        let (hibernating, uptime) = (Gauge::default(), Gauge::default());
        let (queue_bytes, queue_stanzas) = (Gauge::default(), Gauge::default());
        let storage = Arc::new(Latency::default());
        let Latency { operations, failures } = &*storage;
        table.counter("logins", "mechanism", "Logins", &logins);
        table.counter(
            "login_failures",
            "mechanism, reason",
            "Logins that were refused",
            &login_failures,
        );
        table.counter("session_ends", "reason", "Sessions that ended", &ends);
        table.counter(
            "resumes",
            "outcome",
            "Streams that were to be resumed: `resumed`, or the condition of the refusal",
            &resumes,
        );
        table.counter("tokens", "event", "Tokens that were `minted` or `revoked`", &tokens);
        table.counter(
            "webhook_requests",
            "outcome",
            "Requests to webhooks: `heard`, `refused` or `failed`",
            &webhooks,
        );
        table.gauge(
            "sessions",
            "stage",
            "Sessions that are there; those that hibernate have the stage that they had",
            None,
            &sessions,
        );
        table.gauge(
            "sessions_hibernating",
            "",
            "Sessions without a connection that wait to be resumed",
            None,
            &hibernating,
        );
        table.gauge(
            "queue",
            "",
            "What waits to be sent to clients, or for their word that they have it",
            Some(Unit::Bytes),
            &queue_bytes,
        );
        table.gauge("queue_stanzas", "", "The same in stanzas", None, &queue_stanzas);
        table.gauge("uptime", "", "Since the server was started", Some(Unit::Seconds), &uptime);
        table.add(
            "storage",
            "operation",
            "histogram",
            "How long storage takes; after a `commit` it is on the disk",
            Some(Unit::Seconds),
            operations,
        );
        table.counter("storage_failures", "operation", "Requests to storage that failed", failures);
        Self {
            table: Mutex::new(table),
            logins,
            login_failures,
            ends,
            resumes,
            tokens,
            webhooks,
            sessions,
            hibernating,
            queue_bytes,
            queue_stanzas,
            uptime,
            storage,
            totals: Sums::default(),
        }
    }

    /// All metrics as Markdown, for the documentation.
    #[must_use]
    pub fn reference() -> String {
        let mut out = String::from(
            "# Metrics\n\n\
             At `/metrics`, in the text format of OpenMetrics; what it takes to read them is in\n\
             [operations.md](../operations.md). `grafana.json` beside it is a dashboard of them.\n\n\
             | Name | Labels | Type | Meaning |\n|---|---|---|---|\n",
        );
        for Line { name, labels, kind, help } in &Self::new().table.lock().lines {
            let _ = writeln!(out, "| `{name}` | {labels} | {kind} | {help} |");
        }
        out
    }

    pub(crate) fn logged_in(&self, mechanism: Mechanism) {
        self.totals.logins.fetch_add(1, Relaxed);
        self.logins.get_or_create(&[("mechanism", mechanism.as_str())]).inc();
    }

    pub(crate) fn login_refused(&self, mechanism: Option<Mechanism>, reason: &'static str) {
        self.totals.refused.fetch_add(1, Relaxed);
        let mechanism = mechanism.map_or("none", Mechanism::as_str);
        let labels = [("mechanism", mechanism), ("reason", reason)];
        self.login_failures.get_or_create(&labels).inc();
    }

    pub(crate) fn ended(&self, reason: Reason) {
        self.totals.ends.fetch_add(1, Relaxed);
        self.ends.get_or_create(&[("reason", reason.as_str())]).inc();
    }

    pub(crate) fn resumed(&self, outcome: &'static str) {
        self.resumes.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn token(&self, event: &'static str) {
        self.tokens.get_or_create(&[("event", event)]).inc();
    }

    /// A webhook was sent an event.
    pub fn webhook_asked(&self, outcome: &'static str) {
        self.webhooks.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// How often it has happened so far, whichever way.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        Totals {
            logins: of(&self.totals.logins),
            refused: of(&self.totals.refused),
            ends: of(&self.totals.ends),
        }
    }

    /// All of it, in the text format of OpenMetrics. Walks all sessions.
    #[must_use]
    pub fn text(&self, server: &Server) -> String {
        let counts = server.registry.counts();
        let stages = [
            ("unauthed", counts.unauthed),
            ("c2s", counts.c2s),
            ("bound", counts.bound),
            ("available", counts.available),
            ("interested", counts.interested),
        ];
        for (stage, count) in stages {
            self.sessions.get_or_create(&[("stage", stage)]).set(number(count));
        }
        self.hibernating.set(number(counts.hibernating));
        let (mut bytes, mut stanzas) = (0, 0);
        for session in server.registry.all() {
            bytes += session.mailbox.bytes();
            stanzas += session.mailbox.len();
        }
        self.queue_bytes.set(number(bytes));
        self.queue_stanzas.set(number(stanzas));
        let uptime = server.clock.now().seconds_since(server.started);
        self.uptime.set(i64::try_from(uptime).unwrap_or(i64::MAX));
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.table.lock().registry) {
            // Writing to a string does not fail; if it does, whoever reads it is told.
            let _ = write!(text, "# {error}");
        }
        text
    }

    /// The same store, with its time taken.
    pub(crate) fn timed(&self, store: SharedStore) -> SharedStore {
        Arc::new(Timed { store, latency: self.storage.clone() })
    }
}

/// What is registered, and what it is called.
struct Table {
    registry: Registry,
    lines: Vec<Line>,
}

/// A metric, for the documentation.
struct Line {
    name: String,
    labels: &'static str,
    kind: &'static str,
    help: &'static str,
}

impl Default for Table {
    fn default() -> Self {
        Self { registry: Registry::with_prefix("usher"), lines: Vec::new() }
    }
}

impl Table {
    fn counter(
        &mut self,
        name: &'static str,
        labels: &'static str,
        help: &'static str,
        metric: &(impl Metric + Clone),
    ) {
        self.add(name, labels, "counter", help, None, metric);
    }

    fn gauge(
        &mut self,
        name: &'static str,
        labels: &'static str,
        help: &'static str,
        unit: Option<Unit>,
        metric: &(impl Metric + Clone),
    ) {
        self.add(name, labels, "gauge", help, unit, metric);
    }

    fn add(
        &mut self,
        name: &'static str,
        labels: &'static str,
        kind: &'static str,
        help: &'static str,
        unit: Option<Unit>,
        metric: &(impl Metric + Clone),
    ) {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let of = unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        self.lines.push(Line { name: format!("usher_{name}{of}{suffix}"), labels, kind, help });
        match unit {
            Some(unit) => self.registry.register_with_unit(name, help, unit, metric.clone()),
            None => self.registry.register(name, help, metric.clone()),
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How long storage takes, and how often it fails.
struct Latency {
    operations: Family<Labels<1>, Histogram>,
    failures: Family<Labels<1>, Counter>,
}

impl Default for Latency {
    fn default() -> Self {
        // From 10 µs, a row from memory, to 5 s, a disk that hangs.
        let buckets = || Histogram::new(exponential_buckets(0.000_01, 3.0, 13));
        Self { operations: Family::new_with_constructor(buckets), failures: Family::default() }
    }
}

impl Latency {
    fn take<T: 'static>(self: &Arc<Self>, operation: &'static str, fetch: Fetch<T>) -> Fetch<T> {
        let (latency, begin) = (self.clone(), Instant::now());
        Box::pin(async move {
            let result: Result<T, StoreError> = fetch.await;
            let labels = [("operation", operation)];
            latency.operations.get_or_create(&labels).observe(begin.elapsed().as_secs_f64());
            if result.is_err() {
                latency.failures.get_or_create(&labels).inc();
            }
            result
        })
    }
}

/// A store whose time is taken.
struct Timed {
    store: SharedStore,
    latency: Arc<Latency>,
}

impl Store for Timed {
    fn get(&self, table: &'static store::Table, owner: Owner, key: &[u8]) -> Fetch<Option<Bytes>> {
        self.latency.take("get", self.store.get(table, owner, key))
    }

    fn rows(&self, table: &'static store::Table, owner: Owner, range: Range) -> Fetch<Vec<Row>> {
        self.latency.take("rows", self.store.rows(table, owner, range))
    }

    fn count(&self, table: &'static store::Table, owner: Owner) -> Fetch<u64> {
        self.latency.take("count", self.store.count(table, owner))
    }

    fn commit(&self, batch: Batch) -> Fetch<()> {
        self.latency.take("commit", self.store.commit(batch))
    }

    fn backup(&self, to: &Path) -> Fetch<()> {
        self.latency.take("backup", self.store.backup(to))
    }

    fn close(&self) -> Fetch<()> {
        self.store.close()
    }
}
