//! `tollgate run`, when nothing goes wrong: limits, times and priorities.

use std::time::Duration;

use serde_json::json;
use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};

use crate::util::{Config, Dir, accounts, assert_none_refused, fetch, reports, wait_until};

const SECOND: Duration = Duration::from_secs(1);

fn emulator(limits: Vec<ProviderLimit>) -> Emulator {
    Emulator::start(Profile { limits, record: true, ..Profile::default() }).unwrap()
}

#[test]
fn many_accounts_under_several_limits_are_collected_exactly_once_each() {
    let emulator = Emulator::start(Profile {
        limits: vec![
            ProviderLimit::window("burst", 3, Duration::from_millis(500)),
            ProviderLimit::window("second", 5, SECOND),
            ProviderLimit::concurrent("slots", 2),
        ],
        latency: Latency::Range(Duration::from_millis(5), Duration::from_millis(40)),
        record: true,
        ..Profile::default()
    })
    .unwrap();
    let config = Config::of(&emulator)
        .limit(r#"burst = { per = ["account"], max = 3, in = "500ms" }"#)
        .limit(r#"second = { per = ["account"], max = 5, in = "1s" }"#)
        .limit(r#"slots = { per = ["account"], concurrent = 2 }"#)
        .platform(r#"guard = "250ms""#)
        .report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 40);
    let ran = dir.run(&reports(&accounts, 10)).exits(0);

    assert_none_refused(&emulator);
    assert_eq!(emulator.counts().0, 400, "one call for each fetch\n{ran}");
    dir.assert_reports(&accounts, 10);
    let summary = ran.summary();
    assert_eq!(
        (summary.fetches, summary.done, summary.dead, summary.left, summary.calls),
        (400, 400, 0, 0, 400)
    );
    assert_eq!((summary.refused, summary.objects), (0, 400));
    let bytes: usize = dir.collected().values().map(|one| one.body.len()).sum();
    assert_eq!(summary.bytes, bytes as u64);
    assert!(summary.seconds > 1.0 && summary.seconds <= ran.took.as_secs_f64(), "{summary:?}");
    let mut used: Vec<&str> = summary.limits.iter().map(|used| used.limit.as_str()).collect();
    used.sort_unstable();
    assert_eq!(used, ["p.burst", "p.second"], "limits with a rate to be used");
    for used in &summary.limits {
        assert!(used.share > 0.3 && used.share <= 1.0, "{used:?}");
    }
}

#[test]
fn a_fetch_is_not_called_before_its_not_before() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let now = jiff::Timestamp::now();
    let started = std::time::Instant::now();
    let wait = Duration::from_millis(1500);
    let later = now + wait;
    let fetches = [
        fetch("a", "report", "later", json!({ "params": { "date": "1" }, "not_before": later })),
        fetch("a", "report", "now", json!({ "params": { "date": "2" } })),
        fetch("a", "report", "past", json!({ "params": { "date": "3" }, "not_before": now })),
    ]
    .concat();
    let ran = dir.run(&fetches).exits(0);
    assert_eq!(ran.summary().done, 3, "{ran}");
    let calls = emulator.calls();
    assert_eq!(calls.len(), 3);
    assert_eq!(&*calls[2].query, "date=1", "what may go goes first: {calls:?}");
    let waited = calls[2].at - started;
    assert!(waited >= wait, "called after {waited:?}");
    assert!(waited < wait + 2 * SECOND, "called only after {waited:?}");
    assert!(calls[1].at - started < wait, "the others had to wait: {calls:?}");
}

#[test]
fn a_fetch_whose_turn_comes_after_its_deadline_is_dead_without_a_call() {
    let emulator = emulator(vec![ProviderLimit::gap("gap", SECOND)]);
    let config =
        Config::of(&emulator).limit(r#"gap = { per = ["account"], every = "1s" }"#).report();
    let dir = Dir::with(&config);
    let now = jiff::Timestamp::now();
    let soon = now + Duration::from_secs(20);
    let of = |n: u32, deadline: Option<jiff::Timestamp>| {
        let more = json!({ "params": { "date": n.to_string() }, "deadline": deadline });
        fetch("a", "report", &n.to_string(), more)
    };
    let fetches = [
        of(1, Some(now - SECOND)),
        of(2, None),
        of(3, Some(soon)),
        // Its turn comes two seconds after the first call.
        of(4, Some(now + Duration::from_millis(1200))),
    ]
    .concat();
    let ran = dir.run(&fetches).exits(1);
    let summary = ran.summary();
    assert_eq!((summary.done, summary.dead, summary.calls), (2, 2, 2), "{ran}");
    assert_none_refused(&emulator);
    let dead = dir.dead();
    assert!(dead.iter().all(|dead| dead.code == "TG0114" && dead.attempts == 0), "{dead:?}");
    let mut ids: Vec<_> = dead.iter().map(|d| d.fetch.as_ref().unwrap().id.clone()).collect();
    ids.sort();
    assert_eq!(ids, [Some("1".into()), Some("4".into())]);
}

#[test]
fn high_goes_before_normal_before_low_and_each_in_order() {
    let every = Duration::from_millis(700);
    let emulator = emulator(vec![ProviderLimit::gap("gap", every)]);
    let config =
        Config::of(&emulator).limit(r#"gap = { per = ["account"], every = "700ms" }"#).report();
    let dir = Dir::with(&config);
    let of = |date: &str, priority: &str| {
        fetch("a", "report", date, json!({ "params": { "date": date }, "priority": priority }))
    };
    // This call shuts the gate, so that all others are there when it opens.
    dir.run(&of("first", "normal")).exits(0);
    let fetches =
        [of("low", "low"), of("normal_1", "normal"), of("normal_2", "normal"), of("high", "high")];
    dir.run(&fetches.concat()).exits(0);
    let order: Vec<String> = emulator.calls().iter().map(|call| call.query.to_string()).collect();
    let wanted = ["first", "high", "normal_1", "normal_2", "low"].map(|d| format!("date={d}"));
    assert_eq!(order, wanted);
    assert_none_refused(&emulator);
}

#[test]
fn each_api_has_its_own_limits_beside_those_of_its_platform() {
    let (short, long) = (Duration::from_millis(200), Duration::from_millis(600));
    let emulator = emulator(vec![
        ProviderLimit::gap("gap", short),
        ProviderLimit::gap("slow_gap", long).only("/v1/reports/slow"),
        ProviderLimit::window("each", 4, SECOND).per_endpoint(),
    ]);
    let config = Config::of(&emulator)
        .limit(r#"gap = { per = ["account"], every = "200ms" }"#)
        .limit(r#"each = { per = ["account", "api"], max = 4, in = "1s" }"#)
        .api(
            "slow",
            "path = \"v1/reports/slow\"\nlimits.slow_gap = { per = [\"account\"], every = \"600ms\" }",
        )
        .api("fast", "path = \"v1/reports/fast\"");
    let dir = Dir::with(&config);
    let fetches: String = (0..5)
        .flat_map(|n| ["a", "b", "c"].map(|account| (n, account)))
        .flat_map(|(n, account)| {
            ["slow", "fast"].map(|api| fetch(account, api, &n.to_string(), json!({})))
        })
        .collect();
    let ran = dir.run(&fetches).exits(0);
    assert_none_refused(&emulator);
    assert_eq!(ran.summary().calls, 30, "{ran}");
    // The slow ones need 4 x 600 ms; the fast ones go between them.
    assert!(ran.took < Duration::from_secs(5), "{ran}");
}

#[test]
fn the_share_of_a_limit_is_told_from_two_calls_on() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator)
        .limit(r#"gap = { per = ["account"], every = "400ms" }"#)
        .limit(r#"slots = { per = ["account"], concurrent = 2 }"#)
        .report();
    let dir = Dir::with(&config);
    let summary = dir.run(&reports(&["a".into()], 2)).exits(0).summary();
    assert_eq!(summary.limits.len(), 1, "{summary:?}");
    assert_eq!(summary.limits[0].limit, "p.gap");
    assert!(summary.limits[0].share > 0.5, "{summary:?}");
    assert!(dir.run(&reports(&["b".into()], 1)).exits(0).summary().limits.is_empty());
}

#[test]
fn a_limit_that_becomes_stricter_counts_the_calls_of_earlier_runs() {
    let emulator = emulator(Vec::new());
    let with = |every: &str| {
        let limit = format!("gap = {{ per = [\"account\"], every = \"{every}\" }}");
        Config::of(&emulator).limit(&limit).report()
    };
    let dir = Dir::with(&with("100ms"));
    let accounts = accounts("act", 3);
    dir.run(&reports(&accounts, 1)).exits(0);
    dir.write("tollgate.toml", with("1500ms").text());
    dir.run(&reports(&accounts, 2)).exits(0);
    for account in &accounts {
        let calls = emulator.calls();
        let at: Vec<_> = calls.iter().filter(|c| *c.account == **account).map(|c| c.at).collect();
        assert_eq!(at.len(), 2);
        assert!(at[1] - at[0] >= Duration::from_millis(1500), "{:?}", at[1] - at[0]);
    }
}

#[test]
fn fetches_of_an_api_that_is_gone_wait_for_it_and_hold_up_nobody() {
    let emulator = emulator(Vec::new());
    let config =
        Config::of(&emulator).limit(r#"gap = { per = ["account"], every = "900ms" }"#).report();
    let both = config.clone().api("other", "path = \"v1/reports/other\"");
    let dir = Dir::with(&both);
    let lines = fetch("a", "report", "0", json!({ "params": { "date": "0" } }))
        + &fetch("a", "other", "1", json!({}))
        + &fetch("b", "report", "1", json!({ "params": { "date": "1" } }))
        + &fetch("b", "other", "2", json!({}));
    dir.write("fetches.jsonl", lines);
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    wait_until("two calls", || (emulator.counts().0 == 2).then_some(()));
    running.signal("TERM");
    let left = running.wait().exits(3).summary().left;
    assert_eq!(left, 2);

    let gone = |call: &tollgate_emulator::Call| call.endpoint.ends_with("other");
    let waiting = 2 - emulator.calls().iter().filter(|call| gone(call)).count() as u64;
    dir.write("tollgate.toml", config.text());
    let ran = dir.tollgate(&["run", "--json"]).run();
    if waiting > 0 {
        let ran = ran.exits(3).says("wait for apis that this configuration does not have");
        assert_eq!(ran.summary().left, waiting, "{ran}");
        let status = dir.tollgate(&["status", "--json"]).run().exits(0).json();
        assert_eq!(status["waiting"], waiting);
        assert!(status["accounts"][0]["because"].as_str().unwrap().contains("other"), "{status}");
    } else {
        ran.exits(0);
    }
    dir.write("tollgate.toml", both.text());
    dir.tollgate(&["run", "--json"]).run().exits(0);
    assert_eq!((dir.collected().len(), emulator.counts().0), (4, 4));
}

#[test]
fn a_fetch_put_aside_for_an_hour_is_kept_and_told_of() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let later = jiff::Timestamp::now() + Duration::from_secs(3600);
    let lines =
        fetch("a", "report", "1", json!({ "params": { "date": "1" }, "not_before": later }))
            + &fetch("a", "report", "2", json!({ "params": { "date": "2" } }));
    dir.write("fetches.jsonl", lines);
    let ask = || dir.tollgate(&["status", "--json"]).run();
    for run in 0..2 {
        let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
        wait_until("a node with one fetch put aside", || {
            let ran = (emulator.counts().0 == 1).then(ask)?;
            let status = (ran.code == Some(0)).then(|| ran.json())?;
            let idle = status["waiting"] == 0 && status["in_flight"] == 0;
            (status["running"] == true && idle && status["postponed"] == 1).then_some(())
        });
        running.signal("TERM");
        let summary = running.wait().exits(3).summary();
        assert_eq!((summary.left, summary.calls), (1, 1 - run));
        assert_eq!(ask().exits(0).json()["postponed"], 1);
    }
    let text = dir.tollgate(&["status"]).run().exits(0).out();
    assert!(text.contains("1 put aside until their not_before"), "{text}");
}

#[test]
fn a_young_object_is_used_instead_of_a_call_also_by_a_later_run() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let fresh = json!({ "params": { "date": "1" }, "fresh_for": "1h" });
    let of = |id: &str| fetch("a", "report", id, fresh.clone());
    let ran = dir.run(&[of("first"), of("second"), of("third")].concat()).exits(0);
    assert_eq!((ran.summary().done, ran.summary().calls), (3, 1), "{ran}");
    let ran = dir.run(&of("later")).exits(0);
    assert_eq!((ran.summary().done, ran.summary().calls), (1, 0), "{ran}");
    let ran = dir.run(&fetch("a", "report", "anew", json!({ "params": { "date": "1" } }))).exits(0);
    assert_eq!((ran.summary().done, ran.summary().calls), (1, 1), "{ran}");
    assert_eq!(emulator.counts().0, 2);
}
