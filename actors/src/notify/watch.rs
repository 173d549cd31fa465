//! From what is seen of a node to notices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tollgate_gate::{At, Span};
use tollgate_protos::Notice;

use super::alarms::{Alarms, Rules, Telling};
use super::{Facts, Key, Kind, Outgoing, Signal, State, Way};
use crate::clock::Clock;
use crate::codes::Code;
use crate::ids::{AccountKey, LaneKey, Slug};
use crate::plan::NotifyPlan;
use crate::telemetry;

/// Between two looks; shorter where something is told after less.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_LEAST: Duration = Duration::from_millis(250);
/// A fetch whose deadline is over when it is heard of is late for so long.
const LATE_LASTS: Span = Span::from_secs(60);
/// Of accounts that are not told by name it is not heard when they are in time again: they are late for so long at most.
const LATE_FURTHER: Span = Span::from_secs(5 * 60);
/// Fetches of such accounts that are told apart, so that each counts once; beyond, one that is heard of again counts again.
const COUNTED_MAX: usize = 4096;
/// A drift is told once an hour where it goes on: silent for so long, it is over.
const DRIFT_LASTS: Span = Span::from_secs(2 * 3600);

/// An account that is held now.
#[derive(Debug, Clone)]
pub(crate) struct HeldOne {
    pub(crate) key: AccountKey,
    pub(crate) since: At,
    pub(crate) until: Option<At>,
    pub(crate) because: String,
}

/// Accounts that are held now: some of each platform, in an order that stays, and how many there are.
#[derive(Debug, Default)]
pub(crate) struct HeldNow {
    pub(crate) listed: Vec<HeldOne>,
    pub(crate) counts: BTreeMap<Slug, u64>,
}

/// What is known of a node's troubles, and who is told.
#[derive(Debug)]
pub(crate) struct Watch {
    alarms: Alarms,
    node: String,
    plan: NotifyPlan,
    clock: Clock,
    ways: Vec<Way>,
    /// Late fetches of accounts that are not told by name, while it is told that there are some: each is heard of when it
    /// is found to be late, and when it is given up.
    counted: BTreeSet<(LaneKey, String)>,
    /// When this look began: what is seen in it is so at that moment.
    now: At,
}

impl Watch {
    pub(crate) fn new(plan: &NotifyPlan, node: &str, clock: &Clock, ways: Vec<Way>) -> Self {
        for kind in Kind::ALL {
            // There from the start, at zero.
            telemetry::notices_made(kind.as_str()).increment(0);
        }
        let rules = Rules {
            held: plan.held_after.into(),
            store: plan.store_after.into(),
            blocked: plan.blocked_after.into(),
            repeat: plan.repeat_after.into(),
        };
        let (alarms, node, clock) = (Alarms::new(rules), node.to_owned(), clock.clone());
        let now = clock.now();
        let counted = BTreeSet::new();
        Self { alarms, node, plan: plan.clone(), clock, ways, counted, now }
    }

    /// Between two looks at the node.
    pub(crate) fn look_every(&self) -> Duration {
        let plan = &self.plan;
        let shortest = plan.held_after.min(plan.store_after).min(plan.blocked_after);
        (shortest / 4).clamp(LOOK_LEAST, LOOK_EVERY)
    }

    /// An actor says something.
    pub(crate) fn hear(&mut self, signal: Signal) {
        let now = self.clock.now();
        match signal {
            Signal::Drift { account, limit, how } => {
                let of = Some(format!("{limit} {how}").into());
                let platform = Some(account.platform.clone());
                let key = Key { platform, of, ..Key::of(Kind::LimitDrift) };
                let named = match &*limit {
                    "" => "a limit".to_owned(),
                    name => format!("limit `{name}`"),
                };
                let what = format!(
                    "answers of {} contradict {named} as it is declared: {}; seen with account {}",
                    account.platform,
                    drift_in_words(how),
                    account.account
                );
                let limit = Some(limit).filter(|name| !name.is_empty());
                let facts = Facts { what, limit, ..Facts::default() };
                self.see(key, (now, now.plus(DRIFT_LASTS)), facts);
            }
            Signal::Late { lane, fetch, deadline, earliest } => {
                let key = late(&lane.account, &lane.api);
                let lasts = self.clock.at_wall(deadline).max(now.plus(LATE_LASTS));
                let code = Some(Code::DeadlinePassed);
                if self.alarms.has_room(&key) {
                    let what = format!(
                        "fetch {fetch} of {}/{}/{} has its turn at {earliest:.0} at the earliest, after its deadline, {deadline:.0}",
                        lane.account.platform, lane.account.account, lane.api
                    );
                    let facts = Facts { what, fetch: Some(fetch), code, ..Facts::default() };
                    self.see(key, (now, lasts), facts);
                    return;
                }
                let key = Key { account: None, api: None, ..key };
                let platform = lane.account.platform.clone();
                let known = self.alarms.facts(&key).and_then(|facts| facts.count);
                if known.is_none() {
                    self.counted.retain(|(lane, _)| lane.account.platform != platform);
                }
                let one = (lane, fetch);
                let is_new = !self.counted.contains(&one);
                if is_new && self.counted.len() < COUNTED_MAX {
                    self.counted.insert(one);
                }
                let count = known.unwrap_or(0) + u64::from(is_new);
                let what = format!(
                    "{count} fetches of further accounts of {platform} have their turns after their deadlines"
                );
                let facts = Facts { what, count: Some(count), code, ..Facts::default() };
                self.see(key, (now, lasts.min(now.plus(LATE_FURTHER))), facts);
            }
            Signal::InTime { account, api } => self.alarms.is_over(&late(&account, &api), now),
        }
    }

    /// A look begins.
    pub(crate) fn look(&mut self) {
        self.now = self.clock.now();
    }

    /// All accounts that are held; nothing where not all could be asked.
    pub(crate) fn held(&mut self, held: Option<HeldNow>) {
        let now = self.now;
        let Some(held) = held else {
            self.alarms.keep(|key| key.kind == Kind::AccountHeld, now);
            return;
        };
        let (totals, mut further) = (held.counts.clone(), held.counts);
        let mut by_name: BTreeMap<Slug, u64> = BTreeMap::new();
        for one in held.listed {
            *by_name.entry(one.key.platform.clone()).or_default() += 1;
            let AccountKey { platform, account } = &one.key;
            let (name, account) = (Some(platform.clone()), Some(account.clone()));
            let key = Key { platform: name, account, ..Key::of(Kind::AccountHeld) };
            if !self.alarms.has_room(&key) {
                continue;
            }
            if let Some(count) = further.get_mut(platform) {
                *count = count.saturating_sub(1);
            }
            let what = format!("{platform}/{} is held: {}", one.key.account, one.because);
            let until = one.until.map(|at| self.clock.wall_at(at));
            let lasts = one.until.map_or(now, |until| until.max(now));
            let facts = Facts { what, until, ..Facts::default() };
            // Known to be held until then, it is told at once if that is long; over, it is over when it is.
            self.alarms.see_until(key, (one.since.min(now), now, lasts), facts);
        }
        for (platform, total) in totals {
            if total > by_name.get(&platform).copied().unwrap_or(0) {
                // Those that were told may be among those that are not listed.
                let is_of =
                    |key: &Key| key.account.is_some() && key.platform.as_ref() == Some(&platform);
                self.alarms.keep(|key| key.kind == Kind::AccountHeld && is_of(key), now);
            }
        }
        for (platform, count) in further.into_iter().filter(|(_, count)| *count > 0) {
            let what = format!("{count} further accounts of {platform} are held");
            let key = Key { platform: Some(platform), ..Key::of(Kind::AccountHeld) };
            self.see(key, (now, now), Facts { what, count: Some(count), ..Facts::default() });
        }
    }

    /// Whether anything was told, or is about to be, of dead letters.
    pub(crate) fn knows_of_dead(&self) -> bool {
        self.alarms.has(Kind::DeadLetters)
    }

    /// So many dead letters of a platform are kept.
    pub(crate) fn dead(&mut self, platform: &Slug, count: u64) {
        let (now, most) = (self.now, self.plan.dead_over);
        let key = Key { platform: Some(platform.clone()), ..Key::of(Kind::DeadLetters) };
        // Over only when a good part is gone.
        let over = if self.alarms.is_on(&key) { most - most / 4 } else { most };
        if count > over {
            let what = format!("{count} dead letters of {platform} are kept, more than {most}");
            self.see(key, (now, now), Facts { what, count: Some(count), ..Facts::default() });
        }
    }

    /// Dead letters could not be counted, or were not.
    pub(crate) fn dead_unknown(&mut self) {
        let now = self.now;
        self.alarms.keep(|key| key.kind == Kind::DeadLetters, now);
    }

    /// Why the store takes no bodies, if that is so.
    pub(crate) fn store(&mut self, away: Option<String>) {
        let Some(why) = away else { return };
        let now = self.now;
        let what =
            format!("the object store takes no bodies, so {} makes no calls: {why}", self.node);
        let facts = Facts { what, ..Facts::default() };
        self.see(Key::of(Kind::StoreAway), (now, now), facts);
    }

    /// A shard whose loop does not turn, since when, and what it ran.
    pub(crate) fn blocked(&mut self, shard: usize, since: At, doing: &str) {
        let now = self.now;
        let key = Key { of: Some(format!("{shard}").into()), ..Key::of(Kind::ShardBlocked) };
        let what = format!(
            "shard {shard} of {} does not turn, all of its accounts stand still; when it stopped it was {doing}",
            self.node
        );
        self.see(key, (since, now), Facts { what, ..Facts::default() });
    }

    /// What is not this node's any more is told by whoever has it now.
    pub(crate) fn goes_by(&mut self, is_ours: impl Fn(&AccountKey) -> bool) {
        self.alarms.forget(|key| match key.kind {
            Kind::DeadLetters => {
                key.platform.as_ref().is_some_and(|platform| !is_ours(&letters_of(platform)))
            }
            _ => key.account_key().is_some_and(|key| !is_ours(&key)),
        });
    }

    /// Tells what is to be told.
    pub(crate) fn tell(&mut self) {
        let now = self.now;
        for telling in self.alarms.step(now) {
            let kind = telling.key.kind;
            let notice = self.notice(telling, self.clock.wall_at(now));
            telemetry::notices_made(kind.as_str()).increment(1);
            telemetry::noticed(&notice);
            let json = serde_json::to_vec(&notice).expect("text and numbers").into();
            let outgoing = Arc::new(Outgoing { notice, kind, json, made: Instant::now() });
            self.ways.iter().for_each(|way| way.send(&outgoing));
        }
    }

    fn see(&mut self, key: Key, (since, lasts): (At, At), facts: Facts) {
        if !self.alarms.see(key, (since, lasts), facts) {
            telemetry::notices_dropped("signals").increment(1);
        }
    }

    fn notice(&self, telling: Telling, timestamp: Timestamp) -> Notice {
        let Telling { key, state, since, facts } = telling;
        let kind = key.kind.as_str();
        let what = match state {
            State::Ended => format!("over: {}", facts.what),
            State::Began | State::GoesOn => facts.what,
        };
        Notice {
            id: format!("{:032x}", fastrand::u128(..)),
            kind: format!("{kind}.{}", state.as_str()),
            timestamp,
            since: self.clock.wall_at(since),
            node: self.node.clone(),
            platform: key.platform.map(|platform| platform.to_string()),
            account: key.account.map(|account| account.as_str().to_owned()),
            api: key.api.map(|api| api.to_string()),
            fetch: facts.fetch,
            limit: facts.limit,
            count: facts.count,
            until: facts.until.filter(|_| state != State::Ended),
            what,
            code: facts.code.map(|code| code.to_string()),
            see: format!("docs/notify.md#{kind}"),
        }
    }
}

/// That deadlines of an account and api are missed.
fn late(account: &AccountKey, api: &Slug) -> Key {
    Key {
        platform: Some(account.platform.clone()),
        account: Some(account.account.clone()),
        api: Some(api.clone()),
        ..Key::of(Kind::DeadlineMissed)
    }
}

/// Whose owner tells of the dead letters of a platform.
pub(crate) fn letters_of(platform: &Slug) -> AccountKey {
    let account = crate::ids::Account::new("dead letters").expect("a good name");
    AccountKey { platform: platform.clone(), account }
}

fn drift_in_words(how: &str) -> &'static str {
    match how {
        "refused" => "calls are refused that it allows",
        "narrower" => "the provider says that it allows fewer",
        "wider" => "the provider says that it allows more",
        "faster" => "what is left falls faster than calls are made",
        "slower" => "what is left falls slower than calls are made",
        _ => "it is another",
    }
}
