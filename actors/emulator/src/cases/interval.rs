//! `interval`: at least so long from one call to the next, of a key that the shape of a call decides.
//!
//! Shaped after a provider whose reports may be asked for every 5 s (some kinds every 10 s) by each account, and by
//! each app where one call asks for several ids; times are divided by five. Every request counts, refused ones too:
//! the gap is from the last request. Requests are delayed on their way by up to 400 ms, each by its own, so that
//! they overtake each other; a caller whose gap is 1.000 s where it sends is early where they arrive.
//!
//! What a call counts in:
//!
//! | endpoint | one id | several ids |
//! |---|---|---|
//! | `/v1/account`, `/v1/campaign` | the account's gap of this endpoint, 1 s | the same |
//! | `/v1/adgroup` | the account's gap of this endpoint, 2 s | the app's gap, 300 ms |
//! | `/v1/creative` | the account's gap of this endpoint, 2 s | both at once |
//!
//! Left out, for it is not built yet: ids that the collector itself gathers into one call, and reports that wait for
//! others (accounts, campaigns, ad groups).

use std::collections::HashMap;
use std::time::Duration;

use super::{Arrival, Case, MOMENTS_MAX, Mark, Reply, Seen, Violations, param, ratio};

/// The gap of the quick endpoints.
pub const GAP: Duration = Duration::from_secs(1);
/// The gap of the slow ones.
pub const LONG_GAP: Duration = Duration::from_secs(2);
/// The app's gap between two calls of several ids.
pub const APP_GAP: Duration = Duration::from_millis(300);
/// A changed configuration is read by then.
const READ_WITHIN: Duration = Duration::from_secs(3);
/// Refusals of one key, at most, until somebody has been told.
const REFUSED_MAX: u64 = 5;
/// What a caller is asked to use of the time that gaps and its guard leave.
const LEAST: f64 = 0.95;

/// The provider.
#[derive(Debug)]
pub struct Interval {
    /// What a caller says that its requests need at most on their way.
    guard: Duration,
    /// From then on the quick endpoints ask for the long gap.
    tightens_at: Option<Duration>,
    keys: HashMap<Key, Vec<Came>>,
    moments: usize,
    log: Violations,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    App,
    Account { account: String, endpoint: String },
}

#[derive(Debug, Clone, Copy)]
struct Came {
    at: Duration,
    /// By how much it was early, and refused for it; zero: it was not.
    early: Duration,
    /// Also counted by another key: what that one asked for is not this one's time lost.
    shared: bool,
}

impl Came {
    fn is_refused(self) -> bool {
        !self.early.is_zero()
    }
}

impl Interval {
    /// A provider, and what its caller allows for the way of its requests. With `tightens_at` the quick endpoints
    /// ask for the long gap from then on, as a new version of an API does.
    pub fn new(guard: Duration, tightens_at: Option<Duration>) -> Self {
        Self { guard, tightens_at, keys: HashMap::new(), moments: 0, log: Violations::default() }
    }

    fn gap(&self, key: &Key, at: Duration) -> Duration {
        match key {
            Key::App => APP_GAP,
            Key::Account { endpoint, .. } => match endpoint.as_str() {
                "/v1/account" | "/v1/campaign" => match self.tightens_at {
                    Some(from) if at >= from => LONG_GAP,
                    _ => GAP,
                },
                _ => LONG_GAP,
            },
        }
    }

    fn keys_of(call: &Arrival<'_>) -> Vec<Key> {
        let own = Key::Account { account: call.account.into(), endpoint: call.endpoint.into() };
        let several = param(call.query, "ids").is_some_and(|ids| ids.contains(','));
        match (call.endpoint, several) {
            ("/v1/adgroup", true) => vec![Key::App],
            ("/v1/creative", true) => vec![Key::App, own],
            _ => vec![own],
        }
    }

    /// Time that the gaps need over the time they took, where nobody was killed in between.
    fn used(&self, seen: &Seen) -> Option<f64> {
        let (mut needed, mut taken) = (0.0, 0.0);
        for (key, came) in &self.keys {
            for pair in came.windows(2) {
                let [one, other] = [pair[0], pair[1]];
                if other.shared && *key != Key::App || seen.killed_between(one.at, other.at) {
                    continue;
                }
                let gap = other.at.saturating_sub(one.at).as_secs_f64();
                // A gap that is shorter by luck of the way does not make up for one that is longer.
                needed += (self.gap(key, other.at) + self.guard).as_secs_f64().min(gap);
                taken += gap;
            }
        }
        ratio(needed, taken)
    }

    /// Refusals behind which somebody called again before the gap was over.
    fn poked(&self) -> u64 {
        let mut poked = 0;
        for came in self.keys.values() {
            poked +=
                came.windows(2).filter(|pair| pair[0].is_refused() && pair[1].is_refused()).count();
        }
        poked as u64
    }

    /// Refused calls behind a moment that no late stamp explains.
    fn refused_from(&self, from: Duration, lag: Duration) -> u64 {
        let came = self.keys.values().flatten();
        came.filter(|came| came.is_refused() && came.at >= from && came.early >= lag).count() as u64
    }

    /// The most refused calls of one key before a moment.
    fn refused_until(&self, until: Duration) -> u64 {
        let of = |came: &Vec<Came>| came.iter().filter(|c| c.is_refused() && c.at < until).count();
        self.keys.values().map(of).max().unwrap_or(0) as u64
    }
}

impl Case for Interval {
    fn arrive(&mut self, call: &Arrival<'_>, at: Duration) -> Reply {
        let keys = Self::keys_of(call);
        let mut early = Duration::ZERO;
        for key in &keys {
            let last = self.keys.get(key).and_then(|came| came.last());
            let next = last.map_or(Duration::ZERO, |last| last.at + self.gap(key, at));
            early = early.max(next.saturating_sub(at));
        }
        let refused = !early.is_zero();
        if refused {
            self.log.note(at, call.account, "gap", Some(early));
        }
        let shared = keys.len() > 1;
        // What waits for whoever calls again: the gap from this very request.
        let wait = keys.iter().map(|key| self.gap(key, at)).max().unwrap_or_default();
        for key in keys {
            if self.moments < MOMENTS_MAX {
                self.moments += 1;
                self.keys.entry(key).or_default().push(Came { at, early, shared });
            }
        }
        if refused {
            let body = serde_json::json!({ "code": -10, "msg": "API limit has been exceeded." });
            let seconds = wait.as_millis().div_ceil(1_000);
            return Reply::refused(429, &body).header("retry-after", seconds);
        }
        Reply::good(call)
    }

    fn marks(&self, seen: &Seen) -> Vec<Mark> {
        let calls: usize = self.keys.values().map(Vec::len).sum();
        let keys = self.keys.len();
        if self.tightens_at.is_none() {
            let mark = format!("arrivals too early on any of {keys} keys, of {calls} counted");
            let used = "share of the calls that gap and guard allow, while nobody was killed";
            return vec![
                Mark::unviolated(&mark, &self.log, seen),
                Mark::part(used, LEAST, self.used(seen)),
            ];
        }
        // What is under way as the declaration is put right is let pass.
        let mended = seen.mended.map(|at| at + READ_WITHIN + LONG_GAP);
        let until = mended.unwrap_or(Duration::MAX);
        vec![
            Mark::new(
                "refusals once the gap is longer than declared",
                "at least 1",
                self.log.count.to_string(),
                self.log.count > 0,
            ),
            Mark::at_most("refusals right behind a refusal, within one gap", 0, self.poked()),
            Mark::at_most(
                "refusals of one key until the alarm is answered by another declaration",
                REFUSED_MAX,
                self.refused_until(until),
            ),
            Mark::new(
                "refusals from a gap behind that on, without a restart",
                "none",
                match mended {
                    Some(from) => self.refused_from(from, seen.lag).to_string(),
                    None => "there was no alarm".into(),
                },
                mended.is_some_and(|from| self.refused_from(from, seen.lag) == 0),
            ),
        ]
    }

    fn violations(&self) -> &Violations {
        &self.log
    }
}
