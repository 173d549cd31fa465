//! What one limit counts and how: every kind of rule, and a message of its own for each mistake.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use ::config::{Value, ValueKind};
use http::Method;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use tollgate_gate::{Rule, Span};

use super::BAD;
use super::section::{Section, kind_of};
use super::values::{parse_duration, show};
use crate::calendar::{DAY, Resets};
use crate::codes::Code;
use crate::costs::{Counts, Kept};
use crate::ids::preview;

/// Bounds of a window or a gap.
const WINDOW_MIN: Duration = Duration::from_millis(1);
const WINDOW_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// How far a provider's clock may be off if nothing is said, and at most.
const RESET_SLACK: Duration = Duration::from_secs(2);
const RESET_SLACK_MAX: Duration = Duration::from_secs(3600);
/// The longest a provider may answer nothing once a score was exceeded.
const BLOCK_MIN: Duration = Duration::from_secs(1);

const RULES: &str = "say every = \"5s\", or max = 60 with in = \"1h\", or rate = \"50/s\" with burst = 100, \
    or concurrent = 4, or score = 60 with decay = \"300s\" and block = \"300s\", or jobs = 100 with ttl = \"3h\"";
const DURATIONS: &str = "durations look like \"5s\", \"1h\"";

/// What one table says of counting.
pub(super) struct Ruled {
    pub(super) rule: Rule,
    pub(super) counts: Counts,
    /// What a call costs; a guess if that is known only afterwards.
    pub(super) cost: Option<Price>,
    /// What of the declared number is not ours.
    pub(super) kept: Kept,
}

/// The kinds of rule, by the key that each has alone.
const KINDS: [&str; 6] = ["every", "max", "rate", "concurrent", "score", "jobs"];
/// Keys that belong to some kinds only.
const PARTS: [(&str, &[&str]); 9] = [
    ("in", &["max"]),
    ("resets", &["max"]),
    ("reset_slack", &["max"]),
    ("anchor", &["max"]),
    ("burst", &["rate"]),
    ("decay", &["score"]),
    ("block", &["score"]),
    ("ttl", &["jobs"]),
    ("counts", &["max", "score"]),
];

/// Reads a rule. `resets` collects the calendars of the platform.
pub(super) fn rule(entry: &mut Section<'_>, resets: &mut Vec<Resets>) -> Option<Ruled> {
    let before = entry.report().count();
    let kinds: Vec<&str> = KINDS.into_iter().filter(|name| entry.has(name)).collect();
    for (part, owners) in PARTS {
        if entry.has(part) && !kinds.iter().any(|kind| owners.contains(kind)) {
            let owner = owners[0];
            let message = format!("`{part}` without `{owner}`");
            // What is missing is said where it is missing.
            let (code, key) = match kinds.as_slice() {
                [] => (Code::MissingKey, owner),
                _ => (Code::ImpossibleLimit, part),
            };
            entry.mistake(code, key, message, RULES);
        }
    }
    let counts = counts(entry);
    let most = Most::read(entry);
    let cost = cost(entry, counts);
    let rule = match kinds.as_slice() {
        ["every"] => every(entry, &most),
        ["max"] => window(entry, &most, counts, resets),
        ["rate"] => bucket(entry, &most),
        ["concurrent"] => {
            most.of(entry, "concurrent").map(|max| (Rule::Concurrent { max }, Counts::Units))
        }
        ["score"] => score(entry, &most, counts),
        ["jobs"] => jobs(entry, &most),
        [] => {
            if entry.report().count() == before {
                whole(entry, "limits nothing", RULES);
            }
            None
        }
        several => {
            let message = format!("says several things at once: {}", several.join(", "));
            whole(entry, &message, "make a limit of each");
            None
        }
    };
    // Known here, whatever was wrong.
    for name in KINDS.into_iter().chain(PARTS.map(|(part, _)| part)) {
        entry.take(name);
    }
    let (rule, counts) = rule?;
    if entry.report().count() > before {
        return None;
    }
    let cost = match (cost, counts) {
        (Some(cost), _) => Some(cost),
        (None, Counts::Bytes { unit }) => {
            let guess = BODY_GUESS.div_ceil(unit).min(u64::from(rule.max()));
            Some(Price::Every(u32::try_from(guess).unwrap_or(u32::MAX)))
        }
        (None, _) => None,
    };
    if let Some(units) = cost.map(Price::most)
        && units > rule.max()
    {
        let message = format!(
            "a call costs {units} and the limit allows {}: no call could ever go",
            rule.max()
        );
        entry.mistake(Code::ImpossibleLimit, "cost", message, "lower the cost or raise the limit");
        return None;
    }
    Some(Ruled { rule, counts, cost, kept: most.kept(rule, counts) })
}

/// What the body of an answer is taken to have until it was read.
const BODY_GUESS: u64 = 1 << 20;

fn whole(entry: &Section<'_>, message: &str, hint: &str) {
    let name = entry.path().rsplit('.').next().unwrap_or_default();
    let message = format!("limit `{name}` {message}");
    entry.report().mistake(Code::ImpossibleLimit, entry.path(), message, hint);
}

/// What is left of a limit to this deployment.
struct Most {
    /// Left to humans and other tools.
    reserve: Part,
    /// This deployment's slice.
    share: f64,
    /// The number that was lowered by both.
    declared: Cell<u64>,
}

/// So many units, or a part of them.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Units(u64),
    Of(f64),
}

impl Most {
    fn read(entry: &mut Section<'_>) -> Self {
        let reserve = part(entry, "reserve").unwrap_or(Part::Of(0.0));
        let share = match part(entry, "share") {
            None => 1.0,
            Some(Part::Of(share)) if share > 0.0 => share,
            Some(_) => {
                let message = "a share is a part of the limit";
                entry.mistake(BAD, "share", message, "from \"1%\" to \"100%\", or 0.01 to 1.0");
                1.0
            }
        };
        Self { reserve, share, declared: Cell::new(0) }
    }

    /// What of so many units is left to humans and other tools.
    fn reserved(&self, units: u64) -> u64 {
        match self.reserve {
            Part::Units(reserved) => reserved.min(units),
            Part::Of(part) => (units as f64 * part).ceil().min(units as f64) as u64,
        }
    }

    /// What is not ours of what was read.
    fn kept(&self, rule: Rule, counts: Counts) -> Kept {
        let unit = if let Counts::Bytes { unit } = counts { unit } else { 1 };
        let of = |units: u64| u32::try_from(units.div_ceil(unit)).unwrap_or(u32::MAX);
        let declared = self.declared.get();
        let reserve = of(self.reserved(declared));
        Kept { reserve, beyond: of(declared).saturating_sub(rule.max()) }
    }

    /// What is left of so many units.
    fn left(&self, units: u64) -> u64 {
        let left = units - self.reserved(units);
        if self.share < 1.0 { (left as f64 * self.share).floor() as u64 } else { left }
    }

    /// The number of that key, less what is left to others.
    fn of(&self, entry: &mut Section<'_>, name: &'static str) -> Option<NonZeroU32> {
        let number = entry.whole(name)?;
        let declared = positive(entry, name, number)?;
        self.lowered(entry, name, declared.get().into())
            .and_then(|left| u32::try_from(left).ok())
            .and_then(NonZeroU32::new)
    }

    fn lowered(&self, entry: &Section<'_>, name: &str, declared: u64) -> Option<u64> {
        let left = self.left(declared);
        self.declared.set(declared);
        if left == 0 {
            let message = format!("of {declared} nothing is left: no call could ever go");
            let key = if self.share < 1.0 { "share" } else { "reserve" };
            entry.mistake(Code::ImpossibleLimit, key, message, format!("{name} is {declared}"));
            return None;
        }
        Some(left)
    }

    /// A time that is longer by what is left to others.
    fn longer(&self, entry: &Section<'_>, span: Span) -> Option<Span> {
        let Part::Of(reserved) = self.reserve else {
            let message = "a gap has no units of which some could be left";
            entry.mistake(
                Code::ImpossibleLimit,
                "reserve",
                message,
                "say a part: reserve = \"10%\"",
            );
            return None;
        };
        let left = (1.0 - reserved) * self.share;
        if left >= 1.0 {
            return Some(span);
        }
        let micros = (span.0 as f64 / left).ceil();
        if left <= 0.0 || micros > WINDOW_MAX.as_micros() as f64 {
            let message = "nothing is left of the limit: no call could ever go";
            entry.mistake(Code::ImpossibleLimit, "reserve", message, "");
            return None;
        }
        Some(Span(micros as u64))
    }
}

/// `10`, `0.1` or `"10%"`.
fn part(entry: &mut Section<'_>, name: &'static str) -> Option<Part> {
    let value = entry.take(name)?;
    let percent = |text: &str| text.trim().strip_suffix('%')?.trim().parse::<f64>().ok();
    let part = match &value.kind {
        ValueKind::I64(units) => u64::try_from(*units).ok().map(Part::Units),
        ValueKind::Float(part) => Some(Part::Of(*part)),
        ValueKind::String(text) => match text.trim().parse::<u64>() {
            Ok(units) => Some(Part::Units(units)),
            Err(_) => percent(text).map(|part| Part::Of(part / 100.0)),
        },
        _ => None,
    };
    let part = part.filter(|part| !matches!(part, Part::Of(part) if !(0.0..=1.0).contains(part)));
    if part.is_none() {
        let message = format!("`{}` is no part of a limit", preview(&value.to_string()));
        entry.mistake(BAD, name, message, "a part such as \"10%\" or 0.1, or a number of units");
    }
    // The whole is a part too.
    if name == "share" && part == Some(Part::Units(1)) { Some(Part::Of(1.0)) } else { part }
}

fn counts(entry: &mut Section<'_>) -> Counts {
    match entry.text("counts").as_deref() {
        None | Some("units" | "calls") => Counts::Units,
        Some("bytes") => Counts::Bytes { unit: 1 },
        Some("errors") => Counts::Errors,
        Some(other) => {
            let message = format!("a limit cannot count `{}`", preview(other));
            entry.mistake(BAD, "counts", message, "one of units, bytes, errors");
            Counts::Units
        }
    }
}

/// The methods that may have a cost of their own.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// What calls cost by a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Price {
    /// Each as much.
    Every(u32),
    /// By the places of [`METHODS`]; none: one.
    ByMethod([Option<u32>; METHODS.len()]),
}

impl Price {
    /// What a call of that method costs.
    pub(super) fn of(self, method: &Method) -> u32 {
        match self {
            Self::Every(units) => units,
            Self::ByMethod(units) => {
                let place = METHODS.iter().position(|known| *known == method.as_str());
                place.and_then(|place| units[place]).unwrap_or(1)
            }
        }
    }

    fn most(self) -> u32 {
        match self {
            Self::Every(units) => units,
            Self::ByMethod(units) => units.into_iter().flatten().max().unwrap_or(1),
        }
    }
}

/// `cost = 3`, or by method.
fn cost(entry: &mut Section<'_>, counts: Counts) -> Option<Price> {
    let value = entry.take("cost")?;
    if counts == Counts::Errors {
        let message = "an error counts one: it costs what it costs";
        entry.mistake(Code::ImpossibleLimit, "cost", message, "leave out cost or counts");
        return None;
    }
    let number = match value.kind {
        ValueKind::Table(methods) => {
            let mut by_method = [None; METHODS.len()];
            for (method, units) in &methods {
                let key = format!("cost.{method}");
                let place = METHODS.iter().position(|known| known.eq_ignore_ascii_case(method));
                if let (Some(place), Some(units)) = (place, units_of(units)) {
                    by_method[place] = Some(units);
                } else if place.is_none() {
                    let message = format!("`{}` is no method", preview(method));
                    entry.mistake(BAD, &key, message, format!("one of {}", METHODS.join(", ")));
                } else {
                    let message =
                        format!("{} where a whole number of units belongs", kind_of(units));
                    entry.mistake(Code::WrongType, &key, message, "0 is free");
                }
            }
            return Some(Price::ByMethod(by_method));
        }
        _ => units_of(&value).map(Price::Every),
    };
    if number.is_none() {
        let message = format!("`{}` is no number of units", preview(&value.to_string()));
        let hint = "a whole number, 0 is free; or by method: { GET = 1, POST = 3 }";
        entry.mistake(BAD, "cost", message, hint);
    }
    number
}

/// A number of units, zero too.
pub(super) fn units_of(value: &Value) -> Option<u32> {
    match &value.kind {
        ValueKind::I64(number) => u32::try_from(*number).ok(),
        ValueKind::String(text) => text.parse().ok(),
        _ => None,
    }
}

type Kind = Option<(Rule, Counts)>;

fn every(entry: &mut Section<'_>, most: &Most) -> Kind {
    let gap = entry.take("every")?;
    let gap = span(entry, "every", &gap)?;
    Some((Rule::Every { gap: most.longer(entry, gap)? }, Counts::Units))
}

fn window(entry: &mut Section<'_>, most: &Most, counts: Counts, resets: &mut Vec<Resets>) -> Kind {
    let (max, counts) = match counts {
        Counts::Bytes { .. } => {
            let declared = entry.size("max", 0..=u64::MAX >> 1)?;
            if declared == 0 {
                positive(entry, "max", 0)?;
            }
            let left = most.lowered(entry, "max", declared)?;
            // Whole units of so many bytes fit the gate's numbers; bodies are rounded up to them.
            let unit = left.div_ceil(u64::from(u32::MAX)).max(1);
            let max = u32::try_from(left / unit).ok().and_then(NonZeroU32::new)?;
            (Some(max), Counts::Bytes { unit })
        }
        counts => (most.of(entry, "max"), counts),
    };
    let Some(length) = entry.take("in") else {
        entry.mistake(Code::MissingKey, "in", "`max` without `in`", "in = \"1h\"");
        return None;
    };
    let anchor = entry.text("anchor");
    let slack = entry.duration("reset_slack", Duration::ZERO..=RESET_SLACK_MAX);
    if let Some(text) = entry.text("resets") {
        if anchor.is_some() {
            let message = "a window starts anew at a time of day or with the first call, not both";
            entry.mistake(Code::ImpossibleLimit, "anchor", message, "leave out resets or anchor");
            return None;
        }
        let every = day_or_part(entry, &length);
        let (at, zone) = time_of_day(entry, &text)?;
        let calendar = Resets { at, zone, every: every? };
        return calendar_window(entry, (max?, counts), calendar, slack, resets);
    }
    if slack.is_some() {
        let message = "`reset_slack` without `resets`";
        entry.mistake(Code::ImpossibleLimit, "reset_slack", message, "resets = \"00:00 UTC\"");
    }
    let window = span(entry, "in", &length);
    let first_use = match anchor.as_deref() {
        None | Some("sliding") => false,
        Some("first_use") => true,
        Some(other) => {
            let message = format!("a window cannot begin at `{}`", preview(other));
            let hint = "first_use, or leave it out: then any window of that length counts; \
                for a time of day say resets = \"00:00 UTC\"";
            entry.mistake(BAD, "anchor", message, hint);
            return None;
        }
    };
    let (max, window) = (max?, window?);
    let rule =
        if first_use { Rule::FirstUse { max, window } } else { Rule::Sliding { max, window } };
    Some((rule, counts))
}

fn calendar_window(
    entry: &Section<'_>,
    (max, counts): (NonZeroU32, Counts),
    calendar: Resets,
    slack: Option<Duration>,
    resets: &mut Vec<Resets>,
) -> Kind {
    // A default must not be what makes a short window impossible.
    let slack = slack.unwrap_or(RESET_SLACK.min(calendar.every / 10));
    if slack * 2 >= calendar.every {
        let message =
            format!("a slack of {} leaves nothing of {}", show(slack), show(calendar.every));
        entry.mistake(Code::ImpossibleLimit, "reset_slack", message, "less than half the window");
        return None;
    }
    let window = Span::from(calendar.every);
    let place = resets.iter().position(|known| *known == calendar).unwrap_or_else(|| {
        resets.push(calendar);
        resets.len() - 1
    });
    let calendar = u16::try_from(place).ok()?;
    Some((Rule::Calendar { max, window, slack: Span::from(slack), calendar }, counts))
}

/// The length of a window that starts anew at a time of day.
fn day_or_part(entry: &Section<'_>, value: &Value) -> Option<Duration> {
    if matches!(&value.kind, ValueKind::String(text) if text.trim() == "1d") {
        return Some(DAY);
    }
    let length = span(entry, "in", value)?;
    let micros = u64::try_from(DAY.as_micros()).unwrap_or(u64::MAX);
    if length.0 > micros {
        let message = "a window that starts anew every day is no longer than a day";
        entry.mistake(Code::ImpossibleLimit, "in", message, "in = \"1d\"");
        return None;
    }
    if !micros.is_multiple_of(length.0) {
        let message = format!("a day is not a whole number of {}", show(Duration::from(length)));
        entry.mistake(
            Code::ImpossibleLimit,
            "in",
            message,
            "\"1d\", \"12h\", \"1h\", \"15m\", \"1m\"",
        );
        return None;
    }
    Some(Duration::from(length))
}

/// `00:00 Asia/Seoul`.
fn time_of_day(entry: &Section<'_>, text: &str) -> Option<(Time, TimeZone)> {
    let hint = "a time of day and a zone, such as \"00:00 Asia/Seoul\" or \"07:00 UTC\"";
    let mut words = text.split_whitespace();
    let (Some(time), Some(zone), None) = (words.next(), words.next(), words.next()) else {
        let message = format!("`{}` is not a time of day and a zone", preview(text));
        entry.mistake(BAD, "resets", message, hint);
        return None;
    };
    let at = Time::strptime("%H:%M", time).or_else(|_| Time::strptime("%H:%M:%S", time)).ok();
    if at.is_none() {
        entry.mistake(BAD, "resets", format!("`{}` is not a time of day", preview(time)), hint);
    }
    let zone = TimeZone::get(zone).map_err(|_| {
        let message = format!("there is no time zone `{}`", preview(zone));
        entry.mistake(
            BAD,
            "resets",
            message,
            "names are those of the IANA database, such as America/New_York",
        );
    });
    Some((at?, zone.ok()?))
}

fn bucket(entry: &mut Section<'_>, most: &Most) -> Kind {
    let value = entry.take("rate")?;
    let burst = if entry.has("burst") { most.of(entry, "burst") } else { Some(NonZeroU32::MIN) };
    let hint = "a number per time, such as \"50/s\", \"300/m\", \"10/5s\"";
    let text = match &value.kind {
        ValueKind::String(text) if text.contains('/') => text.clone(),
        ValueKind::String(_) | ValueKind::I64(_) | ValueKind::Float(_) => {
            let message = format!("`{}` does not say per what time", preview(&value.to_string()));
            entry.mistake(BAD, "rate", message, hint);
            return None;
        }
        _ => {
            let message = format!("{} where a rate belongs", kind_of(&value));
            entry.mistake(Code::WrongType, "rate", message, hint);
            return None;
        }
    };
    let (number, time) = text.split_once('/')?;
    let Ok(number) = number.trim().parse::<i64>() else {
        let message = format!("`{}` is no whole number of units", preview(number));
        entry.mistake(BAD, "rate", message, hint);
        return None;
    };
    let rate = positive(entry, "rate", number)?;
    let time = time.trim();
    let per = if time.starts_with(|c: char| c.is_ascii_digit()) {
        time.to_owned()
    } else {
        format!("1{time}")
    };
    let per = match parse_duration(&per) {
        Ok(per) if (WINDOW_MIN..=WINDOW_MAX).contains(&per) => Span::from(per),
        _ if matches!(time, "d" | "day") => {
            let message = "a bucket knows no days: they are a calendar thing";
            entry.mistake(Code::SlidingDay, "rate", message, "say \"1000/24h\"");
            return None;
        }
        _ => {
            let message = format!("`{}` is not a time", preview(time));
            entry.mistake(BAD, "rate", message, hint);
            return None;
        }
    };
    let per = most.longer_for_bucket(entry, per)?;
    let burst = burst?;
    let fills = u128::from(per.0) * u128::from(burst.get()) / u128::from(rate.get());
    if fills > WINDOW_MAX.as_micros() {
        let message = "the bucket takes more than 366 days to fill";
        entry.mistake(Code::ImpossibleLimit, "burst", message, "");
        return None;
    }
    Some((Rule::Bucket { burst, rate, per }, Counts::Units))
}

impl Most {
    /// The time in which a rate's units flow in: units that are left to others are left of what the bucket holds.
    fn longer_for_bucket(&self, entry: &Section<'_>, per: Span) -> Option<Span> {
        match self.reserve {
            Part::Of(_) => self.longer(entry, per),
            Part::Units(_) => {
                let share = self.share;
                Self { reserve: Part::Of(0.0), share, declared: Cell::new(0) }.longer(entry, per)
            }
        }
    }
}

fn score(entry: &mut Section<'_>, most: &Most, counts: Counts) -> Kind {
    if matches!(counts, Counts::Bytes { .. }) {
        let message = "a score has points, not bytes";
        entry.mistake(Code::ImpossibleLimit, "counts", message, "");
    }
    let max = most.of(entry, "score");
    let mut time = |name: &'static str| {
        let Some(value) = entry.take(name) else {
            let message = format!("`score` without `{name}`");
            entry.mistake(Code::MissingKey, name, message, format!("{name} = \"300s\""));
            return None;
        };
        span(entry, name, &value)
    };
    let (decay, block) = (time("decay"), time("block"));
    let (decay, block) = (decay?, block?);
    if block < Span::from(BLOCK_MIN) {
        entry.mistake(BAD, "block", "a block is at least a second", "");
        return None;
    }
    Some((Rule::Score { max: max?, decay, block }, counts))
}

fn jobs(entry: &mut Section<'_>, most: &Most) -> Kind {
    let max = most.of(entry, "jobs");
    let Some(ttl) = entry.take("ttl") else {
        let message =
            "`jobs` without `ttl`: one of which nothing is heard would keep its place for ever";
        entry.mistake(Code::MissingKey, "ttl", message, "ttl = \"3h\"");
        return None;
    };
    Some((Rule::Jobs { ttl: span(entry, "ttl", &ttl)?, max: max? }, Counts::Units))
}

fn span(entry: &Section<'_>, name: &str, value: &Value) -> Option<Span> {
    let zero = matches!(&value.kind, ValueKind::String(text)
        if parse_duration(text).is_ok_and(|duration| duration.is_zero()));
    if zero {
        let message = "a window of no length limits nothing";
        entry.mistake(Code::ImpossibleLimit, name, message, DURATIONS);
        return None;
    }
    let day_code =
        if name == "in" || name == "every" { Code::SlidingDay } else { Code::BadDuration };
    let duration = entry.duration_of(name, value, WINDOW_MIN..=WINDOW_MAX, day_code)?;
    Some(Span::from(duration))
}

fn positive(entry: &Section<'_>, name: &str, number: i64) -> Option<NonZeroU32> {
    if number <= 0 {
        let message = format!("with {number} no call could ever go");
        entry.mistake(Code::ImpossibleLimit, name, message, "a whole number from 1");
        return None;
    }
    let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
    if number.is_none() {
        entry.mistake(BAD, name, format!("at most {} are possible", u32::MAX), "");
    }
    number
}
