//! What came of it: counts, refusals, and how much of the allowed rate was used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::judge::{Account, Judge, Refusal, Slot};
use crate::profile::{Per, ProviderLimit, Rule};

/// What the provider counted so far.
#[derive(Debug, Clone, Serialize)]
pub struct Score {
    /// Calls with an account that arrived.
    pub calls: u64,
    /// Of them, those that every limit accepted.
    pub accepted: u64,
    /// Of them, those answered with 429 because of a limit.
    pub refused: u64,
    /// Requests without a usable account, or of more accounts than are counted. Not among `calls`.
    pub malformed: u64,
    /// Refusals by the name of the limit that asked for the longest wait.
    pub refused_by: BTreeMap<String, u64>,
    /// By how much the worst refused call was early, in microseconds. 0 = none was.
    pub worst_excess_us: u64,
    /// Smallest gap between two arrivals of one account, refused ones too, in microseconds.
    pub gap_min_us: Option<u64>,
    /// Most calls of one account that were open at once.
    pub open_max: u32,
    /// How much of the allowed rate was used, all limits of accounts together: least time that the accepted
    /// calls need in the order in which they came, divided by the time from the first to the last of them,
    /// both summed over accounts. 1 is perfect. `None` without dated limits or with less than two calls.
    pub share: Option<f64>,
    /// The same for every limit alone, in the order of the profile.
    pub limits: Vec<LimitScore>,
    /// The emulator's own worst delay so far, in microseconds. Arrival stamps are this late at worst, so a
    /// refusal that was early by less may be its own fault.
    pub loop_lag_max_us: u64,
    /// Every account.
    #[serde(skip)]
    pub accounts: BTreeMap<String, AccountScore>,
}

/// How one limit was used.
#[derive(Debug, Clone, Serialize)]
pub struct LimitScore {
    /// Its name.
    pub name: String,
    /// Least time that its accepted calls need, in microseconds, summed over all that it counts apart.
    pub needed_us: u64,
    /// From their first to their last arrival, in microseconds, summed likewise.
    pub taken_us: u64,
    /// `needed_us / taken_us`; `None` for calls at once, and while nothing was taken.
    pub share: Option<f64>,
}

/// What came from one account.
#[derive(Debug, Clone)]
pub struct AccountScore {
    /// Calls that arrived.
    pub calls: u64,
    /// Of them, refused ones.
    pub refused: u64,
    /// First arrival.
    pub first: Instant,
    /// Last arrival.
    pub last: Instant,
    /// Smallest gap between two arrivals.
    pub gap_min: Option<Duration>,
    /// Most calls open at once.
    pub open_max: u32,
    /// Least time that its accepted calls need under all limits of accounts together.
    pub needed: Duration,
    /// From the first accepted arrival to the last.
    pub taken: Duration,
}

/// One arrival.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whose; empty when the request named none.
    pub account: Arc<str>,
    /// The path, without the account.
    pub endpoint: Arc<str>,
    /// The query as it was sent.
    pub query: Arc<str>,
    /// When the server had read the request's head.
    pub at: Instant,
    /// Set when a limit refused it.
    pub refusal: Option<Refusal>,
}

impl Score {
    pub(crate) fn of(judge: &Judge, malformed: u64, loop_lag_max_us: u64) -> Self {
        let accounts: BTreeMap<String, AccountScore> = judge
            .accounts
            .iter()
            .map(|(name, account)| (name.to_string(), AccountScore::of(account)))
            .collect();
        let calls = accounts.values().map(|account| account.calls).sum();
        let refused = accounts.values().map(|account| account.refused).sum();
        let refused_by = judge
            .limits
            .iter()
            .zip(&judge.refused_by)
            .filter(|(_, count)| **count > 0)
            .map(|(limit, count)| (limit.name.to_string(), *count))
            .collect();
        let needed_us = accounts.values().map(|account| micros(account.needed)).sum();
        let taken_us = accounts.values().map(|account| micros(account.taken)).sum();
        let is_dated = judge
            .limits
            .iter()
            .any(|limit| limit.per != Per::Platform && matches!(limit.rule, Rule::Window { .. }));
        Self {
            calls,
            accepted: calls - refused,
            refused,
            malformed: malformed + judge.turned_away,
            refused_by,
            worst_excess_us: micros(judge.worst_excess),
            gap_min_us: accounts.values().filter_map(|account| account.gap_min).min().map(micros),
            open_max: accounts.values().map(|account| account.open_max).max().unwrap_or(0),
            share: if is_dated { share(needed_us, taken_us) } else { None },
            limits: (0..judge.limits.len()).map(|i| LimitScore::of(judge, i)).collect(),
            loop_lag_max_us,
            accounts,
        }
    }
}

impl LimitScore {
    fn of(judge: &Judge, i: usize) -> Self {
        let limit = &judge.limits[i];
        let accounts = judge.accounts.values();
        let slots: Vec<&Slot> = match limit.per {
            Per::Account => accounts.map(|account| &account.own[i]).collect(),
            Per::AccountEndpoint => {
                accounts.flat_map(|account| account.by_endpoint.values().map(|s| &s[i])).collect()
            }
            Per::Platform => vec![&judge.platform[i]],
        };
        let needed_us = slots.iter().map(|slot| micros(needed(limit, slot.accepted))).sum();
        let taken_us = slots.iter().map(|slot| micros(between(slot.first, slot.last))).sum();
        let is_dated = matches!(limit.rule, Rule::Window { .. });
        Self {
            name: limit.name.to_string(),
            needed_us,
            taken_us,
            share: if is_dated { share(needed_us, taken_us) } else { None },
        }
    }
}

impl AccountScore {
    fn of(account: &Account) -> Self {
        Self {
            calls: account.calls,
            refused: account.refused,
            first: account.first,
            last: account.last,
            gap_min: account.gap_min,
            open_max: account.open_max,
            needed: account.ideal,
            taken: between(account.accepted_first, account.accepted_last),
        }
    }
}

/// The least time from the first to the last of so many calls.
fn needed(limit: &ProviderLimit, calls: u64) -> Duration {
    match limit.rule {
        Rule::Window { max, within } => {
            let windows = calls.saturating_sub(1) / u64::from(max.get());
            within.saturating_mul(u32::try_from(windows).unwrap_or(u32::MAX))
        }
        Rule::Concurrent { .. } => Duration::ZERO,
    }
}

fn between(first: Option<Instant>, last: Option<Instant>) -> Duration {
    first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first)
}

fn share(needed_us: u64, taken_us: u64) -> Option<f64> {
    (taken_us > 0).then(|| needed_us as f64 / taken_us as f64)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
