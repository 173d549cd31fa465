//! Where answers go: a sink takes a body as it comes and makes it one object, complete or absent.
//!
//! This module decides how a body gets from the wire into the store: its content encoding is
//! undone, its bytes counted and hashed, then compressed and put. It promises that
//!
//! - an object becomes visible in [`Sink::finish`] only, whole, and is otherwise as it was before;
//! - bodies on their way hold no more than `buffer_bytes_max` on the whole node (see `budget`),
//!   whatever their size and whatever they expand to;
//! - only bodies of up to [`INLINE_BYTES_MAX`] are worked on the calling thread.
//!
//! It must not know recipes, accounts, HTTP or actors: a key and options come in, facts go out.
//!
//! # What a crash leaves
//!
//! A file becomes visible by a rename, so kill -9 leaves no half object, and loses none that
//! [`Sink::finish`] reported: the system has it. A power cut may lose the last seconds of those,
//! and may leave one of them empty or short, unless the store was opened with `fsync`, which writes
//! file and folder to the disk before an object counts as stored. Staging files of killed processes
//! stay until
//! [`Store::clean_leftovers`].
//!
//! In a bucket an object appears whole or not at all, and is durable when the put is answered. Parts of a
//! larger body whose process was killed stay, unseen, until [`Store::clean_leftovers`] aborts their upload; Azure
//! has no such call and drops them by itself after a week.

mod bucket;
mod budget;
mod check;
mod codec;
#[cfg(any(test, feature = "testkit"))]
pub mod conformance;
mod error;
mod leftovers;
mod lines;
mod members;
mod pipeline;
mod reading;
mod sink;
mod spool;
mod sums;
mod sweep;
mod unpack;
mod unwrap;
mod upload;
mod writers;
mod zip;

#[cfg(test)]
mod tests;

use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use self::bucket::Bucket;
use self::budget::Budget;
use self::lines::{Line, Lines};
use self::spool::Spool;
use self::upload::Upload;
use self::writers::Writers;

pub use self::bucket::BUCKET_BODY_BYTES_MAX;
pub(crate) use self::bucket::landing;
pub use self::error::{OpenError, SinkError, StoreErrorKind, Unfit};
use self::error::{if_there, is_unknown};
pub use self::leftovers::Cleaned;
pub(crate) use self::lines::LINE_BYTES_MAX;
pub use self::lines::{LINES_FOLDER, keep_lines};
pub use self::members::{MEMBERS_MAX, MemberName, Members};
pub use self::reading::{Listed, Reading};
pub use self::sink::{Sealed, Sink, Tap};
pub use self::sums::{Found, Written};
pub use self::sweep::keep_clean;
pub use self::unpack::{Unpack, Unpacked};

use crate::plan::{BucketPlan, Plan, StoreTarget};

/// Largest body that is decoded, hashed and compressed on the calling thread, in bytes on the wire
/// and after decoding: small enough not to hold up a loop.
pub const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Largest object of [`Store::put_small`] and [`Store::get`], in bytes.
pub const SMALL_OBJECT_BYTES_MAX: usize = 1024 * 1024;

/// Where answers wait in the state folder.
const SPOOL: &str = "spool";

/// Default of [`SinkOptions::expand_max`]. Deflate itself ends at about 1,032.
pub const EXPAND_MAX: u32 = 200;

/// Decoded bytes a body may have whatever it expands to.
pub const EXPAND_FREE_BYTES: u64 = 16 * 1024 * 1024;

/// Part of an object in a file store: large enough that a write costs little beside its bytes.
const FILE_PART_BYTES: usize = 1024 * 1024;

/// What a streaming body holds beside its parts: what it read (256 KiB and the piece in hand), the
/// compressor and its output. Measured with 48 bodies at once, zstd: 3.2 MiB of memory each, parts
/// included, where a share is 4 MiB.
const STREAM_SLACK_BYTES: u64 = 2 * 1024 * 1024;

/// Least budget of a store: one streamed body and one small one.
pub const BUFFER_BYTES_MIN: u64 =
    2 * FILE_PART_BYTES as u64 + STREAM_SLACK_BYTES + budget::SMALL_SHARE_BYTES;

/// Least budget of a store in a bucket, where bodies have up to `body_bytes_max` bytes: the larger these,
/// the larger their parts.
pub fn bucket_buffer_bytes_min(body_bytes_max: u64) -> u64 {
    2 * bucket::part_bytes(body_bytes_max) + STREAM_SLACK_BYTES + budget::SMALL_SHARE_BYTES
}

/// Least `buffer_bytes_max` with which so many bodies are streamed into a plan's store side by side.
pub fn buffer_bytes_for(plan: &Plan, bodies: u64) -> u64 {
    let part_bytes = match &plan.store.target {
        StoreTarget::Bucket(_) => bucket::part_bytes(plan.collect.body_bytes_max),
        _ => FILE_PART_BYTES as u64,
    };
    Budget::bytes_for(bodies, 2 * part_bytes + STREAM_SLACK_BYTES)
}

/// How an object is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// The answer's content encoding, undone on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decode {
    /// None.
    Identity,
    /// gzip, of one or more members.
    Gzip,
    /// The zlib format, as RFC 9110 §8.4.1.2 says; not a bare deflate stream.
    Deflate,
}

/// What kind of file a body is, which it is taken out of after its content encoding was undone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Unwrap {
    /// None.
    #[default]
    None,
    /// A gzip file, of one or more members.
    Gzip,
    /// A zip archive; one member of it.
    Zip(Pick),
    /// A zip archive; several members of it, each of which is an object: see [`Store::unpack`].
    Members(Members),
}

/// Which member of an archive is taken: the one whose whole name fits a pattern of `*` (any characters) and `?` (any
/// one); nothing: the only one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pick(pub Option<Arc<str>>);

impl Pick {
    fn fits(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|pattern| fits(pattern, name))
    }
}

/// Whether a whole name fits a pattern of `*` and `?`.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // Where the last star stands, and how much of the name it has taken.
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(sign) if *sign == '?' || *sign == name[of] => (at, of) = (at + 1, of + 1),
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, of) = (place + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|sign| *sign == '*')
}

/// Looks at a body on its way, after decoding, and has the last word before it is stored.
pub trait Inspect: Send + std::fmt::Debug {
    /// The next bytes of it.
    fn take(&mut self, bytes: &[u8]);

    /// That was all; what becomes of it. Called once.
    fn end(&mut self) -> Word;
}

/// The last word on a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is not stored.
    No,
    /// It may be stored, if it is what was declared.
    Yes,
    /// It is stored: there is nothing in it, and that is right. So it need not be the file that was declared.
    Empty,
}

/// How a body is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkOptions {
    /// How the object is compressed.
    pub codec: Codec,
    /// What is undone first.
    pub decode: Decode,
    /// What is undone then.
    pub unwrap: Unwrap,
    /// The charset that text is converted from, to UTF-8 without a byte order mark; nothing: bytes stay as they are.
    pub charset: Option<&'static encoding_rs::Encoding>,
    /// Largest body, in bytes after decoding.
    pub body_bytes_max: u64,
    /// Most bytes after decoding for each byte on the wire, in a body of more than
    /// [`EXPAND_FREE_BYTES`]. Default [`EXPAND_MAX`].
    pub expand_max: u32,
}

/// A stored body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The object.
    pub key: Path,
    /// Size of the body after decoding and before compressing, in bytes.
    pub bytes: u64,
    /// SHA-256 of the same bytes, in lower-case hex.
    pub sha256: String,
    /// Size of the object, in bytes.
    pub stored_bytes: u64,
    /// SHA-256 of the object, in lower-case hex.
    pub stored_sha256: String,
}

/// A place for objects. Cheap to clone; all clones share one budget.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    budget: Budget,
    /// Places on the blocking threads for work on bodies.
    places: Arc<Semaphore>,
    part_bytes: usize,
    files: Option<Files>,
    bucket: Option<Bucket>,
    lines: OnceLock<Arc<Lines>>,
    folds_case: OnceLock<bool>,
    /// Whether it has said that it cannot put an object only where none is.
    no_create: AtomicBool,
}

/// What only a file store has; both paths are absolute.
#[derive(Debug)]
struct Files {
    root: PathBuf,
    state: PathBuf,
    /// The state folder as a key, if it lies below the root.
    state_key: Option<Path>,
    writers: Writers,
}

/// Threads that put small files, and as many where each waits for the disk.
const WRITERS: usize = 2;
const WRITERS_FSYNC: usize = 16;

impl Store {
    /// The store of a configuration. Blocks for a few file operations; makes no request: whether a bucket
    /// can be used is told by [`Store::probe`].
    ///
    /// # Errors
    /// Any [`OpenError`].
    pub fn open(plan: &Plan) -> Result<Self, OpenError> {
        let budget = plan.collect.buffer_bytes_max;
        match &plan.store.target {
            StoreTarget::File(root) => {
                Self::open_file(root, &plan.state(), plan.store.fsync, budget)
            }
            StoreTarget::Memory => Self::memory(budget),
            StoreTarget::Bucket(bucket) => {
                let bytes = plan.store.spool_bytes_max;
                let spool = (bytes > 0).then(|| Spool::new(plan.state().join(SPOOL), bytes));
                Self::open_bucket_with(bucket, plan.collect.body_bytes_max, budget, spool)
            }
        }
    }

    /// Objects in a bucket, each of at most `body_bytes_max` bytes before it is compressed. Needs
    /// [`crate::install_tls`].
    ///
    /// # Errors
    /// [`OpenError`]: `buffer_bytes_max` (bytes) is less than [`bucket_buffer_bytes_min`], or no client can be
    /// made.
    pub fn open_bucket(
        plan: &BucketPlan,
        body_bytes_max: u64,
        buffer_bytes_max: u64,
    ) -> Result<Self, OpenError> {
        Self::open_bucket_with(plan, body_bytes_max, buffer_bytes_max, None)
    }

    /// The same; what it does not take while it is away waits in the spool, and so does whoever puts it.
    fn open_bucket_with(
        plan: &BucketPlan,
        body_bytes_max: u64,
        buffer_bytes_max: u64,
        spool: Option<Spool>,
    ) -> Result<Self, OpenError> {
        let part_bytes = bucket::part_bytes(body_bytes_max);
        let bucket = Bucket::new(plan, part_bytes, spool)?;
        let objects = bucket.objects();
        let part_bytes = usize::try_from(part_bytes).unwrap_or(usize::MAX);
        Self::new(objects, part_bytes, None, Some(bucket), buffer_bytes_max)
    }

    /// Objects as files below `root`, which is made if it is missing. `state` is the state folder:
    /// no object is put into it and nothing in it is cleaned up. With `fsync` an object counts as
    /// stored when it is on the disk (see the module's head). Blocks for a few file operations.
    ///
    /// # Errors
    /// [`OpenError`]: `buffer_bytes_max` (bytes) is too small for one body, or the folder cannot be
    /// used.
    pub fn open_file(
        root: &FsPath,
        state: &FsPath,
        fsync: bool,
        buffer_bytes_max: u64,
    ) -> Result<Self, OpenError> {
        let writers = if fsync { WRITERS_FSYNC } else { WRITERS };
        Self::open_file_with(root, state, fsync, buffer_bytes_max, writers)
    }

    /// As [`Store::open_file`], without threads of its own: tokio holds a paused clock while its own
    /// blocking threads work, and knows of no others.
    #[cfg(test)]
    pub(crate) fn open_file_on_tokio(
        root: &FsPath,
        state: &FsPath,
        buffer_bytes_max: u64,
    ) -> Result<Self, OpenError> {
        Self::open_file_with(root, state, false, buffer_bytes_max, 0)
    }

    fn open_file_with(
        root: &FsPath,
        state: &FsPath,
        fsync: bool,
        buffer_bytes_max: u64,
        writers: usize,
    ) -> Result<Self, OpenError> {
        let folder = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Folder {
            path: root.to_owned(),
            source,
        };
        std::fs::create_dir_all(root).map_err(|e| folder(e.into()))?;
        let canonical = root.canonicalize().map_err(|e| folder(e.into()))?;
        let state = resolve(state).map_err(|e| folder(e.into()))?;
        if canonical.starts_with(&state) {
            return Err(OpenError::InState { path: root.to_owned() });
        }
        let below = state.strip_prefix(&canonical).ok().and_then(FsPath::to_str);
        let state_key = below.and_then(|text| Path::parse(text).ok());
        let objects = LocalFileSystem::new_with_prefix(&canonical).map_err(|e| folder(e.into()))?;
        let objects: Arc<dyn ObjectStore> = Arc::new(objects.with_fsync(fsync));
        let writers = Writers::start(&objects, writers).map_err(|e| folder(e.into()))?;
        let files = Files { root: canonical, state, state_key, writers };
        Self::new(objects, FILE_PART_BYTES, Some(files), None, buffer_bytes_max)
    }

    /// Objects in memory, gone when the process ends. For tests and trials: its objects are not
    /// counted.
    ///
    /// # Errors
    /// [`OpenError::Budget`]: `buffer_bytes_max` (bytes) is too small for one body.
    pub fn memory(buffer_bytes_max: u64) -> Result<Self, OpenError> {
        Self::new(Arc::new(InMemory::new()), FILE_PART_BYTES, None, None, buffer_bytes_max)
    }

    /// Objects in memory, each put of which takes so long.
    #[cfg(test)]
    pub(crate) fn slow(put: std::time::Duration) -> Self {
        use object_store::throttle::{ThrottleConfig, ThrottledStore};
        let config = ThrottleConfig { wait_put_per_call: put, ..ThrottleConfig::default() };
        let objects = Arc::new(ThrottledStore::new(InMemory::new(), config));
        Self::new(objects, FILE_PART_BYTES, None, None, 1 << 30).expect("room for a body")
    }

    fn new(
        objects: Arc<dyn ObjectStore>,
        part_bytes: usize,
        files: Option<Files>,
        bucket: Option<Bucket>,
        buffer_bytes_max: u64,
    ) -> Result<Self, OpenError> {
        let stream_share_bytes = 2 * part_bytes as u64 + STREAM_SLACK_BYTES;
        let budget = Budget::new(buffer_bytes_max, stream_share_bytes)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let places = Arc::new(Semaphore::new(cores));
        let (lines, folds_case) = (OnceLock::new(), OnceLock::new());
        let no_create = AtomicBool::new(false);
        let inner = Inner {
            objects,
            budget,
            places,
            part_bytes,
            files,
            bucket,
            lines,
            folds_case,
            no_create,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A sink for one body. Nothing happens before its first `write`.
    pub fn sink(&self, key: Path, options: SinkOptions) -> Sink {
        Sink::new(self.clone(), key, options)
    }

    /// Takes an archive apart, of which several members are stored: see [`Unpack`].
    pub fn unpack(&self, key: Path, members: Members, options: &SinkOptions) -> Unpack {
        Unpack::new(self.clone(), key, members, options)
    }

    /// Puts a small object as it is, such as a manifest; replaces what was there.
    ///
    /// Dropping the future leaves open whether it is there; if it is, it is whole.
    ///
    /// # Errors
    /// [`SinkError::TooLarge`] over [`SMALL_OBJECT_BYTES_MAX`]; [`SinkError::Store`].
    pub async fn put_small(&self, key: &Path, object: Bytes) -> Result<(), SinkError> {
        if object.len() > SMALL_OBJECT_BYTES_MAX {
            return Err(too_large(key));
        }
        self.put(key, object).await
    }

    /// Puts a small object where none is: true if it is there now and was not before. What is there stays as it is. A
    /// store that cannot tell takes it all the same: then, and where its answer was lost, false; reading it tells.
    ///
    /// # Errors
    /// As [`Store::put_small`].
    pub(crate) async fn create_small(&self, key: &Path, object: Bytes) -> Result<bool, SinkError> {
        use object_store::Error as E;
        self.check(key)?;
        if self.inner.no_create.load(Ordering::Relaxed) {
            return self.put_small(key, object).await.map(|()| false);
        }
        let create = PutOptions::from(PutMode::Create);
        match self.inner.objects.put_opts(key, object.clone().into(), create).await {
            Ok(_) => Ok(true),
            Err(E::AlreadyExists { .. } | E::Precondition { .. }) => Ok(false),
            Err(error)
                if matches!(error, E::NotImplemented { .. } | E::NotSupported { .. })
                    || is_unknown(&error) =>
            {
                // Asked once: clients try for long what is answered with 501.
                self.inner.no_create.store(true, Ordering::Relaxed);
                self.put_small(key, object).await.map(|()| false)
            }
            Err(error) => Err(SinkError::store(key, error)),
        }
    }

    /// Whether the store takes keys that differ in capitals only for one: the file systems of some machines do.
    pub(crate) async fn folds_case(&self) -> bool {
        if let Some(folds) = self.inner.folds_case.get() {
            return *folds;
        }
        let folds = match &self.inner.files {
            Some(files) => {
                let root = files.root.clone();
                spawn_blocking(move || folds_case(&root)).await.unwrap_or(false)
            }
            None => false,
        };
        *self.inner.folds_case.get_or_init(|| folds)
    }

    /// The bytes of a small object as they are stored; `None` if there is none. Dropping the future
    /// is safe.
    ///
    /// # Errors
    /// [`SinkError::TooLarge`] over [`SMALL_OBJECT_BYTES_MAX`]; [`SinkError::Store`].
    pub async fn get(&self, key: &Path) -> Result<Option<Bytes>, SinkError> {
        self.read_whole(key, SMALL_OBJECT_BYTES_MAX as u64).await
    }

    /// Removes an object; none is no error. Dropping the future leaves open whether it is there.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn delete(&self, key: &Path) -> Result<(), SinkError> {
        self.check(key)?;
        if_there(key, self.inner.objects.delete(key).await).map(|_| ())
    }

    /// The keys of its objects in order, at most so many: for small stores.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn keys(&self, most: usize) -> Result<Vec<Path>, SinkError> {
        let listed = self.inner.objects.list(None).take(most).map_ok(|meta| meta.location);
        let mut keys: Vec<Path> =
            listed.try_collect().await.map_err(|e| SinkError::store(&Path::default(), e))?;
        keys.sort_unstable();
        Ok(keys)
    }

    /// Objects below a prefix behind a key, and when each was written: at most so many, in no order where the store has
    /// none.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub(crate) async fn below(
        &self,
        prefix: &Path,
        behind: Option<&Path>,
        most: usize,
    ) -> Result<Vec<(Path, jiff::Timestamp)>, SinkError> {
        let objects = &self.inner.objects;
        let listed = match behind {
            Some(behind) => objects.list_with_offset(Some(prefix), behind),
            None => objects.list(Some(prefix)),
        };
        let listed = listed.take(most).map_ok(|meta| {
            let written = jiff::Timestamp::from_millisecond(meta.last_modified.timestamp_millis());
            (meta.location, written.unwrap_or(jiff::Timestamp::MIN))
        });
        listed.try_collect().await.map_err(|error| SinkError::store(prefix, error))
    }

    /// Writes and deletes a tiny object at the root: whether the store can be used now.
    ///
    /// Dropping the future may leave the object behind; [`Store::clean_leftovers`] removes it. In a bucket
    /// all probes have one key, and it stays where nobody may delete.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn probe(&self) -> Result<(), SinkError> {
        self.probe_in(&Path::default()).await
    }

    /// The same below [`LINES_FOLDER`]: rights may be given by prefix.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn probe_lines(&self) -> Result<(), SinkError> {
        self.probe_in(&Path::from(LINES_FOLDER)).await
    }

    async fn probe_in(&self, folder: &Path) -> Result<(), SinkError> {
        let number = if self.inner.bucket.is_some() { 0 } else { fastrand::u64(..) };
        let key = folder.clone().join(format!("{}{number:016x}", leftovers::PROBE_PREFIX));
        if let Some(bucket) = &self.inner.bucket {
            return bucket.probe(&key).await.map_err(|e| SinkError::store(&key, e));
        }
        self.put(&key, Bytes::from_static(b"probe\n")).await?;
        self.inner.objects.delete(&key).await.map_err(|e| SinkError::store(&key, e))
    }

    /// Waits until requests to a bucket fail one after the other: it is away, although each operation is
    /// still being tried. Never ends for other stores. Dropping the future is safe.
    pub(crate) async fn failing(&self) {
        match &self.inner.bucket {
            Some(bucket) => bucket.failing().await,
            None => std::future::pending().await,
        }
    }

    /// Removes staging files and probes that killed processes left, last written before
    /// `older_than`; in a bucket it aborts uploads below the prefix that were begun before. Best effort,
    /// at most a million directory entries or 20,000 uploads. Does nothing in memory.
    ///
    /// Another process's upload has its staging file written with each part, so an hour's age tells
    /// them apart. One that is removed all the same fails to finish and is tried again.
    ///
    /// An upload to a bucket shows only when it was begun, so its age must be longer than any body takes.
    pub async fn clean_leftovers(&self, older_than: SystemTime) -> Cleaned {
        if let Some(bucket) = &self.inner.bucket {
            return bucket.clean(older_than).await;
        }
        let inner = Arc::clone(&self.inner);
        let walk = spawn_blocking(move || match &inner.files {
            Some(files) => {
                leftovers::clean(&files.root, &files.state, older_than, leftovers::ENTRIES_MAX)
            }
            None => Cleaned { complete: true, ..Cleaned::default() },
        });
        // The walk ends early only with the runtime.
        walk.await.unwrap_or_default()
    }

    /// Bytes of `store.spool_bytes_max` that wait on the disk for a bucket that is away.
    pub fn spooled_bytes(&self) -> u64 {
        self.inner.bucket.as_ref().map_or(0, Bucket::spooled_bytes)
    }

    /// Bytes of `buffer_bytes_max` that bodies on their way hold now.
    pub fn buffered_bytes(&self) -> u64 {
        self.inner.budget.taken_bytes()
    }

    async fn put(&self, key: &Path, object: Bytes) -> Result<(), SinkError> {
        self.put_all(vec![(key.clone(), object)], None).await
    }

    /// Whether the store keeps metadata with objects.
    pub(crate) fn has_about(&self) -> bool {
        self.inner.bucket.is_some()
    }

    /// What metadata of this name is called in the store; nothing where it keeps none with objects.
    pub(crate) fn about_name(&self, name: &str) -> Option<String> {
        let joint = self.inner.bucket.as_ref()?.joint;
        Some(format!("tollgate-{name}").replace('-', joint.encode_utf8(&mut [0; 4])))
    }

    /// Puts one object with what is kept about it, where the store has a place for that.
    async fn put_about(
        &self,
        key: &Path,
        object: Bytes,
        about: Attributes,
    ) -> Result<(), SinkError> {
        if self.inner.bucket.is_none() || about.is_empty() {
            return self.put(key, object).await;
        }
        self.check(key)?;
        let options = PutOptions { attributes: about, ..PutOptions::default() };
        let put = self.inner.objects.put_opts(key, object.into(), options).await;
        put.map(drop).map_err(|e| SinkError::store(key, e))
    }

    /// Puts objects in order, after the line that tells of them; the first failure ends it.
    async fn put_all(
        &self,
        objects: Vec<(Path, Bytes)>,
        line: Option<Line>,
    ) -> Result<(), SinkError> {
        for (key, _) in &objects {
            self.check(key)?;
        }
        if let Some(files) = &self.inner.files
            && files.writers.any()
        {
            return files.writers.put(objects, line).await;
        }
        self.tell(line).await;
        for (key, object) in objects {
            let put = self.inner.objects.put(&key, object.into()).await;
            put.map_err(|e| SinkError::store(&key, e))?;
        }
        Ok(())
    }

    /// `about` is kept with the object where the store has a place for it.
    async fn begin(&self, key: &Path, about: Attributes) -> Result<Upload, SinkError> {
        self.check(key)?;
        let begun = match self.inner.bucket {
            Some(_) => Upload::begin_remote(&self.inner.objects, key, about).await,
            None => Upload::begin(&self.inner.objects, key).await,
        };
        begun.map_err(|e| SinkError::store(key, e))
    }

    /// Every way to an object passes here.
    fn check(&self, key: &Path) -> Result<(), SinkError> {
        if key.is_root() {
            return Err(SinkError::bad_key(key, "the key is empty"));
        }
        // `Path::from` and `PathPart` encode it; `Path::parse` lets it through.
        if key.as_ref().contains('#') {
            return Err(SinkError::bad_key(key, "a `#` in a key is kept for staging files"));
        }
        if let Some(bucket) = &self.inner.bucket {
            bucket.check(key).map_err(|reason| SinkError::bad_key(key, reason))?;
        }
        let state_key = self.inner.files.as_ref().and_then(|files| files.state_key.as_ref());
        if state_key.is_some_and(|state| key.prefix_matches(state)) {
            return Err(SinkError::bad_key(key, "the key lies in the state folder"));
        }
        Ok(())
    }

    fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    fn places(&self) -> &Arc<Semaphore> {
        &self.inner.places
    }

    fn part_bytes(&self) -> usize {
        self.inner.part_bytes
    }
}

fn too_large(key: &Path) -> SinkError {
    SinkError::TooLarge { key: key.clone(), bytes_max: SMALL_OBJECT_BYTES_MAX as u64 }
}

/// Whether a file is found under its name in capitals. A folder that takes no file folds nothing that would be stored.
fn folds_case(root: &FsPath) -> bool {
    let name = |number: u64| format!("{}{number:016x}", leftovers::PROBE_PREFIX);
    let number = fastrand::u64(..) | 0xabcd;
    let path = root.join(name(number));
    if std::fs::write(&path, b"probe\n").is_err() {
        return false;
    }
    let folds = root.join(name(number).to_uppercase()).exists();
    // One that stays is removed with what killed processes left.
    let _removed = std::fs::remove_file(path).is_ok();
    folds
}

/// The absolute path of a folder that may not exist yet; links are followed as far as it does.
fn resolve(path: &FsPath) -> std::io::Result<PathBuf> {
    if let Ok(found) = path.canonicalize() {
        return Ok(found);
    }
    let path = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
    Ok(parent.canonicalize().map_or_else(|_| path.clone(), |parent| parent.join(name)))
}
