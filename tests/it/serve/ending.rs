//! How fetches end that are not simply called: collected once only, put aside, called again.

use std::time::Duration;

use serde_json::json;
use tollgate_emulator::{Fault, Profile, Rude};

use super::{done, emulator, publish, serve, stop};
use crate::util::{Config, Dir, Nats, fetch, wait_until};

const SUBJECT: &str = "tollgate.fetch.p.a.report";

#[test]
fn a_fetch_that_says_once_is_answered_and_not_called_again() {
    let (nats, emulator) = (Nats::start(), emulator(Vec::new(), 5));
    let dir = Dir::with(&Config::of(&emulator).on(&nats).report());
    let node = serve(&dir);
    node.wait_says("shard started");
    // No message id: as if the duplicate window had long passed.
    let put = |id: &str, once: bool, date: &str| {
        let body = json!({ "id": id, "params": { "date": date }, "once": once }).to_string();
        nats.publish(SUBJECT, &[], body)
    };
    let first = put("one", true, "d1");
    nats.wait_count("DONE", 1);
    let second = put("one", true, "d1");
    nats.wait_count("DONE", 2);
    nats.wait_count("FETCH", 0);
    assert_eq!(emulator.counts().0, 1, "the second was not called");
    let (one, two) = (done(&nats)[0].1.clone(), done(&nats)[1].1.clone());
    assert_eq!((one.seq, two.seq), (first, second), "each fetch has its event");
    assert_eq!((&one.objects, &one.id), (&two.objects, &two.id), "both name the same objects");
    // Kept across a restart of the node.
    stop(node);
    let node = serve(&dir);
    put("one", true, "d1");
    nats.wait_count("DONE", 3);
    assert_eq!(emulator.counts().0, 1);
    // Another id is another fetch; and without the word it is called each time.
    put("two", true, "d2");
    put("three", false, "d3");
    nats.wait_count("DONE", 5);
    put("three", false, "d3");
    nats.wait_count("DONE", 6);
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_eq!((emulator.counts().0, nats.count("DEAD")), (4, 0));
}

#[test]
fn a_fetch_for_tomorrow_is_put_aside_and_kept_across_restarts() {
    let (nats, emulator) = (Nats::start(), emulator(Vec::new(), 5));
    let dir = Dir::with(&Config::of(&emulator).on(&nats).report());
    dir.tollgate(&["setup"]).run().exits(0);
    let tomorrow = jiff::Timestamp::now() + Duration::from_secs(24 * 3600);
    let of = |id: &str, more: serde_json::Value| {
        let mut all = json!({ "params": { "date": id } });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fetch("a.b", "report", id, all)
    };
    let far = json!({ "not_before": tomorrow });
    publish(&dir, &(of("far", far.clone()) + &of("now", json!({}))));
    let node = serve(&dir);
    nats.wait_count("LATER", 1);
    nats.wait_count("FETCH", 0);
    let status = || dir.tollgate(&["status", "--json"]).run().exits(0).json();
    wait_until("a status with one put aside", || {
        let status = status();
        let idle = status["waiting"] == 0 && status["in_flight"] == 0;
        (status["running"] == true && idle && status["postponed"] == 1).then_some(())
    });
    let aside = &nats.messages("LATER")[0];
    assert!(aside.subject.starts_with("tollgate.later."), "{}", aside.subject);
    assert!(aside.subject.ends_with(".p.a%2Eb.report.normal"), "{}", aside.subject);
    assert_eq!(aside.headers.get("Tollgate-Seq").unwrap().as_str(), "1");
    // Asked for again while it is put aside.
    assert_eq!(publish(&dir, &of("far", far))["duplicate"], 1);
    stop(node);

    let status = dir.tollgate(&["status"]).run().exits(0).out();
    assert!(status.contains("not running") && status.contains("1 put aside"), "{status}");
    let node = serve(&dir);
    node.wait_says("shard started");
    publish(&dir, &of("more", json!({})));
    nats.wait_count("DONE", 2);
    stop(node);
    assert_eq!((nats.count("LATER"), nats.count("FETCH"), emulator.counts().0), (1, 0, 2));
    // Brought near by hand, as an operator would: deleted there, published anew.
    assert_eq!(nats.count("DEAD"), 0);
}

#[test]
fn calls_that_fail_are_made_again_and_counted() {
    let nats = Nats::start();
    let faults = vec![Fault { per_mille: 300, rude: Rude::Status(503) }];
    let profile = Profile { faults, record: true, ..Profile::default() };
    let emulator = tollgate_emulator::Emulator::start(profile).unwrap();
    let config = Config::of(&emulator).on(&nats).collect("attempts_max = 12").report();
    let dir = Dir::with(&config);
    let accounts = crate::util::accounts("act", 10);
    let node = serve(&dir);
    node.wait_says("shard started");
    publish(&dir, &crate::util::reports(&accounts, 2));
    nats.wait_count("FETCH", 0);
    stop(node);
    dir.assert_reports(&accounts, 2);
    let attempts: u64 = done(&nats).iter().map(|(_, done)| u64::from(done.attempts)).sum();
    assert_eq!(attempts, emulator.counts().0, "every attempt is told");
    assert!(attempts > 20, "nothing failed");
}
