//! Telling of work: the server repeats the subject of each message it stores, without its payload.
//!
//! Such a wake may be lost: on a connection that breaks, in a subscription that overflows, in a channel that
//! is full. Each of these is noticed, and everything that waits is listed anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

use super::wire::{away, within};
use super::{AGAIN, Inner, QueueError, lock};
use crate::queue::{WAKES_MAX, Wake};

/// Wakes taken from the subscription at once: those of one lane become one.
const WAKES_AT_ONCE: usize = 1024;
/// Least time between two listings, however many wakes are lost.
const RELIST_PAUSE: Duration = Duration::from_secs(1);

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

pub(super) async fn subscribe(inner: &Inner) -> Result<Subscriber, QueueError> {
    let subject = inner.names().subject("wake.>");
    let subscribing = async {
        let heard = inner.bus.client().subscribe(subject.clone()).await;
        let heard = heard.map_err(|error| away("subscribe to", &subject, &error))?;
        // The server knows of it before anything that is asked of it from now on.
        inner.bus.client().flush().await.map_err(|error| away("reach", "the server", &error))?;
        Ok(heard)
    };
    within(subscribing).await
}

/// Passes wakes on for as long as the connection is kept up.
pub(super) async fn pump(inner: Arc<Inner>, heard: Subscriber) {
    let mut heard = heard.ready_chunks(WAKES_AT_ONCE);
    while let Some(messages) = heard.next().await {
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
        for count in page.lanes {
            let wake = Wake { lane: count.lane, count: count.waiting, all: true };
            // Waits for its reader, who may be replaced meanwhile: then the new one has listed by itself.
            let Some(sender) = inner.wakes.sender() else { return Ok(()) };
            let _read = sender.send(wake).await;
        }
        from = page.next;
        if from.is_none() {
            return Ok(());
        }
    }
}
