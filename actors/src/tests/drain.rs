//! The end of a shard: nothing new, what is in flight ends, the last records say so.

use super::oracle::{Limit, Rule, assert_never_too_many};
use super::*;
use crate::shard::{Drain, Drained};
use crate::testkit::on_points;

fn drain(rig: &Rig, within: Duration) -> impl Future<Output = (u64, Drained)> + use<> {
    let asked = rig.shard.send(Drain { within });
    let start = rig.start;
    async move {
        let drained = asked.await.unwrap();
        (u64::try_from(start.elapsed().as_millis()).unwrap(), drained)
    }
}

fn last_record(rig: &Rig, account: &str) -> crate::ledger::record::Record {
    rig.log.records(account).pop().unwrap().1
}

#[test]
fn a_drain_lets_nothing_new_through_and_waits_for_what_is_in_flight() {
    paused(|| async {
        let setup = limits(r#"gap = { per = ["account"], every = "100ms" }"#);
        let rig = Rig::start(setup, |_| Reply::ok("{}").head_after(ms(1500)).then(ms(500), " "));
        for account in ["x", "y"] {
            rig.put_many(account, "a", 30).await;
        }
        rig.at(450).await;
        let before = rig.wire.count();
        assert_eq!(before, 2 * 4, "the guard of 25 ms is charged each time");
        let (at, drained) = drain(&rig, secs(30)).await;
        assert_eq!(drained, Drained { broken_off: 0 });
        assert!(
            (2375..=2385).contains(&at),
            "the last call ended at 2375 ms, the drain at {at} ms"
        );
        assert_eq!(rig.wire.count(), before);
        assert_eq!(rig.done(), 8);
        sleep(secs(100)).await;
        assert_eq!(rig.wire.count(), before, "nor does anything go later");
        for account in ["x", "y"] {
            assert!(last_record(&rig, account).flying.is_empty());
        }
        assert_eq!(rig.look().await.live, 0);
        assert_eq!(
            rig.queue.lanes(None).await.unwrap().lanes.iter().map(|l| l.waiting).sum::<u64>(),
            52
        );
    });
}

#[test]
fn a_drain_of_a_quiet_shard_ends_at_once() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1h" }"#), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 3).await;
        rig.at(1000).await;
        assert_eq!(drain(&rig, secs(30)).await, (1000, Drained::default()));
    });
}

#[test]
fn accounts_that_wait_for_a_slot_or_a_retry_do_not_hold_up_a_drain() {
    paused(|| async {
        let rig = Rig::start(limits("").concurrency(2), |seen| match account_of(seen).as_str() {
            "long" => Reply::ok("{}").head_after(secs(5)),
            _ => Reply::status(500),
        });
        rig.put_many("retries", "a", 1).await;
        rig.at(10).await;
        rig.put_many("long", "a", 2).await;
        rig.at(20).await;
        rig.put_many("waits", "a", 5).await;
        rig.at(30).await;
        let (at, drained) = drain(&rig, secs(30)).await;
        assert_eq!(drained.broken_off, 0);
        assert!((5010..=5020).contains(&at), "{at}");
        assert_eq!(rig.wire.count(), 3);
    });
}

#[test]
fn a_drain_that_takes_too_long_tells_how_many_calls_it_breaks_off() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::silence());
        rig.put_many("x", "a", 3).await;
        rig.put_many("y", "a", 2).await;
        rig.at(100).await;
        let (at, drained) = drain(&rig, secs(7)).await;
        assert_eq!(drained, Drained { broken_off: 5 });
        assert!((7100..=7105).contains(&at), "{at}");
    });
}

#[test]
fn work_that_comes_during_a_drain_waits_in_the_queue() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::ok("{}").head_after(ms(500)));
        rig.put("x", "a", "one").await;
        rig.at(10).await;
        let draining = drain(&rig, secs(30));
        let more = async {
            rig.at(100).await;
            rig.put("x", "a", "same account").await;
            rig.put("y", "a", "other account").await;
        };
        let ((_, drained), ()) = futures_util::join!(draining, more);
        assert_eq!(drained.broken_off, 0);
        assert_eq!(rig.wire.count(), 1);
        assert_eq!(rig.queue.lanes(None).await.unwrap().lanes.len(), 2);
    });
}

#[test]
fn a_drain_waits_for_the_calls_of_an_account_whose_actor_has_died() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::ok("{}").head_after(secs(3)));
        rig.put("x", "a", "one").await;
        rig.at(100).await;
        {
            let _hooked = on_points(|name, _| assert_ne!(name, "step", "on purpose"));
            rig.put("x", "a", "cause").await;
            rig.at(110).await;
        }
        // Its restart would come at 200 ms.
        rig.at(150).await;
        let (at, drained) = drain(&rig, secs(30)).await;
        assert_eq!(drained, Drained { broken_off: 0 });
        assert!((3000..=3010).contains(&at), "the call ended at 3000 ms, the drain at {at} ms");
        let left = rig.queue.lanes(None).await.unwrap().lanes;
        assert_eq!(left.iter().map(|lane| lane.waiting).sum::<u64>(), 1, "the call's fetch is out");
    });
}

#[test]
fn the_last_record_is_written_however_often_the_ledger_refuses_it() {
    paused(|| async {
        let rig = Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| {
            Reply::ok("{}").head_after(ms(100))
        });
        rig.put("x", "a", "one").await;
        rig.at(50).await;
        rig.ledger.inner.fail_stores(3, crate::ledger::memory::Fault::Unavailable);
        let (at, drained) = drain(&rig, secs(30)).await;
        assert_eq!(drained.broken_off, 0);
        assert!(last_record(&rig, "x").flying.is_empty(), "at {at} ms");
    });
}

#[test]
fn limits_hold_over_a_drain_and_a_new_start() {
    paused(|| async {
        let limit = Limit::new(Rule::Every(1000));
        let rig = Rig::start(limits(&limit.toml("gap")), |_| Reply::ok("{}").head_after(ms(40)));
        rig.put_many("x", "a", 4).await;
        rig.at(2060).await;
        let (_, drained) = drain(&rig, secs(5)).await;
        assert_eq!(drained.broken_off, 0);
        let (clock, queue, ledger) =
            (rig.shared.clock.clone(), rig.queue.clone(), rig.ledger.inner.clone());
        let ledger = ledger.take_over();
        let next =
            Rig::start_on(limits(&limit.toml("gap")), clock, queue, ledger, |_| Reply::ok("{}"));
        next.shared.totals.come(1);
        next.discover().await;
        next.all_end(secs(60)).await;
        let starts = next.ms(next.start) + rig.ms(next.start);
        let first: Vec<u64> = rig.calls().iter().map(|(at, _)| *at).collect();
        let later: Vec<u64> = next.calls().iter().map(|(at, _)| at + starts).collect();
        assert_eq!(first, [0, 1025, 2050]);
        assert_eq!(later, [3075], "not as late as for a call lost in a crash");
        assert_never_too_many(&rig, "x", limit);
    });
}
