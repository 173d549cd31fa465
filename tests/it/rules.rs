//! What providers say of limits, by declared rules: nothing is refused that an answer could have told, refusals
//! under odd statuses are refusals and no data, and nobody else notices.

use std::time::Duration;

use tollgate_emulator::{Emulator, Profile, ProviderLimit, RefusalShape, RetryAfter, Tells};

use crate::util::{Config, Dir, accounts, assert_none_refused, reports};

const HEADERS: &str = r#"observe = [
  { header = "X-RateLimit-Remaining", as = "remaining", limit = "burst" },
  { header = "X-RateLimit-Reset", as = "reset", limit = "burst" } ]"#;
const FIELDS: &str = r#"observe = [{ as = "ratelimit", policy = "burst", limit = "burst" }]"#;

#[test]
fn what_others_have_used_up_is_learnt_from_answers_and_nothing_is_refused() {
    for (tells, rule) in [(Tells::Headers, HEADERS), (Tells::Fields, FIELDS)] {
        let window = Duration::from_secs(4);
        let limits = vec![ProviderLimit::window("burst", 10, window)];
        // Somebody else makes seven of the ten calls of each account's first window.
        let profile = Profile { limits, tells, hidden: 7, record: true, ..Profile::default() };
        let emulator = Emulator::start(profile).unwrap();
        let config = Config::of(&emulator)
            .platform(rule)
            .limit(r#"burst = { per = ["account"], max = 10, in = "4s" }"#)
            .limit(r#"one = { per = ["account"], concurrent = 1 }"#)
            .report();
        let dir = Dir::with(&config);
        let ran = dir.run(&reports(&accounts("act", 20), 8)).exits(0);
        assert_none_refused(&emulator);
        assert_eq!(emulator.score().accepted, 160, "{ran}");
        // Three at once, then the rest when the first window is over.
        let took = ran.took.as_secs_f64();
        assert!((4.0..8.0).contains(&took), "{took} s\n{ran}");
    }
}

#[test]
fn a_limit_declared_too_wide_costs_a_refusal_per_window_and_no_fetch() {
    let shapes = [
        (
            RefusalShape::Code(40100),
            r#"{ body = "code", is = 40100, hits = "burst", wait = "1s" }"#,
        ),
        (RefusalShape::Html(403), r#"{ status = 403, contains = "slow down", wait = "1s" }"#),
        (
            RefusalShape::Status(400),
            r#"{ status = 400, body = "error.code", is = "rate_limited", wait = "1s" }"#,
        ),
    ];
    for (refusal, rule) in shapes {
        let limits = vec![ProviderLimit::window("burst", 3, Duration::from_secs(1))];
        let retry_after = RetryAfter::No;
        let profile = Profile { limits, refusal, retry_after, record: true, ..Profile::default() };
        let emulator = Emulator::start(profile).unwrap();
        let config = Config::of(&emulator)
            .platform(&format!("over = [{rule}]"))
            .limit(r#"burst = { per = ["account"], max = 6, in = "1s" }"#)
            .limit(r#"one = { per = ["account"], concurrent = 1 }"#)
            .report();
        let dir = Dir::with(&config);
        let fetches = reports(&accounts("act", 5), 10);
        let ran = dir.run(&fetches).exits(0);
        let score = emulator.score();
        assert_eq!(score.accepted, 50, "{refusal:?}\n{ran}");
        // At most one in each window of three: what was refused waits for the next.
        assert!(score.refused <= 5 * 5, "{refusal:?}: {} refused\n{ran}", score.refused);
        assert!(score.refused > 0, "the test is too tame");
        assert_eq!(ran.summary().refused, score.refused, "{refusal:?}\n{ran}");
        for (key, one) in dir.collected() {
            let body = String::from_utf8_lossy(&one.body).into_owned();
            assert!(body.contains("rows"), "{key:?} holds a refusal: {body}");
        }
    }
}

#[test]
fn a_refusal_of_the_platform_stops_all_its_accounts() {
    let limits = vec![ProviderLimit::window("all", 3, Duration::from_secs(1)).per_platform()];
    let profile = Profile {
        limits,
        refusal: RefusalShape::Code(40100),
        retry_after: RetryAfter::No,
        record: true,
        ..Profile::default()
    };
    let emulator = Emulator::start(profile).unwrap();
    let config = Config::of(&emulator)
        // Another shard hears of it a moment later.
        .collect("concurrency = 1\nshards = 1")
        .platform(r#"over = [{ body = "code", is = 40100, wait = "2s", scope = "platform" }]"#)
        .limit(r#"one = { per = ["account"], concurrent = 1 }"#)
        .report();
    let dir = Dir::with(&config);
    let ran = dir.run(&reports(&accounts("act", 8), 1)).exits(0);
    let calls = emulator.calls();
    assert_eq!(emulator.score().accepted, 8, "{ran}");
    // Behind every refusal nobody calls for two seconds.
    let refused: Vec<_> = calls.iter().filter(|call| call.refusal.is_some()).collect();
    assert!(!refused.is_empty() && refused.len() <= 3, "{} refused\n{ran}", refused.len());
    for call in refused {
        let next = calls.iter().find(|next| next.at > call.at);
        let gap = next.map(|next| next.at - call.at);
        assert!(gap.is_none_or(|gap| gap >= Duration::from_millis(1990)), "{gap:?}\n{ran}");
    }
}
