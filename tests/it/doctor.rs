//! What holds a node back, asked of one that works. `tests/judge/doctor.py` stages the other faults.

use std::time::Duration;

use serde_json::Value;
use tollgate_emulator::{Emulator, Latency, Profile};

use crate::util::{Config, Dir, accounts, reports, wait_until};

/// What `doctor` finds first, once it finds that. The exit says whether anything is wrong; on a busy machine that may be
/// the CPUs too.
fn found(dir: &Dir, kind: &str) -> Value {
    wait_until(kind, || {
        let ran = dir.tollgate(&["doctor", "--json", "--window", "10"]).run();
        if ran.code == Some(2) {
            return None;
        }
        let told = ran.json();
        let found = told["findings"].as_array().unwrap();
        let is_wrong = found.iter().any(|one| one["kind"] != "limit");
        assert_eq!(ran.code, Some(i32::from(is_wrong)), "{told:#}");
        (told["findings"][0]["kind"] == kind).then_some(told)
    })
}

#[test]
fn a_limit_that_is_used_up_is_found_and_is_nothing_wrong() {
    let emulator = Emulator::start(Profile::default()).unwrap();
    let config = Config::of(&emulator).limit(r#"hourly = { per = ["account"], every = "1h" }"#);
    let dir = Dir::with(&config.report());
    dir.write("fetches.jsonl", reports(&accounts("act", 4), 3));
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    let told = wait_until("the last call to be over", || {
        let told = found(&dir, "limit");
        (told["in_flight"] == 0).then_some(told)
    });
    let first = &told["findings"][0];
    assert_eq!(first["what"], "limit `hourly` of p is used up", "{told:#}");
    assert!(first["share"].as_f64().unwrap() > 0.5, "{told:#}");
    assert_eq!((&told["waiting"], &told["in_flight"]), (&8.into(), &0.into()), "{told:#}");
    let node = &told["nodes"][0];
    let done: u64 =
        node["ends"].as_array().unwrap().iter().map(|ends| ends["done"].as_u64().unwrap()).sum();
    assert_eq!(done, 4, "{told:#}");
    let text = dir.tollgate(&["doctor"]).run().out();
    assert!(text.contains("1. limit `hourly` of p is used up"), "{text}");
    running.signal("TERM");
    running.wait().exits(3);
    dir.tollgate(&["doctor"]).run().exits(2).says("no node is running");
}

#[test]
fn a_provider_that_answers_slowly_is_told_from_too_few_collectors() {
    let cases = [(3000, "provider"), (100, "collectors")];
    for (latency_ms, kind) in cases {
        let latency = Latency::Fixed(Duration::from_millis(latency_ms));
        let emulator = Emulator::start(Profile { latency, ..Profile::default() }).unwrap();
        let config = Config::of(&emulator).collect("concurrency = 2").report();
        let dir = Dir::with(&config);
        dir.write("fetches.jsonl", reports(&accounts("act", 20), 100));
        let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
        let told = found(&dir, kind);
        assert!(told["findings"][0]["share"].as_f64().unwrap() > 0.3, "{told:#}");
        running.kill();
    }
}
