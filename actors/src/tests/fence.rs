//! The record is another one than this process stored last: another node, a late store, a server that lost its
//! tail. And a ledger that is away costs time and no quota.

use super::oracle::{Limit, Rule, assert_never_too_many, assert_never_too_many_of, some_ms};
use super::seams::Turn;
use super::*;
use tollgate_protos::Done;

use crate::http::scripted::Reply;
use crate::ledger::Ledger;
use crate::ledger::Writer;
use crate::ledger::memory::Fault;
use crate::ledger::record::{Flying, KNOWN_MAX, Known, Record, Tries, Waiting};
use crate::queue::Ending;

const FIVE: Limit = Limit { rule: Rule::Max(5, 1000), per_api: false, guard: Some(25) };

fn setup(limits_of_it: &[Limit]) -> Setup {
    let named: Vec<String> = limits_of_it
        .iter()
        .enumerate()
        .map(|(place, limit)| limit.toml(&format!("limit{place}")))
        .collect();
    let mut setup = limits(&named.join("\n"));
    setup.platform.insert_str(0, "timeouts = { connect = \"200ms\" }\nlost_call = \"1s\"\n");
    setup
}

/// A second node on the same ledger, with a queue of its own.
fn second(rig: &Rig, setup: Setup, session: u64, script: impl Fn(&Seen) -> Reply + 'static) -> Rig {
    let ledger = rig.ledger.inner.of_session(session);
    let queue = MemoryQueue::starting(wall());
    Rig::start_on(setup, rig.shared.clock.clone(), queue, ledger, script)
}

#[test]
fn two_nodes_for_one_account_take_turns_and_no_limit_is_broken() {
    for seed in 0..12 {
        paused(|| async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let limits = [FIVE, Limit::new(Rule::Every(40))];
            let slow = |random: &mut fastrand::Rng| {
                let random = std::cell::RefCell::new(random.fork());
                move |_: &Seen| Reply::ok("{}").head_after(some_ms(&mut random.borrow_mut(), 120))
            };
            let one = Rig::start(setup(&limits), slow(&mut random));
            let two = second(&one, setup(&limits), 7, slow(&mut random));
            // While a record is on its way, more is decided.
            one.ledger.inner.delay(ms(seed % 4 * 15));
            for account in ["x", "y"] {
                one.put_many(account, "a", 15).await;
                sleep(some_ms(&mut random, 50)).await;
                two.put_many(account, "a", 15).await;
            }
            let half = async |rig: &Rig| {
                while rig.done() < 15 {
                    sleep(ms(20)).await;
                }
                Instant::now()
            };
            let (first, second) = futures_util::join!(half(&one), half(&two));
            one.all_end(secs(300)).await;
            two.all_end(secs(300)).await;
            let apart = first.max(second) - first.min(second);
            assert!(apart < secs(60), "seed {seed}: one waited {apart:?} for the other");
            for account in ["x", "y"] {
                for limit in limits {
                    assert_never_too_many_of(&[&one, &two], account, limit);
                }
            }
            for rig in [&one, &two] {
                assert_eq!((rig.done(), rig.dead().await), (30, Vec::new()), "seed {seed}");
                assert_eq!(rig.shared.totals.restarts.get(), 0, "seed {seed}: nobody died of it");
                rig.log.assert_recorded_before_called();
            }
        });
    }
}

#[test]
fn what_was_decided_upon_a_record_that_did_not_come_to_be_is_decided_anew() {
    paused(|| async {
        let one = Rig::start(setup(&[FIVE]), |_| Reply::ok("{}").head_after(ms(5)));
        let two = second(&one, setup(&[FIVE]), 7, |_| Reply::ok("{}").head_after(ms(5)));
        one.ledger.next_stores([Turn { store_after: ms(100), ..Turn::default() }]);
        one.put("x", "a", "batch").await;
        one.at(20).await;
        one.put_many("x", "b", 4).await;
        one.at(50).await;
        two.put("x", "a", "other").await;
        one.at(200).await;
        one.put_many("x", "a", 10).await;
        one.all_end(secs(60)).await;
        assert_eq!(two.calls_of("x").len(), 1, "the other was faster");
        assert_eq!(one.wire.count(), 15);
        assert_never_too_many_of(&[&one, &two], "x", FIVE);
    });
}

#[test]
fn what_is_in_flight_here_counts_although_another_node_wrote_meanwhile() {
    paused(|| async {
        let one = Rig::start(setup(&[Limit::new(Rule::Concurrent(1))]), |_| {
            Reply::ok("{}").head_after(secs(30))
        });
        one.put("x", "a", "long").await;
        one.at(100).await;
        let two = second(&one, setup(&[Limit::new(Rule::Concurrent(1))]), 7, |_| Reply::ok("{}"));
        two.put("x", "a", "other").await;
        one.at(5000).await;
        // Until 700 it may have been written, and its slot is held for `lost_call` from then on.
        assert_eq!(two.calls(), [(1600, "other".into())]);
        // Its own call still runs: no second one beside it, whatever the other wrote.
        one.put("x", "a", "next").await;
        one.all_end(secs(100)).await;
        let next = one.times_of("next")[0];
        assert!(next >= 30_000, "at {next} ms");
        assert_eq!(one.shared.totals.restarts.get(), 0);
    });
}

#[test]
fn what_another_node_has_ended_since_it_was_read_is_not_called() {
    paused(|| async {
        let one = Rig::start(setup(&[Limit::new(Rule::Every(1000))]), |_| Reply::ok("{}"));
        one.put("x", "a", "first").await;
        let second = one.put("x", "a", "second").await;
        one.put("x", "a", "third").await;
        // By then the second is read ahead.
        one.at(500).await;
        let done = Done { seq: second.0, ..Done::default() };
        let ended = Ending::Done { done: Box::new(done), once: false };
        one.queue.finish(lane("x", "a", Priority::Normal), second, ended).await.unwrap();
        store_as(&one, 7, |_| ()).await;
        sleep(secs(20)).await;
        let called: Vec<String> = one.calls().into_iter().map(|(_, id)| id).collect();
        assert_eq!(called, ["first", "third"]);
    });
}

#[test]
fn a_server_that_lost_its_tail_opens_no_window() {
    for lost in 1..5 {
        paused(|| async move {
            let rig = Rig::start(setup(&[FIVE]), |_| Reply::ok("{}").head_after(ms(30)));
            rig.put("x", "a", "first").await;
            rig.at(100).await;
            let saved = rig.ledger.inner.save();
            rig.put_many("x", "a", lost).await;
            rig.at(200).await;
            assert_eq!(rig.wire.count(), 1 + lost);
            rig.ledger.inner.restore(&saved);
            rig.put_many("x", "b", 8).await;
            rig.all_end(secs(60)).await;
            assert_never_too_many(&rig, "x", FIVE);
            assert_eq!(rig.wire.count(), 9 + lost);
            assert_eq!(rig.shared.totals.restarts.get(), 0);
        });
    }
}

#[test]
fn calls_that_another_node_does_not_know_of_because_the_tail_was_lost_count_beside_its_own() {
    paused(|| async {
        let one = Rig::start(setup(&[FIVE]), |_| Reply::ok("{}").head_after(ms(30)));
        one.put("x", "a", "first").await;
        one.at(100).await;
        let saved = one.ledger.inner.save();
        one.put_many("x", "a", 2).await;
        one.at(200).await;
        assert_eq!(one.wire.count(), 3);
        one.ledger.inner.restore(&saved);
        // The other one finds one call in the record, and calls twice.
        let two = second(&one, setup(&[FIVE]), 7, |_| Reply::ok("{}").head_after(ms(10)));
        two.put_many("x", "a", 2).await;
        one.at(300).await;
        assert_eq!(two.wire.count(), 2);
        one.put_many("x", "b", 8).await;
        one.all_end(secs(60)).await;
        assert_never_too_many_of(&[&one, &two], "x", FIVE);
        assert_eq!(one.wire.count(), 11);
    });
}

#[test]
fn a_fetch_crashes_with_a_node_that_is_gone_and_not_with_one_that_lives() {
    for (writer, crashes) in [(Writer::Dead, 1), (Writer::Silent, 1), (Writer::Alive, 0)] {
        paused(|| async move {
            let one = Rig::start(setup(&[FIVE]), |_| Reply::silence());
            one.put("x", "a", "one").await;
            one.at(100).await;
            if writer != Writer::Alive {
                one.ledger.inner.ends_as(writer);
            }
            let ledger = one.ledger.inner.of_session(7);
            let (clock, queue) = (one.shared.clock.clone(), one.queue.clone());
            let two = Rig::start_on(setup(&[FIVE]), clock, queue, ledger, |_| Reply::silence());
            two.log.name(Seq(1), "one");
            two.shared.totals.come(1);
            two.discover().await;
            sleep(secs(5)).await;
            assert_eq!(two.wire.count(), 1, "{writer:?}");
            let (_, record) = two.log.records("x").pop().unwrap();
            assert_eq!(record.flying[0].tries.crashes, crashes, "{writer:?}");
        });
    }
}

#[test]
fn the_calls_of_a_node_that_may_live_count_until_they_can_have_arrived() {
    for (writer, second_call) in
        [(Writer::Dead, 1125), (Writer::Silent, 1725), (Writer::Alive, 1725)]
    {
        paused(|| async move {
            let gap = [Limit::new(Rule::Every(1000))];
            let one = Rig::start(setup(&gap), |_| Reply::silence());
            one.put("x", "a", "one").await;
            one.at(100).await;
            if writer != Writer::Alive {
                one.ledger.inner.ends_as(writer);
            }
            let two = second(&one, setup(&gap), 7, |_| Reply::ok("{}"));
            two.put("x", "a", "two").await;
            two.all_end(secs(60)).await;
            let second = two.wire.seen()[0].begun;
            // Stored at 0; written until now, or until 500 ms and a connection's 200 ms after; a guard of 25 ms.
            assert_eq!(one.ms(second), second_call, "{writer:?}");
        });
    }
}

#[test]
fn a_ledger_away_costs_no_quota_and_asks_for_none() {
    for fault in [Fault::Unavailable, Fault::UnsureLost, Fault::UnsureStored] {
        paused(|| async move {
            let hour = Limit::new(Rule::Max(20, 3_600_000));
            let rig = Rig::start(setup(&[hour]), |_| Reply::ok("{}").head_after(ms(5)));
            rig.put_many("x", "a", 5).await;
            rig.at(100).await;
            assert_eq!(rig.wire.count(), 5);
            rig.ledger.inner.fail_stores(6, fault);
            rig.put_many("x", "b", 30).await;
            rig.at(60_000).await;
            assert_eq!(rig.wire.count(), 20, "{fault:?}: all that the hour allows");
            if fault == Fault::Unavailable {
                let late = rig.times_of("x-b-0")[0];
                // 0.25, 0.5, 1, 2, 2, 2 s between the tries.
                assert!((7_700..8_500).contains(&late), "at {late} ms");
            }
            assert_never_too_many(&rig, "x", hour);
            rig.log.assert_recorded_before_called();
        });
    }
}

#[test]
fn while_the_server_behind_the_ledger_is_away_nothing_is_asked_of_it_and_its_return_is_noticed_at_once()
 {
    paused(|| async {
        let hour = Limit::new(Rule::Max(20, 3_600_000));
        let rig = Rig::start(setup(&[hour]), |_| Reply::ok("{}"));
        rig.put("x", "a", "before").await;
        rig.at(50).await;
        let back = std::sync::Arc::clone(&rig.shared.back_health);
        back.set_away(true);
        rig.put_many("x", "a", 30).await;
        rig.at(5_050).await;
        assert_eq!(rig.wire.count(), 1);
        let look = rig.look().await;
        let because = look.accounts[0].because.as_deref().unwrap();
        assert_eq!(because, "NATS, which does not answer");
        back.set_away(false);
        rig.shard.send(crate::shard::LookAgain).await.unwrap();
        rig.at(5_060).await;
        assert_eq!(rig.wire.count(), 20);
        // A store that had failed is tried at once too.
        rig.ledger.inner.fail_stores(1, Fault::Unavailable);
        rig.put("y", "a", "other").await;
        rig.at(5_070).await;
        back.set_away(true);
        rig.at(9_000).await;
        assert!(rig.calls_of("y").is_empty());
        back.set_away(false);
        rig.shard.send(crate::shard::LookAgain).await.unwrap();
        rig.at(9_010).await;
        assert_eq!(rig.calls_of("y").len(), 1);
    });
}

#[test]
fn an_account_that_was_not_read_yet_asks_less_and_less_and_nothing_while_the_server_is_away() {
    paused(|| async {
        let rig = Rig::start(setup(&[FIVE]), |_| Reply::ok("{}"));
        rig.ledger.inner.fail_loads(6);
        rig.put("x", "a", "one").await;
        rig.all_end(secs(60)).await;
        // 0.25, 0.5, 1, 2, 2, 2 s between the tries.
        let at = rig.times_of("one")[0];
        assert!((7_700..8_000).contains(&at), "at {at} ms");

        let loads = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&loads);
        let _hooked = crate::testkit::on_points(move |point, _| {
            count.set(count.get() + u32::from(point == "before load"));
        });
        let back = Arc::clone(&rig.shared.back_health);
        rig.at(10_000).await;
        rig.ledger.inner.fail_loads(1);
        rig.put("y", "a", "other").await;
        rig.at(10_100).await;
        back.set_away(true);
        rig.at(60_000).await;
        assert_eq!(loads.get(), 1);
        back.set_away(false);
        rig.shard.send(crate::shard::LookAgain).await.unwrap();
        rig.at(60_010).await;
        assert_eq!((loads.get(), rig.done()), (2, 2));
    });
}

#[test]
fn an_actor_that_dies_is_told_of_its_calls_also_where_the_record_does_not_know_them() {
    paused(|| async {
        let rig = Rig::start(setup(&[FIVE]), |_| Reply::ok("{}").head_after(secs(2)));
        rig.put("x", "a", "first").await;
        rig.at(100).await;
        let saved = rig.ledger.inner.save();
        rig.put_many("x", "a", 4).await;
        rig.at(200).await;
        assert_eq!(rig.wire.count(), 5);
        rig.ledger.inner.restore(&saved);
        let hooked = crate::testkit::on_points(|point, account| {
            assert!(!(point == "step" && account == "x"), "a test asked for this");
        });
        rig.put_many("x", "b", 5).await;
        rig.at(250).await;
        drop(hooked);
        rig.all_end(secs(60)).await;
        assert!(rig.shared.totals.restarts.get() > 0);
        assert_never_too_many(&rig, "x", FIVE);
        assert_eq!(rig.wire.count(), 10);
    });
}

#[test]
fn an_actor_that_dies_does_not_take_an_older_record_of_its_own_for_the_last() {
    for known in [false, true] {
        paused(|| async move {
            let rig = Rig::start(setup(&[FIVE]), |_| Reply::ok("{}").head_after(ms(10)));
            if known {
                rig.put("x", "a", "first").await;
                rig.at(100).await;
            }
            let saved = rig.ledger.inner.save();
            rig.put_many("x", "a", 4).await;
            rig.at(200).await;
            // All of them have ended: nothing but the ledger knows of them.
            assert_eq!(rig.wire.count(), 4 + usize::from(known));
            rig.ledger.inner.fall_behind(saved);
            let hooked = crate::testkit::on_points(|point, account| {
                assert!(!(point == "step" && account == "x"), "a test asked for this");
            });
            rig.put_many("x", "b", 5).await;
            rig.at(250).await;
            drop(hooked);
            rig.all_end(secs(60)).await;
            assert!(rig.shared.totals.restarts.get() > 0);
            assert_never_too_many(&rig, "x", FIVE);
            assert_eq!(rig.wire.count(), 9 + usize::from(known));
        });
    }
}

/// Stores the account's last record as another session does, changed like this.
async fn store_as(rig: &Rig, session: u64, change: impl FnOnce(&mut Record)) {
    let ledger = rig.ledger.inner.of_session(session);
    let stored = ledger.load(key("x")).await.unwrap().unwrap();
    let mut record = Record::decode(&stored.record).unwrap();
    change(&mut record);
    ledger.store(key("x"), stored.version, record.encode()).await.unwrap();
}

fn flying(seqs: std::ops::Range<u64>) -> Vec<Flying> {
    let seqs = seqs.map(|seq| (Seq(seq), seq));
    seqs.map(|(seq, permit)| Flying { seq, permit, tries: Tries::default() }).collect()
}

#[test]
fn fetches_of_another_node_that_never_come_here_fill_no_record() {
    for (writer, kept) in [(Writer::Alive, 0), (Writer::Dead, 4096)] {
        paused(|| async move {
            let one = Rig::start(setup(&[FIVE]), |_| Reply::ok("{}"));
            one.put("x", "a", "one").await;
            one.at(100).await;
            store_as(&one, 7, |record| record.flying = flying(1000..6000)).await;
            if writer != Writer::Alive {
                one.ledger.inner.of_session(7).ends_as(writer);
            }
            one.put_many("x", "a", 20).await;
            one.at(3_000).await;
            let (_, record) = one.log.records("x").pop().unwrap();
            assert_eq!(record.parked.len(), kept, "{writer:?}");
            assert!(record.parked.iter().all(|parked| parked.seq.0 >= 6000 - 4096));
            one.all_end(secs(60)).await;
        });
    }
}

#[test]
fn fetches_of_a_crash_that_all_lanes_were_read_beyond_are_forgotten_after_minutes() {
    paused(|| async move {
        let one = Rig::start(setup(&[FIVE]), |_| Reply::ok("{}"));
        one.put_many("x", "a", 40).await;
        one.all_end(secs(60)).await;
        one.at(20_000).await;
        store_as(&one, 7, |record| record.flying = flying(1..40)).await;
        one.ledger.inner.of_session(7).ends_as(Writer::Dead);
        one.put_many("x", "b", 2500).await;
        one.at(60_000).await;
        let parked = |rig: &Rig| rig.log.records("x").pop().unwrap().1.parked.len();
        assert_eq!(parked(&one), 39);
        one.at(400_000).await;
        assert!(one.done() < 2500, "something waits still");
        assert_eq!(parked(&one), 0);
    });
}

#[test]
fn of_more_processes_than_a_record_names_those_that_wrote_last_are_named() {
    paused(|| async move {
        // Long enough for the account to stay.
        let minute = Limit::new(Rule::Max(50, 60_000));
        let one = Rig::start(setup(&[minute]), |_| Reply::ok("{}"));
        let sessions = |record: &Record| -> Vec<u64> {
            record.known.iter().map(|known| known.session).collect()
        };
        // As many as are named beside this one, then a new one, then one of before.
        let writers: [&[u64]; 3] = [&[26, 25, 24, 23, 22, 21, 20], &[30], &[23]];
        let wanted: [&[u64]; 3] = [
            &[0, 26, 25, 24, 23, 22, 21, 20],
            &[0, 30, 26, 25, 24, 23, 22, 21],
            &[0, 23, 30, 26, 25, 24, 22, 21],
        ];
        for (round, (writers, wanted)) in writers.iter().zip(wanted).enumerate() {
            one.put("x", "a", &format!("before-{round}")).await;
            sleep(ms(300)).await;
            let known = writers.iter().map(|session| Known { session: *session, permit: 1 });
            store_as(&one, writers[0], |record| record.known = known.collect()).await;
            one.put("x", "a", &format!("after-{round}")).await;
            sleep(ms(300)).await;
            let (_, record) = one.log.records("x").pop().unwrap();
            assert_eq!(sessions(&record), wanted, "round {round}");
        }
        assert_eq!(wanted[0].len(), KNOWN_MAX);
    });
}

#[test]
fn a_fetch_that_was_in_flight_two_processes_ago_is_looked_up_in_the_store() {
    for crashes in [0, 1] {
        let (store, ledger) = (Store::memory(1 << 30).unwrap(), MemoryLedger::new());
        let (clock, queue) = (Clock::starting_at(wall()), MemoryQueue::starting(wall()));
        let start = |session| {
            let setup = Setup { store: Some(store.clone()), ..setup(&[FIVE]) };
            let ledger = ledger.of_session(session);
            Rig::start_on(setup, clock.clone(), queue.clone(), ledger, |_| {
                Reply::ok("{}").head_after(ms(50))
            })
        };
        paused(|| async {
            let one = start(0);
            one.put("x", "a", "one").await;
            one.at(20).await;
            // It is stored, and the process gone before it leaves the queue.
            queue.fail_next(u32::MAX);
            one.at(1000).await;
            assert_eq!((one.wire.count(), one.done()), (1, 0));
            // As the second process writes it, which has not read the fetch.
            let tries = Tries { attempts: 1, crashes, ..Tries::default() };
            let waiting = Waiting { seq: Seq(1), tries, not_within_ms: 0 };
            let change = |record: &mut Record| {
                record.flying.clear();
                record.parked = vec![waiting];
            };
            store_as(&one, 1, change).await;
        });
        queue.fail_next(0);
        ledger.of_session(1).ends_as(Writer::Dead);
        paused(|| async {
            let three = start(2);
            three.log.name(Seq(1), "one");
            three.shared.totals.come(1);
            three.discover().await;
            three.all_end(secs(60)).await;
            assert_eq!(three.wire.count(), usize::from(crashes == 0), "crashes {crashes}");
            assert_eq!(three.done(), 1);
        });
    }
}
