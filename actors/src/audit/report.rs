//! What was shown and what was not. `--json` prints it as it is.

use jiff::Timestamp;
use serde::Serialize;

use super::counter::{Call, Evidence, Ns, Rule};
use super::limits::{Limit, span};
use super::proof::{Found, Proof};

/// What an audit found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether every limit is proved: every line that may be a call was read and counted.
    pub proved: bool,
    /// The platform whose limits these are, if a configuration says it.
    pub platform: Option<String>,
    /// Lines read.
    pub lines: u64,
    /// Calls that were counted.
    pub calls: u64,
    /// Accounts and apis that were told apart.
    pub names: u64,
    /// Lines that are no calls of the platform.
    pub stepped_over: u64,
    /// Lines that cannot be read: each may have been a call.
    pub unreadable: u64,
    /// The first of those, with the reason.
    pub unreadable_first: Vec<String>,
    /// Calls that stand too late in the log to be counted.
    pub unsorted: u64,
    /// The first of those, and what would help.
    pub unsorted_first: Option<String>,
    /// Whether the stamps are those of permits, which come before the calls.
    pub permits: bool,
    /// The step of the log's clock in seconds.
    pub step_seconds: f64,
    /// The first call.
    pub first: Option<Timestamp>,
    /// The last call.
    pub last: Option<Timestamp>,
    /// Each limit.
    pub limits: Vec<Row>,
}

/// What was shown of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// In no window were more calls than allowed.
    Proved,
    /// In one there were.
    Exceeded,
    /// The log does not tell.
    Open,
}

/// A limit.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub limit: String,
    /// What it allows, in words.
    pub allows: String,
    /// What was shown.
    pub verdict: Verdict,
    /// Why it is open.
    pub why: Option<String>,
    /// Calls that counted.
    pub calls: u64,
    /// What was counted apart: accounts, apis.
    pub counters: u64,
    /// How many times a call was one too many.
    pub exceeded_times: u64,
    /// The least time that one call too many took, in seconds, where that is near the window.
    pub closest_seconds: Option<f64>,
    /// The first time.
    pub first: Option<Exceeded>,
}

/// Calls that are too many.
#[derive(Debug, Clone, Serialize)]
pub struct Exceeded {
    /// Whose, if the limit is counted per account.
    pub account: Option<String>,
    /// Of which api, if it is counted per api.
    pub api: Option<String>,
    /// How many.
    pub count: u64,
    /// From the first to the last, in seconds.
    pub within_seconds: f64,
    /// The calls, in order; of very many the first and the last.
    pub calls: Vec<CallRow>,
}

/// A call.
#[derive(Debug, Clone, Serialize)]
pub struct CallRow {
    /// Its log and line.
    pub place: String,
    /// Its stamp.
    pub at: Timestamp,
    /// How long it took, in seconds, if that is told.
    pub took_seconds: Option<f64>,
}

/// What was read.
pub(super) struct Seen {
    pub(super) platform: Option<String>,
    pub(super) lines: u64,
    pub(super) stepped_over: u64,
    pub(super) unreadable: u64,
    pub(super) told: Vec<String>,
    pub(super) permits: bool,
    pub(super) logs: Vec<String>,
    pub(super) names: Vec<Box<str>>,
}

pub(super) fn of(limits: &[Limit], proof: Proof, seen: Seen) -> Report {
    let place = |line: u64| {
        let log = seen.logs.get((line >> 48) as usize).map_or("?", String::as_str);
        format!("{log}:{}", line & ((1 << 48) - 1))
    };
    let rows: Vec<Row> = limits
        .iter()
        .zip(&proof.found)
        .map(|(limit, found)| row(limit, found, &proof, &seen.names, &place))
        .collect();
    let whole = seen.unreadable == 0 && proof.unsorted == 0 && proof.calls > 0;
    Report {
        proved: whole && rows.iter().all(|row| row.verdict == Verdict::Proved),
        platform: seen.platform,
        lines: seen.lines,
        calls: proof.calls - proof.unsorted,
        names: seen.names.len() as u64,
        stepped_over: seen.stepped_over,
        unreadable: seen.unreadable,
        unreadable_first: seen.told,
        unsorted: proof.unsorted,
        unsorted_first: proof
            .unsorted_first
            .map(|(line, behind)| format!("{} is {} behind", place(line), span(behind))),
        permits: seen.permits,
        step_seconds: seconds(proof.step),
        first: proof.first.map(moment),
        last: proof.first.map(|_| moment(proof.last)),
        limits: rows,
    }
}

fn row(
    limit: &Limit,
    found: &Found,
    proof: &Proof,
    names: &[Box<str>],
    place: &impl Fn(u64) -> String,
) -> Row {
    let closest = found.counters.values().filter_map(super::counter::Counter::closest).min();
    let broken = found.broken.is_some();
    let why = why_open(limit, found, proof, place);
    let verdict = match (broken, &why) {
        (true, _) => Verdict::Exceeded,
        (false, Some(_)) => Verdict::Open,
        (false, None) => Verdict::Proved,
    };
    let name = |number: Option<u32>| {
        number.and_then(|number| names.get(number as usize)).map(ToString::to_string)
    };
    let first = found.broken.as_ref().or(found.open.as_ref().filter(|_| verdict == Verdict::Open));
    Row {
        limit: limit.name.clone(),
        allows: limit.allows(),
        verdict,
        why: why.filter(|_| !broken),
        calls: found.calls,
        counters: found.counters.len() as u64,
        exceeded_times: found.broken_times,
        closest_seconds: closest.map(seconds),
        first: first.map(|((account, api), Evidence { count, within, calls })| Exceeded {
            account: name(*account),
            api: name(*api).or_else(|| limit.api.clone()),
            count: *count,
            within_seconds: seconds(*within),
            calls: calls.iter().map(|call| call_row(call, place)).collect(),
        }),
    }
}

fn why_open(
    limit: &Limit,
    found: &Found,
    proof: &Proof,
    place: &impl Fn(u64) -> String,
) -> Option<String> {
    let rule = match &limit.rule {
        Ok(rule) => rule,
        Err(why) => return Some(why.clone()),
    };
    if found.without_api > 0 {
        return Some(format!("the api of {} calls is not told: --api", found.without_api));
    }
    if matches!(rule, Rule::Concurrent { .. }) && found.without_end > 0 {
        let calls = found.without_end;
        return Some(format!("how long {calls} calls took is not told: --took names the field"));
    }
    let (_, evidence) = found.open.as_ref()?;
    let error = proof.error.early.saturating_add(proof.error.late);
    let first = evidence.calls.first().map(|call| place(call.line)).unwrap_or_default();
    let last = evidence.calls.last().map(|call| place(call.line)).unwrap_or_default();
    Some(format!(
        "{} calls lie {} apart by their stamps ({first} to {last}), which may be {} wrong: not enough to \
         tell ({} times)",
        evidence.count,
        span(evidence.within),
        span(error),
        found.open_times,
    ))
}

fn call_row(call: &Call, place: &impl Fn(u64) -> String) -> CallRow {
    CallRow {
        place: place(call.line),
        at: moment(call.at),
        took_seconds: call.end.map(|end| seconds(end.saturating_sub(call.at))),
    }
}

fn moment(at: Ns) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(at)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn seconds(ns: Ns) -> f64 {
    ns as f64 / 1e9
}
