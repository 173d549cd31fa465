//! Kinds of limit beyond windows and gaps, and costs, from the configuration to the call.

use super::*;

/// When all calls began, if three accounts have them and one limit counts them all.
fn times_of_all(text: &str, calls: usize) -> Vec<u64> {
    let (told, times_told) = std::sync::mpsc::channel();
    let text = text.replace("\"account\"", "\"platform\"");
    paused(|| async move {
        let rig = Rig::start(limits(&text), |_| Reply::ok("{}"));
        for number in 0..calls {
            let account = ["x", "y", "z"][number % 3];
            rig.put(account, "a", &format!("{account}-{number}")).await;
        }
        rig.all_end(secs(7200)).await;
        rig.log.assert_recorded_before_called();
        assert_eq!(rig.done(), calls as u64);
        told.send(rig.calls().into_iter().map(|(at, _)| at).collect()).unwrap();
    });
    times_told.recv().unwrap()
}

/// The same limit for one account and for all together lets calls go at these times.
fn assert_times(text: &'static str, times: &[u64]) {
    assert_eq!(times_under(text, times.len()), times, "{text}");
    assert_eq!(times_of_all(text, times.len()), times, "of the platform: {text}");
}

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
    assert_times(bucket, &[0, 0, 0, 100, 200, 300, 400]);
}

#[test]
fn a_calendar_window_starts_anew_at_its_time_of_day_and_its_slack_later() {
    // The clock says 12:00:00.
    let daily = r#"d = { per = ["account"], max = 2, in = "1d", resets = "12:00:05 UTC", reset_slack = "1s" }"#;
    assert_times(daily, &[0, 0, 6000, 6000]);
    let quarters = r#"q = { per = ["account"], max = 2, in = "15m", resets = "00:10 Asia/Seoul", reset_slack = "0s" }"#;
    // 12:00 is 21:00 in Seoul; a window began at 20:55 there, the next ones do at 21:10 and 21:25.
    assert_times(quarters, &[0, 0, 600_000, 600_000, 1_500_000, 1_500_000]);
}

#[test]
fn a_window_of_the_first_call_ends_as_a_whole() {
    let window = r#"w = { per = ["account"], max = 3, in = "10s", anchor = "first_use" }
        gap = { per = ["account"], every = "4s" }"#;
    // A sliding limit would let the fourth go at 10 s as well, and the sixth not before 18 s.
    assert_times(window, &[0, 4000, 8000, 12_000, 16_000, 20_000]);
    let window = r#"w = { per = ["account"], max = 3, in = "10s", anchor = "first_use" }"#;
    assert_times(window, &[0, 0, 0, 10_000, 10_000, 10_000, 20_000]);
}

#[test]
fn a_score_counts_for_its_decay_and_jobs_for_their_life() {
    let score = r#"s = { per = ["account"], score = 5, decay = "3s", block = "9s", cost = 2 }"#;
    assert_times(score, &[0, 0, 3000, 3000]);
    let jobs = r#"j = { per = ["account"], jobs = 2, ttl = "7s" }"#;
    assert_times(jobs, &[0, 0, 7000, 7000]);
}

#[test]
fn windows_of_accounts_and_values_that_have_their_own_start_anew_too() {
    for per in ["account", "app"] {
        paused(|| async move {
            // Other numbers and another time of day for some: all of it by the node's clock.
            let platform = format!(
                "keys = {{ app = \"{{account}}\" }}\ntiers.gold = {{ accounts = [\"g\"] }}\n\
                 [platforms.p.limits.d]\nper = [{per}]\nmax = 1\nin = \"1d\"\n\
                 resets = \"12:00:05 UTC\"\nreset_slack = \"1s\"\n\
                 override = {{ x = {{ max = 2 }}, y = {{ resets = \"12:00:20 UTC\" }} }}\n{tiers}\
                 [platforms.p.apis.a]\npath = \"a/{{id}}\"\n",
                per = if per == "app" { "\"account\", \"app\"" } else { "\"account\"" },
                tiers = "tiers = { gold = { max = 3 } }\n",
            );
            let platform = match per {
                "app" => platform.replace("x = {", "\"x/x\" = {").replace("y = {", "\"y/y\" = {"),
                _ => platform,
            };
            let rig = Rig::start(Setup { platform, ..limits("") }, |_| Reply::ok("{}"));
            for account in ["g", "x", "y", "z"] {
                rig.put_many(account, "a", 4).await;
            }
            rig.at(30_000).await;
            let times = |of| rig.calls_of(of).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
            assert_eq!(times("g"), [0, 0, 0, 6000], "{per}");
            assert_eq!(times("x"), [0, 0, 6000, 6000], "{per}");
            assert_eq!(times("y"), [0, 21_000], "{per}");
            assert_eq!(times("z"), [0, 6000], "{per}");
        });
    }
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

#[test]
fn calls_of_a_budget_cost_what_their_api_and_their_parameters_say() {
    paused(|| async {
        let setup = points();
        let platform = setup.platform.replace("\"account\"", "\"platform\"");
        let rig = Rig::start(Setup { platform, ..setup }, |_| Reply::ok("{}"));
        let put = |account, api, id, n: u32| {
            let rig = &rig;
            let params = if n > 0 { format!("\"params\":{{\"n\":{n}}}") } else { String::new() };
            async move { rig.put_as(account, api, id, Priority::Normal, &params).await }
        };
        put("x", "a", "two", 0).await;
        rig.at(10).await;
        put("y", "b", "five", 5).await;
        put("y", "b", "seven", 7).await;
        put("z", "b", "one", 1).await;
        rig.at(1000).await;
        put("u", "c", "free", 0).await;
        put("v", "a", "another", 0).await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.times_of("two"), [0]);
        // It does not count, so it does not ask.
        assert_eq!(rig.times_of("free"), [1000]);
        // Turns are kept: who costs much is not overtaken for ever by those who cost little.
        assert_eq!(rig.times_of("five"), [10_000]);
        assert_eq!(rig.times_of("one"), [10_000]);
        assert_eq!(rig.times_of("another"), [20_000]);
        assert_eq!(rig.times_of("seven"), [0; 0]);
        assert_eq!(rig.dead().await, [("seven".into(), "TG0129".into())]);
    });
}

#[test]
fn only_errors_count_against_the_errors_of_a_platform() {
    paused(|| async {
        let setup = limits(r#"e = { per = ["platform"], max = 1, in = "20s", counts = "errors" }"#);
        let rig = Rig::start(setup, |seen| match id_of(seen).as_str() {
            "x-2" if seen.number < 3 => Reply::status(503),
            _ => Reply::ok("{}"),
        });
        for (number, account) in ["x", "y", "x", "y", "z"].into_iter().enumerate() {
            rig.put(account, "a", &format!("{account}-{number}")).await;
            sleep(ms(10)).await;
        }
        rig.all_end(secs(120)).await;
        let times: Vec<u64> = rig.calls().into_iter().map(|(at, _)| at).collect();
        // Two go at once, the third fails: the rest waits until the error has left.
        assert_eq!(times, [0, 10, 20, 20_020, 20_020, 20_020]);
    });
}

/// 60 bytes are guessed of 100 in 10 s, and these are 30.
const VOLUME: &str =
    r#"v = { per = ["platform"], max = "100B", in = "10s", counts = "bytes", cost = 60 }"#;
const THIRTY: &str = "{\"a\":\"0123456789012345678901\"}";

#[test]
fn bytes_of_a_platform_are_guessed_first_and_then_what_they_were() {
    // Also if the configuration is read again meanwhile and has another limit before that one.
    for reload in [false, true] {
        paused(|| async move {
            let rig = Rig::start(limits(VOLUME), |_| Reply::ok(THIRTY).then(ms(500), ""));
            for account in ["x", "y", "z", "u"] {
                rig.put_many(account, "a", 1).await;
            }
            if reload {
                rig.at(100).await;
                let calls = r#"a = { per = ["platform"], max = 50, in = "1m" }"#;
                rig.reload(&limits(&format!("{calls}\n{VOLUME}"))).await;
            }
            rig.all_end(secs(60)).await;
            let times: Vec<u64> = rig.calls().into_iter().map(|(at, _)| at).collect();
            // One at a time while 60 are guessed; three are 90, and then there is no room for 60.
            assert_eq!(times[..2], [0, 500], "{times:?}");
            let third = times[2];
            assert!((10_000..=10_667).contains(&third), "{times:?}");
            assert!((third + 500..=10_667 + 500).contains(&times[3]), "{times:?}");
        });
    }
}

#[test]
fn a_budget_of_bytes_is_kept_whenever_its_actor_or_a_throttle_dies() {
    let run = |panics_at: u32| {
        let points = Rc::new(std::cell::Cell::new(0));
        let passed = Rc::clone(&points);
        paused(|| async move {
            let setup = limits(&VOLUME.replace("10s", "2s"));
            let rig = Rig::start(setup, |_| Reply::ok(THIRTY).then(ms(200), ""));
            let _hooked = crate::testkit::on_points(move |name, _| {
                if name == "after finish" {
                    return;
                }
                passed.set(passed.get() + 1);
                assert!(passed.get() != panics_at, "{name} panics on purpose");
            });
            for account in ["x", "y", "z"] {
                rig.put_many(account, "a", 2).await;
            }
            rig.all_end(secs(300)).await;
            assert_eq!(rig.done(), 6, "panic at {panics_at}");
            // Never more than 100 bytes: three of these.
            let limit = super::oracle::Limit {
                rule: super::oracle::Rule::Max(3, 2000),
                per_api: false,
                guard: Some(25),
            };
            let seen = rig.wire.seen();
            super::oracle::assert_never_too_many_among(&rig, &seen, "the platform", limit);
        });
        points.get()
    };
    let points = run(0);
    assert!(points > 50, "{points}");
    for at in 1..=points {
        run(at);
    }
}

#[test]
fn bytes_of_an_answer_that_broke_off_count_and_those_of_a_refusal_are_what_came() {
    const MANY: &str =
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678";
    for per in ["account", "platform"] {
        paused(|| async {
            let text = format!(
                r#"v = {{ per = ["{per}"], max = "100B", in = "100s", counts = "bytes", cost = 30 }}"#
            );
            let broken = || crate::http::CallError::Broken("reset".into());
            let rig =
                Rig::start(limits(&text), move |_| Reply::ok(MANY).then_error(ms(10), broken()));
            rig.put("x", "a", "broken").await;
            rig.at(500).await;
            rig.answer(|_| Reply::ok("{}"));
            rig.all_end(secs(1000)).await;
            let times = rig.times_of("broken");
            // Of the 79 that came more than 70 count, so 30 more are too many.
            assert!(matches!(times[..], [0, 100_000..=100_100]), "{per}: {times:?}");
            // Three bytes are no sixty.
            let text = text.replace("cost = 30", "cost = 60");
            let rig = Rig::start(limits(&text), |_| Reply::status(404));
            rig.put_many("x", "a", 4).await;
            rig.all_end(secs(1000)).await;
            let last = rig.calls().iter().map(|(at, _)| *at).max().unwrap();
            assert!(last < 1000, "{per}: {:?}", rig.calls());
        });
    }
}
