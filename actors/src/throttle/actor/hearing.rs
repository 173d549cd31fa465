//! What attempts tell, and what follows from it for their fetch and account.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use actix::Context;
use tollgate_gate::{At, Charged, LimitSet, PermitId, Sent, Span};
use tollgate_protos::Dead;

use super::reading::Why;
use super::weighing::costs_of;
use super::{Doubted, Flight, Throttle};
use crate::budget::Told;
use crate::codes::Code;
use crate::collector::{Again, Item, LastAnswer, Outcome};
use crate::http::Written;
use crate::ledger::record::Tries;
use crate::observe::{DriftKind, Scope};
use crate::pages::Read;
use crate::queue::Ending;
use crate::recipe::{self, FetchContext};
use crate::shard::permit::Report;
use crate::telemetry;
use crate::telemetry::Totals;
use crate::throttle::gate::Gate;
use crate::throttle::lane::Candidate;
use crate::throttle::retry;
use crate::throttle::retry::Next;

/// Most calls of an account that are charged on the word of an api's first answers; others by their own.
const DOUBTED_MAX: usize = 64;

impl Throttle {
    pub(super) fn hear(&mut self, id: PermitId, report: Report, ctx: &mut Context<Self>) {
        let limits = Arc::clone(&self.platform.limits);
        match report {
            Report::Written(Written::At(at)) => {
                let mut baselines = self.shard.baselines.borrow_mut();
                baselines.written(&self.key.platform, at);
                let flight = self.flights.get(&id);
                let uneven = flight.map_or(Span::ZERO, |flight| {
                    baselines.uneven(&self.key.platform, self.lanes[flight.lane].api)
                });
                drop(baselines);
                let own = if limits.has_default_guard() { uneven } else { Span::ZERO };
                self.gate.written(&limits, id, at.plus(beyond_guard(&limits, own)));
                self.shard.tell_budgets_each(id, |limits| {
                    let uneven = if limits.has_default_guard() { uneven } else { Span::ZERO };
                    Told::Written(at.plus(beyond_guard(limits, uneven)))
                });
            }
            Report::Written(Written::Unknown) => {
                self.shard.tell_budgets(id, Told::Unwritten);
                self.gate.unwritten(id);
            }
            Report::Answered(at) => self.answered(id, at),
            Report::Told(facts) => self.told(id, &facts, ctx),
            Report::CallEnded(at, sent) => {
                self.listened(id, sent);
                self.shard.tell_budgets(id, Told::Ended(at, sent));
                // What it cost is known when the attempt is over, and has to be told before.
                if self.platform.costs.are_settled() {
                    self.gate.hold_back(id, at, sent);
                } else {
                    self.gate.ended(&limits, id, at, sent);
                    self.job_ended(id);
                }
            }
            Report::Lost(latest, slots_until) => self.lost(id, latest, slots_until),
            Report::Finished(outcome) => self.finished(id, outcome, ctx),
        }
    }

    /// The node that made the call is not heard of any more: it counts as one of a dead writer. Its places are kept for as
    /// long as it may go on.
    fn lost(&mut self, id: PermitId, latest: At, slots_until: At) {
        self.listened(id, Sent::Maybe);
        self.gate.lose(&self.platform.limits, id, latest, slots_until);
        self.shard.lose_budgets(id, latest, slots_until);
    }

    /// The call is charged now if not before; its guard is longer by what its request may have been late.
    pub(super) fn answered(&mut self, id: PermitId, at: At) {
        let limits = &self.platform.limits;
        let written = self.shard.running.borrow().get(&id).and_then(|running| running.written);
        if let (Some(written), Some(flight)) = (written, self.flights.get(&id)) {
            let api = self.lanes[flight.lane].api;
            let platform = &self.key.platform;
            let mut baselines = self.shard.baselines.borrow_mut();
            let late = baselines.answered(platform, api, written, at);
            let young = baselines.is_young(platform, api, at);
            self.shard.tell_budgets(id, Told::Unwritten);
            self.shard.tell_budgets_each(id, |limits| {
                let corrects = late.in_crowd || limits.has_default_guard();
                // A budget reconsiders nothing: of an api that is not known yet only the answer tells.
                let beyond = if corrects { beyond_guard(limits, late.by) } else { Span::ZERO };
                Told::Written(if corrects && young { at } else { written.plus(beyond) })
            });
            if late.in_crowd || limits.has_default_guard() {
                let mut stamp = written.plus(beyond_guard(limits, late.by));
                if stamp < at && young {
                    let later = flight.read.as_ref().is_some_and(|read| read.page() > 1);
                    let costs = costs_of(&self.platform, api, &flight.item, later);
                    let is_settled = costs.iter().any(|cost| cost.is_estimate);
                    let can_amend = limits.can_amend() && !is_settled;
                    if can_amend && self.doubted.len() < DOUBTED_MAX {
                        let charged = Charged { api, stamp, answered: at };
                        let costs = costs.into();
                        self.doubted.push(Doubted { charged, costs, written });
                    } else {
                        stamp = at;
                    }
                }
                self.gate.unwritten(id);
                self.gate.written(limits, id, stamp);
            }
        }
        self.shard.tell_budgets(id, Told::Answered(at));
        self.gate.answered(limits, id, at);
    }

    /// What was charged on the word of the first answers of an api is charged by what is known now, as soon as it
    /// matters: when it leaves a window, before that forgets it, and when its api is not young any more. Tells when to
    /// look again.
    pub(super) fn reconsider(&mut self, now: At) -> Option<At> {
        if self.doubted.is_empty() {
            return None;
        }
        let limits = &self.platform.limits;
        let platform = &self.key.platform;
        let baselines = self.shard.baselines.borrow();
        let mut again = None;
        self.doubted.retain_mut(|Doubted { charged, costs, written }| {
            let young = baselines.young_until(platform, charged.api).filter(|until| now < *until);
            if young.is_none() || limits.has_left(*charged, now) {
                let late = baselines.late(platform, charged.api, *written, charged.answered);
                let stamp = written.plus(beyond_guard(limits, late));
                if stamp > charged.stamp {
                    self.gate.arrived_later(limits, *charged, costs, stamp);
                    charged.stamp = stamp;
                }
            }
            again = again.max(young);
            young.is_some()
        });
        again
    }

    /// The gate for whoever cannot reconsider: another writer, or this account after a rest. Doubted calls
    /// are charged at their answers.
    pub(super) fn gate_without_doubt(&self) -> Cow<'_, Gate> {
        let mut gate = Cow::Borrowed(&self.gate);
        for Doubted { charged, costs, .. } in &self.doubted {
            let limits = &self.platform.limits;
            gate.to_mut().arrived_later(limits, *charged, costs, charged.answered);
        }
        gate
    }

    fn finished(&mut self, id: PermitId, outcome: Outcome, ctx: &mut Context<Self>) {
        let running = self.shard.running.borrow_mut().remove(&id);
        let body = running.as_ref().map(|running| running.body.get()).unwrap_or_default();
        let is_abroad = running.as_ref().is_some_and(|running| running.is_abroad);
        let grants = running.map(|running| running.grants).unwrap_or_default();
        self.settle(id, &outcome, body, grants);
        let Some(flight) = self.flights.remove(&id) else { return };
        let Flight { item, mut tries, lane, decided_at, suspect, read } = flight;
        self.suspects_out(0, usize::from(suspect));
        let api = self.lanes[lane].api;
        let outcome = self.through_breaker(api, outcome, decided_at, ctx);
        self.meters.attempt(api, &outcome);
        self.pace_heard(api, decided_at, &outcome, self.now());
        match outcome {
            Outcome::Done { bytes, objects } => {
                self.throttled_in_a_row = 0;
                self.unreachable_in_a_row = 0;
                self.lanes[lane].ended(item.seq);
                self.follow_on(lane, item.seq, ctx);
                self.shard.totals.done(bytes, objects);
                let calls = calls_before(read.as_deref()) + tries.calls() + 1;
                telemetry::fetch_done(&self.meters, api, &item, bytes, objects, calls);
                self.trace_ended(&item, calls, None);
            }
            Outcome::More { read, bytes, objects } => {
                self.throttled_in_a_row = 0;
                self.unreachable_in_a_row = 0;
                self.shard.totals.page(bytes, objects);
                self.meters.page(api, bytes, objects);
                let item = self.item_of_later_page(item, api, &read);
                let not_before = self.now();
                // The tries are those of one page.
                let tries = Tries::default();
                let read = Some(read);
                let next = Candidate { item, tries, not_before, suspect: false, read };
                self.lanes[lane].parked.push(next);
            }
            Outcome::Split { reason, last } => {
                self.throttled_in_a_row = 0;
                self.unreachable_in_a_row = 0;
                self.hold_for_split((&item, api), &last, &reason, ctx);
                self.lanes[lane].ended(item.seq);
                self.follow_on(lane, item.seq, ctx);
                self.shard.totals.done(0, 0);
                let calls = calls_before(read.as_deref()) + tries.calls() + 1;
                telemetry::fetch_done(&self.meters, api, &item, 0, 0, calls);
                self.trace_ended(&item, calls, None);
            }
            Outcome::Dead { code, reason, last } => {
                self.throttled_in_a_row = 0;
                self.unreachable_in_a_row = 0;
                tries.attempts = tries.attempts.saturating_add(1);
                self.hold_for_refusal((&item, api), &last, &reason, ctx);
                self.give_up(item, code, reason, last, (tries, read), ctx);
            }
            Outcome::Again { kind, after, reason, mut last } => {
                if decided_at < self.limits_since
                    && let Some(over) = &mut last.over
                {
                    // It names limits by places that they had before.
                    (over.hits, over.boundary) = (None, None);
                }
                let before = self.throttled_in_a_row;
                let in_a_row = self.count_in_a_row(kind, decided_at);
                if kind == Again::Throttled && self.throttled_in_a_row > before {
                    let hits = last.over.as_ref().and_then(|over| over.hits);
                    self.drifted(hits, DriftKind::Refused, self.now());
                }
                let attempts_max = self.shard.plan().collect.attempts_max;
                let mut next = retry::next(&mut tries, kind, after, in_a_row, attempts_max);
                if let Some(read) = &read
                    && kind == Again::Transient
                    && is_hopeless(read, tries, attempts_max)
                {
                    next = Next::GiveUp(Code::AttemptsExhausted);
                }
                let said = at_page(read.as_deref(), &reason);
                telemetry::attempt_failed(&item, kind, &said, &last, tries, &next);
                let now = self.now();
                let wait = match next {
                    Next::GiveUp(code) => {
                        let code = match (code, last.flaw) {
                            (Code::AttemptsExhausted, Some(flaw)) => flaw,
                            _ => code,
                        };
                        let reason = format!("{reason}; given up after {} calls", tries.calls());
                        self.give_up(item, code, reason, last, (tries, read), ctx);
                        return;
                    }
                    Next::Retry(wait) => match last.over.as_deref() {
                        Some(over) if kind == Again::Parked => self.within(&item, over, wait),
                        _ => wait,
                    },
                    Next::HoldAndRetry(wait) => {
                        let reason = hold_reason(kind, &last, after.is_some());
                        let why = kind.as_str();
                        match last.over.as_deref() {
                            None => {
                                self.hold_scope(Scope::Account, api, wait, why, &reason, ctx);
                                wait
                            }
                            Some(over) => {
                                let wait = self.within(&item, over, wait);
                                self.hold_by_rule(over, (&item, api), wait, why, &reason, ctx);
                                wait
                            }
                        }
                    }
                };
                let not_before = now.plus(Span::from(wait));
                let suspect = self.is_suspect(&item.lane, item.seq, tries);
                let again = Candidate { item, tries, not_before, suspect, read };
                let why = match kind {
                    Again::Crashed => Some(Why::Crashed),
                    Again::Unsettled => Some(Why::Unsettled),
                    _ => None,
                };
                // Of what became of it at another node nothing is known but what there is in the store.
                match why.filter(|_| is_abroad || self.has_pages(lane)) {
                    // How far the collector has come with its page is not known here.
                    Some(why) => self.look_up(lane, again, why, ctx),
                    None => self.lanes[lane].parked.push(again),
                }
            }
        }
    }

    /// A later page may count in fewer budgets than the first.
    fn item_of_later_page(&self, item: Rc<Item>, api: u16, read: &Read) -> Rc<Item> {
        let has_free = self.platform.budgets.iter().any(|budget| {
            let special = budget.special.values.values().chain(budget.special.tiers.values());
            special.chain([&budget.counted]).any(|own| !own.costs.free_pages.is_empty())
        });
        let Some(api) = self.platform.apis.get(usize::from(api)).filter(|_| has_free) else {
            return item;
        };
        let context = FetchContext {
            account: &item.lane.account.account,
            id: &item.id,
            params: &item.fetch.params,
            queued_at: item.queued_at,
        };
        let later = read.page() > 1;
        match recipe::budgets_of_page(&self.platform, api, &context, later) {
            Ok(budgets) => Rc::new(item.with_budgets(budgets, self.platform.generation)),
            Err(_) => item,
        }
    }

    /// Refusals of calls that were in flight together count as one: none of them knew of the others.
    fn count_in_a_row(&mut self, kind: Again, decided_at: At) -> u8 {
        let reached = !matches!(kind, Again::Unreachable | Again::Late | Again::Crashed);
        if reached {
            self.unreachable_in_a_row = 0;
        }
        let count = match kind {
            Again::Throttled => &mut self.throttled_in_a_row,
            Again::Unreachable => &mut self.unreachable_in_a_row,
            _ => return 1,
        };
        let together = self.refused_at.is_some_and(|at| decided_at < at);
        if *count == 0 || !together {
            *count = count.saturating_add(1);
            self.refused_at = Some(self.shard.clock.now());
        }
        *count
    }

    /// Ends the trace of a fetch, if it is traced.
    fn trace_ended(&self, item: &Item, calls: u32, dead: Option<Code>) {
        if let Some(trace) = self.shard.peers.traces().and_then(|traces| traces.of(item)) {
            trace.fetch(item, calls, dead.map(|code| code.to_string()));
        }
    }

    pub(super) fn give_up(
        &mut self,
        item: Rc<Item>,
        code: Code,
        reason: String,
        last: LastAnswer,
        (tries, read): (Tries, Option<Arc<Read>>),
        ctx: &mut Context<Self>,
    ) {
        let place = self.lane(&item.lane);
        let reason = at_page(read.as_deref(), &reason).into_owned();
        telemetry::fetch_dead(&self.meters, self.lanes[place].api, &item, code, &reason);
        let calls = calls_before(read.as_deref()) + tries.calls();
        self.trace_ended(&item, calls, Some(code));
        let dead = Dead {
            seq: item.origin.0,
            fetch: Some(item.fetch.clone()),
            raw: None,
            source: None,
            code: code.to_string(),
            reason,
            attempts: calls_before(read.as_deref()) + tries.calls(),
            http_status: last.status,
            body_start: last.body_start,
            request_id: last.request_id,
            died_at: self.shard.clock.wall(),
        };
        let how = async move { Some(Ending::Dead(Box::new(dead))) };
        self.end(item, how, Totals::dead, ctx, move |throttle, _| {
            throttle.lanes[place].left_behind(1);
        });
    }
}

/// Calls for the pages before.
fn calls_before(read: Option<&Read>) -> u32 {
    read.map_or(0, |read| read.so_far.calls)
}

/// A reason with the page that it is about.
fn at_page<'a>(read: Option<&Read>, reason: &'a str) -> Cow<'a, str> {
    match read {
        Some(read) if read.page() > 1 => format!("page {}: {reason}", read.page()).into(),
        _ => reason.into(),
    }
}

/// Whether so many calls of a read failed that it is given up, although no single page has failed so often:
/// more than one for each page stored, beside those that one page may have.
fn is_hopeless(read: &Read, tries: Tries, attempts_max: u32) -> bool {
    let failures = read.failures() + u32::from(tries.attempts);
    failures >= attempts_max.saturating_add(read.page())
}

/// By how much the stamp of a request is moved that may have arrived so much late: the guard is added to the
/// stamp, so only what it does not cover.
fn beyond_guard(limits: &LimitSet, late: Span) -> Span {
    Span(late.0.saturating_sub(limits.guard_min().0))
}

fn hold_reason(kind: Again, last: &LastAnswer, asked: bool) -> String {
    match (kind, last.status) {
        (Again::Unreachable, _) => "the provider could not be reached".into(),
        (_, Some(status)) if last.over.is_some() => {
            format!("the provider answered {status}, a refusal by rule")
        }
        (_, Some(status)) if asked => format!("the provider answered {status} with Retry-After"),
        (_, Some(status)) => format!("the provider answered {status}"),
        (_, None) => "the provider refused".into(),
    }
}
