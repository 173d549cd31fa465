//! Dead letters: listed, shown, collected again and forgotten, whether a run goes on or not.

use serde_json::{Value, json};
use tollgate_emulator::{Emulator, Profile, ProviderLimit};

use crate::util::{Config, Dir, fetch, reports, wait_until};

fn emulator(limits: Vec<ProviderLimit>) -> Emulator {
    Emulator::start(Profile { limits, record: true, ..Profile::default() }).unwrap()
}

/// An api whose path is wrong, and the same mended.
const WRONG: (&str, &str) = ("moved", "path = \"rude/status/404\"");
const MENDED: (&str, &str) = ("moved", "path = \"v1/reports/moved\"");

#[test]
fn a_dead_fetch_is_shown_with_its_last_answer_and_collected_once_the_recipe_is_mended() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator).report();
    let dir = Dir::with(&config.clone().api(WRONG.0, WRONG.1));
    let lines = fetch("a.1", "moved", "one", json!({ "labels": { "k": "v" } }))
        + &fetch("b", "moved", "two", json!({}))
        + "not a fetch\n";
    dir.run(&lines).exits(1).says("dead list");

    let list = dir.tollgate(&["dead", "list"]).run().exits(0).out();
    assert_eq!(list.lines().count(), 3, "{list}");
    for text in ["TG0201", "TG0101", "p/a.1 moved one", "p/b moved two", "fetches.jsonl:3"] {
        assert!(list.contains(text), "{text} is not in\n{list}");
    }
    let dead = dir.dead();
    let seq_of = |id: &str| {
        let is = |dead: &&tollgate_protos::Dead| {
            dead.fetch.as_ref().is_some_and(|fetch| fetch.id.as_deref() == Some(id))
        };
        dead.iter().find(is).unwrap().seq.to_string()
    };
    let shown = dir.tollgate(&["dead", "show", &seq_of("one"), "--json"]).run().exits(0).json();
    assert_eq!(shown["code"], "TG0201");
    assert_eq!(shown["http_status"], 404);
    assert_eq!(shown["attempts"], 1);
    assert_eq!(shown["fetch"]["labels"], json!({ "k": "v" }));
    let start: Value = serde_json::from_str(shown["body_start"].as_str().unwrap()).unwrap();
    assert_eq!(start, json!({ "status": 404 }));
    dir.tollgate(&["dead", "show", &seq_of("one")]).run().exits(0).says("tollgate explain TG0201");
    dir.tollgate(&["dead", "show", "999999"]).run().exits(2).says("no dead letter 999999");

    // A dead fetch is not called again by itself.
    let again = dir.run(&lines).exits(1).summary();
    assert_eq!((again.calls, again.dead), (0, 3));

    // What never was a fetch cannot be collected.
    let raw = dead.iter().find(|dead| dead.fetch.is_none()).unwrap().seq.to_string();
    dir.tollgate(&["dead", "replay", &raw]).run().exits(1).says("never was a fetch");
    dir.tollgate(&["dead", "drop", &raw, "999999"]).run().exits(1).says("1 dropped, 1 not");
    assert_eq!(dir.dead().len(), 2);

    dir.write("tollgate.toml", config.api(MENDED.0, MENDED.1).text());
    dir.tollgate(&["dead", "replay", "--all"]).run().exits(0).says("2 put back");
    assert!(dir.dead().is_empty());
    dir.tollgate(&["dead", "list"]).run().exits(0).says("no dead letters");
    let ran = dir.tollgate(&["run", "--json"]).run().exits(0);
    assert_eq!((ran.summary().done, ran.summary().calls), (2, 2), "{ran}");
    let collected = dir.collected();
    assert_eq!(collected.len(), 2);
    assert_eq!(
        json!(collected[&("a.1".into(), "moved".into(), "one".into())].manifest.done.labels),
        json!({ "k": "v" })
    );
    // Done is done: the file is not called again either.
    dir.write("fetches.jsonl", lines.replace("not a fetch\n", ""));
    let last = dir.tollgate(&["run", "--json", "fetches.jsonl"]).run().exits(0).summary();
    assert_eq!((last.done, last.calls), (2, 0));
}

#[test]
fn a_replay_that_would_die_again_is_refused_and_keeps_the_letter() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator).report();
    let dir = Dir::with(&config.clone().api(WRONG.0, WRONG.1));
    dir.run(&fetch("a", "moved", "one", json!({}))).exits(1);
    // The api is gone from the configuration.
    dir.write("tollgate.toml", config.text());
    dir.tollgate(&["dead", "replay", "--all"]).run().exits(1).says("TG0106");
    assert_eq!(dir.dead().len(), 1);
}

#[test]
fn a_fetch_of_an_api_that_was_not_declared_is_collected_once_it_is() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator).report();
    let dir = Dir::with(&config);
    let lines = fetch("a", "moved", "one", json!({})) + &fetch("b", "moved", "two", json!({}));
    dir.run(&lines).exits(1);
    let dead = dir.dead();
    assert!(dead.iter().all(|dead| dead.code == "TG0106"), "{dead:?}");
    dir.write("tollgate.toml", config.api(MENDED.0, MENDED.1).text());
    dir.tollgate(&["dead", "replay", &dead[0].seq.to_string()]).run().exits(0);
    // The other one by running the file again; neither is called twice.
    let summary = dir.run(&lines).exits(0).summary();
    assert_eq!((summary.done, summary.calls, emulator.counts().0), (2, 2, 2));
    assert_eq!(dir.collected().len(), 2);
}

#[test]
fn many_dead_letters_are_listed_in_pages() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let lines = (0..250).map(|n| format!("no fetch {n}\n")).collect::<Vec<_>>().concat();
    dir.run(&lines).exits(1);
    let list = |args: &[&str]| {
        let args = [&["dead", "list", "--json"], args].concat();
        let out = dir.tollgate(&args).run().exits(0).out();
        let seq =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
        out.lines().map(seq).collect::<Vec<u64>>()
    };
    let all = list(&["--most", "1000"]);
    assert_eq!(all.len(), 250);
    assert!(all.is_sorted(), "{all:?}");
    assert_eq!(list(&["--most", "7"]), all[..7]);
    assert_eq!(list(&["--after", &all[6].to_string(), "--most", "3"]), all[7..10]);
    dir.tollgate(&["dead", "drop", "--all"]).run().exits(0).says("250 dropped");
    assert!(list(&[]).is_empty());
    // The same input does not bring them back.
    assert_eq!(dir.run(&lines).exits(1).summary().dead, 250);
    assert!(list(&[]).is_empty());
}

#[test]
fn a_running_node_is_asked_through_its_socket() {
    let every = std::time::Duration::from_millis(400);
    let emulator = emulator(vec![ProviderLimit::gap("gap", every)]);
    let config = Config::of(&emulator)
        .report()
        .api(
            "once",
            "path = \"rude/flaky\"\nlimits.own = { per = [\"account\"], max = 9, in = \"1s\" }",
        )
        .limit(r#"gap = { per = ["account"], every = "400ms" }"#)
        .collect("attempts_max = 1");
    let dir = Dir::with(&config);
    // The first call of `once` fails for good, and its second would not.
    let lines = fetch("b", "once", "1", json!({})) + "rubbish\n" + &reports(&["a".into()], 8);
    dir.write("fetches.jsonl", lines);
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    let dead = wait_until("two dead letters", || {
        let dead = dir.tollgate(&["dead", "list", "--json"]).run();
        (dead.code == Some(0) && dead.out().lines().count() == 2).then(|| dir.dead())
    });
    let status = dir.tollgate(&["status", "--json"]).run().exits(0).json();
    assert_eq!(status["running"], true, "{status}");
    let account = &status["accounts"][0];
    assert_eq!((&account["platform"], &account["account"]), (&json!("p"), &json!("a")));
    assert!(account["waiting"].as_u64().unwrap() > 0, "{status}");

    let (one, rubbish): (Vec<_>, Vec<_>) = dead.iter().partition(|dead| dead.fetch.is_some());
    let shown = dir.tollgate(&["dead", "show", &one[0].seq.to_string(), "--json"]).run().exits(0);
    assert_eq!(shown.json()["code"], "TG0202");
    dir.tollgate(&["dead", "drop", &rubbish[0].seq.to_string()]).run().exits(0).says("1 dropped");
    let replay = dir.tollgate(&["dead", "replay", &one[0].seq.to_string()]).run();
    replay.exits(0).says("1 put back");
    let ran = running.wait();
    // The run collected it while it went on; its summary still tells of the deaths it saw.
    assert_eq!(dir.collected().len(), 9, "{ran}");
    assert!(dir.dead().is_empty());
    assert_eq!(ran.summary().left, 0, "{ran}");
    assert_eq!(ran.summary().done, 9, "{ran}");
}
