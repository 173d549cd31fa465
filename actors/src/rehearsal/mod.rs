//! A fetch against recorded answers: the node's own path from queue to object, without a network, without waiting.
//!
//! One shard with its actors works on virtual time, on a queue, a ledger and a store in memory; only the
//! transport is another: it gives the recorded answers, one for each call, in order. What happens is told line by
//! line, the same each time. Secrets are stand-ins that the report does not show.
//!
//! Must be called on a runtime whose clock is paused, and on which nothing else runs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tollgate_protos::{Fetch, Manifest};

use crate::auth::Keeper;
use crate::auth::vault::MemoryVault;
use crate::calendar::{Line, plan_on};
use crate::clock::Clock;
use crate::ledger::memory::MemoryLedger;
use crate::observe::Shuts;
use crate::plan::{InForce, Plan, Platform};
use crate::queue::memory::MemoryQueue;
use crate::queue::{NewFetch, Queue};
use crate::recipe::{self, Accepted, FetchContext};
use crate::shard::context::{LANDINGS_PER_SLOT, Shared};
use crate::shard::store_health::StoreHealth;
use crate::shard::{Found, Shard, Work};
use crate::store::Store;
use crate::telemetry::Totals;

mod answers;
mod case;
mod tokens;
mod told;

#[cfg(test)]
mod tests;

use answers::Answers;
pub use case::{Case, CaseError, Recorded};
use tokens::Tokens;
use told::Told;

/// How long a fetch may take, in virtual time.
const WITHIN: Duration = Duration::from_secs(14 * 24 * 3600);
/// Looks at how it goes: the shortest and the longest time between two.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(60);
/// Bodies on their way at once, in bytes.
const BUFFER_BYTES: u64 = 1 << 30;
/// Most objects that are told of.
const OBJECTS_MAX: usize = 10_000;
/// What stands for a secret of the environment, before its name.
const STAND_IN: &str = "secret-of-";

/// What a rehearsal showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsed {
    /// What happened, line by line; each ends in a line break.
    pub report: String,
    /// Whether the fetch came to an end with the answers that there are.
    pub ended: bool,
}

/// The environment with stand-ins for the secrets that a configuration takes from it: a rehearsal needs none, and
/// shows none.
pub fn without_secrets(
    config: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = env.collect();
    for (at, _) in config.match_indices("env:") {
        let name = config.get(at + 4..).unwrap_or_default();
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = name.get(..end.unwrap_or(name.len())).unwrap_or_default();
        env.retain(|(known, _)| known != name);
        env.push((name.to_owned(), format!("{STAND_IN}{name}")));
    }
    env
}

/// Plays a case.
pub async fn rehearse(plan: Plan, case: &Case) -> Rehearsed {
    let told = Told::new(case.queued_at);
    let accepted = match accept(&plan, case) {
        Ok(accepted) => accepted,
        Err(refusal) => {
            told.line(format_args!("refused: {refusal}"));
            return Rehearsed { report: told.report(), ended: true };
        }
    };
    let ended = play(plan, case, accepted, &told).await;
    Rehearsed { report: told.report(), ended }
}

fn accept(plan: &Plan, case: &Case) -> Result<Accepted, recipe::Refusal> {
    let line = serde_json::to_vec(&case.fetch).unwrap_or_default();
    recipe::check_fetch(plan, &line)
}

async fn play(mut plan: Plan, case: &Case, accepted: Accepted, told: &Told) -> bool {
    // Waits that are drawn by lot are the same each time.
    fastrand::seed(0);
    plan.collect.shards = 1;
    let clock = Clock::starting_at(case.queued_at);
    let plan = plan_on(&Arc::new(plan), &Line::Clock(clock.clone()));
    let queue = MemoryQueue::starting(case.queued_at);
    let store = Store::memory(BUFFER_BYTES).expect("room for a body");
    let (auth, worker) = Keeper::new(clock.clone());
    let shared = Shared {
        pulses: Arc::default(),
        signals: None,
        owned: crate::cluster::Owned::default(),
        auth,
        shuts: Shuts::default(),
        clock: clock.clone(),
        queue: Arc::new(queue.clone()),
        ledger: Arc::new(MemoryLedger::new()),
        store: store.clone(),
        totals: Arc::new(Totals::default()),
        slots: Arc::new(Semaphore::new(plan.collect.concurrency)),
        landings: Arc::new(Semaphore::new(plan.collect.concurrency * LANDINGS_PER_SLOT)),
        alone: Arc::new(Semaphore::new(1)),
        holds: crate::holds::Holds::default(),
        store_health: Arc::new(StoreHealth::default()),
        back_health: Arc::default(),
        peers: Arc::default(),
        plan: InForce::new(Arc::clone(&plan)),
    };
    let _listening = told.listen();
    let tokens = Rc::new(Tokens(clock.clone()));
    let keeping =
        actix_rt::spawn(worker.run(tokens, Arc::new(MemoryVault::default()), shared.plan.clone()));
    let platform = &plan.platforms[&accepted.lane.account.platform];
    told.line(format_args!(
        "fetch {} of {}/{} for {}, queued {}",
        accepted.id,
        accepted.lane.account.platform,
        accepted.lane.api,
        accepted.lane.account.account,
        case.queued_at
    ));
    told.line(format_args!("a call counts {}", counts(platform, &accepted, case.queued_at)));
    let answers = Answers::new(clock, case.answers.clone(), told.clone());
    let shard = Shard::start_here(0, shared.clone(), Rc::new(answers.clone()));
    let mut wakes = queue.wakes();
    let waker = shard.clone();
    let waking = actix_rt::spawn(async move {
        while let Some(wake) = wakes.recv().await {
            let found = Found { lane: wake.lane, count: wake.count, all: wake.all };
            if waker.send(Work(vec![found])).await.is_err() {
                return;
            }
        }
    });
    let fetch = NewFetch {
        not_before: accepted.fetch.not_before,
        lane: accepted.lane,
        id: accepted.id,
        payload: accepted.payload,
    };
    shared.totals.come(1);
    let stored = queue.append(vec![fetch]).await;
    let ended = stored.is_ok() && end(&shared, &queue, &answers).await;
    waking.abort();
    keeping.abort();
    tell_end(told, &queue, &store).await;
    if answers.missing() {
        told.line(format_args!("stopped: no answer is recorded for this call"));
    } else if !ended {
        told.line(format_args!(
            "stopped: it has not ended within {} days",
            WITHIN.as_secs() / 86400
        ));
    }
    match answers.left() {
        0 => {}
        1 => told.line(format_args!("1 recorded answer was not needed")),
        left => told.line(format_args!("{left} recorded answers were not needed")),
    }
    ended
}

/// Waits until nothing is left to do, or nothing can be done.
async fn end(shared: &Shared, queue: &MemoryQueue, answers: &Answers) -> bool {
    let begun = Instant::now();
    loop {
        let passed = begun.elapsed();
        if answers.missing() || passed > WITHIN {
            return false;
        }
        let waiting = queue.lanes(None).await.is_ok_and(|page| !page.lanes.is_empty());
        let aside = queue.postponed().await.is_ok_and(|aside| aside > 0);
        if shared.totals.outstanding() == 0 && !waiting && !aside {
            return true;
        }
        sleep((passed / 100).clamp(LOOK_FIRST, LOOK_MAX)).await;
    }
}

/// Objects and dead letters.
async fn tell_end(told: &Told, queue: &MemoryQueue, store: &Store) {
    let keys = store.keys(OBJECTS_MAX).await.unwrap_or_default();
    let mut claimed = Vec::new();
    for key in keys.iter().filter(|key| key.filename() == Some("_manifest.json")) {
        let Ok(Some(bytes)) = store.get(key).await else { continue };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { continue };
        let done = manifest.done;
        for object in &done.objects {
            let hash: String = object.sha256.chars().take(12).collect();
            let file = object.member.as_ref().map(|name| format!(", the file {name}"));
            told.line(format_args!(
                "object {}: {} bytes, sha256 {hash}…{}",
                object.key,
                object.bytes,
                file.unwrap_or_default()
            ));
            claimed.push(object.key.clone());
        }
        told.line(format_args!(
            "done {}: status {}, {} calls, {} pages",
            done.id, done.http_status, done.attempts, done.pages
        ));
    }
    for key in &keys {
        if matches!(key.filename(), Some("_manifest.json" | recipe::OWNER)) {
            continue;
        }
        if !claimed.contains(&key.to_string()) {
            told.line(format_args!("object {key}, which no manifest lists"));
        }
    }
    for letter in queue.dead(None, 100).await.unwrap_or_default() {
        let dead = letter.dead;
        let id = dead.fetch.as_ref().and_then(|fetch: &Fetch| fetch.id.clone()).unwrap_or_default();
        told.line(format_args!(
            "dead {id}: {}: {} ({} calls)",
            dead.code, dead.reason, dead.attempts
        ));
        if let Some(start) = dead.body_start.filter(|start| !start.is_empty()) {
            told.line(format_args!("  the answer began: {start}"));
        }
    }
}

/// `1 of gap, 3 of points, 1 of app (app main)`.
fn counts(platform: &Arc<Platform>, accepted: &Accepted, queued_at: Timestamp) -> String {
    let account = &accepted.lane.account.account;
    let own = platform.of(account);
    let Some((number, api)) = own.api(accepted.lane.api.as_str()) else { return String::new() };
    let context =
        FetchContext { account, id: &accepted.id, params: &accepted.fetch.params, queued_at };
    let mut words = Vec::new();
    let mut add = |limits: &tollgate_gate::LimitSet, costs: &[tollgate_gate::Cost], of: &str| {
        for (place, limit) in limits.limits().iter().enumerate() {
            if limit.api.is_none_or(|only| only == number) {
                let units = costs.get(place).map_or(1, |cost| cost.units);
                words.push(format!("{units} of {}{of}", limit.name));
            }
        }
    };
    if let Ok(costs) = own.costs.of(&own.limits, &own, number, &context) {
        add(&own.limits, &costs, "");
    }
    for budget in recipe::budgets(&own, api, &context).unwrap_or_default() {
        add(budget.limits(), budget.costs(), &format!(" ({})", budget.shown()));
    }
    if words.is_empty() { "nowhere: there is no limit".to_owned() } else { words.join(", ") }
}
