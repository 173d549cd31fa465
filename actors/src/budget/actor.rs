//! The budget actor: owner of one budget's gate, record and line.

mod leaving;
mod record;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tollgate_gate::{At, Decision, Ledger, LimitSet, PermitId, Sent, Span, time_needed};

use super::hearing::Untold;
use super::line::{Line, Turn, Waiter};
use super::{Answer, Ask, Call, FromBudget, Told, Whose};
use crate::ids::Account;
use crate::ledger::record::Known;
use crate::nats::session::SessionId;
use crate::plan::Platform;
use crate::pulse::Doing;
use crate::recipe::BudgetKey;
use crate::shard::BudgetDied;
use crate::shard::context::Context as Shard;
use crate::supervise::DeathNotice;
use crate::telemetry;
use crate::throttle::Usage;
use crate::throttle::fence::{Fence, Fenced};
use crate::throttle::gate::Gate;

/// How long a place is kept for an account that was called.
pub(super) const TURN: Duration = Duration::from_millis(250);
/// Most calls that one record is stored for.
const BATCH_MAX: usize = 256;
/// Most accounts in line; further ones ask again later.
const LINE_MAX: usize = 100_000;
/// When they do, and those who find no actor at all.
const ASKS_AGAIN: Duration = Duration::from_secs(1);
/// A budget that nobody asked for so long ends; what it knows is in its record.
const IDLE: Duration = Duration::from_secs(10);

/// A place that is kept for an account that was called.
#[derive(Debug)]
struct Called {
    account: Account,
    id: PermitId,
    turn: Turn,
    until: At,
}

/// A call that is let through once its record is confirmed.
#[derive(Debug)]
struct Decided {
    ask: Ask,
    id: PermitId,
    turn: Turn,
}

/// Owner of one budget.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(super) shard: Rc<Shard>,
    pub(super) key: BudgetKey,
    pub(super) limits: Arc<LimitSet>,
    platform: Arc<Platform>,
    incarnation: u64,
    restarted: bool,
    /// The record was read.
    open: bool,
    pub(super) gate: Gate,
    version: u64,
    fence: Fence,
    again: Option<SpawnHandle>,
    last_given: u64,
    seen: Vec<Known>,
    /// The stored record speaks of calls in flight that are over.
    pub(super) stale: bool,
    /// What was heard of limits is in no record yet, and is to be.
    pub(super) unkept: bool,
    /// The last record was to have it.
    keeps: bool,
    /// Who asked before the record was read.
    early: VecDeque<Ask>,
    /// What was heard of its limits before then.
    early_heard: Vec<super::What>,
    /// What it hears of its limits, and what it does not.
    pub(super) untold_calls: Untold,
    /// Calls in flight whose answers say that their own jobs are over already.
    pub(super) jobs_over: BTreeMap<PermitId, u64>,
    pub(super) line: Line,
    /// Those who were not told until when they wait, because that was not known.
    pub(super) untold: bool,
    /// Calls of which nothing may be heard any more, and until when they take their slots then.
    orphans: BTreeMap<PermitId, At>,
    /// What was told before the record was read of calls that are not known here.
    early_told: Vec<(PermitId, Told)>,
    /// Ends that no record has yet, and those that the one on its way has: another owner would not know of them.
    unrecorded: Vec<(PermitId, Told)>,
    recording: Vec<(PermitId, Told)>,
    /// Since when its partition is another node's, or is to be; whether it has stored its last record.
    leaves_since: Option<At>,
    last_stored: bool,
    called: Vec<Called>,
    decided: Vec<Decided>,
    writing: Option<Vec<Decided>>,
    busy: usize,
    timer: Option<(At, SpawnHandle)>,
    handled: u64,
    active_at: At,
    usage: Usage,
    settling: bool,
    notice: DeathNotice,
}

/// Sent by the shard: a budget's mail, in the order it came.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Mail(pub(crate) super::What);

/// Sent by the shard: what this node owns has changed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Look;

/// Sent by whoever looks at accounts: what counts in it? Changes nothing, and is not counted among what was handled.
#[derive(Debug, Message)]
#[rtype(result = "(Arc<LimitSet>, Ledger)")]
pub(crate) struct ShowUse;

impl Handler<ShowUse> for Budget {
    type Result = MessageResult<ShowUse>;

    fn handle(&mut self, _: ShowUse, _: &mut Context<Self>) -> Self::Result {
        MessageResult((Arc::clone(&self.limits), self.gate.ledger().clone()))
    }
}

/// Sent by the shard at the end of a drain: store what is known and end.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Settle;

impl Budget {
    pub(crate) fn new(
        shard: Rc<Shard>,
        key: BudgetKey,
        platform: Arc<Platform>,
        incarnation: u64,
        restarted: bool,
    ) -> Self {
        let (told, record) = (Rc::clone(&shard), key.record().clone());
        let notice = DeathNotice::new(move |reason| {
            told.totals.restarts.add(1);
            told.me().do_send(BudgetDied { record, incarnation, reason });
        });
        let now = shard.clock.now();
        Self {
            limits: Arc::clone(key.limits()),
            shard,
            key,
            platform,
            incarnation,
            restarted,
            open: false,
            gate: Gate::default(),
            version: 0,
            fence: Fence::Holds,
            again: None,
            last_given: 0,
            seen: Vec::new(),
            stale: false,
            unkept: false,
            keeps: false,
            early: VecDeque::new(),
            early_heard: Vec::new(),
            untold_calls: Untold::default(),
            jobs_over: BTreeMap::new(),
            line: Line::default(),
            untold: false,
            orphans: BTreeMap::new(),
            early_told: Vec::new(),
            unrecorded: Vec::new(),
            recording: Vec::new(),
            leaves_since: None,
            last_stored: false,
            called: Vec::new(),
            decided: Vec::new(),
            writing: None,
            busy: 0,
            timer: None,
            handled: 0,
            active_at: now,
            usage: Usage::default(),
            settling: false,
            notice,
        }
    }

    pub(super) fn now(&self) -> At {
        self.shard.clock.now()
    }

    /// Calls of apis that no limit tells apart wait for the same.
    fn class(&self, api: u16) -> u16 {
        let apart = self.limits.limits().iter().any(|limit| limit.api.is_some());
        if apart { api } else { 0 }
    }

    /// Calls whom the gate lets through, stores what was decided, sets the clock.
    fn step(&mut self, ctx: &mut Context<Self>) {
        if self.leaves(ctx) || !self.open {
            return;
        }
        let shard = Rc::clone(&self.shard);
        let _turn = shard.pulse.on(Doing::Budgeting, None);
        self.shard.faults.budget(self.key.record());
        let now = self.now();
        self.end_orphans(now);
        self.gate.prune(&self.limits, now);
        self.lapse(now);
        self.call(now);
        self.tell_untold(now);
        self.write(ctx);
        self.set_timer(now, ctx);
        self.try_end(now, ctx);
    }

    /// Places that were kept long enough go to the next.
    fn lapse(&mut self, now: At) {
        let lapsed: Vec<Called> =
            self.called.extract_if(.., |called| called.until <= now).collect();
        for called in lapsed {
            self.gate.give_back(&self.limits, called.id);
            self.line.undo(&called.account, called.turn);
        }
    }

    /// Calls those who are next for as long as the gate is open.
    fn call(&mut self, now: At) {
        self.serve(now, None);
    }

    /// Lets through who is next for as long as the gate is open. `asks`: that account is here; others are called.
    fn serve(&mut self, now: At, mut asks: Option<Ask>) -> Option<Ask> {
        if !self.may_lend() {
            return asks;
        }
        let mut closed = Vec::new();
        while self.decided.len() < BATCH_MAX {
            let Some((next, class)) = self.line.next(&closed) else { break };
            let (account, call) = (next.whose.account.clone(), next.call.clone());
            match self.decide(&call, now) {
                Decision::Go => {}
                Decision::WaitUntil { .. } => {
                    closed.push(class);
                    continue;
                }
                // Asked under limits that were others: whoever asked looks again, and holds up nobody.
                Decision::Never { .. } => {
                    if let Some(Waiter { whose, .. }) = self.line.leave(&account) {
                        self.tell(whose, Answer::Turn);
                    }
                    continue;
                }
            }
            let Some((waiter, turn)) = self.line.turn(&account, class) else { break };
            let id = self.shard.permit_id();
            self.take(id, &call, now);
            match asks.take_if(|ask| ask.whose.account == account) {
                Some(ask) => self.decided.push(Decided { ask, id, turn }),
                None => self.call_one(waiter, id, turn, now),
            }
        }
        asks
    }

    fn call_one(&mut self, waiter: Waiter, id: PermitId, turn: Turn, now: At) {
        let account = waiter.whose.account.clone();
        self.tell(waiter.whose, Answer::Turn);
        let until = now.plus(Span::from(TURN));
        self.called.push(Called { account, id, turn, until });
    }

    /// Says something to an account that waits.
    fn tell(&self, whose: Whose, answer: Answer) {
        let home = whose.home.clone();
        home.tell(FromBudget {
            whose: whose.account,
            ix: whose.ix,
            key: self.key.clone(),
            to: None,
            answer,
        });
    }

    fn decide(&self, call: &Call, now: At) -> Decision {
        call.with(&self.limits, |ask| self.gate.decide(&self.limits, ask, now))
    }

    fn take(&mut self, id: PermitId, call: &Call, now: At) {
        call.with(&self.limits, |ask| self.gate.take(&self.limits, id, ask, now));
    }

    fn asked(&mut self, ask: Ask, ctx: &mut Context<Self>) {
        self.active_at = self.now();
        if self.is_leaving() {
            self.pass_on(super::What::Ask(ask));
            return;
        }
        if !self.open {
            if self.early.len() < LINE_MAX {
                self.early.push_back(ask);
            } else {
                self.turn_away(ask, "room in its line");
            }
            return;
        }
        self.follow(&ask, ctx);
        let now = self.now();
        self.lapse(now);
        let same = |called: &Called| called.account == ask.whose.account;
        if let Some(place) = self.called.iter().position(same) {
            let called = self.called.swap_remove(place);
            self.gate.give_back(&self.limits, called.id);
            let kept = self.may_lend();
            // What comes need not be the call that the place was kept for.
            if kept && self.decided.len() < BATCH_MAX && self.decide(&ask.call, now) == Decision::Go
            {
                self.take(called.id, &ask.call, now);
                self.decided.push(Decided { ask, id: called.id, turn: called.turn });
                return;
            }
            self.line.undo(&called.account, called.turn);
        }
        if self.line.len() >= LINE_MAX {
            self.turn_away(ask, "room in its line");
            return;
        }
        if let Decision::Never { because } = self.decide(&ask.call, now) {
            self.line.leave(&ask.whose.account);
            let name = self.gate.name(&self.limits, &because);
            self.turn_away(ask, &name);
            return;
        }
        let class = self.class(ask.call.api);
        self.line.join(ask.whose.clone(), (ask.call.clone(), class), (ask.weight, ask.wants));
        if let Some(ask) = self.serve(now, Some(ask)) {
            let until = self.estimate(&ask.call, self.line.len() as u64, now);
            let why = match self.fence {
                Fence::Holds if !self.is_open_here() => {
                    "its partition, which no node holds now".into()
                }
                Fence::Holds => self.why(&ask.call, now),
                Fence::Away(_) | Fence::Reads(_) => "its ledger".into(),
            };
            self.untold |= until.is_none();
            ask.wait(until, None, &why);
        }
    }

    /// Tells those who wait until when, once that is known.
    fn tell_untold(&mut self, now: At) {
        if !self.untold || self.fence != Fence::Holds {
            return;
        }
        let mut known = true;
        for (before, Waiter { whose, call, .. }) in self.line.places() {
            let Some(until) = self.estimate(call, before + 1, now) else {
                known = false;
                continue;
            };
            self.tell(whose.clone(), Answer::Until(until, self.why(call, now)));
        }
        self.untold = !known;
    }

    /// The limits as whoever asks knows them: others since the configuration was read again.
    fn follow(&mut self, ask: &Ask, ctx: &mut Context<Self>) {
        let key = &ask.call.key;
        if key.generation() <= self.key.generation() {
            return;
        }
        let now = self.now();
        if let Some(platform) = self.shard.platform(key.platform()) {
            self.platform = platform;
        }
        self.usage.tell(&self.platform.name, &self.limits, &self.shard.totals);
        let old = std::mem::replace(&mut self.limits, Arc::clone(key.limits()));
        self.key = key.clone();
        self.untold_calls.clear();
        // What a limit of a new name took over is in no record yet.
        self.stale |= old != self.limits && !self.gate.is_empty();
        for note in self.gate.follow(&old, &self.limits, now) {
            telemetry::ledger_note(self.key.record(), &note);
        }
        self.step(ctx);
    }

    fn turn_away(&self, ask: Ask, why: &str) {
        let again = self.now().plus(Span::from(ASKS_AGAIN));
        ask.wait(Some(again), Some(again), why);
    }

    /// What the budget waits for.
    fn why(&self, call: &Call, now: At) -> Box<str> {
        match self.decide(call, now) {
            Decision::Go => "those before it".into(),
            Decision::WaitUntil { because, .. } | Decision::Never { because } => {
                self.gate.name(&self.limits, &because)
            }
        }
    }

    /// The earliest time of the last of so many turns: what the limits need for those before it.
    fn estimate(&self, call: &Call, calls: u64, now: At) -> Option<At> {
        let open = match self.decide(call, now) {
            Decision::Go => now,
            Decision::WaitUntil { at, .. } => at?,
            Decision::Never { .. } => return None,
        };
        let limits = self.limits.limits().iter().enumerate();
        let mine = limits.filter(|(_, limit)| limit.api.is_none_or(|only| only == call.api));
        // As if those before it cost the same.
        let needed = call.with(&self.limits, |ask| {
            let units = |place| calls.saturating_mul(ask.cost(place).units.into());
            mine.map(|(place, limit)| time_needed(limit.rule, units(place))).max()
        });
        Some(open.plus(needed.unwrap_or(Span::ZERO)))
    }

    /// Whether no record is on its way, and one can be written.
    fn is_free_to_write(&self) -> bool {
        self.open && self.writing.is_none() && self.fence == Fence::Holds && self.may_write()
    }

    pub(super) fn write(&mut self, ctx: &mut Context<Self>) {
        if (self.decided.is_empty() && !self.unkept) || !self.is_free_to_write() {
            return;
        }
        self.writing = Some(std::mem::take(&mut self.decided));
        self.store(ctx);
    }

    /// Those who were called are not expected any more; they ask again when they come.
    fn give_up_places(&mut self) {
        for called in std::mem::take(&mut self.called) {
            self.gate.give_back(&self.limits, called.id);
            self.line.undo(&called.account, called.turn);
        }
    }

    fn hear(&mut self, id: PermitId, told: Told, now: At) {
        match told {
            Told::Written(at) => self.gate.written(&self.limits, id, at),
            Told::Unwritten => self.gate.unwritten(id),
            Told::Answered(at) => self.gate.answered(&self.limits, id, at),
            Told::Came(came) => {
                for (place, counts) in self.key.counts() {
                    let guess = self.gate.cost_of(id, *place).map_or(0, |cost| cost.units);
                    if let Some(units) = came.units(*counts, guess) {
                        self.gate.settle(&self.limits, id, *place, units, now);
                    }
                }
            }
            Told::Ended(at, sent) => self.gate.ended(&self.limits, id, at, sent),
            Told::Unused => {
                // Joined with another process's record it counts already, and is only over.
                if !self.gate.give_back(&self.limits, id) {
                    self.gate.ended(&self.limits, id, now, Sent::Never);
                }
            }
            Told::Lost => {
                // A stamp may have been taken back by somebody who is not heard of any more.
                self.gate.unwritten(id);
                self.gate.ended(&self.limits, id, now, Sent::Maybe);
            }
            Told::Gone(latest) => {
                let lives = Span::from(self.platform.lost_call_alive);
                self.orphan(id, latest, now.max(latest).plus(lives));
            }
            Told::Runs => {
                let until = now.plus(Span::from(self.platform.lost_call_alive));
                if let Some(known) = self.orphans.get_mut(&id) {
                    *known = until.max(*known);
                }
            }
        }
        self.note_end(id, told);
        match told {
            Told::Ended(_, sent) => self.untold_calls.ended(id, sent),
            Told::Unused => self.untold_calls.ended(id, Sent::Never),
            Told::Lost => self.untold_calls.ended(id, Sent::Maybe),
            _ => {}
        }
        if told.is_end() {
            self.job_ended(id);
            self.shard.given_over(self.key.record(), id);
        }
    }

    fn handle_heard(&mut self, what: super::What, ctx: &mut Context<Self>) {
        match what {
            what if !self.open => {
                if self.early_heard.len() < super::PENDING_MAX {
                    self.early_heard.push(what);
                }
            }
            super::What::Heard(id, heard) => self.heard(id, &heard, ctx),
            super::What::Hold { until, reason } => self.hold(until, &reason, ctx),
            super::What::JobOver { job, of } => self.job_over(job, of),
            super::What::Ask(_) | super::What::Leave(..) | super::What::Told(..) => {}
        }
    }

    /// `from`: the node that says so; the account may wait from another one by now.
    fn left(&mut self, account: &Account, from: Option<SessionId>) {
        if self.line.whose(account).is_some_and(|whose| whose.home.node() != from) {
            return;
        }
        self.line.leave(account);
        if let Some(place) = self.called.iter().position(|called| called.account == *account) {
            let called = self.called.swap_remove(place);
            self.gate.give_back(&self.limits, called.id);
            self.line.undo(&called.account, called.turn);
        }
    }

    /// When something is to be looked at: the gate opens for somebody, a place lapses, nobody came.
    fn set_timer(&mut self, now: At, ctx: &mut Context<Self>) {
        let lapses = self.called.iter().map(|called| called.until).min();
        let mut opens: Option<At> = None;
        let mut closed = Vec::new();
        while self.fence == Fence::Holds
            && let Some((next, class)) = self.line.next(&closed)
        {
            if let Decision::WaitUntil { at: Some(at), .. } = self.decide(&next.call, now) {
                opens = Some(opens.map_or(at, |known| known.min(at)));
            }
            closed.push(class);
        }
        let idle = self.line.is_empty().then(|| self.active_at.plus(Span::from(IDLE)));
        let idle = idle.filter(|at| *at > now);
        let orphans = self.orphans.values().copied().min();
        let all = [lapses, opens, idle, orphans].into_iter().flatten();
        let Some(wake) = all.min() else { return };
        if self.timer.as_ref().is_some_and(|(at, _)| *at == wake) {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(self.shard.clock.until(wake), |budget, ctx| {
            budget.timer = None;
            budget.step(ctx);
        });
        self.timer = Some((wake, handle));
    }

    /// Ends if nobody needs it: what it knows is in its record.
    fn try_end(&mut self, now: At, ctx: &mut Context<Self>) {
        if self.settling {
            for waiter in self.line.drain() {
                drop(waiter);
            }
            self.give_up_places();
        }
        let quiet = self.line.is_empty()
            && self.called.is_empty()
            && self.decided.is_empty()
            && self.writing.is_none()
            && self.busy == 0;
        let idle = self.settling || self.active_at.plus(Span::from(IDLE)) <= now;
        if !quiet || !idle || (!self.settling && !self.gate.in_flight().is_empty()) {
            return;
        }
        if self.fence != Fence::Holds && !self.settling {
            return;
        }
        self.usage.tell(&self.platform.name, &self.limits, &self.shard.totals);
        if self.stale && self.fence == Fence::Holds && self.gate.in_flight().is_empty() {
            // Else the calls that it speaks of would count as lost when it is read again.
            self.writing = Some(Vec::new());
            self.store(ctx);
            return;
        }
        if self.shard.budget_ends(self.key.record(), self.incarnation, self.handled) {
            telemetry::budget_stopped(&self.key);
            self.notice.expected();
            ctx.stop();
        }
    }
}

impl Fenced for Budget {
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
            let (fence, wait) = self.fence.away();
            self.fence = fence;
            self.ledger_waits(wait, ctx);
            return;
        }
        self.writing = Some(Vec::new());
        self.store(ctx);
    }

    fn read_anew(&mut self, ctx: &mut Context<Self>) {
        self.read(ctx);
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        // Whoever waits in the line of an actor that died looks again, and asks the next one.
        let waiting: Vec<Waiter> = self.line.drain().collect();
        for Waiter { whose, .. } in waiting {
            self.tell(whose, Answer::Turn);
        }
    }
}

impl Actor for Budget {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        telemetry::budget_started(&self.key);
        self.read(ctx);
    }
}

impl Handler<Mail> for Budget {
    type Result = ();

    fn handle(&mut self, Mail(what): Mail, ctx: &mut Self::Context) {
        self.handled += 1;
        match what {
            super::What::Ask(ask) => self.asked(ask, ctx),
            super::What::Leave(account, from) => self.left(&account, from),
            super::What::Told(id, told) if self.open => {
                let now = self.now();
                self.hear(id, told, now);
            }
            // It is heard when the record was read. The shard has it of calls that were let through here.
            super::What::Told(id, told) => self.told_early(id, told),
            what => {
                self.handle_heard(what, ctx);
            }
        }
        self.step(ctx);
    }
}

impl Handler<Look> for Budget {
    type Result = ();

    fn handle(&mut self, _: Look, ctx: &mut Self::Context) {
        self.step(ctx);
    }
}

impl Handler<Settle> for Budget {
    type Result = ();

    fn handle(&mut self, _: Settle, ctx: &mut Self::Context) {
        self.settling = true;
        self.step(ctx);
    }
}
