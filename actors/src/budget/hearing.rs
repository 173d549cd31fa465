//! What providers say of a budget's limits: less left, a hold, a block.

use std::collections::BTreeMap;

use actix::Context;
use tollgate_gate::{At, PermitId, Seen, Sent, Span};

use super::Budget;
use crate::plan::Generation;

/// Resets are mostly told in whole seconds, and the provider's clock may differ.
const RESET_SLACK: Span = Span::from_secs(2);

/// What an answer said of one limit of a budget.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// The limit's place, in the budget of that reading of the configuration.
    pub(crate) limit: usize,
    pub(crate) generation: Generation,
    /// The api of the call.
    pub(crate) api: u16,
    /// How much is left.
    pub(crate) left: Option<u32>,
    /// When more is.
    pub(crate) until: Option<At>,
    /// When its window ends.
    pub(crate) ends: Option<At>,
    /// When the call was let go: the answer knows of all before. [`At::MIN`]: on another node.
    pub(crate) as_of: At,
    /// The call was refused because of it.
    pub(crate) over: bool,
}

/// Units of calls that ended without an answer that told what is left, by limit.
#[derive(Debug, Default)]
pub(super) struct Untold {
    ended: BTreeMap<usize, u64>,
    flights: BTreeMap<PermitId, Flight>,
}

/// A call in flight.
#[derive(Debug)]
struct Flight {
    /// What it costs by each limit that answers tell of, and what had ended untold when it went.
    limits: Vec<(usize, u32, u64)>,
    told: Vec<usize>,
}

impl Untold {
    /// A call goes, at these costs by the limits that answers tell of.
    pub(super) fn goes(&mut self, id: PermitId, costs: impl Iterator<Item = (usize, u32)>) {
        let ended = &self.ended;
        let before = |limit: usize| ended.get(&limit).copied().unwrap_or(0);
        let limits: Vec<_> = costs.map(|(limit, units)| (limit, units, before(limit))).collect();
        if !limits.is_empty() {
            self.flights.insert(id, Flight { limits, told: Vec::new() });
        }
    }

    fn told(&mut self, id: PermitId, limit: usize) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.told.push(limit);
        }
    }

    pub(super) fn ended(&mut self, id: PermitId, sent: Sent) {
        let Some(Flight { limits, told }) = self.flights.remove(&id) else { return };
        for (limit, units, _) in limits {
            if sent == Sent::Maybe && !told.contains(&limit) {
                *self.ended.entry(limit).or_default() += u64::from(units);
            }
        }
    }

    /// What ended untold while that call was in flight; all of it where that is not known.
    fn since(&self, id: PermitId, limit: usize) -> u64 {
        let all = self.ended.get(&limit).copied().unwrap_or(0);
        let flight = self.flights.get(&id);
        let own = flight.and_then(|own| own.limits.iter().find(|(place, ..)| *place == limit));
        all - own.map_or(0, |(_, _, before)| *before).min(all)
    }

    /// Limits have other places from now on.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Budget {
    /// What an answer said: it lowers what is left, or shuts the budget, and raises nothing.
    pub(super) fn heard(&mut self, id: PermitId, heard: &Heard, ctx: &mut Context<Self>) {
        if heard.generation != self.key.generation() {
            // It names a limit by the place that it had before.
            return;
        }
        let now = self.now();
        let Heard { limit, api, .. } = *heard;
        if heard.over {
            let blocks = self.gate.over(&self.limits, limit, api, now);
            if blocks {
                self.keep(ctx);
            }
        }
        if let Some(ends) = heard.ends {
            self.gate.window_ends(&self.limits, limit, api, (ends, RESET_SLACK), now);
        }
        let Some(left) = heard.left else { return };
        // From another node, whose clock says nothing here. It was written after it was let through, so the answer knows
        // of all before that.
        let as_of = match heard.as_of {
            At::MIN => self.shard.given_at(self.key.record(), id),
            as_of => Some(as_of),
        };
        let Some(as_of) = as_of else { return };
        let in_flight = u64::from(self.gate.flying(&self.limits, limit, api, id));
        let unknown = in_flight.saturating_add(self.untold_calls.since(id, limit));
        let unknown = u32::try_from(unknown).unwrap_or(u32::MAX);
        self.untold_calls.told(id, limit);
        let until = heard.until;
        let seen = Seen { limit, api, left, unknown, as_of, until };
        self.gate.observe(&self.limits, &seen, now);
        if left <= unknown {
            // Shut by it: a restart is not to forget that.
            self.keep(ctx);
        }
    }

    /// A refusal shuts the budget, for all that it counts.
    pub(super) fn hold(&mut self, until: At, reason: &str, ctx: &mut Context<Self>) {
        self.gate.hold(until, reason);
        // Those in line wait for longer than they were told.
        self.untold |= !self.line.is_empty();
        self.keep(ctx);
    }

    /// A job is over, and takes no place any more; one whose call is in flight takes none when that is over.
    pub(super) fn job_over(&mut self, job: u64, of: Option<PermitId>) {
        if self.gate.release(&self.limits, job) {
            self.stale = true;
        } else if let Some(id) = of {
            self.jobs_over.insert(id, job);
        }
    }

    /// A call is over.
    pub(super) fn job_ended(&mut self, id: PermitId) {
        if let Some(job) = self.jobs_over.remove(&id) {
            self.gate.release(&self.limits, job);
        }
    }

    /// What was heard is written down at once, or as soon as the record on its way is there.
    fn keep(&mut self, ctx: &mut Context<Self>) {
        self.stale = true;
        self.unkept = true;
        self.write(ctx);
    }
}
