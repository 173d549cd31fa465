//! Calls go at the earliest allowed moment, and never earlier.

use super::oracle::{Limit, Rule, assert_earliest, consistent, some_ms};
use super::*;

/// Answers each fetch after times drawn from its id, so that they do not depend on the order of calls.
fn some_reply(seen: &Seen, seed: u64, most: u64) -> Reply {
    let text = id_of(seen);
    let sum = text.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let mut random = fastrand::Rng::with_seed(sum);
    let reply = Reply::ok("{}").then(some_ms(&mut random, most), " ");
    let reply = match random.u8(0..8) {
        0 => reply.unstamped(),
        1 => reply.written_after(some_ms(&mut random, 20)).rewritten(ms(22), ms(30)),
        _ => reply.written_after(some_ms(&mut random, 30)),
    };
    reply.head_after(some_ms(&mut random, most))
}

/// Runs accounts with fetches of both apis and judges every one of them.
fn judged(seed: u64, rules: Vec<Limit>, accounts: &[&str], apis: [usize; 2], most: u64) {
    paused(|| async move {
        let text: Vec<String> =
            rules.iter().enumerate().map(|(i, limit)| limit.toml(&format!("l{i}"))).collect();
        let rig = Rig::start(limits(&text.join("\n")), move |seen| some_reply(seen, seed, most));
        for account in accounts {
            rig.put_many(account, "a", apis[0]).await;
            rig.put_many(account, "b", apis[1]).await;
        }
        rig.all_end(secs(3600)).await;
        for account in accounts {
            assert_earliest(&rig, account, &rules, &[("a", apis[0]), ("b", apis[1])]);
        }
        rig.log.assert_recorded_before_called();
    });
}

#[test]
fn every_lets_each_call_go_at_the_first_allowed_millisecond() {
    judged(1, vec![Limit::new(Rule::Every(100))], &["x"], [20, 0], 60);
    judged(2, vec![Limit::new(Rule::Every(1000))], &["x", "y", "z"], [6, 4], 300);
}

#[test]
fn max_in_lets_each_call_go_at_the_first_allowed_millisecond() {
    judged(3, vec![Limit::new(Rule::Max(3, 500))], &["x"], [30, 0], 60);
    judged(4, vec![Limit::new(Rule::Max(10, 1000))], &["x", "y"], [25, 14], 400);
}

#[test]
fn concurrent_lets_each_call_go_at_the_first_allowed_millisecond() {
    judged(5, vec![Limit::new(Rule::Concurrent(1))], &["x"], [8, 4], 50);
    judged(6, vec![Limit::new(Rule::Concurrent(3))], &["x", "y"], [20, 13], 200);
}

#[test]
fn guard_never_waits_for_the_answer_and_not_a_millisecond_longer() {
    let every = Limit { guard: None, ..Limit::new(Rule::Every(100)) };
    let max = Limit { guard: None, ..Limit::new(Rule::Max(4, 300)) };
    judged(7, vec![every], &["x"], [12, 0], 250);
    judged(8, vec![max], &["x", "y"], [12, 7], 250);
}

#[test]
fn per_api_counts_each_api_for_itself() {
    let per_api = Limit { per_api: true, ..Limit::new(Rule::Every(200)) };
    judged(9, vec![per_api], &["x", "y"], [9, 6], 50);
    let both = vec![
        Limit { per_api: true, ..Limit::new(Rule::Max(2, 400)) },
        Limit::new(Rule::Max(3, 350)),
    ];
    judged(10, both, &["x"], [13, 8], 50);
}

#[test]
fn windows_long_enough_to_rest_in_are_used_to_the_millisecond() {
    // The actor is gone between two calls: the deadline of its record wakes it.
    let every = Limit::new(Rule::Every(7000));
    judged(11, vec![every], &["x", "y", "z"], [3, 3], 60);
    let mixed = vec![Limit::new(Rule::Max(4, 9000)), Limit::new(Rule::Every(1000))];
    judged(12, mixed, &["x", "y"], [8, 4], 60);
}

#[test]
fn mixed_limits_by_seed_let_each_call_go_at_the_first_allowed_millisecond() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(1..=4);
        let rules = consistent((0..count).map(|_| some_limit(&mut random)).collect());
        let accounts = &["x", "y", "z"][..random.usize(1..=3)];
        let apis = [random.usize(1..=10), random.usize(0..=10)];
        let most = random.u64(1..400);
        println!("seed {seed}: {rules:?} {accounts:?} {apis:?}");
        judged(seed, rules, accounts, apis, most);
    }
}

fn some_limit(random: &mut fastrand::Rng) -> Limit {
    let rule = match random.u8(0..3) {
        0 => Rule::Every(random.u64(1..1500)),
        1 => Rule::Max(random.usize(1..=5), random.u64(1..3000)),
        _ => Rule::Concurrent(random.usize(1..=4)),
    };
    let guard = match (rule, random.u8(0..4)) {
        (Rule::Concurrent(_), _) => Some(25),
        (_, 0) => None,
        (_, 1) => Some(random.u64(0..100)),
        _ => Some(25),
    };
    Limit { rule, per_api: random.bool(), guard }
}
