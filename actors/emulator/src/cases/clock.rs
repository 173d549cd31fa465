//! `clock`: quotas that start anew at a time of day, by a clock that is not ours.
//!
//! Windows of 5 s stand for days: they start anew at midnight of Los Angeles (`/pacific/…`) and of Seoul (`/seoul/…`) and
//! every 5 s behind it. The provider's clock is fast for a while, then slow. Days on which clocks are changed are not
//! waited for: whoever runs the case asks the collector for them on virtual time, and [`RESETS`] has the answers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Arrival, Case, Mark, Reply, Seen, Violations, ratio};

/// A day of this provider.
pub const DAY: Duration = Duration::from_secs(5);
/// Calls of an account in it.
pub const MAX: u64 = 8;
/// What a caller is asked to use of days that had work all along.
const LEAST: f64 = 0.95;
/// How long the clock is fast before it is slow, and so on.
const TURNS: Duration = Duration::from_secs(5);

/// A zone, the start of a day and the next two midnights of it, in UTC. Daylight saving began in Los Angeles on
/// 2026-03-08 and ends on 2026-11-01, at 2:00 (<https://www.nist.gov/pml/time-and-frequency-division/popular-links/daylight-saving-time-dst>);
/// Seoul has none.
pub const RESETS: [(&str, &str, [&str; 2]); 4] = [
    (
        "America/Los_Angeles",
        "2026-03-08T08:30:00Z",
        ["2026-03-09T07:00:00Z", "2026-03-10T07:00:00Z"],
    ),
    (
        "America/Los_Angeles",
        "2026-11-01T07:30:00Z",
        ["2026-11-02T08:00:00Z", "2026-11-03T08:00:00Z"],
    ),
    ("Asia/Seoul", "2026-03-08T08:30:00Z", ["2026-03-08T15:00:00Z", "2026-03-09T15:00:00Z"]),
    ("Asia/Seoul", "2026-11-01T07:30:00Z", ["2026-11-01T15:00:00Z", "2026-11-02T15:00:00Z"]),
];

/// The provider.
#[derive(Debug)]
pub struct Clock {
    /// This machine's clock at the start, and how far the provider's is off.
    start: Duration,
    off: Duration,
    wrong: bool,
    days: BTreeMap<(String, u64), u64>,
    log: Violations,
    by_day: BTreeMap<(String, u64), u64>,
}

impl Clock {
    /// A provider whose clock is off by so much. `wrong`: whether its caller has declared too much.
    pub fn new(off: Duration, wrong: bool) -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            start,
            off,
            wrong,
            days: BTreeMap::new(),
            log: Violations::default(),
            by_day: BTreeMap::new(),
        }
    }

    /// The day of a moment. Both zones are whole hours from UTC, and hours are whole numbers of these days.
    fn day(&self, at: Duration) -> (u64, Duration) {
        let fast = (at.as_secs() / TURNS.as_secs()).is_multiple_of(2);
        let now = self.start + at;
        let now = if fast { now + self.off } else { now.saturating_sub(self.off) };
        let micros = now.as_micros();
        let until = DAY.as_micros() - micros % DAY.as_micros();
        ((micros / DAY.as_micros()) as u64, Duration::from_micros(until as u64))
    }
}

impl Case for Clock {
    fn arrive(&mut self, call: &Arrival<'_>, at: Duration) -> Reply {
        let (day, until) = self.day(at);
        let place = call.endpoint.trim_start_matches('/').split('/').next().unwrap_or_default();
        let key = (format!("{place}/{}", call.account), day);
        let calls = self.days.entry(key.clone()).or_default();
        if *calls >= MAX {
            self.log.note(at, &key.0, "day", Some(until));
            *self.by_day.entry(key).or_default() += 1;
            let body = serde_json::json!({ "error": { "code": "daily_limit" } });
            return Reply::refused(403, &body);
        }
        *calls += 1;
        Reply::good(call)
    }

    fn marks(&self, seen: &Seen) -> Vec<Mark> {
        if self.wrong {
            let all = self.log.count;
            let worst = self.by_day.values().max().copied().unwrap_or(0);
            return vec![
                Mark::new(
                    "days broken where too much is declared",
                    "at least 1",
                    all.to_string(),
                    all > 0,
                ),
                Mark::at_most("violations of one account in one day", 1, worst),
            ];
        }
        // The first and the last day had work for a part of it only.
        let mut whole = (0.0, 0.0);
        let accounts: std::collections::BTreeSet<&String> =
            self.days.keys().map(|(account, _)| account).collect();
        for account in accounts {
            let days: Vec<u64> = self
                .days
                .iter()
                .filter(|((own, _), _)| own == account)
                .map(|(_, calls)| *calls)
                .collect();
            for calls in days.iter().skip(1).rev().skip(1) {
                whole.0 += *calls as f64;
                whole.1 += MAX as f64;
            }
        }
        vec![
            Mark::unviolated("calls beyond a day by the provider's clock", &self.log, seen),
            Mark::part("share of the days' quotas used", LEAST, ratio(whole.0, whole.1)),
        ]
    }

    fn violations(&self) -> &Violations {
        &self.log
    }
}
