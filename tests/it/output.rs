//! What is printed where, and what a reader cannot do to a run.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;
use tollgate_emulator::{Emulator, Profile};

use crate::util::{Config, Dir, accounts, fetch, reports, wait_until};

fn emulator() -> Emulator {
    Emulator::start(Profile { record: true, ..Profile::default() }).unwrap()
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
