//! Work that is told of late, twice or not at all, and reads that answer with what is no longer true.

use super::*;

#[test]
fn work_whose_wake_was_lost_is_found_by_the_next_discovery() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 3).await;
        rig.at(100).await;
        rig.queue.lose_wakes(true);
        // Into a lane that is known, one that is not, and an account that is not.
        rig.put_many("x", "b", 2).await;
        rig.put("x", "a", "more").await;
        rig.put("y", "a", "other").await;
        rig.at(60_000).await;
        assert!(rig.shared.totals.outstanding() > 0, "nobody was told of them");
        rig.discover().await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.wire.count(), 7);
    });
}

#[test]
fn being_told_again_and_again_of_the_same_work_calls_nothing_twice() {
    paused(|| async {
        let rig = Rig::start(limits(r#"gap = { per = ["account"], every = "300ms" }"#), |_| {
            Reply::ok("{}").head_after(ms(200)).then(ms(70), " ")
        });
        for number in 0..20 {
            rig.put("x", ["a", "b"][number % 2], &format!("{number}")).await;
            rig.discover().await;
            let found = Found { lane: lane("x", "a", Priority::Normal), count: 3, all: false };
            rig.shard.send(Work(vec![found])).await.unwrap();
            sleep(ms(97)).await;
            rig.discover().await;
        }
        rig.all_end(secs(60)).await;
        assert_eq!(rig.wire.count(), 20);
        assert_eq!(rig.done(), 20);
    });
}

#[test]
fn a_fetch_that_comes_back_before_those_in_flight_is_found_at_once() {
    for behind in [0, 1, 5, 70] {
        paused(|| async move {
            let rig = Rig::start(limits("").concurrency(200), |seen| match id_of(seen).as_str() {
                "back" => Reply::ok("{}"),
                _ => Reply::ok("{}").head_after(secs(50)),
            });
            let aside = r#""not_before":"2026-11-20T12:00:10Z""#;
            rig.put_as("x", "a", "back", Priority::Normal, aside).await;
            rig.put_many("x", "a", behind).await;
            rig.at(5000).await;
            // Told of what is in hand already: the lane is read to its end, and from its beginning.
            let found = Found { lane: lane("x", "a", Priority::Normal), count: 2, all: false };
            rig.shard.send(Work(vec![found])).await.unwrap();
            rig.all_end(secs(100)).await;
            assert_eq!(rig.times_of("back"), [10_000], "with {behind} in flight");
            assert_eq!(rig.wire.count(), behind + 1);
        });
    }
}

#[test]
fn a_read_that_answers_late_brings_back_nothing_that_has_ended_meanwhile() {
    // What is in flight is still in the queue: a read from the beginning sees it, and it may end before
    // the read answers.
    for status in [200, 404] {
        paused(|| async move {
            let rig = Rig::start(limits(""), move |_| Reply::status(status).head_after(ms(100)));
            rig.watched_queue.delay_reads(ms(30));
            rig.put_many("x", "a", 5).await;
            for at in (35..400).step_by(5) {
                rig.at(at).await;
                let found = Found { lane: lane("x", "a", Priority::Normal), count: 2, all: false };
                rig.shard.send(Work(vec![found])).await.unwrap();
            }
            rig.all_end(secs(60)).await;
            sleep(secs(5)).await;
            assert_eq!(rig.wire.count(), 5, "{:?}", rig.calls());
            let totals = &rig.shared.totals;
            assert_eq!(totals.fetches_done.get() + totals.fetches_dead.get(), 5);
        });
    }
}

#[test]
fn a_queue_that_does_not_answer_delays_work_and_loses_none() {
    paused(|| async {
        let rig = Rig::start(limits(r#"gap = { per = ["account"], every = "100ms" }"#), |seen| {
            if seen.number % 5 == 4 { Reply::status(404) } else { Reply::ok("{}") }
        });
        rig.put_many("x", "a", 20).await;
        for round in 0..10 {
            rig.at(round * 150 + 20).await;
            rig.queue.fail_next(3);
        }
        rig.queue.fail_next(0);
        rig.all_end(secs(60)).await;
        assert_eq!(rig.wire.count(), 20);
        assert_eq!(rig.dead().await.len(), 4);
    });
}

#[test]
fn a_fetch_that_could_not_be_put_aside_is_not_forgotten() {
    paused(|| async {
        // The queue gives it at once; only the actor sees that its time is far off.
        let rig = Rig::start(limits(""), |_| Reply::ok("{}"));
        let payload = r#"{"id":"far","platform":"p","account":"x","api":"a","not_before":"2026-11-20T12:01:20Z"}"#;
        let lane = lane("x", "a", Priority::Normal);
        let far = NewFetch { lane, id: "far".into(), payload: payload.into(), not_before: None };
        rig.shared.totals.come(1);
        rig.watched_queue.fail_postpones(3);
        rig.queue.append(vec![far]).await.unwrap();
        rig.all_end(secs(200)).await;
        assert_eq!(rig.times_of("far"), [80_000]);
    });
}

#[test]
fn a_deep_backlog_is_read_a_little_at_a_time() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 2000).await;
        rig.at(20_500).await;
        let read: usize = rig.watched_queue.reads().iter().map(Vec::len).sum();
        assert!(read <= 20 + 8, "{read} of 2000 fetches were read for 21 calls");
        assert_eq!(rig.wire.count(), 21);
    });
}

#[test]
fn what_cannot_leave_its_lane_is_read_no_further_and_holds_up_nobody_else() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::ok("{}"));
        rig.watched_queue.delay_endings(secs(60));
        for number in 0..2000 {
            let late = r#""deadline":"2026-11-20T11:00:00Z""#;
            rig.put_as("x", "a", &format!("late-{number}"), Priority::Normal, late).await;
        }
        rig.put("y", "a", "other").await;
        rig.at(30_000).await;
        let leaving = rig.watched_queue.endings().len();
        assert!((256..400).contains(&leaving), "{leaving} of 2000 on their way");
        assert_eq!(rig.calls_of("y").len(), 1);
        rig.watched_queue.delay_endings(ms(1));
        rig.all_end(secs(600)).await;
        assert_eq!(rig.shared.totals.fetches_dead.get(), 2000);
    });
}
