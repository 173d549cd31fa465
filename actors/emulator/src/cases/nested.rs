//! `nested`: windows within windows, refusals in the body of a 200, and a wait that depends on which window broke.
//!
//! Shaped after a provider with limits per second, minute and day for each app and each advertiser, which answers 200
//! with the code 40100 where the app, and 40133 where one advertiser has called too much, and no header. Whoever
//! exceeds the second waits for the next one, the minute for five minutes, the day until midnight UTC; a call before
//! that begins a penalty anew. Windows are fixed by the clock. A minute is 4 s here, the penalty for it 6 s, a day 12 s.
//!
//! Of its three apps (`/qps/…`, `/qpm/…`, `/qpd/…`) each has another window that binds; seconds and minutes count the
//! app's calls, the day those of each account. The account `odd` of the first app is refused with 40133 for a while,
//! twice; its siblings are not to notice.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Arrival, Case, Mark, Reply, Seen, Violations, ratio};

/// A minute of this provider.
pub const MINUTE: Duration = Duration::from_secs(4);
/// What follows a minute that was exceeded.
pub const PENALTY: Duration = Duration::from_secs(6);
/// A day of this provider.
pub const DAY: Duration = Duration::from_secs(12);
/// What 40133 asks an account to wait.
pub const ODD_WAIT: Duration = Duration::from_secs(2);
/// The account that is refused alone.
pub const ODD: &str = "odd";
/// The account whose collector is killed ten calls before its day is used up.
pub const EDGE: &str = "edge";
/// Calls that are left to it then.
pub const EDGE_LEFT: u64 = 10;
/// Apps with their limits: of a second, a minute, a day of an account.
pub const APPS: [(&str, [u64; 3]); 3] =
    [("qps", [6, 24, 1_000]), ("qpm", [12, 20, 1_000]), ("qpd", [12, 40, 15])];

/// The time behind midnight in which not all may come at once.
const HERD: Duration = Duration::from_millis(100);
/// After so many of its calls the odd account is refused.
const ODD_AFTER: [u64; 2] = [3, 7];
const SECOND: Duration = Duration::from_secs(1);
const LEAST: f64 = 0.95;

/// The provider.
#[derive(Debug)]
pub struct Nested {
    /// From the start to a midnight.
    midnight_in: Duration,
    wrong: bool,
    apps: BTreeMap<String, App>,
    odd_calls: u64,
    odd_until: Option<Duration>,
    /// When it was refused alone, each time once.
    odd_refused: Vec<Duration>,
    /// Accepted calls of its siblings.
    siblings: Vec<Duration>,
    log: Violations,
    /// Violations by the window that they broke.
    by_window: BTreeMap<(String, &'static str, u64), u64>,
    herd: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct App {
    second: (u64, u64),
    minute: (u64, u64),
    shut_until: Duration,
    /// By account and day.
    days: BTreeMap<(String, u64), u64>,
    accepted: u64,
}

impl Nested {
    /// A provider whose next midnight is so far away. `wrong`: whether its caller has declared too much.
    pub fn new(midnight_in: Duration, wrong: bool) -> Self {
        Self {
            midnight_in,
            wrong,
            apps: BTreeMap::new(),
            odd_calls: 0,
            odd_until: None,
            odd_refused: Vec::new(),
            siblings: Vec::new(),
            log: Violations::default(),
            by_window: BTreeMap::new(),
            herd: BTreeMap::new(),
        }
    }

    fn day(&self, at: Duration) -> u64 {
        // Days before the first midnight that is told are days too.
        ((at + DAY * 1_000).saturating_sub(self.midnight_in).as_micros() / DAY.as_micros()) as u64
    }

    fn since_midnight(&self, at: Duration) -> Duration {
        let micros =
            (at + DAY * 1_000).saturating_sub(self.midnight_in).as_micros() % DAY.as_micros();
        Duration::from_micros(micros as u64)
    }

    fn broke(
        &mut self,
        (app, account): (&str, &str),
        window: &'static str,
        of: u64,
        (at, early): (Duration, Duration),
    ) -> Reply {
        self.log.note(at, &format!("{app}/{account}"), window, Some(early));
        let whose = if window == "day" { format!("{app}/{account}") } else { app.to_owned() };
        *self.by_window.entry((whose, window, of)).or_default() += 1;
        let message = format!("Too many requests. Please retry later: {window} limit of the app");
        Reply::refused(200, &serde_json::json!({ "code": 40_100, "message": message }))
    }
}

impl Case for Nested {
    fn arrive(&mut self, call: &Arrival<'_>, at: Duration) -> Reply {
        let name = call.endpoint.trim_start_matches('/').split('/').next().unwrap_or_default();
        let Some((name, [per_second, per_minute, per_day])) =
            APPS.iter().find(|(known, _)| *known == name).copied()
        else {
            return Reply { status: 404, ..Reply::default() };
        };
        let day = self.day(at);
        if name == "qpd" && self.since_midnight(at) < HERD {
            *self.herd.entry(day).or_default() += 1;
        }
        if call.account == ODD {
            if let Some(until) = self.odd_until.filter(|until| *until > at) {
                self.log.note(at, call.account, "advertiser", Some(until.saturating_sub(at)));
                self.odd_until = Some(at + ODD_WAIT);
            }
            self.odd_calls += 1;
            if self.odd_until.is_some_and(|until| until > at) || ODD_AFTER.contains(&self.odd_calls)
            {
                self.odd_until = Some(at + ODD_WAIT);
                self.odd_refused.push(at);
                let message = "Too many requests of this advertiser. Please retry later.";
                let body = serde_json::json!({ "code": 40_133, "message": message });
                return Reply::refused(200, &body);
            }
        }
        let (second, minute) = (at.as_secs(), (at.as_micros() / MINUTE.as_micros()) as u64);
        let until_midnight = DAY.saturating_sub(self.since_midnight(at));
        let app = self.apps.entry(name.to_owned()).or_default();
        if app.second.0 != second {
            app.second = (second, 0);
        }
        if app.minute.0 != minute {
            app.minute = (minute, 0);
        }
        let days = app.days.entry((call.account.to_owned(), day)).or_default();
        if *days >= per_day {
            return self.broke((name, call.account), "day", day, (at, until_midnight));
        }
        if app.shut_until > at {
            let early = app.shut_until.saturating_sub(at);
            app.shut_until = at + PENALTY;
            return self.broke((name, call.account), "penalty", minute, (at, early));
        }
        if app.minute.1 >= per_minute {
            app.shut_until = at + PENALTY;
            let ends = MINUTE * (minute as u32 + 1);
            return self.broke(
                (name, call.account),
                "minute",
                minute,
                (at, ends.saturating_sub(at)),
            );
        }
        if app.second.1 >= per_second {
            let ends = SECOND * (second as u32 + 1);
            return self.broke(
                (name, call.account),
                "second",
                second,
                (at, ends.saturating_sub(at)),
            );
        }
        *days += 1;
        app.second.1 += 1;
        app.minute.1 += 1;
        app.accepted += 1;
        if name == "qps" && call.account != ODD {
            self.siblings.push(at);
        }
        Reply::good(call)
    }

    fn marks(&self, seen: &Seen) -> Vec<Mark> {
        let of = |window: &str| {
            let own = self.by_window.iter().filter(|((_, kind, _), _)| *kind == window);
            own.map(|(_, count)| *count).max().unwrap_or(0)
        };
        if self.wrong {
            let broken = of("second").max(of("minute")).max(of("day"));
            let kinds = ["second", "minute", "day"].map(|window| of(window) > 0);
            return vec![
                Mark::new(
                    "windows broken where too much is declared",
                    "seconds, minutes and days, each at least once",
                    format!("seconds {}, minutes {}, days {}", kinds[0], kinds[1], kinds[2]),
                    kinds == [true; 3],
                ),
                Mark::at_most("violations of one window", 1, broken),
                Mark::at_most("calls within a penalty", 0, of("penalty")),
            ];
        }
        let mark = "calls beyond a second, a minute, a day, or within a penalty";
        let mut marks = vec![Mark::unviolated(mark, &self.log, seen)];
        let herd = self.herd.values().max().copied().unwrap_or(0);
        let most = APPS[2].1[0];
        let mark = format!("most calls in the first {} ms of a day", HERD.as_millis());
        marks.push(Mark::at_most(mark, most, herd));
        if !self.odd_refused.is_empty() {
            // How full the second behind each moment of a hold is, on average.
            let full = |from: &Duration| {
                let until = *from + ODD_WAIT;
                let counted = self.siblings.iter().map(|at| {
                    let (first, last) = ((*at).max(*from), (*at + SECOND).min(until));
                    last.saturating_sub(first).as_secs_f64()
                });
                counted.sum::<f64>() / SECOND.as_secs_f64()
            };
            let got = self.odd_refused.iter().map(full).fold(f64::INFINITY, f64::min);
            // What they have on average of the whole time, the machine as it is.
            let (first, last) = (self.siblings.first(), self.siblings.last());
            let whole = first
                .zip(last)
                .map_or(Duration::ZERO, |(first, last)| last.saturating_sub(*first) + SECOND);
            let usual = self.siblings.len() as f64 / whole.as_secs_f64().max(1.0);
            let fair = usual * ODD_WAIT.as_secs_f64();
            let mark = "calls of siblings while 40133 holds one account, of their usual number";
            marks.push(Mark::part(mark, LEAST, ratio(got, fair)));
        }
        let edge = self.apps.get("qpd").map(|app| &app.days);
        let first = seen.kills.first().map(|kill| self.day(*kill));
        if let (Some(days), Some(day)) = (edge, first) {
            let calls = days.get(&(EDGE.to_owned(), day)).copied().unwrap_or(0);
            let before = APPS[2].1[2] - EDGE_LEFT;
            let mark = "calls of the day's last ten, its collector killed before them";
            let (got, is_all) = (calls.saturating_sub(before), calls == APPS[2].1[2]);
            marks.push(Mark::new(mark, EDGE_LEFT.to_string(), got.to_string(), is_all));
        }
        marks
    }

    fn violations(&self) -> &Violations {
        &self.log
    }
}
