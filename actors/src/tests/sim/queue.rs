//! The queue as a node has it: one in memory behind a network, whose wakes may be late, lost, or come twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tollgate_protos::{Dead, Done};

use super::Trace;
use super::host::Life;
use super::net::Net;
use crate::cluster::{Owned, part_of};
use crate::ids::{AccountKey, LaneKey, Seq};
use crate::queue::memory::MemoryQueue;
use crate::queue::{
    Appended, Ending, LaneCount, LaneCursor, LanePage, Letter, NewFetch, Noted, Queue, QueueError,
    QueueFuture, Queued, WAKES_MAX, Wake,
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How one fetch ended, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) session: u64,
    /// Nothing: it is done.
    pub(super) code: Option<String>,
}

/// Whose wakes go where, and which partitions it hears.
type Ear = (Arc<Life>, Owned, mpsc::Sender<Wake>);

/// What all nodes share of the queue beside what is in it.
#[derive(Debug, Default)]
pub(super) struct Hub {
    ears: Mutex<Vec<Ear>>,
    pub(super) ended: Mutex<BTreeMap<String, Vec<Ended>>>,
}

impl Hub {
    /// Passes the queue's wakes on to those who hear the partition.
    pub(super) async fn run(self: Arc<Self>, queue: MemoryQueue, mut random: fastrand::Rng) {
        let mut wakes = queue.wakes();
        while let Some(wake) = wakes.recv().await {
            for (life, owned, ear) in self.ears.lock().unwrap().iter() {
                if life.is_dead() || !owned.is_ours(part_of(&wake.lane.account)) {
                    continue;
                }
                let times = [1, 1, 1, 1, 1, 1, 1, 1, 0, 2][random.usize(0..10)];
                for _ in 0..times {
                    let late = Duration::from_millis(random.u64(0..40));
                    let (life, ear, wake) = (Arc::clone(life), ear.clone(), wake.clone());
                    tokio::spawn(async move {
                        sleep(late).await;
                        if !life.is_cut_off() {
                            // Full: it is lost.
                            drop(ear.try_send(wake));
                        }
                    });
                }
            }
        }
    }
}

/// The queue as one node's process has it.
#[derive(Debug, Clone)]
pub(super) struct SimQueue {
    pub(super) life: Arc<Life>,
    pub(super) net: Arc<Net>,
    pub(super) inner: MemoryQueue,
    pub(super) hub: Arc<Hub>,
    pub(super) owned: Owned,
    pub(super) trace: Arc<Trace>,
}

impl SimQueue {
    fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&MemoryQueue) -> QueueFuture<T> + Send + 'static,
    ) -> QueueFuture<T> {
        let (this, inner) = (self.clone(), self.inner.clone());
        async move {
            let answer = this.net.ask(&this.life, PATIENCE, move || work(&inner)).await;
            let lost = || Err(QueueError::Unavailable("the simulation lost the answer".into()));
            answer.unwrap_or_else(lost)
        }
        .boxed()
    }
}

impl Queue for SimQueue {
    fn name(&self) -> Arc<str> {
        self.inner.name()
    }

    fn append(&self, fetches: Vec<NewFetch>) -> QueueFuture<Vec<Appended>> {
        self.ask(move |queue| queue.append(fetches.clone()))
    }

    fn first(&self, lane: LaneKey, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Queued>> {
        self.ask(move |queue| queue.first(lane.clone(), after, max))
    }

    fn lanes(&self, from: Option<LaneCursor>) -> QueueFuture<LanePage> {
        self.ask(move |queue| queue.lanes(from.clone()))
    }

    fn account_lanes(&self, account: AccountKey) -> QueueFuture<Vec<LaneCount>> {
        self.ask(move |queue| queue.account_lanes(account.clone()))
    }

    fn finish(&self, lane: LaneKey, seq: Seq, ending: Ending) -> QueueFuture<()> {
        let (hub, trace, session) =
            (Arc::clone(&self.hub), Arc::clone(&self.trace), self.life.session);
        self.ask(move |queue| {
            let (id, code) = match &ending {
                Ending::Done { done, .. } => (done.id.clone(), None),
                Ending::Dead(dead) => {
                    let id = dead.fetch.as_ref().and_then(|fetch| fetch.id.clone());
                    (id.unwrap_or_default(), Some(dead.code.clone()))
                }
            };
            trace.note(|| format!("{id} ended by {session}: {code:?}"));
            hub.ended.lock().unwrap().entry(id).or_default().push(Ended { session, code });
            queue.finish(lane.clone(), seq, ending.clone())
        })
    }

    fn once(&self, lane: LaneKey, id: String) -> QueueFuture<Option<Done>> {
        self.ask(move |queue| queue.once(lane.clone(), id.clone()))
    }

    fn note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<Option<Noted>> {
        self.ask(move |queue| queue.note(lane.clone(), origin))
    }

    fn keep_note(
        &self,
        lane: LaneKey,
        origin: Seq,
        expected: u64,
        note: Bytes,
    ) -> QueueFuture<Option<u64>> {
        self.ask(move |queue| queue.keep_note(lane.clone(), origin, expected, note.clone()))
    }

    fn drop_note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<()> {
        self.ask(move |queue| queue.drop_note(lane.clone(), origin))
    }

    fn postpone(&self, lane: LaneKey, seq: Seq, until: Timestamp) -> QueueFuture<()> {
        self.ask(move |queue| queue.postpone(lane.clone(), seq, until))
    }

    fn dead_count(&self) -> QueueFuture<u64> {
        self.ask(MemoryQueue::dead_count)
    }

    fn postponed(&self) -> QueueFuture<u64> {
        self.ask(MemoryQueue::postponed)
    }

    fn bury(&self, key: [u8; 16], dead: Dead) -> QueueFuture<bool> {
        self.ask(move |queue| queue.bury(key, dead.clone()))
    }

    fn dead(&self, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Letter>> {
        self.ask(move |queue| queue.dead(after, max))
    }

    fn revive(&self, seq: Seq, replay: Option<NewFetch>) -> QueueFuture<bool> {
        self.ask(move |queue| queue.revive(seq, replay.clone()))
    }

    fn wakes(&self) -> mpsc::Receiver<Wake> {
        let (ear, wakes) = mpsc::channel(WAKES_MAX);
        let mut ears = self.hub.ears.lock().unwrap();
        ears.retain(|(life, _, _)| !life.is_dead());
        ears.push((Arc::clone(&self.life), self.owned.clone(), ear));
        wakes
    }
}
