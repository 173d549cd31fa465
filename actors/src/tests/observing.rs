//! What providers say of limits, and what the actors make of it: a provider by script that holds its own truth.

use std::cell::RefCell;

use super::*;
use crate::observe::DriftKind;
use crate::telemetry::METRICS;

/// A platform that says this, with these limits.
fn declared(lines: &str, text: &str) -> Setup {
    let setup = limits(text);
    Setup { platform: format!("{lines}\n{}", setup.platform), ..setup }
}

const HOURLY: &str = r#"hourly = { per = ["account"], max = 60, in = "1h", guard = "0ms" }"#;
const LEFT: &str = r#"observe = [
  { header = "x-left", as = "remaining", limit = "hourly" },
  { header = "x-reset", as = "reset", limit = "hourly" } ]"#;

/// So many left, and the reset in so many seconds.
fn left(left: u32, reset: u64) -> Reply {
    Reply::ok("{}").header("x-left", &left.to_string()).header("x-reset", &reset.to_string())
}

#[test]
fn what_an_answer_says_is_left_is_all_that_goes_before_the_reset() {
    paused(|| async {
        // Of 60 declared others have used up all but five; answers take 100 ms.
        let used = Rc::new(RefCell::new(0_u32));
        let counts = Rc::clone(&used);
        let start = Instant::now();
        let rig = Rig::start(declared(LEFT, HOURLY).concurrency(1), move |_| {
            let since = start.elapsed().as_secs();
            let mut used = counts.borrow_mut();
            if since < 600 {
                *used += 1;
                left(5_u32.saturating_sub(*used), 600 - since).head_after(ms(100))
            } else {
                left(40, 3000)
            }
        });
        rig.put_many("x", "a", 20).await;
        rig.all_end(secs(2000)).await;
        let times: Vec<u64> = rig.calls().into_iter().map(|(at, _)| at).collect();
        assert_eq!(times[..5], [0, 100, 200, 300, 400]);
        assert!((600_000..601_200).contains(&times[5]), "{times:?}");
        assert_eq!(*used.borrow(), 5, "not one too many");
    });
}

/// A provider that really allows `really` calls in its window of 1,000 s, counts on arrival, and answers
/// after very different times, so that answers overtake each other.
fn out_of_order(really: u32, concurrency: usize, reset: bool) -> (u32, u32) {
    let result = Rc::new(RefCell::new((0, 0)));
    let told = Rc::clone(&result);
    paused(|| async move {
        let rule = if reset { LEFT } else { &LEFT.replace("x-reset", "x-none") };
        let counts = Rc::clone(&told);
        let start = Instant::now();
        let rig = Rig::start(declared(rule, HOURLY).concurrency(concurrency), move |seen| {
            let since = start.elapsed().as_secs();
            let mut counts = counts.borrow_mut();
            if since >= 1000 {
                return left(50, 3000);
            }
            // What was begun after the first answer knows that somebody counts.
            let warned = start.elapsed() >= ms(900);
            if counts.0 < really {
                counts.0 += 1;
            } else if warned {
                counts.1 += 1;
            }
            let slow = [900, 20, 300, 1700, 90, 5][seen.number % 6];
            left(really - counts.0, 1000 - since).head_after(ms(slow))
        });
        rig.put("x", "a", "first").await;
        rig.at(900).await;
        rig.put_many("x", "a", 100).await;
        rig.at(999_000).await;
        assert!(rig.calls().len() >= really as usize - 1, "{} calls", rig.calls().len());
    });
    result.take()
}

#[test]
fn answers_that_overtake_each_other_lead_to_no_call_too_many() {
    for concurrency in [1, 3, 8] {
        for really in [12, 30] {
            for reset in [true, false] {
                let (used, refused) = out_of_order(really, concurrency, reset);
                assert_eq!(refused, 0, "{really} allowed, {concurrency} at once, reset {reset}");
                assert_eq!(used, really, "{concurrency} at once, reset {reset}: nothing is wasted");
            }
        }
    }
}

#[test]
fn what_was_said_is_remembered_by_an_account_that_rested() {
    paused(|| async {
        let rig = Rig::start(declared(LEFT, HOURLY), |seen| match seen.number {
            0 => left(0, 1000),
            _ => left(9, 3000),
        });
        rig.put("x", "a", "one").await;
        rig.at(100_000).await;
        assert_eq!(rig.look().await.live, 0, "it rests");
        rig.put("x", "a", "two").await;
        rig.at(200_000).await;
        assert_eq!(rig.look().await.accounts[0].because.as_deref(), Some("hourly"));
        rig.all_end(secs(2000)).await;
        assert_eq!(rig.times_of("two"), [1_000_000]);
    });
}

const TIKTOK: &str = r#"over = [
  { body = "code", is = 40100, wait = "5m", scope = "platform" },
  { body = "code", is = 40133, wait = "1m", scope = "account" },
  { body = "code", is = 40134, wait = "2m", scope = "api" },
  { body = "code", is = 40199, wait = "3m", scope = "account", then = "fail" } ]"#;

fn code(code: &'static str) -> Reply {
    Reply::ok(code)
}

#[test]
fn a_refusal_in_a_good_answer_is_one_and_is_not_stored() {
    paused(|| async {
        let rig = Rig::start(declared(TIKTOK, ""), |seen| match seen.number {
            0 => code(r#"{"code":40133,"message":"x","data":{"#),
            _ => code(r#"{"code":0,"data":{"code":40133}}"#),
        });
        rig.put("x", "a", "one").await;
        rig.at(10).await;
        rig.put("x", "b", "two").await;
        rig.put("y", "a", "other").await;
        rig.all_end(secs(200)).await;
        assert_eq!(rig.times_of("one"), [0, 60_000]);
        assert_eq!(rig.times_of("two"), [60_000]);
        assert_eq!(rig.times_of("other"), [10]);
        assert_eq!(rig.shared.totals.refused.get(), 1);
        assert_eq!(rig.done(), 3);
        // The whole body is stored, not only what a rule had to see of it.
        let bytes: u64 = rig.shared.totals.bytes.get();
        assert_eq!(bytes, 3 * r#"{"code":0,"data":{"code":40133}}"#.len() as u64);
    });
}

#[test]
fn a_refusal_of_the_platform_holds_every_account_and_they_come_back_one_by_one() {
    paused(|| async {
        let rig = Rig::start(declared(TIKTOK, ""), |seen| match seen.number {
            0 => code(r#"{"code":40100}"#),
            _ => code(r#"{"code":0}"#),
        });
        rig.put("x", "a", "one").await;
        rig.at(10).await;
        for n in 0..50 {
            rig.put(&format!("y{n}"), "a", &format!("other-{n}")).await;
        }
        rig.at(299_000).await;
        assert_eq!(rig.calls().len(), 1, "nobody calls for five minutes");
        let looks = rig.look().await;
        let why = "the provider answered 200, a refusal by rule";
        assert!(looks.accounts.iter().all(|account| account.because.as_deref() == Some(why)));
        rig.all_end(secs(400)).await;
        let mut times: Vec<u64> = rig.calls()[1..].iter().map(|(at, _)| *at).collect();
        assert!(times.iter().all(|at| (300_000..=302_001).contains(at)), "{times:?}");
        times.sort_unstable();
        times.dedup();
        assert!(times.len() > 40, "{} moments for 51 accounts", times.len());
    });
}

#[test]
fn a_refusal_of_one_api_holds_that_api_of_the_account() {
    paused(|| async {
        let rig = Rig::start(declared(TIKTOK, ""), |seen| match seen.number {
            0 => code(r#"{"code":40134}"#),
            _ => code(r#"{"code":0}"#),
        });
        rig.put("x", "a", "one").await;
        rig.at(10).await;
        rig.put("x", "a", "same").await;
        rig.put("x", "b", "other").await;
        rig.all_end(secs(200)).await;
        assert_eq!(rig.times_of("one"), [0, 120_000]);
        assert_eq!(rig.times_of("same"), [120_000]);
        assert_eq!(rig.times_of("other"), [10]);
    });
}

#[test]
fn a_refusal_that_another_try_does_not_mend_ends_its_fetch_and_holds_the_rest() {
    paused(|| async {
        let rig = Rig::start(declared(TIKTOK, ""), |seen| match seen.number {
            0 => code(r#"{"code":40199}"#),
            _ => code(r#"{"code":0}"#),
        });
        rig.put("x", "a", "one").await;
        rig.at(10).await;
        rig.put("x", "a", "two").await;
        rig.all_end(secs(300)).await;
        assert_eq!(rig.dead().await, [("one".to_owned(), "TG0220".to_owned())]);
        assert_eq!(rig.times_of("two"), [180_000]);
        assert_eq!(rig.shared.totals.refused.get(), 1);
    });
}

#[test]
fn statuses_that_are_given_up_elsewhere_are_refusals_by_rule_and_waits_are_bounded() {
    let rule = r#"over = [{ status = [400, 403, 410, 501, 302], wait = { header = "x-wait", unit = "min" }, floor = "30s", cap = "10m" }]"#;
    for (status, said, wanted) in
        [(400, "2", 120_000), (403, "0", 30_000), (410, "9999", 600_000), (302, "2", 120_000)]
    {
        paused(|| async move {
            let rig = Rig::start(declared(rule, ""), move |seen| match seen.number {
                0 => Reply::status(status).header("x-wait", said),
                _ => Reply::ok("{}"),
            });
            rig.put("x", "a", "one").await;
            rig.all_end(secs(1000)).await;
            assert_eq!(rig.times_of("one"), [0, wanted], "{status}");
        });
    }
}

#[test]
fn the_window_of_the_limit_that_was_exceeded_is_waited_for() {
    paused(|| async {
        let rule = r#"over = [{ body = "code", is = 40100, hits = "day", wait = "boundary" }]"#;
        let day = r#"day = { per = ["account"], max = 60, in = "1d", resets = "00:00 Asia/Seoul", guard = "0ms" }"#;
        let rig = Rig::start(declared(rule, day), |seen| match seen.number {
            0 => code(r#"{"code":40100}"#),
            _ => code(r#"{"code":0}"#),
        });
        rig.put("x", "a", "one").await;
        rig.all_end(secs(20_000)).await;
        // It is 12:00 UTC, 21:00 in Seoul: three hours, the slack for the provider's clock, and up to a second.
        let second = rig.times_of("one")[1];
        let midnight = 3 * 3_600_000;
        assert!((midnight..midnight + 6000).contains(&second), "{second}");
    });
}

#[test]
fn a_refusal_that_repeats_is_waited_for_longer_each_time_within_its_cap() {
    paused(|| async {
        let rule = r#"over = [{ status = 403, wait = "2s", cap = "20s" }]"#;
        let rig = Rig::start(declared(rule, ""), |seen| match seen.number {
            0..9 => Reply::status(403),
            _ => Reply::ok("{}"),
        });
        rig.put("x", "a", "one").await;
        rig.all_end(secs(1000)).await;
        let times = rig.times_of("one");
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[..3], [2000, 2000, 2000]);
        assert!(gaps.iter().all(|gap| *gap <= 20_000), "{gaps:?}");
        assert!(gaps[8] >= 16_000, "{gaps:?}");
        assert_eq!(rig.done(), 1, "refusals use up no try");
    });
}

#[test]
fn a_limit_that_nobody_declared_holds_when_it_is_used_up() {
    paused(|| async {
        let rule = r#"observe = [
          { header = "x-usage", path = "*.percent", as = "percent", target = 90, scope = "api" },
          { header = "x-usage", path = "*.minutes", as = "reset", unit = "min", scope = "api" } ]"#;
        let rig = Rig::start(declared(rule, ""), |seen| {
            let usage = match seen.number {
                0 => r#"{"1":{"percent":89,"minutes":0}}"#,
                1 => r#"{"1":{"percent":20},"2":{"percent":91,"minutes":3}}"#,
                _ => r#"{"1":{"percent":10}}"#,
            };
            Reply::ok("{}").header("x-usage", usage)
        });
        rig.put("x", "a", "one").await;
        rig.at(1000).await;
        rig.put("x", "a", "two").await;
        rig.at(2000).await;
        rig.put("x", "a", "three").await;
        rig.put("x", "b", "other").await;
        rig.all_end(secs(1000)).await;
        assert_eq!(rig.times_of("two"), [1000]);
        assert_eq!(rig.times_of("three"), [181_000]);
        assert_eq!(rig.times_of("other"), [2000]);
        assert_eq!(rig.shared.totals.refused.get(), 0, "nobody refused anything");
    });
}

#[test]
fn an_unpublished_limit_is_found_and_the_pace_outlives_a_rest() {
    paused(|| async {
        // The provider allows four calls in any second, and says so to nobody.
        let rule = r#"adaptive = { min = "1/s", max = "20/s", step = "0.1/s" }"#;
        let recent = RefCell::new(Vec::<Instant>::new());
        let rig = Rig::start(declared(rule, ""), move |seen| {
            let mut recent = recent.borrow_mut();
            recent.retain(|at| seen.begun.duration_since(*at) < secs(1));
            if recent.len() < 4 {
                recent.push(seen.begun);
                Reply::ok("{}")
            } else {
                Reply::status(429).header("retry-after", "0")
            }
        });
        rig.put_many("x", "a", 300).await;
        rig.all_end(secs(300)).await;
        let calls = rig.calls();
        let (refused, took) = (rig.shared.totals.refused.get(), calls.last().unwrap().0);
        assert_eq!(calls[1].0, 1000, "it begins at the cautious end");
        assert!(refused < 30, "{refused} of {} refused", calls.len());
        assert!(took < 150_000, "300 calls took {took} ms");
        // At rest for a while, and then not at the cautious end.
        rig.at(took + 60_000).await;
        assert_eq!(rig.look().await.live, 0, "it rests");
        for n in 0..6 {
            rig.put("x", "a", &format!("later-{n}")).await;
        }
        rig.all_end(secs(300)).await;
        let (first, last) = (rig.times_of("later-0")[0], rig.times_of("later-5")[0]);
        assert!(last - first < 4000, "{} ms for five gaps", last - first);
    });
}

#[test]
fn what_contradicts_the_declared_limits_again_and_again_is_told() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let count = |kind: &str| {
        let name = format!("tollgate_limit_drift_total{{platform=\"p\",kind=\"{kind}\"}} ");
        let text = handle.render();
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    assert!(METRICS.iter().any(|metric| metric.name == "tollgate_limit_drift_total"));
    ::metrics::with_local_recorder(&recorder, || {
        paused(|| async {
            // It refuses what is declared.
            let rig = Rig::start(limits(HOURLY), |seen| match seen.number {
                0..3 => Reply::status(429).header("retry-after", "1"),
                _ => Reply::ok("{}"),
            });
            rig.put("x", "a", "one").await;
            rig.at(1500).await;
            assert!(count("refused") < 0.5, "twice is nothing yet");
            rig.all_end(secs(100)).await;
            assert!((count("refused") - 1.0).abs() < 0.1);
        });
        paused(|| async {
            // It says that it allows 30, and each call takes two of what is left.
            let rule = LEFT.replace("x-reset\", as = \"reset\"", "x-limit\", as = \"limit\"");
            let rig = Rig::start(declared(&rule, HOURLY).concurrency(1), |seen| {
                let left = 200 - 2 * seen.number;
                Reply::ok("{}").header("x-left", &left.to_string()).header("x-limit", "30")
            });
            for account in 0..4 {
                rig.put_many(&format!("x{account}"), "a", 25).await;
            }
            rig.all_end(secs(4000)).await;
        });
    });
    assert!((count("narrower") - 1.0).abs() < 0.1, "once an hour");
    assert!((count("faster") - 1.0).abs() < 0.1, "{}", handle.render());
    assert!(count("slower") < 0.5 && count("wider") < 0.5);
}

#[test]
fn what_contradicts_the_declared_limits_is_counted_over_all_shards() {
    paused(|| async {
        let rig = Rig::start(limits(HOURLY), |seen| match seen.number {
            0..2 => Reply::status(429).header("retry-after", "1"),
            _ => Reply::ok("{}"),
        });
        rig.put("x", "a", "one").await;
        rig.all_end(secs(100)).await;
        // As another shard would note the third.
        let now = rig.shared.clock.now();
        let p = Slug::new("p").unwrap();
        let third = rig.shared.peers.drift().note(&p, None, DriftKind::Refused, now);
        assert!(third, "the shard's own two count");
    });
}

#[test]
fn who_says_at_once_each_time_is_believed_three_times_of_a_call_that_is_too_heavy() {
    paused(|| async {
        let rule = r#"{ body = "code", is = 7, then = "park" }"#;
        for seconds in ["0", "1"] {
            let rig = Rig::start(declared(&format!("over = [{rule}]"), ""), move |_| {
                Reply::ok(r#"{"code":7}"#).header("retry-after", seconds)
            });
            rig.put("x", "a", "heavy").await;
            rig.all_end(secs(20_000)).await;
            let times = rig.times_of("heavy");
            let waits: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
            assert_eq!((waits.len(), rig.shared.totals.fetches_dead.get()), (19, 1));
            assert!(waits[..3].iter().all(|wait| *wait <= 1_100), "{waits:?}");
            // The tenth that is not believed would be 512 s, and 5 min is the most that is doubled to.
            assert!(waits[12..].iter().all(|wait| *wait >= 300_000), "{waits:?}");
            assert!(times[19] > 35 * 60_000, "given up after {} ms", times[19]);
        }
    });
}

/// An api with a list that is split, or a size that is halved.
fn less(rule: &str, split: &str, text: &str) -> Setup {
    let setup = limits(text);
    let declared = format!(
        "[platforms.p.apis.a]\nparams = [\"ids\", \"size\"]\nover = [{rule}]\nsplit = {split}\n"
    );
    Setup { platform: setup.platform.replace("[platforms.p.apis.a]\n", &declared), ..setup }
}

#[test]
fn a_call_that_is_too_heavy_is_put_aside_alone() {
    paused(|| async {
        let rule = r#"{ body = "code", is = 7, wait = "10m", then = "park" }"#;
        let rig = Rig::start(declared(&format!("over = [{rule}]"), ""), |seen| {
            let heavy = seen.url.path().ends_with("heavy") && seen.number < 8;
            Reply::ok(if heavy { r#"{"code":7}"# } else { "{}" })
        });
        rig.put("x", "a", "heavy").await;
        rig.at(1_000).await;
        for n in 0..8 {
            rig.put("x", "a", &format!("light-{n}")).await;
        }
        rig.all_end(secs(2_000)).await;
        let times = rig.times_of("heavy");
        assert!(times.len() == 2 && times[0] == 0, "{times:?}");
        assert!((600_000..=600_100).contains(&times[1]), "{times:?}");
        // None of the others waited for it.
        assert!(
            (0..8).all(|n| rig.times_of(&format!("light-{n}")) == [1_000]),
            "{:?}",
            rig.calls()
        );
        assert_eq!((rig.done(), rig.shared.totals.refused.get()), (9, 1));
        // A call that is always too heavy is given up.
        let rig =
            Rig::start(declared(&format!("over = [{rule}]"), ""), |_| Reply::ok(r#"{"code":7}"#));
        rig.put("x", "a", "heavy").await;
        rig.all_end(secs(20_000)).await;
        assert_eq!((rig.calls().len(), rig.shared.totals.fetches_dead.get()), (20, 1));
    });
}

#[test]
fn a_call_that_is_too_heavy_is_made_less_and_holds_others_only_if_it_says_so() {
    for (wait, held) in [("", false), (r#", wait = "1m""#, true)] {
        paused(move || async move {
            let rule =
                format!(r#"{{ status = 400, body = "code", is = 7, then = "split"{wait} }}"#);
            let split = r#"{ by = "list", param = "ids" }"#;
            let rig = Rig::start(less(&rule, split, ""), |seen| {
                let parts = seen.url.path().rsplit_once('.').map_or(0, |(_, way)| way.len());
                if parts < 2 && seen.url.path().contains("heavy") {
                    return Reply::status(400).then(ms(0), r#"{"code":7}"#);
                }
                Reply::ok("{}")
            });
            rig.put_as(
                "x",
                "a",
                "heavy",
                Priority::Normal,
                r#""params":{"ids":["1","2","3","4"],"size":1}"#,
            )
            .await;
            rig.at(20_000).await;
            rig.put_as("x", "a", "light", Priority::Normal, r#""params":{"ids":"9","size":1}"#)
                .await;
            rig.all_end(secs(2_000)).await;
            let totals = &rig.shared.totals;
            assert_eq!(
                (rig.calls().len(), totals.fetches_done.get(), totals.fetches_dead.get()),
                (8, 8, 0)
            );
            assert_eq!((totals.objects.get(), totals.refused.get()), (5, 3));
            let calls = rig.calls();
            let part = calls.iter().find(|(_, id)| id.ends_with(".11")).unwrap().0;
            let light = rig.times_of("light");
            if held {
                assert!(part >= 120_000 && light[0] >= 60_000, "{:?}", rig.calls());
            } else {
                assert!(part < 1_000 && light == [20_000], "{:?}", rig.calls());
            }
        });
    }
}

#[test]
fn a_request_that_is_too_heavy_is_made_smaller_until_it_is_not() {
    paused(|| async {
        let rule = r#"{ body = "code", is = 7, then = "shrink_request" }"#;
        let split = r#"{ by = "half", param = "size", min = 10 }"#;
        let rig = Rig::start(less(rule, split, ""), |seen| {
            Reply::ok(if seen.number < 3 { r#"{"code":7}"# } else { "{}" })
        });
        for id in ["can", "cannot"] {
            let size = if id == "can" { 1000 } else { 10 };
            let fields = format!(r#""params":{{"ids":"1","size":{size}}}"#);
            rig.put_as("x", "a", id, Priority::Normal, &fields).await;
            rig.all_end(secs(2_000)).await;
        }
        let totals = &rig.shared.totals;
        assert_eq!(
            (totals.fetches_done.get(), totals.objects.get(), totals.fetches_dead.get()),
            (5, 2, 0)
        );
    });
}

#[test]
fn a_fetch_that_costs_more_than_a_limit_ever_allows_is_split_without_a_call() {
    paused(|| async {
        let units = r#"units = { per = ["account"], max = 3, in = "1m", guard = "0ms" }"#;
        let setup = less("", r#"{ by = "list", param = "ids" }"#, units);
        let costs = "costs.units = \"{ids|length}\"\nsplit = ";
        let setup = Setup { platform: setup.platform.replace("split = ", costs), ..setup };
        let rig = Rig::start(setup, |_| Reply::ok("{}"));
        let fields = r#""params":{"ids":["1","2","3","4","5","6","7"],"size":1}"#;
        rig.put_as("x", "a", "f", Priority::Normal, fields).await;
        rig.all_end(secs(600)).await;
        let totals = &rig.shared.totals;
        // 7 -> 4 and 3, 4 -> 2 and 2: two are split uncalled, three are called.
        assert_eq!((rig.calls().len(), totals.objects.get()), (3, 3), "{:?}", rig.calls());
        assert_eq!((totals.fetches_done.get(), totals.fetches_dead.get()), (5, 0));
        assert_eq!(totals.refused.get(), 0);
    });
}
