//! Archives of which several files are stored: made by Python's `zipfile` and by Info-ZIP, sent over real sockets,
//! stored by the real binary, killed in between.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tollgate_protos::{Dead, Manifest};

use crate::util::{Config, Dir, Provider, Told, fetch, lossy, sha256, wait_until};

/// What the larger archives hold, in their order.
const NAMES: [&str; 5] =
    ["readme.txt", "ads/daily.csv", "ads/키워드.csv", "ads/empty.csv", "deep/er/and/deeper/x.csv"];

/// Archives in a folder.
fn archives() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/archives.py");
    let made = Command::new("python3").args(["-W", "ignore", script]).arg(folder.path()).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", lossy(&made.stderr));
    folder
}

/// Answers each path with the archive of that name.
fn provider(folder: &Path) -> Provider {
    let folder = folder.to_owned();
    Provider::start(move |call, _| match std::fs::read(folder.join(call.path())) {
        Ok(zip) => Told::of(200, "application/zip", zip),
        Err(_) => Told::json(&json!({ "error": { "code": 7, "text": "no right" } })),
    })
}

fn config(provider: &Provider) -> Config {
    Config::at(&provider.base_url()).store("compression = \"none\"").collect("attempts_max = 2")
}

fn api(path: &str, lines: &str) -> String {
    format!("path = \"{path}\"\nformat = \"csv\"\ndecode = [\"zip\"]\n{lines}")
}

/// What the manifest of a fetch says, once each of its objects was compared with the file that it names.
fn manifest(dir: &Dir, api: &str) -> Manifest {
    let is_its =
        |file: &&String| file.contains(&format!("/{api}/")) && file.ends_with("_manifest.json");
    let files = dir.files("data");
    let file =
        files.iter().find(is_its).unwrap_or_else(|| panic!("{api} has no manifest: {files:?}"));
    let manifest: Manifest =
        serde_json::from_slice(&std::fs::read(dir.path(file)).unwrap()).unwrap();
    for object in &manifest.done.objects {
        let bytes = body(dir, &object.key);
        assert_eq!(
            (bytes.len() as u64, sha256(&bytes)),
            (object.bytes, object.sha256.clone()),
            "{object:?}"
        );
    }
    let of_fetch = |file: &&String| file.contains(&format!("/{api}/"));
    let count = files.iter().filter(of_fetch).count();
    assert_eq!(count, manifest.done.objects.len() + 1, "objects that no manifest names: {files:?}");
    manifest
}

fn body(dir: &Dir, key: &str) -> Vec<u8> {
    std::fs::read(dir.path("data").join(key)).unwrap_or_else(|error| panic!("{key}: {error}"))
}

fn members(manifest: &Manifest) -> Vec<&str> {
    manifest.done.objects.iter().map(|object| object.member.as_deref().unwrap()).collect()
}

fn dead(dir: &Dir, api: &str) -> Dead {
    let of = |dead: &Dead| dead.fetch.as_ref().unwrap().api.as_deref() == Some(api);
    dir.dead().into_iter().find(of).unwrap_or_else(|| panic!("{api} is not dead"))
}

#[test]
fn every_file_of_an_archive_becomes_an_object_in_the_order_of_the_archive() {
    let folder = archives();
    let same = ["deflate", "stored", "zip64", "streamed", "streamed-stored", "streamed64"];
    let provider = provider(folder.path());
    let mut config = config(&provider);
    for name in same {
        config = config.api(name, &api(&format!("{name}.zip"), "members = \"*\""));
    }
    let chosen = "members = [\"ads/*.csv\", \"readme.txt\"]";
    let config = config
        .api("chosen", &api("streamed.zip", chosen))
        .api("full", &api("256.zip", "members = \"*.csv\""))
        .api("long", &api("long.zip", "members = \"*\""))
        .api("legacy", &api("legacy.zip", "members = \"*\""));
    let dir = Dir::with(&config);
    let apis: Vec<&str> = same.into_iter().chain(["chosen", "full", "long", "legacy"]).collect();
    let all: String = apis.iter().map(|api| fetch("x", api, "f", json!({}))).collect();
    let ran = dir.run(&all).exits(0);
    for name in same {
        let manifest = manifest(&dir, name);
        assert_eq!(members(&manifest), NAMES, "{name}\n{ran}");
        let keys: Vec<&str> = manifest
            .done
            .objects
            .iter()
            .map(|object| object.key.rsplit_once('/').unwrap().1)
            .collect();
        let wanted = [
            "00001.readme.txt",
            "00001.ads%2Fdaily.csv",
            "00001.ads%2F%ED%82%A4%EC%9B%8C%EB%93%9C.csv",
            "00001.ads%2Fempty.csv",
            "00001.deep%2Fer%2Fand%2Fdeeper%2Fx.csv",
        ];
        assert_eq!(keys, wanted);
        let lines = body(&dir, &manifest.done.objects[1].key);
        assert_eq!(lossy(&lines).lines().count(), 60_000);
        assert_eq!(lossy(&body(&dir, &manifest.done.objects[2].key)), "날짜,클릭\n2026-11-20,17\n");
        assert_eq!(manifest.done.objects[3].bytes, 0);
        assert_eq!((manifest.done.pages, manifest.done.attempts), (1, 1));
    }
    assert_eq!(members(&manifest(&dir, "chosen")), &NAMES[..4]);
    let full = manifest(&dir, "full");
    let wanted: Vec<String> = (0..256).map(|number| format!("{number:03}.csv")).collect();
    assert_eq!(members(&full), wanted);
    // Cut for the key, with a hash of the whole: two that begin the same do not meet.
    let long = manifest(&dir, "long");
    let keys: Vec<&str> = long.done.objects.iter().map(|object| &*object.key).collect();
    assert_eq!(keys.len(), 2);
    for key in keys {
        let last = key.rsplit_once('/').unwrap().1;
        assert!(
            last.len() == 200 && last.rsplit_once('.').unwrap().1 == "csv" && last.contains('~'),
            "{last}"
        );
    }
    // No UTF-8: told apart by their bytes.
    let legacy = manifest(&dir, "legacy");
    let keys: Vec<&str> =
        legacy.done.objects.iter().map(|o| o.key.rsplit_once('/').unwrap().1).collect();
    assert_eq!(keys, ["00001.%B0%A1%B0%A2.csv", "00001.%B0%A1%B0%A3.csv"]);
    let summary = ran.summary();
    assert_eq!((summary.done, summary.calls), (10, 10));
    assert_eq!(summary.objects, 6 * 5 + 4 + 256 + 2 + 2);
}

#[test]
fn an_archive_that_must_not_or_cannot_be_taken_is_dead_or_tried_again_with_its_reason() {
    let folder = archives();
    let made = Command::new("zip")
        .args(["-q", "-P", "secret", "encrypted.zip", "deflate.zip"])
        .current_dir(folder.path())
        .status();
    let has_zip = made.is_ok_and(|status| status.success());
    let provider = provider(folder.path());
    let mut cases = vec![
        ("upward", "TG0244", "`../../../etc/passwd` in the zip archive leads out of it by `..`"),
        ("absolute", "TG0244", "`/etc/passwd` in the zip archive is an absolute path"),
        ("twice", "TG0244", "two members of the zip archive are called `a.csv`"),
        ("bzip2", "TG0244", "`a.csv` in the zip archive is compressed by method 12"),
        ("257", "TG0244", "more than 256 members of the zip archive fit"),
        ("longer", "TG0244", "has 600 bytes, at most 512 are allowed"),
        ("none", "TG0244", "it is empty"),
        ("folders", "TG0244", "it is empty"),
        (
            "missing",
            "TG0244",
            "no member of the zip archive is called `*.tsv`: it has readme.txt, ads/daily.csv",
        ),
        ("bomb", "TG0204", "expands to more than 200 times"),
        ("bombs", "TG0204", "expands to more than 200 times"),
        ("cut", "TG0208", "the zip archive was cut short"),
        ("listed", "TG0208", "what its list says of a member is not so"),
        // An error in place of the archive.
        (
            "other",
            "TG0240",
            "permanent: `error.code` in the body is 7, by the rule platforms.p.answers.0: no right",
        ),
    ];
    if has_zip {
        cases.push(("encrypted", "TG0244", "`deflate.zip` in the zip archive is encrypted"));
    }
    let mut config = config(&provider).platform(
        "answers = [{ body = \"error.code\", class = \"permanent\", message = \"error.text\" }]",
    );
    for (name, ..) in &cases {
        let (path, lines) = match *name {
            "missing" => ("deflate.zip".to_owned(), "members = [\"*.csv\", \"*.tsv\"]"),
            name => (format!("{name}.zip"), "members = \"*\""),
        };
        config = config.api(&format!("a{name}"), &api(&path, lines));
    }
    let dir = Dir::with(&config);
    let all: String =
        cases.iter().map(|(name, ..)| fetch("x", &format!("a{name}"), "f", json!({}))).collect();
    let ran = dir.run(&all).exits(1);
    for (name, code, reason) in cases {
        let dead = dead(&dir, &format!("a{name}"));
        assert_eq!(dead.code, code, "{name}: {dead:?}\n{ran}");
        assert!(dead.reason.contains(reason), "{name}: {}", dead.reason);
        let attempts = if code == "TG0208" { 2 } else { 1 };
        assert_eq!(dead.attempts, attempts, "{name}");
    }
    let manifests = dir.files("data").into_iter().filter(|file| file.ends_with("_manifest.json"));
    assert_eq!(manifests.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn bytes_of_all_files_together_are_bounded_as_those_of_one_body_are() {
    let folder = archives();
    let provider = provider(folder.path());
    let config = config(&provider)
        .collect("body_bytes_max = \"4MiB\"")
        .api("one", &api("large.zip", "members = \"*\""))
        .api("all", &api("several.zip", "members = \"*\""))
        .api("some", &api("several.zip", "members = [\"0.csv\", \"3.csv\"]"));
    let dir = Dir::with(&config);
    let all: String =
        ["one", "all", "some"].iter().map(|api| fetch("x", api, "f", json!({}))).collect();
    dir.run(&all).exits(1);
    assert_eq!(members(&manifest(&dir, "one")), ["a.csv", "large.csv"]);
    let dead = dead(&dir, "all");
    assert_eq!((dead.code.as_str(), dir.dead().len()), ("TG0203", 2), "{dead:?}");
}

#[test]
fn each_file_is_judged_and_converted_as_a_body_and_the_first_that_is_not_good_decides() {
    let folder = archives();
    let provider = provider(folder.path());
    let rows = |rule: &str| format!("members = \"*\"\nanswers = [{{ rows = true, {rule} }}]");
    let config = config(&provider)
        .api("good", &api("rows.zip", &rows("min = 4, class = \"incomplete\"")))
        .api("cut", &api("rows.zip", &rows("min = 3, class = \"permanent\"")))
        .api("kept", &api("rows.zip", &rows("min = 3, class = \"incomplete\", then = \"keep\"")))
        .api("some", &api("rows.zip", &rows("max = 0, class = \"empty\"")))
        .api("nothing", &api("heads.zip", &rows("max = 0, class = \"empty\"")))
        .api(
            "vacant",
            &api("none.zip", "members = \"*\"\nanswers = [{ empty = true, class = \"empty\" }]"),
        )
        .api("columns", &api("rows.zip", "members = \"*\"\ncolumns = [\"date\"]"))
        .api("charset", &api("deflate.zip", "members = [\"ads/*\"]\ncharset = \"euc-kr\""));
    let dir = Dir::with(&config);
    let apis = ["good", "cut", "kept", "some", "nothing", "vacant", "columns", "charset"];
    let all: String = apis.iter().map(|api| fetch("x", api, "f", json!({}))).collect();
    let ran = dir.run(&all).exits(1);
    for (name, count, empty, incomplete) in [
        ("good", 3, false, false),
        ("kept", 3, false, true),
        ("some", 3, false, false),
        ("nothing", 2, true, false),
        ("vacant", 1, true, false),
    ] {
        let done = manifest(&dir, name).done;
        assert_eq!(
            (done.objects.len(), done.empty, done.incomplete),
            (count, empty, incomplete),
            "{name}\n{ran}"
        );
    }
    assert_eq!(manifest(&dir, "vacant").done.objects[0].member, None);
    let cut = dead(&dir, "cut");
    assert_eq!(cut.code, "TG0240", "{cut:?}");
    assert!(cut.reason.ends_with("the body has 3 rows, 3 or more, by the rule platforms.p.apis.cut.answers.0, in its file `b.csv`"), "{cut:?}");
    assert_eq!(cut.body_start.as_deref(), Some("h\n1\n2\n3\n"));
    assert_eq!(dead(&dir, "columns").code, "TG0243");
    assert_eq!(dead(&dir, "charset").code, "TG0245");
}

#[test]
fn a_node_killed_within_an_archive_stores_all_of_it_again_under_the_same_keys() {
    let folder = archives();
    let provider = provider(folder.path());
    let config = config(&provider).api("many", &api("many.zip", "members = \"*\""));
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", fetch("x", "many", "f", json!({})));
    let run = || dir.tollgate(&["run", "--json", "fetches.jsonl"]);
    let objects = || dir.files("data").into_iter().filter(|file| file.contains(".bin")).count();
    for least in [1, 8, 18] {
        let running = run().start();
        let before = objects();
        wait_until("some files of the archive", || (objects() >= least.max(before)).then_some(()));
        thread::sleep(Duration::from_millis(5));
        running.kill();
        let files = dir.files("data");
        assert!(!files.iter().any(|file| file.ends_with("_manifest.json")), "{files:?}");
        assert!(objects() < 32, "it was over before its kill");
    }
    let summary = run().run().exits(0).summary();
    assert_eq!((summary.done, summary.dead), (1, 0));
    dir.remove_half_written();
    let manifest = manifest(&dir, "many");
    let wanted: Vec<String> = (0..32).map(|number| format!("{number:02}.bin")).collect();
    assert_eq!(members(&manifest), wanted);
    assert_eq!(provider.count("many.zip", None), 4);
}

#[test]
fn another_collection_under_the_same_keys_leaves_nothing_of_the_one_before() {
    let folder = archives();
    let provider = provider(folder.path());
    let path = folder.path().join("now.zip");
    std::fs::copy(folder.path().join("deflate.zip"), &path).unwrap();
    let config = config(&provider).api("now", &api("now.zip", "members = \"*\""));
    let dir = Dir::with(&config);
    let of = |id: &str| fetch("x", "now", id, json!({}));
    dir.run(&of("f")).exits(0);
    assert_eq!(members(&manifest(&dir, "now")), NAMES);
    std::fs::copy(folder.path().join("rows.zip"), &path).unwrap();
    // The same fetch in another queue: its keys are the same.
    std::fs::remove_dir_all(dir.path("data/state")).unwrap();
    dir.run(&of("f")).exits(0);
    assert_eq!(members(&manifest(&dir, "now")), ["a.csv", "b.csv", "c.csv"]);
}

#[test]
fn what_a_try_that_failed_has_left_goes_though_the_next_calls_it_otherwise() {
    let folder = archives();
    let sent = |names: &[&str]| -> Provider {
        let bodies: Vec<Vec<u8>> =
            names.iter().map(|name| std::fs::read(folder.path().join(name)).unwrap()).collect();
        Provider::start(move |_, number| {
            Told::of(200, "application/zip", bodies[number.min(bodies.len() - 1)].clone())
        })
    };
    // Broken off behind `readme.txt`, then whole, of other names.
    let provider = sent(&["cut.zip", "rows.zip"]);
    let dir = Dir::with(&config(&provider).api("now", &api("now.zip", "members = \"*\"")));
    let of = fetch("x", "now", "f", json!({}));
    let ran = dir.run(&of).exits(0);
    assert_eq!(ran.summary().calls, 2);
    assert_eq!(members(&manifest(&dir, "now")), ["a.csv", "b.csv", "c.csv"]);
    // The manifest of an earlier collection is gone when the first try has failed; what it named goes all the same.
    let provider = sent(&["deflate.zip", "cut.zip", "heads.zip"]);
    let dir = Dir::with(&config(&provider).api("now", &api("now.zip", "members = \"*\"")));
    dir.run(&of).exits(0);
    assert_eq!(members(&manifest(&dir, "now")), NAMES);
    std::fs::remove_dir_all(dir.path("data/state")).unwrap();
    let ran = dir.run(&of).exits(0);
    assert_eq!(ran.summary().calls, 2);
    assert_eq!(members(&manifest(&dir, "now")), ["a.csv", "b.csv"]);
}

#[test]
fn an_archive_of_which_a_later_file_is_too_much_is_split_and_none_of_its_files_stay() {
    let folder = archives();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    // Three rows in the second of three files; two files without a row.
    let (much, little) = (read("rows.zip"), read("heads.zip"));
    let provider = Provider::start(move |call, _| {
        let is_one = ["1", "2"].contains(&&*call.query("ids"));
        Told::of(200, "application/zip", if is_one { little.clone() } else { much.clone() })
    });
    let lines = "query = { ids = { value = \"{ids}\", list = \"commas\" } }\nmembers = \"*\"\n\
                 answers = [{ rows = true, min = 3, class = \"too_much\" }]\n\
                 split = { by = \"list\", param = \"ids\" }";
    let dir = Dir::with(&config(&provider).api("now", &api("now.zip", lines)));
    let ran = dir.run(&fetch("x", "now", "f", json!({ "params": { "ids": ["1", "2"] } }))).exits(0);
    assert_eq!((ran.summary().calls, ran.summary().dead), (3, 0), "{ran}");
    let files = dir.files("data");
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.ends_with("/_manifest.json")) {
        let text = std::fs::read(dir.path(file)).unwrap();
        let done = serde_json::from_slice::<Manifest>(&text).unwrap().done;
        let folder = file.strip_suffix("_manifest.json").unwrap();
        let beside = files.iter().filter(|other| other.starts_with(folder)).count() - 1;
        assert_eq!(beside, done.objects.len(), "{files:?}");
        found.push((done.split_into.len(), beside));
    }
    found.sort_unstable();
    assert_eq!(found, [(0, 2), (0, 2), (2, 0)], "{files:?}");
    dir.tollgate(&["verify", "--deep"]).run().exits(0);
}

#[test]
fn archives_of_info_zip_are_taken_too() {
    let folder = archives();
    std::fs::create_dir_all(folder.path().join("in/ads")).unwrap();
    std::fs::write(folder.path().join("in/a.csv"), "a,b\n".repeat(50_000)).unwrap();
    std::fs::write(folder.path().join("in/ads/b.csv"), "c,d\n").unwrap();
    let zip = |line: &str| {
        Command::new("sh").args(["-c", line]).current_dir(folder.path().join("in")).status()
    };
    let made =
        zip("zip -q -X -r ../info.zip a.csv ads && zip -q -X -r - a.csv ads | cat > ../piped.zip");
    if !made.is_ok_and(|status| status.success()) {
        assert!(Command::new("zip").arg("-v").output().is_err(), "zip is here and fails");
        return;
    }
    let provider = provider(folder.path());
    let config = config(&provider)
        .api("info", &api("info.zip", "members = \"*\""))
        .api("piped", &api("piped.zip", "members = \"*\""));
    let dir = Dir::with(&config);
    dir.run(&["info", "piped"].map(|api| fetch("x", api, "f", json!({}))).concat()).exits(0);
    for api in ["info", "piped"] {
        let manifest = manifest(&dir, api);
        assert_eq!(members(&manifest), ["a.csv", "ads/b.csv"], "{api}");
        assert_eq!(manifest.done.objects[0].bytes, 200_000);
    }
}
