//! Queue and ledger that keep a log, answer late or wrong by script, and have fault points before and
//! after each step: a panic there is one of whoever waits for the answer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tollgate_protos::{Dead, Done};

use crate::ids::{AccountKey, LaneKey, Seq};
use crate::ledger::memory::MemoryLedger;
use crate::ledger::record::{Record, Stretch, Tries};
use crate::ledger::{Ledger, LedgerFuture, Stored};
use crate::queue::memory::MemoryQueue;
use crate::queue::{
    Appended, Ending, LaneCount, LaneCursor, LanePage, Letter, NewFetch, Noted, Queue, QueueError,
    QueueFuture, Queued, Wake,
};
use crate::testkit::point;

/// What happened, in order.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A record was read.
    Loaded { account: String },
    /// A record was stored and this was confirmed.
    Confirmed { account: String, record: Record },
    /// A call began.
    Call { account: String, api: String, id: String },
}

#[derive(Debug, Default)]
struct Logged {
    events: Vec<(Instant, Event)>,
    ids: HashMap<Seq, String>,
}

/// A log; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Logged>>);

impl Log {
    pub(crate) fn push(&self, event: Event) {
        self.0.lock().unwrap().events.push((Instant::now(), event));
    }

    pub(crate) fn name(&self, seq: Seq, id: &str) {
        self.0.lock().unwrap().ids.insert(seq, id.to_owned());
    }

    pub(crate) fn events(&self) -> Vec<(Instant, Event)> {
        self.0.lock().unwrap().events.clone()
    }

    /// Records of an account that were confirmed.
    pub(crate) fn records(&self, account: &str) -> Vec<(Instant, Record)> {
        let events = self.events();
        let own = events.into_iter().filter_map(|(at, event)| match event {
            Event::Confirmed { account: of, record } if of == account => Some((at, record)),
            _ => None,
        });
        own.collect()
    }

    /// Asserts that before each call a record was confirmed that speaks of this very try: of a permit of
    /// that fetch that no earlier call used up, or of a block that it lies in: at its first call, or at the
    /// first since the record was read, as nothing else is known of it then.
    pub(crate) fn assert_recorded_before_called(&self) {
        let logged = self.0.lock().unwrap();
        let mut permits: HashMap<String, Vec<u64>> = HashMap::new();
        let mut calls: HashMap<String, usize> = HashMap::new();
        let mut open: HashMap<&str, &[Stretch]> = HashMap::new();
        // How often a record was read, and how often it had been at the last call on its block.
        let mut loads: HashMap<&str, usize> = HashMap::new();
        let mut by_block: HashMap<&str, (usize, usize)> = HashMap::new();
        let mut called: HashMap<&str, usize> = HashMap::new();
        let seqs: HashMap<&str, Seq> =
            logged.ids.iter().map(|(seq, id)| (id.as_str(), *seq)).collect();
        for (at, event) in &logged.events {
            match event {
                Event::Loaded { account } => *loads.entry(account).or_default() += 1,
                Event::Confirmed { record, account } => {
                    open.insert(account, &record.open);
                    for flying in &record.flying {
                        let id = logged.ids[&flying.seq].clone();
                        let since = by_block.get(id.as_str()).map(|(_, loads)| loads);
                        if since.is_some_and(|since| *since == loads[account.as_str()])
                            && flying.tries == Tries::default()
                        {
                            // It goes on, and says nothing of another try.
                            continue;
                        }
                        let known = permits.entry(id).or_default();
                        if !known.contains(&flying.permit) {
                            known.push(flying.permit);
                        }
                    }
                }
                Event::Call { id, account, api } => {
                    let calls = calls.entry(id.clone()).or_default();
                    *calls += 1;
                    let mut permits = permits.get(id).map_or(0, Vec::len);
                    let open = open.get(account.as_str()).copied().unwrap_or_default();
                    let holds = |stretch: &Stretch| {
                        stretch.api == *api && (stretch.from..=stretch.to).contains(&seqs[&**id])
                    };
                    let loads = loads[account.as_str()];
                    let first = called.insert(id, loads) != Some(loads);
                    let on_blocks = by_block.get(id.as_str()).map_or(0, |(calls, _)| *calls);
                    permits += on_blocks;
                    if permits < *calls && first && open.iter().any(holds) {
                        by_block.insert(id, (on_blocks + 1, loads));
                        permits += 1;
                    }
                    assert!(
                        permits >= *calls,
                        "call {calls} of {id} at {at:?}: {permits} recorded"
                    );
                }
            }
        }
    }
}

/// How one `store` goes; each part is optional.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turn {
    /// The answer comes so much later than the storing.
    pub(crate) answer_after: Duration,
    /// Nothing is stored before this has passed.
    pub(crate) store_after: Duration,
}

/// A ledger in memory under watch.
#[derive(Debug, Clone)]
pub(crate) struct WatchedLedger {
    pub(crate) inner: MemoryLedger,
    log: Log,
    turns: Arc<Mutex<VecDeque<Turn>>>,
}

impl WatchedLedger {
    pub(crate) fn new(inner: MemoryLedger, log: Log) -> Self {
        Self { inner, log, turns: Arc::default() }
    }

    /// The next calls of `store` go so, one after the other.
    pub(crate) fn next_stores(&self, turns: impl IntoIterator<Item = Turn>) {
        self.turns.lock().unwrap().extend(turns);
    }
}

impl Ledger for WatchedLedger {
    fn session(&self) -> u64 {
        self.inner.session()
    }

    fn load(&self, account: AccountKey) -> LedgerFuture<Option<Stored>> {
        let (inner, log) = (self.inner.clone(), self.log.clone());
        async move {
            let name = account.account.to_string();
            point("before load", &name);
            let answer = inner.load(account).await;
            if answer.is_ok() {
                log.push(Event::Loaded { account: name.clone() });
            }
            point("after load", &name);
            answer
        }
        .boxed()
    }

    fn doubt(&self, account: &AccountKey) {
        self.inner.doubt(account);
    }

    fn store(&self, account: AccountKey, expected: u64, record: Bytes) -> LedgerFuture<u64> {
        let (inner, log) = (self.inner.clone(), self.log.clone());
        let turn = self.turns.lock().unwrap().pop_front().unwrap_or_default();
        async move {
            let name = account.account.to_string();
            point("before store", &name);
            pause(turn.store_after).await;
            let answer = inner.store(account, expected, record.clone()).await;
            point("after store", &name);
            pause(turn.answer_after).await;
            if answer.is_ok() {
                let record = Record::decode(&record).unwrap();
                log.push(Event::Confirmed { account: name, record });
            }
            answer
        }
        .boxed()
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// A queue in memory under watch.
#[derive(Debug, Clone)]
pub(crate) struct WatchedQueue {
    inner: MemoryQueue,
    /// Answers of `first` come so much later than what they saw.
    first_after: Arc<Mutex<Duration>>,
    /// Answers of `finish` come so much later than what they did.
    finish_after: Arc<Mutex<Duration>>,
    postpones_fail: Arc<Mutex<u32>>,
    listings_fail: Arc<Mutex<u32>>,
    reads: Arc<Mutex<Vec<Vec<Seq>>>>,
    /// What was done of fetches that say `once`, by their ids.
    once: Arc<Mutex<HashMap<String, Done>>>,
    once_fails: Arc<Mutex<u32>>,
    endings: Arc<Mutex<Vec<Ending>>>,
}

impl WatchedQueue {
    pub(crate) fn new(inner: MemoryQueue) -> Self {
        Self {
            inner,
            first_after: Arc::default(),
            finish_after: Arc::default(),
            postpones_fail: Arc::default(),
            listings_fail: Arc::default(),
            reads: Arc::default(),
            once: Arc::default(),
            once_fails: Arc::default(),
            endings: Arc::default(),
        }
    }

    /// A fetch of this id that says `once` was done so, in an earlier life.
    pub(crate) fn done_once(&self, done: Done) {
        self.once.lock().unwrap().insert(done.id.clone(), done);
    }

    /// The next questions for what was done once, so many, are not answered.
    pub(crate) fn fail_once(&self, calls: u32) {
        *self.once_fails.lock().unwrap() = calls;
    }

    /// How fetches ended, in order.
    pub(crate) fn endings(&self) -> Vec<Ending> {
        self.endings.lock().unwrap().clone()
    }

    /// From now on a read answers so much later than it looked.
    pub(crate) fn delay_reads(&self, delay: Duration) {
        *self.first_after.lock().unwrap() = delay;
    }

    /// From now on an ending is confirmed so much later than it was recorded.
    pub(crate) fn delay_endings(&self, delay: Duration) {
        *self.finish_after.lock().unwrap() = delay;
    }

    /// The next calls of `postpone`, so many, change nothing and answer that the queue is away.
    pub(crate) fn fail_postpones(&self, calls: u32) {
        *self.postpones_fail.lock().unwrap() = calls;
    }

    /// Every other listing of lanes, or count of what is put aside, is not answered, so many times.
    pub(crate) fn fail_listings(&self, calls: u32) {
        *self.listings_fail.lock().unwrap() = 2 * calls;
    }

    fn list<T: Send + 'static>(&self, listing: QueueFuture<T>) -> QueueFuture<T> {
        let mut left = self.listings_fail.lock().unwrap();
        let fails = *left > 0 && left.is_multiple_of(2);
        *left = left.saturating_sub(1);
        if fails {
            let away = QueueError::Unavailable("a test asked for this".into());
            return std::future::ready(Err(away)).boxed();
        }
        listing
    }

    /// What each read answered.
    pub(crate) fn reads(&self) -> Vec<Vec<Seq>> {
        self.reads.lock().unwrap().clone()
    }
}

impl Queue for WatchedQueue {
    fn name(&self) -> Arc<str> {
        self.inner.name()
    }

    fn append(&self, fetches: Vec<NewFetch>) -> QueueFuture<Vec<Appended>> {
        self.inner.append(fetches)
    }

    fn first(&self, lane: LaneKey, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Queued>> {
        let (inner, reads) = (self.inner.clone(), self.reads.clone());
        let delay = *self.first_after.lock().unwrap();
        async move {
            let name = lane.account.account.to_string();
            point("before first", &name);
            let answer = inner.first(lane, after, max).await;
            if let Ok(rows) = &answer {
                reads.lock().unwrap().push(rows.iter().map(|row| row.seq).collect());
            }
            pause(delay).await;
            point("after first", &name);
            answer
        }
        .boxed()
    }

    fn lanes(&self, from: Option<LaneCursor>) -> QueueFuture<LanePage> {
        self.list(self.inner.lanes(from))
    }

    fn account_lanes(&self, account: AccountKey) -> QueueFuture<Vec<LaneCount>> {
        let inner = self.inner.clone();
        async move {
            let name = account.account.to_string();
            point("before account_lanes", &name);
            let answer = inner.account_lanes(account).await;
            point("after account_lanes", &name);
            answer
        }
        .boxed()
    }

    fn finish(&self, lane: LaneKey, seq: Seq, ending: Ending) -> QueueFuture<()> {
        let inner = self.inner.clone();
        let delay = *self.finish_after.lock().unwrap();
        let is_done = matches!(ending, Ending::Done { .. });
        self.endings.lock().unwrap().push(ending.clone());
        async move {
            let name = lane.account.account.to_string();
            point("before finish", &name);
            let answer = inner.finish(lane, seq, ending).await;
            pause(delay).await;
            if is_done {
                point("after finish", &name);
            }
            answer
        }
        .boxed()
    }

    fn postpone(&self, lane: LaneKey, seq: Seq, until: Timestamp) -> QueueFuture<()> {
        let inner = self.inner.clone();
        let fails = {
            let mut left = self.postpones_fail.lock().unwrap();
            let fails = *left > 0;
            *left = left.saturating_sub(1);
            fails
        };
        async move {
            let name = lane.account.account.to_string();
            point("before postpone", &name);
            if fails {
                return Err(QueueError::Unavailable("a test asked for this".into()));
            }
            let answer = inner.postpone(lane, seq, until).await;
            point("after postpone", &name);
            answer
        }
        .boxed()
    }

    fn once(&self, _lane: LaneKey, id: String) -> QueueFuture<Option<Done>> {
        let mut fails = self.once_fails.lock().unwrap();
        let answer = if *fails > 0 {
            *fails -= 1;
            Err(QueueError::Unavailable("a test asked for this".into()))
        } else {
            Ok(self.once.lock().unwrap().get(&id).cloned())
        };
        async move { answer }.boxed()
    }

    fn note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<Option<Noted>> {
        self.inner.note(lane, origin)
    }

    fn keep_note(
        &self,
        lane: LaneKey,
        origin: Seq,
        expected: u64,
        note: Bytes,
    ) -> QueueFuture<Option<u64>> {
        let inner = self.inner.clone();
        async move {
            let name = lane.account.account.to_string();
            point("before keep_note", &name);
            let answer = inner.keep_note(lane, origin, expected, note).await;
            point("after keep_note", &name);
            answer
        }
        .boxed()
    }

    fn drop_note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<()> {
        self.inner.drop_note(lane, origin)
    }

    fn postponed(&self) -> QueueFuture<u64> {
        self.list(self.inner.postponed())
    }

    fn bury(&self, key: [u8; 16], dead: Dead) -> QueueFuture<bool> {
        self.inner.bury(key, dead)
    }

    fn dead(&self, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Letter>> {
        self.inner.dead(after, max)
    }

    fn dead_count(&self) -> QueueFuture<u64> {
        self.inner.dead_count()
    }

    fn revive(&self, seq: Seq, replay: Option<NewFetch>) -> QueueFuture<bool> {
        self.inner.revive(seq, replay)
    }

    fn wakes(&self) -> mpsc::Receiver<Wake> {
        self.inner.wakes()
    }
}
