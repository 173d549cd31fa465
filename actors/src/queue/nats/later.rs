//! Fetches that are put aside: copied to LATER, brought back when they are due.
//!
//! What is due when is known from the headers of LATER: read once at the start, and from then on only what
//! has come since. At most [`KNOWN_MAX`] are held, the soonest; the others are read again when those are gone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::headers::{Kept, UNTIL, id_of_move, stored_at};
use super::wire::{Copy, away, within};
use super::{AGAIN, Inner, QueueError, STEP_WITHIN, lock};
use crate::cluster::part_of;
use crate::ids::{LaneKey, Seq};
use crate::state::clock;
use crate::telemetry;

/// Fetches put aside whose moment is held in memory: about 30 bytes each.
const KNOWN_MAX: usize = 1_000_000;
/// Between two looks for what another node put aside.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Least time between two reads of headers, however often fetches are put aside.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Longest sleep while fetches are aside: the wall clock may be set meanwhile.
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// Fetches brought back at once, and out of how many that are taken together.
const AT_ONCE: usize = 32;
const BATCH: usize = 1024;
/// Headers asked for at a time.
const HEADERS_AT_ONCE: usize = 1000;
/// How long the server keeps a reader of headers that has stopped asking.
const READER_KEPT: Duration = Duration::from_secs(30);

/// What is aside, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Later {
    known: Mutex<Known>,
    changed: Notify,
    /// All headers have to be read once more.
    anew: AtomicBool,
}

impl Later {
    /// Partitions were gained: what is aside for them was not read.
    pub(super) fn look_anew(&self) {
        self.anew.store(true, Ordering::Release);
        self.changed.notify_one();
    }
}

#[cfg(test)]
impl Later {
    /// How many are known by their moments.
    pub(super) fn known(&self) -> usize {
        lock(&self.known).soonest.len()
    }
}

/// Moments of return (ms since 1970) and numbers in LATER.
#[derive(Debug, Default)]
struct Known {
    soonest: BTreeSet<(u64, u64)>,
    /// Some were left out, none of them before this one.
    left_out: Option<(u64, u64)>,
    /// Headers up to this number were read.
    read_to: u64,
}

impl Known {
    fn add(&mut self, until_ms: u64, seq: u64, max: usize) {
        let one = (until_ms, seq);
        if self.left_out.is_some_and(|left_out| one >= left_out) {
            return;
        }
        self.soonest.insert(one);
        if self.soonest.len() > max {
            // Of those of one moment the first numbers stay, so that there is always one that comes back.
            self.left_out = self.soonest.pop_last();
        }
    }

    /// What is due, and how long until the next is.
    fn take_due(&mut self, now_ms: u64) -> (Vec<(u64, u64)>, Option<Duration>) {
        let mut due = Vec::new();
        while due.len() < BATCH
            && let Some(next) = self.soonest.first().copied()
        {
            if next.0 > now_ms {
                return (due, Some(Duration::from_millis(next.0 - now_ms)));
            }
            due.push(next);
            self.soonest.pop_first();
        }
        let more = (!self.soonest.is_empty()).then_some(Duration::ZERO);
        (due, more)
    }

    /// Those that were left out are the next.
    fn must_reread(&self) -> bool {
        self.soonest.is_empty() && self.left_out.is_some()
    }

    fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Inner {
    /// The copy is confirmed before the original goes, and is the same fetch.
    pub(super) async fn postpone(
        &self,
        lane: &LaneKey,
        seq: Seq,
        until: Timestamp,
    ) -> Result<(), QueueError> {
        if until <= clock::wall() {
            return Ok(());
        }
        let Some(message) = self.as_read(lane, seq).await? else { return Ok(()) };
        self.put_aside(lane, &message, until).await
    }

    /// Moves a message of FETCH to LATER, from where it comes back to the lane.
    pub(super) async fn put_aside(
        &self,
        lane: &LaneKey,
        message: &StreamMessage,
        until: Timestamp,
    ) -> Result<(), QueueError> {
        let kept = Kept::of(message);
        let mut headers = kept.headers();
        headers.insert(UNTIL, until.to_string());
        let subject = self.names().later(lane);
        let copy = Copy {
            subject: subject.clone(),
            id: id_of_move(self.fetch.created(), message.sequence, "later"),
            headers,
            payload: message.payload.clone(),
        };
        let same = |there: &StreamMessage| {
            there.subject.as_str() == subject && is_copy(there, &kept, message)
        };
        self.store_once(&self.aside, copy, same).await?;
        self.delete_fetch(message.sequence, stored_at(message)).await?;
        self.later.changed.notify_one();
        Ok(())
    }

    async fn return_one(&self, seq: u64) -> Result<(), QueueError> {
        let Some(message) = self.get(&self.aside.stream, seq).await? else { return Ok(()) };
        let lane = self.names().lane_of_later(&message.subject);
        if lane.is_ok_and(|lane| !self.owned.is_ours(part_of(&lane.account))) {
            // Its partition's new owner has read of it.
            return Ok(());
        }
        match self.names().lane_of_later(&message.subject) {
            Ok(lane) => {
                let id = id_of_move(self.aside.created(), seq, "back");
                self.move_to(&lane, &message, id).await?;
            }
            Err(reason) => self.bury_message(&message, &message.subject, reason).await?,
        }
        self.delete(&self.aside, seq).await
    }

    /// Copies a fetch to its lane.
    pub(super) async fn move_to(
        &self,
        lane: &LaneKey,
        message: &StreamMessage,
        id: String,
    ) -> Result<(), QueueError> {
        let kept = Kept::of(message);
        let copy = Copy {
            subject: self.names().fetch(lane),
            id,
            headers: kept.headers(),
            payload: message.payload.clone(),
        };
        let stored = self.names().queued(lane);
        let same = |there: &StreamMessage| {
            there.subject.as_str() == stored && is_copy(there, &kept, message)
        };
        self.store_once(&self.fetch, copy, same).await
    }

    /// Reads the headers of what was put aside since the last time.
    async fn read_later(&self) -> Result<(), QueueError> {
        let last = self.aside.info().await?.state.last_sequence;
        let from = {
            let mut known = lock(&self.later.known);
            if self.later.anew.swap(false, Ordering::AcqRel) {
                known.forget();
            }
            if last < known.read_to {
                // Made anew: what was known is of another stream.
                known.forget();
            }
            known.read_to + 1
        };
        if last < from {
            return Ok(());
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from },
            ack_policy: AckPolicy::None,
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: READER_KEPT,
            ..pull::Config::default()
        };
        let making = async {
            let reader = self.aside.stream.create_consumer(config).await;
            reader.map_err(|error| away("read headers of", &self.aside.name, &error))
        };
        let reader = within(making).await?;
        let read = self.read_headers(&reader).await;
        let name = &reader.cached_info().name;
        // The stream has few places for readers; one that cannot be deleted goes by itself.
        timeout(STEP_WITHIN, self.aside.stream.delete_consumer(name)).await.map(drop).ok();
        read?;
        let mut known = lock(&self.later.known);
        known.read_to = known.read_to.max(last);
        Ok(())
    }

    async fn read_headers(&self, reader: &Consumer<pull::Config>) -> Result<(), QueueError> {
        let mut left = reader.cached_info().num_pending;
        while left > 0 {
            let asking = async {
                let some = reader.fetch().max_messages(HEADERS_AT_ONCE).messages().await;
                some.map_err(|error| away("read headers of", &self.aside.name, &error))
            };
            let mut some = within(asking).await?;
            let mut read = 0;
            while let Ok(Some(message)) = timeout(STEP_WITHIN, some.next()).await {
                let message = message.map_err(|error| {
                    QueueError::Unavailable(format!("{}: {error}", self.aside.name).into())
                })?;
                let Ok(info) = message.info() else { continue };
                // The others' owners bring theirs back; what is no lane is the first partition's.
                let lane = self.names().lane_of_later(&message.subject).ok();
                let part = lane.map_or(0, |lane| part_of(&lane.account));
                left = info.pending;
                read += 1;
                if !self.owned.is_ours(part) {
                    let mut known = lock(&self.later.known);
                    known.read_to = known.read_to.max(info.stream_sequence);
                    continue;
                }
                let until = message.headers.as_ref().and_then(|headers| headers.get(UNTIL));
                let until = until.and_then(|until| until.as_str().parse::<Timestamp>().ok());
                // One that says nothing of it is due.
                let until_ms = until.map_or(0, clock::ceil_ms);
                let mut known = lock(&self.later.known);
                known.add(until_ms, info.stream_sequence, KNOWN_MAX);
                known.read_to = known.read_to.max(info.stream_sequence);
            }
            if read == 0 {
                let reason = format!("NATS: the headers of {} do not come", self.aside.name);
                return Err(QueueError::Unavailable(reason.into()));
            }
        }
        Ok(())
    }
}

fn is_copy(there: &StreamMessage, kept: &Kept, message: &StreamMessage) -> bool {
    Kept::of(there).origin == kept.origin && there.payload == message.payload
}

/// Brings back what is due, for as long as the queue is open.
pub(super) async fn bring_back(inner: Arc<Inner>) {
    let mut link = inner.bus.link();
    loop {
        // Said once by the connection, not each second by this.
        inner.up().await;
        let read = inner.read_later().await;
        let read_at = Instant::now();
        let mut look_at = read_at + LOOK_EVERY;
        if let Err(error) = read {
            // What is known comes back all the same.
            telemetry::postponed_unreadable(&error.to_string());
            look_at = read_at + AGAIN;
        }
        loop {
            let (due, next) = lock(&inner.later.known).take_due(clock::wall_ms());
            let returning = stream::iter(due.clone())
                .map(|(_, seq)| inner.return_one(seq))
                .buffer_unordered(AT_ONCE)
                .try_for_each(async |()| Ok(()));
            if let Err(error) = returning.await {
                // What has come back by now is not there any more when it is tried again.
                lock(&inner.later.known).soonest.extend(due);
                telemetry::postponed_unreadable(&error.to_string());
                tokio::time::sleep(AGAIN).await;
                break;
            }
            if lock(&inner.later.known).must_reread() {
                lock(&inner.later.known).forget();
                break;
            }
            let wait = next.map_or(LOOK_EVERY, |next| next.min(CLOCK_CHECK));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = inner.later.changed.notified() => look_at = look_at.min(read_at + READ_PAUSE),
                () = tokio::time::sleep_until(look_at) => break,
                changed = link.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soonest_are_held_and_the_rest_is_read_again_when_they_are_gone() {
        let mut known = Known::default();
        for seq in 1..=10 {
            known.add(100 - seq * 2, seq, 4);
        }
        // 94 was the last to be left out: 80, 82, 84 and 86 are due before it.
        assert_eq!(known.soonest.len(), 4);
        assert_eq!(known.left_out, Some((88, 6)));
        known.add(88, 11, 4);
        assert_eq!(known.soonest.len(), 4, "as late as one that was left out");
        let (due, next) = known.take_due(83);
        assert_eq!(due, [(80, 10), (82, 9)]);
        assert_eq!(next, Some(Duration::from_millis(1)));
        assert!(!known.must_reread());
        assert_eq!(known.take_due(1000).0, [(84, 8), (86, 7)]);
        assert!(known.must_reread());
        known.forget();
        assert!(!known.must_reread() && known.take_due(1000) == (vec![], None));
    }

    #[test]
    fn of_one_moment_all_come_back_however_few_are_held() {
        let mut aside: BTreeSet<u64> = (1..=10).collect();
        for reads in 1..=3 {
            let mut known = Known::default();
            for seq in &aside {
                known.add(50, *seq, 4);
            }
            assert_eq!(known.take_due(49), (vec![], Some(Duration::from_millis(1))));
            assert!(!known.must_reread(), "not while one is held that is not due");
            for (_, seq) in known.take_due(50).0 {
                assert!(aside.remove(&seq));
            }
            assert_eq!(known.must_reread(), !aside.is_empty(), "after {reads} reads");
        }
        assert!(aside.is_empty());
    }
}
