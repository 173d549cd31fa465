//! What the ledger asks of the server, and nothing of what it makes of the answers.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::unavailable;
use crate::codes::Code;
use crate::ids::AccountKey;
use crate::ledger::{LedgerError, Writer};
use crate::nats::session::{Session, SessionId};
use crate::nats::{Bus, Refused, refused};

/// How long each answer to a question may take.
pub(super) const ASK_WITHIN: Duration = Duration::from_secs(2);
/// Questions on their way at once; more wait for their turn, and their time begins with it.
const ASKING_MAX: usize = 128;
/// How long a broken connection is waited for before the leader is asked.
const UP_WITHIN: Duration = Duration::from_secs(2);
const BROKE: &str = "the connection to NATS broke";

/// A message as the server keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) sequence: u64,
    pub(crate) payload: Bytes,
    /// The server's stamp, in nanoseconds since 1970.
    pub(crate) stored_ns: i64,
}

impl From<StreamMessage> for Kept {
    fn from(message: StreamMessage) -> Self {
        let stored_ns = stamp(&message);
        Self { sequence: message.sequence, payload: message.payload, stored_ns }
    }
}

/// The server's stamp, in nanoseconds since 1970: until the year 2262.
pub(super) fn stamp(message: &StreamMessage) -> i64 {
    i64::try_from(message.time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// Why a message was not confirmed.
#[derive(Debug, Clone)]
pub(crate) enum Unconfirmed {
    /// Another message is the last one.
    Conflict,
    /// The server did not take it, or it was not sent.
    Refused(LedgerError),
    /// It may be stored, or be stored later.
    Lost(Arc<str>),
}

/// The result of a question, which may be asked again.
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// A stream with one message for each account, as one session has it.
pub(crate) trait Wire: Send + Sync + 'static {
    /// The session.
    fn own(&self) -> SessionId;

    /// Time since it began.
    fn passed(&self) -> Duration;

    /// What is known of another session.
    fn look(&self, id: SessionId) -> Answer<'_, Writer>;

    /// Stores the message of an account if the last one is the one of this sequence; 0: if there is none. Its sequence.
    fn publish<'a>(
        &'a self,
        account: &'a AccountKey,
        expected: u64,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<u64, Unconfirmed>>;

    /// Waits, within bounds, until the server can be asked.
    fn up(&self) -> BoxFuture<'_, ()>;

    /// The last message of an account as any replica has it.
    fn last_of_any<'a>(&'a self, account: &'a AccountKey) -> Answer<'a, Option<Kept>>;

    /// The last message of an account as the leader has it.
    fn last_of_leader<'a>(&'a self, account: &'a AccountKey) -> Answer<'a, Option<Kept>>;

    /// A message that was there a moment ago.
    fn at(&self, sequence: u64) -> Answer<'_, Kept>;
}

/// The stream LEDGER.
pub(super) struct JetStream {
    bus: Bus,
    stream: Stream<()>,
    session: Arc<Session>,
    asking: Semaphore,
}

impl JetStream {
    pub(super) async fn open(bus: &Bus, session: Arc<Session>) -> Result<Self, LedgerError> {
        let stream = bus.js().get_stream_no_info(bus.names().stream("LEDGER")).await;
        let stream = stream.map_err(|error| unavailable(&error))?;
        Ok(Self { bus: bus.clone(), stream, session, asking: Semaphore::new(ASKING_MAX) })
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
}

impl Wire for JetStream {
    fn own(&self) -> SessionId {
        self.session.id()
    }

    fn passed(&self) -> Duration {
        self.session.started().elapsed()
    }

    fn look(&self, id: SessionId) -> Answer<'_, Writer> {
        async move { self.session.look(id).await.map_err(|error| unavailable(&error)) }.boxed()
    }

    fn publish<'a>(
        &'a self,
        account: &'a AccountKey,
        expected: u64,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<u64, Unconfirmed>> {
        async move {
            if !self.bus.link().borrow().up {
                // Sent now it would wait for the connection, and come through when nobody wants it any more.
                let reason = "the connection to NATS is down".into();
                return Err(Unconfirmed::Refused(LedgerError::Unavailable(reason)));
            }
            let message =
                PublishMessage::build().payload(payload).expected_last_subject_sequence(expected);
            let sent = async {
                self.bus.js().send_publish(self.bus.names().ledger(account), message).await?.await
            };
            let error = match self.unbroken(sent).await {
                Some(Ok(confirmed)) => return Ok(confirmed.sequence),
                Some(Err(error)) => error,
                None => return Err(Unconfirmed::Lost(BROKE.into())),
            };
            Err(match error.kind() {
                PublishErrorKind::WrongLastSequence => Unconfirmed::Conflict,
                PublishErrorKind::StreamNotFound => {
                    let (code, name) = (Code::StreamMissing, self.bus.names().stream("LEDGER"));
                    let reason = format!("{code}: no stream `{name}`; run `tollgate setup`");
                    Unconfirmed::Refused(LedgerError::Unavailable(reason.into()))
                }
                PublishErrorKind::MaxAckPending | PublishErrorKind::MaxPayloadExceeded => {
                    Unconfirmed::Refused(unavailable(&error))
                }
                PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::WrongLastMessageId
                | PublishErrorKind::Other => {
                    match error.source().and_then(|source| source.downcast_ref()) {
                        Some(said) => Unconfirmed::Refused(refusal(said)),
                        None => Unconfirmed::Lost(error.to_string().into()),
                    }
                }
            })
        }
        .boxed()
    }

    fn up(&self) -> BoxFuture<'_, ()> {
        async move {
            let mut link = self.bus.link();
            let _up = timeout(UP_WITHIN, link.wait_for(|link| link.up)).await.is_ok();
        }
        .boxed()
    }

    fn last_of_any<'a>(&'a self, account: &'a AccountKey) -> Answer<'a, Option<Kept>> {
        async move {
            let subject = self.bus.names().ledger_stored(account);
            match self.ask(self.stream.direct_get_last_for_subject(subject)).await? {
                Ok(found) => Ok(Some(found.into())),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(unavailable(&error)),
            }
        }
        .boxed()
    }

    fn last_of_leader<'a>(&'a self, account: &'a AccountKey) -> Answer<'a, Option<Kept>> {
        async move {
            let subject = self.bus.names().ledger_stored(account);
            match self.ask(self.stream.get_last_raw_message_by_subject(&subject)).await? {
                Ok(found) => Ok(Some(found.into())),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(unavailable(&error)),
            }
        }
        .boxed()
    }

    fn at(&self, sequence: u64) -> Answer<'_, Kept> {
        async move {
            if let Ok(found) = self.ask(self.stream.direct_get(sequence)).await? {
                return Ok(found.into());
            }
            match self.ask(self.stream.get_raw_message(sequence)).await? {
                Ok(found) => Ok(found.into()),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    Err(LedgerError::Conflict)
                }
                Err(error) => Err(unavailable(&error)),
            }
        }
        .boxed()
    }
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
