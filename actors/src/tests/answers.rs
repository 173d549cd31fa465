//! What follows from what answers are worth: parts in place of too much, waits for what is incomplete, one call at a
//! time to who has no access.

use serde_json::{Value, json};

use super::*;

/// An api `a` with these lines.
fn api(lines: &str) -> Setup {
    let platform = format!(
        "[platforms.p.apis.a]\npath = \"a/{{id}}\"\nparams = [\"since\", \"until\"]\n{lines}\n\
         [platforms.p.apis.b]\npath = \"b/{{id}}\"\n"
    );
    Setup { platform, ..limits("") }
}

async fn put(rig: &Rig, id: &str, params: &Value) {
    let fields = format!(r#""params":{params}"#);
    rig.put_as("x", "a", id, Priority::Normal, &fields).await;
}

#[test]
fn too_much_is_split_in_the_queue_in_memory_too_and_once_more_after_a_crash_it_is_the_same() {
    paused(|| async {
        let rules = r#"answers = [{ body = "much", is = true, class = "too_much" }]
split = { by = "dates", from = "since", to = "until" }"#;
        let rig = Rig::start(api(rules), |seen| {
            // The way to it: `f~12.211` is a part of a part of a part.
            let parts = seen.url.path().rsplit_once('.').map_or(0, |(_, way)| way.len());
            Reply::ok(if parts < 3 { r#"{"much":true}"# } else { r#"{"much":false}"# })
        });
        let fields = r#""params":{"since":"2026-01-01","until":"2026-02-28"}"#;
        let seq = rig.put_as("x", "a", "f", Priority::Normal, fields).await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.calls().len(), 1 + 2 + 4 + 8);
        let totals = &rig.shared.totals;
        assert_eq!((totals.fetches_done.get(), totals.fetches_dead.get()), (15, 0));
        assert_eq!(totals.objects.get(), 8);
        // A part that is known is not stored a second time.
        let known = NewFetch {
            lane: lane("x", "a", Priority::Normal),
            id: format!("f~{}.1", seq.0),
            payload: "{}".into(),
            not_before: None,
        };
        let appended = rig.queue.append(vec![known]).await.unwrap();
        assert!(matches!(appended[..], [Appended::Done(_)]), "{appended:?}");
    });
}

#[test]
fn an_incomplete_answer_is_asked_for_again_after_its_wait_and_stored_when_it_is_whole() {
    paused(|| async {
        let rules =
            r#"answers = [{ body = "partial", is = true, class = "incomplete", wait = "10m" }]"#;
        let rig = Rig::start(api(rules), |seen| {
            Reply::ok(if seen.number < 2 { r#"{"partial":true}"# } else { r#"{"rows":[1]}"# })
        });
        put(&rig, "f", &json!({ "since": "a", "until": "b" })).await;
        rig.all_end(secs(3_000)).await;
        let times: Vec<u64> = rig.calls().into_iter().map(|(at, _)| at / 1000).collect();
        assert_eq!(times, [0, 600, 1200]);
        let totals = &rig.shared.totals;
        assert_eq!((totals.fetches_done.get(), totals.objects.get()), (1, 1));
    });
}

#[test]
fn access_that_was_taken_away_costs_one_call_at_a_time_ever_more_seldom() {
    paused(|| async {
        let start = Instant::now();
        let gap = r#"gap = { per = ["account"], every = "1s", guard = "0ms" }"#;
        let rig = Rig::start(limits(gap), move |_| {
            let revoked = start.elapsed() < secs(4 * 3600);
            if revoked { Reply::status(401) } else { Reply::ok("{}") }
        });
        rig.put_many("x", "a", 50).await;
        rig.put("y", "b", "other").await;
        rig.at(3_600_000 * 4).await;
        let times = |account: &str| -> Vec<u64> {
            rig.calls_of(account).iter().map(|(at, _)| at / 1000).collect()
        };
        let revoked = times("x");
        assert_eq!(revoked[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let holds: Vec<u64> = revoked[9..].windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(holds, [300, 600, 1200, 2400, 3600, 3600], "{revoked:?}");
        let totals = &rig.shared.totals;
        // `y` has no access either, which is one refusal of its own.
        assert_eq!((totals.fetches_dead.get(), totals.fetches_done.get()), (10 + 1, 0));
        rig.all_end(secs(5 * 3600)).await;
        assert_eq!(totals.fetches_done.get(), 40);
        let back = times("x").into_iter().find(|at| *at >= 4 * 3600).unwrap();
        assert!(back < 4 * 3600 + 3600, "{back}");
    });
}

#[test]
fn a_fetch_that_is_refused_by_itself_does_not_keep_the_account_shut() {
    paused(|| async {
        let gap = r#"gap = { per = ["account"], every = "1s", guard = "0ms" }"#;
        let mut setup = limits(gap);
        setup.platform = format!("breaker = {{ after = 2, for = \"1m\" }}\n{}", setup.platform);
        let rig = Rig::start(setup, |seen| {
            if id_of(seen).starts_with("bad") { Reply::status(401) } else { Reply::ok("{}") }
        });
        for id in ["bad-1", "bad-2", "bad-3", "bad-4", "good-1", "good-2", "good-3"] {
            rig.put("x", "a", id).await;
        }
        rig.all_end(secs(3600)).await;
        let called: Vec<String> = rig.wire.seen().iter().map(id_of).collect();
        // Two find out; each trial is another one, until one shows that access is given; then all get their turn.
        assert_eq!(called[..5], ["bad-1", "bad-2", "bad-3", "bad-4", "good-1"], "{called:?}");
        assert_eq!(rig.shared.totals.fetches_done.get(), 3);
        assert_eq!(rig.dead().await.len(), 4);
        assert!(called.len() <= 9, "{called:?}");
    });
}

#[test]
fn a_trial_is_made_with_another_priority_too() {
    paused(|| async {
        let gap = r#"gap = { per = ["account"], every = "1s", guard = "0ms" }"#;
        let mut setup = limits(gap);
        setup.platform = format!("breaker = {{ after = 1, for = \"1m\" }}\n{}", setup.platform);
        let rig = Rig::start(setup, |seen| {
            if id_of(seen).starts_with("bad") { Reply::status(401) } else { Reply::ok("{}") }
        });
        rig.put_as("x", "a", "bad-1", Priority::High, "").await;
        rig.put_as("x", "a", "bad-2", Priority::High, "").await;
        rig.put_as("x", "b", "good", Priority::Low, "").await;
        rig.at(61_500).await;
        assert_eq!(rig.wire.count(), 2, "{:?}", rig.calls());
        rig.at(200_000).await;
        assert_eq!(rig.shared.totals.fetches_done.get(), 1, "{:?}", rig.calls());
    });
}
