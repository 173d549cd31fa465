//! The network between nodes and the server of queue, ledger and leases.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::host::Life;

/// How messages fare, in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    /// Lost on their way there.
    pub(super) lost: u32,
    /// Done, and the confirmation lost.
    pub(super) unconfirmed: u32,
    /// Arrived twice.
    pub(super) twice: u32,
    /// Later than usual, up to some seconds: also after nobody waits for them any more.
    pub(super) late: u32,
}

/// When whoever asked hears that the connection broke.
const BROKEN_AFTER: Duration = Duration::from_millis(30);

/// The network. It goes by its own dice.
#[derive(Debug)]
pub(super) struct Net {
    dice: Mutex<(fastrand::Rng, Weather)>,
}

struct Way {
    there: Duration,
    back: Duration,
    is_lost: bool,
    is_unconfirmed: bool,
    again: Option<Duration>,
    /// The connection breaks with it: whoever asked hears so at once.
    breaks: bool,
}

impl Net {
    pub(super) fn new(random: fastrand::Rng) -> Arc<Self> {
        Arc::new(Self { dice: Mutex::new((random, Weather::default())) })
    }

    /// From now on messages fare so.
    pub(super) fn weather(&self, weather: Weather) {
        self.dice.lock().unwrap().1 = weather;
    }

    fn way(&self) -> Way {
        let (random, weather) = &mut *self.dice.lock().unwrap();
        let mut happens = |thousandths: u32| random.u32(0..1000) < thousandths;
        let (is_lost, is_unconfirmed) = (happens(weather.lost), happens(weather.unconfirmed));
        let (is_twice, is_late) = (happens(weather.twice), happens(weather.late));
        let mut within = |ms: u64| Duration::from_micros(random.u64(50..ms * 1000));
        let there = if is_late { within(7000) } else { within(6) };
        let again = is_twice.then(|| within(3000));
        let back = within(6);
        let breaks = (is_lost || is_unconfirmed) && random.bool();
        Way { there, back, is_lost, is_unconfirmed, again, breaks }
    }

    /// How far something is behind, up to so many milliseconds.
    pub(super) fn behind(&self, ms: u64) -> Duration {
        Duration::from_millis(self.dice.lock().unwrap().0.u64(0..=ms))
    }

    /// Has the server do something, and waits for its answer as long as told; nothing: there was none. What is asked
    /// for may be done all the same, now, later, or twice.
    pub(super) async fn ask<T, Done>(
        self: &Arc<Self>,
        life: &Arc<Life>,
        patience: Duration,
        work: impl Fn() -> Done + Send + 'static,
    ) -> Option<T>
    where
        T: Send + 'static,
        Done: Future<Output = T> + Send + 'static,
    {
        if !life.step() {
            return pending().await;
        }
        let way = self.way();
        let patience = if way.breaks { patience.min(BROKEN_AFTER) } else { patience };
        let (tell, told) = oneshot::channel();
        let whose = Arc::clone(life);
        let is_sent = !whose.is_cut_off();
        // The network and the server go on when the process does not.
        tokio::spawn(async move {
            sleep(way.there).await;
            if way.is_lost || !is_sent || whose.is_cut_off() {
                return;
            }
            let answer = work().await;
            if let Some(again) = way.again {
                tokio::spawn(async move {
                    sleep(again).await;
                    drop(work().await);
                });
            }
            sleep(way.back).await;
            if !way.is_unconfirmed && !whose.is_cut_off() {
                // Nobody waits any more.
                drop(tell.send(answer));
            }
        });
        let waiting = async {
            match told.await {
                Ok(answer) => answer,
                Err(_) => pending().await,
            }
        };
        let answer = timeout(patience, waiting).await.ok();
        if !life.step() {
            return pending().await;
        }
        answer
    }
}
