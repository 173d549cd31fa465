//! The loop: slot, decision, record, call.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tollgate_gate::{Ask, At, Because, Decision, Span};

use super::denying::TRIAL;
use super::leaving::ELSEWHERE;
use super::weighing::{costs_of, job_of};
use super::{Decided, Flight, Throttle};
use crate::budget::Grant;
use crate::clock::Clock;
use crate::codes::Code;
use crate::collector::{LastAnswer, Slot, USE_WITHIN, split_uncalled};
use crate::holds::OperatorHold;
use crate::ids::{LaneKey, Priority};
use crate::ledger::LedgerError;
use crate::ledger::record::{Flying, Known, Record, Stretch, Tries, Waiting};
use crate::notify::Signal;
use crate::pulse::Doing;
use crate::queue::Ending;
use crate::recipe::Refusal;
use crate::shard::context::Attempt;
use crate::telemetry::{self, Totals};
use crate::throttle::book;
use crate::throttle::fence::{Fence, Fenced};
use crate::throttle::lane::{Candidate, Lane, Offer};
use crate::throttle::retry::{ALONE_FROM, WASTED_AT_ONCE};
use crate::times::Cause;

/// Most permits covered by one record.
const BATCH_MAX: usize = 64;
/// The next fetch is read this long before its gate opens.
const READ_EARLY: Duration = Duration::from_secs(1);

/// Most fetches read ahead by a lane that waits for a limit.
const AHEAD_WAITING: usize = 4;
/// Between two looks at whether a fetch may be tried alone.
const ALONE_AGAIN: Duration = Duration::from_millis(50);

/// What goes first is being read.
struct Reading;

impl Throttle {
    /// Lets through what may go, and sets the clock for what may not.
    pub(super) fn step(&mut self, ctx: &mut Context<Self>) {
        let shard = Rc::clone(&self.shard);
        let _turn = shard.pulse.on(Doing::Deciding, Some(self.ix));
        if !self.open {
            self.show_unopened();
            self.leave_unopened(ctx);
            return;
        }
        self.shard.faults.throttle(&self.key);
        let now = self.now();
        let in_doubt = self.reconsider(now);
        self.gate.prune(&self.platform.limits, now);
        let mut wait = Wait::default();
        let halted = self.shard.halted().or(match self.fence {
            Fence::Holds => None,
            Fence::Away(_) => Some("its ledger, which takes no records"),
            Fence::Reads(_) => Some("its record, which is read again"),
        });
        let halted = halted.or((!self.is_open_here()).then_some(ELSEWHERE));
        match halted {
            Some(reason) => {
                self.slot = None;
                if self.is_leaving() {
                    self.let_go();
                }
                self.forget_due();
                if self.lanes.iter().any(|lane| !lane.is_empty()) {
                    wait.for_event((0, self.why_halted(reason)), reason);
                }
            }
            None => self.decide(now, &mut wait, ctx),
        }
        if let Some(until) = in_doubt {
            wait.wake_at(until);
        }
        self.write(ctx);
        self.held = wait.only_held();
        self.until = wait.at.or(self.held.filter(|at| *at < At::MAX));
        self.because = wait.because;
        self.spends(wait.cause, wait.at, now);
        self.set_timer(wait.wake, ctx);
        let decided = self.decided_or_asking().next().is_some() || self.writing.is_some();
        if !decided && self.lanes.iter().all(Lane::is_empty) {
            // What is looked up waits too, and is in no lane.
            // What closed lanes gave up is kept until their apis are back.
            if self.busy == 0 && !self.lanes.iter().any(Lane::is_closed) {
                self.remembered.clear();
                self.suspected.clear();
            }
            self.usage.tell(&self.key.platform, &self.platform.limits, &self.shard.totals);
        }
        if !self.try_rest(now, ctx) {
            self.show();
        }
    }

    fn decide(&mut self, now: At, wait: &mut Wait, ctx: &mut Context<Self>) {
        while self.decided.len() + self.asking.len() < BATCH_MAX {
            *wait = Wait::default();
            let Some(place) = self.choose(now, wait, ctx) else {
                self.slot = None;
                return;
            };
            if let Some(slot) = self.slot.as_ref().filter(|slot| slot.is_abroad())
                && (slot.has_lapsed() || !self.travels(place, now))
            {
                self.slot = None;
            }
            let Some(slot) = self.slot.take().or_else(|| self.ask_slot(place, now)) else {
                wait.of_ready((self.lanes[place].api, Cause::Collector), "a free collector");
                return;
            };
            let Some(candidate) = self.lanes[place].take(now) else {
                self.slot = Some(slot);
                return;
            };
            // Only now: a lane that was chosen and found no slot has not had its turn.
            self.turn = place + 1;
            let candidate = self.past_deadline(place, candidate, ctx);
            if let Some(candidate) = candidate.and_then(|one| self.not_lost(one, ctx)) {
                let Ok(alone) = self.alone(&candidate) else {
                    // Another fetch like it is being tried; look again soon, let others go before.
                    let later = now.plus(Span::from(ALONE_AGAIN));
                    self.lanes[place].parked.push(Candidate { not_before: later, ..candidate });
                    self.slot = Some(slot);
                    continue;
                };
                let id = self.shard.permit_id();
                let api = self.lanes[place].api;
                let costs =
                    costs_of(&self.platform, api, &candidate.item, candidate.is_later_page());
                let ask = Ask::new(api).with_costs(&costs).for_job(job_of(
                    &self.platform,
                    api,
                    &candidate.item,
                ));
                self.gate.take(&self.platform.limits, id, ask, now);
                self.pace_taken(api, now);
                let due = self.lanes[place].due;
                // What was known of the others is not true any more.
                self.forget_due();
                self.suspects_out(usize::from(candidate.suspect), 0);
                let grants = Vec::new();
                let decided =
                    Decided { id, at: now, lane: place, candidate, slot, alone, due, grants };
                if decided.candidate.item.budgets.is_empty() {
                    self.go_on(decided, now);
                } else {
                    self.ask_budgets(decided);
                }
            } else {
                self.slot = Some(slot);
            }
        }
    }

    /// All limits agree: the call is made at once if a record covers it, else it waits for one.
    pub(super) fn go_on(&mut self, decided: Decided, now: At) {
        if self.covered(decided.lane, &decided.candidate) {
            self.give(decided, now);
        } else {
            self.decided.push(decided);
        }
    }

    /// The lane whose fetch goes next, if one may go now; else what they wait for.
    fn choose(&mut self, now: At, wait: &mut Wait, ctx: &mut Context<Self>) -> Option<usize> {
        if self.set_trials() {
            match self.choose_of(true, now, wait, ctx) {
                // What would be a better trial waits for something: any will do.
                Ok(None) => {}
                Ok(chosen) => return chosen,
                Err(Reading) => return None,
            }
        }
        self.choose_of(false, now, wait, ctx).unwrap_or(None)
    }

    /// `in_turn`: of lanes whose next call is a trial, only those whose turn it is.
    fn choose_of(
        &mut self,
        in_turn: bool,
        now: At,
        wait: &mut Wait,
        ctx: &mut Context<Self>,
    ) -> Result<Option<usize>, Reading> {
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
                    Offer::Nothing => {
                        self.lanes[place].due = None;
                        self.tell_in_time(place);
                        continue;
                    }
                    Offer::Later(at) => {
                        self.wait_for_retry(lane, at, now, wait);
                        continue;
                    }
                    Offer::Fetch | Offer::Read => {}
                }
                if let Some(hold) = self.operator_hold(&lane.key) {
                    wait.for_operator(lane.api, &hold, &self.shard.clock);
                    continue;
                }
                if in_turn && self.is_out_of_turn(place, now) {
                    continue;
                }
                let api = lane.api;
                if self.waits_for_trial(api) {
                    wait.for_event((api, Cause::Hold), TRIAL);
                    continue;
                }
                // What a fetch costs that is still to be read is not known; then it is only read.
                let costs = match lane.peek(now) {
                    Some(candidate) => {
                        let later = candidate.is_later_page();
                        costs_of(&self.platform, lane.api, &candidate.item, later)
                    }
                    None => Cow::Borrowed(self.platform.costs.usual(lane.api)),
                };
                let ask = Ask::new(lane.api).with_costs(&costs);
                let decision = self.gate.decide(&self.platform.limits, ask, now);
                if let Some(shut) = self.shut_beside(&decision, ask.api, now) {
                    self.wait_beside(place, offer, shut, now, wait, ctx);
                    continue;
                }
                match decision {
                    Decision::Go if offer == Offer::Fetch => {
                        if let Err(refusal) = self.budgets_of_now(place, now) {
                            self.refused_now(place, refusal, now, ctx);
                            let why = "a fetch that cannot be called any more to be out";
                            wait.of_ready((api, Cause::Reading), why);
                        } else if let Some(name) = self.never_in_budget(place, now) {
                            self.never(place, &name, now, ctx);
                            let why = "a fetch that no limit allows to be out";
                            wait.of_ready((api, Cause::Reading), why);
                        } else if !self.waits_for_auth(place, now, wait)
                            && !self.waits_for_budget(place, now, wait)
                        {
                            return Ok(Some(place));
                        }
                    }
                    Decision::Go => {
                        // Reading is what this lane waits for: read more at a time.
                        if !lane.loading {
                            self.lanes[place].read_more();
                            self.read(place, ctx);
                        }
                        wait.of_ready((api, Cause::Reading), "its next fetch to be read");
                        reading = true;
                    }
                    Decision::WaitUntil { at, because } => {
                        let by_limit = matches!(because, Because::Limit(_));
                        self.lanes[place].due = at.filter(|_| by_limit);
                        let cause = (api, cause_of(&because, at.is_some()));
                        let name = || self.gate.name(&self.platform.limits, &because);
                        match at {
                            None => wait.for_event(cause, &name()),
                            Some(at) if offer == Offer::Read => {
                                let early = at.minus(Span::from(READ_EARLY));
                                let wake = if early > now { early } else { at };
                                wait.until(at, wake, cause, name);
                                if early <= now && !self.lanes[place].loading {
                                    let ahead = self.lanes[place].ahead.min(AHEAD_WAITING);
                                    self.lanes[place].ahead = ahead;
                                    self.read(place, ctx);
                                }
                            }
                            Some(at) => {
                                wait.until(at, at, cause, name);
                                self.tell_if_late(place, at, now);
                            }
                        }
                    }
                    Decision::Never { because } if offer == Offer::Fetch => {
                        let name = self.gate.name(&self.platform.limits, &because);
                        self.never(place, &name, now, ctx);
                        let why = "a fetch that no limit allows to be out";
                        wait.for_event((api, Cause::Reading), why);
                    }
                    Decision::Never { because } => {
                        let name = self.gate.name(&self.platform.limits, &because);
                        let why = format!("nothing that can come: {name} allows no call");
                        wait.for_event((api, cause_of(&because, true)), &why);
                    }
                }
            }
            if reading {
                // What goes first is not known yet.
                return Err(Reading);
            }
        }
        Ok(None)
    }

    /// The next fetch of a lane costs more than a limit ever allows.
    fn never(&mut self, place: usize, limit: &str, now: At, ctx: &mut Context<Self>) {
        let reason = format!("it costs more than limit `{limit}` ever allows");
        let Some(Candidate { item, tries, read, .. }) = self.lanes[place].take(now) else { return };
        let api = self.lanes[place].api;
        let known = self.platform.apis.get(usize::from(api));
        let splits = known.is_some_and(|api| api.answers.split.is_some());
        // What a read has stored speaks of the fetch as it is.
        if !splits || read.is_some() {
            self.give_up(item, Code::BadCost, reason, LastAnswer::default(), (tries, read), ctx);
            return;
        }
        let (shard, platform) = (Rc::clone(&self.shard), Arc::clone(&self.platform));
        let why: Rc<RefCell<String>> = Rc::default();
        let (told, of, because) = (Rc::clone(&why), Rc::clone(&item), reason.clone());
        let once = item.fetch.once;
        let how = async move {
            let api = platform.apis.get(usize::from(api))?;
            match split_uncalled(&shard, (&platform, api), &of, (tries.calls(), &because)).await {
                Ok(done) => Some(Ending::Done { done: Box::new(done), once }),
                Err(why) => {
                    told.replace(why);
                    None
                }
            }
        };
        let (again, counted) = (Rc::clone(&item), |totals: &Totals| totals.done(0, 0));
        self.end(again, how, counted, ctx, move |throttle, ctx| {
            let reason = format!("{reason}; it cannot be split: {}", why.take());
            let last = LastAnswer::default();
            throttle.give_up(item, Code::BadCost, reason, last, (tries, read), ctx);
        });
    }

    /// The next fetch of a lane cannot be called by the configuration of now.
    fn refused_now(&mut self, place: usize, refusal: Refusal, now: At, ctx: &mut Context<Self>) {
        if let Some(Candidate { item, tries, read, .. }) = self.lanes[place].take(now) {
            let Refusal { code, reason, .. } = refusal;
            self.give_up(item, code, reason, LastAnswer::default(), (tries, read), ctx);
        }
    }

    /// A lane waits for something beside limits and holds of its account; its head is read ahead as for those.
    fn wait_beside(
        &mut self,
        place: usize,
        offer: Offer,
        (until, cause, why): (At, Cause, Box<str>),
        now: At,
        wait: &mut Wait,
        ctx: &mut Context<Self>,
    ) {
        self.lanes[place].due = None;
        let cause = (self.lanes[place].api, cause);
        if offer != Offer::Read {
            wait.until(until, until, cause, || why);
            return;
        }
        let early = until.minus(Span::from(READ_EARLY));
        wait.until(until, if early > now { early } else { until }, cause, || why);
        if early <= now && !self.lanes[place].loading {
            self.lanes[place].ahead = self.lanes[place].ahead.min(AHEAD_WAITING);
            self.read(place, ctx);
        }
    }

    fn operator_hold(&self, lane: &LaneKey) -> Option<Arc<OperatorHold>> {
        if self.shard.holds.is_empty() {
            return None;
        }
        self.shard.holds.of(lane, self.shard.clock.wall())
    }

    /// A lane whose fetches are between two tries, or not due yet: what shuts the gate for at least as long, a hold
    /// after a 429 say, is the better reason.
    fn wait_for_retry(&self, lane: &Lane, at: At, now: At, wait: &mut Wait) {
        let api = lane.api;
        let ask = Ask::new(api).with_costs(self.platform.costs.usual(api));
        match self.gate.decide(&self.platform.limits, ask, now) {
            // A stored time of a try is rounded up to its millisecond.
            Decision::WaitUntil { at: Some(open), because }
                if open.plus(Span::from_millis(1)) >= at =>
            {
                let at = open.max(at);
                let cause = (api, cause_of(&because, true));
                wait.until(at, at, cause, || self.gate.name(&self.platform.limits, &because));
            }
            _ if lane.was_tried(at) => {
                wait.until(at, at, (api, Cause::Retry), || "its next try".into());
            }
            _ => wait.until(at, at, (api, Cause::NotBefore), || "its not_before".into()),
        }
    }

    /// Whether another node may make the next attempt of a lane.
    fn travels(&self, place: usize, now: At) -> bool {
        let lane = &self.lanes[place];
        lane.peek(now).is_some_and(|candidate| {
            let Candidate { item, tries, suspect, .. } = candidate;
            tries.crashes < ALONE_FROM
                && tries.wasted < WASTED_AT_ONCE
                && !suspect
                && self.shard.travels(&self.platform, lane.api, item)
        })
    }

    fn ask_slot(&mut self, place: usize, now: At) -> Option<Slot> {
        if self.slot_asked {
            return None;
        }
        let travels = || self.travels(place, now);
        let slot = self.shard.slot(self.ix, self.incarnation, travels);
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

    /// The next fetch of a lane has its turn then, and not before: whoever is told hears if that is too late, once.
    fn tell_if_late(&mut self, place: usize, at: At, now: At) {
        if self.shard.signals.is_none() {
            return;
        }
        let told = self.lanes[place].told_late;
        let head = self.lanes[place].peek(now).filter(|one| told != Some(one.item.seq));
        let late = head.and_then(|candidate| {
            let deadline = candidate.item.fetch.deadline?;
            let earliest = self.shard.clock.wall_at(at);
            (earliest > deadline).then(|| {
                self.tell_late(candidate, deadline, earliest);
                candidate.item.seq
            })
        });
        if late.is_some() {
            self.lanes[place].told_late = late;
            self.lanes[place].is_late = true;
        }
    }

    /// The next fetch of a lane has its turn in time, or there is none: whoever was told that one has not hears.
    fn tell_in_time(&mut self, place: usize) {
        if !std::mem::take(&mut self.lanes[place].is_late) {
            return;
        }
        let LaneKey { account, api, .. } = &self.lanes[place].key;
        // The same is told of lanes of all priorities.
        let is_late = self.lanes.iter().any(|lane| lane.is_late && lane.key.api == *api);
        if let Some(signals) = self.shard.signals.as_ref().filter(|_| !is_late) {
            signals.tell(Signal::InTime { account: account.clone(), api: api.clone() });
        }
    }

    fn tell_late(&self, candidate: &Candidate, deadline: Timestamp, earliest: Timestamp) {
        let Some(signals) = &self.shard.signals else { return };
        let item = &candidate.item;
        let (lane, fetch) = (item.lane.clone(), item.id.clone());
        signals.tell(Signal::Late { lane, fetch, deadline, earliest });
    }

    fn past_deadline(
        &mut self,
        place: usize,
        candidate: Candidate,
        ctx: &mut Context<Self>,
    ) -> Option<Candidate> {
        let deadline = candidate.item.fetch.deadline;
        let Some(deadline) = deadline.filter(|deadline| self.shard.clock.wall() > *deadline) else {
            self.tell_in_time(place);
            return Some(candidate);
        };
        self.tell_late(&candidate, deadline, self.shard.clock.wall());
        self.lanes[place].is_late = self.shard.signals.is_some();
        let reason = format!("its turn came only after its deadline, {deadline}");
        let Candidate { item, tries, read, .. } = candidate;
        let last = LastAnswer::default();
        self.give_up(item, Code::DeadlinePassed, reason, last, (tries, read), ctx);
        None
    }

    /// Writes the record that covers what has been decided, if none is on its way.
    fn write(&mut self, ctx: &mut Context<Self>) {
        let free = self.writing.is_none() && self.fence == Fence::Holds;
        if self.decided.is_empty() || !free || !self.may_write() {
            return;
        }
        let batch = std::mem::take(&mut self.decided);
        self.writing = Some(batch);
        let open = self.block_to_open();
        self.store_record(open, ctx);
    }

    /// Stores a record that covers what is in flight, `self.writing` and the block that it opens.
    pub(super) fn store_record(&mut self, open: Vec<Stretch>, ctx: &mut Context<Self>) {
        let now = self.now();
        self.forget_suspected();
        let mut record = self.record(now);
        self.stale = !record.flying.is_empty() || !open.is_empty();
        self.next_block.clone_from(&open);
        record.open = open;
        self.writing_since = now;
        let store = self.shard.ledger.store(self.key.clone(), self.version, record.encode());
        self.spawn(ctx, store, Self::confirmed);
    }

    pub(super) fn record(&self, now: At) -> Record {
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
        // Every node that reads the same work would add the others' fetches in flight, and keep them.
        let remembered = self
            .remembered
            .iter()
            .filter(|(_, (tries, at, _))| *tries != Tries::default() || *at > now);
        let remembered = remembered.map(|(seq, (tries, at, _))| Waiting {
            seq: *seq,
            tries: *tries,
            not_within_ms: at.since(now).0.div_ceil(1000),
        });
        Record {
            config: self.shard.plan().hash.clone(),
            gate: self.gate_without_doubt().encode(&self.platform.limits, now),
            flying: flying.chain(decided).collect(),
            parked: parked.chain(remembered).collect(),
            throttled_in_a_row: self.throttled_in_a_row,
            known: self.known(),
            open: Vec::new(),
            suspected: self.suspected_of_the_dead(),
            paces: self.pace_notes(now),
            denials: self.denial_notes(),
        }
    }

    /// Whose permits a record of now speaks of.
    fn known(&self) -> Vec<Known> {
        let decided = self.writing.iter().flatten().map(|decided| decided.id.0);
        let permit = decided.fold(self.last_given, u64::max);
        let own = Known { session: self.shard.ledger.session(), permit };
        book::known(own, &self.seen)
    }

    fn confirmed(&mut self, answer: Result<u64, LedgerError>, ctx: &mut Context<Self>) {
        let batch = self.writing.take().unwrap_or_default();
        let now = self.now();
        self.meters.ledger_stored(now.since(self.writing_since));
        match answer {
            Ok(version) => {
                self.version = version;
                self.fence = Fence::Holds;
                self.block = std::mem::take(&mut self.next_block);
                // Decided meanwhile, and in the block that is open now.
                let (covered, others): (Vec<Decided>, Vec<Decided>) =
                    std::mem::take(&mut self.decided)
                        .into_iter()
                        .partition(|decided| self.covered(decided.lane, &decided.candidate));
                self.decided = others;
                let here = self.is_open_here();
                let lapsed = |decided: &Decided| {
                    let late = now > decided.at.plus(Span::from(USE_WITHIN));
                    !here || late || decided.slot.has_lapsed()
                };
                let (late, good): (Vec<Decided>, Vec<Decided>) =
                    batch.into_iter().chain(covered).partition(lapsed);
                if !late.is_empty() {
                    telemetry::permits_lapsed(&self.meters, &self.key, late.len());
                }
                self.put_back(late);
                for decided in good {
                    self.give(decided, now);
                }
                self.step(ctx);
            }
            Err(error) => {
                self.meters.lapsed(batch.len());
                // No record is known to be there that has it.
                self.block.clear();
                self.next_block.clear();
                // What was decided meanwhile was so upon a record that did not come to be.
                let meanwhile = std::mem::take(&mut self.decided);
                self.put_back(batch.into_iter().chain(meanwhile).collect());
                self.stop_asking();
                // A record before this one is still there.
                self.stale = true;
                match error {
                    LedgerError::Unavailable(_) => {
                        telemetry::ledger_away(&self.key, &error);
                        self.store_again(ctx);
                    }
                    // Whatever is stored now, it is not known here.
                    LedgerError::Unsure(_) => {
                        telemetry::ledger_away(&self.key, &error);
                        self.read_again(ctx);
                    }
                    LedgerError::Conflict => {
                        telemetry::ledger_conflict(&self.key);
                        self.read_again(ctx);
                    }
                }
                self.step(ctx);
            }
        }
    }

    /// Tries again later, with a record that gives no permit: quota is not asked for before the ledger takes
    /// records.
    fn store_again(&mut self, ctx: &mut Context<Self>) {
        let (fence, wait) = self.fence.away();
        self.fence = fence;
        self.try_later(wait, ctx);
    }

    /// Whoever kept the ledger away is back: not waited for any longer.
    pub(super) fn ledger_back(&mut self, ctx: &mut Context<Self>) {
        if let Some(handle) = self.again.take() {
            ctx.cancel_future(handle);
            self.ledger_again(ctx);
        }
    }

    fn give(&mut self, decided: Decided, now: At) {
        let Decided { id, at, lane, candidate, slot, alone, due, mut grants } = decided;
        grants.iter_mut().for_each(Grant::hand_on);
        self.last_given = self.last_given.max(id.0);
        let api = self.lanes[lane].api;
        let costs = costs_of(&self.platform, api, &candidate.item, candidate.is_later_page());
        let limits = &self.platform.limits;
        self.usage.call(limits, api, &costs, at);
        self.usage.goes_on(&self.key.platform, limits, &self.shard.totals, at);
        if let Some(due) = due {
            let queued = self.shard.clock.at_wall(candidate.item.queued_at);
            let earliest = due.max(candidate.not_before).max(queued);
            self.meters.late(now.since(earliest));
        }
        let Candidate { item, tries, suspect, read, .. } = candidate;
        telemetry::permit(&self.meters, api, &self.key, &item, tries.calls() + 1);
        let carried = Rc::clone(&item);
        let carried_read = read.clone();
        let flight =
            Flight { item: carried, tries, lane, decided_at: at, suspect, read: carried_read };
        self.flights.insert(id, flight);
        self.listen_to(id, api);
        let platform = Arc::clone(&self.platform);
        let meters = Rc::clone(&self.meters);
        self.shard.attempt(
            id,
            at,
            Attempt {
                ix: self.ix,
                item,
                tries,
                read,
                slot,
                alone,
                platform,
                api,
                meters,
                times: Rc::clone(&self.times),
                given_at: now,
                grants,
            },
        );
    }

    /// No lane's next permit has a known earliest time any more.
    pub(super) fn forget_due(&mut self) {
        for lane in &mut self.lanes {
            lane.due = None;
        }
    }

    /// Permits that were not handed on, and so lead to no call, whatever a record says of them: their fetches
    /// wait on.
    pub(super) fn put_back(&mut self, batch: Vec<Decided>) {
        // Each is put before the others: the last one first keeps their order.
        for decided in batch.into_iter().rev() {
            self.gate.give_back(&self.platform.limits, decided.id);
            self.pace_back(self.lanes[decided.lane].api);
            self.suspects_out(0, usize::from(decided.candidate.suspect));
            self.lanes[decided.lane].put_back(decided.candidate);
        }
    }
}

/// A decision's reason for sums; `known` if it says until when.
fn cause_of(because: &Because, known: bool) -> Cause {
    match because {
        Because::Limit(place) => Cause::limit(*place, known),
        Because::Hold(_) => Cause::Hold,
    }
}

/// What an account waits for.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// When the next call may go, if that is known.
    at: Option<At>,
    /// When to look again.
    wake: Option<At>,
    because: Option<Box<str>>,
    /// The same for sums, and of which api.
    pub(super) cause: Option<(u16, Cause)>,
    /// When the first hold of an operator ends, if there is one.
    held: Option<At>,
    /// Something else outside is waited for.
    event: bool,
    /// The limits of a lane let its next call go: what that waits for is told, whatever others wait for.
    ready: bool,
}

impl Wait {
    /// Something may go at `at`; look again at `wake`.
    pub(super) fn until(
        &mut self,
        at: At,
        wake: At,
        cause: (u16, Cause),
        because: impl FnOnce() -> Box<str>,
    ) {
        if !self.ready && self.at.is_none_or(|known| at < known) {
            self.at = Some(at);
            self.cause = Some(cause);
            self.because = Some(because());
        }
        self.wake = Some(self.wake.map_or(wake, |known| known.min(wake)));
    }

    /// Look again at `wake`, whatever comes before.
    pub(super) fn wake_at(&mut self, wake: At) {
        self.wake = Some(self.wake.map_or(wake, |known| known.min(wake)));
    }

    /// An operator holds a lane: until its end, if it has one, or until it is heard of.
    fn for_operator(&mut self, api: u16, hold: &OperatorHold, clock: &Clock) {
        let at = hold.until.map_or(At::MAX, |until| clock.at_wall(until));
        if self.because.is_none() {
            self.cause = Some((api, Cause::Paused));
            self.because = Some(hold.text().into());
        }
        self.held = Some(self.held.map_or(at, |known| known.min(at)));
        if at < At::MAX {
            self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
        }
    }

    /// Nothing but an operator is waited for: until when.
    fn only_held(&self) -> Option<At> {
        self.held.filter(|_| self.at.is_none() && !self.event)
    }

    /// Limits let a call go, and something else has to happen first, which will be heard of.
    fn of_ready(&mut self, cause: (u16, Cause), because: &str) {
        if !self.ready {
            (self.ready, self.event, self.at) = (true, true, None);
            (self.cause, self.because) = (Some(cause), Some(because.into()));
        }
    }

    /// Something outside has to happen first, and will be heard of.
    pub(super) fn for_event(&mut self, cause: (u16, Cause), because: &str) {
        self.event = true;
        if self.because.is_none() {
            self.cause = Some(cause);
            self.because = Some(because.into());
        }
    }
}
