//! The shard actor: starts, restarts and wakes throttle actors.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;
use tollgate_gate::At;

use super::accounts::{Glance, Ix, State};
use super::context::{Context as Ctx, Shared};
use super::parts::CUT_LOOK;
use super::{
    AccountDied, Beat, CollectorDied, Drain, Drained, Found, HoldsChanged, Look, LookAgain, Looks,
    Room, Tallied, Tally, Wake, Work,
};
use crate::cluster::part_of;
use crate::http::Transport;
use crate::ids::AccountKey;
use crate::mailbox::{Counted, Mailbox, Passed};
use crate::pulse::Doing;
use crate::supervise::Restarts;
use crate::telemetry;
use crate::throttle::messages::{LookAgain as ThrottleLookAgain, MoreWork};
use crate::throttle::{Start, Throttle};
use crate::times::{Cause, Waits};

/// Throttle actors alive at once per shard; further accounts wait their turn, first come first served.
pub(crate) const LIVE_MAX: usize = 8192;
/// A resting account is woken this much before its gate opens, to read its next fetch.
const WAKE_EARLY: Duration = Duration::from_millis(20);
/// Work messages a shard takes before the node has to wait: each carries up to a few thousand lanes.
const MAILBOX: usize = 64;
/// Accounts counted in one turn: about 0.1 ms.
const TALLY_MAX: u32 = 4096;
/// How often a drain looks whether all is quiet.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// The supervisor of one thread's actors.
#[derive(Debug)]
pub struct Shard {
    pub(super) ctx: Rc<Ctx>,
    timer: Option<(At, SpawnHandle)>,
    collector_deaths: Restarts,
}

impl Shard {
    /// Starts a shard on this thread.
    pub fn start_here(number: u16, shared: Shared, transport: Rc<dyn Transport>) -> Mailbox<Self> {
        let ctx = Ctx::new(number, shared, transport);
        let waiting = ctx.waiting[0].clone();
        let shard = Self { ctx, timer: None, collector_deaths: Restarts::default() };
        Mailbox::new(shard.start(), waiting)
    }

    fn note(&mut self, found: Found) {
        // Told by a node that goes by another configuration by now.
        let Some(api) = self.api_of(&found.lane) else { return };
        // Whoever gets the partition finds it there.
        if self.ctx.owned.is_leaving(part_of(&found.lane.account)) {
            return;
        }
        let ctx = &self.ctx;
        let mut accounts = ctx.accounts.borrow_mut();
        let ix = accounts.place(&found.lane.account);
        let entry = accounts.get_mut(ix).expect("placed just now");
        match &mut entry.state {
            State::Ready(waiting) => {
                merge(waiting, found);
                return;
            }
            // It reads its lanes anew when it starts.
            State::Restarting(_) => return,
            State::Live { .. } | State::Resting(_) => {}
        }
        if let State::Live { .. } = entry.state {
            drop(accounts);
            ctx.tell(ix, MoreWork(found));
            return;
        }
        let State::Resting(rest) = &mut entry.state else { return };
        if rest.note(api, found.lane.priority, found.count, found.all) {
            let now = self.ctx.clock.now();
            accounts.due_by(ix, now);
        }
    }

    /// Starts the actor of a resting account.
    fn wake(&mut self, ix: Ix) {
        let (start, glance) = {
            let mut accounts = self.ctx.accounts.borrow_mut();
            let Some(entry) = accounts.get_mut(ix) else { return };
            let glance = entry.glance();
            let State::Resting(rest) = &mut entry.state else { return };
            if rest.lanes.is_empty() {
                // Nothing waits and nothing is remembered any longer.
                accounts.forget(ix);
                return;
            }
            let platform = Arc::clone(&rest.platform);
            let rest = std::mem::replace(
                &mut **rest,
                super::accounts::Rest {
                    version: 0,
                    platform,
                    record: Box::default(),
                    since: At(0),
                    lanes: Box::default(),
                    due: At(0),
                    because: None,
                    cause: None,
                    usage: None,
                },
            );
            (Start::Rested(Box::new(rest)), glance)
        };
        self.start_throttle(ix, start, glance);
    }

    /// `glance`: what the account looks like until its actor tells.
    pub(super) fn start_throttle(&mut self, ix: Ix, start: Start, glance: Glance) {
        let incarnation = self.ctx.incarnation();
        let mut accounts = self.ctx.accounts.borrow_mut();
        let Some(entry) = accounts.get_mut(ix) else { return };
        let key = entry.key.clone();
        let Some(platform) = self.ctx.platform(&key.platform) else {
            // Removed since its work was told.
            accounts.forget(ix);
            return;
        };
        let platform = platform.of(&key.account);
        let throttle = Throttle::new(Rc::clone(&self.ctx), ix, incarnation, key, platform, start);
        let addr = throttle.start();
        accounts.live(ix, addr, incarnation, glance);
    }

    /// Starts accounts that wait for their turn, as far as there is room.
    fn fill(&mut self) {
        if self.ctx.draining.get() {
            return;
        }
        loop {
            let (ix, found, glance) = {
                let mut accounts = self.ctx.accounts.borrow_mut();
                if accounts.live >= LIVE_MAX {
                    return;
                }
                let Some(ix) = accounts.ready.pop_front() else { return };
                let Some(entry) = accounts.get_mut(ix) else { continue };
                let glance = entry.glance();
                let State::Ready(found) = &mut entry.state else { continue };
                (ix, std::mem::take(found), glance)
            };
            self.start_throttle(ix, Start::Fresh, glance);
            for found in found {
                // Its api may be gone since.
                if self.serves(&found.lane) {
                    self.ctx.tell(ix, MoreWork(found));
                }
            }
        }
    }

    /// Wakes accounts whose deadline has come, and sets the timer for the next.
    pub(super) fn wake_due(&mut self, ctx: &mut Context<Self>) {
        if self.ctx.draining.get() {
            return;
        }
        let soon = self.ctx.clock.now().plus(WAKE_EARLY.into());
        loop {
            let full = self.ctx.accounts.borrow().live >= LIVE_MAX;
            if full {
                break;
            }
            let Some(ix) = self.ctx.accounts.borrow_mut().due(soon) else { break };
            self.wake(ix);
        }
        self.set_timer(ctx);
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let accounts = self.ctx.accounts.borrow();
        // With no room, `Room` is what wakes the next one.
        let Some(next) = accounts.next_due().filter(|_| accounts.live < LIVE_MAX) else { return };
        let at = next.minus(WAKE_EARLY.into());
        if let Some((set, handle)) = &self.timer {
            if *set <= at {
                return;
            }
            ctx.cancel_future(*handle);
        }
        let handle = ctx.run_later(self.ctx.clock.until(at), |shard, ctx| {
            shard.timer = None;
            shard.wake_due(ctx);
        });
        self.timer = Some((at, handle));
    }

    fn look(&self, look: &Look) -> Looks {
        let _turn = self.ctx.pulse.on(Doing::Counting, None);
        let accounts = self.ctx.accounts.borrow();
        let mut looks =
            Looks { known: accounts.len() as u64, live: accounts.live as u64, ..Looks::default() };
        let mut shown: Vec<(u64, u32, Ix)> = Vec::new();
        for (ix, entry) in accounts.iter() {
            let AccountKey { platform, account } = &entry.key;
            let wanted = look.platform.as_deref().is_none_or(|only| only == platform.as_str())
                && look.account.as_deref().is_none_or(|only| only == account.as_str());
            if !wanted {
                continue;
            }
            let (waiting, in_flight) = entry.counts();
            looks.waiting += waiting;
            looks.in_flight += u64::from(in_flight);
            if waiting > 0 || in_flight > 0 {
                shown.push((waiting, in_flight, ix));
            }
        }
        if look.most == 0 {
            return looks;
        }
        if shown.len() > look.most {
            shown.select_nth_unstable_by(look.most - 1, |one, other| other.cmp(one));
            shown.truncate(look.most);
        }
        let entries = shown.into_iter().filter_map(|(_, _, ix)| accounts.get(ix));
        looks.accounts.extend(entries.map(|entry| self.ctx.look_at(entry)));
        looks
    }
}

/// Adds to what is known to wait.
fn merge(waiting: &mut Vec<Found>, found: Found) {
    match waiting.iter_mut().find(|known| known.lane == found.lane) {
        Some(known) if found.all => known.count = found.count,
        Some(known) => known.count += found.count,
        None => waiting.push(found),
    }
}

impl Actor for Shard {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let me = Mailbox::new(ctx.address(), self.ctx.waiting[0].clone());
        self.ctx.me.set(me).expect("a shard starts once");
        telemetry::shard_started(self.ctx.shard);
        let shard = Rc::clone(&self.ctx);
        ctx.spawn(
            async move {
                let name = |ix| shard.accounts.borrow().get(ix).map(|entry| entry.key.clone());
                shard.pulse.answer(&shard.clock, name).await;
            }
            .into_actor(self),
        );
        if self.ctx.owned.is_shared() {
            ctx.run_interval(CUT_LOOK, |shard, _| shard.ctx.break_off());
        }
    }
}

impl<M> Handler<Counted<M>> for Shard
where
    Self: Handler<M>,
    M: Message,
{
    type Result = Passed<<Self as Handler<M>>::Result>;

    fn handle(&mut self, message: Counted<M>, ctx: &mut Self::Context) -> Self::Result {
        Passed(<Self as Handler<M>>::handle(self, message.open(), ctx))
    }
}

impl Handler<Work> for Shard {
    type Result = ();

    fn handle(&mut self, Work(found): Work, ctx: &mut Self::Context) {
        let pulse = Arc::clone(&self.ctx.pulse);
        let _turn = pulse.on(Doing::Noting, None);
        for found in found {
            self.note(found);
        }
        self.fill();
        self.wake_due(ctx);
    }
}

impl Handler<Room> for Shard {
    type Result = ();

    fn handle(&mut self, _: Room, ctx: &mut Self::Context) {
        self.fill();
        self.wake_due(ctx);
    }
}

impl Handler<LookAgain> for Shard {
    type Result = ();

    fn handle(&mut self, _: LookAgain, _: &mut Self::Context) {
        self.tell_live();
    }
}

impl Handler<Wake> for Shard {
    type Result = ();

    fn handle(&mut self, Wake { ix, key }: Wake, ctx: &mut Self::Context) {
        let rests = {
            let accounts = self.ctx.accounts.borrow();
            // The place may be another account's by now.
            let entry = accounts.get(ix).filter(|entry| entry.key == key);
            match entry.map(|entry| &entry.state) {
                Some(State::Resting(rest)) if !rest.lanes.is_empty() => true,
                Some(State::Live { .. }) => false,
                _ => return,
            }
        };
        if rests {
            let now = self.ctx.clock.now();
            self.ctx.accounts.borrow_mut().due_by(ix, now);
            self.wake_due(ctx);
        } else {
            self.ctx.tell(ix, ThrottleLookAgain);
        }
    }
}

impl Handler<HoldsChanged> for Shard {
    type Result = ();

    fn handle(&mut self, HoldsChanged(scopes): HoldsChanged, ctx: &mut Self::Context) {
        let pulse = Arc::clone(&self.ctx.pulse);
        let _turn = pulse.on(Doing::Telling, None);
        let now = self.ctx.clock.now();
        let mut live = Vec::new();
        {
            let mut accounts = self.ctx.accounts.borrow_mut();
            let mut resting = Vec::new();
            for (ix, entry) in accounts.iter() {
                if !scopes.iter().any(|scope| scope.concerns(&entry.key)) {
                    continue;
                }
                match &entry.state {
                    State::Live { .. } => live.push(ix),
                    State::Resting(rest) if !rest.lanes.is_empty() => resting.push(ix),
                    State::Resting(_) | State::Ready(_) | State::Restarting(_) => {}
                }
            }
            for ix in resting {
                accounts.due_by(ix, now);
            }
        }
        for ix in live {
            self.ctx.tell(ix, ThrottleLookAgain);
        }
        self.wake_due(ctx);
    }
}

impl Shard {
    /// Counts the stretches of calls of accounts that rest: they are not woken any more.
    fn tell_usage(&self) {
        let mut accounts = self.ctx.accounts.borrow_mut();
        for (_, entry) in accounts.iter_mut() {
            let State::Resting(rest) = &mut entry.state else { continue };
            let Some(mut usage) = rest.usage.take() else { continue };
            usage.tell(&rest.platform.name, &rest.platform.limits, &self.ctx.totals);
        }
    }

    /// Makes every live throttle actor look again.
    fn tell_live(&self) {
        let _turn = self.ctx.pulse.on(Doing::Telling, None);
        let live: Vec<Ix> = {
            let accounts = self.ctx.accounts.borrow();
            accounts
                .iter()
                .filter(|(_, entry)| matches!(entry.state, State::Live { .. }))
                .map(|(ix, _)| ix)
                .collect()
        };
        for ix in live {
            self.ctx.tell(ix, ThrottleLookAgain);
        }
    }
}

impl Handler<Look> for Shard {
    type Result = MessageResult<Look>;

    fn handle(&mut self, look: Look, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.look(&look))
    }
}

impl Handler<Beat> for Shard {
    type Result = ();

    fn handle(&mut self, _: Beat, _: &mut Self::Context) {}
}

impl Handler<Tally> for Shard {
    type Result = MessageResult<Tally>;

    fn handle(&mut self, tally: Tally, _: &mut Self::Context) -> Self::Result {
        let _turn = self.ctx.pulse.on(Doing::Counting, None);
        let accounts = self.ctx.accounts.borrow();
        let end = tally.from.saturating_add(TALLY_MAX);
        let mut tallied = Tallied {
            next: (end < accounts.end()).then_some(end),
            known: accounts.len() as u64,
            live: accounts.live as u64,
            ..Tallied::default()
        };
        for ix in tally.from..end.min(accounts.end()) {
            let Some(entry) = accounts.get(ix) else { continue };
            tallied.resting += u64::from(matches!(entry.state, State::Resting(_)));
            let (waiting, _) = entry.counts();
            if waiting > 0 {
                let cause = entry.spent().0.map(|(_, cause)| cause);
                if let Some(place) = cause.and_then(Cause::place) {
                    let key = (entry.key.platform.clone(), place);
                    *tallied.limits.entry(key).or_default() += 1;
                }
                let key = (entry.key.platform.clone(), cause.map_or(Waits::Turn, Cause::kind));
                *tallied.causes.entry(key).or_default() += 1;
                match tallied.waiting.get_mut(&entry.key.platform) {
                    Some(sum) => *sum += waiting,
                    None => drop(tallied.waiting.insert(entry.key.platform.clone(), waiting)),
                }
            }
        }
        MessageResult(tallied)
    }
}

impl Handler<AccountDied> for Shard {
    type Result = ();

    fn handle(&mut self, died: AccountDied, ctx: &mut Self::Context) {
        let now = self.ctx.clock.now();
        let mut accounts = self.ctx.accounts.borrow_mut();
        let Some(entry) = accounts.get_mut(died.ix) else { return };
        let State::Live { incarnation, glance, .. } = &mut entry.state else { return };
        if *incarnation != died.incarnation {
            return;
        }
        let glance = std::mem::take(glance);
        entry.state = State::Restarting(glance);
        let restart = entry.restarts.get_or_insert_default().died(now);
        telemetry::throttle_died(self.ctx.shard, &entry.key, &died.reason, restart);
        accounts.live -= 1;
        drop(accounts);
        let ix = died.ix;
        ctx.run_later(restart.after, move |shard, ctx| {
            let restarting = {
                let accounts = shard.ctx.accounts.borrow();
                let state = accounts.get(ix).map(|entry| &entry.state);
                matches!(state, Some(State::Restarting(_)))
            };
            if restarting && !shard.ctx.draining.get() {
                shard.restart(ix, ctx);
            }
        });
    }
}

impl Handler<CollectorDied> for Shard {
    type Result = ();

    fn handle(&mut self, died: CollectorDied, _: &mut Self::Context) {
        // Nothing to start: the next order makes a new one. Its fetch waits out a backoff of its own.
        let restart = self.collector_deaths.died(self.ctx.clock.now());
        telemetry::collector_died(self.ctx.shard, &died.reason, restart);
    }
}

impl Handler<Drain> for Shard {
    type Result = ResponseActFuture<Self, Drained>;

    fn handle(&mut self, drain: Drain, _: &mut Self::Context) -> Self::Result {
        self.ctx.draining.set(true);
        self.tell_usage();
        self.tell_live();
        let shard = Rc::clone(&self.ctx);
        let wait = async move {
            let deadline = Instant::now() + drain.within;
            loop {
                let live = shard.accounts.borrow().live;
                // Also those of an account whose actor has died; it is not started again now.
                let in_flight = shard.in_flight();
                if live == 0 && in_flight == 0 {
                    return Drained::default();
                }
                if Instant::now() >= deadline {
                    shard.end_visits();
                    return Drained { broken_off: in_flight };
                }
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        Box::pin(wait.into_actor(self))
    }
}
