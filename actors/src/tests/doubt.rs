//! What the first answers of an api have shown of their requests' ways is in doubt until it matters.

use super::*;
use crate::cluster::{Asked, Owned, Parts, part_of};

/// One call a second: as a window, as a gap, and as a window beside a wider one.
const LIMITS: [&str; 3] = [
    "one = { per = [\"account\"], max = 1, in = \"1s\" }",
    "one = { per = [\"account\"], every = \"1s\" }",
    "one = { per = [\"account\"], max = 1, in = \"1s\" }\n\
     many = { per = [\"account\"], max = 10, in = \"60s\" }",
];

/// When the second calls of accounts go that are due at once, the calls of which are answered after 350 ms. Other
/// accounts may be called from 600 ms on, which are answered at once.
async fn second_calls(limit: &str, accounts: usize, others: usize, owned: Owned) -> Vec<u64> {
    let (clock, queue) = (Clock::starting_at(wall()), MemoryQueue::starting(wall()));
    let own = (MemoryLedger::new(), owned);
    let setup = limits(limit).concurrency(1000);
    let rig = Rig::start_owning(setup, clock, queue, own, |seen| {
        Reply::ok("{}").head_after(ms(if account_of(seen).starts_with("acc") { 350 } else { 1 }))
    });
    let names: Vec<String> = (0..accounts).map(|i| format!("acc{i}")).collect();
    for name in &names {
        for n in 0..2 {
            rig.put(name, "a", &format!("{name}-{n}")).await;
        }
    }
    rig.at(600).await;
    for i in 0..others {
        rig.put(&format!("other{i}"), "a", &format!("other{i}")).await;
    }
    rig.at(20_000).await;
    names.iter().map(|name| rig.calls_of(name)[1].0).collect()
}

/// Milliseconds pass while so many are let go.
fn assert_in(calls: &[u64], (from, to): (u64, u64), what: &str) {
    let all = calls.iter().all(|call| (from..to + 10).contains(call));
    assert!(all, "{what}: {calls:?}, not from {from} to {to}");
}

#[test]
fn a_window_ends_by_what_is_known_then_of_the_first_answers() {
    for limit in LIMITS {
        paused(|| async move {
            // They are all alike, and many: the guard of 25 ms is enough, but for the first of them.
            let calls = second_calls(limit, 40, 0, Owned::default()).await;
            assert_in(&calls, (1025, 1100), limit);
        });
        paused(|| async move {
            // The api can answer at once, so these may have been underway until their answers came.
            let calls = second_calls(limit, 40, 40, Owned::default()).await;
            assert_in(&calls, (1350, 1350), limit);
        });
    }
}

#[test]
fn answers_are_believed_where_other_nodes_call_too() {
    for limit in LIMITS {
        paused(|| async move {
            // Nobody else calls, and these are no crowd.
            let calls = second_calls(limit, 10, 0, Owned::default()).await;
            assert_in(&calls, (1025, 1100), limit);
        });
        paused(|| async move {
            // It owns all but a partition that none of the accounts is in.
            let parts: Vec<u32> = (0..40).map(|i| part_of(&key(&format!("acc{i}")))).collect();
            let other = (0..64).find(|part| !parts.contains(part)).unwrap();
            let owned = Owned::nothing();
            owned.renewed(Asked::now(), secs(3600));
            owned.gain(Parts(!(1 << other)));
            let calls = second_calls(limit, 40, 0, owned).await;
            assert_in(&calls, (1350, 1350), limit);
        });
    }
}
