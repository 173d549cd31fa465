//! Leaving: what an account does when its partition is another node's, or is to be.

use actix::Context;
use tollgate_gate::At;

use super::{Fence, SEAM_AGAIN, Throttle};
use crate::throttle::fence::Fenced;

/// What is waited for where this node owns the partition no more, or not for certain.
pub(super) const ELSEWHERE: &str = "its partition, which this node does not hold now";

impl Throttle {
    /// Whether permits may be given now: the partition is this node's, and its lease holds.
    pub(super) fn is_open_here(&self) -> bool {
        self.shard.owned.is_open(self.part)
    }

    /// Whether the account ends here as soon as nothing of it is in flight.
    pub(super) fn is_leaving(&self) -> bool {
        self.shard.owned.is_leaving(self.part)
    }

    /// Whether the partition is another node's: nothing is written any more.
    pub(super) fn is_lost(&self) -> bool {
        !self.shard.owned.is_ours(self.part)
    }

    /// Whether the record may be read and stored. Reading it takes it over from another node.
    pub(super) fn may_write(&self) -> bool {
        self.shard.owned.may_write(self.part)
    }

    /// What was decided and is not on its way is put back: its calls are the next owner's.
    pub(super) fn let_go(&mut self) {
        self.stop_asking();
        let decided = std::mem::take(&mut self.decided);
        self.put_back(decided);
    }

    /// The ledger is not asked now; whether it may be is heard of.
    pub(super) fn ledger_waits(&mut self, ctx: &mut Context<Self>) {
        let wait = match self.fence {
            Fence::Away(wait) | Fence::Reads(wait) => wait,
            Fence::Holds => SEAM_AGAIN,
        };
        self.try_later(wait, ctx);
    }

    /// Ends, if it leaves before its record was read: nothing was done here.
    pub(super) fn leave_unopened(&mut self, ctx: &mut Context<Self>) {
        let running = || {
            let running = self.shard.running.borrow();
            running.values().any(|running| running.ix == self.ix && running.outcome.is_none())
        };
        let quiet = self.busy == 0 && self.writing.is_none() && self.all_handled();
        if self.is_leaving() && quiet && !running() {
            self.rest(self.now(), At::MAX, ctx);
        }
    }
}
