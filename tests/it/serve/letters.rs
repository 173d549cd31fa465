//! Dead letters on NATS: what becomes one, and what an operator does with them.

use serde_json::{Value, json};
use tollgate_protos::Dead;

use super::{dead, done, emulator, publish, serve, stop};
use crate::util::{Config, Dir, Nats, fetch, reports};

const PROTOBUF: (&str, &str) = ("Content-Type", "application/x-protobuf");
const JSON: (&str, &str) = ("Content-Type", "application/json");

type Header = &'static [(&'static str, &'static str)];

/// The letter of the message with this number in FETCH.
fn letter(all: &[(String, Dead)], seq: u64) -> &(String, Dead) {
    let mut found = all.iter().filter(|(_, dead)| dead.seq == seq);
    let letter = found.next().unwrap_or_else(|| panic!("no letter of {seq} in {all:#?}"));
    assert!(found.next().is_none(), "two letters of {seq}");
    letter
}

#[test]
fn what_is_no_fetch_becomes_a_letter_with_a_code_and_stops_nothing_behind_it() {
    let (nats, emulator) = (Nats::start(), emulator(Vec::new(), 5));
    let config = Config::of(&emulator).on(&nats).report();
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    let good = |id: &str| json!({ "id": id, "params": { "date": id } }).to_string();
    let with = |more: Value| {
        let mut fetch = json!({ "id": "x", "params": { "date": "d" } });
        fetch.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fetch.to_string()
    };
    let long = with(json!({ "labels": { "k": "x".repeat(300_000) } }));
    let past = jiff::Timestamp::now() - std::time::Duration::from_secs(60);
    let report = "p.a.report";
    let bad: Vec<(&str, Header, String, &str)> = vec![
        ("nope.a.report", &[], good("0"), "TG0105"),
        ("p.a.nope", &[], good("1"), "TG0106"),
        (report, &[], "{\"id\": ".into(), "TG0101"),
        (report, &[JSON], "not json".into(), "TG0101"),
        (report, &[], String::new(), "TG0101"),
        (report, &[PROTOBUF], good("2"), "TG0124"),
        (report, &[("Content-Type", "text/csv")], good("3"), "TG0125"),
        (report, &[], with(json!({ "account": "b" })), "TG0123"),
        (report, &[], with(json!({ "platform": "q" })), "TG0123"),
        (report, &[], with(json!({ "api": "other" })), "TG0123"),
        (report, &[], with(json!({ "deadline": past })), "TG0114"),
        (report, &[], with(json!({ "params": {} })), "TG0110"),
        (report, &[], with(json!({ "not_befor": "2030-01-01T00:00:00Z" })), "TG0103"),
        (report, &[], with(json!({ "id": "y".repeat(129) })), "TG0109"),
        (report, &[], long, "TG0102"),
        ("p.a", &[], good("4"), "TG0128"),
        ("p", &[], good("5"), "TG0128"),
        ("p.a.report.urgent", &[], good("6"), "TG0128"),
        ("p.a.report.high.x", &[], good("7"), "TG0128"),
        ("P.a.report", &[], good("8"), "TG0128"),
        ("p.%FF.report", &[], good("9"), "TG0128"),
    ];
    let mut wanted = Vec::new();
    for (subject, headers, payload, code) in &bad {
        let seq = nats.publish(&format!("tollgate.fetch.{subject}"), headers, payload.clone());
        wanted.push((seq, subject, code));
    }
    nats.publish("tollgate.fetch.p.a.report", &[], good("good"));
    let node = serve(&dir);
    nats.wait_count("DONE", 1);
    nats.wait_count("FETCH", 0);
    // The same once more, to a node that is there already. What has fewer than three tokens wakes nobody.
    for (subject, headers, payload, code) in &bad {
        if subject.matches('.').count() >= 2 {
            let seq = nats.publish(&format!("tollgate.fetch.{subject}"), headers, payload.clone());
            wanted.push((seq, subject, code));
        }
    }
    nats.publish("tollgate.fetch.p.a.report", &[], good("better"));
    nats.wait_count("DONE", 2);
    nats.wait_count("FETCH", 0);
    stop(node);

    let all = dead(&nats);
    let missing: Vec<_> =
        wanted.iter().filter(|(seq, ..)| !all.iter().any(|(_, dead)| dead.seq == *seq)).collect();
    assert!(missing.is_empty(), "no letters of {missing:?}");
    assert_eq!(all.len(), wanted.len());
    for (seq, subject, code) in wanted {
        let (told, dead) = letter(&all, seq);
        assert_eq!(dead.code, *code, "{subject}: {dead:?}");
        assert_eq!((dead.attempts, dead.http_status), (0, None), "{dead:?}");
        assert!(!dead.reason.is_empty() && dead.reason.len() < 1000, "{dead:?}");
        let source = dead.source.clone().unwrap_or_default();
        match *code {
            "TG0128" => {
                assert_eq!(told, "tollgate.dead._._._");
                assert_eq!(source, format!("tollgate.fetch.{subject}"), "{dead:?}");
            }
            _ => assert_eq!(told, &format!("tollgate.dead.{subject}")),
        }
    }
    assert_eq!(emulator.counts().0, 2, "no letter cost a call");
    assert!(emulator.calls().iter().all(|call| call.refusal.is_none()));

    // Every one can be listed and shown, and every code explained.
    let list = dir.tollgate(&["dead", "list", "--json"]).run().exits(0).out();
    assert_eq!(list.lines().count(), all.len());
    let text = dir.tollgate(&["dead", "list"]).run().exits(0).out();
    for (_, _, _, code) in &bad {
        assert!(text.contains(code), "{code} is not in\n{text}");
        dir.tollgate(&["explain", code]).run().exits(0);
    }
}

#[test]
fn letters_are_listed_shown_replayed_and_dropped_on_nats() {
    let (nats, emulator) = (Nats::start(), emulator(Vec::new(), 5));
    let config = Config::of(&emulator).on(&nats).report();
    let dir = Dir::with(&config.clone().api("moved", "path = \"rude/status/404\""));
    let node = serve(&dir);
    node.wait_says("shard started");
    let labels = json!({ "labels": { "k": "v" } });
    // One says all of itself, one leaves it to its subject, one is of a platform that is not known.
    let one = fetch("a.1", "moved", "one", labels.clone());
    publish(&dir, &(one + &reports(&["z".to_owned()], 1)));
    nats.publish("tollgate.fetch.p.b.moved.high", &[], r#"{"id":"two"}"#);
    nats.publish("tollgate.fetch.p.c.report", &[], "rubbish");
    nats.wait_count("FETCH", 0);
    nats.wait_count("DEAD", 3);

    let list = dir.tollgate(&["dead", "list"]).run().exits(0).out();
    assert_eq!(list.lines().count(), 3, "{list}");
    for text in ["TG0201", "TG0101", "p/a.1 moved one", "p/b moved two"] {
        assert!(list.contains(text), "{text} is not in\n{list}");
    }
    let letters: Vec<Value> = dir
        .tollgate(&["dead", "list", "--json"])
        .run()
        .exits(0)
        .out()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let number = |id: &str| {
        let is = |letter: &&Value| letter["fetch"]["id"] == *id;
        letters.iter().find(is).unwrap()["number"].to_string()
    };
    let shown = dir.tollgate(&["dead", "show", &number("one"), "--json"]).run().exits(0).json();
    assert_eq!((&shown["code"], &shown["http_status"]), (&json!("TG0201"), &json!(404)));
    assert_eq!((&shown["attempts"], &shown["fetch"]["labels"]), (&json!(1), &labels["labels"]));
    assert!(shown["body_start"].as_str().unwrap().contains("404"), "{shown}");
    dir.tollgate(&["dead", "show", "99"]).run().exits(2).says("no dead letter 99");

    // What never was a fetch cannot be collected, only dropped.
    let rubbish = letters.iter().find(|letter| letter["fetch"].is_null()).unwrap();
    let rubbish = rubbish["number"].to_string();
    dir.tollgate(&["dead", "replay", &rubbish]).run().exits(1).says("never was a fetch");
    dir.tollgate(&["dead", "drop", &rubbish, "99"]).run().exits(1).says("1 dropped, 1 not");
    assert_eq!(nats.count("DEAD"), 2);
    // A replay under the same configuration dies again, with a number of its own.
    dir.tollgate(&["dead", "replay", &number("one")]).run().exits(0).says("1 put back");
    nats.wait_count("FETCH", 0);
    nats.wait_count("DEAD", 2);
    assert_eq!(emulator.counts().0, 4);
    stop(node);

    // The node is away, the recipe is mended, all are replayed; the node collects them when it comes.
    dir.write("tollgate.toml", config.api("moved", "path = \"v1/reports/moved\"").text());
    dir.tollgate(&["dead", "replay", "--all"]).run().exits(0).says("2 put back");
    dir.tollgate(&["dead", "list"]).run().exits(0).says("no dead letters");
    assert_eq!((nats.count("DEAD"), nats.count("FETCH")), (0, 2));
    let node = serve(&dir);
    nats.wait_count("FETCH", 0);
    stop(node);
    let mut ids: Vec<String> = done(&nats).into_iter().map(|(_, done)| done.id).collect();
    ids.sort();
    assert_eq!(ids, ["2026-01-01", "one", "two"]);
    let collected = dir.collected();
    let one = &collected[&("a.1".to_owned(), "moved".to_owned(), "one".to_owned())];
    assert_eq!(json!(one.manifest.done.labels), labels["labels"]);
    assert_eq!((nats.count("DEAD"), emulator.counts().0), (0, 6));
}

#[test]
fn fetches_of_a_platform_and_an_api_not_known_are_collected_once_they_are() {
    let (nats, emulator) = (Nats::start(), emulator(Vec::new(), 5));
    let config = Config::of(&emulator).on(&nats).report();
    let dir = Dir::with(&config);
    let node = serve(&dir);
    node.wait_says("shard started");
    nats.publish("tollgate.fetch.p.a%40b.moved.low", &[], r#"{"id":"api"}"#);
    nats.publish("tollgate.fetch.q.a%40b.all", &[], r#"{"id":"platform"}"#);
    nats.wait_count("DEAD", 2);
    nats.wait_count("FETCH", 0);
    dir.tollgate(&["dead", "replay", "--all"]).run().exits(1).says("TG0105").says("TG0106");
    assert_eq!(nats.count("DEAD"), 2);
    stop(node);

    let base = emulator.base_url();
    let more = format!(
        "[platforms.q]\nbase_url = \"{base}\"\nheaders = {{ X-Account = \"{{account}}\" }}\n\
         [platforms.q.limits]\n[platforms.q.apis.all]\npath = \"v1/reports/all\"\n"
    );
    let mended = config.api("moved", "path = \"v1/reports/moved\"");
    dir.write("tollgate.toml", mended.text() + &more);
    let node = serve(&dir);
    node.wait_says("shard started");
    dir.tollgate(&["dead", "replay", "--all"]).run().exits(0).says("2 put back");
    nats.wait_count("DONE", 2);
    nats.wait_count("FETCH", 0);
    stop(node);
    let mut told: Vec<(String, String)> =
        done(&nats).into_iter().map(|(subject, done)| (subject, done.id)).collect();
    told.sort();
    let of = |subject: &str, id: &str| (subject.to_owned(), id.to_owned());
    let wanted =
        [of("tollgate.done.p.a%40b.moved", "api"), of("tollgate.done.q.a%40b.all", "platform")];
    assert_eq!(told, wanted);
    assert_eq!((nats.count("DEAD"), emulator.counts().0), (0, 2));
}
