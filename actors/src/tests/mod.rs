//! The actors as a whole: one shard on the System's own thread, paused time, a provider by script, queue,
//! ledger and store in memory. Times are therefore exact: a call that could go at 5.000 s goes at 5.000 s.

mod answers;
mod auth;
mod blocks;
mod budgets;
mod budgets_told;
mod chaos;
mod cut_off;
mod doubt;
mod drain;
mod earliest;
pub(crate) mod events;
mod fence;
mod fresh;
mod health;
mod holds;
mod jobs;
mod kinds;
mod lanes;
mod ledger;
mod lending;
mod metrics;
mod nodes;
mod observing;
mod once;
mod oracle;
mod pages;
mod panics;
mod reload;
mod resting;
mod retries;
mod seams;
mod showing;
mod sim;
mod slots;
mod store_away;
mod supervision;
mod unknown;
mod versions;
mod wakes;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::auth::Keeper;
use crate::auth::vault::MemoryVault;
use crate::calendar::{Line, plan_on};
use crate::clock::Clock;
use crate::http::CallError;
use crate::http::scripted::{Reply, Scripted, Seen};
use crate::ids::{Account, AccountKey, LaneKey, Priority, Seq, Slug};
use crate::ledger::memory::MemoryLedger;
use crate::mailbox::Mailbox;
use crate::observe::Shuts;
use crate::plan::Plan;
use crate::queue::memory::MemoryQueue;
use crate::queue::{Appended, NewFetch, Queue};
use crate::shard::context::Shared;
use crate::shard::store_health::StoreHealth;
use crate::shard::{Found, Look, Looks, Reload, Shard, Work};
use crate::store::Store;
use crate::telemetry::Totals;

pub(super) use seams::Event;
use seams::{Log, WatchedLedger, WatchedQueue};
pub(super) use sim::{buckets, buckets_that_end, is_simulated};

/// A shard and all it stands on.
pub(super) struct Rig {
    pub(super) shard: Mailbox<Shard>,
    pub(super) shared: Shared,
    pub(super) wire: Scripted,
    /// The queue behind the one that the shard has: without log and faults.
    pub(super) queue: MemoryQueue,
    pub(super) watched_queue: WatchedQueue,
    pub(super) ledger: WatchedLedger,
    pub(super) log: Log,
    pub(super) start: Instant,
}

/// What a rig is made of.
pub(super) struct Setup {
    /// TOML of the platform `p`: limits and apis.
    pub(super) platform: String,
    pub(super) concurrency: usize,
    pub(super) attempts_max: u32,
    pub(super) store: Option<Store>,
    /// Who hears of deadlines that are missed.
    pub(super) signals: Option<crate::notify::Signals>,
}

/// Two apis, `a` and `b`, and these limits, such as `gap = { per = ["account"], every = "1s" }`.
pub(super) fn limits(limits: &str) -> Setup {
    let platform = format!(
        "[platforms.p.limits]\n{limits}\n\
         [platforms.p.apis.a]\npath = \"a/{{id}}\"\n[platforms.p.apis.b]\npath = \"b/{{id}}\"\n"
    );
    Setup { platform, concurrency: 64, attempts_max: 5, store: None, signals: None }
}

impl Setup {
    pub(super) fn concurrency(self, concurrency: usize) -> Self {
        Self { concurrency, ..self }
    }

    pub(super) fn attempts_max(self, attempts_max: u32) -> Self {
        Self { attempts_max, ..self }
    }
}

/// The wall time at which every test begins.
pub(super) fn wall() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

pub(super) fn plan(setup: &Setup) -> Plan {
    let text = format!(
        "[store]\nurl = \"memory:\"\ncompression = \"none\"\n\
         [collect]\nshards = 1\nconcurrency = {}\nattempts_max = {}\n\
         [platforms.p]\nbase_url = \"http://p.test/\"\nheaders = {{ X-Account = \"{{account}}\" }}\n{}",
        setup.concurrency, setup.attempts_max, setup.platform
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    match crate::config::load(Some(file.path()), std::iter::empty(), &[]) {
        Ok(loaded) => loaded.plan,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

/// Runs a test on paused time, with a System of its own.
pub(super) fn paused<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    paused_with(tokio::runtime::Builder::enable_all, test);
}

/// The same with those parts of tokio only.
pub(super) fn paused_with<F: Future<Output = ()>>(
    parts: fn(&mut tokio::runtime::Builder) -> &mut tokio::runtime::Builder,
    test: impl FnOnce() -> F,
) {
    // A clock that never ran: paused later, it would stand between two ticks of tokio's timer, and each sleep
    // would end a tick late.
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        parts(&mut runtime).start_paused(true).build().unwrap()
    };
    actix_rt::System::with_tokio_rt(runtime).block_on(async { test().await });
}

impl Rig {
    pub(super) fn start(setup: Setup, script: impl Fn(&Seen) -> Reply + 'static) -> Self {
        let clock = Clock::starting_at(wall());
        let queue = MemoryQueue::starting(wall());
        Self::start_on(setup, clock, queue, MemoryLedger::new(), script)
    }

    /// A shard on a queue and a ledger that exist already.
    pub(super) fn start_on(
        setup: Setup,
        clock: Clock,
        queue: MemoryQueue,
        ledger: MemoryLedger,
        script: impl Fn(&Seen) -> Reply + 'static,
    ) -> Self {
        let owned = crate::cluster::Owned::default();
        Self::start_owning(setup, clock, queue, (ledger, owned), script)
    }

    /// The same of a node that owns only some partitions.
    pub(super) fn start_owning(
        setup: Setup,
        clock: Clock,
        queue: MemoryQueue,
        (ledger, owned): (MemoryLedger, crate::cluster::Owned),
        script: impl Fn(&Seen) -> Reply + 'static,
    ) -> Self {
        let plan = plan_on(&Arc::new(plan(&setup)), &Line::Clock(clock.clone()));
        let log = Log::default();
        let watched_queue = WatchedQueue::new(queue.clone());
        let ledger = WatchedLedger::new(ledger, log.clone());
        let store = setup.store.unwrap_or_else(|| Store::memory(1 << 30).unwrap());
        let (auth, worker) = Keeper::new(clock.clone());
        let has_auth = plan.platforms.values().any(|platform| {
            platform.auth.is_some() || platform.apis.iter().any(|api| api.auth.is_some())
        });
        let shared = Shared {
            pulses: Arc::default(),
            signals: setup.signals,
            owned,
            auth,
            shuts: Shuts::default(),
            clock: clock.clone(),
            queue: Arc::new(watched_queue.clone()),
            ledger: Arc::new(ledger.clone()),
            store,
            totals: Arc::new(Totals::default()),
            slots: Arc::new(Semaphore::new(plan.collect.concurrency)),
            landings: Arc::new(Semaphore::new(plan.collect.concurrency)),
            alone: Arc::new(Semaphore::new(1)),
            holds: crate::holds::Holds::default(),
            store_health: Arc::new(StoreHealth::default()),
            back_health: Arc::default(),
            peers: Arc::default(),
            plan: crate::plan::InForce::new(plan),
        };
        let calls = log.clone();
        let wire = Scripted::new(clock, move |seen| {
            calls.push(called(seen));
            script(seen)
        });
        if has_auth {
            let vault = Arc::new(MemoryVault::default());
            actix_rt::spawn(worker.run(Rc::new(wire.clone()), vault, shared.plan.clone()));
        }
        let shard = Shard::start_here(0, shared.clone(), Rc::new(wire.clone()));
        let mut wakes = queue.wakes();
        let told = shard.clone();
        actix_rt::spawn(async move {
            while let Some(wake) = wakes.recv().await {
                let found = Found { lane: wake.lane, count: wake.count, all: false };
                told.send(Work(vec![found])).await.ok();
            }
        });
        let start = Instant::now();
        Self { shard, shared, wire, queue, watched_queue, ledger, log, start }
    }

    /// Answers anew from now on; calls are logged as before.
    pub(super) fn answer(&self, script: impl Fn(&Seen) -> Reply + 'static) {
        let calls = self.log.clone();
        self.wire.answer(move |seen| {
            calls.push(called(seen));
            script(seen)
        });
    }

    /// Another configuration is in force when this returns, as after a reload by the node.
    pub(super) async fn reload(&self, setup: &Setup) {
        let line = Line::Clock(self.shared.clock.clone());
        let plan = plan_on(&Arc::new(plan(setup)), &line);
        self.shard.send(Reload(Arc::clone(&plan))).await.unwrap();
        self.shared.plan.put(plan);
        self.discover().await;
    }

    /// Puts a fetch into the queue.
    pub(super) async fn put(&self, account: &str, api: &str, id: &str) -> Seq {
        self.put_as(account, api, id, Priority::Normal, "").await
    }

    /// The same with a priority and further fields, such as `"deadline":"…"`.
    pub(super) async fn put_as(
        &self,
        account: &str,
        api: &str,
        id: &str,
        priority: Priority,
        fields: &str,
    ) -> Seq {
        let lane = lane(account, api, priority);
        let comma = if fields.is_empty() { "" } else { "," };
        let payload = format!(
            r#"{{"id":"{id}","platform":"p","account":"{account}","api":"{api}"{comma}{fields}}}"#
        );
        let parsed: serde_json::Value = serde_json::from_str(&payload).unwrap();
        let not_before = parsed.get("not_before").map(|at| at.as_str().unwrap().parse().unwrap());
        let fetch = NewFetch { lane, id: id.into(), payload: payload.into(), not_before };
        self.shared.totals.come(1);
        loop {
            match self.queue.append(vec![fetch.clone()]).await.as_deref() {
                Ok([Appended::New(seq)]) => {
                    self.log.name(*seq, id);
                    return *seq;
                }
                Ok(other) => panic!("{id} was not new: {other:?}"),
                // A test asked for that; it does not mean its own fetches.
                Err(_) => {}
            }
        }
    }

    /// Puts `count` fetches: `ACCOUNT-API-NUMBER`.
    pub(super) async fn put_many(&self, account: &str, api: &str, count: usize) {
        for number in 0..count {
            self.put(account, api, &format!("{account}-{api}-{number}")).await;
        }
    }

    /// Tells the shard of everything that waits, as a node does every minute.
    pub(super) async fn discover(&self) {
        let Ok(page) = self.queue.lanes(None).await else { return };
        let found = page.lanes.into_iter().map(|count| Found {
            lane: count.lane,
            count: count.waiting,
            all: true,
        });
        self.shard.send(Work(found.collect())).await.unwrap();
    }

    /// Waits until every fetch has ended.
    ///
    /// # Panics
    /// When some have not within that time.
    pub(super) async fn all_end(&self, within: Duration) {
        let deadline = Instant::now() + within;
        while self.shared.totals.outstanding() > 0 {
            assert!(
                Instant::now() < deadline,
                "{} fetches have not ended after {within:?}; queue {:?}; {:?}; calls {:?}",
                self.shared.totals.outstanding(),
                self.queue.lanes(None).await.unwrap(),
                self.look().await,
                self.calls(),
            );
            sleep((within / 5000).clamp(ms(10), secs(1))).await;
        }
        let left = self.queue.lanes(None).await.unwrap().lanes;
        assert!(left.is_empty(), "counted as ended but still in the queue: {left:?}");
    }

    pub(super) async fn look(&self) -> Looks {
        let all = Look { platform: None, account: None, most: 100 };
        self.shard.send(all).await.unwrap()
    }

    /// Every call: milliseconds since the start, and the fetch's id.
    pub(super) fn calls(&self) -> Vec<(u64, String)> {
        let seen = self.wire.seen();
        seen.iter().map(|seen| (self.ms(seen.begun), id_of(seen))).collect()
    }

    /// The calls of one account.
    pub(super) fn calls_of(&self, account: &str) -> Vec<(u64, String)> {
        let seen = self.wire.seen();
        let own = seen.iter().filter(|seen| account_of(seen) == account);
        own.map(|seen| (self.ms(seen.begun), id_of(seen))).collect()
    }

    /// When one fetch was called.
    pub(super) fn times_of(&self, id: &str) -> Vec<u64> {
        self.calls().iter().filter(|(_, called)| called == id).map(|(ms, _)| *ms).collect()
    }

    pub(super) fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.start).as_millis()).unwrap()
    }

    /// Sleeps until that many milliseconds after the start.
    pub(super) async fn at(&self, ms: u64) {
        tokio::time::sleep_until(self.start + Duration::from_millis(ms)).await;
    }

    pub(super) fn done(&self) -> u64 {
        self.shared.totals.fetches_done.get()
    }

    /// The codes of dead letters by id.
    pub(super) async fn dead(&self) -> Vec<(String, String)> {
        let dead = self.queue.dead(None, 1000).await.unwrap();
        dead.into_iter()
            .map(|letter| letter.dead)
            .map(|dead| (dead.fetch.and_then(|fetch| fetch.id).unwrap_or_default(), dead.code))
            .collect()
    }
}

pub(super) fn key(account: &str) -> AccountKey {
    let platform = Slug::new("p").unwrap();
    AccountKey { platform, account: Account::new(account).unwrap() }
}

pub(super) fn lane(account: &str, api: &str, priority: Priority) -> LaneKey {
    LaneKey { account: key(account), api: Slug::new(api).unwrap(), priority }
}

fn called(seen: &Seen) -> Event {
    Event::Call { account: account_of(seen), api: api_of(seen), id: id_of(seen) }
}

/// The account that a call names.
pub(super) fn account_of(seen: &Seen) -> String {
    seen.header("x-account").to_owned()
}

/// The id of the fetch that a call was made for.
pub(super) fn id_of(seen: &Seen) -> String {
    seen.url.path_segments().unwrap().next_back().unwrap().to_owned()
}

/// The api of a call.
pub(super) fn api_of(seen: &Seen) -> String {
    seen.url.path_segments().unwrap().next().unwrap().to_owned()
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
