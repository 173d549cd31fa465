//! Tells people and machines when something is wrong for long: an account that is held, a limit that is not what was
//! declared, dead letters, deadlines that cannot be met, a store that is away, a shard that does not turn.
//!
//! Who looks at a node says what is wrong now, or sends a `Signal`; `alarms` decides what is told and when; posts
//! (`webhook`) and NATS carry it. Nothing here makes a fetch wait: whatever has no room is dropped and counted.

mod alarms;
mod sign;
#[cfg(test)]
mod tests;
pub(crate) mod watch;
pub(crate) mod webhook;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tollgate_protos::Notice;

use crate::codes::Code;
use crate::ids::{Account, AccountKey, LaneKey, Slug};
use crate::telemetry;

/// Signals of actors that wait to be looked at; further ones are dropped and counted.
const SIGNALS_MAX: usize = 1024;
/// Notices that wait for one way out; further ones are dropped and counted.
pub(crate) const WAITING_MAX: usize = 256;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An account is held for long.
    AccountHeld,
    /// A provider contradicts a declared limit.
    LimitDrift,
    /// Dead letters of a platform pass a number.
    DeadLetters,
    /// The next fetch of an account cannot be called before its deadline.
    DeadlineMissed,
    /// The object store takes no bodies for long.
    StoreAway,
    /// A shard's loop does not turn for long.
    ShardBlocked,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AccountHeld,
        Self::LimitDrift,
        Self::DeadLetters,
        Self::DeadlineMissed,
        Self::StoreAway,
        Self::ShardBlocked,
    ];

    /// Its name in notices, subjects and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccountHeld => "account_held",
            Self::LimitDrift => "limit_drift",
            Self::DeadLetters => "dead_letters",
            Self::DeadlineMissed => "deadline_missed",
            Self::StoreAway => "store_away",
            Self::ShardBlocked => "shard_blocked",
        }
    }
}

/// How far it is with that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It has begun.
    Began,
    /// It was told and goes on.
    GoesOn,
    /// It is over.
    Ended,
}

impl State {
    /// Its name in notices.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::GoesOn => "goes_on",
            Self::Ended => "ended",
        }
    }
}

/// What tells conditions apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) platform: Option<Slug>,
    pub(crate) account: Option<Account>,
    pub(crate) api: Option<Slug>,
    /// Whatever else does: a limit and how it drifts, a shard.
    pub(crate) of: Option<Box<str>>,
}

impl Key {
    fn of(kind: Kind) -> Self {
        Self { kind, platform: None, account: None, api: None, of: None }
    }

    /// The account that it is about.
    fn account_key(&self) -> Option<AccountKey> {
        let (platform, account) = (self.platform.clone()?, self.account.clone()?);
        Some(AccountKey { platform, account })
    }
}

/// What is said of a condition.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) what: String,
    pub(crate) fetch: Option<String>,
    pub(crate) limit: Option<String>,
    pub(crate) count: Option<u64>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) code: Option<Code>,
}

/// What actors say as it happens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Signal {
    /// A provider contradicts a declared limit.
    Drift { account: AccountKey, limit: String, how: &'static str },
    /// A fetch cannot be called before its deadline: it may go at `earliest`.
    Late { lane: LaneKey, fetch: String, deadline: Timestamp, earliest: Timestamp },
    /// After one that could not, the next fetch of this api can, or there is none.
    InTime { account: AccountKey, api: Slug },
}

/// The way of what actors say of trouble; cheap to clone.
#[derive(Clone)]
pub struct Signals {
    signals: mpsc::Sender<Signal>,
    dropped: metrics::Counter,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

impl Signals {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Signal>) {
        let (signals, heard) = mpsc::channel(SIGNALS_MAX);
        (Self { signals, dropped: telemetry::notices_dropped("signals") }, heard)
    }

    /// Never waits.
    pub(crate) fn tell(&self, signal: Signal) {
        if self.signals.try_send(signal).is_err() {
            self.dropped.increment(1);
        }
    }
}

/// A notice on its way out, with the bytes that all get.
#[derive(Debug)]
pub struct Outgoing {
    pub(crate) notice: Notice,
    pub(crate) kind: Kind,
    /// The same as JSON.
    pub(crate) json: Bytes,
    pub(crate) made: Instant,
}

/// A way out for notices: a bounded queue, and its name in metrics.
#[derive(Debug, Clone)]
pub struct Way {
    name: Arc<str>,
    queue: mpsc::Sender<Arc<Outgoing>>,
    told: Arc<AtomicBool>,
}

/// Where a way ends: whoever carries its notices on.
#[derive(Debug)]
pub struct End {
    name: Arc<str>,
    pub(crate) queue: mpsc::Receiver<Arc<Outgoing>>,
    /// Whether it was told that notices are not taken.
    told: Arc<AtomicBool>,
}

impl Way {
    /// A way of that name, and its end.
    pub fn new(name: &str) -> (Self, End) {
        let (queue, taken) = mpsc::channel(WAITING_MAX);
        let (name, told): (Arc<str>, _) = (name.into(), Arc::default());
        // There from the start, at zero.
        telemetry::notices_sent(&name).increment(0);
        telemetry::notices_dropped(&name).increment(0);
        let end = End { name: Arc::clone(&name), queue: taken, told: Arc::clone(&told) };
        (Self { name, queue, told }, end)
    }

    /// Never waits: without room the notice is lost on this way.
    pub(crate) fn send(&self, outgoing: &Arc<Outgoing>) {
        if self.queue.try_send(Arc::clone(outgoing)).is_err() {
            let reason = "as many as there is room for wait before it";
            dropped(&self.name, &self.told, outgoing, reason);
        }
    }
}

impl End {
    /// A notice is there.
    pub(crate) fn delivered(&self) {
        telemetry::notices_sent(&self.name).increment(1);
        if self.told.swap(false, Ordering::AcqRel) {
            telemetry::notices_taken(&self.name);
        }
    }

    /// A notice was not taken and is tried again.
    pub(crate) fn fails(&self, reason: &str) {
        if !self.told.swap(true, Ordering::AcqRel) {
            telemetry::notices_untaken(&self.name, reason);
        }
    }

    /// A notice is lost.
    pub(crate) fn lost(&self, outgoing: &Outgoing, reason: &str) {
        dropped(&self.name, &self.told, outgoing, reason);
    }
}

/// Counted each time; told once until one is taken again.
fn dropped(name: &str, told: &AtomicBool, outgoing: &Outgoing, reason: &str) {
    telemetry::notices_dropped(name).increment(1);
    if !told.swap(true, Ordering::AcqRel) {
        telemetry::notices_untaken(name, reason);
    }
    telemetry::notice_dropped(name, &outgoing.notice.id, reason);
}
