//! Which budgets a call counts in: the values of their keys, from the fetch and the platform's declaration.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write};
use std::sync::{Arc, OnceLock};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tollgate_gate::{Cost, Limit, LimitSet};

use super::build::RecipeScope;
use super::{FetchContext, Refusal};
use crate::cluster::part_of;
use crate::codes::Code;
use crate::costs::{Counts, Kept};
use crate::ids::{ACCOUNT_BYTES_MAX, Account, AccountKey, Slug};
use crate::plan::{Api, Budget, Counted, Dim, Generation, Platform, Test, When};

/// A budget that a call counts in: one value of the key of one of the platform's budgets, and what the call costs
/// there. Cheap to clone.
#[derive(Clone)]
pub struct BudgetKey(Arc<Inner>);

struct Inner {
    record: AccountKey,
    platform: Slug,
    shown: Box<str>,
    counted: Counted,
    costs: Box<[Cost]>,
    /// Which of its platform's.
    place: u16,
    generation: Generation,
    /// The values of its key, in the order of the dimensions, and for whose call it was asked.
    values: Box<[String]>,
    account: Account,
    part: OnceLock<u32>,
}

impl BudgetKey {
    /// Under which the ledger keeps its record. Budgets are equal, and are asked in order, by it.
    pub fn record(&self) -> &AccountKey {
        &self.0.record
    }

    /// Which partition its record is in: the owner of that is the budget's.
    pub fn part(&self) -> u32 {
        *self.0.part.get_or_init(|| part_of(&self.0.record))
    }

    /// The values of its key, in the order of the dimensions.
    pub(crate) fn values(&self) -> &[String] {
        &self.0.values
    }

    /// For whose call it was asked.
    pub(crate) fn account(&self) -> &Account {
        &self.0.account
    }

    /// The same for a call that costs this.
    pub(crate) fn with_costs(&self, costs: Box<[Cost]>) -> Self {
        let Inner { record, platform, shown, counted, place, generation, values, account, .. } =
            &*self.0;
        Self(Arc::new(Inner {
            record: record.clone(),
            platform: platform.clone(),
            shown: shown.clone(),
            counted: counted.clone(),
            costs,
            place: *place,
            generation: *generation,
            values: values.clone(),
            account: account.clone(),
            part: self.0.part.clone(),
        }))
    }

    /// Whose it is.
    pub fn platform(&self) -> &Slug {
        &self.0.platform
    }

    /// The value of its key for people: `the platform`, `app main, region eu`.
    pub fn shown(&self) -> &str {
        &self.0.shown
    }

    /// Which reading of the configuration it is of; later ones are greater.
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    /// Which of the platform's budgets it is of, by their order in that reading.
    pub fn place(&self) -> u16 {
        self.0.place
    }

    /// What of each limit is not for this deployment's calls, by its place.
    pub fn kept(&self) -> &[Kept] {
        &self.0.counted.costs.kept
    }

    /// Its limits.
    pub fn limits(&self) -> &Arc<LimitSet> {
        &self.0.counted.limits
    }

    /// What the call costs, by the places of the limits.
    pub fn costs(&self) -> &[Cost] {
        &self.0.costs
    }

    /// What a call of that api costs before its fetch has been read, by the places of the limits; empty: one
    /// everywhere.
    pub(crate) fn usual(&self, api: u16) -> &[Cost] {
        self.0.counted.costs.usual(api)
    }

    /// The same under other limits of this budget: what the call costs by limits of the same names.
    pub(crate) fn costs_under(&self, limits: &LimitSet) -> Cow<'_, [Cost]> {
        fn name<'l>(set: &'l LimitSet, limit: &'l Limit) -> (&'l str, Option<&'l str>) {
            let api = limit.api.and_then(|api| set.apis().get(usize::from(api)));
            (&limit.name, api.map(String::as_str))
        }
        let own = &*self.0.counted.limits;
        if self.0.costs.is_empty() || std::ptr::eq(own, limits) {
            return Cow::Borrowed(&self.0.costs);
        }
        let cost = |limit: &Limit| {
            let mut known = own.limits().iter();
            let place = known.position(|known| name(own, known) == name(limits, limit));
            place.and_then(|place| self.0.costs.get(place)).copied().unwrap_or(Cost::ONE)
        };
        limits.limits().iter().map(cost).collect()
    }

    /// Which of its limits count what is known only after a call.
    pub fn counts(&self) -> &[(usize, Counts)] {
        &self.0.counted.costs.counts
    }
}

impl PartialEq for BudgetKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.record == other.0.record
    }
}

impl Eq for BudgetKey {}

impl PartialOrd for BudgetKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BudgetKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.record.cmp(&other.0.record)
    }
}

impl fmt::Debug for BudgetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BudgetKey({})", self.0.record)
    }
}

/// What would end a value of a key, or make it look cut.
const IN_KEY: &AsciiSet = &CONTROLS.add(b'%').add(b',').add(b'=').add(b'?').add(b'~');
/// Stands before the hash of a key that was cut.
const CUT: char = '~';

/// The budgets that a call of this fetch counts in, in the one order in which they are asked. A limit per
/// parameter counts the calls that carry it. Where a call is free it does not count.
///
/// # Errors
/// A template of the platform's `keys` or of a cost cannot be filled in.
pub fn budgets(
    platform: &Platform,
    api: &Api,
    fetch: &FetchContext<'_>,
) -> Result<Box<[BudgetKey]>, Refusal> {
    budgets_of_page(platform, api, fetch, false)
}

/// The same of the call of a page: `later` than the first of its read, which some limits count alone.
///
/// # Errors
/// As [`budgets`].
pub fn budgets_of_page(
    platform: &Platform,
    api: &Api,
    fetch: &FetchContext<'_>,
    later: bool,
) -> Result<Box<[BudgetKey]>, Refusal> {
    if platform.budgets.is_empty() {
        return Ok(Box::default());
    }
    let number = platform.api(api.name.as_str()).map_or(0, |(number, _)| number);
    let mut keys = Vec::new();
    for (place, budget) in platform.budgets.iter().enumerate() {
        let limits = budget.counted.limits.limits();
        let counts = limits.iter().any(|l| l.api.is_none_or(|only| only == number));
        if !counts || !holds(&budget.when, api, fetch) {
            continue;
        }
        let Some(values) = values(platform, api, fetch, budget)? else { continue };
        let counted = counted(platform, fetch.account, budget, &values);
        let mut costs = counted.costs.of(&counted.limits, platform, number, fetch)?;
        if later {
            costs = counted.costs.of_later_page(&counted.limits, costs);
        }
        let counts = |(place, limit): (usize, &Limit)| {
            let free = costs.get(place).is_some_and(|cost| cost.units == 0);
            !free && limit.api.is_none_or(|only| only == number)
        };
        if counted.limits.limits().iter().enumerate().any(counts) {
            let of = (place as u16, budget);
            keys.push(key(platform, of, (&values, fetch.account), counted.clone(), costs.into()));
        }
    }
    keys.sort_unstable();
    Ok(keys.into())
}

/// The budget at that place as a call of this fetch would count in it, whether it does or not; nothing where its key
/// has no value for it.
pub(crate) fn budget_of(
    platform: &Platform,
    api: &Api,
    fetch: &FetchContext<'_>,
    place: u16,
) -> Option<BudgetKey> {
    let budget = platform.budgets.get(usize::from(place))?;
    let values = values(platform, api, fetch, budget).ok()??;
    let counted = counted(platform, fetch.account, budget, &values).clone();
    Some(key(platform, (place, budget), (&values, fetch.account), counted, Box::default()))
}

/// The budget at that place, where all calls of the platform have the same key for it.
pub(crate) fn budget_of_all(platform: &Platform, place: u16) -> Option<BudgetKey> {
    let budget = platform.budgets.get(usize::from(place))?;
    if budget.dims != [Dim::Platform] {
        return None;
    }
    // Whoever asks has no part in the key.
    let asks = Account::new("-").expect("a name");
    let values = [platform.name.to_string()];
    Some(key(platform, (place, budget), (&values, &asks), budget.counted.clone(), Box::default()))
}

/// The budget with these values of its key whose record has that name, for calls of this account; nothing if this
/// configuration has none.
pub(crate) fn budget_named(
    platform: &Platform,
    record: &str,
    values: &[String],
    account: &Account,
) -> Option<BudgetKey> {
    let fits = |budget: &Budget| budget.dims.len() == values.len();
    let budgets = (0..).zip(&platform.budgets).filter(|(_, budget)| fits(budget));
    let mut keys = budgets.map(|of| {
        let counted = counted(platform, account, of.1, values).clone();
        key(platform, of, (values, account), counted, Box::default())
    });
    keys.find(|key| key.record().account.as_str() == record)
}

/// The place of the budget whose record has that name; nothing if that is none of the platform's, or cannot be told
/// because the name was cut.
pub(crate) fn budget_of_record(platform: &Platform, name: &str) -> Option<usize> {
    if name.contains(CUT) {
        return None;
    }
    let (values, which) = name.split_once('?').map_or((name, None), |(v, w)| (v, Some(w)));
    let dims = || values.split(',').map(|part| part.split_once('=').map_or(part, |(dim, _)| dim));
    platform.budgets.iter().position(|budget| {
        let same = budget.dims.iter().map(Dim::to_string).eq(dims().map(str::to_owned));
        let own = (!budget.when.always()).then(|| digest_of(&budget.id));
        same && own.as_deref() == which
    })
}

/// Tells budgets of one key apart by what they count.
fn digest_of(id: &str) -> String {
    format!("{:x}", Sha256::digest(id)).chars().take(16).collect()
}

/// The limits of one of the budgets that a call counts in, and what of each is not for this deployment; nothing asks
/// for the account's own.
pub(crate) fn sets<'a>(
    platform: &'a Platform,
    keys: &'a [BudgetKey],
    budget: Option<u16>,
) -> Option<(&'a LimitSet, &'a [Kept])> {
    let Some(budget) = budget else { return Some((&platform.limits, &platform.costs.kept)) };
    let key = keys.iter().find(|key| key.place() == budget)?;
    Some((key.limits(), key.kept()))
}

/// The values of a budget's key; nothing if the fetch lacks a parameter of it.
fn values(
    platform: &Platform,
    api: &Api,
    fetch: &FetchContext<'_>,
    budget: &Budget,
) -> Result<Option<Vec<String>>, Refusal> {
    let mut values = Vec::with_capacity(budget.dims.len());
    for dim in &budget.dims {
        values.push(match dim {
            Dim::Account => fetch.account.to_string(),
            Dim::Api => api.name.to_string(),
            Dim::Platform => platform.name.to_string(),
            Dim::Param(name) => match param(api, fetch, name) {
                Some(value) => plain(value),
                None => return Ok(None),
            },
            // Nothing is declared: the credential that the account is assigned to.
            Dim::Token if platform.keys.iter().all(|(known, _)| *known != Dim::Token) => {
                match &api.auth {
                    Some(auth) => auth.of(fetch.account).value().to_owned(),
                    // Its calls carry no credential.
                    None => return Ok(None),
                }
            }
            dim => {
                let declared = platform.keys.iter().find(|(known, _)| known == dim);
                let (_, template) = declared.expect("checked with the configuration");
                let text = template.render(&RecipeScope::new(platform, api, fetch))?;
                if text.is_empty() {
                    let reason = format!("`keys.{dim}` is empty for this fetch");
                    return Err(Refusal::new(Code::BadParameter, reason));
                }
                text
            }
        });
    }
    Ok(Some(values))
}

/// The limits of that value of a budget's key, for calls of this account.
fn counted<'b>(
    platform: &Platform,
    account: &Account,
    budget: &'b Budget,
    values: &[String],
) -> &'b Counted {
    let special = budget.special.of(&values.join("/"), platform.tiers.name_of(account));
    special.unwrap_or(&budget.counted)
}

fn key(
    platform: &Platform,
    (place, budget): (u16, &Budget),
    (values, asks): (&[String], &Account),
    counted: Counted,
    costs: Box<[Cost]>,
) -> BudgetKey {
    let mut text = String::new();
    let mut shown = String::new();
    for (dim, value) in budget.dims.iter().zip(values) {
        let comma = if text.is_empty() { "" } else { "," };
        let encoded = utf8_percent_encode(value, IN_KEY);
        write!(text, "{comma}{dim}={encoded}").expect("a String takes all");
        let comma = if shown.is_empty() { "" } else { ", " };
        if *dim == Dim::Platform {
            write!(shown, "{comma}the platform").expect("a String takes all");
        } else {
            write!(shown, "{comma}{dim} {}", crate::ids::preview(value))
                .expect("a String takes all");
        }
    }
    if !budget.when.always() {
        // Two budgets of one key differ by what they count.
        text.push('?');
        text.push_str(&digest_of(&budget.id));
    }
    if text.len() > ACCOUNT_BYTES_MAX {
        let digest = format!("{:x}", Sha256::digest(&text));
        let mut end = ACCOUNT_BYTES_MAX - digest.len() - 1;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push(CUT);
        text.push_str(&digest);
    }
    let record = AccountKey {
        platform: Slug::of_budgets(&platform.name),
        account: Account::new(&text).expect("neither empty nor longer than a name may be"),
    };
    let (generation, platform) = (platform.generation, platform.name.clone());
    let shown = shown.into();
    let (values, account, part) = (values.into(), asks.clone(), OnceLock::new());
    BudgetKey(Arc::new(Inner {
        record,
        platform,
        shown,
        counted,
        costs,
        place,
        generation,
        values,
        account,
        part,
    }))
}

/// Whether a budget counts calls of this fetch.
fn holds(when: &When, api: &Api, fetch: &FetchContext<'_>) -> bool {
    let of_api = when.apis.is_empty() || when.apis.contains(&api.name);
    of_api && when.params.iter().all(|(name, test)| test_holds(test, param(api, fetch, name)))
}

fn param<'a>(api: &'a Api, fetch: &FetchContext<'a>, name: &str) -> Option<&'a Value> {
    let value = fetch.params.get(name).or_else(|| api.params.defaults.get(name));
    value.filter(|value| !value.is_null())
}

fn test_holds(test: &Test, value: Option<&Value>) -> bool {
    let Some(value) = value else { return *test == Test::Absent };
    match test {
        Test::Present => true,
        Test::Absent => false,
        Test::One => count(value) == 1,
        Test::Several => count(value) > 1,
        Test::Is(texts) => texts.contains(&plain(value)),
        Test::Between(min, max) => {
            let number = match value {
                Value::Number(number) => number.as_i64(),
                Value::String(text) => text.trim().parse().ok(),
                _ => None,
            };
            // What is no number counts everywhere: else it would pass all ranges uncounted.
            number.is_none_or(|n| min.is_none_or(|min| n >= min) && max.is_none_or(|max| n <= max))
        }
    }
}

/// How many values a parameter has: the items of a list, the parts between commas of a text.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::String(text) => text.split(',').count(),
        _ => 1,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
