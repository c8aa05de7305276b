//! What a run found: figures with units, and faults. Printed for people or as one JSON object.

use std::{fmt::Write, time::Duration};

use serde_json::{Map, Value, json};

use crate::latency::Latency;

/// The unit of a figure; it also ends the figure's name in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Count,
    Micros,
    PerSecond,
    Percent,
    Seconds,
    Times,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Self::Bytes => "_bytes",
            Self::Count => "",
            Self::Micros => "_us",
            Self::PerSecond => "_per_second",
            Self::Percent => "_percent",
            Self::Seconds => "_seconds",
            Self::Times => "",
        }
    }

    /// A value with its unit, for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Bytes if value.abs() >= 1e6 => format!("{:.1} MiB", value / 1_048_576.0),
            Self::Bytes => format!("{value:.0} B"),
            Self::Count => format!("{value:.0}"),
            Self::Micros if value >= 1e6 => format!("{:.2} s", value / 1e6),
            Self::Micros if value >= 1e4 => format!("{:.1} ms", value / 1e3),
            Self::Micros => format!("{value:.1} µs"),
            Self::PerSecond => format!("{value:.0} /s"),
            Self::Percent => format!("{value:.2} %"),
            Self::Seconds => format!("{value:.1} s"),
            Self::Times => format!("{value:.1}"),
        }
    }
}

struct Figure {
    name: String,
    value: f64,
    unit: Unit,
}

/// The outcome of one run.
pub struct Report {
    title: String,
    figures: Vec<Figure>,
    faults: Vec<String>,
}

impl Report {
    /// An empty report; the first word of the title names it in JSON.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), figures: Vec::new(), faults: Vec::new() }
    }

    /// Adds a figure; the name is words joined by `_`, without the unit.
    pub fn figure(&mut self, name: impl Into<String>, value: f64, unit: Unit) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    /// Adds a duration.
    pub fn micros(&mut self, name: impl Into<String>, took: Duration) {
        self.figure(name, took.as_nanos() as f64 / 1e3, Unit::Micros);
    }

    /// Adds the percentiles of a histogram.
    pub fn latency(&mut self, name: &str, latency: &Latency) {
        for (label, percent) in [("p50", 50.0), ("p95", 95.0), ("p99", 99.0)] {
            self.micros(format!("{name}_{label}"), latency.percentile(percent));
        }
        self.micros(format!("{name}_max"), latency.max());
    }

    /// Adds what makes the run a failure.
    pub fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    /// A figure by name.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// Whether nothing was lost, reordered, doubled or refused.
    pub fn clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// One object: `run`, `ok`, the figures and `faults`.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        let name = self.title.split(' ').next().unwrap_or_default();
        object.insert("run".to_owned(), json!(name));
        object.insert("ok".to_owned(), json!(self.clean()));
        for Figure { name, value, unit } in &self.figures {
            let whole = matches!(unit, Unit::Bytes | Unit::Count);
            let value = if whole { json!(value.round() as i64) } else { json!(thousandth(*value)) };
            object.insert(format!("{name}{}", unit.suffix()), value);
        }
        object.insert("faults".to_owned(), json!(self.faults));
        Value::Object(object)
    }

    /// A block of lines for people.
    pub fn text(&self) -> String {
        let width = self.figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
        let mut out = format!("{}\n", self.title);
        for Figure { name, value, unit } in &self.figures {
            let label = name.replace('_', " ");
            let _ = writeln!(out, "  {label:<width$}  {}", unit.show(*value));
        }
        for fault in &self.faults {
            let _ = writeln!(out, "  fault: {fault}");
        }
        out
    }
}

fn thousandth(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_carry_the_unit_and_faults_decide() {
        let mut report = Report::new("logins of many");
        report.figure("server_cpu_per_login", 12.34567, Unit::Micros);
        report.figure("logins", 3.0, Unit::Count);
        assert_eq!(report.json()["server_cpu_per_login_us"], 12.346);
        assert_eq!(report.json()["logins"], 3);
        assert_eq!(report.json()["run"], "logins");
        assert_eq!(report.json()["ok"], true);
        report.fault("one was lost");
        assert_eq!(report.json()["ok"], false);
        assert!(report.text().contains("fault: one was lost"));
        assert!(!report.clean());
    }
}
