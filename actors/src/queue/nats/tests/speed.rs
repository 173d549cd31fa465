//! Figures, printed: `cargo nextest run --release -p tollgate-actors --run-ignored only nats --no-capture`.

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::*;

/// Publish, discover, take and finish with a million fetches of many accounts, then of one.
#[tokio::test]
#[ignore = "measures for a minute"]
async fn a_million_fetches() {
    for accounts in [100_000_usize, 1] {
        let (queue, (_folder, server, bus)) = open().await;
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
        async move { queue.finish(lane, row.seq, ended("x", row.origin)).await.unwrap() }
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
