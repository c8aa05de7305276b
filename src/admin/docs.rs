//! The reference of commands for `doc/reference/`, made from the command table.

use std::fmt::Write;

use server::{
    account::Role,
    command::{Arg, Command, Form, Scope, Shape, ValueKind},
    config::Roles,
    rights::Right,
};

use crate::cli;

/// All commands as Markdown, in the order of the help.
#[must_use]
pub fn commands_markdown(commands: &[&'static Command]) -> String {
    let mut out = String::from(
        "# Commands\n\n\
         The same commands are given on the command line, as `usher COMMAND`, and at the prompt of\n\
         `usher console`. They go to the running server through its admin socket, which is found by\n\
         the configuration: `--config FILE`, else `usher.toml` if there is one, else the defaults.\n\n\
         With `--as JID`, on the command line and at the prompt, a command is done as that account, with\n\
         its rights and no others, and the audit names both. Which role has which right is in\n\
         [rights.md](rights.md).\n\n\
         With `--json`, a list is one array, a record or an outcome one object, and a stream one object\n\
         per line. The exit status is 0 if it was done, 1 if it failed, 2 if it was called wrongly, and\n\
         3 if nothing matched.\n",
    );
    for command in commands {
        section(&mut out, command);
    }
    out
}

/// All rights as Markdown: what each means, which roles have it by default, and what it is for.
#[must_use]
pub fn rights_markdown(commands: &[&'static Command]) -> String {
    let roles = Roles::default();
    let mut out = String::from(
        "# Roles and rights\n\n\
         A right is for what is of others. The roles between `restricted`, which has none, and `admin`,\n\
         which has all, can be given others: see `[roles]` in [configuration.md](configuration.md).\n\n",
    );
    let names = Role::NAMES.iter().map(|name| format!(" `{name}` |")).collect::<String>();
    let _ = writeln!(out, "| Right | Meaning |{names} Commands |");
    let _ = writeln!(out, "|---|---|{}---|", "---|".repeat(Role::ALL.len()));
    for right in Right::ALL {
        let has = |role: &Role| if roles.rights(*role).has(*right) { " yes |" } else { " |" };
        let has = Role::ALL.iter().map(has).collect::<String>();
        let own = commands.iter().filter(|command| command.right == *right);
        let own: Vec<_> = own.map(|command| command.name).collect();
        let gap = if own.is_empty() { "" } else { " " };
        let _ = writeln!(out, "| `{right}` | {} |{has}{gap}{} |", right.about(), code(&own));
    }
    let own = commands.iter().filter(|command| command.scope == Scope::Own);
    let own: Vec<_> = own.map(|command| command.name).collect();
    let _ = write!(
        out,
        "\nWith the own account, every role but `restricted` may do without any right: {}.\n",
        code(&own)
    );
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
            (Form::Flag | Form::Option | Form::Options, _) => format!("--{}", arg.name),
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
    let own = match command.scope {
        Scope::Own => ", or nothing for the own account",
        Scope::Others => "",
    };
    let fresh = if command.fresh { " A session must have given the password lately." } else { "" };
    let _ = writeln!(out, "\n{shape}{audit} Takes the right `{}`{own}.{fresh}", command.right);
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
        ValueKind::Columns(names) => format!("names with commas between them: {}", code(names)),
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
        ValueKind::Time => "a time, as in `2026-11-24T18:00:00Z`".into(),
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
