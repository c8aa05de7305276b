//! Opening `usher.db`: the directory, the lock, the file's marks, the connections.
//!
//! The lock is an advisory one (`flock`) on `usher.lock` beside the file, and not SQLite's
//! exclusive mode, because an operator may read the file while the server runs. It goes with the
//! process, however that ends.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{fault, schema};

/// The database within the data directory.
pub(super) const FILE: &str = "usher.db";
/// What is locked while a server uses the directory. It holds the server's process id.
const LOCK: &str = "usher.lock";
/// How long a statement waits for another process, an operator's `sqlite3` for one.
const BUSY: Duration = Duration::from_secs(5);

/// Why the store could not be opened: one line, with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// SQLite could not open or prepare the file.
    #[error("{0}")]
    Engine(String),
    /// The file belongs to another program.
    #[error(
        "`{file}` is a database of another program; hint: move it away or choose another `data_dir`"
    )]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// The system refused something.
    #[error("cannot {doing} `{path}`: {why}; hint: check that it exists and who may write to it")]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// Another server uses the directory.
    #[error(
        "`{data}` is in use by {by}; hint: stop that server first, or choose another `data_dir`"
    )]
    Locked {
        /// The data directory.
        data: PathBuf,
        /// `process 123`, or `another process`.
        by: String,
    },
    /// The file was written by a newer version of this program.
    #[error(
        "`{file}` has layout {found} and this version knows up to {known}; hint: run the newer \
         version again, or restore a backup made before it ran"
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// The layout it has.
        found: i32,
        /// The newest layout known here.
        known: i32,
    },
    /// The system gave no threads.
    #[error("cannot start the store's threads: {why}; hint: raise the limit of processes")]
    Threads {
        /// What the system said.
        why: io::Error,
    },
}

/// A file that is ours, locked and ready.
pub(super) struct Opened {
    pub(super) file: Arc<Path>,
    pub(super) lock: File,
    pub(super) readers: Vec<Connection>,
    /// Names of the tables that are there.
    pub(super) tables: Vec<String>,
    pub(super) writer: Connection,
}

pub(super) fn open(data: &Path, readers: usize) -> Result<Opened, OpenError> {
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |why| OpenError::Io { doing, path, why }
    };
    let mut directory = fs::DirBuilder::new();
    directory.recursive(true).mode(0o700).create(data).map_err(io("create", data))?;
    // Absolute, so that a later change of directory means nothing and no name looks like a URI.
    let data = &data.canonicalize().map_err(io("open", data))?;
    let lock = lock(data)?;

    let file: Arc<Path> = data.join(FILE).into();
    // Created here for its mode, which SQLite gives to the files it puts beside it.
    let mut create = OpenOptions::new();
    create.read(true).append(true).create(true).mode(0o600);
    create.open(&file).map_err(io("open", &file))?;
    let engine = |error| engine(&error, &file);

    let writer = connect(&file, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(engine)?;
    mark(&writer, &file)?;
    writer
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = OFF;
             PRAGMA journal_size_limit = 67108864;
             PRAGMA secure_delete = FAST;
             PRAGMA temp_store = MEMORY;",
        )
        .map_err(engine)?;
    let tables = names(&writer).map_err(engine)?;
    let reader = |_| connect(&file, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let readers = (0..readers).map(reader).collect::<Result<_, _>>().map_err(engine)?;
    // The files' names are durable only once their directory is.
    File::open(data).and_then(|data| data.sync_all()).map_err(io("sync", data))?;
    tracing::info!(event = "store-opened", file = %file.display(), tables = tables.len());
    Ok(Opened { file: Arc::clone(&file), lock, readers, tables, writer })
}

pub(super) fn connect(file: &Path, mode: OpenFlags) -> Result<Connection, rusqlite::Error> {
    // Each connection stays in one thread, so SQLite needs no lock of its own.
    let db = Connection::open_with_flags(file, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(schema::STATEMENTS);
    db.execute_batch("PRAGMA trusted_schema = OFF")?;
    Ok(db)
}

/// Makes sure that the file is one of ours, without a change to one that is not.
pub(super) fn check(db: &Connection, file: &Path) -> Result<Layout, OpenError> {
    let number = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let look = || -> Result<_, rusqlite::Error> {
        let entries: i64 =
            db.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
        Ok((number("application_id")?, number("user_version")?, entries))
    };
    let foreign = || OpenError::Foreign { file: file.to_owned() };
    match look() {
        Ok((0, 0, 0)) => Ok(Layout::Empty),
        Ok((schema::APPLICATION_ID, found, _)) if found > schema::VERSION => {
            Err(OpenError::Newer { file: file.to_owned(), found, known: schema::VERSION })
        }
        Ok((schema::APPLICATION_ID, _, _)) => Ok(Layout::Known),
        Ok(_) => Err(foreign()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => Err(foreign()),
        Err(error) => Err(engine(&error, file)),
    }
}

/// What a file that may be used contains.
pub(super) enum Layout {
    Empty,
    Known,
}

fn mark(db: &Connection, file: &Path) -> Result<(), OpenError> {
    if matches!(check(db, file)?, Layout::Known) {
        return Ok(());
    }
    let (id, version) = (schema::APPLICATION_ID, schema::VERSION);
    let sql = format!(
        "BEGIN IMMEDIATE; PRAGMA application_id = {id}; PRAGMA user_version = {version}; COMMIT"
    );
    db.execute_batch(&sql).map_err(|error| engine(&error, file))
}

fn names(db: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    db.prepare(schema::NAMES)?.query_map((), |row| row.get(0))?.collect()
}

fn lock(data: &Path) -> Result<File, OpenError> {
    let path = data.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let locked = options.open(&path).and_then(|mut file| match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", process::id())?;
            Ok(Ok(file))
        }
        Err(TryLockError::Error(why)) => Err(why),
        Err(TryLockError::WouldBlock) => Ok(Err(holder(file))),
    });
    match locked {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(by)) => Err(OpenError::Locked { data: data.to_owned(), by }),
        Err(why) => Err(OpenError::Io { doing: "lock", path, why }),
    }
}

fn holder(lock: File) -> String {
    let mut text = String::new();
    // A hint only: the other may not have written its id yet.
    let _ = lock.take(32).read_to_string(&mut text);
    text.trim().parse().map_or_else(|_| "another process".into(), |id: u32| format!("process {id}"))
}

fn engine(error: &rusqlite::Error, file: &Path) -> OpenError {
    OpenError::Engine(fault::describe(error, file))
}
