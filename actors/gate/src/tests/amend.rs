//! What is learnt after a call was charged makes the gate as strict as if it had been known before.

use proptest::prelude::*;

use super::{MS, any_limits};
use crate::{Ask, At, Charged, Decision, Holds, Ledger, LimitSet, PermitId, Sent, Span, decide};

/// Calls one after the other: written, and answered so much later.
fn ledger(limits: &LimitSet, calls: &[(u64, u64)], stamp_of: impl Fn(usize, At) -> At) -> Ledger {
    let mut ledger = Ledger::new();
    for (number, &(at, took)) in calls.iter().enumerate() {
        let (id, written) = (PermitId(number as u64), At(at as i64));
        // Taken against the limits: what counts here is what follows from the charges.
        ledger.adopt(id, Ask::new(0), false);
        ledger.written(limits, id, stamp_of(number, written));
        ledger.answered(limits, id, written.plus(Span(took)));
        ledger.ended(limits, id, written.plus(Span(took)), Sent::Maybe);
    }
    ledger
}

fn opens(limits: &LimitSet, ledger: &Ledger, now: At) -> Option<At> {
    match decide(limits, ledger, &Holds::new(), Ask::new(0), now) {
        Decision::Go => Some(now),
        Decision::WaitUntil { at, .. } => at,
        Decision::Never { .. } => None,
    }
}

proptest! {
    #[test]
    fn a_later_stamp_counts_as_if_it_had_been_the_first(
        limits in any_limits(),
        calls in prop::collection::vec((0..200 * MS, 0..300 * MS), 1..20),
        late in prop::collection::vec((0..100 * MS, 0..100 * MS), 20),
        now in 0..600 * MS,
    ) {
        let kept = limits.limits().iter().filter(|limit| {
            limit.rule.window().is_none() || super::set([(*limit).clone()]).can_amend()
        });
        let limits = super::set(kept.cloned().collect::<Vec<_>>());
        let mut learnt = ledger(&limits, &calls, |i, at| at.plus(Span(late[i].0)));
        let before = opens(&limits, &learnt, At(now as i64));
        for (number, &(at, took)) in calls.iter().enumerate() {
            let written = At(at as i64);
            let stamp = written.plus(Span(late[number].0));
            let call = Charged { api: 0, stamp, answered: written.plus(Span(took)) };
            learnt.arrived_later(&limits, call, &[], written.plus(Span(late[number].1)));
        }
        let known = ledger(&limits, &calls, |i, at| at.plus(Span(late[i].0.max(late[i].1))));
        let after = opens(&limits, &learnt, At(now as i64));
        prop_assert_eq!(after, opens(&limits, &known, At(now as i64)));
        prop_assert!(after >= before, "never earlier");
    }

    #[test]
    fn it_is_early_enough_to_learn_of_a_call_when_it_leaves_a_window(
        limits in any_limits(),
        calls in prop::collection::vec((0..200 * MS, 0..300 * MS), 1..20),
        late in prop::collection::vec(0..100 * MS, 20),
        steps in prop::collection::vec(1..100 * MS, 1..20),
    ) {
        let kept = limits.limits().iter().filter(|limit| {
            limit.rule.window().is_none() || super::set([(*limit).clone()]).can_amend()
        });
        let limits = super::set(kept.cloned().collect::<Vec<_>>());
        let mut learnt = ledger(&limits, &calls, |_, at| at);
        let mut known = ledger(&limits, &calls, |i, at| at.plus(Span(late[i])));
        let mut doubted: Vec<(usize, Charged)> = calls.iter().enumerate().map(|(i, &(at, took))| {
            let stamp = At(at as i64);
            (i, Charged { api: 0, stamp, answered: stamp.plus(Span(took)) })
        }).collect();
        let mut now = At(500 * MS as i64);
        for step in steps {
            now = now.plus(Span(step));
            doubted.retain(|(i, call)| {
                let left = limits.has_left(*call, now);
                if left {
                    learnt.arrived_later(&limits, *call, &[], call.stamp.plus(Span(late[*i])));
                }
                !left
            });
            learnt.prune(&limits, now);
            known.prune(&limits, now);
            let goes = |ledger: &Ledger| opens(&limits, ledger, now) == Some(now);
            prop_assert_eq!(goes(&learnt), goes(&known), "at {:?}", now);
        }
    }
}

#[test]
fn a_call_that_is_not_known_at_its_charge_changes_nothing() {
    let limits = super::set([super::limit("gap", super::every(5))]);
    let mut ledger = ledger(&limits, &[(0, 1000)], |_, at| at);
    let before = ledger.clone();
    let call = Charged { api: 0, stamp: At(17), answered: At(50) };
    ledger.arrived_later(&limits, call, &[], At(40));
    assert_eq!(ledger, before);
}
