//! Fetches that are collected once only.

use std::collections::BTreeMap;

use tollgate_protos::{Done, Object, Priority};

use super::{Reply, Rig, limits, paused, secs, wall};
use crate::queue::Ending;

fn earlier(id: &str) -> Done {
    let object = Object {
        key: "k".into(),
        bytes: 2,
        sha256: "00".into(),
        stored_bytes: 2,
        stored_sha256: None,
        member: None,
    };
    Done {
        id: id.into(),
        seq: 77_777,
        objects: vec![object],
        http_status: 200,
        attempts: 3,
        pages: 1,
        waited_ms: 1,
        fetched_at: wall(),
        labels: BTreeMap::new(),
        ..Done::default()
    }
}

#[test]
fn what_was_done_once_is_told_again_without_a_call() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| Reply::ok("{}"));
        rig.watched_queue.done_once(earlier("known"));
        rig.watched_queue.done_once(earlier("says-nothing"));
        rig.watched_queue.fail_once(2);
        let once = r#""once":true,"labels":{"run":"7"}"#;
        let known = rig.put_as("x", "a", "known", Priority::Normal, once).await;
        let new = rig.put_as("x", "a", "new", Priority::Normal, once).await;
        rig.put("x", "a", "says-nothing").await;
        rig.all_end(secs(30)).await;
        let mut calls: Vec<_> = rig.calls().into_iter().map(|(_, id)| id).collect();
        calls.sort();
        assert_eq!(calls, ["new", "says-nothing"]);
        let endings = rig.watched_queue.endings();
        let of = |id: &str| {
            let ending = endings.iter().find_map(|ending| match ending {
                Ending::Done { done, once } if done.id == id => Some((done.clone(), *once)),
                _ => None,
            });
            ending.unwrap()
        };
        let (done, remember) = of("known");
        assert_eq!((done.seq, done.attempts, remember), (known.0, 0, false));
        assert_eq!((&done.objects, done.labels["run"].as_str()), (&earlier("known").objects, "7"));
        let (done, remember) = of("new");
        assert_eq!((done.seq, done.attempts, remember), (new.0, 1, true));
        assert!(!of("says-nothing").1);
        assert_eq!(rig.done(), 3);
    });
}

#[test]
fn one_of_two_that_wait_under_one_id_is_called() {
    paused(|| async {
        let rig = Rig::start(limits(r#"gap = { per = ["account"], every = "60s" }"#), |_| {
            Reply::ok("{}")
        });
        rig.put("x", "a", "before").await;
        rig.put_as("x", "a", "again", Priority::Normal, r#""once":true"#).await;
        rig.at(30_000).await;
        // Read ahead by now, and done meanwhile under another number.
        rig.watched_queue.done_once(earlier("again"));
        rig.all_end(secs(300)).await;
        assert_eq!(rig.calls(), [(0, "before".into())]);
        assert_eq!(rig.done(), 2);
    });
}
