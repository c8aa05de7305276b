//! A table on a page: on a small screen each row becomes a card, whose lines say which column they are.

use super::view::{Row, Time};

/// A table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// What it shows; for those who do not see it at a glance.
    pub(super) caption: String,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<Cell>>,
    /// What stands in its place if it has no rows.
    pub(super) empty: &'static str,
}

/// What a cell shows.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    /// A word for a state.
    Badge(String),
    /// Where to go.
    Link { href: String, text: String, label: String },
    /// Text.
    Text(String),
    /// A point in time.
    Time(Time),
}

/// With a capital letter in front.
pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A field of a row, whatever it is: a dash if it says nothing.
    pub(super) fn of(row: &Row, name: &str) -> Self {
        let (text, time) = (row.show(name), row.time(name));
        if time.is_some() {
            return Self::Time(time);
        }
        Self::Text(if text.is_empty() { "–".into() } else { text })
    }
}

impl Table {
    pub(super) fn new(caption: impl Into<String>, columns: &[&str], empty: &'static str) -> Self {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Self { caption: caption.into(), columns, rows: Vec::new(), empty }
    }

    /// With a row of cells for each of these.
    pub(super) fn of_each<'a>(
        caption: &str,
        columns: &[&str],
        empty: &'static str,
        rows: impl IntoIterator<Item = &'a Row>,
        cells: impl Fn(&Row) -> Vec<Cell>,
    ) -> Self {
        let rows = rows.into_iter().map(cells).collect();
        Self { rows, ..Self::new(caption, columns, empty) }
    }

    /// What a command has given, with these of its fields.
    pub(super) fn of_rows(caption: &str, fields: &[&str], rows: &[Row]) -> Self {
        let title = |name: &&str| match *name {
            "id" => "Session".to_owned(),
            "jid" => "Address".to_owned(),
            other => capital(&other.replace('_', " ")),
        };
        let cells = |row: &Row| fields.iter().map(|name| Cell::of(row, name)).collect();
        let rows = rows.iter().map(cells).collect();
        let columns = fields.iter().map(title).collect();
        Self { columns, rows, ..Self::new(caption, &[], "") }
    }

    /// Cells with the names of their columns.
    pub(super) fn named<'a>(
        &'a self,
        row: &'a [Cell],
    ) -> impl Iterator<Item = (&'a String, &'a Cell)> {
        self.columns.iter().zip(row)
    }
}
