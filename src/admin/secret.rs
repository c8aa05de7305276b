//! Asks for a secret at the terminal, twice and without echo. Reads the terminal itself, key by key,
//! so that Ctrl-C gives up and leaves the terminal as it was.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use server::command::CommandError;

/// Asks until the same is given twice; three times at most.
///
/// # Errors
/// When there is no terminal, or who is asked gives up.
pub(crate) fn ask(name: &str) -> Result<String, CommandError> {
    let silent = Silent::open().map_err(|_| {
        CommandError::usage(format!("there is no terminal to ask for the {name} at"))
            .hint(format!("give it as one line of standard input with `--{name}-stdin`"))
    })?;
    for _ in 0..3 {
        let first = silent.line(&format!("{name}: "))?;
        if first.is_empty() {
            silent.say(&format!("the {name} may not be empty\n"))?;
        } else if silent.line(&format!("{name} again: "))? == first {
            return Ok(first);
        } else {
            silent.say("these were not the same\n")?;
        }
    }
    Err(CommandError::failed(format!("the {name} was not given twice the same"))
        .hint("start again"))
}

/// A terminal without echo, put back as it was when dropped.
struct Silent {
    terminal: File,
    before: Termios,
}

impl Silent {
    fn open() -> io::Result<Self> {
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut modes = before.clone();
        modes.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Flush, &modes)?;
        Ok(Self { terminal, before })
    }

    fn say(&self, text: &str) -> Result<(), CommandError> {
        (&self.terminal).write_all(text.as_bytes()).map_err(broken)
    }

    fn line(&self, prompt: &str) -> Result<String, CommandError> {
        self.say(prompt)?;
        // Byte by byte: what is typed behind the line is for whoever reads next.
        let key = || {
            let mut key = [0];
            (&self.terminal).read_exact(&mut key).map(|()| key[0])
        };
        let line = typed(std::iter::repeat_with(key));
        self.say("\n")?;
        line
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// One line from single keys: backspace and Ctrl-U correct, Ctrl-C and Ctrl-D give up.
fn typed(keys: impl Iterator<Item = io::Result<u8>>) -> Result<String, CommandError> {
    let mut line = Vec::new();
    for key in keys {
        match key.map_err(broken)? {
            b'\r' | b'\n' => {
                return String::from_utf8(line).map_err(|_| {
                    CommandError::failed("that was not UTF-8").hint("set the terminal to UTF-8")
                });
            }
            3 | 4 => return Err(CommandError::failed("given up")),
            8 | 127 => {
                // A character is all its bytes: those that continue it, and the first.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            21 => line.clear(),
            byte => line.push(byte),
        }
    }
    Err(CommandError::failed("given up"))
}

fn broken(why: io::Error) -> CommandError {
    CommandError::failed(format!("cannot use the terminal: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<String, CommandError> {
        typed(text.bytes().map(Ok))
    }

    #[test]
    fn keys_make_a_line() {
        assert_eq!(keys("secret\r").unwrap(), "secret");
        assert_eq!(keys("pä\u{7f}ass\n").unwrap(), "pass");
        assert_eq!(keys("wrong\u{15}right\n").unwrap(), "right");
        assert_eq!(keys("\u{7f}\u{7f}a\n").unwrap(), "a");
    }

    #[test]
    fn ctrl_c_and_the_end_give_up() {
        for text in ["abc\u{3}", "\u{4}", "abc"] {
            assert_eq!(keys(text).unwrap_err().message, "given up");
        }
    }
}
