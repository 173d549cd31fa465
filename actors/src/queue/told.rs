//! A queue that tells of what is done in it, beside another that does the work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tollgate_protos::{Dead, Done};

use super::{
    Appended, Ending, LaneCount, LaneCursor, LanePage, Letter, NewFetch, Noted, Queue, QueueFuture,
    Queued, Wake,
};
use crate::ids::{AccountKey, LaneKey, Seq, Slug};

/// Hears of a fetch whose objects and manifest are there. It may hear of one twice, and of one that the queue then does
/// not confirm; it is called by the actor that ends the fetch, so it has to be quick.
pub type Hear = Arc<dyn Fn(&Done) + Send + Sync>;

/// A queue, and somebody who hears of what is done.
#[derive(Clone)]
pub struct Told {
    queue: Arc<dyn Queue>,
    hear: Hear,
}

impl Told {
    /// The same queue; from now on `hear` hears.
    pub fn new(queue: Arc<dyn Queue>, hear: Hear) -> Self {
        Self { queue, hear }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.queue.fmt(f)
    }
}

impl Queue for Told {
    fn name(&self) -> Arc<str> {
        self.queue.name()
    }

    fn append(&self, fetches: Vec<NewFetch>) -> QueueFuture<Vec<Appended>> {
        self.queue.append(fetches)
    }

    fn first(&self, lane: LaneKey, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Queued>> {
        self.queue.first(lane, after, max)
    }

    fn lanes(&self, from: Option<LaneCursor>) -> QueueFuture<LanePage> {
        self.queue.lanes(from)
    }

    fn account_lanes(&self, account: AccountKey) -> QueueFuture<Vec<LaneCount>> {
        self.queue.account_lanes(account)
    }

    fn finish(&self, lane: LaneKey, seq: Seq, ending: Ending) -> QueueFuture<()> {
        if let Ending::Done { done, .. } = &ending {
            (self.hear)(done);
        }
        self.queue.finish(lane, seq, ending)
    }

    fn once(&self, lane: LaneKey, id: String) -> QueueFuture<Option<Done>> {
        self.queue.once(lane, id)
    }

    fn note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<Option<Noted>> {
        self.queue.note(lane, origin)
    }

    fn keep_note(
        &self,
        lane: LaneKey,
        origin: Seq,
        expected: u64,
        note: Bytes,
    ) -> QueueFuture<Option<u64>> {
        self.queue.keep_note(lane, origin, expected, note)
    }

    fn drop_note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<()> {
        self.queue.drop_note(lane, origin)
    }

    fn postpone(&self, lane: LaneKey, seq: Seq, until: Timestamp) -> QueueFuture<()> {
        self.queue.postpone(lane, seq, until)
    }

    fn postponed(&self) -> QueueFuture<u64> {
        self.queue.postponed()
    }

    fn bury(&self, key: [u8; 16], dead: Dead) -> QueueFuture<bool> {
        self.queue.bury(key, dead)
    }

    fn dead(&self, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Letter>> {
        self.queue.dead(after, max)
    }

    fn dead_counts(&self, platforms: Vec<Slug>) -> QueueFuture<Option<BTreeMap<Slug, u64>>> {
        self.queue.dead_counts(platforms)
    }

    fn dead_count(&self) -> QueueFuture<u64> {
        self.queue.dead_count()
    }

    fn revive(&self, number: Seq, replay: Option<NewFetch>) -> QueueFuture<bool> {
        self.queue.revive(number, replay)
    }

    fn wakes(&self) -> tokio::sync::mpsc::Receiver<Wake> {
        self.queue.wakes()
    }
}
