//! Whether a provider was crowded by our own calls, and how long one may have waited there uncounted.
//!
//! A guard says how long after its writing a request has certainly arrived. When hundreds of accounts are
//! due at once, a provider may read a request later than that: it has the others to read first. It shows
//! in the answer: an api that answers in 300 ms at its best, and took 380 ms in such a crowd, may have
//! counted the call up to 80 ms late. Where that is more than the guard it stands in its place, never beyond
//! the answer itself.
//!
//! Outside a crowd an answer that takes longer says nothing of the sort, only that there was more to do:
//! then the guard stands as it is, and an api of very uneven speed loses nothing.

use std::collections::HashMap;

use tollgate_gate::{ApiIx, At, Span};

use crate::ids::Slug;

/// An answer's time counts for one to two of these: a provider that became slower for good is then taken
/// as it is.
const EPOCH: Span = Span::from_secs(30);
/// Writings are counted in slices of this length, for about two seconds.
const SLICE_US: i64 = 50_000;
const SLICES: usize = 40;
/// From this many writings of the node in a slice and its neighbours, a provider is crowded. Accounts are
/// spread evenly over shards, so each counts its own and takes its part of the number, but not a handful.
const CROWD: u32 = 32;
const CROWD_OF_SHARD_MIN: u32 = 8;

#[derive(Debug)]
struct Best {
    since: At,
    /// Least time of this epoch and of the one before.
    now: Span,
    before: Span,
}

/// How many requests were written, by slice: the slice's number and the count.
#[derive(Debug)]
struct Writings([(i64, u32); SLICES]);

impl Writings {
    fn add(&mut self, at: At) {
        let number = at.0.div_euclid(SLICE_US);
        let slice = &mut self.0[Self::place(number)];
        if slice.0 != number {
            *slice = (number, 0);
        }
        slice.1 = slice.1.saturating_add(1);
    }

    fn around(&self, at: At) -> u32 {
        let number = at.0.div_euclid(SLICE_US);
        let count = |number| {
            let (counted, count) = self.0[Self::place(number)];
            if counted == number { count } else { 0 }
        };
        count(number - 1) + count(number) + count(number + 1)
    }

    fn place(number: i64) -> usize {
        usize::try_from(number.rem_euclid(SLICES as i64)).expect("not negative")
    }
}

/// Times to the first byte at their best, per api, and writings per platform; as many as there are of
/// those.
#[derive(Debug)]
pub(crate) struct Baselines {
    /// From so many writings of this shard on it is a crowd.
    crowd: u32,
    best: HashMap<(Slug, ApiIx), Best>,
    writings: HashMap<Slug, Writings>,
}

impl Baselines {
    /// For one of so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        let shards = u32::try_from(shards.max(1)).unwrap_or(u32::MAX);
        let crowd = (CROWD / shards).max(CROWD_OF_SHARD_MIN);
        Self { crowd, best: HashMap::new(), writings: HashMap::new() }
    }

    /// The apis of a platform have other numbers from now on, or none.
    pub(crate) fn renumber(&mut self, platform: &Slug, new: impl Fn(ApiIx) -> Option<ApiIx>) {
        let before = std::mem::take(&mut self.best);
        let renumbered = before.into_iter().filter_map(|((of, api), best)| {
            let api = if of == *platform { new(api)? } else { api };
            Some(((of, api), best))
        });
        self.best = renumbered.collect();
    }

    /// Notes that a request was written.
    pub(crate) fn written(&mut self, platform: &Slug, at: At) {
        let writings = match self.writings.get_mut(platform) {
            Some(writings) => writings,
            None => {
                self.writings.entry(platform.clone()).or_insert(Writings([(i64::MIN, 0); SLICES]))
            }
        };
        writings.add(at);
    }

    /// Notes an answer and tells by how much its request may have waited in a crowd.
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
        let slower = Span(took.0 - best.now.min(best.before).min(took).0);
        let around = self.writings.get(platform).map_or(0, |writings| writings.around(written));
        if around >= self.crowd { slower } else { Span::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: At = At(1 << 40);

    fn slug() -> Slug {
        Slug::new("p").unwrap()
    }

    fn slower(baselines: &mut Baselines, at_ms: u64, took_ms: u64, crowd: u32) -> u64 {
        let written = START.plus(Span::from_millis(at_ms));
        for _ in 0..crowd {
            baselines.written(&slug(), written);
        }
        let answered = written.plus(Span::from_millis(took_ms));
        baselines.answered(&slug(), 0, written, answered).0 / 1000
    }

    #[test]
    fn in_a_crowd_what_exceeds_the_best_answer_of_late_counts_as_waiting() {
        let mut baselines = Baselines::new(1);
        assert_eq!(slower(&mut baselines, 0, 300, 40), 0, "nothing to compare with");
        assert_eq!(slower(&mut baselines, 10, 380, 1), 80);
        assert_eq!(slower(&mut baselines, 20, 290, 1), 0);
        assert_eq!(slower(&mut baselines, 30, 300, 1), 10);
    }

    #[test]
    fn without_a_crowd_a_slow_answer_is_just_slow() {
        let mut baselines = Baselines::new(1);
        slower(&mut baselines, 0, 100, 1);
        assert_eq!(slower(&mut baselines, 1000, 900, 1), 0);
        assert_eq!(slower(&mut baselines, 2000, 900, CROWD), 800);
        assert_eq!(slower(&mut baselines, 2200, 900, 1), 0, "the crowd is gone");
    }

    #[test]
    fn a_shard_of_many_sees_its_part_of_the_crowd() {
        let mut baselines = Baselines::new(2);
        slower(&mut baselines, 0, 100, 1);
        assert_eq!(slower(&mut baselines, 1000, 900, CROWD / 2 - 1), 0);
        assert_eq!(slower(&mut baselines, 2000, 900, CROWD / 2), 800);
    }

    #[test]
    fn a_provider_that_became_slower_for_good_is_taken_as_it_is_after_two_epochs() {
        let mut baselines = Baselines::new(1);
        slower(&mut baselines, 0, 10, 40);
        let still = slower(&mut baselines, 31_000, 500, 40);
        assert_eq!(still, 490, "the epoch before still counts");
        assert_eq!(slower(&mut baselines, 62_000, 500, 40), 0);
        assert_eq!(slower(&mut baselines, 300_000, 900, 40), 0, "after a silence it starts anew");
    }
}
