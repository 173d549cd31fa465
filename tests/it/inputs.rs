//! Where the fetches of a run come from, and that each counts once.

use std::io::Write;
use std::time::Duration;

use serde_json::json;
use tollgate_emulator::{Emulator, Profile, ProviderLimit};

use crate::util::{Config, Dir, accounts, fetch, reports, wait_until};

fn emulator(limits: Vec<ProviderLimit>) -> Emulator {
    Emulator::start(Profile { limits, record: true, ..Profile::default() }).unwrap()
}

#[test]
fn a_second_run_of_the_same_file_calls_nothing() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let accounts = accounts("act", 5);
    let fetches = reports(&accounts, 4);
    assert_eq!(dir.run(&fetches).exits(0).summary().calls, 20);

    let again = dir.run(&fetches).exits(0).summary();
    assert_eq!((again.fetches, again.done, again.calls, again.objects), (20, 20, 0, 0));
    assert_eq!(emulator.counts().0, 20);
    let longer = dir.run(&reports(&accounts, 5)).exits(0).summary();
    assert_eq!((longer.fetches, longer.done, longer.calls, longer.objects), (25, 25, 5, 5));
    dir.assert_reports(&accounts, 5);
}

#[test]
fn an_id_counts_within_its_account_and_api_and_once_within_a_file() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator)
        .api("one", "path = \"v1/reports/one\"")
        .api("two", "path = \"v1/reports/two\"");
    let dir = Dir::with(&config);
    let lines: String = [("a", "one"), ("a", "two"), ("b", "one"), ("a", "one"), ("b", "one")]
        .map(|(account, api)| fetch(account, api, "same", json!({})))
        .concat();
    let summary = dir.run(&lines).exits(0).summary();
    assert_eq!((summary.done, summary.calls), (3, 3));
    assert_eq!(dir.collected().len(), 3);
}

#[test]
fn a_fetch_without_an_id_is_known_by_its_content() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let line = r#"{"platform":"p","account":"a","api":"report","params":{"date":"d"}}"#;
    // The order of the fields is not content.
    let same = r#"{"params":{"date":"d"},"api":"report","account":"a","platform":"p"}"#;
    let other = r#"{"platform":"p","account":"a","api":"report","params":{"date":"e"}}"#;
    assert_eq!(dir.run(&format!("{line}\n{same}\n{other}")).exits(0).summary().calls, 2);
    assert_eq!(dir.run(&format!("{same}\n")).exits(0).summary().calls, 0);
    assert_eq!(dir.collected().len(), 2);
}

#[test]
fn fetches_come_from_several_files_and_from_standard_input() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let (first, second, third) = (accounts("a", 3), accounts("b", 4), accounts("c", 5));
    dir.write("first.jsonl", reports(&first, 2));
    // Blank lines and Windows line ends are no fetches.
    dir.write("second.jsonl", format!("\n\n  \r\n{}", reports(&second, 2).replace('\n', "\r\n")));
    let ran = dir
        .tollgate(&["run", "--json", "first.jsonl", "second.jsonl", "-"])
        .input(reports(&third, 2).trim_end())
        .run()
        .exits(0);
    let summary = ran.summary();
    assert_eq!((summary.fetches, summary.done, summary.calls), (24, 24, 24), "{ran}");
    dir.assert_reports(&[first, second, third].concat(), 2);
}

#[test]
fn nothing_to_do_is_done_at_once() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    for ran in [dir.run("").exits(0), dir.tollgate(&["run", "--json"]).run().exits(0)] {
        let summary = ran.summary();
        assert_eq!((summary.fetches, summary.done, summary.calls), (0, 0, 0), "{ran}");
        assert!(ran.took < Duration::from_secs(5), "{ran}");
    }
}

#[test]
fn a_file_that_is_not_there_is_told_with_its_code() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    dir.tollgate(&["run", "nowhere.jsonl"]).run().exits(2).says("TG0310").says("nowhere.jsonl");
}

#[test]
fn fetches_of_a_pipe_are_collected_while_it_stays_open() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let accounts = accounts("act", 3);
    let (running, mut pipe) = dir.tollgate(&["run", "--json", "-"]).start_with_open_input();
    let lines = reports(&accounts, 3);
    let mut written = 0;
    // Not always at the end of a line.
    for (bytes, calls) in [(lines.len() / 3, 3), (lines.len() / 2, 4), (lines.len(), 9)] {
        pipe.write_all(&lines.as_bytes()[written..bytes]).unwrap();
        written = bytes;
        wait_until("the calls", || (emulator.counts().0 == calls).then_some(()));
    }
    drop(pipe);
    assert_eq!(running.wait().exits(0).summary().done, 9);
    dir.assert_reports(&accounts, 3);
}

#[test]
fn a_fetch_is_counted_once_however_often_it_is_read() {
    let emulator = emulator(Vec::new());
    let config =
        Config::of(&emulator).limit(r#"gap = { per = ["account"], every = "700ms" }"#).report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 30);
    let lines = reports(&accounts, 2);
    dir.write("fetches.jsonl", &lines);
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    wait_until("the first calls", || (emulator.counts().0 == 30).then_some(()));
    running.signal("TERM");
    let first = running.wait().exits(3).summary();
    assert_eq!((first.fetches, first.done, first.left), (60, 30, 30));
    // What is left is collected while the input has not yet said its first word, and then again.
    let (running, mut pipe) = dir.tollgate(&["run", "--json", "-"]).start_with_open_input();
    wait_until("all calls", || (emulator.counts().0 == 60).then_some(()));
    wait_until("all objects", || (dir.files("data").len() == 120).then_some(()));
    let more = reports(&["new".into()], 1);
    let bad = fetch("new", "nothing", "1", json!({}));
    let second_day = lines.get(lines.len() / 2..).unwrap();
    for lines in [&lines, &more, &bad, second_day] {
        pipe.write_all(lines.as_bytes()).unwrap();
    }
    wait_until("the new one", || (dir.files("data").len() == 122).then_some(()));
    pipe.write_all((more + &bad).as_bytes()).unwrap();
    drop(pipe);
    let summary = running.wait().exits(1).summary();
    assert_eq!((summary.done, summary.calls, summary.objects), (61, 31, 31));
    assert_eq!((summary.fetches, summary.left), (summary.done + summary.dead, 0));
}
