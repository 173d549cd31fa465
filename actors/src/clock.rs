//! The only file that reads a clock, but for `state/clock.rs`.
//!
//! One timeline for everything: [`At`] counts microseconds from the start of this clock and follows the
//! monotonic clock, so that a step of the wall clock moves no window. It is tokio's clock: paused in
//! tests, it is virtual at no cost. Wall time is an anchor plus that timeline; the anchor is read anew
//! by [`Clock::resync`], and is used only for what is wall time by nature: `not_before`, deadlines, the
//! date in a key, the time in an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tollgate_gate::At;

use crate::state::clock::wall_and_instant;

/// Where the timeline begins; far from zero, so that an age can be subtracted without leaving it.
const START_US: i64 = 1 << 50;

/// Tells the time; cheap to clone, all clones agree.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    /// Wall time at `start`, in microseconds since 1970.
    anchor_us: Arc<AtomicI64>,
}

impl Clock {
    /// A clock whose wall time is the machine's.
    pub fn new() -> Self {
        let (wall, start) = wall_and_instant();
        Self { start, anchor_us: Arc::new(AtomicI64::new(wall.as_microsecond())) }
    }

    /// A clock whose wall time starts at `wall`, for tests on paused time.
    pub fn starting_at(wall: Timestamp) -> Self {
        let anchor_us = Arc::new(AtomicI64::new(wall.as_microsecond()));
        Self { start: Instant::now(), anchor_us }
    }

    /// Now, on the timeline of gates and ledgers.
    pub fn now(&self) -> At {
        self.at(Instant::now())
    }

    /// A moment of tokio's clock on the timeline.
    pub fn at(&self, instant: Instant) -> At {
        let elapsed = instant.saturating_duration_since(self.start);
        At(START_US + i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX / 2))
    }

    /// A moment of the timeline on tokio's clock; never before the clock's start.
    pub fn instant(&self, at: At) -> Instant {
        self.start + Duration::from_micros(at.0.saturating_sub(START_US).max(0).unsigned_abs())
    }

    /// Time from now until `at`; zero if it has passed.
    pub fn until(&self, at: At) -> Duration {
        self.instant(at).saturating_duration_since(Instant::now())
    }

    /// Wall time now.
    pub fn wall(&self) -> Timestamp {
        self.wall_at(self.now())
    }

    /// Wall time at a moment of the timeline.
    pub fn wall_at(&self, at: At) -> Timestamp {
        let us = self.anchor_us.load(Ordering::Relaxed).saturating_add(at.0 - START_US);
        Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The same; `None` where wall time has no such moment.
    pub(crate) fn try_wall_at(&self, at: At) -> Option<Timestamp> {
        let us = at.0.checked_sub(START_US)?.checked_add(self.anchor_us.load(Ordering::Relaxed))?;
        Timestamp::from_microsecond(us).ok()
    }

    /// A moment of wall time on the timeline.
    pub fn at_wall(&self, wall: Timestamp) -> At {
        At(wall.as_microsecond() - self.anchor_us.load(Ordering::Relaxed) + START_US)
    }

    /// Reads the machine's wall clock anew and answers how far it had moved against the monotonic one.
    pub fn resync(&self) -> jiff::SignedDuration {
        let (wall, instant) = wall_and_instant();
        let elapsed = self.at(instant).0 - START_US;
        let anchor = wall.as_microsecond() - elapsed;
        let before = self.anchor_us.swap(anchor, Ordering::Relaxed);
        jiff::SignedDuration::from_micros(anchor - before)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
