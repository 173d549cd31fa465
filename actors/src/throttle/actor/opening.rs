//! Opening: nothing is let through before the account's record has been read.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context};
use tollgate_gate::{Ask, At, Because, Decision, PermitId, Sent, Span};

use super::weighing::{costs_of, job_of};
use super::{Flight, SEAM_AGAIN, Throttle};
use crate::http::Written;
use crate::ids::{LaneKey, Seq};
use crate::ledger::record::{Known, Record};
use crate::ledger::{Stored, Writer};
use crate::queue::{LaneCount, QueueError};
use crate::shard::Found;
use crate::shard::accounts::{Rest, RestLane};
use crate::shard::context::Running;
use crate::shard::permit::Report;
use crate::telemetry;
use crate::throttle::book;
use crate::throttle::fence::{Fence, Fenced};

/// How long whoever lost a race for an account waits before its next permit, in milliseconds.
const YIELD_MS: std::ops::RangeInclusive<u64> = 10..=50;

/// Most fetches that are remembered from records until they are read. Beyond it those with no crash are
/// forgotten first, then the oldest: they are tried as if they never had been.
const REMEMBERED_MAX: usize = 4096;
/// Within this time every lane of an account has been found, so that one that is not known has no work.
const LANES_FOUND: Duration = Duration::from_secs(300);

impl Throttle {
    pub(super) fn read_record(&mut self, ctx: &mut Context<Self>) {
        if self.restarted || self.shard.owned.was_left(self.part) {
            // What has ended since an older record would not be known of.
            self.shard.ledger.doubt(&self.key);
        }
        let wait = self.wait_to_read();
        if !self.may_write() {
            self.ledger_waits(ctx);
            return;
        }
        let load = self.shard.ledger.load(self.key.clone());
        self.spawn(ctx, load, move |throttle, answer, ctx| match answer {
            Ok(stored) => throttle.adopt(stored, ctx),
            Err(error) => {
                telemetry::ledger_away(&throttle.key, &error);
                throttle.try_later(wait, ctx);
                if !throttle.open {
                    // One that leaves need not wait for its record.
                    throttle.leave_unopened(ctx);
                }
            }
        });
    }

    /// How long to wait should the record not be read this time: longer from time to time.
    fn wait_to_read(&mut self) -> Duration {
        let (fence, wait) = self.fence.reads();
        self.fence = fence;
        wait
    }

    fn adopt(&mut self, stored: Option<Stored>, ctx: &mut Context<Self>) {
        self.fence = Fence::Holds;
        let now = self.now();
        if let Some(stored) = stored {
            self.version = stored.version;
            let since = now.minus(Span::from(stored.age));
            self.adopt_record(&stored.record, (since, false), stored.writer, now);
        }
        if self.restarted {
            self.adopt_running();
            let lanes = self.shard.queue.account_lanes(self.key.clone());
            self.spawn(ctx, lanes, Self::adopt_lanes);
        } else {
            self.open = true;
            self.step(ctx);
        }
    }

    /// `since`: when it was written, and whether that is exact.
    fn adopt_record(
        &mut self,
        bytes: &[u8],
        (since, is_exact): (At, bool),
        writer: Writer,
        now: At,
    ) {
        let limits = Arc::clone(&self.platform.limits);
        let Some(record) = book::decode(&self.key, &mut self.gate, &limits, bytes, now) else {
            return;
        };
        self.throttled_in_a_row = record.throttled_in_a_row;
        self.pace_read(&record.paces, since);
        self.denials_read(&record.denials);
        self.last_given = record.knows(self.shard.ledger.session());
        self.see(&record.known);
        let lost = book::lost(&self.platform, writer, since, now);
        book::load(&self.key, &mut self.gate, &limits, &record, (since, is_exact, now), lost);
        if lost.is_none() {
            // Same process: what is not in the shard's table any more is over.
            let running = self.shard.running.borrow();
            for id in self.gate.in_flight().iter().filter(|id| !running.contains_key(id)) {
                self.gate.ended(&self.platform.limits, *id, now, Sent::Maybe);
            }
        }
        self.stale = !record.flying.is_empty() || !record.open.is_empty();
        self.remember(record, writer, since, now);
    }

    /// Keeps what a record says of fetches until they are read. One that its writer took with it has crashed
    /// once more; while the writer lives it has not, or two nodes for one account would condemn it.
    fn remember(&mut self, record: Record, writer: Writer, since: At, now: At) {
        let crashed = matches!(writer, Writer::Dead | Writer::Silent);
        self.suspect(record.open, record.suspected, writer);
        for flying in record.flying {
            let mut tries = flying.tries;
            // Numbers of permits mean something within their process only.
            let running = writer == Writer::Here
                && self.shard.running.borrow().contains_key(&PermitId(flying.permit));
            if crashed {
                tries.crashes = tries.crashes.saturating_add(1);
            }
            if !running && !self.has(flying.seq) {
                self.remembered.insert(flying.seq, (tries, now, writer != Writer::Here));
            }
        }
        for parked in record.parked {
            let at = since.plus(Span::from_millis(parked.not_within_ms));
            let at = if writer == Writer::Here { at } else { at.max(now) };
            if !self.has(parked.seq) {
                self.remembered.insert(parked.seq, (parked.tries, at, false));
            }
        }
        let beyond = self.remembered.len().saturating_sub(REMEMBERED_MAX);
        if beyond > 0 {
            let known = self.remembered.iter().map(|(seq, (tries, ..))| (tries.crashes > 0, *seq));
            let mut known: Vec<(bool, Seq)> = known.collect();
            known.sort_unstable();
            for (_, seq) in &known[..beyond] {
                self.remembered.remove(seq);
            }
        }
    }

    /// Forgets what every lane has been read beyond: it ended after the record that spoke of it.
    pub(super) fn forget_passed(&mut self, now: At) {
        if self.remembered.is_empty() {
            return;
        }
        let cursors = self.lanes.iter().filter(|lane| !lane.is_empty()).map(|lane| lane.cursor);
        let Some(Some(passed)) = cursors.min() else { return };
        let shard = &self.shard;
        self.remembered.retain(|seq, (_, at, _)| {
            *seq > passed || at.plus(Span::from(LANES_FOUND)) > now || shard.is_leaving(*seq)
        });
    }

    /// Notes whose permits the gate knows of.
    fn see(&mut self, known: &[Known]) {
        book::see(&mut self.seen, known, self.shard.ledger.session());
    }

    /// Reads the record again, in a process that knows what it did itself. Nothing is decided meanwhile.
    pub(super) fn read_again(&mut self, ctx: &mut Context<Self>) {
        let wait = self.wait_to_read();
        if !self.may_write() {
            self.ledger_waits(ctx);
            return;
        }
        let load = self.shard.ledger.load(self.key.clone());
        self.spawn(ctx, load, move |throttle, answer, ctx| match answer {
            Ok(stored) => throttle.rejoin(stored, ctx),
            Err(error) => {
                telemetry::ledger_away(&throttle.key, &error);
                throttle.try_later(wait, ctx);
            }
        });
    }

    fn rejoin(&mut self, stored: Option<Stored>, ctx: &mut Context<Self>) {
        let now = self.now();
        // The gate knows every permit that was given here, also in a restarted actor: its record was read where
        // it is certain to be the last. What is stored is an earlier record of this process, or a late one
        // whose permits were not used, or none any more: the gate is the stricter.
        self.version = stored.as_ref().map_or(0, |stored| stored.version);
        self.stale = true;
        match stored {
            Some(stored) if stored.writer != Writer::Here => {
                let since = now.minus(Span::from(stored.age));
                self.join_record(&stored.record, since, stored.writer, now);
                // Two that want the same account take turns rather than race.
                let pause = Duration::from_millis(fastrand::u64(YIELD_MS));
                self.spawn(ctx, tokio::time::sleep(pause), |throttle, (), ctx| {
                    throttle.fenced(ctx);
                });
            }
            _ => self.fenced(ctx),
        }
    }

    fn fenced(&mut self, ctx: &mut Context<Self>) {
        self.fence = Fence::Holds;
        self.step(ctx);
    }

    /// Another process has written: its record, and what is known here beside it.
    fn join_record(&mut self, bytes: &[u8], since: At, writer: Writer, now: At) {
        let limits = Arc::clone(&self.platform.limits);
        let Some(record) = book::decode(&self.key, &mut self.gate, &limits, bytes, now) else {
            return;
        };
        let lost = book::lost(&self.platform, writer, since, now);
        let known = record.knows(self.shard.ledger.session()) >= self.last_given;
        // Their charges may be joined with others and could not be found any more.
        self.gate = self.gate_without_doubt().into_owned();
        self.doubted.clear();
        book::join(&self.key, &mut self.gate, &limits, &record, (since, now), lost, known);
        self.see(&record.known);
        self.throttled_in_a_row = self.throttled_in_a_row.max(record.throttled_in_a_row);
        self.stale = !record.flying.is_empty() || !record.open.is_empty();
        // Before what the record says of the same fetches, which is newer.
        for place in 0..self.lanes.len() {
            let given_up = self.lanes[place].read_anew();
            self.remember_given_up(given_up, now);
        }
        self.remember(record, writer, since, now);
    }

    /// Takes over the attempts that outlived the last actor.
    fn adopt_running(&mut self) {
        let mine: Vec<_> = {
            let running = self.shard.running.borrow();
            let mine = running.iter().filter(|(_, running)| running.ix == self.ix);
            mine.map(|(id, running)| {
                (*id, Rc::clone(&running.item), running.tries, running.read.clone())
            })
            .collect()
        };
        let recorded = self.last_given;
        for (id, item, tries, read) in mine {
            let lane = self.lane(&item.lane.clone());
            // The record has counted it, or is older than its permit.
            let api = self.lanes[lane].api;
            let later = read.as_ref().is_some_and(|read| read.page() > 1);
            let costs = costs_of(&self.platform, api, &item, later);
            let job = job_of(&self.platform, api, &item);
            let ask = Ask::new(api).with_costs(&costs).for_job(job);
            self.gate.adopt(id, ask, id.0 <= recorded);
            self.last_given = self.last_given.max(id.0);
            let suspect = self.is_suspect(&item.lane, item.seq, tries);
            self.suspects_out(usize::from(suspect), 0);
            let flight = Flight { item, tries, lane, decided_at: At::MIN, suspect, read };
            self.flights.insert(id, flight);
        }
    }

    fn adopt_lanes(&mut self, answer: Result<Vec<LaneCount>, QueueError>, ctx: &mut Context<Self>) {
        match answer {
            Ok(lanes) => {
                let running = self.flights.len();
                // First: what has ended by now is not among those that wait.
                self.replay_running(ctx);
                for LaneCount { lane, waiting } in lanes {
                    // As a node does: what waits for an api that is not configured goes on waiting.
                    if self.platform.api(lane.api.as_str()).is_some() {
                        self.note(&Found { lane, count: waiting, all: true });
                    }
                }
                self.open = true;
                telemetry::throttle_restarted(&self.key, running);
                self.step(ctx);
            }
            Err(error) => {
                telemetry::queue_away(&self.key, &error);
                ctx.run_later(SEAM_AGAIN, |throttle, ctx| {
                    let lanes = throttle.shard.queue.account_lanes(throttle.key.clone());
                    throttle.spawn(ctx, lanes, |throttle, answer, ctx| {
                        throttle.adopt_lanes(answer, ctx);
                    });
                });
            }
        }
    }

    /// What the attempts told while no actor listened.
    fn replay_running(&mut self, ctx: &mut Context<Self>) {
        let ids: Vec<PermitId> = self.flights.keys().copied().collect();
        for id in ids {
            let (written, answered, ended, lost, outcome) = {
                let running = self.shard.running.borrow();
                let Some(running) = running.get(&id) else { continue };
                let Running { written, answered, call_ended, lost, outcome, .. } = running;
                (*written, *answered, *call_ended, *lost, outcome.clone())
            };
            let reports = [
                written.map(|at| Report::Written(Written::At(at))),
                answered.map(Report::Answered),
                ended.map(|(at, sent)| Report::CallEnded(at, sent)),
                lost.map(|(latest, until)| Report::Lost(latest, until)),
                outcome.map(Report::Finished),
            ];
            for report in reports.into_iter().flatten() {
                self.hear(id, report, ctx);
            }
        }
    }

    pub(super) fn wake_up(&mut self, rest: Rest) {
        self.version = rest.version;
        self.usage = rest.usage.map(|usage| *usage).unwrap_or_default();
        let now = self.now();
        if let Some(cause) = rest.cause {
            self.times.waited_until(cause, Some(rest.due), rest.since, now);
        }
        (self.spent, self.spent_due) = ((None, now), None);
        // Read by the limits it was written by.
        let in_force = std::mem::replace(&mut self.platform, rest.platform);
        if !rest.record.is_empty() {
            self.adopt_record(&rest.record, (rest.since, true), Writer::Here, now);
        }
        let same_limits = !self.go_by_limits(in_force, now);
        // What a limit of a new name took over is in no record yet.
        self.stale |= !same_limits && !self.gate.is_empty();
        for RestLane { api, priority, unread, is_late, .. } in rest.lanes {
            let Some(name) = self.platform.apis.get(usize::from(api)).map(|api| api.name.clone())
            else {
                continue;
            };
            let key = LaneKey { account: self.key.clone(), api: name, priority };
            let lane = self.lane(&key);
            self.lanes[lane].unread = unread;
            self.lanes[lane].is_late = is_late;
            // What the gate said when the account went to rest.
            let ask = Ask::new(api).with_costs(self.platform.costs.usual(api));
            if same_limits
                && let Decision::WaitUntil { at, because: Because::Limit(_) } =
                    self.gate.decide(&self.platform.limits, ask, rest.since)
            {
                self.lanes[lane].due = at;
            }
        }
        self.open = true;
    }
}
