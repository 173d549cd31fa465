//! What a node has done so far, counted once for the summary, for `status` and for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tollgate_gate::Span;

use crate::ids::Slug;

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
    /// Answers with a bad status.
    pub bad_answers: Count,
    /// Fetches stored.
    pub fetches_done: Count,
    /// Fetches that turned out to have been stored by an earlier run.
    pub done_before: Count,
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
    limits: Mutex<BTreeMap<String, (u64, u64)>>,
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
    pub(crate) fn bad_answer(&self, status: u16) {
        self.bad_answers.add(1);
        if status == 429 {
            self.refused.add(1);
        }
    }

    pub(crate) fn done(&self, bytes: u64, objects: u32) {
        self.fetches_done.add(1);
        self.bytes.add(bytes);
        self.objects.add(u64::from(objects));
        self.ended();
    }

    pub(crate) fn finished_earlier(&self) {
        self.fetches_done.add(1);
        self.done_before.add(1);
        self.ended();
    }

    pub(crate) fn dead(&self) {
        self.fetches_dead.add(1);
        self.ended();
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

    /// Fetches that wait or are in flight.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Adds a stretch of calls under a limit: the least time they need, the time they took.
    pub(crate) fn limit_used(&self, platform: &Slug, limit: &str, needed: Span, taken: Span) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let (all_needed, all_taken) = limits.entry(format!("{platform}.{limit}")).or_default();
        *all_needed = all_needed.saturating_add(needed.0);
        // Two stamps of one clock can put the last call a hair before it was due.
        *all_taken = all_taken.saturating_add(taken.0.max(needed.0));
    }

    /// Per limit, how much of what it allows was used.
    pub fn limit_use(&self) -> Vec<LimitUse> {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let share = |(needed, taken): &(u64, u64)| *needed as f64 / (*taken).max(1) as f64;
        limits
            .iter()
            .map(|(limit, sums)| LimitUse { limit: limit.clone(), share: share(sums) })
            .collect()
    }
}
