//! A new start in place: the same process becomes the program that is on the disk now, with the
//! listening sockets of the old one. Whoever connects in between waits in the kernel.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::anyhow;
use net::inherited::{Kept, pass_on};

/// What Linux adds to the name of a program whose file is gone.
const DELETED: &[u8] = b" (deleted)";

/// What is to be started: the program at the place that this one was started from, with the same
/// arguments, whatever has been put there since.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// The configuration that it will read.
    config: Option<PathBuf>,
}

impl Image {
    /// Remembers it; at start, while the file is surely there.
    pub(crate) fn remember(config: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            program: undeleted(env::current_exe()?),
            arguments: env::args_os().skip(1).collect(),
            config: config.map(Into::into),
        })
    }

    /// Whether it can be started and likes its configuration: asks it. Takes a moment.
    pub(crate) fn check(&self) -> Result<(), String> {
        let program = self.program.display();
        let mut command = Command::new(&self.program);
        command.args(["config", "check"]).stdin(Stdio::null());
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        let asked = command.output().map_err(|why| {
            format!("cannot start `{program}`: {why}; hint: put the program back in its place")
        })?;
        match asked.status.success() {
            true => Ok(()),
            false => Err(format!(
                "`{program}` does not take the configuration:\n{}",
                String::from_utf8_lossy(&asked.stderr).trim_end()
            )),
        }
    }

    /// Becomes it. Only comes back if that fails.
    pub(crate) fn exec(self, sockets: Vec<Kept>) -> anyhow::Error {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let why = match pass_on(sockets, &mut command) {
            Ok(()) => command.exec(),
            Err(why) => why,
        };
        let program = self.program.display();
        anyhow!("stopped, but cannot start `{program}` anew: {why}; hint: start it by hand")
    }
}

fn undeleted(program: PathBuf) -> PathBuf {
    match program.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(before) if !program.exists() => OsStr::from_bytes(before).into(),
        _ => program,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn image(program: &str, arguments: &[&str]) -> Image {
        let arguments = arguments.iter().map(OsString::from).collect();
        Image { program: program.into(), arguments, config: None }
    }

    #[test]
    fn what_was_replaced_is_looked_for_at_its_own_place() {
        let place = |text: &str| undeleted(text.into());
        assert_eq!(place("/nowhere/usher (deleted)"), Path::new("/nowhere/usher"));
        assert_eq!(place("/nowhere/usher"), Path::new("/nowhere/usher"));
        let odd = OsString::from_vec(b"/nowhere/\xff (deleted)".to_vec());
        assert_eq!(undeleted(odd.into()).as_os_str().as_bytes(), b"/nowhere/\xff");
    }

    #[test]
    fn what_cannot_be_started_is_found_out_before() {
        let why = image("/nowhere/usher", &[]).check().expect_err("is not there");
        assert!(why.contains("`/nowhere/usher`") && why.contains("hint: "), "{why}");
        let why = image("/dev/null", &[]).check().expect_err("is no program");
        assert!(why.contains("`/dev/null`"), "{why}");
        let why = image("/bin/false", &[]).check().expect_err("does not take it");
        assert!(why.contains("configuration"), "{why}");
        assert_eq!(image("/bin/true", &[]).check(), Ok(()));
    }

    #[test]
    fn a_start_that_fails_says_so() {
        let text = image("/nowhere/usher", &[]).exec(Vec::new()).to_string();
        assert!(text.contains("stopped") && text.contains("`/nowhere/usher`"), "{text}");
    }
}
