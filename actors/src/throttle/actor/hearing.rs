//! What attempts tell, and what follows from it for their fetch and account.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::Context;
use tollgate_gate::{At, PermitId, Span};
use tollgate_protos::Dead;

use super::{Fence, Flight, Throttle};
use crate::budget::Told;
use crate::codes::Code;
use crate::collector::{Again, Item, LastAnswer, Outcome};
use crate::http::Written;
use crate::ledger::record::Tries;
use crate::queue::Ending;
use crate::shard::permit::Report;
use crate::telemetry;
use crate::telemetry::Totals;
use crate::throttle::lane::Candidate;
use crate::throttle::retry;
use crate::throttle::retry::Next;

/// Two answers alike may differ by so much.
const SLOWER_MARGIN: Span = Span::from_millis(10);
/// A hold of this length is written down at once.
const HOLD_WRITTEN_FROM: Duration = Duration::from_secs(1);

impl Throttle {
    pub(super) fn hear(&mut self, id: PermitId, report: Report, ctx: &mut Context<Self>) {
        let limits = Arc::clone(&self.platform.limits);
        match report {
            Report::Written(Written::At(at)) => {
                self.shard.tell_budgets(id, Told::Written(at));
                self.shard.baselines.borrow_mut().written(&self.key.platform, at);
                self.gate.written(&limits, id, at);
            }
            Report::Written(Written::Unknown) => {
                self.shard.tell_budgets(id, Told::Unwritten);
                self.gate.unwritten(id);
            }
            Report::Answered(at) => self.answered(id, at),
            Report::CallEnded(at, sent) => {
                self.shard.tell_budgets(id, Told::Ended(at, sent));
                self.gate.ended(&limits, id, at, sent);
            }
            Report::Finished(outcome) => self.finished(id, outcome, ctx),
        }
    }

    /// The call is charged now if not before; its guard is longer by what its request may have waited at
    /// a crowded provider.
    pub(super) fn answered(&mut self, id: PermitId, at: At) {
        let limits = &self.platform.limits;
        let written = self.shard.running.borrow().get(&id).and_then(|running| running.written);
        if let (Some(written), Some(flight)) = (written, self.flights.get(&id)) {
            let api = self.lanes[flight.lane].api;
            let platform = &self.key.platform;
            let mut baselines = self.shard.baselines.borrow_mut();
            let slower = baselines.answered(platform, api, written, at);
            if slower > Span::ZERO {
                // The guard is added to the stamp: only what it does not cover moves the stamp.
                let covered = limits.guard_min().0;
                let beyond = Span((slower.0 + SLOWER_MARGIN.0).saturating_sub(covered));
                self.gate.unwritten(id);
                self.gate.written(limits, id, written.plus(beyond));
                self.shard.tell_budgets_slower(id, slower, SLOWER_MARGIN);
            }
        }
        self.shard.tell_budgets(id, Told::Answered(at));
        self.gate.answered(limits, id, at);
    }

    fn finished(&mut self, id: PermitId, outcome: Outcome, ctx: &mut Context<Self>) {
        self.shard.running.borrow_mut().remove(&id);
        let Some(flight) = self.flights.remove(&id) else { return };
        let Flight { item, mut tries, lane, decided_at, suspect } = flight;
        self.suspects_out(0, usize::from(suspect));
        let api = self.lanes[lane].api;
        self.meters.attempt(api, &outcome);
        match outcome {
            Outcome::Done { bytes, objects } => {
                self.throttled_in_a_row = 0;
                self.unreachable_in_a_row = 0;
                self.lanes[lane].ended(item.seq);
                self.shard.totals.done(bytes, objects);
                let calls = tries.calls() + 1;
                telemetry::fetch_done(&self.meters, api, &item, bytes, objects, calls);
            }
            Outcome::Dead { code, reason, last } => {
                self.throttled_in_a_row = 0;
                self.unreachable_in_a_row = 0;
                tries.attempts = tries.attempts.saturating_add(1);
                self.give_up(item, code, reason, last, tries, ctx);
            }
            Outcome::Again { kind, after, reason, last } => {
                let in_a_row = self.count_in_a_row(kind, decided_at);
                let attempts_max = self.shard.plan.collect.attempts_max;
                let next = retry::next(&mut tries, kind, after, in_a_row, attempts_max);
                telemetry::attempt_failed(&item, kind, &reason, &last, tries, &next);
                let now = self.now();
                let wait = match next {
                    Next::GiveUp(code) => {
                        let code = match (code, last.flaw) {
                            (Code::AttemptsExhausted, Some(flaw)) => flaw,
                            _ => code,
                        };
                        let reason = format!("{reason}; given up after {} calls", tries.calls());
                        self.give_up(item, code, reason, last, tries, ctx);
                        return;
                    }
                    Next::Retry(wait) => wait,
                    Next::HoldAndRetry(wait) => {
                        let until = now.plus(Span::from(wait));
                        self.gate.hold(until, &hold_reason(kind, &last, after.is_some()));
                        telemetry::hold(&self.meters, &self.key, kind, wait);
                        // Else the next record has it: one is on its way, or due as soon as it can be.
                        let free = self.writing.is_none() && self.fence == Fence::Holds;
                        if wait >= HOLD_WRITTEN_FROM && free {
                            // Not left to the next permit: a restart would forget it until then.
                            self.writing = Some(Vec::new());
                            self.store_record(Vec::new(), ctx);
                        }
                        wait
                    }
                };
                let not_before = now.plus(Span::from(wait));
                let suspect = self.is_suspect(&item.lane, item.seq, tries);
                self.lanes[lane].parked.push(Candidate { item, tries, not_before, suspect });
            }
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

    pub(super) fn give_up(
        &mut self,
        item: Rc<Item>,
        code: Code,
        reason: String,
        last: LastAnswer,
        tries: Tries,
        ctx: &mut Context<Self>,
    ) {
        let place = self.lane(&item.lane);
        telemetry::fetch_dead(&self.meters, self.lanes[place].api, &item, code, &reason);
        let dead = Dead {
            seq: item.origin.0,
            fetch: Some(item.fetch.clone()),
            raw: None,
            source: None,
            code: code.to_string(),
            reason,
            attempts: tries.calls(),
            http_status: last.status,
            body_start: last.body_start,
            died_at: self.shard.clock.wall(),
        };
        let how = async move { Some(Ending::Dead(Box::new(dead))) };
        self.end(item, how, Totals::dead, ctx, move |throttle| throttle.lanes[place].note(1));
    }
}

fn hold_reason(kind: Again, last: &LastAnswer, asked: bool) -> String {
    match (kind, last.status) {
        (Again::Unreachable, _) => "the provider could not be reached".into(),
        (_, Some(status)) if asked => format!("the provider answered {status} with Retry-After"),
        (_, Some(status)) => format!("the provider answered {status}"),
        (_, None) => "the provider refused".into(),
    }
}
