//! The queue in JetStream: for any number of publishers, in any language.
//!
//! # Streams
//!
//! A fetch is a message of FETCH, its lane is the message's subject, and it waits for as long as the message
//! is there. There is no consumer, so nothing is ever delivered a second time by a timer: `first` looks for
//! the next message of a subject by Direct Get, and `finish` deletes it. The delete is the acknowledgement:
//! DONE (or DEAD, or ONCE) is written and confirmed before it.
//!
//! # Moves
//!
//! A fetch that is put aside is copied to LATER and comes back when it is due; one whose account is spelt
//! otherwise than canonically is copied to where it belongs. A copy has a message id of its own, carries
//! number and moment of the first storing in its headers, and is confirmed before the original goes. Whoever
//! repeats a step after a crash finds its copy by that id; two nodes at once do each other no harm.
//!
//! # What it does not promise
//!
//! An id is known for as long as the stream's duplicate window, not for ever. A fetch that comes back stands
//! behind those that came meanwhile. Both are as the product says of NATS.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Info, Stream};
use bytes::Bytes;
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tollgate_protos::{Dead, Done};

use super::{
    Appended, Ending, LaneCount, LaneCursor, LanePage, Letter, NewFetch, Noted, Queue, QueueError,
    QueueFuture, Queued, Wake, check_note,
};
use crate::cluster::Owned;
use crate::ids::{AccountKey, LaneKey, Seq, Slug};
use crate::nats::{Bus, Link, Names};

mod ending;
mod headers;
mod later;
mod letters;
mod misfits;
mod notes;
mod reading;
mod sweep;
mod wakes;
mod wire;

#[cfg(test)]
mod tests;

/// How long one step may take before the queue counts as away: longer than any of its requests waits.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// Deletes without an answer yet. The server keeps 10,000 requests of all its clients in one line and drops
/// the whole line when it is full (`request_queue_limit`).
const DELETES_MAX: usize = 256;
/// Between two tries of a task when NATS does not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// Deleted messages that are remembered where a replica may still show them.
const GONE_MAX: usize = 64 * 1024;

/// Fetches that are remembered between their reading and their end, about 60 bytes each; one that is not is
/// looked at before it is deleted.
const SEEN_MAX: usize = 128 * 1024;

/// The queue in the streams of a NATS server. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct NatsQueue(Arc<Handle>);

struct Handle {
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Inner {
    bus: Bus,
    fetch: Home,
    aside: Home,
    done: Home,
    dead: Home,
    progress: Home,
    once: Stream<()>,
    /// Whether a read may be answered by a server that is behind.
    replicated: bool,
    deletes: Semaphore,
    wakes: wakes::WakeSlot,
    later: later::Later,
    misfits: misfits::Misfits,
    gone: Mutex<Gone>,
    seen: Mutex<Seen>,
    link: watch::Receiver<Link>,
    owned: Owned,
}

/// A stream of fetches or letters.
struct Home {
    name: String,
    stream: Stream<()>,
    /// When it was made, in ms since 1970: tells its numbers from those of an earlier one of its name.
    created: AtomicU64,
}

impl Home {
    async fn open(bus: &Bus, name: &str) -> Result<(Self, Info), QueueError> {
        let name = bus.names().stream(name);
        let opening = async {
            let stream = bus.js().get_stream(&name).await;
            stream.map_err(|error| match error.kind() {
                GetStreamErrorKind::JetStream(said) => {
                    wire::refusal("look at the stream", &name, &said)
                }
                _ => wire::away("look at the stream", &name, &error),
            })
        };
        let info = wire::within(opening).await?.cached_info().clone();
        let handle = bus.js().get_stream_no_info(&name).await;
        let stream = handle.map_err(|error| wire::away("use the stream", &name, &error))?;
        let created = AtomicU64::new(created_ms(&info));
        Ok((Self { name, stream, created }, info))
    }

    fn created(&self) -> u64 {
        self.created.load(Ordering::Acquire)
    }

    async fn info(&self) -> Result<Info, QueueError> {
        let asking = async {
            let info = self.stream.get_info().await;
            info.map_err(|error| wire::away("look at the stream", &self.name, &error))
        };
        let info = wire::within(asking).await?;
        self.created.store(created_ms(&info), Ordering::Release);
        Ok(info)
    }
}

fn created_ms(info: &Info) -> u64 {
    u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

impl NatsQueue {
    /// Opens the queue: the streams must be there. Wakes are heard from now on, fetches put aside are brought
    /// back, what is no fetch becomes dead letters, and notes whose fetches are gone are removed, until the last clone is dropped.
    ///
    /// # Errors
    /// A stream is not there, or NATS does not answer.
    pub async fn open(bus: &Bus) -> Result<Self, QueueError> {
        Self::open_for(bus, Owned::default()).await
    }

    /// The same for a node of a cluster: it hears wakes of what it owns, and of nothing else; it lists that, brings
    /// that back, and tells of all that waits in what it gains.
    ///
    /// # Errors
    /// As [`NatsQueue::open`].
    pub async fn open_for(bus: &Bus, owned: Owned) -> Result<Self, QueueError> {
        let inner = Inner::open(bus, owned).await?;
        // Before anybody lists what waits: what comes meanwhile is then told twice rather than never.
        let ears = wakes::Ears::open(&inner).await?;
        let tasks = vec![
            tokio::spawn(ears.listen(inner.clone())).abort_handle(),
            tokio::spawn(wakes::listen(inner.clone())).abort_handle(),
            tokio::spawn(wakes::relist(inner.clone())).abort_handle(),
            tokio::spawn(later::bring_back(inner.clone())).abort_handle(),
            tokio::spawn(misfits::sort_out(inner.clone())).abort_handle(),
            tokio::spawn(sweep::sweep(inner.clone(), sweep::Pace::default())).abort_handle(),
        ];
        Ok(Self(Arc::new(Handle { inner, tasks })))
    }

    /// The queue for somebody who asks and ends: it hears no wakes and moves nothing by itself.
    ///
    /// # Errors
    /// As [`NatsQueue::open`].
    pub async fn view(bus: &Bus) -> Result<Self, QueueError> {
        Ok(Self(Arc::new(Handle {
            inner: Inner::open(bus, Owned::default()).await?,
            tasks: Vec::new(),
        })))
    }

    fn step<T, F>(&self, step: impl FnOnce(Arc<Inner>) -> F) -> QueueFuture<T>
    where
        F: Future<Output = Result<T, QueueError>> + Send + 'static,
    {
        step(self.0.inner.clone()).boxed()
    }
}

impl fmt::Debug for NatsQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NatsQueue").field(&self.0.inner.fetch.name).finish()
    }
}

impl Inner {
    async fn open(bus: &Bus, owned: Owned) -> Result<Arc<Self>, QueueError> {
        let (fetch, info) = Home::open(bus, "FETCH").await?;
        let (aside, _) = Home::open(bus, "LATER").await?;
        let (done, _) = Home::open(bus, "DONE").await?;
        let (dead, _) = Home::open(bus, "DEAD").await?;
        let (progress, _) = Home::open(bus, "PROGRESS").await?;
        let once = bus.names().bucket_stream("ONCE");
        let once = bus.js().get_stream_no_info(&once).await;
        let once = once.map_err(|error| wire::away("use the bucket", "ONCE", &error))?;
        Ok(Arc::new(Self {
            bus: bus.clone(),
            fetch,
            aside,
            done,
            dead,
            progress,
            once,
            replicated: info.config.num_replicas > 1,
            deletes: Semaphore::new(DELETES_MAX),
            wakes: wakes::WakeSlot::default(),
            later: later::Later::default(),
            misfits: misfits::Misfits::default(),
            gone: Mutex::default(),
            seen: Mutex::default(),
            link: bus.link(),
            owned,
        }))
    }

    fn names(&self) -> &Names {
        self.bus.names()
    }

    /// None while the connection is down: what the server has when it is back nobody knows.
    fn era(&self) -> Option<Era> {
        let link = *self.link.borrow();
        link.up.then(|| (link.times, self.fetch.created()))
    }

    /// Waits until the connection stands.
    async fn up(&self) {
        // An error means that it is given up; then whoever asks something is told.
        self.bus.link().wait_for(|link| link.up).await.map(drop).ok();
    }

    /// The lane of a subject as the server stores it or wakes with it; none if it is none, or not written as
    /// we write it.
    fn lane_of(&self, subject: &str, kind: &str) -> Option<LaneKey> {
        let rest = self.names().behind(subject, kind).ok()?;
        LaneKey::parse(rest).ok().filter(|lane| lane.subject() == rest)
    }
}

impl Queue for NatsQueue {
    fn name(&self) -> Arc<str> {
        let fetch = &self.0.inner.fetch;
        format!("{}@{}", fetch.name, fetch.created()).into()
    }

    fn append(&self, fetches: Vec<NewFetch>) -> QueueFuture<Vec<Appended>> {
        self.step(|inner| async move { inner.append(fetches).await })
    }

    fn first(&self, lane: LaneKey, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Queued>> {
        self.step(move |inner| async move { inner.first(&lane, after, max).await })
    }

    fn lanes(&self, from: Option<LaneCursor>) -> QueueFuture<LanePage> {
        self.step(|inner| async move { inner.lanes(from).await })
    }

    fn account_lanes(&self, account: AccountKey) -> QueueFuture<Vec<LaneCount>> {
        self.step(move |inner| async move { inner.account_lanes(&account).await })
    }

    fn finish(&self, lane: LaneKey, seq: Seq, ending: Ending) -> QueueFuture<()> {
        self.step(move |inner| async move { inner.finish(&lane, seq, ending).await })
    }

    fn once(&self, lane: LaneKey, id: String) -> QueueFuture<Option<Done>> {
        self.step(move |inner| async move { inner.done_once(&lane, &id).await })
    }

    fn note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<Option<Noted>> {
        self.step(move |inner| async move { inner.note(&lane, origin).await })
    }

    fn keep_note(
        &self,
        lane: LaneKey,
        origin: Seq,
        expected: u64,
        note: Bytes,
    ) -> QueueFuture<Option<u64>> {
        self.step(move |inner| async move {
            check_note(&note)?;
            inner.keep_note(&lane, origin, expected, note).await
        })
    }

    fn drop_note(&self, lane: LaneKey, origin: Seq) -> QueueFuture<()> {
        self.step(move |inner| async move { inner.drop_note(&lane, origin).await })
    }

    fn postpone(&self, lane: LaneKey, seq: Seq, until: Timestamp) -> QueueFuture<()> {
        self.step(move |inner| async move { inner.postpone(&lane, seq, until).await })
    }

    fn postponed(&self) -> QueueFuture<u64> {
        self.step(|inner| async move { Ok(inner.aside.info().await?.state.messages) })
    }

    fn bury(&self, key: [u8; 16], dead: Dead) -> QueueFuture<bool> {
        self.step(move |inner| async move { inner.bury(key, &dead).await })
    }

    fn dead(&self, after: Option<Seq>, max: usize) -> QueueFuture<Vec<Letter>> {
        self.step(move |inner| async move { inner.letters(after, max).await })
    }

    fn dead_counts(&self, platforms: Vec<Slug>) -> QueueFuture<Option<BTreeMap<Slug, u64>>> {
        self.step(move |inner| async move { inner.letter_counts(platforms).await.map(Some) })
    }

    fn dead_count(&self) -> QueueFuture<u64> {
        self.step(|inner| async move { Ok(inner.dead.info().await?.state.messages) })
    }

    fn revive(&self, number: Seq, replay: Option<NewFetch>) -> QueueFuture<bool> {
        self.step(move |inner| async move { inner.revive(number, replay).await })
    }

    fn wakes(&self) -> mpsc::Receiver<Wake> {
        self.0.inner.wakes.open()
    }
}

/// Messages that were deleted lately: a replica that is behind may still show them. The number alone does not
/// tell one: a server that lost its latest messages gives their numbers again.
#[derive(Debug, Default)]
struct Gone {
    known: HashMap<u64, Timestamp>,
    order: VecDeque<u64>,
}

impl Gone {
    fn add(&mut self, seq: u64, stored_at: Timestamp) {
        if self.known.insert(seq, stored_at).is_none() {
            self.order.push_back(seq);
        }
        while self.order.len() > GONE_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    fn has(&self, seq: u64, stored_at: Timestamp) -> bool {
        self.known.get(&seq) == Some(&stored_at)
    }
}

/// Fetches that were read and are not finished, by their numbers.
#[derive(Debug, Default)]
struct Seen(BTreeMap<u64, SeenAs>);

#[derive(Debug, Clone, Copy)]
struct SeenAs {
    stored_at: Timestamp,
    /// While this is the same, so is the message of the number.
    era: Option<Era>,
}

/// How often the connection was made, and when the stream.
type Era = (u64, u64);

impl Seen {
    /// What was read first under a number stays until it is finished, or its ending would be another's.
    fn add(&mut self, seq: u64, now: SeenAs) {
        let seen = self.0.entry(seq).or_insert(now);
        if seen.stored_at == now.stored_at {
            seen.era = now.era;
        }
        while self.0.len() > SEEN_MAX {
            self.0.pop_first();
        }
    }
}

/// What these locks guard is whole between two statements, and nothing under them panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
