//! How fetches come in and how they end: each step confirmed before the next, each harmless when repeated.

use std::borrow::Cow;

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use object_store::path::Path;
use sha2::{Digest, Sha256};
use tollgate_protos::{Dead, Done};

use super::headers::{CONTENT_TYPE, JSON, id_of, stored_at};
use super::wire::{Copy, away, within};
use super::{Appended, Ending, Inner, NewFetch, QueueError, SeenAs, lock};
use crate::ids::{LaneKey, Seq};
use crate::queue::APPEND_MAX;
use crate::recipe;

/// Room that a letter, or an ending, leaves for its headers in what the server takes as one message.
const HEADERS_MAX: usize = 512;
/// Bytes of a fetch that its letter keeps where it cannot keep the whole, and of any text of a letter where
/// even this is too much: both may be six times as long in JSON.
const RAW_BYTES: usize = 2048;
const LETTER_TEXT_MAX: usize = 256;

impl Inner {
    /// All are on their way before the first is confirmed.
    pub(super) async fn append(&self, fetches: Vec<NewFetch>) -> Result<Vec<Appended>, QueueError> {
        if fetches.len() > APPEND_MAX {
            let reason = format!("{} fetches at once, at most {APPEND_MAX}", fetches.len());
            return Err(QueueError::Unavailable(reason.into()));
        }
        let fetch = &self.fetch.name;
        let publishing = async {
            let mut confirmations = FuturesOrdered::new();
            for new in fetches {
                let mut headers = json_headers();
                headers.insert(NATS_MESSAGE_ID, id_of(&new.lane, &new.id));
                let message = PublishMessage::build().payload(new.payload).headers(headers);
                let sent = self.bus.js().send_publish(self.names().fetch(&new.lane), message).await;
                let sent = sent.map_err(|error| away("publish to", fetch, &error))?;
                confirmations.push_back(sent.into_future());
            }
            let mut appended = Vec::with_capacity(confirmations.len());
            while let Some(confirmed) = confirmations.next().await {
                let ack = confirmed.map_err(|error| away("publish to", fetch, &error))?;
                let seq = Seq(ack.sequence);
                let known = ack.duplicate;
                appended.push(if known { Appended::Waiting(seq) } else { Appended::New(seq) });
            }
            Ok(appended)
        };
        within(publishing).await
    }

    /// DONE or DEAD, then ONCE, then the delete. A crash between two leaves the fetch waiting, and the repeat
    /// finds what was written by its id.
    pub(super) async fn finish(
        &self,
        lane: &LaneKey,
        seq: Seq,
        ending: Ending,
    ) -> Result<(), QueueError> {
        match ending {
            Ending::Done { done, once } => {
                self.tell_done(lane, &done).await?;
                if once {
                    self.remember_once(lane, &done).await?;
                }
            }
            Ending::Dead(dead) => {
                // What is done cannot die: a replica that is behind may have shown it.
                if self.as_read(lane, seq).await?.is_none() {
                    return Ok(());
                }
                self.tell_dead(self.names().ended("dead", lane), &dead).await?;
            }
        }
        let seen = lock(&self.seen).0.get(&seq.0).copied();
        match seen {
            Some(SeenAs { stored_at, era }) if era.is_some() && era == self.era() => {
                self.delete_fetch(seq.0, stored_at).await
            }
            _ => match self.as_read(lane, seq).await? {
                Some(message) => self.delete_fetch(seq.0, stored_at(&message)).await,
                None => Ok(()),
            },
        }
    }

    /// The message of a number, if it is the one that was read under it. A server that lost its latest
    /// messages, or whose stream was made anew, gives their numbers to others: none of these must go for it.
    pub(super) async fn as_read(
        &self,
        lane: &LaneKey,
        seq: Seq,
    ) -> Result<Option<StreamMessage>, QueueError> {
        let message = self.get(&self.fetch.stream, seq.0).await?;
        let seen = lock(&self.seen).0.get(&seq.0).copied();
        let message = message.filter(|message| {
            message.subject.as_str() == self.names().queued(lane)
                && seen.is_none_or(|seen| seen.stored_at == stored_at(message))
        });
        if let (None, Some(seen)) = (&message, seen) {
            self.forget(seq.0, seen.stored_at);
        }
        Ok(message)
    }

    /// An ending as it is stored. One that the server takes no message for names the objects that fit, and where the
    /// manifest is, which names all; without that even its labels are left out. Refused for ever, it would keep its
    /// fetch, and a place, taken for ever.
    fn done_json(&self, done: &Done) -> Bytes {
        let max = self.bus.client().max_payload().saturating_sub(HEADERS_MAX);
        let payload = to_json(done);
        if payload.len() <= max {
            return payload;
        }
        let first = done.objects.first().and_then(|object| Path::parse(&object.key).ok());
        let manifest = first.map(|first| recipe::manifest_key(&first).to_string());
        let manifest = done.manifest.clone().or(manifest);
        let mut short = Done { objects: Vec::new(), manifest, ..done.clone() };
        let mut length = to_json(&short).len();
        if length > max {
            short.labels.clear();
            length = to_json(&short).len();
        }
        for object in &done.objects {
            // With a comma.
            length += to_json(object).len() + 1;
            if length > max {
                break;
            }
            short.objects.push(object.clone());
        }
        to_json(&short)
    }

    async fn tell_done(&self, lane: &LaneKey, done: &Done) -> Result<(), QueueError> {
        let subject = self.names().ended("done", lane);
        let copy = Copy {
            subject: subject.clone(),
            id: format!("{}:{}", self.fetch.created(), done.seq),
            headers: json_headers(),
            payload: self.done_json(done),
        };
        let same = |there: &StreamMessage| {
            there.subject.as_str() == subject
                && serde_json::from_slice::<Done>(&there.payload)
                    .is_ok_and(|told| told.id == done.id)
        };
        self.store_once(&self.done, copy, same).await
    }

    pub(super) async fn tell_dead(&self, subject: String, dead: &Dead) -> Result<(), QueueError> {
        let id = |dead: &Dead| dead.fetch.as_ref().and_then(|fetch| fetch.id.clone());
        let (dead, payload) = self.letter_json(dead);
        let copy = Copy {
            subject: subject.clone(),
            id: format!("dead:{}:{}", self.fetch.created(), dead.seq),
            headers: json_headers(),
            payload,
        };
        let same = |there: &StreamMessage| {
            there.subject.as_str() == subject
                && serde_json::from_slice::<Dead>(&there.payload)
                    .is_ok_and(|told| id(&told) == id(&dead) && told.raw == dead.raw)
        };
        self.store_once(&self.dead, copy, same).await
    }

    /// A letter as it is stored. One that the server takes no message for keeps the beginning of its fetch:
    /// refused for ever, it would hold up all that must be buried behind it.
    pub(super) fn letter_json<'a>(&self, dead: &'a Dead) -> (Cow<'a, Dead>, Bytes) {
        let payload_max = self.bus.client().max_payload();
        let max = payload_max.saturating_sub(HEADERS_MAX);
        let payload = to_json(dead);
        if payload.len() <= max {
            return (Cow::Borrowed(dead), payload);
        }
        let mut short = dead.clone();
        short.reason = format!(
            "{}; the letter keeps only a beginning: whole it has {} bytes, and the server's `max_payload` is {payload_max}",
            start(&dead.reason, LETTER_TEXT_MAX),
            payload.len()
        );
        if let Some(fetch) = short.fetch.take() {
            let text = serde_json::to_string(&fetch).unwrap_or_default();
            short.raw.get_or_insert_with(|| start(&text, RAW_BYTES).to_owned());
        }
        let mut payload = to_json(&short);
        if payload.len() > max {
            short.body_start = None;
            short.raw = short.raw.map(|raw| start(&raw, LETTER_TEXT_MAX).to_owned());
            payload = to_json(&short);
        }
        (Cow::Owned(short), payload)
    }

    async fn remember_once(&self, lane: &LaneKey, done: &Done) -> Result<(), QueueError> {
        let key = self.names().bucket_key("ONCE", &once_key(lane, &done.id));
        self.publish(key, None, HeaderMap::new(), self.done_json(done)).await.map(drop)
    }

    pub(super) async fn done_once(
        &self,
        lane: &LaneKey,
        id: &str,
    ) -> Result<Option<Done>, QueueError> {
        let key = self.names().bucket_key("ONCE", &once_key(lane, id));
        let asking = async {
            match self.once.get_last_raw_message_by_subject(&key).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(away("read", &key, &error)),
            }
        };
        // An empty one is the mark of a key that an operator deleted.
        let Some(message) = within(asking).await?.filter(|message| !message.payload.is_empty())
        else {
            return Ok(None);
        };
        serde_json::from_slice(&message.payload)
            .map(Some)
            .map_err(|error| QueueError::Corrupt(format!("{key} is no `done`: {error}").into()))
    }
}

pub(super) fn json_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, JSON);
    headers
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("its maps have text keys and its values come from JSON").into()
}

/// As much of a text as has at most `max` bytes.
fn start(text: &str, max: usize) -> &str {
    let fits = |end: &usize| *end <= max;
    let ends = text.char_indices().map(|(at, letter)| at + letter.len_utf8());
    let end = ends.take_while(fits).last().unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Each part is preceded by its length, so that no two lists of parts read the same.
fn once_key(lane: &LaneKey, id: &str) -> String {
    let account = &lane.account;
    let mut hash = Sha256::new();
    for part in [account.platform.as_str(), account.account.as_str(), lane.api.as_str(), id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    format!("{:x}", hash.finalize())
}
