//! Telling of work: the server repeats the subject of each message it stores, without its payload.
//!
//! Such a wake may be lost: on a connection that breaks, in a subscription that overflows, in a channel that
//! is full. Each of these is noticed, and everything that waits is listed anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::header::NATS_TIME_STAMP;
use async_nats::{Message, Subscriber};
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::wire::{away, within};
use super::{AGAIN, Inner, LaneCount, QueueError, lock};
use crate::clock::Clock;
use crate::cluster::Parts;
use crate::queue::{WAKES_MAX, Wake};
use crate::telemetry;

/// Wakes taken from the subscription at once: those of one lane become one.
const WAKES_AT_ONCE: usize = 1024;
/// Least time between two listings, however many wakes are lost.
const RELIST_PAUSE: Duration = Duration::from_secs(1);
/// Partitions listed at once when they are gained.
const LISTED_AT_ONCE: usize = 8;

/// Where wakes go.
#[derive(Debug, Default)]
pub(super) struct WakeSlot {
    sender: Mutex<Option<mpsc::Sender<Wake>>>,
    /// Some were lost.
    lost: Notify,
}

impl WakeSlot {
    /// A new receiver in place of the earlier one.
    pub(super) fn open(&self) -> mpsc::Receiver<Wake> {
        let (sender, receiver) = mpsc::channel(WAKES_MAX);
        *lock(&self.sender) = Some(sender);
        receiver
    }

    fn sender(&self) -> Option<mpsc::Sender<Wake>> {
        lock(&self.sender).clone()
    }

    fn send(&self, wake: Wake) {
        // Nobody listens: who comes later asks for the lanes first.
        let Some(sender) = self.sender() else { return };
        if let Err(TrySendError::Full(_)) = sender.try_send(wake) {
            self.lost.notify_one();
        }
    }
}

/// The subscriptions in which wakes are heard: one for each partition that is owned, or one for all of them
/// without a cluster.
pub(super) struct Ears {
    owned: Option<watch::Receiver<Parts>>,
    heard: HashMap<u32, AbortHandle>,
    all: Option<Subscriber>,
}

impl Drop for Ears {
    fn drop(&mut self) {
        for heard in self.heard.values() {
            heard.abort();
        }
    }
}

impl Ears {
    pub(super) async fn open(inner: &Arc<Inner>) -> Result<Self, QueueError> {
        let owned = inner.owned.follow();
        let mut ears = Self { owned, heard: HashMap::new(), all: None };
        if let Some(parts) = ears.owned.as_mut().map(|owned| *owned.borrow_and_update()) {
            ears.follow(inner, parts).await?;
        } else {
            let subject = inner.names().subject("wake.>");
            ears.all = subscribe(inner, vec![subject]).await?.pop();
        }
        Ok(ears)
    }

    /// Hears these partitions and no others; answers which are new.
    async fn follow(&mut self, inner: &Arc<Inner>, parts: Parts) -> Result<(), QueueError> {
        self.heard.retain(|part, heard| {
            let stays = parts.has(*part);
            if !stays {
                heard.abort();
            }
            stays
        });
        let new: Vec<u32> = parts.iter().filter(|part| !self.heard.contains_key(part)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let subject = |part: &u32| inner.names().subject(&format!("wake.{part}.>"));
        let subscribers = subscribe(inner, new.iter().map(subject).collect()).await?;
        for (part, heard) in new.into_iter().zip(subscribers) {
            let pump = tokio::spawn(pump(inner.clone(), heard));
            self.heard.insert(part, pump.abort_handle());
        }
        Ok(())
    }

    /// Passes wakes on for as long as the connection is kept up, and tells of what waits in partitions that are
    /// gained.
    pub(super) async fn listen(mut self, inner: Arc<Inner>) {
        if let Some(all) = self.all.take() {
            return pump(inner, all).await;
        }
        let Some(mut owned) = self.owned.take() else { return };
        let mut told: Parts = self.heard.keys().copied().collect();
        loop {
            let parts = *owned.borrow_and_update();
            // Accounts that rested in what was given out of hand are forgotten, also where it stayed in the end.
            told = told & parts & !inner.owned.reopened();
            let new = parts - told;
            // Heard first, listed then: what comes meanwhile is told twice rather than never.
            let gained = match self.follow(&inner, parts).await {
                Ok(()) if new.is_empty() => Ok(()),
                Ok(()) => {
                    inner.later.look_anew();
                    list_parts(&inner, new).await
                }
                Err(error) => Err(error),
            };
            if gained.is_err() {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            told = parts;
            if owned.changed().await.is_err() {
                return;
            }
        }
    }
}

/// The server knows of these subscriptions before anything that is asked of it from now on.
async fn subscribe(inner: &Inner, subjects: Vec<String>) -> Result<Vec<Subscriber>, QueueError> {
    let subscribing = async {
        let mut heard = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let one = inner.bus.client().subscribe(subject.clone()).await;
            heard.push(one.map_err(|error| away("subscribe to", &subject, &error))?);
        }
        inner.bus.client().flush().await.map_err(|error| away("reach", "the server", &error))?;
        Ok(heard)
    };
    within(subscribing).await
}

/// Passes wakes on for as long as the connection is kept up.
async fn pump(inner: Arc<Inner>, heard: Subscriber) {
    let mut heard = heard.ready_chunks(WAKES_AT_ONCE);
    let lag = telemetry::WAKE_LAG.histogram(&[]);
    while let Some(messages) = heard.next().await {
        // The first has waited longest.
        if let Some(stored) = messages.first().and_then(stored_at) {
            let behind = Clock::new().wall().duration_since(stored).as_secs_f64();
            // The server's clock may be before this one.
            lag.record(behind.max(0.0));
        }
        let mut counts: HashMap<String, u64> = HashMap::new();
        for message in messages {
            *counts.entry(message.subject.into_string()).or_default() += 1;
        }
        for (subject, count) in counts {
            match inner.lane_of(&subject, "wake") {
                Some(lane) => inner.wakes.send(Wake { lane, count, all: false }),
                None => inner.misfits.add_woken(inner.names(), &subject),
            }
        }
    }
}

/// When the server stored what a wake tells of.
fn stored_at(wake: &Message) -> Option<Timestamp> {
    let stamp = wake.headers.as_ref()?.get(NATS_TIME_STAMP)?;
    stamp.as_str().parse().ok()
}

/// Hears of wakes that the connection dropped, also while what waits is being listed.
pub(super) async fn listen(inner: Arc<Inner>) {
    loop {
        inner.bus.slow().await;
        inner.wakes.lost.notify_one();
    }
}

/// Lists everything that waits whenever wakes may have been lost.
pub(super) async fn relist(inner: Arc<Inner>) {
    let mut link = inner.bus.link();
    let mut made = link.borrow_and_update().times;
    loop {
        tokio::select! {
            () = inner.wakes.lost.notified() => {}
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *link.borrow_and_update();
                if !now.up || now.times == made {
                    continue;
                }
                made = now.times;
            }
        }
        while list(&inner).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        tokio::time::sleep(RELIST_PAUSE).await;
    }
}

async fn list(inner: &Inner) -> Result<(), QueueError> {
    let mut from = None;
    loop {
        let page = inner.lanes(from).await?;
        tell(inner, page.lanes).await;
        from = page.next;
        if from.is_none() {
            return Ok(());
        }
    }
}

/// Tells of all that waits in some partitions.
async fn list_parts(inner: &Inner, parts: Parts) -> Result<(), QueueError> {
    stream::iter(parts.iter())
        .map(|part| async move {
            let mut offset = Some(0);
            while let Some(from) = offset {
                let (lanes, next) = inner.lanes_of(part, from).await?;
                tell(inner, lanes).await;
                offset = next;
            }
            Ok(())
        })
        .buffer_unordered(LISTED_AT_ONCE)
        .try_for_each(async |()| Ok(()))
        .await
}

async fn tell(inner: &Inner, lanes: Vec<LaneCount>) {
    for count in lanes {
        let wake = Wake { lane: count.lane, count: count.waiting, all: true };
        // Waits for its reader, who may be replaced meanwhile: then the new one has listed by itself.
        let Some(sender) = inner.wakes.sender() else { return };
        let _read = sender.send(wake).await;
    }
}
