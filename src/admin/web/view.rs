//! What commands give, as templates read it: rows by the names of their fields, and times that people
//! and scripts understand. Whatever is shown is escaped by the template.

use std::fmt;

use askama::filters::HtmlSafe;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value};

/// A row of a command.
#[derive(Clone, Debug, Default)]
pub(super) struct Row(pub(super) Map<String, Value>);

impl Row {
    /// A text; empty if there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A text, or these words if there is none.
    pub(super) fn text_or<'a>(&'a self, name: &str, other: &'a str) -> &'a str {
        Some(self.text(name)).filter(|text| !text.is_empty()).unwrap_or(other)
    }

    /// Whatever it is, as text.
    pub(super) fn show(&self, name: &str) -> String {
        shown(self.0.get(name).unwrap_or(&Value::Null))
    }

    /// Whether it is true.
    pub(super) fn is(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// A whole number; 0 if it is none.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or_default()
    }

    /// A point in time.
    pub(super) fn time(&self, name: &str) -> Time {
        Time::parse(self.text(name))
    }

    /// The row within.
    pub(super) fn inner(&self, name: &str) -> Option<Row> {
        self.0.get(name).and_then(Value::as_object).cloned().map(Row)
    }
}

/// A value as people read it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let pair = |(name, value): (&String, &Value)| match shown(value) {
                empty if empty.is_empty() => name.clone(),
                text => format!("{name} {text}"),
            };
            fields.iter().map(pair).collect::<Vec<_>>().join(", ")
        }
    }
}

/// A point in time, or none. Shown as an element that scripts can put into the reader's own time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Time(Option<Timestamp>);

impl Time {
    pub(super) fn parse(text: &str) -> Self {
        Self(text.parse().ok())
    }

    /// The minute that it is in.
    pub(super) fn minute(&self) -> Option<i64> {
        self.0.map(|at| at.as_second() / 60)
    }

    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(at) = self.0 else { return f.write_str("–") };
        let words = at.to_zoned(TimeZone::UTC).strftime("%-d %b %Y, %H:%M UTC");
        write!(f, "<time datetime=\"{at}\">{words}</time>")
    }
}

/// Nothing in it is anybody else's text.
impl HtmlSafe for Time {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_is_one_or_a_dash_and_never_what_somebody_wrote() {
        let time = Time::parse("2026-11-24T18:05:00Z").to_string();
        assert_eq!(time, "<time datetime=\"2026-11-24T18:05:00Z\">24 Nov 2026, 18:05 UTC</time>");
        assert_eq!(Time::parse("<b>").to_string(), "–");
    }

    #[test]
    fn values_are_shown_as_people_read_them() {
        let value = json!({ "jid": "a@b", "all": true, "selector": ["x", "y"], "none": null });
        assert_eq!(shown(&value), "jid a@b, all yes, selector x, y, none");
    }
}
