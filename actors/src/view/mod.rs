//! What people see of accounts: one of them with all that holds it, pages of many, and what all come to.
//!
//! The forms here are what the control socket, the service on NATS, `status`, `top` and the page share. They only grow:
//! a reader passes over what it does not know, and takes what is missing as not told.
//!
//! Nothing is kept for it on the way of a fetch but `answers`: what is told is made of the gates, lanes and
//! sums that are there anyway, when somebody asks, stretch by stretch of a shard's accounts.

pub(crate) mod account;
pub(crate) mod answers;
pub(crate) mod eta;
pub mod list;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::Priority;
use crate::shard::AccountLook;
use crate::times::Waits;

/// Most calls of one counter that are told one by one, the newest ones.
pub const CALLS_MAX: usize = 256;
/// Most next calls of an account that are told.
pub const NEXT_MAX: usize = 20;
/// Most accounts on one page.
pub const PAGE_MAX: usize = 1_000;

/// When the last waiting fetch would be done, if all goes on as it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eta {
    /// When.
    pub at: Timestamp,
    /// It is an estimate by rates: there was too much to walk through call by call, or something is shared with others.
    #[serde(default, skip_serializing_if = "is_false")]
    pub about: bool,
    /// What it waits for longest until then: a limit by its name, `collect.concurrency`, a hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// How an account is kept now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountState {
    /// It has an actor.
    Live,
    /// It is a record and a deadline: nothing happens to it for a while.
    Resting,
    /// Work was found, and it waits for its turn to have an actor.
    Ready,
    /// Its actor died and starts again.
    Restarting,
    /// No node works on it: what is told is from its stored record.
    AtRest,
}

/// One account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountView {
    /// The provider.
    pub platform: String,
    /// Whom it counts.
    pub account: String,
    /// The node that works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How it is kept.
    pub state: AccountState,
    /// The moment that all this is of.
    pub now: Timestamp,
    /// Fetches that wait.
    pub waiting: u64,
    /// Attempts in flight.
    pub in_flight: u32,
    /// Where they wait.
    pub lanes: Vec<LaneView>,
    /// What the next call waits for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The same as one of a few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Waits>,
    /// When the next call may go; nothing where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Its limits, and those that it shares with others.
    pub limits: Vec<LimitView>,
    /// What shuts its gate beside limits.
    pub holds: Vec<HoldView>,
    /// The last answers, the newest first.
    pub answers: Vec<AnswerView>,
    /// The next calls, as the gate would let them go if nothing else comes: at most [`NEXT_MAX`].
    pub next: Vec<NextCall>,
    /// When the last of what waits would be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<Eta>,
}

impl AccountView {
    /// Whether calls are told one by one.
    pub(crate) fn has_calls(&self) -> bool {
        self.counters().any(|counter| !counter.calls.is_empty())
    }

    fn counters(&self) -> impl Iterator<Item = &CounterView> {
        self.limits.iter().flat_map(|limit| &limit.counters)
    }

    /// Leaves the older half of them out, for a message that has no room for all.
    pub(crate) fn leave_out_calls(&mut self) {
        for counter in self.limits.iter_mut().flat_map(|limit| &mut limit.counters) {
            let older = counter.calls.len().div_ceil(2);
            counter.calls.drain(..older);
            counter.calls_left_out += older as u64;
        }
    }
}

/// A lane of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneView {
    /// Its api.
    pub api: String,
    /// Its priority.
    pub priority: Priority,
    /// Fetches that wait there.
    pub waiting: u64,
}

/// How a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// A least time between two calls.
    Every,
    /// A window that slides.
    Sliding,
    /// A token bucket.
    Bucket,
    /// Calls in flight.
    Concurrent,
    /// A window that starts anew at times of the calendar.
    Calendar,
    /// A window that the first call opens.
    FirstUse,
    /// A score that falls with time.
    Score,
    /// Jobs that the provider works on.
    Jobs,
}

/// A limit of an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitView {
    /// Its name in the configuration.
    pub name: String,
    /// How it counts.
    pub kind: LimitKind,
    /// Its key: `account`, `api`, or what it is shared by.
    pub per: Vec<String>,
    /// The api whose calls it counts; nothing: those of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Most units in a window, in flight, or in the bucket.
    pub max: u64,
    /// The window or gap, the time in which the bucket fills; nothing where it counts what is in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// The guard, if it has one; nothing too where only the answer tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_ms: Option<u64>,
    /// It is shared with other accounts: a budget.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
    /// What counts of it now; none where that is not known: of a budget that is another node's, or at rest.
    pub counters: Vec<CounterView>,
}

/// One counter of a limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CounterView {
    /// Whose calls, where each api is counted by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Units that count: those charged, and those in flight.
    pub used: u64,
    /// Of these, units of calls in flight and of jobs: their charges are to come.
    pub reserved: u64,
    /// The window that counts now begins here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the first charge has left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frees: Option<Timestamp>,
    /// When all have, and the limit is as if it had never been used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clears: Option<Timestamp>,
    /// The calls that count, in order of time: at most [`CALLS_MAX`], the newest.
    pub calls: Vec<CallView>,
    /// Older ones that count and are not among them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub calls_left_out: u64,
}

/// What was charged at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallView {
    /// When; of limits of more than 64 rounded up to a 60th of the window.
    pub at: Timestamp,
    /// So many units.
    pub units: u32,
}

/// Who holds an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// Somebody, with `tollgate pause` or the like.
    Operator,
    /// The provider, by a refusal or by what an answer said; also what Tollgate does because of that.
    Provider,
}

/// What shuts a gate beside limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// Who set it.
    pub by: Holder,
    /// What it is of: `PLATFORM[/ACCOUNT[/API]]`.
    pub of: String,
    /// Why.
    pub reason: String,
    /// Since when, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Until when; nothing: until it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerView {
    /// When it was over.
    pub at: Timestamp,
    /// Its api.
    pub api: String,
    /// The answer's status, where that was kept: of calls that brought nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// As metrics name it: `ok`, `throttled`, `transient`, …
    pub class: String,
}

/// A call to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextCall {
    /// When it would go.
    pub at: Timestamp,
    /// Its api.
    pub api: String,
}

/// How accounts are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Those with the most waiting first.
    #[default]
    Waiting,
    /// Those with the most in flight first.
    InFlight,
    /// Those whose next call goes first.
    Until,
    /// By platform and name.
    Name,
}

/// Which accounts, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountsQuestion {
    /// Only of this platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Only those in whose name this occurs, whatever the case of letters of ASCII.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<String>,
    /// In which order.
    pub sort: Sort,
    /// The other way round.
    #[serde(skip_serializing_if = "is_false")]
    pub reverse: bool,
    /// Only those that are held, by an operator or by a provider.
    #[serde(skip_serializing_if = "is_false")]
    pub held: bool,
    /// Only those with dead letters, also where nothing waits any more. The first 10,000 letters are looked at.
    #[serde(skip_serializing_if = "is_false")]
    pub dead: bool,
    /// Those that come after this one: [`AccountsPage::next`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Most of them. Default 100, at most [`PAGE_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<usize>,
}

/// A page of accounts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AccountsPage {
    /// How many accounts there are that were asked for, on all pages.
    pub matching: u64,
    /// Those of this page, in order.
    pub accounts: Vec<AccountLook>,
    /// Where the next page goes on; nothing after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The nodes of a cluster that answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Shards of those nodes that do not turn: their accounts are missing.
    #[serde(default)]
    pub shards_silent: u64,
}

/// How attempts ended, a second each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// All of them.
    pub calls: f64,
    /// Stored.
    pub done: f64,
    /// Refused as too many.
    pub throttled: f64,
    /// No connection.
    pub unreachable: f64,
    /// Not taken by the object store.
    pub store_away: f64,
    /// Anything else.
    pub failed: f64,
}

impl Rates {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.done += other.done;
        self.throttled += other.throttled;
        self.unreachable += other.unreachable;
        self.store_away += other.store_away;
        self.failed += other.failed;
    }
}

/// What a platform's accounts come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlatformView {
    /// Its name.
    pub platform: String,
    /// Fetches that wait.
    pub waiting: u64,
    /// Attempts in flight.
    pub in_flight: u64,
    /// Accounts with such.
    pub accounts: u64,
    /// Accounts that are held, by whomever.
    pub held: u64,
    /// Accounts with waiting fetches, by what the next one waits for.
    pub causes: BTreeMap<Waits, u64>,
    /// Over about the last 10 s.
    pub rates: Rates,
    /// Over about the last minute.
    pub rates_minute: Rates,
    /// Calls a second that the limits allow the accounts with work in the long run: the least of `shared` and `own`;
    /// nothing where no limit that counts by time applies to all their calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<f64>,
    /// What all of the platform's calls share allows them together: the same on every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<f64>,
    /// What their own limits allow the accounts with work; of several nodes the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<f64>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// Accounts that it knows, and how many of them have an actor.
    pub known: u64,
    /// See `known`.
    pub live: u64,
    /// Attempts that may be in flight at once.
    pub slots: u64,
    /// How many of those are free.
    pub slots_open: u64,
    /// Of the 64 partitions of the accounts, how many it holds.
    pub partitions: u32,
    /// Attempts of other nodes' accounts that it makes now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub guests: u64,
    /// Its object store takes no bodies.
    #[serde(default, skip_serializing_if = "is_false")]
    pub store_away: bool,
    /// NATS, or its state, does not answer it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub back_away: bool,
}

/// What all accounts come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// Whether a node works.
    pub running: bool,
    /// The moment that all this is of.
    pub now: Timestamp,
    /// Fetches that wait.
    pub waiting: u64,
    /// Fetches put aside until their `not_before`; nothing where that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postponed: Option<u64>,
    /// Attempts in flight.
    pub in_flight: u64,
    /// Dead letters, at most 100,000 of a folder are counted; nothing where that could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<u64>,
    /// Over about the last 10 s.
    pub rates: Rates,
    /// Over about the last minute.
    pub rates_minute: Rates,
    /// Calls a second that limits allow, over the platforms where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<f64>,
    /// When the last of what waits would be done, but for `without_eta`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<Eta>,
    /// Fetches that wait and of which nobody can tell when they are done: of accounts that are held without an end, and
    /// of nodes that tell no ETA.
    #[serde(default)]
    pub without_eta: u64,
    /// Shards that do not turn: what their accounts come to is missing here.
    #[serde(default)]
    pub shards_silent: u64,
    /// By name.
    pub platforms: Vec<PlatformView>,
    /// By name.
    pub nodes: Vec<NodeView>,
}

impl Overview {
    /// Nothing, as of that moment.
    pub fn empty(now: Timestamp) -> Self {
        Self {
            running: false,
            now,
            waiting: 0,
            postponed: None,
            in_flight: 0,
            dead: None,
            rates: Rates::default(),
            rates_minute: Rates::default(),
            allowed: None,
            eta: None,
            without_eta: 0,
            shards_silent: 0,
            platforms: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Adds what another node says.
    pub fn add(&mut self, other: Self) {
        self.running |= other.running;
        self.now = self.now.max(other.now);
        self.waiting += other.waiting;
        self.in_flight += other.in_flight;
        // One place for all nodes.
        self.postponed = self.postponed.max(other.postponed);
        self.dead = self.dead.max(other.dead);
        self.rates.add(&other.rates);
        self.rates_minute.add(&other.rates_minute);
        // One of an earlier version does not say so itself.
        self.without_eta += if other.eta.is_none() { other.waiting } else { other.without_eta };
        self.eta = later(self.eta.take(), other.eta);
        self.shards_silent += other.shards_silent;
        for mut platform in other.platforms {
            // A node of an earlier version tells only the least of both.
            if platform.shared.is_none() && platform.own.is_none() {
                platform.own = platform.allowed;
            }
            let known = self.platforms.binary_search_by(|own| own.platform.cmp(&platform.platform));
            match known {
                Ok(place) => self.platforms[place].add(platform),
                Err(place) => self.platforms.insert(place, platform),
            }
        }
        let allowed = self.platforms.iter().filter_map(|platform| platform.allowed);
        self.allowed = allowed.reduce(|one, other| one + other);
        self.nodes.extend(other.nodes);
        self.nodes.sort_by(|one, two| one.node.cmp(&two.node));
    }
}

impl PlatformView {
    fn add(&mut self, other: Self) {
        self.own = match (self.accounts, other.accounts) {
            (_, 0) => self.own,
            (0, _) => other.own,
            // One account without such a limit, and together they have none.
            _ => self.own.zip(other.own).map(|(one, other)| one + other),
        };
        // Shared by all nodes; of nodes with other configurations the strictest.
        self.shared = least(self.shared, other.shared);
        self.allowed = least(self.shared, self.own);
        self.waiting += other.waiting;
        self.in_flight += other.in_flight;
        self.accounts += other.accounts;
        self.held += other.held;
        for (cause, count) in other.causes {
            *self.causes.entry(cause).or_default() += count;
        }
        self.rates.add(&other.rates);
        self.rates_minute.add(&other.rates_minute);
    }
}

/// The least that is told.
pub(crate) fn least(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The later of two.
pub(crate) fn later(one: Option<Eta>, other: Option<Eta>) -> Option<Eta> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.at >= other.at { one } else { other }),
        (one, other) => one.or(other),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde's `skip_serializing_if` asks for
fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as above
fn is_false(is: &bool) -> bool {
    !*is
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview(platform: PlatformView) -> Overview {
        Overview { platforms: vec![platform], ..Overview::empty(Timestamp::UNIX_EPOCH) }
    }

    /// What several nodes allow together, of one platform.
    fn together(nodes: impl IntoIterator<Item = PlatformView>) -> (Option<f64>, Option<f64>) {
        let mut all = Overview::empty(Timestamp::UNIX_EPOCH);
        nodes.into_iter().for_each(|node| all.add(overview(node)));
        (all.allowed, all.platforms[0].allowed)
    }

    #[test]
    fn what_waits_without_an_end_in_sight_is_told_beside_the_eta_of_the_rest() {
        let now = Timestamp::UNIX_EPOCH;
        let eta = Some(Eta { at: now, about: false, by: None });
        let mut all = Overview::empty(now);
        all.add(Overview { waiting: 5, eta, without_eta: 2, ..Overview::empty(now) });
        assert_eq!((all.eta.is_some(), all.without_eta), (true, 2));
        all.add(Overview { waiting: 7, ..Overview::empty(now) });
        assert_eq!((all.eta.is_some(), all.without_eta), (true, 9), "a node that tells none");
    }

    fn node(accounts: u64, shared: Option<f64>, own: Option<f64>) -> PlatformView {
        let allowed = least(shared, own);
        PlatformView { accounts, allowed, shared, own, ..PlatformView::default() }
    }

    #[test]
    fn what_all_nodes_share_is_allowed_once_and_what_accounts_have_of_their_own_on_each() {
        let both = |one, other| together([one, other]);
        let shared = node(9, Some(10.0), Some(90.0));
        assert_eq!(both(shared.clone(), shared), (Some(10.0), Some(10.0)));
        // Each for itself has less than it shares with the other.
        let own = node(3, Some(10.0), Some(6.0));
        assert_eq!(both(own.clone(), own).1, Some(10.0));
        let own = node(1, Some(10.0), Some(2.0));
        assert_eq!(both(own.clone(), own.clone()).1, Some(4.0));
        // A node without work adds nothing, and one with an account without a limit takes the bound away.
        assert_eq!(both(own.clone(), node(0, Some(10.0), None)).1, Some(2.0));
        assert_eq!(both(node(2, None, Some(5.0)), node(1, None, None)), (None, None));
        let earlier = PlatformView { accounts: 1, allowed: Some(3.0), ..PlatformView::default() };
        assert_eq!(both(earlier, own).1, Some(5.0));
    }
}
