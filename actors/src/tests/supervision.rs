//! An actor that panics: it alone is restarted, nothing is lost, nobody else waits.

use std::cell::{Cell, RefCell};

use super::oracle::{Limit, Rule, assert_never_too_many};
use super::*;
use crate::testkit::{Hooked, on_points};

/// The next time an actor passes this point for that account or fetch, it panics; so many times.
fn panics(point: &'static str, whose: &'static str, times: u32) -> (Hooked, Rc<Cell<u32>>) {
    let left = Rc::new(Cell::new(times));
    let counted = Rc::clone(&left);
    let hooked = on_points(move |name, who| {
        if name == point && who == whose && counted.get() > 0 {
            counted.set(counted.get() - 1);
            panic!("{name} of {who} panics on purpose");
        }
    });
    (hooked, left)
}

const GAP: Limit = Limit { rule: Rule::Every(100), per_api: false, guard: Some(25) };

#[test]
fn a_throttle_actor_that_dies_with_work_of_every_kind_loses_none_and_calls_none_twice() {
    paused(|| async {
        // Waiting, parked between two tries, and in flight over the time without an actor.
        let setup =
            limits(&[GAP.toml("gap"), Limit::new(Rule::Concurrent(3)).toml("slots")].join("\n"));
        let rig = Rig::start(setup, |seen| match id_of(seen).as_str() {
            "x-a-0" if seen.number == 0 => Reply::status(500),
            "x-a-1" => Reply::ok("{}").head_after(ms(450)),
            "x-a-2" => Reply::ok("{}").head_after(ms(3000)),
            _ => Reply::ok("{}").head_after(ms(5)),
        });
        rig.put_many("x", "a", 20).await;
        rig.at(205).await;
        rig.put_many("y", "a", 20).await;
        rig.at(300).await;
        assert_eq!(rig.wire.open(), 2);
        let events_before = rig.log.events().len();
        let (_hooked, left) = panics("step", "x", 1);
        rig.put("x", "b", "cause").await;
        rig.at(350).await;
        assert_eq!(left.get(), 0, "it has died");
        rig.all_end(secs(60)).await;
        assert_eq!(rig.done(), 22 + 19);
        let mut counts = std::collections::BTreeMap::<String, usize>::new();
        for (_, id) in rig.calls() {
            *counts.entry(id).or_default() += 1;
        }
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
        assert_eq!(twice, [(&"x-a-0".to_owned(), &2)], "only the one that failed is tried again");
        assert_never_too_many(&rig, "x", GAP);
        assert_never_too_many(&rig, "x", Limit::new(Rule::Concurrent(3)));
        rig.log.assert_recorded_before_called();
        // The other account noticed nothing.
        let other: Vec<u64> = rig.calls_of("y").into_iter().map(|(at, _)| at).collect();
        assert_eq!(other, (0..20).map(|n| 205 + n * 105).collect::<Vec<_>>());
        // Its record was read before anything else was decided, after the backoff of 100 ms.
        let of_x = |event: &Event| match event {
            Event::Loaded { account }
            | Event::Confirmed { account, .. }
            | Event::Call { account, .. } => account == "x",
        };
        let events = rig.log.events();
        let mut later = events[events_before..].iter().filter(|(_, event)| of_x(event));
        let (at, first) = later.next().unwrap();
        assert!(matches!(first, Event::Loaded { .. }), "{first:?}");
        assert_eq!(rig.ms(*at), 400);
    });
}

#[test]
fn an_actor_that_keeps_dying_rests_longer_each_time_and_its_account_is_collected_in_the_end() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::ok("{}"));
        let (_hooked, left) = panics("before load", "x", 8);
        rig.put("x", "a", "one").await;
        rig.put_many("y", "a", 3).await;
        rig.at(1).await;
        assert_eq!(rig.done(), 3);
        rig.all_end(secs(600)).await;
        assert_eq!(left.get(), 0);
        // 0.1, 0.2, 0.4, 0.8, 1.6 s and a minute; by then the first deaths are forgotten: 0.2 and 0.2 s.
        assert_eq!(rig.times_of("one"), [63_500]);
    });
}

#[test]
fn a_record_and_lanes_that_cannot_be_read_at_a_restart_are_read_again() {
    paused(|| async {
        let rig = Rig::start(limits(&GAP.toml("gap")), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 6).await;
        rig.at(250).await;
        let (_hooked, _) = panics("step", "x", 1);
        rig.ledger.inner.fail_loads(2);
        rig.at(301).await;
        rig.queue.fail_next(0);
        let mut was_told = false;
        for at in (310..1_500).step_by(10) {
            rig.at(at).await;
            let looks = rig.look().await;
            let because = looks.accounts.first().and_then(|look| look.because.as_deref());
            if because == Some("its record, which is read") {
                was_told = true;
                let left = 6 - rig.wire.count() as u64;
                assert_eq!((looks.waiting, looks.accounts[0].until), (left, None), "at {at}");
            }
        }
        assert!(was_told);
        rig.all_end(secs(60)).await;
        assert_eq!(rig.wire.count(), 6);
        assert_never_too_many(&rig, "x", GAP);
    });
}

#[test]
fn a_restarted_actor_reads_only_lanes_that_the_configuration_has() {
    paused(|| async {
        let rig = Rig::start(limits(&GAP.toml("gap")), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 4).await;
        // An api of an earlier configuration: such fetches wait, they are not given up.
        let old = NewFetch {
            lane: lane("x", "gone", Priority::Normal),
            id: "old".into(),
            payload: r#"{"id":"old","platform":"p","account":"x","api":"gone"}"#.into(),
            not_before: None,
        };
        rig.queue.lose_wakes(true);
        rig.queue.append(vec![old]).await.unwrap();
        let (_hooked, left) = panics("step", "x", 1);
        rig.at(5000).await;
        assert_eq!(left.get(), 0);
        assert_eq!(rig.done(), 4);
        assert_eq!(rig.dead().await, []);
        assert_eq!(rig.queue.account_lanes(key("x")).await.unwrap().len(), 1);
    });
}

#[test]
fn a_collector_that_panics_costs_its_fetch_a_try_and_the_fourth_time_its_life() {
    paused(|| async {
        let rig = Rig::start(limits(""), |seen| match id_of(seen).as_str() {
            "poison" => Reply::panic().head_after(ms(10)),
            "once" if seen.number < 10 => Reply::panic().head_after(ms(10)),
            _ => Reply::ok("{}").head_after(ms(10)),
        });
        rig.put("x", "a", "once").await;
        rig.put("x", "a", "poison").await;
        rig.put_many("x", "a", 5).await;
        rig.put_many("y", "a", 5).await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.done(), 11);
        assert_eq!(rig.dead().await, [("poison".into(), "TG0209".into())]);
        assert_eq!(rig.times_of("poison").len(), 4);
        assert_eq!(rig.times_of("once").len(), 2);
        let others = rig.calls_of("y");
        assert!(others.iter().all(|(at, _)| *at == 0), "{others:?}");
        assert_eq!(rig.wire.open(), 0);
        assert_eq!(rig.shared.slots.available_permits(), 64, "every slot came back");
    });
}

#[test]
fn a_fetch_that_was_in_flight_at_two_crashes_is_tried_alone() {
    paused(|| async {
        let setup = limits("").attempts_max(5);
        let rig = Rig::start(setup, |seen| {
            let id = id_of(seen);
            if id.starts_with("bad") && seen.number < 60 {
                Reply::panic().head_after(ms(500))
            } else {
                Reply::ok("{}").head_after(ms(500))
            }
        });
        for account in ["x", "y", "z"] {
            rig.put(account, "a", &format!("bad-{account}")).await;
        }
        rig.all_end(secs(120)).await;
        let mut third: Vec<(u64, u64)> = Vec::new();
        for account in ["x", "y", "z"] {
            let own: Vec<Seen> =
                rig.wire.seen().into_iter().filter(|seen| account_of(seen) == account).collect();
            assert_eq!(own.len(), 4);
            third.push((rig.ms(own[2].begun), rig.ms(own[2].ended.unwrap())));
            third.push((rig.ms(own[3].begun), rig.ms(own[3].ended.unwrap())));
        }
        third.sort_unstable();
        assert!(third.windows(2).all(|pair| pair[1].0 >= pair[0].1), "not alone: {third:?}");
    });
}

#[test]
fn collectors_that_die_again_and_again_hold_up_no_other_fetch() {
    paused(|| async {
        let rig = Rig::start(limits("").concurrency(4), |seen| {
            if id_of(seen).starts_with("bad") { Reply::panic() } else { Reply::ok("{}") }
        });
        for number in 0..30 {
            rig.put("x", "a", &format!("bad{number}")).await;
            rig.put("y", "a", &format!("good{number}")).await;
        }
        rig.at(1).await;
        assert_eq!(rig.done(), 30);
        rig.all_end(secs(600)).await;
        assert_eq!(rig.dead().await.len(), 30);
    });
}

#[test]
fn a_dead_letter_that_is_on_its_way_when_its_actor_dies_is_counted_once() {
    for confirmed_after in [0, 150, 500] {
        paused(|| async move {
            let rig = Rig::start(limits(""), |_| Reply::status(404));
            rig.watched_queue.delay_endings(ms(confirmed_after));
            rig.put("x", "a", "one").await;
            rig.at(5).await;
            let (_hooked, left) = panics("step", "x", 1);
            rig.put("x", "a", "two").await;
            rig.at(10).await;
            assert_eq!(left.get(), 0);
            rig.all_end(secs(60)).await;
            sleep(secs(5)).await;
            assert_eq!(rig.dead().await.len(), 2);
            assert_eq!(rig.shared.totals.fetches_dead.get(), 2, "after {confirmed_after} ms");
        });
    }
}

#[test]
fn an_actor_that_dies_while_it_waits_for_a_slot_leaves_the_slot_to_others() {
    paused(|| async {
        let rig = Rig::start(limits("").concurrency(1), |_| Reply::ok("{}").head_after(ms(1000)));
        rig.put("long", "a", "long").await;
        rig.at(10).await;
        rig.put_many("x", "a", 2).await;
        rig.at(20).await;
        let died = Rc::new(RefCell::new(None));
        {
            let (_hooked, left) = panics("step", "x", 1);
            rig.put("x", "a", "cause").await;
            rig.put("y", "a", "next").await;
            rig.at(30).await;
            *died.borrow_mut() = Some(left.get());
        }
        assert_eq!(died.take(), Some(0));
        rig.all_end(secs(60)).await;
        assert_eq!(rig.wire.open_max(), 1);
        assert_eq!(rig.times_of("next"), [1000], "the dead actor's place in the line is gone");
        assert_eq!(rig.done(), 5);
    });
}
