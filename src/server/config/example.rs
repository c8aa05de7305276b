//! The two documents that say what can be set: the commented example that `usher config example`
//! prints, and the reference for `doc/reference/`. Both come from the doc comments of the structs in
//! [`super`]; nothing here names a key.

use std::fmt::Write;

use serde_json::Value;

use super::schema::{Kind, Node, ROOT};

/// A whole configuration file: every key with its doc comment and, commented out, its default. As it
/// stands it means the same as no file at all.
#[must_use]
pub fn example() -> String {
    let mut out = String::new();
    comment(&mut out, &ROOT.about);
    out.push_str("#\n# Every key is here. One behind a `#` without a space shows its default. What is behind\n");
    out.push_str("# `##` is not there by default, and may be there any number of times.\n");
    section(&mut out, "", &ROOT.keys, false, false);
    out
}

/// All keys as Markdown: one table of key, type, default and meaning per section.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from("# Configuration\n");
    write_section(&mut out, "", "Top level", &ROOT.about, &ROOT.keys);
    out
}

/// Plain keys first: behind the header of a section they would belong to it. `set`: the section is
/// there by default; `hidden`: it is not, and only shown.
fn section(out: &mut String, path: &str, keys: &[Node], set: bool, hidden: bool) {
    for (i, node) in keys.iter().filter(|node| !node.kind.is_section()).enumerate() {
        if path.is_empty() || i > 0 {
            out.push('\n');
        }
        comment(out, &node.about);
        if node.default.is_null() {
            out.push_str("# Not set by default.\n");
        }
        let mark = match (hidden, set) {
            (true, _) => "##",
            (false, true) => "",
            (false, false) => "#",
        };
        let _ = writeln!(out, "{mark}{} = {}", node.name, value(&node.default));
    }
    for node in keys {
        let path = join(path, &node.name);
        let (header, inner, set) = match &node.kind {
            Kind::Section(inner) => (format!("[{path}]"), inner, false),
            // A section that is there at all says one thing more than its absence: it is what
            // people change first, so it is set and not only shown.
            Kind::Sections(inner) => (format!("[[{path}]]"), inner, !empty(&node.default)),
            _ => continue,
        };
        out.push('\n');
        comment(out, &node.about);
        let hidden = hidden || (!set && matches!(node.kind, Kind::Sections(_)));
        let mark = if hidden { "##" } else { "" };
        let _ = writeln!(out, "{mark}{header}");
        section(out, &path, inner, set, hidden);
    }
}

fn empty(default: &Value) -> bool {
    default.as_array().is_some_and(Vec::is_empty)
}

fn write_section(out: &mut String, path: &str, title: &str, about: &str, keys: &[Node]) {
    let _ = write!(out, "\n## {title}\n\n{}\n", about.trim());
    let plain: Vec<_> = keys.iter().filter(|node| !node.kind.is_section()).collect();
    if !plain.is_empty() {
        out.push_str("\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    }
    for node in plain {
        let default = match &node.default {
            Value::Null => "not set".to_owned(),
            default => format!("`{}`", value(default)),
        };
        let (key, kind) = (join(path, &node.name), cell(&node.kind.to_string()));
        let _ = writeln!(out, "| `{key}` | {kind} | {default} | {} |", cell(&node.about));
    }
    for node in keys {
        let path = join(path, &node.name);
        match &node.kind {
            Kind::Section(inner) => {
                write_section(out, &path, &format!("`[{path}]`"), &node.about, inner);
            }
            Kind::Sections(inner) => {
                write_section(out, &path, &format!("`[[{path}]]`"), &node.about, inner);
            }
            _ => {}
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn comment(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "{}", format!("# {line}").trim_end());
    }
}

/// Text for one cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace("\n\n", "<br>").replace('\n', " ").replace('|', "\\|")
}

/// A plain value in TOML. What is not set by default is shown as a text to be replaced.
fn value(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            format!("[{}]", list.iter().map(self::value).collect::<Vec<_>>().join(", "))
        }
        Value::Null => "\"...\"".into(),
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Config, super::parse, *};

    /// The example as an operator leaves it who removes every `#` before a key.
    fn uncommented(keep: impl Fn(&str) -> bool) -> String {
        let key = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase());
        let line = |line| match str::strip_prefix(line, "#").filter(key) {
            Some(key) if keep(key) => key,
            _ => line,
        };
        example().lines().map(line).collect::<Vec<_>>().join("\n")
    }

    fn same_as_default(text: &str) {
        let config = parse(text, "example").unwrap_or_else(|why| panic!("{why}\n{text}"));
        let defaults = serde_json::to_value(Config::default()).unwrap();
        assert_eq!(serde_json::to_value(config).unwrap(), defaults);
    }

    #[test]
    fn means_the_same_as_no_file() {
        same_as_default(&example());
    }

    #[test]
    fn shows_the_true_defaults() {
        same_as_default(&uncommented(|line| !line.ends_with("= \"...\"")));
    }

    #[test]
    fn has_every_key() {
        fn walk(keys: &[Node], table: &toml::Value, reference: &str, path: &str) {
            for node in keys {
                let path = join(path, &node.name);
                let found = table.get(&node.name).unwrap_or_else(|| panic!("no `{path}`"));
                match &node.kind {
                    Kind::Section(inner) => walk(inner, found, reference, &path),
                    Kind::Sections(inner) => walk(inner, &found[0], reference, &path),
                    _ => assert!(reference.contains(&format!("| `{path}` |")), "{path}"),
                }
            }
        }
        let table = uncommented(|_| true).replace("\n##", "\n").parse().unwrap();
        let table = toml::Value::Table(table);
        walk(&ROOT.keys, &table, &reference(), "");
    }

    #[test]
    fn rows_of_the_reference_have_four_cells() {
        for row in reference().lines().filter(|line| line.starts_with("| `")) {
            assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}");
        }
    }
}
