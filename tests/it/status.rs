//! What waits, for what and until when: while a run works, and at rest.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate_emulator::{Emulator, Profile};

use crate::util::{Config, Dir, accounts, reports, wait_until};

fn emulator() -> Emulator {
    Emulator::start(Profile { record: true, ..Profile::default() }).unwrap()
}

/// A run that has made its first call and then waits for an hour.
fn hourly(emulator: &Emulator) -> Config {
    Config::of(emulator).limit(r#"hourly = { per = ["account"], every = "1h" }"#).report()
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
    // Three more calls an hour apart, each.
    let hours = |eta: &Value| {
        let at: jiff::Timestamp = eta["at"].as_str().unwrap().parse().unwrap();
        (at.duration_since(before).as_secs() as f64 / 3600.0 * 10.0).round() / 10.0
    };
    // What accounts have just begun to wait for is heard of one after the other.
    let status = wait_until("all that is to come", || {
        let status = ask(&[]).exits(0).json();
        let eta = Some(&status["eta"]).filter(|eta| eta.is_object())?;
        ((hours(eta) - 3.0).abs() < 0.01 && eta["by"] == "hourly").then_some(status)
    });
    let told: Vec<f64> =
        status["accounts"].as_array().unwrap().iter().map(|row| hours(&row["eta"])).collect();
    assert_eq!(told, [3.0, 3.0, 3.0, 1.0], "{status}");
    let view = ask(&["p/act_0"]).exits(0).json()["account"].clone();
    assert_eq!((&view["state"], &view["waiting"]), (&json!("resting"), &json!(3)), "{view:#}");
    let counter = &view["limits"][0]["counters"][0];
    assert_eq!((&counter["used"], counter["calls"].as_array().unwrap().len()), (&json!(1), 1));
    assert_eq!(view["next"].as_array().unwrap().len(), 3, "{view:#}");
    assert_eq!(view["answers"][0]["class"], "ok", "{view:#}");
    let text = dir.tollgate(&["status", "p/act_0"]).run().exits(0).out();
    for wanted in ["1/1  [####################] in ", "NEXT CALLS", "LAST ANSWERS"] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
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
    let view = &one["account"];
    assert_eq!((&view["state"], &view["eta"]), (&json!("at_rest"), &Value::Null), "{view:#}");
    assert_eq!(view["limits"][0]["counters"][0]["used"], 1, "{view:#}");
    assert_eq!(ask(&["p"]).exits(0).json()["waiting"], 10);
    assert_eq!(ask(&["p/nobody"]).exits(0).json()["waiting"], 0);
    assert_eq!(ask(&["--most", "2"]).exits(0).json()["accounts"].as_array().unwrap().len(), 2);
    let text = dir.tollgate(&["status"]).run().exits(0).out();
    for wanted in ["not running", "10 fetches wait", "p/act_0", "hourly", "until 20"] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    assert!(!text.contains("all of it is done"), "nobody works on it\n{text}");
    assert_eq!(emulator.counts().0, 4);
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
