//! Accounts without limits: one record for a block of permits, and what follows from it after a crash.
//!
//! Where no limit is kept, a record serves only to know after a crash what was in flight. So it opens a
//! block: a stretch of each lane that has work. A fetch that was never tried and lies in the stretch of every
//! record that may be the stored one goes without a record of its own. After a crash what still waits of an
//! open block may have been in flight: it is looked up in the store, and tried with a record of its own while
//! no other such fetch of its account is. A fetch dies of crashes only by those at which a record named it.

use super::Throttle;
use crate::ids::{LaneKey, Seq};
use crate::ledger::Writer;
use crate::ledger::record::{Stretch, Tries};
use crate::throttle::lane::Candidate;

/// Fetches of a lane that go on one record.
const BLOCK_MAX: usize = 64;
/// Stretches that are kept of crashed processes; those known longest are forgotten beyond it, and their
/// fetches are tried like any other.
const SUSPECTED_MAX: usize = 64;

impl Throttle {
    /// Whether no limit is kept, so that a record only says what is in flight.
    pub(super) fn unlimited(&self) -> bool {
        self.platform.limits.limits().is_empty()
    }

    /// What the next record opens: of each lane at work the next fetches that were read, or numbers behind
    /// them where they are fewer.
    pub(super) fn block_to_open(&self) -> Vec<Stretch> {
        if !self.unlimited() {
            return Vec::new();
        }
        let at_work = |place: usize| {
            if !self.may_repeat(self.lanes[place].api) {
                // What may have been called has to be known for each.
                return false;
            }
            let mut batch = self.writing.iter().flatten();
            batch.any(|decided| decided.lane == place) || !self.lanes[place].heads.is_empty()
        };
        let places = (0..self.lanes.len()).filter(|place| at_work(*place));
        places
            .filter_map(|place| {
                let lane = &self.lanes[place];
                let (from, last, count) = match lane.heads.front() {
                    Some(first) => {
                        let from = first.item.seq;
                        let rising = |last: &mut Seq, head: &Candidate| {
                            let rises = head.item.seq >= *last;
                            *last = (*last).max(head.item.seq);
                            rises.then_some(*last)
                        };
                        let heads = lane.heads.iter().take(BLOCK_MAX).scan(from, rising);
                        heads
                            .fold((from, from, 0), |(from, _, count), last| (from, last, count + 1))
                    }
                    // All that was read goes with this record.
                    None => (Seq(lane.cursor?.0.saturating_add(1)), lane.cursor?, 0),
                };
                let more = u64::try_from(BLOCK_MAX - count).unwrap_or(0);
                Some(Stretch {
                    api: lane.key.api.as_str().to_owned(),
                    priority: lane.key.priority,
                    from,
                    to: Seq(last.0.saturating_add(more)),
                })
            })
            .collect()
    }

    /// Whether a fetch lies in the open block of whichever record is the stored one.
    pub(super) fn covered(&self, place: usize, candidate: &Candidate) -> bool {
        let lane = &self.lanes[place].key;
        let seq = candidate.item.seq;
        candidate.tries == Tries::default()
            && !candidate.suspect
            && lies_in(&self.block, lane, seq)
            && (self.writing.is_none() || lies_in(&self.next_block, lane, seq))
    }

    /// Notes the blocks of a record that was read. This process knows itself what it called on its own.
    pub(super) fn suspect(&mut self, open: Vec<Stretch>, suspected: Vec<Stretch>, writer: Writer) {
        let crashed = matches!(writer, Writer::Dead | Writer::Silent);
        let open = open.into_iter().map(|stretch| (stretch, crashed));
        let open = open.filter(|_| writer != Writer::Here);
        for noted in suspected.into_iter().map(|stretch| (stretch, true)).chain(open) {
            if !self.suspected.contains(&noted) {
                self.suspected.push(noted);
            }
        }
        let beyond = self.suspected.len().saturating_sub(SUSPECTED_MAX);
        self.suspected.drain(..beyond);
    }

    /// Whether a fetch with these tries may have been in flight in another process's block. One that was tried
    /// has a record of its own.
    pub(super) fn was_in_block(&self, lane: &LaneKey, seq: Seq, tries: Tries) -> bool {
        let held = self.suspected.iter().any(|(stretch, _)| stretch.holds(lane, seq));
        held && tries == Tries::default()
    }

    /// Whether a fetch with these tries may be what a process died of, and so is tried with no other such
    /// fetch of its account beside it.
    pub(super) fn is_suspect(&self, lane: &LaneKey, seq: Seq, tries: Tries) -> bool {
        let crashed = || {
            let mut crashed = self.suspected.iter().filter(|(_, crashed)| *crashed);
            crashed.any(|(stretch, _)| stretch.holds(lane, seq))
        };
        (tries == Tries::default() && crashed()) || (tries.crashes > 0 && self.unlimited())
    }

    /// Counts suspects that are decided or in flight.
    pub(super) fn suspects_out(&mut self, more: usize, fewer: usize) {
        if more == fewer {
            return;
        }
        self.suspects_out = (self.suspects_out + more).saturating_sub(fewer);
        for lane in &mut self.lanes {
            lane.suspects_wait = self.suspects_out > 0;
        }
    }

    /// What a record keeps of crashed processes' blocks.
    pub(super) fn suspected_of_the_dead(&self) -> Vec<Stretch> {
        let crashed = self.suspected.iter().filter(|(_, crashed)| *crashed);
        crashed.map(|(stretch, _)| stretch.clone()).collect()
    }

    /// Forgets stretches that were read to their ends and have no suspect left.
    pub(super) fn forget_suspected(&mut self) {
        if self.suspected.is_empty() {
            return;
        }
        let waiting = self.lanes.iter().flat_map(|lane| lane.heads.iter().chain(&lane.parked));
        let asking = self.asking.iter().map(|asking| &asking.decided);
        let decided = asking.chain(&self.decided).chain(self.writing.iter().flatten());
        let waiting = waiting.chain(decided.map(|decided| &decided.candidate));
        let waiting = waiting.map(|candidate| (&candidate.item, candidate.suspect));
        let flying = self.flights.values().map(|flight| (&flight.item, flight.suspect));
        let suspects = waiting.chain(flying).filter(|(_, suspect)| *suspect);
        let suspects: Vec<_> = suspects.map(|(item, _)| item).collect();
        let (lanes, shard) = (&self.lanes, &self.shard);
        self.suspected.retain(|(stretch, _)| {
            let lane = lanes.iter().find(|lane| stretch.is_of(&lane.key));
            let read = lane.and_then(|lane| lane.cursor).is_some_and(|last| last >= stretch.to);
            // While it is looked up a fetch is in none of these lists.
            !read
                || shard.any_leaving(&(stretch.from..=stretch.to))
                || suspects.iter().any(|item| stretch.holds(&item.lane, item.seq))
        });
    }
}

fn lies_in(stretches: &[Stretch], lane: &LaneKey, seq: Seq) -> bool {
    stretches.iter().any(|stretch| stretch.holds(lane, seq))
}
