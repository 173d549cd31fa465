//! The accounts a shard knows: who has an actor, who rests, and until when.
//!
//! An account without work that its limits still remember, or whose next call is far off, is a compact
//! record and a deadline of 16 bytes; an account with neither is not here at all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use actix::Addr;
use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;
use tollgate_gate::At;

use super::Found;
use crate::cluster::{PARTITIONS, Parts, part_of};
use crate::ids::{AccountKey, Priority};
use crate::plan::Platform;
use crate::supervise::Restarts;
use crate::throttle::{Throttle, Unread, Usage};
use crate::times::Cause;

/// Deadlines of nobody that are kept before they are looked for.
const DEADLINES_SPARE: usize = 1024;

/// An account's place in its shard's table.
pub(crate) type Ix = u32;

/// What an account looks like from outside.
#[derive(Debug, Clone)]
pub(crate) struct Glance {
    /// Fetches that wait, parked ones included.
    pub(crate) waiting: u64,
    /// Attempts in flight.
    pub(crate) in_flight: u32,
    /// When the next call may go; nothing if that depends on a call in flight or on a free collector.
    pub(crate) until: Option<At>,
    /// What it waits for.
    pub(crate) because: Option<Box<str>>,
    /// The same for sums, with the number of its api, and since when.
    pub(crate) spent: (Option<(u16, Cause)>, At),
}

impl Default for Glance {
    fn default() -> Self {
        Self { waiting: 0, in_flight: 0, until: None, because: None, spent: (None, At::MIN) }
    }
}

/// An account without an actor.
#[derive(Debug)]
pub(crate) struct Rest {
    /// The version of its ledger's record.
    pub(crate) version: u64,
    /// The platform by whose limits `record` and `usage` were written; not always the one in force by now.
    pub(crate) platform: Arc<Platform>,
    /// Its record as of `since`; empty if it remembers nothing.
    pub(crate) record: Box<[u8]>,
    /// When it was written.
    pub(crate) since: At,
    /// Its lanes, and how many fetches wait in each.
    pub(crate) lanes: Box<[RestLane]>,
    /// When it is due again: to call, or to be forgotten.
    pub(crate) due: At,
    /// What it waits for.
    pub(crate) because: Option<Box<str>>,
    /// The same for sums, with the number of its api.
    pub(crate) cause: Option<(u16, Cause)>,
    /// Its stretch of calls so far, while more wait.
    pub(crate) usage: Option<Box<Usage>>,
}

/// A lane of a resting account; `api` is its number in the platform in force.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RestLane {
    pub(crate) api: u16,
    pub(crate) priority: Priority,
    /// Its fetches.
    pub(crate) unread: Unread,
    /// Whether some of them wait for their turn, and not for another try.
    pub(crate) stands: bool,
    /// As of a lane: it was told that its fetches come after their deadlines.
    pub(crate) is_late: bool,
}

impl Rest {
    /// Notes work in a lane, all of it or more. True if the account has to look at it: nothing stood there
    /// for which it waits already, apart from fetches between two tries.
    pub(crate) fn note(&mut self, api: u16, priority: Priority, count: u64, all: bool) -> bool {
        let same = |lane: &&mut RestLane| lane.api == api && lane.priority == priority;
        if let Some(lane) = self.lanes.iter_mut().find(same) {
            let before = lane.unread.at_most();
            if all {
                lane.unread.counted(count);
            } else {
                lane.unread.came(count);
            }
            return lane.unread.at_most() > before && !std::mem::replace(&mut lane.stands, true);
        }
        let mut lanes = std::mem::take(&mut self.lanes).into_vec();
        let unread = Unread::of(count);
        lanes.push(RestLane { api, priority, unread, stands: true, is_late: false });
        self.lanes = lanes.into();
        true
    }

    fn waiting(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.unread.known()).sum()
    }
}

/// How an account is kept.
#[derive(Debug)]
pub(crate) enum State {
    /// New: work has been found, an actor will be started when there is room.
    Ready(Vec<Found>),
    /// It has an actor.
    Live {
        addr: Addr<Throttle>,
        incarnation: u64,
        /// Messages sent to the actor that it must have handled before it may rest.
        sent: u64,
        glance: Glance,
    },
    /// Its actor died and will be started again.
    Restarting(Glance),
    /// It has none and needs none now.
    Resting(Box<Rest>),
}

/// One account.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: AccountKey,
    pub(crate) state: State,
    pub(crate) restarts: Option<Box<Restarts>>,
}

impl Entry {
    /// Fetches that wait, and attempts in flight.
    pub(crate) fn counts(&self) -> (u64, u32) {
        match &self.state {
            State::Ready(found) => (found.iter().map(|found| found.count).sum(), 0),
            State::Live { glance, .. } | State::Restarting(glance) => {
                (glance.waiting, glance.in_flight)
            }
            State::Resting(rest) => (rest.waiting(), 0),
        }
    }

    /// What it waits for as sums know it, with the number of the api, and since when.
    pub(crate) fn spent(&self) -> (Option<(u16, Cause)>, At) {
        match &self.state {
            State::Ready(_) => (None, At::MAX),
            State::Live { glance, .. } | State::Restarting(glance) => glance.spent,
            State::Resting(rest) => (rest.cause, rest.since),
        }
    }

    /// When what it waits for is to be over, where that is known.
    pub(crate) fn due(&self) -> Option<At> {
        match &self.state {
            State::Ready(_) => None,
            State::Live { glance, .. } | State::Restarting(glance) => glance.until,
            State::Resting(rest) => Some(rest.due),
        }
    }

    /// What this account looks like from outside.
    pub(crate) fn glance(&self) -> Glance {
        match &self.state {
            State::Ready(found) => Glance {
                waiting: found.iter().map(|found| found.count).sum(),
                because: Some("its turn".into()),
                ..Glance::default()
            },
            State::Live { glance, .. } => glance.clone(),
            State::Restarting(glance) => {
                Glance { because: Some("its actor restarts".into()), ..glance.clone() }
            }
            State::Resting(rest) => Glance {
                waiting: rest.waiting(),
                in_flight: 0,
                // At no time of its own: an operator holds it.
                until: (rest.waiting() > 0 && rest.due < At::MAX).then_some(rest.due),
                because: rest.because.clone(),
                spent: (rest.cause, rest.since),
            },
        }
    }
}

impl AtWork {
    /// An account that was at work is not any more.
    fn leave(&mut self, entry: &Entry) {
        if matches!(entry.state, State::Live { .. } | State::Restarting(_)) {
            self.0[part_of(&entry.key) as usize] -= 1;
        }
    }
}

/// All accounts of a shard.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    hasher: DefaultHashBuilder,
    index: HashTable<Ix>,
    entries: Slab<Entry>,
    deadlines: BinaryHeap<Reverse<(At, Ix)>>,
    /// Accounts in `State::Ready`, first come first served.
    pub(crate) ready: VecDeque<Ix>,
    /// Accounts in `State::Live`.
    pub(crate) live: usize,
    /// Accounts with an actor, or whose actor will be started again, by partition.
    at_work: AtWork,
}

#[derive(Debug)]
struct AtWork([u32; PARTITIONS as usize]);

impl Default for AtWork {
    fn default() -> Self {
        Self([0; PARTITIONS as usize])
    }
}

impl Accounts {
    /// The place of an account; it gets one if it has none.
    pub(crate) fn place(&mut self, key: &AccountKey) -> Ix {
        let hash = self.hasher.hash_one(key);
        let entries = &self.entries;
        if let Some(ix) = self.index.find(hash, |ix| entries[*ix as usize].key == *key) {
            return *ix;
        }
        let entry = Entry { key: key.clone(), state: State::Ready(Vec::new()), restarts: None };
        let ix = Ix::try_from(self.entries.insert(entry)).expect("fewer than 2^32 accounts");
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.index.insert_unique(hash, ix, |ix| hasher.hash_one(&entries[*ix as usize].key));
        self.ready.push_back(ix);
        ix
    }

    /// The place of an account, if it has one.
    pub(crate) fn find(&self, key: &AccountKey) -> Option<Ix> {
        let hash = self.hasher.hash_one(key);
        self.index.find(hash, |ix| self.entries[*ix as usize].key == *key).copied()
    }

    pub(crate) fn get(&self, ix: Ix) -> Option<&Entry> {
        self.entries.get(ix as usize)
    }

    pub(crate) fn get_mut(&mut self, ix: Ix) -> Option<&mut Entry> {
        self.entries.get_mut(ix as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ix, &Entry)> {
        self.entries.iter().map(|(ix, entry)| (Ix::try_from(ix).expect("placed before"), entry))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Ix, &mut Entry)> {
        let placed = |ix| Ix::try_from(ix).expect("placed before");
        self.entries.iter_mut().map(move |(ix, entry)| (placed(ix), entry))
    }

    /// Places below which every account is.
    pub(crate) fn end(&self) -> Ix {
        Ix::try_from(self.entries.capacity()).unwrap_or(Ix::MAX)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts a live account to rest, until its deadline.
    pub(crate) fn rest(&mut self, ix: Ix, rest: Rest) {
        let due = rest.due;
        if let Some(entry) = self.entries.get_mut(ix as usize) {
            if matches!(entry.state, State::Live { .. }) {
                self.live -= 1;
            }
            self.at_work.leave(entry);
            entry.state = State::Resting(Box::new(rest));
            self.push(due, ix);
        }
    }

    /// Gives an account its actor; `glance` is what it looks like until that tells.
    pub(crate) fn live(&mut self, ix: Ix, addr: Addr<Throttle>, incarnation: u64, glance: Glance) {
        let Some(entry) = self.entries.get_mut(ix as usize) else { return };
        self.at_work.leave(entry);
        entry.state = State::Live { addr, incarnation, sent: 0, glance };
        self.at_work.0[part_of(&entry.key) as usize] += 1;
        self.live += 1;
    }

    /// The partitions of accounts that have an actor, or will have one again.
    pub(crate) fn at_work(&self) -> Parts {
        let counts = (0..PARTITIONS).zip(&self.at_work.0);
        counts.filter(|(_, count)| **count > 0).map(|(part, _)| part).collect()
    }

    /// Makes a resting account due at `at` if it is not before.
    pub(crate) fn due_by(&mut self, ix: Ix, at: At) {
        if let Some(Entry { state: State::Resting(rest), .. }) = self.get_mut(ix)
            && rest.due > at
        {
            rest.due = at;
            self.push(at, ix);
        }
    }

    fn push(&mut self, due: At, ix: Ix) {
        self.deadlines.push(Reverse((due, ix)));
        // A deadline that was moved leaves its old one behind; not more of those than accounts.
        if self.deadlines.len() > 2 * self.entries.len() + DEADLINES_SPARE {
            let entries = &self.entries;
            self.deadlines.retain(|Reverse((at, ix))| {
                let entry = entries.get(*ix as usize).map(|entry| &entry.state);
                matches!(entry, Some(State::Resting(rest)) if rest.due == *at)
            });
        }
    }

    /// Forgets an account: nothing of it is worth keeping.
    pub(crate) fn forget(&mut self, ix: Ix) {
        let Some(entry) = self.entries.try_remove(ix as usize) else { return };
        if matches!(entry.state, State::Live { .. }) {
            self.live -= 1;
        }
        self.at_work.leave(&entry);
        let hash = self.hasher.hash_one(&entry.key);
        if let Ok(found) = self.index.find_entry(hash, |at| *at == ix) {
            found.remove();
        }
    }

    /// The next resting account whose deadline has come, taken off the list.
    pub(crate) fn due(&mut self, now: At) -> Option<Ix> {
        while let Some(Reverse((at, ix))) = self.deadlines.peek().copied() {
            if at > now {
                return None;
            }
            self.deadlines.pop();
            // A place may have been woken, or given to somebody else, since.
            if let Some(Entry { state: State::Resting(rest), .. }) = self.get(ix)
                && rest.due == at
            {
                return Some(ix);
            }
        }
        None
    }

    /// When the next deadline comes.
    pub(crate) fn next_due(&self) -> Option<At> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests;
