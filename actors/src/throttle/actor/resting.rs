//! Resting: the account as a record, and what it looks like from outside.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorContext, Context};
use tollgate_gate::{At, Span};

use super::Throttle;
use crate::shard::Room;
use crate::shard::accounts::{Glance, Rest, RestLane, State};
use crate::telemetry;
use crate::throttle::fence::Fence;
use crate::throttle::lane::Lane;
use crate::times::{Cause, late_from};

use super::leaving::ELSEWHERE;

/// An account whose next call is further off than this rests, as a record.
const REST_FROM: Duration = Duration::from_secs(5);
/// The same while the shard has many live actors.
const REST_FROM_CROWDED: Duration = Duration::from_millis(100);

/// An account without work whose pace was learnt, or whose access was refused, is remembered for this long.
const PACE_KEPT: Span = Span::from_secs(3600);

/// Live actors from which a shard is crowded.
const CROWDED: usize = 4096;

impl Throttle {
    /// Hands the account to the shard as a record if nothing happens to it for a while.
    pub(super) fn try_rest(&mut self, now: At, ctx: &mut Context<Self>) -> bool {
        let leaving = self.is_leaving();
        let quiet = self.flights.is_empty()
            && self.decided.is_empty()
            && self.asking.is_empty()
            && self.writing.is_none()
            && self.busy == 0
            && (self.fence == Fence::Holds || self.is_lost())
            && self.slot.is_none()
            // Whoever does not wait for it any more is passed over.
            && (!self.slot_asked || leaving);
        if !quiet {
            return false;
        }
        let waiting = self.lanes.iter().any(|lane| !lane.is_empty());
        let draining = self.shard.draining.get();
        let rest_from =
            if self.shard.accounts.borrow().live > CROWDED { REST_FROM_CROWDED } else { REST_FROM };
        let due = match (waiting, self.until) {
            _ if draining || leaving => At::MAX,
            // However many are held, they leave the room to those who are not.
            (true, _) if self.held.is_some_and(|until| until > now.plus(Span::from(rest_from))) => {
                self.held.unwrap_or(At::MAX)
            }
            (false, _) => {
                let forgotten = self.gate.forgotten_at(&self.platform.limits, now);
                if self.has_pace() || self.has_denials() {
                    forgotten.max(now.plus(PACE_KEPT))
                } else {
                    forgotten
                }
            }
            (true, Some(until)) if until > now.plus(Span::from(rest_from)) => until,
            (true, _) => return false,
        };
        // Without limits only tries between two attempts are worth another record, and an open block whose
        // fetches wait: after a restart they would count as in flight at a crash.
        let worth = waiting || !self.platform.limits.limits().is_empty();
        let worth = (worth || leaving) && !self.is_lost();
        if self.stale && worth {
            if !self.may_write() {
                return false;
            }
            // The stored record speaks of calls in flight that are over: after a restart they would
            // count as lost. Written anew, then this is asked again.
            self.writing = Some(Vec::new());
            self.store_record(Vec::new(), ctx);
            return false;
        }
        if !self.all_handled() {
            return false;
        }
        self.rest(now, due, ctx);
        true
    }

    /// Whether everything that this actor was sent has been heard.
    pub(super) fn all_handled(&self) -> bool {
        let accounts = self.shard.accounts.borrow();
        let state = accounts.get(self.ix).map(|entry| &entry.state);
        matches!(state, Some(State::Live { sent, .. }) if *sent == self.handled)
    }

    pub(super) fn rest(&mut self, now: At, due: At, ctx: &mut Context<Self>) {
        let leaving = self.is_leaving();
        let goes_on = !leaving
            && !self.shard.draining.get()
            && self.lanes.iter().any(|lane| !lane.is_empty());
        if !goes_on {
            self.usage.tell(&self.key.platform, &self.platform.limits, &self.shard.totals);
        }
        let usage = goes_on.then(|| Box::new(std::mem::take(&mut self.usage)));
        let record = self.record(now);
        let empty = record.parked.is_empty()
            && record.suspected.is_empty()
            && record.paces.is_empty()
            && record.denials.is_empty()
            && self.gate.is_empty();
        let lanes: Box<[RestLane]> = self
            .lanes
            .iter()
            .filter(|lane| !lane.is_empty())
            .map(|lane| RestLane {
                api: lane.api,
                priority: lane.key.priority,
                unread: lane.all(),
                stands: lane.stands(),
                is_late: lane.is_late,
            })
            .collect();
        let mut accounts = self.shard.accounts.borrow_mut();
        if leaving || (empty && lanes.is_empty()) {
            accounts.forget(self.ix);
        } else {
            let record = if empty { Box::default() } else { record.encode().to_vec().into() };
            let because = self.because.take();
            let (version, platform) = (self.version, Arc::clone(&self.platform));
            let (cause, since) = self.spent;
            if let Some(cause) = cause {
                self.times.waited_until(cause, self.spent_due, since, now);
            }
            let rest =
                Rest { version, platform, record, since: now, lanes, due, because, cause, usage };
            accounts.rest(self.ix, rest);
        }
        drop(accounts);
        let waiting = self.lanes.iter().map(Lane::waiting).sum();
        telemetry::throttle_stopped(&self.key, waiting);
        self.notice.expected();
        self.shard.me().do_send(Room);
        ctx.stop();
    }

    /// From now on this is waited for, or nothing; what was until now is added up. `until`: until when, where that is
    /// known.
    pub(super) fn spends(&mut self, cause: Option<(u16, Cause)>, until: Option<At>, now: At) {
        let waits = self.lanes.iter().any(|lane| !lane.is_empty());
        let decided = self.writing.as_ref().filter(|batch| !batch.is_empty());
        let cause = match decided {
            // Whatever else keeps the next one, this comes before it.
            Some(batch) => Some((self.lanes[batch[0].lane].api, Cause::Ledger)),
            None if !self.asking.is_empty() => {
                Some((self.lanes[self.asking[0].decided.lane].api, Cause::Budget))
            }
            None if !waits => None,
            None => Some(cause.unwrap_or((0, Cause::Other))),
        };
        let (before, since) = self.spent;
        let due = std::mem::replace(&mut self.spent_due, until);
        let was_late = before.is_some_and(|(_, cause)| late_from(cause, due, now).is_some());
        if before == cause && !was_late {
            // Told as it goes on, or added up once it is over.
            return;
        }
        if let Some(before) = before {
            self.times.waited_until(before, due, since, now);
        }
        self.spent = (cause, now);
    }

    /// Why nobody may be given a permit, for sums.
    pub(super) fn why_halted(&self, reason: &str) -> Cause {
        if self.shard.draining.get() || reason == ELSEWHERE {
            Cause::Drain
        } else if self.shard.store_health.is_away() {
            Cause::Store
        } else if self.shard.back_health.is_away() {
            Cause::Back
        } else {
            Cause::Ledger
        }
    }

    /// Tells the shard what this account looks like while its record is read.
    pub(super) fn show_unopened(&mut self) {
        self.because = Some("its record, which is read".into());
        let waiting = self.lanes.iter().map(Lane::waiting).sum();
        let mut accounts = self.shard.accounts.borrow_mut();
        if let Some(entry) = accounts.get_mut(self.ix)
            && let State::Live { glance, .. } = &mut entry.state
        {
            // Of its lanes one that was restarted hears later.
            glance.waiting = if self.restarted { glance.waiting.max(waiting) } else { waiting };
            glance.because.clone_from(&self.because);
            (glance.until, glance.spent) = (None, self.spent);
        }
    }

    /// Tells the shard what this account looks like.
    pub(super) fn show(&mut self) {
        if self.because != self.told {
            telemetry::waiting(&self.key, self.because.as_deref(), self.until, &self.shard.clock);
            self.told.clone_from(&self.because);
        }
        let decided = self.decided_or_asking().count();
        let waiting = self.lanes.iter().map(Lane::waiting).sum::<u64>() + decided as u64;
        let shown = Glance {
            waiting,
            in_flight: u32::try_from(self.flights.len()).unwrap_or(u32::MAX),
            until: self.until,
            because: self.because.clone(),
            spent: self.spent,
        };
        let mut accounts = self.shard.accounts.borrow_mut();
        if let Some(entry) = accounts.get_mut(self.ix)
            && let State::Live { glance, .. } = &mut entry.state
        {
            *glance = shown;
        }
    }
}
