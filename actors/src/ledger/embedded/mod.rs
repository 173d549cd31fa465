//! The ledger in the embedded state folder.
//!
//! Table `ledger`: the key is [`AccountKey::subject`]. The value, numbers big endian:
//!
//! ```text
//! version:u64 boot:[16] boot_ns:u64 wall_ms:u64 session:u64 record
//! ```
//!
//! `boot` and `boot_ns` say when it was stored by the clock that counts from the machine's start, sleep
//! included; `session` says by which opening of the folder. The folder has one user at a time, so a
//! record of another session was left by a process that is gone.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use fjall::Slice;
use futures_util::FutureExt;

use super::{Ledger, LedgerError, LedgerFuture, RECORD_BYTES_MAX, Stored, Writer};
use crate::ids::AccountKey;
use crate::state::clock::{self, Boot};
use crate::state::{Failure, State, Turn};

#[cfg(test)]
mod tests;

/// Everything before the record.
const HEAD: usize = 48;

/// The ledger of a state folder. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedLedger {
    state: State,
}

impl EmbeddedLedger {
    /// The ledger of this folder. Every ledger made from the same state is the same ledger.
    pub fn new(state: &State) -> Self {
        Self { state: state.clone() }
    }

    /// The keys of at most `most` records, in order, those behind `after`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn accounts(
        &self,
        after: Option<String>,
        most: usize,
    ) -> Result<Vec<String>, LedgerError> {
        let from = after.map_or_else(Vec::new, |after| [after.as_bytes(), &[0]].concat());
        let keys = self.state.call(move |turn| {
            let mut keys = Vec::new();
            for row in turn.range(&turn.tables.ledger, &from, &[0xff]).take(most) {
                keys.push(String::from_utf8_lossy(&row.key()?).into_owned());
            }
            Ok(keys)
        });
        Ok(keys.await?)
    }
}

impl fmt::Debug for EmbeddedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EmbeddedLedger").field(&self.state).finish()
    }
}

impl From<Failure> for LedgerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(reason) | Failure::Corrupt(reason) => Self::Unavailable(reason),
            Failure::Unsure(reason) => Self::Unsure(reason),
        }
    }
}

impl Ledger for EmbeddedLedger {
    fn session(&self) -> u64 {
        self.state.session()
    }

    fn load(&self, account: AccountKey) -> LedgerFuture<Option<Stored>> {
        let state = self.state.clone();
        async move {
            let key = account.subject();
            let value =
                state.call(move |turn| turn.get(&turn.tables.ledger, key.as_bytes())).await?;
            let Some(value) = value else { return Ok(None) };
            let (head, record) = Head::read(&value)?;
            Ok(Some(Stored {
                version: head.version,
                record: Bytes::copy_from_slice(record),
                age: head.age(&Head::now(&state, 0)),
                writer: if head.session == state.session() { Writer::Here } else { Writer::Dead },
            }))
        }
        .boxed()
    }

    fn store(&self, account: AccountKey, expected: u64, record: Bytes) -> LedgerFuture<u64> {
        let state = self.state.clone();
        async move {
            if record.len() > RECORD_BYTES_MAX {
                let (bytes, max) = (record.len(), RECORD_BYTES_MAX);
                let reason = format!("the record has {bytes} bytes, at most {max} are stored");
                return Err(LedgerError::Unavailable(reason.into()));
            }
            let key = account.subject();
            // Stamped on the thread, after the wait for it: what a record says about its permits is
            // relative to this moment, so a later one errs to the safe side.
            let stamp = state.clone();
            let stored = state.call(move |turn| {
                let head = Head::now(&stamp, expected.saturating_add(1));
                replace(turn, &key, expected, &head, &record)
            });
            stored.await?.ok_or(LedgerError::Conflict)
        }
        .boxed()
    }
}

/// Replaces a record if its version is as expected. None: it is not.
fn replace(
    turn: &mut Turn<'_>,
    key: &str,
    expected: u64,
    head: &Head,
    record: &[u8],
) -> Result<Option<u64>, Failure> {
    let tables = turn.tables;
    let version = match turn.get(&tables.ledger, key.as_bytes())? {
        Some(value) => Head::read(&value)?.0.version,
        None => 0,
    };
    if version != expected {
        return Ok(None);
    }
    let mut value = Vec::with_capacity(HEAD + record.len());
    value.extend_from_slice(&head.to_bytes());
    value.extend_from_slice(record);
    turn.put(&tables.ledger, Slice::from(key), value);
    Ok(Some(head.version))
}

/// What is kept with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    version: u64,
    boot: Boot,
    boot_ns: u64,
    wall_ms: u64,
    session: u64,
}

impl Head {
    fn now(state: &State, version: u64) -> Self {
        Self {
            version,
            boot: state.boot(),
            boot_ns: clock::boot_ns(),
            wall_ms: clock::wall_ms(),
            session: state.session(),
        }
    }

    /// Time that has passed at least since this was stored.
    ///
    /// The wall clock alone does not tell: whoever sets it forward would make old calls look forgotten.
    /// So it only ever shortens what the machine's own clock says:
    /// - the same boot (or the same process): the difference on the clock that nobody sets;
    /// - another boot: the record was stored before this machine started, so its uptime has passed. That
    ///   is not so where the folder came from another machine, hence not more than the wall clock says;
    /// - a machine that does not tell its boots apart: nothing is known, so no time has passed.
    fn age(&self, now: &Self) -> Duration {
        let same_boot = self.boot == now.boot && self.boot != Boot::UNKNOWN;
        if same_boot || self.session == now.session {
            return Duration::from_nanos(now.boot_ns.saturating_sub(self.boot_ns));
        }
        if self.boot == Boot::UNKNOWN || now.boot == Boot::UNKNOWN {
            return Duration::ZERO;
        }
        let wall = Duration::from_millis(now.wall_ms.saturating_sub(self.wall_ms));
        wall.min(Duration::from_nanos(now.boot_ns))
    }

    fn to_bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..8].copy_from_slice(&self.version.to_be_bytes());
        bytes[8..24].copy_from_slice(&self.boot.bytes());
        bytes[24..32].copy_from_slice(&self.boot_ns.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.wall_ms.to_be_bytes());
        bytes[40..].copy_from_slice(&self.session.to_be_bytes());
        bytes
    }

    fn read(value: &[u8]) -> Result<(Self, &[u8]), Failure> {
        let Some((head, record)) = value.split_first_chunk::<HEAD>() else {
            return Err(Failure::Corrupt("a ledger record is cut short".into()));
        };
        let number = |at: usize| {
            u64::from_be_bytes(head[at..at + 8].try_into().expect("the head has room for it"))
        };
        let boot = head[8..24].try_into().expect("the head has room for it");
        let head = Self {
            version: number(0),
            boot: Boot::from_bytes(boot),
            boot_ns: number(24),
            wall_ms: number(32),
            session: number(40),
        };
        Ok((head, record))
    }
}
