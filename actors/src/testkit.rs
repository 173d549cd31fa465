//! Faults on purpose, for tests of supervision: which account's throttle actor, and which fetch's
//! collector, panics, and how often. Only in builds with the feature `testkit`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Panics to come.
#[derive(Debug, Default)]
pub struct Faults {
    /// The throttle actor of this account panics when it looks at its lanes …
    pub throttle_account: String,
    /// … this many times more.
    pub throttle_panics: AtomicU32,
    /// The collector of a fetch whose id starts so panics …
    pub collector_id: String,
    /// … this many times more.
    pub collector_panics: AtomicU32,
}

static FAULTS: Mutex<Option<Arc<Faults>>> = Mutex::new(None);

/// Puts faults in force for the whole process.
pub fn set_faults(faults: Option<Arc<Faults>>) {
    *FAULTS.lock().unwrap_or_else(PoisonError::into_inner) = faults;
}

pub(crate) fn faults() -> Option<Arc<Faults>> {
    FAULTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Faults {
    pub(crate) fn throttle(&self, account: &str) {
        let due = self.throttle_account == account && take(&self.throttle_panics);
        assert!(!due, "a throttle actor panics on purpose");
    }

    pub(crate) fn collector(&self, id: &str) {
        let due = !self.collector_id.is_empty()
            && id.starts_with(&self.collector_id)
            && take(&self.collector_panics);
        assert!(!due, "a collector panics on purpose");
    }
}

fn take(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok()
}
