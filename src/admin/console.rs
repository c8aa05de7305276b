//! `usher console`: the commands of the table at a prompt, with history and completion. What is no
//! terminal is read as a script, one command per line; the exit status is then that of the first
//! command that was not done.

use std::{
    borrow::Cow,
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
    sync::Arc,
};

use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, History as _, HistoryItem, KeyCode, KeyModifiers,
    MenuBuilder, Prompt, PromptEditMode, PromptHistorySearch, Reedline, ReedlineEvent,
    ReedlineMenu, Signal, default_emacs_keybindings,
};
use server::{
    command::{Command, CommandError},
    config::Config,
};
use tokio::runtime::Runtime;

use crate::{
    call::{self, Status},
    cli::{self, Called},
    complete::{Live, TableCompleter},
    history::{self, History},
    render, socket,
};

/// Takes commands until the end of the input, or `quit`.
pub fn run(config: &Config, commands: &[&'static Command]) -> Status {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => Arc::new(runtime),
        Err(why) => return call::failed(&CommandError::failed(format!("cannot start: {why}"))),
    };
    let console = Console { socket: socket::path(config), commands: commands.to_vec(), runtime };
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        console.prompt(History::new(config.data_dir.join("console_history")))
    } else {
        console.script()
    }
}

struct Console {
    socket: PathBuf,
    commands: Vec<&'static Command>,
    runtime: Arc<Runtime>,
}

/// What a line is.
#[derive(Debug)]
enum Said {
    Call(Called),
    Help(Vec<String>),
    Nothing,
    Quit,
}

impl Console {
    fn prompt(&self, history: History) -> Status {
        let mut editor = self.editor(&history);
        loop {
            let line = match editor.read_line(&Name) {
                Ok(Signal::Success(line)) => line,
                Ok(Signal::CtrlD) => return Status::Done,
                Ok(_) => continue,
                Err(why) => {
                    let error = CommandError::failed(format!("cannot use the terminal: {why}"));
                    return call::failed(&error.hint("pipe commands in, one per line"));
                }
            };
            let said = read(&line, &self.commands);
            if matches!(said, Ok(Said::Call(_))) {
                // Without a history the console is as good as before.
                let _ = history.keep(line.trim());
            }
            match said {
                Ok(Said::Quit) => return Status::Done,
                said => {
                    self.act(said, true);
                }
            }
        }
    }

    fn script(&self) -> Status {
        let mut first = Status::Done;
        let mut line = String::new();
        loop {
            line.clear();
            // Line by line without holding the lock: a secret may be the next line.
            match io::stdin().lock().read_line(&mut line) {
                Ok(0) => return first,
                Ok(_) => {}
                Err(why) => {
                    let error = CommandError::failed(format!("cannot read the commands: {why}"));
                    return call::failed(&error.hint("write them in UTF-8, one per line"));
                }
            }
            let status = match read(&line, &self.commands) {
                Ok(Said::Quit) => return first,
                said => self.act(said, false),
            };
            if first == Status::Done {
                first = status;
            }
        }
    }

    fn act(&self, said: Result<Said, Wrong>, interruptible: bool) -> Status {
        match said {
            Ok(Said::Call(called)) => self.runtime.block_on(async {
                let call = call::on_command_line(&called, &self.socket);
                if !interruptible {
                    return call.await;
                }
                tokio::select! {
                    status = call => status,
                    _ = tokio::signal::ctrl_c() => {
                        let _ = writeln!(io::stdout());
                        Status::Done
                    }
                }
            }),
            Ok(Said::Help(words)) => match cli::help(&words, &self.commands) {
                Some(text) => {
                    let more = "\nhelp COMMAND says more; quit, or Ctrl-D, leaves";
                    let more = if words.is_empty() { more } else { "" };
                    let _ = writeln!(io::stdout(), "{}{more}", text.trim_end());
                    Status::Done
                }
                None => call::failed(
                    &CommandError::usage(format!("there is no command `{}`", words.join(" ")))
                        .hint("`help` lists all"),
                ),
            },
            Ok(Said::Nothing | Said::Quit) => Status::Done,
            Err(Wrong::Line(error)) => call::failed(&error),
            Err(Wrong::Usage(error)) => {
                let text = render_clap(&error);
                if error.use_stderr() {
                    let _ = io::stderr().write_all(text.as_bytes());
                    Status::Usage
                } else {
                    let _ = io::stdout().write_all(text.as_bytes());
                    Status::Done
                }
            }
        }
    }

    fn editor(&self, history: &History) -> Reedline {
        let live = Live { socket: self.socket.clone(), runtime: self.runtime.clone(), known: None };
        let completer = TableCompleter { commands: self.commands.clone(), live };
        let mut keys = default_emacs_keybindings();
        let complete = ["completion"].map(|menu| ReedlineEvent::Menu(menu.into()));
        let events = complete.into_iter().chain([ReedlineEvent::MenuNext]).collect();
        keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, ReedlineEvent::UntilFound(events));
        let menu = ColumnarMenu::default().with_name("completion");
        let editor = Reedline::create()
            .with_completer(Box::new(completer))
            .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
            .with_edit_mode(Box::new(Emacs::new(keys)))
            .with_partial_completions(true)
            .with_ansi_colors(std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
        // In memory: what of it is written to the file is decided line by line.
        match FileBackedHistory::new(history::LINES) {
            Ok(mut lines) => {
                for line in history.lines() {
                    let _ = lines.save(HistoryItem::from_command_line(line));
                }
                editor.with_history(Box::new(lines))
            }
            Err(_) => editor,
        }
    }
}

/// Why a line cannot be carried out.
#[derive(Debug)]
enum Wrong {
    Line(CommandError),
    Usage(clap::Error),
}

fn read(line: &str, commands: &[&'static Command]) -> Result<Said, Wrong> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(Said::Nothing);
    }
    let words = words(line).map_err(Wrong::Line)?;
    match words.split_first() {
        Some((word, rest)) if word == "help" => Ok(Said::Help(rest.to_vec())),
        Some((word, [])) if word == "quit" || word == "exit" => Ok(Said::Quit),
        // As on the command line; whatever else the line says is not done.
        Some(_) if words.iter().any(|word| word == "--help" || word == "-h") => {
            let mut topic = words;
            while cli::help(&topic, commands).is_none() {
                topic.pop();
            }
            Ok(Said::Help(topic))
        }
        _ => cli::parse_words(&words, commands).map(Said::Call).map_err(Wrong::Usage),
    }
}

/// Cuts a line into words as shells do: quotes of both kinds, and backslashes.
fn words(line: &str) -> Result<Vec<String>, CommandError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        None => Ok(words),
        Some(open) => Err(CommandError::usage(format!("a quote `{open}` is not closed"))
            .hint("close it, or write `\\` before it")),
    }
}

/// What is wrong with a line, or its help. What the line said is in it and is made harmless.
fn render_clap(error: &clap::Error) -> String {
    let lines = error.to_string();
    lines.lines().map(|line| render::plain(line) + "\n").collect()
}

struct Name;

impl Prompt for Name {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        "usher".into()
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        "".into()
    }

    fn render_prompt_indicator(&self, _: PromptEditMode) -> Cow<'_, str> {
        "> ".into()
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        ": ".into()
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        format!("(history: {}) ", render::plain(&search.term)).into()
    }
}

#[cfg(test)]
mod tests {
    use server::command;

    use super::*;

    fn said(line: &str) -> Result<Said, Wrong> {
        read(line, &command::table().collect::<Vec<_>>())
    }

    #[test]
    fn lines_are_cut_as_shells_do() {
        let cut = |line| words(line).unwrap();
        assert_eq!(cut("a  b\tc"), ["a", "b", "c"]);
        assert_eq!(cut(r#"a "b c" 'd "e' f\ g h"i"j"#), ["a", "b c", "d \"e", "f g", "hij"]);
        assert_eq!(cut(r#"'' "" "\"" '\'"#), ["", "", "\"", "\\"]);
        assert_eq!(cut("'b@x/it'\\''s two'"), ["b@x/it's two"]);
        assert!(words("it's").unwrap_err().usage);
    }

    #[test]
    fn lines_are_commands_of_the_table_or_the_consoles_own() {
        assert!(matches!(said("  "), Ok(Said::Nothing)));
        assert!(matches!(said("# nothing"), Ok(Said::Nothing)));
        assert!(matches!(said("quit"), Ok(Said::Quit)));
        assert!(
            matches!(said("help session end"), Ok(Said::Help(words)) if words == ["session", "end"])
        );
        for line in ["session end --help", "session end -h --all", "session end a@b --all --help"] {
            let asked = said(line);
            assert!(
                matches!(&asked, Ok(Said::Help(words)) if words == &["session", "end"]),
                "{line}: {asked:?}"
            );
        }
        match said("session end 'a@b/two words' --level kick") {
            Ok(Said::Call(called)) => {
                assert_eq!(called.command.name, "session end");
                assert_eq!(called.args["selector"][0], "a@b/two words");
                assert_eq!(called.args["level"], "kick");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_only_for_the_command_line_is_no_command_here() {
        for line in ["serve", "console", "config example", "session end --level hard", "'open"] {
            assert!(said(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_password_on_the_line_is_refused_and_so_never_kept() {
        for line in
            ["user add a@b --password hunter2", "user add a@b hunter2", "user add a@b --password=x"]
        {
            assert!(said(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_says_what_there_is() {
        let commands: Vec<_> = command::table().collect();
        let text = cli::help(&[], &commands).unwrap();
        for command in commands {
            let first = command.name.split(' ').next().unwrap();
            assert!(text.contains(first), "{first}: {text}");
        }
    }
}
