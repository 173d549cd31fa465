//! Tables of limits: one for a platform, one for each of its apis.

use std::time::Duration;

use ::config::ValueKind;
use tollgate_gate::{ApiIx, Guard, Limit, Span};

use super::BAD;
use super::rules::{Ruled, rule};
use super::section::{Section, kind_of};
use super::weights::LimitCost;
use crate::calendar::Resets;
use crate::codes::Code;
use crate::ids::{Slug, preview};

/// Bounds of a guard.
const GUARD_MIN: Duration = Duration::ZERO;
const GUARD_MAX: Duration = Duration::from_secs(3600);

/// The limits of a platform, its apis' included, as far as they are understood.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) limits: Vec<Limit>,
    /// By the places of the limits.
    pub(super) costs: Vec<LimitCost>,
    /// By the numbers in their rules.
    pub(super) resets: Vec<Resets>,
}

/// The table `limits` of a section, added to those that are declared already. `api` is given for an api's own
/// limits.
pub(super) fn limits(
    section: &mut Section<'_>,
    api: Option<ApiIx>,
    guard: Guard,
    declared: &mut Declared,
) {
    let Some(mut table) = section.section("limits") else { return };
    for (name, value) in table.entries() {
        if let Err(reason) = Slug::new(&name) {
            table.mistake(Code::BadName, &name, reason, "");
            continue;
        }
        let Some(entry) = table.section_of(&name, value) else { continue };
        limit(entry, name, api, guard, declared);
    }
}

fn limit(
    mut entry: Section<'_>,
    name: String,
    api: Option<ApiIx>,
    above: Guard,
    declared: &mut Declared,
) {
    let per_api = per(&mut entry);
    for kind in ["concurrent", "jobs"] {
        if entry.has("guard") && entry.has(kind) {
            let message = "calls in flight are counted until their end: a guard means nothing here";
            entry.mistake(BAD, "guard", message, "leave it out");
        }
    }
    let guard = guard(&mut entry).unwrap_or(above);
    let ruled = rule(&mut entry, &mut declared.resets);
    entry.finish();
    let (Some(Ruled { rule, counts, cost }), Some(per_api)) = (ruled, per_api) else { return };
    // Within an api there is nothing left to tell apart.
    declared.limits.push(Limit { name, per_api: per_api && api.is_none(), api, rule, guard });
    declared.costs.push(LimitCost { counts, cost });
}

/// `per`: whether each api is counted separately.
fn per(entry: &mut Section<'_>) -> Option<bool> {
    let hint = "per = [\"account\"] counts all calls of an account together, per = [\"account\", \"api\"] those of each api";
    if !entry.has("per") {
        entry.take("per");
        entry.mistake(Code::MissingKey, "per", "`per` is missing", hint);
        return None;
    }
    let mut dims = entry.list("per")?;
    dims.sort_unstable();
    let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
    match dims.as_slice() {
        ["account"] => Some(false),
        ["account", "api"] => Some(true),
        _ if dims
            .iter()
            .all(|d| ["account", "api", "platform", "app", "token", "ip"].contains(d))
            && !dims.is_empty()
            && dims.windows(2).all(|pair| pair[0] != pair[1]) =>
        {
            let message = format!("limits per {} are not supported yet", dims.join(" and "));
            entry.mistake(Code::NotSupported, "per", message, hint);
            None
        }
        _ => {
            let message = format!("limits cannot be per `{}`", preview(&dims.join(", ")));
            entry.mistake(BAD, "per", message, hint);
            None
        }
    }
}

/// The key `guard` of a platform or a limit.
pub(super) fn guard(section: &mut Section<'_>) -> Option<Guard> {
    let value = section.take("guard")?;
    match &value.kind {
        ValueKind::String(text) if text == "never" => return Some(Guard::Never),
        ValueKind::String(_) | ValueKind::I64(_) | ValueKind::Float(_) => {}
        _ => {
            let message = format!("{} where a duration or \"never\" belongs", kind_of(&value));
            section.mistake(Code::WrongType, "guard", message, "");
            return None;
        }
    }
    let duration =
        section.duration_of("guard", &value, GUARD_MIN..=GUARD_MAX, Code::BadDuration)?;
    Some(Guard::After(Span::from(duration)))
}
