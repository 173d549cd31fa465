//! Objects that are used instead of a call, and fetches that wait for one another's.

use serde_json::Value;
use tollgate_protos::{Done, Priority};

use super::{Reply, Rig, Setup, limits, paused, secs};
use crate::queue::Ending;

/// One api whose calls are told apart by `q` only.
fn setup(limits_of: &str, api: &str) -> Setup {
    let platform = format!(
        "[platforms.p.limits]\n{limits_of}\n[platforms.p.apis.a]\npath = \"a/x\"\nquery = {{ q = \"{{q}}\" }}\n{api}\n"
    );
    Setup { platform, ..limits("") }
}

const GAP: &str = r#"gap = { per = ["account"], every = "1s" }"#;

async fn put(rig: &Rig, id: &str, q: &str, fresh_for: &str) {
    put_as(rig, "x", id, q, fresh_for).await;
}

async fn put_as(rig: &Rig, account: &str, id: &str, q: &str, fresh_for: &str) {
    let fresh = if fresh_for.is_empty() {
        String::new()
    } else {
        format!(",\"fresh_for\":\"{fresh_for}\"")
    };
    let fields = format!("\"params\":{{\"q\":\"{q}\"}},\"labels\":{{\"of\":\"{id}\"}}{fresh}");
    rig.put_as(account, "a", id, Priority::Normal, &fields).await;
}

fn done(rig: &Rig, id: &str) -> Done {
    let endings = rig.watched_queue.endings();
    let found = endings.iter().find_map(|ending| match ending {
        Ending::Done { done, .. } if done.id == id => Some((**done).clone()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("{id} is not done: {endings:?}"))
}

#[test]
fn a_young_object_of_the_same_request_is_used_instead_of_a_call() {
    paused(|| async {
        let rig = Rig::start(setup(GAP, ""), |_| Reply::ok("{}"));
        put(&rig, "first", "1", "10m").await;
        rig.all_end(secs(30)).await;
        put(&rig, "second", "1", "10m").await;
        put(&rig, "other", "2", "10m").await;
        put(&rig, "anew", "1", "").await;
        put_as(&rig, "y", "of-y", "1", "10m").await;
        rig.all_end(secs(30)).await;
        assert_eq!(rig.wire.count(), 4, "first, other, anew, of-y");
        let (first, second) = (done(&rig, "first"), done(&rig, "second"));
        assert_eq!((first.attempts, second.attempts), (1, 0));
        assert_eq!(second.objects, first.objects);
        assert_eq!((second.fetched_at, second.pages), (first.fetched_at, 1));
        assert_eq!(second.labels["of"], "second");
        assert_ne!(second.seq, first.seq);
        assert_ne!(done(&rig, "of-y").objects, first.objects);
        assert_eq!(rig.done(), 5);
    });
}

#[test]
fn an_object_that_is_too_old_is_not_used() {
    paused(|| async {
        let rig = Rig::start(setup(GAP, ""), |_| Reply::ok("{}"));
        put(&rig, "first", "1", "10m").await;
        rig.all_end(secs(30)).await;
        rig.at(599_000).await;
        put(&rig, "young", "1", "10m").await;
        rig.all_end(secs(30)).await;
        assert_eq!(rig.wire.count(), 1);
        rig.at(700_000).await;
        put(&rig, "old", "1", "10m").await;
        rig.all_end(secs(30)).await;
        assert_eq!((rig.wire.count(), done(&rig, "old").attempts), (2, 1));
        // What was used instead of a call is no younger for that.
        rig.at(1_250_000).await;
        put(&rig, "again", "1", "10m").await;
        rig.all_end(secs(30)).await;
        assert_eq!((rig.wire.count(), done(&rig, "again").objects), (2, done(&rig, "old").objects));
    });
}

#[test]
fn an_api_may_say_it_for_all_of_its_fetches() {
    paused(|| async {
        let rig = Rig::start(setup(GAP, "fresh_for = \"1h\""), |_| Reply::ok("{}"));
        put(&rig, "first", "1", "").await;
        rig.all_end(secs(30)).await;
        rig.at(120_000).await;
        put(&rig, "second", "1", "").await;
        put(&rig, "stricter", "1", "1m").await;
        rig.all_end(secs(30)).await;
        assert_eq!((rig.wire.count(), done(&rig, "second").attempts), (2, 0));
        assert_eq!(done(&rig, "stricter").attempts, 1);
    });
}

#[test]
fn fetches_of_one_request_that_wait_are_one_call() {
    paused(|| async {
        // Many could be called at once.
        let limit = r#"slots = { per = ["account"], concurrent = 50 }"#;
        let rig = Rig::start(setup(limit, ""), |_| Reply::ok("{}").head_after(secs(5)));
        for number in 0..40 {
            put(&rig, &format!("f{number}"), &format!("{}", number % 2), "10m").await;
        }
        rig.all_end(secs(60)).await;
        assert_eq!(rig.wire.count(), 2, "{:?}", rig.calls());
        assert_eq!(rig.done(), 40);
        let calls: u32 = (0..40).map(|number| done(&rig, &format!("f{number}")).attempts).sum();
        assert_eq!(calls, 2);
    });
}

#[test]
fn when_the_one_that_is_called_dies_the_next_is_called() {
    paused(|| async {
        let limit = r#"slots = { per = ["account"], concurrent = 50 }"#;
        let rig = Rig::start(setup(limit, ""), |seen| {
            let reply = if seen.number == 0 { Reply::status(400) } else { Reply::ok("{}") };
            reply.head_after(secs(5))
        });
        for number in 0..10 {
            put(&rig, &format!("f{number}"), "1", "10m").await;
        }
        rig.all_end(secs(60)).await;
        assert_eq!((rig.wire.count(), rig.done()), (2, 9));
        assert_eq!(rig.dead().await.len(), 1);
    });
}

#[test]
fn a_note_whose_manifest_is_gone_is_not_believed() {
    paused(|| async {
        let rig = Rig::start(setup(GAP, ""), |_| Reply::ok("{}"));
        put(&rig, "first", "1", "10m").await;
        rig.all_end(secs(30)).await;
        let keys = rig.shared.store.keys(100).await.unwrap();
        let note = keys.iter().find(|key| key.as_ref().starts_with("_fresh/")).unwrap();
        let json = rig.shared.store.get(note).await.unwrap().unwrap();
        let json: Value = serde_json::from_slice(&json).unwrap();
        assert!(json["manifest"].as_str().unwrap().ends_with("/first/_manifest.json"), "{json}");
        rig.shared
            .store
            .put_small(note, br#"{"manifest":"p/a/x/gone"}"#.as_slice().into())
            .await
            .unwrap();
        put(&rig, "second", "1", "10m").await;
        rig.all_end(secs(30)).await;
        assert_eq!((rig.wire.count(), done(&rig, "second").attempts), (2, 1));
    });
}

#[test]
fn nothing_is_noted_where_nobody_wants_it() {
    paused(|| async {
        let rig = Rig::start(setup(GAP, ""), |_| Reply::ok("{}"));
        put(&rig, "first", "1", "").await;
        rig.all_end(secs(30)).await;
        let keys = rig.shared.store.keys(100).await.unwrap();
        assert!(keys.iter().all(|key| !key.as_ref().starts_with("_fresh")), "{keys:?}");
    });
}

#[test]
fn however_many_fetches_of_one_request_wait_it_is_one_call() {
    paused(|| async {
        let limit = r#"slots = { per = ["account"], concurrent = 50 }"#;
        let rig = Rig::start(setup(limit, ""), |_| Reply::ok("{}").head_after(secs(5)));
        for number in 0..400 {
            put(&rig, &format!("f{number}"), "1", "10m").await;
        }
        put(&rig, "other", "2", "10m").await;
        rig.all_end(secs(60)).await;
        assert_eq!((rig.wire.count(), rig.done()), (2, 401));
    });
}

#[test]
fn fetches_of_one_request_are_one_call_after_their_account_rested() {
    paused(|| async {
        let limit = r#"slots = { per = ["account"], concurrent = 50 }"#;
        let rig = Rig::start(setup(limit, ""), |seen| {
            if seen.number == 0 {
                return Reply::status(429).header("retry-after", "600").head_after(secs(2));
            }
            Reply::ok("{}").head_after(secs(5))
        });
        for number in 0..10 {
            put(&rig, &format!("f{number}"), "1", "10m").await;
        }
        rig.at(60_000).await;
        assert_eq!(rig.shared.totals.refused.get(), 1);
        rig.all_end(secs(1200)).await;
        assert_eq!((rig.wire.count(), rig.done()), (2, 10));
    });
}

/// Makes the stored manifest of a fetch say that it was fetched so much later.
async fn shift(rig: &Rig, id: &str, by: jiff::SignedDuration) {
    let keys = rig.shared.store.keys(100).await.unwrap();
    let key = keys.iter().find(|key| key.as_ref().ends_with(&format!("/{id}/_manifest.json")));
    let json = rig.shared.store.get(key.unwrap()).await.unwrap().unwrap();
    let mut manifest: tollgate_protos::Manifest = serde_json::from_slice(&json).unwrap();
    manifest.done.fetched_at += by;
    let json = serde_json::to_vec(&manifest).unwrap();
    rig.shared.store.put_small(key.unwrap(), json.into()).await.unwrap();
}

#[test]
fn an_object_from_after_now_is_not_young_for_ever() {
    paused(|| async {
        let rig = Rig::start(setup(GAP, ""), |_| Reply::ok("{}"));
        put(&rig, "first", "1", "10m").await;
        rig.all_end(secs(30)).await;
        shift(&rig, "first", jiff::SignedDuration::from_secs(4)).await;
        put(&rig, "near", "1", "10m").await;
        rig.all_end(secs(30)).await;
        assert_eq!(
            (rig.wire.count(), done(&rig, "near").attempts),
            (1, 0),
            "clocks differ a little"
        );
        shift(&rig, "first", jiff::SignedDuration::from_hours(1)).await;
        put(&rig, "far", "1", "10m").await;
        rig.all_end(secs(30)).await;
        assert_eq!((rig.wire.count(), done(&rig, "far").attempts), (2, 1));
    });
}

#[test]
fn notes_whose_time_is_over_are_removed_by_a_later_sweep() {
    paused(|| async {
        let rig = Rig::start(setup(GAP, "fresh_for = \"1h\""), |_| Reply::ok("{}"));
        // The longer one counts: of the fetch or of its api.
        for (id, fresh_for) in [("a", ""), ("b", "10m"), ("c", "3h")] {
            put(&rig, id, id, fresh_for).await;
        }
        rig.all_end(secs(30)).await;
        let store = &rig.shared.store;
        let notes = || async {
            let keys = store.keys(100).await.unwrap();
            keys.iter().filter(|key| key.as_ref().starts_with("_fresh/")).count()
        };
        // One of an earlier version does not say how long it is of use.
        let old = object_store::path::Path::from("_fresh/0.json");
        let json = br#"{"manifest":"p","queue":"q","seq":1}"#;
        store.put_small(&old, json.as_slice().into()).await.unwrap();
        let wall = rig.shared.clock.wall();
        let hours = |hours| wall + jiff::SignedDuration::from_hours(hours);
        for (at, removed, left) in [(0, 0, 4), (2, 2, 2), (4, 1, 1)] {
            assert_eq!(crate::fresh::sweep(store, hours(at)).await.unwrap(), removed, "{at} h");
            assert_eq!(notes().await, left);
        }
        // The store's own time of writing counts: a test's virtual time does not matter to it.
        assert_eq!(crate::fresh::sweep(store, hours(24 * 4000)).await.unwrap(), 1);
    });
}
