//! Where fetches wait: a seam with one conformance suite and several backs.
//!
//! A queue keeps every fetch that was stored until it is finished. Nothing is handed out, so nothing
//! comes back by a timer: `first` only reads, and the fetch stays where it is until `finish` removes it
//! in the same step that records how it ended. Reading twice is harmless; the owner of an account knows
//! which of its fetches are running.
//!
//! A queue knows nothing of actors, limits or HTTP. Its promises, each checked by `conformance`:
//! - a fetch whose `append` was confirmed is returned by `first` until it is finished, postponed or dropped;
//! - within a lane, `first` goes in the order of `seq`;
//! - an id that is known is not stored a second time by `append`: for ever in a state folder, within the
//!   duplicate window of its stream on NATS;
//! - `finish` of an absent fetch is not an error: it was finished before;
//! - after a wake was lost, `lanes` still tells of the work;
//! - a fetch's note is replaced by version only, and stays until it is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_protos::{Dead, Done};

use crate::ids::{AccountKey, LaneKey, Seq, Slug};

pub mod embedded;
pub mod memory;
pub mod nats;
pub mod told;

#[cfg(any(test, feature = "testkit"))]
pub mod conformance;

/// Most fetches that one `first` returns.
pub const FIRST_MAX: usize = 64;
/// Bytes of fetches from which one `first` returns no more than it must: one.
pub const FIRST_BYTES_MAX: usize = 1024 * 1024;
/// Most lanes that one `lanes` of a queue in a folder or in memory returns; on NATS a page is a partition.
pub const LANES_MAX: usize = 4096;
/// Most fetches that one `append` takes.
pub const APPEND_MAX: usize = 4096;
/// Most dead letters that one `dead` returns.
pub const DEAD_MAX: usize = 4096;
/// Most dead letters of a folder that are counted.
pub const DEAD_COUNTED_MAX: u64 = 100_000;
/// Largest note of a fetch, in bytes. Most have a few hundred.
pub const NOTE_BYTES_MAX: usize = 48 * 1024;
/// Most wakes that wait for their receiver.
pub const WAKES_MAX: usize = 4096;

/// A fetch to be stored.
#[derive(Debug, Clone)]
pub struct NewFetch {
    /// Where it belongs.
    pub lane: LaneKey,
    /// Its id within platform, account and api.
    pub id: String,
    /// The fetch as JSON, id included; at most 256 KiB.
    pub payload: Bytes,
    /// Not returned by `first` before this moment, where the queue looks at it: on NATS whoever reads it puts
    /// it aside.
    pub not_before: Option<Timestamp>,
}

/// What `append` did with a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Stored under this number.
    New(Seq),
    /// Its id waits already, under this number.
    Waiting(Seq),
    /// Its id was finished before: stored objects.
    Done(Seq),
    /// Its id was given up before.
    Dead(Seq),
}

/// A waiting fetch.
#[derive(Debug, Clone)]
pub struct Queued {
    /// Its place: what cursors, records and `finish` name.
    pub seq: Seq,
    /// The number of its first storing: what its objects, events and letters name. Another than `seq` after
    /// a move only.
    pub origin: Seq,
    /// When it was first stored.
    pub queued_at: Timestamp,
    /// The fetch, as JSON where nothing else is said.
    pub payload: Bytes,
    /// What its publisher says that the payload is, if anything.
    pub content_type: Option<Arc<str>>,
    /// Whose span ordered it, as the header `traceparent` has it.
    pub traceparent: Option<Arc<str>>,
}

/// How far an unfinished fetch has come, as its collector wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Which writing of it this is; not 0.
    pub version: u64,
    /// The note.
    pub bytes: Bytes,
}

/// How many fetches wait in a lane.
#[derive(Debug, Clone)]
pub struct LaneCount {
    /// Which lane.
    pub lane: LaneKey,
    /// How many wait; postponed ones do not count.
    pub waiting: u64,
}

/// Where a listing of lanes goes on; only the queue that made it can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneCursor(pub(crate) String);

/// A part of all lanes.
#[derive(Debug, Clone, Default)]
pub struct LanePage {
    /// Some of them; may be none though more follow.
    pub lanes: Vec<LaneCount>,
    /// Where it goes on; none after the last.
    pub next: Option<LaneCursor>,
}

/// A dead letter in the list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// Its place in the list: what `show`, `replay` and `drop` name.
    pub number: Seq,
    /// The letter; its `seq` is the number of the fetch's first storing.
    #[serde(flatten)]
    pub dead: Dead,
}

/// Work has come into a lane. May be lost, may come twice.
#[derive(Debug, Clone)]
pub struct Wake {
    /// Which lane.
    pub lane: LaneKey,
    /// How many fetches came, or wait there in all.
    pub count: u64,
    /// Whether `count` is of all that wait there.
    pub all: bool,
}

/// How a fetch ends.
#[derive(Debug, Clone)]
pub enum Ending {
    /// Its objects are durable.
    Done {
        /// What to tell of it; its `seq` is the fetch's origin.
        done: Box<Done>,
        /// Whether the fetch says `once`: [`Queue::once`] answers this from now on.
        once: bool,
    },
    /// Given up; its `seq` is the fetch's origin.
    Dead(Box<Dead>),
}

/// What went wrong in a queue.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The store behind it does not answer or is full; try again: a repeat changes nothing twice.
    #[error("the queue does not answer: {0}")]
    Unavailable(Arc<str>),
    /// What it holds cannot be read.
    #[error("the queue holds what cannot be read: {0}")]
    Corrupt(Arc<str>),
}

impl QueueError {
    /// Whether the same may work in a moment: what has a code of its own is no matter of time.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unavailable(why) if !why.starts_with("TG"))
    }
}

/// The result of a queue's calls: owned, so that an actor can wait for it.
pub type QueueFuture<T> = BoxFuture<'static, Result<T, QueueError>>;

/// A place where fetches wait. See the module for what it promises.
pub trait Queue: Send + Sync + fmt::Debug + 'static {
    /// A name for this queue that a second one does not have: `seq` counts within it.
    fn name(&self) -> Arc<str>;

    /// Stores fetches, durable before it answers. At most [`APPEND_MAX`] at a time. The answers are in
    /// the order of the fetches. Wakes follow for what is new and due.
    fn append(&self, fetches: Vec<NewFetch>) -> QueueFuture<Vec<Appended>>;

    /// The first fetches of a lane behind `after`, in order, at most `max` (and [`FIRST_MAX`]); fewer where
    /// they are large, none only where there is none.
    fn first(&self, lane: LaneKey, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Queued>>;

    /// Lanes that have waiting fetches, from the beginning or from where an earlier page ended. Each lane
    /// that has some all the while is on one page.
    fn lanes(&self, from: Option<LaneCursor>) -> QueueFuture<LanePage>;

    /// The lanes of one account that have waiting fetches.
    fn account_lanes(&self, account: AccountKey) -> QueueFuture<Vec<LaneCount>>;

    /// Records how a fetch ended and removes it, in one step, or in steps that may be repeated. Finishing
    /// what is not there is no error.
    fn finish(&self, lane: LaneKey, seq: Seq, ending: Ending) -> QueueFuture<()>;

    /// How a fetch of this id that said `once` was done, as far as `append` does not know by itself. Asked
    /// for fetches that say `once` only.
    fn once(&self, _lane: LaneKey, _id: String) -> QueueFuture<Option<Done>> {
        std::future::ready(Ok(None)).boxed()
    }

    /// The note of a fetch, by the number of its first storing.
    fn note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<Option<Noted>>;

    /// Replaces that note, if it is the one of this version; 0: if there is none. Durable before it answers: its
    /// new version, or nothing if it is another one by now. At most [`NOTE_BYTES_MAX`].
    ///
    /// After [`QueueError::Unavailable`] it is not known whether it was replaced.
    fn keep_note(
        &self,
        lane: LaneKey,
        origin: Seq,
        expected: u64,
        note: Bytes,
    ) -> QueueFuture<Option<u64>>;

    /// Forgets that note; none is no error.
    fn drop_note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<()>;

    /// Puts a waiting fetch aside until `until`; then it is back in its lane, under its origin, and a wake
    /// follows. Postponing what is not there is no error.
    fn postpone(&self, lane: LaneKey, seq: Seq, until: Timestamp) -> QueueFuture<()>;

    /// How many fetches are put aside.
    fn postponed(&self) -> QueueFuture<u64>;

    /// Records a dead letter for something that never was a fetch. `key` tells repeats of the same
    /// input apart from new ones: a known key is not recorded again and answers false.
    fn bury(&self, key: [u8; 16], dead: Dead) -> QueueFuture<bool>;

    /// Dead letters behind `after` in order of their numbers, at most `max` (and [`DEAD_MAX`]).
    fn dead(&self, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Letter>>;

    /// How many dead letters of each of these platforms there are, if that can be had without reading them all.
    fn dead_counts(&self, _platforms: Vec<Slug>) -> QueueFuture<Option<BTreeMap<Slug, u64>>> {
        std::future::ready(Ok(None)).boxed()
    }

    /// How many dead letters there are; of those in a folder at most [`DEAD_COUNTED_MAX`] are counted.
    fn dead_count(&self) -> QueueFuture<u64>;

    /// Takes a dead letter out of the list: `replay` stores its fetch anew, under a new number; else
    /// it is forgotten (its id stays known as dead: the same input does not come back by itself). An id
    /// that is known to wait already is not stored a second time. False where there is none of that number.
    fn revive(&self, number: Seq, replay: Option<NewFetch>) -> QueueFuture<bool>;

    /// Wakes from now on. At most one receiver; a later call ends the earlier one's.
    fn wakes(&self) -> tokio::sync::mpsc::Receiver<Wake>;
}

/// Refuses a note that is too large.
fn check_note(note: &Bytes) -> Result<(), QueueError> {
    if note.len() <= NOTE_BYTES_MAX {
        return Ok(());
    }
    let reason = format!("a note of {} bytes, at most {NOTE_BYTES_MAX} are kept", note.len());
    Err(QueueError::Unavailable(reason.into()))
}

/// Where a page of lanes in the order of their subjects goes on; a page that is not full is the last.
fn next_page(lanes: &[LaneCount]) -> Option<LaneCursor> {
    let last = lanes.last().filter(|_| lanes.len() == LANES_MAX);
    last.map(|count| LaneCursor(count.lane.subject()))
}
