//! Looks at the accounts of a node for whoever asks, from any thread.
//!
//! Shards are asked all at once and stretch by stretch, so that none is held up for longer than one stretch
//! takes; what is computed of that (what is to come of an account) is computed off their threads. A shard that does not
//! turn is waited for once, for [`PATIENCE`]: then what it has is left out, and its silence is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use actix::MailboxError;
use futures_util::future::join_all;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};
use tollgate_gate::{At, Ledger, Limit, LimitSet, Span};

use crate::budget::ShowUse;
use crate::clock::Clock;
use crate::cluster::PARTITIONS;
use crate::ids::{AccountKey, Slug};
use crate::mailbox::Mailbox;
use crate::plan::{Budget, Dim, Platform};
use crate::recipe::budget_of_all;
use crate::shard::context::{Shared, shard_of};
use crate::shard::showing::{
    Found, ListAccounts, Listed, LookAt, Paced, ShowAccount, ShowBudget, Sum, SumUp, Summed,
};
use crate::shard::{AccountLook, Look, Looks, Shard};
use crate::throttle::messages::{Show, Shown};
use crate::times::{self, Ends};
use crate::view::account::{self, Snapshot, rate_of};
use crate::view::eta::{
    Assumed, Common, Sharing, Sizes, UNKNOWN_LATENCY, WALKED_ALONE, WALKED_LEAST, outlook,
    walked_of,
};
use crate::view::list::Wanted;
use crate::view::{
    AccountView, AccountsPage, AccountsQuestion, Eta, NodeView, Overview, PlatformView, Rates,
    least,
};

/// How long a shard may take to answer: a hundred times what the longest turn of one that works takes.
const PATIENCE: Duration = Duration::from_secs(1);
/// A shard that has not answered is not asked again for so long, whoever asks.
const SILENT_FOR: Span = Span::from_secs(2);
/// Accounts of one answer that are walked forward; further ones have no ETA.
const WALKED_MAX: usize = 256;
/// Accounts that are walked for when all is done: those with the most to do for what their limits allow, and of as many
/// platforms the one with the most waiting.
const SLOWEST_MAX: usize = 16;
/// Accounts that a shard looks up in one turn.
const LOOKED_AT_ONCE: usize = 1_000;
/// What all accounts come to is looked at anew after so long: half of how often `top` asks.
const FRESH: Span = Span::from_millis(500);
/// When all is done is walked for anew after so long: it is the dearest of what an overview says.
const DONE_FRESH: Span = Span::from_secs(5);
/// Threads that walk for the ETAs of a list, of an account or of all, so CPUs that lookers-on can take.
static WALKS: Semaphore = Semaphore::const_new(2);
/// How long one more waits for that before it answers without ETAs.
const WALK_PATIENCE: Duration = Duration::from_secs(2);
/// Accounts of a list that are not walked by then are told by what their limits cost alone.
const WALK_MAX: Duration = Duration::from_millis(200);
/// Rates are told over about so long, and over a minute.
const SHORT: Duration = Duration::from_secs(15);

/// Looks at the accounts.
#[derive(Debug, Clone)]
pub struct Viewer {
    shards: Arc<[Mailbox<Shard>]>,
    shared: Shared,
    since: At,
    last: Arc<Mutex<Option<Arc<Known>>>>,
    done: Arc<Mutex<Option<(At, Eta)>>>,
    /// When each shard did not answer last, in microseconds.
    silences: Arc<[AtomicI64]>,
}

/// Which shards did not answer within one look.
#[derive(Debug)]
struct Silent(Box<[AtomicBool]>);

impl Silent {
    fn has(&self, shard: usize) -> bool {
        self.0[shard].load(Ordering::Relaxed)
    }

    fn add(&self, shard: usize) {
        self.0[shard].store(true, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.iter().filter(|is| is.load(Ordering::Relaxed)).count() as u64
    }
}

/// How fast attempts go, for what is to come.
#[derive(Debug, Default)]
struct Paces {
    /// By platform and number of the api.
    latencies: HashMap<(Slug, u16), Span>,
    /// How long attempts have their slots.
    slots: HashMap<Slug, Span>,
    /// Attempts, and those that brought something.
    ends: BTreeMap<Slug, Ends>,
}

/// What was seen when all accounts were looked through last.
#[derive(Debug)]
struct Known {
    at: At,
    all: Summed,
    paces: Paces,
    common: BTreeMap<Slug, Arc<[Common]>>,
    /// How long the windows of rates are.
    seconds: [f64; 2],
    /// Shards that are missing from all this.
    shards_silent: u64,
}

impl Viewer {
    pub(crate) fn new(shards: &Arc<[Mailbox<Shard>]>, shared: &Shared) -> Self {
        let (shards, shared) = (Arc::clone(shards), shared.clone());
        Self {
            since: shared.clock.now(),
            silences: shards.iter().map(|_| AtomicI64::new(At::MIN.0)).collect(),
            shards,
            shared,
            last: Arc::default(),
            done: Arc::default(),
        }
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// A look at all shards begins.
    fn begin(&self) -> Silent {
        Silent(self.shards.iter().map(|_| AtomicBool::new(false)).collect())
    }

    /// What a shard, or an actor on its thread, answers; nothing where it does not turn. Within one look that is waited
    /// for once, and for [`SILENT_FOR`] no other waits for it either.
    async fn hear<T>(
        &self,
        shard: usize,
        silent: &Silent,
        ask: impl AsyncFnOnce() -> Result<T, MailboxError>,
    ) -> Option<Result<T, MailboxError>> {
        let was = At(self.silences[shard].load(Ordering::Relaxed));
        let is_known = was > At::MIN && self.clock().now() < was.plus(SILENT_FOR);
        if !is_known && !silent.has(shard) {
            if let Ok(answer) = timeout(PATIENCE, ask()).await {
                return Some(answer);
            }
            self.silences[shard].store(self.clock().now().0, Ordering::Relaxed);
        }
        silent.add(shard);
        None
    }

    /// What a shard answers; nothing where it does not turn, or has ended.
    async fn ask<M>(&self, shard: usize, silent: &Silent, message: M) -> Option<M::Result>
    where
        M: actix::Message + Send + 'static,
        M::Result: Send,
        Shard: actix::Handler<M, Result = actix::MessageResult<M>>,
    {
        let asked = self.hear(shard, silent, async || self.shards[shard].send(message).await);
        let answer = asked.await?.ok();
        if answer.is_none() {
            silent.add(shard);
        }
        answer
    }

    /// Attempts of other nodes' accounts that are made here.
    pub fn guests(&self) -> u64 {
        self.shared.peers.spill().map_or(0, |spill| spill.guests() as u64)
    }

    /// The accounts of a platform, or one account, or all; at most `most` one by one, those with the
    /// most waiting first.
    pub async fn look(
        &self,
        platform: Option<String>,
        account: Option<String>,
        most: usize,
    ) -> Looks {
        let (mut all, silent) = (Looks::default(), self.begin());
        let asked = (0..self.shards.len()).map(|shard| {
            let look = Look { platform: platform.clone(), account: account.clone(), most };
            self.ask(shard, &silent, look)
        });
        for looks in join_all(asked).await.into_iter().flatten() {
            all.accounts.extend(looks.accounts);
            all.waiting += looks.waiting;
            all.in_flight += looks.in_flight;
            all.known += looks.known;
            all.live += looks.live;
        }
        let by_waiting = |look: &AccountLook| std::cmp::Reverse(look.waiting);
        all.accounts.sort_by_key(by_waiting);
        all.accounts.truncate(most);
        self.add_etas(&mut all.accounts, &silent).await;
        all
    }

    /// One account; nothing where nothing is known of it here.
    ///
    /// # Errors
    /// The shard that would know does not turn; the error is a sentence.
    pub async fn account(&self, key: AccountKey) -> Result<Option<AccountView>, String> {
        let silent = self.begin();
        let Some(shown) = self.snapshot(&key, true, &silent).await else {
            let shard = shard_of(&key, self.shards.len());
            let away = || format!("shard {shard}, which has the account, does not answer");
            return if silent.has(shard) { Err(away()) } else { Ok(None) };
        };
        let known = self.known().await;
        let assumed = self.assumed(&shown.platform, &known);
        let shown = Arc::new(shown);
        let walked = Arc::clone(&shown);
        let told = walk(move || outlook(&walked, &assumed, WALKED_ALONE)).await;
        let mut view = account::view(&shown, told.unwrap_or_default(), self.clock());
        view.node = self.shared.owned.is_shared().then(|| self.shared.plan.get().node_name.clone());
        Ok(Some(view))
    }

    /// A page of accounts; `only`: of these, whether anything is known of them or not.
    ///
    /// # Errors
    /// `after` is not where a page ended; the error is a sentence.
    pub async fn accounts(
        &self,
        question: &AccountsQuestion,
        only: Option<BTreeSet<AccountKey>>,
    ) -> Result<AccountsPage, String> {
        let wanted = Arc::new(Wanted::of(question)?);
        if let Some(only) = only {
            return Ok(self.page_of(&wanted, only).await);
        }
        let silent = self.begin();
        let listing = (0..self.shards.len()).map(|shard| self.listed(shard, &wanted, &silent));
        let (mut matching, mut rows) = (0, Vec::new());
        for (more, found) in join_all(listing).await {
            matching += more;
            rows.extend(found);
        }
        let mut page = wanted.page(matching, rows);
        self.add_etas(&mut page.accounts, &silent).await;
        page.shards_silent = silent.count();
        Ok(page)
    }

    /// How many accounts of a shard are wanted, and those of them that a page can need.
    async fn listed(
        &self,
        shard: usize,
        wanted: &Arc<Wanted>,
        silent: &Silent,
    ) -> (u64, Vec<AccountLook>) {
        let (mut matching, mut rows, mut from) = (0, Vec::new(), Some(0));
        while let Some(place) = from {
            let asked = ListAccounts { wanted: Arc::clone(wanted), from: place };
            let Some(Listed { next, matching: more, rows: found }) =
                self.ask(shard, silent, asked).await
            else {
                break;
            };
            from = next;
            matching += more;
            rows.extend(found);
            // Not more in hand than a few pages for each shard, however many accounts there are.
            if rows.len() > 4 * wanted.most {
                wanted.keep_first(&mut rows);
            }
        }
        (matching, rows)
    }

    /// A page of these accounts.
    async fn page_of(&self, wanted: &Wanted, only: BTreeSet<AccountKey>) -> AccountsPage {
        let (mut matching, mut rows) = (0, Vec::new());
        let only: Vec<AccountKey> = only
            .into_iter()
            .filter(|key| wanted.fits(key.platform.as_str(), key.account.as_str()))
            .collect();
        let silent = self.begin();
        for shard in 0..self.shards.len() {
            let own = only.iter().filter(|key| shard_of(key, self.shards.len()) == shard);
            let own: Vec<AccountKey> = own.cloned().collect();
            for some in own.chunks(LOOKED_AT_ONCE) {
                let Some(looks) = self.ask(shard, &silent, LookAt(some.to_vec())).await else {
                    break;
                };
                for look in looks {
                    if wanted.takes(&look) {
                        matching += 1;
                        rows.extend(wanted.is_on_page(&look).then_some(look));
                    }
                }
            }
        }
        let mut page = wanted.page(matching, rows);
        self.add_etas(&mut page.accounts, &silent).await;
        page.shards_silent = silent.count();
        page
    }

    /// What all accounts come to; what is kept beside the shards is the caller's to add.
    pub async fn overview(&self) -> Overview {
        let plan = self.shared.plan.get();
        let known = self.known().await;
        let mut overview = Overview::empty(self.clock().wall_at(known.at));
        overview.running = true;
        overview.shards_silent = known.shards_silent;
        overview.eta = self.all_done(&known).await;
        for (name, platform) in &plan.platforms {
            let none = Sum::default();
            let sum = known.all.platforms.get(name).unwrap_or(&none);
            let view = platform_view(platform, sum, &known.all.paces, known.seconds);
            overview.waiting += view.waiting;
            overview.without_eta += sum.endless;
            overview.in_flight += view.in_flight;
            overview.rates.add(&view.rates);
            overview.rates_minute.add(&view.rates_minute);
            if let Some(allowed) = view.allowed {
                *overview.allowed.get_or_insert(0.0) += allowed;
            }
            overview.platforms.push(view);
        }
        if overview.eta.is_none() {
            overview.without_eta = overview.waiting;
        }
        overview.nodes = vec![NodeView {
            node: plan.node_name.clone(),
            known: known.all.known,
            live: known.all.live,
            slots: plan.collect.concurrency as u64,
            slots_open: self.shared.slots.available_permits() as u64,
            partitions: self.shared.owned.ours().iter().count() as u32,
            guests: self.guests(),
            store_away: self.shared.store_health.is_away(),
            back_away: self.shared.back_health.is_away(),
        }];
        overview
    }

    /// Looks through all accounts, unless somebody has within [`FRESH`].
    async fn known(&self) -> Arc<Known> {
        let now = self.clock().now();
        // One at a time: who comes meanwhile has the same answer.
        let mut last = self.last.lock().await;
        if let Some(known) = last.as_ref().filter(|known| now.since(known.at) < FRESH) {
            return Arc::clone(known);
        }
        let since = [SHORT, times::WINDOW_MAX];
        let since = since.map(|window| times::window_start(now, window).max(self.since));
        let silent = self.begin();
        let summing = (0..self.shards.len()).map(|shard| self.summed(shard, since, &silent));
        let mut all = Summed::default();
        for own in join_all(summing).await {
            add(&mut all, own, true);
        }
        let paces = Paces::of(&all.paces);
        let common = self.common(&all, &paces, now, &silent).await;
        let seconds = since.map(|since| (now.since(since).0 as f64 / 1e6).max(0.001));
        let shards_silent = silent.count();
        let known = Arc::new(Known { at: now, all, paces, common, seconds, shards_silent });
        *last = Some(Arc::clone(&known));
        known
    }

    /// What the accounts of a shard come to.
    async fn summed(&self, shard: usize, since: [At; 2], silent: &Silent) -> Summed {
        let (mut own, mut from) = (Summed::default(), Some(0));
        while let Some(place) = from {
            let asked = SumUp { from: place, since };
            let Some(mut part) = self.ask(shard, silent, asked).await else { break };
            from = part.next.take();
            let is_last = from.is_none();
            add(&mut own, part, is_last);
        }
        own
    }

    /// What accounts share, by platform.
    async fn common(
        &self,
        all: &Summed,
        paces: &Paces,
        now: At,
        silent: &Silent,
    ) -> BTreeMap<Slug, Arc<[Common]>> {
        let plan = self.shared.plan.get();
        let slots: Vec<(Sizes, Span)> =
            all.platforms.iter().map(|(name, sum)| (sum.sizes.clone(), paces.slot(name))).collect();
        let concurrency = plan.collect.concurrency;
        let mut common: BTreeMap<Slug, Vec<Common>> = BTreeMap::new();
        for name in all.platforms.keys() {
            let rule = Sharing::Slots { slots: concurrency, calls: slots.clone() };
            let by = "collect.concurrency".to_owned();
            common.entry(name.clone()).or_default().push(Common { by, rule });
        }
        // Of a cluster this node sees its own accounts: the others are taken to be like them.
        let part =
            f64::from(self.shared.owned.ours().iter().count() as u32) / f64::from(PARTITIONS);
        for (name, platform) in &plan.platforms {
            let Some(sum) = all.platforms.get(name) else { continue };
            for (place, budget) in (0..).zip(&platform.budgets) {
                if !is_of_all(budget) {
                    continue;
                }
                let (limits, ledger) = self.used_of(platform, place, budget, silent).await;
                for used in ledger.uses(&limits, &[], now) {
                    let Some(limit) = limits.limits().get(used.limit) else { continue };
                    if limit.api.is_some() {
                        continue;
                    }
                    let (limit, used) = (Box::new(limit.clone()), Box::new(used));
                    let by = limit.name.clone();
                    let (sizes, lag) = (Box::new(sum.sizes.clone()), paces.lag(name, &limit));
                    let rule = Sharing::Limit { limit, used, sizes, part, lag };
                    common.entry(name.clone()).or_default().push(Common { by, rule });
                }
            }
        }
        common.into_iter().map(|(name, common)| (name, common.into())).collect()
    }

    /// What counts in a budget of all of a platform's calls; nothing of one that is another node's.
    async fn used_of(
        &self,
        platform: &Platform,
        place: u16,
        budget: &Budget,
        silent: &Silent,
    ) -> (Arc<LimitSet>, Ledger) {
        let unused = || (Arc::clone(&budget.counted.limits), Ledger::new());
        let Some(key) = budget_of_all(platform, place) else { return unused() };
        let shard = shard_of(key.record(), self.shards.len());
        let asked = ShowBudget(key.record().clone());
        let Some(Some(addr)) = self.ask(shard, silent, asked).await else { return unused() };
        match self.hear(shard, silent, async || addr.send(ShowUse).await).await {
            Some(Ok(used)) => used,
            _ => unused(),
        }
    }

    /// When the last of the accounts is done that may be the last: as of up to [`DONE_FRESH`] ago.
    async fn all_done(&self, known: &Known) -> Option<Eta> {
        let (now, wall) = (known.at, self.clock().wall_at(known.at));
        if known.all.platforms.values().all(|sum| sum.waiting == 0 && sum.in_flight == 0) {
            return None;
        }
        // One at a time: who comes meanwhile has the same answer.
        let mut last = self.done.lock().await;
        if let Some((_, eta)) =
            last.as_ref().filter(|(at, eta)| now.since(*at) < DONE_FRESH && eta.at > wall)
        {
            return Some(eta.clone());
        }
        let told = self.walk_all(known).await;
        *last = told.clone().map(|eta| (now, eta));
        told
    }

    async fn walk_all(&self, known: &Known) -> Option<Eta> {
        let mut work = Vec::new();
        let most = known.all.platforms.values().filter_map(|sum| sum.most.as_ref());
        let mut last: Vec<&AccountKey> =
            known.all.slowest.iter().chain(most.take(SLOWEST_MAX)).map(|(_, key)| key).collect();
        last.sort_unstable();
        last.dedup();
        let silent = self.begin();
        for key in last {
            if let Some(shown) = self.snapshot(key, false, &silent).await {
                let assumed = self.assumed(&shown.platform, known);
                work.push((shown, assumed));
            }
        }
        let clock = self.clock().clone();
        walk(move || {
            // A little way with each, and with the one that is last then the whole way.
            let last = work.iter().filter_map(|(shown, assumed)| {
                Some((outlook(shown, assumed, WALKED_LEAST).done?.at, shown, assumed))
            });
            let (_, shown, assumed) = last.max_by_key(|(at, ..)| *at)?;
            outlook(shown, assumed, WALKED_ALONE).done.map(|done| account::eta(done, &clock))
        })
        .await
        .flatten()
    }

    /// Says of each of the first accounts when it would be done.
    async fn add_etas(&self, looks: &mut [AccountLook], silent: &Silent) {
        if looks.is_empty() {
            return;
        }
        let known = self.known().await;
        let mut work = Vec::new();
        for (place, look) in looks.iter().enumerate().take(WALKED_MAX) {
            if look.waiting == 0 && look.in_flight == 0 {
                continue;
            }
            let Some(key) = key_of(&look.platform, &look.account) else { continue };
            let Some(shown) = self.snapshot(&key, false, silent).await else { continue };
            let assumed = self.assumed(&shown.platform, &known);
            work.push((place, shown, assumed));
        }
        let clock = self.clock().clone();
        let told = walk(move || {
            let (walked, begun) = (walked_of(work.len()), Instant::now());
            let told = work.iter().map(|(place, shown, assumed)| {
                let walked = if begun.elapsed() < WALK_MAX { walked } else { 0 };
                let done = outlook(shown, assumed, walked).done;
                (*place, done.map(|done| account::eta(done, &clock)))
            });
            told.collect::<Vec<_>>()
        });
        for (place, eta) in told.await.unwrap_or_default() {
            looks[place].eta = eta;
        }
    }

    /// `watched`: with its last answers, which are kept from now on.
    async fn snapshot(&self, key: &AccountKey, watched: bool, silent: &Silent) -> Option<Snapshot> {
        let shard = shard_of(key, self.shards.len());
        // An actor that has just gone to rest is found there at the second look.
        for _ in 0..2 {
            let asked = ShowAccount { key: key.clone(), watched };
            let (shown, around) = match self.ask(shard, silent, asked).await? {
                Found::Unknown => return None,
                Found::Here(shown, around) => (*shown, around),
                Found::Live(addr, around) => {
                    match self.hear(shard, silent, async || addr.send(Show).await).await? {
                        Ok(shown) => (shown, around),
                        Err(_) => continue,
                    }
                }
            };
            let Shown { platform, ledger, lanes, in_flight, because, cause, until } = shown;
            return Some(Snapshot {
                key: key.clone(),
                state: around.state,
                platform,
                ledger,
                lanes,
                in_flight,
                because,
                cause,
                until,
                beside: around.beside,
                answers: around.answers,
                now: self.clock().now(),
            });
        }
        None
    }

    fn assumed(&self, platform: &Platform, known: &Known) -> Assumed {
        let paces = &known.paces;
        let latency = |(api, _)| {
            let known = paces.latencies.get(&(platform.name.clone(), api));
            known.copied().unwrap_or(UNKNOWN_LATENCY)
        };
        Assumed {
            latencies: (0..).zip(&platform.apis).map(latency).collect(),
            concurrency: self.shared.plan.get().collect.concurrency,
            calls_per_fetch: paces.calls_per_fetch(&platform.name),
            common: known.common.get(&platform.name).cloned().unwrap_or_default(),
        }
    }
}

impl Paces {
    fn of(all: &[Paced]) -> Self {
        let mut paces = Self::default();
        let mut calls: HashMap<(Slug, u16), (u64, u64)> = HashMap::new();
        let mut slots: HashMap<Slug, (u64, u64)> = HashMap::new();
        for paced in all {
            let Some((platform, api)) = &paced.of else { continue };
            paces.ends.entry(platform.clone()).or_default().add(&paced.ends[1]);
            let count = paced.ends[1].all();
            let more = |sum: &mut (u64, u64), span: Option<Span>| {
                if let Some(span) = span {
                    *sum = (sum.0.saturating_add(span.0.saturating_mul(count)), sum.1 + count);
                }
            };
            more(calls.entry((platform.clone(), *api)).or_default(), paced.call);
            more(slots.entry(platform.clone()).or_default(), paced.slot);
        }
        let mean = |(us, count): (u64, u64)| (count > 0).then(|| Span(us / count));
        paces.latencies =
            calls.into_iter().filter_map(|(of, sum)| Some((of, mean(sum)?))).collect();
        paces.slots = slots.into_iter().filter_map(|(of, sum)| Some((of, mean(sum)?))).collect();
        paces
    }

    /// How long an attempt has its slot.
    fn slot(&self, platform: &Slug) -> Span {
        self.slots.get(platform).copied().unwrap_or(UNKNOWN_LATENCY)
    }

    /// How long after its going a call of a platform is charged by a limit.
    fn lag(&self, platform: &Slug, limit: &Limit) -> Span {
        let known = self.latencies.iter().filter(|((of, _), _)| of == platform);
        let latency = known.map(|(_, span)| *span).max().unwrap_or(UNKNOWN_LATENCY);
        match limit.window().and_then(|window| limit.guard.span(window)) {
            Some(guard) => guard.min(latency),
            None => latency,
        }
    }

    /// Calls for one that brings something. Few of them say nothing.
    fn calls_per_fetch(&self, platform: &Slug) -> f64 {
        const ENOUGH: u64 = 20;
        match self.ends.get(platform) {
            Some(ends) if ends.done >= ENOUGH => ends.all() as f64 / ends.done as f64,
            _ => 1.0,
        }
    }
}

/// Adds a stretch. Counts of a whole shard are told with each, and count once.
fn add(all: &mut Summed, part: Summed, is_last: bool) {
    for (name, more) in part.platforms {
        let sum = all.platforms.entry(name).or_default();
        sum.waiting += more.waiting;
        sum.in_flight += more.in_flight;
        sum.accounts += more.accounts;
        sum.held += more.held;
        sum.endless += more.endless;
        sum.allowed += more.allowed;
        sum.untold += more.untold;
        sum.sizes.join(&more.sizes);
        if let Some(most) = more.most
            && sum.most.as_ref().is_none_or(|(known, _)| most.0 > *known)
        {
            sum.most = Some(most);
        }
        for (cause, count) in more.causes {
            *sum.causes.entry(cause).or_default() += count;
        }
    }
    all.paces.extend(part.paces);
    all.slowest.extend(part.slowest);
    all.slowest.sort_unstable_by(|one, other| other.cmp(one));
    all.slowest.truncate(SLOWEST_MAX);
    if is_last {
        all.known += part.known;
        all.live += part.live;
    }
}

/// Whether every call of the platform counts in it.
fn is_of_all(budget: &Budget) -> bool {
    budget.when.always() && budget.dims == [Dim::Platform] && budget.special.is_empty()
}

fn platform_view(
    platform: &Platform,
    sum: &Sum,
    paces: &[Paced],
    seconds: [f64; 2],
) -> PlatformView {
    let mut ends = [Ends::default(); 2];
    for paced in paces {
        if paced.of.as_ref().is_some_and(|(of, _)| *of == platform.name) {
            ends[0].add(&paced.ends[0]);
            ends[1].add(&paced.ends[1]);
        }
    }
    // What all of a platform share bounds them together.
    let together = platform.budgets.iter().filter(|budget| is_of_all(budget));
    let limits = together.flat_map(|budget| budget.counted.limits.limits());
    let together = limits.filter(|limit| limit.api.is_none()).filter_map(rate_of);
    let shared = together.min_by(f64::total_cmp);
    let own = (sum.accounts > 0 && sum.untold == 0).then_some(sum.allowed);
    PlatformView {
        platform: platform.name.to_string(),
        waiting: sum.waiting,
        in_flight: sum.in_flight,
        accounts: sum.accounts,
        held: sum.held,
        causes: sum.causes.clone(),
        rates: rates(&ends[0], seconds[0]),
        rates_minute: rates(&ends[1], seconds[1]),
        allowed: least(shared, own),
        shared,
        own,
    }
}

fn rates(ends: &Ends, seconds: f64) -> Rates {
    let rate = |count: u64| count as f64 / seconds;
    Rates {
        calls: rate(ends.all()),
        done: rate(ends.done),
        throttled: rate(ends.throttled),
        unreachable: rate(ends.unreachable),
        store_away: rate(ends.store_away),
        failed: rate(ends.failed),
    }
}

fn key_of(platform: &str, account: &str) -> Option<AccountKey> {
    let platform = Slug::new(platform).ok()?;
    let account = crate::ids::Account::new(account).ok()?;
    Some(AccountKey { platform, account })
}

/// Walks where it holds nobody up. Nothing where [`WALKS`] are busy for longer than [`WALK_PATIENCE`].
async fn walk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let place = timeout(WALK_PATIENCE, WALKS.acquire()).await.ok()?.ok()?;
    let walked = tokio::task::spawn_blocking(move || {
        // It is free when the walk is over, also where nobody waits for that any more.
        let _place = place;
        work()
    });
    walked.await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_third_walk_waits_and_one_that_nobody_waits_for_has_its_place_until_it_ends() {
        let (end, ended) = channel::<()>();
        let ends = std::sync::Mutex::new(ended);
        let first = tokio::spawn(walk(move || ends.lock().unwrap().recv().is_err()));
        let (other, others) = channel::<()>();
        let others = std::sync::Mutex::new(others);
        let second = tokio::spawn(walk(move || others.lock().unwrap().recv().is_err()));
        while WALKS.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        let begun = Instant::now();
        assert_eq!(walk(|| 1).await, None);
        assert!(begun.elapsed() >= WALK_PATIENCE);
        drop(end);
        assert_eq!(walk(|| 2).await, Some(2));
        drop(other);
        assert_eq!(second.await.unwrap(), Some(true));
    }
}
