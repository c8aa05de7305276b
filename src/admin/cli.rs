//! The command line, built from the command table when the program starts: words, arguments, help
//! and shell completion. Nothing here knows a single command of the table.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    ArgAction, ArgMatches, Command as Clap, ValueHint,
    builder::{PossibleValuesParser, ValueParser},
    error::ErrorKind,
};
use clap_complete::Shell;
use serde_json::{Map, Value};
use server::{
    command::{Arg, Command, Form, ValueKind},
    config::Span,
};

/// What the command line says.
#[derive(Debug)]
pub struct CommandLine {
    /// The configuration file, if one is named.
    pub config: Option<PathBuf>,
    /// What to do.
    pub invocation: Invocation,
}

/// What to do.
#[derive(Debug)]
pub enum Invocation {
    /// Call a command of the table on the running server.
    Call(Called),
    /// Print a script that completes commands in this shell.
    Completions(Shell),
    /// Say whether a configuration is good.
    ConfigCheck,
    /// Print the example configuration.
    ConfigExample,
    /// Commands at a prompt.
    Console,
    /// Be the server.
    Serve,
}

/// A command of the table with its arguments.
#[derive(Debug)]
pub struct Called {
    /// Which.
    pub command: &'static Command,
    /// Values by name, without secrets and files, which are read when it is called.
    pub args: Map<String, Value>,
    /// Arguments whose secret comes by standard input.
    pub by_stdin: Vec<&'static str>,
    /// Whether the result is for programs.
    pub json: bool,
    /// The account whose rights it is done with; none: all.
    pub acting: Option<String>,
}

/// Reads a command line, the program's name included.
///
/// # Errors
/// Wrong usage, and help that was asked for: print it.
pub fn parse(
    argv: impl IntoIterator<Item = OsString>,
    commands: &[&'static Command],
) -> Result<CommandLine, clap::Error> {
    let matches = whole(commands).try_get_matches_from(argv)?;
    let config = matches.get_one::<PathBuf>("config").cloned();
    let acting = matches.contains_id(AS);
    let invocation = match matches.subcommand() {
        None | Some(("serve", _)) => Invocation::Serve,
        Some(("completions", inner)) => match inner.get_one::<Shell>("shell") {
            Some(shell) => Invocation::Completions(*shell),
            None => return Err(unknown()),
        },
        Some(("config", inner)) => match inner.subcommand_name() {
            Some("check") => Invocation::ConfigCheck,
            _ => Invocation::ConfigExample,
        },
        Some(("console", _)) => Invocation::Console,
        Some(_) => Invocation::Call(called(&matches, commands).ok_or_else(unknown)?),
    };
    if acting && !matches!(invocation, Invocation::Call(_)) {
        let text = "`--as` goes with commands to the running server only\n";
        return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
    }
    Ok(CommandLine { config, invocation })
}

/// Reads a line of the console, cut into words: commands of the table only.
///
/// # Errors
/// As [`parse`].
pub fn parse_words(words: &[String], commands: &[&'static Command]) -> Result<Called, clap::Error> {
    let matches = table(commands).try_get_matches_from(words)?;
    called(&matches, commands).ok_or_else(unknown)
}

/// The script that completes commands in a shell.
#[must_use]
pub fn completions(shell: Shell, commands: &[&'static Command]) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut whole(commands), "usher", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The help of one command or group of the console, or of all.
#[must_use]
pub fn help(words: &[String], commands: &[&'static Command]) -> Option<String> {
    let mut all = table(commands);
    all.build();
    let mut found = &mut all;
    for word in words {
        found = found.find_subcommand_mut(word)?;
    }
    Some(found.render_help().to_string())
}

/// The line that says how a command is called, as in `session show <SESSION>`.
#[must_use]
pub fn usage(command: &Command) -> String {
    let mut line = command.name.to_owned();
    for arg in command.args {
        let value = value_name(arg);
        line.push_str(&match (arg.form, arg.kind) {
            (_, ValueKind::Secret) => format!(" [--{}-stdin]", arg.name),
            (Form::Flag, _) => format!(" [--{}]", arg.name),
            (Form::Many, _) => format!(" [{value}]..."),
            (Form::Option, _) => format!(" [--{} <{value}>]", arg.name),
            (Form::Optional, _) => format!(" [{value}]"),
            (Form::Options, _) => format!(" [--{} <{value}>]...", arg.name),
            (Form::Required, _) => format!(" <{value}>"),
        });
    }
    line
}

/// The option that names the account to act as.
const AS: &str = "as";
/// What it is for.
pub(crate) const AS_ABOUT: &str = "Do it as this account, with its rights and no others";

const STATUSES: &str = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 nothing matched";

/// The whole of `usher`.
fn whole(commands: &[&'static Command]) -> Clap {
    let config = clap::Arg::new("config")
        .long("config")
        .value_name("FILE")
        .global(true)
        .value_parser(clap::value_parser!(PathBuf))
        .value_hint(ValueHint::FilePath)
        .help("The configuration; `usher.toml` if there is one, else built-in defaults");
    let shell = clap::Arg::new("shell")
        .required(true)
        .value_parser(clap::value_parser!(Shell))
        .help("The shell");
    let configuration = Clap::new("config")
        .about("Write an example configuration, or check one")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(Clap::new("example").about("Print a configuration with every key, explained"))
        .subcommand(Clap::new("check").about("Say whether the configuration is good"));
    let own = [
        Clap::new("serve").about("Be the server; the same as no command"),
        configuration,
        Clap::new("console").about("Give commands to the running server at a prompt"),
        Clap::new("completions").about("Print a script for completion in a shell").arg(shell),
    ];
    groups(
        Clap::new("usher").bin_name("usher").version(env!("CARGO_PKG_VERSION")).subcommands(own),
        commands,
    )
    .about("An XMPP server whose heart is session management")
    .arg(config)
    .after_help(STATUSES)
    .disable_help_subcommand(true)
}

/// The commands of the table alone, for a line without the program's name.
fn table(commands: &[&'static Command]) -> Clap {
    groups(Clap::new("usher").no_binary_name(true), commands)
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .help_template("{subcommands}")
}

/// Adds commands under the first of their words, and what stands anywhere on their lines.
fn groups(root: Clap, commands: &[&'static Command]) -> Clap {
    let acting = clap::Arg::new(AS).long(AS).value_name("JID").global(true).help(AS_ABOUT);
    let mut root = root.arg(acting);
    let mut order: Vec<&str> = Vec::new();
    for command in commands {
        let first = command.name.split(' ').next().unwrap_or(command.name);
        if !order.contains(&first) {
            order.push(first);
        }
    }
    for first in order {
        let mut members = Vec::new();
        for command in commands {
            match command.name.split_once(' ') {
                None if command.name == first => root = root.subcommand(leaf(first, command)),
                Some((group, rest)) if group == first => members.push((rest, *command)),
                _ => {}
            }
        }
        if !members.is_empty() {
            let names: Vec<_> = members.iter().map(|(rest, _)| *rest).collect();
            let group = Clap::new(first)
                .about(names.join(", "))
                .subcommand_required(true)
                .arg_required_else_help(true)
                .disable_help_subcommand(true)
                .subcommands(members.into_iter().map(|(rest, command)| leaf(rest, command)));
            root = root.subcommand(group);
        }
    }
    root
}

fn leaf(name: &'static str, command: &'static Command) -> Clap {
    let mut clap = Clap::new(name).about(command.about).args(command.args.iter().map(arg)).arg(
        clap::Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("Print JSON, for programs"),
    );
    if !command.details.is_empty() {
        clap = clap.after_help(command.details);
    }
    clap
}

fn arg(arg: &'static Arg) -> clap::Arg {
    let clap = clap::Arg::new(arg.name).help(arg.about).value_name(value_name(arg));
    if arg.kind == ValueKind::Secret {
        let long = format!("{}-stdin", arg.name);
        let help = format!("Read the {} as one line of standard input, not at a prompt", arg.name);
        return clap::Arg::new(arg.name).long(long).action(ArgAction::SetTrue).help(help);
    }
    match arg.form {
        Form::Flag => {
            return clap::Arg::new(arg.name)
                .long(arg.name)
                .action(ArgAction::SetTrue)
                .help(arg.about);
        }
        Form::Many => clap.num_args(0..).action(ArgAction::Append),
        Form::Option => clap.long(arg.name),
        Form::Optional => clap,
        Form::Options => clap.long(arg.name).action(ArgAction::Append),
        Form::Required => clap.required(true),
    }
    .value_parser(parser(arg.kind))
    // They are the name of the value already.
    .hide_possible_values(
        matches!(arg.form, Form::Option | Form::Options)
            && matches!(arg.kind, ValueKind::Choice(words) if words.len() <= FEW),
    )
    .value_hint(match arg.kind {
        ValueKind::CsvFile | ValueKind::Path => ValueHint::FilePath,
        _ => ValueHint::Other,
    })
}

/// What can be known to be wrong without the server; it checks all of it again.
fn parser(kind: ValueKind) -> ValueParser {
    match kind {
        ValueKind::Choice(words) => PossibleValuesParser::new(words).into(),
        ValueKind::Number => ValueParser::from(|text: &str| {
            let number = text.parse::<u64>().map_err(|_| "write a whole number, as in `100`");
            number.map(|_| text.to_owned())
        }),
        // The server's working directory is not the caller's.
        ValueKind::Path => ValueParser::from(|text: &str| {
            let path = std::path::absolute(text).map_err(|why| why.to_string())?;
            path.into_os_string().into_string().map_err(|_| "the path is not UTF-8".to_owned())
        }),
        ValueKind::Span => {
            ValueParser::from(|text: &str| text.parse::<Span>().map(|_| text.to_owned()))
        }
        _ => ValueParser::string(),
    }
}

/// Words of a choice that are shown in the place of its value.
const FEW: usize = 6;

fn value_name(arg: &Arg) -> String {
    match (arg.form, arg.kind) {
        (Form::Option | Form::Options, ValueKind::Address) => "ADDR|CIDR".into(),
        (Form::Option | Form::Options, ValueKind::Choice(words)) if words.len() <= FEW => {
            words.join("|")
        }
        (Form::Option | Form::Options, ValueKind::Columns(_)) => "NAME,...".into(),
        (Form::Option | Form::Options, ValueKind::Number) => "N".into(),
        (Form::Option | Form::Options, ValueKind::Span) => "TIME".into(),
        (Form::Option | Form::Options, ValueKind::Text) => "TEXT".into(),
        _ => arg.name.to_uppercase(),
    }
}

fn called(matches: &ArgMatches, commands: &[&'static Command]) -> Option<Called> {
    let (mut name, mut matches) = (String::new(), matches);
    while let Some((word, inner)) = matches.subcommand() {
        if !name.is_empty() {
            name.push(' ');
        }
        name.push_str(word);
        matches = inner;
    }
    let command = *commands.iter().find(|command| command.name == name)?;
    let (mut args, mut by_stdin) = (Map::new(), Vec::new());
    for arg in command.args {
        if arg.kind == ValueKind::Secret {
            if matches.get_flag(arg.name) {
                by_stdin.push(arg.name);
            }
            continue;
        }
        let value = match arg.form {
            Form::Flag => matches.get_flag(arg.name).then_some(Value::Bool(true)),
            Form::Many | Form::Options => {
                let values = matches.get_many::<String>(arg.name);
                values.map(|values| values.cloned().map(Value::String).collect())
            }
            _ => matches.get_one::<String>(arg.name).cloned().map(Value::String),
        };
        args.extend(value.map(|value| (arg.name.to_owned(), value)));
    }
    let acting = matches.get_one::<String>(AS).cloned();
    Some(Called { command, args, by_stdin, json: matches.get_flag("json"), acting })
}

fn unknown() -> clap::Error {
    clap::Error::raw(ErrorKind::InvalidSubcommand, "there is no such command\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use server::{
        command::{self, Call, Done, Scope, Shape},
        rights::Right,
    };

    use super::*;

    /// One argument of every form and kind.
    static FAKE: Command = Command {
        name: "thing do",
        about: "Do a thing",
        details: "At length.",
        args: &[
            Arg { name: "who", about: "Whom", form: Form::Required, kind: ValueKind::Jid },
            Arg { name: "more", about: "More", form: Form::Many, kind: ValueKind::Text },
            Arg {
                name: "level",
                about: "Level",
                form: Form::Option,
                kind: ValueKind::Choice(&["a", "b"]),
            },
            Arg { name: "count", about: "Count", form: Form::Option, kind: ValueKind::Number },
            Arg { name: "for", about: "Time", form: Form::Option, kind: ValueKind::Span },
            Arg { name: "dry-run", about: "Dry", form: Form::Flag, kind: ValueKind::Text },
            Arg { name: "note", about: "Note", form: Form::Options, kind: ValueKind::Text },
            Arg { name: "pass", about: "Secret", form: Form::Option, kind: ValueKind::Secret },
        ],
        mutates: true,
        right: Right::User,
        scope: Scope::Others,
        fresh: false,
        shape: Shape::Outcome(&[]),
        run: |_: Call| Box::pin(async { Ok(Done::said("")) }),
    };

    fn line(line: &str) -> Result<CommandLine, clap::Error> {
        let commands: Vec<_> = command::table().chain([&FAKE]).collect();
        parse(line.split(' ').map(OsString::from), &commands)
    }

    fn call(text: &str) -> Called {
        match line(text).unwrap_or_else(|why| panic!("{why}")).invocation {
            Invocation::Call(called) => called,
            other => panic!("{other:?}"),
        }
    }

    fn wrong(text: &str) -> String {
        let error = line(text).expect_err(text);
        assert_eq!(error.exit_code(), 2, "{text}");
        error.to_string()
    }

    #[test]
    fn the_command_line_of_every_command_is_sound() {
        whole(&command::table().collect::<Vec<_>>()).debug_assert();
        table(&command::table().collect::<Vec<_>>()).debug_assert();
        whole(&[&FAKE]).debug_assert();
    }

    #[test]
    fn every_form_arrives_under_its_name() {
        let called = call("usher thing do a@b x y --level b --count 7 --for 30d --dry-run --json");
        assert_eq!(called.command.name, "thing do");
        assert!(called.json && called.by_stdin.is_empty());
        assert_eq!(
            Value::from(called.args),
            json!({"who": "a@b", "more": ["x", "y"], "level": "b", "count": "7", "for": "30d",
                   "dry-run": true})
        );
        let called = call("usher thing do a@b x --note p=1 --note q y");
        let notes = json!({"who": "a@b", "more": ["x", "y"], "note": ["p=1", "q"]});
        assert_eq!(Value::from(called.args), notes);
        let called = call("usher thing do a@b --pass-stdin");
        assert_eq!(Value::from(called.args), json!({"who": "a@b"}));
        assert_eq!(called.by_stdin, ["pass"]);
    }

    #[test]
    fn wrong_usage_is_told_before_anything_is_sent() {
        assert!(wrong("usher thing do").contains("<WHO>"));
        assert!(wrong("usher thing do a --level c").contains("[possible values: a, b]"));
        assert!(wrong("usher thing do a --count x").contains("whole number"));
        assert!(wrong("usher thing do a --for 5y").contains("length of time"));
        assert!(wrong("usher thing do a --pass secret").contains("--pass"));
        wrong("usher thing undo");
        wrong("usher nothing");
        wrong("usher serve x");
        wrong("usher config");
    }

    #[test]
    fn no_command_serves_and_the_configuration_stands_anywhere() {
        let config = |text| line(text).unwrap().config;
        assert!(matches!(line("usher").unwrap().invocation, Invocation::Serve));
        assert!(matches!(line("usher serve").unwrap().invocation, Invocation::Serve));
        assert!(matches!(line("usher config check").unwrap().invocation, Invocation::ConfigCheck));
        assert!(matches!(
            line("usher config example").unwrap().invocation,
            Invocation::ConfigExample
        ));
        assert!(matches!(line("usher console").unwrap().invocation, Invocation::Console));
        assert_eq!(config("usher --config a"), Some("a".into()));
        assert_eq!(config("usher serve --config a"), Some("a".into()));
        assert_eq!(config("usher thing do x --config a"), Some("a".into()));
        assert_eq!(config("usher thing do x"), None);
    }

    #[test]
    fn the_account_to_act_as_stands_anywhere_on_the_line_of_a_command() {
        for text in
            ["usher --as a@b thing do x", "usher thing --as a@b do x", "usher thing do x --as a@b"]
        {
            assert_eq!(call(text).acting.as_deref(), Some("a@b"), "{text}");
        }
        assert_eq!(call("usher thing do x").acting, None);
        for text in ["usher --as a@b", "usher serve --as a@b", "usher --as a@b config check"] {
            assert!(wrong(text).contains("--as"), "{text}");
        }
        let words = ["--as", "a@b", "thing", "do", "x"].map(str::to_owned);
        assert_eq!(parse_words(&words, &[&FAKE]).unwrap().acting.as_deref(), Some("a@b"));
    }

    #[test]
    fn shells_complete_every_word_of_the_table() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(shell, &[&FAKE]);
            assert!(script.contains("thing") && script.contains("dry-run"), "{shell}");
        }
    }

    #[test]
    fn usage_and_help_name_every_argument() {
        assert_eq!(
            usage(&FAKE),
            "thing do <WHO> [MORE]... [--level <a|b>] [--count <N>] [--for <TIME>] [--dry-run] \
             [--note <TEXT>]... [--pass-stdin]"
        );
        let words = ["thing".to_owned(), "do".to_owned()];
        let help = help(&words, &[&FAKE]).unwrap();
        for text in ["Do a thing", "At length.", "--level", "--pass-stdin", "--json"] {
            assert!(help.contains(text), "{help}");
        }
        assert!(super::help(&["no".into()], &[&FAKE]).is_none());
    }
}
