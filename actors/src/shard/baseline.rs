//! How much later than its guard a request may have arrived, as its answer shows.
//!
//! A guard says how long after its writing a request has certainly arrived. The way to a provider can be more
//! uneven than that, and when hundreds of accounts are due at once a provider reads a request late: it has
//! the others to read first. Both show in the answer: an api that answers in 300 ms at its best, and took 380 ms
//! now, may have counted the call up to 80 ms late. Where that is more than the guard it stands in its place,
//! never beyond the answer itself.
//!
//! But an answer can also take longer because there was more to do. So what an answer is believed to show is
//! bounded by [`UNEVEN_MAX`], which is what an api of very uneven speed loses at most per window; in a crowd of
//! our own calls it is believed whole. A guard that was declared is what the user knows of the way: only in
//! a crowd, of which the user cannot know, is it ever lengthened.
//!
//! The best answer seen is not the best there is. On a way whose delays are even in some range, there and
//! back, the best of n answers lies about that range / sqrt(n) above it: so much is added. And where the first
//! answers all come out of one crowd, the best of them is still no good. So an api's first answers are doubted: what they
//! show is asked once more when it matters, with what has been learnt until then; as long as that is little, or nodes
//! start together, which crowd a provider unseen by each other, the answer is believed ([`Baselines::late`]).

use std::collections::HashMap;

use tollgate_gate::{ApiIx, At, Span};

use crate::cluster::{Owned, PARTITIONS};
use crate::ids::Slug;

/// An answer's time counts for one to two epochs: a provider that became slower for good is then taken as
/// it is. An epoch has at least this length, and lasts until it has seen enough answers to know the best of
/// them, within bounds.
const EPOCH: Span = Span::from_secs(30);
const EPOCH_MAX: Span = Span::from_secs(600);
/// So long after the first answer the best may still be much better than what was seen.
const YOUNG: Span = Span::from_secs(2);
/// Of fewer answers all may have been late.
const FEW: u32 = 32;
/// Of so many answers the best is near the best there is.
const ENOUGH: u32 = 64;
/// What an answer outside a crowd is believed to show of its request's way, at most.
pub(crate) const UNEVEN_MAX: Span = Span::from_millis(100);
/// What one of the first answers outside a crowd is believed to show where other nodes call too, at most.
const UNEVEN_YOUNG_MAX: Span = Span::from_millis(500);
/// Writings are counted in slices of this length, for a minute: as long as an answer that matters may take.
const SLICE_US: i64 = 50_000;
const SLICES: usize = 1200;
/// Whether a request met a crowd is looked at for so long after its writing, in slices, or until its answer: what is
/// written after it keeps a provider from reading it, too.
const MET_SLICES: i64 = 20;
/// From this many writings in a slice and its neighbours, a provider is crowded. Accounts are spread evenly over nodes
/// and their shards, so each counts its own and takes its part of the number, but not a handful.
const CROWD: u32 = 32;
const CROWD_OF_SHARD_MIN: u32 = 8;

/// What an answer shows of its request's way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Late {
    /// By how much it may have arrived late.
    pub(crate) by: Span,
    /// Whether it was written in a crowd.
    pub(crate) in_crowd: bool,
}

/// Answers of one epoch.
#[derive(Debug, Clone, Copy)]
struct Answers {
    count: u32,
    /// Least time that one took.
    best: Span,
    /// By how much the slowest was slower than the best then known, bounded.
    uneven: Span,
}

impl Answers {
    const NONE: Self = Self { count: 0, best: Span(u64::MAX), uneven: Span::ZERO };
}

#[derive(Debug)]
struct Epochs {
    /// The first answer, or the first after a long silence.
    first: At,
    since: At,
    now: Answers,
    before: Answers,
}

impl Epochs {
    fn advance(&mut self, at: At) {
        let age = at.since(self.since);
        let enough = self.now.count >= ENOUGH;
        if age >= EPOCH_MAX || (age >= EPOCH && enough) {
            let silent = age >= EPOCH_MAX.times(2);
            if silent {
                self.first = at;
            }
            // After a long silence the epoch before is too old to count.
            self.before = if silent { Answers::NONE } else { self.now };
            self.now = Answers::NONE;
            self.since = at;
        }
    }

    fn add(&mut self, took: Span) {
        self.now.count = self.now.count.saturating_add(1);
        self.now.best = self.now.best.min(took);
    }

    fn count(&self) -> u32 {
        self.now.count.saturating_add(self.before.count)
    }

    /// By how much an answer that took so long was slower than the best there is.
    fn slower(&self, took: Span) -> Span {
        let best = self.now.best.min(self.before.best).min(took);
        let count = self.count().max(1);
        let unknown = (UNEVEN_MAX.0 * UNEVEN_MAX.0 / u64::from(count)).isqrt();
        Span((took.0 - best.0 + unknown).min(took.0))
    }
}

fn slice(at: At) -> i64 {
    at.0.div_euclid(SLICE_US)
}

/// How many requests were written, by slice: the slice's number and the count.
#[derive(Debug)]
struct Writings(Box<[(i64, u32)]>);

impl Writings {
    fn add(&mut self, at: At) {
        let number = slice(at);
        let slice = &mut self.0[Self::place(number)];
        if slice.0 != number {
            *slice = (number, 0);
        }
        slice.1 = slice.1.saturating_add(1);
    }

    /// The most in a slice and its neighbours, from the one slice to the other.
    fn most(&self, from: i64, to: i64) -> u32 {
        let count = |number| {
            let (counted, count) = self.0[Self::place(number)];
            if counted == number { count } else { 0 }
        };
        let around = |number| count(number - 1) + count(number) + count(number + 1);
        (from..=to).map(around).max().unwrap_or(0)
    }

    fn place(number: i64) -> usize {
        usize::try_from(number.rem_euclid(SLICES as i64)).expect("not negative")
    }
}

/// Times to the first byte, per api, and writings per platform; as many as there are of those.
#[derive(Debug)]
pub(crate) struct Baselines {
    shards: u32,
    /// The partitions of this node: the others' calls are other nodes'.
    owned: Owned,
    answers: HashMap<(Slug, ApiIx), Epochs>,
    writings: HashMap<Slug, Writings>,
}

impl Baselines {
    /// For one of so many shards of a node that owns this.
    pub(crate) fn new(shards: usize, owned: Owned) -> Self {
        let shards = u32::try_from(shards.max(1)).unwrap_or(u32::MAX);
        Self { shards, owned, answers: HashMap::new(), writings: HashMap::new() }
    }

    /// From so many writings of this shard on it is a crowd.
    fn crowd(&self) -> u32 {
        let part = CROWD * self.owned.ours().len() / PARTITIONS;
        (part / self.shards).max(CROWD_OF_SHARD_MIN)
    }

    /// The apis of a platform have other numbers from now on, or none.
    pub(crate) fn renumber(&mut self, platform: &Slug, new: impl Fn(ApiIx) -> Option<ApiIx>) {
        let before = std::mem::take(&mut self.answers);
        let renumbered = before.into_iter().filter_map(|((of, api), best)| {
            let api = if of == *platform { new(api)? } else { api };
            Some(((of, api), best))
        });
        self.answers = renumbered.collect();
    }

    /// Notes that a request was written.
    pub(crate) fn written(&mut self, platform: &Slug, at: At) {
        let writings = match self.writings.get_mut(platform) {
            Some(writings) => writings,
            None => self
                .writings
                .entry(platform.clone())
                .or_insert_with(|| Writings(vec![(i64::MIN, 0); SLICES].into())),
        };
        writings.add(at);
    }

    /// By how much requests of an api have arrived late of late, as far as it is known: what a call without
    /// an answer has to reckon with. At most [`UNEVEN_MAX`].
    pub(crate) fn uneven(&self, platform: &Slug, api: ApiIx) -> Span {
        let epochs = self.answers.get(&(platform.clone(), api));
        epochs.map_or(Span::ZERO, |epochs| epochs.now.uneven.max(epochs.before.uneven))
    }

    /// Notes an answer and tells by how much its request has arrived late, for all that is known: at most as long as
    /// it took. Of a young api this may be far too little.
    pub(crate) fn answered(
        &mut self,
        platform: &Slug,
        api: ApiIx,
        written: At,
        answered: At,
    ) -> Late {
        let epochs = self.answers.entry((platform.clone(), api)).or_insert(Epochs {
            first: answered,
            since: answered,
            now: Answers::NONE,
            before: Answers::NONE,
        });
        epochs.advance(answered);
        epochs.add(answered.since(written));
        let late = self.known(platform, api, written, answered);
        let epochs = self.answers.get_mut(&(platform.clone(), api));
        if let Some(epochs) = epochs.filter(|epochs| epochs.now.count >= ENOUGH) {
            epochs.now.uneven = epochs.now.uneven.max(late.by.min(UNEVEN_MAX));
        }
        late
    }

    fn known(&self, platform: &Slug, api: ApiIx, written: At, answered: At) -> Late {
        let took = answered.since(written);
        let epochs = self.answers.get(&(platform.clone(), api));
        let slower = epochs.map_or(took, |epochs| epochs.slower(took));
        let from = slice(written);
        let to = slice(answered).clamp(from, from + MET_SLICES);
        let most = self.writings.get(platform).map_or(0, |writings| writings.most(from, to));
        let in_crowd = most >= self.crowd();
        Late { by: if in_crowd { slower } else { slower.min(UNEVEN_MAX) }, in_crowd }
    }

    /// By how much a request may have arrived late that was answered when its api was young, by what is known now:
    /// more than when it was answered, if better answers have come since, there are few, or other nodes call too.
    pub(crate) fn late(&self, platform: &Slug, api: ApiIx, written: At, answered: At) -> Span {
        let took = answered.since(written);
        let epochs = self.answers.get(&(platform.clone(), api));
        let is_alone = self.owned.ours().len() == PARTITIONS;
        let known = epochs.filter(|epochs| is_alone && epochs.count() >= FEW);
        let slower = known.map_or(took, |epochs| epochs.slower(took));
        let Late { by, in_crowd } = self.known(platform, api, written, answered);
        match (in_crowd, is_alone) {
            (true, _) => slower,
            // There is no crowd that this node does not see.
            (false, true) => by,
            (false, false) => slower.min(UNEVEN_YOUNG_MAX).max(by),
        }
    }

    /// Whether the first answers of an api have only just come.
    pub(crate) fn is_young(&self, platform: &Slug, api: ApiIx, now: At) -> bool {
        self.young_until(platform, api).is_some_and(|until| now < until)
    }

    /// From when on what the first answers of an api have shown is known, as far as it ever will be.
    pub(crate) fn young_until(&self, platform: &Slug, api: ApiIx) -> Option<At> {
        let epochs = self.answers.get(&(platform.clone(), api));
        epochs.map(|epochs| epochs.first.plus(YOUNG))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Parts;

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
        baselines.answered(&slug(), 0, written, answered).by.0 / 1000
    }

    /// So many slices before the start the first answer came: nothing is young at the start.
    const KNOWN: u64 = 400;

    /// After answers that took so long, in so many slices that the best is known to a twentieth.
    fn known(shards: usize, took_ms: u64) -> Baselines {
        let mut baselines = Baselines::new(shards, Owned::default());
        for slice in 1..=KNOWN {
            let written = At(START.0 - SLICE_US * i64::try_from(slice).unwrap());
            baselines.answered(&slug(), 0, written, written.plus(Span::from_millis(took_ms)));
        }
        for epochs in baselines.answers.values_mut() {
            epochs.first = At(0);
        }
        baselines
    }

    #[test]
    fn what_exceeds_the_best_answer_of_late_counts_within_bounds() {
        let mut baselines = known(1, 100);
        // And 5 ms of what is not known of the best: 100 ms / sqrt(400), less a rounding.
        assert_eq!(slower(&mut baselines, 10, 180, 1), 84);
        assert_eq!(slower(&mut baselines, 20, 90, 1), 4);
        assert_eq!(slower(&mut baselines, 30, 100, 1), 14);
        assert_eq!(slower(&mut baselines, 40, 900, 1), 100, "there may have been more to do");
        assert_eq!(baselines.uneven(&slug(), 0), UNEVEN_MAX);
        assert_eq!(baselines.uneven(&slug(), 1), Span::ZERO);
    }

    #[test]
    fn the_fewer_answers_the_less_is_their_best_believed() {
        let mut baselines = Baselines::new(1, Owned::default());
        let late: Vec<u64> = (0..25).map(|_| slower(&mut baselines, 0, 300, 1)).collect();
        assert_eq!([late[0], late[3], late[24]], [100, 50, 20]);
        assert_eq!(
            slower(&mut Baselines::new(1, Owned::default()), 0, 40, 1),
            40,
            "never later than its answer"
        );
    }

    #[test]
    fn in_a_crowd_it_counts_whole() {
        let mut baselines = known(1, 100);
        assert_eq!(slower(&mut baselines, 1000, 900, 1), 100);
        assert_eq!(slower(&mut baselines, 3000, 900, CROWD), 804);
        assert_eq!(slower(&mut baselines, 3200, 900, 1), 100, "the crowd is gone");
    }

    #[test]
    fn a_crowd_that_comes_before_the_answer_counts() {
        let mut baselines = known(1, 100);
        for (at_ms, in_crowd) in [(949, true), (1100, false)] {
            let written = START.plus(Span::from_secs(at_ms));
            for _ in 0..CROWD {
                baselines.written(&slug(), written.plus(Span::from_millis(at_ms)));
            }
            let answered = written.plus(Span::from_millis(900));
            assert_eq!(baselines.answered(&slug(), 0, written, answered).in_crowd, in_crowd);
        }
        let written = START.plus(Span::from_secs(2000));
        for _ in 0..CROWD {
            baselines.written(&slug(), written.plus(Span::from_millis(2000)));
        }
        let answered = written.plus(Span::from_secs(10));
        assert!(!baselines.answered(&slug(), 0, written, answered).in_crowd, "long since read");
    }

    #[test]
    fn a_shard_of_many_sees_its_part_of_the_crowd() {
        let mut baselines = known(2, 100);
        assert_eq!(slower(&mut baselines, 1000, 900, CROWD / 2 - 1), 100);
        assert_eq!(slower(&mut baselines, 3000, 900, CROWD / 2), 804);
    }

    #[test]
    fn a_node_of_many_sees_its_part_of_the_crowd() {
        let mut baselines = known(1, 100);
        let owned = Owned::nothing();
        owned.gain(Parts(u64::MAX >> (PARTITIONS / 2)));
        baselines.owned = owned;
        assert_eq!(slower(&mut baselines, 1000, 900, CROWD / 2 - 1), 100);
        assert_eq!(slower(&mut baselines, 3000, 900, CROWD / 2), 804);
        baselines.owned = Owned::nothing();
        assert_eq!(slower(&mut baselines, 5000, 900, CROWD_OF_SHARD_MIN - 1), 100);
        assert_eq!(slower(&mut baselines, 7000, 900, CROWD_OF_SHARD_MIN), 804);
    }

    #[test]
    fn a_provider_that_became_slower_for_good_is_taken_as_it_is_after_two_epochs() {
        let mut baselines = known(1, 10);
        for round in 0..10_000 {
            let late = slower(&mut baselines, 31_000 + round, 510, 40);
            assert!((500..505).contains(&late), "the epoch before counts: {late}");
        }
        assert_eq!(slower(&mut baselines, 62_000, 510, 40), 0);
        assert_eq!(baselines.uneven(&slug(), 0), UNEVEN_MAX, "that of the epoch before");
        assert_eq!(
            slower(&mut baselines, 3_000_000, 900, 1),
            100,
            "after a silence it starts anew"
        );
    }

    /// What an answer at the start of a young api shows, by what is known now.
    fn late(baselines: &Baselines, at_ms: u64, took_ms: u64) -> u64 {
        let written = START.plus(Span::from_millis(at_ms));
        let answered = written.plus(Span::from_millis(took_ms));
        baselines.late(&slug(), 0, written, answered).0 / 1000
    }

    #[test]
    fn what_is_learnt_after_an_answer_counts_against_it() {
        let mut baselines = Baselines::new(1, Owned::default());
        slower(&mut baselines, 0, 75, CROWD);
        assert!(slower(&mut baselines, 5, 80, 0) < 80);
        for _ in 0..10_000 {
            slower(&mut baselines, 900, 2, 0);
        }
        assert_eq!(late(&baselines, 5, 80), 78);
        let answered = START.plus(Span::from_millis(75));
        assert!(baselines.is_young(&slug(), 0, START.plus(YOUNG)));
        assert!(!baselines.is_young(&slug(), 0, answered.plus(YOUNG)));
    }

    #[test]
    fn the_first_answers_are_believed_while_there_are_few() {
        let mut baselines = Baselines::new(1, Owned::default());
        for n in 0..10 {
            assert!(slower(&mut baselines, n, 200 - n, CROWD / 8) <= 100 + n);
        }
        assert_eq!(late(&baselines, 9, 191), 191, "all may have been late");
        for n in 10..u64::from(FEW) {
            slower(&mut baselines, 1000 + 10 * n, 190, 1);
        }
        assert_eq!(late(&baselines, 9, 191), 1 + 17, "100 ms / sqrt(32)");
    }

    #[test]
    fn the_first_answers_are_believed_where_other_nodes_call_too() {
        let mut baselines = Baselines::new(1, Owned::nothing());
        baselines.owned.gain(Parts(u64::MAX >> 1));
        for n in 0..1000 {
            slower(&mut baselines, n, 40, 1);
        }
        assert_eq!(late(&baselines, 10, 103), 103, "all may have been late");
    }

    #[test]
    fn a_first_answer_outside_a_crowd_is_believed_within_bounds() {
        let mut baselines = Baselines::new(1, Owned::default());
        slower(&mut baselines, 0, 320, 1);
        assert_eq!(late(&baselines, 0, 320), 100, "nobody else calls");
        let mut baselines = Baselines::new(1, Owned::nothing());
        baselines.owned.gain(Parts(u64::MAX >> 1));
        slower(&mut baselines, 0, 320, 1);
        assert_eq!(late(&baselines, 0, 320), 320, "others' crowd");
        assert_eq!(late(&baselines, 0, 20_000), 500);
        for n in 0..1000 {
            slower(&mut baselines, 900 + n, 1, 1);
        }
        assert_eq!(late(&baselines, 0, 320), 320, "once more is known, too");
    }

    #[test]
    fn an_api_that_is_seldom_called_keeps_its_best_for_longer() {
        let mut baselines = known(1, 10);
        assert_eq!(slower(&mut baselines, 5_000, 40, 1), 34);
        assert_eq!(slower(&mut baselines, 40_000, 40, 1), 34);
        assert_eq!(slower(&mut baselines, 400_000, 40, 1), 34);
    }
}
