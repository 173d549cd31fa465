//! The shard's part in budgets: starts and restarts their actors, and carries the mail between them and the
//! accounts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;
use tollgate_gate::{At, LimitSet, PermitId, Sent, Span};

use super::accounts::State as AccountState;
use super::actor::Shard;
use super::context::Context as Ctx;
use super::{BudgetDied, SettleBudgets};
use crate::budget::{
    Answer, Budget, Door, Entry, ForBudget, FromBudget, Given, Grant, LIVE_MAX, Mail, PENDING_MAX,
    Settle, State, Told, What,
};
use crate::ids::AccountKey;
use crate::recipe::BudgetKey;
use crate::supervise::Restarts;
use crate::telemetry;
use crate::throttle::messages::FromBudget as ToThrottle;

/// When to ask again where a shard has no room for one more budget.
const ROOM_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
/// How often the end of a drain looks whether the budgets are done.
const SETTLE_LOOK: std::time::Duration = std::time::Duration::from_millis(5);

impl Ctx {
    /// The way to every budget, on this node and on others.
    pub(crate) fn door(&self) -> Door {
        Door::new(Arc::clone(&self.peers), self.owned.clone(), self.me().clone())
    }

    /// Tells or asks a budget, wherever it is.
    pub(crate) fn to_budget(&self, message: ForBudget) {
        self.door().send(message);
    }

    /// A budget let a call through.
    pub(crate) fn given(&self, record: &AccountKey, id: PermitId, given: Given) {
        if let Some(entry) = self.budgets.borrow_mut().get_mut(record) {
            entry.given.insert(id, given);
        }
    }

    /// When a call of a budget that is not over was let through.
    pub(crate) fn given_at(&self, record: &AccountKey, id: PermitId) -> Option<At> {
        let budgets = self.budgets.borrow();
        budgets.get(record)?.given.get(&id).map(|given| given.at)
    }

    /// The calls of a budget that are not over.
    pub(crate) fn given_by(&self, record: &AccountKey) -> Vec<(PermitId, Given)> {
        let budgets = self.budgets.borrow();
        let given = budgets.get(record).map(|entry| entry.given.iter());
        let mut given: Vec<_> =
            given.into_iter().flatten().map(|(id, g)| (*id, g.clone())).collect();
        given.sort_unstable_by_key(|(id, _)| *id);
        given
    }

    /// Calls of a budget that are not over, and are made by this node.
    pub(crate) fn held_here(&self, record: &AccountKey) -> Vec<PermitId> {
        let budgets = self.budgets.borrow();
        let given = budgets.get(record).into_iter().flat_map(|entry| &entry.given);
        let held = given.filter(|(_, given)| given.held.strong_count() > 0);
        held.map(|(id, _)| *id).collect()
    }

    /// Whether a call counts in a budget that another node owns.
    pub(crate) fn counts_elsewhere(&self, id: PermitId) -> bool {
        let elsewhere = |grant: &Grant| !self.owned.is_ours(grant.key().part());
        self.running.borrow().get(&id).is_some_and(|own| own.grants.iter().any(elsewhere))
    }

    /// A call of a budget is over, and its actor knows it.
    pub(crate) fn given_over(&self, record: &AccountKey, id: PermitId) {
        if let Some(entry) = self.budgets.borrow_mut().get_mut(record) {
            entry.is_over(id);
        }
    }

    /// Calls of a budget that are over, though its record may name them.
    pub(crate) fn over_by(&self, record: &AccountKey) -> BTreeSet<PermitId> {
        let budgets = self.budgets.borrow();
        budgets.get(record).into_iter().flat_map(|entry| entry.over.iter().copied()).collect()
    }

    /// A budget's actor ends if it has heard all that it was sent: true then.
    pub(crate) fn budget_ends(&self, record: &AccountKey, life: u64, handled: u64) -> bool {
        let mut budgets = self.budgets.borrow_mut();
        let ends = budgets.get(record).is_some_and(|entry| {
            matches!(&entry.state, State::Live { incarnation, sent, .. }
                if *incarnation == life && *sent == handled)
        });
        if ends {
            budgets.remove(record);
        }
        ends
    }

    /// Tells the budgets of a call what became of it.
    pub(crate) fn tell_budgets(&self, id: PermitId, told: Told) {
        if let Some(running) = self.running.borrow_mut().get_mut(&id) {
            running.grants.iter_mut().for_each(|grant| grant.tell(told));
        }
    }

    /// The same where it depends on a budget's limits.
    pub(crate) fn tell_budgets_each(&self, id: PermitId, told: impl Fn(&LimitSet) -> Told) {
        if let Some(running) = self.running.borrow_mut().get_mut(&id) {
            for grant in &mut running.grants {
                let told = told(grant.key().limits());
                grant.tell(told);
            }
        }
    }
}

/// What a budget hears of a call whose throttle actor is gone: nobody corrects its stamp, so it goes by the
/// answer alone.
pub(super) fn tell_of_orphan(grants: &mut [Grant], told: Told) {
    for grant in grants {
        grant.tell(Told::Unwritten);
        grant.tell(told);
    }
}

/// What budgets hear of a call whose node is not heard of any more: it counts as arrived when it can have at the latest,
/// and keeps its places until the grants are dropped.
pub(crate) fn lose_grants(grants: &mut [Grant], latest: At) {
    for grant in grants {
        let arrived = latest.plus(grant.key().limits().guard_max());
        grant.tell(Told::Unwritten);
        grant.tell(Told::Answered(arrived));
    }
}

impl Shard {
    /// Starts a budget's actor.
    fn start_budget(&self, key: BudgetKey, restarted: bool) -> Option<State> {
        let platform = self.ctx.platform(key.platform())?;
        let incarnation = self.ctx.incarnation();
        let shard = Rc::clone(&self.ctx);
        let budget = Budget::new(shard, key, platform, incarnation, restarted);
        Some(State::Live { addr: budget.start(), incarnation, sent: 0 })
    }

    /// The actor of a budget, if it has one or may have.
    fn place_budget(&self, key: &BudgetKey) {
        let leaves = self.ctx.owned.is_leaving(key.part());
        let known = {
            let mut budgets = self.ctx.budgets.borrow_mut();
            let full = budgets.len() >= LIVE_MAX;
            match budgets.get_mut(key.record()) {
                Some(entry) => {
                    // By which it would start anew.
                    if entry.key.generation() < key.generation() {
                        entry.key = key.clone();
                    }
                    true
                }
                None => full,
            }
        };
        if !known
            && !leaves
            && let Some(state) = self.start_budget(key.clone(), false)
        {
            let entry = Entry {
                key: key.clone(),
                state,
                restarts: Restarts::default(),
                given: BTreeMap::new(),
                over: VecDeque::new(),
                pending: Vec::new(),
            };
            self.ctx.budgets.borrow_mut().insert(key.record().clone(), entry);
        }
    }
}

impl Handler<ForBudget> for Shard {
    type Result = ();

    fn handle(&mut self, ForBudget { key, what }: ForBudget, _: &mut Self::Context) {
        // One that refuses calls is not to be forgotten because nobody asked for a while. Nor is what became of a call
        // that stands in its record as one in flight: in a cluster that may be so although nobody asks here.
        let starts = match &what {
            What::Ask(_) | What::Hold { .. } | What::JobOver { .. } => true,
            What::Told(_, told) => self.ctx.owned.is_shared() && told.is_end(),
            What::Heard(..) | What::Leave(..) => false,
        };
        if starts {
            self.place_budget(&key);
        }
        let mut budgets = self.ctx.budgets.borrow_mut();
        let Some(entry) = budgets.get_mut(key.record()) else {
            drop(budgets);
            let what = if self.ctx.owned.is_leaving(key.part()) {
                // Its next owner is to know.
                let message = ForBudget { key, what };
                self.ctx.door().send_elsewhere(message).map(|message| message.what)
            } else {
                Some(what)
            };
            if let Some(What::Ask(ask)) = what {
                let again = self.ctx.clock.now().plus(Span::from(ROOM_AGAIN));
                ask.wait(Some(again), Some(again), "room for one more budget");
            }
            return;
        };
        if let What::Told(id, told) = &what {
            note(entry, *id, *told, self.ctx.clock.now());
        }
        match (&mut entry.state, what) {
            (State::Live { addr, sent, .. }, what) => {
                *sent += 1;
                addr.do_send(Mail(what));
            }
            (State::Restarting(at), What::Ask(ask)) => {
                ask.wait(Some(*at), Some(*at), "its actor, which restarts");
            }
            (
                State::Restarting(_),
                what @ (What::Heard(..) | What::Hold { .. } | What::JobOver { .. }),
            ) => {
                if entry.pending.len() < PENDING_MAX {
                    entry.pending.push(what);
                }
            }
            (State::Restarting(_), _) => {}
        }
    }
}

/// Keeps what became of a call, for an actor that starts anew.
fn note(entry: &mut Entry, id: PermitId, told: Told, now: At) {
    let restarting = matches!(entry.state, State::Restarting(_));
    let Some(given) = entry.given.get_mut(&id) else {
        if restarting && told.is_end() {
            // Of an owner before this one: nobody says so again.
            entry.is_over(id);
        }
        return;
    };
    match told {
        Told::Written(at) => given.written = Some(at),
        Told::Unwritten => given.written = None,
        Told::Came(came) => given.came = Some(came),
        Told::Answered(at) => given.answered = Some(given.answered.map_or(at, |was| was.min(at))),
        Told::Ended(at, sent) => given.ended = Some((at, sent)),
        Told::Gone(at) => given.gone = Some(at),
        Told::Lost => {
            given.written = None;
            given.ended = Some((now, Sent::Maybe));
        }
        // As a call that is over: its record may have it.
        Told::Unused if restarting => entry.is_over(id),
        Told::Unused | Told::Runs => {}
    }
}

impl Handler<FromBudget> for Shard {
    type Result = ();

    fn handle(&mut self, message: FromBudget, ctx: &mut Self::Context) {
        let mut accounts = self.ctx.accounts.borrow_mut();
        let entry = accounts.get(message.ix);
        let entry = entry.filter(|entry| {
            entry.key.account == message.whose && entry.key.platform == *message.key.platform()
        });
        let state = entry.map(|entry| &entry.state);
        let lives = match (state, message.to) {
            (Some(AccountState::Live { .. }), None) => true,
            (Some(AccountState::Live { incarnation, .. }), Some((life, _))) => *incarnation == life,
            _ => false,
        };
        if lives {
            drop(accounts);
            let ix = message.ix;
            self.ctx.tell(ix, ToThrottle(message));
            return;
        }
        // What is not heard goes back: a grant by its drop, a call here.
        let Answer::Turn = message.answer else { return };
        let rests = matches!(state, Some(AccountState::Resting(rest)) if !rest.lanes.is_empty());
        if rests {
            let now = self.ctx.clock.now();
            accounts.due_by(message.ix, now);
            drop(accounts);
            self.wake_due(ctx);
        } else {
            drop(accounts);
            let what = What::Leave(message.whose, None);
            self.ctx.to_budget(ForBudget { key: message.key, what });
        }
    }
}

impl Handler<BudgetDied> for Shard {
    type Result = ();

    fn handle(&mut self, died: BudgetDied, ctx: &mut Self::Context) {
        let now = self.ctx.clock.now();
        let mut budgets = self.ctx.budgets.borrow_mut();
        let Some(entry) = budgets.get_mut(&died.record) else { return };
        if !matches!(entry.state, State::Live { incarnation, .. } if incarnation == died.incarnation)
        {
            return;
        }
        let restart = entry.restarts.died(now);
        telemetry::budget_died(self.ctx.shard, &entry.key, &died.reason, restart);
        entry.state = State::Restarting(now.plus(Span::from(restart.after)));
        drop(budgets);
        ctx.run_later(restart.after, move |shard, _| {
            let key = shard.ctx.budgets.borrow().get(&died.record).map(|entry| entry.key.clone());
            let Some(key) = key else { return };
            let Some(state) = shard.start_budget(key, true) else { return };
            if let Some(entry) = shard.ctx.budgets.borrow_mut().get_mut(&died.record) {
                entry.state = state;
                let pending = std::mem::take(&mut entry.pending);
                if let State::Live { addr, sent, .. } = &mut entry.state {
                    for what in pending {
                        *sent += 1;
                        addr.do_send(Mail(what));
                    }
                }
            }
        });
    }
}

impl Handler<SettleBudgets> for Shard {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, settle: SettleBudgets, _: &mut Self::Context) -> Self::Result {
        for entry in self.ctx.budgets.borrow().values() {
            if let State::Live { addr, .. } = &entry.state {
                addr.do_send(Settle);
            }
        }
        let shard = Rc::clone(&self.ctx);
        let wait = async move {
            let deadline = tokio::time::Instant::now() + settle.within;
            let live = || {
                let budgets = shard.budgets.borrow();
                budgets.values().any(|entry| matches!(entry.state, State::Live { .. }))
            };
            while live() && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(SETTLE_LOOK).await;
            }
        };
        Box::pin(wait.into_actor(self))
    }
}
