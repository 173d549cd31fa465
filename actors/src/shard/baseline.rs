//! How fast an api answers at its best, and so how long a request may have waited before it was counted.
//!
//! A guard says how long after its writing a request has certainly arrived. A provider under a burst may
//! read it later than that. It shows in its answer: an api that answers in 300 ms at its best, and took
//! 380 ms this time, may have counted this call up to 80 ms late. That much is added to the guard, never
//! beyond the answer itself. A constant delay on the way, or a slow api, costs nothing by this rule.

use std::collections::HashMap;

use tollgate_gate::{ApiIx, At, Span};

use crate::ids::Slug;

/// An answer's time counts for one to two of these: a provider that became slower for good is then taken
/// as it is.
const EPOCH: Span = Span::from_secs(30);

#[derive(Debug)]
struct Best {
    since: At,
    /// Least time of this epoch and of the one before.
    now: Span,
    before: Span,
}

/// Times to the first byte at their best, per api; as many as there are apis.
#[derive(Debug, Default)]
pub(crate) struct Baselines {
    best: HashMap<(Slug, ApiIx), Best>,
}

impl Baselines {
    /// Notes an answer and tells by how much it was slower than the best of late.
    pub(crate) fn answered(
        &mut self,
        platform: &Slug,
        api: ApiIx,
        written: At,
        answered: At,
    ) -> Span {
        let took = answered.since(written);
        let never = Span(u64::MAX);
        let best = self.best.entry((platform.clone(), api)).or_insert(Best {
            since: answered,
            now: never,
            before: never,
        });
        if answered.since(best.since) >= EPOCH {
            // After a long silence the epoch before is too old to count.
            let silent = answered.since(best.since) >= EPOCH.times(2);
            best.before = if silent { never } else { best.now };
            best.now = never;
            best.since = answered;
        }
        best.now = best.now.min(took);
        Span(took.0 - best.now.min(best.before).min(took).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slower(baselines: &mut Baselines, at_ms: u64, took_ms: u64) -> u64 {
        let platform = Slug::new("p").unwrap();
        let written = At(1 << 40).plus(Span::from_millis(at_ms));
        let answered = written.plus(Span::from_millis(took_ms));
        baselines.answered(&platform, 0, written, answered).0 / 1000
    }

    #[test]
    fn only_what_exceeds_the_best_answer_of_late_counts_as_waiting() {
        let mut baselines = Baselines::default();
        assert_eq!(slower(&mut baselines, 0, 300), 0, "nothing to compare with");
        assert_eq!(slower(&mut baselines, 10, 380), 80);
        assert_eq!(slower(&mut baselines, 20, 290), 0);
        assert_eq!(slower(&mut baselines, 30, 300), 10);
    }

    #[test]
    fn a_provider_that_became_slower_for_good_is_taken_as_it_is_after_two_epochs() {
        let mut baselines = Baselines::default();
        slower(&mut baselines, 0, 10);
        assert_eq!(slower(&mut baselines, 31_000, 500), 490, "the epoch before still counts");
        assert_eq!(slower(&mut baselines, 62_000, 500), 0);
        assert_eq!(slower(&mut baselines, 300_000, 900), 0, "after a silence it starts anew");
    }
}
