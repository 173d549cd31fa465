//! What answers tell of limits, and what follows: less left, a hold, another pace, an alarm.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use actix::Context;
use tollgate_gate::{At, Decision, PermitId, Seen, Sent, Span};

use super::Throttle;
use crate::budget::{ForBudget, Heard, What};
use crate::collector::{Again, Item, LastAnswer, Outcome};
use crate::ledger::record::PaceNote;
use crate::notify::Signal;
use crate::observe::pace::{Pace, PaceRule};
use crate::observe::{
    DriftKind, Facts, LimitFact, Overuse, PRESSED_WAIT, Place, Pulse, Scope, Trend,
};
use crate::recipe::BudgetKey;
use crate::telemetry;
use crate::throttle::fence::Fence;
use crate::times::Cause;

/// A hold of this length is written down at once.
const HOLD_WRITTEN_FROM: Duration = Duration::from_secs(1);
/// Resets are mostly told in whole seconds, and the provider's clock may differ.
const RESET_SLACK: Span = Span::from_secs(2);
/// What is waited for by an account whose api has an adaptive pace.
const PACE: &str = "its adaptive pace";

/// What an account has been told, beside what its gate knows.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// Calls that ended without saying what is left.
    untold: u64,
    /// Those in flight: how many had ended so when they were given, and whether they have told.
    flights: BTreeMap<PermitId, (u64, bool)>,
    /// Permits given, by api.
    calls: BTreeMap<u16, u64>,
    /// By limit and api.
    pulses: BTreeMap<(usize, u16), Pulse>,
    /// By api; nothing: of the account as a whole.
    paces: BTreeMap<Option<u16>, Pace>,
}

impl Listening {
    /// Limits and apis have other numbers from now on: what was learnt of them is learnt anew. An api's own
    /// pace starts where one starts.
    pub(super) fn renumbered(&mut self) {
        self.calls.clear();
        self.pulses.clear();
        self.paces.retain(|api, _| api.is_none());
    }

    fn unknown(&self, id: PermitId) -> u64 {
        let before = self.flights.get(&id).map_or(0, |(before, _)| *before);
        self.untold - before.min(self.untold)
    }

    fn call_ended(&mut self, id: PermitId, sent: Sent) {
        let told = self.flights.remove(&id).is_some_and(|(_, told)| told);
        if sent == Sent::Maybe && !told {
            self.untold += 1;
        }
    }

    /// The paces as a record keeps them.
    fn notes(&self, name: impl Fn(u16) -> String, now: At) -> Vec<PaceNote> {
        let note = |(api, pace): (&Option<u16>, &Pace)| PaceNote {
            api: api.map(&name),
            micro_rate: (pace.rate() * 1e6) as u64,
            next_in_us: pace.next().since(now).0,
        };
        self.paces.iter().map(note).collect()
    }
}

impl Throttle {
    /// A permit goes to its collector.
    pub(super) fn listen_to(&mut self, id: PermitId, api: u16) {
        if !self.platform.observed.is_empty() {
            let listening = &mut self.listening;
            listening.flights.insert(id, (listening.untold, false));
            *listening.calls.entry(api).or_default() += 1;
        }
    }

    /// A call is over.
    pub(super) fn listened(&mut self, id: PermitId, sent: Sent) {
        if !self.platform.observed.is_empty() {
            self.listening.call_ended(id, sent);
        }
    }

    /// What an answer said of limits.
    pub(super) fn told(&mut self, id: PermitId, facts: &Facts, ctx: &mut Context<Self>) {
        let Some(flight) = self.flights.get(&id) else { return };
        let (api, as_of) = (self.lanes[flight.lane].api, flight.decided_at);
        let now = self.now();
        if as_of < self.limits_since {
            // It names limits by places that they had before; holds it may ask for all the same.
            for press in &facts.presses {
                self.hold_scope(press.scope, api, press.wait, "told", &press.reason, ctx);
            }
            return;
        }
        let answered = self.shard.running.borrow().get(&id).and_then(|running| running.answered);
        let answered = answered.unwrap_or(now);
        let keys = Rc::clone(&flight.item);
        if facts.job_over {
            self.job_over(id, api, &keys);
        }
        for fact in &facts.limits {
            match fact.limit.budget {
                None => self.told_of_limit((id, api), (as_of, answered), fact, now),
                Some(_) => {
                    self.told_of_budget((id, api), (as_of, answered), fact, &keys, now);
                }
            }
        }
        let limits = &self.platform.limits;
        let mut matching =
            self.platform.observed.iter().filter(|place| limits.counts(**place, api));
        let of = |place: &usize| {
            let own = Place::own(*place);
            facts.limits.iter().any(|fact| fact.limit == own && fact.left.is_some())
        };
        if matching.all(of)
            && let Some((_, told)) = self.listening.flights.get_mut(&id)
        {
            *told = true;
        }
        match facts.over.as_ref().and_then(|over| over.hits) {
            Some(Place { budget: None, limit }) => {
                self.gate.over(&self.platform.limits, limit, api, now);
            }
            Some(place) => {
                if let Some(heard) = heard_of(&keys, place, api, as_of) {
                    self.tell_budget(id, place, Heard { over: true, ..heard });
                }
            }
            None => {}
        }
        for press in &facts.presses {
            self.hold_scope(press.scope, api, press.wait, "told", &press.reason, ctx);
        }
    }

    /// `as_of`: when its call was let go; `answered`: from when its times count.
    fn told_of_limit(
        &mut self,
        (id, api): (PermitId, u16),
        (as_of, answered): (At, At),
        fact: &LimitFact,
        now: At,
    ) {
        let LimitFact { limit: place, left, max, reset, ends } = *fact;
        let limit = place.limit;
        self.told_of_max(place, max, self.platform.limits.max_of(limit), now);
        let limits = &self.platform.limits;
        if let Some(ends) = ends {
            let end = answered.plus(Span::from(ends));
            self.gate.window_ends(limits, limit, api, (end, RESET_SLACK), now);
        }
        let until = reset.map(|reset| answered.plus(Span::from(reset)));
        let Some(left) = left else { return };
        // What ended unheard costs what a call of this api mostly does.
        let usual = self.platform.costs.usual(api).get(limit).map_or(1, |cost| cost.units);
        let untold = u32::try_from(self.listening.unknown(id)).unwrap_or(u32::MAX);
        let in_flight = self.gate.flying(limits, limit, api, id);
        let unknown = in_flight.saturating_add(untold.saturating_mul(usual));
        let seen = Seen { limit, api, left, unknown, as_of, until };
        self.gate.observe(&self.platform.limits, &seen, now);
        let limits = &self.platform.limits;
        let per_api = limits.limits().get(limit).is_some_and(|limit| limit.per_api);
        let cost = |api: u16| {
            let cost = self.platform.costs.usual(api).get(limit);
            cost.map_or(1, |cost| u64::from(cost.units))
        };
        let made = self.listening.calls.iter().filter(|(other, _)| limits.counts(limit, **other));
        let made = made.filter(|(other, _)| !per_api || **other == api);
        let calls: u64 = made.map(|(other, calls)| calls * cost(*other)).sum();
        let key = (limit, if per_api { api } else { 0 });
        let new = Pulse::new(left, calls, until);
        let pulse = self.listening.pulses.entry(key).or_insert(new);
        match pulse.beat(left, calls, until, u64::from(unknown)) {
            Some(Trend::Faster) => self.drifted(Some(place), DriftKind::Faster, now),
            Some(Trend::Slower) => self.drifted(Some(place), DriftKind::Slower, now),
            None => {}
        }
    }

    /// The same of a limit wider or narrower than the account: its budget hears it.
    fn told_of_budget(
        &mut self,
        (id, api): (PermitId, u16),
        (as_of, answered): (At, At),
        fact: &LimitFact,
        item: &Item,
        now: At,
    ) {
        let place = fact.limit;
        let Some(heard) = heard_of(item, place, api, as_of) else { return };
        let declared = budget_of(item, place).and_then(|key| key.limits().max_of(place.limit));
        self.told_of_max(place, fact.max, declared, now);
        let at = |time: Option<Duration>| time.map(|time| answered.plus(Span::from(time)));
        let (until, ends) = (at(fact.reset), at(fact.ends));
        self.tell_budget(id, place, Heard { left: fact.left, until, ends, ..heard });
    }

    /// Tells a budget that has let the call through.
    fn tell_budget(&self, id: PermitId, place: Place, heard: Heard) {
        let running = self.shard.running.borrow();
        let mut grants = running.get(&id).into_iter().flat_map(|running| &running.grants);
        if let Some(grant) = grants.find(|grant| Some(grant.key().place()) == place.budget) {
            grant.heard(heard);
        }
    }

    /// How many calls the provider says it allows, and how many were declared.
    fn told_of_max(&self, place: Place, told: Option<u32>, declared: Option<u32>, now: At) {
        let (Some(told), Some(declared)) = (told, declared) else { return };
        match told.cmp(&declared) {
            Ordering::Less => self.drifted(Some(place), DriftKind::Narrower, now),
            Ordering::Greater => self.drifted(Some(place), DriftKind::Wider, now),
            Ordering::Equal => {}
        }
    }

    /// The provider contradicts what was declared; told if it does so persistently.
    pub(super) fn drifted(&self, limit: Option<Place>, kind: DriftKind, now: At) {
        let platform = &self.key.platform;
        if self.shard.peers.drift().note(platform, limit, kind, now) {
            let named = limit.and_then(|place| {
                let own = &self.platform;
                let limits = match place.budget {
                    None => &own.limits,
                    Some(budget) => &own.budgets.get(usize::from(budget))?.counted.limits,
                };
                limits.limits().get(place.limit)
            });
            let name = named.map_or("", |limit| &limit.name);
            telemetry::limit_drift(&self.key, name, kind);
            if let Some(signals) = &self.shard.signals {
                let (account, limit) = (self.key.clone(), name.to_owned());
                signals.tell(Signal::Drift { account, limit, how: kind.as_str() });
            }
        }
    }

    /// Holds whom a refusal or an observation concerns.
    pub(super) fn hold_scope(
        &mut self,
        scope: Scope,
        api: u16,
        wait: Duration,
        because: &'static str,
        reason: &str,
        ctx: &mut Context<Self>,
    ) {
        let now = self.now();
        let until = now.plus(Span::from(wait));
        match scope {
            Scope::Api => self.gate.hold_api(api, until, reason),
            // What it counts in no budget of, it is held for alone.
            Scope::Account | Scope::Key => self.gate.hold(until, reason),
            Scope::Platform => {
                // In the account's own record too: it is what a restart remembers.
                self.gate.hold(until, reason);
                self.shard.shuts.set(&self.key.platform, now, until, reason);
            }
        }
        telemetry::hold(&self.meters, &self.key, because, scope, wait);
        // Else the next record has it: one is on its way, or due as soon as it can be.
        let free = self.writing.is_none() && self.fence == Fence::Holds && self.may_write();
        if wait >= HOLD_WRITTEN_FROM && free {
            // Not left to the next permit: a restart would forget it until then.
            self.writing = Some(Vec::new());
            self.store_record(Vec::new(), ctx);
        }
    }

    /// Holds whom a refusal concerns by its rule: where that is whoever a budget counts, the budget.
    pub(super) fn hold_by_rule(
        &mut self,
        over: &Overuse,
        (item, api): (&Item, u16),
        wait: Duration,
        because: &'static str,
        reason: &str,
        ctx: &mut Context<Self>,
    ) {
        let hit = over.hits.filter(|_| over.scope == Scope::Key);
        let Some(key) = hit.and_then(|place| budget_of(item, place)) else {
            self.hold_scope(over.scope, api, wait, because, reason, ctx);
            return;
        };
        telemetry::hold(&self.meters, &self.key, because, over.scope, wait);
        let until = self.now().plus(Span::from(wait));
        let what = What::Hold { until, reason: reason.to_owned() };
        self.shard.to_budget(ForBudget { key: key.clone(), what });
    }

    /// A refusal that is not tried again still holds whom it concerns.
    pub(super) fn hold_for_refusal(
        &mut self,
        (item, api): (&Item, u16),
        last: &LastAnswer,
        reason: &str,
        ctx: &mut Context<Self>,
    ) {
        if let Some(over) = &last.over {
            let wait = over.after.unwrap_or(PRESSED_WAIT);
            let wait = self.within(item, over, wait);
            self.hold_by_rule(over, (item, api), wait, "throttled", reason, ctx);
        }
    }

    /// A refusal whose fetch was made less holds others only if it says for how long: what was too heavy for one call
    /// need not be so for the next.
    pub(super) fn hold_for_split(
        &mut self,
        of: (&Item, u16),
        last: &LastAnswer,
        reason: &str,
        ctx: &mut Context<Self>,
    ) {
        let says = |over: &Overuse| over.after.is_some() || over.boundary.is_some();
        if last.over.as_deref().is_some_and(says) {
            self.hold_for_refusal(of, last, reason, ctx);
        }
    }

    /// A wait within the bounds of the rule that called the answer a refusal, and its jitter behind it.
    pub(super) fn within(&self, item: &Item, over: &Overuse, wait: Duration) -> Duration {
        let now = self.now();
        let boundary = over.boundary.and_then(|place| {
            let limits = match place.budget {
                None => &self.platform.limits,
                Some(_) => budget_of(item, place)?.limits(),
            };
            limits.boundary(place.limit, now)
        });
        let boundary = boundary.map(|at| Duration::from(at.since(now)));
        let wait = boundary.map_or(wait, |boundary| boundary.max(over.after.unwrap_or_default()));
        let jitter = over.jitter.mul_f64(fastrand::f64());
        wait.clamp(over.floor, over.cap).saturating_add(jitter)
    }

    /// What shuts a lane beside limits and holds of its own account, for longer than those do.
    pub(super) fn shut_beside(
        &self,
        decision: &Decision,
        api: u16,
        now: At,
    ) -> Option<(At, Cause, Box<str>)> {
        let shut = self.shard.shuts.of(&self.key, now);
        let shut = shut.map(|(at, reason)| (at, Cause::Hold, reason.as_ref().into()));
        let pace = self.pace_rule(api).and_then(|(key, _)| self.listening.paces.get(&key));
        let paced = pace.map(|pace| (pace.next(), Cause::Hold, Box::from(PACE)));
        let latest = [shut, paced].into_iter().flatten().max_by_key(|(at, ..)| *at);
        let (until, cause, why) = latest.filter(|(until, ..)| *until > now)?;
        match decision {
            Decision::Go => Some((until, cause, why)),
            Decision::WaitUntil { at: Some(at), .. } if *at < until => Some((until, cause, why)),
            Decision::WaitUntil { .. } | Decision::Never { .. } => None,
        }
    }

    /// The rule of an api's pace, and whose pace it is.
    fn pace_rule(&self, api: u16) -> Option<(Option<u16>, PaceRule)> {
        let rule = self.platform.apis.get(usize::from(api))?.rules.pace?;
        Some((rule.per_api.then_some(api), rule))
    }

    /// A permit of an api is decided.
    pub(super) fn pace_taken(&mut self, api: u16, now: At) {
        if let Some((key, rule)) = self.pace_rule(api) {
            self.listening.paces.entry(key).or_insert_with(|| Pace::new(&rule)).take(now);
        }
    }

    /// It goes back unused.
    pub(super) fn pace_back(&mut self, api: u16) {
        let key = self.pace_rule(api).map(|(key, _)| key);
        if let Some(pace) = key.and_then(|key| self.listening.paces.get_mut(&key)) {
            pace.give_back();
        }
    }

    /// How a call ended, for the pace of its api.
    pub(super) fn pace_heard(&mut self, api: u16, taken: At, outcome: &Outcome, now: At) {
        let Some((key, rule)) = self.pace_rule(api) else { return };
        let Some(pace) = self.listening.paces.get_mut(&key) else { return };
        match outcome {
            Outcome::Done { .. } | Outcome::More { .. } => pace.succeeded(&rule, taken),
            Outcome::Again { kind: Again::Throttled | Again::Parked, .. }
            | Outcome::Split { .. } => {
                pace.refused(&rule, taken, now);
            }
            Outcome::Dead { last, .. } if last.over.is_some() => pace.refused(&rule, taken, now),
            Outcome::Again { .. } | Outcome::Dead { .. } => {}
        }
    }

    /// Whether a pace was learnt.
    pub(super) fn has_pace(&self) -> bool {
        !self.listening.paces.is_empty()
    }

    /// The paces, for the record.
    pub(super) fn pace_notes(&self, now: At) -> Vec<PaceNote> {
        let name = |api: u16| self.platform.apis[usize::from(api)].name.to_string();
        self.listening.notes(name, now)
    }

    /// The paces of a record written at `since`; those of apis that have none any more are dropped.
    pub(super) fn pace_read(&mut self, notes: &[PaceNote], since: At) {
        for note in notes {
            let api = match &note.api {
                Some(name) => self.platform.api(name).map(|(api, _)| api),
                None => Some(0),
            };
            let Some((key, rule)) = api.and_then(|api| self.pace_rule(api)) else { continue };
            if key.is_some() == note.api.is_some() {
                let next = since.plus(Span(note.next_in_us));
                let pace = Pace::restored(&rule, note.micro_rate as f64 / 1e6, next);
                self.listening.paces.insert(key, pace);
            }
        }
    }
}

/// The budget of a fetch that a limit is of.
fn budget_of(item: &Item, place: Place) -> Option<&BudgetKey> {
    item.budgets.iter().find(|key| Some(key.place()) == place.budget)
}

/// What is said of a limit of a budget that a fetch counts in: nothing yet.
fn heard_of(item: &Item, place: Place, api: u16, as_of: At) -> Option<Heard> {
    let (limit, generation) = (place.limit, budget_of(item, place)?.generation());
    let (left, until, ends, over) = (None, None, None, false);
    Some(Heard { limit, generation, api, left, until, ends, as_of, over })
}
