use proptest::prelude::*;
use tollgate_gate::{At, Span};

use super::super::alarms::{ACCOUNTS_MAX, Alarms, KEPT_MAX, OTHERS_MIN, Rules};
use super::*;

const MIN: u64 = 60;
const HOUR: u64 = 3600;

fn at(seconds: u64) -> At {
    At(0).plus(Span::from_secs(1_000_000 + seconds))
}

fn alarms() -> Alarms {
    Alarms::new(Rules {
        held: Span::from_secs(15 * MIN),
        store: Span::from_secs(5 * MIN),
        blocked: Span::from_secs(10),
        repeat: Span::from_secs(6 * HOUR),
    })
}

fn held(name: &str) -> Key {
    Key {
        platform: Some(Slug::new("kakao").unwrap()),
        account: Some(Account::new(name).unwrap()),
        ..Key::of(Kind::AccountHeld)
    }
}

/// Looks every 5 s from second to second, and whether it is so at each look; what was told, and when.
fn told(
    alarms: &mut Alarms,
    key: &Key,
    seconds: std::ops::Range<u64>,
    is_so: impl Fn(u64) -> bool,
) -> Vec<(u64, State)> {
    let mut told = Vec::new();
    for second in seconds.step_by(5) {
        let now = at(second);
        if is_so(second) {
            assert!(alarms.see(key.clone(), (now, now), Facts::default()));
        }
        told.extend(alarms.step(now).into_iter().map(|telling| (second, telling.state)));
    }
    told
}

#[test]
fn it_is_told_once_again_after_long_and_when_it_is_over() {
    let key = held("a1");
    let told = told(&mut alarms(), &key, 0..24 * HOUR, |second| second < 13 * HOUR);
    let began = 15 * MIN;
    let expected = [
        (began, State::Began),
        (began + 6 * HOUR, State::GoesOn),
        (began + 12 * HOUR, State::GoesOn),
        // The last look that saw it was 5 s before; then a minute.
        (13 * HOUR + MIN, State::Ended),
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_is_over_in_time_is_never_told() {
    let key = held("a1");
    assert_eq!(told(&mut alarms(), &key, 0..HOUR, |second| second < 14 * MIN), []);
    // A hold of some minutes and a call between is one hold.
    let with_gaps = |second: u64| second % (5 * MIN) >= 30;
    let told = told(&mut alarms(), &key, 0..HOUR, with_gaps);
    assert_eq!(told, [(15 * MIN + 30, State::Began)]);
}

#[test]
fn what_is_known_to_last_is_told_at_once() {
    let (mut alarms, now) = (alarms(), at(0));
    assert!(alarms.see_until(held("a1"), (now, now, at(14 * MIN)), Facts::default()));
    assert!(alarms.see_until(held("a2"), (now, now, at(16 * MIN)), Facts::default()));
    let told: Vec<_> = alarms.step(now).into_iter().map(|telling| telling.key).collect();
    assert_eq!(told, [held("a2")]);
    // It did not last: that is told as soon as for any other.
    let ended = alarms.step(at(2 * MIN));
    assert_eq!(ended.len(), 1);
    assert_eq!((&ended[0].key, ended[0].state), (&held("a2"), State::Ended));
}

#[test]
fn what_goes_to_another_node_is_forgotten_without_a_word() {
    let (mut alarms, key) = (alarms(), held("a1"));
    assert_eq!(told(&mut alarms, &key, 0..16 * MIN, |_| true).len(), 1);
    alarms.forget(|other| *other == key);
    assert_eq!(told(&mut alarms, &key, 16 * MIN..HOUR, |_| false), []);
}

#[test]
fn what_cannot_be_asked_goes_on_as_it_was() {
    let (mut alarms, key) = (alarms(), held("a1"));
    assert_eq!(told(&mut alarms, &key, 0..16 * MIN, |_| true).len(), 1);
    for second in (16 * MIN..HOUR).step_by(5) {
        alarms.keep(|key| key.kind == Kind::AccountHeld, at(second));
        assert_eq!(alarms.step(at(second)), []);
    }
}

#[test]
fn only_so_many_accounts_and_conditions_are_kept() {
    let (mut alarms, now) = (alarms(), at(0));
    for number in 0..ACCOUNTS_MAX {
        let key = held(&format!("a{number}"));
        assert!(alarms.has_room(&key));
        assert!(alarms.see(key, (now, now), Facts::default()));
    }
    assert!(!alarms.has_room(&held("b")));
    assert!(alarms.has_room(&held("a1")), "it is there");
    let other = Key { platform: Some(Slug::new("meta").unwrap()), ..held("b") };
    assert!(alarms.has_room(&other), "of another platform");
    for number in 0..2 * KEPT_MAX {
        let key = Key { of: Some(format!("{number}").into()), ..Key::of(Kind::LimitDrift) };
        let is_in = alarms.see(key, (now, now), Facts::default());
        assert_eq!(is_in, number + ACCOUNTS_MAX < KEPT_MAX);
    }
    assert!(!alarms.has_room(&other));
}

#[test]
fn accounts_that_are_held_no_more_take_no_names_from_others() {
    let (mut alarms, now) = (alarms(), at(0));
    let long = at(HOUR);
    for number in 0..ACCOUNTS_MAX {
        let key = held(&format!("a{number}"));
        assert!(alarms.see_until(key, (now, now, long), Facts::default()));
    }
    assert_eq!(alarms.step(now).len(), ACCOUNTS_MAX);
    assert!(!alarms.has_room(&held("b")), "ten are told by name at a time");
    assert_eq!(alarms.step(at(2 * MIN)).len(), ACCOUNTS_MAX, "they are over");
    for number in 0..ACCOUNTS_MAX {
        let key = held(&format!("b{number}"));
        assert!(alarms.has_room(&key), "{key:?}");
        assert!(alarms.see_until(key, (at(2 * MIN), at(2 * MIN), long), Facts::default()));
    }
    assert!(!alarms.has_room(&held("a0")), "it comes back and is one too many");
    assert_eq!(alarms.step(at(2 * MIN)).len(), ACCOUNTS_MAX);
}

#[test]
fn what_is_over_gives_its_room_to_what_is_so() {
    let (mut alarms, now) = (alarms(), at(0));
    let drift =
        |number: usize| Key { of: Some(format!("{number}").into()), ..Key::of(Kind::LimitDrift) };
    for number in 0..KEPT_MAX {
        assert!(alarms.see(drift(number), (now, now), Facts::default()));
    }
    assert!(!alarms.see(drift(KEPT_MAX), (now, now), Facts::default()), "all of it is so");
    alarms.step(now);
    // The first one ends before the others.
    for second in (0..5 * MIN).step_by(5) {
        alarms.keep(|key| *key != drift(0), at(second));
        alarms.step(at(second));
    }
    assert!(!alarms.is_on(&drift(0)) && alarms.is_on(&drift(1)));
    let later = at(5 * MIN);
    assert!(alarms.has_room(&held("a1")));
    assert!(alarms.see(held("a1"), (later, later), Facts::default()));
    assert!(!alarms.has_room(&held("a2")));
    assert!(!alarms.see(drift(KEPT_MAX), (later, later), Facts::default()));
    assert!(alarms.is_on(&held("a1")) && alarms.is_on(&drift(KEPT_MAX - 1)));
}

#[test]
fn accounts_leave_room_for_what_is_about_none() {
    let (mut alarms, now) = (alarms(), at(0));
    let keys = (0..KEPT_MAX).map(|number| Key {
        platform: Some(Slug::new(&format!("p{}", number / ACCOUNTS_MAX)).unwrap()),
        ..held(&format!("a{number}"))
    });
    let mut named = 0;
    for key in keys {
        if alarms.has_room(&key) {
            named += 1;
            assert!(alarms.see(key, (now, now), Facts::default()));
        }
    }
    assert_eq!(named, KEPT_MAX - OTHERS_MIN);
    for number in 0..OTHERS_MIN {
        let key = Key { of: Some(format!("{number}").into()), ..Key::of(Kind::ShardBlocked) };
        assert!(alarms.see(key, (now, now), Facts::default()), "{number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever comes and goes: what began ends before it begins again, nothing is told too early or too late, and it
    /// is told a few times a day at most.
    #[test]
    fn it_is_told_in_order_in_time_and_seldom(
        stretches in prop::collection::vec((1_u64..2000, 1_u64..2000), 1..40),
    ) {
        let (mut alarms, key) = (alarms(), held("a1"));
        let (mut second, mut on) = (0, Vec::new());
        for (yes, no) in stretches {
            on.push(second..second + yes);
            second += yes + no;
        }
        let is_so = |second: u64| on.iter().any(|stretch| stretch.contains(&second));
        let end = second + 24 * HOUR;
        let told = told(&mut alarms, &key, 0..end, is_so);
        let mut began = None;
        for (when, state) in &told {
            match state {
                State::Began => {
                    prop_assert_eq!(began, None);
                    prop_assert!(is_so(*when) && *when >= 15 * MIN);
                    began = Some(*when);
                }
                State::GoesOn => prop_assert!(began.is_some_and(|at| when - at >= 6 * HOUR)),
                State::Ended => {
                    prop_assert!(!is_so(*when) && began.take().is_some());
                }
            }
        }
        prop_assert_eq!(began, None, "it is over in the end: {:?}", told);
        // In six hours: it has to be over for 1, 2, 4, … minutes before it may begin anew.
        for (first, _) in &told {
            let within = told.iter().filter(|(when, _)| (*first..first + 6 * HOUR).contains(when));
            prop_assert!(within.count() <= 18, "{:?}", told);
        }
    }
}
