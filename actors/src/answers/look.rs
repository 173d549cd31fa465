//! One answer as rules see it: a body is looked at as it streams by, and judged at its end.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;

use super::lines::Lines;
use super::scan::{JsonScan, Whole};
use super::{Answers, Class, Rows, Rule, Test};
use crate::codes::Code;
use crate::http::classify::content_type;
use crate::ids::preview;
use crate::observe::{BODY_SEEN_MAX, Source};
use crate::plan::Format;
use crate::store::{Inspect, Word};

/// Longest words of a provider that are passed on, in characters.
const WORDS_MAX: usize = 300;
/// Longest id of a call that is kept, in bytes.
const ID_MAX: usize = 200;

/// What an answer is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) class: Class,
    /// The code of its fetch's end, if it ends with this.
    pub(crate) code: Code,
    /// Which rule says so and of what, and the provider's own words.
    pub(crate) why: String,
    pub(crate) wait: Option<Duration>,
    /// It is stored though it is incomplete.
    pub(crate) keep: bool,
    /// It counts for the circuit breaker.
    pub(crate) breaks: bool,
}

/// What was seen of an answer when it was over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Looked {
    /// Nothing: no rule says anything, so its status counts.
    pub(crate) verdict: Option<Verdict>,
    /// The provider's id of the call.
    pub(crate) request_id: Option<String>,
    /// The first bytes of the body after decoding.
    pub(crate) start: Vec<u8>,
}

/// Looks at one answer. Cheap to clone: all clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Look(Arc<Mutex<Seen>>);

#[derive(Debug)]
struct Seen {
    answers: Arc<Answers>,
    status: u16,
    headers: HeaderMap,
    format: Format,
    /// Whether it is stored if no rule says anything.
    is_good: bool,
    scan: JsonScan,
    lines: Option<Lines>,
    bytes: u64,
    blank: bool,
    start: Vec<u8>,
    looked: Option<Looked>,
}

impl Look {
    /// `is_good`: without a rule it would be stored.
    pub(crate) fn new(
        answers: &Arc<Answers>,
        status: u16,
        headers: &HeaderMap,
        format: Format,
        is_good: bool,
    ) -> Self {
        let is_table = match format {
            Format::Csv | Format::Tsv => true,
            Format::Auto => {
                let kind = content_type(headers);
                matches!(
                    kind.as_deref(),
                    Some("text/csv" | "application/csv" | "text/tab-separated-values")
                )
            }
            _ => false,
        };
        Self(Arc::new(Mutex::new(Seen {
            answers: Arc::clone(answers),
            status,
            headers: headers.clone(),
            format,
            is_good,
            scan: JsonScan::new(Arc::clone(&answers.paths)),
            lines: is_table.then(|| Lines::new(format != Format::Tsv)),
            bytes: 0,
            blank: true,
            start: Vec::new(),
            looked: None,
        })))
    }

    /// Another look at an answer of the same head, which has seen nothing of a body: at a file of several.
    pub(crate) fn anew(&self) -> Self {
        let seen = self.seen();
        Self(Arc::new(Mutex::new(Seen {
            answers: Arc::clone(&seen.answers),
            status: seen.status,
            headers: seen.headers.clone(),
            format: seen.format,
            is_good: seen.is_good,
            scan: JsonScan::new(Arc::clone(&seen.answers.paths)),
            lines: seen.lines.is_some().then(|| Lines::new(seen.format != Format::Tsv)),
            bytes: 0,
            blank: true,
            start: Vec::new(),
            looked: None,
        })))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges what was seen, a beginning only where `is_all` is false.
    pub(crate) fn judge(&self, is_all: bool) -> Looked {
        let mut seen = self.seen();
        let looked = seen.judge(is_all);
        seen.looked = Some(looked.clone());
        looked
    }

    /// How the body was judged at its end, if it came so far.
    pub(crate) fn looked(&self) -> Option<Looked> {
        self.seen().looked.clone()
    }
}

impl Inspect for Look {
    fn take(&mut self, bytes: &[u8]) {
        self.seen().take(bytes);
    }

    fn end(&mut self) -> Word {
        let looked = self.judge(true);
        let stores = match looked.verdict {
            Some(Verdict { class: Class::Empty, .. }) => return Word::Empty,
            Some(verdict) => verdict.class == Class::Ok || verdict.keep,
            None => self.seen().is_good,
        };
        if stores { Word::Yes } else { Word::No }
    }
}

/// Whether a rule fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    Yes,
    No,
    /// The part of the body that tells was not read.
    Unknown,
}

impl From<bool> for Fits {
    fn from(fits: bool) -> Self {
        if fits { Self::Yes } else { Self::No }
    }
}

impl Seen {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.blank = self.blank && bytes.iter().all(u8::is_ascii_whitespace);
        let room = BODY_SEEN_MAX - self.start.len().min(BODY_SEEN_MAX);
        self.start.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.scan.take(bytes);
        if let Some(lines) = &mut self.lines {
            lines.take(bytes);
        }
    }

    fn judge(&mut self, is_all: bool) -> Looked {
        let whole = self.scan.end();
        let records = match &mut self.lines {
            Some(lines) => lines.rows(),
            None => self.scan.records(),
        };
        let answers = Arc::clone(&self.answers);
        // What is not JSON says nothing in JSON, unless it should be JSON.
        let is_whole = match whole {
            Whole::Yes | Whole::Empty => true,
            Whole::Other => !self.should_be_json(),
            Whole::Broken => false,
        };
        let is_whole = is_whole && is_all;
        let mut verdict = None;
        for rule in answers.rules.iter().filter(|rule| rule.is_for(self.status, self.is_good)) {
            match self.fits(rule, records, is_whole, is_all) {
                Fits::No => {}
                Fits::Yes => {
                    verdict = Some(self.verdict(rule, records));
                    break;
                }
                // The beginning of a bad answer is all that is read, and what a gateway says in its own way is
                // no answer of the api: then its status tells.
                Fits::Unknown if !is_all || !self.is_good => {}
                Fits::Unknown => {
                    verdict = Some(unreadable(rule));
                    break;
                }
            }
        }
        let stored = verdict.as_ref().map_or(self.is_good, |verdict| verdict.class == Class::Ok);
        if stored && let Some(lines) = self.lines.as_ref().filter(|_| is_all) {
            let lacks = lines.lacks(&answers.columns);
            if !lacks.is_empty() {
                verdict = Some(lacking(&lacks));
            }
        }
        let request_id = answers.request_id.as_ref();
        let request_id = request_id.and_then(|source| self.values(source).into_iter().next());
        // A part of one is of no use to anybody.
        let request_id = request_id.filter(|id| (1..=ID_MAX).contains(&id.len()));
        Looked { verdict, request_id, start: self.start.clone() }
    }

    fn should_be_json(&self) -> bool {
        match self.format {
            Format::Json | Format::Ndjson => true,
            Format::Auto => content_type(&self.headers).is_some_and(|kind| {
                kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
            }),
            _ => false,
        }
    }

    fn values(&self, source: &Source) -> Vec<String> {
        match source {
            Source::Body(path) => {
                self.scan.found(path).map(|found| found.values.clone()).unwrap_or_default()
            }
            header @ Source::Header { .. } => header.in_headers(&self.headers),
        }
    }

    fn is_there(&self, source: &Source) -> bool {
        match source {
            Source::Body(path) => self.scan.found(path).is_some_and(|found| found.is_there),
            header @ Source::Header { .. } => !header.in_headers(&self.headers).is_empty(),
        }
    }

    fn fits(&self, rule: &Rule, records: u64, is_whole: bool, is_all: bool) -> Fits {
        let mut fits = Fits::Yes;
        for test in &rule.tests {
            match self.holds(test, records, is_whole, is_all) {
                Fits::No => return Fits::No,
                Fits::Unknown => fits = Fits::Unknown,
                Fits::Yes => {}
            }
        }
        fits
    }

    fn holds(&self, test: &Test, records: u64, is_whole: bool, is_all: bool) -> Fits {
        // What was found is there; what was not may come where the text broke off.
        let of_body = |source: &Source, holds: bool, found: bool| match source {
            Source::Body(_) if !(is_whole || holds && found) => Fits::Unknown,
            _ => holds.into(),
        };
        match test {
            Test::Is(source, wanted) => {
                let values = self.values(source);
                let holds = if wanted.is_empty() {
                    self.is_there(source)
                } else {
                    values.iter().any(|value| wanted.contains(value))
                };
                of_body(source, holds, true)
            }
            Test::Not(source, unwanted) => {
                let values = self.values(source);
                let holds =
                    self.is_there(source) && !values.iter().any(|value| unwanted.contains(value));
                let is_one = values.len() == 1;
                of_body(source, holds, is_one)
            }
            Test::Absent(source) => of_body(source, !self.is_there(source), false),
            Test::Contains(text) => {
                let text = text.as_bytes();
                self.start.windows(text.len().max(1)).any(|part| part == text).into()
            }
            Test::ContentType(kinds) => {
                let kind = content_type(&self.headers).unwrap_or_default();
                kinds.contains(&kind).into()
            }
            Test::Blank => self.blank.into(),
            Test::RowsFrom(rows, least) => {
                self.rows(rows, records, is_whole, is_all, |count| count >= *least)
            }
            Test::RowsTo(rows, most) => {
                self.rows(rows, records, is_whole, is_all, |count| count <= *most)
            }
            Test::RowsBelow(rows, total) => {
                let total = self.scan.found(total).and_then(|found| {
                    found.values.iter().filter_map(|value| value.parse::<u64>().ok()).max()
                });
                match total {
                    Some(total) => {
                        self.rows(rows, records, is_whole, is_all, |count| count < total)
                    }
                    None if is_whole => Fits::No,
                    None => Fits::Unknown,
                }
            }
        }
    }

    fn rows(
        &self,
        rows: &Rows,
        records: u64,
        is_whole: bool,
        is_all: bool,
        test: impl Fn(u64) -> bool,
    ) -> Fits {
        match rows {
            // Lines of a table need no whole JSON.
            Rows::OfBody if !is_all || (self.lines.is_none() && !is_whole) => Fits::Unknown,
            Rows::OfBody => test(records).into(),
            Rows::At(_) if !is_whole => Fits::Unknown,
            Rows::At(path) => {
                let elements = self.scan.found(path).and_then(|found| found.elements);
                elements.is_some_and(test).into()
            }
        }
    }

    fn verdict(&self, rule: &Rule, records: u64) -> Verdict {
        let mut why = String::new();
        for (place, test) in rule.tests.iter().enumerate() {
            let and = if place == 0 { "" } else { " and " };
            write!(why, "{and}{}", self.shown(test, records)).expect("a String takes all");
        }
        if rule.tests.is_empty() {
            write!(why, "the status is {}", self.status).expect("a String takes all");
        }
        write!(why, ", by the rule {}", rule.name).expect("a String takes all");
        let words = rule.message.as_ref().map(|source| self.values(source).join("; "));
        if let Some(words) = words.filter(|words| !words.trim().is_empty()) {
            write!(why, ": {}", beginning(words.trim())).expect("a String takes all");
        }
        let code = match rule.class {
            Class::Incomplete => Code::AnswerIncomplete,
            _ => Code::AnswerRefused,
        };
        let Rule { class, wait, keep, breaks, .. } = *rule;
        Verdict { class, code, why, wait, keep, breaks }
    }

    fn shown(&self, test: &Test, records: u64) -> String {
        let count = |rows: &Rows| match rows {
            Rows::OfBody => format!("the body has {records} rows"),
            Rows::At(path) => {
                let found = self.scan.found(path).and_then(|found| found.elements);
                format!("`{path}` has {} rows", found.unwrap_or(0))
            }
        };
        match test {
            Test::Is(source, _) | Test::Not(source, _) => match self.values(source).first() {
                Some(value) => format!("{} is {}", place(source), whole(value)),
                None => format!("{} is there", place(source)),
            },
            Test::Absent(source) => format!("{} is missing", place(source)),
            Test::Contains(text) => format!("the body holds {:?}", preview(text)),
            Test::ContentType(_) => {
                let kind = content_type(&self.headers).unwrap_or_default();
                format!("the content type is {}", preview(&kind))
            }
            Test::Blank => "the body is empty".to_owned(),
            Test::RowsFrom(rows, least) => format!("{}, {least} or more", count(rows)),
            Test::RowsTo(rows, most) => format!("{}, {most} or fewer", count(rows)),
            Test::RowsBelow(rows, total) => {
                let of = self.values(&Source::Body(total.clone())).join(", ");
                format!("{} of {}", count(rows), whole(&of))
            }
        }
    }
}

/// A value, if it is short enough to be shown as a whole: half a secret could not be recognised as one.
fn whole(value: &str) -> String {
    match value.chars().count() {
        0..=WORDS_MAX => value.escape_debug().to_string(),
        count => format!("{count} characters long"),
    }
}

/// The first words of a text, each whole: half a secret could not be recognised as one.
fn beginning(text: &str) -> &str {
    match text.char_indices().nth(WORDS_MAX) {
        None => text,
        Some((end, _)) => {
            let cut = text.get(..end).unwrap_or_default();
            cut.rsplit_once(char::is_whitespace).map_or("", |(words, _)| words)
        }
    }
}

/// A place in words.
pub(crate) fn place(source: &Source) -> String {
    match source {
        Source::Body(path) => format!("`{path}` in the body"),
        Source::Header { name, .. } => format!("the header {name}"),
    }
}

fn unreadable(rule: &Rule) -> Verdict {
    Verdict {
        class: Class::Transient,
        code: Code::AnswerUnreadable,
        why: format!("the body is not whole JSON, which the rule {} looks into", rule.name),
        wait: None,
        keep: false,
        breaks: false,
    }
}

fn lacking(columns: &[String]) -> Verdict {
    let names: Vec<String> = columns.iter().map(|column| format!("`{column}`")).collect();
    Verdict {
        class: Class::Permanent,
        code: Code::ColumnsMissing,
        why: format!("the first line does not name {}", names.join(", ")),
        wait: None,
        keep: false,
        breaks: false,
    }
}
