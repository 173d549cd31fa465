//! The command line: how it ends, and what it says about mistakes.

use serde_json::{Value, json};
use tollgate_emulator::{Emulator, Profile};

use crate::util::{Config, Dir};

const ALL_WRONG: &str = r#"[node]
dta = "data"

[store]
url = "ftp://host/folder"
key = "{id}"

[collect]
concurrency = 0
attempts_max = "many"
buffer_bytes_max = "1MiB"

[platforms.p]
base_url = "not a url"
headers = { Authorization = "Bearer abcdefgh1234" }
auth = { bearer = "hunter2-inline" }

[platforms.p.limits]
zero = { per = ["account"], max = 0, in = "1s" }
day = { per = ["account"], max = 5, in = "1d" }
bare = { per = ["account"], every = 5 }
rate = { per = ["account"], rate = "50", burst = 100 }

[platforms.p.apis.report]
pth = "v1"
query = { date = "{date|nofilter}" }

[platforms.UPPER]
base_url = "http://127.0.0.1:1/"
"#;

fn emulator() -> Emulator {
    Emulator::start(Profile { record: true, ..Profile::default() }).unwrap()
}

#[test]
fn init_writes_a_file_that_check_accepts() {
    let dir = Dir::empty();
    dir.tollgate(&["init"]).run().exits(0).says("tollgate check");
    let text = std::fs::read_to_string(dir.path("tollgate.toml")).unwrap();
    assert_eq!(dir.tollgate(&["init", "-"]).run().exits(0).out(), text);
    dir.tollgate(&["init"]).run().exits(2).says("--force");
    dir.tollgate(&["init", "--force"]).run().exits(0);
    dir.tollgate(&["init", "other.toml"]).run().exits(0);
    assert_eq!(std::fs::read_to_string(dir.path("other.toml")).unwrap(), text);

    let check = |args: &[&str]| dir.tollgate(args).env("EXAMPLE_TOKEN", "s3cr3t-0f-1t").run();
    let ran = check(&["check"]).exits(0);
    let out = ran.out();
    for text in ["platform example", "https://api.example.com/v1/creatives/", "Bearer ***"] {
        assert!(out.contains(text), "{text} is not in\n{out}");
    }
    assert!(!(out + &ran.err()).contains("s3cr3t"));
    let json = check(&["check", "--json", "--config", "other.toml"]).exits(0).json();
    assert_eq!((&json["ok"], &json["mistakes"]), (&json!(true), &json!([])));
    // Without the secret that it names it cannot work.
    dir.tollgate(&["check"]).run().exits(2).says("TG0014").says("EXAMPLE_TOKEN");
}

#[test]
fn check_lists_every_mistake_at_once_with_code_key_and_line() {
    let dir = Dir::empty();
    dir.write("tollgate.toml", ALL_WRONG);
    let ran = dir.tollgate(&["check", "--json"]).run().exits(2);
    let json = ran.json();
    assert_eq!(json["ok"], false);
    let line_of =
        |start: &str| ALL_WRONG.lines().position(|line| line.starts_with(start)).unwrap() + 1;
    let wanted = [
        ("TG0003", "node.dta", "dta"),
        ("TG0017", "store.url", "url"),
        ("TG0018", "store.key", "key"),
        ("TG0006", "collect.concurrency", "concurrency"),
        ("TG0005", "collect.attempts_max", "attempts_max"),
        ("TG0006", "collect.buffer_bytes_max", "buffer_bytes_max"),
        ("TG0019", "platforms.p.base_url", "base_url = \"not"),
        ("TG0013", "platforms.p.headers.Authorization", "headers"),
        ("TG0013", "platforms.p.auth.bearer", "auth"),
        ("TG0009", "platforms.p.limits.zero.max", "zero"),
        ("TG0008", "platforms.p.limits.day.in", "day"),
        ("TG0007", "platforms.p.limits.bare.every", "bare"),
        ("TG0006", "platforms.p.limits.rate.rate", "rate"),
        ("TG0003", "platforms.p.apis.report.pth", "pth"),
        ("TG0004", "platforms.p.apis.report.path", "[platforms.p.apis"),
        ("TG0011", "platforms.p.apis.report.query.date", "query"),
        ("TG0020", "platforms.UPPER", "[platforms.UPPER"),
    ];
    let mistakes = json["mistakes"].as_array().unwrap();
    let told = |of: &(&str, &str, &str)| {
        mistakes.iter().any(|mistake| {
            mistake["code"] == of.0
                && mistake["key"] == of.1
                && mistake["line"] == line_of(of.2)
                && mistake["file"] == "tollgate.toml"
                && !mistake["message"].as_str().unwrap().is_empty()
        })
    };
    let missing: Vec<_> = wanted.iter().filter(|of| !told(of)).collect();
    let all: Vec<String> = mistakes.iter().map(Value::to_string).collect();
    assert!(missing.is_empty(), "not told: {missing:?}\n{}", all.join("\n"));
    assert!(mistakes.len() < wanted.len() + 8, "{}", all.join("\n"));

    // The same in words, for `run` as well, which begins nothing.
    for command in [&["check"][..], &["run", "x.jsonl"], &["status"], &["dead", "list"]] {
        let ran = dir.tollgate(command).run().exits(2);
        for (code, key, _) in wanted {
            assert!(ran.err().contains(key) && ran.err().contains(code), "{key} {code}\n{ran}");
        }
        assert!(!ran.err().contains("hunter2") && !ran.err().contains("abcdefgh"), "{ran}");
        assert_eq!(ran.out(), "");
    }
    assert!(dir.files(".").iter().all(|file| file.ends_with("tollgate.toml")));
}

#[test]
fn a_configuration_that_is_not_there_or_not_toml_is_told_so() {
    let dir = Dir::empty();
    dir.tollgate(&["check"]).run().exits(2).says("TG0002").says("tollgate.toml");
    dir.tollgate(&["run"]).run().exits(2).says("tollgate init");
    dir.write("tollgate.toml", "[node\nname = 3");
    dir.tollgate(&["check"]).run().exits(2).says("TG0001").says("tollgate.toml:1");
    dir.write("tollgate.toml", b"\xff\xfe");
    dir.tollgate(&["check"]).run().exits(2);
    dir.write("tollgate.toml", "");
    dir.tollgate(&["check"]).run().exits(2).says("TG0021");
}

#[test]
fn the_environment_goes_over_the_file() {
    let emulator = emulator();
    let dir = Dir::with(&Config::of(&emulator).collect("concurrency = 3").report());
    let out = dir.tollgate(&["check"]).run().exits(0).out();
    assert!(out.contains("at most 3 calls in flight"), "{out}");
    let over =
        |value: &str| dir.tollgate(&["check"]).env("TOLLGATE__COLLECT__CONCURRENCY", value).run();
    assert!(over("7").exits(0).out().contains("at most 7 calls in flight"));
    over("none").exits(2).says("the environment").says("collect.concurrency");
    let ran = dir.tollgate(&["check"]).env("TOLLGATE__COLECT__CONCURRENCY", "7").run();
    ran.exits(2).says("TG0003");
}

#[test]
fn every_code_has_a_page() {
    let dir = Dir::empty();
    let all = dir.tollgate(&["explain"]).run().exits(0).out();
    assert!(all.lines().count() > 50, "{all}");
    for line in all.lines() {
        let (code, title) = line.split_once("  ").unwrap();
        let page = dir.tollgate(&["explain", code]).run().exits(0).out();
        assert!(page.starts_with(&format!("# {code}: {title}\n")), "{page}");
        assert!(page.contains("What to do:"), "{page}");
        assert!(page.len() < 2_000, "{page}");
    }
    let lower = dir.tollgate(&["explain", "tg0301"]).run().exits(0).out();
    assert!(lower.starts_with("# TG0301"));
    dir.tollgate(&["explain", "TG9999"]).run().exits(2).says("TG9999");
}

#[test]
fn help_is_no_failure_and_what_is_not_understood_is() {
    let dir = Dir::empty();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["dead", "--help"],
        &["dead", "list", "--help"],
        &["help", "check"],
        &["--version"],
    ] {
        let ran = dir.tollgate(args).run().exits(0);
        assert!(!ran.out().is_empty() && ran.err().is_empty(), "{ran}");
    }
    let help = dir.tollgate(&["--help"]).run().out();
    for command in ["demo", "run", "init", "check", "status", "dead", "explain"] {
        assert!(help.contains(&format!("  {command} ")), "{command} is not in\n{help}");
    }
    for args in [
        &[][..],
        &["rnu"],
        &["run", "--jsno"],
        &["dead"],
        &["dead", "drop"],
        &["status", "--most", "x"],
    ] {
        let ran = dir.tollgate(args).run().exits(2);
        assert!(ran.out().is_empty() && !ran.err().is_empty(), "{ran}");
    }
    let emulator = emulator();
    let dir = Dir::with(&Config::of(&emulator).report());
    dir.tollgate(&["run", "--log-level", "a=b=c"]).run().exits(2).says("--log-level");
}
