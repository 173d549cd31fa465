//! Operators' holds: no calls of what is held, no room taken from the rest, and on at once when they end.

use std::collections::HashMap;

use super::*;
use crate::holds::{OperatorHold, Scope};
use crate::shard::HoldsChanged;

impl Rig {
    fn hold(&self, scopes: &[&str], until: Option<jiff::Timestamp>) {
        let hold = OperatorHold { reason: Some("tests".into()), since: wall(), until };
        let scopes = scopes.iter().map(|key| (Scope::of_key(key).unwrap(), hold.clone()));
        let changed = self.shared.holds.replace(scopes.collect::<HashMap<_, _>>());
        self.shard.do_send(HoldsChanged(changed));
    }
}

#[test]
fn what_is_held_makes_no_calls_and_goes_on_at_once_when_the_hold_ends() {
    paused(|| async {
        let setup = limits(r#"gap = { per = ["account"], every = "1s" }"#);
        let rig = Rig::start(setup, |_| Reply::ok("{}"));
        rig.put_many("x", "a", 5).await;
        rig.put_many("y", "a", 5).await;
        rig.at(1500).await;
        rig.hold(&["p.x"], None);
        // An account whose next call is far off rests as a record; so does one that is held.
        rig.at(60_000).await;
        assert_eq!(rig.calls_of("x").len(), 2);
        assert_eq!(rig.calls_of("y").len(), 5);
        let looks = rig.look().await;
        assert_eq!(looks.live, 0, "a held account takes no actor's room");
        assert_eq!(looks.accounts[0].because.as_deref(), Some("an operator's hold: tests"));
        assert_eq!(looks.accounts[0].until, None);
        // New work wakes it, and changes nothing.
        rig.put("x", "a", "more").await;
        rig.at(61_000).await;
        assert_eq!(rig.calls_of("x").len(), 2);
        rig.hold(&[], None);
        rig.all_end(secs(60)).await;
        assert_eq!(rig.calls_of("x").len(), 6);
        assert!(rig.times_of("more")[0] >= 61_000);
    });
}

#[test]
fn a_hold_of_one_api_leaves_the_others_and_a_dated_one_ends_by_itself() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::ok("{}"));
        let until = wall() + jiff::SignedDuration::from_secs(30);
        rig.hold(&["p.x.a"], Some(until));
        rig.put("x", "a", "held").await;
        rig.put("x", "b", "free").await;
        rig.put("y", "a", "other").await;
        rig.at(20_000).await;
        assert_eq!(rig.times_of("free").len(), 1);
        assert_eq!(rig.times_of("other").len(), 1);
        assert!(rig.times_of("held").is_empty());
        let looks = rig.look().await;
        assert_eq!(looks.accounts[0].until, Some(until));
        rig.all_end(secs(60)).await;
        assert_eq!(rig.times_of("held"), [30_000]);
    });
}
