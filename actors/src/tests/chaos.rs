//! Everything at once, by seed: limits, slots, priorities, bad answers, panics, a ledger and a queue that
//! are late, away or unsure, wakes that are lost. What must hold holds all the same.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::oracle::{Limit, Rule, assert_never_too_many, consistent, some_ms};
use super::seams::Turn;
use super::*;
use crate::ledger::memory::Fault;
use crate::testkit::on_points;

fn some_limits(random: &mut fastrand::Rng) -> Vec<Limit> {
    let limits = (0..random.usize(0..=3))
        .map(|_| match random.u8(0..3) {
            0 => Limit::new(Rule::Every(random.u64(1..400))),
            1 => Limit::new(Rule::Max(random.usize(1..=5), random.u64(1..1500))),
            _ => Limit::new(Rule::Concurrent(random.usize(1..=3))),
        })
        .collect();
    consistent(limits)
}

fn some_reply(random: &mut fastrand::Rng) -> Reply {
    let reply = match random.u8(0..24) {
        0 => Reply::status(500),
        1 => Reply::status(429).header("retry-after", ["0", "1", "3"][random.usize(0..3)]),
        2 => Reply::status(429),
        3 => Reply::status(404),
        4 => Reply::error(CallError::Broken("reset".into())),
        5 => Reply::error(CallError::Connect("refused".into())),
        6 => Reply::error(CallError::Late),
        7 => Reply::ok("{").then_error(some_ms(random, 50), CallError::Broken("cut".into())),
        8 => Reply::panic(),
        9 => Reply::ok("{}").connected_after(some_ms(random, 800)),
        _ => Reply::ok("{}").then(some_ms(random, 100), " "),
    };
    let reply = match random.u8(0..5) {
        0 => reply.unstamped(),
        1 => reply.written_after(some_ms(random, 10)).rewritten(ms(12), ms(15)),
        _ => reply.written_after(some_ms(random, 15)),
    };
    reply.head_after(some_ms(random, 200))
}

/// Makes the seams go wrong in one way.
fn trouble(rig: &Rig, random: &mut fastrand::Rng) {
    match random.u8(0..9) {
        0 => rig.ledger.inner.fail_stores(random.usize(1..4), Fault::Unavailable),
        1 => rig.ledger.inner.fail_stores(1, Fault::UnsureStored),
        2 => rig.ledger.inner.fail_stores(1, Fault::UnsureLost),
        3 => rig.ledger.inner.fail_stores(1, Fault::Conflict),
        4 => {
            let late =
                Turn { answer_after: some_ms(random, 700), store_after: some_ms(random, 100) };
            rig.ledger.next_stores([late; 2]);
        }
        5 => rig.ledger.inner.fail_loads(random.u32(1..3)),
        6 => rig.queue.fail_next(random.u32(1..4)),
        7 => rig.watched_queue.delay_reads(some_ms(random, 40)),
        _ => rig.watched_queue.delay_endings(some_ms(random, 40)),
    }
}

async fn put_some(rig: &Rig, random: &mut fastrand::Rng, number: usize) {
    let account = ["x", "y", "z"][random.usize(0..3)];
    let api = ["a", "b"][random.usize(0..2)];
    let priority =
        [Priority::High, Priority::Normal, Priority::Normal, Priority::Low][random.usize(0..4)];
    let fields = match random.u8(0..12) {
        0 => r#""not_before":"2026-11-20T12:01:30Z""#,
        1 => r#""not_before":"2026-11-20T12:00:02Z""#,
        2 => r#""deadline":"2026-11-20T12:00:03Z""#,
        _ => "",
    };
    rig.put_as(account, api, &format!("{account}-{number}"), priority, fields).await;
}

fn run(seed: u64) {
    paused(|| async move {
        let mut random = fastrand::Rng::with_seed(seed);
        let rules = some_limits(&mut random);
        let text: Vec<String> =
            rules.iter().enumerate().map(|(i, limit)| limit.toml(&format!("l{i}"))).collect();
        let slots = random.usize(1..=6);
        let replies = std::cell::RefCell::new(random.fork());
        let rig = Rig::start(limits(&text.join("\n")).concurrency(slots), move |_| {
            some_reply(&mut replies.borrow_mut())
        });
        let panics = Rc::new(Cell::new(0_u32));
        let (left, lot) = (Rc::clone(&panics), std::cell::RefCell::new(random.fork()));
        // Not where an ending was confirmed: what dies there is done, and only its counting is lost.
        let _hooked = on_points(move |name, whose| {
            if left.get() > 0 && name != "after finish" && lot.borrow_mut().u8(0..20) == 0 {
                left.set(left.get() - 1);
                panic!("{name} of {whose} panics on purpose");
            }
        });
        let mut number = 0;
        for _ in 0..random.usize(5..40) {
            for _ in 0..random.usize(0..4) {
                put_some(&rig, &mut random, number).await;
                number += 1;
            }
            match random.u8(0..6) {
                0 => trouble(&rig, &mut random),
                1 => panics.set(random.u32(0..3)),
                2 => rig.queue.lose_wakes(random.bool()),
                3 => rig.discover().await,
                _ => {}
            }
            sleep(some_ms(&mut random, 300)).await;
        }
        // From here on all is well, and what was not told of is found.
        panics.set(0);
        rig.answer(|_| Reply::ok("{}"));
        rig.watched_queue.delay_reads(ms(0));
        rig.watched_queue.delay_endings(ms(0));
        rig.queue.lose_wakes(false);
        rig.queue.fail_next(0);
        for _ in 0..30 {
            sleep(secs(60)).await;
            rig.discover().await;
        }
        rig.all_end(secs(600)).await;
        check(&rig, &rules, slots, number).await;
    });
}

async fn check(rig: &Rig, rules: &[Limit], slots: usize, fetches: usize) {
    let dead = rig.dead().await;
    let totals = &rig.shared.totals;
    assert_eq!(totals.fetches_dead.get(), dead.len() as u64, "{dead:?}");
    assert_eq!(totals.fetches_done.get() + totals.fetches_dead.get(), fetches as u64);
    for account in ["x", "y", "z"] {
        for limit in rules {
            assert_never_too_many(rig, account, *limit);
        }
    }
    rig.log.assert_recorded_before_called();
    assert!(rig.wire.open_max() <= slots);
    assert_eq!(rig.wire.open(), 0);
    assert_eq!(rig.shared.slots.available_permits(), slots, "every slot came back");
    assert_eq!(rig.shared.alone.available_permits(), 1);
    let looks = rig.look().await;
    assert_eq!((looks.live, looks.in_flight, looks.known), (0, 0, 0));
    // Every good answer was the last one of its fetch.
    let mut good = BTreeMap::<String, usize>::new();
    for seen in rig.wire.seen() {
        *good.entry(id_of(&seen)).or_default() += 1;
    }
    assert!(good.values().all(|calls| *calls <= 60), "{good:?}");
}

#[test]
fn whatever_goes_wrong_everything_ends_once_and_no_limit_is_exceeded() {
    for seed in 0..60 {
        println!("seed {seed}");
        run(seed);
    }
}
