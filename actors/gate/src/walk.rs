//! The same decision walked forward in virtual time: when would an account's calls go?
//!
//! A [`Walk`] makes the calls of one account one after the other as an owner of its gate would: of the
//! lanes that have work the one of the highest rank goes first, equal ones take turns, and a call goes in
//! the moment the gate lets it. It decides through [`decide`] and reports through [`Ledger::take`],
//! [`Ledger::written`], [`Ledger::answered`] and [`Ledger::ended`], so whatever kinds of limit there are, it
//! knows no more of them than an owner does. Nothing waits: time is a number.
//!
//! It stops for what one account does not know of. The caller is asked before each call
//! ([`Walk::step`]'s `admit`): that is the place of whatever several accounts share.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::decide::{Ask, Because, Cost, Decision, decide};
use crate::ledger::{Ledger, PermitId, Sent};
use crate::limit::{ApiIx, LimitSet};
use crate::time::{At, Span};

/// Calls of one lane that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// They do not go before this moment.
    pub not_before: At,
    /// Those whose turn has not come by then are not made; [`At::MAX`]: at any time.
    pub deadline: At,
    /// How many.
    pub calls: u64,
}

/// The work of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneWork {
    /// Whose calls they are.
    pub api: ApiIx,
    /// Lower ones go first.
    pub rank: u8,
    /// What each call costs, by the places of the limits; empty: one unit everywhere.
    pub costs: Vec<Cost>,
    /// What the caller knows the calls by when it is asked for them; of no meaning here.
    pub group: u32,
    /// In order.
    pub runs: Vec<Run>,
}

/// What comes next in a [`Walk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A call of this api went at that moment.
    Called {
        /// Whose.
        api: ApiIx,
        /// Of which lane: [`LaneWork::group`].
        group: u32,
        /// When.
        at: At,
    },
    /// `admit` said no: nothing goes before the moment it named, and the walk stands there now.
    Kept,
    /// No work is left and no call is in flight.
    Ended,
}

#[derive(Debug)]
struct Lane {
    api: ApiIx,
    rank: u8,
    costs: Vec<Cost>,
    group: u32,
    ready: VecDeque<Run>,
    /// By `not_before`, the soonest last.
    later: Vec<Run>,
}

/// What an account waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitedFor {
    /// The limit at this place of the set: until a moment, or for an answer.
    Limit(usize),
    /// A hold.
    Hold,
    /// The time before which its fetches may not be called.
    NotBefore,
    /// A free collector: as many calls as the walk allows were in flight.
    Slots,
    /// What `admit` keeps.
    Shared,
}

/// One account on its way through its work. See the module's documentation.
///
/// ```
/// use tollgate_gate::*;
/// let gap = Limit {
///     name: "gap".into(),
///     per_api: false,
///     api: None,
///     rule: Rule::Every { gap: Span::from_secs(5) },
///     guard: Guard::After(Span::from_millis(100)),
/// };
/// let limits = LimitSet::new(vec![gap]).unwrap();
/// let ten = Run { not_before: At(0), deadline: At::MAX, calls: 10 };
/// let lane = LaneWork { api: 0, rank: 0, costs: vec![], group: 0, runs: vec![ten] };
/// let latency = |_| Span::from_millis(300);
/// let mut walk = Walk::new(&limits, Ledger::new(), &[lane], At(0), 1_024);
/// while walk.step(latency, |_, _, _| None) != Step::Ended {}
/// // Each call is charged 100 ms after its writing: nine times 5.1 s, and the last answer.
/// assert_eq!(walk.now(), At(9 * 5_100_000 + 300_000));
/// assert_eq!(walk.waits(), &[(WaitedFor::Limit(0), Span(9 * 5_100_000))]);
/// ```
#[derive(Debug)]
pub struct Walk<'a> {
    limits: &'a LimitSet,
    ledger: Ledger,
    lanes: Vec<Lane>,
    /// The lane whose turn it is among equals.
    turn: usize,
    now: At,
    flights: BinaryHeap<Reverse<(At, u64)>>,
    flights_max: usize,
    next_id: u64,
    waits: Vec<(WaitedFor, Span)>,
    late: u64,
    never: u64,
}

enum Choice {
    Go(usize),
    Never(usize),
    /// Until when, if that is known, and for what.
    Wait(Option<At>, WaitedFor),
    Nothing,
}

impl<'a> Walk<'a> {
    /// An account at `now` with its ledger, its holds in it, and its work; at most `flights_max` calls, and
    /// at least one, are in flight at once.
    ///
    /// # Panics
    /// If a lane is of an api that the set does not have.
    pub fn new(
        limits: &'a LimitSet,
        ledger: Ledger,
        work: &[LaneWork],
        now: At,
        flights_max: usize,
    ) -> Self {
        let lane = |work: &LaneWork| {
            assert!(limits.has_api(work.api), "a lane is of no api of the set");
            let (ready, mut later): (Vec<Run>, Vec<Run>) =
                work.runs.iter().filter(|run| run.calls > 0).partition(|run| run.not_before <= now);
            later.sort_by_key(|run| Reverse(run.not_before));
            let (costs, group) = (work.costs.clone(), work.group);
            Lane { api: work.api, rank: work.rank, costs, group, ready: ready.into(), later }
        };
        // An owner gives higher numbers than any a stored record can hold.
        let next_id = ledger.in_flight().map(|id| id.0).max().map_or(0, |id| id.saturating_add(1));
        Self {
            limits,
            ledger,
            lanes: work.iter().map(lane).collect(),
            turn: 0,
            now,
            flights: BinaryHeap::new(),
            flights_max: flights_max.max(1),
            next_id,
            waits: Vec::new(),
            late: 0,
            never: 0,
        }
    }

    /// What time it is. After [`Step::Ended`]: when the last call had ended.
    pub fn now(&self) -> At {
        self.now
    }

    /// What was done so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What was waited for while there was work, and for how long in all; in no order.
    pub fn waits(&self) -> &[(WaitedFor, Span)] {
        &self.waits
    }

    /// Calls that were not made because their deadline had passed.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Calls that were not made because a limit never allows them.
    pub fn never(&self) -> u64 {
        self.never
    }

    /// Goes on to the next call and makes it.
    ///
    /// `latency` says how long a call of an api takes from its writing to its answer, which is its end.
    /// `admit` is asked when the account's own limits let a call go, for a call of this api and group: `None`
    /// lets it, a moment after now keeps it, and nothing of this account goes before.
    pub fn step(
        &mut self,
        latency: impl Fn(ApiIx) -> Span,
        mut admit: impl FnMut(ApiIx, u32, At) -> Option<At>,
    ) -> Step {
        loop {
            self.settle();
            match self.choose() {
                Choice::Go(place) => {
                    let lane = &mut self.lanes[place];
                    if self.now > lane.ready.front().map_or(At::MAX, |run| run.deadline) {
                        self.late += lane.drop_run();
                        continue;
                    }
                    if self.flights.len() >= self.flights_max
                        && let Some(Reverse((at, _))) = self.flights.peek().copied()
                    {
                        self.wait(at, WaitedFor::Slots);
                        continue;
                    }
                    let (api, group) = (lane.api, lane.group);
                    if let Some(until) = admit(api, group, self.now) {
                        self.wait(until.max(At(self.now.0.saturating_add(1))), WaitedFor::Shared);
                        return Step::Kept;
                    }
                    return self.call(place, latency(api));
                }
                Choice::Never(place) => self.never += self.lanes[place].drop_run(),
                Choice::Wait(until, what) => {
                    let answer = self.flights.peek().map(|Reverse((at, _))| *at);
                    let sooner = self.lanes.iter().filter_map(|lane| lane.later.last());
                    let sooner = sooner.map(|run| run.not_before).min();
                    let next = [until, answer, sooner].into_iter().flatten().min();
                    if let Some(at) = next {
                        self.wait(at, what);
                    } else {
                        // It waits for a report that no walk brings.
                        self.never += self.lanes.iter_mut().map(Lane::drop_all).sum::<u64>();
                    }
                }
                Choice::Nothing => match self.flights.iter().map(|Reverse((at, _))| *at).max() {
                    Some(at) => {
                        self.now = at;
                        self.settle();
                    }
                    None => return Step::Ended,
                },
            }
        }
    }

    /// Nothing of this account goes before that moment, for what it shares with others.
    pub fn keep_until(&mut self, until: At) {
        self.wait(until, WaitedFor::Shared);
    }

    /// Calls whose answers have come by now end, and work whose time has come is ready.
    fn settle(&mut self) {
        while let Some(Reverse((at, id))) = self.flights.peek().copied()
            && at <= self.now
        {
            self.flights.pop();
            self.ledger.answered(self.limits, PermitId(id), at);
            self.ledger.ended(self.limits, PermitId(id), at, Sent::Maybe);
        }
        for lane in &mut self.lanes {
            while let Some(run) = lane.later.pop_if(|run| run.not_before <= self.now) {
                lane.ready.push_back(run);
            }
        }
    }

    fn choose(&self) -> Choice {
        let count = self.lanes.len();
        let mut soonest: Option<(Option<At>, WaitedFor)> = None;
        let mut consider = |at: Option<At>, what| {
            let sooner = match (&soonest, at) {
                (None, _) | (Some((None, _)), Some(_)) => true,
                (Some((Some(known), _)), Some(at)) => at < *known,
                (Some(_), None) => false,
            };
            if sooner {
                soonest = Some((at, what));
            }
        };
        // The lanes of the best rank that may go; among them the first from the turn on.
        let mut best: Option<(u8, usize)> = None;
        for step in 0..count {
            let place = (self.turn + step) % count;
            let lane = &self.lanes[place];
            if lane.ready.is_empty() {
                if let Some(run) = lane.later.last() {
                    consider(Some(run.not_before), WaitedFor::NotBefore);
                }
                continue;
            }
            if best.is_some_and(|(rank, _)| rank <= lane.rank) {
                continue;
            }
            let ask = lane.ask();
            match decide(self.limits, &self.ledger, self.ledger.holds(), ask, self.now) {
                Decision::Go => best = Some((lane.rank, place)),
                Decision::WaitUntil { at, because } => consider(
                    at,
                    match because {
                        Because::Limit(place) => WaitedFor::Limit(place),
                        Because::Hold(_) => WaitedFor::Hold,
                    },
                ),
                Decision::Never { .. } => return Choice::Never(place),
            }
        }
        match (best, soonest) {
            (Some((_, place)), _) => Choice::Go(place),
            (None, Some((at, what))) => Choice::Wait(at, what),
            (None, None) => Choice::Nothing,
        }
    }

    fn call(&mut self, place: usize, latency: Span) -> Step {
        let (at, api, group) = (self.now, self.lanes[place].api, self.lanes[place].group);
        let id = PermitId(self.next_id);
        self.next_id += 1;
        self.ledger.take(self.limits, id, self.lanes[place].ask(), at);
        self.ledger.written(self.limits, id, at);
        self.flights.push(Reverse((at.plus(latency), id.0)));
        let lane = &mut self.lanes[place];
        if let Some(run) = lane.ready.front_mut() {
            run.calls = run.calls.saturating_sub(1);
            if run.calls == 0 {
                lane.ready.pop_front();
            }
        }
        self.turn = place + 1;
        Step::Called { api, group, at }
    }

    fn wait(&mut self, until: At, what: WaitedFor) {
        let span = until.since(self.now);
        self.now = until.max(self.now);
        match self.waits.iter_mut().find(|(known, _)| *known == what) {
            Some((_, sum)) => *sum = Span(sum.0.saturating_add(span.0)),
            None => self.waits.push((what, span)),
        }
    }
}

impl Lane {
    fn ask(&self) -> Ask<'_> {
        Ask::new(self.api).with_costs(&self.costs)
    }

    /// Gives up the calls that are next.
    fn drop_run(&mut self) -> u64 {
        self.ready.pop_front().map_or(0, |run| run.calls)
    }

    fn drop_all(&mut self) -> u64 {
        let calls = self.ready.iter().chain(&self.later).map(|run| run.calls).sum();
        self.ready.clear();
        self.later.clear();
        calls
    }
}
