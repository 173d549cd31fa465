//! Calls in flight of a node that is cut off: they end before the next owner of their account gives their places away.

use super::events::Events;
use super::oracle::{Limit, Rule, assert_never_too_many_of};
use super::*;
use crate::cluster::{Asked, Owned, Parts};
use crate::shard::PartsChanged;

/// A lease from its renewal on, and the time between two.
const HOLDS: Duration = Duration::from_millis(2400);
const RENEWED: Duration = Duration::from_millis(800);

const SLOTS: Limit = Limit { rule: Rule::Concurrent(1), per_api: false, guard: None };

/// Calls of `a` take places, calls of `b` do not.
fn slots() -> Setup {
    let mut setup = limits("");
    setup.platform.insert_str(0, "timeouts = { connect = \"200ms\" }\nlost_call = \"20s\"\n");
    setup.platform += "[platforms.p.apis.a.limits]\n";
    setup.platform += &SLOTS.toml("slots");
    setup
}

/// A node that owns everything for as long as its lease holds, on a ledger that others have, too.
fn node(ledger: MemoryLedger, clock: &Clock, call: Duration) -> (Rig, Owned) {
    let owned = Owned::nothing();
    owned.renewed(Asked::now(), HOLDS);
    owned.gain(Parts::ALL);
    let queue = MemoryQueue::starting(wall());
    let own = (ledger, owned.clone());
    let answer = move |_: &Seen| Reply::ok("{}").head_after(call);
    (Rig::start_owning(slots(), clock.clone(), queue, own, answer), owned)
}

async fn renew(owned: &Owned, times: u32) {
    for _ in 0..times {
        owned.renewed(Asked::now(), HOLDS);
        sleep(RENEWED).await;
    }
}

#[test]
fn a_call_with_a_place_ends_in_time_and_its_fetch_is_called_again_and_others_go_on() {
    paused(|| async {
        let events = Events::hear();
        let (rig, owned) = node(MemoryLedger::new(), &Clock::starting_at(wall()), secs(50));
        rig.put("x", "a", "place").await;
        rig.put("x", "b", "none").await;
        renew(&owned, 10).await;
        assert_eq!(rig.wire.open(), 2);
        // The last renewal was at 7.2 s, so the lease held until 9.6 s; 15 s later others may be about to free the place.
        rig.at(24_200).await;
        assert_eq!((rig.wire.open(), events.count("call_cut_off")), (2, 0));
        rig.at(24_700).await;
        assert_eq!((rig.wire.open(), events.count("call_cut_off")), (1, 1));
        rig.at(55_000).await;
        assert_eq!((rig.wire.count(), rig.done()), (2, 1), "nothing is called without a lease");
        rig.answer(|_| Reply::ok("{}"));
        owned.renewed(Asked::now(), secs(1000));
        owned.gain(Parts::ALL);
        rig.shard.do_send(PartsChanged(Parts::ALL));
        rig.all_end(secs(60)).await;
        assert_eq!((rig.times_of("place").len(), rig.times_of("none").len()), (2, 1));
        assert_eq!((rig.done(), rig.dead().await), (2, Vec::new()));
        assert_eq!((events.count("call_cut_off"), rig.shared.totals.restarts.get()), (1, 0));
    });
}

#[test]
fn a_call_goes_on_through_a_lapse_that_is_over_in_time() {
    paused(|| async {
        let (rig, owned) = node(MemoryLedger::new(), &Clock::starting_at(wall()), secs(50));
        rig.put("x", "a", "place").await;
        for _ in 0..3 {
            renew(&owned, 2).await;
            sleep(secs(12)).await;
            assert!(!owned.holds());
            owned.renewed(Asked::now(), HOLDS);
            owned.gain(Parts::ALL);
        }
        renew(&owned, 20).await;
        rig.all_end(secs(10)).await;
        assert_eq!((rig.wire.count(), rig.done()), (1, 1));
    });
}

#[test]
fn the_next_owner_frees_a_place_after_the_call_of_the_one_before_has_ended() {
    paused(|| async {
        let (clock, ledger) = (Clock::starting_at(wall()), MemoryLedger::new());
        let (one, owned) = node(ledger.clone(), &clock, secs(50));
        one.put("x", "a", "long").await;
        renew(&owned, 1).await;
        // Its session's key ends 4 s after its last renewal.
        one.at(4000).await;
        let (two, others) = node(ledger.of_session(7), &clock, secs(5));
        others.renewed(Asked::now(), secs(1000));
        two.put_many("x", "a", 3).await;
        two.all_end(secs(60)).await;
        assert_never_too_many_of(&[&one, &two], "x", SLOTS);
        let first = one.ms(two.wire.seen()[0].begun);
        assert!((24_000..25_000).contains(&first), "its place is free at {first}");
        // Back again: all of it is the other's.
        owned.renewed(Asked::now(), secs(1000));
        owned.lose(Parts::ALL);
        one.shard.do_send(PartsChanged(Parts::ALL));
        sleep(secs(1)).await;
        assert_eq!((one.look().await.live, one.wire.count()), (0, 1));
    });
}
