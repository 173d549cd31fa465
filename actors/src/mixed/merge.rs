//! This node's limits with those of other nodes: every call that the result lets go, each of them lets go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tollgate_gate::{CALENDARS_MAX, LIMITS_MAX, LimitError};

use super::Limits;
use super::form::{OfLimit, OfPlatform, OfSet};
use super::item::{Item, counted, item, items};
use crate::calendar::Resets;
use crate::config::{budget_id, generation};
use crate::costs::Costs;
use crate::ids::Account;
use crate::plan::{Budget, Counted, Dim, Plan, Platform, Special, When};

/// What of another node's limits is not in force here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unheeded {
    /// Of which platform.
    pub platform: String,
    /// Which limit, or what else.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// A plan with the limits of others beside its own, and what of these cannot be in force.
///
/// Platforms and apis that only others know are theirs alone. A platform whose limits are the same everywhere stays
/// the same thing.
pub fn mixed(own: &Plan, others: &[Arc<Limits>]) -> (Plan, Vec<Unheeded>) {
    let mut plan = own.clone();
    let mut unheeded = Vec::new();
    for (name, platform) in &mut plan.platforms {
        let ours = OfPlatform::of(platform);
        let theirs = others.iter().filter_map(|other| other.platforms.get(name.as_str()));
        let theirs: Vec<&OfPlatform> = theirs.filter(|theirs| **theirs != ours).collect();
        if !theirs.is_empty() {
            let mut merge = Merge {
                own: platform,
                tiers: ours.tiers,
                resets: platform.resets.clone(),
                unheeded: &mut unheeded,
            };
            *platform = Arc::new(merge.with(&theirs));
        }
    }
    unheeded.sort_unstable();
    unheeded.dedup();
    (plan, unheeded)
}

/// Names the limits of a platform for records, as every node does that may meet others with different ones.
pub(crate) fn named(platform: &mut Platform) {
    let name = |platform: &Platform, own: &Counted| {
        let items = items(platform, &own.limits, &own.costs);
        let tags = items.into_iter().map(|item| item.tag).collect();
        Arc::new(own.limits.as_ref().clone().with_known_as(tags))
    };
    let of = platform.clone();
    let counted = |own: Counted| Counted { limits: name(&of, &own), costs: own.costs };
    let own = |own: &Platform| {
        let costs = Arc::new(own.costs.clone());
        name(&of, &Counted { limits: Arc::clone(&own.limits), costs })
    };
    platform.limits = own(&of);
    for budget in &mut platform.budgets {
        budget.counted = counted(budget.counted.clone());
        budget.special = std::mem::take(&mut budget.special).map(counted);
    }
    let budgets = platform.budgets.clone();
    platform.special = std::mem::take(&mut platform.special).map(|special| {
        let limits = own(&special);
        Arc::new(Platform { limits, budgets: budgets.clone(), ..Platform::clone(&special) })
    });
}

struct Merge<'a> {
    own: &'a Platform,
    /// Which accounts of this node are in which tier, if any limit asks.
    tiers: Option<String>,
    resets: Vec<Resets>,
    unheeded: &'a mut Vec<Unheeded>,
}

/// The limits of one key, of one node.
struct Set {
    base: Vec<Item>,
    values: BTreeMap<String, Vec<Item>>,
    tiers: BTreeMap<String, Vec<Item>>,
}

impl Merge<'_> {
    fn with(&mut self, theirs: &[&OfPlatform]) -> Platform {
        let own = self.own;
        let (mut accounts, mut budgets) = (Vec::new(), Vec::new());
        budgets.resize_with(own.budgets.len(), Vec::new);
        let mut new: BTreeMap<String, (Vec<Dim>, When, Vec<Set>)> = BTreeMap::new();
        for theirs in theirs {
            // Where accounts are in other tiers, each goes by the strictest.
            let same_tiers = theirs.tiers.is_none() || theirs.tiers == self.tiers;
            for set in &theirs.sets {
                if set.is_accounts() {
                    accounts.push(self.set(set, same_tiers));
                    continue;
                }
                let (Some(dims), Some(when)) = (set.dims(), set.when()) else {
                    self.leave_out(&set.limits, "it counts by what this version does not know");
                    continue;
                };
                if let Some(dim) = dims.iter().find(|dim| !self.has_same_key(dim, theirs)) {
                    let reason = format!("`keys.{dim}` is otherwise here");
                    self.leave_out(&set.limits, &reason);
                    continue;
                }
                let id = budget_id(&dims, &when);
                let read = self.set(set, same_tiers);
                match own.budgets.iter().position(|budget| budget.id == id) {
                    Some(place) => budgets[place].push(read),
                    None => new.entry(id).or_insert_with(|| (dims, when, Vec::new())).2.push(read),
                }
            }
        }
        // Those of this node keep their places: what answers tell of limits is by place.
        let known = own.budgets.iter().zip(&budgets).map(|(budget, theirs)| {
            let mine = own_set(own, &budget.counted, &budget.special);
            let (counted, special) = self.merged(&budget.dims, &mine, theirs, &budget.counted);
            Budget { counted, special, ..budget.clone() }
        });
        let mut all: Vec<Budget> = known.collect();
        for (id, (dims, when, theirs)) in new {
            let none = Counted::default();
            let mine = own_set(own, &none, &Special::default());
            let (counted, special) = self.merged(&dims, &mine, &theirs, &none);
            if !counted.limits.limits().is_empty() {
                all.push(Budget { id, dims, when, counted, special, observed: Vec::new() });
            }
        }
        let costs = Arc::new(own.costs.clone());
        let before = Counted { limits: Arc::clone(&own.limits), costs };
        let special = own.special.clone().map(|own| Counted {
            limits: Arc::clone(&own.limits),
            costs: Arc::new(own.costs.clone()),
        });
        let mine = own_set(own, &before, &special);
        let (counted, special) = self.merged(&[Dim::Account], &mine, &accounts, &before);
        let longest = |own: Duration, of: fn(&OfPlatform) -> u64| {
            let theirs = theirs.iter().map(|theirs| Duration::from_micros(of(theirs)));
            theirs.fold(own, Duration::max)
        };
        let base = Platform {
            limits: counted.limits,
            costs: Arc::unwrap_or_clone(counted.costs),
            budgets: all,
            resets: self.resets.clone(),
            generation: generation(),
            special: Special::default(),
            lost_call: longest(own.lost_call, |theirs| theirs.lost_call_us),
            lost_call_alive: longest(own.lost_call_alive, |theirs| theirs.lost_call_alive_us),
            ..own.clone()
        };
        let of = |own: Counted| {
            let costs = Costs::clone(&own.costs);
            Arc::new(Platform { limits: own.limits, costs, ..base.clone() })
        };
        Platform { special: special.map(of), ..base.clone() }
    }

    /// What a dimension stands for must be the same, or two nodes count the same calls in different budgets.
    fn has_same_key(&self, dim: &Dim, theirs: &OfPlatform) -> bool {
        if !dim.is_declared() {
            return true;
        }
        let mut own = self.own.keys.iter();
        let own = own.find(|(known, _)| known == dim).map(|(_, template)| template.text());
        let theirs = theirs.keys.get(&dim.to_string()).map(String::as_str);
        own == theirs && (own.is_some() || *dim == Dim::Token)
    }

    /// Another node's set.
    fn set(&mut self, of: &OfSet, same_tiers: bool) -> Set {
        let mut base = of.limits.clone();
        let mut tiers = of.tiers.clone();
        if !same_tiers {
            base.extend(std::mem::take(&mut tiers).into_values().flatten());
        }
        let all = |merge: &mut Self, list: &BTreeMap<String, Vec<OfLimit>>| {
            let list = list.iter();
            list.map(|(key, own)| (key.clone(), merge.items(&of.with(own)))).collect()
        };
        let (values, tiers) = (all(self, &of.values), all(self, &tiers));
        Set { base: self.items(&base), values, tiers }
    }

    fn items(&mut self, limits: &[OfLimit]) -> Vec<Item> {
        let mut all = Vec::with_capacity(limits.len());
        for limit in limits {
            match item(self.own, &mut self.resets, limit) {
                Ok(item) => all.extend(item),
                Err(reason) => self.leave_out(std::slice::from_ref(limit), reason),
            }
        }
        if self.resets.len() > CALENDARS_MAX {
            self.resets.truncate(CALENDARS_MAX);
            let kept = |item: &Item| match item.limit.rule {
                tollgate_gate::Rule::Calendar { calendar, .. } => {
                    usize::from(calendar) < CALENDARS_MAX
                }
                _ => true,
            };
            self.leave_out(limits, "windows start anew at too many times");
            all.retain(kept);
        }
        all
    }

    fn leave_out(&mut self, limits: &[OfLimit], reason: &str) {
        for limit in limits {
            let api = limit.api.as_ref().map_or_else(String::new, |api| format!(" of {api}"));
            self.unheeded.push(Unheeded {
                platform: self.own.name.to_string(),
                what: format!("{}{api}", limit.name),
                reason: reason.to_owned(),
            });
        }
    }

    /// The limits of one key with those of others, and what values and tiers have instead. `before`: this node's own.
    fn merged(
        &mut self,
        dims: &[Dim],
        mine: &Set,
        theirs: &[Set],
        before: &Counted,
    ) -> (Counted, Special<Counted>) {
        let (of_account, node) = (dims == [Dim::Account], self.own);
        let tier_of = |value: &str| {
            let account = Account::new(value).ok().filter(|_| of_account)?;
            node.tiers.name_of(&account).map(str::to_owned)
        };
        let all = || std::iter::once(mine).chain(theirs);
        let values: BTreeSet<&String> = all().flat_map(|set| set.values.keys()).collect();
        let tiers: BTreeSet<&String> = all().flat_map(|set| set.tiers.keys()).collect();
        let values: Vec<(String, Option<String>)> =
            values.into_iter().map(|value| (value.clone(), tier_of(value))).collect();
        let base = self.one(&mine.base, theirs.iter().map(|set| set.base.clone()), before);
        let mut special = Special::default();
        for (value, tier) in values {
            let own = mine.of_value(&value, tier.as_deref(), of_account);
            let theirs = theirs.iter().map(|set| set.of_value(&value, tier.as_deref(), of_account));
            let merged = self.one(&own, theirs, before);
            special.values.insert(value, merged);
        }
        for tier in tiers {
            let own = mine.tiers.get(tier).unwrap_or(&mine.base);
            let theirs = theirs.iter().map(|set| set.tiers.get(tier).unwrap_or(&set.base).clone());
            let merged = self.one(own, theirs, before);
            special.tiers.insert(tier.clone(), merged);
        }
        (base, special)
    }

    /// This node's limits, each at its place, and those of others after them.
    fn one(
        &mut self,
        mine: &[Item],
        theirs: impl Iterator<Item = Vec<Item>>,
        before: &Counted,
    ) -> Counted {
        let places = before.limits.limits().len();
        // Beyond its places are other variants of its own limits.
        let (mine, more) = mine.split_at(places.min(mine.len()));
        let mut others = more.to_vec();
        others.extend(theirs.flatten());
        let mut all = strictest(mine.to_vec(), others);
        if all.len() > LIMITS_MAX {
            for left in all.split_off(LIMITS_MAX) {
                let reason = format!("there are {LIMITS_MAX} limits already");
                self.leave_out_item(&left, &reason);
            }
        }
        loop {
            match counted(self.own, &all) {
                Ok(counted) => return counted,
                Err(error) if all.len() > mine.len() => {
                    // What another node's text says cannot be a limit.
                    let bad = self.first_bad(&all, mine.len());
                    let bad = all.remove(bad);
                    self.leave_out_item(&bad, &error.to_string());
                }
                Err(error) => {
                    self.leave_out_item(&all[0].clone(), &LimitError::to_string(&error));
                    return before.clone();
                }
            }
        }
    }

    /// The first of another node's limits that is none.
    fn first_bad(&self, all: &[Item], from: usize) -> usize {
        let is_bad = |place: &usize| counted(self.own, &all[..=*place]).is_err();
        (from..all.len()).find(is_bad).unwrap_or(all.len() - 1)
    }

    fn leave_out_item(&mut self, item: &Item, reason: &str) {
        let platform = self.own.name.to_string();
        let what = item.tag.split('~').next().unwrap_or_default().to_owned();
        self.unheeded.push(Unheeded { platform, what, reason: reason.to_owned() });
    }
}

fn own_set(own: &Platform, counted: &Counted, special: &Special<Counted>) -> Set {
    let of = |counted: &Counted| items(own, &counted.limits, &counted.costs);
    let all = |list: &BTreeMap<String, Counted>| {
        list.iter().map(|(key, own)| (key.clone(), of(own))).collect()
    };
    Set { base: of(counted), values: all(&special.values), tiers: all(&special.tiers) }
}

impl Set {
    /// What holds for one value of the key, of accounts in that tier where the key is the account.
    fn of_value(&self, value: &str, tier: Option<&str>, of_account: bool) -> Vec<Item> {
        if let Some(own) = self.values.get(value) {
            return own.clone();
        }
        if of_account {
            return tier.and_then(|tier| self.tiers.get(tier)).unwrap_or(&self.base).clone();
        }
        // Accounts of any tier come with this value: the strictest of all.
        let tiers = self.tiers.values().flatten();
        self.base.iter().chain(tiers).cloned().collect()
    }
}

/// What is as strict as all of these together, without what others make meaningless: this node's own, each at its
/// place and under its name, then those of others, under names of their own where they meet one.
fn strictest(mine: Vec<Item>, others: Vec<Item>) -> Vec<Item> {
    let mut all = Vec::with_capacity(mine.len());
    let mut more = Vec::new();
    let mut groups: BTreeMap<(String, Option<u16>), Vec<Item>> = BTreeMap::new();
    for item in others {
        let group = groups.entry((item.limit.name.clone(), item.limit.api)).or_default();
        if group.iter().all(|known| known.tag != item.tag) {
            group.push(item);
        }
    }
    for own in mine {
        let group = groups.remove(&(own.limit.name.clone(), own.limit.api)).unwrap_or_default();
        let (first, rest) = strictest_of(Some(own), group);
        all.push(first);
        more.extend(rest);
    }
    for group in groups.into_values() {
        let (first, rest) = strictest_of(None, group);
        all.push(first);
        more.extend(rest);
    }
    all.extend(more);
    all
}

/// Of limits of one name and api those that are needed; the first is to have the name. `own` is that unless another
/// one makes it meaningless.
fn strictest_of(own: Option<Item>, mut others: Vec<Item>) -> (Item, Vec<Item>) {
    others.sort_by(|one, other| one.tag.cmp(&other.tag));
    let is_own = own.is_some();
    let all: Vec<Item> = own.into_iter().chain(others).collect();
    // The first of two that mean the same stays.
    let makes_needless = |one: usize, other: usize| {
        one != other
            && all[one].is_within(&all[other])
            && (one < other || !all[other].is_within(&all[one]))
    };
    let needed = |place: &usize| !(0..all.len()).any(|other| makes_needless(other, *place));
    let kept: Vec<usize> = (0..all.len()).filter(needed).collect();
    let mut result: Vec<Item> = kept
        .iter()
        .map(|place| {
            let mut item = all[*place].clone();
            for (other, needless) in all.iter().enumerate() {
                if !kept.contains(&other) && item.is_within(needless) {
                    item.keeps_as(needless);
                }
            }
            item
        })
        .collect();
    let stands_in = kept.iter().position(|place| *place == 0 || makes_needless(*place, 0));
    let first = result.remove(stands_in.filter(|_| is_own).unwrap_or(0));
    let apart = result.into_iter().map(|mut item| {
        item.limit.name.clone_from(&item.tag);
        item
    });
    (first, apart.collect())
}
