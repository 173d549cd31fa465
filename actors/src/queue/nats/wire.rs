//! The few requests that everything here is made of, each bounded in time, and what their errors mean.

use std::error::Error;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{DeleteStatus, RawMessageErrorKind, Stream};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::timeout;

use super::{Home, Inner, QueueError, STEP_WITHIN, lock};
use crate::codes::Code;
use crate::nats::Refused;
use crate::nats::refused;
use crate::state::clock;

/// Waits for a step, but not for ever.
pub(super) async fn within<T>(
    step: impl Future<Output = Result<T, QueueError>>,
) -> Result<T, QueueError> {
    timeout(STEP_WITHIN, step).await.unwrap_or_else(|_| {
        let reason = format!("NATS has not answered for {} s", STEP_WITHIN.as_secs());
        Err(QueueError::Unavailable(reason.into()))
    })
}

/// What did not work, with whom, and what was said; a full server and a missing stream are named as such.
pub(super) fn away(doing: &str, what: &str, error: &(dyn Error + 'static)) -> QueueError {
    let mut cause = Some(error);
    while let Some(one) = cause {
        if let Some(said) = one.downcast_ref::<jetstream::Error>() {
            return refusal(doing, what, said);
        }
        let published = one.downcast_ref::<PublishError>().map(PublishError::kind);
        if published == Some(PublishErrorKind::StreamNotFound) {
            let (code, hint) = (Code::StreamMissing, "run `tollgate setup`");
            let reason = format!("{code}: NATS: cannot {doing} {what}: {error}; {hint}");
            return QueueError::Unavailable(reason.into());
        }
        cause = one.source();
    }
    QueueError::Unavailable(format!("NATS: cannot {doing} {what}: {error}").into())
}

/// The same of what the server answered itself.
pub(super) fn refusal(doing: &str, what: &str, said: &jetstream::Error) -> QueueError {
    let reason = format!("NATS: cannot {doing} {what}: {said}");
    QueueError::Unavailable(match refused(said) {
        Refused::Full => format!("{}: {reason}", Code::NatsFull).into(),
        Refused::NoStream => {
            format!("{}: {reason}; run `tollgate setup`", Code::StreamMissing).into()
        }
        _ => reason.into(),
    })
}

/// Whether an error of [`refusal`] says that there is no room.
pub(super) fn is_full(error: &QueueError) -> bool {
    let full = Code::NatsFull.to_string();
    matches!(error, QueueError::Unavailable(reason) if reason.starts_with(&full))
}

/// A message to be stored once.
pub(super) struct Copy {
    pub(super) subject: String,
    pub(super) id: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Inner {
    /// Publishes and waits for the confirmation.
    pub(super) async fn publish(
        &self,
        subject: String,
        id: Option<&str>,
        mut headers: HeaderMap,
        payload: Bytes,
    ) -> Result<PublishAck, QueueError> {
        if let Some(id) = id {
            headers.insert(NATS_MESSAGE_ID, id);
        }
        let message = PublishMessage::build().payload(payload).headers(headers);
        within(async {
            let sent = self.bus.js().send_publish(subject.clone(), message).await;
            let sent = sent.map_err(|error| away("publish to", &subject, &error))?;
            sent.await.map_err(|error| away("publish to", &subject, &error))
        })
        .await
    }

    /// Makes sure that a copy is in its stream, whether this call stored it or an earlier one did. A server that
    /// lost its latest messages gives their numbers again, and so their ids: a copy that is told to be there is
    /// looked at (`same`), and stored under an id of its own if it is none.
    pub(super) async fn store_once(
        &self,
        home: &Home,
        copy: Copy,
        same: impl Fn(&StreamMessage) -> bool,
    ) -> Result<(), QueueError> {
        let Copy { subject, id, headers, payload } = copy;
        let ack =
            self.publish(subject.clone(), Some(&id), headers.clone(), payload.clone()).await?;
        if !ack.duplicate {
            return Ok(());
        }
        if self.get(&home.stream, ack.sequence).await?.is_some_and(|there| same(&there)) {
            return Ok(());
        }
        let id = format!("{id}:{:x}", clock::random());
        self.publish(subject, Some(&id), headers, payload).await.map(drop)
    }

    /// A message as the leader of its stream has it.
    pub(super) async fn get(
        &self,
        stream: &Stream<()>,
        seq: u64,
    ) -> Result<Option<StreamMessage>, QueueError> {
        let asking = async {
            match stream.get_raw_message(seq).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(away("read message", &seq.to_string(), &error)),
            }
        };
        within(asking).await
    }

    /// Deletes a message; one that is not there is no error. Its bytes are not overwritten, which is
    /// hundreds of times as fast.
    pub(super) async fn delete(&self, home: &Home, seq: u64) -> Result<(), QueueError> {
        let deleting = async {
            let place = self.deletes.acquire().await;
            let subject = format!("STREAM.MSG.DELETE.{}", home.name);
            let request = json!({"seq": seq, "no_erase": true});
            let answer = self.bus.js().request(subject, &request).await;
            drop(place);
            let what = || format!("{seq} of {}", home.name);
            match answer {
                Ok(Response::Ok(DeleteStatus { .. })) => Ok(true),
                Ok(Response::Err { error }) => match error.error_code() {
                    ErrorCode::SEQUENCE_NOT_FOUND | ErrorCode::NO_MESSAGE_FOUND => Ok(true),
                    // Also said of an empty stream, and of a disk that fails.
                    ErrorCode::STREAM_MESSAGE_DELETE_FAILED => Ok(false),
                    _ => Err(refusal("delete", &what(), &error)),
                },
                Err(error) => Err(away("delete", &what(), &error)),
            }
        };
        let gone = within(deleting).await?;
        if !gone && self.get(&home.stream, seq).await?.is_some() {
            let reason = format!("NATS: cannot delete {seq} of {}", home.name);
            return Err(QueueError::Unavailable(reason.into()));
        }
        Ok(())
    }

    /// The same of a fetch, by what was read of it.
    pub(super) async fn delete_fetch(
        &self,
        seq: u64,
        stored_at: Timestamp,
    ) -> Result<(), QueueError> {
        self.delete(&self.fetch, seq).await?;
        self.forget(seq, stored_at);
        Ok(())
    }

    /// A fetch does not wait any more.
    pub(super) fn forget(&self, seq: u64, stored_at: Timestamp) {
        if self.replicated {
            lock(&self.gone).add(seq, stored_at);
        }
        lock(&self.seen).0.remove(&seq);
    }
}
