//! A budget's record: stored before each call, read before anything else.

use std::sync::Weak;
use std::time::Duration;

use actix::prelude::*;
use tollgate_gate::{At, PermitId, Sent, Span};

use super::{Budget, Decided};
use crate::budget::{Given, Grant, Told};
use crate::ids::Seq;
use crate::ledger::record::{Flying, Known, Record, Tries};
use crate::ledger::{LedgerError, Stored, Writer};
use crate::telemetry;
use crate::throttle::book::{self, Lost};
use crate::throttle::fence::{Fence, Fenced};

/// Whoever lost a race for the record waits so long, in milliseconds.
const YIELD_MS: std::ops::RangeInclusive<u64> = 10..=50;
/// Most calls that a record names as made by its writer. Those beyond count as ones that may be another node's.
const MADE_HERE_MAX: usize = 1024;

impl Budget {
    /// Stores a record of now, whatever it covers.
    pub(super) fn store(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        self.keeps = std::mem::take(&mut self.unkept);
        self.recording.append(&mut self.unrecorded);
        let writing = self.writing.iter().flatten().map(|decided| decided.id.0);
        let permit = writing.fold(self.last_given, u64::max);
        let flying = if self.shard.owned.is_shared() { self.made_here() } else { Vec::new() };
        let own = Known { session: self.shard.ledger.session(), permit };
        let record = Record {
            config: self.shard.plan().hash.clone(),
            gate: self.gate.encode(&self.limits, now),
            known: book::known(own, &self.seen),
            flying,
            ..Record::default()
        };
        self.stale = !self.gate.in_flight().is_empty();
        let key = self.key.record().clone();
        let store = self.shard.ledger.store(key, self.version, record.encode());
        self.spawn(ctx, store, Self::confirmed);
    }

    /// The calls in flight that this node makes itself, as far as there is room: if it dies, so do they. Any other may be
    /// another node's.
    fn made_here(&self) -> Vec<Flying> {
        if self.limits.limits().iter().all(|limit| limit.window().is_some()) {
            // There are no places to be taken.
            return Vec::new();
        }
        let held = self.shard.held_here(self.key.record());
        let writing = self.writing.iter().flatten();
        let own = writing.filter(|decided| decided.ask.whose.home.node().is_none());
        let ids = held.into_iter().chain(own.map(|decided| decided.id)).take(MADE_HERE_MAX);
        let flying = |id: PermitId| Flying { seq: Seq(0), permit: id.0, tries: Tries::default() };
        ids.map(flying).collect()
    }

    fn confirmed(&mut self, answer: Result<u64, LedgerError>, ctx: &mut Context<Self>) {
        let batch = self.writing.take().unwrap_or_default();
        match answer {
            Ok(version) => {
                self.version = version;
                self.fence = Fence::Holds;
                self.recording.clear();
                let now = self.now();
                for Decided { ask, id, .. } in batch {
                    self.last_given = self.last_given.max(id.0);
                    let usage = &mut self.usage;
                    let observed = self.platform.budgets.get(usize::from(self.key.place()));
                    let observed = observed.map_or(&[][..], |budget| &budget.observed);
                    let limits = &self.limits;
                    ask.call.with(limits, |gate_ask| {
                        usage.call(limits, gate_ask.api, gate_ask.costs, now);
                        usage.goes_on(&self.platform.name, limits, &self.shard.totals, now);
                        let places = observed.iter().copied();
                        let places = places.filter(|place| limits.counts(*place, gate_ask.api));
                        let costs = places.map(|place| (place, gate_ask.cost(place).units));
                        self.untold_calls.goes(id, costs);
                    });
                    let grant = Grant::new(ask.call.key.clone(), id, self.shard.door());
                    // One that is lent is this node's no more, though it is not said yet.
                    let is_own = ask.whose.home.node().is_none();
                    let held = if is_own { grant.held() } else { Weak::new() };
                    let given = Given::new(ask.call.clone(), now, held);
                    self.shard.given(self.key.record(), id, given);
                    ask.grant(grant);
                }
            }
            Err(error) => {
                // A record before this one is still there, or this one after all.
                self.stale = true;
                self.not_recorded();
                self.unkept |= self.keeps;
                let meanwhile = std::mem::take(&mut self.decided);
                match &error {
                    LedgerError::Unavailable(_) => {
                        telemetry::ledger_away(self.key.record(), &error);
                        let (fence, wait) = self.fence.away();
                        self.fence = fence;
                        self.try_later(wait, ctx);
                    }
                    LedgerError::Unsure(_) => {
                        telemetry::ledger_away(self.key.record(), &error);
                        self.read_again(ctx);
                    }
                    LedgerError::Conflict => {
                        telemetry::ledger_conflict(self.key.record());
                        self.read_again(ctx);
                    }
                }
                let now = self.now();
                for Decided { ask, id, turn } in batch.into_iter().chain(meanwhile) {
                    self.gate.give_back(&self.limits, id);
                    self.line.undo(&ask.whose.account, turn);
                    let class = self.class(ask.call.api);
                    let turns = (ask.weight, ask.wants);
                    self.line.join(ask.whose.clone(), (ask.call.clone(), class), turns);
                    let until = self.estimate(&ask.call, self.line.len() as u64, now);
                    self.untold |= until.is_none();
                    ask.wait(until, None, "its ledger");
                }
            }
        }
        self.step(ctx);
    }

    fn read_again(&mut self, ctx: &mut Context<Self>) {
        self.read(ctx);
    }

    /// Reads the record: the first time it is all that is known, later it is joined with what is.
    pub(super) fn read(&mut self, ctx: &mut Context<Self>) {
        let (fence, wait) = self.fence.reads();
        self.fence = fence;
        if !self.may_write() {
            // Reading would take it over from its owner.
            self.ledger_waits(wait, ctx);
            return;
        }
        if self.restarted && !self.open {
            self.shard.ledger.doubt(self.key.record());
        }
        let load = self.shard.ledger.load(self.key.record().clone());
        self.spawn(ctx, load, move |budget, answer, ctx| match answer {
            Ok(stored) if budget.open => budget.rejoin(stored, ctx),
            Ok(stored) => budget.adopt(stored, ctx),
            Err(error) => {
                telemetry::ledger_away(budget.key.record(), &error);
                budget.try_later(wait, ctx);
            }
        });
    }

    fn adopt(&mut self, stored: Option<Stored>, ctx: &mut Context<Self>) {
        let now = self.now();
        if let Some(stored) = stored {
            self.version = stored.version;
            let since = now.minus(Span::from(stored.age));
            self.adopt_record(&stored, since, now);
        }
        let running = self.adopt_running(now);
        self.fence = Fence::Holds;
        self.open = true;
        for (id, told) in std::mem::take(&mut self.early_told) {
            self.hear(id, told, now);
        }
        if self.restarted {
            telemetry::budget_restarted(&self.key, running);
        }
        for what in std::mem::take(&mut self.early_heard) {
            self.handle_heard(what, ctx);
        }
        for ask in std::mem::take(&mut self.early) {
            self.asked(ask, ctx);
        }
        self.step(ctx);
    }

    fn adopt_record(&mut self, stored: &Stored, since: At, now: At) {
        let key = self.key.record();
        let bytes = &stored.record;
        let Some(record) = book::decode(key, &mut self.gate, &self.limits, bytes, now) else {
            return;
        };
        let own = self.shard.ledger.session();
        self.last_given = record.knows(own);
        book::see(&mut self.seen, &record.known, own);
        let lost = self.lost(stored.writer, since, now);
        book::load(key, &mut self.gate, &self.limits, &record, (since, false, now), None);
        self.stale = lost.is_some() || !self.gate.in_flight().is_empty();
        let running = self.shard.given_by(key);
        let over = self.shard.over_by(key);
        // Those that a dead process made itself died with it.
        let died = (stored.writer == Writer::Dead)
            .then(|| book::lost(&self.platform, Writer::Dead, since, now))
            .flatten();
        let in_flight = self.gate.in_flight().into_iter();
        for id in in_flight.filter(|id| running.iter().all(|(given, _)| given != id)) {
            let made_there = || record.flying.iter().any(|flying| flying.permit == id.0);
            match died.filter(|_| made_there()).or(lost) {
                Some(Lost { latest, slots_until }) => self.orphan(id, latest, slots_until),
                // This process has owned it before, or another one did, and whoever holds the call is to say when it is
                // over.
                None if self.shard.owned.is_shared() && !over.contains(&id) => {
                    let latest = book::written_by(&self.platform, since);
                    let lives = Span::from(self.platform.lost_call_alive);
                    self.orphan(id, latest, now.max(latest).plus(lives));
                }
                None => {
                    self.gate.ended(&self.limits, id, now, Sent::Maybe);
                }
            }
        }
    }

    /// As for an account's record, but that a node of a cluster may have lent the calls: their sockets are not gone with
    /// the process that wrote it.
    fn lost(&self, writer: Writer, since: At, now: At) -> Option<Lost> {
        let writer = match writer {
            Writer::Dead if self.shard.owned.is_shared() => Writer::Alive,
            writer => writer,
        };
        book::lost(&self.platform, writer, since, now)
    }

    /// A call of which nothing may be heard any more: charged, and its slots are taken until then unless it is.
    pub(super) fn orphan(&mut self, id: PermitId, latest: At, until: At) {
        if self.gate.give_up(&self.limits, id, latest) {
            self.orphans.insert(id, until);
        }
    }

    /// Takes over the calls that outlived the last actor, and hears what they told meanwhile.
    fn adopt_running(&mut self, now: At) -> usize {
        let recorded = self.last_given;
        let running = self.shard.given_by(self.key.record());
        for (id, given) in &running {
            let charged = id.0 <= recorded;
            given.call.with(&self.limits, |ask| self.gate.adopt(*id, ask, charged));
            self.last_given = self.last_given.max(id.0);
            let told = [
                given.written.map(Told::Written),
                given.answered.map(Told::Answered),
                given.came.map(Told::Came),
                given.gone.map(Told::Gone),
                given.ended.map(|(at, sent)| Told::Ended(at, sent)),
            ];
            for told in told.into_iter().flatten() {
                self.hear(*id, told, now);
            }
        }
        running.len()
    }

    fn rejoin(&mut self, stored: Option<Stored>, ctx: &mut Context<Self>) {
        let now = self.now();
        self.version = stored.as_ref().map_or(0, |stored| stored.version);
        self.stale = true;
        let other = stored.filter(|stored| stored.writer != Writer::Here);
        let Some(stored) = other else {
            self.fence = Fence::Holds;
            self.step(ctx);
            return;
        };
        let since = now.minus(Span::from(stored.age));
        let key = self.key.record();
        let record = book::decode(key, &mut self.gate, &self.limits, &stored.record, now);
        if let Some(record) = record {
            let own = self.shard.ledger.session();
            let lost = self.lost(stored.writer, since, now);
            let known = record.knows(own) >= self.last_given;
            let times = (since, now);
            // Places that are kept were never handed on, nor are they in that record.
            self.give_up_places();
            let key = self.key.record();
            book::join(key, &mut self.gate, &self.limits, &record, times, lost, known);
            book::see(&mut self.seen, &record.known, own);
        }
        // Two that want the same budget take turns rather than race.
        let pause = Duration::from_millis(fastrand::u64(YIELD_MS));
        self.spawn(ctx, tokio::time::sleep(pause), |budget, (), ctx| {
            budget.fence = Fence::Holds;
            budget.step(ctx);
        });
    }
}
