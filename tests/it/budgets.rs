//! Limits over all accounts together, judged on arrival by a provider that counts over all of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tollgate_emulator::{Call, Emulator, Latency, Profile, ProviderLimit};

use crate::util::{Config, Dir, Luck, accounts, assert_none_refused, reports};

const SECOND: Duration = Duration::from_secs(1);

/// How many accounts; `TOLLGATE_BUDGET_ACCOUNTS=500` is what the figures of ARCHITECTURE.md are of.
fn many() -> usize {
    let said = std::env::var("TOLLGATE_BUDGET_ACCOUNTS").ok();
    said.map_or(40, |said| said.parse().unwrap())
}

fn provider(limits: Vec<ProviderLimit>) -> Emulator {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(10));
    Emulator::start(Profile { limits, latency, record: true, ..Profile::default() }).unwrap()
}

/// How even it is that these were served: 1 is wholly, 1 / n is one alone.
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    sum * sum / (shares.len() as f64 * shares.iter().map(|share| share * share).sum::<f64>())
}

fn served(calls: &[Call]) -> Vec<f64> {
    let mut shares = BTreeMap::<&str, f64>::new();
    for call in calls {
        *shares.entry(&call.account).or_default() += 1.0;
    }
    shares.into_values().collect()
}

#[test]
fn ten_per_second_over_all_accounts_and_shards_are_exact_fair_and_used() {
    let emulator = provider(vec![ProviderLimit::window("all", 10, SECOND).per_platform()]);
    let config = Config::of(&emulator)
        .collect("shards = 2")
        .limit(r#"all = { per = ["platform"], max = 10, in = "1s" }"#)
        .report();
    let dir = Dir::with(&config);
    let (accounts, each) = (accounts("act", many()), 4);
    dir.write("fetches.jsonl", reports(&accounts, each));
    let mut running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    // Ten a second, and as long again.
    let patience = SECOND * u32::try_from(2 + accounts.len() * each / 5).unwrap();
    let started = Instant::now();
    while running.is_running() && started.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(50));
    }
    let ran = running.wait().exits(0);
    assert_none_refused(&emulator);
    let mut calls = emulator.calls();
    calls.sort_by_key(|call| call.at);
    assert_eq!(calls.len(), accounts.len() * each);
    // Three rounds of four, from the second window on: whoever came first found it open.
    let rounds = &calls[10..10 + accounts.len() * (each - 1)];
    let shares = served(rounds);
    let fair = jain(&shares);
    assert!(shares.len() == accounts.len() && fair >= 0.99, "{fair} {shares:?}");
    let windows = u32::try_from(calls.len() / 10 - 1).unwrap();
    let taken = calls.last().unwrap().at - calls[0].at;
    let used = (SECOND * windows).as_secs_f64() / taken.as_secs_f64();
    println!("{} accounts: {used:.4} of the rate used, Jain index {fair:.4}", accounts.len());
    // Other tests run beside, and the build is not optimised; alone and optimised it is above 0.97.
    assert!(used > 0.85, "{used}\n{ran}");
    assert_eq!(emulator.score().limits[0].name, "all");
}

#[test]
fn kills_at_random_moments_break_no_limit_over_all_accounts() {
    let limits = vec![
        ProviderLimit::window("all", 12, SECOND).per_platform(),
        ProviderLimit::gap("own", Duration::from_millis(300)),
    ];
    let emulator = provider(limits);
    let config = Config::of(&emulator)
        .collect("shards = 2")
        .collect("timeouts = { connect = \"200ms\" }")
        .limit(r#"all = { per = ["platform"], max = 12, in = "1s" }"#)
        .limit(r#"own = { per = ["account"], every = "300ms" }"#)
        .report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 12);
    dir.write("fetches.jsonl", reports(&accounts, 8));
    let mut luck = Luck::of(4);
    for _ in 0..6 {
        let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
        std::thread::sleep(Duration::from_millis(luck.between(50, 900)));
        running.kill();
    }
    dir.tollgate(&["run", "--json", "fetches.jsonl"]).run().exits(0);
    assert_none_refused(&emulator);
    dir.remove_half_written();
    dir.assert_reports(&accounts, 8);
}

#[test]
fn a_run_that_ends_leaves_the_next_one_what_it_may_still_call() {
    let emulator = provider(vec![ProviderLimit::window("all", 5, 2 * SECOND).per_platform()]);
    let config =
        Config::of(&emulator).limit(r#"all = { per = ["platform"], max = 5, in = "2s" }"#).report();
    let dir = Dir::with(&config);
    let started = Instant::now();
    for prefix in ["one", "two", "three"] {
        dir.run(&reports(&accounts(prefix, 5), 1)).exits(0);
    }
    assert_none_refused(&emulator);
    let took = started.elapsed();
    // What ended in order is known to the moment: no run waits for what the last one may have sent.
    assert!(took < 6 * SECOND, "{took:?}");
}
