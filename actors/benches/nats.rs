//! What the queue and the ledger on NATS take, against a real nats-server (found as the tests find it).
//!
//! `cargo bench -p tollgate-actors --bench nats [-- queue | ledger]`, by default both; several minutes.
//! Queue: a million fetches of 100,000 accounts, then of one: published, listed, taken and finished. Ledger:
//! from the store of a record until it is confirmed, with the server's own sync and with `always`; claims.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tempfile::TempDir;
use tokio::time::Instant;
use tollgate_actors::clock::Clock;
use tollgate_actors::ids::{Account, AccountKey, LaneKey, Seq, Slug};
use tollgate_actors::ledger::Ledger;
use tollgate_actors::ledger::nats::NatsLedger;
use tollgate_actors::nats::session::{About, Session, SessionId};
use tollgate_actors::nats::{Bus, setup};
use tollgate_actors::plan::NatsPlan;
use tollgate_actors::queue::nats::NatsQueue;
use tollgate_actors::queue::{Ending, FIRST_MAX, NewFetch, Queue, Queued};
use tollgate_protos::Done;

#[allow(dead_code, unreachable_pub)] // the file is the tests': they kill it and start it again
#[path = "../src/testkit/nats_server.rs"]
mod nats_server;
use nats_server::NatsServer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    tollgate_actors::install_tls();
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wants("queue") {
            queue_figures().await;
        }
        if wants("ledger") {
            ledger_figures().await;
        }
    });
}

async fn queue_figures() {
    for accounts in [100_000_usize, 1] {
        let (_folder, server, bus) = ready("").await;
        let queue = NatsQueue::open(&bus).await.unwrap();
        let lanes: Vec<_> =
            (0..accounts).map(|number| lane(&format!("meta.act_{number}.insights"))).collect();
        let total = 1_000_000;
        let started = Instant::now();
        for from in (0..total).step_by(4000) {
            let fetches = (from..from + 4000).map(|id| NewFetch {
                payload: Bytes::from(format!("{id:0>300}")),
                ..fetch(&lanes[id % accounts], &id.to_string())
            });
            queue.append(fetches.collect()).await.unwrap();
        }
        println!("{accounts} accounts: published {:.0}/s", per_second(total, started));
        let started = Instant::now();
        let mut from = None;
        let mut found = 0;
        loop {
            let page = queue.lanes(from).await.unwrap();
            found += page.lanes.len();
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        println!("  {found} lanes listed in {:?}; server {}", started.elapsed(), rss(&server));
        for (at_once, cycles, ahead) in [(1, 2000, 1), (64, 40_000, 1), (64, 40_000, 64)] {
            let started = Instant::now();
            let mut took = Vec::new();
            let mut work = if accounts == 1 {
                // One lane: as its throttle actor does, a read ahead and many calls in flight.
                let mut left = cycles;
                while left > 0 {
                    let before = Instant::now();
                    let rows =
                        queue.first(lanes[0].clone(), None, ahead.max(at_once)).await.unwrap();
                    took.push(before.elapsed());
                    left -= rows.len().min(left);
                    finish_all(&queue, &lanes[0], rows, at_once).await;
                }
                stream::iter(Vec::new()).boxed()
            } else {
                stream::iter(0..cycles / ahead.min(10))
                    .map(|number| {
                        let (queue, lane) = (queue.clone(), lanes[number * 7 % accounts].clone());
                        async move {
                            let before = Instant::now();
                            let rows = queue.first(lane.clone(), None, ahead).await.unwrap();
                            finish_all(&queue, &lane, rows, 1).await;
                            before.elapsed()
                        }
                    })
                    .buffer_unordered(at_once)
                    .boxed()
            };
            while let Some(one) = work.next().await {
                took.push(one);
            }
            took.sort();
            let (half, most) = (took[took.len() / 2], took[took.len() * 99 / 100]);
            println!(
                "  {at_once} at once, {ahead} read at a time: {:.0} fetches/s, p50 {half:?}, p99 {most:?}",
                per_second(cycles, started)
            );
        }
        println!("  server {}", rss(&server));
        for deep in [false, true] {
            let (mut chain, mut batch) = (Vec::new(), Vec::new());
            for number in 0..100 {
                let lane = &lanes[number * 997 % accounts];
                let rows = queue.first(lane.clone(), None, 1).await.unwrap();
                let after = rows.first().filter(|_| deep).map(|row| row.seq);
                let before = Instant::now();
                let rows = queue.first(lane.clone(), after, FIRST_MAX).await.unwrap();
                chain.push(before.elapsed());
                let before = Instant::now();
                let found = read_batch(&bus, lane, after).await;
                batch.push(before.elapsed());
                assert_eq!(found, rows.len());
            }
            chain.sort();
            batch.sort();
            println!(
                "  up to 64 of a lane, cursor {deep}: one by one p50 {:?} p99 {:?}, in a batch p50 {:?} p99 {:?}",
                chain[50], chain[98], batch[50], batch[98]
            );
        }
    }
}

async fn ledger_figures() {
    for jetstream in ["", "sync_interval: always"] {
        let (_folder, server, bus) = ready(jetstream).await;
        let (one, first) = ledger(&bus, Vec::new()).await;
        let keys: Vec<AccountKey> = (0..10_000).map(|n| account(&format!("act_{n}"))).collect();
        let record = Bytes::from(vec![7; 300]);
        for rate in [1_000_u32, 5_000] {
            let took = Arc::new(Mutex::new(Vec::new()));
            let (start, count) = (Instant::now(), rate * 6);
            let mut tasks = Vec::new();
            for number in 0..count {
                tokio::time::sleep_until(start + Duration::from_secs(1) * number / rate).await;
                let (ledger, record) = (one.clone(), record.clone());
                let (key, took) = (keys[number as usize % keys.len()].clone(), took.clone());
                tasks.push(tokio::spawn(async move {
                    // The version is asked for outside of what is measured.
                    let seen = ledger.load(key.clone()).await.unwrap();
                    let seen = seen.map_or(0, |stored| stored.version);
                    let began = Instant::now();
                    if ledger.store(key, seen, record).await.is_ok() {
                        took.lock().unwrap().push(began.elapsed());
                    }
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            let mut took = took.lock().unwrap().clone();
            took.sort_unstable();
            let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
            println!(
                "`{jetstream}` {rate}/s: {} of {count} stored, p50 {:?} p99 {:?} max {:?}",
                took.len(),
                at(0.5),
                at(0.99),
                at(1.0)
            );
        }
        let next = Bus::connect(&plan(&server), "next", false).await.unwrap();
        let (two, second) = ledger(&next, vec![first]).await;
        for at_once in [64, 1024] {
            let two = if at_once == 64 {
                two.clone()
            } else {
                let third = Bus::connect(&plan(&server), "third", false).await.unwrap();
                ledger(&third, vec![second]).await.0
            };
            let began = Instant::now();
            let claims = futures_util::stream::iter(keys.clone()).map(|key| {
                let two = two.clone();
                async move { two.load(key).await.map_err(|error| println!("{error}")).is_ok() }
            });
            let claims = claims.buffer_unordered(at_once);
            let good = claims.filter(|good| std::future::ready(*good)).count().await;
            let took = began.elapsed();
            println!(
                "`{jetstream}` claims, {at_once} at once: {good} of 10000, {:.0}/s",
                10_000.0 / took.as_secs_f64()
            );
        }
        let began = Instant::now();
        let absent = futures_util::stream::iter(0..100_000).map(|n| {
            let two = two.clone();
            async move { assert!(two.load(account(&format!("new_{n}"))).await.unwrap().is_none()) }
        });
        absent.buffer_unordered(1024).count().await;
        println!("`{jetstream}` 100,000 accounts without a record: {:?}", began.elapsed());
    }
}

async fn ready(jetstream: &str) -> (TempDir, NatsServer, Bus) {
    let folder = TempDir::new().unwrap();
    let server = NatsServer::start(folder.path(), jetstream, "");
    let plan = plan(&server);
    let bus = Bus::connect(&plan, "bench", false).await.unwrap();
    setup(&bus, &plan, true).await.unwrap();
    (folder, server, bus)
}

fn plan(server: &NatsServer) -> NatsPlan {
    NatsPlan {
        declared: true,
        urls: vec![server.url()],
        prefix: Slug::new("tollgate").unwrap(),
        replicas: 1,
        creds: None,
        nkey: None,
        user: None,
        inbox: "_INBOX".into(),
        tls: None,
        setup: true,
        fetch_bytes_max: None,
        lease: std::time::Duration::from_secs(4),
    }
}

/// The ledger of a session that comes after others, which are known to be over.
async fn ledger(bus: &Bus, before: Vec<SessionId>) -> (NatsLedger, SessionId) {
    let about = About {
        node: "bench".into(),
        version: "0".into(),
        started: Clock::new().wall(),
        config: "0".into(),
    };
    let id = SessionId::draw();
    let session = Session::start(bus, id, before, &about).await.unwrap();
    (NatsLedger::open(bus, Arc::new(session), 1).await.unwrap(), id)
}

fn account(name: &str) -> AccountKey {
    let (platform, account) = (Slug::new("meta").unwrap(), Account::new(name).unwrap());
    AccountKey { platform, account }
}

fn lane(subject: &str) -> LaneKey {
    LaneKey::parse(subject).unwrap()
}

fn fetch(lane: &LaneKey, id: &str) -> NewFetch {
    NewFetch { lane: lane.clone(), id: id.into(), payload: Bytes::new(), not_before: None }
}

fn done(seq: Seq) -> Ending {
    let done = Done {
        id: "x".into(),
        seq: seq.0,
        objects: Vec::new(),
        http_status: 200,
        attempts: 1,
        pages: 1,
        waited_ms: 0,
        fetched_at: Clock::new().wall(),
        labels: BTreeMap::new(),
        ..Done::default()
    };
    Ending::Done { done: Box::new(done), once: false }
}

/// The same by one request with many answers (ADR-31): how many came.
async fn read_batch(bus: &Bus, lane: &LaneKey, after: Option<Seq>) -> usize {
    let inbox = bus.client().new_inbox();
    let mut answers = bus.client().subscribe(inbox.clone()).await.unwrap();
    let mut request = serde_json::json!({
        "batch": FIRST_MAX, "max_bytes": 1 << 20, "next_by_subj": bus.names().queued(lane),
    });
    request["seq"] = after.map_or(1, |seq| seq.0 + 1).into();
    let request = serde_json::to_vec(&request).unwrap().into();
    let subject = "$JS.API.DIRECT.GET.TOLLGATE_FETCH";
    bus.client().publish_with_reply(subject, inbox, request).await.unwrap();
    let mut found = 0;
    while let Some(answer) = answers.next().await {
        if answer.status.is_some() {
            break;
        }
        found += 1;
    }
    found
}

async fn finish_all(queue: &NatsQueue, lane: &LaneKey, rows: Vec<Queued>, at_once: usize) {
    let finishes = rows.into_iter().map(|row| {
        let (queue, lane) = (queue.clone(), lane.clone());
        async move { queue.finish(lane, row.seq, done(row.origin)).await.unwrap() }
    });
    stream::iter(finishes).buffer_unordered(at_once).for_each(async |()| ()).await;
}

fn per_second(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

fn rss(server: &NatsServer) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().unwrap()));
    let status = status.unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("?").to_owned()
}
