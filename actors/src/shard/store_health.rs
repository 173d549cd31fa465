//! Whether the store takes bodies, as all shards of a node know it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use crate::health::{self, Health};
use crate::telemetry;

/// Whether the store takes bodies; shared by the node.
#[derive(Debug, Default)]
pub struct StoreHealth {
    away: AtomicBool,
    /// Why, when it was last away.
    why: Mutex<String>,
    /// Wakes the prober.
    pub(crate) failed: Notify,
    /// Who else is told.
    health: OnceLock<Arc<Health>>,
}

impl StoreHealth {
    /// Whether the last attempt to store failed.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Why it takes none, if it does not.
    pub(crate) fn why(&self) -> Option<String> {
        let why = || self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.is_away().then(why)
    }

    pub(crate) fn away(&self, reason: &str) {
        if !self.away.swap(true, Ordering::AcqRel) {
            reason.clone_into(&mut self.why.lock().unwrap_or_else(PoisonError::into_inner));
            telemetry::store_away(reason);
            if let Some(health) = self.health.get() {
                health.set(health::STORE, &format!("the object store takes no bodies: {reason}"));
            }
        }
    }

    /// Tells `health` from now on. A second one is not told.
    pub(crate) fn report_to(&self, health: &Arc<Health>) {
        if self.health.set(Arc::clone(health)).is_ok() && self.is_away() {
            health.set(health::STORE, "the object store takes no bodies");
        }
    }

    pub(crate) fn back(&self) {
        self.away.store(false, Ordering::Release);
        if let Some(health) = self.health.get() {
            health.clear(health::STORE);
        }
    }
}
