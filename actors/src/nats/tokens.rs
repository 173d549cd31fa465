//! The vault in JetStream: a bucket with one key for each credential, replaced by compare-and-set, read from the
//! leader. Its messages hold tokens as they are: who may read the bucket can use them (docs/nats.md, "Rights").

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::Bus;
use super::session::{Session, SessionId};
use crate::auth::vault::{Kept, Vault, VaultError};
use crate::ledger::Writer;

const BUCKET: &str = "TOKENS";
/// How long the server may take to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// The records of all nodes that share a NATS prefix.
#[derive(Debug, Clone)]
pub struct NatsVault {
    bus: Bus,
    session: Arc<Session>,
}

impl NatsVault {
    /// The vault of a session; its bucket is made by `setup`.
    pub fn new(bus: &Bus, session: Arc<Session>) -> Self {
        Self { bus: bus.clone(), session }
    }
}

fn away(error: &dyn std::fmt::Display) -> VaultError {
    VaultError::Away(format!("the bucket {BUCKET}: {error}"))
}

impl Vault for NatsVault {
    fn load(&self, key: &str) -> BoxFuture<'static, Result<Option<Kept>, VaultError>> {
        let bus = self.bus.clone();
        let subject = bus.names().bucket_key(BUCKET, key);
        async move {
            let name = bus.names().bucket_stream(BUCKET);
            let stream = bus.js().get_stream_no_info(name).await.map_err(|error| away(&error))?;
            // A replica may be behind, and an old refresh token must not be used again.
            let asked = timeout(WITHIN, stream.get_last_raw_message_by_subject(&subject)).await;
            match asked.map_err(|_| away(&"NATS does not answer in time"))? {
                Ok(found) => Ok(Some(Kept { version: found.sequence, record: found.payload })),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(away(&error)),
            }
        }
        .boxed()
    }

    fn store(
        &self,
        key: &str,
        expected: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<u64, VaultError>> {
        let bus = self.bus.clone();
        let subject = bus.names().bucket_key(BUCKET, key);
        async move {
            if !bus.link().borrow().up {
                return Err(away(&"the connection to NATS is down"));
            }
            let message =
                PublishMessage::build().payload(record).expected_last_subject_sequence(expected);
            let sent = async { bus.js().send_publish(subject, message).await?.await };
            match timeout(WITHIN, sent).await {
                Ok(Ok(confirmed)) => Ok(confirmed.sequence),
                Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    Err(VaultError::Conflict)
                }
                Ok(Err(error)) => Err(away(&error)),
                Err(_) => Err(away(&"NATS does not answer in time")),
            }
        }
        .boxed()
    }

    fn me(&self) -> String {
        format!("{:x}", self.session.id().0)
    }

    fn is_gone(&self, by: &str) -> BoxFuture<'static, bool> {
        let (session, by) = (Arc::clone(&self.session), u64::from_str_radix(by, 16));
        async move {
            let Ok(by) = by else { return false };
            // One that is only silent may hold an answer, cut off from here.
            matches!(session.look(SessionId(by)).await, Ok(Writer::Dead))
        }
        .boxed()
    }
}
