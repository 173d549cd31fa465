//! The wiring of one node: shards on their threads, the seams between them, and what looks after all of it.
//!
//! The only file that sees both the actors and the backs of the seams. A node promises: what is in its queue
//! when it starts, and what comes later, is collected, until it is drained.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Addr;
use actix_rt::{Arbiter, ArbiterHandle};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::http::wire::Wire;
use crate::ids::{AccountKey, LaneKey, Seq};
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::queue::{Appended, LANES_MAX, LaneCount, NewFetch, Queue, QueueError};
use crate::shard::context::{Shared, StoreHealth};
use crate::shard::{AccountLook, Drain, Drained, Found, Look, LookAgain, Looks, Shard, Work};
use crate::store::Store;
use crate::telemetry::{self, Totals};

/// Lanes told to a shard in one message.
const FOUND_MAX: usize = 1024;
/// Between two discoveries of what waits, for wakes that were lost.
const DISCOVERY_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at the node's own health.
const HEALTH_EVERY: Duration = Duration::from_secs(1);
/// A step of the wall clock worth a word.
const CLOCK_STEP_MS: i64 = 2000;
/// Waits between two tries of a store that takes no bodies: the first and the longest.
const PROBE_FIRST: Duration = Duration::from_millis(500);
const PROBE_MAX: Duration = Duration::from_secs(15);
/// What a shard may take for an answer before it counts as dead.
const SHARD_PATIENCE: Duration = Duration::from_secs(5);

/// The backs a node stands on.
#[derive(Debug, Clone)]
pub struct Seams {
    /// Where fetches wait.
    pub queue: Arc<dyn Queue>,
    /// Where permits are written down.
    pub ledger: Arc<dyn Ledger>,
    /// Where bodies go.
    pub store: Store,
}

/// Why a node does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The HTTP client could not be built.
    #[error("the HTTP client could not be built: {0}")]
    Client(String),
    /// The queue could not be read.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A shard is gone; what it had is in queue and ledger, for the next start.
    #[error("shard {0} died; nothing is lost, start again")]
    ShardDied(usize),
}

/// A node at work.
#[derive(Debug)]
pub struct Node {
    shards: Arc<[Addr<Shard>]>,
    arbiters: Vec<Arbiter>,
    shared: Shared,
    /// Fetches of apis that the configuration does not have.
    unknown: Arc<AtomicU64>,
    died: Arc<Died>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Died {
    /// Which shard, plus one; zero: none.
    shard: AtomicU64,
    told: Notify,
}

impl Node {
    /// Starts shards and finds what waits. The TLS provider must be installed.
    ///
    /// # Errors
    /// The HTTP client cannot be built, or the queue cannot be read.
    pub async fn start(plan: Arc<Plan>, seams: Seams, clock: Clock) -> Result<Self, NodeError> {
        let totals = Arc::new(Totals::default());
        let slots = Arc::new(Semaphore::new(plan.collect.concurrency));
        let shared = Shared {
            clock,
            queue: seams.queue,
            ledger: seams.ledger,
            store: seams.store,
            totals,
            slots,
            alone: Arc::new(Semaphore::new(1)),
            store_health: Arc::new(StoreHealth::default()),
            plan,
        };
        let plan = &shared.plan;
        telemetry::node_started(
            &plan.node_name,
            plan.collect.shards,
            plan.platforms.len(),
            &plan.hash,
        );
        let mut shards = Vec::new();
        let mut arbiters = Vec::new();
        for number in 0..plan.collect.shards {
            let arbiter = Arbiter::new();
            shards.push(start_shard(&arbiter.handle(), number, shared.clone()).await?);
            arbiters.push(arbiter);
        }
        let mut node = Self {
            shards: shards.into(),
            arbiters,
            unknown: Arc::default(),
            died: Arc::default(),
            tasks: Vec::new(),
            shared,
        };
        node.begin().await?;
        Ok(node)
    }

    async fn begin(&mut self) -> Result<(), NodeError> {
        // Wakes first: what comes while the discovery runs is then told twice rather than never.
        let mut wakes = self.shared.queue.wakes();
        let post = self.post();
        let postponed = self.shared.queue.postponed().await?;
        self.shared.totals.come(postponed);
        post.discover(true).await?;
        let pump = self.post();
        self.tasks.push(actix_rt::spawn(async move {
            while let Some(wake) = wakes.recv().await {
                let mut found = vec![Found { lane: wake.lane, count: wake.count, all: wake.all }];
                while found.len() < FOUND_MAX
                    && let Ok(wake) = wakes.try_recv()
                {
                    found.push(Found { lane: wake.lane, count: wake.count, all: wake.all });
                }
                pump.send(found).await;
            }
        }));
        let again = self.post();
        self.tasks.push(actix_rt::spawn(async move {
            loop {
                tokio::time::sleep(DISCOVERY_EVERY).await;
                // A queue that does not answer is asked again next time; its users say so meanwhile.
                let _found = again.discover(false).await;
            }
        }));
        self.tasks.push(actix_rt::spawn(probe_store(self.shared.clone(), self.shards.clone())));
        let clock = self.shared.clock.clone();
        self.tasks.push(actix_rt::spawn(watch(self.shards.clone(), clock, self.died.clone())));
        Ok(())
    }

    fn post(&self) -> Post {
        Post {
            shards: self.shards.clone(),
            shared: self.shared.clone(),
            unknown: self.unknown.clone(),
            warned: Arc::default(),
        }
    }

    /// What this node has done so far.
    pub fn totals(&self) -> Arc<Totals> {
        self.shared.totals.clone()
    }

    /// A way to put fetches in, for use on any thread.
    pub fn intake(&self) -> Intake {
        Intake { queue: self.shared.queue.clone(), totals: self.shared.totals.clone() }
    }

    /// A way to look at the accounts, for use on any thread.
    pub fn viewer(&self) -> Viewer {
        Viewer { shards: self.shards.clone() }
    }

    /// Fetches that wait for an api this configuration does not have.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Acquire)
    }

    /// Counts anew what the queue holds, and answers that: the running count may be off by what moved
    /// while the node started.
    ///
    /// # Errors
    /// The queue does not answer; nothing was changed.
    pub async fn recount(&self) -> Result<u64, QueueError> {
        let queue = &self.shared.queue;
        // What falls due between the two is then counted twice rather than never.
        let mut waiting = queue.postponed().await?;
        let mut after = None;
        loop {
            let lanes = queue.lanes(after.take()).await?;
            waiting += lanes.iter().map(|lane| lane.waiting).sum::<u64>();
            if lanes.len() < LANES_MAX {
                break;
            }
            after = lanes.into_iter().next_back().map(|count| count.lane);
        }
        self.shared.totals.recounted(waiting);
        Ok(waiting)
    }

    /// Waits until a shard dies. The node is of no use then.
    pub async fn died(&self) -> NodeError {
        loop {
            let told = self.died.told.notified();
            let shard = self.died.shard.load(Ordering::Acquire);
            if shard > 0 {
                return NodeError::ShardDied(usize::try_from(shard - 1).unwrap_or(usize::MAX));
            }
            told.await;
        }
    }

    /// Gives no more permits, lets calls in flight go on for `within`, writes the last records, ends the
    /// shards. Answers how many calls had to be broken off.
    pub async fn drain(mut self, within: Duration) -> usize {
        let started = Instant::now();
        telemetry::drain_started(within);
        let drains: Vec<_> = self.shards.iter().map(|shard| shard.send(Drain { within })).collect();
        let mut broken_off = 0;
        for drain in drains {
            // A shard that is dead has nothing to drain.
            let Drained { broken_off: more } = drain.await.unwrap_or_default();
            broken_off += more;
        }
        for task in self.tasks.drain(..) {
            task.abort();
        }
        for arbiter in self.arbiters.drain(..) {
            arbiter.stop();
            // It ends at its next turn; what it still ran is dropped with it.
            let _joined = actix_rt::task::spawn_blocking(move || arbiter.join()).await;
        }
        telemetry::drained(broken_off, self.shared.totals.outstanding(), started.elapsed());
        broken_off
    }
}

/// Puts fetches in.
#[derive(Debug, Clone)]
pub struct Intake {
    queue: Arc<dyn Queue>,
    totals: Arc<Totals>,
}

impl Intake {
    /// The queue itself.
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    /// Stores fetches; they are collected from then on.
    ///
    /// # Errors
    /// The queue does not answer; nothing of this batch was stored.
    pub async fn append(&self, fetches: Vec<NewFetch>) -> Result<Vec<Appended>, QueueError> {
        let count = fetches.len() as u64;
        // Counted before they are stored: one may be done before the answer is here.
        self.totals.come(count);
        let answer = self.queue.append(fetches).await;
        let mut new = 0;
        for one in answer.iter().flatten() {
            if let Appended::New(seq) = one {
                new += 1;
                self.totals.came_new(*seq);
            }
        }
        self.totals.never_came(count - new);
        answer
    }

    /// Whether a fetch that has ended did so in this process, and is among its totals already.
    pub(crate) fn ended_here(&self, seq: Seq) -> bool {
        self.totals.ended_here(seq)
    }

    /// An intake without a node, for a folder nobody works on.
    pub fn alone(queue: Arc<dyn Queue>) -> Self {
        Self { queue, totals: Arc::default() }
    }

    /// Takes a dead letter out of the list; with a fetch, that is collected again.
    ///
    /// # Errors
    /// The queue does not answer; nothing was changed.
    pub async fn revive(&self, seq: Seq, fetch: Option<NewFetch>) -> Result<bool, QueueError> {
        let count = u64::from(fetch.is_some());
        self.totals.come(count);
        let answer = self.queue.revive(seq, fetch).await;
        if !matches!(answer, Ok(true)) {
            self.totals.never_came(count);
        }
        answer
    }
}

/// Looks at the accounts.
#[derive(Debug, Clone)]
pub struct Viewer {
    shards: Arc<[Addr<Shard>]>,
}

impl Viewer {
    /// The accounts of a platform, or one account, or all; at most `most` one by one, those with the
    /// most waiting first.
    pub async fn look(
        &self,
        platform: Option<String>,
        account: Option<String>,
        most: usize,
    ) -> Looks {
        let mut all = Looks::default();
        for shard in self.shards.iter() {
            let look = Look { platform: platform.clone(), account: account.clone(), most };
            let asked = tokio::time::timeout(SHARD_PATIENCE, shard.send(look)).await;
            let Ok(Ok(looks)) = asked else { continue };
            all.accounts.extend(looks.accounts);
            all.waiting += looks.waiting;
            all.in_flight += looks.in_flight;
            all.known += looks.known;
            all.live += looks.live;
        }
        let by_waiting = |look: &AccountLook| std::cmp::Reverse(look.waiting);
        all.accounts.sort_by_key(by_waiting);
        all.accounts.truncate(most);
        all
    }
}

/// Tells shards of work.
#[derive(Debug, Clone)]
struct Post {
    shards: Arc<[Addr<Shard>]>,
    shared: Shared,
    unknown: Arc<AtomicU64>,
    warned: Arc<std::sync::Mutex<HashSet<LaneKey>>>,
}

/// Lanes of unknown apis that are warned of one by one.
const WARNED_MAX: usize = 100;

impl Post {
    /// Tells the shards of everything that waits; the first time it is counted too.
    async fn discover(&self, first: bool) -> Result<(), QueueError> {
        let mut after: Option<LaneKey> = None;
        let mut unknown = 0;
        loop {
            let lanes = self.shared.queue.lanes(after.take()).await?;
            let last_page = lanes.len() < LANES_MAX;
            after = lanes.last().map(|count| count.lane.clone());
            let mut found = Vec::with_capacity(FOUND_MAX);
            for LaneCount { lane, waiting: count } in lanes {
                if !self.knows(&lane) {
                    unknown += count;
                    if first {
                        self.shared.totals.come(count);
                    }
                    self.warn(&lane, count);
                    continue;
                }
                if first {
                    // Before anybody is told: one may be done before this page is.
                    self.shared.totals.come(count);
                }
                found.push(Found { lane, count, all: true });
                if found.len() == FOUND_MAX {
                    self.send(std::mem::take(&mut found)).await;
                }
            }
            self.send(found).await;
            if last_page {
                self.unknown.store(unknown, Ordering::Release);
                return Ok(());
            }
        }
    }

    fn knows(&self, lane: &LaneKey) -> bool {
        let platform = self.shared.plan.platforms.get(&lane.account.platform);
        platform.is_some_and(|platform| platform.api(lane.api.as_str()).is_some())
    }

    fn warn(&self, lane: &LaneKey, waiting: u64) {
        let mut warned = self.warned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if warned.len() < WARNED_MAX && warned.insert(lane.clone()) {
            telemetry::lane_unknown(lane, waiting);
        }
    }

    /// Waits until the shards have taken note: a shard that is behind slows whoever tells it.
    async fn send(&self, found: Vec<Found>) {
        let mut by_shard: Vec<Vec<Found>> = vec![Vec::new(); self.shards.len()];
        for found in found {
            if self.knows(&found.lane) {
                by_shard[shard_of(&found.lane.account, self.shards.len())].push(found);
            }
        }
        for (shard, found) in self.shards.iter().zip(by_shard) {
            if !found.is_empty() {
                // A dead shard is noticed by `watch`.
                let _taken = shard.send(Work(found)).await;
            }
        }
    }
}

/// Which shard owns an account.
fn shard_of(account: &AccountKey, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    account.hash(&mut hasher);
    usize::try_from(hasher.finish() % shards as u64).expect("less than the number of shards")
}

async fn start_shard(
    arbiter: &ArbiterHandle,
    number: usize,
    shared: Shared,
) -> Result<Addr<Shard>, NodeError> {
    let (tell, told) = oneshot::channel();
    arbiter.spawn(async move {
        let shard = u16::try_from(number).expect("a validated number of shards");
        let wire = Wire::new(shared.clock.clone(), idle_max(&shared.plan));
        let started = match wire {
            Ok(wire) => Ok(Shard::start_here(shard, shared, Rc::new(wire))),
            Err(error) => Err(NodeError::Client(error.to_string())),
        };
        // Nobody listens only if the node was dropped while it started.
        let _listened = tell.send(started);
    });
    told.await.unwrap_or(Err(NodeError::ShardDied(number)))
}

/// Idle connections kept to one host by one shard. Over all hosts not more than calls can be in flight.
fn idle_max(plan: &Plan) -> usize {
    let hosts = plan.platforms.values().map(|platform| 1 + platform.allowed_hosts.len());
    (plan.collect.concurrency / hosts.sum::<usize>().max(1)).max(1)
}

/// Waits for the store to fail, tries it until it takes a body again, and says so.
pub(crate) async fn probe_store(shared: Shared, shards: Arc<[Addr<Shard>]>) {
    loop {
        tokio::select! {
            () = shared.store_health.failed.notified() => {}
            // What is being stored is tried for some more seconds; no quota is spent for more meanwhile.
            () = shared.store.failing() => {
                shared.store_health.away("requests to it fail, one after the other");
            }
        }
        if !shared.store_health.is_away() {
            // One object was refused, maybe for its key alone: only if others are too, all wait.
            let Err(error) = shared.store.probe().await else { continue };
            shared.store_health.away(&error.to_string());
        }
        let since = Instant::now();
        let mut pause = PROBE_FIRST;
        while shared.store_health.is_away() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PROBE_MAX);
            if shared.store.probe().await.is_ok() {
                shared.store_health.back();
                telemetry::store_back(since.elapsed());
                for shard in shards.iter() {
                    shard.do_send(LookAgain);
                }
            }
        }
    }
}

/// Follows the wall clock, and notices a shard that is gone.
async fn watch(shards: Arc<[Addr<Shard>]>, clock: Clock, died: Arc<Died>) {
    loop {
        tokio::time::sleep(HEALTH_EVERY).await;
        let step = clock.resync().as_millis();
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        if step.abs() > CLOCK_STEP_MS {
            telemetry::clock_stepped(step);
        }
        if let Some(shard) = shards.iter().position(|shard| !shard.connected()) {
            telemetry::shard_died(shard);
            died.shard.store(shard as u64 + 1, Ordering::Release);
            died.told.notify_waiters();
            return;
        }
    }
}
