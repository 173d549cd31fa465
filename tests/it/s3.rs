//! The binary with its objects in a bucket, against a real S3 server that goes away, comes back and is slow.

use std::time::Duration;

use serde_json::json;
use tollgate_emulator::{Emulator, Latency, Profile};

use crate::s3_server::{BUCKET, KEY_ID, S3Server, SECRET};
use crate::util::{
    Config, Dir, Tollgate, accounts, assert_none_refused, fetch, reports, wait_until,
};

fn emulator() -> Emulator {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(20));
    Emulator::start(Profile { latency, record: true, ..Profile::default() }).unwrap()
}

/// A configuration whose objects go into the bucket.
fn config(emulator: &Emulator, endpoint: &str) -> Config {
    Config::of(emulator)
        .store(&format!("url = \"s3://{BUCKET}\""))
        .store(&format!("endpoint = \"{endpoint}\"\nallow_http = true"))
        .store("access_key_id = \"env:ID\"\nsecret_access_key = \"env:KEY\"")
}

fn run(dir: &Dir) -> Tollgate {
    dir.tollgate(&["run", "--json", "fetches.jsonl"]).env("ID", KEY_ID).env("KEY", SECRET)
}

/// Copies the bucket into the folder, where it is checked as any store is.
fn fetch_bucket(dir: &Dir, server: &S3Server) {
    let (from, to) = (server.files(), dir.path("bucket"));
    let done = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(done.unwrap().success());
}

#[test]
fn a_run_into_a_bucket_ends_whole_through_a_storm_and_a_server_that_was_away() {
    let (emulator, mut server) = (emulator(), S3Server::start());
    let config = config(&emulator, &server.endpoint())
        .limit(r#"gap = { per = ["account"], every = "200ms" }"#)
        .report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 20);
    dir.write("fetches.jsonl", reports(&accounts, 15));
    server.trouble.lock().unwrap().slow_down_one_in = 10;
    let running = run(&dir).start();
    wait_until("the first objects", || (server.seen("PUT") > 40).then_some(()));
    let before = emulator.counts().0;
    server.go_away();
    running.wait_says("store_away");
    // Permits that were given already.
    std::thread::sleep(Duration::from_millis(300));
    let called = emulator.counts().0;
    assert!(called - before < 200, "{} calls until it was noticed", called - before);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(emulator.counts().0, called, "no calls while there is no place for answers");
    server.come_back();
    running.wait_says("store_back");
    let ran = running.wait().exits(0);
    let summary = ran.summary();
    assert_eq!((summary.done, summary.dead, summary.left), (300, 0, 0), "{ran}");
    assert_none_refused(&emulator);
    assert_eq!(emulator.counts().0, 300, "no call was made twice: {ran}");
    fetch_bucket(&dir, &server);
    let collected = dir.collected_in("bucket");
    assert_eq!(collected.len(), 300, "{ran}");
    assert!(!ran.err().contains(SECRET), "{ran}");
}

#[test]
fn wrong_keys_and_a_store_that_is_not_there_cost_no_call() {
    let (emulator, server) = (emulator(), S3Server::start());
    let dir = Dir::with(&config(&emulator, &server.endpoint()).report());
    dir.write("fetches.jsonl", reports(&accounts("act", 3), 2));
    let ran = run(&dir).env("KEY", "another").run();
    assert_ne!(ran.code, Some(0), "{ran}");
    let ran = ran.says("TG0304").says("the store does not allow it").says("SignatureDoesNotMatch");
    assert!(!ran.err().contains("panicked"), "{ran}");

    let nowhere = Dir::with(&config(&emulator, "http://127.0.0.1:9").report());
    nowhere.write("fetches.jsonl", reports(&accounts("act", 3), 2));
    let ran = run(&nowhere).run();
    assert_ne!(ran.code, Some(0), "{ran}");
    let _ran = ran.says("TG0304").says("the store is away");
    assert_eq!(emulator.counts().0, 0);
}

#[test]
fn an_upload_that_a_kill_left_is_aborted_a_day_later_and_the_fetch_is_made_again() {
    let (emulator, server) = (emulator(), S3Server::start());
    let api = |path: &str, query: &str| {
        config(&emulator, &server.endpoint())
            .store("compression = \"none\"")
            .platform(r#"lost_call = "1s""#)
            .api("big", &format!("path = \"{path}\"\nquery = {query}\nformat = \"binary\""))
    };
    // Two parts and a piece, then nothing: it is killed with parts there and more to come.
    let dir = Dir::with(&api("rude/stall", "{ after = 12000000 }"));
    dir.write("fetches.jsonl", fetch("a", "big", "1", json!({})));
    let running = run(&dir).start();
    wait_until("two parts", || (server.parts().len() >= 2).then_some(()));
    running.kill();
    assert_eq!(server.uploads(), 1);
    server.age_uploads(25);
    dir.write("tollgate.toml", api("rude/big", "{ bytes = 12000000 }").text());
    let ran = run(&dir).run().exits(0);
    assert_eq!(server.uploads(), 0, "{ran}");
    assert_eq!((server.seen("DELETE abort"), server.seen("POST complete")), (1, 1), "{ran}");
    assert_eq!(server.parts(), [""; 0], "{ran}");
    assert!(ran.err().contains("leftovers_removed"), "{ran}");
    fetch_bucket(&dir, &server);
    assert_eq!(dir.collected_in("bucket").len(), 1);
}

/// Bodies of four parts that are on their way, and small ones.
fn bodies(emulator: &Emulator, server: &S3Server) -> Dir {
    let config = config(emulator, &server.endpoint())
        .store("compression = \"none\"\nspool_bytes_max = \"1GiB\"")
        .collect("drain = \"2s\"")
        .platform(r#"lost_call = "1s""#)
        .limit(r#"gap = { per = ["account"], every = "500ms" }"#)
        .report()
        .api("big", "path = \"rude/big\"\nquery = { bytes = 17000000 }\nformat = \"binary\"");
    let dir = Dir::with(&config);
    let big: String = (0..6).map(|i| fetch(&format!("big-{i}"), "big", "1", json!({}))).collect();
    dir.write("fetches.jsonl", big + &reports(&accounts("act", 5), 20));
    dir
}

/// Longer than any operation is tried.
const AWAY: Duration = Duration::from_secs(25);

#[test]
fn a_store_that_goes_in_the_middle_of_bodies_and_comes_back_costs_no_second_call() {
    let (emulator, mut server) = (emulator(), S3Server::start());
    let dir = bodies(&emulator, &server);
    let running = run(&dir).start();
    wait_until("parts", || (server.seen("PUT part") >= 4).then_some(()));
    server.go_away();
    running.wait_says("store_away");
    std::thread::sleep(AWAY);
    assert!(dir.path("data/state/spool").is_dir(), "it is used");
    assert_eq!(dir.files("data/state/spool"), [""; 0], "nothing in it has a name");
    let called = emulator.counts().0;
    server.come_back();
    running.wait_says("store_back");
    let ran = running.wait().exits(0);
    let summary = ran.summary();
    assert_eq!((summary.done, summary.dead, summary.left), (106, 0, 0), "{ran}");
    assert!((6..106).contains(&called), "{called} calls before it was back");
    assert_eq!(emulator.counts().0, 106, "no call was made twice: {ran}");
    assert!(!ran.err().contains("spool_refused"), "{ran}");
    fetch_bucket(&dir, &server);
    assert_eq!(dir.collected_in("bucket").len(), 106);
}

#[test]
fn a_node_that_ends_while_answers_wait_on_its_disk_calls_for_them_again() {
    for signal in ["KILL", "TERM"] {
        let (emulator, mut server) = (emulator(), S3Server::start());
        let dir = bodies(&emulator, &server);
        let mut running = run(&dir).start();
        wait_until("parts", || (server.seen("PUT part") >= 4).then_some(()));
        server.go_away();
        running.wait_says("store_away");
        std::thread::sleep(AWAY);
        assert!(running.is_running());
        running.signal(signal);
        // In time: a drain does not wait for the store.
        let began = std::time::Instant::now();
        drop(running.wait());
        assert!(began.elapsed() < Duration::from_secs(15), "{signal}");
        server.come_back();
        let ran = run(&dir).run().exits(0);
        assert_eq!((ran.summary().dead, ran.summary().left), (0, 0), "{ran}");
        fetch_bucket(&dir, &server);
        assert_eq!(dir.collected_in("bucket").len(), 106, "{signal}: {ran}");
    }
}
