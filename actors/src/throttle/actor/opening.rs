//! Opening: nothing is let through before the account's record has been read.

use std::rc::Rc;

use actix::{AsyncContext, Context};
use tollgate_gate::{Ask, At, Because, Decision, PermitId, Sent, Span};

use super::{Flight, SEAM_AGAIN, Throttle};
use crate::collector::{Item, USE_WITHIN};
use crate::http::Written;
use crate::ids::LaneKey;
use crate::ledger::Stored;
use crate::ledger::record::{Record, Tries};
use crate::queue::{LaneCount, QueueError};
use crate::shard::Found;
use crate::shard::accounts::{Rest, RestLane};
use crate::shard::permit::Report;
use crate::telemetry;

impl Throttle {
    pub(super) fn read_record(&mut self, ctx: &mut Context<Self>, restarted: bool) {
        let load = self.shard.ledger.load(self.key.clone());
        self.spawn(ctx, load, move |throttle, answer, ctx| match answer {
            Ok(stored) => throttle.adopt(stored, restarted, ctx),
            Err(error) => {
                telemetry::ledger_away(&throttle.key, &error);
                ctx.run_later(SEAM_AGAIN, move |throttle, ctx| {
                    throttle.read_record(ctx, restarted);
                });
            }
        });
    }

    fn adopt(&mut self, stored: Option<Stored>, restarted: bool, ctx: &mut Context<Self>) {
        let now = self.now();
        if let Some(stored) = stored {
            self.version = stored.version;
            let since = now.minus(Span::from(stored.age));
            self.adopt_record(&stored.record, since, stored.writer_gone, now);
        }
        if restarted {
            self.adopt_running();
            let lanes = self.shard.queue.account_lanes(self.key.clone());
            self.spawn(ctx, lanes, Self::adopt_lanes);
        } else {
            self.open = true;
            self.step(ctx);
        }
    }

    fn adopt_record(&mut self, bytes: &[u8], since: At, writer_gone: bool, now: At) {
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(error) => {
                let until = self.gate.shut_for_longest_window(&self.platform.limits, now);
                telemetry::ledger_unreadable(&self.key, &error.to_string(), until.since(now));
                return;
            }
        };
        self.throttled_in_a_row = record.throttled_in_a_row;
        let foreign = self.gate.load(&self.platform.limits, &record.gate, since, now);
        for note in foreign {
            telemetry::ledger_note(&self.key, &note);
        }
        let in_flight: Vec<PermitId> = self.gate.in_flight();
        if writer_gone {
            // Its process is gone and its sockets with it: what it wrote last left it before now.
            let connect = self.platform.apis.iter().map(|api| api.timeouts.connect).max();
            let latest = since
                .plus(Span::from(USE_WITHIN))
                .plus(Span::from(connect.unwrap_or_default()))
                .min(now);
            let slots_until = now.plus(Span::from(self.platform.lost_call));
            self.gate.lose_all(&self.platform.limits, latest, slots_until);
        } else {
            // Same process: what is not in the shard's table any more is over.
            let running = self.shard.running.borrow();
            for id in in_flight.iter().filter(|id| !running.contains_key(id)) {
                self.gate.ended(&self.platform.limits, *id, now, Sent::Maybe);
            }
        }
        self.stale = !record.flying.is_empty();
        for flying in record.flying {
            let mut tries = flying.tries;
            let running =
                self.shard.running.borrow().contains_key(&PermitId(flying.permit)) && !writer_gone;
            if writer_gone {
                tries.crashes = tries.crashes.saturating_add(1);
            }
            if !running {
                self.remembered.insert(flying.seq, (tries, now, writer_gone));
            }
        }
        for parked in record.parked {
            let at = since.plus(Span::from_millis(parked.not_within_ms));
            self.remembered.insert(parked.seq, (parked.tries, at, false));
        }
    }

    /// Takes over the attempts that outlived the last actor.
    fn adopt_running(&mut self) {
        let mine: Vec<(PermitId, Rc<Item>, Tries)> = {
            let running = self.shard.running.borrow();
            let mine = running.iter().filter(|(_, running)| running.ix == self.ix);
            mine.map(|(id, running)| (*id, Rc::clone(&running.item), running.tries)).collect()
        };
        for (id, item, tries) in mine {
            let lane = self.lane(&item.lane.clone());
            let flight = Flight { item, tries, lane, decided_at: At::MIN };
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
            let (written, answered, ended, outcome) = {
                let running = self.shard.running.borrow();
                let Some(running) = running.get(&id) else { continue };
                (running.written, running.answered, running.call_ended, running.outcome.clone())
            };
            let reports = [
                written.map(|at| Report::Written(Written::At(at))),
                answered.map(Report::Answered),
                ended.map(|(at, sent)| Report::CallEnded(at, sent)),
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
        if !rest.record.is_empty() {
            self.adopt_record(&rest.record, rest.since, false, now);
        }
        for RestLane { api, priority, waiting, .. } in rest.lanes {
            let Some(name) = self.platform.apis.get(usize::from(api)).map(|api| api.name.clone())
            else {
                continue;
            };
            let key = LaneKey { account: self.key.clone(), api: name, priority };
            let lane = self.lane(&key);
            self.lanes[lane].unseen = waiting;
            // What the gate said when the account went to rest.
            let ask = Ask { api };
            if let Decision::WaitUntil { at, because: Because::Limit(_) } =
                self.gate.decide(&self.platform.limits, ask, rest.since)
            {
                self.lanes[lane].due = at;
            }
        }
        self.open = true;
    }
}
