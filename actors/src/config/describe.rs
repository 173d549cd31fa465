//! What was understood of a configuration, for people. Secrets are not in it.

use std::fmt::{self, Write};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::date;
use jiff::tz::TimeZone;
use serde_json::Map;
use tollgate_gate::{Cost, Guard, Limit, LimitSet, Rule, Span};

use super::describe_answers::write_answers;
use super::describe_auth::write_auth;
use super::describe_pages::write_pages;
use super::describe_request::{InWords, write_request};
use super::describe_rules::write_rules;
use super::values::show;
use crate::calendar::{DAY, Resets};
use crate::costs::{Costs, Counts};
use crate::ids::{Account, Slug};
use crate::plan::{
    Api, AzureCredentials, BucketPlan, Counted, Dim, Format, GoogleCredentials, Plan, Platform,
    Provider, S3Credentials, StoreTarget, Test, Timeouts, When,
};
use crate::recipe::{KeyContext, object_key};

/// Says what a plan does, line by line: where objects go, and for each platform its apis with their
/// whole URLs, its limits in words, and how calls are authorised.
pub fn describe(plan: &Plan) -> String {
    let mut out = String::new();
    write_plan(&mut out, plan).expect("a String takes all that is written");
    out
}

fn write_plan(out: &mut String, plan: &Plan) -> fmt::Result {
    let collect = &plan.collect;
    writeln!(out, "node     {}", plan.node_name)?;
    writeln!(out, "data     {}; state in {}", plan.data.display(), plan.state().display())?;
    let place = match &plan.store.target {
        StoreTarget::File(path) => format!("files below {}", path.display()),
        StoreTarget::Memory => "memory, gone when the process ends".to_owned(),
        StoreTarget::Bucket(bucket) => in_bucket(bucket),
    };
    let compression = match plan.store.compression.suffix() {
        "" => "not compressed",
        ".gz" => "gzip",
        _ => "zstd",
    };
    let fsync = match (&plan.store.target, plan.store.fsync) {
        (StoreTarget::Bucket(_), true) => "state fsynced",
        (StoreTarget::Bucket(_), false) => "state not fsynced",
        (_, true) => "fsynced",
        (_, false) => "not fsynced",
    };
    writeln!(out, "objects  {place}; {compression}, {fsync}")?;
    writeln!(out, "key      {}", plan.store.key)?;
    writeln!(
        out,
        "collect  at most {} calls in flight over {}, {} bytes of bodies on their way,",
        collect.concurrency,
        count(collect.shards, "shard"),
        collect.buffer_bytes_max
    )?;
    writeln!(
        out,
        "         {} for one fetch, bodies up to {} bytes, {} to drain",
        count(collect.attempts_max as usize, "call"),
        collect.body_bytes_max,
        show(collect.drain)
    )?;
    let spill = if collect.spill_over { "go to and come from" } else { "stay away from" };
    writeln!(out, "         with `serve`, calls beyond that {spill} other nodes")?;
    match &plan.http {
        Some(http) => {
            writeln!(
                out,
                "http     `serve` answers /healthz, /readyz and /metrics at {}",
                http.listen
            )?;
            let page = match (&http.token, http.listen.ip().is_loopback()) {
                (Some(_), _) => "to those who have the token",
                (None, true) => "without a token, to this machine only",
                (None, false) => "to nobody: elsewhere than on loopback they need http.token",
            };
            writeln!(out, "         and the page and /api/v1 {page}")?;
        }
        None => writeln!(out, "http     off")?,
    }
    if let Some(level) = &plan.log.level {
        writeln!(out, "log      {level}")?;
    }
    if let Some(notify) = &plan.notify {
        let webhooks = notify.webhooks.iter().map(|webhook| {
            let signed = if webhook.key.is_some() { ", signed" } else { "" };
            format!("{} at {}{signed}", webhook.name, webhook.host())
        });
        let nats = notify.nats.then(|| "NATS (`serve`)".to_owned());
        let whom: Vec<String> = nats.into_iter().chain(webhooks).collect();
        let whom = if whom.is_empty() { "nobody but the log".to_owned() } else { whom.join("; ") };
        writeln!(out, "notify   {whom}")?;
    }
    writeln!(out, "limits   {} (names the limits in force)", plan.hash)?;
    for platform in plan.platforms.values() {
        writeln!(out)?;
        write_platform(out, plan, platform)?;
    }
    Ok(())
}

fn in_bucket(plan: &BucketPlan) -> String {
    let BucketPlan { bucket, prefix, endpoint, provider, .. } = plan;
    let below = if prefix.is_empty() { String::new() } else { format!(" below {prefix}/") };
    let at = |own: &str| endpoint.as_ref().map_or_else(|| own.to_owned(), ToString::to_string);
    match provider {
        Provider::S3 { region, credentials, .. } => {
            let keys = match credentials {
                S3Credentials::Keys { token: None, .. } => "keys that were given",
                S3Credentials::Keys { token: Some(_), .. } => "temporary keys that were given",
                S3Credentials::Ambient(_) => "keys of this machine's role",
            };
            format!("bucket {bucket}{below} at {}, region {region}, with {keys}", at("Amazon S3"))
        }
        Provider::Google(credentials) => {
            let keys = match credentials {
                GoogleCredentials::ServiceAccount(_) => "a service account's key".to_owned(),
                GoogleCredentials::File(path) => format!("credentials of {}", path.display()),
                GoogleCredentials::Token(_) => "a token that was given".to_owned(),
                GoogleCredentials::Ambient => "credentials of this machine".to_owned(),
            };
            format!("bucket {bucket}{below} at {}, with {keys}", at("Google Cloud Storage"))
        }
        Provider::Azure { account, credentials } => {
            let keys = match credentials {
                AzureCredentials::Key(_) => "the account's key",
                AzureCredentials::Sas(_) => "a shared access signature",
                AzureCredentials::Principal { .. } => "a service principal",
                AzureCredentials::Ambient(_) => "this machine's identity",
            };
            let at = at("Azure Blob Storage");
            format!("container {bucket}{below} at {at}, account {account}, with {keys}")
        }
    }
}

fn write_platform(out: &mut String, plan: &Plan, platform: &Platform) -> fmt::Result {
    writeln!(out, "platform {}", platform.name)?;
    writeln!(out, "  calls go to {}", platform.base_url)?;
    if !platform.allowed_hosts.is_empty() {
        writeln!(out, "  and, with headers and secrets, to {}", platform.allowed_hosts.join(", "))?;
    }
    if !platform.bare_hosts.is_empty() {
        writeln!(out, "  of these without secrets: {}", platform.bare_hosts.join(", "))?;
    }
    if let Some(auth) = &platform.auth {
        write_auth(out, auth, "  ")?;
    }
    for (name, template) in &platform.headers {
        writeln!(out, "  {name}: {template}")?;
    }
    let (lost, alive) = (show(platform.lost_call), show(platform.lost_call_alive));
    writeln!(
        out,
        "  a call lost in a crash keeps its slot for {lost}, {alive} if its node may live"
    )?;
    for (dim, template) in &platform.keys {
        writeln!(out, "  {dim}: {template}")?;
    }
    for (place, (tier, weight)) in platform.tiers.tiers.iter().enumerate() {
        let accounts = platform.tiers.accounts.values();
        let accounts = accounts.filter(|tier| usize::from(**tier) == place).count();
        let turns = count(*weight as usize, "turn");
        writeln!(out, "  tier {tier}: {}, {turns} for one of others", count(accounts, "account"))?;
    }
    write_limits(out, platform, None, "  ")?;
    for (number, api) in platform.apis.iter().enumerate() {
        writeln!(out, "  api {}", api.name)?;
        write_api(out, plan, platform, api)?;
        write_rules(out, &api.rules, platform)?;
        write_answers(out, &api.answers)?;
        write_limits(out, platform, Some(number), "    ")?;
        if let Some(costs) = costs_in_words(platform, number) {
            writeln!(out, "    a call costs {costs}")?;
        }
    }
    Ok(())
}

/// The limits of the platform, or of one of its apis by number.
fn write_limits(
    out: &mut String,
    platform: &Platform,
    api: Option<usize>,
    indent: &str,
) -> fmt::Result {
    let resets = &platform.resets;
    let own = Set { limits: &platform.limits, costs: &platform.costs, resets };
    let special = platform
        .special
        .iter()
        .map(|(of, special)| (of, Set { limits: &special.limits, costs: &special.costs, resets }));
    let special: Vec<_> = special.collect();
    for (place, limit) in own.of(api) {
        let per = match (limit.api, limit.per_api) {
            (Some(_), _) => "per account, of this api's calls",
            (None, true) => "per account and api",
            (None, false) => "per account",
        };
        let words = own.in_words(place, limit, per);
        writeln!(out, "{indent}limit {}: {words}", limit.name)?;
        write_special(out, &special, place, &words, per, indent)?;
    }
    for budget in &platform.budgets {
        let own = of_budget(&budget.counted, resets);
        let special: Vec<_> =
            budget.special.iter().map(|(of, special)| (of, of_budget(special, resets))).collect();
        let dims: Vec<String> = budget.dims.iter().map(Dim::to_string).collect();
        let mut per = format!("per {}", dims.join(" and "));
        if api.is_some() {
            per += ", of this api's calls";
        }
        let when = in_words_when(&budget.when);
        for (place, limit) in own.of(api) {
            let words = own.in_words(place, limit, &per);
            writeln!(out, "{indent}budget {}: {words}{when}", limit.name)?;
            write_special(out, &special, place, &words, &per, indent)?;
        }
    }
    Ok(())
}

pub(super) fn of_budget<'p>(counted: &'p Counted, resets: &'p [Resets]) -> Set<'p> {
    Set { limits: &counted.limits, costs: &counted.costs, resets }
}

/// The same limit for those who have another one.
fn write_special(
    out: &mut String,
    special: &[(String, Set<'_>)],
    place: usize,
    words: &str,
    per: &str,
    indent: &str,
) -> fmt::Result {
    for (of, set) in special {
        let Some(limit) = set.limits.limits().get(place) else { continue };
        let own = set.in_words(place, limit, per);
        if own != words {
            writeln!(out, "{indent}  {of}: {own}")?;
        }
    }
    Ok(())
}

/// `; counts calls of reports, where ids has several values`.
pub(super) fn in_words_when(when: &When) -> String {
    if when.always() {
        return String::new();
    }
    let mut words = Vec::new();
    if !when.apis.is_empty() {
        let apis: Vec<&str> = when.apis.iter().map(Slug::as_str).collect();
        words.push(format!("of {}", apis.join(", ")));
    }
    for (name, test) in &when.params {
        let holds = match test {
            Test::Present => "has a value".to_owned(),
            Test::Absent => "has none".to_owned(),
            Test::One => "has one value".to_owned(),
            Test::Several => "has several values".to_owned(),
            Test::Is(texts) => format!("is {}", texts.join(" or ")),
            Test::Between(Some(min), Some(max)) => format!("is from {min} to {max}"),
            Test::Between(Some(min), None) => format!("is {min} or more"),
            Test::Between(None, Some(max)) => format!("is {max} or less"),
            Test::Between(None, None) => "is a number".to_owned(),
        };
        words.push(format!("where {name} {holds}"));
    }
    format!("; counts calls {}", words.join(", "))
}

fn write_api(out: &mut String, plan: &Plan, platform: &Platform, api: &Api) -> fmt::Result {
    let base = if api.path.text().contains("://") { "" } else { platform.base_url.as_str() };
    write!(out, "    {} {base}{}", api.method, api.path)?;
    for (i, pair) in api.query.iter().enumerate() {
        write!(out, "{}{}", if i == 0 { '?' } else { '&' }, InWords(pair))?;
    }
    writeln!(out)?;
    for (name, template) in &api.headers {
        writeln!(out, "    {name}: {template}")?;
    }
    write_request(out, platform, api)?;
    match (&platform.auth, &api.auth) {
        (Some(_), None) => writeln!(out, "    without credentials")?,
        (Some(shared), Some(own))
            if shared.pool.len() == own.pool.len()
                && shared.pool.iter().zip(&own.pool).all(|(a, b)| Arc::ptr_eq(a, b)) => {}
        (_, Some(own)) => write_auth(out, own, "    ")?,
        (None, None) => {}
    }
    if !api.params.names.is_empty() {
        let names: Vec<String> = api
            .params
            .names
            .iter()
            .map(|name| match api.params.defaults.get(name) {
                Some(default) => format!("{name} (default {default})"),
                None => name.clone(),
            })
            .collect();
        writeln!(out, "    parameters: {}", names.join(", "))?;
    }
    let Timeouts { connect, first_byte, stall } = api.timeouts;
    writeln!(
        out,
        "    timeouts: {} to connect, {} to the answer's head, {} between pieces",
        show(connect),
        show(first_byte),
        show(stall)
    )?;
    if let Some(pages) = &api.pages {
        write_pages(out, pages)?;
    }
    if let Some(key) = example_key(plan, platform, api) {
        writeln!(out, "    an object: {key}")?;
    }
    Ok(())
}

/// A key as it could be; none where it needs parameters that only a fetch has.
fn example_key(plan: &Plan, platform: &Platform, api: &Api) -> Option<String> {
    let account = Account::new("act_1").ok()?;
    let day = date(2026, 11, 20).to_zoned(TimeZone::UTC).ok()?.timestamp();
    let kind = match api.format {
        Format::Auto | Format::Json => "json",
        Format::Ndjson => "jsonl",
        Format::Csv => "csv",
        Format::Tsv => "tsv",
        Format::Text => "txt",
        Format::Html => "html",
        Format::Binary => "bin",
    };
    let ext = format!("{kind}{}", plan.store.compression.suffix());
    let context = KeyContext {
        platform,
        api,
        account: &account,
        id: "fetch-1",
        params: &Map::new(),
        queued_at: day,
        page: 1,
        ext: &ext,
    };
    object_key(&plan.store, &context).ok().map(|key| key.to_string())
}

/// Limits with all that is needed to say what they are.
pub(super) struct Set<'p> {
    pub(super) limits: &'p LimitSet,
    pub(super) costs: &'p Costs,
    pub(super) resets: &'p [Resets],
}

impl Set<'_> {
    /// The limits of the platform, or of one of its apis by number, with their places.
    pub(super) fn of(&self, api: Option<usize>) -> impl Iterator<Item = (usize, &Limit)> {
        let limits = self.limits.limits().iter().enumerate();
        limits.filter(move |(_, limit)| limit.api.map(usize::from) == api)
    }

    fn counts(&self, place: usize) -> Option<Counts> {
        let counts = self.costs.counts.iter().find(|(own, _)| *own == place);
        counts.map(|(_, counts)| *counts)
    }

    /// A limit as a sentence: `at most 60 calls in any 1h per account and api; guard 250ms`.
    pub(super) fn in_words(&self, place: usize, limit: &Limit, per: &str) -> String {
        let long = |span: Span| show(Duration::from(span));
        let units = |max: NonZeroU32| match self.counts(place) {
            Some(Counts::Bytes { unit }) => format!("{} bytes", u64::from(max.get()) * unit),
            Some(Counts::Errors) => count(max.get() as usize, "error"),
            _ if self.costs_one(place) => count(max.get() as usize, "call"),
            _ => count(max.get() as usize, "unit"),
        };
        let rule = match limit.rule {
            Rule::Every { gap } => format!("at least {} between two calls {per}", long(gap)),
            Rule::Sliding { max, window } => {
                format!("at most {} in any {} {per}", units(max), long(window))
            }
            Rule::Concurrent { max } => format!("at most {} in flight {per}", units(max)),
            Rule::Bucket { burst, rate, per: time } => {
                let (burst, time) = (units(burst), long(time));
                format!("a bucket of {burst} into which {rate} flow in {time} {per}")
            }
            Rule::Calendar { max, window, slack, calendar } => {
                let resets = self.resets.get(usize::from(calendar));
                let resets = resets.map(ToString::to_string).unwrap_or_default();
                let window =
                    if window == Span::from(DAY) { "day".to_owned() } else { long(window) };
                let slack = long(slack);
                format!(
                    "at most {} each {window} from {resets} {per}; clocks may be {slack} apart",
                    units(max)
                )
            }
            Rule::FirstUse { max, window } => {
                format!("at most {} in {} from the first on {per}", units(max), long(window))
            }
            Rule::Score { max, decay, block } => format!(
                "a score of at most {max} {per}, each point counts for {}; above it no answer for {}",
                long(decay),
                long(block)
            ),
            Rule::Jobs { max, ttl } => {
                format!(
                    "at most {} at once {per}, each over after {}",
                    count(max.get() as usize, "job"),
                    long(ttl)
                )
            }
        };
        let free = self.costs.free_pages.contains(&place);
        let rule = if free { rule + "; only first pages count" } else { rule };
        match (limit.window(), limit.guard) {
            (None, _) => rule,
            (Some(_), Guard::Never) => format!("{rule}; counted from the answer"),
            (Some(window), guard) => {
                let span = guard.span(window).unwrap_or(Span(0));
                let default = if guard == Guard::Default { " (default)" } else { "" };
                format!("{rule}; guard {}{default}", long(span))
            }
        }
    }

    /// Whether every call costs one by the limit at that place.
    fn costs_one(&self, place: usize) -> bool {
        self.costs.apis.iter().all(|api| {
            let usual = api.usual.get(place).is_none_or(|cost| *cost == Cost::ONE);
            usual && api.templates.iter().all(|(own, _)| *own != place)
        })
    }

    /// What an api's calls cost where it is not one, limit by limit.
    fn costs_in_words(&self, number: usize) -> Vec<String> {
        let Some(costs) = self.costs.apis.get(number) else { return Vec::new() };
        let limits = self.limits.limits().iter().enumerate();
        let own =
            limits.filter(|(_, limit)| limit.api.is_none_or(|api| usize::from(api) == number));
        let words = own.filter_map(|(place, limit)| {
            let name = &limit.name;
            if let Some((_, template)) = costs.templates.iter().find(|(own, _)| *own == place) {
                return Some(format!("{template} of {name}"));
            }
            let cost = costs.usual.get(place).filter(|cost| **cost != Cost::ONE)?;
            Some(match (cost.units, self.counts(place)) {
                (0, _) => format!("nothing of {name}"),
                (_, Some(Counts::Errors)) => format!("one of {name} if it fails"),
                (units, Some(Counts::Bytes { unit })) => {
                    let guess = u64::from(units) * unit;
                    format!("its body of {name}, {guess} bytes until it is known")
                }
                (units, _) => format!("{units} of {name}"),
            })
        });
        words.collect()
    }
}

/// What an api's calls cost where it is not one: `costs 3 of points, {ids|length} of daily`.
fn costs_in_words(platform: &Platform, number: usize) -> Option<String> {
    let resets = &platform.resets;
    let own = Set { limits: &platform.limits, costs: &platform.costs, resets };
    let mut words = own.costs_in_words(number);
    for budget in &platform.budgets {
        words.extend(of_budget(&budget.counted, resets).costs_in_words(number));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
