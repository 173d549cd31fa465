//! One thread of a node with its own actors: nothing on the way of a fetch leaves it but IO.
//!
//! The shard actor is the supervisor of its throttle and collector actors. It starts a throttle actor
//! when an account has work, restarts one that died, and keeps the deadlines of those that rest. It knows
//! nothing of limits: when a resting account is due was said by its own gate.

pub(crate) mod accounts;
pub mod actor;
mod baseline;
mod budgets;
pub(crate) mod census;
pub mod context;
pub(crate) mod guests;
pub(crate) mod held;
mod parts;
pub mod permit;
mod reload;
pub(crate) mod showing;
pub mod store_health;

pub use actor::Shard;

use actix::Message;

use crate::ids::LaneKey;

/// Work that waits in a lane.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which lane.
    pub lane: LaneKey,
    /// How many fetches.
    pub count: u64,
    /// True: all that wait there. False: that many more.
    pub all: bool,
}

/// Sent by the node; work has been found in these accounts of this shard. Repeats are harmless for
/// `all`, and cost a look for the others. The reply means that the shard has taken note.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Work(pub Vec<Found>);

/// Sent by the node: the store takes bodies again, or some other reason to look again has come.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookAgain;

/// Sent by the keeper of credentials: what this account waits for has come, or has not. It looks again, also where
/// it rests.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Wake {
    pub(crate) ix: accounts::Ix,
    pub(crate) key: crate::ids::AccountKey,
}

/// Sent by the node: operators' holds came, went or changed. Whoever they concern looks again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HoldsChanged(pub Vec<crate::holds::Scope>);

/// Sent by the node: another configuration is in force. The reply means that each account of the shard decides by it
/// from its next decision on. Repeats are harmless.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Reload(pub(crate) std::sync::Arc<crate::plan::Plan>);

/// Sent by the node: what is owned of these partitions has changed. Accounts of those that this node leaves end,
/// the others look again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct PartsChanged(pub(crate) crate::cluster::Parts);

/// Sent by the node: in which of these partitions does nobody work, with nothing in flight and the last records
/// written?
#[derive(Debug, Message)]
#[rtype(result = "crate::cluster::Parts")]
pub(crate) struct Quiet(pub(crate) crate::cluster::Parts);

/// Sent by the node: give no more permits. The reply comes when nothing is in flight and the last records
/// are written, or when `within` has passed; then calls still in flight are dropped.
#[derive(Debug, Message)]
#[rtype(result = "Drained")]
pub struct Drain {
    /// How long calls in flight may go on.
    pub within: std::time::Duration,
}

/// How a drain of a shard ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Calls that had to be broken off.
    pub broken_off: usize,
}

/// Sent by the node: what do accounts look like?
#[derive(Debug, Message)]
#[rtype(result = "Looks")]
pub struct Look {
    /// Only this platform.
    pub platform: Option<String>,
    /// Only this account.
    pub account: Option<String>,
    /// Most accounts told one by one.
    pub most: usize,
}

/// Sent by the node: are you there? The reply says yes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Beat;

/// Sent by the node, stretch after stretch: what do your accounts come to, from this place on? No more than a
/// stretch is counted in one turn of the shard.
#[derive(Debug, Message)]
#[rtype(result = "Tallied")]
pub(crate) struct Tally {
    pub(crate) from: accounts::Ix,
}

/// What a stretch of accounts comes to.
#[derive(Debug, Default)]
pub(crate) struct Tallied {
    /// Where to go on; nothing at the end.
    pub(crate) next: Option<accounts::Ix>,
    /// Fetches that wait, by platform.
    pub(crate) waiting: std::collections::BTreeMap<crate::ids::Slug, u64>,
    /// Accounts with such, by what the next one waits for.
    pub(crate) causes: std::collections::BTreeMap<(crate::ids::Slug, crate::times::Waits), u64>,
    /// Those of them that wait for a limit of their own, by its place among the platform's.
    pub(crate) limits: std::collections::BTreeMap<(crate::ids::Slug, usize), u64>,
    /// Accounts that rest.
    pub(crate) resting: u64,
    /// Of the whole shard: accounts known, and those with an actor.
    pub(crate) known: u64,
    pub(crate) live: u64,
}

/// What a shard's accounts look like.
#[derive(Debug, Clone, Default)]
pub struct Looks {
    /// Accounts with something waiting or in flight, one by one, at most as many as were asked for.
    pub accounts: Vec<AccountLook>,
    /// Fetches waiting in all accounts that were asked for.
    pub waiting: u64,
    /// Attempts in flight in them.
    pub in_flight: u64,
    /// Accounts known: with work, or with limits that remember them.
    pub known: u64,
    /// Accounts that have an actor.
    pub live: u64,
}

/// What an account looks like from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AccountLook {
    /// The provider.
    pub platform: String,
    /// Whom it counts.
    pub account: String,
    /// Fetches that wait.
    pub waiting: u64,
    /// Attempts in flight.
    pub in_flight: u32,
    /// What the next call waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The same as one of a few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<crate::times::Waits>,
    /// When the next call may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<jiff::Timestamp>,
    /// When the last of what waits would be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<crate::view::Eta>,
}

/// Sent by a death notice: an account's throttle actor is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct AccountDied {
    pub(crate) ix: accounts::Ix,
    pub(crate) incarnation: u64,
    pub(crate) reason: String,
}

/// Sent by a death notice: a budget's actor is gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct BudgetDied {
    pub(crate) record: crate::ids::AccountKey,
    pub(crate) incarnation: u64,
    pub(crate) reason: String,
}

/// Sent by the node when all shards are drained: the budgets store what they know and end. The reply comes when
/// they have, or when `within` has passed.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SettleBudgets {
    pub(crate) within: std::time::Duration,
}

/// Sent by a death notice: a collector is gone. Its permit has told of the attempt.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct CollectorDied {
    pub(crate) reason: String,
}

/// Sent by a throttle actor that rests or is gone for good: there is room for another.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Room;
