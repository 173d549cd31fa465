//! The hard cases: providers that are each difficult in their own way, and what is asked of whoever calls them.
//!
//! A case counts on arrival, by rules of its own and with nothing shared with its callers; it keeps a log of what
//! it did not like, and in the end says what was asked ([`Mark`]) and what it got. Its times are those of a real
//! provider divided by a factor that the case states, so that a demo of it is over within a minute.
//!
//! | file | a provider that |
//! |---|---|
//! | `interval` | asks for a gap between two calls, of a key that the shape of a call decides |
//! | `score` | adds up points that decay, tells percentages of a maximum that it does not tell, and blocks |
//! | `nested` | has windows within windows, and refuses in the body of a 200, each window with a wait of its own |
//! | `jobs` | works on after the call, in slots |
//! | `settle` | tells the cost with the answer, while others use the same quota up |
//! | `clock` | starts anew at a time of day by a clock of its own |
//! | `knobs` | what can go wrong on the way, by a seed |
//! | `wire` | connections, stamps, and what the knobs do to calls and answers |

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

pub mod clock;
pub mod interval;
pub mod jobs;
mod knobs;
pub mod nested;
pub mod score;
pub mod settle;
mod wire;

pub use knobs::{KNOBS, Knobs};
pub use wire::Hard;

/// Most violations that are kept one by one; further ones are counted.
const VIOLATIONS_MAX: usize = 1_000;
/// Most moments that a case remembers of one thing.
const MOMENTS_MAX: usize = 1_000_000;

/// A provider of one hard kind.
pub trait Case: Send + fmt::Debug {
    /// Judges one arrival and says what is answered. Arrivals are told in the order of their moments, which
    /// count from the start.
    fn arrive(&mut self, call: &Arrival<'_>, at: Duration) -> Reply;

    /// What was asked and what was got.
    fn marks(&self, seen: &Seen) -> Vec<Mark>;

    /// What it did not like.
    fn violations(&self) -> &Violations;
}

/// A call that arrives.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Which call it is, from 1.
    pub number: u64,
    /// A number of this call by the seed.
    pub luck: u64,
    /// The header `X-Account`.
    pub account: &'a str,
    /// The path.
    pub endpoint: &'a str,
    /// What follows the `?`.
    pub query: &'a str,
}

/// What a call is answered.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Headers that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// Headers that tell of quotas; the knobs may leave them out or put older ones in their place.
    pub told: Vec<(&'static str, String)>,
    /// JSON.
    pub body: String,
    /// Whether it is a refusal.
    pub refused: bool,
}

impl Reply {
    /// An answer with rows.
    pub(crate) fn good(call: &Arrival<'_>) -> Self {
        let body = serde_json::json!({
            "code": 0, "account": call.account, "query": call.query, "rows": [call.number],
        });
        Self { status: 200, body: body.to_string(), ..Self::default() }
    }

    /// A refusal with this body.
    pub(crate) fn refused(status: u16, body: &serde_json::Value) -> Self {
        Self { status, body: body.to_string(), refused: true, ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(crate) fn tells(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.told.push((name, value.to_string()));
        self
    }
}

/// What is known at the end beside what the case has counted.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// When callers were killed.
    pub kills: Vec<Duration>,
    /// When what was declared wrong was put right.
    pub mended: Option<Duration>,
    /// Answers that were lost on the way, their calls counted.
    pub lost: u64,
    /// The emulator's own worst delay: arrivals are stamped this late at worst, so what is early by less may be
    /// its own fault.
    pub lag: Duration,
}

impl Seen {
    /// Whether somebody was killed between the two moments.
    fn killed_between(&self, from: Duration, to: Duration) -> bool {
        self.kills.iter().any(|kill| (from..=to).contains(kill))
    }
}

/// Something asked of whoever calls, and what was got.
#[derive(Debug, Clone, Serialize)]
pub struct Mark {
    /// What it is about.
    pub mark: String,
    /// What was asked.
    pub asked: String,
    /// What was got.
    pub got: String,
    /// Whether that is it.
    pub pass: bool,
}

impl Mark {
    /// Something asked in words.
    pub fn new(
        mark: impl Into<String>,
        asked: impl Into<String>,
        got: impl Into<String>,
        pass: bool,
    ) -> Self {
        Self { mark: mark.into(), asked: asked.into(), got: got.into(), pass }
    }

    /// A number of at most so many.
    pub fn at_most(mark: impl Into<String>, most: u64, got: u64) -> Self {
        let asked = if most == 0 { "none".to_owned() } else { format!("at most {most}") };
        Self::new(mark, asked, got.to_string(), got <= most)
    }

    /// A part of at least so much. What could not be measured is not passed.
    pub fn part(mark: impl Into<String>, least: f64, got: Option<f64>) -> Self {
        let percent = |part: f64| format!("{:.1} %", part * 100.0);
        let text = got.map_or("nothing to measure".into(), percent);
        Self::new(mark, format!("at least {}", percent(least)), text, got >= Some(least))
    }

    /// No violation that is not the emulator's own lateness.
    pub(crate) fn unviolated(mark: &str, log: &Violations, seen: &Seen) -> Self {
        let own_fault = log.count > 0 && log.worst < seen.lag && log.excusable == log.count;
        let got = match log.count {
            0 => "0".to_owned(),
            count => format!(
                "{count}, the worst early by {} us; the emulator itself was late by {} us",
                log.worst.as_micros(),
                seen.lag.as_micros()
            ),
        };
        Self::new(mark, "none", got, log.count == 0 || own_fault)
    }
}

/// What a provider did not like, in the order of its coming.
#[derive(Debug, Clone, Default)]
pub struct Violations {
    /// How many.
    pub count: u64,
    /// Those of them that a late stamp could explain.
    excusable: u64,
    /// By how much the worst of those was early.
    worst: Duration,
    /// The first of them, at most 1,000.
    pub first: Vec<Violation>,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct Violation {
    /// When, in milliseconds from the start.
    pub at_ms: u64,
    /// Whose call.
    pub account: String,
    /// What was broken.
    pub rule: &'static str,
    /// By how much the call was early in microseconds; 0 where it is not about time.
    pub early_us: u64,
}

impl Violations {
    /// Notes one. `early` is nothing where no time would have made the call right.
    pub(crate) fn note(
        &mut self,
        at: Duration,
        account: &str,
        rule: &'static str,
        early: Option<Duration>,
    ) {
        self.count += 1;
        if let Some(early) = early {
            self.excusable += 1;
            self.worst = self.worst.max(early);
        }
        if self.first.len() < VIOLATIONS_MAX {
            let early_us = early.unwrap_or_default().as_micros() as u64;
            let at_ms = at.as_millis() as u64;
            self.first.push(Violation { at_ms, account: account.into(), rule, early_us });
        }
    }
}

/// The calls of a sliding window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sliding {
    calls: VecDeque<Duration>,
}

impl Sliding {
    /// How much too early a call is; nothing: it is not.
    pub(crate) fn early(&mut self, max: usize, within: Duration, at: Duration) -> Option<Duration> {
        while self.calls.front().is_some_and(|first| *first + within <= at) {
            self.calls.pop_front();
        }
        let first = self.calls.len().checked_sub(max)?;
        Some((self.calls[first] + within).saturating_sub(at))
    }

    pub(crate) fn count(&mut self, at: Duration) {
        self.calls.push_back(at);
    }
}

/// The value of a parameter of a query.
pub(crate) fn param(query: &str, name: &str) -> Option<String> {
    let mut params = url::form_urlencoded::parse(query.as_bytes());
    params.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// How many calls in a row a sample was taken of, for parts.
pub(crate) fn ratio(part: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| part / of)
}

#[cfg(test)]
mod tests;
