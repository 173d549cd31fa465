//! Partitions that a shard gains, gives out of hand and loses.

use actix::prelude::*;

use super::accounts::State;
use super::{PartsChanged, Quiet, Shard};
use crate::budget::{Look, State as BudgetState};
use crate::cluster::{Parts, part_of};
use crate::throttle::messages::LookAgain as ThrottleLookAgain;

impl Handler<PartsChanged> for Shard {
    type Result = ();

    /// Accounts without an actor end here; those with one end by themselves, when nothing is in flight.
    fn handle(&mut self, PartsChanged(parts): PartsChanged, ctx: &mut Self::Context) {
        let owned = &self.ctx.owned;
        let leaving: Parts = parts.iter().filter(|part| owned.is_leaving(*part)).collect();
        let (mut gone, mut live) = (Vec::new(), Vec::new());
        for (ix, entry) in self.ctx.accounts.borrow().iter() {
            let part = part_of(&entry.key);
            if !parts.has(part) {
                continue;
            }
            match &entry.state {
                State::Live { .. } => live.push(ix),
                State::Ready(_) | State::Resting(_) if leaving.has(part) => gone.push(ix),
                // Its restart looks.
                State::Ready(_) | State::Resting(_) | State::Restarting(_) => {}
            }
        }
        let mut accounts = self.ctx.accounts.borrow_mut();
        for ix in gone {
            accounts.forget(ix);
        }
        drop(accounts);
        for entry in self.ctx.budgets.borrow().values() {
            if parts.has(entry.key.part())
                && let BudgetState::Live { addr, .. } = &entry.state
            {
                addr.do_send(Look);
            }
        }
        for ix in live {
            self.ctx.tell(ix, ThrottleLookAgain);
        }
        self.wake_due(ctx);
    }
}

impl Handler<Quiet> for Shard {
    type Result = MessageResult<Quiet>;

    fn handle(&mut self, Quiet(parts): Quiet, _: &mut Self::Context) -> Self::Result {
        let accounts = self.ctx.accounts.borrow();
        let mut quiet = parts - accounts.at_work();
        // Those of an account whose actor has died.
        for running in self.ctx.running.borrow().values() {
            if running.outcome.is_none()
                && let Some(entry) = accounts.get(running.ix)
            {
                quiet -= Parts::one(part_of(&entry.key));
            }
        }
        for entry in self.ctx.budgets.borrow().values() {
            if matches!(entry.state, BudgetState::Live { .. }) {
                quiet -= Parts::one(entry.key.part());
            }
        }
        MessageResult(quiet)
    }
}
