//! Takes typed values out of one table, remembers what is known there, and refuses the rest.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use ::config::{Value, ValueKind};

use super::mistake::Report;
use super::values::{DurationError, parse_duration, parse_size};
use crate::codes::Code;
use crate::ids::preview;
use crate::recipe::{did_you_mean, nearest};

#[cfg(test)]
thread_local! {
    /// The path of every key that was known in a table read on this thread.
    pub(super) static KNOWN: std::cell::RefCell<std::collections::BTreeSet<Vec<String>>> =
        const { std::cell::RefCell::new(std::collections::BTreeSet::new()) };
}

/// One table of the configuration. `finish` must be called, or unknown keys go unnoticed.
pub(super) struct Section<'r> {
    report: &'r Report,
    path: String,
    values: HashMap<String, Value>,
    known: Vec<&'static str>,
}

impl<'r> Section<'r> {
    pub(super) fn new(report: &'r Report, path: String, values: HashMap<String, Value>) -> Self {
        Self { report, path, values, known: Vec::new() }
    }

    /// The whole path of a key of this table.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn report(&self) -> &'r Report {
        self.report
    }

    pub(super) fn mistake(
        &self,
        code: Code,
        name: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.report.mistake(code, &self.key(name), message, hint);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A value that stays, for whoever takes it.
    pub(super) fn peek(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.values.remove(name)
    }

    /// Says that a key belongs here, though it was not asked for.
    pub(super) fn knows(&mut self, name: &'static str) {
        self.known.push(name);
    }

    fn wrong_type(&self, name: &str, value: &Value, wanted: &str) {
        self.mistake(
            Code::WrongType,
            name,
            format!("{} where {wanted} belongs", kind_of(value)),
            "",
        );
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.take(name)?;
        if let ValueKind::String(text) = value.kind {
            return Some(text);
        }
        self.wrong_type(name, &value, "text");
        None
    }

    /// A text that must be there.
    pub(super) fn required(&mut self, name: &'static str, hint: &str) -> Option<String> {
        if !self.has(name) {
            self.known.push(name);
            self.mistake(Code::MissingKey, name, format!("`{name}` is missing"), hint);
            return None;
        }
        self.text(name)
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Option<bool> {
        let value = self.take(name)?;
        match &value.kind {
            ValueKind::Boolean(yes) => Some(*yes),
            ValueKind::String(text) if text == "true" => Some(true),
            ValueKind::String(text) if text == "false" => Some(false),
            _ => {
                self.wrong_type(name, &value, "true or false");
                None
            }
        }
    }

    /// A whole number. Text is accepted if it is nothing but digits: the environment has no numbers.
    pub(super) fn whole(&mut self, name: &'static str) -> Option<i64> {
        let value = self.take(name)?;
        let number = match &value.kind {
            ValueKind::I64(number) => Some(*number),
            ValueKind::String(text) if is_digits(text) => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.wrong_type(name, &value, "a whole number");
        }
        number
    }

    pub(super) fn whole_in(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let number = self.whole(name)?;
        match u64::try_from(number) {
            Ok(n) if range.contains(&n) => Some(n),
            _ => {
                let (low, high) = range.into_inner();
                self.mistake(
                    Code::BadValue,
                    name,
                    format!("{number} is not between {low} and {high}"),
                    "",
                );
                None
            }
        }
    }

    /// A number of bytes.
    pub(super) fn size(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(name)?;
        let size = match &value.kind {
            ValueKind::I64(number) => u64::try_from(*number).ok(),
            ValueKind::String(text) => parse_size(text),
            _ => {
                self.wrong_type(name, &value, "a size");
                return None;
            }
        };
        match size {
            Some(bytes) if range.contains(&bytes) => Some(bytes),
            Some(bytes) => {
                let (low, high) = range.into_inner();
                let message = format!("{bytes} bytes are not between {low} and {high}");
                self.mistake(Code::BadValue, name, message, "");
                None
            }
            None => {
                let message = format!("`{}` is not a size", preview(&value.to_string()));
                let hint = "bytes as a whole number, or with kB, MB, GB, KiB, MiB, GiB, such as \"256MiB\"";
                self.mistake(Code::BadSize, name, message, hint);
                None
            }
        }
    }

    /// A length of time.
    pub(super) fn duration(
        &mut self,
        name: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = self.take(name)?;
        self.duration_of(name, &value, range, Code::BadDuration)
    }

    /// A length of time that was taken already. `day_code` is for text such as `1d`.
    pub(super) fn duration_of(
        &self,
        name: &str,
        value: &Value,
        range: RangeInclusive<Duration>,
        day_code: Code,
    ) -> Option<Duration> {
        let parsed = match &value.kind {
            ValueKind::String(text) => parse_duration(text),
            ValueKind::I64(_) | ValueKind::Float(_) => Err(DurationError::NoUnit),
            _ => {
                self.wrong_type(name, value, "a duration such as \"5s\"");
                return None;
            }
        };
        let shown = preview(&value.to_string());
        match parsed {
            Ok(duration) if range.contains(&duration) => return Some(duration),
            Ok(_) => {
                let (low, high) = range.into_inner();
                let message = format!("`{shown}` is not between {low:?} and {}", hours(high));
                self.mistake(Code::BadDuration, name, message, "");
            }
            Err(DurationError::NoUnit) => {
                let hint = format!("say the unit, as in \"{shown}s\" or \"{shown}ms\"");
                self.mistake(Code::BadDuration, name, format!("`{shown}` has no unit"), hint);
            }
            Err(DurationError::Calendar) => {
                let message =
                    format!("`{shown}`: a day or longer is a calendar thing, not a length of time");
                let hint = if day_code == Code::SlidingDay {
                    "say \"24h\" for any 24 hours; a window that starts anew at midnight needs `resets`"
                } else {
                    "say \"24h\""
                };
                self.mistake(day_code, name, message, hint);
            }
            Err(DurationError::Other) => {
                let hint = "durations look like \"250ms\", \"5s\", \"1h30m\"";
                self.mistake(Code::BadDuration, name, format!("`{shown}` is not a duration"), hint);
            }
        }
        None
    }

    /// A table.
    pub(super) fn section(&mut self, name: &'static str) -> Option<Section<'r>> {
        let value = self.take(name)?;
        self.section_of(name, value)
    }

    pub(super) fn section_of(&self, name: &str, value: Value) -> Option<Section<'r>> {
        if let ValueKind::Table(values) = value.kind {
            return Some(Section::new(self.report, self.key(name), values));
        }
        self.wrong_type(name, &value, "a table");
        None
    }

    /// A list of texts. One text with commas will do: the environment has no lists.
    pub(super) fn list(&mut self, name: &'static str) -> Option<Vec<String>> {
        let value = self.take(name)?;
        let items = match &value.kind {
            ValueKind::String(text) => {
                return Some(text.split(',').map(|item| item.trim().to_owned()).collect());
            }
            ValueKind::Array(items) => items,
            _ => {
                self.wrong_type(name, &value, "a list of texts");
                return None;
            }
        };
        let texts: Option<Vec<String>> = items
            .iter()
            .map(|item| match &item.kind {
                ValueKind::String(text) => Some(text.clone()),
                _ => None,
            })
            .collect();
        if texts.is_none() {
            self.mistake(Code::WrongType, name, "every item of this list must be text", "");
        }
        texts
    }

    /// The same table with some of its values replaced by those of another, which says where it stands.
    pub(super) fn with(&self, other: Section<'r>) -> Self {
        let mut values = self.values.clone();
        values.extend(other.values);
        Self { report: self.report, path: other.path, values, known: self.known.clone() }
    }

    /// Everything in a table whose keys are the operator's, in the order of the file.
    pub(super) fn entries(&mut self) -> Vec<(String, Value)> {
        let mut entries: Vec<(String, Value)> = self.values.drain().collect();
        entries.sort_by(|(a, _), (b, _)| {
            let place = |name: &str| self.report.place(&self.key(name)).map(|place| place.byte);
            place(a).cmp(&place(b)).then_with(|| a.cmp(b))
        });
        entries
    }

    /// Refuses a key that is declared but does nothing yet.
    pub(super) fn unsupported(&mut self, name: &'static str, hint: &str) {
        if self.take(name).is_some() {
            self.mistake(Code::NotSupported, name, format!("`{name}` is not supported yet"), hint);
        }
        // Nobody is to be told to use it.
        self.known.pop();
    }

    /// Refuses what is left.
    pub(super) fn finish(mut self) {
        #[cfg(test)]
        KNOWN.with(|all| {
            let path: Vec<String> =
                self.path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
            let keys =
                self.known.iter().map(|name| [path.clone(), vec![(*name).to_owned()]].concat());
            all.borrow_mut().extend(keys);
        });
        for (name, _) in self.entries() {
            let near = nearest(&name, self.known.iter().copied());
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            let message = format!("unknown key `{}`", preview(&name));
            self.mistake(Code::UnknownKey, &name, message, hint);
        }
    }
}

/// What a value is, with its article.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value.kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::Float(_) => "a number with a fraction",
        ValueKind::String(_) => "text",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
        _ => "a number",
    }
}

/// One of some words, or a mistake that lists them.
pub(super) fn one_of<T: Copy>(
    section: &Section<'_>,
    name: &str,
    text: &str,
    choices: &[(&'static str, T)],
) -> Option<T> {
    let found = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
    if found.is_none() {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let message = format!(
            "`{}` is not known{}",
            preview(text),
            did_you_mean(text, words.iter().copied())
        );
        section.mistake(Code::BadValue, name, message, format!("one of {}", words.join(", ")));
    }
    found
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn hours(duration: Duration) -> String {
    let secs = duration.as_secs();
    if secs >= 3600 && secs.is_multiple_of(3600) {
        format!("{}h", secs / 3600)
    } else {
        format!("{duration:?}")
    }
}
