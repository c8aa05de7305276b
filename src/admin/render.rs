//! How results look: tables, records, lines and outcomes for people, JSON for programs.
//!
//! For people, times are told as people tell them, and a table drops columns from its right end and
//! wraps cells until it fits the terminal; in JSON everything is there and raw. Either way no
//! character reaches the terminal that could steer it: names, labels and software come from users.
//! Deliberately no colour.

use std::io::{self, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value};
use server::command::{Done, Shape};

/// One row of a result.
pub type Row = Map<String, Value>;

/// How to show results.
#[derive(Clone, Debug)]
pub struct Style {
    /// For programs.
    pub json: bool,
    /// The terminal's width in columns; `None` if it is no terminal: nothing is fitted then.
    pub width: Option<usize>,
    /// The time that others are told relative to.
    pub now: Timestamp,
    /// Where people live who read times of day.
    pub zone: TimeZone,
}

/// Shows the result of one command, piece by piece.
pub struct Page<'a> {
    style: &'a Style,
    shape: Shape,
    out: &'a mut dyn Write,
    /// The columns of a list, if others than its own were asked for.
    chosen: Option<Vec<String>>,
    rows: Vec<Row>,
    shown: usize,
}

impl<'a> Page<'a> {
    /// An empty page.
    pub fn new(style: &'a Style, shape: Shape, out: &'a mut dyn Write) -> Self {
        Self { style, shape, out, chosen: None, rows: Vec::new(), shown: 0 }
    }

    /// A list with these columns instead of its own.
    #[must_use]
    pub fn with_columns(self, columns: Vec<String>) -> Self {
        Self { chosen: Some(columns), ..self }
    }

    /// Takes a row. Rows of a stream, and of a list in JSON, are shown at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn row(&mut self, row: Row) -> io::Result<()> {
        match (self.shape, self.style.json) {
            (Shape::Stream(_), true) => {
                writeln!(self.out, "{}", json(&row.into()))?;
                self.out.flush()
            }
            (Shape::Stream(columns), false) => {
                if self.shown == 0 {
                    writeln!(self.out, "{}", self.line(columns, heading))?;
                }
                self.shown += 1;
                let line = self.line(columns, |column| self.cell(row.get(column), Tense::Clock));
                writeln!(self.out, "{line}")?;
                self.out.flush()
            }
            (Shape::List(_), true) => {
                let before = if self.shown == 0 { "[" } else { ",\n" };
                self.shown += 1;
                write!(self.out, "{before}{}", json(&row.into()))
            }
            _ => {
                self.rows.push(row);
                Ok(())
            }
        }
    }

    /// Shows the end of a command that was done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn done(mut self, done: Done) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        match (self.shape, self.style.json) {
            (Shape::List(_), true) if self.shown == 0 => writeln!(self.out, "[]")?,
            (Shape::List(_), true) => writeln!(self.out, "]")?,
            (Shape::Record, true) => {
                for row in rows {
                    writeln!(self.out, "{}", json(&row.into()))?;
                }
            }
            (Shape::Outcome(_), true) => {
                let mut outcome = Map::new();
                outcome.insert("message".into(), done.message.into());
                outcome.insert("matched".into(), done.matched.into());
                outcome.extend(done.fields);
                outcome.insert("rows".into(), rows.into_iter().map(Value::from).collect());
                writeln!(self.out, "{}", json(&outcome.into()))?;
            }
            (Shape::Stream(_), _) => {}
            (Shape::List(columns), false) => {
                match self.chosen.take() {
                    Some(chosen) => {
                        let chosen: Vec<&str> = chosen.iter().map(String::as_str).collect();
                        self.table(&chosen, &rows)?;
                    }
                    None => self.table(columns, &rows)?,
                }
                if done.matched && !done.message.is_empty() {
                    writeln!(self.out, "{}", plain(&done.message))?;
                }
            }
            (Shape::Record, false) => {
                for (i, row) in rows.iter().enumerate() {
                    if i > 0 {
                        writeln!(self.out)?;
                    }
                    self.record(row.keys().map(String::as_str), row)?;
                }
            }
            (Shape::Outcome(columns), false) => {
                match rows.as_slice() {
                    [row] => self.record(columns.iter().copied(), row)?,
                    rows => self.table(columns, rows)?,
                }
                if done.matched && !done.message.is_empty() {
                    writeln!(self.out, "{}", plain(&done.message))?;
                }
            }
        }
        self.out.flush()
    }

    fn table(&mut self, columns: &[&str], rows: &[Row]) -> io::Result<()> {
        if rows.is_empty() || columns.is_empty() {
            return Ok(());
        }
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| columns.iter().map(|c| self.cell(row.get(*c), Tense::Relative)).collect())
            .collect();
        let shown = self.style.width.map_or(columns.len(), |width| fitting(columns, &cells, width));
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(columns.iter().take(shown).map(|column| heading(column)));
        for row in cells {
            table.add_row(row.into_iter().take(shown));
        }
        match self.style.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        for (column, name) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 2));
            if whole(name) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            } else if self.style.width.is_some() {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(6)));
            }
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        if shown < columns.len() {
            let hidden: Vec<_> = columns.iter().skip(shown).map(|column| heading(column)).collect();
            let hidden = hidden.join(", ");
            writeln!(self.out, "(too narrow for {hidden}; `--json` has everything)")?;
        }
        Ok(())
    }

    fn record<'k>(&mut self, keys: impl Iterator<Item = &'k str>, row: &Row) -> io::Result<()> {
        let lines: Vec<_> =
            keys.map(|key| (heading(key), self.cell(row.get(key), Tense::Both))).collect();
        let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in lines {
            writeln!(self.out, "{name:width$}  {value}")?;
        }
        Ok(())
    }

    fn line(&self, columns: &[&str], cell: impl Fn(&str) -> String) -> String {
        let width = |column: &str| match column {
            "at" => 8,
            "jid" => 32,
            _ if whole(column) => 26,
            _ => 12,
        };
        let cells: Vec<_> = columns
            .iter()
            .map(|column| format!("{:w$}", cell(column), w = width(column)))
            .collect();
        cells.join("  ").trim_end().to_owned()
    }

    fn cell(&self, value: Option<&Value>, tense: Tense) -> String {
        match value {
            None | Some(Value::Null) => "-".into(),
            Some(Value::Bool(true)) => "yes".into(),
            Some(Value::Bool(false)) => "no".into(),
            Some(Value::String(text)) => match text.parse::<Timestamp>() {
                Ok(at) => self.time(at, tense),
                Err(_) => plain(text),
            },
            Some(Value::Array(list)) if list.is_empty() => "-".into(),
            Some(Value::Array(list)) => {
                let list: Vec<_> = list.iter().map(|value| self.cell(Some(value), tense)).collect();
                list.join(", ")
            }
            Some(Value::Object(map)) => {
                let one = |(name, value): (&String, &Value)| {
                    format!("{}={}", plain(name), self.cell(Some(value), tense))
                };
                map.iter().map(one).collect::<Vec<_>>().join(" ")
            }
            Some(other) => json(other),
        }
    }

    fn time(&self, at: Timestamp, tense: Tense) -> String {
        let relative = relative(at.as_second() - self.style.now.as_second());
        match tense {
            Tense::Relative => relative,
            Tense::Both => format!("{at:.0} ({relative})"),
            Tense::Clock => at.to_zoned(self.style.zone.clone()).strftime("%H:%M:%S").to_string(),
        }
    }
}

/// How a time is told.
#[derive(Clone, Copy)]
enum Tense {
    Both,
    Clock,
    Relative,
}

/// Columns that are typed again by whoever reads them are never broken.
fn whole(column: &str) -> bool {
    column == "id" || column == "token"
}

fn heading(column: &str) -> String {
    column.replace('_', " ")
}

/// How many columns, from the left, can be shown in `width` without squeezing any below what can be
/// read.
fn fitting(columns: &[&str], cells: &[Vec<String>], width: usize) -> usize {
    let least = |i: usize, column: &str| {
        let longest =
            cells.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max();
        let natural = longest.unwrap_or(0).max(column.chars().count());
        // Addresses are read by their beginning and their end; other cells wrap well enough.
        let enough = if column == "jid" { 20 } else { 16 };
        2 + if whole(column) { natural } else { natural.min(enough) }
    };
    let mut used = 0;
    let fits = columns.iter().enumerate().take_while(|(i, column)| {
        used += least(*i, column);
        used <= width + 2
    });
    fits.count().max(1)
}

/// `3m ago`, `in 30d`; from the largest unit that there is at least one of.
fn relative(seconds: i64) -> String {
    const UNITS: [(i64, &str); 5] =
        [(31_536_000, "y"), (86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let size = seconds.saturating_abs();
    match UNITS.iter().find(|(unit, _)| size >= *unit) {
        None => "now".into(),
        Some((unit, name)) if seconds < 0 => format!("{}{name} ago", size / unit),
        Some((unit, name)) => format!("in {}{name}", size / unit),
    }
}

/// Text without anything that a terminal would obey or hide: control characters, and those that turn
/// the direction of writing, are shown as `\u{1b}`.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// JSON on one line that no terminal obeys either; JSON's own rules escape only half of them.
fn json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(steers) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // All of them are in the Basic Multilingual Plane, and can only stand within strings.
        if steers(c) { out.push_str(&format!("\\u{:04x}", u32::from(c))) } else { out.push(c) }
    }
    out
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn style(json: bool, width: Option<usize>) -> Style {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        Style { json, width, now, zone: TimeZone::UTC }
    }

    fn shown(style: &Style, shape: Shape, rows: &[Value], done: Done) -> String {
        let mut out = Vec::new();
        let mut page = Page::new(style, shape, &mut out);
        for row in rows {
            page.row(row.as_object().unwrap().clone()).unwrap();
        }
        page.done(done).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lists_are_tables_for_people_and_one_array_for_programs() {
        let rows = [
            json!({"id": "abc", "since": "2026-11-22T09:57:00.000Z", "ok": true, "none": null}),
            json!({"id": "d", "since": "2026-12-22T10:00:00.000Z", "ok": false, "more": 1}),
        ];
        let shape = Shape::List(&["id", "since", "ok", "none"]);
        assert_eq!(
            shown(&style(false, None), shape, &rows, Done::said("")),
            "id   since   ok   none\nabc  3m ago  yes  -\nd    in 30d  no   -\n"
        );
        let text = shown(&style(true, None), shape, &rows, Done::said(""));
        assert_eq!(serde_json::from_str::<Vec<Value>>(&text).unwrap(), rows);
        assert_eq!(shown(&style(true, None), shape, &[], Done::nothing("x")), "[]\n");
        assert_eq!(shown(&style(false, None), shape, &[], Done::nothing("x")), "");
    }

    #[test]
    fn pr_21_chosen_columns_stand_in_the_place_of_the_usual_ones() {
        let style = style(false, Some(80));
        let mut out = Vec::new();
        let page = Page::new(&style, Shape::List(&["id", "jid"]), &mut out);
        let mut page = page.with_columns(vec!["role".into(), "jid".into()]);
        let row = json!({"jid": "a@b", "role": "user"});
        page.row(row.as_object().unwrap().clone()).unwrap();
        page.done(Done::said("")).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "role  jid\nuser  a@b\n");
    }

    #[test]
    fn tables_fit_and_keep_ids_whole() {
        let row = json!({"jid": "someone.with.a.long.name@a.long.example", "id": "a".repeat(26),
                         "software": "Some Client 1.2.3 on Some System", "last": "never"});
        let columns = Shape::List(&["id", "jid", "software", "last"]);
        for width in 30..120 {
            let text = shown(
                &style(false, Some(width)),
                columns,
                std::slice::from_ref(&row),
                Done::said(""),
            );
            let table = text.lines().filter(|line| !line.starts_with('('));
            let widest = table.map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{width}:\n{text}");
            assert!(text.contains(&"a".repeat(26)), "{width}:\n{text}");
        }
        let narrow = shown(&style(false, Some(50)), columns, &[row], Done::said(""));
        assert!(
            narrow.contains("(too narrow for software, last; `--json` has everything)"),
            "{narrow}"
        );
    }

    #[test]
    fn records_are_names_and_values() {
        let row =
            json!({"jid": "a@b", "last_used": "2026-11-22T08:00:00.000Z", "hosts": ["a", "b"]});
        assert_eq!(
            shown(&style(false, None), Shape::Record, std::slice::from_ref(&row), Done::said("")),
            "jid        a@b\nlast used  2026-11-22T08:00:00Z (2h ago)\nhosts      a, b\n"
        );
        let text =
            shown(&style(true, None), Shape::Record, std::slice::from_ref(&row), Done::said(""));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), row);
    }

    #[test]
    fn outcomes_close_with_their_message() {
        let row = json!({"id": "x", "outcome": "ended", "hidden": 1});
        let shape = Shape::Outcome(&["id", "outcome"]);
        let done = || Done::said("1 session ended").with("ended", 1);
        assert_eq!(
            shown(&style(false, Some(80)), shape, std::slice::from_ref(&row), done()),
            "id       x\noutcome  ended\n1 session ended\n"
        );
        let text = shown(&style(true, None), shape, std::slice::from_ref(&row), done());
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"message": "1 session ended", "matched": true, "ended": 1, "rows": [row]})
        );
    }

    #[test]
    fn a_token_is_never_broken() {
        let token = format!("secret-token:{}", "x".repeat(200));
        let row = json!({"token": token, "id": "1"});
        let shape = Shape::Outcome(&["token", "id"]);
        let text = shown(&style(false, Some(40)), shape, &[row], Done::said("minted"));
        assert!(text.lines().any(|line| line.ends_with(&token)), "{text}");
    }

    #[test]
    fn streams_are_shown_line_by_line() {
        let row = json!({"at": "2026-11-22T10:00:05.123Z", "change": "bound", "jid": "a@b/c"});
        let shape = Shape::Stream(&["at", "change", "jid"]);
        let text = shown(&style(false, None), shape, &[row.clone(), row.clone()], Done::said(""));
        assert_eq!(text.lines().nth(1), Some("10:00:05  bound         a@b/c"));
        assert_eq!(text.lines().count(), 3);
        let text = shown(&style(true, None), shape, &[row.clone(), row], Done::said(""));
        assert!(text.lines().all(|line| line.starts_with('{')) && text.lines().count() == 2);
    }

    #[test]
    fn nothing_from_users_steers_the_terminal() {
        let evil = "\u{1b}[2Jx\u{9b}31m\r\u{202e}\u{7f}";
        let rows = [json!({"id": evil, "list": [evil], "map": {evil: evil}})];
        let columns = &["id", "list", "map"];
        for shape in
            [Shape::List(columns), Shape::Record, Shape::Stream(columns), Shape::Outcome(columns)]
        {
            for json in [false, true] {
                let text = shown(&style(json, None), shape, &rows, Done::said(evil));
                assert!(!text.replace('\n', "").contains(steers), "{text:?}");
                if json {
                    assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
                }
            }
        }
        assert_eq!(plain("é ✓ 日本"), "é ✓ 日本");
    }
}
