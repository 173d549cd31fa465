use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tollgate_protos::Priority;

use super::*;
use crate::ids::{Account, Slug};
use crate::queue::conformance::queue_conformance;

queue_conformance!((MemoryQueue::new(), ()));

fn lane() -> LaneKey {
    let name = Slug::new("meta").expect("a good name");
    let account = Account::new("act_1").expect("a good name");
    let account = AccountKey { platform: name.clone(), account };
    LaneKey { account, api: name, priority: Priority::Normal }
}

fn fetch(id: &str, not_before: Option<Timestamp>) -> NewFetch {
    NewFetch { lane: lane(), id: id.into(), payload: Bytes::new(), not_before }
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_brings_back_what_is_aside() {
    let now = Timestamp::UNIX_EPOCH;
    let queue = MemoryQueue::starting(now);
    let mut wakes = queue.wakes();
    let hour = SignedDuration::from_hours(1);
    let fetches = vec![fetch("late", Some(now + hour * 2)), fetch("early", Some(now + hour))];
    queue.append(fetches).await.expect("it answers");
    let start = Instant::now();
    for (hours, seq) in [(1, Seq(2)), (2, Seq(1))] {
        wakes.recv().await.expect("the queue is there");
        let passed = start.elapsed();
        let due = Duration::from_secs(hours * 3600);
        assert!(passed >= due && passed < due + Duration::from_millis(5), "{passed:?}");
        let found = queue.first(lane(), None, 10).await.expect("it answers");
        assert!(found.iter().any(|queued| queued.seq == seq));
    }
    assert_eq!(queue.postponed().await.expect("it answers"), 0);
}

#[tokio::test(start_paused = true)]
async fn something_due_earlier_moves_the_timer_forward() {
    let now = Timestamp::UNIX_EPOCH;
    let queue = MemoryQueue::starting(now);
    let mut wakes = queue.wakes();
    let hour = SignedDuration::from_hours(1);
    queue.append(vec![fetch("late", Some(now + hour))]).await.expect("it answers");
    // The timer sleeps until the hour is over when the next one comes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let soon = now + SignedDuration::from_secs(10);
    queue.append(vec![fetch("soon", Some(soon))]).await.expect("it answers");
    let start = Instant::now();
    wakes.recv().await.expect("the queue is there");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn the_timer_ends_with_the_queue() {
    let queue = MemoryQueue::starting(Timestamp::UNIX_EPOCH);
    let later = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1);
    queue.append(vec![fetch("a", Some(later))]).await.expect("it answers");
    let timer = lock(&queue.0.timer).take().expect("something is aside");
    let start = Instant::now();
    drop(queue);
    timer.await.expect("it ends by itself");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn asked_for_failures_change_nothing_and_are_counted() {
    let queue = MemoryQueue::new();
    queue.fail_next(2);
    for _ in 0..2 {
        let answer = queue.append(vec![fetch("a", None)]).await;
        assert!(matches!(answer, Err(QueueError::Unavailable(_))));
    }
    let appended = queue.append(vec![fetch("a", None)]).await.expect("it answers again");
    assert_eq!(appended, [Appended::New(Seq(1))]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_answer_tells_of_what_was_done_before() {
    let queue = MemoryQueue::new();
    queue.delay(Duration::from_secs(5));
    let start = Instant::now();
    let (stored, read) =
        tokio::join!(queue.append(vec![fetch("a", None)]), queue.first(lane(), None, 1));
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(stored.expect("it answers").len(), 1);
    assert_eq!(read.expect("it answers").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn lost_wakes_leave_the_work_in_the_lanes() {
    let queue = MemoryQueue::new();
    let mut wakes = queue.wakes();
    queue.lose_wakes(true);
    queue.append(vec![fetch("a", None)]).await.expect("it answers");
    assert!(wakes.try_recv().is_err());
    assert_eq!(queue.lanes(None).await.expect("it answers").lanes.len(), 1);
    queue.lose_wakes(false);
    queue.append(vec![fetch("b", None)]).await.expect("it answers");
    assert_eq!(wakes.recv().await.expect("the queue is there").lane, lane());
}
