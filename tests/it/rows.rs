//! The table at the end of `doc/session-control.md`: each row of what was asked for is there once, with
//! tests that exist or with the word that it is open; and no test that carries the id of a row is
//! missing from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Rows that are wanted: prefix, first and last number.
const WANTED: [(&str, u32, u32); 4] = [("LJ", 1, 37), ("RO", 1, 35), ("IV", 1, 23), ("PR", 1, 24)];
/// Those of the part of which not all is wanted.
const BEYOND: [u32; 18] = [1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 17, 19, 20, 22, 24, 26];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn wanted() -> BTreeSet<String> {
    let ranges = WANTED.iter().flat_map(|&(part, first, last)| {
        (first..=last).map(move |number| format!("{part}-{number:02}"))
    });
    ranges.chain(BEYOND.iter().map(|number| format!("B-{number:02}"))).collect()
}

/// Every file below these directories whose name ends so.
fn files(dirs: &[&str], ending: &str) -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> = dirs.iter().map(|dir| root().join(dir)).collect();
    let mut found = Vec::new();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true if path.ends_with("target") => {}
                true => left.push(path),
                false if path.to_string_lossy().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    found
}

/// The names of all tests: functions below an attribute that makes them one.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in files(&["tests", "src", "plugins"], ".rs") {
        let text = fs::read_to_string(&file).expect("text");
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("#[") {
                is_test |= line.contains("test]") || line.contains("::test(");
            } else if let Some((before, name)) = line.split_once("fn ") {
                let function = before.split(' ').all(|word| matches!(word, "" | "async" | "pub"));
                if function && std::mem::take(&mut is_test) {
                    let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                    tests.extend(name.split(end).next().map(str::to_owned));
                }
            } else if !line.starts_with("//") {
                is_test = false;
            }
        }
    }
    tests
}

/// The rows that a test carries in its name, as in `ro_01_pr_07_nothing_is_stored`.
fn carried(name: &str) -> Vec<String> {
    let mut words = name.split('_');
    let mut rows = Vec::new();
    while let (Some(part), Some(number)) = (words.next(), words.next()) {
        let known = part == "b" || WANTED.iter().any(|row| row.0.eq_ignore_ascii_case(part));
        if !known || number.len() != 2 || !number.bytes().all(|digit| digit.is_ascii_digit()) {
            break;
        }
        rows.push(format!("{}-{number}", part.to_ascii_uppercase()));
    }
    rows
}

struct Row {
    tests: Vec<String>,
    /// What is open of it, if anything.
    open: Option<String>,
}

fn table() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(root().join("doc/session-control.md")).expect("is there");
    let (_, table) = text.split_once("| row | what | test |\n|---|---|---|\n").expect("the table");
    let mut rows = BTreeMap::new();
    for line in table.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", id, what, proof, ""] = cells[..] else { panic!("no row of three cells: {line}") };
        assert!(!what.is_empty(), "{id} does not say what");
        let (named, open) = match proof.split_once("open: ") {
            Some((named, open)) => (named, Some(open.to_owned())),
            None => (proof, None),
        };
        let tests = named.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let before = rows.insert(id.to_owned(), Row { tests, open });
        assert!(before.is_none(), "{id} is there twice");
    }
    rows
}

#[test]
fn every_row_is_there_once() {
    let rows: BTreeSet<String> = table().into_keys().collect();
    let wanted = wanted();
    let missing: Vec<_> = wanted.difference(&rows).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    // More rows of the open-ended part may come; none that nobody knows.
    let odd: Vec<_> = rows.difference(&wanted).filter(|id| !id.starts_with("B-")).collect();
    assert!(odd.is_empty(), "nobody wants {odd:?}");
}

#[test]
fn every_row_names_tests_that_exist_or_is_open() {
    let tests = tests();
    assert!(tests.contains("every_row_is_there_once"), "tests are found");
    for (id, row) in table() {
        assert!(!row.tests.is_empty() || row.open.is_some(), "{id} has neither tests nor `open`");
        assert!(row.open.is_none_or(|open| !open.is_empty()), "{id} does not say what is open");
        for name in row.tests {
            let there = match name.ends_with(".script") {
                true => root().join("tests/scripts").join(&name).is_file(),
                false => tests.contains(&name),
            };
            assert!(there, "{id} names `{name}`, which is no test");
        }
    }
}

#[test]
fn every_test_with_the_id_of_a_row_is_in_that_row() {
    let table = table();
    for name in tests() {
        for id in carried(&name) {
            let row = table.get(&id).unwrap_or_else(|| panic!("`{name}`: there is no row {id}"));
            assert!(row.tests.contains(&name), "{id} does not name `{name}`");
        }
    }
}

#[test]
fn ids_are_read_from_names() {
    assert_eq!(carried("ro_01_pr_07_b_12_nothing"), ["RO-01", "PR-07", "B-12"]);
    assert_eq!(carried("cve_2024_25420_an_account"), [""; 0]);
    assert_eq!(carried("of_3273_a_mechanism"), [""; 0]);
    assert_eq!(carried("b_9_x"), [""; 0]);
}
