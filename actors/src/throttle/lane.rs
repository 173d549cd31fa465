//! One lane as its throttle actor sees it: counts and hints, the next fetches read ahead, and those
//! parked between two tries. The fetches themselves stay in the queue.

mod unread;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tollgate_gate::At;

use crate::collector::Item;
use crate::fresh::RequestKey;
use crate::ids::{LaneKey, Seq};
use crate::ledger::record::Tries;
use crate::pages::Read;

pub(crate) use unread::Unread;

/// Most fetches of a lane parked between two tries; with that many, the lane waits.
pub(crate) const PARKED_MAX: usize = 16;
/// The number of an api that is not declared any more; none that is has it, as the gate says.
pub(crate) const API_GONE: u16 = u16::MAX;
/// From so many fetches on that wait for another of the same request, no more of the lane are read until those are
/// done: fetches of other requests wait then too. What was being read comes on top, at most [`AHEAD_MAX`].
const FOLLOWERS_MAX: usize = 256;
/// Most fetches of a lane read ahead.
const AHEAD_MAX: usize = 64;

/// A fetch that could be tried.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) item: Rc<Item>,
    pub(crate) tries: Tries,
    /// Not tried before this moment.
    pub(crate) not_before: At,
    /// It may be what a process died of: one such fetch of its account at a time.
    pub(crate) suspect: bool,
    /// How far its read has come, where it has begun: then it goes before others of its lane.
    pub(crate) read: Option<Arc<Read>>,
}

impl Candidate {
    /// Reads that have begun go first, then those that came first.
    fn order(&self) -> (bool, Seq) {
        let begun = self.read.as_ref().is_some_and(|read| read.page() > 1);
        (!begun, self.item.seq)
    }

    /// Whether a page before has been stored.
    pub(crate) fn is_later_page(&self) -> bool {
        self.read.as_ref().is_some_and(|read| read.page() > 1)
    }
}

/// A lane of one account.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) key: LaneKey,
    /// The number of its api; [`API_GONE`] while that is not declared.
    pub(crate) api: u16,
    /// Read ahead, in order.
    pub(crate) heads: VecDeque<Candidate>,
    /// Between two tries.
    pub(crate) parked: Vec<Candidate>,
    /// Fetches in the queue that are not read yet.
    pub(crate) unread: Unread,
    /// The last one read.
    pub(crate) cursor: Option<Seq>,
    /// The last one of which it was told that it comes after its deadline.
    pub(crate) told_late: Option<Seq>,
    /// It was told that fetches come after their deadlines, and not yet that the next one does not.
    pub(crate) is_late: bool,
    /// A read is under way.
    pub(crate) loading: bool,
    /// What the read under way brings is of no use: it began before the api was gone, or another process was known to
    /// have worked here.
    discard: bool,
    /// Fetches that ended since that read began: it may have seen them.
    ended: Vec<Seq>,
    /// The reads since the cursor was last nothing have found nothing new: at the end of them it is
    /// certain that nothing is left.
    pub(crate) from_start: bool,
    /// Work was noted since the last read began.
    pub(crate) noted: bool,
    /// How many to read next time: doubled while reading is what the lane waits for.
    pub(crate) ahead: usize,
    /// When a limit said last that its next permit is allowed.
    pub(crate) due: Option<At>,
    /// Fetches whose notes are looked up: those that came later do not begin before them.
    pub(crate) looking: Vec<Seq>,
    /// A suspect of this account is in flight: others of its kind wait.
    pub(crate) suspects_wait: bool,
    /// Fetches whose request another fetch of the lane makes: they wait for what comes of that. No more than fetches in
    /// hand.
    alike: Vec<Alike>,
    /// The next call shows whether access is given again: a fetch that was not tried for that goes first.
    pub(crate) on_trial: bool,
}

/// Fetches of one request.
#[derive(Debug)]
struct Alike {
    request: RequestKey,
    /// The one that is called.
    leader: Seq,
    followers: Vec<Candidate>,
}

/// What a lane has to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// A fetch that may go as far as the lane is concerned.
    Fetch,
    /// The next fetch has to be read first.
    Read,
    /// A fetch, but not before this moment.
    Later(At),
    /// Nothing.
    Nothing,
}

impl Lane {
    pub(crate) fn new(key: LaneKey, api: u16) -> Self {
        Self {
            key,
            api,
            heads: VecDeque::new(),
            parked: Vec::new(),
            unread: Unread::default(),
            cursor: None,
            told_late: None,
            is_late: false,
            loading: false,
            discard: false,
            ended: Vec::new(),
            from_start: true,
            noted: false,
            ahead: 1,
            due: None,
            looking: Vec::new(),
            suspects_wait: false,
            alike: Vec::new(),
            on_trial: false,
        }
    }

    /// Lets a fetch wait for another one of the same request, if there is one; else it is the one to be called,
    /// and is given back. One that does not wait, `waits` says so, is called in any case, and waited for by others.
    pub(crate) fn follow(
        &mut self,
        request: RequestKey,
        candidate: Candidate,
        waits: bool,
    ) -> Option<Candidate> {
        let seq = candidate.item.seq;
        match self.alike.iter_mut().find(|alike| alike.request == request) {
            Some(alike) if alike.leader != seq && waits => {
                alike.followers.push(candidate);
                return None;
            }
            Some(_) => {}
            None => self.alike.push(Alike { request, leader: seq, followers: Vec::new() }),
        }
        Some(candidate)
    }

    /// Those that waited for a fetch which has ended.
    pub(crate) fn followers_of(&mut self, leader: Seq) -> Vec<Candidate> {
        let place = self.alike.iter().position(|alike| alike.leader == leader);
        place.map(|place| self.alike.swap_remove(place).followers).unwrap_or_default()
    }

    /// How many wait for another of the same request.
    pub(crate) fn followers(&self) -> usize {
        self.alike.iter().map(|alike| alike.followers.len()).sum()
    }

    /// Its api is not declared any more: nothing of it is offered, and all that waits, stays in the queue. What was
    /// in hand is given up; it is read again should the api come back.
    pub(crate) fn close(&mut self) -> Vec<Candidate> {
        self.api = API_GONE;
        self.unread = Unread::default();
        self.due = None;
        self.give_up()
    }

    /// Another process has worked in it: what is in hand may have ended there. It is given up, and read again if it
    /// still waits.
    pub(crate) fn read_anew(&mut self) -> Vec<Candidate> {
        let given_up = self.give_up();
        self.left_behind(given_up.len() as u64);
        given_up
    }

    /// What is in hand; the next read begins at the first fetch, and one under way is of no use.
    fn give_up(&mut self) -> Vec<Candidate> {
        self.cursor = None;
        self.from_start = true;
        self.discard = self.loading;
        let followers = std::mem::take(&mut self.alike).into_iter().flat_map(|own| own.followers);
        self.heads.drain(..).chain(self.parked.drain(..)).chain(followers).collect()
    }

    /// Whether its api is not declared.
    pub(crate) fn is_closed(&self) -> bool {
        self.api == API_GONE
    }

    /// Whether the read that has come back is of no use.
    pub(crate) fn discards(&mut self) -> bool {
        std::mem::take(&mut self.discard) || self.is_closed()
    }

    /// More fetches have come.
    pub(crate) fn came(&mut self, more: u64) {
        self.unread.came(more);
        self.noted = true;
    }

    /// So many wait in the queue, beside those in hand.
    pub(crate) fn counted(&mut self, unread: u64) {
        self.unread.counted(unread);
        self.noted = true;
    }

    /// So many that were in hand have to be read again.
    pub(crate) fn left_behind(&mut self, fetches: u64) {
        self.unread.again(fetches);
        self.noted = true;
    }

    /// One that was not in hand has been read.
    pub(crate) fn has_read(&mut self) {
        self.unread.read();
        self.from_start = false;
    }

    /// A read found nothing behind the cursor, though something was believed to be there. A fetch that
    /// was put aside comes back before the cursor, so it is looked for once more from the beginning.
    pub(crate) fn read_nothing(&mut self) {
        if self.noted || !self.from_start {
            self.from_start = true;
            self.cursor = None;
        } else {
            self.unread.ended();
            // Whatever is noted later may lie before the cursor again.
            self.from_start = false;
        }
    }

    /// A fetch has left the queue.
    pub(crate) fn ended(&mut self, seq: Seq) {
        self.looking.retain(|known| *known != seq);
        if self.loading {
            self.ended.push(seq);
        }
    }

    /// A read has come back: which of the fetches it saw may have ended since.
    pub(crate) fn loaded(&mut self) -> Vec<Seq> {
        self.loading = false;
        std::mem::take(&mut self.ended)
    }

    /// Reading is what the lane waits for: more is read at a time, up to [`AHEAD_MAX`].
    pub(crate) fn read_more(&mut self) {
        self.ahead = (self.ahead * 2).min(AHEAD_MAX);
    }

    /// Fetches that wait here, as far as is known: for whoever is told of it. Whether any does, is for
    /// [`Self::is_empty`] to say.
    pub(crate) fn waiting(&self) -> u64 {
        self.all().known()
    }

    /// Whether it is certain that nothing waits here that could be called.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_none()
    }

    /// Whether fetches wait for their turn here, and not for another try.
    pub(crate) fn stands(&self) -> bool {
        !self.unread.is_none() || !self.heads.is_empty()
    }

    /// What is to be read should nothing be in hand any more.
    pub(crate) fn all(&self) -> Unread {
        if self.is_closed() {
            return Unread::default();
        }
        let mut all = self.unread;
        all.again((self.heads.len() + self.parked.len() + self.followers()) as u64);
        all
    }

    /// What could be tried now.
    pub(crate) fn offer(&self, now: At) -> Offer {
        if self.is_closed() {
            return Offer::Nothing;
        }
        let crowded = self.parked.len() >= PARKED_MAX + AHEAD_MAX;
        let refused = self.trials(now).is_some_and(|trials| trials > 0);
        if self.on_trial && !crowded && self.may_read() && refused {
            // Among those that were not read yet is one that was not tried.
            return Offer::Read;
        }
        let mut later: Option<At> = None;
        for parked in self.parked.iter().filter(|parked| self.may_go(parked)) {
            if parked.not_before <= now {
                return Offer::Fetch;
            }
            later = Some(later.map_or(parked.not_before, |at| at.min(parked.not_before)));
        }
        if self.parked.len() < PARKED_MAX {
            if !self.heads.is_empty() {
                return Offer::Fetch;
            }
            if self.may_read() {
                return Offer::Read;
            }
        }
        later.map_or(Offer::Nothing, Offer::Later)
    }

    /// Whether one of those that are parked until then has been called before.
    pub(crate) fn was_tried(&self, until: At) -> bool {
        let mut then = self.parked.iter().filter(|parked| parked.not_before == until);
        then.any(|parked| parked.tries.calls() > 0)
    }

    /// Whether more of it may be read.
    fn may_read(&self) -> bool {
        !self.unread.is_none() && self.followers() < FOLLOWERS_MAX && self.heads.len() < AHEAD_MAX
    }

    /// How often the one that would be taken was refused already; none: nothing would be.
    pub(crate) fn trials(&self, now: At) -> Option<u8> {
        self.peek(now).map(|candidate| candidate.tries.throttled)
    }

    /// The place among the heads of one that goes before what is parked: the first of those that were refused least
    /// often, while the next call is a trial.
    fn head_on_trial(&self, now: At) -> Option<usize> {
        if !self.on_trial {
            return None;
        }
        let trials = |head: &Candidate| head.tries.throttled;
        let (place, head) = self.heads.iter().enumerate().min_by_key(|(_, head)| trials(head))?;
        let parked = self.parked_due(now).and_then(|place| self.parked.get(place));
        parked.is_none_or(|parked| trials(parked) > trials(head)).then_some(place)
    }

    /// What `take` would take.
    pub(crate) fn next(&self, now: At) -> Option<&Candidate> {
        self.peek(now)
    }

    /// Which of those that are parked goes first.
    fn turn(&self, candidate: &Candidate) -> (u8, (bool, Seq)) {
        let trials = if self.on_trial { candidate.tries.throttled } else { 0 };
        (trials, candidate.order())
    }

    /// The same, to be changed.
    pub(crate) fn next_mut(&mut self, now: At) -> Option<&mut Candidate> {
        match self.parked_due(now) {
            Some(place) => self.parked.get_mut(place),
            None => self.heads.front_mut(),
        }
    }

    fn parked_due(&self, now: At) -> Option<usize> {
        self.parked
            .iter()
            .enumerate()
            .filter(|(_, parked)| parked.not_before <= now && self.may_go(parked))
            .min_by_key(|(_, parked)| self.turn(parked))
            .map(|(place, _)| place)
    }

    /// Takes what `offer` called `Fetch`: a parked one whose time has come, oldest first, else the head.
    pub(crate) fn take(&mut self, now: At) -> Option<Candidate> {
        if let Some(place) = self.head_on_trial(now) {
            return self.heads.remove(place);
        }
        match self.parked_due(now) {
            Some(place) => Some(self.parked.swap_remove(place)),
            None => self.heads.pop_front(),
        }
    }

    /// What `take` would take.
    pub(crate) fn peek(&self, now: At) -> Option<&Candidate> {
        if let Some(place) = self.head_on_trial(now) {
            return self.heads.get(place);
        }
        match self.parked_due(now) {
            Some(place) => self.parked.get(place),
            None => self.heads.front(),
        }
    }

    /// Puts back what was taken and not tried.
    pub(crate) fn put_back(&mut self, candidate: Candidate) {
        if candidate.suspect || candidate.read.is_some() {
            // Among the heads it would be taken for one that may go beside others of its kind, or one that has
            // not begun.
            self.parked.push(candidate);
        } else {
            self.heads.push_front(candidate);
        }
    }

    fn may_go(&self, candidate: &Candidate) -> bool {
        let in_turn = candidate.is_later_page()
            || self.looking.iter().all(|earlier| *earlier > candidate.item.seq);
        in_turn && !(candidate.suspect && self.suspects_wait)
    }

    /// Whether a fetch is in hand here.
    pub(crate) fn has(&self, seq: Seq) -> bool {
        let followers = self.alike.iter().flat_map(|alike| &alike.followers);
        self.heads.iter().chain(&self.parked).chain(followers).any(|known| known.item.seq == seq)
    }
}

#[cfg(test)]
mod tests;
