//! The side of the node that has room: which slots it has offered, and which attempts of others it makes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{Order, Told, Word};
use super::{BEAT_EVERY, LOST_AFTER, OFFER_LIVES, SLOTS_MAX, Stamp};
use crate::nats::session::SessionId;
use crate::throttle::book::cut_off;

/// Offers that lapsed and are remembered: an attempt that arrives for one is known not to have begun.
const LAPSED_MAX: usize = 4096;
/// An attempt that the home does not name is given up if it began so long before: its order and what the home says
/// may be sent at once.
const SETTLES: Duration = Duration::from_secs(2);
/// Longer between two turns, and this node was stopped: what others have said meanwhile is still to be heard.
const STOPPED: Duration = Duration::from_secs(1);

/// What is to be done. `P`: a slot of this node.
#[derive(Debug)]
pub(crate) enum Do<P> {
    /// Tell a node.
    Send(SessionId, Word),
    /// Begin this attempt of that node, of that permit, in that slot that was offered then.
    Begin(SessionId, u64, Box<Order>, P, Stamp),
    /// Give that one up.
    Abort(SessionId, u64),
    /// Whether the object of that one may become visible.
    Leave(SessionId, u64, bool),
}

#[derive(Debug)]
struct Offered<P> {
    to: SessionId,
    stamp: Stamp,
    place: P,
}

#[derive(Debug)]
struct Making {
    begun: Instant,
    /// Of its home.
    heard: Stamp,
    /// Without a word of its home for so long it is given up, whatever is to blame. The home gives it up later than it
    /// was last heard here.
    cut_off: Duration,
    told: Told,
}

/// Of one node, what it does for others.
#[derive(Debug)]
pub(crate) struct Guest<P> {
    next: u64,
    offered: HashMap<u64, Offered<P>>,
    lapsed: VecDeque<(SessionId, u64)>,
    making: HashMap<(SessionId, u64), Making>,
    beat_at: Instant,
    since: Instant,
    last: Instant,
    /// When this node had last been stopped.
    woken: Option<Instant>,
}

/// How many slots are lent for an ask, where so many of all are free: never the last quarter, which stays for the node's
/// own accounts; and half of what is left, for others may ask too.
pub(crate) fn room(wants: usize, free: usize, all: usize) -> usize {
    let lent = free.saturating_sub(all.div_ceil(4));
    wants.min(lent.div_ceil(2)).min(SLOTS_MAX)
}

impl<P> Guest<P> {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next: 0,
            offered: HashMap::new(),
            lapsed: VecDeque::new(),
            making: HashMap::new(),
            beat_at: now,
            since: now,
            last: now,
            woken: None,
        }
    }

    /// Whether nothing is offered and nobody is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.offered.is_empty() && self.lapsed.is_empty() && self.making.is_empty()
    }

    /// Attempts of others that are made here.
    pub(crate) fn len(&self) -> usize {
        self.making.values().filter(|one| one.told.end.is_none()).count()
    }

    /// Whether nothing has to be looked after.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.making.is_empty() && self.offered.is_empty()
    }

    /// Offers these slots, stamped now.
    pub(crate) fn offer(
        &mut self,
        now: Stamp,
        to: SessionId,
        ask: u64,
        places: Vec<P>,
    ) -> Option<Do<P>> {
        let offer = |place| {
            self.next += 1;
            self.offered.insert(self.next, Offered { to, stamp: now, place });
            self.next
        };
        let offers: Vec<u64> = places.into_iter().map(offer).collect();
        (!offers.is_empty()).then(|| Do::Send(to, Word::Offer { ask, offers }))
    }

    pub(crate) fn turn(&mut self, now: Stamp, linked: bool) -> Vec<Do<P>> {
        let mut todo = Vec::new();
        let stopped = now.at.saturating_duration_since(self.last) > STOPPED;
        if stopped {
            self.woken = Some(now.at);
        }
        if !linked || stopped {
            self.since = now.at;
        }
        let wakes = |woken| now.at.saturating_duration_since(woken) < STOPPED;
        let wakes = self.woken.is_some_and(wakes);
        self.last = now.at;
        let old = |one: &Offered<P>| one.stamp.age(now) >= OFFER_LIVES;
        let old: Vec<u64> =
            self.offered.iter().filter(|(_, one)| old(one)).map(|(number, _)| *number).collect();
        for number in old {
            self.lapse(number);
        }
        let since = self.since;
        let silent = |one: &Making| {
            now.at.saturating_duration_since(one.heard.at.max(since)) >= LOST_AFTER
                || (!wakes && one.told.end.is_none() && one.heard.age(now) >= one.cut_off)
        };
        for ((home, permit), one) in self.making.extract_if(|_, one| silent(one)) {
            if one.told.end.is_none() {
                todo.push(Do::Abort(home, permit));
            }
        }
        if now.at >= self.beat_at {
            self.beat_at = now.at + BEAT_EVERY;
            let mut going: HashMap<SessionId, Vec<u64>> = HashMap::new();
            for ((home, permit), one) in &self.making {
                if one.told.says_something() {
                    // Again and again: any word may be lost, and the next change may be half an hour away.
                    let told = Box::new(one.told.clone());
                    todo.push(Do::Send(*home, Word::Told { permit: *permit, told }));
                } else {
                    going.entry(*home).or_default().push(*permit);
                }
            }
            let going = going.into_iter();
            todo.extend(going.map(|(home, permits)| Do::Send(home, Word::Going { permits })));
        }
        todo
    }

    /// What another node says to a guest.
    pub(crate) fn hear(&mut self, now: Stamp, from: SessionId, word: Word) -> Vec<Do<P>> {
        match word {
            Word::Back { offers } => {
                for number in offers {
                    if self.offered.get(&number).is_some_and(|one| one.to == from) {
                        self.lapse(number);
                    }
                }
                Vec::new()
            }
            Word::Order { offer, permit, order } => self.ordered(now, from, (offer, permit), order),
            Word::Heard { permit } => {
                let ended = self.making.get(&(from, permit));
                if ended.is_some_and(|one| one.told.end.is_some()) {
                    self.making.remove(&(from, permit));
                }
                Vec::new()
            }
            Word::Waits { permits } => self.waited_for(now, from, &permits),
            Word::Leave { permit, may } => {
                self.heard_of(now, from);
                vec![Do::Leave(from, permit, may)]
            }
            _ => Vec::new(),
        }
    }

    fn ordered(
        &mut self,
        now: Stamp,
        from: SessionId,
        (offer, permit): (u64, u64),
        order: Box<Order>,
    ) -> Vec<Do<P>> {
        let key = (from, permit);
        if self.offered.get(&offer).is_some_and(|one| one.to == from) {
            let Some(Offered { stamp, place, .. }) = self.offered.remove(&offer) else {
                return Vec::new();
            };
            if self.making.contains_key(&key) {
                // A permit is good for one attempt.
                return Vec::new();
            }
            if stamp.age(now) < OFFER_LIVES {
                let (told, cut_off) = (Told::default(), cut_off(order.lost_call));
                self.making.insert(key, Making { begun: now.at, heard: now, cut_off, told });
                return vec![Do::Begin(from, permit, order, place, stamp)];
            }
            self.lapsed(from, offer);
        }
        // An attempt that was begun has used its offer up: another copy of its order says nothing here.
        if !self.lapsed.contains(&(from, offer)) || self.making.contains_key(&key) {
            return Vec::new();
        }
        vec![not_begun(from, permit)]
    }

    /// An attempt is so far. Nothing is to be told of one that was given up.
    pub(crate) fn told(&mut self, home: SessionId, permit: u64, told: Told) -> Option<Do<P>> {
        let one = self.making.get_mut(&(home, permit))?;
        one.told = told.clone();
        Some(Do::Send(home, Word::Told { permit, told: Box::new(told) }))
    }

    fn waited_for(&mut self, now: Stamp, from: SessionId, permits: &[(u64, u64)]) -> Vec<Do<P>> {
        self.heard_of(now, from);
        let waits: HashSet<u64> = permits.iter().map(|(permit, _)| *permit).collect();
        let gone = |(home, permit): &(SessionId, u64), one: &Making| {
            let settled = now.at.saturating_duration_since(one.begun) >= SETTLES;
            *home == from && settled && !waits.contains(permit)
        };
        let gone = self.making.extract_if(|key, one| gone(key, one));
        let going = gone.filter(|(_, one)| one.told.end.is_none());
        let mut todo: Vec<_> = going.map(|((home, permit), _)| Do::Abort(home, permit)).collect();
        // Its order was lost, or is late: an offer that has lapsed is never begun. One that was used is not among them.
        let never = |(permit, offer): &&(u64, u64)| {
            !self.making.contains_key(&(from, *permit)) && self.lapsed.contains(&(from, *offer))
        };
        todo.extend(permits.iter().filter(never).map(|(permit, _)| not_begun(from, *permit)));
        todo
    }

    fn heard_of(&mut self, now: Stamp, home: SessionId) {
        for ((of, _), one) in &mut self.making {
            if *of == home {
                one.heard = now;
            }
        }
    }

    fn lapse(&mut self, number: u64) {
        if let Some(Offered { to, .. }) = self.offered.remove(&number) {
            self.lapsed(to, number);
        }
    }

    fn lapsed(&mut self, to: SessionId, number: u64) {
        self.lapsed.push_back((to, number));
        if self.lapsed.len() > LAPSED_MAX {
            self.lapsed.pop_front();
        }
    }
}

fn not_begun<P>(home: SessionId, permit: u64) -> Do<P> {
    let told = Told::not_begun("the slot that another node had offered had lapsed");
    Do::Send(home, Word::Told { permit, told: Box::new(told) })
}
