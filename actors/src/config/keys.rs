//! By what limits tell calls apart: `per`, `when`, values of their own (`override`, `tiers`), and what a
//! platform says of its dimensions (`keys`) and accounts (`tiers`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::config::{Value, ValueKind};
use tollgate_gate::{LIMITS_MAX, LimitError, LimitSet};

use super::BAD;
use super::limits::{Counted, Declared};
use super::pairs::template;
use super::section::{Section, kind_of};
use super::weights::{ApiCost, contradictions, costs};
use crate::codes::Code;
use crate::ids::{Account, Slug, preview};
use crate::plan::{self, Api, Budget, Dim, Generation, Platform, Special, Test, Tiers, When};
use crate::recipe::{RESERVED, Template, Variables, did_you_mean, is_name};

/// Most tiers of a platform.
const TIERS_MAX: usize = 64;
/// Most accounts of all its tiers together.
const TIERED_MAX: usize = 1_000_000;
/// Most bytes of a file of accounts: room for as many of 64 bytes.
const ACCOUNTS_FILE_MAX: u64 = 64 * 1024 * 1024;
/// Most values of one limit that have numbers of their own.
const OVERRIDES_MAX: usize = 1_000;
/// Most turns of an account for one of another.
const WEIGHT_MAX: u64 = 1_000;

const PER: &str = "per = [\"account\"] counts the calls of each account, per = [\"platform\"] those of all together; \
     dimensions are account, api, platform, app, token, user, ip, region, params.NAME";
const DIMS: &[&str] = &["account", "api", "platform", "app", "token", "user", "ip", "region"];

/// What some values of a key, and some tiers, have instead.
#[derive(Debug, Clone)]
pub(super) struct Own<T> {
    pub(super) values: Vec<(String, T)>,
    pub(super) tiers: Vec<(String, T)>,
}

impl<T> Own<T> {
    /// Nothing if any of them is nothing.
    pub(super) fn map<U>(self, mut to: impl FnMut(T) -> Option<U>) -> Option<Own<U>> {
        let mut all = |list: Vec<(String, T)>| {
            let list: Vec<_> = list.into_iter().map(|(of, own)| Some((of, to(own)?))).collect();
            list.into_iter().collect::<Option<Vec<_>>>()
        };
        let (values, tiers) = (all(self.values), all(self.tiers));
        Some(Own { values: values?, tiers: tiers? })
    }
}

/// `per`: the dimensions of a limit's key, sorted.
pub(super) fn per(entry: &mut Section<'_>) -> Option<Vec<Dim>> {
    if !entry.has("per") {
        entry.take("per");
        entry.mistake(Code::MissingKey, "per", "`per` is missing", PER);
        return None;
    }
    let names = entry.list("per")?;
    if names.is_empty() {
        entry.mistake(BAD, "per", "a limit per nothing counts nobody", PER);
        return None;
    }
    let mut dims = Vec::with_capacity(names.len());
    for name in &names {
        let Some(dim) = Dim::named(name) else {
            let near = did_you_mean(name, DIMS.iter().copied());
            let message = format!("limits cannot be per `{}`{near}", preview(name));
            entry.mistake(BAD, "per", message, PER);
            return None;
        };
        if let Dim::Param(param) = &dim
            && (!is_name(param) || RESERVED.contains(&param.as_str()))
        {
            let message = format!("`{}` is not the name of a parameter", preview(param));
            entry.mistake(Code::BadName, "per", message, "such as params.ids");
            return None;
        }
        if dims.contains(&dim) {
            let message = format!("`{dim}` is there twice");
            entry.mistake(BAD, "per", message, "name each dimension once");
            return None;
        }
        dims.push(dim);
    }
    // A platform is told apart from others anyhow: it is the whole key or says nothing.
    if dims.len() > 1 && dims.contains(&Dim::Platform) {
        let rest = dims.iter().filter(|dim| **dim != Dim::Platform);
        let rest: Vec<String> = rest.map(|dim| format!("\"{dim}\"")).collect();
        if rest != ["\"api\""] {
            let message = "every limit is the platform's: beside other dimensions it says nothing";
            entry.mistake(BAD, "per", message, format!("per = [{}]", rest.join(", ")));
            return None;
        }
        dims.retain(|dim| *dim != Dim::Platform);
    }
    dims.sort_unstable();
    Some(dims)
}

/// `when`: which calls a limit counts. Nothing if it is wrong.
pub(super) fn when(entry: &mut Section<'_>, of_api: bool) -> Option<When> {
    let mut when = When::default();
    let before = entry.report().count();
    if !entry.has("when") {
        entry.take("when");
        return Some(when);
    }
    let mut table = entry.section("when")?;
    if table.has("api") {
        if of_api {
            table.take("api");
            table.mistake(BAD, "api", "this limit is its api's own already", "leave it out");
        } else {
            for name in table.list("api").unwrap_or_default() {
                match Slug::new(&name) {
                    Ok(slug) => when.apis.push(slug),
                    Err(reason) => table.mistake(Code::BadName, "api", reason, ""),
                }
            }
            if when.apis.is_empty() && entry.report().count() == before {
                let hint = "api = [\"reports\"]";
                table.mistake(BAD, "api", "a limit of no api counts nothing", hint);
            }
        }
    } else {
        table.take("api");
    }
    table.unsupported("method", "every call is a GET");
    if let Some(mut params) = table.section("params") {
        for (name, value) in params.entries() {
            if !is_name(&name) || RESERVED.contains(&name.as_str()) {
                let message = format!("`{}` is not the name of a parameter", preview(&name));
                params.mistake(Code::BadName, &name, message, "");
            } else if let Some(test) = test(&params, &name, value) {
                when.params.push((name, test));
            }
        }
    }
    if when.always() && entry.report().count() == before {
        let hint = "when = { params.ids = \"several\" }, or when = { api = [\"reports\"] }";
        entry.mistake(BAD, "when", "`when` says nothing", hint);
    }
    table.finish();
    when.apis.sort_unstable();
    when.apis.dedup();
    when.params.sort_unstable();
    (entry.report().count() == before).then_some(when)
}

/// What must hold of one parameter.
fn test(params: &Section<'_>, name: &str, value: Value) -> Option<Test> {
    const WORDS: &str = "\"present\", \"absent\", \"one\", \"several\", a list of texts, or { min = 3 } or { max = 2 }";
    match value.kind {
        ValueKind::String(word) => match word.as_str() {
            "present" => Some(Test::Present),
            "absent" => Some(Test::Absent),
            "one" => Some(Test::One),
            "several" => Some(Test::Several),
            _ => {
                let message = format!("`{}` says nothing of a parameter", preview(&word));
                params.mistake(BAD, name, message, WORDS);
                None
            }
        },
        ValueKind::Array(items) => {
            let texts = items.into_iter().map(|item| match item.kind {
                ValueKind::String(text) => Some(text),
                ValueKind::I64(number) => Some(number.to_string()),
                ValueKind::Boolean(yes) => Some(yes.to_string()),
                _ => None,
            });
            let texts: Option<Vec<String>> = texts.collect();
            if texts.as_ref().is_none_or(Vec::is_empty) {
                let message = "a list of texts and numbers belongs here, with one at least";
                params.mistake(Code::WrongType, name, message, "");
                return None;
            }
            texts.map(Test::Is)
        }
        ValueKind::Table(_) => {
            let mut range = params.section_of(name, value)?;
            let (min, max) = (range.whole("min"), range.whole("max"));
            let path = range.path();
            match (min, max) {
                (None, None) => {
                    let message = "a range has `min`, `max` or both";
                    range.report().mistake(BAD, path, message, "{ min = 3 }");
                }
                (Some(min), Some(max)) if min > max => {
                    let message = format!("no number is from {min} to {max}");
                    range.report().mistake(BAD, path, message, "");
                }
                _ => {}
            }
            range.finish();
            Some(Test::Between(min, max))
        }
        _ => {
            let message = format!("{} where a test of a parameter belongs", kind_of(&value));
            params.mistake(Code::WrongType, name, message, WORDS);
            None
        }
    }
}

/// `override` and `tiers` of a limit: tables of words that replace its own.
pub(super) fn own<'r>(entry: &mut Section<'r>, dims: Option<&[Dim]>) -> Own<Section<'r>> {
    let mut own = Own { values: Vec::new(), tiers: Vec::new() };
    let tiered = entry.has("tiers");
    for (key, list) in [("override", &mut own.values), ("tiers", &mut own.tiers)] {
        let Some(mut table) = entry.section(key) else { continue };
        let entries = table.entries();
        if entries.is_empty() {
            entry.mistake(BAD, key, format!("`{key}` says nothing"), "leave it out");
        }
        if entries.len() > OVERRIDES_MAX {
            let message = format!("{} entries, at most {OVERRIDES_MAX} are allowed", entries.len());
            entry.mistake(Code::TooMany, key, message, "accounts alike belong into a tier");
            continue;
        }
        for (of, value) in entries {
            let Some(words) = table.section_of(&of, value) else { continue };
            for word in ["per", "when", "override", "tiers"] {
                if words.has(word) {
                    let message = format!("`{word}` is the same for all values of a key");
                    words.mistake(BAD, word, message, "declare another limit");
                }
            }
            list.push((of, words));
        }
    }
    let has = |dim: &Dim| dims.is_some_and(|dims| dims.contains(dim));
    if tiered && dims.is_some() && !has(&Dim::Account) {
        let message = "tiers are of accounts, and this limit is not per account";
        entry.mistake(BAD, "tiers", message, "say the values of its key with `override`");
    }
    if !own.values.is_empty() && dims == Some(&[Dim::Platform]) {
        let message = "there is one platform: its own values are the limit's";
        entry.mistake(BAD, "override", message, "change the limit itself");
    }
    own
}

/// `keys` of a platform: what its dimensions stand for.
pub(super) fn keys(section: &mut Section<'_>) -> Vec<(Dim, Template)> {
    let Some(mut table) = section.section("keys") else { return Vec::new() };
    let mut keys: Vec<(Dim, Template)> = Vec::new();
    for (name, value) in table.entries() {
        let Some(dim) = Dim::named(&name).filter(Dim::is_declared) else {
            let message = format!("`{}` is no dimension that has a value here", preview(&name));
            table.mistake(Code::UnknownKey, &name, message, "one of app, token, user, ip, region");
            continue;
        };
        let ValueKind::String(text) = &value.kind else {
            let message = format!("{} where text belongs", kind_of(&value));
            table.mistake(Code::WrongType, &name, message, "app = \"main\", region = \"{region}\"");
            continue;
        };
        if text.is_empty() {
            table.mistake(BAD, &name, "a key of no value tells nobody apart", "app = \"main\"");
            continue;
        }
        if let Some(template) = template(&table, &name, text, &Variables::Any) {
            if template.names().iter().any(|name| name == "id") {
                let message =
                    "with the fetch's id in it every fetch would have a budget of its own";
                table.mistake(
                    Code::UnknownVariable,
                    &name,
                    message,
                    "use {account} or a parameter",
                );
                continue;
            }
            keys.push((dim, template));
        }
    }
    keys.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    keys
}

/// `tiers` of a platform: accounts that are not like the others.
pub(super) fn tiers(section: &mut Section<'_>) -> Tiers {
    let mut tiers = Tiers::default();
    let Some(mut table) = section.section("tiers") else { return tiers };
    let entries = table.entries();
    if entries.len() > TIERS_MAX {
        let message = format!("{} tiers, at most {TIERS_MAX} are allowed", entries.len());
        section.mistake(Code::TooMany, "tiers", message, "");
        return tiers;
    }
    for (name, value) in entries {
        let slug = match Slug::new(&name) {
            Ok(slug) => slug,
            Err(reason) => {
                table.mistake(Code::BadName, &name, reason, "");
                continue;
            }
        };
        let Some(mut tier) = table.section_of(&name, value) else { continue };
        let weight = tier.whole_in("weight", 1..=WEIGHT_MAX).unwrap_or(1);
        let place = u16::try_from(tiers.tiers.len()).expect("at most 64");
        tiers.tiers.push((slug, u32::try_from(weight).expect("at most 1,000")));
        if !tier.has("accounts") && !tier.has("accounts_file") {
            let hint = "accounts = [\"act_1\"], or accounts_file = \"gold.txt\" with one a line";
            tier.mistake(Code::MissingKey, "accounts", "a tier without accounts", hint);
        }
        let mut accounts = tier.list("accounts").unwrap_or_default();
        if let Some(path) = tier.text("accounts_file") {
            accounts.extend(read_accounts(&tier, &path));
        }
        for account in accounts {
            let key = "accounts";
            match Account::new(&account) {
                Err(reason) => tier.mistake(BAD, key, reason, ""),
                Ok(account) => {
                    let before = tiers.accounts.insert(account.clone(), place);
                    if let Some(before) = before.filter(|before| *before != place) {
                        let (before, _) = &tiers.tiers[usize::from(before)];
                        let account = preview(account.as_str());
                        let message = format!("account `{account}` is in tier `{before}` too");
                        tier.mistake(BAD, key, message, "an account is in one tier");
                    }
                }
            }
        }
        tier.finish();
    }
    if tiers.accounts.len() > TIERED_MAX {
        let count = tiers.accounts.len();
        let message = format!("{count} accounts in tiers, at most {TIERED_MAX} are allowed");
        section.mistake(Code::TooMany, "tiers", message, "");
    }
    tiers
}

/// The accounts of a file, one a line; empty lines and those that begin with `#` are none.
fn read_accounts(tier: &Section<'_>, path: &str) -> Vec<String> {
    let path = Path::new(path);
    let read = std::fs::metadata(path).and_then(|about| {
        if about.len() > ACCOUNTS_FILE_MAX {
            let message = format!("it has {} bytes, at most {ACCOUNTS_FILE_MAX}", about.len());
            return Err(std::io::Error::other(message));
        }
        std::fs::read_to_string(path)
    });
    match read {
        Ok(text) => {
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.map(str::to_owned).collect()
        }
        Err(error) => {
            let message = format!("`{}` cannot be read: {error}", path.display());
            tier.mistake(Code::ConfigUnreadable, "accounts_file", message, "");
            Vec::new()
        }
    }
}

/// Limits of one key, with their places among all.
type Group = Vec<(usize, Declared)>;

/// Gives a platform its limits: those of each account to its gates, the others to budgets. `of_apis`: what each
/// api says its calls cost, by the places of the limits.
pub(super) fn share_out(
    section: &Section<'_>,
    platform: &mut Platform,
    declared: Vec<Declared>,
    of_apis: &[Vec<(usize, ApiCost)>],
) {
    let total = declared.len();
    if total > LIMITS_MAX {
        let message = format!(
            "{total} limits, its apis' included; at most {LIMITS_MAX} are allowed for a platform"
        );
        section.mistake(Code::TooMany, "limits", message, "");
        return;
    }
    for limit in &declared {
        check(section, platform, limit);
    }
    let names: Vec<String> = platform.apis.iter().map(|api| api.name.to_string()).collect();
    let methods: Vec<_> = platform.apis.iter().map(|api| api.method.clone()).collect();
    let counted = |members: &[(usize, Counted)]| {
        let limits = members.iter().map(|(_, own)| own.limit.clone()).collect();
        match LimitSet::new(limits).and_then(|set| set.with_apis(names.clone())) {
            Ok(limits) => {
                let of_limits: Vec<_> = members.iter().map(|(_, own)| own.cost).collect();
                // By their places in this set.
                let place = |of: usize| members.iter().position(|(known, _)| *known == of);
                let of_apis = of_apis.iter().zip(&methods).map(|(own, method)| {
                    let own = own.iter();
                    let own = own.filter_map(|(of, cost)| Some((place(*of)?, cost.clone())));
                    (method.clone(), own.collect())
                });
                let costs = costs(&of_limits, of_apis.collect());
                let weighings = (0..members.len()).map(|place| costs.weighing(place, &names));
                let limits = limits.with_weighings(weighings.collect());
                plan::Counted { limits: Arc::new(limits), costs: Arc::new(costs) }
            }
            // Its api was not understood, and what is wrong there is reported already.
            Err(LimitError::NoApi(_)) => plan::Counted::default(),
            Err(error) => {
                section.mistake(Code::ImpossibleLimit, "limits", error.to_string(), "");
                plan::Counted::default()
            }
        }
    };
    let mut groups: BTreeMap<(Vec<Dim>, When), Group> = BTreeMap::new();
    let mut own = Group::new();
    for (place, limit) in declared.into_iter().enumerate() {
        let accounts = [&[Dim::Account][..], &[Dim::Account, Dim::Api]];
        if limit.when.always() && accounts.contains(&limit.dims.as_slice()) {
            own.push((place, limit));
        } else {
            let group = (limit.dims.clone(), limit.when.clone());
            groups.entry(group).or_default().push((place, limit));
        }
    }
    for group in std::iter::once(&own).chain(groups.values()) {
        // What an api's calls cost under one of two limits tells them apart.
        let has_own = |place: usize| of_apis.iter().flatten().any(|(own, _)| *own == place);
        let group = group.iter().filter(|(place, _)| !has_own(*place));
        let group: Vec<&Declared> = group.map(|(_, limit)| limit).collect();
        contradictions(section, &group);
    }
    let all = |group: &[(usize, Declared)]| {
        let limits = group.iter().map(|(place, limit)| (*place, limit.limit.clone()));
        counted(&limits.collect::<Vec<_>>())
    };
    let groups = groups.into_iter().map(|((dims, when), group)| Budget {
        id: budget_id(&dims, &when),
        counted: all(&group),
        special: special(&group, &dims, &platform.tiers, &counted),
        dims,
        when,
        observed: Vec::new(),
    });
    platform.budgets = groups.collect();
    let plan::Counted { limits, costs } = all(&own);
    (platform.limits, platform.costs) = (limits, Arc::unwrap_or_clone(costs));
    let special = special(&own, &[Dim::Account], &platform.tiers, &counted);
    if !special.is_empty() {
        let base = platform.clone();
        platform.special = special.map(|plan::Counted { limits, costs }| {
            let costs = Arc::unwrap_or_clone(costs);
            Arc::new(Platform { limits, costs, ..base.clone() })
        });
    }
}

/// A number for one reading of the configuration, greater than those before it in this process: a budget that
/// is asked under two of them goes by the later one.
pub(crate) fn generation() -> Generation {
    static READINGS: AtomicU64 = AtomicU64::new(1);
    Generation(READINGS.fetch_add(1, Ordering::Relaxed))
}

/// Names a budget among its platform's.
pub(crate) fn budget_id(dims: &[Dim], when: &When) -> String {
    let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
    let dims = dims.join(",");
    if when.always() { dims } else { format!("{dims} when {:?} {:?}", when.apis, when.params) }
}

/// The sets of limits for the values and tiers that any of them has numbers for.
fn special(
    group: &[(usize, Declared)],
    dims: &[Dim],
    tiers: &Tiers,
    counted: &impl Fn(&[(usize, Counted)]) -> plan::Counted,
) -> Special<plan::Counted> {
    let find = |list: &[(String, Counted)], of: &str| {
        list.iter().find(|(known, _)| known == of).map(|(_, limit)| limit.clone())
    };
    let own = || group.iter().map(|(_, limit)| &limit.own);
    let values: BTreeSet<&str> =
        own().flat_map(|own| own.values.iter().map(|(value, _)| value.as_str())).collect();
    let names: BTreeSet<&str> =
        own().flat_map(|own| own.tiers.iter().map(|(tier, _)| tier.as_str())).collect();
    let of_value = |value: &str| {
        // What has no number for this value goes by the account's tier.
        let account = Account::new(value).ok().filter(|_| dims == [Dim::Account]);
        let tier = account.as_ref().and_then(|account| tiers.name_of(account));
        let limits = group.iter().map(|(place, limit)| {
            let by_tier = || find(&limit.own.tiers, tier?);
            let own = find(&limit.own.values, value).or_else(by_tier);
            (*place, own.unwrap_or_else(|| limit.limit.clone()))
        });
        counted(&limits.collect::<Vec<_>>())
    };
    let of_tier = |tier: &str| {
        let limits = group.iter().map(|(place, limit)| {
            (*place, find(&limit.own.tiers, tier).unwrap_or_else(|| limit.limit.clone()))
        });
        counted(&limits.collect::<Vec<_>>())
    };
    Special {
        values: values.into_iter().map(|value| (value.to_owned(), of_value(value))).collect(),
        tiers: names.into_iter().map(|tier| (tier.to_owned(), of_tier(tier))).collect(),
    }
}

/// What only the whole platform tells: dimensions without a value, apis, parameters and tiers that are not there.
fn check(section: &Section<'_>, platform: &Platform, limit: &Declared) {
    let mistake = |code, key: &str, message: String, hint: &str| {
        section.report().mistake(code, &format!("{}.{key}", limit.path), message, hint);
    };
    let counted: Vec<&Api> = match limit.limit.limit.api {
        Some(api) => platform.apis.get(usize::from(api)).into_iter().collect(),
        None if limit.when.apis.is_empty() => platform.apis.iter().collect(),
        None => platform.apis.iter().filter(|api| limit.when.apis.contains(&api.name)).collect(),
    };
    for name in &limit.when.apis {
        if platform.api(name.as_str()).is_none() {
            let known = platform.apis.iter().map(|api| api.name.as_str());
            let message =
                format!("the platform has no api `{name}`{}", did_you_mean(name.as_str(), known));
            mistake(BAD, "when.api", message, "");
        }
    }
    let carried = |param: &str| counted.iter().any(|api| api.params.names.contains(param));
    let no_param = |key: &str, param: &str| {
        // An api that was not understood is reported already.
        if !carried(param) && !counted.is_empty() {
            let message = format!("no api that this limit counts has a parameter `{param}`");
            mistake(Code::UnknownVariable, key, message, "add it to the api's `params`");
        }
    };
    for dim in &limit.dims {
        match dim {
            Dim::Param(param) => no_param("per", param),
            // The names of the credentials are its values.
            Dim::Token if counted.iter().any(|api| api.auth.is_some()) => {}
            dim if dim.is_declared() && platform.keys.iter().all(|(known, _)| known != dim) => {
                let message = format!("the dimension `{dim}` has no value");
                let hint = format!("say it for the platform: keys = {{ {dim} = \"main\" }}");
                mistake(Code::MissingKey, "per", message, &hint);
            }
            _ => {}
        }
    }
    for (param, _) in &limit.when.params {
        no_param("when.params", param);
    }
    for (tier, _) in &limit.own.tiers {
        let names: HashMap<&str, u32> =
            platform.tiers.tiers.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        if !names.contains_key(tier.as_str()) {
            let hint = did_you_mean(tier, names.keys().copied());
            let message = format!("the platform has no tier `{}`{hint}", preview(tier));
            mistake(BAD, "tiers", message, "declare it: tiers.NAME = { accounts = [\"act_1\"] }");
        }
    }
}
