//! Fetches that are wrong or strange: dead with their code, or carried exactly; none stops those behind it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tollgate_emulator::{AccountFrom, Emulator, Profile, expected_body};

use crate::util::{Config, Dir, fetch};

fn emulator(account_from: AccountFrom) -> Emulator {
    Emulator::start(Profile { account_from, record: true, ..Profile::default() }).unwrap()
}

fn by_header() -> Emulator {
    emulator(AccountFrom::Header("x-account".into()))
}

/// A line that is no fetch that may be called, and the code it dies of.
fn bad_lines() -> Vec<(&'static str, Vec<u8>)> {
    let of = |more: Value| {
        let mut fetch =
            json!({ "platform": "p", "account": "a", "api": "report", "params": { "date": "d" } });
        fetch.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fetch.to_string().into_bytes()
    };
    let without = |field: &str| {
        let mut fetch =
            json!({ "platform": "p", "account": "a", "api": "report", "params": { "date": "d" } });
        fetch.as_object_mut().unwrap().remove(field);
        fetch.to_string().into_bytes()
    };
    let labels: serde_json::Map<String, Value> =
        (0..33).map(|n| (format!("label_{n}"), json!("x"))).collect();
    let date = |value: Value| of(json!({ "params": { "date": value } }));
    vec![
        ("TG0101", b"this is not JSON".to_vec()),
        ("TG0101", b"{\"platform\":\"p\"".to_vec()),
        ("TG0101", b"{} {}".to_vec()),
        ("TG0101", "[".repeat(10_000).into_bytes()),
        ("TG0101", b"[1, 2]".to_vec()),
        ("TG0101", b"null".to_vec()),
        ("TG0116", b"{\"platform\":\"p\",\"account\":\"\xff\xfe\"}".to_vec()),
        ("TG0102", format!("{{\"id\":\"{}\"}}", "x".repeat(2 << 20)).into_bytes()),
        ("TG0102", date(json!("x".repeat(300_000)))),
        ("TG0103", of(json!({ "not_befor": "2026-01-01T00:00:00Z" }))),
        ("TG0104", of(json!({ "account": 7 }))),
        ("TG0104", of(json!({ "not_before": "soon" }))),
        ("TG0104", of(json!({ "params": ["d"] }))),
        ("TG0104", of(json!({ "priority": "urgent" }))),
        ("TG0105", of(json!({ "platform": "nowhere" }))),
        ("TG0106", of(json!({ "api": "nothing" }))),
        ("TG0107", without("platform")),
        ("TG0107", without("account")),
        ("TG0107", without("api")),
        ("TG0108", of(json!({ "account": "" }))),
        ("TG0108", of(json!({ "account": "x".repeat(257) }))),
        ("TG0109", of(json!({ "id": "" }))),
        ("TG0109", of(json!({ "id": "x".repeat(129) }))),
        ("TG0110", without("params")),
        ("TG0111", date(json!({ "from": 1 }))),
        ("TG0112", of(json!({ "params": { "date": "d", "dta": 1 } }))),
        ("TG0113", of(json!({ "api": "hosted", "params": { "host": "evil.example" } }))),
        (
            "TG0113",
            of(json!({ "api": "hosted", "params": { "host": "127.0.0.1:1@evil.example" } })),
        ),
        (
            "TG0114",
            of(json!({ "not_before": "2026-02-02T00:00:00Z", "deadline": "2026-02-01T00:00:00Z" })),
        ),
        ("TG0104", of(json!({ "fresh_for": "10" }))),
        ("TG0117", of(json!({ "labels": labels }))),
        ("TG0118", of(json!({ "api": "path", "params": { "part": ".." } }))),
        ("TG0118", of(json!({ "api": "path", "params": { "part": "." } }))),
        ("TG0118", of(json!({ "api": "path", "params": { "part": "" } }))),
        ("TG0119", of(json!({ "api": "header", "params": { "value": "a\r\nX-Account: b" } }))),
        ("TG0119", of(json!({ "api": "header", "params": { "value": "a\u{0}b" } }))),
        ("TG0119", of(json!({ "account": "a\nX-Account: b" }))),
        ("TG0120", date(json!("x".repeat(20_000)))),
    ]
}

fn config(emulator: &Emulator) -> Config {
    Config::of(emulator)
        .report()
        .platform(r#"allowed_hosts = ["other.example"]"#)
        .api("path", "path = \"v1/reports/{part}\"")
        .api("header", "path = \"v1/reports/h\"\nheaders = { X-Value = \"{value}\" }")
        .api("hosted", "path = \"http://{host}/v1/reports/x\"")
}

#[test]
fn bad_lines_die_of_their_code_and_nothing_behind_them_waits() {
    let emulator = by_header();
    let dir = Dir::with(&config(&emulator));
    let bad = bad_lines();
    let good = |n: usize| {
        let id = format!("good_{n}");
        fetch(&format!("act_{}", n % 7), "report", &id, json!({ "params": { "date": n } }))
    };
    let mut lines = Vec::new();
    for (n, (_, line)) in bad.iter().enumerate() {
        lines.extend_from_slice(line);
        lines.push(b'\n');
        lines.extend_from_slice(good(n).as_bytes());
    }
    dir.write("fetches.jsonl", &lines);
    let run = || dir.tollgate(&["run", "--json", "fetches.jsonl"]).run().exits(1);
    let ran = run();
    let summary = ran.summary();
    let count = bad.len() as u64;
    assert_eq!((summary.fetches, summary.done, summary.dead), (2 * count, count, count), "{ran}");
    assert_eq!((summary.calls, emulator.counts().0), (count, count), "{ran}");
    assert_eq!(emulator.score().malformed, 0);
    assert_eq!(dir.collected().len() as u64, count);

    let dead = dir.dead();
    assert_eq!(dead.len(), bad.len());
    let mut wrong = Vec::new();
    for (n, (code, line)) in bad.iter().enumerate() {
        // Each says where it came from: odd lines are bad ones.
        let source = format!("fetches.jsonl:{}", 2 * n + 1);
        let found = dead.iter().find(|dead| dead.source.as_deref() == Some(&source));
        match found {
            Some(dead) if dead.code == *code => {
                assert!(!dead.reason.is_empty() && dead.reason.len() < 400, "{dead:?}");
                assert_eq!((dead.attempts, dead.http_status), (0, None));
                assert!(dead.fetch.is_some() != dead.raw.is_some(), "{dead:?}");
                assert!(dead.raw.as_ref().is_none_or(|raw| raw.len() <= 2048 * 3));
            }
            _ => {
                let line = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
                let found = found.map(|dead| (&dead.code, &dead.reason));
                wrong.push(format!("wanted {code}, found {found:?} for {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // A second run finds the same letters, and no new ones.
    let again = run().summary();
    assert_eq!((again.done, again.dead, again.calls), (count, count, 0));
    assert_eq!(dir.dead().len(), bad.len());
}

/// Accounts that are strange and allowed.
fn strange_accounts() -> Vec<String> {
    let mut strange: Vec<String> = [
        "../../x",
        "..",
        ".",
        "a.b",
        "*",
        ">",
        "🦀🦀",
        "광고주 계정",
        "a/b",
        "a\\b",
        "a b",
        "%2e%2e%2f",
        "a%2Eb",
        "act_1?x=1&y=2#z",
        "C:\\x",
        "~root",
        "$HOME",
        "`id`",
        "'; drop table--",
        "com.shop.app",
        "123-456-7890",
        "state",
        "_manifest.json",
        "NUL",
        "A",
        "a",
        "é",
        "e\u{301}",
        "a:b",
        "{account}",
        "a~0123456789abcdef0123456789abcdef",
        "-",
        "--help",
        "act_1.high",
        "x#1",
    ]
    .map(String::from)
    .to_vec();
    strange.push("%".repeat(256));
    strange.push("x".repeat(256));
    strange.push("광".repeat(85));
    strange
}

/// Collects one fetch of each strange account and checks that the provider was told exactly its name, and
/// that its object lies in a folder of its own.
fn carries_exactly(emulator: &Emulator, config: &Config, accounts: &[String], endpoint: &str) {
    let dir = Dir::with(config);
    let fetches: String = accounts
        .iter()
        .map(|account| fetch(account, "report", "1", json!({ "params": { "date": account } })))
        .collect();
    let ran = dir.run(&fetches).exits(0);
    assert_eq!(ran.summary().calls, accounts.len() as u64, "{ran}");

    let told: BTreeSet<String> = emulator.calls().iter().map(|c| c.account.to_string()).collect();
    let wanted: BTreeSet<String> = accounts.iter().cloned().collect();
    let lost: Vec<_> = wanted.difference(&told).collect();
    let made_up: Vec<_> = told.difference(&wanted).collect();
    assert!(lost.is_empty() && made_up.is_empty(), "not told: {lost:?}; made up: {made_up:?}");
    for call in emulator.calls() {
        assert_eq!(&*call.endpoint, endpoint, "{call:?}");
    }

    let collected = dir.collected();
    assert_eq!(collected.len(), accounts.len());
    let mut folders = BTreeSet::new();
    for ((account, _, _), one) in &collected {
        let key = &one.manifest.done.objects[0].key;
        let parts: Vec<&str> = key.split('/').collect();
        assert_eq!(parts.len(), 6, "{key}");
        assert_eq!(
            (parts[0], parts[1], parts[4], parts[5]),
            ("p", "report", "1", "00001.json.zst")
        );
        assert!(parts[2] != "." && parts[2] != ".." && parts[2].len() <= 200, "{key}");
        assert!(folders.insert(parts[2].to_owned()), "{account} shares its folder");
        let calls = emulator.calls();
        let call = calls.iter().find(|call| *call.account == **account).unwrap();
        let kind = endpoint.rsplit('/').next().unwrap();
        assert!(one.body == expected_body(account, kind, &call.query, 5), "{account}");
    }
    // Nothing beside the data folder but what the test wrote itself.
    let outside: Vec<String> = dir
        .files(".")
        .into_iter()
        .map(|file| file.trim_start_matches("./").to_owned())
        .filter(|file| !file.starts_with("data/"))
        .collect();
    assert_eq!(outside, ["fetches.jsonl", "tollgate.toml"]);

    let again = dir.run(&fetches).exits(0).summary();
    assert_eq!((again.done, again.calls), (accounts.len() as u64, 0));
}

#[test]
fn strange_accounts_are_carried_exactly_in_a_header() {
    let emulator = by_header();
    carries_exactly(
        &emulator,
        &Config::of(&emulator).report(),
        &strange_accounts(),
        "/v1/reports/daily",
    );
}

#[test]
fn strange_accounts_are_carried_exactly_in_a_query() {
    let emulator = emulator(AccountFrom::Query("account".into()));
    let config = Config::at(&emulator.base_url()).api(
        "report",
        "path = \"v1/reports/daily\"\nquery = { account = \"{account}\", date = \"{date}\" }",
    );
    let mut accounts = strange_accounts();
    // A query can carry what a header cannot.
    accounts.extend(
        ["a\r\nb", "a\u{0}b", "a\tb", "\u{7f}", "\u{1b}[31m", " a ", "a\u{a0}"].map(String::from),
    );
    carries_exactly(&emulator, &config, &accounts, "/v1/reports/daily");
}

#[test]
fn strange_accounts_are_carried_exactly_in_a_path() {
    let emulator = emulator(AccountFrom::Path);
    let config = Config::at(&emulator.base_url()).api(
        "report",
        "path = \"v1/accounts/{account}/reports/daily\"\nquery = { date = \"{date}\" }",
    );
    let mut accounts = strange_accounts();
    // A part of a path cannot be these; they die, see the bad lines.
    accounts.retain(|account| ![".", ".."].contains(&account.as_str()));
    carries_exactly(&emulator, &config, &accounts, "/v1/reports/daily");
}

#[test]
fn strange_parameters_and_ids_stay_where_they_belong() {
    let emulator = by_header();
    let config = Config::of(&emulator)
        .store(r#"key = "{platform}/{api}/{account}/{params.date}/{id}/{page}.{ext}""#)
        .report();
    let dir = Dir::with(&config);
    let strange = strange_accounts();
    let values: Vec<&String> = strange.iter().filter(|value| value.len() <= 128).collect();
    let fetches: String = values
        .iter()
        .map(|value| fetch("a", "report", value, json!({ "params": { "date": value } })))
        .collect();
    dir.run(&fetches).exits(0);
    let collected = dir.collected();
    assert_eq!(collected.len(), values.len());
    for ((_, _, id), one) in &collected {
        let key = &one.manifest.done.objects[0].key;
        assert_eq!(key.split('/').count(), 6, "{key}");
        assert_eq!(one.manifest.params["date"], json!(id));
        assert!(Path::new(key).components().count() == 6, "{key}");
    }
    let told: BTreeSet<String> = emulator
        .calls()
        .iter()
        .map(|call| {
            let url = format!("http://x/?{}", call.query);
            let url = reqwest::Url::parse(&url).unwrap();
            url.query_pairs().find(|(name, _)| name == "date").unwrap().1.into_owned()
        })
        .collect();
    let wanted: BTreeSet<String> = values.into_iter().cloned().collect();
    assert_eq!(told, wanted);
}
