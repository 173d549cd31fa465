//! What was understood of a configuration, for people. Secrets are not in it.

use std::fmt::{self, Write};
use std::time::Duration;

use jiff::civil::date;
use jiff::tz::TimeZone;
use serde_json::Map;
use tollgate_gate::{Guard, Limit, LimitSet, Rule, Span};

use super::values::show;
use crate::ids::{Account, Slug};
use crate::plan::{
    Api, Auth, Dim, Format, Plan, Platform, S3Credentials, S3Plan, StoreTarget, Test, Timeouts,
    When,
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
        StoreTarget::S3(s3) => in_bucket(s3),
    };
    let compression = match plan.store.compression.suffix() {
        "" => "not compressed",
        ".gz" => "gzip",
        _ => "zstd",
    };
    let fsync = match (&plan.store.target, plan.store.fsync) {
        (StoreTarget::S3(_), true) => "state fsynced",
        (StoreTarget::S3(_), false) => "state not fsynced",
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
    match &plan.http {
        Some(http) => writeln!(
            out,
            "http     `serve` answers /healthz, /readyz and /metrics at {}",
            http.listen
        )?,
        None => writeln!(out, "http     off")?,
    }
    writeln!(out, "limits   {} (names the limits in force)", plan.hash)?;
    for platform in plan.platforms.values() {
        writeln!(out)?;
        write_platform(out, plan, platform)?;
    }
    Ok(())
}

fn in_bucket(s3: &S3Plan) -> String {
    let below = if s3.prefix.is_empty() { String::new() } else { format!(" below {}/", s3.prefix) };
    let at = match &s3.endpoint {
        Some(endpoint) => endpoint.to_string(),
        None => "Amazon S3".to_owned(),
    };
    let keys = match &s3.credentials {
        S3Credentials::Keys { token: None, .. } => "with keys that were given",
        S3Credentials::Keys { token: Some(_), .. } => "with temporary keys that were given",
        S3Credentials::Ambient(_) => "with keys of this machine's role",
    };
    format!("bucket {}{below} at {at}, region {}, {keys}", s3.bucket, s3.region)
}

fn write_platform(out: &mut String, plan: &Plan, platform: &Platform) -> fmt::Result {
    writeln!(out, "platform {}", platform.name)?;
    writeln!(out, "  calls go to {}", platform.base_url)?;
    if !platform.allowed_hosts.is_empty() {
        writeln!(out, "  and, with headers and secrets, to {}", platform.allowed_hosts.join(", "))?;
    }
    match &platform.auth {
        Some(Auth::Bearer(_)) => writeln!(out, "  authorization: Bearer ***")?,
        Some(Auth::Header(name, _)) => writeln!(out, "  {name}: ***")?,
        None => {}
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
        write_limits(out, platform, Some(number), "    ")?;
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
    let mine = |limit: &&Limit| limit.api.map(usize::from) == api;
    let find = |limits: &LimitSet, name: &str| {
        limits.limits().iter().filter(mine).find(|limit| limit.name == name).cloned()
    };
    for limit in platform.limits.limits().iter().filter(mine) {
        let per = match (limit.api, limit.per_api) {
            (Some(_), _) => "per account, of this api's calls",
            (None, true) => "per account and api",
            (None, false) => "per account",
        };
        writeln!(out, "{indent}limit {}: {}", limit.name, in_words(limit, per))?;
        for (of, special) in platform.special.iter() {
            let own = find(&special.limits, &limit.name).filter(|own| own != limit);
            if let Some(own) = own {
                writeln!(out, "{indent}  {of}: {}", in_words(&own, per))?;
            }
        }
    }
    for budget in &platform.budgets {
        let dims: Vec<String> = budget.dims.iter().map(Dim::to_string).collect();
        let mut per = format!("per {}", dims.join(" and "));
        if api.is_some() {
            per += ", of this api's calls";
        }
        let when = in_words_when(&budget.when);
        for limit in budget.limits.limits().iter().filter(mine) {
            writeln!(out, "{indent}budget {}: {}{when}", limit.name, in_words(limit, &per))?;
            for (of, special) in budget.special.iter() {
                let own = find(special, &limit.name).filter(|own| own != limit);
                if let Some(own) = own {
                    writeln!(out, "{indent}  {of}: {}", in_words(&own, &per))?;
                }
            }
        }
    }
    Ok(())
}

/// `; counts calls of reports, where ids has several values`.
fn in_words_when(when: &When) -> String {
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
    write!(out, "    GET {base}{}", api.path)?;
    for (i, (name, template)) in api.query.iter().enumerate() {
        write!(out, "{}{name}={template}", if i == 0 { '?' } else { '&' })?;
    }
    writeln!(out)?;
    for (name, template) in &api.headers {
        writeln!(out, "    {name}: {template}")?;
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
        Format::Csv => "csv",
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

/// A limit as a sentence: `at most 60 calls in any 1h per account and api; guard 250ms`.
fn in_words(limit: &Limit, per: &str) -> String {
    let long = |span: Span| show(Duration::from(span));
    let (rule, window) = match limit.rule {
        Rule::Every { gap } => {
            (format!("at least {} between two calls {per}", long(gap)), Some(gap))
        }
        Rule::Sliding { max, window } => {
            let calls = count(max.get() as usize, "call");
            (format!("at most {calls} in any {} {per}", long(window)), Some(window))
        }
        Rule::Concurrent { max } => {
            (format!("at most {} in flight {per}", count(max.get() as usize, "call")), None)
        }
    };
    match (window, limit.guard) {
        (None, _) => rule,
        (Some(_), Guard::Never) => format!("{rule}; counted from the answer"),
        (Some(window), guard) => {
            let span = guard.span(window).unwrap_or(Span(0));
            let default = if guard == Guard::Default { " (default)" } else { "" };
            format!("{rule}; guard {}{default}", long(span))
        }
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
