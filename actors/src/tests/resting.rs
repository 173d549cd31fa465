//! An account without work for now is a record, not an actor.

use super::*;

#[test]
fn an_account_whose_next_call_is_far_off_has_no_actor_and_wakes_on_time() {
    paused(|| async {
        let rig = Rig::start(limits(r#"gap = { per = ["account"], every = "1m" }"#), |_| {
            Reply::ok("{}").head_after(ms(3))
        });
        for number in 0..50 {
            rig.put(&format!("x{number}"), "a", &format!("{number}-0")).await;
        }
        rig.at(100).await;
        for number in 0..50 {
            rig.put(&format!("x{number}"), "a", &format!("{number}-1")).await;
            rig.put(&format!("x{number}"), "a", &format!("{number}-2")).await;
        }
        rig.at(1000).await;
        let looks = rig.look().await;
        assert_eq!((looks.live, looks.known, looks.waiting), (0, 50, 100));
        for account in &looks.accounts {
            assert_eq!(account.because.as_deref(), Some("gap"));
            let until = account.until.unwrap().duration_since(wall()).as_millis();
            assert_eq!(until, 60_003, "it says until when it waits");
        }
        rig.at(60_900).await;
        assert_eq!(rig.look().await.live, 0, "asleep again between the second call and the third");
        rig.all_end(secs(300)).await;
        for number in 0..50 {
            let times: Vec<u64> =
                rig.calls_of(&format!("x{number}")).into_iter().map(|(at, _)| at).collect();
            assert_eq!(times, [0, 60_003, 120_006], "late by no millisecond");
        }
    });
}

#[test]
fn an_account_without_work_is_forgotten_when_its_limits_have_forgotten_it() {
    paused(|| async {
        let rig = Rig::start(limits(r#"gap = { per = ["account"], every = "30s" }"#), |_| {
            Reply::ok("{}")
        });
        for number in 0..20 {
            rig.put_many(&format!("x{number}"), "a", 1).await;
        }
        rig.all_end(secs(10)).await;
        rig.at(25_000).await;
        let looks = rig.look().await;
        assert_eq!((looks.live, looks.known), (0, 20));
        rig.at(31_000).await;
        let looks = rig.look().await;
        assert_eq!((looks.live, looks.known), (0, 0));
    });
}

#[test]
fn an_account_without_dated_limits_is_forgotten_at_once() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"s = { per = ["account"], concurrent = 2 }"#), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 5).await;
        rig.all_end(secs(10)).await;
        sleep(ms(10)).await;
        let looks = rig.look().await;
        assert_eq!((looks.live, looks.known), (0, 0));
    });
}

#[test]
fn limits_hold_across_resting_and_being_forgotten() {
    for gap in [100, 5025, 6000, 29_990, 30_001, 30_024, 31_000] {
        paused(|| async move {
            let rig = Rig::start(limits(r#"gap = { per = ["account"], every = "30s" }"#), |_| {
                Reply::error(CallError::Broken("reset".into())).written_after(ms(1))
            });
            // Broken off without an answer: charged as late as can be, a guard of 75 ms after writing.
            rig.put("x", "a", "one").await;
            rig.at(10).await;
            rig.answer(|_| Reply::ok("{}"));
            rig.at(gap).await;
            rig.put("x", "b", "two").await;
            rig.all_end(secs(300)).await;
            let calls: Vec<u64> = rig.calls().into_iter().map(|(at, _)| at).collect();
            assert!(calls[1] >= 30_075, "{calls:?}");
            assert!(calls[2] >= calls[1] + 30_000, "{calls:?}");
        });
    }
}

#[test]
fn work_that_comes_at_any_moment_around_resting_is_not_lost() {
    // The same instant on the clock, but after another number of turns of the loop each time.
    for limit in ["", r#"gap = { per = ["account"], every = "10ms" }"#] {
        for turns in 0..120 {
            paused(|| async move {
                let rig = Rig::start(limits(limit), |_| Reply::ok("{}").head_after(ms(20)));
                rig.put("x", "a", "one").await;
                rig.at(20).await;
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                rig.put("x", "b", "two").await;
                rig.at(100).await;
                assert_eq!(rig.done(), 2, "after {turns} turns");
                assert_eq!(rig.wire.count(), 2);
            });
        }
    }
}

#[test]
fn work_that_comes_at_any_moment_around_waking_is_not_lost() {
    for turns in (0..120).step_by(2) {
        for at in [59_980, 60_000] {
            paused(|| async move {
                let rig =
                    Rig::start(limits(r#"gap = { per = ["account"], every = "1m" }"#), |_| {
                        Reply::ok("{}")
                    });
                rig.put_many("x", "a", 2).await;
                rig.at(at).await;
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                rig.put_as("x", "b", "more", Priority::High, "").await;
                rig.all_end(secs(400)).await;
                let times: Vec<u64> = rig.calls().into_iter().map(|(at, _)| at).collect();
                assert_eq!(times, [0, 60_000, 120_000], "after {turns} turns");
            });
        }
    }
}

#[test]
fn a_retry_far_off_is_kept_while_its_account_rests() {
    paused(|| async {
        let rig = Rig::start(limits("").attempts_max(3), |_| {
            Reply::status(500).header("retry-after", "100")
        });
        rig.put("x", "a", "one").await;
        rig.at(50_000).await;
        let looks = rig.look().await;
        assert_eq!((looks.live, looks.waiting), (0, 1));
        rig.all_end(secs(1000)).await;
        assert_eq!(rig.times_of("one"), [0, 100_000, 200_000], "its tries are counted on");
    });
}

#[test]
fn more_accounts_than_may_be_live_take_turns_and_all_are_collected() {
    const ACCOUNTS: usize = 9_000;
    paused(|| async {
        let setup = limits(r#"gap = { per = ["account"], every = "50ms" }"#);
        let rig = Rig::start(setup.concurrency(20_000), |_| Reply::ok("{}").head_after(ms(40)));
        // Into the queue first, so that all are found at once.
        rig.queue.lose_wakes(true);
        for number in 0..ACCOUNTS {
            rig.put_many(&format!("x{number}"), "a", 2).await;
        }
        let mut from = None;
        loop {
            let page = rig.queue.lanes(from).await.unwrap();
            from = page.next;
            let lanes = page.lanes.into_iter();
            let found =
                lanes.map(|count| Found { lane: count.lane, count: count.waiting, all: true });
            rig.shard.send(Work(found.collect())).await.unwrap();
            if from.is_none() {
                break;
            }
        }
        sleep(ms(10)).await;
        assert_eq!(rig.look().await.live, 8192);
        rig.all_end(secs(100)).await;
        assert_eq!(rig.wire.count(), 2 * ACCOUNTS);
    });
}
