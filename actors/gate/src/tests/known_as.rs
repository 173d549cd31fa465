//! Two nodes with different limits of one name: what one has counted, the other goes on from.

use proptest::prelude::*;

use super::{MS, any_guard, any_rule, set};
use crate::{Ask, At, Decision, Ledger, Limit, LimitSet, PermitId, Rule, Sent, decide};

/// Its own limit `l`, and the other's beside it.
fn beside(own: &Limit, own_known: &str, other: &Limit, other_known: &str) -> LimitSet {
    let apart = Limit { name: other_known.into(), ..other.clone() };
    let set = set([own.clone(), apart]);
    set.with_known_as(vec![own_known.into(), other_known.into()])
}

fn alone(own: &Limit, known: &str) -> LimitSet {
    set([own.clone()]).with_known_as(vec![known.into()])
}

/// Calls at these moments, each as soon as the limits let it, answered so much later.
fn called(limits: &LimitSet, calls: &[(u64, u64)]) -> (Ledger, At) {
    let (mut ledger, mut now) = (Ledger::new(), At(0));
    for (number, (pause, takes)) in calls.iter().enumerate() {
        now = At(now.0 + *pause as i64);
        let Some(at) = goes(limits, &ledger, now) else { break };
        now = at;
        let id = PermitId(number as u64);
        ledger.take(limits, id, Ask::new(0), now);
        ledger.written(limits, id, now);
        now = At(now.0 + *takes as i64);
        ledger.answered(limits, id, now);
        ledger.ended(limits, id, now, Sent::Never);
    }
    (ledger, now)
}

fn goes(limits: &LimitSet, ledger: &Ledger, now: At) -> Option<At> {
    match decide(limits, ledger, ledger.holds(), Ask::new(0), now) {
        Decision::Go => Some(now),
        Decision::WaitUntil { at, .. } => at,
        Decision::Never { .. } => None,
    }
}

fn any_limit(calendar: u16) -> impl Strategy<Value = Limit> {
    let dated = any_rule(calendar).prop_filter("counts by time", |rule| {
        !matches!(rule, Rule::Concurrent { .. } | Rule::Jobs { .. })
    });
    (dated, any_guard()).prop_map(|(rule, guard)| Limit {
        name: "l".into(),
        per_api: false,
        api: None,
        rule,
        guard,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn what_one_has_counted_by_both_limits_the_other_knows(
        one in any_limit(0),
        other in any_limit(1),
        calls in prop::collection::vec((0..500 * MS, 0..30 * MS), 1..20),
    ) {
        let ones = beside(&one, "l~1", &other, "l~2");
        let (ledger, now) = called(&ones, &calls);
        // The other alone, as it counts once the first is gone.
        let others = alone(&other, "l~2");
        let mut certain = Ledger::new();
        // The same calls, counted by nothing but the other's limit.
        let (mut at, mut gone_on) = (At(0), Ledger::new());
        for (number, (pause, takes)) in calls.iter().enumerate() {
            at = At(at.0 + *pause as i64);
            let Some(go) = goes(&ones, &gone_on, at) else { break };
            at = go;
            for (set, ledger) in [(&ones, &mut gone_on), (&others, &mut certain)] {
                let id = PermitId(number as u64);
                ledger.take(set, id, Ask::new(0), at);
                ledger.written(set, id, at);
                let answered = At(at.0 + *takes as i64);
                ledger.answered(set, id, answered);
                ledger.ended(set, id, answered, Sent::Never);
            }
            at = At(at.0 + *takes as i64);
        }
        prop_assert_eq!(at, now);
        let record = ledger.encode(&ones, now);
        for (set, place) in [(&others, 0), (&beside(&other, "l~2", &one, "l~1"), 0)] {
            let (read, notes) = Ledger::decode(set, &record, now).unwrap();
            prop_assert!(notes.is_empty(), "{:?}", notes);
            // Whatever it counts of the other's limit it counts as late at the least.
            let sum = |ledger: &Ledger, place: usize| -> u64 {
                let mine = ledger.charged().filter(|(limit, ..)| *limit == place);
                mine.map(|(_, _, _, calls)| u64::from(calls)).sum()
            };
            let mut pruned = certain.clone();
            pruned.prune(&others, now);
            prop_assert!(sum(&read, place) >= sum(&pruned, 0));
            let (by_read, by_certain) = (goes(set, &read, now), goes(&others, &certain, now));
            prop_assert!(by_read >= by_certain, "{:?} {:?}", by_read, by_certain);
        }
        // In place, without a restart.
        let (under, _) = ledger.under(&ones, &others, now);
        prop_assert!(goes(&others, &under, now) >= goes(&others, &certain, now));
    }
}

#[test]
fn a_record_of_before_counts_for_both_and_none_is_told_of() {
    let (one, other) =
        (super::limit("l", super::sliding(1, 60)), super::limit("l", super::every(9)));
    let (ledger, now) = called(&alone(&one, "l~1"), &[(0, 0)]);
    let record = ledger.encode(&alone(&one, "l~1"), now);
    // The second node, which knows of the first by now.
    let both = beside(&other, "l~2", &one, "l~1");
    let (read, notes) = Ledger::decode(&both, &record, now).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let counted: Vec<usize> = read.charged().map(|(limit, ..)| limit).collect();
    assert_eq!(counted, [0, 1]);
    // Who knows of no second name takes what has the limit's own.
    let (read, _) = Ledger::decode(&set([other]), &read.encode(&both, now), now).unwrap();
    assert_eq!(read.charged().count(), 1);
}
