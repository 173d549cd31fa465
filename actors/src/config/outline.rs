//! What was understood of the platforms of a configuration, for programs. Neither secrets nor headers are in it.

use serde::{Deserialize, Serialize};
use tollgate_gate::Limit;

use super::describe::{Set, in_words_when, of_budget};
use crate::plan::{Dim, Plan, Platform};

/// A platform as it is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformOutline {
    /// Its name.
    pub name: String,
    /// Where its calls go.
    pub base_url: String,
    /// The limits that all of its apis are under.
    pub limits: Vec<LimitOutline>,
    /// Its apis, in the order of the configuration.
    pub apis: Vec<ApiOutline>,
}

/// An api as it is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiOutline {
    /// Its name.
    pub name: String,
    /// How it is called.
    pub method: String,
    /// Where, with its templates as they are written; below the platform's base URL unless it says a host.
    pub path: String,
    /// The limits that it has beside the platform's.
    pub limits: Vec<LimitOutline>,
}

/// A limit as it is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitOutline {
    /// Its name.
    pub name: String,
    /// What has a count of its own: `account`, `api`, or what a budget is kept by.
    pub per: Vec<String>,
    /// The limit as a sentence, as `tollgate check` has it.
    pub rule: String,
    /// Whether it is wider than an account, so that nodes share it.
    pub budget: bool,
    /// Those for whom it has other values, and these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub special: Vec<SpecialOutline>,
}

/// The same limit for an account, or a tier, with values of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialOutline {
    /// For whom.
    pub of: String,
    /// The limit as a sentence.
    pub rule: String,
}

/// The platforms of a plan, by name.
pub fn outline(plan: &Plan) -> Vec<PlatformOutline> {
    let platforms = plan.platforms.values().map(|platform| {
        let apis = platform.apis.iter().enumerate().map(|(number, api)| ApiOutline {
            name: api.name.to_string(),
            method: api.method.to_string(),
            path: api.path.to_string(),
            limits: limits(platform, Some(number)),
        });
        PlatformOutline {
            name: platform.name.to_string(),
            base_url: platform.base_url.to_string(),
            limits: limits(platform, None),
            apis: apis.collect(),
        }
    });
    platforms.collect()
}

fn limits(platform: &Platform, api: Option<usize>) -> Vec<LimitOutline> {
    let resets = &platform.resets;
    let own = Set { limits: &platform.limits, costs: &platform.costs, resets };
    let special = platform.special.iter();
    let special: Vec<_> = special
        .map(|(of, one)| (of, Set { limits: &one.limits, costs: &one.costs, resets }))
        .collect();
    let mut all = Vec::new();
    for (place, limit) in own.of(api) {
        let mut per = vec!["account".to_owned()];
        let whose = match (limit.api, limit.per_api) {
            (Some(_), _) => "per account, of this api's calls",
            (None, true) => {
                per.push("api".to_owned());
                "per account and api"
            }
            (None, false) => "per account",
        };
        all.push(told(&own, &special, place, limit, per, whose, ""));
    }
    for budget in &platform.budgets {
        let own = of_budget(&budget.counted, resets);
        let special = budget.special.iter().map(|(of, one)| (of, of_budget(one, resets)));
        let special: Vec<_> = special.collect();
        let per: Vec<String> = budget.dims.iter().map(Dim::to_string).collect();
        let whose = format!("per {}", per.join(" and "));
        let when = in_words_when(&budget.when);
        for (place, limit) in own.of(api) {
            let one = told(&own, &special, place, limit, per.clone(), &whose, &when);
            all.push(LimitOutline { budget: true, ..one });
        }
    }
    all
}

fn told(
    own: &Set<'_>,
    special: &[(String, Set<'_>)],
    place: usize,
    limit: &Limit,
    per: Vec<String>,
    whose: &str,
    when: &str,
) -> LimitOutline {
    let rule = format!("{}{when}", own.in_words(place, limit, whose));
    let others = special.iter().filter_map(|(of, set)| {
        let other =
            format!("{}{when}", set.in_words(place, set.limits.limits().get(place)?, whose));
        (other != rule).then(|| SpecialOutline { of: of.clone(), rule: other })
    });
    let special = others.collect();
    LimitOutline { name: limit.name.clone(), per, rule, budget: false, special }
}
