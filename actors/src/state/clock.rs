//! The clocks and the chance that the embedded state needs; nothing else in it may read one.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Two clocks that were read within this are taken to be read at one moment.
const AT_ONCE: Duration = Duration::from_micros(5);
/// So often they are read at most; then the closest two are taken.
const READINGS_MAX: usize = 50;

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "with clock.rs, the only file that may read it")]
pub(crate) fn wall() -> Timestamp {
    Timestamp::now()
}

/// The wall clock and the monotonic one at one moment. A thread that is put aside between the two would shift one
/// against the other by as long as that takes, for as long as they are used together: so both are read until nothing
/// came between. The wall time that is told is never before that of the instant.
pub(crate) fn wall_and_instant() -> (Timestamp, Instant) {
    let read = || {
        let instant = Instant::now();
        let wall = wall();
        (instant.elapsed(), wall, instant)
    };
    let mut closest = read();
    for _ in 1..READINGS_MAX {
        if closest.0 <= AT_ONCE {
            break;
        }
        let next = read();
        if next.0 < closest.0 {
            closest = next;
        }
    }
    let (_, wall, instant) = closest;
    (wall, instant)
}

/// Milliseconds of wall time since 1970, rounded down; 0 before that. `not_before` is a wall time, so
/// what waits for it is compared with this clock.
pub(crate) fn wall_ms() -> u64 {
    u64::try_from(wall().as_millisecond()).unwrap_or(0)
}

/// A moment as [`wall_ms`] counts, rounded up: what waits until then never comes a moment early.
pub(crate) fn ceil_ms(moment: Timestamp) -> u64 {
    let ms = moment.as_nanosecond().div_euclid(1_000_000)
        + i128::from(moment.as_nanosecond().rem_euclid(1_000_000) > 0);
    u64::try_from(ms.max(0)).unwrap_or(u64::MAX)
}

/// Nanoseconds since the machine was started, sleep included. No setting of the wall clock moves it.
pub(crate) fn boot_ns() -> u64 {
    #[cfg(test)]
    if let Some(ns) = paused::boot_ns() {
        return ns;
    }
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// On a thread whose time is paused the machine's time would be another one than that of everything else.
#[cfg(test)]
pub(crate) mod paused {
    use std::cell::Cell;

    use tokio::time::Instant;

    thread_local! {
        static START: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    /// From now on the machine was started when this thread's paused time began.
    pub(crate) fn follow(start: Option<Instant>) {
        START.set(start);
    }

    pub(super) fn boot_ns() -> Option<u64> {
        let start = START.get()?;
        Some(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Which boot of which machine [`boot_ns`] counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot([u8; 16]);

impl Boot {
    /// For a machine that does not tell. It equals itself, so it must be asked for before comparing.
    pub(crate) const UNKNOWN: Self = Self([0; 16]);

    /// Asks the kernel.
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        u128::from_str_radix(&text.trim().replace('-', ""), 16)
            .map_or(Self::UNKNOWN, |id| Self(id.to_be_bytes()))
    }

    /// As it is stored.
    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0
    }

    /// As it was stored.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// 64 bits that another process or another call does not have: the standard library's hasher is keyed
/// by the operating system.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
