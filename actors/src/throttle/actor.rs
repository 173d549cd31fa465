//! The throttle actor itself: what it holds and what it does on each message. What that means stands in
//! the files below, by duty.

mod asking;
mod blocks;
mod denying;
mod hearing;
mod leaving;
mod letting;
mod listening;
mod opening;
mod reading;
mod reloading;
mod resting;
mod showing;
mod signing;
mod weighing;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::OwnedSemaphorePermit;
use tollgate_gate::{At, Charged, Cost, PermitId};

use self::listening::Listening;
use super::fence::{Fence, Fenced, LEDGER_AGAIN};
use super::gate::Gate;
use super::lane::{Candidate, Lane};
use super::messages::{FromBudget, GoBy, LookAgain, MoreWork, Reported, SlotFree};
use super::usage::Usage;
use crate::answers::breaker::Breaker;
use crate::budget::Grant;
use crate::cluster::part_of;
use crate::collector::{Item, Slot};
use crate::ids::{AccountKey, Seq};
use crate::ledger::record::{Known, Stretch, Tries};
use crate::mailbox::{Counted, Passed};
use crate::pages::Read;
use crate::plan::Platform;
use crate::pulse::Doing;
use crate::shard::accounts::{Ix, Rest};
use crate::shard::context::Context as Shard;
use crate::shard::permit::Report;
use crate::supervise::DeathNotice;
use crate::telemetry::{self, PlatformMeters};
use crate::times::{Cause, PlatformTimes};

/// Between two tries of a queue that does not answer.
const SEAM_AGAIN: Duration = LEDGER_AGAIN;

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
    /// When its limits let it go at the earliest; nothing if none made it wait, or that was not known.
    due: Option<At>,
    /// Of the budgets that it counts in.
    grants: Vec<Grant>,
}

/// An attempt in flight.
#[derive(Debug)]
struct Flight {
    item: Rc<Item>,
    tries: Tries,
    lane: usize,
    /// When the gate let it through; long ago where that is not known any more.
    decided_at: At,
    /// See [`Candidate::suspect`].
    suspect: bool,
    /// See [`Candidate::read`].
    read: Option<Arc<Read>>,
}

/// A call charged by its answer when little was known of its api.
#[derive(Debug)]
struct Doubted {
    charged: Charged,
    costs: Box<[Cost]>,
    /// Its true stamp.
    written: At,
}

/// Owner of one account's gate and lanes.
#[derive(Debug)]
pub struct Throttle {
    shard: Rc<Shard>,
    ix: Ix,
    incarnation: u64,
    key: AccountKey,
    /// The partition it is in.
    part: u32,
    platform: Arc<Platform>,
    meters: Rc<PlatformMeters>,
    times: Rc<PlatformTimes>,
    /// What is waited for now, and since when; for the sums of where time goes.
    spent: (Option<(u16, Cause)>, At),
    /// When that is to be over, where that is known.
    spent_due: Option<At>,
    start: Option<Start>,
    restarted: bool,
    /// The record has been read: permits may be given.
    open: bool,
    gate: Gate,
    version: u64,
    fence: Fence,
    /// The next try to store or to read a record.
    again: Option<SpawnHandle>,
    /// The last permit that was used, by its number.
    last_given: u64,
    /// Other processes whose permits the gate knows of.
    seen: Vec<Known>,
    /// The stored record speaks of permits in flight that are over by now.
    stale: bool,
    lanes: Vec<Lane>,
    turn: usize,
    flights: BTreeMap<PermitId, Flight>,
    /// Calls in flight whose answers say that their own jobs are over already.
    jobs_over: BTreeMap<PermitId, u64>,
    /// Those of an api's first two seconds, within bounds.
    doubted: Vec<Doubted>,
    /// Tries of fetches that were in flight or parked when the record was written, until they are read.
    remembered: BTreeMap<Seq, (Tries, At, bool)>,
    /// Stretches whose fetches may have been in flight in another process, until they are read; whether that
    /// process has crashed.
    suspected: Vec<(Stretch, bool)>,
    /// Suspects decided or in flight: one at most.
    suspects_out: usize,
    /// The open block of the stored record: what lies in it needs no further record.
    block: Vec<Stretch>,
    /// The open block of the record on its way.
    next_block: Vec<Stretch>,
    decided: Vec<Decided>,
    /// Permits whose budgets are being asked.
    asking: Vec<asking::Asking>,
    /// Budgets whose turn is waited for.
    in_line: Vec<asking::InLine>,
    /// Permits whose record is on its way; nothing if none is.
    writing: Option<Vec<Decided>>,
    /// When that record was sent.
    writing_since: At,
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
    listening: Listening,
    /// Refusals of access in a row, by api; nothing: of the account as a whole.
    breakers: BTreeMap<Option<u16>, Breaker>,
    /// When the limits came into force, if they are not those of the start.
    limits_since: At,
    because: Option<Box<str>>,
    until: Option<At>,
    /// Nothing but an operator's hold is waited for: until when.
    held: Option<At>,
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
        let meters = shard.meters_of(&platform.name);
        let times = shard.times.of(&platform);
        // Until its record is there.
        let spent = (Some((0, Cause::Ledger)), shard.clock.now());
        Self {
            shard,
            ix,
            incarnation,
            part: part_of(&key),
            key,
            platform,
            meters,
            times,
            spent,
            spent_due: None,
            restarted: matches!(start, Start::Restarted),
            start: Some(start),
            open: false,
            gate: Gate::default(),
            version: 0,
            fence: Fence::Holds,
            again: None,
            last_given: 0,
            seen: Vec::new(),
            stale: false,
            lanes: Vec::new(),
            turn: 0,
            flights: BTreeMap::new(),
            jobs_over: BTreeMap::new(),
            doubted: Vec::new(),
            remembered: BTreeMap::new(),
            suspected: Vec::new(),
            suspects_out: 0,
            block: Vec::new(),
            next_block: Vec::new(),
            decided: Vec::new(),
            asking: Vec::new(),
            in_line: Vec::new(),
            writing: None,
            writing_since: At::MIN,
            slot: None,
            slot_asked: false,
            busy: 0,
            timer: None,
            throttled_in_a_row: 0,
            unreachable_in_a_row: 0,
            refused_at: None,
            handled: 0,
            usage: Usage::default(),
            listening: Listening::default(),
            breakers: BTreeMap::new(),
            limits_since: At::MIN,
            because: None,
            until: None,
            held: None,
            told: None,
            notice,
        }
    }

    fn now(&self) -> At {
        self.shard.clock.now()
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
}

impl Fenced for Throttle {
    fn fence(&self) -> Fence {
        self.fence
    }

    fn again(&mut self) -> &mut Option<SpawnHandle> {
        &mut self.again
    }

    fn busy(&mut self) -> &mut usize {
        &mut self.busy
    }

    fn is_away(&self) -> bool {
        self.shard.back_health.is_away()
    }

    fn store_none(&mut self, ctx: &mut Context<Self>) {
        if !self.may_write() {
            self.ledger_waits(ctx);
            return self.step(ctx);
        }
        self.writing = Some(Vec::new());
        self.store_record(Vec::new(), ctx);
    }

    fn read_anew(&mut self, ctx: &mut Context<Self>) {
        if !self.may_write() {
            self.ledger_waits(ctx);
            return self.step(ctx);
        }
        if self.open { self.read_again(ctx) } else { self.read_record(ctx) }
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
            Some(Start::Restarted) => {
                self.show_unopened();
                self.read_record(ctx);
            }
            // What it begins with comes right behind, and is shown then.
            Some(Start::Fresh) | None => self.read_record(ctx),
        }
    }
}

impl<M> Handler<Counted<M>> for Throttle
where
    Self: Handler<M>,
    M: Message,
{
    type Result = Passed<<Self as Handler<M>>::Result>;

    fn handle(&mut self, message: Counted<M>, ctx: &mut Self::Context) -> Self::Result {
        Passed(<Self as Handler<M>>::handle(self, message.open(), ctx))
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
            let shard = Rc::clone(&self.shard);
            let _turn = shard.pulse.on(Doing::Hearing, Some(self.ix));
            let call_ended = matches!(reported.report, Report::CallEnded(..));
            self.hear(reported.id, reported.report, ctx);
            // What came of it is on its way already: a refusal holds the account before another call goes.
            let told = |shard: &Shard| {
                shard.running.borrow().get(&reported.id).is_some_and(|own| own.outcome.is_some())
            };
            if !(call_ended && told(&self.shard)) {
                self.step(ctx);
            }
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

impl Handler<FromBudget> for Throttle {
    type Result = ();

    fn handle(&mut self, message: FromBudget, ctx: &mut Self::Context) {
        self.handled += 1;
        self.budget_answered(message, ctx);
    }
}

impl Handler<GoBy> for Throttle {
    type Result = ();

    fn handle(&mut self, GoBy(platform): GoBy, ctx: &mut Self::Context) {
        self.handled += 1;
        self.go_by(platform);
        self.step(ctx);
    }
}

impl Handler<LookAgain> for Throttle {
    type Result = ();

    fn handle(&mut self, _: LookAgain, ctx: &mut Self::Context) {
        self.handled += 1;
        self.ledger_back(ctx);
        self.step(ctx);
    }
}
