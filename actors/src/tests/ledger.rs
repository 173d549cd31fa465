//! The record comes before the call, whatever the ledger does.

use super::oracle::{Limit, Rule, assert_never_too_many};
use super::seams::Turn;
use super::*;
use crate::ledger::memory::Fault;

const GAP: Limit = Limit { rule: Rule::Every(1000), per_api: false, guard: Some(25) };

fn gap() -> Setup {
    limits(&GAP.toml("gap"))
}

fn times(rig: &Rig) -> Vec<u64> {
    rig.calls().into_iter().map(|(at, _)| at).collect()
}

fn check(rig: &Rig) {
    assert_never_too_many(rig, "x", GAP);
    rig.log.assert_recorded_before_called();
}

#[test]
fn a_call_waits_for_its_record_and_goes_when_that_is_confirmed() {
    paused(|| async {
        let rig = Rig::start(gap(), |_| Reply::ok("{}"));
        let late = Turn { answer_after: ms(400), ..Turn::default() };
        rig.ledger.next_stores([late, late]);
        rig.put_many("x", "a", 3).await;
        rig.all_end(secs(60)).await;
        // Each is charged when it is written, not when it was decided.
        assert_eq!(times(&rig), [400, 1800, 2800]);
        check(&rig);
    });
}

#[test]
fn a_permit_whose_record_comes_too_late_goes_back_and_its_fetch_is_decided_anew() {
    paused(|| async {
        let rig = Rig::start(gap(), |_| Reply::ok("{}"));
        rig.ledger.next_stores([Turn { answer_after: ms(501), ..Turn::default() }]);
        rig.put_many("x", "a", 2).await;
        rig.all_end(secs(60)).await;
        assert_eq!(times(&rig), [501, 1501], "nothing was called, so nothing counts");
        check(&rig);
    });
}

#[test]
fn permits_that_lapse_together_keep_the_order_of_their_fetches() {
    paused(|| async {
        let slots = r#"slots = { per = ["account"], concurrent = 100 }"#;
        let rig = Rig::start(limits(slots), |_| Reply::ok("{}"));
        // While the first record is on its way, all others are decided; they share the second one.
        let turns = [300, 600].map(|after| Turn { answer_after: ms(after), ..Turn::default() });
        rig.ledger.next_stores(turns);
        rig.put_many("x", "a", 21).await;
        rig.all_end(secs(60)).await;
        let wanted: Vec<(u64, String)> = (0..21)
            .map(|number| (if number < 2 { 300 } else { 900 }, format!("x-a-{number}")))
            .collect();
        assert_eq!(rig.calls(), wanted);
        assert_eq!(rig.log.records("x").len(), 4, "the second lapsed, the last is of its rest");
    });
}

#[test]
fn a_ledger_that_is_away_delays_calls_and_breaks_no_limit() {
    for failures in [1, 3, 10] {
        paused(|| async move {
            let rig = Rig::start(gap(), |_| Reply::ok("{}"));
            rig.ledger.inner.fail_stores(failures, Fault::Unavailable);
            rig.put_many("x", "a", 3).await;
            rig.all_end(secs(60)).await;
            assert_eq!(rig.wire.count(), 3);
            assert!(times(&rig)[0] >= failures as u64 * 250);
            check(&rig);
        });
    }
}

#[test]
fn a_ledger_that_cannot_be_read_delays_the_first_call_only() {
    paused(|| async {
        let rig = Rig::start(gap(), |_| Reply::ok("{}"));
        rig.ledger.inner.fail_loads(3);
        rig.put_many("x", "a", 2).await;
        rig.all_end(secs(60)).await;
        assert_eq!(times(&rig), [1750, 2750]);
        check(&rig);
    });
}

#[test]
fn without_an_answer_or_against_another_writer_the_record_is_read_again_before_the_next_permit() {
    for fault in [Fault::UnsureStored, Fault::UnsureLost, Fault::Conflict] {
        for at in 0..3 {
            paused(|| async move {
                let rig = Rig::start(gap(), |_| Reply::ok("{}").head_after(ms(10)));
                rig.put_many("x", "a", 4).await;
                rig.at(at * 1010 + 5).await;
                rig.ledger.inner.fail_stores(1, fault);
                rig.all_end(secs(60)).await;
                assert_eq!(rig.wire.count(), 4, "{fault:?}: each called once: {:?}", rig.calls());
                check(&rig);
                let loads = rig
                    .log
                    .events()
                    .iter()
                    .filter(|(_, event)| matches!(event, Event::Loaded { .. }))
                    .count();
                assert_eq!(loads, 2, "{fault:?}: read at the start and once more");
                assert_eq!(rig.shared.totals.restarts.get(), 0, "{fault:?}: nobody died of it");
            });
        }
    }
}

#[test]
fn a_record_that_may_have_been_stored_is_read_again_and_its_unused_permit_counts_for_the_next_process()
 {
    paused(|| async {
        let rig = Rig::start(gap(), |_| Reply::ok("{}"));
        rig.ledger.inner.fail_stores(1, Fault::UnsureStored);
        rig.put("x", "a", "one").await;
        rig.all_end(secs(60)).await;
        // This process knows that no call was made.
        assert_eq!(times(&rig), [0]);
        let rig = Rig::start(gap(), |_| Reply::ok("{}"));
        let late = Turn { answer_after: secs(60), ..Turn::default() };
        rig.ledger.next_stores([late]);
        rig.put("x", "a", "one").await;
        rig.at(100).await;
        let (clock, queue) = (rig.shared.clock.clone(), rig.queue.clone());
        let ledger = rig.ledger.inner.take_over();
        let next = Rig::start_on(gap(), clock, queue, ledger, |_| Reply::ok("{}"));
        next.log.name(Seq(1), "one");
        next.shared.totals.come(1);
        next.discover().await;
        next.all_end(secs(60)).await;
        assert_eq!(times(&next), [1025], "the next one cannot know that");
    });
}

#[test]
fn limits_hold_from_one_process_to_the_next() {
    for pause in [0, 300, 999, 1500] {
        paused(|| async move {
            let rig = Rig::start(gap(), |_| Reply::ok("{}").head_after(ms(10)));
            rig.put("x", "a", "one").await;
            rig.at(500).await;
            let clock = rig.shared.clock.clone();
            let (queue, ledger) = (rig.queue.clone(), rig.ledger.inner.clone());
            // As after kill -9: nothing of the shard is told to stop, its records stay.
            let ledger = ledger.take_over();
            rig.at(500 + pause).await;
            let next = Rig::start_on(gap(), clock, queue, ledger, |_| Reply::ok("{}"));
            next.put("x", "a", "two").await;
            next.all_end(secs(60)).await;
            let second = pause + 500 + next.calls()[0].0;
            let earliest = (1010).max(500 + pause);
            assert_eq!(second, earliest, "after a pause of {pause} ms");
        });
    }
}

#[test]
fn a_call_in_flight_when_its_process_died_counts_as_late_as_it_can_have_arrived() {
    paused(|| async {
        let mut setup = gap();
        setup.platform.insert_str(0, "timeouts = { connect = \"2s\" }\n");
        let rig = Rig::start(gap(), |_| Reply::silence());
        rig.put("x", "a", "one").await;
        rig.at(100).await;
        let (clock, queue) = (rig.shared.clock.clone(), rig.queue.clone());
        let ledger = rig.ledger.inner.clone();
        let ledger = ledger.take_over();
        let next = Rig::start_on(setup, clock, queue, ledger, |_| Reply::ok("{}"));
        next.shared.totals.come(1);
        next.log.name(Seq(1), "one");
        next.discover().await;
        next.all_end(secs(60)).await;
        // It can have been written until now; a guard and a gap after that the next may go.
        assert_eq!(next.times_of("one"), [1025]);
    });
}

#[test]
fn a_record_that_cannot_be_read_shuts_its_account_for_the_longest_window() {
    paused(|| async {
        let ledger = MemoryLedger::new();
        crate::ledger::Ledger::store(&ledger, key("x"), 0, bytes::Bytes::from_static(b"\xffodd"))
            .await
            .unwrap();
        let clock = Clock::starting_at(wall());
        let queue = MemoryQueue::starting(wall());
        let rig = Rig::start_on(gap(), clock, queue, ledger, |_| Reply::ok("{}"));
        rig.put_many("x", "a", 2).await;
        rig.put("y", "a", "other").await;
        rig.all_end(secs(60)).await;
        let own: Vec<u64> = rig.calls_of("x").into_iter().map(|(at, _)| at).collect();
        assert_eq!(own, [1025, 2025]);
        assert_eq!(rig.times_of("other"), [0]);
    });
}
