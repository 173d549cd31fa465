//! How an api is called beyond its URL, for people.

use std::fmt::{self, Write};

use super::values::show;
use crate::plan::{Api, Platform};
use crate::recipe::{Body, Given, Lists, Pair, Zones};

/// A pair as it was declared: `ids={ids} (repeated)`.
pub(super) struct InWords<'a>(pub(super) &'a Pair);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pair { name, value, lists, .. } = self.0;
        let end = match lists {
            Some(Lists::Brackets) => "[]",
            Some(Lists::Indices) => "[0]",
            _ => "",
        };
        match value {
            Given::One(template) => write!(f, "{name}{end}={template}")?,
            Given::Json(json) => write!(f, "{name}={}", json.written())?,
            Given::Several(templates) => {
                for (i, template) in templates.iter().enumerate() {
                    match lists {
                        Some(Lists::Joined(sign)) if i > 0 => write!(f, "{sign}{template}")?,
                        _ if i == 0 => write!(f, "{name}{end}={template}")?,
                        _ => write!(f, "&{name}{end}={template}")?,
                    }
                }
            }
        }
        match lists {
            Some(Lists::Joined(sign)) if matches!(value, Given::One(_)) => write!(f, "{sign}…"),
            Some(_) if matches!(value, Given::One(_)) => write!(f, "&{name}{end}=…"),
            _ => Ok(()),
        }
    }
}

/// Body, long queries and zone.
pub(super) fn write_request(out: &mut String, platform: &Platform, api: &Api) -> fmt::Result {
    match &api.body {
        None => {}
        Some(body @ Body::Json(json)) => {
            writeln!(out, "    body, {}: {}", body.kind(), json.written())?;
        }
        Some(body @ Body::Form(pairs)) => {
            let pairs: Vec<String> = pairs.iter().map(|pair| InWords(pair).to_string()).collect();
            writeln!(out, "    body, {}: {}", body.kind(), pairs.join("&"))?;
        }
        Some(Body::Text { text, kind }) => writeln!(out, "    body, {kind}: {text}")?,
    }
    if let Some(long) = &api.long_query {
        write!(out, "    a URL over {} bytes: the query goes as the form of a POST", long.over)?;
        match &long.header {
            Some(header) => writeln!(out, ", {header}: {}", api.method)?,
            None => writeln!(out)?,
        }
    }
    if let Some(fresh) = api.fresh_for {
        writeln!(out, "    an object younger than {} is used instead of a call", show(fresh))?;
    }
    if let Some(complete) = &api.complete {
        write!(out, "    every day of `{}` is expected", complete.param)?;
        if complete.restate_days > 0 {
            write!(out, ", and collected again for {} days", complete.restate_days)?;
        }
        writeln!(out)?;
    }
    if let Some(zone) = api.zone.as_ref().or(platform.zone.as_ref()) {
        write_zone(out, zone)?;
    }
    Ok(())
}

fn write_zone(out: &mut String, zones: &Zones) -> fmt::Result {
    write!(out, "    days are those of {}", zones.usual)?;
    for (tier, zone) in &zones.tiers {
        write!(out, ", of tier {tier} {zone}")?;
    }
    match zones.accounts.len() {
        0 => writeln!(out),
        1 => writeln!(out, ", 1 account has its own"),
        several => writeln!(out, ", {several} accounts have their own"),
    }
}
