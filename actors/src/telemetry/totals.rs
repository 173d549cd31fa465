//! What a node has done so far, counted once for the summary, for `status` and for metrics.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tollgate_gate::Span;

use super::limits::LimitMeters;
use crate::ids::{Seq, Slug};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of one node since its start.
#[derive(Debug, Default)]
pub struct Totals {
    /// Calls made.
    pub calls: Count,
    /// Answers that said "too many calls".
    pub refused: Count,
    /// Fetches stored.
    pub fetches_done: Count,
    /// Fetches given up.
    pub fetches_dead: Count,
    /// Objects stored, manifests not counted.
    pub objects: Count,
    /// Bytes of bodies after decompression.
    pub bytes: Count,
    /// Actors that died and were replaced.
    pub restarts: Count,
    /// Fetches that wait or are in flight: appended or found, less those that ended.
    outstanding: AtomicU64,
    ended_early: Mutex<EndedEarly>,
    limits: Mutex<BTreeMap<Slug, BTreeMap<Box<str>, Used>>>,
}

/// Fetches that ended in this process while its inputs are read. A line with such an id says nothing new;
/// one that ended in an earlier process counts among the done of this one.
#[derive(Debug)]
struct EndedEarly {
    /// The first fetch that came in here: it and all behind it ended here, if they ended.
    first_new: Seq,
    /// Those before it, so at most as many as were found waiting; nothing once the inputs are read.
    seqs: Option<HashSet<Seq>>,
}

impl Default for EndedEarly {
    fn default() -> Self {
        Self { first_new: Seq(u64::MAX), seqs: Some(HashSet::new()) }
    }
}

/// The use of one limit so far, in microseconds.
#[derive(Debug)]
struct Used {
    needed: u64,
    taken: u64,
    meters: LimitMeters,
}

/// How much of what one limit allows was used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LimitUse {
    /// `platform.limit`.
    pub limit: String,
    /// Time the calls need at least / time they took, summed over accounts: 1 is all of it.
    pub share: f64,
}

/// What a run did, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Fetches that came in, refused lines included.
    pub fetches: u64,
    /// Stored.
    pub done: u64,
    /// Given up.
    pub dead: u64,
    /// Still waiting.
    pub left: u64,
    /// Calls made.
    pub calls: u64,
    /// Answers that said "too many calls".
    pub refused: u64,
    /// Objects stored.
    pub objects: u64,
    /// Bytes of bodies after decompression.
    pub bytes: u64,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// Per limit, how much of what it allows was used.
    pub limits: Vec<LimitUse>,
}

impl Totals {
    pub(crate) fn done(&self, bytes: u64, objects: u32) {
        self.fetches_done.add(1);
        self.bytes.add(bytes);
        self.objects.add(u64::from(objects));
        self.ended();
    }

    /// A page of a fetch that is not done yet.
    pub(crate) fn page(&self, bytes: u64, objects: u32) {
        self.bytes.add(bytes);
        self.objects.add(u64::from(objects));
    }

    pub(crate) fn finished_earlier(&self) {
        self.fetches_done.add(1);
        self.ended();
    }

    pub(crate) fn dead(&self) {
        self.fetches_dead.add(1);
        self.ended();
    }

    /// A fetch is about to be recorded as ended.
    pub(crate) fn ending(&self, seq: Seq) {
        let mut early = self.ended_early.lock().unwrap_or_else(PoisonError::into_inner);
        if seq < early.first_new
            && let Some(seqs) = &mut early.seqs
        {
            seqs.insert(seq);
        }
    }

    /// A fetch has come in under a new number.
    pub(crate) fn came_new(&self, seq: Seq) {
        let mut early = self.ended_early.lock().unwrap_or_else(PoisonError::into_inner);
        early.first_new = early.first_new.min(seq);
    }

    /// Whether a fetch that has ended did so in this process, and so is counted.
    pub(crate) fn ended_here(&self, seq: Seq) -> bool {
        let early = self.ended_early.lock().unwrap_or_else(PoisonError::into_inner);
        seq >= early.first_new || early.seqs.as_ref().is_some_and(|seqs| seqs.contains(&seq))
    }

    /// No further lines will come: what ended meanwhile need not be remembered any longer.
    pub fn inputs_read(&self) {
        let mut early = self.ended_early.lock().unwrap_or_else(PoisonError::into_inner);
        early.seqs = None;
    }

    /// Fetches have come in or were found.
    pub(crate) fn come(&self, more: u64) {
        self.outstanding.fetch_add(more, Ordering::AcqRel);
    }

    fn ended(&self) {
        self.never_came(1);
    }

    /// Takes back what [`Totals::come`] counted too much.
    pub(crate) fn never_came(&self, less: u64) {
        // Never below zero: a fetch that was found late is counted as nothing rather than wrapped round.
        let take = |left: u64| Some(left.saturating_sub(less));
        let _before = self.outstanding.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
    }

    /// What was counted anew counts.
    pub(crate) fn recounted(&self, outstanding: u64) {
        self.outstanding.store(outstanding, Ordering::Release);
    }

    /// Fetches that wait or are in flight.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Adds to the calls under a limit: the least time they need, the time they took.
    pub(crate) fn limit_used(&self, platform: &Slug, limit: &str, needed: Span, taken: Span) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = match limits.get_mut(platform) {
            Some(limits) => limits,
            None => limits.entry(platform.clone()).or_default(),
        };
        let used = if let Some(used) = limits.get_mut(limit) {
            used
        } else {
            let meters = LimitMeters::new(platform, limit);
            limits.entry(limit.into()).or_insert(Used { needed: 0, taken: 0, meters })
        };
        used.needed = used.needed.saturating_add(needed.0);
        used.taken = used.taken.saturating_add(taken.0);
        used.meters.so_far(Span(used.needed), Span(used.taken));
    }

    /// Per limit, how much of what it allows was used.
    pub fn limit_use(&self) -> Vec<LimitUse> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |platform: &Slug, limit: &str, used: &Used| LimitUse {
            limit: format!("{platform}.{limit}"),
            share: used.needed as f64 / used.taken.max(1) as f64,
        };
        limits
            .iter()
            .flat_map(|(platform, limits)| {
                limits.iter().map(move |(limit, used)| told(platform, limit, used))
            })
            .collect()
    }
}
