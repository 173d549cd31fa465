//! The side of the owner: when it asks for slots, and which of its attempts are elsewhere.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{Told, Word};
use super::{BEAT_EVERY, LOST_AFTER, OFFER_LIVES, SLOTS_MAX};
use crate::nats::session::SessionId;
use crate::plan::How;

/// Accounts have waited for a slot for so long before others are asked: most calls end sooner.
const PATIENCE: Duration = Duration::from_millis(50);
/// Between two asks: at first, and at most while nobody offers.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(2);
/// An offer that answers an older ask would lapse before its attempt arrives.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);
/// Asks that are remembered: all that an offer may answer in time.
const ASKS_MAX: usize = 16;
/// Longer between two turns, and this node was stopped: what others have said meanwhile is still to be heard.
const STOPPED: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Do {
    /// Tell all nodes.
    Publish(Word),
    /// Tell one.
    Send(SessionId, Word),
    /// A slot at that node, by its number, for one of those who wait.
    Offered(SessionId, u64),
    /// An attempt is so far.
    Told(u64, Box<Told>),
    /// An attempt, sent then, is not heard of any more.
    Lost(u64, Instant),
    /// Whether the object of an attempt may become visible has to be asked.
    May(SessionId, u64),
}

/// An attempt at another node.
#[derive(Debug)]
struct Abroad {
    guest: SessionId,
    offer: u64,
    sent: Instant,
    heard: Instant,
}

/// Of one node, what it has elsewhere.
#[derive(Debug)]
pub(crate) struct Home {
    abroad: HashMap<u64, Abroad>,
    /// When which ask was made.
    asks: VecDeque<(u64, Instant)>,
    number: u64,
    wanting: Option<Instant>,
    ask_at: Instant,
    ask_again: Duration,
    beat_at: Instant,
    /// Silence counts from here on at the earliest.
    since: Instant,
    last: Instant,
}

impl Home {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            abroad: HashMap::new(),
            asks: VecDeque::new(),
            number: 0,
            wanting: None,
            ask_at: now,
            ask_again: ASK_AGAIN,
            beat_at: now,
            since: now,
            last: now,
        }
    }

    /// Whether no attempt is elsewhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.abroad.is_empty()
    }

    /// Attempts that are elsewhere.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.abroad.len()
    }

    /// `wants`: so many slots could be used now. `linked`: others can be heard. `jitter`: from 0 to 255, by chance.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        wants: usize,
        how: &How,
        (linked, jitter): (bool, u8),
    ) -> Vec<Do> {
        let mut todo = Vec::new();
        if !linked || now.saturating_duration_since(self.last) > STOPPED {
            self.since = now;
        }
        self.last = now;
        if wants == 0 {
            self.wanting = None;
        } else if linked {
            let wanting = *self.wanting.get_or_insert(now);
            if now >= self.ask_at && now.saturating_duration_since(wanting) >= PATIENCE {
                self.number += 1;
                self.asks.push_back((self.number, now));
                if self.asks.len() > ASKS_MAX {
                    self.asks.pop_front();
                }
                self.ask_at = now + self.ask_again + self.ask_again * u32::from(jitter) / 512;
                // Until somebody offers.
                self.ask_again = (self.ask_again * 2).min(ASK_AGAIN_MAX);
                let (number, wants) = (self.number, wants.min(SLOTS_MAX));
                todo.push(Do::Publish(Word::Ask { number, wants, how: how.clone() }));
            }
        }
        let since = self.since;
        let silent =
            |one: &Abroad| now.saturating_duration_since(one.heard.max(since)) >= LOST_AFTER;
        for (permit, one) in self.abroad.extract_if(|_, one| silent(one)) {
            todo.push(Do::Lost(permit, one.sent));
        }
        if now >= self.beat_at {
            self.beat_at = now + BEAT_EVERY;
            let mut waits: HashMap<SessionId, Vec<(u64, u64)>> = HashMap::new();
            for (permit, one) in &self.abroad {
                waits.entry(one.guest).or_default().push((*permit, one.offer));
            }
            let waits = waits.into_iter();
            todo.extend(waits.map(|(guest, permits)| Do::Send(guest, Word::Waits { permits })));
        }
        todo
    }

    /// An attempt goes there, for that offer.
    pub(crate) fn send(&mut self, now: Instant, guest: SessionId, offer: u64, permit: u64) {
        self.abroad.insert(permit, Abroad { guest, offer, sent: now, heard: now });
    }

    /// That attempt is not waited for any more: its guest hears it at once.
    pub(crate) fn forget(&mut self, permit: u64) -> Option<Do> {
        let guest = self.abroad.remove(&permit)?.guest;
        let others = self.abroad.iter().filter(|(_, one)| one.guest == guest);
        let permits = others.map(|(permit, one)| (*permit, one.offer)).collect();
        Some(Do::Send(guest, Word::Waits { permits }))
    }

    /// This node ends: nothing that it has elsewhere is waited for any more.
    pub(crate) fn leave(&mut self) -> Vec<Do> {
        let mut guests: Vec<SessionId> = self.abroad.drain().map(|(_, one)| one.guest).collect();
        guests.sort_unstable();
        guests.dedup();
        let none = || Word::Waits { permits: Vec::new() };
        guests.into_iter().map(|guest| Do::Send(guest, none())).collect()
    }

    /// What another node says to a home.
    pub(crate) fn hear(&mut self, now: Instant, from: SessionId, word: Word) -> Vec<Do> {
        match word {
            Word::Offer { ask, offers } => {
                let in_time = self.asks.iter().any(|(number, at)| {
                    let age = now.saturating_duration_since(*at);
                    *number == ask && age <= ANSWER_WITHIN.min(OFFER_LIVES)
                });
                if !in_time {
                    return vec![Do::Send(from, Word::Back { offers })];
                }
                self.ask_again = ASK_AGAIN;
                self.ask_at = self.ask_at.min(now + ASK_AGAIN);
                let offers = offers.into_iter().take(SLOTS_MAX);
                offers.map(|offer| Do::Offered(from, offer)).collect()
            }
            Word::Told { permit, told } => {
                let mut todo = Vec::new();
                if told.end.is_some() {
                    // Also of one that is not known any more: it would be told again and again.
                    todo.push(Do::Send(from, Word::Heard { permit }));
                }
                if !self.touch(now, from, permit) {
                    return todo;
                }
                if told.end.is_some() {
                    self.abroad.remove(&permit);
                    // A slot is free there.
                    self.ask_again = ASK_AGAIN;
                    self.ask_at = self.ask_at.min(now);
                }
                todo.push(Do::Told(permit, told));
                todo
            }
            Word::Going { permits } => {
                for permit in permits {
                    self.touch(now, from, permit);
                }
                Vec::new()
            }
            Word::May { permit } if self.touch(now, from, permit) => vec![Do::May(from, permit)],
            Word::May { permit } => vec![Do::Send(from, Word::Leave { permit, may: false })],
            _ => Vec::new(),
        }
    }

    /// An attempt is heard of by the node that makes it.
    fn touch(&mut self, now: Instant, from: SessionId, permit: u64) -> bool {
        let known = self.abroad.get_mut(&permit).filter(|one| one.guest == from);
        if let Some(one) = known {
            one.heard = now;
            return true;
        }
        false
    }
}
