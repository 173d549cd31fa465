//! What an attempt that is over says of its call's cost, where only that tells.

use tollgate_gate::Sent;

use crate::collector::{Again, Outcome};
use crate::costs::Counts;
use crate::shard::permit::BodyRead;

/// What came of a call, as far as it counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    /// How many bytes the answer had.
    bytes: Bytes,
    /// Whether a provider that counts its errors counts this one. Without an answer it may have.
    is_error: bool,
}

#[derive(Debug, Clone, Copy)]
enum Bytes {
    /// So many.
    All(u64),
    /// So many came of it, and it may have had more: what was guessed stays, if that is more.
    AtLeast(u64),
}

impl Came {
    /// `sent`: whether the call was, if that is known. `body`: what came of its answer's body, on the wire.
    pub(crate) fn of(outcome: &Outcome, sent: Option<Sent>, body: BodyRead) -> Self {
        if sent == Some(Sent::Never) {
            return Self { bytes: Bytes::All(0), is_error: false };
        }
        let came = if body.is_all { Bytes::All(body.bytes) } else { Bytes::AtLeast(body.bytes) };
        match outcome {
            Outcome::Done { bytes, .. } | Outcome::More { bytes, .. } => {
                Self { bytes: Bytes::All(*bytes), is_error: false }
            }
            Outcome::Again { kind: Again::Throttled, last, .. } if last.status.is_none() => {
                Self { bytes: came, is_error: false }
            }
            Outcome::Again { last, .. }
            | Outcome::Dead { last, .. }
            | Outcome::Split { last, .. } => {
                let is_error = last.status.is_none_or(|status| status >= 500);
                Self { bytes: came, is_error }
            }
        }
    }

    /// As another node is told it: bytes, whether there were no more, whether it was an error.
    pub(crate) fn parts(self) -> (u64, bool, bool) {
        match self.bytes {
            Bytes::All(bytes) => (bytes, true, self.is_error),
            Bytes::AtLeast(bytes) => (bytes, false, self.is_error),
        }
    }

    /// What was told so.
    pub(crate) fn of_parts(bytes: u64, is_all: bool, is_error: bool) -> Self {
        let bytes = if is_all { Bytes::All(bytes) } else { Bytes::AtLeast(bytes) };
        Self { bytes, is_error }
    }

    /// What the call cost by a limit that counts so, and by which it was guessed to cost `guess`; nothing: as was known
    /// before.
    pub(crate) fn units(self, counts: Counts, guess: u32) -> Option<u32> {
        let bounded = |units: u64| u32::try_from(units).unwrap_or(u32::MAX);
        match (counts, self.bytes) {
            (Counts::Units, _) => None,
            (Counts::Bytes { unit }, Bytes::All(bytes)) => Some(bounded(bytes.div_ceil(unit))),
            (Counts::Bytes { unit }, Bytes::AtLeast(bytes)) => {
                Some(bounded(bytes.div_ceil(unit))).filter(|units| *units > guess)
            }
            (Counts::Errors, _) => Some(u32::from(self.is_error)),
        }
    }
}
