//! What the actors of one shard share: the seams, the table of accounts, the attempts in flight.
//!
//! One thread, so plain cells; no borrow outlives a call of this file. Attempts in flight are kept here
//! and not in their throttle actor, so that a restarted one can be told of them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tollgate_gate::{At, PermitId, Sent};

use super::accounts::{Accounts, Ix, State};
use super::baseline::Baselines;
use super::budgets::{lose_grants, tell_of_orphan};
use super::guests::{Abroad, Visits};
use super::parts::Claim;
use super::permit::{BodyRead, Permit, Report};
use super::store_health::StoreHealth;
use super::{AccountDied, CollectorDied, Shard};
use crate::auth::{Keeper, Redactors};
use crate::budget::exchange::Exchange;
use crate::budget::{Grant, Table, Told};
use crate::clock::Clock;
use crate::cluster::Owned;
use crate::collector::actor::{Collector, Make};
use crate::collector::{Folders, Item, Order, Outcome, Slot};
use crate::health::BackHealth;
use crate::holds::Holds;
use crate::http::{Transport, Written};
use crate::ids::{AccountKey, Seq, Slug};
use crate::ledger::Ledger;
use crate::ledger::record::Tries;
use crate::mailbox::{Counted, Mailbox};
use crate::notify::Signals;
use crate::observe::{Drift, Shuts};
use crate::pages::Read;
use crate::plan::{InForce, Plan, Platform};
use crate::pulse::{Pulse, Pulses};
use crate::queue::Queue;
use crate::spill::Spill;
use crate::store::Store;
use crate::telemetry::{self, Meters, PlatformMeters, Totals, Waiting};
use crate::throttle::Throttle;
use crate::throttle::messages::{Reported, SlotFree};
use crate::times::{Moments, PlatformTimes, Times};
use crate::traces::Traces;
use crate::view::answers::Answers;

/// Collectors that stay when they have nothing to do, per shard; more are started as slots allow.
const FREE_COLLECTORS_MAX: usize = 256;
/// So many small bodies may be on their way into the store for each slot, with their calls over. What is
/// called meanwhile and cannot be stored in the end is called again, so there is a bound beside memory's.
pub(crate) const LANDINGS_PER_SLOT: usize = 3;
/// High bits of a permit's number say which shard gave it.
const PERMIT_SHARD_SHIFT: u32 = 48;
/// Each process begins to number them somewhere else below this: those of one that is gone are told apart from its
/// successor's.
const FIRST_PERMIT_MASK: u64 = (1 << 47) - 1;

/// Which shard gave a permit of this number.
pub(crate) fn shard_of_permit(permit: u64) -> usize {
    usize::try_from(permit >> PERMIT_SHARD_SHIFT).expect("16 bits")
}

/// What a node gives every shard.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The configuration in force.
    pub plan: InForce,
    /// The one clock.
    pub clock: Clock,
    /// Where fetches wait.
    pub queue: Arc<dyn Queue>,
    /// Where permits are written down.
    pub ledger: Arc<dyn Ledger>,
    /// Where bodies go.
    pub store: Store,
    /// What has happened so far.
    pub totals: Arc<Totals>,
    /// Attempts in flight over all shards.
    pub slots: Arc<Semaphore>,
    /// Attempts whose calls are over and whose small bodies are held until they are stored.
    pub landings: Arc<Semaphore>,
    /// One fetch at a time that was in flight at two crashes already.
    pub alone: Arc<Semaphore>,
    /// Whether the store takes bodies.
    pub store_health: Arc<StoreHealth>,
    /// What operators hold.
    pub holds: Holds,
    /// Whether what stands behind queue and ledger answers.
    pub back_health: Arc<BackHealth>,
    /// All shards of the node.
    pub peers: Arc<Peers>,
    /// Platforms that a provider has shut for everybody.
    pub shuts: Shuts,
    /// What signs calls.
    pub auth: Keeper,
    /// Which partitions this node owns.
    pub owned: Owned,
    /// Whether the shards' loops turn.
    pub pulses: Arc<Pulses>,
    /// Who hears of what goes wrong, if anybody is told.
    pub signals: Option<Signals>,
}

/// The shards of a node, as each of them knows them once all have started, and what they share. The default knows none:
/// then a shard is alone.
#[derive(Debug, Default)]
pub struct Peers {
    shards: OnceLock<Arc<[Mailbox<Shard>]>>,
    /// What speaks with other nodes of budgets.
    exchange: OnceLock<Addr<Exchange>>,
    spill: OnceLock<Spill>,
    /// Where spans go.
    traces: OnceLock<Traces>,
    /// What contradicts the declared limits.
    drift: Mutex<Drift>,
}

impl Peers {
    /// Fetches are traced. Told once, before there is work.
    pub(crate) fn trace_by(&self, traces: Traces) {
        let _first = self.traces.set(traces).is_ok();
    }

    /// Where spans go, if fetches are traced.
    pub(crate) fn traces(&self) -> Option<&Traces> {
        self.traces.get()
    }

    /// The way to other nodes. Told once, before there is work.
    pub(crate) fn have_way(&self, spill: Spill) {
        let _first = self.spill.set(spill).is_ok();
    }

    /// The way to other nodes, if there are any.
    pub(crate) fn spill(&self) -> Option<&Spill> {
        self.spill.get()
    }

    /// These are all. Told once, before there is work.
    pub(crate) fn are(&self, shards: Arc<[Mailbox<Shard>]>) {
        // A second telling would be of the same.
        let _first = self.shards.set(shards).is_ok();
    }

    /// This one speaks with other nodes of budgets. Told once, before there is work.
    pub(crate) fn exchange_is(&self, exchange: Addr<Exchange>) {
        let _first = self.exchange.set(exchange).is_ok();
    }

    /// What speaks with other nodes of budgets, if there are such.
    pub(crate) fn exchange(&self) -> Option<&Addr<Exchange>> {
        self.exchange.get()
    }

    /// What contradicts the declared limits, counted over all shards: a limit is told of once, whosoever's it is.
    pub(crate) fn drift(&self) -> MutexGuard<'_, Drift> {
        self.drift.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which shard a key belongs to.
    pub(crate) fn of(&self, key: &AccountKey) -> Option<&Mailbox<Shard>> {
        let shards = self.shards.get()?;
        shards.get(shard_of(key, shards.len()))
    }
}

/// The finalizer of `SplitMix64` (<https://prng.di.unimi.it/splitmix64.c>).
fn spread(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Which shard owns an account, or a budget.
pub(crate) fn shard_of(key: &AccountKey, shards: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % shards as u64).expect("less than the number of shards")
}

/// An attempt in flight.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) ix: Ix,
    pub(crate) item: Rc<Item>,
    pub(crate) tries: Tries,
    pub(crate) read: Option<Arc<Read>>,
    pub(crate) written: Option<At>,
    pub(crate) answered: Option<At>,
    pub(crate) call_ended: Option<(At, Sent)>,
    pub(crate) outcome: Option<Outcome>,
    /// See [`Report::Lost`].
    pub(crate) lost: Option<(At, At)>,
    /// Another node makes it.
    pub(crate) is_abroad: bool,
    pub(crate) meters: Rc<PlatformMeters>,
    times: Rc<PlatformTimes>,
    api: u16,
    decided_at: At,
    given_at: At,
    /// What it brought is stored.
    stored: Option<At>,
    /// Held while a fetch that must be tried alone is, also if its throttle actor dies meanwhile.
    pub(crate) _alone: Option<OwnedSemaphorePermit>,
    /// Of the budgets that it counts in.
    pub(crate) grants: Vec<Grant>,
    /// What came of its answer's body.
    pub(crate) body: Rc<Cell<BodyRead>>,
    /// How sure it is that its account is this node's.
    pub(super) claim: Claim,
}

impl Running {
    /// Its moments so far.
    pub(crate) fn moments(&self) -> Moments {
        Moments {
            decided: self.decided_at,
            given: self.given_at,
            written: self.written,
            answered: self.answered,
            call_ended: self.call_ended.as_ref().map(|(at, _)| *at),
            stored: self.stored,
        }
    }

    /// The platform and the number of the api that its time is spent for.
    pub(super) fn pair(&self) -> (&Slug, u16) {
        (&self.item.lane.account.platform, self.api)
    }
}

/// One shard's share of a node.
pub struct Context {
    pub(crate) shard: u16,
    plan: RefCell<Arc<Plan>>,
    pub(crate) clock: Clock,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) store: Store,
    pub(crate) totals: Arc<Totals>,
    pub(crate) alone: Arc<Semaphore>,
    pub(crate) store_health: Arc<StoreHealth>,
    pub(crate) holds: Holds,
    pub(crate) back_health: Arc<BackHealth>,
    pub(crate) shuts: Shuts,
    pub(crate) auth: Keeper,
    pub(crate) owned: Owned,
    pub(crate) signals: Option<Signals>,
    pub(crate) transport: Rc<dyn Transport>,
    pub(crate) accounts: RefCell<Accounts>,
    pub(crate) running: RefCell<BTreeMap<PermitId, Running>>,
    pub(crate) baselines: RefCell<Baselines>,
    /// Where time goes.
    pub(crate) times: Times,
    /// The last answers.
    pub(crate) answers: Answers,
    /// What has a turn.
    pub(crate) pulse: Arc<Pulse>,
    /// The budgets whose shard this is.
    pub(crate) budgets: RefCell<Table>,
    pub(crate) peers: Arc<Peers>,
    meters: RefCell<Meters>,
    pub(crate) draining: Cell<bool>,
    pub(crate) me: OnceCell<Mailbox<Shard>>,
    /// What waits in the mailboxes of the shard and of its throttle actors.
    pub(crate) waiting: [Waiting; 2],
    pub(crate) faults: Faults,
    /// The folders of the store in which fetches are storing now.
    pub(crate) folders: Folders,
    /// What cleans texts of secrets.
    pub(crate) redactors: Redactors,
    leaving: RefCell<HashSet<Seq>>,
    slots: Arc<Semaphore>,
    landings: Arc<Semaphore>,
    slot_waiters: RefCell<VecDeque<Waiter>>,
    /// How many of them may go elsewhere.
    travellers: Cell<usize>,
    /// Attempts that other nodes make.
    pub(super) abroad: RefCell<BTreeMap<PermitId, Abroad>>,
    /// Attempts of other nodes that are made here.
    pub(super) visits: RefCell<Visits>,
    slot_asked: Cell<bool>,
    free: RefCell<Vec<Addr<Collector>>>,
    orders: RefCell<BTreeMap<PermitId, Order>>,
    dead_collectors: Cell<u32>,
    next_permit: Cell<u64>,
    next_incarnation: Cell<u64>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn new(shard: u16, shared: Shared, transport: Rc<dyn Transport>) -> Rc<Self> {
        let plan = shared.plan.get();
        let first_permit = 1 + (spread(shared.ledger.session()) & FIRST_PERMIT_MASK);
        Rc::new(Self {
            shard,
            meters: RefCell::new(Meters::new(&plan)),
            baselines: RefCell::new(Baselines::new(plan.collect.shards, shared.owned.clone())),
            plan: RefCell::new(plan),
            clock: shared.clock,
            queue: shared.queue,
            ledger: shared.ledger,
            store: shared.store,
            totals: shared.totals,
            alone: shared.alone,
            store_health: shared.store_health,
            holds: shared.holds,
            back_health: shared.back_health,
            shuts: shared.shuts,
            auth: shared.auth,
            owned: shared.owned,
            signals: shared.signals,
            transport,
            accounts: RefCell::default(),
            running: RefCell::default(),
            times: Times::default(),
            answers: Answers::default(),
            pulse: shared.pulses.of(shard),
            budgets: RefCell::default(),
            peers: shared.peers,
            draining: Cell::new(false),
            me: OnceCell::new(),
            waiting: Waiting::of(shard.into()),
            faults: Faults,
            folders: Folders::default(),
            redactors: Redactors::default(),
            leaving: RefCell::default(),
            slots: shared.slots,
            landings: shared.landings,
            slot_waiters: RefCell::default(),
            travellers: Cell::new(0),
            abroad: RefCell::default(),
            visits: RefCell::default(),
            slot_asked: Cell::new(false),
            free: RefCell::default(),
            orders: RefCell::default(),
            dead_collectors: Cell::new(0),
            next_permit: Cell::new(first_permit),
            next_incarnation: Cell::new(1),
        })
    }

    /// The configuration that this shard goes by.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.borrow())
    }

    /// A platform as this shard goes by it.
    pub(crate) fn platform(&self, name: &Slug) -> Option<Arc<Platform>> {
        self.plan.borrow().platforms.get(name).cloned()
    }

    /// Goes by another configuration from now on, and returns the one until now. Accounts are the shard's to tell.
    pub(crate) fn go_by(&self, plan: Arc<Plan>) -> Arc<Plan> {
        let before = self.plan();
        let mut baselines = self.baselines.borrow_mut();
        for (name, old) in &before.platforms {
            if let Some(new) = plan.platforms.get(name).filter(|new| !Arc::ptr_eq(old, new)) {
                baselines.renumber(name, |api| {
                    let name = &old.apis.get(usize::from(api))?.name;
                    new.api(name.as_str()).map(|(number, _)| number)
                });
            }
        }
        *self.meters.borrow_mut() = Meters::new(&plan);
        self.plan.replace(plan)
    }

    /// The series of a platform that is declared.
    pub(crate) fn meters_of(&self, platform: &Slug) -> Rc<PlatformMeters> {
        self.meters.borrow().of(platform)
    }

    /// Why no account may be given a permit now, if that is so.
    pub(crate) fn halted(&self) -> Option<&'static str> {
        if self.draining.get() {
            Some("the drain")
        } else if self.store_health.is_away() {
            Some("the object store, which takes no bodies")
        } else if self.back_health.is_away() {
            Some(BackHealth::WHY)
        } else {
            None
        }
    }

    /// The shard's own address.
    pub(crate) fn me(&self) -> &Mailbox<Shard> {
        self.me.get().expect("set when the shard starts, before any of its actors")
    }

    /// A permit number that was not used before in this process.
    pub(crate) fn permit_id(&self) -> PermitId {
        let number = self.next_permit.get();
        self.next_permit.set(number + 1);
        PermitId(u64::from(self.shard) << PERMIT_SHARD_SHIFT | number)
    }

    pub(crate) fn incarnation(&self) -> u64 {
        let number = self.next_incarnation.get();
        self.next_incarnation.set(number + 1);
        number
    }

    /// A fetch is on its way out of its lane: nobody tries it before that is over.
    pub(crate) fn leave(self: &Rc<Self>, seq: Seq) -> Leaving {
        self.leaving.borrow_mut().insert(seq);
        Leaving { shard: Rc::clone(self), seq }
    }

    /// Whether a fetch is on its way out of its lane.
    pub(crate) fn is_leaving(&self, seq: Seq) -> bool {
        self.leaving.borrow().contains(&seq)
    }

    /// Fetches on their way out of their lanes.
    pub(crate) fn leaving_now(&self) -> usize {
        self.leaving.borrow().len()
    }

    /// Whether one of these fetches is on its way out of its lane.
    pub(crate) fn any_leaving(&self, within: &RangeInclusive<Seq>) -> bool {
        self.leaving.borrow().iter().any(|seq| within.contains(seq))
    }

    /// Sends something to an account's actor, if it has one.
    pub(crate) fn tell<M>(&self, ix: Ix, message: M) -> bool
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Throttle: Handler<M> + Handler<Counted<M>>,
        <Throttle as Actor>::Context: ToEnvelope<Throttle, Counted<M>>,
    {
        let mut accounts = self.accounts.borrow_mut();
        let Some(entry) = accounts.get_mut(ix) else { return false };
        let State::Live { addr, sent, .. } = &mut entry.state else { return false };
        *sent += 1;
        addr.do_send(Counted::new(message, &self.waiting[1]));
        true
    }

    /// Takes a slot now, or gets in line for one: [`SlotFree`] follows then. `travels`: one of another node will do.
    pub(crate) fn slot(
        self: &Rc<Self>,
        ix: Ix,
        incarnation: u64,
        travels: impl FnOnce() -> bool,
    ) -> Option<Slot> {
        let nobody_before = self.slot_waiters.borrow().is_empty();
        if nobody_before && let Ok(place) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(Slot::new(place));
        }
        let travels = travels();
        self.slot_waiters.borrow_mut().push_back(Waiter { ix, incarnation, travels });
        self.travellers_wait(self.travellers.get() + usize::from(travels));
        if !self.slot_asked.replace(true) {
            actix_rt::spawn(Rc::clone(self).hand_out_slots());
        }
        None
    }

    /// A place for an attempt that only has its body to store, if one is free.
    pub(crate) fn landing(&self) -> Option<Slot> {
        Arc::clone(&self.landings).try_acquire_owned().ok().map(Slot::new)
    }

    async fn hand_out_slots(self: Rc<Self>) {
        while !self.slot_waiters.borrow().is_empty() {
            let Ok(place) = Arc::clone(&self.slots).acquire_owned().await else { break };
            let mut slot = Some(Slot::new(place));
            while let Some(taken) = slot.take() {
                let Some(waiter) = self.slot_waiters.borrow_mut().pop_front() else { break };
                let Waiter { ix, incarnation, travels } = waiter;
                self.travellers_wait(self.travellers.get() - usize::from(travels));
                if self.is_incarnation(ix, incarnation) {
                    self.tell(ix, SlotFree(taken));
                } else {
                    slot = Some(taken);
                }
            }
        }
        self.slot_asked.set(false);
    }

    fn travellers_wait(&self, count: usize) {
        if self.travellers.replace(count) != count
            && let Some(spill) = self.peers.spill()
        {
            spill.waits(self.shard, count);
        }
    }

    /// Another node has offered a slot: for the first that waits and will do with it. It goes back where none does.
    pub(super) fn slot_abroad(&self, slot: Slot) {
        let concurrency = self.plan().collect.concurrency;
        if self.peers.spill().is_some_and(|spill| spill.is_behind(concurrency)) {
            return;
        }
        let mut slot = Some(slot);
        while let Some(taken) = slot.take() {
            let waiter = {
                let mut waiters = self.slot_waiters.borrow_mut();
                let first = waiters.iter().position(|waiter| waiter.travels);
                first.and_then(|place| waiters.remove(place))
            };
            let Some(Waiter { ix, incarnation, .. }) = waiter else { return };
            self.travellers_wait(self.travellers.get() - 1);
            if self.is_incarnation(ix, incarnation) {
                self.tell(ix, SlotFree(taken));
            } else {
                slot = Some(taken);
            }
        }
    }

    fn is_incarnation(&self, ix: Ix, wanted: u64) -> bool {
        let accounts = self.accounts.borrow();
        let state = accounts.get(ix).map(|entry| &entry.state);
        matches!(state, Some(State::Live { incarnation, .. }) if *incarnation == wanted)
    }

    /// Gives a permit to a free collector.
    pub(crate) fn attempt(self: &Rc<Self>, id: PermitId, decided_at: At, attempt: Attempt) {
        let Attempt { ix, item, tries, read, slot, alone, platform, api, meters, .. } = attempt;
        let (times, given_at, grants) = (attempt.times, attempt.given_at, attempt.grants);
        meters.attempt_begins();
        let body: Rc<Cell<BodyRead>> = Rc::default();
        let running = Running {
            ix,
            item: Rc::clone(&item),
            tries,
            read: read.clone(),
            written: None,
            answered: None,
            call_ended: None,
            outcome: None,
            lost: None,
            is_abroad: slot.is_abroad(),
            meters: Rc::clone(&meters),
            times,
            api,
            decided_at,
            given_at,
            stored: None,
            _alone: alone,
            grants,
            body: Rc::clone(&body),
            claim: Claim::held(),
        };
        self.running.borrow_mut().insert(id, running);
        let permit = Permit::new(id, decided_at, Rc::clone(self), body);
        let calls = tries.calls() + 1;
        let slot = match slot.into_offer() {
            Err(slot) => slot,
            Ok(offer) => {
                let calls = (calls, read.as_deref());
                return self.send_abroad(
                    offer,
                    (id, permit),
                    (item, meters),
                    (&platform, api),
                    calls,
                );
            }
        };
        let order = Order { permit, slot, platform, api, meters, item, calls, read };
        // Messages of actix may cross threads, orders may not: the order waits here for its collector.
        self.orders.borrow_mut().insert(id, order);
        loop {
            let free = self.free.borrow_mut().pop();
            let collector = free.unwrap_or_else(|| self.start_collector());
            // One that died while it was free does not take it; the next one does.
            if collector.try_send(Make(id)).is_ok() {
                return;
            }
        }
    }

    fn start_collector(self: &Rc<Self>) -> Addr<Collector> {
        let dead = self.dead_collectors.get();
        if dead > 0 {
            self.dead_collectors.set(dead - 1);
            telemetry::collector_restarted(self.shard);
        }
        Collector::start(Rc::clone(self))
    }

    /// The account of an attempt, if it is one of this shard's.
    pub(crate) fn account_of(&self, id: PermitId) -> Option<Ix> {
        self.running.borrow().get(&id).map(|running| running.ix)
    }

    /// The order of a permit, for the collector that was sent it.
    pub(crate) fn order(&self, id: PermitId) -> Option<Order> {
        self.orders.borrow_mut().remove(&id)
    }

    /// A collector is free again; false if there are enough of those.
    pub(crate) fn collector_free(&self, collector: Addr<Collector>) -> bool {
        let mut free = self.free.borrow_mut();
        if free.len() >= FREE_COLLECTORS_MAX || self.draining.get() {
            return false;
        }
        free.push(collector);
        true
    }

    pub(crate) fn collector_died(&self, reason: &str) {
        self.totals.restarts.add(1);
        self.dead_collectors.set(self.dead_collectors.get() + 1);
        self.me().do_send(CollectorDied { reason: reason.to_owned() });
    }

    pub(crate) fn account_died(&self, ix: Ix, incarnation: u64, reason: String) {
        self.totals.restarts.add(1);
        self.me().do_send(AccountDied { ix, incarnation, reason });
    }

    /// What a permit's holder saw: kept for a restarted actor, and told to the one that lives.
    pub(crate) fn report(&self, id: PermitId, report: Report) {
        let ix = {
            let mut running = self.running.borrow_mut();
            let Some(running) = running.get_mut(&id) else { return };
            match &report {
                Report::Written(Written::At(at)) => running.written = Some(*at),
                Report::Written(Written::Unknown) => running.written = None,
                Report::Answered(at) => running.answered = Some(*at),
                Report::Told(_) => {}
                Report::CallEnded(at, sent) => running.call_ended = Some((*at, *sent)),
                Report::Lost(latest, until) => running.lost = Some((*latest, *until)),
                Report::Finished(outcome) => {
                    let (moments, now) = (running.moments(), self.clock.now());
                    running.times.attempt(running.api, &moments, outcome.end(), now);
                    self.answers.note(&running.item.lane.account, running.api, outcome, now);
                    running.meters.phases(&moments, now);
                    running.meters.attempt_ends();
                    running.outcome = Some(outcome.clone());
                }
            }
            running.ix
        };
        let told = match &report {
            Report::Answered(at) => Some(Told::Answered(*at)),
            Report::CallEnded(at, sent) => Some(Told::Ended(*at, *sent)),
            Report::Written(_) | Report::Told(_) | Report::Finished(_) | Report::Lost(..) => None,
        };
        let lost = if let Report::Lost(latest, _) = &report { Some(*latest) } else { None };
        if !self.tell(ix, Reported { id, report })
            && let Some(running) = self.running.borrow_mut().get_mut(&id)
        {
            // No throttle actor now that tells the budgets.
            if let Some(told) = told {
                tell_of_orphan(&mut running.grants, told);
            }
            if let Some(latest) = lost {
                lose_grants(&mut running.grants, latest);
            }
        }
    }

    /// What an attempt brought is stored; the queue is told next.
    pub(crate) fn stored(&self, id: PermitId) {
        if let Some(running) = self.running.borrow_mut().get_mut(&id) {
            running.stored = Some(self.clock.now());
        }
    }

    /// Attempts that are not over, those of other nodes that are made here too.
    pub(crate) fn in_flight(&self) -> usize {
        let own = self.running.borrow().values().filter(|own| own.outcome.is_none()).count();
        own + self.visits.borrow().len()
    }

    /// The store is full or away: no new permits until it takes bodies again.
    pub(crate) fn store_failed(&self, reason: &str) {
        self.store_health.away(reason);
        self.store_health.failed.notify_one();
    }

    /// The store did not take one body: whether it takes others is found out.
    pub(crate) fn store_refused(&self) {
        self.store_health.failed.notify_one();
    }
}

/// A fetch on its way out of its lane, dead or put aside, until this is dropped. Its actor may die meanwhile.
pub(crate) struct Leaving {
    shard: Rc<Context>,
    seq: Seq,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.shard.leaving.borrow_mut().remove(&self.seq);
    }
}

/// An account that waits for a slot.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    ix: Ix,
    incarnation: u64,
    /// One of another node will do.
    travels: bool,
}

/// What an attempt needs beside its permit.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) ix: Ix,
    pub(crate) item: Rc<Item>,
    pub(crate) tries: Tries,
    pub(crate) read: Option<Arc<Read>>,
    pub(crate) slot: Slot,
    pub(crate) alone: Option<OwnedSemaphorePermit>,
    pub(crate) platform: Arc<Platform>,
    pub(crate) api: u16,
    pub(crate) meters: Rc<PlatformMeters>,
    pub(crate) times: Rc<PlatformTimes>,
    /// When its permit was given.
    pub(crate) given_at: At,
    pub(crate) grants: Vec<Grant>,
}

/// Faults on purpose, for tests of supervision; nothing outside them.
#[derive(Debug)]
pub(crate) struct Faults;

#[cfg(any(test, feature = "testkit"))]
#[expect(clippy::unused_self, reason = "the same calls as outside tests")]
impl Faults {
    pub(crate) fn collector(&self, item: &Item) {
        crate::testkit::point("attempt", &item.id);
        if let Some(faults) = crate::testkit::faults() {
            faults.collector(&item.id);
        }
    }

    pub(crate) fn throttle(&self, account: &crate::ids::AccountKey) {
        crate::testkit::point("step", account.account.as_str());
        if let Some(faults) = crate::testkit::faults() {
            faults.throttle(account.account.as_str());
        }
    }

    pub(crate) fn budget(&self, record: &AccountKey) {
        crate::testkit::point("budget step", record.account.as_str());
    }
}

#[cfg(not(any(test, feature = "testkit")))]
#[expect(clippy::unused_self, reason = "the same calls as under test")]
impl Faults {
    pub(crate) fn collector(&self, _item: &Item) {}

    pub(crate) fn throttle(&self, _account: &crate::ids::AccountKey) {}

    pub(crate) fn budget(&self, _record: &AccountKey) {}
}
