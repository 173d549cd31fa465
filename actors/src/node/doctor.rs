//! Gathers what a node can say of what holds it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};
use tollgate_gate::At;

use crate::doctor::{Blocked, Ended, Evidence, Phased, Waited};
use crate::health::SHARD_PATIENCE;
use crate::http::names::Names;
use crate::mailbox::Mailbox;
use crate::plan::Plan;
use crate::pulse::Block;
use crate::shard::Shard;
use crate::shard::census::{Census, Counted, Pair};
use crate::shard::context::Shared;
use crate::times::{self, OTHER, Phase, Spent};

/// Says what holds a node back, from any thread.
#[derive(Debug, Clone)]
pub struct Examiner {
    shards: Arc<[Mailbox<Shard>]>,
    shared: Shared,
    names: Arc<[Arc<Names>]>,
    since: At,
    on_nats: bool,
}

impl Examiner {
    pub(super) fn new(
        shards: &Arc<[Mailbox<Shard>]>,
        shared: &Shared,
        names: Vec<Arc<Names>>,
        on_nats: bool,
    ) -> Self {
        let (shards, shared) = (Arc::clone(shards), shared.clone());
        Self { since: shared.clock.now(), shards, shared, names: names.into(), on_nats }
    }

    /// What went on within about so long, a minute at most. A shard that does not answer is left out, and told as
    /// blocked.
    pub async fn evidence(&self, window: Duration) -> Evidence {
        let now = self.shared.clock.now();
        let start = times::window_start(now, window).max(self.since);
        let plan = self.shared.plan.get();
        // All at once: those that do not answer keep whoever asks waiting once.
        let within = Instant::now() + SHARD_PATIENCE;
        let asked = self.shards.iter().map(|shard| counted(shard, (start, now), within));
        let mut counted = Counted::default();
        join_all(asked).await.into_iter().for_each(|part| counted.add(part));
        let mut evidence = Evidence {
            node: plan.node_name.clone(),
            window_s: Duration::from_micros(now.since(start).0).as_secs_f64(),
            waiting: counted.waiting,
            in_flight: counted.in_flight,
            accounts_waiting: counted.accounts,
            slots: plan.collect.concurrency as u64,
            slots_open: self.shared.slots.available_permits() as u64,
            cpu: self.shared.pulses.cpu(start),
            store_away: self.shared.store_health.why(),
            nats_away: self.shared.back_health.is_away(),
            on_nats: self.on_nats,
            held: counted.held,
            held_count: counted.held_count,
            budgets: counted.budgets.into_iter().collect(),
            blocked: blocked(&self.shared.pulses.blocks(start), (start, now)),
            ..Evidence::default()
        };
        for names in self.names.iter() {
            evidence.names.add(&names.spent(start));
        }
        for (pair, sums) in counted.sums {
            let (platform, api) = called(&plan, &pair);
            for (cause, us) in sums.waits() {
                let limit = cause.place().and_then(|place| limit(&plan, &pair, place));
                let (platform, api) = (platform.clone(), api.clone());
                let seconds = Duration::from_micros(us).as_secs_f64();
                evidence.waits.push(Waited { platform, api, cause: cause.kind(), limit, seconds });
            }
            for phase in Phase::ALL {
                let spent = sums.phase(phase);
                if spent != Spent::default() {
                    let (platform, api) = (platform.clone(), api.clone());
                    let best_us = sums.best_us.filter(|_| phase == Phase::FirstByte);
                    evidence.phases.push(Phased { platform, api, phase, spent, best_us });
                }
            }
            if sums.ends.all() > 0 {
                evidence.ends.push(Ended { platform, api, ends: sums.ends });
            }
        }
        evidence
    }
}

/// What a shard counts, as far as it answers in time.
async fn counted(shard: &Mailbox<Shard>, window: (At, At), within: Instant) -> Counted {
    let mut counted = Counted::default();
    let mut from = Some(0);
    while let Some(place) = from {
        let asked = shard.send(Census { from: place, window });
        let Ok(Ok(mut part)) = timeout_at(within, asked).await else { break };
        from = part.next.take();
        counted.add(part);
    }
    counted
}

fn called(plan: &Plan, pair: &Pair) -> (String, String) {
    let Some((platform, api)) = pair else { return (OTHER.to_owned(), OTHER.to_owned()) };
    let known = plan.platforms.get(platform);
    let api = known.and_then(|known| known.apis.get(usize::from(*api)));
    (platform.to_string(), api.map_or_else(|| OTHER.to_owned(), |api| api.name.to_string()))
}

fn limit(plan: &Plan, pair: &Pair, place: usize) -> Option<String> {
    let (platform, _) = pair.as_ref()?;
    let limits = &plan.platforms.get(platform)?.limits;
    limits.limits().get(place).map(|limit| limit.name.clone())
}

fn blocked(blocks: &[Block], (start, now): (At, At)) -> Vec<Blocked> {
    let mut shards: BTreeMap<usize, Blocked> = BTreeMap::new();
    let seconds = |span: tollgate_gate::Span| Duration::from_micros(span.0).as_secs_f64();
    for block in blocks {
        let until = block.until.unwrap_or(now);
        let took = seconds(until.since(block.since.max(start)));
        let sum = shards.entry(block.shard).or_insert(Blocked {
            shard: block.shard,
            times: 0,
            seconds: 0.0,
            longest_s: 0.0,
            now: false,
            doing: block.doing,
            account: None,
            ran_s: 0.0,
            starved_s: 0.0,
        });
        sum.times += 1;
        sum.seconds += took;
        sum.now |= block.until.is_none();
        sum.ran_s += block.ran.map_or(0.0, seconds);
        sum.starved_s += block.starved.map_or(0.0, seconds);
        if took >= sum.longest_s {
            sum.longest_s = took;
            sum.doing = block.doing;
            let whose = block.account.as_ref();
            sum.account = whose.map(|key| format!("{}/{}", key.platform, key.account));
        }
    }
    shards.into_values().collect()
}
