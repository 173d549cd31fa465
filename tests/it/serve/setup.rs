//! `tollgate setup`, and what it says of servers that cannot be used.

use std::time::{Duration, Instant};

use super::{emulator, serve};
use crate::util::{Config, Dir, Nats, reports};

const STREAMS: [&str; 11] = [
    "TOLLGATE_FETCH",
    "TOLLGATE_LEDGER",
    "TOLLGATE_LATER",
    "TOLLGATE_PROGRESS",
    "TOLLGATE_DONE",
    "TOLLGATE_DEAD",
    "KV_TOLLGATE_OWN",
    "KV_TOLLGATE_HOLDS",
    "KV_TOLLGATE_CONF",
    "KV_TOLLGATE_ONCE",
    "KV_TOLLGATE_TOKENS",
];

/// A configuration with nothing but the server, as on a machine that only publishes.
fn only_nats(nats: &Nats, more: &str) -> Dir {
    let dir = Dir::empty();
    dir.write("tollgate.toml", format!("[nats]\nurl = \"{}\"\n{more}\n", nats.server.url()));
    dir
}

fn lines_with(out: &str, what: &str) -> Vec<String> {
    let lines = out.lines().filter_map(|line| line.strip_suffix(what));
    lines.map(str::to_owned).collect()
}

#[test]
fn setup_creates_the_streams_once_and_repairs_what_was_changed() {
    let nats = Nats::start();
    let dir = only_nats(&nats, "");
    let setup = |args: &[&str]| dir.tollgate(&[&["setup"], args].concat()).run();
    setup(&["--dry-run"]).exits(1).says("TG0407").says("TOLLGATE_FETCH").says("tollgate setup");
    let none = nats.js(async |js| js.query_account().await.unwrap().streams);
    assert_eq!(none, 0, "a dry run made a stream");

    let out = setup(&[]).exits(0).out();
    assert_eq!(lines_with(&out, ": created"), STREAMS, "{out}");
    let out = setup(&[]).exits(0).out();
    assert_eq!(lines_with(&out, ": as it should be"), STREAMS, "{out}");
    setup(&["--dry-run"]).exits(0);

    // One is missing, one is otherwise; the messages of the latter stay.
    nats.publish("tollgate.fetch.p.a.report", &[], "{}");
    nats.js(async |js| {
        js.delete_stream("TOLLGATE_DEAD").await.unwrap();
        let mut config =
            js.get_stream("TOLLGATE_FETCH").await.unwrap().cached_info().config.clone();
        config.duplicate_window = Duration::from_secs(5);
        config.description = Some("mine".into());
        js.update_stream(config).await.unwrap();
    });
    setup(&["--dry-run"]).exits(1).says("TG0406").says("duplicate_window");
    let out = setup(&[]).exits(0).out();
    assert_eq!(lines_with(&out, ": created"), ["TOLLGATE_DEAD"], "{out}");
    let updated = out.lines().find(|line| line.starts_with("TOLLGATE_FETCH: updated")).unwrap();
    assert!(updated.contains("duplicate_window 5s -> 120s"), "{out}");
    assert_eq!(nats.count("FETCH"), 1);
    setup(&["--dry-run"]).exits(0);
}

#[test]
fn two_prefixes_share_a_server_and_nothing_else() {
    let nats = Nats::start();
    only_nats(&nats, "").tollgate(&["setup"]).run().exits(0);
    let other = only_nats(&nats, "prefix = \"other-1\"");
    let out = other.tollgate(&["setup"]).run().exits(0).out();
    assert!(out.contains("OTHER-1_FETCH: created") && !out.contains("TOLLGATE"), "{out}");
    other.write("f.jsonl", r#"{"id":"1","platform":"p","account":"a","api":"report"}"#);
    other.tollgate(&["publish", "f.jsonl"]).run().exits(0);
    assert_eq!(nats.count("FETCH"), 0);
    let stored = nats
        .js(async |js| js.get_stream("OTHER-1_FETCH").await.unwrap().cached_info().state.messages);
    assert_eq!(stored, 1);
}

#[test]
fn every_command_says_soon_that_no_server_is_there() {
    let mut nats = Nats::start();
    let dir = Dir::with(&Config::of(&emulator(Vec::new(), 1)).on(&nats).report());
    nats.server.kill();
    dir.write("f.jsonl", "{}");
    for args in [
        &["setup"][..],
        &["setup", "--dry-run"],
        &["publish", "f.jsonl"],
        &["pause", "p"],
        &["resume", "p"],
        &["status"],
        &["dead", "list"],
    ] {
        let ran = dir.tollgate(args).run().exits(2).says("TG0401").says(&nats.server.url());
        assert!(ran.took < Duration::from_secs(6), "{ran}");
        assert_eq!(ran.out(), "");
    }
}

#[test]
fn a_server_without_jetstream_is_told_as_that() {
    let mut nats = Nats::start();
    let jetstream_off = |config: String| {
        let mut lines: Vec<&str> = config.lines().collect();
        let from = lines.iter().position(|line| line.starts_with("jetstream")).unwrap();
        let to = from + lines[from..].iter().position(|line| line.starts_with('}')).unwrap();
        lines.drain(from..=to);
        lines.join("\n")
    };
    nats.reconfigure(jetstream_off);
    let dir = only_nats(&nats, "");
    let ran = dir.tollgate(&["setup"]).run().exits(2).says("TG0403").says("-js");
    assert!(ran.took < Duration::from_secs(6), "{ran}");
    dir.write("f.jsonl", r#"{"id":"1","platform":"p","account":"a","api":"report"}"#);
    dir.tollgate(&["publish", "f.jsonl"]).run().exits(2).says("TG0403");
}

#[test]
fn a_server_that_wants_a_password_is_told_as_that() {
    let nats = Nats::with("", "authorization { user: a, password: b }");
    let dir = only_nats(&nats, "");
    let ran = dir.tollgate(&["setup"]).run().exits(2).says("TG0404").says("nats.creds");
    assert!(ran.took < Duration::from_secs(6), "{ran}");
    // A node does not wait for what waiting does not mend.
    let dir = Dir::with(&Config::of(&emulator(Vec::new(), 1)).on(&nats).report());
    let ran = serve(&dir).wait().exits(2).says("TG0404");
    assert!(ran.took < Duration::from_secs(6), "{ran}");
}

#[test]
fn a_right_that_is_missing_is_told_with_its_subject() {
    let denied = "$JS.API.STREAM.CREATE.TOLLGATE_LATER";
    let nats = Nats::with(
        "",
        &format!(
            "authorization {{ users: [ {{ user: u, password: p, permissions: {{ publish: {{ deny: \"{denied}\" }} }} }} ] }}\n\
             no_auth_user: u"
        ),
    );
    let ran = only_nats(&nats, "").tollgate(&["setup"]).run().exits(2).says("TG0404").says(denied);
    assert!(ran.out().is_empty(), "{ran}");
    assert!(ran.took < Duration::from_secs(8), "{ran}");
}

#[test]
fn a_server_with_too_little_room_is_told_as_that() {
    let nats = Nats::with("max_file_store: 10MB", "");
    let dir = only_nats(&nats, "fetch_bytes_max = \"1GiB\"");
    dir.tollgate(&["setup"]).run().exits(2).says("TG0405").says("TOLLGATE_FETCH").says("max_file");
    // What fits is made.
    only_nats(&nats, "fetch_bytes_max = \"5MiB\"").tollgate(&["setup"]).run().exits(0);
}

#[test]
fn a_node_that_may_not_make_streams_says_which_is_missing_and_ends() {
    let nats = Nats::start();
    let dir =
        Dir::with(&Config::of(&emulator(Vec::new(), 1)).on(&nats).nats("setup = false").report());
    let asked = Instant::now();
    let ran = dir.tollgate(&["serve"]).run().exits(2).says("TG0407").says("TOLLGATE_FETCH");
    assert!(asked.elapsed() < Duration::from_secs(5), "{ran}");
    assert_eq!(nats.js(async |js| js.query_account().await.unwrap().streams), 0);
    // Whoever asks or publishes is told the same.
    dir.write("f.jsonl", reports(&["a".to_owned()], 1));
    let ran = dir.tollgate(&["publish", "--json", "f.jsonl"]).run().exits(2).says("TG0407");
    assert_eq!((&ran.json()["new"], &ran.json()["unconfirmed"]), (&0.into(), &1.into()), "{ran}");
    for args in [&["status"][..], &["dead", "list"], &["pause", "p"], &["pause"]] {
        dir.tollgate(args).run().exits(2).says("TG0407").says("tollgate setup");
    }
    // Once they are there it works.
    dir.tollgate(&["setup"]).run().exits(0);
    let node = serve(&dir);
    node.wait_says("shard started");
    super::stop(node);
}
