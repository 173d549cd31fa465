//! What calls cost: before, for the gate's decision, and after, where only the answer tells.

use std::borrow::Cow;

use tollgate_gate::{Cost, PermitId, Sent};

use super::Throttle;
use crate::collector::{Again, Item, Outcome};
use crate::costs::Counts;
use crate::plan::Platform;
use crate::recipe::FetchContext;

/// What a fetch's call costs. Whether it can be told was checked when the fetch was read; if it cannot be any
/// more, it is what calls of its api usually cost.
pub(super) fn costs_of<'a>(platform: &'a Platform, api: u16, item: &Item) -> Cow<'a, [Cost]> {
    let context = FetchContext {
        account: &item.lane.account.account,
        id: &item.id,
        params: &item.fetch.params,
    };
    let costs = platform.costs.of(platform, api, &context);
    costs.unwrap_or_else(|_| Cow::Borrowed(platform.costs.usual(api)))
}

impl Throttle {
    /// The attempt is over: what its call cost is known as well as it will be.
    pub(super) fn settle(&mut self, id: PermitId, outcome: &Outcome) {
        let limits = &self.platform.limits;
        if !self.platform.costs.are_settled() {
            // Held back under limits that are not in force any more.
            self.gate.end_held_back(limits, id);
            return;
        }
        let now = self.shard.clock.now();
        let sent = self.gate.held_back(id);
        for (place, counts) in &self.platform.costs.counts {
            let units = match *counts {
                Counts::Units => None,
                Counts::Bytes { unit } => bytes(outcome, sent).map(|bytes| bytes.div_ceil(unit)),
                Counts::Errors => Some(u64::from(is_error(outcome, sent))),
            };
            if let Some(units) = units {
                let units = u32::try_from(units).unwrap_or(u32::MAX);
                self.gate.settle(limits, id, *place, units, now);
            }
        }
        self.gate.end_held_back(limits, id);
    }
}

/// How many bytes the answer had, if that is known.
fn bytes(outcome: &Outcome, sent: Option<Sent>) -> Option<u64> {
    match outcome {
        _ if sent == Some(Sent::Never) => Some(0),
        Outcome::Done { bytes, .. } => Some(*bytes),
        Outcome::Again { .. } | Outcome::Dead { .. } => None,
    }
}

/// Whether a provider that counts its errors counts this one. Without an answer it may have.
fn is_error(outcome: &Outcome, sent: Option<Sent>) -> bool {
    let last = match outcome {
        _ if sent == Some(Sent::Never) => return false,
        Outcome::Done { .. } => return false,
        Outcome::Again { kind: Again::Throttled, last, .. } if last.status.is_none() => {
            return false;
        }
        Outcome::Again { last, .. } | Outcome::Dead { last, .. } => last,
    };
    last.status.is_none_or(|status| status >= 500)
}
