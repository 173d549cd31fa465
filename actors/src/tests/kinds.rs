//! Kinds of limit beyond windows and gaps, and costs, from the configuration to the call.

use super::*;

/// When the calls of account `x` began.
fn times(rig: &Rig) -> Vec<u64> {
    rig.calls_of("x").into_iter().map(|(at, _)| at).collect()
}

/// When so many calls of `x` begin that are answered at once.
fn times_under(text: &'static str, calls: usize) -> Vec<u64> {
    let (told, times_told) = std::sync::mpsc::channel();
    paused(|| async move {
        let rig = Rig::start(limits(text), |_| Reply::ok("{}"));
        rig.put_many("x", "a", calls).await;
        rig.all_end(secs(3600)).await;
        told.send(times(&rig)).unwrap();
    });
    times_told.recv().unwrap()
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let bucket = r#"b = { per = ["account"], rate = "10/s", burst = 3 }"#;
    assert_eq!(times_under(bucket, 7), [0, 0, 0, 100, 200, 300, 400]);
}

#[test]
fn a_calendar_window_starts_anew_at_its_time_of_day_and_its_slack_later() {
    // The clock says 12:00:00.
    let daily = r#"d = { per = ["account"], max = 2, in = "1d", resets = "12:00:05 UTC", reset_slack = "1s" }"#;
    assert_eq!(times_under(daily, 4), [0, 0, 6000, 6000]);
    let quarters = r#"q = { per = ["account"], max = 2, in = "15m", resets = "00:10 Asia/Seoul", reset_slack = "0s" }"#;
    // 12:00 is 21:00 in Seoul; a window began at 20:55 there, the next ones do at 21:10 and 21:25.
    assert_eq!(times_under(quarters, 6), [0, 0, 600_000, 600_000, 1_500_000, 1_500_000]);
}

#[test]
fn a_window_of_the_first_call_ends_as_a_whole() {
    let window = r#"w = { per = ["account"], max = 3, in = "10s", anchor = "first_use" }
        gap = { per = ["account"], every = "4s" }"#;
    // A sliding limit would let the fourth go at 10 s as well, and the sixth not before 18 s.
    assert_eq!(times_under(window, 6), [0, 4000, 8000, 12_000, 16_000, 20_000]);
    let window = r#"w = { per = ["account"], max = 3, in = "10s", anchor = "first_use" }"#;
    assert_eq!(times_under(window, 7), [0, 0, 0, 10_000, 10_000, 10_000, 20_000]);
}

#[test]
fn a_score_counts_for_its_decay_and_jobs_for_their_life() {
    let score = r#"s = { per = ["account"], score = 5, decay = "3s", block = "9s", cost = 2 }"#;
    assert_eq!(times_under(score, 4), [0, 0, 3000, 3000]);
    let jobs = r#"j = { per = ["account"], jobs = 2, ttl = "7s" }"#;
    assert_eq!(times_under(jobs, 4), [0, 0, 7000, 7000]);
}

/// Points: two for an `a`, as many as it says for a `b`, none for a `c`.
fn points() -> Setup {
    Setup {
        platform: r#"
            [platforms.p.limits]
            points = { per = ["account"], max = 6, in = "10s", cost = 2 }
            [platforms.p.apis]
            a.path = "a/{id}"
            b = { path = "b/{id}", costs = { points = "{n}" } }
            c = { path = "c/{id}", costs = { points = 0 } }
        "#
        .into(),
        ..limits("")
    }
}

#[test]
fn calls_cost_what_their_api_and_their_parameters_say() {
    paused(|| async {
        let rig = Rig::start(points(), |_| Reply::ok("{}"));
        let put = |api, id, n: u32| {
            let rig = &rig;
            let params = if n > 0 { format!("\"params\":{{\"n\":{n}}}") } else { String::new() };
            async move { rig.put_as("x", api, id, Priority::Normal, &params).await }
        };
        put("a", "two", 0).await;
        rig.at(10).await;
        put("b", "five", 5).await;
        put("b", "seven", 7).await;
        put("b", "one", 1).await;
        rig.at(1000).await;
        put("c", "free", 0).await;
        put("a", "another two", 0).await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.times_of("two"), [0]);
        assert_eq!(rig.times_of("free"), [1000]);
        // Two and two fit beside each other, five do not.
        assert_eq!(rig.times_of("another%20two"), [1000]);
        assert_eq!(rig.times_of("five"), [11_000]);
        assert_eq!(rig.times_of("one"), [11_000]);
        // Nobody has to wait for what can never go.
        assert_eq!(rig.times_of("seven"), [0; 0]);
        assert_eq!(rig.dead().await, [("seven".into(), "TG0129".into())]);
    });
}

#[test]
fn only_errors_count_against_a_budget_of_errors() {
    paused(|| async {
        let setup = limits(r#"e = { per = ["account"], max = 1, in = "20s", counts = "errors" }"#);
        let rig = Rig::start(setup.concurrency(1), |seen| match id_of(seen).as_str() {
            "x-a-2" if seen.number < 3 => Reply::status(503),
            _ => Reply::ok("{}"),
        });
        rig.put_many("x", "a", 5).await;
        rig.all_end(secs(120)).await;
        // Two go at once, the third fails: the rest waits until the error has left.
        assert_eq!(times(&rig), [0, 0, 0, 20_000, 20_000, 20_000]);
    });
}

#[test]
fn bytes_are_guessed_first_and_then_what_they_were() {
    paused(|| async {
        let setup = limits(
            r#"v = { per = ["account"], max = "100B", in = "10s", counts = "bytes", cost = 60 }"#,
        );
        // 30 bytes, or 130.
        let thirty = "{\"a\":\"0123456789012345678901\"}";
        assert_eq!(thirty.len(), 30);
        let rig = Rig::start(setup, move |seen| match id_of(seen).as_str() {
            "x-a-0" => Reply::ok(thirty).then(ms(500), " ".repeat(100).leak()),
            _ => Reply::ok(thirty).then(ms(500), ""),
        });
        rig.put_many("x", "a", 4).await;
        rig.all_end(secs(60)).await;
        // The first is taken for 60, and two of them are too much; it is 130, so nothing goes until it has
        // left. The next is settled to 30 after half a second: then there is room for 60 again.
        // So many units are counted in 60 parts of the window, each rounded up to its end: 167 ms.
        let times = times(&rig);
        let earliest = [0, 10_000, times[1] + 500, times[1] + 10_000];
        assert!((0..4).all(|call| (earliest[call]..=earliest[call] + 167).contains(&times[call])));
        assert_eq!(times[2], times[1] + 500);
    });
}
