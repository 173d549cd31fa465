//! Bugs put in on purpose, at the seams, to see whether the simulation finds them.

use std::sync::Arc;

use tollgate_gate::{At, LimitSet, Span};

use crate::ids::{AccountKey, Slug};
use crate::ledger::Stored;
use crate::ledger::record::Record;
use crate::plan::Plan;
use crate::recipe::budget_of_record;
use crate::throttle::gate::Gate;

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Another's record is read and not claimed.
    NoClaim,
    /// A confirmation that did not come is taken for one that did.
    LostIsStored,
    /// What a gone writer had in flight is not charged.
    InFlightIsFree,
    /// What the gone owner of a budget had lent or given is not charged.
    LentIsFree,
    /// A partition whose owner is gone is worked in, and its claim is not written.
    NoPartitionClaim,
}

/// Takes what is in flight out of another's record, as if it had never been, if that is what the bug does.
pub(super) fn spoil(bug: Option<Bug>, key: &AccountKey, stored: &mut Stored, plan: &Plan) {
    let limits = match bug {
        Some(Bug::InFlightIsFree) => account_limits(key, plan),
        Some(Bug::LentIsFree) => budget_limits(key, plan),
        _ => None,
    };
    let Some(limits) = &limits else { return };
    let mut record = Record::decode(&stored.record).expect("a record of ours");
    let now = At(1 << 50);
    let since = now.minus(Span::from(stored.age));
    let mut gate = Gate::default();
    gate.load(limits, &record.gate, (since, false), now);
    for id in gate.in_flight() {
        gate.give_back(limits, id);
    }
    record.gate = gate.encode(limits, since);
    stored.record = record.encode();
}

fn account_limits(key: &AccountKey, plan: &Plan) -> Option<Arc<LimitSet>> {
    Some(Arc::clone(&plan.platforms.get(&key.platform)?.of(&key.account).limits))
}

fn budget_limits(key: &AccountKey, plan: &Plan) -> Option<Arc<LimitSet>> {
    let mut platforms = plan.platforms.values();
    let platform = platforms.find(|one| Slug::of_budgets(&one.name) == key.platform)?;
    let place = budget_of_record(platform, key.account.as_str())?;
    Some(Arc::clone(&platform.budgets[place].counted.limits))
}
