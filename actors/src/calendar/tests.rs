//! Days of daylight saving, looked up once in the IANA database's text and written down here.

use jiff::Timestamp;
use jiff::civil::time;
use jiff::tz::TimeZone;
use tollgate_gate::{At, Calendar};

use super::*;

fn daily(zone: &str) -> Resets {
    Resets { at: time(0, 0, 0, 0), zone: TimeZone::get(zone).unwrap(), every: DAY }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Noon of the day, its reset and the next one, by UTC; and the minutes between them.
const DAYS: &[(&str, &str, &str, &str, i64)] = &[
    // No daylight saving: midnight is 15:00 UTC.
    ("Asia/Seoul", "2026-11-21T03:00:00Z", "2026-11-20T15:00:00Z", "2026-11-21T15:00:00Z", 1440),
    // Clocks go forward on 8 March 2026 and back on 1 November 2026, at 2:00.
    (
        "America/New_York",
        "2026-03-08T16:00:00Z",
        "2026-03-08T05:00:00Z",
        "2026-03-09T04:00:00Z",
        1380,
    ),
    (
        "America/New_York",
        "2026-11-01T17:00:00Z",
        "2026-11-01T04:00:00Z",
        "2026-11-02T05:00:00Z",
        1500,
    ),
    (
        "America/Los_Angeles",
        "2026-03-08T19:00:00Z",
        "2026-03-08T08:00:00Z",
        "2026-03-09T07:00:00Z",
        1380,
    ),
    (
        "America/Los_Angeles",
        "2026-11-01T20:00:00Z",
        "2026-11-01T07:00:00Z",
        "2026-11-02T08:00:00Z",
        1500,
    ),
    // By half an hour, on 5 April 2026 back to +10:30 and on 4 October 2026 forward to +11:00.
    (
        "Australia/Lord_Howe",
        "2026-04-05T01:30:00Z",
        "2026-04-04T13:00:00Z",
        "2026-04-05T13:30:00Z",
        1470,
    ),
    (
        "Australia/Lord_Howe",
        "2026-10-04T01:00:00Z",
        "2026-10-03T13:30:00Z",
        "2026-10-04T13:00:00Z",
        1410,
    ),
    // Midnight itself is skipped on 29 March 2026: the day begins at 1:00.
    ("Asia/Beirut", "2026-03-29T09:00:00Z", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z", 1380),
];

#[test]
fn days_begin_at_midnight_also_when_clocks_change() {
    for (zone, noon, first, next, minutes) in DAYS {
        let found = daily(zone).around(at(noon)).unwrap();
        assert_eq!(found, (at(first), at(next)), "{zone} {noon}");
        let length = found.1.as_second() - found.0.as_second();
        assert_eq!(length / 60, *minutes, "{zone} {noon}");
    }
}

#[test]
fn a_reset_is_the_first_moment_of_its_window() {
    for (zone, _, first, next, _) in DAYS {
        let (resets, first, next) = (daily(zone), at(first), at(next));
        let micro = SignedDuration::from_micros(1);
        assert_eq!(resets.around(first).unwrap(), (first, next));
        assert_eq!(resets.around(next - micro).unwrap(), (first, next));
        assert_eq!(resets.around(next).unwrap().0, next);
        assert_eq!(resets.around(first - micro).unwrap().1, first);
    }
}

#[test]
fn parts_of_a_day_are_counted_from_its_reset_and_end_with_it() {
    let hours = Resets { every: Duration::from_secs(3600), ..daily("Australia/Lord_Howe") };
    // The day of 24.5 hours ends with half an hour.
    let last = hours.around(at("2026-04-05T13:10:00Z")).unwrap();
    assert_eq!(last, (at("2026-04-05T13:00:00Z"), at("2026-04-05T13:30:00Z")));
    let first = hours.around(at("2026-04-05T13:40:00Z")).unwrap();
    assert_eq!(first, (at("2026-04-05T13:30:00Z"), at("2026-04-05T14:30:00Z")));
    // 23 hours have 23 whole ones.
    let hours = Resets { every: Duration::from_secs(3600), ..daily("America/New_York") };
    let hour = hours.around(at("2026-03-08T07:30:00Z")).unwrap();
    assert_eq!(hour, (at("2026-03-08T07:00:00Z"), at("2026-03-08T08:00:00Z")));
}

#[test]
fn every_moment_of_a_year_lies_in_one_window() {
    for zone in ["Asia/Seoul", "America/New_York", "Australia/Lord_Howe", "America/Los_Angeles"] {
        for (hour, minute) in [(0, 0), (1, 45), (2, 30), (23, 59)] {
            for every in [DAY, DAY / 2, DAY / 24, DAY / 96] {
                let at_time = time(hour, minute, 0, 0);
                let resets = Resets { at: at_time, every, ..daily(zone) };
                let mut now = at("2026-01-01T00:00:00Z");
                let (mut from, mut until) = resets.around(now).unwrap();
                while now < at("2027-01-02T00:00:00Z") {
                    let (first, next) = resets.around(now).unwrap();
                    assert!(
                        first <= now && now < next,
                        "{zone} {hour}:{minute} {every:?} at {now}"
                    );
                    assert!((first, next) == (from, until) || first >= until, "overlap at {now}");
                    let long = SignedDuration::try_from(every).unwrap();
                    assert!(next.duration_since(first) <= long + SignedDuration::from_hours(1));
                    (from, until) = (first, next);
                    now += SignedDuration::from_mins(37);
                }
            }
        }
    }
}

#[test]
fn a_calendar_follows_the_wall_clock_of_its_line() {
    let line = Line::From(at("2026-11-20T00:00:00Z"));
    let seoul = Dated { resets: daily("Asia/Seoul"), line };
    let hour = 3_600_000_000;
    assert_eq!(seoul.next_reset(At(0)), At(15 * hour));
    assert_eq!(seoul.prev_reset(At(15 * hour)), At(15 * hour));
    assert_eq!(seoul.prev_reset(At(15 * hour - 1)), At(-9 * hour));
    // Beyond all calendars nothing resets.
    assert_eq!(seoul.prev_reset(At::MIN), At::MIN);
    assert_eq!(seoul.next_reset(At::MAX), At::MAX);
}

#[test]
fn a_clock_that_is_set_moves_the_resets() {
    let clock = Clock::starting_at(at("2026-11-20T14:59:00Z"));
    let resets = daily("Asia/Seoul");
    let seoul = Dated { resets: resets.clone(), line: Line::Clock(clock.clone()) };
    let now = clock.now();
    assert_eq!(seoul.next_reset(now), clock.at_wall(at("2026-11-20T15:00:00Z")));
    assert_eq!(seoul.prev_reset(now), clock.at_wall(at("2026-11-19T15:00:00Z")));
    // The machine's clock says another time: the calendar goes by that from now on.
    clock.resync();
    let now = clock.now();
    let wall = clock.wall_at(now);
    assert_eq!(clock.wall_at(seoul.next_reset(now)), resets.around(wall).unwrap().1);
}
