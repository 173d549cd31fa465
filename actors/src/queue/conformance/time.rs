//! What is put aside, and what wakes.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use tokio::sync::mpsc::Receiver;

use super::{
    Appended, Duration, LaneKey, NewFetch, PATIENCE, Priority, Queue, Seq, Timestamp, append_one,
    clock, done, fetch, finish, first, first_seqs, lane, lane_of, new, store, until,
};
use crate::queue::Wake;

/// Not a moment early, and known by its first number.
pub async fn a_postponed_fetch_comes_back_and_wakes(queue: &dyn Queue) {
    let lane = lane("back");
    let seqs = store(queue, &lane, 3).await;
    let before = first(queue, &lane).await.remove(0);
    let mut wakes = queue.wakes();
    let until = Timestamp::now() + SignedDuration::from_millis(300);
    postpone(queue, &lane, seqs[0], until).await;
    let back = loop {
        let mut found = first(queue, &lane).await;
        // Read after the answer, so the answer was not given later than this.
        let now = Timestamp::now();
        found.retain(|queued| !seqs[1..].contains(&queued.seq));
        if let [queued] = &found[..] {
            assert_eq!(queued.origin, seqs[0]);
            assert_eq!((queued.queued_at, &queued.payload), (before.queued_at, &before.payload));
            break now;
        }
        assert!(found.is_empty(), "{found:?}");
        assert!(now < until + SignedDuration::try_from(PATIENCE).expect("some seconds"));
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert!(back >= until, "back at {back}, not before {until}");
    woken(&mut wakes, &lane).await;
}

/// Under its own number, before those that came later.
pub async fn a_postponed_fetch_comes_back_in_its_place(queue: &dyn Queue) {
    let lane = lane("postponed");
    let seqs = store(queue, &lane, 3).await;
    let mut wakes = queue.wakes();
    let until = Timestamp::now() + SignedDuration::from_millis(300);
    postpone(queue, &lane, seqs[0], until).await;
    let back = loop {
        let found = first_seqs(queue, &lane).await;
        // Read after the answer, so the answer was not given later than this.
        let now = Timestamp::now();
        if found == seqs {
            break now;
        }
        assert_eq!(found, seqs[1..]);
        assert!(now < until + SignedDuration::try_from(PATIENCE).expect("some seconds"));
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert!(back >= until, "back at {back}, not before {until}");
    woken(&mut wakes, &lane).await;
    assert_eq!(
        queue.first(lane.clone(), None, 1).await.expect("the queue answers")[0].seq,
        seqs[0]
    );
}

/// Those that wait in their lanes do not count.
pub async fn counts_what_is_put_aside(queue: &dyn Queue) {
    let lane = lane("count-aside");
    let seqs = store(queue, &lane, 3).await;
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    for seq in &seqs[1..] {
        postpone(queue, &lane, *seq, until).await;
    }
    let aside = queue.postponed().await.expect("the queue answers");
    assert!(aside >= 2, "{aside}");
    assert_eq!(first_seqs(queue, &lane).await, seqs[..1]);
}

/// The last moment counts.
pub async fn a_postponed_fetch_can_be_postponed_again(queue: &dyn Queue) {
    let lane = lane("again");
    let seqs = store(queue, &lane, 1).await;
    let now = Timestamp::now();
    postpone(queue, &lane, seqs[0], now + SignedDuration::from_hours(1)).await;
    let until = now + SignedDuration::from_millis(100);
    postpone(queue, &lane, seqs[0], until).await;
    until_first(queue, &lane, &seqs).await;
    assert!(Timestamp::now() >= until);
    postpone(queue, &lane, seqs[0], now + SignedDuration::from_hours(1)).await;
    postpone(queue, &lane, seqs[0], now - SignedDuration::from_hours(1)).await;
    until_first(queue, &lane, &seqs).await;
}

/// It does not come back, and its id is done.
pub async fn a_postponed_fetch_can_be_finished(queue: &dyn Queue) {
    let lane = lane("aside");
    let seqs = store(queue, &lane, 1).await;
    let until = Timestamp::now() + SignedDuration::from_millis(100);
    postpone(queue, &lane, seqs[0], until).await;
    finish(queue, &lane, seqs[0], done("0", seqs[0])).await;
    assert_eq!(append_one(queue, fetch(&lane, "0")).await, Appended::Done(seqs[0]));
    // Another one that is due later comes back, this one does not.
    let later = new(append_one(queue, fetch(&lane, "later")).await);
    postpone(queue, &lane, later, until + SignedDuration::from_millis(50)).await;
    until_first(queue, &lane, &[later]).await;
}

/// It is as if it had not been called.
pub async fn postponing_to_the_past_leaves_it_waiting(queue: &dyn Queue) {
    let lane = lane("past");
    let seqs = store(queue, &lane, 2).await;
    postpone(queue, &lane, seqs[0], Timestamp::UNIX_EPOCH).await;
    until_first(queue, &lane, &seqs).await;
}

/// Neither an unknown number nor one of another lane.
pub async fn postponing_what_is_not_there_is_harmless(queue: &dyn Queue) {
    let (mine, other) = (lane("there"), lane("not-there"));
    let seqs = store(queue, &mine, 1).await;
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    postpone(queue, &other, seqs[0], until).await;
    postpone(queue, &mine, Seq(u64::MAX), until).await;
    assert_eq!(first_seqs(queue, &mine).await, seqs);
    finish(queue, &mine, seqs[0], done("0", seqs[0])).await;
    postpone(queue, &mine, seqs[0], until).await;
    assert!(first(queue, &mine).await.is_empty());
}

/// `not_before` puts a fetch aside from the start; one that is past does not.
pub async fn a_fetch_is_not_returned_before_its_time(queue: &dyn Queue) {
    let lane = lane("not-before");
    let mut wakes = queue.wakes();
    let until = Timestamp::now() + SignedDuration::from_millis(200);
    let later = NewFetch { not_before: Some(until), ..fetch(&lane, "later") };
    let past = NewFetch { not_before: Some(Timestamp::UNIX_EPOCH), ..fetch(&lane, "past") };
    let later_seq = new(append_one(queue, later.clone()).await);
    assert_eq!(append_one(queue, later).await, Appended::Waiting(later_seq));
    let past_seq = new(append_one(queue, past).await);
    woken(&mut wakes, &lane).await;
    loop {
        let found = first_seqs(queue, &lane).await;
        if Timestamp::now() < until {
            assert_eq!(found, [past_seq]);
        } else {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    woken(&mut wakes, &lane).await;
    until_first(queue, &lane, &[later_seq, past_seq]).await;
}

/// A wake per lane at least; what was known wakes nobody.
pub async fn wakes_for_new_work_and_not_for_known_ids(queue: &dyn Queue) {
    let (one, other, known) = (lane("wake"), lane("wake-too"), lane("wake-not"));
    let mut wakes = queue.wakes();
    append_one(queue, fetch(&known, "a")).await;
    woken(&mut wakes, &known).await;
    append_one(queue, fetch(&known, "a")).await;
    let fetches = vec![fetch(&one, "a"), fetch(&other, "a"), fetch(&one, "b")];
    queue.append(fetches).await.expect("the queue answers");
    let mut counts = [0, 0];
    while counts != [2, 1] {
        let wake = next(&mut wakes).await;
        assert_ne!(wake.lane, known, "nothing new came there");
        for (lane, count) in [&one, &other].into_iter().zip(&mut counts) {
            if wake.lane == *lane {
                *count += wake.count;
            }
        }
    }
}

/// More lanes than wakes have room, and nobody reads them: `lanes` knows of all, and those who read
/// later are told of what `lanes` would tell or can ask.
pub async fn lanes_tell_of_work_whose_wakes_were_lost(queue: &dyn Queue) {
    let unique = clock::random();
    let mine: BTreeSet<_> = (0..crate::queue::WAKES_MAX + 500)
        .map(|number| lane_of(&format!("w{unique:x}.{number}"), "insights", Priority::Normal))
        .collect();
    let wakes = queue.wakes();
    let fetches: Vec<_> = mine.iter().map(|lane| fetch(lane, "a")).collect();
    for part in fetches.chunks(2000) {
        queue.append(part.to_vec()).await.expect("the queue answers while nobody reads its wakes");
    }
    drop(wakes);
    let mut missing = mine;
    let mut from = None;
    loop {
        let page = queue.lanes(from).await.expect("the queue answers");
        for count in &page.lanes {
            missing.remove(&count.lane);
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert!(missing.is_empty(), "{} lanes are not told of", missing.len());
}

/// At most one receiver.
pub async fn a_later_receiver_of_wakes_ends_the_earlier_one(queue: &dyn Queue) {
    let lane = lane("receivers");
    let mut earlier = queue.wakes();
    let mut later = queue.wakes();
    let ended = async { while earlier.recv().await.is_some() {} };
    assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "the earlier receiver goes on");
    append_one(queue, fetch(&lane, "a")).await;
    woken(&mut later, &lane).await;
}

async fn postpone(queue: &dyn Queue, lane: &LaneKey, seq: Seq, until: Timestamp) {
    queue.postpone(lane.clone(), seq, until).await.expect("the queue answers");
}

async fn until_first(queue: &dyn Queue, lane: &LaneKey, expected: &[Seq]) {
    until("the fetch comes back", async || {
        (first_seqs(queue, lane).await == expected).then_some(())
    })
    .await;
}

async fn next(wakes: &mut Receiver<Wake>) -> Wake {
    let wake = tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("a wake must come");
    wake.expect("the queue is there")
}

async fn woken(wakes: &mut Receiver<Wake>, lane: &LaneKey) {
    while next(wakes).await.lane != *lane {}
}
