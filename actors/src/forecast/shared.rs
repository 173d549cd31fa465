//! Accounts that share limits, walked side by side in the order of time.
//!
//! Each budget has a gate and a queue of its own: an account that its own limits would let go, and a budget does
//! not, waits in that budget's queue; whoever waits longest goes first, which are fair turns where all have the
//! same weight. No account holds one budget while it waits for another. Budgets start without earlier calls.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use tollgate_gate::{
    ApiIx, Ask, At, Because, Cost, Decision, Ledger, Limit, LimitSet, PermitId, Sent, Span, Step,
    decide, time_needed,
};

use super::Assumed;
use super::Shape;
use super::demand::Demand;
use super::outcome::{Noted, Outcome, Walked, add_use};
use crate::ids::{AccountKey, Slug};
use crate::plan::Platform;
use crate::recipe::BudgetKey;

/// A limit of the budgets, whatever the value of its key: by its place in [`Budgets::names`].
pub(super) type PlaceOfBudget = usize;

/// All budgets that fetches count in, and which of them count together.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    known: Vec<BudgetKey>,
    places: HashMap<AccountKey, usize>,
    /// Which budgets, and what a call costs there; the first is none.
    groups: Vec<Group>,
    numbers: HashMap<Group, u32>,
    /// The names of their limits, with the platform and the api of an api's own; each once.
    names: Vec<(Slug, Option<ApiIx>, String)>,
}

type Group = Vec<(usize, Vec<Cost>)>;

impl Budgets {
    /// The number of these budgets and what a call costs there; 0: none.
    pub(super) fn group(&mut self, keys: &[BudgetKey]) -> u32 {
        if keys.is_empty() {
            return 0;
        }
        let place = |key: &BudgetKey| {
            if let Some(place) = self.places.get(key.record()) {
                return *place;
            }
            for limit in key.limits().limits() {
                let name = (key.platform().clone(), limit.api, limit.name.clone());
                if !self.names.contains(&name) {
                    self.names.push(name);
                }
            }
            self.known.push(key.clone());
            self.places.insert(key.record().clone(), self.known.len() - 1);
            self.known.len() - 1
        };
        let places: Vec<usize> = keys.iter().map(place).collect();
        let group: Group = places
            .into_iter()
            .zip(keys)
            .map(|(place, key)| (place, key.costs().to_vec()))
            .collect();
        if self.groups.is_empty() {
            self.groups.push(Group::new());
        }
        if let Some(number) = self.numbers.get(&group) {
            return *number;
        }
        let number = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        self.groups.push(group.clone());
        self.numbers.insert(group, number);
        number
    }

    /// Every limit of these budgets: its place, its platform, and one of its kind.
    pub(super) fn limits(&self) -> impl Iterator<Item = (PlaceOfBudget, &Slug, &Limit)> {
        self.names.iter().enumerate().filter_map(|(place, (platform, api, name))| {
            let of_it = self.known.iter().filter(move |key| key.platform() == platform);
            let limit = of_it
                .flat_map(|key| key.limits().limits())
                .find(|limit| limit.api == *api && limit.name == *name);
            limit.map(|limit| (place, platform, limit))
        })
    }

    /// The budgets with some limits changed, where `change` answers with a set.
    pub(super) fn changed(&self, change: impl Fn(&Slug, &LimitSet) -> Option<LimitSet>) -> Sets {
        let set = |key: &BudgetKey| change(key.platform(), key.limits());
        Sets(self.known.iter().map(set).collect())
    }

    fn of(&self, group: u32) -> &[(usize, Vec<Cost>)] {
        self.groups.get(group as usize).map_or(&[], Vec::as_slice)
    }

    fn place(&self, platform: &Slug, limit: &Limit) -> Option<PlaceOfBudget> {
        let is_it = |(of, api, name): &(Slug, Option<ApiIx>, String)| {
            of == platform && *api == limit.api && *name == limit.name
        };
        self.names.iter().position(is_it)
    }
}

/// By budgets: limits that are not the declared ones.
pub(super) struct Sets(Vec<Option<LimitSet>>);

impl Sets {
    /// All as declared.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl Shape {
    /// Whether some of its calls count in a budget.
    pub(super) fn shares(&self) -> bool {
        self.lanes.iter().any(|lane| lane.group > 0)
    }
}

/// A budget on its way.
struct Shared<'a> {
    limits: &'a LimitSet,
    /// What its limits are called among all.
    places: Vec<Option<PlaceOfBudget>>,
    ledger: Ledger,
    flights: BinaryHeap<Reverse<(At, u64)>>,
    next_id: u64,
    /// Who waits, in the order of their turns.
    queue: VecDeque<Queued>,
    /// The limit that shut it last.
    shut_by: usize,
    /// Whether it is looked at again already.
    is_due: bool,
    uses: Vec<Option<(At, At, u64)>>,
}

/// An account that waits for its turn.
#[derive(Clone, Copy)]
struct Queued {
    account: usize,
    api: ApiIx,
    group: u32,
    since: At,
    /// For which of the budget's limits.
    place: usize,
}

enum Gate {
    Open,
    /// Until when at least.
    Shut(At),
}

impl Shared<'_> {
    fn settle(&mut self, now: At) {
        while let Some(Reverse((at, id))) = self.flights.peek().copied()
            && at <= now
        {
            self.flights.pop();
            self.ledger.answered(self.limits, PermitId(id), at);
            self.ledger.ended(self.limits, PermitId(id), at, Sent::Maybe);
        }
    }

    fn asked(&mut self, api: ApiIx, costs: &[Cost], now: At) -> Gate {
        self.settle(now);
        let ask = Ask::new(api).with_costs(costs);
        match decide(self.limits, &self.ledger, self.ledger.holds(), ask, now) {
            Decision::Go => Gate::Open,
            Decision::WaitUntil { at, because } => {
                let answer = self.flights.peek().map(|Reverse((at, _))| *at);
                let until = [at, answer].into_iter().flatten().min().unwrap_or(At::MAX);
                if let Because::Limit(place) = because {
                    self.shut_by = place;
                }
                Gate::Shut(until.max(At(now.0.saturating_add(1))))
            }
            // Checked with the fetch; nothing of it goes.
            Decision::Never { .. } => Gate::Shut(At::MAX),
        }
    }

    fn take(&mut self, api: ApiIx, costs: &[Cost], now: At, latency: Span) {
        if self.limits.limits().is_empty() {
            return;
        }
        let id = PermitId(self.next_id);
        self.next_id += 1;
        self.ledger.take(self.limits, id, Ask::new(api).with_costs(costs), now);
        self.ledger.written(self.limits, id, now);
        self.flights.push(Reverse((now.plus(latency), id.0)));
        for (place, limit) in self.limits.limits().iter().enumerate() {
            let units = costs.get(place).map_or(1, |cost| u64::from(cost.units));
            if units > 0 && limit.api.is_none_or(|only| only == api) {
                let (first, _, before) = self.uses[place].unwrap_or((now, now, 0));
                self.uses[place] = Some((first, now, before + units));
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A budget may let its first go.
    Budget(usize),
    /// An account goes on.
    Account(usize),
}

/// Walks all accounts of a platform, each with the limits it is to have, and the budgets with theirs.
pub(super) fn walk<'a>(
    platform: &Platform,
    shapes: impl Iterator<Item = (&'a Shape, &'a LimitSet)>,
    budgets: &'a Budgets,
    sets: &'a Sets,
    start: At,
    assumed: &Assumed,
) -> Walked {
    let accounts: Vec<Noted<'_>> =
        shapes.map(|(shape, limits)| Noted::new(platform, limits, shape, start, assumed)).collect();
    let shared = budgets.known.iter().enumerate().map(|(place, key)| {
        let limits = sets.0.get(place).and_then(Option::as_ref).unwrap_or(key.limits());
        let names = limits.limits().iter().map(|limit| budgets.place(key.platform(), limit));
        Shared {
            limits,
            places: names.collect(),
            ledger: Ledger::new(),
            flights: BinaryHeap::new(),
            next_id: 0,
            queue: VecDeque::new(),
            shut_by: 0,
            is_due: false,
            uses: vec![None; limits.limits().len()],
        }
    });
    let mut all = SideBySide {
        budgets,
        shared: shared.collect(),
        waits: vec![BTreeMap::new(); accounts.len()],
        accounts,
        events: BinaryHeap::new(),
        count: 0,
        demand: Demand::default(),
    };
    for place in 0..all.accounts.len() {
        all.at(start, Event::Account(place));
    }
    while let Some(Reverse((at, _, event))) = all.events.pop() {
        match event {
            Event::Account(account) => all.go_on(account, None),
            Event::Budget(budget) => all.next_of(budget, at),
        }
    }
    all.walked()
}

struct SideBySide<'a> {
    budgets: &'a Budgets,
    shared: Vec<Shared<'a>>,
    accounts: Vec<Noted<'a>>,
    /// What each waited for in budgets.
    waits: Vec<BTreeMap<PlaceOfBudget, Span>>,
    /// The soonest first, those of one moment in the order in which they came.
    events: BinaryHeap<Reverse<(At, u64, Event)>>,
    count: u64,
    demand: Demand,
}

impl SideBySide<'_> {
    fn at(&mut self, at: At, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count, event)));
    }

    /// The first in a budget's queue has its turn.
    fn next_of(&mut self, budget: usize, now: At) {
        self.shared[budget].is_due = false;
        let Some(first) = self.shared[budget].queue.front().copied() else { return };
        if let Gate::Shut(until) = self.ask(budget, first, now) {
            self.look_again(budget, until);
            return;
        }
        self.shared[budget].queue.pop_front();
        self.accounts[first.account].walk.keep_until(now);
        if let Some(place) = self.shared[budget].places[first.place] {
            let sum = self.waits[first.account].entry(place).or_default();
            *sum = Span(sum.0.saturating_add(now.since(first.since).0));
        }
        self.go_on(first.account, Some(budget));
        if let Some(next) = self.shared[budget].queue.front().copied() {
            let until = match self.ask(budget, next, now) {
                Gate::Open => now,
                Gate::Shut(until) => until,
            };
            self.look_again(budget, until);
        }
    }

    fn look_again(&mut self, budget: usize, at: At) {
        if !self.shared[budget].is_due && at < At::MAX {
            self.shared[budget].is_due = true;
            self.at(at, Event::Budget(budget));
        }
    }

    fn ask(&mut self, budget: usize, queued: Queued, now: At) -> Gate {
        let mut of_group = self.budgets.of(queued.group).iter();
        let costs =
            of_group.find(|(place, _)| *place == budget).map_or(&[][..], |(_, costs)| costs);
        self.shared[budget].asked(queued.api, costs, now)
    }

    /// An account makes calls until others are first, or a budget keeps it. `turn`: in which budget it has its
    /// turn, and need not queue.
    fn go_on(&mut self, account: usize, turn: Option<usize>) {
        loop {
            let next = self.events.peek().map_or(At::MAX, |Reverse((at, ..))| *at);
            let mut kept: Option<(usize, ApiIx, u32, At)> = None;
            let (shared, budgets) = (&mut self.shared, self.budgets);
            let admit = |api: ApiIx, group: u32, now: At| {
                if group == 0 {
                    return None;
                }
                if now > next {
                    return Some(now);
                }
                for (budget, costs) in budgets.of(group) {
                    let queues = !shared[*budget].queue.is_empty() && turn != Some(*budget);
                    let until = match shared[*budget].asked(api, costs, now) {
                        Gate::Open if !queues => continue,
                        Gate::Open => now,
                        Gate::Shut(until) => until,
                    };
                    kept = Some((*budget, api, group, until));
                    return Some(now);
                }
                None
            };
            match self.accounts[account].step(&mut self.demand, admit) {
                Step::Called { api, group, at } => {
                    let latency = self.accounts[account].latency(api);
                    for (budget, costs) in self.budgets.of(group) {
                        self.shared[*budget].take(api, costs, at, latency);
                    }
                    if group > 0 {
                        // One call is one turn.
                        self.at(at, Event::Account(account));
                        return;
                    }
                }
                Step::Kept => {
                    let since = self.accounts[account].walk.now();
                    let Some((budget, api, group, until)) = kept else {
                        self.at(since, Event::Account(account));
                        return;
                    };
                    let place = self.shared[budget].shut_by;
                    self.shared[budget].queue.push_back(Queued {
                        account,
                        api,
                        group,
                        since,
                        place,
                    });
                    self.look_again(budget, until);
                    return;
                }
                Step::Ended => return,
            }
        }
    }

    fn walked(self) -> Walked {
        let mut used = BTreeMap::new();
        for shared in &self.shared {
            for (place, counted) in shared.uses.iter().enumerate() {
                if let (Some((first, last, units)), Some(name)) = (counted, shared.places[place]) {
                    let needed = time_needed(shared.limits.limits()[place].rule, *units);
                    add_use(&mut used, name, needed, *first, *last);
                }
            }
        }
        let outcomes: Vec<Outcome> = self
            .accounts
            .into_iter()
            .zip(self.waits)
            .map(|(noted, waits)| noted.outcome(waits))
            .collect();
        Walked { outcomes, demand: self.demand, used }
    }
}
