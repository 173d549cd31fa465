//! The command line: what it prints where, how it ends, and what it says about mistakes.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tollgate_emulator::{Emulator, Profile};

use crate::util::{Config, Dir, accounts, fetch, reports, wait_until};

const ALL_WRONG: &str = r#"[node]
dta = "data"

[store]
url = "s3://bucket"
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
rate = { per = ["platform"], rate = "50/s", burst = 100 }

[platforms.p.apis.report]
pth = "v1"
query = { date = "{date|nofilter}" }

[platforms.UPPER]
base_url = "http://127.0.0.1:1/"
"#;

fn emulator() -> Emulator {
    Emulator::start(Profile { record: true, ..Profile::default() }).unwrap()
}

/// A run that has made its first call and then waits for an hour.
fn hourly(emulator: &Emulator) -> Config {
    Config::of(emulator).limit(r#"hourly = { per = ["account"], every = "1h" }"#).report()
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
        ("TG0016", "store.url", "url"),
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
        ("TG0016", "platforms.p.limits.rate.rate", "rate"),
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

#[test]
fn data_goes_to_standard_output_and_all_else_to_standard_error() {
    let emulator = emulator();
    let dir = Dir::with(&Config::of(&emulator).report());
    dir.write("fetches.jsonl", reports(&accounts("act", 2), 2));
    let ran = dir.tollgate(&["run", "--json", "fetches.jsonl"]).run().exits(0);
    assert_eq!(ran.out().lines().count(), 1, "{ran}");
    assert_eq!(ran.summary().done, 4);
    let ran = dir.tollgate(&["run", "fetches.jsonl"]).run().exits(0).says("4 done, 0 dead, 0 left");
    assert_eq!(ran.out(), "");
    let text = dir.tollgate(&["run", "fetches.jsonl", "--log-format", "text"]).run().exits(0);
    assert!(!text.err().contains('{') && !text.err().contains('\u{1b}'), "{text}");
}

#[test]
fn status_says_what_waits_for_what_and_until_when() {
    let emulator = emulator();
    let dir = Dir::with(&hourly(&emulator));
    dir.tollgate(&["status"]).run().exits(2).says("holds nothing yet");
    dir.tollgate(&["status", "nowhere"]).run().exits(2).says("no platform `nowhere`");
    dir.write("fetches.jsonl", reports(&accounts("act", 3), 4) + &reports(&["other".into()], 2));
    let before = jiff::Timestamp::now();
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    let ask = |of: &[&str]| dir.tollgate(&[&["status", "--json"], of].concat()).run();
    let is_told = |status: &Value| {
        assert_eq!(status["waiting"], 10, "{status}");
        let rows = status["accounts"].as_array().unwrap();
        assert_eq!(rows.len(), 4, "{status}");
        for row in rows {
            let is_other = row["account"] == "other";
            assert_eq!(row["waiting"], if is_other { 1 } else { 3 }, "{row}");
            assert!(row["because"].as_str().unwrap().contains("hourly"), "{row}");
            let until: jiff::Timestamp = row["until"].as_str().unwrap().parse().unwrap();
            let wait = until.duration_since(before).as_secs();
            assert!((3595..3700).contains(&wait), "{row}");
        }
        assert_eq!(rows[3]["account"], "other", "those with the most waiting come first");
    };
    wait_until("four accounts that wait", || {
        let ran = ask(&[]);
        let status = (ran.code == Some(0)).then(|| ran.json())?;
        (status["waiting"] == 10 && status["in_flight"] == 0 && status["running"] == true)
            .then(|| is_told(&status))
    });
    // A second run has no business there.
    let second = dir.tollgate(&["run", "fetches.jsonl"]).run().exits(2);
    second.says("TG0301").says("another tollgate");
    running.signal("TERM");
    let ran = running.wait().exits(3).says("next `tollgate run`");
    assert_eq!((ran.summary().done, ran.summary().left), (4, 10));

    let status = ask(&[]).exits(0).json();
    assert_eq!(status["running"], false);
    is_told(&status);
    let one = ask(&["p/other"]).exits(0).json();
    assert_eq!((&one["waiting"], one["accounts"].as_array().unwrap().len()), (&json!(1), 1));
    assert_eq!(ask(&["p"]).exits(0).json()["waiting"], 10);
    assert_eq!(ask(&["p/nobody"]).exits(0).json()["waiting"], 0);
    assert_eq!(ask(&["--most", "2"]).exits(0).json()["accounts"].as_array().unwrap().len(), 2);
    let text = dir.tollgate(&["status"]).run().exits(0).out();
    for wanted in ["not running", "10 fetches wait", "p/act_0", "hourly", "until 20"] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    assert_eq!(emulator.counts().0, 4);
}

#[test]
fn a_name_with_control_characters_cannot_act_on_the_terminal() {
    let emulator = Emulator::start(Profile {
        account_from: tollgate_emulator::AccountFrom::Query("account".into()),
        ..Profile::default()
    })
    .unwrap();
    let config = Config::at(&emulator.base_url())
        .limit(r#"hourly = { per = ["account"], every = "1h" }"#)
        .api(
            "report",
            "path = \"v1/reports/x\"\nquery = { account = \"{account}\", date = \"{date}\" }",
        );
    let dir = Dir::with(&config);
    let lines = reports(&["\u{1b}[31mred\r\n".into()], 2) + "\u{1b}[31m no fetch\n";
    dir.write("fetches.jsonl", lines);
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl", "--log-format", "text"]).start();
    wait_until("the call", || (emulator.counts().0 == 1).then_some(()));
    wait_until("the fetch to be done", || dir.files("data").len().ge(&2).then_some(()));
    running.signal("TERM");
    let ran = running.wait().exits(3);
    assert!(!ran.err().contains('\u{1b}'), "{ran}");
    for args in [&["status"][..], &["dead", "list"]] {
        let ran = dir.tollgate(args).run().exits(0);
        assert!(!ran.out().contains('\u{1b}') && !ran.out().contains('\r'), "{:?}", ran.out());
        assert!(!ran.out().is_empty(), "{ran}");
    }
}

#[test]
fn colour_is_for_terminals_and_not_for_those_who_want_none() {
    let emulator = emulator();
    let dir = Dir::with(&Config::of(&emulator).report());
    dir.write("fetches.jsonl", "no fetch\n");
    // Python's pty makes the terminal.
    let on_terminal = |no_colour: Option<&str>| {
        let mut command = Command::new("python3");
        command
            .args([
                "-c",
                "import pty, sys; pty.spawn(sys.argv[1:])",
                env!("CARGO_BIN_EXE_tollgate"),
            ])
            .args(["run", "fetches.jsonl", "--log-level", "info"])
            .current_dir(dir.path("."))
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        if let Some(value) = no_colour {
            command.env("NO_COLOR", value);
        }
        let out = command.output().expect("python3 is here").stdout;
        let out = String::from_utf8_lossy(&out).into_owned();
        assert!(out.contains("node started"), "{out}");
        // A colour, not what moves the bar's cursor.
        out.lines().any(|line| line.contains("node started") && line.contains("\u{1b}["))
    };
    assert!(on_terminal(None));
    assert!(on_terminal(Some("")), "an empty NO_COLOR says nothing");
    assert!(!on_terminal(Some("1")));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let emulator = emulator();
    let dir = Dir::with(&Config::of(&emulator).report());
    dir.run("no fetch\n").exits(1);
    for args in [
        &["explain"][..],
        &["explain", "TG0001"],
        &["check"],
        &["dead", "list"],
        &["status"],
        &["init", "-"],
        &["--help"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(args)
            .current_dir(dir.path("."))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
        assert!(!err.contains("panicked"), "{args:?}: {err}");
    }
    // Nobody reads the logs: the work is done all the same.
    let accounts = accounts("act", 5);
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["run", "-", "--log-level", "debug"])
        .current_dir(dir.path("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    child.stdin.take().unwrap().write_all(reports(&accounts, 3).as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    dir.assert_reports(&accounts, 3);
}

#[test]
fn a_reader_that_does_not_read_stops_neither_the_work_nor_the_drain() {
    let emulator = emulator();
    let config = Config::of(&emulator).report().api(
        "rare",
        "path = \"v1/reports/rare\"\nlimits.own = { per = [\"account\"], every = \"1h\" }",
    );
    let dir = Dir::with(&config);
    let accounts = accounts("act", 20);
    let rare = |id: &str| fetch("rare", "rare", id, json!({}));
    // The pipe is open and soon full: it holds 64 KiB, and the logs are far longer.
    let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["run", "-", "--log-level", "trace"])
        .current_dir(dir.path("."))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = rare("1") + &reports(&accounts, 20) + &rare("2");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    wait_until("all calls", || (emulator.counts().0 == 401).then_some(()));
    wait_until("all objects", || (dir.files("data").len() == 802).then_some(()));
    Command::new("sh").args(["-c", &format!("kill {}", child.id())]).status().unwrap();
    wait_until("the end of the node", || {
        // It may end while it is asked.
        let ran = dir.tollgate(&["status", "--json"]).run();
        let status = (ran.code == Some(0)).then(|| ran.json())?;
        (status["running"] == false && status["waiting"] == 1).then_some(())
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stderr.len() > 64 * 1024, "only {} bytes", output.stderr.len());
}

#[test]
fn the_demo_refuses_nothing_and_says_so() {
    let dir = Dir::empty();
    let ran =
        dir.tollgate(&["demo", "--accounts", "20", "--fetches", "8", "--json"]).run().exits(0);
    let json = ran.json();
    for (name, wanted) in [
        ("fetches", 160),
        ("done", 160),
        ("dead", 0),
        ("left", 0),
        ("calls", 160),
        ("refused", 0),
        ("objects", 160),
    ] {
        assert_eq!(json[name], wanted, "{name}\n{ran}");
    }
    assert_eq!(
        json["emulator"],
        json!({ "calls": 160, "refused": 0, "share": json["emulator"]["share"] })
    );
    assert!(json["emulator"]["share"].as_f64().unwrap() > 0.5, "{ran}");
    assert_eq!(dir.files("tollgate-data").iter().filter(|f| f.ends_with(".json.zst")).count(), 160);
    // A second one works as well, in words.
    let ran = dir.tollgate(&["demo", "--accounts", "3", "--fetches", "2"]).run().exits(0);
    for text in ["6 done, 0 dead, 0 left", "0 by the provider", "objects", "tollgate-data"] {
        assert!(ran.err().contains(text), "{text}\n{ran}");
    }
    // Its configuration is one that works.
    dir.tollgate(&["status", "--config", "tollgate-data/demo.toml"]).run().exits(0);
}

#[test]
fn a_question_and_a_start_at_the_same_time_are_both_answered() {
    let emulator = emulator();
    let dir = Dir::with(&hourly(&emulator));
    let run = |calls: u64| {
        let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
        wait_until("the calls", || (emulator.counts().0 == calls).then_some(()));
        running
    };
    dir.write("fetches.jsonl", reports(&accounts("act", 2), 2));
    let running = run(2);
    running.signal("TERM");
    running.wait().exits(3);
    for _ in 0..5 {
        let running = run(2);
        let ask = || dir.tollgate(&["status", "--json"]);
        let questions: Vec<_> = (0..6)
            .map(|n| {
                std::thread::sleep(Duration::from_millis(n * 7));
                ask().start()
            })
            .collect();
        for question in questions {
            assert_eq!(question.wait().exits(0).json()["waiting"], 2);
        }
        wait_until("the node to answer", || {
            (ask().run().exits(0).json()["running"] == true).then_some(())
        });
        running.signal("TERM");
        running.wait().exits(3);
    }
}
