use super::*;
use crate::bulk::mix;

const SECOND: Duration = Duration::from_secs(1);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn accepts(judge: &mut Judge, account: &str, endpoint: &str, at: Instant) -> bool {
    match judge.arrive(account, endpoint, at) {
        Verdict::Accepted(ticket) => {
            judge.leave(ticket);
            true
        }
        Verdict::Refused(_) => false,
        Verdict::TurnedAway => panic!("there is room for it"),
    }
}

fn refusal(judge: &mut Judge, account: &str, at: Instant) -> Refusal {
    match judge.arrive(account, "/", at) {
        Verdict::Refused(refusal) => refusal,
        other => panic!("must be refused: {other:?}"),
    }
}

#[test]
fn refuses_exactly_the_call_after_the_last_allowed_one() {
    let t = Instant::now();
    let mut judge = Judge::new(vec![ProviderLimit::window("w", 3, SECOND)], false);
    for n in 0..3 {
        assert!(accepts(&mut judge, "a", "/", t + ms(n)), "call {n}");
    }
    let early = refusal(&mut judge, "a", t + ms(400));
    assert_eq!(early, Refusal { limit: "w".into(), early: ms(600) });
    assert!(accepts(&mut judge, "b", "/", t + ms(400)), "another account is counted apart");
}

#[test]
fn a_window_opens_exactly_when_its_oldest_call_leaves_it() {
    let t = Instant::now();
    let too_early = t + Duration::from_nanos(999_999_999);
    let mut judge = Judge::new(vec![ProviderLimit::gap("g", SECOND)], false);
    assert!(accepts(&mut judge, "a", "/", t));
    assert_eq!(refusal(&mut judge, "a", too_early).early, Duration::from_nanos(1));
    assert!(accepts(&mut judge, "a", "/", t + SECOND));
}

#[test]
fn refused_calls_count_only_if_the_profile_says_so() {
    let t = Instant::now();
    let limits = vec![ProviderLimit::gap("g", SECOND)];
    let mut mild = Judge::new(limits.clone(), false);
    let mut strict = Judge::new(limits, true);
    for judge in [&mut mild, &mut strict] {
        assert!(accepts(judge, "a", "/", t));
        assert!(!accepts(judge, "a", "/", t + ms(600)));
    }
    assert!(accepts(&mut mild, "a", "/", t + ms(1_000)));
    assert!(!accepts(&mut strict, "a", "/", t + ms(1_000)));
    assert!(accepts(&mut strict, "a", "/", t + ms(2_000)));
}

#[test]
fn a_call_refused_by_one_limit_counts_in_none() {
    let t = Instant::now();
    let limits =
        vec![ProviderLimit::window("two", 2, 10 * SECOND), ProviderLimit::gap("gap", SECOND)];
    let mut judge = Judge::new(limits, false);
    assert!(accepts(&mut judge, "a", "/", t));
    assert!(!accepts(&mut judge, "a", "/", t + ms(10)));
    assert!(accepts(&mut judge, "a", "/", t + ms(1_000)), "the refused one took no place");
    assert_eq!(&*refusal(&mut judge, "a", t + ms(1_500)).limit, "two", "the longest wait is named");
    assert_eq!(judge.refused_by, [1, 1]);
}

#[test]
fn calls_at_once_are_counted_from_arrival_to_leave() {
    let t = Instant::now();
    let mut judge = Judge::new(vec![ProviderLimit::concurrent("slots", 2)], false);
    let Verdict::Accepted(first) = judge.arrive("a", "/x", t) else { panic!("there is room") };
    let Verdict::Accepted(_second) = judge.arrive("a", "/y", t) else { panic!("there is room") };
    assert_eq!(refusal(&mut judge, "a", t + 100 * SECOND).early, Duration::ZERO);
    judge.leave(first);
    assert!(accepts(&mut judge, "a", "/z", t + 100 * SECOND));
    assert_eq!(judge.accounts["a"].open_max, 2);
}

#[test]
fn endpoints_and_platforms_are_counted_as_the_limit_says() {
    let t = Instant::now();
    let limits = vec![
        ProviderLimit::gap("each", SECOND).per_endpoint(),
        ProviderLimit::window("all", 3, SECOND).per_platform(),
        ProviderLimit::gap("slow", 5 * SECOND).only("/slow"),
    ];
    let mut judge = Judge::new(limits, false);
    assert!(accepts(&mut judge, "a", "/x", t));
    assert!(accepts(&mut judge, "a", "/y", t), "another endpoint");
    assert!(!accepts(&mut judge, "a", "/x", t), "the same endpoint");
    assert!(accepts(&mut judge, "b", "/slow", t), "the third call of the platform");
    assert!(!accepts(&mut judge, "c", "/x", t), "the fourth");
    assert!(accepts(&mut judge, "c", "/x", t + SECOND));
    assert!(!accepts(&mut judge, "b", "/slow", t + 4 * SECOND), "its own limit");
    assert!(accepts(&mut judge, "b", "/x", t + 4 * SECOND));
}

#[test]
fn agrees_with_a_count_over_every_call_ever_made() {
    let limits = [(3_u32, 50_u64), (7, 200), (1, 9)];
    let declared: Vec<ProviderLimit> =
        limits.iter().map(|(max, within)| ProviderLimit::window("w", *max, ms(*within))).collect();
    let start = Instant::now();
    let mut judge = Judge::new(declared, false);
    let (mut now, mut accepted, mut refused) = (0_u64, Vec::new(), 0);
    for n in 0..20_000 {
        now += mix(n) % 12;
        let allowed = limits.iter().all(|(max, within)| {
            let inside = accepted.iter().rev().take_while(|at| **at + within > now).count();
            inside < *max as usize
        });
        assert_eq!(accepts(&mut judge, "a", "/", start + ms(now)), allowed, "call {n} at {now}");
        if allowed {
            accepted.push(now);
        } else {
            refused += 1;
        }
    }
    assert!(refused > 1_000 && accepted.len() > 1_000, "both cases were met");
}

#[test]
fn too_many_endpoints_are_turned_away() {
    let t = Instant::now();
    let mut judge = Judge::new(vec![ProviderLimit::gap("g", SECOND).per_endpoint()], false);
    for n in 0..ENDPOINTS_MAX {
        assert!(accepts(&mut judge, "a", &format!("/{n}"), t));
    }
    assert!(matches!(judge.arrive("a", "/one-more", t), Verdict::TurnedAway));
    assert!(!accepts(&mut judge, "a", "/0", t), "the known ones are still judged");
}

#[test]
fn says_what_is_left_of_the_window_of_which_least_is() {
    let t = Instant::now();
    let limits = vec![
        ProviderLimit::window("wide", 10, 60 * SECOND),
        ProviderLimit::window("narrow", 4, SECOND),
        ProviderLimit::window("all", 1, SECOND).per_platform().only("/other"),
    ];
    let mut judge = Judge::new(limits, false);
    assert_eq!(judge.standing("a", t), None, "nobody has called yet");
    for n in 0..3 {
        assert!(accepts(&mut judge, "a", "/", t + ms(n * 100)));
    }
    let standing = judge.standing("a", t + ms(300)).unwrap();
    assert_eq!((&*standing.limit, standing.max, standing.left), ("narrow", 4, 1));
    assert_eq!((standing.within, standing.reset), (SECOND, ms(700)));
    let standing = judge.standing("a", t + 5 * SECOND).unwrap();
    assert_eq!((&*standing.limit, standing.left), ("narrow", 4));
    assert_eq!(standing.reset, Duration::ZERO);
}

#[test]
fn hidden_calls_of_somebody_else_take_places_and_leave_with_their_window() {
    let t = Instant::now();
    let mut judge = Judge::new(vec![ProviderLimit::window("w", 3, SECOND)], false).with_hidden(2);
    assert!(accepts(&mut judge, "a", "/", t));
    assert_eq!(refusal(&mut judge, "a", t + ms(400)).early, ms(600));
    assert_eq!(judge.standing("a", t + ms(400)).unwrap().left, 0);
    assert!(accepts(&mut judge, "a", "/", t + SECOND));
    assert_eq!(judge.standing("a", t + SECOND).unwrap().left, 2);
}
