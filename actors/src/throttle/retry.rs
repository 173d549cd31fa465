//! When a fetch is tried again, and when it is given up. Pure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::codes::Code;
use crate::collector::Again;
use crate::ledger::record::Tries;

/// Answers "too many calls" before a fetch is given up; the holds between them double up to 5 min, so
/// this is well over an hour.
pub(crate) const THROTTLED_MAX: u8 = 20;
/// Calls that never reach the provider before a fetch is given up: a quarter of an hour at least.
pub(crate) const UNREACHABLE_MAX: u8 = 20;
/// Crashes with a fetch in flight before it is given up as the cause. At the last two it was tried alone, so
/// somebody who kills the process now and then hardly condemns one.
pub(crate) const CRASHES_MAX: u8 = 4;
/// Calls wasted here (store away, permit lapsed) before a fetch is given up.
pub(crate) const WASTED_MAX: u8 = 20;
/// How many of them are tried again without a pause.
pub(crate) const WASTED_AT_ONCE: u8 = 3;
/// From this many crashes on, a fetch in flight at them is tried only alone on its node.
pub(crate) const ALONE_FROM: u8 = 2;

/// First wait after a bad answer or a 429 without Retry-After.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// Longest such wait.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Refusals in a row for which Retry-After alone is believed. Beyond them the waits double in any case: some
/// providers say "in a second" for an hour.
const BELIEVED: u8 = 3;
/// Longest wait for a provider that cannot be reached.
const UNREACHABLE_WAIT_MAX: Duration = Duration::from_secs(60);

/// What to do with a fetch whose try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Try again after this time.
    Retry(Duration),
    /// As `Retry`, and hold the whole account until then.
    HoldAndRetry(Duration),
    /// Give it up.
    GiveUp(Code),
}

/// Counts a failed try and says what comes next. `in_a_row` counts failures of this kind of the whole
/// account without an answer between them, this one included; `after` is what the provider asked for.
pub(crate) fn next(
    tries: &mut Tries,
    kind: Again,
    after: Option<Duration>,
    in_a_row: u8,
    attempts_max: u32,
) -> Next {
    match kind {
        Again::Transient | Again::Incomplete => {
            tries.attempts = tries.attempts.saturating_add(1);
            if u32::from(tries.attempts) >= attempts_max {
                return Next::GiveUp(Code::AttemptsExhausted);
            }
            let wait = wait(u32::from(tries.attempts), WAIT_MAX);
            Next::Retry(after.map_or(wait, |after| after.max(wait)))
        }
        Again::Throttled => {
            tries.throttled = tries.throttled.saturating_add(1);
            if tries.throttled >= THROTTLED_MAX {
                return Next::GiveUp(Code::AttemptsExhausted);
            }
            Next::HoldAndRetry(refused(after, in_a_row))
        }
        Again::Parked => {
            tries.throttled = tries.throttled.saturating_add(1);
            if tries.throttled >= THROTTLED_MAX {
                return Next::GiveUp(Code::AttemptsExhausted);
            }
            // Others go on meanwhile: only the fetch's own count tells how often it was in vain.
            Next::Retry(refused(after, tries.throttled))
        }
        Again::Denied => {
            tries.throttled = tries.throttled.saturating_add(1);
            if tries.throttled >= THROTTLED_MAX {
                return Next::GiveUp(Code::AttemptsExhausted);
            }
            // The account is held already.
            Next::Retry(after.unwrap_or(WAIT_MAX))
        }
        Again::Unreachable => {
            tries.unreachable = tries.unreachable.saturating_add(1);
            if tries.unreachable >= UNREACHABLE_MAX {
                return Next::GiveUp(Code::AttemptsExhausted);
            }
            // The account's count is lost when it rests, the fetch's own is not.
            let failures = in_a_row.max(tries.unreachable);
            Next::HoldAndRetry(wait(u32::from(failures), UNREACHABLE_WAIT_MAX))
        }
        Again::Crashed => {
            tries.crashes = tries.crashes.saturating_add(1);
            if tries.crashes >= CRASHES_MAX {
                return Next::GiveUp(Code::PoisonFetch);
            }
            Next::Retry(wait(u32::from(tries.crashes), WAIT_MAX))
        }
        // Not the fetch's fault: it waits for whatever was. But a body that the store never takes, while
        // it takes others, would cost calls for ever.
        Again::StoreAway | Again::Unsettled | Again::Late | Again::Unsigned => {
            tries.wasted = tries.wasted.saturating_add(1);
            if tries.wasted >= WASTED_MAX {
                let store = matches!(kind, Again::StoreAway | Again::Unsettled);
                let code = if store { Code::StoreUnavailable } else { Code::AttemptsExhausted };
                return Next::GiveUp(code);
            }
            // The first times whatever it was is over when permits are given again.
            let again = tries.wasted.saturating_sub(WASTED_AT_ONCE);
            let pause = if again == 0 { Duration::ZERO } else { wait(again.into(), WAIT_MAX) };
            Next::Retry(after.map_or(pause, |after| after.max(pause)))
        }
    }
}

/// The wait after so many refusals, this one included, of which the provider says `after`.
fn refused(after: Option<Duration>, refusals: u8) -> Duration {
    match after {
        None => wait(u32::from(refusals), WAIT_MAX),
        Some(after) if refusals <= BELIEVED => after,
        Some(after) => after.max(wait(u32::from(refusals - BELIEVED), WAIT_MAX)),
    }
}

/// The wait before try number `failures` + 1: doubling from one second, with as much again of jitter at
/// most, so that fetches that failed together do not come back together.
fn wait(failures: u32, most: Duration) -> Duration {
    let mut waits = ExponentialBuilder::default()
        .with_min_delay(WAIT_FIRST)
        .with_max_delay(most)
        .with_max_times(usize::MAX)
        .with_factor(2.0)
        .with_jitter()
        .build();
    let place = usize::try_from(failures.clamp(1, 32) - 1).unwrap_or(0);
    waits.nth(place).unwrap_or(most).min(most * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_and_stay_within_bounds() {
        for failures in 1..=40 {
            let base = Duration::from_secs(1 << (failures - 1).min(9)).min(WAIT_MAX);
            for _ in 0..20 {
                let wait = wait(failures, WAIT_MAX);
                assert!(wait >= base, "{failures}: {wait:?} < {base:?}");
                assert!(wait <= base * 2, "{failures}: {wait:?} > 2 x {base:?}");
            }
        }
    }

    #[test]
    fn bad_answers_are_bounded_by_attempts_and_a_429_never_uses_one_up() {
        let mut tries = Tries::default();
        for _ in 0..THROTTLED_MAX - 1 {
            let next = next(&mut tries, Again::Throttled, Some(Duration::from_secs(7)), 1, 2);
            assert_eq!(next, Next::HoldAndRetry(Duration::from_secs(7)));
        }
        assert!(matches!(next(&mut tries, Again::Transient, None, 1, 2), Next::Retry(_)));
        assert_eq!(
            next(&mut tries, Again::Transient, None, 1, 2),
            Next::GiveUp(Code::AttemptsExhausted)
        );
        assert_eq!(
            next(&mut tries, Again::Throttled, None, 1, 2),
            Next::GiveUp(Code::AttemptsExhausted)
        );
    }

    #[test]
    fn the_fourth_crash_gives_a_fetch_up_as_their_cause() {
        let mut tries = Tries::default();
        assert!(matches!(next(&mut tries, Again::Crashed, None, 1, 5), Next::Retry(_)));
        assert!(matches!(next(&mut tries, Again::Crashed, None, 1, 5), Next::Retry(_)));
        assert!(matches!(next(&mut tries, Again::Crashed, None, 1, 5), Next::Retry(_)));
        assert_eq!(next(&mut tries, Again::Crashed, None, 1, 5), Next::GiveUp(Code::PoisonFetch));
    }

    #[test]
    fn a_store_that_is_away_costs_no_attempt_and_one_that_stays_so_ends_the_fetch() {
        let mut tries = Tries::default();
        for _ in 0..3 {
            let next = next(&mut tries, Again::StoreAway, None, 1, 1);
            assert_eq!(next, Next::Retry(Duration::ZERO));
        }
        assert_eq!(tries.attempts, 0);
        for _ in 4..WASTED_MAX {
            let next = next(&mut tries, Again::StoreAway, None, 1, 1);
            assert!(matches!(next, Next::Retry(pause) if pause >= WAIT_FIRST), "{next:?}");
        }
        let last = next(&mut tries, Again::StoreAway, None, 1, 1);
        assert_eq!(last, Next::GiveUp(Code::StoreUnavailable));
    }
}
