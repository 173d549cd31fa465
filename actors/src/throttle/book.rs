//! How a gate follows from its stored record: what throttle actors and budgets have in common.

use std::time::Duration;

use tollgate_gate::{At, LimitSet, Span};

use super::gate::Gate;
use crate::collector::USE_WITHIN;
use crate::ids::AccountKey;
use crate::ledger::Writer;
use crate::ledger::record::{KNOWN_MAX, Known, Record};
use crate::plan::Platform;
use crate::telemetry;

/// What may still come of another process's calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost {
    /// When the last of them was written at the latest.
    pub(crate) latest: At,
    /// Until when they take their slots.
    pub(crate) slots_until: At,
}

/// When calls that another process had in flight have arrived at the latest, and for how long they may go
/// on; nothing for this process's own, of which more is known. `since`: when its record was stored.
pub(crate) fn lost(platform: &Platform, writer: Writer, since: At, now: At) -> Option<Lost> {
    let latest = written_by(platform, since);
    match writer {
        Writer::Here => None,
        // Its process is gone and its sockets with it: what it wrote last left it before now.
        Writer::Dead => Some(Lost {
            latest: latest.min(now),
            slots_until: now.plus(Span::from(platform.lost_call)),
        }),
        Writer::Silent | Writer::Alive => Some(Lost {
            latest,
            slots_until: latest.max(now).plus(Span::from(platform.lost_call_alive)),
        }),
    }
}

/// So much before its places may be given to others a call is broken off.
const BEFORE_LOST: Duration = Duration::from_secs(5);

/// How long a call may go on without a word between its owner and whoever makes it, or of the owner's claim: its places
/// are kept for `lost_call` from then on, or from later on.
pub(crate) fn cut_off(lost_call: Duration) -> Duration {
    lost_call.saturating_sub(BEFORE_LOST).max(lost_call / 2)
}

/// When a call that was let go at `since` was written at the latest.
pub(crate) fn written_by(platform: &Platform, since: At) -> At {
    let connect = platform.apis.iter().map(|api| api.timeouts.connect).max();
    since.plus(Span::from(USE_WITHIN)).plus(Span::from(connect.unwrap_or_default()))
}

/// Reads a record. What cannot be read shuts the gate for its longest window.
pub(crate) fn decode(
    key: &AccountKey,
    gate: &mut Gate,
    limits: &LimitSet,
    bytes: &[u8],
    now: At,
) -> Option<Record> {
    match Record::decode(bytes) {
        Ok(record) => Some(record),
        Err(error) => {
            let until = gate.shut_for_longest_window(limits, now);
            telemetry::ledger_unreadable(key, &error.to_string(), until.since(now));
            None
        }
    }
}

/// Makes the gate what a record says that was stored at `since`, and whether exactly then. Calls of another process
/// that it names are lost.
pub(crate) fn load(
    key: &AccountKey,
    gate: &mut Gate,
    limits: &LimitSet,
    record: &Record,
    (since, is_exact, now): (At, bool, At),
    lost: Option<Lost>,
) {
    for note in gate.load(limits, &record.gate, (since, is_exact), now) {
        telemetry::ledger_note(key, &note);
    }
    if let Some(lost) = lost {
        gate.lose_all(limits, lost.latest, lost.slots_until);
    }
}

/// Makes the gate what another process's record and its own knowledge together say: the stricter counts.
/// `known`: the record speaks of every permit that was used here.
pub(crate) fn join(
    key: &AccountKey,
    gate: &mut Gate,
    limits: &LimitSet,
    record: &Record,
    (since, now): (At, At),
    lost: Option<Lost>,
    known: bool,
) {
    let mut theirs = Gate::default();
    load(key, &mut theirs, limits, record, (since, false, now), lost);
    theirs.join(gate, known);
    *gate = theirs;
}

/// Notes whose permits the gate knows of beside this process's own: the last writer first.
pub(crate) fn see(seen: &mut Vec<Known>, known: &[Known], own: u64) {
    for known in known.iter().rev().filter(|known| known.session != own) {
        let before = seen.iter().position(|seen| seen.session == known.session);
        let before = before.map_or(0, |place| seen.remove(place).permit);
        seen.insert(0, Known { permit: known.permit.max(before), ..*known });
    }
    seen.truncate(KNOWN_MAX - 1);
}

/// Whose permits a record of now speaks of: this process's own first.
pub(crate) fn known(own: Known, seen: &[Known]) -> Vec<Known> {
    std::iter::once(own).chain(seen.iter().copied()).take(KNOWN_MAX).collect()
}
