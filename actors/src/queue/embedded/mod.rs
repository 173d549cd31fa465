//! The queue in the embedded state folder: for one process, nothing to install.
//!
//! # Tables
//!
//! Numbers are big endian, so that keys sort as numbers do. A lane is its subject
//! ([`LaneKey::subject`]), which has no zero byte; a *mark* is the first 16 bytes of a SHA-256.
//!
//! ```text
//! table   key                            value
//! fetch   lane 0x00 seq:u64              row      a waiting fetch
//! ids     mark of lane without           state:u8 seq:u64
//!         priority, 0x00, id                      1 waits, 2 done, 3 dead
//! aside   seq:u64                        until:u64 lane_bytes:u16 lane row
//!                                                 a fetch that was put aside; until in ms since 1970
//! due     until:u64 seq:u64              empty    the same, by the moment of return
//! dead    seq:u64                        Dead as JSON; the key's seq is the one that counts
//! buried  the caller's key               seq:u64  inputs that were dead before they were fetches
//! progress origin:u64                    version:u64 note
//!                                                 how far an unfinished fetch has come
//! meta                                   (state::database)
//!
//! row = queued_at:u64 (ms since 1970) mark:[16] payload
//! ```
//!
//! A fetch is in `fetch` or in `aside`, never in both. Of a fetch that is done only its id's state is
//! kept; that state is never dropped, nor is the state of a dead one whose letter was dropped: the same
//! input does not come back by itself.
//!
//! # In memory
//!
//! Per lane that has waiting fetches: its subject, their count and two lower bounds (`lanes`); about 120
//! bytes. Payloads are read when they are asked for.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tollgate_protos::Dead;

use super::{
    APPEND_MAX, Appended, DEAD_COUNTED_MAX, DEAD_MAX, Ending, FIRST_MAX, LaneCount, LaneCursor,
    LanePage, Letter, NewFetch, Noted, Queue, QueueError, QueueFuture, Queued, Wake, check_note,
    next_page,
};
use crate::ids::{AccountKey, LaneKey, Seq};
use crate::state::{Failure, State, clock};

mod lanes;
mod ops;
mod rows;
#[cfg(test)]
mod tests;
mod wakes;

pub(crate) use ops::{Index, bring_back};
pub(crate) use wakes::WakeSlot;

/// The queue of a state folder. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedQueue {
    state: State,
}

impl EmbeddedQueue {
    /// The queue of this folder. Every queue made from the same state is the same queue.
    pub fn new(state: &State) -> Self {
        Self { state: state.clone() }
    }
}

impl fmt::Debug for EmbeddedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EmbeddedQueue").field(&self.state).finish()
    }
}

impl From<Failure> for QueueError {
    /// A call whose end is unsure may be repeated like one that was refused: ids, numbers and keys make
    /// a repeat harmless.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(reason) | Failure::Unsure(reason) => Self::Unavailable(reason),
            Failure::Corrupt(reason) => Self::Corrupt(reason),
        }
    }
}

/// Work that needs no database (keys, hashes, JSON) is done in the caller's task, not on the state thread.
impl Queue for EmbeddedQueue {
    fn name(&self) -> Arc<str> {
        self.state.name()
    }

    fn append(&self, fetches: Vec<NewFetch>) -> QueueFuture<Vec<Appended>> {
        let state = self.state.clone();
        async move {
            if fetches.len() > APPEND_MAX {
                let reason = format!("{} fetches at once, at most {APPEND_MAX}", fetches.len());
                return Err(QueueError::Unavailable(reason.into()));
            }
            let now = clock::wall_ms();
            let fetches: Vec<_> =
                fetches.into_iter().map(|fetch| rows::Incoming::new(fetch, now)).collect();
            Ok(state.call(move |turn| ops::append(turn, fetches)).await?)
        }
        .boxed()
    }

    fn first(&self, lane: LaneKey, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Queued>> {
        let state = self.state.clone();
        async move {
            let max = max.min(FIRST_MAX);
            let rows =
                state.call(move |turn| ops::first(turn, &lane.subject(), after, max)).await?;
            let queued = rows.iter().map(|(seq, row)| rows::queued(*seq, row));
            Ok(queued.collect::<Result<_, _>>()?)
        }
        .boxed()
    }

    fn lanes(&self, from: Option<LaneCursor>) -> QueueFuture<LanePage> {
        let state = self.state.clone();
        async move {
            let after = from.map(|LaneCursor(after)| after);
            let counts =
                state.call(move |turn| Ok(turn.index.lanes.behind(after.as_deref()))).await?;
            let lanes = lane_counts(counts)?;
            Ok(LanePage { next: next_page(&lanes), lanes })
        }
        .boxed()
    }

    fn account_lanes(&self, account: AccountKey) -> QueueFuture<Vec<LaneCount>> {
        let state = self.state.clone();
        async move {
            let prefix = account.subject() + ".";
            let counts = state.call(move |turn| Ok(turn.index.lanes.starting(&prefix))).await?;
            lane_counts(counts)
        }
        .boxed()
    }

    fn finish(&self, lane: LaneKey, seq: Seq, ending: Ending) -> QueueFuture<()> {
        let state = self.state.clone();
        async move {
            let dead = match ending {
                Ending::Done { .. } => None,
                Ending::Dead(dead) => Some(rows::dead_json(&dead)),
            };
            Ok(state.call(move |turn| ops::finish(turn, &lane.subject(), seq.0, dead)).await?)
        }
        .boxed()
    }

    fn note(&self, _lane: LaneKey, origin: Seq) -> QueueFuture<Option<Noted>> {
        let state = self.state.clone();
        async move {
            let row = state.call(move |turn| ops::note(turn, origin.0)).await?;
            Ok(row.map(|(version, bytes)| Noted { version, bytes }))
        }
        .boxed()
    }

    fn keep_note(
        &self,
        _lane: LaneKey,
        origin: Seq,
        expected: u64,
        note: Bytes,
    ) -> QueueFuture<Option<u64>> {
        let state = self.state.clone();
        async move {
            check_note(&note)?;
            let version =
                state.call(move |turn| ops::keep_note(turn, origin.0, expected, &note)).await?;
            Ok(version)
        }
        .boxed()
    }

    fn drop_note(&self, _lane: LaneKey, origin: Seq) -> QueueFuture<()> {
        let state = self.state.clone();
        async move { Ok(state.call(move |turn| ops::drop_note(turn, origin.0)).await?) }.boxed()
    }

    fn postpone(&self, lane: LaneKey, seq: Seq, until: Timestamp) -> QueueFuture<()> {
        let state = self.state.clone();
        async move {
            let until_ms = clock::ceil_ms(until);
            Ok(state.call(move |turn| ops::postpone(turn, &lane, seq.0, until_ms)).await?)
        }
        .boxed()
    }

    fn postponed(&self) -> QueueFuture<u64> {
        let state = self.state.clone();
        async move { Ok(state.call(|turn| Ok(turn.index.aside)).await?) }.boxed()
    }

    fn bury(&self, key: [u8; 16], dead: Dead) -> QueueFuture<bool> {
        let state = self.state.clone();
        async move {
            let dead = rows::dead_json(&dead);
            Ok(state.call(move |turn| ops::bury(turn, key, dead)).await?)
        }
        .boxed()
    }

    fn dead(&self, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Letter>> {
        let state = self.state.clone();
        async move {
            let max = max.min(DEAD_MAX);
            let rows = state.call(move |turn| ops::dead(turn, after, max)).await?;
            let letters = rows
                .iter()
                .map(|(seq, row)| Ok(Letter { number: Seq(*seq), dead: rows::dead(*seq, row)? }));
            letters.collect()
        }
        .boxed()
    }

    fn dead_count(&self) -> QueueFuture<u64> {
        let state = self.state.clone();
        async move {
            let (mut count, mut after) = (0, None);
            // Piece by piece: permits wait for the same thread.
            while count < DEAD_COUNTED_MAX {
                let (more, last) = state.call(move |turn| ops::dead_keys(turn, after)).await?;
                count += more;
                if last.is_none() {
                    break;
                }
                after = last;
            }
            Ok(count)
        }
        .boxed()
    }

    fn revive(&self, seq: Seq, replay: Option<NewFetch>) -> QueueFuture<bool> {
        let state = self.state.clone();
        async move {
            let now = clock::wall_ms();
            let replay = replay.map(|fetch| rows::Incoming::new(fetch, now));
            Ok(state.call(move |turn| ops::revive(turn, seq.0, replay)).await?)
        }
        .boxed()
    }

    fn wakes(&self) -> mpsc::Receiver<Wake> {
        self.state.wakes().open()
    }
}

fn lane_counts(counts: Vec<(Box<str>, u64)>) -> Result<Vec<LaneCount>, QueueError> {
    counts
        .into_iter()
        .map(|(lane, waiting)| Ok(LaneCount { lane: rows::lane(&lane)?, waiting }))
        .collect()
}
