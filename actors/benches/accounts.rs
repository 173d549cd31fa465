//! What accounts cost a shard: bytes for one that is known and idle, lateness of one that waits for a
//! deadline. One shard on one thread; queue, ledger and provider are stubs that keep nothing and answer at
//! once, so what is measured is the shard's own.
//!
//! `cargo bench -p tollgate-actors --bench accounts [-- IDLE PENDING [metrics]]`, by default 1000000 and 100000;
//! with `metrics` everything is recorded as in a node that is asked for them.

#![allow(clippy::print_stdout)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, ready};
use futures_util::{FutureExt, StreamExt};
use http::HeaderMap;
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tollgate_actors::clock::Clock;
use tollgate_actors::config;
use tollgate_actors::http::{Answer, CallBounds, CallError, OnWritten, Transport};
use tollgate_actors::ids::{Account, AccountKey, LaneKey, Priority, Seq, Slug};
use tollgate_actors::ledger::{Ledger, LedgerFuture, Stored};
use tollgate_actors::queue::{
    Appended, Ending, LaneCount, LaneCursor, LanePage, Letter, NewFetch, Noted, Queue, QueueFuture,
    Queued, Wake,
};
use tollgate_actors::recipe::Request;
use tollgate_actors::shard::context::Shared;
use tollgate_actors::shard::store_health::StoreHealth;
use tollgate_actors::shard::{Found, Look, Shard, Work};
use tollgate_actors::store::Store;
use tollgate_actors::telemetry::Totals;
use tollgate_protos::Dead;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Every lane has an endless row of fetches; none is kept.
#[derive(Debug)]
struct Endless;

impl Queue for Endless {
    fn name(&self) -> Arc<str> {
        "bench".into()
    }

    fn append(&self, _: Vec<NewFetch>) -> QueueFuture<Vec<Appended>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn first(&self, lane: LaneKey, after: Option<Seq>, _: usize) -> QueueFuture<Vec<Queued>> {
        let seq = Seq(after.map_or(1, |seq| seq.0 + 1));
        let payload = format!(
            r#"{{"id":"{seq}","platform":"p","account":"{}","api":"a"}}"#,
            lane.account.account
        );
        let queued_at = Timestamp::UNIX_EPOCH;
        let payload = payload.into();
        ready(Ok(vec![Queued {
            seq,
            origin: seq,
            queued_at,
            payload,
            content_type: None,
            traceparent: None,
        }]))
        .boxed()
    }

    fn lanes(&self, _: Option<LaneCursor>) -> QueueFuture<LanePage> {
        ready(Ok(LanePage::default())).boxed()
    }

    fn account_lanes(&self, _: AccountKey) -> QueueFuture<Vec<LaneCount>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn finish(&self, _: LaneKey, _: Seq, _: Ending) -> QueueFuture<()> {
        ready(Ok(())).boxed()
    }

    fn note(&self, _: LaneKey, _: Seq) -> QueueFuture<Option<Noted>> {
        ready(Ok(None)).boxed()
    }

    fn keep_note(&self, _: LaneKey, _: Seq, _: u64, _: Bytes) -> QueueFuture<Option<u64>> {
        ready(Ok(Some(1))).boxed()
    }

    fn drop_note(&self, _: LaneKey, _: Seq) -> QueueFuture<()> {
        ready(Ok(())).boxed()
    }

    fn postpone(&self, _: LaneKey, _: Seq, _: Timestamp) -> QueueFuture<()> {
        ready(Ok(())).boxed()
    }

    fn postponed(&self) -> QueueFuture<u64> {
        ready(Ok(0)).boxed()
    }

    fn bury(&self, _: [u8; 16], _: Dead) -> QueueFuture<bool> {
        ready(Ok(false)).boxed()
    }

    fn dead_count(&self) -> QueueFuture<u64> {
        ready(Ok(0)).boxed()
    }

    fn dead(&self, _: Option<Seq>, _: usize) -> QueueFuture<Vec<Letter>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn revive(&self, _: Seq, _: Option<NewFetch>) -> QueueFuture<bool> {
        ready(Ok(false)).boxed()
    }

    fn wakes(&self) -> mpsc::Receiver<Wake> {
        mpsc::channel(1).1
    }
}

/// Takes every record and keeps none.
#[derive(Debug)]
struct Forgetful;

impl Ledger for Forgetful {
    fn session(&self) -> u64 {
        1
    }

    fn load(&self, _: AccountKey) -> LedgerFuture<Option<Stored>> {
        ready(Ok(None)).boxed()
    }

    fn store(&self, _: AccountKey, expected: u64, _: bytes::Bytes) -> LedgerFuture<u64> {
        ready(Ok(expected + 1)).boxed()
    }
}

/// Answers 404 at once and notes how late each account's second call is.
#[derive(Debug, Default)]
struct Provider {
    gap: Duration,
    first: RefCell<HashMap<String, Instant>>,
    late_us: RefCell<Vec<u128>>,
}

#[derive(Debug, Clone)]
struct Stub(Rc<Provider>);

impl Transport for Stub {
    fn send(
        &self,
        request: Request,
        _: CallBounds,
        on_written: OnWritten,
    ) -> LocalBoxFuture<'static, Result<Answer, CallError>> {
        let now = Instant::now();
        if self.0.gap > Duration::ZERO {
            let account = request.url.path().to_owned();
            match self.0.first.borrow_mut().entry(account) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    let due = *first.get() + self.0.gap;
                    self.0.late_us.borrow_mut().push(now.duration_since(due).as_micros());
                }
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(now);
                }
            }
        }
        drop(on_written);
        let body = futures_util::stream::empty().boxed_local();
        ready(Ok(Answer { status: 404, headers: HeaderMap::new(), body })).boxed_local()
    }
}

fn shared(every: &str) -> Shared {
    let text = format!(
        "[store]\nurl = \"memory:\"\n[platforms.p]\nbase_url = \"http://p.test/\"\n\
         [platforms.p.limits]\ngap = {{ per = [\"account\"], every = \"{every}\" }}\n\
         [platforms.p.apis.a]\npath = \"{{account}}\"\n"
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("written");
    let loaded = config::load(Some(file.path()), std::iter::empty(), &[]).expect("it is right");
    let plan = Arc::new(loaded.plan);
    let clock = Clock::new();
    Shared {
        pulses: Arc::default(),
        owned: tollgate_actors::cluster::Owned::default(),
        auth: tollgate_actors::auth::Keeper::new(clock.clone()).0,
        shuts: tollgate_actors::observe::Shuts::default(),
        holds: tollgate_actors::holds::Holds::default(),
        clock,
        queue: Arc::new(Endless),
        ledger: Arc::new(Forgetful),
        store: Store::memory(1 << 28).expect("room for a body"),
        totals: Arc::new(Totals::default()),
        slots: Arc::new(Semaphore::new(plan.collect.concurrency)),
        landings: Arc::new(Semaphore::new(plan.collect.concurrency)),
        alone: Arc::new(Semaphore::new(1)),
        store_health: Arc::new(StoreHealth::default()),
        back_health: Arc::default(),
        peers: Arc::default(),
        signals: None,
        plan: tollgate_actors::plan::InForce::new(plan),
    }
}

fn found(number: u64, count: u64) -> Found {
    let account = Account::new(&format!("act_{number}")).expect("a name");
    let account = AccountKey { platform: Slug::new("p").expect("a name"), account };
    let api = Slug::new("a").expect("a name");
    Found { lane: LaneKey { account, api, priority: Priority::Normal }, count, all: true }
}

fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<u64>().unwrap_or(0) * 1024
}

async fn idle(accounts: u64) {
    let shared = shared("24h");
    let totals = shared.totals.clone();
    let shard = Shard::start_here(0, shared, Rc::new(Stub(Rc::default())));
    let before = rss_bytes();
    let started = Instant::now();
    for batch in 0..accounts.div_ceil(1000) {
        let work = (batch * 1000..((batch + 1) * 1000).min(accounts)).map(|n| found(n, 1));
        shard.send(Work(work.collect())).await.expect("the shard lives");
        // As many at once as a node would have in flight.
        while totals.fetches_dead.get() + 4000 < (batch + 1) * 1000 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    while totals.fetches_dead.get() < accounts {
        sleep(Duration::from_millis(1)).await;
    }
    let took = started.elapsed().as_secs_f64();
    // They rest once their last messages are handled.
    sleep(Duration::from_millis(500)).await;
    let look = Look { platform: None, account: None, most: 0 };
    let looks = shard.send(look).await.expect("the shard lives");
    let bytes = rss_bytes().saturating_sub(before);
    println!(
        "idle: {} accounts known, {} with an actor: {:.0} bytes each (RSS {:.0} MB), {:.1} us for each call",
        looks.known,
        looks.live,
        bytes as f64 / accounts as f64,
        rss_bytes() as f64 / 1e6,
        took * 1e6 / accounts as f64,
    );
}

async fn pending(accounts: u64) {
    const PER_SECOND: u64 = 5000;
    let gap = Duration::from_secs(accounts.div_ceil(PER_SECOND) + 10);
    let provider = Rc::new(Provider { gap, ..Provider::default() });
    let shared = shared(&format!("{}s", gap.as_secs()));
    let shard = Shard::start_here(0, shared, Rc::new(Stub(provider.clone())));
    let start = Instant::now();
    for tick in 0..accounts.div_ceil(PER_SECOND / 100) {
        let each = PER_SECOND / 100;
        let work = (tick * each..((tick + 1) * each).min(accounts)).map(|n| found(n, 2));
        shard.send(Work(work.collect())).await.expect("the shard lives");
        tokio::time::sleep_until(start + Duration::from_millis(10 * (tick + 1))).await;
    }
    let look = Look { platform: None, account: None, most: 0 };
    let looks = shard.send(look).await.expect("the shard lives");
    println!("pending: {} accounts wait, {} with an actor", looks.waiting, looks.live);
    let wanted = usize::try_from(accounts).expect("a number of accounts");
    while provider.late_us.borrow().len() < wanted {
        sleep(Duration::from_millis(10)).await;
    }
    let mut late = provider.late_us.borrow().clone();
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    println!(
        "pending: {} deadlines at {PER_SECOND} a second, late p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        late.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let accounts = numbers.first().copied().unwrap_or(1_000_000);
    let deadlines = numbers.get(1).copied().unwrap_or(100_000);
    if std::env::args().any(|arg| arg == "metrics") {
        let handle = PrometheusBuilder::new().install_recorder().expect("the first one");
        let upkeep = move || {
            loop {
                handle.run_upkeep();
                std::thread::park_timeout(Duration::from_secs(1));
            }
        };
        std::thread::spawn(upkeep);
    }
    actix_rt::System::new().block_on(idle(accounts));
    if deadlines > 0 {
        actix_rt::System::new().block_on(pending(deadlines));
    }
}
