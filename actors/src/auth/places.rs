//! Who is seen to next, of many that want something at once: no credential keeps another waiting. Pure.
//!
//! Each has one place of its own, and all share so many more, of which whoever has the fewest gets the next. So an
//! endpoint that does not answer costs its own credential only, whatever number of accounts stands behind it.

use std::collections::{HashMap, VecDeque};

/// Places that all share, beyond the one that each has.
const SHARED_MAX: usize = 64;
/// Places of one.
const EACH_MAX: usize = 32;

/// Jobs that wait, and who has how many places, by the number of whose they are.
pub(super) struct Places<J> {
    of: HashMap<usize, Of<J>>,
    /// Those with jobs that wait, whoever was served last at the end.
    round: VecDeque<usize>,
    /// Shared places that are taken.
    shared: usize,
}

struct Of<J> {
    waiting: VecDeque<J>,
    taken: usize,
}

impl<J> Default for Places<J> {
    fn default() -> Self {
        Self { of: HashMap::new(), round: VecDeque::new(), shared: 0 }
    }
}

impl<J> Places<J> {
    /// A job of `whose` waits.
    pub(super) fn wait(&mut self, whose: usize, job: J) {
        let of = self.of.entry(whose).or_insert_with(|| Of { waiting: VecDeque::new(), taken: 0 });
        if of.waiting.is_empty() {
            self.round.push_back(whose);
        }
        of.waiting.push_back(job);
    }

    /// The next job for which there is a place, which it has from now on.
    pub(super) fn take(&mut self) -> Option<(usize, J)> {
        let taken = |whose: &usize| self.of.get(whose).map_or(0, |of| of.taken);
        let (place, whose) =
            self.round.iter().copied().enumerate().min_by_key(|(_, whose)| taken(whose))?;
        let is_own = taken(&whose) == 0;
        if !is_own && (self.shared >= SHARED_MAX || taken(&whose) >= EACH_MAX) {
            return None;
        }
        let of = self.of.get_mut(&whose)?;
        let job = of.waiting.pop_front()?;
        of.taken += 1;
        self.shared += usize::from(!is_own);
        self.round.remove(place);
        if !of.waiting.is_empty() {
            self.round.push_back(whose);
        }
        Some((whose, job))
    }

    /// A job of `whose` is done.
    pub(super) fn leave(&mut self, whose: usize) {
        let Some(of) = self.of.get_mut(&whose) else { return };
        of.taken = of.taken.saturating_sub(1);
        if of.taken > 0 {
            self.shared -= 1;
        } else if of.waiting.is_empty() {
            self.of.remove(&whose);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(places: &mut Places<u32>) -> Vec<(usize, u32)> {
        std::iter::from_fn(|| places.take()).collect()
    }

    #[test]
    fn each_has_a_place_of_its_own_and_the_fewest_get_the_next() {
        let mut places = Places::default();
        for job in 0..200 {
            places.wait(1, job);
        }
        let first = taken(&mut places);
        assert_eq!(first.len(), EACH_MAX);
        assert_eq!(first[0], (1, 0));
        for job in 0..200 {
            places.wait(2, job);
            places.wait(3, job);
        }
        let second = taken(&mut places);
        assert_eq!(second.len(), 2 + (SHARED_MAX - (EACH_MAX - 1)));
        let of = |whose| second.iter().filter(|(own, _)| *own == whose).count();
        assert!(of(2).abs_diff(of(3)) <= 1 && of(1) == 0, "{second:?}");
        // Nothing is left but what is one's own.
        places.wait(4, 0);
        places.wait(4, 1);
        assert_eq!(taken(&mut places), [(4, 0)]);
        // A place that is free goes to whoever has the fewest.
        places.leave(1);
        assert_eq!(taken(&mut places), [(4, 1)]);
        for whose in [4, 4] {
            places.leave(whose);
        }
        let next = taken(&mut places);
        assert!(next.len() == 1 && next[0].0 != 1, "{next:?}");
    }

    #[test]
    fn all_are_served_in_their_order_and_nothing_is_kept_of_them() {
        let mut places = Places::default();
        let mut out = VecDeque::new();
        let mut got: HashMap<usize, Vec<u32>> = HashMap::new();
        for job in 0..50 {
            for whose in 0..10 {
                places.wait(whose, job);
            }
        }
        loop {
            for (whose, job) in taken(&mut places) {
                got.entry(whose).or_default().push(job);
                out.push_back(whose);
            }
            assert!(out.len() <= 10 + SHARED_MAX);
            let Some(whose) = out.pop_front() else { break };
            places.leave(whose);
        }
        assert!(got.len() == 10 && got.values().all(|jobs| jobs.iter().copied().eq(0..50)));
        assert!(places.of.is_empty() && places.round.is_empty() && places.shared == 0);
    }
}
