//! The dated record of an account's permits.
//!
//! A call that was let go passes through here: [`take`](Ledger::take) (from now on it is in flight and
//! counts as now), [`written`](Ledger::written) (its charge is known but may still become earlier),
//! [`answered`](Ledger::answered) (its charge is final), [`ended`](Ledger::ended). Reports may be missing;
//! then the call counts for longer, never for less. A call for which none of them is missing is charged at
//! `min(answer begins, written + guard)`.
//!
//! What a call costs may be known only afterwards. Then a guess is charged until
//! [`settle`](Ledger::settle) says what it was; it may be more than the limit allows, which then counts until
//! it has left. A job that goes on after its call keeps its place until [`release`](Ledger::release).
//!
//! A ledger belongs to one [`LimitSet`]: all calls must be given the same one. For another one (the
//! configuration was changed) see [`Ledger::under`].

use crate::charges::{Charges, Entry, Opened, stricter};
use crate::decide::{Ask, Cost, Decision, decide};
use crate::hold::{Hold, HoldScope, Holds};
use crate::limit::{ApiIx, Limit, LimitSet, NO_ANSWER_BOUND, Rule};
use crate::observe::Observed;
use crate::time::{At, Span};

/// Name of a permit within its ledger; never used for a second one while the first is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermitId(pub u64);

/// Whether the request of a call that has ended may have reached the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Not a byte of it left: charged when it ended, because quota is never given back.
    Never,
    /// It may have: charged a guard after it ended.
    Maybe,
}

/// A permit in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permit {
    pub(crate) id: PermitId,
    pub(crate) api: ApiIx,
    /// When it was let go; [`At::MIN`] for one that was read from a record.
    pub(crate) taken: At,
    pub(crate) state: State,
    /// By the places of the limits; `None`: one everywhere.
    pub(crate) costs: Option<Box<[Cost]>>,
    /// The job that it may order; 0 for none that is known by a number.
    pub(crate) job: u64,
}

/// How much is known of a call in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing: it counts as now.
    Uncharged,
    /// Its request had left by then; no answer yet.
    Written(At),
    /// Its charges are final and among the others; it only takes a slot.
    Charged,
    /// The same, but where its cost is not known yet: these charges are to come, at the time that follows
    /// from these.
    Answered { at: At, written: Option<At> },
}

/// Slots that calls of a dead writer may still take, and jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) api: ApiIx,
    pub(crate) until: At,
    pub(crate) calls: u32,
    /// Taken under this limit only, for the job of that number; `None`: under every limit of calls in
    /// flight.
    pub(crate) limit: Option<(usize, u64)>,
}

/// The permits of an account: charges, calls in flight, holds.
///
/// ```
/// use tollgate_gate::*;
/// // At least 5 s between two calls, and a request takes at most 100 ms to arrive.
/// let gap = Limit {
///     name: "gap".into(),
///     per_api: false,
///     api: None,
///     rule: Rule::Every { gap: Span::from_secs(5) },
///     guard: Guard::After(Span::from_millis(100)),
/// };
/// let limits = LimitSet::new(vec![gap]).unwrap();
/// let (holds, ask, s) = (Holds::new(), Ask::new(0), 1_000_000);
/// let mut ledger = Ledger::new();
/// let next = |ledger: &Ledger, now| match decide(&limits, ledger, &holds, ask, now) {
///     Decision::WaitUntil { at, .. } => at,
///     _ => Some(now),
/// };
///
/// ledger.take(&limits, PermitId(1), ask, At(0));
/// assert_eq!(next(&ledger, At(s)), None); // in flight: nobody knows yet
/// ledger.written(&limits, PermitId(1), At(2 * s));
/// assert_eq!(next(&ledger, At(2 * s)), Some(At(7 * s + s / 10))); // 2 s + 100 ms + 5 s
/// ledger.answered(&limits, PermitId(1), At(2 * s + s / 20));
/// assert_eq!(next(&ledger, At(3 * s)), Some(At(7 * s + s / 20))); // answered after 50 ms
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    pub(crate) permits: Vec<Permit>,
    pub(crate) charges: Vec<Charges>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) observed: Vec<Observed>,
    holds: Holds,
}

impl Ledger {
    /// A ledger of an account that has never made a call.
    pub const fn new() -> Self {
        Self {
            permits: Vec::new(),
            charges: Vec::new(),
            slots: Vec::new(),
            observed: Vec::new(),
            holds: Holds::new(),
        }
    }

    /// The holds that are kept with the permits; what [`decide`] is mostly given.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// The same, to set and clear them.
    pub fn holds_mut(&mut self) -> &mut Holds {
        &mut self.holds
    }

    /// Records a permit: from now on the call is in flight. Also prunes.
    ///
    /// # Panics
    /// If [`decide`] does not say Go under the ledger's own holds, if a permit of that id is in flight, or if
    /// the set has no api of that number. These are bugs of the caller, and a call that must not be made is
    /// worse than a panic.
    pub fn take(&mut self, limits: &LimitSet, id: PermitId, ask: Ask<'_>, now: At) {
        let decision = decide(limits, self, &self.holds, ask, now);
        assert!(decision == Decision::Go, "permit {} taken against {decision:?}", id.0);
        assert!(self.find(id).is_none(), "permit {} is in flight already", id.0);
        assert!(limits.has_api(ask.api), "permit {} is of no api of the set", id.0);
        self.prune(limits, now);
        self.permits.push(Permit::new(id, ask, now, State::Uncharged));
        self.count_down(limits, ask.api, |place| i64::from(ask.cost(place).units));
    }

    /// The last byte of the call's request had left at `at`: each limit with a guard will have counted it
    /// by `at` + guard. Of several stamps the latest counts. After an answer a stamp changes nothing.
    ///
    /// Returns whether the permit is in flight; nothing happens otherwise.
    pub fn written(&mut self, _limits: &LimitSet, id: PermitId, at: At) -> bool {
        let Some(permit) = self.find_mut(id) else { return false };
        permit.state = match permit.state {
            State::Uncharged => State::Written(at),
            State::Written(before) => State::Written(before.max(at)),
            answered => answered,
        };
        true
    }

    /// The stamp was wrong: the connection it was about has been replaced, and the request will be written
    /// again. The call counts as now again. Must be told before the stamp + guard has left a window, or another
    /// call has gone in its place.
    ///
    /// Returns whether the permit is in flight; nothing happens otherwise, nor after an answer.
    pub fn unwritten(&mut self, id: PermitId) -> bool {
        let Some(permit) = self.find_mut(id) else { return false };
        if matches!(permit.state, State::Written(_)) {
            permit.state = State::Uncharged;
        }
        true
    }

    /// The first byte of the call's answer came at `at`: it has been counted by then, or by its guard if
    /// that ended earlier. Only the first answer counts.
    ///
    /// Returns whether the permit is in flight; nothing happens otherwise.
    pub fn answered(&mut self, limits: &LimitSet, id: PermitId, at: At) -> bool {
        let Some(place) = self.find(id) else { return false };
        let permit = self.permits.swap_remove(place);
        let written = match permit.state {
            State::Uncharged => None,
            State::Written(at) => Some(at),
            State::Charged | State::Answered { .. } => {
                self.permits.push(permit);
                return true;
            }
        };
        let state = State::Answered { at, written };
        let permit = Permit { state, ..permit };
        self.charge(limits, &permit, |limit, cost| {
            (!cost.is_estimate).then(|| state.charge(limit).unwrap_or(at))
        });
        let estimated = permit.costs.as_deref().unwrap_or(&[]).iter().any(|cost| cost.is_estimate);
        let state = if estimated { state } else { State::Charged };
        self.permits.push(Permit { state, ..permit });
        true
    }

    /// What the call costs under the limit at that place is known: so many units, in place of the guess it
    /// was let go with ([`Cost::about`]). Less makes room at once; more counts until it has left, even if it
    /// is above what the limit allows. To be told before [`Ledger::ended`]; else the guess stays.
    ///
    /// `now` is when it is told: units of a call that another writer has charged already, beyond the guess,
    /// count from then.
    ///
    /// Returns whether the permit is in flight and its cost was a guess; nothing happens otherwise.
    pub fn settle(
        &mut self,
        limits: &LimitSet,
        id: PermitId,
        place: usize,
        units: u32,
        now: At,
    ) -> bool {
        let Some(index) = self.find(id) else { return false };
        let permit = &mut self.permits[index];
        let (api, state) = (permit.api, permit.state);
        let cost = permit.costs.as_deref_mut().and_then(|costs| costs.get_mut(place));
        let (Some(cost), Some(limit)) = (cost, limits.limits().get(place)) else { return false };
        if !cost.is_estimate {
            return false;
        }
        let guess = core::mem::replace(cost, Cost::of(units)).units;
        let more = i64::from(units) - i64::from(guess);
        let late = match state {
            State::Uncharged | State::Written(_) => None,
            State::Answered { at, .. } => Some((state.charge(limit).unwrap_or(at), units)),
            State::Charged => Some((now, units.saturating_sub(guess))),
        };
        if let Some((at, units)) = late
            && limit.matches(api)
            && limit.rule.window().is_some()
        {
            let permit = self.permits.swap_remove(index);
            self.charge_at(limits, place, &permit, at, units);
            self.permits.push(permit);
        }
        self.count_down(limits, api, |other| if other == place { more } else { 0 });
        true
    }

    /// What the call in flight of that id costs under the limit at that place, as far as it is known: a guess until it
    /// was settled.
    pub fn cost_of(&self, id: PermitId, place: usize) -> Option<Cost> {
        self.permits.iter().find(|permit| permit.id == id).map(|permit| permit.cost(place))
    }

    /// The job of that number ([`Ask::for_job`]) is over, or was never begun: its places under
    /// [`Rule::Jobs`] are free. Of several calls for one job this frees what one of them took. Told after
    /// [`Ledger::ended`]: a call in flight keeps its place.
    ///
    /// Returns whether there was one; never for number 0, which is no job's.
    pub fn release(&mut self, limits: &LimitSet, job: u64) -> bool {
        let mut found = false;
        for (place, limit) in limits.limits().iter().enumerate() {
            let mine = |slot: &Slot| slot.limit == Some((place, job)) && job > 0;
            let places = (0..self.slots.len()).filter(|i| mine(&self.slots[*i]));
            // That one stays which is over later.
            if let Some(first) = places.min_by_key(|i| self.slots[*i].until)
                && matches!(limit.rule, Rule::Jobs { .. })
            {
                self.slots.swap_remove(first);
                found = true;
            }
        }
        found
    }

    /// The provider refused a call of `api` at `at` because of the limit at that place. Under
    /// [`Rule::Score`] nothing that it counts goes until the block is over.
    ///
    /// Returns until when; `None` if the limit has no block, or does not count such a call.
    pub fn over(&mut self, limits: &LimitSet, place: usize, api: ApiIx, at: At) -> Option<At> {
        let limit = limits.limits().get(place).filter(|limit| limit.matches(api))?;
        let Rule::Score { block, .. } = limit.rule else { return None };
        let scope = match limit.api.or_else(|| limit.bucket(api)) {
            Some(api) => HoldScope::Api(api),
            None => HoldScope::Account,
        };
        let until = at.plus(block);
        let reason = format!("the provider says that {} is exceeded", limit.name);
        self.holds.set(Hold { scope, until, reason });
        Some(until)
    }

    /// The provider said that the window of the limit at that place, as it counts calls of `api`, ends at
    /// `end`, give or take `slack`. Under [`Rule::FirstUse`] it is known from then on when the window
    /// ends. One that is over at `now`, or lies more than a window ahead, is of another window and changes
    /// nothing. Forgotten at a restart.
    ///
    /// Returns whether it is of use.
    pub fn window_ends(
        &mut self,
        limits: &LimitSet,
        place: usize,
        api: ApiIx,
        (end, slack): (At, Span),
        now: At,
    ) -> bool {
        let Some(limit) = limits.limits().get(place).filter(|limit| limit.matches(api)) else {
            return false;
        };
        let Rule::FirstUse { window, .. } = limit.rule else { return false };
        if end.plus(slack) <= now || end.minus(slack) > now.plus(window) {
            return false;
        }
        self.prune(limits, now);
        let charges = self.counter(place, limit.bucket(api));
        let sure_from = charges.opened().map_or(now, |opened| opened.sure_from);
        let (ends_from, ends_by) = (Some(end.minus(slack)), Some(end.plus(slack)));
        charges.set_opened(Opened { ends_from, ends_by, sure_from });
        true
    }

    /// The call is over at `at`: its slot is free. Where a limit knows no charge yet, it is charged now:
    /// at `at` if nothing was sent, else at `at` + guard (+ [`NO_ANSWER_BOUND`] for
    /// [`Guard::Never`](crate::Guard::Never)). Jobs that it may have ordered begin.
    ///
    /// Returns whether the permit was in flight; nothing happens otherwise.
    pub fn ended(&mut self, limits: &LimitSet, id: PermitId, at: At, sent: Sent) -> bool {
        let Some(place) = self.find(id) else { return false };
        let permit = self.permits.swap_remove(place);
        let may_have_jobs = sent == Sent::Maybe || permit.state != State::Uncharged;
        if may_have_jobs {
            for (place, limit) in limits.of(permit.api) {
                if let Rule::Jobs { ttl, .. } = limit.rule {
                    self.job(place, &permit, at.plus(ttl));
                }
            }
        }
        self.charge(limits, &permit, |limit, cost| {
            let known = permit.state.charge(limit);
            Some(match (known, sent) {
                (Some(_), _) if !permit.owes(cost) => return None,
                (Some(known), _) => known,
                (None, Sent::Never) => at,
                (None, Sent::Maybe) => at.plus(limit.guard_span().unwrap_or(NO_ANSWER_BOUND)),
            })
        });
        true
    }

    /// All calls in flight are those of a dead writer, of whom nothing will be heard. Called once after
    /// loading its record.
    ///
    /// Each without an answer is charged at `charge_at`. A stamp in the record does not make that earlier:
    /// the writer may have taken it back after it stored the record ([`Ledger::unwritten`]). Their slots
    /// of concurrent limits stay taken until `slots_until`, those of jobs for the life of a job after it. A cost
    /// that was only guessed stays as it was guessed.
    ///
    /// `charge_at` must not be before the last moment at which one of the calls can have arrived: the
    /// last at which the dead writer can have written a request, + [`LimitSet::guard_max`].
    pub fn lost(&mut self, limits: &LimitSet, charge_at: At, slots_until: At) {
        // One after the other, as each may be the first in its window of those that are left.
        while let Some(permit) = self.permits.pop() {
            self.lose_permit(limits, &permit, charge_at, slots_until);
        }
    }

    /// The same of one call in flight: whoever made it is not heard of any more.
    ///
    /// Returns whether it was in flight; nothing happens otherwise.
    pub fn lose(
        &mut self,
        limits: &LimitSet,
        id: PermitId,
        charge_at: At,
        slots_until: At,
    ) -> bool {
        let Some(place) = self.find(id) else { return false };
        let permit = self.permits.swap_remove(place);
        self.lose_permit(limits, &permit, charge_at, slots_until);
        true
    }

    fn lose_permit(&mut self, limits: &LimitSet, permit: &Permit, charge_at: At, slots_until: At) {
        self.charge_lost(limits, permit, charge_at);
        let mut apart = false;
        for (place, limit) in limits.of(permit.api) {
            match limit.rule {
                Rule::Jobs { ttl, .. } => {
                    self.job(place, permit, slots_until.max(charge_at).plus(ttl));
                }
                Rule::Concurrent { .. } => apart |= permit.cost(place) != Cost::ONE,
                _ => {}
            }
        }
        if apart {
            for (place, limit) in limits.of(permit.api) {
                if matches!(limit.rule, Rule::Concurrent { .. }) {
                    self.job(place, permit, slots_until);
                }
            }
            return;
        }
        let same = |slot: &&mut Slot| {
            slot.api == permit.api && slot.until == slots_until && slot.limit.is_none()
        };
        if let Some(slot) = self.slots.iter_mut().find(same) {
            slot.calls = slot.calls.saturating_add(1);
        } else {
            let (api, limit) = (permit.api, None);
            self.slots.push(Slot { api, until: slots_until, calls: 1, limit });
        }
    }

    /// The call of that permit is one of whom nothing may be heard any more: its writer died, or whoever was lent the
    /// permit. It is charged as by [`Ledger::lost`], where it was not yet, and stays in flight: it keeps its slots, and may
    /// still be told of ([`Ledger::settle`], [`Ledger::ended`]).
    ///
    /// `charge_at` is as for [`Ledger::lost`]. Returns whether the permit is in flight; nothing happens otherwise.
    pub fn give_up(&mut self, limits: &LimitSet, id: PermitId, charge_at: At) -> bool {
        let Some(place) = self.find(id) else { return false };
        let permit = self.permits.swap_remove(place);
        self.charge_lost(limits, &permit, charge_at);
        self.permits.push(Permit { state: State::Charged, ..permit });
        true
    }

    fn charge_lost(&mut self, limits: &LimitSet, permit: &Permit, charge_at: At) {
        self.charge(limits, permit, |limit, cost| match permit.state {
            State::Answered { at, .. } => {
                permit.owes(cost).then(|| permit.state.charge(limit).unwrap_or(at))
            }
            state => Some(state.charge(limit).map_or(charge_at, |known| known.max(charge_at))),
        });
    }

    /// The permit was not used and never will be: no byte of its call was written, and nobody holds it. As if
    /// it had not been taken. What a stored record says of it errs to the safe side.
    ///
    /// Returns whether it was in flight without any report; nothing happens otherwise.
    pub fn give_back(&mut self, limits: &LimitSet, id: PermitId) -> bool {
        let unused = |permit: &Permit| permit.id == id && permit.state == State::Uncharged;
        let Some(place) = self.permits.iter().position(unused) else { return false };
        let permit = self.permits.swap_remove(place);
        // Whatever was observed since then counted it among the unknown.
        let cost = |place| -i64::from(permit.cost(place).units);
        self.count_down(limits, permit.api, cost);
        true
    }

    /// A call of this process that is in flight and that this ledger, read from a record, does not name.
    /// `charged`: its charge is among the others; else it counts as now until it reports. Nothing happens if
    /// a permit of that id is in flight.
    pub fn adopt(&mut self, id: PermitId, ask: Ask<'_>, charged: bool) {
        if self.find(id).is_none() {
            let state = if charged { State::Charged } else { State::Uncharged };
            self.permits.push(Permit::new(id, ask, At::MIN, state));
        }
    }

    /// Adds what this process knows of the account to the record of another writer: the stricter counts.
    /// The other writer's calls in flight must have been given up before ([`Ledger::lost`]).
    ///
    /// `known`: that record was made from one that names every permit of `own` that was used. Then each call
    /// is in both, and after any moment as many calls count as in the one or the other, whichever is more;
    /// those of `own` in flight are charged in the record already, as those of a lost writer, and only keep
    /// their slots. Not `known`: the two may have nothing in common, and all calls of both count.
    pub fn join(&mut self, own: &Self, known: bool) {
        self.join_observed(own, known);
        for permit in &own.permits {
            let state = if known { State::Charged } else { permit.state };
            if self.find(permit.id).is_none() {
                self.permits.push(Permit { state, ..permit.clone() });
            }
        }
        // When a window was opened is known of one writer's calls, not of both.
        let unsure = |charges: &mut Charges| {
            if charges.opened().is_some() {
                charges.set_opened(Opened::unknown(At::MAX));
            }
        };
        self.charges.iter_mut().for_each(unsure);
        for charges in &own.charges {
            let same = |other: &&mut Charges| {
                (other.limit, other.bucket) == (charges.limit, charges.bucket)
            };
            let Some(theirs) = self.charges.iter_mut().find(same) else {
                let mut charges = charges.clone();
                unsure(&mut charges);
                self.charges.push(charges);
                continue;
            };
            if known {
                theirs.stricter(charges.entries());
            } else {
                charges.entries().iter().for_each(|entry| theirs.add(*entry));
            }
            if let Some(more) = charges.drained() {
                match theirs.drained() {
                    Some(own) if known && own.full_at() >= more.full_at() => {}
                    Some(_) if known => theirs.kept.clone_from(&charges.kept),
                    _ => theirs.drain(more),
                }
            }
        }
        self.slots = if known {
            let mut slots = self.stricter_slots(own);
            slots.extend(self.stricter_jobs(own));
            slots
        } else {
            self.slots.iter().chain(&own.slots).cloned().collect()
        };
        for hold in own.holds.as_slice() {
            self.holds.set(hold.clone());
        }
    }

    /// A job that both know, by its number, is one, until the later time.
    fn stricter_jobs(&self, own: &Self) -> Vec<Slot> {
        let jobs_of = |ledger: &Self| -> Vec<Slot> {
            let mut jobs: Vec<Slot> =
                ledger.slots.iter().filter(|slot| slot.limit.is_some()).cloned().collect();
            jobs.sort_unstable_by_key(|slot| (slot.until, slot.calls));
            jobs
        };
        let mut theirs = jobs_of(self);
        let mut jobs = Vec::with_capacity(theirs.len());
        // The latest of a number in the one is the latest of it in the other.
        for job in jobs_of(own).into_iter().rev() {
            let has_number = job.limit.is_some_and(|(_, number)| number > 0);
            let same = theirs.iter().rposition(|slot| {
                *slot == job || has_number && (slot.limit, slot.api) == (job.limit, job.api)
            });
            let known = same.map(|place| theirs.remove(place));
            let later = known.map_or((At::MIN, 0), |slot| (slot.until, slot.calls));
            let (until, calls) = (job.until.max(later.0), job.calls.max(later.1));
            jobs.push(Slot { until, calls, ..job });
        }
        jobs.extend(theirs);
        jobs.sort_unstable_by_key(|slot| (slot.limit, slot.api, slot.until, slot.calls));
        jobs
    }

    fn stricter_slots(&self, own: &Self) -> Vec<Slot> {
        let of = |slots: &[Slot], api: ApiIx| -> Vec<Entry> {
            let same = slots.iter().filter(|slot| slot.api == api && slot.limit.is_none());
            same.map(|slot| Entry { at: slot.until, calls: slot.calls }).collect()
        };
        let mut apis: Vec<ApiIx> =
            self.slots.iter().chain(&own.slots).map(|slot| slot.api).collect();
        apis.sort_unstable();
        apis.dedup();
        let slots = apis.into_iter().flat_map(|api| {
            let joined = stricter(&of(&self.slots, api), &of(&own.slots, api));
            let slot = |entry: Entry| (entry.at, entry.calls);
            joined.into_iter().map(slot).map(move |(until, calls)| Slot {
                api,
                until,
                calls,
                limit: None,
            })
        });
        slots.collect()
    }

    /// Forgets what no longer counts at `now` nor ever after. Decisions do not change.
    pub fn prune(&mut self, limits: &LimitSet, now: At) {
        let Self { permits, charges, .. } = self;
        charges.retain_mut(|charges| {
            let Some(limit) = limits.limits().get(charges.limit) else { return true };
            let Some(window) = limit.rule.window() else { return true };
            match limit.rule {
                Rule::Bucket { .. } => {
                    // What is still in flight may be charged before what is charged already.
                    let taken = permits.iter().map(|permit| permit.taken).min();
                    let unit = limit.rule.unit_ticks().unwrap_or(0);
                    charges.fold(taken.map_or(now, |taken| taken.min(now)), unit);
                    !charges.entries().is_empty() || charges.drained().is_some()
                }
                Rule::FirstUse { .. } => {
                    let mut opened = charges.opened().copied().unwrap_or(Opened::unknown(At::MAX));
                    let left = opened.left_by(now).unwrap_or(At::MIN).max(now.minus(window));
                    let last = charges.entries().iter().rev().find(|entry| entry.at <= left);
                    if let Some(last) = last
                        && opened.sure_from < At::MAX
                    {
                        opened.sure_from = opened.sure_from.max(last.at.plus(window).min(now));
                    }
                    charges.prune(left);
                    opened.roll(now, window);
                    // Calls in flight may still be of a window before.
                    let is_quiet = charges.entries().is_empty() && permits.is_empty();
                    if is_quiet && opened.ends_by.is_none() {
                        return false;
                    }
                    if charges.entries().is_empty() && opened.sure_from == At::MAX {
                        opened.sure_from = now;
                    }
                    if charges.opened().is_some() || opened != Opened::unknown(At::MAX) {
                        charges.set_opened(opened);
                    }
                    true
                }
                _ => {
                    charges.prune(limits.left_by(limit, now));
                    !charges.entries().is_empty()
                }
            }
        });
        self.slots.retain(|slot| slot.until > now);
        self.observed.retain(|observed| observed.until > now);
        self.holds.prune(now);
    }

    /// Whether there is nothing to remember: no charge, no call in flight, no slot, no hold. After
    /// [`Ledger::prune`] such a ledger is as good as a new one.
    pub fn is_empty(&self) -> bool {
        self.permits.is_empty()
            && self.charges.is_empty()
            && self.slots.is_empty()
            && self.observed.is_empty()
            && self.holds.is_empty()
    }

    /// The permits in flight, in no order; `len()` is their count.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = PermitId> {
        self.permits.iter().map(|permit| permit.id)
    }

    /// The charges that still count, for whoever checks them: the place of the limit, the api whose counter it
    /// is (`None`: the one that all share), when, and how many calls. Those of a counter come in order of time;
    /// charges that were rounded up are told as they are kept. Calls in flight are not among them.
    pub fn charged(&self) -> impl Iterator<Item = (usize, Option<ApiIx>, At, u32)> {
        self.charges.iter().flat_map(|charges| {
            let entries = charges.entries().iter();
            entries.map(|entry| (charges.limit, charges.bucket, entry.at, entry.calls))
        })
    }

    /// Adds entries to the counter of a limit.
    pub(crate) fn add(&mut self, limit: usize, bucket: Option<ApiIx>, entry: Entry) {
        self.counter(limit, bucket).add(entry);
    }

    /// The counter of a limit.
    pub(crate) fn counter(&mut self, limit: usize, bucket: Option<ApiIx>) -> &mut Charges {
        let same = |charges: &Charges| charges.limit == limit && charges.bucket == bucket;
        let place = self.charges.iter().position(same).unwrap_or_else(|| {
            self.charges.push(Charges::new(limit, bucket));
            self.charges.len() - 1
        });
        &mut self.charges[place]
    }

    /// Charges a call to every limit that counts it by time, unless all that is done. `when` says at
    /// what time, given the limit and what it costs there, if it is to be charged. The time is final: only
    /// here, where nothing can make it earlier any more, may it be rounded up. The permit is not among
    /// those in flight.
    fn charge(
        &mut self,
        limits: &LimitSet,
        permit: &Permit,
        when: impl Fn(&Limit, Cost) -> Option<At>,
    ) {
        if permit.state == State::Charged {
            return;
        }
        for (place, limit) in limits.of(permit.api) {
            let cost = permit.cost(place);
            if limit.rule.window().is_some()
                && cost.units > 0
                && let Some(at) = when(limit, cost)
            {
                self.charge_at(limits, place, permit, at, cost.units);
            }
        }
    }

    fn charge_at(&mut self, limits: &LimitSet, place: usize, permit: &Permit, at: At, units: u32) {
        let Some(limit) = limits.limits().get(place).filter(|_| units > 0) else { return };
        let bucket = limit.bucket(permit.api);
        let mut rounded = limits.rounded(limit, at);
        if let Rule::FirstUse { window, .. } = limit.rule {
            let first = self.permits.iter().map(|other| other.taken).min();
            let first = first.map_or(permit.taken, |taken| taken.min(permit.taken));
            let is_new = !self.charges_of(place, limit, permit.api).any(|_| true);
            let charges = self.counter(place, bucket);
            let mut opened = *charges.opened().unwrap_or(&if is_new {
                Opened::unknown(At::MIN)
            } else {
                // There were charges whose windows nobody followed.
                Opened::unknown(At::MAX)
            });
            let is_sure = permit.taken >= opened.sure_from;
            if is_sure && first >= opened.sure_from && charges.entries().is_empty() {
                // Nothing was open when the first of those in flight was let go.
                opened.ends_from = opened.ends_from.or(Some(first.plus(window)));
            }
            // One without an answer may never have arrived, and one whose cost is not known may have cost
            // nothing: then it opened nothing.
            let has_arrived =
                matches!(permit.state, State::Answered { .. }) && !permit.cost(place).is_estimate;
            if is_sure && has_arrived && opened.ends_from.is_some() {
                let by = at.plus(window);
                opened.ends_by = Some(opened.ends_by.map_or(by, |known| known.min(by)));
            }
            if let Some(from) = opened.ends_from
                && at < from
            {
                rounded = rounded.min(from.minus(Span(1))).max(at);
            }
            charges.set_opened(opened);
        }
        self.add(place, bucket, Entry { at: rounded, calls: units });
    }

    /// Jobs of a call, or slots that it takes under one limit only.
    fn job(&mut self, place: usize, permit: &Permit, until: At) {
        let calls = permit.cost(place).units;
        if calls > 0 {
            self.slots.push(Slot {
                api: permit.api,
                until,
                calls,
                limit: Some((place, permit.job)),
            });
        }
    }

    fn find(&self, id: PermitId) -> Option<usize> {
        self.permits.iter().position(|permit| permit.id == id)
    }

    fn find_mut(&mut self, id: PermitId) -> Option<&mut Permit> {
        self.permits.iter_mut().find(|permit| permit.id == id)
    }
}

impl Permit {
    fn new(id: PermitId, ask: Ask<'_>, taken: At, state: State) -> Self {
        let Ask { api, costs, job } = ask;
        let says_something = costs.iter().any(|cost| *cost != Cost::ONE);
        Self { id, api, taken, state, costs: says_something.then(|| costs.into()), job }
    }

    /// Whether a call whose charge is known is still to be charged where it costs that.
    fn owes(&self, cost: Cost) -> bool {
        cost.is_estimate || !matches!(self.state, State::Answered { .. })
    }
}

const _: () = assert!(size_of::<Ledger>() <= 120, "an idle account is a few words");
