//! What an answer is worth, by declared rules over its status, its headers and its body. Pure.
//!
//! Providers say in many ways that an answer is not what was asked for: an error code in a 200, a list that stops
//! at some number of rows, nothing at all. A rule names a class for what it fits; of an api's rules and then its
//! platform's the first that fits counts. Without one the status decides, as it always does.
//!
//! A body is looked at while it goes into the store (`look`), as a whole and in bounded memory, and becomes
//! an object only if its class allows it.

use std::sync::Arc;
use std::time::Duration;

use crate::observe::{JsonPath, Source};
use crate::store::Unwrap;

pub(crate) mod breaker;
mod lines;
mod look;
mod scan;
mod split;
#[cfg(test)]
mod tests;

pub use breaker::BreakerRule;
pub(crate) use look::{Look, Looked, Verdict, place};
pub(crate) use scan::PATHS_MAX;
pub(crate) use split::Form;
pub use split::{By, SPLITS_MAX, Split};

/// Between two tries of an incomplete answer where the rule does not say.
pub const INCOMPLETE_WAIT: Duration = Duration::from_secs(300);

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// What was asked for.
    Ok,
    /// What was asked for, and there is nothing: stored and marked.
    Empty,
    /// A failure that passes: tried again, counts against `attempts_max`.
    Transient,
    /// Too many calls: the account is held.
    Throttled,
    /// A failure that another try brings again.
    Permanent,
    /// What the call was signed with is not good any more: a token is had anew, or secrets are read again, and the
    /// call is tried once more; then the same as permanent.
    Unauthorized,
    /// Part of what was asked for: tried again later, and given up in the end; or kept and marked.
    Incomplete,
    /// Too much was asked for: two fetches take the place of this one.
    TooMuch,
}

/// The classes by their names in a configuration.
pub const CLASSES: &[(&str, Class)] = &[
    ("ok", Class::Ok),
    ("empty", Class::Empty),
    ("transient", Class::Transient),
    ("throttled", Class::Throttled),
    ("permanent", Class::Permanent),
    ("unauthorized", Class::Unauthorized),
    ("incomplete", Class::Incomplete),
    ("too_much", Class::TooMuch),
];

impl Class {
    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        CLASSES.iter().find(|(_, class)| *class == self).map_or("", |(name, _)| name)
    }
}

/// What must be so for a rule to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// Something is there and, unless the list is empty, is one of these.
    Is(Source, Vec<String>),
    /// Something is there, and none of it is one of these.
    Not(Source, Vec<String>),
    /// Nothing is there, or null.
    Absent(Source),
    /// The first 8 KiB of the body hold this text.
    Contains(String),
    /// The content type, without its parameters, is one of these.
    ContentType(Vec<String>),
    /// The body has no bytes, or nothing but blanks.
    Blank,
    /// A list has at least so many elements.
    RowsFrom(Rows, u64),
    /// A list has at most so many elements.
    RowsTo(Rows, u64),
    /// A list has fewer elements than the number says that stands there.
    RowsBelow(Rows, JsonPath),
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// The body's own: lines behind the first of CSV and TSV, values of NDJSON, elements of a JSON list.
    OfBody,
    /// The elements of a list in a JSON body.
    At(JsonPath),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its key in the configuration.
    pub name: String,
    /// Statuses, from and to; empty: any.
    pub status: Vec<(u16, u16)>,
    /// What else must be so.
    pub tests: Vec<Test>,
    /// What the answer is then.
    pub class: Class,
    /// Where the provider says in words what is wrong.
    pub message: Option<Source>,
    /// How long to wait before the next try.
    pub wait: Option<Duration>,
    /// An incomplete answer is stored and marked, and not tried again.
    pub keep: bool,
    /// It counts for the circuit breaker.
    pub breaks: bool,
}

impl Rule {
    /// Whether answers of this status are meant, which are good or bad without a rule.
    ///
    /// A rule that names no status is about a bad answer only if it finds something in it: an empty 503 is no valid
    /// answer without rows. And none makes a bad answer good without saying its status, nor a page of HTML data
    /// without saying its content type.
    fn is_for(&self, status: u16, is_good: bool) -> bool {
        let fits = |(from, to): &(u16, u16)| (*from..=*to).contains(&status);
        let named = self.status.iter().any(fits);
        if is_good || !(named || self.status.is_empty()) {
            return named || self.status.is_empty();
        }
        if self.stores() {
            let says_type = self.tests.iter().any(|test| matches!(test, Test::ContentType(_)));
            return named && (says_type || !(200..300).contains(&status));
        }
        let finds = |test: &Test| {
            matches!(
                test,
                Test::Is(..)
                    | Test::Not(..)
                    | Test::Contains(_)
                    | Test::ContentType(_)
                    | Test::RowsFrom(Rows::At(_), _)
                    | Test::RowsTo(Rows::At(_), _)
                    | Test::RowsBelow(..)
            )
        };
        named || self.tests.iter().any(finds)
    }

    /// Whether it looks into the bodies of answers whose status is good.
    pub(crate) fn looks_into_good(&self) -> bool {
        let looks = |test: &Test| match test {
            Test::Is(source, _) | Test::Not(source, _) | Test::Absent(source) => {
                matches!(source, Source::Body(_))
            }
            Test::ContentType(_) => false,
            _ => true,
        };
        let is_for = |(from, to): &(u16, u16)| *from < 300 && *to >= 200;
        (self.status.is_empty() || self.status.iter().any(is_for)) && self.tests.iter().any(looks)
    }

    /// Whether an answer of this class is stored.
    fn stores(&self) -> bool {
        matches!(self.class, Class::Ok | Class::Empty) || self.keep
    }

    fn paths(&self) -> impl Iterator<Item = &JsonPath> {
        let tests = self.tests.iter().flat_map(|test| {
            let (one, other) = match test {
                Test::Is(Source::Body(path), _)
                | Test::Not(Source::Body(path), _)
                | Test::Absent(Source::Body(path))
                | Test::RowsFrom(Rows::At(path), _)
                | Test::RowsTo(Rows::At(path), _)
                | Test::RowsBelow(Rows::OfBody, path) => (Some(path), None),
                Test::RowsBelow(Rows::At(path), total) => (Some(path), Some(total)),
                _ => (None, None),
            };
            one.into_iter().chain(other)
        });
        let message = self.message.as_ref().and_then(|source| match source {
            Source::Body(path) => Some(path),
            Source::Header { .. } => None,
        });
        tests.chain(message)
    }
}

/// What is declared of an api's answers.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// The api's rules and then its platform's.
    pub rules: Vec<Rule>,
    /// What the first line of CSV or TSV must name.
    pub columns: Vec<String>,
    /// Where the provider's id of a call is.
    pub request_id: Option<Source>,
    /// How bodies become what is stored.
    pub decoding: Decoding,
    /// How too much is made less.
    pub split: Option<Split>,
    /// Whether a call may be made again whose answer was lost; nothing: as its method says.
    pub idempotent: Option<bool>,
    /// When refusals of access hold the account; nothing: never.
    pub breaker: Option<BreakerRule>,
    /// Every place in a body that is looked at, each once.
    paths: Arc<[JsonPath]>,
}

impl Answers {
    /// From rules, an api's own first.
    pub fn new(rules: Vec<Rule>, columns: Vec<String>, request_id: Option<Source>) -> Self {
        let mut paths: Vec<JsonPath> = Vec::new();
        let of_id = request_id.as_ref().and_then(|source| match source {
            Source::Body(path) => Some(path),
            Source::Header { .. } => None,
        });
        for path in rules.iter().flat_map(Rule::paths).chain(of_id) {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
        let breaker = Some(BreakerRule::default());
        Self { rules, columns, request_id, breaker, paths: paths.into(), ..Self::default() }
    }

    /// How many places in a body are looked at.
    pub(crate) fn paths(&self) -> usize {
        self.paths.len()
    }

    /// Whether nothing has to be looked at.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.columns.is_empty() && self.request_id.is_none()
    }

    /// Whether an answer of this status may be stored, as far as its status tells; `is_good`: without a rule it
    /// would be.
    pub(crate) fn may_store(&self, status: u16, is_good: bool) -> bool {
        is_good || self.rules.iter().any(|rule| rule.is_for(status, is_good) && rule.stores())
    }
}

/// How bodies become what is stored, after their content encoding was undone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoding {
    /// The file that a body is.
    pub unwrap: Unwrap,
    /// The charset of its text; nothing: bytes stay as they are.
    pub charset: Option<&'static encoding_rs::Encoding>,
}
