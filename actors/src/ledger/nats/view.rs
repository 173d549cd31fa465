//! The ledger as somebody sees it who only looks: nothing is claimed, nothing is stored.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::timeout;

use super::wire::{ASK_WITHIN, stamp};
use super::{Head, unavailable};
use crate::ids::AccountKey;
use crate::ledger::{Ledger, LedgerError, LedgerFuture, Stored, Writer};
use crate::nats::Bus;
use crate::state::clock;

/// Reads records for people. Ages are by this machine's clock against the server's: good enough to be
/// shown, not to decide upon.
#[derive(Clone)]
pub struct NatsView {
    bus: Bus,
    stream: Stream<()>,
}

impl fmt::Debug for NatsView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsView").finish_non_exhaustive()
    }
}

impl NatsView {
    /// A view of the ledger.
    ///
    /// # Errors
    /// The name of the stream is none.
    pub async fn open(bus: &Bus) -> Result<Self, LedgerError> {
        let stream = bus.js().get_stream_no_info(bus.names().stream("LEDGER")).await;
        Ok(Self { bus: bus.clone(), stream: stream.map_err(|error| unavailable(&error))? })
    }

    async fn look(self, account: AccountKey) -> Result<Option<Stored>, LedgerError> {
        let subject = self.bus.names().ledger_stored(&account);
        let asked = timeout(ASK_WITHIN, self.stream.direct_get_last_for_subject(subject)).await;
        let found = match asked.map_err(|error| unavailable(&error))? {
            Ok(found) => found,
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unavailable(&error)),
        };
        let (stored_ns, record) = match Head::read(&found.payload) {
            Some((head, record)) => (head.stored_ns.unwrap_or_else(|| stamp(&found)), record),
            None => (stamp(&found), found.payload.clone()),
        };
        let now_ns = i64::try_from(clock::wall().as_nanosecond()).unwrap_or(i64::MAX);
        let age = Duration::from_nanos(now_ns.saturating_sub(stored_ns).max(0).unsigned_abs());
        Ok(Some(Stored { version: found.sequence, record, age, writer: Writer::Alive }))
    }
}

impl Ledger for NatsView {
    fn session(&self) -> u64 {
        0
    }

    fn load(&self, account: AccountKey) -> LedgerFuture<Option<Stored>> {
        self.clone().look(account).boxed()
    }

    fn store(&self, _: AccountKey, _: u64, _: Bytes) -> LedgerFuture<u64> {
        std::future::ready(Err(LedgerError::Unavailable("this is a view of the ledger".into())))
            .boxed()
    }
}
