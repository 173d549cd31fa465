//! Whether a node is alive, and whether it is ready: what `/healthz` and `/readyz` say.
//!
//! Whoever knows of a reason not to be ready says so here by a name, and takes it back; a node beats for its
//! shards. Nothing here asks anybody, so that the answer never waits for what it is about.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::cluster::Owned;

/// The node has not looked yet at what waits.
pub const STARTING: &str = "starting";
/// The node gives no more permits and ends.
pub const DRAINING: &str = "draining";
/// The connection to NATS.
pub const NATS: &str = "nats";
/// The object store.
pub const STORE: &str = "store";
/// A shard does not answer.
const SHARDS: &str = "shards";

/// A shard that has not answered for so long is stuck.
pub const SHARD_PATIENCE: Duration = Duration::from_secs(5);
/// Longest reason in bytes; the rest is cut.
const REASON_BYTES_MAX: usize = 512;

/// A reason not to be ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// What is concerned: `nats`, `store`, `starting`, `draining`, `shards`.
    pub name: &'static str,
    /// What is the matter, as a sentence.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// The state of a node, shared by all that know of it. Usable from any thread; nothing in it waits.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    inner: Mutex<Inner>,
    owned: OnceLock<Owned>,
}

#[derive(Debug, Default)]
struct Inner {
    /// In the order in which they came; one per name, and names are constants of the code.
    conditions: Vec<Condition>,
    /// When each shard last answered.
    beats: Vec<Instant>,
}

impl Health {
    /// A node that starts.
    pub fn new(clock: Clock) -> Arc<Self> {
        let health = Self { clock, inner: Mutex::default(), owned: OnceLock::new() };
        health.set(STARTING, "the node has not looked yet at what waits");
        Arc::new(health)
    }

    /// From now on [`Health::partitions`] tells what this node owns. A second one is not asked.
    pub fn own(&self, owned: Owned) {
        let _first = self.owned.set(owned).is_ok();
    }

    /// The partitions that this node holds, in order; nothing if it is in no cluster.
    pub fn partitions(&self) -> Option<Vec<u32>> {
        let owned = self.owned.get().filter(|owned| owned.is_shared())?;
        Some(owned.ours().iter().collect())
    }

    /// Says that the node is not ready, and why. Said again, the reason is the new one and the time the
    /// first one's.
    pub fn set(&self, name: &'static str, reason: &str) {
        let whole = reason.char_indices().map(|(start, c)| start + c.len_utf8());
        let cut = whole.take_while(|end| *end <= REASON_BYTES_MAX).last().unwrap_or(0);
        let reason = reason.get(..cut).unwrap_or_default().to_owned();
        let mut inner = self.inner();
        if let Some(known) = inner.conditions.iter_mut().find(|known| known.name == name) {
            known.reason = reason;
        } else {
            inner.conditions.push(Condition { name, reason, since: self.clock.wall() });
        }
    }

    /// Takes a reason back; nothing happens if it is none.
    pub fn clear(&self, name: &'static str) {
        self.inner().conditions.retain(|known| known.name != name);
    }

    /// From now on this many shards have to answer.
    pub fn expect_shards(&self, shards: usize) {
        self.inner().beats = vec![Instant::now(); shards];
    }

    /// A shard has answered.
    pub fn beat(&self, shard: usize) {
        if let Some(beat) = self.inner().beats.get_mut(shard) {
            *beat = Instant::now();
        }
    }

    /// Why the node is not alive: a shard that has not answered for [`SHARD_PATIENCE`], which is also
    /// what is seen when the process's own loop does not turn. None while all is well, and before shards
    /// are started.
    pub fn stuck(&self) -> Option<Condition> {
        let inner = self.inner();
        let silent = inner.beats.iter().map(Instant::elapsed).enumerate();
        let (shard, silent) = silent.max_by_key(|(_, silent)| *silent)?;
        if silent <= SHARD_PATIENCE {
            return None;
        }
        let reason = format!("shard {shard} has not answered for {} s", silent.as_secs());
        let now = self.clock.wall();
        let since = now.checked_sub(silent).unwrap_or(now);
        Some(Condition { name: SHARDS, reason, since })
    }

    /// Every reason not to be ready, the oldest first; none if the node is ready.
    pub fn reasons(&self) -> Vec<Condition> {
        let mut reasons = self.inner().conditions.clone();
        reasons.extend(self.stuck());
        reasons
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what stands behind queue and ledger, a NATS server, answers; shared by the node. Without a server
/// it always does.
#[derive(Debug)]
pub struct BackHealth(watch::Sender<bool>);

impl Default for BackHealth {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl BackHealth {
    /// What is said of calls that wait for it.
    pub const WHY: &str = "NATS, which does not answer";

    /// Whether it does not answer: no permits meanwhile.
    pub fn is_away(&self) -> bool {
        *self.0.borrow()
    }

    /// Says whether it is away.
    pub fn set_away(&self, away: bool) {
        self.0.send_if_modified(|is| std::mem::replace(is, away) != away);
    }

    /// Follows it: whether it is away, from now on.
    pub fn follow(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Arc<Health> {
        Health::new(Clock::starting_at("2026-11-20T12:00:00Z".parse().unwrap()))
    }

    fn names(health: &Health) -> Vec<&'static str> {
        health.reasons().iter().map(|condition| condition.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_ready_when_every_reason_has_been_taken_back() {
        let health = start();
        assert_eq!(names(&health), [STARTING]);
        health.set(STORE, "no space left");
        health.clear(STARTING);
        assert_eq!(names(&health), [STORE]);
        health.clear(NATS);
        health.clear(STORE);
        assert_eq!(health.reasons(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reason_said_again_keeps_its_time_and_is_cut_to_its_bound() {
        let health = start();
        health.clear(STARTING);
        health.set(NATS, "no server answers");
        tokio::time::advance(Duration::from_secs(7)).await;
        health.set(NATS, &"ü".repeat(400));
        let reasons = health.reasons();
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0].since.to_string(), "2026-11-20T12:00:00Z");
        assert_eq!(reasons[0].reason, "ü".repeat(256));
        // Gone and come again, it is a new one.
        health.clear(NATS);
        health.set(NATS, "no server answers");
        assert_eq!(health.reasons()[0].since.to_string(), "2026-11-20T12:00:07Z");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_does_not_answer_for_five_seconds_is_told_by_its_number() {
        let health = start();
        health.clear(STARTING);
        assert_eq!(health.stuck(), None, "no shard is expected yet");
        health.expect_shards(2);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(health.stuck(), None);
        health.beat(0);
        tokio::time::advance(Duration::from_secs(2)).await;
        let stuck = health.stuck().unwrap();
        assert_eq!(stuck.reason, "shard 1 has not answered for 7 s");
        assert_eq!(stuck.since.to_string(), "2026-11-20T12:00:00Z");
        assert_eq!(names(&health), ["shards"], "what is stuck is not ready either");
        health.beat(1);
        assert_eq!(health.reasons(), []);
    }
}
