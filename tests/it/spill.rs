//! Attempts at other nodes' collectors: three nodes on a real server, all accounts of one of them, answers that take
//! long. The provider counts on arrival.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};
use tollgate_protos::Done;

use crate::cluster::{Node, assert_done_once, publish, setup, told, wait_done, wait_shared};
use crate::util::{
    Config, Dir, Nats, Provider, Told, assert_none_refused, fetch, get, reports, wait_until,
};

const SECOND: Duration = Duration::from_secs(1);
const SLOTS: usize = 4;

fn emulator(limits: Vec<ProviderLimit>, latency: Duration) -> Emulator {
    let latency = Latency::Fixed(latency);
    Emulator::start(Profile { limits, latency, record: true, ..Profile::default() }).unwrap()
}

fn config(emulator: &Emulator, nats: &Nats) -> Config {
    Config::of(emulator)
        .on(nats)
        .collect("timeouts = { connect = \"200ms\" }")
        .collect("shards = 1")
        .collect(&format!("concurrency = {SLOTS}"))
        .platform(r#"guard = "250ms""#)
        .platform(r#"lost_call = "4s""#)
        .report()
}

/// Three nodes that share the partitions.
fn three(config: &Config, store: &Dir) -> [Node; 3] {
    let mut nodes = ["one", "two", "three"].map(|name| Node::new(name, config, store));
    setup(&nodes[0]);
    nodes.iter_mut().for_each(Node::start);
    nodes.iter().for_each(Node::wait_ready);
    wait_shared(&nodes.each_ref());
    nodes
}

/// The partition of an account of platform `p` whose name needs no encoding: FNV-1a, 32 bits.
fn part(account: &str) -> u32 {
    let hash = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    format!("p{account}").bytes().fold(0x811c_9dc5, hash) % 64
}

/// So many accounts that are all this node's.
fn accounts_of(node: &Node, count: usize) -> Vec<String> {
    let held = node.partitions();
    let names = (0..).map(|n| format!("act_{n}"));
    names.filter(|name| held.contains(&part(name))).take(count).collect()
}

/// A metric of a node without labels.
fn metric(node: &Node, name: &str) -> u64 {
    let (_, answer) = get(node.port, "/metrics").unwrap();
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
}

/// What answers after 3 s, and three nodes that are given fetches of accounts of the first.
struct Given {
    nats: Nats,
    emulator: Emulator,
    store: Dir,
    nodes: [Node; 3],
    accounts: Vec<String>,
}

/// One fetch for each of so many accounts, of each of which so many calls are allowed within that time.
fn given(accounts: usize, calls: u32, within: Duration) -> Given {
    let nats = Nats::start();
    let emulator = emulator(vec![ProviderLimit::window("few", calls, within)], 3 * SECOND);
    let limit =
        format!("few = {{ per = [\"account\"], max = {calls}, in = \"{}s\" }}", within.as_secs());
    let config = config(&emulator, &nats).limit(&limit);
    let store = Dir::empty();
    let nodes = three(&config, &store);
    let accounts = accounts_of(&nodes[0], accounts);
    publish(&nodes[0], &reports(&accounts, 1));
    Given { nats, emulator, store, nodes, accounts }
}

/// How long 40 calls of 3 s take whose accounts are all one node's, and how many were made elsewhere.
fn forty_slow_calls(spill: bool) -> (Duration, u64) {
    let nats = Nats::start();
    let limits = vec![
        ProviderLimit::window("pair", 2, SECOND),
        ProviderLimit::concurrent("one", 1),
        ProviderLimit::window("all", 10, SECOND).per_platform(),
    ];
    let emulator = emulator(limits, 3 * SECOND);
    let config = config(&emulator, &nats)
        .collect(&format!("spill_over = {spill}"))
        .limit(r#"pair = { per = ["account"], max = 2, in = "1s" }"#)
        .limit(r#"one = { per = ["account"], concurrent = 1 }"#)
        .limit(r#"all = { per = ["platform"], max = 10, in = "1s" }"#);
    let store = Dir::empty();
    let mut nodes = three(&config, &store);
    let accounts = accounts_of(&nodes[0], 20);
    let started = Instant::now();
    publish(&nodes[0], &reports(&accounts, 2));
    if spill {
        let status = wait_until("guests", || {
            let status = nodes[0].dir.tollgate(&["status", "--json"]).run().exits(0).json();
            let guests = |node: &Value| node["guests"].as_u64().unwrap_or(0);
            let sum: u64 = status["partitions"].as_array().unwrap().iter().map(guests).sum();
            (sum >= 4).then_some(status)
        });
        let text = nodes[0].dir.tollgate(&["status"]).run().exits(0).out();
        assert!(text.contains("for other nodes"), "{status}\n{text}");
    }
    wait_done(&nats, &mut nodes);
    let took = started.elapsed();
    let spilled = metric(&nodes[0], "tollgate_spilled_attempts_total");
    let ran = nodes.each_mut().map(Node::stop);
    assert_none_refused(&emulator);
    assert_eq!(emulator.counts().0, 40, "nothing is called twice");
    assert_done_once(&nats, 40);
    store.assert_reports_in("objects", &accounts, 2);
    for ran in &ran {
        assert!(told(ran, "guest_lost").is_empty() && told(ran, "visit_ended").is_empty(), "{ran}");
    }
    // Whoever makes a call, its fetch ends at its owner.
    assert_eq!(told(&ran[0], "fetch_done").len(), 40);
    (took, spilled)
}

#[test]
fn calls_of_a_full_node_are_made_by_others_within_every_limit() {
    let (took, spilled) = forty_slow_calls(true);
    println!("40 calls of 3 s, 4 slots a node: {took:?}, {spilled} elsewhere");
    assert!(spilled >= 15, "{spilled}");
    // One node alone needs ten rounds of 3 s.
    assert!(took < 24 * SECOND, "{took:?}");
}

#[test]
#[ignore = "half a minute, for the figure alone; run it with --run-ignored only"]
fn without_spill_over_a_full_node_makes_its_calls_alone() {
    let (took, spilled) = forty_slow_calls(false);
    println!("40 calls of 3 s, 4 slots a node, without spill-over: {took:?}, {spilled} elsewhere");
    assert!(spilled == 0 && took >= 30 * SECOND, "{spilled} {took:?}");
}

#[test]
fn attempts_of_a_killed_guest_are_made_again_and_their_calls_count() {
    let Given { nats, emulator, store, mut nodes, accounts } = given(10, 2, 30 * SECOND);
    wait_until("calls of guests", || {
        let guests = metric(&nodes[1], "tollgate_guest_attempts");
        (guests >= 2 && emulator.counts().0 >= 8).then_some(())
    });
    nodes[1].kill();
    wait_done(&nats, &mut nodes);
    let lost = metric(&nodes[0], "tollgate_spilled_attempts_lost_total");
    let ran = nodes[0].stop();
    nodes[2].stop();
    println!("{lost} lost, {} calls for 10 fetches", emulator.counts().0);
    assert!(lost >= 2 && told(&ran, "guest_lost").len() as u64 == lost, "{ran}");
    assert_eq!(emulator.counts().0, 10 + lost);
    assert_none_refused(&emulator);
    assert_done_once(&nats, 10);
    store.assert_reports_in("objects", &accounts, 1);
}

#[test]
fn nothing_is_lost_of_a_killed_owner_whose_calls_are_elsewhere() {
    let Given { nats, emulator, store, mut nodes, accounts } = given(12, 3, 40 * SECOND);
    wait_until("calls of guests", || {
        let guests: u64 =
            nodes[1..].iter().map(|node| metric(node, "tollgate_guest_attempts")).sum();
        (guests >= 3 && emulator.counts().0 >= 7).then_some(())
    });
    nodes[0].kill();
    wait_done(&nats, &mut nodes);
    let ran = [nodes[1].stop(), nodes[2].stop()];
    assert_none_refused(&emulator);
    assert_done_once(&nats, 12);
    store.assert_reports_in("objects", &accounts, 1);
    let calls = emulator.counts().0;
    println!("{calls} calls for 12 fetches");
    assert!(calls <= 24, "{calls}");
    let ended: usize = ran.iter().map(|ran| told(ran, "fetch_done").len()).sum();
    assert!(ended >= 1, "{}", ran[0]);
}

#[test]
fn the_pages_of_a_read_travel_one_by_one() {
    const READS: usize = 8;
    let nats = Nats::start();
    let provider = Provider::start(|asked, _| {
        thread::sleep(Duration::from_millis(700));
        let page = asked.query("cursor").parse().unwrap_or(1);
        let account = asked.header("x-account").unwrap_or_default().to_owned();
        let next = (page < 3).then(|| (page + 1).to_string());
        Told::json(&json!({ "data": [account, page], "next": next }))
    });
    let config = Config::at(&provider.base_url())
        .on(&nats)
        .collect("shards = 2\nconcurrency = 2")
        .store("compression = \"none\"")
        .platform(r#"headers = { X-Account = "{account}" }"#)
        .limit(r#"gap = { per = ["account"], every = "200ms" }"#)
        .api(
            "pages",
            "path = \"pages\"\nquery = { cursor = \"{page.cursor}\" }\n\
             pages = { by = \"cursor\", next = \"next\", items = \"data\", max = 10 }",
        );
    let store = Dir::empty();
    let mut nodes = three(&config, &store);
    let accounts = accounts_of(&nodes[0], READS);
    let read = |account: &String| fetch(account, "pages", "all", json!({}));
    publish(&nodes[0], &accounts.iter().map(read).collect::<String>());
    wait_done(&nats, &mut nodes);
    let spilled = metric(&nodes[0], "tollgate_spilled_attempts_total");
    println!("{spilled} of {} pages elsewhere", provider.asked().len());
    for node in &mut nodes {
        node.stop();
    }
    assert!(spilled >= 4, "{spilled}");
    assert_eq!(provider.asked().len(), 3 * READS, "no page is called twice");
    assert_done_once(&nats, READS);
    assert_eq!(nats.count("PROGRESS"), 0, "the notes of the reads are gone");
    for (_, done) in nats.events::<Done>("DONE") {
        assert_eq!((done.pages, done.objects.len()), (3, 3), "{done:?}");
        for (page, object) in (1..).zip(&done.objects) {
            let stored = std::fs::read(store.path("objects").join(&object.key)).unwrap();
            let stored: Value = serde_json::from_slice(&stored).unwrap();
            let account = object.key.split('/').nth(2).unwrap();
            assert_eq!(stored["data"], json!([account, page]), "{}", object.key);
        }
    }
}

#[test]
fn what_a_guest_breaks_off_when_it_is_told_to_stop_is_made_again() {
    let nats = Nats::start();
    let emulator = emulator(vec![ProviderLimit::window("two", 2, 30 * SECOND)], 3 * SECOND);
    let config = config(&emulator, &nats)
        .collect("drain = \"500ms\"")
        .limit(r#"two = { per = ["account"], max = 2, in = "30s" }"#);
    let store = Dir::empty();
    let mut nodes = three(&config, &store);
    let accounts = accounts_of(&nodes[0], 10);
    publish(&nodes[0], &reports(&accounts, 1));
    wait_until("calls of guests", || {
        let guests = metric(&nodes[1], "tollgate_guest_attempts");
        (guests >= 2 && emulator.counts().0 >= 8).then_some(())
    });
    nodes[1].stop();
    let stopped = Instant::now();
    wait_done(&nats, &mut nodes);
    // It is told at once, and no crash of the fetch: nobody waits until the guest is missed.
    assert!(stopped.elapsed() < 6 * SECOND, "{:?}", stopped.elapsed());
    let ran = nodes[0].stop();
    nodes[2].stop();
    assert!(told(&ran, "guest_lost").is_empty(), "{ran}");
    let calls = emulator.counts().0;
    assert!((12..=13).contains(&calls), "{calls}");
    assert_none_refused(&emulator);
    assert_done_once(&nats, 10);
    store.assert_reports_in("objects", &accounts, 1);
}

#[test]
fn an_owner_that_is_told_to_stop_waits_for_its_calls_at_other_nodes() {
    let nats = Nats::start();
    let emulator = emulator(vec![ProviderLimit::window("one", 1, 30 * SECOND)], 3 * SECOND);
    let config =
        config(&emulator, &nats).limit(r#"one = { per = ["account"], max = 1, in = "30s" }"#);
    let store = Dir::empty();
    let mut nodes = three(&config, &store);
    let accounts = accounts_of(&nodes[0], 8);
    publish(&nodes[0], &reports(&accounts, 1));
    wait_until("all to be called", || (emulator.counts().0 == 8).then_some(()));
    let ran = nodes[0].stop();
    assert_eq!(told(&ran, "fetch_done").len(), 8, "{ran}");
    wait_done(&nats, &mut nodes);
    nodes[1].stop();
    nodes[2].stop();
    assert_eq!(emulator.counts().0, 8, "nothing was broken off");
    assert_none_refused(&emulator);
    assert_done_once(&nats, 8);
    store.assert_reports_in("objects", &accounts, 1);
}

/// A node as another one meets it: what it is told and what it says, on a real server.
struct Other {
    runtime: Runtime,
    client: Client,
    heard: Subscriber,
    asked: Subscriber,
}

const OTHER: &str = "00000000000000aa";

impl Other {
    fn on(nats: &Nats) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (client, heard, asked) = runtime.block_on(async {
            let client = async_nats::connect(nats.server.url()).await.unwrap();
            let heard = client.subscribe(format!("tollgate.spill.{OTHER}")).await.unwrap();
            let asked = client.subscribe("tollgate.spill.ask").await.unwrap();
            client.flush().await.unwrap();
            (client, heard, asked)
        });
        Self { runtime, client, heard, asked }
    }

    fn say(&self, to: &str, word: &Value) {
        let text = json!({ "from": OTHER, "word": word }).to_string();
        self.runtime.block_on(async {
            self.client.publish(format!("tollgate.spill.{to}"), text.into()).await.unwrap();
            self.client.flush().await.unwrap();
        });
    }

    /// The next word of that kind, and who said it.
    fn hears(&mut self, kind: &str) -> (String, Value) {
        let heard = if kind == "ask" { &mut self.asked } else { &mut self.heard };
        self.runtime.block_on(async {
            loop {
                let message = timeout(10 * SECOND, heard.next()).await;
                let message = message.unwrap_or_else(|_| panic!("no `{kind}` came")).unwrap();
                let letter: Value = serde_json::from_slice(&message.payload).unwrap();
                if let Some(word) = letter["word"].get(kind) {
                    return (letter["from"].as_str().unwrap().to_owned(), word.clone());
                }
            }
        })
    }

    /// How an attempt ended.
    fn hears_end(&mut self, permit: u64) -> Value {
        loop {
            let (_, word) = self.hears("told");
            if word["permit"] == permit && !word["told"]["end"].is_null() {
                return word["told"].clone();
            }
        }
    }

    /// A slot that the node offers now.
    fn is_offered(&mut self, ask: u64, how: &Value) -> (String, u64) {
        self.say("ask", &json!({ "ask": { "number": ask, "wants": 1, "how": how } }));
        loop {
            let (from, word) = self.hears("offer");
            if word["ask"] == ask {
                return (from, word["offers"][0].as_u64().unwrap());
            }
        }
    }
}

#[test]
fn a_guest_begins_in_time_or_not_at_all_and_stores_only_with_leave() {
    let nats = Nats::start();
    let provider = Provider::start(|asked, _| {
        // An answer that is faster than a look at whether the request is written leaves that untold.
        let takes = if asked.query("date") == "slow" { SECOND } else { Duration::from_millis(200) };
        thread::sleep(takes);
        Told::json(&json!({ "ok": true }))
    });
    let config = Config::at(&provider.base_url())
        .on(&nats)
        .collect("shards = 1")
        .collect(&format!("concurrency = {SLOTS}"))
        .report();
    let store = Dir::empty();
    let mut node = Node::new("one", &config, &store);
    setup(&node);
    node.start();
    node.wait_ready();
    let mut other = Other::on(&nats);
    // How it collects is told by itself, when it asks others because its own slots are taken.
    let slow = |n: usize| {
        let params = json!({ "params": { "date": "slow" } });
        fetch(&format!("a{n}"), "report", "slow", params)
    };
    publish(&node, &(0..8).map(slow).collect::<String>());
    let how = other.hears("ask").1["how"].clone();
    wait_done(&nats, std::slice::from_mut(&mut node));
    let called = || provider.asked().iter().filter(|asked| asked.query("date") == "far").count();
    let order = |offer: u64, permit: u64, how: &Value| {
        json!({ "order": { "offer": offer, "permit": permit, "order": {
            "how": how, "lane": "p.far.report", "seq": 900, "origin": 900, "calls": 1, "read": null,
            "lost_call": { "secs": 600, "nanos": 0 },
            "queued_at": "2026-11-20T12:00:00Z", "id": format!("far-{permit}"),
            "fetch": { "id": format!("far-{permit}"), "params": { "date": "far" } } } } })
    };
    let stored = |id: &str| store.files("objects").iter().filter(|file| file.contains(id)).count();

    // A node that goes by another configuration is not offered anything: the first that answers is for the second ask.
    let odd = json!({ "calls": "0000000000000000", "store": how["store"] });
    other.say("ask", &json!({ "ask": { "number": 1, "wants": 1, "how": odd } }));
    let (session, offer) = other.is_offered(2, &how);
    // Stopped between its offer and the order.
    node.signal("STOP");
    other.say(&session, &order(offer, 1, &how));
    thread::sleep(Duration::from_millis(700));
    node.signal("CONT");
    let told = other.hears_end(1);
    assert_eq!((&told["ended"], &told["written"]), (&json!(false), &json!(false)), "{told}");
    assert_eq!(called(), 0);

    // No leave to store: it asks until it hears of it.
    let (session, offer) = other.is_offered(3, &how);
    other.say(&session, &order(offer, 2, &how));
    let (_, word) = other.hears("may");
    assert_eq!(word["permit"], 2);
    // It goes on asking: a home whose lease has lapsed does not answer. It waits for the attempt all the while.
    for _ in 0..8 {
        other.say(&session, &json!({ "waits": { "permits": [[2, offer]] } }));
        assert_eq!(other.hears("may").1["permit"], 2);
    }
    other.say(&session, &json!({ "leave": { "permit": 2, "may": false } }));
    let told = other.hears_end(2);
    assert_eq!((&told["ended"], &told["written"]), (&json!(true), &json!(true)), "{told}");
    assert!(told["end"]["done"].is_null(), "{told}");
    assert_eq!((called(), stored("far-2")), (1, 0));

    // With it: the object is there, and how the fetch ended is for its owner to say.
    let (session, offer) = other.is_offered(4, &how);
    other.say(&session, &order(offer, 3, &how));
    // A copy of an order begins nothing.
    other.say(&session, &order(offer, 3, &how));
    let (_, word) = other.hears("may");
    assert_eq!(word["permit"], 3);
    other.say(&session, &json!({ "leave": { "permit": 3, "may": true } }));
    let told = other.hears_end(3);
    let done = &told["end"]["done"][0];
    assert_eq!((&done["id"], &done["seq"]), (&json!("far-3"), &json!(900)), "{told}");
    assert_eq!((called(), stored("far-3")), (2, 2), "the object and its manifest");
    // Told again and again until it is heard.
    let told = other.hears_end(3);
    assert!(!told["end"]["done"].is_null());
    other.say(&session, &json!({ "heard": { "permit": 3 } }));

    let done: BTreeMap<String, Value> = nats.events::<Value>("DONE").into_iter().collect();
    assert!(done.keys().all(|subject| !subject.contains("far")), "{done:?}");
    assert_eq!(nats.events::<Value>("DONE").len(), 8);
    node.stop();
}
