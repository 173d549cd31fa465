//! Partitions that a shard gains, gives out of hand and loses, and calls in flight in those that are not certain to be
//! its node's any more.

use std::rc::Rc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::Notify;
use tollgate_gate::{LimitSet, PermitId, Rule};

use super::accounts::State;
use super::context::{Context as Ctx, Running};
use super::{PartsChanged, Quiet, Shard};
use crate::budget::{Look, State as BudgetState};
use crate::cluster::{Parts, part_of};
use crate::plan::Platform;
use crate::spill::Stamp;
use crate::telemetry;
use crate::throttle::book::cut_off;
use crate::throttle::messages::LookAgain as ThrottleLookAgain;

/// Between two looks at the calls in flight. Less than what lies between the end of a lease and the end of its session's
/// key, from which the next owner reckons.
pub(super) const CUT_LOOK: Duration = Duration::from_millis(250);
/// Why a call was broken off.
pub(super) const CUT_OFF: &str =
    "the call was broken off: its account was not confirmed to be this node's for too long";

/// How sure it is that the account of a call in flight is this node's.
#[derive(Debug)]
pub(crate) struct Claim {
    /// When that was certain last.
    held: Stamp,
    /// Told to break it off.
    end: Rc<Notify>,
    is_cut_off: bool,
}

impl Claim {
    /// A call that is let go now.
    pub(super) fn held() -> Self {
        Self { held: Stamp::now(), end: Rc::default(), is_cut_off: false }
    }
}

impl Ctx {
    /// Waits until that call is to be broken off.
    pub(crate) fn broken_off(&self, id: PermitId) -> impl Future<Output = ()> + use<> {
        let end = self.running.borrow().get(&id).map(|running| Rc::clone(&running.claim.end));
        async move {
            match end {
                Some(end) => end.notified().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether that call was broken off.
    pub(super) fn is_cut_off(&self, id: PermitId) -> bool {
        self.running.borrow().get(&id).is_some_and(|running| running.claim.is_cut_off)
    }

    /// Breaks off calls that hold places, before the next owner of their accounts gives these to others: it keeps them for
    /// `lost_call` from its taking over, which may be as soon as nothing was certain here. A machine that has slept counts.
    pub(super) fn break_off(&self) {
        let (now, certain) = (Stamp::now(), self.owned.certain());
        let mut over = Vec::new();
        for (id, running) in self.running.borrow_mut().iter_mut() {
            if running.call_ended.is_some() || running.claim.is_cut_off {
                continue;
            }
            if certain.has(part_of(&running.item.lane.account)) {
                running.claim.held = now;
                continue;
            }
            let unconfirmed = running.claim.held.age(now);
            if self.keeps_places_for(running).is_some_and(|most| unconfirmed >= cut_off(most)) {
                running.claim.is_cut_off = true;
                running.claim.end.notify_one();
                telemetry::call_cut_off(&running.item, unconfirmed);
                over.push((*id, running.is_abroad));
            }
        }
        // Not borrowed while it is told.
        for (id, _) in over.into_iter().filter(|(_, is_abroad)| *is_abroad) {
            self.give_up_guest(id);
        }
    }

    /// How long the next owner keeps the places of a call; nothing for one without any.
    fn keeps_places_for(&self, running: &Running) -> Option<Duration> {
        let lane = &running.item.lane;
        let platform = self.platform(&lane.account.platform)?.of(&lane.account.account);
        let (api, _) = platform.api(lane.api.as_str())?;
        let budgets = !running.item.budgets.is_empty() && has_places_in_budgets(&platform, api);
        (has_places(&platform.limits, api) || budgets).then_some(platform.lost_call_alive)
    }
}

/// Whether calls of an api are limited in how many there are at once.
fn has_places(limits: &LimitSet, api: u16) -> bool {
    limits.limits().iter().any(|limit| {
        matches!(limit.rule, Rule::Concurrent { .. } | Rule::Jobs { .. })
            && limit.api.is_none_or(|of| of == api)
    })
}

fn has_places_in_budgets(platform: &Platform, api: u16) -> bool {
    platform.budgets.iter().any(|budget| {
        let special = budget.special.values.values().chain(budget.special.tiers.values());
        special.chain([&budget.counted]).any(|counted| has_places(&counted.limits, api))
    })
}

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
