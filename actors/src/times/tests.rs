use super::*;

const S: i64 = 1_000_000;

fn at(seconds: i64) -> At {
    At((1 << 50) / (5 * S) * (5 * S) + seconds * S)
}

#[test]
fn every_cause_has_a_place_of_its_own_and_is_found_there() {
    let limits = (0..32).flat_map(|place| [Cause::Limit(place), Cause::Flight(place)]);
    let mut seen = std::collections::BTreeSet::new();
    for cause in limits.chain(PLAIN) {
        assert_eq!(Cause::of_index(cause.index()), cause);
        assert!(seen.insert(cause.index()), "{cause:?} has another's place");
    }
    assert_eq!(seen.len(), CAUSES);
}

#[test]
fn a_wait_counts_in_each_stretch_it_lies_in_and_is_forgotten_after_a_minute() {
    let mut ring = Ring::default();
    ring.add(at(3), at(12), |sums, us, _| sums.waits[0] += us);
    assert_eq!(ring.sum(at(0)).waits[0], 9_000_000);
    assert_eq!(ring.sum(at(5)).waits[0], 7_000_000);
    assert_eq!(ring.sum(at(10)).waits[0], 2_000_000);
    // Longer than is kept: only the part that is.
    ring.add(at(12), at(500), |sums, us, _| sums.waits[0] += us);
    assert_eq!(ring.sum(at(0)).waits[0], 65_000_000);
    // What is older than all that is kept goes nowhere.
    ring.add(at(100), at(101), |sums, us, _| sums.waits[0] += us);
    assert_eq!(ring.sum(at(0)).waits[0], 65_000_000);
}

#[test]
fn what_comes_after_a_limits_end_is_the_shards_and_not_the_limits() {
    let ms = |ms: i64| At(at(0).0 + 1000 * ms);
    let limit = Cause::Limit(3);
    // Some milliseconds are nobody's.
    assert_eq!(late_from(limit, Some(ms(500)), ms(509)), None);
    assert_eq!(late_from(limit, Some(ms(500)), ms(510)), Some(ms(500)));
    assert_eq!(late_from(limit, None, ms(900)), None);
    // A collector is free when it is.
    assert_eq!(late_from(Cause::Collector, Some(ms(500)), ms(900)), None);
    let mut sums = Sums::default();
    sums.goes_on(limit, (ms(0), Some(ms(500))), (ms(100), ms(800)));
    let waits: Vec<(Cause, u64)> = sums.waits().collect();
    assert_eq!(waits, [(limit, 400_000), (Cause::Turn, 300_000)]);
    // All of what lies in the window came after its end.
    let mut sums = Sums::default();
    sums.goes_on(limit, (ms(0), Some(ms(500))), (ms(600), ms(800)));
    assert_eq!(sums.waits().collect::<Vec<_>>(), [(Cause::Turn, 200_000)]);
}

#[test]
fn an_attempt_is_in_one_phase_at_a_time() {
    let moments = Moments {
        decided: at(0),
        given: at(1),
        written: Some(at(3)),
        answered: Some(at(7)),
        call_ended: Some(at(8)),
        stored: Some(at(13)),
    };
    let lengths: Vec<(Phase, i64)> =
        moments.phases(at(14)).map(|(phase, (from, to))| (phase, (to.0 - from.0) / S)).collect();
    let expected = [1, 2, 4, 1, 5, 1];
    assert_eq!(lengths, Phase::ALL.into_iter().zip(expected).collect::<Vec<_>>());
    // One that waits for its answer is in no later phase.
    let hangs = Moments { answered: None, call_ended: None, stored: None, ..moments };
    let last = hangs.phases(at(60)).last();
    assert_eq!(last, Some((Phase::FirstByte, (at(3), at(60)))));
    // One that was refused a connection has nothing to store.
    let refused = Moments { written: None, call_ended: Some(at(2)), ..hangs };
    let last = refused.phases(at(3)).last();
    assert_eq!(last, Some((Phase::Connect, (at(1), at(2)))));
}

#[test]
fn a_window_begins_where_a_stretch_does_and_is_no_longer_than_is_kept() {
    assert_eq!(window_start(at(61), Duration::from_secs(30)), at(30));
    assert_eq!(window_start(at(101), Duration::from_secs(5)), at(95));
    assert_eq!(window_start(at(60), Duration::from_secs(30)), at(30));
    assert_eq!(window_start(at(100), Duration::from_secs(3600)), at(40));
}
