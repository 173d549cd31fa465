//! What is published under subjects that are no lane.

use super::*;
use crate::codes::Code;
use crate::nats::setup;
use crate::nats::tests::plan;
use crate::plan::NatsPlan;

#[tokio::test]
async fn what_names_no_lane_becomes_dead_letters_and_stops_nobody() {
    let (folder, server, bus) = ready("").await;
    let long = "x".repeat(5000);
    // Before there is a queue: found at the start.
    let mut bad = vec![
        "tollgate.fetch.x",
        "tollgate.fetch.x.y",
        "tollgate.fetch.Meta.act_1.insights",
        "tollgate.fetch.meta.act_1.insights.urgent",
        "tollgate.fetch.meta.act_1.insights.high.low",
    ];
    for subject in &bad {
        publish(&bus, subject, HeaderMap::new(), &long).await;
    }
    let queue = NatsQueue::open(&bus).await.unwrap();
    let mut from = None;
    loop {
        let page = queue.lanes(from).await.unwrap();
        assert!(page.lanes.is_empty(), "{:?}", page.lanes);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    // While it is open: told by their wakes.
    bad.push("tollgate.fetch.meta.%FF.insights");
    publish(&bus, bad[5], HeaderMap::new(), &long).await;
    let good = lane("meta.act_1.insights");
    let seq = store(&queue, &good, "a").await;
    let inner = &queue.0.inner;
    until("all are seen to", async || (count(&inner.fetch).await == 1).then_some(())).await;
    assert_eq!(first(&queue, &good).await[0].seq, seq);
    let letters = queue.dead(None, 100).await.unwrap();
    let mut sources: Vec<_> = letters.iter().map(|one| one.dead.source.clone().unwrap()).collect();
    sources.sort();
    bad.sort_unstable();
    assert_eq!(sources, bad);
    for Letter { dead, .. } in &letters {
        assert_eq!(dead.code, Code::BadSubject.to_string());
        assert_eq!(dead.raw.as_ref().unwrap().len(), 2048);
        assert!(dead.fetch.is_none() && dead.reason.len() > 10, "{dead:?}");
    }
    let stored = all(inner, &inner.dead).await;
    assert!(stored.iter().all(|letter| letter.subject.as_str() == "tollgate.dead._._._"));
    drop((folder, server));
}

#[tokio::test]
async fn an_account_in_another_spelling_is_moved_to_where_it_belongs() {
    let (queue, (_folder, _server, bus)) = open().await;
    let home = lane("meta.a%40b.insights.low");
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/protobuf");
    headers.insert("Nats-Msg-Id", "a publisher's own");
    // A publisher's own is none of ours.
    headers.insert("Tollgate-Seq", "12345");
    let before = clock::wall();
    let mut wakes = queue.wakes();
    let mut numbers = Vec::new();
    for spelling in ["a@b", "%61%40b", "a%40%62"] {
        let subject = format!("tollgate.fetch.meta.{spelling}.insights.low");
        headers.insert("Nats-Msg-Id", spelling);
        numbers.push(Seq(publish(&bus, &subject, headers.clone(), spelling).await));
    }
    let canonical = "tollgate.fetch.meta.a%40b.insights.low";
    numbers.push(Seq(publish(&bus, canonical, HeaderMap::new(), "a%40b").await));
    let found = until("all four are there", async || {
        Some(first(&queue, &home).await).filter(|found| found.len() == 4)
    })
    .await;
    let mut origins: Vec<_> = found.iter().map(|queued| queued.origin).collect();
    origins.sort();
    assert_eq!(origins, numbers, "each known by the number of its first storing");
    for queued in &found {
        assert!(queued.queued_at >= before.saturating_sub(SignedDuration::from_millis(5)).unwrap());
        let moved = &queued.payload[..] != b"a%40b";
        assert_eq!(queued.content_type.as_deref(), moved.then_some("application/protobuf"));
        assert_eq!(queued.seq != queued.origin, moved);
    }
    assert_eq!(count(&queue.0.inner.fetch).await, 4);
    assert_eq!(count(&queue.0.inner.dead).await, 0);
    let mut told = 0;
    while told < 4 {
        let wake = tokio::time::timeout(PATIENCE, wakes.recv()).await.unwrap().unwrap();
        assert_eq!(wake.lane, home);
        told += wake.count;
    }
}

#[tokio::test]
async fn a_move_that_was_broken_off_is_gone_on_with_and_stores_nothing_twice() {
    let (folder, server, bus) = ready("").await;
    let seq = publish(&bus, "tollgate.fetch.meta.a@b.insights", HeaderMap::new(), "{}").await;
    let queue = NatsQueue::open(&bus).await.unwrap();
    let inner = &queue.0.inner;
    let home = lane("meta.a%40b.insights");
    // Whatever the queue's own task has done by now: once more what it does.
    if let Some(message) = inner.get(&inner.fetch.stream, seq).await.unwrap() {
        let id = headers::id_of_move(inner.fetch.created(), seq, "name");
        inner.move_to(&home, &message, id).await.unwrap();
    }
    inner.misfits.add(format!("tollgate.q.{}.meta.a@b.insights", 1));
    queue.lanes(None).await.unwrap();
    let mut from = None;
    loop {
        from = queue.lanes(from).await.unwrap().next;
        if from.is_none() {
            break;
        }
    }
    until("it was moved", async || {
        let gone = inner.get(&inner.fetch.stream, seq).await.unwrap().is_none();
        gone.then_some(())
    })
    .await;
    let found = first(&queue, &home).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].origin, Seq(seq));
    drop((folder, server));
}

#[tokio::test]
async fn in_a_full_stream_accounts_are_moved_and_what_is_no_fetch_is_buried() {
    let (_folder, server, bus) = ready("").await;
    let small = NatsPlan { fetch_bytes_max: Some(1 << 20), ..plan(&server) };
    setup(&bus, &small, true).await.unwrap();
    publish(&bus, "tollgate.fetch.x", HeaderMap::new(), "{}").await;
    publish(&bus, "tollgate.fetch.meta.act_1.insights.urgent", HeaderMap::new(), "{}").await;
    let large = "x".repeat(200 * 1024);
    let mut published = 0;
    loop {
        let subject = format!("tollgate.fetch.meta.a@{published}.insights");
        let sent = bus.js().publish(subject, large.clone().into()).await.unwrap();
        if sent.await.is_err() {
            break;
        }
        published += 1;
    }
    assert_eq!(published, 5, "there is no room for a sixth, nor for a second of any");
    let queue = NatsQueue::open(&bus).await.unwrap();
    let inner = &queue.0.inner;
    let lanes = until("all are in their lanes", async || {
        let mut lanes = Vec::new();
        let mut from = None;
        loop {
            let page = queue.lanes(from).await.unwrap();
            lanes.extend(page.lanes);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        (lanes.len() == published).then_some(lanes)
    })
    .await;
    assert!(lanes.iter().all(|lane| lane.waiting == 1), "{lanes:?}");
    until("the others are buried", async || (count(&inner.dead).await == 2).then_some(())).await;
    assert_eq!(count(&inner.fetch).await, published as u64);
    until("none is left aside", async || (count(&inner.aside).await == 0).then_some(())).await;
}
