//! What to ask a provider, and where the answer goes: templates, requests, fetches, object keys.
//!
//! Decides whether a fetch can be understood and is allowed, and turns it into a request and a key.
//! Promises that no value of a fetch leaves its place: not its segment of a path, its pair of a query,
//! its header or its folder, and that no request goes to a host that is not declared.
//! Must not know clocks, files, sockets or limits.

use std::fmt;

use jiff::Timestamp;
use tollgate_protos::{Dead, Fetch};

use crate::codes::Code;

mod body;
mod budgets;
mod build;
mod check;
mod dates;
mod filters;
mod jobs;
mod json;
mod key;
mod query;
mod queued;
mod syntax;
mod template;

#[cfg(test)]
mod tests;

pub use body::{Body, LongQuery, REQUEST_BODY_BYTES_MAX};
pub use budgets::{BudgetKey, budgets, budgets_of_page};
pub(crate) use budgets::{budget_named, budget_of, budget_of_all, budget_of_record, sets};
pub use build::{FetchContext, Request, URL_BYTES_MAX, build, build_page, is_bare, url_allowed};
pub(crate) use build::{fill, path_problem, render};
pub use check::{
    Accepted, FETCH_BYTES_MAX, check_fetch, check_form, check_to_publish, encode_json,
    encode_protobuf,
};
pub(crate) use check::{FIELDS, read_json};
pub use dates::Zones;
pub(crate) use dates::zone_named;
pub(crate) use jobs::job;
pub use json::JsonTemplate;
pub use key::{
    KEY_BYTES_MAX, KeyContext, PAGE_MAX, is_member_key, manifest_key, member_key, object_key,
};
pub(crate) use key::{
    KEY_VARIABLES, OWNER, key_prefix, names, narrow, owner_key, template_problems,
};
pub use query::{Escapes, Given, Lists, Pair};
pub use queued::{Content, PROTOBUF, check_queued};
pub(crate) use syntax::is_name;
pub use template::{RENDERED_BYTES_MAX, TEMPLATE_BYTES_MAX, Template, TemplateError, Variables};

/// Names that a parameter may not have, since templates use them for something else.
pub const RESERVED: &[&str] = &["platform", "api", "account", "id", "today", "now"];

/// What a reserved name stands for.
pub(crate) fn taken_by(name: &str) -> &'static str {
    match name {
        "today" | "now" => "when the fetch was queued",
        _ => "a field of the fetch itself",
    }
}

/// Bytes of what was refused, kept for its dead letter; fewer where they are escaped, in four characters each.
const RAW_BYTES: usize = 2048;
const BINARY_BYTES: usize = 512;

/// Why a fetch cannot be called. No call was made for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// What kind of reason.
    pub code: Code,
    /// One sentence: what is wrong with which part.
    pub reason: String,
    /// The fetch, if it was understood; always absent from `build` and `object_key`, whose caller has it.
    pub fetch: Option<Box<Fetch>>,
}

impl Refusal {
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), fetch: None }
    }

    /// The dead letter of what came in: with the fetch where it could be read, else with the beginning of
    /// `raw`, escaped where it holds control characters (as protobuf does). `seq` is its place in the queue,
    /// or 0; `source` says where it came from.
    pub fn into_dead(
        self,
        seq: u64,
        raw: &[u8],
        source: Option<String>,
        died_at: Timestamp,
    ) -> Dead {
        let text = &raw[..raw.len().min(RAW_BYTES)];
        let binary = text.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace());
        let start = if binary {
            text[..text.len().min(BINARY_BYTES)].escape_ascii().to_string()
        } else {
            String::from_utf8_lossy(text).into_owned()
        };
        let fetch = self.fetch.map(|fetch| *fetch);
        Dead {
            seq,
            raw: fetch.is_none().then_some(start),
            fetch,
            source,
            code: self.code.to_string(),
            reason: self.reason,
            attempts: 0,
            http_status: None,
            body_start: None,
            died_at,
            ..Dead::default()
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.reason)
    }
}

impl std::error::Error for Refusal {}

/// The known word nearest to a mistyped one, if one is near.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| {
            let likeness = strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase());
            (likeness, candidate)
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?`, or nothing.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}
