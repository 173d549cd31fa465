//! What providers say: it may only close the gate, and it closes it enough.

use proptest::prelude::*;

use super::record::any_ledger_without_names;
use super::{APIS, S, concurrent, every, limit, set, sliding};
use crate::observe::Observed;
use crate::{
    Ask, At, Because, Decision, Effect, Holds, Ledger, LimitSet, OBSERVED_MAX, PermitId, Rule,
    Seen, Sent, decide,
};

const HOUR: i64 = 3600 * S;

/// When a call may go: now, at a time, or after a report.
fn opens(limits: &LimitSet, ledger: &Ledger, api: u16, now: At) -> At {
    match decide(limits, ledger, &Holds::new(), Ask::new(api), now) {
        Decision::Go => now,
        Decision::WaitUntil { at, .. } => at.unwrap_or(At::MAX),
        Decision::Never { .. } => panic!("a window without room"),
    }
}

fn seen(left: u32, until: Option<i64>) -> Seen {
    Seen { limit: 0, api: 0, left, unknown: 0, as_of: At(0), until: until.map(At) }
}

fn wait(at: i64) -> Decision {
    Decision::WaitUntil { at: Some(At(at)), because: Because::Limit(0) }
}

/// A call that is over in the moment of its beginning.
fn call(limits: &LimitSet, ledger: &mut Ledger, id: u64, at: i64) {
    ledger.take(limits, PermitId(id), Ask::new(0), At(at));
    ledger.answered(limits, PermitId(id), At(at));
    ledger.ended(limits, PermitId(id), At(at), Sent::Maybe);
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let until = prop_oneof![Just(None), (-2 * S..20 * S).prop_map(|at| Some(At(at)))];
    (0usize..6, 0..APIS, 0u32..9, 0u32..4, -S..12 * S, until).prop_map(
        |(limit, api, left, unknown, as_of, until)| Seen {
            limit,
            api,
            left,
            unknown,
            as_of: At(as_of),
            until,
        },
    )
}

/// A call on its way, as the provider and the account see it.
#[derive(Debug)]
struct Flight {
    id: u64,
    arrives: i64,
    answered: i64,
    taken: i64,
    /// What its answer will say is left; nothing before it has arrived.
    says: Option<u32>,
    /// Whether that will be heard.
    tells: bool,
    /// How many had ended without telling when it was taken.
    untold: u32,
    /// It was taken after somebody had told.
    warned: bool,
}

/// Drives a ledger that is told 20 calls in 100 s against a provider that allows `really`, of which
/// `others` are gone. `ways`: how long each request and answer takes, a pause behind it, whether it tells.
/// The first `burst` go without anything being known. Returns (used, refused of those warned, all are done).
fn drive(
    really: u32,
    others: u32,
    burst: usize,
    gives_reset: bool,
    ways: &[(i64, i64, i64, bool)],
) -> (u32, u32, bool) {
    let window = 100 * S;
    let limits = set([limit("a", sliding(20, 100))]);
    let mut ledger = Ledger::new();
    let (mut used, mut now, mut next) = (others, 0, 0);
    let (mut flights, mut untold, mut refused) = (Vec::<Flight>::new(), 0, 0);
    let mut told = false;
    while now < window {
        let goes = opens(&limits, &ledger, 0, At(now)) == At(now);
        let event = |flight: &Flight| flight.says.map_or(flight.arrives, |_| flight.answered);
        let soon = flights.iter().map(event).min();
        if next < ways.len() && goes && (told || next < burst || flights.is_empty()) {
            let (there, back, pause, tells) = ways[next];
            ledger.take(&limits, PermitId(next as u64), Ask::new(0), At(now));
            flights.push(Flight {
                id: next as u64,
                arrives: now + there,
                answered: now + there + back,
                taken: now,
                says: None,
                tells,
                untold,
                warned: told,
            });
            next += 1;
            let rested = now + if told { pause } else { 0 };
            now = soon.map_or(rested, |soon| soon.clamp(now, rested.max(now)));
            continue;
        }
        let Some(soon) = soon else { break };
        now = now.max(soon);
        if let Some(flight) = flights.iter_mut().find(|f| f.says.is_none() && f.arrives <= now) {
            if used < really {
                used += 1;
            } else {
                refused += u32::from(flight.warned);
            }
            flight.says = Some(really - used);
            continue;
        }
        let over = flights.iter().position(|f| f.says.is_some() && f.answered <= now);
        let Some(over) = over else { continue };
        let flight = flights.swap_remove(over);
        ledger.answered(&limits, PermitId(flight.id), At(now));
        if flight.tells {
            let unknown = flights.len() as u32 + (untold - flight.untold);
            let until = gives_reset.then_some(At(window));
            let (as_of, left) = (At(flight.taken), flight.says.unwrap());
            let seen = Seen { limit: 0, api: 0, left, unknown, as_of, until };
            ledger.observe(&limits, &seen, At(now));
            told = true;
        } else {
            untold += 1;
        }
        ledger.ended(&limits, PermitId(flight.id), At(now), Sent::Maybe);
    }
    (used, refused, next == ways.len())
}

/// So many calls, each with the time there, back, and a pause behind it, and whether it tells.
fn any_ways(tells: f64) -> impl Strategy<Value = Vec<(i64, i64, i64, bool)>> {
    let one = (0..3 * S, 0..3 * S, 0..2 * S, prop::bool::weighted(tells));
    prop::collection::vec(one, 40)
}

proptest! {
    #[test]
    fn no_observation_opens_the_gate_before_the_declared_limits_do(
        (limits, declared) in any_ledger_without_names(),
        all in prop::collection::vec((any_seen(), 0..10 * S), 1..20),
        times in prop::collection::vec(0..30 * S, 1..12),
    ) {
        let mut ledger = declared.clone();
        for (seen, at) in all {
            ledger.observe(&limits, &seen, At(at));
            for now in &times {
                for api in 0..APIS {
                    let (now, later) = (At(*now), opens(&limits, &ledger, api, At(*now)));
                    prop_assert!(later >= opens(&limits, &declared, api, now));
                    // It opens at last, and the moment that is told is the right one.
                    if later > now && later < At::MAX {
                        prop_assert!(opens(&limits, &ledger, api, later) <= later);
                        prop_assert!(opens(&limits, &ledger, api, At(later.0 - 1)) == later);
                    }
                }
            }
        }
    }

    /// Within one window of the provider, in whatever order its answers come.
    #[test]
    fn what_is_left_until_one_reset_never_rises(
        all in prop::collection::vec((0u32..9, -S..12 * S, 0..10 * S), 1..20),
        calls in prop::collection::vec(any::<bool>(), 20),
    ) {
        let limits = set([limit("a", sliding(20, 100))]);
        let (mut ledger, mut least, mut gone) = (Ledger::new(), i64::MAX, 0);
        for (id, ((left, as_of, at), goes)) in all.into_iter().zip(calls).enumerate() {
            let as_of = At(as_of);
            let seen = Seen { as_of, unknown: gone, ..seen(left, Some(50 * S)) };
            ledger.observe(&limits, &seen, At(at));
            least = least.min(left.into());
            let last = ledger.observed.iter().filter_map(Observed::left).min().unwrap();
            prop_assert!(last <= least);
            if goes && opens(&limits, &ledger, 0, At(at)) == At(at) {
                call(&limits, &mut ledger, id as u64, at);
                (least, gone) = (least - 1, gone + 1);
            }
        }
    }

    #[test]
    fn what_was_observed_outlives_a_restart(
        (limits, mut ledger) in any_ledger_without_names(),
        all in prop::collection::vec(any_seen(), 1..12),
        times in prop::collection::vec(0..30 * S, 1..12),
    ) {
        for seen in all {
            ledger.observe(&limits, &seen, At(0));
        }
        ledger.prune(&limits, At(0));
        let (read, _) = Ledger::decode(&limits, &ledger.encode(&limits, At(0)), At(0)).unwrap();
        // Only what limits of calls at once were told is forgotten, and when a window was opened.
        let dated = |api: u16| {
            limits.of(api).all(|(_, limit)| {
                limit.rule.window().is_some() && !matches!(limit.rule, Rule::FirstUse { .. })
            })
        };
        for now in times {
            for api in (0..APIS).filter(|api| dated(*api)) {
                let of = |ledger: &Ledger| opens(&limits, ledger, api, At(now));
                prop_assert_eq!(of(&read), of(&ledger));
            }
        }
    }

    /// A provider allows less than was declared, and others have used some of that before. Once an answer has
    /// said so, it refuses nothing and nothing is wasted, however long calls and answers take and in whatever
    /// order they come.
    #[test]
    fn a_provider_that_says_what_is_left_refuses_nothing_and_is_used_up(
        really in 6u32..14,
        others in 0u32..3,
        burst in 1usize..4,
        gives_reset in any::<bool>(),
        ways in any_ways(1.0),
    ) {
        let (used, refused, done) = drive(really, others, burst, gives_reset, &ways);
        prop_assert_eq!(refused, 0);
        prop_assert!(done || used == really, "{} of {} used", used, really);
    }

    #[test]
    fn answers_that_say_nothing_do_not_make_it_too_generous(
        really in 6u32..14,
        others in 0u32..3,
        burst in 1usize..4,
        gives_reset in any::<bool>(),
        ways in any_ways(0.7),
    ) {
        prop_assert_eq!(drive(really, others, burst, gives_reset, &ways).1, 0);
    }
}

#[test]
fn with_a_reset_so_many_calls_go_before_it_and_the_declared_limit_rules_after_it() {
    let limits = set([limit("a", sliding(60, 3600))]);
    let mut ledger = Ledger::new();
    call(&limits, &mut ledger, 1, 0);
    assert_eq!(ledger.observe(&limits, &seen(2, Some(900 * S)), At(0)), Effect::Kept);
    call(&limits, &mut ledger, 2, S);
    call(&limits, &mut ledger, 3, 2 * S);
    let decision = |at| decide(&limits, &ledger, ledger.holds(), Ask::new(0), At(at));
    assert_eq!(decision(3 * S), wait(900 * S));
    assert_eq!(decision(900 * S - 1), wait(900 * S));
    assert_eq!(decision(900 * S), Decision::Go);
}

#[test]
fn without_a_reset_others_have_the_places_that_own_calls_do_not_explain() {
    let limits = set([limit("a", sliding(10, 3600))]);
    let mut ledger = Ledger::new();
    for id in 0..4 {
        call(&limits, &mut ledger, id, id as i64 * S);
    }
    // 10 - 3 are used, 4 of them by own calls.
    assert_eq!(ledger.observe(&limits, &seen(3, None), At(4 * S)), Effect::Kept);
    for id in 4..7 {
        call(&limits, &mut ledger, id, id as i64 * S);
    }
    let decision =
        |ledger: &Ledger, at| decide(&limits, ledger, ledger.holds(), Ask::new(0), At(at));
    // The first own call leaves before those of the others do.
    assert_eq!(decision(&ledger, 8 * S), wait(HOUR));
    // As many as are known already: nothing is counted twice.
    let again = Seen { as_of: At(6 * S), ..seen(0, None) };
    assert_eq!(ledger.observe(&limits, &again, At(8 * S)), Effect::Kept);
    assert_eq!(decision(&ledger, 8 * S), wait(HOUR));
    assert_eq!(decision(&ledger, HOUR), Decision::Go);
    // The others have given theirs back, and a later answer says so.
    let now = Seen { as_of: At(8 * S), ..seen(3, None) };
    assert_eq!(ledger.observe(&limits, &now, At(9 * S)), Effect::None);
    assert_eq!(decision(&ledger, 9 * S), Decision::Go);
}

#[test]
fn more_than_is_declared_and_times_that_have_passed_say_nothing() {
    let limits = set([limit("a", sliding(10, 60)), limit("b", concurrent(2))]);
    let mut ledger = Ledger::new();
    for said in [seen(10, Some(9 * S)), seen(4000, None), seen(0, Some(0)), seen(10, None)] {
        assert_eq!(ledger.observe(&limits, &said, At(0)), Effect::None, "{said:?}");
    }
    let of = |limit, until| Seen { limit, ..seen(0, until) };
    assert_eq!(ledger.observe(&limits, &of(7, None), At(0)), Effect::Unusable);
    assert_eq!(ledger.observe(&limits, &of(1, None), At(0)), Effect::Unusable);
    assert!(ledger.is_empty());
    assert_eq!(ledger.observe(&limits, &of(1, Some(S)), At(0)), Effect::Kept);
    assert!(!ledger.is_empty());
    ledger.prune(&limits, At(S));
    assert!(ledger.is_empty());
}

#[test]
fn calls_that_the_answer_cannot_know_of_are_taken_off_and_an_unused_permit_comes_back() {
    let limits = set([limit("a", sliding(10, 60))]);
    let mut ledger = Ledger::new();
    ledger.take(&limits, PermitId(1), Ask::new(0), At(0));
    ledger.take(&limits, PermitId(2), Ask::new(0), At(0));
    ledger.answered(&limits, PermitId(1), At(S));
    let said = Seen { unknown: 1, ..seen(1, Some(30 * S)) };
    ledger.observe(&limits, &said, At(S));
    let decision = |ledger: &Ledger| decide(&limits, ledger, ledger.holds(), Ask::new(0), At(S));
    assert_eq!(decision(&ledger), wait(30 * S));
    ledger.give_back(&limits, PermitId(2));
    assert_eq!(decision(&ledger), Decision::Go);
}

#[test]
fn a_gap_whose_provider_says_that_nothing_is_left_waits_for_it() {
    let limits = set([limit("a", every(5))]);
    let mut ledger = Ledger::new();
    ledger.observe(&limits, &seen(0, Some(17 * S)), At(0));
    let decision =
        |ledger: &Ledger, at| decide(&limits, ledger, ledger.holds(), Ask::new(0), At(at));
    assert_eq!(decision(&ledger, S), wait(17 * S));
    ledger.observe(&limits, &seen(0, None), At(14 * S));
    assert_eq!(decision(&ledger, 15 * S), wait(19 * S));
}

#[test]
fn one_api_is_told_apart_from_the_others_where_the_limit_does_so() {
    let mut own = limit("a", sliding(10, 60));
    own.per_api = true;
    let limits = set([own]);
    let mut ledger = Ledger::new();
    ledger.observe(&limits, &Seen { api: 1, ..seen(0, Some(9 * S)) }, At(0));
    assert_eq!(opens(&limits, &ledger, 0, At(0)), At(0));
    assert_eq!(opens(&limits, &ledger, 1, At(0)), At(9 * S));
}

#[test]
fn a_counter_keeps_a_bounded_number_of_observations_and_never_the_looser() {
    let limits = set([limit("a", sliding(1000, 3600))]);
    let mut ledger = Ledger::new();
    for n in 0..50_i64 {
        // Each ends later and leaves more than the one before: none covers another. All were in flight.
        let seen = Seen { as_of: At(-1), ..seen(n as u32, Some((n + 1) * 9 * S)) };
        ledger.observe(&limits, &seen, At(0));
        assert!(ledger.observed.len() <= OBSERVED_MAX);
    }
    assert_eq!(opens(&limits, &ledger, 0, At(0)), At(47 * 9 * S), "the first ones are joined");
    let stored = ledger.encode(&limits, At(0));
    assert!(stored.len() < 80, "{} bytes", stored.len());
}

#[test]
fn a_record_of_before_observations_is_read() {
    let limits = set([limit("a", sliding(10, 60))]);
    let mut ledger = Ledger::new();
    call(&limits, &mut ledger, 1, 0);
    let before = ledger.encode(&limits, At(0));
    ledger.observe(&limits, &seen(0, Some(9 * S)), At(0));
    let after = ledger.encode(&limits, At(0));
    // The same bytes, but for the checksum, and then what was observed.
    assert_eq!(before[..before.len() - 4], after[..before.len() - 4]);
    let (read, notes) = Ledger::decode(&limits, &before, At(0)).unwrap();
    assert!(notes.is_empty() && read.observed.is_empty());
}

#[test]
fn two_writers_observations_are_joined_to_the_stricter() {
    let limits = set([limit("a", sliding(10, 60))]);
    let told = |left| {
        let mut ledger = Ledger::new();
        call(&limits, &mut ledger, 1, 0);
        ledger.observe(&limits, &seen(left, Some(30 * S)), At(0));
        ledger
    };
    let left = |ledger: &Ledger| {
        let mut ledger = ledger.clone();
        (2..99)
            .take_while(|id| {
                let goes = opens(&limits, &ledger, 0, At(S)) == At(S);
                if goes {
                    call(&limits, &mut ledger, *id, S);
                }
                goes
            })
            .count()
    };
    let mut joined = told(5);
    joined.join(&told(3), true);
    assert_eq!(left(&joined), 3);
    // Nothing in common: the call of each may be unknown to the answer of the other.
    let mut joined = told(5);
    joined.join(&told(3), false);
    assert_eq!(left(&joined), 2);
}

#[test]
fn an_answer_to_a_later_call_corrects_in_both_directions() {
    let limits = set([limit("a", sliding(100, 3600))]);
    let mut ledger = Ledger::new();
    let left = |ledger: &Ledger| ledger.observed.iter().filter_map(Observed::left).min();
    let told = |ledger: &mut Ledger, left, until: i64, as_of: i64, at: i64| {
        let seen = Seen { as_of: At(as_of * S), ..seen(left, Some(until * S)) };
        ledger.observe(&limits, &seen, At(at * S))
    };
    told(&mut ledger, 5, 60, 0, 1);
    assert_eq!(left(&ledger), Some(5));
    // A bucket that has filled up meanwhile: another time, more left.
    told(&mut ledger, 9, 75, 1, 2);
    assert_eq!(left(&ledger), Some(9));
    // That answer was overtaken.
    told(&mut ledger, 20, 200, 1, 3);
    assert_eq!(left(&ledger), Some(9));
    told(&mut ledger, 3, 80, 3, 4);
    assert_eq!(left(&ledger), Some(3));
    assert_eq!(told(&mut ledger, 100, 300, 4, 5), Effect::None);
    assert!(ledger.is_empty());
}
