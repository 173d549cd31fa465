//! The ledger in memory: for tests and for what need not outlive the process.
//!
//! Ages are told by tokio's clock, so that a paused one makes records old too.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use super::{Ledger, LedgerError, LedgerFuture, RECORD_BYTES_MAX, Stored};
use crate::ids::AccountKey;

#[cfg(test)]
mod tests;

/// A ledger in memory. Cheap to clone; every clone is the same ledger.
#[derive(Clone, Default)]
pub struct MemoryLedger(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    records: HashMap<AccountKey, Record>,
    #[cfg(any(test, feature = "testkit"))]
    faults: Faults,
}

struct Record {
    version: u64,
    record: Bytes,
    stored: Instant,
    writer_gone: bool,
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

/// What a test asked for.
#[cfg(any(test, feature = "testkit"))]
#[derive(Debug, Default)]
struct Faults {
    stores: std::collections::VecDeque<Fault>,
    loads: u32,
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one step under the lock, which is given up before anything is waited for.
    fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Content) -> Result<T, LedgerError> + Send + 'static,
    ) -> LedgerFuture<T> {
        let ledger = self.clone();
        async move {
            let done = step(&mut ledger.lock());
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

    /// From now on each answer comes so much later than what it answers was done.
    pub fn delay(&self, delay: std::time::Duration) {
        self.lock().faults.delay = delay;
    }

    /// Makes every record one of a process that is gone, as after a restart with a state folder.
    pub fn take_over(&self) {
        self.lock().records.values_mut().for_each(|record| record.writer_gone = true);
    }
}

impl Ledger for MemoryLedger {
    fn load(&self, account: AccountKey) -> LedgerFuture<Option<Stored>> {
        self.step(move |content| {
            #[cfg(any(test, feature = "testkit"))]
            if content.faults.loads > 0 {
                content.faults.loads -= 1;
                return Err(LedgerError::Unavailable("a test asked for this".into()));
            }
            Ok(content.records.get(&account).map(|record| Stored {
                version: record.version,
                record: record.record.clone(),
                age: record.stored.elapsed(),
                writer_gone: record.writer_gone,
            }))
        })
    }

    fn store(&self, account: AccountKey, expected: u64, record: Bytes) -> LedgerFuture<u64> {
        self.step(move |content| {
            #[cfg(any(test, feature = "testkit"))]
            if let Some(fault) = content.faults.stores.pop_front() {
                return Err(content.go_wrong(fault, account, expected, record));
            }
            content.store(account, expected, record)
        })
    }
}

impl Content {
    fn store(
        &mut self,
        account: AccountKey,
        expected: u64,
        record: Bytes,
    ) -> Result<u64, LedgerError> {
        if record.len() > RECORD_BYTES_MAX {
            let (bytes, max) = (record.len(), RECORD_BYTES_MAX);
            let reason = format!("the record has {bytes} bytes, at most {max} are stored");
            return Err(LedgerError::Unavailable(reason.into()));
        }
        if self.records.get(&account).map_or(0, |record| record.version) != expected {
            return Err(LedgerError::Conflict);
        }
        let version = expected + 1;
        let stored = Instant::now();
        self.records.insert(account, Record { version, record, stored, writer_gone: false });
        Ok(version)
    }

    #[cfg(any(test, feature = "testkit"))]
    fn go_wrong(
        &mut self,
        fault: Fault,
        account: AccountKey,
        expected: u64,
        record: Bytes,
    ) -> LedgerError {
        let reason = "a test asked for this";
        match fault {
            Fault::UnsureStored => match self.store(account, expected, record) {
                Ok(_) => LedgerError::Unsure(reason.into()),
                Err(error) => error,
            },
            Fault::UnsureLost => LedgerError::Unsure(reason.into()),
            Fault::Unavailable => LedgerError::Unavailable(reason.into()),
            Fault::Conflict => {
                // The other writer stores the same permits: whoever reads it again finds a sound record.
                let theirs = self.records.get(&account).map(|record| record.version);
                self.store(account, theirs.unwrap_or(0), record).ok();
                LedgerError::Conflict
            }
        }
    }
}
