//! A cluster in one thread, by seed: several nodes with their real actors, gates, fence, ledger, sessions and
//! keepers, on one queue and one ledger in memory, on paused time, through a network that delays, loses and repeats;
//! processes die at any await, are stopped, are cut off, lose their leases all at once. A provider that shares no code
//! with the gate counts on arrival.
//!
//! One seed is one run, to the last microsecond: `TOLLGATE_SIM_SEED=7` runs one and prints its trace,
//! `TOLLGATE_SIM_SEEDS=5000` runs so many, `TOLLGATE_SIM_FROM=40` begins with another than 0. What keeps it exact stands
//! in docs/simulation.md.

mod board;
mod bugs;
mod host;
mod letters;
mod net;
mod process;
mod provider;
mod queue;
mod server;
mod world;

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::board::{buckets, buckets_that_end};
use self::bugs::Bug;
use self::host::Life;
use crate::state::clock;
use crate::testkit::on_points;

/// Seeds of a run of all tests.
const SEEDS: u64 = 120;
/// Seeds run at once.
const AT_ONCE: usize = 2;
/// What is told of a run that went wrong.
const WRONGS_MAX: usize = 10;

/// Threads that runtimes have started for what blocks.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whose process is being polled.
    static RUNS: RefCell<Option<Arc<Life>>> = const { RefCell::new(None) };
}

/// Whether this runs in a simulated process.
pub(crate) fn is_simulated() -> bool {
    RUNS.with(|runs| runs.borrow().is_some())
}

/// What was found to be wrong.
#[derive(Debug)]
struct Wrongs(Mutex<Vec<String>>, Arc<Trace>);

impl Wrongs {
    fn new(trace: Arc<Trace>) -> Self {
        Self(Mutex::default(), trace)
    }

    fn push(&self, wrong: String) {
        self.1.note(|| format!("WRONG {wrong}"));
        let mut wrongs = self.0.lock().unwrap();
        if wrongs.len() < WRONGS_MAX {
            wrongs.push(wrong);
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// What happened, in order: as a hash, and as text if it is shown.
#[derive(Debug)]
struct Trace {
    start: Instant,
    is_shown: bool,
    hasher: Mutex<DefaultHasher>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { start: Instant::now(), is_shown: false, hasher: Mutex::default() }
    }
}

impl Trace {
    fn note(&self, what: impl FnOnce() -> String) {
        let (us, what) = (self.start.elapsed().as_micros(), what());
        if self.is_shown {
            println!("{:>9}.{:03} {what}", us / 1000, us % 1000);
        }
        (us, what).hash(&mut *self.hasher.lock().unwrap());
    }

    /// What is told of where a trace is shown, and nowhere else.
    fn show(&self, what: impl FnOnce() -> String) {
        if self.is_shown {
            self.note(what);
        }
    }

    fn hash(&self) -> u64 {
        self.hasher.lock().unwrap().finish()
    }

    fn ms(&self, at: Instant) -> f64 {
        at.duration_since(self.start).as_secs_f64() * 1000.0
    }
}

/// How a run went.
#[derive(Debug)]
struct Outcome {
    seed: u64,
    wrongs: Vec<String>,
    hash: u64,
    calls: usize,
    lasted: Duration,
}

impl Outcome {
    fn assert_right(&self) {
        let Self { seed, wrongs, .. } = self;
        assert!(
            wrongs.is_empty(),
            "seed {seed}: {wrongs:#?}\nits trace: TOLLGATE_SIM_SEED={seed} cargo test -p tollgate-actors --lib sim::many -- --nocapture"
        );
    }
}

/// One run, on a thread of its own: what the last one left in a thread's memory is not there.
fn run(seed: u64, bug: Option<Bug>, is_shown: bool) -> Outcome {
    let thread = std::thread::Builder::new().name(format!("seed {seed}"));
    thread.spawn(move || run_here(seed, bug, is_shown)).unwrap().join().unwrap()
}

/// Nothing is read or written: asking the system for that at each step costs.
fn parts(builder: &mut tokio::runtime::Builder) -> &mut tokio::runtime::Builder {
    builder.enable_time().on_thread_start(|| _ = THREADS.fetch_add(1, Ordering::Relaxed))
}

fn run_here(seed: u64, bug: Option<Bug>, is_shown: bool) -> Outcome {
    let (tell, told) = std::sync::mpsc::channel();
    fastrand::seed(seed);
    super::paused_with(parts, || async {
        let start = Instant::now();
        clock::paused::follow(Some(start));
        let _hooked = on_points(|_, _| {
            let life = RUNS.with(|runs| runs.borrow().clone());
            if let Some(life) = life {
                life.step();
            }
        });
        let trace = Arc::new(Trace { start, is_shown, ..Trace::default() });
        tell.send(world::run(seed, bug, trace).await).unwrap();
    });
    let threads = THREADS.load(Ordering::Relaxed);
    assert_eq!(threads, 0, "something ran on a thread beside it: a seed is no one run");
    told.recv().unwrap()
}

/// Runs these seeds, some at once, until one says that it is enough; answers in the order of the seeds, those only that
/// were begun.
fn run_many(
    seeds: Range<u64>,
    bug: Option<Bug>,
    is_enough: impl Fn(&Outcome) -> bool + Send + Sync,
) -> Vec<Outcome> {
    let (next, outcomes) = (Mutex::new(seeds), Mutex::new(Vec::new()));
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                loop {
                    let Some(seed) = next.lock().unwrap().next() else { return };
                    let outcome = run(seed, bug, false);
                    if is_enough(&outcome) {
                        *next.lock().unwrap() = 0..0;
                    }
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap())
}

#[test]
fn many_seeds_and_nothing_is_lost_and_no_limit_is_exceeded() {
    if let Some(seed) = from_env("TOLLGATE_SIM_SEED") {
        let outcome = run(seed, None, true);
        println!("{outcome:?}");
        return outcome.assert_right();
    }
    let seeds = from_env("TOLLGATE_SIM_SEEDS").unwrap_or(SEEDS);
    let from = from_env("TOLLGATE_SIM_FROM").unwrap_or(0);
    let outcomes = run_many(from..from + seeds, None, |outcome| !outcome.wrongs.is_empty());
    outcomes.iter().for_each(Outcome::assert_right);
    let calls: usize = outcomes.iter().map(|outcome| outcome.calls).sum();
    let lasted: Duration = outcomes.iter().map(|outcome| outcome.lasted).sum();
    println!("{seeds} seeds, {calls} calls, {lasted:?} of simulated time");
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..4 {
        let (one, other) = (run(seed, None, false), run(seed, None, false));
        one.assert_right();
        assert_eq!(one.hash, other.hash, "seed {seed}");
    }
}

/// The first seed that finds a bug.
fn found_by(bug: Bug) -> u64 {
    let outcomes = run_many(0..SEEDS, Some(bug), |outcome| !outcome.wrongs.is_empty());
    let found = outcomes.iter().find(|outcome| !outcome.wrongs.is_empty());
    let found = found.unwrap_or_else(|| panic!("{bug:?} is not found by any of {SEEDS} seeds"));
    println!("{bug:?} is found by seed {}: {}", found.seed, found.wrongs[0]);
    found.seed
}

#[test]
fn a_record_that_is_taken_over_without_a_claim_is_found() {
    found_by(Bug::NoClaim);
}

#[test]
fn a_lost_confirmation_taken_for_one_is_found() {
    found_by(Bug::LostIsStored);
}

#[test]
fn calls_in_flight_of_a_gone_writer_that_are_not_charged_are_found() {
    found_by(Bug::InFlightIsFree);
}

#[test]
fn calls_lent_by_a_gone_owner_of_a_budget_that_are_not_charged_are_found() {
    found_by(Bug::LentIsFree);
}

#[test]
fn a_partition_that_is_worked_in_without_a_claim_is_found() {
    found_by(Bug::NoPartitionClaim);
}
