//! The embedded database under the queue and the ledger of one process.
//!
//! One folder, one lock, one thread. The thread `tollgate-state` owns the database; everybody else hands
//! it jobs through a bounded channel and waits for the answer. The thread takes up to [`GROUP_MAX`] jobs
//! at once, runs them in order on one transaction (each sees what those before it wrote), commits them as
//! one batch, and only then answers them: one write to the journal for many calls.
//!
//! What is promised:
//! - an answered write survives kill -9 (it is with the operating system), and with [`Options::fsync`]
//!   a power cut as well;
//! - a job's writes are all there or none is;
//! - a folder is used by one process at a time;
//! - after a failed commit nothing more is read or written: every call answers why. The database must be
//!   opened anew.
//!
//! It knows nothing of actors, limits or HTTP.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, oneshot, watch};

use crate::codes::Code;

pub(crate) mod clock;
mod database;
mod thread;

#[cfg(test)]
mod tests;

pub(crate) use database::Tables;
pub(crate) use thread::Turn;
use thread::{Answer, Message};

/// Most jobs that wait for the thread; who comes later waits for room.
pub const WAITING_MAX: usize = 1024;
/// Most jobs that are committed together.
pub const GROUP_MAX: usize = 1024;

/// How a state folder is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether every commit is fsynced before it is answered. Default false: kill -9 loses nothing, a
    /// power cut may lose the last seconds.
    pub fsync: bool,
}

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error("the state folder `{}` is in use: another tollgate runs there", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// It was written by another version of this program.
    #[error(
        "the state folder `{}` has format {found}, this program reads format {expected}: use the \
         tollgate that wrote it, or another data folder",
        path.display()
    )]
    Format {
        /// The folder.
        path: PathBuf,
        /// The format that was found there.
        found: u32,
        /// The only format that can be read.
        expected: u32,
    },
    /// A file or folder cannot be made or locked.
    #[error("cannot use the state folder `{}`", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database cannot be read.
    #[error("cannot open the database in the state folder `{}`: {reason}", path.display())]
    Database {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl StateError {
    /// The same as a code.
    pub fn code(&self) -> Code {
        match self {
            Self::Locked { .. } => Code::StateLocked,
            Self::Format { .. } => Code::StateVersion,
            Self::Io { .. } | Self::Database { .. } => Code::StateUnreadable,
        }
    }
}

/// A folder that is this process's, without a database in it: no other process opens or locks it until this
/// is dropped.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "held")] database::Lock);

impl FolderLock {
    /// Locks a folder, which is made if it is not there.
    ///
    /// # Errors
    /// Another process has it, or it cannot be made.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        let io = |source| StateError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(io)?;
        database::lock(path).map(Self)
    }
}

/// Why a call got no answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// Nothing was changed.
    Refused(Arc<str>),
    /// Its writes may or may not be there.
    Unsure(Arc<str>),
    /// What was read makes no sense; nothing was changed.
    Corrupt(Arc<str>),
}

impl From<fjall::Error> for Failure {
    /// For reads: jobs read before they write, so a failed read has changed nothing.
    fn from(error: fjall::Error) -> Self {
        Self::Refused(database::sentence(&error).into())
    }
}

/// A folder that is open. Cheap to clone; the last clone's drop lets the thread finish what it was given,
/// flush and end (without waiting for it: [`State::close`] does).
#[derive(Clone)]
pub struct State {
    jobs: mpsc::Sender<Message>,
    /// Its sender lives as long as the thread.
    ended: watch::Receiver<()>,
    shared: Arc<Shared>,
}

/// What the handles and the thread both see.
pub(crate) struct Shared {
    path: PathBuf,
    name: Arc<str>,
    session: u64,
    boot: clock::Boot,
    /// Why nothing works any more, once that is so.
    failed: OnceLock<Arc<str>>,
    wakes: crate::queue::embedded::WakeSlot,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("path", &self.shared.path)
            .field("name", &self.shared.name)
            .field("failed", &self.failed())
            .finish_non_exhaustive()
    }
}

impl State {
    /// Opens a folder, which is made if it is not there. Blocks: it recovers the journal and reads the
    /// key of every waiting fetch once (about a second for a million).
    ///
    /// # Errors
    /// - [`StateError::Locked`]: another process uses the folder;
    /// - [`StateError::Format`]: another version wrote it;
    /// - [`StateError::Io`], [`StateError::Database`]: it cannot be made or read.
    pub fn open(path: &Path, options: Options) -> Result<Self, StateError> {
        let opened = database::open(path)?;
        let (jobs, receiver) = mpsc::channel(WAITING_MAX);
        let (ending, ended) = watch::channel(());
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            name: opened.name.clone(),
            session: clock::random(),
            boot: clock::Boot::read(),
            failed: OnceLock::new(),
            wakes: crate::queue::embedded::WakeSlot::default(),
        });
        thread::start(opened, receiver, ending, shared.clone(), options)
            .map_err(|reason| StateError::Database { path: path.to_owned(), reason })?;
        Ok(Self { jobs, ended, shared })
    }

    /// Why nothing can be stored any more, if that is so; every call answers the same. It stays so until
    /// the folder is opened anew.
    pub fn failed(&self) -> Option<Arc<str>> {
        self.shared.failed.get().cloned()
    }

    /// Ends the thread after the jobs it was given, flushes, gives up the lock, and waits for all that.
    /// Later calls of other handles answer that it is closed. Dropping the future is safe: it closes
    /// nevertheless if it was polled once.
    pub async fn close(mut self) {
        // An error means that the thread ends already.
        self.jobs.send(Message::Close).await.ok();
        // Nothing is ever sent: the error is the end.
        while self.ended.changed().await.is_ok() {}
    }

    /// A name that was drawn when the folder was made: 16 hex digits.
    pub(crate) fn name(&self) -> Arc<str> {
        self.shared.name.clone()
    }

    /// A number of this opening that no other opening has.
    pub(crate) fn session(&self) -> u64 {
        self.shared.session
    }

    /// Which boot of which machine this is.
    pub(crate) fn boot(&self) -> clock::Boot {
        self.shared.boot
    }

    /// Where wakes go.
    pub(crate) fn wakes(&self) -> &crate::queue::embedded::WakeSlot {
        &self.shared.wakes
    }

    /// Runs a job on the thread and answers once its writes are committed. A job must do all its reads
    /// before its first write, so that a failed read leaves nothing half done.
    ///
    /// Dropping the future before the job was taken cancels it; later the job is done unheard.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Turn<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, answered) = oneshot::channel();
        let message = Message::Job(Box::new(move |turn| {
            let result = turn.and_then(job);
            let answer: Answer = Box::new(move |committed| {
                // Nobody may be waiting any more.
                answer.send(committed.and(result)).ok();
            });
            answer
        }));
        if self.jobs.send(message).await.is_err() {
            return Err(Failure::Refused(self.ended()));
        }
        answered.await.unwrap_or_else(|_| Err(Failure::Unsure(self.ended())))
    }

    fn ended(&self) -> Arc<str> {
        self.failed().unwrap_or_else(|| "the state folder is closed".into())
    }
}
