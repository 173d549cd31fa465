//! `tollgate plan`: what it says, and that it comes true.

use std::time::Duration;

use serde_json::json;
use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};

use crate::util::{Config, Dir, accounts, assert_none_refused, fetch, reports};

#[test]
fn a_run_takes_as_long_as_was_planned() {
    let emulator = Emulator::start(Profile {
        limits: vec![
            ProviderLimit::gap("gap", Duration::from_millis(100)),
            ProviderLimit::window("some", 5, Duration::from_secs(2)),
        ],
        latency: Latency::Fixed(Duration::from_millis(100)),
        record: true,
        ..Profile::default()
    })
    .unwrap();
    let config = Config::of(&emulator)
        .limit(r#"gap = { per = ["account"], every = "100ms" }"#)
        .limit(r#"some = { per = ["account"], max = 5, in = "2s" }"#)
        .report();
    let dir = Dir::with(&config);
    let (many, few) = (accounts("many", 4), accounts("few", 4));
    let lines = reports(&many, 22) + &reports(&few, 7);
    dir.write("fetches.jsonl", &lines);
    let plan = |args: &[&str]| {
        dir.tollgate(&[&["plan", "--json", "--latency", "0.1s", "fetches.jsonl"], args].concat())
    };
    let planned = plan(&[]).run().exits(0).json();
    assert_eq!((&planned["calls"], &planned["accounts"]), (&json!(116), &json!(8)));
    assert_eq!(planned["shapes"], 2, "accounts with the same work are walked once");
    assert_eq!(planned["limits"][0]["limit"], "p.some");
    assert_eq!(emulator.counts().0, 0, "a plan makes no call");
    assert!(!dir.path("data").exists(), "and leaves nothing behind");

    let ran = dir.run(&lines).exits(0);
    assert_none_refused(&emulator);
    // From the first arrival on: how long the process takes to start is no part of a plan.
    let at: Vec<_> = emulator.calls().iter().map(|call| call.at).collect();
    let span = *at.iter().max().unwrap() - *at.iter().min().unwrap();
    let real = (span + Duration::from_millis(100)).as_secs_f64();
    let planned = planned["seconds"].as_f64().unwrap();
    let off = (real - planned) / planned;
    assert!((-0.01..0.06).contains(&off), "planned {planned} s, took {real} s: {ran}");

    // From what the folder knows now, the first call has to wait.
    let later = plan(&["--local"]).run().exits(0).json();
    assert_eq!(later["from_ledger"], 8, "{later}");
}

#[test]
fn it_tells_people_what_binds_and_what_would_help_and_names_what_is_dead() {
    let config = Config::at("https://api.example.com/")
        .limit(r#"hourly = { per = ["account"], max = 60, in = "1h" }"#)
        .limit(r#"gap = { per = ["account"], every = "5s" }"#)
        .report();
    let dir = Dir::with(&config);
    let lines = reports(&accounts("act", 300), 130) + &fetch("act_0", "nope", "1", json!({}));
    dir.write("fetches.jsonl", lines);
    let ran = dir
        .tollgate(&["plan", "--at", "2026-11-21T00:00:00Z", "fetches.jsonl"])
        .run()
        .exits(1)
        .says("TG0106: 1 fetch would be dead at once, first fetches.jsonl:39001");
    let out = ran.out();
    for text in [
        "39,000 calls for 300 accounts: all done after 2h 1m, at 2026-11-21T02:00",
        "p.hourly",
        "without p.hourly  10m 49s instead of 2h 1m",
        "p.hourly doubled",
        "p/act_0 ",
        "no calls made before",
    ] {
        assert!(out.contains(text), "{text} is not in\n{out}");
    }
}

#[test]
fn mistakes_on_its_command_line_are_told() {
    let dir = Dir::with(&Config::at("https://api.example.com/").report());
    dir.write("fetches.jsonl", reports(&accounts("a", 1), 1));
    let plan = |args: &[&str]| dir.tollgate(&[&["plan"], args].concat()).run().exits(2);
    plan(&["--latency", "3", "fetches.jsonl"]).says("a duration from 0s to 24h with its unit");
    plan(&["--latency", "q=3s", "fetches.jsonl"]).says("no platform `q`");
    plan(&["--latency", "p/q=3s", "fetches.jsonl"]).says("no api `q`");
    plan(&["--at", "tomorrow", "fetches.jsonl"]).says("a time looks like");
    plan(&["--local", "fetches.jsonl"]).says("holds nothing yet");
    plan(&["none.jsonl"]).says("TG0310");
    plan(&["fetches.txt"]).says("--format");
    plan(&[]).says("FILE");
    let help = dir.tollgate(&["help", "plan"]).run().exits(0).out();
    assert!(help.contains("--latency") && help.contains("Examples:"), "{help}");
}
