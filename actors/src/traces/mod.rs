//! Traces: one for each fetch, also where it is tried several times or on several nodes, below the span of whoever
//! published it.
//!
//! Nothing is kept of a trace between two tries: its ids are made of the fetch, so that each try, a later process and
//! another node come to the same. A span is made when it has ended and goes through a bounded queue to a task that sends
//! it; a queue that is full, or a collector that does not take them, costs spans and never a fetch.

mod export;
mod otlp;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tollgate_gate::At;

use crate::clock::Clock;
use crate::collector::{Item, Outcome};
use crate::plan::TracePlan;
use crate::telemetry;

pub(crate) use export::{Exporter, Exporting};

/// The header, and the label, that says whose span ordered a fetch: <https://www.w3.org/TR/trace-context/>.
pub(crate) const TRACEPARENT: &str = "traceparent";
/// Ended spans that wait to be sent; further ones are dropped and counted.
const SPANS_MAX: usize = 8192;

/// Where spans go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Traces {
    spans: mpsc::Sender<Ended>,
    clock: Clock,
    /// Of fetches whose publisher says nothing, those are traced whose number is below.
    below: u64,
    dropped: metrics::Counter,
}

/// A span that is over.
#[derive(Debug, Clone, PartialEq)]
struct Ended {
    name: &'static str,
    client: bool,
    trace: [u8; 16],
    span: [u8; 8],
    parent: Option<[u8; 8]>,
    from: Timestamp,
    to: Timestamp,
    facts: Vec<(&'static str, Fact)>,
    /// Why it did not end well.
    failed: Option<String>,
}

/// What is said of a span.
#[derive(Debug, Clone, PartialEq)]
enum Fact {
    Text(String),
    Number(i64),
}

/// The trace of one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    trace: [u8; 16],
    /// The span of the fetch itself.
    fetch: [u8; 8],
    /// The span of whoever published it.
    parent: Option<[u8; 8]>,
    /// Whether the publisher wants it to be traced; nothing: it says nothing.
    wanted: Option<bool>,
}

impl Ids {
    fn of(item: &Item) -> Self {
        let (account, id) = (&item.lane.account, item.id.as_str());
        let mut hash = Sha256::new();
        for part in
            [account.platform.as_str(), account.account.as_str(), item.lane.api.as_str(), id]
        {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(item.origin.0.to_be_bytes());
        hash.update(item.queued_at.as_nanosecond().to_be_bytes());
        let hash = hash.finalize();
        let (mut trace, mut fetch) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&hash[..16]);
        fetch.copy_from_slice(&hash[16..24]);
        let told = item.fetch.labels.get(TRACEPARENT).and_then(|label| parent_of(label));
        match told {
            None => Self { trace, fetch, parent: None, wanted: None },
            Some((trace, parent, wanted)) => {
                Self { trace, fetch, parent: Some(parent), wanted: Some(wanted) }
            }
        }
    }
}

/// Reads a `traceparent`: the trace, the span, and whether it is sampled. One of a later version is read as far as
/// this one goes.
fn parent_of(text: &str) -> Option<([u8; 16], [u8; 8], bool)> {
    let mut parts = text.trim().split('-');
    let version = hex::<1>(parts.next()?)?[0];
    let (trace, span) = (hex::<16>(parts.next()?)?, hex::<8>(parts.next()?)?);
    let flags = hex::<1>(parts.next()?)?[0];
    let is_whole = version != 0 || parts.next().is_none();
    let good = version != 0xff && is_whole && trace != [0; 16] && span != [0; 8];
    good.then_some((trace, span, flags & 1 == 1))
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 2 * N || !text.bytes().all(digits) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").finish_non_exhaustive()
    }
}

impl Traces {
    /// A way for spans, and whoever sends them.
    pub(crate) fn new(
        plan: &TracePlan,
        node: &str,
        clock: &Clock,
    ) -> Result<(Self, Exporter), reqwest::Error> {
        let (spans, ended) = mpsc::channel(SPANS_MAX);
        let exporter = Exporter::new(plan, node, ended)?;
        let below = (plan.sample.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        let (clock, dropped) = (clock.clone(), telemetry::spans_dropped());
        Ok((Self { spans, clock, below, dropped }, exporter))
    }

    /// The trace of a fetch, if it is one that is traced.
    pub(crate) fn of(&self, item: &Item) -> Option<Trace> {
        let ids = Ids::of(item);
        let mut number = [0; 8];
        number.copy_from_slice(&ids.trace[8..]);
        let drawn = u64::from_be_bytes(number) < self.below || self.below == u64::MAX;
        ids.wanted.unwrap_or(drawn).then(|| Trace { traces: self.clone(), ids })
    }

    fn wall(&self, at: At) -> Timestamp {
        self.clock.wall_at(at)
    }

    fn end(&self, span: Ended) {
        if self.spans.try_send(span).is_err() {
            self.dropped.increment(1);
        }
    }
}

/// The trace of a fetch while something of it goes on.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    traces: Traces,
    ids: Ids,
}

impl Trace {
    fn span(&self, name: &'static str, from: Timestamp, to: Timestamp) -> Ended {
        Ended {
            name,
            client: false,
            trace: self.ids.trace,
            span: fastrand::u64(1..).to_be_bytes(),
            parent: Some(self.ids.fetch),
            from,
            to: to.max(from),
            facts: Vec::new(),
            failed: None,
        }
    }

    /// The fetch has ended: `code` says why it was given up.
    pub(crate) fn fetch(&self, item: &Item, calls: u32, failed: Option<String>) {
        let now = self.traces.clock.wall();
        let (lane, text) = (&item.lane, |text: &str| Fact::Text(text.to_owned()));
        self.traces.end(Ended {
            span: self.ids.fetch,
            parent: self.ids.parent,
            facts: vec![
                ("tollgate.platform", text(lane.account.platform.as_str())),
                ("tollgate.account", text(lane.account.account.as_str())),
                ("tollgate.api", text(lane.api.as_str())),
                ("tollgate.fetch_id", text(&item.id)),
                ("tollgate.seq", Fact::Number(i64::try_from(item.origin.0).unwrap_or(i64::MAX))),
                ("tollgate.calls", Fact::Number(calls.into())),
            ],
            failed,
            ..self.span("fetch", item.queued_at, now)
        });
    }

    /// A permit was given at last: the first of the fetch, which might have gone at `wanted`.
    pub(crate) fn waited(&self, item: &Item, decided: At) {
        let from =
            item.fetch.not_before.map_or(item.queued_at, |wanted| wanted.max(item.queued_at));
        self.traces.end(self.span("wait for permit", from, self.traces.wall(decided)));
    }

    /// An attempt has ended, with what it was marked at.
    pub(crate) fn attempt(&self, from: At, marks: &Marks, calls: u32, outcome: &Outcome) {
        let now = self.traces.clock.now();
        let (how, failed) = told(outcome);
        let own = Ended {
            facts: vec![
                ("tollgate.call", Fact::Number(calls.into())),
                ("tollgate.outcome", Fact::Text(how.to_owned())),
            ],
            failed: failed.clone(),
            ..self.span("attempt", self.traces.wall(from), self.traces.wall(now))
        };
        let attempt = own.span;
        let part = |name, from: At, to: At| Ended {
            parent: Some(attempt),
            ..self.span(name, self.traces.wall(from), self.traces.wall(to))
        };
        let (body, finishing) = (marks.body.get(), marks.finishing.get());
        if let Some(sent) = marks.sent.get() {
            let status = marks.status.get();
            let is_bad = status.is_none_or(|status| status >= 400);
            let fact =
                status.map(|status| ("http.response.status_code", Fact::Number(status.into())));
            self.traces.end(Ended {
                client: true,
                facts: fact.into_iter().collect(),
                failed: failed.filter(|_| is_bad),
                ..part("http", sent, body.unwrap_or(now))
            });
        }
        if let Some(body) = body {
            self.traces.end(part("store", body, finishing.unwrap_or(now)));
        }
        if let Some(finishing) = finishing {
            self.traces.end(part("ack", finishing, marks.finished.get().unwrap_or(now)));
        }
        self.traces.end(own);
    }
}

/// How an attempt ended, and why not well. Reasons may be the provider's own words: they stay in logs and letters.
fn told(outcome: &Outcome) -> (&'static str, Option<String>) {
    match outcome {
        Outcome::Done { .. } => ("ok", None),
        Outcome::More { .. } => ("page", None),
        Outcome::Split { .. } => ("split", None),
        Outcome::Again { kind, .. } => (kind.as_str(), Some(kind.as_str().to_owned())),
        Outcome::Dead { code, .. } => ("permanent", Some(code.to_string())),
    }
}

/// Moments of an attempt, where it is traced.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// The call begins.
    pub(crate) sent: Cell<Option<At>>,
    /// The status of its answer.
    pub(crate) status: Cell<Option<u16>>,
    /// All of the body is here.
    pub(crate) body: Cell<Option<At>>,
    /// All is stored, the queue is told.
    pub(crate) finishing: Cell<Option<At>>,
    /// The queue has confirmed.
    pub(crate) finished: Cell<Option<At>>,
}
