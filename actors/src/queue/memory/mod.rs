//! The queue in memory: for tests and for what need not outlive the process.
//!
//! The same promises as the others, except that nothing survives the process. Time is tokio's, so that a
//! paused clock moves what is put aside too.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tollgate_protos::Dead;

use super::{
    APPEND_MAX, Appended, DEAD_MAX, Ending, FIRST_MAX, LaneCount, LaneCursor, LanePage, Letter,
    NewFetch, Noted, Queue, QueueError, QueueFuture, Queued, Wake, check_note,
};
use crate::ids::{AccountKey, LaneKey, Seq};
use crate::state::clock;

mod content;
#[cfg(test)]
mod tests;
mod timer;

use content::Content;

/// A queue in memory. Cheap to clone; every clone is the same queue.
#[derive(Clone)]
pub struct MemoryQueue(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    content: Mutex<Content>,
    /// Something was put aside: the timer looks anew.
    changed: Arc<Notify>,
    timer: Mutex<Option<JoinHandle<()>>>,
    #[cfg(any(test, feature = "testkit"))]
    faults: Mutex<Faults>,
}

impl Drop for Shared {
    /// Lets the timer see that there is no queue any more.
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// What a test asked for.
#[cfg(any(test, feature = "testkit"))]
#[derive(Debug, Default)]
struct Faults {
    unavailable: u32,
    delay: std::time::Duration,
}

impl fmt::Debug for MemoryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryQueue").field(&self.0.name).finish()
    }
}

impl Default for MemoryQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryQueue {
    /// An empty queue whose wall clock is the system's at this moment and goes on with tokio's.
    pub fn new() -> Self {
        let (wall, instant) = clock::wall_and_instant();
        Self::anchored(wall, instant)
    }

    /// An empty queue for which it is `now`; its wall clock goes on with tokio's. For tests on a paused
    /// clock, where the caller's own idea of the time must be the queue's.
    pub fn starting(now: Timestamp) -> Self {
        Self::anchored(now, Instant::now())
    }

    /// An empty queue for which it was `wall` at `instant`.
    fn anchored(wall: Timestamp, instant: Instant) -> Self {
        Self(Arc::new(Shared {
            name: format!("memory-{:016x}", clock::random()).into(),
            content: Mutex::new(Content::new(wall, instant)),
            changed: Arc::default(),
            timer: Mutex::default(),
            #[cfg(any(test, feature = "testkit"))]
            faults: Mutex::default(),
        }))
    }

    /// Does one step under the lock, which is given up before anything is waited for.
    fn step<T: Send + 'static>(
        &self,
        step: impl FnOnce(&mut Content) -> T + Send + 'static,
    ) -> QueueFuture<T> {
        let shared = self.0.clone();
        async move {
            #[cfg(any(test, feature = "testkit"))]
            shared.next_fault()?;
            let done = {
                let mut content = lock(&shared.content);
                content.bring_back();
                step(&mut content)
            };
            timer::arm(&shared);
            #[cfg(any(test, feature = "testkit"))]
            shared.late().await;
            Ok(done)
        }
        .boxed()
    }
}

/// Knobs for tests.
#[cfg(any(test, feature = "testkit"))]
impl MemoryQueue {
    /// The next calls, so many, change nothing and answer [`QueueError::Unavailable`].
    pub fn fail_next(&self, calls: u32) {
        lock(&self.0.faults).unavailable = calls;
    }

    /// From now on each answer comes so much later than what it answers was done.
    pub fn delay(&self, delay: std::time::Duration) {
        lock(&self.0.faults).delay = delay;
    }

    /// From now on no wake is sent, or each is.
    pub fn lose_wakes(&self, lose: bool) {
        lock(&self.0.content).lose_wakes(lose);
    }
}

#[cfg(any(test, feature = "testkit"))]
impl Shared {
    fn next_fault(&self) -> Result<(), QueueError> {
        let mut faults = lock(&self.faults);
        if faults.unavailable == 0 {
            return Ok(());
        }
        faults.unavailable -= 1;
        Err(QueueError::Unavailable("a test asked for this".into()))
    }

    async fn late(&self) {
        let delay = lock(&self.faults).delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
}

impl Queue for MemoryQueue {
    fn name(&self) -> Arc<str> {
        self.0.name.clone()
    }

    fn append(&self, fetches: Vec<NewFetch>) -> QueueFuture<Vec<Appended>> {
        if fetches.len() > APPEND_MAX {
            let reason = format!("{} fetches at once, at most {APPEND_MAX}", fetches.len());
            return async move { Err(QueueError::Unavailable(reason.into())) }.boxed();
        }
        self.step(|content| content.append(fetches))
    }

    fn first(&self, lane: LaneKey, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Queued>> {
        self.step(move |content| content.first(&lane.subject(), after, max.min(FIRST_MAX)))
    }

    fn lanes(&self, from: Option<LaneCursor>) -> QueueFuture<LanePage> {
        self.step(move |content| content.lanes(from))
    }

    fn account_lanes(&self, account: AccountKey) -> QueueFuture<Vec<LaneCount>> {
        self.step(move |content| content.account_lanes(&(account.subject() + ".")))
    }

    fn finish(&self, lane: LaneKey, seq: Seq, ending: Ending) -> QueueFuture<()> {
        self.step(move |content| content.finish(&lane, seq, ending))
    }

    fn note(&self, _lane: LaneKey, origin: Seq) -> QueueFuture<Option<Noted>> {
        self.step(move |content| content.note(origin))
    }

    fn keep_note(
        &self,
        _lane: LaneKey,
        origin: Seq,
        expected: u64,
        note: Bytes,
    ) -> QueueFuture<Option<u64>> {
        if let Err(error) = check_note(&note) {
            return std::future::ready(Err(error)).boxed();
        }
        self.step(move |content| content.keep_note(origin, expected, note))
    }

    fn drop_note(&self, _lane: LaneKey, origin: Seq) -> QueueFuture<()> {
        self.step(move |content| content.drop_note(origin))
    }

    fn postpone(&self, lane: LaneKey, seq: Seq, until: Timestamp) -> QueueFuture<()> {
        self.step(move |content| content.postpone(&lane, seq, until))
    }

    fn postponed(&self) -> QueueFuture<u64> {
        self.step(|content| content.aside.len() as u64)
    }

    fn bury(&self, key: [u8; 16], dead: Dead) -> QueueFuture<bool> {
        self.step(move |content| content.bury(key, dead))
    }

    fn dead(&self, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Letter>> {
        self.step(move |content| content.dead(after, max.min(DEAD_MAX)))
    }

    fn dead_count(&self) -> QueueFuture<u64> {
        self.step(|content| content.dead(None, usize::MAX).len() as u64)
    }

    fn revive(&self, seq: Seq, replay: Option<NewFetch>) -> QueueFuture<bool> {
        self.step(move |content| content.revive(seq, replay))
    }

    fn wakes(&self) -> mpsc::Receiver<Wake> {
        lock(&self.0.content).open_wakes()
    }
}

/// A panic under these locks can only be one of a test; what they guard is whole between two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rows of a lane, in order.
type Rows = BTreeMap<Seq, Row>;
/// Platform, account and api as text, and the id.
type IdKey = (String, String);

/// A fetch that waits or is aside.
#[derive(Debug, Clone)]
struct Row {
    id: IdKey,
    queued: Queued,
}

/// The states of all ids.
type Ids = HashMap<IdKey, Appended>;
