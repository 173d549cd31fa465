//! `tollgate run`, when nothing goes wrong.

use std::io::Write;
use std::time::Duration;

use serde_json::json;
use tollgate_emulator::{
    BodyShape, Emulator, Gzip, Latency, Profile, ProviderLimit, big_sha256, expected_body,
};

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
fn a_second_run_of_the_same_file_calls_nothing() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let accounts = accounts("act", 5);
    let fetches = reports(&accounts, 4);
    assert_eq!(dir.run(&fetches).exits(0).summary().calls, 20);

    let again = dir.run(&fetches).exits(0).summary();
    assert_eq!((again.fetches, again.done, again.calls, again.objects), (20, 20, 0, 0));
    assert_eq!(emulator.counts().0, 20);
    let longer = dir.run(&reports(&accounts, 5)).exits(0).summary();
    assert_eq!((longer.fetches, longer.done, longer.calls, longer.objects), (25, 25, 5, 5));
    dir.assert_reports(&accounts, 5);
}

#[test]
fn an_id_counts_within_its_account_and_api_and_once_within_a_file() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator)
        .api("one", "path = \"v1/reports/one\"")
        .api("two", "path = \"v1/reports/two\"");
    let dir = Dir::with(&config);
    let lines: String = [("a", "one"), ("a", "two"), ("b", "one"), ("a", "one"), ("b", "one")]
        .map(|(account, api)| fetch(account, api, "same", json!({})))
        .concat();
    let summary = dir.run(&lines).exits(0).summary();
    assert_eq!((summary.done, summary.calls), (3, 3));
    assert_eq!(dir.collected().len(), 3);
}

#[test]
fn a_fetch_without_an_id_is_known_by_its_content() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let line = r#"{"platform":"p","account":"a","api":"report","params":{"date":"d"}}"#;
    // The order of the fields is not content.
    let same = r#"{"params":{"date":"d"},"api":"report","account":"a","platform":"p"}"#;
    let other = r#"{"platform":"p","account":"a","api":"report","params":{"date":"e"}}"#;
    assert_eq!(dir.run(&format!("{line}\n{same}\n{other}")).exits(0).summary().calls, 2);
    assert_eq!(dir.run(&format!("{same}\n")).exits(0).summary().calls, 0);
    assert_eq!(dir.collected().len(), 2);
}

#[test]
fn fetches_come_from_several_files_and_from_standard_input() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let (first, second, third) = (accounts("a", 3), accounts("b", 4), accounts("c", 5));
    dir.write("first.jsonl", reports(&first, 2));
    // Blank lines and Windows line ends are no fetches.
    dir.write("second.jsonl", format!("\n\n  \r\n{}", reports(&second, 2).replace('\n', "\r\n")));
    let ran = dir
        .tollgate(&["run", "--json", "first.jsonl", "second.jsonl", "-"])
        .input(reports(&third, 2).trim_end())
        .run()
        .exits(0);
    let summary = ran.summary();
    assert_eq!((summary.fetches, summary.done, summary.calls), (24, 24, 24), "{ran}");
    dir.assert_reports(&[first, second, third].concat(), 2);
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    for ran in [dir.run("").exits(0), dir.tollgate(&["run", "--json"]).run().exits(0)] {
        let summary = ran.summary();
        assert_eq!((summary.fetches, summary.done, summary.calls), (0, 0, 0), "{ran}");
        assert!(ran.took < Duration::from_secs(5), "{ran}");
    }
}

#[test]
fn a_file_that_is_not_there_is_told_with_its_code() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    dir.tollgate(&["run", "nowhere.jsonl"]).run().exits(2).says("TG0310").says("nowhere.jsonl");
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
fn objects_are_stored_as_the_configuration_says() {
    let emulator = emulator(Vec::new());
    for (compression, end) in [("none", ".json"), ("gzip", ".json.gz"), ("zstd", ".json.zst")] {
        let config = Config::of(&emulator)
            .store(&format!("compression = \"{compression}\""))
            .store("fsync = true")
            .api(
                "report",
                "path = \"v1/reports/daily\"\nquery = { date = \"{date}\", rows = 300 }",
            );
        let dir = Dir::with(&config);
        let line = fetch("a", "report", "1", json!({ "params": { "date": "d" } }));
        dir.run(&line).exits(0);
        let collected = dir.collected();
        let (_, one) = collected.first_key_value().unwrap();
        let wanted = expected_body("a", "daily", "date=d&rows=300", 5);
        assert!(one.body == wanted, "{compression}");
        let object = &one.manifest.done.objects[0];
        assert!(object.key.ends_with(&format!("/00001{end}")), "{}", object.key);
        let smaller = object.stored_bytes < object.bytes / 2;
        assert_eq!(smaller, compression != "none", "{object:?}");
    }
}

#[test]
fn a_manifest_says_what_was_ordered_and_what_came() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let before = jiff::Timestamp::now();
    let more = json!({ "params": { "date": "d" }, "labels": { "tenant": "acme", "of": "광고" } });
    dir.run(&fetch("act.1", "report", "the id", more)).exits(0);
    let after = jiff::Timestamp::now();
    let collected = dir.collected();
    let manifest = &collected.first_key_value().unwrap().1.manifest;
    assert_eq!(
        (manifest.version, &*manifest.platform, &*manifest.account, &*manifest.api),
        (1, "p", "act.1", "report")
    );
    assert_eq!(json!(manifest.params), json!({ "date": "d" }));
    let done = &manifest.done;
    assert_eq!((&*done.id, done.http_status, done.attempts, done.pages), ("the id", 200, 1, 1));
    assert_eq!(json!(done.labels), json!({ "tenant": "acme", "of": "광고" }));
    assert!(done.fetched_at >= before && done.fetched_at <= after, "{done:?}");
    assert!(done.waited_ms < 10_000, "{done:?}");
    let date = before.strftime("%Y-%m-%d").to_string();
    assert_eq!(done.objects[0].key, format!("p/report/act.1/{date}/the id/00001.json.zst"));
}

#[test]
fn keys_follow_their_template_and_the_store_its_url() {
    let emulator = emulator(Vec::new());
    let key =
        r#"key = "raw/{api}/of-{platform}/{params.date|upper}/{account}/{id}/page-{page}.{ext}""#;
    let config = Config::of(&emulator).store(r#"url = "file:objects""#).store(key).report();
    let dir = Dir::with(&config);
    dir.run(&fetch("a", "report", "1", json!({ "params": { "date": "jan" } }))).exits(0);
    let folder = "objects/raw/report/of-p/JAN/a/1";
    let wanted = ["_manifest.json", "page-00001.json.zst"].map(|name| format!("{folder}/{name}"));
    let mut files = dir.files("objects");
    files.sort();
    let mut wanted = wanted.to_vec();
    wanted.sort();
    assert_eq!(files, wanted);
    assert_eq!(dir.collected_in("objects").len(), 1);
    assert!(dir.files("data").is_empty(), "{:?}", dir.files("data"));
}

#[test]
fn a_store_in_memory_leaves_nothing_behind() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).store(r#"url = "memory:""#).report());
    let accounts = accounts("act", 5);
    let summary = dir.run(&reports(&accounts, 2)).exits(0).summary();
    assert_eq!((summary.done, summary.objects), (10, 10));
    assert!(dir.files("data").is_empty(), "{:?}", dir.files("data"));
}

#[test]
fn a_body_of_many_pieces_is_stored_whole() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator).collect("buffer_bytes_max = \"5MiB\"").api(
        "big",
        "path = \"rude/big\"\nquery = { bytes = \"{bytes}\", chunked = \"{chunked}\" }",
    );
    let dir = Dir::with(&config);
    let fetches: String = [(1_u64, 0), (65_536, 1), (5_000_000, 0), (5_000_001, 1), (9_999_999, 0)]
        .map(|(bytes, chunked)| {
            let more = json!({ "params": { "bytes": bytes, "chunked": chunked } });
            fetch(&format!("act_{bytes}"), "big", &bytes.to_string(), more)
        })
        .concat();
    dir.run(&fetches).exits(0);
    let collected = dir.collected();
    assert_eq!(collected.len(), 5);
    for ((_, _, bytes), one) in &collected {
        let object = &one.manifest.done.objects[0];
        assert_eq!(object.sha256, big_sha256(bytes.parse().unwrap()), "{bytes}");
        assert!(object.key.ends_with(".bin.zst"), "{}", object.key);
    }
}

#[test]
fn a_body_larger_than_allowed_is_dead_and_leaves_no_file() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator)
        .collect("body_bytes_max = \"100kB\"")
        .api("big", "path = \"rude/big\"\nquery = { bytes = \"{bytes}\", chunked = 1 }");
    let dir = Dir::with(&config);
    let of =
        |bytes: u32| fetch("a", "big", &bytes.to_string(), json!({ "params": { "bytes": bytes } }));
    let ran = dir.run(&(of(100_001) + &of(100_000) + &of(3_000_000))).exits(1);
    assert_eq!((ran.summary().done, ran.summary().dead, ran.summary().calls), (1, 2, 3), "{ran}");
    let dead = dir.dead();
    assert!(dead.iter().all(|dead| dead.code == "TG0203" && dead.http_status == Some(200)));
    assert_eq!(dir.collected().len(), 1, "checks that no other file is there");
}

#[test]
fn a_compressed_answer_is_stored_decoded() {
    for gzip in [Gzip::IfAccepted, Gzip::Always] {
        let body = BodyShape { rows: 2_000, gzip };
        let emulator = Emulator::start(Profile { body, ..Profile::default() }).unwrap();
        let config = Config::of(&emulator)
            .store("compression = \"none\"")
            .api("report", "path = \"v1/reports/daily\"\nheaders = { Accept-Encoding = \"gzip\" }");
        let dir = Dir::with(&config);
        dir.run(&fetch("a", "report", "1", json!({}))).exits(0);
        let collected = dir.collected();
        let one = collected.first_key_value().unwrap().1;
        assert!(one.body == expected_body("a", "daily", "", 2_000), "{gzip:?}");
    }
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
fn fetches_of_a_pipe_are_collected_while_it_stays_open() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let accounts = accounts("act", 3);
    let (running, mut pipe) = dir.tollgate(&["run", "--json", "-"]).start_with_open_input();
    let lines = reports(&accounts, 3);
    let mut written = 0;
    // Not always at the end of a line.
    for (bytes, calls) in [(lines.len() / 3, 3), (lines.len() / 2, 4), (lines.len(), 9)] {
        pipe.write_all(&lines.as_bytes()[written..bytes]).unwrap();
        written = bytes;
        wait_until("the calls", || (emulator.counts().0 == calls).then_some(()));
    }
    drop(pipe);
    assert_eq!(running.wait().exits(0).summary().done, 9);
    dir.assert_reports(&accounts, 3);
}

#[test]
fn a_fetch_is_counted_once_however_often_it_is_read() {
    let emulator = emulator(Vec::new());
    let config =
        Config::of(&emulator).limit(r#"gap = { per = ["account"], every = "700ms" }"#).report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 30);
    let lines = reports(&accounts, 2);
    dir.write("fetches.jsonl", &lines);
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    wait_until("the first calls", || (emulator.counts().0 == 30).then_some(()));
    running.signal("TERM");
    let first = running.wait().exits(3).summary();
    assert_eq!((first.fetches, first.done, first.left), (60, 30, 30));
    // What is left is collected while the input has not yet said its first word, and then again.
    let (running, mut pipe) = dir.tollgate(&["run", "--json", "-"]).start_with_open_input();
    wait_until("all calls", || (emulator.counts().0 == 60).then_some(()));
    wait_until("all objects", || (dir.files("data").len() == 120).then_some(()));
    let more = reports(&["new".into()], 1);
    let bad = fetch("new", "nothing", "1", json!({}));
    let second_day = lines.get(lines.len() / 2..).unwrap();
    for lines in [&lines, &more, &bad, second_day] {
        pipe.write_all(lines.as_bytes()).unwrap();
    }
    wait_until("the new one", || (dir.files("data").len() == 122).then_some(()));
    pipe.write_all((more + &bad).as_bytes()).unwrap();
    drop(pipe);
    let summary = running.wait().exits(1).summary();
    assert_eq!((summary.done, summary.calls, summary.objects), (61, 31, 31));
    assert_eq!((summary.fetches, summary.left), (summary.done + summary.dead, 0));
}
