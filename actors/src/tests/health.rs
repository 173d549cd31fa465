//! A whole node, on its own threads and in real time: a shard that does not answer is noticed.

use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::health::Health;
use crate::ledger::{Ledger, LedgerFuture, Stored};
use crate::node::{Node, Seams};

/// A ledger that holds up the thread of whoever reads from it, until it is told to go on.
#[derive(Debug)]
struct Blocking(Mutex<mpsc::Receiver<()>>);

impl Ledger for Blocking {
    fn session(&self) -> u64 {
        1
    }

    fn load(&self, _: AccountKey) -> LedgerFuture<Option<Stored>> {
        let go_on = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        go_on.recv_timeout(secs(30)).unwrap();
        std::future::ready(Ok(None)).boxed()
    }

    fn store(&self, _: AccountKey, expected: u64, _: Bytes) -> LedgerFuture<u64> {
        std::future::ready(Ok(expected + 1)).boxed()
    }
}

async fn until(within: Duration, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {within:?}");
        sleep(ms(20)).await;
    }
}

#[test]
fn a_shard_that_is_held_up_makes_the_node_unwell_and_is_well_again_after() {
    crate::install_tls();
    actix_rt::System::new().block_on(async {
        let clock = Clock::new();
        let health = Health::new(clock.clone());
        let (go_on, held) = mpsc::channel();
        let queue = Arc::new(MemoryQueue::starting(clock.wall()));
        let plan = plan(&limits(""));
        let plan = Plan { collect: crate::plan::CollectPlan { shards: 2, ..plan.collect }, ..plan };
        let ledger = Arc::new(Blocking(Mutex::new(held)));
        let seams = Seams::new(queue.clone(), ledger, Store::memory(1 << 30).unwrap());
        let mut node = Node::start(Arc::new(plan), seams, clock).await.unwrap();
        assert_eq!(health.reasons().len(), 1, "it starts");
        node.report_to(&health);
        assert_eq!(health.reasons(), []);
        let lane = lane("x", "a", Priority::Normal);
        let payload = r#"{"id":"x","platform":"p","account":"x","api":"a"}"#.into();
        let fetch = NewFetch { lane, id: "x".into(), payload, not_before: None };
        node.intake().append(vec![fetch]).await.unwrap();
        let begun = Instant::now();
        until(secs(20), || health.stuck().is_some()).await;
        assert!(begun.elapsed() >= secs(4), "not for a moment's rest");
        let reason = health.reasons()[0].reason.clone();
        assert!(
            reason.starts_with("shard ") && reason.contains(" has not answered for "),
            "{reason}"
        );
        go_on.send(()).unwrap();
        until(secs(5), || health.stuck().is_none()).await;
        let told = health.clone();
        let watch = actix_rt::spawn(async move {
            until(secs(5), || told.reasons().iter().any(|why| why.name == "draining")).await;
        });
        node.drain(secs(1)).await;
        watch.await.unwrap();
    });
}

/// A server of the queue that is being replaced answers nothing for seconds: no reason for a node to end.
#[test]
fn a_start_waits_for_a_queue_that_does_not_answer_and_counts_what_waits_once() {
    crate::install_tls();
    actix_rt::System::new().block_on(async {
        let clock = Clock::new();
        let inner = MemoryQueue::starting(clock.wall());
        let lanes = 2 * crate::queue::LANES_MAX + 1;
        let fetch = |number: usize| {
            let account = format!("a{number:05}");
            let payload = format!(r#"{{"platform":"p","account":"{account}","api":"a"}}"#).into();
            let lane = lane(&account, "a", Priority::Normal);
            NewFetch { lane, id: account, payload, not_before: None }
        };
        let all: Vec<_> = (0..lanes).map(fetch).collect();
        for batch in all.chunks(crate::queue::APPEND_MAX) {
            inner.append(batch.to_vec()).await.unwrap();
        }
        let queue = Arc::new(WatchedQueue::new(inner));
        let ledger = || Arc::new(MemoryLedger::new());
        let seams = |start_within| Seams {
            start_within,
            ..Seams::new(queue.clone(), ledger(), Store::memory(1 << 30).unwrap())
        };
        let plan = Arc::new(plan(&limits("")));
        queue.fail_listings(1);
        let patient_not = Node::start(plan.clone(), seams(Duration::ZERO), clock.clone()).await;
        assert!(patient_not.unwrap_err().to_string().contains("a test asked for this"));
        // The count of what is put aside, the first page of lanes, and the second.
        queue.fail_listings(3);
        let node = Node::start(plan, seams(secs(60)), clock).await.unwrap();
        assert_eq!(node.totals().outstanding(), lanes as u64);
    });
}
