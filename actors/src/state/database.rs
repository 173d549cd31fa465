//! The folder: its lock, its database, its tables.
//!
//! ```text
//! <state>/lock      locked by the process that uses the folder
//! <state>/db        the database (fjall 3)
//! <state>/db-new    a database that is being made; renamed to db when it is whole
//! ```
//!
//! Table `meta`: `format` (u32, big endian), `name` (16 hex digits), `seq` (u64, big endian: the last
//! number that was given to a fetch or a dead letter).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use fjall::config::FilterPolicy;
use fjall::{KeyspaceCreateOptions, PersistMode, Readable, SingleWriterTxDatabase};
use fjall::{SingleWriterTxKeyspace, Slice};

use super::{StateError, clock};

/// The form of the tables; another one is refused.
pub(super) const FORMAT: u32 = 1;

/// Blocks kept in memory, all tables together.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Writes kept in memory per table until they are sorted onto disk. Up to five of them can exist at
/// once (fjall stops writers at four that wait for the disk).
const BUFFER_BYTES: u64 = 8 * 1024 * 1024;
/// The same for tables with little traffic.
const SMALL_BUFFER_BYTES: u64 = 2 * 1024 * 1024;
/// Journals kept on disk for tables that still have writes in memory; it bounds what an opening replays.
const JOURNAL_BYTES: u64 = 128 * 1024 * 1024;
/// Open files. The rest of the descriptors is for sockets.
const FILES_MAX: usize = 128;
/// One thread writes tables, one merges them.
const WORKERS: usize = 2;

const META_FORMAT: &str = "format";
const META_NAME: &str = "name";
const META_SEQ: &str = "seq";

/// The tables. Keys and values: `queue::embedded::rows` and `ledger::embedded`.
pub(crate) struct Tables {
    pub(crate) meta: SingleWriterTxKeyspace,
    /// Waiting fetches.
    pub(crate) fetch: SingleWriterTxKeyspace,
    /// What became of an id.
    pub(crate) ids: SingleWriterTxKeyspace,
    /// Fetches put aside, by number.
    pub(crate) aside: SingleWriterTxKeyspace,
    /// The same by the moment of their return.
    pub(crate) due: SingleWriterTxKeyspace,
    /// Dead letters.
    pub(crate) dead: SingleWriterTxKeyspace,
    /// Inputs that were dead before they were fetches.
    pub(crate) buried: SingleWriterTxKeyspace,
    /// How far unfinished fetches have come. Made by the first opening that knows it.
    pub(crate) progress: SingleWriterTxKeyspace,
    pub(crate) ledger: SingleWriterTxKeyspace,
}

/// A folder that was opened. Fields are dropped in this order: the lock goes last.
pub(super) struct Opened {
    pub(super) tables: Tables,
    pub(super) database: SingleWriterTxDatabase,
    pub(super) lock: Lock,
    pub(super) name: Arc<str>,
    /// The last number that was given.
    pub(super) seq: u64,
}

/// Opens a folder, or makes it.
pub(super) fn open(path: &Path) -> Result<Opened, StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let database_error = |error: fjall::Error| StateError::Database {
        path: path.to_owned(),
        reason: sentence(&error),
    };

    fs::create_dir_all(path).map_err(io)?;
    let lock = lock(path)?;
    let folder = path.join("db");
    if !folder.try_exists().map_err(io)? {
        // Made under another name first: a process killed in between leaves no half-made database.
        let unfinished = path.join("db-new");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        create(&unfinished).map_err(database_error)?;
        fs::rename(&unfinished, &folder).map_err(io)?;
        File::open(path).and_then(|folder| folder.sync_all()).map_err(io)?;
    }

    let database = connect(&folder).map_err(database_error)?;
    // The format is read before the other tables are touched.
    let meta = table(&database, "meta").map_err(database_error)?;
    let (format, name, seq) = read_meta(&database, &meta).map_err(database_error)?;
    if format != FORMAT {
        return Err(StateError::Format { path: path.to_owned(), found: format, expected: FORMAT });
    }
    let tables = tables(&database).map_err(database_error)?;
    Ok(Opened { tables, database, lock, name, seq })
}

/// The folder is this process's while this is there, and no longer than the process.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Not left to the closing of the file: a child process that is just being started has a copy of it.
    fn drop(&mut self) {
        // The file is closed next, which does the same.
        self.0.unlock().ok();
    }
}

pub(super) fn lock(path: &Path) -> Result<Lock, StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join("lock"))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(StateError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

fn connect(folder: &Path) -> Result<SingleWriterTxDatabase, fjall::Error> {
    SingleWriterTxDatabase::builder(folder)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNAL_BYTES)
        .max_cached_files(Some(FILES_MAX))
        .worker_threads(WORKERS)
        .open()
}

fn create(folder: &Path) -> Result<(), fjall::Error> {
    let database = connect(folder)?;
    let tables = tables(&database)?;
    let mut tx = database.write_tx();
    tx.insert(&tables.meta, META_FORMAT, FORMAT.to_be_bytes());
    tx.insert(&tables.meta, META_NAME, format!("{:016x}", clock::random()).as_str());
    tx.insert(&tables.meta, META_SEQ, 0_u64.to_be_bytes());
    tx.commit()?;
    database.persist(PersistMode::SyncAll)
}

fn table(
    database: &SingleWriterTxDatabase,
    name: &str,
) -> Result<SingleWriterTxKeyspace, fjall::Error> {
    database.keyspace(name, || {
        let options = KeyspaceCreateOptions::default();
        match name {
            // Only ranges of keys and keys that are there are read: a filter would never say no.
            "fetch" => {
                options.max_memtable_size(BUFFER_BYTES).filter_policy(FilterPolicy::disabled())
            }
            "ids" | "ledger" => options.max_memtable_size(BUFFER_BYTES),
            _ => options.max_memtable_size(SMALL_BUFFER_BYTES),
        }
    })
}

fn tables(database: &SingleWriterTxDatabase) -> Result<Tables, fjall::Error> {
    Ok(Tables {
        meta: table(database, "meta")?,
        fetch: table(database, "fetch")?,
        ids: table(database, "ids")?,
        aside: table(database, "aside")?,
        due: table(database, "due")?,
        dead: table(database, "dead")?,
        buried: table(database, "buried")?,
        progress: table(database, "progress")?,
        ledger: table(database, "ledger")?,
    })
}

/// Format, name and last number. A missing format reads as 0, which nothing accepts.
fn read_meta(
    database: &SingleWriterTxDatabase,
    meta: &SingleWriterTxKeyspace,
) -> Result<(u32, Arc<str>, u64), fjall::Error> {
    let view = database.read_tx();
    let get = |key: &str| view.get(meta, key);
    let format =
        get(META_FORMAT)?.and_then(|value| value[..].try_into().ok()).map_or(0, u32::from_be_bytes);
    let name = get(META_NAME)?
        .map_or_else(String::new, |value| String::from_utf8_lossy(&value).into_owned());
    let seq =
        get(META_SEQ)?.and_then(|value| value[..].try_into().ok()).map_or(0, u64::from_be_bytes);
    Ok((format, name.into(), seq))
}

/// The key and the value that keep the last number.
pub(super) fn seq_row(seq: u64) -> (Slice, Slice) {
    (META_SEQ.into(), seq.to_be_bytes().into())
}

/// What a database error says, for people.
pub(super) fn sentence(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
            error.to_string()
        }
        fjall::Error::Poisoned => "an earlier write to the disk failed".into(),
        other => format!("{other:?}"),
    }
}
