#![expect(clippy::disallowed_methods, reason = "the wall clock is what postponed fetches wait for")]

use bytes::Bytes;
use jiff::SignedDuration;
use tempfile::TempDir;
use tollgate_protos::{Done, Priority};

use super::*;
use crate::ids::{Account, Slug};
use crate::queue::conformance::{PATIENCE, queue_conformance};
use crate::state::Options;

mod bounds;
mod kill;
mod reopen;

queue_conformance!({
    let folder = TempDir::new().expect("a folder");
    (EmbeddedQueue::new(&open(&folder)), folder)
});

fn open(folder: &TempDir) -> State {
    State::open(folder.path(), Options::default()).expect("it opens")
}

fn lane(account: &str) -> LaneKey {
    let name = Slug::new("meta").expect("a good name");
    let account = Account::new(account).expect("a good name");
    let account = AccountKey { platform: name.clone(), account };
    LaneKey { account, api: name, priority: Priority::Normal }
}

fn fetch(lane: &LaneKey, id: &str) -> NewFetch {
    NewFetch {
        lane: lane.clone(),
        id: id.into(),
        payload: Bytes::from(id.to_owned()),
        not_before: None,
    }
}

async fn append(queue: &EmbeddedQueue, lane: &LaneKey, ids: std::ops::Range<u64>) -> Vec<Seq> {
    let fetches = ids.map(|id| fetch(lane, &id.to_string())).collect();
    let appended = queue.append(fetches).await.expect("it answers");
    appended.into_iter().map(seq_of).collect()
}

fn seq_of(appended: Appended) -> Seq {
    match appended {
        Appended::New(seq) | Appended::Waiting(seq) | Appended::Done(seq) | Appended::Dead(seq) => {
            seq
        }
    }
}

async fn first(queue: &EmbeddedQueue, lane: &LaneKey) -> Vec<Seq> {
    let found = queue.first(lane.clone(), None, FIRST_MAX).await.expect("it answers");
    found.iter().map(|queued| queued.seq).collect()
}

fn done(seq: Seq) -> Ending {
    let done = Done {
        id: String::new(),
        seq: seq.0,
        objects: Vec::new(),
        http_status: 200,
        attempts: 1,
        pages: 1,
        waited_ms: 0,
        fetched_at: Timestamp::UNIX_EPOCH,
        labels: std::collections::BTreeMap::new(),
        ..Done::default()
    };
    Ending::Done { done: Box::new(done), once: false }
}

fn letter(reason: &str) -> Dead {
    Dead {
        seq: 0,
        fetch: None,
        raw: Some("{".into()),
        source: Some("a.jsonl:1".into()),
        code: "TG0101".into(),
        reason: reason.into(),
        attempts: 0,
        http_status: None,
        body_start: None,
        died_at: Timestamp::UNIX_EPOCH,
        ..Dead::default()
    }
}
