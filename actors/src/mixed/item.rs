//! One limit with all that counts by it, and which of two is the stricter.

use std::sync::Arc;

use tollgate_gate::{Cost, Limit, LimitError, LimitSet, Rule, Span};

use super::form::{OfCost, OfLimit};
use crate::calendar::Resets;
use crate::costs::{ApiCosts, Costs, Counts, Kept};
use crate::plan::{Counted, Platform};
use crate::recipe::Template;

/// A limit taken out of its set.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) limit: Limit,
    /// By the numbers of this node's apis.
    costs: Vec<(Cost, Option<Template>)>,
    counts: Counts,
    free_pages: bool,
    kept: Kept,
    /// Its name, and what tells it apart from others of that name.
    pub(super) tag: String,
}

/// The limits of a set of this node's own, by their places.
pub(super) fn items(platform: &Platform, set: &LimitSet, costs: &Costs) -> Vec<Item> {
    let one = |place: usize| {
        let of_api = |number: usize| {
            let own = costs.apis.get(number);
            let usual = own.and_then(|own| own.usual.get(place)).copied().unwrap_or(Cost::ONE);
            let mut templates = own.iter().flat_map(|own| &own.templates);
            let template = templates.find(|(at, _)| *at == place);
            (usual, template.map(|(_, template)| template.clone()))
        };
        let counts = costs.counts.iter().find(|(at, _)| *at == place);
        Item {
            limit: set.limits()[place].clone(),
            costs: (0..platform.apis.len()).map(of_api).collect(),
            counts: counts.map(|(_, counts)| *counts).unwrap_or_default(),
            free_pages: costs.free_pages.contains(&place),
            kept: costs.kept.get(place).copied().unwrap_or_default(),
            tag: OfLimit::of(platform, set, costs, place).tag(),
        }
    };
    (0..set.limits().len()).map(one).collect()
}

/// Another node's limit as it counts the calls of this node; `Ok(None)`: it counts none of them.
///
/// # Errors
/// It says what this program does not know.
pub(super) fn item(
    own: &Platform,
    resets: &mut Vec<Resets>,
    other: &OfLimit,
) -> Result<Option<Item>, &'static str> {
    let api = match &other.api {
        None => None,
        // An api that this node does not have: it never calls it.
        Some(name) => match own.api(name) {
            Some((number, _)) => Some(number),
            None => return Ok(None),
        },
    };
    let calendar = |wanted: Resets| {
        let place = resets.iter().position(|known| *known == wanted).unwrap_or_else(|| {
            resets.push(wanted);
            resets.len() - 1
        });
        u16::try_from(place).ok()
    };
    let rule =
        other.rule.rule(calendar).ok_or("it names a time of day or a zone that is not known")?;
    let limit =
        Limit { name: other.name.clone(), per_api: other.per_api, api, rule, guard: other.guard() };
    let of_api = |api: &crate::plan::Api| {
        let said = other.costs.get(api.name.as_str()).unwrap_or(&other.cost);
        cost(own, api.name.as_str(), rule, said)
    };
    Ok(Some(Item {
        limit,
        costs: own.apis.iter().map(of_api).collect(),
        counts: other.counts(),
        free_pages: other.free_pages,
        kept: Kept { reserve: other.reserve, beyond: other.beyond },
        tag: other.tag(),
    }))
}

/// What a call costs by another node's limit. Never more than the limit has: no fetch ends dead for what another node
/// says. A template is used where this node has the same for its own call; any other counts as the whole limit.
fn cost(own: &Platform, api: &str, rule: Rule, said: &OfCost) -> (Cost, Option<Template>) {
    let capped = |units: u32| Cost { units: units.min(rule.max()), is_estimate: said.estimate };
    let Some(text) = &said.template else { return (capped(said.units), None) };
    let number = own.api(api).map_or(0, |(number, _)| usize::from(number));
    let budgets =
        own.budgets.iter().map(|budget| (&*budget.counted.limits, &*budget.counted.costs));
    let sets = std::iter::once((&*own.limits, &own.costs)).chain(budgets);
    let known = sets.flat_map(|(set, costs)| {
        let templates = costs.apis.get(number).into_iter().flat_map(|own| &own.templates);
        templates.filter_map(|(place, template)| Some((set.limits().get(*place)?, template)))
    });
    // Where it gives more than this limit has, that one refuses it anyway.
    let mut known = known.filter(|(limit, _)| limit.rule.max() <= rule.max());
    match known.find(|(_, template)| template.text() == text) {
        Some((_, template)) => (capped(said.units), Some(template.clone())),
        None => (capped(u32::MAX), None),
    }
}

impl Item {
    /// Whatever this one allows, the other allows too. Where that is not certain, it is not so.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let (own, wide) = (&self.limit, &other.limit);
        let same_calls = own.api == wide.api && (own.per_api == wide.per_api || wide.per_api);
        let costs = |item: &Self| -> Vec<(Cost, Option<String>)> {
            let text = |template: &Template| template.text().to_owned();
            item.costs.iter().map(|(cost, own)| (*cost, own.as_ref().map(text))).collect()
        };
        let same_costs = self.counts == other.counts
            && self.free_pages == other.free_pages
            && costs(self) == costs(other);
        let guard = |limit: &Limit| limit.window().and_then(|window| limit.guard.span(window));
        let guarded = match (guard(own), guard(wide)) {
            (None, _) => true,
            (Some(own), Some(wide)) => own >= wide,
            (Some(_), None) => wide.window().is_none(),
        };
        same_calls && same_costs && guarded && rule_within(own.rule, wide.rule)
    }

    /// Keeps back what either keeps back.
    pub(super) fn keeps_as(&mut self, other: &Self) {
        self.kept.reserve = self.kept.reserve.max(other.kept.reserve);
        self.kept.beyond = self.kept.beyond.max(other.kept.beyond);
    }
}

/// Whether one rule allows nothing that the other does not.
fn rule_within(own: Rule, wide: Rule) -> bool {
    match (own, wide) {
        (Rule::Every { .. } | Rule::Sliding { .. }, Rule::Every { .. } | Rule::Sliding { .. }) => {
            let (window, wider) = (length(own), length(wide));
            own.max() <= wide.max() && window >= wider
        }
        (Rule::Concurrent { max }, Rule::Concurrent { max: most }) => max <= most,
        (
            Rule::Bucket { burst, rate, per },
            Rule::Bucket { burst: most, rate: faster, per: wide },
        ) => {
            let flows = u128::from(rate.get()) * u128::from(wide.0);
            burst <= most && flows <= u128::from(faster.get()) * u128::from(per.0)
        }
        (
            Rule::Calendar { max, window, slack, calendar },
            Rule::Calendar { max: most, window: wide, slack: less, calendar: same },
        ) => calendar == same && window == wide && max <= most && slack >= less,
        // Windows of other lengths begin at other times.
        (Rule::FirstUse { max, window }, Rule::FirstUse { max: most, window: wide }) => {
            max <= most && window == wide
        }
        (
            Rule::Score { max, decay, block },
            Rule::Score { max: most, decay: faster, block: shorter },
        ) => max <= most && decay >= faster && block >= shorter,
        (Rule::Jobs { max, ttl }, Rule::Jobs { max: most, ttl: shorter }) => {
            max <= most && ttl >= shorter
        }
        _ => false,
    }
}

fn length(rule: Rule) -> Span {
    match rule {
        Rule::Every { gap: window } | Rule::Sliding { window, .. } => window,
        _ => Span::ZERO,
    }
}

/// Items as a set again, each at its place.
///
/// # Errors
/// They make no set: a fault of whoever put them together, or of another node's text.
pub(super) fn counted(own: &Platform, items: &[Item]) -> Result<Counted, LimitError> {
    let names: Vec<String> = own.apis.iter().map(|api| api.name.to_string()).collect();
    let of_api = |number: usize| {
        let usual: Vec<Cost> = items.iter().map(|item| item.costs[number].0).collect();
        let template = |(place, item): (usize, &Item)| Some((place, item.costs[number].1.clone()?));
        let templates: Vec<_> = items.iter().enumerate().filter_map(template).collect();
        let plain = templates.is_empty() && usual.iter().all(|cost| *cost == Cost::ONE);
        ApiCosts { usual: if plain { Vec::new() } else { usual }, templates }
    };
    let placed = || items.iter().enumerate();
    let counts = placed().filter(|(_, item)| item.counts != Counts::Units);
    let costs = Costs {
        apis: (0..own.apis.len()).map(of_api).collect(),
        counts: counts.map(|(place, item)| (place, item.counts)).collect(),
        free_pages: placed().filter(|(_, item)| item.free_pages).map(|(at, _)| at).collect(),
        kept: items.iter().map(|item| item.kept).collect(),
    };
    let limits = LimitSet::new(items.iter().map(|item| item.limit.clone()).collect())?;
    let weighings = (0..items.len()).map(|place| costs.weighing(place, &names)).collect();
    let known_as = items.iter().map(|item| item.tag.clone()).collect();
    let limits = limits.with_apis(names)?.with_weighings(weighings).with_known_as(known_as);
    Ok(Counted { limits: Arc::new(limits), costs: Arc::new(costs) })
}
