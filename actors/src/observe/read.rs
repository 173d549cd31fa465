//! Applies rules to one answer.

use std::time::Duration;

use http::HeaderMap;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use tollgate_gate::LimitSet;

use super::json::JsonPath;
use super::ratelimit::{self, Item};
use super::value::{answered_at, count_left, count_used, percent, wait};
use super::{
    Ends, Observe, Over, Place, Rules, Scope, Source, Tells, Test, Then, Unit, Wait, retry_after,
};
use crate::costs::Kept;

/// An answer as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The first bytes of its body, after decompression; empty where no rule wants to see it.
    pub body: &'a [u8],
    /// This machine's time at its receipt.
    pub wall: Timestamp,
}

/// The limits that an answer may tell of: those of a budget by its place, the account's own for none; with what of
/// each is not for us. Nothing for a budget that the call does not count in.
pub type Sets<'a> = dyn Fn(Option<u16>) -> Option<(&'a LimitSet, &'a [Kept])> + 'a;

/// What an answer says of one limit. Times count from its receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitFact {
    /// Which it is.
    pub limit: Place,
    /// Calls that are left.
    pub left: Option<u32>,
    /// Calls that are allowed in all.
    pub max: Option<u32>,
    /// When more are.
    pub reset: Option<Duration>,
    /// When its window ends, as it was told of this limit itself: no Retry-After, no bound.
    pub ends: Option<Duration>,
}

/// A limit that is not declared is used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Press {
    /// Whom it concerns.
    pub scope: Scope,
    /// For how long.
    pub wait: Duration,
    /// Why, for people.
    pub reason: String,
}

/// The answer is a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overuse {
    /// The limit that was exceeded, if the rule names one.
    pub hits: Option<Place>,
    /// The limit whose window is waited for.
    pub boundary: Option<Place>,
    /// How long to wait; nothing: the usual doubling, between floor and cap.
    pub after: Option<Duration>,
    /// At least so long.
    pub floor: Duration,
    /// At most so long.
    pub cap: Duration,
    /// Up to so much longer, by chance.
    pub jitter: Duration,
    /// Whom it concerns.
    pub scope: Scope,
    /// What becomes of the fetch.
    pub then: Then,
}

/// What an answer says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Of limits, each once.
    pub limits: Vec<LimitFact>,
    /// Of what is not declared.
    pub presses: Vec<Press>,
    /// That too much was asked for.
    pub over: Option<Overuse>,
    /// That the job that the call is about is over.
    pub job_over: bool,
}

impl Facts {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        let nothing = self.limits.is_empty() && self.presses.is_empty();
        nothing && self.over.is_none() && !self.job_over
    }
}

impl Rules {
    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.observe.is_empty() && self.over.is_empty() && self.job_ends.is_empty()
    }

    /// Whether the first bytes of the body of an answer with this status are wanted.
    pub fn wants_body(&self, status: u16) -> bool {
        self.observe.iter().any(|rule| matches!(rule.from, Source::Body(_)))
            || self.over.iter().any(|rule| {
                let told = matches!(rule.wait, Wait::Told(Source::Body(_), _));
                rule.is_for(status) && (told || rule.tests.iter().any(Test::wants_body))
            })
            || self
                .job_ends
                .iter()
                .any(|rule| rule.is_for(status) && rule.tests.iter().any(Test::wants_body))
    }

    /// What an answer says where no budget is asked about: see [`Rules::read_of`].
    pub fn read(&self, answer: Answered<'_>, limits: &LimitSet, kept: &[Kept]) -> Facts {
        self.read_of(answer, &move |budget| budget.is_none().then_some((limits, kept)))
    }

    /// What an answer says. Never fails: what cannot be read is not said.
    pub fn read_of(&self, answer: Answered<'_>, sets: &Sets<'_>) -> Facts {
        let mut facts = Facts::default();
        if self.is_empty() {
            return facts;
        }
        let view = View { answer, said_at: answered_at(answer.headers, answer.wall) };
        facts.over = self.over.iter().find(|rule| rule.fits(&view)).map(|rule| rule.overuse(&view));
        facts.job_over = self.job_ends.iter().any(|rule| {
            rule.is_for(answer.status) && rule.tests.iter().all(|test| test.holds(&view))
        });
        let mut heard: Vec<Heard> = Vec::new();
        for rule in &self.observe {
            let group = heard.iter().position(|group| group.is_of(rule));
            let group = group.unwrap_or_else(|| {
                heard.push(Heard::new(rule));
                heard.len() - 1
            });
            heard[group].take(rule, &view, sets);
        }
        for group in heard {
            group.into_facts(sets, &mut facts);
        }
        facts
    }
}

/// What the rules of one limit, or of one scope without a limit, have found so far.
struct Heard<'a> {
    first: &'a Observe,
    remaining: Option<u32>,
    used: Option<u32>,
    max: Option<u32>,
    /// Percent and what was aimed at.
    percent: Option<(u32, u8)>,
    reset: Option<Duration>,
    /// The same before anything else was put in its place.
    ends: Option<Duration>,
}

impl<'a> Heard<'a> {
    fn new(first: &'a Observe) -> Self {
        Self {
            first,
            remaining: None,
            used: None,
            max: None,
            percent: None,
            reset: None,
            ends: None,
        }
    }

    fn is_of(&self, rule: &Observe) -> bool {
        self.first.limit == rule.limit && (rule.limit.is_some() || self.first.scope == rule.scope)
    }

    /// Of rules that tell the same the first counts; within one, of several values the strictest.
    fn take(&mut self, rule: &Observe, view: &View<'_>, sets: &Sets<'_>) {
        match &rule.tells {
            Tells::Remaining => first(&mut self.remaining, || {
                view.values(&rule.from, true).iter().filter_map(|text| count_left(text)).min()
            }),
            Tells::Used => first(&mut self.used, || {
                view.values(&rule.from, true).iter().filter_map(|text| count_used(text)).max()
            }),
            Tells::Limit => first(&mut self.max, || {
                view.values(&rule.from, true).iter().filter_map(|text| count_left(text)).min()
            }),
            Tells::Usage => {
                let values = view.values(&rule.from, true);
                let pairs = values.iter().filter_map(|text| {
                    let (used, max) = text.split_once('/')?;
                    Some((count_used(used)?, count_left(max)?))
                });
                let least = pairs.min_by_key(|(used, max)| max.saturating_sub(*used));
                if let (Some((used, max)), None) = (least, self.used) {
                    (self.used, self.max) = (Some(used), self.max.or(Some(max)));
                }
            }
            Tells::Percent { target } => first(&mut self.percent, || {
                let values = view.values(&rule.from, true);
                values.iter().filter_map(|text| percent(text)).max().map(|most| (most, *target))
            }),
            Tells::Reset(unit) => first(&mut self.reset, || {
                let values = view.values(&rule.from, *unit != Unit::Date);
                values.iter().filter_map(|text| wait(text, *unit, view.said_at)).max()
            }),
            Tells::RateLimit { policy } => self.take_items(rule, policy.as_deref(), view),
        }
        self.ends = self.ends.or(self.reset);
        // Retry-After goes before any other reset of the same answer.
        let after = retry_after(view.answer.headers, view.answer.wall);
        if let (Some(after), Some(_)) = (after, self.reset) {
            self.reset = Some(after);
        }
        let window = rule.limit.and_then(|place| sets(place.budget)?.0.window_of(place.limit));
        let window = window.map(Duration::from);
        let cap = window.map_or(rule.cap, |window| rule.cap.min(window));
        self.reset = self.reset.map(|reset| reset.min(cap));
    }

    fn take_items(&mut self, rule: &Observe, policy: Option<&str>, view: &View<'_>) {
        // On an answer from a cache they are about another moment.
        let age = view.answer.headers.get(http::header::AGE).and_then(|age| age.to_str().ok());
        if age.is_some_and(|age| age.trim() != "0") {
            return;
        }
        let Source::Header { name, .. } = &rule.from else { return };
        let Some(text) = view.whole(name) else { return };
        let of_policy = |item: &Item| policy.is_none_or(|policy| item.policy == policy);
        let items = ratelimit::items(&text).unwrap_or_default();
        let least = items
            .into_iter()
            .filter(|item| of_policy(item) && item.left.is_some())
            .min_by_key(|item| item.left);
        let Some(Item { policy: name, left: Some(left), reset, .. }) = least else { return };
        if self.remaining.is_none() {
            self.remaining = Some(u32::try_from(left).unwrap_or(u32::MAX));
            self.reset = self.reset.or(reset.map(Duration::from_secs));
        }
        let policies = view.whole(&http::HeaderName::from_static("ratelimit-policy"));
        let policies = policies.and_then(|text| ratelimit::items(&text)).unwrap_or_default();
        let quota = policies.into_iter().find(|item| item.policy == name);
        if let (Some(quota), None) = (quota.and_then(|item| item.quota), self.max) {
            self.max = Some(u32::try_from(quota).unwrap_or(u32::MAX));
        }
    }

    fn into_facts(self, sets: &Sets<'_>, facts: &mut Facts) {
        let Some(limit) = self.first.limit else {
            let pressed = self.remaining == Some(0)
                || self.percent.is_some_and(|(percent, target)| percent >= target.into())
                || matches!((self.used, self.max), (Some(used), Some(max)) if used >= max);
            if pressed {
                let wait = self.reset.filter(|reset| !reset.is_zero()).unwrap_or(self.first.wait);
                let reason = "the provider says that its limit is used up".to_owned();
                let wait = wait.min(self.first.cap);
                facts.presses.push(Press { scope: self.first.scope, wait, reason });
            }
            return;
        };
        let Some((limits, kept)) = sets(limit.budget) else { return };
        // What answers tell is of the whole limit, of which some is kept for others.
        let Kept { reserve, beyond } = kept.get(limit.limit).copied().unwrap_or_default();
        let declared = limits.max_of(limit.limit).unwrap_or(0).saturating_add(beyond);
        let by_used = self.used.map(|used| self.max.unwrap_or(declared).saturating_sub(used));
        let by_percent = self.percent.map(|(percent, target)| {
            let free = u64::from(u32::from(target).saturating_sub(percent));
            // Rounded down: never too generous.
            u32::try_from(u64::from(self.max.unwrap_or(declared)) * free / 100).unwrap_or(u32::MAX)
        });
        let left = [self.remaining, by_used, by_percent].into_iter().flatten().min();
        let left = left.map(|left| left.saturating_sub(reserve));
        let max = self.max.map(|max| max.saturating_sub(beyond));
        if left.is_some() || max.is_some() {
            let Self { reset, ends, .. } = self;
            facts.limits.push(LimitFact { limit, left, max, reset, ends });
        }
    }
}

fn first<T>(known: &mut Option<T>, find: impl FnOnce() -> Option<T>) {
    if known.is_none() {
        *known = find();
    }
}

impl Ends {
    fn is_for(&self, status: u16) -> bool {
        match self.status.as_slice() {
            [] => (200..300).contains(&status),
            statuses => statuses.contains(&status),
        }
    }
}

impl Over {
    fn is_for(&self, status: u16) -> bool {
        self.status.is_empty() || self.status.contains(&status)
    }

    fn fits(&self, view: &View<'_>) -> bool {
        self.is_for(view.answer.status) && self.tests.iter().all(|test| test.holds(view))
    }

    fn overuse(&self, view: &View<'_>) -> Overuse {
        let asked = retry_after(view.answer.headers, view.answer.wall);
        let after = match &self.wait {
            Wait::Asked | Wait::Boundary => asked,
            Wait::For(wait) => Some(asked.map_or(*wait, |asked| asked.max(*wait))),
            Wait::Told(from, unit) => asked.or_else(|| {
                let values = view.values(from, *unit != Unit::Date);
                values.iter().filter_map(|text| wait(text, *unit, view.said_at)).max()
            }),
            Wait::UntilTime(time, zone) => {
                let wait = until_time(view.said_at, *time, zone);
                Some(asked.map_or(wait, |asked| asked.max(wait)))
            }
        };
        Overuse {
            hits: self.hits,
            boundary: self.hits.filter(|_| matches!(self.wait, Wait::Boundary)),
            after: after.map(|after| after.clamp(self.floor, self.cap)),
            floor: self.floor,
            cap: self.cap,
            jitter: self.jitter,
            scope: self.scope,
            then: self.then,
        }
    }
}

/// From `now` until the clocks of a zone next show that time of day. Where a day leaves it out, the moment
/// behind the gap; where it comes twice, the first of them.
fn until_time(now: Timestamp, time: jiff::civil::Time, zone: &jiff::tz::TimeZone) -> Duration {
    let today = now.to_zoned(zone.clone()).date();
    let next = (0..3).find_map(|days| {
        let day = today.checked_add(days.days()).ok()?;
        let at = day.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp();
        (at > now).then_some(at)
    });
    let until = next.map_or(jiff::SignedDuration::ZERO, |at| at.duration_since(now));
    Duration::try_from(until).unwrap_or(Duration::ZERO)
}

impl Test {
    fn wants_body(&self) -> bool {
        matches!(self, Self::Is(Source::Body(_), _) | Self::Contains(_))
    }

    fn holds(&self, view: &View<'_>) -> bool {
        match self {
            Self::Is(from, wanted) => {
                let values = view.values(from, false);
                let is = |value: &String| wanted.is_empty() || wanted.contains(value);
                values.iter().any(is)
            }
            Self::Contains(text) => {
                let (text, body) = (text.as_bytes(), view.answer.body);
                !text.is_empty() && body.windows(text.len()).any(|part| part == text)
            }
        }
    }
}

impl Source {
    /// The values there, if it is a header; a list counts as one value.
    pub(crate) fn in_headers(&self, headers: &HeaderMap) -> Vec<String> {
        if matches!(self, Self::Body(_)) {
            return Vec::new();
        }
        let wall = Timestamp::UNIX_EPOCH;
        let answer = Answered { status: 0, headers, body: &[], wall };
        View { answer, said_at: wall }.values(self, false)
    }
}

struct View<'a> {
    answer: Answered<'a>,
    /// The answer's own time.
    said_at: Timestamp,
}

impl View<'_> {
    /// Every value there, trimmed. `lists`: a header's value may be a list, and several lines are one
    /// (RFC 9110 §5.3: <https://www.rfc-editor.org/rfc/rfc9110#section-5.3>); parameters of an item, as older
    /// drafts of `RateLimit-Limit` have them, are left out.
    fn values(&self, from: &Source, lists: bool) -> Vec<String> {
        let (name, nth, field, path) = match from {
            Source::Body(path) => return path.find(self.answer.body),
            Source::Header { name, nth, field, path } => (name, nth, field, path),
        };
        let lines = self.answer.headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
        if let Some(path) = path {
            let lines: Vec<&str> = lines.collect();
            return nth_of(lines, *nth).into_iter().flat_map(|line| find_in(path, line)).collect();
        }
        if let Some(field) = field {
            let lines: Vec<&str> = lines.collect();
            let lines = nth_of(lines, *nth);
            let pairs = lines.into_iter().flat_map(|line| line.split([',', ';']));
            let own = pairs.filter_map(|pair| pair.split_once('='));
            let own = own.filter(|(key, _)| key.trim().eq_ignore_ascii_case(field));
            return own.map(|(_, value)| value.trim().trim_matches('"').to_owned()).collect();
        }
        let values = lines.flat_map(|line| if lists { line.split(',') } else { line.split('\0') });
        let bare = |value: &str| {
            let value = if lists { value.split(';').next().unwrap_or_default() } else { value };
            value.trim().to_owned()
        };
        nth_of(values.map(bare).collect(), *nth)
    }

    /// All lines of a header as one list.
    fn whole(&self, name: &http::HeaderName) -> Option<String> {
        let lines = self.answer.headers.get_all(name).iter();
        let lines: Option<Vec<&str>> = lines.map(|line| line.to_str().ok()).collect();
        lines.filter(|lines| !lines.is_empty()).map(|lines| lines.join(", "))
    }
}

fn find_in(path: &JsonPath, text: &str) -> Vec<String> {
    path.find(text.as_bytes())
}

fn nth_of<T>(values: Vec<T>, nth: Option<usize>) -> Vec<T> {
    match nth {
        None => values,
        Some(nth) => values.into_iter().nth(nth).into_iter().collect(),
    }
}
