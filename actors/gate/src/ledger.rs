//! The dated record of an account's permits.
//!
//! A call that was let go passes through here: [`take`](Ledger::take) (from now on it is in flight and
//! counts as now), [`written`](Ledger::written) (its charge is known but may still become earlier),
//! [`answered`](Ledger::answered) (its charge is final), [`ended`](Ledger::ended). Reports may be missing;
//! then the call counts for longer, never for less. A call for which none of them is missing is charged at
//! `min(answer begins, written + guard)`.
//!
//! A ledger belongs to one [`LimitSet`]: all calls must be given the same one. For another one (the
//! configuration was changed) see [`Ledger::under`].

use crate::charges::{Charges, Entry, stricter};
use crate::decide::{Ask, Decision, decide};
use crate::hold::Holds;
use crate::limit::{ApiIx, Limit, LimitSet, NO_ANSWER_BOUND};
use crate::time::At;

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
    pub(crate) state: State,
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
}

/// Slots that calls of a dead writer may still take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) api: ApiIx,
    pub(crate) until: At,
    pub(crate) calls: u32,
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
/// let (holds, ask, s) = (Holds::new(), Ask { api: 0 }, 1_000_000);
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
    holds: Holds,
}

impl Ledger {
    /// A ledger of an account that has never made a call.
    pub const fn new() -> Self {
        Self { permits: Vec::new(), charges: Vec::new(), slots: Vec::new(), holds: Holds::new() }
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
    pub fn take(&mut self, limits: &LimitSet, id: PermitId, ask: Ask, now: At) {
        let decision = decide(limits, self, &self.holds, ask, now);
        assert!(decision == Decision::Go, "permit {} taken against {decision:?}", id.0);
        assert!(self.find(id).is_none(), "permit {} is in flight already", id.0);
        assert!(limits.has_api(ask.api), "permit {} is of no api of the set", id.0);
        self.prune(limits, now);
        self.permits.push(Permit { id, api: ask.api, state: State::Uncharged });
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
            State::Charged => State::Charged,
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
        let Some(permit) = self.find_mut(id) else { return false };
        let state = core::mem::replace(&mut permit.state, State::Charged);
        let api = permit.api;
        self.charge(limits, api, state, |_, known| known.map_or(at, |known| known.min(at)));
        true
    }

    /// The call is over at `at`: its slot is free. Where a limit knows no charge yet, it is charged now:
    /// at `at` if nothing was sent, else at `at` + guard (+ [`NO_ANSWER_BOUND`] for
    /// [`Guard::Never`](crate::Guard::Never)).
    ///
    /// Returns whether the permit was in flight; nothing happens otherwise.
    pub fn ended(&mut self, limits: &LimitSet, id: PermitId, at: At, sent: Sent) -> bool {
        let Some(place) = self.find(id) else { return false };
        let permit = self.permits.swap_remove(place);
        self.charge(limits, permit.api, permit.state, |limit, known| match (known, sent) {
            (Some(known), _) => known,
            (None, Sent::Never) => at,
            (None, Sent::Maybe) => at.plus(limit.guard_span().unwrap_or(NO_ANSWER_BOUND)),
        });
        true
    }

    /// All calls in flight are those of a dead writer, of whom nothing will be heard. Called once after
    /// loading its record.
    ///
    /// Each without an answer is charged at `charge_at`. A stamp in the record does not make that earlier:
    /// the writer may have taken it back after it stored the record ([`Ledger::unwritten`]). Their slots
    /// of concurrent limits stay taken until `slots_until`.
    ///
    /// `charge_at` must not be before the last moment at which one of the calls can have arrived: the
    /// last at which the dead writer can have written a request, + [`LimitSet::guard_max`].
    pub fn lost(&mut self, limits: &LimitSet, charge_at: At, slots_until: At) {
        for permit in core::mem::take(&mut self.permits) {
            self.charge(limits, permit.api, permit.state, |_, known| {
                known.map_or(charge_at, |known| known.max(charge_at))
            });
            let same = |slot: &&mut Slot| slot.api == permit.api && slot.until == slots_until;
            match self.slots.iter_mut().find(same) {
                Some(slot) => slot.calls = slot.calls.saturating_add(1),
                None => {
                    self.slots.push(Slot { api: permit.api, until: slots_until, calls: 1 });
                }
            }
        }
    }

    /// The permit was not used and never will be: no byte of its call was written, and nobody holds it. As if
    /// it had not been taken. What a stored record says of it errs to the safe side.
    ///
    /// Returns whether it was in flight without any report; nothing happens otherwise.
    pub fn give_back(&mut self, id: PermitId) -> bool {
        let unused = |permit: &Permit| permit.id == id && permit.state == State::Uncharged;
        let Some(place) = self.permits.iter().position(unused) else { return false };
        self.permits.swap_remove(place);
        true
    }

    /// A call of this process that is in flight and that this ledger, read from a record, does not name.
    /// `charged`: its charge is among the others; else it counts as now until it reports. Nothing happens if
    /// a permit of that id is in flight.
    pub fn adopt(&mut self, id: PermitId, ask: Ask, charged: bool) {
        if self.find(id).is_none() {
            let state = if charged { State::Charged } else { State::Uncharged };
            self.permits.push(Permit { id, api: ask.api, state });
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
        for permit in &own.permits {
            let state = if known { State::Charged } else { permit.state };
            if self.find(permit.id).is_none() {
                self.permits.push(Permit { state, ..permit.clone() });
            }
        }
        for charges in &own.charges {
            let same = |other: &&mut Charges| {
                (other.limit, other.bucket) == (charges.limit, charges.bucket)
            };
            match self.charges.iter_mut().find(same) {
                Some(theirs) if known => theirs.stricter(charges.entries()),
                Some(theirs) => charges.entries().iter().for_each(|entry| theirs.add(*entry)),
                None => self.charges.push(charges.clone()),
            }
        }
        if known {
            self.slots = self.stricter_slots(own);
        } else {
            self.slots.extend(own.slots.iter().cloned());
        }
        for hold in own.holds.as_slice() {
            self.holds.set(hold.clone());
        }
    }

    fn stricter_slots(&self, own: &Self) -> Vec<Slot> {
        let of = |slots: &[Slot], api: ApiIx| -> Vec<Entry> {
            let same = slots.iter().filter(|slot| slot.api == api);
            same.map(|slot| Entry { at: slot.until, calls: slot.calls }).collect()
        };
        let mut apis: Vec<ApiIx> =
            self.slots.iter().chain(&own.slots).map(|slot| slot.api).collect();
        apis.sort_unstable();
        apis.dedup();
        let slots = apis.into_iter().flat_map(|api| {
            let joined = stricter(&of(&self.slots, api), &of(&own.slots, api));
            joined.into_iter().map(move |entry| Slot { api, until: entry.at, calls: entry.calls })
        });
        slots.collect()
    }

    /// Forgets what no longer counts at `now` nor ever after. Decisions do not change.
    pub fn prune(&mut self, limits: &LimitSet, now: At) {
        for charges in &mut self.charges {
            if let Some(left) = left_by(limits, charges.limit, now) {
                charges.prune(left);
            }
        }
        self.charges.retain(|charges| !charges.entries().is_empty());
        self.slots.retain(|slot| slot.until > now);
        self.holds.prune(now);
    }

    /// Whether there is nothing to remember: no charge, no call in flight, no slot, no hold. After
    /// [`Ledger::prune`] such a ledger is as good as a new one.
    pub fn is_empty(&self) -> bool {
        self.permits.is_empty()
            && self.charges.is_empty()
            && self.slots.is_empty()
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

    /// Everything that takes a place in the limit's counter for calls of `api`: when it leaves (`None`: a
    /// report must come first), and how many calls it is. What has left already may be among it.
    pub(crate) fn places<'a>(
        &'a self,
        index: usize,
        limit: &'a Limit,
        api: ApiIx,
    ) -> impl Iterator<Item = (Option<At>, u32)> + Clone + 'a {
        let bucket = limit.bucket(api);
        let mine = move |api: ApiIx| limit.matches(api) && limit.bucket(api) == bucket;
        let window = limit.rule.window();
        let charged = self
            .charges
            .iter()
            .filter(move |charges| charges.limit == index && charges.count_in(bucket))
            .flat_map(Charges::entries)
            .map(move |entry| (window.map(|window| entry.at.plus(window)), entry.calls));
        let in_flight =
            self.permits.iter().filter(move |permit| mine(permit.api)).filter_map(move |permit| {
                match (window, permit.state) {
                    (Some(window), State::Written(at)) => {
                        Some((limit.charge_of(at).map(|at| at.plus(window)), 1))
                    }
                    (Some(_), State::Charged) => None,
                    (Some(_), State::Uncharged) | (None, _) => Some((None, 1)),
                }
            });
        let slots = self
            .slots
            .iter()
            .filter(move |slot| window.is_none() && mine(slot.api))
            .map(|slot| (Some(slot.until), slot.calls));
        charged.chain(in_flight).chain(slots)
    }

    /// Adds entries to the counter of a limit.
    pub(crate) fn add(&mut self, limit: usize, bucket: Option<ApiIx>, entry: Entry) {
        let same = |charges: &Charges| charges.limit == limit && charges.bucket == bucket;
        let place = self.charges.iter().position(same).unwrap_or_else(|| {
            self.charges.push(Charges::new(limit, bucket));
            self.charges.len() - 1
        });
        self.charges[place].add(entry);
    }

    /// Charges a call of `api` to every limit that counts it by time, unless that is done. `when` says at
    /// what time, given the limit and the time known from its writing. The time is final: only here, where
    /// nothing can make it earlier any more, may it be rounded up.
    fn charge(
        &mut self,
        limits: &LimitSet,
        api: ApiIx,
        state: State,
        when: impl Fn(&Limit, Option<At>) -> At,
    ) {
        if state == State::Charged {
            return;
        }
        for (index, limit) in limits.of(api).filter(|(_, limit)| limit.rule.window().is_some()) {
            let known = match state {
                State::Written(at) => limit.charge_of(at),
                State::Uncharged | State::Charged => None,
            };
            let at = when(limit, known).rounded_up(limit.rule.rounding());
            self.add(index, limit.bucket(api), Entry { at, calls: 1 });
        }
    }

    fn find(&self, id: PermitId) -> Option<usize> {
        self.permits.iter().position(|permit| permit.id == id)
    }

    fn find_mut(&mut self, id: PermitId) -> Option<&mut Permit> {
        self.permits.iter_mut().find(|permit| permit.id == id)
    }
}

/// The latest charge that no longer counts at `now` under the limit at that place; `None` without one.
pub(crate) fn left_by(limits: &LimitSet, index: usize, now: At) -> Option<At> {
    let window = limits.limits().get(index)?.rule.window()?;
    Some(now.minus(window))
}

const _: () = assert!(size_of::<Ledger>() <= 96, "an idle account is a few words");
