//! What calls cost: `cost` of limits and `costs` of apis, brought together by api and limit.

use ::config::ValueKind;
use http::Method;
use tollgate_gate::{Cost, Limit, Rule};

use super::BAD;
use super::limits::Declared;
use super::pairs::template;
use super::rules::{Price, units_of};
use super::section::{Section, kind_of};
use crate::codes::Code;
use crate::costs::{ApiCosts, Costs, Counts, Kept};
use crate::recipe::{Template, Variables, did_you_mean};

/// What `cost` and `counts` of one limit say.
#[derive(Debug, Clone, Copy)]
pub(super) struct LimitCost {
    pub(super) counts: Counts,
    pub(super) cost: Option<Price>,
    /// Only the first page of a read counts.
    pub(super) free_pages: bool,
    pub(super) kept: Kept,
}

/// What `costs` of one api says of one limit.
#[derive(Debug, Clone)]
pub(super) enum ApiCost {
    Units(u32),
    Template(Template),
}

/// The table `costs` of an api: limits by their names.
pub(super) fn api_costs(
    section: &mut Section<'_>,
    limits: &[Declared],
    api: u16,
    allowed: &Variables<'_>,
) -> Vec<(usize, ApiCost)> {
    let Some(mut table) = section.section("costs") else { return Vec::new() };
    let mut costs = Vec::new();
    for (name, value) in table.entries() {
        let mine = |own: &&Declared| own.limit.limit.api.is_none_or(|only| only == api);
        let place = limits.iter().position(|own| own.name() == name && mine(&own));
        let Some(place) = place else {
            let known: Vec<&str> = limits.iter().filter(mine).map(Declared::name).collect();
            let near = did_you_mean(&name, known.iter().copied());
            let message = format!("there is no limit `{name}` here{near}");
            table.mistake(BAD, &name, message, format!("one of {}", known.join(", ")));
            continue;
        };
        let most = limits[place].limit.limit.rule.max();
        match (&value.kind, units_of(&value)) {
            (_, Some(units)) if units > most => {
                let message = format!(
                    "a call costs {units} and the limit allows {most}: no call could ever go"
                );
                table.mistake(Code::ImpossibleLimit, &name, message, "");
            }
            (_, Some(units)) => costs.push((place, ApiCost::Units(units))),
            (ValueKind::String(text), None) if text.contains('{') => {
                if let Some(template) = template(&table, &name, text, allowed) {
                    costs.push((place, ApiCost::Template(template)));
                }
            }
            _ => {
                let message = format!("{} where a number of units belongs", kind_of(&value));
                let hint =
                    "a whole number, 0 is free; or a template that gives one: \"{ids|length}\"";
                table.mistake(Code::WrongType, &name, message, hint);
            }
        }
    }
    costs
}

/// Brings together what limits and apis say; `of_apis` by the places of these limits, with the apis' methods.
pub(super) fn costs(
    of_limits: &[LimitCost],
    of_apis: Vec<(Method, Vec<(usize, ApiCost)>)>,
) -> Costs {
    let apis = of_apis.into_iter().map(|(method, own)| {
        let usual = of_limits.iter().map(|own| {
            let units = own.cost.map(|cost| cost.of(&method));
            match own.counts {
                Counts::Units => units.map_or(Cost::ONE, Cost::of),
                Counts::Bytes { .. } => Cost::about(units.unwrap_or(1)),
                Counts::Errors => Cost::about(1),
            }
        });
        let mut costs = ApiCosts { usual: usual.collect(), templates: Vec::new() };
        for (place, cost) in own {
            match cost {
                // Free is free: nothing is settled then.
                ApiCost::Units(0) => costs.usual[place] = Cost::FREE,
                ApiCost::Units(units) => costs.usual[place].units = units,
                ApiCost::Template(template) => costs.templates.push((place, template)),
            }
        }
        if costs.templates.is_empty() && costs.usual.iter().all(|cost| *cost == Cost::ONE) {
            costs.usual.clear();
        }
        costs
    });
    let counts = of_limits.iter().enumerate().filter(|(_, own)| own.counts != Counts::Units);
    let free_pages = of_limits.iter().enumerate().filter(|(_, own)| own.free_pages);
    Costs {
        apis: apis.collect(),
        counts: counts.map(|(place, own)| (place, own.counts)).collect(),
        kept: of_limits.iter().map(|own| own.kept).collect(),
        free_pages: free_pages.map(|(place, _)| place).collect(),
    }
}

/// Two limits of one key of which one makes the other meaningless: most likely a slip. All of `limits` count by the
/// same key but for the api.
pub(super) fn contradictions(section: &Section<'_>, limits: &[&Declared]) {
    let window = |limit: &Limit| match limit.rule {
        Rule::Sliding { max, window } => Some((max.get(), window)),
        _ => None,
    };
    for (place, declared) in limits.iter().enumerate() {
        let limit = &declared.limit.limit;
        let Some((max, length)) = window(limit) else { continue };
        for (other_place, other_declared) in limits.iter().enumerate() {
            let other = &other_declared.limit.limit;
            let Some((other_max, other_length)) = window(other) else { continue };
            let cost = |declared: &Declared| (declared.limit.cost.cost, declared.limit.cost.counts);
            let same_key = (limit.per_api, limit.api) == (other.per_api, other.api);
            let same_cost = cost(declared) == cost(other_declared);
            if place == other_place || !same_key || !same_cost {
                continue;
            }
            let message = if length == other_length && place < other_place {
                format!(
                    "`{}` and `{}` count the same calls in the same window",
                    limit.name, other.name
                )
            } else if length < other_length && max > other_max {
                format!(
                    "`{}` allows {max} and `{}` only {other_max} in a longer window: it can never be used up",
                    limit.name, other.name
                )
            } else {
                continue;
            };
            let hint = "one of the two is mistyped, or not needed";
            let later = limits[place.max(other_place)];
            section.report().mistake(Code::ImpossibleLimit, &later.path, message, hint);
        }
    }
}
