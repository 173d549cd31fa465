//! What a provider allows, read from the configuration's tables or from the command line by code of its own:
//! an auditor that misread a limit as the gate does would prove the wrong thing.
//!
//! What it does not know is never left out silently: such a limit is kept with the reason why it cannot be
//! shown.

use std::num::NonZeroU64;

use jiff::SignedDuration;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use toml::{Table, Value};

use super::counter::{Ns, Rule};
use super::source::PathTemplate;
use crate::ids::preview;

/// Keys of a limit that say how *we* keep it, or what answers say about it: what the provider allows is not
/// changed by them.
const OURS: [&str; 5] = ["guard", "observe", "over", "reserve", "share"];

/// A limit to be proved.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    /// As the configuration calls it: `hourly`, or `report.gap` for an api's own.
    pub(super) name: String,
    /// Only calls of this api count.
    pub(super) api: Option<String>,
    /// Only calls of these apis count; empty: of all.
    pub(super) only: Vec<String>,
    /// Each account is counted for itself.
    pub(super) per_account: bool,
    /// Each api is counted for itself.
    pub(super) per_api: bool,
    /// What is allowed, or why it cannot be counted from a log.
    pub(super) rule: Result<Rule, String>,
}

impl Limit {
    /// What it allows, in words.
    pub(super) fn allows(&self) -> String {
        match &self.rule {
            Ok(Rule::Window { max: 1, window }) => format!("1 in any {}", span(*window)),
            Ok(Rule::Window { max, window }) => format!("{max} in any {}", span(*window)),
            Ok(Rule::Concurrent { max }) => format!("{max} at once"),
            Ok(Rule::Bucket { calls, within, burst }) => {
                format!("{burst} at once and {calls} more every {}", span(*within))
            }
            Ok(Rule::Daily { max, reset, zone }) => {
                let zone = zone.iana_name().unwrap_or("UTC");
                format!("{max} a day from {} {zone}", reset.strftime("%H:%M"))
            }
            Err(_) => "?".into(),
        }
    }
}

/// What the configuration says of a platform.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) platform: Option<String>,
    pub(super) limits: Vec<Limit>,
    /// The apis with the paths of their calls.
    pub(super) apis: Vec<(String, PathTemplate)>,
    /// Parameters of a query that hold the account.
    pub(super) account_queries: Vec<String>,
    /// Headers that hold it.
    pub(super) account_headers: Vec<String>,
}

/// Reads the tables of one platform. The only one if none is named.
///
/// # Errors
/// A sentence: the text is not TOML, there is no such platform, or it is not said which.
pub(super) fn declared(text: &str, platform: Option<&str>) -> Result<Declared, String> {
    let table: Table = text.parse().map_err(|error| format!("is not TOML: {error}"))?;
    let platforms = table.get("platforms").and_then(Value::as_table);
    let platforms = platforms.ok_or("declares no platforms")?;
    let names = || platforms.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let (name, of) = match platform {
        Some(name) => {
            let of = platforms.get(name).and_then(Value::as_table);
            (name, of.ok_or_else(|| format!("has no platform `{}`: {}", preview(name), names()))?)
        }
        None => match platforms.iter().next() {
            Some((name, Value::Table(of))) if platforms.len() == 1 => (name.as_str(), of),
            _ => return Err(format!("has several platforms: --platform says which: {}", names())),
        },
    };
    let mut declared = Declared { platform: Some(name.to_owned()), ..Declared::default() };
    let empty = Table::new();
    let tables = |table: &Table, key: &str| -> Table {
        table.get(key).and_then(Value::as_table).unwrap_or(&empty).clone()
    };
    let keys = tables(of, "keys");
    for (name, limit) in &tables(of, "limits") {
        declared.limits.push(one(name, limit, None, &keys));
    }
    let base = of.get("base_url").and_then(Value::as_str).and_then(|url| url::Url::parse(url).ok());
    let base = base.map_or_else(|| "/".into(), |url| url.path().to_owned());
    let holds_account =
        |value: &Value| value.as_str().is_some_and(|text| text.trim() == "{account}");
    let accounts = |table: &Table| -> Vec<String> {
        table
            .iter()
            .filter(|(_, value)| holds_account(value))
            .map(|(name, _)| name.clone())
            .collect()
    };
    declared.account_headers.extend(accounts(&tables(of, "headers")));
    for (api, table) in &tables(of, "apis") {
        let Some(table) = table.as_table() else { continue };
        for (name, limit) in &tables(table, "limits") {
            declared.limits.push(one(name, limit, Some(api), &keys));
        }
        declared.account_queries.extend(accounts(&tables(table, "query")));
        declared.account_headers.extend(accounts(&tables(table, "headers")));
        if let Some(path) = table.get("path").and_then(Value::as_str) {
            let path = format!("{}/{}", base.trim_end_matches('/'), path.trim_start_matches('/'));
            declared.apis.push((api.clone(), PathTemplate::of_recipe(&path)));
        }
    }
    declared.account_queries.sort();
    declared.account_queries.dedup();
    declared.account_headers.sort();
    declared.account_headers.dedup();
    Ok(declared)
}

/// Reads limits as `NAME = { per = ["account"], max = 60, in = "1h" }`, one or several.
///
/// # Errors
/// A sentence: it is not TOML, or no limit.
pub(super) fn from_line(text: &str) -> Result<Vec<Limit>, String> {
    let table: Table = text.parse().map_err(|error| format!("is not TOML: {error}"))?;
    if table.is_empty() {
        return Err("holds no limit".into());
    }
    let keys = Table::new();
    let limits: Vec<Limit> =
        table.iter().map(|(name, limit)| one(name, limit, None, &keys)).collect();
    match limits.iter().find_map(|limit| limit.rule.as_ref().err().map(|why| (limit, why))) {
        Some((limit, why)) => Err(format!("limit `{}`: {why}", limit.name)),
        None => Ok(limits),
    }
}

/// `keys`: what the platform's own dimensions stand for.
fn one(name: &str, value: &Value, api: Option<&str>, keys: &Table) -> Limit {
    let full = api.map_or_else(|| name.to_owned(), |api| format!("{api}.{name}"));
    let mut limit = Limit {
        name: full,
        api: api.map(str::to_owned),
        only: Vec::new(),
        per_account: false,
        per_api: false,
        rule: Err(String::new()),
    };
    let Some(table) = value.as_table() else {
        limit.rule = Err("it is no table".into());
        return limit;
    };
    let per = table.get("per").and_then(Value::as_array);
    let per: Vec<&str> = per.into_iter().flatten().filter_map(Value::as_str).collect();
    limit.per_account = per.is_empty() || per.contains(&"account");
    limit.per_api = per.contains(&"api") && api.is_none();
    limit.rule = rule(table);
    for dim in per.iter().filter(|dim| !["account", "api", "platform"].contains(*dim)) {
        match keys.get(*dim).and_then(Value::as_str).map(str::trim) {
            // Whoever counts by the account of a call.
            Some("{account}") => limit.per_account = true,
            // All calls have the one value.
            Some(text) if !text.contains(['{', '}']) => {}
            Some(_) | None => {
                let why = format!("a log does not tell the `{}` of a call", preview(dim));
                limit.rule = Err(why);
            }
        }
    }
    if let Some(when) = table.get("when") {
        match only_apis(when) {
            Ok(apis) => limit.only = apis,
            Err(why) => limit.rule = Err(why),
        }
    }
    limit
}

/// The apis whose calls count by `when`.
fn only_apis(when: &Value) -> Result<Vec<String>, String> {
    let told = || "`when` counts some calls only, and a log does not tell which".to_owned();
    let when = when.as_table().ok_or_else(told)?;
    if when.keys().any(|key| key != "api") {
        return Err(told());
    }
    let apis = match when.get("api") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => {
            let all: Option<Vec<String>> =
                all.iter().map(|api| api.as_str().map(str::to_owned)).collect();
            all.ok_or_else(told)?
        }
        _ => Vec::new(),
    };
    if apis.is_empty() { Err(told()) } else { Ok(apis) }
}

fn rule(table: &Table) -> Result<Rule, String> {
    let mut known: Vec<&str> = vec!["per", "when"];
    known.extend(OURS);
    let rule = if let Some(gap) = table.get("every") {
        known.push("every");
        Rule::Window { max: 1, window: duration("every", gap)? }
    } else if let Some(most) = table.get("concurrent") {
        known.push("concurrent");
        Rule::Concurrent { max: positive("concurrent", most)? }
    } else if let Some(rate) = table.get("rate") {
        known.extend(["rate", "burst"]);
        let text = rate.as_str().ok_or("`rate` is text as \"50/s\"")?;
        let (calls, unit) = text.split_once('/').ok_or("`rate` is text as \"50/s\"")?;
        let calls = calls.trim().parse::<NonZeroU64>().map_err(|_| "`rate` is text as \"50/s\"")?;
        let unit = unit.trim();
        let within = match unit {
            "s" | "m" | "min" | "h" => format!("1{unit}"),
            _ => unit.to_owned(),
        };
        let within = duration("rate", &Value::String(within))?;
        let burst = table.get("burst").map_or(Ok(calls.get()), |burst| positive("burst", burst))?;
        Rule::Bucket { calls: calls.get(), within, burst }
    } else if let Some(max) = table.get("max") {
        known.extend(["max", "in"]);
        let max = positive("max", max)?;
        let length = table.get("in").ok_or("`max` without `in`")?;
        match table.get("resets") {
            None => Rule::Window { max, window: duration("in", length)? },
            Some(resets) => {
                known.extend(["resets", "reset_slack"]);
                if length.as_str().is_none_or(|text| !["1d", "1 day"].contains(&text.trim())) {
                    return Err("with `resets` only `in = \"1d\"` is counted here".into());
                }
                let (reset, zone) = reset(resets)?;
                Rule::Daily { max, reset, zone }
            }
        }
    } else {
        return Err("this kind of limit is not counted here".into());
    };
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => {
            Err(format!("`{}` changes what is counted, in a way not known here", preview(key)))
        }
        None => Ok(rule),
    }
}

fn positive(key: &str, value: &Value) -> Result<u64, String> {
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or_else(|| format!("`{key}` is a whole number from 1"))
}

fn duration(key: &str, value: &Value) -> Result<Ns, String> {
    let text = value.as_str().unwrap_or_default().trim();
    let told = || format!("`{key}` is a duration with its unit, as \"5s\" or \"1h\"");
    let span: SignedDuration = text.parse().map_err(|_| told())?;
    Ns::try_from(span.as_nanos()).ok().filter(|ns| *ns > 0).ok_or_else(told)
}

fn reset(value: &Value) -> Result<(Time, TimeZone), String> {
    let told = || "`resets` is a time and a zone, as \"00:00 Asia/Seoul\"".to_owned();
    let text = value.as_str().ok_or_else(told)?;
    let (time, zone) = text.trim().split_once(' ').unwrap_or((text.trim(), "UTC"));
    let time: Time = time.parse().map_err(|_| told())?;
    let zone = zone.trim();
    let zone =
        TimeZone::get(zone).map_err(|_| format!("there is no time zone `{}`", preview(zone)))?;
    Ok((time, zone))
}

/// A length of time as it is declared.
pub(super) fn span(ns: Ns) -> String {
    format!("{:#}", SignedDuration::from_nanos(ns))
}
