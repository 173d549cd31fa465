//! Accounts whose names have more than one spelling, and subjects that publishers write by hand.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tollgate_emulator::ProviderLimit;

use super::{done, emulator, publish, serve, stop};
use crate::util::{Config, Dir, Nats, assert_none_refused, fetch};

const HALF: Duration = Duration::from_millis(500);

fn body(id: &str, more: &serde_json::Value) -> String {
    let mut fetch = json!({ "id": id, "params": { "date": id } });
    fetch.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fetch.to_string()
}

#[test]
fn an_account_in_three_spellings_is_one_account_with_one_ledger() {
    let nats = Nats::start();
    let emulator = emulator(vec![ProviderLimit::gap("gap", HALF)], 5);
    let config = Config::of(&emulator)
        .on(&nats)
        .limit(r#"gap = { per = ["account"], every = "500ms" }"#)
        .report();
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    // Before the node starts, and while it goes on: it finds the first by a listing, the others by a wake.
    let spellings = ["a@b", "a%40b", "%61@b", "%61%40%62"];
    let put = |round: usize| {
        for (n, spelling) in spellings.iter().enumerate() {
            let id = format!("{round}-{n}");
            nats.publish(
                &format!("tollgate.fetch.p.{spelling}.report"),
                &[],
                body(&id, &json!({})),
            );
        }
    };
    put(0);
    let node = serve(&dir);
    node.wait_says("shard started");
    put(1);
    publish(&dir, &fetch("a@b", "report", "2-0", json!({ "params": { "date": "2-0" } })));
    nats.wait_count("DONE", 9);
    nats.wait_count("FETCH", 0);
    stop(node);

    assert_none_refused(&emulator);
    let accounts: BTreeSet<String> =
        emulator.calls().iter().map(|call| call.account.to_string()).collect();
    assert_eq!(accounts, BTreeSet::from(["a@b".to_owned()]), "the provider knows one account");
    assert_eq!((emulator.counts().0, nats.count("LEDGER"), nats.count("DEAD")), (9, 1, 0));
    let ledger = nats.messages("LEDGER")[0].subject.to_string();
    assert!(ledger.starts_with("tollgate.l.") && ledger.ends_with(".p.a%40b"), "{ledger}");
    let mut seqs = BTreeSet::new();
    for (subject, done) in done(&nats) {
        assert_eq!(subject, "tollgate.done.p.a%40b.report");
        assert!(done.objects[0].key.contains("a%40b") || done.objects[0].key.contains("a@b"));
        seqs.insert(done.seq);
    }
    assert_eq!(seqs.len(), 9, "each has the number of its first storing");
    assert_eq!(dir.collected().len(), 9);
}

#[test]
fn a_fetch_may_leave_to_its_subject_what_that_says_already() {
    let (nats, emulator) = (Nats::start(), emulator(Vec::new(), 5));
    let dir = Dir::with(&Config::of(&emulator).on(&nats).report());
    let node = serve(&dir);
    node.wait_says("shard started");
    let long = "é".repeat(80);
    let encoded = long.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02X}"));
    let subjects = ["a.report", "com%2Eshop%2Eapp.report.high", &format!("{encoded}.report.low")];
    for (n, subject) in subjects.iter().enumerate() {
        let subject = format!("tollgate.fetch.p.{subject}");
        nats.publish(&subject, &[], body(&n.to_string(), &json!({})));
    }
    // Both may say it, if they agree.
    let all = json!({ "platform": "p", "account": "x@y", "api": "report", "priority": "high" });
    nats.publish("tollgate.fetch.p.x%40y.report.high", &[], body("3", &all));
    // A sign of percent that encodes nothing may be a name that was cut off.
    nats.publish("tollgate.fetch.p.50%.report", &[], body("4", &json!({})));
    nats.publish("tollgate.fetch.p.50%25.report", &[], body("5", &json!({})));
    nats.wait_count("DONE", 5);
    nats.wait_count("DEAD", 1);
    stop(node);
    let mut found: Vec<String> =
        dir.collected().into_values().map(|one| one.manifest.account).collect();
    found.sort();
    assert_eq!(found, ["50%", "a", "com.shop.app", "x@y", &long]);
    assert_eq!((nats.count("DEAD"), nats.count("FETCH")), (1, 0));
}

#[test]
fn fetches_without_an_id_are_told_apart_by_what_they_ask_for() {
    let (nats, emulator) = (Nats::start(), emulator(Vec::new(), 5));
    let dir = Dir::with(&Config::of(&emulator).on(&nats).report());
    let node = serve(&dir);
    node.wait_says("shard started");
    let lines: String = ["1", "2", "1"]
        .map(|date| {
            json!({ "platform": "p", "account": "a", "api": "report", "params": { "date": date } })
                .to_string()
                + "\n"
        })
        .concat();
    let counts = publish(&dir, &lines);
    assert_eq!((&counts["new"], &counts["duplicate"]), (&json!(2), &json!(1)), "{counts}");
    nats.wait_count("FETCH", 0);
    stop(node);
    let ids: BTreeSet<String> = done(&nats).into_iter().map(|(_, done)| done.id).collect();
    assert_eq!((ids.len(), emulator.counts().0, dir.collected().len()), (2, 2, 2));
}
