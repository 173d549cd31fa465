//! Every metric, defined once: name, type, unit, labels, meaning, buckets.
//!
//! Series go through the `metrics` facade: where the process has no recorder, a handle is empty and counting is a
//! branch. Handles are made when a shard starts, for every platform and api of the configuration, so nothing
//! is looked up by name on the way of a fetch and every series is there from the start, at zero. Labels are
//! platforms, apis, codes, classes and kinds: bounded by the configuration and the code, and never an account, an
//! id, a key or a URL. The table of them is in `docs/metrics.md`; a test compares the two.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Unit, with_recorder};
use tollgate_gate::{At, Span};

use crate::codes::Code;
use crate::collector::Outcome;
use crate::ids::Slug;
use crate::observe::DriftKind;
use crate::plan::{Plan, Platform};
use crate::times::{Moments, Phase};

/// What a metric is to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at the process's start.
    Counter,
    /// As it is now.
    Gauge,
    /// Counts by size, in buckets.
    Histogram,
}

impl Kind {
    /// As the text format says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name, with the unit and `_total` where Prometheus wants them.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The unit: `seconds`, `bytes`, or what is counted.
    pub unit: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means, in a sentence.
    pub meaning: &'static str,
    /// Upper bounds of a histogram's buckets, in the unit.
    pub buckets: &'static [f64],
}

/// A wait: from a millisecond to ten minutes.
const WAITS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    600.0,
];
/// An answer of what is near: from 100 µs to 10 s.
const ANSWERS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
const NO_BUCKETS: &[f64] = &[];

macro_rules! metrics {
    ($($name:ident: $kind:ident $text:literal in $unit:literal by $labels:expr, $buckets:expr, $meaning:literal;)*) => {
        $(
            pub(crate) const $name: Metric = Metric {
                name: $text,
                kind: Kind::$kind,
                unit: $unit,
                labels: &$labels,
                meaning: $meaning,
                buckets: $buckets,
            };
        )*
        /// Every metric.
        pub const METRICS: &[Metric] = &[$($name,)*];
    };
}

metrics! {
    WAITING: Gauge "tollgate_fetches_waiting" in "fetches" by ["platform"], NO_BUCKETS,
        "fetches that wait, those between two tries included; counted every 5 s";
    UNKNOWN: Gauge "tollgate_fetches_unknown" in "fetches" by [], NO_BUCKETS,
        "fetches that wait for an api that the configuration does not have";
    IN_FLIGHT: Gauge "tollgate_fetches_in_flight" in "fetches" by ["platform"], NO_BUCKETS,
        "attempts under way, from their permit until their outcome";
    DONE: Counter "tollgate_fetches_done_total" in "fetches" by ["platform", "api"], NO_BUCKETS,
        "fetches stored and out of the queue";
    DEAD: Counter "tollgate_fetches_dead_total" in "fetches" by ["platform", "api", "code"], NO_BUCKETS,
        "fetches given up, by the code that `tollgate explain` knows";
    REFUSED: Counter "tollgate_fetches_refused_total" in "fetches" by ["code"], NO_BUCKETS,
        "what came in and is no fetch that may be called; dead at once";
    PERMITS: Counter "tollgate_permits_total" in "permits" by ["platform", "api"], NO_BUCKETS,
        "permits given, each after its record was confirmed";
    LAPSED: Counter "tollgate_permits_lapsed_total" in "permits" by ["platform"], NO_BUCKETS,
        "permits spent without a call, because the ledger confirmed them too late or not at all";
    LATENESS: Histogram "tollgate_permit_lateness_seconds" in "seconds" by ["platform"], WAITS,
        "how long after its earliest allowed time a permit was given, for permits that a limit made wait and whose time was known: waiting for a free collector, for the ledger and for timers";
    ATTEMPTS: Counter "tollgate_attempts_total" in "attempts" by ["platform", "api", "class"], NO_BUCKETS,
        "attempts that are over: `ok`, `transient`, `incomplete`, `throttled`, `parked`, `denied`, `permanent`, `unreachable`, `late`, `store_away`, `crashed`, `unsigned`";
    ANSWERS_BY_STATUS: Counter "tollgate_answers_total" in "answers" by ["platform", "api", "class"], NO_BUCKETS,
        "answers by the class of their HTTP status, `1xx` to `5xx`; `none` for attempts without an answer";
    BODY_BYTES: Counter "tollgate_body_bytes_total" in "bytes" by ["platform", "api"], NO_BUCKETS,
        "bodies stored, after decompression";
    OBJECTS: Counter "tollgate_objects_total" in "objects" by ["platform", "api"], NO_BUCKETS,
        "objects stored, manifests not counted";
    HOLDS: Counter "tollgate_holds_total" in "holds" by ["platform", "kind"], NO_BUCKETS,
        "times an account, one of its apis or its platform was held: `throttled` by the provider, `told` by an answer that nothing is left, or `unreachable`";
    LIMIT_DRIFT: Counter "tollgate_limit_drift_total" in "alarms" by ["platform", "kind"], NO_BUCKETS,
        "times a provider contradicted a declared limit again and again, at most one an hour and limit: `refused`, `narrower`, `wider`, `faster`, `slower`";
    RESTARTS: Counter "tollgate_restarts_total" in "restarts" by ["kind"], NO_BUCKETS,
        "actors that died and were replaced: `throttle`, `collector`, `budget`, `stage`";
    WAKES: Counter "tollgate_wakes_total" in "wakes" by [], NO_BUCKETS,
        "times the queue said that work has come into a lane";
    WAKE_LAG: Histogram "tollgate_wake_lag_seconds" in "seconds" by [], ANSWERS,
        "from a fetch's storing in JetStream until this node heard of it; the oldest of each batch, by the clocks of server and node";
    SPILLED: Counter "tollgate_spilled_attempts_total" in "attempts" by [], NO_BUCKETS,
        "attempts of this node's accounts that were sent to another node, because all slots were taken here";
    GUESTS_LOST: Counter "tollgate_spilled_attempts_lost_total" in "attempts" by [], NO_BUCKETS,
        "those of them whose node was not heard of any more: they are looked up in the store, and made again";
    GUESTS: Gauge "tollgate_guest_attempts" in "attempts" by [], NO_BUCKETS,
        "attempts of other nodes' accounts that are made here now";
    LEDGER_STORE: Histogram "tollgate_ledger_store_seconds" in "seconds" by ["platform"], ANSWERS,
        "from a record's sending until the ledger answered, well or not";
    LEDGER_ERRORS: Counter "tollgate_ledger_errors_total" in "records" by ["platform", "kind"], NO_BUCKETS,
        "records that were not confirmed: `conflict` (another writer was first), `unsure` (no answer), `away`";
    STORE_FINISH: Histogram "tollgate_store_finish_seconds" in "seconds" by ["platform"], ANSWERS,
        "from a body's end until object and manifest were stored, or the store had failed";
    QUEUE_FINISH: Histogram "tollgate_queue_finish_seconds" in "seconds" by ["platform"], ANSWERS,
        "from an ending until the queue had recorded it, all tries together";
    SPANS_SENT: Counter "tollgate_trace_spans_total" in "spans" by [], NO_BUCKETS,
        "spans that the collector of traces has taken";
    SPANS_DROPPED: Counter "tollgate_trace_spans_dropped_total" in "spans" by [], NO_BUCKETS,
        "spans that were lost: the collector of traces does not take them, or not as fast as they come";
    NOTICES: Counter "tollgate_notices_total" in "notices" by ["kind"], NO_BUCKETS,
        "notices made, with `began`, `goes_on` and `ended`: `account_held`, `limit_drift`, `dead_letters`, `deadline_missed`, `store_away`, `shard_blocked`; see docs/notify.md";
    NOTICES_SENT: Counter "tollgate_notices_sent_total" in "notices" by ["way"], NO_BUCKETS,
        "notices that were taken, by the way they went: `nats`, or the name of a webhook";
    NOTICES_DROPPED: Counter "tollgate_notices_dropped_total" in "notices" by ["way"], NO_BUCKETS,
        "notices that were lost on a way, because they were refused, not taken for an hour, or too many; `signals`: what there was no room to look at";
    STORE_AWAY: Gauge "tollgate_store_away" in "0 or 1" by [], NO_BUCKETS,
        "1 while the object store takes no bodies and no permit is given";
    ALIVE: Gauge "tollgate_alive" in "0 or 1" by [], NO_BUCKETS,
        "1 while all shards turn, 0 while one hangs: what `/healthz` answers, looked up when it is asked";
    NATS_CONNECTED: Gauge "tollgate_nats_connected" in "0 or 1" by [], NO_BUCKETS,
        "1 while the connection to NATS stands; absent without NATS";
    SLOTS: Gauge "tollgate_slots" in "attempts" by [], NO_BUCKETS,
        "attempts that may be in flight at once, small bodies that are only stored not counted: `collect.concurrency`";
    SLOTS_OPEN: Gauge "tollgate_slots_open" in "attempts" by [], NO_BUCKETS,
        "how many of those are free; 0 for long means that `collect.concurrency` is the limit";
    PARTITIONS_HELD: Gauge "tollgate_partitions_held" in "partitions" by [], NO_BUCKETS,
        "of the 64 partitions of the accounts, how many this node works in; all without a cluster";
    BUDGET_ASKS: Counter "tollgate_budget_asks_total" in "asks" by ["kind"], NO_BUCKETS,
        "asks for budgets that another node owns: `lent`, `waits` (a place in its line), `late` (a permit came too late and went back), `parked` (nobody owns it, or its owner does not answer), `unanswered`";
    BUDGET_ASK: Histogram "tollgate_budget_ask_seconds" in "seconds" by [], ANSWERS,
        "from asking another node for a permit of a budget until its answer";
    BUDGET_LENT: Gauge "tollgate_budget_permits_lent" in "permits" by [], NO_BUCKETS,
        "permits of this node's budgets that other nodes were lent and have not told the end of";
    BUDGET_WAITING: Gauge "tollgate_budget_accounts_waiting" in "accounts" by [], NO_BUCKETS,
        "accounts of this node that wait for budgets of other nodes";
    BUDGET_NODES_AWAY: Gauge "tollgate_budget_nodes_away" in "nodes" by [], NO_BUCKETS,
        "nodes with which there is something unfinished about budgets and that do not answer";
    BUDGET_DROPPED: Counter "tollgate_budget_words_dropped_total" in "words" by [], NO_BUCKETS,
        "what was to be said to another node about budgets and found no room";
    BUFFERED: Gauge "tollgate_buffered_bytes" in "bytes" by [], NO_BUCKETS,
        "memory that bodies on their way hold";
    BUFFER_MAX: Gauge "tollgate_buffer_max_bytes" in "bytes" by [], NO_BUCKETS,
        "what they may hold: `collect.buffer_bytes_max`";
    SPOOLED: Gauge "tollgate_spooled_bytes" in "bytes" by [], NO_BUCKETS,
        "answers that wait on the disk for a bucket that is away";
    KNOWN: Gauge "tollgate_accounts_known" in "accounts" by [], NO_BUCKETS,
        "accounts with work, or with limits that remember them";
    LIVE: Gauge "tollgate_accounts_live" in "accounts" by [], NO_BUCKETS,
        "accounts that have an actor";
    RESTING: Gauge "tollgate_accounts_resting" in "accounts" by [], NO_BUCKETS,
        "accounts that are a record and a deadline; counted every 5 s";
    CONFIG_GENERATION: Gauge "tollgate_config_generation" in "configurations" by [], NO_BUCKETS,
        "configurations that were in force since the process began, the one of now included: 1, and one more for each reload that changed something";
    CONFIG_OTHERS: Gauge "tollgate_config_others" in "configurations" by [], NO_BUCKETS,
        "limits of other nodes, told apart by their hash, that are in force beside this node's own; 0: all agree";
    CONFIG_UNKNOWN: Gauge "tollgate_config_unknown" in "nodes" by [], NO_BUCKETS,
        "nodes whose limits are not known here";
    CONFIG_RELOADS: Counter "tollgate_config_reloads_total" in "reloads" by ["kind"], NO_BUCKETS,
        "times the configuration was read anew while running: `applied`, `unchanged`, or `refused` for its mistakes";
    ACCOUNTS_WAITING: Gauge "tollgate_accounts_waiting" in "accounts" by ["platform", "cause"], NO_BUCKETS,
        "accounts with waiting fetches, by what the next one waits for: `limit`, `flight` (a limit, until a call in flight is over), `budget` (a limit shared with others), `hold`, `paused`, `retry`, `collector`, `queue`, `ledger`, `store`, `nats`, `signing`, `drain`, `turn`, `not_before`, `other`; counted every 5 s";
    PHASE: Histogram "tollgate_attempt_phase_seconds" in "seconds" by ["platform", "phase"], WAITS,
        "what attempts spend their time with: `ledger`, `connect` (from the permit until the request is written: name, connection, TLS), `first_byte`, `body`, `store`, `ack`";
    LOOP_LAG: Histogram "tollgate_loop_lag_seconds" in "seconds" by ["shard"], ANSWERS,
        "how long a shard took to give a word; asked every 10 ms while it is at work, every 50 ms for half a second after";
    LOOP_BLOCKED: Counter "tollgate_loop_blocked_total" in "times" by ["shard"], NO_BUCKETS,
        "times that this was 50 ms or more: see the events `shard_blocked`, `shard_freed`";
    MAILBOX: Gauge "tollgate_mailbox_messages" in "messages" by ["shard", "actor"], NO_BUCKETS,
        "messages that wait in mailboxes: `shard`, a shard's own; `throttle`, those of its throttle actors together";
    LIMIT_WAITING: Gauge "tollgate_limit_accounts_waiting" in "accounts" by ["platform", "limit"], NO_BUCKETS,
        "accounts whose next fetch waits for that limit of their own, or for a call in flight that it counts; counted every 5 s";
    LIMIT_NEEDED: Counter "tollgate_limit_needed_seconds_total" in "seconds" by ["platform", "limit"], NO_BUCKETS,
        "the least time that the calls made need under that limit, summed over accounts (or over the keys of a limit that is wider); over the next, it is the use that is made of the limit";
    LIMIT_TAKEN: Counter "tollgate_limit_taken_seconds_total" in "seconds" by ["platform", "limit"], NO_BUCKETS,
        "the time that they took, from the first to the last of a stretch with work waiting; told every 10 s and at its end";
    STAGED_ROWS: Counter "tollgate_staged_rows_total" in "rows" by ["table"], NO_BUCKETS,
        "rows that this node has staged, those that were staged again included";
    STAGE_QUARANTINED: Counter "tollgate_stage_quarantined_total" in "entries" by ["table"], NO_BUCKETS,
        "entries of the quarantine of what this node has staged";
    STAGE_FAILED: Counter "tollgate_stage_failed_total" in "jobs" by ["table"], NO_BUCKETS,
        "jobs of staging, and whole looks at a table, that came to nothing and are tried again";
    STAGE_LAG: Gauge "tollgate_stage_lag_seconds" in "seconds" by ["table"], NO_BUCKETS,
        "age of the oldest fetch that this node has heard of as done and has not staged; 0: none, or another node stages the table";
    BUILD: Gauge "tollgate_build_info" in "1" by ["version"], NO_BUCKETS,
        "always 1; says which version runs";
}

const METADATA: Metadata<'static> = Metadata::new("tollgate", Level::INFO, None);

/// Tells the process's recorder what the metrics are. Called once, after it was installed.
pub fn describe_metrics() {
    with_recorder(|recorder| {
        for metric in METRICS {
            let (name, meaning) = (metric.name.into(), metric.meaning.into());
            let unit = match metric.unit {
                "seconds" => Some(Unit::Seconds),
                "bytes" => Some(Unit::Bytes),
                _ => None,
            };
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, unit, meaning),
                Kind::Gauge => recorder.describe_gauge(name, unit, meaning),
                Kind::Histogram => recorder.describe_histogram(name, unit, meaning),
            }
        }
    });
    BUILD.gauge(&[env!("CARGO_PKG_VERSION")]).set(1);
}

impl Metric {
    /// The series with these values of the labels, in their order.
    fn key(&self, kind: Kind, values: &[&str]) -> Key {
        assert!(
            self.kind == kind && self.labels.len() == values.len(),
            "{} is not that",
            self.name
        );
        let labels = self.labels.iter().zip(values);
        let labels: Vec<Label> =
            labels.map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
        Key::from_parts(self.name, labels)
    }

    pub(crate) fn counter(&self, values: &[&str]) -> Counter {
        let key = self.key(Kind::Counter, values);
        with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
    }

    pub(crate) fn gauge(&self, values: &[&str]) -> Gauge {
        let key = self.key(Kind::Gauge, values);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }

    pub(crate) fn histogram(&self, values: &[&str]) -> Histogram {
        let key = self.key(Kind::Histogram, values);
        with_recorder(|recorder| recorder.register_histogram(&key, &METADATA))
    }
}

/// The series of one shard's platforms; all shards' handles are of the same series.
#[derive(Debug)]
pub(crate) struct Meters {
    platforms: BTreeMap<Slug, Rc<PlatformMeters>>,
}

impl Meters {
    pub(crate) fn new(plan: &Plan) -> Self {
        let platforms = plan.platforms.values();
        let of = |platform: &Platform| {
            let apis = platform.apis.iter().map(|api| &api.name);
            Rc::new(PlatformMeters::new(&platform.name, apis))
        };
        let platforms = platforms.map(|platform| (platform.name.clone(), of(platform))).collect();
        for kind in ["throttle", "collector", "budget"] {
            // There from the start, at zero.
            RESTARTS.counter(&[kind]).increment(0);
        }
        Self { platforms }
    }

    /// Those of a platform that the configuration has.
    pub(crate) fn of(&self, platform: &Slug) -> Rc<PlatformMeters> {
        Rc::clone(self.platforms.get(platform).expect("work comes from declared platforms only"))
    }
}

/// The series of one platform.
pub(crate) struct PlatformMeters {
    name: Slug,
    apis: Box<[ApiMeters]>,
    /// Counts for apis that are no longer declared; there once it is needed.
    gone: OnceCell<Box<ApiMeters>>,
    in_flight: Gauge,
    lapsed: Counter,
    lateness: Histogram,
    ledger_store: Histogram,
    store_finish: Histogram,
    queue_finish: Histogram,
    phases: [Histogram; Phase::ALL.len()],
    dead: RefCell<HashMap<(u16, Code), Counter>>,
}

struct ApiMeters {
    name: Box<str>,
    permits: Counter,
    done: Counter,
    bytes: Counter,
    objects: Counter,
    attempts: [Counter; CLASSES.len()],
    answers: [Counter; STATUSES.len()],
}

impl ApiMeters {
    fn new(p: &str, a: &str) -> Self {
        Self {
            name: a.into(),
            permits: PERMITS.counter(&[p, a]),
            done: DONE.counter(&[p, a]),
            bytes: BODY_BYTES.counter(&[p, a]),
            objects: OBJECTS.counter(&[p, a]),
            attempts: CLASSES.map(|class| ATTEMPTS.counter(&[p, a, class])),
            answers: STATUSES.map(|class| ANSWERS_BY_STATUS.counter(&[p, a, class])),
        }
    }
}

/// The label of apis that were removed while a call of theirs was in flight; no api can be called that.
const API_GONE: &str = "(gone)";

/// How attempts end, and what was answered.
const CLASSES: [&str; 12] = [
    "ok",
    "transient",
    "incomplete",
    "throttled",
    "parked",
    "denied",
    "permanent",
    "unreachable",
    "late",
    "store_away",
    "crashed",
    "unsigned",
];
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl fmt::Debug for PlatformMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PlatformMeters").field(&self.name).finish()
    }
}

impl PlatformMeters {
    fn new<'a>(platform: &Slug, apis: impl Iterator<Item = &'a Slug>) -> Self {
        let p = platform.as_str();
        let apis = apis.map(|api| ApiMeters::new(p, api.as_str()));
        for kind in DriftKind::ALL {
            LIMIT_DRIFT.counter(&[p, kind.as_str()]).increment(0);
        }
        Self {
            name: platform.clone(),
            apis: apis.collect(),
            gone: OnceCell::new(),
            in_flight: IN_FLIGHT.gauge(&[p]),
            lapsed: LAPSED.counter(&[p]),
            lateness: LATENESS.histogram(&[p]),
            ledger_store: LEDGER_STORE.histogram(&[p]),
            store_finish: STORE_FINISH.histogram(&[p]),
            queue_finish: QUEUE_FINISH.histogram(&[p]),
            phases: Phase::ALL.map(|phase| PHASE.histogram(&[p, phase.as_str()])),
            dead: RefCell::default(),
        }
    }

    fn api(&self, api: u16) -> &ApiMeters {
        match self.apis.get(usize::from(api)) {
            Some(meters) => meters,
            // Removed while a call of it was in flight.
            None => {
                self.gone.get_or_init(|| Box::new(ApiMeters::new(self.name.as_str(), API_GONE)))
            }
        }
    }

    /// A permit is given.
    pub(super) fn permit(&self, api: u16) {
        self.api(api).permits.increment(1);
    }

    /// How late a permit was that a limit had made wait.
    pub(crate) fn late(&self, by: Span) {
        self.lateness.record(Duration::from_micros(by.0).as_secs_f64());
    }

    /// Permits are spent without a call.
    pub(crate) fn lapsed(&self, permits: usize) {
        self.lapsed.increment(permits as u64);
    }

    /// An attempt begins.
    pub(crate) fn attempt_begins(&self) {
        self.in_flight.increment(1);
    }

    /// An attempt has reported its outcome, or died with its collector.
    pub(crate) fn attempt_ends(&self) {
        self.in_flight.decrement(1);
    }

    /// What became of an attempt.
    pub(crate) fn attempt(&self, api: u16, outcome: &Outcome) {
        let (class, status) = outcome.judged();
        let meters = self.api(api);
        if let Some(place) = CLASSES.iter().position(|known| *known == class) {
            meters.attempts[place].increment(1);
        }
        let place = status.map_or(0, |status| usize::from(status / 100));
        meters.answers[if place < STATUSES.len() { place } else { 0 }].increment(1);
    }

    pub(super) fn done(&self, api: u16, bytes: u64, objects: u32) {
        let meters = self.api(api);
        meters.done.increment(1);
        meters.bytes.increment(bytes);
        meters.objects.increment(u64::from(objects));
    }

    /// A page of a fetch that is not done yet is stored.
    pub(crate) fn page(&self, api: u16, bytes: u64, objects: u32) {
        let meters = self.api(api);
        meters.bytes.increment(bytes);
        meters.objects.increment(u64::from(objects));
    }

    /// A fetch whose ending was found out and not made by an attempt of this process.
    pub(crate) fn done_before(&self, api: u16) {
        self.api(api).done.increment(1);
    }

    pub(super) fn dead(&self, api: u16, code: Code) {
        let mut dead = self.dead.borrow_mut();
        let count = dead
            .entry((api, code))
            .or_insert_with(|| DEAD.counter(&[self.name.as_str(), &self.api(api).name, code.id()]));
        count.increment(1);
    }

    pub(super) fn held(&self, because: &'static str) {
        HOLDS.counter(&[self.name.as_str(), because]).increment(1);
    }

    /// The ledger has answered.
    pub(crate) fn ledger_stored(&self, took: Span) {
        self.ledger_store.record(Duration::from_micros(took.0).as_secs_f64());
    }

    /// The store has taken a body, or not.
    pub(crate) fn store_finished(&self, took: Duration) {
        self.store_finish.record(took.as_secs_f64());
    }

    /// An attempt is over: what it spent its time with.
    pub(crate) fn phases(&self, moments: &Moments, now: At) {
        for (phase, (from, to)) in moments.phases(now) {
            let took = Duration::from_micros(to.since(from).0);
            self.phases[phase as usize].record(took.as_secs_f64());
        }
    }

    /// The queue has recorded an ending.
    pub(crate) fn queue_finished(&self, took: Duration) {
        self.queue_finish.record(took.as_secs_f64());
    }
}
