//! Notes that nobody needs: a node that dies between the end of a fetch and the removal of its note leaves the note.
//! Whoever owns a partition looks for such notes a while after it was gained, the connection was made anew, or another
//! server leads the notes, and then rarely. The leader matters: a replica that was killed may have lost deletions
//! (<https://github.com/nats-io/nats-server/pull/7384>), and what it shows as there again can be seen, and removed,
//! only while it leads.
//!
//! A note has the number of the first storing of its fetch, which a fetch that was put aside or moved carries in its
//! headers. It is removed when two looks, some seconds apart, find no such fetch: not in FETCH under this number, and
//! not among all that waits of its account in FETCH and LATER. All is asked of the leaders. A fetch that is moved is at
//! no moment in neither stream, so it could be missed only on its way from FETCH to LATER after LATER was looked at;
//! if anything of its account was put aside meanwhile, the look counts for nothing. What is put aside stays so for about
//! a minute at least, so a look that is much shorter sees it there in its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep};

use jiff::Timestamp;

use super::headers::{Kept, stored_at};
use super::{Inner, QueueError};
use crate::ids::{AccountKey, Seq};
use crate::nats::PARTITIONS;
use crate::telemetry;

/// Notes of one turn; the next turn goes on behind them.
const NOTES_MAX: usize = 256;
/// Requests without an answer yet.
const AT_ONCE: usize = 16;
/// Fetches of accounts that are looked at in one turn, and their bytes. Notes of accounts that have more waiting stay.
const FETCHES_MAX: u64 = 2048;
const BYTES_MAX: usize = 32 << 20;
/// Longest look at what waits of an account: half of the least time for which a fetch is put aside.
const LOOK_WITHIN: Duration = Duration::from_secs(30);
/// Least time between two turns, and how much of it for each note that was looked at.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_PER_NOTE: Duration = Duration::from_millis(4);
/// Between two looks at what is owned.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When partitions are looked at, and how much of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// After a partition was gained, or the connection made; the last partition as long again after the first.
    pub(super) settle: Duration,
    /// From the first look at a note to the second.
    pub(super) confirm: Duration,
    /// Between two looks, the last partition half as long again.
    pub(super) every: Duration,
    /// After one that failed.
    pub(super) again: Duration,
    /// Between two looks at which server leads.
    pub(super) leader: Duration,
    /// Fetches that are looked at in one turn.
    pub(super) fetches: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(10),
            confirm: Duration::from_secs(5),
            every: Duration::from_secs(600),
            again: Duration::from_secs(60),
            leader: Duration::from_secs(30),
            fetches: FETCHES_MAX,
        }
    }
}

/// When a partition is looked at next, and what for.
#[derive(Debug)]
struct Turn {
    due: Instant,
    /// All notes to here were looked at.
    after: Option<String>,
    /// Found to be of no fetch, once.
    suspects: Vec<Suspect>,
}

/// A note whose fetch was not found, and which message it was. Not the note itself: up to 256 of each partition are
/// kept between the two looks.
#[derive(Debug)]
struct Suspect {
    note: Place,
    number: u64,
    stored_at: Timestamp,
}

/// Whose note stands where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    subject: String,
    account: AccountKey,
    origin: Seq,
}

/// What may still be looked at in a turn.
struct Left {
    fetches: u64,
    bytes: usize,
}

/// Removes notes of fetches that are gone, for as long as the queue is open.
pub(super) async fn sweep(inner: Arc<Inner>, pace: Pace) {
    let mut turns: BTreeMap<u32, Turn> = BTreeMap::new();
    let mut made = inner.link.borrow().times;
    let mut leader = Leader { name: None, looked: None };
    let mut told = false;
    loop {
        // Said once by the connection, not at each turn by this.
        inner.up().await;
        let now = Instant::now();
        let first = |part: u32| now + pace.settle + pace.settle * part / PARTITIONS;
        let open = inner.owned.open();
        turns.retain(|part, _| open.has(*part));
        for part in open.iter() {
            let new = || Turn { due: first(part), after: None, suspects: Vec::new() };
            turns.entry(part).or_insert_with(new);
        }
        let times = inner.link.borrow().times;
        let is_made = times != std::mem::replace(&mut made, times);
        if leader.is_another(&inner, pace.leader).await || is_made {
            for (part, turn) in &mut turns {
                turn.due = turn.due.min(first(*part));
            }
        }
        let next = turns.iter().min_by_key(|(_, turn)| turn.due).map(|(part, _)| *part);
        let next = next.and_then(|part| Some((part, turns.get_mut(&part)?)));
        let Some((part, turn)) = next else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        let wait = turn.due.saturating_duration_since(now);
        if !wait.is_zero() || !inner.owned.is_open(part) {
            sleep(wait.clamp(PAUSE, LOOK_EVERY)).await;
            continue;
        }
        let looked = match inner.take_turn(part, turn, pace.fetches).await {
            Ok(looked) => {
                told = false;
                turn.due = Instant::now()
                    + if !turn.suspects.is_empty() {
                        pace.confirm
                    } else if turn.after.is_some() {
                        PAUSE
                    } else {
                        pace.every + pace.every * part / (2 * PARTITIONS)
                    };
                looked
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    telemetry::notes_unswept(part, &error.to_string());
                }
                // What was about to be looked at a second time is found again.
                turn.after = None;
                turn.due = Instant::now() + pace.again;
                0
            }
        };
        sleep(PAUSE.max(PAUSE_PER_NOTE * u32::try_from(looked).unwrap_or(u32::MAX))).await;
    }
}

/// The server that leads the stream of the notes.
struct Leader {
    name: Option<String>,
    looked: Option<Instant>,
}

impl Leader {
    /// Whether it is another one than before; asked now and then.
    async fn is_another(&mut self, inner: &Inner, every: Duration) -> bool {
        if self.looked.is_some_and(|looked| looked.elapsed() < every) {
            return false;
        }
        self.looked = Some(Instant::now());
        // While one is elected there is none.
        let info = inner.progress.info().await.ok();
        let Some(now) = info.and_then(|info| info.cluster?.leader) else { return false };
        let before = self.name.replace(now);
        before.is_some() && before != self.name
    }
}

impl Inner {
    /// The second look at some notes, or the first at others; answers how many.
    async fn take_turn(
        &self,
        part: u32,
        turn: &mut Turn,
        fetches: u64,
    ) -> Result<usize, QueueError> {
        if !turn.suspects.is_empty() {
            let suspects = std::mem::take(&mut turn.suspects);
            let looked = suspects.len();
            let removed = self.remove(suspects, fetches).await?;
            if removed > 0 {
                telemetry::notes_swept(part, removed);
            }
            return Ok(looked);
        }
        let subjects = self.notes_of(part, turn.after.as_deref()).await?;
        let looked = subjects.len();
        let last = subjects.last().filter(|_| looked == NOTES_MAX).cloned();
        let place = |subject: String| {
            let (account, origin) = self.names().of_progress(&subject)?;
            Some(Place { subject, account, origin })
        };
        let places = subjects.into_iter().filter_map(place).collect();
        let gone = self.of_no_fetch(places, fetches).await?;
        let suspects = some_at_once(gone.into_iter().map(|note| self.suspect(note).boxed()));
        turn.suspects = suspects.await?.into_iter().flatten().collect();
        turn.after = last;
        Ok(looked)
    }

    /// The first notes of a partition behind a subject, in the order of their subjects.
    async fn notes_of(
        &self,
        part: u32,
        after: Option<&str>,
    ) -> Result<BTreeSet<String>, QueueError> {
        let filter = self.names().subject(&format!("progress.{part}.>"));
        let mut found = BTreeSet::new();
        let mut offset = Some(0);
        while let Some(from) = offset {
            let page = self.subjects(&self.progress, &filter, from).await?;
            offset = page.behind();
            for subject in page.counts().into_keys() {
                if after.is_none_or(|after| *subject > *after) {
                    found.insert(subject);
                }
                if found.len() > NOTES_MAX {
                    found.pop_last();
                }
            }
        }
        Ok(found)
    }

    /// Which of these notes are certainly of no fetch that waits. The accounts are begun with another one each time, so
    /// that those with much waiting do not leave nothing for the others time and again.
    async fn of_no_fetch(&self, notes: Vec<Place>, fetches: u64) -> Result<Vec<Place>, QueueError> {
        let mut by_account: BTreeMap<AccountKey, Vec<Place>> = BTreeMap::new();
        let looking = some_at_once(notes.into_iter().map(|note| self.elsewhere(note).boxed()));
        for note in looking.await?.into_iter().flatten() {
            by_account.entry(note.account.clone()).or_default().push(note);
        }
        let mut accounts: Vec<_> = by_account.into_iter().collect();
        let first = fastrand::usize(..accounts.len().max(1));
        accounts.rotate_left(first);
        let mut left = Left { fetches, bytes: BYTES_MAX };
        let mut gone = Vec::new();
        for (account, notes) in accounts {
            if let Some(waiting) = self.waiting(&account, &mut left).await? {
                gone.extend(notes.into_iter().filter(|note| !waiting.contains(&note.origin)));
            }
        }
        Ok(gone)
    }

    /// The first numbers of all that waits of an account, here or aside. Nothing where that is too much to look at, or
    /// one may have been missed on its way.
    async fn waiting(
        &self,
        account: &AccountKey,
        left: &mut Left,
    ) -> Result<Option<BTreeSet<Seq>>, QueueError> {
        let began = Instant::now();
        let before = self.aside.info().await?;
        let mut waiting = BTreeSet::new();
        // In this order: what comes back meanwhile is found in its lane.
        let aside = (&self.aside, self.names().later_of(account));
        let here = (&self.fetch, self.names().queued_of(account));
        for (home, filter) in [aside, here] {
            let page = self.subjects(home, &filter, 0).await?;
            let is_all = page.behind().is_none();
            let count: u64 = page.counts().values().sum();
            if !is_all || count > left.fetches {
                return Ok(None);
            }
            let mut from = (count > 0).then_some(1);
            while let Some(next) = from {
                let Some(message) = self.next_from_leader(home, &filter, Some(next)).await? else {
                    break;
                };
                let bytes = message.payload.len();
                if left.fetches == 0 || left.bytes < bytes {
                    return Ok(None);
                }
                left.fetches -= 1;
                left.bytes -= bytes;
                waiting.insert(Seq(Kept::of(&message).origin));
                from = message.sequence.checked_add(1);
            }
        }
        let after = self.aside.info().await?;
        let (then, now) = (before.state.last_sequence, after.state.last_sequence);
        let is_clean = if before.created != after.created || now < then {
            false
        } else if now == then {
            true
        } else {
            // Others may put theirs aside all the while.
            let filter = self.names().later_of(account);
            let since = self.next_from_leader(&self.aside, &filter, then.checked_add(1)).await?;
            since.is_none() && began.elapsed() < LOOK_WITHIN
        };
        Ok(is_clean.then_some(waiting))
    }

    /// Looks once more at notes whose fetches were not found, and removes those of which that is still so, each only
    /// if it is the very message of then. Answers how many.
    async fn remove(&self, suspects: Vec<Suspect>, fetches: u64) -> Result<usize, QueueError> {
        let notes = suspects.iter().map(|suspect| suspect.note.clone()).collect();
        let gone: BTreeSet<Place> = self.of_no_fetch(notes, fetches).await?.into_iter().collect();
        let same = suspects.into_iter().filter(|suspect| gone.contains(&suspect.note));
        let removing = some_at_once(same.map(|suspect| self.remove_one(suspect).boxed()));
        Ok(removing.await?.into_iter().filter(|is_removed| *is_removed).count())
    }

    async fn remove_one(&self, suspect: Suspect) -> Result<bool, QueueError> {
        let there = self.last_note(&suspect.note.subject).await?;
        // A server that lost its latest messages gives their numbers again.
        let is_same = there.is_some_and(|there| {
            there.sequence == suspect.number && stored_at(&there) == suspect.stored_at
        });
        if is_same {
            self.delete(&self.progress, suspect.number).await?;
        }
        Ok(is_same)
    }

    /// A note, if nothing waits under the number of its fetch.
    async fn elsewhere(&self, note: Place) -> Result<Option<Place>, QueueError> {
        Ok(self.get(&self.fetch.stream, note.origin.0).await?.is_none().then_some(note))
    }

    /// A note and which message it is, if it is still there.
    async fn suspect(&self, note: Place) -> Result<Option<Suspect>, QueueError> {
        let found = self.last_note(&note.subject).await?;
        Ok(found.map(|found| Suspect {
            note,
            number: found.sequence,
            stored_at: stored_at(&found),
        }))
    }
}

/// The answers to some requests, a few of them at once; the first error ends it.
async fn some_at_once<T>(
    asked: impl Iterator<Item = BoxFuture<'_, Result<T, QueueError>>>,
) -> Result<Vec<T>, QueueError> {
    let asked: Vec<_> = asked.collect();
    stream::iter(asked).buffer_unordered(AT_ONCE).try_collect().await
}
