//! The reference of commands for `doc/reference/`, made from the command table.

use std::fmt::Write;

use server::command::{Arg, Command, Form, Shape, ValueKind};

use crate::cli;

/// All commands as Markdown, in the order of the help.
#[must_use]
pub fn commands_markdown(commands: &[&'static Command]) -> String {
    let mut out = String::from(
        "# Commands\n\n\
         The same commands are given on the command line, as `usher COMMAND`, and at the prompt of\n\
         `usher console`. They go to the running server through its admin socket, which is found by\n\
         the configuration: `--config FILE`, else `usher.toml` if there is one, else the defaults.\n\n\
         With `--json`, a list is one array, a record or an outcome one object, and a stream one object\n\
         per line. The exit status is 0 if it was done, 1 if it failed, 2 if it was called wrongly, and\n\
         3 if nothing matched.\n",
    );
    for command in commands {
        section(&mut out, command);
    }
    out
}

fn section(out: &mut String, command: &Command) {
    let _ = write!(out, "\n## {}\n\n    usher {}\n\n", command.name, cli::usage(command));
    let _ = write!(out, "{}.", command.about);
    if !command.details.is_empty() {
        let _ = write!(out, " {}", command.details);
    }
    out.push('\n');
    if !command.args.is_empty() {
        out.push_str("\n| Argument | Meaning | Value |\n|---|---|---|\n");
    }
    for arg in command.args {
        let name = match (arg.form, arg.kind) {
            (_, ValueKind::Secret) => format!("--{}-stdin", arg.name),
            (Form::Flag | Form::Option, _) => format!("--{}", arg.name),
            _ => arg.name.to_uppercase(),
        };
        let _ = writeln!(out, "| `{name}` | {} | {} |", cell(arg.about), cell(&value(arg)));
    }
    let shape = match command.shape {
        Shape::List(columns) => format!("A list with {}.", code(columns)),
        Shape::Outcome([]) => "An outcome.".into(),
        Shape::Outcome(columns) => format!("An outcome, with {} for each.", code(columns)),
        Shape::Record => "A record.".into(),
        Shape::Stream(columns) => format!("A stream of {}.", code(columns)),
    };
    let audit = if command.mutates { " Written to the audit." } else { "" };
    let _ = writeln!(out, "\n{shape}{audit}");
}

fn value(arg: &Arg) -> String {
    if arg.form == Form::Flag {
        return "none".into();
    }
    match arg.kind {
        ValueKind::Address => "an IP address, or a network as in `203.0.113.0/24`".into(),
        ValueKind::Choice(words) => {
            words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
        }
        ValueKind::Client => "a client id".into(),
        ValueKind::CsvFile => "a file, or `-` for standard input".into(),
        ValueKind::Grant => "a grant id".into(),
        ValueKind::Jid => "a JID".into(),
        ValueKind::JidPattern => "a JID with `*` for anything".into(),
        ValueKind::Number => "a whole number".into(),
        ValueKind::Path => "a file".into(),
        ValueKind::Secret => "asked for at a prompt, or one line of standard input".into(),
        ValueKind::Session => "a session id".into(),
        ValueKind::Span => "a length of time, as in `30d`".into(),
        ValueKind::Text => "text".into(),
        ValueKind::Token => "a token id".into(),
    }
}

fn code(columns: &[&str]) -> String {
    columns.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use server::command;

    use super::*;

    #[test]
    fn every_command_and_argument_is_in_the_reference() {
        let commands: Vec<_> = command::table().collect();
        let text = commands_markdown(&commands);
        for command in commands {
            let heading = format!("\n## {}\n", command.name);
            let (_, section) = text.split_once(&heading).unwrap_or_else(|| panic!("{heading}"));
            let section = section.split("\n## ").next().unwrap();
            assert!(section.contains(command.about) && section.contains(command.details));
            assert_eq!(section.contains("Written to the audit"), command.mutates);
            let rows = section.lines().filter(|line| line.starts_with("| `")).count();
            assert_eq!(rows, command.args.len(), "{}", command.name);
        }
    }
}
