//! Another platform for the account while it works: other limits, other apis, or none any more.

use std::sync::Arc;

use tollgate_gate::At;

use super::Throttle;
use crate::ledger::record::Tries;
use crate::plan::Platform;
use crate::throttle::lane::Candidate;

impl Throttle {
    /// Goes by this platform from now on; nothing: it is not declared any more, and no call is made for it. Calls in
    /// flight go on as they began, and count by what is in force when they report.
    pub(super) fn go_by(&mut self, platform: Option<Arc<Platform>>) {
        let now = self.now();
        let Some(platform) = platform else {
            self.withdraw();
            for place in 0..self.lanes.len() {
                self.close(place, now);
            }
            return;
        };
        self.meters = self.shard.meters_of(&platform.name);
        self.spends(None, None, now);
        self.times = self.shard.times.of(&platform);
        (self.spent, self.spent_due) = ((None, now), None);
        self.stop_asking();
        self.in_line.clear();
        if self.go_by_limits(platform, now) && !self.gate.is_empty() {
            // What a limit of a new name took over is in no record yet; it is before the account rests.
            self.stale = true;
        }
        for place in 0..self.lanes.len() {
            match self.platform.api(self.lanes[place].key.api.as_str()) {
                Some((number, _)) => self.lanes[place].api = number,
                None => self.close(place, now),
            }
        }
    }

    /// Puts another platform in the place of the one that the gate goes by. True if its limits or the numbers of its
    /// apis are others: then no permit is given any more upon a record of the form before.
    pub(super) fn go_by_limits(&mut self, platform: Arc<Platform>, now: At) -> bool {
        if !self.doubted.is_empty() {
            self.gate = self.gate_without_doubt().into_owned();
            self.doubted.clear();
        }
        let old = std::mem::replace(&mut self.platform, platform);
        self.breakers_follow(&old);
        let (before, limits) = (&old.limits, Arc::clone(&self.platform.limits));
        if *before == limits {
            return false;
        }
        self.withdraw();
        self.usage.tell(&self.key.platform, before, &self.shard.totals);
        self.gate.under(before, &limits, now);
        self.listening.renumbered();
        self.limits_since = now;
        // Whoever had no limits may have an open block, which would let calls go without a record.
        self.stale |= !self.block.is_empty() || !self.next_block.is_empty();
        self.block.clear();
        self.next_block.clear();
        self.forget_due();
        true
    }

    /// Takes back the permits that were decided and not handed on: they are decided anew.
    fn withdraw(&mut self) {
        self.stop_asking();
        let mut batch = match &mut self.writing {
            // The record is on its way; whatever it says of them errs to the safe side.
            Some(writing) => std::mem::take(writing),
            None => Vec::new(),
        };
        batch.append(&mut self.decided);
        self.put_back(batch);
    }

    /// The lane's api is not declared any more.
    fn close(&mut self, place: usize, now: At) {
        let given_up = self.lanes[place].close();
        self.remember_given_up(given_up, now);
    }

    /// What is read again keeps its tries.
    pub(super) fn remember_given_up(&mut self, given_up: Vec<Candidate>, now: At) {
        for Candidate { item, tries, not_before, .. } in given_up {
            if tries != Tries::default() || not_before > now {
                self.remembered.insert(item.seq, (tries, not_before, false));
            }
        }
    }
}
