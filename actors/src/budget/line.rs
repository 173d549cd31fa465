//! Who is next: fair turns by weight over the accounts that wait for a budget.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996, <https://doi.org/10.1145/248156.248171>): deficit
//! round robin for accounts that wait for one call at a time. A turn costs an account 1 / weight of virtual
//! time; who has the earliest start is next, among equals who came first. An account that comes back at
//! once goes on where its last turn ended; one that was away gains nothing by it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Call, Whose};
use crate::ids::Account;

/// Virtual time of a turn at weight 1.
const TURN: u64 = 1 << 20;
/// Ends of turns of accounts that do not wait, before those in the past are forgotten.
const ENDS_SPARE: usize = 1024;

/// Who waits.
#[derive(Debug, Clone)]
pub(super) struct Waiter {
    pub(super) whose: Whose,
    pub(super) call: Call,
    pub(super) weight: u32,
    /// Turns that it would take one after the other.
    wants: u32,
    start: u64,
    came: u64,
}

/// A turn that was taken, to be undone if nothing came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    start: u64,
    end: u64,
}

/// Where its turn starts, when it came, whose it is: in the order of turns.
type Place = (u64, u64, Account);

/// The accounts in line, one place each.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: BTreeMap<Account, Waiter>,
    /// Per class of api, in the order of their turns. There are as many as apis that limits tell apart.
    order: Vec<(u16, BTreeSet<Place>)>,
    ends: BTreeMap<Account, u64>,
    now: u64,
    came: u64,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Puts an account in line; one that is there keeps its place. `class`: calls of a class wait for the same.
    /// It takes up to `weight` turns in one round, and no more than it `wants`.
    pub(super) fn join(
        &mut self,
        whose: Whose,
        (call, class): (Call, u16),
        (weight, wants): (u32, u32),
    ) {
        let account = whose.account.clone();
        let place = self.leave(&account).map(|waiter| (waiter.start, waiter.came));
        let (start, came) = place.unwrap_or_else(|| {
            self.came += 1;
            let end = self.ends.get(&account).copied().unwrap_or(0);
            (end.max(self.now), self.came)
        });
        let key = (start, came, account.clone());
        match self.order.iter_mut().find(|(known, _)| *known == class) {
            Some((_, order)) => _ = order.insert(key),
            None => self.order.push((class, BTreeSet::from([key]))),
        }
        let weight = weight.max(1);
        let waiter = Waiter { whose, call, weight, wants: wants.min(weight), start, came };
        self.waiting.insert(account, waiter);
    }

    /// Who it is that waits under that name.
    pub(super) fn whose(&self, account: &Account) -> Option<&Whose> {
        self.waiting.get(account).map(|waiter| &waiter.whose)
    }

    /// Takes an account out of line.
    pub(super) fn leave(&mut self, account: &Account) -> Option<Waiter> {
        let waiter = self.waiting.remove(account)?;
        let key = (waiter.start, waiter.came, account.clone());
        self.order.iter_mut().for_each(|(_, order)| _ = order.remove(&key));
        self.order.retain(|(_, order)| !order.is_empty());
        Some(waiter)
    }

    /// Who is next among the classes that are not closed, and its class.
    pub(super) fn next(&self, closed: &[u16]) -> Option<(&Waiter, u16)> {
        let open = self.order.iter().filter(|(class, _)| !closed.contains(class));
        let firsts = open.filter_map(|(class, order)| Some((order.first()?, *class)));
        let ((_, _, account), class) = firsts.min()?;
        Some((self.waiting.get(account)?, class))
    }

    /// An account has its turn, and is out of line but for further turns of this round.
    pub(super) fn turn(&mut self, account: &Account, class: u16) -> Option<(Waiter, Turn)> {
        let waiter = self.leave(account)?;
        let end = waiter.start + TURN / u64::from(waiter.weight);
        self.now = self.now.max(waiter.start);
        self.ends.insert(account.clone(), end);
        if self.ends.len() > 2 * self.waiting.len() + ENDS_SPARE {
            let now = self.now;
            self.ends.retain(|_, end| *end > now);
        }
        let turn = Turn { start: waiter.start, end };
        if waiter.wants > 1 {
            let left = (waiter.weight, waiter.wants - 1);
            self.join(waiter.whose.clone(), (waiter.call.clone(), class), left);
        }
        Some((waiter, turn))
    }

    /// Nothing came of a turn: it is not counted.
    pub(super) fn undo(&mut self, account: &Account, turn: Turn) {
        if let Some(end) = self.ends.get_mut(account)
            && *end == turn.end
        {
            *end = turn.start;
        }
    }

    /// Everybody in line with the number of turns before theirs.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        let mut all: Vec<&Waiter> = self.waiting.values().collect();
        all.sort_unstable_by_key(|waiter| (waiter.start, waiter.came));
        (0..).zip(all)
    }

    /// Everybody in line, who is then in line no more.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiter> {
        self.order.clear();
        std::mem::take(&mut self.waiting).into_values()
    }
}
