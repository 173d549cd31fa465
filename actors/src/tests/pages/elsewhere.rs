//! Reads that another node has ended, whose objects another fetch has replaced, or that were put aside meanwhile.

use super::*;
use crate::ledger::record::Tries;
use crate::pages::Note;
use crate::queue::Ending;

const GAP: &str = r#"gap = { per = ["account"], every = "50ms" }"#;

fn own_lane() -> LaneKey {
    lane("x", "a", Priority::Normal)
}

/// The read of another fetch, or by another node: so many pages and their manifest. Its text.
async fn store_theirs(rig: &Rig, seq: u64, pages: u32) -> String {
    let folder = folder("x", "one");
    let mut objects = Vec::new();
    for page in 1..=pages {
        let key = format!("{folder}/{page:05}.bin");
        rig.shared.store.put_small(&Path::from(&*key), "theirs".into()).await.unwrap();
        objects.push(Object {
            key,
            bytes: 6,
            sha256: String::new(),
            stored_bytes: 6,
            stored_sha256: None,
            member: None,
        });
    }
    let manifest = Manifest {
        version: 1,
        queue: rig.shared.queue.name().to_string(),
        platform: "p".into(),
        account: "x".into(),
        api: "a".into(),
        params: serde_json::Map::new(),
        provenance: None,
        done: Done { seq, objects, pages, ..Done::default() },
    };
    let text = serde_json::to_string(&manifest).unwrap();
    let key = Path::from(format!("{folder}/_manifest.json"));
    rig.shared.store.put_small(&key, text.clone().into()).await.unwrap();
    text
}

#[test]
fn a_node_that_comes_back_leaves_a_read_alone_that_has_ended_elsewhere() {
    for (page, is_away) in [(1, false), (1, true), (3, false), (3, true), (4, false)] {
        paused(|| async move {
            let rig = Rig::start(setup(GAP), move |seen| {
                let wait = if page_of(seen) == page { secs(5) } else { ms(20) };
                Reply::ok(BODIES[page_of(seen) - 1]).head_after(wait)
            });
            leave_behind(&rig, "x", "one", 6).await;
            let away = rig.queue.clone();
            let (calls, noted) = (page as u32 - 1, Rc::new(Cell::new(0)));
            let _hooked = on_points(move |name, _| {
                if name == "before keep_note" {
                    noted.set(noted.get() + 1);
                    if is_away && noted.get() == calls + 1 {
                        away.fail_next(3);
                    }
                }
            });
            let seq = rig.put("x", "a", "one").await;
            rig.at(3_000).await;
            assert_eq!(rig.calls().len(), page, "the call of page {page} is in flight");
            let manifest = store_theirs(&rig, seq.0, 4).await;
            let done = Box::new(Done { id: "one".into(), seq: seq.0, ..Done::default() });
            rig.queue.finish(own_lane(), seq, Ending::Done { done, once: false }).await.unwrap();
            rig.queue.drop_note(own_lane(), seq).await.unwrap();
            rig.at(120_000).await;
            assert_eq!(rig.calls().len(), page, "{:?}", rig.calls());
            let folder = folder("x", "one");
            for number in 1..=4 {
                let key = format!("{folder}/{number:05}.bin");
                assert_eq!(body(&rig, &key).await.as_deref(), Some("theirs"), "{page}: {key}");
            }
            let there = body(&rig, &format!("{folder}/_manifest.json")).await;
            assert_eq!(there, Some(manifest), "after page {page}");
            assert_eq!(rig.queue.note(own_lane(), seq).await.unwrap(), None);
            // Its lane goes on, and nothing of it is in hand.
            let next = rig.put("x", "a", "two").await;
            rig.at(160_000).await;
            assert_whole(&rig, "x", "two", next).await;
            assert!(rig.queue.lanes(None).await.unwrap().lanes.is_empty());
            assert_eq!((rig.done(), rig.dead().await), (1, vec![]));
        });
    }
}

/// A rig whose fetch has stored its four pages, but not its manifest: something is in the way of that.
async fn obstructed(store: Store, manifest: std::path::PathBuf) -> (Rig, Seq) {
    let mut setup = setup(GAP);
    setup.store = Some(store);
    let rig = Rig::start(setup, pages);
    let noted = Cell::new(0);
    let _hooked = on_points(move |name, _| {
        if name == "after keep_note" {
            noted.set(noted.get() + 1);
            if noted.get() == 4 {
                obstruct(&manifest);
            }
        }
    });
    let seq = rig.put("x", "a", "one").await;
    rig.at(8_000).await;
    (rig, seq)
}

#[test]
fn what_is_put_aside_keeps_its_tries_and_is_not_lost_while_the_queue_is_away() {
    paused(|| async {
        let (_root, store, path) = files();
        let manifest = path(&format!("{}/_manifest.json", folder("x", "one")));
        let (rig, seq) = obstructed(store, manifest.clone()).await;
        // Longer than it is put aside for.
        rig.watched_queue.fail_postpones(300);
        rig.at(140_000).await;
        assert_eq!(rig.queue.postponed().await.unwrap(), 0);
        for at in [200_000, 500_000] {
            rig.at(at).await;
            let noted = rig.queue.note(own_lane(), seq).await.unwrap().unwrap();
            let tries = Note::decode(&noted.bytes).unwrap().tries;
            assert_eq!(tries, Tries { wasted: 1, ..Tries::default() });
        }
        std::fs::remove_dir_all(&manifest).unwrap();
        rig.all_end(secs(120)).await;
        assert_eq!(rig.calls().len(), 4);
        assert_whole(&rig, "x", "one", seq).await;
    });
}

#[test]
fn a_read_whose_pages_another_fetch_has_replaced_begins_anew_and_mixes_nothing() {
    for pages in [2, 6] {
        paused(|| async move {
            let (_root, store, path) = files();
            let manifest = path(&format!("{}/_manifest.json", folder("x", "one")));
            let (rig, seq) = obstructed(store, manifest.clone()).await;
            rig.at(30_000).await;
            assert_eq!(rig.queue.postponed().await.unwrap(), 1, "it is put aside");
            std::fs::remove_dir_all(&manifest).unwrap();
            store_theirs(&rig, seq.0 + 100, pages).await;
            rig.all_end(secs(200)).await;
            let asked: Vec<usize> = rig.wire.seen().iter().map(page_of).collect();
            assert_eq!(asked, [1, 2, 3, 4, 1, 2, 3, 4]);
            assert_whole(&rig, "x", "one", seq).await;
        });
    }
}

#[test]
fn a_call_that_may_not_be_repeated_is_not_repeated_after_it_was_put_aside() {
    paused(|| async {
        let (_root, store, path) = files();
        let mut setup = setup(GAP);
        setup.store = Some(store);
        setup.platform = setup.platform.replacen(
            "items = \"d\" }\n",
            "items = \"d\" }\nidempotent = false\n",
            1,
        );
        let second = path(&format!("{}/00002.bin", folder("x", "one")));
        let rig = Rig::start(setup, move |seen| {
            if page_of(seen) < 3 {
                return pages(seen);
            }
            // Nobody can read whether it is there.
            let target = second.with_file_name("loop");
            std::fs::rename(&second, &target).unwrap();
            std::os::unix::fs::symlink(&second, &second).unwrap();
            Reply::panic()
        });
        rig.put("x", "a", "one").await;
        rig.at(30_000).await;
        assert_eq!(rig.calls().len(), 3);
        assert_eq!(
            rig.queue.postponed().await.unwrap(),
            1,
            "it is put aside: {:?}",
            rig.dead().await
        );
        let second = path(&format!("{}/00002.bin", folder("x", "one")));
        std::fs::rename(second.with_file_name("loop"), &second).unwrap();
        rig.all_end(secs(120)).await;
        assert_eq!(rig.calls().len(), 3, "{:?}", rig.calls());
        let code = crate::codes::Code::AnswerLost.to_string();
        assert_eq!(rig.dead().await, [("one".to_owned(), code)]);
    });
}

#[test]
fn a_read_is_as_old_as_its_first_page() {
    for (fresh_for, calls) in [("10m", 8), ("1h", 4)] {
        paused(|| async move {
            let mut setup = setup(r#"gap = { per = ["account"], every = "400s" }"#);
            setup.platform = setup.platform.replacen("a/{id}", "a/x", 1);
            let rig = Rig::start(setup, pages);
            let fields = format!("\"fresh_for\":\"{fresh_for}\"");
            for id in ["one", "two"] {
                rig.put_as("x", "a", id, Priority::Normal, &fields).await;
                rig.all_end(secs(6000)).await;
            }
            assert_eq!((rig.wire.count(), rig.done()), (calls, 2), "{fresh_for}");
        });
    }
}
