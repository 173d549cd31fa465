//! Calls in flight over the whole node: a slot first, then the decision.

use super::*;

#[test]
fn never_more_calls_are_in_flight_than_there_are_slots_and_all_slots_are_used() {
    for concurrency in [1, 2, 7] {
        paused(|| async move {
            let setup = limits(r#"gap = { per = ["account"], every = "50ms" }"#);
            let rig = Rig::start(setup.concurrency(concurrency), |_| {
                Reply::ok("{}").head_after(ms(70)).then(ms(30), " ")
            });
            for number in 0..10 {
                rig.put_many(&format!("x{number}"), "a", 4).await;
            }
            rig.all_end(secs(60)).await;
            assert_eq!(rig.wire.open_max(), concurrency);
            assert_eq!(rig.wire.open(), 0);
            let rounds = 40_usize.div_ceil(concurrency) as u64;
            let last = rig.calls()[39].0;
            assert_eq!(last, (rounds - 1) * 100, "no slot is ever idle");
        });
    }
}

#[test]
fn accounts_get_slots_in_the_order_in_which_they_asked() {
    paused(|| async {
        let rig = Rig::start(limits("").concurrency(2), |_| Reply::ok("{}").head_after(ms(100)));
        rig.put_many("long", "a", 2).await;
        rig.at(50).await;
        for number in 0..10 {
            rig.put_many(&format!("x{number}"), "a", 3).await;
        }
        rig.all_end(secs(60)).await;
        let accounts: Vec<String> = rig.wire.seen()[2..].iter().map(account_of).collect();
        let round: Vec<String> = (0..10).map(|number| format!("x{number}")).collect();
        assert_eq!(accounts, [round.clone(), round.clone(), round].concat());
    });
}

#[test]
fn no_quota_is_spent_while_an_account_waits_for_a_slot() {
    paused(|| async {
        let setup = limits(r#"gap = { per = ["account"], every = "1s" }"#).concurrency(1);
        let rig = Rig::start(setup, |seen| match account_of(seen).as_str() {
            "long" => Reply::ok("{}").head_after(ms(5300)),
            _ => Reply::ok("{}"),
        });
        rig.put("long", "a", "long").await;
        rig.at(100).await;
        rig.put_many("x", "a", 3).await;
        rig.at(5200).await;
        assert!(rig.log.records("x").is_empty(), "nothing was decided for it yet");
        rig.all_end(secs(60)).await;
        let times: Vec<u64> = rig.calls_of("x").into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [5300, 6300, 7300]);
    });
}

#[test]
fn a_slot_that_came_for_an_account_without_work_left_goes_on_to_the_next() {
    paused(|| async {
        let deadline = r#""deadline":"2026-11-20T12:00:01Z""#;
        let rig = Rig::start(limits("").concurrency(1), |_| Reply::ok("{}").head_after(ms(2000)));
        rig.put("long", "a", "long").await;
        rig.at(10).await;
        rig.put_as("x", "a", "too late", Priority::Normal, deadline).await;
        rig.at(20).await;
        rig.put("y", "a", "next").await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.times_of("next"), [2000]);
        assert_eq!(rig.dead().await, [("too late".into(), "TG0114".into())]);
    });
}

#[test]
fn a_slow_store_holds_up_no_calls_until_its_places_are_taken_too() {
    paused(|| async {
        let mut setup = limits("").concurrency(2);
        // Object and manifest: two seconds for each fetch.
        setup.store = Some(Store::slow(secs(1)));
        let rig = Rig::start(setup, |_| Reply::ok("{}").head_after(ms(100)));
        for number in 0..6 {
            rig.put(&format!("x{number}"), "a", &format!("f{number}")).await;
        }
        rig.all_end(secs(60)).await;
        let times: Vec<u64> = (0..6).flat_map(|n| rig.times_of(&format!("f{n}"))).collect();
        // Two slots and, in these tests, as many places for what is only stored: the second pair finds those
        // taken, and keeps its slots until it is stored.
        assert_eq!(times, [0, 0, 100, 100, 2200, 2200]);
    });
}

#[test]
fn an_api_that_may_go_is_what_an_account_waits_for_whatever_another_api_waits_for() {
    paused(|| async {
        let setup = limits(r#"daily = { per = ["account", "api"], max = 1, in = "1h" }"#);
        let rig = Rig::start(setup.concurrency(1), |seen| match account_of(seen).as_str() {
            "long" => Reply::ok("{}").head_after(ms(9000)),
            _ => Reply::ok("{}"),
        });
        rig.put_many("x", "a", 2).await;
        rig.at(100).await;
        assert_eq!(rig.look().await.accounts[0].because.as_deref(), Some("daily"));
        rig.put("long", "a", "long").await;
        rig.at(200).await;
        rig.put("x", "b", "ready").await;
        rig.at(300).await;
        let look = rig.look().await;
        let account = look.accounts.iter().find(|look| look.account == "x").unwrap();
        assert_eq!(account.because.as_deref(), Some("a free collector"));
        assert_eq!(account.until, None);
        rig.at(9500).await;
        assert_eq!(rig.times_of("ready"), [9100]);
        assert_eq!(rig.look().await.accounts[0].because.as_deref(), Some("daily"));
    });
}
