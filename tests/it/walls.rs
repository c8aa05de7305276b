//! The walls of the house: which crate may use which, read from the manifests. An arrow that is not
//! in the table is a mistake in the manifest, or a decision that belongs into `doc/decisions/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

/// Crates of ours: where, and what each may use. The binary puts everything together.
const ARROWS: &[(&str, &str, &[&str])] = &[
    ("usher", ".", &["admin", "net", "plugins", "server", "store", "wire"]),
    ("admin", "src/admin", &["server", "wire"]),
    ("net", "src/net", &["server", "wire"]),
    ("plugins", "plugins", &["server", "wire"]),
    ("server", "src/server", &["wire"]),
    ("store", "src/store", &["server", "wire"]),
    ("wire", "src/wire", &[]),
    // Programs beside the product.
    ("bench", "tests/bench", &["net", "plugins", "server", "store", "wire"]),
    ("load", "tests/load", &[]),
];

/// What tests of a crate may use besides: a store in memory behind a server.
const TEST_ARROWS: &[(&str, &str)] = &[("admin", "store"), ("net", "store"), ("plugins", "store")];

/// Crates of others that have one place: sockets and TLS in `net`, SQL in `store`, and nothing that
/// waits or draws lots in `wire`.
const ONE_PLACE: &[(&str, &[&str])] = &[
    ("command-fds", &["net"]),
    ("getrandom", &["server"]),
    ("listenfd", &["net"]),
    ("rusqlite", &["store"]),
    ("rustls", &["net"]),
    ("sd-notify", &["usher"]),
    ("socket2", &["net"]),
    ("tokio-rustls", &["net"]),
];
const NOT_IN_WIRE: &[&str] = &["jiff", "rand", "socket2", "tokio", "tracing"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    text.parse().unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The names in a section of a manifest, those for single platforms included.
fn names(manifest: &Table, section: &str) -> BTreeSet<String> {
    let keys = |table: &Table| -> Vec<String> {
        let section = table.get(section).and_then(Value::as_table);
        section.into_iter().flat_map(|table| table.keys().cloned()).collect()
    };
    let mut found: BTreeSet<String> = keys(manifest).into_iter().collect();
    let targets = manifest.get("target").and_then(Value::as_table);
    for platform in targets.into_iter().flat_map(Table::values).filter_map(Value::as_table) {
        found.extend(keys(platform));
    }
    found
}

/// Our own crates by name, with the manifest of each.
fn crates() -> BTreeMap<String, Table> {
    let workspace = manifest(".");
    let members = workspace["workspace"]["members"].as_array().expect("a list");
    let folders = members.iter().map(|member| member.as_str().expect("a path"));
    let all = folders.chain(["."]).map(|folder| {
        let manifest = manifest(folder);
        (manifest["package"]["name"].as_str().expect("a name").to_owned(), manifest)
    });
    all.collect()
}

#[test]
fn crates_use_only_what_the_plan_of_the_house_allows() {
    let crates = crates();
    let planned: BTreeSet<&str> = ARROWS.iter().map(|(name, ..)| *name).collect();
    let there: BTreeSet<&str> = crates.keys().map(String::as_str).collect();
    assert_eq!(there, planned, "the table of arrows is about the crates that there are");
    let mut wrong = Vec::new();
    for (name, _, allowed) in ARROWS {
        let manifest = &crates[*name];
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for used in names(manifest, section).iter().filter(|used| there.contains(&***used)) {
                let test = section == "dev-dependencies"
                    && TEST_ARROWS.iter().any(|arrow| arrow == &(*name, used.as_str()));
                if !allowed.contains(&used.as_str()) && !test {
                    wrong.push(format!("{name} -> {used} ({section})"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not allowed: {}", wrong.join(", "));
}

#[test]
fn what_has_one_place_is_in_that_place_only() {
    let mut wrong = Vec::new();
    for (name, manifest) in &crates() {
        let used = names(manifest, "dependencies");
        for (foreign, places) in ONE_PLACE {
            let product = ARROWS
                .iter()
                .any(|(known, folder, _)| known == name && !folder.starts_with("tests/"));
            if product && used.contains(*foreign) && !places.contains(&name.as_str()) {
                wrong.push(format!("{name} -> {foreign}"));
            }
        }
        if name == "wire" {
            wrong.extend(
                NOT_IN_WIRE
                    .iter()
                    .filter(|no| used.contains(**no))
                    .map(|no| format!("wire -> {no}")),
            );
        }
    }
    assert!(wrong.is_empty(), "not allowed: {}", wrong.join(", "));
}

#[test]
fn every_crate_root_forbids_unsafe_code() {
    let lint = &manifest(".")["workspace"]["lints"]["rust"]["unsafe_code"];
    assert_eq!(lint.as_str(), Some("forbid"), "the lint of the workspace");
    for (name, folder, _) in ARROWS {
        let manifest = manifest(folder);
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(inherits.and_then(Value::as_bool), Some(true), "{name}: lints.workspace");
        if folder.starts_with("tests/") {
            continue;
        }
        let library = manifest.get("lib").and_then(|lib| lib.get("path")).and_then(Value::as_str);
        let path = root().join(folder).join(library.unwrap_or("src/main.rs"));
        let text = fs::read_to_string(&path).unwrap_or_else(|_| panic!("{name}: no crate root"));
        let said = text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]");
        assert!(said, "{name}: `{}` does not forbid unsafe code", path.display());
    }
}
