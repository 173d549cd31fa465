//! What is learnt of a call after it was charged.

use crate::charges::Entry;
use crate::ledger::Ledger;
use crate::limit::{ApiIx, LimitSet};
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

impl Ledger {
    /// The request of a charged call may have arrived later than was thought: from now on it counts as if its
    /// stamp had been `stamp`, but never later than its answer. An earlier stamp changes nothing, so that a
    /// decision can only become stricter.
    ///
    /// A limit that does not know the call at that charge any more (its window is over, or its charges were
    /// joined) keeps what it has.
    pub fn arrived_later(&mut self, limits: &LimitSet, call: Charged, stamp: At) {
        for (index, limit) in limits.of(call.api) {
            if limit.rule.window().is_none() {
                continue;
            }
            let charged = |stamp: At| {
                let by_guard =
                    limit.charge_of(stamp).map_or(call.answered, |at| at.min(call.answered));
                by_guard.rounded_up(limit.rule.rounding())
            };
            let (from, to) = (charged(call.stamp), charged(stamp));
            let bucket = limit.bucket(call.api);
            if to > from && self.take_back(index, bucket, from) {
                self.add(index, bucket, Entry { at: to, calls: 1 });
            }
        }
    }

    /// Takes one call charged at that moment out of a counter; false if there is none.
    fn take_back(&mut self, limit: usize, bucket: Option<ApiIx>, at: At) -> bool {
        let counter = self
            .charges
            .iter_mut()
            .find(|charges| charges.limit == limit && charges.bucket == bucket);
        counter.is_some_and(|charges| charges.take_back(at))
    }
}
