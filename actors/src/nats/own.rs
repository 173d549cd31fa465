//! The bucket OWN as sessions and claims use it: entries that are replaced by compare-and-set, some with a time to
//! live, and followed as they change.
//!
//! A seam: what nodes make of the bucket is one thing ([`super::session`], [`crate::cluster`]), how a server
//! keeps it is another.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, push};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{Message, PublishMessage};
use async_nats::jetstream::stream::{ConsumerErrorKind, LastRawMessageErrorKind, Stream};
use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::watch;

use super::connect::{Bus, Link};
use super::error::{Refused, refused};

/// A watch that is given up keeps its place in the bucket (`CONSUMERS_OF_ENDED_MAX` of them) for so long.
const WATCH_KEPT: Duration = Duration::from_secs(5);

/// Keys read at once.
const READS: usize = 16;

/// One entry of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Without the bucket's prefix: `n.SESSION`, `p.PARTITION`.
    pub(crate) key: String,
    /// Grows with each entry of the bucket.
    pub(crate) revision: u64,
    /// Nothing: the key was taken away, or its time has passed.
    pub(crate) value: Option<Bytes>,
}

/// An entry that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// As [`Entry::key`].
    pub(crate) key: String,
    /// Nothing: the key is marked as taken away.
    pub(crate) value: Option<Bytes>,
    /// After so long (whole seconds) the bucket takes it away by itself and tells those who follow.
    pub(crate) lives: Option<Duration>,
    /// Of which revision the entry is that it replaces; 0: there is none.
    pub(crate) expected: u64,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// Its revision.
    At(u64),
    /// Another entry is the last of that key; nothing was written.
    Replaced,
}

/// A bucket that is followed.
pub(crate) struct Following {
    /// The last entry of every key, in order of their revisions. It may be a replica's: behind, or even one that
    /// shows what the leader has removed.
    pub(crate) there: Vec<Entry>,
    /// What comes after those, in order and without gaps; an error, or its end: it has to be followed anew.
    pub(crate) changes: Changes,
}

/// Entries as they come.
pub(crate) type Changes = BoxStream<'static, Result<Entry, OwnError>>;

/// Why the bucket could not be written or read. A write may have come through all the same.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub(crate) struct OwnError {
    pub(crate) what: String,
    /// The bucket is not there: waiting does not bring it back.
    pub(crate) missing: bool,
}

impl OwnError {
    /// It did not answer in time.
    pub(crate) fn no_answer() -> Self {
        failed("no answer in time")
    }
}

fn failed(error: impl fmt::Display) -> OwnError {
    OwnError { what: error.to_string(), missing: false }
}

/// The bucket. Every step may take as long as the server: whoever asks sets a time.
pub(crate) trait OwnBucket: fmt::Debug + Send + Sync + 'static {
    /// Writes an entry, if the last one of its key is the one that it is to replace.
    fn write(&self, draft: Draft) -> BoxFuture<'static, Result<Wrote, OwnError>>;

    /// The last entry of a key as the leader has it; nothing if there is none, not even a mark.
    fn last(&self, key: String) -> BoxFuture<'static, Result<Option<Entry>, OwnError>>;

    /// Follows all keys: what is there, and all that comes.
    fn follow(&self) -> BoxFuture<'static, Result<Following, OwnError>>;

    /// How the way to the bucket fares.
    fn link(&self) -> watch::Receiver<Link>;
}

/// The bucket on a NATS server.
pub(crate) struct NatsOwn {
    bus: Bus,
    stream: Arc<Stream<()>>,
}

impl NatsOwn {
    /// Asks nothing yet.
    pub(crate) async fn open(bus: &Bus) -> Result<Self, OwnError> {
        let stream = bus.js().get_stream_no_info(bus.names().bucket_stream("OWN")).await;
        Ok(Self { bus: bus.clone(), stream: Arc::new(stream.map_err(failed)?) })
    }

    /// All keys that match, marks among them.
    pub(crate) async fn keys(&self, matching: &str) -> Result<Vec<String>, OwnError> {
        let names = self.bus.names();
        let (subjects, start) = (names.bucket_key("OWN", matching), names.bucket_key("OWN", ""));
        let found = self.stream.info_with_subjects(subjects).await.map_err(failed)?;
        let key = |(subject, _): (String, usize)| subject.strip_prefix(&start).map(str::to_owned);
        let keys: Vec<Option<String>> = found.map_ok(key).map_err(failed).try_collect().await?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// The last entry of each of them, as the leader has it.
    pub(crate) async fn lasts(&self, matching: &str) -> Result<Vec<Entry>, OwnError> {
        let reads = stream::iter(self.keys(matching).await?).map(|key| self.last(key));
        let entries: Vec<_> = reads.buffer_unordered(READS).try_collect().await?;
        Ok(entries.into_iter().flatten().collect())
    }
}

impl fmt::Debug for NatsOwn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NatsOwn").field(&self.bus.names().bucket("OWN")).finish()
    }
}

impl OwnBucket for NatsOwn {
    /// Raw publishes and not the client's key-value calls: those drop the time to live where they create a key
    /// over the mark of an ended one.
    fn write(&self, draft: Draft) -> BoxFuture<'static, Result<Wrote, OwnError>> {
        let Draft { key, value, lives, expected } = draft;
        let mut message = PublishMessage::build().expected_last_subject_sequence(expected);
        message = match value {
            Some(value) => message.payload(value),
            None => message.header("KV-Operation", "DEL"),
        };
        if let Some(lives) = lives {
            message = message.ttl(lives);
        }
        let (js, subject) = (self.bus.js().clone(), self.bus.names().bucket_key("OWN", &key));
        async move {
            let wrote = async { js.send_publish(subject, message).await?.await };
            match wrote.await {
                Ok(confirmed) => Ok(Wrote::At(confirmed.sequence)),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    Ok(Wrote::Replaced)
                }
                Err(error) => Err(failed(error)),
            }
        }
        .boxed()
    }

    fn last(&self, key: String) -> BoxFuture<'static, Result<Option<Entry>, OwnError>> {
        let (stream, subject) = (self.stream.clone(), self.bus.names().bucket_key("OWN", &key));
        async move {
            match stream.get_last_raw_message_by_subject(&subject).await {
                Ok(last) => {
                    let value = is_put(&last.headers).then_some(last.payload);
                    Ok(Some(Entry { key, revision: last.sequence, value }))
                }
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => {
                    let missing = matches!(error.kind(), LastRawMessageErrorKind::JetStream(said)
                        if refused(&said) == Refused::NoStream);
                    Err(OwnError { missing, ..failed(error) })
                }
            }
        }
        .boxed()
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, OwnError>> {
        let (bus, stream) = (self.bus.clone(), self.stream.clone());
        async move {
            let inbox = bus.client().new_inbox();
            let heard = bus.client().subscribe(inbox.clone()).await.map_err(failed)?;
            let config = push::Config {
                deliver_subject: inbox,
                description: Some("a node that follows sessions and claims".into()),
                filter_subject: bus.names().bucket_key("OWN", ">"),
                deliver_policy: DeliverPolicy::LastPerSubject,
                ack_policy: AckPolicy::None,
                replay_policy: ReplayPolicy::Instant,
                max_deliver: 1,
                memory_storage: true,
                num_replicas: 1,
                inactive_threshold: WATCH_KEPT,
                ..push::Config::default()
            };
            let consumer = stream.create_consumer(config).await.map_err(|error| {
                let missing = matches!(error.kind(), ConsumerErrorKind::JetStream(said)
                    if refused(&said) == Refused::NoStream);
                OwnError { missing, ..failed(error) }
            })?;
            let mut ear = Ear { bus, heard, heard_to: 0 };
            let mut there = Vec::new();
            let mut pending = consumer.cached_info().num_pending;
            while pending > 0 {
                let next = ear.next().await.ok_or_else(|| failed("it cannot be followed"))??;
                there.push(next.0);
                pending = next.1;
            }
            let changes = stream::unfold(ear, |mut ear| async move {
                let next = ear.next().await?;
                Some((next.map(|(entry, _)| entry), ear))
            });
            Ok(Following { there, changes: changes.boxed() })
        }
        .boxed()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.bus.link()
    }
}

/// The server marks a key whose time has passed, a client one that it takes away.
pub(super) fn is_put(headers: &HeaderMap) -> bool {
    headers.get("KV-Operation").is_none_or(|operation| operation.as_str() == "PUT")
        && headers.get("Nats-Marker-Reason").is_none()
}

/// What a consumer delivers.
struct Ear {
    bus: Bus,
    heard: Subscriber,
    /// The consumer's number of the last message.
    heard_to: u64,
}

impl Ear {
    /// The next entry, and how many more are there; nothing once the connection is given up.
    async fn next(&mut self) -> Option<Result<(Entry, u64), OwnError>> {
        loop {
            let message = self.heard.next().await?;
            if message.status.is_none() {
                return Some(self.entry(message));
            }
        }
    }

    fn entry(&mut self, message: async_nats::Message) -> Result<(Entry, u64), OwnError> {
        let message = Message { message, context: self.bus.js().clone() };
        let info = message.info().map_err(failed)?;
        if info.consumer_sequence != self.heard_to + 1 {
            return Err(failed("some entries did not come"));
        }
        self.heard_to = info.consumer_sequence;
        let Message { message, .. } = &message;
        let prefix = self.bus.names().bucket_key("OWN", "");
        let key = message.subject.strip_prefix(&prefix).unwrap_or_default().to_owned();
        let is_put = message.headers.as_ref().is_none_or(is_put);
        let value = is_put.then(|| message.payload.clone());
        Ok((Entry { key, revision: info.stream_sequence, value }, info.pending))
    }
}
