//! The throttle actor itself: what it does on each message.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tollgate_gate::{Ask, At, Decision, PermitId, Sent, Span};
use tollgate_protos::Dead;

use super::gate::Gate;
use super::lane::{Candidate, Lane, Offer};
use super::messages::{LookAgain, MoreWork, Reported, SlotFree};
use super::retry::{self, ALONE_FROM, Next};
use super::usage::Usage;
use crate::codes::Code;
use crate::collector::{
    Again, Item, LastAnswer, Outcome, Slot, USE_WITHIN, finish_until_confirmed, stored_before,
};
use crate::http::Written;
use crate::ids::{AccountKey, LaneKey, Priority, Seq};
use crate::ledger::record::{Flying, Record, Tries, Waiting};
use crate::ledger::{LedgerError, Stored};
use crate::plan::Platform;
use crate::queue::{Ending, LaneCount, QueueError, Queued};
use crate::recipe;
use crate::shard::accounts::{Glance, Ix, Rest, RestLane, State};
use crate::shard::context::{Attempt, Context as Shard};
use crate::shard::permit::Report;
use crate::shard::{Found, Room};
use crate::supervise::DeathNotice;
use crate::telemetry::{self, Totals};

/// Most permits covered by one record.
const BATCH_MAX: usize = 64;
/// The next fetch is read this long before its gate opens.
const READ_EARLY: Duration = Duration::from_secs(1);
/// Most fetches read ahead by a lane that waits for a limit.
const AHEAD_WAITING: usize = 4;
/// An account whose next call is further off than this rests, as a record.
const REST_FROM: Duration = Duration::from_secs(5);
/// The same while the shard has many live actors.
const REST_FROM_CROWDED: Duration = Duration::from_millis(100);
/// Live actors from which a shard is crowded.
const CROWDED: usize = 4096;
/// A head due later than this is put aside in the queue, so that it blocks nothing.
const POSTPONE_FROM: Duration = Duration::from_secs(60);
/// Between two tries of a queue or ledger that does not answer.
const SEAM_AGAIN: Duration = Duration::from_millis(250);
/// Between two looks at whether a fetch may be tried alone.
const ALONE_AGAIN: Duration = Duration::from_millis(50);

/// How an actor starts.
#[derive(Debug)]
pub(crate) enum Start {
    /// The account is new to its shard: its record is read from the ledger.
    Fresh,
    /// It rested: nobody else has touched its record since.
    Rested(Box<Rest>),
    /// Its predecessor died: record, lanes and attempts in flight are read anew.
    Restarted,
}

/// A permit that is decided and not yet given.
#[derive(Debug)]
struct Decided {
    id: PermitId,
    at: At,
    lane: usize,
    candidate: Candidate,
    slot: Slot,
    alone: Option<OwnedSemaphorePermit>,
}

/// An attempt in flight.
#[derive(Debug)]
struct Flight {
    item: Rc<Item>,
    tries: Tries,
    lane: usize,
    /// When the gate let it through; long ago where that is not known any more.
    decided_at: At,
    /// Held by a fetch that must be tried alone.
    _alone: Option<OwnedSemaphorePermit>,
}

/// Owner of one account's gate and lanes.
#[derive(Debug)]
pub struct Throttle {
    shard: Rc<Shard>,
    ix: Ix,
    incarnation: u64,
    key: AccountKey,
    platform: Arc<Platform>,
    start: Option<Start>,
    restarted: bool,
    /// The record has been read: permits may be given.
    open: bool,
    gate: Gate,
    version: u64,
    /// The stored record speaks of permits in flight that are over by now.
    stale: bool,
    lanes: Vec<Lane>,
    turn: usize,
    flights: HashMap<PermitId, Flight>,
    /// Tries of fetches that were in flight or parked when the record was written, until they are read.
    remembered: HashMap<Seq, (Tries, At, bool)>,
    decided: Vec<Decided>,
    /// Permits whose record is on its way; nothing if none is.
    writing: Option<Vec<Decided>>,
    slot: Option<Slot>,
    slot_asked: bool,
    busy: usize,
    timer: Option<(At, SpawnHandle)>,
    throttled_in_a_row: u8,
    unreachable_in_a_row: u8,
    /// When the last refusal came that was counted in a row.
    refused_at: Option<At>,
    handled: u64,
    usage: Usage,
    because: Option<Box<str>>,
    until: Option<At>,
    told: Option<Box<str>>,
    notice: DeathNotice,
}

impl Throttle {
    pub(crate) fn new(
        shard: Rc<Shard>,
        ix: Ix,
        incarnation: u64,
        key: AccountKey,
        platform: Arc<Platform>,
        start: Start,
    ) -> Self {
        let told = Rc::clone(&shard);
        let notice = DeathNotice::new(move |reason| told.account_died(ix, incarnation, reason));
        Self {
            shard,
            ix,
            incarnation,
            key,
            platform,
            restarted: matches!(start, Start::Restarted),
            start: Some(start),
            open: false,
            gate: Gate::default(),
            version: 0,
            stale: false,
            lanes: Vec::new(),
            turn: 0,
            flights: HashMap::new(),
            remembered: HashMap::new(),
            decided: Vec::new(),
            writing: None,
            slot: None,
            slot_asked: false,
            busy: 0,
            timer: None,
            throttled_in_a_row: 0,
            unreachable_in_a_row: 0,
            refused_at: None,
            handled: 0,
            usage: Usage::default(),
            because: None,
            until: None,
            told: None,
            notice,
        }
    }

    fn now(&self) -> At {
        self.shard.clock.now()
    }

    // --- Opening: nothing is let through before the record has been read.

    fn read_record(&mut self, ctx: &mut Context<Self>, restarted: bool) {
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
            let flight = Flight { item, tries, lane, decided_at: At::MIN, _alone: None };
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

    fn wake_up(&mut self, rest: Rest) {
        self.version = rest.version;
        let now = self.now();
        if !rest.record.is_empty() {
            self.adopt_record(&rest.record, rest.since, false, now);
        }
        for RestLane { api, priority, waiting } in rest.lanes {
            let Some(name) = self.platform.apis.get(usize::from(api)).map(|api| api.name.clone())
            else {
                continue;
            };
            let key = LaneKey { account: self.key.clone(), api: name, priority };
            let lane = self.lane(&key);
            self.lanes[lane].unseen = waiting;
        }
        self.open = true;
    }

    // --- Lanes.

    /// The place of a lane; it gets one if it has none.
    fn lane(&mut self, key: &LaneKey) -> usize {
        if let Some(place) = self.lanes.iter().position(|lane| lane.key == *key) {
            return place;
        }
        let api = self.platform.api(key.api.as_str()).map_or(0, |(number, _)| number);
        self.lanes.push(Lane::new(key.clone(), api));
        self.lanes.len() - 1
    }

    fn note(&mut self, found: &Found) {
        let place = self.lane(&found.lane);
        let in_hand = if found.all {
            let flying = self.flights.values().filter(|flight| flight.lane == place).count();
            let decided = self.decided.iter().chain(self.writing.iter().flatten());
            let decided = decided.filter(|decided| decided.lane == place).count();
            (flying + decided) as u64
        } else {
            0
        };
        let lane = &mut self.lanes[place];
        if found.all {
            let known = lane.heads.len() as u64 + lane.parked.len() as u64 + in_hand;
            let unseen = found.count.saturating_sub(known);
            lane.note(unseen.saturating_sub(lane.unseen));
        } else {
            lane.note(found.count);
        }
    }

    /// Whether a fetch is in hand somewhere, so that reading it again means nothing.
    fn has(&self, seq: Seq) -> bool {
        self.shard.is_leaving(seq)
            || self.flights.values().any(|flight| flight.item.seq == seq)
            || self
                .decided
                .iter()
                .chain(self.writing.iter().flatten())
                .any(|decided| decided.candidate.item.seq == seq)
            || self.lanes.iter().any(|lane| lane.has(seq))
    }

    fn read(&mut self, place: usize, ctx: &mut Context<Self>) {
        let lane = &mut self.lanes[place];
        if lane.loading {
            return;
        }
        lane.loading = true;
        lane.noted = false;
        let max = lane.ahead;
        let first = self.shard.queue.first(lane.key.clone(), lane.cursor, max);
        self.spawn(ctx, first, move |throttle, answer, ctx| {
            let ended = throttle.lanes[place].loaded();
            match answer {
                Ok(rows) => throttle.take_in(place, &rows, &ended, ctx),
                Err(error) => {
                    telemetry::queue_away(&throttle.key, &error);
                    ctx.run_later(SEAM_AGAIN, Self::look_again);
                    return;
                }
            }
            throttle.step(ctx);
        });
    }

    fn look_again(&mut self, ctx: &mut Context<Self>) {
        self.step(ctx);
    }

    /// `ended` are fetches that left the queue while it was read: they may be among the rows.
    fn take_in(&mut self, place: usize, rows: &[Queued], ended: &[Seq], ctx: &mut Context<Self>) {
        if !self.open {
            // Read ahead of the record, which knows their earlier tries: read again after it.
            return;
        }
        if rows.is_empty() {
            self.lanes[place].read_nothing();
            return;
        }
        let now = self.now();
        for row in rows {
            self.lanes[place].cursor = Some(row.seq);
            if !self.has(row.seq) && !ended.contains(&row.seq) {
                let lane = &mut self.lanes[place];
                lane.unseen = lane.unseen.saturating_sub(1);
                lane.from_start = false;
                self.take_in_one(place, row, now, ctx);
            }
        }
    }

    fn take_in_one(&mut self, place: usize, row: &Queued, now: At, ctx: &mut Context<Self>) {
        let lane = self.lanes[place].key.clone();
        let accepted = match recipe::check_fetch(&self.shard.plan, &row.payload) {
            Ok(accepted) => accepted,
            Err(refusal) => {
                let fetch = refusal.fetch.map(|fetch| *fetch).unwrap_or_default();
                let id = fetch.id.clone().unwrap_or_default();
                let item = Item { lane, seq: row.seq, queued_at: row.queued_at, id, fetch };
                let last = LastAnswer::default();
                let tries = Tries::default();
                self.give_up(Rc::new(item), refusal.code, refusal.reason, last, tries, ctx);
                return;
            }
        };
        let item = Rc::new(Item {
            lane,
            seq: row.seq,
            queued_at: row.queued_at,
            id: accepted.id,
            fetch: accepted.fetch,
        });
        let (tries, not_before, was_flying) =
            self.remembered.remove(&row.seq).unwrap_or((Tries::default(), now, false));
        let wanted = item.fetch.not_before.map(|wall| self.shard.clock.at_wall(wall));
        if let Some(wanted) = wanted
            && wanted > now.plus(Span::from(POSTPONE_FROM))
        {
            self.postpone(&item, ctx);
            return;
        }
        let not_before = wanted.map_or(not_before, |wanted| wanted.max(not_before));
        let candidate = Candidate { item, tries, not_before };
        if tries.crashes >= retry::CRASHES_MAX {
            let reason = format!(
                "it was in flight when the process or a collector died, {} times",
                tries.crashes
            );
            let last = LastAnswer::default();
            self.give_up(candidate.item, Code::PoisonFetch, reason, last, tries, ctx);
        } else if was_flying {
            self.look_up(place, candidate, ctx);
        } else if not_before > now {
            self.lanes[place].parked.push(candidate);
        } else {
            self.lanes[place].heads.push_back(candidate);
        }
    }

    /// A fetch that was in flight at a crash may have been stored: its manifest says so.
    fn look_up(&mut self, place: usize, candidate: Candidate, ctx: &mut Context<Self>) {
        let shard = Rc::clone(&self.shard);
        let item = Rc::clone(&candidate.item);
        let look = async move {
            let done = stored_before(&shard, &item).await?;
            Some(Ending::Done(Box::new(done)))
        };
        let item = Rc::clone(&candidate.item);
        self.end(item, look, Totals::finished_earlier, ctx, move |throttle| {
            throttle.lanes[place].parked.push(candidate);
        });
    }

    /// Takes a fetch out of the queue and counts it as soon as it is known how it ends; `stays` is called
    /// if it does not. In a task of its own: the death of this actor stops and loses nothing of that.
    fn end(
        &mut self,
        item: Rc<Item>,
        how: impl Future<Output = Option<Ending>> + 'static,
        count: fn(&Totals),
        ctx: &mut Context<Self>,
        stays: impl FnOnce(&mut Self) + 'static,
    ) {
        let seq = item.seq;
        let place = self.lane(&item.lane);
        let leaving = self.shard.leave(seq);
        let shard = Rc::clone(&self.shard);
        let end = actix_rt::spawn(async move {
            let _leaving = leaving;
            let ending = how.await?;
            finish_until_confirmed(&shard, &item, ending).await;
            count(&shard.totals);
            Some(())
        });
        self.spawn(ctx, end, move |throttle, ended, ctx| {
            if matches!(ended, Ok(Some(()))) {
                throttle.lanes[place].ended(seq);
            } else {
                stays(throttle);
            }
            throttle.step(ctx);
        });
    }

    fn postpone(&mut self, item: &Rc<Item>, ctx: &mut Context<Self>) {
        let Some(until) = item.fetch.not_before else { return };
        let seq = item.seq;
        let leaving = self.shard.leave(seq);
        let shard = Rc::clone(&self.shard);
        let lane = item.lane.clone();
        let postpone = async move {
            // As often as it takes: until then it is in its lane, and the cursor is behind it.
            while let Err(error) = shard.queue.postpone(lane.clone(), seq, until).await {
                telemetry::queue_away(&lane.account, &error);
                tokio::time::sleep(SEAM_AGAIN).await;
            }
        };
        self.spawn(ctx, postpone, move |throttle, (), ctx| {
            drop(leaving);
            throttle.step(ctx);
        });
    }

    // --- The loop: slot, decision, record, call.

    /// Lets through what may go, and sets the clock for what may not.
    fn step(&mut self, ctx: &mut Context<Self>) {
        if !self.open {
            return;
        }
        self.shard.faults.throttle(&self.key);
        let now = self.now();
        self.gate.prune(&self.platform.limits, now);
        let mut wait = Wait::default();
        let halted = if self.shard.draining.get() {
            Some("the drain")
        } else if self.shard.store_health.is_away() {
            Some("the object store, which takes no bodies")
        } else {
            None
        };
        match halted {
            Some(reason) => {
                self.slot = None;
                if self.lanes.iter().any(|lane| lane.waiting() > 0) {
                    wait.for_event(reason);
                }
            }
            None => self.decide(now, &mut wait, ctx),
        }
        self.write(ctx);
        self.until = wait.at;
        self.because = wait.because;
        self.set_timer(wait.wake, ctx);
        let decided = !self.decided.is_empty() || self.writing.is_some();
        if !decided && self.lanes.iter().all(|lane| lane.waiting() == 0) {
            self.remembered.clear();
            self.usage.tell(&self.key.platform, &self.platform.limits, &self.shard.totals);
        }
        if !self.try_rest(now, ctx) {
            self.show();
        }
    }

    fn decide(&mut self, now: At, wait: &mut Wait, ctx: &mut Context<Self>) {
        while self.decided.len() < BATCH_MAX {
            *wait = Wait::default();
            let Some(place) = self.choose(now, wait, ctx) else {
                self.slot = None;
                return;
            };
            let Some(slot) = self.slot.take().or_else(|| self.ask_slot()) else {
                wait.for_event("a free collector");
                return;
            };
            let Some(candidate) = self.lanes[place].take(now) else {
                self.slot = Some(slot);
                return;
            };
            // Only now: a lane that was chosen and found no slot has not had its turn.
            self.turn = place + 1;
            if let Some(candidate) = self.past_deadline(candidate, ctx) {
                let Ok(alone) = self.alone(&candidate) else {
                    // Another fetch like it is being tried; look again soon, let others go before.
                    let later = now.plus(Span::from(ALONE_AGAIN));
                    self.lanes[place].parked.push(Candidate { not_before: later, ..candidate });
                    self.slot = Some(slot);
                    continue;
                };
                let id = self.shard.permit_id();
                let api = self.lanes[place].api;
                self.gate.take(&self.platform.limits, id, Ask { api }, now);
                self.decided.push(Decided { id, at: now, lane: place, candidate, slot, alone });
            } else {
                self.slot = Some(slot);
            }
        }
    }

    /// The lane whose fetch goes next, if one may go now; else what they wait for.
    fn choose(&mut self, now: At, wait: &mut Wait, ctx: &mut Context<Self>) -> Option<usize> {
        let count = self.lanes.len();
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            let mut reading = false;
            for step in 0..count {
                let place = (self.turn + step) % count;
                let lane = &self.lanes[place];
                if lane.key.priority != priority {
                    continue;
                }
                let offer = lane.offer(now);
                match offer {
                    Offer::Nothing => continue,
                    Offer::Later(at) => {
                        self.wait_for_retry(lane.api, at, now, wait);
                        continue;
                    }
                    Offer::Fetch | Offer::Read => {}
                }
                let ask = Ask { api: lane.api };
                match self.gate.decide(&self.platform.limits, ask, now) {
                    Decision::Go if offer == Offer::Fetch => return Some(place),
                    Decision::Go => {
                        // Reading is what this lane waits for: read more at a time.
                        if !lane.loading {
                            self.lanes[place].read_more();
                            self.read(place, ctx);
                        }
                        wait.for_event("its next fetch to be read");
                        reading = true;
                    }
                    Decision::WaitUntil { at, because } => {
                        let name = || self.gate.name(&self.platform.limits, &because);
                        match at {
                            None => wait.for_event(&name()),
                            Some(at) if offer == Offer::Read => {
                                let early = at.minus(Span::from(READ_EARLY));
                                wait.until(at, if early > now { early } else { at }, name);
                                if early <= now && !self.lanes[place].loading {
                                    let ahead = self.lanes[place].ahead.min(AHEAD_WAITING);
                                    self.lanes[place].ahead = ahead;
                                    self.read(place, ctx);
                                }
                            }
                            Some(at) => wait.until(at, at, name),
                        }
                    }
                    Decision::Never { because } => {
                        let name = self.gate.name(&self.platform.limits, &because);
                        wait.for_event(&format!("nothing that can come: {name} allows no call"));
                    }
                }
            }
            if reading {
                // What goes first is not known yet.
                return None;
            }
        }
        None
    }

    /// A lane whose fetches are between two tries: what shuts the gate for at least as long, a hold
    /// after a 429 say, is the better reason.
    fn wait_for_retry(&self, api: u16, at: At, now: At, wait: &mut Wait) {
        match self.gate.decide(&self.platform.limits, Ask { api }, now) {
            // A stored time of a try is rounded up to its millisecond.
            Decision::WaitUntil { at: Some(open), because }
                if open.plus(Span::from_millis(1)) >= at =>
            {
                let at = open.max(at);
                wait.until(at, at, || self.gate.name(&self.platform.limits, &because));
            }
            _ => wait.until(at, at, || "its next try".into()),
        }
    }

    fn ask_slot(&mut self) -> Option<Slot> {
        if self.slot_asked {
            return None;
        }
        let slot = self.shard.slot(self.ix, self.incarnation);
        self.slot_asked = slot.is_none();
        slot
    }

    fn alone(
        &self,
        candidate: &Candidate,
    ) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        if candidate.tries.crashes < ALONE_FROM {
            return Ok(None);
        }
        Arc::clone(&self.shard.alone).try_acquire_owned().map(Some)
    }

    fn past_deadline(
        &mut self,
        candidate: Candidate,
        ctx: &mut Context<Self>,
    ) -> Option<Candidate> {
        let Some(deadline) = candidate.item.fetch.deadline else { return Some(candidate) };
        if self.shard.clock.wall() <= deadline {
            return Some(candidate);
        }
        let reason = format!("its turn came only after its deadline, {deadline}");
        let Candidate { item, tries, .. } = candidate;
        self.give_up(item, Code::DeadlinePassed, reason, LastAnswer::default(), tries, ctx);
        None
    }

    /// Writes the record that covers what has been decided, if none is on its way.
    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.decided.is_empty() || self.writing.is_some() {
            return;
        }
        let batch = std::mem::take(&mut self.decided);
        self.writing = Some(batch);
        self.store_record(ctx);
    }

    fn store_record(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let record = self.record(now);
        self.stale = !record.flying.is_empty();
        let store = self.shard.ledger.store(self.key.clone(), self.version, record.encode());
        self.spawn(ctx, store, Self::confirmed);
    }

    fn record(&self, now: At) -> Record {
        let flying = self.flights.iter().map(|(id, flight)| Flying {
            seq: flight.item.seq,
            permit: id.0,
            tries: flight.tries,
        });
        let decided = self.writing.iter().flatten().map(|decided| Flying {
            seq: decided.candidate.item.seq,
            permit: decided.id.0,
            tries: decided.candidate.tries,
        });
        let heads = self.lanes.iter().flat_map(|lane| lane.heads.iter().chain(&lane.parked));
        let tried = heads
            .filter(|candidate| candidate.tries != Tries::default() || candidate.not_before > now);
        let parked = tried.map(|candidate| Waiting {
            seq: candidate.item.seq,
            tries: candidate.tries,
            not_within_ms: candidate.not_before.since(now).0.div_ceil(1000),
        });
        let remembered = self.remembered.iter().map(|(seq, (tries, at, _))| Waiting {
            seq: *seq,
            tries: *tries,
            not_within_ms: at.since(now).0.div_ceil(1000),
        });
        Record {
            config: self.shard.plan.hash.clone(),
            gate: self.gate.encode(&self.platform.limits, now),
            flying: flying.chain(decided).collect(),
            parked: parked.chain(remembered).collect(),
            throttled_in_a_row: self.throttled_in_a_row,
        }
    }

    fn confirmed(&mut self, answer: Result<u64, LedgerError>, ctx: &mut Context<Self>) {
        let batch = self.writing.take().unwrap_or_default();
        let now = self.now();
        match answer {
            Ok(version) => {
                self.version = version;
                let lapsed = |decided: &Decided| now > decided.at.plus(Span::from(USE_WITHIN));
                let (late, good) = batch.into_iter().partition(lapsed);
                self.spend(late, now);
                for decided in good {
                    self.give(decided);
                }
                self.step(ctx);
            }
            Err(LedgerError::Unavailable(reason)) => {
                telemetry::ledger_away(&self.key, &LedgerError::Unavailable(reason));
                self.spend(batch, now);
                // The record before this one is still there.
                self.stale = true;
                ctx.run_later(SEAM_AGAIN, Self::look_again);
                self.show();
            }
            // Whatever is stored now, it is not known here: start over from what is.
            Err(error) => {
                telemetry::ledger_away(&self.key, &error);
                ctx.stop();
            }
        }
    }

    fn give(&mut self, decided: Decided) {
        let Decided { id, at, lane, candidate, slot, alone } = decided;
        let api = self.lanes[lane].api;
        self.usage.call(&self.platform.limits, api, at);
        let Candidate { item, tries, .. } = candidate;
        telemetry::permit(&self.key, &item, tries.calls() + 1);
        let carried = Rc::clone(&item);
        let flight = Flight { item: carried, tries, lane, decided_at: at, _alone: alone };
        self.flights.insert(id, flight);
        let platform = Arc::clone(&self.platform);
        self.shard.attempt(id, at, Attempt { ix: self.ix, item, tries, slot, platform, api });
    }

    /// Permits that lapsed before their use: their quota is spent, their fetches wait on.
    fn spend(&mut self, batch: Vec<Decided>, now: At) {
        // Each is put before the others: the last one first keeps their order.
        for decided in batch.into_iter().rev() {
            self.gate.ended(&self.platform.limits, decided.id, now, Sent::Never);
            self.lanes[decided.lane].put_back(decided.candidate);
        }
    }

    // --- What attempts tell.

    fn hear(&mut self, id: PermitId, report: Report, ctx: &mut Context<Self>) {
        let limits = Arc::clone(&self.platform.limits);
        match report {
            Report::Written(Written::At(at)) => {
                self.shard.baselines.borrow_mut().written(&self.key.platform, at);
                self.gate.written(&limits, id, at);
            }
            Report::Written(Written::Unknown) => self.gate.unwritten(id),
            Report::Answered(at) => self.answered(id, at),
            Report::CallEnded(at, sent) => self.gate.ended(&limits, id, at, sent),
            Report::Finished(outcome) => self.finished(id, outcome, ctx),
        }
    }

    /// The call is charged now if not before; its guard is longer by what its request may have waited at
    /// a crowded provider.
    fn answered(&mut self, id: PermitId, at: At) {
        let limits = &self.platform.limits;
        let written = self.shard.running.borrow().get(&id).and_then(|running| running.written);
        if let (Some(written), Some(flight)) = (written, self.flights.get(&id)) {
            let api = self.lanes[flight.lane].api;
            let platform = &self.key.platform;
            let mut baselines = self.shard.baselines.borrow_mut();
            let slower = baselines.answered(platform, api, written, at);
            self.gate.unwritten(id);
            self.gate.written(limits, id, written.plus(slower));
        }
        self.gate.answered(limits, id, at);
    }

    fn finished(&mut self, id: PermitId, outcome: Outcome, ctx: &mut Context<Self>) {
        self.shard.running.borrow_mut().remove(&id);
        let Some(flight) = self.flights.remove(&id) else { return };
        let Flight { item, mut tries, lane, decided_at, _alone } = flight;
        match outcome {
            Outcome::Done { bytes, objects } => {
                self.throttled_in_a_row = 0;
                self.unreachable_in_a_row = 0;
                self.lanes[lane].ended(item.seq);
                self.shard.totals.done(bytes, objects);
                telemetry::fetch_done(&item, bytes, tries.calls() + 1);
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
                        telemetry::hold(&self.key, kind, wait);
                        wait
                    }
                };
                let not_before = now.plus(Span::from(wait));
                self.lanes[lane].parked.push(Candidate { item, tries, not_before });
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

    fn give_up(
        &mut self,
        item: Rc<Item>,
        code: Code,
        reason: String,
        last: LastAnswer,
        tries: Tries,
        ctx: &mut Context<Self>,
    ) {
        telemetry::fetch_dead(&item, code, &reason);
        let dead = Dead {
            seq: item.seq.0,
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
        let place = self.lane(&item.lane);
        let how = async move { Some(Ending::Dead(Box::new(dead))) };
        self.end(item, how, Totals::dead, ctx, move |throttle| throttle.lanes[place].note(1));
    }

    // --- Resting.

    /// Hands the account to the shard as a record if nothing happens to it for a while.
    fn try_rest(&mut self, now: At, ctx: &mut Context<Self>) -> bool {
        let quiet = self.flights.is_empty()
            && self.decided.is_empty()
            && self.writing.is_none()
            && self.busy == 0
            && self.slot.is_none()
            && !self.slot_asked;
        if !quiet {
            return false;
        }
        let waiting = self.lanes.iter().any(|lane| lane.waiting() > 0);
        let draining = self.shard.draining.get();
        let rest_from =
            if self.shard.accounts.borrow().live > CROWDED { REST_FROM_CROWDED } else { REST_FROM };
        let due = match (waiting, self.until) {
            _ if draining => At::MAX,
            (false, _) => self.gate.forgotten_at(&self.platform.limits, now),
            (true, Some(until)) if until > now.plus(Span::from(rest_from)) => until,
            (true, _) => return false,
        };
        // Without limits only tries between two attempts are worth another record.
        let worth = !self.platform.limits.limits().is_empty()
            || self.lanes.iter().any(|lane| !lane.parked.is_empty());
        if self.stale && worth {
            // The stored record speaks of calls in flight that are over: after a restart they would
            // count as lost. Written anew, then this is asked again.
            self.writing = Some(Vec::new());
            self.store_record(ctx);
            return false;
        }
        let all_handled = {
            let accounts = self.shard.accounts.borrow();
            let state = accounts.get(self.ix).map(|entry| &entry.state);
            matches!(state, Some(State::Live { sent, .. }) if *sent == self.handled)
        };
        if !all_handled {
            return false;
        }
        self.rest(now, due, ctx);
        true
    }

    fn rest(&mut self, now: At, due: At, ctx: &mut Context<Self>) {
        self.usage.tell(&self.key.platform, &self.platform.limits, &self.shard.totals);
        let record = self.record(now);
        let empty = record.parked.is_empty() && self.gate.is_empty();
        let lanes: Box<[RestLane]> = self
            .lanes
            .iter()
            .filter(|lane| lane.waiting() > 0)
            .map(|lane| RestLane {
                api: lane.api,
                priority: lane.key.priority,
                waiting: lane.waiting(),
            })
            .collect();
        let mut accounts = self.shard.accounts.borrow_mut();
        if empty && lanes.is_empty() {
            accounts.forget(self.ix);
        } else {
            let record = if empty { Box::default() } else { record.encode().to_vec().into() };
            let because = self.because.take();
            let version = self.version;
            accounts.rest(self.ix, Rest { version, record, since: now, lanes, due, because });
        }
        drop(accounts);
        let waiting = self.lanes.iter().map(Lane::waiting).sum();
        telemetry::throttle_stopped(&self.key, waiting);
        self.notice.expected();
        self.shard.me().do_send(Room);
        ctx.stop();
    }

    /// Tells the shard what this account looks like.
    fn show(&mut self) {
        if self.because != self.told {
            telemetry::waiting(&self.key, self.because.as_deref(), self.until, &self.shard.clock);
            self.told.clone_from(&self.because);
        }
        let decided = self.decided.len() + self.writing.as_ref().map_or(0, Vec::len);
        let waiting = self.lanes.iter().map(Lane::waiting).sum::<u64>() + decided as u64;
        let shown = Glance {
            waiting,
            in_flight: u32::try_from(self.flights.len()).unwrap_or(u32::MAX),
            until: self.until,
            because: self.because.clone(),
        };
        let mut accounts = self.shard.accounts.borrow_mut();
        if let Some(entry) = accounts.get_mut(self.ix)
            && let State::Live { glance, .. } = &mut entry.state
        {
            *glance = shown;
        }
    }

    fn set_timer(&mut self, wake: Option<At>, ctx: &mut Context<Self>) {
        if self.timer.as_ref().map(|(at, _)| *at) == wake {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        if let Some(at) = wake {
            let handle = ctx.run_later(self.shard.clock.until(at), |throttle, ctx| {
                throttle.timer = None;
                throttle.step(ctx);
            });
            self.timer = Some((at, handle));
        }
    }

    /// Waits for something without shutting the mailbox.
    fn spawn<F, T>(
        &mut self,
        ctx: &mut Context<Self>,
        future: F,
        then: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        self.busy += 1;
        ctx.spawn(future.into_actor(self).map(move |answer, throttle, ctx| {
            throttle.busy -= 1;
            then(throttle, answer, ctx);
        }));
    }
}

/// What an account waits for.
#[derive(Debug, Default)]
struct Wait {
    /// When the next call may go, if that is known.
    at: Option<At>,
    /// When to look again.
    wake: Option<At>,
    because: Option<Box<str>>,
}

impl Wait {
    /// Something may go at `at`; look again at `wake`.
    fn until(&mut self, at: At, wake: At, because: impl FnOnce() -> Box<str>) {
        if self.at.is_none_or(|known| at < known) {
            self.at = Some(at);
            self.because = Some(because());
        }
        self.wake = Some(self.wake.map_or(wake, |known| known.min(wake)));
    }

    /// Something outside has to happen first, and will be heard of.
    fn for_event(&mut self, because: &str) {
        if self.because.is_none() {
            self.because = Some(because.into());
        }
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

impl Actor for Throttle {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        telemetry::throttle_started(&self.key);
        match self.start.take() {
            Some(Start::Rested(rest)) => {
                self.wake_up(*rest);
                self.step(ctx);
            }
            Some(Start::Restarted) => self.read_record(ctx, true),
            Some(Start::Fresh) | None => self.read_record(ctx, false),
        }
    }
}

impl Handler<MoreWork> for Throttle {
    type Result = ();

    fn handle(&mut self, MoreWork(found): MoreWork, ctx: &mut Self::Context) {
        self.handled += 1;
        self.note(&found);
        if !self.open && !self.restarted {
            // The first fetch is read while the record is: both are there together then.
            let place = self.lane(&found.lane);
            self.lanes[place].read_more();
            self.read(place, ctx);
        }
        self.step(ctx);
    }
}

impl Handler<Reported> for Throttle {
    type Result = ();

    fn handle(&mut self, reported: Reported, ctx: &mut Self::Context) {
        self.handled += 1;
        if self.open {
            self.hear(reported.id, reported.report, ctx);
            self.step(ctx);
        }
    }
}

impl Handler<SlotFree> for Throttle {
    type Result = ();

    fn handle(&mut self, SlotFree(slot): SlotFree, ctx: &mut Self::Context) {
        self.handled += 1;
        self.slot_asked = false;
        self.slot = Some(slot);
        self.step(ctx);
    }
}

impl Handler<LookAgain> for Throttle {
    type Result = ();

    fn handle(&mut self, _: LookAgain, ctx: &mut Self::Context) {
        self.handled += 1;
        self.step(ctx);
    }
}
