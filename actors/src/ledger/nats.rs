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
use std::error::Error as _;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::{Ledger, LedgerError, LedgerFuture, RECORD_BYTES_MAX, Stored, Writer};
use crate::codes::Code;
use crate::ids::AccountKey;
use crate::nats::session::{Session, SessionId};
use crate::nats::{Bus, Refused, refused};

#[cfg(test)]
mod tests;

mod view;

pub use view::NatsView;

/// The form written now. No version of a record begins so.
const FORM: u8 = 0xE1;
/// How far the clocks of two servers of a cluster may be apart. One server has one clock.
pub const CLOCKS_APART: Duration = Duration::from_millis(100);
/// How often the leader is asked what became of a store, how long each answer may take, and the pause between.
const ASKS_MAX: u32 = 3;
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// Questions on their way at once; more wait for their turn, and their time begins with it.
const ASKING_MAX: usize = 128;
/// How long a broken connection is waited for before the leader is asked.
const UP_WITHIN: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(200);
const BROKE: &str = "the connection to NATS broke";
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

/// The ledger of a session. Cheap to clone; every clone is the same ledger.
#[derive(Clone)]
pub struct NatsLedger(Arc<Inner>);

struct Inner {
    bus: Bus,
    stream: Stream<()>,
    session: Arc<Session>,
    apart: Duration,
    writes: AtomicU64,
    asking: Semaphore,
    /// Accounts of whose record a replica may not know the last: read from the leader.
    unsure: Mutex<HashSet<AccountKey>>,
}

impl fmt::Debug for NatsLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsLedger").field("session", &self.0.session.id()).finish_non_exhaustive()
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
        let stream = bus.js().get_stream_no_info(bus.names().stream("LEDGER")).await;
        let stream = stream.map_err(|error| unavailable(&error))?;
        Ok(Self(Arc::new(Inner {
            bus: bus.clone(),
            stream,
            session,
            apart: if replicas > 1 { CLOCKS_APART } else { Duration::ZERO },
            writes: AtomicU64::new(1),
            asking: Semaphore::new(ASKING_MAX),
            unsure: Mutex::default(),
        })))
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
        self.session.id().0
    }

    fn after_us(&self) -> u64 {
        u64::try_from(self.session.started().elapsed().as_micros()).unwrap_or(u64::MAX)
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
                self.last_of_leader(account).await?
            } else {
                self.last_of_any(account).await?
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
        found: &StreamMessage,
        head: &Head,
        record: &Bytes,
    ) -> Result<Stored, LedgerError> {
        let writer = self.session.look(SessionId(head.of)).await;
        let writer = writer.map_err(|error| unavailable(&error))?;
        let stored_ns = head.stored_ns.unwrap_or_else(|| stamp(found));
        let claim = self.head(head.of, head.after_us, Some(stored_ns));
        let version = self.publish(account, found.sequence, claim, record).await?;
        let confirmed = Instant::now();
        let age = if writer == Writer::Here {
            // Another session claimed it and wrote nothing of its own.
            self.age_of_own(head)
        } else {
            let claimed = self.at(version).await?;
            if Head::read(&claimed.payload).map(|(head, _)| head) != Some(claim) {
                return Err(LedgerError::Conflict);
            }
            let between = stamp(&claimed).saturating_sub(stored_ns).max(0).unsigned_abs();
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
        if !self.bus.link().borrow().up {
            // Sent now it would wait for the connection, and come through when nobody wants it any more.
            return Err(LedgerError::Unavailable("the connection to NATS is down".into()));
        }
        let message = PublishMessage::build()
            .payload(head.write(record))
            .expected_last_subject_sequence(expected);
        let sent = async {
            self.bus.js().send_publish(self.bus.names().ledger(account), message).await?.await
        };
        let error = match self.unbroken(sent).await {
            Some(Ok(confirmed)) => return Ok(confirmed.sequence),
            Some(Err(error)) => error,
            None => return self.resolve(account, expected, head.number, BROKE.into()).await,
        };
        match error.kind() {
            PublishErrorKind::WrongLastSequence => Err(LedgerError::Conflict),
            PublishErrorKind::StreamNotFound => {
                let (code, name) = (Code::StreamMissing, self.bus.names().stream("LEDGER"));
                let reason = format!("{code}: no stream `{name}`; run `tollgate setup`");
                Err(LedgerError::Unavailable(reason.into()))
            }
            PublishErrorKind::MaxAckPending | PublishErrorKind::MaxPayloadExceeded => {
                Err(unavailable(&error))
            }
            PublishErrorKind::TimedOut
            | PublishErrorKind::BrokenPipe
            | PublishErrorKind::WrongLastMessageId
            | PublishErrorKind::Other => {
                let said = error.source().and_then(|source| source.downcast_ref());
                if let Some(said) = said {
                    return Err(refusal(said));
                }
                self.resolve(account, expected, head.number, error.to_string().into()).await
            }
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
        let mut link = self.bus.link();
        let _up = timeout(UP_WITHIN, link.wait_for(|link| link.up)).await.is_ok();
        for ask in 0..ASKS_MAX {
            if ask > 0 {
                sleep(ASK_AGAIN).await;
            }
            let Ok(last) = self.last_of_leader(account).await else { continue };
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

    /// Waits for an answer, not beyond the end of the connection: it does not come any more then.
    async fn unbroken<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let mut link = self.bus.link();
        let times = link.borrow().times;
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            _ = link.wait_for(|link| !link.up || link.times != times) => None,
        }
    }

    /// Waits for an answer to a question, which may be asked again.
    async fn ask<T>(&self, answer: impl Future<Output = T>) -> Result<T, LedgerError> {
        let asking = self.asking.acquire().await;
        let _asking = asking.map_err(|error| unavailable(&error))?;
        match timeout(ASK_WITHIN, self.unbroken(answer)).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(LedgerError::Unavailable(BROKE.into())),
            Err(_) => Err(LedgerError::Unavailable("NATS does not answer in time".into())),
        }
    }

    async fn last_of_any(
        &self,
        account: &AccountKey,
    ) -> Result<Option<StreamMessage>, LedgerError> {
        let subject = self.bus.names().ledger_stored(account);
        match self.ask(self.stream.direct_get_last_for_subject(subject)).await? {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    async fn last_of_leader(
        &self,
        account: &AccountKey,
    ) -> Result<Option<StreamMessage>, LedgerError> {
        let subject = self.bus.names().ledger_stored(account);
        match self.ask(self.stream.get_last_raw_message_by_subject(&subject)).await? {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// A message that was there a moment ago.
    async fn at(&self, sequence: u64) -> Result<StreamMessage, LedgerError> {
        if let Ok(found) = self.ask(self.stream.direct_get(sequence)).await? {
            return Ok(found);
        }
        match self.ask(self.stream.get_raw_message(sequence)).await? {
            Ok(found) => Ok(found),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                Err(LedgerError::Conflict)
            }
            Err(error) => Err(unavailable(&error)),
        }
    }
}

/// The server's stamp, in nanoseconds since 1970: until the year 2262.
fn stamp(message: &StreamMessage) -> i64 {
    i64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

fn refusal(said: &jetstream::Error) -> LedgerError {
    let reason = match refused(said) {
        Refused::Full => format!("{}: {said}", Code::NatsFull),
        Refused::Absent => format!("{}: {said}", Code::NoJetStream),
        Refused::NoStream => format!("{}: {said}", Code::StreamMissing),
        Refused::Leaderless | Refused::Other => said.to_string(),
    };
    LedgerError::Unavailable(reason.into())
}
