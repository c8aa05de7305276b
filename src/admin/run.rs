//! What `usher` does with its command line: everything but serving, which the main program does.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use server::{
    command::{Command, CommandError},
    config::{self, Config},
};

use crate::{
    call::{self, Status},
    cli::{self, Invocation},
    console, render, socket,
};

/// What is left to do for the main program.
#[derive(Debug)]
pub enum Next {
    /// Nothing: it was done, or could not be, and the caller has been told.
    Exit(ExitCode),
    /// To serve, with the configuration from this file.
    Serve(Option<PathBuf>),
}

/// Does what the command line says. `commands` are the core's and the plugins', in the order of the
/// help.
pub fn run(argv: impl IntoIterator<Item = OsString>, commands: &[&'static Command]) -> Next {
    let line = match cli::parse(argv, commands) {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            return Next::Exit(
                if error.use_stderr() { Status::Usage } else { Status::Done }.into(),
            );
        }
    };
    let file = line.config.as_deref();
    let outcome = match line.invocation {
        Invocation::Serve => return Next::Serve(line.config),
        Invocation::ConfigExample => print(config::example()),
        Invocation::Completions(shell) => print(cli::completions(shell, commands)),
        Invocation::ConfigCheck => match config::load(file) {
            Ok(_) => print("the configuration is good\n".into()),
            Err(error) => Err(tell(&error)),
        },
        Invocation::Call(call) => with_config(file, |config| {
            let socket = socket::path(&config);
            runtime(call::on_command_line(&call, &socket))
        }),
        Invocation::Console => with_config(file, |config| console::run(&config, commands)),
    };
    Next::Exit(outcome.unwrap_or_else(|status| status).into())
}

fn with_config(file: Option<&Path>, act: impl FnOnce(Config) -> Status) -> Result<Status, Status> {
    config::load(file).map(act).map_err(|error| tell(&error))
}

/// Tells everything that is wrong with a configuration.
fn tell(error: &config::ConfigError) -> Status {
    for line in error.to_string().lines() {
        let mark = if line.starts_with("hint: ") { "" } else { "error: " };
        let _ = writeln!(io::stderr(), "{mark}{}", render::plain(line));
    }
    Status::Failed
}

fn runtime(future: impl Future<Output = Status>) -> Status {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(why) => call::failed(
            &CommandError::failed(format!("cannot start: {why}"))
                .hint("close other programs first"),
        ),
    }
}

fn print(text: String) -> Result<Status, Status> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => Err(call::cannot_write(&why)),
        _ => Ok(Status::Done),
    }
}
