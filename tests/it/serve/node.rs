//! `tollgate serve`, its life from start to drain, and after `kill -9`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tollgate_emulator::{Emulator, ProviderLimit};

use super::{done, emulator, publish, serve, stop};
use crate::util::{
    Config, Dir, Luck, Nats, accounts, assert_none_refused, fetch, free_port, get, reports,
    wait_until,
};

const HALF: Duration = Duration::from_millis(500);

/// Two calls in half a second for each account, as the provider has it and as the node is told.
fn pairs() -> (Nats, Emulator, Config) {
    let nats = Nats::start();
    let emulator = emulator(vec![ProviderLimit::window("pair", 2, HALF)], 40);
    let config = Config::of(&emulator)
        .on(&nats)
        .limit(r#"pair = { per = ["account"], max = 2, in = "500ms" }"#)
        .platform(r#"guard = "250ms""#)
        .report();
    (nats, emulator, config)
}

/// Asserts that each fetch that was published was told to be done, once, under its number in FETCH.
fn assert_done_once(nats: &Nats, accounts: &[String], each: usize) {
    let mut found = BTreeMap::new();
    for (subject, done) in done(nats) {
        let account = subject.strip_prefix("tollgate.done.p.").unwrap().to_owned();
        assert!(account.ends_with(".report"), "{subject}");
        assert_eq!((done.objects.len(), done.http_status), (1, 200), "{done:?}");
        let again = found.insert((account, done.id.clone()), done.seq);
        assert!(again.is_none(), "told twice: {subject} {done:?}");
    }
    let count = accounts.len() * each;
    assert_eq!(found.len(), count);
    let seqs: BTreeSet<u64> = found.values().copied().collect();
    assert_eq!(seqs, (1..=count as u64).collect(), "numbers of first storing");
}

/// The calls that arrived, once no more do: what a killed node sent last is read yet.
fn settled(emulator: &Emulator) -> u64 {
    let mut before = emulator.counts().0;
    wait_until("no more calls", || {
        thread::sleep(HALF);
        let calls = emulator.counts().0;
        (std::mem::replace(&mut before, calls) == calls).then_some(calls)
    })
}

#[test]
fn what_is_published_is_collected_within_its_limits_and_told_once() {
    let (nats, emulator, config) = pairs();
    let dir = Dir::with(&config);
    // The node makes the streams.
    let node = serve(&dir);
    node.wait_says("shard started");
    let accounts = accounts("act.@", 20);
    let counts = publish(&dir, &reports(&accounts, 10));
    assert_eq!(counts["new"], 200, "{counts}");
    nats.wait_count("FETCH", 0);
    stop(node);

    assert_none_refused(&emulator);
    assert_eq!(emulator.counts().0, 200, "one call for each fetch");
    dir.assert_reports(&accounts, 10);
    assert_done_once(&nats, &accounts, 10);
    // The event says what the manifest says, and the manifest which queue its number counts in.
    let told: BTreeMap<u64, _> =
        done(&nats).into_iter().map(|(_, done)| (done.seq, done)).collect();
    for one in dir.collected().into_values() {
        assert_eq!(one.manifest.done, told[&one.manifest.done.seq]);
        assert!(one.manifest.queue.starts_with("TOLLGATE_FETCH@"), "{}", one.manifest.queue);
    }
    assert_eq!((nats.count("DEAD"), nats.count("PROGRESS"), nats.count("LATER")), (0, 0, 0));
    assert_eq!(nats.count("LEDGER"), 20, "one record for each account");
}

#[test]
fn a_node_told_to_stop_drains_and_the_next_goes_on_without_a_second_call() {
    let (nats, emulator, config) = pairs();
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    let accounts = accounts("act", 10);
    publish(&dir, &reports(&accounts, 10));
    for signal in ["TERM", "INT"] {
        let node = serve(&dir);
        let before = emulator.counts().0;
        wait_until("some calls", || (emulator.counts().0 >= before + 25).then_some(()));
        node.signal(signal);
        let ran = node.wait().exits(0);
        assert!(ran.out().is_empty(), "{ran}");
        let waiting = nats.count("FETCH");
        assert!(waiting > 0, "it was to be stopped in the middle");
        assert_eq!(waiting + emulator.counts().0, 100, "each call made was stored and told");
        assert_eq!(nats.count("DONE"), emulator.counts().0);
    }
    let node = serve(&dir);
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_none_refused(&emulator);
    assert_eq!(emulator.counts().0, 100);
    dir.assert_reports(&accounts, 10);
    assert_done_once(&nats, &accounts, 10);
}

#[test]
fn a_node_killed_again_and_again_loses_nothing_and_keeps_the_limits() {
    let (nats, emulator, config) = pairs();
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    let accounts = accounts("act", 20);
    publish(&dir, &reports(&accounts, 10));
    let mut luck = Luck::of(11);
    let mut lost = 0;
    for kill in 0..3 {
        let node = serve(&dir);
        let before = emulator.counts().0;
        wait_until("some calls", || (emulator.counts().0 > before + 10).then_some(()));
        thread::sleep(Duration::from_millis(luck.between(0, 300)));
        assert_eq!(node.kill().code, None);
        let calls = settled(&emulator);
        let left = nats.count("FETCH");
        assert!(left > 0, "nothing was left to do at kill {kill}");
        // Also of earlier kills, but for what was stored before them all the same.
        let cut_off = calls - (200 - left);
        let most = lost + 80;
        assert!(
            cut_off <= most,
            "{cut_off} of {calls} calls, more than two windows of 20 accounts"
        );
        lost = cut_off;
    }
    let node = serve(&dir);
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_none_refused(&emulator);
    dir.remove_half_written();
    dir.assert_reports(&accounts, 10);
    assert_done_once(&nats, &accounts, 10);
    let calls = emulator.counts().0;
    let most = 200 + lost;
    assert!(
        (200..=most).contains(&calls),
        "{calls} calls for 200 fetches, {lost} cut off by kills"
    );
    assert_eq!(nats.count("DEAD"), 0);
}

#[test]
fn a_node_that_is_stopped_and_continued_breaks_no_limit() {
    let (nats, emulator, config) = pairs();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 10);
    let node = serve(&dir);
    node.wait_says("shard started");
    publish(&dir, &reports(&accounts, 10));
    wait_until("some calls", || (emulator.counts().0 > 20).then_some(()));
    // Longer than its session lives.
    node.signal("STOP");
    thread::sleep(Duration::from_millis(5500));
    node.signal("CONT");
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts, 10);
    assert_done_once(&nats, &accounts, 10);
}

#[test]
fn priorities_and_not_before_count_on_nats_too() {
    let nats = Nats::start();
    let emulator = emulator(vec![ProviderLimit::gap("gap", HALF)], 5);
    let config = Config::of(&emulator)
        .on(&nats)
        .limit(r#"gap = { per = ["account"], every = "500ms" }"#)
        .report();
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    let soon = jiff::Timestamp::now() + Duration::from_secs(4);
    let of = |date: &str, more: serde_json::Value| {
        let mut all = json!({ "params": { "date": date } });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fetch("a", "report", date, all)
    };
    let lines = [
        of("later", json!({ "not_before": soon })),
        of("low", json!({ "priority": "low" })),
        of("normal", json!({})),
        of("high", json!({ "priority": "high" })),
    ];
    publish(&dir, &lines.concat());
    let node = serve(&dir);
    nats.wait_count("FETCH", 0);
    assert!(jiff::Timestamp::now() >= soon, "one was called before its not_before");
    stop(node);
    let order: Vec<String> = emulator.calls().iter().map(|call| call.query.to_string()).collect();
    assert_eq!(order, ["high", "normal", "low", "later"].map(|date| format!("date={date}")));
    assert_none_refused(&emulator);
}

#[test]
fn a_port_that_is_taken_and_a_folder_in_use_end_a_node_at_once() {
    let (nats, _emulator, config) = pairs();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = |port: u16| format!("listen = \"127.0.0.1:{port}\"");
    let dir = Dir::with(&config.clone().http(&listen(taken.local_addr().unwrap().port())));
    let ran = dir.tollgate(&["serve"]).run().exits(2).says("TG0313").says("http.listen");
    assert!(ran.took < Duration::from_secs(3), "{ran}");
    assert_eq!(
        nats.js(async |js| js.query_account().await.unwrap().streams),
        0,
        "nothing was begun"
    );

    let port = free_port();
    dir.write("tollgate.toml", config.clone().http(&listen(port)).text());
    let node = serve(&dir);
    node.wait_says("shard started");
    dir.write("second.toml", config.http(&listen(free_port())).text());
    let second = dir.tollgate(&["serve", "--config", "second.toml"]).run();
    second.exits(2).says("TG0301");
    // The first goes on.
    wait_until("a node that is ready", || (get(port, "/readyz")?.0 == 200).then_some(()));
    publish(&dir, &reports(&["a".to_owned()], 1));
    nats.wait_count("DONE", 1);
    stop(node);
}

#[test]
fn health_and_metrics_say_what_the_node_does() {
    let (nats, emulator, config) = pairs();
    let port = free_port();
    let dir = Dir::with(&config.http(&format!("listen = \"127.0.0.1:{port}\"")));
    let node = serve(&dir);
    wait_until("a node that is ready", || (get(port, "/readyz")?.0 == 200).then_some(()));
    assert_eq!(get(port, "/healthz").unwrap().0, 200);
    assert_eq!(get(port, "/nothing").unwrap().0, 404);
    publish(&dir, &reports(&accounts("act", 5), 4));
    nats.wait_count("FETCH", 0);
    let metrics = wait_until("the metrics of 20 fetches", || {
        let (status, text) = get(port, "/metrics")?;
        assert_eq!(status, 200);
        let attempts: f64 = text
            .lines()
            .filter(|line| line.starts_with("tollgate_attempts_total{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        (attempts >= 20.0).then_some(text)
    });
    assert!(!metrics.contains("act_1"), "no account is a label\n{metrics}");
    let heard =
        metrics.lines().find_map(|line| line.strip_prefix("tollgate_wake_lag_seconds_count "));
    let heard = heard.and_then(|count| count.parse::<u64>().ok());
    assert!(heard.is_some_and(|count| count > 0), "{metrics}");
    stop(node);
    assert!(get(port, "/healthz").is_none());
    assert_eq!(emulator.counts().0, 20);
}

#[test]
fn objects_of_an_earlier_queue_do_not_pass_for_those_of_a_new_one() {
    let (nats, emulator, config) = pairs();
    let dir = Dir::with(&config);
    let node = serve(&dir);
    node.wait_says("shard started");
    let accounts = accounts("act", 3);
    publish(&dir, &reports(&accounts, 1));
    nats.wait_count("DONE", 3);
    stop(node);
    // An operator begins anew: numbers start at 1 again.
    nats.js(async |js| {
        for stream in ["FETCH", "DONE"] {
            js.delete_stream(format!("TOLLGATE_{stream}")).await.unwrap();
        }
    });
    dir.tollgate(&["setup"]).run().exits(0);
    publish(&dir, &reports(&accounts, 1));
    let node = serve(&dir);
    nats.wait_count("DONE", 3);
    stop(node);
    assert_eq!(emulator.counts().0, 6, "called again");
    assert_done_once(&nats, &accounts, 1);
    dir.assert_reports(&accounts, 1);
    assert_none_refused(&emulator);
}
