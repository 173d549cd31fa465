//! A world of random limits, calls, reports, crashes, restarts and changes of apis on virtual time.
//!
//! Everything here is about apis as the provider knows them; only the ledger knows the numbers that they
//! have in the configuration of the moment.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::judge::{Arrival, Call, Due, Units, assert_within, bounds, due, transit_max};
use super::{
    AHEAD, APIS, APIS_EVER, LIMITS_IN_TESTS, MS, any_cost, any_limits, any_order, declared, limit,
    name, number, set,
};
use crate::{
    ApiIx, Ask, At, Because, Cost, Decision, Guard, Hold, HoldScope, Ledger, Limit, LimitSet, Note,
    PermitId, Rule, Sent, Span, decide,
};

/// A call is written at most so long after its permit, also by a writer that is cut off.
const WRITTEN_WITHIN: Span = Span::from_millis(200);

/// How a call goes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Written, answered, ended.
    Whole,
    /// The writing is not reported.
    Unstamped,
    /// A wrong stamp, taken back, then a true one.
    Restamped,
    /// A wrong stamp, taken back, and nothing more until the answer.
    TakenBack,
    /// Written, but ended without an answer.
    Silent,
    /// Ended without a stamp or an answer, and written all the same.
    Unheard,
    /// Ended before anything was sent.
    Unsent,
}

/// What the world does to a call.
#[derive(Debug, Clone, Copy)]
struct Script {
    kind: Kind,
    write_delay: u64,
    /// Part of the guard that the request travels, of 255.
    transit: u8,
    think: u64,
    body: u64,
    /// How late each report is.
    lag: u64,
    costs: [Cost; LIMITS_IN_TESTS],
    /// What a guessed cost turns out to be, and whether that is known at once; else at the end.
    settles: Option<(u32, bool)>,
    /// Part of its life after the call that its job has, of 255; `None`: it is never heard of again.
    job: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Ask {
        api: ApiIx,
        calls: usize,
    },
    /// The process dies; another starts after `down` with the record's age wrong by up to `down`.
    Crash {
        down: u64,
        lag: u64,
    },
    /// The configuration is read again, and its calls go on: the first apis of `order`, of those that are
    /// not gone, are declared in that order. Those that were called and are left out are gone for good.
    Reload {
        order: [ApiIx; APIS_EVER],
        keep: usize,
    },
    /// The wall clock is set: from now on it is that much ahead of the provider's, of 100 parts of the slack.
    Step {
        ahead: i64,
    },
    /// A record without a permit.
    Store,
    Prune,
    Hold {
        api: Option<ApiIx>,
        span: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Op(Op),
    Start { lag: u64 },
    Written(PermitId, At),
    Unwritten(PermitId),
    Answered(PermitId, At),
    Settled(PermitId, u32),
    Ended(PermitId, At, Sent),
    Released(PermitId),
    Wake,
}

struct World {
    /// The provider's.
    limits: LimitSet,
    /// The apis that are declared, by their numbers, and the limits with these numbers.
    apis: Vec<ApiIx>,
    declared: LimitSet,
    scripts: Vec<Script>,
    ledger: Ledger,
    /// What the naive gate knows.
    calls: Vec<Call>,
    /// The last record, its moment, and what the naive gate knew.
    stored: (Vec<u8>, At, Vec<Call>),
    arrivals: Vec<Arrival>,
    waiting: [usize; APIS as usize],
    now: At,
    down: bool,
    /// Records seemed younger than they were, or the clock was set.
    moved: bool,
    events: BTreeMap<(At, usize), Event>,
    /// Events and permits so far.
    num_events: usize,
    num_permits: u64,
}

impl World {
    fn new(limits: LimitSet, scripts: Vec<Script>, start: At) -> Self {
        AHEAD.set(0);
        let ledger = Ledger::new();
        let apis: Vec<ApiIx> = (0..APIS).collect();
        let declared = declared(&limits, &apis);
        let record = ledger.encode(&declared, start);
        Self {
            limits,
            apis,
            declared,
            scripts,
            ledger,
            calls: Vec::new(),
            stored: (record, start, Vec::new()),
            arrivals: Vec::new(),
            waiting: [0; APIS as usize],
            now: start,
            down: false,
            moved: false,
            events: BTreeMap::new(),
            num_events: 0,
            num_permits: 0,
        }
    }

    fn at(&mut self, at: At, event: Event) {
        self.num_events += 1;
        assert!(self.num_events < 20_000, "the gate does not let all calls go");
        self.events.insert((at.max(self.now), self.num_events), event);
    }

    fn run(&mut self) {
        while let Some(((now, _), event)) = self.events.pop_first() {
            self.now = now;
            self.handle(event);
            if !self.down {
                for api in 0..APIS {
                    if self.number(api).is_none() {
                        continue;
                    }
                    self.check(api);
                    while self.waiting[usize::from(api)] > 0 && self.go(api) {}
                }
            }
        }
        assert_eq!(self.waiting, [0; APIS as usize], "every call goes in the end");
        assert_within(&self.limits, &self.arrivals);
    }

    fn handle(&mut self, event: Event) {
        let limits = &self.declared;
        match event {
            Event::Wake => {}
            Event::Op(Op::Ask { api, .. } | Op::Hold { api: Some(api), .. })
                if self.number(api).is_none() => {}
            Event::Op(Op::Ask { api, calls }) => self.waiting[usize::from(api)] += calls,
            Event::Op(Op::Reload { order, keep }) => self.reload(order, keep),
            Event::Op(Op::Step { ahead }) => {
                let slacks = self.limits.limits().iter().filter_map(|limit| match limit.rule {
                    Rule::Calendar { slack, .. } => Some(slack.0 as i64),
                    _ => None,
                });
                AHEAD.set(slacks.min().unwrap_or(0) * ahead / 100);
                self.moved = true;
            }
            Event::Op(Op::Crash { .. } | Op::Store | Op::Hold { .. } | Op::Prune) if self.down => {}
            Event::Op(Op::Crash { down, lag }) => {
                self.down = true;
                // Nothing more is heard of the calls, only asks and operators go on.
                self.events.retain(|_, event| matches!(event, Event::Op(_)));
                self.at(self.now.plus(Span(down)), Event::Start { lag: lag.min(down) });
            }
            Event::Start { lag } => self.start(Span(lag)),
            Event::Op(Op::Store) => self.store(),
            Event::Op(Op::Prune) => self.ledger.prune(limits, self.now),
            Event::Op(Op::Hold { api, span }) => {
                let scope = self.scope(api);
                let until = self.now.plus(Span(span));
                self.ledger.holds_mut().set(Hold { scope, until, reason: "429".into() });
                self.at(until, Event::Wake);
                self.store();
            }
            Event::Written(id, at) => {
                assert!(self.ledger.written(limits, id, at));
                self.call(id).written = Some(at);
            }
            Event::Unwritten(id) => {
                assert!(self.ledger.unwritten(id));
                self.call(id).written = None;
            }
            Event::Answered(id, at) => {
                assert!(self.ledger.answered(limits, id, at));
                self.call(id).answered = Some(at);
            }
            Event::Settled(id, actual) => self.settle(id, actual),
            Event::Released(id) => {
                self.ledger.release(limits, id.0);
                self.call(id).released = true;
            }
            Event::Ended(id, at, sent) => {
                assert!(self.ledger.ended(limits, id, at, sent));
                assert!(!self.ledger.ended(limits, id, at, sent));
                self.call(id).ended = Some((at, sent));
            }
        }
    }

    fn settle(&mut self, id: PermitId, actual: u32) {
        let api = self.call(id).api;
        for (place, limit) in self.declared.limits().iter().enumerate() {
            let original = original(&self.limits, limit);
            let script = &self.scripts[id.0 as usize % self.scripts.len()];
            let told = self.ledger.settle(&self.declared, id, place, actual, self.now);
            assert_eq!(told, script.costs[original].is_estimate);
            assert!(!self.ledger.settle(&self.declared, id, place, 9, self.now));
            let counts = self.limits.limits()[original].api.is_none_or(|own| own == api);
            if told && counts {
                let call = self.calls.iter_mut().find(|call| call.id == id).unwrap();
                call.units[original].settled = Some(actual);
            }
        }
    }

    /// Other apis are declared from now on, also while nobody looks.
    fn reload(&mut self, order: [ApiIx; APIS_EVER], keep: usize) {
        let kept = order.into_iter().take(keep);
        let gone = |api| api < APIS && self.number(api).is_none();
        let apis: Vec<ApiIx> = kept.filter(|api| !gone(*api)).collect();
        if apis.is_empty() {
            return; // a set without names
        }
        self.apis = apis;
        let before = core::mem::replace(&mut self.declared, declared(&self.limits, &self.apis));
        for api in (0..APIS).filter(|api| self.number(*api).is_none()).collect::<Vec<_>>() {
            self.waiting[usize::from(api)] = 0;
        }
        if !self.down {
            let (ledger, notes) = self.ledger.under(&before, &self.declared, self.now);
            self.assert_only_gone(&notes);
            self.ledger = ledger;
        }
    }

    fn assert_only_gone(&self, notes: &[Note]) {
        let gone = |api: &ApiIx| self.number(*api).is_none();
        let gone: Vec<_> =
            (0..APIS).filter(gone).map(|api| Note::Gone { api: name(api) }).collect();
        assert!(notes.iter().all(|note| gone.contains(note)), "{notes:?}");
    }

    /// The number of an api, if it is declared.
    fn number(&self, api: ApiIx) -> Option<ApiIx> {
        number(&self.apis, api)
    }

    fn scope(&self, api: Option<ApiIx>) -> HoldScope {
        api.map_or(HoldScope::Account, |api| HoldScope::Api(self.number(api).unwrap()))
    }

    /// A new process takes over the last record.
    fn start(&mut self, lag: Span) {
        self.down = false;
        let (record, encoded_at, calls) = &self.stored;
        let stored_at = encoded_at.plus(lag);
        self.moved |= lag > Span::ZERO;
        let (ledger, notes) = Ledger::decode(&self.declared, record, stored_at).unwrap();
        self.assert_only_gone(&notes);
        self.ledger = ledger;
        self.calls = calls.iter().map(|call| call.later(lag)).collect();
        let charge_at = stored_at.plus(WRITTEN_WITHIN).plus(self.declared.guard_max());
        let last = self.arrivals.iter().map(|arrival| arrival.over).max();
        let slots_until = last.unwrap_or(self.now).max(self.now);
        self.ledger.lost(&self.declared, charge_at, slots_until);
        for call in self.calls.iter_mut().filter(|call| call.ended.is_none() && call.lost.is_none())
        {
            call.lost = Some((charge_at, slots_until));
        }
        assert_eq!(self.ledger.in_flight().len(), 0);
        self.store();
    }

    fn store(&mut self) {
        let record = self.ledger.encode(&self.declared, self.now);
        self.stored = (record, self.now, self.calls.clone());
    }

    fn call(&mut self, id: PermitId) -> &mut Call {
        self.calls.iter_mut().find(|call| call.id == id).unwrap()
    }

    /// What the next call would cost by the provider's limits, no more than there can be.
    fn costs(&self) -> Vec<Cost> {
        let script = &self.scripts[(self.num_permits as usize + 1) % self.scripts.len()];
        let limits = self.limits.limits().iter();
        let capped = |(limit, cost): (&Limit, &Cost)| Cost {
            units: cost.units.min(limit.rule.max()),
            ..*cost
        };
        limits.zip(&script.costs).map(capped).collect()
    }

    /// The same by those that are declared.
    fn declared_costs(&self) -> Vec<Cost> {
        let costs = self.costs();
        let limits = self.declared.limits().iter();
        limits.map(|limit| costs[original(&self.limits, limit)]).collect()
    }

    fn decide(&self, api: ApiIx, now: At) -> Decision {
        let costs = self.declared_costs();
        let ask = Ask::new(self.number(api).unwrap()).with_costs(&costs);
        decide(&self.declared, &self.ledger, self.ledger.holds(), ask, now)
    }

    /// Compares the decision with what the naive gate says of the same reports.
    fn check(&self, api: ApiIx) {
        let units: Vec<u32> = self.costs().iter().map(|cost| cost.units).collect();
        let (mut earliest, mut latest) = bounds(&self.limits, &self.calls, api, &units, self.moved);
        for hold in self.ledger.holds().as_slice() {
            if hold.scope == HoldScope::Account || hold.scope == self.scope(Some(api)) {
                earliest = earliest.max(Due::From(hold.until));
                latest = latest.max(Due::From(hold.until));
            }
        }
        let now = Due::From(self.now);
        match self.decide(api, self.now) {
            Decision::Go => assert!(earliest <= now, "too early: {earliest:?}"),
            Decision::WaitUntil { at: None, because } => {
                assert_eq!(latest, Due::Unknown);
                assert_eq!(self.due(because, api, &units).1, Due::Unknown);
            }
            Decision::WaitUntil { at: Some(at), because } => {
                assert!(at > self.now);
                assert!(earliest <= Due::From(at), "too early: {at:?}, not {earliest:?}");
                assert!(Due::From(at) <= latest, "too late: {at:?}, not {latest:?}");
                assert_ne!(self.decide(api, At(at.0 - 1)), Decision::Go, "could be earlier");
                assert_eq!(self.decide(api, at), Decision::Go, "does not open");
                let (from, by) = self.due(because, api, &units);
                assert!(from <= Due::From(at) && Due::From(at) <= by, "{because:?}");
            }
            never @ Decision::Never { .. } => panic!("{never:?}"),
        }
    }

    /// From when and by when what is named opens.
    fn due(&self, because: Because, api: ApiIx, units: &[u32]) -> (Due, Due) {
        match because {
            Because::Limit(place) => {
                let place = original(&self.limits, &self.declared.limits()[place]);
                due(&self.limits, place, &self.calls, (api, units[place]), self.moved)
            }
            Because::Hold(place) => {
                let until = Due::From(self.ledger.holds().as_slice()[place].until);
                (until, until)
            }
        }
    }

    /// Makes a call if the gate is open.
    fn go(&mut self, api: ApiIx) -> bool {
        match self.decide(api, self.now) {
            Decision::Go => {}
            Decision::WaitUntil { at, .. } => {
                if let Some(at) = at
                    && !self.events.contains_key(&(at, 0))
                {
                    self.events.insert((at, 0), Event::Wake);
                }
                return false;
            }
            Decision::Never { .. } => return false,
        }
        let (costs, declared) = (self.costs(), self.declared_costs());
        self.num_permits += 1;
        let id = PermitId(self.num_permits);
        let ask = Ask::new(self.number(api).unwrap()).with_costs(&declared).for_job(id.0);
        self.ledger.take(&self.declared, id, ask, self.now);
        let units = costs.iter().map(|cost| Units { said: cost.units, settled: None });
        self.calls.push(Call::new(id, api, units.collect()));
        self.waiting[usize::from(api)] -= 1;
        self.store();
        self.play(id, api, &costs);
        self.check(api);
        true
    }

    /// Decides what becomes of a call.
    fn play(&mut self, id: PermitId, api: ApiIx, costs: &[Cost]) {
        let script = self.scripts[id.0 as usize % self.scripts.len()];
        let wrong = self.now.plus(Span(script.write_delay));
        let mut written = wrong;
        let taken_back = written.plus(Span(900)); // before the shortest window is over
        if matches!(script.kind, Kind::Restamped | Kind::TakenBack) {
            self.at(wrong, Event::Written(id, wrong));
            self.at(taken_back, Event::Unwritten(id));
            written = taken_back.plus(Span(script.write_delay));
        }
        let travel = transit_max(&self.limits, api).0 * u64::from(script.transit) / 255;
        let arrived = written.plus(Span(travel));
        let (answered, silent) =
            (arrived.plus(Span(script.think)), written.plus(Span(script.think)));
        let over = answered.plus(Span(script.body));

        let mut report = self.now;
        let mut report_at = |at: At| {
            report = report.max(at).plus(Span(script.lag));
            report
        };
        let mut events = Vec::new();
        let mut over_at = over;
        if matches!(script.kind, Kind::Whole | Kind::Restamped | Kind::Silent) {
            events.push((report_at(written), Event::Written(id, written)));
        }
        match script.kind {
            Kind::Whole | Kind::Unstamped | Kind::Restamped | Kind::TakenBack => {
                events.push((report_at(answered), Event::Answered(id, answered)));
                events.push((report_at(over), Event::Ended(id, over, Sent::Maybe)));
            }
            Kind::Silent | Kind::Unheard => {
                over_at = silent;
                events.push((report_at(silent), Event::Ended(id, silent, Sent::Maybe)));
            }
            Kind::Unsent => {
                events.push((report_at(written), Event::Ended(id, written, Sent::Never)));
            }
        }
        let settled = script.settles.filter(|_| costs.iter().any(|cost| cost.is_estimate));
        if let Some((units, at_once)) = settled {
            let place = if at_once { 0 } else { events.len() - 1 };
            let at = if at_once { self.now } else { events[place].0 };
            events.insert(place, (at, Event::Settled(id, units)));
        }
        let ended = events[events.len() - 1].0;
        let ttls = self.limits.limits().iter().filter_map(|limit| match limit.rule {
            Rule::Jobs { ttl, .. } => Some(ttl.0),
            _ => None,
        });
        let life = ttls.min().unwrap_or(0) * u64::from(script.job.unwrap_or(255)) / 255;
        let job_over = over_at.plus(Span(life));
        if script.job.is_some() {
            events.push((job_over.max(ended), Event::Released(id)));
        }
        for (at, event) in events {
            self.at(at, event);
        }
        if !matches!(script.kind, Kind::Unsent) {
            let actual = costs.iter().map(|cost| match settled {
                Some((units, _)) if cost.is_estimate => units,
                _ => cost.units,
            });
            let actual: Vec<u32> = actual.collect();
            let costs = costs.iter().zip(&actual).map(|(said, cost)| said.units.min(*cost));
            let (at, over, costs) = (arrived, over_at, costs.collect());
            self.arrivals.push(Arrival { api, at, over, job_over, actual, costs });
        }
    }
}

/// The place of a declared limit among the provider's.
fn original(limits: &LimitSet, limit: &Limit) -> usize {
    limits.limits().iter().position(|own| own.name == limit.name).unwrap()
}

fn any_script() -> impl Strategy<Value = Script> {
    let kind = prop_oneof![
        6 => Just(Kind::Whole),
        2 => Just(Kind::Unstamped),
        1 => Just(Kind::Restamped),
        1 => Just(Kind::TakenBack),
        1 => Just(Kind::Silent),
        1 => Just(Kind::Unheard),
        1 => Just(Kind::Unsent),
    ];
    let span = |most: u64| prop_oneof![Just(0), 0..most / 20, 0..most];
    let transit = prop_oneof![Just(0), Just(255), any::<u8>()];
    let costs = prop_oneof![
        1 => Just([Cost::ONE; LIMITS_IN_TESTS]),
        1 => prop::array::uniform7(any_cost()),
    ];
    let settles = prop::option::of((0u32..7, any::<bool>()));
    let job = prop::option::of(any::<u8>());
    let times = (span(90 * MS), span(300 * MS), span(100 * MS), span(5 * MS));
    (kind, times, transit, costs, settles, job).prop_map(
        |(kind, (write_delay, think, body, lag), transit, costs, settles, job)| Script {
            kind,
            write_delay,
            transit,
            think,
            body,
            lag,
            costs,
            settles,
            job,
        },
    )
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..APIS, 1usize..4).prop_map(|(api, calls)| Op::Ask { api, calls }),
        1 => (0..APIS, 40usize..80).prop_map(|(api, calls)| Op::Ask { api, calls }),
        1 => (0..1_000 * MS, 0..500 * MS).prop_map(|(down, lag)| Op::Crash { down, lag }),
        1 => (any_order(), prop_oneof![2 => Just(APIS_EVER), 1 => 1..APIS_EVER])
            .prop_map(|(order, keep)| Op::Reload { order, keep }),
        1 => (-100i64..=100).prop_map(|ahead| Op::Step { ahead }),
        1 => Just(Op::Store),
        1 => Just(Op::Prune),
        1 => (prop::option::of(0..APIS), 0..500 * MS).prop_map(|(api, span)| Op::Hold { api, span }),
    ]
}

/// Operations and the time before each: mostly short, sometimes a clock gap.
fn any_ops() -> impl Strategy<Value = Vec<(u64, Op)>> {
    let gap = prop_oneof![4 => Just(0), 8 => 0..50 * MS, 2 => 0..1_000 * MS, 1 => 0..100_000 * MS];
    prop::collection::vec((gap, any_op()), 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn never_lets_more_arrive_than_allowed_and_is_never_late(
        limits in any_limits(),
        scripts in prop::collection::vec(any_script(), 1..12),
        ops in any_ops(),
        start in -10_000_000_000i64..10_000_000_000,
    ) {
        let mut at = At(start);
        let mut world = World::new(limits, scripts, at);
        for (gap, op) in ops {
            at = at.plus(Span(gap));
            world.at(at, Event::Op(op));
        }
        world.run();
        // Long after the last call there is nothing left to remember.
        world.ledger.prune(&world.declared, world.now.plus(Span::from_secs(1_000)));
        prop_assert!(world.ledger.is_empty());
    }
}

#[test]
fn a_stamp_taken_back_after_the_last_record_does_not_open_a_window_early() {
    let gap = Limit {
        guard: Guard::After(Span::ZERO),
        ..limit("gap", Rule::Every { gap: Span::from_millis(5) })
    };
    let script = |kind| Script {
        kind,
        write_delay: 0,
        transit: 0,
        think: 0,
        body: 0,
        lag: 0,
        costs: [Cost::ONE; LIMITS_IN_TESTS],
        settles: None,
        job: None,
    };
    let restamped = Script { write_delay: 50 * MS, ..script(Kind::Restamped) };
    // The first permit has id 1 and the second script, the next ones those after it.
    let scripts = [vec![script(Kind::Whole), restamped], vec![script(Kind::Whole); 40]].concat();
    let mut world = World::new(set([gap]), scripts, At(0));
    let mut op = |at: u64, op| world.at(At(at as i64), Event::Op(op));
    op(0, Op::Ask { api: 0, calls: 30 });
    // Stamped at 50 ms, taken back at 50.9 ms, written at 100.9 ms by the cut-off writer.
    op(50_300, Op::Store);
    op(50_500, Op::Crash { down: 0, lag: 0 });
    world.run();
}
