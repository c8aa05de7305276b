//! What could come next on a line of the console: words and options from the command table, words of
//! a choice, and addresses and ids of the sessions that are there now.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use reedline::{Completer, CompletionResult, Suggestion};
use serde_json::{Map, Value};
use server::command::{Arg, Command, Form, ValueKind};
use tokio::runtime::Runtime;

use crate::{
    cli,
    client::{Client, Heard},
    render::{Row, plain},
};

/// How long the server may take to say which sessions are there, before the line goes on without.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long what it said is good for.
const FRESH: Duration = Duration::from_secs(2);

/// Suggestions at most: more cannot be looked through.
const MOST: usize = 200;

/// Completes lines of the console.
pub(crate) struct TableCompleter {
    pub(crate) commands: Vec<&'static Command>,
    pub(crate) live: Live,
}

impl Completer for TableCompleter {
    fn complete(&mut self, line: &str, pos: usize) -> CompletionResult {
        let line = line.get(..pos).unwrap_or(line);
        let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let live = &mut self.live;
        let found = candidates(line, &self.commands, &mut || live.sessions());
        let suggestion = |(value, about): (String, &str)| Suggestion {
            value: quoted(&value),
            display_override: Some(plain(&value)),
            description: (!about.is_empty()).then(|| about.to_owned()),
            span: reedline::Span::new(start, pos),
            append_whitespace: true,
            ..Suggestion::default()
        };
        CompletionResult::fresh(found.into_iter().map(suggestion).collect::<Vec<_>>())
    }
}

/// The sessions that are there, asked for at most every two seconds.
pub(crate) struct Live {
    pub(crate) socket: PathBuf,
    pub(crate) runtime: std::sync::Arc<Runtime>,
    pub(crate) known: Option<(Instant, Vec<Row>)>,
}

impl Live {
    fn sessions(&mut self) -> Vec<Row> {
        if let Some((at, rows)) = &self.known
            && at.elapsed() < FRESH
        {
            return rows.clone();
        }
        let mut rows = Vec::new();
        let ask = async {
            let hear = |heard| {
                if let Heard::Row(row) = heard {
                    rows.push(row);
                }
                Ok(())
            };
            let mut client = Client::connect(&self.socket).await.ok()?;
            client.call("session list", &Map::new(), hear).await.ok()
        };
        // Whatever came in time is offered; a server that is slow or gone costs nothing but that.
        let _ = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, ask).await });
        self.known = Some((Instant::now(), rows.clone()));
        rows
    }
}

/// What could stand in the place of the last word of `line`, and what it means.
fn candidates<'t>(
    line: &str,
    commands: &[&'t Command],
    live: &mut dyn FnMut() -> Vec<Row>,
) -> Vec<(String, &'t str)> {
    let (before, partial) = line.rsplit_once(char::is_whitespace).unwrap_or(("", line));
    let words: Vec<&str> = before.split_whitespace().collect();
    let mut found = match words.split_first() {
        Some((&"help", rest)) => next_words(rest, commands),
        _ => match commands.iter().find_map(|command| Some((command, rest(&words, command)?))) {
            Some((command, rest)) => arguments(command, rest, partial, live),
            None => next_words(&words, commands),
        },
    };
    if words.is_empty() {
        found.push(("help".into(), "What can be done"));
        found.push(("quit".into(), "Leave"));
    }
    found.retain(|(value, _)| value.starts_with(partial));
    found.truncate(MOST);
    found
}

/// The words behind a command's name, if it is this command.
fn rest<'w, 'l>(words: &'w [&'l str], command: &Command) -> Option<&'w [&'l str]> {
    let name: Vec<&str> = command.name.split(' ').collect();
    words.strip_prefix(name.as_slice())
}

fn next_words<'t>(words: &[&str], commands: &[&'t Command]) -> Vec<(String, &'t str)> {
    let mut found: Vec<(String, &str)> = Vec::new();
    for command in commands {
        let name: Vec<&str> = command.name.split(' ').collect();
        if let Some((next, behind)) = name.strip_prefix(words).and_then(<[&str]>::split_first)
            && !found.iter().any(|(known, _)| known == next)
        {
            found.push(((*next).to_owned(), if behind.is_empty() { command.about } else { "" }));
        }
    }
    found
}

fn arguments<'t>(
    command: &'t Command,
    words: &[&str],
    partial: &str,
    live: &mut dyn FnMut() -> Vec<Row>,
) -> Vec<(String, &'t str)> {
    let option = |word: &str| {
        let name = word.strip_prefix("--")?;
        command.args.iter().find(|arg| arg.name == name && takes_value(arg))
    };
    if let Some(arg) = words.last().and_then(|word| option(word)) {
        return values(arg, live);
    }
    let mut places = 0;
    let mut previous = "";
    for word in words {
        places += usize::from(!word.starts_with("--") && option(previous).is_none());
        previous = word;
    }
    let positional = |arg: &&&Arg| matches!(arg.form, Form::Many | Form::Optional | Form::Required);
    let mut found = Vec::new();
    if !partial.starts_with("--") {
        let by_place: Vec<&Arg> = command.args.iter().filter(|arg| positional(&arg)).collect();
        let many = by_place.last().filter(|arg| arg.form == Form::Many);
        if let Some(arg) = by_place.get(places).or(many) {
            found = values(arg, live);
        }
    }
    for arg in command.args.iter().filter(|arg| !positional(&arg)) {
        let name = match arg.kind {
            ValueKind::Secret => format!("--{}-stdin", arg.name),
            _ => format!("--{}", arg.name),
        };
        if arg.form == Form::Options || !words.contains(&name.as_str()) {
            found.push((name, arg.about));
        }
    }
    if !words.contains(&"--json") {
        found.push(("--json".into(), "Print JSON, for programs"));
    }
    if !words.contains(&"--as") {
        found.push(("--as".into(), cli::AS_ABOUT));
    }
    found
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.form, Form::Option | Form::Options) && arg.kind != ValueKind::Secret
}

fn values(arg: &Arg, live: &mut dyn FnMut() -> Vec<Row>) -> Vec<(String, &'static str)> {
    let fields: &[&str] = match arg.kind {
        ValueKind::Choice(words) => {
            return words.iter().map(|word| ((*word).to_owned(), "")).collect();
        }
        ValueKind::Columns(names) => {
            return names.iter().map(|name| ((*name).to_owned(), "")).collect();
        }
        ValueKind::Address => &["address"],
        ValueKind::Jid | ValueKind::JidPattern => &["jid"],
        ValueKind::Session => &["id"],
        // What is called a session is named by its address or its id.
        ValueKind::Text if arg.name == "session" => &["jid", "id"],
        ValueKind::Token => &["token"],
        _ => return Vec::new(),
    };
    let rows = live();
    let mut found: Vec<String> = Vec::new();
    for field in fields {
        for value in rows.iter().filter_map(|row| row.get(*field)).filter_map(Value::as_str) {
            if let Some((bare, _)) = value.split_once('/') {
                found.push(bare.to_owned());
            }
            found.push(value.to_owned());
        }
    }
    found.sort();
    found.dedup();
    found.into_iter().map(|value| (value, "")).collect()
}

/// A value as it has to be typed: resources have spaces, and worse.
fn quoted(value: &str) -> String {
    let harmless = |c: char| !c.is_whitespace() && !matches!(c, '\'' | '"' | '\\' | '#');
    if value.chars().all(harmless) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use server::command;

    use super::*;

    fn found(line: &str) -> Vec<String> {
        let commands: Vec<_> = command::table().collect();
        let rows = [
            json!({"id": "aaa", "jid": "a@x/1", "address": "::1", "token": "t1"}),
            json!({"id": "bbb", "jid": "b@x/two words", "address": "::1", "token": null}),
        ];
        let mut live = || rows.iter().map(|row| row.as_object().unwrap().clone()).collect();
        candidates(line, &commands, &mut live).into_iter().map(|(value, _)| value).collect()
    }

    #[test]
    fn words_of_the_table_follow_each_other() {
        assert_eq!(found("ses"), ["session"]);
        assert_eq!(found("session e"), ["end"]);
        assert_eq!(found("he"), ["help"]);
        assert_eq!(found("help session co"), ["count"]);
        assert!(found("").contains(&"status".to_owned()));
        assert!(found("nonsense ").is_empty());
    }

    #[test]
    fn options_follow_the_command_each_once() {
        assert_eq!(found("session end --dr"), ["--dry-run"]);
        assert!(found("session end --dry-run --dr").is_empty());
        assert_eq!(found("user add a@x --pass"), ["--password-stdin"]);
        assert_eq!(found("session list --st"), ["--stage"]);
        assert_eq!(found("session list --stage av"), ["available"]);
    }

    #[test]
    fn sessions_that_are_there_are_offered() {
        assert_eq!(found("session end a@"), ["a@x", "a@x/1"]);
        assert_eq!(found("session end a@x b@"), ["b@x", "b@x/two words"]);
        assert_eq!(found("session end --id "), ["aaa", "bbb"]);
        assert_eq!(found("session end --token "), ["t1"]);
        assert_eq!(found("session end --ip "), ["::1"]);
        assert_eq!(found("session show b"), ["b@x", "b@x/two words", "bbb"]);
        assert!(!found("token mint a@x ").contains(&"a@x".to_owned()), "there is only one place");
    }

    #[test]
    fn values_are_quoted_so_that_they_are_one_word() {
        assert_eq!(quoted("a@x/1"), "a@x/1");
        assert_eq!(quoted("b@x/it's two"), "'b@x/it'\\''s two'");
    }
}
