//! Nodes with different configurations at once: every limit of all of them applies, judged by arrivals.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};

use crate::cluster::{Node, publish, setup, wait_shared};
use crate::util::{Config, Dir, Nats, accounts, assert_none_refused, reports, wait_until};

const SECOND: Duration = Duration::from_secs(1);
/// After the last node with stricter limits has ended, others go by their own.
const LOOSE_AGAIN_WITHIN: Duration = Duration::from_secs(10);

fn emulator(pair: u32, all: u32) -> Emulator {
    let limits = vec![
        ProviderLimit::window("pair", pair, SECOND),
        ProviderLimit::window("all", all, SECOND).per_platform(),
    ];
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(20));
    Emulator::start(Profile { limits, latency, record: true, ..Profile::default() }).unwrap()
}

/// So many calls a second of each account, and of all accounts together.
fn config(emulator: &Emulator, nats: &Nats, pair: u32, all: u32) -> Config {
    accounts_config(emulator, nats, pair)
        .limit(&format!(r#"all = {{ per = ["platform"], max = {all}, in = "1s" }}"#))
}

fn accounts_config(emulator: &Emulator, nats: &Nats, pair: u32) -> Config {
    Config::of(emulator)
        .on(nats)
        .collect("shards = 1")
        .limit(&format!(r#"pair = {{ per = ["account"], max = {pair}, in = "1s" }}"#))
        .report()
}

/// The most calls of any account, and of all together, in any second between two moments.
fn most(emulator: &Emulator, from: Instant, until: Instant) -> (usize, usize) {
    // Two arrivals may be noted closer to each other than they were.
    let second = SECOND.saturating_sub(Duration::from_micros(emulator.score().loop_lag_max_us));
    let most = |times: &mut Vec<Instant>| {
        times.sort_unstable();
        let within =
            |from: Instant| times.iter().filter(|at| **at >= from && **at < from + second).count();
        times.iter().map(|from| within(*from)).max().unwrap_or(0)
    };
    let mut of_accounts: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
    let mut all = Vec::new();
    for call in emulator.calls() {
        if call.at >= from && call.at < until {
            of_accounts.entry(call.account.to_string()).or_default().push(call.at);
            all.push(call.at);
        }
    }
    (of_accounts.values_mut().map(most).max().unwrap_or(0), most(&mut all))
}

#[test]
fn a_node_with_looser_limits_joins_and_goes_by_the_stricter_ones_from_its_first_call() {
    let nats = Nats::start();
    let emulator = emulator(2, 12);
    let store = Dir::empty();
    let mut strict = Node::new("strict", &config(&emulator, &nats, 2, 12), &store);
    let mut loose = Node::new("loose", &config(&emulator, &nats, 4, 40), &store);
    setup(&strict);
    strict.start();
    strict.wait_ready();
    publish(&strict, &reports(&accounts("act", 12), 6));
    wait_until("some calls", || (emulator.counts().0 > 20).then_some(()));
    loose.start();
    loose.wait_ready();
    wait_shared(&[&strict, &loose]);
    wait_until("all to be done", || (nats.count("FETCH") == 0).then_some(()));
    assert_none_refused(&emulator);
    assert_eq!(nats.count("DEAD"), 0);
    let ran = [loose.stop(), strict.stop()];
    for ran in ran {
        let ran = ran.says(r#""event":"config_mixed""#);
        assert!(ran.events().iter().any(|line| line["event"] == "fetch_done"), "{ran}");
    }
}

#[test]
fn while_both_live_the_stricter_limits_apply_and_when_one_ends_the_others_own() {
    let nats = Nats::start();
    // As wide as the looser ones: what is more is counted here.
    let emulator = emulator(4, 32);
    let store = Dir::empty();
    let mut one = Node::new("one", &config(&emulator, &nats, 4, 32), &store);
    let mut two = Node::new("two", &config(&emulator, &nats, 2, 16), &store);
    setup(&one);
    one.start();
    one.wait_ready();
    two.start();
    two.wait_ready();
    wait_shared(&[&one, &two]);
    let both = Instant::now();
    publish(&one, &reports(&accounts("act", 10), 80));
    let status = one.dir.tollgate(&["status", "--json"]).run().exits(0).json();
    let configs = status["configs"].as_array().unwrap();
    assert_eq!(configs.len(), 2, "{status}");
    assert_ne!(configs[0]["config"], configs[1]["config"], "{status}");
    let text = one.dir.tollgate(&["status"]).run().exits(0).out();
    assert!(text.contains("nodes have different limits"), "{text}");
    thread::sleep(5 * SECOND);
    let ending = Instant::now();
    let (pair, all) = most(&emulator, both, ending);
    println!("while both live: {pair} of an account and {all} of all in a second");
    // How fast nodes share a budget is another matter.
    assert!(pair <= 2 && (4..=16).contains(&all), "no more than the stricter limits allow");
    let stopped = two.stop();
    let ended = Instant::now();
    let loose = loop {
        let now = Instant::now();
        let (pair, all) = most(&emulator, ended, now);
        if pair == 4 && all > 24 {
            break now;
        }
        assert!(
            ended.elapsed() <= LOOSE_AGAIN_WITHIN,
            "{pair} and {all}: still by the limits of who is gone\n{}",
            one.kill()
        );
        thread::sleep(Duration::from_millis(20));
    };
    println!("{:?} after the other's end", loose - ended);
    assert!(loose - ended < LOOSE_AGAIN_WITHIN, "{:?}", loose - ended);
    assert_none_refused(&emulator);
    assert_eq!(nats.count("DEAD"), 0);
    stopped.says(r#""event":"config_mixed""#);
    one.stop().says(r#""event":"config_agreed""#);
}

#[test]
fn nodes_that_are_reloaded_one_after_the_other_go_by_the_stricter_limits_meanwhile() {
    let nats = Nats::start();
    let emulator = emulator(4, 1000);
    let store = Dir::empty();
    let mut nodes = ["one", "two"].map(|name| {
        let mut node = Node::new(name, &accounts_config(&emulator, &nats, 4), &store);
        if name == "one" {
            setup(&node);
        }
        node.start();
        node.wait_ready();
        node
    });
    wait_shared(&nodes.each_ref());
    publish(&nodes[0], &reports(&accounts("act", 10), 60));
    wait_until("some calls", || (emulator.counts().0 > 60).then_some(()));
    let reload = |node: &Node| {
        let text = std::fs::read_to_string(node.dir.path("tollgate.toml")).unwrap();
        let text = text.replace("max = 4,", "max = 2,");
        node.dir.write("tollgate.toml", text);
        node.signal("HUP");
    };
    reload(&nodes[1]);
    let says = |node: &Node, event: &str| {
        node.process.as_ref().unwrap().wait_says(&format!(r#""event":"{event}""#));
    };
    let hup = Instant::now();
    says(&nodes[0], "config_mixed");
    println!("heard of after {:?}", hup.elapsed());
    assert!(hup.elapsed() < 3 * SECOND, "{:?}", hup.elapsed());
    // What was let go a moment before arrives a moment later.
    let mixed = Instant::now() + Duration::from_millis(200);
    thread::sleep(3 * SECOND);
    reload(&nodes[0]);
    says(&nodes[0], "config_agreed");
    says(&nodes[1], "config_agreed");
    thread::sleep(3 * SECOND);
    let (pair, _) = most(&emulator, mixed, Instant::now());
    assert_eq!(pair, 2, "all that the stricter limit allows, and no more");
    assert_none_refused(&emulator);
    assert_eq!(nats.count("DEAD"), 0);
    let [one, _] = nodes.each_mut().map(Node::stop);
    // In place, under its name: it knew every call that was made before.
    one.says(r#""limit":"pair","change":"tightened""#);
}
