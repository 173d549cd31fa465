//! Bugs put in on purpose, at the seams, to see whether the simulation finds them.

use tollgate_gate::{At, Span};

use crate::ids::AccountKey;
use crate::ledger::Stored;
use crate::ledger::record::Record;
use crate::plan::Plan;
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
    /// A partition whose owner is gone is worked in, and its claim is not written.
    NoPartitionClaim,
}

/// Takes what is in flight out of a record, as if it had never been.
pub(super) fn forget_in_flight(account: &AccountKey, stored: &mut Stored, plan: &Plan) {
    let Some(platform) = plan.platforms.get(&account.platform) else { return };
    let platform = platform.of(&account.account);
    let mut record = Record::decode(&stored.record).expect("a record of ours");
    let now = At(1 << 50);
    let since = now.minus(Span::from(stored.age));
    let mut gate = Gate::default();
    gate.load(&platform.limits, &record.gate, (since, false), now);
    for id in gate.in_flight() {
        gate.give_back(&platform.limits, id);
    }
    record.gate = gate.encode(&platform.limits, since);
    stored.record = record.encode();
}
