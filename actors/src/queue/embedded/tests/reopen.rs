//! What is there after the folder was closed and opened again.

use super::*;

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder);
    let queue = EmbeddedQueue::new(&state);
    let (one, other) = (lane("one"), lane("other"));
    let seqs = append(&queue, &one, 0..10).await;
    append(&queue, &other, 0..1).await;
    queue.finish(one.clone(), seqs[0], done(seqs[0])).await.expect("it answers");
    let dead = Ending::Dead(Box::new(letter("it died")));
    queue.finish(one.clone(), seqs[4], dead).await.expect("it answers");
    assert!(queue.bury([7; 16], letter("never lived")).await.expect("it answers"));
    let far = Timestamp::now() + SignedDuration::from_hours(1);
    queue.postpone(one.clone(), seqs[5], far).await.expect("it answers");
    let soon = Timestamp::now() + SignedDuration::from_millis(200);
    queue.postpone(one.clone(), seqs[2], soon).await.expect("it answers");
    let name = queue.name();
    state.close().await;

    let state = open(&folder);
    let queue = EmbeddedQueue::new(&state);
    let mut wakes = queue.wakes();
    assert_eq!(queue.name(), name);
    // What was put aside comes back by itself, without a call that would remind the queue.
    if first(&queue, &one).await.len() < 7 {
        let wake = tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("it comes back");
        assert_eq!(wake.expect("the queue is there").lane, one);
    }
    assert!(Timestamp::now() >= soon);
    let expected: Vec<_> = [1, 2, 3, 6, 7, 8, 9].map(|number| seqs[number]).into();
    assert_eq!(first(&queue, &one).await, expected);
    assert_eq!(queue.postponed().await.expect("it answers"), 1);
    let lanes = queue.lanes(None).await.expect("it answers").lanes;
    let lanes: Vec<_> = lanes.into_iter().map(|count| (count.lane, count.waiting)).collect();
    assert_eq!(lanes, [(one.clone(), 7), (other, 1)]);
    let letters = queue.dead(None, 10).await.expect("it answers");
    let reasons: Vec<_> = letters.iter().map(|letter| &*letter.dead.reason).collect();
    assert_eq!(reasons, ["it died", "never lived"]);
    assert!(!queue.bury([7; 16], letter("again")).await.expect("it answers"));
    let appended = queue
        .append(["0", "1", "4", "5"].map(|id| fetch(&one, id)).into())
        .await
        .expect("it answers");
    let expected = [
        Appended::Done(seqs[0]),
        Appended::Waiting(seqs[1]),
        Appended::Dead(seqs[4]),
        Appended::Waiting(seqs[5]),
    ];
    assert_eq!(appended, expected);
    let next = append(&queue, &one, 10..11).await[0];
    assert!(next.0 > letters[1].number.0, "no number is given twice");
}

#[tokio::test]
async fn numbers_go_on_after_everything_was_finished() {
    let folder = TempDir::new().expect("a folder");
    let lane = lane("one");
    let mut last = Seq(0);
    for round in 0..3 {
        let state = open(&folder);
        let queue = EmbeddedQueue::new(&state);
        for seq in append(&queue, &lane, round * 5..round * 5 + 5).await {
            assert!(seq > last);
            last = seq;
            queue.finish(lane.clone(), seq, done(seq)).await.expect("it answers");
        }
        state.close().await;
    }
}

#[tokio::test]
async fn fsync_changes_nothing_but_the_waiting() {
    let folder = TempDir::new().expect("a folder");
    let state = State::open(folder.path(), Options { fsync: true }).expect("it opens");
    let queue = EmbeddedQueue::new(&state);
    let seqs = append(&queue, &lane("one"), 0..5).await;
    state.close().await;
    assert_eq!(first(&EmbeddedQueue::new(&open(&folder)), &lane("one")).await, seqs);
}

#[tokio::test]
async fn queues_of_one_state_are_one_queue() {
    let folder = TempDir::new().expect("a folder");
    let state = open(&folder);
    let (one, other) = (EmbeddedQueue::new(&state), EmbeddedQueue::new(&state));
    let seqs = append(&one, &lane("one"), 0..2).await;
    assert_eq!(first(&other, &lane("one")).await, seqs);
    assert_eq!(one.name(), other.name());
}
