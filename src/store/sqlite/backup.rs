//! A copy of the database, whole and consistent, while the server runs or not.
//!
//! `VACUUM INTO`: one snapshot, compacted; writers go on meanwhile. Keys that live beside the
//! database in the data directory are not part of it.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{self, Path},
};

use rusqlite::OpenFlags;

use super::fault;
use super::open::{FILE, Layout, OpenError, check, connect};

/// Copies the store in the directory `data` into the new file `to` (mode 0600, on disk when this
/// returns). Blocks for as long as that takes.
///
/// # Errors
///
/// [`OpenError`]: there is no store in `data`, `to` exists, or the disk failed; then there is no
/// file `to`.
pub(super) fn backup(data: &Path, to: &Path) -> Result<(), OpenError> {
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |why| OpenError::Io { doing, path, why }
    };
    let file = &data.canonicalize().map_err(io("open", data))?.join(FILE);
    fs::metadata(file).map_err(io("open", file))?;
    let to = &path::absolute(to).map_err(io("create", to))?;
    let engine = |file: &Path, error| OpenError::Engine(fault::describe(&error, file));

    let db =
        connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| engine(file, error))?;
    if matches!(check(&db, file)?, Layout::Empty) {
        return Err(OpenError::Engine(format!(
            "`{}` is empty; hint: check `data_dir`",
            file.display()
        )));
    }
    // SQLite accepts an empty file as the destination, and so it has our mode from the beginning.
    let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    new.map_err(io("create", to))?;
    let copy = || {
        let name = to.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(to.clone()))?;
        db.execute("VACUUM INTO ?1", [name])
    };
    let copied = copy().map_err(|error| engine(to, error)).and_then(|_| {
        let sync = File::open(to).and_then(|copy| copy.sync_all());
        let directory = to.parent().unwrap_or(to);
        sync.and_then(|()| File::open(directory)?.sync_all()).map_err(io("sync", to))
    });
    copied.inspect_err(|_| {
        // Half a backup is worse than none; that it is gone is all there is to say.
        let _ = fs::remove_file(to);
    })
}
