//! Asking budgets: what is between the account's own decision and its record, for calls that count in limits
//! wider or narrower than an account.
//!
//! A call's budgets are asked one after the other, in the one order that all accounts keep. Each answers at
//! once. If one says that it is not the time, everything goes back: the grants of those before, the
//! account's own permit, the slot. Then the account is in that budget's line, and waits for its call.

use std::rc::Rc;
use std::time::Duration;

use actix::Context;
use tollgate_gate::{At, PermitId, Span};

use super::letting::Wait;
use super::weighing::job_of;
use super::{Decided, Throttle};
use crate::budget::{Answer, Ask, Call, ForBudget, FromBudget, Home, What, Whose};
use crate::collector::USE_WITHIN;
use crate::costs::too_much;
use crate::recipe::{self, BudgetKey, FetchContext, Refusal};
use crate::telemetry;
use crate::throttle::fence::Fence;
use crate::throttle::messages::FromBudget as Message;
use crate::times::Cause;

/// Who waits in line asks again after this time at the latest: a budget that died without a word is no reason
/// to wait for ever.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Between two asks where nobody calls.
const ASK_SOON: Duration = Duration::from_millis(100);

/// A call on its way through its budgets. Those that granted it are in `decided`.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) decided: Decided,
}

/// A budget that this account waits for.
#[derive(Debug)]
pub(super) struct InLine {
    key: BudgetKey,
    /// The earliest turn, if it is known.
    until: Option<At>,
    /// When to ask again if nobody called.
    again: At,
    why: Box<str>,
}

impl Throttle {
    /// Whether the next fetch of a lane has to wait for a budget: for its turn in line, or for an answer.
    pub(super) fn waits_for_budget(&mut self, place: usize, now: At, wait: &mut Wait) -> bool {
        let Some(candidate) = self.lanes[place].next(now) else { return false };
        if candidate.item.budgets.is_empty() {
            return false;
        }
        let keys = &candidate.item.budgets;
        let cause = (self.lanes[place].api, Cause::Budget);
        self.in_line.retain(|line| line.again > now);
        if let Some(line) = self.in_line.iter().find(|line| keys.contains(&line.key)) {
            let text = || format!("{} ({})", line.why, line.key.shown()).into();
            match line.until {
                Some(until) if until > now => wait.until(until, line.again, cause, text),
                _ => {
                    wait.wake_at(line.again);
                    wait.for_event(cause, &text());
                }
            }
            return true;
        }
        // One question at a time: fair turns are those of accounts.
        let asked = |asking: &Asking| {
            asking.decided.candidate.item.budgets.iter().any(|key| keys.contains(key))
        };
        if let Some(asking) = self.asking.iter().find(|asking| asked(asking)) {
            let key = asking.asked();
            wait.for_event(cause, &format!("the budget of {}", key.shown()));
            return true;
        }
        false
    }

    /// The limit of a budget that the next fetch of a lane can never have what it costs of.
    pub(super) fn never_in_budget(&self, place: usize, now: At) -> Option<Box<str>> {
        let lane = &self.lanes[place];
        let budgets = &lane.next(now)?.item.budgets;
        budgets.iter().find_map(|key| {
            let (limit, _) = too_much(key.limits(), lane.api, key.costs())?;
            Some(key.limits().limits()[limit].name.as_str().into())
        })
    }

    /// Asks the budgets of a call, the first one now.
    pub(super) fn ask_budgets(&mut self, decided: Decided) {
        let asking = Asking { decided };
        self.ask(&asking);
        self.asking.push(asking);
    }

    fn ask(&self, asking: &Asking) {
        let key = asking.asked();
        let home = Home::Shard(self.shard.me().clone());
        let whose = Whose { account: self.key.account.clone(), ix: self.ix, home };
        let api = self.lanes[asking.decided.lane].api;
        let job = job_of(&self.platform, api, &asking.decided.candidate.item);
        let call = Call { api, job, key: key.clone() };
        let weight = self.platform.tiers.weight_of(&self.key.account);
        let wants = self.lanes[asking.decided.lane].waiting().saturating_add(1);
        let turns = (weight, u32::try_from(wants).unwrap_or(u32::MAX));
        let ask = Ask::new(whose, self.incarnation, asking.decided.id, turns, call);
        self.shard.to_budget(ForBudget { key: key.clone(), what: What::Ask(ask) });
    }

    pub(super) fn budget_answered(&mut self, Message(message): Message, ctx: &mut Context<Self>) {
        let FromBudget { key, to, answer, .. } = message;
        match answer {
            Answer::Granted(grant) => {
                // Whoever does not want it any more drops it, and it goes back.
                if let Some(mut asking) = self.take_asking(to.map(|(_, permit)| permit)) {
                    asking.decided.grants.push(grant);
                    let all = asking.decided.candidate.item.budgets.len();
                    if asking.decided.grants.len() < all {
                        self.ask(&asking);
                        self.asking.push(asking);
                    } else {
                        self.budgets_agree(asking.decided);
                    }
                }
            }
            Answer::Wait { until, asks_again, why } => {
                if let Some(asking) = self.take_asking(to.map(|(_, permit)| permit)) {
                    let now = self.now();
                    let soon = now.plus(Span::from(ASK_SOON));
                    let again = match asks_again {
                        Some(at) => at.max(soon),
                        None => until.unwrap_or(now).max(now.plus(Span::from(ASK_AGAIN))),
                    };
                    self.in_line.retain(|line| line.key != key);
                    self.in_line.push(InLine { key, until, again, why });
                    self.leave_others(&asking);
                    self.put_back(vec![asking.decided]);
                }
            }
            Answer::Until(until, why) => {
                let again = until.max(self.now().plus(Span::from(ASK_AGAIN)));
                if let Some(line) = self.in_line.iter_mut().find(|line| line.key == key) {
                    *line = InLine { key, until: Some(until), again, why };
                }
            }
            Answer::Turn => {
                self.in_line.retain(|line| line.key != key);
                self.step(ctx);
                // What holds it up may be over in a moment; what does not ask at all leaves to others.
                let comes = self.asking.iter().any(|asking| asking.needs(&key));
                let about = self.slot_asked || self.lanes.iter().any(|lane| lane.loading);
                if !comes && !about {
                    let what = What::Leave(self.key.account.clone(), None);
                    self.shard.to_budget(ForBudget { key, what });
                }
                return;
            }
        }
        self.step(ctx);
    }

    /// No place is kept in the budgets behind the one that has to be waited for.
    fn leave_others(&self, asking: &Asking) {
        let behind = asking.decided.candidate.item.budgets.iter();
        for key in behind.skip(asking.decided.grants.len() + 1) {
            if self.in_line.iter().all(|line| line.key != *key) {
                let what = What::Leave(self.key.account.clone(), None);
                self.shard.to_budget(ForBudget { key: key.clone(), what });
            }
        }
    }

    /// All budgets of a call have granted it: its own record is next.
    fn budgets_agree(&mut self, decided: Decided) {
        let now = self.now();
        if now > decided.at.plus(Span::from(USE_WITHIN)) || decided.slot.has_lapsed() {
            telemetry::permits_lapsed(&self.meters, &self.key, 1);
            self.put_back(vec![decided]);
        } else if self.fence != Fence::Holds || self.held_since(&decided, now) {
            self.put_back(vec![decided]);
        } else {
            self.go_on(decided, now);
        }
    }

    /// Whether a refusal of another call has shut the account, its api or the platform since it was decided.
    fn held_since(&self, decided: &Decided, now: At) -> bool {
        let api = self.lanes[decided.lane].api;
        self.gate.is_held(api, now) || self.shard.shuts.of(&self.key, now).is_some()
    }

    /// The next fetch of a lane counts in the budgets of now, whenever and however it came into the lane. One that has
    /// none there, because a key cannot be filled in any more, is refused as if it were read now.
    pub(super) fn budgets_of_now(&mut self, place: usize, now: At) -> Result<(), Refusal> {
        let generation = self.platform.generation;
        let lane = &mut self.lanes[place];
        let Some(api) = self.platform.apis.get(usize::from(lane.api)) else { return Ok(()) };
        let Some(candidate) = lane.next_mut(now) else { return Ok(()) };
        let item = &candidate.item;
        if item.generation == generation {
            return Ok(());
        }
        let context = FetchContext {
            account: &item.lane.account.account,
            id: &item.id,
            params: &item.fetch.params,
            queued_at: item.queued_at,
        };
        let later = candidate.is_later_page();
        let budgets = recipe::budgets_of_page(&self.platform, api, &context, later)?;
        candidate.item = Rc::new(item.with_budgets(budgets, generation));
        Ok(())
    }

    /// What was decided upon a record that did not come to be is not decided: what was asked for goes back.
    pub(super) fn stop_asking(&mut self) {
        let asking = std::mem::take(&mut self.asking);
        self.put_back(asking.into_iter().map(|asking| asking.decided).collect());
    }

    fn take_asking(&mut self, permit: Option<PermitId>) -> Option<Asking> {
        let place = self.asking.iter().position(|asking| Some(asking.decided.id) == permit)?;
        Some(self.asking.remove(place))
    }

    /// Permits that are not given yet: whose budgets are asked, that wait for a record, or whose is on its way.
    pub(super) fn decided_or_asking(&self) -> impl Iterator<Item = &Decided> {
        let asking = self.asking.iter().map(|asking| &asking.decided);
        asking.chain(&self.decided).chain(self.writing.iter().flatten())
    }
}

impl Asking {
    /// Which budget is asked.
    fn asked(&self) -> &BudgetKey {
        &self.decided.candidate.item.budgets[self.decided.grants.len()]
    }

    /// Whether that budget has granted it, or will be asked.
    fn needs(&self, key: &BudgetKey) -> bool {
        self.decided.candidate.item.budgets.contains(key)
    }
}
