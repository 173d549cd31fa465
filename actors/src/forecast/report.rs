//! What is told: sums by platform, api, limit and account. `--json` prints it as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tollgate_gate::{At, Limit, Span, WaitedFor};

use super::changes::all_done;
use super::outcome::{Waited, Walked as AllWalked};
use super::shared::{Budgets, PlaceOfBudget};
use super::{Assumed, Kind, Shape, seconds};
use crate::clock::Clock;
use crate::codes::Code;
use crate::plan::Platform;

/// What `tollgate plan` says; times in seconds from the start.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Forecast {
    /// Records read.
    pub fetches: u64,
    /// Calls that would be made: one for each fetch that can be called.
    pub calls: u64,
    /// Accounts with work.
    pub accounts: u64,
    /// Fetches whose id their account and api have twice: called once.
    pub duplicates: u64,
    /// Fetches whose turn comes after their deadline: dead without a call, TG0114.
    pub late: u64,
    /// Fetches that a limit never allows: dead without a call, TG0211.
    pub never: u64,
    /// Records that are no fetch that can be called, by their code.
    pub refused: Vec<RefusedRow>,
    /// Accounts that start from what the data folder knows of them.
    pub from_ledger: usize,
    /// When it starts.
    pub start: Option<Timestamp>,
    /// When the last is done.
    pub finish: Option<Timestamp>,
    /// Until the last is done.
    pub seconds: f64,
    /// Platforms with work, the slowest first.
    pub platforms: Vec<PlatformRow>,
    /// Limits that count a call, what is waited for most first.
    pub limits: Vec<LimitRow>,
    /// Time that accounts wait for their `not_before`, summed.
    pub not_before_seconds: f64,
    /// Calls in flight at once, over all accounts.
    pub concurrency: usize,
    /// By how much calls are later at most because so many are in flight; 0: there is always room.
    pub concurrency_delay_seconds: f64,
    /// Until the last is done, if nothing but that bound held it back.
    pub concurrency_seconds: f64,
    /// The slowest accounts.
    pub slowest: Vec<AccountRow>,
    /// What changing one thing would buy, most first.
    pub changes: Vec<ChangeRow>,
    /// Changes that were not looked at: it would have taken too long.
    pub changes_left_out: usize,
    /// Accounts that differ in their work; only they were walked.
    pub shapes: usize,
}

/// Records refused for one reason.
#[derive(Debug, Clone, Serialize)]
pub struct RefusedRow {
    /// Why.
    pub code: Code,
    /// How many.
    pub fetches: u64,
    /// Where the first is.
    pub first: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A platform.
#[derive(Debug, Clone, Serialize)]
pub struct PlatformRow {
    /// Its name.
    pub platform: String,
    /// Accounts with work.
    pub accounts: u64,
    /// Calls.
    pub calls: u64,
    /// Until its last is done.
    pub seconds: f64,
    /// Its apis with work, the slowest first.
    pub apis: Vec<ApiRow>,
}

/// An api.
#[derive(Debug, Clone, Serialize)]
pub struct ApiRow {
    /// Its name.
    pub api: String,
    /// Accounts with work for it.
    pub accounts: u64,
    /// Calls.
    pub calls: u64,
    /// Until its last is done.
    pub seconds: f64,
}

/// A limit.
#[derive(Debug, Clone, Serialize)]
pub struct LimitRow {
    /// `platform.limit`, or `platform.api.limit` for an api's own.
    pub limit: String,
    /// Accounts that wait for it longer than for anything else.
    pub accounts_bound: u64,
    /// Time that accounts wait for it, summed.
    pub waited_seconds: f64,
    /// The longest that one account waits for it.
    pub waited_max_seconds: f64,
    /// Least time its calls need over the time they take, summed over accounts: 1 is all of it.
    pub share: Option<f64>,
}

/// An account.
#[derive(Debug, Clone, Serialize)]
pub struct AccountRow {
    /// Its platform.
    pub platform: String,
    /// Its name.
    pub account: String,
    /// Its calls.
    pub calls: u64,
    /// Until its last is done.
    pub seconds: f64,
    /// When that is.
    pub finish: Timestamp,
    /// What it waits for longest.
    pub because: Option<String>,
    /// For how long.
    pub waited_seconds: f64,
}

/// A change and what it would buy.
#[derive(Debug, Clone, Serialize)]
pub struct ChangeRow {
    /// Which limit; none: `collect.concurrency`.
    pub limit: Option<String>,
    pub(crate) kind: Kind,
    /// Until the last is done then.
    pub seconds: f64,
    /// How much sooner that is.
    pub saved_seconds: f64,
}

impl fmt::Display for ChangeRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.limit.as_deref().unwrap_or("collect.concurrency");
        match self.kind {
            Kind::Without => write!(f, "without {name}"),
            Kind::Doubled => write!(f, "{name} doubled"),
        }
    }
}

pub(super) fn limit_name(platform: &Platform, limit: &Limit) -> String {
    let api = limit.api.and_then(|api| platform.apis.get(usize::from(api)));
    match api {
        Some(api) => format!("{}.{}.{}", platform.name, api.name, limit.name),
        None => format!("{}.{}", platform.name, limit.name),
    }
}

/// All that a report is made of.
pub(super) struct Walked<'a> {
    pub(super) clock: &'a Clock,
    pub(super) platforms: &'a [&'a Platform],
    pub(super) shapes: &'a [Shape],
    pub(super) budgets: &'a Budgets,
    pub(super) all: &'a AllWalked,
    pub(super) start: At,
    pub(super) assumed: &'a Assumed,
}

#[derive(Default)]
struct LimitSum {
    bound: u64,
    waited: f64,
    waited_max: f64,
    needed: f64,
    taken: f64,
    counts: bool,
}

/// Which limit: an account's own, or one of the budgets'.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    Own(usize, usize),
    Budget(PlaceOfBudget),
}

pub(super) fn of(walked: &Walked<'_>) -> Forecast {
    let Walked { clock, platforms, shapes, budgets, all, start, assumed } = walked;
    let outcomes = &all.outcomes;
    let flow = all.demand.through(assumed.concurrency);
    let late = |at: At, last: At| seconds(at.plus(flow.delay(last.since(*start))).since(*start));
    let mut report = Forecast {
        start: Some(clock.wall_at(*start)),
        concurrency: assumed.concurrency,
        concurrency_delay_seconds: seconds(flow.delay_max),
        concurrency_seconds: seconds(flow.drained),
        shapes: shapes.len(),
        ..Forecast::default()
    };
    let mut sums: BTreeMap<Which, LimitSum> = BTreeMap::new();
    let mut rows: BTreeMap<usize, PlatformRow> = BTreeMap::new();
    let mut apis: BTreeMap<(usize, u16), ApiRow> = BTreeMap::new();
    for (shape, outcome) in shapes.iter().zip(outcomes) {
        let alike = shape.accounts.len() as u64;
        let platform = platforms[shape.platform];
        report.calls += outcome.calls * alike;
        report.accounts += alike;
        report.late += outcome.late * alike;
        report.never += outcome.never * alike;
        let done = late(outcome.finish, outcome.last);
        let row = rows.entry(shape.platform).or_insert_with(|| PlatformRow {
            platform: platform.name.to_string(),
            accounts: 0,
            calls: 0,
            seconds: 0.0,
            apis: Vec::new(),
        });
        row.accounts += alike;
        row.calls += outcome.calls * alike;
        row.seconds = row.seconds.max(done);
        for (api, (calls, end)) in &outcome.apis {
            let row = apis.entry((shape.platform, *api)).or_insert_with(|| ApiRow {
                api: platform.apis[usize::from(*api)].name.to_string(),
                accounts: 0,
                calls: 0,
                seconds: 0.0,
            });
            row.accounts += alike;
            row.calls += calls * alike;
            row.seconds = row.seconds.max(late(*end, *end));
        }
        for (place, limit) in platform.limits.limits().iter().enumerate() {
            if shape.lanes.iter().any(|lane| limit.api.is_none_or(|only| only == lane.api)) {
                sums.entry(Which::Own(shape.platform, place)).or_default().counts = true;
            }
        }
        for (rank, (what, span)) in outcome.waits.iter().enumerate() {
            let waited = Duration::from(*span).as_secs_f64();
            let which = match what {
                Waited::For(WaitedFor::Limit(place)) => {
                    let own = &shape.limits.limits()[*place];
                    place_of(platform, own).map(|place| Which::Own(shape.platform, place))
                }
                Waited::Budget(place) => Some(Which::Budget(*place)),
                Waited::For(WaitedFor::NotBefore) => {
                    report.not_before_seconds += waited * alike as f64;
                    None
                }
                Waited::For(WaitedFor::Hold | WaitedFor::Slots | WaitedFor::Shared) => None,
            };
            if let Some(which) = which {
                let sum = sums.entry(which).or_default();
                sum.waited += waited * alike as f64;
                sum.waited_max = sum.waited_max.max(waited);
                sum.bound += if rank == 0 { alike } else { 0 };
            }
        }
        for (place, (needed, taken)) in &outcome.used {
            let Some(place) = place_of(platform, &shape.limits.limits()[*place]) else { continue };
            let sum = sums.entry(Which::Own(shape.platform, place)).or_default();
            sum.needed += Duration::from(*needed).as_secs_f64() * alike as f64;
            sum.taken += Duration::from(*taken).as_secs_f64() * alike as f64;
        }
    }
    let mut names: BTreeMap<PlaceOfBudget, String> = BTreeMap::new();
    for (place, slug, limit) in budgets.limits() {
        let platform = platforms.iter().find(|platform| platform.name == *slug);
        names.extend(platform.map(|platform| (place, limit_name(platform, limit))));
        let sum = sums.entry(Which::Budget(place)).or_default();
        sum.counts = true;
        if let Some((needed, taken)) = all.used.get(&place) {
            sum.needed = Duration::from(*needed).as_secs_f64();
            sum.taken = Duration::from(*taken).as_secs_f64();
        }
    }
    for ((platform, _), row) in apis {
        if let Some(of) = rows.get_mut(&platform) {
            of.apis.push(row);
        }
    }
    report.platforms = rows.into_values().collect();
    report.platforms.iter_mut().for_each(|row| {
        row.apis.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    });
    report.platforms.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    report.limits = sums
        .into_iter()
        .filter(|(_, sum)| sum.counts)
        .map(|(which, sum)| {
            let limit = match which {
                Which::Own(place, index) => {
                    limit_name(platforms[place], &platforms[place].limits.limits()[index])
                }
                Which::Budget(place) => names.get(&place).cloned().unwrap_or_default(),
            };
            LimitRow {
                limit,
                accounts_bound: sum.bound,
                waited_seconds: thousandths(sum.waited),
                waited_max_seconds: thousandths(sum.waited_max),
                share: (sum.taken > 0.0).then(|| thousandths((sum.needed / sum.taken).min(1.0))),
            }
        })
        .collect();
    report.limits.sort_by(|a, b| b.waited_seconds.total_cmp(&a.waited_seconds));
    report.not_before_seconds = thousandths(report.not_before_seconds);
    let walked_for = all_done(outcomes.iter().map(|one| one.finish), *start);
    report.seconds = seconds(walked_for.max(flow.drained));
    report.finish = Some(clock.wall_at(start.plus(walked_for.max(flow.drained))));
    report.slowest = slowest(walked, &names, late);
    report
}

/// The place of an account's limit among the platform's: its values may be others, its name is not.
fn place_of(platform: &Platform, own: &Limit) -> Option<usize> {
    let is_it = |known: &Limit| known.name == own.name && known.api == own.api;
    platform.limits.limits().iter().position(is_it)
}

fn slowest(
    walked: &Walked<'_>,
    names: &BTreeMap<PlaceOfBudget, String>,
    late: impl Fn(At, At) -> f64,
) -> Vec<AccountRow> {
    let outcomes = &walked.all.outcomes;
    let mut order: Vec<usize> = (0..walked.shapes.len()).collect();
    let done = |place: &usize| late(outcomes[*place].finish, outcomes[*place].last);
    order.sort_by(|a, b| done(b).total_cmp(&done(a)));
    let accounts = order.into_iter().flat_map(|place| {
        walked.shapes[place].accounts.iter().map(move |account| (place, account))
    });
    let row = |(place, account): (usize, &crate::ids::AccountKey)| {
        let (shape, outcome) = (&walked.shapes[place], &outcomes[place]);
        let platform = walked.platforms[shape.platform];
        let longest = outcome.waits.first();
        let seconds_of = done(&place);
        let span = Span::from(Duration::from_secs_f64(seconds_of));
        AccountRow {
            platform: account.platform.to_string(),
            account: account.account.to_string(),
            calls: outcome.calls,
            seconds: seconds_of,
            finish: walked.clock.wall_at(walked.start.plus(span)),
            because: longest.map(|(what, _)| match what {
                Waited::For(WaitedFor::Limit(at)) => {
                    limit_name(platform, &shape.limits.limits()[*at])
                }
                Waited::For(WaitedFor::Hold) => "a hold".into(),
                Waited::For(WaitedFor::NotBefore) => "its not_before".into(),
                Waited::For(WaitedFor::Slots) => "collect.concurrency".into(),
                Waited::For(WaitedFor::Shared) => "what it shares with other accounts".into(),
                Waited::Budget(place) => {
                    let name = names.get(place).cloned().unwrap_or_default();
                    format!("{name} (shared)")
                }
            }),
            waited_seconds: longest.map_or(0.0, |(_, span)| seconds(*span)),
        }
    };
    accounts.take(walked.assumed.most).map(row).collect()
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A length of time for people.
pub(super) struct Shown(pub(super) Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let text = match ms {
            0..60_000 => {
                let text = format!("{:.3}", self.0.as_secs_f64());
                format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
            }
            60_000..3_600_000 => {
                let seconds = (ms + 500) / 1000;
                parts(&[(seconds / 60, "m"), (seconds % 60, "s")])
            }
            3_600_000..172_800_000 => {
                let minutes = (ms + 30_000) / 60_000;
                parts(&[(minutes / 60, "h"), (minutes % 60, "m")])
            }
            _ => {
                let hours = (ms + 1_800_000) / 3_600_000;
                parts(&[(hours / 24, "d"), (hours % 24, "h")])
            }
        };
        f.pad(&text)
    }
}

fn parts(parts: &[(u128, &str)]) -> String {
    let told = parts.iter().filter(|(count, _)| *count > 0);
    let told: Vec<String> = told.map(|(count, unit)| format!("{count}{unit}")).collect();
    told.join(" ")
}
