//! Looks at a node for what is wrong for long, and has it told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tollgate_gate::Span;

use crate::cluster::part_of;
use crate::health::SHARD_PATIENCE;
use crate::ids::{AccountKey, Slug};
use crate::mailbox::Mailbox;
use crate::notify::watch::{HeldNow, Watch, letters_of};
use crate::notify::webhook::{Poster, Posting};
use crate::notify::{Signal, Signals, Way};
use crate::plan::NotifyPlan;
use crate::queue::{DEAD_MAX, QueueError};
use crate::shard::Shard;
use crate::shard::context::Shared;
use crate::shard::held::{LISTED_MAX, WhoIsHeld};

/// Accounts that are listed of one shard, whatever their platforms.
const LISTED_OF_SHARD: usize = 1024;
/// Between two counts of dead letters: the least, and where nothing says that there are more or fewer.
const DEAD_LEAST: Duration = Duration::from_secs(5);
const DEAD_EVERY: Duration = Duration::from_secs(60);
/// Counting may take a hundredth of the time.
const DEAD_REST: u32 = 100;
/// Letters that are looked at where the queue cannot count them by itself; with more the numbers are what they are at
/// least.
const LETTERS_MAX: usize = 20_000;

/// What looks and tells while a node works.
#[derive(Debug)]
pub(super) struct Noticing {
    task: JoinHandle<()>,
    posts: Vec<Posting>,
}

/// What is ready to, before the shards start.
pub(super) struct Ready {
    pub(super) signals: Signals,
    watch: Watch,
    heard: mpsc::Receiver<Signal>,
    posts: Vec<Posting>,
}

impl Ready {
    /// The ways out, `more` beside those that post.
    pub(super) fn new(
        plan: &NotifyPlan,
        node: &str,
        shared: &Shared,
        more: Option<Way>,
    ) -> Result<Self, reqwest::Error> {
        let mut ways: Vec<Way> = more.into_iter().collect();
        let mut posts = Vec::new();
        for webhook in &plan.webhooks {
            let (way, end) = Way::new(webhook.name.as_str());
            posts.push(Poster::new(webhook.clone(), end, &shared.clock)?.start());
            ways.push(way);
        }
        let (signals, heard) = Signals::new();
        let watch = Watch::new(plan, node, &shared.clock, ways);
        Ok(Self { signals, watch, heard, posts })
    }

    /// Looks and tells from now on.
    pub(super) fn start(self, shared: Shared, shards: Arc<[Mailbox<Shard>]>) -> Noticing {
        let look = Looking { shared, shards, dead_at: None, dead_before: 0 };
        let task = actix_rt::spawn(look.run(self.watch, self.heard));
        Noticing { task, posts: self.posts }
    }
}

impl Noticing {
    /// Posts what is still to be posted; both within a bound.
    pub(super) async fn end(self) {
        self.task.abort();
        futures_util::future::join_all(self.posts.into_iter().map(Posting::end)).await;
    }
}

struct Looking {
    shared: Shared,
    shards: Arc<[Mailbox<Shard>]>,
    /// When dead letters are counted next at the latest, and at the earliest.
    dead_at: Option<(Instant, Instant)>,
    /// Fetches that had died here at the last count.
    dead_before: u64,
}

impl Looking {
    async fn run(mut self, mut watch: Watch, mut heard: mpsc::Receiver<Signal>) {
        let every = watch.look_every();
        let mut next = Instant::now() + every;
        loop {
            tokio::select! {
                signal = heard.recv() => match signal {
                    Some(signal) => watch.hear(signal),
                    None => return,
                },
                () = sleep_until(next) => {
                    self.look(&mut watch).await;
                    watch.tell();
                    next = Instant::now() + every;
                }
            }
        }
    }

    async fn look(&mut self, watch: &mut Watch) {
        watch.look();
        let owned = self.shared.owned.clone();
        let is_ours = |key: &AccountKey| owned.is_ours(part_of(key));
        watch.goes_by(is_ours);
        watch.held(self.held().await);
        watch.store(self.shared.store_health.why());
        let now = self.shared.clock.now();
        for block in self.shared.pulses.blocks(now.minus(Span::from(watch.look_every()))) {
            if block.until.is_none() {
                watch.blocked(block.shard, block.since, block.doing.as_str());
            }
        }
        let died = self.shared.totals.fetches_dead.get();
        let is_due = self.dead_at.is_none_or(|(latest, earliest)| {
            let changes = died != self.dead_before || watch.knows_of_dead();
            Instant::now() >= if changes { earliest } else { latest }
        });
        if !is_due {
            watch.dead_unknown();
            return;
        }
        let began = Instant::now();
        self.dead_before = died;
        match self.dead_counts().await {
            Err(_) => watch.dead_unknown(),
            Ok(counts) => {
                for (platform, count) in &counts {
                    if is_ours(&letters_of(platform)) {
                        watch.dead(platform, *count);
                    }
                }
            }
        }
        let rest = (began.elapsed() * DEAD_REST).clamp(DEAD_LEAST, DEAD_EVERY);
        self.dead_at = Some((Instant::now() + DEAD_EVERY, Instant::now() + rest));
    }

    /// Nothing if a shard does not answer.
    async fn held(&self) -> Option<HeldNow> {
        let mut held = HeldNow::default();
        for shard in self.shards.iter() {
            let mut from = Some(0);
            let mut listed: BTreeMap<Slug, u64> = BTreeMap::new();
            let room = held.listed.len() + LISTED_OF_SHARD;
            while let Some(place) = from {
                let asked = shard.send(WhoIsHeld { from: place });
                let part = timeout(SHARD_PATIENCE, asked).await.ok()?.ok()?;
                from = part.next;
                for one in part.listed {
                    let count = listed.entry(one.key.platform.clone()).or_default();
                    *count += 1;
                    if *count <= LISTED_MAX && held.listed.len() < room {
                        held.listed.push(one);
                    }
                }
                for (platform, count) in part.counts {
                    *held.counts.entry(platform).or_default() += count;
                }
            }
        }
        Some(held)
    }

    /// Dead letters that are kept, by platform.
    async fn dead_counts(&self) -> Result<BTreeMap<Slug, u64>, QueueError> {
        let platforms: Vec<Slug> = self.shared.plan.get().platforms.keys().cloned().collect();
        if let Some(counts) = self.shared.queue.dead_counts(platforms).await? {
            return Ok(counts);
        }
        let (mut counts, mut after, mut seen) = (BTreeMap::new(), None, 0);
        while seen < LETTERS_MAX {
            let letters = self.shared.queue.dead(after, DEAD_MAX).await?;
            let Some(last) = letters.last() else { break };
            after = Some(last.number);
            seen += letters.len();
            let named = letters.iter().filter_map(|letter| letter.dead.fetch.as_ref());
            for platform in named.filter_map(|fetch| Slug::new(fetch.platform.as_deref()?).ok()) {
                *counts.entry(platform).or_default() += 1;
            }
        }
        Ok(counts)
    }
}
