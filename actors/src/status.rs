//! What waits in a folder that nobody works on, and what it would wait for: the same gate, asked from
//! the stored records.

use std::collections::BTreeMap;
use std::sync::Arc;

use tollgate_gate::{Ask, At, Decision, Ledger as GateLedger, LimitSet, Span, decide};

use crate::calendar::{Line, platform_on};
use crate::clock::Clock;
use crate::control::{Status, with_letters};
use crate::ids::{AccountKey, LaneKey};
use crate::ledger::Ledger;
use crate::ledger::record::Record;
use crate::plan::{Plan, Platform};
use crate::queue::{LaneCount, LanePage, Queue, QueueError};
use crate::shard::AccountLook;
use crate::view::account::{self, LaneNow, Snapshot};
use crate::view::eta::{Assumed, WALKED_ALONE, outlook};
use crate::view::list::Wanted;
use crate::view::{
    AccountState, AccountView, AccountsPage, AccountsQuestion, Overview, PlatformView,
};

/// Tells what waits. Reads the count of every lane, and the record of each account that is told one by one.
///
/// # Errors
/// The queue cannot be read.
pub async fn at_rest(
    plan: &Plan,
    queue: &dyn Queue,
    ledger: &dyn Ledger,
    clock: &Clock,
    platform: Option<&str>,
    account: Option<&str>,
    most: usize,
) -> Result<Status, QueueError> {
    let postponed = queue.postponed().await?;
    let wanted = |key: &AccountKey| {
        platform.is_none_or(|only| only == key.platform.as_str())
            && account.is_none_or(|only| only == key.account.as_str())
    };
    let waiting = waiting(queue, wanted).await?;
    let all = waiting.values().map(|lanes| sum(lanes)).sum();
    let mut status = Status { postponed: Some(postponed), waiting: all, ..Status::default() };
    let mut accounts: Vec<_> = waiting.into_iter().collect();
    accounts.sort_by_key(|(_, lanes)| std::cmp::Reverse(sum(lanes)));
    accounts.truncate(most);
    for (key, lanes) in accounts {
        status.accounts.push(look(plan, ledger, clock, &key, &lanes).await);
    }
    Ok(status)
}

/// What waits in each account, lane by lane.
type Waiting = BTreeMap<AccountKey, Vec<LaneCount>>;

async fn waiting(
    queue: &dyn Queue,
    wanted: impl Fn(&AccountKey) -> bool,
) -> Result<Waiting, QueueError> {
    let mut waiting = Waiting::new();
    let mut from = None;
    loop {
        let LanePage { lanes, next } = queue.lanes(from).await?;
        from = next;
        for count in lanes.into_iter().filter(|count| wanted(&count.lane.account)) {
            waiting.entry(count.lane.account.clone()).or_default().push(count);
        }
        if from.is_none() {
            return Ok(waiting);
        }
    }
}

fn sum(lanes: &[LaneCount]) -> u64 {
    lanes.iter().map(|count| count.waiting).sum()
}

/// What nobody works on waits for.
const NO_NODE: &str = "nothing: no node works on it";

async fn look(
    plan: &Plan,
    ledger: &dyn Ledger,
    clock: &Clock,
    key: &AccountKey,
    lanes: &[LaneCount],
) -> AccountLook {
    let keys: Vec<LaneKey> = lanes.iter().map(|count| count.lane.clone()).collect();
    let (because, until) = next(plan, ledger, clock, key, &keys).await.unwrap_or_default();
    AccountLook {
        platform: key.platform.to_string(),
        account: key.account.to_string(),
        waiting: sum(lanes),
        because: because.or_else(|| Some(NO_NODE.into())),
        until: until.map(|at| clock.wall_at(at)),
        ..AccountLook::default()
    }
}

/// One account, from its stored record; nothing where it has none and nothing waits.
///
/// # Errors
/// The queue cannot be read.
pub async fn account_at_rest(
    plan: &Plan,
    queue: &dyn Queue,
    ledger: &dyn Ledger,
    clock: &Clock,
    key: &AccountKey,
) -> Result<Option<AccountView>, QueueError> {
    let Some(platform) = plan.platforms.get(&key.platform) else { return Ok(None) };
    let platform = platform_on(&platform.of(&key.account), &Line::Clock(clock.clone()));
    let lanes = queue.account_lanes(key.clone()).await?;
    let now = clock.now();
    let gate = gate_at_rest(&platform, &platform.limits, ledger, key, now).await;
    if gate.is_none() && lanes.is_empty() {
        return Ok(None);
    }
    let known = lanes.iter().filter_map(|count| {
        let (api, _) = platform.api(count.lane.api.as_str())?;
        Some(LaneNow { api, priority: count.lane.priority, waiting: count.waiting })
    });
    let lane_keys: Vec<LaneKey> = lanes.iter().map(|count| count.lane.clone()).collect();
    let (because, until) = next(plan, ledger, clock, key, &lane_keys).await.unwrap_or_default();
    let shown = Snapshot {
        key: key.clone(),
        state: AccountState::AtRest,
        lanes: known.collect(),
        ledger: gate.unwrap_or_default(),
        in_flight: 0,
        because: because.or_else(|| (!lanes.is_empty()).then(|| NO_NODE.into())),
        cause: None,
        until,
        beside: Vec::new(),
        answers: Vec::new(),
        now,
        platform,
    };
    let assumed = Assumed {
        latencies: Vec::new(),
        concurrency: plan.collect.concurrency,
        calls_per_fetch: 1.0,
        common: Arc::new([]),
    };
    let mut view = account::view(&shown, outlook(&shown, &assumed, WALKED_ALONE), clock);
    // Nobody works on it: what would go, were somebody to, is not when it goes.
    view.eta = None;
    Ok(Some(view))
}

/// A page of the accounts with waiting fetches. What they wait for is read for those of the page alone, so they are
/// not sorted by that.
///
/// # Errors
/// The queue cannot be read; or the question cannot be answered, which is a sentence.
pub async fn accounts_at_rest(
    plan: &Plan,
    queue: &dyn Queue,
    ledger: &dyn Ledger,
    clock: &Clock,
    question: &AccountsQuestion,
) -> Result<Result<AccountsPage, String>, QueueError> {
    let wanted = match Wanted::of(question) {
        Ok(wanted) => wanted,
        Err(reason) => return Ok(Err(reason)),
    };
    let fits = |key: &AccountKey| wanted.fits(key.platform.as_str(), key.account.as_str());
    let mut waiting = waiting(queue, fits).await?;
    if question.dead {
        let letters = with_letters(queue).await?;
        waiting.retain(|key, _| letters.contains(key));
        for key in letters.into_iter().filter(|key| fits(key)) {
            waiting.entry(key).or_default();
        }
    }
    if question.held {
        // Who holds what is a running node's to say.
        waiting.clear();
    }
    let rows = waiting.iter().map(|(key, lanes)| AccountLook {
        platform: key.platform.to_string(),
        account: key.account.to_string(),
        waiting: sum(lanes),
        ..AccountLook::default()
    });
    let rows: Vec<AccountLook> = rows.filter(|look| wanted.is_on_page(look)).collect();
    let mut page = wanted.page(waiting.len() as u64, rows);
    for row in &mut page.accounts {
        let key = waiting.iter().find(|(key, _)| {
            key.platform.as_str() == row.platform && key.account.as_str() == row.account
        });
        if let Some((key, lanes)) = key.filter(|(_, lanes)| !lanes.is_empty()) {
            let found = look(plan, ledger, clock, key, lanes).await;
            (row.because, row.until) = (found.because, found.until);
        }
    }
    Ok(Ok(page))
}

/// What all accounts come to where no node works.
///
/// # Errors
/// The queue cannot be read.
pub async fn overview_at_rest(
    plan: &Plan,
    queue: &dyn Queue,
    clock: &Clock,
) -> Result<Overview, QueueError> {
    let mut overview = Overview::empty(clock.wall());
    overview.postponed = Some(queue.postponed().await?);
    overview.dead = Some(queue.dead_count().await?);
    let waiting = waiting(queue, |_| true).await?;
    for name in plan.platforms.keys() {
        let own = waiting.iter().filter(|(key, _)| key.platform == *name);
        let mut view = PlatformView { platform: name.to_string(), ..PlatformView::default() };
        for (_, lanes) in own {
            view.waiting += sum(lanes);
            view.accounts += 1;
        }
        overview.waiting += view.waiting;
        overview.platforms.push(view);
    }
    Ok(overview)
}

/// What the gate of an account is at `now`, from its stored record; nothing without one that can be read.
pub async fn gate_at_rest(
    platform: &Platform,
    limits: &LimitSet,
    ledger: &dyn Ledger,
    key: &AccountKey,
    now: At,
) -> Option<GateLedger> {
    let stored = ledger.load(key.clone()).await.ok()??;
    let record = Record::decode(&stored.record).ok()?;
    let since = now.minus(Span::from(stored.age));
    let (mut gate, _) = GateLedger::decode(limits, &record.gate, since).ok()?;
    // What was in flight when its process died counts from now on, as it would at a start.
    let slots_until = now.plus(Span::from(platform.lost_call));
    gate.lost(limits, now.plus(limits.guard_max()), slots_until);
    gate.prune(limits, now);
    Some(gate)
}

/// What the account's next call would wait for.
async fn next(
    plan: &Plan,
    ledger: &dyn Ledger,
    clock: &Clock,
    key: &AccountKey,
    lanes: &[LaneKey],
) -> Option<(Option<String>, Option<At>)> {
    let platform = plan.platforms.get(&key.platform)?.of(&key.account);
    let platform = &*platform_on(&platform, &Line::Clock(clock.clone()));
    let (now, limits) = (clock.now(), &*platform.limits);
    let gate = gate_at_rest(platform, limits, ledger, key, now).await?;
    let mut soonest: Option<(Option<String>, Option<At>)> = None;
    for lane in lanes {
        let Some((api, _)) = platform.api(lane.api.as_str()) else {
            let reason = format!("an api `{}` in the configuration", lane.api);
            soonest.get_or_insert((Some(reason), None));
            continue;
        };
        let decision = decide(
            limits,
            &gate,
            gate.holds(),
            Ask::new(api).with_costs(platform.costs.usual(api)),
            now,
        );
        let Decision::WaitUntil { at, because } = decision else { return Some((None, None)) };
        let sooner = match (&soonest, at) {
            (Some((_, Some(known))), Some(at)) => at < *known,
            (Some((_, Some(_))), None) => false,
            _ => true,
        };
        if sooner {
            soonest = Some((Some(because.text(limits, gate.holds()).to_owned()), at));
        }
    }
    soonest
}
