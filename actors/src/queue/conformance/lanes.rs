//! Which lanes have work.

use super::{
    BTreeMap, LaneKey, Priority, Queue, Timestamp, append_one, clock, done, fetch, finish, lane,
    lane_of, store,
};
use crate::queue::{LANES_MAX, LanePage};

/// Each with how many wait in it.
pub async fn lists_lanes_with_their_counts(queue: &dyn Queue) {
    let one = lane("counts");
    let other = LaneKey { priority: Priority::Low, ..one.clone() };
    let seqs = store(queue, &one, 3).await;
    append_one(queue, fetch(&other, "low")).await;
    finish(queue, &one, seqs[1], done("1", seqs[1])).await;
    let found = all(queue).await;
    assert_eq!(found.get(&one), Some(&2));
    assert_eq!(found.get(&other), Some(&1));
}

/// Page by page every lane is named once.
pub async fn pages_through_more_lanes_than_one_answer_holds(queue: &dyn Queue) {
    let unique = clock::random();
    let accounts = LANES_MAX + 100;
    let mine: Vec<_> = (0..accounts)
        .map(|number| lane_of(&format!("p{unique:x}.{number}"), "insights", Priority::Normal))
        .collect();
    for part in mine.chunks(1000) {
        let fetches = part.iter().map(|lane| fetch(lane, "a")).collect();
        queue.append(fetches).await.expect("the queue answers");
    }
    let found = all(queue).await;
    assert!(mine.iter().all(|lane| found.get(lane) == Some(&1)));
}

/// Not those of an account whose name begins with the same letters.
pub async fn lists_the_lanes_of_one_account_only(queue: &dyn Queue) {
    let base = lane("account");
    let name = base.account.account.as_str();
    let mine = [
        base.clone(),
        lane_of(name, "insights", Priority::High),
        lane_of(name, "campaigns", Priority::Normal),
    ];
    let others = [
        lane_of(&format!("{name}2"), "insights", Priority::Normal),
        lane_of(&format!("{name}.insights"), "insights", Priority::Normal),
        lane_of(name.strip_suffix(|_| true).expect("it has letters"), "insights", Priority::Normal),
    ];
    for lane in mine.iter().chain(&others) {
        append_one(queue, fetch(lane, &lane.subject())).await;
    }
    let found = queue.account_lanes(base.account.clone()).await.expect("the queue answers");
    let mut found: Vec<_> = found.into_iter().map(|count| (count.lane, count.waiting)).collect();
    let mut expected: Vec<_> = mine.into_iter().map(|lane| (lane, 1)).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let nobody = lane("nobody").account;
    assert!(queue.account_lanes(nobody).await.expect("the queue answers").is_empty());
}

/// Whether its fetches ended or were put aside.
pub async fn an_emptied_lane_is_not_listed(queue: &dyn Queue) {
    let lane = lane("emptied");
    let seqs = store(queue, &lane, 2).await;
    finish(queue, &lane, seqs[0], done("0", seqs[0])).await;
    let until = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    queue.postpone(lane.clone(), seqs[1], until).await.expect("the queue answers");
    assert!(!all(queue).await.contains_key(&lane));
    let listed = queue.account_lanes(lane.account.clone()).await.expect("the queue answers");
    assert!(listed.is_empty());
}

/// Walks over all pages.
async fn all(queue: &dyn Queue) -> BTreeMap<LaneKey, u64> {
    let mut found = BTreeMap::new();
    let mut from = None;
    loop {
        let LanePage { lanes, next } = queue.lanes(from).await.expect("the queue answers");
        from = next;
        for count in lanes {
            assert!(count.waiting > 0);
            let twice = found.insert(count.lane.clone(), count.waiting);
            assert!(twice.is_none(), "{} was on two pages", count.lane.subject());
        }
        if from.is_none() {
            return found;
        }
    }
}
