//! JetStream that fills up, is switched off, or loses a stream while a node works.

use std::time::Duration;

use async_nats::jetstream::stream;
use tollgate_emulator::{Emulator, ProviderLimit};

use super::{done, emulator, publish, serve, stop};
use crate::util::{Config, Dir, Nats, Running, accounts, assert_none_refused, reports, wait_until};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: &str = r#"pair = { per = ["account"], max = 2, in = "1s" }"#;

fn set_up(nats: &Nats) -> (Emulator, Dir) {
    let emulator = emulator(vec![ProviderLimit::window("pair", 2, SECOND)], 40);
    let config = Config::of(&emulator).on(nats).limit(LIMIT).report();
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    (emulator, dir)
}

/// A node that has called some accounts and has more to do.
fn working(dir: &Dir, emulator: &Emulator) -> Running {
    let node = serve(dir);
    // It answers once it has started; one that loses NATS before that ends.
    wait_until("the node to answer", || {
        let status = dir.tollgate(&["status", "--json"]).run();
        (status.code == Some(0) && status.json()["running"] == true).then_some(())
    });
    publish(dir, &reports(&accounts("act", 10), 8));
    wait_until("some calls", || (emulator.counts().0 >= 20).then_some(()));
    node
}

#[test]
fn a_node_holds_while_jetstream_is_full_says_so_and_goes_on() {
    let nats = Nats::with("max_file_store: 8MB", "");
    let (emulator, dir) = set_up(&nats);
    let mut node = working(&dir, &emulator);
    // Somebody else fills the disk, to the last byte.
    nats.js(async |js| {
        let config = stream::Config {
            name: "FILL".into(),
            subjects: vec!["fill".into()],
            ..stream::Config::default()
        };
        js.create_stream(config).await.unwrap();
        for size in [500_000, 20_000, 500, 1] {
            while let Ok(sent) = js.publish("fill", vec![0; size].into()).await {
                if sent.await.is_err() {
                    break;
                }
            }
        }
    });
    node.wait_says("TG0405");
    std::thread::sleep(2 * SECOND);
    assert!(node.is_running());
    let called = emulator.counts().0;
    assert!(called < 80, "all was done before it was full: {called}");
    let refused = dir.tollgate(&["publish", "--json", "-"]);
    refused.input(reports(&["late".to_owned()], 1)).run().exits(2).says("TG0405");
    nats.js(async |js| js.delete_stream("FILL").await.unwrap());
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts("act", 10), 8);
    assert_eq!(done(&nats).len(), 80, "each once");
    assert_eq!(emulator.counts().0, 80, "nothing was called twice");
}

#[test]
fn a_stream_that_is_deleted_under_a_node_is_told_and_a_new_one_is_used() {
    for (name, told) in [
        ("TOLLGATE_LEDGER", "TG0407"),
        ("TOLLGATE_DONE", "TG0407"),
        ("KV_TOLLGATE_OWN", "session_lost"),
    ] {
        let nats = Nats::start();
        let (emulator, dir) = set_up(&nats);
        let mut node = working(&dir, &emulator);
        nats.js(async |js| js.delete_stream(name).await.unwrap());
        node.wait_says(told);
        std::thread::sleep(2 * SECOND);
        assert!(node.is_running(), "without {name}");
        dir.tollgate(&["setup", "--dry-run"]).run().exits(1).says("TG0407").says(name);
        dir.tollgate(&["setup"]).run().exits(0);
        nats.wait_count("FETCH", 0);
        stop(node);
        assert_none_refused(&emulator);
        dir.assert_reports(&accounts("act", 10), 8);
    }
}

#[test]
fn fetches_whose_stream_was_deleted_are_gone_and_what_is_published_anew_is_collected() {
    let nats = Nats::start();
    let (emulator, dir) = set_up(&nats);
    let mut node = working(&dir, &emulator);
    nats.js(async |js| js.delete_stream("TOLLGATE_FETCH").await.unwrap());
    node.wait_says("TG0407");
    let lost = dir.tollgate(&["publish", "--json", "-"]);
    lost.input(reports(&["late".to_owned()], 1)).run().exits(2).says("TG0407");
    assert!(node.is_running());
    dir.tollgate(&["setup"]).run().exits(0);
    publish(&dir, &reports(&accounts("act", 10), 8));
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts("act", 10), 8);
}

#[test]
fn a_node_holds_while_jetstream_is_off_and_goes_on_when_it_is_on() {
    let mut nats = Nats::start();
    let (emulator, dir) = set_up(&nats);
    let mut node = working(&dir, &emulator);
    let mut whole = String::new();
    nats.reconfigure(|config| {
        whole = config.clone();
        let (before, rest) = config.split_once("jetstream {").unwrap();
        format!("{before}{}", rest.split_once('}').unwrap().1)
    });
    node.wait_says("session_lost");
    std::thread::sleep(SECOND);
    let called = emulator.counts().0;
    std::thread::sleep(2 * SECOND);
    assert_eq!(emulator.counts().0, called, "no calls that nobody could write down");
    assert!(node.is_running(), "{}", node.wait());
    dir.tollgate(&["status"]).run().exits(2).says("TG0403");
    nats.reconfigure(|_| whole.clone());
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts("act", 10), 8);
    assert_eq!(done(&nats).len(), 80);
}
