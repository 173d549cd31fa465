//! What an attempt that is over says of its call's cost, where only that tells.

use tollgate_gate::Sent;

use crate::collector::{Again, Outcome};
use crate::costs::Counts;

/// What came of a call, as far as it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    /// How many bytes the answer had, if that is known.
    bytes: Option<u64>,
    /// Whether a provider that counts its errors counts this one. Without an answer it may have.
    is_error: bool,
}

impl Came {
    /// `sent`: whether the call was, if that is known.
    pub(crate) fn of(outcome: &Outcome, sent: Option<Sent>) -> Self {
        if sent == Some(Sent::Never) {
            return Self { bytes: Some(0), is_error: false };
        }
        match outcome {
            Outcome::Done { bytes, .. } | Outcome::More { bytes, .. } => {
                Self { bytes: Some(*bytes), is_error: false }
            }
            Outcome::Again { kind: Again::Throttled, last, .. } if last.status.is_none() => {
                Self { bytes: None, is_error: false }
            }
            Outcome::Again { last, .. } | Outcome::Dead { last, .. } => {
                let is_error = last.status.is_none_or(|status| status >= 500);
                Self { bytes: None, is_error }
            }
        }
    }

    /// What the call cost by a limit that counts so; nothing: as was known before.
    pub(crate) fn units(self, counts: Counts) -> Option<u32> {
        let units = match counts {
            Counts::Units => return None,
            Counts::Bytes { unit } => self.bytes?.div_ceil(unit),
            Counts::Errors => u64::from(self.is_error),
        };
        Some(u32::try_from(units).unwrap_or(u32::MAX))
    }
}
