//! What holds a node back now: the evidence, and what it means.
//!
//! Evidence is what nodes tell of a window of the last minute at most; [`diagnose`] is pure and names what is found,
//! the worst first, each with its share of the time, the numbers it stands on, and what changing it would buy.

mod diagnose;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::diagnose::{Finding, Kind, Report, diagnose};
use crate::pulse::{Cpu, Doing};
use crate::times::{Ends, Phase, Spent, Waits};

/// Accounts that are told one by one for each node.
pub const HELD_MAX: usize = 5;
/// Budgets that are told one by one for each node.
pub const BUDGETS_MAX: usize = 32;

/// What one node says of a window that ends now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The node.
    pub node: String,
    /// How long the window is, in seconds.
    pub window_s: f64,
    /// Fetches that wait now.
    pub waiting: u64,
    /// Attempts in flight now.
    pub in_flight: u64,
    /// Accounts with waiting fetches, now.
    pub accounts_waiting: u64,
    /// Attempts that may be in flight at once: `collect.concurrency`.
    pub slots: u64,
    /// How many of those are free now.
    pub slots_open: u64,
    /// What accounts waited for.
    pub waits: Vec<Waited>,
    /// What attempts spent their time with.
    pub phases: Vec<Phased>,
    /// How attempts ended, by platform and api.
    pub ends: Vec<Ended>,
    /// Look-ups of names.
    pub names: Spent,
    /// Shards whose loop was blocked.
    pub blocked: Vec<Blocked>,
    /// What was used of the CPUs.
    pub cpu: Cpu,
    /// Why the object store takes no bodies now, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_away: Option<String>,
    /// Whether NATS does not answer now.
    #[serde(default)]
    pub nats_away: bool,
    /// Whether queue and ledger are on NATS.
    #[serde(default)]
    pub on_nats: bool,
    /// Accounts that are held now, those with the most waiting first.
    pub held: Vec<HeldNow>,
    /// How many are held now.
    pub held_count: u64,
    /// Limits shared with others, and how many accounts wait for them now.
    pub budgets: Vec<(String, u64)>,
}

/// What accounts of an api waited for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waited {
    /// The platform.
    pub platform: String,
    /// The api whose fetch was next.
    pub api: String,
    /// For what.
    pub cause: Waits,
    /// The limit's name, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Seconds, over all accounts.
    pub seconds: f64,
}

/// What attempts of an api spent their time with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phased {
    /// The platform.
    pub platform: String,
    /// The api.
    pub api: String,
    /// With what.
    pub phase: Phase,
    /// How much.
    pub spent: Spent,
    /// The shortest since the node started, in microseconds; of the first byte alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_us: Option<u64>,
}

/// How attempts of an api ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The platform.
    pub platform: String,
    /// The api.
    pub api: String,
    /// How many ended how.
    #[serde(flatten)]
    pub ends: Ends,
}

/// A shard whose loop did not turn for 50 ms or more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Blocked {
    /// The shard.
    pub shard: usize,
    /// How often.
    pub times: u64,
    /// How long, in seconds, all times together.
    pub seconds: f64,
    /// The longest.
    pub longest_s: f64,
    /// Whether it is blocked now.
    pub now: bool,
    /// What was running in the longest.
    pub doing: Doing,
    /// For which account, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// How long its thread had a CPU meanwhile, and waited for one.
    pub ran_s: f64,
    /// See `ran_s`.
    pub starved_s: f64,
}

/// An account that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldNow {
    /// The platform.
    pub platform: String,
    /// The account.
    pub account: String,
    /// Fetches that wait.
    pub waiting: u64,
    /// Why.
    pub because: String,
    /// Until when, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<jiff::Timestamp>,
}
