//! The thread that owns the database: takes jobs, commits them in groups, answers, keeps the timers.

use std::sync::Arc;
use std::time::Duration;

use fjall::{Iter, Readable};
use fjall::{
    PersistMode, SingleWriterTxDatabase, SingleWriterTxKeyspace, SingleWriterWriteTx, Slice,
};
use tokio::runtime;
use tokio::sync::{mpsc, watch};

use super::database::{Lock, Opened, Tables, sentence, seq_row};
use super::{Failure, GROUP_MAX, Options, Shared, clock};
use crate::queue::embedded::Index;

/// A group is committed early once its writes have this size, so that one commit stays small whatever
/// the payloads are.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the thread is told.
pub(super) enum Message {
    /// Do this.
    Job(Job),
    /// Do what came before, then end.
    Close,
}

/// Something to do in a turn, or the reason why it cannot be done. It answers once it is told how the
/// commit went.
pub(super) type Job = Box<dyn FnOnce(Result<&mut Turn<'_>, Failure>) -> Answer + Send>;
/// Tells the caller.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Failure>) + Send>;

/// Jobs that are committed together.
pub(crate) struct Turn<'a> {
    tx: SingleWriterWriteTx<'a>,
    /// Where things are.
    pub(crate) tables: &'a Tables,
    /// What is known of the queue without reading it. A change here must go with the write it follows
    /// from; after a failed commit it is not looked at again.
    pub(crate) index: &'a mut Index,
    /// The wall clock at the turn's begin, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    seq: u64,
    bytes: usize,
}

impl Turn<'_> {
    /// Reads one value, with all that this turn wrote.
    pub(crate) fn get(
        &self,
        table: &SingleWriterTxKeyspace,
        key: &[u8],
    ) -> Result<Option<Slice>, Failure> {
        Ok(self.tx.get(table, key)?)
    }

    /// Reads rows in the order of their keys, both bounds included, with all that this turn wrote.
    pub(crate) fn range(&self, table: &SingleWriterTxKeyspace, from: &[u8], to: &[u8]) -> Iter {
        self.tx.range(table, from..=to)
    }

    /// Writes one value.
    pub(crate) fn put(
        &mut self,
        table: &SingleWriterTxKeyspace,
        key: impl Into<Slice>,
        value: impl Into<Slice>,
    ) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.tx.insert(table, key, value);
    }

    /// Removes one value.
    pub(crate) fn remove(&mut self, table: &SingleWriterTxKeyspace, key: impl Into<Slice>) {
        let key = key.into();
        self.bytes += key.len();
        self.tx.remove(table, key);
    }

    /// A number that was never given before. A job that fails after asking for one leaves a gap, which
    /// is harmless.
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn commit(self) -> fjall::Result<()> {
        self.tx.commit()
    }
}

/// What the thread owns. Fields are dropped in this order: the lock goes after the database, and who
/// waits for the end is told after that, so that they find the folder free.
struct Thread {
    tables: Tables,
    database: SingleWriterTxDatabase,
    #[expect(dead_code, reason = "held until the thread ends")]
    lock: Lock,
    #[expect(dead_code, reason = "its end is the thread's")]
    ended: watch::Sender<()>,
    receiver: mpsc::Receiver<Message>,
    index: Index,
    seq: u64,
    shared: Arc<Shared>,
    durability: PersistMode,
}

/// Reads what must be known in memory and starts the thread.
pub(super) fn start(
    opened: Opened,
    receiver: mpsc::Receiver<Message>,
    ended: watch::Sender<()>,
    shared: Arc<Shared>,
    options: Options,
) -> Result<(), String> {
    let Opened { tables, database, lock, name: _, seq } = opened;
    let index = Index::read(&database, &tables, shared.wakes.clone())?;
    // fjall commits a batch by writing it to its journal through a buffer of 8 KiB. `Buffer` empties
    // that buffer with write(2) before the commit returns: the bytes are with the operating system and
    // survive the end of this process, however it ends. `SyncAll` adds an fsync. A batch cut short by
    // kill -9 has no end mark and is dropped as a whole at the next opening.
    let durability = if options.fsync { PersistMode::SyncAll } else { PersistMode::Buffer };
    // A runtime of its own, for a receive with a timeout; it runs nothing else.
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let thread = Thread { tables, database, lock, ended, receiver, index, seq, shared, durability };
    std::thread::Builder::new()
        .name("tollgate-state".into())
        .spawn(move || thread.run(&runtime))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

impl Thread {
    fn run(mut self, runtime: &runtime::Runtime) {
        let mut messages = Vec::with_capacity(GROUP_MAX);
        loop {
            // Once it failed there is nothing to be done in time.
            let failed = self.shared.failed.get().is_some();
            let wait = if failed { None } else { self.index.wait(clock::wall_ms()) };
            let taken = runtime.block_on(take(&mut self.receiver, &mut messages, wait));
            // Zero without a timeout: every handle is gone.
            if taken == Some(0) {
                break;
            }
            if self.turns(&mut messages) {
                break;
            }
        }
        self.receiver.close();
        refuse_all(std::iter::from_fn(|| self.receiver.try_recv().ok()));
    }

    /// Does what was taken, in groups. True if it is the end.
    fn turns(&mut self, messages: &mut Vec<Message>) -> bool {
        let mut messages = messages.drain(..);
        let mut closed = false;
        // Once even without a message: something may be due.
        while !closed {
            if let Some(reason) = self.shared.failed.get() {
                messages.for_each(|message| match message {
                    Message::Job(job) => refuse(job, reason),
                    Message::Close => closed = true,
                });
                return closed;
            }
            closed = self.group(&mut messages);
            if messages.len() == 0 {
                return closed;
            }
        }
        refuse_all(messages);
        true
    }

    /// Commits as many jobs as go together, and answers them. True if it is the end.
    fn group(&mut self, messages: &mut impl Iterator<Item = Message>) -> bool {
        let mut turn = Turn {
            tx: self.database.write_tx().durability(Some(self.durability)),
            tables: &self.tables,
            index: &mut self.index,
            now_ms: clock::wall_ms(),
            seq: self.seq,
            bytes: 0,
        };
        crate::queue::embedded::bring_back(&mut turn);
        let mut answers = Vec::new();
        let mut closed = false;
        while !closed
            && turn.bytes < GROUP_BYTES_MAX
            && let Some(message) = messages.next()
        {
            match message {
                Message::Job(job) => answers.push(job(Ok(&mut turn))),
                Message::Close => closed = true,
            }
        }
        if turn.seq != self.seq {
            let (key, value) = seq_row(turn.seq);
            turn.put(&self.tables.meta, key, value);
            self.seq = turn.seq;
        }
        let committed = turn.commit().map_err(|error| {
            // fjall takes no write after a failed one, and what was written may or may not be found at
            // the next opening. What is known in memory may be ahead of it, so reads end too.
            let reason: Arc<str> = sentence(&error).into();
            crate::telemetry::state_failed(&reason);
            self.shared.failed.get_or_init(|| reason.clone());
            Failure::Unsure(reason)
        });
        if committed.is_ok() {
            self.index.send_wakes();
        }
        for answer in answers {
            answer(committed.clone());
        }
        closed
    }
}

/// Waits for messages, at most so long. None: the time is over.
async fn take(
    receiver: &mut mpsc::Receiver<Message>,
    messages: &mut Vec<Message>,
    wait: Option<Duration>,
) -> Option<usize> {
    let taken = receiver.recv_many(messages, GROUP_MAX);
    match wait {
        Some(wait) => tokio::time::timeout(wait, taken).await.ok(),
        None => Some(taken.await),
    }
}

fn refuse(job: Job, reason: &Arc<str>) {
    let refused = Failure::Refused(reason.clone());
    job(Err(refused))(Ok(()));
}

/// For what comes after the end.
fn refuse_all(messages: impl Iterator<Item = Message>) {
    let reason = "the state folder is closed".into();
    for message in messages {
        if let Message::Job(job) = message {
            refuse(job, &reason);
        }
    }
}
