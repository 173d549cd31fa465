//! `settle`: costs that only the answer tells, a quota that others use too, headers that are missing or old, and an
//! error budget.
//!
//! Shaped after providers that charge for rows, bytes or tokens when the answer is made, and that close a property to
//! whoever has ten server errors within an hour. The window is 8 s here. Costs have a heavy tail: most answers are small,
//! some have eight times as much. The account `shared` is used by somebody else too, for a part that changes; its
//! answers say how much is left, but for those that do not, and those that say what was so a while ago. The
//! account `stormy` meets a time in which every answer is a 500.
//!
//! The cost is what the body weighs: a cost that a body names in a field is not built yet.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Arrival, Case, Mark, Reply, Seen, Sliding, Violations, ratio};
use crate::bulk::mix;

/// Bytes of an account in any window.
pub const MAX: u64 = 200_000;
/// The window, of bytes and of errors.
pub const WINDOW: Duration = Duration::from_secs(8);
/// Part of the quota that is left to people, in percent.
pub const RESERVE: u64 = 10;
/// What a call is taken to cost at first.
pub const GUESS: u64 = 10_000;
/// The most that it costs.
const COST_MAX: u64 = 2 * GUESS;
const COST_MIN: f64 = 2_500.0;
/// How heavy the tail is: smaller is heavier.
const TAIL: f64 = 1.3;
/// Calls of an account at once.
pub const AT_ONCE: u64 = 3;
/// Server errors of an account in any window before it is closed.
pub const ERRORS: u64 = 10;
/// The account that somebody else uses too.
pub const SHARED: &str = "shared";
/// The account that meets the storm.
pub const STORMY: &str = "stormy";

/// From which of its calls on every answer to it is a 500, and for how long.
const STORM: (u64, Duration) = (12, Duration::from_secs(10));
/// Answers are heard by then, and what somebody else did before is known.
const HEARD: Duration = Duration::from_millis(500);
const TOLD: Duration = Duration::from_secs(1);
/// How often somebody else calls, and how long they keep one pace.
const RIVAL_STEP: Duration = Duration::from_millis(100);
const RIVAL_TURN: Duration = Duration::from_secs(4);
/// Part of what could be used that a caller is asked to use; whoever never takes a guess back uses half.
const LEAST: f64 = 0.8;

/// The provider.
#[derive(Debug)]
pub struct Settle {
    seed: u64,
    /// The most that somebody else uses.
    rival: f64,
    wrong: bool,
    accounts: BTreeMap<String, Account>,
    log: Violations,
}

#[derive(Debug, Default)]
struct Account {
    /// Bytes by their moment, and whether they are the caller's own.
    charged: VecDeque<(Duration, u64, bool)>,
    rival_at: Duration,
    calls: u64,
    first: Option<Duration>,
    last: Duration,
    /// Bytes of the caller's own, by windows from its first call on.
    own_by_window: Vec<u64>,
    others: u64,
    /// Bytes beyond the quota at the worst moment, and beyond what the reserve leaves.
    overshoot: u64,
    beyond_reserve: u64,
    /// Calls that came while all that could be known left only the reserve.
    begun_in_reserve: u64,
    storm_until: Option<Duration>,
    errors: Sliding,
    most_errors: u64,
    closed_until: Option<Duration>,
}

impl Account {
    fn used(&mut self, at: Duration) -> u64 {
        while self.charged.front().is_some_and(|(from, ..)| *from + WINDOW <= at) {
            self.charged.pop_front();
        }
        self.charged.iter().map(|(_, bytes, _)| bytes).sum()
    }

    /// What of it a caller knows that hears every answer.
    fn known(&self, at: Duration) -> u64 {
        let is_known =
            |(from, _, own): &&(Duration, u64, bool)| *from + if *own { HEARD } else { TOLD } <= at;
        self.charged.iter().filter(is_known).map(|(_, bytes, _)| bytes).sum()
    }
}

impl Settle {
    /// A provider. `rival`: thousandths of the quota that somebody else uses at most; `wrong`: whether its caller has
    /// declared too much.
    pub fn new(seed: u64, rival: u16, wrong: bool) -> Self {
        let rival = f64::from(rival) / 1_000.0;
        Self { seed, rival, wrong, accounts: BTreeMap::new(), log: Violations::default() }
    }

    /// What somebody else has done since.
    fn pass(&mut self, name: &str, at: Duration) {
        let (seed, most) = (self.seed, self.rival);
        let account = self.accounts.entry(name.to_owned()).or_default();
        if name != SHARED || most == 0.0 {
            return;
        }
        while account.rival_at + RIVAL_STEP <= at {
            account.rival_at += RIVAL_STEP;
            let turn = account.rival_at.as_secs() / RIVAL_TURN.as_secs();
            let part = most * (mix(seed ^ mix(turn)) % 1_001) as f64 / 1_000.0;
            let bytes = MAX as f64 * part * RIVAL_STEP.as_secs_f64() / WINDOW.as_secs_f64();
            let now = account.rival_at;
            // Another tool, which leaves the reserve to people as well.
            if account.used(now) + bytes as u64 <= MAX * (100 - RESERVE) / 100 {
                account.others += bytes as u64;
                account.charged.push_back((now, bytes as u64, false));
            }
        }
    }

    /// What an answer weighs.
    fn cost(luck: u64) -> u64 {
        let even = (luck % 1_000_000 + 1) as f64 / 1_000_000.0;
        ((COST_MIN / even.powf(1.0 / TAIL)) as u64).min(COST_MAX)
    }
}

impl Case for Settle {
    fn arrive(&mut self, call: &Arrival<'_>, at: Duration) -> Reply {
        self.pass(call.account, at);
        let account = self.accounts.get_mut(call.account).expect("it was just looked at");
        account.calls += 1;
        account.first.get_or_insert(at);
        account.last = at;
        let used = account.used(at);
        if let Some(until) = account.closed_until.filter(|until| *until > at) {
            self.log.note(at, call.account, "closed for errors", None);
            let body = serde_json::json!({ "error": { "status": "CLOSED" } });
            let seconds = until.saturating_sub(at).as_millis().div_ceil(1_000);
            return Reply::refused(429, &body).header("retry-after", seconds);
        }
        if used >= MAX {
            self.log.note(at, call.account, "quota", None);
            let body = serde_json::json!({ "error": { "status": "RESOURCE_EXHAUSTED" } });
            return Reply::refused(429, &body).tells("x-quota-remaining", 0);
        }
        if call.account == STORMY && account.calls == STORM.0 {
            account.storm_until = Some(at + STORM.1);
        }
        if account.storm_until.is_some_and(|until| until > at) {
            account.errors.early(usize::MAX, WINDOW, at);
            account.errors.count(at);
            let errors = account.errors.calls.len() as u64;
            account.most_errors = account.most_errors.max(errors);
            if errors >= ERRORS {
                account.closed_until = Some(at + WINDOW);
            }
            let body = serde_json::json!({ "error": { "status": "INTERNAL" } }).to_string();
            return Reply { status: 500, body, ..Reply::default() };
        }
        if account.known(at) >= MAX * (100 - RESERVE) / 100 + GUESS {
            account.begun_in_reserve += 1;
        }
        let cost = Self::cost(call.luck);
        account.charged.push_back((at, cost, true));
        let first = account.first.unwrap_or(at);
        let window = (at.saturating_sub(first).as_nanos() / WINDOW.as_nanos()) as usize;
        account.own_by_window.resize(account.own_by_window.len().max(window + 1), 0);
        account.own_by_window[window] += cost;
        account.overshoot = account.overshoot.max((used + cost).saturating_sub(MAX));
        let kept = MAX * (100 - RESERVE) / 100;
        account.beyond_reserve = account.beyond_reserve.max((used + cost).saturating_sub(kept));
        let mut reply = Reply::good(call);
        let frame = r#"{"code":0,"rows":""}"#.len() as u64;
        let rows = "x".repeat(cost.saturating_sub(frame) as usize);
        reply.body = format!(r#"{{"code":0,"rows":"{rows}"}}"#);
        let left = MAX.saturating_sub(used + cost);
        reply.tells("x-quota-remaining", left).header("x-quota-limit", MAX)
    }

    fn marks(&self, seen: &Seen) -> Vec<Mark> {
        let all = || self.accounts.values();
        let in_flight = AT_ONCE * GUESS;
        let overshoot = all().map(|account| account.overshoot).max().unwrap_or(0);
        let mut marks = vec![Mark::at_most(
            "bytes beyond the quota in any window: the guessed cost of what was in flight",
            in_flight,
            overshoot,
        )];
        if self.wrong {
            marks.push(Mark::new(
                "refusals where too much is declared",
                "at least 1",
                self.log.count.to_string(),
                self.log.count > 0,
            ));
            let mut worst = 0;
            for one in &self.log.first {
                let same = self.log.first.iter().filter(|other| {
                    let later = other.at_ms.checked_sub(one.at_ms);
                    other.account == one.account
                        && later.is_some_and(|later| u128::from(later) < WINDOW.as_millis())
                });
                worst = worst.max(same.count() as u64);
            }
            marks.push(Mark::at_most("refusals of one account within a window", 1, worst));
            return marks;
        }
        let mark = "calls with nothing left of the quota, or of the error budget";
        marks.insert(0, Mark::unviolated(mark, &self.log, seen));
        let begun: u64 = all().map(|account| account.begun_in_reserve).sum();
        marks.push(Mark::at_most(
            "calls begun when all that was told left less than the reserve by a guess",
            0,
            begun,
        ));
        let beyond = all().map(|account| account.beyond_reserve).max().unwrap_or(0);
        let mark = "bytes of the reserve used: the guessed cost of what was in flight";
        marks.push(Mark::at_most(mark, in_flight, beyond));
        let alone = self.accounts.iter().filter(|(name, _)| *name != SHARED && *name != STORMY);
        let (mut own, mut could) = (0.0, 0.0);
        for (_, account) in alone {
            // In its last window the work came to its end: what it left is no waste.
            let whole = account.own_by_window.len().saturating_sub(1);
            own += account.own_by_window.iter().take(whole).sum::<u64>() as f64;
            could += (MAX * (100 - RESERVE) / 100) as f64 * whole as f64;
        }
        let mark = "share of what could be used, guesses given back";
        marks.push(Mark::part(mark, LEAST, ratio(own, could)));
        if let Some(stormy) = self.accounts.get(STORMY) {
            let mark = "server errors in one window of the account in the storm";
            marks.push(Mark::at_most(mark, ERRORS - 1, stormy.most_errors));
        }
        marks
    }

    fn violations(&self) -> &Violations {
        &self.log
    }
}
