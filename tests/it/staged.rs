//! Nodes that stage what they collect, as their users see it: `follow` in `[stage.NAME]`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

use crate::cluster::{Node, publish, told, wait_shared};
use crate::util::{Config, Dir, Nats, Provider, Told, fetch, wait_until};

const TABLE: &str = r#"
[stage.rows]
from = "p/report"
to = "staged/rows"
records = "rows[]"
follow = "1s"
[stage.rows.columns]
n = "int64"
date = { type = "string", input = "params.date" }
"#;

/// Answers two rows each.
fn provider() -> Provider {
    Provider::start(|_, _| Told::json(&json!({ "rows": [{ "n": 1 }, { "n": 2 }] })))
}

fn config(provider: &Provider) -> Config {
    Config::at(&provider.base_url())
        .api("report", "path = \"report\"\nquery = { date = \"{date}\" }")
}

fn with_table(dir: &Dir) {
    let text = std::fs::read_to_string(dir.path("tollgate.toml")).unwrap();
    dir.write("tollgate.toml", text + TABLE);
}

/// Reports of these days.
fn days(account: &str, days: std::ops::Range<u32>) -> String {
    let one = |day: u32| {
        let date = format!("d{day}");
        fetch(account, "report", &date, json!({ "params": { "date": date } }))
    };
    days.map(one).collect()
}

/// What counts of the table below a store: objects, rows, and files, each of which is there.
fn staged(store: &Path) -> (usize, u64, BTreeSet<String>) {
    let to = store.join("staged/rows");
    let (mut inputs, mut rows, mut files) = (BTreeSet::new(), 0, BTreeSet::new());
    let mut count = 0;
    let Ok(listed) = std::fs::read_dir(to.join("_stage")) else { return (0, 0, files) };
    let paths = listed.map(|one| one.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let texts = paths.filter_map(|path| std::fs::read(path).ok());
    let records: Vec<Value> = texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect();
    let replaced = records.iter().filter_map(|record| record["replaces"].as_array()).flatten();
    let replaced: BTreeSet<&str> = replaced.filter_map(Value::as_str).collect();
    for record in &records {
        let Some(names) = record["inputs"].as_object() else { continue };
        if replaced.contains(record["job"].as_str().unwrap()) {
            continue;
        }
        count += names.len();
        inputs.extend(names.keys().cloned());
        rows += record["rows"].as_u64().unwrap();
        files.extend(record["files"].as_array().unwrap().iter().map(|file| {
            let file = file.as_str().unwrap().to_owned();
            assert!(to.join(&file).exists(), "{file}");
            file
        }));
    }
    assert_eq!(inputs.len(), count, "an object of two records");
    (count, rows, files)
}

#[test]
fn a_run_stages_what_it_collects_before_it_ends_and_then_only_what_is_new() {
    let provider = provider();
    let dir = Dir::with(&config(&provider));
    with_table(&dir);
    let data = dir.path("data");
    let ran = dir.run(&days("a", 0..20)).exits(0);
    let (inputs, rows, first) = staged(&data);
    assert_eq!((inputs, rows), (20, 40), "{ran}");
    let told: u64 = ran
        .events()
        .iter()
        .filter(|event| event["event"] == "stage_done")
        .map(|event| {
            assert!(event["took_ms"].is_u64() && event["table"] == "rows", "{event}");
            event["rows"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(told, 40, "{ran}");
    let ran = dir.run(&days("b", 0..5)).exits(0);
    let (inputs, rows, files) = staged(&data);
    assert_eq!((inputs, rows), (25, 50), "{ran}");
    assert!(files.is_superset(&first), "{first:?} {files:?}");
    let ran = dir.tollgate(&["stage", "--json"]).run().exits(0);
    assert_eq!((&ran.json()["inputs"], &ran.json()["unchanged"]), (&json!(0), &json!(25)), "{ran}");
}

#[test]
fn what_a_killed_run_had_not_staged_is_staged_by_the_next() {
    let provider = provider();
    let limit = r#"pace = { per = ["account"], max = 5, in = "1s" }"#;
    let dir = Dir::with(&config(&provider).limit(limit));
    with_table(&dir);
    let fetches = days("a", 0..25);
    dir.write("fetches.jsonl", &fetches);
    let run = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    run.wait_says("stage_done");
    run.kill();
    let (_, rows, _) = staged(&dir.path("data"));
    assert!((2..50).contains(&rows), "{rows}");
    let ran = dir.run(&fetches).exits(0);
    let (inputs, rows, _) = staged(&dir.path("data"));
    assert_eq!((inputs, rows), (25, 50), "{ran}");
}

#[test]
fn of_several_nodes_one_stages_for_all_and_another_when_it_is_killed() {
    let (nats, provider) = (Nats::start(), provider());
    let objects = Dir::empty();
    let config = config(&provider).on(&nats);
    let mut nodes: Vec<Node> = ["n1", "n2"].map(|name| Node::new(name, &config, &objects)).into();
    for node in &mut nodes {
        with_table(&node.dir);
        node.start();
    }
    nodes.iter().for_each(Node::wait_ready);
    wait_shared(&nodes.iter().collect::<Vec<_>>());
    let publish = |lines: String| {
        nodes[0].dir.tollgate(&["publish", "-"]).input(lines).run().exits(0);
    };
    for account in 0..20 {
        publish(days(&format!("a{account}"), 0..3));
    }
    let root = objects.path("objects");
    let wait_rows = |wanted: u64| {
        wait_until(&format!("{wanted} rows"), || {
            let (_, rows, _) = staged(&root);
            assert!(rows <= wanted, "{rows}");
            (rows == wanted).then_some(())
        });
    };
    wait_rows(120);
    let says = |node: &Node, text: &str| node.process.as_ref().unwrap().said(text);
    let follows = |node: &Node| says(node, "stage_follows") > says(node, "stage_left");
    let owners: Vec<usize> = (0..2).filter(|at| follows(&nodes[*at])).collect();
    assert_eq!(owners.len(), 1, "{owners:?}");
    nodes[owners[0]].kill();
    let other = 1 - owners[0];
    let lines = (0..20).map(|account| days(&format!("b{account}"), 0..3)).collect::<String>();
    nodes[other].dir.tollgate(&["publish", "-"]).input(lines).run().exits(0);
    wait_until("the other to follow", || follows(&nodes[other]).then_some(()));
    wait_rows(240);
    nodes[other].stop();
    assert_eq!(staged(&root).0, 120);
}

#[test]
fn a_node_that_ends_hands_its_table_over_and_the_next_waits_until_it_has_stopped() {
    let (nats, provider) = (Nats::start(), provider());
    let objects = Dir::empty();
    let config = config(&provider).on(&nats);
    let mut nodes: Vec<Node> = ["n1", "n2"].map(|name| Node::new(name, &config, &objects)).into();
    for node in &mut nodes {
        let text = std::fs::read_to_string(node.dir.path("tollgate.toml")).unwrap();
        node.dir.write("tollgate.toml", text + &TABLE.replace("1s", "5s"));
        node.start();
    }
    nodes.iter().for_each(Node::wait_ready);
    wait_shared(&nodes.iter().collect::<Vec<_>>());
    let root = objects.path("objects");
    let wait_rows = |wanted: u64| {
        wait_until(&format!("{wanted} rows"), || {
            let (_, rows, _) = staged(&root);
            assert!(rows <= wanted, "{rows}");
            (rows == wanted).then_some(())
        });
    };
    publish(&nodes[0], &days("a", 0..20));
    wait_rows(40);
    let says = |node: &Node, text: &str| node.process.as_ref().unwrap().said(text);
    let follows = |node: &Node| says(node, "stage_follows") > says(node, "stage_left");
    let owner = (0..2).find(|at| follows(&nodes[*at])).unwrap();
    // It ends with fetches that are done and not staged.
    publish(&nodes[0], &days("b", 0..20));
    wait_until("all to be done", || (nats.count("DONE") == 40).then_some(()));
    nodes[owner].stop();
    let other = &mut nodes[1 - owner];
    wait_until("the other to follow", || follows(other).then_some(()));
    wait_rows(80);
    let ran = other.stop();
    assert_eq!(staged(&root).0, 40, "{ran}");
    let followed = told(&ran, "stage_follows").last().unwrap().0;
    let looked = told(&ran, "stage_done").into_iter().find(|(at, _)| *at > followed).unwrap().0;
    let rest = looked.duration_since(followed);
    assert!(rest.as_millis() >= 9_900, "{rest:?}");
}

/// Rows of Parquet files below a table's folder.
fn rows_of<'f>(to: &Path, files: impl IntoIterator<Item = &'f String>) -> u64 {
    let rows = files.into_iter().map(|file| {
        let file = std::fs::File::open(to.join(file)).unwrap();
        let reader = SerializedFileReader::new(file).unwrap();
        u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap()
    });
    rows.sum()
}

#[test]
fn a_kill_while_small_files_are_put_together_loses_no_row_and_doubles_none() {
    const OBJECTS: usize = 24;
    const EACH: usize = 520;
    let config = "[node]\nname = \"n\"\ndata = \"data\"\n[store]\nurl = \"file:data\"\n";
    let table = "[stage.rows]\nfrom = \"raw\"\nto = \"staged/rows\"\nmanifest = false\nfile_bytes = \"64KiB\"\n\
                 [stage.rows.columns]\nn = \"int64\"\n";
    let of = || {
        let dir = Dir::empty();
        dir.write("tollgate.toml", format!("{config}\n{table}"));
        std::fs::create_dir_all(dir.path("data/raw")).unwrap();
        dir
    };
    let first = of();
    // Each is as much as a file of the target size is made of, and its rows are much less.
    for object in 0..OBJECTS {
        let pad = "x".repeat(1_010);
        let line = |n: usize| format!("{{\"n\":{},\"pad\":\"{pad}\"}}\n", n % 7);
        let text: String = (0..EACH).map(line).collect();
        first.write(&format!("data/raw/{object:02}.ndjson"), text);
    }
    let stage = |dir: &Dir| dir.tollgate(&["stage", "--json"]);
    let ran = stage(&first).run().exits(0);
    assert_eq!(
        (&ran.json()["files"], &ran.json()["merged"]),
        (&json!(OBJECTS), &json!(0)),
        "{ran}"
    );
    // By links: what tells an object from another is its inode and its time, and nobody writes into a file that is there.
    let copy = || {
        let dir = of();
        let (from, to) = (first.path("data/."), dir.path("data"));
        let copied = Command::new("cp").arg("-al").args([from, to]).status().unwrap();
        assert!(copied.success());
        dir
    };
    let check = |dir: &Dir, what: &str| -> usize {
        let (inputs, rows, files) = staged(&dir.path("data"));
        assert_eq!((inputs, rows), (OBJECTS, (OBJECTS * EACH) as u64), "{what}");
        let to = dir.path("data/staged/rows");
        let files: Vec<String> =
            files.into_iter().filter(|file| file.ends_with("parquet")).collect();
        assert_eq!(rows_of(&to, &files), (OBJECTS * EACH) as u64, "{what}");
        files.len()
    };
    let whole = copy();
    let ran = stage(&whole).run().exits(0);
    assert_eq!(ran.json()["merged"], OBJECTS, "{ran}");
    assert_eq!(check(&whole, "whole"), 1);
    // Where a kill falls is chance; that each step may be the last is for the unit tests to show.
    for part in 0..16_u32 {
        let dir = copy();
        let running = stage(&dir).start();
        thread::sleep(ran.took * part / 16);
        running.kill();
        check(&dir, &format!("killed at {part}"));
        stage(&dir).run().exits(0);
        assert_eq!(check(&dir, &format!("after {part}")), 1);
        dir.remove_half_written();
        let there = dir.files("data/staged/rows");
        assert_eq!(there.len(), 2, "one file and its record: {there:?}");
    }
}
