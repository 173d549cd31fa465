//! Where the dated record of an account's permits is kept: a seam with one conformance suite.
//!
//! One record per account, replaced by compare-and-set on its version and confirmed **before** the call
//! it covers. By induction the accepted records satisfy the limits, whoever wrote them.
//!
//! A back promises:
//! - `store` succeeds only if `expected` is the version of the record that is there (0: none is);
//! - a confirmed record survives kill -9 of this process (the memory back: of the actor);
//! - `age` is never longer than the time that has really passed since the record was stored, whatever
//!   the wall clock did.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::ids::AccountKey;

pub mod embedded;
pub mod memory;
pub mod nats;
pub mod record;

#[cfg(any(test, feature = "testkit"))]
pub mod conformance;

/// Most bytes of one record.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;

/// A record as it is kept.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What the next `store` must expect.
    pub version: u64,
    /// The record.
    pub record: Bytes,
    /// Time since it was stored, never over-estimated. It counts from a moment between the call of
    /// `store` and its answer.
    pub age: Duration,
    /// Who stored it.
    pub writer: Writer,
}

/// What is known of the process that stored a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// It is this one.
    Here,
    /// It is gone, its lock was taken over: what it had on the way has left it by now.
    Dead,
    /// Nothing is heard of it any more. It may live, cut off, and its calls may still be on their way.
    Silent,
    /// It lives: two processes work for one account, by mistake or while one takes over from the other.
    Alive,
}

/// What went wrong in a ledger.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// Somebody else stored a record meanwhile: read it again before the next decision.
    #[error("the ledger's record was replaced by another writer")]
    Conflict,
    /// The record may or may not be stored: read it again, count its permits as spent.
    #[error("the ledger gave no answer: {0}")]
    Unsure(Arc<str>),
    /// Nothing is stored that this process did not store before; try again.
    #[error("the ledger does not answer: {0}")]
    Unavailable(Arc<str>),
}

/// The result of a ledger's calls.
pub type LedgerFuture<T> = BoxFuture<'static, Result<T, LedgerError>>;

/// A place for ledger records. See the module for what it promises.
pub trait Ledger: Send + Sync + fmt::Debug + 'static {
    /// The number of this process among all that ever store there. Permits are numbered within it.
    fn session(&self) -> u64;

    /// The record of an account, if it has one. One that another process stored is claimed with it: whatever
    /// that process stores after this answer conflicts.
    fn load(&self, account: AccountKey) -> LedgerFuture<Option<Stored>>;

    /// The next `load` of that account asks whoever is certain to know the last record, not a copy that may
    /// be behind. Whoever forgot what it stored itself has to say so before it reads: an older record of its
    /// own looks like the last one. A ledger with one copy has nothing to do.
    fn doubt(&self, _account: &AccountKey) {}

    /// Replaces the record of an account if its version is `expected`, and answers the new version.
    fn store(&self, account: AccountKey, expected: u64, record: Bytes) -> LedgerFuture<u64>;
}
