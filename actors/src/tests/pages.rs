//! Reads of several pages: whoever dies, whatever is away, and other work beside them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use object_store::path::Path;
use tollgate_protos::{Done, Manifest, Object};

use super::*;
use crate::testkit::{on_points, point};

mod elsewhere;

const BODIES: [&str; 4] = [
    r#"{"d":[1,2],"next":"c2"}"#,
    r#"{"d":[3,4],"next":"c3"}"#,
    r#"{"d":[5,6],"next":"c4"}"#,
    r#"{"d":[7],"next":null}"#,
];

fn setup(limits: &str) -> Setup {
    let platform = format!(
        "[platforms.p.limits]\n{limits}\n[platforms.p.apis.a]\npath = \"a/{{id}}\"\nquery = {{ c = \"{{page.cursor}}\" }}\n\
         pages = {{ by = \"cursor\", next = \"next\", items = \"d\" }}\n[platforms.p.apis.b]\npath = \"b/{{id}}\"\n"
    );
    Setup { platform, concurrency: 64, attempts_max: 5, store: None, signals: None }
}

/// The page that a call asks for, from 1.
fn page_of(seen: &Seen) -> usize {
    let cursor = seen.url.query_pairs().find(|(name, _)| name == "c").map(|(_, value)| value);
    cursor.map_or(1, |cursor| cursor.get(1..).unwrap().parse().unwrap())
}

fn pages(seen: &Seen) -> Reply {
    point("call", &id_of(seen));
    if api_of(seen) == "b" {
        return Reply::ok("{}").head_after(ms(20));
    }
    Reply::ok(BODIES[page_of(seen) - 1]).head_after(ms(20))
}

async fn body(rig: &Rig, key: &str) -> Option<String> {
    let bytes = rig.shared.store.get(&Path::from(key)).await.unwrap();
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn folder(account: &str, id: &str) -> String {
    format!("p/a/{account}/2026-11-20/{id}")
}

/// Every key below a folder.
async fn names(rig: &Rig, folder: &str) -> Vec<String> {
    let all = rig.shared.store.keys(10_000).await.unwrap();
    let below = format!("{folder}/");
    let own = all.iter().filter_map(|key| key.as_ref().strip_prefix(&below));
    own.map(str::to_owned).collect()
}

/// Puts what an earlier and longer collection under the same keys has left, of another queue and in another form.
async fn leave_behind(rig: &Rig, account: &str, id: &str, pages: u32) {
    let folder = folder(account, id);
    let mut objects = Vec::new();
    for page in 1..=pages {
        let key = format!("{folder}/{page:05}.csv.zst");
        rig.shared.store.put_small(&Path::from(&*key), "old".into()).await.unwrap();
        objects.push(Object {
            key,
            bytes: 3,
            sha256: String::new(),
            stored_bytes: 3,
            stored_sha256: None,
            member: None,
        });
    }
    let done = Done { objects, pages, ..Done::default() };
    let manifest = Manifest {
        version: 1,
        queue: "another".into(),
        platform: "p".into(),
        account: account.into(),
        api: "a".into(),
        params: serde_json::Map::new(),
        provenance: None,
        done,
    };
    let text = serde_json::to_vec(&manifest).unwrap();
    let key = Path::from(format!("{folder}/_manifest.json"));
    rig.shared.store.put_small(&key, text.into()).await.unwrap();
}

/// Asserts that a read is whole: its manifest, its pages, nothing behind them, no note.
async fn assert_whole(rig: &Rig, account: &str, id: &str, seq: Seq) -> Manifest {
    let folder = folder(account, id);
    let text = body(rig, &format!("{folder}/_manifest.json")).await.expect("a manifest");
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    let keys: Vec<&str> = manifest.done.objects.iter().map(|object| &*object.key).collect();
    let wanted: Vec<String> = (1..=4).map(|page| format!("{folder}/{page:05}.bin")).collect();
    assert_eq!(keys, wanted);
    for (key, wanted) in keys.iter().zip(BODIES) {
        assert_eq!(body(rig, key).await.as_deref(), Some(wanted));
    }
    assert_eq!(names(rig, &folder).await.len(), 5, "{:?}", names(rig, &folder).await);
    let note = rig.queue.note(lane(account, "a", Priority::Normal), seq).await.unwrap();
    assert_eq!(note, None, "the note is gone with its fetch");
    manifest
}

/// One panic, at this point; the points passed, and which it was.
fn run(at: u32, limits: &str) -> (u32, Option<&'static str>) {
    let passed = Rc::new(Cell::new(0));
    let panicked = Rc::new(Cell::new(None));
    let (count, which) = (Rc::clone(&passed), Rc::clone(&panicked));
    let limits = limits.to_owned();
    paused(|| async move {
        let rig = Rig::start(setup(&limits), pages);
        let _hooked = on_points(move |name, whose| {
            count.set(count.get() + 1);
            if count.get() == at {
                which.set(Some(name));
                panic!("{name} of {whose} panics on purpose");
            }
        });
        leave_behind(&rig, "x", "one", 6).await;
        let one = rig.put("x", "a", "one").await;
        let two = rig.put("x", "a", "two").await;
        rig.put("y", "b", "other").await;
        rig.all_end(secs(300)).await;
        sleep(secs(2)).await;
        assert_eq!(rig.done(), 3, "{:?}", rig.dead().await);
        for (id, seq) in [("one", one), ("two", two)] {
            let manifest = assert_whole(&rig, "x", id, seq).await;
            assert!((4..=5).contains(&manifest.done.attempts), "{:?}", manifest.done);
        }
        let mut calls: BTreeMap<(String, usize), u32> = BTreeMap::new();
        for seen in rig.wire.seen() {
            *calls.entry((id_of(&seen), page_of(&seen))).or_default() += 1;
        }
        let again: u32 = calls.values().map(|count| count - 1).sum();
        assert!(again <= 1, "one death costs one call at most: {calls:?}");
        assert_eq!(rig.shared.slots.available_permits(), 64, "every slot came back");
        rig.log.assert_recorded_before_called();
    });
    (passed.get(), panicked.get())
}

#[test]
fn what_rules_say_of_pages_stands_in_the_manifest_of_a_read_that_is_resumed() {
    let marked = |rules: &'static str| {
        let passed = Rc::new(Cell::new(None));
        let seen = Rc::clone(&passed);
        paused(|| async move {
            let mut setup = setup(r#"gap = { per = ["account"], every = "50ms" }"#);
            let with = format!("items = \"d\" }}\nanswers = [{rules}]\nrequest_id = \"d.0\"\n");
            setup.platform = setup.platform.replacen("items = \"d\" }\n", &with, 1);
            let rig = Rig::start(setup, pages);
            let died = Cell::new(0);
            let _hooked = on_points(move |name, _| {
                if name == "after keep_note" {
                    died.set(died.get() + 1);
                    assert!(died.get() != 3, "{name} panics on purpose");
                }
            });
            let seq = rig.put("x", "a", "one").await;
            rig.all_end(secs(300)).await;
            sleep(secs(2)).await;
            let done = assert_whole(&rig, "x", "one", seq).await.done;
            seen.set(Some((done.incomplete, done.empty)));
            assert_eq!(done.request_id.as_deref(), Some("7"), "of the last page");
        });
        passed.get().unwrap()
    };
    let keep = r#"{ body = "next", is = "c3", class = "incomplete", then = "keep" }"#;
    assert_eq!(marked(keep), (true, false), "one page is a part");
    assert_eq!(marked(r#"{ body = "next", is = "c4", class = "empty" }"#), (false, false));
    assert_eq!(marked(r#"{ body = "d.0", class = "empty" }"#), (false, true), "each page is");
}

#[test]
fn a_panic_at_any_point_of_a_read_costs_one_page_at_most() {
    for limits in [r#"gap = { per = ["account"], every = "50ms" }"#, ""] {
        let (points, none) = run(0, limits);
        assert!(points > 60 && none.is_none(), "{points} points");
        let mut names = std::collections::BTreeSet::new();
        for at in 1..=points {
            names.extend(run(at, limits).1);
        }
        for name in
            ["step", "attempt", "call", "before keep_note", "after keep_note", "before finish"]
        {
            assert!(names.contains(name), "no panic at {name}");
        }
    }
}

#[test]
fn each_page_has_a_permit_of_its_own() {
    paused(|| async {
        let rig = Rig::start(setup(r#"gap = { per = ["account"], every = "1s" }"#), pages);
        let seq = rig.put("x", "a", "one").await;
        rig.all_end(secs(10)).await;
        let times = rig.times_of("one");
        assert_eq!(times.len(), 4);
        // The gap counts from the answer of the call before, or from its guard.
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 1000), "{times:?}");
        assert_whole(&rig, "x", "one", seq).await;
        rig.log.assert_recorded_before_called();
    });
}

#[test]
fn a_queue_that_is_away_in_the_middle_costs_no_call() {
    paused(|| async {
        let rig = Rig::start(setup(""), pages);
        let away = rig.queue.clone();
        let left = Rc::new(RefCell::new(3));
        let _hooked = on_points(move |name, _| {
            if name == "before keep_note" && *left.borrow() > 0 {
                *left.borrow_mut() -= 1;
                away.fail_next(2);
            }
        });
        let seq = rig.put("x", "a", "one").await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.calls().len(), 4);
        assert_whole(&rig, "x", "one", seq).await;
    });
}

#[test]
fn an_account_that_rests_between_two_pages_goes_on_from_the_note() {
    paused(|| async {
        let rig = Rig::start(setup(r#"gap = { per = ["account"], every = "10s" }"#), pages);
        let seq = rig.put("x", "a", "one").await;
        // It rests between two pages: what it knows of the read is in its note.
        rig.at(15_000).await;
        assert_eq!((rig.calls().len(), rig.look().await.live), (2, 0));
        rig.all_end(secs(60)).await;
        assert_eq!(rig.calls().len(), 4, "{:?}", rig.calls());
        assert_whole(&rig, "x", "one", seq).await;
    });
}

#[test]
fn a_read_whose_way_of_asking_is_changed_is_begun_anew() {
    paused(|| async {
        let rig = Rig::start(setup(r#"gap = { per = ["account"], every = "1s" }"#), pages);
        let seq = rig.put("x", "a", "one").await;
        rig.at(1500).await;
        assert_eq!(rig.calls().len(), 2);
        let mut other = setup(r#"gap = { per = ["account"], every = "1s" }"#);
        other.platform = other.platform.replace("query = { c", "query = { z = \"1\", c");
        rig.reload(&other).await;
        rig.all_end(secs(60)).await;
        let asked: Vec<usize> = rig.wire.seen().iter().map(page_of).collect();
        assert_eq!(asked, [1, 2, 1, 2, 3, 4]);
        assert_whole(&rig, "x", "one", seq).await;
    });
}

/// A file store, and the file or folder of a key in it.
fn files() -> (tempfile::TempDir, Store, impl Fn(&str) -> std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let objects = root.path().join("objects");
    let store = Store::open_file_on_tokio(&objects, &root.path().join("state"), 1 << 30).unwrap();
    (root, store, move |key| objects.join(key))
}

/// A folder that is not empty stands where an object belongs: it can be neither put nor removed.
fn obstruct(path: &std::path::Path) {
    std::fs::create_dir_all(path.join("in the way")).unwrap();
}

#[test]
fn a_manifest_that_the_store_does_not_take_is_written_when_it_does_and_no_page_is_called_again() {
    paused(|| async {
        let (_root, store, path) = files();
        let mut setup = setup(r#"gap = { per = ["account"], every = "50ms" }"#);
        setup.store = Some(store);
        let with = "items = \"d\" }\nrequest_id = \"d.0\"\n";
        setup.platform = setup.platform.replacen("items = \"d\" }\n", with, 1);
        let rig = Rig::start(setup, pages);
        let manifest = path(&format!("{}/_manifest.json", folder("x", "one")));
        let (noted, way) = (Cell::new(0), manifest.clone());
        let _hooked = on_points(move |name, _| {
            if name == "after keep_note" {
                noted.set(noted.get() + 1);
                if noted.get() == 4 {
                    obstruct(&way);
                }
            }
        });
        let one = rig.put("x", "a", "one").await;
        let two = rig.put("x", "a", "two").await;
        rig.at(30_000).await;
        assert_eq!(rig.calls().len(), 8, "the lane goes on: {:?}", rig.calls());
        assert_whole(&rig, "x", "two", two).await;
        rig.at(600_000).await;
        assert_eq!((rig.calls().len(), rig.done()), (8, 1), "nothing is called again");
        assert_eq!(rig.queue.postponed().await.unwrap(), 1, "it is put aside");
        std::fs::remove_dir_all(&manifest).unwrap();
        rig.all_end(secs(90)).await;
        assert_eq!(rig.calls().len(), 8);
        let done = assert_whole(&rig, "x", "one", one).await.done;
        assert_eq!(done.request_id.as_deref(), Some("7"), "of the last page, from the note");
        assert_eq!(done.attempts, 4);
    });
}

#[test]
fn a_list_that_the_store_does_not_take_for_a_while_costs_no_call() {
    paused(|| async {
        let (_root, store, path) = files();
        let mut setup = setup(r#"gap = { per = ["account"], every = "50ms" }"#);
        setup.store = Some(store);
        let list = path(&format!("{}/_pages-00001.json", folder("x", "one")));
        obstruct(&list);
        let rig = Rig::start(setup, move |seen| {
            let page = page_of(seen);
            if page == 130 {
                std::fs::remove_dir_all(&list).unwrap();
            }
            let next = if page < 140 { format!("\"c{}\"", page + 1) } else { "null".into() };
            Reply::ok(format!(r#"{{"d":[{page}],"next":{next}}}"#).leak())
        });
        rig.put("x", "a", "one").await;
        rig.all_end(secs(60)).await;
        assert_eq!((rig.calls().len(), rig.done()), (140, 1));
        let mut named = 0;
        for number in 1..=3 {
            let key = format!("{}/_pages-{number:05}.json", folder("x", "one"));
            let list: serde_json::Value =
                serde_json::from_str(&body(&rig, &key).await.unwrap()).unwrap();
            assert_eq!(list["first"], named + 1, "{list}");
            named += list["objects"].as_array().unwrap().len();
        }
        assert_eq!((named, names(&rig, &folder("x", "one")).await.len()), (140, 140 + 3 + 1));
    });
}

#[test]
fn a_page_that_the_store_does_not_take_after_its_note_is_called_again_and_those_before_are_not() {
    paused(|| async {
        let (_root, store, path) = files();
        let mut setup = setup(r#"gap = { per = ["account"], every = "50ms" }"#);
        setup.store = Some(store);
        let rig = Rig::start(setup, pages);
        let page = path(&format!("{}/00003.bin", folder("x", "one")));
        obstruct(&page);
        let seq = rig.put("x", "a", "one").await;
        rig.at(2_000).await;
        std::fs::remove_dir_all(&page).unwrap();
        rig.all_end(secs(120)).await;
        let mut asked: Vec<usize> = rig.wire.seen().iter().map(page_of).collect();
        assert!((2..=8).contains(&asked.iter().filter(|page| **page == 3).count()), "{asked:?}");
        asked.dedup();
        assert_eq!(asked, [1, 2, 3, 4]);
        assert_whole(&rig, "x", "one", seq).await;
    });
}

#[test]
fn what_an_earlier_read_has_left_and_cannot_be_removed_stays_and_holds_nothing_up() {
    paused(|| async {
        let (_root, store, path) = files();
        let mut setup = setup("");
        setup.store = Some(store);
        let rig = Rig::start(setup, pages);
        leave_behind(&rig, "x", "one", 6).await;
        let stuck = path(&format!("{}/00006.csv.zst", folder("x", "one")));
        std::fs::remove_file(&stuck).unwrap();
        obstruct(&stuck);
        rig.put("x", "a", "one").await;
        rig.all_end(secs(20)).await;
        assert_eq!((rig.calls().len(), rig.done()), (4, 1));
        std::fs::remove_dir_all(&stuck).unwrap();
        let left = names(&rig, &folder("x", "one")).await;
        let wanted = ["00001.bin", "00002.bin", "00003.bin", "00004.bin", "_manifest.json"];
        assert_eq!(left, wanted, "all others are gone");
    });
}

#[test]
fn a_read_of_one_page_leaves_nothing_of_a_longer_one_behind() {
    paused(|| async {
        let rig = Rig::start(setup(""), |_| Reply::ok(BODIES[3]));
        leave_behind(&rig, "x", "one", 60).await;
        let list = Path::from(format!("{}/_pages-00002.json", folder("x", "one")));
        rig.shared.store.put_small(&list, "{}".into()).await.unwrap();
        rig.put("x", "a", "one").await;
        rig.all_end(secs(20)).await;
        assert_eq!(names(&rig, &folder("x", "one")).await, ["00001.bin", "_manifest.json"]);
        let text = body(&rig, &format!("{}/_manifest.json", folder("x", "one"))).await.unwrap();
        let done = serde_json::from_str::<Manifest>(&text).unwrap().done;
        assert_eq!((done.pages, done.objects.len(), done.empty), (1, 1, false));
        assert_eq!(rig.calls().len(), 1);
    });
}

/// One panic at this point of a read whose third page has too many rows; how many points were passed.
fn run_split(at: u32) -> u32 {
    let passed = Rc::new(Cell::new(0));
    let count = Rc::clone(&passed);
    paused(|| async move {
        let mut setup = setup("");
        setup.platform = setup.platform.replacen(
            "items = \"d\" }\n",
            "items = \"d\", rows_max = 6 }\nparams = [\"ids\"]\nsplit = { by = \"list\", param = \"ids\" }\n",
            1,
        );
        // A part has one page.
        let rig = Rig::start(setup, |seen| {
            point("call", &id_of(seen));
            let is_part = id_of(seen).contains('~');
            Reply::ok(if is_part { BODIES[3] } else { BODIES[page_of(seen) - 1] })
        });
        leave_behind(&rig, "x", "one", 5).await;
        let _hooked = on_points(move |name, whose| {
            count.set(count.get() + 1);
            assert!(count.get() != at, "{name} of {whose} panics on purpose");
        });
        let fields = r#""params":{"ids":["1","2"]}"#;
        let seq = rig.put_as("x", "a", "one", Priority::Normal, fields).await;
        rig.all_end(secs(300)).await;
        sleep(secs(2)).await;
        let parts = [format!("one~{}.1", seq.0), format!("one~{}.2", seq.0)];
        assert_eq!(names(&rig, &folder("x", "one")).await, ["_manifest.json"], "point {at}");
        let text = body(&rig, &format!("{}/_manifest.json", folder("x", "one"))).await.unwrap();
        let manifest: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!((&manifest.done.split_into[..], manifest.done.seq), (&parts[..], seq.0));
        assert!((3..=4).contains(&manifest.done.attempts), "{:?}", manifest.done);
        for part in &parts {
            let own = names(&rig, &folder("x", &part.replace('~', "%7E"))).await;
            assert_eq!(own, ["00001.bin", "_manifest.json"], "point {at}");
        }
        assert_eq!((rig.done(), rig.dead().await.len()), (3, 0), "point {at}");
        let note = rig.queue.note(lane("x", "a", Priority::Normal), seq).await.unwrap();
        assert_eq!(note, None, "the note is gone with its fetch");
        assert!(rig.calls().len() <= 6, "{:?}", rig.calls());
    });
    passed.get()
}

#[test]
fn parts_take_the_place_of_the_pages_that_were_stored_before_whatever_dies() {
    let points = run_split(0);
    assert!(points > 30, "{points} points");
    for at in 1..=points {
        run_split(at);
    }
}
