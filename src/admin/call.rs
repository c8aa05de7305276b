//! One call of a command, from the command line or the console: gathers what is not on the line
//! (secrets, files), sends it, shows what comes back, and says how it ended.

use std::{
    collections::HashMap,
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value};
use server::command::{self, Arg, CommandError, Done, ValueKind};

use crate::{
    cli::Called,
    client::{CallError, Client, Heard},
    render::{Page, Row, Style, plain},
    secret,
    sheet::Sheet,
};

/// The exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was done.
    Done = 0,
    /// It could not be done; the reason is on standard error.
    Failed = 1,
    /// It was called wrongly.
    Usage = 2,
    /// There was nothing that it could be done to.
    Nothing = 3,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

impl Style {
    /// As suits standard output.
    #[must_use]
    pub fn of_stdout(json: bool) -> Self {
        let size = io::stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(io::stdout()));
        let width = size.and_then(Result::ok).map(|size| usize::from(size.ws_col));
        let width = width.filter(|width| *width > 0);
        Self { json, width, now: Timestamp::now(), zone: TimeZone::system() }
    }
}

/// Calls a command on the server whose admin socket is at `socket`, and shows everything on standard
/// output and standard error.
pub async fn on_command_line(called: &Called, socket: &Path) -> Status {
    let style = Style::of_stdout(called.json);
    // Locked only while it writes: the prompt for a secret may write meanwhile.
    let outcome = perform(called, socket, &style, &mut io::stdout()).await;
    match outcome {
        Ok(done) if done.matched => Status::Done,
        Ok(done) => {
            let _ = writeln!(io::stderr(), "{}", plain(&done.message));
            Status::Nothing
        }
        Err(CallError::Command(error)) => failed(&error),
        // Who reads has seen enough, as in `usher session list | head`.
        Err(CallError::Passing(why)) if why.kind() == io::ErrorKind::BrokenPipe => Status::Done,
        Err(CallError::Passing(why)) => cannot_write(&why),
    }
}

/// Tells why something could not be done.
pub fn failed(error: &CommandError) -> Status {
    let mut text = format!("error: {}\n", plain(&error.message));
    if !error.hint.is_empty() {
        text.push_str(&format!("hint: {}\n", plain(&error.hint)));
    }
    let _ = io::stderr().write_all(text.as_bytes());
    if error.usage { Status::Usage } else { Status::Failed }
}

/// Tells that the result could not be written.
pub fn cannot_write(why: &io::Error) -> Status {
    failed(
        &CommandError::failed(format!("cannot write the result: {why}"))
            .hint("look at where standard output goes"),
    )
}

/// Calls a command and shows its rows and its end on `out`.
///
/// # Errors
/// Why it could not be done, or that `out` cannot be written.
pub async fn perform(
    called: &Called,
    socket: &Path,
    style: &Style,
    out: &mut dyn Write,
) -> Result<Done, CallError> {
    let command = called.command;
    // First of all: nobody is asked for a password that then goes nowhere.
    let client = Client::connect(socket).await?;
    let mut client = client.acting_as(called.acting.clone());
    let mut args = called.args.clone();
    for arg in command.args.iter().filter(|arg| arg.kind == ValueKind::Secret) {
        let value = if called.by_stdin.contains(&arg.name) {
            from_stdin(arg)?
        } else {
            secret::ask(arg.name)?
        };
        args.insert(arg.name.into(), value.into());
    }
    let mut page = Page::new(style, command.shape, out);
    let chosen = command.args.iter().find(|arg| matches!(arg.kind, ValueKind::Columns(_)));
    if let Some(names) = chosen.and_then(|arg| args.get(arg.name)).and_then(Value::as_str) {
        page = page.with_columns(command::columns(names).map(str::to_owned).collect());
    }
    let file = command.args.iter().find(|arg| arg.kind == ValueKind::CsvFile);
    let done = match file.and_then(|arg| Some((arg, args.get(arg.name)?.as_str()?.to_owned()))) {
        Some((arg, file)) => {
            in_chunks(&mut client, called, args, arg.name, &file, &mut page).await?
        }
        None => {
            let mut bar: Option<ProgressBar> = None;
            let hear = |heard| match heard {
                Heard::Row(row) => page.row(row),
                Heard::Progress(done, total) => {
                    bar.get_or_insert_with(|| progress(Some(total))).set_position(done);
                    Ok(())
                }
            };
            let outcome = client.call(command.name, &args, hear).await;
            bar.inspect(ProgressBar::finish_and_clear);
            outcome?
        }
    };
    page.done(done.clone())?;
    Ok(done)
}

/// Sends the rows of a CSV file in calls of a few hundred each and adds up what they say. A field
/// `row` of what comes back is the place in its call; it becomes the line of the file.
async fn in_chunks(
    client: &mut Client,
    called: &Called,
    mut args: Map<String, Value>,
    name: &str,
    file: &str,
    page: &mut Page<'_>,
) -> Result<Done, CallError> {
    let mut sheet = Sheet::open(file)?;
    let bar = progress(sheet.size());
    bar.tick();
    let mut sum = Sum::default();
    let mut position = 0;
    while let Some(chunk) = sheet.chunk()? {
        let (lines, bad) = (chunk.lines, chunk.bad);
        let bytes = sheet.position().saturating_sub(position);
        args.insert(name.into(), chunk.rows.into());
        let mut rows = Vec::new();
        let hear = |heard| {
            match heard {
                Heard::Row(row) => rows.push(in_file(row, &lines, &bad)),
                Heard::Progress(done, total) => {
                    bar.set_position(position + bytes.saturating_mul(done) / total.max(1));
                }
            }
            Ok(())
        };
        let outcome = client.call(called.command.name, &args, hear).await;
        // Rows are worked on side by side and come as they are ready.
        rows.sort_by_key(|row| row.get("row").and_then(Value::as_u64));
        rows.into_iter().try_for_each(|row| page.row(row))?;
        match outcome {
            Ok(done) => sum.add(done),
            Err(CallError::Command(error)) if sum.calls > 0 => {
                bar.finish_and_clear();
                let line = lines.first().copied().unwrap_or_default();
                let message = format!("{}, at line {line} of `{file}` or behind", error.message);
                return Err(CommandError { message, ..error }.into());
            }
            Err(error) => {
                bar.finish_and_clear();
                return Err(error);
            }
        }
        position += bytes;
        bar.set_position(position);
    }
    bar.finish_and_clear();
    Ok(sum.done())
}

/// A row of what comes back, with the line of the file instead of the place in the call.
fn in_file(mut row: Row, lines: &[u64], bad: &HashMap<usize, &'static str>) -> Row {
    let place = row.get("row").and_then(Value::as_u64).and_then(|row| usize::try_from(row).ok());
    if let Some(place) = place.and_then(|place| place.checked_sub(1)) {
        if let Some(line) = lines.get(place) {
            row.insert("row".into(), (*line).into());
        }
        if let (Some(why), true) = (bad.get(&place), row.contains_key("problem")) {
            row.insert("problem".into(), (*why).into());
        }
    }
    row
}

/// Outcomes of several calls, added up: numbers are sums, of the rest the last counts.
#[derive(Default)]
struct Sum {
    calls: usize,
    whole: Done,
}

impl Sum {
    fn add(&mut self, done: Done) {
        self.calls += 1;
        self.whole.matched |= done.matched;
        self.whole.message = done.message;
        for (name, value) in done.fields {
            let before = self.whole.fields.get(&name).and_then(Value::as_u64);
            let sum = match (before, value.as_u64()) {
                (Some(before), Some(more)) => before.saturating_add(more).into(),
                _ => value,
            };
            self.whole.fields.insert(name, sum);
        }
    }

    fn done(mut self) -> Done {
        if self.calls > 1 {
            let fields = self.whole.fields.iter();
            let fields: Vec<_> = fields.map(|(name, value)| format!("{name} {value}")).collect();
            self.whole.message = fields.join(", ");
        }
        self.whole
    }
}

/// A bar on standard error if that is a terminal, else nothing.
fn progress(total: Option<u64>) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let template =
        if total.is_some() { "{bar:40} {percent:>3}% {eta} left" } else { "{spinner} {elapsed}" };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

fn from_stdin(arg: &Arg) -> Result<String, CommandError> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    let text = line.strip_suffix('\n').unwrap_or(&line);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match read {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        Ok(_) => Err(CommandError::usage(format!("standard input has no line for `{}`", arg.name))
            .hint("pipe it in: one line, not empty")),
        Err(why) => Err(CommandError::failed(format!("cannot read the {}: {why}", arg.name))
            .hint("it is read from standard input, as one line of UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::socket::tests::World;

    fn row(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn rows_are_named_by_the_line_of_the_file() {
        let lines = [10, 12, 17];
        let bad = HashMap::from([(2, "not UTF-8")]);
        let named = in_file(row(json!({"row": 2, "problem": "x"})), &lines, &bad);
        assert_eq!(Value::from(named), json!({"row": 12, "problem": "x"}));
        let named = in_file(row(json!({"row": 3, "problem": "x"})), &lines, &bad);
        assert_eq!(Value::from(named), json!({"row": 17, "problem": "not UTF-8"}));
        for other in [json!({"row": 4}), json!({"row": 0}), json!({"row": "a"}), json!({})] {
            assert_eq!(Value::from(in_file(row(other.clone()), &lines, &bad)), other);
        }
    }

    #[test]
    fn outcomes_add_up() {
        let mut sum = Sum::default();
        sum.add(Done::said("added 2").with("added", 2).with("skipped", 0).with("by", "a"));
        sum.add(Done::nothing("no rows").with("added", 3).with("skipped", 1).with("by", "b"));
        let done = sum.done();
        assert!(done.matched);
        assert_eq!(done.message, "added 5, skipped 1, by \"b\"");
        assert_eq!(Value::from(done.fields), json!({"added": 5, "skipped": 1, "by": "b"}));
    }

    #[test]
    fn one_call_keeps_its_own_words() {
        let mut sum = Sum::default();
        sum.add(Done::said("added 2 accounts").with("added", 2));
        assert_eq!(sum.done().message, "added 2 accounts");
    }

    fn called(line: &str) -> Called {
        let commands: Vec<_> = command::table().collect();
        let argv = line.split(' ').map(std::ffi::OsString::from);
        match crate::cli::parse(argv, &commands).unwrap().invocation {
            crate::cli::Invocation::Call(called) => called,
            other => panic!("{other:?}"),
        }
    }

    /// Calls a command on a real server; what is shown, and how it ended.
    async fn shown(world: &World, line: &str) -> (String, Result<Done, CallError>) {
        let called = called(line);
        let style =
            Style { json: called.json, width: None, now: Timestamp::now(), zone: TimeZone::UTC };
        let mut out = Vec::new();
        let outcome = perform(&called, &world.path, &style, &mut out).await;
        (String::from_utf8(out).unwrap(), outcome)
    }

    #[tokio::test]
    async fn a_csv_file_is_imported_and_its_bad_rows_are_named_by_line() {
        let world = World::new();
        let file = world.path.with_file_name("in.csv");
        let rows = b"jid,password\r\n\r\nalice@localhost,one\r\n@,two\r\nb\xff@localhost,three\r\n";
        std::fs::write(&file, rows).unwrap();
        let line = format!("usher user import {} --json", file.display());
        let (text, outcome) = shown(&world, &line).await;
        assert!(outcome.unwrap().matched);
        let text: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&text["added"], &text["skipped"]), (&json!(1), &json!(2)));
        assert_eq!(text["rows"][0]["row"], 4);
        assert_eq!(
            (&text["rows"][1]["row"], &text["rows"][1]["problem"]),
            (&json!(5), &json!("it is not UTF-8"))
        );
        let (text, _) = shown(&world, "usher user list").await;
        assert!(text.contains("alice@localhost  user"), "{text}");
    }

    #[tokio::test]
    async fn an_empty_list_is_an_empty_array_and_did_not_match() {
        let (text, outcome) = shown(&World::new(), "usher session list --json").await;
        assert_eq!(text, "[]\n");
        assert!(!outcome.unwrap().matched);
    }

    #[tokio::test]
    async fn what_the_server_refuses_shows_nothing_and_says_why() {
        let (text, outcome) = shown(&World::new(), "usher session end --ip nowhere --json").await;
        assert_eq!(text, "");
        match outcome {
            Err(CallError::Command(error)) => assert!(error.usage, "{error:?}"),
            other => panic!("{other:?}"),
        }
    }
}
