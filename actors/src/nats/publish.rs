//! Publishing fetches: many on their way at once, each confirmed by the server before it counts.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep};

use super::Bus;
use super::error::{NatsError, Refused, missing, refused};
use crate::codes::Code;
use crate::ids::LaneKey;

/// Fetches on their way without a confirmation; who has more waits.
const AHEAD_MAX: usize = 4096;
/// Between two tries of one that was not confirmed.
const AGAIN: Duration = Duration::from_millis(250);
/// A server that has just started may take this long to find its streams.
const STREAM_WITHIN: Duration = Duration::from_secs(5);

/// A fetch to be published.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where it belongs.
    pub lane: LaneKey,
    /// Keeps a repeated publish out, see [`Accepted::message_id`](crate::recipe::Accepted::message_id).
    pub message_id: String,
    /// What the payload is; none: JSON.
    pub content_type: Option<&'static str>,
    /// The fetch.
    pub payload: Bytes,
}

/// What the server said of those that it confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    /// Stored.
    pub new: u64,
    /// Its id was published within the stream's duplicate window (2 min): not stored a second time.
    pub duplicate: u64,
}

/// A fetch on its way, and its confirmation to come; none if it could not even be sent.
type Sent = (Outgoing, Option<PublishAckFuture>);

/// Publishes fetches in order. What gets no answer is sent again, under its id and behind what was confirmed
/// meanwhile, until `patience` has passed without any confirmation at all.
#[derive(Debug)]
pub struct Publisher {
    bus: Bus,
    patience: Duration,
    ahead: VecDeque<Sent>,
    /// Some of `ahead` could not be sent.
    unsent: bool,
    given_up: bool,
    heard: Instant,
    published: Published,
    refused: usize,
}

impl Publisher {
    /// A publisher that gives up when nothing was confirmed for `patience`.
    pub fn new(bus: Bus, patience: Duration) -> Self {
        let published = Published::default();
        let heard = Instant::now();
        let ahead = VecDeque::new();
        let (unsent, given_up) = (false, false);
        Self { bus, patience, ahead, unsent, given_up, heard, published, refused: 0 }
    }

    /// Sends one; waits while too many are without a confirmation.
    ///
    /// # Errors
    /// The server refuses fetches, or confirms none. What was confirmed is in [`Publisher::published`].
    pub async fn send(&mut self, fetch: Outgoing) -> Result<(), NatsError> {
        while self.ahead.len() >= AHEAD_MAX || self.unsent {
            self.confirm().await?;
        }
        if self.ahead.is_empty() {
            self.heard = Instant::now();
        }
        self.post(fetch).await
    }

    /// Waits until all that was sent is confirmed; not once that was given up.
    ///
    /// # Errors
    /// As [`Publisher::send`].
    pub async fn finish(&mut self) -> Result<Published, NatsError> {
        while !self.ahead.is_empty() && !self.given_up {
            self.confirm().await?;
        }
        Ok(self.published)
    }

    /// What was confirmed so far.
    pub fn published(&self) -> Published {
        self.published
    }

    /// How many were sent and are not confirmed.
    pub fn unconfirmed(&self) -> usize {
        self.ahead.len() + self.refused
    }

    async fn confirm(&mut self) -> Result<(), NatsError> {
        let Some((fetch, ack)) = self.ahead.pop_front() else {
            self.unsent = false;
            return Ok(());
        };
        let error = match ack {
            None => None,
            Some(ack) => match ack.await {
                Ok(ack) => {
                    self.note(&ack);
                    return Ok(());
                }
                Err(error) => Some(error),
            },
        };
        if let Some(refusal) = error.as_ref().and_then(|error| self.refusal(error)) {
            self.refused += 1;
            return Err(refusal);
        }
        if let Some(denied) = self.bus.denied() {
            self.given_up = true;
            self.refused += 1;
            return Err(denied);
        }
        if self.heard.elapsed() > self.patience {
            self.given_up = true;
            self.refused += 1;
            let waited = self.patience.as_secs();
            let error = error.map_or_else(|| "it could not be sent".into(), |e| e.to_string());
            return Err(NatsError::new(
                Code::NatsUnreachable,
                format!("no publish was confirmed within {waited} s: {error}"),
                "publish the same again when NATS is back: ids keep repeats out for 2 min, later a \
                 fetch may be collected twice",
            ));
        }
        sleep(AGAIN).await;
        self.post_again(fetch).await
    }

    /// Sends one again, and with it all that is on its way: a connection that broke took the confirmations of
    /// thousands with it, and each of them would be waited for in turn.
    async fn post_again(&mut self, fetch: Outgoing) -> Result<(), NatsError> {
        self.unsent = false;
        let behind = mem::take(&mut self.ahead);
        self.post(fetch).await?;
        for (fetch, ack) in behind {
            // Outside of the runtime's budget, which would tell of an answer that is there that it is not.
            let answer = ack.and_then(|ack| unconstrained(ack.into_future()).now_or_never());
            match answer {
                Some(Ok(ack)) => self.note(&ack),
                _ if self.unsent => self.ahead.push_back((fetch, None)),
                _ => self.post(fetch).await?,
            }
        }
        Ok(())
    }

    fn note(&mut self, ack: &PublishAck) {
        self.heard = Instant::now();
        if ack.duplicate {
            self.published.duplicate += 1;
        } else {
            self.published.new += 1;
        }
    }

    async fn post(&mut self, fetch: Outgoing) -> Result<(), NatsError> {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = fetch.content_type {
            headers.insert("Content-Type", content_type);
        }
        let message = PublishMessage::build()
            .headers(headers)
            .message_id(&fetch.message_id)
            .payload(fetch.payload.clone());
        let sent = self.bus.js().send_publish(self.bus.names().fetch(&fetch.lane), message).await;
        let ack = match sent {
            Ok(ack) => Some(ack),
            // What waits to be sent fills the connection's line while it is down.
            Err(error) if error.kind() == PublishErrorKind::TimedOut => {
                self.unsent = true;
                None
            }
            Err(error) => {
                self.refused += 1;
                return Err(self.refusal(&error).unwrap_or_else(|| {
                    NatsError::new(
                        Code::NatsUnreachable,
                        format!("a fetch cannot be sent: {error}"),
                        "see whether nats-server is well (its log)",
                    )
                }));
            }
        };
        self.ahead.push_back((fetch, ack));
        Ok(())
    }

    /// What no second try would change.
    fn refusal(&self, error: &PublishError) -> Option<NatsError> {
        let said = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<jetstream::Error>());
        let what = |said: &dyn std::fmt::Display| format!("the server refuses fetches: {said}");
        match (error.kind(), said) {
            (_, Some(said)) if refused(said) == Refused::Full => Some(NatsError::new(
                Code::NatsFull,
                what(said),
                "let what waits be collected, or give it more room (nats.fetch_bytes_max, max_file)",
            )),
            (PublishErrorKind::StreamNotFound, _) if self.heard.elapsed() > STREAM_WITHIN => {
                Some(missing(&self.bus.names().stream("FETCH")))
            }
            (PublishErrorKind::MaxPayloadExceeded, _) => Some(NatsError::new(
                Code::FetchTooLarge,
                "a fetch is larger than the server's max_payload",
                "set max_payload of nats-server to 1MB, its default, or more",
            )),
            _ => None,
        }
    }
}
