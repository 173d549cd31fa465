//! What is learnt of a call after it was charged.

use crate::charges::Entry;
use crate::decide::Cost;
use crate::ledger::Ledger;
use crate::limit::{ApiIx, Limit, LimitSet, Rule};
use crate::time::At;

/// A call of the past as it was charged: with [`Ledger::written`] at `stamp` and [`Ledger::answered`] at
/// `answered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charged {
    /// Of which api.
    pub api: ApiIx,
    /// Its last stamp of writing.
    pub stamp: At,
    /// When its answer began.
    pub answered: At,
}

impl LimitSet {
    /// Whether every limit that counts by time keeps its charges so that one can be moved.
    pub fn can_amend(&self) -> bool {
        let mut dated = self.limits().iter().filter(|limit| limit.rule.window().is_some());
        dated.all(|limit| is_amended(limit.rule))
    }

    /// Whether some limit does not count the call any more at `now`, nor will it if the call is moved after
    /// [`Ledger::prune`]: until then nothing that is learnt of the call could have changed a decision.
    pub fn has_left(&self, call: Charged, now: At) -> bool {
        self.of(call.api).any(|(_, limit)| {
            is_amended(limit.rule)
                && limit.rule.window().is_some()
                && call.charge(self, limit, call.stamp) <= self.left_by(limit, now)
        })
    }
}

impl Charged {
    /// When a limit counts the call if that was its stamp.
    fn charge(&self, limits: &LimitSet, limit: &Limit, stamp: At) -> At {
        let by_guard = limit.charge_of(stamp).map_or(self.answered, |at| at.min(self.answered));
        limits.rounded(limit, by_guard)
    }
}

/// Buckets, scores and windows from the first call keep more of a call than when it was.
fn is_amended(rule: Rule) -> bool {
    matches!(rule, Rule::Every { .. } | Rule::Sliding { .. } | Rule::Calendar { .. })
}

impl Ledger {
    /// The request of a charged call may have arrived later than was thought: from now on it counts as if its
    /// stamp had been `stamp`, but never later than its answer. An earlier stamp changes nothing, so that a
    /// decision can only become stricter.
    ///
    /// `costs` are those of its [`Ask`](crate::Ask). A limit that does not know the call at that charge any
    /// more (its window is over, or its charges were joined) keeps what it has, as does one whose cost was
    /// only settled afterwards, and one that is not of [`LimitSet::can_amend`].
    pub fn arrived_later(&mut self, limits: &LimitSet, call: Charged, costs: &[Cost], stamp: At) {
        for (index, limit) in limits.of(call.api).filter(|(_, limit)| is_amended(limit.rule)) {
            let cost = costs.get(index).copied().unwrap_or(Cost::ONE);
            if cost.is_estimate || cost.units == 0 {
                continue;
            }
            let charge = |stamp| call.charge(limits, limit, stamp);
            let (from, to) = (charge(call.stamp), charge(stamp));
            let bucket = limit.bucket(call.api);
            if to > from && self.take_back(index, bucket, from, cost.units) {
                self.add(index, bucket, Entry { at: to, calls: cost.units });
            }
        }
    }

    /// Takes what was charged at that moment out of a counter; false if it is not there.
    fn take_back(&mut self, limit: usize, bucket: Option<ApiIx>, at: At, units: u32) -> bool {
        let counter = self
            .charges
            .iter_mut()
            .find(|charges| charges.limit == limit && charges.bucket == bucket);
        counter.is_some_and(|charges| charges.take_back(at, units))
    }
}
