//! What a client is told of a command that was carried out: words, a table, fields. Derived from the
//! rows and the outcome; what a row means is the command's to know.

use serde_json::{Map, Value};
use server::command::{Collected, Command, Done, Shape, ValueKind};
use wire::{StanzaError, Xml};

use super::{
    form::{self, Kind, Told},
    request::{refused, words},
};

/// Rows of one answer.
pub const ROWS: usize = 200;
/// About how many bytes of values; rows beyond are left out.
const BYTES: usize = 128 * 1024;

/// How grave a note is (XEP-0050 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    /// It was done.
    Info,
    /// There was nothing to do, or there is more.
    Warn,
    /// It was not done.
    Error,
}

impl Gravity {
    /// The value of the attribute `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What a client is told in the end.
#[derive(Default)]
pub struct Report {
    /// Words for people.
    pub notes: Vec<(Gravity, String)>,
    /// Data forms, one after the other.
    pub forms: Xml,
    /// What is to be dropped when the client has been told.
    pub told: Vec<Collected>,
}

impl Report {
    /// Adds words.
    pub fn note(&mut self, gravity: Gravity, text: impl Into<String>) {
        self.notes.push((gravity, text.into()));
    }

    /// Adds how a call ended. The outcome, if it came to one.
    ///
    /// # Errors
    /// When the caller was not let, or called wrongly.
    pub fn outcome(&mut self, collected: &Collected) -> Result<Option<Done>, StanzaError> {
        match &collected.outcome {
            Err(error) if error.usage || error.forbidden => return Err(refused(error)),
            Err(error) => self.note(Gravity::Error, words(error)),
            Ok(done) => {
                let gravity = if done.matched { Gravity::Info } else { Gravity::Warn };
                if !done.message.is_empty() {
                    self.note(gravity, done.message.clone());
                }
                return Ok(Some(done.clone()));
            }
        }
        Ok(None)
    }

    /// Adds that there is more than is shown.
    pub fn left_out(&mut self, count: usize) {
        if count > 0 {
            let text = format!("{count} more are not shown; ask for less, or for the next ones");
            self.note(Gravity::Warn, text);
        }
    }
}

/// The report of a command of the table that was called with these arguments.
///
/// # Errors
/// When the caller was not let, or called wrongly.
pub fn of(
    command: &Command,
    kind: &str,
    args: &Map<String, Value>,
    mut collected: Collected,
) -> Result<Report, StanzaError> {
    let mut report = Report::default();
    let done = report.outcome(&collected)?;
    let rows = std::mem::take(&mut collected.rows);
    match command.shape {
        Shape::Record => {
            for row in &rows {
                form::tell(&mut report.forms, kind, &fields(row));
            }
        }
        Shape::List(usual) | Shape::Outcome(usual) | Shape::Stream(usual) if !rows.is_empty() => {
            let columns = columns(command, usual, args, &rows);
            let shown = table(&mut report.forms, &columns, &rows);
            report.left_out(rows.len() - shown + collected.left_out);
        }
        _ => {}
    }
    if let Some(done) = done.filter(|done| !done.fields.is_empty()) {
        form::tell(&mut report.forms, kind, &fields(&done.fields));
    }
    report.told.push(collected);
    Ok(report)
}

/// The columns to show: those that were asked for; else the usual ones, and what the rows have besides
/// unless one could have asked for it.
fn columns(
    command: &Command,
    usual: &'static [&'static str],
    args: &Map<String, Value>,
    rows: &[Map<String, Value>],
) -> Vec<String> {
    let choice = command.args.iter().find(|arg| matches!(arg.kind, ValueKind::Columns(_)));
    let chosen = choice.and_then(|arg| args.get(arg.name)?.as_str());
    if let Some(chosen) = chosen {
        return server::command::columns(chosen).map(str::to_owned).collect();
    }
    let mut columns: Vec<String> = usual.iter().map(|name| (*name).to_owned()).collect();
    if choice.is_none() {
        for name in rows.iter().flat_map(Map::keys) {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
    }
    columns
}

/// Writes as many rows as there is room for. How many these are.
fn table(xml: &mut Xml, columns: &[String], rows: &[Map<String, Value>]) -> usize {
    let mut room = BYTES;
    let mut cells = Vec::new();
    for row in rows {
        let row: Vec<Vec<String>> = columns.iter().map(|name| values(row.get(name))).collect();
        let names: usize = columns.iter().map(|name| name.len() + 40).sum();
        let bytes: usize =
            names + row.iter().flatten().map(|value| value.len() + 15).sum::<usize>();
        let Some(left) = room.checked_sub(bytes) else { break };
        room = left;
        cells.push(row);
    }
    let typed = |name: &String| {
        let kind = kind(name, rows.iter().filter_map(|row| row.get(name)));
        (name.clone(), kind)
    };
    let columns: Vec<(String, Kind)> = columns.iter().map(typed).collect();
    form::table(xml, &columns, &cells);
    cells.len()
}

fn fields(row: &Map<String, Value>) -> Vec<Told> {
    let told = |(name, value): (&String, &Value)| Told {
        var: name.clone(),
        label: "",
        kind: kind(name, std::iter::once(value)),
        values: values(Some(value)),
    };
    row.iter().map(told).collect()
}

/// What the values of a name are.
fn kind<'a>(name: &str, values: impl Iterator<Item = &'a Value>) -> Kind {
    let mut kind = None;
    for value in values {
        match value {
            Value::Null => {}
            Value::Array(_) => return Kind::TextMulti,
            Value::Bool(_) if kind.is_none() => kind = Some(Kind::Boolean),
            Value::Bool(_) if kind == Some(Kind::Boolean) => {}
            _ => kind = Some(Kind::TextSingle),
        }
    }
    match kind {
        Some(Kind::TextSingle) if name == "jid" => Kind::JidSingle,
        Some(kind) => kind,
        None => Kind::TextSingle,
    }
}

/// A value as texts: none for what is not there, several for a list.
pub fn values(value: Option<&Value>) -> Vec<String> {
    let one = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.iter().map(one).collect(),
        Some(value) => vec![one(value)],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(value: Value) -> Vec<Map<String, Value>> {
        let Value::Array(rows) = value else { panic!("no rows") };
        rows.into_iter().filter_map(|row| row.as_object().cloned()).collect()
    }

    #[test]
    fn values_keep_their_kind() {
        let rows = rows(json!([
            { "jid": "a@b", "on": true, "list": ["x", "y"], "none": null, "n": 3, "mixed": true },
            { "jid": null, "on": null, "list": null, "none": null, "n": 4, "mixed": "x" },
        ]));
        let of = |name: &str| kind(name, rows.iter().filter_map(|row| row.get(name)));
        assert_eq!((of("jid"), of("on")), (Kind::JidSingle, Kind::Boolean));
        assert_eq!((of("list"), of("none")), (Kind::TextMulti, Kind::TextSingle));
        assert_eq!((of("n"), of("mixed")), (Kind::TextSingle, Kind::TextSingle));
        assert_eq!(values(rows[0].get("list")), ["x", "y"]);
        assert!(values(rows[0].get("none")).is_empty());
        assert_eq!(values(Some(&json!({ "a": [1] }))), [r#"{"a":[1]}"#]);
    }

    #[test]
    fn a_table_has_the_usual_columns_and_what_cannot_be_asked_for() {
        let command = |name| server::command::find(name).expect("is in the table");
        let rows = rows(json!([{ "id": "1", "jid": "a@b", "extra": 1 }]));
        let (list, outcome) = (command("session list"), command("session end"));
        let usual = &["jid", "id"];
        assert_eq!(columns(list, usual, &Map::new(), &rows), ["jid", "id"]);
        let chosen = json!({ "columns": "extra, id" }).as_object().cloned().expect("is one");
        assert_eq!(columns(list, usual, &chosen, &rows), ["extra", "id"]);
        assert_eq!(columns(outcome, usual, &Map::new(), &rows), ["jid", "id", "extra"]);
    }

    #[test]
    fn a_table_ends_where_there_is_no_more_room() {
        let text = "x".repeat(BYTES / 4);
        let rows = rows(json!([{ "a": text }, { "a": text }, { "a": text }, { "a": text }]));
        assert_eq!(table(&mut Xml::new(), &["a".into()], &rows), 3);
    }
}
