//! What metrics tell of limits: which one accounts wait for, and how much of each is used.

use std::collections::BTreeMap;
use std::fmt;

use metrics::{Counter, Gauge};
use tollgate_gate::Span;

use super::metrics::{LIMIT_NEEDED, LIMIT_TAKEN, LIMIT_WAITING, Metric};
use crate::ids::Slug;
use crate::plan::Plan;

/// In a second.
const MICROS: u64 = 1_000_000;

/// The series of the use of one limit.
pub(crate) struct LimitMeters {
    needed: Counter,
    taken: Counter,
}

impl LimitMeters {
    /// There from now on, at zero.
    pub(crate) fn new(platform: &Slug, limit: &str) -> Self {
        let new = |metric: &Metric| {
            let counter = metric.counter(&[platform.as_str(), limit]);
            counter.increment(0);
            counter
        };
        Self { needed: new(&LIMIT_NEEDED), taken: new(&LIMIT_TAKEN) }
    }

    /// The calls so far need so much, and took so much. Counted in whole seconds.
    pub(crate) fn so_far(&self, needed: Span, taken: Span) {
        self.needed.absolute(needed.0 / MICROS);
        self.taken.absolute(taken.0 / MICROS);
    }
}

impl fmt::Debug for LimitMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitMeters").finish_non_exhaustive()
    }
}

/// Which limits accounts wait for. Those that were removed stay, at zero.
#[derive(Default)]
pub(crate) struct LimitGauges {
    waiting: BTreeMap<(Slug, String), Gauge>,
    /// Also of limits that are wider than an account.
    used: BTreeMap<(Slug, String), LimitMeters>,
}

impl LimitGauges {
    /// So many accounts wait for the limit at that place of a platform's.
    pub(crate) fn show(&mut self, plan: &Plan, waiting: &BTreeMap<(Slug, usize), u64>) {
        let mut by_name = BTreeMap::new();
        for platform in plan.platforms.values() {
            for (place, limit) in platform.limits.limits().iter().enumerate() {
                let key = (platform.name.clone(), limit.name.clone());
                let gauge = || LIMIT_WAITING.gauge(&[key.0.as_str(), &key.1]);
                self.waiting.entry(key.clone()).or_insert_with(gauge);
                let meters = || LimitMeters::new(&key.0, &key.1);
                self.used.entry(key.clone()).or_insert_with(meters);
                let count = waiting.get(&(platform.name.clone(), place)).copied().unwrap_or(0);
                *by_name.entry(key).or_default() += count;
            }
            let wider = platform.budgets.iter().flat_map(|budget| budget.counted.limits.limits());
            for limit in wider {
                let key = (platform.name.clone(), limit.name.clone());
                self.used.entry(key).or_insert_with_key(|key| LimitMeters::new(&key.0, &key.1));
            }
        }
        for (key, gauge) in &self.waiting {
            gauge.set(by_name.get(key).copied().unwrap_or(0_u64) as f64);
        }
    }
}

impl fmt::Debug for LimitGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitGauges").field("limits", &self.used.len()).finish_non_exhaustive()
    }
}
