//! The counters: how many calls arrived in each window of a limit. By the definition of the limit and by
//! nothing else; the gate is not asked, for a proof that shares its mistakes would prove nothing.
//!
//! A stamp of a log is a moment with an error. Two stamps that lie `d` apart stand for calls that lie between
//! `d - error` and `d + error` apart, so a count can be within the limit for certain, above it for certain, or
//! neither; it is never called proved because it is near.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Nanoseconds; moments are since 1970.
pub(super) type Ns = i64;

/// Calls that are kept to be shown where a count is not kept call by call.
const SHOWN_MAX: usize = 64;

/// What a limit allows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rule {
    /// At most `max` in any window of that length; a spacing is one.
    Window { max: u64, window: Ns },
    /// At most `max` open at once.
    Concurrent { max: u64 },
    /// At most `burst` at once, and `calls` more in every `within`.
    Bucket { calls: u64, within: Ns, burst: u64 },
    /// At most `max` from one reset to the next: each day at that time in that zone.
    Daily { max: u64, reset: Time, zone: TimeZone },
}

/// How far a stamp may be from the arrival: it lies from `early` before the stamp to `late` after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Error {
    pub(super) early: Ns,
    pub(super) late: Ns,
    /// Whether the late end itself is impossible: a stamp of a whole second was cut off, not rounded.
    pub(super) cut: bool,
    /// By how much the time that a call took may be longer than it is told.
    pub(super) took: Ns,
}

impl Error {
    /// Of the distance between two stamps.
    fn distance(self) -> Ns {
        self.early.saturating_add(self.late)
    }
}

/// A call as a log tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) at: Ns,
    /// When it was answered, if that is told.
    pub(super) end: Option<Ns>,
    /// Where it stands.
    pub(super) line: u64,
}

/// What a call shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Finding {
    /// The limit is kept for certain, as far as this call goes.
    Kept,
    /// The stamps are too coarse to tell.
    Open(Evidence),
    /// More than the limit allows.
    Broken(Evidence),
}

/// The calls that show it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Evidence {
    /// How many there are; all of them may be too many to show.
    pub(super) count: u64,
    /// The first to the last by their stamps.
    pub(super) within: Ns,
    /// In order; the first ones and the last ones if there are too many.
    pub(super) calls: Vec<Call>,
}

impl Evidence {
    fn of(count: u64, calls: impl Iterator<Item = Call>) -> Self {
        let calls: Vec<Call> = calls.collect();
        let within = match (calls.first(), calls.last()) {
            (Some(first), Some(last)) => last.at - first.at,
            _ => 0,
        };
        Self { count, within, calls }
    }
}

/// What is counted together. Calls come in the order of their stamps.
#[derive(Debug)]
pub(super) enum Counter {
    /// The calls that may still share a window with the next one, at most `max`.
    Window { last: VecDeque<Call>, closest: Option<Ns> },
    /// The calls that may still be open, the first to end first.
    Concurrent { open: BinaryHeap<Reverse<(Ns, Ns, u64)>> },
    /// What is in the bucket at `at`, at least and at most, in calls x `within`.
    Bucket { at: Ns, least: i128, most: i128, since_full: VecDeque<Call>, count: u64 },
    /// The window of now.
    Daily(Box<Day>),
}

/// A window from one reset to the next.
#[derive(Debug, Default)]
pub(super) struct Day {
    from: Ns,
    to: Ns,
    certain: u64,
    possible: u64,
    /// Of those some may have come after its end.
    carried: u64,
    /// What may have come in the window before, and how many that had already.
    before: u64,
    calls: VecDeque<Call>,
}

impl Counter {
    pub(super) fn new(rule: &Rule) -> Self {
        match rule {
            Rule::Window { .. } => Self::Window { last: VecDeque::new(), closest: None },
            Rule::Concurrent { .. } => Self::Concurrent { open: BinaryHeap::new() },
            Rule::Bucket { .. } => Self::Bucket {
                at: Ns::MIN,
                least: 0,
                most: 0,
                since_full: VecDeque::new(),
                count: 0,
            },
            Rule::Daily { .. } => Self::Daily(Box::default()),
        }
    }

    /// Of `max` + 1 calls in a row the least that the first and the last were apart, where that is not far
    /// above the window.
    pub(super) fn closest(&self) -> Option<Ns> {
        match self {
            Self::Window { closest, .. } => *closest,
            _ => None,
        }
    }

    /// Counts a call. It must not be before the one counted last.
    pub(super) fn arrive(&mut self, rule: &Rule, call: Call, error: Error) -> Finding {
        match (self, rule) {
            (Self::Window { last, closest }, Rule::Window { max, window }) => {
                window_of(last, closest, *max, *window, call, error)
            }
            (Self::Concurrent { open }, Rule::Concurrent { max }) => {
                concurrent(open, *max, call, error)
            }
            (
                Self::Bucket { at, least, most, since_full, count },
                Rule::Bucket { calls, within, burst },
            ) => {
                let elapsed = if *at == Ns::MIN { Ns::MAX } else { call.at - *at };
                *at = call.at;
                let (unit, rate) = (i128::from(*within), i128::from(*calls));
                let full = i128::from(*burst) * unit;
                // In any stretch of time d at most burst + rate x d: an error of d is one of the burst.
                let slack = i128::from(error.distance()) * rate;
                let more = i128::from(elapsed).saturating_mul(rate);
                if least.saturating_add(more) >= full - slack {
                    since_full.clear();
                    *count = 0;
                }
                *least = least.saturating_add(more).min(full - slack) - unit;
                *most = most.saturating_add(more).min(full + slack) - unit;
                *count += 1;
                keep(since_full, call);
                let evidence = || Evidence::of(*count, since_full.iter().copied());
                let finding = if *most < 0 {
                    Finding::Broken(evidence())
                } else if *least < 0 {
                    Finding::Open(evidence())
                } else {
                    Finding::Kept
                };
                // A call too many takes nothing more than there is, or one would be told for ever.
                (*least, *most) = ((*least).max(-slack - unit), (*most).max(0));
                finding
            }
            (Self::Daily(day), Rule::Daily { max, reset, zone }) => {
                day.arrive(*max, *reset, zone, call, error)
            }
            // A counter is made from its rule.
            _ => Finding::Kept,
        }
    }
}

fn window_of(
    last: &mut VecDeque<Call>,
    closest: &mut Option<Ns>,
    max: u64,
    window: Ns,
    call: Call,
    error: Error,
) -> Finding {
    let e = error.distance();
    while last.front().is_some_and(|first| call.at - first.at >= window.saturating_add(e)) {
        last.pop_front();
    }
    let full = last.len() as u64 >= max;
    let finding = match last.front().filter(|_| full) {
        None => Finding::Kept,
        Some(first) => {
            let apart = call.at - first.at;
            *closest = Some(closest.map_or(apart, |known| known.min(apart)));
            let evidence =
                || Evidence::of(max + 1, last.iter().copied().chain(std::iter::once(call)));
            let most = apart.saturating_add(e);
            if most < window || (error.cut && most == window) {
                Finding::Broken(evidence())
            } else if apart.saturating_sub(e) >= window {
                Finding::Kept
            } else {
                Finding::Open(evidence())
            }
        }
    };
    if full {
        last.pop_front();
    }
    last.push_back(call);
    finding
}

fn concurrent(
    open: &mut BinaryHeap<Reverse<(Ns, Ns, u64)>>,
    max: u64,
    call: Call,
    error: Error,
) -> Finding {
    let e = error.distance().saturating_add(error.took);
    while open.peek().is_some_and(|Reverse((end, _, _))| end.saturating_add(e) <= call.at) {
        open.pop();
    }
    let finding = if (open.len() as u64) < max {
        Finding::Kept
    } else {
        let mut calls: Vec<Call> = open
            .iter()
            .map(|Reverse((end, at, line))| Call { at: *at, end: Some(*end), line: *line })
            .collect();
        let certain = calls.iter().filter(|other| other.end > Some(call.at.saturating_add(e)));
        let broken = certain.count() as u64 >= max;
        calls.sort_by_key(|call| (call.at, call.line));
        let count = calls.len() as u64 + 1;
        let evidence = Evidence::of(count, calls.into_iter().chain(std::iter::once(call)));
        if broken { Finding::Broken(evidence) } else { Finding::Open(evidence) }
    };
    open.push(Reverse((call.end.unwrap_or(Ns::MAX), call.at, call.line)));
    finding
}

impl Day {
    fn arrive(
        &mut self,
        max: u64,
        reset: Time,
        zone: &TimeZone,
        call: Call,
        error: Error,
    ) -> Finding {
        if call.at >= self.to {
            let (from, to) = day_of(call.at, reset, zone);
            let follows = from == self.to;
            self.before = if follows { self.possible } else { 0 };
            self.possible = if follows { self.carried } else { 0 };
            (self.from, self.to, self.certain, self.carried) = (from, to, 0, 0);
            self.calls.clear();
        }
        let maybe_before = call.at.saturating_sub(error.early) < self.from;
        let maybe_after = call.at.saturating_add(error.late) > self.to;
        self.possible += 1;
        keep(&mut self.calls, call);
        if maybe_before {
            self.before += 1;
        }
        if maybe_after {
            self.carried += 1;
        }
        if !maybe_before && !maybe_after {
            self.certain += 1;
        }
        let count = if self.certain > max { self.certain } else { self.possible };
        let evidence = || Evidence::of(count, self.calls.iter().copied());
        if self.certain > max {
            Finding::Broken(evidence())
        } else if self.possible > max || (maybe_before && self.before > max) {
            Finding::Open(evidence())
        } else {
            Finding::Kept
        }
    }
}

/// The first and the last calls of many.
fn keep(calls: &mut VecDeque<Call>, call: Call) {
    if calls.len() >= SHOWN_MAX {
        calls.remove(SHOWN_MAX / 2);
    }
    calls.push_back(call);
}

/// From which reset to which.
fn day_of(at: Ns, reset: Time, zone: &TimeZone) -> (Ns, Ns) {
    // Beyond what a calendar has there is one window without an end.
    let Ok(time) = Timestamp::from_nanosecond(i128::from(at)) else { return (Ns::MIN, Ns::MAX) };
    let date = time.to_zoned(zone.clone()).date();
    let reset_of = |days: i32| -> Option<Ns> {
        let date = date.checked_add(days.days()).ok()?;
        let zoned = date.to_datetime(reset).to_zoned(zone.clone()).ok()?;
        Ns::try_from(zoned.timestamp().as_nanosecond()).ok()
    };
    let resets: Vec<Ns> = [-1, 0, 1, 2].into_iter().filter_map(reset_of).collect();
    let from = resets.iter().copied().filter(|reset| *reset <= at).max();
    let to = resets.iter().copied().filter(|reset| *reset > at).min();
    (from.unwrap_or(Ns::MIN), to.unwrap_or(Ns::MAX))
}

#[cfg(test)]
mod tests;
