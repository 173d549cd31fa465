//! What a failed try leads to: when the next one goes, what it holds up, and when a fetch is given up.

use super::*;

/// Calls of one fetch on an otherwise empty shard, with this answer each time.
fn tries(setup: Setup, within: Duration, reply: impl Fn(usize) -> Reply + 'static) -> Vec<u64> {
    let times = Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen_times = Rc::clone(&times);
    paused(|| async move {
        let rig = Rig::start(setup, move |seen| reply(seen.number));
        rig.put("x", "a", "one").await;
        rig.all_end(within).await;
        *seen_times.borrow_mut() = rig.times_of("one");
    });
    times.take()
}

fn gaps(times: &[u64]) -> Vec<u64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn assert_doubling(gaps: &[u64], first: u64, most: u64) {
    for (place, gap) in gaps.iter().enumerate() {
        let base = (first << place.min(30)).min(most);
        assert!(
            (base..=base * 2).contains(gap),
            "wait {place} is {gap} ms, not {base} to twice that"
        );
    }
}

#[test]
fn waits_between_bad_answers_double_from_a_second_and_attempts_max_ends_them() {
    for status in [500, 502, 408, 425] {
        let times = tries(limits("").attempts_max(6), secs(200), move |_| Reply::status(status));
        assert_eq!(times.len(), 6, "status {status}");
        assert_doubling(&gaps(&times), 1000, 300_000);
    }
}

#[test]
fn every_way_to_break_off_counts_as_a_try_and_attempts_max_ends_them() {
    let replies: [fn() -> Reply; 4] = [
        || Reply::error(CallError::Broken("reset".into())),
        Reply::silence,
        || Reply::ok("{").then_error(ms(5), CallError::Broken("short".into())),
        || Reply::ok("{").then(Duration::MAX, "}"),
    ];
    for (place, reply) in replies.into_iter().enumerate() {
        let times = tries(limits("").attempts_max(3), secs(2000), move |_| reply());
        assert_eq!(times.len(), 3, "way {place}");
    }
}

#[test]
fn a_good_answer_after_bad_ones_ends_a_fetch_as_done() {
    paused(|| async {
        let rig = Rig::start(limits(""), |seen| match seen.number {
            0 => Reply::status(500),
            1 => Reply::status(200).header("content-type", "text/html").then(ms(0), "<html>"),
            2 => Reply::error(CallError::Broken("reset".into())),
            _ => Reply::ok("{}"),
        });
        rig.put("x", "a", "one").await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.done(), 1);
        assert_eq!(rig.wire.count(), 4);
    });
}

#[test]
fn what_another_try_cannot_mend_is_given_up_at_once() {
    for status in [301, 307, 400, 401, 403, 404, 410, 501, 505] {
        let times = tries(limits(""), secs(10), move |_| Reply::status(status));
        assert_eq!(times.len(), 1, "status {status}");
    }
}

#[test]
fn retry_after_of_a_bad_answer_lengthens_its_own_wait_only() {
    paused(|| async {
        let rig = Rig::start(limits(""), |seen| match seen.number {
            0 => Reply::status(500).header("retry-after", "77"),
            _ => Reply::ok("{}"),
        });
        rig.put("x", "a", "one").await;
        rig.at(5000).await;
        rig.put("x", "a", "two").await;
        rig.all_end(secs(100)).await;
        assert_eq!(rig.times_of("one"), [0, 77_000]);
        assert_eq!(rig.times_of("two"), [5000]);
    });
}

#[test]
fn a_429_holds_the_whole_account_until_retry_after_has_passed_to_the_millisecond() {
    paused(|| async {
        let gap = r#"gap = { per = ["account"], every = "10ms" }"#;
        let rig = Rig::start(limits(gap), |seen| match seen.number {
            0 => Reply::status(429).header("retry-after", "7").head_after(ms(500)),
            _ => Reply::ok("{}"),
        });
        rig.put("x", "a", "first").await;
        rig.at(500).await;
        rig.put_many("x", "a", 3).await;
        rig.put_as("x", "b", "urgent", Priority::High, "").await;
        rig.put("y", "a", "other").await;
        rig.all_end(secs(100)).await;
        let own: Vec<u64> = rig.calls_of("x").into_iter().map(|(at, _)| at).collect();
        assert_eq!(own, [0, 7500, 7510, 7520, 7530, 7540]);
        assert_eq!(rig.times_of("urgent"), [7500]);
        assert_eq!(rig.times_of("other"), [500]);
    });
}

#[test]
fn refusals_without_retry_after_are_held_twice_as_long_each_time_and_never_use_up_a_try() {
    let setup = limits("").attempts_max(1);
    let times = tries(setup, secs(10_000), |number| match number {
        0..8 => Reply::status(429),
        _ => Reply::ok("{}"),
    });
    assert_eq!(times.len(), 9);
    assert_doubling(&gaps(&times), 1000, 300_000);
}

#[test]
fn refusals_of_calls_in_flight_together_are_one_refusal() {
    paused(|| async {
        let rig = Rig::start(limits(""), |seen| match seen.number {
            0..20 => Reply::status(429).head_after(ms(100)),
            _ => Reply::ok("{}"),
        });
        rig.put_many("x", "a", 20).await;
        rig.all_end(secs(3600)).await;
        let second = rig.calls()[20].0;
        assert!((1100..=2100).contains(&second), "held until {second} ms after one round of 429s");
    });
}

#[test]
fn an_endless_429_ends_after_a_bounded_number_of_calls() {
    let times = tries(limits(""), secs(100_000), |_| Reply::status(429));
    assert_eq!(times.len(), 20);
    let whole = times[19] - times[0];
    assert!(whole > 3_600_000, "given up after {whole} ms");
}

#[test]
fn a_retry_after_that_proves_wrong_again_and_again_is_lengthened_and_never_shortened() {
    let times = tries(limits(""), secs(100_000), |number| match number {
        0..12 => Reply::status(429).header("retry-after", "2"),
        _ => Reply::ok("{}"),
    });
    let gaps = gaps(&times);
    assert_eq!(gaps[..3], [2000, 2000, 2000]);
    assert!(gaps[3..].iter().all(|gap| *gap >= 2000), "{gaps:?}");
    assert_doubling(&gaps[6..], 8000, 300_000);
    let whole = |after: &'static str| {
        let times = tries(limits(""), secs(100_000), move |_| {
            Reply::status(429).header("retry-after", after)
        });
        assert_eq!(times.len(), 20);
        times[19] - times[0]
    };
    for after in ["0", "1"] {
        let whole = whole(after);
        assert!(whole > 1_800_000, "`Retry-After: {after}` ends a fetch after {whole} ms");
    }
}

#[test]
fn an_unreachable_provider_is_tried_a_bounded_number_of_times_and_holds_its_account() {
    paused(|| async {
        let rig = Rig::start(limits("").attempts_max(2), |seen| match account_of(seen).as_str() {
            "x" => Reply::error(CallError::Connect("refused".into())),
            _ => Reply::ok("{}"),
        });
        rig.put("x", "a", "one").await;
        rig.at(10).await;
        rig.put("x", "b", "two").await;
        rig.put("y", "a", "three").await;
        rig.all_end(secs(100_000)).await;
        assert_eq!(rig.times_of("three"), [10]);
        let times = rig.times_of("one");
        assert_eq!(times.len(), 20);
        assert!(rig.times_of("two")[0] >= times[1], "the second waits as long as the first");
        // Two fetches failing together do not wait longer than one.
        let waits = gaps(&times);
        assert!(waits.iter().all(|wait| (1000..=120_000).contains(wait)), "{waits:?}");
        assert!(times[19] > 15 * 60_000, "given up after {} ms", times[19]);
        assert!(
            rig.dead().await.iter().all(|(_, code)| code == "TG0202"),
            "{:?}",
            rig.dead().await
        );
    });
}

#[test]
fn parked_tries_let_their_lane_go_on_until_sixteen_are_parked() {
    paused(|| async {
        let gap = r#"gap = { per = ["account"], every = "10ms", guard = "0ms" }"#;
        let rig = Rig::start(limits(gap), |seen| {
            let number: usize = id_of(seen).rsplit('-').next().unwrap().parse().unwrap();
            let first_try = seen.number < 30;
            if number < 20 && first_try { Reply::status(500) } else { Reply::ok("{}") }
        });
        rig.put_many("x", "a", 40).await;
        rig.at(900).await;
        // The first retry comes after 1 s at least: until then sixteen have failed, and the lane waits.
        let calls = rig.calls();
        let wanted: Vec<(u64, String)> =
            (0..16).map(|number| (number * 10, format!("x-a-{number}"))).collect();
        assert_eq!(calls, wanted);
        rig.all_end(secs(600)).await;
        assert_eq!(rig.done(), 40);
    });
}

#[test]
fn parked_tries_of_one_api_do_not_hold_up_the_other() {
    paused(|| async {
        let gap = r#"gap = { per = ["account"], every = "10ms", guard = "0ms" }"#;
        let rig = Rig::start(limits(gap).attempts_max(2), |seen| match api_of(seen).as_str() {
            "a" => Reply::status(500).header("retry-after", "1000"),
            _ => Reply::ok("{}"),
        });
        rig.put_many("x", "a", 40).await;
        rig.at(500).await;
        rig.put_many("x", "b", 5).await;
        rig.at(560).await;
        assert_eq!(rig.done(), 5);
        rig.all_end(secs(6000)).await;
    });
}

#[test]
fn a_connection_that_is_ready_too_late_costs_no_try() {
    // The permit is good for 500 ms and the connect timeout.
    paused(|| async {
        let mut setup = limits("").attempts_max(1);
        setup.platform.insert_str(0, "timeouts = { connect = \"1s\" }\n");
        let rig = Rig::start(setup, |seen| match seen.number {
            0 => Reply::error(CallError::Late),
            1 => Reply::ok("{}").connected_after(ms(1200)),
            _ => Reply::ok("{}").connected_after(ms(900)),
        });
        rig.put("x", "a", "one").await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.done(), 1);
        assert_eq!(rig.wire.count(), 3);
    });
}
