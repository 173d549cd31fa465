//! Notes that a node left behind.

use super::sweep::Pace;
use super::*;
use crate::cluster::Parts;

/// So quick that a test sees it, and so slow that the first look and the second are apart.
const QUICK: Pace = Pace {
    settle: Duration::from_millis(100),
    confirm: Duration::from_millis(300),
    every: Duration::from_millis(500),
    again: Duration::from_millis(100),
    leader: Duration::from_millis(100),
    fetches: 2048,
};

async fn note(queue: &NatsQueue, lane: &LaneKey, origin: Seq) {
    let bytes = Bytes::from_static(b"note");
    let kept = queue.keep_note(lane.clone(), origin, 0, bytes).await.unwrap();
    assert!(kept.is_some(), "none was there");
}

async fn has_note(queue: &NatsQueue, lane: &LaneKey, origin: Seq) -> bool {
    queue.note(lane.clone(), origin).await.unwrap().is_some()
}

/// A queue of which nothing is done by itself.
async fn resting() -> (NatsQueue, Keep) {
    let (folder, server, bus) = ready("").await;
    let queue = NatsQueue::view(&bus).await.unwrap();
    (queue, (folder, server, bus))
}

struct Sweeping(AbortHandle);

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn sweeping(inner: &Arc<Inner>, pace: Pace) -> Sweeping {
    Sweeping(tokio::spawn(sweep::sweep(inner.clone(), pace)).abort_handle())
}

#[tokio::test]
async fn notes_of_fetches_that_are_gone_vanish_and_those_of_fetches_that_wait_stay() {
    let (queue, (_folder, _server, bus)) = resting().await;
    let inner = &queue.0.inner;
    let (busy, idle) = (lane("meta.act_1.insights"), lane("meta.a%40b%2Ec.insights.high"));
    let hour = clock::wall() + SignedDuration::from_hours(1);
    // Where it was first stored.
    let here = store(&queue, &busy, "here").await;
    // Aside, and back in its lane under another number.
    let aside = store(&queue, &busy, "aside").await;
    queue.postpone(busy.clone(), aside, hour).await.unwrap();
    let back = store(&queue, &busy, "back").await;
    let message = inner.get(&inner.fetch.stream, back.0).await.unwrap().unwrap();
    queue.postpone(busy.clone(), back, hour).await.unwrap();
    inner.move_to(&busy, &message, headers::id_of_move(1, back.0, "back")).await.unwrap();
    let returned = first(&queue, &busy).await.pop().unwrap();
    assert!(returned.origin == back && returned.seq > back, "{returned:?}");
    inner.delete(&inner.aside, 2).await.unwrap();
    assert_eq!(queue.postponed().await.unwrap(), 1);
    // Ended, of an account with work and of one without.
    let ended_busy = store(&queue, &busy, "ended").await;
    queue.finish(busy.clone(), ended_busy, ended("ended", ended_busy)).await.unwrap();
    let ended_idle = store(&queue, &idle, "ended").await;
    queue.finish(idle.clone(), ended_idle, ended("ended", ended_idle)).await.unwrap();
    for origin in [here, aside, back, ended_busy] {
        note(&queue, &busy, origin).await;
    }
    note(&queue, &idle, ended_idle).await;
    // What we would not write is nobody's to remove.
    let odd = bus.names().subject("progress.1.meta.act_1.7.x");
    publish(&bus, &odd, HeaderMap::new(), "odd").await;

    let sweeping = sweeping(inner, QUICK);
    until("both are removed", async || {
        let gone = !has_note(&queue, &busy, ended_busy).await
            && !has_note(&queue, &idle, ended_idle).await;
        gone.then_some(())
    })
    .await;
    // Some turns later too.
    tokio::time::sleep(QUICK.every * 4).await;
    for origin in [here, aside, back] {
        assert!(has_note(&queue, &busy, origin).await, "of a fetch that waits: {origin}");
    }
    assert_eq!(count(&inner.progress).await, 4);
    // As soon as they have ended, theirs go as well.
    queue.finish(busy.clone(), here, ended("here", here)).await.unwrap();
    inner.delete(&inner.aside, 1).await.unwrap();
    queue.finish(busy.clone(), returned.seq, ended("back", back)).await.unwrap();
    until("all are removed", async || (count(&inner.progress).await == 1).then_some(())).await;
    drop(sweeping);
}

#[tokio::test]
async fn a_note_that_was_written_anew_between_the_two_looks_stays() {
    let (queue, (_folder, _server, _bus)) = resting().await;
    let lane = lane("meta.act_1.insights");
    let inner = &queue.0.inner;
    let bytes = || Bytes::from_static(b"note");
    let mut version = queue.keep_note(lane.clone(), Seq(7), 0, bytes()).await.unwrap().unwrap();
    let pace = Pace { confirm: Duration::from_secs(2), ..QUICK };
    let _sweeping = sweeping(inner, pace);
    // Each time before a second look can follow a first one.
    for _ in 0..50 {
        tokio::time::sleep(pace.confirm / 20).await;
        let kept = queue.keep_note(lane.clone(), Seq(7), version, bytes()).await.unwrap();
        version = kept.expect("it is there all the while");
    }
    until("it is removed", async || (count(&inner.progress).await == 0).then_some(())).await;
}

#[tokio::test]
async fn more_notes_than_a_turn_takes_all_vanish() {
    let (queue, (_folder, _server, _bus)) = resting().await;
    let lane = lane("meta.act_1.insights");
    let waiting = store(&queue, &lane, "a").await;
    for number in 0..600 {
        note(&queue, &lane, Seq(waiting.0 + number)).await;
    }
    let _sweeping = sweeping(&queue.0.inner, QUICK);
    until("one is left", async || (count(&queue.0.inner.progress).await == 1).then_some(())).await;
    assert!(has_note(&queue, &lane, waiting).await);
}

#[tokio::test]
async fn notes_of_partitions_that_are_not_owned_are_left_to_their_owner() {
    let (folder, server, bus) = ready("").await;
    let owned = Owned::nothing();
    let inner = Inner::open(&bus, owned.clone()).await.unwrap();
    let lanes = [lane("meta.act_1.insights"), lane("meta.act_2.insights")];
    let parts = lanes.clone().map(|lane| crate::cluster::part_of(&lane.account));
    assert_ne!(parts[0], parts[1]);
    for lane in &lanes {
        inner.keep_note(lane, Seq(7), 0, Bytes::from_static(b"note")).await.unwrap();
    }
    owned.renewed(crate::cluster::Asked::now(), Duration::from_secs(600));
    owned.gain(Parts::one(parts[0]));
    let _sweeping = sweeping(&inner, QUICK);
    until("its own is removed", async || {
        inner.note(&lanes[0], Seq(7)).await.unwrap().is_none().then_some(())
    })
    .await;
    tokio::time::sleep(QUICK.every * 3).await;
    assert!(inner.note(&lanes[1], Seq(7)).await.unwrap().is_some());
    owned.gain(Parts::one(parts[1]));
    until("what it gains is looked at", async || {
        inner.note(&lanes[1], Seq(7)).await.unwrap().is_none().then_some(())
    })
    .await;
    drop((folder, server));
}

#[tokio::test]
async fn a_note_vanishes_though_others_put_fetches_aside_all_the_while() {
    let (queue, (_folder, _server, bus)) = resting().await;
    let inner = &queue.0.inner;
    let (own, other) = (lane("meta.act_1.insights"), lane("meta.act_2.insights"));
    // So many that something is put aside at each look at them.
    for number in 0..100 {
        store(&queue, &own, &number.to_string()).await;
    }
    note(&queue, &own, Seq(7_000)).await;
    let subject = inner.names().later(&other);
    let putting = async {
        loop {
            publish(&bus, &subject, HeaderMap::new(), "{}").await;
        }
    };
    let _sweeping = sweeping(inner, QUICK);
    tokio::select! {
        () = putting => {}
        () = until("it is removed", async || (count(&inner.progress).await == 0).then_some(())) => {}
    }
}

#[tokio::test]
async fn an_account_with_much_waiting_does_not_keep_those_behind_it_from_being_looked_at() {
    let (queue, (_folder, _server, _bus)) = resting().await;
    let inner = &queue.0.inner;
    let much = lane("meta.act_1.insights");
    let part = crate::cluster::part_of(&much.account);
    let behind = (2..).map(|number| lane(&format!("meta.act_1x{number}.insights")));
    let little = behind.into_iter().find(|lane| crate::cluster::part_of(&lane.account) == part);
    let little = little.unwrap();
    assert!(much.account < little.account);
    // Its note is looked at each time: its fetch waits under another number.
    let aside = store(&queue, &much, "aside").await;
    note(&queue, &much, aside).await;
    let hour = clock::wall() + SignedDuration::from_hours(1);
    queue.postpone(much.clone(), aside, hour).await.unwrap();
    for number in 0..18 {
        store(&queue, &much, &number.to_string()).await;
    }
    for number in 0..2 {
        store(&queue, &little, &number.to_string()).await;
    }
    note(&queue, &little, Seq(7_000)).await;
    // For each of them, and not for both.
    let _sweeping = sweeping(inner, Pace { fetches: 20, ..QUICK });
    until("one is left", async || (count(&inner.progress).await == 1).then_some(())).await;
    assert!(has_note(&queue, &much, aside).await);
}

/// A replica that lost deletions shows what the leader before had not, as soon as it leads.
#[tokio::test]
async fn another_leader_of_the_notes_is_reason_to_look_again() {
    let (folders, servers, bus) = ready_three().await;
    let queue = NatsQueue::view(&bus).await.unwrap();
    let inner = &queue.0.inner;
    let lane = lane("meta.act_1.insights");
    note(&queue, &lane, Seq(7)).await;
    let _sweeping = sweeping(inner, Pace { every: Duration::from_secs(600), ..QUICK });
    until("it is removed", async || (count(&inner.progress).await == 0).then_some(())).await;
    note(&queue, &lane, Seq(8)).await;
    tokio::time::sleep(QUICK.settle * 10).await;
    assert!(has_note(&queue, &lane, Seq(8)).await, "the next look is far");
    let stream = bus.names().stream("PROGRESS");
    let step_down = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
    let answer = bus.client().request(step_down, Bytes::new()).await.unwrap();
    assert!(answer.payload.windows(7).any(|part| part == b"success"), "{answer:?}");
    until("it is removed", async || (count(&inner.progress).await == 0).then_some(())).await;
    drop((servers, folders));
}
