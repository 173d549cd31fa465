//! A limit over all accounts while three nodes share them: one node owns it, the others are lent permits. The provider
//! counts on arrival.

use std::thread;
use std::time::{Duration, Instant};

use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};

use crate::cluster::{Node, publish, setup, told, wait_done, wait_shared};
use crate::util::{Config, Dir, Nats, accounts, assert_none_refused, get, reports, wait_until};

const SECOND: Duration = Duration::from_secs(1);
/// Of the record of the budget that all accounts of platform `p` share: FNV-1a of its two tokens.
const RECORD: &str = "_pplatform%3Dp";

/// Which partition the budget is in: its owner owns the budget.
fn part() -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    RECORD.bytes().fold(0x811c_9dc5, step) % 64
}

fn emulator(limits: Vec<ProviderLimit>, most_ms: u64) -> Emulator {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(most_ms));
    let limits = limits.into_iter().map(ProviderLimit::per_platform).collect();
    Emulator::start(Profile { limits, latency, record: true, ..Profile::default() }).unwrap()
}

fn start(emulator: &Emulator, nats: &Nats, limits: &[&str]) -> [Node; 3] {
    let config = Config::of(emulator)
        .on(nats)
        .collect("timeouts = { connect = \"200ms\" }")
        .collect("shards = 1")
        .platform(r#"guard = "100ms""#)
        .platform(r#"lost_call = "5s""#);
    let config = limits.iter().fold(config, |config, limit| config.limit(limit)).report();
    let store = Dir::empty();
    let mut nodes = ["one", "two", "three"].map(|name| Node::new(name, &config, &store));
    // Its objects are there as long as the process is.
    std::mem::forget(store);
    setup(&nodes[0]);
    nodes.iter_mut().for_each(Node::start);
    nodes.iter().for_each(Node::wait_ready);
    wait_shared(&nodes.each_ref());
    nodes
}

fn owner(nodes: &[Node; 3]) -> usize {
    nodes.iter().position(|node| node.partitions().contains(&part())).unwrap()
}

/// A series of a node's page of metrics, without labels.
fn series(node: &Node, name: &str) -> f64 {
    let (_, page) = get(node.port, "/metrics").unwrap();
    let line = page.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    line.unwrap_or_else(|| panic!("{name}: {page}")).rsplit(' ').next().unwrap().parse().unwrap()
}

const TWENTY: &str = r#"all = { per = ["platform"], max = 20, in = "1s" }"#;
const EIGHT: &str = r#"slots = { per = ["platform"], concurrent = 8 }"#;

#[test]
fn twenty_per_second_over_sixty_accounts_and_three_nodes_are_exact_and_used() {
    let nats = Nats::start();
    let limits =
        vec![ProviderLimit::window("all", 20, SECOND), ProviderLimit::concurrent("slots", 8)];
    let emulator = emulator(limits, 10);
    let mut nodes = start(&emulator, &nats, &[TWENTY, EIGHT]);
    let accounts = accounts("act", 60);
    publish(&nodes[0], &reports(&accounts, 6));
    wait_done(&nats, &mut nodes);
    let waits: f64 =
        nodes.iter().map(|node| series(node, "tollgate_budget_ask_seconds_count")).sum();
    let took: f64 = nodes.iter().map(|node| series(node, "tollgate_budget_ask_seconds_sum")).sum();
    // The last ends are told after the last fetch is done.
    wait_until("no permit lent", || {
        let lent = |node| series(node, "tollgate_budget_permits_lent");
        (nodes.iter().map(lent).sum::<f64>().abs() < f64::EPSILON).then_some(())
    });
    let ran = nodes.each_mut().map(Node::stop);
    assert_none_refused(&emulator);
    let mut calls = emulator.calls();
    calls.sort_by_key(|call| call.at);
    assert_eq!(calls.len(), 360);
    let all = calls.last().unwrap().at - calls[0].at;
    // The first twenty go at once: 340 more at 20 a second.
    let used = 17.0 / all.as_secs_f64();
    println!(
        "{used:.3} of the rate; {waits} asks of other nodes took {:.1} ms each",
        1000.0 * took / waits
    );
    // Quiet it is 0.94; a half would go where each permit lent cost its whole window.
    assert!(used >= 0.8, "{used}");
    assert!(waits > 100.0, "{waits}");
    for ran in &ran {
        assert!(told(ran, "fetch_done").len() > 50, "each has its share: {ran}");
        assert_eq!(told(ran, "budget_node_away").len(), 0, "{ran}");
    }
}

/// What becomes of the budget's owner in the middle of it.
#[expect(clippy::print_stdout, reason = "figures, for whoever runs it by hand")]
fn while_the_owner(ends: impl FnOnce(&mut Node)) {
    let nats = Nats::start();
    let limits =
        vec![ProviderLimit::window("all", 20, SECOND), ProviderLimit::concurrent("slots", 8)];
    let emulator = emulator(limits, 150);
    let mut nodes = start(&emulator, &nats, &[TWENTY, EIGHT]);
    publish(&nodes[0], &reports(&accounts("act", 60), 8));
    wait_until("some calls", || (emulator.counts().0 > 100).then_some(()));
    let owner = owner(&nodes);
    let before = emulator.counts().0;
    let since = Instant::now();
    ends(&mut nodes[owner]);
    wait_until("calls of others", || (emulator.counts().0 > before + 60).then_some(()));
    println!("60 more calls {:?} after", since.elapsed());
    wait_done(&nats, &mut nodes);
    println!("all done {:?} after, {} calls for 480 fetches", since.elapsed(), emulator.counts().0);
    for node in &mut nodes {
        if node.process.is_some() {
            node.stop();
        }
    }
    assert_none_refused(&emulator);
    assert_eq!(nats.count("DEAD"), 0);
}

#[test]
fn a_budgets_owner_that_is_killed_costs_no_limit_and_all_is_done() {
    while_the_owner(|node| drop(node.kill()));
}

#[test]
fn a_budgets_owner_that_is_stopped_for_eight_seconds_costs_no_limit_and_all_is_done() {
    while_the_owner(|node| {
        node.signal("STOP");
        thread::sleep(8 * SECOND);
        node.signal("CONT");
    });
}

#[test]
fn a_budgets_owner_that_drains_hands_it_over_with_calls_in_flight() {
    while_the_owner(|node| drop(node.stop()));
}
