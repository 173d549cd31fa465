//! Holds: a gate shut until a time for a reason outside the limits (429, Retry-After, an operator).

use crate::limit::ApiIx;
use crate::time::At;

/// Most holds at a time.
pub const HOLDS_MAX: usize = 64;
/// Longest reason in bytes; a longer one is cut.
pub const REASON_BYTES_MAX: usize = 200;

/// Which calls a hold stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldScope {
    /// All of the account.
    Account,
    /// Those of one api.
    Api(ApiIx),
}

impl HoldScope {
    /// Whether calls of that api are stopped.
    pub fn stops(self, api: ApiIx) -> bool {
        match self {
            Self::Account => true,
            Self::Api(own) => own == api,
        }
    }

    /// The api it is about, if only one.
    pub(crate) fn api(self) -> Option<ApiIx> {
        match self {
            Self::Account => None,
            Self::Api(api) => Some(api),
        }
    }
}

/// A gate shut until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Which calls wait.
    pub scope: HoldScope,
    /// The first moment at which they need not; [`At::MAX`]: until it is cleared.
    pub until: At,
    /// Why, for people; up to 200 bytes.
    pub reason: String,
}

/// The holds of an account, at most 64.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holds {
    holds: Vec<Hold>,
}

impl Holds {
    /// None.
    pub const fn new() -> Self {
        Self { holds: Vec::new() }
    }

    /// Adds a hold. Where one of the same scope and reason is there, the later end of the two counts.
    ///
    /// With 64 holds there already, the new one is joined with the one that ends first: what both stop
    /// is stopped until the later end. That may stop too much for a while, never too little.
    ///
    /// ```
    /// use tollgate_gate::{At, Hold, HoldScope, Holds};
    /// let mut holds = Holds::new();
    /// let hold = |until| Hold { scope: HoldScope::Api(3), until, reason: "429".into() };
    /// holds.set(hold(At(9)));
    /// holds.set(hold(At(5)));
    /// assert_eq!(holds.as_slice(), [hold(At(9))]);
    /// ```
    pub fn set(&mut self, mut hold: Hold) {
        while hold.reason.len() > REASON_BYTES_MAX {
            hold.reason.pop();
        }
        let same = |old: &&mut Hold| old.scope == hold.scope && old.reason == hold.reason;
        if let Some(old) = self.holds.iter_mut().find(same) {
            old.until = old.until.max(hold.until);
            return;
        }
        if self.holds.len() < HOLDS_MAX {
            self.holds.push(hold);
            return;
        }
        let first = (0..self.holds.len()).min_by_key(|&i| self.holds[i].until);
        let first = self.holds.remove(first.expect("it is full"));
        if first.scope != hold.scope {
            hold.scope = HoldScope::Account;
        }
        hold.until = hold.until.max(first.until);
        self.set(hold); // there is room now, so this is the last round
    }

    /// Removes the holds for which `which` says true, and returns how many they were.
    pub fn clear(&mut self, which: impl Fn(&Hold) -> bool) -> usize {
        let before = self.holds.len();
        self.holds.retain(|hold| !which(hold));
        before - self.holds.len()
    }

    /// Removes the holds that are over.
    pub fn prune(&mut self, now: At) {
        self.clear(|hold| hold.until <= now);
    }

    /// All holds, those that are over too until they are pruned.
    pub fn as_slice(&self) -> &[Hold] {
        &self.holds
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }
}
