//! Faults on purpose, for tests of supervision; only in builds with the feature `testkit`.
//!
//! Two ways: [`set_faults`] for a whole process with shards on threads of their own, by account and by
//! fetch; [`on_points`] for a test that runs its shard on its own thread, at every fault point.

pub mod nats_server;

use std::cell::RefCell;
use std::rc::Rc;
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

type Hook = dyn Fn(&'static str, &str);

thread_local! {
    static HOOK: RefCell<Option<Rc<Hook>>> = const { RefCell::new(None) };
}

/// Takes the hook away when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it takes the hook away"]
pub struct Hooked(());

impl Drop for Hooked {
    fn drop(&mut self) {
        HOOK.with(|kept| kept.borrow_mut().take());
    }
}

/// Calls `hook` at every fault point that is passed on this thread, with the point's name and whom it is
/// about: an account or the id of a fetch. The hook may panic.
pub fn on_points(hook: impl Fn(&'static str, &str) + 'static) -> Hooked {
    HOOK.with(|kept| *kept.borrow_mut() = Some(Rc::new(hook)));
    Hooked(())
}

/// A fault point. Seams that a test wraps have their own.
pub fn point(name: &'static str, whose: &str) {
    let hook = HOOK.with(|kept| kept.borrow().clone());
    if let Some(hook) = hook {
        hook(name, whose);
    }
}
