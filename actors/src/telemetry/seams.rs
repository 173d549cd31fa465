//! What is told of what lies outside: ledger, queue, store, NATS, credentials.

use std::time::Duration;

use tollgate_gate::Span;

use super::{PlatformMeters, metrics, ms};
use crate::codes::Code;
use crate::ids::AccountKey;
use crate::ledger::LedgerError;
use crate::queue::QueueError;

pub(crate) fn ledger_away(account: &AccountKey, error: &LedgerError) {
    let kind = match error {
        LedgerError::Conflict => "conflict",
        LedgerError::Unsure(_) => "unsure",
        LedgerError::Unavailable(_) => "away",
    };
    metrics::LEDGER_ERRORS.counter(&[account.platform.as_str(), kind]).increment(1);
    tracing::warn!(
        target: "tollgate::ledger",
        event = "ledger_away",
        platform = %account.platform,
        account = account.account.as_str(),
        code = %Code::LedgerUnavailable,
        reason = %error,
        "the ledger did not confirm, no permit is given without it"
    );
}

pub(crate) fn ledger_conflict(account: &AccountKey) {
    tracing::warn!(
        target: "tollgate::ledger",
        event = "ledger_conflict",
        platform = %account.platform,
        account = account.account.as_str(),
        "the account's record is not as this node left it, it is read again"
    );
}

pub(crate) fn permits_lapsed(meters: &PlatformMeters, account: &AccountKey, permits: usize) {
    meters.lapsed(permits);
    tracing::warn!(
        target: "tollgate::ledger",
        event = "permits_lapsed",
        platform = %account.platform,
        account = %account.account,
        permits,
        "the ledger confirmed too late, permits go back unused"
    );
}

pub(crate) fn ledger_unreadable(account: &AccountKey, reason: &str, shut: Span) {
    tracing::error!(
        target: "tollgate::ledger",
        event = "ledger_unreadable",
        platform = %account.platform,
        account = account.account.as_str(),
        code = %Code::LedgerUnreadable,
        reason,
        shut_ms = shut.0 / 1000,
        "the account's ledger cannot be read, it waits for its longest window"
    );
}

pub(crate) fn ledger_note(account: &AccountKey, note: &str) {
    tracing::warn!(
        target: "tollgate::ledger",
        event = "ledger_note",
        platform = %account.platform,
        account = account.account.as_str(),
        note,
        "the account's ledger and the configuration differ"
    );
}

pub(crate) fn queue_away(account: &AccountKey, error: &QueueError) {
    tracing::warn!(
        target: "tollgate::queue",
        event = "queue_away",
        platform = %account.platform,
        account = account.account.as_str(),
        code = %Code::QueueUnavailable,
        reason = %error,
        "the queue does not answer, trying again"
    );
}

/// Lines about objects that are not in the store yet.
pub(crate) fn lines_unsent(reason: &str) {
    tracing::warn!(
        target: "tollgate::store",
        event = "lines_unsent",
        reason,
        "lines about objects could not be written or put, and are put later"
    );
}

pub(crate) fn store_away(reason: &str) {
    metrics::STORE_AWAY.gauge(&[]).set(1);
    tracing::error!(
        target: "tollgate::store",
        event = "store_away",
        code = %Code::StoreUnavailable,
        reason,
        "the object store takes no bodies, no permits until it does"
    );
}

pub(crate) fn spool_refused(reason: &str) {
    tracing::warn!(
        target: "tollgate::store",
        event = "spool_refused",
        reason,
        "an answer finds no place to wait for the store that is away, its call is made again"
    );
}

pub(crate) fn leftovers_removed(count: u64) {
    tracing::info!(
        target: "tollgate::store",
        event = "leftovers_removed",
        count,
        "unfinished objects of killed processes were removed from the store"
    );
}

pub(crate) fn leftovers_unseen(reason: &str) {
    tracing::warn!(
        target: "tollgate::store",
        event = "leftovers_unseen",
        reason,
        "the store does not say which uploads killed processes left in it"
    );
}

pub(crate) fn fresh_unswept(reason: &str) {
    tracing::warn!(
        target: "tollgate::store",
        event = "fresh_unswept",
        reason,
        "notes of fresh objects whose time is over stay in the store"
    );
}

pub(crate) fn store_back(away: Duration) {
    store_well();
    tracing::info!(target: "tollgate::store", event = "store_back", away_ms = ms(away), "the object store takes bodies again");
}

/// The store is believed to take bodies.
pub(crate) fn store_well() {
    metrics::STORE_AWAY.gauge(&[]).set(0);
}

/// The embedded database takes nothing any more, until it is opened anew.
pub(crate) fn state_failed(reason: &str) {
    tracing::error!(
        target: "tollgate::queue",
        event = "state_failed",
        code = %Code::StateUnreadable,
        reason,
        "the state folder takes nothing any more"
    );
}

pub(crate) fn postponed_unreadable(reason: &str) {
    tracing::warn!(
        target: "tollgate::queue",
        event = "postponed_unreadable",
        reason,
        "postponed fetches cannot be read, trying again"
    );
}

/// Messages under subjects that are no lane could not be seen to yet.
pub(crate) fn misfits_wait(reason: &str) {
    tracing::warn!(
        target: "tollgate::queue",
        event = "misfits_wait",
        reason,
        "what was published under no good subject waits, trying again"
    );
}

/// Notes of a partition could not be looked at; told once until a look works again.
pub(crate) fn notes_unswept(partition: u32, reason: &str) {
    tracing::warn!(
        target: "tollgate::queue",
        event = "notes_unswept",
        partition,
        reason,
        "notes of fetches that are gone stay for now"
    );
}

/// Notes of fetches that are gone were removed.
pub(crate) fn notes_swept(partition: u32, count: usize) {
    tracing::debug!(
        target: "tollgate::queue",
        event = "notes_swept",
        partition,
        count,
        "notes of fetches that are gone removed"
    );
}

/// The connection to NATS stands, the first time or again.
pub(crate) fn nats_connected(times: u64, away: Duration) {
    metrics::NATS_CONNECTED.gauge(&[]).set(1);
    tracing::info!(target: "tollgate::nats", event = "nats_connected", times, away_ms = ms(away), "connected to NATS");
}

/// NATS is away: no permits until it is back.
pub(crate) fn nats_away(reason: &str) {
    metrics::NATS_CONNECTED.gauge(&[]).set(0);
    tracing::warn!(
        target: "tollgate::nats",
        event = "nats_away",
        code = %Code::NatsUnreachable,
        reason,
        "NATS is away, no permits until it is back"
    );
}

/// Messages came faster than they were taken, and some were dropped: what waits is looked for anew.
pub(crate) fn nats_slow() {
    tracing::warn!(target: "tollgate::nats", event = "nats_slow", "wakes were dropped, what waits is looked for anew");
}

/// This run of the node shows itself to the others.
pub(crate) fn session_started(session: &str) {
    tracing::info!(target: "tollgate::nats", event = "session_started", session, "session started");
}

/// The server is there and does not do what a start needs, as when it elects a leader; it is tried again.
pub fn start_waits(reason: &str) {
    tracing::warn!(
        target: "tollgate::node",
        event = "start_waits",
        code = %Code::NatsUnreachable,
        reason,
        "NATS does not do yet what a start needs, it is tried again"
    );
}

/// The session could not be renewed: no permits until it is. `missing`: the bucket is not there.
pub(crate) fn session_lost(since: Duration, missing: bool) {
    let code = if missing { Code::StreamMissing } else { Code::NatsUnreachable };
    tracing::warn!(
        target: "tollgate::nats",
        event = "session_lost",
        code = %code,
        since_ms = ms(since),
        "the session cannot be renewed, no permits until it is"
    );
}

/// It was renewed again.
pub(crate) fn session_back(away: Duration) {
    tracing::info!(target: "tollgate::nats", event = "session_back", away_ms = ms(away), "the session was renewed again");
}

/// A token is at hand: its server was asked (`called`), or a record had it.
pub(crate) fn token_had(credential: &str, called: bool, left: Duration) {
    tracing::info!(
        target: "tollgate::auth",
        event = "token_had",
        credential,
        called,
        left_ms = ms(left),
        "access token at hand"
    );
}

/// What signs calls cannot be had: the accounts of the credential wait.
pub(crate) fn token_unavailable(credential: &str, code: Code, reason: &str, wait: Duration) {
    tracing::warn!(
        target: "tollgate::auth",
        event = "token_unavailable",
        credential,
        code = %code,
        reason,
        retry_in_ms = ms(wait),
        "credential cannot be used, its accounts wait"
    );
}

/// A token was given out and is not stored yet: it is not used before.
pub(crate) fn token_not_kept(key: &str, reason: &str) {
    tracing::error!(
        target: "tollgate::auth",
        event = "token_not_kept",
        key,
        code = %Code::TokenNotKept,
        reason,
        "a new token cannot be stored, trying again"
    );
}

/// A secret was read, or is another one than before.
pub(crate) fn secret_read(credential: &str) {
    tracing::info!(target: "tollgate::auth", event = "secret_read", credential, "secret read");
}

/// A secret cannot be read again: what was read before is used.
pub(crate) fn secret_unreadable(credential: &str, reason: &str) {
    tracing::warn!(
        target: "tollgate::auth",
        event = "secret_unreadable",
        credential,
        code = %Code::SecretUnavailable,
        reason,
        "secret cannot be read again, the one before is used"
    );
}

/// The server refused something on the connection.
pub(crate) fn nats_refused(code: Code, reason: &str) {
    tracing::error!(target: "tollgate::nats", event = "nats_refused", %code, reason, "NATS refused");
}

/// Operators' holds came, went or changed.
pub(crate) fn holds_changed(changed: usize) {
    tracing::info!(target: "tollgate::account", event = "holds_changed", changed, "operators' holds changed");
}

/// A hold in the bucket that is none.
pub(crate) fn hold_unreadable(key: &str, reason: &str) {
    tracing::warn!(
        target: "tollgate::account",
        event = "hold_unreadable",
        key,
        reason,
        "a hold cannot be read, it holds nothing"
    );
}
