//! Telling whoever listens that work has come, without ever waiting for them.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::lanes::Lanes;
use super::rows;
use crate::ids::LaneKey;
use crate::queue::{WAKES_MAX, Wake};

/// Where wakes go; shared by the handles, which open it, and the thread, which sends.
#[derive(Debug, Clone, Default)]
pub(crate) struct WakeSlot(Arc<Mutex<Option<mpsc::Sender<Wake>>>>);

impl WakeSlot {
    /// A new receiver in place of the earlier one.
    pub(super) fn open(&self) -> mpsc::Receiver<Wake> {
        let (sender, receiver) = mpsc::channel(WAKES_MAX);
        *self.lock() = Some(sender);
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<Wake>>> {
        // Nothing that could panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes that are not sent yet.
///
/// Where the receiver is slow and its channel full, single wakes are not kept: a sweep over all lanes
/// that have work goes on whenever there is room. It wakes some lanes in vain, which is harmless, and
/// needs one cursor however many lanes there are.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    slot: WakeSlot,
    new: HashMap<LaneKey, u64>,
    sweep: Option<Sweep>,
}

#[derive(Debug)]
struct Sweep {
    /// Lanes up to this one were woken.
    cursor: Option<Box<str>>,
    /// A wake was lost behind the cursor's back: once more from the beginning.
    again: bool,
}

impl Wakes {
    pub(super) fn new(slot: WakeSlot) -> Self {
        Self { slot, ..Self::default() }
    }

    /// To be sent after the commit.
    pub(super) fn add(&mut self, lane: &LaneKey, count: u64) {
        match self.new.get_mut(lane) {
            Some(known) => *known += count,
            None => {
                self.new.insert(lane.clone(), count);
            }
        }
    }

    /// Whether there is a sweep that waits for room.
    pub(super) fn is_behind(&self) -> bool {
        self.sweep.is_some()
    }

    /// Sends what there is room for.
    pub(super) fn send(&mut self, lanes: &Lanes) {
        if self.new.is_empty() && self.sweep.is_none() {
            return;
        }
        let mut slot = self.slot.lock();
        let Some(sender) = &*slot else {
            // Nobody listens; who comes later asks for the lanes first.
            self.new.clear();
            self.sweep = None;
            return;
        };
        let mut open = true;
        for (lane, count) in self.new.drain() {
            match sender.try_send(Wake { lane, count, all: false }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    let sweep = self.sweep.get_or_insert(Sweep { cursor: None, again: false });
                    sweep.again |= sweep.cursor.is_some();
                }
                Err(TrySendError::Closed(_)) => open = false,
            }
        }
        if let Some(sweep) = self.sweep.take() {
            self.sweep = sweep.go_on(lanes, sender);
        }
        if !open || sender.is_closed() {
            *slot = None;
            self.sweep = None;
        }
    }
}

impl Sweep {
    /// Wakes lanes until the channel is full. None: all were woken.
    fn go_on(mut self, lanes: &Lanes, sender: &mpsc::Sender<Wake>) -> Option<Self> {
        let full =
            lanes.iter_behind(self.cursor.as_deref()).try_fold(None, |last, (lane, count)| {
                let Ok(key) = rows::lane(lane) else { return ControlFlow::Continue(last) };
                match sender.try_send(Wake { lane: key, count, all: true }) {
                    Ok(()) => ControlFlow::Continue(Some(lane)),
                    Err(_) => ControlFlow::Break(last),
                }
            });
        match full {
            ControlFlow::Break(last) => {
                if let Some(last) = last {
                    self.cursor = Some(last.into());
                }
                Some(self)
            }
            ControlFlow::Continue(_) if self.again => Some(Self { cursor: None, again: false }),
            ControlFlow::Continue(_) => None,
        }
    }
}
