//! Storing, reading and finishing.

use std::collections::BTreeSet;

use super::{
    Appended, Bytes, FIRST_MAX, LaneKey, NewFetch, Priority, Queue, Seq, Timestamp, append_one,
    clock, dead, done, fetch, finish, first, first_seqs, lane, lane_of, letter_of, new, store,
};
use crate::queue::{APPEND_MAX, QueueError};

/// First in, first out.
pub async fn returns_fetches_in_the_order_of_their_numbers(queue: &dyn Queue) {
    let lane = lane("order");
    let mut seqs = store(queue, &lane, 5).await;
    seqs.push(new(append_one(queue, fetch(&lane, "later")).await));
    assert!(seqs.is_sorted(), "numbers must grow: {seqs:?}");
    assert_eq!(first_seqs(queue, &lane).await, seqs);
    assert_eq!(first_seqs(queue, &lane).await, seqs, "reading takes nothing away");
}

/// `after` need not be there any more, nor ever have been in this lane.
pub async fn returns_what_lies_behind_a_number(queue: &dyn Queue) {
    let lane = lane("behind");
    let seqs = store(queue, &lane, 5).await;
    finish(queue, &lane, seqs[2], done("2", seqs[2])).await;
    let behind = async |after| {
        let found = queue.first(lane.clone(), Some(after), 10).await.expect("the queue answers");
        found.iter().map(|queued| queued.seq).collect::<Vec<_>>()
    };
    assert_eq!(behind(Seq(0)).await, [seqs[0], seqs[1], seqs[3], seqs[4]]);
    assert_eq!(behind(seqs[0]).await, [seqs[1], seqs[3], seqs[4]]);
    assert_eq!(behind(seqs[1]).await, seqs[3..]);
    assert_eq!(behind(seqs[2]).await, seqs[3..]);
    assert!(behind(seqs[4]).await.is_empty());
    assert!(behind(Seq(u64::MAX)).await.is_empty());
}

/// Not more than `max`, and not more than [`FIRST_MAX`].
pub async fn returns_no_more_than_asked_for(queue: &dyn Queue) {
    let lane = lane("max");
    let seqs = store(queue, &lane, FIRST_MAX + 10).await;
    for (max, expected) in [(0, 0), (1, 1), (7, 7), (usize::MAX, FIRST_MAX)] {
        let found = queue.first(lane.clone(), None, max).await.expect("the queue answers");
        assert_eq!(found.len(), expected, "asked for {max}");
        assert!(found.iter().map(|queued| queued.seq).eq(seqs[..expected].iter().copied()));
    }
}

/// What was stored, unchanged, and when.
pub async fn returns_the_payload_and_the_time_of_queueing(queue: &dyn Queue) {
    let lane = lane("payload");
    let before = Timestamp::now();
    let payload = Bytes::from("not even JSON \0 \u{1F600}");
    append_one(queue, NewFetch { payload: payload.clone(), ..fetch(&lane, "a") }).await;
    let after = Timestamp::now();
    let found = first(queue, &lane).await;
    assert_eq!(found[0].payload, payload);
    let queued_ms = found[0].queued_at.as_millisecond();
    assert!((before.as_millisecond()..=after.as_millisecond()).contains(&queued_ms));
}

/// Another api, another priority, another account, one name being the beginning of the other.
pub async fn keeps_lanes_apart(queue: &dyn Queue) {
    let base = lane("apart");
    let account = base.account.account.as_str();
    let lanes = [
        base.clone(),
        lane_of(account, "insights", Priority::High),
        lane_of(account, "insights", Priority::Low),
        lane_of(account, "insights2", Priority::Normal),
        lane_of(account, "high", Priority::Normal),
        lane_of(&format!("{account}2"), "insights", Priority::Normal),
        lane_of(&format!("{account}.insights"), "insights", Priority::Normal),
    ];
    let mut seqs = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        seqs.push(new(append_one(queue, fetch(lane, &number.to_string())).await));
    }
    for (lane, seq) in lanes.iter().zip(&seqs) {
        assert_eq!(first_seqs(queue, lane).await, [*seq], "lane {}", lane.subject());
    }
    finish(queue, &base, seqs[0], done("0", seqs[0])).await;
    assert!(first(queue, &base).await.is_empty());
    for (lane, seq) in lanes.iter().zip(&seqs).skip(1) {
        assert_eq!(first_seqs(queue, lane).await, [*seq], "lane {}", lane.subject());
    }
}

/// The answer names the one that waits; its payload stays.
pub async fn does_not_store_a_waiting_id_twice(queue: &dyn Queue) {
    let lane = lane("twice");
    let seq = new(append_one(queue, fetch(&lane, "a")).await);
    let repeat = NewFetch { payload: "other".into(), ..fetch(&lane, "a") };
    assert_eq!(append_one(queue, repeat).await, Appended::Waiting(seq));
    let urgent = LaneKey { priority: Priority::High, ..lane.clone() };
    assert_eq!(append_one(queue, fetch(&urgent, "a")).await, Appended::Waiting(seq));
    let found = first(queue, &lane).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].payload, fetch(&lane, "a").payload);
    assert!(first(queue, &urgent).await.is_empty());
}

/// The first of them is stored.
pub async fn does_not_store_an_id_twice_within_one_append(queue: &dyn Queue) {
    let lane = lane("batch");
    let fetches = ["a", "b", "a", "a"].map(|id| fetch(&lane, id)).to_vec();
    let appended = queue.append(fetches).await.expect("the queue answers");
    let (a, b) = (new(appended[0]), new(appended[1]));
    assert_eq!(appended[2..], [Appended::Waiting(a), Appended::Waiting(a)]);
    assert_eq!(first_seqs(queue, &lane).await, [a, b]);
}

/// The answer says how it ended and under which number.
pub async fn does_not_store_an_id_that_is_done_or_dead(queue: &dyn Queue) {
    let lane = lane("ended");
    let seqs = store(queue, &lane, 2).await;
    finish(queue, &lane, seqs[0], done("0", seqs[0])).await;
    finish(queue, &lane, seqs[1], dead("1", seqs[1])).await;
    assert_eq!(append_one(queue, fetch(&lane, "0")).await, Appended::Done(seqs[0]));
    assert_eq!(append_one(queue, fetch(&lane, "1")).await, Appended::Dead(seqs[1]));
    assert!(first(queue, &lane).await.is_empty());
}

/// An id counts within platform, account and api.
pub async fn tells_ids_of_different_accounts_and_apis_apart(queue: &dyn Queue) {
    let base = lane("ids");
    let account = base.account.account.as_str();
    new(append_one(queue, fetch(&base, "a")).await);
    new(append_one(queue, fetch(&lane_of(account, "other", Priority::Normal), "a")).await);
    let longer = format!("{account}-b");
    new(append_one(queue, fetch(&lane_of(&longer, "insights", Priority::Normal), "a")).await);
}

/// Not of a fetch that is gone, and not of a dead letter that never was a fetch.
pub async fn never_gives_a_number_twice(queue: &dyn Queue) {
    let lane = lane("numbers");
    let mut seqs = BTreeSet::new();
    for id in 0..20 {
        let id = id.to_string();
        let seq = new(append_one(queue, fetch(&lane, &id)).await);
        assert!(seqs.last().is_none_or(|last| *last < seq), "{seq} after {:?}", seqs.last());
        finish(queue, &lane, seq, done(&id, seq)).await;
        seqs.insert(seq);
    }
}

/// Whatever a provider calls its accounts: it comes back byte for byte.
pub async fn takes_odd_account_names(queue: &dyn Queue) {
    let unique = format!("{:x}", clock::random());
    let long = "%".repeat(crate::ids::ACCOUNT_BYTES_MAX - unique.len()) + &unique;
    let names = ["😀", "com.shop.app.", "../../x", ".", "..", " ", "*", ">", "a\0b", "%2E", "."];
    let names = names.iter().map(|name| format!("{name}{unique}")).chain([long]);
    let lanes: BTreeSet<_> =
        names.map(|name| lane_of(&name, "insights", Priority::Normal)).collect();
    for lane in &lanes {
        let seq = store(queue, lane, 2).await;
        finish(queue, lane, seq[0], done("0", seq[0])).await;
        assert_eq!(first_seqs(queue, lane).await, seq[1..], "account {:?}", lane.account);
        let listed = queue.account_lanes(lane.account.clone()).await.expect("the queue answers");
        assert_eq!(listed.len(), 1, "account {:?}", lane.account);
        assert_eq!(&listed[0].lane, lane);
        assert_eq!(listed[0].waiting, 1);
    }
}

/// The largest fetch there may be.
pub async fn takes_a_payload_of_256_kib(queue: &dyn Queue) {
    let lane = lane("large");
    let payload: Bytes = (0..256 * 1024).map(|i: u32| (i % 251) as u8).collect();
    for id in ["a", "b"] {
        append_one(queue, NewFetch { payload: payload.clone(), ..fetch(&lane, id) }).await;
    }
    let found = first(queue, &lane).await;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|queued| queued.payload == payload));
}

/// As many as are allowed are stored; with one more none is.
pub async fn refuses_more_than_one_append_takes(queue: &dyn Queue) {
    let lane = lane("many");
    let fetches: Vec<_> = (0..=APPEND_MAX).map(|id| fetch(&lane, &id.to_string())).collect();
    let refused = queue.append(fetches.clone()).await;
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    assert!(first(queue, &lane).await.is_empty());
    let stored = queue.append(fetches[1..].to_vec()).await.expect("the queue answers");
    assert_eq!(stored.len(), APPEND_MAX);
}

/// At once, for good, and the second time it is no error.
pub async fn finished_fetches_are_gone_and_finishing_twice_is_harmless(queue: &dyn Queue) {
    let lane = lane("finish");
    let seqs = store(queue, &lane, 3).await;
    for _ in 0..2 {
        finish(queue, &lane, seqs[0], done("0", seqs[0])).await;
        assert_eq!(first_seqs(queue, &lane).await, seqs[1..]);
    }
    finish(queue, &lane, seqs[0], dead("0", seqs[0])).await;
    assert!(letter_of(queue, seqs[0]).await.is_none(), "what is done cannot die");
    assert_eq!(first_seqs(queue, &lane).await, seqs[1..]);
}

/// Whatever is said of it later.
pub async fn a_finished_id_stays_known_as_it_first_ended(queue: &dyn Queue) {
    let lane = lane("first-end");
    let seqs = store(queue, &lane, 1).await;
    finish(queue, &lane, seqs[0], done("0", seqs[0])).await;
    finish(queue, &lane, seqs[0], dead("0", seqs[0])).await;
    assert_eq!(append_one(queue, fetch(&lane, "0")).await, Appended::Done(seqs[0]));
}

/// Whichever ends first.
pub async fn finishing_in_any_order_leaves_the_others(queue: &dyn Queue) {
    let lane = lane("any-order");
    let mut left = store(queue, &lane, 12).await;
    for pick in [3, 0, 0, 5, 7, 1, 1, 0, 2, 1, 1, 0] {
        let seq = left.remove(pick);
        finish(queue, &lane, seq, done("x", seq)).await;
        assert_eq!(first_seqs(queue, &lane).await, left, "after {seq}");
        let one = queue.first(lane.clone(), None, 1).await.expect("the queue answers");
        assert_eq!(one.first().map(|queued| queued.seq), left.first().copied());
    }
}

/// A number belongs to one lane.
pub async fn finishing_through_another_lane_changes_nothing(queue: &dyn Queue) {
    let (mine, other) = (lane("mine"), lane("other"));
    let seqs = store(queue, &mine, 1).await;
    finish(queue, &other, seqs[0], done("0", seqs[0])).await;
    assert_eq!(first_seqs(queue, &mine).await, seqs);
}
