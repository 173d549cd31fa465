//! `tollgate publish`: what is confirmed, counted and refused.

use std::collections::BTreeSet;
use std::io::Write;
use std::thread;
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use serde_json::{Value, json};

use super::{done, emulator, serve, stop};
use crate::util::{Config, Dir, Nats, accounts, fetch, reports};

/// A folder whose configuration has a server and no platform, and a server with its streams.
fn publisher(more: &str) -> (Nats, Dir) {
    let nats = Nats::start();
    let dir = Dir::empty();
    dir.write("tollgate.toml", format!("[nats]\nurl = \"{}\"\n{more}\n", nats.server.url()));
    dir.tollgate(&["setup"]).run().exits(0);
    (nats, dir)
}

fn counts(json: &Value) -> [u64; 4] {
    ["fetches", "new", "duplicate", "refused"].map(|name| json[name].as_u64().unwrap())
}

fn header(message: &StreamMessage, name: &str) -> Option<String> {
    message.headers.get(name).map(ToString::to_string)
}

#[test]
fn json_lines_csv_and_standard_input_give_the_same_fetches() {
    let (nats, dir) = publisher("");
    let lines = fetch("act.1", "report", "one", json!({ "params": { "date": "d1" } }))
        + "\n"
        + &fetch(
            "act@2",
            "report",
            "two",
            json!({ "params": { "date": "d2" }, "priority": "high" }),
        );
    dir.write("f.jsonl", &lines);
    let csv = "id,platform,account,api,priority,params.date\n\
               one,p,act.1,report,,d1\ntwo,p,act@2,report,high,d2\nthree,p,act@2,report,,d3\n";
    dir.write("f.csv", csv);

    let ran = dir.tollgate(&["publish", "--json", "f.jsonl"]).run().exits(0);
    assert_eq!(counts(&ran.json()), [2, 2, 0, 0], "{ran}");
    assert_eq!((ran.out().lines().count(), &ran.json()["unconfirmed"]), (1, &json!(0)), "{ran}");
    // The same ids in another form are the same fetches.
    let ran = dir.tollgate(&["publish", "--json", "f.csv"]).run().exits(0);
    assert_eq!(counts(&ran.json()), [3, 1, 2, 0], "{ran}");
    let ran = dir.tollgate(&["publish", "--json", "-"]).input(lines.clone()).run().exits(0);
    assert_eq!(counts(&ran.json()), [2, 0, 2, 0], "{ran}");
    let ran = dir.tollgate(&["publish", "-", "--format", "csv"]).input(csv).run().exits(0);
    assert_eq!(ran.out(), "", "nobody asked for JSON");
    ran.says("0 new, 3 duplicate, 0 refused");

    let found = nats.messages("FETCH");
    let of = |message: &StreamMessage| {
        let (_, lane) = message.subject.split_once(".p.").unwrap();
        (lane.to_owned(), header(message, "Nats-Msg-Id").unwrap())
    };
    let wanted = [
        ("act%2E1.report", "p.act%2E1.report:one"),
        ("act%402.report.high", "p.act%402.report:two"),
        ("act%402.report", "p.act%402.report:three"),
    ];
    let wanted: Vec<_> = wanted.map(|(lane, id)| (lane.to_owned(), id.to_owned())).into();
    assert_eq!(found.iter().map(of).collect::<Vec<_>>(), wanted);
    let two: Value = serde_json::from_slice(&found[1].payload).unwrap();
    assert_eq!((&two["account"], &two["params"]["date"]), (&json!("act@2"), &json!("d2")));

    dir.write("f.txt", "");
    dir.tollgate(&["publish", "f.txt"]).run().exits(2).says("--format");
    dir.tollgate(&["publish", "absent.jsonl"]).run().exits(2).says("TG0310").says("absent.jsonl");
}

#[test]
fn what_is_no_fetch_is_refused_with_its_line_and_the_rest_is_published() {
    let (nats, dir) = publisher("");
    let good = |n: u32| fetch("a", "report", &n.to_string(), json!({}));
    let bad = [
        ("no fetch\n", "TG0101"),
        (r#"{"id":"x","platform":"p","account":"a","api":"report","acount":1}"#, "TG0103"),
        (r#"{"id":"x","platform":"p","api":"report"}"#, "TG0107"),
        (r#"{"id":"x","platform":"NO","account":"a","api":"report"}"#, "TG0105"),
        (r#"{"id":"x","platform":"p","account":"","api":"report"}"#, "TG0108"),
    ];
    let mut lines = good(0);
    for (n, (line, _)) in bad.iter().enumerate() {
        lines += line.trim();
        lines += "\n";
        lines += &good(n as u32 + 1);
    }
    dir.write("f.jsonl", lines);
    let mut ran = dir.tollgate(&["publish", "--json", "f.jsonl"]).run().exits(1);
    assert_eq!(counts(&ran.json()), [11, 6, 0, 5], "{ran}");
    for (n, (_, code)) in bad.iter().enumerate() {
        ran = ran.says(&format!("f.jsonl:{}: {code}", 2 * n + 2));
    }
    assert_eq!(nats.count("FETCH"), 6);
    // Thousands are counted and not told.
    dir.write("all.jsonl", "no fetch\n".repeat(5000));
    let ran = dir.tollgate(&["publish", "--json", "all.jsonl"]).run().exits(1);
    assert_eq!(counts(&ran.json()), [5000, 0, 0, 5000]);
    assert!(ran.err().lines().count() < 120 && ran.err().contains("counted only"), "{ran}");
}

#[test]
fn a_publisher_that_knows_the_recipes_refuses_what_they_cannot_use() {
    let nats = Nats::start();
    let dir = Dir::with(&Config::of(&emulator(Vec::new(), 1)).on(&nats).report());
    dir.tollgate(&["setup"]).run().exits(0);
    let lines = fetch("a", "report", "1", json!({ "params": { "date": "d" } }))
        + &fetch("a", "report", "2", json!({}))
        + &fetch("a", "other", "3", json!({}))
        + &fetch("a", "report", "4", json!({ "params": { "date": "d", "dat": "d" } }));
    dir.write("f.jsonl", lines);
    let ran = dir.tollgate(&["publish", "--json", "f.jsonl"]).run().exits(1);
    assert_eq!(counts(&ran.json()), [4, 1, 0, 3], "{ran}");
    ran.says("f.jsonl:2: TG0110").says("f.jsonl:3: TG0106").says("f.jsonl:4: TG0112");
}

#[test]
fn json_and_protobuf_are_the_same_to_the_node() {
    let (nats, emulator) = (Nats::start(), emulator(Vec::new(), 5));
    let dir = Dir::with(&Config::of(&emulator).on(&nats).report());
    dir.tollgate(&["setup"]).run().exits(0);
    let accounts = accounts("act.@é", 4);
    let all = reports(&accounts, 2);
    let lines: Vec<&str> = all.lines().collect();
    dir.write("json.jsonl", lines[..4].join("\n"));
    dir.write("proto.jsonl", lines[4..].join("\n"));
    dir.tollgate(&["publish", "json.jsonl"]).run().exits(0);
    dir.tollgate(&["publish", "--protobuf", "proto.jsonl"]).run().exits(0).says("4 new");
    // Told by id, whatever the form.
    dir.tollgate(&["publish", "--protobuf", "json.jsonl"]).run().exits(0).says("4 duplicate");
    let types: Vec<_> =
        nats.messages("FETCH").iter().map(|message| header(message, "Content-Type")).collect();
    assert_eq!(types[..4].iter().flatten().count(), 0);
    assert!(types[4..].iter().all(|of| of.as_deref() == Some("application/x-protobuf")));

    let node = serve(&dir);
    nats.wait_count("FETCH", 0);
    let ran = stop(node);
    dir.assert_reports(&accounts, 2);
    assert_eq!((done(&nats).len(), nats.count("DEAD")), (8, 0));
    assert_eq!(emulator.counts().0, 8, "{ran}");
}

#[test]
fn a_server_killed_twice_while_fetches_are_published_has_them_all_once() {
    let (mut nats, dir) = publisher("");
    let all = reports(&accounts("act", 300), 100);
    let (running, mut pipe) = dir.tollgate(&["publish", "--json", "-"]).start_with_open_input();
    let lines: Vec<&str> = all.split_inclusive('\n').collect();
    let (one, two) = lines.split_at(lines.len() / 2);
    let (one, two) = (one.concat(), two.concat());
    let writer = thread::spawn(move || {
        pipe.write_all(one.as_bytes()).unwrap();
        // So that the kill is in the middle, however fast it is.
        thread::sleep(Duration::from_millis(600));
        pipe.write_all(two.as_bytes()).unwrap();
    });
    for wait in [250, 500] {
        thread::sleep(Duration::from_millis(wait));
        nats.server.kill();
        thread::sleep(Duration::from_millis(500));
        nats.server.restart();
    }
    writer.join().unwrap();
    let ran = running.wait().exits(0);
    let json = ran.json();
    let [fetches, new, duplicate, refused] = counts(&json);
    assert_eq!((fetches, new + duplicate, refused), (30_000, 30_000, 0), "{ran}");
    // One that was stored just before a kill, and confirmed as a repeat after it, counts as a duplicate.
    let ids: BTreeSet<String> = nats.ids("FETCH").into_iter().collect();
    assert_eq!((ids.len(), nats.count("FETCH")), (30_000, 30_000), "{ran}");
}

#[test]
fn a_server_that_stays_away_ends_the_publishing_with_counts() {
    let (mut nats, dir) = publisher("");
    // Few, and more than the connection's line holds.
    for (late, patience) in [(10, "2"), (5000, "1")] {
        let (running, mut pipe) = dir
            .tollgate(&["publish", "--json", "--patience", patience, "-"])
            .start_with_open_input();
        pipe.write_all(reports(&accounts(&format!("early{late}"), 10), 10).as_bytes()).unwrap();
        pipe.flush().unwrap();
        nats.wait_count("FETCH", 100);
        nats.server.kill();
        // Broken if it ends before it has read all.
        pipe.write_all(reports(&accounts("late", late), 1).as_bytes()).ok();
        drop(pipe);
        let ran = running.wait().exits(2).says("TG0401").says("publish the same again");
        let json = ran.json();
        // All of the first hundred were stored; some confirmations may have died with the server.
        let new = json["new"].as_u64().unwrap();
        assert!((1..=100).contains(&new) && json["refused"] == json!(0), "{ran}");
        let unconfirmed = json["unconfirmed"].as_u64().unwrap();
        assert_eq!(json["fetches"], new + unconfirmed, "{ran}");
        assert!((10..=100 + late as u64).contains(&unconfirmed), "{ran}");
        assert!(ran.took < Duration::from_secs(15), "{ran}");
        nats.server.restart();
        nats.js(async |js| {
            js.get_stream("TOLLGATE_FETCH").await.unwrap().purge().await.unwrap();
        });
    }
}

#[test]
fn a_full_stream_takes_no_more_and_what_it_took_is_counted() {
    let (nats, dir) = publisher("fetch_bytes_max = \"1MiB\"");
    let big = "x".repeat(50_000);
    let lines: String = (0..50)
        .map(|n| fetch("a", "report", &n.to_string(), json!({ "params": { "big": big } })))
        .collect();
    dir.write("f.jsonl", lines);
    let ran = dir.tollgate(&["publish", "--json", "f.jsonl"]).run().exits(2);
    let ran = ran.says("TG0405").says("fetch_bytes_max");
    let stored = nats.count("FETCH");
    assert!((15..=21).contains(&stored), "{stored} of 50 kB each fit into 1 MiB");
    let json = ran.json();
    assert_eq!((&json["new"], &json["duplicate"]), (&json!(stored), &json!(0)), "{ran}");
    let fetches = json["fetches"].as_u64().unwrap();
    assert_eq!(json["unconfirmed"], fetches - stored, "{ran}");
    // Nothing that waits is pushed out.
    let first = &nats.messages("FETCH")[0];
    assert_eq!(header(first, "Nats-Msg-Id").as_deref(), Some("p.a.report:0"));
}
