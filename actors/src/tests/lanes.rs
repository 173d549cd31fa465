//! Which fetch of an account goes next.

use std::cell::RefCell;

use super::*;
use crate::notify::{Signal, Signals};

fn ids(rig: &Rig) -> Vec<String> {
    rig.calls().into_iter().map(|(_, id)| id).collect()
}

#[test]
fn high_goes_before_normal_and_normal_before_low_in_the_order_of_their_coming() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| Reply::ok("{}"));
        rig.put("x", "a", "first0").await;
        rig.at(100).await;
        for (name, priority) in
            [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)]
        {
            for number in 0..3 {
                let api = if number == 1 { "b" } else { "a" };
                rig.put_as("x", api, &format!("{name}{number}"), priority, "").await;
            }
        }
        rig.all_end(secs(60)).await;
        let kinds: Vec<String> =
            ids(&rig).iter().map(|id| id.trim_end_matches(char::is_numeric).to_owned()).collect();
        let wanted =
            ["first", "high", "high", "high", "normal", "normal", "normal", "low", "low", "low"];
        assert_eq!(kinds, wanted);
    });
}

#[test]
fn a_high_fetch_that_comes_later_overtakes_all_that_wait() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 5).await;
        rig.at(1500).await;
        rig.put_as("x", "b", "urgent", Priority::High, "").await;
        rig.all_end(secs(60)).await;
        assert_eq!(ids(&rig), ["x-a-0", "x-a-1", "urgent", "x-a-2", "x-a-3", "x-a-4"]);
        assert_eq!(rig.times_of("urgent"), [2000]);
    });
}

#[test]
fn a_lane_keeps_the_order_of_its_coming() {
    paused(|| async {
        let rig = Rig::start(limits(r#"m = { per = ["account"], max = 7, in = "1s" }"#), |_| {
            Reply::ok("{}")
        });
        rig.put_many("x", "a", 200).await;
        rig.all_end(secs(60)).await;
        let wanted: Vec<String> = (0..200).map(|number| format!("x-a-{number}")).collect();
        assert_eq!(ids(&rig), wanted);
    });
}

#[test]
fn apis_of_one_priority_take_turns() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 4).await;
        rig.put_many("x", "b", 4).await;
        rig.all_end(secs(60)).await;
        let apis: Vec<String> = rig.wire.seen().iter().map(api_of).collect();
        assert_eq!(apis, ["a", "b", "a", "b", "a", "b", "a", "b"]);
    });
}

#[test]
fn apis_take_turns_also_where_each_call_waits_for_a_slot() {
    // What an attempt tells makes the actor look again: whose turn it is must not depend on how often.
    for stamps in 0..3 {
        paused(|| async move {
            let rig = Rig::start(limits("").concurrency(1), move |_| {
                let reply = Reply::ok("{}").head_after(ms(10));
                match stamps {
                    0 => reply.unstamped(),
                    1 => reply,
                    _ => reply.rewritten(ms(2), ms(4)),
                }
            });
            rig.put("y", "a", "first").await;
            rig.at(5).await;
            rig.put_many("x", "a", 6).await;
            rig.put_many("x", "b", 6).await;
            rig.all_end(secs(60)).await;
            let apis: String = rig.wire.seen()[1..].iter().map(api_of).collect();
            assert!(["abababababab", "babababababa"].contains(&&*apis), "{stamps} stamps: {apis}");
        });
    }
}

#[test]
fn a_hanging_a_held_and_a_failing_account_delay_no_other() {
    paused(|| async {
        let gap = r#"gap = { per = ["account"], every = "100ms" }"#;
        let rig = Rig::start(limits(gap), |seen| match account_of(seen).as_str() {
            "hangs" => Reply::silence(),
            "held" => Reply::status(429).header("retry-after", "3000"),
            "fails" => Reply::status(500),
            "stalls" => Reply::status(200).then(secs(3000), "never"),
            "away" => Reply::error(CallError::Connect("refused".into())),
            _ => Reply::ok("{}"),
        });
        for account in ["hangs", "held", "fails", "stalls", "away", "good"] {
            rig.put_many(account, "a", 20).await;
        }
        rig.at(2500).await;
        let times: Vec<u64> = rig.calls_of("good").into_iter().map(|(at, _)| at).collect();
        let wanted: Vec<u64> = (0..20).map(|number| number * 100).collect();
        assert_eq!(times, wanted);
        assert_eq!(rig.done(), 20);
    });
}

#[test]
fn a_fetch_that_cannot_be_called_is_dead_with_its_code_and_nothing_behind_it_waits() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| Reply::ok("{}"));
        rig.put("x", "a", "first").await;
        rig.put_as("x", "a", "odd", Priority::Normal, r#""params":{"unheard":"of"}"#).await;
        rig.put_as("x", "a", "late", Priority::Normal, r#""deadline":"2026-11-20T11:00:00Z""#)
            .await;
        rig.put("x", "a", "last").await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.calls(), [(0, "first".into()), (1000, "last".into())]);
        let dead: Vec<String> = rig.dead().await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(dead, ["odd", "late"]);
    });
}

#[test]
fn who_hears_that_a_deadline_is_missed_hears_too_that_none_is_any_more() {
    // The second has its turn at 2 s and is looked at a second before.
    let told = |mends: bool| {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let all = Rc::clone(&heard);
        paused(move || async move {
            let (signals, mut heard) = Signals::new();
            let mut setup = limits(r#"gap = { per = ["account"], every = "2s" }"#);
            setup.signals = Some(signals);
            let rig = Rig::start(setup, |_| Reply::ok("{}"));
            rig.put("x", "a", "first").await;
            let deadline = r#""deadline":"2026-11-20T12:00:01.500Z""#;
            rig.put_as("x", "a", "late", Priority::Normal, deadline).await;
            rig.at(1200).await;
            if mends {
                rig.reload(&limits("")).await;
            }
            rig.all_end(secs(60)).await;
            assert_eq!(rig.dead().await.len(), usize::from(!mends));
            rig.at(10_000).await;
            while let Ok(signal) = heard.try_recv() {
                all.borrow_mut().push(match signal {
                    Signal::Late { fetch, .. } => fetch,
                    Signal::InTime { api, .. } => format!("{api} in time"),
                    Signal::Drift { .. } => "drift".to_owned(),
                });
            }
        });
        heard.take()
    };
    assert_eq!(told(true), ["late", "a in time"]);
    assert_eq!(told(false), ["late", "late", "a in time"]);
}

#[test]
fn a_fetch_goes_at_its_not_before_and_blocks_nothing_until_then() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::ok("{}"));
        // Put aside by the queue, put aside by the actor, waited for in the lane.
        for (id, at) in [("far", "12:10:00"), ("near", "12:00:30"), ("now", "11:00:00")] {
            let field = format!(r#""not_before":"2026-11-20T{at}Z""#);
            rig.put_as("x", "a", id, Priority::Normal, &field).await;
        }
        rig.put("x", "a", "plain").await;
        rig.all_end(secs(3600)).await;
        assert_eq!(rig.times_of("now"), [0]);
        assert_eq!(rig.times_of("plain"), [0]);
        assert_eq!(rig.times_of("near"), [30_000]);
        assert_eq!(rig.times_of("far"), [600_000]);
    });
}

#[test]
fn a_fetch_that_is_not_due_is_none_that_failed() {
    paused(|| async {
        let rig = Rig::start(limits(""), |seen| match account_of(seen).as_str() {
            "y" => Reply::status(503),
            _ => Reply::ok("{}"),
        });
        // As whoever publishes to NATS does it: it is read before it is due.
        let payload = r#"{"id":"due","platform":"p","account":"x","api":"a","not_before":"2026-11-20T12:00:20Z"}"#;
        let lane = lane("x", "a", Priority::Normal);
        let due = NewFetch { lane, id: "due".into(), payload: payload.into(), not_before: None };
        rig.shared.totals.come(1);
        rig.queue.append(vec![due]).await.unwrap();
        rig.put("y", "a", "failed").await;
        rig.at(500).await;
        let mut told: Vec<_> = rig.look().await.accounts;
        told.sort_by(|a, b| a.account.cmp(&b.account));
        let because: Vec<_> = told.iter().map(|look| look.because.as_deref().unwrap()).collect();
        assert_eq!(because, ["its not_before", "its next try"]);
    });
}
