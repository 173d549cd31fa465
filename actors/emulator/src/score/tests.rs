use super::*;
use crate::judge::Verdict;

const SECOND: Duration = Duration::from_secs(1);

/// The score after these arrivals, in milliseconds, of one account.
fn score(limits: Vec<ProviderLimit>, arrivals_ms: &[u64]) -> Score {
    let start = Instant::now();
    let mut judge = Judge::new(limits, false);
    for ms in arrivals_ms {
        let verdict = judge.arrive("a", "/", start + Duration::from_millis(*ms));
        if let Verdict::Accepted(ticket) = verdict {
            judge.leave(ticket);
        }
    }
    Score::of(&judge, 0, 0)
}

fn is_near(share: Option<f64>, expected: f64) -> bool {
    share.is_some_and(|share| (share - expected).abs() < 1e-9)
}

#[test]
fn calls_as_early_as_allowed_use_the_whole_rate() {
    let limits = vec![
        ProviderLimit::window("two", 2, SECOND),
        ProviderLimit::window("ten", 10, 10 * SECOND),
    ];
    // Two per second, then the tenth second has to pass.
    let mut best: Vec<u64> = (0..10).map(|n| n / 2 * 1_000).collect();
    best.extend((0..10).map(|n| 10_000 + n / 2 * 1_000));
    let score = score(limits, &best);
    assert_eq!(score.refused, 0);
    assert!(is_near(score.share, 1.0), "{:?}", score.share);
    let [two, ten] = score.limits.as_slice() else { panic!("two limits") };
    assert_eq!((two.needed_us, two.taken_us), (9_000_000, 14_000_000));
    assert_eq!((ten.needed_us, ten.taken_us), (10_000_000, 14_000_000));
}

#[test]
fn waiting_longer_than_needed_shows_in_the_share() {
    let late = score(vec![ProviderLimit::gap("g", SECOND)], &[0, 1_250, 2_500, 3_750, 5_000]);
    assert!(is_near(late.share, 0.8), "{:?}", late.share);
    assert_eq!(late.gap_min_us, Some(1_250_000));
}

#[test]
fn refusals_are_named_and_their_earliness_is_kept() {
    let early = score(vec![ProviderLimit::gap("g", SECOND)], &[0, 900, 1_000, 1_010]);
    assert_eq!((early.calls, early.accepted, early.refused), (4, 2, 2));
    assert_eq!(early.refused_by["g"], 2);
    assert_eq!(early.worst_excess_us, 990_000);
    assert_eq!(early.gap_min_us, Some(10_000));
    assert!(is_near(early.share, 1.0), "refused calls are no use of the rate");
}

#[test]
fn nothing_to_measure_gives_no_share() {
    assert_eq!(score(vec![ProviderLimit::gap("g", SECOND)], &[0]).share, None);
    assert_eq!(score(vec![ProviderLimit::concurrent("c", 1)], &[0, 10]).share, None);
    assert_eq!(score(Vec::new(), &[0, 10]).share, None);
}
