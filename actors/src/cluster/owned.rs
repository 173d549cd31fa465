//! What this node owns, for everybody in it who has to know: two words to look at, on any thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::parts::{Parts, part_of};
use crate::ids::AccountKey;
use crate::nats::PARTITIONS;
use crate::nats::session::SessionId;
use crate::state::clock;

/// What this node owns. Cheap to clone; every clone is the same. The default is a node without a cluster: it owns
/// everything, for good.
#[derive(Clone, Default)]
pub struct Owned(Option<Arc<Inner>>);

struct Inner {
    /// Where permits may be given, while the lease holds.
    open: AtomicU64,
    /// Given out of hand: no further permits, last records are still written.
    closing: AtomicU64,
    /// Given out of hand, or lost, at some time.
    left: AtomicU64,
    /// Given out of hand, or lost, since [`Owned::reopened`] told of it.
    shut: AtomicU64,
    /// Not known to be another's: open, closing, and what has to be looked at after the lease had lapsed.
    ours: watch::Sender<Parts>,
    /// The lease holds until here: in microseconds since `start`, and by the clock that counts the machine's
    /// sleep too. Whichever comes first.
    until: AtomicU64,
    until_boot_ns: AtomicU64,
    start: Instant,
    /// The lease has come back after a lapse: nothing is open until somebody looked at the claims.
    lapsed: Notify,
    /// Who owns what, as far as it is seen.
    owners: watch::Sender<Owners>,
}

/// Who owns which partition, as this node last saw it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owners {
    /// By partition; nothing: nobody.
    pub(crate) of: [Option<SessionId>; PARTITIONS as usize],
    /// No other node takes partitions.
    pub(crate) is_alone: bool,
}

impl Default for Owners {
    fn default() -> Self {
        Self { of: [None; PARTITIONS as usize], is_alone: true }
    }
}

impl fmt::Debug for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owned").field(&self.ours()).finish()
    }
}

impl Owned {
    /// A node of a cluster, before it has claimed anything.
    pub fn nothing() -> Self {
        Self(Some(Arc::new(Inner {
            open: AtomicU64::new(0),
            closing: AtomicU64::new(0),
            left: AtomicU64::new(0),
            shut: AtomicU64::new(0),
            ours: watch::Sender::new(Parts::NONE),
            until: AtomicU64::new(0),
            until_boot_ns: AtomicU64::new(0),
            start: Instant::now(),
            lapsed: Notify::new(),
            owners: watch::Sender::new(Owners::default()),
        })))
    }

    /// Follows who owns what; nothing without a cluster.
    pub(crate) fn owners(&self) -> Option<watch::Receiver<Owners>> {
        self.0.as_ref().map(|inner| inner.owners.subscribe())
    }

    /// Whether nobody else takes what this node gives out of hand.
    pub(crate) fn is_alone(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.owners.borrow().is_alone)
    }

    /// This is seen of the claims.
    pub(crate) fn see(&self, owners: &Owners) {
        if let Some(inner) = &self.0 {
            inner.owners.send_if_modified(|known| std::mem::replace(known, *owners) != *owners);
        }
    }

    /// Whether this is a node of a cluster.
    pub fn is_shared(&self) -> bool {
        self.0.is_some()
    }

    /// Whether permits may be given for an account, or for a budget by its record's name.
    pub fn has(&self, key: &AccountKey) -> bool {
        self.is_open(part_of(key))
    }

    /// Whether permits may be given in a partition: it is claimed, and the lease holds at this moment.
    pub fn is_open(&self, part: u32) -> bool {
        self.0.as_ref().is_none_or(|inner| {
            Parts(inner.open.load(Ordering::Acquire)).has(part) && inner.holds()
        })
    }

    /// Whether records of a partition may be read and stored: reading one that another wrote takes it over.
    pub fn may_write(&self, part: u32) -> bool {
        self.certain().has(part)
    }

    /// Those that are claimed for certain at this moment, those that are given out of hand too.
    pub(crate) fn certain(&self) -> Parts {
        self.0.as_ref().map_or(Parts::ALL, |inner| {
            let parts = inner.open.load(Ordering::Acquire) | inner.closing.load(Ordering::Acquire);
            if inner.holds() { Parts(parts) } else { Parts::NONE }
        })
    }

    /// Whether a partition is not known to be another's.
    pub fn is_ours(&self, part: u32) -> bool {
        self.ours().has(part)
    }

    /// Whether a partition is another's, or is given out of hand: its accounts end here.
    pub fn is_leaving(&self, part: u32) -> bool {
        self.0.as_ref().is_some_and(|inner| {
            !inner.ours.borrow().has(part) || Parts(inner.closing.load(Ordering::Acquire)).has(part)
        })
    }

    /// Whether a partition was given out of hand at some time: what is not remembered of an account there may stand in
    /// a record of this node's that a copy of the ledger does not have yet.
    pub fn was_left(&self, part: u32) -> bool {
        let left = |inner: &Arc<Inner>| Parts(inner.left.load(Ordering::Acquire)).has(part);
        self.0.as_ref().is_some_and(left)
    }

    /// All that are not known to be another's.
    pub fn ours(&self) -> Parts {
        self.0.as_ref().map_or(Parts::ALL, |inner| *inner.ours.borrow())
    }

    /// Those in which permits may be given as long as the lease holds.
    pub fn open(&self) -> Parts {
        let open = |inner: &Arc<Inner>| Parts(inner.open.load(Ordering::Acquire));
        self.0.as_ref().map_or(Parts::ALL, open)
    }

    /// Those that are given out of hand.
    pub(crate) fn closing(&self) -> Parts {
        let closing = |inner: &Arc<Inner>| Parts(inner.closing.load(Ordering::Acquire));
        self.0.as_ref().map_or(Parts::NONE, closing)
    }

    /// Has the claims looked at once more.
    pub(crate) fn look_again(&self) {
        if let Some(inner) = &self.0 {
            inner.lapsed.notify_one();
        }
    }

    /// Those that are open and were not, at some time since this was asked last: what of their accounts rested here
    /// is forgotten. One asks.
    pub(crate) fn reopened(&self) -> Parts {
        let Some(inner) = &self.0 else { return Parts::NONE };
        let open = inner.open.load(Ordering::Acquire);
        Parts(inner.shut.fetch_and(!open, Ordering::AcqRel) & open)
    }

    /// Follows [`Owned::ours`]; told of each gain, also of what was never lost. Nothing without a cluster.
    pub fn follow(&self) -> Option<watch::Receiver<Parts>> {
        self.0.as_ref().map(|inner| inner.ours.subscribe())
    }

    /// The lease was asked for at `asked` and confirmed: it holds for `lives` from then on. If it had lapsed, nothing
    /// is open any more: what became of the claims meanwhile has to be looked at.
    pub(crate) fn renewed(&self, asked: Asked, lives: Duration) {
        let Some(inner) = &self.0 else { return };
        let had_lapsed = !inner.holds();
        if had_lapsed {
            inner.open.store(0, Ordering::Release);
        }
        let (until, until_boot_ns) = (asked.at + lives, asked.boot_ns + ns(lives));
        inner.until.store(us(until.saturating_duration_since(inner.start)), Ordering::Release);
        inner.until_boot_ns.store(until_boot_ns, Ordering::Release);
        if had_lapsed {
            inner.lapsed.notify_one();
        }
    }

    /// Waits until the lease has come back after a lapse.
    pub(crate) async fn lapsed(&self) {
        match &self.0 {
            Some(inner) => inner.lapsed.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Whether the lease holds at this moment.
    pub(crate) fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.holds())
    }

    /// These are claimed: permits may be given.
    pub(crate) fn gain(&self, parts: Parts) {
        let Some(inner) = &self.0 else { return };
        inner.closing.fetch_and(!parts.0, Ordering::AcqRel);
        inner.open.fetch_or(parts.0, Ordering::AcqRel);
        // What was given out of hand, and stays, was ours all the time.
        inner.ours.send_modify(|ours| *ours |= parts);
    }

    /// No further permits in these; their last records are written.
    pub(crate) fn close(&self, parts: Parts) {
        let Some(inner) = &self.0 else { return };
        inner.left.fetch_or(parts.0, Ordering::AcqRel);
        inner.shut.fetch_or(parts.0, Ordering::AcqRel);
        inner.closing.fetch_or((parts & self.ours()).0, Ordering::AcqRel);
        inner.open.fetch_and(!parts.0, Ordering::AcqRel);
    }

    /// These are not this node's any more.
    pub(crate) fn lose(&self, parts: Parts) {
        let Some(inner) = &self.0 else { return };
        inner.left.fetch_or(parts.0, Ordering::AcqRel);
        inner.shut.fetch_or(parts.0, Ordering::AcqRel);
        inner.open.fetch_and(!parts.0, Ordering::AcqRel);
        inner.closing.fetch_and(!parts.0, Ordering::AcqRel);
        inner.ours.send_if_modified(|ours| {
            let before = *ours;
            *ours -= parts;
            *ours != before
        });
    }
}

impl Inner {
    fn holds(&self) -> bool {
        us(self.start.elapsed()) < self.until.load(Ordering::Acquire)
            && clock::boot_ns() < self.until_boot_ns.load(Ordering::Acquire)
    }
}

/// When a lease was asked for, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    boot_ns: u64,
}

impl Asked {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), boot_ns: clock::boot_ns() }
    }

    /// How long ago: the longer by both clocks.
    pub(crate) fn elapsed(self) -> Duration {
        let boot_ns = clock::boot_ns().saturating_sub(self.boot_ns);
        self.at.elapsed().max(Duration::from_nanos(boot_ns))
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVES: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn nothing_is_open_beyond_the_lease_nor_after_a_lapse_before_it_was_looked_at() {
        let owned = Owned::nothing();
        owned.gain(Parts::one(5));
        assert!(!owned.is_open(5) && owned.is_ours(5), "no lease yet");
        let asked = Asked::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        owned.renewed(asked, LIVES);
        owned.lapsed().await;
        assert!(!owned.is_open(5), "the first lease comes after a lapse");
        owned.gain(Parts::one(5));
        assert!(owned.is_open(5) && owned.may_write(5) && !owned.is_open(6));
        // Counted from the asking, not from the answer.
        tokio::time::advance(Duration::from_millis(1999)).await;
        assert!(owned.is_open(5));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!owned.is_open(5) && !owned.may_write(5) && owned.is_ours(5));
        owned.renewed(Asked::now(), LIVES);
        assert!(!owned.is_open(5), "somebody may have taken it meanwhile");
        owned.lapsed().await;
        owned.gain(Parts::one(5));
        tokio::time::advance(Duration::from_secs(1)).await;
        owned.renewed(Asked::now(), LIVES);
        assert!(owned.is_open(5), "renewed in time");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_out_of_hand_takes_last_records_and_no_permits() {
        let owned = Owned::nothing();
        owned.renewed(Asked::now(), LIVES);
        owned.gain(Parts::ALL);
        owned.close(Parts::one(1));
        assert!(!owned.is_open(1) && owned.may_write(1) && owned.is_leaving(1));
        assert!(owned.is_open(2) && !owned.is_leaving(2));
        assert!(owned.was_left(1) && !owned.was_left(2));
        owned.lose(Parts::one(1));
        owned.lose(Parts::one(3));
        owned.gain(Parts::one(3));
        assert!(owned.was_left(3), "what was forgotten there stays forgotten");
        assert!(!owned.may_write(1) && owned.is_leaving(1) && !owned.is_ours(1));
        assert_eq!(owned.ours(), Parts::ALL - Parts::one(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_out_of_hand_and_is_kept_is_told_of_like_what_is_gained() {
        let owned = Owned::nothing();
        let mut follow = owned.follow().unwrap();
        owned.gain(Parts::ALL);
        assert_eq!(owned.reopened(), Parts::NONE);
        follow.mark_unchanged();
        owned.close(Parts::one(1));
        assert_eq!(owned.reopened(), Parts::NONE, "not yet");
        owned.gain(Parts::one(1));
        assert!(follow.has_changed().unwrap());
        // Lost and gained before anybody looked.
        owned.lose(Parts::one(2));
        owned.gain(Parts::one(2));
        assert_eq!(owned.reopened(), Parts::one(1) | Parts::one(2));
        assert_eq!(owned.reopened(), Parts::NONE, "told once");
    }

    #[test]
    fn a_node_without_a_cluster_owns_everything() {
        let owned = Owned::default();
        assert!(owned.is_open(0) && owned.may_write(63) && !owned.is_leaving(7));
        assert!(owned.follow().is_none() && owned.ours() == Parts::ALL);
    }
}
