//! How many bytes of bodies may be on their way at once, over the whole node.
//!
//! The bound is cut into two pools of whole shares, each first come, first served:
//!
//! - a *small share* covers a body from its first byte until it is stored or outgrows
//!   [`INLINE_BYTES_MAX`]; of one that is whole and waits for the store, only what it still holds
//!   stays counted;
//! - a *streaming share* covers a larger one: the part being filled, the part being put, the
//!   codecs.
//!
//! # Why no body waits for ever
//!
//! A body asks for at most one share of each pool, always the small one first. A body that holds a
//! streaming share never asks for anything again, so it ends by its own means: its provider, the
//! disk and the caller's timeouts. Therefore every streaming share comes back, and since the pool
//! is a queue, every body that waits for one gets it in turn; then it gives its small share back,
//! and every body that waits for a small one gets it in turn. With one pool for both kinds this
//! would not hold: small shares kept by bodies that wait to grow could use up what a streaming
//! share needs.
//!
//! A body keeps its small share while it waits to grow, so what it has read stays counted. It takes
//! no part-filled streaming share: a share is given whole or not at all.
//!
//! [`INLINE_BYTES_MAX`]: super::INLINE_BYTES_MAX

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::OpenError;

/// What a body may hold before it streams, in bytes: what was read so far and the piece that makes
/// it outgrow, or what is being put.
pub(super) const SMALL_SHARE_BYTES: u64 = 64 * 1024;

/// The small pool is one part in this many of the whole. At the defaults (256 MiB, 1,024 attempts)
/// that is a share for each attempt, so a small answer never waits for large ones.
const SMALL_POOL_PARTS: u64 = 4;

/// Small shares are counted in units of so many bytes: a whole body keeps as many as it needs.
const UNIT_BYTES: u64 = 1024;
const SMALL_SHARE_UNITS: u32 = (SMALL_SHARE_BYTES / UNIT_BYTES) as u32;
/// What a whole small body needs beside its bytes until it is stored: its key, its manifest, a request.
const LANDING_BYTES: u64 = 3 * 1024;

/// The node's bound on bytes of bodies, shared by all shards.
#[derive(Debug)]
pub(super) struct Budget {
    small: Arc<Semaphore>,
    small_units: u64,
    stream: Arc<Semaphore>,
    stream_shares: u64,
    stream_share_bytes: u64,
}

/// Leave to hold bytes of one body; its drop gives them back.
#[derive(Debug)]
pub(super) struct Share {
    permit: OwnedSemaphorePermit,
}

impl Share {
    /// Of a small share: gives back what a body of so many bytes, all of which are there, does not need
    /// until it is stored.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let units = (bytes as u64 + LANDING_BYTES).div_ceil(UNIT_BYTES);
        let spare = (self.permit.num_permits() as u64).saturating_sub(units);
        drop(self.permit.split(usize::try_from(spare).unwrap_or(0)));
    }
}

impl Budget {
    /// A budget of `bytes_max`, cut for streams of `stream_share_bytes` each.
    ///
    /// # Errors
    /// [`OpenError::Budget`] when not even one body could stream.
    pub(super) fn new(bytes_max: u64, stream_share_bytes: u64) -> Result<Self, OpenError> {
        let least = stream_share_bytes + SMALL_SHARE_BYTES;
        if bytes_max < least {
            return Err(OpenError::Budget { given: bytes_max, least });
        }
        let small_bytes = (bytes_max / SMALL_POOL_PARTS).min(bytes_max - stream_share_bytes);
        let small_units = pool(small_bytes / UNIT_BYTES).max(u64::from(SMALL_SHARE_UNITS));
        let left = bytes_max - small_units * UNIT_BYTES;
        let stream_shares = pool(left / stream_share_bytes);
        Ok(Self {
            small: Arc::new(Semaphore::new(small_units as usize)),
            small_units,
            stream: Arc::new(Semaphore::new(stream_shares as usize)),
            stream_shares,
            stream_share_bytes,
        })
    }

    /// Least bytes of a budget with so many streaming shares.
    pub(super) fn bytes_for(streams: u64, stream_share_bytes: u64) -> u64 {
        (streams * stream_share_bytes).div_ceil(SMALL_POOL_PARTS - 1) * SMALL_POOL_PARTS
    }

    /// How many bodies stream side by side.
    pub(super) fn streams(&self) -> u64 {
        self.stream_shares
    }

    /// Waits for a small share. Dropping the future leaves the queue.
    pub(super) async fn small(&self) -> Share {
        take(&self.small, SMALL_SHARE_UNITS).await
    }

    /// Waits for a streaming share and then gives the small one back. Dropping the future leaves
    /// the queue and gives the small share back.
    pub(super) async fn grow(&self, small: Share) -> Share {
        let share = take(&self.stream, 1).await;
        drop(small);
        share
    }

    /// Bytes of the shares given out now.
    pub(super) fn taken_bytes(&self) -> u64 {
        let small = self.small_units - self.small.available_permits() as u64;
        let stream = self.stream_shares - self.stream.available_permits() as u64;
        small * UNIT_BYTES + stream * self.stream_share_bytes
    }
}

/// At least one share, and no more than a semaphore counts.
fn pool(shares: u64) -> u64 {
    shares.clamp(1, Semaphore::MAX_PERMITS as u64)
}

async fn take(pool: &Arc<Semaphore>, permits: u32) -> Share {
    let permit = Arc::clone(pool).acquire_many_owned(permits).await;
    Share { permit: permit.expect("nobody closes the budget") }
}
