//! Accounts whose access is refused: the circuit breaker of the account, or of one of its apis.

use std::time::Duration;

use actix::Context;
use tollgate_gate::At;

use super::Throttle;
use crate::answers::BreakerRule;
use crate::answers::breaker::Breaker;
use crate::codes::Code;
use crate::collector::{Again, LastAnswer, Outcome};
use crate::ledger::record::DenialNote;
use crate::observe::Scope;
use crate::plan::{Api, Platform};
use crate::telemetry;
use crate::throttle::lane::{Candidate, Lane, Offer};

/// What is waited for while the one call is out.
pub(super) const TRIAL: &str = "one call that shows whether access is given again";

impl Throttle {
    /// The rule of an api, and whose breaker it is.
    fn breaker_rule(&self, api: u16) -> Option<(Option<u16>, BreakerRule)> {
        let rule = self.platform.apis.get(usize::from(api))?.answers.breaker.clone()?;
        Some((rule.per_api.then_some(api), rule))
    }

    /// What an outcome means for the breaker, and the breaker for the outcome: once it is open, a fetch that is
    /// refused waits for the account instead of being given up for it.
    pub(super) fn through_breaker(
        &mut self,
        api: u16,
        outcome: Outcome,
        decided_at: At,
        ctx: &mut Context<Self>,
    ) -> Outcome {
        let Some((key, rule)) = self.breaker_rule(api) else { return outcome };
        match outcome {
            Outcome::Dead { code, reason, mut last } if last.denied => {
                let Some(after) = self.denied(key, &rule, decided_at, (api, &reason), ctx) else {
                    return Outcome::Dead { code, reason, last };
                };
                last.flaw = Some(code);
                Outcome::Again { kind: Again::Denied, after: Some(after), reason, last }
            }
            Outcome::Dead { ref last, .. } if last.status.is_none() => outcome,
            Outcome::Done { .. }
            | Outcome::More { .. }
            | Outcome::Split { .. }
            | Outcome::Dead { .. } => {
                if self.breakers.get_mut(&key).is_some_and(Breaker::passed) {
                    telemetry::breaker_closed(&self.key);
                }
                self.breakers.remove(&key);
                outcome
            }
            Outcome::Again { .. } => outcome,
        }
    }

    /// How long the fetch waits, if the breaker was open already.
    fn denied(
        &mut self,
        key: Option<u16>,
        rule: &BreakerRule,
        decided_at: At,
        (api, reason): (u16, &str),
        ctx: &mut Context<Self>,
    ) -> Option<Duration> {
        let now = self.now();
        let breaker = self.breakers.entry(key).or_default();
        let was_open = breaker.is_open();
        let hold = breaker.refused(rule, decided_at, now);
        let wait = breaker.wait(rule, now);
        if let Some(hold) = hold {
            let scope = if key.is_some() { Scope::Api } else { Scope::Account };
            let why = format!("access was refused {} times in a row: {reason}", rule.after);
            self.hold_scope(scope, api, hold, Again::Denied.as_str(), &why, ctx);
        }
        was_open.then_some(wait)
    }

    /// Whether access was refused and a call is out that shows whether it still is.
    pub(super) fn waits_for_trial(&self, api: u16) -> bool {
        if self.breakers.is_empty() {
            return false;
        }
        let Some((key, _)) = self.breaker_rule(api) else { return false };
        if !self.breakers.get(&key).is_some_and(Breaker::is_open) {
            return false;
        }
        let of_it = |lane: usize| key.is_none_or(|api| self.lanes[lane].api == api);
        self.flights.values().any(|flight| of_it(flight.lane))
            || self.decided_or_asking().any(|decided| of_it(decided.lane))
    }

    /// Tells lanes whether their next call shows that access is given again. Whether there are such.
    pub(super) fn set_trials(&mut self) -> bool {
        if self.breakers.is_empty() && !self.lanes.iter().any(|lane| lane.on_trial) {
            return false;
        }
        let mut any = false;
        for place in 0..self.lanes.len() {
            let rule = self.breaker_rule(self.lanes[place].api);
            let breaker = rule.and_then(|(key, _)| self.breakers.get(&key));
            let on_trial = breaker.is_some_and(Breaker::is_open);
            self.lanes[place].on_trial = on_trial;
            any |= on_trial;
        }
        any
    }

    /// Whether another lane has a fetch that was refused less often than the next of this one: a trial with that one says
    /// more.
    pub(super) fn is_out_of_turn(&self, place: usize, now: At) -> bool {
        let lane = &self.lanes[place];
        let Some((key, _)) = self.breaker_rule(lane.api).filter(|_| lane.on_trial) else {
            return false;
        };
        let Some(trials) = lane.trials(now) else { return false };
        let fewer = |other: &Lane| match other.offer(now) {
            Offer::Fetch => other.trials(now).is_some_and(|others| others < trials),
            Offer::Read => trials > 0,
            Offer::Later(_) | Offer::Nothing => false,
        };
        let same = |other: &&Lane| other.on_trial && key.is_none_or(|api| other.api == api);
        self.lanes.iter().filter(same).any(fewer)
    }

    /// Whether refusals are remembered.
    pub(super) fn has_denials(&self) -> bool {
        !self.breakers.is_empty()
    }

    /// Apis may have other numbers from now on.
    pub(super) fn breakers_follow(&mut self, old: &Platform) {
        let number = |api: u16| {
            let name = &old.apis.get(usize::from(api))?.name;
            self.platform.api(name.as_str()).map(|(number, _)| number)
        };
        let breakers = std::mem::take(&mut self.breakers).into_iter();
        let breakers = breakers.filter_map(|(api, breaker)| match api {
            None => Some((None, breaker)),
            Some(api) => Some((Some(number(api)?), breaker)),
        });
        self.breakers = breakers.collect();
    }

    /// The refusals, for the record.
    pub(super) fn denial_notes(&self) -> Vec<DenialNote> {
        let name =
            |api: &u16| self.platform.apis.get(usize::from(*api)).map(|api| api.name.to_string());
        let note = |(api, breaker): (&Option<u16>, &Breaker)| DenialNote {
            api: api.as_ref().and_then(name),
            refusals: breaker.refusals,
            opened: breaker.opened,
        };
        self.breakers.iter().map(note).collect()
    }

    /// The refusals of a record; those of apis that have no breaker any more are dropped.
    pub(super) fn denials_read(&mut self, notes: &[DenialNote]) {
        for note in notes {
            let api = match &note.api {
                Some(name) => self.platform.api(name).map(|(api, _)| api),
                None => Some(0),
            };
            let Some((key, _)) = api.and_then(|api| self.breaker_rule(api)) else { continue };
            let key = if note.api.is_some() { key } else { None };
            if key.is_some() == note.api.is_some() {
                self.breakers.insert(key, Breaker::restored(note.refusals, note.opened));
            }
        }
    }

    /// A call that may not be repeated was in flight when its process or its collector died: what it did nobody
    /// knows.
    pub(super) fn not_lost(
        &mut self,
        candidate: Candidate,
        ctx: &mut Context<Self>,
    ) -> Option<Candidate> {
        let api = self.platform.api(candidate.item.lane.api.as_str());
        if candidate.tries.crashes == 0 || api.is_none_or(|(_, api)| api.may_repeat()) {
            return Some(candidate);
        }
        let reason = "it was in flight when the process or a collector died, or the store did; the call may not be \
                      repeated, and may have done its work";
        let Candidate { item, tries, read, .. } = candidate;
        let last = LastAnswer::default();
        self.give_up(item, Code::AnswerLost, reason.into(), last, (tries, read), ctx);
        None
    }

    /// Whether the calls of an api may be repeated.
    pub(super) fn may_repeat(&self, api: u16) -> bool {
        self.platform.apis.get(usize::from(api)).is_none_or(Api::may_repeat)
    }
}
