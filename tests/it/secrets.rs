//! Secrets are in no log, object, state or dead letter, and logs are what they promise to be.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::json;
use tollgate_emulator::{Emulator, Profile};

use crate::util::{Dir, decompress, fetch};

const BEARER: &str = "s3cr3t-bearer-DF5Xu0";
const HEADER: &str = "s3cr3t-header-Qq81Lp";

/// Every file below a folder, the state too.
fn all_files(folder: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files
}

#[test]
fn a_run_with_all_its_traces_shows_no_secret_and_logs_events_in_json() {
    let emulator = Emulator::start(Profile { record: true, ..Profile::default() }).unwrap();
    let dir = Dir::empty();
    let apis = |platform: &str| {
        [
            ("report", "v1/reports/x"),
            ("denied", "rude/status/401"),
            ("failing", "rude/status/500"),
            ("reset", "rude/reset"),
            ("hang", "rude/hang"),
            ("moved", "rude/redirect"),
            ("garbage", "rude/garbage"),
            ("held", "rude/429"),
        ]
        .map(|(api, path)| format!("[platforms.{platform}.apis.{api}]\npath = \"{path}\"\n"))
        .concat()
    };
    let text = format!(
        "[node]\ndata = \"data\"\n[collect]\nattempts_max = 2\ntimeouts = {{ first_byte = \"300ms\" }}\n\
         [platforms.p]\nbase_url = \"{base}\"\nheaders = {{ X-Account = \"{{account}}\" }}\n\
         auth = {{ bearer = \"env:BEARER\" }}\n{}\
         [platforms.q]\nbase_url = \"{base}\"\nheaders = {{ X-Account = \"{{account}}\" }}\n\
         auth = {{ header = \"X-Api-Key\", value = \"file:key.txt\" }}\n{}",
        apis("p"),
        apis("q"),
        base = emulator.base_url()
    );
    dir.write("tollgate.toml", &text);
    dir.write("key.txt", format!("{HEADER}\n"));
    let of_p: String =
        ["report", "denied", "failing", "reset", "hang", "moved", "garbage", "held", "no-such-api"]
            .map(|api| fetch(&format!("act_{api}"), api, "1", json!({})))
            .concat();
    dir.write("fetches.jsonl", of_p.replace("\"p\"", "\"q\"") + &of_p);
    let command = |args: &[&str]| dir.tollgate(args).env("BEARER", BEARER);
    let ran = command(&["run", "--json", "fetches.jsonl", "--log-level", "trace"]).run().exits(1);
    let check = command(&["check"]).run().exits(0);
    let dead = command(&["dead", "list", "--json"]).run().exits(0);
    let status = command(&["status"]).run().exits(0);
    assert_eq!((ran.summary().done, ran.summary().dead), (4, 14), "{ran}");

    // It was sent: the emulator saw the calls, and nothing else would have let them be made.
    assert_eq!(emulator.counts().0, ran.summary().calls);
    let secrets = [BEARER, HEADER];
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat();
    let listed = |text: &str| format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned();
    let forms: Vec<String> = secrets
        .iter()
        .flat_map(|secret| [(*secret).to_owned(), hex(secret), listed(secret)])
        .collect();
    for ran in [&ran, &check, &dead, &status] {
        for form in &forms {
            let line = ran.out() + &ran.err();
            let line = line.lines().find(|line| line.contains(form.as_str())).map(str::to_owned);
            assert_eq!(line, None, "a secret is shown");
        }
    }
    let mut seen = 0;
    for file in all_files(dir.path("data")) {
        let bytes = decompress(&file.display().to_string(), &fs::read(&file).unwrap());
        seen += bytes.len();
        for form in &forms {
            let found = bytes.windows(form.len()).any(|window| window == form.as_bytes());
            assert!(!found, "a secret is in {}", file.display());
        }
    }
    assert!(seen > 4_000, "objects and state were looked at: {seen} bytes");

    let events = ran.events();
    let level = |name: &str| events.iter().filter(|event| event["level"] == name).count();
    assert!(level("TRACE") > 0 && level("DEBUG") > 0, "the log was whole\n{ran}");
    for event in &events {
        let time: &str = event["timestamp"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{event}");
        assert!(event["message"].is_string() || event["event"].is_string(), "{event}");
    }
    let named: BTreeSet<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    for name in [
        "node_started",
        "actor_started",
        "permit",
        "hold",
        "attempt_failed",
        "fetch_done",
        "fetch_dead",
        "drain_started",
        "drained",
    ] {
        assert!(named.contains(name), "no event {name} among {named:?}");
    }
    for event in events.iter().filter(|event| event["event"] == "fetch_done") {
        for field in ["platform", "account", "api", "fetch_id"] {
            assert!(event[field].is_string(), "{field} is missing in {event}");
        }
        assert!(
            event["bytes"].is_u64() && event["calls"].is_u64() && event["seq"].is_u64(),
            "{event}"
        );
    }
    let deaths = events.iter().filter(|event| event["event"] == "fetch_dead");
    assert!(
        deaths.clone().all(|event| event["code"].as_str().is_some_and(|c| c.starts_with("TG")))
    );
    assert_eq!(deaths.count(), 14);
}

#[test]
fn a_secret_that_is_missing_or_unfit_stops_the_start_and_is_not_shown() {
    let dir = Dir::empty();
    let with = |auth: &str| {
        dir.write(
            "tollgate.toml",
            format!(
                "[platforms.p]\nbase_url = \"https://api.example.com/\"\nauth = {auth}\n\
                 [platforms.p.apis.a]\npath = \"a\"\n"
            ),
        );
        dir.tollgate(&["run"]).env("EMPTY", "").env("BROKEN", "hunter2\nX: y").run().exits(2)
    };
    with(r#"{ bearer = "env:NOT_SET_ANYWHERE" }"#).says("TG0014").says("NOT_SET_ANYWHERE");
    with(r#"{ bearer = "env:EMPTY" }"#).says("TG0014");
    assert!(!with(r#"{ bearer = "env:BROKEN" }"#).says("TG0014").err().contains("hunter2"));
    with(r#"{ header = "X-Key", value = "file:nowhere.txt" }"#).says("TG0014").says("nowhere.txt");
    assert!(!with(r#"{ bearer = "hunter2hunter2" }"#).says("TG0013").err().contains("hunter2"));
}
