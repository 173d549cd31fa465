//! Against a real server: the promises of every queue, and those of this one.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tollgate_protos::Fetch;

use super::*;
use crate::nats::tests::{ready, ready_three};
use crate::queue::FIRST_MAX;
use crate::queue::conformance::queue_conformance;
use crate::state::clock;
use crate::testkit::nats_server::NatsServer;

mod endings;
mod misfits;
mod moves;
mod sweeping;
mod waking;

queue_conformance!(everywhere open().await);

/// How long a thing that must happen by itself may take before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(30);

type Keep = (TempDir, NatsServer, Bus);

/// A queue and what must outlive it.
async fn open() -> (NatsQueue, Keep) {
    let (folder, server, bus) = ready("").await;
    let queue = NatsQueue::open(&bus).await.unwrap();
    (queue, (folder, server, bus))
}

fn lane(subject: &str) -> LaneKey {
    LaneKey::parse(subject).unwrap()
}

fn fetch(lane: &LaneKey, id: &str) -> NewFetch {
    let payload = Bytes::from(format!(r#"{{"id":"{id}"}}"#));
    NewFetch { lane: lane.clone(), id: id.into(), payload, not_before: None }
}

async fn store(queue: &NatsQueue, lane: &LaneKey, id: &str) -> Seq {
    match queue.append(vec![fetch(lane, id)]).await.unwrap()[..] {
        [Appended::New(seq)] => seq,
        ref other => panic!("{other:?}"),
    }
}

async fn first(queue: &NatsQueue, lane: &LaneKey) -> Vec<Queued> {
    queue.first(lane.clone(), None, FIRST_MAX).await.unwrap()
}

fn done(id: &str, seq: Seq) -> Done {
    Done {
        id: id.into(),
        seq: seq.0,
        objects: Vec::new(),
        http_status: 200,
        attempts: 1,
        pages: 1,
        waited_ms: 0,
        fetched_at: clock::wall(),
        labels: BTreeMap::new(),
        ..Done::default()
    }
}

fn ended(id: &str, seq: Seq) -> Ending {
    Ending::Done { done: Box::new(done(id, seq)), once: false }
}

fn letter(id: &str, seq: Seq) -> Dead {
    Dead {
        seq: seq.0,
        fetch: Some(Fetch { id: Some(id.into()), ..Fetch::default() }),
        raw: None,
        source: None,
        code: "TG0201".into(),
        reason: "no".into(),
        attempts: 1,
        http_status: Some(400),
        body_start: None,
        died_at: clock::wall(),
        ..Dead::default()
    }
}

async fn publish(bus: &Bus, subject: &str, headers: HeaderMap, payload: &str) -> u64 {
    let message = PublishMessage::build().headers(headers).payload(payload.to_owned().into());
    bus.js().send_publish(subject.to_owned(), message).await.unwrap().await.unwrap().sequence
}

/// Messages of a stream.
async fn count(home: &Home) -> u64 {
    home.info().await.unwrap().state.messages
}

/// The messages of a stream, in order.
async fn all(inner: &Inner, home: &Home) -> Vec<StreamMessage> {
    let mut all: Vec<StreamMessage> = Vec::new();
    loop {
        let after = all.last().map(|message| message.sequence);
        let more = inner.next_of(home, ">", after, FIRST_MAX).await.unwrap();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// Asks again and again until the answer is there.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| panic!("did not happen: {what}"))
}
