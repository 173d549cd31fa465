//! `tollgate pause` and `resume`: kept on NATS, followed by the node, told by `status`.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate_emulator::{Emulator, ProviderLimit};

use super::{emulator, publish, serve, stop};
use crate::util::{Config, Dir, Nats, Ran, assert_none_refused, fetch, wait_until};

fn set_up() -> (Nats, Emulator, Dir) {
    let nats = Nats::start();
    let every = Duration::from_millis(300);
    let emulator = emulator(vec![ProviderLimit::gap("gap", every)], 5);
    let config = Config::of(&emulator)
        .on(&nats)
        .limit(r#"gap = { per = ["account"], every = "300ms" }"#)
        .report()
        .api("other", "path = \"v1/reports/other\"");
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    (nats, emulator, dir)
}

fn of(account: &str, api: &str, count: u32) -> String {
    let id = |n: u32| format!("{account}-{n}");
    let more =
        |n: u32| if api == "report" { json!({ "params": { "date": id(n) } }) } else { json!({}) };
    (0..count).map(|n| fetch(account, api, &id(n), more(n))).collect()
}

fn calls(emulator: &Emulator, account: &str, endpoint: &str) -> usize {
    let calls = emulator.calls();
    let of = |call: &&tollgate_emulator::Call| {
        *call.account == *account && call.endpoint.ends_with(endpoint)
    };
    calls.iter().filter(of).count()
}

fn run(dir: &Dir, args: &[&str]) -> Ran {
    dir.tollgate(args).run()
}

/// What `status` says of an account, if it tells of it.
fn account(dir: &Dir, name: &str) -> Option<Value> {
    let status = run(dir, &["status", "--json"]).exits(0).json();
    status["accounts"].as_array().unwrap().iter().find(|look| look["account"] == *name).cloned()
}

#[test]
fn a_held_account_makes_no_calls_until_it_is_resumed_and_others_go_on() {
    let (nats, emulator, dir) = set_up();
    publish(&dir, &(of("held@x", "report", 8) + &of("free", "report", 8)));
    let node = serve(&dir);
    wait_until("calls of both", || {
        (calls(&emulator, "held@x", "") > 0 && calls(&emulator, "free", "") > 0).then_some(())
    });
    run(&dir, &["pause", "p/held@x", "--reason", "asked us to"]).exits(0).says("p/held@x is held");
    // A call decided before may still be on its way.
    thread::sleep(Duration::from_millis(300));
    let called = calls(&emulator, "held@x", "");
    assert!(called < 8, "it was to be held in the middle");
    wait_until("all of the other", || (calls(&emulator, "free", "") == 8).then_some(()));
    assert_eq!(calls(&emulator, "held@x", ""), called);
    let look = account(&dir, "held@x").unwrap();
    assert_eq!(look["because"], "an operator's hold: asked us to", "{look}");
    assert_eq!(look["waiting"], 8 - called, "{look}");
    let text = run(&dir, &["status"]).exits(0).out();
    assert!(text.contains("p/held@x") && text.contains("asked us to"), "{text}");
    let untold = format!("\nwhen {} of them are done is not known", 8 - called);
    wait_until("what has no ETA", || {
        let text = run(&dir, &["status"]).exits(0).out();
        (text.contains(&untold) && !text.contains("is done")).then_some(())
    });

    // Kept while nobody runs.
    let first = stop(node);
    let shown = run(&dir, &["pause"]).exits(0).out();
    assert!(shown.contains("p/held@x") && shown.contains("until it is resumed"), "{shown}");
    assert_eq!(run(&dir, &["pause", "--json"]).exits(0).json()["of"], "p/held@x");
    assert_eq!(account(&dir, "held@x").unwrap()["waiting"], 8 - called);
    let node = serve(&dir);
    node.wait_says("shard started");
    publish(&dir, &of("free2", "report", 2));
    wait_until("the other's calls", || (calls(&emulator, "free2", "") == 2).then_some(()));
    assert_eq!(calls(&emulator, "held@x", ""), called);

    run(&dir, &["resume", "p/held@x"]).exits(0).says("p/held@x goes on");
    nats.wait_count("FETCH", 0);
    run(&dir, &["resume", "p/held@x"]).exits(1).says("was not held");
    run(&dir, &["pause"]).exits(0).says("nothing is held");
    let second = stop(node);
    assert_none_refused(&emulator);
    assert_eq!(calls(&emulator, "held@x", ""), 8, "{first}\n{second}");
}

#[test]
fn a_hold_with_a_time_ends_by_itself() {
    let (nats, emulator, dir) = set_up();
    let node = serve(&dir);
    node.wait_says("shard started");
    let asked = Instant::now();
    run(&dir, &["pause", "p/a", "--for", "4s"]).exits(0).says("is held, until 20");
    publish(&dir, &(of("a", "report", 1) + &of("b", "report", 1)));
    wait_until("the other's call", || (calls(&emulator, "b", "") == 1).then_some(()));
    let look = account(&dir, "a").unwrap();
    assert!(look["until"].is_string(), "{look}");
    wait_until("its call", || (calls(&emulator, "a", "") == 1).then_some(()));
    let waited = asked.elapsed();
    let (soonest, latest) = (Duration::from_millis(3900), Duration::from_secs(8));
    assert!(waited > soonest && waited < latest, "called after {waited:?}");
    nats.wait_count("FETCH", 0);
    stop(node);
}

#[test]
fn an_api_and_a_platform_are_held_by_themselves() {
    let (nats, emulator, dir) = set_up();
    run(&dir, &["pause", "p/a/other"]).exits(0).says("p/a/other is held");
    let node = serve(&dir);
    node.wait_says("shard started");
    publish(&dir, &(of("a", "other", 2) + &of("a", "report", 2) + &of("b", "other", 2)));
    wait_until("what is free", || {
        let report = calls(&emulator, "a", "report") + calls(&emulator, "a", "daily");
        (report == 2 && calls(&emulator, "b", "other") == 2).then_some(())
    });
    assert_eq!(calls(&emulator, "a", "other"), 0);
    run(&dir, &["pause", "p"]).exits(0);
    // The hold of the platform is followed before anything that comes after it is called.
    thread::sleep(Duration::from_millis(300));
    publish(&dir, &of("c", "report", 1));
    thread::sleep(Duration::from_millis(700));
    assert_eq!(emulator.counts().0, 4);
    run(&dir, &["resume", "p/a/other"]).exits(0).says("p is still held");
    thread::sleep(Duration::from_millis(700));
    assert_eq!(emulator.counts().0, 4);
    run(&dir, &["resume", "--all"]).exits(0).says("1 holds ended");
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_eq!(emulator.counts().0, 7);
    assert_none_refused(&emulator);
}

#[test]
fn what_cannot_be_held_is_told() {
    let (_nats, _emulator, dir) = set_up();
    run(&dir, &["pause", "q"]).exits(2).says("no platform `q`");
    run(&dir, &["pause", "p/a", "--for", "yesterday"]).exits(2).says("90m");
    run(&dir, &["pause", "p/a", "--for", "-5m"]).exits(2);
    run(&dir, &["pause", "p/a", "--for", "0s"]).exits(2).says("no time to come");
    run(&dir, &["resume"]).exits(2);
    run(&dir, &["resume", "p/a", "--all"]).exits(2);
    run(&dir, &["pause"]).exits(0).says("nothing is held");
}
