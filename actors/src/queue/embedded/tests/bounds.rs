//! What must not grow, however much was done before.

use super::super::lanes::{Lane, Lanes};
use super::*;

async fn bounds(queue: &EmbeddedQueue, lane: &LaneKey) -> Lane {
    let subject = lane.subject();
    let bounds = queue.state.call(move |turn| Ok(turn.index.lanes.get(&subject)));
    bounds.await.expect("it answers").expect("the lane has work")
}

#[tokio::test]
async fn a_scan_begins_behind_what_was_finished() {
    let folder = TempDir::new().expect("a folder");
    let queue = EmbeddedQueue::new(&open(&folder));
    let lane = lane("one");
    let seqs = append(&queue, &lane, 0..1000).await;
    // As a throttle does it: read the head, finish it.
    for expected in &seqs[..990] {
        let head = queue.first(lane.clone(), None, 1).await.expect("it answers")[0].seq;
        assert_eq!(head, *expected);
        assert_eq!(bounds(&queue, &lane).await.first, head.0);
        queue.finish(lane.clone(), head, done(head)).await.expect("it answers");
        assert!(bounds(&queue, &lane).await.first > head.0, "it would be walked over again");
    }
    assert_eq!(first(&queue, &lane).await, seqs[990..]);
    let known = bounds(&queue, &lane).await;
    assert_eq!((known.first, known.second), (seqs[990].0, seqs[991].0));
    assert_eq!(known.waiting, 10);
}

#[tokio::test]
async fn one_scan_learns_what_many_finishes_left() {
    let folder = TempDir::new().expect("a folder");
    let queue = EmbeddedQueue::new(&open(&folder));
    let (lane, other) = (lane("one"), lane("other"));
    let mut seqs = Vec::new();
    for part in 0..10 {
        seqs.extend(append(&queue, &lane, part * 100..part * 100 + 100).await);
        append(&queue, &other, part..part + 1).await;
    }
    for seq in seqs[..990].iter().rev() {
        queue.finish(lane.clone(), *seq, done(*seq)).await.expect("it answers");
    }
    assert_eq!(first(&queue, &lane).await, seqs[990..]);
    let known = bounds(&queue, &lane).await;
    assert_eq!((known.first, known.second), (seqs[990].0, seqs[991].0));
}

#[tokio::test]
async fn a_head_that_runs_for_long_does_not_make_scans_longer() {
    let folder = TempDir::new().expect("a folder");
    let queue = EmbeddedQueue::new(&open(&folder));
    let lane = lane("one");
    let seqs = append(&queue, &lane, 0..500).await;
    for number in 1..490 {
        queue.finish(lane.clone(), seqs[number], done(seqs[number])).await.expect("it answers");
        let next = queue.first(lane.clone(), Some(seqs[0]), 1).await.expect("it answers");
        assert_eq!(next[0].seq, seqs[number + 1]);
        assert_eq!(bounds(&queue, &lane).await.second, seqs[number + 1].0);
    }
    let expected: Vec<_> = seqs[..1].iter().chain(&seqs[490..]).copied().collect();
    assert_eq!(first(&queue, &lane).await, expected);
}

#[tokio::test]
async fn one_that_comes_back_before_the_bounds_is_found() {
    let folder = TempDir::new().expect("a folder");
    let queue = EmbeddedQueue::new(&open(&folder));
    let lane = lane("one");
    let seqs = append(&queue, &lane, 0..20).await;
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    for number in [1, 4] {
        queue.postpone(lane.clone(), seqs[number], until).await.expect("it answers");
    }
    for number in [0, 2, 3, 5, 6] {
        queue.finish(lane.clone(), seqs[number], done(seqs[number])).await.expect("it answers");
    }
    assert_eq!(first(&queue, &lane).await, seqs[7..]);
    let mut wakes = queue.wakes();
    for number in [4, 1] {
        let now = Timestamp::now();
        queue.postpone(lane.clone(), seqs[number], now).await.expect("it answers");
    }
    while queue.postponed().await.expect("it answers") > 0 {
        tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("they come back");
    }
    let expected: Vec<_> = [seqs[1], seqs[4]].iter().chain(&seqs[7..]).copied().collect();
    assert_eq!(first(&queue, &lane).await, expected);
}

/// The bounds against a plain set, through any order of steps.
#[test]
fn bounds_never_hide_a_fetch() {
    use std::collections::BTreeSet;
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..2000 {
        let (mut lanes, mut rows) = (Lanes::default(), BTreeSet::new());
        for _ in 0..40 {
            let seq = random.u64(1..30);
            match random.u8(0..4) {
                0 | 1 if rows.insert(seq) => lanes.add("a", seq),
                2 if rows.remove(&seq) => lanes.remove("a", seq),
                3 => {
                    // What a read learns.
                    let before = random.u64(0..30);
                    if let (Some(mut lane), Some(head)) = (lanes.get("a"), rows.first()) {
                        lane.first_is(*head);
                        if before >= *head
                            && let Some(next) = rows.range(before + 1..).next()
                        {
                            lane.follows(before, *next);
                        }
                        lanes.learn("a", lane);
                    }
                }
                _ => {}
            }
            let Some(lane) = lanes.get("a") else {
                assert!(rows.is_empty());
                continue;
            };
            assert_eq!(lane.waiting, rows.len() as u64);
            let hidden = rows
                .iter()
                .find(|row| **row < lane.first || (**row > lane.first && **row < lane.second));
            assert_eq!(hidden, None, "{lane:?} of {rows:?}");
        }
    }
}

#[tokio::test]
async fn a_slow_receiver_is_told_of_every_lane_in_the_end() {
    let folder = TempDir::new().expect("a folder");
    let queue = EmbeddedQueue::new(&open(&folder));
    let mut wakes = queue.wakes();
    let count = crate::queue::WAKES_MAX * 2 + 100;
    let fetches: Vec<_> = (0..count).map(|number| fetch(&lane(&number.to_string()), "a")).collect();
    for part in fetches.chunks(APPEND_MAX) {
        queue.append(part.to_vec()).await.expect("it answers though nobody reads the wakes");
    }
    let mut missing: std::collections::BTreeSet<_> =
        fetches.into_iter().map(|fetch| fetch.lane).collect();
    while !missing.is_empty() {
        let wake = tokio::time::timeout(PATIENCE, wakes.recv()).await;
        missing.remove(&wake.expect("the rest is told too").expect("the queue is there").lane);
    }
}

#[tokio::test]
async fn more_than_one_turn_takes_come_back() {
    let folder = TempDir::new().expect("a folder");
    let queue = EmbeddedQueue::new(&open(&folder));
    let lane = lane("one");
    let until = Timestamp::now() + SignedDuration::from_millis(300);
    let later = |id: u64| NewFetch { not_before: Some(until), ..fetch(&lane, &id.to_string()) };
    queue.append((0..2500).map(later).collect()).await.expect("it answers");
    let back = async {
        while queue.postponed().await.expect("it answers") > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("all come back");
    assert!(Timestamp::now() >= until);
    assert_eq!(bounds(&queue, &lane).await.waiting, 2500);
}
