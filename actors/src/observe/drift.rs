//! Whether a provider's answers contradict what was declared, persistently enough to tell somebody.
//!
//! Declared numbers rule in any case; this only says that they seem wrong. One refusal or one odd number is no
//! contradiction: others may use the same limit.

use std::collections::HashMap;

use tollgate_gate::{At, Span};

use super::Place;
use crate::ids::Slug;

/// How a provider contradicts the declared limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DriftKind {
    /// It refuses calls that the declared limits allow.
    Refused,
    /// It says that it allows fewer calls than was declared.
    Narrower,
    /// It says that it allows more.
    Wider,
    /// What it says is left falls faster than calls are made: they cost more there, or somebody else calls.
    Faster,
    /// It falls slower: calls cost less there.
    Slower,
}

impl DriftKind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Refused, Self::Narrower, Self::Wider, Self::Faster, Self::Slower];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Narrower => "narrower",
            Self::Wider => "wider",
            Self::Faster => "faster",
            Self::Slower => "slower",
        }
    }

    /// How often it must be seen within [`WITHIN`].
    fn times(self) -> u32 {
        match self {
            Self::Narrower | Self::Wider => 1,
            Self::Refused | Self::Faster | Self::Slower => 3,
        }
    }
}

/// What is seen within this time belongs together; nothing is told more often.
const WITHIN: Span = Span::from_secs(3600);
/// Own calls over which what is left is watched before it is judged.
const CALLS: u64 = 20;

/// What was seen of each platform and limit; bounded by the configuration.
#[derive(Debug, Default)]
pub(crate) struct Drift {
    marks: HashMap<(Slug, Option<Place>, DriftKind), Mark>,
}

#[derive(Debug)]
struct Mark {
    since: At,
    times: u32,
    told: Option<At>,
}

impl Drift {
    /// Notes a contradiction; true if it is to be told. `limit`: where one is named.
    pub(crate) fn note(
        &mut self,
        platform: &Slug,
        limit: Option<Place>,
        kind: DriftKind,
        now: At,
    ) -> bool {
        let new = || Mark { since: now, times: 0, told: None };
        let mark = self.marks.entry((platform.clone(), limit, kind)).or_insert_with(new);
        if now.since(mark.since) > WITHIN {
            (mark.since, mark.times) = (now, 0);
        }
        mark.times = mark.times.saturating_add(1);
        let rested = mark.told.is_none_or(|told| now.since(told) >= WITHIN);
        let tell = rested && mark.times >= kind.times();
        if tell {
            mark.told = Some(now);
        }
        tell
    }
}

/// How what is left falls, beside the calls that were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trend {
    Faster,
    Slower,
}

/// Watches one counter of one account over some calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pulse {
    left: u32,
    calls: u64,
    until: Option<At>,
}

impl Pulse {
    /// Begins to watch: so much is left after so many own calls.
    pub(crate) fn new(left: u32, calls: u64, until: Option<At>) -> Self {
        Self { left, calls, until }
    }

    /// The next answer. `in_flight` own calls may or may not be in it. A new window, and anything given back,
    /// begins anew.
    pub(crate) fn beat(
        &mut self,
        left: u32,
        calls: u64,
        until: Option<At>,
        in_flight: u64,
    ) -> Option<Trend> {
        let apart = |one: At, other: At| one.since(other).max(other.since(one));
        let same = match (self.until, until) {
            (Some(one), Some(other)) => apart(one, other) <= Span::from_secs(2),
            (None, None) => true,
            _ => false,
        };
        if !same || left > self.left {
            *self = Self::new(left, calls, until);
            return None;
        }
        let made = calls.saturating_sub(self.calls);
        if made < CALLS.max(4 * in_flight) {
            return None;
        }
        let fell = u64::from(self.left - left);
        *self = Self::new(left, calls, until);
        // Half as many again, or half as many, beyond what may be on its way.
        if fell > made + made / 2 + in_flight {
            Some(Trend::Faster)
        } else if fell + in_flight < made / 2 {
            Some(Trend::Slower)
        } else {
            None
        }
    }
}
