//! The wiring of one node: shards on their threads, the seams between them, and what looks after all of it.
//!
//! The only file that sees both the actors and the backs of the seams. A node promises: what is in its queue
//! when it starts, and what comes later, is collected, until it is drained.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Addr;
use actix_rt::{Arbiter, ArbiterHandle};
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::auth::Keeper;
use crate::auth::vault::{MemoryVault, Vault};
pub use crate::budget::exchange::{BudgetWire, Lending};
use crate::budget::exchange::{Exchange, Flush, Letter};
use crate::calendar::{Line, plan_on};
use crate::clock::Clock;
use crate::cluster::{Hands, Owned};
use crate::health::{self, BackHealth, Health, SHARD_PATIENCE};
use crate::holds::{Holds, Scope};
use crate::http::names::Names;
use crate::http::wire::Wire;
use crate::ids::{LaneKey, Seq, Slug};
use crate::ledger::Ledger;
use crate::mailbox::Mailbox;
use crate::mixed::Limits;
use crate::notify::Way;
use crate::observe::Shuts;
use crate::plan::{InForce, Plan};
use crate::pulse::{Pulses, Watching};
use crate::queue::{
    Appended, LaneCount, LaneCursor, LanePage, NewFetch, Queue, QueueError, QueueFuture,
};
use crate::reload::Reloader;
use crate::shard::context::{LANDINGS_PER_SLOT, Peers, Shared, shard_of};
use crate::shard::store_health::StoreHealth;
use crate::shard::{
    Beat, Drain, Drained, Found, HoldsChanged, LookAgain, Reload, SettleBudgets, Shard, Tallied,
    Tally, Work,
};
use crate::spill::Spill;
use crate::store::Store;
use crate::telemetry::{self, LimitGauges, Totals};
use crate::times::Waits;
use crate::traces::{Exporting, Traces};

mod doctor;
pub(crate) mod hands;
mod noticing;
mod spilling;
mod unknown;
mod viewing;

use noticing::Noticing;

pub use doctor::Examiner;
pub use spilling::{Carrying, Spilling};
pub use unknown::Unknown;
#[cfg(test)]
pub(crate) use unknown::bury as bury_unknown;
pub use viewing::Viewer;

/// Lanes told to a shard in one message.
const FOUND_MAX: usize = 1024;
/// How long budgets may take to store their last records.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two discoveries of what waits, for wakes that were lost.
const DISCOVERY_EVERY: Duration = Duration::from_secs(60);
/// Between two tries of what a start needs.
const START_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks at the node's own health.
const HEALTH_EVERY: Duration = Duration::from_secs(1);
/// A step of the wall clock worth a word.
const CLOCK_STEP_MS: i64 = 2000;
/// Waits between two tries of a store that takes no bodies: the first and the longest.
const PROBE_FIRST: Duration = Duration::from_millis(500);
const PROBE_MAX: Duration = Duration::from_secs(15);
/// Idle connections to a token endpoint.
const TOKEN_IDLE_MAX: usize = 2;
/// Between two beats of a shard.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Between two readings of what is at hand, and between two counts of all accounts.
const GAUGE_EVERY: Duration = Duration::from_secs(1);
const TALLY_EVERY: Duration = Duration::from_secs(5);

/// The backs a node stands on.
#[derive(Debug, Clone)]
pub struct Seams {
    /// Where fetches wait.
    pub queue: Arc<dyn Queue>,
    /// Where permits are written down.
    pub ledger: Arc<dyn Ledger>,
    /// Where bodies go.
    pub store: Store,
    /// Where tokens are kept that cannot be had again.
    pub vault: Arc<dyn Vault>,
    /// What operators hold.
    pub holds: Holds,
    /// Whether the server behind queue and ledger answers; the default where there is none.
    pub back: Arc<BackHealth>,
    /// What becomes of fetches that the configuration does not know.
    pub unknown: Unknown,
    /// Which partitions of the accounts this node owns; the default owns all.
    pub owned: Owned,
    /// The way to other nodes for budgets; nothing where there are none.
    pub lending: Option<Lending>,
    /// A way for notices beside webhooks; nothing where there is none.
    pub notices: Option<Way>,
    /// How long a start waits for a queue that does not answer; zero: not at all.
    pub start_within: Duration,
}

impl Seams {
    /// A node with its queue and ledger in its own process: nothing holds it but its store and its limits. Tokens
    /// are kept in memory, unless `vault` is another.
    pub fn new(queue: Arc<dyn Queue>, ledger: Arc<dyn Ledger>, store: Store) -> Self {
        Self {
            queue,
            ledger,
            store,
            vault: Arc::new(MemoryVault::default()),
            holds: Holds::default(),
            back: Arc::default(),
            unknown: Unknown::Wait,
            owned: Owned::default(),
            lending: None,
            notices: None,
            start_within: Duration::ZERO,
        }
    }
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
    /// What this node owns is kept by nobody; what it had is in queue and ledger.
    #[error("the keeper of this node's partitions died; nothing is lost, start again")]
    KeeperDied,
    /// This node's session is renewed no more; what it had is in queue and ledger.
    #[error("what renews this node's session died; nothing is lost, start again")]
    SessionDied,
    /// Calls at other nodes are waited for in vain; what this node had is in queue and ledger.
    #[error("what carries calls to other nodes died; nothing is lost, start again")]
    CarrierDied,
}

/// A node at work.
#[derive(Debug)]
pub struct Node {
    shards: Arc<[Mailbox<Shard>]>,
    arbiters: Vec<Arbiter>,
    shared: Shared,
    /// Fetches of apis that the configuration does not have.
    unknown: Arc<AtomicU64>,
    /// Apis that it had since the node started.
    retired: Retired,
    /// Where lanes of such go, if they do not wait.
    bury: Option<mpsc::Sender<LaneKey>>,
    died: Arc<Died>,
    health: Option<Arc<Health>>,
    tasks: Vec<JoinHandle<()>>,
    /// Whoever sends spans.
    exporting: Option<Exporting>,
    /// Whoever tells of what is wrong for long.
    noticing: Option<Noticing>,
    exchange: Option<Addr<Exchange>>,
    /// The way to other nodes, until somebody opens it.
    spilling: Option<Spilling>,
    examiner: Examiner,
    /// What looks whether the shards' loops turn.
    _watching: Option<Watching>,
}

/// Where letters of other nodes about budgets go.
#[derive(Debug, Clone)]
pub struct Exchanged(Addr<Exchange>);

impl Exchanged {
    /// Takes a letter in; its receipt, unless the node is about to end.
    pub async fn take(&self, letter: Bytes) -> Option<Bytes> {
        self.0.send(Letter(letter)).await.ok()
    }
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
    /// The HTTP client cannot be built, or the queue cannot be read, for as long as a start waits for it.
    pub async fn start(plan: Arc<Plan>, seams: Seams, clock: Clock) -> Result<Self, NodeError> {
        let plan = plan_on(&plan, &Line::Clock(clock.clone()));
        let totals = Arc::new(Totals::default());
        let slots = Arc::new(Semaphore::new(plan.collect.concurrency));
        let landings = Arc::new(Semaphore::new(plan.collect.concurrency * LANDINGS_PER_SLOT));
        telemetry::config_in_force();
        let (auth, worker) = Keeper::new(clock.clone());
        let mut shared = Shared {
            owned: seams.owned,
            auth,
            shuts: Shuts::default(),
            clock,
            queue: seams.queue,
            ledger: seams.ledger,
            store: seams.store,
            totals,
            slots,
            landings,
            alone: Arc::new(Semaphore::new(1)),
            store_health: Arc::new(StoreHealth::default()),
            holds: seams.holds,
            back_health: seams.back,
            peers: Arc::new(Peers::default()),
            plan: InForce::new(Arc::clone(&plan)),
            pulses: Pulses::new(plan.collect.shards),
            signals: None,
        };
        let noticing = match &plan.notify {
            None => None,
            Some(notify) => {
                let ready = noticing::Ready::new(notify, &plan.node_name, &shared, seams.notices);
                let ready = ready.map_err(|error| NodeError::Client(error.to_string()))?;
                shared.signals = Some(ready.signals.clone());
                Some(ready)
            }
        };
        let wire = Wire::new(shared.clock.clone(), TOKEN_IDLE_MAX);
        let wire = wire.map_err(|error| NodeError::Client(error.to_string()))?;
        let keeping = actix_rt::spawn(worker.run(Rc::new(wire), seams.vault, shared.plan.clone()));
        telemetry::node_started(
            &plan.node_name,
            plan.collect.shards,
            plan.platforms.len(),
            &plan.hash,
        );
        let exporting = match &plan.traces {
            None => None,
            Some(tracing) => {
                let made = Traces::new(tracing, &plan.node_name, &shared.clock);
                let (traces, exporter) =
                    made.map_err(|error| NodeError::Client(error.to_string()))?;
                shared.peers.trace_by(traces);
                Some(exporter.start())
            }
        };
        let mut shards = Vec::new();
        let mut arbiters = Vec::new();
        let mut names = Vec::new();
        for number in 0..plan.collect.shards {
            let arbiter = Arbiter::new();
            let started = start_shard(&arbiter.handle(), number, shared.clone()).await?;
            shards.push(started.0);
            names.push(started.1);
            arbiters.push(arbiter);
        }
        let shards: Arc<[Mailbox<Shard>]> = shards.into();
        shared.peers.are(Arc::clone(&shards));
        let on_nats = seams.lending.is_some();
        let exchange = seams.lending.map(|lending| {
            let (name, own) = (plan.node_name.clone(), (shared.clock.clone(), shared.plan.clone()));
            let first = shards[0].clone();
            Exchange::start_here(lending, name, own, &shared.owned, &shared.peers, first)
        });
        let (spill, said) = Spill::new(shards.len());
        shared.peers.have_way(spill.clone());
        let spilling = Spilling::new(spill, said, Arc::clone(&shards), shared.clone());
        let examiner = Examiner::new(&shards, &shared, names, on_nats);
        let watching = shared.pulses.watch(shared.clock.clone());
        let noticing = noticing.map(|ready| ready.start(shared.clone(), Arc::clone(&shards)));
        let mut node = Self {
            examiner,
            _watching: watching,
            shards,
            arbiters,
            unknown: Arc::default(),
            retired: Arc::default(),
            bury: None,
            died: Arc::default(),
            health: None,
            tasks: vec![keeping],
            exporting,
            noticing,
            exchange,
            spilling: Some(spilling),
            shared,
        };
        if seams.unknown == Unknown::Die {
            let (lanes, told) = mpsc::channel(unknown::LANES_MAX);
            node.bury = Some(lanes);
            let bury = unknown::bury(node.shared.clone(), told);
            node.tasks.push(actix_rt::spawn(bury));
        }
        node.begin(Instant::now() + seams.start_within).await?;
        Ok(node)
    }

    async fn begin(&mut self, until: Instant) -> Result<(), NodeError> {
        // Wakes first: what comes while the discovery runs is then told twice rather than never.
        let mut wakes = self.shared.queue.wakes();
        let post = self.post();
        let postponed = patiently(until, || self.shared.queue.postponed()).await?;
        self.shared.totals.come(postponed);
        if self.bury.is_some() {
            // No lines are read here: what ends need not be remembered for them.
            self.shared.totals.inputs_read();
        }
        post.discover(Some(until)).await?;
        let pump = self.post();
        let told = telemetry::WAKES.counter(&[]);
        self.tasks.push(actix_rt::spawn(async move {
            while let Some(wake) = wakes.recv().await {
                let mut found = vec![Found { lane: wake.lane, count: wake.count, all: wake.all }];
                while found.len() < FOUND_MAX
                    && let Ok(wake) = wakes.try_recv()
                {
                    found.push(Found { lane: wake.lane, count: wake.count, all: wake.all });
                }
                told.increment(found.len() as u64);
                pump.send(found).await;
            }
        }));
        let again = self.post();
        self.tasks.push(actix_rt::spawn(async move {
            loop {
                tokio::time::sleep(DISCOVERY_EVERY).await;
                // A queue that does not answer is asked again next time; its users say so meanwhile.
                let _found = again.discover(None).await;
            }
        }));
        self.tasks.push(actix_rt::spawn(probe_store(self.shared.clone(), self.shards.clone())));
        let (mut back, shards) = (self.shared.back_health.follow(), self.shards.clone());
        self.tasks.push(actix_rt::spawn(async move {
            while back.changed().await.is_ok() {
                if !*back.borrow_and_update() {
                    shards.iter().for_each(|shard| shard.do_send(LookAgain));
                }
            }
        }));
        let clock = self.shared.clock.clone();
        let all = (self.shards.clone(), self.exchange.clone());
        self.tasks.push(actix_rt::spawn(watch(all, clock, self.died.clone())));
        Ok(())
    }

    fn post(&self) -> Post {
        Post {
            shards: self.shards.clone(),
            shared: self.shared.clone(),
            unknown: self.unknown.clone(),
            warned: Arc::default(),
            retired: Arc::clone(&self.retired),
            bury: self.bury.clone(),
        }
    }

    /// Tells `health` how the node fares, from now on, and keeps the gauges of the metrics: the node has
    /// started. A recorder of metrics must have been installed before [`Node::start`].
    pub fn report_to(&mut self, health: &Arc<Health>) {
        self.shared.store_health.report_to(health);
        health.expect_shards(self.shards.len());
        for (number, shard) in self.shards.iter().enumerate() {
            let (shard, health) = (shard.clone(), Arc::clone(health));
            self.tasks.push(actix_rt::spawn(async move {
                // A dead shard beats no more.
                while shard.send(Beat).await.is_ok() {
                    health.beat(number);
                    tokio::time::sleep(BEAT_EVERY).await;
                }
            }));
        }
        self.tasks.push(actix_rt::spawn(gauge(self.shared.clone(), self.unknown.clone())));
        self.tasks.push(actix_rt::spawn(tally(self.shared.plan.clone(), self.shards.clone())));
        health.clear(health::STARTING);
        self.health = Some(Arc::clone(health));
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
        Viewer::new(&self.shards, &self.shared)
    }

    /// A way to ask what holds the node back, for use on any thread.
    pub fn examiner(&self) -> Examiner {
        self.examiner.clone()
    }

    /// A way to tell the shards that holds came or went, for use on any thread.
    pub fn bell(&self) -> Bell {
        Bell { shards: self.shards.clone() }
    }

    /// What gives partitions out of hand, for the keeper of what this node owns.
    pub fn hands(&self) -> Arc<dyn Hands> {
        Arc::new(hands::ShardHands(self.shards.clone()))
    }

    /// Where letters of other nodes about budgets go, if this node speaks with others.
    pub fn exchanged(&self) -> Option<Exchanged> {
        self.exchange.clone().map(Exchanged)
    }

    /// What lets attempts go to other nodes and theirs come here, for as long as it is polled; once.
    pub fn spilling(&mut self) -> Option<Spilling> {
        self.spilling.take()
    }

    /// Attempts of other nodes' accounts that are made here, and the way to end with these.
    pub fn spill(&self) -> Spill {
        self.shared.peers.spill().cloned().expect("known since the start")
    }

    /// The plan in force, for use on any thread.
    pub fn plan(&self) -> InForce {
        self.shared.plan.clone()
    }

    /// A way to put another configuration in force. `started`: the one that this node was started with, as it was
    /// read.
    pub fn reloader(&self, started: Plan) -> Reloader {
        Reloader::new(Switch { post: self.post() }, started, None)
    }

    /// The same for a node that may have others beside it, started with the limits of those in force beside its own.
    /// [`Accord::follow`](crate::nats::accord::Accord::follow) is to go on with it.
    pub fn reloader_beside(&self, started: Plan, others: Vec<Arc<Limits>>) -> Reloader {
        Reloader::new(Switch { post: self.post() }, started, Some(others))
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
        let mut from = None;
        loop {
            let page = queue.lanes(from).await?;
            waiting += page.lanes.iter().map(|lane| lane.waiting).sum::<u64>();
            from = page.next;
            if from.is_none() {
                break;
            }
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
        self.spill().end();
        if let Some(health) = &self.health {
            health.set(health::DRAINING, "the node gives no more permits and ends");
        }
        let drains: Vec<_> = self.shards.iter().map(|shard| shard.send(Drain { within })).collect();
        let mut broken_off = 0;
        for drain in drains {
            // A shard that is dead has nothing to drain.
            let Drained { broken_off: more } = drain.await.unwrap_or_default();
            broken_off += more;
        }
        // Only now: calls of any shard may count in a budget of another.
        let settled = self.shards.iter().map(|shard| shard.send(SettleBudgets { within: SETTLE }));
        for settled in settled.collect::<Vec<_>>() {
            // A shard that is dead has no budgets.
            let _settled = settled.await.is_ok();
        }
        if let Some(exchange) = &self.exchange {
            // One that is dead has nothing to say.
            let _flushed = exchange.send(Flush { within: SETTLE }).await.is_ok();
        }
        if let Some(noticing) = self.noticing.take() {
            noticing.end().await;
        }
        for task in self.tasks.drain(..) {
            task.abort();
        }
        for arbiter in self.arbiters.drain(..) {
            arbiter.stop();
            // It ends at its next turn; what it still ran is dropped with it.
            let _joined = actix_rt::task::spawn_blocking(move || arbiter.join()).await;
        }
        if let Some(exporting) = self.exporting.take() {
            exporting.end().await;
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

/// Tells the shards to look again.
#[derive(Debug, Clone)]
pub struct Bell {
    shards: Arc<[Mailbox<Shard>]>,
}

impl Bell {
    /// Holds of these scopes came, went or changed.
    pub fn holds_changed(&self, scopes: &[Scope]) {
        for shard in self.shards.iter() {
            shard.do_send(HoldsChanged(scopes.to_vec()));
        }
    }
}

/// Apis that a configuration of this process had and the one in force has not: their fetches wait, whatever becomes
/// of others that are not known. Calls of them may be in flight, and who removed one by mistake puts it back.
type Retired = Arc<std::sync::Mutex<HashSet<(Slug, Slug)>>>;

/// Most of them; further ones are taken for apis that were never known.
const RETIRED_MAX: usize = 100_000;

/// Puts another plan in force.
#[derive(Debug)]
pub(crate) struct Switch {
    post: Post,
}

impl Switch {
    /// The plan in force.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        self.post.shared.plan.get()
    }

    /// A plan whose calendar windows go by the node's clock.
    pub(crate) fn on_clock(&self, plan: Plan) -> Arc<Plan> {
        plan_on(&Arc::new(plan), &Line::Clock(self.post.shared.clock.clone()))
    }

    /// The time on the wall.
    pub(crate) fn wall(&self) -> jiff::Timestamp {
        self.post.shared.clock.wall()
    }

    /// Has every shard go by it, then everybody else; answers how long that took.
    pub(crate) async fn to(&self, plan: Plan) -> Duration {
        let since = Instant::now();
        let line = Line::Clock(self.post.shared.clock.clone());
        let (before, plan) = (self.plan(), plan_on(&Arc::new(plan), &line));
        self.post.retire(&before, &plan);
        let shards = self.post.shards.iter();
        let told: Vec<_> = shards.map(|shard| shard.send(Reload(Arc::clone(&plan)))).collect();
        for told in told {
            // A dead shard is noticed by `watch`.
            let _taken = told.await;
        }
        self.post.shared.plan.put(plan);
        let took = since.elapsed();
        // What waits may be of an api that is known from now on, or not any more. A queue that does not answer is
        // asked again within a minute.
        let _found = self.post.discover(None).await;
        took
    }
}

/// Tells shards of work.
#[derive(Debug, Clone)]
struct Post {
    shards: Arc<[Mailbox<Shard>]>,
    shared: Shared,
    unknown: Arc<AtomicU64>,
    warned: Arc<std::sync::Mutex<HashSet<LaneKey>>>,
    retired: Retired,
    bury: Option<mpsc::Sender<LaneKey>>,
}

/// Lanes of unknown apis that are warned of one by one.
const WARNED_MAX: usize = 100;

impl Post {
    /// Tells the shards of everything that waits; the first time it is counted too, and a queue that does not
    /// answer is asked again until then.
    async fn discover(&self, first: Option<Instant>) -> Result<(), QueueError> {
        let until = first.unwrap_or_else(Instant::now);
        let first = first.is_some();
        let mut from: Option<LaneCursor> = None;
        let mut unknown = 0;
        loop {
            let page = patiently(until, || self.shared.queue.lanes(from.clone()));
            let LanePage { lanes, next } = page.await?;
            from = next;
            let mut found = Vec::with_capacity(FOUND_MAX);
            for LaneCount { lane, waiting: count } in lanes {
                if !self.knows(&lane) {
                    if first {
                        self.shared.totals.come(count);
                    }
                    if self.bury(&lane) {
                        continue;
                    }
                    unknown += count;
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
            if from.is_none() {
                self.unknown.store(unknown, Ordering::Release);
                return Ok(());
            }
        }
    }

    fn knows(&self, lane: &LaneKey) -> bool {
        let plan = self.shared.plan.get();
        let platform = plan.platforms.get(&lane.account.platform);
        platform.is_some_and(|platform| platform.api(lane.api.as_str()).is_some())
    }

    /// Notes the apis that are gone with a plan, and those that are back.
    fn retire(&self, before: &Plan, plan: &Plan) {
        let apis = |plan: &Plan| -> HashSet<(Slug, Slug)> {
            let platforms = plan.platforms.values();
            let apis = platforms.flat_map(|platform| {
                platform.apis.iter().map(|api| (platform.name.clone(), api.name.clone()))
            });
            apis.collect()
        };
        let (before, now) = (apis(before), apis(plan));
        let mut retired = self.retired.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        retired.retain(|api| !now.contains(api));
        let room = RETIRED_MAX.saturating_sub(retired.len());
        retired.extend(before.into_iter().filter(|api| !now.contains(api)).take(room));
    }

    /// Has a lane that nobody serves buried, if that is what becomes of such.
    fn bury(&self, lane: &LaneKey) -> bool {
        let retired = self.retired.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if retired.contains(&(lane.account.platform.clone(), lane.api.clone())) {
            return false;
        }
        drop(retired);
        // Full: the next discovery tells of it again.
        self.bury.as_ref().is_some_and(|lanes| {
            let _taken = lanes.try_send(lane.clone());
            true
        })
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
            } else {
                self.bury(&found.lane);
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

/// Asks a queue; one that does not answer again and again until then.
async fn patiently<T>(until: Instant, ask: impl Fn() -> QueueFuture<T>) -> Result<T, QueueError> {
    let mut told = false;
    loop {
        match ask().await {
            Err(error) if error.is_away() && Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    telemetry::start_waits(&error.to_string());
                }
                tokio::time::sleep(START_AGAIN).await;
            }
            done => return done,
        }
    }
}

async fn start_shard(
    arbiter: &ArbiterHandle,
    number: usize,
    shared: Shared,
) -> Result<(Mailbox<Shard>, Arc<Names>), NodeError> {
    let (tell, told) = oneshot::channel();
    arbiter.spawn(async move {
        let shard = u16::try_from(number).expect("a validated number of shards");
        let wire = Wire::new(shared.clock.clone(), idle_max(&shared.plan.get()));
        let started = match wire {
            Ok(wire) => {
                let names = wire.names();
                Ok((Shard::start_here(shard, shared, Rc::new(wire)), names))
            }
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
pub(crate) async fn probe_store(shared: Shared, shards: Arc<[Mailbox<Shard>]>) {
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

/// Keeps the gauges of what is at hand.
async fn gauge(shared: Shared, unknown: Arc<AtomicU64>) {
    telemetry::store_well();
    let collect = shared.plan.get().collect.clone();
    telemetry::SLOTS.gauge(&[]).set(collect.concurrency as f64);
    telemetry::BUFFER_MAX.gauge(&[]).set(collect.buffer_bytes_max as f64);
    let open = telemetry::SLOTS_OPEN.gauge(&[]);
    let buffered = telemetry::BUFFERED.gauge(&[]);
    let spooled = telemetry::SPOOLED.gauge(&[]);
    let not_known = telemetry::UNKNOWN.gauge(&[]);
    let held = telemetry::PARTITIONS_HELD.gauge(&[]);
    loop {
        held.set(f64::from(shared.owned.ours().len()));
        open.set(shared.slots.available_permits() as f64);
        buffered.set(shared.store.buffered_bytes() as f64);
        spooled.set(shared.store.spooled_bytes() as f64);
        not_known.set(unknown.load(Ordering::Acquire) as f64);
        tokio::time::sleep(GAUGE_EVERY).await;
    }
}

/// Counts accounts, and what waits in them, in small stretches: no shard is held up by it.
pub(crate) async fn tally(plan: InForce, shards: Arc<[Mailbox<Shard>]>) {
    // Those that were removed stay, at zero.
    let mut waiting = BTreeMap::new();
    let known = telemetry::KNOWN.gauge(&[]);
    let mut causes = BTreeMap::new();
    let mut limits = LimitGauges::default();
    let live = telemetry::LIVE.gauge(&[]);
    let resting = telemetry::RESTING.gauge(&[]);
    loop {
        if let Some(sum) = tally_once(&shards).await {
            for platform in plan.get().platforms.keys() {
                let gauge = || telemetry::WAITING.gauge(&[platform.as_str()]);
                waiting.entry(platform.clone()).or_insert_with(gauge);
            }
            for platform in plan.get().platforms.keys() {
                for cause in Waits::ALL {
                    let labels = [platform.as_str(), cause.as_str()];
                    let gauge = || telemetry::ACCOUNTS_WAITING.gauge(&labels);
                    causes.entry((platform.clone(), cause)).or_insert_with(gauge);
                }
            }
            limits.show(&plan.get(), &sum.limits);
            for (key, gauge) in &causes {
                gauge.set(sum.causes.get(key).copied().unwrap_or(0) as f64);
            }
            for (platform, gauge) in &waiting {
                gauge.set(sum.waiting.get(platform).copied().unwrap_or(0) as f64);
            }
            known.set(sum.known as f64);
            live.set(sum.live as f64);
            resting.set(sum.resting as f64);
        }
        tokio::time::sleep(TALLY_EVERY).await;
    }
}

/// Nothing if a shard does not answer: half a sum would look like a whole one.
async fn tally_once(shards: &[Mailbox<Shard>]) -> Option<Tallied> {
    let mut sum = Tallied::default();
    for shard in shards {
        let mut from = Some(0);
        let (mut known, mut live) = (0, 0);
        while let Some(place) = from {
            let asked = shard.send(Tally { from: place });
            let part = tokio::time::timeout(SHARD_PATIENCE, asked).await.ok()?.ok()?;
            for (platform, count) in part.waiting {
                *sum.waiting.entry(platform).or_default() += count;
            }
            for (key, count) in part.causes {
                *sum.causes.entry(key).or_default() += count;
            }
            for (key, count) in part.limits {
                *sum.limits.entry(key).or_default() += count;
            }
            sum.resting += part.resting;
            (known, live) = (part.known, part.live);
            from = part.next;
        }
        sum.known += known;
        sum.live += live;
    }
    Some(sum)
}

/// Follows the wall clock, and notices a shard that is gone.
async fn watch(
    (shards, exchange): (Arc<[Mailbox<Shard>]>, Option<Addr<Exchange>>),
    clock: Clock,
    died: Arc<Died>,
) {
    loop {
        tokio::time::sleep(HEALTH_EVERY).await;
        let step = clock.resync().as_millis();
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        if step.abs() > CLOCK_STEP_MS {
            telemetry::clock_stepped(step);
        }
        let dead = shards.iter().position(|shard| !shard.connected());
        // As one more shard.
        let dead = dead.or(exchange.as_ref().filter(|one| !one.connected()).map(|_| shards.len()));
        if let Some(shard) = dead {
            telemetry::shard_died(shard);
            died.shard.store(shard as u64 + 1, Ordering::Release);
            died.told.notify_waiters();
            return;
        }
    }
}
