//! How far unfinished fetches have come: the stream PROGRESS, one message for each, replaced by compare-and-set.

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{DirectGetErrorKind, LastRawMessageErrorKind};
use bytes::Bytes;

use super::wire::{away, within};
use super::{Inner, Noted, QueueError};
use crate::ids::{LaneKey, Seq};

impl Inner {
    pub(super) async fn note(
        &self,
        lane: &LaneKey,
        origin: Seq,
    ) -> Result<Option<Noted>, QueueError> {
        let message = self.last_note(&self.names().progress(&lane.account, origin)).await?;
        Ok(message.map(|message| Noted { version: message.sequence, bytes: message.payload }))
    }

    pub(super) async fn keep_note(
        &self,
        lane: &LaneKey,
        origin: Seq,
        expected: u64,
        note: Bytes,
    ) -> Result<Option<u64>, QueueError> {
        let subject = self.names().progress(&lane.account, origin);
        let message =
            PublishMessage::build().payload(note).expected_last_subject_sequence(expected);
        within(async {
            let sent = self.bus.js().send_publish(subject.clone(), message).await;
            let sent = sent.map_err(|error| away("publish to", &subject, &error))?;
            match sent.await {
                Ok(ack) => Ok(Some(ack.sequence)),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
                Err(error) => Err(away("publish to", &subject, &error)),
            }
        })
        .await
    }

    pub(super) async fn drop_note(&self, lane: &LaneKey, origin: Seq) -> Result<(), QueueError> {
        let subject = self.names().progress(&lane.account, origin);
        match self.last_note(&subject).await? {
            Some(message) => self.delete(&self.progress, message.sequence).await,
            None => Ok(()),
        }
    }

    /// The leader is asked where another replica may be behind.
    pub(super) async fn last_note(
        &self,
        subject: &str,
    ) -> Result<Option<StreamMessage>, QueueError> {
        let stream = &self.progress.stream;
        within(async {
            if self.replicated {
                return match stream.get_last_raw_message_by_subject(subject).await {
                    Ok(message) => Ok(Some(message)),
                    Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                        Ok(None)
                    }
                    Err(error) => Err(away("read", subject, &error)),
                };
            }
            match stream.direct_get_last_for_subject(subject).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(away("read", subject, &error)),
            }
        })
        .await
    }
}
