//! What is stored: where, how, and with which manifest.

use serde_json::json;
use tollgate_emulator::{
    BodyShape, Emulator, Gzip, Profile, ProviderLimit, big_sha256, expected_body,
};

use crate::util::{Config, Dir, accounts, fetch, reports};

fn emulator(limits: Vec<ProviderLimit>) -> Emulator {
    Emulator::start(Profile { limits, record: true, ..Profile::default() }).unwrap()
}

#[test]
fn objects_are_stored_as_the_configuration_says() {
    let emulator = emulator(Vec::new());
    for (compression, end) in [("none", ".json"), ("gzip", ".json.gz"), ("zstd", ".json.zst")] {
        let config = Config::of(&emulator)
            .store(&format!("compression = \"{compression}\""))
            .store("fsync = true")
            .api(
                "report",
                "path = \"v1/reports/daily\"\nquery = { date = \"{date}\", rows = 300 }",
            );
        let dir = Dir::with(&config);
        let line = fetch("a", "report", "1", json!({ "params": { "date": "d" } }));
        dir.run(&line).exits(0);
        let collected = dir.collected();
        let (_, one) = collected.first_key_value().unwrap();
        let wanted = expected_body("a", "daily", "date=d&rows=300", 5);
        assert!(one.body == wanted, "{compression}");
        let object = &one.manifest.done.objects[0];
        assert!(object.key.ends_with(&format!("/00001{end}")), "{}", object.key);
        let smaller = object.stored_bytes < object.bytes / 2;
        assert_eq!(smaller, compression != "none", "{object:?}");
    }
}

#[test]
fn a_manifest_says_what_was_ordered_and_what_came() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).report());
    let before = jiff::Timestamp::now();
    let more = json!({ "params": { "date": "d" }, "labels": { "tenant": "acme", "of": "광고" } });
    dir.run(&fetch("act.1", "report", "the id", more)).exits(0);
    let after = jiff::Timestamp::now();
    let collected = dir.collected();
    let manifest = &collected.first_key_value().unwrap().1.manifest;
    assert_eq!(
        (manifest.version, &*manifest.platform, &*manifest.account, &*manifest.api),
        (1, "p", "act.1", "report")
    );
    assert_eq!(json!(manifest.params), json!({ "date": "d" }));
    let done = &manifest.done;
    assert_eq!((&*done.id, done.http_status, done.attempts, done.pages), ("the id", 200, 1, 1));
    assert_eq!(json!(done.labels), json!({ "tenant": "acme", "of": "광고" }));
    assert!(done.fetched_at >= before && done.fetched_at <= after, "{done:?}");
    assert!(done.waited_ms < 10_000, "{done:?}");
    let date = before.strftime("%Y-%m-%d").to_string();
    assert_eq!(done.objects[0].key, format!("p/report/act.1/{date}/the id/00001.json.zst"));
}

#[test]
fn keys_follow_their_template_and_the_store_its_url() {
    let emulator = emulator(Vec::new());
    let key =
        r#"key = "raw/{api}/of-{platform}/{params.date|upper}/{account}/{id}/page-{page}.{ext}""#;
    let config = Config::of(&emulator).store(r#"url = "file:objects""#).store(key).report();
    let dir = Dir::with(&config);
    dir.run(&fetch("a", "report", "1", json!({ "params": { "date": "jan" } }))).exits(0);
    let folder = "objects/raw/report/of-p/JAN/a/1";
    let wanted = ["_manifest.json", "page-00001.json.zst"].map(|name| format!("{folder}/{name}"));
    let mut files = dir.files("objects");
    files.sort();
    let mut wanted = wanted.to_vec();
    wanted.sort();
    assert_eq!(files, wanted);
    assert_eq!(dir.collected_in("objects").len(), 1);
    assert!(dir.files("data").is_empty(), "{:?}", dir.files("data"));
}

#[test]
fn a_store_in_memory_leaves_nothing_behind() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&Config::of(&emulator).store(r#"url = "memory:""#).report());
    let accounts = accounts("act", 5);
    let summary = dir.run(&reports(&accounts, 2)).exits(0).summary();
    assert_eq!((summary.done, summary.objects), (10, 10));
    assert!(dir.files("data").is_empty(), "{:?}", dir.files("data"));
}

#[test]
fn a_body_of_many_pieces_is_stored_whole() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator).collect("buffer_bytes_max = \"5MiB\"").api(
        "big",
        "path = \"rude/big\"\nquery = { bytes = \"{bytes}\", chunked = \"{chunked}\" }",
    );
    let dir = Dir::with(&config);
    let fetches: String = [(1_u64, 0), (65_536, 1), (5_000_000, 0), (5_000_001, 1), (9_999_999, 0)]
        .map(|(bytes, chunked)| {
            let more = json!({ "params": { "bytes": bytes, "chunked": chunked } });
            fetch(&format!("act_{bytes}"), "big", &bytes.to_string(), more)
        })
        .concat();
    dir.run(&fetches).exits(0);
    let collected = dir.collected();
    assert_eq!(collected.len(), 5);
    for ((_, _, bytes), one) in &collected {
        let object = &one.manifest.done.objects[0];
        assert_eq!(object.sha256, big_sha256(bytes.parse().unwrap()), "{bytes}");
        assert!(object.key.ends_with(".bin.zst"), "{}", object.key);
    }
}

#[test]
fn a_body_larger_than_allowed_is_dead_and_leaves_no_file() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator)
        .collect("body_bytes_max = \"100kB\"")
        .api("big", "path = \"rude/big\"\nquery = { bytes = \"{bytes}\", chunked = 1 }");
    let dir = Dir::with(&config);
    let of =
        |bytes: u32| fetch("a", "big", &bytes.to_string(), json!({ "params": { "bytes": bytes } }));
    let ran = dir.run(&(of(100_001) + &of(100_000) + &of(3_000_000))).exits(1);
    assert_eq!((ran.summary().done, ran.summary().dead, ran.summary().calls), (1, 2, 3), "{ran}");
    let dead = dir.dead();
    assert!(dead.iter().all(|dead| dead.code == "TG0203" && dead.http_status == Some(200)));
    assert_eq!(dir.collected().len(), 1, "checks that no other file is there");
}

#[test]
fn a_compressed_answer_is_stored_decoded() {
    for gzip in [Gzip::IfAccepted, Gzip::Always] {
        let body = BodyShape { rows: 2_000, gzip };
        let emulator = Emulator::start(Profile { body, ..Profile::default() }).unwrap();
        let config = Config::of(&emulator)
            .store("compression = \"none\"")
            .api("report", "path = \"v1/reports/daily\"\nheaders = { Accept-Encoding = \"gzip\" }");
        let dir = Dir::with(&config);
        dir.run(&fetch("a", "report", "1", json!({}))).exits(0);
        let collected = dir.collected();
        let one = collected.first_key_value().unwrap().1;
        assert!(one.body == expected_body("a", "daily", "", 2_000), "{gzip:?}");
    }
}
