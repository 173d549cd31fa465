//! Another configuration while a node works: what of it can be in force at once, and what it changes.
//!
//! Everything under `[platforms]` can, as can `collect.attempts_max` and `collect.timeouts`. The rest was built when the
//! node started: a change of it is named and comes with the next start, and keeps nothing else back. A configuration
//! with mistakes changes nothing at all.
//!
//! The limits of other nodes that have other ones come and go the same way, beside this node's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Mutex, watch};
use tollgate_gate::{Change, ChangeKind, Known, Limit, LimitSet, Rule};

use crate::auth::Auth;
use crate::calendar::Resets;
use crate::config::{Loaded, Mistakes, generation};
use crate::ids::Slug;
use crate::mixed::{Limits, Unheeded, mixed};
use crate::node::Switch;
use crate::plan::{CollectPlan, How, Plan, Platform, StagePlan, StorePlan, StoreTarget};
use crate::telemetry;

/// Limits whose changes are told one by one.
const TOLD_MAX: usize = 100;
/// Mistakes that are told one by one.
const MISTAKES_TOLD_MAX: usize = 200;

/// What a reload changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Platforms that are in both and not the same.
    pub platforms_changed: usize,
    /// Those that are new.
    pub platforms_added: usize,
    /// Those that are gone.
    pub platforms_removed: usize,
    /// Limits of all platforms that were added, removed or are not the same.
    pub limits_changed: usize,
}

/// How a reload went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force in every shard.
    Applied(Applied),
    /// It says what was in force already, but for keys that need a restart.
    Unchanged,
    /// It has mistakes; nothing of it is in force.
    Refused,
}

/// Puts configurations in force while a node works. One at a time: the next waits until the one before is. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct Reloader {
    state: Arc<Mutex<State>>,
    own: watch::Sender<Arc<Plan>>,
}

#[derive(Debug)]
struct State {
    switch: Switch,
    /// What the node was started with, as it was read.
    started: Plan,
    /// What was read last, as it was read.
    own: Arc<Plan>,
    /// The limits of other nodes that are in force, too.
    others: Vec<Arc<Limits>>,
    /// Whether there may be other nodes, and somebody who says which limits of theirs are needed.
    beside: bool,
}

impl Reloader {
    /// `others`: the limits of other nodes that are in force, too, for a node that has others beside it. Then
    /// somebody is to call [`Reloader::heed`] after each configuration that was read.
    pub(crate) fn new(switch: Switch, started: Plan, others: Option<Vec<Arc<Limits>>>) -> Self {
        let own = Arc::new(started.clone());
        let (beside, others) = (others.is_some(), others.unwrap_or_default());
        let state = State { switch, started, own: Arc::clone(&own), others, beside };
        Self { state: Arc::new(Mutex::new(state)), own: watch::Sender::new(own) }
    }

    /// The configuration that was read last, without what others have beside it; each further one is told.
    pub fn own(&self) -> watch::Receiver<Arc<Plan>> {
        self.own.subscribe()
    }

    /// Has these limits of other nodes in force beside this node's own, and those of before no longer. Answers what
    /// of them cannot be. `own`: the hash of this node's own when it was found that these are needed; if it has read
    /// others since, those of before stay, too.
    pub async fn heed(&self, own: &str, others: Vec<Arc<Limits>>) -> Vec<Unheeded> {
        let mut state = self.state.lock().await;
        if state.own.hash == own {
            state.others = others;
        } else {
            for limits in others {
                state.add(limits);
            }
        }
        let (_, unheeded) = state.put_in_force().await;
        unheeded
    }

    /// Puts a configuration that was read anew in force, as far as that can be, and logs what became of it. When this
    /// returns every account decides by it from its next decision on.
    ///
    /// Where there may be other nodes, what was in force before stays so beside it until the next [`Reloader::heed`]:
    /// others may have it.
    ///
    /// Dropped before it is done, some shards may go by it and others not; the next reload puts that right.
    pub async fn take(&self, read: Result<Loaded, Mistakes>) -> Outcome {
        let Loaded { plan, warnings } = match read {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                for mistake in mistakes.list().iter().take(MISTAKES_TOLD_MAX) {
                    telemetry::config_mistake(mistake);
                }
                telemetry::config_refused(mistakes.list().len());
                return Outcome::Refused;
            }
        };
        for warning in &warnings {
            telemetry::config_warning(warning);
        }
        let mut state = self.state.lock().await;
        for key in needs_restart(&state.started, &plan) {
            telemetry::config_needs_restart(key);
        }
        let before = std::mem::replace(&mut state.own, Arc::new(plan));
        if state.beside && before.hash != state.own.hash {
            state.add(Arc::new(Limits::of(&before)));
        }
        // What cannot be in force is told by whoever says what is needed.
        let (changed, _) = state.put_in_force().await;
        // Others are told only of what is in force.
        self.own.send_replace(Arc::clone(&state.own));
        let Some((applied, took)) = changed else {
            telemetry::config_unchanged();
            return Outcome::Unchanged;
        };
        telemetry::config_reloaded(&state.own.hash, &applied, took);
        Outcome::Applied(applied)
    }
}

impl State {
    fn add(&mut self, limits: Arc<Limits>) {
        if !self.others.contains(&limits) {
            self.others.push(limits);
        }
    }

    /// Has every shard go by this node's own limits and those of others; nothing if they do so already.
    async fn put_in_force(&mut self) -> (Option<(Applied, Duration)>, Vec<Unheeded>) {
        let before = self.switch.plan();
        let (plan, unheeded) = mixed(&self.own, &self.others);
        let plan = Arc::unwrap_or_clone(self.switch.on_clock(plan));
        let (mut plan, changes) = merge(&before, plan);
        for (name, platform) in &mut plan.platforms {
            if before.platforms.get(name).is_none_or(|old| !Arc::ptr_eq(old, platform)) {
                read_now(platform);
            }
        }
        let Changes { applied, limits } = &changes;
        if *applied == Applied::default()
            && plan.collect.attempts_max == before.collect.attempts_max
            && plan.hash == before.hash
        {
            return (None, unheeded);
        }
        let took = self.switch.to(plan).await;
        // Only now: until then the shards may have forgotten some more.
        let now = self.switch.wall();
        for (platform, change, moved) in limits.iter().take(TOLD_MAX) {
            telemetry::limit_changed(platform, change, counts_from(change, moved.as_ref(), now));
        }
        (Some((*applied, took)), unheeded)
    }
}

/// The moment from which on a changed limit knows the calls that it counts; nothing: all of them. `moved`: when its
/// windows started anew until now.
fn counts_from(change: &Change, moved: Option<&Resets>, now: Timestamp) -> Option<Timestamp> {
    if let Some(resets) = moved {
        // What came before its last window began is forgotten.
        return Some(resets.around(now).map_or(now, |(before, _)| before));
    }
    match change.known {
        Known::All => None,
        Known::For(span) => {
            let known =
                SignedDuration::try_from(Duration::from(span)).unwrap_or(SignedDuration::MAX);
            Some(now.checked_sub(known).unwrap_or(Timestamp::MIN))
        }
    }
}

/// What differs between two plans.
struct Changes {
    applied: Applied,
    limits: Vec<(Slug, Change, Option<Resets>)>,
}

/// A set of limits, and when its calendar windows start anew.
type Reset = (Arc<LimitSet>, Vec<Resets>);

/// The plan that comes into force: the new one, with what was built at the start as it is. Platforms that are the
/// same stay the same thing, so that nobody has to be told of them.
fn merge(before: &Plan, new: Plan) -> (Plan, Changes) {
    let mut changes = Changes { applied: Applied::default(), limits: Vec::new() };
    let applied = &mut changes.applied;
    let mut platforms = new.platforms;
    for (name, platform) in &mut platforms {
        match before.platforms.get(name) {
            Some(old) if alike(old, platform) => *platform = Arc::clone(old),
            Some(old) => {
                applied.platforms_changed += 1;
                changes.limits.extend(limits_changed(name, Some(old), Some(platform)));
            }
            None => {
                applied.platforms_added += 1;
                changes.limits.extend(limits_changed(name, None, Some(platform)));
            }
        }
    }
    for (name, old) in before.platforms.iter().filter(|(name, _)| !platforms.contains_key(*name)) {
        applied.platforms_removed += 1;
        changes.limits.extend(limits_changed(name, Some(old), None));
    }
    applied.limits_changed = changes.limits.len();
    let collect = CollectPlan { attempts_max: new.collect.attempts_max, ..before.collect.clone() };
    let how = How { calls: new.how.calls, store: before.how.store.clone() };
    (Plan { platforms, collect, hash: new.hash, how, ..before.clone() }, changes)
}

/// What changes in the limits of a platform, its budgets' too; with when windows started anew that do so at other times
/// now. A limit that counts by another key is another limit.
fn limits_changed(
    name: &Slug,
    old: Option<&Arc<Platform>>,
    new: Option<&Arc<Platform>>,
) -> Vec<(Slug, Change, Option<Resets>)> {
    let sets = |platform: Option<&Arc<Platform>>| -> BTreeMap<String, Reset> {
        let Some(platform) = platform else { return BTreeMap::new() };
        let with = |limits: &Arc<LimitSet>| (Arc::clone(limits), platform.resets.clone());
        let own = std::iter::once((String::new(), with(&platform.limits)));
        let budgets = platform.budgets.iter();
        own.chain(budgets.map(|b| (b.id.clone(), with(&b.counted.limits)))).collect()
    };
    let (old, new, none) = (sets(old), sets(new), Reset::default());
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changes = keys.into_iter().flat_map(|key| {
        let (old, new) = (old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
        changes_of(old, new)
    });
    changes.map(|(change, moved)| (name.clone(), change, moved)).collect()
}

fn changes_of(old: &Reset, new: &Reset) -> Vec<(Change, Option<Resets>)> {
    let changes = new.0.changes_from(&old.0);
    let mut told: Vec<_> = changes.into_iter().map(|change| (change, None)).collect();
    for limit in new.0.limits() {
        let name = |set: &LimitSet, limit: &Limit| {
            let api = limit.api.and_then(|api| set.apis().get(usize::from(api)).cloned());
            (limit.name.clone(), api)
        };
        let (name_of_it, api) = name(&new.0, limit);
        let mut olds = old.0.limits().iter();
        let before = olds.find(|other| name(&old.0, other) == (name_of_it.clone(), api.clone()));
        let (Some(before), Some(after)) =
            (before.and_then(|before| resets_of(&old.1, before)), resets_of(&new.1, limit))
        else {
            continue;
        };
        if before == after {
            continue;
        }
        let is_it = |(change, _): &&mut (Change, Option<Resets>)| {
            change.name == name_of_it && change.api == api
        };
        let moved = Some(before.clone());
        if let Some((_, known)) = told.iter_mut().find(is_it) {
            *known = moved;
        } else {
            let kind = ChangeKind::Moved;
            told.push((Change { name: name_of_it, api, kind, known: Known::All }, moved));
        }
    }
    told
}

/// When the windows of a limit start anew.
fn resets_of<'r>(resets: &'r [Resets], limit: &Limit) -> Option<&'r Resets> {
    let Rule::Calendar { calendar, .. } = limit.rule else { return None };
    resets.get(usize::from(calendar))
}

/// What comes into force last goes before what was in force, also where it was read before that: a budget that was
/// asked under another node's limits, too, is asked without them again.
fn read_now(platform: &mut Arc<Platform>) {
    let generation = generation();
    let platform = Arc::make_mut(platform);
    platform.generation = generation;
    platform.special = std::mem::take(&mut platform.special)
        .map(|own| Arc::new(Platform { generation, ..Platform::clone(&own) }));
}

/// Whether two platforms are the same in everything. What is shown of one for debugging is all of it but its
/// secrets.
fn alike(one: &Platform, other: &Platform) -> bool {
    let same = |one: &Option<Auth>, other: &Option<Auth>| match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.same(other),
        _ => false,
    };
    let auth = same(&one.auth, &other.auth)
        && one.apis.len() == other.apis.len()
        && one.apis.iter().zip(&other.apis).all(|(one, other)| same(&one.auth, &other.auth));
    auth && format!("{one:?}") == format!("{other:?}")
}

/// The keys that differ and are read at the start only.
fn needs_restart(started: &Plan, new: &Plan) -> Vec<&'static str> {
    let (old_collect, collect) = (&started.collect, &new.collect);
    let keys = [
        ("node.name", started.node_name != new.node_name),
        ("node.data", started.data != new.data),
        ("store", !same_store(&started.store, &new.store)),
        ("collect.concurrency", old_collect.concurrency != collect.concurrency),
        ("collect.shards", old_collect.shards != collect.shards),
        ("collect.buffer_bytes_max", old_collect.buffer_bytes_max != collect.buffer_bytes_max),
        ("collect.body_bytes_max", old_collect.body_bytes_max != collect.body_bytes_max),
        ("collect.drain", old_collect.drain != collect.drain),
        ("collect.spill_over", old_collect.spill_over != collect.spill_over),
        ("nats", format!("{:?}", started.nats) != format!("{:?}", new.nats)),
        ("http", started.http != new.http),
        ("traces", started.traces != new.traces),
        ("notify", started.notify != new.notify),
        ("stage", followed(started).ne(followed(new))),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// The tables that a node stages by itself.
fn followed(plan: &Plan) -> impl Iterator<Item = (&Slug, &Arc<StagePlan>)> {
    plan.stages.iter().filter(|(_, stage)| stage.follow.is_some())
}

fn same_store(one: &StorePlan, other: &StorePlan) -> bool {
    let bucket = match (&one.target, &other.target) {
        (StoreTarget::Bucket(one), StoreTarget::Bucket(other)) => one.is_same(other),
        _ => true,
    };
    bucket && format!("{one:?}") == format!("{other:?}")
}

#[cfg(test)]
mod tests;
