//! What is kept of what landed: where each object comes from, whose its key is, whether it is still what it was, and
//! what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use object_store::aws::AmazonS3Builder;
use object_store::{Attribute, ObjectStoreExt};
use serde_json::{Value, json};
use tollgate_emulator::{Emulator, Latency, Profile};

use crate::s3_server::{BUCKET, KEY_ID, S3Server, SECRET};
use crate::util::{Config, Dir, Provider, Told, accounts, fetch, reports, wait_until};

fn emulator() -> Emulator {
    Emulator::start(Profile { record: true, ..Profile::default() }).unwrap()
}

/// Every line below `_manifests/`.
fn lines(dir: &Dir, folder: &str) -> Vec<Value> {
    let mut lines = Vec::new();
    let Ok(days) = fs::read_dir(dir.path(folder).join("_manifests")) else { return lines };
    for day in days.map(Result::unwrap) {
        assert!(day.file_name().to_str().unwrap().starts_with("dt=20"), "{day:?}");
        for file in fs::read_dir(day.path()).unwrap().map(Result::unwrap) {
            let text = fs::read_to_string(file.path()).unwrap();
            lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        }
    }
    lines
}

#[test]
fn every_object_is_traced_to_its_fetch_its_permit_its_request_and_its_answer() {
    let emulator = emulator();
    let config = Config::of(&emulator).report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 3);
    dir.run(&reports(&accounts, 4)).exits(0);
    let collected = dir.collected();
    let lines = lines(&dir, "data");
    assert_eq!((collected.len(), lines.len()), (12, 12));
    let by_key: BTreeMap<&str, &Value> =
        lines.iter().map(|line| (line["key"].as_str().unwrap(), line)).collect();
    for one in collected.values() {
        let manifest = serde_json::to_value(&one.manifest).unwrap();
        let from = &manifest["provenance"];
        let object = &manifest["objects"][0];
        let line = by_key[object["key"].as_str().unwrap()];
        for name in ["key", "bytes", "sha256", "stored_bytes", "stored_sha256"] {
            assert_eq!(line[name], object[name], "{name}: {line}");
            assert!(!line[name].is_null(), "{name}: {line}");
        }
        for name in ["platform", "account", "api", "id", "seq", "params", "queue"] {
            assert_eq!(line[name], manifest[name], "{name}: {line}");
        }
        for (name, value) in from.as_object().unwrap() {
            assert_eq!(&line[name], value, "{name}: {line}");
        }
        let day = manifest["params"]["date"].as_str().unwrap();
        assert!(line["url"].as_str().unwrap().ends_with(&format!("?date={day}")), "{line}");
        assert_eq!((&line["method"], &line["status"]), (&json!("GET"), &json!(200)));
        assert_eq!(
            (&line["page"], &line["attempt"], &line["version"]),
            (&json!(1), &json!(1), &json!(1))
        );
        assert!(
            line["answer_headers"]["content-type"].as_str().unwrap().contains("json"),
            "{line}"
        );
        assert_eq!(line["config"].as_str().unwrap().len(), 16, "{line}");
        assert_eq!(line["recipe"].as_str().unwrap().len(), 16, "{line}");
        let times: Vec<jiff::Timestamp> =
            ["queued_at", "permitted_at", "sent_at", "answered_at", "stored_at"]
                .iter()
                // An answer may be there before it is known when its request was written.
                .filter(|name| **name != "sent_at" || line.get("sent_at").is_some())
                .map(|name| line[name].as_str().unwrap().parse().unwrap())
                .collect();
        assert!(times.is_sorted(), "{line}");
    }
    let ran = dir.tollgate(&["verify", "--deep", "--json"]).run().exits(0);
    let report = ran.json();
    assert_eq!(
        (&report["verified"], &report["objects"], &report["manifests"]),
        (&json!(true), &json!(12), &json!(12))
    );
    // Nobody has to keep them.
    let quiet = Dir::with(&config.store("lines = false"));
    quiet.run(&reports(&accounts, 1)).exits(0);
    assert_eq!(quiet.collected().len(), 3);
    assert!(
        !quiet.path("data/_manifests").exists() && !quiet.path("data/state/manifests").exists()
    );
}

#[test]
fn what_is_broken_in_the_store_is_found_by_verify() {
    let emulator = emulator();
    let dir = Dir::with(&Config::of(&emulator).report());
    dir.run(&reports(&accounts("act", 2), 3)).exits(0);
    let files = dir.files("data");
    let objects: Vec<&String> =
        files.iter().filter(|file| !file.ends_with("_manifest.json")).collect();
    assert_eq!(objects.len(), 6);
    let ran = dir.tollgate(&["verify"]).run().exits(0);
    assert!(ran.out().contains("verified: what is stored is what its manifests say"), "{ran}");
    let mut bytes = fs::read(dir.path(objects[0])).unwrap();
    bytes[20] ^= 1;
    fs::write(dir.path(objects[0]), &bytes).unwrap();
    fs::write(dir.path(objects[1]), &bytes[..10]).unwrap();
    fs::remove_file(dir.path(objects[2])).unwrap();
    let orphan = objects[3].replace("00001", "00002");
    fs::write(dir.path(&orphan), "x").unwrap();
    let ran = dir.tollgate(&["verify", "--json"]).run().exits(1);
    let found: BTreeSet<(String, String)> = ran
        .out()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| {
            Some((line["fault"].as_str()?.to_owned(), line["key"].as_str()?.to_owned()))
        })
        .collect();
    let key = |file: &str| file.strip_prefix("data/").unwrap().to_owned();
    let (folder, _) = objects[2].rsplit_once('/').unwrap();
    let wanted = [
        ("different", key(objects[0])),
        ("torn", key(objects[1])),
        ("missing", key(objects[2])),
        ("nothing", key(&format!("{folder}/_manifest.json"))),
        ("orphaned", key(&orphan)),
    ];
    let wanted = wanted.into_iter().map(|(fault, key)| (fault.to_owned(), key)).collect();
    assert_eq!(found, wanted, "{ran}");
    let text = dir.tollgate(&["verify"]).run().exits(1);
    assert!(
        text.out().contains(
            "not verified: 1 missing, 1 torn, 1 different, 1 orphaned, 1 manifests of nothing"
        ),
        "{text}"
    );
    let key = key(objects[4]);
    let (account, _) = key.rsplit_once('/').unwrap();
    dir.tollgate(&["verify", account]).run().exits(0);
    dir.tollgate(&["verify", "a//b"]).run().exits(2);
    dir.tollgate(&["verify", "--grace", "1"]).run().exits(2).says("a duration with its unit");
    dir.tollgate(&["verify", "--grace", "1h", "--json"]).run().exits(1);
}

fn report_of(account: &str, id: &str, date: &str) -> String {
    fetch(account, "report", id, json!({ "params": { "date": date } }))
}

/// Collects again in a folder whose queue knows nothing of before.
fn anew(dir: &Dir, fetches: &str) -> crate::util::Ran {
    fs::remove_dir_all(dir.path("data/state")).unwrap();
    dir.run(fetches)
}

#[test]
fn two_fetches_that_differ_never_share_a_key_and_the_same_one_replaces_itself() {
    let emulator = emulator();
    let config = Config::of(&emulator)
        .store("key = \"{platform}/{api}/account={account}/dt={params.date}/{page}.{ext}\"")
        .report();
    let dir = Dir::with(&config);
    let check = dir.tollgate(&["check"]).run().exits(0);
    assert!((check.out() + &check.err()).contains("TG0042: without `{id}`"), "{check}");
    let day = "2026-11-20";
    dir.run(&report_of("a", "monday", day)).exits(0);
    let object = "data/p/report/account=a/dt=2026-11-20/00001.json.zst";
    let first = fs::metadata(dir.path(object)).unwrap().modified().unwrap();
    // The same request the next day, under a new id: what users order daily.
    anew(&dir, &report_of("a", "tuesday", day)).exits(0);
    let manifest = || -> Value {
        let path = dir.path("data/p/report/account=a/dt=2026-11-20/_manifest.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    assert_eq!(manifest()["id"], "tuesday");
    assert!(fs::metadata(dir.path(object)).unwrap().modified().unwrap() > first);
    // The same id is the same fetch.
    anew(&dir, &report_of("a", "monday", day)).exits(0);
    assert_eq!(manifest()["id"], "monday");
    // Another one that comes to the same key, though it asks for something else: nothing is overwritten.
    let other = fetch("a", "report", "other", json!({ "params": { "date": day, "rows": 3 } }));
    let config = Config::of(&emulator)
        .store("key = \"{platform}/{api}/account={account}/dt={params.date}/{page}.{ext}\"")
        .api(
            "report",
            "path = \"v1/reports/daily\"\nquery = { date = \"{date}\", rows = \"{rows?}\" }",
        );
    dir.write("tollgate.toml", config.text());
    let ran = anew(&dir, &other).exits(1);
    assert_eq!(ran.summary().dead, 1, "{ran}");
    let dead = dir.dead();
    assert_eq!(dead[0].code, "TG0131", "{dead:?}");
    assert!(
        dead[0].reason.contains("account=a/dt=2026-11-20") && dead[0].reason.contains("monday"),
        "{dead:?}"
    );
    assert_eq!(manifest()["id"], "monday");
    dir.tollgate(&["verify", "--deep"]).run().exits(0);
}

#[test]
fn what_is_stored_now_says_whose_a_key_is_whatever_was_there_before() {
    let emulator = emulator();
    let config = Config::of(&emulator)
        .store("key = \"{platform}/{api}/account={account}/dt={params.date}/{page}.{ext}\"")
        .api(
            "report",
            "path = \"v1/reports/daily\"\nquery = { date = \"{date}\", rows = \"{rows?}\" }",
        );
    let dir = Dir::with(&config);
    let day = "2026-11-20";
    let of = |id: &str, rows: u32| {
        fetch("a", "report", id, json!({ "params": { "date": day, "rows": rows } }))
    };
    let path = dir.path("data/p/report/account=a/dt=2026-11-20/_manifest.json");
    let stored = || -> (Value, Value) {
        let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        (manifest["id"].clone(), manifest["params"]["rows"].clone())
    };
    dir.run(&of("monday", 1)).exits(0);
    // The same id with other parameters, then the same parameters under another id: each replaces what is there.
    anew(&dir, &of("monday", 2)).exits(0);
    assert_eq!(stored(), (json!("monday"), json!(2)));
    dir.run(&of("wednesday", 2)).exits(0);
    assert_eq!(stored(), (json!("wednesday"), json!(2)));
    // What was there first counts no more.
    let ran = dir.run(&of("thursday", 1)).exits(1);
    assert_eq!(ran.summary().done, 0, "{ran}");
    let dead = dir.dead();
    assert!(dead[0].code == "TG0131" && dead[0].reason.contains("wednesday"), "{dead:?}");
    assert_eq!(stored(), (json!("wednesday"), json!(2)));
    dir.tollgate(&["verify", "--deep"]).run().exits(0);
    // Nobody's once its folder is gone, or what says whose it is.
    fs::remove_file(path.with_file_name("_owner.json")).unwrap();
    dir.run(&of("friday", 3)).exits(0);
    assert_eq!(stored(), (json!("friday"), json!(3)));
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    dir.run(&of("saturday", 4)).exits(0);
    assert_eq!(stored(), (json!("saturday"), json!(4)));
    dir.tollgate(&["verify", "--deep"]).run().exits(0);
}

#[test]
fn a_read_whose_folder_a_later_order_has_taken_ends_with_its_next_page() {
    // Tuesday's order begins once Monday's first page is stored, and Monday's second page comes once Tuesday's are.
    let (begun, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (has_begun, is_over) = (Arc::clone(&begun), Arc::clone(&over));
    let provider = Provider::start(move |call, _| {
        let wait = |flag: &AtomicBool| {
            let until = Instant::now() + Duration::from_secs(20);
            while !flag.load(Ordering::Acquire) && Instant::now() < until {
                thread::sleep(Duration::from_millis(5));
            }
        };
        match (&*call.query("n"), &*call.query("cursor")) {
            ("monday", "c2") => {
                has_begun.store(true, Ordering::Release);
                wait(&is_over);
            }
            ("tuesday", "") => wait(&has_begun),
            _ => {}
        }
        match &*call.query("cursor") {
            "c2" => Told::json(&json!({ "data": [call.query("n")] })),
            _ => Told::json(&json!({ "data": [call.query("n")], "next": "c2" })),
        }
    });
    let config = Config::at(&provider.base_url())
        .store("key = \"{platform}/{api}/account={account}/dt={params.date}/{page}.{ext}\"")
        .api(
            "report",
            "path = \"report\"\nquery = { date = \"{date}\", n = \"{id}\", cursor = \"{page.cursor}\" }\n\
             pages = { by = \"cursor\", next = \"next\", items = \"data\", max = 10 }",
        );
    let dir = Dir::with(&config);
    let day = "2026-11-20";
    dir.write("f.jsonl", report_of("a", "monday", day) + &report_of("a", "tuesday", day));
    let run = dir.tollgate(&["run", "--json", "f.jsonl"]).start();
    let folder = dir.path("data/p/report/account=a/dt=2026-11-20");
    let id = || -> Option<Value> {
        let text = fs::read(folder.join("_manifest.json")).ok()?;
        Some(serde_json::from_slice::<Value>(&text).ok()?["id"].clone())
    };
    wait_until("Tuesday's manifest", || (id()? == "tuesday").then_some(()));
    over.store(true, Ordering::Release);
    let ran = run.wait().exits(1);
    assert_eq!((ran.summary().done, ran.summary().dead), (1, 1), "{ran}");
    let dead = dir.dead();
    assert!(dead[0].code == "TG0131" && dead[0].reason.contains("tuesday"), "{dead:?}");
    assert_eq!(dead[0].fetch.as_ref().unwrap().id.as_deref(), Some("monday"));
    // Nothing of Tuesday's was touched, and nothing of Monday's is left.
    assert_eq!(id(), Some(json!("tuesday")));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "two pages, their manifest, its owner");
    dir.tollgate(&["verify", "--deep"]).run().exits(0);
}

#[test]
fn one_request_ordered_many_times_at_once_is_stored_as_its_manifest_says() {
    let latency = Latency::Range(Duration::ZERO, Duration::from_millis(30));
    let emulator = Emulator::start(Profile { latency, ..Profile::default() }).unwrap();
    let config = Config::of(&emulator)
        .store("key = \"{platform}/{api}/account={account}/dt={params.date}/{page}.{ext}\"")
        // Each answer is another one.
        .api("report", "path = \"v1/reports/daily\"\nquery = { date = \"{date}\", n = \"{id}\" }");
    let dir = Dir::with(&config);
    let fetches: String =
        (0..40).map(|n| report_of("a", &format!("order{n}"), "2026-11-20")).collect();
    let ran = dir.run(&fetches).exits(0);
    assert_eq!((ran.summary().done, ran.summary().dead), (40, 0), "{ran}");
    assert_eq!(dir.files("data").len(), 3);
    dir.tollgate(&["verify", "--deep"]).run().exits(0);
}

#[test]
fn of_many_fetches_that_come_to_one_key_at_once_one_is_stored_and_none_is_lost_unseen() {
    let emulator = emulator();
    // Accounts are left out: all of them come to the same keys, at the same time.
    let config =
        Config::of(&emulator).store("key = \"{platform}/{api}/{id}/{page}.{ext}\"").report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 20);
    let fetches: String = accounts.iter().map(|account| report_of(account, "same", "d")).collect();
    let ran = dir.run(&fetches).exits(1);
    assert_eq!((ran.summary().done, ran.summary().dead), (1, 19), "{ran}");
    let collected = dir.files("data");
    let manifest: Value =
        serde_json::from_slice(&fs::read(dir.path("data/p/report/same/_manifest.json")).unwrap())
            .unwrap();
    assert_eq!(collected.len(), 3, "an object, its manifest, its owner: {collected:?}");
    let dead: BTreeSet<String> = dir
        .dead()
        .into_iter()
        .map(|dead| {
            assert_eq!(dead.code, "TG0131");
            dead.fetch.unwrap().account.unwrap()
        })
        .collect();
    assert_eq!(dead.len(), 19);
    assert!(!dead.contains(manifest["account"].as_str().unwrap()));
    dir.tollgate(&["verify", "--deep"]).run().exits(0);
}

#[test]
fn only_a_template_that_leaves_something_out_costs_requests() {
    const FETCHES: u64 = 12;
    let emulator = emulator();
    let server = S3Server::start();
    let ran = |key: &str| {
        let config = Config::of(&emulator)
            .store(&format!("url = \"s3://{BUCKET}/raw\""))
            .store(&format!("endpoint = \"{}\"\nallow_http = true", server.endpoint()))
            .store("access_key_id = \"env:ID\"\nsecret_access_key = \"env:KEY\"")
            .store(&format!("lines = false\nkey = \"{key}\""))
            .report();
        let dir = Dir::with(&config);
        dir.write("fetches.jsonl", reports(&accounts("act", 3), 4));
        let seen = || ["GET", "HEAD", "PUT", "DELETE"].map(|what| server.seen(what));
        let before = seen();
        let run = dir.tollgate(&["run", "fetches.jsonl"]).env("ID", KEY_ID).env("KEY", SECRET);
        run.run().exits(0);
        let after = seen();
        std::array::from_fn::<u64, 4, _>(|at| after[at] - before[at])
    };
    // Beside a probe that is put and taken away: an object and its manifest.
    let all = "{platform}/{api}/{account}/{date}/{id}/{page}.{ext}";
    assert_eq!(ran(all), [0, 0, 2 * FETCHES + 1, 1]);
    // And who has stored there: looked for, and made.
    let narrow = "{platform}/{api}/{account}/{params.date}/{page}.{ext}";
    assert_eq!(ran(narrow), [FETCHES, 0, 3 * FETCHES + 1, 1]);
    // Made by these before.
    assert_eq!(ran(narrow), [FETCHES, 0, 2 * FETCHES + 1, 1]);
}

#[test]
fn what_is_missing_is_named_and_the_fetches_for_it_fill_it() {
    let emulator = emulator();
    let config = Config::of(&emulator).api(
        "report",
        "path = \"v1/reports/daily\"\nquery = { date = \"{date}\" }\ncomplete = { param = \"date\", from = \"2026-11-10\" }",
    );
    let dir = Dir::with(&config);
    // Ten days of three accounts, some of which nobody ordered.
    let lost = [("act_000", 12), ("act_001", 10), ("act_001", 19), ("act_002", 15)];
    let accounts = ["act_000", "act_001", "act_002"];
    let mut fetches = String::new();
    for account in accounts {
        for day in (10..20).filter(|day| !lost.contains(&(account, *day))) {
            fetches += &report_of(account, &format!("d{day}"), &format!("2026-11-{day}"));
        }
    }
    dir.run(&fetches).exits(0);
    dir.write("accounts.txt", accounts.join("\n") + "\nact_new\n");
    let of = ["complete", "--to", "2026-11-19"];
    let with = |more: &[&str]| dir.tollgate(&[&of[..], more].concat()).run();
    let csv = with(&["--csv", "--gaps"]).exits(1);
    let gaps: Vec<String> = csv
        .out()
        .lines()
        .skip(1)
        .map(|row| {
            let row: Vec<&str> = row.split(',').collect();
            format!("{} {} {}", row[2], row[3], row[4])
        })
        .collect();
    let wanted: Vec<String> =
        lost.iter().map(|(account, day)| format!("{account} 2026-11-{day} missing")).collect();
    assert_eq!(gaps, wanted, "{csv}");
    let all = with(&["--json", "--accounts", "accounts.txt"]).exits(1);
    let counts = all.json();
    assert_eq!(counts, json!({ "present": 26, "missing": 14, "dead": 0, "again": 0 }), "{all}");
    assert_eq!(all.out().lines().count(), 41);
    let table = with(&[]).exits(1);
    assert!(
        table.out().contains("p/report")
            && table.out().contains("missing  2026-11-12  p/act_000 report"),
        "{table}"
    );
    // They are fetches.
    let filled = with(&["--fetches"]).exits(0).out();
    assert_eq!(filled.lines().count(), 4, "{filled}");
    assert!(filled.lines().all(|line| line.contains("\"priority\":\"low\"")), "{filled}");
    let ran = dir.run(&filled).exits(0);
    assert_eq!((ran.summary().done, ran.summary().calls), (4, 4), "{ran}");
    with(&[]).exits(0);
    assert_eq!(with(&["--fetches"]).exits(0).out(), "");
    dir.tollgate(&["complete", "q"]).run().exits(2).says("complete = { param");
    dir.tollgate(&["complete", "--from", "soon"]).run().exits(2).says("2026-11-20");
}

#[test]
fn what_died_is_told_apart_from_what_nobody_ordered() {
    let emulator = emulator();
    let config = Config::of(&emulator).collect("attempts_max = 1").api(
        "report",
        "path = \"nothing/here\"\nquery = { date = \"{date}\" }\ncomplete = { param = \"date\" }",
    );
    let dir = Dir::with(&config);
    dir.run(&report_of("a", "1", "2026-11-10")).exits(1);
    let asked = ["complete", "--from", "2026-11-10", "--to", "2026-11-11", "--json"];
    let ran = dir.tollgate(&asked).run().exits(1);
    let rows: Vec<Value> =
        ran.out().lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(
        (&rows[0]["state"], &rows[1]["state"]),
        (&json!("dead"), &json!("missing")),
        "{ran}"
    );
    assert_eq!(rows[0]["code"], dir.dead()[0].code.as_str(), "{ran}");
    let fetches = |states: &str| {
        let states = format!("--fetches={states}");
        let asked = ["complete", "--from", "2026-11-10", "--to", "2026-11-11", &states];
        dir.tollgate(&asked).run().exits(0).out().lines().count()
    };
    assert_eq!((fetches("dead"), fetches("missing,dead")), (1, 2));
}

#[tokio::test]
async fn in_a_bucket_an_object_says_itself_where_it_comes_from() {
    let emulator = emulator();
    let server = S3Server::start();
    let config = Config::of(&emulator)
        .store(&format!("url = \"s3://{BUCKET}/raw\""))
        .store(&format!("endpoint = \"{}\"\nallow_http = true", server.endpoint()))
        .store("access_key_id = \"env:ID\"\nsecret_access_key = \"env:KEY\"")
        .report();
    let dir = Dir::with(&config);
    let account = "광고/1";
    dir.write("fetches.jsonl", report_of(account, "the id", "2026-11-20"));
    let tollgate = |args: &[&str]| dir.tollgate(args).env("ID", KEY_ID).env("KEY", SECRET).run();
    tollgate(&["run", "--json", "fetches.jsonl"]).exits(0);
    let verified = tollgate(&["verify", "--json"]).exits(0).json();
    assert_eq!((&verified["objects"], &verified["manifests"]), (&json!(1), &json!(1)));
    let bucket = AmazonS3Builder::new()
        .with_bucket_name(BUCKET)
        .with_endpoint(server.endpoint())
        .with_region("us-east-1")
        .with_allow_http(true)
        .with_access_key_id(KEY_ID)
        .with_secret_access_key(SECRET)
        .build()
        .unwrap();
    let listed = object_store::ObjectStore::list_with_delimiter(&bucket, None).await.unwrap();
    assert_eq!(listed.common_prefixes.len(), 1, "{listed:?}");
    let mut keys = Vec::new();
    let mut folders = listed.common_prefixes;
    while let Some(folder) = folders.pop() {
        let listed =
            object_store::ObjectStore::list_with_delimiter(&bucket, Some(&folder)).await.unwrap();
        folders.extend(listed.common_prefixes);
        keys.extend(listed.objects.into_iter().map(|meta| meta.location));
    }
    assert!(keys.iter().any(|key| key.as_ref().starts_with("raw/_manifests/dt=")), "{keys:?}");
    let key = keys.iter().find(|key| key.as_ref().ends_with("00001.json.zst")).unwrap();
    let found = bucket.get(key).await.unwrap();
    let about = found.attributes.clone();
    let of = |name: &'static str| {
        about.get(&Attribute::Metadata(name.into())).map(|value| value.to_string())
    };
    assert_eq!(of("tollgate-account").as_deref(), Some("%EA%B4%91%EA%B3%A0/1"), "{about:?}");
    assert_eq!(of("tollgate-fetch").as_deref(), Some("the id"), "{about:?}");
    assert_eq!(of("tollgate-status").as_deref(), Some("200"), "{about:?}");
    let stored = found.bytes().await.unwrap();
    assert_eq!(of("tollgate-stored-sha256"), Some(crate::util::sha256(&stored)), "{about:?}");
    assert!(of("tollgate-permitted-at").is_some() && of("tollgate-recipe").is_some(), "{about:?}");
}
