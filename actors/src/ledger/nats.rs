//! The ledger in NATS JetStream.
//!
//! One message per account in the stream LEDGER, replaced with `Nats-Expected-Last-Subject-Sequence`: the
//! server takes it only if the last one is the one that was decided upon. A message, in this order: one byte
//! of form, then [postcard](https://postcard.jamesmunns.com/wire-format) of `Head`, then the record.
//!
//! Whoever finds a record of another session claims it first: the same record, stored anew. That fences the
//! other one, and tells the time: between processes only the server's clock counts, and the claim has a stamp
//! of it as the record has.
//!
//! A confirmation that does not come says nothing. The last record is read from the leader then: ours, or
//! another's, or still the one before. One that comes through later still makes the next store conflict, and
//! is found to be this session's own.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{Ledger, LedgerError, LedgerFuture, RECORD_BYTES_MAX, Stored, Writer};
use crate::ids::AccountKey;
use crate::nats::Bus;
use crate::nats::session::{Session, SessionId};

#[cfg(test)]
mod tests;

mod view;
pub(crate) mod wire;

pub use view::NatsView;

use wire::{JetStream, Kept, Unconfirmed, Wire};

/// The form written now. No version of a record begins so.
const FORM: u8 = 0xE1;
/// How far the clocks of two servers of a cluster may be apart. One server has one clock.
pub const CLOCKS_APART: Duration = Duration::from_millis(100);
/// How often the leader is asked what became of a store, and the pause between.
const ASKS_MAX: u32 = 3;
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How often a claim is tried that others are faster than.
const CLAIMS_MAX: u32 = 5;
/// Between two of those, in milliseconds.
const CLAIM_AGAIN_MS: std::ops::RangeInclusive<u64> = 5..=25;

/// What stands before a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// The session that wrote the message, and the number of the write in it.
    by: u64,
    number: u64,
    /// The session that wrote the record.
    of: u64,
    /// Microseconds from the start of that session to the handing over of the record.
    after_us: u64,
    /// Of a claim: when the record was stored, in nanoseconds since 1970 by the server's clock.
    stored_ns: Option<i64>,
}

impl Head {
    fn write(&self, record: &[u8]) -> Bytes {
        let mut bytes = Vec::with_capacity(64 + record.len());
        bytes.push(FORM);
        let mut bytes = postcard::to_extend(self, bytes).expect("a Vec takes whatever is written");
        bytes.extend_from_slice(record);
        bytes.into()
    }

    fn read(message: &Bytes) -> Option<(Self, Bytes)> {
        let (form, rest) = message.split_first()?;
        if *form != FORM {
            return None;
        }
        let (head, record) = postcard::take_from_bytes(rest).ok()?;
        Some((head, message.slice_ref(record)))
    }
}

/// A message as a test sees it.
#[cfg(test)]
pub(crate) struct Opened {
    pub(crate) by: u64,
    pub(crate) is_claim: bool,
    pub(crate) record: Bytes,
}

/// Opens a message of the ledger.
#[cfg(test)]
pub(crate) fn opened(payload: &Bytes) -> Option<Opened> {
    let (head, record) = Head::read(payload)?;
    Some(Opened { by: head.by, is_claim: head.stored_ns.is_some(), record })
}

/// The ledger of a session. Cheap to clone; every clone is the same ledger.
#[derive(Clone)]
pub struct NatsLedger(Arc<Inner>);

struct Inner {
    wire: Box<dyn Wire>,
    apart: Duration,
    writes: AtomicU64,
    /// Accounts of whose record a replica may not know the last: read from the leader.
    unsure: Mutex<HashSet<AccountKey>>,
}

impl fmt::Debug for NatsLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsLedger").field("session", &self.0.wire.own()).finish_non_exhaustive()
    }
}

impl NatsLedger {
    /// The ledger of this session. `replicas` of the streams: with more than one, servers take turns in
    /// stamping, and ages are [`CLOCKS_APART`] shorter.
    ///
    /// # Errors
    /// The name of the stream is none.
    pub async fn open(
        bus: &Bus,
        session: Arc<Session>,
        replicas: usize,
    ) -> Result<Self, LedgerError> {
        Ok(Self::on(Box::new(JetStream::open(bus, session).await?), replicas))
    }

    /// The ledger that stands on this.
    pub(crate) fn on(wire: Box<dyn Wire>, replicas: usize) -> Self {
        Self(Arc::new(Inner {
            wire,
            apart: if replicas > 1 { CLOCKS_APART } else { Duration::ZERO },
            writes: AtomicU64::new(1),
            unsure: Mutex::default(),
        }))
    }
}

impl Ledger for NatsLedger {
    fn session(&self) -> u64 {
        self.0.own()
    }

    fn load(&self, account: AccountKey) -> LedgerFuture<Option<Stored>> {
        let inner = Arc::clone(&self.0);
        async move {
            let answer = inner.load(&account).await;
            if answer.is_ok() {
                inner.unsure().remove(&account);
            }
            answer
        }
        .boxed()
    }

    fn doubt(&self, account: &AccountKey) {
        self.0.unsure().insert(account.clone());
    }

    fn store(&self, account: AccountKey, expected: u64, record: Bytes) -> LedgerFuture<u64> {
        let inner = Arc::clone(&self.0);
        // Stamped now: what a record says of its permits is relative to this moment.
        let own = inner.own();
        let head = inner.head(own, inner.after_us(), None);
        async move {
            if record.len() > RECORD_BYTES_MAX {
                let (bytes, max) = (record.len(), RECORD_BYTES_MAX);
                let reason = format!("the record has {bytes} bytes, at most {max} are stored");
                return Err(LedgerError::Unavailable(reason.into()));
            }
            let answer = inner.publish(&account, expected, head, &record).await;
            if matches!(answer, Err(LedgerError::Conflict | LedgerError::Unsure(_))) {
                inner.unsure().insert(account);
            }
            answer
        }
        .boxed()
    }
}

fn unavailable(error: &dyn std::error::Error) -> LedgerError {
    LedgerError::Unavailable(error.to_string().into())
}

impl Inner {
    fn own(&self) -> u64 {
        self.wire.own().0
    }

    fn after_us(&self) -> u64 {
        u64::try_from(self.wire.passed().as_micros()).unwrap_or(u64::MAX)
    }

    fn head(&self, of: u64, after_us: u64, stored_ns: Option<i64>) -> Head {
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        Head { by: self.own(), number, of, after_us, stored_ns }
    }

    fn unsure(&self) -> MutexGuard<'_, HashSet<AccountKey>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load(&self, account: &AccountKey) -> Result<Option<Stored>, LedgerError> {
        // A replica may be behind: then the first store conflicts, and the leader is asked. That is too late for
        // this session's own calls if their throttle actor forgot them: it doubts the record before it loads it.
        let mut leader = self.unsure().contains(account);
        for _ in 0..CLAIMS_MAX {
            let found = if leader {
                self.wire.last_of_leader(account).await?
            } else {
                self.wire.last_of_any(account).await?
            };
            let Some(found) = found else { return Ok(None) };
            let Some((head, record)) = Head::read(&found.payload) else {
                // Not understood, so not claimed: whoever reads it waits, and replaces it.
                return Ok(Some(Stored {
                    version: found.sequence,
                    record: found.payload,
                    age: Duration::ZERO,
                    writer: Writer::Silent,
                }));
            };
            if head.by == self.own() && head.of == self.own() {
                return Ok(Some(Stored {
                    version: found.sequence,
                    record,
                    age: self.age_of_own(&head),
                    writer: Writer::Here,
                }));
            }
            match self.claim(account, &found, &head, &record).await {
                Err(LedgerError::Conflict) => {
                    leader = true;
                    sleep(Duration::from_millis(fastrand::u64(CLAIM_AGAIN_MS))).await;
                }
                claimed => return claimed.map(Some),
            }
        }
        Err(LedgerError::Unavailable("others store the record again and again".into()))
    }

    /// Time since this session handed the record over, by its own clock.
    fn age_of_own(&self, head: &Head) -> Duration {
        Duration::from_micros(self.after_us().saturating_sub(head.after_us))
    }

    /// Stores another session's record anew, and learns by the two stamps how old it is.
    async fn claim(
        &self,
        account: &AccountKey,
        found: &Kept,
        head: &Head,
        record: &Bytes,
    ) -> Result<Stored, LedgerError> {
        let writer = self.wire.look(SessionId(head.of)).await?;
        let stored_ns = head.stored_ns.unwrap_or(found.stored_ns);
        let claim = self.head(head.of, head.after_us, Some(stored_ns));
        let version = self.publish(account, found.sequence, claim, record).await?;
        let confirmed = Instant::now();
        let age = if writer == Writer::Here {
            // Another session claimed it and wrote nothing of its own.
            self.age_of_own(head)
        } else {
            let claimed = self.wire.at(version).await?;
            if Head::read(&claimed.payload).map(|(head, _)| head) != Some(claim) {
                return Err(LedgerError::Conflict);
            }
            let between = claimed.stored_ns.saturating_sub(stored_ns).max(0).unsigned_abs();
            let between = Duration::from_nanos(between).saturating_sub(self.apart);
            // The claim was stamped before its confirmation came.
            between + confirmed.elapsed()
        };
        Ok(Stored { version, record: record.clone(), age, writer })
    }

    /// Publishes, and finds out what became of it.
    async fn publish(
        &self,
        account: &AccountKey,
        expected: u64,
        head: Head,
        record: &[u8],
    ) -> Result<u64, LedgerError> {
        match self.wire.publish(account, expected, head.write(record)).await {
            Ok(version) => Ok(version),
            Err(Unconfirmed::Conflict) => Err(LedgerError::Conflict),
            Err(Unconfirmed::Refused(error)) => Err(error),
            Err(Unconfirmed::Lost(why)) => self.resolve(account, expected, head.number, why).await,
        }
    }

    /// What became of a write whose confirmation did not come.
    async fn resolve(
        &self,
        account: &AccountKey,
        expected: u64,
        number: u64,
        why: Arc<str>,
    ) -> Result<u64, LedgerError> {
        // Where the connection broke it is often back at once.
        self.wire.up().await;
        for ask in 0..ASKS_MAX {
            if ask > 0 {
                sleep(ASK_AGAIN).await;
            }
            let Ok(last) = self.wire.last_of_leader(account).await else { continue };
            let head = last.as_ref().and_then(|last| Head::read(&last.payload));
            let ours = head.is_some_and(|(head, _)| (head.by, head.number) == (self.own(), number));
            let sequence = last.map_or(0, |last| last.sequence);
            return if ours {
                Ok(sequence)
            } else if sequence == expected {
                Err(LedgerError::Unavailable(why))
            } else {
                Err(LedgerError::Conflict)
            };
        }
        Err(LedgerError::Unsure(why))
    }
}
