//! Processes that die, stop or are told to stop: nothing is lost, nothing comes twice, and the limits hold
//! across the gap.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};

use crate::util::{Config, Dir, Luck, accounts, assert_none_refused, fetch, reports, wait_until};

const SECOND: Duration = Duration::from_secs(1);

/// A provider that takes some time for each answer, so that calls are in flight at any moment.
fn emulator(limits: Vec<ProviderLimit>, latency_ms: u64) -> Emulator {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(latency_ms));
    Emulator::start(Profile { limits, latency, record: true, ..Profile::default() }).unwrap()
}

/// Kills `run` so many times at random moments, runs it to its end, and checks the whole.
fn kill_again_and_again(
    emulator: &Emulator,
    config: &Config,
    accounts: &[String],
    each: usize,
    lives: impl Iterator<Item = Duration>,
) {
    let dir = Dir::with(config);
    dir.write("fetches.jsonl", reports(accounts, each));
    let run = || dir.tollgate(&["run", "--json", "fetches.jsonl"]);
    // Calls that had arrived and were not stored when their process was killed.
    let mut in_flight = 0;
    let mut kills: Vec<Instant> = Vec::new();
    for life in lives {
        let mut running = run().start();
        thread::sleep(life);
        assert!(running.is_running(), "it ended before its {}th kill", kills.len() + 1);
        let ran = running.kill();
        kills.push(Instant::now());
        assert_eq!(ran.code, None, "{ran}");
        // What is in the sockets arrives even now, once the provider gets to it.
        let mut called = 0;
        wait_until("the last calls to arrive", || {
            let before = std::mem::replace(&mut called, emulator.counts().0);
            thread::sleep(Duration::from_millis(60));
            (emulator.counts().0 == called && called == before).then_some(())
        });
        let manifests = dir.files("data").iter().filter(|f| f.ends_with("_manifest.json")).count();
        in_flight += called.saturating_sub(manifests as u64 + in_flight);
    }
    let ran = run().run().exits(0);

    assert_none_refused(emulator);
    let halves = dir.remove_half_written();
    assert!(halves as u64 <= in_flight, "{halves} half-written files, {in_flight} calls in flight");
    dir.assert_reports(accounts, each);
    let fetches = (accounts.len() * each) as u64;
    let calls = emulator.calls();
    assert_eq!(calls.len() as u64, emulator.counts().0);
    assert!(calls.len() as u64 >= fetches, "every fetch was called\n{ran}");
    // A fetch is only ever called again if its process was killed in between.
    for (n, call) in calls.iter().enumerate() {
        let same = |other: &&tollgate_emulator::Call| {
            other.account == call.account && other.query == call.query
        };
        if let Some(again) = calls[n + 1..].iter().find(same) {
            let killed = kills.iter().any(|kill| *kill > call.at && *kill < again.at);
            assert!(killed, "{} {} was called twice by one process", call.account, call.query);
        }
    }
    assert!(
        calls.len() as u64 <= fetches + in_flight,
        "{} calls for {fetches} fetches, {in_flight} were in flight at the kills",
        calls.len()
    );
    let last = dir.run(&reports(accounts, each)).exits(0).summary();
    assert_eq!((last.done, last.calls), (fetches, 0), "a run after the last has nothing to do");
}

fn ten_lives(seed: u64) -> impl Iterator<Item = Duration> {
    let mut luck = Luck::of(seed);
    (0..10).map(move |_| Duration::from_millis(luck.between(20, 800)))
}

#[test]
fn ten_kills_under_one_per_second_lose_nothing_and_break_no_limit() {
    let emulator = emulator(vec![ProviderLimit::gap("gap", SECOND)], 40);
    let config =
        Config::of(&emulator).limit(r#"gap = { per = ["account"], every = "1s" }"#).report();
    kill_again_and_again(&emulator, &config, &accounts("act", 15), 8, ten_lives(1));
}

#[test]
fn ten_kills_under_two_windows_lose_nothing_and_break_no_limit() {
    let limits = vec![
        ProviderLimit::window("pair", 2, SECOND),
        ProviderLimit::window("five", 5, Duration::from_secs(5)),
    ];
    let emulator = emulator(limits, 40);
    let config = Config::of(&emulator)
        .limit(r#"pair = { per = ["account"], max = 2, in = "1s" }"#)
        .limit(r#"five = { per = ["account"], max = 5, in = "5s" }"#)
        .report();
    kill_again_and_again(&emulator, &config, &accounts("act", 15), 9, ten_lives(2));
}

#[test]
fn kills_with_slots_taken_lose_nothing_and_break_no_limit() {
    let emulator = emulator(vec![ProviderLimit::concurrent("slots", 2)], 300);
    let config = Config::of(&emulator)
        .platform(r#"lost_call = "1s""#)
        .limit(r#"slots = { per = ["account"], concurrent = 2 }"#)
        .report();
    let mut luck = Luck::of(3);
    // A fetch in flight at three crashes would be given up as their cause.
    let lives = (0..2).map(move |_| Duration::from_millis(luck.between(1300, 1900)));
    kill_again_and_again(&emulator, &config, &accounts("act", 6), 40, lives);
}

#[test]
fn a_kill_without_limits_is_gone_on_from() {
    let emulator = emulator(Vec::new(), 5);
    let config = Config::of(&emulator).collect("concurrency = 4").report();
    let mut luck = Luck::of(4);
    let lives = (0..2).map(move |_| Duration::from_millis(luck.between(100, 200)));
    kill_again_and_again(&emulator, &config, &accounts("act", 100), 12, lives);
}

#[test]
fn sigterm_ends_calls_in_flight_and_the_next_run_goes_on_without_a_second_call() {
    let limits =
        vec![ProviderLimit::window("pair", 2, SECOND), ProviderLimit::concurrent("slots", 2)];
    let emulator = emulator(limits, 400);
    let config = Config::of(&emulator)
        .limit(r#"pair = { per = ["account"], max = 2, in = "1s" }"#)
        .limit(r#"slots = { per = ["account"], concurrent = 2 }"#)
        .platform(r#"guard = "never""#)
        .report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 10);
    dir.write("fetches.jsonl", reports(&accounts, 9));
    let run = || dir.tollgate(&["run", "--json", "fetches.jsonl"]);
    let (mut done, mut stops) = (0, 0);
    loop {
        let running = run().start();
        thread::sleep(Duration::from_millis(1200));
        running.signal(if stops % 2 == 0 { "TERM" } else { "INT" });
        let ran = running.wait();
        if ran.code == Some(0) {
            break;
        }
        let ran = ran.exits(3).says("stopping");
        let summary = ran.summary();
        assert_eq!(summary.done + summary.left, summary.fetches, "{ran}");
        assert!(ran.took < Duration::from_secs(4), "calls of 0.4 s were in flight at most\n{ran}");
        stops += 1;
        done = done.max(summary.done);
        // Every call that was made has been stored: nothing was broken off.
        let manifests = dir.files("data").iter().filter(|f| f.ends_with("_manifest.json")).count();
        assert_eq!(manifests as u64, emulator.counts().0, "{ran}");
    }
    assert!(stops >= 2, "it was stopped {stops} times");
    assert!(done > 0);
    assert_none_refused(&emulator);
    assert_eq!(emulator.counts().0, 90, "nothing was called twice");
    dir.assert_reports(&accounts, 9);
}

#[test]
fn a_drain_is_bounded_and_breaks_off_what_takes_longer() {
    let emulator = emulator(Vec::new(), 1);
    let config = Config::of(&emulator)
        .collect(r#"drain = "500ms""#)
        .platform(r#"lost_call = "1s""#)
        .limit(r#"slots = { per = ["account"], concurrent = 1 }"#)
        .api("slow", "path = \"rude/slow\"\nquery = { ms = \"{ms}\" }");
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", fetch("a", "slow", "1", json!({ "params": { "ms": 1500 } })));
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    wait_until("the call", || (emulator.counts().0 == 1).then_some(()));
    let asked = Instant::now();
    running.signal("TERM");
    let ran = running.wait().exits(3).says("1 calls were broken off");
    assert!(asked.elapsed() < 2 * SECOND, "{ran}");
    assert_eq!((ran.summary().left, ran.summary().done), (1, 0));
    // Made again, and no earlier than its slot is free.
    let ran = dir.tollgate(&["run", "--json"]).run().exits(0);
    assert_eq!((ran.summary().done, ran.summary().calls), (1, 1), "{ran}");
    assert_eq!(dir.collected().len(), 1);
}

#[test]
fn a_second_signal_quits_at_once() {
    let emulator = emulator(Vec::new(), 1);
    let dir = Dir::with(&Config::of(&emulator).api("hang", "path = \"rude/hang\""));
    dir.write("fetches.jsonl", fetch("a", "hang", "1", json!({})));
    let mut running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    wait_until("the call", || (emulator.counts().0 == 1).then_some(()));
    running.signal("TERM");
    running.wait_says("stopping");
    assert!(running.is_running(), "the call hangs, and the drain waits for it");
    let asked = Instant::now();
    running.signal("INT");
    let ran = running.wait().exits(3).says("stopped at once");
    assert!(asked.elapsed() < SECOND, "{ran}");
}

#[test]
fn a_signal_while_standard_input_is_open_stops_the_run() {
    let emulator = emulator(vec![ProviderLimit::gap("gap", SECOND)], 1);
    let config =
        Config::of(&emulator).limit(r#"gap = { per = ["account"], every = "1s" }"#).report();
    let dir = Dir::with(&config);
    // More than a batch comes at once, then the pipe stays open without a word.
    let (running, mut pipe) = dir.tollgate(&["run", "--json", "-"]).start_with_open_input();
    pipe.write_all(reports(&accounts("act", 50), 25).as_bytes()).unwrap();
    wait_until("the first calls", || (emulator.counts().0 > 0).then_some(()));
    running.signal("TERM");
    let ran = running.wait().exits(3).says("not all that was given has been read");
    assert!(ran.took < Duration::from_secs(10), "{ran}");
    drop(pipe);
}

#[test]
fn a_process_that_is_stopped_and_continued_breaks_no_limit() {
    let limits = vec![
        ProviderLimit::window("pair", 2, SECOND),
        ProviderLimit::window("five", 5, Duration::from_secs(3)),
    ];
    let emulator = emulator(limits, 30);
    let config = Config::of(&emulator)
        .limit(r#"pair = { per = ["account"], max = 2, in = "1s" }"#)
        .limit(r#"five = { per = ["account"], max = 5, in = "3s" }"#)
        .report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 20);
    dir.write("fetches.jsonl", reports(&accounts, 10));
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    for (life, stop) in [(700, 3000), (300, 500)] {
        thread::sleep(Duration::from_millis(life));
        running.signal("STOP");
        thread::sleep(Duration::from_millis(stop));
        running.signal("CONT");
    }
    let ran = running.wait().exits(0);
    assert_none_refused(&emulator);
    assert_eq!(ran.summary().done, 200, "{ran}");
    dir.assert_reports(&accounts, 10);
}

#[test]
fn what_a_killed_process_left_half_written_is_swept_by_the_next_run() {
    let emulator = emulator(Vec::new(), 1);
    let dir = Dir::with(&Config::of(&emulator).report());
    let accounts = accounts("act", 2);
    dir.run(&reports(&accounts, 1)).exits(0);
    let folder = dir.files("data")[0].rsplit_once('/').unwrap().0.to_owned();
    let half = format!("{folder}/x.json.zst#1");
    dir.write(&half, "half");
    // The sweep goes on while the run does, and ends with it: a short one may leave it to the next.
    for count in [40, 80, 160, 320] {
        dir.run(&reports(&accounts, count)).exits(0);
        if !dir.files("data").contains(&half) {
            dir.assert_reports(&accounts, count);
            return;
        }
    }
    panic!("{half} is still there");
}

#[test]
fn a_run_stopped_before_it_has_read_its_input_says_that_something_is_left() {
    let emulator = emulator(Vec::new(), 1);
    let dir = Dir::with(&Config::of(&emulator).report());
    let (running, pipe) = dir.tollgate(&["run", "--json", "-"]).start_with_open_input();
    running.wait_says("shard started");
    running.signal("TERM");
    let ran = running.wait().exits(3);
    assert_eq!((ran.summary().fetches, ran.summary().left), (0, 0), "{ran}");
    drop(pipe);
}
