//! From SQLite's errors to words that help whoever reads the log at night.

use std::path::Path;

use rusqlite::{Error, ErrorCode};
use server::store::{StoreError, Table};

/// An engine error, and where it happened.
#[derive(Debug)]
pub(super) struct Fault {
    error: Error,
    table: Option<&'static str>,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { error, table: None }
    }
}

impl Fault {
    /// For `map_err`: an error while working on a table.
    pub(super) fn at(table: &'static Table) -> impl Fn(Error) -> Self {
        |error| Self { error, table: Some(table.name) }
    }

    /// Whether the whole file is out of reach, so that a smaller transaction fails in the same way.
    pub(super) fn is_of_file(&self) -> bool {
        use ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, ReadOnly, SystemIoFailure};
        matches!(
            self.error.sqlite_error_code(),
            Some(CannotOpen | DatabaseBusy | DatabaseLocked | ReadOnly | SystemIoFailure)
        )
    }

    /// Whether there was no room on the disk.
    pub(super) fn is_of_space(&self) -> bool {
        self.error.sqlite_error_code() == Some(ErrorCode::DiskFull)
    }

    /// What the caller is told. `file` is the database's.
    pub(super) fn answer(&self, file: &Path) -> StoreError {
        if let (Some(table), true) = (self.table, self.is_of_content()) {
            return StoreError::Corrupt { table, why: describe(&self.error, file) };
        }
        StoreError::Unavailable(describe(&self.error, file))
    }

    fn is_of_content(&self) -> bool {
        let wrong_type = matches!(
            self.error,
            Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..)
        );
        wrong_type || self.error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
    }
}

/// One line: what happened, and what to do where something can be done.
pub(super) fn describe(error: &Error, file: &Path) -> String {
    let file = file.display();
    let other = || {
        format!("SQLite failed on `{file}` ({error}); hint: restart, and report it if it persists")
    };
    let Some(code) = error.sqlite_error_code() else {
        return other();
    };
    match code {
        ErrorCode::CannotOpen => {
            format!(
                "`{file}` cannot be opened ({error}); hint: check that its directory exists and is \
                 writable"
            )
        }
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => format!(
            "another process keeps `{file}` locked for writing; hint: close the tool that has a \
             transaction open on it"
        ),
        ErrorCode::DatabaseCorrupt => format!(
            "`{file}` is damaged ({error}); hint: stop the server, keep a copy, restore a backup \
             or try `sqlite3 {file} .recover`"
        ),
        ErrorCode::DiskFull => {
            format!("no space left for `{file}`; hint: free some, writing resumes by itself")
        }
        ErrorCode::NotADatabase => format!(
            "`{file}` is not an SQLite database; hint: move it away or choose another `data_dir`"
        ),
        ErrorCode::PermissionDenied | ErrorCode::ReadOnly => format!(
            "`{file}` is read-only ({error}); hint: check owner and mode of the file, its `-wal` \
             and `-shm`, and that the disk is mounted for writing"
        ),
        ErrorCode::SystemIoFailure => format!(
            "the disk failed under `{file}` ({error}); hint: see the kernel's log, then check \
             the disk"
        ),
        ErrorCode::TooBig => "a value is larger than SQLite takes (1 GB)".to_owned(),
        _ => other(),
    }
}
