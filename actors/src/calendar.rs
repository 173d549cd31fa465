//! When windows start anew at a time of day: time zones and daylight saving, behind the gate's
//! [`Calendar`].
//!
//! A provider that counts "per day, resets at midnight in Los Angeles" goes by its wall clock, so these are
//! the only limits for which ours matters. Everything is computed from the clock's present idea of wall time: after
//! the wall clock was set, resets lie elsewhere on the timeline, and charges count in the window they then
//! fall into. How far both clocks may be apart is the limit's `reset_slack`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use tollgate_gate::{At, Calendar, LimitSet};

use crate::clock::Clock;
use crate::plan::{Budget, Counted, Plan, Platform};

/// A day, as far as it can be said without a calendar.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// When windows start anew: every day at a time of day in a zone, and within the day every so often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resets {
    /// Time of day of the day's reset. Where a day has it twice the first counts; where a day skips it, the
    /// moment as long after midnight.
    pub at: Time,
    /// Whose days.
    pub zone: TimeZone,
    /// From one reset to the next: [`DAY`], or a part of it. Parts are counted from the day's reset by elapsed
    /// time; the last one of a day ends with it, also where daylight saving makes a day shorter or longer.
    pub every: Duration,
}

impl fmt::Display for Resets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name().unwrap_or("UTC");
        write!(f, "{} {zone}", self.at.strftime("%H:%M:%S"))
    }
}

impl Resets {
    /// The day's reset of the day that is `days` after the one `now` lies in.
    fn daily(&self, now: Timestamp, days: i64) -> Option<Timestamp> {
        let today = now.to_zoned(self.zone.clone()).date();
        let day = today.checked_add(days.days()).ok()?;
        self.zone.to_timestamp(day.to_datetime(self.at)).ok()
    }

    /// The latest reset that is not after `now`, and the earliest after it. `None` beyond the years -9999 to
    /// 9999.
    pub fn around(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let mut first = self.daily(now, 0)?;
        let mut next = self.daily(now, 1)?;
        if first > now {
            (first, next) = (self.daily(now, -1)?, first);
        }
        // A skipped time of day can lie beyond the next midnight.
        if next <= now {
            (first, next) = (next, self.daily(now, 2)?);
        }
        if self.every >= DAY {
            return Some((first, next));
        }
        let every = i64::try_from(self.every.as_micros()).ok()?.max(1);
        let passed = now.as_microsecond() - first.as_microsecond();
        let from = first.as_microsecond() + passed / every * every;
        let until = next.as_microsecond().min(from + every);
        Some((Timestamp::from_microsecond(from).ok()?, Timestamp::from_microsecond(until).ok()?))
    }
}

/// Where wall time lies on the timeline of a ledger.
#[derive(Debug, Clone)]
pub enum Line {
    /// As a clock has it at the moment it is asked.
    Clock(Clock),
    /// A virtual one, on which zero is this wall time.
    From(Timestamp),
}

impl Line {
    fn wall_at(&self, at: At) -> Option<Timestamp> {
        let start = match self {
            Self::Clock(clock) => return clock.try_wall_at(at),
            Self::From(start) => start,
        };
        start.checked_add(SignedDuration::from_micros(at.0)).ok()
    }

    fn at_wall(&self, wall: Timestamp) -> At {
        match self {
            Self::Clock(clock) => clock.at_wall(wall),
            Self::From(start) => At(wall.as_microsecond().saturating_sub(start.as_microsecond())),
        }
    }
}

#[derive(Debug)]
struct Dated {
    resets: Resets,
    line: Line,
}

impl Calendar for Dated {
    fn prev_reset(&self, at: At) -> At {
        let around = self.line.wall_at(at).and_then(|wall| self.resets.around(wall));
        around.map_or(At::MIN, |(before, _)| self.line.at_wall(before))
    }

    fn next_reset(&self, at: At) -> At {
        let around = self.line.wall_at(at).and_then(|wall| self.resets.around(wall));
        around.map_or(At::MAX, |(_, after)| self.line.at_wall(after))
    }
}

/// The platform's limits on a timeline, those of its budgets and of its special accounts too: without this, none of
/// its calendar windows ever starts anew.
pub fn platform_on(platform: &Arc<Platform>, line: &Line) -> Arc<Platform> {
    if platform.resets.is_empty() {
        return Arc::clone(platform);
    }
    let calendar = |resets: &Resets| -> Arc<dyn Calendar> {
        Arc::new(Dated { resets: resets.clone(), line: line.clone() })
    };
    let calendars: Vec<_> = platform.resets.iter().map(calendar).collect();
    let on = |limits: &LimitSet| {
        let limits = limits.clone().with_calendars(calendars.clone());
        Arc::new(limits.expect("the rules name only the platform's calendars"))
    };
    let counted = |counted: Counted| Counted { limits: on(&counted.limits), ..counted };
    let budgets = platform.budgets.iter().cloned().map(|budget| Budget {
        counted: counted(budget.counted),
        special: budget.special.map(counted),
        ..budget
    });
    let budgets: Vec<Budget> = budgets.collect();
    let own = |platform: &Platform| Platform {
        limits: on(&platform.limits),
        budgets: budgets.clone(),
        ..platform.clone()
    };
    let special = platform.special.clone().map(|special| Arc::new(own(&special)));
    Arc::new(Platform { special, ..own(platform) })
}

/// The plan with all its limits on that timeline. To be done wherever a plan meets a clock.
pub fn plan_on(plan: &Arc<Plan>, line: &Line) -> Arc<Plan> {
    if plan.platforms.values().all(|platform| platform.resets.is_empty()) {
        return Arc::clone(plan);
    }
    let mut plan = Plan::clone(plan);
    for platform in plan.platforms.values_mut() {
        *platform = platform_on(platform, line);
    }
    Arc::new(plan)
}

#[cfg(test)]
mod tests;
