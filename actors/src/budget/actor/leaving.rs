//! Leaving: what a budget does when its partition is another node's, or is to be; and what it knows of calls that its
//! owners before it let through.
//!
//! Its calls in flight may be anybody's, and need not end first: they stand in its last record, the next owner counts
//! them, and whoever holds one tells that owner when it is over.

use std::time::Duration;

use actix::prelude::*;
use tollgate_gate::{At, PermitId, Sent, Span};

use super::{Budget, Decided};
use crate::budget::{ForBudget, Told, What};
use crate::telemetry;
use crate::throttle::fence::{Fence, Fenced};

/// So long calls in flight may take to end before the last record is stored; they need not be told of again then. A
/// node that nobody takes over from waits for as long as its drain.
const ENDS_WITHIN: Duration = Duration::from_millis(300);
/// Most ends that are remembered until a record has them. Of more the earliest are forgotten: another owner would take
/// their calls for ones that go on.
const UNRECORDED_MAX: usize = 4096;

impl Budget {
    /// Whether permits may be given now: the partition is this node's, and its lease holds.
    pub(super) fn is_open_here(&self) -> bool {
        self.shard.owned.is_open(self.key.part())
    }

    /// Whether the budget is another node's, or is to be.
    pub(super) fn is_leaving(&self) -> bool {
        self.shard.owned.is_leaving(self.key.part())
    }

    /// Whether the record may be read and stored. Reading it takes it over from another node.
    pub(super) fn may_write(&self) -> bool {
        self.shard.owned.may_write(self.key.part())
    }

    /// Whether calls may be let through now.
    pub(super) fn may_lend(&self) -> bool {
        self.fence == Fence::Holds && !self.settling && self.is_open_here()
    }

    /// The ledger is not asked now; whether it may be is heard of.
    pub(super) fn ledger_waits(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if !self.leaves(ctx) {
            self.try_later(wait, ctx);
        }
    }

    /// Tells whoever owns the budget next.
    pub(super) fn pass_on(&self, what: What) {
        // A node without others has nobody to tell.
        let _alone = self.shard.door().send_elsewhere(ForBudget { key: self.key.clone(), what });
    }

    /// Goes, if its partition does: true then, and nothing else is done.
    pub(super) fn leaves(&mut self, ctx: &mut Context<Self>) -> bool {
        if !self.is_leaving() {
            self.leaves_since = None;
            self.last_stored = false;
            return false;
        }
        let now = self.now();
        self.give_up_places();
        for Decided { ask, id, turn } in std::mem::take(&mut self.decided) {
            self.gate.give_back(&self.limits, id);
            self.line.undo(&ask.whose.account, turn);
            self.pass_on(What::Ask(ask));
        }
        for ask in std::mem::take(&mut self.early) {
            self.pass_on(What::Ask(ask));
        }
        let since = *self.leaves_since.get_or_insert(now);
        let may_store = self.open && self.fence == Fence::Holds && self.may_write();
        let ends_by = since.plus(Span::from(ENDS_WITHIN));
        let in_flight = self.gate.in_flight().len() > self.orphans.len();
        if may_store && in_flight && !self.settling {
            if self.shard.owned.is_alone() {
                return true;
            }
            if now < ends_by {
                if self.timer.as_ref().is_none_or(|(at, _)| *at > ends_by) {
                    let wait = self.shard.clock.until(ends_by);
                    let handle = ctx.run_later(wait, |budget, ctx| {
                        budget.timer = None;
                        budget.step(ctx);
                    });
                    if let Some((_, handle)) = self.timer.replace((ends_by, handle)) {
                        ctx.cancel_future(handle);
                    }
                }
                return true;
            }
        }
        if self.writing.is_some() || self.busy > 0 {
            return true;
        }
        if let Some(handle) = self.again.take() {
            ctx.cancel_future(handle);
        }
        let is_known = !self.stale && !self.unkept && self.unrecorded.is_empty();
        if may_store && !self.last_stored && !is_known {
            self.last_stored = true;
            self.writing = Some(Vec::new());
            self.store(ctx);
            return true;
        }
        self.usage.tell(&self.platform.name, &self.limits, &self.shard.totals);
        let given = self.shard.given_by(self.key.record());
        if self.shard.budget_ends(self.key.record(), self.incarnation, self.handled) {
            // The next owner has those of this node from the record alone.
            let held = given.into_iter().filter(|(_, given)| given.held.strong_count() > 0);
            let held: Vec<_> = held.map(|(id, given)| (id, given.held)).collect();
            self.shard.door().still_held(&self.key, held);
            let recording = std::mem::take(&mut self.recording);
            let unrecorded = std::mem::take(&mut self.unrecorded);
            let early = std::mem::take(&mut self.early_told);
            for (id, told) in recording.into_iter().chain(unrecorded).chain(early) {
                self.pass_on(What::Told(id, told));
            }
            for what in std::mem::take(&mut self.early_heard) {
                self.pass_on(what);
            }
            telemetry::budget_stopped(&self.key);
            self.notice.expected();
            ctx.stop();
        }
        true
    }

    /// What was told before the record was read.
    pub(super) fn told_early(&mut self, id: PermitId, told: Told) {
        if matches!(told, Told::Runs) {
            // So it is taken of every call in the record for a while, and it is said again.
            return;
        }
        let known = self.shard.given_at(self.key.record(), id).is_some();
        if !known && self.early_told.len() < UNRECORDED_MAX {
            self.early_told.push((id, told));
        }
    }

    /// Remembers what another owner would have to know, until a record has it.
    pub(super) fn note_end(&mut self, id: PermitId, told: Told) {
        if told.is_end() {
            self.orphans.remove(&id);
        }
        if self.shard.owned.is_shared() && (told.is_end() || matches!(told, Told::Came(_))) {
            if self.unrecorded.len() >= UNRECORDED_MAX {
                self.unrecorded.remove(0);
            }
            self.unrecorded.push((id, told));
        }
    }

    /// The record on its way was not confirmed.
    pub(super) fn not_recorded(&mut self) {
        let later = std::mem::take(&mut self.unrecorded);
        self.unrecorded = std::mem::take(&mut self.recording);
        self.unrecorded.extend(later);
    }

    /// Calls of which nothing was heard for too long take their slots no more.
    pub(super) fn end_orphans(&mut self, now: At) {
        let over = self.orphans.iter().filter(|(_, until)| **until <= now);
        let over: Vec<PermitId> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.orphans.remove(&id);
            self.gate.ended(&self.limits, id, now, Sent::Maybe);
            self.untold_calls.ended(id, Sent::Maybe);
            self.job_ended(id);
            self.shard.given_over(self.key.record(), id);
            self.stale = true;
        }
    }
}
