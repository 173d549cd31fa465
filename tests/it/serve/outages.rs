//! NATS that goes away, comes back, or is not there yet.

use std::thread;
use std::time::{Duration, Instant};

use tollgate_emulator::ProviderLimit;

use super::{done, emulator, publish, serve, stop};
use crate::util::{
    Config, Dir, Nats, accounts, assert_none_refused, free_port, get, reports, wait_until,
};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: &str = r#"pair = { per = ["account"], max = 2, in = "1s" }"#;

fn status(port: u16, path: &str) -> Option<u16> {
    get(port, path).map(|(status, _)| status)
}

fn wait_status(port: u16, path: &str, wanted: u16) {
    wait_until(&format!("{wanted} of {path}"), || {
        (status(port, path) == Some(wanted)).then_some(())
    });
}

#[test]
fn a_node_holds_while_nats_is_away_says_so_and_goes_on() {
    let (mut nats, port) = (Nats::start(), free_port());
    let emulator = emulator(vec![ProviderLimit::window("pair", 2, SECOND)], 40);
    let config = Config::of(&emulator)
        .on(&nats)
        .http(&format!("listen = \"127.0.0.1:{port}\""))
        .limit(LIMIT)
        .platform(r#"guard = "250ms""#)
        .report();
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    let accounts = accounts("act", 20);
    publish(&dir, &reports(&accounts, 10));
    let mut node = serve(&dir);
    wait_status(port, "/readyz", 200);
    wait_until("some calls", || (emulator.counts().0 >= 40).then_some(()));

    nats.server.kill();
    wait_status(port, "/readyz", 503);
    let (_, why) = get(port, "/readyz").unwrap();
    assert!(why.contains("nats"), "{why}");
    assert_eq!(status(port, "/healthz"), Some(200), "it is well, and waits");
    // What was decided before may still go out.
    thread::sleep(Duration::from_millis(500));
    let called = emulator.counts().0;
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(emulator.counts().0, called, "no calls that nobody could write down");
    assert!(called < 200 && node.is_running());

    nats.server.restart();
    wait_status(port, "/readyz", 200);
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts, 10);
    assert_eq!((done(&nats).len(), nats.count("DEAD")), (200, 0));
    assert_eq!(emulator.counts().0, 200, "nothing was called twice");
}

#[test]
fn a_node_waits_for_a_server_that_is_not_there_yet() {
    let (mut nats, port) = (Nats::start(), free_port());
    nats.server.kill();
    let emulator = emulator(Vec::new(), 5);
    let config =
        Config::of(&emulator).on(&nats).http(&format!("listen = \"127.0.0.1:{port}\"")).report();
    let dir = Dir::with(&config);
    // One that is told to stop meanwhile does.
    let node = serve(&dir);
    wait_until("why it is not ready", || {
        let (status, why) = get(port, "/readyz")?;
        (status == 503 && why.contains("not connected")).then_some(())
    });
    stop(node);

    let mut node = serve(&dir);
    wait_status(port, "/healthz", 200);
    thread::sleep(SECOND);
    assert!(node.is_running());
    nats.server.restart();
    wait_status(port, "/readyz", 200);
    publish(&dir, &reports(&["a".to_owned()], 3));
    nats.wait_count("DONE", 3);
    stop(node);
}

#[test]
fn a_server_that_is_frozen_for_a_moment_breaks_no_limit() {
    let nats = Nats::start();
    let emulator = emulator(vec![ProviderLimit::window("pair", 2, SECOND)], 40);
    let dir = Dir::with(&Config::of(&emulator).on(&nats).limit(LIMIT).report());
    let accounts = accounts("act", 10);
    let node = serve(&dir);
    node.wait_says("shard started");
    publish(&dir, &reports(&accounts, 8));
    for life in [300, 900] {
        thread::sleep(Duration::from_millis(life));
        // Records lie in the socket meanwhile, and are confirmed too late to be of use.
        nats.server.signal("STOP");
        thread::sleep(Duration::from_millis(1200));
        nats.server.signal("CONT");
    }
    nats.wait_count("FETCH", 0);
    stop(node);
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts, 8);
    assert_eq!((done(&nats).len(), emulator.counts().0), (80, 80));
}

#[test]
#[ignore = "three servers on two cores, and a minute of waiting; run it with --run-ignored only"]
fn a_node_that_is_started_while_the_servers_have_no_leader_waits_for_one() {
    let ports = [free_port(), free_port(), free_port()];
    let routes = ports.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
    let mut servers = ports.map(|port| {
        let listen = format!("listen: \"127.0.0.1:{port}\"");
        Nats::with("", &format!("cluster {{ name: \"three\", {listen}, routes: [{routes}] }}"))
    });
    let (emulator, port) = (emulator(Vec::new(), 5), free_port());
    let urls = servers.each_ref().map(|nats| nats.server.url()).join(",");
    let config = Config::of(&emulator)
        .nats(&format!("url = \"{urls}\""))
        .nats("replicas = 3")
        .http(&format!("listen = \"127.0.0.1:{port}\""))
        .report();
    let dir = Dir::with(&config);
    let started = Instant::now();
    while dir.tollgate(&["setup"]).run().code != Some(0) {
        assert!(started.elapsed() < 30 * SECOND);
    }
    servers[1].server.kill();
    servers[2].server.kill();
    let mut node = serve(&dir);
    wait_status(port, "/readyz", 503);
    // Longer than a server that starts alone needs.
    thread::sleep(35 * SECOND);
    assert!(node.is_running());
    stop(node);

    let mut node = serve(&dir);
    thread::sleep(3 * SECOND);
    servers[1].server.restart();
    servers[2].server.restart();
    wait_status(port, "/readyz", 200);
    assert!(node.is_running());
    publish(&dir, &reports(&["a".to_owned()], 3));
    servers[0].wait_count("DONE", 3);
    stop(node);
}
