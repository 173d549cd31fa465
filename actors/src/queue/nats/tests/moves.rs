//! Fetches that are put aside, replayed, and read in their order.

use async_nats::jetstream::consumer::pull;

use super::*;

fn in_ms(ms: i64) -> Timestamp {
    clock::wall() + SignedDuration::from_millis(ms)
}

#[tokio::test]
async fn what_is_aside_comes_back_after_server_and_queue_were_killed() {
    let (queue, (_folder, mut server, bus)) = open().await;
    let lane = lane("meta.a%40b.insights.high");
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/json; charset=utf-8");
    let published = publish(&bus, &bus.names().fetch(&lane), headers, "{}").await;
    let before = first(&queue, &lane).await.remove(0);
    let far = store(&queue, &lane, "far").await;
    queue.postpone(lane.clone(), Seq(published), in_ms(3000)).await.unwrap();
    queue.postpone(lane.clone(), far, in_ms(3_600_000)).await.unwrap();
    assert_eq!(queue.postponed().await.unwrap(), 2);
    assert!(first(&queue, &lane).await.is_empty());
    drop(queue);
    server.kill();
    server.restart();
    let queue = until("NATS is back", async || NatsQueue::open(&bus).await.ok()).await;
    let mut wakes = queue.wakes();
    let back = until("it comes back", async || first(&queue, &lane).await.pop()).await;
    assert!(back.seq > before.seq);
    assert_eq!(
        (back.origin, back.queued_at, &back.payload, &back.content_type),
        (before.origin, before.queued_at, &before.payload, &before.content_type)
    );
    assert_eq!(tokio::time::timeout(PATIENCE, wakes.recv()).await.unwrap().unwrap().lane, lane);
    // It was stored before it left LATER.
    until("only the far one is aside", async || {
        (queue.postponed().await.unwrap() == 1).then_some(())
    })
    .await;
    assert_eq!(count(&queue.0.inner.fetch).await, 1);
}

#[tokio::test]
async fn a_step_aside_that_was_broken_off_is_repeated_without_a_second_copy() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let inner = &queue.0.inner;
    let seq = store(&queue, &lane, "a").await;
    let until = in_ms(3_600_000);
    // As if the answer of the first try had been lost, before the delete and after it.
    let message = inner.get(&inner.fetch.stream, seq.0).await.unwrap().unwrap();
    let copy = |payload: Bytes| wire::Copy {
        subject: inner.names().later(&lane),
        id: headers::id_of_move(inner.fetch.created(), seq.0, "later"),
        headers: headers::Kept::of(&message).headers(),
        payload,
    };
    let same = |there: &StreamMessage| there.payload == message.payload;
    inner.store_once(&inner.aside, copy(message.payload.clone()), same).await.unwrap();
    for _ in 0..2 {
        queue.postpone(lane.clone(), seq, until).await.unwrap();
        assert_eq!(count(&inner.fetch).await, 0);
    }
    let aside = count(&inner.aside).await;
    // The copy has no `Tollgate-Until`: it is due, and may have come back by now.
    assert!(aside <= 1, "{aside}");
}

#[tokio::test]
async fn a_number_that_was_given_again_does_not_lose_the_second_fetch() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let inner = &queue.0.inner;
    let seq = store(&queue, &lane, "a").await;
    let id = headers::id_of_move(inner.fetch.created(), seq.0, "later");
    let mut other = HeaderMap::new();
    other.insert(headers::UNTIL, in_ms(3_600_000).to_string());
    inner
        .publish(inner.names().later(&lane), Some(&id), other, "of a lost message".into())
        .await
        .unwrap();
    queue.postpone(lane.clone(), seq, in_ms(3_600_000)).await.unwrap();
    assert_eq!(count(&inner.aside).await, 2, "the copy of the lost one, and this one's");
    assert_eq!(count(&inner.fetch).await, 0);
}

#[tokio::test]
async fn two_queues_bring_back_what_is_aside_once() {
    let (queue, (_folder, _server, bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let mut seqs = Vec::new();
    for id in 0..20 {
        seqs.push(store(&queue, &lane, &id.to_string()).await);
    }
    for seq in &seqs {
        queue.postpone(lane.clone(), *seq, in_ms(1500)).await.unwrap();
    }
    // It reads what is aside at its start.
    let other = NatsQueue::open(&bus).await.unwrap();
    until("all are back", async || (other.postponed().await.unwrap() == 0).then_some(())).await;
    let found = first(&queue, &lane).await;
    let mut origins: Vec<_> = found.iter().map(|queued| queued.origin).collect();
    origins.sort();
    assert_eq!(origins, seqs);
}

#[tokio::test]
async fn reading_what_is_aside_leaves_no_readers_behind() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let inner = &queue.0.inner;
    for id in 1..=30 {
        let seq = store(&queue, &lane, &id.to_string()).await;
        queue.postpone(lane.clone(), seq, in_ms(3_600_000)).await.unwrap();
        let readers = inner.aside.info().await.unwrap().state.consumer_count;
        assert!(readers <= 1, "{readers} at once");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("all are known", async || (inner.later.known() == 30).then_some(())).await;
    until("the last reader goes", async || {
        (inner.aside.info().await.unwrap().state.consumer_count == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_due_comes_back_also_while_nothing_can_be_read() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let inner = &queue.0.inner;
    let (due, far) = (store(&queue, &lane, "due").await, store(&queue, &lane, "far").await);
    queue.postpone(lane.clone(), due, in_ms(3000)).await.unwrap();
    until("it is known", async || (inner.later.known() == 1).then_some(())).await;
    // Others have taken every place for readers.
    let mut others = 0;
    let config = pull::Config {
        memory_storage: true,
        inactive_threshold: Duration::from_secs(600),
        ..pull::Config::default()
    };
    while inner.aside.stream.create_consumer(config.clone()).await.is_ok() {
        others += 1;
        assert!(others <= 100);
    }
    queue.postpone(lane.clone(), far, in_ms(3_600_000)).await.unwrap();
    let back = until("it comes back", async || first(&queue, &lane).await.pop()).await;
    assert_eq!(back.origin, due);
    assert_eq!(inner.aside.info().await.unwrap().state.consumer_count, others);
}

#[tokio::test]
async fn a_replay_whose_answer_was_lost_stores_the_fetch_once() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let inner = &queue.0.inner;
    let seq = store(&queue, &lane, "a").await;
    queue.finish(lane.clone(), seq, Ending::Dead(Box::new(letter("a", seq)))).await.unwrap();
    let number = queue.dead(None, 1).await.unwrap()[0].number;
    let again = fetch(&lane, "a");
    let copy = wire::Copy {
        subject: inner.names().fetch(&lane),
        id: format!("replay:{}:{number}", inner.dead.created()),
        headers: HeaderMap::new(),
        payload: again.payload.clone(),
    };
    inner.store_once(&inner.fetch, copy, |_| true).await.unwrap();
    assert!(queue.revive(number, Some(again.clone())).await.unwrap());
    assert_eq!(first(&queue, &lane).await.len(), 1);
    assert!(!queue.revive(number, Some(again)).await.unwrap());
    assert_eq!(first(&queue, &lane).await.len(), 1);
}

#[tokio::test]
async fn a_long_lane_is_drained_in_order() {
    const FETCHES: usize = 10_000;
    let (queue, (_folder, _server, _bus)) = open().await;
    let (lane, other) = (lane("meta.act_1.insights"), lane("meta.act_2.insights"));
    let mut stored = Vec::new();
    for from in (0..FETCHES).step_by(500) {
        let fetches = (from..from + 500)
            .flat_map(|id| [fetch(&lane, &id.to_string()), fetch(&other, &id.to_string())]);
        let appended = queue.append(fetches.collect()).await.unwrap();
        stored.extend(appended.iter().step_by(2).map(|appended| match appended {
            Appended::New(seq) => *seq,
            other => panic!("{other:?}"),
        }));
    }
    let mut drained = Vec::new();
    loop {
        let rows = first(&queue, &lane).await;
        if rows.is_empty() {
            break;
        }
        let finishes = rows.iter().map(|row| {
            let id = drained.len().to_string();
            drained.push(row.seq);
            queue.finish(lane.clone(), row.seq, ended(&id, row.origin))
        });
        futures_util::future::try_join_all(finishes).await.unwrap();
    }
    assert_eq!(drained, stored);
    assert_eq!(count(&queue.0.inner.done).await, FETCHES as u64);
    assert_eq!(count(&queue.0.inner.fetch).await, FETCHES as u64, "the other lane's");
}

#[test]
fn what_a_replica_may_still_show_is_remembered_within_bounds() {
    let mut gone = Gone::default();
    let stored_at = clock::wall();
    for seq in 0..=GONE_MAX as u64 {
        gone.add(seq, stored_at);
        gone.add(seq, stored_at);
    }
    let has = |seq| gone.has(seq, stored_at);
    assert!(!has(0) && has(1) && has(GONE_MAX as u64));
    assert!(!gone.has(1, in_ms(1)), "another under the same number");
    assert_eq!((gone.known.len(), gone.order.len()), (GONE_MAX, GONE_MAX));
}

#[test]
fn what_is_read_and_not_finished_is_remembered_within_bounds() {
    let mut seen = Seen::default();
    let (first, later) = (clock::wall(), in_ms(1));
    for seq in 0..=SEEN_MAX as u64 {
        seen.add(seq, SeenAs { stored_at: first, era: Some((1, 1)) });
    }
    assert_eq!((seen.0.len(), seen.0.contains_key(&0)), (SEEN_MAX, false));
    seen.add(1, SeenAs { stored_at: first, era: Some((2, 1)) });
    seen.add(2, SeenAs { stored_at: later, era: Some((2, 1)) });
    let era = |seq| (seen.0[&seq].stored_at, seen.0[&seq].era);
    assert_eq!(era(1), (first, Some((2, 1))), "it is there still");
    assert_eq!(era(2), (first, Some((1, 1))), "whoever finishes means the first");
}
