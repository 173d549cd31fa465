//! The claims about arrival, counted by hand from the moments at which calls arrived. The provider here has
//! no limits of its own and refuses nothing: the tests do the counting.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use tollgate_emulator::{Call, Emulator, Latency, Profile, ProviderLimit};

use crate::util::{Config, Dir, accounts, fetch, reports};

const SECOND: Duration = Duration::from_secs(1);

/// Arrivals by account (and endpoint, if that is counted apart), in order.
fn arrivals(calls: &[Call], per_endpoint: bool) -> BTreeMap<(String, String), Vec<Instant>> {
    let mut all: BTreeMap<_, Vec<Instant>> = BTreeMap::new();
    for call in calls {
        let endpoint = if per_endpoint { call.endpoint.to_string() } else { String::new() };
        all.entry((call.account.to_string(), endpoint)).or_default().push(call.at);
    }
    all
}

/// Asserts that no window of this length holds more than `max` arrivals, looking at every pair of them. The
/// emulator stamps an arrival late by its own lag at the worst, so a window may look shorter by as much.
fn assert_never_more_than(
    emulator: &Emulator,
    max: usize,
    within: Duration,
    per_endpoint: bool,
    only: &str,
) {
    let calls: Vec<Call> =
        emulator.calls().into_iter().filter(|call| call.endpoint.contains(only)).collect();
    let lag = Duration::from_micros(emulator.score().loop_lag_max_us);
    let mut windows = 0;
    for (of, arrivals) in arrivals(&calls, per_endpoint) {
        assert!(arrivals.is_sorted());
        for (n, first) in arrivals.iter().enumerate() {
            let inside = arrivals[n..].iter().filter(|at| **at - *first + lag < within).count();
            windows += 1;
            assert!(
                inside <= max,
                "{of:?}: {inside} calls within {within:?} of call {n}, at most {max} are allowed \
                 (lag {lag:?}): {:?}",
                arrivals[n..].iter().take(inside + 1).map(|at| *at - *first).collect::<Vec<_>>()
            );
        }
    }
    assert!(windows > 50, "there was something to count");
}

fn emulator(latency: Latency) -> Emulator {
    Emulator::start(Profile { latency, record: true, ..Profile::default() }).unwrap()
}

/// Two windows and a gap, with the default guard.
fn mixed(emulator: &Emulator) -> Config {
    Config::of(emulator)
        .limit(r#"gap = { per = ["account"], every = "150ms" }"#)
        .limit(r#"pair = { per = ["account"], max = 2, in = "500ms" }"#)
        .limit(r#"five = { per = ["account"], max = 5, in = "2s" }"#)
}

fn assert_mixed(emulator: &Emulator) {
    assert_never_more_than(emulator, 1, Duration::from_millis(150), false, "");
    assert_never_more_than(emulator, 2, Duration::from_millis(500), false, "");
    assert_never_more_than(emulator, 5, 2 * SECOND, false, "");
}

#[test]
fn no_window_is_exceeded_on_warm_connections_without_latency() {
    let emulator = emulator(Latency::None);
    let dir = Dir::with(&mixed(&emulator).report());
    dir.run(&reports(&accounts("act", 30), 9)).exits(0);
    assert_mixed(&emulator);
    assert_eq!(emulator.calls().len(), 270);
}

#[test]
fn no_window_is_exceeded_when_answers_take_longer_than_the_guard() {
    let emulator = emulator(Latency::Range(Duration::ZERO, Duration::from_millis(400)));
    let dir = Dir::with(&mixed(&emulator).report());
    dir.run(&reports(&accounts("act", 30), 9)).exits(0);
    assert_mixed(&emulator);
}

#[test]
fn no_window_is_exceeded_when_every_call_needs_a_connection_of_its_own() {
    let emulator = emulator(Latency::Range(Duration::ZERO, Duration::from_millis(60)));
    // The provider hangs up behind each answer.
    let config =
        mixed(&emulator).api("report", "path = \"rude/close\"\nquery = { date = \"{date}\" }");
    let dir = Dir::with(&config);
    dir.run(&reports(&accounts("act", 30), 9)).exits(0);
    assert_mixed(&emulator);
}

#[test]
fn no_window_is_exceeded_with_a_guard_of_never_or_none_to_speak_of() {
    for guard in ["never", "300ms"] {
        let emulator = emulator(Latency::Range(Duration::ZERO, Duration::from_millis(100)));
        let config = mixed(&emulator).platform(&format!("guard = \"{guard}\"")).report();
        let dir = Dir::with(&config);
        dir.run(&reports(&accounts("act", 20), 5)).exits(0);
        assert_mixed(&emulator);
    }
}

#[test]
fn apis_are_counted_apart_where_the_limit_says_so() {
    let emulator = emulator(Latency::Fixed(Duration::from_millis(30)));
    let config = Config::of(&emulator)
        .limit(r#"each = { per = ["account", "api"], max = 3, in = "700ms" }"#)
        .limit(r#"all = { per = ["account"], max = 5, in = "700ms" }"#)
        .api("one", "path = \"v1/reports/one\"")
        .api("two", "path = \"v1/reports/two\"\nlimits.own = { per = [\"account\"], max = 1, in = \"400ms\" }");
    let dir = Dir::with(&config);
    let fetches: String = (0..8)
        .flat_map(|n| ["one", "two"].map(|api| (n, api)))
        .flat_map(|(n, api)| {
            accounts("act", 10).into_iter().map(move |a| fetch(&a, api, &n.to_string(), json!({})))
        })
        .collect();
    dir.run(&fetches).exits(0);
    let window = Duration::from_millis(700);
    assert_never_more_than(&emulator, 3, window, true, "");
    assert_never_more_than(&emulator, 5, window, false, "");
    assert_never_more_than(&emulator, 1, Duration::from_millis(400), true, "two");
}

#[test]
fn never_more_calls_are_open_than_allowed() {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(80));
    let emulator = Emulator::start(Profile {
        latency,
        record: true,
        // Counted on the provider's side: from the arrival to the last byte of the answer.
        limits: vec![ProviderLimit::concurrent("slots", 1000)],
        ..Profile::default()
    })
    .unwrap();
    let config =
        Config::of(&emulator).limit(r#"slots = { per = ["account"], concurrent = 3 }"#).report();
    let dir = Dir::with(&config);
    dir.run(&reports(&accounts("act", 10), 30)).exits(0);
    let score = emulator.score();
    assert_eq!(score.open_max, 3, "never more than allowed, and all of it used");
}

#[test]
fn a_node_never_has_more_calls_open_than_its_concurrency() {
    let emulator = Emulator::start(Profile {
        latency: Latency::Fixed(Duration::from_millis(30)),
        limits: vec![ProviderLimit::concurrent("all", 5).per_platform()],
        record: true,
        ..Profile::default()
    })
    .unwrap();
    let dir = Dir::with(&Config::of(&emulator).collect("concurrency = 5").report());
    let ran = dir.run(&reports(&accounts("act", 40), 3)).exits(0);
    assert_eq!(emulator.counts(), (120, 0), "{ran}");
    assert!(ran.summary().seconds < 4.0, "120 calls of 30 ms, five at a time\n{ran}");
}

#[test]
fn the_allowed_rate_is_used() {
    let gap = Duration::from_millis(500);
    let emulator = Emulator::start(Profile {
        limits: vec![ProviderLimit::gap("gap", gap)],
        record: true,
        ..Profile::default()
    })
    .unwrap();
    let config =
        Config::of(&emulator).limit(r#"gap = { per = ["account"], every = "500ms" }"#).report();
    let dir = Dir::with(&config);
    dir.run(&reports(&accounts("act", 40), 7)).exits(0);
    // Far below the bar for a machine of its own: other tests run beside, and the build is not optimised.
    let share = emulator.score().share.unwrap();
    assert!(share > 0.6, "{share}");
}

#[test]
fn an_account_that_hangs_or_is_held_or_has_a_backlog_delays_no_other() {
    let emulator = emulator(Latency::None);
    let config = Config::of(&emulator)
        .collect(r#"timeouts = { first_byte = "4s" }"#)
        .collect("attempts_max = 1")
        .limit(r#"gap = { per = ["account"], every = "100ms" }"#)
        .report()
        .api("hang", "path = \"rude/hang\"")
        .api("held", "path = \"rude/429\"\nquery = { retry_after = 4 }")
        .api("dead", "path = \"rude/status/500\"");
    let dir = Dir::with(&config);
    let polite = accounts("polite", 10);
    let rude: String = (0..10)
        .flat_map(|n| {
            ["hang", "held", "dead"].map(|api| fetch(&format!("{api}_{n}"), api, "1", json!({})))
        })
        .collect();
    let backlog = reports(&["deep".into()], 300);
    dir.write("fetches.jsonl", rude + &backlog + &reports(&polite, 10));
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    let done = |account: &str| {
        let calls = emulator.calls();
        calls.iter().filter(|call| &*call.account == account).map(|c| c.at).collect::<Vec<_>>()
    };
    crate::util::wait_until("the others", || {
        polite.iter().all(|account| done(account).len() == 10).then_some(())
    });
    for account in &polite {
        let arrivals = done(account);
        let took = arrivals[9] - arrivals[0];
        assert!(took < 9 * Duration::from_millis(100) + 2 * SECOND, "{account} took {took:?}");
    }
    let held = done("held_0");
    assert_eq!(held.len(), 1, "it is still held while the others are done");
    running.signal("TERM");
    running.wait().exits(3);
}
