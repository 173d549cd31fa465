//! The ledger in memory: for tests and for what need not outlive the process.
//!
//! Ages are told by tokio's clock, so that a paused one makes records old too.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::{Ledger, LedgerError, LedgerFuture, RECORD_BYTES_MAX, Stored, Writer};
use crate::ids::AccountKey;

#[cfg(test)]
mod tests;

/// A ledger in memory. Cheap to clone; every clone is the same ledger.
#[derive(Clone, Default)]
pub struct MemoryLedger {
    content: Arc<Mutex<Content>>,
    session: u64,
}

#[derive(Default)]
struct Content {
    records: HashMap<AccountKey, Record>,
    /// What became of the sessions that are not at work any more.
    gone: HashMap<u64, Writer>,
    #[cfg(any(test, feature = "testkit"))]
    faults: Faults,
}

#[derive(Debug, Clone)]
struct Record {
    version: u64,
    record: Bytes,
    stored: Instant,
    session: u64,
}

/// What a test wants a `store` to do.
#[cfg(any(test, feature = "testkit"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It stores and answers [`LedgerError::Unsure`].
    UnsureStored,
    /// It does not store and answers [`LedgerError::Unsure`].
    UnsureLost,
    /// It does not store and answers [`LedgerError::Unavailable`].
    Unavailable,
    /// Another writer is faster: it raises the version and answers [`LedgerError::Conflict`].
    Conflict,
}

/// The records of a moment.
#[cfg(any(test, feature = "testkit"))]
#[derive(Debug, Clone)]
pub struct Saved(HashMap<AccountKey, Record>);

/// What a test asked for.
#[cfg(any(test, feature = "testkit"))]
#[derive(Debug, Default)]
struct Faults {
    stores: std::collections::VecDeque<Fault>,
    loads: u32,
    /// What a copy that is behind knows, and of which accounts it is not asked.
    behind: Option<Saved>,
    doubted: std::collections::HashSet<AccountKey>,
    delay: std::time::Duration,
}

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLedger").finish_non_exhaustive()
    }
}

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // What it guards is whole between two statements.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one step under the lock, which is given up before anything is waited for.
    fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Content, u64) -> Result<T, LedgerError> + Send + 'static,
    ) -> LedgerFuture<T> {
        let ledger = self.clone();
        async move {
            let done = step(&mut ledger.lock(), ledger.session);
            #[cfg(any(test, feature = "testkit"))]
            {
                let delay = ledger.lock().faults.delay;
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
            }
            done
        }
        .boxed()
    }
}

/// Knobs for tests.
#[cfg(any(test, feature = "testkit"))]
impl MemoryLedger {
    /// The next calls of `store`, so many, go wrong like this; after those that were asked for before.
    pub fn fail_stores(&self, calls: usize, fault: Fault) {
        self.lock().faults.stores.extend(std::iter::repeat_n(fault, calls));
    }

    /// The next calls of `load`, so many, answer [`LedgerError::Unavailable`].
    pub fn fail_loads(&self, calls: u32) {
        self.lock().faults.loads = calls;
    }

    /// From now on a `load` that nobody doubts answers from these records, as a replica that is behind.
    pub fn fall_behind(&self, saved: Saved) {
        self.lock().faults.behind = Some(saved);
    }

    /// From now on each answer comes so much later than what it answers was done.
    pub fn delay(&self, delay: std::time::Duration) {
        self.lock().faults.delay = delay;
    }

    /// The same ledger as another process has it.
    pub fn of_session(&self, session: u64) -> Self {
        Self { content: Arc::clone(&self.content), session }
    }

    /// The same ledger for the next process; this one is gone, as after a restart with a state folder.
    pub fn take_over(&self) -> Self {
        self.ends_as(Writer::Dead);
        self.of_session(self.session + 1)
    }

    /// Ends this process's session.
    pub fn ends_as(&self, writer: Writer) {
        self.lock().gone.insert(self.session, writer);
    }

    /// All records, for [`MemoryLedger::restore`].
    pub fn save(&self) -> Saved {
        Saved(self.lock().records.clone())
    }

    /// Has these records again and no others, as a server that lost its tail.
    pub fn restore(&self, saved: &Saved) {
        self.lock().records.clone_from(&saved.0);
    }
}

impl Ledger for MemoryLedger {
    fn session(&self) -> u64 {
        self.session
    }

    fn load(&self, account: AccountKey) -> LedgerFuture<Option<Stored>> {
        self.step(move |content, session| {
            #[cfg(any(test, feature = "testkit"))]
            if content.faults.loads > 0 {
                content.faults.loads -= 1;
                return Err(LedgerError::Unavailable("a test asked for this".into()));
            }
            #[cfg(any(test, feature = "testkit"))]
            if let Some(answer) = content.answer_behind(&account, session) {
                return Ok(answer);
            }
            let Some(record) = content.records.get_mut(&account) else { return Ok(None) };
            let writer = match content.gone.get(&record.session) {
                _ if record.session == session => Writer::Here,
                Some(gone) => *gone,
                None => Writer::Alive,
            };
            if writer != Writer::Here {
                // The claim: whoever stored it has to read it again.
                record.version += 1;
            }
            Ok(Some(Stored {
                version: record.version,
                record: record.record.clone(),
                age: record.stored.elapsed(),
                writer,
            }))
        })
    }

    #[cfg(any(test, feature = "testkit"))]
    fn doubt(&self, account: &AccountKey) {
        self.lock().faults.doubted.insert(account.clone());
    }

    fn store(&self, account: AccountKey, expected: u64, record: Bytes) -> LedgerFuture<u64> {
        self.step(move |content, session| {
            #[cfg(any(test, feature = "testkit"))]
            if let Some(fault) = content.faults.stores.pop_front() {
                return Err(content.go_wrong(fault, account, expected, record, session));
            }
            content.store(account, expected, record, session)
        })
    }
}

impl Content {
    /// What a copy that is behind says of an account, if one is asked.
    #[cfg(any(test, feature = "testkit"))]
    #[expect(clippy::option_option, reason = "no answer, or one that says that there is no record")]
    fn answer_behind(&mut self, account: &AccountKey, session: u64) -> Option<Option<Stored>> {
        if self.faults.doubted.remove(account) {
            return None;
        }
        let record = self.faults.behind.as_ref()?.0.get(account);
        if record.is_some_and(|record| record.session != session) {
            // It would be claimed, and the claim conflict.
            return None;
        }
        Some(record.map(|record| Stored {
            version: record.version,
            record: record.record.clone(),
            age: record.stored.elapsed(),
            writer: Writer::Here,
        }))
    }

    fn store(
        &mut self,
        account: AccountKey,
        expected: u64,
        record: Bytes,
        session: u64,
    ) -> Result<u64, LedgerError> {
        if record.len() > RECORD_BYTES_MAX {
            let (bytes, max) = (record.len(), RECORD_BYTES_MAX);
            let reason = format!("the record has {bytes} bytes, at most {max} are stored");
            return Err(LedgerError::Unavailable(reason.into()));
        }
        if self.records.get(&account).map_or(0, |record| record.version) != expected {
            #[cfg(any(test, feature = "testkit"))]
            self.faults.doubted.insert(account);
            return Err(LedgerError::Conflict);
        }
        let version = expected + 1;
        let stored = Instant::now();
        self.records.insert(account, Record { version, record, stored, session });
        Ok(version)
    }

    #[cfg(any(test, feature = "testkit"))]
    fn go_wrong(
        &mut self,
        fault: Fault,
        account: AccountKey,
        expected: u64,
        record: Bytes,
        session: u64,
    ) -> LedgerError {
        let reason = "a test asked for this";
        match fault {
            Fault::UnsureStored => match self.store(account, expected, record, session) {
                Ok(_) => LedgerError::Unsure(reason.into()),
                Err(error) => error,
            },
            Fault::UnsureLost => LedgerError::Unsure(reason.into()),
            Fault::Unavailable => LedgerError::Unavailable(reason.into()),
            Fault::Conflict => {
                // The other writer stores the same permits: whoever reads it again finds a sound record.
                let theirs = self.records.get(&account).map(|record| record.version);
                self.store(account, theirs.unwrap_or(0), record, session).ok();
                LedgerError::Conflict
            }
        }
    }
}
