//! What a call costs under each limit of its platform: the units that the gate is told.
//!
//! Mostly one. A limit may say otherwise for all its calls, an api for its own, and what an api says may depend on
//! the parameters of a fetch. Where the cost is known only afterwards, a guess is charged until then.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use tollgate_gate::{ApiIx, Cost, LimitSet};

use crate::codes::Code;
use crate::ids::preview;
use crate::plan::Platform;
use crate::recipe::{FetchContext, Refusal, Template, render};

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Counts {
    /// Units that are known before the call.
    #[default]
    Units,
    /// Bytes of the answer's body, known once it was read.
    Bytes {
        /// So many of them are one unit, rounded up: a unit is one byte unless a limit is above 4 GB.
        unit: u64,
    },
    /// Answers with a status from 500 on, and calls without an answer.
    Errors,
}

/// What of a limit, as its provider tells it, is not for this deployment's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Units that are left to humans and other tools.
    pub reserve: u32,
    /// By how many units the provider's limit is wider than the one that calls go by: the reserve, and the shares
    /// of others.
    pub beyond: u32,
}

/// What the calls of one api cost.
#[derive(Debug, Clone, Default)]
pub struct ApiCosts {
    /// By the places of the limits; empty: one everywhere.
    pub usual: Vec<Cost>,
    /// At these places of `usual` the parameters of the fetch decide.
    pub templates: Vec<(usize, Template)>,
}

/// What the calls of a platform cost.
#[derive(Debug, Clone, Default)]
pub struct Costs {
    /// By the numbers of the apis.
    pub apis: Vec<ApiCosts>,
    /// What limits count that do not count units known before, with their places.
    pub counts: Vec<(usize, Counts)>,
    /// The places of the limits that count only the first page of a read.
    pub free_pages: Vec<usize>,
    /// What is kept of limits, by their places.
    pub kept: Vec<Kept>,
}

impl Costs {
    /// What is known of a call whose fetch has not been read.
    pub fn usual(&self, api: ApiIx) -> &[Cost] {
        self.apis.get(usize::from(api)).map_or(&[], |costs| &costs.usual)
    }

    /// A number for how the limit at that place weighs calls, of apis of these names: the same for limits that give
    /// every call the same cost, 0 where each is one.
    pub(crate) fn weighing(&self, place: usize, apis: &[String]) -> u64 {
        let of = |costs: &ApiCosts| {
            let usual = costs.usual.get(place).copied().unwrap_or(Cost::ONE);
            let mut templates = costs.templates.iter();
            let template = templates.find(|(at, _)| *at == place);
            (usual, template.map(|(_, template)| template.text().to_owned()))
        };
        let counts = self.counts.iter().find(|(at, _)| *at == place).map(|(_, counts)| *counts);
        let free_pages = self.free_pages.contains(&place);
        let by_api: Vec<_> = self.apis.iter().map(of).collect();
        let is_one = by_api.iter().all(|(usual, text)| *usual == Cost::ONE && text.is_none());
        if is_one && counts.is_none() && !free_pages {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        format!("{counts:?} {free_pages}").hash(&mut hasher);
        by_api.iter().zip(apis).for_each(|one| one.hash(&mut hasher));
        hasher.finish().max(1)
    }

    /// Whether some costs of this platform's calls are known only afterwards.
    pub fn are_settled(&self) -> bool {
        !self.counts.is_empty()
    }

    /// What the call of a later page of a read costs, where its first one costs this.
    pub(crate) fn of_later_page<'a>(
        &self,
        limits: &LimitSet,
        costs: Cow<'a, [Cost]>,
    ) -> Cow<'a, [Cost]> {
        if self.free_pages.is_empty() {
            return costs;
        }
        let mut costs = costs.into_owned();
        costs.resize(limits.limits().len(), Cost::ONE);
        for place in &self.free_pages {
            costs[*place] = Cost::FREE;
        }
        Cow::Owned(costs)
    }

    /// What the call of a fetch costs under these limits, whose costs these are.
    ///
    /// # Errors
    /// A template does not give a whole number.
    pub fn of<'a>(
        &'a self,
        limits: &LimitSet,
        platform: &Platform,
        api: ApiIx,
        fetch: &FetchContext<'_>,
    ) -> Result<Cow<'a, [Cost]>, Refusal> {
        let Some(own) = self.apis.get(usize::from(api)) else { return Ok(Cow::Borrowed(&[])) };
        if own.templates.is_empty() {
            return Ok(Cow::Borrowed(&own.usual));
        }
        let mut costs = own.usual.clone();
        for (place, template) in &own.templates {
            let text = render(template, platform, &platform.apis[usize::from(api)], fetch)?;
            let units = text.trim().parse::<u32>().map_err(|_| {
                let name = limits.limits().get(*place).map_or("", |limit| &limit.name);
                let text = preview(&text);
                let said = template.text();
                Refusal::new(
                    Code::BadCost,
                    format!(
                        "`{said}` gives `{text}`, which is no number of units for limit `{name}`"
                    ),
                )
            })?;
            costs[*place].units = units;
        }
        Ok(Cow::Owned(costs))
    }
}

/// Refuses a fetch that no limit would ever let through.
///
/// # Errors
/// It costs more than a limit ever allows.
pub fn check(limits: &LimitSet, api: ApiIx, costs: &[Cost]) -> Result<(), Refusal> {
    match too_much(limits, api, costs) {
        None => Ok(()),
        Some((place, most)) => {
            let name = &limits.limits()[place].name;
            let units = costs[place].units;
            let reason = format!("it costs {units} of limit `{name}`, which allows {most} at most");
            Err(Refusal::new(Code::BadCost, reason))
        }
    }
}

/// The first limit that a call costs more than it can have, and what that is.
pub(crate) fn too_much(limits: &LimitSet, api: ApiIx, costs: &[Cost]) -> Option<(usize, u32)> {
    let counted = limits.limits().iter().zip(costs).enumerate();
    counted
        .filter(|(_, (limit, _))| limit.api.is_none_or(|own| own == api))
        .map(|(place, (limit, cost))| (place, limit.rule.max(), cost.units))
        .find(|(_, most, units)| units > most)
        .map(|(place, most, _)| (place, most))
}
