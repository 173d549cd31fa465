//! A panic at every point where an actor can have one: before and after each step of queue and ledger, at
//! each look at the lanes, at each attempt, in each call.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};

use super::oracle::{Limit, Rule, assert_never_too_many};
use super::*;
use crate::testkit::{on_points, point};

const LIMITS: [Limit; 2] = [
    Limit { rule: Rule::Every(50), per_api: false, guard: Some(25) },
    Limit { rule: Rule::Concurrent(2), per_api: false, guard: Some(25) },
];

/// What came of a run.
#[derive(Debug, Default)]
struct Ran {
    /// Fault points passed.
    points: u32,
    /// Those that panicked: name and whose.
    panicked: Vec<(&'static str, String)>,
    /// Calls per account.
    calls: BTreeMap<String, Vec<(u64, String)>>,
}

/// Good answers, two that are given up, and two that fail at the first try.
fn script() -> impl Fn(&Seen) -> Reply {
    let tried = RefCell::new(HashSet::new());
    move |seen| {
        let id = id_of(seen);
        point("call", &id);
        let first_try = tried.borrow_mut().insert(id.clone());
        match id.as_str() {
            "x-a-1" | "y-b-0" => Reply::status(404).head_after(ms(10)),
            // Longer than the wait would be without it, which is drawn by lot.
            "x-b-1" if first_try => Reply::status(500).header("retry-after", "3"),
            "y-a-1" if first_try => Reply::status(429).header("retry-after", "1"),
            _ => Reply::ok("{}").head_after(ms(20)).then(ms(60), " "),
        }
    }
}

/// Two accounts with eight fetches each of every kind, and panics at these points.
fn run(at: &[u32]) -> Ran {
    let kept = Rc::new(RefCell::new(Ran::default()));
    let result = Rc::clone(&kept);
    let at = at.to_vec();
    paused(|| async move {
        let text: Vec<String> =
            LIMITS.iter().enumerate().map(|(i, limit)| limit.toml(&format!("l{i}"))).collect();
        let rig = Rig::start(limits(&text.join("\n")), script());
        let passed = Rc::new(Cell::new(0));
        let (count, seen) = (Rc::clone(&passed), Rc::clone(&result));
        let several = at.len() > 1;
        let _hooked = on_points(move |name, whose| {
            // A collector that dies between the end of its fetch and telling of it, and then the throttle
            // actor that knew it should be tried again: the fetch is done, and nobody counts it.
            if several && name == "after finish" {
                return;
            }
            count.set(count.get() + 1);
            if at.contains(&count.get()) {
                seen.borrow_mut().panicked.push((name, whose.to_owned()));
                panic!("{name} of {whose} panics on purpose");
            }
        });
        for account in ["x", "y"] {
            rig.put_many(account, "a", 4).await;
            rig.put_many(account, "b", 4).await;
        }
        rig.all_end(secs(600)).await;
        sleep(secs(2)).await;
        assert_eq!(rig.shared.totals.outstanding(), 0);
        let totals = &rig.shared.totals;
        let dead = rig.dead().await;
        assert_eq!(totals.fetches_done.get() + totals.fetches_dead.get(), 16, "{dead:?}");
        assert_eq!(totals.fetches_dead.get(), dead.len() as u64);
        for account in ["x", "y"] {
            for limit in LIMITS {
                assert_never_too_many(&rig, account, limit);
            }
            result.borrow_mut().calls.insert(account.into(), rig.calls_of(account));
        }
        rig.log.assert_recorded_before_called();
        assert_eq!(rig.wire.open(), 0);
        assert_eq!(rig.shared.slots.available_permits(), 64, "every slot came back");
        assert_eq!(rig.shared.alone.available_permits(), 1);
        let looks = rig.look().await;
        assert_eq!((looks.live, looks.in_flight), (0, 0));
        result.borrow_mut().points = passed.get();
    });
    kept.take()
}

#[test]
fn a_panic_at_any_point_loses_nothing_breaks_no_limit_and_delays_no_other_account() {
    let calm = run(&[]);
    assert!(calm.points > 150, "{} points", calm.points);
    let mut names = BTreeMap::<&str, u32>::new();
    for at in 1..=calm.points {
        let ran = run(&[at]);
        let [(name, whose)] = ran.panicked.as_slice() else { panic!("{:?} at {at}", ran.panicked) };
        *names.entry(name).or_default() += 1;
        let other = if whose.starts_with('x') { "y" } else { "x" };
        assert_eq!(ran.calls[other], calm.calls[other], "{name} of {whose} delayed {other}");
    }
    println!("{names:?}");
    for name in ["step", "attempt", "call", "before store", "after store", "after first"] {
        assert!(names.contains_key(name), "no panic at {name}");
    }
}

#[test]
fn several_panics_by_seed_lose_nothing_and_break_no_limit() {
    let points = run(&[]).points;
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(2..=6);
        let at: Vec<u32> = (0..count).map(|_| random.u32(1..=points + 40)).collect();
        println!("seed {seed}: {at:?}");
        run(&at);
    }
}
