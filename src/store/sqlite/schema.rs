//! What `usher.db` looks like inside: its marks, its tables, the few statements there are.
//!
//! Statements are text that depends on a table's name alone; each connection keeps them prepared.

use std::{collections::HashSet, fmt::Write as _};

use parking_lot::RwLock;
use server::store::{Owner, Range, Table};

/// Stands in the file's header: `Ushr`, so that neither we nor `file` take it for something else.
pub(super) const APPLICATION_ID: i32 = 0x5573_6872;

/// The version of the layout this program writes, in the file's `user_version`.
pub(super) const VERSION: i32 = 1;

/// Prepared statements a connection keeps: all shapes over all tables, with room to spare.
pub(super) const STATEMENTS: usize = 512;

/// The tables that are there. A table joins after the transaction that created it and before that
/// is acknowledged, so a reader that does not find it here may answer that it is empty.
pub(super) struct Tables {
    names: RwLock<HashSet<String>>,
}

impl Tables {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: RwLock::new(names.into_iter().collect()) }
    }

    pub(super) fn has(&self, table: &Table) -> bool {
        self.names.read().contains(table.name)
    }

    pub(super) fn add(&self, tables: &[&'static Table]) {
        if !tables.is_empty() {
            self.names.write().extend(tables.iter().map(|table| table.name.to_owned()));
        }
    }
}

/// Whether the name can stand in a statement as it is.
pub(super) fn is_well_named(table: &Table) -> bool {
    let rest = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    table.name.starts_with(|first: char| first.is_ascii_lowercase()) && table.name.bytes().all(rest)
}

/// SQLite's integers are signed; the order of owners means nothing, so the bits are kept.
pub(super) fn owner(owner: Owner) -> i64 {
    owner.cast_signed()
}

/// `STRICT`, so that what an operator enters by hand has the right types or is refused.
pub(super) fn create(table: &Table) -> String {
    let name = table.name;
    format!(
        "CREATE TABLE IF NOT EXISTS t_{name} (owner INTEGER NOT NULL, key BLOB NOT NULL, \
         value BLOB NOT NULL, PRIMARY KEY (owner, key)) STRICT, WITHOUT ROWID"
    )
}

/// Names of our tables, without their `t_`.
pub(super) const NAMES: &str =
    "SELECT substr(name, 3) FROM sqlite_schema WHERE type = 'table' AND name GLOB 't_*'";

pub(super) fn get(table: &Table) -> String {
    format!("SELECT value FROM t_{} WHERE owner = ?1 AND key = ?2", table.name)
}

pub(super) fn count(table: &Table) -> String {
    format!("SELECT count(*) FROM t_{} WHERE owner = ?1", table.name)
}

pub(super) fn put(table: &Table) -> String {
    format!(
        "INSERT INTO t_{} (owner, key, value) VALUES (?1, ?2, ?3) \
         ON CONFLICT DO UPDATE SET value = excluded.value",
        table.name
    )
}

pub(super) fn delete(table: &Table) -> String {
    format!("DELETE FROM t_{} WHERE owner = ?1 AND key = ?2", table.name)
}

pub(super) fn delete_owner(table: &Table) -> String {
    format!("DELETE FROM t_{} WHERE owner = ?1", table.name)
}

/// Parameters: owner, limit (-1 for none), then `after` and `before` if the range has them.
pub(super) fn rows(table: &Table, range: &Range) -> String {
    let mut sql = format!("SELECT key, value FROM t_{} WHERE owner = ?1", table.name);
    let mut parameter = 3;
    for (bound, comparison) in [(&range.after, '>'), (&range.before, '<')] {
        if bound.is_some() {
            let _ = write!(sql, " AND key {comparison} ?{parameter}");
            parameter += 1;
        }
    }
    let order = if range.reverse { "DESC" } else { "ASC" };
    let _ = write!(sql, " ORDER BY key {order} LIMIT ?2");
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_reach_a_statement() {
        for (name, good) in [
            ("tokens", true),
            ("mam_2", true),
            ("", false),
            ("2mam", false),
            ("_a", false),
            ("Tokens", false),
            ("a b", false),
            ("a;b", false),
            ("ä", false),
        ] {
            assert_eq!(is_well_named(&Table { name, about: "a test" }), good, "`{name}`");
        }
    }
}
