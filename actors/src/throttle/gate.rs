//! The account's gate as its actor holds it: the pure ledger, and the few questions beyond `decide`.

use std::collections::BTreeMap;

use tollgate_gate::{
    Ask, At, Because, Charged, Cost, Decision, Effect, Hold, HoldScope, Ledger, LimitSet, Note,
    PermitId, Seen, Sent, Span,
};

/// Limits are the platform's and passed in; this is what is the account's own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    ledger: Ledger,
    /// Calls that are over and whose cost is not known yet: in the ledger they are in flight.
    over: BTreeMap<PermitId, (At, Sent)>,
}

impl Gate {
    pub(crate) fn decide(&self, limits: &LimitSet, ask: Ask<'_>, now: At) -> Decision {
        tollgate_gate::decide(limits, &self.ledger, self.ledger.holds(), ask, now)
    }

    /// What is known of its calls.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What is waited for, as people know it.
    pub(crate) fn name(&self, limits: &LimitSet, because: &Because) -> Box<str> {
        because.text(limits, self.ledger.holds()).into()
    }

    pub(crate) fn take(&mut self, limits: &LimitSet, id: PermitId, ask: Ask<'_>, now: At) {
        self.ledger.take(limits, id, ask, now);
    }

    pub(crate) fn written(&mut self, limits: &LimitSet, id: PermitId, at: At) {
        self.ledger.written(limits, id, at);
    }

    pub(crate) fn unwritten(&mut self, id: PermitId) {
        self.ledger.unwritten(id);
    }

    pub(crate) fn answered(&mut self, limits: &LimitSet, id: PermitId, at: At) {
        self.ledger.answered(limits, id, at);
    }

    pub(crate) fn ended(&mut self, limits: &LimitSet, id: PermitId, at: At, sent: Sent) {
        self.ledger.ended(limits, id, at, sent);
    }

    /// The call is over, but what it cost is still to be settled.
    pub(crate) fn hold_back(&mut self, id: PermitId, at: At, sent: Sent) {
        self.over.insert(id, (at, sent));
    }

    /// Whether a call that is held back was sent.
    pub(crate) fn held_back(&self, id: PermitId) -> Option<Sent> {
        self.over.get(&id).map(|(_, sent)| *sent)
    }

    /// What the call cost by the limit at that place.
    pub(crate) fn settle(
        &mut self,
        limits: &LimitSet,
        id: PermitId,
        place: usize,
        units: u32,
        now: At,
    ) {
        self.ledger.settle(limits, id, place, units, now);
    }

    /// It was over when it was held back.
    pub(crate) fn end_held_back(&mut self, limits: &LimitSet, id: PermitId) {
        if let Some((at, sent)) = self.over.remove(&id) {
            self.ledger.ended(limits, id, at, sent);
        }
    }

    /// Every permit in flight was a dead process's: its request left at `latest` at the latest.
    pub(crate) fn lose_all(&mut self, limits: &LimitSet, latest: At, slots_until: At) {
        self.ledger.lost(limits, latest.plus(limits.guard_max()), slots_until);
    }

    /// Nothing may be heard any more of a call whose request left at `latest` at the latest: it is charged, and goes on
    /// to take its slots.
    pub(crate) fn give_up(&mut self, limits: &LimitSet, id: PermitId, latest: At) -> bool {
        self.ledger.give_up(limits, id, latest.plus(limits.guard_max()))
    }

    /// The same of one permit, which another node used.
    pub(crate) fn lose(&mut self, limits: &LimitSet, id: PermitId, latest: At, slots_until: At) {
        self.ledger.lose(limits, id, latest.plus(limits.guard_max()), slots_until);
    }

    /// The permit was never handed on.
    pub(crate) fn give_back(&mut self, limits: &LimitSet, id: PermitId) -> bool {
        self.ledger.give_back(limits, id)
    }

    /// A call of this process that outlived what was known of it.
    pub(crate) fn adopt(&mut self, id: PermitId, ask: Ask<'_>, charged: bool) {
        self.ledger.adopt(id, ask, charged);
    }

    /// Adds what this process knows to what another one wrote.
    pub(crate) fn join(&mut self, own: &Self, known: bool) {
        self.ledger.join(&own.ledger, known);
        self.over.extend(own.over.iter().map(|(id, over)| (*id, *over)));
    }

    pub(crate) fn arrived_later(
        &mut self,
        limits: &LimitSet,
        call: Charged,
        costs: &[Cost],
        stamp: At,
    ) {
        self.ledger.arrived_later(limits, call, costs, stamp);
    }

    pub(crate) fn in_flight(&self) -> Vec<PermitId> {
        self.ledger.in_flight().collect()
    }

    pub(crate) fn prune(&mut self, limits: &LimitSet, now: At) {
        self.ledger.prune(limits, now);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ledger.is_empty()
    }

    /// Shuts the whole account until then.
    pub(crate) fn hold(&mut self, until: At, reason: &str) {
        let hold = Hold { scope: HoldScope::Account, until, reason: reason.to_owned() };
        self.ledger.holds_mut().set(hold);
    }

    /// Goes by other limits from now on, with all that is known of the past.
    pub(super) fn under(&mut self, old: &LimitSet, new: &LimitSet, now: At) {
        (self.ledger, _) = self.ledger.under(old, new, now);
    }

    /// Shuts one api until then.
    pub(super) fn hold_api(&mut self, api: u16, until: At, reason: &str) {
        let hold = Hold { scope: HoldScope::Api(api), until, reason: reason.to_owned() };
        self.ledger.holds_mut().set(hold);
    }

    /// Whether a hold stops calls of an api.
    pub(super) fn is_held(&self, api: u16, now: At) -> bool {
        let holds = self.ledger.holds().as_slice();
        holds.iter().any(|hold| hold.until > now && hold.scope.stops(api))
    }

    /// What an answer said of a limit.
    pub(crate) fn observe(&mut self, limits: &LimitSet, seen: &Seen, now: At) -> Effect {
        self.ledger.observe(limits, seen, now)
    }

    /// What calls in flight beside that one take of a limit.
    pub(crate) fn flying(&self, limits: &LimitSet, place: usize, api: u16, id: PermitId) -> u32 {
        self.ledger.units_in_flight(limits, place, api, id)
    }

    /// The provider refused a call because of that limit: whether it blocks for a time then.
    pub(crate) fn over(&mut self, limits: &LimitSet, place: usize, api: u16, at: At) -> bool {
        self.ledger.over(limits, place, api, at).is_some()
    }

    /// That job is over.
    pub(crate) fn release(&mut self, limits: &LimitSet, job: u64) -> bool {
        self.ledger.release(limits, job)
    }

    /// What a call in flight costs by a limit, as far as that is known.
    pub(crate) fn cost_of(&self, id: PermitId, place: usize) -> Option<Cost> {
        self.ledger.cost_of(id, place)
    }

    /// The provider said when the window of that limit ends.
    pub(crate) fn window_ends(
        &mut self,
        limits: &LimitSet,
        place: usize,
        api: u16,
        end: (At, Span),
        now: At,
    ) {
        self.ledger.window_ends(limits, place, api, end, now);
    }

    /// Reads the ledger of a record written at `since`; whether that moment is exact. What does not fit the limits is
    /// told; what cannot be read at all shuts the account for its longest window, never starts it full.
    pub(crate) fn load(
        &mut self,
        limits: &LimitSet,
        bytes: &[u8],
        (since, is_exact): (At, bool),
        now: At,
    ) -> Vec<String> {
        let decode = if is_exact { Ledger::decode_exact } else { Ledger::decode };
        match decode(limits, bytes, since) {
            Ok((ledger, notes)) => {
                self.ledger = ledger;
                notes.iter().map(Note::to_string).collect()
            }
            Err(error) => {
                let until = self.shut_for_longest_window(limits, now);
                let seconds = until.since(now).0 / 1_000_000;
                vec![format!("{error}; the account waits {seconds} s, its longest window")]
            }
        }
    }

    pub(crate) fn shut_for_longest_window(&mut self, limits: &LimitSet, now: At) -> At {
        let until = now.plus(limits.guard_max()).plus(limits.window_max());
        self.hold(until, "its ledger could not be read");
        until
    }

    /// When nothing of the past counts any more, at the latest.
    pub(crate) fn forgotten_at(&self, limits: &LimitSet, now: At) -> At {
        if self.ledger.is_empty() {
            return now;
        }
        let held = self.ledger.holds().as_slice().iter().map(|hold| hold.until).max();
        let counted = now.plus(limits.guard_max()).plus(limits.window_max());
        held.map_or(counted, |held| held.max(counted))
    }

    /// Goes on under other limits, and says what could not be kept.
    pub(crate) fn follow(&mut self, old: &LimitSet, new: &LimitSet, now: At) -> Vec<String> {
        let (ledger, notes) = self.ledger.under(old, new, now);
        self.ledger = ledger;
        notes.iter().map(Note::to_string).collect()
    }

    pub(crate) fn encode(&self, limits: &LimitSet, now: At) -> Vec<u8> {
        self.ledger.encode(limits, now)
    }
}
