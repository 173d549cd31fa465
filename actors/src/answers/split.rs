//! One fetch that asks for too much becomes two that ask for a part each. Pure.
//!
//! The parts together are the whole and nothing is in both. Their ids follow from the parent's and from the number it
//! is queued under: splitting once more after a crash gives the same two, and a fetch of the same id that is queued
//! later has others, which no queue takes for repeats.

use std::sync::Arc;

use jiff::ToSpan;
use jiff::civil::Date;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tollgate_protos::Fetch;

use crate::ids::Seq;

/// How often one fetch and its parts are split, one below the other.
pub const SPLITS_MAX: usize = 16;
/// Longest id of a fetch, in bytes.
const ID_BYTES_MAX: usize = 128;

/// How too much is made less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// By what.
    pub by: By,
}

/// By what a fetch is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A range of days, from one parameter to another.
    Dates {
        /// The parameter with its first day, `2026-11-20` or `20261120`.
        from: Arc<str>,
        /// The parameter with its last day.
        to: Arc<str>,
        /// Whether that day is the first one behind the range instead.
        to_is_excluded: bool,
        /// Fewest days of a part; at least 1.
        min_days: u32,
    },
    /// A list, or a text with commas.
    List {
        /// The parameter.
        param: Arc<str>,
    },
    /// A number such as the size of a page: one fetch with half of it takes the place.
    Half {
        /// The parameter.
        param: Arc<str>,
        /// It is not made smaller than this.
        min: u64,
    },
}

impl Split {
    /// The parts of a fetch, whose values may be an api's defaults.
    ///
    /// # Errors
    /// It cannot be split, or not any more; the error says why.
    pub(crate) fn parts(
        &self,
        fetch: &Fetch,
        (id, origin): (&str, Seq),
        defaults: &Map<String, Value>,
    ) -> Result<Vec<Fetch>, String> {
        let depth = Family::of(id).depth();
        if depth >= SPLITS_MAX {
            return Err(format!("it was split {depth} times, at most {SPLITS_MAX} are allowed"));
        }
        let value = |name: &str| {
            let value = fetch.params.get(name).or_else(|| defaults.get(name));
            value.ok_or_else(|| format!("it has no parameter `{name}`"))
        };
        let parts: Vec<Vec<(&str, Value)>> = match &self.by {
            By::Dates { from, to, to_is_excluded, min_days } => {
                let first = day(from, value(from)?)?;
                let last = day(to, value(to)?)?;
                let halves = halves((first.0, last.0), *to_is_excluded, *min_days)?;
                let part = |(start, end): (Date, Date)| {
                    vec![(&**from, first.1.write(start)), (&**to, last.1.write(end))]
                };
                halves.into_iter().map(part).collect()
            }
            By::List { param } => {
                let lists = lists(param, value(param)?)?;
                lists.into_iter().map(|list| vec![(&**param, list)]).collect()
            }
            By::Half { param, min } => vec![vec![(&**param, half(param, value(param)?, *min)?)]],
        };
        let parts = parts.into_iter().enumerate().map(|(place, values)| {
            let mut part = fetch.clone();
            part.id = Some(part_id(id, origin, place + 1));
            part.not_before = None;
            part.params.extend(values.into_iter().map(|(name, value)| (name.to_owned(), value)));
            part
        });
        Ok(parts.collect())
    }
}

/// How a day is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `2026-11-20`.
    Dashes,
    /// `20261120`, as text.
    Digits,
    /// The same as a number.
    Number,
}

impl Form {
    /// A day in this form.
    pub(crate) fn write(self, day: Date) -> Value {
        let digits = day.strftime("%Y%m%d").to_string();
        match self {
            Self::Dashes => day.to_string().into(),
            Self::Digits => digits.into(),
            Self::Number => digits.parse::<u64>().map_or(Value::Null, Value::from),
        }
    }
}

fn day(name: &str, value: &Value) -> Result<(Date, Form), String> {
    let (text, is_number) = match value {
        Value::String(text) => (text.clone(), false),
        other => (other.to_string(), other.is_u64()),
    };
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (day, form) = if digits {
        let form = if is_number { Form::Number } else { Form::Digits };
        (Date::strptime("%Y%m%d", &text).ok(), form)
    } else {
        let dashes = text.len() == 10 && !is_number;
        (dashes.then(|| Date::strptime("%Y-%m-%d", &text).ok()).flatten(), Form::Dashes)
    };
    let shown = crate::ids::preview(&text);
    day.map(|day| (day, form)).ok_or_else(|| format!("`{name}` is {shown}, which is no day"))
}

/// Two ranges of days whose union is the whole.
fn halves(
    (first, last): (Date, Date),
    to_is_excluded: bool,
    min_days: u32,
) -> Result<[(Date, Date); 2], String> {
    let behind = |day: Date, days: i64| {
        day.checked_add(days.days()).map_err(|error| format!("{day} and {days} days: {error}"))
    };
    let span = last.duration_since(first).as_hours() / 24;
    let days = if to_is_excluded { span } else { span + 1 };
    let half = days / 2;
    if days < 2 || half < i64::from(min_days.max(1)) {
        let days = days.max(0);
        return Err(format!(
            "{first} to {last} are {days} days, and a part has at least {min_days}"
        ));
    }
    let middle = behind(first, half)?;
    Ok(if to_is_excluded {
        [(first, middle), (middle, last)]
    } else {
        [(first, behind(middle, -1)?), (middle, last)]
    })
}

fn lists(name: &str, value: &Value) -> Result<[Value; 2], String> {
    let too_few = |count| format!("`{name}` has {count} value, which cannot be made fewer");
    match value {
        Value::Array(items) if items.len() >= 2 => {
            let (one, other) = items.split_at(items.len() / 2);
            Ok([one.into(), other.into()])
        }
        Value::Array(items) => Err(too_few(items.len())),
        Value::String(text) => {
            let items: Vec<&str> = text.split(',').collect();
            if items.len() < 2 {
                return Err(too_few(1));
            }
            let (one, other) = items.split_at(items.len() / 2);
            Ok([one.join(",").into(), other.join(",").into()])
        }
        _ => Err(too_few(1)),
    }
}

fn half(name: &str, value: &Value, min: u64) -> Result<Value, String> {
    let (number, is_text) = match value {
        Value::String(text) => (text.parse().ok(), true),
        other => (other.as_u64(), false),
    };
    let number = number.ok_or_else(|| format!("`{name}` is no whole number"))?;
    let half = number / 2;
    if half < min.max(1) {
        return Err(format!("`{name}` is {number}, and is not made smaller than {min}"));
    }
    Ok(if is_text { half.to_string().into() } else { half.into() })
}

/// What an id says of how it came to be: `ID~17.12` is the second part of the first part of `ID`, and 17 the number of
/// what was split last.
#[derive(Debug, PartialEq, Eq)]
struct Family<'a> {
    /// The first of them all.
    base: &'a str,
    /// Which part of which, from the first on; a digit each.
    path: &'a str,
    /// Parts of the form `ID~1`, which were made before numbers stood in them.
    unnumbered: usize,
}

impl<'a> Family<'a> {
    fn of(id: &'a str) -> Self {
        let numbered = id.rsplit_once('~').and_then(|(base, behind)| {
            let (number, path) = behind.split_once('.')?;
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let is_path = !path.is_empty() && path.bytes().all(|byte| matches!(byte, b'1' | b'2'));
            (is_number && is_path).then_some((base, path))
        });
        let (base, path) = numbered.unwrap_or((id, ""));
        let (mut first, mut unnumbered) = (base, 0);
        while let Some(before) = first.strip_suffix("~1").or_else(|| first.strip_suffix("~2")) {
            (first, unnumbered) = (before, unnumbered + 1);
        }
        Self { base, path, unnumbered }
    }

    /// How often it was split.
    fn depth(&self) -> usize {
        self.path.len() + self.unnumbered
    }
}

/// `ID~17.1`, `ID~17.2` of what is queued under the number 17; one that would be too long gets a hash in place of its
/// beginning.
fn part_id(id: &str, origin: Seq, number: usize) -> String {
    let Family { base, path, .. } = Family::of(id);
    let behind = format!("~{}.{path}{number}", origin.0);
    if base.len() + behind.len() <= ID_BYTES_MAX {
        return format!("{base}{behind}");
    }
    let hash = format!("{:x}", Sha256::digest(base));
    format!("{}{behind}", hash.get(..32).unwrap_or_default())
}

#[cfg(test)]
mod tests;
