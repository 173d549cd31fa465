//! Platforms that a provider has shut for everybody, for all shards of a node.
//!
//! In memory only: the account that was refused has the hold in its own record too, and after a restart the
//! others learn of it by a refusal of their own. Bounded by the platforms of the configuration.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tollgate_gate::{At, Span};

use crate::ids::{AccountKey, Slug};

/// After a platform's hold its accounts come back over a tenth of its length, at most over this.
const SPREAD_MAX: Span = Span::from_secs(2);

/// What is shut. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Shuts(Arc<Mutex<HashMap<Slug, Shut>>>);

#[derive(Debug, Clone)]
struct Shut {
    until: At,
    spread: Span,
    reason: Arc<str>,
}

impl Shuts {
    /// Shuts a platform until then, unless it is shut for longer.
    pub(crate) fn set(&self, platform: &Slug, now: At, until: At, reason: &str) {
        let mut shuts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shuts.get(platform).is_some_and(|shut| shut.until >= until) {
            return;
        }
        let spread = Span(until.since(now).0 / 10).min(SPREAD_MAX);
        shuts.insert(platform.clone(), Shut { until, spread, reason: reason.into() });
    }

    /// Until when an account of a shut platform waits, and why. Each has its own moment behind the end, always
    /// the same for one account, so that they do not all come at once.
    pub(crate) fn of(&self, account: &AccountKey, now: At) -> Option<(At, Arc<str>)> {
        let mut shuts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shut = shuts.get(&account.platform)?;
        if shut.until.plus(shut.spread) <= now {
            shuts.remove(&account.platform);
            return None;
        }
        let until = shut.until.plus(place_in(account.account.as_str(), shut.spread));
        (until > now).then(|| (until, Arc::clone(&shut.reason)))
    }
}

/// A place within a stretch by a name: FNV-1a.
fn place_in(name: &str, stretch: Span) -> Span {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    Span((hash >> 16) % (stretch.0 + 1))
}
