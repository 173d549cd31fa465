//! Reads of several pages: whoever dies, whatever is away, and other work beside them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use object_store::path::Path;
use tollgate_protos::Manifest;

use super::*;
use crate::testkit::{on_points, point};

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
    Setup { platform, concurrency: 64, attempts_max: 5, store: None }
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

/// Asserts that a read is whole: its manifest, its pages, nothing behind them, no note.
async fn assert_whole(rig: &Rig, account: &str, id: &str, seq: Seq) -> Manifest {
    let folder = format!("p/a/{account}/2026-11-20/{id}");
    let text = body(rig, &format!("{folder}/_manifest.json")).await.expect("a manifest");
    let manifest: Manifest = serde_json::from_str(&text).unwrap();
    let keys: Vec<&str> = manifest.done.objects.iter().map(|object| &*object.key).collect();
    let wanted: Vec<String> = (1..=4).map(|page| format!("{folder}/{page:05}.bin")).collect();
    assert_eq!(keys, wanted);
    for (key, wanted) in keys.iter().zip(BODIES) {
        assert_eq!(body(rig, key).await.as_deref(), Some(wanted));
    }
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
            seen.set(Some(done.incomplete));
            assert_eq!(done.request_id.as_deref(), Some("7"), "of the last page");
        });
        passed.get().unwrap()
    };
    let keep = r#"{ body = "next", is = "c3", class = "incomplete", then = "keep" }"#;
    assert!(marked(keep), "one page is a part");
    assert!(!marked(r#"{ body = "next", is = "c4", class = "empty" }"#));
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
