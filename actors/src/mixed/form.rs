//! What a configuration says of limits, as nodes tell it each other: one canonical JSON text, named by its hash.
//!
//! All that decides when a call may go is in it, and nothing else: limits, by what they count, what calls cost under
//! them, values of their own, when windows start anew, what is kept back, guards, how long lost calls count. Two
//! configurations with the same text count alike, however they are written.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tollgate_gate::{Cost, Guard, LimitSet, Rule, Span};

use crate::calendar::Resets;
use crate::costs::{Costs, Counts};
use crate::ids::Slug;
use crate::plan::{Dim, Plan, Platform, Special, Test, When};

/// The form written now. A text of a later one is not understood, and its node's limits are not known here.
const FORM: u32 = 1;

/// The limits of all platforms of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    form: u32,
    pub(super) platforms: BTreeMap<String, OfPlatform>,
}

/// Why a text says nothing of limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// It is of a later version of this program.
    #[error("it has form {0}, this program reads form {FORM}")]
    Later(u32),
    /// It is damaged, or was written by something else.
    #[error("{0}")]
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfPlatform {
    pub(super) lost_call_us: u64,
    pub(super) lost_call_alive_us: u64,
    /// The values of dimensions, as templates.
    pub(super) keys: BTreeMap<String, String>,
    /// Names which accounts are in which tier; nothing where no limit asks.
    pub(super) tiers: Option<String>,
    pub(super) sets: Vec<OfSet>,
}

/// Limits of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfSet {
    pub(super) per: Vec<String>,
    when: OfWhen,
    pub(super) limits: Vec<OfLimit>,
    /// What some values of the key have in place of limits of the same name and api.
    pub(super) values: BTreeMap<String, Vec<OfLimit>>,
    pub(super) tiers: BTreeMap<String, Vec<OfLimit>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfWhen {
    apis: Vec<String>,
    params: Vec<(String, OfTest)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OfTest {
    Present,
    Absent,
    One,
    Several,
    Is(Vec<String>),
    Between(Option<i64>, Option<i64>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfLimit {
    pub(super) name: String,
    pub(super) api: Option<String>,
    pub(super) per_api: bool,
    pub(super) rule: OfRule,
    guard: OfGuard,
    counts: OfCounts,
    /// What a call of an api costs that is not among `costs`: the most that any does.
    pub(super) cost: OfCost,
    pub(super) costs: BTreeMap<String, OfCost>,
    pub(super) free_pages: bool,
    pub(super) reserve: u32,
    pub(super) beyond: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum OfRule {
    Every { gap_us: u64 },
    Sliding { max: NonZeroU32, window_us: u64 },
    Concurrent { max: NonZeroU32 },
    Bucket { burst: NonZeroU32, rate: NonZeroU32, per_us: u64 },
    Calendar { max: NonZeroU32, slack_us: u64, at: String, zone: String, every_us: u64 },
    FirstUse { max: NonZeroU32, window_us: u64 },
    Score { max: NonZeroU32, decay_us: u64, block_us: u64 },
    Jobs { max: NonZeroU32, ttl_us: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OfGuard {
    Default,
    AfterUs(u64),
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OfCounts {
    Units,
    BytesBy(u64),
    Errors,
}

/// Ordered by what is dearer, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfCost {
    pub(super) template: Option<String>,
    pub(super) units: u32,
    pub(super) estimate: bool,
}

impl Limits {
    /// What a plan says of limits.
    pub fn of(plan: &Plan) -> Self {
        Self::of_all(&plan.platforms)
    }

    pub(crate) fn of_all(platforms: &BTreeMap<Slug, Arc<Platform>>) -> Self {
        let platforms = platforms.iter();
        let platforms = platforms.map(|(name, own)| (name.to_string(), OfPlatform::of(own)));
        Self { form: FORM, platforms: platforms.collect() }
    }

    /// The text of it.
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and numbers are JSON")
    }

    /// The first 16 hex digits of the SHA-256 of its text.
    pub fn hash(&self) -> String {
        digest(&self.text(), 16)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// It is of a later version, or no such text.
    pub fn read(text: &[u8]) -> Result<Self, FormError> {
        #[derive(Deserialize)]
        struct Which {
            form: u32,
        }
        let broken = |error: serde_json::Error| FormError::Broken(error.to_string());
        let Which { form } = serde_json::from_slice(text).map_err(broken)?;
        if form != FORM {
            return Err(FormError::Later(form));
        }
        serde_json::from_slice(text).map_err(broken)
    }
}

/// So many hex digits of a text's SHA-256.
fn digest(text: &[u8], digits: usize) -> String {
    format!("{:x}", Sha256::digest(text)).chars().take(digits).collect()
}

impl OfPlatform {
    pub(super) fn of(platform: &Platform) -> Self {
        let of = |special: &Special<_>| special.tiers.is_empty();
        let own = platform.special.clone().map(|own| (own.limits.clone(), own.costs.clone()));
        let mut sets = Vec::new();
        if !platform.limits.limits().is_empty() {
            let base = (&*platform.limits, &platform.costs);
            sets.push(OfSet::of(platform, &[Dim::Account], &When::default(), base, &own));
        }
        let mut tiered = !of(&own);
        let mut budgets: Vec<_> = platform.budgets.iter().collect();
        budgets.sort_by_key(|budget| &budget.id);
        for budget in budgets {
            let special = budget.special.clone();
            let special = special.map(|own| (own.limits.clone(), Costs::clone(&own.costs)));
            let base = (&*budget.counted.limits, &*budget.counted.costs);
            tiered |= !of(&special);
            sets.push(OfSet::of(platform, &budget.dims, &budget.when, base, &special));
        }
        let keys = platform.keys.iter();
        Self {
            lost_call_us: micros(platform.lost_call),
            lost_call_alive_us: micros(platform.lost_call_alive),
            keys: keys.map(|(dim, own)| (dim.to_string(), own.text().to_owned())).collect(),
            tiers: tiered.then(|| tiers(platform)),
            sets,
        }
    }
}

/// Which accounts are in which tier.
fn tiers(platform: &Platform) -> String {
    let mut sum = Sha256::new();
    for account in platform.tiers.accounts.keys() {
        let tier = platform.tiers.name_of(account).unwrap_or_default();
        sum.update(format!("{tier}\n{account:?}\n"));
    }
    format!("{:x}", sum.finalize()).chars().take(16).collect()
}

impl OfSet {
    fn of(
        platform: &Platform,
        dims: &[Dim],
        when: &When,
        base: (&LimitSet, &Costs),
        special: &Special<(Arc<LimitSet>, Costs)>,
    ) -> Self {
        let limits = of_limits(platform, base.0, base.1);
        let other = |(set, costs): &(Arc<LimitSet>, Costs)| {
            let own = of_limits(platform, set, costs).into_iter();
            own.filter(|own| !limits.contains(own)).collect::<Vec<_>>()
        };
        let all = |list: &BTreeMap<String, (Arc<LimitSet>, Costs)>| {
            list.iter().map(|(of, own)| (of.clone(), other(own))).collect()
        };
        Self {
            per: dims.iter().map(Dim::to_string).collect(),
            when: OfWhen::of(when),
            values: all(&special.values),
            tiers: all(&special.tiers),
            limits,
        }
    }

    /// Whether it is counted for each account, by its own gate.
    pub(super) fn is_accounts(&self) -> bool {
        self.per == ["account"] && self.when == OfWhen::default()
    }

    /// By what it tells calls apart; nothing if this program knows no such thing.
    pub(super) fn dims(&self) -> Option<Vec<Dim>> {
        self.per.iter().map(|name| Dim::named(name)).collect()
    }

    /// Which calls it counts; nothing if that is no name of an api.
    pub(super) fn when(&self) -> Option<When> {
        let apis = self.when.apis.iter().map(|name| Slug::new(name).ok());
        let params = self.when.params.iter().map(|(name, test)| (name.clone(), test.test()));
        Some(When { apis: apis.collect::<Option<_>>()?, params: params.collect() })
    }

    /// The limits with some in the place of others of their names.
    pub(super) fn with(&self, own: &[OfLimit]) -> Vec<OfLimit> {
        let names =
            |one: &OfLimit, other: &OfLimit| (&one.name, &one.api) == (&other.name, &other.api);
        let limits = self.limits.iter();
        let limits = limits.map(|limit| own.iter().find(|own| names(own, limit)).unwrap_or(limit));
        limits.cloned().collect()
    }
}

/// The limits of a set, in the order of their names.
fn of_limits(platform: &Platform, set: &LimitSet, costs: &Costs) -> Vec<OfLimit> {
    let places = 0..set.limits().len();
    let mut all: Vec<_> = places.map(|place| OfLimit::of(platform, set, costs, place)).collect();
    all.sort_by(|one, other| (&one.name, &one.api).cmp(&(&other.name, &other.api)));
    all
}

impl OfLimit {
    pub(super) fn of(platform: &Platform, set: &LimitSet, costs: &Costs, place: usize) -> Self {
        let limit = &set.limits()[place];
        let api = limit.api.and_then(|api| set.apis().get(usize::from(api)));
        let numbers = 0..platform.apis.len();
        let counted =
            numbers.filter(|number| limit.api.is_none_or(|own| usize::from(own) == *number));
        let of_apis: Vec<(String, OfCost)> = counted
            .map(|number| {
                let cost = OfCost::of(costs, number, place);
                (platform.apis[number].name.to_string(), cost)
            })
            .collect();
        let dearest = of_apis.iter().map(|(_, cost)| cost).max().cloned();
        let cost = dearest.unwrap_or_else(|| OfCost::plain(Cost::ONE));
        let counts = costs.counts.iter().find(|(at, _)| *at == place).map(|(_, counts)| *counts);
        let kept = costs.kept.get(place).copied().unwrap_or_default();
        Self {
            name: limit.name.clone(),
            api: api.cloned(),
            per_api: limit.per_api,
            rule: OfRule::of(limit.rule, &platform.resets),
            guard: match limit.guard {
                Guard::Default => OfGuard::Default,
                Guard::After(span) => OfGuard::AfterUs(span.0),
                Guard::Never => OfGuard::Never,
            },
            counts: match counts.unwrap_or_default() {
                Counts::Units => OfCounts::Units,
                Counts::Bytes { unit } => OfCounts::BytesBy(unit),
                Counts::Errors => OfCounts::Errors,
            },
            costs: of_apis.into_iter().filter(|(_, own)| *own != cost).collect(),
            cost,
            free_pages: costs.free_pages.contains(&place),
            reserve: kept.reserve,
            beyond: kept.beyond,
        }
    }

    /// What tells it apart from every other limit of its name, its own name with it.
    pub(super) fn tag(&self) -> String {
        let text = serde_json::to_vec(self).expect("names and numbers are JSON");
        format!("{}~{}", self.name, digest(&text, 8))
    }

    pub(super) fn guard(&self) -> Guard {
        match self.guard {
            OfGuard::Default => Guard::Default,
            OfGuard::AfterUs(micros) => Guard::After(Span(micros)),
            OfGuard::Never => Guard::Never,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        match self.counts {
            OfCounts::Units => Counts::Units,
            OfCounts::BytesBy(unit) => Counts::Bytes { unit },
            OfCounts::Errors => Counts::Errors,
        }
    }
}

impl OfCost {
    fn of(costs: &Costs, number: usize, place: usize) -> Self {
        let own = costs.apis.get(number);
        let usual = own.and_then(|own| own.usual.get(place)).copied().unwrap_or(Cost::ONE);
        let mut templates = own.iter().flat_map(|own| &own.templates);
        let template = templates.find(|(at, _)| *at == place);
        let template = template.map(|(_, template)| template.text().to_owned());
        Self { template, ..Self::plain(usual) }
    }

    pub(super) fn plain(cost: Cost) -> Self {
        Self { template: None, units: cost.units, estimate: cost.is_estimate }
    }
}

impl OfRule {
    fn of(rule: Rule, resets: &[Resets]) -> Self {
        match rule {
            Rule::Every { gap } => Self::Every { gap_us: gap.0 },
            Rule::Sliding { max, window } => Self::Sliding { max, window_us: window.0 },
            Rule::Concurrent { max } => Self::Concurrent { max },
            Rule::Bucket { burst, rate, per } => Self::Bucket { burst, rate, per_us: per.0 },
            Rule::Calendar { max, window, slack, calendar } => {
                let resets = resets.get(usize::from(calendar));
                Self::Calendar {
                    max,
                    slack_us: slack.0,
                    at: resets
                        .map_or_else(String::new, |own| own.at.strftime("%H:%M:%S").to_string()),
                    zone: resets.and_then(|own| own.zone.iana_name()).unwrap_or("UTC").to_owned(),
                    every_us: resets.map_or(window.0, |own| micros(own.every)),
                }
            }
            Rule::FirstUse { max, window } => Self::FirstUse { max, window_us: window.0 },
            Rule::Score { max, decay, block } => {
                Self::Score { max, decay_us: decay.0, block_us: block.0 }
            }
            Rule::Jobs { max, ttl } => Self::Jobs { max, ttl_us: ttl.0 },
        }
    }

    /// The rule; `calendar` finds the place of when windows start anew.
    pub(super) fn rule(&self, calendar: impl FnOnce(Resets) -> Option<u16>) -> Option<Rule> {
        Some(match *self {
            Self::Every { gap_us } => Rule::Every { gap: Span(gap_us) },
            Self::Sliding { max, window_us } => Rule::Sliding { max, window: Span(window_us) },
            Self::Concurrent { max } => Rule::Concurrent { max },
            Self::Bucket { burst, rate, per_us } => Rule::Bucket { burst, rate, per: Span(per_us) },
            Self::Calendar { max, slack_us, ref at, ref zone, every_us } => {
                let at = Time::strptime("%H:%M:%S", at).ok()?;
                let zone = TimeZone::get(zone).ok()?;
                let every = Duration::from_micros(every_us);
                let calendar = calendar(Resets { at, zone, every })?;
                Rule::Calendar { max, window: Span(every_us), slack: Span(slack_us), calendar }
            }
            Self::FirstUse { max, window_us } => Rule::FirstUse { max, window: Span(window_us) },
            Self::Score { max, decay_us, block_us } => {
                Rule::Score { max, decay: Span(decay_us), block: Span(block_us) }
            }
            Self::Jobs { max, ttl_us } => Rule::Jobs { max, ttl: Span(ttl_us) },
        })
    }
}

impl OfWhen {
    fn of(when: &When) -> Self {
        let params = when.params.iter().map(|(name, test)| (name.clone(), OfTest::of(test)));
        Self { apis: when.apis.iter().map(Slug::to_string).collect(), params: params.collect() }
    }
}

impl OfTest {
    fn of(test: &Test) -> Self {
        match test {
            Test::Present => Self::Present,
            Test::Absent => Self::Absent,
            Test::One => Self::One,
            Test::Several => Self::Several,
            Test::Is(texts) => Self::Is(texts.clone()),
            Test::Between(min, max) => Self::Between(*min, *max),
        }
    }

    fn test(&self) -> Test {
        match self {
            Self::Present => Test::Present,
            Self::Absent => Test::Absent,
            Self::One => Test::One,
            Self::Several => Test::Several,
            Self::Is(texts) => Test::Is(texts.clone()),
            Self::Between(min, max) => Test::Between(*min, *max),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
