//! The key `complete` of an api: which days of every account are expected in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;
use serde_json::Map;

use super::BAD;
use super::mistake::Report;
use super::params::default_value;
use super::section::{Section, one_of};
use crate::answers::By;
use crate::complete::lacks;
use crate::ids::{Slug, preview};
use crate::plan::{Api, Complete, Platform, StorePlan};
use crate::recipe::did_you_mean;

/// Most days that a provider may restate.
const RESTATE_DAYS_MAX: u32 = 3_660;

pub(super) fn complete(section: &mut Section<'_>, api: &Api) -> Option<Complete> {
    let mut table = section.section("complete")?;
    let hint = "the parameter that names the day, as param = \"date\"";
    let param = table.required("param", hint);
    let to = table.text("to");
    for (key, name) in [("param", &param), ("to", &to)] {
        if let Some(name) = name {
            check_name(&table, key, name, api);
        }
    }
    let ends = [("included", false), ("excluded", true)];
    let end = table.text("end").and_then(|text| one_of(&table, "end", &text, &ends));
    // As the same parameter is read where a fetch is split.
    let split = api.answers.split.as_ref().and_then(|split| match &split.by {
        By::Dates { to: last, to_is_excluded, .. } if to.as_deref() == Some(&**last) => {
            Some(*to_is_excluded)
        }
        _ => None,
    });
    let to_is_excluded = end.or(split).unwrap_or(false);
    let from = table.text("from").and_then(|text| {
        let day = text.parse::<Date>().ok();
        if day.is_none() {
            let message = format!("`{}` is not a day", preview(&text));
            table.mistake(BAD, "from", message, "as 2026-11-01");
        }
        day
    });
    let restate_days = table.text("restate").and_then(|text| restate(&table, &text));
    let mut params = Map::new();
    if let Some(mut more) = table.section("params") {
        for (name, value) in more.entries() {
            check_name(&more, &name, &name, api);
            if let Some(value) = default_value(&more, value) {
                params.insert(name, value);
            }
        }
    }
    table.finish();
    let restate_days = restate_days.unwrap_or(0);
    Some(Complete { param: param?, to, to_is_excluded, from, restate_days, params })
}

/// Warns where nobody could call a fetch that fills a gap.
pub(super) fn check_gaps(
    report: &Report,
    store: &StorePlan,
    platforms: &BTreeMap<Slug, Arc<Platform>>,
) {
    for platform in platforms.values() {
        for api in &platform.apis {
            let lacks = api.complete.as_ref().and_then(|of| lacks(store, platform, api, of));
            let Some(lacks) = lacks else { continue };
            let key = format!("platforms.{}.apis.{}.complete.params", platform.name, api.name);
            let message = format!(
                "{lacks}: days of which nothing is known are told as missing, and no fetch is made for them"
            );
            report.warn(&key, &message);
        }
    }
}

fn check_name(table: &Section<'_>, key: &str, name: &str, api: &Api) {
    if !api.params.names.contains(name) {
        let near = did_you_mean(name, api.params.names.iter().map(String::as_str));
        let message = format!("fetches of this api carry no parameter `{}`{near}", preview(name));
        table.mistake(BAD, key, message, "a template of the api has to name it");
    }
}

/// `28 days` or `28d`.
fn restate(table: &Section<'_>, text: &str) -> Option<u32> {
    let number = ["days", "day", "d"].iter().find_map(|unit| text.trim().strip_suffix(unit));
    let days = number.and_then(|number| number.trim().parse().ok());
    let days = days.filter(|days| *days <= RESTATE_DAYS_MAX);
    if days.is_none() {
        let message =
            format!("`{}` is not a number of days up to {RESTATE_DAYS_MAX}", preview(text));
        table.mistake(BAD, "restate", message, "as \"28 days\"");
    }
    days
}
