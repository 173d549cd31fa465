//! Wakes, and what makes up for those that are lost.

use std::collections::BTreeSet;

use super::*;
use crate::cluster::{Owned, Parts, part_of};
use crate::queue::WAKES_MAX;

#[tokio::test]
async fn what_came_while_the_connection_was_lost_is_told_of_after_it() {
    let (queue, (_folder, mut server, bus)) = open().await;
    let (known, unknown) = (lane("meta.act_1.insights"), lane("meta.act_2.insights"));
    store(&queue, &known, "a").await;
    let mut wakes = queue.wakes();
    server.kill();
    let mut link = bus.link();
    link.wait_for(|link| !link.up).await.unwrap();
    server.restart();
    // A publisher that is back before the node is.
    let theirs = async_nats::connect(server.url()).await.unwrap();
    let theirs = async_nats::jetstream::new(theirs);
    theirs.publish(bus.names().fetch(&unknown), "{}".into()).await.unwrap().await.unwrap();
    let mut told = BTreeSet::new();
    while told.len() < 2 {
        let wake = tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("it is told").unwrap();
        if wake.lane == known {
            assert!(wake.all && wake.count == 1, "{wake:?}");
        }
        told.insert(wake.lane.subject());
    }
    assert_eq!(told, BTreeSet::from([known.subject(), unknown.subject()]));
}

#[tokio::test]
async fn a_receiver_that_was_behind_is_told_of_every_lane() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let mut wakes = queue.wakes();
    let lanes: Vec<_> =
        (0..WAKES_MAX * 2).map(|number| lane(&format!("meta.act_{number}.insights"))).collect();
    for part in lanes.chunks(2000) {
        let fetches = part.iter().map(|lane| fetch(lane, "a")).collect();
        queue.append(fetches).await.unwrap();
    }
    let mut missing: BTreeSet<_> = lanes.into_iter().collect();
    while !missing.is_empty() {
        let wake = tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("all are told");
        missing.remove(&wake.unwrap().lane);
    }
}

#[tokio::test]
async fn wakes_of_a_burst_in_one_lane_come_together() {
    let (queue, (_folder, _server, _bus)) = open().await;
    let lane = lane("meta.act_1.insights");
    let mut wakes = queue.wakes();
    let fetches = (0..4000).map(|id| fetch(&lane, &id.to_string())).collect();
    queue.append(fetches).await.unwrap();
    let (mut told, mut messages) = (0, 0);
    while told < 4000 {
        let wake = tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("all are told");
        told += wake.unwrap().count;
        messages += 1;
    }
    assert_eq!(told, 4000);
    assert!(messages < 4000, "{messages} wakes");
}

#[tokio::test]
async fn what_waits_in_a_partition_that_was_not_handed_over_in_the_end_is_told_of() {
    let (_folder, _server, bus) = ready("").await;
    let owned = Owned::nothing();
    owned.gain(Parts::ALL);
    let queue = NatsQueue::open_for(&bus, owned.clone()).await.unwrap();
    let lane = lane("meta.act_1.insights");
    let part = Parts::one(part_of(&lane.account));
    let mut wakes = queue.wakes();
    store(&queue, &lane, "a").await;
    let told = tokio::time::timeout(PATIENCE, wakes.recv()).await.unwrap().unwrap();
    assert!(!told.all);
    for lost in [false, true] {
        // Its accounts end here when they hear of it.
        if lost {
            owned.lose(part);
        } else {
            owned.close(part);
        }
        owned.gain(part);
        let told = tokio::time::timeout(PATIENCE, wakes.recv()).await.expect("it is told").unwrap();
        assert_eq!((told.lane, told.all), (lane.clone(), true));
    }
}
