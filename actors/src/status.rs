//! What waits in a folder that nobody works on, and what it would wait for: the same gate, asked from
//! the stored records.

use std::collections::BTreeMap;

use tollgate_gate::{Ask, At, Decision, Ledger as GateLedger, LimitSet, Span, decide};

use crate::calendar::{Line, platform_on};
use crate::clock::Clock;
use crate::control::Status;
use crate::ids::{AccountKey, LaneKey};
use crate::ledger::Ledger;
use crate::ledger::record::Record;
use crate::plan::{Plan, Platform};
use crate::queue::{LanePage, Queue, QueueError};
use crate::shard::AccountLook;

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
    let mut waiting: BTreeMap<AccountKey, (u64, Vec<LaneKey>)> = BTreeMap::new();
    let mut status = Status { postponed: queue.postponed().await?, ..Status::default() };
    let mut from = None;
    loop {
        let LanePage { lanes, next } = queue.lanes(from).await?;
        from = next;
        for count in lanes {
            let key = &count.lane.account;
            let wanted = platform.is_none_or(|only| only == key.platform.as_str())
                && account.is_none_or(|only| only == key.account.as_str());
            if wanted {
                status.waiting += count.waiting;
                let (sum, lanes) = waiting.entry(key.clone()).or_default();
                *sum += count.waiting;
                lanes.push(count.lane);
            }
        }
        if from.is_none() {
            break;
        }
    }
    let mut accounts: Vec<_> = waiting.into_iter().collect();
    accounts.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    accounts.truncate(most);
    for (key, (count, lanes)) in accounts {
        let next = next(plan, ledger, clock, &key, &lanes).await;
        let (because, until) = next.unwrap_or((None, None));
        status.accounts.push(AccountLook {
            platform: key.platform.to_string(),
            account: key.account.to_string(),
            waiting: count,
            in_flight: 0,
            because: because.or_else(|| Some("nothing: no node works on it".into())),
            until: until.map(|at| clock.wall_at(at)),
        });
    }
    Ok(status)
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
