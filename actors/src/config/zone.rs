//! The key `zone`: whose days `{today}` and the filters of dates mean.

use std::collections::BTreeMap;

use ::config::ValueKind;

use super::BAD;
use super::pairs::template;
use super::section::{Section, kind_of};
use crate::codes::Code;
use crate::ids::{Account, preview};
use crate::plan::Tiers;
use crate::recipe::{Template, Variables, Zones, did_you_mean, zone_named};

/// Most accounts that have a zone of their own.
const ACCOUNTS_MAX: usize = 100_000;
const HINT: &str = "zone = \"Asia/Seoul\", \"{zone}\" for a parameter, or { default = \"UTC\", tiers = { kr = \"Asia/Seoul\" }, accounts = { act_1 = \"Europe/Berlin\" } }";

pub(super) fn zone(
    section: &mut Section<'_>,
    tiers: &Tiers,
    allowed: &Variables<'_>,
) -> Option<Zones> {
    let value = section.take("zone")?;
    if let ValueKind::String(text) = &value.kind {
        let usual = one(section, "zone", text, allowed)?;
        return Some(Zones { usual, accounts: BTreeMap::new(), tiers: BTreeMap::new() });
    }
    if !matches!(value.kind, ValueKind::Table(_)) {
        let message = format!("{} where a time zone belongs", kind_of(&value));
        section.mistake(Code::WrongType, "zone", message, HINT);
        return None;
    }
    let mut table = section.section_of("zone", value)?;
    let usual = table.text("default").unwrap_or_else(|| "UTC".to_owned());
    let usual = one(&table, "default", &usual, allowed);
    let mut zones = Zones { usual: usual?, accounts: BTreeMap::new(), tiers: BTreeMap::new() };
    for (name, zone) in named(&mut table, "tiers", allowed) {
        let known = || tiers.tiers.iter().map(|(name, _)| name.as_str());
        if known().any(|tier| tier == name) {
            zones.tiers.insert(name, zone);
        } else {
            let message =
                format!("there is no tier `{}`{}", preview(&name), did_you_mean(&name, known()));
            table.mistake(BAD, &format!("tiers.{name}"), message, "declare it in `tiers`");
        }
    }
    for (name, zone) in named(&mut table, "accounts", allowed) {
        match Account::new(&name) {
            Ok(account) => _ = zones.accounts.insert(account, zone),
            Err(reason) => {
                table.mistake(Code::BadName, &format!("accounts.{name}"), reason.clone(), "");
            }
        }
    }
    table.finish();
    Some(zones)
}

fn named(
    table: &mut Section<'_>,
    name: &'static str,
    allowed: &Variables<'_>,
) -> Vec<(String, Template)> {
    let Some(mut table) = table.section(name) else { return Vec::new() };
    let entries = table.entries();
    if entries.len() > ACCOUNTS_MAX {
        let message = format!("{} entries, at most {ACCOUNTS_MAX} are allowed", entries.len());
        table.report().mistake(Code::TooMany, table.path(), message, "");
        return Vec::new();
    }
    let mut zones = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let ValueKind::String(text) = &value.kind else {
            let message = format!("{} where a time zone belongs", kind_of(&value));
            table.mistake(Code::WrongType, &name, message, HINT);
            continue;
        };
        if let Some(zone) = one(&table, &name, text, allowed) {
            zones.push((name, zone));
        }
    }
    zones
}

fn one(section: &Section<'_>, name: &str, text: &str, allowed: &Variables<'_>) -> Option<Template> {
    let template = template(section, name, text, allowed)?;
    let names = template.names();
    if let Some(dated) = names.iter().find(|name| matches!(&***name, "today" | "now")) {
        let message = format!("`{dated}` is what the zone is needed for");
        section.mistake(BAD, name, message, HINT);
        return None;
    }
    if names.is_empty() && !text.contains('{') && zone_named(text).is_none() {
        let message = format!("there is no time zone `{}`", preview(text));
        section.mistake(BAD, name, message, HINT);
        return None;
    }
    Some(template)
}
