//! What was typed at the console, kept from one time to the next in the data directory, mode 0600.
//! Only lines that the command table accepts are kept: a secret has no place in any of them, while
//! a line that was refused may well be one that had a secret in the wrong place.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

/// Lines that are kept.
pub(crate) const LINES: usize = 1000;

/// The file.
pub(crate) struct History {
    path: PathBuf,
}

impl History {
    /// The history in the file `path`, which need not be there.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The lines, oldest first. A file that has grown too long is cut.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let all: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let kept: Vec<String> =
            all.iter().rev().take(LINES).rev().map(ToString::to_string).collect();
        if all.len() > 2 * LINES {
            // It is a convenience: if it cannot be cut now, it will be another time.
            let _ = self.replace(&kept);
        }
        kept
    }

    /// Keeps a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep(&self, line: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(format!("{}\n", line.replace(['\n', '\r'], " ")).as_bytes())
    }

    fn replace(&self, lines: &[String]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all((lines.join("\n") + "\n").as_bytes())?;
        fs::rename(new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn lines_are_kept_in_order_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let history = History::new(path.clone());
        assert!(history.lines().is_empty());
        history.keep("one").unwrap();
        history.keep("two\nlines").unwrap();
        assert_eq!(History::new(path.clone()).lines(), ["one", "two lines"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_long_history_is_cut_from_its_old_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let all: Vec<String> = (0..=2 * LINES).map(|i| i.to_string()).collect();
        fs::write(&path, all.join("\n")).unwrap();
        let lines = History::new(path.clone()).lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.last(), all.last());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), LINES);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
