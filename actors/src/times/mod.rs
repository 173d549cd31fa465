//! Where time goes: what accounts with work wait for, and what their attempts spend their time with.
//!
//! Kept by each shard for itself, per platform and api, over the last minute: a ring of stretches of 5 s, each with a
//! sum for every cause and every [`Phase`]. An account with something waiting is in one cause at a time, so the
//! sums of an api's causes are account-seconds; an attempt is in one phase at a time. Moments that others have taken
//! anyway are used, and adding one is a few nanoseconds. Memory is bounded: so many pairs of platform and api a shard,
//! the rest together.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tollgate_gate::{At, Span};

use crate::ids::Slug;
use crate::plan::Platform;

/// Stretches of so many microseconds are summed up.
const STRETCH_US: i64 = 5_000_000;
/// Stretches that are kept: the last minute, what begins it, and the one that goes on.
const STRETCHES: i64 = 14;
/// From here on a shard is late with an account that might go on.
const LATE_FROM: Span = Span::from_millis(10);
/// How far back can be told.
pub const WINDOW_MAX: Duration = Duration::from_secs(60);
/// Pairs of platform and api that a shard keeps apart: at 14 KiB each, 3.5 MiB.
const PAIRS_MAX: usize = 256;
/// The api under which further ones are told; no api can be called that.
pub const OTHER: &str = "(other)";

/// Most limits that an account's gate has.
const LIMITS: usize = 32;
/// Causes that are no limit.
const PLAIN: [Cause; 14] = [
    Cause::Budget,
    Cause::Hold,
    Cause::Paused,
    Cause::Retry,
    Cause::Collector,
    Cause::Reading,
    Cause::Ledger,
    Cause::Store,
    Cause::Back,
    Cause::Signing,
    Cause::Drain,
    Cause::Turn,
    Cause::NotBefore,
    Cause::Other,
];
const CAUSES: usize = 2 * LIMITS + PLAIN.len();

/// What an account with something waiting waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Cause {
    /// The limit at this place, until a time that is known.
    Limit(u8),
    /// The limit at this place, until a call in flight has reported.
    Flight(u8),
    /// A limit that is wider or narrower than an account.
    Budget,
    /// A hold after a refusal, or after what an answer said.
    Hold,
    /// An operator's hold.
    Paused,
    /// Nothing but the next try of fetches that failed.
    Retry,
    /// A free collector.
    Collector,
    /// The queue: its next fetch is being read.
    Reading,
    /// The ledger: its record is being read or stored.
    Ledger,
    /// The object store, which takes no bodies.
    Store,
    /// NATS, which does not answer.
    Back,
    /// What signs its calls.
    Signing,
    /// The node ends, or another node takes over.
    Drain,
    /// Its turn: to have an actor, or with its shard, which is late.
    Turn,
    /// The time that a fetch asks for.
    NotBefore,
    /// Something else.
    Other,
}

impl Cause {
    /// A limit of a decision: `known` if it says until when.
    pub(crate) fn limit(place: usize, known: bool) -> Self {
        match u8::try_from(place) {
            Ok(place) if usize::from(place) < LIMITS => {
                if known {
                    Self::Limit(place)
                } else {
                    Self::Flight(place)
                }
            }
            _ => Self::Other,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Limit(place) => usize::from(place).min(LIMITS - 1),
            Self::Flight(place) => LIMITS + usize::from(place).min(LIMITS - 1),
            // In the order of `PLAIN`; a test compares the two.
            Self::Budget => 64,
            Self::Hold => 65,
            Self::Paused => 66,
            Self::Retry => 67,
            Self::Collector => 68,
            Self::Reading => 69,
            Self::Ledger => 70,
            Self::Store => 71,
            Self::Back => 72,
            Self::Signing => 73,
            Self::Drain => 74,
            Self::Turn => 75,
            Self::NotBefore => 76,
            Self::Other => 77,
        }
    }

    fn of_index(index: usize) -> Self {
        match u8::try_from(index) {
            Ok(place) if index < LIMITS => Self::Limit(place),
            Ok(place) if index < 2 * LIMITS => Self::Flight(place - LIMITS as u8),
            _ => PLAIN.get(index - 2 * LIMITS).copied().unwrap_or(Self::Other),
        }
    }

    /// As metrics and answers name it.
    pub(crate) fn kind(self) -> Waits {
        match self {
            Self::Limit(_) => Waits::Limit,
            Self::Flight(_) => Waits::Flight,
            Self::Budget => Waits::Budget,
            Self::Hold => Waits::Hold,
            Self::Paused => Waits::Paused,
            Self::Retry => Waits::Retry,
            Self::Collector => Waits::Collector,
            Self::Reading => Waits::Queue,
            Self::Ledger => Waits::Ledger,
            Self::Store => Waits::Store,
            Self::Back => Waits::Nats,
            Self::Signing => Waits::Signing,
            Self::Drain => Waits::Drain,
            Self::Turn => Waits::Turn,
            Self::NotBefore => Waits::NotBefore,
            Self::Other => Waits::Other,
        }
    }

    /// Whether it is over at a time that is known beforehand, where there is one.
    pub(crate) fn is_timed(self) -> bool {
        matches!(self, Self::Limit(_) | Self::Hold | Self::Retry)
    }

    /// The place of the limit that it is.
    pub(crate) fn place(self) -> Option<usize> {
        match self {
            Self::Limit(place) | Self::Flight(place) => Some(usize::from(place)),
            _ => None,
        }
    }
}

/// What an account with something waiting waits for, as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waits {
    /// A limit of its own, until a time that is known.
    Limit,
    /// A limit of its own, until a call in flight has reported.
    Flight,
    /// A limit that it shares with others.
    Budget,
    /// A hold after a refusal, or after what an answer said.
    Hold,
    /// An operator's hold.
    Paused,
    /// The next try of fetches that failed.
    Retry,
    /// A free collector.
    Collector,
    /// The queue, which is being read.
    Queue,
    /// The ledger, which reads or stores its record.
    Ledger,
    /// The object store, which takes no bodies.
    Store,
    /// NATS, which does not answer.
    Nats,
    /// What signs its calls.
    Signing,
    /// The end of the node, or another node that takes over.
    Drain,
    /// Its turn: to have an actor, or with its shard, which is late.
    Turn,
    /// The time that a fetch asks for by `not_before`.
    NotBefore,
    /// Something else.
    #[serde(other)]
    Other,
}

impl Waits {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Limit,
        Self::Flight,
        Self::Budget,
        Self::Hold,
        Self::Paused,
        Self::Retry,
        Self::Collector,
        Self::Queue,
        Self::Ledger,
        Self::Store,
        Self::Nats,
        Self::Signing,
        Self::Drain,
        Self::Turn,
        Self::NotBefore,
        Self::Other,
    ];

    /// Its name in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Flight => "flight",
            Self::Budget => "budget",
            Self::Hold => "hold",
            Self::Paused => "paused",
            Self::Retry => "retry",
            Self::Collector => "collector",
            Self::Queue => "queue",
            Self::Ledger => "ledger",
            Self::Store => "store",
            Self::Nats => "nats",
            Self::Signing => "signing",
            Self::Drain => "drain",
            Self::Turn => "turn",
            Self::NotBefore => "not_before",
            Self::Other => "other",
        }
    }
}

/// What an attempt spends its time with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// From its decision until its record was confirmed and its permit given; budgets that were asked included.
    Ledger,
    /// Until its request was written: a collector's turn, name, connection, TLS.
    Connect,
    /// Until its answer began.
    FirstByte,
    /// Until its answer was there.
    Body,
    /// Until what it brought was stored, or could not be.
    Store,
    /// Until the queue had recorded that it is done.
    Ack,
}

impl Phase {
    /// All of them, in the order in which an attempt has them.
    pub const ALL: [Self; 6] =
        [Self::Ledger, Self::Connect, Self::FirstByte, Self::Body, Self::Store, Self::Ack];

    /// Its name in metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Connect => "connect",
            Self::FirstByte => "first_byte",
            Self::Body => "body",
            Self::Store => "store",
            Self::Ack => "ack",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Throttled,
    Unreachable,
    StoreAway,
    Failed,
}

/// How attempts ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// Stored.
    pub done: u64,
    /// Refused as too many.
    pub throttled: u64,
    /// No connection.
    pub unreachable: u64,
    /// Not taken by the object store.
    pub store_away: u64,
    /// Anything else.
    pub failed: u64,
}

impl Ends {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.done + self.throttled + self.unreachable + self.store_away + self.failed
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.throttled += other.throttled;
        self.unreachable += other.unreachable;
        self.store_away += other.store_away;
        self.failed += other.failed;
    }

    fn count(&mut self, end: End) {
        match end {
            End::Done => self.done += 1,
            End::Throttled => self.throttled += 1,
            End::Unreachable => self.unreachable += 1,
            End::StoreAway => self.store_away += 1,
            End::Failed => self.failed += 1,
        }
    }
}

/// Time that was spent with something, again and again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Microseconds that lie in the window, all times together; also of what is not over yet.
    pub us: u64,
    /// Times that it was over, and how long those were from beginning to end.
    pub count: u64,
    /// See `count`.
    pub whole_us: u64,
    /// Times that it goes on, and how long those are so far.
    pub open: u64,
    /// See `open`.
    pub open_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

impl Spent {
    /// In seconds.
    pub fn seconds(&self) -> f64 {
        Duration::from_micros(self.us).as_secs_f64()
    }

    /// Of one time, in seconds. Those that go on count where they are longer.
    pub fn mean(&self) -> f64 {
        let mean = |us: u64, count: u64| us as f64 / 1e6 / count.max(1) as f64;
        let all = mean(self.whole_us + self.open_us, self.count + self.open);
        mean(self.whole_us, self.count).max(all)
    }

    /// One time from beginning to end is over.
    pub(crate) fn is_over(&mut self, took: Span) {
        self.count += 1;
        self.whole_us += took.0;
        self.max_us = self.max_us.max(took.0);
    }

    /// One time goes on.
    pub(crate) fn is_open(&mut self, so_far: Span) {
        self.open += 1;
        self.open_us += so_far.0;
        self.max_us = self.max_us.max(so_far.0);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.us += other.us;
        self.count += other.count;
        self.whole_us += other.whole_us;
        self.open += other.open;
        self.open_us += other.open_us;
        self.max_us = self.max_us.max(other.max_us);
    }
}

/// What a stretch of time, or a window of them, comes to.
#[derive(Debug, Clone)]
pub(crate) struct Sums {
    waits: [u64; CAUSES],
    phases: [Spent; Phase::ALL.len()],
    pub(crate) ends: Ends,
    /// The shortest first byte since the shard started.
    pub(crate) best_us: Option<u64>,
}

impl Default for Sums {
    fn default() -> Self {
        let phases = [Spent::default(); Phase::ALL.len()];
        Self { waits: [0; CAUSES], phases, ends: Ends::default(), best_us: None }
    }
}

impl Sums {
    /// The causes that took time, and how many microseconds.
    pub(crate) fn waits(&self) -> impl Iterator<Item = (Cause, u64)> {
        let causes = self.waits.iter().enumerate();
        causes.filter(|(_, us)| **us > 0).map(|(index, us)| (Cause::of_index(index), *us))
    }

    pub(crate) fn phase(&self, phase: Phase) -> Spent {
        self.phases[phase as usize]
    }

    /// Something that goes on: since then, as far as it lies in the window. `due`: when it was to be over.
    pub(crate) fn goes_on(
        &mut self,
        cause: Cause,
        (since, due): (At, Option<At>),
        window: (At, At),
    ) {
        let late = late_from(cause, due, window.1);
        let until = late.map_or(window.1, |late| late.max(since));
        self.waits[cause.index()] += overlap((since, until), window);
        if late.is_some() {
            self.waits[Cause::Turn.index()] += overlap((until, window.1), window);
        }
    }

    /// A phase, over or going on, as far as it lies in the window.
    pub(crate) fn phase_goes_on(&mut self, phase: Phase, from: (At, At), window: (At, At)) {
        let spent = &mut self.phases[phase as usize];
        spent.us += overlap(from, window);
        let took = from.1.since(from.0);
        if from.1 < window.1 { spent.is_over(took) } else { spent.is_open(took) }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (own, more) in self.waits.iter_mut().zip(&other.waits) {
            *own += more;
        }
        for (own, more) in self.phases.iter_mut().zip(&other.phases) {
            own.add(more);
        }
        self.ends.add(&other.ends);
        self.best_us = match (self.best_us, other.best_us) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }
}

/// From when on the shard is late, where a wait was to be over by `due` and is not now: what it waits for since is its
/// turn.
pub(crate) fn late_from(cause: Cause, due: Option<At>, now: At) -> Option<At> {
    due.filter(|due| cause.is_timed() && now.since(*due) >= LATE_FROM)
}

fn overlap((from, to): (At, At), (start, end): (At, At)) -> u64 {
    to.min(end).since(from.max(start)).0
}

/// The stretches of one pair.
#[derive(Debug)]
struct Ring {
    stretches: Vec<(i64, Sums)>,
}

impl Default for Ring {
    fn default() -> Self {
        Self { stretches: (0..STRETCHES).map(|_| (i64::MIN, Sums::default())).collect() }
    }
}

fn number_of(at: At) -> i64 {
    at.0.div_euclid(STRETCH_US)
}

impl Ring {
    /// The stretch of that number; nothing where it is over for longer than is kept.
    fn stretch(&mut self, number: i64) -> Option<&mut Sums> {
        let place = usize::try_from(number.rem_euclid(STRETCHES)).unwrap_or(0);
        let (kept, sums) = &mut self.stretches[place];
        if *kept < number {
            *kept = number;
            *sums = Sums::default();
        }
        (*kept == number).then_some(sums)
    }

    /// Adds a piece of time to the stretches in which it lies; the last one is told that it is.
    fn add(&mut self, from: At, to: At, mut add: impl FnMut(&mut Sums, u64, bool)) {
        let last = number_of(to);
        let first = number_of(from.min(to)).max(last - (STRETCHES - 1));
        for number in first..=last {
            let start = At(number * STRETCH_US);
            let us = overlap((from, to), (start, start.plus(Span(STRETCH_US.unsigned_abs()))));
            if let Some(sums) = self.stretch(number) {
                add(sums, us, number == last);
            }
        }
    }

    fn sum(&self, start: At) -> Sums {
        let from = number_of(start);
        let mut sum = Sums::default();
        for (_, sums) in self.stretches.iter().filter(|(number, _)| *number >= from) {
            sum.add(sums);
        }
        sum
    }
}

/// When the window begins that ends now and is so long, or up to a stretch longer: where a stretch does.
pub(crate) fn window_start(now: At, window: Duration) -> At {
    let window = window.min(WINDOW_MAX);
    let first = now.minus(Span::from(window)).0;
    At(first.div_euclid(STRETCH_US) * STRETCH_US)
}

/// The moments of an attempt that is over; what did not happen is missing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    /// Its decision.
    pub(crate) decided: At,
    /// The permit was given.
    pub(crate) given: At,
    pub(crate) written: Option<At>,
    pub(crate) answered: Option<At>,
    pub(crate) call_ended: Option<At>,
    /// What it brought is stored, the queue is told.
    pub(crate) stored: Option<At>,
}

impl Moments {
    /// The phases that it had until `now`, each from when until when; the last of them ends now.
    pub(crate) fn phases(&self, now: At) -> impl Iterator<Item = (Phase, (At, At))> {
        // Whoever has no later moment was in that phase to the last.
        let ledger = (Phase::Ledger, (self.decided, self.given));
        let until = |next: Option<At>| next.unwrap_or(now).min(now);
        let over = self.call_ended.map(|at| at.min(now));
        let connect = Some((self.given, until(self.written.or(over))));
        let first = self.written.map(|at| (at, until(self.answered.or(over))));
        let body = self.answered.map(|at| (at, until(over)));
        // A call that brought nothing has nothing to store.
        let store = over.filter(|_| self.answered.is_some()).map(|at| (at, until(self.stored)));
        let ack = self.stored.map(|at| (at, now));
        let rest = [
            (Phase::Connect, connect),
            (Phase::FirstByte, first),
            (Phase::Body, body),
            (Phase::Store, store),
            (Phase::Ack, ack),
        ];
        [ledger].into_iter().chain(rest.into_iter().filter_map(|(phase, at)| Some((phase, at?))))
    }
}

/// One platform's, on one shard.
#[derive(Debug)]
pub(crate) struct PlatformTimes {
    platform: std::sync::Arc<Platform>,
    /// By the number of the api; made when it is needed.
    apis: Box<[Kept]>,
    others: Rc<Others>,
}

#[derive(Debug, Default)]
struct Kept {
    ring: RefCell<Option<Box<Ring>>>,
    best_us: Cell<Option<u64>>,
}

#[derive(Debug, Default)]
struct Others {
    ring: RefCell<Ring>,
    pairs: Cell<usize>,
}

impl PlatformTimes {
    fn new(platform: &std::sync::Arc<Platform>, others: &Rc<Others>) -> Self {
        let apis = platform.apis.iter().map(|_| Kept::default()).collect();
        Self { platform: std::sync::Arc::clone(platform), apis, others: Rc::clone(others) }
    }

    fn with(&self, api: u16, add: impl FnOnce(&mut Ring)) {
        let Some(kept) = self.apis.get(usize::from(api)) else {
            return add(&mut self.others.ring.borrow_mut());
        };
        let mut ring = kept.ring.borrow_mut();
        if ring.is_none() {
            let pairs = self.others.pairs.get();
            if pairs >= PAIRS_MAX {
                return add(&mut self.others.ring.borrow_mut());
            }
            self.others.pairs.set(pairs + 1);
        }
        add(ring.get_or_insert_default());
    }

    /// An account waited for that.
    pub(crate) fn waited(&self, (api, cause): (u16, Cause), from: At, to: At) {
        if from < to {
            let index = cause.index();
            self.with(api, |ring| ring.add(from, to, |sums, us, _| sums.waits[index] += us));
        }
    }

    /// The same of something that was to be over by `due`: from then on the shard was late.
    pub(crate) fn waited_until(&self, cause: (u16, Cause), due: Option<At>, from: At, to: At) {
        match late_from(cause.1, due, to) {
            None => self.waited(cause, from, to),
            Some(late) => {
                let late = late.max(from);
                self.waited(cause, from, late);
                self.waited((cause.0, Cause::Turn), late, to);
            }
        }
    }

    /// An attempt is over.
    pub(crate) fn attempt(&self, api: u16, moments: &Moments, end: End, now: At) {
        if let (Some(written), Some(answered)) = (moments.written, moments.answered)
            && let Some(kept) = self.apis.get(usize::from(api))
        {
            let took = answered.since(written).0;
            kept.best_us.set(Some(kept.best_us.get().map_or(took, |best| best.min(took))));
        }
        self.with(api, |ring| {
            for (phase, (from, to)) in moments.phases(now) {
                ring.add(from, to, |sums, us, is_last| {
                    let spent = &mut sums.phases[phase as usize];
                    spent.us += us;
                    if is_last {
                        spent.is_over(to.since(from));
                    }
                });
            }
            if let Some(sums) = ring.stretch(number_of(now)) {
                sums.ends.count(end);
            }
        });
    }
}

impl Drop for PlatformTimes {
    fn drop(&mut self) {
        let made = self.apis.iter().filter(|kept| kept.ring.borrow().is_some()).count();
        self.others.pairs.set(self.others.pairs.get().saturating_sub(made));
    }
}

/// One shard's.
#[derive(Debug, Default)]
pub(crate) struct Times {
    platforms: RefCell<BTreeMap<Slug, Rc<PlatformTimes>>>,
    others: Rc<Others>,
}

impl Times {
    /// Those of a platform as it is in force; another reading of it begins anew.
    pub(crate) fn of(&self, platform: &std::sync::Arc<Platform>) -> Rc<PlatformTimes> {
        let mut platforms = self.platforms.borrow_mut();
        if let Some(known) = platforms.get(&platform.name)
            && (std::sync::Arc::ptr_eq(&known.platform, platform)
                || known.platform.generation == platform.generation)
        {
            return Rc::clone(known);
        }
        let new = Rc::new(PlatformTimes::new(platform, &self.others));
        platforms.insert(platform.name.clone(), Rc::clone(&new));
        new
    }

    /// What all pairs come to from that moment on; those that are not kept apart have no name.
    pub(crate) fn sums(&self, start: At) -> Vec<(Option<(Slug, u16)>, Sums)> {
        let mut all = vec![(None, self.others.ring.borrow().sum(start))];
        for (name, times) in self.platforms.borrow().iter() {
            for (api, kept) in (0..).zip(&times.apis) {
                if let Some(ring) = &*kept.ring.borrow() {
                    let sums = Sums { best_us: kept.best_us.get(), ..ring.sum(start) };
                    all.push((Some((name.clone(), api)), sums));
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
