//! `tollgate audit`: of what a provider saw, and of what the data folder keeps.

use std::fmt::Write;
use std::time::Duration;

use tollgate_emulator::{Emulator, Profile, ProviderLimit};

use crate::util::{Config, Dir, accounts, assert_none_refused, reports};

const GAP: &str = r#"gap = { per = ["account"], every = "200ms" }"#;

#[test]
fn what_a_provider_saw_is_proved_and_a_tighter_limit_is_seen_to_be_exceeded() {
    let emulator = Emulator::start(Profile {
        limits: vec![ProviderLimit::gap("gap", Duration::from_millis(200))],
        record: true,
        ..Profile::default()
    })
    .unwrap();
    let dir = Dir::with(&Config::of(&emulator).limit(GAP).report());
    dir.run(&reports(&accounts("act", 5), 6)).exits(0);
    assert_none_refused(&emulator);
    let calls = emulator.calls();
    let first = calls.iter().map(|call| call.at).min().unwrap();
    let (mut json, mut text) = (String::new(), String::new());
    for call in &calls {
        let us = (call.at - first).as_micros() + 1_800_000_000_000_000;
        let (account, path) = (&call.account, &call.endpoint);
        writeln!(json, "{{\"at_us\":{us},\"account\":\"{account}\",\"path\":\"{path}\"}}").unwrap();
        let ms = us / 1000;
        let (seconds, rest) = (ms / 1000, ms % 1000);
        writeln!(text, "{seconds}.{rest:03} 200 {account} {path}?date=1").unwrap();
    }
    dir.write("calls.jsonl", &json);
    dir.write("access.log", &text);
    let audit = |args: &[&str]| dir.tollgate(&[&["audit"], args].concat()).run();
    let ran = audit(&["calls.jsonl"]).exits(0);
    assert!(ran.out().contains("proved    gap  1 in any 200ms (30 calls, 5 counters"), "{ran}");
    let form = "$msec $status $http_x_account $request_uri";
    let report = audit(&["access.log", "--line", form, "--json"]).exits(0).json();
    assert_eq!((&report["proved"], &report["calls"]), (&true.into(), &30.into()));
    assert_eq!(report["step_seconds"], 0.001);

    let tighter = r#"gap = { per = ["account"], every = "1s" }"#;
    let ran = audit(&["calls.jsonl", "--limit", tighter]).exits(1);
    let out = ran.out();
    for text in
        ["EXCEEDED  gap  1 in any 1s", "first: account act_", "2 calls within 0.2", "calls.jsonl:"]
    {
        assert!(out.contains(text), "{text} is not in\n{out}");
    }
    // The same in whole seconds proves nothing of 200 ms, and says so.
    let coarse = text.lines().map(|line| {
        let (seconds, rest) = line.split_once('.').unwrap();
        format!("{seconds} {}\n", rest.split_once(' ').unwrap().1)
    });
    dir.write("coarse.log", coarse.collect::<String>());
    let ran = audit(&["coarse.log", "--line", form]).exits(1);
    assert!(ran.out().contains("not shown gap") || ran.out().contains("EXCEEDED"), "{ran}");
}

#[test]
fn what_the_ledger_keeps_is_proved_and_a_tighter_limit_is_not() {
    let emulator = Emulator::start(Profile { record: true, ..Profile::default() }).unwrap();
    let with = |max: u32| {
        let limit = format!("hourly = {{ per = [\"account\"], max = {max}, in = \"1h\" }}");
        Config::of(&emulator).limit(&limit).report()
    };
    let dir = Dir::with(&with(5));
    let audit = |args: &[&str]| dir.tollgate(&[&["audit", "--ledger"], args].concat()).run();
    audit(&[]).exits(2).says("holds nothing yet");
    dir.run(&reports(&accounts("act", 3), 5)).exits(0);
    let report = audit(&["--json"]).exits(0).json();
    assert_eq!((&report["proved"], &report["lines"]), (&true.into(), &3.into()));
    assert!(report["calls"].as_u64().unwrap() >= 12, "{report}");
    dir.write("tollgate.toml", with(2).text());
    let ran = audit(&[]).exits(1);
    assert!(ran.out().contains("EXCEEDED  p.hourly  2 in any 1h"), "{ran}");
    audit(&["--only", "other"]).exits(2).says("TG0320");
    audit(&["--platform", "q"]).exits(2).says("no platform `q`");
}

#[test]
fn what_the_ledger_keeps_of_all_accounts_together_is_proved_too() {
    let emulator = Emulator::start(Profile { record: true, ..Profile::default() }).unwrap();
    let with = |max: u32| {
        let limits = format!(
            "all = {{ per = [\"platform\"], max = {max}, in = \"1h\" }}\n\
             reports = {{ per = [\"account\"], max = {max}, in = \"1h\", when.api = [\"report\"] }}"
        );
        Config::of(&emulator).limit(&limits).report()
    };
    let dir = Dir::with(&with(15));
    let audit = |args: &[&str]| dir.tollgate(&[&["audit", "--ledger"], args].concat()).run();
    dir.run(&reports(&accounts("act", 3), 5)).exits(0);
    let report = audit(&["--json"]).exits(0).json();
    // The record of the platform, and two of each account: its own, and that of its reports.
    let read = (&report["proved"], &report["lines"], &report["stepped_over"]);
    assert_eq!(read, (&true.into(), &7.into(), &0.into()), "{report:#}");
    assert_eq!(report["calls"], 30);
    dir.write("tollgate.toml", with(5).text());
    let ran = audit(&[]).exits(1);
    assert!(ran.out().contains("EXCEEDED  p.all      5 in any 1h"), "{ran}");
    assert!(ran.out().contains("proved    p.reports"), "{ran}");
}

#[test]
fn mistakes_on_its_command_line_are_told() {
    let dir = Dir::empty();
    dir.write("calls.jsonl", "{\"account\":\"a\",\"at\":1}\n");
    let audit = |args: &[&str]| dir.tollgate(&[&["audit"], args].concat()).run();
    audit(&[]).exits(2).says("LOG");
    audit(&["calls.jsonl"]).exits(2).says("TG0002").says("--limit");
    audit(&["none.jsonl", "--limit", GAP]).exits(2).says("TG0310");
    audit(&["calls.jsonl", "--limit", "gap"]).exits(2).says("TG0320");
    audit(&["calls.jsonl", "--limit", GAP, "--slack", "5"]).exits(2).says("with its unit");
    audit(&["calls.jsonl", "--limit", GAP]).exits(0);
    dir.write("other.log", "what is this\n");
    let ran =
        audit(&["other.log", "--limit", GAP]).exits(1).says("other.log:1: it is neither JSON");
    assert!(ran.out().contains("no calls were found"), "{ran}");
    let help = dir.tollgate(&["help", "audit"]).run().exits(0).out();
    assert!(help.contains("path:/v1/{account}") && help.contains("Examples:"), "{help}");
}
